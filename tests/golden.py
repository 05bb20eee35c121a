"""The golden weights and images by formula, and what the published implementation computes from them."""

import zlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fastvit_bench.network import checkpoint
from fastvit_bench.network.fastvit import Form
from fastvit_bench.records import Head

DATA = Path(__file__).parent / "data"


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


def state(variant: str, head: Head) -> dict[str, Tensor]:
    """The golden state dict of a network in training form."""
    shapes = checkpoint.expected(variant, head, 1000, Form.UNFUSED)
    return {key: golden_tensor(key, shape) for key, shape in shapes.items()}


def image(shape: tuple[int, int, int, int]) -> Tensor:
    """The golden image of shape (N, C, H, W), in float32."""
    draw = np.random.default_rng(zlib.crc32(b"image"))
    return torch.from_numpy(draw.standard_normal(shape).astype(np.float32))


def output(name: str) -> dict[str, NDArray[np.float64]]:
    """What the published implementation computes: ``logits`` (2, 1000) of two 256 x 256 images, or ``feature0..3``.

    The dense network's maps are of one 512 x 512 image, every 8th row and column.
    """
    with np.load(DATA / f"golden_{name}.npz") as file:
        return {key: file[key] for key in file.files}
