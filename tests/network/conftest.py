"""Networks with weights on which every branch matters."""

from collections.abc import Callable

import numpy as np
import pytest
from torch import Tensor


@pytest.fixture(scope="session")
def difference() -> Callable[..., float]:
    """Two outputs of a network (a tensor or several) -> largest error over the second one's standard deviation."""

    def of(ours: Tensor | tuple[Tensor, ...], theirs: Tensor | tuple[Tensor, ...]) -> float:
        if isinstance(ours, Tensor):
            ours, theirs = (ours,), (theirs,)
        assert [a.shape for a in ours] == [b.shape for b in theirs]
        errors = [((a - b).abs().max() / b.std()).item() for a, b in zip(ours, theirs, strict=True)]
        assert not any(np.isnan(errors))
        return max(errors)

    return of
