"""What every backend must do; a new file in backends/ is picked up by itself."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fastvit_bench import backends
from fastvit_bench.backends import Backend
from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.records import Device, Shape, Window

SHAPE = Shape(batch=2, height=8, width=16)


class Tiny(nn.Module):
    """A network with one output per image, exact in every precision."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((1, 2, 3)).reshape(-1, 1)


class Forked(nn.Module):
    """A network with two outputs."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return x + 1, x * 2


@pytest.fixture(params=backends.implemented())
def backend(request: pytest.FixtureRequest) -> Backend:
    found = backends.get(request.param)
    lacking = found.missing()
    if lacking:
        pytest.skip(lacking)
    return found


@pytest.fixture
def device(backend: Backend) -> Device:
    bare = Device(name="test", backend=backend.name, precision=backend.precisions[0])
    return Device(name="test", backend=backend.name, precision=bare.precision, options=backend.options(bare))


def export(backend: Backend, network: nn.Module, folder: Path) -> Path:
    path = folder / f"tiny{backend.suffix}"
    backend.export(network.double().eval(), SHAPE, backend.precisions[0], path, {"fastvit_bench.variant": "tiny"})
    return path


def test_describes_itself(backend: Backend) -> None:
    assert backend.name in backends.implemented()
    assert backend.suffix.startswith(".")
    assert backend.precisions
    assert set(backends.toolchain(backend)) == set(backend.packages)
    assert backends.of_target(backend.target) is backend


def test_a_session_computes_what_the_network_computes(backend: Backend, device: Device, tmp_path: Path) -> None:
    path = export(backend, Tiny(), tmp_path)
    images = np.random.default_rng(0).standard_normal(SHAPE.nchw, np.float32)
    with backend.open(path, device) as session:
        assert session.window in Window
        for scale in (1, 3):  # the second feed must reach the second run
            session.feed(images * scale)
            session.run()
            session.wait()
            outputs = session.fetch()
            assert list(outputs) == ["logits"]
            np.testing.assert_allclose(outputs["logits"][:, 0], scale * images.mean((1, 2, 3)), rtol=1e-4, atol=1e-5)


def test_fetched_outputs_outlive_the_next_run(backend: Backend, device: Device, tmp_path: Path) -> None:
    path = export(backend, Tiny(), tmp_path)
    with backend.open(path, device) as session:
        session.feed(np.ones(SHAPE.nchw, np.float32))
        session.run()
        session.wait()
        first = session.fetch()["logits"]
        session.feed(np.zeros(SHAPE.nchw, np.float32))
        session.run()
        session.wait()
    np.testing.assert_array_equal(first, np.ones((2, 1), np.float32))


def test_several_outputs_are_feature_maps(backend: Backend, device: Device, tmp_path: Path) -> None:
    path = export(backend, Forked(), tmp_path)
    with backend.open(path, device) as session:
        session.feed(np.ones(SHAPE.nchw, np.float32))
        session.run()
        session.wait()
        outputs = session.fetch()
    assert list(outputs) == ["feature0", "feature1"]
    assert outputs["feature0"].shape == SHAPE.nchw


def test_the_network_handed_over_is_left_as_it_was(backend: Backend, tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.LazyLinear(1)).double().eval()
    network(torch.zeros(SHAPE.nchw).double())
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    export(backend, network, tmp_path)
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float64}
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_exporting_twice_gives_the_same_bytes(backend: Backend, tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.GELU(), nn.Flatten(), nn.Linear(4 * 8 * 16, 1))
    assert (
        export(backend, network, tmp_path / "a").read_bytes() == export(backend, network, tmp_path / "b").read_bytes()
    )


def test_wrong_options_and_precisions_are_refused(backend: Backend, device: Device, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown option 'treads'"):
        backend.options(Device(name="cpu", backend=backend.name, options={"treads": 2}))
    with pytest.raises(UsageError, match="not in fp8"):
        backend.export(Tiny(), SHAPE, "fp8", tmp_path / "x", {})


def test_a_damaged_file_is_one_sentence(backend: Backend, device: Device, tmp_path: Path) -> None:
    path = tmp_path / f"broken{backend.suffix}"
    path.write_bytes(b"no model")
    with pytest.raises(UnavailableError, match="cannot load broken") as caught, backend.open(path, device):
        pass
    assert "\n" not in str(caught.value)


def test_planned_backends_say_so() -> None:
    for name in backends.PLANNED:
        assert name in backends.names()
        if name not in backends.implemented():
            assert "no " + name in str(backends.missing(name))
            with pytest.raises(UnavailableError, match="fastvit-bench devices"):
                backends.get(name)


def test_an_unknown_target_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"Did you mean 'onnx'\? Known: .*onnx"):
        backends.of_target("onx")
