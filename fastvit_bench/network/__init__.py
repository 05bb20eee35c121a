"""The networks and their algebra: FastViT in training, fused and folded form, its weight files, and its peers."""
