"""Measurements laid out as tables: a line per model and setting, a column per image size, published figures apart."""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import msgspec

from fastvit_bench.records import Accuracy, Failure, Foreign, Measurement, Pacing, Statistic, Unit
from fastvit_bench.render import terminal
from fastvit_bench.render.table import Column
from fastvit_bench.report.joined import Joined
from fastvit_bench.report.published import Figure, Published
from fastvit_bench.report.rows import Row, size_of, sizes_of
from fastvit_bench.report.sheet import (
    FAILED,
    NONE,
    NOT_COMPARED,
    QUANTILES,
    STARTING,
    Document,
    Quantile,
    Sheet,
    by_block,
    compared,
    document,
    form,
    kinds,
    live_row,
    macs_per_image,
    milliseconds,
    quantile_of,
)

if TYPE_CHECKING:  # both take longer to import than `--help` may
    import pandas as pd
    from rich.console import Group

__all__ = [
    "DOCUMENTS",
    "EMPTY",
    "FORMATS",
    "csv",
    "frame",
    "in_latex",
    "in_markdown",
    "json",
    "latex",
    "live_row",
    "markdown",
    "on_terminal",
    "rich",
    "told",
]

EMPTY = "No measurements."

# --- on a terminal ----------------------------------------------------------------------------------------------------


def rich(rows: Sequence[Row], width: int, joined: Joined = Joined()) -> "Group":
    """The rows for a terminal of so many columns.

    One wide table if it fits, else the published figures below the measured ones, and what does not fit as records.
    Figures of another statistic stand in a table of their own, as does what is known beside the latencies.
    """
    from rich.console import Group

    return on_terminal(told(rows, joined), width) if rows else Group(EMPTY)


def told(rows: Sequence[Row], joined: Joined = Joined()) -> Document:
    """The rows with what is joined to them, which was asked for and so comes first."""
    found = document(rows)
    return replace(found, details=[*joined.details, *found.details], notes=[*found.notes, *joined.notes])


def on_terminal(found: Document, width: int) -> "Group":
    """A document for a terminal of so many columns."""
    from rich.console import Group
    from rich.text import Text

    measured = [[*_folded(each.model), *each.latency, *each.setting] for each in found.sheets]
    beside = [[*columns, *each.published] for columns, each in zip(measured, found.sheets, strict=True)]
    published = _published(found.sheets)
    if all(terminal.fits(columns, width) for columns in beside):
        measured, published = beside, []
    elif not all(terminal.fits(columns, width) for columns in measured):
        measured = [[each.model[0], *each.latency, *each.model[1:], *each.setting] for each in found.sheets]
    tables = [
        *((each.title, columns, 1) for each, columns in zip(found.sheets, measured, strict=True)),
        *([("", published, 1)] if published else []),
        *((detail.title, detail.columns, detail.named) for detail in found.details),
    ]
    parts = [Text(found.caption)] if found.caption else []
    for title, columns, named in tables:
        parts.append(Text(f"\n{title}" if title and parts else title, style="bold"))
        parts.append(terminal.styled(terminal.layout(columns, width, named=named)))
    return Group(*parts, Text(), *(Text(note, style="dim") for note in found.notes))


def _published(sheets: Sequence[Sheet]) -> list[Column]:
    """The published figures with one line per model; no columns without one."""
    lines: dict[str, tuple[str, ...]] = {}
    columns: list[Column] = []
    for sheet in sheets:
        columns = sheet.published or columns
        for line in zip(*(column.cells for column in sheet.published), strict=True):
            if any(line):
                lines[line[0]] = line
    if not lines:
        return []
    by_column = zip(columns, zip(*lines.values(), strict=True), strict=True)
    return [Column(column.title, list(cells), column.justify) for column, cells in by_column]


_FOLD = re.compile(r" |(?=[(@])")


def _folded(columns: Sequence[Column]) -> list[Column]:
    """All but the first in two lines where they can: beside an interval under its median that costs no height."""
    first, *others = columns
    return [first, *(replace(column, cells=[_FOLD.sub("\n", cell, 1) for cell in column.cells]) for column in others)]


# --- as text in a format of its own -----------------------------------------------------------------------------------


def markdown(rows: Sequence[Row], joined: Joined = Joined()) -> str:
    """Pipe tables with their notes as a list below."""
    return in_markdown(told(rows, joined)) if rows else EMPTY + "\n"


def in_markdown(found: Document) -> str:
    """A document as pipe tables."""
    tables = [(each.title, each.columns) for each in (*found.sheets, *found.details)]
    parts = [f"**{_markdown(title)}**\n\n{_pipes(columns)}" if title else _pipes(columns) for title, columns in tables]
    above = [_markdown(found.caption)] if found.caption else []
    return "\n\n".join([*above, *parts, _list(found.notes)]) + "\n"


def listed(columns: Sequence[Column], notes: Sequence[str]) -> str:
    """One pipe table with its notes as a list below."""
    return f"{_pipes(columns)}\n\n{_list(notes)}\n"


def _list(notes: Sequence[str]) -> str:
    return "\n".join(f"- {_markdown(note)}" for note in notes)


def _pipes(columns: Sequence[Column]) -> str:
    lines = [
        [_markdown(column.title) for column in columns],
        ["--:" if column.justify == "right" else ":--" for column in columns],
        *([_markdown(cell) for cell in cells] for cells in zip(*(c.cells for c in columns), strict=True)),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


# what opens a cell, code, emphasis, HTML or a link; brackets only where a link would follow
_MARKDOWN = re.compile(r"[\\`|*<>&~]|\](?=[(\[:])")


def _markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\g<0>", text)


def latex(rows: Sequence[Row], joined: Joined = Joined()) -> str:
    """Booktabs tables in floats, their notes in the first one's caption; needs ``\\usepackage{booktabs}``."""
    return in_latex(told(rows, joined)) if rows else f"% {EMPTY}\n"


def in_latex(found: Document) -> str:
    """A document as floats."""
    tables = [(each.title, each.columns) for each in (*found.sheets, *found.details)]
    above = [found.caption] if found.caption else []
    floats: list[str] = []
    for title, columns in tables:
        floats.append(floating(columns, [*([title] if title else []), *(() if floats else [*above, *found.notes])]))
    return "\n".join(floats)


def floating(columns: Sequence[Column], notes: Sequence[str]) -> str:
    """One booktabs table in a float, with its notes as the caption."""
    import pandas as pd

    caption = " ".join(_latex(note if note.endswith(".") else f"{note}.") for note in notes)

    frame = pd.DataFrame({_latex(column.title): [_latex(cell) for cell in column.cells] for column in columns})
    return frame.to_latex(
        index=False,
        escape=False,  # `_latex` also knows what pandas leaves: a row that begins with a bracket
        column_format="".join(column.justify[0] for column in columns),
        caption=caption,
        position="t",
    )


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "[": "{[}",  # after the \\ of the row above it would be an option
        "]": "{]}",
        "*": "{*}",  # likewise
        NONE: "--",
        NOT_COMPARED: r"\dag{}",
        "×": r"$\times$",
        **{character: f"\\{character}" for character in "&%$#_{}"},
    }
)


def _latex(text: str) -> str:
    return text.translate(_LATEX)


def csv(rows: Sequence[Row], joined: Joined = Joined()) -> str:
    """`frame` as comma-separated values, without the wait for pandas; what there is none of is empty."""
    from csv import DictWriter

    columns, lines = _flattened(rows, joined)
    text = io.StringIO()
    writer = DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")  # columns without a value in any row
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def frame(rows: Sequence[Row], joined: Joined = Joined()) -> "pd.DataFrame":
    """One line per row, with a figure and the ends of its 95 % interval for every size of any row.

    ``latency_<size>_ms`` is a median; means by ModelBench stand in ``modelbench_<size>_ms``. What only some rows have,
    such as load times and plans, has columns where any row has it.
    """
    import pandas as pd

    columns, lines = _flattened(rows, joined)
    # whole numbers, also beside a row without
    return pd.DataFrame(lines, columns=columns).astype(dict.fromkeys(("params", "classes", "cores"), "Int64"))


def _flattened(rows: Sequence[Row], joined: Joined) -> tuple[list[str], list[dict[str, object]]]:
    """The columns of `frame`, and a line of values by column for each row."""
    lines = [_flat(row, joined) for row in rows]
    further = {name: None for cells in (joined.cells or {}).values() for name in cells}
    known = {column for line in lines for column, value in line.items() if value is not None}
    sized = [*_SIZED, *_COUNTED, *(f"{name}_{{size}}" for name in further)]
    optional = [*_OPTIONAL, *(name.format(size=_field(size)) for size in sizes_of(rows) for name in sized)]
    columns = [
        *_FLAT,
        *(f"{prefix}_{size}{end}_ms" for prefix, size in _figures_of(rows) for end in ("", "_low", "_high")),
        *(column for column in optional if column in known),
        *(f"published_{name}" for name in _FIGURES),
        "warnings",
        "failed",
    ]
    return columns, lines


def json(rows: Sequence[Row], joined: Joined = Joined()) -> str:
    """A list of rows with their cells by size, every figure in full precision, published ones with their source."""
    return msgspec.json.format(msgspec.json.encode([_nested(row, joined) for row in rows]), indent=2).decode() + "\n"


FORMATS: dict[str, Callable[[Sequence[Row], Joined], str]] = {
    "markdown": markdown,
    "csv": csv,
    "json": json,
    "latex": latex,
}

# how a document is written that is no terminal's
DOCUMENTS: dict[str, Callable[[Document], str]] = {"markdown": in_markdown, "latex": in_latex}

# statistic -> what its figures are called in CSV and in JSON
_CALLED = {Statistic.MEDIAN: ("latency", "median_ms"), Statistic.TRIMMED_MEAN: ("modelbench", "trimmed_mean_ms")}


def _figures_of(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """What the figures are called, and their size, of every column that is needed."""
    return [
        (prefix, size)
        for statistic, (prefix, _) in _CALLED.items()
        for size in map(_field, sizes_of([row for row in rows if row.method.statistic is statistic]))
    ]


def _field(size: str) -> str:
    """A size in the name of a column."""
    return size.replace(" ", "_")


# column -> value, for what a row has once
_FLAT: dict[str, Callable[[Row], object]] = {
    "model": lambda row: row.model,
    "variant": lambda row: row.variant,
    "head": lambda row: row.head.value if row.head else None,
    "classes": lambda row: row.classes,
    "weights": lambda row: row.weights.label if row.weights else None,
    "fused": lambda row: row.fused.value if row.fused else None,
    "params": lambda row: row.reference.params if row.reference else None,
    "gmacs": lambda row: macs_per_image(row.reference) / 1e9 if row.reference else None,
    "gmacs_size": lambda row: row.reference.shape.size if row.reference else None,
    "top1": lambda row: _top1(row),
    "device": lambda row: row.device.name,
    "backend": lambda row: row.device.backend,
    "precision": lambda row: row.precision,
    "batch": lambda row: row.batch,
    "options": lambda row: " ".join(f"{name}={value}" for name, value in sorted(row.device.options.items())),
    "window": lambda row: row.window.value if row.window else None,
    "statistic": lambda row: row.method.statistic.value,
    "warmup": lambda row: row.method.warmup,
    "runs": lambda row: row.method.runs,
    "rounds": lambda row: row.method.rounds,
    "processor": lambda row: row.machine.processor,
    "cores": lambda row: row.machine.cores,
    "quota": lambda row: row.machine.quota,
    "accelerator": lambda row: row.machine.accelerator,
    "driver": lambda row: row.machine.driver,
    "os": lambda row: row.machine.os,
    "python": lambda row: row.machine.python,
    "host": lambda row: row.machine.host,
    "machine": lambda row: row.machine.name or None,
    "first": lambda row: min(cell.finished for cell in row.cells.values()),
    "last": lambda row: max(cell.finished for cell in row.cells.values()),
    "published_as": lambda row: row.published.label if row.published else None,
}

# the same, of what is left out where no row has it; None is what goes without saying
_OPTIONAL: dict[str, Callable[[Row], object]] = {
    "form": lambda row: form(row) or None,
    "pacing": lambda row: row.pacing.value if row.pacing is not Pacing.BACK_TO_BACK else None,
    "loading": lambda row: row.method.loading if row.method.loading != "once" else None,
    "trim": lambda row: row.method.trim or None,
    "toolkit": lambda row: row.toolkit or None,
    "compared": lambda row: False if not all(map(compared, row.measured)) else None,
    "proved": lambda row: False if any(_unproved(cell) for cell in row.measured) else None,
}


def _unproved(cell: Measurement) -> bool:
    return isinstance(cell.artifact, Foreign) or cell.artifact.parity is None


# end of a column's name -> value
_OF_QUANTILE: dict[str, Callable[[Quantile], float]] = {
    "": lambda tail: tail.value_ms,
    "_low": lambda tail: tail.interval.low,
    "_high": lambda tail: tail.interval.high,
}

# and of what a row has at each size
_SIZED: dict[str, Callable[[Measurement], object]] = {
    "{size}_ms_per_image": lambda cell: cell.ms_per_image if cell.shape and cell.shape.batch > 1 else None,
    **{f"{title.replace(' ', '_')}_{{size}}_ms": value for title, value in STARTING.items()},
    "planned_operations_{size}": lambda cell: len(cell.placement.operations) if cell.placement else None,
    **{
        f"planned_{unit.value.replace('-', '_')}_{{size}}": lambda cell, unit=unit: (
            cell.placement.shares[unit] if cell.placement else None
        )
        for unit in Unit
    },
    **{
        f"planned_{unit.value.replace('-', '_')}_cost_{{size}}": lambda cell, unit=unit: (
            cell.placement.costs[unit] if cell.placement and cell.placement.costs else None
        )
        for unit in Unit
    },
    "planned_eligible_{size}": lambda cell: cell.placement.eligible if cell.placement else None,
    "planned_switches_{size}": lambda cell: cell.placement.switches if cell.placement else None,
    "planned_elsewhere_{size}": lambda cell: (
        kinds(cell.placement.elsewhere, len(cell.placement.elsewhere)) if cell.placement else None
    ),
    **{
        f"{name}_{{size}}{end}_ms": lambda cell, quantile=quantile, of=of: (
            of(tail) if (tail := quantile_of(cell, quantile)) else None
        )
        for name, quantile in QUANTILES.items()
        for end, of in _OF_QUANTILE.items()
    },
    "layers_{size}": lambda cell: len(cell.layers) or None,
    "layers_{size}_sum_ms": lambda cell: milliseconds(cell.layers) if cell.layers else None,
}

# and of what was counted at each size, where that was asked for; in percent, as published figures are
_COUNTED: dict[str, Callable[[Accuracy], object]] = {
    "measured_top1_{size}": lambda found: 100 * found.top1_share.value,
    "measured_top1_{size}_low": lambda found: 100 * found.top1_share.low,
    "measured_top1_{size}_high": lambda found: 100 * found.top1_share.high,
    "measured_top5_{size}": lambda found: 100 * found.top5_share.value if found.top5_share else None,
    "measured_top5_{size}_low": lambda found: 100 * found.top5_share.low if found.top5_share else None,
    "measured_top5_{size}_high": lambda found: 100 * found.top5_share.high if found.top5_share else None,
    "measured_images_{size}": lambda found: found.images,
    "measured_data_{size}": lambda found: found.evaluation.digest,
}


def _top1(row: Row) -> float | None:
    """Measured, in percent: of the file at the size whose multiply-accumulates are given, where it was counted."""
    found = (row.accuracies or {}).get(row.reference.shape) if row.reference else None
    return 100 * found.top1_share.value if found else None


_FIGURES = tuple(name for name in Published.__struct_fields__ if name not in ("name", "size"))


def _flat(row: Row, joined: Joined) -> dict[str, object]:
    line = {column: value(row) for column, value in (_FLAT | _OPTIONAL).items()}
    line |= {f"published_{name}": figure.value for name, figure in _figures(row).items() if figure}
    prefix, _ = _CALLED[row.method.statistic]
    failed: list[str] = []
    for shape, cell in row.cells.items():
        if isinstance(cell, Failure):
            failed.append(f"{size_of(shape)}: {cell.stage}: {cell.reason}")
            continue
        size = _field(size_of(shape))
        line[f"{prefix}_{size}_ms"] = cell.figure_ms
        if interval := cell.interval_ms:
            line[f"{prefix}_{size}_low_ms"] = interval.low
            line[f"{prefix}_{size}_high_ms"] = interval.high
        line |= {name.format(size=size): value(cell) for name, value in _SIZED.items()}
        if counted := (row.accuracies or {}).get(shape):
            line |= {name.format(size=size): value(counted) for name, value in _COUNTED.items()}
        line |= {f"{name}_{size}": value for name, value in joined.of(row, shape).items()}
    warnings = (f"{size_of(shape)}: {text}" for shape, texts in row.warnings.items() for text in texts)
    return line | {"warnings": "; ".join(warnings), "failed": "; ".join(failed)}


def _nested(row: Row, joined: Joined) -> dict[str, object]:
    warnings = row.warnings
    return {
        "model": row.model,
        "variant": row.variant,
        "head": row.head,
        "classes": row.classes,
        "weights": row.weights,
        "fused": row.fused,
        **({"form": row.form} if row.form else {}),
        **({"functions": [shape.size for shape in row.functions]} if row.functions else {}),
        "params": row.reference.params if row.reference else None,
        "top1": _top1(row),
        "device": row.device,
        "precision": row.precision,
        "batch": row.batch,
        "method": row.method,
        "window": row.window,
        **({"pacing": row.pacing} if row.pacing is not Pacing.BACK_TO_BACK else {}),
        **({"toolkit": row.toolkit} if row.toolkit else {}),
        "machine": row.machine,
        "latency": {
            size_of(shape): {**_nested_cell(cell, warnings.get(shape, [])), **joined.of(row, shape)}
            for shape, cell in row.cells.items()
        },
        **(
            {"accuracy": {size_of(shape): _nested_accuracy(found) for shape, found in row.accuracies.items()}}
            if row.accuracies is not None
            else {}
        ),
        "published": {"as": row.published.label, **_figures(row)} if row.published else None,
    }


def _nested_cell(cell: Measurement | Failure, warnings: list[str]) -> dict[str, object]:
    if isinstance(cell, Failure):
        return {FAILED: {"stage": cell.stage, "reason": cell.reason}, "finished": cell.finished}
    interval, made = cell.interval_ms, cell.artifact
    ours = None if isinstance(made, Foreign) else made
    _, figure = _CALLED[cell.method.statistic]
    found: dict[str, object] = {
        figure: cell.figure_ms,
        "low_ms": interval.low if interval else None,
        "high_ms": interval.high if interval else None,
        "confidence": interval.confidence if interval else None,
        "p90_ms": cell.p90_ms,
        "p99_ms": cell.p99_ms,
        "mad_ms": cell.mad_ms,
        "ms_per_image": cell.ms_per_image,
        "runs": len(cell.samples_ms),
        "window": cell.window,
        "gmacs": macs_per_image(ours) / 1e9 if ours else None,
        "artifact": ours.sha256 if ours else None,
        "finished": cell.finished,
        "warnings": warnings,
    }
    for name, quantile in QUANTILES.items():
        if tail := quantile_of(cell, quantile):
            found |= {f"{name}{end}_ms": of(tail) for end, of in _OF_QUANTILE.items()}
    if not compared(cell):
        found["compared"] = False
    if _unproved(cell):
        found["proved"] = False
    if isinstance(made, Foreign):
        found["inputs"] = made.inputs
    for name, values in (("compile_ms", cell.compile_ns), ("load_ms", cell.load_ns), ("cold_ms", cell.cold_ns)):
        if values:
            found[name] = [value / 1e6 for value in values]
    if cell.layers:  # of a pass of its own: their sum is not the latency
        found["layers"] = {
            "sum_ms": milliseconds(cell.layers),
            "blocks_ms": {block: milliseconds(layers) for block, layers in by_block(cell.layers).items()},
            "layers": [
                {"name": layer.name, "kind": layer.kind, "block": layer.block, "median_ms": layer.median_ns / 1e6}
                for layer in cell.layers
            ],
        }
    if plan := cell.placement:
        found["planned"] = {
            "operations": plan.counts,
            "shares": plan.shares,
            "costs": plan.costs,
            "eligible": plan.eligible,
            "switches": plan.switches,
            "elsewhere": plan.elsewhere,
        }
    return found


def _nested_accuracy(found: Accuracy) -> dict[str, object]:
    return {
        "top1": found.top1_share,
        "top5": found.top5_share,
        "images": found.images,
        "top1_images": found.top1,
        "top5_images": found.top5,
        "unreadable": [each.name for each in found.unreadable],
        "artifact": found.artifact.sha256,
        "data": found.evaluation.digest,
        "how": found.how,
        "preprocessing": found.preprocessing,
        "finished": found.finished,
    }


def _figures(row: Row) -> dict[str, Figure | None]:
    """The published figures that stand in the row: the model's, whatever weights were timed."""
    model = row.published
    return {name: getattr(model, name) for name in _FIGURES} if model else {}
