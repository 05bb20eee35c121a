"""The proof that an exported file computes what the network computes.

The reference is the network in float64 as its checkpoint holds it, before any fusing. The images are drawn from a
recorded seed, so the proof can be repeated anywhere. Errors are judged against the standard deviation of the reference
outputs, because "0.001" means nothing without the size of a logit.
"""

import math
from typing import TYPE_CHECKING

import numpy as np

from fastvit_bench.backends import INPUT, Session, output_names
from fastvit_bench.records import Head, Parity, Shape

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from fastvit_bench.network.fastvit import FastViT

SEED = 2303_14189  # of the fixed images

# Largest error over an output's standard deviation, by precision. Seen in float32: 1e-6 to 3e-6 on logits of every
# variant and size tried; up to 4e-5 on the feature maps of MA36 at 1024 pixels, where the largest of a million values
# is what counts. The smallest planted fault (one dropped bias) gives more than 1e-2.
TOLERANCE = {("fp32", Head.CLASSIFIER): 1e-4, ("fp32", Head.DENSE): 4e-4}

# How much the proof looks at: four batches up to 256 x 256 pixels in each, fewer when larger, at least one. The
# reference in float64 costs about as much as ten timed runs.
_BATCHES, _PIXELS = 4, 4 * 256 * 256


def images(shape: Shape, seed: int = SEED) -> "list[NDArray[np.float32]]":
    """Fixed batches (N, 3, H, W) of normalised noise, enough for a top-1 comparison at small sizes."""
    batches = min(_BATCHES, max(1, _PIXELS // (shape.batch * shape.height * shape.width)))
    draw = np.random.default_rng(seed)
    return [draw.standard_normal(shape.nchw, np.float32) for _ in range(batches)]


def prove(reference: "FastViT", session: Session, shape: Shape, precision: str) -> Parity:
    """Compare a session's outputs with the reference network's (float64, evaluation mode) on the fixed images."""
    import torch

    error, relative, agreed, total = 0.0, 0.0, 0, 0
    reason = ""
    batches = images(shape)
    for batch in batches:
        session.feed(batch)
        session.run()
        session.wait()
        actual = session.fetch()
        with torch.no_grad():
            outputs = reference(torch.from_numpy(batch).double())
        expected = outputs if isinstance(outputs, tuple) else (outputs,)
        if list(actual) != output_names(len(expected)):
            reason = f"the file's outputs are {', '.join(actual)}"
            error = relative = math.inf
            break
        for name, value in zip(actual, expected, strict=True):
            ours, theirs = actual[name].astype(np.float64), value.numpy()
            if ours.shape != theirs.shape:
                reason = f"{name} has shape {list(ours.shape)} instead of {list(theirs.shape)}"
                error = relative = math.inf
                continue
            if not np.isfinite(ours).all():
                reason = f"{name} holds NaN or infinite values"
                error = relative = math.inf
                continue
            if not ours.any():
                reason = f"{name} is zero everywhere"
            largest, spread = float(np.abs(ours - theirs).max()), float(theirs.std())
            error = max(error, largest)
            # each output by its own measure: the maps of a dense network differ in scale by far more than any error
            relative = max(relative, largest / spread if spread > 0 else math.inf)
            if reference.head_kind is Head.CLASSIFIER:
                agreed += int((ours.argmax(1) == theirs.argmax(1)).sum())
                total += len(ours)
    tolerance = TOLERANCE[precision, reference.head_kind]
    if not reason and relative > tolerance:
        reason = f"the largest error is {relative:.1e} of the outputs' standard deviation, allowed is {tolerance:.0e}"
    if not reason and agreed < total:
        reason = f"top-1 agrees on {agreed} of {total} images only"
    return Parity(
        reference=f"{reference.form} PyTorch network in float64, {INPUT} from N(0, 1)",
        images=len(batches) * shape.batch,
        seed=SEED,
        max_abs_error=_finite(error),
        relative_error=_finite(relative),
        tolerance=tolerance,
        top1_agreement=agreed / total if total else None,
        passed=not reason,
        reason=reason,
    )


def difference(reference: "FastViT", network: "nn.Module", shape: Shape) -> float:
    """Largest difference of two networks' outputs over the reference outputs' largest magnitude, on fixed images.

    Both networks are in float64 and evaluation mode. This is how exactness of the fusing algebra is stated.
    """
    import torch

    batch = torch.from_numpy(images(shape)[0]).double()
    with torch.no_grad():
        theirs, ours = reference(batch), network(batch)
    pairs = zip(theirs, ours, strict=True) if isinstance(theirs, tuple) else [(theirs, ours)]
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


def _finite(value: float) -> float:
    """JSON has no infinity; the reason beside the number tells that nothing could be compared."""
    return value if math.isfinite(value) else -1.0
