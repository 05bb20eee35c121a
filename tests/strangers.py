"""Files of others, written by their own tools: timm's FastViT with the weights of a small FastViT-T8."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from fastvit_bench.auditing import audit
from fastvit_bench.exporting import checkpoints
from fastvit_bench.network import checkpoint, factory
from fastvit_bench.records import Head, ModelSpec, Weights
from fastvit_bench.records.audit import Audit

SIZE, CLASSES = 32, 10
SHAPE = (1, 3, SIZE, SIZE)


@dataclass
class Stranger:
    """Somebody who has the weights of `spec`, and timm."""

    spec: ModelSpec
    trained: nn.Module  # timm's network in training form
    fused: nn.Module  # as timm re-parameterises it
    folder: Path

    def onnx(self, network: nn.Module, shape: tuple[int, ...] = SHAPE, half: bool = False, **more: Any) -> Path:
        """Write a network by torch's older exporter, which most files come from."""
        path = self.folder / "theirs.onnx"
        example = torch.zeros(shape, dtype=torch.float16 if half else torch.float32)
        settings: dict[str, Any] = {"opset_version": 17, "dynamo": False, **more}
        torch.onnx.export(network, (example,), str(path), **settings)
        return path

    def audit(self, path: Path, size: tuple[int, int] | None = None) -> Audit:
        """Audit a file against the weights."""
        return audit.audit(audit.subject(path, self.reference, self.spec.variant, self.weights, size, SIZE))

    @cached_property
    def reference(self) -> factory.Reference:
        assert self.spec.checkpoint is not None
        return factory.of(checkpoints.load_network(self.spec.checkpoint, self.spec.variant, self.spec.head, None))

    @cached_property
    def weights(self) -> Weights:
        return checkpoints.weights_of(self.spec, 0)


def timms(timm: ModuleType, seed: int) -> tuple[nn.Module, nn.Module]:
    """The network with random weights, and timm's with the same."""
    from timm.models import fastvit

    network, _ = checkpoint.randomised("fastvit_t8", Head.CLASSIFIER, CLASSES, seed)
    variant = network.variant
    theirs = fastvit.FastVit(
        layers=variant.blocks,
        embed_dims=variant.channels,
        mlp_ratios=(variant.ratio,) * 4,
        token_mixers=("repmixer",) * 4,
        num_classes=CLASSES,
    ).eval()
    theirs.load_state_dict(fastvit.checkpoint_filter_fn(network.state_dict(), theirs))
    return network, theirs


class Changed(nn.Module):
    """A network between two functions."""

    def __init__(
        self,
        network: nn.Module,
        before: Callable[[torch.Tensor], torch.Tensor] = lambda x: x,
        after: Callable[[torch.Tensor], Any] = lambda x: x,
    ) -> None:
        super().__init__()
        self.network, self.before, self.after = network, before, after

    def forward(self, x: torch.Tensor) -> Any:
        return self.after(self.network(self.before(x)))


def normalised(mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[torch.Tensor], torch.Tensor]:
    """The function that normalises channels."""
    return lambda x: (x - torch.tensor(mean).view(1, 3, 1, 1)) / torch.tensor(std).view(1, 3, 1, 1)
