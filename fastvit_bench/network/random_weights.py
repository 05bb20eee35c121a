"""Random weights that behave like trained ones: every branch matters, and activations stay near one at any depth.

Drawing alone does not suffice. The BatchNorms of a trained network hold the statistics of their inputs. With other
statistics, a deep network multiplies the mismatch layer by layer, until float16 overflows. So weights are drawn, and
then fitted on one forward pass over noise, as in "All you need is a good init" (arXiv 1511.06422).
"""

import math

import torch
from torch import Tensor, nn

__all__ = ["SIZE", "draw", "randomise"]

SIZE = (128, 128)  # pixels of the images that weights are fitted on
_SAMPLES = 16  # per channel; with fewer, the variance over all channels is used
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_LARGEST = 2.0  # largest standard deviation of the output of a convolution or a linear layer
_SHIFT = 0.75  # of the outputs of BatchNorms, in standard deviations
_BITS = 8  # of a fitted statistic: float64 rounding differs between machines, and must not affect the weights
_LAYER_SCALES = ("layer_scale", "gamma", "ls")  # names of the factors of residual branches


@torch.no_grad()
def randomise(network: nn.Module, seed: int, size: tuple[int, int] = SIZE, channels: int = 3) -> None:
    """Draw a network's weights in place, and fit them on noise of `size` (height, width) pixels and `channels`.

    The running statistics become nearly those of each BatchNorm's input. Layers whose outputs are too large are scaled
    down by powers of two. The result is deterministic in `seed` and `size`, for any dtype.
    """
    draw(network, seed)
    _fit(network, _images(channels, size, torch.Generator().manual_seed(seed)))


@torch.no_grad()
def draw(network: nn.Module, seed: int) -> None:
    """Fill every parameter and statistic in place with random numbers on which each branch of a network matters.

    A freshly initialised FastViT has layer scales of 1e-5 and trivial BatchNorm statistics, so that a fuse that loses
    a branch changes nothing. Here both are spread like a trained network's. Other weights have the variance that keeps
    activations near 1.

    - Position biases are as large as the logits they are added to.
    - Weights that displace the taps of convolutions are small. A map of noise read one position further is another
      map, so that rounding of the offsets would dominate the output.
    - BatchNorms shift their outputs to the side that activations let pass. Activations that cut off half of them
      amplify rounding with each layer (arXiv 1902.08129): in float32, MobileOne-S4 was 5e-5 off.

    The result is deterministic in `seed`, for any dtype.
    """
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        path, _, leaf = name.rpartition(".")
        shape = tensor.shape
        if leaf == "num_batches_tracked":
            tensor.zero_()
            continue
        per_channel = math.prod(shape) == max(shape, default=1)
        if leaf.startswith(_LAYER_SCALES) and per_channel:
            values = torch.rand(shape, generator=generator) * 0.08 + 0.02
        elif leaf == "running_var" or (leaf == "weight" and len(shape) == 1):
            values = torch.rand(shape, generator=generator) + 0.5
        elif leaf == "position":
            values = torch.randn(shape, generator=generator)
        elif len(shape) > 1:
            values = torch.randn(shape, generator=generator) / math.sqrt(math.prod(shape[1:]))
            values *= 0.2 if name.endswith("offset.weight") else 1
        else:
            values = torch.randn(shape, generator=generator) * 0.1
            if leaf == "bias" and isinstance(network.get_submodule(path), _NORMS):
                values += _SHIFT
        tensor.copy_(values)


def _images(channels: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Return two images (2, C, H, W) of noise of variance one: single pixels, and pixels summed with larger spots.

    Photographs are smooth and noise is not. On either, activations can explode with weights fitted on the other alone.
    """
    noise = torch.randn((1, channels, *size), generator=generator)
    octaves = [noise]
    for spots in (32, 8, 1):
        coarse = torch.randn((1, channels, spots, spots), generator=generator)
        octaves.append(nn.functional.interpolate(coarse, size, mode="nearest"))
    return torch.cat([noise, torch.stack(octaves).sum(0) / math.sqrt(len(octaves))])


def _fit(network: nn.Module, images: Tensor) -> None:
    """Run the network once in float64, and fit each layer before its output reaches the next one."""
    hooks = [
        module.register_forward_pre_hook(_fit_statistics)
        if isinstance(module, _NORMS)
        else module.register_forward_hook(_scale_down)
        for module in network.modules()
        if isinstance(module, (*_NORMS, nn.Conv2d, nn.Linear))
    ]
    (dtype,) = {parameter.dtype for parameter in network.parameters()}
    training = network.training
    try:
        network.eval().double()(images.double())
    finally:
        for hook in hooks:
            hook.remove()
        network.to(dtype).train(training)


def _fit_statistics(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Shift and scale the drawn statistics of a BatchNorm by the mean and the variance of its input (B, C, ...)."""
    assert isinstance(norm, _NORMS)
    (values,) = inputs
    if norm.running_mean is None or norm.running_var is None:
        return
    dims = [0, *range(2, values.dim())]
    mean, variance = values.mean(dims), values.var(dims, correction=0)
    if values.numel() < _SAMPLES * values.shape[1]:
        variance = values.var(correction=0).expand_as(mean)
    variance = variance.clamp_min(max(variance.mean().item() / 10, 1e-6))  # floor, for a channel that few samples moved
    norm.running_mean.copy_(_rounded(mean + norm.running_mean * variance.sqrt()))
    norm.running_var.copy_(_rounded(norm.running_var * variance))


def _scale_down(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
    """Divide a layer's weights by a power of two if its output is too large, and return the new output, if any."""
    deviation = output.std(correction=0).item()
    if deviation <= _LARGEST:
        return None
    factor = 2.0 ** -math.ceil(math.log2(deviation))
    for parameter in layer.parameters(recurse=False):
        parameter.mul_(factor)
    return layer.forward(*inputs)


def _rounded(values: Tensor) -> Tensor:
    """Return values rounded to `_BITS` bits of mantissa."""
    mantissa, exponent = torch.frexp(values)
    return torch.ldexp(torch.round(mantissa * 2**_BITS) / 2**_BITS, exponent)
