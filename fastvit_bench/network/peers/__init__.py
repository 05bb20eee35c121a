"""Networks that the FastViT paper compares with: its own studies, CMT, LITv2 and those of timm."""
