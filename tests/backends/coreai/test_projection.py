"""Linear layers as 1 x 1 convolutions: the same results and names of weights, for every rank of their input."""

import pytest
import torch
from torch import nn

from fastvit_bench.backends.coreai import projection


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(2, 5), (2, 7, 5), (2, 3, 4, 5)])
def test_the_results_are_those_of_the_linear_layer(shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Identity(), nn.Sequential(nn.Linear(5, 6, bias=bias))).double()
    x = torch.randn(shape, dtype=torch.float64)
    expected, names = network(x), [name for name, _ in network.named_parameters()]
    projection.replace_linear_layers(network)
    assert not any(isinstance(module, nn.Linear) for module in network.modules())
    assert [name for name, _ in network.named_parameters()] == names
    torch.testing.assert_close(network(x), expected)


def test_a_layer_that_computes_something_else_stays() -> None:
    class Scaled(nn.Linear):
        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(*inputs)

    network = nn.Sequential(Scaled(2, 2))
    projection.replace_linear_layers(network)
    assert type(network[0]) is Scaled
