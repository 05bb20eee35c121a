"""What is known of each measurement beside its latency: tables of details for people, columns by size for programs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from fastvit_bench.records import LayerTime, Measurement, Placement, Statistic, Unit
from fastvit_bench.render.table import NONE, Column, Table
from fastvit_bench.render.text import derived, kinds, latency, per_image, plain, significant, whole_percent
from fastvit_bench.report.row_text import TAILS, Quantile, form, model_name, quantile_of
from fastvit_bench.report.rows import Row, size_of
from fastvit_bench.stats.intervals import median

NOT_TOLD = "(not told)"  # block of a layer whose name does not say

Marks = Mapping[bytes, str]  # behind the device's name, by the row's key


class Line(NamedTuple):
    """A measurement and the row it stands in."""

    row: Row
    cell: Measurement


# --- columns of cells -------------------------------------------------------------------------------------------------

# end of a column's name -> value
_OF_QUANTILE: dict[str, Callable[[Quantile], float]] = {
    "": lambda tail: tail.value_ms,
    "_low": lambda tail: tail.interval.low,
    "_high": lambda tail: tail.interval.high,
}


def _quantiles() -> list[Column[Line]]:
    found: list[Column[Line]] = []
    for title, quantile in TAILS.items():
        for end, of in _OF_QUANTILE.items():

            def value(line: Line, quantile: float = quantile, of: Callable[[Quantile], float] = of) -> float | None:
                tail = quantile_of(line.cell, quantile) if line.row.method.statistic is Statistic.MEDIAN else None
                return of(tail) if tail else None

            def text(line: Line, quantile: float = quantile) -> str:
                tail = quantile_of(line.cell, quantile)
                return latency(tail.value_ms, tail.interval) if tail else NONE

            name, shown = title.replace(".", ""), "" if end else title
            found.append(
                Column(
                    f"{name}_{{size}}{end}_ms",
                    shown,
                    value,
                    text,
                    unit="ms" * bool(shown),
                    align="right",
                    role="figure",
                    shown="filled",
                    optional=True,
                    minor=True,
                )
            )
    return found


def first(values: Sequence[int]) -> float | None:
    """Milliseconds of the first of some nanoseconds."""
    return values[0] / 1e6 if values else None


def later(values: Sequence[int]) -> float | None:
    """Milliseconds: the median of all but the first."""
    return median(values[1:]) / 1e6 if values[1:] else None


# heading -> milliseconds, of what comes before the runs that are measured
_STARTING: dict[str, Callable[[Measurement], float | None]] = {
    "compile": lambda cell: median(cell.compile_ns) / 1e6 if cell.compile_ns else None,
    "first load": lambda cell: first(cell.load_ns),
    "later loads": lambda cell: later(cell.load_ns),
    "first run": lambda cell: first(cell.cold_ns),
    "later first runs": lambda cell: later(cell.cold_ns),
}


def _starts() -> list[Column[Line]]:
    found: list[Column[Line]] = []
    for title, of in _STARTING.items():

        def value(line: Line, of: Callable[[Measurement], float | None] = of) -> float | None:
            return of(line.cell)

        def text(line: Line, of: Callable[[Measurement], float | None] = of) -> str:
            return NONE if (taken := of(line.cell)) is None else significant(taken, 3)

        name = f"{title.replace(' ', '_')}_{{size}}_ms"
        found.append(Column(name, title, value, text, align="right", role="figure", shown="filled", optional=True))
    return found


# unit -> heading
_UNITS = {Unit.NEURAL_ENGINE: "Neural Engine", Unit.GPU: "GPU", Unit.CPU: "CPU"}


def _of_plan(of: Callable[[Placement], object]) -> Callable[[Line], object]:
    return lambda line: of(line.cell.placement) if line.cell.placement else None


def _plan_text(of: Callable[[Placement], str]) -> Callable[[Line], str]:
    return lambda line: of(line.cell.placement) if line.cell.placement else NONE


def _plans() -> list[Column[Line]]:
    found: list[Column[Line]] = [
        Column(
            "planned_operations_{size}",
            "operations",
            _of_plan(lambda plan: len(plan.operations)),
            align="right",
            optional=True,
        )
    ]
    for unit in (*_UNITS, *(unit for unit in Unit if unit not in _UNITS)):
        name = f"planned_{unit.value.replace('-', '_')}"
        found += [
            Column(
                f"{name}_{{size}}",
                _UNITS.get(unit, ""),
                _of_plan(lambda plan, unit=unit: plan.shares[unit]),
                _plan_text(lambda plan, unit=unit: _shares(plan, unit)),
                align="right",
                role="figure",
                optional=True,
            ),
            Column(
                f"{name}_cost_{{size}}",
                "",
                _of_plan(lambda plan, unit=unit: plan.costs[unit] if plan.costs else None),
                optional=True,
            ),
        ]
    return [
        *found,
        Column(
            "planned_switches_{size}", "switches", _of_plan(lambda plan: plan.switches), align="right", optional=True
        ),
        Column(
            "planned_eligible_{size}",
            "could run on Neural Engine",
            _of_plan(lambda plan: plan.eligible),
            _plan_text(lambda plan: whole_percent(plan.eligible)),
            align="right",
            optional=True,
        ),
        Column(
            "planned_elsewhere_{size}",
            "not on Neural Engine",
            _of_plan(lambda plan: kinds(plan.elsewhere, len(plan.elsewhere))),
            _plan_text(lambda plan: plain(kinds(plan.elsewhere, 4)) or NONE),
            wraps=True,
            optional=True,
        ),
    ]


def _shares(plan: Placement, unit: Unit) -> str:
    share = whole_percent(plan.shares[unit])
    return share if plan.costs is None else f"{share} / {whole_percent(plan.costs[unit])}"


MS_PER_IMAGE: Column[Line] = Column(
    "{size}_ms_per_image",
    "ms/image",
    lambda line: line.cell.ms_per_image if line.row.batch > 1 else None,
    lambda line: per_image(line.cell),
    align="right",
    role="figure",
    shown="filled",
    optional=True,
    minor=True,
)
QUANTILES, STARTS, PLANS = _quantiles(), _starts(), _plans()

# what is known of each measurement; {size} stands for its size where a table has a column for each
CELL_COLUMNS: list[Column[Line]] = [
    MS_PER_IMAGE,
    *STARTS,
    *PLANS,
    *QUANTILES,
    Column("layers_{size}", "", lambda line: len(line.cell.layers) or None, optional=True),
    Column(
        "layers_{size}_sum_ms",
        "",
        lambda line: milliseconds(line.cell.layers) if line.cell.layers else None,
        optional=True,
    ),
]


# --- details ----------------------------------------------------------------------------------------------------------


def which(marks: Marks) -> list[Column[Line]]:
    """The columns that say which cell a line is about."""
    return [
        Column(
            "model",
            "model",
            lambda line: line.row.model,
            lambda line: f"{model_name(line.row)}{marks[line.row.key]}",
            role="key",
        ),
        Column("form", "form", lambda line: form(line.row) or None, shown="filled", optional=True, role="key"),
        Column("size", "size", lambda line: size_of(line.cell.shape), align="right", role="key"),
    ]


# title -> of which measurements, and the columns beside those that say which one it is
_DETAILS: dict[str, tuple[Callable[[Line], object], list[Column[Line]]]] = {
    "Per image, derived: the latency of a batch over its images, which is not that of one image alone": (
        lambda line: line.row.batch > 1,
        [
            Column("batch", "batch", lambda line: line.row.batch, align="right"),
            MS_PER_IMAGE,
            Column(
                "",
                "images/s",
                lambda line: 1e3 * line.row.batch / line.cell.figure_ms,
                lambda line: derived(line.cell, lambda ms: 1e3 * line.row.batch / ms),
                align="right",
                role="figure",
            ),
        ],
    ),
    "The slowest runs: 99 and 99.9 % of all runs took at most so long, 95 % interval in brackets": (
        lambda line: line.row.method.statistic is Statistic.MEDIAN and quantile_of(line.cell, 0.99),
        [Column("runs", "runs", lambda line: len(line.cell.samples_ms), align="right"), *QUANTILES],
    ),
    "Compiling, loading and the first run of each round, in ms; medians where there are several": (
        lambda line: line.cell.load_ns or line.cell.compile_ns or line.cell.cold_ns,
        STARTS,
    ),
    "Planned by the toolkit, not measured: share of operations / of estimated cost": (
        lambda line: line.cell.placement,
        PLANS,
    ),
}


def details(rows: Sequence[Row], marks: Marks) -> Iterator[Table[Line]]:
    lines = [Line(row, cell) for row in rows for cell in row.measured]
    for title, (applies, more) in _DETAILS.items():
        if members := [line for line in lines if applies(line)]:
            yield Table(members, [*which(marks), *more], title)


SLOWEST = 10  # layers that are told one by one


class _Layers(NamedTuple):
    """Layers that stand in one line, and the milliseconds of all layers of their network."""

    block: str
    layers: Sequence[LayerTime]
    total_ms: float

    @property
    def share(self) -> float:
        return milliseconds(self.layers) / self.total_ms if self.total_ms else 0.0


_TIMES: list[Column[_Layers]] = [
    Column(
        "ms",
        "ms",
        lambda line: milliseconds(line.layers),
        lambda line: significant(milliseconds(line.layers), 3),
        align="right",
        role="figure",
    ),
    Column("share", "share", lambda line: line.share, lambda line: whole_percent(line.share), align="right"),
]
_BLOCK_COLUMNS: list[Column[_Layers]] = [
    Column("block", "block", lambda line: line.block, lambda line: plain(line.block), role="key"),
    Column("layers", "layers", lambda line: len(line.layers), align="right"),
    *_TIMES,
]
_LAYER_COLUMNS: list[Column[_Layers]] = [
    Column(
        "layer",
        "layer",
        lambda line: line.layers[0].name,
        lambda line: _clipped(plain(line.layers[0].name)),
        role="key",
        wraps=True,
    ),
    Column(
        "kind", "kind", lambda line: line.layers[0].kind, lambda line: plain(line.layers[0].kind) or NONE, role="key"
    ),
    Column("block", "block", lambda line: line.block, lambda line: plain(line.block) or NONE, role="key"),
    *_TIMES,
]


def layers(rows: Sequence[Row], marks: Marks) -> Iterator[Table[_Layers]]:
    """Of each measurement with a profile two tables: its layers by block of the network, and the slowest of them."""
    for row in rows:
        for cell in row.measured:
            if not cell.layers:
                continue
            whose = f"{model_name(row)} {size_of(cell.shape)} b{row.batch}{marks[row.key]}"
            total = milliseconds(cell.layers)
            yield Table(
                [_Layers(block, layers, total) for block, layers in by_block(cell.layers).items()],
                _BLOCK_COLUMNS,
                f"Layers of {whose} by block, in a pass of its own whose sum, {significant(total, 3)} ms, is not the "
                f"latency",
            )
            slowest = sorted(cell.layers, key=lambda layer: -layer.median_ns)[:SLOWEST]
            yield Table(
                [_Layers(layer.block or "", [layer], total) for layer in slowest],
                _LAYER_COLUMNS,
                f"The slowest layers of {whose} in that pass",
            )


def by_block(layers: Sequence[LayerTime]) -> dict[str, list[LayerTime]]:
    """Block of the network -> its layers, in the order they run."""
    found: dict[str, list[LayerTime]] = {}
    for layer in layers:
        found.setdefault(layer.block or NOT_TOLD, []).append(layer)
    return found


def milliseconds(layers: Sequence[LayerTime]) -> float:
    """The sum of their medians."""
    return sum(layer.median_ns for layer in layers) / 1e6


def _clipped(name: str, most: int = 72) -> str:
    """A name with its middle left out where it is long: of fused layers, toolkits string all names together."""
    return name if len(name) <= most else f"{name[: most - 28]} ... {name[-23:]}"
