"""Evaluation of a Core ML package's program with PyTorch, operation by operation and without guesses.

Core ML runs on Apple hardware only; this module computes on any machine what the stored package computes. Operations
are those of MIL, as documented in coremltools (converters/mil/mil/ops/defs). An unknown operation or an unused
parameter ends in a `ParityError`, and so does a result that is not of the declared shape and type.

Numbers of 16 bits are stored in float32, where PyTorch computes quickly: an operation computes in float32 from operands
that float16 can hold, and its result is rounded to float16 once. This proves the program, not the arithmetic of one of
Apple's processors. Those may round between the steps of an operation, or add up in float16.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fastvit_bench.backends.coreml.program import (
    Constant,
    Feature,
    Function,
    Operation,
    Package,
    ValueType,
    sentence,
    unpack,
)
from fastvit_bench.errors import ParityError, UsageError


@dataclass(frozen=True)
class Value:
    """A value while the program runs: words in an array, everything else in a tensor."""

    dtype: str  # as in `ValueType`
    data: Tensor | NDArray[Any]  # of a dictionary its values, in the order of the keys

    @property
    def type(self) -> ValueType:
        """The type that the program should declare for the value."""
        return ValueType(self.dtype, () if self.dtype.startswith("dictionary") else tuple(self.data.shape))


# How a tensor stores each element type; without arithmetic in PyTorch, in the next type that holds all its values.
TENSORS = {
    "fp16": torch.float32,
    "fp32": torch.float32,
    "bool": torch.bool,
    "int4": torch.int8,
    "int8": torch.int8,
    "int16": torch.int16,
    "int32": torch.int32,
    "int64": torch.int64,
    **{f"uint{bits}": torch.uint8 for bits in (1, 2, 3, 4, 6, 8)},
    "uint16": torch.int32,
    "uint32": torch.int64,
}
FLOATS = ("fp16", "fp32")

# Operation sets of iOS 15 to iOS 18, in which the operations mean what the functions below compute.
OPSETS = ("CoreML5", "CoreML6", "CoreML7", "CoreML8")


class ResultRounding(StrEnum):
    """The types that results of operations are rounded to."""

    DECLARED = "declared"  # those that the program declares
    FLOAT32 = "float32"  # float32 in place of float16; constants keep their values


class Evaluator:
    """One function of a package, ready to run.

    Weights are read, and restored where they are compressed, only once.

    `scores` is the name of the values whose softmax a classifier takes for its probabilities. It is None where the
    function does not end in a softmax and `classify`. `classes` are the classifier's, in the order of the scores.
    """

    scores: str | None
    classes: tuple[str | int, ...]

    def __init__(
        self, package: Package, function: str | None = None, arithmetic: ResultRounding = ResultRounding.DECLARED
    ) -> None:
        """Load `function`, or the default one.

        Raises `UsageError` for a function that the package does not have, `ParityError` for what cannot be evaluated.
        """
        name = function or package.default
        if name not in package.functions:
            known = ", ".join(package.functions)
            raise UsageError(f"{package.path.name} has no function '{name}'. It has: {known}.")
        chosen = package.functions[name]
        self._store = _rounded if arithmetic is ResultRounding.DECLARED else _widened
        self._takes = _checked_inputs(chosen)
        self._input_types = {variable.name: variable.type for variable in chosen.inputs}
        self._outputs = _checked_outputs(chosen)
        self._constants: dict[str, Value] = {}
        self._steps: list[Operation] = []
        self._known = set(self._input_types)
        with torch.inference_mode():
            for operation in chosen.operations:
                self._add(operation)
        self._finished = _last_uses(self._steps)
        self.classes, self.scores = (), None
        for step in self._steps:
            if step.kind == "classify":
                names = [self._look_up(step, binding, {}) for binding in step.inputs.get("classes", ())]
                self.classes = tuple(Arguments(step, {"classes": names}).array("classes").flatten().tolist())
                self.scores = _scores(self._steps, step)

    def check(self, inputs: Mapping[str, NDArray[Any]]) -> None:
        """Raise `UsageError` unless these are the inputs that `run` takes."""
        if set(inputs) != set(self._takes):
            raise UsageError(f"The package takes {', '.join(self._takes)}, not {', '.join(inputs) or 'nothing'}.")
        for name, array in inputs.items():
            feature = self._takes[name]
            if feature.kind == "image":
                shape, dtypes, taken = (1, *feature.shape, 3), ("uint8",), "8-bit RGB pixels"
            elif feature.dtype in FLOATS:
                shape, dtypes, taken = feature.shape, ("float32", "float16", "float64"), "floating-point numbers"
            else:
                shape, dtypes, taken = feature.shape, ("int32",), "integers"
            if tuple(array.shape) != shape or array.dtype not in dtypes:
                raise UsageError(
                    f"The package takes {name} {list(shape)} as {taken} ({dtypes[0]}), "
                    f"not {list(array.shape)} as {array.dtype}."
                )

    @torch.inference_mode()
    def run(self, inputs: Mapping[str, NDArray[Any]], also: Iterable[str] = ()) -> dict[str, NDArray[Any]]:
        """Evaluate the function; return its outputs in the described order, then the values named in `also`.

        A ``tensor`` input is an array of floating-point numbers of the declared shape, rounded to the declared type; an
        ``image`` is 8-bit RGB pixels (1, H, W, 3), which the declared layout of colours brings to (1, 3, H, W). Outputs
        have the declared type. A classifier's outputs are the label (an array of shape ()) and the probabilities in the
        order of `classes`.

        Raises `UsageError` for other inputs and unknown names, `ParityError` for an operation that cannot be evaluated
        or does not give what the program declares.
        """
        self.check(inputs)
        wanted = [*self._outputs, *also]
        unknown = [name for name in wanted if name not in self._known]
        if unknown:
            raise UsageError(f"The program computes nothing called '{unknown[0]}'.")
        values = {name: self._input(name, array) for name, array in inputs.items()}
        for step, finished in zip(self._steps, self._finished, strict=True):
            values.update(_evaluate(step, self._arguments(step, values), self._store))
            for name in finished:
                if name not in wanted:
                    values.pop(name, None)  # constants are not among them
        exact = self._store is _widened
        return {name: _array(values.get(name) or self._constants[name], exact=exact) for name in wanted}

    def constants(self) -> list[NDArray[Any]]:
        """Return the values of all constants that are numbers, in the evaluator's arithmetic."""
        exact = self._store is _widened
        return [_array(value, exact=exact) for value in self._constants.values() if isinstance(value.data, Tensor)]

    def _add(self, operation: Operation) -> None:
        """Add an operation to the steps, or compute it at once if it is constant."""
        unknown = next((name for name in _bound(operation) if name not in self._known), None)
        if unknown is not None:
            raise _cannot(operation, f"nothing before it computes '{unknown}'")
        for output in operation.outputs:
            if output.name in self._known:
                raise _cannot(operation, f"there is a value '{output.name}' already")
            self._known.add(output.name)
        extra = set(operation.attributes) - {"name"}
        if operation.kind == "const":
            if extra != {"val"} or operation.inputs or len(operation.outputs) != 1:
                raise _cannot(operation, "it should have a value and nothing else")
            constant = operation.attributes["val"]
            if constant.type != operation.outputs[0].type:
                raise _cannot(operation, f"it holds {constant.type} and declares {operation.outputs[0].type}")
            self._constants[operation.outputs[0].name] = _value(operation, constant)
        elif operation.kind not in OPERATIONS:
            raise _cannot(operation, "this version does not know what it computes")
        elif operation.kind.startswith("constexpr_"):
            self._constants |= _evaluate(operation, self._arguments(operation, {}), self._store)
        elif extra:
            raise _cannot(operation, f"this version does not know its attribute {min(extra)}")
        else:
            self._steps.append(operation)

    def _arguments(self, operation: Operation, values: Mapping[str, Value]) -> "Arguments":
        """Look up everything an operation is bound to."""
        arguments = {
            parameter: [self._look_up(operation, binding, values) for binding in bindings]
            for parameter, bindings in operation.inputs.items()
        }
        if operation.kind.startswith("constexpr_"):  # up to iOS 17 their parameters are attributes
            for parameter, constant in operation.attributes.items():
                if parameter != "name":
                    arguments[parameter] = [_value(operation, constant)]
        return Arguments(operation, arguments)

    def _look_up(self, operation: Operation, binding: str | Constant, values: Mapping[str, Value]) -> Value:
        if isinstance(binding, Constant):
            return _value(operation, binding)
        value = values.get(binding) or self._constants.get(binding)
        if value is None:
            raise _cannot(operation, f"'{binding}' is not constant")
        return value

    def _input(self, name: str, array: NDArray[Any]) -> Value:
        """Return an input as the value that the program takes."""
        feature, dtype = self._takes[name], self._input_types[name].dtype
        tensor = torch.from_numpy(np.array(array, order="C"))
        if feature.kind == "image":
            tensor = tensor.permute(0, 3, 1, 2)
            if feature.colours == "BGR":
                tensor = tensor.flip(1)
        return Value(dtype, self._store(tensor, dtype))


# --- before a program runs --------------------------------------------------------------------------------------------


def _checked_inputs(function: Function) -> dict[str, Feature]:
    """Return the function's inputs by name; raise `ParityError` unless the program agrees with their description."""
    if function.opset not in OPSETS:
        raise _wrong(f"This version does not know what operations mean in the operation set '{function.opset}'.")
    declared = {variable.name: variable.type for variable in function.inputs}
    described = {feature.name: feature for feature in function.takes}
    if set(declared) != set(described):
        raise _wrong(f"The package describes inputs {sorted(described)}, and its program has {sorted(declared)}.")
    for name, feature in described.items():
        if feature.flexible:
            raise _wrong(f"Input {name} may have several shapes, which this version cannot evaluate.")
        if feature.kind == "image" and feature.colours in ("RGB", "BGR") and declared[name].dtype in FLOATS:
            expected = ValueType(declared[name].dtype, (1, 3, *feature.shape))
        elif feature.kind == "tensor" and feature.dtype in (*FLOATS, "int32"):
            expected = ValueType(feature.dtype, feature.shape)
        else:
            what = f"{feature.kind} {feature.colours or feature.dtype}".strip()
            raise _wrong(f"Input {name} is described as {what}, which this version cannot evaluate.")
        if declared[name] != expected:
            raise _wrong(f"Input {name} is described as {expected}, and its program declares {declared[name]}.")
    return described


def _checked_outputs(function: Function) -> list[str]:
    """Return the outputs' names in the described order; raise `ParityError` unless the program agrees."""
    declared = {v.name: v.type for v in (*function.inputs, *(o for op in function.operations for o in op.outputs))}
    described = [feature.name for feature in function.gives]
    if sorted(described) != sorted(function.outputs):
        raise _wrong(f"The package describes outputs {described}, and its program has {list(function.outputs)}.")
    if not set(described) <= set(declared):
        raise _wrong(f"Nothing computes the output {min(set(described) - set(declared))}.")
    for feature in function.gives:
        computed = declared[feature.name]
        agrees = computed.dtype.partition(" ")[0] == feature.kind
        if feature.kind == "tensor":
            agrees = computed == ValueType(feature.dtype, feature.shape or computed.shape)
        if not agrees:
            what = ValueType(feature.dtype or feature.kind, feature.shape)
            raise _wrong(f"Output {feature.name} is described as {what}, and its program declares {computed}.")
    return described


def _last_uses(steps: Sequence[Operation]) -> list[list[str]]:
    """Return for each step the names that no later step reads, its own unused results among them."""
    last: dict[str, int] = {}
    for index, step in enumerate(steps):
        for name in (*_bound(step), *(output.name for output in step.outputs)):
            last[name] = index
    finished: list[list[str]] = [[] for _ in steps]
    for name, index in last.items():
        finished[index].append(name)
    return finished


def _bound(step: Operation) -> list[str]:
    return [binding for bindings in step.inputs.values() for binding in bindings if isinstance(binding, str)]


def _scores(steps: Sequence[Operation], classify: Operation) -> str | None:
    """Return the name of the input of the softmax before `classify`, or None where there is none.

    Only casts and changes of shape may be in between.
    """
    makers = {output.name: step for step in steps for output in step.outputs}
    step = makers.get(_only(classify, "probabilities"))
    while step is not None and step.kind in ("cast", "identity", "reshape", "squeeze"):
        step = makers.get(_only(step, "x"))
    return _only(step, "x") or None if step is not None and step.kind == "softmax" else None


def _only(step: Operation, parameter: str) -> str:
    bindings = step.inputs.get(parameter, ())
    return bindings[0] if len(bindings) == 1 and isinstance(bindings[0], str) else ""


def _value(operation: Operation, constant: Constant) -> Value:
    """Return a constant of the package as the program's operations take it."""
    dtype, array = constant.type.dtype, constant.value
    if array.dtype == np.dtype(object) or dtype.startswith("list"):
        return Value(dtype, array)
    if dtype not in TENSORS:
        raise _cannot(operation, f"this version does not compute with {dtype}")
    return Value(dtype, torch.from_numpy(np.array(array, _ARRAYS[TENSORS[dtype]])))


_ARRAYS = {
    torch.float32: np.float32,
    torch.bool: np.bool_,
    torch.uint8: np.uint8,
    torch.int8: np.int8,
    torch.int16: np.int16,
    torch.int32: np.int32,
    torch.int64: np.int64,
}


# --- one operation ----------------------------------------------------------------------------------------------------


class Arguments:
    """The arguments of an operation, which record every reading so that none goes unread.

    Its methods raise `ParityError` for a parameter that is missing or of another kind.
    """

    def __init__(self, operation: Operation, values: Mapping[str, Sequence[Value]]) -> None:
        self.operation = operation
        self._values = values
        self._unread = set(values)

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def values(self, name: str) -> Sequence[Value]:
        """Return all values a parameter is bound to."""
        self._unread.discard(name)
        if name not in self._values:
            raise self.refuse(f"it lacks its parameter {name}")
        return self._values[name]

    def value(self, name: str) -> Value:
        """Return the one value a parameter is bound to."""
        values = self.values(name)
        if len(values) != 1:
            raise self.refuse(f"its parameter {name} has {len(values)} values instead of one")
        return values[0]

    def tensor(self, name: str) -> Tensor:
        """Return a tensor; one of 16-bit numbers is in float32."""
        data = self.value(name).data
        if not isinstance(data, Tensor):
            raise self.refuse(f"its parameter {name} is not a tensor")
        return data

    def array(self, name: str) -> NDArray[Any]:
        """Return an array of words, or a list of numbers as an array."""
        data = self.value(name).data
        if isinstance(data, Tensor):
            raise self.refuse(f"its parameter {name} is a tensor")
        return data

    def numbers(self, name: str, default: Sequence[int] | None = None) -> list[int]:
        """Return the integers of a tensor of one dimension, or `default` where the parameter is missing."""
        if default is not None and name not in self:
            return list(default)
        tensor = self.tensor(name)
        if tensor.is_floating_point() or tensor.ndim != 1:
            raise self.refuse(f"its parameter {name} is not a row of integers")
        return [int(number) for number in tensor.tolist()]

    def number(self, name: str, default: int | None = None) -> int:
        """Return an integer, or `default` where the parameter is missing."""
        if default is not None and name not in self:
            return default
        tensor = self.tensor(name)
        if tensor.is_floating_point() or tensor.ndim != 0:
            raise self.refuse(f"its parameter {name} is not an integer")
        return int(tensor.item())

    def real(self, name: str, default: float) -> float:
        """Return a floating-point number, or `default` where the parameter is missing."""
        return float(self.tensor(name).item()) if name in self else default

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a truth value, or `default` where the parameter is missing."""
        return bool(self.number(name, default))

    def word(self, name: str, default: str | None = None) -> str:
        """Return a string, or `default` where the parameter is missing."""
        if default is not None and name not in self:
            return default
        return str(self.array(name).item())

    def alike(self, *names: str) -> str:
        """Return the element type that these parameters share; all but the first may be missing."""
        if not self._values.get(names[0]):
            raise self.refuse(f"it lacks its parameter {names[0]}")
        dtypes = [(name, value.dtype) for name in names if name in self for value in self._values[name]]
        if len({dtype for _, dtype in dtypes}) > 1:
            raise self.refuse(f"its parameters differ in type ({', '.join(f'{n}: {dtype}' for n, dtype in dtypes)})")
        return dtypes[0][1]

    def floating(self, *names: str) -> str:
        """Return the floating-point type that these parameters share; all but the first may be missing."""
        dtype = self.alike(*names)
        if dtype not in FLOATS:
            raise self.refuse(f"this version does not compute it in {dtype}")
        return dtype

    def finish(self) -> None:
        """Raise `ParityError` if a parameter was never read."""
        if self._unread:
            raise self.refuse(f"this version does not know its parameter {min(self._unread)}")

    def refuse(self, why: str) -> ParityError:
        """Return the error to raise for this operation, with the reason `why`."""
        return _cannot(self.operation, why)


def _cannot(operation: Operation, why: str) -> ParityError:
    return _wrong(f"Operation {operation.kind} '{operation.name}' cannot be evaluated: {why}.")


def _wrong(what: str) -> ParityError:
    return ParityError(sentence(what))


def _evaluate(operation: Operation, arguments: Arguments, store: Callable[[Tensor, str], Tensor]) -> dict[str, Value]:
    """Compute an operation; return its results by name, as `store` rounds them, and checked against the program."""
    try:
        results = OPERATIONS[operation.kind](arguments)
    except (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError) as error:
        if "allocate memory" in str(error):  # PyTorch has no exception class for it
            raise MemoryError(str(error)) from error
        raise arguments.refuse((str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")) from error
    arguments.finish()
    results = [results] if isinstance(results, Value) else results
    if len(results) != len(operation.outputs):
        raise arguments.refuse(f"it declares {len(operation.outputs)} results and gives {len(results)}")
    rounded: dict[str, Value] = {}
    for result, output in zip(results, operation.outputs, strict=True):
        if not _fits(result.type, output.type):
            raise _wrong(
                f"Operation {operation.kind} '{operation.name}' gives {result.type} for {output.name}, "
                f"and the program declares {output.type}."
            )
        data = result.data
        rounded[output.name] = Value(
            result.dtype, store(data, result.dtype) if isinstance(data, Tensor) and result.dtype in TENSORS else data
        )
    return rounded


def _fits(computed: ValueType, declared: ValueType) -> bool:
    """Return whether a result is what the program declares; a size that it leaves open fits any."""
    return (
        computed.dtype == declared.dtype
        and len(computed.shape) == len(declared.shape)
        and all(expected in (size, None) for size, expected in zip(computed.shape, declared.shape, strict=True))
    )


def _rounded(tensor: Tensor, dtype: str) -> Tensor:
    """Return a tensor as its element type is stored; 16-bit numbers overflow to infinity as they should."""
    return tensor.half().float() if dtype == "fp16" else tensor.to(TENSORS[dtype])


def _widened(tensor: Tensor, dtype: str) -> Tensor:
    """Return a tensor as its element type is stored, with float32 in place of float16."""
    return tensor.to(TENSORS[dtype])


def _array(value: Value, *, exact: bool) -> NDArray[Any]:
    """Return a copy of a value as an array; 16-bit numbers are in float16, unless they were kept `exact`."""
    data = value.data
    if isinstance(data, Tensor):
        data = (data.half() if value.dtype == "fp16" and not exact else data).numpy()
    return np.array(data)  # a copy, because it may be a constant


# --- operations -------------------------------------------------------------------------------------------------------
# Each function is one operation of MIL; the comment says where coremltools defines it (below mil/ops/defs).

Results = Value | list[Value]


def _identity(a: Arguments) -> Results:
    # iOS15/tensor_operation.py
    return a.value("x")


def _cast(a: Arguments) -> Results:
    # iOS15/elementwise_unary.py; to integers by truncation
    dtype = a.word("dtype")
    if dtype not in (*FLOATS, "int32", "bool"):
        raise a.refuse(f"this version does not cast to {dtype}")
    return Value(dtype, a.tensor("x"))


def _elementwise(compute: Callable[[Tensor], Tensor]) -> Callable[[Arguments], Results]:
    # iOS15/activation.py, elementwise_unary.py
    return lambda a: Value(a.floating("x"), compute(a.tensor("x")))


def _binary(compute: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Arguments], Results]:
    # iOS15/elementwise_binary.py; with broadcasting
    return lambda a: Value(a.floating("x", "y"), compute(a.tensor("x"), a.tensor("y")))


def _gelu(a: Arguments) -> Results:
    # iOS15/activation.py
    dtype, x, mode = a.floating("x"), a.tensor("x"), a.word("mode", "EXACT")
    match mode:
        case "EXACT":
            return Value(dtype, F.gelu(x))
        case "TANH_APPROXIMATION":
            return Value(dtype, F.gelu(x, approximate="tanh"))
        case "SIGMOID_APPROXIMATION":
            return Value(dtype, x * torch.sigmoid(1.702 * x))
        case _:
            raise a.refuse(f"this version does not know its mode {mode}")


def _softmax(a: Arguments) -> Results:
    # iOS15/activation.py
    return Value(a.floating("x"), a.tensor("x").softmax(a.number("axis", -1)))


def _conv(a: Arguments) -> Results:
    # iOS15/conv.py, iOS17/conv.py; NCHW, over one to three spatial dimensions
    dtype, x, weight = a.floating("x", "weight", "bias"), a.tensor("x"), a.tensor("weight")
    spatial = _spatial(a, x)
    strides, dilations = a.numbers("strides", [1] * spatial), a.numbers("dilations", [1] * spatial)
    reach = [(size - 1) * dilation + 1 for size, dilation in zip(weight.shape[2:], dilations, strict=True)]
    before, after = _padding(a, x, reach, strides)
    compute = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}[spatial]
    bias = a.tensor("bias") if "bias" in a else None
    if before != after:
        x, before = _padded(x, before, after), [0] * spatial
    return Value(dtype, compute(x, weight, bias, strides, before, dilations, a.number("groups", 1)))


def _avg_pool(a: Arguments) -> Results:
    # iOS15/pool.py
    dtype, x, window = a.floating("x"), a.tensor("x"), a.numbers("kernel_sizes")
    spatial = _spatial(a, x)
    strides = a.numbers("strides", [1] * spatial)
    before, after = _padding(a, x, window, strides)
    sizes = [size + b + e for size, b, e in zip(x.shape[2:], before, after, strict=True)]
    uneven = any((size - w) % stride for size, w, stride in zip(sizes, window, strides, strict=True))
    if a.flag("ceil_mode") and uneven:
        raise a.refuse("this version does not know ceil_mode where windows reach beyond the input")
    pool = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}[spatial]
    mean = pool(_padded(x, before, after), window, strides)
    if a.flag("exclude_padding_from_average"):
        mean = mean / pool(_padded(torch.ones(1, 1, *x.shape[2:]), before, after), window, strides)
    return Value(dtype, mean)


def _max_pool(a: Arguments) -> Results:
    # iOS15/pool.py; what is padded is smaller than anything
    dtype, x, window = a.floating("x"), a.tensor("x"), a.numbers("kernel_sizes")
    spatial = _spatial(a, x)
    strides = a.numbers("strides", [1] * spatial)
    before, after = _padding(a, x, window, strides)
    sizes = [size + b + e for size, b, e in zip(x.shape[2:], before, after, strict=True)]
    if a.flag("ceil_mode") and any((size - w) % stride for size, w, stride in zip(sizes, window, strides, strict=True)):
        raise a.refuse("this version does not know ceil_mode where windows reach beyond the input")
    pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[spatial]
    return Value(dtype, pool(_padded(x, before, after, -math.inf), window, strides))


def _upsample_nearest(a: Arguments) -> Results:
    # iOS15/image_resizing.py, upsample_nearest_neighbor
    dtype, x = a.floating("x"), a.tensor("x")
    factors = [a.real(f"scale_factor_{side}", 1) for side in ("height", "width")]
    if _spatial(a, x) != 2 or any(factor < 1 or factor % 1 for factor in factors):
        raise a.refuse("this version only repeats the pixels of maps a whole number of times")
    return Value(dtype, F.interpolate(x, scale_factor=factors, mode="nearest"))


def _upsample_bilinear(a: Arguments) -> Results:
    # iOS15/image_resizing.py; the spacing of the grid follows from the sizes, not from the factors
    dtype, x = a.floating("x"), a.tensor("x")
    if _spatial(a, x) != 2:
        raise a.refuse("this version only resizes maps")
    factors = [a.real(f"scale_factor_{side}", 1) for side in ("height", "width")]
    size = [math.floor(side * factor) for side, factor in zip(x.shape[2:], factors, strict=True)]
    return Value(dtype, F.interpolate(x, size, mode="bilinear", align_corners=a.flag("align_corners", True)))


def _spatial(a: Arguments, x: Tensor) -> int:
    """Return the number of dimensions of x beside batch and channels."""
    if not 3 <= x.ndim <= 5:
        raise a.refuse(f"x has {x.ndim} dimensions")
    return x.ndim - 2


def _padding(a: Arguments, x: Tensor, reach: list[int], strides: list[int]) -> tuple[list[int], list[int]]:
    """Return the zeros before and after each spatial dimension, for a window that reaches over `reach` elements."""
    kind, pad = a.word("pad_type", "valid"), a.numbers("pad", [0] * (2 * len(reach)))
    if kind == "custom":
        return pad[0::2], pad[1::2]
    if any(pad):
        raise a.refuse(f"it has padding of its own beside pad_type {kind}")
    if kind == "valid":
        return [0] * len(reach), [0] * len(reach)
    if kind not in ("same", "same_lower"):
        raise a.refuse(f"this version does not know its pad_type {kind}")
    sizes = zip(x.shape[2:], reach, strides, strict=True)
    totals = [max(0, (math.ceil(size / stride) - 1) * stride + window - size) for size, window, stride in sizes]
    if kind == "same" and any(zeros % 2 for zeros in totals):
        # the definition names two sides, and without Apple hardware Core ML's choice cannot be observed
        raise a.refuse("pad_type same does not say on which side an odd number of zeros goes")
    return [zeros - zeros // 2 for zeros in totals], [zeros // 2 for zeros in totals]


def _padded(x: Tensor, before: list[int], after: list[int], value: float = 0.0) -> Tensor:
    pairs = list(zip(before, after, strict=True))
    return F.pad(
        x, [count for pair in reversed(pairs) for count in pair], value=value
    )  # the last dimension comes first


def _pad(a: Arguments) -> Results:
    # iOS15/tensor_operation.py; two counts for each of the last dimensions, in their order
    dtype, x, counts, mode = a.floating("x"), a.tensor("x"), a.numbers("pad", []), a.word("mode", "constant")
    if mode != "constant" or len(counts) % 2 or len(counts) > 2 * x.ndim or min(counts, default=0) < 0:
        raise a.refuse(f"this version does not pad {list(x.shape)} by {counts} in its mode {mode}")
    return Value(dtype, _padded(x, counts[0::2], counts[1::2], a.real("constant_val", 0.0)))


def _linear(a: Arguments) -> Results:
    # iOS15/linear.py; x @ weight.T + bias
    dtype = a.floating("x", "weight", "bias")
    return Value(dtype, F.linear(a.tensor("x"), a.tensor("weight"), a.tensor("bias") if "bias" in a else None))


def _matmul(a: Arguments) -> Results:
    # iOS15/linear.py
    dtype, x, y = a.floating("x", "y"), a.tensor("x"), a.tensor("y")
    if a.flag("transpose_x") and x.ndim > 1:
        x = x.mT
    if a.flag("transpose_y") and y.ndim > 1:
        y = y.mT
    return Value(dtype, x @ y)


def _attention(a: Arguments) -> Results:
    # iOS18/transformers.py, scaled_dot_product_attention; scale 1 / sqrt(d)
    dtype = a.floating("query", "key", "value")
    mask = None
    if "attn_mask" in a:
        if a.alike("attn_mask") not in (dtype, "bool"):
            raise a.refuse("its mask is neither of its own type nor of truth values")
        mask = a.tensor("attn_mask")
    return Value(dtype, F.scaled_dot_product_attention(a.tensor("query"), a.tensor("key"), a.tensor("value"), mask))


def _reduced(compute: Callable[[Tensor, list[int], bool], Tensor]) -> Callable[[Arguments], Results]:
    """Return an operation that reduces the axes it names, all of them by default; `compute` keeps them if asked."""

    # iOS15/reduction.py
    def reduced(a: Arguments) -> Results:
        x = a.tensor("x")
        axes = a.numbers("axes", range(x.ndim))
        if not axes:
            raise a.refuse("it has no axes")
        return Value(a.floating("x"), compute(x, axes, a.flag("keep_dims")))

    return reduced


def _sum_of_squares(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return x.square().sum(axes, keep)


def _tile(a: Arguments) -> Results:
    # iOS15/tensor_operation.py
    x, reps = a.tensor("x"), a.numbers("reps")
    if len(reps) != x.ndim or min(reps, default=1) < 1:
        raise a.refuse(f"it repeats {list(x.shape)} by {reps}")
    return Value(a.value("x").dtype, x.tile(reps))


def _clip(a: Arguments) -> Results:
    # iOS15/elementwise_unary.py
    dtype, x = a.floating("x", "alpha", "beta"), a.tensor("x")
    return Value(dtype, x.clamp(a.tensor("alpha"), a.tensor("beta")))


def _rsqrt(a: Arguments) -> Results:
    # iOS15/elementwise_unary.py; the epsilon is of the type of x, in which 1e-12 may be 0
    dtype, x = a.floating("x", "epsilon"), a.tensor("x")
    epsilon = _rounded(torch.tensor(a.real("epsilon", 1e-12)), dtype)
    return Value(dtype, (x + epsilon).rsqrt())


def _l2_norm(a: Arguments) -> Results:
    # iOS15/normalization.py; over the last three axes
    dtype, x = a.floating("x", "epsilon"), a.tensor("x")
    if x.ndim < 3:
        raise a.refuse(f"it takes at least three dimensions, not {x.ndim}")
    total = x.square().sum((-3, -2, -1), keepdim=True)
    return Value(dtype, x / (total + _rounded(torch.tensor(a.real("epsilon", 1e-6)), dtype)).sqrt())


def _batch_norm(a: Arguments) -> Results:
    # iOS15/normalization.py; the epsilon is of the type of x
    dtype, x = a.floating("x", "mean", "variance", "gamma", "beta", "epsilon"), a.tensor("x")
    gamma, beta = (a.tensor(name) if name in a else None for name in ("gamma", "beta"))
    mean, variance, epsilon = a.tensor("mean"), a.tensor("variance"), a.real("epsilon", 1e-5)
    return Value(dtype, F.batch_norm(x, mean, variance, gamma, beta, eps=epsilon))


def _layer_norm(a: Arguments) -> Results:
    # iOS15/normalization.py; gamma and beta have the shape of the axes
    dtype, x = a.floating("x", "gamma", "beta", "epsilon"), a.tensor("x")
    axes = [axis % x.ndim for axis in a.numbers("axes", range(x.ndim))]
    if not axes or axes != sorted(set(axes)):
        raise a.refuse("this version knows what gamma and beta mean only where its axes are in order")
    spread, mean = torch.var_mean(x, axes, correction=0, keepdim=True)
    result = (x - mean) / (spread + a.real("epsilon", 1e-5)).sqrt()
    shape = [size if axis in axes else 1 for axis, size in enumerate(x.shape)]
    if "gamma" in a:
        result = result * a.tensor("gamma").reshape(shape)
    if "beta" in a:
        result = result + a.tensor("beta").reshape(shape)
    return Value(dtype, result)


def _resample(a: Arguments) -> Results:
    # iOS16/image_resizing.py; coordinates are right and down, from -1 to 1 over the image
    dtype, x, mode = a.floating("x"), a.tensor("x"), a.word("padding_mode")
    known = (a.word("sampling_mode"), a.word("coordinates_mode")) == ("bilinear", "normalized_minus_one_to_one")
    if not known or mode not in ("constant", "border"):
        raise a.refuse(
            "this version samples bilinearly at coordinates from -1 to 1, with a constant or a border outside"
        )
    around = a.real("padding_value", 0.0)
    if mode == "constant" and around != 0:
        raise a.refuse(f"this version takes values outside for 0, not {around:g}")
    if a.value("coordinates").dtype not in FLOATS:
        raise a.refuse(f"this version does not take coordinates in {a.value('coordinates').dtype}")
    padding = "zeros" if mode == "constant" else "border"
    sampled = F.grid_sample(x, a.tensor("coordinates"), "bilinear", padding, align_corners=a.flag("align_corners"))
    return Value(dtype, sampled)


def _reshape(a: Arguments) -> Results:
    # iOS15/tensor_transformation.py; 0 keeps a dimension, -1 is what remains
    value, x, shape = a.value("x"), a.tensor("x"), a.numbers("shape")
    if 0 in shape and len(shape) != x.ndim:
        raise a.refuse("its shape keeps dimensions of a tensor of another rank")
    return Value(value.dtype, x.reshape([size or x.shape[axis] for axis, size in enumerate(shape)]))


def _transpose(a: Arguments) -> Results:
    # iOS15/tensor_transformation.py
    return Value(a.value("x").dtype, a.tensor("x").permute(a.numbers("perm")))


def _squeeze(a: Arguments) -> Results:
    # iOS15/tensor_transformation.py; dimensions of more than one element stay, as in PyTorch
    x = a.tensor("x")
    return Value(a.value("x").dtype, x.squeeze(a.numbers("axes", range(x.ndim))))


def _expand_dims(a: Arguments) -> Results:
    # iOS15/tensor_transformation.py; the axes are those of the result
    x, axes = a.tensor("x"), a.numbers("axes")
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = x.unsqueeze(axis)
    return Value(a.value("x").dtype, x)


def _split(a: Arguments) -> Results:
    # iOS15/tensor_operation.py
    x, axis = a.tensor("x"), a.number("axis")
    length = x.shape[axis]
    if "split_sizes" in a:
        sizes = a.numbers("split_sizes")
        if a.number("num_splits", len(sizes)) != len(sizes):
            raise a.refuse("its numbers of parts contradict each other")
    else:
        parts = a.number("num_splits")
        sizes = [length // parts] * parts
    if sum(sizes) != length:
        raise a.refuse(f"its parts of {sizes} are not all of {length}")
    return [Value(a.value("x").dtype, part) for part in x.split(sizes, axis)]


def _concat(a: Arguments) -> Results:
    # iOS15/tensor_operation.py
    if a.flag("interleave"):
        raise a.refuse("this version does not interleave")
    parts = [value.data for value in a.values("values") if isinstance(value.data, Tensor)]
    return Value(a.alike("values"), torch.cat(parts, a.number("axis")))


def _slice_by_index(a: Arguments) -> Results:
    # iOS15/tensor_transformation.py; x[begin:end:stride], x[begin] where the result loses a dimension
    x = a.tensor("x")
    begin, end, stride = a.numbers("begin"), a.numbers("end"), a.numbers("stride", [1] * x.ndim)
    masks = (a.numbers(f"{name}_mask", [False] * x.ndim) for name in ("begin", "end", "squeeze"))
    if len(begin) != x.ndim or min(stride, default=1) < 1:
        raise a.refuse("this version only slices forwards, and along every dimension")
    index: list[int | slice] = []
    for first, last, step, from_start, to_end, single in zip(begin, end, stride, *masks, strict=True):
        first = 0 if from_start else first
        index.append(first if single else slice(first, None if to_end else last, step))
    return Value(a.value("x").dtype, x[tuple(index)])


def _classify(a: Arguments) -> Results:
    # iOS15/classify.py; the most probable class, and a dictionary of probabilities
    probabilities, classes = a.tensor("probabilities").flatten(), a.array("classes")
    kind = a.value("classes").dtype.removeprefix("list of ")
    if a.floating("probabilities") != "fp32" or len(probabilities) != len(classes):
        raise a.refuse(f"it has {len(classes)} classes for {len(probabilities)} probabilities")
    label = np.array(classes[int(probabilities.argmax())])
    return [
        Value(kind, label if kind == "string" else torch.from_numpy(label)),
        Value(f"dictionary of {kind} to fp64", probabilities.double()),
    ]


# --- compressed weights -----------------------------------------------------------------------------------------------


def _affine_dequantize(a: Arguments) -> Results:
    # iOS16/constexpr_ops.py; scale * (quantized_data - zero_point), each one number or one per element of the axis
    data, axis = a.tensor("quantized_data"), a.number("axis")
    shape = [1] * data.ndim
    shape[axis] = -1
    scale, zero = (t.reshape(shape) if t.ndim else t for t in (a.tensor("scale"), a.tensor("zero_point")))
    return Value(a.floating("scale"), scale * (data.float() - zero.float()))


def _shift_scale(a: Arguments) -> Results:
    # iOS18/compression.py, constexpr_blockwise_shift_scale; scale * (data - offset), each for a block of elements
    data, scale = a.tensor("data").float(), a.tensor("scale")
    offset = a.tensor("offset").float() if "offset" in a else torch.zeros_like(scale)
    if offset.shape != scale.shape:
        raise a.refuse("its offsets and scales differ in shape")
    return Value(a.floating("scale"), _spread(a, scale, data.shape) * (data - _spread(a, offset, data.shape)))


def _lut_to_dense(a: Arguments) -> Results:
    # iOS16/constexpr_ops.py and iOS18/compression.py; a weight is a number, or a vector, of a table
    lut = a.tensor("lut")
    dtype = a.value("lut").dtype
    if "shape" in a:  # iOS 16: one table of numbers, indices packed into bytes
        shape = a.numbers("shape")
        bits = _bits(a, len(lut))
        indices = _unpacked(a, "indices", bits, math.prod(shape))
        return Value(dtype, lut[indices.long()].reshape(shape))
    indices = a.tensor("indices")
    *groups, entries, length = lut.shape
    if a.value("indices").dtype != f"uint{_bits(a, entries)}":
        raise a.refuse(f"its indices are {a.value('indices').dtype} for a table of {entries} entries")
    table = _spread(a, torch.arange(math.prod(groups)).reshape(groups), indices.shape)
    vectors = lut.reshape(-1, entries, length)[table, indices.long()]  # the shape of the indices, and a vector
    if length == 1 and "vector_axis" not in a:
        return Value(dtype, vectors[..., 0])
    axis = a.number("vector_axis") % indices.ndim
    return Value(dtype, vectors.movedim(-1, axis + 1).flatten(axis, axis + 1))


def _sparse_to_dense(a: Arguments) -> Results:
    # iOS16/constexpr_ops.py and iOS18/compression.py; a bit for every element says whether it is among the data
    values = a.tensor("nonzero_data")
    if "shape" in a:  # iOS 16: the bits are packed into bytes
        shape = a.numbers("shape")
        mask = _unpacked(a, "mask", 1, math.prod(shape)).reshape(shape)
    else:
        mask = a.tensor("mask")
    if int(mask.sum()) != len(values):
        raise a.refuse(f"its mask has {int(mask.sum())} places for {len(values)} values")
    result = torch.zeros(mask.shape, dtype=values.dtype)
    result[mask.bool()] = values
    return Value(a.value("nonzero_data").dtype, result)


def _constant_cast(a: Arguments) -> Results:
    # iOS16/constexpr_ops.py, constexpr_cast
    if a.word("output_dtype") not in FLOATS:
        raise a.refuse(f"this version does not cast weights to {a.word('output_dtype')}")
    return Value(a.word("output_dtype"), a.tensor("source_val"))


# --- quantised activations --------------------------------------------------------------------------------------------

_BYTES = {"int8": (-128, 127), "uint8": (0, 255)}  # least and largest


def _quantize(a: Arguments) -> Results:
    # iOS17/quantization_ops.py; clip(round(input / scale) + zero_point), halves to even
    x, dtype = a.tensor("input"), a.word("output_dtype")
    a.floating("input", "scale")
    if dtype not in _BYTES:
        raise a.refuse(f"this version does not quantise to {dtype}")
    if "zero_point" in a and a.value("zero_point").dtype != dtype:
        raise a.refuse(f"its zero point is {a.value('zero_point').dtype}, and its result {dtype}")
    scale, zero = _steps(a, x)
    if not bool((scale > 0).all()):
        raise a.refuse("a step of its scale is not positive")
    return Value(dtype, ((x / scale).round() + zero).clamp(*_BYTES[dtype]))


def _dequantize(a: Arguments) -> Results:
    # iOS17/quantization_ops.py; scale * (input - zero_point)
    x = a.tensor("input")
    if a.alike("input", "zero_point") not in _BYTES:
        raise a.refuse(f"its input is {a.value('input').dtype}")
    scale, zero = _steps(a, x)
    return Value(a.floating("scale"), scale * (x.float() - zero))


def _steps(a: Arguments, x: Tensor) -> tuple[Tensor, Tensor]:
    """Return scale and zero point as one number each, or as one per element of an axis of `x`."""
    scale = a.tensor("scale")
    zero = a.tensor("zero_point").float() if "zero_point" in a else torch.zeros_like(scale)
    if zero.shape != scale.shape or scale.ndim > 1 or (scale.ndim == 1) != ("axis" in a):
        raise a.refuse("its scale and zero point are neither numbers nor rows along an axis")
    if scale.ndim == 0:
        return scale, zero
    shape = [1] * x.ndim
    shape[a.number("axis")] = -1
    return scale.reshape(shape), zero.reshape(shape)


def _bits(a: Arguments, entries: int) -> int:
    """Return the number of bits of an index into a table."""
    bits = max(entries, 1).bit_length() - 1
    if entries != 1 << bits or bits not in (1, 2, 3, 4, 6, 8):
        raise a.refuse(f"a table of {entries} entries is none that indices could point to")
    return bits


def _unpacked(a: Arguments, name: str, bits: int, count: int) -> Tensor:
    """Return numbers of up to 8 bits that are packed into bytes."""
    packed = a.tensor(name)
    if a.value(name).dtype != "uint8" or packed.shape != (-(-bits * count // 8),):
        raise a.refuse(f"its {name} are not {count} numbers of {bits} bits")
    return packed if bits == 8 else torch.from_numpy(unpack(packed.numpy(), bits, count))


def _spread(a: Arguments, blocks: Tensor, shape: Sequence[int]) -> Tensor:
    """Repeat each element over its block, so that the result has `shape`, or can be broadcast to it."""
    if blocks.ndim != len(shape) or any(size % number for size, number in zip(shape, blocks.shape, strict=True)):
        raise a.refuse(f"blocks of {list(blocks.shape)} do not divide {list(shape)}")
    for axis, size in enumerate(shape):
        if blocks.shape[axis] not in (1, size):
            blocks = blocks.repeat_interleave(size // blocks.shape[axis], axis)
    return blocks


OPERATIONS: dict[str, Callable[[Arguments], Results]] = {
    "abs": _elementwise(torch.abs),
    "add": _binary(torch.add),
    "avg_pool": _avg_pool,
    "batch_norm": _batch_norm,
    "cast": _cast,
    "classify": _classify,
    "clip": _clip,
    "concat": _concat,
    "constexpr_affine_dequantize": _affine_dequantize,
    "constexpr_blockwise_shift_scale": _shift_scale,
    "constexpr_cast": _constant_cast,
    "constexpr_lut_to_dense": _lut_to_dense,
    "constexpr_sparse_to_dense": _sparse_to_dense,
    "conv": _conv,
    "dequantize": _dequantize,
    "expand_dims": _expand_dims,
    "gelu": _gelu,
    "identity": _identity,
    "l2_norm": _l2_norm,
    "layer_norm": _layer_norm,
    "linear": _linear,
    "matmul": _matmul,
    "max_pool": _max_pool,
    "maximum": _binary(torch.maximum),
    "minimum": _binary(torch.minimum),
    "mul": _binary(torch.mul),
    "pad": _pad,
    "quantize": _quantize,
    "real_div": _binary(torch.div),
    "reduce_l2_norm": _reduced(lambda x, axes, keep: _sum_of_squares(x, axes, keep).sqrt()),
    "reduce_max": _reduced(torch.amax),
    "reduce_mean": _reduced(torch.mean),
    "reduce_min": _reduced(torch.amin),
    "reduce_sum": _reduced(torch.sum),
    "reduce_sum_square": _reduced(_sum_of_squares),
    "relu": _elementwise(torch.relu),
    "resample": _resample,
    "reshape": _reshape,
    "rsqrt": _rsqrt,
    "scaled_dot_product_attention": _attention,
    "sigmoid": _elementwise(torch.sigmoid),
    "silu": _elementwise(torch.nn.functional.silu),
    "slice_by_index": _slice_by_index,
    "softmax": _softmax,
    "split": _split,
    "sqrt": _elementwise(torch.sqrt),
    "square": _elementwise(torch.square),
    "squeeze": _squeeze,
    "sub": _binary(torch.sub),
    "tile": _tile,
    "transpose": _transpose,
    "upsample_bilinear": _upsample_bilinear,
    "upsample_nearest_neighbor": _upsample_nearest,
}
