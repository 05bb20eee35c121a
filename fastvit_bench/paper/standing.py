"""Where somebody's own network stands among a study's: whom it is dominated by, and what it dominates."""

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from fastvit_bench.records import Interval
from fastvit_bench.records.study import Contestant, Match, StudyResult
from fastvit_bench.render import text
from fastvit_bench.render.text import printable

BLOCKS = 6  # a study's default: the fewest whose smallest and largest ratio enclose the median with 95 %


@dataclass(frozen=True)
class Rival:
    """A network of the study beside the challenger; both were timed in turns."""

    name: str
    ratio: float  # of the challenger's latency to this one's
    interval: Interval | None  # of the ratio
    top1: float | None  # percent, as published

    @property
    def quicker(self) -> bool:
        """Whether it is quicker than the challenger beyond doubt."""
        return self.interval is not None and self.interval.low > 1

    @property
    def slower(self) -> bool:
        """Whether it is slower than the challenger beyond doubt."""
        return self.interval is not None and self.interval.high < 1

    def latency(self) -> str:
        """Return its latency against the challenger's: ``quicker by 18 % [16, 20]``."""
        ends = self.interval or Interval(self.ratio, self.ratio, 0.95)
        if self.quicker:
            values = [1 - 1 / ratio for ratio in (self.ratio, ends.low, ends.high)]
            word = "quicker by"
        elif self.slower:
            values = [1 / ratio - 1 for ratio in (self.ratio, ends.high, ends.low)]
            word = "slower by"
        else:
            return f"not told apart in latency ({text.latency(self.ratio, self.interval)} of its time)"
        share, low, high = (100 * value for value in values)
        return f"{word} {share:.0f} % {text.interval_text(low, high, 0)}"

    def accuracy(self, top1: float) -> str:
        """Return its top-1 against the challenger's: ``at 0.4 points more, published``."""
        points = (self.top1 or 0.0) - top1
        if abs(points) < 0.05:
            return "at the same top-1, published"
        return f"at {abs(points):.1f} points {'more' if points > 0 else 'less'}, published"


def sentences(result: StudyResult, published_top1: Sequence[tuple[Match, float | None]]) -> list[str]:
    """Return a sentence for each challenger and size; `published_top1` has its matches with the rivals' top-1.

    A challenger without a stated top-1 stands by its latency alone.
    """
    rivals: dict[Contestant, list[Rival]] = {}
    for match, top1 in published_top1:
        cell = result.cell(match)
        if cell is not None and cell.verdict.ratio is not None:
            own = Contestant(msgspec.structs.replace(match.row.row, group=""), match.row.shape)
            rival = Rival(match.reference.title, cell.verdict.ratio, cell.verdict.interval, top1)
            rivals.setdefault(own, []).append(rival)
    return [f"{printable(own.title)}: {_standing(entries, own.row.top1)}" for own, entries in rivals.items()]


def _standing(rivals: Sequence[Rival], top1: float | None) -> str:
    """Return whom a challenger is dominated by, else what it dominates; without a top-1, how quick the rivals are."""
    known = sorted((rival for rival in rivals if rival.top1 is not None), key=lambda rival: -(rival.top1 or 0.0))
    if top1 is None or not known:
        phrases = ", ".join(f"{printable(rival.name)} is {rival.latency()}" for rival in rivals)
        lacking = "with --top1 its accuracy decides" if top1 is None else "none of them has a published top-1 to decide"
        return f"{phrases}; {lacking} whether it is on the frontier."
    as_good = [rival for rival in known if (rival.top1 or 0.0) >= top1]
    if better := [rival for rival in as_good if rival.quicker]:
        more = f" and {len(better) - 1} more" if len(better) > 1 else ""
        return f"dominated by {printable(better[0].name)}{more}: {better[0].latency()} {better[0].accuracy(top1)}."
    if near := [rival for rival in as_good if not rival.slower]:
        return (
            f"not decided against {printable(near[0].name)}: {near[0].latency()}, {near[0].accuracy(top1)}; "
            f"--blocks {2 * BLOCKS} may tell them apart."
        )
    beaten = [rival for rival in known if rival.slower and (rival.top1 or 0.0) <= top1]
    phrases = [f"{printable(rival.name)} ({rival.latency()} {rival.accuracy(top1)})" for rival in beaten]
    return f"on the frontier of these {len(known) + 1}; it dominates {', '.join(phrases) or 'none of them'}."
