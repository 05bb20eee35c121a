"""PyTorch: programs exported and proved for real on the processor, and timed on the imaginary GPU."""

import contextlib
import functools
import importlib.util
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import builders
import msgspec
import numpy as np
import pytest
import torch
from fakes import cudagpu, cudatorch, nvidia
from torch import nn

from fastvit_bench.backends import Session, pytorch
from fastvit_bench.backends.pytorch import BACKEND
from fastvit_bench.errors import MismatchError, ParityError, UnavailableError, UsageError
from fastvit_bench.exporting import checkpoints, pipeline
from fastvit_bench.records import Device, ExportJob, Fuse, ModelSpec, Shape, Window

SHAPE = Shape(batch=2, height=8, width=16)


def profile(precision: str = "fp16", **options: Any) -> Device:
    bare = Device(name="cuda", backend="pytorch", precision=precision, batch=SHAPE.batch, options=options)
    return msgspec.structs.replace(bare, options=BACKEND.options(bare))


def network(outputs: int = 1) -> nn.Module:
    """A convolution and an activation; with several outputs, its maps at two strides."""
    torch.manual_seed(0)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 3, stride=2)

        def forward(self, x: torch.Tensor) -> Any:
            near = nn.functional.gelu(self.first(x))
            far = self.second(near)
            return far.mean((2, 3)) if outputs == 1 else (near, far)

    return Net().double().eval()


@functools.cache
def content(outputs: int, precision: str) -> bytes:
    """A file of `network`, exported once for all tests."""
    with tempfile.TemporaryDirectory() as folder:
        return written(Path(folder), network(outputs), precision).read_bytes()


def copied(folder: Path, outputs: int = 1, precision: str = "fp16") -> Path:
    path = folder / "net.pt2"
    path.write_bytes(content(outputs, precision))
    return path


def written(folder: Path, net: nn.Module, precision: str = "fp16") -> Path:
    path = folder / "net.pt2"
    asked = builders.export_job(backend="pytorch", precision=precision, shape=SHAPE, device=profile(precision))
    BACKEND.export(net, asked, path, {"fastvit_bench.variant": "net"})
    return path


@pytest.mark.parametrize("kind", ["deflated", "lzma", "bomb", "deep", "no program"])
def test_an_odd_archive_is_one_sentence_or_foreign(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    program = b"[" * 100_000 if kind == "deep" else bytes(300 << 20 if kind == "bomb" else 100)
    how = zipfile.ZIP_DEFLATED if kind in {"deflated", "bomb"} else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", how) as archive:
        archive.writestr("a/other" if kind == "no program" else "a/models/model.json", program)
        archive.writestr("a/extra/fastvit_bench.json", program if kind in {"bomb", "deep"} else b"{}")
    if kind == "lzma":
        path.write_bytes(
            path.read_bytes().replace(
                b"PK\x01\x02\x14\x03\x14\x00\x00\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x00\x00\x63\x00"
            )
        )
    if kind in {"bomb", "no program", "lzma"}:
        with pytest.raises(UnavailableError, match=r"^PyTorch cannot load net\.pt2: .*\.$"):
            BACKEND.metadata(path)
    else:
        assert BACKEND.metadata(path) == {}


def images(seed: int = 0) -> "np.ndarray[Any, np.dtype[np.float32]]":
    return np.random.default_rng(seed).standard_normal(SHAPE.nchw, np.float32)


def computed(session: Session, batch: "np.ndarray[Any, np.dtype[np.float32]]") -> "list[np.ndarray[Any, Any]]":
    session.set_input(batch)
    session.run()
    session.wait()
    return list(session.get_output().values())


def wanted(net: nn.Module, batch: "np.ndarray[Any, np.dtype[np.float32]]") -> "list[np.ndarray[Any, Any]]":
    with torch.no_grad():
        found = net(torch.from_numpy(batch).double())
    return [each.numpy() for each in (found if isinstance(found, tuple) else (found,))]


def changed(path: Path, change: Any) -> None:
    """Let `change` have the first weight of a file."""
    program = torch.export.load(path)
    notes = {pytorch._NOTES: msgspec.json.encode(BACKEND.metadata(path)).decode()}
    with torch.no_grad():
        change(next(iter(program.state_dict.values())))
    torch.export.save(program, path, extra_files=notes)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[cudagpu.Gpu]:
    """A driver, and a PyTorch that was built for it."""
    found = cudagpu.Gpu()
    nvidia.install_driver(monkeypatch, nvidia.driver())
    monkeypatch.setattr(pytorch, "_toolkit", lambda: cudatorch.Torch(found))
    with cudatorch.Operators(found):
        yield found
    assert cudagpu.given_back(found)


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_file_tells_what_it_is_without_being_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copied(tmp_path)
    monkeypatch.setattr(torch.export, "load", lambda *_: pytest.fail("the file was loaded"))
    monkeypatch.setattr(torch, "load", lambda *_: pytest.fail("the file was loaded"))
    metadata = BACKEND.metadata(path)
    assert metadata["fastvit_bench.variant"] == "net"
    assert '"weights":516' in metadata["fastvit_bench.fp16_weights"]
    assert BACKEND.operations(path) == {"aten.conv2d": 2, "aten.gelu": 1, "aten.mean": 1}


def test_a_file_has_nothing_of_its_maker_and_no_images(tmp_path: Path) -> None:
    path = copied(tmp_path)
    content = path.read_bytes()
    assert b".py" not in content
    assert str(Path.home()).encode() not in content
    assert torch.export.load(path).example_inputs is None


def test_the_name_of_a_file_is_not_in_it(tmp_path: Path) -> None:
    first = written(tmp_path, network()).rename(tmp_path / "first.pt2")
    (tmp_path / "net.pt2").unlink(missing_ok=True)
    assert first.read_bytes() == written(tmp_path, network()).read_bytes()
    assert b"net.pt2" not in first.read_bytes()


def test_a_file_by_others_tells_nothing_and_another_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pt2"
    torch.export.save(torch.export.export(network().float(), (torch.zeros(SHAPE.nchw),)), path)
    assert BACKEND.metadata(path) == {}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "no program")
    for read in (BACKEND.metadata, BACKEND.operations):
        with pytest.raises(UnavailableError, match=r"cannot load x\.pt2"):
            read(path)


def test_weights_beyond_float16_are_refused(tmp_path: Path) -> None:
    net = network()
    with torch.no_grad():
        net.first.bias[0] = 1e6  # type: ignore[union-attr, index]
    with pytest.raises(UsageError, match=r"The weight first\.bias holds 1e"):
        written(tmp_path, net)
    assert list(tmp_path.iterdir()) == []


# --- the proof --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("precision", "error"), [("fp32", 1e-6), ("fp16", 2e-3)])
@pytest.mark.parametrize("outputs", [1, 2])
def test_the_processor_computes_what_the_network_does(
    tmp_path: Path, precision: str, error: float, outputs: int
) -> None:
    path = copied(tmp_path, outputs, precision)
    asked = builders.export_job(backend="pytorch", precision=precision, shape=SHAPE, device=profile(precision))
    (look,) = BACKEND.verification_sessions(path, asked)
    assert ("float16" in look.how) == (precision == "fp16")
    with look.session as session:
        for ours, theirs in zip(computed(session, images()), wanted(network(outputs), images()), strict=True):
            assert 0 < np.abs(ours - theirs).max() < error
            rounded = ours.astype(np.float16).astype(np.float32)
            assert np.array_equal(rounded, ours) == (precision == "fp16")


def test_values_beyond_float16_are_infinite_in_the_proof(tmp_path: Path) -> None:
    class Large(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return (x * 60000) * 1e-4

    path = written(tmp_path, Large())
    with pytorch._on_processor(path) as session:
        (found,) = computed(session, images())
    assert np.isinf(found).any()


def job(folder: Path) -> ExportJob:
    spec = ModelSpec(name="fastvit_t8", variant="fastvit_t8")
    device = Device(name="cuda", backend="pytorch", precision="fp16", batch=1)
    shape = Shape(batch=1, height=32, width=32)
    return pipeline.job(spec, checkpoints.weights_of(spec, 0), shape, Fuse.FOLDED, device, folder=folder)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> ExportJob:
    """FastViT-T8 exported and proved; read only."""
    asked = job(tmp_path_factory.mktemp("exported"))
    artifact = pipeline.export(asked)
    assert artifact.parity is not None
    assert artifact.parity.passed
    assert artifact.parity.how == (
        "PyTorch on this processor in float32, every result rounded to float16, not on a GPU"
    )
    assert artifact.half_weights is not None
    assert artifact.operations["aten.conv2d"] == 52
    return asked


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "reason"), [(lambda weight: weight.mul_(2), "error is"), (lambda weight: weight.fill_(np.nan), "NaN")]
)
def test_a_changed_weight_is_found(exported: ExportJob, tmp_path: Path, change: Any, reason: str) -> None:
    path = tmp_path / "t8.pt2"
    path.write_bytes(Path(exported.path).read_bytes())
    changed(path, change)
    (proof,) = pipeline.verify(path, None, tmp_path).values()
    assert not proof.passed
    assert reason in proof.reason


# --- on a GPU ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("graph", [True, False])
@pytest.mark.parametrize("transfers", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("precision", "outputs"), [("fp16", 1), ("fp32", 2)])
def test_a_session_computes(
    gpu: cudagpu.Gpu,
    tmp_path: Path,
    graph: bool,
    transfers: bool,
    channels_last: bool,
    precision: str,
    outputs: int,
) -> None:
    net = network(outputs)
    path = copied(tmp_path, outputs, precision)
    error = {"fp16": 2e-3, "fp32": 1e-5}[precision]
    device = profile(precision, graph=graph, transfers=transfers, channels_last=channels_last)
    with BACKEND.open(path, device) as session:
        assert session.window is (Window.END_TO_END if transfers else Window.COMPUTE)
        assert session.clock == "CUDA events"
        kept: list[Any] = []
        for seed in range(3):
            found = computed(session, images(seed))
            kept.append((found, [each.copy() for each in found]))
            for ours, theirs in zip(found, wanted(net, images(seed)), strict=True):
                assert ours.dtype == {"fp16": np.float16, "fp32": np.float32}[precision]
                np.testing.assert_allclose(ours, theirs, rtol=error, atol=error)
            assert session.elapsed_ns() > 0
        for found, copies in kept:  # later runs have left them alone
            assert all(map(np.array_equal, found, copies))
        assert gpu.calls.count("replay") == (3 if graph else 0)


@pytest.mark.parametrize("graph", [True, False])
def test_copies_are_in_a_run_only_where_they_are_asked_for(gpu: cudagpu.Gpu, tmp_path: Path, graph: bool) -> None:
    path = copied(tmp_path)
    took: list[int] = []
    for transfers in (False, True):
        with BACKEND.open(path, profile(graph=graph, transfers=transfers)) as session:
            computed(session, images())
            session.run()
            session.wait()
            took.append(session.elapsed_ns())
    assert took[1] - took[0] == 250_000  # the image there and the logits back


def test_channels_last_is_how_everything_lies(
    gpu: cudagpu.Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = copied(tmp_path)
    seen: list[torch.Tensor] = []

    def watched(self: Any, model: Any, *, mode: str) -> Any:
        seen.extend(weight for weight in model.parameters() if weight.dim() == 4)
        return lambda image: (seen.append(image), model(image))[1]

    monkeypatch.setattr(cudatorch.Torch, "compile", watched)
    for last in (True, False):
        seen.clear()
        with BACKEND.open(path, profile(channels_last=last, compile="default")) as session:
            computed(session, images())
        assert len(seen) == 4  # two weights; the image of the first run and of the capture
        assert {each.is_contiguous(memory_format=torch.channels_last) for each in seen} == {last}
        assert {each.data_ptr() for each in seen[2:]} == {seen[2].data_ptr()}


@pytest.mark.parametrize(
    ("option", "mode"), [("default", "default"), ("max-autotune", "max-autotune-no-cudagraphs"), ("none", None)]
)
def test_modes_of_compile(gpu: cudagpu.Gpu, tmp_path: Path, option: str, mode: str | None) -> None:
    path = copied(tmp_path)
    with BACKEND.open(path, profile(compile=option)) as session:
        computed(session, images())
    assert [call for call in gpu.calls if call.startswith("compile")] == ([f"compile {mode}"] if mode else [])


def test_single_precision_is_not_tf32(gpu: cudagpu.Gpu, tmp_path: Path) -> None:
    path = copied(tmp_path, precision="fp32")
    cudnn, multiplying = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, cudnn.benchmark
    multiplying.allow_tf32 = True
    try:
        with BACKEND.open(path, profile("fp32")):
            assert (cudnn.allow_tf32, multiplying.allow_tf32, cudnn.benchmark) == (False, False, True)
        assert (cudnn.allow_tf32, cudnn.benchmark) == before
        assert multiplying.allow_tf32
    finally:
        multiplying.allow_tf32 = False


@pytest.mark.parametrize(
    ("call", "code", "words"),
    [
        ("init", -1, "CUDA failed while opening GPU 0: Torch not compiled with CUDA enabled"),  # the driver lied
        ("empty", 2, "The GPU's memory ran out while allocating"),
        ("aten::conv2d", 2, r"memory ran out while running the network \(CUDA out of memory\. Tried to allocate"),
        ("aten::conv2d", 700, "The GPU stopped with a fault .* while running the network"),
        ("aten::gelu", 209, "CUDA failed while running the network: CUDA error: reason 209"),
        ("capture_end", 901, "cannot be captured in a CUDA graph"),
    ],
)
def test_what_goes_wrong_on_the_gpu_is_one_sentence(
    gpu: cudagpu.Gpu, tmp_path: Path, call: str, code: int, words: str
) -> None:
    path = copied(tmp_path)
    gpu.fails[call] = code
    with pytest.raises(UnavailableError, match=words) as caught, BACKEND.open(path, profile()) as session:
        computed(session, images())
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_what_a_gpu_computes_is_compared(
    gpu: cudagpu.Gpu, exported: ExportJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(exported.path)
    with BACKEND.open(path, exported.device) as session:
        assert pipeline.check(session, path, exported, "pytorch on a GPU").passed
    monkeypatch.setattr(
        cudatorch.Torch, "compile", lambda self, model, *, mode: lambda image: model(image) * float("nan")
    )
    broken = profile(compile="default")
    with BACKEND.open(path, broken) as session, pytest.raises(ParityError, match="logits holds 1000 NaN"):
        pipeline.check(session, path, exported, "pytorch on a GPU")


def test_another_gpu_is_refused(gpu: cudagpu.Gpu, tmp_path: Path) -> None:
    path = copied(tmp_path)
    device = msgspec.structs.replace(profile(), match="H100")
    for look in (BACKEND.detect_hardware, lambda each: BACKEND.open(path, each).__enter__()):
        with pytest.raises(MismatchError, match="has GPU 0 'NVIDIA GeForce RTX 2080 Ti'"):
            look(device)
    assert gpu.calls == []


# --- options and what is installed ------------------------------------------------------------------------------------


def test_options_are_filled_in() -> None:
    assert profile().options == {
        "gpu": -1,
        "compute_capability": "",
        "sync": "spin",
        "graph": True,
        "transfers": False,
        "channels_last": True,
        "compile": "none",
    }
    assert profile("fp32").options["channels_last"] is False
    assert profile(**profile().options) == profile()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"cuda_binding": "pycuda"}, "PyTorch makes CUDA's calls itself, so cuda_binding means nothing; leave it out"),
        ({"channels_last": "yes"}, "channels_last = 'yes' must be true or false"),
        ({"compile": True}, "compile = True must be none or default or max-autotune"),
        ({"compile": "reduce-overhead"}, "must be none or default or max-autotune"),
        ({"sync": "nap"}, "sync = 'nap' must be spin or block"),
        ({"treads": 1}, "unknown option 'treads'. Known: channels_last, compile, compute_capability, gpu"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=re.escape(words)):
        profile(**options)


def test_layers_are_not_timed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leave --profile out"):
        BACKEND.profile(tmp_path, profile(), images(), 1)


def installed(monkeypatch: pytest.MonkeyPatch, folder: Path, built: str, triton: bool = False) -> None:
    """Let a torch that was built so be what is installed; importing it fails."""
    (folder / "__init__.py").write_text("raise SystemExit('torch was imported')")
    (folder / "version.py").write_text(f"from typing import Optional\n__version__ = '2.13.0'\n{built}\n")
    specs = {
        "torch": SimpleNamespace(origin=str(folder / "__init__.py")),
        "triton": object() if triton else None,
        "pip": object(),
    }
    monkeypatch.setattr(importlib.util, "find_spec", specs.__getitem__)


@pytest.mark.parametrize(
    ("built", "words"),
    [
        (
            "cuda: Optional[str] = None",
            r"torch 2\.13\.0 is installed, which was built without CUDA; install one for CUDA",
        ),
        ("cuda: Optional[str] = '14.0'", r"for CUDA 14\.0, and the driver 580\.65 is older; update it, or install"),
        ("cuda: Optional[str] = '13.2'", None),  # minor versions run with any driver of the major one
        ("cuda = '12.6'", None),
    ],
)
def test_torch_must_be_for_a_gpu_that_the_driver_serves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, built: str, words: str | None
) -> None:
    nvidia.install_driver(monkeypatch, nvidia.driver())
    installed(monkeypatch, tmp_path, built)
    found = BACKEND.device_unavailable_reason(profile())
    assert found is None if words is None else re.search(words, str(found))


def test_compiling_needs_triton(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nvidia.install_driver(monkeypatch, nvidia.driver())
    installed(monkeypatch, tmp_path, "cuda = '13.0'")
    assert "torch.compile needs the package triton" in str(
        BACKEND.device_unavailable_reason(profile(compile="default"))
    )
    installed(monkeypatch, tmp_path, "cuda = '13.0'", triton=True)
    assert BACKEND.device_unavailable_reason(profile(compile="default")) is None


def test_the_driver_is_asked_first(monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia.install_driver(monkeypatch, None)
    monkeypatch.setattr(pytorch, "_unsuited", lambda driver: pytest.fail("torch was looked at"))
    assert BACKEND.device_unavailable_reason(profile()) == nvidia.NO_DRIVER
    with contextlib.suppress(UnavailableError):
        BACKEND.detect_hardware(profile())


def test_asking_what_is_absent_imports_nothing() -> None:
    program = (
        "import sys; from fastvit_bench import backends; from fastvit_bench.backends._nvidia import cuda\n"
        "from fastvit_bench.records import Device\n"
        "cuda.probe = lambda: cuda.Driver(version='580', cuda='13.0', gpus=())\n"
        "for name, options in (('pytorch', {'compile': 'default'}), ('onnxruntime', {'provider': 'cuda'})):\n"
        "    backend, device = backends.get(name), Device(name='x', backend=name, options=options)\n"
        "    found = Device(name='x', backend=name, options=backend.options(device))\n"
        "    print(backend.device_unavailable_reason(found))\n"
        "assert not {'torch', 'onnxruntime', 'numpy', 'onnx'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 2
