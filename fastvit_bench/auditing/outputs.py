"""Outputs of a file beside the values that a network computes: which is which, and how far off."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from fastvit_bench.backends import output_names
from fastvit_bench.exporting import verification
from fastvit_bench.network.fastvit import FastViT
from fastvit_bench.records import Head
from fastvit_bench.records.audit import OutputProof

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastvit_bench.network.factory import Reference

    Floats = NDArray[np.float64]


class NetworkValue(NamedTuple):
    """A value that the network computes for some images, which a file may give out."""

    title: str
    values: "Floats"  # (N, …)
    head: Head  # whose limit it is judged by


def network_values(reference: "Reference", batch: "Floats") -> list[NetworkValue]:
    """Return the network's outputs for images (N, 3, H, W), then the features that they are computed from."""
    network = reference.network
    assert isinstance(network, FastViT)
    maps: dict[str, Tensor] = {}

    def keep(title: str) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda _module, _inputs, output: maps.update({title: output})

    stages = [part for part in network.network if isinstance(part, nn.Sequential)]
    hooks = [stage.register_forward_hook(keep(f"map of stage {number}")) for number, stage in enumerate(stages, 1)]
    if isinstance(expansion := getattr(network, "conv_exp", None), nn.Module):
        hooks.append(expansion.register_forward_hook(keep("map before the mean")))
    try:
        with torch.inference_mode():
            outputs = network(torch.from_numpy(batch))
    finally:
        for hook in hooks:
            hook.remove()
    outputs = outputs if isinstance(outputs, tuple) else (outputs,)
    names = output_names(len(outputs), reference.head)
    values = [NetworkValue(name, _array(value), reference.head) for name, value in zip(names, outputs, strict=True)]
    if (last := maps.get("map before the mean")) is not None:
        values.append(NetworkValue("features before the classifier", _array(last.mean((2, 3))), Head.EMBEDDING))
        values.append(NetworkValue("features at each position", _array(last.flatten(2).transpose(1, 2)), Head.TOKENS))
    return values + [NetworkValue(title, _array(value), Head.STAGES) for title, value in maps.items()]


def joined(parts: Sequence[list[NetworkValue]]) -> list[NetworkValue]:
    """Return the values of several batches as those of one."""
    return [
        NetworkValue(first.title, np.concatenate([part[index].values for part in parts]), first.head)
        for index, first in enumerate(parts[0])
    ]


def _array(tensor: Tensor) -> "Floats":
    return np.ascontiguousarray(tensor.numpy())


# --- endings ---------------------------------------------------------------------------------------------------------

FLOOR = {"fp16": 2.0**-14, "fp32": 1e-30}  # smallest probability whose logarithm is compared
_STEEPEST = {"fp16": 4.0, "fp32": 10.0}  # largest logit whose sigmoid is: beyond it, digits are lost


@dataclass(frozen=True)
class Ending:
    """A function of a network's value that a file may end in, and how both are brought to one scale."""

    title: str  # "{}" stands for the value's
    expected: Callable[["Floats"], "Floats"]
    actual: Callable[["Floats"], "Floats"]
    is_exact: Callable[["Floats", str], "NDArray[np.bool_]"]  # which expected ones can be compared at a precision


def _unchanged(values: "Floats") -> "Floats":
    return values


def _everywhere(values: "Floats", precision: str) -> "NDArray[np.bool_]":
    return np.ones(values.shape, bool)


def _log_softmax(values: "Floats") -> "Floats":
    shifted = values - values.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _normalised(values: "Floats") -> "Floats":
    return values / np.maximum(np.linalg.norm(values, axis=-1, keepdims=True), 1e-300)


def _log(values: "Floats") -> "Floats":
    return np.log(np.maximum(values, 1e-300))


def _logit(values: "Floats") -> "Floats":
    inside = np.clip(values, 1e-300, 1 - 1e-16)
    return np.log(inside / (1 - inside))


PLAIN = Ending("{}", _unchanged, _unchanged, _everywhere)
# Probabilities are compared by their logarithms: of a softmax over a thousand classes most are next to nothing.
ENDINGS = (
    PLAIN,
    Ending("softmax of {}", _log_softmax, _log, lambda values, precision: values > math.log(FLOOR[precision])),
    Ending("log-softmax of {}", _log_softmax, _unchanged, _everywhere),
    Ending("sigmoid of {}", _unchanged, _logit, lambda values, precision: np.abs(values) < _STEEPEST[precision]),
    Ending("{}, divided by its norm", _normalised, _unchanged, _everywhere),
)
NORMALIZED = "embedding, divided by its norm"  # what an export can end in too


class Arithmetic(NamedTuple):
    """The arithmetic and the compression of a file, which decide what is allowed."""

    precision: str
    compress: str


class OutputMatch(NamedTuple):
    """An output read as a value of the network."""

    value: NetworkValue
    title: str
    error: float
    sorted_error: float  # of the values in their order of size, of an output (N, K); otherwise infinite
    judged: Any
    tolerance: float
    expected: "Floats"
    actual: "Floats"

    @property
    def spent(self) -> float:
        """Share of the tolerance that the error takes up."""
        return self.error / self.tolerance

    @property
    def spent_in_any_order(self) -> float:
        """The same where the order of the values does not matter."""
        return min(self.error, self.sorted_error) / self.tolerance


def nearest(actual: "NDArray[Any]", values: Sequence[NetworkValue], arithmetic: Arithmetic) -> OutputMatch | None:
    """Return the ending of an output with the smallest share of what is allowed; None where nothing has its shape."""
    matches = [
        match
        for value in values
        for fitted, suffix in [_fitted(np.asarray(actual), value.values.shape)]
        if fitted is not None
        for match in _read(fitted, suffix, value, arithmetic)
    ]
    return min(matches, key=lambda match: (match.spent_in_any_order, match.spent), default=None)


def _fitted(actual: "NDArray[Any]", shape: tuple[int, ...]) -> "tuple[NDArray[Any] | None, str]":
    """Return an output in a value's shape, and what was done to it; None where it is another."""
    squeezed = [size for size in actual.shape if size != 1]
    if squeezed == [size for size in shape if size != 1]:
        return actual.reshape(shape), ""
    if actual.ndim == len(shape) == 4 and (actual.shape[0], *actual.shape[3:], *actual.shape[1:3]) == shape:
        return actual.transpose(0, 3, 1, 2), ", channels last"
    if len(shape) == 2 and not np.issubdtype(actual.dtype, np.floating) and actual.size == shape[0]:
        return actual.reshape(shape[0]), ""
    return None, ""


def _read(actual: "NDArray[Any]", suffix: str, value: NetworkValue, arithmetic: Arithmetic) -> list[OutputMatch]:
    """Return an output as each ending of a value has it."""
    limit = verification.limit(arithmetic.precision, value.head, compress=arithmetic.compress)
    if not np.issubdtype(actual.dtype, np.floating):
        if actual.ndim != 1:
            return []
        wrong = float((actual != value.values.argmax(1)).mean())  # of whole numbers there is no nearly
        title = f"index of the largest of {value.title}"
        return [OutputMatch(value, title, wrong, wrong, limit.judged, limit.tolerance, value.values, value.values)]
    numbers = actual.astype(np.float64)
    vectors = value.values.ndim == 2
    matches: list[OutputMatch] = []
    for ending in ENDINGS if vectors else (PLAIN,):
        expected = ending.expected(value.values)
        brought = ending.actual(numbers)
        exact = ending.is_exact(expected, arithmetic.precision)
        error = _error(brought, expected, exact, limit.judged)
        in_order = _error(np.sort(brought), np.sort(expected), np.sort(exact), limit.judged) if vectors else math.inf
        title = ending.title.format(value.title) + suffix
        matches.append(OutputMatch(value, title, error, in_order, limit.judged, limit.tolerance, expected, brought))
    return matches


def _error(actual: "Floats", expected: "Floats", exact: "NDArray[np.bool_]", judged: str) -> float:
    """Return the error over the reference's standard deviation; infinite where nothing can be compared."""
    spread = float(expected[exact].std()) if exact.any() else 0.0
    apart = np.abs(actual - expected)[exact]
    if spread <= 0 or not np.isfinite(apart).all():
        return math.inf
    return float(apart.max() if judged == "max" else np.sqrt(np.square(apart).mean())) / spread


# --- verdicts ---------------------------------------------------------------------------------------------------------

LEAST_IMAGES = 3  # for an order of classes: of fewer, any network's values can be put into the order of another's


def proof(name: str, actual: "NDArray[Any]", match: OutputMatch | None) -> OutputProof:
    """Return the record of an output and of the value that it is nearest to, if any has its shape."""
    shape = tuple(np.asarray(actual).shape)
    if match is None:
        reason = "the network computes nothing of this shape"
        return OutputProof(
            name=name, shape=shape, value="", error=None, judged="max", tolerance=1, passed=False, reason=reason
        )
    passed = match.error <= match.tolerance
    classes: tuple[int, ...] = ()
    reason = "" if passed else "the error is above what is allowed"
    if not passed and match.sorted_error <= match.tolerance and len(match.expected) >= LEAST_IMAGES:
        classes = order_of(match)
        reason = f"its values are in another order ({_moved(classes)})" if classes else reason
    agreement = None
    if match.expected.ndim == 2 and match.value.head is Head.CLASSIFIER:
        agreement = float((match.actual.argmax(1) == match.expected.argmax(1)).mean())
    return OutputProof(
        name=name,
        shape=shape,
        value=match.title,
        error=match.error if math.isfinite(match.error) else None,
        judged=match.judged,
        tolerance=match.tolerance,
        passed=passed,
        top1_agreement=agreement,
        reason=reason if math.isfinite(match.error) else "it holds numbers that are infinite or not a number",
        classes=classes,
    )


def order_of(match: OutputMatch) -> tuple[int, ...]:
    """Return the network's class of each output of a file whose classes are in another order; empty where they are not.

    Each class is given once, so that the sum of squared differences is the smallest.
    """
    from scipy.optimize import linear_sum_assignment

    squares = np.square(match.actual).sum(0)[:, None] + np.square(match.expected).sum(0)[None]
    costs = squares - 2 * match.actual.T @ match.expected  # of each output and each class, over the images
    _, order = linear_sum_assignment(costs)
    placed = match.expected[:, order]
    error = _error(match.actual, placed, np.ones(placed.shape, bool), match.judged)
    return tuple(int(place) for place in order) if error <= match.tolerance else ()


def _moved(order: tuple[int, ...]) -> str:
    first = next(index for index, place in enumerate(order) if place != index)
    moved = sum(place != index for index, place in enumerate(order))
    return f"{moved} of {len(order)} moved, first: {first} is the network's {order[first]}"
