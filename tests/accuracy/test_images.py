"""Data sets and their preparation: to the pixel as timm prepares them, and one sentence for whatever is wrong."""

import hashlib
import io
import os
import threading
import zlib
from pathlib import Path
from types import ModuleType

import msgspec
import numpy as np
import pictures
import pytest
from PIL import Image

from fastvit_bench import backends, config
from fastvit_bench.accuracy import contents, dataset, preprocessing
from fastvit_bench.backends import Images
from fastvit_bench.errors import UsageError
from fastvit_bench.exporting import preparation
from fastvit_bench.network.registry import VARIANTS
from fastvit_bench.records import MEAN, STD, ClassOrder, LabelledImage, Preprocessing, Unreadable
from fastvit_bench.records.preparation import CLIP, FASTVLM, IMAGENET, UNNORMALISED

# widths and heights: either way round, square, already resized, smaller than the crop, odd differences to the crop
SIZES = [(500, 375), (375, 500), (284, 284), (285, 284), (284, 391), (269, 269), (64, 48), (1000, 301), (257, 3 * 257)]


def declared() -> dict[str, Preprocessing]:
    """The evaluation of every variant, as benchmark.toml declares it."""
    settings = config.load(Path(__file__).parents[2] / "benchmark.toml", backends=backends.implemented())
    return {
        spec.variant: Preprocessing(
            resolution=spec.resolution, **msgspec.structs.asdict(preparation.resolve(spec).preparation)
        )
        for spec in settings.models.values()
    }


def transform(timm: ModuleType, how: Preprocessing, *, normalise: bool):
    """timm's, for evaluation."""
    from timm.data import create_transform

    return create_transform(
        (3, how.resolution, how.resolution),
        is_training=False,
        interpolation=how.interpolation,
        mean=how.mean,
        std=how.std,
        crop_pct=how.crop,
        crop_mode="squash" if how.resize == "squash" else "center",
        normalize=normalise,
    )


@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=() if name == "fastvit_t8" else pytest.mark.slow) for name in sorted(VARIANTS)]
)
def test_every_variants_preparation_is_timms_to_the_bit(timm: ModuleType, tmp_path: Path, variant: str) -> None:
    how = declared()[variant]
    assert (how.resolution, how.crop, how.shorter_side) == (
        (256, 0.95, 269) if variant == "fastvit_ma36" else (256, 0.9, 284)
    )
    whole, pixels = transform(timm, how, normalise=True), transform(timm, how, normalise=False)
    for seed, size in enumerate(SIZES):
        path = tmp_path / f"{seed}.png"
        pictures.image(seed, *size).save(path)
        with Image.open(path) as opened:
            opened = opened.convert("RGB")
            wanted, raw = whole(opened).numpy(), pixels(opened).numpy()
        assert np.array_equal(preprocessing.prepare(path.read_bytes(), how, Images.PIXELS), raw.transpose(1, 2, 0)), (
            size
        )
        found = preprocessing.prepare(path.read_bytes(), how, Images.TENSOR)
        assert found.dtype == np.float32
        assert np.array_equal(found, wanted), size


@pytest.mark.parametrize(("resolution", "crop"), [(224, 0.9), (384, 0.95), (32, 0.875), (256, 1.0), (1024, 0.9)])
def test_so_is_that_of_other_sizes_and_crops(timm: ModuleType, tmp_path: Path, resolution: int, crop: float) -> None:
    how = Preprocessing(resolution=resolution, crop=crop)
    path = tmp_path / "a.jpg"
    path.write_bytes(pictures.jpeg(3, 333, 250))
    with Image.open(path) as opened:
        wanted = transform(timm, how, normalise=True)(opened.convert("RGB")).numpy()
    assert np.array_equal(preprocessing.prepare(path.read_bytes(), how, Images.TENSOR), wanted)


@pytest.mark.parametrize("resize", ["shorter-side", "squash"])
@pytest.mark.parametrize("interpolation", ["bilinear", "lanczos", "nearest"])
def test_so_are_other_filters_and_squashed_images(
    timm: ModuleType, tmp_path: Path, resize: str, interpolation: str
) -> None:
    changes = {"resize": resize, "interpolation": interpolation, "crop": 0.9, "resolution": 64}
    how = msgspec.convert({**msgspec.structs.asdict(CLIP), **changes}, Preprocessing)
    path = tmp_path / "a.png"
    pictures.image(4, 201, 120).save(path)
    with Image.open(path) as opened:
        wanted = transform(timm, how, normalise=True)(opened.convert("RGB")).numpy()
    assert np.array_equal(preprocessing.prepare(path.read_bytes(), how, Images.TENSOR), wanted)


def test_mobileclips_images_are_divided_by_255_and_no_more(tmp_path: Path) -> None:
    """`mobileclip.create_model_and_transforms`: Resize (bilinear), CenterCrop, ToTensor."""
    how = Preprocessing(resolution=64, **msgspec.structs.asdict(UNNORMALISED))
    image = pictures.image(5, 64, 64)
    image.save(tmp_path / "a.png")
    prepared = preprocessing.prepare((tmp_path / "a.png").read_bytes(), how, Images.TENSOR)
    assert np.array_equal(prepared, np.asarray(image).transpose(2, 0, 1).astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("size", [(96, 31), (31, 96), (50, 50)])
def test_fastvlms_images_are_padded_to_a_square_with_the_mean(tmp_path: Path, size: tuple[int, int]) -> None:
    """As transformers' CLIPImageProcessor does behind LLaVA's `expand2square`."""
    how = Preprocessing(resolution=32, **(msgspec.structs.asdict(FASTVLM) | {"mean": (0.5, 0.25, 0), "std": (1, 1, 1)}))
    image = pictures.image(6, *size)
    image.save(tmp_path / "a.png")
    pixels = preprocessing.prepare((tmp_path / "a.png").read_bytes(), how, Images.PIXELS)
    square = Image.new("RGB", (max(size), max(size)), (127, 63, 0))
    square.paste(image, ((max(size) - size[0]) // 2, (max(size) - size[1]) // 2))
    assert np.array_equal(pixels, np.asarray(square.resize((32, 32), Image.Resampling.BICUBIC)))
    assert size[0] == size[1] or tuple(pixels[0, 0]) == (127, 63, 0)


def test_all_256_values_are_normalised_as_torch_does(timm: ModuleType) -> None:
    from timm.data.transforms import MaybeToTensor
    from torchvision.transforms import Normalize

    values = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    wanted = Normalize(MEAN, STD)(MaybeToTensor()(Image.fromarray(values))).numpy()
    assert np.array_equal(preprocessing.normalised(values, IMAGENET), wanted)


def kinds(folder: Path) -> list[Path]:
    """Files of every kind that Pillow turns into RGB in its own way."""
    colour = pictures.image(1)
    deep = Image.fromarray(np.asarray(colour.convert("L")).astype(np.uint16) * 257)
    turned = Image.Exif()
    turned[274] = 6  # shown turned by 90 degrees
    made: dict[str, tuple[Image.Image, dict[str, object]]] = {
        "grey.jpg": (colour.convert("L"), {}),
        "cmyk.jpg": (colour.convert("CMYK"), {}),
        "rgba.png": (colour.convert("RGBA"), {}),
        "grey-alpha.png": (colour.convert("LA"), {}),
        "palette.png": (colour.convert("P"), {}),
        "bits.png": (colour.convert("1"), {}),
        "deep.png": (deep, {}),
        "deep.tiff": (deep, {}),
        "turned.jpg": (colour, {"exif": turned}),
        "a.webp": (colour, {}),
        "a.bmp": (colour, {}),
        "a.ppm": (colour, {}),
    }
    for name, (image, options) in made.items():
        image.save(folder / name, **options)
    (folder / "wrong-ending.png").write_bytes(pictures.jpeg(4))
    return sorted(folder.iterdir())


def test_colours_become_rgb_as_timms_data_set_has_it(timm: ModuleType, tmp_path: Path) -> None:
    from timm.data import ImageDataset

    how = Preprocessing(resolution=64, crop=0.9)
    (tmp_path / "only").mkdir()
    paths = kinds(tmp_path / "only")
    for path in paths:
        # its reader knows fewer endings, and the ending decides nothing else
        held = tmp_path / f"{path.name}-set" / "class"
        held.mkdir(parents=True)
        (held / "a.jpg").write_bytes(path.read_bytes())
        wanted, _ = ImageDataset(str(held.parent), transform=transform(timm, how, normalise=True))[0]
        assert np.array_equal(preprocessing.prepare(path.read_bytes(), how, Images.TENSOR), wanted.numpy()), path.name


def test_an_orientation_in_exif_changes_nothing(tmp_path: Path) -> None:
    how = Preprocessing(resolution=32, crop=0.9)
    noted = Image.Exif()
    noted[274] = 6
    image = pictures.image(2, 80, 40)
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "turned.png", exif=noted)
    plain, turned = (
        preprocessing.prepare((tmp_path / f"{name}.png").read_bytes(), how, Images.PIXELS)
        for name in ("plain", "turned")
    )
    assert np.array_equal(plain, turned)


# --- decoding ---------------------------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    good = pictures.jpeg(0)
    png = io.BytesIO()
    pictures.image(0).save(png, "PNG")
    files = {
        "a.jpg": good,
        "cut.jpg": good[: len(good) // 2],
        "cut.png": png.getvalue()[:300],
        "empty.jpg": b"",
        "text.txt": b"hello",
        "broken.png": png.getvalue()[:40] + b"\0" * 50 + png.getvalue()[90:],
        "z.jpg": good,
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    Image.new("RGB", (1, 20_000)).save(tmp_path / "line.png")
    (tmp_path / "dangling.jpg").symlink_to("nowhere")
    names = [*files, "line.png", "dangling.jpg"]
    listed = [LabelledImage(name=name, size_bytes=0, label=0) for name in names]
    how = Preprocessing(resolution=256, crop=0.9)
    decoded = preprocessing.decoded(tmp_path, listed, how, Images.PIXELS, workers=3, ahead=4)
    found = [image for _, image in decoded]
    bad = {each.name: each.reason for each in found if isinstance(each, Unreadable)}
    assert set(bad) == set(names) - {"a.jpg", "z.jpg"}
    assert "truncated" in bad["cut.jpg"]
    assert bad["text.txt"] == bad["empty.jpg"] == "not an image of a known kind"
    assert "too large" in bad["line.png"]
    assert bad["dangling.jpg"] == "no such file or directory"
    assert all(reason and "\n" not in reason and str(tmp_path) not in reason for reason in bad.values())
    assert np.array_equal(found[0], found[names.index("z.jpg")])


def test_other_formats_are_never_opened_whatever_a_file_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "programs").mkdir()
    started = tmp_path / "started"
    ghostscript = tmp_path / "programs" / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {started}\nexit 1\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'programs'}:{os.environ['PATH']}")
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n%%EndComments\nshowpage\n%%EOF\n"
    gif = io.BytesIO()
    pictures.image(0).convert("P").save(gif, "GIF")
    for name, content in {"a.jpg": program, "b.eps": program, "c.jpg": gif.getvalue()}.items():
        (tmp_path / name).write_bytes(content)
    os.mkfifo(tmp_path / "d.jpg")
    listed = [LabelledImage(name=f"{name}", size_bytes=0, label=0) for name in ("a.jpg", "b.eps", "c.jpg", "d.jpg")]
    how = Preprocessing(resolution=32, crop=0.9)
    decoded = preprocessing.decoded(tmp_path, listed, how, Images.PIXELS, workers=1, ahead=1)
    reasons = [image.reason for _, image in decoded if isinstance(image, Unreadable)]
    assert reasons[:3] == ["not an image of a known kind"] * 3
    assert "pipe" in reasons[3]
    assert not started.exists()


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    width, height = 20_000, 5_000
    header = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    png = b"\x89PNG\r\n\x1a\n" + (13).to_bytes(4, "big") + header + zlib.crc32(header).to_bytes(4, "big")
    png += (0).to_bytes(4, "big") + b"IDAT" + zlib.crc32(b"IDAT").to_bytes(4, "big")
    with pytest.raises(ValueError, match="20000 x 5000 pixels are too many"):
        preprocessing.prepare(png, Preprocessing(resolution=32, crop=0.9), Images.PIXELS)


def test_digests_of_contents_continue_and_do_not_depend_on_cuts(tmp_path: Path) -> None:
    listed = [LabelledImage(name=f"{at}.bin", size_bytes=1, label=0) for at in range(9)]
    for at, picture in enumerate(listed):
        (tmp_path / picture.name).write_bytes(bytes([at]))
    digests = contents.digests_after(tmp_path, listed, {3, 9}, workers=2)
    assert digests.items() <= contents.digests_after(tmp_path, listed, range(10), workers=1).items()
    digest = digests[3]
    for picture in listed[3:]:
        digest = contents.extended(digest, hashlib.sha256((tmp_path / picture.name).read_bytes()).digest())
    assert digest == digests[9]
    (tmp_path / "1.bin").write_bytes(b"x")
    changed = contents.digests_after(tmp_path, listed, {3, 9}, workers=2)
    assert changed[3] != digests[3]
    assert changed[9] != digests[9]


def test_order_is_kept_and_what_is_in_memory_is_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    begun = 0
    lock = threading.Lock()

    def prepare(content: bytes, how: Preprocessing, form: Images) -> np.ndarray:
        nonlocal begun
        with lock:
            begun += 1
        return np.full((1, 1, 3), int(content), np.uint8)

    monkeypatch.setattr(preprocessing, "prepare", prepare)
    listed = [LabelledImage(name=str(at), size_bytes=0, label=0) for at in range(200)]
    for picture in listed:
        (tmp_path / picture.name).write_text(picture.name)
    how = Preprocessing(resolution=32, crop=0.9)
    for at, found in enumerate(preprocessing.decoded(tmp_path, listed, how, Images.PIXELS, workers=4, ahead=9)):
        assert not isinstance(found.image, Unreadable)
        assert found.image.flat[0] == at
        assert begun <= at + 1 + 9
    assert begun == 200


# --- data sets --------------------------------------------------------------------------------------------------------


def test_classes_are_the_sorted_names_of_the_folders(tmp_path: Path) -> None:
    pictures.folders(tmp_path / "set", ["n2", "n3", "n1"], 2)
    (tmp_path / "set" / ".cache").mkdir()
    (tmp_path / "set" / "README.txt").write_text("about")
    found = dataset.collect(tmp_path / "set")
    assert found.classes == ("n1", "n2", "n3")
    assert [(each.name, each.label) for each in pictures.data_set(tmp_path / "set").pictures] == [
        (f"{name}/00{at}.jpg", label) for label, name in enumerate(found.classes) for at in range(2)
    ]


def test_it_agrees_with_torchvisions_image_folder(timm: ModuleType, tmp_path: Path) -> None:
    from torchvision.datasets import ImageFolder

    root = pictures.folders(tmp_path / "set", ["b", "a", "C", "10", "9"], 3)
    (root / "a" / "deeper").mkdir()
    (root / "a" / "deeper" / "x.JPEG").write_bytes(pictures.jpeg(1))
    theirs = ImageFolder(str(root))
    found = pictures.data_set(root, order=ClassOrder.TEXT)
    assert {(str(root / each.name), each.label) for each in found.pictures} == set(theirs.samples)


def test_natural_order_is_timms(timm: ModuleType, tmp_path: Path) -> None:
    from timm.data import create_dataset

    root = pictures.folders(tmp_path / "set", ["b", "a", "C", "10", "9", "x2y", "x10y", "x2a"], 2)
    theirs = create_dataset("", str(root))
    found = pictures.data_set(root, order=ClassOrder.NATURAL)
    samples = {(str(path), label) for path, label in theirs.reader.samples}
    assert {(str(root / each.name), each.label) for each in found.pictures} == samples


@pytest.mark.parametrize("beside", ["train", None])
def test_val_below_the_folder_is_taken(tmp_path: Path, beside: str | None) -> None:
    pictures.folders(tmp_path / "set" / "val", ["a", "b"], 1)
    if beside:
        pictures.folders(tmp_path / "set" / beside, ["a", "b"], 2)
    assert dataset.collect(tmp_path / "set").folder == tmp_path / "set" / "val"


def test_a_class_may_be_called_val(tmp_path: Path) -> None:
    pictures.folders(tmp_path / "set", ["uno", "val"], 1)
    assert dataset.collect(tmp_path / "set").classes == ("uno", "val")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("map.txt", "0000.jpg 3\n./0001.jpg   0\n\n0002.jpg\t2\n"),
        ("map.csv", "name,label\n0000.jpg,3\n0001.jpg, 0\n0002.jpg,2\n"),
        ("map.csv", '\ufeff"0000.jpg","3"\r\n"0001.jpg","0"\r\n0002.jpg,2'),
        ("map.json", '{"0000.jpg": 3, "0001.jpg": 0, "./0002.jpg": 2}'),
    ],
)
@pytest.mark.parametrize("inside", [True, False])
def test_labels_from_a_file(tmp_path: Path, name: str, text: str, inside: bool) -> None:
    root = pictures.flat(tmp_path / "set", 3)
    file = (root if inside else tmp_path) / name
    file.write_text(text, encoding="utf-8")
    found = pictures.data_set(root, file, 4)
    assert [(each.name, each.label) for each in found.pictures] == [("0000.jpg", 3), ("0001.jpg", 0), ("0002.jpg", 2)]


def test_names_may_hold_blanks_and_commas_and_lie_in_folders(tmp_path: Path) -> None:
    root = tmp_path / "set"
    for name in ("a b.jpg", "c, d.jpg", "e/f.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(pictures.jpeg(0))
    file = tmp_path / "map.txt"
    file.write_text("a b.jpg 1\nc, d.jpg,2\ne/f.jpg 3\n", encoding="utf-8")
    found = pictures.data_set(root, file, 9)
    assert {each.name: each.label for each in found.pictures} == {"a b.jpg": 1, "c, d.jpg": 2, "e/f.jpg": 3}


def test_a_limit_is_spread_over_all_classes(tmp_path: Path) -> None:
    root = pictures.folders(tmp_path / "set", list("abcde"), 4)
    whole = pictures.data_set(root)
    found = whole.limited(10)
    assert [each.label for each in found.pictures] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert whole.limited(99) == whole
    assert whole.limited(20).digest == whole.digest != found.digest


def test_the_digest_follows_names_sizes_and_classes(tmp_path: Path) -> None:
    root = pictures.folders(tmp_path / "set", ["a", "b"], 2)
    seen = {pictures.data_set(root).digest}
    (root / "a" / "000.jpg").rename(root / "a" / "0.jpg")
    seen.add(pictures.data_set(root).digest)
    (root / "a" / "0.jpg").write_bytes(b"other")
    seen.add(pictures.data_set(root).digest)
    (root / "b").rename(root / "0")
    seen.add(pictures.data_set(root).digest)
    assert len(seen) == 4


def wrong(folder: Path, labels: Path | None = None, classes: int = 3) -> str:
    with pytest.raises(UsageError) as caught:
        pictures.data_set(folder, labels, classes)
    assert caught.value.exit_code == 2
    return str(caught.value)


def test_a_folder_of_another_layout_is_one_sentence(tmp_path: Path) -> None:
    assert "does not exist" in wrong(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    assert "is not a folder" in wrong(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "holds no images; name a folder" in wrong(tmp_path / "empty")
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "train-00001.tfrecord").touch()
    assert "holds no images, but files such as train-00001.tfrecord" in wrong(tmp_path / "shards")
    assert "no class folders; give their classes with --labels" in wrong(pictures.flat(tmp_path / "flat", 2))
    root = pictures.folders(tmp_path / "mixed", ["a", "b", "c"], 1)
    (root / "loose.jpg").write_bytes(pictures.jpeg(0))
    assert "images, such as loose.jpg, beside 3 folders" in wrong(root)
    for name in "abc":
        (tmp_path / "hollow" / name).mkdir(parents=True)
    assert "3 folders and no images in them" in wrong(tmp_path / "hollow")
    for split in ("test", "train"):
        pictures.folders(tmp_path / "splits" / split, ["a", "b", "c"], 1)
    told = wrong(tmp_path / "splits")
    assert "folders of folders, such as test/a" in told
    assert f"--data {tmp_path / 'splits' / 'test'}." in told


def test_classes_that_do_not_fit_are_one_sentence(tmp_path: Path) -> None:
    root = pictures.folders(tmp_path / "set", ["a", "b", "c"], 1)
    assert "holds 3 class folders, and fastvit_t8 has 1000 classes. Folders of only some classes" in wrong(
        root, classes=1000
    )
    assert "holds 3 class folders, and fastvit_t8 has 2 classes. Check" in wrong(root, classes=2)
    (root / "b" / "000.jpg").unlink()
    assert "no images in the class folder b;" in wrong(root)
    (root / "b" / "kept").mkdir()
    assert "no images in the class folder b;" in wrong(root)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0000.jpg 1\n0001.jpg\n", "line 2: '0001.jpg' is not `name number`"),
        ("0000.jpg 1\n0001.jpg dog\n", "line 2: the class 'dog' of 0001.jpg is not the number"),
        ("0000.jpg 1\n0001.jpg -1\n", "line 2: the class '-1' of 0001.jpg is not"),
        ("0000.jpg 1\n0001.jpg 1.0\n", "line 2: the class '1.0'"),
        ("0000.jpg 0\n0001.jpg n01440764\n", "line 2: the class 'n01440764' of 0001.jpg is not the number"),
        ("0000.jpg 1\n0000.jpg 2\n", "line 2: names 0000.jpg a second time"),
        ("0000.jpg 1\n0002.jpg 1\n", "names 0002.jpg, and there is no such file"),
        ("0000.jpg 1\n", "gives no class for 0001.jpg in"),
        ("0000.jpg 0\n0001.jpg 3\n", "0001.jpg is of class 3, and the classes of fastvit_t8 go from 0 to 2"),
        ("0000.jpg 1\n0001.jpg 3\n", "go from 1 to 3, and those of fastvit_t8 from 0 to 2"),
        ("", "gives no classes"),
        ("{}", "gives no classes"),
        ('{"0000.jpg": "dog", "0001.jpg": 1}', "the class 'dog' of 0000.jpg is not the number"),
        ("[1, 2]", "is not a JSON object"),
        ('{"0000.jpg": -1, "0001.jpg": 0}', "the class '-1' of 0000.jpg is not the number of a class, from 0"),
    ],
)
def test_wrong_labels_are_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    root = pictures.flat(tmp_path / "set", 2)
    file = tmp_path / "map.txt"
    file.write_text(text, encoding="utf-8")
    assert said in wrong(root, file)


def test_labels_that_cannot_be_read_are_one_sentence(tmp_path: Path) -> None:
    root = pictures.flat(tmp_path / "set", 1)
    assert "cannot be read: No such file" in wrong(root, tmp_path / "nowhere.txt")
    (tmp_path / "map.json").write_text("[1, 2]")
    assert "is not a JSON object" in wrong(root, tmp_path / "map.json")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    assert "not text in UTF-8" in wrong(root, tmp_path / "bytes.txt")
    (tmp_path / "hollow").mkdir()
    (tmp_path / "map.txt").write_text("a.jpg 1")
    assert "holds no images" in wrong(tmp_path / "hollow", tmp_path / "map.txt")


def test_names_that_results_cannot_hold_are_refused(tmp_path: Path) -> None:
    root = pictures.folders(tmp_path / "set", ["a", "b", "c"], 1)
    try:
        (root / "a" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"")
    except OSError:
        pytest.skip("this file system keeps names in UTF-8")
    assert "is not UTF-8; rename it" in wrong(root)


def test_links_that_lead_back_end(tmp_path: Path) -> None:
    root = pictures.folders(tmp_path / "set", ["a", "b"], 2)
    (root / "a" / "again").symlink_to(root / "a")
    assert len(dataset.collect(root).images) == 4
