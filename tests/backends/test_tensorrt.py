"""TensorRT: strongly typed files anywhere, engines where a GPU is, and none that belongs elsewhere."""

import dataclasses
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import builders
import msgspec
import numpy as np
import onnx
import pytest
from fakes import cudagpu, nvidia

from fastvit_bench import backends
from fastvit_bench.backends import Images, Session
from fastvit_bench.backends._nvidia import engines
from fastvit_bench.backends._onnx import export
from fastvit_bench.backends.tensorrt import BACKEND
from fastvit_bench.errors import (
    ChecksumError,
    FastViTBenchError,
    MismatchError,
    ParityError,
    UnavailableError,
    UsageError,
)
from fastvit_bench.exporting import checkpoints, metadata, pipeline, verification
from fastvit_bench.measuring import latency
from fastvit_bench.records import (
    Artifact,
    Device,
    Engine,
    ExportJob,
    Fuse,
    GpuIdentity,
    Method,
    ModelSpec,
    Shape,
    TimingCache,
    Window,
)

SPEC = ModelSpec(name="fastvit_t8", variant="fastvit_t8")
OTHER = nvidia.HOPPER


def job(folder: Path, **changes: object) -> ExportJob:
    device = Device(name="tensorrt", backend="tensorrt", **({"precision": "fp16", "batch": 2} | changes))  # type: ignore[arg-type]
    shape = Shape(batch=2, height=32, width=32)
    return pipeline.job(SPEC, checkpoints.weights_of(SPEC, 0), shape, Fuse.FOLDED, device, folder=folder)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[ExportJob, Artifact]:
    """FastViT-T8 exported where no driver is; read only."""
    with pytest.MonkeyPatch.context() as patch:
        nvidia.install_driver(patch, None)
        asked = job(tmp_path_factory.mktemp("exported"))
        return asked, pipeline.export(asked)


@pytest.fixture
def asked(exported: tuple[ExportJob, Artifact], tmp_path: Path) -> ExportJob:
    """The same file in a folder of its own."""
    source = Path(exported[0].path)
    path = tmp_path / source.name
    path.write_bytes(source.read_bytes())
    metadata.reference_outputs_path(path).write_bytes(metadata.reference_outputs_path(source).read_bytes())
    return msgspec.structs.replace(exported[0], path=str(path))


@pytest.fixture
def trt(monkeypatch: pytest.MonkeyPatch) -> nvidia.Behaviour:
    """A GPU with TensorRT."""
    nvidia.install_driver(monkeypatch, nvidia.driver())
    return nvidia.install_tensorrt(monkeypatch)


@pytest.fixture
def engine(asked: ExportJob, trt: nvidia.Behaviour) -> Path:
    """A finished engine."""
    BACKEND.build(Path(asked.path), asked.device)
    return only(Path(asked.path).parent, "*.engine")


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def opened(asked: ExportJob) -> str:
    """What opening the file's engine says, which must not work."""
    with pytest.raises(FastViTBenchError) as caught, BACKEND.open(Path(asked.path), asked.device):
        pass
    said = str(caught.value)
    assert "\n" not in said
    return f"{type(caught.value).__name__}: {said}"


# --- without a GPU ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_without_a_driver_the_onnx_file_is_proved_and_the_rest_is_named(
    exported: tuple[ExportJob, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia.install_driver(monkeypatch, None)
    asked, artifact = exported
    path = Path(asked.path)
    assert path.name.endswith(".trt.onnx")
    names = [path.name, path.name + ".expected.npz", path.name + ".json"]
    assert sorted(each.name for each in path.parent.iterdir()) == names
    assert artifact.parity is not None
    assert artifact.parity.passed
    assert artifact.parity.how == "ONNX Runtime on this processor, every result rounded to float16, not TensorRT"
    assert artifact.half_weights is not None
    assert artifact.half_weights.weights == artifact.params
    assert pipeline.cached(asked) == artifact
    assert BACKEND.lacking(asked.device) == BACKEND.device_unavailable_reason(asked.device) == nvidia.NO_DRIVER
    with pytest.raises(UnavailableError, match="No NVIDIA driver"):
        BACKEND.detect_hardware(asked.device)


@pytest.mark.slow
def test_verify_finds_the_backend_by_the_file_s_ending(
    exported: tuple[ExportJob, Artifact], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nvidia.install_driver(monkeypatch, None)
    path = Path(exported[0].path)
    assert backends.of_file(path) is BACKEND
    assert backends.of_file(Path("net.onnx")).name == "onnxruntime"
    assert all(proof.passed for proof in pipeline.verify(path, None, tmp_path).values())


@pytest.mark.slow
def test_nothing_of_tensorrt_is_touched_before_the_driver_has_answered(
    asked: ExportJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "tensorrt.py").write_text("raise SystemExit('TensorRT was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    nvidia.install_driver(monkeypatch, None)
    path = Path(asked.path)
    with pytest.raises(UnavailableError, match="No NVIDIA driver"):
        BACKEND.build(path, asked.device)
    assert "No NVIDIA driver" in str(BACKEND.device_unavailable_reason(asked.device))
    assert "No NVIDIA driver" in opened(asked)
    nvidia.install_driver(monkeypatch, nvidia.driver())
    with pytest.raises(SystemExit):  # the trap works
        BACKEND.build(path, asked.device)


@pytest.mark.parametrize("version", ["10.11.0.33", "8.6.1"])
def test_what_cannot_be_strongly_typed_is_too_old(
    asked: ExportJob, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    nvidia.install_driver(monkeypatch, nvidia.driver())
    nvidia.install_tensorrt(monkeypatch, version)
    with pytest.raises(UnavailableError, match=f"TensorRT {version} is installed, and strongly typed networks need"):
        BACKEND.build(Path(asked.path), asked.device)


def test_a_gpu_that_is_not_there(asked: ExportJob, trt: nvidia.Behaviour) -> None:
    device = msgspec.structs.replace(asked.device, options={**asked.device.options, "gpu": 3})
    with pytest.raises(
        MismatchError, match=r"meant for GPU 3, and this machine has GPU 0 'NVIDIA GeForce RTX 2080 Ti'"
    ):
        BACKEND.detect_hardware(device)


# --- building ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["10.12.0.36", "10.16.1.11", "11.4.0.106"])
def test_one_way_of_building_for_every_version(asked: ExportJob, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    nvidia.install_driver(monkeypatch, nvidia.driver())
    trt = nvidia.install_tensorrt(monkeypatch, version)
    trt.warning = "Running layernorm\n in FP16 may overflow"
    path = Path(asked.path)
    BACKEND.build(path, asked.device)
    assert trt.networks == [1 if version.startswith("11") else 2]
    (config,) = trt.configs
    assert config.profiling_verbosity == "detailed"
    assert config.builder_optimization_level == 3
    assert config.cleared == ["tf32"]
    engine = only(path.parent, "*.engine")
    known = engines.read_metadata(engine)
    assert (known.toolkit, known.version) == ("tensorrt", version)
    assert (known.card.name, known.card.driver) == ("NVIDIA GeForce RTX 2080 Ti", "580.65")
    assert known.onnx == path.name
    assert known.settings == {"optimization_level": "3", "workspace_mib": "0"}
    assert (known.inputs, known.outputs) == ({"image": "HALF 2x3x32x32"}, {"logits": "HALF 2x1000"})
    assert known.layers["CONV"] == 52
    assert known.size_bytes == engine.stat().st_size
    assert known.warnings == ("Running layernorm in FP16 may overflow",)
    assert known.parity is None  # it has not run


def test_an_engine_that_is_there_is_kept(asked: ExportJob, engine: Path, trt: nvidia.Behaviour) -> None:
    before = engine.stat().st_mtime_ns
    BACKEND.build(Path(asked.path), asked.device)
    assert engine.stat().st_mtime_ns == before
    assert len(trt.configs) == 1


def test_another_file_gpu_version_or_setting_is_another_engine(
    asked: ExportJob, engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(asked.path)
    nvidia.install_driver(monkeypatch, nvidia.driver(version="590.10"))
    assert BACKEND.engine(path, asked.device)[0] == engine  # a newer driver runs it as well
    seen = {engine}
    nvidia.install_driver(monkeypatch, nvidia.driver(OTHER))
    seen.add(BACKEND.engine(path, asked.device)[0])
    nvidia.install_tensorrt(monkeypatch, "10.12.0.36")
    seen.add(BACKEND.engine(path, asked.device)[0])
    device = msgspec.structs.replace(asked.device, options={**asked.device.options, "workspace_mib": 512})
    seen.add(BACKEND.engine(path, device)[0])
    path.write_bytes(path.read_bytes() + b"\n")
    seen.add(BACKEND.engine(path, device)[0])
    assert len(seen) == 5


def test_the_timings_of_one_build_help_the_next(asked: ExportJob, engine: Path, trt: nvidia.Behaviour) -> None:
    assert engines.read_metadata(engine).timing_cache is None
    engine.unlink()
    BACKEND.build(Path(asked.path), asked.device)
    assert trt.caches == [b"", b"timed "]
    assert engines.read_metadata(engine).timing_cache is not None


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (
            {"parser_error": "No importer registered\nfor op"},
            "TensorRT 11.4.0.106 cannot parse .*: Gelu node_7: No importer",
        ),
        ({"build_error": "FP32 GEMM is not supported"}, "cannot build an engine of .* 7.5: FP32 GEMM is not supported"),
        ({"refuses_cache": True}, "refuses the timing cache"),
    ],
)
def test_what_tensorrt_refuses_is_one_sentence_and_no_engine(
    asked: ExportJob, trt: nvidia.Behaviour, fault: dict[str, object], said: str
) -> None:
    for name, value in fault.items():
        setattr(trt, name, value)
    path = Path(asked.path)
    with pytest.raises(UnavailableError, match=said) as caught:
        BACKEND.build(path, asked.device)
    assert "\n" not in str(caught.value)
    assert {each.name for each in path.parent.iterdir()} == {path.name, metadata.reference_outputs_path(path).name}


def test_what_the_bindings_raise_is_one_sentence(
    asked: ExportJob, trt: nvidia.Behaviour, monkeypatch: pytest.MonkeyPatch
) -> None:
    def builder(logger: object) -> None:
        raise TypeError("pybind11::init(): factory function returned nullptr\n")

    monkeypatch.setattr(sys.modules["tensorrt"], "Builder", builder)
    with pytest.raises(UnavailableError, match=r"TensorRT 11\.4\.0\.106 failed on .*: pybind11::init"):
        BACKEND.build(Path(asked.path), asked.device)


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_an_engine_that_cannot_be_built_leaves_the_proved_file(trt: nvidia.Behaviour, tmp_path: Path) -> None:
    trt.build_error = "out of memory"
    asked = job(tmp_path)
    pipeline.export(asked)
    with pytest.raises(UnavailableError, match="out of memory"):
        pipeline.build_engine(asked)
    assert pipeline.cached(asked) is not None


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_a_file_that_fails_its_proof_gets_no_engine(
    trt: nvidia.Behaviour, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = export.write

    def swapped(*words: object, **named: object) -> None:
        """An exporter that mixes up two classes."""
        write(*words, **named)  # type: ignore[arg-type]
        path = words[2]
        assert isinstance(path, Path)
        model = onnx.load(path)
        gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
        tensor = next(t for t in model.graph.initializer if t.name == gemm.input[2])
        values = onnx.numpy_helper.to_array(tensor)[::-1].copy()
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        path.write_bytes(model.SerializeToString())

    monkeypatch.setattr(export, "write", swapped)
    with pytest.raises(ParityError, match="largest error"):
        pipeline.export(job(tmp_path))
    assert not list(tmp_path.rglob("*.engine"))
    assert not trt.configs


def test_an_island_that_came_later_is_not_built(asked: ExportJob, trt: nvidia.Behaviour) -> None:
    path = Path(asked.path)
    model = onnx.load(path)
    node = next(node for node in model.graph.node if node.op_type == "Gelu")
    target, node.output[0] = node.output[0], "half"
    wide = onnx.helper.make_node("Cast", ["half"], ["wide"], "island", to=onnx.TensorProto.FLOAT)
    back = onnx.helper.make_node("Cast", ["wide"], [target], to=onnx.TensorProto.FLOAT16)
    at = list(model.graph.node).index(node)
    model.graph.node.insert(at + 1, wide)
    model.graph.node.insert(at + 2, back)
    onnx.save(model, path)
    with pytest.raises(UnavailableError, match="not float16 throughout: float32 node Cast island"):
        BACKEND.build(path, asked.device)
    assert not trt.configs


# --- running ----------------------------------------------------------------------------------------------------------


def sampled(session: Session) -> int:
    session.run()
    session.wait()
    return session.elapsed_ns()


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize(
    ("interface", "graph"),
    [
        ("fp32", True),
        *(pytest.param(*pair, marks=pytest.mark.slow) for pair in (("fp16", True), ("fp16", False), ("fp32", False))),
    ],
)
def test_an_engine_computes_what_its_file_says(
    tmp_path: Path, trt: nvidia.Behaviour, graph: bool, interface: str
) -> None:
    asked = job(tmp_path, options={"graph": graph, "io": interface})
    pipeline.export(asked)
    built = pipeline.build_engine(asked)
    assert (proof := built.parity) is not None
    assert proof.how == "the engine on NVIDIA GeForce RTX 2080 Ti"
    assert proof.passed
    engine = only(Path(asked.path).parent, "*.engine")
    assert built.path == str(engine)
    assert engines.read_metadata(engine).parity == proof
    with BACKEND.open(Path(asked.path), asked.device) as session:
        assert session.engine == engines.read_metadata(engine)
        assert (session.window, session.clock) == (Window.COMPUTE, "CUDA events")
        session.set_input(verification.images(asked.shape)[0])
        assert [sampled(session) for _ in range(3)] == [2_500_000] * 3
        assert session.get_output()["logits"].shape == (2, 1000)
        assert session.sample_telemetry() is None  # there is no NVML
    assert trt.gpu.calls.count("cudaGraphLaunch") == (7 if graph else 0)  # four batches of the proof, three samples
    assert trt.gpu.alive == {}


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("interface", ["fp32", pytest.param("fp16", marks=pytest.mark.slow)])
def test_an_engine_takes_8_bit_pixels(tmp_path: Path, trt: nvidia.Behaviour, interface: str) -> None:
    asked = job(tmp_path, options={"input": "image", "io": interface})
    artifact = pipeline.export(asked)
    graph = onnx.load(asked.path).graph
    assert [node.op_type for node in graph.node[:5]] == ["Cast", "Mul", "Sub", "Transpose", "Conv"]
    assert not [node.name for node in graph.node if "wrapped_network" in node.name]
    assert not [tensor.name for tensor in graph.initializer if "wrapped_network" in tensor.name]
    assert artifact.parity is not None
    assert "8-bit RGB pixels" in artifact.parity.reference
    assert (proof := pipeline.build_engine(asked).parity) is not None
    assert proof.passed
    engine = engines.read_metadata(only(Path(asked.path).parent, "*.engine"))
    kind = {"fp16": "HALF", "fp32": "FLOAT"}[interface]
    assert (engine.inputs, engine.outputs) == ({"image": "UINT8 2x32x32x3"}, {"logits": f"{kind} 2x1000"})
    pixels = verification.images(asked.shape, Images.PIXELS)[0]
    with BACKEND.open(Path(asked.path), asked.device) as session:
        assert session.images is Images.PIXELS
        with pytest.raises(UsageError, match=r"takes image \[2, 32, 32, 3\], not \[2, 3, 32, 32\]"):
            session.set_input(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
    assert len(BACKEND.profile(Path(asked.path), asked.device, pixels, 3)) == 2


def test_the_gpu_is_looked_at_where_nvml_is(asked: ExportJob, engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"nvmlDeviceGetClockInfo": lambda handle, kind: {1: 1545, 2: 7000}[kind]}
    monkeypatch.setitem(sys.modules, "pynvml", cudagpu.pynvml(clock))
    with BACKEND.open(Path(asked.path), asked.device) as session:
        session.set_input(verification.images(asked.shape)[0])
        taken = latency.measure(session, Method(warmup=1, runs=10))
    assert [look.sm_mhz for look in taken.gpu] == [1545] * 6


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_copies_are_timed_where_they_are_asked_for(tmp_path: Path, trt: nvidia.Behaviour) -> None:
    asked = job(tmp_path, options={"transfers": True})
    pipeline.export(asked)
    pipeline.build_engine(asked)
    with BACKEND.open(Path(asked.path), asked.device) as session:
        session.set_input(verification.images(asked.shape)[0])
        assert session.window is Window.END_TO_END
        assert sampled(session) == 3_000_000  # 0.25 ms each way


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda name, values: values * 0, "logits is zero everywhere"),
        (lambda name, values: values * np.nan, "logits holds 2000 NaN of 2000 values"),
        (lambda name, values: values * np.inf, "2000 infinite of 2000 values"),
        (lambda name, values: values[:, ::-1].copy(), "the root mean square error is"),
    ],
)
def test_an_engine_that_computes_something_else_is_named(
    asked: ExportJob, trt: nvidia.Behaviour, damage: Any, said: str
) -> None:
    trt.damage = damage
    with pytest.raises(ParityError, match="the engine on NVIDIA GeForce RTX 2080 Ti computes something else") as caught:
        pipeline.build_engine(asked)
    assert said in str(caught.value)


def test_an_engine_that_cannot_be_loaded_is_one_sentence(asked: ExportJob, engine: Path, trt: nvidia.Behaviour) -> None:
    trt.load_error = "The engine plan file is not compatible\nwith this version"
    assert "cannot be loaded: The engine plan file is not compatible with this version; export" in opened(asked)
    assert trt.gpu.alive == {}


def test_memory_that_runs_out_is_one_sentence(asked: ExportJob, engine: Path, trt: nvidia.Behaviour) -> None:
    trt.gpu.fails["cudaMalloc"] = 2
    assert "The GPU's memory ran out while allocating" in opened(asked)
    assert trt.gpu.alive == {}


def test_images_of_another_size_are_refused(asked: ExportJob, engine: Path) -> None:
    with (
        BACKEND.open(Path(asked.path), asked.device) as session,
        pytest.raises(UsageError, match=r"\[2, 3, 32, 32\], not"),
    ):
        session.set_input(np.zeros((1, 3, 32, 32), np.float32))


def test_layers_are_timed_in_runs_of_their_own(asked: ExportJob, engine: Path) -> None:
    layers = BACKEND.profile(Path(asked.path), asked.device, verification.images(asked.shape)[0], 5)
    assert [(layer.name, layer.median_ns) for layer in layers] == [
        ("patch_embed.0/Conv", 1_500_000),
        ("network.0.0.mixer/Conv", 1_000_000),
    ]
    assert layers[1].block == "stages.0.blocks.0"


# --- engines that do not belong here ----------------------------------------------------------------------------------


def test_an_engine_of_another_gpu_is_refused(asked: ExportJob, engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was copied under the name that an engine for this GPU would have."""
    nvidia.install_driver(monkeypatch, nvidia.driver(OTHER))
    assert "UnavailableError" in opened(asked)
    here, _ = BACKEND.engine(Path(asked.path), asked.device)
    engine.rename(here)
    engines.metadata_path(engine).rename(engines.metadata_path(here))
    assert "does not belong here: its compute capability is 7.5, here it is 9.0" in opened(asked)
    twin = dataclasses.replace(nvidia.TURING, uuid="GPU-00000000-0000-0000-0000-000000000003")
    nvidia.install_driver(monkeypatch, nvidia.driver(twin))
    same, _ = BACKEND.engine(Path(asked.path), asked.device)
    here.rename(same)
    engines.metadata_path(here).rename(engines.metadata_path(same))
    assert "its GPU is GPU-00000000-0000-0000-0000-000000000001, here it is" in opened(asked)


def test_an_engine_of_another_version_is_refused(
    asked: ExportJob, engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia.install_tensorrt(monkeypatch, "10.16.1.11")
    here, _ = BACKEND.engine(Path(asked.path), asked.device)
    engine.rename(here)
    engines.metadata_path(engine).rename(engines.metadata_path(here))
    assert "its version of tensorrt is 11.4.0.106, here it is 10.16.1.11" in opened(asked)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda content: content[:100], "ChecksumError: .*is truncated or was changed: it has 100 bytes, and "),
        (lambda content: content[:-1] + b"?", "ChecksumError: .*was changed"),
    ],
)
def test_a_damaged_engine_is_refused_and_built_again(asked: ExportJob, engine: Path, damage: object, said: str) -> None:

    content = engine.read_bytes()
    engine.write_bytes(damage(content))  # type: ignore[operator]
    assert re.match(said, opened(asked))
    BACKEND.build(Path(asked.path), asked.device)
    assert engine.read_bytes() == content
    with BACKEND.open(Path(asked.path), asked.device):
        pass


def test_an_engine_that_nobody_vouches_for_is_refused(asked: ExportJob, engine: Path) -> None:
    engines.metadata_path(engine).write_text("{}")
    assert opened(asked).startswith("UsageError: ")
    engines.metadata_path(engine).unlink()
    assert "was not built by fastvit-bench" in opened(asked)
    engine.unlink()
    assert "does not exist yet" in opened(asked)


DAMAGED = [
    lambda content: b"",
    lambda content: b"[" * 100_000,
    lambda content: content.replace(b"tensorrt", b"tensor\xfft"),
    lambda content: content[:-3] + b',"\x1b]0;PWN\x07":1}',
    lambda content: content.replace(b"{", b'{"size_bytes":' + b"9" * 5000 + b",", 1),
]


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_side_car_of_an_engine_or_its_timings_is_one_sentence(
    asked: ExportJob, engine: Path, damage: Callable[[bytes], bytes]
) -> None:
    notes = engines.metadata_path(engine)
    notes.write_bytes(damage(notes.read_bytes()))
    sentence = opened(asked)
    assert sentence.startswith("UsageError: ")
    assert sentence.endswith("; export the network again.")
    assert sentence.isprintable()
    BACKEND.build(Path(asked.path), asked.device)  # built again
    cache = engines.metadata_path(only(engine.parent, "*.timing"))
    cache.write_bytes(damage(cache.read_bytes()))
    engine.unlink()
    with pytest.raises(ChecksumError, match=r"remove both\.$") as caught:
        BACKEND.build(Path(asked.path), asked.device)
    assert str(caught.value).isprintable()
    assert [path.name for path in engine.parent.iterdir() if path.name[0] == "."] == []


def test_pipes_in_the_place_of_side_cars_are_one_sentence(asked: ExportJob, engine: Path) -> None:
    cache = only(engine.parent, "*.timing")
    for path in (engines.metadata_path(engine), engines.metadata_path(cache), cache):
        path.unlink()
        os.mkfifo(path)
    assert "no regular file" in opened(asked)
    engines.metadata_path(engine).unlink()
    with pytest.raises(ChecksumError, match="no regular file"):
        BACKEND.build(Path(asked.path), asked.device)


def test_an_engine_of_another_file_is_refused(asked: ExportJob, engine: Path) -> None:
    known = engines.read_metadata(engine)
    engines.settle(engine, msgspec.structs.replace(known, onnx_sha256="0" * 64))
    assert "was built from another ONNX file" in opened(asked)
    engines.settle(engine, msgspec.structs.replace(known, settings={"optimization_level": "5", "workspace_mib": "0"}))
    assert "was built from other settings" in opened(asked)


# --- timing caches ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"uuid": "GPU-9"}, "its GPU is GPU-9, here it is GPU-00000000-0000-0000-0000-000000000001"),
        ({"name": "NVIDIA H100"}, "its GPU is NVIDIA H100"),
        ({"driver": "470.1"}, "its driver is 470.1, here it is 580.65"),
    ],
)
def test_a_timing_cache_of_another_card_is_refused(
    asked: ExportJob, engine: Path, changes: dict[str, str], said: str
) -> None:

    cache = only(engine.parent, "*.timing")
    notes = engines.metadata_path(cache)
    known = msgspec.json.decode(notes.read_bytes(), type=TimingCache)
    foreign = msgspec.structs.replace(known, card=msgspec.structs.replace(known.card, **changes))
    notes.write_bytes(msgspec.json.encode(foreign))
    engine.unlink()
    with pytest.raises(UnavailableError, match=f"does not belong here: {said}"):
        BACKEND.build(Path(asked.path), asked.device)
    assert not engine.exists()


def test_a_truncated_timing_cache_is_refused(asked: ExportJob, engine: Path, trt: nvidia.Behaviour) -> None:
    cache = only(engine.parent, "*.timing")
    cache.write_bytes(cache.read_bytes()[:-1])
    engine.unlink()
    with pytest.raises(ChecksumError, match="truncated or was changed; remove it"):
        BACKEND.build(Path(asked.path), asked.device)
    engines.metadata_path(cache).unlink()  # whose it is, nobody knows any more: it counts as none
    BACKEND.build(Path(asked.path), asked.device)
    assert trt.caches[-1] == b""


def test_every_card_driver_and_version_has_a_cache_of_its_own(tmp_path: Path) -> None:
    card = some_card()
    places = [
        engines.EngineTarget("tensorrt", "11.4", card),
        engines.EngineTarget("tensorrt", "11.5", card),
        engines.EngineTarget("tensorrt", "11.4", msgspec.structs.replace(card, driver="590")),
        engines.EngineTarget("tensorrt", "11.4", msgspec.structs.replace(card, uuid="GPU-2")),
    ]
    assert len({engines.timing_cache(tmp_path, place) for place in places}) == 4


def some_card() -> GpuIdentity:
    return GpuIdentity(compute_capability="7.5", name="RTX 2080 Ti", uuid="GPU-1", memory_mib=11264, driver="580")


# --- options and records ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"io": "fp8"}, "io = 'fp8' must be fp16 or fp32"),
        ({"gpu": -2}, "gpu = -2 must be a whole number from -1 to 63"),
        ({"graph": 1}, "graph = 1 must be true or false"),
        ({"graph": True, "cuda_binding": "pycuda"}, "the CUDA binding pycuda knows no CUDA graphs; say --no-graph"),
        ({"sync": "sleep"}, "sync = 'sleep' must be spin or block"),
        ({"cuda_binding": "cupy"}, "cuda_binding = 'cupy' must be cuda-python or pycuda"),
        ({"compute_capability": "75"}, r'must be a text such as "7\.5"'),
        ({"threads": 4}, "unknown option 'threads'. Known: compute_capability, cuda_binding"),
        ({"gpu": True}, "must be a whole number"),
        ({"optimization_level": 6}, "from 0 to 5"),
        ({"workspace_mib": "4G"}, "workspace_mib = '4G'"),
        ({"input": "photo"}, "input = 'photo' must be tensor or image"),
        ({"input": "image", "dynamic": "32..64"}, "a file of several sizes takes tensors; leave its input at tensor"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, str | int | float | bool], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        BACKEND.options(Device(name="x", backend="tensorrt", precision="fp16", options=options))


def test_half_io_of_a_single_precision_file_is_refused() -> None:
    with pytest.raises(UsageError, match="io = 'fp16' must be fp32"):
        BACKEND.options(Device(name="x", backend="tensorrt", precision="fp32", options={"io": "fp16"}))


def test_single_precision_io_is_another_artifact(tmp_path: Path) -> None:
    assert job(tmp_path).path != job(tmp_path, options={"io": "fp32"}).path
    assert job(tmp_path).path == job(tmp_path, options={"gpu": 1}).path


def test_the_engine_s_record_survives_json(engine: Path) -> None:
    known = engines.read_metadata(engine)
    engines.settle(engine, msgspec.structs.replace(known, parity=builders.parity()))
    again = engines.read_metadata(engine)
    assert again.parity == builders.parity()
    assert isinstance(again, Engine)
    assert msgspec.structs.replace(again, parity=None) == known
