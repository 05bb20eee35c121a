"""Fidelity of 8-bit outputs to the network in float64: reported, and never judged."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastvit_bench.backends import Session, output_names
from fastvit_bench.exporting import verification
from fastvit_bench.records import Fidelity, Head

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastvit_bench.network.factory import Reference

    Array = NDArray[np.floating]
    Compute = Callable[[NDArray[np.float32]], Sequence[Array]]  # outputs (1, …) of an image (3, H, W), normalised

IMAGES = 16  # calibration images that count, the first of the draw: the reference in float64 computes each


class Expected(NamedTuple):
    """Images, and the outputs that the network in float64 computes for them."""

    head: Head
    images: "Sequence[NDArray[np.float32]]"  # (3, H, W), normalised
    outputs: "Sequence[Sequence[NDArray[np.float64]]]"  # (1, …) of each image, in the network's order


def expected(reference: "Reference", images: "Sequence[NDArray[np.float32]]") -> Expected:
    """Compute the outputs of the network in float64 for normalised images (3, H, W)."""
    import torch

    rows: list[list[NDArray[np.float64]]] = []
    for image in images:
        with torch.no_grad():
            outputs = reference.network(torch.from_numpy(image[None]).double())
        rows.append([value.numpy() for value in (outputs if isinstance(outputs, tuple) else (outputs,))])
    return Expected(reference.head, images, rows)


def compare(known: Expected, compute: "Compute", labels: Sequence[int] = ()) -> Fidelity:
    """Return the likeness of the outputs that `compute` returns to those of the float64 network.

    `labels` are the images' classes, or empty where they are not the network's. Outputs that are not finite have no
    signal: -400 dB, and a cosine of 0.
    """
    signal, noise = np.zeros(len(known.outputs[0])), np.zeros(len(known.outputs[0]))
    cosine, agreed, finite = 1.0, 0, True
    correct = sum(rows[0].argmax() == label for rows, label in zip(known.outputs, labels, strict=False))
    for image, wanted in zip(known.images, known.outputs, strict=True):
        actual = [value.astype(np.float64) for value in compute(image)]
        finite = finite and all(np.isfinite(value).all() for value in actual)
        if not finite:
            break
        signal += [np.square(value).sum() for value in wanted]
        noise += [np.square(value - target).sum() for value, target in zip(actual, wanted, strict=True)]
        cosine = min(cosine, *(verification.cosine(*pair) for pair in zip(actual, wanted, strict=True)))
        agreed += int(actual[0].argmax() == wanted[0].argmax())
    classifier = known.head is Head.CLASSIFIER
    return Fidelity(
        images=len(known.images),
        snr_db=min(map(verification.decibels, signal, noise)) if finite else -verification.EXACT_DB,
        cosine=cosine if finite else 0.0,
        top1_agreement=agreed / len(known.images) * finite if classifier else None,
        correct=int(correct) if classifier and labels else None,
    )


def of_session(session: Session, head: Head, batch: int) -> "Compute":
    """Return the function that computes the outputs of an image in a session, which it fills a batch of."""

    def compute(image: "NDArray[np.float32]") -> "list[Array]":
        session.set_input(np.repeat(image[None], batch, axis=0))
        session.run()
        session.wait()
        outputs = session.get_output()
        return [outputs[name][:1] for name in output_names(len(outputs), head)]

    return compute
