"""NVIDIA GPUs, below any toolkit: their list, memory, streams, events, graphs and state.

``driver`` queries the driver library with the standard library alone. ``binding`` is the CUDA runtime through one of
two packages, and ``torch_binding`` the same calls of PyTorch's. ``timing`` times work by CUDA events, and ``monitor``
reads NVML. Importing this package loads none of them.
"""

from fastvit_bench.backends._nvidia.cuda.driver import Driver, Gpu, choose, probe

__all__ = ["Driver", "Gpu", "choose", "probe"]
