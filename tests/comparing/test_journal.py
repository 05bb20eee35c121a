"""Blocks of an interrupted comparison: none is lost, none is measured twice, and another comparison never gets them."""

import contextlib
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import builders
import msgspec
import pytest
from fakes.worker import QUIET, Side, timed_by

from fastvit_bench.comparing import inputs, interleaved, journal
from fastvit_bench.comparing.inputs import Candidate, ComparisonPair
from fastvit_bench.errors import NotComparableError, StoreError
from fastvit_bench.measuring import machine as machines
from fastvit_bench.records import CellError
from fastvit_bench.records.comparison import Outcome, Plan
from fastvit_bench.records.unfinished import BlockLine
from fastvit_bench.store import unfinished

PLAN = Plan(seed=5)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    Side.log = []
    monkeypatch.setattr(machines, "pause", lambda seconds: None)
    monkeypatch.setattr(machines.Between, "readings", lambda self, own_s, gpu=(): QUIET)


def entry(label: str, size: int, sha256: str = "ab" * 32) -> Candidate:
    artifact = builders.artifact(shape=builders.shape(size), sha256=sha256)
    return Candidate(label, artifact, Path(f"{label}-{size}.onnx"), builders.device())


def pairs(sizes: Sequence[int] = (224, 256, 384), head: str = "cd" * 32) -> list[ComparisonPair]:
    return [
        ComparisonPair(inputs.name_of(base.artifact), base, entry("head", size, head))
        for size in sizes
        for base in [entry("base", size)]
    ]


class KilledError(Exception):
    """Stands for a kill."""


def run(recorded: Sequence[BlockLine] = (), *, stop: int | None = None, **faults: Any) -> tuple[Any, list[BlockLine]]:
    """Measure, until so many new blocks are recorded; returns the contest and the new lines."""
    lines: list[BlockLine] = []

    def record(line: BlockLine) -> None:
        lines.append(line)
        if len(lines) == stop:
            raise KilledError

    def start(side: Candidate) -> Any:
        return Side(side.label, 10.0, **(faults if side.label == "head" else {}))

    contest = interleaved.InterleavedRun(
        pairs(),
        PLAN,
        builders.machine(),
        timeout_s=60,
        measure=timed_by(start),
        recorded=recorded,
        record=record,
    )
    with contextlib.suppress(KilledError):
        contest.verdicts = contest.run()  # type: ignore[attr-defined]
    return contest, lines


def test_wherever_it_is_interrupted_it_goes_on_in_the_same_order_and_measures_no_block_twice() -> None:
    whole, lines = run()
    order = [(line.cell, line.block.number, line.block.order) for line in lines if line.block]
    for stop in random.Random(2).sample(range(1, len(lines)), 4):
        _, before = run(stop=stop)
        contest, after = run(before)
        both = [*before, *after]
        assert [(line.cell, line.block.number, line.block.order) for line in both if line.block] == order
        assert {name: verdict.outcome for name, verdict in contest.verdicts.items()} == {
            name: verdict.outcome for name, verdict in whole.verdicts.items()
        }
        for name, cell in contest.cells.items():
            assert [block.number for block in cell.blocks] == list(range(1, len(cell.blocks) + 1))
            assert [block.base_ns for block in cell.blocks] == [
                line.block.base_ns for line in both if line.block and line.cell == name
            ]
            assert cell.base is not None
            assert cell.head is not None


def test_a_finished_comparison_is_judged_from_its_blocks_alone() -> None:
    whole, lines = run()
    Side.log = []
    contest, new = run(lines)
    assert new == []
    assert Side.log == []
    assert contest.verdicts == whole.verdicts


def test_the_time_of_earlier_blocks_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    _, lines = run(stop=4)
    slow = [msgspec.structs.replace(line, seconds=1000.0) for line in lines]
    contest, new = run(slow)
    assert new == []  # 4000 s are more than the plan allows
    assert {verdict.outcome for verdict in contest.verdicts.values()} == {Outcome.INCONCLUSIVE}
    assert sum(len(cell.blocks) for cell in contest.cells.values()) == 4


def test_a_cell_that_failed_stays_failed() -> None:
    first, lines = run(open=CellError(stage="timing", reason="it broke"))
    assert [line.failed for line in lines] == ["head: it broke"] * 3
    again, new = run(lines)
    assert new == []
    assert [cell.failed for cell in again.cells.values()] == [cell.failed for cell in first.cells.values()]


def test_blocks_in_another_order_are_refused() -> None:
    _, lines = run(stop=3)
    with pytest.raises(NotComparableError, match="not in the order of their seed"):
        run([*lines[1:], lines[0]])


# --- the file ---------------------------------------------------------------------------------------------------------


def begun(folder: Path, **changes: Any) -> journal.Journal:
    facts = {"machine": builders.machine(), "plan": PLAN, "pairs": pairs()} | changes
    return journal.begin(folder, "gate", "20261126-100000-abcdef", options=None, warn=pytest.fail, **facts)


def test_a_file_of_blocks_is_read_back_and_removed_in_the_end(tmp_path: Path) -> None:
    _, lines = run(stop=5)
    begun_journal = begun(tmp_path / "cpu")
    for line in lines:
        begun_journal.record(line)
    assert unfinished.find(tmp_path, "gate", "last") == begun_journal.path
    assert unfinished.find(tmp_path, "gate", "20261126") == begun_journal.path
    earlier = unfinished.reopen(begun_journal.path)
    assert earlier.blocks == tuple(lines)
    begun_journal.remove()
    assert not begun_journal.path.exists()
    with pytest.raises(StoreError, match="begin a new one"):
        unfinished.find(tmp_path, "gate", "last")


def test_a_line_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    _, lines = run(stop=3)
    path = begun(tmp_path).path
    for line in lines:
        unfinished.append(path, line)
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    assert unfinished.reopen(path).blocks == tuple(lines[:2])
    unfinished.append(path, lines[2])
    assert path.read_bytes() == whole


@pytest.mark.parametrize("damage", [b"{}\n", b"[1]\n", b"\xff\n", b"[" * 5000 + b"\n"])
def test_damage_is_one_sentence_with_its_line(tmp_path: Path, damage: bytes) -> None:
    path = begun(tmp_path).path
    path.write_bytes(path.read_bytes() + damage)
    with pytest.raises(StoreError, match=r"line 2: .* begin a new comparison"):
        unfinished.reopen(path)
    path.write_bytes(damage)
    with pytest.raises(StoreError, match="line 1: "):
        unfinished.reopen(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"machine": builders.machine(processor="another")}, "processor: "),
        ({"plan": Plan(seed=6)}, "seed: 5 then, 6 now"),
        ({"plan": Plan(seed=5, margin=0.07)}, "margin: 0.05 then, 0.07 now"),
        ({"pairs": pairs(head="ef" * 32)}, "another head"),
        ({"pairs": pairs((224, 256))}, "fastvit_t8 384 b1 is gone"),
        ({"pairs": pairs((224, 256, 384, 512))}, "fastvit_t8 512 b1 is new"),
    ],
)
def test_what_has_changed_since_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    earlier = unfinished.reopen(begun(tmp_path).path)
    facts = {"machine": builders.machine(), "plan": PLAN, "pairs": pairs()} | changes
    with pytest.raises(NotComparableError, match=said):
        journal.resume(earlier, device=builders.device(), warn=pytest.fail, **facts)


def test_a_full_disk_costs_the_resumption_and_not_the_comparison(tmp_path: Path) -> None:
    warnings: list[str] = []
    (tmp_path / "cpu").write_text("no folder")
    cut = journal.begin(
        tmp_path / "cpu", "gate", "x", options=None, machine=builders.machine(), plan=PLAN, pairs=pairs(),
        warn=warnings.append,
    )  # fmt: skip
    _, lines = run(stop=3)
    for line in lines:
        cut.record(line)
    assert len(warnings) == 1
    assert "cannot be resumed" in warnings[0]
    gone = begun(tmp_path)
    gone._warn = warnings.append
    gone.path.unlink()
    for line in lines:
        gone.record(line)
    assert len(warnings) == 2
