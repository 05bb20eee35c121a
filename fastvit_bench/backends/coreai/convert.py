"""Conversion of a network to a Core AI program through Apple's coreai-torch, with weights under fixed names."""

import contextlib
import importlib
import itertools
import re
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastvit_bench.backends import INPUT, output_names
from fastvit_bench.backends._silence import silenced
from fastvit_bench.backends._text import first_line
from fastvit_bench.errors import FastViTBenchError, ParityError, UnavailableError
from fastvit_bench.network import registry
from fastvit_bench.records import ExportJob

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor, nn


def write(network: "nn.Module", asked: ExportJob, path: Path) -> None:
    """Convert a network in float32, which is changed, and write its asset; equal networks give equal bytes.

    Raises `ParityError` for weights that FP16 cannot hold, `UnavailableError` where coreai-torch fails.
    """
    import torch

    from fastvit_bench.backends.coreai import projection
    from fastvit_bench.network.pixels import PixelInput

    projection.replace_linear_layers(network)
    half = asked.precision != "fp32"
    if half:
        _require_fitting(network)
        network = network.half()
    kind = torch.float16 if half else torch.float32
    example = torch.zeros(asked.shape.nchw, dtype=kind)
    if asked.options["input"] == "image":
        # folded, the first convolution divides by std; it cannot subtract the mean, since zero padding is between
        network = PixelInput(network, registry.preparation_of(asked).mean, kind).eval()
        example = torch.zeros(asked.shape.nhwc, dtype=torch.uint8)
    with translated(f"{asked.model} {asked.shape.size}"):
        program = _program(network, example, asked.head)
        _fix_names(program)
        program.save_asset(path)


def _program(network: "nn.Module", example: "Tensor", head: str) -> Any:
    """Return the program that coreai-torch makes of a network, without notes on where its operations come from."""
    import torch

    coreai_torch: Any = importlib.import_module("coreai_torch")  # without types where the extra is not installed
    debug_info: Any = importlib.import_module("coreai_torch.debugging.debug_info")

    with torch.no_grad():
        exported = torch.export.export(network, (example,)).run_decompositions(coreai_torch.get_decomp_table())
    names = output_names(len(exported.graph_signature.user_outputs), head)
    converter = coreai_torch.TorchConverter(mode=coreai_torch.TorchConverter.Mode.RELEASE)
    converter.add_exported_program(exported, input_names=[INPUT], output_names=names)
    program = converter.to_coreai()
    debug_info.strip_debug_info(program)  # it holds the paths of source files, and would make two equal exports differ
    return program


def _require_fitting(network: "nn.Module") -> None:
    """Raise `ParityError` unless every weight is finite in FP16."""
    import torch

    for name, parameter in network.named_parameters():
        if not torch.isfinite(parameter.half()).all():
            raise ParityError(
                f"The weights {name} do not fit into FP16, whose largest number is 65504; use --precision fp32."
            )
    for name, step in network.named_buffers():
        if name.endswith("scale") and not ((step.half() > 0) & torch.isfinite(step.half())).all():
            raise ParityError(f"The steps {name} of 8-bit numbers do not fit into FP16; use --precision fp16.")


@contextlib.contextmanager
def translated(name: str) -> Generator[None]:
    """Silence the toolkit, and turn whatever it raises into one sentence."""
    try:
        with silenced():
            yield
    except (FastViTBenchError, MemoryError, OSError):
        raise
    except Exception as error:  # torch.export, the converter and MLIR raise many kinds
        raise UnavailableError(f"coreai-torch cannot convert {name}: {first_line(error)}.") from error


# --- weights ----------------------------------------------------------------------------------------------------------

_BLOB = re.compile(r'(resource_\w+|weight_\w+): "0x([0-9A-F]+)"')  # of a printed program's end
_ALIGNMENT = 8  # hexadecimal digits in front of the bytes of a blob


def constants(program: Any) -> "Iterator[tuple[Any, NDArray[Any]]]":
    """Yield the attribute and the value of every constant of a program.

    coreai-core has no reader of large constants, so they are read from the program's text. Raises `UnavailableError`
    for a constant that cannot be read: none may be skipped.
    """
    import numpy as np

    module = program._module._mlir_module
    _, _, end = module.operation.get_asm(large_elements_limit=None).rpartition("dialect_resources:")
    blobs: dict[str, str] = dict(_BLOB.findall(end))
    for operation in operations(module.operation):
        if operation.name != "coreai.constant":
            continue
        value = operation.attributes["value"]
        named = re.match(r"dense_resource<(\w+)> : tensor<(.*)>", str(value)[:200])
        if named is None:
            yield operation, np.array(value)
            continue
        *sizes, kind = named[2].split("x")
        if kind not in _KINDS or named[1] not in blobs:
            raise UnavailableError(f"The Core AI program has a constant of type {named[2]} that cannot be read.")
        data = bytes.fromhex(blobs[named[1]][_ALIGNMENT:])
        yield operation, np.frombuffer(data, _KINDS[kind]).reshape([int(size) for size in sizes])


_KINDS = {"f16": "<f2", "f32": "<f4", "si8": "<i1", "ui8": "<u1", "si32": "<i4", "ui32": "<u4"}


def check_rounded(path: Path, twin: Path) -> None:
    """Raise `ParityError` unless an FP16 asset has the program of its twin in FP32, each number rounded at most once.

    Integers are equal bit for bit. Operations stand in the same order, each with the same constants. The order of
    constants themselves is free: two steps that differ in FP32 may be one in FP16.
    """
    import numpy as np

    authoring: Any = importlib.import_module("coreai.authoring")
    steps, exact_steps = (_steps(authoring.AIModelAsset.load(asset).program) for asset in (path, twin))
    if [kind for kind, _ in steps] != [kind for kind, _ in exact_steps]:
        raise ParityError("coreai-torch wrote other operations in FP16 than in FP32; this file cannot be proved.")
    for (kind, values), (_, wanted) in zip(steps, exact_steps, strict=True):
        for value, exact in zip(values, wanted, strict=True):
            stored = exact.astype(np.float16) if value.dtype == np.float16 else exact
            if value.dtype != stored.dtype or value.tobytes() != stored.tobytes():
                raise ParityError(
                    f"coreai-torch changed a weight or a step of {kind}; this version of it cannot be trusted with it."
                )


def _steps(program: Any) -> "list[tuple[str, list[NDArray[Any]]]]":
    """Return the kinds of a program's operations in order, each with the constants it takes."""
    values = {operation.results[0]: value for operation, value in constants(program)}
    return [
        (str(step.name), [values[operand] for operand in step.operands if operand in values])
        for step in operations(program._module._mlir_module.operation)
        if step.name != "coreai.constant"
    ]


def operations(operation: Any) -> Iterator[Any]:
    """Yield every operation inside one, depth first."""
    for region in operation.regions:
        for block in region.blocks:
            for inner in block.operations:
                yield inner
                yield from operations(inner)


def _fix_names(program: Any) -> None:
    """Name large constants after their content; the compiler draws names that differ from process to process."""
    import hashlib

    large: Any = importlib.import_module("coreai._compiler.ir").DenseResourceElementsAttr
    with program._module._mlir_module.context:
        for operation, value in list(constants(program)):
            attribute = operation.attributes["value"]
            if large.isinstance(attribute):
                name = f"weight_{hashlib.sha256(value.tobytes()).hexdigest()[:32]}"
                kind = operation.results[0].type
                operation.attributes["value"] = large.get_from_buffer(value, name, kind)


_ROUNDED = ("quantized_data", "scale")  # ends of the names of a rounded network's integers and steps


def check_weights(path: Path, network: "nn.Module", *, half: bool) -> None:
    """Raise `ParityError` unless every weight is in the asset bit for bit, rounded to FP16 once where it is FP16.

    The outputs of an FP16 asset agree with the network's to 1e-2 only, which could hide a small wrong weight. Shapes
    are left out of the comparison, because biases are stored as (1, C, 1, 1).
    """
    import numpy as np

    authoring: Any = importlib.import_module("coreai.authoring")
    stored = {(value.dtype.str, value.tobytes()) for _, value in constants(authoring.AIModelAsset.load(path).program)}
    rounded = ((name, value) for name, value in network.named_buffers() if name.endswith(_ROUNDED))
    for name, parameter in itertools.chain(network.named_parameters(), rounded):
        wanted: NDArray[Any] = parameter.detach().numpy()
        if not wanted.size:  # of weights that are restored from integers
            continue
        if wanted.dtype.kind == "f":
            wanted = wanted.astype(np.float32).astype(np.float16 if half else np.float32)
        if (wanted.dtype.str, wanted.tobytes()) not in stored:
            raise ParityError(
                f"coreai-torch changed the weights {name}; this version of it cannot be trusted with them."
            )
