"""What the gate's verdicts are worth: thousands of simulated gates whose truth is known, by distribution of the noise.

The distributions have one scatter, 1 % by the median absolute deviation, unless another is said: normal, Laplace,
Student's t with 3 degrees of freedom, a normal one in which a tenth of the blocks have ten times the scatter, and a
skewed one (gamma of shape 2, its median taken off). It computes with the boundaries of `report.judge` and takes no time
of anything, so its figures are the same on every machine.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np
from _report import Goal, whole
from numpy.typing import NDArray

from fastvit_bench.records.comparison import Plan
from fastvit_bench.stats import sequential

Draw = Callable[[np.random.Generator, tuple[int, ...]], NDArray[np.float64]]

CELLS = 6
SCATTER = 0.01
OPEN, REGRESSED, PASSED = 0, 1, 2


def _contaminated(draw: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    return draw.normal(size=shape) * np.where(draw.random(shape) < 0.1, 10, 1)


# median 0; each divided below by its own scatter
NOISES: dict[str, Draw] = {
    "normal": lambda draw, shape: draw.normal(size=shape),
    "Laplace": lambda draw, shape: draw.laplace(size=shape),
    "t, 3 degrees": lambda draw, shape: draw.standard_t(3, size=shape),
    "10 % ten times wider": _contaminated,
    "skewed": lambda draw, shape: draw.gamma(2, size=shape) - 1.678347,
}


@dataclass(frozen=True)
class Row:
    """What was found of one distribution; shares unless another unit is named."""

    noise: str
    false_alarms: float  # gates on six unchanged cells with any verdict of regressed
    inconclusive: float  # of those gates, with any left open
    blocks: float  # mean number per cell until every verdict has fallen
    alarms_at_margin: float  # gates with any cell called regressed while all six are slower by just the margin
    passes_at_margin: float  # of those cells, called passed
    caught: float  # gates that call the one of six cells that is 10 % slower regressed
    caught_narrow: float  # gates on one cell, 5 % slower, margin 3 %, that call it regressed
    fixed: tuple[float, float, float]  # coverage of the 95 % interval of 6, 14 and 40 blocks
    stopped: tuple[float, float]  # smallest and largest coverage when the verdict ends the series, over true ratios
    detectable: tuple[float, float]  # excess over the margin in percent: mean prediction from 14 blocks, observed
    floor: tuple[float, float]  # percent: likewise


def noise(name: str, seed: int, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Draws of median 0 and scatter 1."""
    large = NOISES[name](np.random.default_rng(0), (1_000_001,))
    scale = 1.4826 * float(np.median(np.abs(large - np.median(large))))
    if name == "10 % ten times wider":
        scale = 1.0  # the nine tenths have the scatter
    return NOISES[name](np.random.default_rng(seed), shape) / scale


def gates(logs: NDArray[np.float64], plan: Plan, *, members: int | None = None) -> tuple[NDArray, NDArray]:
    """Outcomes and the blocks they took, of log ratios (gates, cells, blocks) after the pooled one is put last.

    The same as `judge.judge` after each look, for all gates at once. With `members`, cells are not pooled and each is
    judged at the first step of a family of so many.
    """
    looks, limits = plan.looks, np.full(logs.shape[1], math.log1p(plan.margin))
    if members is None and logs.shape[1] > 1:
        logs = np.concatenate([logs, logs.mean(axis=1, keepdims=True)], axis=1)
        limits = np.append(limits, math.log1p(plan.pooled_margin))
    above = np.cumsum(logs > limits[:, None], axis=2)[:, :, [look - 1 for look in looks]]
    size = members or logs.shape[1]
    steps = [sequential.step(looks, plan.alpha, plan.beta, left) for left in range(1, size + 1)]
    fewest = np.array([steps[0].regressed, *(rules.regressed for rules in steps)])  # by members left; row 0 is not used
    outcome = np.zeros(logs.shape[:2], int)
    blocks = np.full(logs.shape[:2], looks[-1])
    for at, look in enumerate(looks):
        while True:
            regressed = 0 if members else (outcome == REGRESSED).sum(axis=1, keepdims=True)
            found = (outcome == OPEN) & (above[:, :, at] >= fewest[size - regressed, at])
            if not found.any():
                break
            outcome[found], blocks[found] = REGRESSED, look
        found = (outcome == OPEN) & (above[:, :, at] <= steps[0].passed[at])
        outcome[found], blocks[found] = PASSED, look
    return outcome, blocks


def coverage(values: NDArray[np.float64], truth: float = 0.0) -> float:
    """Share of rows (gates, blocks) whose 95 % interval holds the true median."""
    ends = [sequential.interval(row) for row in values.tolist()]
    return sum(low <= truth <= high for low, high in filter(None, ends)) / len(ends)


def stopped_coverage(values: NDArray[np.float64], shift: float, plan: Plan) -> float:
    """The same where blocks end with the verdict and the true median lies `shift` above the margin."""
    logs = values + math.log1p(plan.margin) + shift
    _, blocks = gates(logs[:, None], plan)
    held = [
        coverage(values[blocks[:, 0] == look, :look]) * (blocks == look).sum()
        for look in plan.looks
        if (blocks == look).any()
    ]
    return float(sum(held)) / len(values)


def observed(share: Callable[[float], float], wrong: float, right: float) -> float:
    """By bisection, where the share of gates that do what they should reaches 95 %."""
    for _ in range(25):
        middle = (wrong + right) / 2
        wrong, right = (wrong, middle) if share(middle) >= sequential.CAUGHT else (middle, right)
    return right


def simulate(name: str, count: int, seed: int) -> Row:
    """Everything of one distribution."""
    plan, members = Plan(), CELLS + 1
    limit = math.log1p(plan.margin)
    logs = SCATTER * noise(name, seed, (count, CELLS, plan.looks[-1]))
    one = logs[:, 0]

    outcome, blocks = gates(logs, plan)
    at_margin, _ = gates(logs + limit, plan)
    slower = logs.copy()
    slower[:, 0] += math.log(1.10)
    caught, _ = gates(slower, plan)
    narrow, _ = gates(one[:, None] + math.log(1.05), Plan(margin=0.03))

    def caught_at(excess: float) -> float:
        return float((gates(one[:, None] + limit + excess, plan, members=members)[0] == REGRESSED).mean())

    def passed_at(margin: float) -> float:
        return float((gates(one[:, None] + limit - margin, plan, members=members)[0] == PASSED).mean())

    rows = one[:, :14].tolist()
    detectable = [sequential.detectable(row, plan.margin, plan, members) or math.nan for row in rows]
    floors = [sequential.floor(row, plan) or math.nan for row in rows]
    covered = [stopped_coverage(one, SCATTER * shift, plan) for shift in (-3, -1.5, -1, -0.5, 0, 0.5, 1, 1.5, 3)]
    return Row(
        noise=name,
        false_alarms=float((outcome == REGRESSED).any(axis=1).mean()),
        inconclusive=float((outcome == OPEN).any(axis=1).mean()),
        blocks=float(blocks.max(axis=1).mean()),
        alarms_at_margin=float((at_margin[:, :CELLS] == REGRESSED).any(axis=1).mean()),
        passes_at_margin=float((at_margin[:, :CELLS] == PASSED).mean()),
        caught=float((caught[:, 0] == REGRESSED).mean()),
        caught_narrow=float((narrow == REGRESSED).mean()),
        fixed=(coverage(one[:, :6]), coverage(one[:, :14]), coverage(one)),
        stopped=(min(covered), max(covered)),
        detectable=(
            100 * (float(np.mean(detectable)) - plan.margin),
            100 * (1 + plan.margin) * math.expm1(observed(caught_at, 0, 10 * SCATTER)),
        ),
        floor=(100 * float(np.mean(floors)), 100 * math.expm1(observed(passed_at, 0, 10 * SCATTER))),
    )


@dataclass(frozen=True)
class Noisy:
    """What a machine's scatter does to gates on six unchanged cells, normal noise."""

    scatter: float
    false_alarms: float  # share of gates, as in `Row`
    inconclusive: float
    blocks: float
    caught: float  # the one of six that is 10 % slower


def by_scatter(count: int, seed: int) -> list[Noisy]:
    """From a quiet machine to one on which a margin of 5 % cannot be held."""
    found: list[Noisy] = []
    unit = noise("normal", seed, (count, CELLS, Plan().looks[-1]))
    for scatter in (0.005, 0.01, 0.02, 0.03, 0.05, 0.08):
        logs = scatter * unit
        outcome, blocks = gates(logs, Plan())
        logs[:, 0] += math.log(1.10)
        slower, _ = gates(logs, Plan())
        found.append(
            Noisy(
                scatter=scatter,
                false_alarms=float((outcome == REGRESSED).any(axis=1).mean()),
                inconclusive=float((outcome == OPEN).any(axis=1).mean()),
                blocks=float(blocks.max(axis=1).mean()),
                caught=float((slower[:, 0] == REGRESSED).mean()),
            )
        )
    return found


def goals(rows: list[Row], count: int) -> list[Goal]:
    """What is claimed, against the worst distribution; a share may exceed its limit by two standard errors."""

    def at_most(claim: str, limit: float, values: list[float]) -> Goal:
        slack = 2 * math.sqrt(limit * (1 - limit) / count)
        return Goal(claim=claim, met=max(values) <= limit + slack, reason=f"at worst {100 * max(values):.2f} %")

    def at_least(claim: str, limit: float, values: list[float]) -> Goal:
        slack = 2 * math.sqrt(limit * (1 - limit) / count)
        return Goal(claim=claim, met=min(values) >= limit - slack, reason=f"at worst {100 * min(values):.2f} %")

    symmetric = [row for row in rows if row.noise != "skewed"]
    covered = [value for row in rows for value in (*row.fixed, *row.stopped)]
    misses = [predicted / seen - 1 for row in symmetric for predicted, seen in (row.detectable, row.floor)]
    return [
        at_most("false alarms of six unchanged cells ≤ 1 %", 0.01, [row.false_alarms for row in rows]),
        at_most("also where all six lie at the margin", 0.01, [row.alarms_at_margin for row in rows]),
        at_most("a cell at the margin passes in ≤ 5 %", 0.05, [row.passes_at_margin for row in rows]),
        at_least("+10 % on one of six cells is caught in ≥ 99 %", 0.99, [row.caught for row in rows]),
        at_least("+5 % over a margin of 3 % is caught in ≥ 95 %", 0.95, [row.caught_narrow for row in rows[:1]]),
        at_least("the interval covers ≥ 93 %", 0.93, covered),
        at_most("and ≤ 97 %", 0.97, covered),
        Goal(
            claim="detectable and floor are predicted within 20 % where the noise is symmetric",
            met=max(map(abs, misses)) <= 0.20,
            reason=f"from {100 * min(misses):+.0f} to {100 * max(misses):+.0f} %",
        ),
    ]


HEADS = (
    "noise, scatter 1 %",
    "false alarms",
    "inconclusive",
    "blocks",
    "alarms at the margin",
    "passes at the margin",
    "+10 % caught",
    "+5 % over 3 % caught",
    "coverage 6 / 14 / 40 blocks",
    "coverage when stopped",
    "detectable above the margin",
    "floor",
)


def table(rows: list[Row]) -> str:
    """As Markdown; percent where no unit is named, predicted → observed in the last two columns."""

    def share(value: float) -> str:
        return f"{100 * value:.2f}" if value < 0.1 else f"{100 * value:.1f}"

    lines = [
        (
            row.noise,
            share(row.false_alarms),
            share(row.inconclusive),
            f"{row.blocks:.1f}",
            share(row.alarms_at_margin),
            share(row.passes_at_margin),
            share(row.caught),
            share(row.caught_narrow),
            " / ".join(map(share, row.fixed)),
            " to ".join(map(share, row.stopped)),
            f"{row.detectable[0]:.2f} → {row.detectable[1]:.2f}",
            f"{row.floor[0]:.2f} → {row.floor[1]:.2f}",
        )
        for row in rows
    ]
    return _markdown(HEADS, lines)


def noisy_table(rows: list[Noisy]) -> str:
    """As Markdown, in percent."""
    heads = ("scatter", "false alarms", "inconclusive", "blocks", "+10 % caught")
    shares = [(100 * row.false_alarms, 100 * row.inconclusive, row.blocks, 100 * row.caught) for row in rows]
    return _markdown(
        heads,
        [(f"{100 * row.scatter:g} %", *(f"{v:.1f}" for v in values)) for row, values in zip(rows, shares, strict=True)],
    )


def _markdown(heads: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [heads, ["---"] + ["--:"] * (len(heads) - 1), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def main() -> int:
    """Simulate every distribution; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--gates", type=whole, default=20_000, help="simulated per distribution (%(default)s)")
    options.add_argument("--seed", type=int, default=0, help="of the noise (%(default)s)")
    written = options.add_mutually_exclusive_group()
    written.add_argument("--json", action="store_true", help="print every figure as JSON")
    written.add_argument(
        "--markdown", action="store_true", help="print the table of docs/explanation/gate.md (default)"
    )
    asked = options.parse_args()
    rows = [simulate(name, asked.gates, asked.seed) for name in NOISES]
    noisy = by_scatter(asked.gates, asked.seed)
    found = goals(rows, asked.gates)
    if asked.json:
        document = {"gates": asked.gates, "seed": asked.seed, "rows": [asdict(row) for row in rows]}
        document["by_scatter"] = [asdict(row) for row in noisy]
        document["goals"] = [{"claim": goal.claim, "met": goal.met, "reason": goal.reason} for goal in found]
        print(json.dumps(document, indent=2))
    else:
        print(table(rows), "", noisy_table(noisy), "", sep="\n")
        for goal in found:
            print(f"- Goal: {goal.claim}: {'met' if goal.met else 'MISSED'} ({goal.reason}).")
    return 0 if all(goal.met for goal in found) else 1


if __name__ == "__main__":
    sys.exit(main())
