"""The command line as users call it: what it prints, where, with which exit code, and what it says to wrong input."""

import csv
import io
import json
import re
from pathlib import Path

import golden
import msgspec
import numpy as np
import onnxruntime as ort
import pytest
import torch
from commands import call, refused

from fastvit_bench.exporting import metadata
from fastvit_bench.network import checkpoint as files
from fastvit_bench.records import METHODS, Artifact, Head, Protocol
from fastvit_bench.store import runs

# --- latency and table ------------------------------------------------------------------------------------------------


@pytest.fixture
def measured(zoo: Path) -> str:
    """The id of a run over two models."""
    done = call("latency", "--device", "cpu", "--model", "m00", "--model", "m01", "--res", "32", "--threads", "1")
    assert "cpu: 2 cells · 2 exported already · 0 to export · 1 + 6 runs each" in done.stderr
    assert "m00" in done.stderr  # the rows as they arrive
    assert "m01" in done.stdout
    assert "random" in done.stdout
    (path,) = runs.all_runs(Path("results"))
    assert f"results: {path}" in done.stderr
    return path.stem


def test_a_sweep_leaves_a_run_that_every_format_can_show(measured: str) -> None:
    rich = call("table").stdout
    assert call("table", "last").stdout == call("table", measured[:12]).stdout == rich
    assert "threads 1" in rich
    assert "Published: FastViT paper" in rich
    assert "Published top-1: the authors" in call("table", "-v").stdout
    assert "there are model, variant, " in refused("table", "--columns", "speed")
    assert call("table", "--columns", "model,images_per_s", "-f", "csv").stdout.startswith("model,images_per_s_32")
    markdown = call("table", "--format", "markdown").stdout
    assert markdown.startswith("| ")
    assert "random weights" in markdown
    latex = call("table", "-f", "latex").stdout
    assert "\\toprule" in latex
    assert "& device &" not in latex  # what is equal in every row, and notes in full, take -v
    verbose = call("table", "-f", "latex", "-v").stdout
    assert "& device &" in verbose
    assert len(verbose) > len(latex)
    (first, second) = csv.DictReader(io.StringIO(call("table", "-f", "csv").stdout))
    assert (first["model"], second["model"]) == ("m00", "m01")
    assert float(first["latency_32_low_ms"]) <= float(first["latency_32_ms"]) <= float(first["latency_32_high_ms"])
    document = json.loads(call("table", "-f", "json").stdout)
    assert len(document) == 2


@pytest.mark.slow
def test_a_random_network_has_no_top_1_but_the_authors(measured: str) -> None:
    for row in csv.DictReader(io.StringIO(call("table", "-f", "csv").stdout)):
        stated = {name: value for name, value in row.items() if "top1" in name and value}
        assert all(name.startswith("published") for name in stated), stated


@pytest.mark.slow
def test_flags_win_over_the_file_and_are_recorded(zoo: Path) -> None:
    call("latency", "-m", "m00", "--res", "32", "--runs", "9", "--warmup", "0", "--threads", "1", "--batch", "2")
    (path,) = runs.all_runs(Path("results"))
    (measurement,) = runs.read(path).measurements
    assert (measurement.method.runs, measurement.method.warmup) == (9, 0)
    assert measurement.device.options == {"threads": 1}
    assert measurement.artifact.shape.batch == measurement.device.batch == 2
    assert measurement.artifact.shape.nchw == (2, 3, 32, 32)


@pytest.mark.slow
def test_modelbench_is_a_protocol_and_a_table_of_its_own(zoo: Path) -> None:
    done = call("latency", "-m", "m00", "--protocol", "modelbench", "--threads", "1")
    assert "20 x (1 + 50) runs each" in done.stderr
    assert "ModelBench: mean of trimmed rounds" in done.stdout
    (path,) = runs.all_runs(Path("results"))
    (measurement,) = runs.read(path).measurements
    assert measurement.method == METHODS[Protocol.MODELBENCH]
    assert [len(samples) for samples in measurement.samples_ns] == [50] * 20
    call("latency", "-m", "m00", "--protocol", "median100", "--threads", "1")
    assert runs.read(runs.all_runs(Path("results"))[-1]).measurements[0].method.runs == 6  # as [method] says
    mean, median = csv.DictReader(io.StringIO(call("table", "-f", "csv").stdout))
    assert mean["latency_32_ms"] == median["modelbench_32_ms"] == ""
    low, figure, high = (float(mean[f"modelbench_32{end}_ms"]) for end in ("_low", "", "_high"))
    assert low <= figure <= high
    shown = call("table").stdout.splitlines()
    assert shown.index("median") < shown.index("ModelBench: mean of trimmed rounds")


@pytest.mark.slow
def test_a_resumed_run_keeps_its_protocol(zoo: Path) -> None:
    call("latency", "-m", "m0[01]", "--protocol", "modelbench", "--threads", "1")
    (path,) = runs.all_runs(Path("results"))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:2]))
    assert "leave out --protocol" in refused("latency", "--resume", "last", "--protocol", "median100")
    call("latency", "--resume", "last")
    assert {found.method for found in runs.read(path).measurements} == {METHODS[Protocol.MODELBENCH]}


def test_failed_cells_are_exit_7_and_the_others_are_kept(zoo: Path) -> None:
    (job,) = Path("models/m01").glob("*.onnx")
    artifact = msgspec.json.decode(metadata.metadata_path(job).read_bytes(), type=Artifact)
    job.write_bytes(b"no model")  # with a side-car that vouches for it
    import hashlib

    lying = msgspec.structs.replace(artifact, sha256=hashlib.sha256(b"no model").hexdigest())
    metadata.metadata_path(job).write_bytes(msgspec.json.encode(lying))
    done = call("latency", "--model", "m0[0-2]", expect=7)
    assert "m01" in done.stdout
    assert "failed" in done.stdout
    assert "cannot load" in done.stderr
    (path,) = runs.all_runs(Path("results"))
    assert [m.artifact.model for m in runs.read(path).measurements] == ["m00", "m02"]


@pytest.mark.slow
def test_wrong_words_are_refused_with_the_way_out(zoo: Path) -> None:
    assert "Did you mean 'm00'?" in refused("latency", "--model", "m00x")
    assert "Did you mean 'cpu'? Known: cpu, cuda, cuda-ort, elsewhere, " in refused("latency", "--device", "gpu")
    assert "use 96 or 128" in refused("latency", "--res", "100")
    assert "--format csv always has every column" in refused("table", "--compact", "--format", "csv")
    assert "leave out --compact" in refused("table", "--compact", "--columns", "model")
    assert "names the columns to show" in refused("table", "--columns", " , ")
    assert "Write 256, 224,256" in refused("latency", "--res", "big")
    assert "one --model" in refused("latency", "-m", "m00", "-m", "m01", "--checkpoint", "x.pth.tar")
    assert "absent.pth.tar does not exist" in refused("latency", "-m", "m00", "--checkpoint", "absent.pth.tar")
    assert "leave out --runs, --seed" in refused("latency", "--resume", "last", "--runs", "5", "--seed", "1")
    assert "is 20 rounds of 1 + 50 runs; leave out --runs and --warmup" in refused(
        *("latency", "--protocol", "modelbench", "--runs", "5", "--warmup", "1")
    )
    assert call("latency", "--protocol", "best", expect=2).stdout == ""
    assert "There are no runs" in refused("table")
    refused("table", "nothing")
    refused("latency", "--resume", "nothing")
    assert "no configuration file" in refused("latency", "--config", "absent.toml")
    assert call("latency", "--runs", "0", expect=2).stdout == ""
    assert call("latency", "--fuse", "half", expect=2).stdout == ""
    assert not Path("results").exists()


@pytest.mark.slow
def test_a_wrong_checkpoint_is_one_sentence_and_no_run(zoo: Path) -> None:
    network, _ = files.randomised("fastvit_t12", Head.CLASSIFIER, 10, 0)
    torch.save({"state_dict": network.state_dict()}, "t12.pth.tar")
    said = refused(
        "latency", "-q", "-m", "m00", "--checkpoint", "t12.pth.tar", "--res", "32"
    )  # -q: no note on the file
    assert "t12.pth.tar holds fastvit_t12" in said
    whole = Path("t12.pth.tar").read_bytes()
    Path("t12.pth.tar").write_bytes(whole[: len(whole) // 2])
    assert "t12.pth.tar" in refused("latency", "-m", "m00", "--checkpoint", "t12.pth.tar", "--res", "32")
    assert "t12.pth.tar" in refused("latency", "--checkpoint", "t12.pth.tar", "--res", "32")
    assert not Path("results").exists()


def test_a_device_that_is_not_here_ends_before_anything_is_built(zoo: Path) -> None:
    assert "this machine has" in refused("latency", "--device", "elsewhere", "--res", "64", expect=6)
    assert "driver" in refused("latency", "--device", "rtx2080ti", "--res", "64", expect=6)
    assert not list(Path("models").rglob("*_64_*"))
    assert not Path("results").exists()


@pytest.mark.slow
def test_resume_wants_one_run_of_that_device(measured: str) -> None:
    assert "0 to export" in call("latency", "--resume", measured).stderr
    moved = Path("results/elsewhere")
    moved.mkdir()
    run = Path(f"results/cpu/{measured}.jsonl")
    run.rename(moved / run.name)
    assert "say --device elsewhere" in refused("latency", "--resume", measured)


@pytest.mark.slow
def test_the_configuration_can_be_elsewhere(zoo: Path, tmp_path: Path) -> None:
    text = Path("benchmark.toml").read_text(encoding="utf-8").replace("runs = 6", "runs = 7")
    (tmp_path / "other.toml").write_text(text + '[paths]\nresults = "elsewhere"\n', encoding="utf-8")
    call("latency", "-m", "m00", "--config", "other.toml")
    (path,) = runs.all_runs(Path("elsewhere"))
    assert runs.read(path).measurements[0].method.runs == 7


# --- export and fuse --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["fastvit_t8", "fastvit_sa12"])
@pytest.mark.parametrize("level", ["none", "fused", "folded"])
def test_an_exported_checkpoint_gives_the_published_logits(tmp_path: Path, variant: str, level: str) -> None:
    checkpoint = tmp_path / f"{variant}.pth.tar"
    torch.save({"state_dict": golden.state(variant, Head.CLASSIFIER)}, checkpoint)
    done = call(
        *("export", "--target", "onnx", "--checkpoint", str(checkpoint), "--res", "256", "--batch", "2"),
        *("--fuse", level, "-o", "out.onnx"),
        cwd=tmp_path,
    )
    assert done.stdout == "out.onnx\n"
    session = ort.InferenceSession(tmp_path / "out.onnx", providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": golden.image((2, 3, 256, 256)).numpy()})
    assert np.abs(logits - golden.output(variant)["logits"]).max() < 1e-3
    artifact = msgspec.json.decode((tmp_path / "out.onnx.json").read_bytes(), type=Artifact)
    assert artifact.variant == variant
    assert artifact.fused == level
    assert artifact.weights.origin == "checkpoint"
    assert artifact.weights.file == f"{variant}.pth.tar"


@pytest.mark.slow
def test_an_exported_dense_checkpoint_gives_the_published_maps(tmp_path: Path) -> None:
    checkpoint = tmp_path / "dense.pth.tar"
    torch.save({"state_dict": golden.state("fastvit_t8", Head.DENSE)}, checkpoint)
    call("export", "-t", "onnx", "-c", str(checkpoint), "--res", "512", "-o", "dense.onnx", cwd=tmp_path)
    session = ort.InferenceSession(tmp_path / "dense.onnx", providers=["CPUExecutionProvider"])
    maps = session.run([f"feature{i}" for i in range(4)], {"image": golden.image((1, 3, 512, 512)).numpy()})
    wanted = golden.output("fastvit_t8_dense")
    for index, found in enumerate(maps):
        expected = wanted[f"feature{index}"]
        assert np.abs(found[0, :, ::8, ::8] - expected).max() < 1e-3


@pytest.mark.slow
def test_several_sizes_become_several_files_in_a_folder(zoo: Path) -> None:
    done = call("export", "-t", "onnx", "-m", "m00", "--res", "32,64x32", "-o", "out")
    assert done.stdout.split() == ["out/m00_32_b1.onnx", "out/m00_64x32_b1.onnx"]
    assert "random(seed 0)" in done.stderr
    assert re.search(r"^proved \d\.\de-\d\d ≤ 1e-04$", done.stderr, re.MULTILINE)
    assert "unfused" not in done.stderr
    for end in (".json", ".expected.npz"):
        assert f"written: out/m00_32_b1.onnx{end}\n" in done.stderr
    names = sorted(path.name for path in Path("out").iterdir())
    assert names == sorted(
        f"m00_{size}_b1.onnx{end}" for size in ("32", "64x32") for end in ("", ".expected.npz", ".json")
    )


@pytest.mark.slow
def test_exporting_again_gives_the_same_file(zoo: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        call("export", "-t", "onnx", "-m", "m00", "--res", "32", "-o", name)
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()


@pytest.mark.slow
def test_what_cannot_be_exported_is_refused(zoo: Path, tmp_path: Path) -> None:
    assert "Known: coreai, coreml, onnx, openvino, pytorch, tensorrt, tensorrt-rtx" in refused("export", "-t", "onx")
    told = call("export", "-t", "onnx", "-m", "m00", "--precision", "int4", expect=2).stderr
    assert "exports fp32 or fp16 or int8, not" in told
    assert "--compute-capability means nothing" in refused("export", "-t", "onnx", "--compute-capability", "7.5")
    assert "end in .trt.onnx" in refused("export", "-t", "tensorrt", "-m", "m00", "--res", "32", "-o", "net.onnx")
    assert "leave it out" in refused("export", "-t", "onnx", "-c", "x.pth.tar", "--head", "dense")
    assert "may mean several" in refused("export", "-t", "onnx", "-m", "m0*")
    network, _ = files.randomised("fastvit_t12", Head.CLASSIFIER, 10, 0)
    torch.save({"state_dict": network.state_dict()}, "t12.pth.tar")
    said = call("export", "-t", "onnx", "-m", "m00", "-c", "t12.pth.tar", "--res", "32", expect=2).stderr
    assert "fastvit_t12" in said
    assert "fastvit_t8" in said
    assert not list(Path().glob("models/m00/*t12*"))
    assert call("export", expect=2).stdout == ""


@pytest.mark.slow
def test_fuse_reports_and_writes_what_loads_again(zoo: Path) -> None:
    network, _ = files.randomised("fastvit_t8", Head.CLASSIFIER, 10, 0)
    torch.save({"state_dict": network.state_dict()}, "t8.pth.tar")
    done = call("fuse", "t8.pth.tar", "-o", "fused.pth.tar")
    assert done.stdout == "fused.pth.tar\n"
    for words in ("10 RepMixers", "7 MobileOne blocks", "3 7x7 + 3x3 convolutions", "folded"):
        assert words in done.stderr
    again = call("fuse", "fused.pth.tar", "-o", "again.safetensors")
    assert "fused already" in again.stderr
    assert files.load(Path("again.safetensors")).form == "fused"
    said = call("export", "-t", "onnx", "-c", "fused.pth.tar", "--res", "32", "--fuse", "none", expect=2).stderr
    assert "whose branches are gone" in said
    assert "does not exist" in refused("fuse", "device_unavailable_reason", "-o", "x.pth.tar")
    refused("fuse", "benchmark.toml", "-o", "x.pth.tar")


# --- the rest ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_models_shows_counted_and_published_sizes(tmp_path: Path) -> None:
    shown = call("models", cwd=tmp_path).stdout
    for count in ("4.00", "7.51", "9.43", "11.55", "21.50", "31.46", "43.98"):
        assert count in shown
    for printed in ("3.6", "42.7", "7.9"):
        assert printed in shown


def test_devices_says_what_runs_here_and_what_is_missing(zoo: Path) -> None:
    shown = call("devices").stdout
    lines = {line.split()[0]: line for line in shown.splitlines() if line.strip()}
    assert "ready" in lines["cpu"]
    assert "NVIDIA" in lines["rtx2080ti"]
    assert "meant for" in lines["elsewhere"]


@pytest.mark.slow
def test_download_that_reaches_nobody_is_exit_6(zoo: Path) -> None:
    said = refused("download", "fastvit_t8", expect=6)
    assert "127.0.0.1:9" in said
    assert "did you mean fastvit_t8?" in refused("download", "fastvit_t9")


def test_help_and_version(tmp_path: Path) -> None:
    assert call("--version", cwd=tmp_path).stdout.startswith("fastvit-bench ")
    assert "latency" in call("--help", cwd=tmp_path).stdout
    assert call(expect=2, cwd=tmp_path).stdout + call(expect=2, cwd=tmp_path).stderr
