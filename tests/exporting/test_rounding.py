"""The fidelity of 8-bit outputs, and those of a rounded network as what a file is proved against."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fastvit_bench.backends import Images
from fastvit_bench.exporting import fidelity, rounding, verification
from fastvit_bench.network.factory import Reference
from fastvit_bench.network.fastvit import Form
from fastvit_bench.records import MEAN, STD, Fidelity, Head, Shape
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


def likeness(network: nn.Module, std: tuple[float, float, float] | None = None) -> Fidelity:
    return fidelity.compare(fidelity.expected(reference(), IMAGES), rounding.of_network(network, SHAPE, std))


@pytest.mark.parametrize("centred", [True, False])
def test_an_equal_network_is_as_faithful_as_float32(centred: bool) -> None:
    std = STD if centred else None
    found = likeness(Sums(divided=centred), std)
    assert found.images == len(IMAGES)
    assert found.snr_db > 120
    assert found.cosine == pytest.approx(1)
    assert found.top1_agreement == 1


def test_a_network_with_an_error_is_less_faithful() -> None:
    coarse = likeness(Sums(0.3))
    fine = likeness(Sums(0.003))
    assert fine.snr_db == pytest.approx(coarse.snr_db + 40, abs=0.5)
    assert coarse.cosine < fine.cosine


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_have_no_signal(value: float) -> None:
    found = likeness(Sums(value))
    assert (found.snr_db, found.cosine, found.top1_agreement) == (-verification.EXACT_DB, 0, 0)


def test_the_worst_output_counts_and_labels_are_the_networks() -> None:
    images = [np.zeros((3, 1, 1), np.float32)] * 2
    outputs = [np.array([[4.0, 3.0]]), np.array([[1.0]])]
    known = fidelity.Expected(Head.CLASSIFIER, images, [outputs, outputs])
    found = fidelity.compare(known, lambda image: [outputs[0], outputs[1] + 0.1], labels=[0, 1])
    assert found.snr_db == pytest.approx(20)
    assert (found.top1_agreement, found.correct) == (1, 1)


class Doubling:
    """A session of an encoder whose output is twice the mean of each channel."""

    def set_input(self, images: np.ndarray) -> None:
        self._means = images.mean((2, 3))

    def run(self) -> None: ...

    def wait(self) -> None: ...

    def get_output(self) -> dict[str, np.ndarray]:
        return {"embedding": 2 * self._means}


def test_a_session_is_given_batches_of_one_image() -> None:
    session: Any = Doubling()
    (found,) = fidelity.of_session(session, Head.EMBEDDING, 3)(IMAGES[0])
    assert found.shape == (1, 3)
    np.testing.assert_allclose(found[0], 2 * IMAGES[0].mean((1, 2)), rtol=1e-6)


def test_outputs_are_those_of_the_rounded_network_for_pixels() -> None:
    network = Sums(0.1, divided=True)
    known = rounding.outputs(network, reference(), SHAPE, Images.PIXELS, IMAGENET, STD)
    batch = torch.from_numpy(verification.images(SHAPE, Images.PIXELS)[0]).double() / 255 - torch.tensor(MEAN)
    expected = network(batch.permute(0, 3, 1, 2)).detach().numpy()
    np.testing.assert_allclose(known.outputs[0]["logits"], expected, atol=1e-5)
    assert "own network with rounded values" in known.reference
