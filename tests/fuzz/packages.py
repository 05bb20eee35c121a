"""A small Core ML package that says of itself that this tool wrote it: a weight in its file, a bias in the model."""

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from fastvit_bench.backends.coreml import program

NUMBERS = {element.name: number for number, element in program.ELEMENTS.items()}
WEIGHT = np.arange(6, dtype=np.float16)
RECORD = 64  # bytes in front of the weight file's first record, and of a record


def weights() -> bytes:
    """A weight file with one record, of six numbers of 16 bits."""
    data = WEIGHT.tobytes()
    code = program.ELEMENTS[NUMBERS["fp16"]].stored
    record = struct.pack("<IIQQQ32x", 0xDEADBEEF, code, len(data), 2 * RECORD, 0)
    return struct.pack("<II56x", 1, 2) + record + data + bytes(-len(data) % RECORD)


def tensor(kind: Any, dtype: str, *shape: int) -> None:
    """Fill in a ValueType."""
    kind.tensorType.dataType, kind.tensorType.rank = NUMBERS[dtype], len(shape)
    for size in shape:
        kind.tensorType.dimensions.add().constant.size = size


def word(value: Any, text: str) -> None:
    tensor(value.type, "string")
    value.immediateValue.tensor.strings.values.append(text)


def model(entries: Mapping[str, str]) -> Any:
    """A model of x (1, 3) -> y = x @ w.T + b."""
    spec = program.toolkit().proto.Model_pb2.Model(specificationVersion=7)
    spec.description.metadata.userDefined.update(entries)
    for feature, size in ((spec.description.input.add(name="x"), 3), (spec.description.output.add(name="y"), 2)):
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
    value = weight.attributes["val"]
    tensor(value.type, "fp16", 2, 3)
    value.blobFileValue.fileName, value.blobFileValue.offset = "@model_path/weights/weight.bin", RECORD
    linear = block.operations.add(type="linear")
    word(linear.attributes["name"], "the_linear")
    linear.inputs["x"].arguments.add(name="x")
    linear.inputs["weight"].arguments.add(name="w")
    bias = linear.inputs["bias"].arguments.add().value
    tensor(bias.type, "fp16", 2)
    bias.immediateValue.tensor.bytes.values = np.float16([0.5, -1]).tobytes()
    tensor(linear.outputs.add(name="y").type, "fp16", 1, 2)
    return spec


def write(path: Path, entries: Mapping[str, str]) -> None:
    """Write the package with these entries of metadata."""
    data = path / "Data" / "com.apple.CoreML"
    (data / "weights").mkdir(parents=True)
    items = {
        "id": {"name": "model.mlmodel", "path": "com.apple.CoreML/model.mlmodel"},
        "w": {"name": "weights", "path": "com.apple.CoreML/weights"},
    }
    manifest = {"fileFormatVersion": "1.0.0", "itemInfoEntries": items, "rootModelIdentifier": "id"}
    (path / "Manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    (data / "model.mlmodel").write_bytes(model(entries).SerializeToString(deterministic=True))
    (data / "weights" / "weight.bin").write_bytes(weights())
