"""What all reports of a comparison say alike: one sentence, percents, names, the order of cells, conditions."""

import math
from collections.abc import Callable

from fastvit_bench import backends
from fastvit_bench.records import Interval, Machine
from fastvit_bench.render.table import NONE
from fastvit_bench.render.text import plain
from fastvit_bench.verdicts import EXIT_CODES, CellResult, Comparison, Kind, Outcome, Verdict

POOLED = "all cells together"
LONGEST = 120  # characters of a name that a person is shown; formats for programs keep more

# outcome -> what one cell does, what several do
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
    """The whole comparison in one sentence for a person: its worst cell with figures, then how the others fared."""
    stored = comparison.kind is Kind.STORED
    weaker = "Against a stored baseline, which is weaker than both sides in turns: " if stored else ""
    if not comparison.cells:
        return f"{weaker}Nothing was compared, because there is no cell."
    groups: dict[Outcome, list[CellResult]] = {}
    for cell in worst_first(comparison):
        groups.setdefault(cell.verdict.outcome, []).append(cell)
    outcome, pooled = comparison.outcome, comparison.pooled
    together = f"; {POOLED}, head is {_what(pooled)}" if pooled and pooled.ratio is not None else ""
    if outcome in groups:
        lead = _lead(outcome, groups.pop(outcome), len(comparison.cells))
        others = enumerate(groups.items())
        rest = [f"{_count(len(cells), first=not at)} {_does(each, len(cells))}" for at, (each, cells) in others]
        if not pooled or pooled.outcome in (Outcome.PASS, comparison.outcome):
            together = ""  # says nothing that the cells have not said
    else:  # only taken together do they show it
        assert pooled  # or its outcome would be a cell's
        lead = f"{len(comparison.cells)} cells {_does(outcome, 2)} when taken together: {_told(pooled)}"
        counts = [
            f"{'all' if len(groups) == 1 else len(cells)} {_does(each, len(cells))}" for each, cells in groups.items()
        ]
        rest = [f"alone, {', '.join(counts)}"]
        together = ""
    return f"{weaker}{lead}{'; ' * bool(rest)}{', '.join(rest)}{together}."


def _does(outcome: Outcome, count: int) -> str:
    return _DOES[outcome][count > 1]


def _count(count: int, *, first: bool) -> str:
    return f"{count} other cell{'s' * (count > 1)}" if first else str(count)


def _lead(outcome: Outcome, cells: list[CellResult], total: int) -> str:
    """The cells that decide the outcome: one by its name, of several the one that shows it best."""
    shows = cells[-1] if outcome is Outcome.IMPROVED else cells[0]
    name = shown(shows.name)
    if len(cells) == 1:
        return f"{name} {_does(outcome, 1)}: {_told(shows.verdict)}"
    most = {Outcome.REGRESSED: f"{name} most", Outcome.IMPROVED: f"{name} most", Outcome.PASS: f"{name} the slowest"}
    every = "Both" if total == 2 else f"All {total}"
    count = every if len(cells) == total else f"{len(cells)} of {total}"
    return f"{count} cells {_does(outcome, 2)}, {most.get(outcome, f'such as {name}')}: {_told(shows.verdict)}"


def _told(verdict: Verdict) -> str:
    """With figures where there are any, else the reason."""
    if verdict.ratio is None:
        return reason(verdict).rstrip(".") or "there are no two figures"
    return f"head is {_what(verdict)} (margin {margin(verdict)})"


def _what(verdict: Verdict) -> str:
    """``slower, +11.8 % [+10.9, +12.6]``: signed as in the table."""
    word = "slower" if (verdict.ratio or 1.0) >= 1 else "quicker"
    return " ".join(part for part in (f"{word},", change(verdict), span(verdict.interval)) if part)


# --- figures and names as text ----------------------------------------------------------------------------------------


def shown(name: str, most: int = LONGEST) -> str:
    """A name from a file as one printable line of bounded length; its middle is left out where it is longer."""
    line = plain(name)
    if len(line) > most:
        tail = most // 2 - 3
        line = f"{line[: most - tail - 5]} ... {line[-tail:]}"
    return line or "(no name)"


def reason(verdict: Verdict) -> str:
    """The verdict's own sentence, printable and of bounded length."""
    return shown(verdict.reason, 500) if verdict.reason else ""


def change(verdict: Verdict) -> str:
    """``+11.8 %``: by how much head takes longer than base."""
    return NONE if verdict.ratio is None else f"{_signed(verdict.ratio - 1, round)} %"


def span(interval: Interval | None) -> str:
    """``[+10.9, +12.6]``: the interval of `change` in percent, its ends rounded outwards; empty without one."""
    if interval is None:
        return ""
    return f"[{_signed(interval.low - 1, math.floor)}, {_signed(interval.high - 1, math.ceil)}]"


def margin(verdict: Verdict) -> str:
    """``5 %``."""
    return f"{100 * verdict.margin:g} %"


def _signed(share: float, rounding: Callable[[float], int]) -> str:
    text = _fixed(share, rounding)
    return text if text.startswith("-") else f"+{text}"


def _fixed(share: float, rounding: Callable[[float], int]) -> str:
    """A share in percent with one decimal; ``inf`` for an open end. No ``-0.0``."""
    if not math.isfinite(share):
        return str(share)
    # to nine decimals first: 1.109 - 1 is 0.10899999999999999, which is not to be rounded down to 10.8
    tenths = round(1000 * share, 6)
    return f"{rounding(tenths) / 10 + 0.0:.1f}"


def worst_first(comparison: Comparison) -> list[CellResult]:
    """Regressed, incomparable, inconclusive, pass, improved; among equals the slowest head first."""
    return sorted(
        comparison.cells,
        key=lambda cell: (_WORST_FIRST.index(cell.verdict.outcome), -(cell.verdict.ratio or 0.0)),
    )


# --- conditions -------------------------------------------------------------------------------------------------------


def title(comparison: Comparison) -> str:
    """One line: what was compared with what, where; a stored base is marked."""
    weaker = " (weaker: the base is a stored figure)" if comparison.kind is Kind.STORED else ""
    sides = f"{shown(comparison.head)} against {shown(comparison.base)}"
    return f"Latency of {sides} on {shown(comparison.device.name)}{weaker}"


def conditions(comparison: Comparison) -> dict[str, str]:
    """What a person needs to repeat or to doubt it: label -> text."""
    device, plan, turns = comparison.device, comparison.plan, comparison.plan.turns
    options = [f"{name} {value}" for name, value in sorted(device.options.items()) if value not in ("", -1)]
    sides = [side for cell in comparison.cells for side in (cell.base, cell.head) if side]
    packages = backends.narrowed(comparison.machine, device).packages
    found = {
        "base": shown(comparison.base),
        "head": shown(comparison.head),
        "kind": "stored baseline, weaker than both sides in turns"
        if comparison.kind is Kind.STORED
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
    return {label: shown(text, 2000) for label, text in found.items() if text}


def machine(of: Machine) -> str:
    """A machine in one line."""
    facts = [
        of.processor,
        of.processors,
        f"{of.memory_mib / 1024:.0f} GiB" if of.memory_mib else "",
        of.accelerator or "",
        f"driver {of.driver}" if of.driver else "",
        of.os,
        f"Python {of.python}" if of.python else "",
        f"machine {of.name}" if of.name else f"host name {of.host}" if of.host else "",
    ]
    return plain(", ".join(fact for fact in facts if fact))
