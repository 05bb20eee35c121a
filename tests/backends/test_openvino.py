"""OpenVINO: the precision that runs is the one asked for, and nothing is written or sent outside."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import builders
import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from fastvit_bench.backends import Images, openvino
from fastvit_bench.backends.openvino import BACKEND
from fastvit_bench.errors import UnavailableError
from fastvit_bench.exporting import verification
from fastvit_bench.records import Device, ExportJob, Head, Shape

if lacking := BACKEND.unavailable_reason():  # and not by importing it: the backend leaves its telemetry out
    pytest.skip(lacking, allow_module_level=True)

SHAPE = Shape(batch=1, height=32, width=32)
BF16 = pytest.mark.skipif(openvino._without_bf16() is not None, reason="this processor has no BF16 arithmetic to run")


def device(precision: str = "fp32", **options: int) -> Device:
    bare = Device(name="here", backend="openvino", precision=precision, options=options)
    return msgspec.structs.replace(bare, options=BACKEND.options(bare))


def asked(precision: str) -> ExportJob:
    return builders.export_job(
        backend="openvino", precision=precision, shape=SHAPE, device=device(precision, threads=1)
    )


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 16, 3, 2, 1), nn.GELU(), nn.Conv2d(16, 32, 1), nn.GELU(), nn.AdaptiveAvgPool2d(1))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32, 10)).double().eval()


@pytest.fixture(scope="module")
def path(network: nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file for BF16, which is one for FP32 but for its metadata; read only."""
    path = tmp_path_factory.mktemp("openvino") / "small.openvino.onnx"
    BACKEND.export(network, asked("bf16"), path, {"fastvit_bench.precision": "bf16"})
    return path


def test_a_bf16_file_stores_float32_and_moves_half_the_bytes(path: Path, tmp_path: Path) -> None:
    model = onnx.load(path)
    kinds = {tensor.data_type for tensor in model.graph.initializer}
    assert TensorProto.FLOAT in kinds
    assert kinds.isdisjoint({TensorProto.FLOAT16, TensorProto.BFLOAT16})
    helper.set_model_props(model, {"fastvit_bench.precision": "fp32"})
    onnx.save(model, tmp_path / "wide.openvino.onnx")
    narrow, wide = BACKEND.traffic(path, SHAPE), BACKEND.traffic(tmp_path / "wide.openvino.onnx", SHAPE)
    assert wide is not None
    assert narrow is not None
    assert narrow.macs == wide.macs > 0
    assert narrow.weight_bytes * 2 == wide.weight_bytes
    assert narrow.read_bytes * 2 == wide.read_bytes
    assert narrow.written_bytes * 2 == wide.written_bytes


def test_layers_have_times_and_kernels(path: Path) -> None:
    images = np.zeros(SHAPE.nchw, np.float32)
    layers = BACKEND.profile(path, device(threads=1), images, runs=3)
    kernels = [layer.kind for layer in layers if layer.kind.startswith(("Convolution", "FullyConnected"))]
    assert len(kernels) == 3
    assert all(kernel.endswith(" f32") for kernel in kernels)
    assert all(layer.median_ns >= 0 for layer in layers)
    assert len({layer.name for layer in layers}) == len(layers)
    assert BACKEND.unprofiled(device()) is None


@BF16
def test_bf16_kernels_compute_bf16(path: Path) -> None:
    layers = BACKEND.profile(path, device("bf16", threads=1), np.ones(SHAPE.nchw, np.float32), runs=1)
    kernels = [layer.kind for layer in layers if layer.kind.startswith(("Convolution", "FullyConnected"))]
    assert len(kernels) == 3
    assert all(kernel.endswith(" bf16") for kernel in kernels)


@BF16
def test_sessions_of_two_precisions_differ_by_rounding(network: nn.Module, path: Path) -> None:
    images = np.random.default_rng(0).standard_normal(SHAPE.nchw, np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(images).double()).numpy()
    errors: dict[str, float] = {}
    for precision in BACKEND.precisions:
        with BACKEND.open(path, device(precision, threads=1)) as session:
            for each in (session, session.clone()):
                each.set_input(images)
                each.run()
                each.wait()
                errors[precision] = float(np.abs(each.get_output()["logits"] - expected).max() / expected.std())
    assert errors["fp32"] < 1e-5
    assert 1e-4 < errors["bf16"] < 2.0**-5


@pytest.mark.parametrize("flags", ["avx512f avx512_vnni", ""])
def test_bf16_without_its_instructions_is_refused(
    flags: str, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nflags\t\t: fpu {flags}\nbugs\t\t:\n", encoding="utf-8")
    monkeypatch.setattr(openvino, "CPUINFO", cpuinfo)
    reason = BACKEND.unavailable_reason(device("bf16"))
    assert reason == BACKEND.device_unavailable_reason(device("bf16"))
    assert reason == "this processor has no BF16 arithmetic (amx_bf16 or avx512_bf16); use --precision fp32"
    assert BACKEND.unavailable_reason(device("fp32")) is None
    monkeypatch.setattr(openvino, "CPUINFO", tmp_path / "none")
    assert BACKEND.device_unavailable_reason(device("bf16")) == reason
    with pytest.raises(
        UnavailableError, match=r"^small\.openvino\.onnx cannot run in BF16: .*; use --precision fp32\.$"
    ):
        BACKEND.open(path, device("bf16", threads=1)).__enter__()
    for flag in ("avx512_bf16", "amx_bf16"):
        cpuinfo.write_text(f"flags\t\t: fpu {flag}\n", encoding="utf-8")
        monkeypatch.setattr(openvino, "CPUINFO", cpuinfo)
        assert BACKEND.device_unavailable_reason(device("bf16")) is None


def quantised(path: Path) -> Path:
    """A convolution between integers, whose arithmetic is INT8 whatever precision is asked for."""
    weights = np.random.default_rng(0).integers(-127, 127, (8, 8, 1, 1), np.int8)
    constants = {"step": np.float32(0.1), "zero": np.uint8(128), "weights": weights, "even": np.int8(0)}
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "step", "zero"], ["bytes"]),
        helper.make_node("DequantizeLinear", ["bytes", "step", "zero"], ["values"]),
        helper.make_node("DequantizeLinear", ["weights", "step", "even"], ["kernel"]),
        helper.make_node("Conv", ["values", "kernel"], ["logits"]),
    ]
    faces = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 8, 32, 32])] for name in ("image", "logits")]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    model = helper.make_model(helper.make_graph(nodes, "quantised", *faces, tensors))
    model.opset_import[0].version, model.ir_version = 20, 10
    onnx.save(model, path)
    return path


def test_arithmetic_of_another_precision_is_refused(tmp_path: Path) -> None:
    path = quantised(tmp_path / "q.openvino.onnx")
    with (
        pytest.raises(UnavailableError, match=r"1 of 1 convolutions .* in [iu]8, not in f32, .* not be FP32\.$"),
        BACKEND.open(path, device(threads=1)),
    ):
        pass


def test_more_threads_than_processors_are_refused(path: Path) -> None:
    many = (os.cpu_count() or 1) + 7
    with (
        pytest.raises(UnavailableError, match=rf"threads, not {many}; set `threads` to"),
        BACKEND.open(path, device(threads=many)),
    ):
        pass


def test_a_file_that_only_openvino_refuses_is_one_sentence(tmp_path: Path) -> None:
    node = helper.make_node("NoSuchOperator", ["image"], ["logits"])
    faces = [[helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])] for name in ("image", "logits")]
    onnx.save(helper.make_model(helper.make_graph([node], "odd", *faces)), tmp_path / "odd.openvino.onnx")
    with (
        pytest.raises(UnavailableError, match=r"^OpenVINO cannot load odd\.openvino\.onnx: .*NoSuchOperator") as caught,
        BACKEND.open(tmp_path / "odd.openvino.onnx", device(threads=1)),
    ):
        pass
    assert "\n" not in str(caught.value)


def test_nothing_is_written_into_the_home_folder(path: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from pathlib import Path
from fastvit_bench.backends import openvino
from fastvit_bench.records import Device
assert "openvino" not in sys.modules
device = Device(name="here", backend="openvino", options={{"threads": 1}})
with openvino.BACKEND.open(Path({str(path)!r}), device) as session:
    session.run()
assert "openvino" in sys.modules
assert sys.modules["openvino_telemetry"] is None
assert sys.modules["openvino.tools.ovc.telemetry_utils"].tm.__name__.endswith("stub")
"""
    environment = {name: value for name, value in os.environ.items() if name != "CI"}  # there it keeps still by itself
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.iterdir()) == []


def rounded(path: Path, bits: int, folder: Path) -> Path:
    """The file with weights of so many significant bits."""
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            mantissas, exponents = np.frexp(numpy_helper.to_array(tensor))
            values = np.ldexp(np.round(mantissas * 2.0**bits) / 2.0**bits, exponents)
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
    onnx.save(model, folder / f"{bits}.openvino.onnx")
    return folder / f"{bits}.openvino.onnx"


def without_a_bias(path: Path, folder: Path) -> Path:
    """The file with one value of one bias gone."""
    model = onnx.load(path)
    bias = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [32])
    values = numpy_helper.to_array(bias).copy()
    values[np.abs(values).argmin()] = 0  # the least one
    bias.CopyFrom(numpy_helper.from_array(values, bias.name))
    onnx.save(model, folder / "faulty.openvino.onnx")
    return folder / "faulty.openvino.onnx"


@BF16
def test_planted_faults_fail_one_of_the_two_proofs(network: nn.Module, path: Path, tmp_path: Path) -> None:
    outputs: list[dict[str, Any]] = []
    for images in verification.images(SHAPE):
        with torch.no_grad():
            outputs.append({"logits": network(torch.from_numpy(images).double()).numpy()})
    known = verification.ReferenceOutputs(Images.TENSOR, SHAPE, Head.CLASSIFIER, "the network", tuple(outputs))

    def passed(file: Path) -> list[bool]:
        """Of the file in FP32, and of its rounding in BF16."""
        results: list[bool] = []
        for look in BACKEND.verification_sessions(file, asked("bf16")):
            with look.session as session:
                precision = look.precision or "bf16"
                results.append(verification.prove(known, session, precision, subject=look.subject).passed)
        return results

    assert passed(path) == [True, True]
    assert passed(without_a_bias(path, tmp_path)) == [False, True]  # below what BF16 itself rounds
    assert passed(rounded(path, 8, tmp_path)) == [False, True]
    assert passed(rounded(path, 3, tmp_path)) == [False, False]  # arithmetic of 8-bit floats is not BF16's
