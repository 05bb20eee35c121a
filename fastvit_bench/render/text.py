"""Numbers and names as people read them, alike in every table, sentence and picture."""

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import cast

from fastvit_bench.errors import printable as printable
from fastvit_bench.records import Interval, Measurement, Share
from fastvit_bench.render.table import NONE

NOT_COMPARED = "†"  # behind a figure whose outputs were not compared
NOT_COMPARED_NOTE = f"{NOT_COMPARED} Not compared with the reference on that device."


def preparation_value(name: str, value: object) -> str:
    """Return a value of a preparation with its name, such as ``mean 0.5 0.5 0.5``."""
    values = cast("tuple[object, ...]", value) if isinstance(value, tuple) else (value,)
    return " ".join([name, *(f"{number:g}" if isinstance(number, float | int) else str(number) for number in values)])


# --- numbers ----------------------------------------------------------------------------------------------------------


def latency(figure: float, interval: Interval | None) -> str:
    """Return ``10.21 [10.18, 10.25]``: no more digits than the interval supports, its ends rounded outwards.

    There are four digits at most. The interval's width keeps two digits where they begin below 355, else one, as the
    Particle Data Group rounds errors (Review of Particle Physics, introduction, section 5.3). Without an interval three
    digits are given.
    """
    if interval is None:
        return significant(figure, 3)
    places = 3 - _exponent(figure, 4)
    if (width := interval.high - interval.low) > 0:
        exponent = _exponent(width, 3)
        places = min(places, (1 if width < 3.55 * 10.0**exponent else 0) - exponent)
    middle = _rounded(figure, places, ROUND_HALF_EVEN)
    low, high = _rounded(interval.low, places, ROUND_FLOOR), _rounded(interval.high, places, ROUND_CEILING)
    return f"{middle} [{low}, {high}]"


def figure_text(cell: Measurement, doubts: Sequence[str]) -> str:
    """Return ``78* [74, 88]``: a measured latency with its marks, as every table and sentence prints it."""
    value, _, interval = latency(cell.figure_ms, cell.interval_ms).partition(" ")
    return f"{value}{'*' * bool(doubts)}{NOT_COMPARED * (not compared(cell))} {interval}".rstrip()


def derived(cell: Measurement, of_ms: Callable[[float], float]) -> str:
    """Return a value that follows from a latency, such as a rate, with the digits that the interval supports."""
    interval = cell.interval_ms
    if interval is None or interval.low <= 0:
        return significant(of_ms(cell.figure_ms), 3)
    low, high = sorted((of_ms(interval.low), of_ms(interval.high)))
    ends = Interval(low=low, high=high, confidence=interval.confidence)
    return latency(of_ms(cell.figure_ms), ends).partition(" ")[0]


def percent(share: Share | None) -> str:
    """Return ``76.12 [75.74, 76.49]``: two digits behind the point, as accuracies are published with one."""
    if share is None:
        return NONE
    return f"{100 * share.value:.2f} [{100 * share.low:.2f}, {100 * share.high:.2f}]"


def significant(value: float, digits: int) -> str:
    """Return a positive number to so many significant digits, without an exponent."""
    return _rounded(value, digits - 1 - _exponent(value, digits), ROUND_HALF_EVEN)


def _exponent(value: float, digits: int) -> int:
    """Return the power of ten of the leading digit once rounded to so many digits: of 9.996 to three it is 1."""
    return int(f"{value:.{digits - 1}e}".partition("e")[2])


def _rounded(value: float, places: int, rounding: str) -> str:
    """Round in decimal, where 10.18 is 10.18: a binary float rounded outwards would become 10.17."""
    rounded = Decimal(repr(value)).quantize(Decimal(1).scaleb(-places), rounding=rounding)
    return f"{rounded:f}"


def interval_text(low: float, high: float, places: int) -> str:
    """Return the ends of an interval with so many decimals, rounded outwards: ``[2.56, 2.73]``."""
    return f"[{_rounded(low, places, ROUND_FLOOR)}, {_rounded(high, places, ROUND_CEILING)}]"


def whole_percent(share: float) -> str:
    """Return whole percents, 0 and 100 only where they are exact: one operation in 300 makes a switch too."""
    text = f"{100 * share:.0f}"
    if text == "100" and share < 1 - 1e-9:
        text = ">99"
    elif text == "0" and share > 0:
        text = "<1"
    return f"{text} %"


def per_image(cell: Measurement) -> str:
    """Return milliseconds of one image of a batch, with the digits that the batch's interval supports."""
    images = cell.shape.batch if cell.shape else 1
    return derived(cell, lambda ms: ms / images)


def compared(cell: Measurement) -> bool:
    """Return whether the outputs of what was timed were compared with the reference, where it was timed."""
    return cell.parity is not None


# --- names ------------------------------------------------------------------------------------------------------------


def printable_lines(text: str) -> str:
    """Return text without the characters that a terminal obeys or that change its order; its lines and blanks stay."""
    return "\n".join("".join(c if c.isprintable() else " " * c.isspace() for c in line) for line in text.split("\n"))


def op_counts(counts: dict[str, int], most: int) -> str:
    """Return ``cast 2, gather 1 and 3 more kinds``."""
    shown = ", ".join(f"{kind} {count}" for kind, count in list(counts.items())[:most])
    return shown + (f" and {len(counts) - most} more kinds" if len(counts) > most else "")


def some(labels: Sequence[str]) -> str:
    """Return the first names of a list, and how many more there are."""
    more = f" and {len(labels) - 6} more" if len(labels) > 6 else ""
    return ", ".join(labels[:6]) + more


_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")


def by_kind(reasons: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Return reasons and the cells they are about, those that differ in numbers alone as one: ``… by 6 to 31 %``."""
    kinds: dict[str, list[str]] = {}
    for reason in reasons:
        kinds.setdefault(_NUMBER.sub("0", reason), []).append(reason)
    merged: dict[str, list[str]] = {}
    for texts in kinds.values():
        ranges = iter([_range(numbers) for numbers in zip(*(_NUMBER.findall(text) for text in texts), strict=True)])
        lead = _NUMBER.sub(lambda _, values=ranges: next(values), texts[0])
        merged[lead] = list(dict.fromkeys(name for text in texts for name in reasons[text]))
    return merged


def _range(numbers: Sequence[str]) -> str:
    """Return the least and the greatest of numbers, as they are written; one where they are equal."""
    low, high = min(numbers, key=float), max(numbers, key=float)
    return low if low == high else f"{low} to {high}"
