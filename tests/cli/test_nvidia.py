"""NVIDIA GPUs from the command line, on a machine that has an imaginary one: a driver made by a C compiler, and modules
that stand in for TensorRT and the CUDA binding in every process that is started."""

import os
from pathlib import Path

import msgspec
import pytest
from commands import call, refused
from fakes import cudadriver, nvidia

from fastvit_bench.records import Artifact, Failure, Measurement, Window
from fastvit_bench.store import runs

pytestmark = cudadriver.compiled

CARD = "NVIDIA GeForce RTX 2080 Ti"


@pytest.fixture
def computer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory on a machine with an RTX 2080 Ti; it is entered."""
    cudadriver.library(tmp_path / "driver", count=1)
    nvidia.write(tmp_path / "modules")
    folders = [
        str(tmp_path / "modules"),
        str(Path(__file__).parents[1]),
        *os.environ.get("PYTHONPATH", "").split(os.pathsep),
    ]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "driver"))
    (tmp_path / "benchmark.toml").write_text(
        """[model.fastvit_t8]
variant = "fastvit_t8"
[device.rtx2080ti]
backend = "tensorrt"
precision = "fp16"
batch = 2
match = "RTX 2080 Ti"
options = { compute_capability = "7.5" }
[device.rtx4090]
backend = "tensorrt"
precision = "fp16"
batch = 2
match = "RTX 4090"
[method]
runs = 10
processes = 1
[sweep]
models = ["fastvit_t8"]
grid = [32, 64]
timeout_s = 120
[download]
base = "http://127.0.0.1:9"
""",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def results() -> list[Measurement | Failure]:
    (path,) = runs.all_runs(Path("results"))
    found = runs.read(path)
    return [*found.measurements, *found.failures]


@pytest.mark.slow
def test_from_checkpoint_to_table(computer: Path) -> None:
    path = computer / "benchmark.toml"
    path.write_text(path.read_text(encoding="utf-8").replace("processes = 1\n", ""), encoding="utf-8")
    done = call("latency", "--device", "rtx2080ti", "--res", "32")
    assert "fastvit_t8" in done.stdout
    (small,) = results()
    assert isinstance(small, Measurement)
    assert (small.window, small.clock) == (Window.COMPUTE, "CUDA events")
    assert [list(samples) for samples in small.samples_ns] == [[2_500_000] * runs for runs in (3, 3, 2, 2)]
    assert (small.machine.accelerator, small.machine.driver) == (CARD, "CUDA 13.1")
    assert small.device.options["graph"] is True
    assert (small.method.warmup, small.method.warmup_ms, small.method.steady) == (20, 200, 0.01)
    assert small.parity is not None
    assert small.parity.how == f"tensorrt on {CARD}"
    assert small.engine is not None
    assert (small.engine.card.compute_capability, small.engine.version) == ("7.5", "11.4.0.106")
    assert small.engine.parity is not None
    assert small.ms_per_image == 1.25


@pytest.mark.slow
def test_options_of_a_gpu_make_figures_of_their_own(computer: Path) -> None:
    call("latency", "--device", "rtx2080ti", "--res", "32..64")
    assert [found.artifact.shape.height for found in results() if isinstance(found, Measurement)] == [32, 64]
    again = call("latency", "--device", "rtx2080ti", "--res", "32", "--no-graph", "--transfers", "--sync", "block")
    assert "1 exported already · 0 to export" in again.stderr
    newest = runs.read(runs.all_runs(Path("results"))[-1]).measurements[0]
    assert newest.window is Window.END_TO_END
    assert {name: newest.device.options[name] for name in ("graph", "transfers", "sync")} == {
        "graph": False,
        "transfers": True,
        "sync": "block",
    }


@pytest.mark.slow
def test_the_paper_s_protocol_and_a_profile(computer: Path) -> None:
    call("latency", "-d", "rtx2080ti", "--res", "32", "--protocol", "paper", "--profile")
    (found,) = results()
    assert isinstance(found, Measurement)
    assert (found.device.batch, found.device.precision, found.device.options["graph"]) == (8, "fp16", False)
    assert [len(samples) for samples in found.samples_ns] == [100]
    assert [layer.name for layer in found.layers] == ["patch_embed.0/Conv", "network.0.0.mixer/Conv"]
    assert "leave out --runs" in refused("latency", "-d", "rtx2080ti", "--protocol", "trtexec", "--runs", "5")


@pytest.mark.slow
def test_export_builds_the_engine_and_proves_it(computer: Path) -> None:
    done = call("export", "-t", "tensorrt", "--res", "32", "--batch", "2", "-o", "out", "-v")
    assert done.stdout == "out/fastvit_t8_32_b2.trt.onnx\n"
    assert "engine built: proved against the unfused PyTorch network in float64" in done.stderr
    assert f"(the engine on {CARD})" in done.stderr
    assert "weights in float16" in done.stderr
    (engine,) = Path("out").glob("*.engine")
    assert Path(f"{engine}.json").is_file()
    for name in (engine, f"{engine}.json", "out/fastvit_t8_32_b2.trt.onnx.json"):
        assert f"written: {name}\n" in done.stderr
    made = msgspec.json.decode(Path("out/fastvit_t8_32_b2.trt.onnx.json").read_bytes(), type=Artifact)
    assert made.half_weights is not None


@pytest.mark.slow
def test_another_card_than_meant(computer: Path) -> None:
    said = refused("latency", "--device", "rtx4090", "--res", "32", expect=6)
    assert f"it is meant for 'RTX 4090', and this machine has GPU 0 '{CARD}' (7.5)" in said
    assert "--allow-device-mismatch" in said
    assert not Path("results").exists()
    call("latency", "--device", "rtx4090", "--res", "32", "--allow-device-mismatch")
    (path,) = runs.all_runs(Path("results"))
    assert path.parent.name == "nvidia-geforce-rtx-2080-ti"
    (found,) = results()
    assert isinstance(found, Measurement)
    assert (found.device.name, found.device.match) == ("nvidia-geforce-rtx-2080-ti", None)
    assert "rtx4090" not in call("table").stdout


@pytest.mark.slow
@pytest.mark.parametrize("where", ["build", "load"])
def test_a_child_that_dies_costs_its_cell(computer: Path, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    monkeypatch.setenv("NVIDIA_FAULT", f"crash-{where}")
    done = call("latency", "--device", "rtx2080ti", "--res", "32..64", expect=7)
    assert "the process crashed (SIGSEGV): [TRT] [E] Assertion failed" in done.stdout
    for failed in results():
        assert isinstance(failed, Failure)
        assert (failed.stage, failed.log) == ("engine", "[TRT] [E] Assertion failed")
    monkeypatch.delenv("NVIDIA_FAULT")
    call("latency", "--device", "rtx2080ti", "--resume", "last")
    assert all(isinstance(found, Measurement) for found in runs.read(runs.all_runs(Path("results"))[0]).measurements)


@pytest.mark.slow
def test_a_child_that_dies_while_exporting_is_one_sentence(computer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_FAULT", "crash-build")
    done = call("export", "-t", "tensorrt", "--res", "32", "--batch", "2", "-o", "out", expect=6)
    assert done.stderr.splitlines()[-1] == (
        "error: fastvit_t8_32_b2.trt.onnx is proved and was kept, its engine failed: "
        "the process crashed (SIGSEGV): [TRT] [E] Assertion failed."
    )
    assert not list(Path("out").glob("*.engine"))


@pytest.mark.slow
def test_memory_that_runs_out_at_one_size_is_a_row(computer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_FAULT", f"memory:{2 * 3 * 32 * 32 * 2}")  # enough for 32 pixels
    done = call("latency", "--device", "rtx2080ti", "--res", "32..64", expect=7)
    assert "memory ran out" in done.stdout
    assert sum(isinstance(found, Measurement) for found in results()) == 1


@pytest.mark.slow
def test_an_engine_that_computes_nothing_gives_no_figure(computer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_FAULT", "zeros")
    call("latency", "--device", "rtx2080ti", "--res", "32", expect=7)
    (failed,) = results()
    assert isinstance(failed, Failure)
    assert failed.stage == "parity"
    assert "logits is zero everywhere" in failed.reason
    done = call("export", "-t", "tensorrt", "--res", "32", "--batch", "2", "-o", "out", expect=5)
    assert "zero everywhere" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "cause"), [(100, "No NVIDIA GPU"), (35, "the NVIDIA driver is too old"), (803, "of different versions")]
)
def test_a_driver_that_lies_is_named(computer: Path, code: int, cause: str) -> None:
    cudadriver.library(computer / "driver", init=code)
    said = refused("latency", "--device", "rtx2080ti", expect=6)
    assert cause in said
    assert str(code) in said
    shown = call("devices").stdout
    assert cause in shown
    assert "left to do: build the engine" in call("export", "-t", "tensorrt", "--res", "32", "-o", "out").stderr


def test_without_a_driver(computer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_LIBRARY_PATH", str(computer))
    assert "No NVIDIA driver: libcuda.so.1 was not found" in refused("latency", "-d", "rtx2080ti", expect=6)
    assert not Path("models").exists()
