"""Records of the difference between an exported file's outputs and the reference network's."""

import math
from typing import Annotated, Literal

import msgspec

from fastvit_bench.records.spec import Record

Error = Annotated[float, msgspec.Meta(ge=0)]


class Parity(Record, frozen=True):
    """The errors of an artifact's outputs against the unfused network in float64, on fixed inputs."""

    reference: str  # description of the reference network and inputs
    images: int
    seed: int
    max_abs_error: Error  # over all outputs
    relative_error: Error  # the largest over that reference output's standard deviation
    tolerance: Annotated[float, msgspec.Meta(gt=0, le=1)]  # of the relative error or of the RMS error, as `judged` says
    top1_agreement: float | None  # share of images with the same top-1 class; None without a classifier
    passed: bool
    reason: str = ""  # of a failure
    how: str = ""  # what computed the file's outputs, in words
    judged: Literal["max", "rms"] = "max"
    rms_error: Error | None = None  # root mean square error over the output's standard deviation, of the worst output
    cosine: float | None = None  # smallest cosine similarity of an image's outputs and the reference's
    snr_db: float | None = None  # mean square of the reference outputs over that of the errors, of the worst output
    range_error: float | None = None  # the largest error over the range of the reference output

    @property
    def error(self) -> float:
        """The error that the tolerance is of; infinite where it is not known."""
        error = self.relative_error if self.judged == "max" else self.rms_error
        return math.inf if error is None else error

    @property
    def spent(self) -> float:
        """Share of the tolerance that the error takes up."""
        return self.error / self.tolerance

    @property
    def failure(self) -> str:
        """Why nothing may be concluded from the proof; empty for one that passed within its own tolerance."""
        if not self.passed:
            return self.reason or "no reason is recorded"
        if self.spent > 1:
            return f"it is called passed, but its error is {self.spent:.1e} of what it allows"
        return ""


class HalfWeights(Record, frozen=True):
    """The effect of float16 on a network's weights; an overflowing weight would have stopped the export."""

    weights: int  # number of floating-point weights
    subnormal: int  # below 2^-14 in magnitude, so stored with fewer significant bits
    zeroed: int  # rounded to 0
    largest: float  # largest magnitude
    largest_of: str  # name of the weight tensor with it
