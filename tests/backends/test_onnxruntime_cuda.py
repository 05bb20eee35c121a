"""ONNX Runtime's CUDA provider on the imaginary GPU: real files, whose operators the processor computes instead."""

import functools
import importlib.util
import inspect
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import builders
import msgspec
import numpy as np
import onnxruntime
import pytest
import torch
from fakes import cudagpu, nvidia
from torch import nn

from fastvit_bench.backends import Hardware, Session
from fastvit_bench.backends._nvidia import gpu as nvidia_gpu
from fastvit_bench.backends._nvidia.cuda import binding
from fastvit_bench.backends.onnxruntime import BACKEND
from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.records import Device, ExportJob, Shape, Window

SHAPE = Shape(batch=2, height=8, width=16)
CUDA = "CUDAExecutionProvider"


class Net(nn.Module):
    """A map and its mean."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.near = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        near = nn.functional.gelu(self.near(x))
        return near, near.mean((2, 3))


def profile(precision: str = "fp16", **options: Any) -> Device:
    given = {"provider": "cuda", **options}
    bare = Device(name="cuda-ort", backend="onnxruntime", precision=precision, batch=SHAPE.batch, options=given)
    return msgspec.structs.replace(bare, options=BACKEND.options(bare))


def asked(precision: str = "fp16") -> ExportJob:
    return builders.export_job(backend="onnxruntime", precision=precision, shape=SHAPE, device=profile(precision))


@functools.cache
def content(precision: str) -> bytes:
    """A file, exported once for all tests."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "net.onnx")
        BACKEND.export(Net().double().eval(), asked(precision), path, {})
        return path.read_bytes()


def copied(folder: Path, precision: str = "fp16") -> Path:
    path = folder / "net.onnx"
    path.write_bytes(content(precision))
    return path


def images(seed: int = 0) -> "np.ndarray[Any, np.dtype[np.float32]]":
    return np.random.default_rng(seed).standard_normal(SHAPE.nchw, np.float32)


def run(session: Session) -> None:
    session.set_input(images())
    session.run()
    session.wait()


@dataclass
class Toolkit:
    """What the stand-in does wrong, and what it was asked for."""

    gpu: cudagpu.Gpu
    loading: str = ""  # the error that loading a file ends in
    running: str = ""  # likewise
    falls_back: bool = False
    told: list[dict[str, str]] = field(default_factory=list[dict[str, str]])  # to the provider, of each session
    config: dict[str, str] = field(default_factory=dict[str, str])
    bound: list[int] = field(default_factory=list[int])  # addresses that runs had

    def module(self) -> ModuleType:
        toolkit = self

        class Options:
            def __init__(self) -> None:
                self.entries: dict[str, str] = {}

            def add_session_config_entry(self, key: str, value: str) -> None:
                toolkit.config[key] = value

            def add_run_config_entry(self, key: str, value: str) -> None:
                self.entries[key] = value

        class Binding:
            def __init__(self) -> None:
                self.inputs: dict[str, tuple[Any, ...]] = {}
                self.outputs: dict[str, tuple[Any, ...]] = {}

            def bind_input(
                self, name: str, device_type: str, device_id: int, element_type: Any, shape: Any, buffer_ptr: int
            ) -> None:
                assert (device_type, device_id) == ("cuda", 0)
                self.inputs[name] = (element_type, shape, buffer_ptr)

            def bind_output(
                self, name: str, device_type: str, device_id: int, element_type: Any, shape: Any, buffer_ptr: int
            ) -> None:
                assert (device_type, device_id) == ("cuda", 0)
                self.outputs[name] = (element_type, shape, buffer_ptr)

        class InferenceSession:
            def __init__(self, path: Path, options: Options, providers: Any, enable_fallback: int = 1) -> None:
                ((name, told),) = providers
                assert (name, enable_fallback) == (CUDA, 0)
                if toolkit.loading:
                    raise RuntimeError(toolkit.loading)
                toolkit.told.append(told)
                self.stream = int(told["user_compute_stream"])
                assert toolkit.gpu.alive[self.stream] == "stream"
                self.number = toolkit.gpu.made("session")
                self.real = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

            def __del__(self) -> None:
                if hasattr(self, "number"):
                    assert self.stream in toolkit.gpu.alive, "the stream went before the session that uses it"
                    toolkit.gpu.gone(self.number)

            def get_providers(self) -> list[str]:
                return ["CPUExecutionProvider"] if toolkit.falls_back else [CUDA, "CPUExecutionProvider"]

            def io_binding(self) -> Binding:
                return Binding()

            def run_with_iobinding(self, iobinding: Binding, run_options: Options) -> None:
                assert run_options.entries == {"disable_synchronize_execution_providers": "1"}
                if toolkit.running:
                    raise RuntimeError(toolkit.running)
                memory = toolkit.gpu.memory
                ((name, (kind, shape, pointer)),) = iobinding.inputs.items()
                toolkit.bound.append(pointer)
                image = np.frombuffer(bytes(memory[pointer]), kind).reshape(shape)
                values = self.real.run(list(iobinding.outputs), {name: image})
                for value, (kind, shape, pointer) in zip(values, iobinding.outputs.values(), strict=True):
                    assert (value.dtype, value.shape) == (kind, shape)
                    memory[pointer][:] = value.tobytes()
                toolkit.gpu.now_ms += 1.0

        found = ModuleType("onnxruntime")
        found.__dict__.update(
            InferenceSession=InferenceSession,
            SessionOptions=Options,
            RunOptions=Options,
            GraphOptimizationLevel=onnxruntime.GraphOptimizationLevel,
            preload_dlls=lambda: toolkit.gpu.calls.append("preload_dlls"),
        )
        return found


@pytest.fixture
def toolkit(monkeypatch: pytest.MonkeyPatch) -> Iterator[Toolkit]:
    """A GPU, cuda-python, and ONNX Runtime with the CUDA provider."""
    found = Toolkit(cudagpu.Gpu())
    content("fp16"), content("fp32")
    cudagpu.install_cuda_python(monkeypatch, found.gpu)
    nvidia.install_driver(monkeypatch, nvidia.driver())
    monkeypatch.setitem(sys.modules, "onnxruntime", found.module())
    yield found
    assert cudagpu.given_back(found.gpu)


# --- running ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "error"), [("fp16", 4e-3), ("fp32", 1e-5)])
@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("transfers", [True, False])
def test_a_session_computes(
    toolkit: Toolkit, tmp_path: Path, precision: str, error: float, graph: bool, transfers: bool
) -> None:
    device = profile(precision, graph=graph, transfers=transfers)
    with BACKEND.open(copied(tmp_path, precision), device) as session:
        assert session.window is (Window.END_TO_END if transfers else Window.COMPUTE)
        assert session.clock == "CUDA events"
        for seed in range(2):
            session.set_input(images(seed))
            session.run()
            session.wait()
            assert session.elapsed_ns() == (1_750_000 if transfers else 1_000_000)
            found = session.get_output()
            with torch.no_grad():
                wanted = Net().double()(torch.from_numpy(images(seed)).double())
            assert list(found) == ["feature0", "feature1"]
            for ours, theirs in zip(found.values(), wanted, strict=True):
                assert ours.dtype == {"fp16": np.float16, "fp32": np.float32}[precision]
                np.testing.assert_allclose(ours, theirs.numpy(), atol=error)
        with pytest.raises(UsageError, match=r"takes image \[2, 3, 8, 16\], not \[1, 3, 8, 16\]"):
            session.set_input(images()[:1])
    (told,) = toolkit.told
    assert (told["device_id"], told["use_tf32"], told["enable_cuda_graph"]) == ("0", "0", "1" if graph else "0")
    assert len(set(toolkit.bound)) == 1  # a graph reads where it read when it was captured
    # the provider captures by itself, so nothing else does
    assert "cudaStreamBeginCapture" not in toolkit.gpu.calls


@pytest.mark.slow
def test_nothing_runs_on_the_processor_unnoticed(toolkit: Toolkit, tmp_path: Path) -> None:
    with BACKEND.open(copied(tmp_path), profile()):
        pass
    assert toolkit.config == {"session.disable_cpu_ep_fallback": "1"}
    toolkit.falls_back = True
    with (
        pytest.raises(UnavailableError, match=r"would run net\.onnx on the processor") as caught,
        BACKEND.open(copied(tmp_path), profile()),
    ):
        pass
    assert "onnxruntime-gpu[cuda,cudnn]" in str(caught.value)


FALLBACK = "This session contains graph nodes that are assigned to the default CPU EP"
MEMORY = "[ONNXRuntimeError] : 6 : Failed to allocate memory for requested buffer of size 2147483648"


@pytest.mark.parametrize(
    ("where", "told", "words"),
    [
        ("loading", f"{FALLBACK}\nmore", f"failed on the GPU while loading net.onnx: {FALLBACK}."),
        ("loading", MEMORY, "The GPU's memory ran out while loading net.onnx"),
        ("running", f"{MEMORY}\nstack", "The GPU's memory ran out while running net.onnx"),
        ("running", "CUDA failure 700: an illegal memory access", "The GPU stopped with a fault"),
        ("running", "CUDA failure 900: operation not permitted", "cannot be captured in a CUDA graph"),
        ("running", "Non-zero status code", "ONNX Runtime failed on the GPU while running net.onnx: Non-zero status"),
    ],
)
def test_what_goes_wrong_is_one_sentence(toolkit: Toolkit, tmp_path: Path, where: str, told: str, words: str) -> None:
    setattr(toolkit, where, told)
    with (
        pytest.raises(UnavailableError, match=re.escape(words)) as caught,
        BACKEND.open(copied(tmp_path), profile()) as session,
    ):
        run(session)
    assert "\n" not in str(caught.value)


def test_memory_of_the_gpu_that_runs_out(toolkit: Toolkit, tmp_path: Path) -> None:
    toolkit.gpu.fails["cudaMalloc"] = 2
    with pytest.raises(UnavailableError, match="memory ran out"), BACKEND.open(copied(tmp_path), profile()):
        pass
    assert toolkit.told == []


@pytest.mark.parametrize(("precision", "rounded"), [("fp16", True), ("fp32", False)])
def test_the_proof_rounds_as_a_gpu_does(tmp_path: Path, precision: str, rounded: bool) -> None:
    (look,) = BACKEND.verification_sessions(copied(tmp_path, precision), asked(precision))
    assert ("every result rounded to float16" in look.how) == rounded
    with look.session as session:
        session.set_input(images())
        session.run()
        found = session.get_output()["feature0"].astype(np.float32)
    assert np.array_equal(found.astype(np.float16).astype(np.float32), found) == rounded


def test_the_real_package_takes_what_it_is_given() -> None:
    bound, session = onnxruntime.IOBinding, onnxruntime.InferenceSession
    for bind in (bound.bind_input, bound.bind_output):
        assert list(inspect.signature(bind).parameters) == [
            "self",
            "name",
            "device_type",
            "device_id",
            "element_type",
            "shape",
            "buffer_ptr",
        ]
    assert list(inspect.signature(session.run_with_iobinding).parameters) == ["self", "iobinding", "run_options"]
    assert "enable_fallback" in inspect.getsource(session.__init__)
    assert all(
        each.default is not each.empty for each in inspect.signature(onnxruntime.preload_dlls).parameters.values()
    )
    onnxruntime.RunOptions().add_run_config_entry("disable_synchronize_execution_providers", "1")
    onnxruntime.SessionOptions().add_session_config_entry("session.disable_cpu_ep_fallback", "1")


# --- options and what is installed ------------------------------------------------------------------------------------


def test_the_processor_is_as_it_was() -> None:
    bare = Device(name="cpu", backend="onnxruntime", options={"threads": 2})
    named = msgspec.structs.replace(bare, options={"threads": 2, "provider": "cpu"})
    assert BACKEND.options(bare) == BACKEND.options(named) == {"threads": 2}
    assert (BACKEND.device_unavailable_reason(bare), BACKEND.detect_hardware(bare), BACKEND.warmup_policy(bare)) == (
        None,
        None,
        {},
    )


def test_a_gpu_is_identified_and_warmed_up(monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia.install_driver(monkeypatch, nvidia.driver())
    assert BACKEND.detect_hardware(profile()) == Hardware("NVIDIA GeForce RTX 2080 Ti", "580.65", "7.5")
    assert BACKEND.warmup_policy(profile()) == nvidia_gpu.SETTLING


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"provider": "tensorrt"}, "provider = 'tensorrt' must be cpu or cuda"),
        ({"provider": "cuda", "threads": 2}, "unknown option 'threads'. Known: compute_capability, cuda_binding, gpu"),
        ({"provider": "cpu", "graph": True}, "unknown option 'graph'. Known: batches, input, provider, threads"),
        ({"graph": True}, "unknown option 'graph'"),
        ({"provider": "cuda", "transfers": 1}, "transfers = 1 must be true or false"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        BACKEND.options(Device(name="x", backend="onnxruntime", options=options))


def test_the_provider_is_looked_for_without_importing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "capi").mkdir()
    (tmp_path / "__init__.py").write_text("raise SystemExit('onnxruntime was imported')")
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    nvidia.install_driver(monkeypatch, None)
    assert BACKEND.device_unavailable_reason(profile()) == nvidia.NO_DRIVER
    nvidia.install_driver(monkeypatch, nvidia.driver())
    assert "the installed onnxruntime has no CUDA provider; run: " in str(BACKEND.device_unavailable_reason(profile()))
    (tmp_path / "capi" / "libonnxruntime_providers_cuda.so").touch()
    cudagpu.install_cuda_python(monkeypatch, cudagpu.Gpu())
    assert BACKEND.device_unavailable_reason(profile()) is None
    monkeypatch.setattr(binding, "unavailable_reason", lambda name: f"no {name}")
    assert BACKEND.device_unavailable_reason(profile()) == "no cuda-python"
