"""The proof that an exported file computes what the network computes.

The reference is the network in float64 as its checkpoint holds it, before any fusing. The images are drawn from a
recorded seed, so the proof can be repeated anywhere. Errors are judged against the standard deviation of the reference
outputs, because "0.001" means nothing without the size of a logit.
"""

import math
import os
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import msgspec
import numpy as np

from fastvit_bench import files
from fastvit_bench.backends import INPUT, Images, Session, Subject, output_names
from fastvit_bench.backends._text import first_line, normalisation, printable
from fastvit_bench.errors import UsageError
from fastvit_bench.exporting.metadata import require_plausible
from fastvit_bench.records import Head, Parity, Preparation, Shape
from fastvit_bench.records.preparation import IMAGENET

if TYPE_CHECKING:
    import zipfile

    from numpy.typing import NDArray
    from torch import nn

    from fastvit_bench.network.factory import Reference

T = TypeVar("T", bound=np.generic)

SEED = 2303_14189  # of the fixed images


class Limit(NamedTuple):
    """The largest error that passes, as a share of the standard deviation of an output."""

    judged: Literal["max", "rms"]  # the largest error, or the root mean square of all
    tolerance: float


# By precision and head. Measured in float32: 1e-6 to 3e-6 on logits of every variant and size tried; up to 4e-5 on the
# feature maps of MA36 at 1024 pixels, where the largest of a million values counts. The smallest planted fault
# (one dropped bias) gives more than 1e-2. In float16 the rounding of weights and of every result gives 3e-3 (S12) to
# 1.6e-2 (MA36) on logits. Of the maps, the largest error of a million values says little, so the mean square is used,
# 1e-3 to 9e-3. FastVLM's tokens have 4e-3, and 0.1 as their largest, half of which rounded weights alone give.
# Segmenters and detectors on the maps are within the same: up to 2e-5, and in float16 1e-3 to 9e-3.
LIMITS = {
    ("fp32", Head.CLASSIFIER): Limit("max", 1e-4),
    ("fp32", Head.DENSE): Limit("max", 4e-4),
    ("fp16", Head.CLASSIFIER): Limit("max", 2e-2),
    ("fp16", Head.DENSE): Limit("rms", 2e-2),
    **{("fp32", head): Limit("max", 4e-4) for head in (Head.STAGES, Head.FEATURES, Head.SEGMENTER, Head.DETECTOR)},
    **{("fp16", head): Limit("rms", 2e-2) for head in (Head.STAGES, Head.FEATURES, Head.SEGMENTER, Head.DETECTOR)},
    # of encoders: as logits, and at each position as maps
    **{("fp32", Head.EMBEDDING): Limit("max", 1e-4), ("fp16", Head.EMBEDDING): Limit("max", 3e-2)},
    **{("fp32", Head.TOKENS): Limit("max", 4e-4), ("fp16", Head.TOKENS): Limit("rms", 2e-2)},
}

# Random weights amplify rounding more than weights that were trained: MA36 with seed 0 gives 2.8e-2.
RANDOM_FP16 = Limit("max", 5e-2)

# For files with compressed weights, whose outputs change. These limits only separate a lossy file from a broken one,
# whose error is above 1; the record holds the loss itself.
COMPRESSED = {"int8": Limit("rms", 0.2), "palette6": Limit("rms", 0.4), "palette4": Limit("rms", 0.8)}

# For a file with 8-bit weights and activations against its own rounded network, in FP16. A value near the edge of a
# step falls to its other side, and changes those behind it. Measured: 29 dB, that is 3.6e-2 (T8, SA12 with random
# weights). A toolkit's check of the same program in FP32 is the tight one.
ROUNDED_ACTIVATIONS = Limit("rms", 0.1)

EXACT_DB = 400.0  # stands for outputs without any error; float64 itself resolves about 320 dB

# Size of the proof: as many batches as four images of 256 x 256 have pixels, from one to four. The different images of
# a batch have at most the pixels of eight images of 256 x 256, or are one image; the others repeat them. The reference
# in float64 costs about as much as ten timed runs of one image.
_BATCHES, _PIXELS, _DIFFERENT = 4, 4 * 256 * 256, 8 * 256 * 256


def images(
    shape: Shape, form: Images = Images.TENSOR, seed: int = SEED
) -> "list[NDArray[np.float32]] | list[NDArray[np.uint8]]":
    """Draw the fixed batches of noise in the form a file takes, enough for a top-1 comparison at small sizes.

    Tensors (N, C, H, W) are normal noise; pixels (N, H, W, 3) are uniform over all 256 values.
    """
    draw, batches = np.random.default_rng(seed), range(_batches(shape))
    drawn, sizes = different(shape), (shape.height, shape.width)
    if form is Images.TENSOR:
        return [
            _repeated(draw.standard_normal((drawn, shape.channels, *sizes), np.float32), shape.batch) for _ in batches
        ]
    return [_repeated(draw.integers(0, 256, (drawn, *sizes, 3), np.uint8), shape.batch) for _ in batches]


def _batches(shape: Shape) -> int:
    """Return the number of fixed batches of a shape."""
    return min(_BATCHES, max(1, _PIXELS // (shape.batch * shape.height * shape.width)))


def different(shape: Shape) -> int:
    """Return the number of different images in a fixed batch; they come first, and repeat in the same order."""
    return min(shape.batch, max(1, _DIFFERENT // (shape.height * shape.width)))


def _repeated(values: "NDArray[T]", batch: int) -> "NDArray[T]":
    """Repeat the values of images in their order up to a batch of `batch`."""
    return values if len(values) == batch else values[np.arange(batch) % len(values)]


def normalised(batch: "NDArray[np.float32] | NDArray[np.uint8]", how: Preparation) -> "NDArray[np.float64]":
    """Return a batch as the network's input (N, 3, H, W) in float64.

    8-bit pixels (N, H, W, 3) become (pixel / 255 - mean) / std.
    """
    if batch.dtype != np.uint8:
        return batch.astype(np.float64)
    values = (batch.astype(np.float64) / 255 - np.array(how.mean)) / np.array(how.std)
    return np.ascontiguousarray(values.transpose(0, 3, 1, 2))


# For a processor with rounding of its own that runs a file that is proved already: enough to find wrong colours or
# swapped outputs. Not yet measured on any.
HARDWARE = Limit("rms", 5e-2)

# For arithmetic in bfloat16 with a file in float32, which has a proof of its own by the limits of float32. A result has
# 8 significant bits instead of float16's 11, so each rounding is 8 times as large, and on maps the limit is 8 times
# float16's. On logits the root mean square is a third of the largest error, so 5e-2 is 8 times a third of float16's
# limit. Measured with OpenVINO: 9e-3 (T8) to 2e-2 (MA36) on logits, 6.5 times float16's error of the same networks, as
# fused layers round less often; 1e-2 (segmenter) to 3.3e-2 (MA36) on maps. Results of 4 significant bits, as in 8-bit
# floating point, err 16 times as much.
BF16, BF16_MAPS = Limit("rms", 5e-2), Limit("rms", 0.16)


# For kernels between 8-bit integers, against the network rounded to the same grids in float. Where a sum lies in the
# middle between two steps but for the rounding of float32, a kernel may take the other one, and the layers behind it
# differ by whole steps. OpenVINO also leaves out roundings, and moves others. So the limit must only tell the rounding
# of kernels from broken ones, whose error is above 1: the file itself is judged by its operators one by one, by the
# limits of float32. Measured with golden weights of T8: ONNX Runtime 1e-6 to 2e-2, OpenVINO 4e-2 to 0.18.
INT8_KERNELS = Limit("rms", 0.4)


def limit(
    precision: str,
    head: Head,
    *,
    compress: str = "none",
    random: bool = False,
    subject: Subject = "file",
) -> Limit:
    """Return the limit that a file is judged by; `random` stands for random weights."""
    if precision == "int8":
        return INT8_KERNELS if subject == "hardware" else LIMITS["fp32", head]
    if precision == "w8a8":
        return ROUNDED_ACTIVATIONS
    precision = {"w8": "fp16"}.get(precision, precision)  # 8-bit weights compute in FP16
    if precision == "bf16":
        return BF16 if head in (Head.CLASSIFIER, Head.EMBEDDING) else BF16_MAPS
    if subject == "hardware" and precision != "fp32" and compress == "none":
        return HARDWARE
    if compress != "none":
        return COMPRESSED[compress]
    if (precision, random) == ("fp16", True) and head in (Head.CLASSIFIER, Head.EMBEDDING):
        return RANDOM_FP16
    return LIMITS[precision, head]


class ReferenceOutputs(NamedTuple):
    """Outputs of the reference network for the fixed images, which are stored because they are slow to compute."""

    form: Images  # of the images
    shape: Shape
    head: Head
    reference: str  # what computed it
    outputs: "tuple[dict[str, NDArray[np.floating]], ...]"  # of each batch, by name


def reference_outputs(
    reference: "Reference", shape: Shape, form: Images = Images.TENSOR, how: Preparation = IMAGENET
) -> ReferenceOutputs:
    """Compute the outputs of the reference network (float64, evaluation mode) for the fixed images.

    Images in 8 bits are normalised as `how` says.
    """
    import torch

    batches: list[dict[str, NDArray[np.floating]]] = []
    for batch in images(shape, form):
        with torch.no_grad():
            outputs = reference.network(torch.from_numpy(normalised(batch[: different(shape)], how)))
        values = outputs if isinstance(outputs, tuple) else (outputs,)
        named = zip(output_names(len(values), reference.head), values, strict=True)
        batches.append({name: _repeated(value.numpy(), shape.batch) for name, value in named})
    source = f"8-bit RGB pixels ({normalisation(how)})" if form is Images.PIXELS else "N(0, 1)"
    name = f"{reference.form} PyTorch network in float64, {INPUT} from {source}"
    return ReferenceOutputs(form, shape, reference.head, name, tuple(batches))


def outputs_of(session: Session, shape: Shape, how: str, head: Head = Head.CLASSIFIER) -> ReferenceOutputs:
    """Compute the outputs of a session for the fixed images: the reference for an ONNX file, or a rounded network."""
    batches: list[dict[str, NDArray[np.floating]]] = []
    for batch in images(shape, session.images):
        session.set_input(batch)
        session.run()
        session.wait()
        batches.append(session.get_output())
    return ReferenceOutputs(session.images, shape, head, how, tuple(batches))


def save(known: ReferenceOutputs, file: IO[bytes]) -> None:
    """Write reference outputs to a file, in float32, which resolves a hundredth of the narrowest limit."""
    named = ((f"{name}/{index}", batch[name]) for index, batch in enumerate(known.outputs) for name in batch)
    sizes = map(str, msgspec.structs.astuple(known.shape))
    about = np.array((known.form, known.head, known.reference, *sizes))
    arrays: dict[str, Any] = {name: values.astype(np.float32) for name, values in named}
    np.savez(file, about=about, **arrays)


# Most that a file of reference outputs may take; it may be a stranger's, so no claim in it takes memory unchecked.
_MOST_BYTES, _MOST_ENTRIES, _LONGEST_HEADER = 8 << 30, 1000, 1000
_ABOUT = "about.npy"  # the entry that says what the others are


def load(path: Path) -> ReferenceOutputs:
    """Read reference outputs from a file. Raises `UsageError` for one that is missing, damaged or of another kind."""
    try:
        with _entries(path) as entries:
            form, head, reference, shape = _about(entries)
            batches: list[dict[str, NDArray[np.floating]]] = [{} for _ in range(_batches(shape))]
            for entry, content in entries.items():
                if entry != _ABOUT:
                    name, _, index = entry.removesuffix(".npy").partition("/")
                    batches[int(index)][name] = _output(content(), head, shape)
        if not batches[0] or any(batch.keys() != batches[0].keys() for batch in batches):
            raise ValueError("some outputs are missing")
        return ReferenceOutputs(form, shape, head, reference, tuple(batches))
    except Exception as error:  # the readers of zip archives and arrays raise many kinds for damaged ones
        reason = (error.strerror if isinstance(error, OSError) else None) or first_line(error)
        raise UsageError(f"{path} does not hold reference outputs ({reason}); export the network again.") from None


def is_own(path: Path) -> bool:
    """Return whether a file is one that `save` wrote, by its first entry alone."""
    try:
        with _entries(path) as entries:
            _about(entries)
    except Exception:  # as in `load`
        return False
    return True


@contextmanager
def _entries(path: Path) -> "Generator[dict[str, Callable[[], NDArray[Any]]]]":
    """Yield functions that read the arrays of a file, by entry. Raises what the readers raise, for other files too."""
    import zipfile

    with files.open_regular(path, _MOST_BYTES) as file, zipfile.ZipFile(file) as archive:
        infos = archive.infolist()
        names = [info.filename for info in infos]
        if len(names) > _MOST_ENTRIES or len(set(names)) < len(names):
            raise ValueError("it has too many entries, or one of them twice")
        if any(info.compress_type != zipfile.ZIP_STORED for info in infos):
            raise ValueError("it is compressed, and this tool writes it without")
        if sum(info.file_size for info in infos) > os.fstat(file.fileno()).st_size:
            raise ValueError("its entries are larger than the file")
        yield {info.filename: partial(_array, archive, info) for info in infos}


def _array(archive: "zipfile.ZipFile", info: "zipfile.ZipInfo") -> "NDArray[Any]":
    """Return the array of an entry, whose header must fit its size: memory is taken for no more than there is."""
    with archive.open(info) as entry:
        if np.lib.format.read_magic(entry) != (1, 0):
            raise ValueError("an array is of another version")
        header = np.lib.format.read_array_header_1_0(entry, max_header_size=_LONGEST_HEADER)
        shape, fortran, kind = header
        content = entry.read(info.file_size)
    if fortran or kind.kind not in "fU" or len(content) != math.prod(shape) * kind.itemsize:
        raise ValueError("an array is not what its header says")
    return np.frombuffer(content, kind).reshape(shape)


def _about(entries: "Mapping[str, Callable[[], NDArray[Any]]]") -> tuple[Images, Head, str, Shape]:
    """Return what a file says of its outputs: the form of the images, the head, the reference and the shape."""
    form, head, reference, *sizes = (str(value) for value in entries[_ABOUT]())
    batch, height, width, *channels = map(int, sizes)  # files of earlier versions are of RGB
    shape = Shape(batch=batch, height=height, width=width, channels=(channels or [3])[0])
    require_plausible([shape])
    return Images(form), Head(head), printable(reference), shape


_DIMENSIONS = {Head.CLASSIFIER: 2, Head.EMBEDDING: 2, Head.TOKENS: 3}  # of an output; maps have four


def _output(values: "NDArray[Any]", head: Head, shape: Shape) -> "NDArray[np.float32]":
    """Return the values of an output. Raises `ValueError` unless they can be a network's for a shape."""
    if values.dtype != np.float32 or values.ndim != _DIMENSIONS.get(head, 4):
        raise ValueError(f"an output is {values.dtype} {list(values.shape)}")
    if values.shape[0] != shape.batch or not values.size or not np.isfinite(values).all():
        raise ValueError("an output is of another batch, empty or not finite")
    return values


@dataclass
class _Errors:
    """The largest errors of a session's outputs so far, and the reason why they fail at any tolerance, if one does."""

    largest: float = 0.0  # absolute
    relative: float = 0.0  # largest error over the standard deviation, of the worst output
    rms: float = 0.0  # root mean square error over the standard deviation, of the worst output
    span: float = 0.0  # largest error over the range of values, of the worst output
    cosine: float = 1.0
    snr: float = EXACT_DB
    agreed: int = 0  # images whose top-1 agrees
    total: int = 0  # images whose top-1 was compared
    tied: bool = True  # every top-1 that differs is of two classes nearer to each other than the error
    reason: str = ""

    def fail(self, reason: str) -> None:
        """Record that outputs cannot be compared."""
        self.reason = reason
        self.largest = self.relative = self.rms = math.inf

    def add(self, name: str, actual: "NDArray[np.float64]", expected: "NDArray[np.float64]", head: Head) -> None:
        """Compare one output for one batch with the reference network's."""
        if actual.shape != expected.shape:
            self.fail(f"{name} has shape {list(actual.shape)} instead of {list(expected.shape)}")
            return
        if not np.isfinite(actual).all():
            self.fail(f"{name} holds {_odd(actual)}")
            return
        if not actual.any():
            self.reason = f"{name} is zero everywhere"
        largest, spread = float(np.abs(actual - expected).max()), float(expected.std())
        self.largest = max(self.largest, largest)
        # each output by its own measure: the maps of a dense network differ in scale by far more than any error
        self.relative = max(self.relative, largest / spread if spread > 0 else math.inf)
        rms = float(np.sqrt(np.square(actual - expected).mean())) / spread if spread > 0 else math.inf
        self.rms = max(self.rms, rms)
        self.cosine = min(self.cosine, cosine(actual, expected))
        self.snr = min(self.snr, _snr_db(actual, expected))
        self.span = max(self.span, largest / float(np.ptp(expected)) if spread > 0 else math.inf)
        if head is Head.CLASSIFIER:
            rows, actual_top, expected_top = np.arange(len(actual)), actual.argmax(1), expected.argmax(1)
            margin = expected[rows, expected_top] - expected[rows, actual_top]  # 0 where both name the same class
            self.agreed += int((actual_top == expected_top).sum())
            self.total += len(rows)
            self.tied = self.tied and bool((margin <= largest).all())


def prove(
    known: ReferenceOutputs,
    session: Session,
    precision: str,
    *,
    how: str = "",
    compress: str = "none",
    random: bool = False,
    subject: Subject = "file",
) -> Parity:
    """Compare a session's outputs with the reference network's on the fixed images, which must have the same form.

    `how` names what computed the session's outputs, for the record. The others select the `limit`: `compress` names
    the compression of the file's weights, and `random` stands for random weights. The `subject` decides whether the
    file is judged or a processor's rounding with it.
    """
    errors = _compared(known, session)
    judged, tolerance = limit(precision, known.head, compress=compress, random=random, subject=subject)
    largest, rms = (errors.relative, "the largest error"), (errors.rms, "the root mean square error")
    decisive, what = largest if judged == "max" else rms
    reason = errors.reason
    if not reason and not decisive <= tolerance:
        reason = f"{what} is {decisive:.1e} of the outputs' standard deviation, allowed is {tolerance:.0e}"
    lossy = compress != "none" or precision == "w8a8"
    if not reason and not errors.tied and not lossy and subject != "hardware":
        reason = f"top-1 agrees on {errors.agreed} of {errors.total} images only, and the others are no ties"
    comparable = math.isfinite(errors.largest)  # otherwise the last three of the record are unknown
    return Parity(
        reference=known.reference,
        images=len(known.outputs) * different(known.shape),
        seed=SEED,
        max_abs_error=_finite(errors.largest),
        relative_error=_finite(errors.relative),
        tolerance=tolerance,
        top1_agreement=errors.agreed / errors.total if errors.total else None,
        passed=not reason,
        reason=reason,
        how=how,
        judged=judged,
        rms_error=_finite(errors.rms),
        cosine=errors.cosine if comparable else None,
        snr_db=errors.snr if comparable else None,
        range_error=_finite(errors.span) if comparable else None,
    )


def _compared(known: ReferenceOutputs, session: Session) -> _Errors:
    """Run a session on the fixed images, and return the errors of all its outputs."""
    errors = _Errors()
    for batch, expected in zip(images(known.shape, known.form), known.outputs, strict=True):
        session.set_input(batch)
        session.run()
        session.wait()
        actual = session.get_output()
        if list(actual) != list(expected):
            errors.fail(f"the file's outputs are {', '.join(actual)}")
            break
        for name, values in expected.items():
            errors.add(name, actual[name].astype(np.float64), values.astype(np.float64), known.head)
    return errors


def _odd(values: "NDArray[np.float64]") -> str:
    """Return in words the numbers of values that are NaN and infinite, such as ``2 NaN of 1000 values``."""
    counts = {"NaN": int(np.isnan(values).sum()), "infinite": int(np.isinf(values).sum())}
    named = " and ".join(f"{count} {what}" for what, count in counts.items() if count)
    return f"{named} of {values.size} values"


def cosine(actual: "NDArray[np.float64]", expected: "NDArray[np.float64]") -> float:
    """Return the cosine of the angle between the outputs for the worst image; 0 if one of the two is zero."""
    actual, expected = actual.reshape(len(actual), -1), expected.reshape(len(expected), -1)
    lengths = np.linalg.norm(actual, axis=1) * np.linalg.norm(expected, axis=1)
    products = (actual * expected).sum(1)
    return float(np.divide(products, lengths, out=np.zeros_like(products), where=lengths > 0).min())


def _snr_db(actual: "NDArray[np.float64]", expected: "NDArray[np.float64]") -> float:
    """Return the mean square of the reference over that of the errors, in decibels; `EXACT_DB` at most."""
    return decibels(float(np.square(expected).sum()), float(np.square(actual - expected).sum()))


def decibels(signal: float, noise: float) -> float:
    """Return the ratio of two sums of squares in decibels, between minus and plus `EXACT_DB`."""
    if noise == 0:
        return EXACT_DB
    return min(EXACT_DB, 10 * math.log10(signal / noise)) if signal > 0 else -EXACT_DB


def difference(reference: "nn.Module", network: "nn.Module", shape: Shape) -> float:
    """Return the largest difference of two networks' outputs over the reference's largest magnitude, on fixed images.

    Both networks are in float64 and evaluation mode. The exactness of the fusing algebra is stated by it.
    """
    import torch

    batch = torch.from_numpy(images(shape)[0]).double()
    with torch.no_grad():
        expected, actual = reference(batch), network(batch)
    pairs = zip(expected, actual, strict=True) if isinstance(expected, tuple) else [(expected, actual)]
    return max(float((a - b).abs().max() / a.abs().max()) for a, b in pairs)


def _finite(value: float) -> float:
    """Return the value, or -1 for infinity and NaN, which JSON lacks; the record's reason then explains it."""
    return value if math.isfinite(value) else -1.0
