"""Counting right answers: what is counted, what is kept of it, and that nothing is lost however it ends."""

import contextlib
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import builders
import msgspec
import numpy as np
import pictures
import pytest
import torch
from commands import call, refused
from conftest import made_shallow
from numpy.typing import NDArray

from fastvit_bench import backends, config, files
from fastvit_bench.accuracy import count as accuracy_count
from fastvit_bench.accuracy import dataset
from fastvit_bench.accuracy import run as accuracy_run
from fastvit_bench.backends import Images, Session, VerificationRun
from fastvit_bench.errors import NotComparableError, UsageError
from fastvit_bench.exporting import checkpoints, pipeline
from fastvit_bench.measuring import machine as machines
from fastvit_bench.measuring import timing
from fastvit_bench.network import checkpoint, reparam
from fastvit_bench.records import (
    MEAN,
    STD,
    Accuracy,
    AccuracyChunk,
    Artifact,
    Device,
    EvaluationJob,
    Failure,
    Fuse,
    Head,
    Method,
    ModelSpec,
    Preprocessing,
    Request,
    Shape,
    Weights,
)
from fastvit_bench.records.preparation import IMAGENET
from fastvit_bench.render import rows
from fastvit_bench.store import runs
from fastvit_bench.sweep import plan
from fastvit_bench.sweep import run as sweep_run

ACCURACY = (sys.executable, "-m", "fastvit_bench.cli", "accuracy")
TEN = ModelSpec(name="ten", variant="fastvit_t8", classes=10, resolution=64)
NAMES = [f"c{at}" for at in range(10)]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with a T8 of ten classes at 64 pixels, for one image at a time and for four. Read only."""
    folder = tmp_path_factory.mktemp("ten")
    with made_shallow():
        for batch in (1, 4):
            pipeline.export(job(folder, batch))
    return folder


def job(folder: Path, batch: int = 1):
    shape = Shape(batch=batch, height=64, width=64)
    cpu = Device(name="cpu", backend="onnxruntime", batch=batch)
    return pipeline.job(TEN, checkpoints.weights_of(TEN, 0), shape, Fuse.FOLDED, cpu, folder=folder)


@pytest.fixture
def place(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with that model and a data set of 200 images, two of which are none; it is entered."""
    (tmp_path / "models").symlink_to(made)
    pictures.folders(tmp_path / "set", NAMES, 20)
    (tmp_path / "set" / "c3" / "007.jpg").write_bytes(b"no image")
    cut = tmp_path / "set" / "c7" / "000.jpg"
    cut.write_bytes(cut.read_bytes()[:400])
    (tmp_path / "benchmark.toml").write_text(
        """
[model.ten]
variant = "fastvit_t8"
classes = 10
resolution = 64
[model.thousand]
variant = "fastvit_t8"
[model.maps]
variant = "fastvit_t8"
head = "dense"
[device.cpu]
backend = "onnxruntime"
[device.elsewhere]
backend = "onnxruntime"
match = "a processor of another age"
[device.phone]
backend = "coreml"
precision = "fp16"
[device.rtx2080ti]
backend = "tensorrt"
precision = "fp16"
batch = 4
match = "RTX 2080 Ti"
[method]
warmup = 1
runs = 6
[sweep]
models = ["ten"]
grid = [64]
timeout_s = 120
[download]
base = "http://127.0.0.1:9"
""",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def results(device: str = "cpu") -> Path:
    """The one run of a device."""
    (path,) = [path for path in runs.all_runs(Path("results")) if path.parent.name == device]
    return path


def counts(found: Accuracy) -> tuple[object, ...]:
    return found.images, found.top1, found.top5, found.overflowed, found.unreadable, found.answers


# --- what is right ----------------------------------------------------------------------------------------------------


def test_ranks_agree_with_argmax_and_sorting() -> None:
    draw = np.random.default_rng(0)
    scores = draw.integers(0, 30, (500, 20)).astype(np.float16)  # with many ties
    labels = draw.integers(0, 20, 500).tolist()
    ranked = np.argsort(-scores.astype(np.float64), axis=1, kind="stable")
    found = accuracy_count.counted(scores, labels)
    assert found.top1 == sum(scores[at].argmax() == label for at, label in enumerate(labels))
    assert found.top5 == sum(label in ranked[at, :5] for at, label in enumerate(labels))
    assert found.overflowed == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_overflowed_are_never_right(bad: float) -> None:
    scores = np.tile(np.arange(8, dtype=np.float32), (3, 1))
    scores[1, 2] = bad
    assert accuracy_count.counted(scores, [7, 7, 2]) == (1, 1, 1, (True, False, False))
    scores[1] = bad
    assert accuracy_count.counted(scores, [7, 0, 2]) == (1, 1, 1, (True, False, False))


class Oracle(Session):
    """A session that knows the class: that of the first pixel's red, and the next ones after it."""

    images = Images.PIXELS

    def __init__(self, batch: int, classes: int = 10) -> None:
        self.batch, self.classes = batch, classes
        self.threads: set[int] = set()
        self.fed: list[NDArray[np.uint8]] = []

    def set_input(self, images: NDArray[np.uint8]) -> None:
        assert images.shape == (self.batch, 32, 32, 3)
        self.threads.add(threading.get_ident())
        self.fed.append(images)

    def run(self) -> None:
        pass

    def wait(self) -> None:
        pass

    def get_output(self) -> dict[str, NDArray[np.float32]]:
        seen = self.fed[-1][:, 0, 0, 0].astype(int) % self.classes
        order = (np.arange(self.classes) - seen[:, None]) % self.classes
        return {"logits": -order.astype(np.float32)}


def artifact(batch: int, classes: int = 10) -> Artifact:
    return Artifact(
        model="oracle",
        variant="fastvit_t8",
        head=Head.CLASSIFIER,
        classes=classes,
        backend="onnxruntime",
        precision="fp32",
        shape=Shape(batch=batch, height=32, width=32),
        fused=Fuse.FOLDED,
        weights=Weights(origin="random", seed=0),
        toolchain={},
        path="oracle.onnx",
        sha256="ab" * 32,
        size_bytes=1,
        params=1,
        macs=1,
        parity=None,
    )


def painted(folder: Path, reds: Sequence[int]) -> None:
    from PIL import Image

    folder.mkdir()
    for at, red in enumerate(reds):
        if red < 0:
            (folder / f"{at:04}.png").write_bytes(b"nothing")
        else:
            Image.new("RGB", (32, 32), (red, 0, 0)).save(folder / f"{at:04}.png")


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("lanes", [1, 3])
def test_every_image_is_counted_once_however_it_is_cut(tmp_path: Path, batch: int, lanes: int) -> None:
    draw = random.Random(1)
    reds = [draw.randrange(10) if draw.random() > 0.1 else -1 for _ in range(150)]
    reds[64:128] = [-1] * 64  # whole tallies without a picture
    painted(tmp_path / "set", reds)
    labels = [draw.randrange(10) for _ in reds]
    blank = pictures.data_set(tmp_path / "set", _zeros(tmp_path, len(reds)), 10).pictures
    listed = [msgspec.structs.replace(each, label=label) for each, label in zip(blank, labels, strict=True)]
    seen = accuracy_count.ImageSelection(tmp_path / "set", listed, Preprocessing(resolution=32, crop=1.0), 2)
    sessions = [Oracle(batch) for _ in range(lanes)]
    found = list(accuracy_count.tallies(sessions, artifact(batch), seen, 0, "an oracle"))
    assert [tally.first for tally in found] == [sum(t.pictures for t in found[:at]) for at in range(len(found))]
    assert sum(tally.pictures for tally in found) == 150
    readable = [(red, label) for red, label in zip(reds, labels, strict=True) if red >= 0]
    assert sum(tally.top1 for tally in found) == sum(red == label for red, label in readable)
    assert sum(tally.top5 or 0 for tally in found) == sum((label - red) % 10 < 5 for red, label in readable)
    assert [each.name for tally in found for each in tally.unreadable] == [
        f"{at:04}.png" for at, red in enumerate(reds) if red < 0
    ]
    given = [answer for tally in found for answer in tally.answers or ()]
    assert given == [red >= 0 and red == label for red, label in zip(reds, labels, strict=True)]
    # from any tally on, the same tallies come
    for at in range(len(found)):
        first, before = found[at].first, found[at - 1].contents if at else ""
        assert list(accuracy_count.tallies(sessions, artifact(batch), seen, first, "an oracle", before)) == found[at:]
    if lanes == 1:
        assert sessions[0].threads == {threading.get_ident()}  # a GPU's context belongs to a thread


def _zeros(folder: Path, count: int) -> Path:
    file = folder / "zeros.txt"
    file.write_text("".join(f"{at:04}.png 0\n" for at in range(count)))
    return file


def test_networks_of_few_classes_have_no_top5(tmp_path: Path) -> None:
    painted(tmp_path / "set", [0, 1, -1])
    listed = pictures.data_set(tmp_path / "set", _zeros(tmp_path, 3), 10).pictures
    seen = accuracy_count.ImageSelection(tmp_path / "set", listed, Preprocessing(resolution=32, crop=1.0), 1)
    for classes, top5 in ((5, None), (6, 1)):
        (tally,) = accuracy_count.tallies([Oracle(1, classes)], artifact(1, classes), seen, 0, "an oracle")
        assert (tally.top1, tally.top5) == (1, top5)


def test_what_goes_wrong_in_a_lane_is_raised(tmp_path: Path) -> None:
    painted(tmp_path / "set", [0] * 20)

    class Broken(Oracle):
        def run(self) -> None:
            raise UsageError("broken")

    listed = pictures.data_set(tmp_path / "set", _zeros(tmp_path, 20), 10).pictures
    seen = accuracy_count.ImageSelection(tmp_path / "set", listed, Preprocessing(resolution=32, crop=1.0), 2)
    with pytest.raises(UsageError, match="broken"):
        list(accuracy_count.tallies([Broken(1), Broken(1)], artifact(1), seen, 0, "a broken one"))
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("decode", "batch", "compute"))]


def test_the_interval_is_wilsons() -> None:
    from fastvit_bench.records import share

    # Wilson (1927), as Agresti and Coull (1998) give it, by hand for 8 of 10: (0.8 + z²/20 ± ...) / (1 + z²/10)
    found = share(8, 10)
    assert (found.low, found.high) == pytest.approx((0.4901625, 0.9433178), abs=1e-6)
    assert share(0, 5).low == 0
    assert share(5, 5).high == 1


# --- against a plain loop ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("batch", [4, 1])
def test_it_counts_what_a_plain_pytorch_loop_counts(timm: ModuleType, place: Path, batch: int) -> None:
    """With timm's transform, torchvision's list of files and the unfused network; classes of which half are its own."""
    from timm.data import create_transform
    from torchvision.datasets.folder import default_loader

    with made_shallow():
        network, _ = checkpoint.randomised("fastvit_t8", Head.CLASSIFIER, 10, 0)
    transform = create_transform((3, 64, 64), interpolation="bicubic", mean=MEAN, std=STD, crop_pct=0.9)
    paths = sorted(path for path in (place / "set").rglob("*.jpg") if path.stat().st_size > 410)
    draw = random.Random(4)
    top1 = top5 = 0
    labels: list[str] = []
    for path in paths:
        with torch.no_grad():
            scores = network.eval()(transform(default_loader(str(path)))[None])[0]
        guess = int(scores.argmax())
        label = guess if draw.random() < 0.5 else draw.randrange(10)
        labels.append(f"{path.relative_to(place / 'set').as_posix()} {label}\n")
        top1 += guess == label
        top5 += label in scores.topk(5).indices.tolist()
    others = set((place / "set").rglob("*.jpg")) - set(paths)
    labels += [f"{path.relative_to(place / 'set').as_posix()} 0\n" for path in others]
    Path("map.txt").write_text("".join(labels), encoding="utf-8")
    call("accuracy", "--data", "set", "--labels", "map.txt", "--batch", str(batch))
    (found,) = runs.read(results()).accuracies
    assert counts(found)[:3] == (198, top1, top5)
    assert 90 < top1 < 140
    assert found.how == "onnxruntime"


# --- as users call it -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_file_that_is_timed_is_counted_and_kept(place: Path) -> None:
    done = call("accuracy", "--data", "set", "--format", "json")
    (told,) = json.loads(done.stdout)
    (found,) = runs.read(results()).accuracies
    timed = pipeline.cached(job(place / "models"))
    assert timed is not None
    assert found.artifact == timed
    assert told["artifact"]["sha256"] == timed.sha256
    assert found.images == 198
    assert told["top1_share"]["low"] < found.top1 / 198 == told["top1_share"]["value"] < told["top1_share"]["high"]
    assert [each.name for each in found.unreadable] == ["c3/007.jpg", "c7/000.jpg"]
    assert found.preprocessing.shorter_side == 71
    assert found.machine == machines.collect(device=found.device)
    assert "top-1" in done.stderr
    assert "2 unreadable" in done.stderr
    assert "exporting" not in done.stderr
    # where nothing was timed, the table is the one that `accuracy` printed
    assert call("table", "last", "--format", "json").stdout == done.stdout
    assert call("table", "--join", "accuracy", "--format", "json").stdout == done.stdout
    assert "c3/007.jpg" in call("table", "last").stdout
    assert call("table", "--pareto").stdout.strip() == "No measurements."
    assert rows.collect([runs.read(results())]) == []


@pytest.mark.slow
def test_what_is_counted_by_another_preparation_says_so(place: Path) -> None:
    Path("models").unlink()
    settings = Path("benchmark.toml")
    keys = 'mean = [0.5, 0.5, 0.5]\nresize = "pad"\n'
    declared = settings.read_text().replace("classes = 10\n", f"classes = 10\n{keys}", 1)
    settings.write_text(declared)
    done = call("accuracy", "--data", "set", "--limit", "20", "--format", "markdown")
    assert "ten: images are prepared with mean 0.5 0.5 0.5, resize pad ([model.ten])" in done.stderr
    assert "* with another mean and resize than published" in done.stderr
    assert "not as the network was published, with mean 0.485 0.456 0.406, resize shorter-side" in done.stdout
    (counted,) = runs.read(results()).accuracies
    assert counted.own == IMAGENET
    assert counted.artifact.preparation is not None
    assert counted.preprocessing.mean == counted.artifact.preparation.mean == (0.5, 0.5, 0.5)
    settings.write_text(declared.replace(keys, ""))
    done = call("accuracy", "--data", "set", "--limit", "20", "--format", "markdown")
    assert "published" not in done.stdout + done.stderr
    files_of = {path.name for path in Path("models/ten").glob("*.onnx")}
    assert len(files_of) == 2  # one a preparation


@pytest.mark.parametrize(
    "format_", ["markdown", *(pytest.param(name, marks=pytest.mark.slow) for name in ("rich", "csv", "latex"))]
)
def test_every_format_names_the_broken_images(place: Path, format_: str) -> None:
    done = call("accuracy", "--data", "set", "--format", format_, "--workers", "3")
    told = done.stdout.replace("{", "").replace("}", "")
    assert "c3/007.jpg" in told
    assert "c7/000.jpg" in told
    assert "ten" in told


@pytest.mark.slow
def test_what_is_missing_is_exported_first_and_a_checkpoint_tells_its_classes(place: Path) -> None:
    Path("models").unlink()
    network, weights = checkpoint.randomised("fastvit_t8", Head.CLASSIFIER, 10, 3)
    checkpoint.save(reparam.fuse(network), Path("ten.safetensors"), source=weights)
    words = ("--model", "thousand", "--checkpoint", "ten.safetensors", "--res", "64", "--limit", "20")
    call("accuracy", "--data", "set", *words)
    (found,) = runs.read(results()).accuracies
    assert found.artifact.classes == 10
    assert found.artifact.weights.file == "ten.safetensors"
    assert found.artifact.sha256 == files.sha256(Path("models/thousand") / found.artifact.path)
    assert found.evaluation.limit == found.evaluation.images == 20
    assert found.images == 20 - len(found.unreadable)
    Path("set/c9").rename("c9")
    told = refused("accuracy", "-q", "--data", "set", *words)  # -q: no note on what else the checkpoint holds
    assert "set holds 9 class folders, and thousand has 10 classes" in told


@pytest.mark.slow
def test_the_table_joins_what_was_counted_of_the_file_that_was_timed(place: Path) -> None:
    call("latency", "--res", "64")
    before = call("table", "--join", "accuracy", "--format", "json")
    assert json.loads(before.stdout)[0]["accuracy"] == {}
    (timed,) = runs.all_runs(Path("results"))
    call("accuracy", "--data", "set")
    call("accuracy", "--data", "set", "--batch", "4", "--limit", "20")  # of another file
    (row,) = json.loads(call("table", timed.stem, "--join", "accuracy", "--format", "json").stdout)
    (measured,) = runs.read(timed).measurements
    assert row["accuracy"]["64"]["artifact"] == measured.artifact.sha256
    assert row["accuracy"]["64"]["images"] == 198
    assert row["latency"]["64"]["artifact"] == measured.artifact.sha256
    assert "measured top-1 %" in call("table", "--join", "accuracy", "--format", "markdown").stdout
    assert "measured" not in call("table", "--format", "csv").stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("device", "limit", "how"),
    [
        ("phone", "20", "MIL program read back and evaluated with PyTorch"),
        ("rtx2080ti", "200", "ONNX Runtime on this processor, every result rounded to float16, not TensorRT"),
    ],
)
def test_where_the_device_is_not_here_what_proves_its_files_counts(
    place: Path, device: str, limit: str, how: str
) -> None:
    Path("models").unlink()
    call("accuracy", "--data", "set", "--limit", limit)
    done = call("accuracy", "--device", device, "--data", "set", "--limit", limit)
    assert f"device '{device}' is not available here" in done.stderr
    (found,) = runs.read(results(device)).accuracies
    assert found.how == how
    assert found.artifact.precision == "fp16"
    (reference,) = runs.read(results()).accuracies
    assert abs(found.top1 - reference.top1) <= 0.05 * reference.images  # float16 moves an image over a border at most


def test_off_its_device_a_file_is_counted_in_the_arithmetic_that_it_declares(monkeypatch: pytest.MonkeyPatch) -> None:
    # a proof may begin in a wider type, where a file in 8 bits computes exactly what its rounded network does
    wide, declared = contextlib.nullcontext(object()), contextlib.nullcontext(object())
    export = builders.export_job(precision="w8a8")
    runs_of_proof = [
        VerificationRun("exact", "in FP32", export.shape, wide, precision="fp32"),  # type: ignore[arg-type]
        VerificationRun("", "in FP16", export.shape, declared),  # type: ignore[arg-type]
    ]
    backend = SimpleNamespace(verification_sessions=lambda path, export: iter(runs_of_proof))
    monkeypatch.setattr(timing.backends, "get", lambda name: backend)
    counted: list[tuple[object, str]] = []

    def tallies(sessions: list[object], artifact: object, selection: object, first: int, how: str, *rest: object):
        counted.append((sessions[0], how))
        yield from ()

    monkeypatch.setattr(accuracy_count, "tallies", tallies)
    job = EvaluationJob(
        artifact=builders.artifact(),
        export=export,
        on_device=False,
        machine=builders.machine(),
        folder="set",
        pictures=(),
        first=0,
        preprocessing=Preprocessing(resolution=32, crop=1.0),
        workers=1,
    )
    assert list(timing.evaluate_artifact(job)) == []
    assert counted == [(declared.enter_result, "in FP16")]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "--data DIR"),
        (["--data", "nowhere"], 2, "does not exist"),
        (["--data", "set", "--model", "thousand"], 2, "holds 10 class folders, and thousand has 1000 classes"),
        (["--data", "set", "--model", "maps"], 2, "maps ends in dense and names no class of an image"),
        (["--data", "set", "--res", "64x96"], 2, "at one square size"),
        (["--data", "set", "--res", "64,96"], 2, "at one square size"),
        (["--data", "set", "--res", "50"], 2, "32"),
        (["--data", "set", "--model", "*"], 2, "meant for 64, 256 pixels"),
        (["--data", "set", "--precision", "int3"], 2, "fp32 or fp16"),
        (["--data", "set", "--device", "elsewhere"], 6, "a processor of another age"),
        (["--data", "set", "--resume", "last"], 2, "leave out --data"),
        (["--resume", "last"], 2, "There are no runs"),
        (["--data", "set", "--labels", "benchmark.toml"], 2, "is not a JSON object of names and classes"),
        (["--data", "set", "--class-order", "text", "--class-map", "m"], 2, "leave one of them out"),
    ],
)
def test_mistakes_are_one_sentence(place: Path, words: list[str], code: int, said: str) -> None:
    assert said in refused("accuracy", *words, expect=code)
    assert not Path("results").exists() or not runs.all_runs(Path("results"))


def test_a_folder_without_one_readable_image_gives_no_figure(place: Path) -> None:
    for path in Path("set").rglob("*.jpg"):
        path.write_bytes(b"")
    done = call("accuracy", "--data", "set", expect=7)
    assert "none of the 200 files can be read as an image (c0/000.jpg: not an image of a known kind)" in done.stderr
    (failure,) = runs.read(results()).failures
    assert failure.stage == "accuracy"
    assert call("table").stdout.strip() == "No measurements."  # a failure to count is none to time


# --- resuming ---------------------------------------------------------------------------------------------------------


def request(found: dataset.DataSet, **changes: object) -> Request:
    settings = config.load(None, backends=backends.implemented())
    cpu = settings.device("cpu")
    asked = Request(
        device=msgspec.structs.replace(cpu, options=backends.get("onnxruntime").options(cpu)),
        models=(settings.models["ten"],),
        shapes=(Shape(batch=1, height=64, width=64),),
        fused=Fuse.FOLDED,
        method=Method(),
        seed=0,
        timeout_s=60,
        evaluation=msgspec.structs.replace(
            accuracy_run.described(found.folder, None, None, 2, accuracy_run.CountingChoices()),
            images=len(found.pictures),
            digest=found.digest,
        ),
    )
    return msgspec.structs.replace(asked, **changes)


def program(body: str) -> list[str]:
    """A worker in which something happens before each tally."""
    return [
        sys.executable,
        "-c",
        "import os, signal, sys, time\nfrom fastvit_bench.measuring import worker\nhonest = worker.evaluate_artifact\n"
        "def evaluate_artifact(job):\n    for number, tally in enumerate(honest(job)):\n"
        f"        {body}\n        yield tally\nworker.evaluate_artifact = evaluate_artifact\nworker.main()",
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("os.kill(os.getpid(), signal.SIGKILL) if number == 2 else 0", "memory ran out"),
        pytest.param("time.sleep(200) if number == 2 else 0", "longer than 20 s", marks=pytest.mark.slow),
        pytest.param("bytearray(1 << 62) if number == 2 else 0", "memory ran out", marks=pytest.mark.slow),
    ],
)
def test_what_was_counted_before_a_worker_died_counts(place: Path, body: str, reason: str) -> None:
    found = pictures.data_set(Path("set"))
    asked = request(found, timeout_s=20.0 if "sleep" in body else 60.0)
    steps = plan.plan(asked, Path("models"))
    here = accuracy_run.preflight(asked.device)
    path = sweep_run.begin(asked, steps, here.machine, Path("results"))
    *tallies, (_, failure) = accuracy_run.run(asked, steps, found, here, path, command=program(body))
    assert [type(tally) for _, tally in tallies] == [AccuracyChunk, AccuracyChunk]
    assert isinstance(failure, Failure)
    assert reason in failure.reason
    again, left, same, earlier = accuracy_run.resume(path, Path("models"), here.machine)
    assert (again, same) == (asked, found)
    *rest, (_, whole) = accuracy_run.run(again, left, same, here, path, earlier)
    assert [tally.first for _, tally in rest if isinstance(tally, AccuracyChunk)] == [128, 192]
    assert isinstance(whole, Accuracy)
    straight = sweep_run.begin(asked, steps, here.machine, Path("results"))
    *_, (_, wanted) = accuracy_run.run(asked, steps, found, here, straight)
    assert isinstance(wanted, Accuracy)
    assert counts(whole) == counts(wanted)
    assert accuracy_run.resume(path, Path("models"), here.machine)[1] == []


@pytest.mark.slow
def test_resume_refuses_other_images_another_machine_and_runs_that_time(place: Path) -> None:
    call("accuracy", "--data", "set", "--limit", "20")
    path = results()
    (line,) = runs.read(path).accuracies
    here = line.machine
    other = msgspec.structs.replace(here, packages={**here.packages, "onnxruntime": "1.0"})
    with pytest.raises(NotComparableError, match=r"onnxruntime: .* then, 1.0 now"):
        accuracy_run.resume(path, Path("models"), other)
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace(line.evaluation.decoder, "Pillow 1.0"), encoding="utf-8")
    with pytest.raises(NotComparableError, match=r"decoded by Pillow 1.0, and here is Pillow"):
        accuracy_run.resume(path, Path("models"), here)
    path.write_text(text, encoding="utf-8")
    Path("set/c0/000.jpg").write_bytes(pictures.jpeg(99, 40, 40))
    assert "not those it began with" in refused("accuracy", "--resume", "last", expect=4)
    assert f"accuracy --device cpu --resume {path.stem}" in refused("latency", "--resume", "last")
    call("latency", "--model", "ten", "--res", "64")
    (timed,) = {*runs.all_runs(Path("results"))} - {path}  # runs of one second are in no order
    assert f"latency --device cpu --resume {timed.stem}" in refused("accuracy", "--resume", timed.stem)


def bitmaps(folder: Path, shift: int) -> None:
    """Images of one size in bytes, whatever they show, in the classes of the tests."""
    for label, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True, exist_ok=True)
        for at in range(20):
            pictures.image(100 * label + at + shift, 40, 40).save(folder / name / f"{at}.bmp")


@pytest.mark.slow
def test_images_are_known_by_their_contents(place: Path) -> None:
    """Other contents under the same names, of the same sizes, are other images."""
    bitmaps(place / "one", 0)
    bitmaps(place / "two", 7000)
    for data in ("one", "two"):
        call("accuracy", "--data", data)
    first, second = (runs.read(path).accuracies[0] for path in sorted(runs.all_runs(Path("results"))))
    assert first.evaluation.digest == second.evaluation.digest  # of names and sizes
    assert first.contents != second.contents
    assert first.data_digest != second.data_digest
    # a run that is cut off behind its first counts
    path = runs.all_runs(Path("results"))[0]
    lines = path.read_bytes().splitlines(keepends=True)
    counted = [number for number, line in enumerate(lines) if b'"tally"' in line]
    path.write_bytes(b"".join(lines[: counted[0] + 1]))
    data = Path(runs.read(path).runs[0].request.evaluation.data)  # type: ignore[union-attr]
    bitmaps(data, 7000 if data.name == "one" else 0)
    assert "other contents now" in refused("accuracy", "--resume", path.stem, expect=4)
    assert path.read_bytes() == b"".join(lines[: counted[0] + 1])
    bitmaps(data, 0 if data.name == "one" else 7000)
    call("accuracy", "--resume", path.stem)
    (again,) = runs.read(path).accuracies
    assert counts(again) == counts(first if first.evaluation.data == again.evaluation.data else second)


@pytest.mark.slow
def test_models_of_one_run_are_counted_on_the_same_images(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bitmaps(place / "one", 0)
    found = pictures.data_set(Path("one"))
    asked = request(found, models=(TEN, msgspec.structs.replace(TEN, name="also")), timeout_s=600)
    steps = plan.plan(asked, Path("models"))
    here = accuracy_run.preflight(asked.device)
    path = sweep_run.begin(asked, steps, here.machine, Path("results"))
    outcomes = []
    for _, result in accuracy_run.run(asked, steps, found, here, path):
        if isinstance(result, Accuracy | Failure):
            outcomes.append(result)
            bitmaps(place / "one", 7000)
    assert isinstance(outcomes[0], Accuracy)
    assert isinstance(outcomes[1], Failure)
    assert "images changed" in outcomes[1].reason


def test_tallies_of_another_file_do_not_count(place: Path) -> None:
    found = pictures.data_set(Path("set"))
    asked = request(found)
    steps = plan.plan(asked, Path("models"))
    here = accuracy_run.preflight(asked.device)
    path = sweep_run.begin(asked, steps, here.machine, Path("results"))
    runs.append(path, AccuracyChunk(artifact="cd" * 32, how="another", first=0, pictures=64, top1=64, top5=64))
    _, left, _, earlier = accuracy_run.resume(path, Path("models"), here.machine)
    assert earlier == {left[0].cell: []}


@pytest.mark.slow
def test_killed_anywhere_and_resumed_the_counts_are_the_same(place: Path) -> None:
    """Killed as soon as some more of it is on disk, again and again; the last call finishes it."""
    kills_and_the_same(place, kills=2)


@pytest.mark.slow
def test_killed_at_ten_random_moments_the_counts_are_the_same(place: Path) -> None:
    pictures.folders(place / "more", NAMES, 100, seed=1000)
    Path("set").rename("small")
    Path("more").rename("set")
    moments = random.Random(6)
    kills_and_the_same(place, kills=10, moments=moments)


def kills_and_the_same(place: Path, kills: int, moments: random.Random | None = None) -> None:
    words: list[str] = ["--data", "set"]
    seen = 0
    for _ in range(kills):
        process = subprocess.Popen([*ACCURACY, *words], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        wait = moments.uniform(0.5, 3) if moments else None
        while process.poll() is None and time.monotonic() < deadline:
            if wait is not None:
                time.sleep(wait)
                break
            if runs.all_runs(Path("results")) and len(runs.read(results()).tallies) > seen:
                break
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if runs.all_runs(Path("results")):
            file = runs.read(results())
            assert len(file.tallies) >= seen, "something that was counted is lost"
            seen = len(file.tallies)
            words = ["--resume", results().stem]
    call("accuracy", *words)
    file = runs.read(results())
    tallies = file.tallies
    ends = [tally.first + tally.pictures for tally in tallies]
    assert [tally.first for tally in tallies] == [0, *ends[:-1]], "something was counted twice, or not at all"
    (found,) = file.accuracies
    done = call("accuracy", "--data", "set", "--format", "json")
    (wanted,) = json.loads(done.stdout)
    record = {name: wanted[name] for name in ("kind", *Accuracy.__struct_fields__)}  # the table's columns lie beside it
    assert counts(found) == counts(msgspec.convert(record, Accuracy))


def test_interrupted_by_ctrl_c_it_says_how_to_go_on(place: Path) -> None:
    pictures.folders(place / "more", NAMES, 150, seed=1000)
    process = subprocess.Popen([*ACCURACY, "--data", "more"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not runs.all_runs(Path("results")) or not runs.read(results()).tallies:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert f"fastvit-bench accuracy --device cpu --resume {results().stem}" in said
    assert "Traceback" not in said
