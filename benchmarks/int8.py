"""What each choice of an INT8 export is worth: signal to noise of the logits, against the quantiser's defaults.

The float graph of a folded network is quantised again and again on the same images, one choice changed at a time, and
run by its operators one by one on other images. The noise is the difference of its logits from the float graph's. The
quantiser's defaults are those of `onnxruntime.quantization.quantize_static`. Without --images, squares are cut from the
two photographs that come with scikit-learn.

Goal: the logits of an export have at least 3 dB more signal to noise than by the quantiser's defaults.
"""

import argparse
import atexit
import shutil
import sys
import tempfile
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
from _report import Goal, heading, pixels, report, say, whole
from numpy.typing import NDArray
from PIL import Image

from fastvit_bench import files
from fastvit_bench.accuracy import dataset, preprocessing
from fastvit_bench.backends import Images, available_cores
from fastvit_bench.backends._onnx import export, quantise, session
from fastvit_bench.backends._onnx.quantise import PROCESSOR, QuantisingChoices
from fastvit_bench.exporting import checkpoints
from fastvit_bench.measuring.machine import Watch
from fastvit_bench.network import factory
from fastvit_bench.records import Device, ExportJob, Fuse, GraphVariant, Head, ModelSpec, Preprocessing, Record, Shape
from fastvit_bench.records.preparation import IMAGENET

LEAST_DB = 3.0
CHOICES = {
    "steps per tensor, ranges of all values": QuantisingChoices(per_channel=False, ranges="extremes", equalised=False),
    "+ a step for each output channel": QuantisingChoices(ranges="extremes", equalised=False),
    "+ ranges of least squared error": QuantisingChoices(equalised=False),
    "+ equalised channels: **an export**": QuantisingChoices(),
    "an export, steps per tensor": QuantisingChoices(per_channel=False),
    "an export, ranges of all values": QuantisingChoices(ranges="extremes"),
    "an export, ranges by percentile": QuantisingChoices(ranges="percentile"),
    "an export, first convolution in float": QuantisingChoices(stem_in_float=True),
    "an export, classifier in float": QuantisingChoices(classifier_in_float=True),
    "an export, RepMixer in float": QuantisingChoices(mixers_in_float=True),
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
        tensors.append(preprocessing.normalised(np.asarray(square), IMAGENET))
    return tensors


def golden_checkpoint(variant: str) -> str:
    """The path of a checkpoint of the weights that the tests draw by a formula."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import golden as formula
    import torch

    path = Path(tempfile.mkdtemp(), f"{variant}.pth.tar")
    atexit.register(shutil.rmtree, path.parent)
    torch.save({"state_dict": formula.state(variant, Head.CLASSIFIER)}, path)
    return str(path)


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


class Row(Record, frozen=True):
    """The likeness of one quantised graph to the float one, and all that it depends on."""

    model: str
    weights: str  # `golden`, a seed, or the hash of a checkpoint
    settings: str
    choices: str  # a key of CHOICES, or DEFAULTS
    snr_db: float
    kept: int  # images whose largest logit is the same one
    images: int


def goals(rows: Sequence[Row]) -> list[Goal]:
    """Whether the export of each model is as far above the quantiser's defaults as promised; none without both."""
    decided: list[Goal] = []
    for model in dict.fromkeys(row.model for row in rows):
        known = {row.choices: row.snr_db for row in rows if row.model == model}
        if {EXPORT, DEFAULTS} <= known.keys():
            gain = known[EXPORT] - known[DEFAULTS]
            claim = f"{model}: at least {LEAST_DB:.0f} dB above the quantiser's defaults"
            decided.append(Goal(claim=claim, met=gain >= LEAST_DB, reason=f"{gain:+.2f} dB"))
    return decided


def table(rows: Sequence[Row]) -> list[str]:
    """The rows in Markdown, with what each is above the quantiser's defaults and above an export."""
    lines = ["| model | choices | dB | over the defaults | over an export | top-1 kept |", "|---|---|--:|--:|--:|--:|"]
    bases = {(row.model, row.choices): row.snr_db for row in rows}
    for row in rows:
        above = [bases.get((row.model, base)) for base in (DEFAULTS, EXPORT)]
        cells = ["" if base is None else f"{row.snr_db - base:+.2f}" for base in above]
        kept = f"{row.kept} of {row.images}"
        lines.append(f"| {' | '.join([row.model, row.choices, f'{row.snr_db:.2f}', *cells, kept])} |")
    return lines


class Kept:
    """The rows of earlier calls, in a file of one JSON document a line; without a path they are kept in memory."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        lines = path.read_bytes().splitlines() if path is not None and path.exists() else []
        self._rows = {self._key(row): row for row in (msgspec.json.decode(line, type=Row) for line in lines)}

    @staticmethod
    def _key(row: Row) -> tuple[str, str, str, str]:
        return row.model, row.weights, row.settings, row.choices

    def get(self, *key: str) -> Row | None:
        """The row of a model, its weights, settings and choices, or None."""
        return self._rows.get(tuple(key))  # type: ignore[arg-type]

    def add(self, row: Row) -> None:
        """Append a row to the file before the next is begun."""
        self._rows[self._key(row)] = row
        if self._path is not None:
            with self._path.open("ab") as file:
                file.write(msgspec.json.encode(row) + b"\n")


class Network:
    """A float graph, the images and what is computed of them, each once and only where a row is missing."""

    def __init__(self, variant: str, asked: argparse.Namespace) -> None:
        self.variant, self._asked, self._threads = variant, asked, available_cores()
        self._known: dict[bool, quantise.Calibrated] = {}  # by equalised channels

    @cached_property
    def graph(self) -> onnx.ModelProto:
        """The float graph."""
        checkpoint = golden_checkpoint(self.variant) if self._asked.golden else self._asked.checkpoint
        return float_graph(self.variant, checkpoint, self._asked.seed, self._asked.res)

    @cached_property
    def _images(self) -> list[Tensor]:
        return photographs(self._asked.images, self._asked.res, self._asked.calibrate + self._asked.compare)

    @cached_property
    def expected(self) -> NDArray[np.float64]:
        """The logits of the float graph for the images to compare on."""
        return logits(self.graph, self._images[self._asked.calibrate :], self._threads)

    def _calibrated(self, choices: QuantisingChoices) -> quantise.Calibrated:
        if (key := choices.equalised) not in self._known:
            images = self._images[: self._asked.calibrate]
            self._known[key] = quantise.calibrated(self.graph, images, self._threads, choices)
        return self._known[key]

    def quantised(self, label: str) -> onnx.ModelProto:
        """The graph in INT8 by the choices of a label."""
        if label == DEFAULTS:
            return by_defaults(self.graph, self._images[: self._asked.calibrate])
        choices = CHOICES[label]
        return quantise.by_choices(self._calibrated(choices), PROCESSOR, choices).model

    def row(self, weights: str, settings: str, label: str) -> Row:
        """Quantise and compare."""
        actual = logits(self.quantised(label), self._images[self._asked.calibrate :], self._threads)
        return Row(
            model=self.variant,
            weights=weights,
            settings=settings,
            choices=label,
            snr_db=decibels(actual, self.expected),
            kept=int((actual.argmax(1) == self.expected.argmax(1)).sum()),
            images=len(actual),
        )


def main() -> int:
    """Quantise the chosen variants by every choice; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--models", nargs="+", default=["fastvit_t8"], help="(%(default)s)")
    options.add_argument(
        "--golden", action="store_true", help="the weights by formula of tests/golden.py (random ones)"
    )
    options.add_argument("--checkpoint", help="weights of the one model (random ones)")
    options.add_argument("--res", type=pixels, default=128, help="pixels (%(default)s)")
    options.add_argument("--images", type=Path, help="folder of images (squares of two photographs)")
    options.add_argument("--calibrate", type=whole, default=32, help="images to calibrate on (%(default)s)")
    options.add_argument("--compare", type=whole, default=16, help="other images to compare on (%(default)s)")
    options.add_argument("--choices", nargs="+", metavar="WORD", help="only rows with one of these words (all)")
    options.add_argument("--keep", type=Path, metavar="FILE", help="keep every row there, and do only those it lacks")
    options.add_argument("--seed", type=int, default=0, help="of random weights (%(default)s)")
    options.add_argument("--markdown", action="store_true", help="print the table alone, for README.md")
    asked = options.parse_args()
    if asked.checkpoint and (asked.golden or len(asked.models) > 1):
        options.error("--checkpoint is one model's weights; leave --golden and other models out")
    watch, kept, rows = Watch(), Kept(asked.keep), list[Row]()
    settings = {"pixels": asked.res, "calibrated on": asked.calibrate, "compared on": asked.compare}
    described = f"{settings} of {asked.images or 'photographs'}, {dict(QuantisingChoices()._asdict())}"
    weights = "golden" if asked.golden else f"seed {asked.seed}"
    weights = files.sha256(Path(asked.checkpoint)) if asked.checkpoint else weights
    wanted = [label for label in (DEFAULTS, *CHOICES) if any(word in label for word in asked.choices or [""])]
    for variant in asked.models:
        network = Network(variant, asked)
        for label in wanted:
            row = kept.get(variant, weights, described, label)
            if row is None:
                say(f"{variant}: {label}")
                row = network.row(weights, described, label)
                kept.add(row)
            rows.append(row)
    decided = goals(rows)
    if not asked.markdown:
        print(heading(report("int8", watch, settings, (), (), packages=("onnxruntime", "torch", "onnx"))), end="\n\n")
    print("\n".join(table(rows)), end="\n\n")
    print("\n".join(f"- Goal: {goal.claim}: {'met' if goal.met else 'MISSED'} ({goal.reason})." for goal in decided))
    return 0 if all(goal.met for goal in decided) else 1


if __name__ == "__main__":
    sys.exit(main())
