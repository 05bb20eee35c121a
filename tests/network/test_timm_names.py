"""timm's names of a network's entries and the published ones: the index of an entry depends on the encodings."""

import pytest

from fastvit_bench.network import timm_names

FOUR = ("stem.0.conv_kxk.0.bn.bias", "stages.0.blocks.1.mlp.fc1.weight", "stages.3.blocks.0.layer_scale_1.gamma")


def renamed(name: str, *others: str) -> str:
    """The published name of an entry beside others."""
    return timm_names.published((name, *FOUR, *others))[0]


@pytest.mark.parametrize(
    ("name", "others", "wanted"),
    [
        ("stem.2.identity.weight", (), "patch_embed.2.rbr_skip.weight"),
        ("stages.2.downsample.proj.0.large_conv.bn.bias", (), "network.3.proj.0.lkb_origin.bn.bias"),
        ("stages.2.downsample.proj.0.reparam_conv.bias", (), "network.3.proj.0.lkb_reparam.bias"),
        ("stages.3.downsample.proj.1.reparam_conv.bias", (), "network.5.proj.1.reparam_conv.bias"),
        ("stages.3.downsample.proj.0.se.fc2.bias", (), "network.5.proj.0.se.fc2.bias"),
        ("stages.3.blocks.0.norm.weight", (), "network.6.0.norm.weight"),
        ("stages.3.blocks.0.norm.weight", ("stages.3.pos_emb.pos_enc.bias",), "network.7.0.norm.weight"),
        ("stages.3.pos_emb.pos_enc.bias", (), "network.6.pe.bias"),
        ("stages.3.pos_emb.reparam_conv.bias", (), "network.6.reparam_conv.bias"),
        ("stages.4.blocks.0.norm.bias", (), "network.8.0.norm.bias"),
        ("stages.4.blocks.0.norm.bias", ("stages.4.pos_emb.reparam_conv.bias",), "network.9.0.norm.bias"),
        (
            "stages.4.blocks.1.layer_scale_2.gamma",
            ("stages.3.pos_emb.reparam_conv.bias", "stages.4.pos_emb.reparam_conv.bias"),
            "network.10.1.layer_scale_2",
        ),
        ("stages.4.pos_emb.pos_enc.bias", ("stages.3.pos_emb.pos_enc.bias",), "network.9.pe.bias"),
        ("stages.4.downsample.proj.0.small_conv.bn.bias", ("stages.3.pos_emb.pos_enc.bias",),
         "network.8.proj.0.small_conv.bn.bias"),
        ("final_conv.se.fc1.weight", (), "conv_exp.se.reduce.weight"),
        ("final_conv.conv_scale.bn.weight", (), "conv_exp.rbr_scale.bn.weight"),
        ("head.fc.weight", (), "head.weight"),
        ("head.fc.bias", (), "head.bias"),
        ("head.fc.bias", ("stages.4.blocks.0.norm.bias",), "head.bias"),
        ("queue", (), "queue"),
    ],
)  # fmt: skip
def test_published_name(name: str, others: tuple[str, ...], wanted: str):
    assert renamed(name, *others) == wanted
