"""Core ML packages of others, whose programs are evaluated anywhere."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvit_bench.auditing.foreign import ForeignFile, Port, one_input
from fastvit_bench.auditing.graph import FileGraph, GraphNode
from fastvit_bench.errors import ParityError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fastvit_bench.backends.coreml.program import Constant, Feature, Operation

# the order of the inputs that matter to a graph; all others follow
_FIRST = ("x", "y", "weight", "bias")
_COMPRESSED = {  # operation that restores weights -> their compression, as `verification.limit` has it
    "constexpr_lut_to_dense": "palette4",
    "constexpr_affine_dequantize": "int8",
    "constexpr_blockwise_shift_scale": "int8",
}
_DTYPES = {"fp16": "float16", "fp32": "float32", "fp64": "float64"}


def opened(path: Path) -> ForeignFile:
    """Open a package; of several functions, the default one is evaluated. Raises as `foreign.opened` does."""
    from fastvit_bench.backends.coreml import program
    from fastvit_bench.backends.coreml.evaluate import Evaluator

    package = program.read(path)
    function = package.functions[package.default]
    port = one_input(path, [_port(feature) for feature in function.takes])
    evaluator = Evaluator(package)
    scores = evaluator.scores
    if evaluator.classes and scores is None:
        raise ParityError(f"{path} names its classes without a softmax in front, so its scores cannot be compared.")

    def run(batch: "NDArray[Any]") -> "dict[str, NDArray[Any]]":
        if scores is None:
            return evaluator.run({port.name: batch})
        values = evaluator.run({port.name: batch}, also=[scores])  # the label and probabilities follow from them
        return {scores: values[scores]}

    constants = {
        operation.outputs[0].name: operation.attributes["val"]
        for operation in function.operations
        if operation.kind == "const"
    }
    shapes = {name: tuple(size or 0 for size in constant.type.shape) for name, constant in constants.items()}
    nodes = tuple(_node(operation, shapes, constants) for operation in function.operations if operation.kind != "const")
    kinds = {operation.kind for operation in function.operations}
    weights = [
        constant.value for constant in constants.values() if constant.value.ndim and constant.type.dtype in _DTYPES
    ]
    gives = tuple(_port(feature) for feature in function.gives)
    types = {variable.type.dtype for operation in function.operations for variable in operation.outputs}
    return ForeignFile(
        path=path,
        target="coreml",
        precision="fp16" if "fp16" in types else "fp32",
        compress=next((how for kind, how in _COMPRESSED.items() if kind in kinds), "none"),
        port=port,
        outputs=gives if scores is None else (Port(scores, (), "float32"),),
        graph=FileGraph(nodes, shapes, frozenset(function.outputs)),
        weights=weights,
        labels=tuple(map(str, evaluator.classes)),
        run=run,
        how="MIL program read back and evaluated with PyTorch",
    )


def _port(feature: "Feature") -> Port:
    if feature.kind == "image":
        return Port(feature.name, (1, *feature.shape, 3), "image")
    return Port(feature.name, feature.shape, _DTYPES.get(feature.dtype, feature.dtype))


def _node(operation: "Operation", shapes: dict[str, tuple[int, ...]], constants: "dict[str, Constant]") -> GraphNode:
    """Return an operation; constants within it get names, and are noted among the shapes."""
    inputs: list[str] = []
    for parameter in sorted(operation.inputs, key=lambda name: _FIRST.index(name) if name in _FIRST else len(_FIRST)):
        for index, binding in enumerate(operation.inputs[parameter]):
            name = binding if isinstance(binding, str) else f"{operation.name}/{parameter}/{index}"
            if not isinstance(binding, str):
                shapes[name] = tuple(size or 0 for size in binding.type.shape)
            inputs.append(name)
    return GraphNode(
        kind=operation.kind,
        name=operation.name,
        inputs=tuple(inputs),
        outputs=tuple(output.name for output in operation.outputs),
        depthwise=operation.kind == "conv" and _is_depthwise(operation, constants),
        word=operation.kind,
    )


def _is_depthwise(operation: "Operation", constants: "dict[str, Constant]") -> bool:
    (weight,) = operation.inputs["weight"]
    groups = next(iter(operation.inputs.get("groups", ())), None)
    values = [constants.get(value) if isinstance(value, str) else value for value in (weight, groups)]
    if any(value is None for value in values):
        return False
    kernel, count = (value.value for value in values if value is not None)
    return int(_scalar(count)) > 1 and kernel.shape[1:2] == (1,)


def _scalar(value: "NDArray[np.generic]") -> Any:
    return value.item()
