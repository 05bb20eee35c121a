"""Networks with 8-bit weights, and with 8-bit activations too, as Core AI's files hold them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvit_bench.backends import RoundedNetwork, _eight_bits
from fastvit_bench.errors import ParityError
from fastvit_bench.network import registry
from fastvit_bench.records import ExportJob

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import nn

PRECISIONS = ("w8", "w8a8")  # of weights alone; of weights and activations, which takes images
PACKAGES = _eight_bits.PACKAGES


def unavailable_reason(precision: str) -> str | None:
    """Return why files of a precision cannot be written here and the remedy; None where they can."""
    return _eight_bits.unavailable_reason(precision, PRECISIONS)


def rounded(network: "nn.Module", asked: ExportJob, images: "Sequence[NDArray[np.float32]]") -> RoundedNetwork:
    """Return a copy of a network in float32 whose weights, and activations, are rounded as a file stores them.

    The ranges of activations are those of `images` (3, H, W), normalised. Raises `UsageError` without images that
    activations need.
    """
    import copy

    import torch

    from fastvit_bench.backends.coreai import projection

    _eight_bits.require_images(asked, images)
    network = copy.deepcopy(network).float().eval()
    projection.replace_linear_layers(network)
    std = registry.preparation_of(asked).std if asked.options["input"] == "image" else None
    with _eight_bits.translated(asked):
        final = _eight_bits.finished(_eight_bits.calibrated(network, asked, images, std), "CoreAI")
        with torch.no_grad():
            exported = torch.export.export(final, (torch.zeros(asked.shape.nchw),))
        return RoundedNetwork(final, _eight_bits.scheme(asked, exported, ()))


TWIN_DB = 80.0  # measured: equal bit for bit with 8-bit activations (T8, SA12); with 8-bit weights alone 120 dB


def check_twin(twin: Path, network: "nn.Module", asked: ExportJob) -> None:
    """Raise `ParityError` unless an FP32 asset on Apple's interpreter computes what its rounded network computes.

    In FP16 an activation may fall to the other side of a step, and one such flip changes many others. In FP32 there
    are hardly any, so that this comparison is tight where that of the FP16 asset is not.
    """
    import numpy as np
    import torch

    from fastvit_bench.backends.coreai import interpreter
    from fastvit_bench.network.pixels import PixelInput

    draw, shape = np.random.default_rng(0), asked.shape
    batch: Any = draw.standard_normal(shape.nchw, np.float32)
    if asked.options["input"] == "image":
        batch = draw.integers(0, 256, (shape.batch, shape.height, shape.width, 3), np.uint8)
        network = PixelInput(network, registry.preparation_of(asked).mean, torch.float32)
    with torch.no_grad():
        outputs = network(torch.from_numpy(batch))
    expected = outputs if isinstance(outputs, tuple) else (outputs,)
    with interpreter.started(twin) as started:
        actual = started.run(batch)
    for (name, values), wanted in zip(actual.items(), expected, strict=True):
        error = np.square(values - wanted.numpy()).sum(dtype=np.float64)
        signal = float(wanted.double().square().sum())
        if not error <= signal * 10 ** (-TWIN_DB / 10):
            snr_db = 10 * np.log10(signal / error) if np.isfinite(error) and signal else 0.0
            raise ParityError(
                f"The asset in FP32 does not compute what its rounded network computes: the signal of {name} is "
                f"{snr_db:.0f} dB over the error, required are {TWIN_DB:.0f}."
            )
