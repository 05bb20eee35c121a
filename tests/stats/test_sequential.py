"""The gate's statistics: errors exactly as promised, properties that must hold for any blocks, truth that is known."""

import itertools
import math
import random
import statistics
from fractions import Fraction

import msgspec
import numpy as np
import pytest
from builders import blocks, paired, verdict
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvit_bench.errors import UsageError
from fastvit_bench.records.comparison import LOOKS, Block, Outcome, Plan, Verdict
from fastvit_bench.stats import sequential as judges
from fastvit_bench.stats.sequential import (
    POOLED,
    Boundaries,
    block_order,
    boundaries,
    calibrate,
    judge,
    operating,
    order,
    scatter,
    step,
)

PLAN = Plan()
RED, GREEN = Outcome.REGRESSED, (Outcome.PASS, Outcome.IMPROVED)

logs = st.floats(-0.3, 0.3, allow_nan=False)
looked = st.sampled_from(LOOKS).flatmap(lambda n: st.lists(logs, min_size=n, max_size=n))


def one(values, plan: Plan = PLAN) -> Verdict:
    return judge({"a": blocks(values)}, plan)["a"]


def gate(series: dict[str, list[float]], plan: Plan = PLAN) -> dict[str, Verdict]:
    """All looks of a gate, one after the other."""
    found: dict[str, Verdict] = {}
    for look in plan.looks:
        found = judge({name: blocks(values[:look]) for name, values in series.items()}, plan, found)
    return found


# --- the sequential test ----------------------------------------------------------------------------------------------


def brute_force(bounds: Boundaries, *, regressed: bool = True, passed: bool = True) -> tuple[Fraction, Fraction]:
    """Of all sequences of above and not above, the shares that end as regressed and as passed."""
    ends = [0, 0]
    for path in itertools.product((0, 1), repeat=bounds.looks[-1]):
        for look, fewest, most in zip(bounds.looks, bounds.regressed, bounds.passed, strict=True):
            above = sum(path[:look])
            if (regressed and above >= fewest) or (passed and above <= most):
                ends[above <= most] += 1
                break
    return Fraction(ends[0], 2 ** bounds.looks[-1]), Fraction(ends[1], 2 ** bounds.looks[-1])


@pytest.mark.parametrize("looks", [(6,), (3, 6, 9), (6, 10, 14), (1, 2, 3, 4, 5)])
@pytest.mark.parametrize(("alpha", "beta"), [(0.01, 0.05), (0.05, 0.01), (0.1, 0.2), (0.002, 0.05)])
def test_errors_are_what_all_paths_say(looks: tuple[int, ...], alpha: float, beta: float):
    found = boundaries(looks, alpha, beta)
    exact = operating(found, 0.5)
    assert (exact.regressed, exact.passed) == pytest.approx(tuple(map(float, brute_force(found))), abs=1e-15)
    # each is kept even if the other boundary does not end the series
    assert brute_force(found, passed=False)[0] <= alpha
    assert brute_force(found, regressed=False)[1] <= beta


@pytest.mark.parametrize("members", range(1, 31))
def test_the_last_look_could_not_be_looser(members: int):
    found = step(LOOKS, PLAN.alpha, PLAN.beta, members)
    alone = Boundaries(LOOKS, found.regressed, (-1,) * len(LOOKS))
    assert operating(alone, 0.5).regressed <= PLAN.alpha / members
    looser = Boundaries(LOOKS, (*found.regressed[:-1], found.regressed[-1] - 1), (-1,) * len(LOOKS))
    assert operating(looser, 0.5).regressed > PLAN.alpha / members


def test_six_quiet_blocks_pass_and_fourteen_loud_ones_do_not():
    found = step(LOOKS, 0.01, 0.05, 7)
    assert found.passed == (0, 1, 2, 4, 8, 13)
    assert found.regressed == (7, 11, 14, 19, 24, 30)
    assert step(LOOKS, 0.01, 0.05, 13).regressed[2] == 14


@given(st.floats(0.001, 0.2), st.floats(0.001, 0.2), st.lists(st.integers(1, 30), min_size=1, unique=True), st.data())
@settings(max_examples=60, deadline=None)
def test_steps_are_nested(alpha: float, beta: float, looks: list[int], data: st.DataObject):
    """Whatever is called regressed at one step is so at all later ones: Holm's procedure needs it."""
    steps = [step(tuple(sorted(looks)), alpha, beta, left) for left in range(1, 8)]
    for later, earlier in itertools.pairwise(steps):
        assert all(a <= b for a, b in zip(later.regressed, earlier.regressed, strict=True))
    share = data.draw(st.floats(0, 1))
    found = operating(steps[0], share)
    assert found.regressed + found.passed + found.inconclusive == pytest.approx(1)
    assert 0 < found.blocks <= max(looks) + 1e-9


def test_without_nesting_a_step_can_be_tighter_later(monkeypatch: pytest.MonkeyPatch):
    """Why `step` takes the tightest of all higher levels: spent elsewhere, a higher level is not always looser."""
    monkeypatch.setattr(judges, "_spent_late", lambda seen: 0.3 * seen + 0.7 * seen**8)
    plain = [boundaries.__wrapped__(LOOKS, 0.01 / left, 0.05).regressed for left in range(1, 31)]
    assert any(a > b for low, high in itertools.pairwise(plain) for a, b in zip(low, high, strict=True))


def test_more_blocks_above_are_more_alarms_and_fewer_passes():
    found = [operating(step(LOOKS, 0.01, 0.05, 7), share) for share in np.linspace(0, 1, 41)]
    assert all(a.regressed <= b.regressed and a.passed >= b.passed for a, b in itertools.pairwise(found))
    assert found[0].blocks == 6
    assert found[-1].blocks == 14


@pytest.mark.parametrize(
    ("looks", "alpha", "beta"),
    [((), 0.01, 0.05), ((6, 6), 0.01, 0.05), ((0, 6), 0.01, 0.05), ((6,), 0.0, 0.05), ((6,), 0.01, math.nan)],
)
def test_what_makes_no_test_is_refused(looks: tuple[int, ...], alpha: float, beta: float):
    with pytest.raises(UsageError):
        boundaries(looks, alpha, beta)


# --- verdicts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "outcome", "reason"),
    [
        ([0.02] * 6, Outcome.PASS, "[+2.02, +2.02], within the margin of 5 %: none of 6 blocks was above it."),
        ([0.0] * 9 + [0.2], Outcome.PASS, "within the margin of 5 %: 1 of 10 blocks was above it."),
        ([0.12] * 14, RED, "Slower, +12.75 % [+12.75, +12.75]: 14 of 14 blocks were above the margin of 5 %."),
        ([-0.1] * 6, Outcome.IMPROVED, "Quicker, -9.52 % [-9.52, -9.52]: 6 of 6 blocks were quicker by more"),
        ([0.12] * 13, Outcome.INCONCLUSIVE, "Time ran out after 13 blocks; slower, +12.75 %"),
        ([0.0], Outcome.INCONCLUSIVE, "a verdict takes at least 6 blocks: allow more time."),
        ([0.3, -0.3] * 3, Outcome.INCONCLUSIVE, "a quieter machine or a margin above"),
        ([0.05, 0.047] * 20, Outcome.INCONCLUSIVE, "a quieter machine sees further."),
    ],
)  # fmt: skip
def test_a_verdict_and_its_sentence(values: list[float], outcome: Outcome, reason: str):
    found = one(values)
    assert found.outcome is outcome
    assert reason in found.reason
    assert found.blocks == len(values)


@given(looked)
@settings(deadline=None)
def test_bounds_decide(values: list[float]):
    found = one(values)
    assert found.bounds is not None
    assert (found.outcome is RED) == (found.bounds[0] > 1 + PLAN.margin)
    assert (found.outcome in GREEN) == (found.bounds[1] <= 1 + PLAN.margin)
    assert found.interval is not None
    assert found.interval.low <= found.ratio <= found.interval.high


@given(looked, st.floats(0, 0.2), st.data())
@settings(deadline=None)
def test_a_slower_head_is_never_judged_better(values: list[float], more: float, data: st.DataObject):
    """Raising any of the head's samples turns no regression into a pass, and no pass into an improvement."""
    raised = [value + (more if data.draw(st.booleans()) else 0) for value in values]
    ranks = [Outcome.IMPROVED, Outcome.PASS, Outcome.INCONCLUSIVE, RED]
    assert ranks.index(one(raised).outcome) >= ranks.index(one(values).outcome)


@given(looked, st.floats(1e-3, 1e3))
@settings(deadline=None)
def test_only_ratios_matter(values: list[float], scale: float):
    def scaled(found: Block) -> Block:
        sides = ([[round(ns * scale) for ns in turn] for turn in side] for side in (found.base_ns, found.head_ns))
        base, head = (tuple(map(tuple, side)) for side in sides)
        return msgspec.structs.replace(found, base_ns=base, head_ns=head)

    before, after = one(values), judge({"a": list(map(scaled, blocks(values)))}, PLAN)["a"]
    assert after.ratio == pytest.approx(before.ratio, rel=1e-5)
    if all(abs(abs(value) - math.log(1.05)) > 1e-4 for value in values):
        assert (after.outcome, after.above) == (before.outcome, before.above)


@given(looked)
@settings(deadline=None)
def test_swapped_sides_give_the_inverse(values: list[float]):
    there, back = one(values), one([-value for value in values])
    assert there.ratio == pytest.approx(1 / back.ratio, rel=1e-6)
    assert there.interval.low == pytest.approx(1 / back.interval.high, rel=1e-6)
    if there.outcome is RED and len(values) >= 14:
        assert back.outcome is Outcome.IMPROVED


@given(st.permutations(range(4)), st.integers(0, 2**32))
@settings(max_examples=30, deadline=None)
def test_the_order_of_cells_does_not_matter(places: list[int], seed: int):
    draw = random.Random(seed)
    series = [blocks(draw.gauss(0.03 * cell, 0.02) for _ in range(14)) for cell in range(4)]
    usual = judge({str(cell): series[cell] for cell in range(4)}, PLAN)
    assert judge({str(cell): series[cell] for cell in places}, PLAN) == usual


# --- families ---------------------------------------------------------------------------------------------------------


def test_a_single_cell_has_no_pooled_verdict():
    assert list(judge({"a": blocks([0.0] * 6)}, PLAN)) == ["a"]
    assert list(judge({"a": blocks([0.0] * 6), "b": blocks([0.0] * 6)}, PLAN)) == ["a", "b", POOLED]
    assert judge({}, PLAN) == {}
    with pytest.raises(ValueError, match="a cell needs a name"):
        judge({POOLED: blocks([0.0])}, PLAN)


def test_many_small_slowdowns_are_one_pooled_regression():
    found = gate({name: [0.035] * 40 for name in "abcd"})
    assert {found[name].outcome for name in "abcd"} == {Outcome.PASS}
    assert found[POOLED].outcome is RED
    assert found[POOLED].margin == PLAN.pooled_margin
    assert found[POOLED].ratio == pytest.approx(math.exp(0.035))


def test_the_pooled_verdict_waits_for_all_cells():
    found = judge({"a": blocks([0.0] * 6), "b": blocks([0.0] * 5)}, PLAN)
    assert found["a"].outcome is Outcome.PASS
    assert (found[POOLED].outcome, found[POOLED].blocks) == (Outcome.INCONCLUSIVE, 5)


def regressing(count: int, above: int, blocks_: int) -> dict[str, tuple[Block, ...]]:
    """One cell that is borderline beside `count` that are clearly slower, and quick ones that keep the pooled away."""
    series = {f"slow{i}": blocks([0.2] * blocks_) for i in range(count)}
    series["borderline"] = blocks([0.1] * above + [-0.1] * (blocks_ - above))
    return series | {f"quick{i}": blocks([-0.2] * blocks_) for i in range(5 - count)}


def test_a_rejected_member_hands_its_level_on():
    """18 of 20 is not enough among seven, and is among two: five that regressed have left the family."""
    assert step(LOOKS, 0.01, 0.05, 7).regressed[3] == 19
    assert step(LOOKS, 0.01, 0.05, 3).regressed[3] == 18
    assert judge(regressing(0, 18, 20), PLAN)["borderline"].outcome is Outcome.INCONCLUSIVE
    assert judge(regressing(5, 18, 20), PLAN)["borderline"].outcome is RED
    # also where they had left it at an earlier look
    settled = {name: v for name, v in judge(regressing(5, 18, 20), PLAN).items() if name.startswith("slow")}
    assert judge(regressing(5, 18, 20), PLAN, settled)["borderline"].outcome is RED
    # passing hands nothing on
    settled = {f"quick{i}": verdict() for i in range(5)}
    assert judge(regressing(0, 18, 20), PLAN, settled)["borderline"].outcome is Outcome.INCONCLUSIVE


def test_a_verdict_that_has_fallen_stays():
    settled = {"a": verdict(), "b": verdict(outcome=RED)}
    found = judge({"a": blocks([0.3] * 14), "b": blocks([0.0] * 14)}, PLAN, settled)
    assert found["a"] == settled["a"]
    assert found["b"] == settled["b"]
    # and one that has not is reached anew
    for outcome in (Outcome.INCONCLUSIVE, Outcome.INCOMPARABLE):
        assert judge({"a": blocks([0.0] * 6)}, PLAN, {"a": verdict(outcome=outcome, blocks=1)})["a"].blocks == 6


@given(st.lists(logs, min_size=1, max_size=45))
@settings(deadline=None)
def test_nothing_is_decided_between_looks(values: list[float]):
    found = one(values)
    assert len(values) in LOOKS or (found.outcome is Outcome.INCONCLUSIVE and found.bounds is None)


# --- nothing to compare -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"head_ns": ((0,),)}, "block 1 has a sample that is no positive time"),
        ({"head_ns": ((math.nan,),)}, "block 1 has a sample that is no positive time"),
        ({"base_ns": ((math.inf,),)}, "block 1 has a sample that is no positive time"),
        ({"base_ns": ((-5, 7),)}, "block 1 has a sample that is no positive time"),
        ({"base_ns": (), "head_ns": ()}, "block 1 has a turn without samples"),
        ({"head_ns": ((),)}, "block 1 has a turn without samples"),
        ({"reference": math.nan}, "block 1 has a reference workload of nan times the stored one"),
        ({"reference": 0.0}, "block 1 has a reference workload of 0 times"),
        ({"replaced": True}, "no block was measured"),
    ],
)
def test_what_has_no_ratio_is_incomparable(broken: dict, reason: str):
    found = judge({"a": [paired(**broken)], "b": blocks([0.0] * 6)}, PLAN)
    assert found["a"].outcome is Outcome.INCOMPARABLE
    assert reason in found["a"].reason
    assert found["b"].outcome is Outcome.PASS
    assert found[POOLED].outcome is Outcome.INCOMPARABLE
    assert "there are no ratios of a" in found[POOLED].reason


def test_replaced_blocks_do_not_count():
    series = [*blocks([0.0] * 6), paired(9.0, 7, replaced=True)]
    assert judge({"a": series}, PLAN)["a"].blocks == 6


def test_a_stored_baseline_is_scaled_by_its_reference_workload():
    series = [paired(0.2, number, reference=math.exp(0.2)) for number in range(1, 7)]
    assert judge({"a": series}, PLAN)["a"].ratio == pytest.approx(1)


# --- estimates --------------------------------------------------------------------------------------------------------


def test_an_interval_takes_six_blocks():
    assert one([0.0] * 5).interval is None
    assert one([0.0] * 5).detectable is None
    assert one([0.0] * 6).interval is not None


def test_the_scatter_of_normal_blocks_is_their_standard_deviation():
    draw = np.random.default_rng(0)
    for count in (6, 7, 8, 9, 10, 14, 40):
        assert np.mean([scatter(row) for row in draw.normal(size=(4000, count)).tolist()]) == pytest.approx(1, abs=0.03)


def test_what_is_detectable_is_detected():
    """At a slowdown of `detectable` the exact characteristics give 95 %, and at a margin of `floor` too."""
    values = np.random.default_rng(1).normal(0, 0.01, 40).tolist()
    found, deviation = one(values), scatter(values)
    normal = statistics.NormalDist()
    share = normal.cdf((math.log1p(found.detectable) - math.log1p(PLAN.margin)) / deviation)
    assert operating(step(LOOKS, 0.01, 0.05, 1), share).regressed == pytest.approx(0.95, abs=1e-4)
    share = normal.cdf(-math.log1p(found.floor) / deviation)
    assert operating(step(LOOKS, 0.01, 0.05, 1), share).passed == pytest.approx(0.95, abs=1e-4)
    assert one([0.01] * 6).floor == 0
    assert one([0.01] * 6).detectable == pytest.approx(PLAN.margin)


def test_looks_too_few_for_a_verdict_detect_nothing():
    found = one([0.0] * 6, Plan(looks=(6,)))
    assert found.detectable is None  # six blocks never say regressed at 1 %
    assert found.floor is not None


# --- simulated truth --------------------------------------------------------------------------------------------------

NOISES = {
    "normal": lambda draw, shape: draw.normal(size=shape),
    "Cauchy": lambda draw, shape: draw.standard_cauchy(shape),
    "skewed": lambda draw, shape: draw.exponential(size=shape) - math.log(2),
    "outliers": lambda draw, shape: draw.normal(size=shape) * np.where(draw.random(shape) < 0.08, 50, 1),
}


def simulated(values: np.ndarray, bounds: Boundaries) -> tuple[float, float]:
    """Shares of rows (gates, blocks) called regressed and passed; values above 0 are above the margin."""
    above = np.cumsum(values > 0, axis=1)
    ends = np.zeros(len(values), int)
    for look, fewest, most in zip(bounds.looks, bounds.regressed, bounds.passed, strict=True):
        count = above[:, look - 1]
        ends = np.where((ends == 0) & (count >= fewest), 1, np.where((ends == 0) & (count <= most), 2, ends))
    return float((ends == 1).mean()), float((ends == 2).mean())


@pytest.mark.parametrize("noise", NOISES)
def test_errors_at_the_margin_are_kept_whatever_the_noise(noise: str):
    draw = np.random.default_rng(2)
    bounds = step(LOOKS, 0.05, 0.05, 1)
    regressed, passed = simulated(NOISES[noise](draw, (20_000, 40)), bounds)
    exact = operating(bounds, 0.5)
    assert (regressed, passed) == pytest.approx((exact.regressed, exact.passed), abs=0.006)
    assert regressed < 0.055
    assert passed < 0.055


def test_a_judge_that_peeks_is_caught():
    """Planted fault: each look at the full level, as if it were the only one."""
    peeking = [boundaries((look,), 0.05, 0.05) for look in LOOKS]
    bounds = Boundaries(LOOKS, tuple(b.regressed[0] for b in peeking), tuple(b.passed[0] for b in peeking))
    assert operating(bounds, 0.5).regressed > 0.055
    regressed, _ = simulated(np.random.default_rng(2).normal(size=(20_000, 40)), bounds)
    assert regressed > 0.055


def test_a_judge_that_forgets_the_family_is_caught(monkeypatch: pytest.MonkeyPatch):
    """Planted fault: every cell at the full level. Cells at the margin, where errors are as frequent as they get."""

    def alarms() -> float:
        draw = np.random.default_rng(3)
        plan = Plan(alpha=0.2, pooled_margin=0.2, looks=(6, 10))
        found = [gate({str(c): row for c, row in enumerate(rows)}, plan) for rows in noise(draw)]
        return float(np.mean([any(v.outcome is RED for v in verdicts.values()) for verdicts in found]))

    def noise(draw: np.random.Generator) -> list[list[list[float]]]:
        return (draw.normal(0, 0.01, size=(150, 5, 10)) + math.log(1.05)).tolist()

    assert alarms() <= 0.2 + 2 * math.sqrt(0.2 * 0.8 / 150)
    real = judges.step
    monkeypatch.setattr(judges, "step", lambda looks, alpha, beta, left: real(looks, alpha, beta, 1))
    assert alarms() > 0.2 + 4 * math.sqrt(0.2 * 0.8 / 150)


@pytest.mark.parametrize("noise", NOISES)
def test_unchanged_cells_raise_no_alarm(noise: str):
    draw = np.random.default_rng(4)
    for rows in (0.01 * NOISES[noise](draw, (30, 6, 40))).clip(-3, 3).tolist():
        assert RED not in {v.outcome for v in gate(dict(zip("abcdef", rows, strict=True))).values()}


def test_a_slower_cell_is_caught_among_six():
    draw = np.random.default_rng(5)
    for rows in draw.normal(0, 0.01, size=(40, 6, 40)).tolist():
        found = gate(dict(zip("abcdef", [[v + math.log(1.1) for v in rows[0]], *rows[1:]], strict=True)))
        assert [name for name in "abcdef" if found[name].outcome is RED] == ["a"]


@pytest.mark.slow
@pytest.mark.parametrize("noise", NOISES)
def test_coverage_of_the_interval(noise: str):
    values = NOISES[noise](np.random.default_rng(6), (6000, 40))
    for count in range(6, 41, 2):
        ends = [judges.interval(row) for row in values[:, :count].tolist()]
        assert 0.94 < np.mean([low <= 0 <= high for low, high in ends]) < 0.98, count


# --- calibration ------------------------------------------------------------------------------------------------------


def test_a_calibration_counts_what_gates_would_have_said():
    quiet, loud = [0.0, 0.01] * 20, [0.3, -0.3] * 20
    gates = [{"a": blocks(quiet[:6]), "b": blocks(series)} for series in (quiet[:6], [0.3] * 40, loud)]
    found = calibrate(gates, Plan(pooled_margin=0.5))
    assert (found.repetitions, found.false_alarms, found.inconclusive) == (3, 1, 1)
    assert [(cell.name, cell.false_alarms, cell.inconclusive) for cell in found.cells] == [("a", 0, 0), ("b", 1, 1)]
    assert found.pooled is not None
    assert found.pooled.margin == 0.5
    a, b = found.cells
    assert (a.blocks, b.blocks) == (18, 86)
    assert (a.drawn_false_alarms, a.drawn_inconclusive) == (0, 0)
    assert b.drawn_false_alarms == pytest.approx(
        1 / 3, abs=1e-3
    )  # and few of the third, whose blocks lie above half of the time
    assert b.scatter is not None
    assert msgspec.json.decode(msgspec.json.encode(found), type=type(found)) == found


def test_the_computed_bootstrap_is_what_drawing_gives():
    values = [0.08, 0.09, 0.07, 0.06, 0.1, -0.01, 0.0, 0.02]
    found = calibrate([{"a": blocks(values)}], PLAN).cells[0]
    drawn = np.random.default_rng(0).choice(values, (40_000, 40)) - math.log1p(PLAN.margin)
    regressed, passed = simulated(drawn, step(LOOKS, 0.01, 0.05, 1))
    assert found.drawn_false_alarms == pytest.approx(regressed, abs=0.01)
    assert found.drawn_inconclusive == pytest.approx(1 - regressed - passed, abs=0.01)


def test_a_single_cell_is_calibrated_without_pooling():
    assert calibrate([{"a": blocks([0.0] * 6)}], PLAN).pooled is None


@pytest.mark.parametrize("gates", [[], [{}], [{"a": blocks([0.0])}, {"b": blocks([0.0])}], [{"a": []}]])
def test_what_cannot_be_calibrated_is_refused(gates: list):
    with pytest.raises(UsageError):
        calibrate(gates, PLAN)


# --- order of turns ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", [1, 2, 5, 10])
def test_each_side_comes_first_as_often(turns: int):
    seen = set()
    for seed in range(40):
        found = order(turns, random.Random(seed))
        pairs = [found[i : i + 2] for i in range(0, len(found), 2)]
        assert len(pairs) == turns
        assert set(pairs) <= {"AB", "BA"}
        assert abs(pairs.count("AB") - pairs.count("BA")) == turns % 2
        seen.add(found)
    assert len(seen) > 1


def test_the_order_of_a_block_is_known_before_it_is_run():
    assert block_order(PLAN, "fastvit_t8 256 b1", 1) == block_order(PLAN, "fastvit_t8 256 b1", 1)
    assert len({block_order(PLAN, name, number) for name in "ab" for number in range(1, 6)}) > 5
    assert block_order(PLAN, "a", 1) == "ABABBABAABBABAABBAAB"  # in every process and version
