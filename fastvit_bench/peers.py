"""The paper's peers as one table, readable without importing torch: its names for them, and timm's."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Peer:
    """A network of timm at the image size it is published at."""

    arch: str  # what timm calls it
    size: int  # height and width in pixels
    gmacs: float  # 10^9 multiply-accumulates of the fused network for one such image, as network.cost counts them


# By the names of results/published/paper_tables.csv, whose figures they are compared with. Where timm has several, the
# one whose accuracy is nearest to the printed one (timm_reference.csv); of CoAtNet, the one with the printed number of
# parameters. The paper's distilled DeiT has a second classifier, and a name of its own here.
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

BY_ARCH: dict[str, Peer] = {peer.arch: peer for peer in reversed(PEERS.values())}  # at the smaller size, if at several
