"""Weight tensors of a network that a file holds as they are."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import nn

LEAST = 64  # numbers in a tensor: of fewer, chance could make two alike
CLOSE = 2e-3  # of the largest number: float16 rounds by 5e-4


def stored(constants: "Sequence[NDArray[Any]]", network: "nn.Module") -> tuple[int, int]:
    """Return how many of the network's weight tensors are among a file's constants, and how many were looked for.

    A tensor may be transposed, of another shape, or rounded to float16. Fusing and folding change most tensors of a
    network, but never those of its classifier and of squeeze-and-excite.
    """
    by_size: dict[int, list[NDArray[np.float32]]] = {}
    for constant in constants:
        by_size.setdefault(constant.size, []).append(constant.astype(np.float32))
    wanted = [
        parameter.detach().float().numpy()
        for parameter in network.parameters()
        if parameter.ndim > 1 and parameter.numel() >= LEAST and len(parameter.squeeze().shape) > 1
    ]
    return sum(_is_among(tensor, by_size.get(tensor.size, [])) for tensor in wanted), len(wanted)


def _is_among(tensor: "NDArray[np.float32]", candidates: "Sequence[NDArray[np.float32]]") -> bool:
    near = CLOSE * float(np.abs(tensor).max())
    flat = tensor.reshape(-1)
    return any(
        bool((np.abs(numbers[:LEAST] - flat[:LEAST]) <= near).all() and (np.abs(numbers - flat) <= near).all())
        for candidate in candidates
        for numbers in _flattened(candidate)
    )


def _flattened(constant: "NDArray[np.float32]") -> "Iterator[NDArray[np.float32]]":
    """Yield the numbers of a constant in order, and those of its transpose if it is a matrix."""
    yield constant.reshape(-1)
    matrix = constant.squeeze()
    if matrix.ndim == 2:
        yield matrix.T.reshape(-1)
