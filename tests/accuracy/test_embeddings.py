"""Zero-shot accuracy: class embeddings are read or refused, and every way to mix them up is planted."""

import dataclasses
import io
import pickle
from collections.abc import Generator
from pathlib import Path
from typing import Any

import builders
import msgspec
import numpy as np
import pictures
import pytest
import torch
from commands import call, refused
from numpy.typing import NDArray
from PIL import Image

from fastvit_bench import backends, config
from fastvit_bench.accuracy import classes, count, dataset, embeddings, preprocessing
from fastvit_bench.backends import Images, Session
from fastvit_bench.errors import UsageError
from fastvit_bench.exporting import checkpoints, pipeline
from fastvit_bench.measuring import machine as machines
from fastvit_bench.measuring import timing
from fastvit_bench.network.registry import ENCODERS
from fastvit_bench.records import (
    ClassNumbering,
    ClassOrder,
    Device,
    EmbeddingCosines,
    EvaluationJob,
    Fuse,
    Preprocessing,
    RankedClasses,
    Shape,
)
from fastvit_bench.render import accuracies
from fastvit_bench.store import runs

NAMES = ("ant", "bee", "cat", "dog", "elk", "fox", "gnu")


def drawn(rows: int = 7, width: int = 12, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(rows, width))


def wrong(file: Path) -> str:
    with pytest.raises(UsageError) as refusal:
        embeddings.read(file)
    sentence = str(refusal.value)
    assert "\n" not in sentence
    return sentence


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float16", "float32", "float64"])
def test_rows_are_divided_by_their_norms(tmp_path: Path, kind: str) -> None:
    values = (drawn() * np.arange(1, 8)[:, None]).astype(kind)
    np.save(tmp_path / "a.npy", np.asfortranarray(values))
    np.savez_compressed(tmp_path / "a.npz", text=values, names=np.array(NAMES))
    plain, named = embeddings.read(tmp_path / "a.npy"), embeddings.read(tmp_path / "a.npz")
    assert np.allclose(np.linalg.norm(plain.rows, axis=1), 1, atol=1e-12)
    assert np.array_equal(plain.rows, named.rows)
    assert (plain.names, named.names) == (None, NAMES)
    assert (plain.record.classes, plain.record.width) == (7, 12)
    assert plain.record.sha256 != named.record.sha256


class Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("/nowhere/planted").write_text, ("executed",))


def saved(*arrays: object, **named: object) -> bytes:
    stream = io.BytesIO()
    if named:
        np.savez(stream, **named)  # pyright: ignore[reportArgumentType]
    else:
        np.save(stream, arrays[0])  # pyright: ignore[reportArgumentType]
    return stream.getvalue()


ZERO, NAN, EQUAL = drawn(), drawn(), drawn()
ZERO[3], NAN[2, 1], EQUAL[6] = 0, np.nan, 2 * EQUAL[1]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (saved(drawn()[0]), "does not hold one array (classes, width)"),
        (saved(np.arange(12).reshape(3, 4)), "but array int64 (3, 4)"),
        (saved(a=drawn(), b=drawn()), "does not hold one array"),
        (saved(a=drawn(), names=np.array(NAMES[:6])), "names 6 different classes and holds 7 embeddings"),
        (saved(a=drawn(), names=np.array([*NAMES[:6], "ant"])), "names 6 different classes and holds 7"),
        (saved(ZERO), "class 3"),
        (saved(NAN), "class 2"),
        (saved(EQUAL), "Classes 1 and 6"),
        (saved(drawn(1)), "needs two of each"),
        (saved(drawn())[:-8], "is not a .npy or .npz file of plain arrays: it ends before"),
        (saved(drawn()).replace(b"(7, 12)", b"(7e9,9)"), "is not a .npy or .npz file"),
        (saved(np.array([Bomb()], dtype=object)), "is not a .npy or .npz file of plain arrays"),
        (pickle.dumps([1, 2]), "is not a .npy or .npz file of plain arrays"),
        (b"", "is not a .npy or .npz file of plain arrays"),
        (b"PK\x05\x06" + b"\0" * 18, "but nothing"),
    ],
)
def test_other_files_are_one_sentence_and_nothing_is_executed(tmp_path: Path, content: bytes, sentence: str) -> None:
    (tmp_path / "text.npy").write_bytes(content)
    assert sentence in wrong(tmp_path / "text.npy")


def test_a_file_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    assert "cannot be read: No such file" in wrong(tmp_path / "nowhere.npy")


# --- names ------------------------------------------------------------------------------------------------------------


def test_names_beside_the_embeddings_number_the_classes(tmp_path: Path) -> None:
    images = dataset.collect(pictures.folders(tmp_path / "set", ["10", "2", "x"], 1))
    data = classes.number(images, ClassNumbering(), 4, "mci0", ("2", "x", "y", "10"))
    assert {picture.name[:-8]: picture.label for picture in data.pictures} == {"2": 0, "x": 1, "10": 3}
    with pytest.raises(UsageError, match=r"'x' of images in .* is not among the 3 names"):
        classes.number(images, ClassNumbering(), 3, "mci0", ("2", "10", "z"))
    with pytest.raises(UsageError, match="leave it out"):
        classes.number(images, ClassNumbering(order=ClassOrder.TEXT), 3, "mci0", ("2", "10", "x"))
    with pytest.raises(UsageError, match="--class-order text or --class-order natural"):
        classes.number(images, ClassNumbering(), 3, "mci0", ())  # without names, as doubtful as a classifier's
    file = tmp_path / "rows.txt"
    file.write_text("x\n10\n2\n")
    data = classes.number(images, ClassNumbering(class_map=str(file)), 3, "mci0", ())
    assert {picture.name[:-8]: picture.label for picture in data.pictures} == {"x": 0, "10": 1, "2": 2}


# --- counting ---------------------------------------------------------------------------------------------------------


class Encoder(Session):
    """A session whose embedding is a row of a table, by the first pixel's red."""

    images = Images.PIXELS

    def __init__(self, table: NDArray[np.float64]) -> None:
        self.table = table

    def set_input(self, images: NDArray[np.uint8]) -> None:
        self.chosen = images[:, 0, 0, 0].astype(int)

    def run(self) -> None:
        pass

    def wait(self) -> None:
        pass

    def get_output(self) -> dict[str, NDArray[np.float32]]:
        return {"embedding": self.table[self.chosen].astype(np.float32)}


def tallied(folder: Path, table: NDArray[np.float64], scoring: count.Scoring, labels: list[int], batch: int = 4):
    """The counts on an image for each row of a table."""
    folder.mkdir(exist_ok=True)
    listed = []
    for red, label in enumerate(labels):
        Image.new("RGB", (32, 32), (red, 0, 0)).save(folder / f"{red:03}.png")
        listed.append(
            msgspec.convert({"name": f"{red:03}.png", "size_bytes": 1, "label": label}, dataset.LabelledImage)
        )
    selection = count.ImageSelection(folder, listed, Preprocessing(resolution=32, crop=1.0), 2)
    artifact = builders.artifact(shape=Shape(batch=batch, height=32, width=32), sha256="ab" * 32)
    return list(count.tallies([Encoder(table)], artifact, selection, 0, "a table", scoring=scoring))


@pytest.mark.parametrize("batch", [1, 4])
def test_the_nearest_class_by_angle_is_counted(tmp_path: Path, batch: int) -> None:
    text, draw = drawn(), np.random.default_rng(1)
    labels = draw.integers(0, 7, 90).tolist()
    table = text[labels] * draw.uniform(0.1, 10, (90, 1)) + draw.normal(size=(90, 12))
    # longer rows are no better: only angles count
    np.save(tmp_path / "text.npy", text * np.array([1, 100, 1, 0.01, 1, 1, 30])[:, None])
    scoring = count.Scoring(7, class_embeddings=embeddings.read(tmp_path / "text.npy").rows)
    counts = tallied(tmp_path / "set", table, scoring, labels, batch)
    unit = lambda rows: rows / np.linalg.norm(rows, axis=1, keepdims=True)  # noqa: E731
    ranked = np.argsort(-(unit(table) @ unit(text).T), axis=1)
    assert sum(tally.top1 for tally in counts) == np.sum(ranked[:, 0] == labels) > 45
    assert sum(tally.top5 or 0 for tally in counts) == sum(
        label in row[:5] for label, row in zip(labels, ranked, strict=True)
    )
    # planted: the embeddings of other classes
    for order in (np.roll(np.arange(7), 1), np.arange(7)[::-1]):
        mixed = count.Scoring(7, class_embeddings=scoring.class_embeddings[order])
        assert sum(tally.top1 for tally in tallied(tmp_path / "set", table, mixed, labels, batch)) < 30


def test_only_classes_that_are_there_may_be_ranked(tmp_path: Path) -> None:
    text = np.eye(12)[:8]
    table = np.eye(12)[[1, 2, 2, 5]] + 2 * np.eye(12)[[0, 0, 2, 0]]  # class 0 is always nearer, and has no image
    rows = text / 1.0
    everything = count.Scoring(8, class_embeddings=rows)
    present = count.Scoring(8, (1, 2, 5), class_embeddings=rows)
    assert [tally.top1 for tally in tallied(tmp_path / "set", table, everything, [1, 2, 2, 5])] == [1]
    (tally,) = tallied(tmp_path / "set", table, present, [1, 2, 2, 5])
    assert (tally.top1, tally.top5) == (4, None)


def test_an_embedding_without_a_direction_is_wrong_and_named(tmp_path: Path) -> None:
    text, table = np.eye(12)[:7], np.eye(12)[[0, 1, 2, 3]]
    honest = table.copy()
    table[1], table[2, 4] = 0, np.inf
    names = [f"{at:03}.png" for at in range(4)]

    def reference(batch: NDArray[np.uint8]) -> NDArray[np.float64]:
        return honest[batch[:, 0, 0, 0].astype(int)]

    scoring = count.Scoring(7, class_embeddings=text, reference=reference, compared=names[:2])
    (tally,) = tallied(tmp_path / "set", table, scoring, [0, 1, 2, 3])
    assert (tally.top1, tally.overflowed) == (2, 2)
    assert tally.cosines == EmbeddingCosines(images=2, total=0.0, least=-1.0, worst="001.png")


def test_class_embeddings_of_another_width_are_refused(tmp_path: Path) -> None:
    """A network without a projection tells its width only as it runs."""
    with pytest.raises(UsageError, match="have 16 numbers each, and the network's 12"):
        tallied(tmp_path / "set", drawn(3), count.Scoring(7, class_embeddings=drawn(7, 16)), [0, 1, 2])


def test_cosines_are_of_the_images_that_were_chosen(tmp_path: Path) -> None:
    table, others = drawn(70), drawn(70, seed=5)
    chosen = ["003.png", "010.png", "066.png"]
    numbers = [3, 10, 66]
    scoring = count.Scoring(7, None, drawn(7), lambda batch: others[batch[:, 0, 0, 0].astype(int)], chosen)
    first, second = tallied(tmp_path / "set", table, scoring, [0] * 70)
    expected = [table[at] @ others[at] / np.linalg.norm(table[at]) / np.linalg.norm(others[at]) for at in numbers]
    assert first.cosines is not None
    joined = first.cosines.joined(second.cosines)
    assert (joined.images, first.cosines.images) == (3, 2)
    assert joined.mean == pytest.approx(np.mean(expected), abs=1e-6)
    assert joined.least == pytest.approx(min(expected), abs=1e-6)
    assert joined.worst == chosen[int(np.argmin(expected))]


@pytest.mark.parametrize(("least", "total"), [(1.5, 3), (-2, 0), (0.5, 0.2), (0.5, 2.5), (float("nan"), 1)])
def test_cosines_that_cannot_be_are_refused(least: float, total: float) -> None:
    with pytest.raises(ValueError, match="cosine"):
        EmbeddingCosines(images=2, total=total, least=least, worst="a")


# --- an encoder -------------------------------------------------------------------------------------------------------


@pytest.fixture
def shallow(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    """MobileCLIP's first encoder is small in this process."""
    small = dataclasses.replace(ENCODERS["fastvit_mci0"], blocks=(1, 1, 1, 1), channels=(16, 32, 64, 128))
    monkeypatch.setitem(ENCODERS, "fastvit_mci0", small)
    pipeline._reference.cache_clear()
    yield
    pipeline._reference.cache_clear()


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_an_exported_encoder_is_counted_and_compared_with_its_network(tmp_path: Path) -> None:
    (spec,) = config.load(None, backends=backends.implemented()).select(["fastvit_mci0"])
    cpu = Device(name="cpu", backend="onnxruntime")
    shape = Shape(batch=1, height=32, width=32)
    job = pipeline.job(spec, checkpoints.weights_of(spec, 0), shape, Fuse.FOLDED, cpu, folder=tmp_path)
    artifact = pipeline.export(job)
    data = pictures.data_set(pictures.folders(tmp_path / "set", NAMES, 2))
    how = Preprocessing(resolution=32, crop=0.9)
    prepared = [
        preprocessing.prepare((data.folder / picture.name).read_bytes(), how, Images.TENSOR)
        for picture in data.pictures
    ]
    reference = pipeline._reference_of(job)
    with torch.no_grad():
        rows = reference.network(torch.from_numpy(np.stack(prepared)).double()).numpy()
    centred = rows - rows.mean(axis=0)
    np.save(tmp_path / "text.npy", centred[::2] + centred[1::2])  # the embedding of a class, from its own images
    embedded = embeddings.read(tmp_path / "text.npy")
    scores = rows / np.linalg.norm(rows, axis=1, keepdims=True) @ embedded.rows.T
    evaluation = EvaluationJob(
        artifact=artifact,
        export=job,
        on_device=False,
        machine=machines.collect(device=cpu),
        folder=str(data.folder),
        pictures=data.pictures,
        first=0,
        preprocessing=how,
        workers=2,
        class_embeddings=embedded.record,
        reference_images=5,
    )
    (tally,) = timing.evaluate_artifact(evaluation)
    labels = [picture.label for picture in data.pictures]
    assert tally.top1 == np.sum(scores.argmax(axis=1) == labels)
    assert tally.cosines is not None
    assert tally.cosines.images == 5
    assert tally.cosines.least > 0.999999
    # planted: weights of another seed as the reference
    other = msgspec.structs.replace(job, weights=checkpoints.weights_of(spec, 1))
    (tally,) = timing.evaluate_artifact(msgspec.structs.replace(evaluation, export=other))
    assert tally.cosines is not None
    assert tally.cosines.mean < 0.9
    # planted: other embeddings under the same name
    np.save(tmp_path / "text.npy", drawn(7, 512))
    with pytest.raises(UsageError, match="was changed since the run began"):
        list(timing.evaluate_artifact(evaluation))


# --- as users call it -------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pictures.folders(tmp_path / "set", NAMES, 3)
    monkeypatch.chdir(tmp_path)
    np.save("text.npy", drawn(7, 512))
    return tmp_path


MCI0 = ("accuracy", "--data", "set", "--model", "fastvit_mci0", "--res", "64")


@pytest.mark.parametrize(
    ("values", "words", "sentence"),
    [
        (drawn(7, 512), MCI0, "ends in an embedding, which names no class by itself; give --class-embeddings"),
        (drawn(512, 7), (*MCI0, "--class-embeddings", "text.npy"), "holds 512 embeddings of 7 numbers, and those of"),
        (drawn(512, 7), (*MCI0, "--class-embeddings", "text.npy"), "it is turned over: save its transpose"),
        (drawn(7, 768), (*MCI0, "--class-embeddings", "text.npy"), "it belongs to another network"),
        (drawn(8, 512), (*MCI0, "--class-embeddings", "text.npy"), "7 class folders, and fastvit_mci0 has 8 classes"),
        (
            drawn(7, 512),
            ("accuracy", "--data", "set", "--model", "fastvit_t8", "--class-embeddings", "text.npy"),
            "is a classifier, which scores its own classes",
        ),
        (drawn(7, 512), ("accuracy", "--data", "set", "--model", "fastvithd"), "ends in tokens and names no class"),
    ],
)
def test_embeddings_that_do_not_fit_are_one_sentence(
    place: Path, values: NDArray[np.float64], words: tuple[str, ...], sentence: str
) -> None:
    np.save("text.npy", values)
    assert sentence in refused(*words)
    assert not Path("results").exists() or not runs.all_runs(Path("results"))


@pytest.mark.slow
def test_zero_shot_accuracy_is_in_table_and_record(place: Path) -> None:
    words = (*MCI0, "--class-embeddings", "text.npy", "--reference-images", "4", "--among", "present")
    done = call(*words, "--format", "markdown")
    assert "cosine" in done.stdout
    assert "zero-shot by text.npy" in done.stdout
    (path,) = runs.all_runs(Path("results"))
    (accuracy,) = runs.read(path).accuracies
    assert accuracy.images == 21
    assert accuracy.cosines is not None
    assert accuracy.cosines.images == 4
    assert accuracy.cosines.least > 0.99999
    assert accuracy.evaluation.class_embeddings is not None
    assert accuracy.evaluation.among is RankedClasses.PRESENT
    # a run that is cut off goes on only with the same embeddings
    path.write_bytes(
        b"".join(
            line
            for line in path.read_bytes().splitlines(keepends=True)
            if b'"tally"' not in line and b'"kind":"accuracy"' not in line
        )
    )
    np.save("text.npy", drawn(7, 512, seed=1))
    assert "was changed since the run began" in refused("accuracy", "--resume", "last", expect=4)
    np.save("text.npy", drawn(7, 512))
    call("accuracy", "--resume", "last")
    (again,) = runs.read(path).accuracies
    assert (again.top1, again.cosines) == (accuracy.top1, accuracy.cosines)


# --- what people read -------------------------------------------------------------------------------------------------


def test_cosines_are_shown_where_there_are_any() -> None:
    plain = builders.accuracy()
    compared = builders.accuracy(cosines=EmbeddingCosines(images=64, total=63.999936, least=0.999991, worst="a/b.jpg"))
    assert "cosine" not in accuracies.markdown([plain])
    assert "cosine" not in accuracies.csv([plain])
    text = accuracies.markdown([compared])
    assert "0.999999 | 0.999991" in text
    assert "mean of 64 images; the least is of a/b.jpg" in text
    assert "cosine_least" in accuracies.csv([compared])


def test_what_guessing_gives_is_said_so() -> None:
    checkpoint = builders.artifact()
    assert checkpoint.weights.origin == "checkpoint"
    chance = "top-1 is what guessing gives; check the order of the classes"
    assert chance in accuracies.markdown([builders.accuracy(images=1000, top1=1, top5=5)])
    assert chance not in accuracies.markdown([builders.accuracy(images=1000, top1=100)])
    assert chance not in accuracies.markdown([builders.accuracy(images=10, top1=0)])
