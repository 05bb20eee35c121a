"""Calibration images: drawn by a seed, known by their contents, and refused where they say nothing."""

from pathlib import Path

import builders
import numpy as np
import pytest
from PIL import Image

from fastvit_bench.errors import UsageError
from fastvit_bench.exporting import calibration
from fastvit_bench.records import CalibrationImages, Device, Shape

SHAPE = Shape(batch=1, height=32, width=32)


def fill(folder: Path, names: list[str]) -> Path:
    draw = np.random.default_rng(len(names))
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (40, 50, 3), np.uint8)).save(folder / name)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return fill(tmp_path / "images", [f"{number:02d}.png" for number in range(12)])


def chosen(folder: Path | None, count: int = 8, seed: int = 0, shape: Shape = SHAPE) -> CalibrationImages:
    device = Device(
        name="x",
        backend="onnxruntime",
        precision="int8",
        calibration=str(folder) if folder else None,
        calibration_images=count,
    )
    return calibration.choose(builders.spec(), shape, device, seed)


def test_a_seed_draws_the_same_images_and_another_one_others(folder: Path) -> None:
    first, again, other = chosen(folder), chosen(folder), chosen(folder, seed=1)
    assert first == again
    assert first.chosen.digest != other.chosen.digest
    assert (first.chosen.images, first.chosen.available, first.chosen.classes) == (8, 12, 0)
    assert len({picture.name for picture in first.pictures}) == 8


def test_contents_decide_and_names_do_not(folder: Path, tmp_path: Path) -> None:
    before = chosen(folder, count=12).chosen.digest
    folder.rename(tmp_path / "elsewhere")
    assert chosen(tmp_path / "elsewhere", count=12).chosen.digest == before
    fill(tmp_path / "elsewhere", ["03.png"])
    assert chosen(tmp_path / "elsewhere", count=12).chosen.digest != before


def test_images_are_prepared_as_for_accuracies(folder: Path) -> None:
    tensors = calibration.prepared(chosen(folder))
    assert len(tensors) == 8
    assert all(tensor.shape == (3, 32, 32) and tensor.dtype == np.float32 for tensor in tensors)
    assert -3 < np.mean(tensors) < 3


def test_folders_of_classes_are_labels(tmp_path: Path) -> None:
    images = chosen(fill(tmp_path / "set", ["b/1.png", "a/1.png", "a/2.png"]))
    assert images.chosen.classes == 2
    assert {picture.name: picture.label for picture in images.pictures} == {"a/1.png": 0, "a/2.png": 0, "b/1.png": 1}


@pytest.mark.parametrize(("names", "holds"), [([], "holds no images"), (["a.png"], "holds 1 image;")])
def test_too_few_images_are_refused(names: list[str], holds: str, tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "notes.txt").touch()
    with pytest.raises(UsageError, match=holds):
        chosen(fill(tmp_path / "few", names))


def test_what_cannot_calibrate_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="name a folder of them with --calibration DIR"):
        chosen(None)
    with pytest.raises(UsageError, match="does not exist"):
        chosen(tmp_path / "none")
    with pytest.raises(UsageError, match="at least 2"):
        chosen(folder, count=1)
    with pytest.raises(UsageError, match="32x64 is none"):
        chosen(folder, shape=Shape(batch=1, height=32, width=64))


def test_an_image_that_is_none_is_named(folder: Path) -> None:
    (folder / "05.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"05\.png cannot be read: not an image"):
        calibration.prepared(chosen(folder, count=12))


def test_images_that_change_between_are_noticed(folder: Path) -> None:
    images = chosen(folder, count=12)
    fill(folder, ["00.png", "01.png"])
    with pytest.raises(UsageError, match="changed while they were used"):
        calibration.prepared(images)
