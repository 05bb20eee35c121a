"""Translation of timm's names of FastViT's parameters into the published ones."""

import re
from collections.abc import Iterable

# Patterns that turn timm's names into the published ones; every row is applied, in this order.
TIMM_NAMES = (
    (r"^stem\.", "patch_embed."),
    (r"^stages\.3\.pos_emb\.pos_enc\.", "network.6.pe."),
    (r"^stages\.3\.pos_emb\.", "network.6."),
    (r"\.downsample\.proj\.0\.reparam_conv\.", ".downsample.proj.0.lkb_reparam."),
    (r"^stages\.1\.downsample\.", "network.1."),
    (r"^stages\.2\.downsample\.", "network.3."),
    (r"^stages\.3\.downsample\.", "network.5."),
    (r"^stages\.0\.blocks\.", "network.0."),
    (r"^stages\.1\.blocks\.", "network.2."),
    (r"^stages\.2\.blocks\.", "network.4."),
    (r"^stages\.3\.blocks\.", "network.6."),
    (r"^final_conv\.", "conv_exp."),
    (r"^head\.fc\.", "head."),
    (r"\.conv_kxk\.", ".rbr_conv."),
    (r"\.conv_scale\.", ".rbr_scale."),
    (r"\.identity\.", ".rbr_skip."),
    (r"\.large_conv\.", ".lkb_origin."),
    (r"\.mlp\.", ".convffn."),
    (r"\.se\.fc1\.", ".se.reduce."),
    (r"\.se\.fc2\.", ".se.expand."),
    (r"\.gamma$", ""),
)
# The published network counts the positional encoding as an entry of its own, timm as a part of the last stage.
TIMM_POSITIONAL = "stages.3.pos_emb."
TIMM_AFTER_POSITIONAL = (r"^stages\.3\.blocks\.", "network.7.")


def published(keys: Iterable[str]) -> list[str]:
    """Return the published name of each of a network's entries, for names as timm has them."""
    keys = list(keys)
    table = TIMM_NAMES
    if any(key.startswith(TIMM_POSITIONAL) for key in keys):
        table = (TIMM_AFTER_POSITIONAL, *table)
    return [_rename(key, table) for key in keys]


def _rename(key: str, table: Iterable[tuple[str, str]]) -> str:
    """Apply every pattern of a table to a key, in order."""
    for pattern, replacement in table:
        key = re.sub(pattern, replacement, key)
    return key
