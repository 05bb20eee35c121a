"""Published figures, studies and claims of arXiv 2303.14189, the FastViT paper."""
