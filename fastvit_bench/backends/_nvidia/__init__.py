"""The shared parts of backends on NVIDIA GPUs."""
