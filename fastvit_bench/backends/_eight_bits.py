"""Calibration of networks for 8-bit weights, and 8-bit activations too, by Apple's coreai-opt.

Its eager mode takes a second where its graph mode, which compares the network with hundreds of patterns, takes minutes.
"""

import contextlib
import importlib
import importlib.util
from collections import Counter
from collections.abc import Container, Generator, Sequence
from typing import TYPE_CHECKING, Any

from fastvit_bench import install
from fastvit_bench.backends._silence import silenced
from fastvit_bench.backends._text import first_line
from fastvit_bench.errors import FastViTBenchError, UnavailableError, UsageError
from fastvit_bench.records import ExportJob, Quantisation
from fastvit_bench.records.spec import Triple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn
    from torch.export import ExportedProgram

PACKAGES = ("coreai-opt", "torchao")
ACTIVATIONS = "w8a8"  # the precision of weights and activations, which takes images


def unavailable_reason(precision: str, precisions: Container[str]) -> str | None:
    """Return why files of a precision that is one of `precisions` cannot be written here; None where they can."""
    if precision not in precisions or importlib.util.find_spec("coreai_opt") is not None:
        return None
    return f"the package coreai-opt is not installed, and {precision} needs it; run: {install.extra('coreai')}"


def require_images(asked: ExportJob, images: "Sequence[NDArray[np.float32]]") -> None:
    """Raise `UsageError` without images where activations are rounded."""
    if asked.precision == ACTIVATIONS and not images:
        raise UsageError("W8A8 needs images for the ranges of its activations; name them with --calibration DIR.")


@contextlib.contextmanager
def translated(asked: ExportJob) -> Generator[None]:
    """Silence coreai-opt, and turn whatever it raises into one sentence."""
    try:
        with silenced():
            yield
    except (FastViTBenchError, MemoryError, OSError):
        raise
    except Exception as error:  # coreai-opt and torch raise many kinds
        raise UnavailableError(
            f"coreai-opt cannot round {asked.model} {asked.shape.size}: {first_line(error)}."
        ) from error


def calibrated(
    network: "nn.Module", asked: ExportJob, images: "Sequence[NDArray[np.float32]]", std: Triple | None
) -> Any:
    """Return coreai-opt's quantiser of a network in float32, which is changed; activations have the images' ranges.

    Images (3, H, W) are normalised. `std` is what the network divides them by itself, as in `GraphVariant`.
    """
    import torch

    quantiser: Any = importlib.import_module("coreai_opt.quantization").Quantizer(network, _config(asked.precision))
    prepared = quantiser.prepare((torch.zeros(asked.shape.nchw),))
    if asked.precision == ACTIVATIONS:
        with quantiser.calibration_mode(), torch.no_grad():
            for batch in _batches(images, asked.shape.batch, std):
                prepared(batch)
    return quantiser


def finished(quantiser: Any, backend: str) -> "nn.Module":
    """Return the rounded network in the form of one of coreai-opt's back ends, ``CoreAI`` or ``CoreML``."""
    opt: Any = importlib.import_module("coreai_opt")
    return quantiser.finalize(backend=getattr(opt.ExportBackend, backend))


def scheme(asked: ExportJob, exported: "ExportedProgram", rounded: Container[str]) -> Quantisation:
    """Return the record of a rounded network that was exported; `rounded` are its 8-bit weights by name."""
    opt: Any = importlib.import_module("coreai_opt")
    activations = asked.precision == ACTIVATIONS
    integer, floating = _counted(exported, rounded)
    return Quantisation(
        weights="int8 symmetric per channel",
        activations="int8 symmetric per tensor" if activations else "float16",
        ranges="moving average of extremes" if activations else "extremes of weights",
        quantiser=f"coreai-opt {opt.__version__}",
        integer=integer,
        floating=floating,
        calibration=asked.calibration.chosen if asked.calibration else None,
    )


def _config(precision: str) -> Any:
    """Return coreai-opt's configuration: int8, weights symmetric per output channel, activations per tensor."""
    import torch

    config: Any = importlib.import_module("coreai_opt.quantization.config")
    spec: Any = importlib.import_module("coreai_opt.quantization.spec")
    eager = config.ExecutionMode.EAGER
    if precision != ACTIVATIONS:
        return config.QuantizerConfig.presets.w8(axis=0, execution_mode=eager)
    weights = spec.QuantizationSpec(
        dtype=torch.int8,
        qscheme=spec.QuantizationScheme.SYMMETRIC,
        granularity=spec.PerChannelGranularity(axis=0),
    )
    # outputs stay as they are: the next operation rounds its inputs, and to round both would do everything twice
    every = config.ModuleQuantizerConfig(op_output_spec=None, op_state_spec={"weight": weights})
    return config.QuantizerConfig(global_config=every, execution_mode=eager)


def _batches(images: "Sequence[NDArray[np.float32]]", size: int, std: Triple | None) -> "list[Tensor]":
    """Return batches (N, 3, H, W) in the form that the network takes; the last is filled up with its first image."""
    import numpy as np
    import torch

    scale = np.array(std or (1, 1, 1), np.float32).reshape(3, 1, 1)
    rows = [images[at : at + size] for at in range(0, len(images), size)]
    return [torch.from_numpy(np.stack([*row, *[row[0]] * (size - len(row))]) * scale) for row in rows]


def _counted(exported: "ExportedProgram", rounded: Container[str]) -> tuple[dict[str, int], dict[str, int]]:
    """Return the operations whose inputs all have 8 bits, by kind, and the others that compute.

    Whether a device computes the first in integers is its own decision.
    """
    names = exported.graph_signature.inputs_to_parameters
    eight: set[Any] = {node for node in exported.graph.nodes if names.get(node.name, "") in rounded}
    integer: Counter[str] = Counter()
    floating: Counter[str] = Counter()
    for node in exported.graph.nodes:
        namespace, _, operator = str(node.target).partition(".")
        kind = str(node.target).removeprefix("aten.").partition(".")[0]
        if node.op != "call_function":
            continue
        if namespace in _ROUNDING or kind in _VIEWS:
            if not operator.startswith("quantize") and (kind not in _VIEWS or node.args[0] in eight):
                eight.add(node)
            continue
        inputs = node.args[:2] if kind in _BIASED else node.all_input_nodes
        (integer if all(value in eight for value in inputs if hasattr(value, "op")) else floating)[kind] += 1
    return dict(sorted(integer.items())), dict(sorted(floating.items()))


_ROUNDING = {"coreai", "quantized_decomposed"}  # namespaces of operators that round or restore
_BIASED = {"conv2d", "convolution", "linear"}  # whose third argument is a bias, which stays in float
_VIEWS = {"view", "reshape", "flatten", "transpose", "permute", "split", "unsqueeze", "squeeze", "getitem", "cat"}
