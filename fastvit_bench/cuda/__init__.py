"""NVIDIA GPUs, below any toolkit: which are there, their memory, streams, events and graphs, and how they fare.

``driver`` asks the driver library with the standard library alone; ``binding`` is the CUDA runtime through one of two
packages, ``torch_binding`` the same calls of PyTorch's; ``timing`` times work by CUDA events; ``monitor`` reads NVML.
Importing this loads none of those packages.
"""

from fastvit_bench.cuda.driver import Driver, Gpu, choose, probe

__all__ = ["Driver", "Gpu", "choose", "probe"]
