"""What a table can be told besides its rows: standing on the frontier, and ratios to a reference."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastvit_bench.records import Shape
from fastvit_bench.render.table import Column
from fastvit_bench.report.frontiers import Basis, Frontier, Place, frontiers, groups
from fastvit_bench.report.pareto import DRAWS, Counted, Stated
from fastvit_bench.report.ratios import HOW, Key, Ratio, against
from fastvit_bench.report.rows import Row, size_of, sizes_of
from fastvit_bench.report.sheet import NONE, Detail, figure_text, latency, legend, percent, plain


@dataclass(frozen=True)
class Joined:
    """Tables for people, and columns for programs by row and size."""

    details: tuple[Detail, ...] = ()
    notes: tuple[str, ...] = ()
    cells: Mapping[Key, Mapping[str, object]] | None = None

    def of(self, row: Row, shape: Shape | None) -> Mapping[str, object]:
        """The further columns of a cell."""
        return (self.cells or {}).get((id(row), shape), {})


def join(
    rows: Sequence[Row],
    *,
    reference: str | None = None,
    pareto: bool = False,
    accuracies: Mapping[str, Counted] | None = None,
) -> Joined:
    """What was asked for. Raises as `ratios.against` does."""
    cells: dict[Key, dict[str, object]] = {}
    details: list[Detail] = []
    notes: list[str] = []
    if reference is not None:
        found = against(rows, reference)
        for key, each in found.items():
            cells.setdefault(key, {}).update(_ratio_cells(each, reference))
        details.append(_ratio_detail(rows, found, reference))
        notes.append(f"Ratios: figure over that of {plain(reference)} measured alike; interval {HOW}.")
    if pareto:
        every = frontiers(groups(rows), accuracies)
        for frontier in every:
            for key, line in _frontier_cells(frontier).items():
                cells.setdefault(key, {}).update(line)
        details += [_frontier_detail(frontier) for frontier in every]
        notes.append(
            f"Frontier: share of {DRAWS} resamplings in which no other model measured alike is both as quick and as "
            f"accurate; latencies by bootstrap, measured accuracies by their counts, published ones as printed."
            if every
            else "No frontier: it takes two models measured alike at a size their accuracy is known for."
        )
    return Joined(tuple(details), tuple(notes), cells)


def _ratio_cells(ratio: Ratio, reference: str) -> dict[str, object]:
    interval = ratio.interval
    return {
        "ratio": ratio.value,
        "ratio_low": interval.low if interval else None,
        "ratio_high": interval.high if interval else None,
        "ratio_to": reference,
    }


def _frontier_cells(frontier: Frontier) -> dict[Key, dict[str, object]]:
    """Columns whose names say on which accuracies they rest."""
    called = f"frontier_by_{frontier.basis}_top1"
    return {
        (id(place.row), place.cell.shape): {
            called: place.standing.probability,
            f"{called}_dominated_by": ", ".join(frontier.dominating(place)) or None,
        }
        for place in frontier.places
    }


def _ratio_detail(rows: Sequence[Row], found: Mapping[Key, Ratio], reference: str) -> Detail:
    marks, _ = legend(rows)
    named = {id(row): name for group in groups(rows) for row, name in zip(group.rows, group.names, strict=True)}
    lines = [row for row in rows if any((id(row), shape) in found for shape in row.cells)]
    texts = [
        {size_of(shape): ratio_text(found[id(row), shape]) for shape in row.cells if (id(row), shape) in found}
        for row in lines
    ]
    sizes = [size for size in sizes_of(rows) if any(size in each for each in texts)]
    return Detail(
        f"Ratio to {plain(reference)}: below 1 is quicker, 95 % interval in brackets",
        [
            Column("model", [f"{named[id(row)]}{marks[id(row)]}" for row in lines]),
            Column("batch", [str(row.batch) for row in lines], "right"),
            *(Column(f"at {size}", [each.get(size, NONE) for each in texts], "right") for size in sizes),
        ],
        2,
    )


def ratio_text(ratio: Ratio) -> str:
    """``1.87 [1.86, 1.89]`` with no more digits than the interval supports; of the reference itself ``1``."""
    return "1" if ratio.of_itself else latency(ratio.value, ratio.interval)


# basis -> what the table's heading says of it
BASES = {
    Basis.MEASURED: "measured top-1 of the files that were timed",
    Basis.PUBLISHED: "published top-1 without distillation, which was not measured here",
}


def _frontier_detail(frontier: Frontier) -> Detail:
    places = frontier.places
    return Detail(
        f"Accuracy-latency frontier on {frontier.group.label}, at {size_of(frontier.shape)}, by "
        f"{BASES[frontier.basis]}",
        [
            Column("model", [label_of(frontier, place) for place in places]),
            Column(f"{frontier.basis} top-1 %", [accuracy_text(place.accuracy) for place in places], "right"),
            Column("ms", [figure_text(place.cell, place.row.doubts(place.cell)) for place in places], "right"),
            Column("on frontier", [probability_text(place.standing.probability) for place in places], "right"),
            Column("dominated by", [some(frontier.dominating(place)) or NONE for place in places], wraps=True),
        ],
        1,
    )


def accuracy_text(accuracy: Counted | Stated) -> str:
    """A measured accuracy with its interval, as tables print it; a published one as it was printed."""
    return percent(accuracy.share) if isinstance(accuracy, Counted) else f"{accuracy.percent:g}"


def label_of(frontier: Frontier, place: Place) -> str:
    """The name, and behind it that a published accuracy is not of the weights that were timed."""
    aside = " (random weights)" if frontier.basis is Basis.PUBLISHED and place.row.is_random else ""
    return f"{place.name}{aside}"


def probability_text(share: float) -> str:
    """``83 %``; ``>99 %`` and ``<1 %`` where so many draws cannot tell it from certain."""
    if share > 0.995:
        return ">99 %"
    return "<1 %" if share < 0.005 else f"{100 * share:.0f} %"


def some(names: Sequence[str], most: int = 2) -> str:
    """The first names, and how many more."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
