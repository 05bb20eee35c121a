"""Number the classes of images as a network numbers its outputs.

Class folders and files of labels have names, synsets or numbers. A wrong way to number them fails nowhere and makes
every figure wrong, so a way is taken only if the files leave no other, or the caller chose it.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from fastvit_bench.accuracy import class_map, imagenet, labels, natural
from fastvit_bench.accuracy.dataset import DataSet, ImageFile, ImageFiles, nested
from fastvit_bench.errors import UsageError, printable
from fastvit_bench.records import ClassNumbering, ClassOrder, LabelIds, LabelledImage

Numbers = Mapping[str, int]  # a class as it is written -> its number


def number(
    images: ImageFiles, choices: ClassNumbering, classes: int, model: str, names: Sequence[str] | None = None
) -> DataSet:
    """Return a data set with the numbers that a model of so many classes has for those of its images.

    `names` are those beside class embeddings, whose order is free; they may be none. A classifier has None.
    Raises `UsageError` where the classes are not the model's, and where there are several ways to number them.
    """
    numbers, words = _numbers(images, choices, classes, model, names)
    present = tuple(sorted({numbers[text] for text in images.classes}))
    wrong = next((image for image in images.images if not 0 <= numbers[image.text] < classes), None)
    if wrong is not None:
        raise UsageError(
            f"{wrong.where}: {printable(wrong.name)} is of class {wrong.text}, and the classes of {model} go from 0 to "
            f"{classes - 1} ({words}); correct the file, or say what its numbers are with --label-ids."
        )
    part = "" if len(present) == classes else f", {len(present)} of {classes}"
    pictures = (
        LabelledImage(name=image.name, size_bytes=image.size_bytes, label=numbers[image.text])
        for image in images.images
    )
    return DataSet(images.folder, tuple(pictures), images.labels, words + part, present)


def _numbers(
    images: ImageFiles, choices: ClassNumbering, classes: int, model: str, names: Sequence[str] | None
) -> tuple[Numbers, str]:
    """Return the numbers of the classes, and in words how they came to them."""
    _refuse_idle(images, choices)
    if choices.class_map is not None:
        file = Path(choices.class_map)
        numbers = _by_map(images, file, classes, model)
        if names is None and classes == imagenet.CLASSES:
            _refuse_other_order(file, numbers)
        return numbers, f"by the class map {file.name}"
    if images.labels is not None and all(labels.NUMBER.fullmatch(text) for text in images.classes):
        ids, why = _label_ids(images, choices.label_ids, classes, model)
        return {text: _TO_NUMBER[ids](int(text)) for text in images.classes}, _ID_WORDS[ids] + why
    if names:
        return _by_names(images, choices.order, names)
    if choices.label_ids is not None:
        raise UsageError(f"--label-ids is for numbers, and the classes in {images.labels} are none; leave it out.")
    if classes == imagenet.CLASSES and all(text in imagenet.numbers() for text in images.classes):
        return imagenet.numbers(), "by ImageNet's synsets"
    if images.labels is not None:
        raise _unknown(images, classes, model)
    return _by_order(images, choices.order, classes, model)


def _refuse_idle(images: ImageFiles, choices: ClassNumbering) -> None:
    """Raise `UsageError` for a choice that would have no effect on these images."""
    if choices.order is not None and (choices.class_map is not None or images.labels is not None):
        option = "--class-map" if choices.class_map is not None else "--labels"
        raise UsageError(f"--class-order is for folders, and {option} numbers the classes; leave one of them out.")
    if choices.label_ids is not None and (choices.class_map is not None or images.labels is None):
        reason = "--class-map numbers the classes" if choices.class_map is not None else "there are no --labels"
        raise UsageError(f"--label-ids is for the numbers in a file of labels, and {reason}; leave it out.")


# --- class maps and folders -------------------------------------------------------------------------------------------


def _by_map(images: ImageFiles, file: Path, classes: int, model: str) -> Numbers:
    """Return the numbers in a class map, which must be one of a network with so many classes."""
    numbers = class_map.read(file, images.classes)
    low, high = min(numbers.values()), max(numbers.values())
    if high >= classes or (low == 0 and high == len(numbers) - 1 and len(numbers) < classes):
        hint = "it counts from 1 and must count from 0" if low == 1 and high == classes else "give the model's own map"
        raise UsageError(
            f"The class map {file} numbers {len(numbers)} classes from {low} to {high}, and {model} has {classes}, "
            f"from 0 to {classes - 1}; {hint}."
        )
    return numbers


def _refuse_other_order(file: Path, numbers: Numbers) -> None:
    """Raise `UsageError` for a class map that numbers ImageNet's synsets otherwise than networks do."""
    usual = imagenet.numbers()
    odd = next((synset for synset, number in numbers.items() if number != usual.get(synset, number)), None)
    if odd is not None:
        raise UsageError(
            f"The class map {file} has number {numbers[odd]} for {odd}, which is number {usual[odd]} of networks for "
            f"ImageNet; leave --class-map out, or give numbers with --labels if this model has that order."
        )


def _by_names(images: ImageFiles, order: ClassOrder | None, names: Sequence[str]) -> tuple[Numbers, str]:
    """Return the numbers of classes by the names beside class embeddings."""
    numbers = {name: number for number, name in enumerate(names)}
    absent = next((text for text in images.classes if text not in numbers), None)
    if absent is not None:
        raise UsageError(
            f"The class '{printable(absent)}' of images in {images.folder} is not among the {len(names)} names beside "
            f"the class embeddings, such as '{printable(names[0])}'; give --class-map FILE, with the name of each "
            f"embedding's class as the images have it, in the order of the embeddings."
        )
    if order is not None:
        raise UsageError(
            "--class-order is for folders, and names beside the class embeddings number them; leave it out."
        )
    return numbers, "by the names beside the class embeddings"


def _by_order(images: ImageFiles, order: ClassOrder | None, classes: int, model: str) -> tuple[Numbers, str]:
    """Return the numbers of class folders by the order of their names, if that is certain."""
    names = images.classes
    if len(names) != classes:
        raise _miscounted(images, classes, model)
    ordered = natural.sort(names)
    tied = natural.ties(names)
    if order is ClassOrder.NATURAL and tied:
        raise UsageError(
            f"Natural order does not tell the folders '{printable(tied[0])}' and '{printable(tied[1])}' of "
            f"{images.folder} apart; number the classes with --class-map FILE."
        )
    if order is None and (tied or ordered != list(names)):
        text, first = tied or next((a, b) for a, b in zip(names, ordered, strict=True) if a != b)
        raise UsageError(
            f"The {len(names)} class folders of {images.folder} have two orders, and only one of them numbers the "
            f"classes of {model}: in text order, as torchvision and Keras have it, '{printable(text)}' is before "
            f"'{printable(first)}', and in natural order, as timm has it, it is not; say --class-order text or "
            f"--class-order natural, as the network was trained, or give --class-map FILE."
        )
    if ordered == list(names):
        return dict(zip(names, range(classes), strict=True)), "in the order of the folders' names"
    chosen = ordered if order is ClassOrder.NATURAL else names
    return dict(zip(chosen, range(classes), strict=True)), f"in the {order} order of the folders' names"


def _miscounted(images: ImageFiles, classes: int, model: str) -> UsageError:
    """Return the error for another number of class folders than the model has classes."""
    count = len(images.classes)
    inner = nested(images)
    if inner:
        return UsageError(
            f"{images.folder} holds folders of folders, such as {printable(inner)}; name the one whose folders are the "
            f"classes, such as --data {images.folder / printable(inner).partition('/')[0]}."
        )
    few = (
        "Folders of only some classes do not show their numbers, unless they are named by ImageNet's synsets: give "
        "--class-map FILE with the names of all classes of the model, or --labels FILE with a line `name number` per "
        "image."
    )
    many = "Check that it is the data set the model was trained for."
    return UsageError(
        f"{images.folder} holds {count} class folder{'s' * (count != 1)}, and {model} has {classes} classes. "
        f"{few if count < classes else many}"
    )


def _unknown(images: ImageFiles, classes: int, model: str) -> UsageError:
    """Return the error for a class in a file of labels that is no number, and no synset that the model knows."""
    synsets = imagenet.numbers() if classes == imagenet.CLASSES else {}
    names = [image for image in images.images if not labels.NUMBER.fullmatch(image.text)]
    odd = next((image for image in names if image.text not in synsets), names[0])  # or a synset among numbers
    known = ", or the synset of one of ImageNet's 1000" if synsets else f"; {model} has {classes}, and no synsets"
    return UsageError(
        f"{odd.where}: the class '{printable(odd.text)[:60]}' of {printable(odd.name)} is not the number of a class, "
        f"from 0{known}; classes by name take --class-map FILE."
    )


# --- numbers in files of labels ---------------------------------------------------------------------------------------


def _devkit(written: int) -> int:
    """Return the number that networks have for a class of the devkit, or -1 for none of its 1000."""
    order = imagenet.devkit_order()
    return imagenet.numbers()[order[written - 1]] if 1 <= written <= len(order) else -1


_TO_NUMBER: dict[LabelIds, Callable[[int], int]] = {
    LabelIds.INDEX: lambda written: written,
    LabelIds.FROM_1: lambda written: written - 1,
    LabelIds.DEVKIT: _devkit,
}
_ID_WORDS = {
    LabelIds.INDEX: "by numbers from 0",
    LabelIds.FROM_1: "by numbers from 1",
    LabelIds.DEVKIT: "by the numbers of ImageNet's devkit",
}
_ASK = "say --label-ids index (from 0), from-1 or devkit (of ImageNet's devkit, from 1 in an order of its own)"
_LEAST_KNOWN = 2  # images of known classes that must agree before a file's numbers are taken to be another kind
_MOST_PRESENT = 0.9  # share of the other classes; with as many there, a missing class 0 is no accident


def _label_ids(images: ImageFiles, chosen: LabelIds | None, classes: int, model: str) -> tuple[LabelIds, str]:
    """Return the kind of numbers in a file of labels, and in words how it is known.

    Some of ImageNet's validation images have a class that is known here, which tells the kinds apart.
    """
    known = [(image, imagenet.validation_class(image.name)) for image in images.images]
    known = [(image, true) for image, true in known if true is not None] if classes == imagenet.CLASSES else []
    fitting = [ids for ids in LabelIds if known and all(_TO_NUMBER[ids](int(i.text)) == true for i, true in known)]
    if chosen is not None:
        if fitting and chosen not in fitting and len(known) >= _LEAST_KNOWN:
            raise UsageError(_contradiction(images, known[0], chosen, fitting[0]))
        if chosen is LabelIds.DEVKIT and classes != imagenet.CLASSES:
            raise UsageError(f"--label-ids devkit is for networks of ImageNet's 1000 classes; {model} has {classes}.")
        return chosen, ", as --label-ids says"
    if len(fitting) == 1 and (len(known) >= _LEAST_KNOWN or fitting[0] is LabelIds.INDEX):
        return fitting[0], f", as {len(known)} known images of ImageNet's validation show"
    if len(known) >= _LEAST_KNOWN and not fitting:
        image, true = known[0]
        raise UsageError(
            f"{image.where}: {printable(image.name)} is of class {image.text}, and in ImageNet it is of "
            f"{imagenet.VALIDATION[(imagenet.validation_number(image.name) or 1) - 1]}, number {true} of networks; "
            f"check the order of the labels, or add --label-ids index if they are the model's numbers nevertheless."
        )
    return _unrecognised(images, classes, model)


def _unrecognised(images: ImageFiles, classes: int, model: str) -> tuple[LabelIds, str]:
    """Return that numbers count from 0, unless the numbers themselves make that doubtful."""
    numbers = {int(text) for text in images.classes}
    nameless = not images.named
    if 0 in numbers:
        return LabelIds.INDEX, ""
    if nameless or classes in numbers or len(numbers) >= max(1, _MOST_PRESENT * (classes - 1)):
        raise UsageError(
            f"The numbers of classes in {images.labels} go from {min(numbers)} to {max(numbers)}, and those of {model} "
            f"from 0 to {classes - 1}, so they may not be the model's; {_ASK}."
        )
    return LabelIds.INDEX, ""


def _contradiction(images: ImageFiles, known: tuple[ImageFile, int], chosen: LabelIds, fits: LabelIds) -> str:
    """Return the sentence on a choice that the known classes of validation images contradict."""
    image, true = known
    return (
        f"--label-ids {chosen} is wrong of {images.labels}: it says {image.text} of {printable(image.name)}, whose "
        f"class is number {true} of networks; say --label-ids {fits}."
    )
