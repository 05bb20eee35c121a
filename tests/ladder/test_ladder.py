"""The precision ladder: its rows, what its sentences may say, and its table in every format."""

import csv
import io
import json
import re
from pathlib import Path

import builders
import ladders
import msgspec
import pytest
from commands import refused
from hypothesis import given
from hypothesis import strategies as st

from fastvit_bench import backends, config
from fastvit_bench.backends import openvino
from fastvit_bench.errors import UsageError
from fastvit_bench.ladder import counting, declare, sentences, table
from fastvit_bench.ladder.rung import rungs
from fastvit_bench.paper import study
from fastvit_bench.records import Interval, answers
from fastvit_bench.records.comparison import Outcome
from fastvit_bench.render.page import compose
from fastvit_bench.stats.paired import PairedAnswers
from fastvit_bench.store import documents
from fastvit_bench.sweep.plan import Step

# --- rows -------------------------------------------------------------------------------------------------------------


def test_every_precision_of_a_device_is_a_row_below_fp32() -> None:
    device = builders.device(calibration="images")
    declared = declare.declare(builders.spec(), device)
    assert [(row.precision, bool(row.model)) for row in declared.rows] == [
        ("fp32", True),
        ("fp16", True),
        ("int8", True),
    ]
    found = study.matches(declared, device)
    assert [match.name for match in found] == ["FP16 256 / FP32 256", "INT8 256 / FP32 256"]


def test_calibration_images_that_are_not_there_are_noticed_first(tmp_path: Path) -> None:
    words = ("study", "ladder", "--model", "fastvit_t8", "--calibration", "train", "--dry-run")
    assert refused(*words, cwd=tmp_path) == "error: train does not exist; name a folder of images."
    (tmp_path / "train").mkdir()
    assert "the folder train holds no images" in refused(*words, cwd=tmp_path)


def test_a_precision_that_cannot_run_is_a_row_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("flags\t: fpu sse2 avx2\n")
    monkeypatch.setattr(openvino, "CPUINFO", tmp_path / "cpuinfo")
    rows = declare.declare(builders.spec(), builders.device(name="openvino", backend="openvino")).rows
    lacking = {row.precision: row.note for row in rows if not row.model}
    assert set(lacking) == {"bf16", "int8"}
    assert "no BF16 arithmetic" in lacking["bf16"]
    assert "--calibration DIR" in lacking["int8"]


def test_a_device_of_one_precision_has_no_ladder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends.get("onnxruntime"), "precisions", ("fp32",))
    with pytest.raises(UsageError, match="runs fp32 alone, so it has no ladder"):
        declare.declare(builders.spec(), builders.device())


def test_each_row_is_exported_in_its_own_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = config.load(None, backends=backends.implemented())
    (spec,) = settings.select(["fastvit_t8"])
    device = msgspec.structs.replace(
        settings.device("cpu"), options=backends.get("onnxruntime").options(settings.device("cpu"))
    )
    planned = study.plan(declare.declare(spec, device), settings, device, builders.machine())
    steps = {rung.row.precision: step for rung, step in planned.steps.items() if isinstance(step, Step)}
    assert {name: (step.job.precision, step.job.device.precision) for name, step in steps.items()} == {
        "fp32": ("fp32", "fp32"),
        "fp16": ("fp16", "fp16"),
    }
    assert len({step.job.path for step in steps.values()}) == 2


# --- what sentences say -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(st.integers(1, 3000), st.data())
def test_a_loss_is_said_only_where_test_and_interval_show_it(images: int, data: st.DataObject) -> None:
    gained = data.draw(st.integers(0, min(images, 60)))
    lost = data.draw(st.integers(0, min(images - gained, 60)))
    reference = [at < lost for at in range(images)]
    new = [lost <= at < lost + gained for at in range(images)]
    found = ladders.result({"int8": 0.5}, [ladders.accuracy("fp32", reference), ladders.accuracy("int8", new)])
    (said,) = [line for line in sentences.sentences(rungs(found)) if "McNemar" in line]
    paired = PairedAnswers(images, gained, lost)
    low, high, _ = paired.interval()
    for verb, shown in (("loses", high < 0), ("gains", low > 0)):
        if f" {verb} " in said:
            assert shown
            assert paired.p < 0.05
            ends = [float(end) for end in re.findall(r"-?\d+\.\d+", said.partition("[")[2].partition("]")[0])]
            assert 0 < ends[0] <= 100 * abs(paired.difference) + 0.005
            assert ends[1] >= 100 * abs(paired.difference) - 0.005
    if "no difference is shown" in said:
        assert f"{images:,} image" in said.rpartition(";")[2]  # what so many images can see at all
    else:
        assert " loses " in said or " gains " in said


@given(st.floats(0.05, 20), st.floats(0.0001, 1))
def test_an_order_is_said_only_where_the_interval_leaves_one_out(ratio: float, half: float) -> None:
    found = ladders.result({"int8": 1.0})
    interval = Interval(low=ratio / (1 + half), high=ratio * (1 + half), confidence=0.95)
    verdict = msgspec.structs.replace(found.cells[0].verdict, ratio=ratio, interval=interval)
    cell = msgspec.structs.replace(found.cells[0], verdict=verdict)
    (said,) = sentences.sentences(rungs(msgspec.structs.replace(found, cells=(cell,))))
    low, high = (float(end) for end in said.partition("[")[2].partition("]")[0].split(", "))  # rounded outwards
    assert low <= interval.low <= interval.high <= high
    assert ("quicker" in said) is (high < 1)
    assert ("slower" in said) is (low > 1)
    assert ("not told apart" in said) is (low <= 1 <= high)


def test_too_few_blocks_claim_no_order() -> None:
    (said,) = sentences.sentences(rungs(ladders.result({"int8": 0.4}, blocks=3)))
    assert "no order is claimed" in said
    assert "quicker" not in said


@pytest.mark.parametrize(("int8", "said"), [(1.5, True), (1.305, False), (0.6, False)])
def test_int8_is_slower_than_fp16_where_their_intervals_lie_apart(int8: float, said: bool) -> None:
    lines = sentences.sentences(rungs(ladders.result({"fp16": 1.3, "int8": int8})))
    assert any(line.startswith("INT8 is slower than FP16 here: 1.5") for line in lines) is said


def test_a_ladder_in_words() -> None:
    assert table.verdicts(ladders.usual()) == [
        "FP16 is slower than FP32 here: it takes 1.300 [1.292, 1.308] times its time.",
        "FP16 against FP32: +0.00 points [-0.39, +0.39], McNemar p = 1: no difference is "
        "shown; 1,000 images see about 0.6 points.",
        "INT8 is quicker than FP32 here: it takes 0.580 [0.572, 0.588] of its time.",
        "INT8 loses 2.60 points [1.55, 3.90] against FP32 on the same 1,000 images, McNemar p < 0.0001.",
        "BF16: not measured: this processor has no BF16 arithmetic.",
    ]


def test_disturbed_blocks_put_their_latencies_in_doubt_before_anything_else() -> None:
    result = ladders.usual()
    first, *others = result.cells[0].blocks
    blocks = (msgspec.structs.replace(first, disturbed=("other processes used 90 % of a core",)), *others)
    cells = (msgspec.structs.replace(result.cells[0], blocks=blocks), *result.cells[1:])
    doubt, *said = table.verdicts(msgspec.structs.replace(result, cells=cells))
    assert doubt.startswith("* Other programs disturbed 1 of 20 blocks")
    assert said == table.verdicts(result)


def test_one_of_two_chance_losses_is_no_loss() -> None:
    # p = 0.031 for 6 images of one side, which is 0.0625 for two rungs
    counted = [ladders.accuracy("fp32", ladders.answered(1000))]
    counted += [ladders.accuracy(name, ladders.answered(1000, lost)) for name, lost in (("fp16", 6), ("int8", 5))]
    said = [line for line in table.verdicts(ladders.result({"fp16": 1.0, "int8": 1.0}, counted)) if "McNemar" in line]
    assert all("no difference is shown" in line for line in said)
    alone = ladders.result({"fp16": 1.0}, counted[:2])
    (line,) = [line for line in table.verdicts(alone) if "McNemar" in line]
    assert line.startswith("FP16 loses 0.60 points [0.")


def test_other_images_are_not_paired() -> None:
    counted = [
        ladders.accuracy("fp32", ladders.answered(100)),
        ladders.accuracy("int8", ladders.answered(100), contents="dd" * 32),
    ]
    said = table.verdicts(ladders.result({"int8": 0.5}, counted))
    assert "INT8 was not counted on the same images as FP32; they are not compared." in said


# --- tables -----------------------------------------------------------------------------------------------------------


def test_programs_get_every_figure_of_a_row() -> None:
    fp32, fp16, int8, bf16 = csv.DictReader(io.StringIO(table.FORMATS["csv"](ladders.usual())))
    assert [line["precision"] for line in (fp32, fp16, int8, bf16)] == ["fp32", "fp16", "int8", "bf16"]
    assert (fp32["points"], fp32["reference"], bf16["ratio"], bf16["failed"][:12]) == ("", "True", "", "not measured")
    assert float(int8["points"]) == pytest.approx(-2.6)
    assert (int8["gained"], int8["lost"], int8["images"]) == ("4", "30", "1000")
    assert float(int8["mcnemar_p"]) == pytest.approx(PairedAnswers(1000, 4, 30).p)
    record = builders.quantisation()
    assert (int8["scheme_weights"], int8["scheme_activations"]) == (record.weights, record.activations)
    assert record.calibration is not None
    assert (int8["calibration_digest"], int8["quantiser"]) == (record.calibration.digest, record.quantiser)
    assert (int8["operations_integer"], int8["operations_float"]) == ("65", "18")
    assert float(int8["integer_share"]) == pytest.approx(65 / 83)
    assert (int8["pareto"], fp16["pareto"], fp32["pareto"]) == ("True", "False", "True")


def test_people_get_the_same_in_eighty_columns() -> None:
    from rich.console import Console

    result = ladders.usual()
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table.rich(result, 80))
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    words = " ".join(" ".join(lines).split())
    for figure in ("-2.60", "[-3.90, -1.55]", "0.580", "[0.572, 0.588]", "78 %", "INT8 loses 2.60 points", "4.0"):
        assert figure in words
    for sentence in table.verdicts(result):  # all of them, though notes are few
        assert sentence in words
    for name in ("markdown", "latex"):
        text = table.FORMATS[name](result)
        assert "INT8" in text
        assert "McNemar" in text
    document = json.loads(table.FORMATS["json"](result))
    assert document["verdicts"] == table.verdicts(result)


def test_without_images_there_are_no_columns_of_them() -> None:
    text = table.FORMATS["markdown"](ladders.result({"int8": 0.5}))
    assert "top-1" not in text.partition("\n\n")[0]
    assert "McNemar" not in text
    assert "calibrated on" in text  # the scheme of INT8


def test_the_page_has_the_ladder() -> None:
    page = compose.html([], [], studies=[ladders.usual()], title="t", footer="f")
    assert "INT8 loses 2.60 points [1.55, 3.90]" in page
    assert "8-bit operations" in page
    assert "of the paper: an iPhone" not in page


def test_a_ladder_is_read_as_it_was_written(tmp_path: Path) -> None:
    from fastvit_bench.paper import study_table

    result, path = ladders.usual(), tmp_path / "ladder.json"
    study_table.write(result, path)
    assert study_table.read(path) == result
    assert documents.read(path, documents.STUDY).accuracies[2].answers == tuple(ladders.answered(1000, 30, 4))


def test_a_failed_rung_is_named_and_the_others_keep_their_figures() -> None:
    result = ladders.usual()
    broken = builders.cell_result(result.cells[0].name, Outcome.INCOMPARABLE, None)
    lines = rungs(msgspec.structs.replace(result, cells=(broken, *result.cells[1:])))
    assert [rung.line.failed for rung in lines if rung.label == "FP16"] == ["It is incomparable."]
    assert next(rung for rung in lines if rung.label == "INT8").paired is not None


def test_answers_are_counted_at_one_square_size() -> None:
    result = ladders.usual()
    counting.check(result)
    oblong = msgspec.structs.replace(
        result.matches[0].reference, shape=msgspec.structs.replace(builders.shape(256), height=128)
    )
    changed = (msgspec.structs.replace(result.matches[0], reference=oblong), *result.matches[1:])
    with pytest.raises(UsageError, match="one square size"):
        counting.check(msgspec.structs.replace(result, matches=changed))


def test_the_builders_answers_are_what_they_say() -> None:
    right = ladders.answered(1000, lost=30, gained=4)
    assert sum(right) == 900 - 30 + 4
    assert answers.unpacked(answers.packed(right), 1000) == tuple(right)
