"""Recognition of networks: which variant, head and form a table of shapes is, entry by entry.

Each block may be in training form or fused, on its own: some scripts fuse only a part of a network.
"""

import dataclasses
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from functools import cache
from types import MappingProxyType

import torch
from torch import Tensor

from fastvit_bench.errors import UsageError
from fastvit_bench.network import registry, timm_names
from fastvit_bench.network.checkpoint.messages import quoted
from fastvit_bench.network.fastvit import FastViT, Form, can_have
from fastvit_bench.network.registry import NETWORKS
from fastvit_bench.records import Head

COUNTER = ".num_batches_tracked"  # the only integers in a state dict; inference does not read them
CLASSES = 1_000_000
PROJECTION, PROJECTION_BIAS = "head.weight", "head.bias"  # Apple's MobileCLIP has no bias, and timm one of zeros
APPLES_PROJECTION = "head.proj"  # name of the transposed projection in Apple's own files
SMALL = (32, 64, 128, 256, 512)  # channels of networks of which only the names count

# Keys that identify a head, in this order. The four stages of a variant without attention are the published dense
# network.
HEAD_KEYS = (
    (re.compile(r"dense_head\.paths\."), Head.SEGMENTER),
    (re.compile(r"dense_head\."), Head.DETECTOR),
    (re.compile(r"norm7\."), Head.STAGES),
    (re.compile(r"norm\d+\."), Head.DENSE),
)


class NamingScheme(StrEnum):
    """Scheme by which the entries of a file are named."""

    PUBLISHED = "published"
    TIMM = "timm"


@dataclass(frozen=True)
class NearestNetwork:
    """The network that a table of shapes is nearest to, and every way in which the two differ."""

    variant: str  # key of `NETWORKS`
    head: Head
    classes: int
    channels: int  # of its images
    fused: frozenset[str]  # blocks that are fused, by their published names
    blocks: int  # number of blocks that can be
    size: int  # number of entries of the network in the forms that its blocks have
    missing: tuple[str, ...]
    faults: tuple[str, ...]  # sentences on entries of another shape, or of a network like this one

    @property
    def form(self) -> Form:
        """The form of the network; one with any block in training form is in training form."""
        return Form.FUSED if len(self.fused) == self.blocks else Form.UNFUSED

    @property
    def whole(self) -> bool:
        """Whether the network is all there, and nothing of another one."""
        return not self.missing and not self.faults

    @property
    def summary(self) -> str:
        """Description for messages, such as ``fastvit_t8 (classifier with 1000 classes, unfused)``."""
        partly = f"{len(self.fused)} of {self.blocks} blocks fused"
        form = partly if self.fused and self.form is Form.UNFUSED else self.form
        return summary(self.variant, self.head, self.classes, form, self.channels)


def summary(variant: str, head: Head, classes: int, form: str, channels: int = 3) -> str:
    """Describe a network for messages: ``fastvit_t8 (classifier with 1000 classes, unfused)``."""
    form = form if channels == 3 else f"{form}, {channels} input channel{'s' * (channels > 1)}"
    kinds = {
        Head.CLASSIFIER: f"classifier with {classes} class{'es' * (classes != 1)}",
        Head.EMBEDDING: f"embedding of {classes} numbers",
        Head.FEATURES: "maps of its stages",
    }
    if head is Head.EMBEDDING and not classes:
        kinds[head] = "features without a projection"
    return f"{variant} ({kinds.get(head, head.value)}, {form})"


def check_variant(name: str) -> None:
    """Raise `UsageError` unless a variant of that name exists."""
    if name not in NETWORKS:
        near = get_close_matches(name, NETWORKS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"There is no network {name!r}; {hint}known are {', '.join(NETWORKS)}.")


@cache
def expected(variant: str, head: Head, classes: int, form: Form, channels: int = 3) -> Mapping[str, tuple[int, ...]]:
    """Return the shape of every parameter and statistic of a network by its published key, without allocating any."""
    with torch.device("meta"):
        network = FastViT(registry.design(variant, channels), head=head, classes=classes, form=form)
    return MappingProxyType({key: tuple(tensor.shape) for key, tensor in network.state_dict().items()})


# --- names ------------------------------------------------------------------------------------------------------------


@cache
def words() -> frozenset[str]:
    """Return every part of a name, but numbers, that any known network has under either scheme."""
    published = {part for key in _known_names() for part in key.split(".")}
    patterns = (timm_names.STAGES.pattern, *(pattern for pattern, _ in timm_names.TIMM_NAMES))
    timm = {part for pattern in patterns for part in re.findall(r"[a-z]\w*", pattern)}
    return frozenset(part for part in published | timm if not part.isdigit())


@cache
def roots() -> frozenset[str]:
    """Return every first part of a name that any known network has under either scheme."""
    return frozenset(key.partition(".")[0] for key in _known_names()) | {"stem", "stages", "final_conv"}


@cache
def _known_names() -> frozenset[str]:
    """Return the published names of all entries of all networks, each number in them as ``0``."""
    shallow = {
        dataclasses.replace(
            variant, blocks=(1,) * len(variant.blocks), channels=SMALL[: len(variant.channels)], ratio=1, gmacs=0
        )
        for variant in NETWORKS.values()
    }
    with torch.device("meta"):
        networks = [
            FastViT(variant, head=head, form=form)
            for variant in shallow
            for head in Head
            for form in Form
            if can_have(variant, head)
        ]
    return frozenset(_pattern(key) for network in networks for key in network.state_dict())


def _pattern(key: str) -> str:
    """Return a name with each number that is a whole part of it as ``0``."""
    return re.sub(r"(?<=\.)\d+(?=\.|$)", "0", key)


def scheme_of(keys: Iterable[str]) -> NamingScheme:
    """Return the scheme of a network's names."""
    return NamingScheme.TIMM if any(key.startswith(("stages.", "stem.")) for key in keys) else NamingScheme.PUBLISHED


def published(keys: list[str]) -> list[str]:
    """Return the published name of each of a network's entries."""
    return timm_names.published(keys) if scheme_of(keys) is NamingScheme.TIMM else keys


def is_part(name: str) -> bool:
    """Return whether an entry of that published name is a part of any known network, of whatever depth."""
    return _pattern(name) in _known_names()


# --- matching ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Block:
    """The entries of a block in either form."""

    fused: dict[str, tuple[int, ...]]
    unfused: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class _Template:
    """The entries of a network: those of every form, and those of each block by its name."""

    common: Mapping[str, tuple[int, ...]]
    blocks: Mapping[str, _Block]


@cache
def _template(variant: str, head: Head, classes: int, channels: int) -> _Template:
    """Return the entries of a network, sorted by the blocks that can be fused."""
    fused, unfused = (expected(variant, head, classes, form, channels) for form in (Form.FUSED, Form.UNFUSED))
    names = {key.rsplit(".", 2)[0] for key in fused.keys() - unfused.keys()}
    blocks = {name: _Block({}, {}) for name in sorted(names)}
    common: dict[str, tuple[int, ...]] = {}
    for key, shape in unfused.items():
        owner = None if key in fused else next(name for name in _parents(key) if name in names)
        if owner is None:
            common[key] = shape
        else:
            blocks[owner].unfused[key] = shape
    for key in fused.keys() - unfused.keys():
        blocks[key.rsplit(".", 2)[0]].fused[key] = fused[key]
    return _Template(common, blocks)


def _parents(key: str) -> Iterator[str]:
    """Yield the names of the modules that hold an entry, the innermost first."""
    parts = key.split(".")
    return (".".join(parts[:length]) for length in range(len(parts) - 1, 0, -1))


def nearest(shapes: Mapping[str, tuple[int, ...] | str], preferred: str | None = None) -> NearestNetwork:
    """Return the network that a table of shapes by published names is nearest to.

    In the place of a shape, a text says why an entry cannot be used. Entries that are no part of any network are left
    aside. Of equally near networks the `preferred` one is returned, then the larger, then one in its published form.
    """
    head = next((head for pattern, head in HEAD_KEYS if any(map(pattern.match, shapes))), Head.CLASSIFIER)
    weight = shapes.get("head.weight", ())
    classes = weight[0] if not isinstance(weight, str) and len(weight) == 2 and head is Head.CLASSIFIER else 1000
    extra: tuple[str, ...] = ()
    if not 0 < classes <= CLASSES:
        extra = (f"its classifier has {classes} classes",)
        classes = 1000
    channels = _channels(shapes)
    matches = [
        _compare(shapes, variant, *own, channels, extra)
        for variant, network in NETWORKS.items()
        for own in [_own_head(variant, head, classes, shapes)]
        if can_have(network, own[0])
    ]
    return min(
        matches,
        key=lambda match: (
            len(match.missing) + len(match.faults),
            match.variant != preferred,
            -match.size,
            (match.head, match.classes) != _published_head(match.variant),
        ),
    )


# The first convolution of a network, in each form that it can have
FIRST = ("patch_embed.0.reparam_conv.weight", "patch_embed.0.rbr_conv.0.conv.weight")
CHANNELS = 1024  # of images, at most


def _channels(shapes: Mapping[str, tuple[int, ...] | str]) -> int:
    """Return the number of values of each pixel that a network's first convolution takes; 3 if there is none."""
    for key in FIRST:
        shape = shapes.get(key, "")
        if not isinstance(shape, str) and len(shape) == 4 and 0 < shape[1] <= CHANNELS:
            return shape[1]
    return 3


def _published_head(variant: str) -> tuple[Head, int]:
    entry = registry.find(variant)
    return entry.head, entry.outputs


def _own_head(variant: str, head: Head, classes: int, shapes: Mapping[str, tuple[int, ...] | str]) -> tuple[Head, int]:
    """Return the head that a table of shapes means for a variant, and its number of outputs.

    A linear layer is the projection of an encoder where it has the published width. Without one, the network ends in
    its features: at each position for FastVLM's encoder, else their mean. Without the expansion too, it is a backbone.
    """
    entry = registry.find(variant)
    if head is not Head.CLASSIFIER:
        return head, classes
    if not {PROJECTION, PROJECTION_BIAS} & shapes.keys() and not any(key.startswith("conv_exp.") for key in shapes):
        return Head.FEATURES, 1000
    if entry.head is Head.TOKENS:
        return Head.TOKENS, 0
    if not {PROJECTION, PROJECTION_BIAS} & shapes.keys():
        return Head.EMBEDDING, 0
    return (Head.EMBEDDING, classes) if entry.head is Head.EMBEDDING and classes == entry.outputs else (head, classes)


def _compare(
    shapes: Mapping[str, tuple[int, ...] | str],
    variant: str,
    head: Head,
    classes: int,
    channels: int,
    extra: tuple[str, ...],
) -> NearestNetwork:
    """Compare a table of shapes with one network, each block in the form that the table has it in."""
    template = _template(variant, head, classes, channels)
    fused = frozenset(name for name, block in template.blocks.items() if any(key in shapes for key in block.fused))
    wanted = dict(template.common)
    faults = list(extra)
    for name, block in template.blocks.items():
        wanted |= block.fused if name in fused else block.unfused
        if name in fused and any(key in shapes for key in block.unfused):
            faults.append(f"{name} is in it twice, fused and in training form")
    optional = {PROJECTION_BIAS} if head is Head.EMBEDDING and NETWORKS[variant].norm == "batchnorm" else set[str]()
    missing = [key for key in wanted if key not in shapes and not key.endswith(COUNTER) and key not in optional]
    for key, shape in wanted.items():
        actual = shapes.get(key, shape)
        if isinstance(actual, str):
            faults.append(f"{key} is held {actual}")
        elif actual != shape:
            faults.append(f"{key} has the shape {actual}, not {shape}")
    either = {key for block in template.blocks.values() for key in (*block.fused, *block.unfused)}
    faults += [
        f"{quoted(key)} is not a part of it"
        for key, shape in shapes.items()
        if key not in wanted
        and key not in either
        and _matters(key, shape)
        and not (head is Head.TOKENS and key in (PROJECTION, PROJECTION_BIAS))
    ]
    return NearestNetwork(
        variant, head, classes, channels, fused, len(template.blocks), len(wanted), tuple(missing), tuple(faults)
    )


def _matters(name: str, shape: tuple[int, ...] | str) -> bool:
    """Return whether an entry that a network lacks may change what its modules compute; a single count does not."""
    return is_part(name) or (not isinstance(shape, str) and math.prod(shape) > 1)


def names_in(match: NearestNetwork) -> frozenset[str]:
    """Return the published names of the entries of a network, each block in the form that was recognised."""
    template = _template(match.variant, match.head, match.classes, match.channels)
    blocks = (block.fused if name in match.fused else block.unfused for name, block in template.blocks.items())
    return frozenset(template.common).union(*blocks)


# --- building ---------------------------------------------------------------------------------------------------------


def build(match: NearestNetwork, state: Mapping[str, Tensor]) -> FastViT:
    """Build a network whose blocks are in the forms that were recognised, in evaluation mode, and fill it."""
    variant = registry.design(match.variant, match.channels)
    with torch.device("meta"):
        network = FastViT(variant, head=match.head, classes=match.classes, form=match.form)
        if match.form is Form.UNFUSED and match.fused:
            fused = FastViT(variant, head=match.head, classes=match.classes, form=Form.FUSED)
            for name in match.fused:
                network.set_submodule(name, fused.get_submodule(name))
    absent: dict[str, Tensor] = {
        key: torch.zeros((), dtype=torch.int64) for key in network.state_dict() if key.endswith(COUNTER)
    }
    if match.head is Head.EMBEDDING and match.classes:
        absent[PROJECTION_BIAS] = torch.zeros(match.classes)
    network.load_state_dict(absent | dict(state), strict=True, assign=True)
    return network.eval()
