"""Studies: what stands against what, what is kept when, what fails alone; with processes that only say times."""

from pathlib import Path
from typing import Any

import builders
import msgspec
import pytest
from fakes.worker import QUIET, Side

from fastvit_bench import backends, config
from fastvit_bench.errors import NotComparableError, UsageError
from fastvit_bench.measuring import machine as machines
from fastvit_bench.paper import study, study_table
from fastvit_bench.records import Artifact, CellError
from fastvit_bench.records.comparison import Outcome
from fastvit_bench.records.study import Study, StudyRow
from fastvit_bench.sweep import block, run
from fastvit_bench.sweep.block import BlockSide
from fastvit_bench.sweep.estimate import RunTimes

TIMES_MS = {"Pooling": 10.0, "RepMixer": 7.5, "Pooling, BatchNorm": 9.5}


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> config.Config:
    """The packaged configuration, in a folder of its own; processes that say times, exports that say what they are."""
    monkeypatch.chdir(tmp_path)
    Side.log = []
    monkeypatch.setattr(machines, "pause", lambda seconds: None)
    monkeypatch.setattr(machines.Between, "readings", lambda self, own_s, gpu=(): QUIET)
    monkeypatch.setattr(block, "process_of", lambda entry: Side(entry.label, _time(entry)))

    def ready(step: Any, *_: Any, **__: Any) -> Artifact:
        return builders.artifact(model=step.cell.model, shape=step.cell.shape)

    monkeypatch.setattr(run, "ready", ready)
    return config.load(None, backends=backends.implemented())


def _time(entry: BlockSide) -> float:
    label, _, size = entry.label.rpartition(" ")
    return TIMES_MS[label] * (int(size) / 384) ** 2


def planned(settings: config.Config, declared: Study | None = None, **changes: Any) -> study.Planned:
    return study.plan(declared or builders.study(), settings, builders.device(), builders.machine(), **changes)


# --- what stands against what -----------------------------------------------------------------------------------------


def test_every_size_of_a_row_stands_against_that_size_of_the_reference() -> None:
    found = study.matches(builders.study(), builders.device())
    assert [match.name for match in found] == [
        "RepMixer 384 / Pooling 384",
        "RepMixer 1024 / Pooling 1024",
        "Pooling, BatchNorm 384 / Pooling 384",
        "Pooling, BatchNorm 1024 / Pooling 1024",
    ]
    asked = study.matches(builders.study(), builders.device(), [(64, 96)])
    assert {match.row.shape.size for match in asked} == {"64x96"}


def test_rows_with_sizes_of_their_own_stand_against_the_reference_at_its_own() -> None:
    rows = (StudyRow("a", "fastvit_t8", res=256), StudyRow("b", "cmt_ti", res=160), StudyRow("c", note="none"))
    (found,) = study.matches(Study("s", "S", rows), builders.device(batch=8))
    assert (found.reference.shape.nchw, found.row.shape.nchw) == ((8, 3, 256, 256), (8, 3, 160, 160))


def test_each_group_has_a_reference_of_its_own() -> None:
    rows = tuple(StudyRow(label, "fastvit_t8", res=64, group=group) for group in "xy" for label in ("a", "b"))
    found = study.matches(Study("s", "S", rows), builders.device())
    assert [match.name for match in found] == ["x: b 64 / a 64", "y: b 64 / a 64"]


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ((StudyRow("a", "fastvit_t8", res=64),), "no two rows"),
        ((StudyRow("a", "fastvit_t8", res=64), StudyRow("b", note="n")), "no two rows"),
        ((StudyRow("a", "fastvit_t8"), StudyRow("b", "fastvit_t8", res=96)), "b 96 has no counterpart of a"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(rows: tuple[StudyRow, ...], told: str) -> None:
    with pytest.raises(UsageError, match=told):
        study.matches(Study("s", "S", rows, grid=(32, 64)), builders.device())


def test_own_models_join_the_first_group() -> None:
    rows = (
        StudyRow("a", "fastvit_t8", res=64, group="x"),
        StudyRow("b", "fastvit_t8", res=96, group="x"),
        StudyRow("c", "fastvit_t8", res=96, group="y"),
    )
    found = study.joined(Study("s", "S", rows), ["mine/net.onnx", "timm:resnet18"])
    assert [(row.label, row.group, row.res) for row in found.rows] == [
        ("a", "x", 64),
        ("b", "x", 96),
        ("net.onnx", "x", 64),
        ("timm:resnet18", "x", 64),
        ("c", "y", 96),
    ]
    with pytest.raises(UsageError, match="has a row 'b' already"):
        study.joined(Study("s", "S", rows), ["b"])


def test_a_network_of_ones_own_challenges_the_reference_of_every_group() -> None:
    rows = (
        StudyRow("a", "fastvit_t8", res=64, group="x"),
        StudyRow("b", "fastvit_t8", res=96, group="x"),
        StudyRow("c", "fastvit_t8", res=96, group="y"),
        StudyRow("nobody has it", group="z"),
    )
    declared = study.challenged(Study("s", "S", rows), "mine/net.onnx", top1=70.5)
    own = [row for row in declared.rows if row.challenger]
    assert [(row.label, row.group, row.res, row.top1) for row in own] == [
        ("net.onnx", "x", 64, 70.5),
        ("net.onnx", "y", 64, 70.5),  # at one size, for its top-1 is of one
    ]
    pairs = study.matches(declared, builders.device())
    assert [pair.name for pair in pairs] == ["x: b 96 / a 64", "x: net.onnx 64 / a 64", "y: net.onnx 64 / c 96"]
    assert [row.res for row in study.challenged(Study("s", "S", rows), "n.onnx", res=32).rows if row.challenger] == [
        32,
        32,
    ]
    with pytest.raises(UsageError, match="has a row 'b' already"):
        study.challenged(Study("s", "S", rows), "b")
    with pytest.raises(UsageError, match="nothing that can be measured"):
        study.challenged(Study("s", "S", rows[3:]), "n.onnx")


def test_the_shipped_studies_can_be_laid_out(settings: config.Config) -> None:
    assert set(settings.studies) >= {
        "repmixer-vs-pooling",
        "large-kernels",
        "overparameterisation",
        "classification",
        "architecture",
        "distillation",
    }
    for declared in settings.studies.values():
        found = planned(settings, declared)
        assert found.remaining == list(found.result.matches)
        assert study.seconds(found, RunTimes(1e9)) > study.seconds(found, RunTimes(1e12)) > 0
        assert declared.name in study.outline(found, RunTimes(1e9))


def test_the_estimate_follows_what_was_measured(settings: config.Config, tmp_path: Path) -> None:
    cpu = settings.device("cpu")
    assert not study.run_times(tmp_path, cpu).measured
    result = builders.study_result({("RepMixer", 384): 0.5})
    study_table.write(result, tmp_path / "cpu" / "study-a-20260131-142233-9f3c1a.json")
    macs = builders.artifact().macs
    assert {round(seconds, 6) for work, seconds in study.run_times(tmp_path, cpu).measured if work == macs} == {
        0.010,
        0.005,
    }


def test_published_figures_of_the_shipped_studies_exist(settings: config.Config) -> None:
    for declared in settings.studies.values():
        for line in study_table.lines(planned(settings, declared).result):
            if line.row.published != "none" and "BatchNorm" not in line.row.label:
                assert line.published, f"{declared.name}: nothing is published as {line.row.label} {line.size}"


# --- measuring --------------------------------------------------------------------------------------------------------


def test_each_pass_over_the_pairs_is_on_the_disk_before_the_next_begins(
    settings: config.Config, tmp_path: Path
) -> None:
    found = planned(settings)
    path = study.file_of(found.result, tmp_path)
    timed: list[tuple[str, int]] = []
    for number, result in enumerate(
        study.run(found, settings, path, notify=lambda cell, block, look: timed.append((cell, block))), 1
    ):
        assert study_table.read(path) == result
        assert [cell.name for cell in result.cells] == [match.name for match in result.matches]
        assert {len(cell.blocks) for cell in result.cells} == {number}
        assert all(cell.verdict.outcome is Outcome.PASS for cell in result.cells)
    assert number == study.BLOCKS
    passes = [timed[at : at + 4] for at in range(0, len(timed), 4)]
    assert [{block for _, block in one} for one in passes] == [{at} for at in range(1, 7)]
    assert len({tuple(cell for cell, _ in one) for one in passes}) > 1  # each in an order of its own
    ratios = {line.row.label: line.ratio.value for line in study_table.lines(study_table.read(path)) if line.ratio}
    assert ratios == pytest.approx({"RepMixer": 0.75, "Pooling, BatchNorm": 0.95}, rel=0.01)
    cell = study_table.read(path).cells[0]
    assert cell.verdict.interval is not None


def test_the_order_of_pairs_follows_from_the_seed(settings: config.Config, tmp_path: Path) -> None:
    orders: list[list[str]] = []
    for number, seed in enumerate((0, 0, 1)):
        timed: list[str] = []
        found = planned(settings, seed=seed)
        for _ in study.run(
            found, settings, tmp_path / f"{number}.json", notify=lambda cell, *_, timed=timed: timed.append(cell)
        ):
            pass
        orders.append(timed)
    assert orders[0] == orders[1] != orders[2]


def test_what_was_interrupted_goes_on_with_whole_passes(settings: config.Config, tmp_path: Path) -> None:
    found = planned(settings)
    path = study.file_of(found.result, tmp_path)
    stopped: list[str] = []

    def stop(cell: str, block: int, look: int) -> None:
        stopped.append(cell)
        if len(stopped) == 7:  # within the second pass
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(study.run(found, settings, path, notify=stop))
    kept = study_table.read(path)
    assert {len(cell.blocks) for cell in kept.cells} == {1}
    assert kept.cells[0].verdict.interval is None  # of one block
    again = study.resumed(kept, settings, builders.machine())
    assert again.remaining == list(found.result.matches)
    timed: list[str] = []
    *_, whole = study.run(again, settings, path, notify=lambda cell, *_: timed.append(cell))
    assert len(timed) == 6 * 4 - 6  # blocks of the second pass count too
    assert {len(cell.blocks) for cell in whole.cells} == {6}
    assert whole.cells[0].blocks[0] == kept.cells[0].blocks[0]
    assert not list(tmp_path.rglob("*.blocks"))
    with pytest.raises(NotComparableError, match=r"processor: .* then, another now"):
        study.resumed(whole, settings, builders.machine(processor="another"))


def test_blocks_that_were_lost_are_measured_anew(settings: config.Config, tmp_path: Path) -> None:
    found = planned(settings)
    path = study.file_of(found.result, tmp_path)
    first = next(iter(study.run(found, settings, path)))
    (journal,) = tmp_path.rglob("*.blocks")
    journal.write_text("{}")
    warned: list[str] = []
    *_, whole = study.run(study.resumed(first, settings, builders.machine()), settings, path, warn=warned.append)
    assert "anew" in warned[0]
    assert {len(cell.blocks) for cell in whole.cells} == {6}


def test_a_row_that_fails_stops_no_other_and_is_tried_again(
    settings: config.Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    working = run.ready

    def failing(step: Any, *_: Any, **__: Any) -> Artifact | CellError:
        if step.cell.model == "metaformer_s12_repmixer":
            return CellError(stage="export", reason="no room on the disk")
        return working(step)

    monkeypatch.setattr(run, "ready", failing)
    found = planned(settings)
    path = study.file_of(found.result, tmp_path)
    *_, result = study.run(found, settings, path)
    outcomes = {cell.name: cell.verdict for cell in result.cells}
    failed = outcomes["RepMixer 384 / Pooling 384"]
    assert (failed.outcome, failed.reason) == (Outcome.INCOMPARABLE, "RepMixer: no room on the disk")
    assert outcomes["Pooling, BatchNorm 384 / Pooling 384"].ratio is not None
    assert [match.row.row.label for match in study.resumed(result, settings, builders.machine()).remaining] == [
        "RepMixer"
    ] * 2


def test_a_size_that_a_network_cannot_take_fails_alone(settings: config.Config, tmp_path: Path) -> None:
    rows = (*builders.study().rows[:2], StudyRow("FastViT", "fastvit_s12"))
    found = planned(settings, builders.study(rows=rows, grid=(300,)), blocks=1)
    assert "300 is not a multiple of 32" in found.state(found.result.matches[1].row)
    *_, result = study.run(found, settings, tmp_path / "study.json")
    cell = result.cells[1]
    assert "300 is not a multiple of 32" in cell.verdict.reason
    assert result.cells[0].verdict.ratio is not None
    assert result.cells[0].verdict.interval is None  # of one block


def test_the_seed_decides_the_order_of_turns(settings: config.Config, tmp_path: Path) -> None:
    orders = []
    for seed in (0, 0, 1):
        *_, result = study.run(planned(settings, seed=seed), settings, tmp_path / f"{seed}.json")
        orders.append([block.order for cell in result.cells for block in cell.blocks])
    assert orders[0] == orders[1] != orders[2]


def test_a_plan_writes_nothing(settings: config.Config, tmp_path: Path) -> None:
    before = sorted(tmp_path.rglob("*"))
    planned(settings, msgspec.structs.replace(builders.study(), grid=(64,)))
    assert sorted(tmp_path.rglob("*")) == before
