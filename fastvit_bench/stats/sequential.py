"""The sequential sign test of blocks: whether new is slower than base by more than the margin, per cell and pooled.

A block's ratio lies above the margin or it does not, and what decides is how many do. If the true median ratio is
within the margin, that number is at most Binomial(blocks, 1/2), whatever the distribution of the noise. The test
assumes no normal distribution, no equal scatter and no independence of the samples within a block. It does assume that
blocks are independent of each other, which is why each has processes of its own. docs/explanation/gate.md derives all
of it.
"""

import functools
import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from fastvit_bench.errors import UsageError
from fastvit_bench.records import Interval, Measurement
from fastvit_bench.records.comparison import Block, Calibration, CellCalibration, Outcome, Plan, Verdict
from fastvit_bench.stats.intervals import median as _median
from fastvit_bench.stats.intervals import median_absolute_deviation, median_interval, normal_quantile, quantile_interval

POOLED = ""  # the key of the verdict on all cells together, among the names of cells
DECIDED = (Outcome.PASS, Outcome.IMPROVED, Outcome.REGRESSED)  # outcomes that stay once they are reached
CAUGHT = 0.95  # share of gates that `detectable` and `floor` speak of
FEWEST = 6  # blocks from which an interval or a scatter is given

# Of the interval, when no verdict ends the series. Blocks stop when the verdict falls, which costs up to 4 points.
_NOMINAL = 0.96


def judge(
    blocks: Mapping[str, Sequence[Block]], plan: Plan, settled: Mapping[str, Verdict] | None = None
) -> dict[str, Verdict]:
    """Return the verdict on every cell, and under `POOLED` the one on all of them where there are several.

    To be called after each look of the plan with all blocks of all cells so far and what the last call returned. A
    verdict of `settled` that has fallen (`DECIDED`) is kept as it is. A cell whose number of blocks is a look of the
    plan is decided, if it can be; at any other number it is inconclusive, because the plan foresees no decision there.
    The last call's inconclusive verdicts are final and say so in words.

    Regressions are found at the level alpha over the number of verdicts not yet called regressed, again and again until
    none is added: Holm's step-down procedure (1979), in which a group-sequential test hands its level on to the others
    (Maurer & Bretz 2013). So the chance that any cell is called regressed while none is, is at most alpha. Passing is
    up to each cell: the chance that a regressed one passes is at most beta. The pooled verdict is one more member of
    the family; its ratio in a round is the geometric mean of the cells' ratios in it, over the rounds all cells have,
    so all cells have to go on until it has fallen.

    Blocks that were replaced do not count. Raises UsageError where the plan's levels or looks make no test.
    """
    if POOLED in blocks:
        raise ValueError("a cell needs a name: the empty one is the pooled verdict's")
    series = {name: _series(cell_blocks) for name, cell_blocks in blocks.items()}
    if len(series) > 1:
        series[POOLED] = _pool(series)
    margins = {name: plan.pooled_margin if name == POOLED else plan.margin for name in series}
    verdicts = {name: verdict for name, verdict in (settled or {}).items() if verdict.outcome in DECIDED}
    verdicts = {name: verdicts[name] for name in series if name in verdicts}
    undecided = [name for name in series if name not in verdicts]

    while True:
        regressed = sum(verdict.outcome is Outcome.REGRESSED for verdict in verdicts.values())
        not_regressed = len(series) - regressed
        conclusions = {
            name: _conclude(series[name], margins[name], plan, len(series), not_regressed) for name in undecided
        }
        newly_regressed = [name for name in undecided if conclusions[name].outcome is Outcome.REGRESSED]
        if not newly_regressed:
            break
        verdicts |= {name: conclusions[name] for name in newly_regressed}
        undecided = [name for name in undecided if name not in newly_regressed]
    verdicts |= conclusions
    return {name: verdicts[name] for name in series}


# --- when to decide ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Boundaries:
    """The numbers of blocks above the margin at which a verdict falls, at each look."""

    looks: tuple[int, ...]  # numbers of blocks
    regressed: tuple[int, ...]  # the fewest above that say regressed; more than the look's blocks where none does
    passed: tuple[int, ...]  # the most above that say pass; -1 where none does


@functools.cache
def boundaries(looks: tuple[int, ...], alpha: float, beta: float) -> Boundaries:
    """Return the boundaries of the sequential sign test over these looks.

    Where half of the blocks are above the margin, which is the worst of all cases on either side, regressed is said
    with a chance of at most `alpha` and pass with one of at most `beta`: exactly, over all looks, by the distribution
    of the number above after each of them (Armitage, McPherson & Rowe 1969). How much of a level may be spent up to
    which look is fixed by an increasing function of the share of blocks seen (Lan & DeMets 1983); what a look cannot
    spend, since a count is a whole number, remains for the next ones.

    Each side is computed as if the other did not stop the series. Thus neither error depends on the other's level,
    which changes while Holm's procedure steps down, and both are a little below what is promised.

    Raises UsageError for looks that do not increase and for levels that leave no gap between the two sides.
    """
    if not looks or looks[0] < 1 or any(a >= b for a, b in itertools.pairwise(looks)):
        raise UsageError(f"looks must be increasing numbers of blocks, not {', '.join(map(str, looks)) or 'none'}")
    if not (0 < alpha < 0.5 and 0 < beta < 0.5):
        raise UsageError(f"alpha and beta must lie between 0 and 0.5, not at {alpha:g} and {beta:g}")
    regressed = _thresholds(looks, alpha, _spent_late)
    passed = tuple(look - count for look, count in zip(looks, _thresholds(looks, beta, _spent_early), strict=True))
    if any(most >= fewest for most, fewest in zip(passed, regressed, strict=True)):
        raise UsageError(f"alpha {alpha:g} and beta {beta:g} are so large that one count says both pass and regressed")
    return Boundaries(looks, regressed, passed)


@functools.cache
def step(looks: tuple[int, ...], alpha: float, beta: float, members: int) -> Boundaries:
    """Return the boundaries of Holm's procedure while `members` of the family are not called regressed.

    They are those at the level alpha/members, but at no look looser than those at a higher level. Counts being whole
    numbers, a higher level may spend so much at an early look that its boundary is tighter at a later one; a cell
    judged at alpha/3 and then at alpha/2 could slip through both. Nested like this it cannot: whatever it crosses at
    alpha/members or before lies beyond the boundaries of alpha/members (the monotony that Maurer & Bretz 2013,
    section 3 require).
    """
    steps = [boundaries(looks, alpha / count, beta) for count in range(1, members + 1)]
    return Boundaries(looks, tuple(map(max, *(s.regressed for s in steps), steps[0].regressed)), steps[0].passed)


@dataclass(frozen=True)
class Operating:
    """Operating characteristics of a sequential test: the chance of each outcome and the mean number of blocks."""

    regressed: float
    passed: float
    inconclusive: float
    blocks: float


@functools.cache
def operating(bounds: Boundaries, above: float) -> Operating:
    """Return the exact chance of each verdict where a block lies above the margin with the chance `above`."""
    chances, done = [1.0], 0
    regressed = passed = blocks = 0.0
    for look, fewest, most in zip(bounds.looks, bounds.regressed, bounds.passed, strict=True):
        chances, done = _after(chances, look - done, above), look
        high, low = math.fsum(chances[fewest:]), math.fsum(chances[: most + 1])
        chances = [chance if most < count < fewest else 0.0 for count, chance in enumerate(chances)]
        regressed, passed, blocks = regressed + high, passed + low, blocks + look * (high + low)
    open_ = math.fsum(chances)
    return Operating(regressed, passed, open_, blocks + done * open_)


def _spent_late(share: float) -> float:
    """Return the share of alpha that may be spent at this share t of the blocks: (t + 4 t^4) / 5.

    Of t^rho and mixtures w t + (1 - w) t^rho, this has the most power for levels of .01 to .01/30 (within .001, for
    80 % of blocks above the margin), and the linear part lets 14 of 14 blocks decide in families of up to 13, where
    t^3, of the same power, waits for 20.
    """
    return (share + 4 * share**4) / 5


def _spent_early(share: float) -> float:
    """Return the share of beta that may be spent at this share of the blocks: the square root.

    Six blocks must be able to say pass, which takes 2^-6 = .0156 of beta = .05: a linear share gives .0075. The power
    to pass is that of t^0.3 to t^0.6 within .001, and fewer blocks are taken than with rho = .75 or 1.
    """
    return math.sqrt(share)


def _thresholds(looks: tuple[int, ...], level: float, share: Callable[[float], float]) -> tuple[int, ...]:
    """Return the fewest blocks above at each look that are rare enough for a fair coin.

    Up to any look, they are reached with a chance of at most `level` x `share`. One more than the look's blocks where
    no number is rare enough.
    """
    chances, done, spent = [1.0], 0, 0.0
    thresholds: list[int] = []
    for look in looks:
        chances, done = _after(chances, look - done, 0.5), look
        allowed = level * share(look / looks[-1])
        fewest = look + 1
        while fewest and spent + chances[fewest - 1] <= allowed:
            fewest -= 1
            spent += chances[fewest]
            chances[fewest] = 0.0  # those series have ended
        thresholds.append(fewest)
    return tuple(thresholds)


def _after(chances: list[float], blocks: int, above: float) -> list[float]:
    """Return the distribution of the number of blocks above, `blocks` blocks later; entry c is the chance of c."""
    for _ in range(blocks):
        stay, rise = [*chances, 0.0], [0.0, *chances]
        chances = [(1 - above) * a + above * b for a, b in zip(stay, rise, strict=True)]
    return chances


# --- one series of ratios ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Series:
    """The ratios of the valid blocks, new over base, in their order; or the fault that prevents them."""

    ratios: tuple[float, ...] = ()
    fault: str = ""


def counted(blocks: Sequence[Block]) -> list[Block]:
    """Return the blocks that were not replaced by another."""
    return [block for block in blocks if not block.replaced]


def _series(blocks: Sequence[Block]) -> _Series:
    valid = counted(blocks)
    if not valid:
        return _Series(fault="no block was measured")
    faults = (f"block {block.number} {fault}" for block in valid if (fault := _fault(block)))
    if fault := next(faults, ""):
        return _Series(fault=fault)
    return _Series(ratios=tuple(math.exp(block.log_ratio) for block in valid))


def _fault(block: Block) -> str:
    """Return the reason why a block has no ratio; empty if it has one.

    msgspec does not check records that are built in this process.
    """
    if len(block.base_ns) != len(block.head_ns):
        return f"has {len(block.base_ns)} turns of the base and {len(block.head_ns)} of the head"
    if not block.base_ns or not all(block.base_ns + block.head_ns):
        return "has a turn without samples"
    if not all(math.isfinite(ns) and ns > 0 for turn in block.base_ns + block.head_ns for ns in turn):
        return "has a sample that is no positive time"
    if block.reference is not None and not (math.isfinite(block.reference) and block.reference > 0):
        return f"has a reference workload of {block.reference:g} times the stored one"
    return ""


def _pool(series: Mapping[str, _Series]) -> _Series:
    """Return the geometric mean over cells, round by round."""
    if faulty := [name for name, cell in series.items() if cell.fault]:
        return _Series(fault=f"there are no ratios of {', '.join(faulty)}")
    # not strict: a cell that is ahead of the others has blocks whose round is not complete yet
    rounds = zip(*(cell.ratios for cell in series.values()), strict=False)
    return _Series(ratios=tuple(math.exp(math.fsum(map(math.log, ratios)) / len(ratios)) for ratios in rounds))


def _conclude(series: _Series, margin: float, plan: Plan, members: int, not_regressed: int) -> Verdict:
    """Return the verdict on one series at Holm's step with `not_regressed` of `members` not called regressed."""
    if series.fault:
        return Verdict(outcome=Outcome.INCOMPARABLE, margin=margin, reason=f"Not comparable: {series.fault}.")
    ratios = sorted(series.ratios)
    blocks, limit = len(ratios), 1 + margin
    above = sum(ratio > limit for ratio in ratios)
    below = sum(ratio < 1 / limit for ratio in ratios)
    rules = step(plan.looks, plan.alpha, plan.beta, not_regressed)

    outcome, bounds = Outcome.INCONCLUSIVE, None
    if blocks in rules.looks:
        fewest, most = next(
            (fewest, most)
            for look, fewest, most in zip(rules.looks, rules.regressed, rules.passed, strict=True)
            if look == blocks
        )
        # the blocks that would have to lie on the other side of the margin for another outcome
        bounds = (ratios[blocks - fewest] if fewest <= blocks else 0.0, ratios[-1 - most] if most >= 0 else math.inf)
        if above >= fewest:
            outcome = Outcome.REGRESSED
        elif blocks - below <= most:  # a claim on top of passing, with the same chance to be wrong
            outcome = Outcome.IMPROVED
        elif above <= most:
            outcome = Outcome.PASS

    logs = [math.log(ratio) for ratio in ratios]
    ends = interval(logs)
    verdict = Verdict(
        outcome=outcome,
        margin=margin,
        reason="",
        blocks=blocks,
        above=above,
        ratio=math.exp(_median(logs)),
        interval=Interval(low=math.exp(ends[0]), high=math.exp(ends[1]), confidence=0.95) if ends else None,
        bounds=bounds,
        detectable=detectable(logs, margin, plan, members),
        floor=floor(logs, plan),
    )
    return msgspec.structs.replace(verdict, reason=_reason(verdict, below, plan))


def interval(logs: Sequence[float]) -> tuple[float, float] | None:
    """Return the ends of the 95 % interval of the log ratio's median; None below six blocks."""
    return median_interval(logs, _NOMINAL)


# --- what forbids a verdict ---


def without_contradiction(verdict: Verdict, blocks: Sequence[Block]) -> Verdict:
    """Return the verdict, left open where the sides' own medians say the opposite of the paired ratio.

    The ratio is taken turn by turn; the medians of all of a side's runs are another estimate of the same. Where they
    lie on different sides of 1, and further apart than the interval is wide and than half the margin, one of them is
    disturbed. Nearer than that, whichever is right gives the same verdict.
    """
    if verdict.ratio is None or verdict.interval is None:
        return verdict
    factor = _median([block.reference or 1.0 for block in blocks])
    raw = _median([block.head_ms for block in blocks]) / _median([block.base_ms for block in blocks]) / factor
    apart = abs(math.log(raw / verdict.ratio))
    width = verdict.interval.high / verdict.interval.low
    if (raw - 1) * (verdict.ratio - 1) >= 0 or apart <= max(math.log(width), math.log1p(verdict.margin) / 2):
        return verdict
    return inconclusive(
        verdict,
        f"the medians of the two sides say {_signed(raw)} and the turns {_signed(verdict.ratio)}: something disturbed "
        f"one of them; measure again",
    )


def against_stored(
    verdict: Verdict,
    base: Measurement,
    blocks: Sequence[Block],
    factors: tuple[float, float],
    references: Sequence[Sequence[int]],
) -> Verdict:
    """Return the verdict against a stored figure, with that figure's own uncertainty in it.

    It is left open where the two days' speeds differ by more than this machine is known to change (`factors`), where
    the reference workload was itself unsteady by more than the margin, and where the base's interval is so wide that
    its other end would give another outcome. `references` are the workload's times beside each block.
    """
    ratio = verdict.ratio
    if ratio is None:
        return verdict
    known = [block.reference for block in blocks if block.reference is not None]
    if known and not factors[0] <= (factor := _median(known)) <= factors[1]:
        return inconclusive(
            verdict,
            f"the reference workload takes {factor:.2f} times as long as when the base was measured, beyond the "
            f"{factors[0]:.2f} to {factors[1]:.2f} that this machine is known for; measure the base again",
        )
    unsteady = max(map(_spread, (base.reference_samples_ns, *references)))
    if known and unsteady > verdict.margin:
        return inconclusive(
            verdict,
            f"the reference workload scatters by {100 * unsteady:.0f} %, more than the margin of "
            f"{_percent(verdict.margin)}; measure the base again, on a quiet machine",
        )
    if base.interval_ms is None:
        return inconclusive(verdict, "the stored figure has too few runs for an interval; measure the base again")
    low, high = (base.figure_ms / end for end in (base.interval_ms.high, base.interval_ms.low))
    if verdict.interval is not None:
        ends = Interval(low=verdict.interval.low * low, high=verdict.interval.high * high, confidence=0.95)
        verdict = msgspec.structs.replace(verdict, interval=ends)
    limit, least, most = 1 + verdict.margin, ratio * low, ratio * high
    holds = {Outcome.REGRESSED: least > limit, Outcome.PASS: most <= limit, Outcome.IMPROVED: most < 1}
    if holds.get(verdict.outcome, True):
        return verdict
    return inconclusive(
        verdict,
        f"the stored figure is itself uncertain, {base.figure_ms:.4g} ms in [{base.interval_ms.low:.4g}, "
        f"{base.interval_ms.high:.4g}], and its other end would give another outcome; measure the base again",
    )


def inconclusive(verdict: Verdict, why: str) -> Verdict:
    """Return a verdict as inconclusive, with the reason added to its figures."""
    reason = f"{_change(verdict)}, but {why}."
    return msgspec.structs.replace(verdict, outcome=Outcome.INCONCLUSIVE, reason=reason[:1].upper() + reason[1:])


def _spread(times_ns: Sequence[int]) -> float:
    """Return the width of the 95 % interval of the times' median, as a share of it; 0 for too few times."""
    bounds = quantile_interval(times_ns, 0.5)
    return (bounds.high - bounds.low) / _median(times_ns) if bounds else 0.0


# --- what could be seen -----------------------------------------------------------------------------------------------


def scatter(logs: Sequence[float]) -> float | None:
    """Return a robust standard deviation of log ratios, from their median absolute deviation; None below six.

    A tenth of blocks that something disturbed hardly affects the median absolute deviation. Times 1.4826 it is a
    normal distribution's standard deviation, and the factors of Croux & Rousseeuw (1992, "Time-efficient algorithms
    for two highly robust estimators of scale", section 4) take out that it is too small for few values.
    """
    if (count := len(logs)) < FEWEST:
        return None
    factor = {6: 1.200, 7: 1.140, 8: 1.129, 9: 1.107}.get(count, count / (count - 0.8))
    return 1.4826 * factor * median_absolute_deviation(logs)


def detectable(logs: Sequence[float], margin: float, plan: Plan, members: int) -> float | None:
    """Return the smallest slowdown (ratio - 1) that 95 % of gates call regressed, given the scatter of these blocks.

    The test's exact characteristics give the share of blocks that must lie above the margin for that. A normal
    distribution gives the number of standard deviations by which its median must exceed the margin to have that share
    above. This extrapolates from few blocks, where the tail itself cannot be seen; heavier tails than normal move it
    by a tenth. It holds at the first step of Holm's procedure, for a cell that is alone in having regressed. None for
    too few blocks to estimate the scatter, or too few looks for a verdict.
    """
    deviation, share = scatter(logs), _share_caught(step(plan.looks, plan.alpha, plan.beta, members))
    if deviation is None or share is None:
        return None
    return (1 + margin) * math.exp(normal_quantile(share) * deviation) - 1


def floor(logs: Sequence[float], plan: Plan) -> float | None:
    """Return the smallest margin within which an unchanged cell passes in 95 % of gates, given the scatter.

    None for too few blocks to estimate the scatter, or too few looks for a verdict.
    """
    deviation, share = scatter(logs), _share_passing(boundaries(plan.looks, plan.alpha, plan.beta))
    if deviation is None or share is None:
        return None
    return math.exp(normal_quantile(1 - share) * deviation) - 1


@functools.cache
def _share_caught(bounds: Boundaries) -> float | None:
    """Return the smallest share of blocks above the margin at which 95 % of gates say regressed."""
    return _where(lambda share: operating(bounds, share).regressed >= CAUGHT, fails=0.5, holds=1 - 1e-9)


@functools.cache
def _share_passing(bounds: Boundaries) -> float | None:
    """Return the largest share of blocks above the margin at which 95 % of gates say pass."""
    return _where(lambda share: operating(bounds, share).passed >= CAUGHT, fails=0.5, holds=1e-9)


def _where(condition: Callable[[float], bool], fails: float, holds: float) -> float | None:
    """Return the share at which a condition begins to hold, by bisection; None where it never does."""
    if not condition(holds):
        return None
    for _ in range(30):
        middle = (fails + holds) / 2
        fails, holds = (fails, middle) if condition(middle) else (middle, holds)
    return holds


# --- in words ---------------------------------------------------------------------------------------------------------


def _reason(verdict: Verdict, below: int, plan: Plan) -> str:
    """Return one sentence for a person; `below` is the number of blocks quicker by more than the margin."""
    margin, blocks = f"the margin of {_percent(verdict.margin)}", verdict.blocks
    were = f"{verdict.above or 'none'} of {blocks} blocks {'was' if verdict.above < 2 else 'were'} above"
    change = _change(verdict)
    match verdict.outcome:
        case Outcome.REGRESSED:
            reason = f"{change}: {were} {margin}"
        case Outcome.PASS:
            reason = f"{change}, within {margin}: {were} it"
        case Outcome.IMPROVED:
            reason = f"{change}: {below} of {blocks} blocks were quicker by more than {margin}"
        case _ if blocks < plan.looks[-1]:
            reason = f"time ran out after {blocks} block{'s' * (blocks != 1)}; {change}, {were} {margin}"
            reason += f"; {_advice(verdict, plan)}"
        case _:
            reason = f"{change}, and the blocks do not decide: {were} {margin}; {_advice(verdict, plan)}"
    return f"{reason[:1].upper()}{reason[1:]}."


def _advice(verdict: Verdict, plan: Plan) -> str:
    """Return advice that would make a verdict possible."""
    if verdict.blocks < plan.looks[0]:
        return f"a verdict takes at least {plan.looks[0]} blocks: allow more time"
    if verdict.floor is not None and verdict.floor > verdict.margin:
        return f"it takes a quieter machine or a margin above {_percent(verdict.floor)}, which is the floor here"
    if verdict.blocks < plan.looks[-1]:
        return "allow more time"
    return "the change is as large as the margin, as far as can be seen: a quieter machine sees further"


def _change(verdict: Verdict) -> str:
    """Return a change as text: ``slower, +2.1 % [+1.2, +3.0]``; below zero where new is quicker."""
    ratio = verdict.ratio or 1.0
    word = "slower" if ratio >= 1 else "quicker"
    if verdict.interval is None:
        return f"{word}, {_signed(ratio)}"
    low, high = verdict.interval.low, verdict.interval.high
    digits = 1 if 100 * (high - low) >= 0.2 else 2
    ends = (f"{round(100 * (end - 1), digits) + 0.0:+.{digits}f}" for end in (low, high))
    return f"{word}, {_signed(ratio, digits)} [{', '.join(ends)}]"


def _signed(ratio: float, digits: int = 1) -> str:
    """Return a ratio as a signed change: ``+2.1 %`` of 1.021."""
    return f"{round(100 * (ratio - 1), digits) + 0.0:+.{digits}f} %"


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 1 else f"{100 * share:.0f} %"


# --- what a machine can see -------------------------------------------------------------------------------------------


def calibrate(repetitions: Sequence[Mapping[str, Sequence[Block]]], plan: Plan) -> Calibration:
    """Return the error rates of a gate on this machine, from repetitions in which both sides are the same file.

    Each repetition is replayed as the gate it would have been. As few repetitions say little of rare alarms, each
    cell's blocks are also drawn anew: a repetition at random, and from it blocks with replacement. Their number above
    the margin is binomial, so that the rates this bootstrap tends to are computed and not drawn.

    All repetitions must be of the same cells. Raises UsageError if there is none, or they are not, or a block has no
    ratio.
    """
    names = list(repetitions[0]) if repetitions else []
    if not names or any(set(repetition) != set(names) for repetition in repetitions):
        raise UsageError("a calibration takes at least one repetition, and every one of the same cells")
    series: list[dict[str, _Series]] = []
    for repetition in repetitions:
        one = {name: _series(repetition[name]) for name in names}
        if faulty := next((f"{name}: {cell.fault}" for name, cell in one.items() if cell.fault), ""):
            raise UsageError(f"a repetition of the calibration cannot be judged: {faulty}")
        series.append(one | ({POOLED: _pool(one)} if len(names) > 1 else {}))
    gates = [_replay(repetition, plan) for repetition in repetitions]
    wrong = [any(v.outcome is Outcome.REGRESSED for v in gate.values()) for gate in gates]
    open_ = [any(v.outcome is Outcome.INCONCLUSIVE for v in gate.values()) for gate in gates]
    cells = [_calibrate_one(name, [one[name] for one in series], gates, plan) for name in series[0]]
    return Calibration(
        plan=plan,
        repetitions=len(repetitions),
        false_alarms=sum(wrong),
        inconclusive=sum(o and not w for o, w in zip(open_, wrong, strict=True)),
        cells=tuple(cell for cell in cells if cell.name != POOLED),
        pooled=next((cell for cell in cells if cell.name == POOLED), None),
    )


def _replay(blocks: Mapping[str, Sequence[Block]], plan: Plan) -> dict[str, Verdict]:
    """Return the verdicts of a gate with these blocks, judged at the looks of the plan."""
    valid = {name: counted(cell_blocks) for name, cell_blocks in blocks.items()}
    longest = max(map(len, valid.values()))
    verdicts: dict[str, Verdict] = {}
    for look in [*(look for look in plan.looks if look < longest), longest]:
        verdicts = judge({name: cell_blocks[:look] for name, cell_blocks in valid.items()}, plan, verdicts)
    return verdicts


def _calibrate_one(
    name: str, series: Sequence[_Series], gates: Sequence[Mapping[str, Verdict]], plan: Plan
) -> CellCalibration:
    members = len(gates[0])
    margin = plan.pooled_margin if name == POOLED else plan.margin
    logs = [math.log(ratio) for one in series for ratio in one.ratios]
    rules = step(plan.looks, plan.alpha, plan.beta, members)
    shares = [sum(ratio > 1 + margin for ratio in one.ratios) / len(one.ratios) for one in series]
    drawn = [operating(rules, share) for share in shares]
    outcomes = [gate[name].outcome for gate in gates]
    return CellCalibration(
        name=name,
        margin=margin,
        blocks=len(logs),
        scatter=scatter(logs),
        false_alarms=outcomes.count(Outcome.REGRESSED),
        inconclusive=outcomes.count(Outcome.INCONCLUSIVE),
        drawn_false_alarms=math.fsum(one.regressed for one in drawn) / len(drawn),
        drawn_inconclusive=math.fsum(one.inconclusive for one in drawn) / len(drawn),
        detectable=detectable(logs, margin, plan, members),
        floor=floor(logs, plan),
    )


# --- order of turns ---------------------------------------------------------------------------------------------------


def order(turns: int, draw: random.Random) -> str:
    """Return a shuffled order of `turns` pairs, such as ``ABBAAB``: AB and BA equally often, or one of them once more.

    So each side comes first as often as the other, and what is first in a pair does not follow a rhythm.
    """
    pairs = ["AB", "BA"] * (turns // 2) + ([draw.choice(("AB", "BA"))] if turns % 2 else [])
    draw.shuffle(pairs)
    return "".join(pairs)


def block_order(plan: Plan, cell: str, number: int) -> str:
    """Return the order of turns in a cell's block; deterministic for the plan's seed.

    A generator seeded by a text takes its SHA-512, which unlike `hash` is the same in every process.
    """
    return order(plan.turns.turns, random.Random(f"{plan.seed}/{cell}/{number}"))
