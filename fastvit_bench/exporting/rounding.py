"""Outputs of a network with rounded weights and activations, and their fidelity to the network in float64."""

from typing import TYPE_CHECKING

import msgspec
import numpy as np

from fastvit_bench.backends import INPUT, Images, output_names
from fastvit_bench.exporting import verification
from fastvit_bench.records import Fidelity, Head, Preparation, Shape
from fastvit_bench.records.spec import Triple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from torch import nn

    from fastvit_bench.exporting.verification import ReferenceOutputs
    from fastvit_bench.network.factory import Reference

MOST_IMAGES = 64  # of a fidelity: the reference in float64 computes each


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


def fidelity(
    network: "nn.Module",
    reference: "Reference",
    images: "Sequence[NDArray[np.float32]]",
    shape: Shape,
    std: Triple | None = None,
) -> Fidelity:
    """Compare a rounded network with the float64 reference on calibration images; without any, on the fixed images.

    Images (3, H, W) are normalised. At most `MOST_IMAGES` of them count, the first of the draw.
    """
    import torch

    single = msgspec.structs.replace(shape, batch=1)
    chosen = [image[None] for image in images[:MOST_IMAGES]] or verification.images(single)
    snr, cosine, agreed = verification.EXACT_DB, 1.0, 0
    totals: list[tuple[float, float]] = []
    for image in chosen:
        padded = np.repeat(image, shape.batch, 0).astype(np.float64)  # an exported form may take one batch size only
        with torch.no_grad():
            exact = reference.network(torch.from_numpy(padded[:1]))
        expected = [value.numpy() for value in (exact if isinstance(exact, tuple) else (exact,))]
        actual = [value[:1].astype(np.float64) for value in _run(network, padded, std)]
        totals = totals or [(0.0, 0.0)] * len(expected)
        totals = [
            (signal + float(np.square(wanted).sum()), noise + float(np.square(value - wanted).sum()))
            for (signal, noise), value, wanted in zip(totals, actual, expected, strict=True)
        ]
        for value, wanted in zip(actual, expected, strict=True):
            cosine = min(cosine, verification.cosine(value, wanted))
        agreed += int(actual[0].argmax() == expected[0].argmax())
    for signal, noise in totals:
        snr = min(snr, verification.decibels(signal, noise))
    share = agreed / len(chosen) if reference.head is Head.CLASSIFIER else None
    return Fidelity(images=len(chosen), snr_db=snr, cosine=cosine, top1_agreement=share)


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
