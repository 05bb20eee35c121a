"""Texts about measurements: a model's name and form, and the conditions under which it ran."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from fastvit_bench.records import (
    CallPattern,
    Device,
    Failure,
    Head,
    Interval,
    Measurement,
    Method,
    Shape,
    Statistic,
    Unit,
    Window,
)
from fastvit_bench.render.rows import Row, planned_share, size_of
from fastvit_bench.render.text import latency, printable, significant, whole_percent

FAILED = "failed"

# --- names ------------------------------------------------------------------------------------------------------------


def model_name(row: Row) -> str:
    """Return the model's name, with its head where that is not the usual one."""
    return printable(row.model) + (f" ({row.head})" if row.head not in (None, Head.CLASSIFIER) else "")


def variant_label(row: Row) -> str:
    """Return what distinguishes the row's file from others of its network: ``input tensor, compress palette6``."""
    options = {name: value for name, value in sorted(row.form.items()) if value not in _USUAL}
    parts = [f"{name} {value[:8] if name == 'labels' else value}" for name, value in options.items()]
    if row.functions:
        parts.append(f"{'+'.join(shape.size for shape in row.functions)} in one file")
    return printable(", ".join(parts))


_USUAL = {"none", "standard"}  # nothing was done, or nothing special


def label(row: Row, shape: Shape | None, marks: Mapping[bytes, str]) -> str:
    """Return the name of a cell, for notes."""
    return f"{model_name(row)} {size_of(shape)}{marks[row.key]}"


# --- one figure as a line ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Quantile:
    """A quantile of the samples with its 95 % interval."""

    value_ms: float
    interval: Interval


TAILS = {"p99": 0.99, "p99.9": 0.999}  # title -> quantile


def quantile_of(cell: Measurement, quantile: float) -> Quantile | None:
    """Return a quantile of all samples; None where they are too few to enclose it (of p99 368, of p99.9 3688)."""
    value = cell.quantile_ms(quantile)
    interval = None if value is None else cell.quantile_interval_ms(quantile)
    return None if value is None or interval is None else Quantile(value, interval)


# statistic -> what its figures are called
STATISTICS: dict[Statistic, str] = {
    Statistic.MEDIAN: "median",
    Statistic.TRIMMED_MEAN: "ModelBench: mean of trimmed rounds",
}


def live_row(cell: Measurement | Failure) -> str:
    """Return a finished cell as one line, for printing as soon as it arrives.

    The line has the model, the size, the figure with its interval, the quantiles that the samples can show, the plan
    and the warnings.
    """
    if isinstance(cell, Failure):
        where = cell.cell
        return f"{_name(where.model, where.shape)}  {FAILED} at {cell.stage}: {printable(cell.reason)}"
    line = f"{_name(cell.artifact.model, cell.shape)}  {latency(cell.figure_ms, cell.interval_ms)} ms"
    if cell.method.statistic is Statistic.MEDIAN:
        line += "" if cell.p90_ms is None else f"  p90 {significant(cell.p90_ms, 3)} ms"
        for title, quantile in TAILS.items():
            if tail := quantile_of(cell, quantile):
                line += f"  {title} {latency(tail.value_ms, tail.interval)} ms"
    else:
        line += f"  ({STATISTICS[cell.method.statistic]})"
    if cell.placement:
        line += f"  planned on the Neural Engine {whole_percent(planned_share(cell.placement, Unit.NEURAL_ENGINE))}"
    return "  ".join([line, *(f"* {warning}" for warning in cell.warnings)])


def _name(model: str, shape: Shape | None) -> str:
    return f"{printable(model):<14} {size_of(shape):>7} b{shape.batch if shape else 1}"


# --- under which conditions -------------------------------------------------------------------------------------------


def legend(rows: Sequence[Row]) -> tuple[dict[bytes, str], list[str]]:
    """Return a mark behind the device's name, by the row's key, and one line of conditions per mark.

    The line names machine, method and window. A single set of conditions needs no mark.
    """
    groups = _alike(rows)
    marks: dict[bytes, str] = {}
    lines: list[str] = []
    for number, members in enumerate(groups, 1):
        mark = f" ({number})" if len(groups) > 1 else ""
        marks |= {row.key: mark for row in members}
        facts = "; ".join(fact for fact in _conditions(members).values() if fact)
        lines.append(f"{mark} Measured: {facts}.".strip())
    return marks, lines


def brief_legend(rows: Sequence[Row]) -> list[str]:
    """Return the conditions in short: what all rows share of the most telling ones, and what tells marks apart."""
    groups = [_conditions(members) for members in _alike(rows)]
    shared = {name for name in groups[0] if len({facts[name] for facts in groups}) == 1}
    common = [_short(groups[0][name]) for name in _TELLING if name in shared and groups[0][name]]
    apart = [
        f"({number}) {', '.join(_short(facts[name]) for name in facts if name not in shared and facts[name])}"
        for number, facts in enumerate(groups, 1)
    ]
    return [f"{'; '.join(common)}.", *([f"{'; '.join(apart)}."] if len(groups) > 1 else [])]


_TELLING = ("method", "window", "backend", "accelerator", "hardware", "days")  # of the conditions


def _short(fact: str) -> str:
    """Return a condition without its explanation in parentheses and the size of memory."""
    return re.sub(r", \d+ GiB$", "", fact.partition(" (")[0])


def _alike(rows: Sequence[Row]) -> list[list[Row]]:
    """Return the rows in groups of equal conditions."""
    groups: dict[bytes, list[Row]] = {}
    for row in rows:
        device = (row.device.name, row.device.backend, row.device.options)
        machine = msgspec.structs.replace(row.machine, host="")  # every container has a host name of its own
        conditions = (device, machine, row.method, row.window, row.pacing, row.clock, row.toolkit)
        groups.setdefault(msgspec.json.encode(conditions, order="sorted"), []).append(row)
    return list(groups.values())


# window -> what the time includes
_WINDOWS: dict[Window | None, str] = {
    Window.COMPUTE: "compute window (copies to and from the device left out)",
    Window.PREDICTION: "prediction window (the toolkit's own reading around its native call)",
    Window.END_TO_END: "end-to-end window (copies to and from the device included)",
    None: "nothing timed",
}


def _chosen(device: Device) -> list[tuple[str, object]]:
    """Return the options of a device that say something.

    -1 stands for whichever GPU fits, and "" for no choice.
    """
    return [(name, value) for name, value in sorted(device.options.items()) if value != "" and value != -1]


def _conditions(rows: Sequence[Row]) -> dict[str, str]:
    """Return how, on what and when rows were measured that share all of this but the days, each by its name."""
    row = rows[0]
    machine = row.machine
    days = sorted({cell.finished[:10] for member in rows for cell in member.cells.values()})
    hardware = [
        f"machine {machine.name}" if machine.name else "",
        machine.processor,
        machine.processors,
        f"{machine.memory_mib / 1024:.0f} GiB" if machine.memory_mib else "",
    ]
    facts = {
        "method": _how(row.method, cold=any(cell.cold_ns for member in rows for cell in member.measured)),
        "window": _WINDOWS[row.window],
        "clock": f"read by {row.clock}"
        if row.clock and not row.clock.startswith("time.")
        else "",  # not by this package's own stopwatch
        "pace": _paced(row),
        "backend": ", ".join([row.device.backend, *(f"{name} {value}" for name, value in _chosen(row.device))]),
        "engine": f"engine of {row.toolkit}" if row.toolkit else "",
        "accelerator": machine.accelerator or "",
        "driver": f"driver {machine.driver}" if machine.driver else "",
        "hardware": ", ".join(fact for fact in hardware if fact),
        "system": ", ".join([machine.os, *([f"Python {machine.python}"] if machine.python else [])]),
        "packages": ", ".join(f"{name} {version}" for name, version in sorted(machine.packages.items())),
        "days": days[0] if len(days) == 1 else f"{days[0]} to {days[-1]}",
    }
    return {name: printable(fact) for name, fact in facts.items()}


def _how(method: Method, *, cold: bool) -> str:
    """Return the method in words.

    With `cold`, the untimed run of each round was timed by others and is kept apart.
    """
    anew = method.loading == "per-round"
    untimed = f"{method.warmup} untimed run{'s' * (method.warmup != 1)}"
    if method.statistic is Statistic.TRIMMED_MEAN:
        return (
            f"mean over {method.rounds} rounds of {method.runs} runs, each round "
            f"{'with the file loaded again, ' * anew}after {untimed}, {method.trim} lowest and {method.trim} highest "
            f"left out"
        )
    rounds = f"{method.rounds} x {method.runs}" if method.rounds > 1 else str(method.runs)
    if method.processes > 1:
        rounds += f" runs in {method.processes} processes"
    elif method.duration_ms:
        rounds = f"at least {rounds} runs and {_span(method.duration_ms)} of them"
    else:
        rounds += " runs"
    if cold:
        after = "the first of each round, which is kept apart"
    elif method.warmup_ms:
        counted = f"{method.warmup} and " if method.warmup else ""
        after = f"{'at least ' if counted else ''}{counted}{_span(method.warmup_ms)} of untimed ones"
    else:
        after = untimed.replace("run", "one")
    if method.steady:
        after += f", until their medians differed by less than {100 * method.steady:g} %"
    return f"median of {rounds} after {after}{', the file loaded again for each round' * anew}"


def _span(milliseconds: int) -> str:
    return f"{milliseconds / 1000:g} s" if milliseconds >= 1000 else f"{milliseconds} ms"


def _paced(row: Row) -> str:
    """Return the pace of the runs where it is not the usual one, and of Core ML, where both occur."""
    if row.pacing is CallPattern.REMOTE_CALL:
        return "each run called over the cable, the device idle in between"
    return "back to back" if row.window is Window.PREDICTION else ""
