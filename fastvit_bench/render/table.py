"""The column that every table of text is made of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Column:
    """A heading and what stands below it."""

    title: str
    cells: list[str]
    justify: Literal["left", "right"] = "left"
    wraps: bool = False  # prose, which a terminal may break between words
    styles: Sequence[str] = ()  # of the cells on a terminal, as rich names them; empty: plain
