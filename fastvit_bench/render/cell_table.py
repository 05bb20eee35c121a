"""Details of each measurement beside its latency: tables for people, columns by size for programs."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from fastvit_bench.records import (
    Artifact,
    CalibrationSet,
    Fidelity,
    LayerTime,
    Measurement,
    Placement,
    Quantisation,
    Statistic,
    Unit,
)
from fastvit_bench.render.row_text import TAILS, Quantile, model_name, quantile_of, variant_label
from fastvit_bench.render.rows import Row, size_of
from fastvit_bench.render.table import NONE, Column, Table
from fastvit_bench.render.text import derived, latency, op_counts, per_image, printable, significant, whole_percent
from fastvit_bench.stats.intervals import median

UNNAMED_BLOCK = "(not told)"  # block of a layer whose name does not say one

Marks = Mapping[bytes, str]  # behind the device's name, by the row's key


class CellLine(NamedTuple):
    """A measurement and the row that it belongs to."""

    row: Row
    cell: Measurement


# --- columns of cells -------------------------------------------------------------------------------------------------

# end of a column's name -> value
_OF_QUANTILE: dict[str, Callable[[Quantile], float]] = {
    "": lambda tail: tail.value_ms,
    "_low": lambda tail: tail.interval.low,
    "_high": lambda tail: tail.interval.high,
}


def _quantiles() -> list[Column[CellLine]]:
    columns: list[Column[CellLine]] = []
    for title, quantile in TAILS.items():
        for end, of in _OF_QUANTILE.items():

            def value(line: CellLine, quantile: float = quantile, of: Callable[[Quantile], float] = of) -> float | None:
                tail = quantile_of(line.cell, quantile) if line.row.method.statistic is Statistic.MEDIAN else None
                return of(tail) if tail else None

            def text(line: CellLine, quantile: float = quantile) -> str:
                tail = quantile_of(line.cell, quantile)
                return latency(tail.value_ms, tail.interval) if tail else NONE

            name, shown = title.replace(".", ""), "" if end else title
            columns.append(
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
    return columns


def first(values: Sequence[int]) -> float | None:
    """Return the first of some durations in nanoseconds, in milliseconds; None where there is none."""
    return values[0] / 1e6 if values else None


def later(values: Sequence[int]) -> float | None:
    """Return the median of all durations but the first, in milliseconds; None where there is no second one."""
    return median(values[1:]) / 1e6 if values[1:] else None


# heading -> milliseconds, of what comes before the runs that are measured
_STARTING: dict[str, Callable[[Measurement], float | None]] = {
    "compile": lambda cell: median(cell.compile_ns) / 1e6 if cell.compile_ns else None,
    "first load": lambda cell: first(cell.load_ns),
    "later loads": lambda cell: later(cell.load_ns),
    "first run": lambda cell: first(cell.cold_ns),
    "later first runs": lambda cell: later(cell.cold_ns),
}


def _figure(
    name: str, title: str, of: Callable[[Measurement], float | None], *, minor: bool = False
) -> Column[CellLine]:
    """Return the column of a figure of each measurement, in three digits."""

    def text(line: CellLine) -> str:
        return NONE if (value := of(line.cell)) is None else significant(value, 3)

    return Column(
        name,
        title,
        lambda line: of(line.cell),
        text,
        align="right",
        role="figure",
        shown="filled",
        optional=True,
        minor=minor,
    )


# unit -> heading
_UNITS = {Unit.NEURAL_ENGINE: "Neural Engine", Unit.GPU: "GPU", Unit.CPU: "CPU"}


def _of_plan(of: Callable[[Placement], object]) -> Callable[[CellLine], object]:
    return lambda line: of(line.cell.placement) if line.cell.placement else None


def _plan_text(of: Callable[[Placement], str]) -> Callable[[CellLine], str]:
    return lambda line: of(line.cell.placement) if line.cell.placement else NONE


def _plans() -> list[Column[CellLine]]:
    columns: list[Column[CellLine]] = [
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
        columns += [
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
        *columns,
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
            _of_plan(lambda plan: op_counts(plan.ops_off_neural_engine, len(plan.ops_off_neural_engine))),
            _plan_text(lambda plan: printable(op_counts(plan.ops_off_neural_engine, 4)) or NONE),
            wraps=True,
            optional=True,
        ),
    ]


def _shares(plan: Placement, unit: Unit) -> str:
    share = whole_percent(plan.shares[unit])
    return share if plan.costs is None else f"{share} / {whole_percent(plan.costs[unit])}"


MS_PER_IMAGE: Column[CellLine] = Column(
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
IMAGES_PER_S: Column[CellLine] = Column(
    "images_per_s_{size}",
    "images/s",
    lambda line: _images_per_s(line, line.cell.figure_ms),
    lambda line: derived(line.cell, lambda ms: 1e3 * line.row.batch / ms) if line.cell.shape else NONE,
    align="right",
    role="figure",
    shown="filled",
    optional=True,
    minor=True,
)


def _images_per_s(line: CellLine, ms: float) -> float | None:
    """Return the throughput; None of a model whose input is no batch of images."""
    return 1e3 * line.row.batch / ms if line.cell.shape else None


def _mebibytes(size: int | None) -> float | None:
    return None if size is None else size / 2**20


def _quantisation(cell: Measurement) -> Quantisation | None:
    """Return the scheme of the measured file; None of one in float, and of one that this tool did not export."""
    return cell.artifact.quantisation if isinstance(cell.artifact, Artifact) else None


def _of_quantised(value: Callable[[Quantisation], object]) -> Callable[[CellLine], object]:
    return lambda line: value(record) if (record := _quantisation(line.cell)) else None


def _quantised_text(text: Callable[[Quantisation], str]) -> Callable[[CellLine], str]:
    return lambda line: printable(text(record)) if (record := _quantisation(line.cell)) else NONE


def _integer_share(line: CellLine) -> float | None:
    """Return the share of layers that multiply integers in the engine, or else of operations between them in the file.

    An engine may run in float what its file has between integers.
    """
    if line.cell.engine is not None and (share := line.cell.engine.integer_share) is not None:
        return share
    return record.integer_share if (record := _quantisation(line.cell)) else None


def _integer_share_text(line: CellLine) -> str:
    return NONE if (share := _integer_share(line)) is None else whole_percent(share)


def _of_fidelity(value: Callable[[Fidelity], object]) -> Callable[[CellLine], object]:
    return _of_quantised(lambda record: value(record.fidelity) if record.fidelity else None)


def _of_calibration(value: Callable[[CalibrationSet], object]) -> Callable[[CellLine], object]:
    return _of_quantised(lambda record: value(record.calibration) if record.calibration else None)


QUANTISED: list[Column[CellLine]] = [
    Column(
        "integer_share_{size}",
        "between integers",
        _integer_share,
        _integer_share_text,
        align="right",
        role="figure",
        optional=True,
    ),
    Column(
        "snr_{size}_db",
        "SNR dB",
        _of_fidelity(lambda fidelity: fidelity.snr_db),
        _quantised_text(lambda record: f"{record.fidelity.snr_db:.1f}" if record.fidelity else NONE),
        align="right",
        role="figure",
        optional=True,
    ),
    Column("top1_agreement_{size}", "", _of_fidelity(lambda fidelity: fidelity.top1_agreement), optional=True),
    Column(
        "weights_scheme_{size}",
        "weights",
        _of_quantised(lambda record: record.weights),
        _quantised_text(lambda record: record.weights),
        wraps=True,
        optional=True,
    ),
    Column(
        "activations_scheme_{size}",
        "activations",
        _of_quantised(lambda record: record.activations),
        _quantised_text(lambda record: record.activations),
        wraps=True,
        optional=True,
    ),
    Column("ranges_{size}", "", _of_quantised(lambda record: record.ranges), optional=True),
    Column("quantiser_{size}", "", _of_quantised(lambda record: record.quantiser), optional=True),
    Column("operations_integer_{size}", "", _of_quantised(lambda record: sum(record.integer.values())), optional=True),
    Column("operations_float_{size}", "", _of_quantised(lambda record: sum(record.floating.values())), optional=True),
    Column("calibration_digest_{size}", "", _of_calibration(lambda chosen: chosen.digest), optional=True),
    Column("calibration_images_{size}", "", _of_calibration(lambda chosen: chosen.images), optional=True),
    Column("calibration_seed_{size}", "", _of_calibration(lambda chosen: chosen.seed), optional=True),
]
QUANTILES, PLANS = _quantiles(), _plans()
STARTS = [_figure(f"{title.replace(' ', '_')}_{{size}}_ms", title, of) for title, of in _STARTING.items()]
USAGE = [
    _figure("peak_memory_mib_{size}", "peak memory MiB", lambda cell: _mebibytes(cell.peak_resident_bytes), minor=True),
    _figure("gpu_memory_mib_{size}", "GPU memory MiB", lambda cell: _mebibytes(cell.device_bytes), minor=True),
    _figure("energy_mj_{size}", "energy mJ per batch", lambda cell: cell.energy_mj, minor=True),
]

# facts of each measurement; {size} becomes its size where a table has a column for each. Those that few measurements
# have stand behind what such a measurement has.
_BY_NEED: list[tuple[Callable[[CellLine], object], list[Column[CellLine]]]] = [
    (lambda line: line.row.batch > 1, [MS_PER_IMAGE]),
    (lambda line: True, [replace(IMAGES_PER_S, title="")]),  # for people on demand
    (lambda line: line.cell.usage, [replace(column, title="") for column in USAGE]),
    (lambda line: line.cell.load_ns or line.cell.compile_ns or line.cell.cold_ns, STARTS),
    (lambda line: line.cell.placement, PLANS),
    (lambda line: _quantisation(line.cell), QUANTISED),
    (lambda line: line.cell.quantile_ms(TAILS["p99"]), QUANTILES),
    (
        lambda line: line.cell.layers,
        [
            Column("layers_{size}", "", lambda line: len(line.cell.layers) or None, optional=True),
            Column(
                "layers_{size}_sum_ms",
                "",
                lambda line: milliseconds(line.cell.layers) if line.cell.layers else None,
                optional=True,
            ),
        ],
    ),
]
CELL_COLUMNS = [column for _, columns in _BY_NEED for column in columns]


def applicable(lines: Collection[CellLine]) -> list[Column[CellLine]]:
    """Return those of `CELL_COLUMNS` that may have a value in some of the lines."""
    return [column for needs, columns in _BY_NEED if any(map(needs, lines)) for column in columns]


# the same, where people choose their columns
_TITLED = {column.name: column for column in (IMAGES_PER_S, *USAGE)}
ON_DEMAND = [_TITLED.get(column.name, column) for column in CELL_COLUMNS]


# --- details ----------------------------------------------------------------------------------------------------------


def which(marks: Marks) -> list[Column[CellLine]]:
    """Return the columns that say which cell a line is about."""
    return [
        Column(
            "model",
            "model",
            lambda line: line.row.model,
            lambda line: f"{model_name(line.row)}{marks[line.row.key]}",
            role="key",
        ),
        Column("form", "form", lambda line: variant_label(line.row) or None, shown="filled", optional=True, role="key"),
        Column("size", "size", lambda line: size_of(line.cell.shape), align="right", role="key"),
    ]


# title -> whether a measurement has the detail, and the columns behind those that name the measurement
_DETAILS: dict[str, tuple[Callable[[CellLine], object], list[Column[CellLine]]]] = {
    "Per image, derived: the latency of a batch over its images, which is not that of one image alone": (
        lambda line: line.row.batch > 1,
        [Column("batch", "batch", lambda line: line.row.batch, align="right"), MS_PER_IMAGE, IMAGES_PER_S],
    ),
    "The slowest runs: 99 and 99.9 % of all runs took at most so long, 95 % interval in brackets": (
        lambda line: line.row.method.statistic is Statistic.MEDIAN and quantile_of(line.cell, 0.99),
        [Column("runs", "runs", lambda line: line.cell.count, align="right"), *QUANTILES],
    ),
    "Compiling, loading and the first run of each round, in ms; medians where there are several": (
        lambda line: line.cell.load_ns or line.cell.compile_ns or line.cell.cold_ns,
        STARTS,
    ),
    "Planned by the toolkit, not measured: share of operations / of estimated cost": (
        lambda line: line.cell.placement,
        PLANS,
    ),
    "In 8 bits: share that computes between integers, outputs against the float64 network, and scheme": (
        lambda line: _quantisation(line.cell),
        QUANTISED,
    ),
}


def on_demand(rows: Sequence[Row], marks: Marks) -> Iterator[Table[CellLine]]:
    """Yield the tables that a terminal shows with -v alone: throughput, and memory and energy.

    Throughput is that of images that are timed one by one; `details` has it of batches.
    """
    lines = [CellLine(row, cell) for row in rows for cell in row.measured if row.batch == 1 and cell.shape]
    if lines:
        batch = Column[CellLine]("batch", "batch", lambda line: line.row.batch, align="right")
        yield Table(lines, [*which(marks), batch, IMAGES_PER_S], "Throughput, derived from the latency")
    lines = [CellLine(row, cell) for row in rows for cell in row.measured if cell.usage]
    if any(column.value(line) is not None for column in USAGE for line in lines):
        yield Table(lines, [*which(marks), *USAGE], USAGE_TITLE)


USAGE_TITLE = "Memory of the process that timed, toolkit included; energy of whole processor packages or the GPU"


def details(rows: Sequence[Row], marks: Marks) -> Iterator[Table[CellLine]]:
    """Yield a table per kind of detail, of the measurements that have it."""
    lines = [CellLine(row, cell) for row in rows for cell in row.measured]
    for title, (applies, more) in _DETAILS.items():
        if members := [line for line in lines if applies(line)]:
            yield Table(members, [*which(marks), *more], title)


SLOWEST = 10  # layers that are listed one by one


class _Layers(NamedTuple):
    """Layers that share one line, and the milliseconds of all layers of their network."""

    block: str
    layers: Sequence[LayerTime]
    total_ms: float

    @property
    def share(self) -> float:
        """Share of the milliseconds of all layers; 0 where these sum to 0."""
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
    Column("block", "block", lambda line: line.block, lambda line: printable(line.block), role="key"),
    Column("layers", "layers", lambda line: len(line.layers), align="right"),
    *_TIMES,
]
_LAYER_COLUMNS: list[Column[_Layers]] = [
    Column(
        "layer",
        "layer",
        lambda line: line.layers[0].name,
        lambda line: _clipped(printable(line.layers[0].name)),
        role="key",
        wraps=True,
    ),
    Column(
        "kind",
        "kind",
        lambda line: line.layers[0].kind,
        lambda line: printable(line.layers[0].kind) or NONE,
        role="key",
    ),
    Column("block", "block", lambda line: line.block, lambda line: printable(line.block) or NONE, role="key"),
    *_TIMES,
]


def layers(rows: Sequence[Row], marks: Marks) -> Iterator[Table[_Layers]]:
    """Yield two tables per measurement with a profile: its layers by block, and the slowest of them."""
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
    """Group layers by their block of the network, in the order they run."""
    blocks: dict[str, list[LayerTime]] = {}
    for layer in layers:
        blocks.setdefault(layer.block or UNNAMED_BLOCK, []).append(layer)
    return blocks


def milliseconds(layers: Sequence[LayerTime]) -> float:
    """Return the sum of the layers' medians in milliseconds."""
    return sum(layer.median_ns for layer in layers) / 1e6


def _clipped(name: str, most: int = 72) -> str:
    """Return a name with its middle left out where it is long.

    Toolkits string together the names of fused layers.
    """
    return name if len(name) <= most else f"{name[: most - 28]} ... {name[-23:]}"
