"""Any network of timm by its name, such as ``timm:convnext_tiny``: the peers that FastViT is compared with.

timm implements the networks; this module gives them the interface of every network of this package. Their weights are
never fetched. They are random, as a network's latency does not depend on them.
"""

import copy
import difflib
import importlib
import importlib.util
import sys
from collections.abc import Generator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import torch
import torch.library
import torch.nn.functional as F
from torch import Tensor, nn

from fastvit_bench import install
from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.network.fastvit import Form
from fastvit_bench.network.heads import STRIDES
from fastvit_bench.network.registry import TIMM
from fastvit_bench.records import Fuse, GraphVariant, Head

_SCHEMAS: list[torch.library.Library] = []  # a definition lasts as long as its object does


class TimmNetwork(nn.Module):
    """A network of timm as a classifier or a dense backbone.

    ``forward`` takes normalised RGB images (B, 3, H, W). It returns logits (B, classes) with ``Head.CLASSIFIER``. With
    another head it returns four maps (B, C_i, H/s_i, W/s_i), s = 4, 8, 16, 32, as the stages return them.
    """

    def __init__(self, body: nn.Module, *, head: Head, classes: int) -> None:
        super().__init__()
        self.body = body
        self.head_kind, self.classes, self.form = head, classes, Form.UNFUSED

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the logits (B, classes) or four maps (B, C_i, H/s_i, W/s_i) for images (B, 3, H, W)."""
        if self.head_kind is Head.CLASSIFIER:
            return self.body(x)
        last = getattr(self.body, "output_fmt", "NCHW") == "NHWC"  # Swin and others put channels last
        return tuple(features.permute(0, 3, 1, 2) if last else features for features in self.body(x))


# --- timm itself ------------------------------------------------------------------------------------------------------


def load() -> ModuleType:
    """Import timm and return it. Raises `UnavailableError` if it is not installed or does not import.

    timm imports torchvision. A torchvision built for CUDA does not import beside a torch without CUDA, because it asks
    for two operators that only its own library defines. Defining their signatures lets it import. None of timm's
    networks calls either operator, and a call would still be an error.
    """
    if importlib.util.find_spec("timm") is None:
        raise UnavailableError(f"timm, which writes this network, is not installed; run: {install.extra('zoo')}.")
    try:
        try:
            importlib.import_module("torchvision")
        except RuntimeError as error:
            if "torchvision::nms" not in str(error):
                raise
            _define_operators()
        return importlib.import_module("timm")
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        reason = str(error).partition("\n")[0]
        raise UnavailableError(
            f"timm does not import ({type(error).__name__}: {reason}); "
            f"install the torchvision that was built for torch {torch.__version__}."
        ) from error


def _define_operators() -> None:
    """Define the operator schemas that torchvision looks for, and drop its partly imported modules."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _SCHEMAS.append(library)
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]


def check(name: str) -> str:
    """Return a network's name without the prefix. Raises `UsageError` with near names for one that timm lacks."""
    arch = name.removeprefix(TIMM)
    known: list[str] = load().list_models()
    if arch in known:
        return arch
    bare = arch.partition(".")[0]
    if bare in known:
        raise UsageError(f"'{arch}' names weights of timm, and networks have random ones here; use {TIMM}{bare}.")
    near = difflib.get_close_matches(arch, known, n=3, cutoff=0.5)
    advice = f"the nearest are {', '.join(near)}" if near else "timm.list_models() lists them"
    raise UsageError(f"timm has no network called '{arch}'; {advice}.")


# --- networks ---------------------------------------------------------------------------------------------------------


def network(name: str, *, head: Head, classes: int, size: tuple[int, int]) -> TimmNetwork:
    """Build a network of timm in float32, training form and evaluation mode, on torch's current default device.

    `size` (height, width) shapes the parameters of networks with one for each position. On the ``meta`` device it has
    shapes and no values. Constants that are not weights, such as index tables, are lost there, so a network that is to
    compute must be built on the device that computes. Raises `UsageError` for a name that timm does not know, a head
    that the network cannot have and a size that it does not take.
    """
    arch = check(name)
    settings = _sized(arch, size)
    if head is not Head.CLASSIFIER:
        settings |= {"features_only": True, "out_indices": _taps(arch, settings)}
    model = TimmNetwork(_create(arch, classes, settings), head=head, classes=classes).eval()
    for module in model.modules():
        for key, buffer in list(module.named_buffers(recurse=False)):
            if not buffer.is_floating_point() and key != "num_batches_tracked":
                module.register_buffer(key, buffer, persistent=False)  # an index table is no weight
    return model


def _create(arch: str, classes: int, settings: dict[str, Any]) -> nn.Module:
    """Create a network with timm, without pretrained weights."""
    return load().create_model(arch, pretrained=False, num_classes=classes, **settings)


def _sized(arch: str, size: tuple[int, int]) -> dict[str, Any]:
    """Return the arguments of `create_model` for an image size; none if the network takes any, or this one anyway.

    Raises `UsageError` for a size that the network does not take.
    """
    usual = load().get_pretrained_cfg(arch)
    if usual is None or not usual.fixed_input_size or tuple(usual.input_size[1:]) == size:
        return {}
    settings = {"img_size": size}
    try:
        with torch.device("meta"), torch.no_grad():
            _create(arch, 1, settings).eval()(torch.zeros(1, 3, *size))
    except (TypeError, ValueError, AssertionError, RuntimeError) as error:
        height, width = usual.input_size[1:]
        raise UsageError(
            f"{TIMM}{arch} does not take images of {size[0]}x{size[1]}; use {height}x{width}, which it was made for."
        ) from error
    return settings


def _taps(arch: str, settings: dict[str, Any]) -> tuple[int, ...]:
    """Return the indices of the network's feature maps of strides 4, 8, 16 and 32; of several, the last.

    Raises `UsageError` for a network that lacks one of them or returns no maps.
    """
    try:
        with torch.device("meta"):
            body: Any = _create(arch, 1, settings | {"features_only": True})
            reductions: list[int] = body.feature_info.reduction()
    except (RuntimeError, AttributeError, TypeError) as error:
        raise UsageError(
            f"{TIMM}{arch} hands out no feature maps, so it can have no dense head; use classifier."
        ) from error
    if missing := [str(stride) for stride in STRIDES if stride not in reductions]:
        raise UsageError(
            f"{TIMM}{arch} has no map of stride {', '.join(missing)}, so it can have no dense head; use classifier."
        )
    return tuple(len(reductions) - 1 - reductions[::-1].index(stride) for stride in STRIDES)


# --- fusing -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def at_level(network: TimmNetwork, level: Fuse, layout: GraphVariant | None = None) -> TimmNetwork:
    """Return a copy of the network at a fuse level, in float64 and evaluation mode, sharing no tensors.

    ``Fuse.FUSED`` re-parameterises the blocks that timm can (MobileOne, RepVGG, FastViT and others). It also
    standardises weights in advance that are otherwise standardised at each use (NFNet). ``Fuse.FOLDED`` is the same:
    all toolkits fold BatchNorms behind convolutions themselves. `layout` has nothing to choose.
    """
    del layout
    result = copy.deepcopy(network).double().eval()
    if level is not Fuse.NONE:
        reparameterize = importlib.import_module("timm.utils.model").reparameterize_model
        with _defaults(next(network.parameters()).device, torch.float64):  # of timm's new convolutions
            result.body = _standardised(reparameterize(result.body, inplace=True))
        result.form = Form.FUSED
    return result


@contextmanager
def _defaults(device: torch.device, dtype: torch.dtype) -> Generator[None]:
    """Create modules on a device and in a dtype by default, within the context."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)


def _standardised(network: nn.Module) -> nn.Module:
    """Replace each convolution of standardised weights (arXiv 1903.10520, 2101.08692) by a plain one, in place."""
    layers = importlib.import_module("timm.layers")
    kinds = (layers.StdConv2d, layers.StdConv2dSame, layers.ScaledStdConv2d, layers.ScaledStdConv2dSame)
    convolutions: list[tuple[str, Any]] = [
        (name, module) for name, module in network.named_modules() if isinstance(module, kinds)
    ]
    for name, conv in convolutions:
        gain = conv.gain.flatten() * conv.scale if hasattr(conv, "gain") else None
        rows = conv.weight.reshape(1, conv.out_channels, -1)
        weight = F.batch_norm(rows, None, None, gain, training=True, momentum=0.0, eps=conv.eps)
        # Conv2dSame pads to the size of the output, as TensorFlow does, even if that is unequal on both sides.
        kind: Any = layers.Conv2dSame if getattr(conv, "same_pad", False) else nn.Conv2d
        shape = (conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride, conv.padding, conv.dilation)
        plain = kind(*shape, conv.groups, conv.bias is not None)
        plain.weight.copy_(weight.reshape_as(conv.weight))
        if conv.bias is not None:
            plain.bias.copy_(conv.bias)
        network.set_submodule(name, plain)
    return network
