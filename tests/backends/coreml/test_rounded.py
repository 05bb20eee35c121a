"""Packages with 8-bit weights and activations: proved bit for bit in FP32, and faults that are planted in them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import builders
import msgspec
import numpy as np
import pytest
import torch
from fakes import coreai_opt
from torch import nn

from fastvit_bench import backends
from fastvit_bench.backends import _eight_bits, coreml
from fastvit_bench.backends.coreml import quantise
from fastvit_bench.backends.coreml.rounded import RoundedActivation, settle
from fastvit_bench.errors import ParityError, UnavailableError, UsageError
from fastvit_bench.exporting import rounding, verification
from fastvit_bench.network import factory, registry
from fastvit_bench.records import CalibrationImages, Device, ExportJob, Head, Parity, Shape

BACKEND = backends.get("coreml")
SHAPE = Shape(batch=1, height=16, width=16)
IMAGES = list(np.random.default_rng(1).standard_normal((5, 3, 16, 16), np.float32))


class Small(nn.Module):
    """Convolutions around a sum of two activations with very different steps, and a classifier of four classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.next, self.last = nn.Conv2d(3, 24, 3), nn.Conv2d(24, 24, 3, padding=1), nn.Linear(24, 4)
        with torch.no_grad():
            self.next.weight *= 0.3
        self.image, self.middle, self.left, self.right, self.sum = (nn.Identity() for _ in range(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(self.image(x))
        y = self.next(self.middle(torch.nn.functional.gelu(x)))
        return self.last(self.sum(self.left(x) + self.right(y)).mean((2, 3)))


@pytest.fixture
def quantiser(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for coreai-opt, which is no part of the development install."""
    coreai_opt.install(monkeypatch)


def asked(form: str = "tensor", **changes: Any) -> ExportJob:
    device = Device(name="coreml", backend="coreml", precision="w8a8", options={"input": form})
    images = CalibrationImages(folder="images", pictures=(), chosen=builders.calibration_set())
    options = {"input": form, "attention": "standard", "compress": "none"}
    return builders.export_job(
        backend="coreml",
        precision="w8a8",
        classes=4,
        shape=SHAPE,
        device=Device(name="coreml", backend="coreml", precision="w8a8", options=BACKEND.options(device)),
        options=options,
        calibration=images,
        **changes,
    )


def proofs(written: nn.Module, known: nn.Module, job: ExportJob, path: Path) -> dict[str, Parity]:
    """The proofs of a network's package against a rounded network, by name."""
    BACKEND.export(written, job, path, {})
    how, std = registry.preparation_of(job), BACKEND.layout(job).std
    reference = factory.Reference(known, Head.CLASSIFIER, 4, "fused")
    result: dict[str, Parity] = {}
    for look in BACKEND.verification_sessions(path, job):
        with look.session as session:
            outputs = rounding.outputs(known, reference, SHAPE, session.images, how, std)
            result[look.name] = verification.prove(
                outputs, session, look.precision or job.precision, how=look.how, subject=look.subject
            )
    return result


@pytest.mark.usefixtures("quantiser")
@pytest.mark.parametrize("form", ["tensor", "image"])
def test_a_package_computes_in_fp32_exactly_what_its_rounded_network_does(form: str, tmp_path: Path) -> None:
    job = asked(form)
    rounded, scheme = quantise.rounded(Small(), job, IMAGES)
    assert scheme.integer == {"add": 1, "conv2d": 2, "mean": 1}
    assert scheme.floating == {"gelu": 1, "linear": 1}
    found = proofs(rounded, rounded, job, tmp_path / "a.mlpackage")
    assert found["own rounded network"].snr_db == verification.EXACT_DB
    assert found["own rounded network, FP16"].passed
    kinds = BACKEND.operations(tmp_path / "a.mlpackage")
    assert (kinds["quantize"], kinds["dequantize"]) == (5, 5)
    # without the images, as `verify` has it, the outputs may come from another processor
    stored = list(
        BACKEND.verification_sessions(tmp_path / "a.mlpackage", msgspec.structs.replace(job, calibration=None))
    )
    assert [look.name for look in stored] == ["own rounded network, FP16"]


def other_step(network: nn.Module) -> None:
    (activation, *_) = [module for module in network.modules() if isinstance(module, RoundedActivation)]
    activation.step = float(np.nextafter(np.float16(activation.step), np.float16(1)))


def flipped_weight(network: nn.Module) -> None:
    with torch.no_grad():
        network.get_parameter("next.weight")[3, 2, 1, 1] *= -1


def dropped_bias(network: nn.Module) -> None:
    with torch.no_grad():
        network.get_parameter("next.bias").zero_()


@pytest.mark.usefixtures("quantiser")
@pytest.mark.parametrize("plant", [other_step, flipped_weight, dropped_bias])
def test_a_planted_fault_fails_in_fp32(plant: Callable[[nn.Module], None], tmp_path: Path) -> None:
    """One step is off by one in its last digit; in FP16 alone it would pass."""
    job = asked()
    rounded, _ = quantise.rounded(Small(), job, IMAGES)
    other, _ = quantise.rounded(Small(), job, IMAGES)
    plant(other)
    assert not proofs(other, rounded, job, tmp_path / "a.mlpackage")["own rounded network"].passed


@pytest.mark.usefixtures("quantiser")
def test_sums_are_not_brought_to_one_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass of coremltools rounds the quotient of two steps to FP16, and activations fall to other steps."""
    job = asked()
    rounded, _ = quantise.rounded(Small(), job, IMAGES)
    monkeypatch.setattr(quantise, "UNWANTED_PASSES", set[str]())
    assert not proofs(rounded, rounded, job, tmp_path / "a.mlpackage")["own rounded network"].passed


@pytest.mark.usefixtures("quantiser")
def test_a_weight_that_the_converter_changes_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = asked()
    rounded, _ = quantise.rounded(Small(), job, IMAGES)
    check = coreml._check_rounded

    def tampered(path: Path, network: nn.Module) -> None:
        flipped_weight(network)
        check(path, network)

    monkeypatch.setattr(coreml, "_check_rounded", tampered)
    with pytest.raises(ParityError, match=r"coremltools changed the weights next\.weight"):
        BACKEND.export(rounded, job, tmp_path / "a.mlpackage", {})
    assert list(tmp_path.iterdir()) == []


def test_steps_beyond_fp16_are_refused() -> None:
    network = nn.Sequential()
    network.add_module("activation", nn.Module())
    for name in ("quantize", "dequantize"):
        network.get_submodule("activation").add_module(name, nn.Module())
    network.get_submodule("activation.quantize").register_buffer("scale", torch.tensor(1e-9))
    with pytest.raises(ParityError, match="do not fit into FP16; use --precision fp16"):
        settle(network)


def test_halves_go_to_the_even_step_and_the_grid_ends_at_both_sides() -> None:
    values = torch.tensor([0.5, 1.5, -0.5, -300.0, 300.0])
    assert RoundedActivation(1.0)(values).tolist() == [0.0, 2.0, 0.0, -128.0, 127.0]


@pytest.mark.usefixtures("quantiser")
def test_activations_need_images() -> None:
    with pytest.raises(UsageError, match=r"W8A8 needs images .* --calibration DIR"):
        quantise.rounded(Small(), asked(), [])


@pytest.mark.usefixtures("quantiser")
def test_what_the_quantiser_raises_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*words: Any) -> None:
        raise RuntimeError("no such operator.\ndetails")

    monkeypatch.setattr(coreai_opt.Quantizer, "prepare", fail)
    with pytest.raises(UnavailableError, match=r"^coreai-opt cannot round fastvit_t8 16: no such operator\.$"):
        quantise.rounded(Small(), asked(), IMAGES)


def test_a_bare_installation_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_eight_bits.importlib.util, "find_spec", lambda name: None)
    reason = quantise.unavailable_reason("w8a8")
    assert reason is not None
    assert "coreai-opt is not installed, and w8a8 needs it; run:" in reason
    assert quantise.unavailable_reason("fp16") is None
