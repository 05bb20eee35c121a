"""Performance reports as Xcode writes them, for tests: of FastViT-like programs, with every form that was seen in one.

Objects whose keys have no order, enums as ``{"case": {}}`` with ``_0`` for what belongs to them, dictionaries whose
keys are no texts as lists of key and value in turn, and JSON inside of JSON.
"""

import json
from pathlib import Path
from typing import Any

from fastvit_bench.exporting import metadata as export_metadata
from fastvit_bench.network.cost import Cost
from fastvit_bench.records import ExportJob

# what tells whose device it was; none of it may reach a run file
OWNER = {
    "displayName": "MARKER-display",
    "deviceID": "MARKER-device-id",
    "serialNumber": "MARKER-serial",
}


def report(**changes: Any) -> dict[str, Any]:
    """A report of an iPhone 12 Pro; `changes` replace whole top-level values."""
    usual = {
        "jsonVersion": 1,
        "deviceResultVersion": 4,
        "computeUnit": 2,
        "deviceInfo": device(),
        "modelMetadata": model(),
        "deviceResults": results(),
        "someLaterKey": {"path": "/Users/MARKER-later/x", "note": "MARKER-later-note"},
    }
    return usual | changes


def device(**changes: Any) -> dict[str, Any]:
    usual = {
        "modelName": "iPhone 12 Pro",
        "capacity": "MARKER-capacity",
        "osNameAndVersionWithoutBuildNumber": "iOS 18.7",
        "osNameAndVersionWithInternalBuildNumber": "iOS 18.7 (22H123)",
        "isCloudDevice": False,
        "isSupported": True,
        "deviceType": {"iPhone": {}},
        "ownerHint": "MARKER-hint",
        **OWNER,
    }
    return usual | changes


def model(
    inputs: tuple[dict[str, Any], ...] | None = None, metadata: dict[str, str] | None = None, **changes: Any
) -> dict[str, Any]:
    """Of a model with an image input of 256 pixels, unless `inputs` says otherwise."""
    compiled = {
        "metadataOutputVersion": "3.0",
        "storagePrecision": "Float16",
        "computePrecision": "Mixed (Float16, Int32)",
        "specificationVersion": 7,
        "author": "MARKER-author",
        "shortDescription": "MARKER-description",
        "mlProgramOperationTypeHistogram": {"Ios16.conv": 2, "Ios16.gelu": 1, "Ios16.add": 1, "Split": 1},
        "inputSchema": [image()] if inputs is None else list(inputs),
        "outputSchema": [tensor("[1, 1000]", "logits")],
        "stateSchema": [],
        "userDefinedMetadata": {
            "com.github.apple.coremltools.version": "9.0",
            "made.from": "/Users/MARKER-someone/checkpoint.pth",
            "made.by": f"the owner of {OWNER['displayName']}",
            **(metadata or {}),
        },
        "generatedClassName": "MARKER_class",
    }
    usual = {
        "fileName": "convnet_256",
        "functionNames": [],
        "modelType": "ML Program",
        "modelUrl": "file:///Users/MARKER-url/Developer/convnet_256.mlpackage",
        "size": 1_234_567,
        "rawMetadata": json.dumps([compiled], indent=2),
    }
    return usual | changes


def image(height: int = 256, width: int = 256, name: str = "image") -> dict[str, Any]:
    """An image input, whose numbers stand in texts."""
    return {
        "name": name,
        "type": "Image",
        "formattedType": f"Image (Color {width} × {height})",
        "height": str(height),
        "width": str(width),
        "colorspace": "RGB",
        "isColor": "1",
        "isOptional": "0",
        "hasSizeFlexibility": "0",
        "shortDescription": "",
    }


def tensor(shape: str, name: str = "image") -> dict[str, Any]:
    """A multi-array; `shape` such as ``[1, 3, 256, 256]``."""
    return {
        "name": name,
        "type": "MultiArray",
        "dataType": "Float16",
        "formattedType": f"MultiArray (Float16 {shape.strip('[]').replace(', ', ' × ')})",
        "shape": shape,
        "isOptional": "0",
        "hasShapeFlexibility": "0",
        "shortDescription": "",
    }


def results(
    milliseconds: float = 1.2,
    rounds: int = 3,
    count: int = 40,
    loads: int = 3,
    structure: dict[str, Any] | None = None,
    **changes: Any,
) -> dict[str, Any]:
    """`rounds` of `count` predictions around so many `milliseconds`; the first of each round is cold."""
    warm = [milliseconds / 1e3 * (1 + 0.01 * ((i * 7) % (count - 1) / count - 0.5)) for i in range(count - 1)]
    predict = [seconds for number in range(rounds) for seconds in (0.009 if number == 0 else 0.0005, *warm)]
    load = [(0.3, 0.19, 0.18)[number % 3] if at == 0 else 0.02 for number in range(rounds) for at in range(loads)]
    usual: dict[str, Any] = {
        "perfRunConfig": {"loadCount": loads, "experimentIterations": rounds, "predictionCount": count},
        "predict": {"startTime": 803778910.980443, "numOperations": count, "samples": predict},
        "load": {"startTime": 803778910.952677, "numOperations": loads, "samples": load},
        "compile": {"startTime": 803778910.676113, "numOperations": 3, "samples": [0.0734, 0.0739, 0.0722]},
        "availableComputeDevices": [unit("neuralEngine"), unit("gpu"), unit("cpu")],
        "modelStructure": program(operations()) if structure is None else structure,
    }
    return usual | changes


def program(main: list[dict[str, Any]], **others: list[dict[str, Any]]) -> dict[str, Any]:
    """The structure of a model: its function ``main``, and others by name."""
    functions = {
        name: {"inputs": [{"name": "image", "type": {}}], "block": block(operations)}
        for name, operations in {"main": main, **others}.items()
        if operations
    }
    return {"program": {"_0": {"functions": functions}}}


def block(operations: list[dict[str, Any]]) -> dict[str, Any]:
    return {"inputs": [], "outputNames": ["logits"], "operations": operations}


def operations(on: tuple[str, ...] = ("neuralEngine", "neuralEngine", "gpu", "neuralEngine")) -> list[dict[str, Any]]:
    """A conv, a gelu, an add and a split where `on` says, constants between them, and a branch with a cast inside.

    The add names no cost; of the split the report has only every device's state; of the branch only what is inside.
    """
    conv, gelu, add, split = on
    states = [unit("gpu"), {"supported": {}}, unit("neuralEngine"), {"unsupported": {"_0": "why"}}]
    return [
        operation("const", ["conv_pad_0"]),
        operation("ios16.conv", ["conv_cast_fp16"], conv, 0.7, inputs={"x": named("image"), "weight": value()}),
        operation("ios16.constexpr_lut_to_dense", ["weight_palettized"], inputs={"lut": value()}),
        operation("ios16.gelu", ["gelu_cast_fp16"], gelu, 0.2, inputs={"x": named("conv_cast_fp16")}),
        operation("ios16.add", ["add_cast_fp16"], add),
        {
            **operation("split", ["split_0", "split_1"], cost=0.05),
            "deviceUsage": {"preferred": unit(split), "allSupportStates": [*states, unit("cpu"), {"supported": {}}]},
        },
        {**operation("cond", ["logits"]), "blocks": [block([operation("ios16.cast", ["cast_fp32"], "cpu", 0.05)])]},
    ]


def operation(
    name: str,
    outputs: list[str],
    preferred: str | None = None,
    cost: float | None = None,
    inputs: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """One operation; without a preferred device it has no plan, as constants have none."""
    found: dict[str, Any] = {
        "operatorName": name,
        "inputs": inputs or {},
        "blocks": [],
        "outputs": [{"name": output, "type": {}} for output in outputs],
    }
    if preferred is not None:
        every = ("neuralEngine", "gpu", "cpu")
        found["deviceUsage"] = {
            "preferred": unit(preferred),
            "supported": [unit(each) for each in reversed(every)],
            "allSupportStates": [form for each in every for form in (unit(each), {"supported": {}})],
        }
    if cost is not None:
        found["cost"] = {"weight": cost}
    return found


def named(name: str) -> dict[str, Any]:
    """An operation's input that another one computes."""
    return {"bindings": [{"name": {"_0": name}}]}


def value() -> dict[str, Any]:
    """An operation's input that stands in the program."""
    return {"bindings": [{"value": {"_0": {}}}]}


def unit(name: str) -> dict[str, Any]:
    """A compute device."""
    return {"deviceType": {name: {}}}


def of(job: ExportJob, **changes: Any) -> dict[str, Any]:
    """A report of the file that `job` asks for, which says of itself what `export` writes into it."""
    shape = job.shape
    taken = image(shape.height, shape.width)
    if job.options.get("input") == "tensor":
        taken = tensor(f"[{', '.join(map(str, shape.nchw))}]")
    metadata = export_metadata.metadata_entries(job, Cost(params=3_996_040, macs=691_200_000))
    return report(**{"modelMetadata": model((taken,), metadata, fileName=Path(job.path).stem)} | changes)


def write(path: Path, found: object) -> Path:
    """The report as a file, laid out as Xcode does it; a path without ending is the folder it exports."""
    file = path if path.suffix == ".json" else path / "report.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=2, ensure_ascii=False).replace("/", "\\/"), encoding="utf-8")
    return path
