"""Translation of timm's names of FastViT's parameters, and of Apple's name of a projection, into our own ones."""

import re
from collections.abc import Iterable, Iterator

# Patterns that turn timm's names into the published ones; every row is applied, in this order.
TIMM_NAMES = (
    (r"^stem\.", "patch_embed."),
    (r"\.pos_emb\.pos_enc\.", ".pos_emb.pe."),
    (r"\.downsample\.proj\.0\.reparam_conv\.", ".downsample.proj.0.lkb_reparam."),
    (r"^final_conv\.se\.fc1\.", "conv_exp.se.reduce."),
    (r"^final_conv\.se\.fc2\.", "conv_exp.se.expand."),
    (r"^final_conv\.", "conv_exp."),
    (r"^head\.fc\.", "head."),
    (r"\.conv_kxk\.", ".rbr_conv."),
    (r"\.conv_scale\.", ".rbr_scale."),
    (r"\.identity\.", ".rbr_skip."),
    (r"\.large_conv\.", ".lkb_origin."),
    (r"\.mlp\.", ".convffn."),
    (r"\.gamma$", ""),
)
LISTED = re.compile(r"^(stem|stages)_(\d+)$")  # a part of a name in timm's list of a network's feature maps
STAGES = re.compile(r"^stages\.(\d+)\.(downsample|pos_emb|blocks)\.")


def unlisted(part: str) -> str:
    """Return a part of a name as a network has it; timm's ``features_only`` writes ``stages_0`` for ``stages.0``."""
    return LISTED.sub(r"\1.\2", part)


def published(keys: Iterable[str]) -> list[str]:
    """Return the published name of each of a network's entries, for names as timm has them."""
    keys = list(keys)
    entries = dict(_entries([match.groups() for key in keys if (match := STAGES.match(key))]))

    def entry(match: re.Match[str]) -> str:
        return entries.get((int(match[1]), match[2]), match[0])

    return [STAGES.sub(entry, _rename(key)) for key in keys]


def _entries(parts: Iterable[tuple[str, ...]]) -> Iterator[tuple[tuple[int, str], str]]:
    """Yield the published entry of each part of a stage: a downsampling, a positional encoding, or the blocks.

    The published network counts each of them; timm has all three in the stage.
    """
    present = {(int(number), part) for number, part in parts if len(number) < 3}
    index = 0
    for number in range(1 + max((number for number, _ in present), default=-1)):
        for part in ("downsample", "pos_emb", "blocks"):
            if (number, part) in present or part == "blocks" or (part == "downsample" and number):
                yield (number, part), f"network.{index}."
                index += 1


def _rename(key: str) -> str:
    """Apply every pattern to a key, in order."""
    for pattern, replacement in TIMM_NAMES:
        key = re.sub(pattern, replacement, key)
    return key
