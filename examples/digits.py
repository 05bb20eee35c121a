"""Train a FastViT on handwritten digits, plain and distilled, and export, prove, count and time what was trained.

Images are scikit-learn's `load_digits` (1797 real ones, 8 x 8 pixels, no two alike). They are written as PNG files in
ImageNet's layout, once for training, once for validation and once for the test, so that training, validation and
`fastvit-bench accuracy` see pixels that one piece of code prepared. Three networks are trained with their train-time
branches: a teacher, a student, and the same student with the teacher's hard labels beside the true ones. Each is fused
and exported as ONNX and Core ML by the command line, as a user would. Which weights are kept is decided on validation
images; test images are looked at when all training is over.

    python examples/digits.py --output digits

The distilled student then goes down the precision ladder of ONNX Runtime, OpenVINO and Core ML, with training images
to calibrate INT8.

The table goes to stdout and to OUTPUT/digits.md, progress to stderr. Takes the package with its extra `compress`, for
scikit-learn; OpenVINO's lines take the extra `openvino`, and Core ML in INT8 takes `coreai`.
"""

import argparse
import csv
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from fastvit_bench.accuracy import classes, dataset, preprocessing
from fastvit_bench.backends import Images
from fastvit_bench.errors import ExitCode
from fastvit_bench.ladder import declare as ladder_study
from fastvit_bench.ladder import sentences
from fastvit_bench.ladder.rung import rungs
from fastvit_bench.network.fastvit import FastViT
from fastvit_bench.network.registry import VARIANTS
from fastvit_bench.paper import study_table
from fastvit_bench.records import (
    MEAN,
    STD,
    Accuracy,
    Artifact,
    ClassNumbering,
    Fuse,
    Measurement,
    Preprocessing,
    Share,
    share,
)
from fastvit_bench.render import markdown
from fastvit_bench.render.table import NONE, Column, Table, TableReport
from fastvit_bench.render.text import latency, percent
from fastvit_bench.stats.paired import PairedAnswers
from fastvit_bench.store import runs as store_runs
from fastvit_bench.store.runs import RunFile

if TYPE_CHECKING:
    from numpy.typing import NDArray

IMAGES, CLASSES = 1797, 10
PREPARED = Preprocessing(resolution=32, crop=1.0)  # FastViT halves an image five times: 32 pixels are the fewest
SPLIT_SEED = 0  # of the images, and never of the training: other seeds are tested on the same images
TEACHER, PLAIN, DISTILLED = "teacher", "plain", "distilled"

# what is made of each network: name in the table, device of benchmark.toml, how much is fused
FILES = (
    ("ONNX FP32, branches kept", "onnx-fp32", Fuse.NONE),
    ("ONNX FP32", "onnx-fp32", Fuse.FOLDED),
    ("ONNX FP16", "onnx-fp16", Fuse.FOLDED),
    ("Core ML FP16", "coreml", Fuse.FOLDED),
)
DEVICES = {
    "onnx-fp32": 'backend = "onnxruntime"\nprecision = "fp32"\noptions = {{ threads = {threads} }}',
    "onnx-fp16": 'backend = "onnxruntime"\nprecision = "fp16"\noptions = {{ threads = {threads} }}',
    "coreml": 'backend = "coreml"\nprecision = "fp16"',
    "coreml-int8": 'backend = "coreml"\nprecision = "w8a8"\ncalibration = "data/train"',
    "onnx": 'backend = "onnxruntime"\noptions = {{ threads = {threads} }}',
    "openvino": 'backend = "openvino"\noptions = {{ threads = {threads} }}',
}

# devices whose ladder is measured: every precision of the network to ship, paired with its FP32 file
LADDERS = ("onnx", "openvino")

# Core ML's ladder, by device: its reference evaluator counts right answers anywhere, and times nothing
CORE_ML = {"FP16": "coreml", "INT8": "coreml-int8"}


@dataclass(frozen=True)
class Plan:
    """What a run is asked for; the defaults take about 12 minutes on two cores."""

    train: int = 600  # images
    validation: int = 197
    test: int = 1000
    epochs: int = 24
    batch: int = 50
    rate: float = 3e-3  # learning rate at its peak
    teacher: str = "fastvit_sa12"
    student: str = "fastvit_t8"
    seed: int = 0  # of the weights, the order of images and their changes
    threads: int = 2
    runs: int = 100  # of a latency
    wait: int = 60  # seconds in all, at most, until the machine has its usual speed


@dataclass(frozen=True)
class Digits:
    """Images of one part as bytes (N, 3, H, W), their classes (N) and their names."""

    pixels: Tensor
    labels: Tensor
    names: tuple[str, ...]


# --- images -----------------------------------------------------------------------------------------------------------


def split(labels: "NDArray[np.int64]", plan: Plan) -> "dict[str, NDArray[np.int64]]":
    """Numbers of the images of each part; no image is in two, and each class has its share in all."""
    from sklearn.model_selection import train_test_split

    rest: Any
    rest, test = train_test_split(np.arange(len(labels)), test_size=plan.test, stratify=labels, random_state=SPLIT_SEED)
    train, validation = train_test_split(
        rest, train_size=plan.train, test_size=plan.validation, stratify=labels[rest], random_state=SPLIT_SEED
    )
    return {part: np.asarray(numbers) for part, numbers in (("train", train), ("val", validation), ("test", test))}


def write_images(folder: Path, plan: Plan) -> None:
    """PART/CLASS/NUMBER.png of all parts; NUMBER is that of scikit-learn."""
    from PIL import Image
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    for part, numbers in split(found.target, plan).items():
        for number in numbers:
            path = folder / part / str(found.target[number]) / f"{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            grey = np.round(found.images[number] * (255 / 16)).astype(np.uint8)  # 0..16, bright on dark
            Image.fromarray(grey).save(path)


def read_images(folder: Path) -> Digits:
    """A part as `fastvit-bench accuracy` prepares it, before it is normalised."""
    found = classes.number(dataset.collect(folder), ClassNumbering(), 10, "the digits' network")
    ready = [
        preprocessing.prepare((found.folder / each.name).read_bytes(), PREPARED, Images.PIXELS)
        for each in found.pictures
    ]
    pixels = torch.from_numpy(np.stack(ready)).permute(0, 3, 1, 2)
    labels = torch.tensor([each.label for each in found.pictures])
    return Digits(pixels, labels, tuple(each.name for each in found.pictures))


def changed(values: Tensor, draw: torch.Generator) -> Tensor:
    """Images (B, 3, H, W) within 0..1, each turned by up to 15 degrees, made larger or smaller and moved a little."""
    count = len(values)

    def between(low: float, high: float) -> Tensor:
        return torch.rand(count, generator=draw) * (high - low) + low

    angle, scale = torch.deg2rad(between(-15, 15)), between(0.9, 1.2)  # above 1 is smaller: digits fill their images
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [torch.stack((cos, -sin, between(-0.1, 0.1)), 1), torch.stack((sin, cos, between(-0.1, 0.1)), 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(values.shape), align_corners=False)
    return F.grid_sample(values, grid, align_corners=False)


def normalised(values: Tensor) -> Tensor:
    """Images within 0..1 as networks take them, in the memory layout that convolutions are quickest in."""
    mean, std = (torch.tensor(each).reshape(1, 3, 1, 1) for each in (MEAN, STD))
    return ((values - mean) / std).contiguous(memory_format=torch.channels_last)


# --- training ---------------------------------------------------------------------------------------------------------

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # of images, the network's logits and the true classes


def true_labels(_: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy, the labels smoothed by 0.1."""
    return F.cross_entropy(logits, labels, label_smoothing=0.1)


def hard_distillation(teacher: FastViT) -> Loss:
    """Half the loss of true labels and half that of what the teacher takes the same changed image for.

    DeiT's hard-label distillation (arXiv 2012.12877, equation 3) without an extra head, as FastViT's paper has it.
    """

    def both(changed_images: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
        with torch.no_grad():
            said = teacher(changed_images).argmax(1)
        return (true_labels(changed_images, logits, labels) + true_labels(changed_images, logits, said)) / 2

    return both


def fresh(variant: str, seed: int) -> FastViT:
    """A network in training form; the same seed gives the same weights."""
    torch.manual_seed(seed)
    network = FastViT(VARIANTS[variant], classes=CLASSES)
    return network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue] - torch's stubs lack it


def train(network: FastViT, loss: Loss, data: Mapping[str, Digits], plan: Plan, title: str, console: Console) -> None:
    """Train in place, and keep the epoch with the least loss on validation images; left in evaluation mode."""
    seen, checked = data["train"], data["val"]
    inputs, probe = seen.pixels.float() / 255, normalised(checked.pixels.float() / 255)
    batches = max(1, len(inputs) // plan.batch)  # the last few images of an epoch wait for the next one
    # convolutions and the classifier; of biases, BatchNorms and layer scales the decay would only be harm
    named = dict(network.named_parameters())
    decaying = {name for name, each in named.items() if each.ndim > 1 and "layer_scale" not in name}
    groups = [
        {"params": [each for name, each in named.items() if name in decaying], "weight_decay": 0.05},
        {"params": [each for name, each in named.items() if name not in decaying], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups)
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, plan.rate, total_steps=plan.epochs * batches)
    draw = torch.Generator().manual_seed(plan.seed)
    least, right, best, state = float("inf"), 0, 0, deepcopy(network.state_dict())
    columns = (TextColumn("training {task.description}"), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        for epoch in progress.track(range(1, plan.epochs + 1), description=title):
            network.train()
            for chosen in torch.randperm(len(inputs), generator=draw)[: batches * plan.batch].chunk(batches):
                batch = normalised(changed(inputs[chosen], draw))
                optimizer.zero_grad()
                loss(batch, network(batch), seen.labels[chosen]).backward()
                optimizer.step()
                rates.step()
            network.eval()
            with torch.no_grad():
                logits = network(probe)
            found = float(true_labels(probe, logits, checked.labels))
            if found < least:
                least, best, state = found, epoch, deepcopy(network.state_dict())
                right = int((logits.argmax(1) == checked.labels).sum())
    network.load_state_dict(state)
    console.print(f"{title}: epoch {best} of {plan.epochs}, {right} of {len(probe)} validation images", highlight=False)


def train_all(data: Mapping[str, Digits], plan: Plan, console: Console) -> dict[str, FastViT]:
    """The teacher and both students, which begin with the same weights and see the same images in the same order."""
    networks = {
        TEACHER: fresh(plan.teacher, plan.seed),
        PLAIN: fresh(plan.student, plan.seed),
        DISTILLED: fresh(plan.student, plan.seed),
    }
    losses: dict[str, Loss] = {
        TEACHER: true_labels,
        PLAIN: true_labels,
        DISTILLED: hard_distillation(networks[TEACHER]),
    }
    for name, network in networks.items():
        train(network, losses[name], data, plan, name, console)
    return networks


def answers(network: FastViT, folder: Path, names: Sequence[str]) -> "NDArray[np.int64]":
    """What a network in training form takes images for (N), computed by PyTorch and not by anything exported."""
    ready = np.stack([preprocessing.prepare((folder / name).read_bytes(), PREPARED, Images.TENSOR) for name in names])
    with torch.no_grad():
        return network.eval()(torch.from_numpy(ready)).argmax(1).numpy()


# --- files, by the command line ---------------------------------------------------------------------------------------


def configure(folder: Path, plan: Plan) -> None:
    """Write benchmark.toml: the three networks and the devices, as a project of one's own would have it."""
    variants = {TEACHER: plan.teacher, PLAIN: plan.student, DISTILLED: plan.student}
    models = [
        f'[model.{name}]\nvariant = "{variant}"\ncheckpoint = "{weights(name)}"\nclasses = {CLASSES}\n'
        f"resolution = {PREPARED.resolution}\ncrop = {PREPARED.crop}\n"
        for name, variant in variants.items()
    ]
    devices = [f"[device.{name}]\n{text.format(threads=plan.threads)}\n" for name, text in DEVICES.items()]
    rest = (
        f"[method]\nwarmup = 10\nruns = {plan.runs}\n\n"
        f'[sweep]\nmodels = ["*"]\ngrid = [{PREPARED.resolution}]\ntimeout_s = 600\n\n'
        '[download]\nbase = "https://docs-assets.developer.apple.com/ml-research/models/fastvit"\n'
    )
    (folder / "benchmark.toml").write_text("\n".join([*models, *devices, rest]), encoding="utf-8")


def weights(name: str) -> Path:
    """Where a network's weights are kept, below the output folder."""
    return Path("models") / name / f"{name}.pth.tar"


def tool(folder: Path, *words: str, may_lack_device: bool = False) -> bool:
    """Run `fastvit-bench` in a folder, all it says on stderr; False where the device it needs is not here."""
    print(f"$ fastvit-bench {' '.join(words)}", file=sys.stderr, flush=True)
    command = [sys.executable, "-m", "fastvit_bench.cli", *words]
    code = subprocess.run(command, cwd=folder, stdout=2, check=False).returncode  # 2: the table alone is our stdout
    if code and not (may_lack_device and code == ExitCode.UNAVAILABLE):
        sys.exit(code)
    return not code


def make_files(folder: Path, plan: Plan) -> list[str]:
    """Fuse, export, prove, count and time; returns the devices that are not here, whose files cannot be timed."""
    for name in (TEACHER, PLAIN, DISTILLED):
        tool(folder, "fuse", str(weights(name)), "--output", str(weights(name).with_name(f"{name}_fused.pth.tar")))
    absent: list[str] = []
    for _, device, fuse in FILES:
        tool(folder, "accuracy", "--device", device, "--fuse", fuse, "--data", "data/test")
        words = ("latency", "--device", device, "--fuse", fuse, "--wait", f"{plan.wait // len(FILES)}s")
        if not tool(folder, *words, may_lack_device=True):
            absent.append(device)
    return absent


def make_ladders(folder: Path) -> list[str]:
    """Measure every precision of the distilled student on each toolkit; returns the devices that are not here."""
    test, train = ("--data", "data/test"), ("--calibration", "data/train")
    absent = [
        device
        for device in LADDERS
        if not tool(folder, "study", "ladder", "-d", device, "-m", DISTILLED, *test, *train, may_lack_device=True)
    ]
    tool(folder, "accuracy", "-d", CORE_ML["INT8"], "-m", DISTILLED, "--fuse", Fuse.FOLDED, *test, may_lack_device=True)
    return absent


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """An exported file, its accuracy, and its latency where it was timed."""

    network: str
    file: str
    accuracy: Accuracy
    timed: Measurement | None


def rows(results: Path) -> list[Row]:
    """All files of all networks as run files tell of them, of several figures the newest; `KeyError` without one."""
    files = all_files(results)
    accuracies = newest_accuracies(files)
    measurements = {
        timed.artifact.sha256: timed
        for file in files
        for timed in file.measurements
        if isinstance(timed.artifact, Artifact) and timed.artifact.sha256
    }
    listed: list[Row] = []
    for name in (TEACHER, PLAIN, DISTILLED):
        for file, device, fuse in FILES:
            counted = accuracies[name, device, fuse]
            listed.append(Row(name, file, counted, measurements.get(counted.artifact.sha256 or "")))
    return listed


def all_files(results: Path) -> list[RunFile]:
    """Return every run file as read, the oldest first."""
    return [store_runs.read(path) for path in store_runs.all_runs(results)]


def newest_accuracies(files: Sequence[RunFile]) -> dict[tuple[str, str, Fuse | None], Accuracy]:
    """Return the newest accuracy of each network, device and level of fusing."""
    return {
        (counted.artifact.model, counted.device.name, counted.artifact.fused): counted
        for file in files
        for counted in file.accuracies
    }


def shown(found: Sequence[Row], trained: Mapping[str, Share], notes: Sequence[str]) -> str:
    """Markdown: each network as PyTorch computes it, its files below; what was not measured has a dash."""
    cells: list[tuple[str, ...]] = []
    for row in found:
        own, counted = trained[row.network], row.accuracy
        model = f"{row.network} ({counted.artifact.variant})"
        if not cells or cells[-1][0] != model:
            cells.append((model, "PyTorch, as trained", percent(own), NONE, NONE, NONE, "PyTorch"))
        apart = 100 * (counted.top1_share.value - own.value)
        took = NONE
        if row.timed:
            took = latency(row.timed.figure_ms, row.timed.interval_ms) + "*" * bool(row.timed.warnings)
        size = f"{counted.artifact.size_bytes / 2**20:.1f}"
        cells.append((model, row.file, percent(counted.top1_share), f"{apart:+.2f}", took, size, counted.how))
    titles = ("network", "file", "top-1 %", "points apart", "latency ms", "MiB", "counted by")
    columns = [
        Column(title, title, itemgetter(at), align="left" if title in {"network", "file", "counted by"} else "right")
        for at, title in enumerate(titles)
    ]
    return markdown.report(TableReport([Table(cells, columns)], [*notes, *warned(found)]))


@dataclass(frozen=True)
class Step:
    """A precision on a toolkit, paired with the FP32 file of the same toolkit, or of ONNX Runtime."""

    toolkit: str
    precision: str
    accuracy: Accuracy | None = None
    paired: PairedAnswers | None = None
    ratio: str = NONE  # to the latency of the toolkit's FP32 file
    lacking: str = ""  # why it was not measured


def steps(results: Path) -> list[Step]:
    """All precisions of the distilled student: the newest ladder of each device, and Core ML's files."""
    listed: list[Step] = []
    for device in LADDERS:
        for path in study_table.lying([results / device], ladder_study.NAME)[-1:]:
            for rung in rungs(study_table.read(path)):
                ratio = latency(*rung.line.ratio) if rung.line.ratio else "1" if rung.line.figure else NONE
                lacking = rung.line.failed or ""
                listed.append(Step(device, rung.label, rung.accuracy, rung.paired, ratio, lacking))
    counted = newest_accuracies(all_files(results))
    reference = counted[DISTILLED, "onnx-fp32", Fuse.FOLDED]
    for precision, device in CORE_ML.items():
        own = counted.get((DISTILLED, device, Fuse.FOLDED))
        paired = PairedAnswers.of_accuracies(reference, own) if own else None
        listed.append(Step("coreml", precision, own, paired, lacking="" if own else "it takes the extra coreai"))
    return listed


def shown_ladder(found: Sequence[Step], absent: Sequence[str]) -> str:
    """Markdown: a line for each toolkit and precision, with what it loses against FP32 on the same images."""
    cells = [
        (
            step.toolkit,
            step.precision,
            percent(step.accuracy.top1_share) if step.accuracy else NONE,
            "{:+} [{:+}, {:+}]".format(*sentences.points(step.paired)) if step.paired else NONE,
            sentences.probability(step.paired.p) if step.paired else NONE,
            step.ratio,
            f"{step.accuracy.artifact.size_bytes / 2**20:.1f}" if step.accuracy else NONE,
        )
        for step in found
    ]
    titles = ("toolkit", "precision", "top-1 %", "points apart", "McNemar p", "of FP32's time", "MiB")
    columns = [
        Column(title, title, itemgetter(at), align="left" if title in {"toolkit", "precision"} else "right")
        for at, title in enumerate(titles)
    ]
    notes = [
        f"Every precision of {DISTILLED}. Points apart: top-1 less that of the toolkit's FP32 file on the same "
        "images, with Tango's 95 % interval and McNemar's exact test; Core ML's less that of ONNX FP32. Of FP32's "
        "time: in turns.",
        *(f"{step.toolkit}, {step.precision}: {step.lacking}." for step in found if step.lacking),
        *(f"{name} is not on this machine, so it has no lines." for name in absent),
    ]
    return markdown.report(TableReport([Table(cells, columns)], notes))


def warned(found: Sequence[Row]) -> list[str]:
    """Why figures with a star are to be distrusted."""
    return [
        f"* {row.network}, {row.file}: {'; '.join(row.timed.warnings)}."
        for row in found
        if row.timed and row.timed.warnings
    ]


def compared(plain: "NDArray[np.bool_]", distilled: "NDArray[np.bool_]") -> str:
    """Which student is right more often on the same images (N), and whether the images can show it.

    McNemar's exact test (1947): where only one is right, is it either as often? The interval is Clopper and Pearson's
    of that share, given how many such images there are, as points of all images.
    """
    from scipy.stats import binomtest

    gained, lost = int((distilled & ~plain).sum()), int((plain & ~distilled).sum())
    alone, count = gained + lost, len(plain)
    told = f"Of {count} test images the distilled student is right on {gained} where the plain one is wrong, and wrong "
    told += f"on {lost} where the plain one is right"
    if not alone:
        return f"{told}: no difference at all."
    test = binomtest(gained, alone)
    ends = test.proportion_ci(method="exact")
    low, high = ((2 * float(end) - 1) * alone / count * 100 for end in (ends.low, ends.high))
    points = 100 * (gained - lost) / count
    verdict = "no difference is shown"
    if test.pvalue < 0.05:
        verdict = f"the {'distilled' if gained > lost else 'plain'} one is better on such images"
    return (
        f"{told}: {points:+.1f} points [{low:+.1f}, {high:+.1f}], McNemar's exact p = {test.pvalue:.2g}; {verdict}. "
        "It speaks of these two trained networks, not of distillation: one training of each was made."
    )


def described(data: Mapping[str, Digits], plan: Plan, absent: Sequence[str]) -> list[str]:
    """What goes with the figures."""
    parts = ", ".join(
        f"{len(data[part].labels)} {name}" for part, name in (("train", "to train"), ("val", "to choose"))
    )
    lines = [
        f"{len(data['test'].labels)} test images of scikit-learn's load_digits, {parts}; a random split, so the same "
        f"writers may be in all parts. {plan.epochs} epochs, seed {plan.seed}. Top-1 with Wilson's 95 % interval.",
        f"Points apart: an exported file's top-1 less that of the network as PyTorch computes it. Latency: median of "
        f"{plan.runs} runs and its 95 % interval, batch 1, {plan.threads} threads.",
    ]
    if absent:
        lines.append(f"{NONE} in the place of a latency: {', '.join(dict.fromkeys(absent))} is not on this machine.")
    return lines


def write_answers(path: Path, test: Digits, given: "Mapping[str, NDArray[np.int64]]") -> None:
    """A line per test image: its name, its class and what each network takes it for."""
    with path.open("w", encoding="utf-8", newline="") as file:
        lines = csv.writer(file)
        lines.writerow(["image", "label", *given])
        lines.writerows(zip(test.names, test.labels.tolist(), *(said.tolist() for said in given.values()), strict=True))


# --- all of it --------------------------------------------------------------------------------------------------------


def run(folder: Path, plan: Plan) -> str:
    """From images to the table, everything below one new folder; returns the table."""
    console = Console(stderr=True)
    torch.set_num_threads(plan.threads)
    folder.mkdir(parents=True)
    write_images(folder / "data", plan)
    data = {part: read_images(folder / "data" / part) for part in ("train", "val")}
    networks = train_all(data, plan, console)
    for name, network in networks.items():
        (folder / weights(name)).parent.mkdir(parents=True)
        torch.save({"state_dict": network.state_dict()}, folder / weights(name))
    configure(folder, plan)

    # from here on nothing is chosen any more, and the test images are read
    data["test"] = test = read_images(folder / "data" / "test")
    given = {name: answers(network, folder / "data" / "test", test.names) for name, network in networks.items()}
    write_answers(folder / "answers.csv", test, given)
    absent = make_files(folder, plan)
    right = {name: said == test.labels.numpy() for name, said in given.items()}
    trained = {name: share(int(each.sum()), len(each)) for name, each in right.items()}
    notes = [compared(right[PLAIN], right[DISTILLED]), *described(data, plan, absent)]
    lacking = make_ladders(folder)
    text = shown(rows(folder / "results"), trained, notes)
    text += "\n" + shown_ladder(steps(folder / "results"), lacking)
    (folder / "digits.md").write_text(text, encoding="utf-8")
    return text


def main() -> int:
    """Read the options and run; returns the exit code."""
    started, usual = time.monotonic(), Plan()
    options = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    options.add_argument("--output", "-o", type=Path, default=Path("digits"), help="a new folder (%(default)s)")
    helps = {
        "train": "images to train with",
        "validation": "images to choose the weights by",
        "test": "images to count right answers on",
        "epochs": "times that the images are gone through",
        "batch": "images per step of training",
        "rate": "learning rate at its peak",
        "teacher": "variant of the teacher",
        "student": "variant of both students",
        "seed": "of the weights and of the order of images",
        "threads": "of training and of timed runs",
        "runs": "timed runs of each file",
        "wait": "most seconds to wait for the machine's usual speed",
    }
    for name, told in helps.items():
        value = getattr(usual, name)
        known = sorted(VARIANTS) if isinstance(value, str) else None
        options.add_argument(f"--{name}", type=type(value), default=value, choices=known, help=f"{told} (%(default)s)")
    asked = vars(options.parse_args())
    folder: Path = asked.pop("output")
    if min(asked["train"], asked["validation"], asked["test"]) < CLASSES:
        options.error(f"each part holds at least {CLASSES} images, one of each class")
    if asked["train"] + asked["validation"] + asked["test"] > IMAGES:
        options.error(f"the parts hold at most {IMAGES} images together; there are no more")
    if min(asked["epochs"], asked["threads"], asked["runs"]) < 1 or asked["batch"] < 2 or not asked["rate"] > 0:
        options.error("epochs, threads and runs are at least 1, a batch holds at least 2 images, the rate is above 0")
    if asked["wait"] < 0:
        options.error("the wait is 0 seconds or more")
    if folder.exists():
        options.error(f"{folder} exists already; name a new folder with --output, or remove it")
    os.environ.setdefault("OMP_NUM_THREADS", str(asked["threads"]))  # of the processes that export
    print(run(folder, Plan(**asked)), end="")
    print(f"all of it in {folder}/, {time.monotonic() - started:.0f} s", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
