"""Networks with 8-bit weights, and with 8-bit activations too, through Apple's coreai-opt.

Its eager mode takes a second where its graph mode, which compares the network with hundreds of patterns, takes minutes.
"""

import importlib
import importlib.util
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvit_bench import install
from fastvit_bench.backends import RoundedNetwork
from fastvit_bench.errors import ParityError, UsageError
from fastvit_bench.network import registry
from fastvit_bench.records import ExportJob, Quantisation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

PRECISIONS = ("w8", "w8a8")  # of weights alone; of weights and activations, which takes images
PACKAGES = ("coreai-opt", "torchao")


def unavailable_reason(precision: str) -> str | None:
    """Return why files of a precision cannot be written here and the remedy; None where they can."""
    if precision not in PRECISIONS or importlib.util.find_spec("coreai_opt") is not None:
        return None
    return f"the package coreai-opt is not installed, and {precision} needs it; run: {install.extra('coreai')}"


def rounded(network: "nn.Module", asked: ExportJob, images: "Sequence[NDArray[np.float32]]") -> RoundedNetwork:
    """Return a copy of a network in float32 whose weights, and activations, are rounded as a file stores them.

    The ranges of activations are those of `images` (3, H, W), normalised. Raises `UsageError` without images that
    activations need.
    """
    import copy

    import torch

    from fastvit_bench.backends.coreai import convert, projection

    activations = asked.precision == "w8a8"
    if activations and not images:
        raise UsageError("W8A8 needs images for the ranges of its activations; name them with --calibration DIR.")
    network = copy.deepcopy(network).float().eval()
    projection.replace_linear_layers(network)
    example = torch.zeros(asked.shape.nchw)
    with convert.translated(f"{asked.model} {asked.shape.size}"):
        opt: Any = importlib.import_module("coreai_opt")
        quantizer = importlib.import_module("coreai_opt.quantization").Quantizer(network, _config(activations))
        prepared = quantizer.prepare((example,))
        if activations:
            with quantizer.calibration_mode(), torch.no_grad():
                for batch in _batches(images, asked):
                    prepared(batch)
        final: nn.Module = quantizer.finalize(backend=opt.ExportBackend.CoreAI)
        integer, floating = _counted(final, example)
    scheme = Quantisation(
        weights="int8 symmetric per channel",
        activations="int8 symmetric per tensor" if activations else "float16",
        ranges="moving average of extremes" if activations else "extremes of weights",
        quantiser=f"coreai-opt {opt.__version__}",
        integer=integer,
        floating=floating,
        calibration=asked.calibration.chosen if asked.calibration else None,
    )
    return RoundedNetwork(final, scheme)


TWIN_DB = 80.0  # measured: equal bit for bit with 8-bit activations (T8, SA12); with 8-bit weights alone 120 dB


def check_twin(twin: Path, network: "nn.Module", asked: ExportJob) -> None:
    """Raise `ParityError` unless an FP32 asset on Apple's interpreter computes what its rounded network computes.

    In FP16 an activation may fall to the other side of a step, and one such flip changes many others. In FP32 there
    are hardly any, so that this comparison is tight where that of the FP16 asset is not.
    """
    import numpy as np
    import torch

    from fastvit_bench.backends.coreai import interpreter

    draw, shape = np.random.default_rng(0), asked.shape
    batch: Any = draw.standard_normal(shape.nchw, np.float32)
    taken = torch.from_numpy(batch)
    if asked.options["input"] == "image":
        batch = draw.integers(0, 256, (shape.batch, shape.height, shape.width, 3), np.uint8)
        mean = torch.tensor(registry.preparation_of(asked).mean)
        taken = (torch.from_numpy(batch).float() * (1 / 255) - mean).permute(0, 3, 1, 2).contiguous()
    with torch.no_grad():
        outputs = network(taken)
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


def _config(activations: bool) -> Any:
    """Return coreai-opt's configuration: int8, weights symmetric per output channel, activations per tensor."""
    import torch

    config: Any = importlib.import_module("coreai_opt.quantization.config")
    spec: Any = importlib.import_module("coreai_opt.quantization.spec")
    eager = config.ExecutionMode.EAGER
    if not activations:
        return config.QuantizerConfig.presets.w8(axis=0, execution_mode=eager)
    weights = spec.QuantizationSpec(
        dtype=torch.int8,
        qscheme=spec.QuantizationScheme.SYMMETRIC,
        granularity=spec.PerChannelGranularity(axis=0),
    )
    # outputs stay as they are: the next operation rounds its inputs, and to round both would do everything twice
    every = config.ModuleQuantizerConfig(op_output_spec=None, op_state_spec={"weight": weights})
    return config.QuantizerConfig(global_config=every, execution_mode=eager)


def _batches(images: "Sequence[NDArray[np.float32]]", asked: ExportJob) -> "list[Tensor]":
    """Return batches (N, 3, H, W) in the form that the network takes; the last one is filled up with its first image.

    Behind 8-bit pixels a network takes them without the division by the standard deviation.
    """
    import numpy as np
    import torch

    std = registry.preparation_of(asked).std if asked.options["input"] == "image" else (1, 1, 1)
    scale = np.array(std, np.float32).reshape(3, 1, 1)
    size = asked.shape.batch
    rows = [images[at : at + size] for at in range(0, len(images), size)]
    return [torch.from_numpy(np.stack([*row, *[row[0]] * (size - len(row))]) * scale) for row in rows]


def _counted(network: "nn.Module", example: "Tensor") -> tuple[dict[str, int], dict[str, int]]:
    """Return the operations whose inputs all have 8 bits, by kind, and the others that compute.

    Whether a device computes the first in integers is its own decision.
    """
    import torch

    with torch.no_grad():
        graph = torch.export.export(network, (example,)).graph
    eight: set[Any] = set()
    integer: Counter[str] = Counter()
    floating: Counter[str] = Counter()
    for node in graph.nodes:
        kind = str(node.target).removeprefix("aten.").partition(".")[0]
        if node.op != "call_function":
            continue
        if str(node.target).startswith("coreai.") or kind in _VIEWS:
            if not str(node.target).startswith("coreai.quantize") and (kind not in _VIEWS or node.args[0] in eight):
                eight.add(node)
            continue
        inputs = node.args[:2] if kind in _BIASED else node.all_input_nodes
        (integer if all(value in eight for value in inputs if hasattr(value, "op")) else floating)[kind] += 1
    return dict(sorted(integer.items())), dict(sorted(floating.items()))


_BIASED = {"conv2d", "convolution", "linear"}  # whose third argument is a bias, which stays in float
_VIEWS = {"view", "reshape", "flatten", "transpose", "permute", "split", "unsqueeze", "squeeze", "getitem", "cat"}
