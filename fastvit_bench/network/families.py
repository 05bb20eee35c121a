"""One door to every family of networks: made by name, filled, brought to a fuse level."""

import copy
import importlib
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from fastvit_bench import catalogue
from fastvit_bench.errors import UsageError
from fastvit_bench.network import heads, reparam
from fastvit_bench.network.checkpoint import randomised
from fastvit_bench.network.fastvit import FastViT, Form
from fastvit_bench.network.folded import FoldedFastViT
from fastvit_bench.network.random_weights import SIZE, randomise
from fastvit_bench.records import Fuse, Head, Layout, Shape
from fastvit_bench.variants import VARIANTS


@dataclass(frozen=True)
class Reference:
    """A network with its values, in float64 and evaluation mode: what exported files are compared with."""

    network: nn.Module
    head: Head
    classes: int
    form: Form


def of(network: FastViT) -> Reference:
    """A FastViT whose values are loaded, as a reference; it is changed in place."""
    return Reference(network.double().eval(), network.head_kind, network.classes, network.form)


def random(name: str, head: Head, classes: int, seed: int, shape: Shape) -> Reference:
    """A network of that name with random weights on which each of its branches matters (`random_weights.randomise`).

    The image size of `shape` decides the parameters of networks whose position tables depend on it. Raises
    `UsageError` for a name that does not exist, fewer than one class, or a head that the network cannot have.
    """
    entry = catalogue.find(name)
    if entry.family == "fastvit":
        network, _ = randomised(name, head, classes, seed)
        return of(network)
    if classes < 1:
        raise UsageError(f"A classifier has at least one class, not {classes}; correct `classes`.")
    made = _made(name, head, classes, (shape.height, shape.width)).eval()
    randomise(made, seed, (shape.height, shape.width) if entry.sized else SIZE)
    return Reference(made.double(), made.head_kind, made.classes, made.form)


def at_level(name: str, reference: Reference, level: Fuse, layout: Layout | None = None) -> nn.Module:
    """The network at a fuse level, in float64 and evaluation mode, sharing nothing with the reference."""
    layout = layout or Layout()
    if isinstance(reference.network, FastViT):
        return reparam.at_level(reference.network, level, layout)
    network = _at_level(name, reference.network, level, layout)
    return reparam.Unscaled(network).eval() if layout.images == "centred" else network


def skeleton(
    name: str, head: Head, classes: int, level: Fuse, size: tuple[int, int], layout: Layout | None = None
) -> nn.Module:
    """A network at a fuse level without values, to be counted."""
    entry, layout = catalogue.find(name), layout or Layout()
    with torch.device("meta"):
        if entry.family != "fastvit":
            return _at_level(name, _made(name, head, classes, size), level, layout)
        if level is Fuse.FOLDED:
            return FoldedFastViT(VARIANTS[name], head=head, classes=classes, layout=layout)
        form = Form.FUSED if level is Fuse.FUSED else Form.UNFUSED
        return FastViT(VARIANTS[name], head=head, classes=classes, form=form)


def _made(name: str, head: Head, classes: int, size: tuple[int, int]) -> Any:
    """A network of a study, with its own head or with one of `heads` on the maps of its stages."""
    stages = Head.STAGES if head in heads.KINDS else head
    made = _family(name).network(name, head=stages, classes=classes, size=size)
    return heads.attach(made, name, head, classes, size) if head in heads.KINDS else made


def _at_level(name: str, network: nn.Module, level: Fuse, layout: Layout) -> nn.Module:
    if not isinstance(network, heads.Headed):
        return cast(nn.Module, _family(name).at_level(network, level, layout))
    backbone = _at_level(name, network.backbone, level, layout)
    head = copy.deepcopy(network.dense_head).double().eval()
    if level is Fuse.FOLDED:
        head = reparam.fold_head(head)
    return heads.Headed(backbone, head, head=network.head_kind, classes=network.classes).eval()


def _family(name: str) -> Any:
    """The module of `network` that makes it; each offers ``network`` and ``at_level`` (docs/networks.md)."""
    return importlib.import_module(f"fastvit_bench.network.{catalogue.find(name).family}")
