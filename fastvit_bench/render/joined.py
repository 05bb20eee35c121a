"""Additions to a table of rows: standing on the frontier, and ratios to a reference."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from fastvit_bench.render.frontiers import Basis, Frontier, FrontierPlace, frontiers, groups
from fastvit_bench.render.ratios import HOW, Key, Ratio, against
from fastvit_bench.render.row_table import TableExtras
from fastvit_bench.render.row_text import legend
from fastvit_bench.render.rows import Row, size_of, sizes_of
from fastvit_bench.render.table import NONE, Column, Table
from fastvit_bench.render.text import figure_text, latency, percent, printable
from fastvit_bench.stats.pareto import DRAWS, Counted, Stated


def join(
    rows: Sequence[Row],
    *,
    reference: str | None = None,
    pareto: bool = False,
    accuracies: Mapping[str, Counted] | None = None,
) -> TableExtras:
    """Return the ratios and the frontiers that were asked for. Raises as `ratios.against` does."""
    cells: dict[Key, dict[str, object]] = {}
    tables: list[Table[Any]] = []
    notes: list[str] = []
    if reference is not None:
        by_cell = against(rows, reference)
        for key, ratio in by_cell.items():
            cells.setdefault(key, {}).update(_ratio_cells(ratio, reference))
        tables.append(_ratio_table(rows, by_cell, reference))
        notes.append(f"Ratios: figure over that of {printable(reference)} measured alike; interval {HOW}.")
    if pareto:
        every = frontiers(groups(rows), accuracies)
        for frontier in every:
            for key, line in _frontier_cells(frontier).items():
                cells.setdefault(key, {}).update(line)
        tables += map(_frontier_table, every)
        notes.append(
            f"Frontier: share of {DRAWS} resamplings in which no other model measured alike is both as quick and as "
            f"accurate; latencies by bootstrap, measured accuracies by their counts, published ones as printed."
            if every
            else "No frontier: it takes two models measured alike at a size their accuracy is known for."
        )
    return TableExtras(tuple(tables), tuple(notes), cells)


def _ratio_cells(ratio: Ratio, reference: str) -> dict[str, object]:
    interval = ratio.interval
    return {
        "ratio": ratio.value,
        "ratio_low": interval.low if interval else None,
        "ratio_high": interval.high if interval else None,
        "ratio_to": reference,
    }


def _frontier_cells(frontier: Frontier) -> dict[Key, dict[str, object]]:
    """Return columns of each cell, whose names say which accuracies the frontier uses."""
    called = f"frontier_by_{frontier.basis}_top1"
    return {
        (place.row.key, place.cell.shape): {
            called: place.standing.probability,
            f"{called}_dominated_by": ", ".join(frontier.dominating(place)) or None,
        }
        for place in frontier.places
    }


class _Ratios(NamedTuple):
    """The ratios of a row by size."""

    name: str
    row: Row
    by_size: Mapping[str, Ratio]


def _ratio_table(rows: Sequence[Row], by_cell: Mapping[Key, Ratio], reference: str) -> Table[_Ratios]:
    marks, _ = legend(rows)
    names = {row.key: name for group in groups(rows) for row, name in zip(group.rows, group.names, strict=True)}

    def by_size(row: Row) -> dict[str, Ratio]:
        return {size_of(shape): by_cell[row.key, shape] for shape in row.cells if (row.key, shape) in by_cell}

    lines = [_Ratios(f"{names[row.key]}{marks[row.key]}", row, ratios) for row in rows if (ratios := by_size(row))]

    def column(size: str) -> Column[_Ratios]:
        return Column(
            f"ratio_{size}",
            f"at {size}",
            lambda line: ratio.value if (ratio := line.by_size.get(size)) else None,
            lambda line: ratio_text(ratio) if (ratio := line.by_size.get(size)) else NONE,
            align="right",
            role="figure",
            shown="filled",
        )

    return Table(
        lines,
        [
            Column("model", "model", lambda line: line.name, role="key"),
            Column("batch", "batch", lambda line: line.row.batch, role="key", align="right"),
            *map(column, sizes_of(rows)),
        ],
        f"Ratio to {printable(reference)}: below 1 is quicker, 95 % interval in brackets",
    )


def ratio_text(ratio: Ratio) -> str:
    """Return ``1.87 [1.86, 1.89]`` with no more digits than the interval supports; of the reference itself ``1``."""
    return "1" if ratio.is_reference else latency(ratio.value, ratio.interval)


# basis -> what the table's heading says of it
BASES = {
    Basis.MEASURED: "measured top-1 of the files that were timed",
    Basis.PUBLISHED: "published top-1 without distillation, which was not measured here",
}


def _frontier_table(frontier: Frontier) -> Table[FrontierPlace]:
    return Table(
        frontier.places,
        [
            Column("model", "model", lambda place: place.name, lambda place: label_of(frontier, place), role="key"),
            Column(
                "top1",
                f"{frontier.basis} top-1",
                lambda place: place.accuracy.percent,
                lambda place: accuracy_text(place.accuracy),
                unit="%",
                align="right",
            ),
            Column(
                "ms",
                "ms",
                lambda place: place.cell.figure_ms,
                lambda place: figure_text(place.cell, place.row.doubts(place.cell)),
                align="right",
                role="figure",
            ),
            Column(
                "on_frontier",
                "on frontier",
                lambda place: place.standing.probability,
                lambda place: probability_text(place.standing.probability),
                align="right",
                role="figure",
            ),
            Column(
                "dominated_by",
                "dominated by",
                lambda place: ", ".join(frontier.dominating(place)) or None,
                lambda place: some(frontier.dominating(place)) or NONE,
                wraps=True,
            ),
        ],
        f"Accuracy-latency frontier on {frontier.group.label}, at {size_of(frontier.shape)}, by "
        f"{BASES[frontier.basis]}",
    )


def accuracy_text(accuracy: Counted | Stated) -> str:
    """Return a measured accuracy with its interval, as tables print it; a published one as it was printed."""
    return percent(accuracy.share) if isinstance(accuracy, Counted) else f"{accuracy.percent:g}"


def label_of(frontier: Frontier, place: FrontierPlace) -> str:
    """Return the name, marked where a published accuracy is not of the random weights that were timed."""
    aside = " (random weights)" if frontier.basis is Basis.PUBLISHED and place.row.is_random else ""
    return f"{place.name}{aside}"


def probability_text(share: float) -> str:
    """Return ``83 %``; ``>99 %`` and ``<1 %`` where so many draws cannot distinguish it from certain."""
    if share > 0.995:
        return ">99 %"
    return "<1 %" if share < 0.005 else f"{100 * share:.0f} %"


def some(names: Sequence[str], most: int = 2) -> str:
    """Return the first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
