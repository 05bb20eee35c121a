"""Entry point to every family of networks: build one by name, fill it with weights, bring it to a fuse level."""

import copy
import importlib
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import nn

from fastvit_bench.errors import UsageError
from fastvit_bench.network import heads, registry, reparam
from fastvit_bench.network.checkpoint import randomised
from fastvit_bench.network.fastvit import FastViT, Form, set_gelu
from fastvit_bench.network.folded import FoldedFastViT
from fastvit_bench.network.random_weights import SIZE, randomise
from fastvit_bench.network.registry import design
from fastvit_bench.records import Fuse, Gelu, GraphVariant, Head, Shape


@dataclass(frozen=True)
class Reference:
    """A network with its weights in float64 and evaluation mode, which exported files are compared with."""

    network: nn.Module
    head: Head
    classes: int
    form: Form


def of(network: FastViT, gelu: Gelu = "erf", *, pad: bool = False, normalize: bool = False) -> Reference:
    """Return a FastViT with loaded weights as a reference; the network is changed in place.

    `gelu` says how its weights were trained, `pad` that it takes images of any size, and `normalize` that embeddings
    are divided by their L2 norm. Raises `UsageError` for another head that is to be normalised.
    """
    if normalize and network.head_kind is not Head.EMBEDDING:
        raise UsageError(
            f"Only an embedding is divided by its L2 norm, and this network's head is '{network.head_kind}'; "
            "leave --normalize out."
        )
    network.variant = replace(network.variant, gelu=gelu, pad=pad, normalize=normalize)
    set_gelu(network, gelu)
    return Reference(network.double().eval(), network.head_kind, network.classes, network.form)


def random(
    name: str,
    head: Head,
    classes: int,
    seed: int,
    shape: Shape,
    gelu: Gelu = "erf",
    *,
    pad: bool = False,
    normalize: bool = False,
) -> Reference:
    """Build the network `name` with random weights on which each of its branches matters.

    The weights are those of `random_weights.randomise`. The image size of `shape` decides the parameters of networks
    whose position tables depend on it, and its channels those of a FastViT's first convolution.

    Raises `UsageError` for a name that does not exist, fewer than one class, or a head that the network cannot have.
    """
    entry = registry.find(name)
    if entry.family == "fastvit":
        network, _ = randomised(name, head, classes, seed, shape.channels)
        return of(network, gelu, pad=pad, normalize=normalize)
    if classes < 1:
        raise UsageError(f"A classifier has at least one class, not {classes}; correct `classes`.")
    network = _build(name, head, classes, (shape.height, shape.width)).eval()
    randomise(network, seed, (shape.height, shape.width) if entry.sized else SIZE)
    return Reference(network.double(), network.head_kind, network.classes, network.form)


def at_level(name: str, reference: Reference, level: Fuse, layout: GraphVariant | None = None) -> nn.Module:
    """Return a copy of the reference's network at a fuse level, in float64 and evaluation mode, sharing no tensors."""
    layout = layout or GraphVariant()
    if isinstance(reference.network, FastViT):
        return reparam.at_level(reference.network, level, layout)
    network = _at_level(name, reference.network, level, layout)
    return reparam.scaled(network, layout)


def skeleton(
    name: str,
    head: Head,
    classes: int,
    level: Fuse,
    shape: Shape,
    layout: GraphVariant | None = None,
    *,
    pad: bool = False,
) -> nn.Module:
    """Build a network at a fuse level on the ``meta`` device, without values, for counting.

    `shape` is that of its images; see `random`.
    """
    entry, layout = registry.find(name), layout or GraphVariant()
    with torch.device("meta"):
        if entry.family != "fastvit":
            return _at_level(name, _build(name, head, classes, (shape.height, shape.width)), level, layout)
        variant = design(name, shape.channels, pad=pad)
        if level is Fuse.FOLDED:
            return FoldedFastViT(variant, head=head, classes=classes, layout=layout)
        form = Form.FUSED if level is Fuse.FUSED else Form.UNFUSED
        return FastViT(variant, head=head, classes=classes, form=form)


def _build(name: str, head: Head, classes: int, size: tuple[int, int]) -> Any:
    """Build a network of a study, with its own head or with one of `heads` on the maps of its stages."""
    stages = Head.STAGES if head in heads.KINDS else head
    network = _family(name).network(name, head=stages, classes=classes, size=size)
    return heads.attach(network, name, head, classes, size) if head in heads.KINDS else network


def _at_level(name: str, network: nn.Module, level: Fuse, layout: GraphVariant) -> nn.Module:
    """Return a copy of a network of a study at a fuse level, with the head of `heads` that it may have."""
    if not isinstance(network, heads.Headed):
        return cast(nn.Module, _family(name).at_level(network, level, layout))
    backbone = _at_level(name, network.backbone, level, layout)
    head = copy.deepcopy(network.dense_head).double().eval()
    if level is Fuse.FOLDED:
        head = reparam.fold_head(head)
    return heads.Headed(backbone, head, head=network.head_kind, classes=network.classes).eval()


def _family(name: str) -> Any:
    """Import the module of the network's family; each offers ``network`` and ``at_level``.

    docs/explanation/networks.md lists the families.
    """
    return importlib.import_module(f"fastvit_bench.network.peers.{registry.find(name).family}")
