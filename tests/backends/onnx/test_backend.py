"""A whole backend whose files are ONNX, in as few lines as one takes, and what it gets from its base."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import builders
import numpy as np
import pytest
import torch
from torch import nn

from fastvit_bench.backends import INPUT, Session
from fastvit_bench.backends._onnx.backend import OnnxFileBackend
from fastvit_bench.errors import UsageError
from fastvit_bench.exporting import verification
from fastvit_bench.records import Device, ExportJob, Shape, Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastvit_bench.backends import Batch

SHAPE = Shape(batch=1, height=16, width=16)


class ReferenceSession(Session):
    """A file in ONNX's own evaluator, written in Python and NumPy."""

    window = Window.COMPUTE

    def __init__(self, path: Path) -> None:
        from onnx.reference import ReferenceEvaluator

        self._evaluator: Any = ReferenceEvaluator(str(path))

    def set_input(self, images: "Batch") -> None:
        self._images = images.astype(np.float32)

    def run(self) -> None:
        self._outputs = self._evaluator.run(None, {INPUT: self._images})

    def wait(self) -> None:
        pass

    def get_output(self) -> "dict[str, NDArray[np.floating]]":
        return dict(zip(self._evaluator.output_names, self._outputs, strict=True))


class Reference(OnnxFileBackend):
    name = "reference"
    target = "reference"
    suffix = ".reference.onnx"
    product = "ONNX's evaluator"
    distribution = "onnx"
    precisions = ("fp32",)

    @contextmanager
    def open(self, path: Path, device: Device) -> Generator[Session]:
        yield ReferenceSession(path)


def asked(precision: str = "fp32") -> ExportJob:
    return builders.export_job(backend="reference", precision=precision, shape=SHAPE)


def test_it_exports_proves_counts_and_runs(tmp_path: Path) -> None:
    backend, path = Reference(), tmp_path / "x.reference.onnx"
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()).double().eval()
    backend.export(network, asked(), path, {"fastvit_bench.variant": "tiny"})
    assert backend.metadata(path)["fastvit_bench.variant"] == "tiny"
    assert backend.operations(path)["Conv"] == 1
    traffic = backend.traffic(path, SHAPE)
    assert traffic is not None
    assert traffic.params == 3 * 4 * 9 + 4
    (proof,) = backend.verification_sessions(path, asked())
    assert proof.how == "ONNX Runtime on this processor, not ONNX's evaluator"
    images = verification.images(SHAPE, ReferenceSession.images)[0]
    with torch.no_grad():
        expected = network(torch.from_numpy(images).double()).numpy()
    device = Device(name="here", backend="reference", options=backend.options(Device(name="here", backend="reference")))
    for opened in (proof.session, backend.open(path, device)):
        with opened as session:
            session.set_input(images)
            session.run()
            session.wait()
            np.testing.assert_allclose(session.get_output()["logits"], expected, atol=1e-5)


def test_its_defaults_are_those_of_a_runtime_on_the_processor() -> None:
    backend = Reference()
    device = Device(name="here", backend="reference")
    assert backend.options(device)["threads"] >= 1
    assert (
        backend.unavailable_reason()
        is backend.device_unavailable_reason(device)
        is backend.detect_hardware(device)
        is None
    )
    assert backend.runtime_packages(device) == ("onnx",)
    assert backend.warmup_policy(device) == {}


def test_what_it_cannot_do_is_one_sentence(tmp_path: Path) -> None:
    backend = Reference()
    device = Device(name="here", backend="reference")
    with pytest.raises(UsageError, match="files are in fp32, not in fp16"):
        backend.export(nn.Identity(), asked("fp16"), tmp_path / "x", {})
    with pytest.raises(UsageError, match="reports no times of layers"):
        backend.profile(tmp_path / "x", device, np.zeros(SHAPE.nchw, np.float32), 1)
    with pytest.raises(UsageError, match="unknown option 'treads'"):
        backend.options(Device(name="here", backend="reference", options={"treads": 1}))
