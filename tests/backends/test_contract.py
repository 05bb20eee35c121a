"""What every backend must do; a new file in backends/ is picked up by itself."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import builders
import msgspec
import numpy as np
import pytest
import torch
from torch import nn

from fastvit_bench import backends, files
from fastvit_bench.backends import Backend, Images, Session
from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.records import Device, ExportJob, Shape, Window

SHAPE = Shape(batch=2, height=8, width=16)


class Tiny(nn.Module):
    """A network with one output per image, exact in every precision."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((1, 2, 3)).reshape(-1, 1)


class Forked(nn.Module):
    """A network with two outputs."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x + 1, x * 2


# the one shares its files with TensorRT, the other starts a process a session; both have tests of their own
SELDOM = {"tensorrt-rtx", "coreai"}
OFTEN = [pytest.param(name, marks=pytest.mark.slow if name in SELDOM else ()) for name in backends.implemented()]


@pytest.fixture(scope="module", params=OFTEN)
def backend(request: pytest.FixtureRequest) -> Backend:
    found = backends.get(request.param)
    lacking = found.unavailable_reason()
    if lacking:
        pytest.skip(lacking)
    return found


@pytest.fixture(scope="module")
def device(backend: Backend) -> Device:
    bare = Device(name="test", backend=backend.name, precision=backend.precisions[0], batch=SHAPE.batch)
    return msgspec.structs.replace(bare, options=backend.options(bare))


def asked(backend: Backend, device: Device, **changes: Any) -> ExportJob:
    options = backends.shaping_options(backend, device.options)
    usual = {"backend": backend.name, "precision": device.precision, "shape": SHAPE, "device": device}
    return builders.export_job(**(usual | {"options": options} | changes))


def export(backend: Backend, device: Device, network: nn.Module, folder: Path) -> Path:
    path = folder / f"tiny{backend.suffix}"
    backend.export(network.double().eval(), asked(backend, device), path, {"fastvit_bench.variant": "tiny"})
    return path


@pytest.fixture(scope="module")
def tiny(backend: Backend, device: Device, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of `Tiny`; read only."""
    return export(backend, device, Tiny(), tmp_path_factory.mktemp("tiny"))


def sessions(backend: Backend, device: Device, path: Path) -> Iterator[Session]:
    """The file as its proof sees it and, where it can be run here, as it is timed."""
    for look in backend.verification_sessions(path, asked(backend, device)):
        assert look.shape == SHAPE
        assert look.how
        with look.session as session:
            yield session
    if backend.device_unavailable_reason(device) is None:
        with backend.open(path, device) as session:
            yield session


def test_describes_itself(backend: Backend) -> None:
    assert backend.name in backends.implemented()
    assert backend.suffix.startswith(".")
    assert backend.precisions
    assert set(backend.export_options) <= set(backend.flags)
    assert set(backends.toolchain(backend)) == set(backend.packages)
    assert backends.of_target(backend.target) is backend
    assert backends.of_file(Path(f"x{backend.suffix}")) is backend


def test_times_of_layers_that_are_not_told_are_refused_in_the_same_words(backend: Backend, device: Device) -> None:
    refusal = backend.unprofiled(device)
    if refusal is None:
        pytest.skip("it tells them")
    assert refusal.endswith("leave --profile out.") or "leave --profile out," in refusal
    with pytest.raises(UsageError) as caught:
        backend.profile(Path("x"), device, np.zeros(SHAPE.nchw, np.float32), 1)
    assert str(caught.value) == refusal


def test_a_session_computes_what_the_network_computes(backend: Backend, device: Device, tiny: Path) -> None:
    images = np.random.default_rng(0).standard_normal(SHAPE.nchw, np.float32)
    precise = {"fp32": 1e-5, "fp16": 1e-3}[device.precision]
    for session in sessions(backend, device, tiny):
        assert session.window in Window
        assert session.images is Images.TENSOR
        for scale in (1, 3):  # the second feed must reach the second run
            session.set_input(images * scale)
            session.run()
            session.wait()
            outputs = session.get_output()
            assert list(outputs) == ["logits"]
            np.testing.assert_allclose(
                outputs["logits"][:, 0], scale * images.mean((1, 2, 3)), rtol=precise, atol=precise
            )


def test_fetched_outputs_outlive_the_next_run(backend: Backend, device: Device, tiny: Path) -> None:
    for session in sessions(backend, device, tiny):
        session.set_input(np.ones(SHAPE.nchw, np.float32))
        session.run()
        session.wait()
        first = session.get_output()["logits"]
        session.set_input(np.zeros(SHAPE.nchw, np.float32))
        session.run()
        session.wait()
        np.testing.assert_array_equal(first, np.ones((2, 1), np.float32))


def test_a_batch_stays_the_callers(backend: Backend, device: Device, tiny: Path) -> None:
    for session in sessions(backend, device, tiny):
        first = np.ones(SHAPE.nchw, np.float32)
        session.set_input(first)
        session.set_input(np.zeros(SHAPE.nchw, np.float32))
        np.testing.assert_array_equal(first, np.ones(SHAPE.nchw, np.float32))


def test_several_outputs_are_feature_maps(backend: Backend, device: Device, tmp_path: Path) -> None:
    path = export(backend, device, Forked(), tmp_path)
    for session in sessions(backend, device, path):
        session.set_input(np.ones(SHAPE.nchw, np.float32))
        session.run()
        session.wait()
        outputs = session.get_output()
        assert list(outputs) == ["feature0", "feature1"]
        assert outputs["feature0"].shape == SHAPE.nchw


def test_a_batch_of_another_shape_is_refused(backend: Backend, device: Device, tiny: Path) -> None:
    for session in sessions(backend, device, tiny):
        with pytest.raises(UsageError, match=r"\[1, 3, 8, 16\]"):
            session.set_input(np.ones((1, 3, 8, 16), np.float32))


def test_the_file_says_what_it_was_told(backend: Backend, tiny: Path) -> None:
    assert backend.metadata(tiny)["fastvit_bench.variant"] == "tiny"
    assert sum(backend.operations(tiny).values()) >= 1


def test_the_network_handed_over_is_left_as_it_was(backend: Backend, device: Device, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.LazyLinear(1)).double().eval()
    network(torch.zeros(SHAPE.nchw).double())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    export(backend, device, network, tmp_path)
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float64}
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


@pytest.mark.slow
def test_exporting_twice_gives_the_same_bytes(backend: Backend, device: Device, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GELU(), nn.Flatten(), nn.Linear(4 * 8 * 16, 1))
    digests: set[str] = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        digests.add(files.sha256(export(backend, device, network, tmp_path / name)))
    assert len(digests) == 1


@pytest.mark.slow
def test_a_failed_export_leaves_nothing(backend: Backend, device: Device, tmp_path: Path) -> None:
    class Unexportable(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.svdvals(x).sum((1, 2)).reshape(-1, 1)

    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("a network that cannot run")

    for name, network in (("unexportable", Unexportable()), ("broken", Broken())):
        folder = tmp_path / name
        folder.mkdir()
        with contextlib.suppress(Exception):
            export(backend, device, network, folder)
            continue  # one toolkit's unexportable is another's operator
        assert list(folder.iterdir()) == []


def test_wrong_options_and_precisions_are_refused(backend: Backend, device: Device, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown option 'treads'"):
        backend.options(Device(name="cpu", backend=backend.name, options={"treads": 2}))
    with pytest.raises(UsageError, match="not in fp8"):
        backend.export(Tiny(), asked(backend, device, precision="fp8"), tmp_path / f"x{backend.suffix}", {})


def test_a_damaged_file_is_one_sentence(backend: Backend, device: Device, tmp_path: Path) -> None:
    path = tmp_path / f"broken{backend.suffix}"
    path.write_bytes(b"no model")
    for read in (backend.metadata, backend.operations):
        with pytest.raises(UnavailableError, match="cannot load broken") as caught:
            read(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(UnavailableError, match="cannot load broken") as caught:
        next(sessions(backend, device, path))
    assert "\n" not in str(caught.value)


def test_pipes_and_devices_are_one_sentence(backend: Backend, device: Device, tmp_path: Path) -> None:
    pipe, link = (tmp_path / f"broken-{name}{backend.suffix}" for name in ("pipe", "link"))
    os.mkfifo(pipe)
    link.symlink_to("/dev/zero")
    for path in (pipe, link):
        for read in (backend.metadata, backend.operations, lambda path: next(sessions(backend, device, path))):
            with pytest.raises(UnavailableError, match="cannot load broken"):
                read(path)


def test_an_engine_that_cannot_be_built_here_is_one_sentence(backend: Backend, device: Device) -> None:
    lacking = backend.engines.lacking(device) if backend.engines else None
    assert lacking is None or "\n" not in lacking


def test_a_backend_that_is_not_there_is_one_sentence() -> None:
    with pytest.raises(
        UnavailableError,
        match="no backend 'nothing'; it has coreai, coreml, onnxruntime, openvino, pytorch, tensorrt",
    ):
        backends.get("nothing")


def test_an_unknown_target_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"Did you mean 'onnx'\? Known: .*onnx"):
        backends.of_target("onx")
