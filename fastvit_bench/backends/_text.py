"""Text from files and toolkits, made fit for one line of a message."""

from collections.abc import Iterable

from fastvit_bench.records import Preparation

_LONGEST = 300  # characters of such a text


def printable(text: object) -> str:
    """Return a text on one line, without control characters and not too long: it may come from a stranger's file."""
    signs = (sign if sign.isprintable() else " " for sign in str(text)[: 4 * _LONGEST])
    line = " ".join("".join(signs).split())
    return line if len(line) <= _LONGEST else line[:_LONGEST] + "…"


def first_line(error: BaseException | str) -> str:
    """Return the first line of an error's text, without its full stop; its class where it has no text."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return printable(lines[0]).rstrip(".")


def spaced(values: Iterable[float]) -> str:
    """Return numbers with spaces between them."""
    return " ".join(f"{value:g}" for value in values)


def normalisation(how: Preparation) -> str:
    """Return how pixels become the values of a network's input, such as ``pixels / 255, mean 0 0 0, std 1 1 1``."""
    return f"pixels / 255, mean {spaced(how.mean)}, std {spaced(how.std)}"
