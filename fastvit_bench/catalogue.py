"""Every network by name, readable without torch: the variants, those of the paper's studies, and its peers."""

import difflib
from dataclasses import dataclass
from typing import Literal

from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.peers import BY_ARCH
from fastvit_bench.variants import STRIDE, VARIANTS

# by whom a network is made: a module of `network`, or `file` for an ONNX file of somebody else's
Family = Literal["fastvit", "metaformer", "cmt", "litv2", "zoo", "file"]

TIMM = "timm:"  # in front of a name that timm knows
ONNX = "onnx"  # the variant of a model that is an ONNX file


@dataclass(frozen=True)
class Entry:
    """What is known of a network before it is made."""

    family: Family
    resolution: int = 256  # pixels of its published evaluation
    stride: int = 1  # of which image sizes must be multiples
    sized: bool = False  # parameters depend on the image size, as tables of positions do
    gmacs: float = 4.0  # 10^9 multiply-accumulates at `resolution`; a guess of a timm network that is no peer


_MADE_HERE: dict[str, Entry] = {
    **{name: Entry("fastvit", 256, STRIDE, gmacs=variant.gmacs) for name, variant in VARIANTS.items()},
    # the paper's studies: figure 3 and tables 1 and 4
    "poolformer_s12": Entry("metaformer", 224, gmacs=1.812),
    "metaformer_s12_pooling_bn": Entry("metaformer", 224, gmacs=1.812),
    "metaformer_s12_repmixer": Entry("metaformer", 256, gmacs=2.379),
    "metaformer_s12_factorised": Entry("metaformer", 256, gmacs=1.722),
    "metaformer_s12_overparam": Entry("metaformer", 256, gmacs=1.722),
    "metaformer_s12_lk_ffn": Entry("metaformer", 256, gmacs=1.783),
    "metaformer_s12_lk_embed": Entry("metaformer", 256, gmacs=1.792),
    "ablation_v1": Entry("metaformer", 256, gmacs=1.722),
    "ablation_v2": Entry("metaformer", 256, gmacs=1.866),
    "ablation_v3": Entry("metaformer", 256, gmacs=2.469),
    "ablation_v4": Entry("metaformer", 256, gmacs=1.792),
    "ablation_v5": Entry("metaformer", 256, gmacs=1.936),
    # peers that timm does not have
    "cmt_ti": Entry("cmt", 160, STRIDE, sized=True, gmacs=0.6),
    "cmt_xs": Entry("cmt", 192, STRIDE, sized=True, gmacs=1.5),
    "cmt_s": Entry("cmt", 224, STRIDE, sized=True, gmacs=4.0),
    "cmt_b": Entry("cmt", 256, STRIDE, sized=True, gmacs=9.3),
    "litv2_s": Entry("litv2", 224, STRIDE, gmacs=3.7),
    "litv2_b": Entry("litv2", 224, STRIDE, gmacs=13.2),
}


def names() -> list[str]:
    """Of the networks that are written here."""
    return list(_MADE_HERE)


def find(name: str) -> Entry:
    """A network by its name; ``timm:NAME`` is any of timm's. Raises `UsageError` with the nearest names."""
    if name == ONNX:
        return Entry("file")
    if name.startswith(TIMM) and len(name) > len(TIMM):
        peer = BY_ARCH.get(name.removeprefix(TIMM))
        return Entry("zoo", peer.size, sized=True, gmacs=peer.gmacs) if peer else Entry("zoo", 224, sized=True)
    if name not in _MADE_HERE:
        near = difflib.get_close_matches(name, _MADE_HERE, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(
            f"There is no network '{name}'; {hint}Known are {', '.join(_MADE_HERE)}, {TIMM}NAME for those of timm."
        )
    return _MADE_HERE[name]


def known(name: str) -> bool:
    """Whether `find` would find it."""
    return name == ONNX or name in _MADE_HERE or (name.startswith(TIMM) and len(name) > len(TIMM))


def require(name: str) -> None:
    """Raise `UnavailableError` where a network is written by a package that is not installed. Imports none."""
    import importlib.util

    if find(name).family == "zoo" and importlib.util.find_spec("timm") is None:
        raise UnavailableError(
            f"timm, which writes the network {name}, is not installed; pip install 'fastvit-bench[zoo]'."
        )


def macs(name: str, pixels: int) -> float:
    """About how many multiply-accumulates one image of so many pixels takes."""
    entry = find(name)
    return entry.gmacs * 1e9 * pixels / entry.resolution**2
