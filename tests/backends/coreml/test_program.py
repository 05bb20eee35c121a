"""Packages are made by hand here, byte by byte, so that each can be damaged in one place."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from fastvit_bench.backends.coreml import program
from fastvit_bench.backends.coreml.program import ELEMENTS, Storage, ValueType
from fastvit_bench.errors import UnavailableError

WEIGHT = np.arange(6, dtype=np.float16).reshape(2, 3)
NUMBERS = {element.name: number for number, element in ELEMENTS.items()}


def storage(*blobs: tuple[str, bytes]) -> bytes:
    """A weight file; the first record begins at byte 64."""
    content = struct.pack("<II56x", len(blobs), 2)
    for dtype, data in blobs:
        code = ELEMENTS[NUMBERS[dtype]].stored
        content += struct.pack("<IIQQQ32x", 0xDEADBEEF, code, len(data), len(content) + 64, 0)
        content += data + bytes(-len(data) % 64)
    return content


def tensor(kind: Any, dtype: str, *shape: int) -> None:
    """Fill in a ValueType."""
    kind.tensorType.dataType, kind.tensorType.rank = NUMBERS[dtype], len(shape)
    for size in shape:
        kind.tensorType.dimensions.add().constant.size = size


def word(value: Any, text: str) -> None:
    tensor(value.type, "string")
    value.immediateValue.tensor.strings.values.append(text)


def model() -> Any:
    """A model of x (1, 3) -> y = x @ w.T, with w of 16 bits in the weight file, a bias and a truth value in itself."""
    spec = program.toolkit().proto.Model_pb2.Model(specificationVersion=7)
    spec.description.metadata.shortDescription = "what it does"
    spec.description.metadata.userDefined["key"] = "a value"
    taken, given_out = spec.description.input.add(name="x"), spec.description.output.add(name="y")
    for feature, size in ((taken, 3), (given_out, 2)):
        feature.type.multiArrayType.dataType = 65552
        feature.type.multiArrayType.shape.extend([1, size])
    spec.mlProgram.version = 1
    function = spec.mlProgram.functions["main"]
    function.opset = "CoreML6"
    tensor(function.inputs.add(name="x").type, "fp16", 1, 3)
    block = function.block_specializations["CoreML6"]
    block.outputs.append("y")
    weight = block.operations.add(type="const")
    word(weight.attributes["name"], "weight")
    tensor(weight.outputs.add(name="w").type, "fp16", 2, 3)
    held = weight.attributes["val"]
    tensor(held.type, "fp16", 2, 3)
    held.blobFileValue.fileName, held.blobFileValue.offset = "@model_path/weights/weight.bin", 64
    linear = block.operations.add(type="linear")
    word(linear.attributes["name"], "the_linear")
    linear.inputs["x"].arguments.add(name="x")
    linear.inputs["weight"].arguments.add(name="w")
    bias = linear.inputs["bias"].arguments.add().value
    tensor(bias.type, "fp16", 2)
    bias.immediateValue.tensor.bytes.values = np.float16([0.5, -1]).tobytes()
    tensor(linear.outputs.add(name="y").type, "fp16", 1, 2)
    return spec


def write(path: Path, spec: Any, weights: bytes | None = None) -> Path:
    """A package with this model; the path is made unless it is there."""
    data = path / "Data" / "com.apple.CoreML"
    (data / "weights").mkdir(parents=True, exist_ok=True)
    manifest = {
        "fileFormatVersion": "1.0.0",
        "itemInfoEntries": {"id": {"name": "model.mlmodel", "path": "com.apple.CoreML/model.mlmodel"}},
        "rootModelIdentifier": "id",
    }
    (path / "Manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    (data / "model.mlmodel").write_bytes(spec.SerializeToString())
    (data / "weights" / "weight.bin").write_bytes(storage(("fp16", WEIGHT.tobytes())) if weights is None else weights)
    return path


def manifest(items: dict[str, Any], version: str | None = "1.0.0") -> str:
    """A manifest whose root is the item i."""
    return json.dumps({"fileFormatVersion": version, "itemInfoEntries": items, "rootModelIdentifier": "i"})


MODEL = "com.apple.CoreML/model.mlmodel"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.mlpackage"


def main(spec: Any) -> Any:
    """The block of the only function."""
    return spec.mlProgram.functions["main"].block_specializations["CoreML6"]


# --- what is read -----------------------------------------------------------------------------------------------------


def test_a_package_is_read(path: Path) -> None:
    package = program.read(write(path, model()))
    assert (package.specification, package.default, list(package.functions)) == (7, "main", ["main"])
    assert package.metadata == {"key": "a value"}
    assert package.description == "what it does"
    (taken,), (given_out,) = package.inputs, package.outputs
    assert (taken.name, taken.kind, taken.dtype, taken.shape) == ("x", "tensor", "fp16", (1, 3))
    assert (given_out.name, given_out.shape) == ("y", (1, 2))
    function = package.functions["main"]
    assert function.opset == "CoreML6"
    assert [str(variable.type) for variable in function.inputs] == ["fp16 [1, 3]"]
    const, linear = function.operations
    np.testing.assert_array_equal(const.attributes["val"].value, WEIGHT)
    assert (linear.kind, linear.name, function.outputs) == ("linear", "the_linear", ("y",))
    assert (linear.inputs["x"], linear.inputs["weight"]) == (("x",), ("w",))
    bias = linear.inputs["bias"][0]
    assert isinstance(bias, program.Constant)
    np.testing.assert_array_equal(bias.value, np.float16([0.5, -1]))


def test_constants_are_not_counted(path: Path) -> None:
    spec = model()
    main(spec).operations.add(type="constexpr_cast")
    function = program.read(write(path, spec)).functions["main"]
    assert program.histogram(function) == {"linear": 1, "constexpr_cast": 1}
    assert program.histogram(function, compressed=False) == {"linear": 1}


def test_an_image_is_described(path: Path) -> None:
    spec = model()
    feature = spec.description.input[0]
    feature.type.imageType.width, feature.type.imageType.height, feature.type.imageType.colorSpace = 30, 20, 30
    (found,) = program.read(write(path, spec)).inputs
    assert (found.kind, found.dtype, found.shape, found.colours, found.flexible) == (
        "image",
        "uint8",
        (20, 30),
        "BGR",
        False,
    )
    feature.type.imageType.enumeratedSizes.sizes.add(width=1, height=2)
    assert program.read(write(path, spec)).inputs[0].flexible


def test_functions_are_told_apart(path: Path) -> None:
    spec = model()
    for name, opset in (("small", "CoreML8"), ("large", "CoreML8")):
        function = spec.mlProgram.functions[name]
        function.CopyFrom(spec.mlProgram.functions["main"])
        function.opset = opset
        function.block_specializations[opset].CopyFrom(main(spec))
        described = spec.description.functions.add(name=name)
        described.input.extend(spec.description.input)
        described.input[0].shortDescription = name
        described.output.extend(spec.description.output)
    del spec.mlProgram.functions["main"], spec.description.input[:], spec.description.output[:]
    spec.description.defaultFunctionName = "small"
    package = program.read(write(path, spec))
    assert (package.default, list(package.functions)) == ("small", ["large", "small"])
    assert {name: function.takes[0].text for name, function in package.functions.items()} == {
        "large": "large",
        "small": "small",
    }
    spec.description.defaultFunctionName = "medium"
    with pytest.raises(UnavailableError, match="the functions of its ML Program are not those it describes"):
        program.read(write(path, spec))


@pytest.mark.parametrize(
    ("dtype", "field", "values"),
    [
        ("bool", "bools", [True, False]),
        ("int32", "ints", [-7, 2**31 - 1]),
        ("uint16", "ints", [0, 65535]),
        ("int64", "longInts", [-(2**62), 3]),
        ("fp32", "floats", [0.5, -1.25]),
        ("fp64", "doubles", [0.1, 1e300]),
        ("string", "strings", ["valid", "ä"]),
    ],
)
def test_constants_in_the_model(path: Path, dtype: str, field: str, values: list[Any]) -> None:
    spec = model()
    const = main(spec).operations.add(type="const")
    tensor(const.attributes["val"].type, dtype, 2, 1)
    getattr(const.attributes["val"].immediateValue.tensor, field).values.extend(values)
    found = program.read(write(path, spec)).functions["main"].operations[-1].attributes["val"]
    assert found.type == ValueType(dtype, (2, 1))
    assert found.value.tolist() == [[value] for value in values]


def test_a_list_of_words(path: Path) -> None:
    spec = model()
    value = main(spec).operations[1].inputs["names"].arguments.add().value
    value.type.listType.length.constant.size = 2
    tensor(value.type.listType.type, "string")
    for name in ("cat", "dog"):
        word(value.immediateValue.list.values.add(), name)
    (names,) = program.read(write(path, spec)).functions["main"].operations[1].inputs["names"]
    assert isinstance(names, program.Constant)
    assert (names.type, names.value.tolist()) == (ValueType("list of string", (2,)), ["cat", "dog"])
    value.type.listType.length.constant.size = 3
    with pytest.raises(UnavailableError, match="one of its lists is not what it says"):
        program.read(write(path, spec))


# --- weight files -----------------------------------------------------------------------------------------------------

WRITTEN = {
    "fp16": "fp16",
    "fp32": "float",
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32)},
    "int4": "int4",
    **{f"uint{bits}": f"uint{bits}" for bits in (1, 2, 3, 4, 6)},
}


@pytest.mark.parametrize("dtype", WRITTEN)
@pytest.mark.parametrize("count", [1, 5, 8, 67])
def test_coremltools_own_storage_reads_the_same(dtype: str, count: int, tmp_path: Path) -> None:
    program.toolkit()
    from coremltools.libmilstoragepython import _BlobStorageReader, _BlobStorageWriter

    element, draw = ELEMENTS[NUMBERS[dtype]], np.random.default_rng(count)
    if dtype.startswith("fp"):
        values = draw.standard_normal(count).astype(element.array)
    else:
        low = -(1 << (element.bits - 1)) if dtype.startswith("int") else 0
        values = draw.integers(low, low + (1 << element.bits), count, np.int64).astype(element.array)
    raw = values.view(np.uint16) if dtype == "fp16" else values
    file = tmp_path / "weight.bin"
    writer = _BlobStorageWriter(str(file))
    offsets = [getattr(writer, f"write_{WRITTEN[dtype]}_data")(raw) for _ in range(2)]
    del writer  # writes what it still holds
    reader, ours = _BlobStorageReader(str(file)), Storage(np.fromfile(file, np.uint8))
    for offset in offsets:
        theirs: NDArray[Any] = getattr(reader, f"read_{WRITTEN[dtype]}_data")(offset)
        found = ours.array(offset, ValueType(dtype, (count, 1)))
        assert (found.shape, found.dtype) == ((count, 1), np.dtype(element.array))
        np.testing.assert_array_equal(found[:, 0], theirs.view(np.float16) if dtype == "fp16" else theirs)
        np.testing.assert_array_equal(found[:, 0], values)


@given(st.data())
@settings(max_examples=50)
def test_numbers_without_gaps_are_unpacked(data: st.DataObject) -> None:
    bits = data.draw(st.integers(1, 7))
    numbers = data.draw(st.lists(st.integers(0, 2**bits - 1), max_size=40))
    stream = sum(number << (bits * place) for place, number in enumerate(numbers))
    packed = np.frombuffer(stream.to_bytes(-(-bits * len(numbers) // 8), "little"), np.uint8)
    assert program.unpack(packed, bits, len(numbers)).tolist() == numbers


@given(st.binary(max_size=200), st.integers(0, 2**64 - 1), st.sampled_from(sorted(NUMBERS)), st.integers(0, 2**40))
def test_any_bytes_are_weights_or_refused(content: bytes, offset: int, dtype: str, count: int) -> None:
    for begin, where in ((b"", offset), (storage(), offset % 256), (storage(("fp16", content)), 64)):
        try:
            found = Storage(np.frombuffer(begin + content, np.uint8)).array(where, ValueType(dtype, (count,)))
        except UnavailableError:
            continue
        assert found.shape == (count,)


@given(st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_any_damage_to_the_model_is_one_sentence(path: Path, data: st.DataObject) -> None:
    content = bytearray(model().SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    write(path, model())
    (path / "Data" / "com.apple.CoreML" / "model.mlmodel").write_bytes(bytes(content))
    said = "The Core ML reader cannot load net.mlpackage: "
    try:
        program.read(path)
    except UnavailableError as error:
        said = str(error)
    assert said.startswith("The Core ML reader cannot load net.mlpackage: ")
    assert "\n" not in said


# --- damage -----------------------------------------------------------------------------------------------------------


def _spoil(offset: int, number: str, value: int) -> bytes:
    content = bytearray(storage(("fp16", WEIGHT.tobytes())))
    struct.pack_into(number, content, offset, value)
    return bytes(content)


@pytest.mark.parametrize(
    ("weights", "wrong"),
    [
        (b"", "has 0 bytes, less than a header"),
        (_spoil(4, "<I", 1), "has version 1 instead of 2"),
        (storage()[:64], "ends before byte 64"),
        (_spoil(64, "<I", 0xDEADBEEE), "at byte 64 of its weight file there is no record"),
        (_spoil(68, "<I", 2), "at byte 64 of its weight file the elements are not fp16"),
        (_spoil(72, "<Q", 10), r"has 10 bytes, which is not the size of fp16 \[2, 3\]"),
        (_spoil(72, "<Q", 2**63), "ends within the weights of byte 64"),
        (_spoil(80, "<Q", 2**64 - 1), "ends within the weights of byte 64"),
        (storage(("fp16", WEIGHT.tobytes()))[:139], "ends within the weights of byte 64"),
    ],
)
def test_a_damaged_weight_file_is_refused(path: Path, weights: bytes, wrong: str) -> None:
    with pytest.raises(UnavailableError, match=rf"cannot load net\.mlpackage: .*{wrong}.*\.$"):
        program.read(write(path, model(), weights))


def _offset_beyond(spec: Any) -> None:
    main(spec).operations[0].attributes["val"].blobFileValue.offset = 2**63


def _outside(spec: Any) -> None:
    main(spec).operations[0].attributes["val"].blobFileValue.fileName = "@model_path/../../../elsewhere.bin"


def _nowhere(spec: Any) -> None:
    main(spec).operations[0].attributes["val"].blobFileValue.fileName = "@model_path/weights/other.bin"


def _other_shape(spec: Any) -> None:
    main(spec).operations[0].attributes["val"].type.tensorType.dimensions[0].constant.size = 3


def _other_rank(spec: Any) -> None:
    spec.mlProgram.functions["main"].inputs[0].type.tensorType.rank = 3


def _unknown_element(spec: Any) -> None:
    main(spec).operations[0].attributes["val"].type.tensorType.dataType = 13


def _no_opset(spec: Any) -> None:
    spec.mlProgram.functions["main"].opset = "CoreML7"


def _no_program(spec: Any) -> None:
    spec.neuralNetwork.SetInParent()


def _no_function(spec: Any) -> None:
    del spec.mlProgram.functions["main"]


def _other_version(spec: Any) -> None:
    spec.mlProgram.version = 2


def _inner_operations(spec: Any) -> None:
    main(spec).operations[1].blocks.add()


def _too_few(spec: Any) -> None:
    bias = main(spec).operations[1].inputs["bias"].arguments[0].value
    bias.immediateValue.tensor.bytes.values = b"\0\0"


def _too_large(spec: Any) -> None:
    number = main(spec).operations[1].attributes["number"]
    tensor(number.type, "uint16")
    number.immediateValue.tensor.ints.values.append(70000)


def _other_field(spec: Any) -> None:
    number = main(spec).operations[1].attributes["number"]
    tensor(number.type, "fp16")
    number.immediateValue.tensor.floats.values.append(1)


def _open_constant(spec: Any) -> None:
    main(spec).operations[0].attributes["val"].type.tensorType.dimensions[0].unknown.SetInParent()


@pytest.mark.parametrize(
    ("spoil", "wrong"),
    [
        (_offset_beyond, "weight file ends before byte"),
        (_outside, "one of its files is outside of it"),
        (_nowhere, "other.bin cannot be read"),
        (_other_shape, r"has 12 bytes, which is not the size of fp16 \[3, 3\]"),
        (_other_rank, "not as many dimensions as it says"),
        (_unknown_element, "of type element type 13, which this reader does not know"),
        (_no_opset, "function main has no operations for its operation set 'CoreML7'"),
        (_no_program, "it holds no ML Program"),
        (_no_function, "functions of its ML Program are not those it describes"),
        (_other_version, "its ML Program has version 2 instead of 1"),
        (_inner_operations, "its linear 'the_linear' has operations inside"),
        (_too_few, r"has 2 bytes, which is not the size of fp16 \[2\]"),
        (_too_large, "one of its constants is no uint16"),
        (_other_field, "one of its constants of type fp16 is kept as floats"),
        (_open_constant, "one of its constants has no fixed shape"),
    ],
)
def test_a_damaged_model_is_refused(path: Path, spoil: Callable[[Any], None], wrong: str) -> None:
    spec = model()
    spoil(spec)
    with pytest.raises(UnavailableError, match=rf"The Core ML reader cannot load net\.mlpackage: .*{wrong}.*\.$"):
        program.read(write(path, spec))


@pytest.mark.parametrize(
    ("manifest", "wrong"),
    [
        ("{", "does not say where the model is"),
        ("[]", "does not say where the model is"),
        ('{"rootModelIdentifier": [], "itemInfoEntries": {}}', "does not say where the model is"),
        ("[" * 100_000, "does not say where the model is"),
        (manifest({"i": {"name": "m", "path": 7}}), "has a name that cannot be"),
        (manifest({"i": {"name": "m", "path": "a\0b"}}), "has a name that cannot be"),
        (manifest({"i": {"name": "m", "path": "/etc/hosts"}}), "is outside of it"),
        (manifest({"i": {"name": "m", "path": "none"}}), "it lacks none, which its"),
        (manifest({"i": {"path": MODEL}}), "lacks an entry"),
        (manifest({"i": {"name": 7, "path": MODEL}}), "whose name is no text"),
        (manifest({"i": {"name": "m", "path": MODEL}, "j": {"name": "w", "path": "gone"}}), "it lacks gone"),
        (manifest({"i": {"name": "m", "path": MODEL}}, version="9.9.9"), "has version 9.9.9 instead of 1.0.0"),
        (manifest({"i": {"name": "m", "path": MODEL}}, version=None), "has version None instead"),
        ('{"rootModelIdentifier": "i", "itemInfoEntries": {"i": {"name": "m", "path": "n"}}}', "lacks an entry"),
    ],
)
def test_a_damaged_manifest_is_refused(path: Path, manifest: str, wrong: str) -> None:
    (write(path, model()) / "Manifest.json").write_text(manifest, encoding="utf-8")
    with pytest.raises(UnavailableError, match=wrong):
        program.read(path)


@pytest.mark.parametrize("name", ["Manifest.json", "Data/com.apple.CoreML/weights/weight.bin", "Data"])
def test_links_and_pipes_in_a_package_are_refused(path: Path, name: str, tmp_path: Path) -> None:
    place = write(path, model()) / name
    place.rename(tmp_path / "outside")
    place.symlink_to("/dev/zero")
    with pytest.raises(UnavailableError, match="in it is a link"):
        program.read(path)
    place.unlink()
    place.symlink_to(tmp_path / "outside")
    with pytest.raises(UnavailableError, match="in it is a link"):
        program.read(path)
    place.unlink()
    os.mkfifo(place)
    with pytest.raises(UnavailableError, match=r"cannot be read|it lacks"):
        program.read(path)


def test_what_is_no_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"cannot load net\.mlpackage: there is no such package\.$"):
        program.read(tmp_path / "net.mlpackage")
    (tmp_path / "net.mlpackage").write_bytes(b"no model")
    with pytest.raises(UnavailableError, match=r"it is a file, and a package is a folder\.$"):
        program.read(tmp_path / "net.mlpackage")
    (tmp_path / "empty.mlpackage").mkdir()
    with pytest.raises(UnavailableError, match=r"its Manifest\.json cannot be read \(No such file or directory\)\.$"):
        program.read(tmp_path / "empty.mlpackage")


def test_the_model_without_its_end_is_refused(path: Path) -> None:
    file = write(path, model()) / "Data" / "com.apple.CoreML" / "model.mlmodel"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(UnavailableError, match=r"its model is damaged\.$"):
        program.read(path)


# --- the toolkit ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_coremltools_is_imported_without_remarks_and_only_when_needed() -> None:
    script = (
        "import sys\n"
        "from fastvit_bench.backends.coreml import program\n"
        "assert not {'numpy', 'torch', 'coremltools'} & set(sys.modules)\n"
        "assert program.toolkit().__name__ == 'coremltools'\n"
        "import logging; assert not logging.root.manager.disable\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
