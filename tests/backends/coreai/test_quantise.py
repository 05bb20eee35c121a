"""8-bit weights and activations: rounded networks, the proof of their files, and faults planted in those."""

import copy
from pathlib import Path
from typing import Any

import builders
import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from fastvit_bench import backends
from fastvit_bench.backends import _eight_bits
from fastvit_bench.backends.coreai import convert, quantise
from fastvit_bench.errors import ParityError, UsageError
from fastvit_bench.records import Device, ExportJob, Shape
from fastvit_bench.records.preparation import UNNORMALISED

BACKEND = backends.get("coreai")
SHAPE = Shape(batch=2, height=16, width=16)
needs_packages = pytest.mark.skipif(
    BACKEND.unavailable_reason(Device(name="x", backend="coreai", precision="w8")) is not None,
    reason="Apple's packages are not installed",
)


def asked(precision: str, images: str = "tensor") -> ExportJob:
    device = Device(name="x", backend="coreai", precision=precision, options={"input": images})
    shape = SHAPE if images == "tensor" else msgspec.structs.replace(SHAPE, batch=1)
    return builders.export_job(
        backend="coreai", precision=precision, shape=shape, device=device, options={"input": images}
    )


class Small(nn.Module):
    """Two convolutions, GELU and a classifier of four classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.next, self.last = nn.Conv2d(3, 24, 3), nn.Conv2d(24, 40, 3, 2), nn.Linear(40, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(torch.nn.functional.gelu(self.next(self.conv(x))).mean((2, 3)))


IMAGES = list(np.random.default_rng(1).standard_normal((5, 3, 16, 16), np.float32))


def test_activations_need_images() -> None:
    with pytest.raises(UsageError, match=r"W8A8 needs images .* --calibration DIR"):
        quantise.rounded(Small(), asked("w8a8"), [])


def test_files_of_other_precisions_need_no_quantiser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_eight_bits.importlib.util, "find_spec", lambda name: None)
    assert quantise.unavailable_reason("fp16") is None
    reason = quantise.unavailable_reason("w8a8")
    assert reason is not None
    assert "coreai-opt is not installed, and w8a8 needs it; run:" in reason


@needs_packages
@pytest.mark.slow
def test_weights_lie_on_the_steps_of_their_channel() -> None:
    network = Small().double().eval()
    rounded, scheme = quantise.rounded(network, asked("w8"), [])
    weights, exact = rounded.get_submodule("conv").weight.detach(), network.conv.weight.detach().float()
    steps = exact.abs().amax((1, 2, 3), keepdim=True) / 127
    assert float(((weights - exact).abs() / steps).max()) <= 0.51
    assert len(weights[0].unique()) < len(exact[0].unique()) or exact[0].numel() < 255
    assert not torch.equal(weights, exact)
    assert scheme.integer == {}
    assert scheme.calibration is None


@needs_packages
@pytest.mark.slow
@pytest.mark.parametrize(("precision", "images"), [("w8", "tensor"), ("w8a8", "tensor"), ("w8a8", "image")])
def test_a_file_in_8_bits_is_proved_and_small(precision: str, images: str, tmp_path: Path) -> None:
    job = asked(precision, images)
    rounded, scheme = quantise.rounded(Small(), job, IMAGES if precision == "w8a8" else [])
    if precision == "w8a8":
        assert scheme.integer["conv2d"] == 3
        assert scheme.activations == "int8 symmetric per tensor"
    BACKEND.export(rounded, job, tmp_path / "a.aimodel", {})
    kinds = BACKEND.operations(tmp_path / "a.aimodel")
    assert kinds["blockwise_shift_scale"] == 3
    assert ("quantize" in kinds) is (precision == "w8a8")
    BACKEND.export(rounded, job, tmp_path / "again.aimodel", {})
    for name in ("main.mlirb", "metadata.json"):
        assert (tmp_path / "a.aimodel" / name).read_bytes() == (tmp_path / "again.aimodel" / name).read_bytes()


@needs_packages
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["w8", "w8a8"])
def test_pixels_are_prepared_as_the_network_was_trained(precision: str, tmp_path: Path) -> None:
    job = msgspec.structs.replace(asked(precision, "image"), preparation=UNNORMALISED)
    rounded, _ = quantise.rounded(Small(), job, IMAGES if precision == "w8a8" else [])
    BACKEND.export(rounded, job, tmp_path / "a.aimodel", {})  # its FP32 twin computes what the network does


def other_bias(network: nn.Module) -> None:
    with torch.no_grad():
        network.get_parameter("next.bias")[3] += 0.5


def other_integer(network: nn.Module) -> None:
    ((_, weights), *_) = [item for item in network.named_buffers() if item[0].endswith("quantized_data")]
    weights[0, 0, 0, 0] += 1


@needs_packages
@pytest.mark.slow
def test_a_graph_that_computes_something_else_fails_the_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All weights and steps are there, and one step of the program is not the network's."""
    job, write = asked("w8a8"), convert.write
    rounded, _ = quantise.rounded(Small(), job, IMAGES)

    def without_gelu(network: nn.Module, job: ExportJob, path: Path) -> None:
        monkeypatch.setattr(torch.nn.functional, "gelu", torch.nn.functional.silu)
        write(network, job, path)
        monkeypatch.undo()
        monkeypatch.setattr(convert, "write", without_gelu)

    monkeypatch.setattr(convert, "write", without_gelu)
    with pytest.raises(ParityError, match="does not compute what its rounded network computes"):
        BACKEND.export(rounded, job, tmp_path / "a.aimodel", {})


@needs_packages
@pytest.mark.slow
@pytest.mark.parametrize("half", [True, False])
@pytest.mark.parametrize("plant", [other_bias, other_integer])
def test_another_network_in_the_file_fails_the_proof(
    plant: Any, half: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the file itself, and in the twin in FP32 that stands for it."""
    job, write = asked("w8a8"), convert.write
    rounded, _ = quantise.rounded(Small(), job, IMAGES)

    def tampered(network: nn.Module, job: ExportJob, path: Path) -> None:
        network = copy.deepcopy(network)
        if not half or job.precision != "fp32":
            plant(network)
        write(network, job, path)

    monkeypatch.setattr(convert, "write", tampered)
    why = "changed a weight or a step" if half else "changed the weights"
    with pytest.raises(ParityError, match=why):
        BACKEND.export(rounded, job, tmp_path / "a.aimodel", {})
    assert list(tmp_path.iterdir()) == []
