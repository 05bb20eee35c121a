"""fastvit-bench: fuse, export, prove, time and tabulate FastViT networks (arXiv 2303.14189)."""

__version__ = "0.1.0"
