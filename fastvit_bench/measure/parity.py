"""The proof that an exported file computes what the network computes.

The reference is the network in float64 as its checkpoint holds it, before any fusing. The images are drawn from a
recorded seed, so the proof can be repeated anywhere. Errors are judged against the standard deviation of the reference
outputs, because "0.001" means nothing without the size of a logit.
"""

import math
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import numpy as np

from fastvit_bench.backends import INPUT, Images, Session, output_names
from fastvit_bench.errors import UsageError
from fastvit_bench.records import MEAN, STD, Head, Parity, Shape

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

    from fastvit_bench.network.families import Reference

T = TypeVar("T", bound=np.generic)

SEED = 2303_14189  # of the fixed images


class Limit(NamedTuple):
    """What an error, over the standard deviation of an output, may be."""

    judged: Literal["max", "rms"]  # the largest error, or the root mean square of all
    tolerance: float


# By precision and head. Seen in float32: 1e-6 to 3e-6 on logits of every variant and size tried; up to 4e-5 on the
# feature maps of MA36 at 1024 pixels, where the largest of a million values is what counts. The smallest planted fault
# (one dropped bias) gives more than 1e-2. In float16 the rounding of weights and of every result gives 3e-3 (S12) to
# 1.6e-2 (MA36) on logits; of the maps, whose largest error of a million says little, 1e-3 to 9e-3 in the mean square.
# What segments or detects from them is within the same: up to 2e-5, and in float16 1e-3 to 9e-3.
LIMITS = {
    ("fp32", Head.CLASSIFIER): Limit("max", 1e-4),
    ("fp32", Head.DENSE): Limit("max", 4e-4),
    ("fp16", Head.CLASSIFIER): Limit("max", 2e-2),
    ("fp16", Head.DENSE): Limit("rms", 2e-2),
    **{("fp32", head): Limit("max", 4e-4) for head in (Head.STAGES, Head.SEGMENTER, Head.DETECTOR)},
    **{("fp16", head): Limit("rms", 2e-2) for head in (Head.STAGES, Head.SEGMENTER, Head.DETECTOR)},
}

# Random weights amplify rounding more than weights that were trained: MA36 with seed 0 gives 2.8e-2.
RANDOM_FP16 = Limit("max", 5e-2)

# Of files whose weights were made smaller, which changes what they compute: these only tell a lossy file from a broken
# one, whose error is above 1. What the loss is, is the figure beside it.
COMPRESSED = {"int8": Limit("rms", 0.2), "palette6": Limit("rms", 0.4), "palette4": Limit("rms", 0.8)}

EXACT_DB = 400.0  # stands for outputs without any error; float64 itself resolves about 320 dB

# How much the proof looks at: four batches up to 256 x 256 pixels in each, fewer when larger, at least one. Of a batch,
# as many images are different as eight of 256 x 256 have pixels, at least one; the others repeat them. The reference in
# float64 costs about as much as ten timed runs of one image.
_BATCHES, _PIXELS, _DIFFERENT = 4, 4 * 256 * 256, 8 * 256 * 256


def images(
    shape: Shape, form: Images = Images.TENSOR, seed: int = SEED
) -> "list[NDArray[np.float32]] | list[NDArray[np.uint8]]":
    """Fixed batches of noise in the form a file takes, enough for a top-1 comparison at small sizes.

    Tensors (N, 3, H, W) are normal noise; pixels (N, H, W, 3) are uniform over all 256 values.
    """
    batches = min(_BATCHES, max(1, _PIXELS // (shape.batch * shape.height * shape.width)))
    draw = np.random.default_rng(seed)
    drawn, sizes = different(shape), (shape.height, shape.width)
    if form is Images.TENSOR:
        return [_repeated(draw.standard_normal((drawn, 3, *sizes), np.float32), shape.batch) for _ in range(batches)]
    return [_repeated(draw.integers(0, 256, (drawn, *sizes, 3), np.uint8), shape.batch) for _ in range(batches)]


def different(shape: Shape) -> int:
    """How many images of each fixed batch differ; they come first, and again in the same order."""
    return min(shape.batch, max(1, _DIFFERENT // (shape.height * shape.width)))


def _repeated(values: "NDArray[T]", batch: int) -> "NDArray[T]":
    """The values of so many images, beginning anew where they end."""
    return values if len(values) == batch else values[np.arange(batch) % len(values)]


def normalised(batch: "NDArray[np.float32] | NDArray[np.uint8]") -> "NDArray[np.float64]":
    """What the network sees of a batch: of 8-bit pixels (N, H, W, 3), (pixel / 255 - mean) / std as (N, 3, H, W)."""
    if batch.dtype != np.uint8:
        return batch.astype(np.float64)
    values = (batch.astype(np.float64) / 255 - np.array(MEAN)) / np.array(STD)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


# What a processor with its own way of rounding computes from a file that is proved already: enough to find wrong
# colours or swapped outputs. Not yet seen on any.
HARDWARE = Limit("rms", 5e-2)


def limit(
    precision: str,
    head: Head,
    *,
    compress: str = "none",
    random: bool = False,
    subject: Literal["file", "hardware"] = "file",
) -> Limit:
    """What a file of that kind is judged by; `random` says that its weights are."""
    if subject == "hardware" and precision != "fp32" and compress == "none":
        return HARDWARE
    if compress != "none":
        return COMPRESSED[compress]
    if (precision, head, random) == ("fp16", Head.CLASSIFIER, True):
        return RANDOM_FP16
    return LIMITS[precision, head]


class Expected(NamedTuple):
    """What the reference network makes of the fixed images, kept so that it is computed once."""

    form: Images  # of the images
    shape: Shape
    head: Head
    reference: str  # what computed it
    outputs: "tuple[dict[str, NDArray[np.floating]], ...]"  # of each batch, by name


def expected(reference: "Reference", shape: Shape, form: Images = Images.TENSOR) -> Expected:
    """Run the reference network (float64, evaluation mode) on the fixed images."""
    import torch

    found: list[dict[str, NDArray[np.floating]]] = []
    for batch in images(shape, form):
        with torch.no_grad():
            outputs = reference.network(torch.from_numpy(normalised(batch[: different(shape)])))
        values = outputs if isinstance(outputs, tuple) else (outputs,)
        named = zip(output_names(len(values)), values, strict=True)
        found.append({name: _repeated(value.numpy(), shape.batch) for name, value in named})
    seen = "8-bit RGB pixels" if form is Images.PIXELS else "N(0, 1)"
    name = f"{reference.form} PyTorch network in float64, {INPUT} from {seen}"
    return Expected(form, shape, reference.head, name, tuple(found))


def expected_of(session: Session, shape: Shape, how: str) -> Expected:
    """What a session computes of the fixed images, where there is no network to ask: of a file that was given."""
    found: list[dict[str, NDArray[np.floating]]] = []
    for batch in images(shape, session.images):
        session.feed(batch)
        session.run()
        session.wait()
        found.append(session.fetch())
    return Expected(session.images, shape, Head.CLASSIFIER, how, tuple(found))


def save(known: Expected, file: IO[bytes]) -> None:
    """Write it, in float32, which resolves a hundredth of the narrowest limit."""
    named = ((f"{name}/{index}", each[name]) for index, each in enumerate(known.outputs) for name in each)
    sizes = map(str, (known.shape.batch, known.shape.height, known.shape.width))
    about = np.array((known.form, known.head, known.reference, *sizes))
    arrays: dict[str, Any] = {name: values.astype(np.float32) for name, values in named}
    np.savez(file, about=about, **arrays)


def load(path: Path) -> Expected:
    """Read it back. Raises `UsageError` for a file that is not there, is damaged or is none of these."""
    import zipfile

    outputs: dict[int, dict[str, NDArray[np.floating]]] = {}
    try:
        with np.load(path, allow_pickle=False) as held:
            form, head, reference, *sizes = (str(value) for value in held["about"])
            batch, height, width = map(int, sizes)
            for key in held.files:
                name, _, index = key.partition("/")
                if index:
                    outputs.setdefault(int(index), {})[name] = held[key]
        shape = Shape(batch=batch, height=height, width=width)
        return Expected(Images(form), shape, Head(head), reference, tuple(outputs.values()))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path} does not hold reference outputs ({error}); export the network again.") from None


def prove(
    known: Expected,
    session: Session,
    precision: str,
    *,
    how: str = "",
    compress: str = "none",
    random: bool = False,
    subject: Literal["file", "hardware"] = "file",
) -> Parity:
    """Compare a session's outputs with the reference network's on the fixed images, of whose form it must be.

    `how` is put on record: what computed the session's outputs. `compress` names how the file's weights were made
    smaller, `random` says that they are random, `subject` whether a processor's rounding is judged with the file: these
    decide by which `limit`.
    """
    error, relative, rms, agreed, total = 0.0, 0.0, 0.0, 0, 0
    cosine, snr, span = 1.0, EXACT_DB, 0.0
    reason = ""
    tied = True  # every top-1 that differs is of two classes nearer to each other than the error
    for batch, wanted in zip(images(known.shape, known.form), known.outputs, strict=True):
        session.feed(batch)
        session.run()
        session.wait()
        actual = session.fetch()
        if list(actual) != list(wanted):
            reason = f"the file's outputs are {', '.join(actual)}"
            error = relative = rms = math.inf
            break
        for name, value in wanted.items():
            ours, theirs = actual[name].astype(np.float64), value.astype(np.float64)
            if ours.shape != theirs.shape:
                reason = f"{name} has shape {list(ours.shape)} instead of {list(theirs.shape)}"
                error = relative = rms = math.inf
                continue
            if not np.isfinite(ours).all():
                reason = f"{name} holds {_odd(ours)}"
                error = relative = rms = math.inf
                continue
            if not ours.any():
                reason = f"{name} is zero everywhere"
            largest, spread = float(np.abs(ours - theirs).max()), float(theirs.std())
            error = max(error, largest)
            # each output by its own measure: the maps of a dense network differ in scale by far more than any error
            relative = max(relative, largest / spread if spread > 0 else math.inf)
            rms = max(rms, float(np.sqrt(np.square(ours - theirs).mean())) / spread if spread > 0 else math.inf)
            cosine = min(cosine, _cosine(ours, theirs))
            snr = min(snr, _snr_db(ours, theirs))
            span = max(span, largest / float(np.ptp(theirs)) if spread > 0 else math.inf)
            if known.head is Head.CLASSIFIER:
                rows, ours_top, their_top = np.arange(len(ours)), ours.argmax(1), theirs.argmax(1)
                margin = theirs[rows, their_top] - theirs[rows, ours_top]  # 0 where both name the same class
                agreed += int((ours_top == their_top).sum())
                total += len(rows)
                tied = tied and bool((margin <= largest).all())
    judged, tolerance = limit(precision, known.head, compress=compress, random=random, subject=subject)
    decisive, what = (relative, "the largest error") if judged == "max" else (rms, "the root mean square error")
    if not reason and not decisive <= tolerance:
        reason = f"{what} is {decisive:.1e} of the outputs' standard deviation, allowed is {tolerance:.0e}"
    if not reason and not tied and compress == "none" and subject == "file":
        reason = f"top-1 agrees on {agreed} of {total} images only, and the others are no ties"
    comparable = math.isfinite(error)  # where nothing could be compared, these three are not known
    return Parity(
        reference=known.reference,
        images=len(known.outputs) * different(known.shape),
        seed=SEED,
        max_abs_error=_finite(error),
        relative_error=_finite(relative),
        tolerance=tolerance,
        top1_agreement=agreed / total if total else None,
        passed=not reason,
        reason=reason,
        how=how,
        judged=judged,
        rms_error=_finite(rms),
        cosine=cosine if comparable else None,
        snr_db=snr if comparable else None,
        range_error=_finite(span) if comparable else None,
    )


def _odd(values: "NDArray[np.float64]") -> str:
    """How many of the values are no numbers, and how many are infinite."""
    counts = {"NaN": int(np.isnan(values).sum()), "infinite": int(np.isinf(values).sum())}
    named = " and ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f"{named} of {values.size} values"


def _cosine(ours: "NDArray[np.float64]", theirs: "NDArray[np.float64]") -> float:
    """Of the angle between the outputs for one image, of the worst image; 0 where one of the two is zero everywhere."""
    ours, theirs = ours.reshape(len(ours), -1), theirs.reshape(len(theirs), -1)
    lengths = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    products = (ours * theirs).sum(1)
    return float(np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0).min())


def _snr_db(ours: "NDArray[np.float64]", theirs: "NDArray[np.float64]") -> float:
    """Mean square of the reference over that of the errors, in decibels; `EXACT_DB` at most."""
    signal, noise = float(np.square(theirs).sum()), float(np.square(ours - theirs).sum())
    if noise == 0:
        return EXACT_DB
    return min(EXACT_DB, 10 * math.log10(signal / noise)) if signal > 0 else -EXACT_DB


def difference(reference: "nn.Module", network: "nn.Module", shape: Shape) -> float:
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
