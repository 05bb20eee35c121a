"""What a ladder shows, in words that say no more than its figures."""

from collections.abc import Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from fastvit_bench.ladder.rung import Rung
from fastvit_bench.render.text import latency, printable
from fastvit_bench.stats.paired import ALPHA, PairedAnswers

_STEP = Decimal("0.01")  # of points


def sentences(rungs: Sequence[Rung]) -> list[str]:
    """Return a sentence on the latency and one on the accuracy of each rung, where they are known."""
    reference: Rung | None = None
    results: list[str] = []
    quicker: list[Rung] = []  # rungs of the same size so far
    tested = sum(rung.paired is not None for rung in rungs)
    for rung in rungs:
        if rung.line.reference:
            reference, quicker = rung, []
            continue
        if reference is None or rung.line.contestant is None:
            continue
        results += _speed(rung, reference)
        results += [
            f"{rung.label} is slower than {earlier.label} here: {_ratio(rung)} against {_ratio(earlier)} of "
            f"{reference.label}'s time."
            for earlier in quicker
            if _ends(rung) and _ends(earlier) and _ends(rung)[0] > _ends(earlier)[1]
        ]
        quicker.append(rung)
        results += _accuracy(rung, reference, tested)
    return [printable(sentence) for sentence in results]


def _ratio(rung: Rung) -> str:
    return latency(*rung.line.ratio) if rung.line.ratio else ""


def _ends(rung: Rung) -> tuple[float, ...]:
    """Return the ends of the interval of a rung's ratio as they are printed, rounded outwards; none without one."""
    _, _, interval = _ratio(rung).partition(" [")
    return tuple(float(end) for end in interval.rstrip("]").split(", ")) if interval else ()


def _speed(rung: Rung, reference: Rung) -> list[str]:
    """Return whether a rung is quicker than the reference, where their turns tell it."""
    if rung.line.ratio is None:
        return []
    name, base = rung.label, reference.label
    ends = _ends(rung)
    if not ends:
        return [
            f"{name} took {_ratio(rung)} of {base}'s time; so few blocks give no interval, and no order is claimed."
        ]
    low, high = ends
    if high < 1:
        return [f"{name} is quicker than {base} here: it takes {_ratio(rung)} of its time."]
    if low > 1:
        return [f"{name} is slower than {base} here: it takes {_ratio(rung)} times its time."]
    return [f"{name} and {base} are not told apart in latency: {_ratio(rung)} of its time."]


def points(paired: PairedAnswers) -> tuple[Decimal, Decimal, Decimal]:
    """Return the difference in points and the ends of its 95 % interval, which are rounded outwards."""
    low, high, _ = paired.interval()
    return (
        Decimal(repr(100 * paired.difference)).quantize(_STEP),
        Decimal(repr(100 * low)).quantize(_STEP, ROUND_FLOOR),
        Decimal(repr(100 * high)).quantize(_STEP, ROUND_CEILING),
    )


def probability(p: float) -> str:
    """Return a probability to two digits: ``0.38``, ``0.0012``, ``<0.0001``."""
    return "<0.0001" if p < 1e-4 else f"{p:.2g}"


def is_shown(paired: PairedAnswers, corrected_p: float) -> bool:
    """Return whether a difference is shown: by the test, corrected for its number, and by the interval as printed."""
    _, low, high = points(paired)
    return corrected_p < ALPHA and (high < 0 or low > 0)


def _accuracy(rung: Rung, reference: Rung, tested: int) -> list[str]:
    """Return what a rung loses against the reference on the same images, if that is shown."""
    paired, corrected = rung.paired, rung.corrected_p
    if paired is None or corrected is None:
        if rung.accuracy is None or reference.accuracy is None:
            return []
        return [f"{rung.label} was not counted on the same images as {reference.label}; they are not compared."]
    middle, low, high = points(paired)
    p = f"McNemar p = {probability(paired.p)}".replace("= <", "< ")
    if paired.p < ALPHA and probability(corrected) != probability(paired.p):
        p += f", {probability(corrected)} corrected for {tested} tests"
    if is_shown(paired, corrected):
        verb, ends = ("loses", (-high, -low)) if paired.difference < 0 else ("gains", (low, high))
        return [
            f"{rung.label} {verb} {abs(middle)} points [{ends[0]}, {ends[1]}] against {reference.label} on the same "
            f"{paired.images:,} images, {p}."
        ]
    return [
        f"{rung.label} against {reference.label}: {middle:+} points [{low:+}, {high:+}], {p}: no difference is shown; "
        f"{sight(paired)}."
    ]


def sight(paired: PairedAnswers) -> str:
    """Return how small a difference so many images see: ``1,000 images see about 1.5 points``."""
    if paired.detectable >= 1:
        return f"{paired.images:,} image{'s' * (paired.images != 1)} cannot show any"
    return f"{paired.images:,} images see about {100 * paired.detectable:.2g} points"
