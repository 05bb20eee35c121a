"""Taking turns: what is measured when, what is measured again, when it ends; with processes that only say times."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import builders
import msgspec
import pytest
from conftest import export_job
from fakes.worker import QUIET, Side, timed_by

from fastvit_bench.comparing import inputs, interleaved
from fastvit_bench.comparing.inputs import Candidate, ComparisonPair, Unavailable
from fastvit_bench.exporting import pipeline
from fastvit_bench.measuring import machine as machines
from fastvit_bench.measuring.jobs import Reply
from fastvit_bench.records import CellError, Interval, Method, Window
from fastvit_bench.records.comparison import BaselineKind, Block, InterleavePlan, Outcome, Plan, Readings, Verdict
from fastvit_bench.stats import sequential
from fastvit_bench.sweep.block import BlockSide


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    Side.log = []
    monkeypatch.setattr(machines, "pause", lambda seconds: None)
    monkeypatch.setattr(machines.Between, "readings", lambda self, own_s, gpu=(): QUIET)


def entry(label: str, model: str = "fastvit_t8", size: int = 256, **changes: Any) -> Candidate:
    artifact = builders.artifact(model=model, shape=builders.shape(size), **changes)
    return Candidate(label, artifact, Path(f"{label}-{model}-{size}.onnx"), builders.device())


def pair(model: str = "fastvit_t8", size: int = 256) -> ComparisonPair:
    base, head = entry("base", model, size), entry("head", model, size)
    return ComparisonPair(inputs.name_of(base.artifact), base, head)


def contest(
    *pairs: ComparisonPair, ratio: float | Callable[[BlockSide], float] = 1.0, plan: Plan | None = None, **faults: Any
) -> interleaved.InterleavedRun:
    """Of pairs whose heads take `ratio` times as long as their bases; faults are the heads'."""

    def start(entry: BlockSide) -> Any:
        of = ratio(entry) if callable(ratio) else ratio
        if entry.label == "base":
            return Side("base", 10.0)
        return Side("head", 10.0 * of, **faults)

    measure = timed_by(start)
    return interleaved.InterleavedRun(
        pairs or (pair(),), plan or Plan(), builders.machine(), timeout_s=60, measure=measure
    )


def told(found: interleaved.InterleavedRun) -> Any:
    return interleaved.to_comparison(
        found,
        found.run(),
        kind=BaselineKind.PAIRED,
        device=builders.device(),
        base="a",
        head="b",
        started=builders.START,
    )


@pytest.mark.parametrize(
    ("ratio", "outcome", "blocks"),
    [(1.0, Outcome.PASS, 6), (1.2, Outcome.REGRESSED, 14), (0.8, Outcome.IMPROVED, 6)],
)
def test_a_cell_ends_at_the_look_that_decides_it(ratio: float, outcome: Outcome, blocks: int) -> None:
    found = told(contest(ratio=ratio))
    (cell,) = found.cells
    assert cell.verdict.outcome is found.outcome is outcome
    assert len(cell.blocks) == cell.verdict.blocks == blocks
    assert cell.verdict.ratio == pytest.approx(ratio, rel=0.01)
    assert cell.head_ms == pytest.approx(10 * ratio, rel=0.01)


def test_each_block_has_fresh_processes_that_take_balanced_turns() -> None:
    found = contest()
    found.run()
    starts = [at for at, said in enumerate(Side.log) if said == "start base"]
    assert len(starts) == 6
    assert Side.log.count("start head") == Side.log.count("end head") == 6
    first = Side.log[2 : Side.log.index("end head")]
    assert first.count("base") == first.count("head") == 10
    (block, *others) = found.cells["fastvit_t8 256 b1"].blocks
    assert "".join("A" if name == "base" else "B" for name in first) == block.order
    pairs = [block.order[at : at + 2] for at in range(0, 20, 2)]
    assert sorted(pairs) == ["AB"] * 5 + ["BA"] * 5
    assert len({each.order for each in (block, *others)}) > 1
    assert all(len(turn) == 10 for turn in (*block.base_ns, *block.head_ns))


def test_the_same_seed_gives_the_same_order_and_another_does_not() -> None:
    orders = []
    for seed in (3, 3, 4):
        found = contest(plan=Plan(seed=seed))
        found.run()
        orders.append([block.order for block in found.cells["fastvit_t8 256 b1"].blocks])
    assert orders[0] == orders[1] != orders[2]


def test_slow_networks_get_shorter_turns_of_equal_length() -> None:
    found = contest(
        ratio=12.0, plan=Plan(margin=0.9, pooled_margin=0.5, looks=(6, 14), turns=InterleavePlan(turn_ms=250))
    )
    found.run()
    for block in found.cells["fastvit_t8 256 b1"].blocks:
        assert {len(turn) for turn in (*block.base_ns, *block.head_ns)} == {2}  # of 120 ms


def test_one_slow_cell_of_six_goes_on_alone_and_is_found() -> None:
    pairs = [pair(size=size) for size in (224, 256, 384, 512, 768, 1024)]
    found = told(contest(*pairs, ratio=lambda entry: 1.1 if entry.artifact.shape.height == 384 else 1.0))
    outcomes = {cell.name: cell.verdict.outcome for cell in found.cells}
    assert outcomes.pop("fastvit_t8 384 b1") is Outcome.REGRESSED
    assert set(outcomes.values()) == {Outcome.PASS}
    assert {len(cell.blocks) for cell in found.cells if "384" not in cell.name} == {6}
    assert found.exit_code == 1


def test_a_small_slowdown_of_all_cells_is_found_by_the_pooled_verdict_alone() -> None:
    pairs = [pair(size=size) for size in (224, 256, 384, 512, 768, 1024)]
    found = told(contest(*pairs, ratio=1.04))
    assert {cell.verdict.outcome for cell in found.cells} == {Outcome.PASS}
    assert found.pooled.outcome is Outcome.REGRESSED
    assert found.exit_code == 1
    # every cell went on until that was clear
    assert {len(cell.blocks) for cell in found.cells} == {14}


def test_an_improvement_that_no_count_explains_is_doubted() -> None:
    """A paired one is a warning; one against a stored figure, which may have been edited, is left open."""
    found = told(contest(ratio=0.3))
    assert found.outcome is Outcome.IMPROVED
    assert any("takes 0.3 times as long" in text and "no less than 1" in text for text in found.warnings)
    (cell,) = found.cells
    assert cell.base is not None
    assert cell.head is not None
    lighter = msgspec.structs.replace(cell.head.artifact, macs=cell.head.artifact.macs // 3)
    explained = msgspec.structs.replace(cell.head, artifact=lighter)
    assert interleaved._beyond_counts(cell.verdict, cell.base, cell.head)
    assert not interleaved._beyond_counts(cell.verdict, cell.base, explained)
    other_way = msgspec.structs.replace(cell.head, device=builders.device(options={"threads": 8}))
    assert not interleaved._beyond_counts(cell.verdict, cell.base, other_way)
    assert not told(contest(ratio=0.8)).warnings


def test_time_that_runs_out_leaves_the_verdict_open(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10**6, 5))
    monkeypatch.setattr(machines, "monotonic_s", lambda: float(next(clock)))
    found = told(contest(ratio=1.2, plan=Plan(max_time_s=80)))
    (cell,) = found.cells
    assert cell.verdict.outcome is Outcome.INCONCLUSIVE
    assert 0 < len(cell.blocks) < 14
    assert found.exit_code == 3
    assert "time" in cell.verdict.reason


def test_no_time_at_all_is_not_green(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10**6, 5))
    monkeypatch.setattr(machines, "monotonic_s", lambda: float(next(clock)))
    found = told(contest(plan=Plan(max_time_s=1)))
    assert found.exit_code in (3, 4)
    assert found.cells[0].blocks == ()


@pytest.mark.parametrize(
    ("fault", "said", "code"),
    [
        ({"open": CellError(stage="timing", reason="memory ran out")}, "head: memory ran out", 4),
        ({"turn": CellError(stage="timing", reason="the process crashed (SIGSEGV)")}, "head: the process crashed", 4),
        ({"open": CellError(stage="parity", reason="computes something else")}, "computes something else", 5),
        ({"window": Window.END_TO_END}, "window: compute there, end-to-end here", 4),
    ],
)
def test_a_side_that_breaks_down_or_is_timed_otherwise_is_never_green(
    fault: dict[str, Any], said: str, code: int
) -> None:
    found = told(contest(**fault))
    (cell,) = found.cells
    assert cell.verdict.outcome is Outcome.INCOMPARABLE
    assert said in cell.verdict.reason
    assert found.exit_code == code


def test_a_cell_that_one_side_lacks_is_never_green_and_the_others_are_measured() -> None:
    lone = ComparisonPair(
        "fastvit_t12 256 b1", entry("base", "fastvit_t12"), Unavailable("fastvit_t12 256 b1", "this tree lacks it")
    )
    found = told(contest(pair(), lone))
    assert [cell.verdict.outcome for cell in found.cells] == [Outcome.PASS, Outcome.INCOMPARABLE]
    assert found.cells[1].verdict.reason == "this tree lacks it"
    assert found.exit_code == 4


def test_disturbed_blocks_are_measured_again_and_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    said = iter([QUIET, msgspec.structs.replace(QUIET, others_percent=90.0), QUIET])
    monkeypatch.setattr(machines.Between, "readings", lambda self, own_s, gpu=(): next(said, QUIET))
    found = told(contest())
    (cell,) = found.cells
    assert [block.replaced for block in cell.blocks] == [False, True, *[False] * 5]
    assert cell.blocks[1].disturbed == ("other processes used 90 % of a processor",)
    assert cell.verdict.blocks == 6
    assert any("1 of 7 blocks were disturbed, 1 of them measured again" in warning for warning in found.warnings)


def test_a_machine_that_is_never_quiet_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    loud = msgspec.structs.replace(QUIET, steal_percent=30.0)
    monkeypatch.setattr(machines.Between, "readings", lambda self, own_s, gpu=(): loud)
    found = told(contest())
    (cell,) = found.cells
    assert cell.verdict.outcome is Outcome.PASS  # in turns, what disturbs both sides cancels
    assert cell.verdict.blocks == 6
    assert len(cell.blocks) <= 6 + interleaved.NEVER_QUIET
    assert "the hypervisor took" in " ".join(found.warnings)


@pytest.mark.parametrize(("processes", "others"), [(1, 0), (2, 1)])
def test_on_a_gpu_the_other_side_is_no_disturbance(
    processes: int, others: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machines.Between, "readings", lambda self, own_s, gpu=(): Readings(gpu=tuple(gpu)))
    found = contest(gpu=builders.gpu_state(other_processes=processes, other_memory_mib=300), plan=Plan(looks=(2, 8)))
    found.run()
    block = found.cells["fastvit_t8 256 b1"].blocks[0]
    assert {look.other_processes for look in block.readings.gpu} == {others}
    assert {look.other_memory_mib for look in block.readings.gpu} == ({300} if others else {None})
    assert bool(block.disturbed) is bool(others)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"throttled": 3}, "heat"),
        ({"quota_periods": 12}, "CPU quota stopped it 12x"),
        ({"steal_percent": 9.0}, "hypervisor"),
        ({"others_percent": 60.0}, "other processes"),
        ({"gpu": (builders.gpu_state(throttle=("heat (hardware)",)),)}, "GPU"),
    ],
)
def test_what_disturbs_a_block_is_named(changes: dict[str, Any], said: str) -> None:
    block = builders.block(readings=msgspec.structs.replace(QUIET, **changes))
    assert any(said in reason for reason in interleaved.disturbances(block))
    assert interleaved.disturbances(builders.block(readings=QUIET)) == []


def test_burst_and_sustained_speed_are_told_apart() -> None:
    quick = tuple((8_000_000,) * 10 for _ in range(10))
    fading = tuple((8_000_000 if at < 4 else 11_000_000,) * 10 for at in range(10))
    assert interleaved.disturbances(builders.block(base_ns=quick, head_ns=quick)) == []
    (reason,) = interleaved.disturbances(builders.block(base_ns=fading, head_ns=fading))
    assert "slower within the block" in reason
    blocks = [builders.block(number, 8.0 if number < 5 else 10.0, 8.0) for number in range(1, 11)]
    assert interleaved.regimes(blocks) == "8 ms in the first 4 blocks (burst), 10 ms in the 6 after them (sustained)"
    assert interleaved.regimes([builders.block(number, 8.0, 8.0) for number in range(1, 11)]) is None


def test_a_side_in_another_environment_is_described_by_its_own_packages() -> None:
    found = told(contest(packages={"onnxruntime": "1.30.0"}))
    (cell,) = found.cells
    assert cell.base.machine.packages == {"onnxruntime": "1.23.0"}
    assert cell.head.machine.packages == {"onnxruntime": "1.30.0"}


# --- stored baselines -------------------------------------------------------------------------------------------------


class Again(Side):
    """A process that measures as `latency` does."""

    def ask(self, job: Any, timeout_s: float) -> Reply:
        samples = tuple(self._sample() for _ in range(100))
        reference = self.faults.get("reference", (4_000_000,) * 15)
        return builders.measurement(
            samples_ns=(samples,), artifact=job.artifact, method=self.faults.get("method", job.method),
            reference_ns=reference,
        )  # fmt: skip


def against_stored(head_ms: float, factors: tuple[float, float] | None = None, **faults: Any) -> Any:
    then = builders.measurement(
        samples_ns=(faults.pop("base", (10_000_000,) * 100),),
        reference_ns=faults.pop("then", (4_000_000,) * 15),
        method=Method(),
    )
    stored = ComparisonPair("fastvit_t8 256 b1", then, entry("head"))
    found = interleaved.InterleavedRun(
        [stored],
        interleaved.widen_margins(Plan(), 0.1),
        builders.machine(),
        timeout_s=60,
        same=inputs.allow_any,
        factors=factors,
        measure=timed_by(lambda entry: Again("head", head_ms, **faults)),
    )
    return interleaved.to_comparison(
        found,
        found.run(),
        kind=BaselineKind.STORED,
        device=builders.device(),
        base="a",
        head="b",
        started=builders.START,
    )


def test_a_figure_of_another_day_has_a_wider_margin_and_a_weaker_kind() -> None:
    assert interleaved.widen_margins(Plan(), 0.1).margin == pytest.approx(0.15)
    found = against_stored(11.0)
    assert found.kind is BaselineKind.STORED
    assert found.outcome is Outcome.PASS
    assert against_stored(12.5).outcome is Outcome.REGRESSED


def test_a_reference_workload_puts_two_days_in_proportion() -> None:
    # the whole machine is 20 % slower today, and so is the network
    found = against_stored(12.0, reference=(4_800_000,) * 15)
    (cell,) = found.cells
    assert cell.verdict.ratio == pytest.approx(1.0, rel=0.01)
    assert found.outcome is Outcome.PASS
    assert cell.speed_factor == pytest.approx(1.2)
    assert cell.head_ms == pytest.approx(cell.base_ms * cell.verdict.ratio)
    # without it, as of a device that has none, the same figures are a regression
    found = against_stored(12.5, reference=())
    assert found.outcome is Outcome.REGRESSED
    assert any("reference" in warning for warning in found.warnings)


def test_a_correction_cannot_turn_a_stored_baseline_around() -> None:
    """The reference workload of the stored run had been disturbed once: 23 times as long as it takes now."""
    found = against_stored(5.0, then=(92_000_000,) * 15)
    (cell,) = found.cells
    assert found.exit_code == 3
    assert "0.04 times" in cell.verdict.reason
    # what the machine is known for widens the bounds, and only that
    assert against_stored(14.0, reference=(5_600_000,) * 15).outcome is Outcome.INCONCLUSIVE
    assert against_stored(14.0, reference=(5_600_000,) * 15, factors=(0.7, 1.43)).outcome is Outcome.PASS


def test_a_reference_workload_that_scatters_itself_decides_nothing() -> None:
    unsteady = (3_400_000, 4_000_000, 4_600_000) * 5
    found = against_stored(10.0, then=unsteady)
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "scatters" in found.cells[0].verdict.reason


def test_the_stored_figures_own_interval_and_warnings_enter_the_verdict() -> None:
    """Half of the stored runs took 8 ms and half 12: at 11.7 ms, one end of the base passes and the other does not."""
    wide = (8_000_000, 12_000_000) * 50
    found = against_stored(11.7, base=wide)
    assert found.outcome is Outcome.INCONCLUSIVE
    assert "itself uncertain" in found.cells[0].verdict.reason
    assert any("warning of its own: median uncertain" in warning for warning in found.warnings)


def test_a_contradiction_far_below_the_margin_leaves_no_cell_open() -> None:
    """Planted: the same file on both sides, +0.4 % by turns and -0.5 % by medians, was inconclusive at 5 %."""
    ends = Interval(low=0.998, high=1.021, confidence=0.95)
    verdict = Verdict(outcome=Outcome.PASS, margin=0.05, reason="", blocks=6, ratio=1.004, interval=ends)
    near, far = ([builders.block(number, 10.0, head_ms) for number in range(1, 7)] for head_ms in (9.95, 9.0))
    assert sequential.without_contradiction(verdict, near) == verdict
    assert sequential.without_contradiction(verdict, far).outcome is Outcome.INCONCLUSIVE


def test_paired_ratio_and_medians_that_say_the_opposite_leave_a_cell_open() -> None:
    """Head is quicker in most pairs of turns, and slower in the medians of all runs, as by a shift between turns."""
    base = (*((10_000_000,) * 10,) * 6, *((20_000_000,) * 10,) * 4)
    head = (*((9_900_000,) * 10,) * 4, *((30_000_000,) * 10,) * 2, *((19_800_000,) * 10,) * 4)
    agreeing = [builders.block(number, base_ns=base, head_ns=base) for number in range(1, 7)]
    (verdict,) = sequential.judge({"cell": agreeing}, Plan()).values()
    assert sequential.without_contradiction(verdict, agreeing) == verdict
    blocks = [builders.block(number, base_ns=base, head_ns=head) for number in range(1, 7)]
    (verdict,) = sequential.judge({"cell": blocks}, Plan()).values()
    assert verdict.outcome is Outcome.PASS
    assert verdict.ratio == pytest.approx(0.99)
    open_ = sequential.without_contradiction(verdict, blocks)
    assert open_.outcome is Outcome.INCONCLUSIVE
    assert "measure again" in open_.reason


def test_the_figures_of_a_cell_and_its_change_are_one_estimate() -> None:
    (cell,) = told(contest(ratio=1.02)).cells
    assert cell.head_ms == cell.base_ms * cell.verdict.ratio


def test_a_plan_that_cannot_be_reached_ends_before_the_first_block() -> None:
    found = contest(plan=Plan(max_time_s=3, turns=InterleavePlan(pause_ms=200)))
    comparison = told(found)
    assert comparison.exit_code == 3
    assert comparison.cells[0].blocks == ()
    assert "the time allowed is 3 s" in comparison.cells[0].verdict.reason
    assert not [line for line in Side.log if line in ("base", "head")]  # no turn was taken


def test_two_sides_of_one_content_are_told_as_such() -> None:
    same = pair()
    (sentence,) = inputs.same_content([same])
    assert "the same file" in sentence
    head = msgspec.structs.replace(same.head.device, options={"threads": 7})
    other = ComparisonPair(same.name, same.base, Candidate("head", same.head.artifact, same.head.path, head))
    assert inputs.same_content([other]) == []


def test_a_side_is_halted_while_the_other_one_runs() -> None:
    found = contest(plan=Plan(looks=(6,), turns=InterleavePlan(idle="stopped", pause_ms=0)))
    found.run()
    running: set[str] = set()
    for line in Side.log:
        verb, _, name = line.rpartition(" ")
        if verb in ("start", "go on"):
            running.add(name)
        elif verb in ("stop", "end"):
            running.discard(name)
        else:
            assert running == {name}


def test_a_head_that_is_timed_by_another_method_is_not_comparable() -> None:
    found = against_stored(10.0, method=Method(runs=50))
    assert found.exit_code == 4
    assert "method" in found.cells[0].verdict.reason


# --- with a real process ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("idle", ["running", interleaved.INTERLEAVE_PLAN.idle])
def test_real_processes_take_turns(exported: Path, monkeypatch: pytest.MonkeyPatch, idle: Any) -> None:
    monkeypatch.undo()
    job = export_job(exported)
    artifact = pipeline.cached(job)
    assert artifact is not None
    both = [Candidate(label, artifact, Path(job.path), job.device) for label in ("base", "head")]
    plan = Plan(turns=InterleavePlan(turns=4, runs=5, pause_ms=5, idle=idle))
    (found,) = [ComparisonPair("t8", both[0], both[1])]
    measured = interleaved.InterleavedRun([found], plan, machines.collect(), timeout_s=60)
    block = measured.measure("t8")
    cell = measured.cells["t8"]
    assert isinstance(block, Block)
    assert len(block.base_ns) == len(block.head_ns) == 4
    assert {len(turn) for turn in block.base_ns} == {5}
    assert block.readings.others_percent is not None
    assert cell.base is not None
    assert cell.base.parity is not None
    assert cell.base.machine.packages["onnxruntime"]
