"""Random weights: near one at every depth of every family, and the same for a seed wherever they are drawn."""

import importlib.util
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fastvit_bench.network import factory, random_weights
from fastvit_bench.network.fastvit import VARIANTS, FastViT, Variant
from fastvit_bench.network.random_weights import draw, randomise
from fastvit_bench.network.registry import Mixer
from fastvit_bench.records import Head, Shape

SMALL = Variant((1, 1, 1, 1), (32, 64, 128, 256), 2, Mixer.ATTENTION, 0.0)
SIDE = 64
timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")


def deviations(network: nn.Module, images: Tensor) -> dict[str, float]:
    """Standard deviation of what each layer with weights puts out, by its name."""
    kept: dict[str, float] = {}

    def keep(name: str) -> object:
        return lambda module, inputs, output: kept.__setitem__(name, output.std().item())

    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm2d):
            module.register_forward_hook(keep(name))  # type: ignore[arg-type]
    with torch.no_grad():
        network(images)
    return kept


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("fastvit_t8", 224),
        ("litv2_s", 224),
        *(
            pytest.param(name, size, marks=pytest.mark.slow)
            for name, size in (
                *(("fastvit_sa12", 224), ("fastvit_ma36", 224)),
                *(("metaformer_s12_overparam", 224), ("cmt_ti", 160)),
            )
        ),
        *(
            pytest.param(f"timm:{arch}", 224, marks=[timm, pytest.mark.slow])
            for arch in ("fastvit_s12", "mobileone_s4", "resnet50", "convnext_tiny", "swin_tiny_patch4_window7_224")
        ),
        pytest.param("timm:mobileone_s0", 224, marks=[timm, pytest.mark.slow]),
        pytest.param("timm:fastvit_sa36", 64, marks=[timm, pytest.mark.slow]),
    ],
)
def test_activations_stay_near_one_through_the_depth(name: str, size: int) -> None:
    network = factory.random(name, Head.CLASSIFIER, 100, 0, Shape(batch=1, height=size, width=size)).network.float()
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(5))  # not those it was fitted on
    spread = deviations(network, images)
    assert max(spread.values()) < 10, max(spread, key=spread.__getitem__)
    with torch.no_grad():
        outputs = network(images)
    assert 0.05 < outputs.std() < 5


@pytest.mark.parametrize("size", [32, 256, 512])
def test_weights_of_one_size_serve_others(size: int) -> None:
    network = FastViT(SMALL, classes=10).eval()
    randomise(network, 0)
    spread = deviations(network, torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(5)))
    assert max(spread.values()) < 10


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_a_seed_gives_the_same_whatever_the_type_and_the_threads(threads: int) -> None:
    def state(seed: int, dtype: torch.dtype) -> dict[str, Tensor]:
        network = FastViT(VARIANTS["fastvit_t8"], classes=2).to(dtype)
        randomise(network, seed)
        assert network.training
        assert {parameter.dtype for parameter in network.parameters()} == {dtype}
        return {key: tensor.float() for key, tensor in network.state_dict().items()}

    once = state(1, torch.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        again, other = state(1, torch.float64), state(2, torch.float32)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(once[key], again[key]) for key in once)
    assert not torch.equal(once["head.weight"], other["head.weight"])


def test_torchs_own_random_state_is_left_as_it_is() -> None:
    network = FastViT(SMALL, classes=2)
    before = torch.get_rng_state()
    randomise(network, 0)
    assert torch.equal(torch.get_rng_state(), before)


class Deep(nn.Module):
    """A residual network without a norm, whose signal doubles with each block, and factors per channel as timm has."""

    def __init__(self) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1, groups=3) for _ in range(60))
        self.gamma = nn.Parameter(torch.ones(3, 1, 1))
        self.gamma_1 = nn.Parameter(torch.ones(3))

    def forward(self, x: Tensor) -> Tensor:
        for convolution in self.convolutions:
            x = x + convolution(x)
        return self.gamma * x


def test_what_has_no_norm_does_not_explode_either() -> None:
    network = Deep()
    drawn = Deep()
    draw(drawn, 0)
    images = torch.randn(1, 3, SIDE, SIDE)
    with torch.no_grad():
        assert drawn(images).std() > 1e4  # the fault: nothing but drawn
    randomise(network, 0, (SIDE, SIDE))
    assert max(deviations(network, images).values()) < 10
    for factors in (network.gamma, network.gamma_1):
        assert factors.min() >= 0.02
        assert factors.max() <= 0.1


def test_few_samples_per_channel_share_their_variance() -> None:
    """A norm behind a global mean sees nearly the same for all images: its own variance would be rounding."""
    network = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(3, 32, 1), nn.BatchNorm2d(32)).eval()
    randomise(network, 0, (SIDE, SIDE))
    with torch.no_grad():
        moved = network(torch.randn(1, 3, SIDE, SIDE)) - network(torch.randn(1, 3, SIDE, SIDE))
    assert moved.abs().max() < 10


@settings(max_examples=50)
@given(st.floats(1e-12, 1e12), st.floats(-1e-13, 1e-13))
def test_rounding_hides_what_machines_disagree_on(value: float, error: float) -> None:
    exact, near = (torch.tensor([v], dtype=torch.float64) for v in (value, value * (1 + error)))
    one, other = random_weights._rounded(exact), random_weights._rounded(near)
    assert math.isclose(one.item(), value, rel_tol=2**-8)
    assert math.isclose(one.item(), other.item(), rel_tol=2**-7)
    assert one.float().double().item() == one.item()
