"""The fidelity of a rounded network, and its outputs as what a file is proved against."""

import numpy as np
import pytest
import torch
from torch import nn

from fastvit_bench.backends import Images
from fastvit_bench.exporting import rounding, verification
from fastvit_bench.network.factory import Reference
from fastvit_bench.network.fastvit import Form
from fastvit_bench.records import MEAN, STD, Head, Shape
from fastvit_bench.records.preparation import IMAGENET

SHAPE = Shape(batch=2, height=8, width=8)
IMAGES = list(np.random.default_rng(0).standard_normal((6, 3, 8, 8), np.float32))


class Sums(nn.Module):
    """Sums of weighted channels, of four classes."""

    def __init__(self, error: float = 0.0, divided: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.arange(12.0).reshape(3, 4).cos() + error)
        self.scale = torch.tensor(STD if divided else (1, 1, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        weight = self.weight.double() / self.scale[:, None].double()
        return (x.double().mean((2, 3)) @ weight).to(x.dtype)


def reference() -> Reference:
    return Reference(Sums().double().eval(), Head.CLASSIFIER, 4, Form.UNFUSED)


@pytest.mark.parametrize("centred", [True, False])
def test_an_equal_network_is_as_faithful_as_float32(centred: bool) -> None:
    std = STD if centred else None
    found = rounding.fidelity(Sums(divided=centred), reference(), IMAGES, SHAPE, std)
    assert found.images == len(IMAGES)
    assert found.snr_db > 120
    assert found.cosine == pytest.approx(1)
    assert found.top1_agreement == 1


def test_a_network_with_an_error_is_less_faithful() -> None:
    coarse = rounding.fidelity(Sums(0.3), reference(), IMAGES, SHAPE)
    fine = rounding.fidelity(Sums(0.003), reference(), IMAGES, SHAPE)
    assert fine.snr_db == pytest.approx(coarse.snr_db + 40, abs=0.5)
    assert coarse.cosine < fine.cosine


def test_without_images_the_fixed_ones_are_compared() -> None:
    found = rounding.fidelity(Sums(), reference(), [], SHAPE)
    assert found.images == len(verification.images(Shape(batch=1, height=8, width=8)))


def test_outputs_are_those_of_the_rounded_network_for_pixels() -> None:
    network = Sums(0.1, divided=True)
    known = rounding.outputs(network, reference(), SHAPE, Images.PIXELS, IMAGENET, STD)
    batch = torch.from_numpy(verification.images(SHAPE, Images.PIXELS)[0]).double() / 255 - torch.tensor(MEAN)
    expected = network(batch.permute(0, 3, 1, 2)).detach().numpy()
    np.testing.assert_allclose(known.outputs[0]["logits"], expected, atol=1e-5)
    assert "own network with rounded values" in known.reference
