"""What each choice of an INT8 export is worth: signal to noise of the logits, against the quantiser's defaults.

The float graph of a folded network is quantised again and again on the same images, one choice changed at a time, and
run by its operators one by one on other images. The noise is the difference of its logits from the float graph's. The
quantiser's defaults are those of `onnxruntime.quantization.quantize_static`. Without --images, squares are cut from the
two photographs that come with scikit-learn.

Goal: the logits of an export have at least 3 dB more signal to noise than by the quantiser's defaults.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from _report import heading, pixels, report, say, whole
from numpy.typing import NDArray
from PIL import Image

from fastvit_bench.accuracy import dataset, preprocessing
from fastvit_bench.backends import Images, available_cores
from fastvit_bench.backends._onnx import export, quantise, session
from fastvit_bench.backends._onnx.quantise import PROCESSOR, QuantisingChoices
from fastvit_bench.exporting import checkpoints
from fastvit_bench.measuring.machine import Watch
from fastvit_bench.network import factory
from fastvit_bench.records import Device, ExportJob, Fuse, GraphVariant, ModelSpec, Preprocessing, Shape

LEAST_DB = 3.0
CHOICES = {
    "steps per tensor, ranges of all values": QuantisingChoices(per_channel=False, ranges="extremes", equalised=False),
    "+ weights per channel": QuantisingChoices(ranges="extremes", equalised=False),
    "+ ranges by least squared error": QuantisingChoices(equalised=False),
    "+ equalised channels: **an export**": QuantisingChoices(),
    "an export, ranges by percentile": QuantisingChoices(ranges="percentile"),
    "an export, first convolution in float": QuantisingChoices(stem_in_float=True),
    "an export, classifier in float": QuantisingChoices(classifier_in_float=True),
    "an export, logits rounded": QuantisingChoices(float_logits=False),
    "an export, gates between integers": QuantisingChoices(gates_in_float=False),
    "an export, attention between integers": QuantisingChoices(attention_in_float=False),
}
EXPORT = "+ equalised channels: **an export**"
DEFAULTS = "the quantiser's defaults"

Tensor = NDArray[np.float32]


def photographs(folder: Path | None, size: int, count: int) -> list[Tensor]:
    """Normalised images (3, H, W): those of a folder, in their order, or squares of scikit-learn's photographs."""
    if folder is not None:
        images = dataset.any_images(folder)
        how = Preprocessing(resolution=size, crop=0.9)
        read = preprocessing.decoded(images.folder, images.pictures[:count], how, Images.TENSOR, workers=2, ahead=4)
        return [np.asarray(image.image, np.float32) for image in read]
    from sklearn.datasets import load_sample_images

    draw = np.random.default_rng(0)
    pictures = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    tensors: list[Tensor] = []
    for _ in range(count):
        picture = pictures[draw.integers(len(pictures))]
        side = int(draw.integers(size // 2, 1 + min(picture.size)))
        x, y = (int(draw.integers(0, 1 + length - side)) for length in picture.size)
        square = picture.crop((x, y, x + side, y + side)).resize((size, size), Image.Resampling.BICUBIC)
        tensors.append(preprocessing.normalised(np.asarray(square)))
    return tensors


def float_graph(variant: str, checkpoint: str | None, seed: int, size: int) -> onnx.ModelProto:
    """The folded network of a variant as ONNX, as ONNX Runtime and OpenVINO run it."""
    spec = ModelSpec(name=variant, variant=variant, checkpoint=checkpoint)
    weights, shape = checkpoints.weights_of(spec, seed), Shape(batch=1, height=size, width=size)
    if checkpoint:
        reference = factory.of(checkpoints.load_network(checkpoint, variant, spec.head, None))
    else:
        reference = factory.random(variant, spec.head, spec.classes, seed, shape)
    network = factory.at_level(variant, reference, Fuse.FOLDED, GraphVariant())
    asked = ExportJob(
        model=variant,
        variant=variant,
        head=spec.head,
        classes=reference.classes,
        backend="onnxruntime",
        precision="fp32",
        shape=shape,
        fused=Fuse.FOLDED,
        weights=weights,
        toolchain={},
        path="",
        checkpoint=checkpoint,
        device=Device(name="cpu", backend="onnxruntime"),
    )
    return export.model_of(network, asked, {})


def by_defaults(graph: onnx.ModelProto, images: Sequence[Tensor]) -> onnx.ModelProto:
    """The graph as the quantiser writes it without any option."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self, inputs: Iterable[Tensor]) -> None:
            self._inputs = iter(inputs)

        def get_next(self) -> Any:
            image = next(self._inputs, None)
            return None if image is None else {"image": image[None]}

    with tempfile.TemporaryDirectory() as name, session.quiet():
        source, target = Path(name, "float.onnx"), Path(name, "int8.onnx")
        onnx.save(graph, source)
        quantize_static(source, target, Reader(images))
        return onnx.load(target)


def logits(model: onnx.ModelProto, images: Sequence[Tensor], threads: int) -> NDArray[np.float64]:
    """The outputs of a model for images, by its operators one by one."""
    rows: list[NDArray[np.floating]] = []
    with session.unoptimised("a model", model.SerializeToString(), threads) as opened:
        for image in images:
            opened.set_input(image[None])
            opened.run()
            rows.append(opened.get_output()["logits"])
    return np.concatenate(rows).astype(np.float64)


def decibels(actual: NDArray[np.float64], expected: NDArray[np.float64]) -> float:
    """The mean square of what is expected over that of the difference."""
    return 10 * float(np.log10(np.square(expected).sum() / np.square(actual - expected).sum()))


def main() -> int:
    """Quantise the chosen variants by every choice; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--models", nargs="+", default=["fastvit_t8"], help="(%(default)s)")
    options.add_argument("--checkpoint", help="weights of the one model (random ones)")
    options.add_argument("--res", type=pixels, default=128, help="pixels (%(default)s)")
    options.add_argument("--images", type=Path, help="folder of images (squares of two photographs)")
    options.add_argument("--calibrate", type=whole, default=32, help="images to calibrate on (%(default)s)")
    options.add_argument("--compare", type=whole, default=16, help="other images to compare on (%(default)s)")
    options.add_argument("--seed", type=int, default=0, help="of random weights (%(default)s)")
    options.add_argument("--markdown", action="store_true", help="print the table alone, for README.md")
    asked = options.parse_args()
    threads, watch, missed = available_cores(), Watch(), False
    pictures = photographs(asked.images, asked.res, asked.calibrate + asked.compare)
    known, others = pictures[: asked.calibrate], pictures[asked.calibrate :]
    lines = ["| model | choices | dB | over the defaults | top-1 kept |", "|---|---|--:|--:|--:|"]
    for variant in asked.models:
        graph = float_graph(variant, asked.checkpoint, asked.seed, asked.res)
        expected = logits(graph, others, threads)
        say(f"{variant}: {DEFAULTS}")
        models = {DEFAULTS: by_defaults(graph, known)}
        for label, choices in CHOICES.items():
            say(f"{variant}: {label}")
            models[label] = quantise.quantised(graph, known, PROCESSOR, threads, choices).model
        actual = {label: logits(model, others, threads) for label, model in models.items()}
        base = decibels(actual[DEFAULTS], expected)
        missed = missed or decibels(actual[EXPORT], expected) < base + LEAST_DB
        for label, values in actual.items():
            gain, kept = decibels(values, expected), int((values.argmax(1) == expected.argmax(1)).sum())
            lines.append(f"| {variant} | {label} | {gain:.2f} | {gain - base:+.2f} | {kept} of {len(others)} |")
    if not asked.markdown:
        settings = {"pixels": asked.res, "calibrated on": asked.calibrate, "compared on": asked.compare}
        print(heading(report("int8", watch, settings, (), (), packages=("onnxruntime", "torch", "onnx"))), end="\n\n")
    print("\n".join(lines))
    print(f"\n{'Missed' if missed else 'Met'}: at least {LEAST_DB:.0f} dB over the quantiser's defaults.")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
