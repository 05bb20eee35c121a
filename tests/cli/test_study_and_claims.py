"""Studies and claims as users call them: small ONNX files in place of networks, real turns."""

import json
from pathlib import Path

import builders
import msgspec
import numpy as np
import onnx
import pictures
import pytest
from commands import call, refused
from onnx import TensorProto, helper, numpy_helper

from fastvit_bench.paper import study_table

TOML = """
[model.small]
variant = "fastvit_t8"

[device.cpu]
backend = "onnxruntime"

[sweep]
models = ["small"]
grid = [64]

[download]
base = "https://example.org"

[study.widths]
title = "How width costs"
tables = ["table4_large_kernel"]
grid = [64, 96]
rows = [
    { label = "V5", model = "narrow.onnx" },
    { label = "V4", model = "wide.onnx" },
    { label = "LITv2", note = "nobody has it" },
]
"""


def classifier(path: Path, width: int) -> None:
    """A convolution, a mean and a projection."""
    kernel = numpy_helper.from_array(
        np.random.default_rng(0).standard_normal((width, 3, 3, 3)).astype(np.float32), "kernel"
    )
    matrix = numpy_helper.from_array(np.random.default_rng(1).standard_normal((width, 5)).astype(np.float32), "matrix")
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["a"], ["b"]),
        helper.make_node("Flatten", ["b"], ["c"]),
        helper.make_node("MatMul", ["c", "matrix"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 3, "H", "W"))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (None, None))],
        [kernel, matrix],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "benchmark.toml").write_text(TOML)
    classifier(tmp_path / "narrow.onnx", 4)
    classifier(tmp_path / "wide.onnx", 64)
    return tmp_path


@pytest.mark.slow
def test_a_network_of_ones_own_against_a_study(home: Path) -> None:
    classifier(home / "mine.onnx", 16)
    words = ("study", "widths", "--against", "mine.onnx", "--res", "64", "--top1", "70.5", "--blocks", "1")
    document = json.loads(call(*words, "--format", "json", cwd=home).stdout)
    assert [(line["network"], line["reference"]) for line in document["lines"]] == [("V5", True), ("mine.onnx", False)]
    (verdict,) = document["verdicts"]
    assert verdict.startswith("mine.onnx 64: not decided against V5 64: not told apart in latency")  # of one block
    again = json.loads(call("study", "widths", "--stored", "results/cpu", "--format", "json", cwd=home).stdout)
    assert again["verdicts"] == [verdict]


@pytest.mark.slow
def test_from_declaration_to_table_claims_and_report(home: Path) -> None:
    assert "How width costs" in call("study", cwd=home).stdout
    planned = call("study", "widths", "--dry-run", cwd=home)
    assert "2 pairs of 6 blocks · 4 of 4 files to export" in planned.stderr
    assert planned.stdout.count("to export") == 2
    assert not (home / "models").exists()

    done = call("study", "widths", "--blocks", "1", "--format", "json", "-o", "widths.svg", cwd=home)
    document = json.loads(done.stdout)
    lines = {(line["network"], line["size"]): line for line in document["lines"]}
    assert set(lines) == {("V5", "64"), ("V4", "64"), ("V5", "96"), ("V4", "96"), ("LITv2", "–")}
    assert lines["V4", "64"]["ratio"] > 1
    assert lines["V4", "64"]["published_params_m"] == 8.8
    assert "V4" in (home / "widths.svg").read_text(encoding="utf-8")
    (kept,) = study_table.lying([home / "results" / "cpu"], "widths")
    assert len(study_table.read(kept).cells) == 2

    shown = call("study", "widths", "--stored", "results/cpu", "--format", "markdown", cwd=home).stdout
    assert f"{lines['V4', '64']['ratio']:.2f}"[:3] in shown
    assert "LITv2: nobody has it" in shown
    call("report", "-o", "report.html", cwd=home)
    assert "How width costs" in (home / "report.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_ladder_from_images_to_words(home: Path) -> None:
    pictures.folders(home / "set", [f"c{at}" for at in range(5)], 8)
    small = 'variant = "fastvit_t8"\nclasses = 5\nresolution = 32'
    (home / "benchmark.toml").write_text(TOML.replace('variant = "fastvit_t8"', small))
    words = ("study", "ladder", "--data", "set", "--blocks", "1")
    document = json.loads(call(*words, "--format", "json", cwd=home).stdout)
    fp32, fp16, int8 = document["lines"]
    assert (fp32["precision"], fp32["reference"], fp32["images"]) == ("fp32", True, 40)
    assert (fp16["images"], fp16["gained"] + fp16["lost"]) == (40, round(40 * abs(fp16["top1"] - fp32["top1"])))
    assert fp16["ratio"] > 0
    assert "--calibration DIR" in int8["failed"]
    said = " ".join(document["verdicts"])
    assert "no order is claimed" in said  # of one block
    assert "40 images see about 15 points" in said
    # a count that was interrupted is made up for, and nothing is timed again
    (path,) = study_table.lying([home / "results" / "cpu"], "ladder")
    result = study_table.read(path)
    study_table.write(msgspec.structs.replace(result, accuracies=result.accuracies[:1]), path)
    again = call("study", "ladder", "--resume", "--format", "csv", cwd=home)
    assert "counting FP16 32" in again.stderr
    assert "counting FP32" not in again.stderr
    assert study_table.read(path).cells == result.cells
    assert [each.answers for each in study_table.read(path).accuracies] == [each.answers for each in result.accuracies]
    shown = call("study", "ladder", "--stored", "results/cpu", "--format", "latex", cwd=home).stdout
    assert "McNemar" in shown
    call("report", "-o", "report.html", cwd=home)
    assert "40 images see about 15 points" in (home / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("widths", "--data", "set", "--calibration", "c"), "--data, --calibration is for `study ladder`"),
        (("ladder", "--against", "mine.onnx"), "leave out --against"),
        (("ladder", "-m", "small", "-m", "narrow.onnx"), "--model names 2; give one"),
        (("ladder", "--limit", "3"), "name their folder too"),
        (("ladder", "-m", "narrow.onnx"), "runs as it is"),
        (("ladder", "--data", "nowhere", "--dry-run"), "nowhere"),
        (("ladder", "--data", "set", "--res", "64,96", "--dry-run"), "one square size"),
    ],
)
def test_the_ladder_refuses_in_a_sentence(home: Path, words: tuple[str, ...], said: str) -> None:
    (home / "set" / "a").mkdir(parents=True)
    (home / "set" / "a" / "0.jpg").write_bytes(pictures.jpeg(0))
    assert said in refused("study", *words, cwd=home)
    assert not (home / "results").exists()


def test_a_device_that_is_not_here_can_be_planned_for(home: Path) -> None:
    (home / "benchmark.toml").write_text(
        TOML + '\n[device.phone]\nbackend = "coreml"\nprecision = "fp16"\noptions = { location = "connected" }\n'
    )
    planned = call("study", "widths", "--device", "phone", "--dry-run", cwd=home)
    assert "only planned: " in planned.stderr
    assert "widths on phone: 2 pairs of 6 blocks" in planned.stderr


@pytest.mark.slow
def test_own_files_join_and_one_that_cannot_costs_itself(home: Path) -> None:
    classifier(home / "mine.onnx", 8)
    declared = home / "benchmark.toml"
    declared.write_text(TOML.replace('"wide.onnx" }', '"gone.onnx" }'))
    words = ("study", "widths", "--res", "64", "--blocks", "1", "--format", "csv")
    done = call(*words, "--onnx", "mine.onnx", expect=7, cwd=home)
    assert "There is no file gone.onnx" in done.stdout
    (path,) = study_table.lying([home / "results" / "cpu"])
    figures = {cell.name: cell.verdict.ratio for cell in study_table.read(path).cells}
    assert figures["V4 64 / V5 64"] is None
    assert figures["mine.onnx 64 / V5 64"] is not None

    classifier(home / "gone.onnx", 16)
    again = call("study", "widths", "--resume", "--format", "csv", cwd=home)
    assert "1 measured already" in again.stderr
    assert all(cell.verdict.ratio for cell in study_table.read(path).cells)


def test_claims_are_held_against_what_was_measured(home: Path) -> None:
    path = home / "results" / "cpu" / "study-repmixer-vs-pooling-20260131-142233-9f3c1a.json"
    study_table.write(builders.study_result({("RepMixer", 384): 0.7, ("RepMixer", 1024): 0.95}), path)
    told = json.loads(call("claims", "--study", "repmixer-vs-pooling", "--format", "json", cwd=home).stdout)
    assert "reproduced" in json.dumps(told)
    assert "not reproduced" in json.dumps(told)


@pytest.mark.slow
def test_wrong_words_are_one_sentence(home: Path) -> None:
    assert "Did you mean 'widths'?" in refused("study", "width", "--config", str(home / "benchmark.toml"))
    config = ("--config", str(home / "benchmark.toml"))
    assert "No row of 'widths'" in refused("study", "widths", "--row", "nothing", *config)
    assert "is no picture" in refused("study", "widths", "-o", "x.pdf", *config)
    assert "holds no study 'widths'" in refused("study", "widths", "--stored", str(home), *config)
    assert "There is no file none.onnx" in refused("study", "widths", "--onnx", "none.onnx", *config)
    assert "name that too" in refused("study", "widths", "--top1", "70", *config)
    assert "There is no file none.onnx" in refused("study", "widths", "--against", "none.onnx", *config)
    assert "one square size" in refused(
        "study", "widths", "--against", str(home / "wide.onnx"), "--res", "64,96", *config
    )
    assert "leave out --blocks" in refused("study", "widths", "--resume", "--blocks", "2", *config)
    assert "There is no study 'widths' of cpu" in refused("study", "widths", "--resume", *config)
    broken = home / "broken.toml"
    broken.write_text(TOML.replace("narrow.onnx", "fastvit_t9"))
    sentence = refused("study", "widths", "--config", str(broken))
    assert "line 19, [study.widths]: row 'V5': unknown model 'fastvit_t9'. Did you mean 'fastvit_t8'?" in sentence
