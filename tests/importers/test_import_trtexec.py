"""Times of trtexec become runs like any other: through the command line, as a person does it."""

import csv
import io
import json
import os
import shutil
from pathlib import Path

import builders
import msgspec
import pytest
from commands import call, refused
from fakes import trtexec_times as times

from fastvit_bench import backends
from fastvit_bench.errors import ChecksumError, UsageError
from fastvit_bench.exporting import metadata as export_metadata
from fastvit_bench.importers import trtexec, trtexec_times
from fastvit_bench.network.cost import Cost
from fastvit_bench.records import Artifact, ExternalModel, Fuse, Measurement, Window
from fastvit_bench.store import runs

CONFIG = """
[model.fastvit_t8]
variant = "fastvit_t8"
published = "FastViT-T8"
[device.cpu]
backend = "onnxruntime"
[device.rtx2080ti]
backend = "tensorrt"
precision = "fp16"
batch = 8
match = "RTX 2080 Ti"
options = { gpu = 1, optimization_level = 4 }
[device.any]
backend = "tensorrt"
[sweep]
models = ["fastvit_t8"]
grid = [256]
[download]
base = "http://127.0.0.1:9"
"""

BARE = ("import", "trtexec", "times.json")
GPU = ("--gpu", "NVIDIA GeForce RTX 2080 Ti")
OTHER = ("--model", "resnet50", "--res", "224", "--batch", "8", "--precision", "fp16")
TOLD = (*BARE, "--trt-version", "10.16", *GPU, *OTHER)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a configuration and times of 120 queries; it is entered."""
    (tmp_path / "benchmark.toml").write_text(CONFIG, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    times.write(Path("times.json"), times.queries([ns / 1e6 for ns in builders.samples(1.5, 120)]))
    os.utime("times.json", (1_769_869_353, 1_769_869_353))
    return tmp_path


def kept() -> Measurement:
    """The one measurement of the one run."""
    (path,) = runs.all_runs(Path("results"))
    (measurement,) = runs.read(path).measurements
    return measurement


# --- as a person does it ----------------------------------------------------------------------------------------------


def test_times_become_a_run_and_a_table(here: Path) -> None:
    done = call(*TOLD, "--driver", "580.65")
    (path,) = runs.all_runs(Path("results"))
    assert path.parent.name == "nvidia-geforce-rtx-2080-ti"
    assert path.stem.startswith("20260131-142233-")
    assert done.stderr.splitlines() == [
        "taken as TensorRT 10.16: no CUDA graph, the host blocks while it waits; copies were made, as the file shows; "
        "all 120 queries were kept",
        f"results: {path}",
    ]
    for fact in (
        "resnet50",
        "1.500",
        "median of 120 runs after 200 ms of untimed ones",
        "compute window",
        "tensorrt, graph False, sync block, transfers True",
        "NVIDIA GeForce RTX 2080 Ti",
        "driver 580.65",
        "tensorrt 10.16",
        "2026-01-31",
        "read by CUDA events of trtexec",
        "† Not compared with the reference on that device",
    ):
        assert fact in " ".join(done.stdout.split()), fact
    assert call("table", "last").stdout == done.stdout


def test_what_a_run_holds(here: Path) -> None:
    call(*TOLD)
    found = kept()
    assert found.artifact == ExternalModel(
        model="resnet50", backend="tensorrt", precision="fp16", inputs={}, shape=builders.shape(224, 8)
    )
    assert (found.window, found.clock, found.parity) == (Window.COMPUTE, "CUDA events of trtexec", None)
    assert found.device.options == {"graph": False, "sync": "block", "transfers": True}
    assert (found.device.batch, found.device.precision) == (8, "fp16")
    assert (found.machine.accelerator, found.machine.packages) == (GPU[1], {"tensorrt": "10.16"})
    assert (found.method.warmup, found.method.warmup_ms, found.method.runs, found.method.duration_ms) == (
        0, 200, 120, 0
    )  # fmt: skip
    assert found.figure_ms == pytest.approx(1.5, rel=1e-4)
    assert found.finished == "2026-01-31T14:22:33+00:00"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--trt-version", "8.6.1"), {"graph": False, "sync": "block"}),
        (("--trt-version", "10.16.1.11"), {"graph": False, "sync": "block"}),
        (("--trt-version", "11.1"), {"graph": True, "sync": "spin"}),
        (("--trt-version", "11.1", "--no-graph"), {"graph": False, "sync": "spin"}),
        (("--trt-version", "10.3", "--graph", "--spin-wait"), {"graph": True, "sync": "spin"}),
        (("--trt-version", "12.0", "--graph", "--no-spin-wait"), {"graph": True, "sync": "block"}),
    ],
)
def test_a_version_s_defaults_are_spelt_out(here: Path, options: tuple[str, ...], said: dict[str, object]) -> None:
    call(*BARE, *GPU, *OTHER, *options)
    assert kept().device.options == {**said, "transfers": True}


@pytest.mark.slow
def test_every_thing_that_must_be_said_is_asked_for(here: Path) -> None:
    version = ("--trt-version", "10.16")
    for words, sentence in (
        (("import", "trtexec"), "Name the file too: fastvit-bench import trtexec FILE."),
        (("import", "trtexe", "times.json"), "There is no import of 'trtexe'; known: xcode, trtexec."),
        ((*BARE, "more.json", *version), "import takes one file, and this names 2"),
        (BARE, "say --trt-version, such as 10.16"),
        ((*BARE, *version, *GPU), "give the exported file with --onnx, or a name with --model"),
        ((*BARE, *version, "--model", "x"), "does not say which GPU it was made on"),
        ((*BARE, *version, "--model", "x", "--device", "any"), "does not say which GPU it was made on"),
        ((*BARE, *version, "--model", " ", *GPU), "--model needs a name"),
        ((*BARE, *version, "--model", "x", "--res", "224", *GPU), "--res and --batch say together"),
        ((*BARE, *version, "--model", "x", "--res", "224..256", "-b", "1", *GPU), "is no image size"),
        ((*BARE, *GPU, *OTHER, "--trt-version", "v101600"), "is no version of TensorRT"),
        ((*BARE, *GPU, *OTHER, "--trt-version", "9.3"), "known here of TensorRT 8, 10, 11, not of 9.3"),
        ((*BARE, *GPU, *OTHER, "--trt-version", "12.0", "--graph"), "known here of TensorRT 8, 10, 11, not of 12.0"),
        ((*TOLD, "--window", "prediction"), "trtexec times compute or end-to-end"),
        ((*TOLD, "--device", "cpu"), "device 'cpu' runs onnxruntime"),
        ((*TOLD, "--onnx", "x.onnx"), "leave out --model, --res, --batch, --precision"),
        ((*BARE, *version, *GPU, "--onnx", "x.pdf"), "--onnx: x.pdf is not an exported file"),
        (("import", "times.json", *GPU), "--gpu means nothing for a report of Xcode"),
        (("import", "xcode", "times.json", "--no-graph"), "--graph means nothing for a report of Xcode"),
        (("import", "times.json"), "it is not a JSON object"),
    ):
        assert sentence in refused(*words), sentence
    assert "is meant for 'RTX 2080 Ti'" in refused(
        *BARE, *version, *OTHER, "--device", "rtx2080ti", "--gpu", "NVIDIA T4", expect=6
    )
    assert not Path("results").exists()


def test_a_declared_device_names_its_gpu(here: Path) -> None:
    call(*BARE, "--trt-version", "10.16", *OTHER, "--device", "rtx2080ti")
    found = kept()
    assert found.machine.accelerator == "RTX 2080 Ti"
    assert found.device.name == "rtx2080ti"
    assert "optimization_level" not in found.device.options  # of the profile: nobody knows what trtexec was told


def test_latencies_end_to_end_need_copies(here: Path) -> None:
    call(*TOLD, "--window", "end-to-end")
    found = kept()
    assert found.window is Window.END_TO_END
    assert found.figure_ms == pytest.approx(1.552, rel=1e-3)
    times.write(Path("times.json"), times.queries([1.5] * 20, copy_ms=(0, 0)))
    assert "no copies between host and GPU" in refused(*TOLD, "--window", "end-to-end")


def test_a_file_imported_again_is_shown_again(here: Path) -> None:
    first = call(*TOLD)
    shutil.copy("times.json", "copy.json")  # with another date
    again = call(*[word.replace("times.json", "copy.json") for word in TOLD])
    (path,) = runs.all_runs(Path("results"))
    assert again.stdout == first.stdout
    assert again.stderr.splitlines()[-1] == f"imported before: {path}"
    assert len(runs.read(path).lines) == 2


def test_one_file_cannot_be_said_to_be_two_things(here: Path) -> None:
    call(*TOLD)
    (path,) = runs.all_runs(Path("results"))
    for other, sentence in (
        (("--graph",), "its way was 'graph False, sync block, transfers True' then"),
        (("--trt-version", "10.3"), "its version was '10.16' then"),
        (("--model", "resnet18"), "its model was 'resnet50' then"),
        (("--batch", "1"), "its input was '224 b8' then"),
        (("--window", "end-to-end"), "its window was 'compute' then"),
        (("--device", "rtx2080ti"), "its device was 'nvidia-geforce-rtx-2080-ti' then"),
    ):
        said = refused(*TOLD, *other)
        assert f"This file is run {path.stem} already, and {sentence}; remove {path} to import it with" in said
    assert runs.all_runs(Path("results")) == [path]


def test_an_import_that_was_cut_off_is_completed(here: Path) -> None:
    call(*TOLD)
    (path,) = runs.all_runs(Path("results"))
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"\n") + 50])
    call(*TOLD)
    assert path.read_bytes() == whole


def test_a_sweep_whose_id_has_the_same_digits_is_not_taken_for_it(here: Path) -> None:
    digest = trtexec_times.read(Path("times.json")).digest
    sweep = runs.create(Path("results"), builders.run(id=f"20260131-142233-{digest}"))
    call(*TOLD)
    assert len(runs.all_runs(Path("results"))) == 2
    assert runs.read(sweep).measurements == []


def test_sizes_imported_one_by_one_share_a_row(here: Path) -> None:
    """Though trtexec made as many queries of each as three seconds hold."""
    for size, took in ((224, 50.0), (256, 70.0)):
        times.write(Path("times.json"), times.queries([took] * int(3010 / took)))
        call(*TOLD, "--res", str(size))
    (row,) = csv.DictReader(io.StringIO(call("table", "-f", "csv").stdout))
    assert float(row["latency_224_ms"]) == pytest.approx(50, rel=1e-3)
    assert float(row["latency_256_ms"]) == pytest.approx(70, rel=1e-3)
    shown = " ".join(call("table").stdout.split())
    assert "median of at least 10 runs and 3 s of them after 200 ms of untimed ones" in shown


@pytest.mark.parametrize("format_", ["markdown", "csv", "json", "latex"])
def test_every_format_is_printed(here: Path, format_: str) -> None:
    done = call(*TOLD, "--format", format_)
    assert "resnet50" in done.stdout
    assert done.stdout == call("table", "--format", format_).stdout
    if format_ == "json":
        (row,) = json.loads(done.stdout)
        assert row["latency"]["224"]["compared"] is False


def test_warm_up_that_was_exported_is_left_out(here: Path) -> None:
    """As by TensorRT before 8.5: the slow first queries do not count."""
    found = times.queries([9.0] * 20 + [1.5] * 100, begin_ms=20.5)
    times.write(Path("times.json"), times.before(found))
    said = call(*TOLD, "--trt-version", "8.2.5").stderr
    assert "20 of 120 queries began within its 200 ms of warm-up and were left out" in said
    assert kept().figure_ms == pytest.approx(1.5, rel=1e-3)


# --- which file it was ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_exported_file_says_what_was_timed(here: Path) -> None:
    exported = Path(call("export", "-t", "onnx", "-m", "fastvit_t8", "--res", "32", "-b", "2").stdout.strip())
    call(*BARE, "--trt-version", "10.16", "--device", "rtx2080ti", "--onnx", str(exported))
    noted = msgspec.json.decode(export_metadata.metadata_path(exported).read_bytes(), type=Artifact)
    assert kept().artifact == noted
    assert noted.parity is not None
    (path,) = runs.all_runs(Path("results"))
    run = runs.read(path).runs[0]
    assert [(cell.model, cell.shape, cell.fused) for cell in run.cells] == [
        ("fastvit_t8", builders.shape(32, 2), Fuse.FOLDED)
    ]
    assert "fastvit_t8" in call("table").stdout


def test_without_a_side_car_the_file_is_known_and_not_proved(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = builders.export_job(backend="tensorrt", precision="fp16", shape=builders.shape(256, 8), toolchain={"t": "1"})
    words = export_metadata.metadata_entries(job, Cost(params=3_996_040, macs=5_529_600_000))  # pyright: ignore[reportPrivateUsage]

    def metadata(_: Path) -> dict[str, str]:
        return words

    monkeypatch.setattr(backends.get("tensorrt"), "metadata", metadata)
    file = Path("t8.trt.onnx")
    file.write_bytes(b"content")
    made = trtexec.timed_file(file, Path("models"))
    assert (made.key, made.parity, made.size_bytes) == (job.key, None, 7)
    assert made.sha256 is not None
    noted = msgspec.structs.replace(made, sha256="ab" * 32, path=file.name, parity=builders.parity())
    notes = export_metadata.metadata_path(Path("models/fastvit_t8/t8.trt.onnx"))
    notes.parent.mkdir(parents=True)
    notes.write_bytes(msgspec.json.encode(noted))
    with pytest.raises(ChecksumError, match=r"not the file that its side-car t8\.trt\.onnx\.json describes"):
        trtexec.timed_file(file, Path("models"))
    words.clear()
    with pytest.raises(UsageError, match="was not written by fastvit-bench; name what was timed with --model"):
        trtexec.timed_file(file, Path("models"))
