"""Apple's reference interpreter in a process of its own: it is native code, asynchronous, and prints to the console.

``python -m fastvit_bench.backends.coreai.interpreter ASSET`` is that process. It first writes one line, an
`AssetContent` or a `Failed`. Then it reads batches, as the bytes of arrays of that type and shape. For each it writes a
`Ran` or a `Failed`, and then the bytes of the arrays that a `Ran` describes.
"""

import contextlib
import importlib
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from fastvit_bench import files
from fastvit_bench.backends import INPUT, Images, Session
from fastvit_bench.backends._text import first_line, printable
from fastvit_bench.backends.coreai import asset
from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.records import Window

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class AssetContent(msgspec.Struct, tag=True):
    """The content of an asset that was loaded."""

    operations: dict[str, int]
    shape: list[int]  # of the input
    dtype: str  # of the input


class Array(msgspec.Struct):
    """An array whose bytes follow."""

    name: str
    shape: list[int]
    dtype: str


class Ran(msgspec.Struct, tag=True):
    """The outputs of a run."""

    outputs: list[Array]


class Failed(msgspec.Struct, tag=True):
    """The first line of an error."""

    reason: str


Reply = AssetContent | Ran | Failed
MAIN = "main"  # the function of an asset


# --- the parent's end -------------------------------------------------------------------------------------------------


class Interpreter:
    """A process that has loaded an asset."""

    def __init__(self, path: Path, process: "subprocess.Popen[bytes]", log: IO[bytes]) -> None:
        self.path, self._process, self._log = path, process, log
        described = self._reply()
        assert isinstance(described, AssetContent)
        self.described = described

    def run(self, images: "NDArray[Any]") -> "dict[str, NDArray[np.floating]]":
        """Return the outputs for a batch, by name. Raises `UnavailableError` where Apple's runtime fails."""
        import numpy as np

        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(OSError):  # a process that has ended is noticed when its reply is read
            self._process.stdin.write(np.ascontiguousarray(images, self.described.dtype).data)
            self._process.stdin.flush()
        ran = self._reply()
        assert isinstance(ran, Ran)
        outputs: dict[str, NDArray[np.floating]] = {}
        for array in ran.outputs:
            kind = np.dtype(array.dtype)
            data = self._process.stdout.read(math.prod(array.shape) * kind.itemsize)
            outputs[array.name] = np.frombuffer(data, kind).reshape(array.shape)
        return outputs

    def _reply(self) -> AssetContent | Ran:
        """Return the next reply. Raises `UnavailableError` for a failure, and for a process that has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line.endswith(b"\n"):
            reply = msgspec.json.decode(line, type=Reply)
            if not isinstance(reply, Failed):
                return reply
            reason = reply.reason
        else:
            code = self._process.wait()
            self._log.seek(0)
            lines = self._log.read().decode(errors="replace").strip().splitlines()
            reason = f"its process ended with code {code}" + (f": {printable(lines[-1])}" if lines else "")
        raise UnavailableError(f"Apple's Core AI runtime cannot load {self.path.name}: {reason.rstrip('.')}.")


@contextlib.contextmanager
def started(path: Path) -> "Generator[Interpreter]":
    """Start a process that loads an asset, and end it afterwards.

    Raises `UnavailableError` for an asset that cannot be loaded.
    """
    require_readable(path)
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            (sys.executable, "-m", __name__, str(path)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        )
        try:
            yield Interpreter(path, process, log)
        finally:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                with contextlib.suppress(OSError):  # of what was not sent
                    pipe.close()


def require_readable(path: Path) -> None:
    """Raise `UnavailableError` unless an asset's program is a regular file, for the runtime opens anything."""
    try:
        files.open_regular(path / asset.PROGRAM, files.PROGRAM).close()
    except OSError as error:
        raise UnavailableError(
            f"The Core AI reader cannot load {path.name}: {error.strerror or first_line(error)}."
        ) from error


class InterpretedSession(Session):
    """A session on Apple's reference interpreter, for proofs; it is never timed."""

    window = Window.END_TO_END

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter = interpreter
        self._input: NDArray[np.float32] | NDArray[np.uint8] | None = None
        self._outputs: dict[str, NDArray[np.floating]] = {}
        self.images = Images.PIXELS if interpreter.described.dtype == "uint8" else Images.TENSOR

    def set_input(self, images: "NDArray[np.float32] | NDArray[np.uint8]") -> None:
        """Store a batch for the next runs. Raises `UsageError` for a batch of another shape."""
        require_shape(images, self._interpreter.described.shape, self._interpreter.path)
        self._input = images

    def run(self) -> None:
        """Run the program once."""
        assert self._input is not None
        self._outputs = self._interpreter.run(self._input)

    def wait(self) -> None:
        """Return at once: `run` has waited already."""

    def get_output(self) -> "dict[str, NDArray[np.floating]]":
        """Return the outputs of the last run, by name."""
        return dict(self._outputs)


def require_shape(images: "NDArray[Any]", shape: list[int], path: Path) -> None:
    """Raise `UsageError` for a batch of another shape than an asset takes."""
    if list(images.shape) != shape:
        raise UsageError(f"{path.name} takes {INPUT} of shape {shape}, not {list(images.shape)}.")


@contextlib.contextmanager
def interpreted(path: Path) -> "Generator[InterpretedSession]":
    """Open a session on Apple's reference interpreter, in a process of its own."""
    with started(path) as interpreter:
        yield InterpretedSession(interpreter)


# --- the process ------------------------------------------------------------------------------------------------------


def main() -> None:
    """Load the asset that the command names, and run every batch that comes; all output of the runtime is a log."""
    import asyncio

    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # the runtime prints to the console, which must not end up among the replies
    try:
        asyncio.run(_serve(Path(sys.argv[1]), replies))
    except Exception as error:  # the runtime and MLIR raise many kinds
        _send(replies, Failed(first_line(error)))


async def _serve(path: Path, replies: IO[bytes]) -> None:
    """Describe an asset, then answer batches until there are no more."""
    import numpy as np

    authoring, runtime = (importlib.import_module(f"coreai.{name}") for name in ("authoring", "runtime"))
    loaded: Any = authoring.AIModelAsset.load(path)
    counted = _counted(loaded)
    inputs = dict(loaded.summary(include_statistics=False).function_inputs(MAIN))
    shape, kind = parsed_type(inputs[INPUT])
    _send(replies, AssetContent(counted, shape, kind))
    size = math.prod(shape) * np.dtype(kind).itemsize
    with open(0, "rb", closefd=False) as stdin:
        if not stdin.peek(1):  # nobody wants it to run
            return
        async with loaded.executable() as model:
            function = model.load_function(MAIN)
            while len(data := stdin.read(size)) == size:
                outputs = await function({INPUT: runtime.NDArray(np.frombuffer(data, kind).reshape(shape).copy())})
                values = {name: np.array(outputs[name].numpy(), order="C") for name in function.desc.output_names}
                _send(replies, Ran([Array(name, list(value.shape), value.dtype.str) for name, value in values.items()]))
                for value in values.values():
                    replies.write(value.data)
                replies.flush()


def _counted(loaded: Any) -> dict[str, int]:
    """Return the number of operations of a loaded asset by kind, constants and the frame left out."""
    from collections import Counter

    from fastvit_bench.backends.coreai import convert

    prefixes = ("coreai.decomposable.", "coreai.")
    counts: Counter[str] = Counter()
    for operation in convert.operations(loaded.program._module._mlir_module.operation):
        kind = str(operation.name)
        for prefix in prefixes:
            kind = kind.removeprefix(prefix)
        if kind not in {"constant", "graph", "output"}:
            counts[kind] += 1
    return dict(sorted(counts.items()))


def parsed_type(text: str) -> tuple[list[int], str]:
    """Return the shape and NumPy's type of a value that Apple describes as ``NDArray (Float16, 1 × 3 × 64 × 64)``."""
    kind, _, sizes = text.partition("(")[2].rstrip(")").partition(", ")
    return [int(size) for size in sizes.split(" × ")], kind.lower()


def _send(replies: IO[bytes], reply: Reply) -> None:
    replies.write(msgspec.json.encode(reply) + b"\n")
    replies.flush()


if __name__ == "__main__":
    main()
