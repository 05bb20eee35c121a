"""The package from Python: its public names, and that calls and commands do the same work."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import call
from pictures import folders

import fastvit_bench
from fastvit_bench import api
from fastvit_bench.cli import accuracy, compare, export, latency
from fastvit_bench.errors import CheckpointError, UnavailableError, UsageError
from fastvit_bench.network import checkpoint
from fastvit_bench.network.fastvit import FastViT
from fastvit_bench.network.folded import FoldedFastViT
from fastvit_bench.records import Fuse, Weights
from fastvit_bench.records.comparison import Outcome
from fastvit_bench.store import runs

PUBLIC = ["compare", "evaluate", "export", "fuse", "load", "measure"]


# --- the public names -------------------------------------------------------------------------------------------------


def test_the_package_offers_its_functions_and_nothing_else() -> None:
    assert fastvit_bench.__all__ == PUBLIC
    assert set(PUBLIC) <= set(dir(fastvit_bench))
    for name in PUBLIC:
        assert getattr(fastvit_bench, name) is getattr(api, name)
        assert inspect.getdoc(getattr(api, name))
    with pytest.raises(AttributeError, match="no attribute 'exports'"):
        _ = fastvit_bench.exports  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("words", ["import fastvit_bench", "from fastvit_bench import export, measure, compare"])
def test_importing_the_package_loads_no_framework(words: str) -> None:
    code = f"{words}\nimport sys\nprint([name for name in ('torch', 'numpy', 'onnx', 'pandas') if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "[]\n"


# an option's name where the argument's is another one, or None where it belongs to the command line alone
RENAMED: dict[str, str | None] = {
    "input_": "input",
    "config_file": "configuration",
    "head_python": "new_python",
    "max_time": "max_time_s",
    "report_format": "report_formats",
    "wait": "wait_s",
    "any_speed": None,  # wait_s=None
    "format_": None,  # the result is no text
    "context": None,
}


@pytest.mark.parametrize(
    ("command", "function"),
    [
        (export.export, api.export),
        (latency.latency, api.measure),
        (accuracy.accuracy, api.evaluate),
        (compare.compare, api.compare),
    ],
)
def test_every_option_of_a_command_is_an_argument(command: object, function: object) -> None:
    assert callable(command)
    assert callable(function)
    options = set(inspect.signature(command).parameters)
    if command is compare.compare:
        options -= {"base", "head", "resume"}  # a call keeps nothing that could be resumed
    arguments = set(inspect.signature(function).parameters)
    missing = {name for name in options if (RENAMED.get(name, name) or "progress") not in arguments}
    assert missing == set()
    assert "progress" in arguments


# --- the work ---------------------------------------------------------------------------------------------------------


def test_export_and_measure_report_progress_and_keep_what_the_commands_keep(zoo: Path) -> None:
    reports: list[api.Progress] = []
    ((path, artifact),) = fastvit_bench.export("m00", res=32, progress=reports.append)
    assert path.is_file()
    assert artifact.parity is not None
    assert artifact.parity.passed
    assert reports == [api.Progress("exporting m00 32 b1 (folded, fp32, random(seed 0))", 0, 1)]
    reports.clear()
    first, second = fastvit_bench.measure(["m00", "m01"], wait_s=None, progress=reports.append)
    assert first.artifact == artifact
    assert second.artifact.model == "m01"
    assert [(report.message, report.done, report.total) for report in reports] == [
        ("timing m00 32 b1", 0, 2),
        ("timing m01 32 b1", 1, 2),
    ]
    (run,) = (zoo / "results" / "cpu").glob("*.jsonl")
    assert [measurement.artifact.model for measurement in runs.read(run).measurements] == ["m00", "m01"]
    # a run that is complete has nothing left to measure
    assert fastvit_bench.measure(resume="last", wait_s=None) == []


@pytest.mark.slow
def test_a_file_goes_where_the_output_says(zoo: Path) -> None:
    ((path, _),) = fastvit_bench.export("m00", res=32, output=zoo / "out" / "net.onnx")
    assert path == zoo / "out" / "net.onnx"
    ((same, _),) = fastvit_bench.export("m00", res=32, output="folder")
    assert same == Path("folder/m00_32_b1.onnx")


def test_a_size_that_fails_is_one_error_and_the_others_are_kept(zoo: Path) -> None:
    (damaged,) = (zoo / "models" / "m00").glob("*.onnx")
    with damaged.open("ab") as file:
        file.write(b"more")
    checkpoint = zoo / "no.pth.tar"
    with pytest.raises(CheckpointError, match="does not exist"):
        fastvit_bench.measure("m00", checkpoint=checkpoint)
    (zoo / "benchmark.toml").write_text(
        (zoo / "benchmark.toml").read_text().replace("timeout_s = 60", "timeout_s = 0.01")
    )
    with pytest.raises(UnavailableError, match=r"^m01 32 b1 gave no figure: .* In all, 2 failed\. The other figures"):
        fastvit_bench.measure(["m01", "m02"], wait_s=None)
    (run,) = (zoo / "results" / "cpu").glob("*.jsonl")
    assert len(runs.read(run).failures) == 2


def test_compare_writes_a_report_where_one_is_asked_for(zoo: Path) -> None:
    reports: list[api.Progress] = []
    comparison = fastvit_bench.compare(
        "m00", "m01", res=32, max_time_s=1, max_regression=1.0, report="out", report_formats=["json"],
        progress=reports.append,
    )  # fmt: skip
    assert comparison.plan.margin == 1.0
    assert comparison.plan.pooled_margin == 0.5
    assert comparison.outcome in set(Outcome) - {Outcome.INCOMPARABLE}
    assert (zoo / "out" / "compare.json").is_file()
    assert not list((zoo / "results" / "cpu").glob("compare-*"))
    assert all(report.message for report in reports)
    with pytest.raises(UsageError, match="no report format 'xml'"):
        fastvit_bench.compare("m00", "m01", report="out", report_formats=["xml"])


@pytest.mark.slow
def test_evaluate_counts_what_the_command_counts(zoo: Path) -> None:
    folder = folders(zoo / "set", [f"c{number:03}" for number in range(1000)][:3], each=2)
    names = "\n".join(f"{path.relative_to(folder).as_posix()} 7" for path in sorted(folder.rglob("*.jpg")))
    (zoo / "labels.txt").write_text(names + "\n")
    call("accuracy", "-m", "m00", "--data", "set", "--labels", "labels.txt", "--res", "32")
    (run,) = (zoo / "results" / "cpu").glob("*.jsonl")
    (expected,) = runs.read(run).accuracies
    reports: list[api.Progress] = []
    (accuracy_,) = fastvit_bench.evaluate("set", "m00", labels="labels.txt", res=32, progress=reports.append)
    assert (accuracy_.top1, accuracy_.top5, accuracy_.images) == (expected.top1, expected.top5, expected.images)
    assert reports[-1].done == reports[-1].total == 6
    with pytest.raises(UsageError, match="Name the folder with the images"):
        fastvit_bench.evaluate(model="m00", res=32)


# --- networks ---------------------------------------------------------------------------------------------------------


def test_load_and_fuse_give_modules_that_compute_the_same(shallow: None, zoo: Path) -> None:
    network = fastvit_bench.load("m00")
    images = torch.randn(2, 3, 64, 64)
    assert not network.training
    with torch.no_grad():
        expected = network(images)
        for level in Fuse:
            fused = fastvit_bench.fuse(network, level)
            assert not fused.training
            assert next(fused.parameters()).dtype == torch.float32
            torch.testing.assert_close(fused(images), expected, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(network(images), expected)  # it is not changed
    assert isinstance(fused, FoldedFastViT)


@pytest.mark.slow
def test_fuse_takes_weight_files_and_refuses_other_networks(shallow: None, zoo: Path) -> None:
    network = fastvit_bench.load("m00")
    fused = fastvit_bench.fuse(network, Fuse.FUSED)
    assert isinstance(fused, FastViT)
    checkpoint.save(fused, zoo / "weights.pth.tar", source=Weights(origin="random", seed=0))
    assert isinstance(fastvit_bench.fuse("weights.pth.tar"), FoldedFastViT)
    with pytest.raises(UsageError, match="this is a Linear"):
        fastvit_bench.fuse(torch.nn.Linear(2, 2))
    with pytest.raises(CheckpointError):
        fastvit_bench.fuse("nowhere.pth.tar")
    loaded = fastvit_bench.load(checkpoint="weights.pth.tar")
    assert type(loaded) is type(network)
