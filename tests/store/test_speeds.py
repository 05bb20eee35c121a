"""The machine's speeds: what is kept of them, what marks a figure, and how long a sweep waits for a better one."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import builders
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvit_bench.measuring import worker
from fastvit_bench.measuring.jobs import ReferenceJob, ReferenceTimed
from fastvit_bench.measuring.processes import AGAIN
from fastvit_bench.records import Measurement, Method, SpeedCheck
from fastvit_bench.stats import intervals
from fastvit_bench.store import speeds
from fastvit_bench.sweep import cell, plan, run

MACHINE = builders.machine()


def check(ns: int) -> SpeedCheck:
    return SpeedCheck(before_ns=(ns,) * 9, after_ns=(round(1.08 * ns),) * 9)  # disturbed once: the quicker half counts


def figure(
    *references_ns: int, best_ns: int | None = None, medians_ms: tuple[float, ...] = (8.0, 8.1, 8.0, 8.1)
) -> Any:
    return builders.measurement(
        samples_ns=tuple((round(1e6 * median),) * 25 for median in medians_ms),
        method=Method(processes=4),
        speed_checks=tuple(map(check, references_ns)),
        best_reference_ns=best_ns,
    )


def test_a_figure_made_at_a_slow_speed_is_marked_with_it() -> None:
    slow = figure(3_400_000, 3_400_000, 3_400_000, 3_400_000, best_ns=2_400_000)
    assert slow.speed == pytest.approx(0.706, abs=0.001)
    assert "the machine ran at 0.71 of its best" in slow.warnings
    usual = figure(2_440_000, 2_400_000, 2_420_000, 9_000_000, best_ns=2_400_000)  # one process was disturbed
    assert usual.warnings == []
    assert figure(3_400_000).speed is None  # nothing is known to compare with


@pytest.mark.parametrize(
    ("before", "after", "slow"),
    [(1.0, 1.0, False), (1.0, 1.1, False), (1.0, 1.2, True), (1.9, 1.0, True), (1.06, 1.07, True)],
)
def test_a_process_is_slow_all_along_or_clearly_at_one_end(before: float, after: float, slow: bool) -> None:
    """Planted: one that began at half the speed and ended at full speed was taken for a quick one."""
    found = SpeedCheck(before_ns=(round(2e6 * before),) * 9, after_ns=(round(2e6 * after),) * 9)
    assert found.is_slow(2e6) is slow


def test_the_interval_holds_what_the_processes_differ_by() -> None:
    alike, apart = figure(), figure(medians_ms=(8.0, 8.4, 7.9, 8.3))
    width = {name: (it.interval_ms.high - it.interval_ms.low) for name, it in {"alike": alike, "apart": apart}.items()}
    assert width["apart"] > 2 * width["alike"] > 0
    assert apart.interval_ms.low < 7.9 < 8.4 < apart.interval_ms.high


@given(st.lists(st.floats(1.0, 1e9), min_size=2, max_size=8), st.floats(0.01, 100))
def test_the_factor_for_another_figure_does_not_depend_on_the_unit(medians: list[float], unit: float) -> None:
    factor = intervals.another_figure(medians)
    assert factor is not None
    assert factor >= 1
    assert math.isclose(
        math.log(factor), math.log(intervals.another_figure([unit * it for it in medians]) or 0), abs_tol=1e-6
    )


def test_another_figure_is_held_in_95_percent_of_runs() -> None:
    import numpy as np

    draws = np.exp(np.random.default_rng(3).normal(2.0, 0.01, size=(2, 4000, 4)))
    held = 0
    for ours, others in zip(draws[0], draws[1], strict=True):
        factor = intervals.another_figure(ours.tolist())
        assert factor is not None
        figures = [math.exp(np.log(it).mean()) for it in (ours, others)]
        held += figures[0] / factor <= figures[1] <= figures[0] * factor
    assert held / 4000 == pytest.approx(0.95, abs=0.015)


def test_processes_that_agree_by_luck_do_not_make_a_narrow_interval() -> None:
    """Planted: of intervals of at most 5 %, which no warning marks, far fewer than 95 % held the next figure."""
    import numpy as np

    scatter = 0.02
    draws = np.exp(np.random.default_rng(5).normal(2.0, scatter, size=(2, 4000, 4)))
    for usual, least, most in ((None, 0.0, 0.8), (scatter, 0.9, 1.0)):
        held = []
        for ours, others in zip(draws[0], draws[1], strict=True):
            factor = intervals.another_figure(ours.tolist(), usual=usual) or 0
            if factor - 1 / factor <= 0.055:
                figures = [math.exp(np.log(it).mean()) for it in (ours, others)]
                held.append(figures[0] / factor <= figures[1] <= figures[0] * factor)
        assert len(held) > 100
        assert least < sum(held) / len(held) <= most


def test_a_machine_s_scatter_counts_beside_a_figure_s_own() -> None:
    alike = (8.0, 8.01, 7.99, 8.0)
    assert intervals.another_figure(alike, usual=0.02) > intervals.another_figure(alike) * 1.02
    apart = (8.0, 8.8, 7.4, 8.2)
    assert intervals.another_figure(apart, usual=0.02) < intervals.another_figure(apart)
    usual = msgspec.structs.replace(figure(), usual_scatter=0.02)
    assert usual.interval_ms.high > figure().interval_ms.high
    assert msgspec.json.decode(msgspec.json.encode(usual), type=Measurement) == usual


def test_what_processes_usually_differ_by_is_known_from_eight_figures_on(tmp_path: Path) -> None:
    import numpy as np

    for number, medians in enumerate(np.exp(np.random.default_rng(1).normal(2.0, 0.02, size=(200, 4)))):
        assert (speeds.load(tmp_path, MACHINE).scatter is None) == (number < speeds.FEWEST)
        speeds.add_scatter(tmp_path, MACHINE, medians.tolist())
    assert speeds.load(tmp_path, MACHINE).scatter == pytest.approx(0.02, rel=0.2)
    assert len(speeds.load(tmp_path, MACHINE).variances) == speeds.SCATTERS
    assert speeds.load(tmp_path, MACHINE).best_ns is None


def test_speeds_are_kept_by_hardware_and_a_damaged_file_is_no_experience(tmp_path: Path) -> None:
    speeds.add(tmp_path, MACHINE, [2_400_000, 2_500_000])
    other = msgspec.structs.replace(MACHINE, processor="another")
    assert speeds.load(tmp_path, other).best_ns is None
    named = msgspec.structs.replace(MACHINE, host="ffffffff")
    assert speeds.load(tmp_path, named).best_ns == 2_400_000
    assert speeds.load(tmp_path, MACHINE).factors is None  # two times say nothing of its range
    known = speeds.add(tmp_path, MACHINE, [2_400_000] * 40 + [3_400_000] * 10)
    assert known.factors == (pytest.approx(2.4 / 3.4), pytest.approx(3.4 / 2.4))
    assert speeds.add(tmp_path, MACHINE, [1_000_000]).best_ns == 2_400_000  # one lucky time is not its best
    (tmp_path / speeds.FILE_NAME).write_text("{")
    assert speeds.load(tmp_path, MACHINE).best_ns is None


class Machines:
    """A machine whose processes and whose reference workload are those that a test gives, one after the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, processes: Iterator[object], polls: Iterator[int]) -> None:
        self.clock_s, self.processes, self.polls = 0.0, processes, polls
        monkeypatch.setattr(cell.machines, "pause", self.rest)
        monkeypatch.setattr(cell.machines, "monotonic_s", lambda: self.clock_s)
        monkeypatch.setattr(run, "Worker", lambda **_: self)
        monkeypatch.setattr(run, "ready", lambda *_, **__: builders.artifact())

    def rest(self, seconds: float) -> None:
        self.clock_s += seconds

    def __enter__(self) -> "Machines":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def busy_s(self) -> float:
        return 0.0

    def ask(self, job: object, timeout_s: float) -> object:
        if isinstance(job, ReferenceJob):
            return ReferenceTimed(samples_ns=(next(self.polls),) * 9)
        return next(self.processes)


def swept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, processes: Any, polls: Any, wait_s: float | None) -> Any:
    """The result of a sweep of one cell, and the seconds that it waited; the machine's best is known to be 2.4 ms."""
    results = tmp_path / "results"
    speeds.add(results, MACHINE, [2_400_000] * 40)
    asked = builders.request(method=Method(processes=4))
    step = plan.plan(asked, tmp_path / "models")[0]
    path = run.begin(asked, [step], MACHINE, results)
    machine = Machines(monkeypatch, iter(processes), iter(polls))
    notices: list[str] = []
    (result,) = run.run(asked, [step], MACHINE, path, lambda step, what: notices.append(what), wait_s=wait_s)
    assert any(what.startswith("waiting") for what in notices) == (machine.clock_s > 0)
    assert len(result.samples_ns) == 4
    return result, machine.clock_s


def process(reference_ns: int, median_ms: float = 8.0) -> Measurement:
    return msgspec.structs.replace(figure(reference_ns, medians_ms=(median_ms,)), method=Method(processes=1))


USUAL, SLOWED = process(2_400_000), process(3_400_000, 11.0)


def test_the_process_that_ran_slowly_is_repeated_once_the_machine_is_quick(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    processes = [USUAL, SLOWED, USUAL, USUAL, USUAL]
    result, waited_s = swept(monkeypatch, tmp_path, processes, [3_400_000, 3_400_000, 2_410_000], 60)
    assert result.speed == pytest.approx(1)
    assert result.remeasured == 1
    assert result.figure_ms == 8.0
    assert result.warnings == []
    assert waited_s == pytest.approx(3 * cell.POLL_S)


def test_waiting_has_a_limit_and_the_slow_figure_stays_marked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result, waited_s = swept(monkeypatch, tmp_path, [SLOWED] * 4, itertools.repeat(3_400_000), 10)
    assert "the machine ran at 0.71 of its best" in result.warnings
    assert result.remeasured == 0
    assert waited_s == pytest.approx(10)


def test_a_machine_that_stays_quick_between_slow_processes_is_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    result, waited_s = swept(monkeypatch, tmp_path, [SLOWED] * 16, itertools.repeat(2_400_000), 600)
    assert result.remeasured == 4 * AGAIN
    assert "the machine ran at 0.71 of its best" in result.warnings
    assert waited_s == pytest.approx(4 * AGAIN * cell.POLL_S)


def test_a_failure_on_repeating_costs_nothing_that_was_timed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    processes = [USUAL, SLOWED, worker.CellError(stage="timing", reason="killed", log=""), USUAL, USUAL]
    result, _ = swept(monkeypatch, tmp_path, processes, [2_400_000], 60)
    assert result.remeasured == 0
    assert sorted(len(samples) for samples in result.samples_ns) == [25] * 4


def test_a_figure_of_slow_processes_says_nothing_of_the_usual_scatter(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for processes, known in (([USUAL] * 4, 1), ([USUAL, USUAL, USUAL, SLOWED], 0)):
        swept(monkeypatch, tmp_path / str(known), processes, [], None)
        assert len(speeds.load(tmp_path / str(known) / "results", MACHINE).variances) == known


def test_cells_share_what_may_be_waited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Planted: the first cell of a sweep used up all of it, and those behind it stayed slow."""
    results = tmp_path / "results"
    speeds.add(results, MACHINE, [2_400_000] * 40)
    shapes = tuple(builders.shape(size) for size in (224, 256))
    asked = builders.request(method=Method(processes=4), shapes=shapes)
    steps = plan.plan(asked, tmp_path / "models")
    machine = Machines(monkeypatch, itertools.repeat(SLOWED), itertools.repeat(3_400_000))
    path = run.begin(asked, steps, MACHINE, results)
    waited = [machine.clock_s for _ in run.run(asked, steps, MACHINE, path, wait_s=20)]
    assert waited == [pytest.approx(10), pytest.approx(20)]


def test_any_speed_waits_for_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result, waited_s = swept(monkeypatch, tmp_path, [SLOWED] * 4, [], None)
    assert result.remeasured == 0
    assert waited_s == 0
    assert "the machine ran at 0.71 of its best" in result.warnings
