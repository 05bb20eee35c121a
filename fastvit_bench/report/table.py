"""Measurements laid out as tables: a line per model and setting, a column per image size, published figures apart."""

import re
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import TYPE_CHECKING, Literal

import msgspec

from fastvit_bench.records import (
    Failure,
    Head,
    Interval,
    Measurement,
    Shape,
    Window,
)
from fastvit_bench.report import published
from fastvit_bench.report.published import Figure, Published
from fastvit_bench.report.rows import REFERENCE_SIZE, Row, sizes_of

if TYPE_CHECKING:  # both take longer to import than `--help` may
    import pandas as pd
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

NONE = "–"  # not measured, as opposed to nothing to measure
RANDOM = "random weights"
FAILED = "failed"
EMPTY = "No measurements."

# --- numbers as text --------------------------------------------------------------------------------------------------


def latency(median: float, interval: Interval | None) -> str:
    """``10.21 [10.18, 10.25]``: no more digits than the interval supports and four at most, its ends rounded outwards.

    The interval's width keeps two digits where they begin below 355, else one, as the Particle Data Group rounds
    errors (Review of Particle Physics, introduction, section 5.3). Without an interval three digits are given.
    """
    if interval is None:
        return significant(median, 3)
    places = 3 - _exponent(median, 4)
    if (width := interval.high - interval.low) > 0:
        exponent = _exponent(width, 3)
        places = min(places, (1 if width < 3.55 * 10.0**exponent else 0) - exponent)
    middle = _rounded(median, places, ROUND_HALF_EVEN)
    low, high = _rounded(interval.low, places, ROUND_FLOOR), _rounded(interval.high, places, ROUND_CEILING)
    return f"{middle} [{low}, {high}]"


def significant(value: float, digits: int) -> str:
    """A positive number to so many significant digits, without an exponent."""
    return _rounded(value, digits - 1 - _exponent(value, digits), ROUND_HALF_EVEN)


def _exponent(value: float, digits: int) -> int:
    """Power of ten of the leading digit once rounded to so many digits: of 9.996 to three it is 1."""
    return int(f"{value:.{digits - 1}e}".partition("e")[2])


def _rounded(value: float, places: int, rounding: str) -> str:
    """In decimal, where 10.18 is 10.18: a binary float rounded outwards would become 10.17."""
    rounded = Decimal(repr(value)).quantize(Decimal(1).scaleb(-places), rounding=rounding)
    return f"{rounded:f}"


def live_row(cell: Measurement | Failure) -> str:
    """A finished cell as one line, for the moment it arrives: model, size, median with interval, the quantiles
    that the samples can show, warnings."""
    if isinstance(cell, Failure):
        where = cell.cell
        return f"{_name(where.model, where.shape)}  {FAILED} at {cell.stage}: {_plain(cell.reason)}"
    line = f"{_name(cell.artifact.model, cell.artifact.shape)}  {latency(cell.median_ms, cell.interval_ms)} ms"
    for name, value in (("p90", cell.p90_ms), ("p99", cell.p99_ms)):
        if value is not None:
            line += f"  {name} {significant(value, 3)} ms"
    return "  ".join([line, *(f"* {warning}" for warning in cell.warnings)])


def _name(model: str, shape: Shape) -> str:
    return f"{_plain(model):<14} {shape.size:>7} b{shape.batch}"


def _plain(text: str) -> str:
    """One line of printable characters: names come from files, and a terminal obeys what it is sent."""
    return "".join(c for c in " ".join(text.split()) if c.isprintable())


# --- rows as columns of text ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Column:
    title: str
    cells: list[str]
    justify: Literal["left", "right"] = "left"


@dataclass(frozen=True)
class _Sheet:
    """Everything a person reads, as text, in the order it is read."""

    model: list[_Column]
    latency: list[_Column]
    setting: list[_Column]
    published: list[_Column]
    notes: list[str]

    @property
    def columns(self) -> list[_Column]:
        return [*self.model, *self.latency, *self.setting, *self.published]


def _sheet(rows: Sequence[Row]) -> _Sheet:
    sizes = sizes_of(rows)
    references = [row.reference for row in rows]
    counted = [reference.artifact.shape.size for reference in references if reference]
    common = REFERENCE_SIZE if REFERENCE_SIZE in counted or not counted else counted[0]
    marks, legend = _legend(rows)
    warned: dict[str, list[str]] = {}
    failed: dict[str, list[str]] = {}
    latencies = {size: [""] * len(rows) for size in sizes}
    for at, row in enumerate(rows):
        for shape, cell in row.cells.items():
            label = f"{_model(row)} {shape.size}{marks[at]}"
            if isinstance(cell, Failure):
                latencies[shape.size][at] = FAILED
                failed.setdefault(f"{cell.stage}: {_plain(cell.reason)}", []).append(label)
                continue
            value, _, interval = latency(cell.median_ms, cell.interval_ms).partition(" ")
            warnings = cell.warnings
            for warning in warnings:
                warned.setdefault(_plain(warning), []).append(label)
            latencies[shape.size][at] = f"{value}{'*' if warnings else ''} {interval}".rstrip()
    return _Sheet(
        model=[
            _Column("model", [_model(row) for row in rows]),
            _Column("weights", [_plain(row.weights.label) for row in rows]),
            _Column("fused", [row.fused.value for row in rows]),
            _Column("params M", [significant(m.artifact.params / 1e6, 3) if m else NONE for m in references], "right"),
            _Column(f"GMACs at {common}", [_gmacs(m, common) for m in references], "right"),
            _Column("top-1 %", [RANDOM if row.is_random else NONE for row in rows], "right"),
        ],
        latency=[_Column(f"{size} ms", latencies[size], "right") for size in sizes],
        setting=[
            _Column("device", [f"{_plain(row.device.name)}{mark}" for row, mark in zip(rows, marks, strict=True)]),
            _Column("batch", [str(row.batch) for row in rows], "right"),
            _Column("precision", [row.precision for row in rows]),
        ],
        published=[
            _Column(title, [text(row, row.published) if row.published else "" for row in rows], justify)
            for title, (text, justify) in _PUBLISHED.items()
        ],
        notes=[
            *legend,
            *(f"* {warning}: {_some(labels)}" for warning, labels in warned.items()),
            *(f"{FAILED} at {reason}: {_some(labels)}" for reason, labels in failed.items()),
            *_published_notes(rows),
        ],
    )


def _model(row: Row) -> str:
    """With the head where it is not the usual one."""
    return _plain(row.model) + ("" if row.head is Head.CLASSIFIER else f" ({row.head})")


def macs_per_image(found: Measurement) -> float:
    """Multiply-accumulates of one image, counted on the exported network."""
    return found.artifact.macs / found.artifact.shape.batch


def _gmacs(found: Measurement | None, common: str) -> str:
    """With the size where it is not the one in the heading."""
    if found is None:
        return NONE
    text, size = significant(macs_per_image(found) / 1e9, 3), found.artifact.shape.size
    return text if size == common else f"{text} at {size}"


def _legend(rows: Sequence[Row]) -> tuple[list[str], list[str]]:
    """A mark behind the device's name per row, and one line on machine, method and window per mark.

    A single set of conditions needs no mark.
    """
    groups: dict[bytes, list[int]] = {}
    for at, row in enumerate(rows):
        device = (row.device.name, row.device.backend, row.device.options)
        conditions = (device, row.machine, row.method, row.window)
        groups.setdefault(msgspec.json.encode(conditions, order="sorted"), []).append(at)
    marks = [""] * len(rows)
    lines = ["Latency in ms per batch, 95 % interval of the median in brackets."]
    for number, members in enumerate(groups.values(), 1):
        mark = f" ({number})" if len(groups) > 1 else ""
        for at in members:
            marks[at] = mark
        lines.append(f"{mark} Measured: {_conditions([rows[at] for at in members])}.".strip())
    return marks, lines


# window -> what the clock saw
_WINDOWS: dict[Window | None, str] = {
    Window.COMPUTE: "compute window (copies to and from the device left out)",
    Window.END_TO_END: "end-to-end window (copies to and from the device included)",
    None: "nothing timed",
}


def _conditions(rows: Sequence[Row]) -> str:
    """How, on what and when: of rows that share it all but for the days."""
    row = rows[0]
    method, machine = row.method, row.machine
    rounds = f"{method.rounds} x {method.runs}" if method.rounds > 1 else str(method.runs)
    days = sorted({cell.finished[:10] for each in rows for cell in each.cells.values()})
    facts = [
        f"{method.statistic} of {rounds} runs after {method.warmup} untimed ones",
        _WINDOWS[row.window],
        ", ".join([row.device.backend, *(f"{name} {value}" for name, value in sorted(row.device.options.items()))]),
        machine.accelerator or "",
        f"driver {machine.driver}" if machine.driver else "",
        f"{machine.processor}, {machine.cores} cores, {machine.memory_mib / 1024:.0f} GiB",
        f"{machine.os}, Python {machine.python}",
        ", ".join(f"{name} {version}" for name, version in sorted(machine.packages.items())),
        days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}",
    ]
    return _plain("; ".join(fact for fact in facts if fact))


def _some(labels: Sequence[str]) -> str:
    """The first six, and how many more."""
    more = f" and {len(labels) - 6} more" if len(labels) > 6 else ""
    return ", ".join(labels[:6]) + more


# --- published figures as text ----------------------------------------------------------------------------------------


def _printed(figure: Figure | None) -> str:
    return f"{figure.value:g}" if figure else ""


def _top1(row: Row, model: Published) -> str:
    """Plain / distilled: of the released weights, which a checkpoint of that name holds, else the paper's."""
    if row.is_random:
        return ""
    pair = (model.released_top1, model.released_top1_distilled)
    if pair == (None, None):
        pair = (model.top1, model.top1_distilled)
    return " / ".join(_printed(figure) or NONE for figure in pair)


# heading -> text, and side of the column
_PUBLISHED: dict[str, tuple[Callable[[Row, Published], str], Literal["left", "right"]]] = {
    "published as": (lambda _, model: model.label, "left"),
    "published params M": (lambda _, model: _printed(model.params_m), "right"),
    "published FLOPs G": (lambda _, model: _printed(model.flops_g), "right"),
    "published top-1 %": (_top1, "right"),
    "published iPhone ms": (lambda _, model: _printed(model.iphone_ms), "right"),
    "published GPU ms (batch 8)": (lambda _, model: _printed(model.gpu_ms), "right"),
}


def _published_notes(rows: Sequence[Row]) -> list[str]:
    notes: list[str] = []
    known = [row for row in rows if row.published]
    if known:
        notes.append(
            "Published: FastViT paper, tables 5 and 6, at the size behind the @ (iPhone 12 Pro, Core ML, batch 1; "
            "RTX 2080 Ti, TensorRT, batch 8)."
        )
    if any(not row.is_random for row in known):
        notes.append(
            "Published top-1: ImageNet-1k, plain / distilled, of the released checkpoints (the paper's where none are)."
        )
    unknown = {row.published_as: None for row in rows if row.published_as not in {None, *published.models()}}
    notes += [f"Nothing is published under the name '{_plain(name)}'." for name in unknown if name]
    return notes


# --- on a terminal ----------------------------------------------------------------------------------------------------


def rich(rows: Sequence[Row], width: int) -> "Group":
    """The rows for a terminal of so many columns; legible from 80 on.

    One wide table if it fits, else the published figures below the measured ones, else a block of lines per row.
    """
    from rich.console import Console, Group
    from rich.measure import Measurement as Extent
    from rich.text import Text

    if not rows:
        return Group(EMPTY)
    sheet = _sheet(rows)
    endless = Console(width=100_000)

    def fits(tables: "list[Table]") -> bool:
        return all(Extent.get(endless, endless.options, table).maximum <= width for table in tables)

    laid_out = (layout(sheet) for layout in (_beside, _below))
    tables = next(filter(fits, laid_out), None) or _blocks(sheet)
    return Group(*tables, *(Text(note, style="dim") for note in sheet.notes))


def _beside(sheet: _Sheet) -> "list[Table]":
    """Everything in one table."""
    return [_grid([*_folded(sheet.model), *sheet.latency, *sheet.setting, *sheet.published])]


def _below(sheet: _Sheet) -> "list[Table]":
    """Measured figures in one table, published ones in another."""
    return [_grid([*_folded(sheet.model), *sheet.latency, *sheet.setting]), *_published_grid(sheet)]


def _blocks(sheet: _Sheet) -> "list[Table]":
    """A block per row, its sizes below each other."""
    from rich.text import Text

    table = _empty_table()
    table.add_column("model", overflow="fold")
    table.add_column("device", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("ms", justify="right", no_wrap=True)
    table.add_column("95 % interval", no_wrap=True)
    for at in range(len(sheet.model[0].cells)):
        cells = {column.title.removesuffix(" ms"): column.cells[at] for column in sheet.latency if column.cells[at]}
        parts = [cell.partition(" ") for cell in cells.values()]
        table.add_row(
            _described(sheet.model, at),
            _described(sheet.setting, at),
            Text("\n".join(cells)),
            Text("\n".join(value for value, _, _ in parts), style="bold"),
            Text("\n".join(interval for _, _, interval in parts), style="dim"),
            end_section=True,
        )
    return [table, *_published_grid(sheet)]


def _described(columns: Sequence[_Column], at: int) -> "Text":
    """The first column's cell, and below it the others' behind their headings."""
    from rich.text import Text

    first, *others = columns
    text = Text(first.cells[at], style="bold")
    for column in others:
        text.append(f"\n{column.title} ", style="not bold dim").append(column.cells[at], style="not bold")
    return text


def _published_grid(sheet: _Sheet) -> "list[Table]":
    """One line per published model, no table without one."""
    lines: dict[str, tuple[str, ...]] = {}
    for line in zip(*(column.cells for column in sheet.published), strict=True):
        # the same model with random weights has no accuracy: the fuller line stands for both
        if any(line) and line.count("") <= lines.get(line[0], line).count(""):
            lines[line[0]] = line
    if not lines:
        return []
    by_column = zip(sheet.published, zip(*lines.values(), strict=True), strict=True)
    return [_grid([_Column(column.title, list(cells), column.justify) for column, cells in by_column])]


_FOLD = re.compile(r" |(?=[(@])")


def _folded(columns: Sequence[_Column]) -> list[_Column]:
    """All but the first in two lines where they can: beside an interval under its median that costs no height."""
    first, *others = columns
    return [first, *(replace(column, cells=[_FOLD.sub("\n", cell, 1) for cell in column.cells]) for column in others)]


def _grid(columns: Sequence[_Column]) -> "Table":
    """A line per row; the interval of a latency stands under its median."""
    from rich.text import Text

    table = _empty_table()
    for column in columns:
        longest_word = max(map(len, column.title.split()))
        table.add_column("\n".join(textwrap.wrap(column.title, max(7, longest_word))), justify=column.justify)
    for cells in zip(*(column.cells for column in columns), strict=True):
        line: list[Text] = []
        for cell in cells:
            value, bracket, interval = cell.partition(" [")
            line.append(Text(value, style="bold") + Text(f"\n[{interval}", style="dim") if bracket else Text(cell))
        table.add_row(*line)
    return table


def _empty_table() -> "Table":
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, collapse_padding=True)


# --- as text in a format of its own -----------------------------------------------------------------------------------


def markdown(rows: Sequence[Row]) -> str:
    """A pipe table with its notes as a list below."""
    if not rows:
        return EMPTY + "\n"
    sheet = _sheet(rows)
    lines = [
        [_markdown(column.title) for column in sheet.columns],
        ["--:" if column.justify == "right" else ":--" for column in sheet.columns],
        *([_markdown(cell) for cell in cells] for cells in zip(*(c.cells for c in sheet.columns), strict=True)),
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    notes = "\n".join(f"- {_markdown(note)}" for note in sheet.notes)
    return f"{table}\n\n{notes}\n"


# what opens a cell, code, emphasis, HTML or a link; brackets only where a link would follow
_MARKDOWN = re.compile(r"[\\`|*<>&~]|\](?=[(\[:])")


def _markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\g<0>", text)


def latex(rows: Sequence[Row]) -> str:
    """A booktabs table in a float, its notes as the caption; needs ``\\usepackage{booktabs}``."""
    import pandas as pd

    if not rows:
        return f"% {EMPTY}\n"
    sheet = _sheet(rows)
    frame = pd.DataFrame({_latex(column.title): [_latex(cell) for cell in column.cells] for column in sheet.columns})
    return frame.to_latex(
        index=False,
        escape=False,  # `_latex` also knows what pandas leaves: a row that begins with a bracket
        column_format="".join(column.justify[0] for column in sheet.columns),
        caption=" ".join(_latex(note if note.endswith(".") else f"{note}.") for note in sheet.notes),
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
        **{character: f"\\{character}" for character in "&%$#_{}"},
    }
)


def _latex(text: str) -> str:
    return text.translate(_LATEX)


def csv(rows: Sequence[Row]) -> str:
    """`frame` as comma-separated values."""
    return frame(rows).to_csv(index=False, lineterminator="\n")


def frame(rows: Sequence[Row]) -> "pd.DataFrame":
    """One line per row, with ``latency_<size>_ms`` and the ends of its 95 % interval for every size of any row."""
    import pandas as pd

    columns = [
        *_FLAT,
        *(f"latency_{size}{end}_ms" for size in sizes_of(rows) for end in ("", "_low", "_high")),
        *(f"published_{name}" for name in _FIGURES),
        "warnings",
        "failed",
    ]
    table = pd.DataFrame([_flat(row) for row in rows], columns=columns)
    return table.astype({"params": "Int64"})  # whole numbers, also beside a row without


def json(rows: Sequence[Row]) -> str:
    """A list of rows with their cells by size, every figure in full precision, published ones with their source."""
    return msgspec.json.format(msgspec.json.encode([_nested(row) for row in rows]), indent=2).decode() + "\n"


FORMATS: dict[str, Callable[[Sequence[Row]], str]] = {
    "markdown": markdown,
    "csv": csv,
    "json": json,
    "latex": latex,
}

# column -> value, for what a row has once
_FLAT: dict[str, Callable[[Row], object]] = {
    "model": lambda row: row.model,
    "variant": lambda row: row.variant,
    "head": lambda row: row.head.value,
    "classes": lambda row: row.classes,
    "weights": lambda row: row.weights.label,
    "fused": lambda row: row.fused.value,
    "params": lambda row: row.reference.artifact.params if row.reference else None,
    "gmacs": lambda row: macs_per_image(row.reference) / 1e9 if row.reference else None,
    "gmacs_size": lambda row: row.reference.artifact.shape.size if row.reference else None,
    "top1": lambda _: None,
    "device": lambda row: row.device.name,
    "backend": lambda row: row.device.backend,
    "precision": lambda row: row.precision,
    "batch": lambda row: row.batch,
    "options": lambda row: " ".join(f"{name}={value}" for name, value in sorted(row.device.options.items())),
    "window": lambda row: row.window.value if row.window else None,
    "statistic": lambda row: row.method.statistic,
    "warmup": lambda row: row.method.warmup,
    "runs": lambda row: row.method.runs,
    "rounds": lambda row: row.method.rounds,
    "processor": lambda row: row.machine.processor,
    "cores": lambda row: row.machine.cores,
    "accelerator": lambda row: row.machine.accelerator,
    "driver": lambda row: row.machine.driver,
    "os": lambda row: row.machine.os,
    "python": lambda row: row.machine.python,
    "host": lambda row: row.machine.host,
    "first": lambda row: min(cell.finished for cell in row.cells.values()),
    "last": lambda row: max(cell.finished for cell in row.cells.values()),
    "published_as": lambda row: row.published.label if row.published else None,
}

_FIGURES = tuple(name for name in Published.__struct_fields__ if name not in ("name", "size"))


def _flat(row: Row) -> dict[str, object]:
    line = {column: value(row) for column, value in _FLAT.items()}
    line |= {f"published_{name}": figure.value for name, figure in _figures(row).items() if figure}
    warnings: list[str] = []
    failed: list[str] = []
    for shape, cell in row.cells.items():
        if isinstance(cell, Failure):
            failed.append(f"{shape.size}: {cell.stage}: {cell.reason}")
            continue
        line[f"latency_{shape.size}_ms"] = cell.median_ms
        if interval := cell.interval_ms:
            line[f"latency_{shape.size}_low_ms"] = interval.low
            line[f"latency_{shape.size}_high_ms"] = interval.high
        warnings += [f"{shape.size}: {warning}" for warning in cell.warnings]
    return line | {"warnings": "; ".join(warnings), "failed": "; ".join(failed)}


def _nested(row: Row) -> dict[str, object]:
    reference = row.reference
    return {
        "model": row.model,
        "variant": row.variant,
        "head": row.head,
        "classes": row.classes,
        "weights": row.weights,
        "fused": row.fused,
        "params": reference.artifact.params if reference else None,
        "top1": None,
        "device": row.device,
        "precision": row.precision,
        "batch": row.batch,
        "method": row.method,
        "window": row.window,
        "machine": row.machine,
        "latency": {shape.size: _nested_cell(cell) for shape, cell in row.cells.items()},
        "published": {"as": row.published.label, **_figures(row)} if row.published else None,
    }


def _nested_cell(cell: Measurement | Failure) -> dict[str, object]:
    if isinstance(cell, Failure):
        return {FAILED: {"stage": cell.stage, "reason": cell.reason}, "finished": cell.finished}
    median, interval = cell.median_ms, cell.interval_ms
    return {
        "median_ms": median,
        "low_ms": interval.low if interval else None,
        "high_ms": interval.high if interval else None,
        "confidence": interval.confidence if interval else None,
        "p90_ms": cell.p90_ms,
        "p99_ms": cell.p99_ms,
        "mad_ms": cell.mad_ms,
        "ms_per_image": median / cell.artifact.shape.batch,
        "runs": len(cell.samples_ms),
        "window": cell.window,
        "gmacs": macs_per_image(cell) / 1e9,
        "artifact": cell.artifact.sha256,
        "finished": cell.finished,
        "warnings": cell.warnings,
    }


def _figures(row: Row) -> dict[str, Figure | None]:
    """The published figures that may stand in the row: no accuracy beside random weights."""
    model = row.published
    if model is None:
        return {}
    names = [name for name in _FIGURES if not (row.is_random and "top1" in name)]
    return {name: getattr(model, name) for name in names}
