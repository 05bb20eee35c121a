"""Apple's coreai-opt, as far as it is called: it rounds weights, and every `nn.Identity` stands for an activation."""

import contextlib
import importlib.machinery
import sys
from collections import OrderedDict
from collections.abc import Generator
from functools import partial
from types import ModuleType
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn


class _Step(nn.Module):
    """`_MILActivationQuantizeModule`, by the buffers that are read."""

    def __init__(self, step: float) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(step))

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("it is replaced before the network runs")


class Quantizer:
    """Ranges of activations are the extremes of what passes while it calibrates."""

    def __init__(self, network: nn.Module, config: Any) -> None:
        self._network, self._largest = network, dict[str, float]()

    def prepare(self, example: tuple[Tensor, ...]) -> nn.Module:
        return self._network

    @contextlib.contextmanager
    def calibration_mode(self) -> Generator[None]:
        hooks = [
            module.register_forward_hook(partial(self._watch, name))
            for name, module in self._network.named_modules()
            if isinstance(module, nn.Identity)
        ]
        yield
        for hook in hooks:
            hook.remove()

    def _watch(self, name: str, module: nn.Module, inputs: Any, output: Tensor) -> None:
        self._largest[name] = max(self._largest.get(name, 0), float(output.abs().max()))

    def finalize(self, backend: str) -> nn.Module:
        assert backend == "CoreML"
        for name, largest in self._largest.items():
            parts = OrderedDict[str, nn.Module](quantize=_Step(largest / 127), dequantize=nn.Identity())
            self._network.set_submodule(name, nn.Sequential(parts))
        for module in list(self._network.modules()):
            if isinstance(module, nn.Conv2d | nn.Linear):
                axes = tuple(range(1, module.weight.ndim))
                step = module.weight.detach().abs().amax(axes, keepdim=True) / 127
                module.weight.data = (module.weight / step).round() * step
                noted = {"quantization_scale": step, "zero_point": torch.zeros_like(step, dtype=torch.int8)}
                noted |= {"compression_type": torch.tensor([3]), "quantization_n_bits": torch.tensor(8)}
                for key, value in noted.items():
                    module.register_buffer(f"_COREML_/weight/{key}", value)
        return self._network


class _Anything(ModuleType):
    """A module of configuration, whose content is read by the quantiser alone."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Anything(name)

    def __call__(self, *words: Any, **named: Any) -> Any:
        return None


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `import coreai_opt` find the stand-in."""
    package = ModuleType("coreai_opt")
    quantization = ModuleType("coreai_opt.quantization")
    for module in (package, quantization):
        module.__path__ = []
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
    cast(Any, package).__version__ = "0.4.0"
    cast(Any, package).ExportBackend = type("ExportBackend", (), {"CoreML": "CoreML", "CoreAI": "CoreAI"})
    cast(Any, quantization).Quantizer = Quantizer
    named = [package, quantization, *(_Anything(f"coreai_opt.quantization.{name}") for name in ("config", "spec"))]
    for module in named:
        monkeypatch.setitem(sys.modules, module.__name__, module)
