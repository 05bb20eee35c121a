"""Text that all reports of a comparison share: one sentence, percents, names, the order of cells, conditions."""

import math
from collections.abc import Callable

from fastvit_bench import backends
from fastvit_bench.records import Interval, Machine
from fastvit_bench.records.comparison import (
    ALLOWABLE,
    EXIT_CODES,
    BaselineKind,
    CellResult,
    Comparison,
    Outcome,
    Verdict,
)
from fastvit_bench.render.table import NONE
from fastvit_bench.render.text import printable

POOLED = "all cells together"
LONGEST = 120  # characters of a name in reports for people; formats for programs allow more

# outcome -> verb of one cell, verb of several
_DOES = {
    Outcome.REGRESSED: ("regressed", "regressed"),
    Outcome.INCOMPARABLE: ("cannot be compared", "cannot be compared"),
    Outcome.NO_BASELINE: ("has no baseline yet", "have no baseline yet"),
    Outcome.INCONCLUSIVE: ("is inconclusive", "are inconclusive"),
    Outcome.PASS: ("passes", "pass"),
    Outcome.IMPROVED: ("improved", "improved"),
}
_WORST_FIRST = tuple(EXIT_CODES)


def sentence(comparison: Comparison) -> str:
    """Return the comparison in one sentence: its worst cell with figures, then the outcomes of all further cells."""
    stored = comparison.kind is BaselineKind.STORED
    weaker = "Against a stored baseline, which is weaker than both sides in turns: " if stored else ""
    if differences := allowed_differences(comparison):
        weaker = f"Although the sides differ ({'; '.join(differences)}), as --allow accepts: {weaker}"
    if not comparison.cells:
        return f"{weaker}Nothing was compared, because there is no cell."
    groups: dict[Outcome, list[CellResult]] = {}
    for cell in worst_first(comparison):
        groups.setdefault(cell.verdict.outcome, []).append(cell)
    outcome, pooled = comparison.outcome, comparison.pooled
    together = f"; {POOLED}, head is {_figures(pooled)}" if pooled and pooled.ratio is not None else ""
    if outcome in groups:
        lead = _lead(outcome, groups.pop(outcome), len(comparison.cells))
        clauses = [
            f"{_count(len(cells), first=not at)} {_does(further, len(cells))}"
            for at, (further, cells) in enumerate(groups.items())
        ]
        if not pooled or pooled.outcome in (Outcome.PASS, comparison.outcome):
            together = ""  # it would repeat the outcome of the cells
    else:  # no single cell has this outcome, only the pooled verdict
        assert pooled
        lead = f"{len(comparison.cells)} cells {_does(outcome, 2)} when taken together: {_figures_or_reason(pooled)}"
        counts = [
            f"{'all' if len(groups) == 1 else len(cells)} {_does(single, len(cells))}"
            for single, cells in groups.items()
        ]
        clauses = [f"alone, {', '.join(counts)}"]
        together = ""
    return f"{weaker}{lead}{'; ' * bool(clauses)}{', '.join(clauses)}{together}."


def _does(outcome: Outcome, count: int) -> str:
    return _DOES[outcome][count > 1]


def _count(count: int, *, first: bool) -> str:
    return f"{count} other cell{'s' * (count > 1)}" if first else str(count)


def _lead(outcome: Outcome, cells: list[CellResult], total: int) -> str:
    """Return the clause on the cells that decide the outcome: their number, and the clearest of them with figures."""
    shows = cells[-1] if outcome is Outcome.IMPROVED else cells[0]
    name = shown(shows.name)
    if len(cells) == 1:
        return f"{name} {_does(outcome, 1)}: {_figures_or_reason(shows.verdict)}"
    most = {Outcome.REGRESSED: f"{name} most", Outcome.IMPROVED: f"{name} most", Outcome.PASS: f"{name} the slowest"}
    every = "Both" if total == 2 else f"All {total}"
    count = every if len(cells) == total else f"{len(cells)} of {total}"
    example = most.get(outcome, f"such as {name}")
    return f"{count} cells {_does(outcome, 2)}, {example}: {_figures_or_reason(shows.verdict)}"


def _figures_or_reason(verdict: Verdict) -> str:
    """Return the figures and the margin of a verdict, or its reason where there are no figures."""
    if verdict.ratio is None:
        return reason(verdict).rstrip(".") or "there are no two figures"
    return f"head is {_figures(verdict)} (margin {margin(verdict)})"


def _figures(verdict: Verdict) -> str:
    """Return ``slower, +11.8 % [+10.9, +12.6]``, signed as in the table."""
    word = "slower" if (verdict.ratio or 1.0) >= 1 else "quicker"
    return " ".join(part for part in (f"{word},", change(verdict), span(verdict.interval)) if part)


def allowed_differences(comparison: Comparison) -> list[str]:
    """Return the differences between the sides that were allowed, such as ``fuse: none there, folded here``."""
    differences = [
        f"{name}: {of(cell.base.artifact)} there, {of(cell.head.artifact)} here"
        for cell in comparison.cells
        if cell.base is not None and cell.head is not None
        for name, of in ALLOWABLE.items()
        if name in comparison.plan.allowed and of(cell.base.artifact) != of(cell.head.artifact)
    ]
    return [shown(text) for text in dict.fromkeys(differences)]


# --- figures and names as text ----------------------------------------------------------------------------------------


def shown(name: str, most: int = LONGEST) -> str:
    """Return a name from a file as one printable line of at most `most` characters; a longer one loses its middle."""
    line = printable(name)
    if len(line) > most:
        tail = most // 2 - 3
        line = f"{line[: most - tail - 5]} ... {line[-tail:]}"
    return line or "(no name)"


def reason(verdict: Verdict) -> str:
    """Return the reason of a verdict as printable text of bounded length, empty without one."""
    return shown(verdict.reason, 500) if verdict.reason else ""


def change(verdict: Verdict) -> str:
    """Return how much longer the new side takes than the base, such as ``+11.8 %``; `NONE` without a ratio."""
    return NONE if verdict.ratio is None else f"{_signed(verdict.ratio - 1, round)} %"


def span(interval: Interval | None) -> str:
    """Return the interval of `change` in percent, ends rounded outwards: ``[+10.9, +12.6]``; empty without one."""
    if interval is None:
        return ""
    return f"[{_signed(interval.low - 1, math.floor)}, {_signed(interval.high - 1, math.ceil)}]"


def margin(verdict: Verdict) -> str:
    """Return the margin of a verdict in percent, such as ``5 %``."""
    return f"{100 * verdict.margin:g} %"


def _signed(share: float, rounding: Callable[[float], int]) -> str:
    text = _fixed(share, rounding)
    return text if text.startswith("-") else f"+{text}"


def _fixed(share: float, rounding: Callable[[float], int]) -> str:
    """Format a share in percent with one decimal; ``inf`` for an open end, and never ``-0.0``."""
    if not math.isfinite(share):
        return str(share)
    # to nine decimals first: 1.109 - 1 is 0.10899999999999999, which is not to be rounded down to 10.8
    tenths = round(1000 * share, 6)
    return f"{rounding(tenths) / 10 + 0.0:.1f}"


def worst_first(comparison: Comparison) -> list[CellResult]:
    """Return the cells sorted by outcome, the worst first, and by ratio within one outcome, the largest first.

    The order of outcomes is that of `EXIT_CODES`: regressed, incomparable, without a baseline, inconclusive, pass,
    improved.
    """
    return sorted(
        comparison.cells,
        key=lambda cell: (_WORST_FIRST.index(cell.verdict.outcome), -(cell.verdict.ratio or 0.0)),
    )


# --- conditions -------------------------------------------------------------------------------------------------------


def title(comparison: Comparison) -> str:
    """Return a title of one line: both sides and the device; a stored base is marked as weaker."""
    weaker = " (weaker: the base is a stored figure)" if comparison.kind is BaselineKind.STORED else ""
    sides = f"{shown(comparison.head)} against {shown(comparison.base)}"
    return f"Latency of {sides} on {shown(comparison.device.name)}{weaker}"


def conditions(comparison: Comparison) -> dict[str, str]:
    """Return the conditions of a comparison as label -> text, enough to repeat or to doubt it."""
    device, plan, turns = comparison.device, comparison.plan, comparison.plan.turns
    options = [f"{name} {value}" for name, value in sorted(device.options.items()) if value not in ("", -1)]
    sides = [side for cell in comparison.cells for side in (cell.base, cell.head) if side]
    packages = backends.narrowed(comparison.machine, device).packages
    texts = {
        "base": shown(comparison.base),
        "head": shown(comparison.head),
        "kind": "stored baseline, weaker than both sides in turns"
        if comparison.kind is BaselineKind.STORED
        else "paired, both sides in turns",
        "device": ", ".join([device.name, device.backend, device.precision, f"batch {device.batch}", *options]),
        "speed factor": "; ".join(
            f"{cell.name} {cell.speed_factor:.3f}" for cell in comparison.cells if cell.speed_factor is not None
        ),
        "machine": machine(comparison.machine),
        "packages": ", ".join(f"{name} {version}" for name, version in sorted(packages.items())),
        "tool": f"fastvit-bench {comparison.tool}"
        + (f", commit {comparison.commit}" if comparison.commit else "")
        + (" with changes" if comparison.dirty else ""),
        "date": f"{comparison.started} to {comparison.finished}",
        "window": ", ".join(sorted({side.window.value for side in sides})),
        "clock": ", ".join(sorted({side.clock for side in sides})),
        "method": f"per block {turns.turns} turns of each side × {turns.runs} runs, at most {turns.turn_ms} ms a turn; "
        f"medians",
        "plan": f"margin {100 * plan.margin:g} %, of all cells together {100 * plan.pooled_margin:g} %; "
        f"alpha {plan.alpha:g}, beta {plan.beta:g}; looks after {', '.join(map(str, plan.looks))} blocks; "
        f"seed {plan.seed}",
    }
    return {label: shown(text, 2000) for label, text in texts.items() if text}


def brief_conditions(comparison: Comparison) -> str:
    """Return the most telling conditions of a comparison in one sentence."""
    texts, record = conditions(comparison), comparison.machine
    hardware = ", ".join(filter(None, (record.accelerator or record.processor, record.processors)))
    facts = [texts["kind"], texts["device"], shown(hardware), comparison.finished[:10]]
    return f"{'; '.join(fact for fact in facts if fact)}."


def machine(record: Machine) -> str:
    """Return a machine in one line of text."""
    facts = [
        record.processor,
        record.processors,
        f"{record.memory_mib / 1024:.0f} GiB" if record.memory_mib else "",
        record.accelerator or "",
        f"driver {record.driver}" if record.driver else "",
        record.os,
        f"Python {record.python}" if record.python else "",
        f"machine {record.name}" if record.name else f"host name {record.host}" if record.host else "",
    ]
    return printable(", ".join(fact for fact in facts if fact))
