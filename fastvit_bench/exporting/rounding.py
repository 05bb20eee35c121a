"""Outputs of a network with rounded weights and activations."""

from typing import TYPE_CHECKING

import numpy as np

from fastvit_bench.backends import INPUT, Images, output_names
from fastvit_bench.exporting import verification
from fastvit_bench.records import Preparation, Shape
from fastvit_bench.records.spec import Triple

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from fastvit_bench.exporting.fidelity import Compute
    from fastvit_bench.exporting.verification import ReferenceOutputs
    from fastvit_bench.network.factory import Reference


def outputs(
    network: "nn.Module", reference: "Reference", shape: Shape, form: Images, how: Preparation, std: Triple | None
) -> "ReferenceOutputs":
    """Compute the outputs of a rounded network in float32 for the fixed images; `std` as in `GraphVariant`."""
    batches: list[dict[str, NDArray[np.floating]]] = []
    for batch in verification.images(shape, form):
        values = _computed(network, _taken(batch, how, std))
        batches.append(dict(zip(output_names(len(values), reference.head), values, strict=True)))
    source = "8-bit RGB pixels" if form is Images.PIXELS else "N(0, 1)"
    name = f"own network with rounded values in PyTorch, float32, {INPUT} from {source}"
    return verification.ReferenceOutputs(form, shape, reference.head, name, tuple(batches))


def of_network(network: "nn.Module", shape: Shape, std: Triple | None = None) -> "Compute":
    """Return the function that computes the outputs of an image in a rounded network, which may take one batch only."""

    def compute(image: "NDArray[np.float32]") -> "list[NDArray[np.floating]]":
        batch = np.repeat(image[None], shape.batch, 0).astype(np.float64)
        return [value[:1] for value in _run(network, batch, std)]

    return compute


def _taken(
    batch: "NDArray[np.float32] | NDArray[np.uint8]", how: Preparation, std: Triple | None
) -> "NDArray[np.float32]":
    """Return a batch as a rounded network takes it.

    Pixels pass through the arithmetic of a file, so that none falls to another step than there.
    """
    if batch.dtype == np.uint8 and std is not None:
        values = batch.astype(np.float32) * np.float32(1 / 255) - np.array(how.mean, np.float32)
        return np.ascontiguousarray(values.transpose(0, 3, 1, 2))
    return verification.normalised(batch, how).astype(np.float32)


def _run(network: "nn.Module", batch: "NDArray[np.float64]", std: Triple | None) -> "list[NDArray[np.floating]]":
    """Return the outputs of a network in float32 for normalised images (N, 3, H, W)."""
    if std is not None:  # the network divides by the standard deviation itself
        batch = batch * np.array(std).reshape(3, 1, 1)
    return _computed(network, batch.astype(np.float32))


def _computed(network: "nn.Module", batch: "NDArray[np.float32]") -> "list[NDArray[np.floating]]":
    """Return the outputs of a network for a batch in the form that it takes."""
    import torch

    with torch.no_grad():
        values = network(torch.from_numpy(batch))
    return [value.numpy() for value in (values if isinstance(values, tuple) else (values,))]
