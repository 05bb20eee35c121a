"""Table of every network by name, importable without torch: FastViT's variants and the paper's peers."""

import difflib
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

from fastvit_bench import install
from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.records import ONNX, ExportSpec, Gelu, Head, Preparation
from fastvit_bench.records.preparation import CLIP, FASTVLM, IMAGENET, IMAGENET_95, UNNORMALISED

STRIDE = 32  # total, of a FastViT: stem 4, then 2 in front of stages 2, 3 and 4


class Mixer(StrEnum):
    """Token mixer of the fourth and later stages; the first three always have RepMixer."""

    REPMIXER = "repmixer"
    ATTENTION = "attention"


@dataclass(frozen=True)
class Downsampling:
    """What MobileCLIP's networks have between the two convolutions that halve a map; FastViT has nothing there."""

    gelu: bool = False
    excited: tuple[int, ...] = ()  # numbers of the stages, from 1, with squeeze-and-excite in front of the GELU


@dataclass(frozen=True)
class Variant:
    """A row of the paper's table 2: blocks and channels per stage, expansion of the ConvFFN, last token mixer.

    Fields with defaults are what the networks of MobileCLIP (arXiv 2311.17049, 2508.20691) and FastVLM (2412.13303)
    have in another way.
    """

    blocks: tuple[int, ...]
    channels: tuple[int, ...]
    ratio: int
    last: Mixer
    gmacs: float  # 10^9 multiply-accumulates of the fused network for one 256 x 256 image, as network.cost counts them
    downsampling: Downsampling = Downsampling()
    norm: Literal["batchnorm", "layernorm"] = "batchnorm"  # in front of attention; LayerNorm is over channels
    stem_scale: bool = True  # whether the stem is trained with 1 x 1 branches beside its 3 x 3 convolutions
    width: int = 0  # of its embedding; 0 of a network that is published as a classifier, or without a projection
    channels_in: int = 3  # of its images
    gelu: Gelu = "erf"
    pad: bool = False  # whether images are padded by zeros, right and below, to multiples of the stride
    normalize: bool = False  # whether an embedding is divided by its L2 norm

    @property
    def stride(self) -> int:
        """The total stride: the stem's 4, then 2 in front of every stage but the first."""
        return 4 * 2 ** (len(self.blocks) - 1)


VARIANTS: dict[str, Variant] = {
    "fastvit_t8": Variant((2, 2, 4, 2), (48, 96, 192, 384), 3, Mixer.REPMIXER, 0.685),
    "fastvit_t12": Variant((2, 2, 6, 2), (64, 128, 256, 512), 3, Mixer.REPMIXER, 1.391),
    "fastvit_s12": Variant((2, 2, 6, 2), (64, 128, 256, 512), 4, Mixer.REPMIXER, 1.794),
    "fastvit_sa12": Variant((2, 2, 6, 2), (64, 128, 256, 512), 4, Mixer.ATTENTION, 1.937),
    "fastvit_sa24": Variant((4, 4, 12, 4), (64, 128, 256, 512), 4, Mixer.ATTENTION, 3.762),
    "fastvit_sa36": Variant((6, 6, 18, 6), (64, 128, 256, 512), 4, Mixer.ATTENTION, 5.587),
    "fastvit_ma36": Variant((6, 6, 18, 6), (76, 152, 304, 608), 4, Mixer.ATTENTION, 7.815),
}


_GELU, _EXCITED = Downsampling(gelu=True), Downsampling(gelu=True, excited=(3, 4))

# Image encoders of MobileCLIP and MobileCLIP2 (MCi0 to MCi4, of S0 to S4), and of FastVLM (FastViTHD).
ENCODERS: dict[str, Variant] = {
    "fastvit_mci0": Variant((2, 6, 10, 2), (64, 128, 256, 512), 3, Mixer.ATTENTION, 2.385, _EXCITED, width=512),
    "fastvit_mci1": Variant((4, 12, 20, 4), (64, 128, 256, 512), 3, Mixer.ATTENTION, 4.658, _EXCITED, width=512),
    "fastvit_mci2": Variant((4, 12, 24, 4), (80, 160, 320, 640), 3, Mixer.ATTENTION, 7.834, _EXCITED, width=512),
    "fastvit_mci3": Variant(
        (2, 12, 24, 4, 2), (96, 192, 384, 768, 1536), 4, Mixer.ATTENTION, 14.812, _GELU, "layernorm", False, 768
    ),
    "fastvit_mci4": Variant(
        (2, 12, 24, 4, 4), (128, 256, 512, 1024, 2048), 4, Mixer.ATTENTION, 27.758, _GELU, "layernorm", False, 768
    ),
    "fastvithd": Variant(
        (2, 12, 24, 4, 2), (96, 192, 384, 768, 1536), 4, Mixer.ATTENTION, 14.809, _GELU, "layernorm", False
    ),
}
NETWORKS: Mapping[str, Variant] = ChainMap(VARIANTS, ENCODERS)  # every network of `network.fastvit`, by name


def design(name: str, channels_in: int = 3, gelu: Gelu = "erf", *, pad: bool = False) -> Variant:
    """Return the design of a network of `NETWORKS` with other images or another GELU than published."""
    return replace(NETWORKS[name], channels_in=channels_in, gelu=gelu, pad=pad)


LARGEST_SIDE = 16_384  # pixels of an image


def check_size(height: int, width: int, stride: int = STRIDE, remedy: str = "") -> None:
    """Raise `UsageError` unless sides are multiples of a network's total stride, from 32 to `LARGEST_SIDE`.

    `remedy` is what else helps beside another size.
    """
    least = max(STRIDE, stride)
    if max(height, width) > LARGEST_SIDE:
        raise UsageError(f"A side of {max(height, width)} pixels is above {LARGEST_SIDE}; use a smaller image.")
    for name, size in (("height", height), ("width", width)):
        if size < least:
            raise UsageError(f"{name} {size} is below {least} pixels; use {least} or more.")
        if size % stride:
            below = size // stride * stride
            raise UsageError(
                f"{name} {size} is not a multiple of {stride}, the network's total stride; "
                f"use {below} or {below + stride}{remedy}."
            )


# The module that builds a network: `network.fastvit` or one of `network.peers`; `file` for a user's ONNX file.
Family = Literal["fastvit", "metaformer", "cmt", "litv2", "timm", "file"]


TIMM = "timm:"  # prefix of a name in timm's registry


@dataclass(frozen=True)
class RegistryEntry:
    """A network's family, published image size and cost, known before it is built."""

    family: Family
    resolution: int = 256  # pixels of its published evaluation
    stride: int = 1  # of which image sizes must be multiples
    sized: bool = False  # parameters depend on the image size, as tables of positions do
    head: Head = Head.CLASSIFIER  # that it is published with
    outputs: int = 1000  # classes of its classifier, or width of its embedding
    preparation: Preparation = IMAGENET  # of images, as it is published
    gmacs: float = 4.0  # 10^9 multiply-accumulates at `resolution`; for a timm network outside `PEERS`, a guess


_FASTVITS = {"fastvit_ma36": IMAGENET_95}  # preparations of those that are not as the others


_ENTRIES: dict[str, RegistryEntry] = {
    **{
        name: RegistryEntry("fastvit", 256, STRIDE, preparation=_FASTVITS.get(name, IMAGENET), gmacs=variant.gmacs)
        for name, variant in VARIANTS.items()
    },
    **{
        name: RegistryEntry(
            "fastvit",
            256,
            variant.stride,
            head=Head.EMBEDDING,
            outputs=variant.width,
            preparation=CLIP if variant.norm == "layernorm" else UNNORMALISED,
            gmacs=variant.gmacs,
        )
        for name, variant in ENCODERS.items()
    },
    "fastvithd": RegistryEntry("fastvit", 1024, 64, head=Head.TOKENS, outputs=0, preparation=FASTVLM, gmacs=243.4),
    # the paper's studies: figure 3 and tables 1 and 4
    "poolformer_s12": RegistryEntry("metaformer", 224, gmacs=1.812),
    "metaformer_s12_pooling_bn": RegistryEntry("metaformer", 224, gmacs=1.812),
    "metaformer_s12_repmixer": RegistryEntry("metaformer", 256, gmacs=2.379),
    "metaformer_s12_factorised": RegistryEntry("metaformer", 256, gmacs=1.722),
    "metaformer_s12_overparam": RegistryEntry("metaformer", 256, gmacs=1.722),
    "metaformer_s12_lk_ffn": RegistryEntry("metaformer", 256, gmacs=1.783),
    "metaformer_s12_lk_embed": RegistryEntry("metaformer", 256, gmacs=1.792),
    "ablation_v1": RegistryEntry("metaformer", 256, gmacs=1.722),
    "ablation_v2": RegistryEntry("metaformer", 256, gmacs=1.866),
    "ablation_v3": RegistryEntry("metaformer", 256, gmacs=2.469),
    "ablation_v4": RegistryEntry("metaformer", 256, gmacs=1.792),
    "ablation_v5": RegistryEntry("metaformer", 256, gmacs=1.936),
    # peers that timm does not have
    "cmt_ti": RegistryEntry("cmt", 160, STRIDE, sized=True, gmacs=0.6),
    "cmt_xs": RegistryEntry("cmt", 192, STRIDE, sized=True, gmacs=1.5),
    "cmt_s": RegistryEntry("cmt", 224, STRIDE, sized=True, gmacs=4.0),
    "cmt_b": RegistryEntry("cmt", 256, STRIDE, sized=True, gmacs=9.3),
    "litv2_s": RegistryEntry("litv2", 224, STRIDE, gmacs=3.7),
    "litv2_b": RegistryEntry("litv2", 224, STRIDE, gmacs=13.2),
}


def names() -> list[str]:
    """Return the names of the networks that this package implements."""
    return list(_ENTRIES)


def find(name: str) -> RegistryEntry:
    """Return the entry of a network by its name; ``timm:NAME`` is any of timm's.

    Raises `UsageError` with the nearest name and all names for one that does not exist.
    """
    if name == ONNX:
        return RegistryEntry("file")
    if name.startswith(TIMM) and len(name) > len(TIMM):
        peer = BY_ARCH.get(name.removeprefix(TIMM))
        return (
            RegistryEntry("timm", peer.size, sized=True, gmacs=peer.gmacs)
            if peer
            else RegistryEntry("timm", 224, sized=True)
        )
    if name not in _ENTRIES:
        near = difflib.get_close_matches(name, _ENTRIES, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"There is no network '{name}'; {hint}Known are {', '.join(_ENTRIES)}, {TIMM}NAME for those of timm."
        )
    return _ENTRIES[name]


def preparation_of(exported: ExportSpec) -> Preparation:
    """Return the preparation that a file is exported for; that of its network where an earlier version wrote it."""
    return exported.preparation or find(exported.variant).preparation


def known(name: str) -> bool:
    """Return whether `find` returns an entry for a name."""
    return name == ONNX or name in _ENTRIES or (name.startswith(TIMM) and len(name) > len(TIMM))


def require(name: str) -> None:
    """Raise `UnavailableError` if the package that implements a network is not installed, without importing it."""
    import importlib.util

    if find(name).family == "timm" and importlib.util.find_spec("timm") is None:
        raise UnavailableError(f"timm, which writes the network {name}, is not installed; run: {install.extra('zoo')}.")


def macs(name: str, pixels: int) -> float:
    """Estimate the multiply-accumulates that a network takes for one image of so many pixels."""
    entry = find(name)
    return entry.gmacs * 1e9 * pixels / entry.resolution**2


@dataclass(frozen=True)
class Peer:
    """A network of timm at the image size it is published at."""

    arch: str  # timm's name
    size: int  # height and width in pixels
    gmacs: float  # 10^9 multiply-accumulates of the fused network for one such image, as network.cost counts them


# Keys are the names of results/published/paper_tables.csv, whose figures these networks are compared with. Where timm
# has several, the peer is the one whose accuracy is nearest to the printed one (timm_reference.csv). Of CoAtNet, it is
# the one with the printed number of parameters. The paper's distilled DeiT has a second classifier, hence its own name.
PEERS: dict[str, Peer] = {
    "MobileOne-S0@224": Peer("mobileone_s0", 224, 0.275),
    "MobileOne-S1@224": Peer("mobileone_s1", 224, 0.825),
    "MobileOne-S2@224": Peer("mobileone_s2", 224, 1.298),
    "MobileOne-S3@224": Peer("mobileone_s3", 224, 1.896),
    "MobileOne-S4@224": Peer("mobileone_s4", 224, 2.979),
    "EfficientNet-B0@224": Peer("efficientnet_b0", 224, 0.386),
    "EfficientNet-B1@256": Peer("efficientnet_b1", 256, 0.743),
    "EfficientNet-B2@288": Peer("efficientnet_b2", 288, 1.088),
    "EfficientNet-B3@300": Peer("tf_efficientnet_b3", 300, 1.827),
    "EfficientNet-B4@380": Peer("tf_efficientnet_b4", 380, 4.394),
    "EfficientNet-B5@456": Peer("tf_efficientnet_b5", 456, 10.266),
    "EfficientNet-B6@528": Peer("tf_efficientnet_b6", 528, 19.068),
    "EfficientNet-B7@600": Peer("tf_efficientnet_b7", 600, 37.746),
    "EfficientNetV2-S@384": Peer("tf_efficientnetv2_s", 384, 8.366),
    "ConvNeXt-T@224": Peer("convnext_tiny", 224, 4.456),
    "ConvNeXt-S@224": Peer("convnext_small", 224, 8.684),
    "ConvNeXt-B@224": Peer("convnext_base", 224, 15.355),
    "NFNet-F0@256": Peer("dm_nfnet_f0", 256, 12.384),
    "NFNet-F1@320": Peer("dm_nfnet_f1", 320, 35.539),
    "RegNetY-8G@224": Peer("regnety_080", 224, 7.963),
    "RegNetY-16G@224": Peer("regnety_160", 224, 15.912),
    "ResNeSt50@224": Peer("resnest50d", 224, 5.371),
    "ResNeSt101@224": Peer("resnest101e", 224, 10.201),
    "RSB-ResNet50@224": Peer("resnet50", 224, 4.089),
    "RSB-ResNet101@224": Peer("resnet101", 224, 7.801),
    "RSB-ResNet152@224": Peer("resnet152", 224, 11.514),
    "PoolFormer-S12@224": Peer("poolformer_s12", 224, 1.812),
    "PoolFormer-S24@224": Peer("poolformer_s24", 224, 3.392),
    "PoolFormer-S36@224": Peer("poolformer_s36", 224, 4.972),
    "PoolFormer-M36@224": Peer("poolformer_m36", 224, 8.759),
    "PoolFormer-M48@224": Peer("poolformer_m48", 224, 11.533),
    "EfficientFormer-L1@224": Peer("efficientformer_l1", 224, 1.291),
    "EfficientFormer-L3@224": Peer("efficientformer_l3", 224, 3.907),
    "EfficientFormer-L7@224": Peer("efficientformer_l7", 224, 10.119),
    "CoAtNet-0@224": Peer("coatnet_0_224", 224, 4.547),
    "CoAtNet-0@384": Peer("coatnet_0_224", 384, 14.241),
    "CoAtNet-1@224": Peer("coatnet_1_224", 224, 8.643),
    "CoAtNet-2@224": Peer("coatnet_2_224", 224, 16.427),
    "MaxViT-T@224": Peer("maxvit_tiny_tf_224", 224, 5.552),
    "MaxViT-S@224": Peer("maxvit_small_tf_224", 224, 11.589),
    "Swin-T@224": Peer("swin_tiny_patch4_window7_224", 224, 4.491),
    "Swin-S@224": Peer("swin_small_patch4_window7_224", 224, 8.741),
    "Swin-B@224": Peer("swin_base_patch4_window7_224", 224, 15.431),
    "Swin-B@384": Peer("swin_base_patch4_window12_384", 384, 47.083),
    "DeiT-S@224": Peer("deit_small_patch16_224", 224, 4.599),
    "DeiT-S distilled@224": Peer("deit_small_distilled_patch16_224", 224, 4.624),
    "DeiT-B@224": Peer("deit_base_patch16_224", 224, 17.564),
    "DeiT-B distilled@224": Peer("deit_base_distilled_patch16_224", 224, 17.657),
    "CaiT XXS-36@224": Peer("cait_xxs36_224", 224, 3.756),
    "CaiT S-24@224": Peer("cait_s24_224", 224, 9.327),
    "CaiT XS-24@384": Peer("cait_xs24_384", 384, 19.241),
}


BY_ARCH: dict[str, Peer] = {
    peer.arch: peer for peer in reversed(PEERS.values())
}  # of an arch at two sizes, the smaller
