"""Reader that turns a stored Core ML package into a small typed description.

It reads what another machine would get: the manifest, the model's protobuf and the weight file. Of coremltools only the
generated protobuf classes are used, neither its native library nor anything that took part in a conversion. Every
constant is read and every byte it needs is accounted for, so that a damaged package is noticed here.
"""

import importlib
import json
import logging
import math
import re
import struct
import warnings
from collections import Counter
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from fastvit_bench import files
from fastvit_bench.errors import UnavailableError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# --- contents of a package --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ValueType:
    """Type of a value in a program."""

    dtype: str  # as MIL text has it: fp16, int32, uint4, bool, string; list of string, dictionary of string to fp64
    shape: tuple[int | None, ...] = ()  # of a tensor; of a list its length; None: not fixed

    def __str__(self) -> str:
        return f"{self.dtype} {['?' if size is None else size for size in self.shape]}".replace("'", "")


@dataclass(frozen=True)
class Variable:
    """A value's name and the type the program declares for it."""

    name: str
    type: ValueType


@dataclass(frozen=True, eq=False)
class Constant:
    """A value stored in the package: an array of the type's shape; words as an array of `str` objects.

    Elements of less than 8 bits have a byte each.
    """

    type: ValueType
    value: "NDArray[Any]"


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation, each input of which is bound to one or more values.

    A bound value is the name of a variable, or a constant.
    """

    kind: str  # conv, const, constexpr_lut_to_dense, …
    name: str
    inputs: Mapping[str, tuple[str | Constant, ...]]
    outputs: tuple[Variable, ...]
    attributes: Mapping[str, Constant]


@dataclass(frozen=True)
class Feature:
    """An input or output as the package describes it to an app."""

    name: str
    kind: str  # image, tensor, string, int64, dictionary, …
    dtype: str = ""  # of an image uint8; of a tensor fp16, fp32, fp64, int8 or int32
    shape: tuple[int, ...] = ()  # of a tensor; of an image (height, width)
    colours: str = ""  # of an image: RGB, BGR, GRAYSCALE, …
    flexible: bool = False  # it may have other shapes than this one
    text: str = ""


@dataclass(frozen=True, eq=False)
class Function:
    """A program, and the package's description of its inputs and outputs."""

    name: str
    opset: str  # CoreML6 of iOS 16, CoreML8 of iOS 18, …
    inputs: tuple[Variable, ...]
    operations: tuple[Operation, ...]  # in the order of their evaluation
    outputs: tuple[str, ...]
    takes: tuple[Feature, ...]
    gives: tuple[Feature, ...]


@dataclass(frozen=True, eq=False)
class Package:
    """The contents of a package on the disk."""

    path: Path
    specification: int  # 7 of iOS 16, 9 of iOS 18
    metadata: dict[str, str]  # user-defined
    description: str
    author: str
    license: str
    version: str
    functions: dict[str, Function]  # in the order of their names
    default: str  # name of the function that is run unless another one is asked for

    @property
    def inputs(self) -> tuple[Feature, ...]:
        """The inputs of the default function."""
        return self.functions[self.default].takes

    @property
    def outputs(self) -> tuple[Feature, ...]:
        """The outputs of the default function."""
        return self.functions[self.default].gives


def read(path: Path) -> Package:
    """Read the package at `path`.

    Raises `UnavailableError`, in one sentence, for a path that is no package, and for a damaged one.
    """
    try:
        return _package(path)
    except _DamageError as damage:
        raise UnavailableError(sentence(f"The Core ML reader cannot load {path.name}: {damage}.")) from damage


def histogram(function: Function, *, compressed: bool = True) -> Counter[str]:
    """Count the operations by kind, constants left out.

    Compressed weights are restored by an operation each (``constexpr_*``), which runs when the package is loaded;
    `compressed` says whether to count those operations.
    """
    kinds = Counter(operation.kind for operation in function.operations if operation.kind != "const")
    return Counter({kind: n for kind, n in kinds.items() if compressed or not kind.startswith("constexpr_")})


def sentence(text: str) -> str:
    """Return the text on one line, without control characters: names in it may come from a damaged file."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


# --- coremltools without its warnings ---------------------------------------------------------------------------------


@contextmanager
def quiet() -> Generator[None]:
    """Suppress warnings and log lines below an error, on which a user cannot act."""
    level = logging.root.manager.disable
    logging.disable(max(level, logging.WARNING))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)


def toolkit() -> ModuleType:
    """Import coremltools without its warnings about the versions of other packages.

    Raises `UnavailableError` where it cannot be imported.
    """
    with quiet():
        try:
            return importlib.import_module("coremltools")
        except ImportError as error:
            raise UnavailableError(f"coremltools cannot be imported: {error}.") from error


# --- elements ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Element:
    """The storage of one number of a tensor."""

    name: str
    bits: int
    array: str  # type of the array it is read into, little-endian as everything in a package
    stored: int = 0  # its code in a weight file; 0: never in one


# by their numbers in the protobuf (MIL.proto, DataType); the codes are those of MILBlob/Blob/BlobDataType.hpp
ELEMENTS = {
    1: Element("bool", 8, "?"),
    2: Element("string", 0, "O"),
    10: Element("fp16", 16, "<f2", 1),
    11: Element("fp32", 32, "<f4", 2),
    12: Element("fp64", 64, "<f8"),
    21: Element("int8", 8, "i1", 4),
    22: Element("int16", 16, "<i2", 6),
    23: Element("int32", 32, "<i4", 14),
    24: Element("int64", 64, "<i8"),
    25: Element("int4", 4, "i1", 8),
    31: Element("uint8", 8, "u1", 3),
    32: Element("uint16", 16, "<u2", 7),
    33: Element("uint32", 32, "<u4", 15),
    34: Element("uint64", 64, "<u8"),
    35: Element("uint4", 4, "u1", 11),
    36: Element("uint2", 2, "u1", 10),
    37: Element("uint1", 1, "u1", 9),
    38: Element("uint6", 6, "u1", 13),
    39: Element("uint3", 3, "u1", 12),
}
_BY_NAME = {element.name: element for element in ELEMENTS.values()}

# which field of a TensorValue holds which elements
_FIELDS = {
    "floats": {"fp32"},
    "doubles": {"fp64"},
    "ints": {"int8", "int16", "int32", "uint8", "uint16", "uint32"},
    "longInts": {"int64", "uint64"},
    "bools": {"bool"},
    "strings": {"string"},
    "bytes": {"fp16", *(name for name in _BY_NAME if name.lstrip("u").startswith("int"))},
}
_MOST_DIMENSIONS = 16  # tables of values have six; numpy stops at 64


def unpack(packed: "NDArray[np.uint8]", bits: int, count: int) -> "NDArray[np.uint8]":
    """Unpack `count` numbers of `bits` < 8 bits each, lowest bit first, that follow each other without gaps."""
    import numpy as np

    single = np.unpackbits(packed, count=count * bits, bitorder="little").reshape(count, bits)
    return np.packbits(single, axis=1, bitorder="little")[:, 0]


class Storage:
    """A weight file: MIL's blob storage format, version 2 (MILBlob/Blob/StorageFormat.hpp in coremltools).

    A header of 64 bytes, then blobs, each a record of 64 bytes and its data; all numbers are little-endian:

        header  u32 number of blobs, u32 version
        record  u32 0xDEADBEEF, u32 code of the element, u64 size of the data, u64 where it begins, u64 bits unused at
                the end of it (meaningful where elements have less than 8 bits)
    """

    RECORD = 64
    SENTINEL = 0xDEADBEEF
    VERSION = 2

    def __init__(self, data: "NDArray[np.uint8]") -> None:
        self._data = data
        if len(data) < self.RECORD:
            raise _DamageError(f"its weight file has {len(data)} bytes, less than a header")
        _, version = struct.unpack_from("<II", data.data)
        if version != self.VERSION:
            raise _DamageError(f"its weight file has version {version} instead of {self.VERSION}")

    def array(self, offset: int, expected: ValueType) -> "NDArray[Any]":
        """Return the blob whose record begins at `offset`, which must hold exactly what is expected."""
        if offset + self.RECORD > len(self._data):
            raise _DamageError(f"its weight file ends before byte {offset}, where weights should be")
        sentinel, code, size, start, unused = struct.unpack_from("<IIQQQ", self._data.data, offset)
        if sentinel != self.SENTINEL:
            raise _DamageError(f"at byte {offset} of its weight file there is no record of weights")
        if start + size > len(self._data):
            raise _DamageError(f"its weight file ends within the weights of byte {offset}")
        element = _element(expected)
        if not element.stored or code != element.stored:
            raise _DamageError(f"at byte {offset} of its weight file the elements are not {expected.dtype}")
        return _numbers(self._data[start : start + size], expected, unused if element.bits < 8 else 0)


# --- reading ----------------------------------------------------------------------------------------------------------


class _DamageError(UnavailableError):
    """A fault of a package, as a part of the sentence that `read` raises."""


class _Weights:
    """The weight files of a package, each read once."""

    def __init__(self, package: Path, model: Path) -> None:
        self._package, self._model = package, model
        self._files: dict[str, Storage] = {}

    def array(self, blob: Any, expected: ValueType) -> "NDArray[Any]":
        """Return the weights that a blob reference names, which must be exactly what is expected."""
        import numpy as np

        name: str = blob.fileName
        if name not in self._files:
            relative = name.removeprefix("@model_path/")
            content = _content(_inside(self._package, self._model.parent, relative))
            self._files[name] = Storage(np.frombuffer(content, np.uint8))
        return self._files[name].array(blob.offset, expected)


def specification(path: Path) -> Any:
    """Return the protobuf of the package at `path`. Raises `UnavailableError` as `read` does."""
    try:
        return _specification(_content(_model(path)))
    except _DamageError as damage:
        raise UnavailableError(sentence(f"The Core ML reader cannot load {path.name}: {damage}.")) from damage


def _package(path: Path) -> Package:
    model = _model(path)
    spec = _specification(_content(model))
    if spec.WhichOneof("Type") != "mlProgram":
        raise _DamageError("it holds no ML Program")
    about, program = spec.description, spec.mlProgram
    if program.version != 1:
        raise _DamageError(f"its ML Program has version {program.version} instead of 1")
    names = sorted(program.functions)
    described: dict[str, Any] = {function.name: function for function in about.functions}
    default: str = about.defaultFunctionName
    if not described and len(names) == 1:  # a package with one function describes it once, at the top
        described, default = {names[0]: about}, names[0]
    if not names or set(names) != set(described) or default not in described:
        raise _DamageError("the functions of its ML Program are not those it describes")
    weights = _Weights(path, model)
    return Package(
        path=path,
        specification=spec.specificationVersion,
        metadata=dict(about.metadata.userDefined),
        description=about.metadata.shortDescription,
        author=about.metadata.author,
        license=about.metadata.license,
        version=about.metadata.versionString,
        functions={name: _function(name, program.functions[name], described[name], weights) for name in names},
        default=default,
    )


def _model(path: Path) -> Path:
    """Return the path of the protobuf, as the manifest records it."""
    if not path.exists():
        raise _DamageError("there is no such package")
    if not path.is_dir():
        raise _DamageError("it is a file, and a package is a folder")
    try:
        files.size_bytes(path)  # refuses links: what is behind one can change, and the package's hash would not
    except OSError as error:
        raise _DamageError(error.strerror or str(error)) from error
    relative, items = _manifest(path / "Manifest.json")
    for item in items:
        if not files.exists(_inside(path, path / "Data", item)):
            raise _DamageError(f"it lacks {str(item)[:100]}, which its Manifest.json names")
    return _inside(path, path / "Data", relative)


def _manifest(file: Path) -> tuple[Any, list[Any]]:
    """Return the path of the model and the paths of all items that a manifest names, relative to the data."""
    try:
        manifest: Any = json.loads(_content(file))
        entries = manifest["itemInfoEntries"]
        relative = entries[manifest["rootModelIdentifier"]]["path"]
        items = [(item["name"], item["path"]) for item in entries.values()]
        version = manifest["fileFormatVersion"]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise _DamageError("its Manifest.json does not say where the model is, or lacks an entry") from error
    if not isinstance(version, str) or not re.fullmatch(r"1\.\d{1,4}\.\d{1,4}", version):
        raise _DamageError(f"its Manifest.json has version {str(version)[:20]} instead of 1.0.0")
    if not all(isinstance(name, str) for name, _ in items):
        raise _DamageError("its Manifest.json has an item whose name is no text")
    return relative, [item for _, item in items]


def _inside(package: Path, folder: Path, relative: Any) -> Path:
    """Return the path of a file in `folder`; a foreign package must not make us read files outside of it."""
    try:
        path = (folder / relative).resolve()
    except (TypeError, ValueError, OSError, RuntimeError) as error:
        raise _DamageError("one of its files has a name that cannot be") from error
    if not path.is_relative_to(package.resolve()):
        raise _DamageError("one of its files is outside of it")
    return path


def _content(file: Path) -> bytes:
    try:
        return files.read_bytes(file, files.PROGRAM)
    except OSError as error:
        raise _DamageError(f"its {file.name} cannot be read ({error.strerror or type(error).__name__})") from error


def _specification(content: bytes) -> Any:
    toolkit()
    from google.protobuf.message import DecodeError

    model = importlib.import_module("coremltools.proto.Model_pb2").Model()
    try:
        model.ParseFromString(content)
    except DecodeError as error:
        raise _DamageError("its model is damaged") from error
    return model


def _function(name: str, function: Any, description: Any, weights: _Weights) -> Function:
    if function.opset not in function.block_specializations:
        raise _DamageError(f"function {name} has no operations for its operation set '{function.opset}'")
    block = function.block_specializations[function.opset]
    return Function(
        name=name,
        opset=function.opset,
        inputs=_variables(function.inputs),
        operations=tuple(_operation(operation, weights) for operation in block.operations),
        outputs=tuple(block.outputs),
        takes=tuple(_feature(feature) for feature in description.input),
        gives=tuple(_feature(feature) for feature in description.output),
    )


def _feature(feature: Any) -> Feature:
    field: str = feature.type.WhichOneof("Type") or ""
    if field == "imageType":
        image = feature.type.imageType
        colours = image.DESCRIPTOR.enum_types_by_name["ColorSpace"].values_by_number
        return Feature(
            name=feature.name,
            kind="image",
            dtype="uint8",
            shape=(image.height, image.width),
            colours=colours[image.colorSpace].name if image.colorSpace in colours else str(image.colorSpace),
            flexible=image.WhichOneof("SizeFlexibility") is not None,
            text=feature.shortDescription,
        )
    if field == "multiArrayType":
        tensor = feature.type.multiArrayType
        if len(tensor.shape) > _MOST_DIMENSIONS:
            raise _DamageError("one of its inputs or outputs has far too many dimensions")
        # the numbers of ArrayDataType: a flag for integers, and the number of bits
        dtypes = {65552: "fp16", 65568: "fp32", 65600: "fp64", 131080: "int8", 131104: "int32"}
        return Feature(
            name=feature.name,
            kind="tensor",
            dtype=dtypes.get(tensor.dataType, str(tensor.dataType)),
            shape=tuple(tensor.shape),
            flexible=tensor.WhichOneof("ShapeFlexibility") is not None,
            text=feature.shortDescription,
        )
    return Feature(name=feature.name, kind=field.removesuffix("Type"), text=feature.shortDescription)


def _operation(operation: Any, weights: _Weights) -> Operation:
    attributes = {key: _constant(value, weights) for key, value in operation.attributes.items()}
    outputs = _variables(operation.outputs)
    name = outputs[0].name if outputs else operation.type
    if "name" in attributes and attributes["name"].type == ValueType("string"):
        name = str(attributes["name"].value.item())
    if operation.blocks:
        raise _DamageError(f"its {operation.type} '{name}' has operations inside, which this reader does not know")
    return Operation(
        kind=operation.type,
        name=name,
        inputs={
            key: tuple(_binding(binding, weights) for binding in argument.arguments)
            for key, argument in operation.inputs.items()
        },
        outputs=outputs,
        attributes=attributes,
    )


def _binding(binding: Any, weights: _Weights) -> str | Constant:
    return _constant(binding.value, weights) if binding.WhichOneof("binding") == "value" else str(binding.name)


def _variables(named: Iterable[Any]) -> tuple[Variable, ...]:
    return tuple(Variable(item.name, _type(item.type)) for item in named)


def _type(declared: Any) -> ValueType:
    match declared.WhichOneof("type"):
        case "tensorType":
            tensor = declared.tensorType
            if tensor.rank != len(tensor.dimensions) or tensor.rank > _MOST_DIMENSIONS:
                raise _DamageError("one of its tensors has not as many dimensions as it says, or far too many")
            number: int = tensor.dataType
            dtype = ELEMENTS[number].name if number in ELEMENTS else f"element type {number}"
            return ValueType(dtype, tuple(_size(dimension) for dimension in tensor.dimensions))
        case "listType":
            items = declared.listType
            return ValueType(f"list of {_type(items.type).dtype}", (_size(items.length),))
        case "dictionaryType":
            pairs = declared.dictionaryType
            return ValueType(f"dictionary of {_type(pairs.keyType).dtype} to {_type(pairs.valueType).dtype}")
        case kind:
            return ValueType((kind or "no type").removesuffix("Type"))


def _size(dimension: Any) -> int | None:
    return int(dimension.constant.size) if dimension.WhichOneof("dimension") == "constant" else None


def _constant(value: Any, weights: _Weights) -> Constant:
    declared = _type(value.type)
    if None in declared.shape:
        raise _DamageError("one of its constants has no fixed shape")
    where, field = value.WhichOneof("value"), value.immediateValue.WhichOneof("value")
    if where == "blobFileValue":
        return Constant(declared, weights.array(value.blobFileValue, declared))
    if field == "tensor":
        return Constant(declared, _immediate(value.immediateValue.tensor, declared))
    if field == "list" and declared.dtype.startswith("list of "):
        return Constant(declared, _items(value.immediateValue.list.values, declared, weights))
    raise _DamageError(f"one of its constants is a {declared.dtype} that this reader does not know")


def _items(values: Iterable[Any], declared: ValueType, weights: _Weights) -> "NDArray[Any]":
    """Return the items of a list, which are scalars."""
    import numpy as np

    single = ValueType(declared.dtype.removeprefix("list of "))
    items = [_constant(value, weights) for value in values]
    if any(item.type != single for item in items) or (len(items),) != declared.shape:
        raise _DamageError("one of its lists is not what it says")
    return np.array([item.value.item() for item in items], _element(single).array)


def _immediate(tensor: Any, declared: ValueType) -> "NDArray[Any]":
    """Return a constant that is stored in the protobuf."""
    import numpy as np

    element = _element(declared)
    field: str = tensor.WhichOneof("value") or ""
    if field and declared.dtype not in _FIELDS[field]:
        raise _DamageError(f"one of its constants of type {declared.dtype} is kept as {field}")
    if field == "bytes":
        # the bits that fill the last byte are not counted here
        content = np.frombuffer(tensor.bytes.values, np.uint8)
        return _numbers(content, declared, -_count(declared) * element.bits % 8)
    try:
        values = np.array(list(getattr(tensor, field).values) if field else [], element.array)
    except OverflowError as error:
        raise _DamageError(f"one of its constants is no {declared.dtype}") from error
    if len(values) != _count(declared):
        raise _DamageError(f"one of its constants has {len(values)} elements and should have {_count(declared)}")
    return _shaped(values, declared)


def _numbers(content: "NDArray[np.uint8]", declared: ValueType, unused: int) -> "NDArray[Any]":
    """Return an array of what is declared, from its bytes; `unused` bits at the end of them are padding."""
    element, count = _element(declared), _count(declared)
    if len(content) * 8 - unused != count * element.bits:
        raise _DamageError(f"one of its constants has {len(content)} bytes, which is not the size of {declared}")
    if element.bits >= 8:
        return _shaped(content.view(element.array), declared)
    values = unpack(content, element.bits, count)
    if element.name.startswith("int"):
        sign = 1 << (element.bits - 1)
        values = (values ^ sign).view("i1") - sign
    return _shaped(values, declared)


def _shaped(values: "NDArray[Any]", declared: ValueType) -> "NDArray[Any]":
    try:
        return values.reshape([size or 0 for size in declared.shape])
    except (ValueError, OverflowError) as error:
        raise _DamageError(f"one of its constants cannot be {declared}") from error


def _element(declared: ValueType) -> Element:
    if declared.dtype not in _BY_NAME:
        raise _DamageError(f"one of its constants is of type {declared.dtype}, which this reader does not know")
    return _BY_NAME[declared.dtype]


def _count(declared: ValueType) -> int:
    return math.prod(size or 0 for size in declared.shape)
