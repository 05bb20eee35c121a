"""Activations rounded to 8 bits as Core ML programs do it, and steps that FP16 holds."""

import importlib
from typing import Any

import torch
from torch import Tensor, nn

from fastvit_bench.errors import ParityError

importlib.import_module("torch.ao.quantization.fx._decomposed")  # declares the operators that coremltools knows

LEAST, LARGEST = -128, 127  # of int8
_STEPS = "_COREML_/{}/quantization_scale"  # coreai-opt's buffer beside a rounded weight, which coremltools reads


class RoundedActivation(nn.Module):
    """A tensor rounded to int8 and restored: ``quantize`` and ``dequantize`` of MIL (iOS 17).

    PyTorch's own operators multiply by the inverse of the step, where MIL divides. In FP32 that differs for some values
    in the middle between two steps. So they serve for the conversion alone.
    """

    def __init__(self, step: float) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> Tensor:
        """Return x at the nearest steps, halves to the even one."""
        if torch.compiler.is_exporting():
            operators = torch.ops.quantized_decomposed
            grid = (self.step, 0, LEAST, LARGEST, torch.int8)
            return operators.dequantize_per_tensor(operators.quantize_per_tensor(x, *grid), *grid)
        return (x / self.step).round().clamp(LEAST, LARGEST) * self.step


def settle(network: nn.Module) -> frozenset[str]:
    """Give a network of coreai-opt's Core ML back end the numbers of an FP16 file; return its 8-bit weights by name.

    The integers stay. Steps and biases are rounded to FP16, so that a file in FP16 holds exactly this network.

    Raises `ParityError` for a step that FP16 cannot hold.
    """
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if hasattr(child, "quantize") and hasattr(child, "dequantize"):
                quantize: Any = child.quantize
                setattr(module, name, RoundedActivation(float(_half(f"{name} of activations", quantize.scale))))
    names: set[str] = set()
    with torch.no_grad():
        noted = dict(network.named_buffers())
        for path, module in network.named_modules():
            for name, parameter in module.named_parameters(recurse=False):
                buffer = _STEPS.format(name)
                steps = noted.get(f"{path}.{buffer}")
                if steps is None:
                    parameter.copy_(parameter.half().float())
                    continue
                fitting = _half(f"{path}.{name}", steps)
                shape = (-1, *[1] * (parameter.ndim - 1))
                integers = (parameter / steps.reshape(shape)).round() + 0.0  # which makes 0 of -0, as integers have it
                parameter.copy_(integers * fitting.reshape(shape))
                module.register_buffer(buffer, fitting)
                names.add(f"{path}.{name}")
    return frozenset(names)


def _half(name: str, steps: Tensor) -> Tensor:
    """Return steps rounded to FP16, in float32. Raises `ParityError` for one that becomes zero or infinite."""
    fitting = steps.detach().half().float()
    if not bool(((fitting > 0) & torch.isfinite(fitting)).all()):
        raise ParityError(f"The steps {name} of 8-bit numbers do not fit into FP16; use --precision fp16.")
    return fitting
