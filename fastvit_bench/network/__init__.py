"""The networks and their algebra: FastViT in its training, fused and folded forms, and the weight files it comes in."""
