"""Numbers of classes: as the network was trained, or asked for; every wrong way is planted and noticed."""

import json
from pathlib import Path

import pictures
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvit_bench.accuracy import class_map, imagenet, natural
from fastvit_bench.errors import UsageError
from fastvit_bench.records import ClassOrder, LabelIds

# of three images of ImageNet's validation: synset, number of networks, number of the devkit
KNOWN = {
    "ILSVRC2012_val_00000004": ("n04263257", 809, 822),
    "ILSVRC2012_val_00000007": ("n02346627", 334, 13),
    "ILSVRC2012_val_00000012": ("n02125311", 286, 11),
}
TRUE = [number for _, number, _ in KNOWN.values()]


def validation(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for at, name in enumerate(KNOWN):
        (folder / f"{name}.JPEG").write_bytes(pictures.jpeg(at))
    return folder


def read(root: Path, file: Path, text: str, count: int = 1000, **choices: object) -> list[int]:
    """The numbers of the images' classes by a file of labels with a byte order mark and Windows' line ends."""
    file.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    return [picture.label for picture in pictures.data_set(root, file, count, **choices).pictures]


def refused(root: Path, labels: Path | None = None, count: int = 1000, **choices: object) -> str:
    with pytest.raises(UsageError) as refusal:
        pictures.data_set(root, labels, count, **choices)
    sentence = str(refusal.value)
    assert "\n" not in sentence
    return sentence


# --- class folders ----------------------------------------------------------------------------------------------------


def test_folders_whose_orders_differ_are_asked_for(tmp_path: Path) -> None:
    root = pictures.folders(tmp_path / "set", ["1", "2", "10"], 1)
    sentence = refused(root, count=3)
    assert "'10' is before '2'" in sentence
    assert "--class-order text or --class-order natural" in sentence
    by_order = {
        order: {picture.name.split("/")[0]: picture.label for picture in pictures.data_set(root, order=order).pictures}
        for order in ClassOrder
    }
    assert by_order == {
        ClassOrder.TEXT: {"1": 0, "10": 1, "2": 2},
        ClassOrder.NATURAL: {"1": 0, "2": 1, "10": 2},
    }
    assert "natural order" in pictures.data_set(root, order=ClassOrder.NATURAL).numbered


def test_capitals_are_an_order_too(tmp_path: Path) -> None:
    root = pictures.folders(tmp_path / "set", ["Zebra", "ant"], 1)
    assert "'Zebra' is before 'ant'" in refused(root, count=2)


def test_folders_that_natural_order_does_not_tell_apart_take_a_map(tmp_path: Path) -> None:
    root = pictures.folders(tmp_path / "set", ["1", "01", "2"], 1)
    assert "--class-order" in refused(root, count=3)
    assert "apart; number the classes with --class-map" in refused(root, count=3, order=ClassOrder.NATURAL)
    assert len(pictures.data_set(root, order=ClassOrder.TEXT).present) == 3


@given(st.lists(st.text(alphabet="aB12", min_size=1, max_size=5), unique=True, min_size=1))
def test_natural_order_compares_numbers_as_numbers(names: list[str]) -> None:
    ordered = natural.sort(names)
    assert sorted(ordered) == sorted(names)
    if all(name.isdigit() for name in names):
        assert [int(name) for name in ordered] == sorted(int(name) for name in names)
    if not any(map(str.isdigit, "".join(names))) and natural.ties(names) is None:
        assert ordered == sorted(names, key=str.lower)


def test_a_missing_class_folder_is_no_class_less(tmp_path: Path) -> None:
    root = pictures.folders(tmp_path / "set", ["ant", "bee", "cat"], 1)
    sentence = refused(root, count=4)
    assert "3 class folders, and fastvit_t8 has 4 classes" in sentence
    assert "--class-map FILE" in sentence


# --- parts of ImageNet ------------------------------------------------------------------------------------------------


def test_folders_named_by_synset_are_known_by_it(tmp_path: Path) -> None:
    """Ten folders of a thousand, as of Imagenette, are not the classes 0 to 9."""
    root = pictures.folders(tmp_path / "set", ["n03888257", "n01440764", "n02102040"], 2)
    data = pictures.data_set(root, count=1000)
    assert [picture.label for picture in data.pictures] == [0, 0, 217, 217, 701, 701]  # tench, springer, parachute
    assert data.present == (0, 217, 701)
    assert "3 of 1000" in data.numbered
    # a network that was trained on these three has them in order
    assert pictures.data_set(root, count=3).present == (0, 1, 2)
    # and no other network has them at all
    assert "3 class folders, and fastvit_t8 has 10 classes" in refused(root, count=10)


def test_a_synset_that_imagenet_1k_lacks_is_refused(tmp_path: Path) -> None:
    root = pictures.folders(tmp_path / "set", ["n01440764", "n00007846"], 1)
    assert "has 1000 classes" in refused(root)


def test_the_synsets_are_a_permutation_with_known_places() -> None:
    order, numbers = imagenet.devkit_order(), imagenet.numbers()
    assert len(order) == len(numbers) == imagenet.CLASSES
    assert all(imagenet.SYNSET.fullmatch(synset) for synset in order)
    assert sorted(order, key=numbers.__getitem__) == sorted(order)
    for synset, number, devkit in KNOWN.values():
        assert numbers[synset] == number
        assert order[devkit - 1] == synset
    assert (numbers["n01440764"], numbers["n15075141"]) == (0, 999)  # tench, toilet tissue
    assert (order[0], order[999]) == ("n02119789", "n03255030")  # kit fox, dumbbell


# --- files of labels --------------------------------------------------------------------------------------------------


def lines(pattern: str, ids: int = 1) -> str:
    """A line for each known image."""
    return "".join(pattern.format(name=name, label=KNOWN[name][ids], synset=KNOWN[name][0]) + "\n" for name in KNOWN)


@pytest.mark.parametrize(
    "text",
    [
        lines("{name}.JPEG {label}"),
        lines("{name}.JPEG\t{label}"),
        lines("{name},{label}"),
        lines("val/{name}.JPEG {label}"),
        lines("/data/imagenet/val/{name}.JPEG {label}"),
        lines("C:\\imagenet\\val\\{name}.JPEG,{label}"),
        "image\tlabel\n" + lines("{name}.JPEG\t{label}"),
        "filename,class_id\n" + lines("{name}.JPEG,{label}"),
        "ImageId,Class\n" + lines("{name},{label}"),
        lines("{name}.JPEG {synset}"),
        lines("{name},{synset}"),
        "ImageId,PredictionString\n" + lines("{name},{synset} 85 1 499 272 "),
        "ImageId,PredictionString\n" + lines("{name},{synset} 85 1 499 272 {synset} 0 0 10 10 "),
        lines("{label}"),
        lines("{synset}"),
        lines("{label}", 2),
        lines("{name}.JPEG {label}", 2),
        json.dumps({name: synset for name, (synset, _, _) in KNOWN.items()}),
        json.dumps({f"{name}.JPEG": number for name, (_, number, _) in KNOWN.items()}),
    ],
)
def test_every_form_of_imagenets_labels_gives_the_same_classes(tmp_path: Path, text: str) -> None:
    root = validation(tmp_path / "set")
    assert read(root, tmp_path / "labels", text) == TRUE


def test_numbers_from_1_are_recognised_by_known_images(tmp_path: Path) -> None:
    root, file = validation(tmp_path / "set"), tmp_path / "labels"
    text = "".join(f"{name}.JPEG {number + 1}\n" for name, (_, number, _) in KNOWN.items())
    assert read(root, file, text) == TRUE
    assert "--label-ids index is wrong of" in refused(root, file, label_ids=LabelIds.INDEX)
    assert "by numbers from 1, as 3 known images" in pictures.data_set(root, file, 1000).numbered


def test_labels_in_a_wrong_order_are_noticed_by_known_images(tmp_path: Path) -> None:
    root, file = validation(tmp_path / "set"), tmp_path / "labels"
    shifted = TRUE[1:] + TRUE[:1]
    file.write_text("".join(f"{number}\n" for number in shifted))
    sentence = refused(root, file)
    assert "ILSVRC2012_val_00000004.JPEG is of class 334, and in ImageNet it is of n04263257, number 809" in sentence
    assert read(root, file, file.read_text(), label_ids=LabelIds.INDEX) == shifted


def test_the_devkits_file_fits_a_part_of_the_validation_images(tmp_path: Path) -> None:
    """By the images' numbers, also where they lie in folders of classes, whose order is another."""
    root = validation(tmp_path / "set")
    for name, folder in zip(KNOWN, ("n2", "n1", "n0"), strict=True):
        (root / folder).mkdir()
        (root / f"{name}.JPEG").rename(root / folder / f"{name}.JPEG")
    truth = ["1"] * imagenet.VALIDATION_IMAGES
    for name, (_, _, devkit) in KNOWN.items():
        truth[int(name[-8:]) - 1] = str(devkit)
    read(root, tmp_path / "truth.txt", "\n".join(truth))
    labels = {
        picture.name[-13:-5]: picture.label
        for picture in pictures.data_set(root, tmp_path / "truth.txt", 1000).pictures
    }
    assert labels == {name[-8:]: number for name, (_, number, _) in KNOWN.items()}


@pytest.mark.parametrize(("text", "count"), [("1\n2\n3\n", 1000), ("3\n1\n2\n", 3)])
def test_numbers_alone_that_may_count_from_1_are_asked_for(tmp_path: Path, text: str, count: int) -> None:
    root, file = pictures.flat(tmp_path / "set", 3), tmp_path / "labels"
    file.write_text(text)
    assert "say --label-ids index (from 0), from-1 or devkit" in refused(root, file, count)
    first = int(text[0])
    assert read(root, file, text, count, label_ids=LabelIds.FROM_1)[0] == first - 1
    if count == 1000:
        assert read(root, file, text, label_ids=LabelIds.INDEX)[0] == first
        assert read(root, file, text, label_ids=LabelIds.DEVKIT)[0] == imagenet.numbers()["n02119789"]


def test_labels_without_class_0_but_with_all_others_are_asked_for(tmp_path: Path) -> None:
    """A file from 1 whose last class has no images is within the model's range, and off by one everywhere."""
    root, file = pictures.flat(tmp_path / "set", 9), tmp_path / "labels"
    text = "".join(f"000{at}.jpg {at + 1}\n" for at in range(9))
    file.write_text(text)
    assert "go from 1 to 9, and those of fastvit_t8 from 0 to 9" in refused(root, file, 10)
    assert read(root, file, text, 10, label_ids=LabelIds.FROM_1) == list(range(9))
    assert read(root, file, text, 10, label_ids=LabelIds.INDEX) == list(range(1, 10))


def test_classes_alone_need_an_order_of_images_that_is_certain(tmp_path: Path) -> None:
    file = tmp_path / "labels"
    file.write_text("0\n1\n2\n")
    root = pictures.flat(tmp_path / "set", 3)
    (root / "0002.jpg").rename(root / "10.jpg")
    (root / "0001.jpg").rename(root / "9.jpg")
    assert "order of the images" in refused(root, file, 3)
    (root / "10.jpg").unlink()
    assert "has 3 classes, a line each and without names, and" in refused(root, file, 3)


def test_one_image_by_two_names_and_two_images_by_one_are_refused(tmp_path: Path) -> None:
    root, file = pictures.folders(tmp_path / "set", ["a", "b"], 1), tmp_path / "labels"
    file.write_text("000.jpg 0\na/000.jpg 1\n")
    assert "000.jpg may be a/000.jpg or b/000.jpg" in refused(root, file, 2)
    file.write_text("a/000 0\nval/a/000.jpg 1\n")
    assert "names a/000.jpg a second time" in refused(root, file, 2)


def test_an_image_of_several_classes_is_refused(tmp_path: Path) -> None:
    root, file = validation(tmp_path / "set"), tmp_path / "labels"
    file.write_text(lines("{name},{synset} 85 1 499 272 n01440764 0 0 10 10 "))
    assert "the class 'n04263257 n01440764' of ILSVRC2012_val_00000004.JPEG is not" in refused(root, file)


# --- class maps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "owl\ncat\ndog\n",
        "0 owl\n1 cat\n2 dog\n",
        "2: dog\n0: owl\n1: cat\n",
        "cat,1\ndog,2\nowl,0\n",
        '["owl", "cat", "dog"]',
        '{"cat": 1, "dog": 2, "owl": 0}',
        '{"1": "cat", "0": "owl", "2": "dog"}',
        '{"0": ["n01", "owl"], "1": ["n02", "cat"], "2": ["n03", "dog"]}',
        '{"model_type": "x", "id2label": {"0": "owl", "1": "cat", "2": "dog"}}',
        '{"architecture": "x", "label_names": ["owl", "cat", "dog"]}',
    ],
)
def test_a_class_map_numbers_folders_in_any_form(tmp_path: Path, text: str) -> None:
    root, file = pictures.folders(tmp_path / "set", ["cat", "dog"], 1), tmp_path / "map"
    file.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())
    data = pictures.data_set(root, count=3, class_map=str(file))
    assert {picture.name: picture.label for picture in data.pictures} == {"cat/000.jpg": 1, "dog/000.jpg": 2}
    assert "by the class map map, 2 of 3" in data.numbered
    labels = tmp_path / "labels.tsv"
    labels.write_text("dog/000.jpg\tdog\ncat/000.jpg\tcat\n")
    assert pictures.data_set(root, labels, 3, class_map=str(file)).digest == data.digest


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("cat\ndog\n", "numbers 2 classes from 0 to 1, and fastvit_t8 has 3"),  # of another network
        ('{"cat": 1, "dog": 2, "owl": 3}', "it counts from 1"),
        ("cat\nowl\nbat\n", "has no class 'dog'"),
        ("cat\ndog\ncat\n", "names a class twice"),
        ("", "is empty"),
        ("{}", "is not JSON of class names"),
        ('{"cat": 1, "cat": 0, "dog": 2}', "names cat a second time"),
        ('{"cat": 1, "dog": 1, "owl": 0}', "must stand there once"),
    ],
)
def test_a_map_of_another_network_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    root, file = pictures.folders(tmp_path / "set", ["cat", "dog"], 1), tmp_path / "map.txt"
    file.write_text(text)
    assert sentence in refused(root, count=3, class_map=str(file))


def test_numbers_as_names_are_not_guessed(tmp_path: Path) -> None:
    file = tmp_path / "map.txt"
    file.write_text("0 1\n1 0\n2 2\n")
    assert class_map.read(file, ["0", "1", "2"]) == {"0": 1, "1": 0, "2": 2}  # the same in either way
    file.write_text("0 1\n1 2\n2 0\n")
    with pytest.raises(UsageError, match="can be read in two ways"):
        class_map.read(file, ["0", "1", "2"])


def test_the_devkits_list_of_classes_is_no_map_of_a_network(tmp_path: Path) -> None:
    file = tmp_path / "map_clsloc.txt"
    file.write_text("n02119789 1 kit_fox\nn02100735 2 English_setter\n")
    with pytest.raises(UsageError, match="has no class 'n02100735'"):
        class_map.read(file, ["n02100735"])
    file.write_text("n02119789 kit fox\nn02100735 English setter, of two words\n")
    assert class_map.read(file, ["n02100735"])["n02100735"] == 1


def test_a_map_in_another_order_than_imagenets_networks_have_is_refused(tmp_path: Path) -> None:
    root, file = pictures.folders(tmp_path / "set", ["n01440764", "n02119789"], 1), tmp_path / "map.txt"
    file.write_text("".join(f"{synset}\n" for synset in sorted(imagenet.devkit_order())))
    assert pictures.data_set(root, count=1000, class_map=str(file)).present == (0, imagenet.numbers()["n02119789"])
    file.write_text("".join(f"{synset}\n" for synset in imagenet.devkit_order()))
    assert "leave --class-map out" in refused(root, count=1000, class_map=str(file))
    file.write_text(json.dumps({"n01440764": 1, "n02119789": 279}))  # off by one
    assert "has number 1 for n01440764, which is number 0" in refused(root, count=1000, class_map=str(file))


@pytest.mark.parametrize(
    ("choices", "sentence"),
    [
        ({"order": ClassOrder.TEXT, "class_map": "map"}, "--class-order is for folders, and --class-map"),
        ({"label_ids": LabelIds.INDEX}, "there are no --labels"),
        ({"label_ids": LabelIds.INDEX, "class_map": "map"}, "--class-map numbers the classes"),
    ],
)
def test_choices_without_an_effect_are_refused(tmp_path: Path, choices: dict[str, object], sentence: str) -> None:
    root = pictures.folders(tmp_path / "set", ["cat", "dog"], 1)
    assert sentence in refused(root, count=2, **choices)
