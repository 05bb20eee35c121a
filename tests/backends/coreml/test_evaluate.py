"""What the evaluator computes against PyTorch in float64, and faults planted in saved packages, which it must find.

Packages are converted by coremltools, saved, and read back from the disk.
"""

import copy
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from fastvit_bench.backends.coreml import program
from fastvit_bench.backends.coreml.evaluate import OPERATIONS, Evaluator
from fastvit_bench.errors import ParityError, UnavailableError, UsageError
from fastvit_bench.network import checkpoint, reparam
from fastvit_bench.network.fastvit import FastViT
from fastvit_bench.records import MEAN, STD, GraphVariant, Head

CENTRED = GraphVariant(std=STD, doubling="grouped", norms="depthwise")


@pytest.fixture(scope="session")
def ct() -> Any:
    return program.toolkit()


def noise(*shape: int) -> NDArray[np.float32]:
    """The same normal noise for everybody, whatever the order of the tests."""
    return np.random.default_rng(2303).standard_normal(shape, np.float32)


def pixels(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (1, height, width, 3), np.uint8)


def convert(
    ct: Any,
    network: nn.Module,
    path: Path,
    shape: tuple[int, ...],
    *,
    half: bool,
    target: str = "iOS16",
    **options: Any,
) -> Any:
    """A package of a network, saved; the model that coremltools made is for what it does to models."""
    tensor = ct.TensorType(name="image", shape=shape, dtype=np.float16 if half else np.float32)
    with torch.no_grad(), program.quiet():
        exported = torch.export.export(network.eval(), (torch.zeros(shape),)).run_decompositions({})
        model = ct.convert(
            exported,
            **({"inputs": [tensor]} | options),
            minimum_deployment_target=getattr(ct.target, target),
            compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
            convert_to="mlprogram",
            skip_model_load=True,
        )
        model.save(str(path))
    return model


def picture(ct: Any, shape: tuple[int, ...], layout: str = "RGB") -> Any:
    """An image input that subtracts the mean."""
    bias = [-mean for mean in MEAN]
    colours = getattr(ct.colorlayout, layout)
    return ct.ImageType(name="image", shape=shape, scale=1 / 255, bias=bias, color_layout=colours)


def only(outputs: dict[str, NDArray[Any]]) -> NDArray[Any]:
    (output,) = outputs.values()
    return output


def relative(ours: NDArray[Any], theirs: NDArray[Any] | Tensor) -> float:
    """Largest error over the standard deviation of what is right."""
    right = theirs.detach().numpy() if isinstance(theirs, Tensor) else theirs
    assert ours.shape == right.shape
    return float(np.abs(ours.astype(np.float64) - right).max() / right.std())


# --- operations that conversion brings about --------------------------------------------------------------------------


class Shown(nn.Module):
    """A module whose parameters are not all alike, as it would be after training."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)
        draw = torch.Generator().manual_seed(1)
        for value in (*self.parameters(), *self.buffers()):
            if value.is_floating_point():
                value.data = torch.rand(value.shape, generator=draw) + 0.1

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Plain(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


SHAPE = (2, 6, 8, 10)
NETWORKS: dict[str, tuple[nn.Module, str]] = {
    "strided and dilated": (Shown(nn.Conv2d(6, 4, 3, (2, 1), (1, 2), (1, 2))), "conv"),
    "grouped": (Shown(nn.Conv2d(6, 12, (3, 5), padding=1, groups=3, bias=False)), "conv"),
    "depthwise": (Shown(nn.Conv2d(6, 12, 7, 2, 3, groups=6)), "conv"),
    "padded by itself": (Shown(nn.Conv2d(6, 4, 5, padding="same", dilation=2)), "conv"),
    "gelu": (nn.GELU(), "gelu"),
    "relu": (nn.ReLU(), "relu"),
    "sigmoid": (nn.Sigmoid(), "sigmoid"),
    "silu": (nn.SiLU(), "silu"),
    "softmax": (nn.Softmax(1), "softmax"),
    "pooled with padding": (nn.AvgPool2d(3, 2, 1), "avg_pool"),
    "pooled without its padding": (nn.AvgPool2d((3, 5), (2, 1), (1, 2), count_include_pad=False), "avg_pool"),
    "largest": (nn.MaxPool2d(3, 2, 1), "max_pool"),
    "every second": (nn.MaxPool2d(1, 2), "max_pool"),
    "repeated": (nn.Upsample(scale_factor=2, mode="nearest"), "upsample_nearest_neighbor"),
    "between": (nn.Upsample(scale_factor=2, mode="bilinear"), "upsample_bilinear"),
    "normalised": (Shown(nn.BatchNorm2d(6)).eval(), "batch_norm"),
    "normalised by layer": (Shown(nn.LayerNorm((8, 10))), "layer_norm"),
    # with weights coremltools adds a BatchNorm of variance 1 and epsilon 1e-5, which is 5e-6 off
    "normalised by image": (nn.GroupNorm(1, 6, affine=False), "square"),
    "normalised by group": (nn.GroupNorm(2, 6, affine=False), "sqrt"),
    "sampled": (Plain(lambda x: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1), align_corners=True)), "resample"),
    "linear": (Shown(nn.Flatten(2), nn.Linear(80, 5)), "linear"),
    "mean": (Plain(lambda x: x.mean((2, 3))), "reduce_mean"),
    "mean kept": (Plain(lambda x: x.mean(1, keepdim=True)), "reduce_mean"),
    "norm": (Plain(lambda x: torch.linalg.vector_norm(x, dim=1)), "reduce_l2_norm"),
    "magnitudes": (Plain(lambda x: x.abs()), "abs"),
    "largest of a row": (Plain(lambda x: x.amax(3, keepdim=True)), "reduce_max"),
    "smallest of a row": (Plain(lambda x: x.amin(3)), "reduce_min"),
    "added up": (Plain(lambda x: x.sum((1, 2))), "reduce_sum"),
    "within limits": (Plain(lambda x: x.clamp(-0.5, 0.75)), "clip"),
    "the larger": (Plain(lambda x: torch.maximum(x, x[:, :1])), "maximum"),
    "the smaller": (Plain(lambda x: torch.minimum(x, x[:, :1])), "minimum"),
    "of length one": (Plain(lambda x: F.normalize(x, dim=1)), "tile"),
    "inverse root": (Plain(lambda x: (x * x + 0.25).rsqrt()), "rsqrt"),
    "sum": (Plain(lambda x: x + x[:, :1]), "add"),
    "difference": (Plain(lambda x: x - x.mean(1, keepdim=True)), "sub"),
    "product": (Plain(lambda x: x * x[:, :, 2:3]), "mul"),
    "quotient": (Plain(lambda x: x / (x * x + 0.25)), "real_div"),
    "matrices": (Plain(lambda x: x @ x.transpose(2, 3)), "matmul"),
    "parts": (Plain(lambda x: torch.cat(x.split([1, 3, 2], 1)[::-1], 1)), "split"),
    "slice": (Plain(lambda x: x[:, 1:-1, ::3, 4:]), "slice_by_index"),
    "zeros around": (Plain(lambda x: F.pad(x, (0, 3, 1, 2))), "pad"),
    "dimensions": (Plain(lambda x: x.reshape(2, 1, 6, 80).squeeze(1).permute(0, 2, 1).unsqueeze(2)), "transpose"),
}


class Side(nn.Module):
    """Many networks on one input, because a conversion takes half a second however small it is."""

    def __init__(self) -> None:
        super().__init__()
        self.networks = nn.ModuleList(network for network, _ in NETWORKS.values())

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(network(x) for network in self.networks)


@pytest.fixture(scope="session", params=["fp32", "fp16"])
def side(ct: Any, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, ...]:
    """The program, its outputs and what is right, each in the order of `NETWORKS`, and how near they should be."""
    half = request.param == "fp16"
    path, network = tmp_path_factory.mktemp("side") / "side.mlpackage", Side()
    convert(ct, network, path, SHAPE, half=half)
    package = program.read(path)
    x = noise(*SHAPE).astype(np.float16)
    with torch.no_grad():
        right = copy.deepcopy(network).double()(torch.from_numpy(x).double())
    ours = list(Evaluator(package).run({"image": x.astype(np.float32)}).values())
    return package.functions["main"], ours, right, 4e-3 if half else 2e-6


@pytest.mark.parametrize("name", NETWORKS)
def test_operations_compute_what_pytorch_computes(side: tuple[Any, ...], name: str) -> None:
    function, ours, right, near = side
    index = list(NETWORKS).index(name)
    assert NETWORKS[name][1] in program.histogram(function)
    assert relative(ours[index], right[index]) < near


# --- operations with the parameters that conversion does not bring about ----------------------------------------------

ROOM = (1, 4, 6, 9)
WEIGHT = noise(4, 4, 2, 3)
ROW = noise(6)


def _uneven(x: Tensor) -> Tensor:
    return F.conv2d(F.pad(x, (4, 1, 0, 3)), torch.from_numpy(WEIGHT).double(), stride=2)


def _lower(x: Tensor) -> Tensor:
    return F.conv2d(F.pad(x, (1, 1, 1, 0)), torch.from_numpy(WEIGHT).double())


def _tanh(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))


def _layers(x: Tensor) -> Tensor:
    return F.layer_norm(x.transpose(2, 3), (6,), torch.from_numpy(ROW).double(), eps=0.5).transpose(2, 3)


GRID = 1.5 * noise(1, 3, 5, 2)  # some of it lies outside


def _resampled(padding: str, aligned: bool) -> Callable[[Tensor], Tensor]:
    """By a loop over the four neighbours of each place."""

    def of(x: Tensor) -> Tensor:
        sizes = torch.tensor(x.shape[:1:-1])  # width, height
        at = torch.from_numpy(GRID).double()[0]
        at = (at + 1) / 2 * (sizes - 1) if aligned else ((at + 1) * sizes - 1) / 2
        result = torch.zeros(1, x.shape[1], 3, 5, dtype=torch.float64)
        if padding == "border":
            at = at.clamp(torch.zeros(2), sizes - 1)
        for row, column in np.ndindex(3, 5):
            right, down = at[row, column].tolist()
            for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
                y, x0 = math.floor(down) + i, math.floor(right) + j
                if 0 <= y < x.shape[2] and 0 <= x0 < x.shape[3]:
                    result[0, :, row, column] += (1 - abs(down - y)) * (1 - abs(right - x0)) * x[0, :, y, x0]
        return result

    return of


def _resample(mb: Any, x: Any, **changes: Any) -> Any:
    usual = {
        "sampling_mode": "bilinear",
        "padding_mode": "constant",
        "padding_value": 0.0,
        "coordinates_mode": "normalized_minus_one_to_one",
        "align_corners": True,
    }
    return mb.resample(x=x, coordinates=GRID, **(usual | changes))


def _one_dimension(x: Tensor) -> Tensor:
    return F.conv1d(x[:, :, 0], torch.from_numpy(WEIGHT[:, :, 0]).double())


BUILT: dict[str, tuple[Callable[..., Any], Callable[[Tensor], Tensor]]] = {
    "conv_custom": (
        lambda mb, x: mb.conv(x=x, weight=WEIGHT, strides=[2, 2], pad_type="custom", pad=[0, 3, 4, 1]),
        _uneven,
    ),
    "conv_same_lower": (lambda mb, x: mb.conv(x=x, weight=WEIGHT, pad_type="same_lower"), _lower),
    "conv_one_dimension": (
        lambda mb, x: mb.conv(
            x=mb.slice_by_index(x=x, begin=[0, 0, 0, 0], end=[1, 4, 1, 9], squeeze_mask=[False, False, True, False]),
            weight=WEIGHT[:, :, 0],
        ),
        _one_dimension,
    ),
    "gelu_tanh": (lambda mb, x: mb.gelu(x=x, mode="TANH_APPROXIMATION"), _tanh),
    "gelu_sigmoid": (lambda mb, x: mb.gelu(x=x, mode="SIGMOID_APPROXIMATION"), lambda x: x * torch.sigmoid(1.702 * x)),
    "avg_pool_ceil": (
        lambda mb, x: mb.avg_pool(x=x, kernel_sizes=[2, 3], strides=[2, 3], pad_type="valid", ceil_mode=True),
        lambda x: F.avg_pool2d(x, (2, 3)),
    ),
    "avg_pool_same": (
        lambda mb, x: mb.avg_pool(x=x, kernel_sizes=[3, 3], pad_type="same", exclude_padding_from_average=True),
        lambda x: F.avg_pool2d(x, 3, 1, 1, count_include_pad=False),
    ),
    "max_pool_valid": (
        lambda mb, x: mb.max_pool(x=x, kernel_sizes=[2, 3], pad_type="valid"),
        lambda x: F.max_pool2d(x, (2, 3), 1),
    ),
    "upsample_uneven": (
        lambda mb, x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=3, scale_factor_width=1),
        lambda x: x.repeat_interleave(3, 2),
    ),
    "upsample_corners": (
        lambda mb, x: mb.upsample_bilinear(x=x, scale_factor_height=1, scale_factor_width=2, align_corners=True),
        lambda x: F.interpolate(x, (6, 18), mode="bilinear", align_corners=True),
    ),
    "upsample_fraction": (
        lambda mb, x: mb.upsample_bilinear(x=x, scale_factor_height=1.5, scale_factor_width=1.0, align_corners=False),
        lambda x: F.interpolate(x, (9, 9), mode="bilinear", align_corners=False),
    ),
    "reduce_all": (lambda mb, x: mb.reduce_mean(x=x, keep_dims=True), lambda x: x.mean((0, 1, 2, 3), keepdim=True)),
    "reduce_squares": (lambda mb, x: mb.reduce_sum_square(x=x, axes=[-1]), lambda x: x.square().sum(3)),
    "rsqrt_usual": (lambda mb, x: mb.rsqrt(x=mb.mul(x=x, y=x)), lambda x: (x * x + 1e-12).rsqrt()),
    "rsqrt_own": (
        lambda mb, x: mb.rsqrt(x=mb.mul(x=x, y=x), epsilon=np.float32(0.5)),
        lambda x: (x * x + 0.5).rsqrt(),
    ),
    "l2_norm": (lambda mb, x: mb.l2_norm(x=x, epsilon=np.float32(0.5)), lambda x: x / (x.square().sum() + 0.5).sqrt()),
    "layer_norm_axis": (lambda mb, x: mb.layer_norm(x=x, axes=[2], gamma=ROW, epsilon=0.5), _layers),
    "resample_zeros": (_resample, _resampled("constant", True)),
    "resample_border": (lambda mb, x: _resample(mb, x, padding_mode="border"), _resampled("border", True)),
    "resample_edges": (lambda mb, x: _resample(mb, x, align_corners=False), _resampled("constant", False)),
    "matmul_transposed": (lambda mb, x: mb.matmul(x=x, y=x, transpose_x=True), lambda x: x.mT @ x),
    "reshape_kept": (lambda mb, x: mb.reshape(x=x, shape=[0, 2, -1, 0]), lambda x: x.reshape(1, 2, 12, 9)),
    "squeeze_all": (lambda mb, x: mb.squeeze(x=x), lambda x: x.squeeze()),
    "squeeze_none": (lambda mb, x: mb.squeeze(x=x, axes=[1, -4]), lambda x: x.squeeze(0)),
    "expand_both_ends": (lambda mb, x: mb.expand_dims(x=mb.squeeze(x=x), axes=[-1, 0]), lambda x: x.unsqueeze(-1)),
    "transpose_negative": (lambda mb, x: mb.transpose(x=x, perm=[0, -1, 1, 2]), lambda x: x.permute(0, 3, 1, 2)),
    "tile": (lambda mb, x: mb.tile(x=x, reps=[3, 1, 2, 1]), lambda x: x.repeat(3, 1, 2, 1)),
    "split_even": (lambda mb, x: mb.split(x=x, num_splits=3, axis=-1)[1], lambda x: x[..., 3:6]),
    "split_both": (lambda mb, x: mb.split(x=x, num_splits=2, split_sizes=[1, 3], axis=1)[1], lambda x: x[:, 1:]),
    "slice_masks": (
        lambda mb, x: mb.slice_by_index(
            x=x,
            begin=[0, 3, 1, -4],
            end=[1, 0, 1, 9],
            stride=[1, 1, 2, 1],
            begin_mask=[False, True, False, False],
            end_mask=[False, True, True, False],
            squeeze_mask=[True, False, False, False],
        ),
        lambda x: x[0, :, 1::2, -4:],
    ),
    "cast_to_integer": (lambda mb, x: mb.cast(x=x, dtype="int32"), lambda x: x.trunc()),
    "cast_to_truth": (lambda mb, x: mb.cast(x=x, dtype="bool"), lambda x: (x != 0).double()),
    "identity": (lambda mb, x: mb.identity(x=x), lambda x: x),
    "constexpr_cast": (
        lambda mb, x: mb.mul(x=x, y=mb.constexpr_cast(source_val=np.float16([0.1]), output_dtype="fp32")),
        lambda x: x * float(np.float16(0.1)),
    ),
}


def build(
    ct: Any, path: Path, functions: dict[str, Callable[..., Any]], *, target: str = "iOS16", half: bool = False
) -> Path:
    """A package of MIL operations as they are given, without a pass of coremltools over them. The input is x."""
    mb, types = ct.converters.mil.Builder, ct.converters.mil.mil.types
    opset, dtype = getattr(ct.target, target), types.fp16 if half else types.fp32

    @mb.program(input_specs=[mb.TensorSpec(ROOM, dtype=dtype)], opset_version=opset)
    def several(x: Any) -> Any:
        return tuple(mb.identity(x=function(mb, x), name=name) for name, function in functions.items())

    with program.quiet():
        ct.convert(
            several,
            convert_to="mlprogram",
            minimum_deployment_target=opset,
            compute_precision=ct.precision.FLOAT32,
            pass_pipeline=ct.PassPipeline.EMPTY,
            skip_model_load=True,
        ).save(str(path))
    return path


@pytest.fixture(scope="session")
def built(ct: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    """x, and the outputs of `BUILT`."""
    functions = {name: function for name, (function, _) in BUILT.items()}
    path = build(ct, tmp_path_factory.mktemp("built") / "built.mlpackage", functions)
    x = 3 * noise(*ROOM)
    x[..., 4] = 0
    return x, Evaluator(program.read(path)).run({"x": x})


@pytest.mark.parametrize("name", BUILT)
def test_parameters_mean_what_they_say(built: tuple[NDArray[Any], dict[str, NDArray[Any]]], name: str) -> None:
    x, outputs = built
    right = BUILT[name][1](torch.from_numpy(x).double()).numpy()
    assert outputs[name].shape == right.shape
    np.testing.assert_allclose(outputs[name], right, rtol=1e-5, atol=1e-5)


def test_attention_of_ios_18(ct: Any, tmp_path: Path) -> None:
    mask, truth = noise(6, 6), np.tri(6, 6, 2) > 0
    functions: dict[str, Callable[..., Any]] = {
        "plain": lambda mb, x: mb.scaled_dot_product_attention(query=x, key=x, value=x),
        "masked": lambda mb, x: mb.scaled_dot_product_attention(query=x, key=x, value=x, attn_mask=mask),
        "hidden": lambda mb, x: mb.scaled_dot_product_attention(query=x, key=x, value=x, attn_mask=truth),
    }
    x = noise(*ROOM)
    outputs = Evaluator(program.read(build(ct, tmp_path / "a.mlpackage", functions, target="iOS18"))).run({"x": x})
    exact = torch.from_numpy(x).double()
    scores = exact @ exact.mT / 3
    for name, added in (
        ("plain", torch.zeros(6, 6)),
        ("masked", torch.from_numpy(mask)),
        ("hidden", torch.zeros(6, 6).masked_fill(torch.from_numpy(~truth), -torch.inf)),
    ):
        assert relative(outputs[name], (scores + added).softmax(-1) @ exact) < 1e-5


STEPS = np.float32([0.5, 0.25, 0.1, 0.02])  # of each channel
ZEROS = np.uint8([0, 10, 128, 255])


def _restored(x: Tensor, scale: Tensor, zero: Tensor | int, least: int, largest: int) -> Tensor:
    """Values rounded to steps, halves to the even one, and clipped."""
    return (((x / scale).round() + zero).clamp(least, largest) - zero) * scale


def test_activations_of_8_bits(ct: Any, tmp_path: Path) -> None:
    def whole(mb: Any, x: Any) -> Any:
        return mb.dequantize(input=mb.quantize(input=x, scale=np.float32(0.25), output_dtype="int8"), scale=STEPS[1])

    def rows(mb: Any, x: Any) -> Any:
        levels = mb.quantize(input=x, scale=STEPS, zero_point=ZEROS, axis=np.int32(1), output_dtype="uint8")
        return mb.dequantize(input=levels, scale=STEPS, zero_point=ZEROS, axis=np.int32(1))

    x = 30 * noise(*ROOM)
    x[0, 0, 0, :4] = 0.125, 0.375, -0.125, 1e9  # halves, and what is clipped
    path = build(ct, tmp_path / "q.mlpackage", {"whole": whole, "rows": rows}, target="iOS17")
    outputs = Evaluator(program.read(path)).run({"x": x})
    exact, scale = torch.from_numpy(x), torch.from_numpy(STEPS).reshape(1, -1, 1, 1)
    zero = torch.from_numpy(ZEROS).float().reshape(1, -1, 1, 1)
    np.testing.assert_array_equal(outputs["whole"], _restored(exact, torch.tensor(0.25), 0, -128, 127))
    np.testing.assert_array_equal(outputs["rows"], _restored(exact, scale, zero, 0, 255))
    assert outputs["whole"][0, 0, 0, :4].tolist() == [0, 0.5, 0, 127 * 0.25]


REFUSED: dict[str, tuple[Callable[..., Any], str]] = {
    "interleave": (
        lambda mb, x: mb.concat(values=[x, x], axis=1, interleave=True),
        "concat .* this version does not interleave",
    ),
    "nearest": (lambda mb, x: _resample(mb, x, sampling_mode="nearest"), "resample .* samples bilinearly"),
    "outside": (lambda mb, x: _resample(mb, x, padding_value=0.5), "resample .* outside for 0, not 0.5"),
    "pixels": (lambda mb, x: _resample(mb, x, coordinates_mode="unnormalized"), "resample .* from -1 to 1"),
    "odd": (
        lambda mb, x: mb.conv(x=x, weight=WEIGHT, pad_type="same"),
        "conv .* pad_type same does not say on which side an odd number of zeros goes",
    ),
    "ceil": (
        lambda mb, x: mb.avg_pool(x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid", ceil_mode=True),
        "avg_pool .* ceil_mode where windows reach beyond the input",
    ),
    "ceil of the largest": (
        lambda mb, x: mb.max_pool(x=x, kernel_sizes=[2, 2], strides=[2, 2], pad_type="valid", ceil_mode=True),
        "max_pool .* ceil_mode where windows reach beyond the input",
    ),
    "fractions": (
        lambda mb, x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=1.5, scale_factor_width=1.0),
        "upsample_nearest_neighbor .* a whole number of times",
    ),
    "backwards": (
        lambda mb, x: mb.slice_by_index(x=x, begin=[0, 3, 0, 0], end=[1, 0, 6, 9], stride=[1, -1, 1, 1]),
        "slice_by_index .* only slices forwards",
    ),
    "integers": (
        lambda mb, x: mb.add(x=mb.cast(x=x, dtype="int32"), y=np.int32(1)),
        "add .* this version does not compute it in int32",
    ),
    "unknown": (lambda mb, x: mb.erf(x=x, name="the_one"), "erf 'the_one' .* does not know what it computes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_known_is_refused(ct: Any, tmp_path: Path, name: str) -> None:
    function, why = REFUSED[name]
    package = program.read(build(ct, tmp_path / "r.mlpackage", {"y": function}))
    with pytest.raises(ParityError, match=why) as caught:
        Evaluator(package).run({"x": np.ones(ROOM, np.float32)})
    assert "\n" not in str(caught.value)


def test_numbers_of_16_bits_are_rounded_once_and_overflow(ct: Any, tmp_path: Path) -> None:
    y = noise(*ROOM).astype(np.float16)
    functions: dict[str, Callable[..., Any]] = {
        "sum": lambda mb, x: mb.add(x=x, y=y),
        "product": lambda mb, x: mb.mul(x=x, y=y),
        "quotient": lambda mb, x: mb.real_div(x=x, y=y),
        "square": lambda mb, x: mb.mul(x=x, y=x),
        "nothing": lambda mb, x: mb.sub(x=mb.mul(x=x, y=x), y=mb.mul(x=x, y=x)),
    }
    x = (100 * noise(*ROOM)[..., ::-1]).astype(np.float16)
    x[0, 0, 0, :2] = 300, -60000
    evaluator = Evaluator(program.read(build(ct, tmp_path / "h.mlpackage", functions, half=True)))
    # the input is rounded too: what float32 adds here is lost
    outputs = evaluator.run({"x": x.astype(np.float32) + np.spacing(x).astype(np.float32) / 4})
    with np.errstate(over="ignore", invalid="ignore"):
        right = {"sum": x + y, "product": x * y, "quotient": x / y, "square": x * x, "nothing": x * x - x * x}
    for name, output in outputs.items():
        assert output.dtype == np.float16
        np.testing.assert_array_equal(output, right[name])
    assert np.isposinf(outputs["square"][0, 0, 0, :2]).all()
    assert np.isnan(outputs["nothing"][0, 0, 0, :2]).all()


def test_every_operation_is_tried(side: tuple[Any, ...]) -> None:
    others = {
        "identity",
        "cast",
        "scaled_dot_product_attention",
        "classify",
        "quantize",
        "dequantize",
        *("l2_norm", "reduce_sum_square"),
    }  # in tests of their own
    assert set(OPERATIONS) - others <= {*program.histogram(side[0]), *filter(lambda k: "constexpr" in k, OPERATIONS)}


# --- networks ---------------------------------------------------------------------------------------------------------


def network(variant: str, head: Head = Head.CLASSIFIER) -> FastViT:
    return checkpoint.randomised(variant, head, 1000, 0)[0].double().eval()


def folded(original: FastViT, layout: GraphVariant = CENTRED) -> nn.Module:
    return reparam.fold(original, layout).float()


def seen(image: NDArray[np.uint8]) -> Tensor:
    """The image as the published network takes it, in float64."""
    return torch.from_numpy(((image / 255 - np.array(MEAN)) / np.array(STD)).transpose(0, 3, 1, 2).copy())


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["fastvit_t8", pytest.param("fastvit_sa12", marks=pytest.mark.slow)])
def test_a_network_in_float32(ct: Any, variant: str, tmp_path: Path) -> None:
    original, path = network(variant), tmp_path / "net.mlpackage"
    convert(ct, folded(original), path, (1, 3, 64, 96), half=False, inputs=[picture(ct, (1, 3, 64, 96))])
    image = pixels(64, 96)
    with torch.no_grad():
        right = original(seen(image))
    found = only(Evaluator(program.read(path)).run({"image": image}))
    assert found.dtype == np.float32
    assert relative(found, right) < 1e-5


@pytest.mark.slow
def test_a_network_in_float16(ct: Any, tmp_path: Path) -> None:
    original, path = network("fastvit_sa12"), tmp_path / "net.mlpackage"
    per_head = GraphVariant(doubling="grouped", attention="per-head", norms="depthwise")
    convert(ct, folded(original, per_head), path, (2, 3, 64, 64), half=True)
    images = np.concatenate([pixels(64, 64), pixels(64, 64, seed=1)])
    with torch.no_grad():
        right = original(seen(images))
    found = only(Evaluator(program.read(path)).run({"image": seen(images).numpy()}))
    assert found.dtype == np.float16
    assert relative(found, right) < 2e-2


@pytest.mark.slow
def test_a_dense_network(ct: Any, tmp_path: Path) -> None:
    original, path = network("fastvit_t8", Head.DENSE), tmp_path / "net.mlpackage"
    names = [f"feature{i}" for i in range(4)]
    given_names = [ct.TensorType(name=name) for name in names]
    batchnorms = GraphVariant(std=STD, doubling="grouped", norms="batchnorm")
    inputs = [picture(ct, (1, 3, 64, 64))]
    convert(ct, folded(original, batchnorms), path, (1, 3, 64, 64), half=True, inputs=inputs, outputs=given_names)
    image = pixels(64, 64)
    with torch.no_grad():
        right = original(seen(image))
    found = Evaluator(program.read(path)).run({"image": image})
    assert list(found) == names
    for output, expected in zip(found.values(), right, strict=True):
        assert relative(output, expected) < 5e-2


# --- a small network, in as many forms as there are -------------------------------------------------------------------


class Small(nn.Module):
    """A classifier of five classes with layers large enough to be compressed."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 48, 3, 2, 1)
        self.middle = nn.Conv2d(48, 48, 1)
        self.head = nn.Linear(48, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.gelu(self.middle(F.gelu(self.stem(x)))).mean((2, 3)))


@pytest.fixture(scope="session")
def small() -> Small:
    return Small().eval()


@pytest.fixture(scope="session")
def models(ct: Any, small: Small, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Path]]:
    """Target -> the small network as coremltools' model, of 16-bit numbers, and where it is saved."""
    found: dict[str, tuple[Any, Path]] = {}
    for target in ("iOS16", "iOS18"):
        path, inputs = tmp_path_factory.mktemp(target) / "small.mlpackage", [picture(ct, (1, 3, 32, 32))]
        found[target] = convert(ct, small, path, (1, 3, 32, 32), half=True, target=target, inputs=inputs), path
    return found


# how -> what coremltools calls it, and its options
COMPRESSED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "int8": ("linear_quantize_weights", "OpLinearQuantizerConfig", {}),
    "uint8": (
        "linear_quantize_weights",
        "OpLinearQuantizerConfig",
        {"mode": "linear", "dtype": "uint8", "granularity": "per_tensor"},
    ),
    "palette6": ("palettize_weights", "OpPalettizerConfig", {"mode": "kmeans", "nbits": 6}),
    "palette4": ("palettize_weights", "OpPalettizerConfig", {"mode": "kmeans", "nbits": 4}),
    "palette1": ("palettize_weights", "OpPalettizerConfig", {"mode": "kmeans", "nbits": 1}),
    "sparse": ("prune_weights", "OpMagnitudePrunerConfig", {"target_sparsity": 0.5}),
    "int4": (
        "linear_quantize_weights",
        "OpLinearQuantizerConfig",
        {"mode": "linear", "dtype": "int4", "granularity": "per_block", "block_size": 16},
    ),
    "palettes": (
        "palettize_weights",
        "OpPalettizerConfig",
        {"mode": "kmeans", "nbits": 4, "granularity": "per_grouped_channel", "group_size": 16},
    ),
    "vectors": ("palettize_weights", "OpPalettizerConfig", {"mode": "kmeans", "nbits": 4, "cluster_dim": 4}),
}
SINCE_IOS_18 = ("int4", "palettes", "vectors")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "how"),
    [(t, how) for t in ("iOS16", "iOS18") for how in COMPRESSED if t == "iOS18" or how not in SINCE_IOS_18],
)
def test_compressed_weights_are_restored_as_coremltools_restores_them(
    ct: Any, models: dict[str, tuple[Any, Path]], target: str, how: str, tmp_path: Path
) -> None:
    apply, config, options = COMPRESSED[how]
    if apply == "palettize_weights":
        pytest.importorskip("sklearn")
    model, whole = models[target]
    optimize = ct.optimize.coreml
    with program.quiet():
        op_config = getattr(optimize, config)(weight_threshold=200, **options)
        smaller = getattr(optimize, apply)(model, optimize.OptimizationConfig(global_config=op_config))
        smaller.save(str(tmp_path / "smaller.mlpackage"))
        optimize.decompress_weights(smaller).save(str(tmp_path / "restored.mlpackage"))
    image, found = pixels(32, 32), dict[str, NDArray[Any]]()
    for path in (whole, tmp_path / "smaller.mlpackage", tmp_path / "restored.mlpackage"):
        package = program.read(path)
        kinds = program.histogram(package.functions["main"])
        assert any(kind.startswith("constexpr_") for kind in kinds) == (path.stem == "smaller")
        found[path.stem] = only(Evaluator(package).run({"image": image}))
    np.testing.assert_array_equal(found["smaller"], found["restored"])
    assert not np.array_equal(found["smaller"], found["small"])


@pytest.mark.slow
def test_functions_of_one_package(ct: Any, small: Small, tmp_path: Path) -> None:
    functions = ct.utils.MultiFunctionDescriptor()
    for size in (32, 48):
        path, shape = tmp_path / f"{size}.mlpackage", (1, 3, size, size)
        convert(ct, small, path, shape, half=True, target="iOS18", inputs=[picture(ct, shape)])
        functions.add_function(str(path), src_function_name="main", target_function_name=f"r{size}")
    functions.default_function_name = "r48"
    with program.quiet():
        ct.utils.save_multifunction(functions, str(tmp_path / "both.mlpackage"))
    package = program.read(tmp_path / "both.mlpackage")
    assert (package.default, list(package.functions)) == ("r48", ["r32", "r48"])
    assert package.inputs[0].shape == (48, 48)
    for size, name in ((32, "r32"), (48, None)):
        image = pixels(size, size)
        alone = only(Evaluator(program.read(tmp_path / f"{size}.mlpackage")).run({"image": image}))
        np.testing.assert_array_equal(only(Evaluator(package, name).run({"image": image})), alone)
    with pytest.raises(UsageError, match=r"both\.mlpackage has no function 'r64'\. It has: r32, r48\."):
        Evaluator(package, "r64")


def test_a_package_that_knows_its_classes(ct: Any, small: Small, tmp_path: Path) -> None:
    names, shape = ["ant", "bee", "cat", "dog", "emu"], (1, 3, 32, 32)
    convert(
        ct,
        nn.Sequential(small, nn.Softmax(-1)),
        tmp_path / "c.mlpackage",
        shape,
        half=True,
        inputs=[picture(ct, shape)],
        classifier_config=ct.ClassifierConfig(names, predicted_feature_name="classLabel"),
    )
    evaluator = Evaluator(program.read(tmp_path / "c.mlpackage"))
    assert evaluator.classes == tuple(names)
    assert evaluator.scores is not None
    image = pixels(32, 32)
    outputs = evaluator.run({"image": image}, also=[evaluator.scores])
    assert list(outputs) == ["classLabel", "classLabel_probs", evaluator.scores]
    centred = seen(image).float() * torch.tensor(STD).reshape(1, 3, 1, 1)
    with torch.no_grad():
        right = small(centred)
    assert relative(outputs[evaluator.scores], right) < 2e-2
    assert outputs["classLabel"] == names[int(right.argmax())]
    np.testing.assert_allclose(outputs["classLabel_probs"], right.softmax(-1)[0], atol=2e-3)


# --- faults -----------------------------------------------------------------------------------------------------------

IMAGE = pixels(32, 32)


@pytest.fixture(scope="session")
def whole(ct: Any, small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "small.mlpackage"
    convert(ct, small, path, (1, 3, 32, 32), half=True, inputs=[picture(ct, (1, 3, 32, 32))])
    return path


@pytest.fixture
def mine(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "small.mlpackage"))


def answer(path: Path) -> NDArray[Any]:
    return only(Evaluator(program.read(path)).run({"image": IMAGE}))


def change(path: Path, spoil: Callable[[Any], None]) -> None:
    """Change the model on the disk."""
    file = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
    spec = program.toolkit().proto.Model_pb2.Model.FromString(file.read_bytes())
    spoil(spec)
    file.write_bytes(spec.SerializeToString())


def operations(spec: Any, kind: str) -> Iterator[Any]:
    function = spec.mlProgram.functions["main"]
    return (each for each in function.block_specializations[function.opset].operations if each.type == kind)


def test_one_byte_of_a_weight_is_seen(mine: Path) -> None:
    right = answer(mine)
    file = mine / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    content = bytearray(file.read_bytes())
    content[64 + 64 + 1] ^= 0x40  # the high byte of the first weight, after a header and its record
    file.write_bytes(content)
    assert not np.array_equal(answer(mine), right)


def test_the_layout_of_colours_is_seen(mine: Path) -> None:
    right = answer(mine)

    def swap(spec: Any) -> None:
        spec.description.input[0].type.imageType.colorSpace = 30

    change(mine, swap)
    assert not np.array_equal(answer(mine), right)
    flipped = Evaluator(program.read(mine)).run({"image": IMAGE[..., ::-1]})
    np.testing.assert_array_equal(only(flipped), right)


def test_the_mean_is_seen(mine: Path) -> None:
    right = answer(mine)

    def spoil(spec: Any) -> None:
        (bias,) = (each for each in operations(spec, "const") if "image__biased__" in each.outputs[0].name)
        bias.attributes["val"].immediateValue.tensor.floats.values[2] = -0.456

    change(mine, spoil)
    assert not np.array_equal(answer(mine), right)


def test_weights_that_end_too_soon_are_seen(mine: Path) -> None:
    file = mine / "Data" / "com.apple.CoreML" / "weights" / "weight.bin"
    file.write_bytes(file.read_bytes()[:-64])
    with pytest.raises(UnavailableError, match=r"cannot load small\.mlpackage: its weight file ends"):
        program.read(mine)


def _unknown_kind(spec: Any) -> None:
    next(operations(spec, "gelu")).type = "gulu"


def _declared_shape(spec: Any) -> None:
    next(operations(spec, "gelu")).outputs[0].type.tensorType.dimensions[2].constant.size = 15


def _declared_dtype(spec: Any) -> None:
    next(operations(spec, "gelu")).outputs[0].type.tensorType.dataType = 11


def _parameter(spec: Any) -> None:
    conv = next(operations(spec, "conv"))
    conv.inputs["output_shape"].CopyFrom(conv.inputs["strides"])


def _attribute(spec: Any) -> None:
    conv = next(operations(spec, "conv"))
    conv.attributes["slope"].CopyFrom(conv.attributes["name"])


def _missing(spec: Any) -> None:
    del next(operations(spec, "conv")).inputs["weight"]


def _not_constant(spec: Any) -> None:
    conv = next(operations(spec, "conv"))
    conv.type = "constexpr_cast"


def _flat(spec: Any) -> None:
    linear = next(operations(spec, "linear"))
    linear.type = "conv"


def _two_values(spec: Any) -> None:
    conv = next(operations(spec, "conv"))
    conv.inputs["weight"].arguments.append(conv.inputs["weight"].arguments[0])


def _nobody(spec: Any) -> None:
    next(operations(spec, "gelu")).inputs["x"].arguments[0].name = "nobody"


def _twice(spec: Any) -> None:
    first, second = operations(spec, "gelu")
    second.outputs[0].name = first.outputs[0].name


def _mode(spec: Any) -> None:
    (mode,) = (each for each in operations(spec, "const") if each.outputs[0].name.startswith("gelu_mode"))
    mode.attributes["val"].immediateValue.tensor.strings.values[0] = "NEARLY"


def _padding(spec: Any) -> None:
    (kind,) = (each for each in operations(spec, "const") if each.outputs[0].name == "conv2d_pad_type_0")
    kind.attributes["val"].immediateValue.tensor.strings.values[0] = "valid"


def _weight_shape(spec: Any) -> None:
    weight = next(each for each in operations(spec, "const") if each.outputs[0].name.startswith("p_stem_weight"))
    for declared in (weight.outputs[0].type, weight.attributes["val"].type):
        sizes = declared.tensorType.dimensions
        sizes[0].constant.size, sizes[1].constant.size = sizes[1].constant.size, sizes[0].constant.size


def _constant_dtype(spec: Any) -> None:
    weight = next(each for each in operations(spec, "const") if each.outputs[0].name.startswith("p_stem_weight"))
    weight.outputs[0].type.tensorType.dataType = 11


def _half_a_bias(spec: Any) -> None:
    bias = next(operations(spec, "conv")).inputs["bias"].arguments[0]
    bias.value.type.tensorType.dataType, bias.value.type.tensorType.rank = 11, 1
    bias.value.type.tensorType.dimensions.add().constant.size = 48
    bias.value.immediateValue.tensor.floats.values.extend([0.0] * 48)


def _opset(spec: Any) -> None:
    function = spec.mlProgram.functions["main"]
    function.block_specializations["CoreML99"].CopyFrom(function.block_specializations[function.opset])
    function.opset = "CoreML99"


def _greyscale(spec: Any) -> None:
    spec.description.input[0].type.imageType.colorSpace = 10


def _several_sizes(spec: Any) -> None:
    spec.description.input[0].type.imageType.imageSizeRange.SetInParent()


def _other_size(spec: Any) -> None:
    spec.description.input[0].type.imageType.width = 33


def _other_name(spec: Any) -> None:
    spec.description.input[0].name = "picture"


def _other_output(spec: Any) -> None:
    spec.description.output[0].name = "scores"


def _other_output_type(spec: Any) -> None:
    spec.description.output[0].type.multiArrayType.dataType = 65568


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (_unknown_kind, "Operation gulu 'gelu_cast_fp16' cannot be evaluated: .* does not know what it computes"),
        (_declared_shape, r"gelu 'gelu_cast_fp16' gives fp16 \[1, 48, 16, 16\] for .* declares fp16 \[1, 48, 15, 16\]"),
        (_declared_dtype, r"gelu .* gives fp16 \[1, 48, 16, 16\] for .* declares fp32 \[1, 48, 16, 16\]"),
        (_parameter, "conv .* does not know its parameter output_shape"),
        (_attribute, "conv .* does not know its attribute slope"),
        (_missing, "conv .* lacks its parameter weight"),
        (_not_constant, "constexpr_cast .* 'image_to_fp16' is not constant"),
        (_flat, "conv .* x has 2 dimensions"),
        (_two_values, "conv .* its parameter weight has 2 values instead of one"),
        (_nobody, "gelu .* nothing before it computes 'nobody'"),
        (_twice, "gelu .* there is a value 'gelu_cast_fp16' already"),
        (_mode, "gelu .* does not know its mode NEARLY"),
        (_padding, "conv .* has padding of its own beside pad_type valid"),
        (_weight_shape, "conv .* cannot be evaluated: .*weight"),
        (_constant_dtype, r"const .* it holds fp16 \[48, 3, 3, 3\] and declares fp32 \[48, 3, 3, 3\]"),
        (_half_a_bias, r"conv .* differ in type \(x: fp16, weight: fp16, bias: fp32\)"),
        (_opset, "what operations mean in the operation set 'CoreML99'"),
        (_greyscale, "Input image is described as image GRAYSCALE, which this version cannot evaluate"),
        (_several_sizes, "Input image may have several shapes"),
        (
            _other_size,
            r"Input image is described as fp32 \[1, 3, 32, 33\], and its program declares fp32 \[1, 3, 32, 32\]",
        ),
        (_other_name, r"describes inputs \['picture'\], and its program has \['image'\]"),
        (_other_output, r"describes outputs \['scores'\], and its program has"),
        (_other_output_type, r"is described as fp32 \[1, 5\], and its program declares fp16 \[1, 5\]"),
    ],
)
def test_a_fault_in_the_program_is_named(mine: Path, spoil: Callable[[Any], None], why: str) -> None:
    change(mine, spoil)
    with pytest.raises(ParityError, match=why) as caught:
        answer(mine)
    assert "\n" not in str(caught.value)


# --- how it is used ---------------------------------------------------------------------------------------------------


def test_wrong_inputs_are_refused(whole: Path) -> None:
    evaluator = Evaluator(program.read(whole))
    right = r"The package takes image \[1, 32, 32, 3\] as 8-bit RGB pixels \(uint8\), "
    with pytest.raises(UsageError, match=right + r"not \[1, 32, 33, 3\] as uint8\."):
        evaluator.check({"image": pixels(32, 33)})
    with pytest.raises(UsageError, match=right + r"not \[1, 32, 32, 3\] as float32\."):
        evaluator.run({"image": IMAGE.astype(np.float32)})
    with pytest.raises(UsageError, match=r"takes image, not picture\."):
        evaluator.check({"picture": IMAGE})
    with pytest.raises(UsageError, match=r"The program computes nothing called 'soup'\."):
        evaluator.run({"image": IMAGE}, also=["soup"])


def test_any_value_can_be_asked_for(whole: Path) -> None:
    evaluator = Evaluator(program.read(whole))
    found = evaluator.run({"image": IMAGE}, also=["image", "gelu_cast_fp16", "conv2d_strides_0"])
    assert list(found)[1:] == ["image", "gelu_cast_fp16", "conv2d_strides_0"]
    np.testing.assert_array_equal(found["image"], IMAGE.transpose(0, 3, 1, 2).astype(np.float32))
    assert (found["gelu_cast_fp16"].shape, found["gelu_cast_fp16"].dtype) == ((1, 48, 16, 16), np.float16)
    assert found["conv2d_strides_0"].tolist() == [2, 2]
    found["conv2d_strides_0"][:] = 7  # what is handed out is a copy
    assert evaluator.run({"image": IMAGE}, also=["conv2d_strides_0"])["conv2d_strides_0"].tolist() == [2, 2]


def test_intermediate_values_are_let_go(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = Evaluator(program.read(whole))
    alive: list[int] = []
    look_up = Evaluator._arguments

    def spy(self: Evaluator, operation: Any, values: Any) -> Any:
        alive.append(len(values))
        return look_up(self, operation, values)

    monkeypatch.setattr(Evaluator, "_arguments", spy)
    evaluator.run({"image": IMAGE})
    assert alive == [1] * len(alive)  # a chain of operations: each finds its one input and nothing else
