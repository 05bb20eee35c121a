"""Image files for tests: small, drawn from a seed, and of every kind that turns up in data sets."""

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fastvit_bench.accuracy import classes, dataset
from fastvit_bench.records import ClassNumbering


def image(seed: int, width: int = 90, height: int = 70) -> Image.Image:
    """Smooth colours, so that JPEG keeps most of them."""
    draw = np.random.default_rng(seed)
    few = draw.integers(0, 256, (5, 6, 3), np.uint8)
    return Image.fromarray(few).resize((width, height), Image.Resampling.BICUBIC)


def jpeg(seed: int, width: int = 90, height: int = 70) -> bytes:
    held = io.BytesIO()
    image(seed, width, height).save(held, "JPEG", quality=90)
    return held.getvalue()


def folders(root: Path, classes: Sequence[str], each: int, seed: int = 0) -> Path:
    """DIR/CLASS/NUMBER.jpg, in sizes that differ."""
    numbers: Iterator[int] = iter(range(seed, seed + len(classes) * each))
    for name in classes:
        (root / name).mkdir(parents=True)
        for at in range(each):
            number = next(numbers)
            (root / name / f"{at:03}.jpg").write_bytes(jpeg(number, 60 + number % 70, 50 + number % 90))
    return root


def flat(root: Path, count: int, seed: int = 0) -> Path:
    """DIR/NUMBER.jpg."""
    root.mkdir(parents=True)
    for at in range(count):
        (root / f"{at:04}.jpg").write_bytes(jpeg(seed + at, 60 + at % 70, 50 + at % 90))
    return root


def data_set(folder: Path, labels: Path | None = None, count: int | None = None, **choices: object) -> dataset.DataSet:
    """The images of a folder with numbers of a network with so many classes; without a count, with as many as fit."""
    images = dataset.collect(folder, labels)
    if count is None:
        count = len(images.classes) if labels is None else 1 + max(int(text) for text in images.classes)
    numbering = ClassNumbering(**choices)  # pyright: ignore[reportArgumentType]
    return classes.number(images, numbering, count, "fastvit_t8")
