"""Natural order of names, in which timm numbers class folders: "2" before "10", and capitals as small letters.

torchvision's ImageFolder and Keras number them in text order, with "10" before "2" and "B" before "a".
"""

import itertools
import re
from collections.abc import Collection


def sort(names: Collection[str]) -> list[str]:
    """Return names in natural order; those that it does not tell apart, such as "1" and "01", are in text order."""
    return sorted(sorted(names), key=_key)


def _key(name: str) -> list[int | str]:
    """Return the texts and numbers of a name in turns, as timm's `natural_key` (timm/utils/misc.py) compares them."""
    parts = re.split(r"(\d+)", name.lower())
    return [int(part) if at % 2 else part for at, part in enumerate(parts)]


def ties(names: Collection[str]) -> tuple[str, str] | None:
    """Return two names that natural order does not tell apart, if there are any."""
    ordered = sort(names)
    return next(((a, b) for a, b in itertools.pairwise(ordered) if _key(a) == _key(b)), None)
