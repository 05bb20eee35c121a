"""Networks with weights on which every branch matters, and the golden weights by formula."""

import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fastvit_bench.network import checkpoint
from fastvit_bench.network.fastvit import Form
from fastvit_bench.records import Head

DATA = Path(__file__).parents[1] / "data"


def golden_tensor(key: str, shape: tuple[int, ...]) -> Tensor:
    """The golden value of an entry: drawn from a generator seeded with the CRC-32 of its name, in float32."""
    draw = np.random.default_rng(zlib.crc32(key.encode()))
    leaf = key.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    if leaf.startswith("layer_scale"):
        values = draw.uniform(0.02, 0.1, shape)
    elif leaf == "running_var" or (leaf == "weight" and len(shape) == 1):
        values = draw.uniform(0.5, 1.5, shape)
    elif leaf == "running_mean" or len(shape) == 1:
        values = 0.1 * draw.standard_normal(shape)
    else:
        values = draw.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return torch.from_numpy(np.asarray(values, np.float32))


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """The networks here are small or run once: several processes with a thread per core only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def golden_state() -> Callable[[str, Head], dict[str, Tensor]]:
    """Variant, head -> the golden state dict in training form."""

    def state(variant: str, head: Head) -> dict[str, Tensor]:
        shapes = checkpoint.expected(variant, head, 1000, Form.UNFUSED)
        return {key: golden_tensor(key, shape) for key, shape in shapes.items()}

    return state


@pytest.fixture(scope="session")
def golden_image() -> Callable[[tuple[int, int, int, int]], Tensor]:
    """Shape (N, C, H, W) -> the golden image, in float32."""

    def image(shape: tuple[int, int, int, int]) -> Tensor:
        draw = np.random.default_rng(zlib.crc32(b"image"))
        return torch.from_numpy(draw.standard_normal(shape).astype(np.float32))

    return image


@pytest.fixture(scope="session")
def golden_output() -> Callable[[str], dict[str, np.ndarray]]:
    """Name -> what the published implementation computes from the golden weights and image."""

    def output(name: str) -> dict[str, np.ndarray]:
        with np.load(DATA / f"golden_{name}.npz") as file:
            return {key: file[key] for key in file.files}

    return output


@pytest.fixture(scope="session")
def difference() -> Callable[..., float]:
    """Two outputs of a network (a tensor or several) -> largest error over the second one's standard deviation."""

    def of(ours: Tensor | tuple[Tensor, ...], theirs: Tensor | tuple[Tensor, ...]) -> float:
        if isinstance(ours, Tensor):
            ours, theirs = (ours,), (theirs,)
        assert [a.shape for a in ours] == [b.shape for b in theirs]
        errors = [((a - b).abs().max() / b.std()).item() for a, b in zip(ours, theirs, strict=True)]
        assert not any(np.isnan(errors))
        return max(errors)

    return of
