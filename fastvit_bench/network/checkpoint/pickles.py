"""Reading of what torch.save wrote, in either of its containers; nothing in a file is ever executed.

Of a zip archive no tensor is read until it is asked for. What is neither a tensor nor a plain value becomes a
`Leftover`, an empty object that bears the name of its class: no code of that class runs, and nothing of it is imported.
"""

import io
import pickletools
import re
import sys
import warnings
import zipfile
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import torch

from fastvit_bench import files
from fastvit_bench.errors import CheckpointError
from fastvit_bench.network.checkpoint.messages import KINDS, printable, reason, refuse

PICKLE = 8 << 20  # bytes of a pickle, without the tensors
_TOO_LONG = f"has more than {PICKLE} bytes beside its tensors, such as weights held as NumPy arrays"
NESTING = 100  # tuples within tuples: Python hashes them by recursion, without a check of its stack
OLD_FILE = 4 << 30  # bytes of a file in the older container, which is read as a whole


@dataclass(frozen=True)
class Unpickled:
    """The content of a file that torch.save wrote, and where an archive holds its tensors' values."""

    content: object
    values: dict[int, int] = field(default_factory=dict[int, int])  # begin of an entry in the archive -> bytes in it


class Leftover:
    """A value of a class that is not loaded; whatever a pickle does with it has no effect."""

    origin = "object"  # full name of its class

    def __new__(cls, *_: object, **__: object) -> "Leftover":
        """Return an empty object, whatever the class would be made from."""
        return super().__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        """Take and forget what the class would be made from."""

    def __setstate__(self, state: object) -> None:
        """Forget the object's state."""


def read(path: Path, file: BinaryIO) -> Unpickled:
    """Return the content of a file after all checks of it; an archive's tensors are on the ``meta`` device."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickles that torch did not write, which raise below
        file.seek(0)
        if file.read(4) == b"PK\x03\x04":
            data, values = _checked_archive(path, file)
            names = _checked_names(path, io.BytesIO(data))
            return Unpickled(_unpickle(path, file, names, "meta"), values)
        if file.seek(0, io.SEEK_END) > OLD_FILE:
            refuse(
                path, f"is one pickle of more than {OLD_FILE} bytes", "save it with a newer torch, or as safetensors"
            )
        file.seek(0)
        # In memory, since a file sets aside as much as a pickle says that a text in it has.
        start = io.BytesIO(file.read(2 * PICKLE))
        names: set[str] = set()
        for _ in range(OLD_PICKLES):
            if start.tell() == len(start.getbuffer()):  # torch refuses it, too
                break
            names |= _checked_names(path, start)
        return Unpickled(_unpickle(path, file, names, "cpu"))


def place(tensor: torch.Tensor) -> int | None:
    """Return where in an archive the values of a ``meta`` tensor's storage begin; None for one saved without values."""
    return getattr(tensor.untyped_storage(), "_checkpoint_offset", None)


def stored_values(path: Path, tensor: torch.Tensor, values: dict[int, int]) -> torch.Tensor:
    """Return a tensor of an archive with its values, of which no more is read than it spans.

    Raises `CheckpointError` for a tensor that spans more than its entry in the archive has.
    """
    if tensor.device.type != "meta":
        return tensor
    begin = place(tensor)
    assert begin is not None
    first = int(tensor.storage_offset()) * tensor.element_size()
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    span = (sum((size - 1) * stride for size, stride in steps) + 1) * tensor.element_size() if tensor.numel() else 0
    if first + span > values.get(begin, -1):
        refuse(path, "is damaged: a tensor in it has more values than are stored", "fetch or copy it again")
    data = bytearray(span)
    with files.open_regular(path) as file:
        file.seek(begin + first)
        if file.readinto(data) != span:
            refuse(path, "is truncated", "fetch or copy it again")
    if not span:
        return torch.empty(tensor.shape, dtype=tensor.dtype)
    flat = torch.frombuffer(data, dtype=tensor.dtype)
    return flat.as_strided(tensor.shape, tensor.stride())


def _checked_archive(path: Path, file: BinaryIO) -> tuple[bytes, dict[int, int]]:
    """Return the pickle of a zip archive and the bytes of each entry by its begin.

    An archive that torch did not write, or that is damaged, is refused.

    torch checks neither the CRCs nor that entries have places and names of their own.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            problem = _archive_problem(archive, file)
            damaged = None if problem else archive.testzip()
            pickles = [entry for entry in entries if _leaf(entry) == "data.pkl"]
            sound = not problem and not damaged and pickles and pickles[0].file_size <= PICKLE
            data = archive.read(pickles[0]) if sound else None
            foreign = any(_leaf(entry) == "byteorder" and archive.read(entry) != b"little" for entry in entries[:99])
            values = {} if problem else {_begin(file, entry): entry.file_size for entry in entries}
    except Exception as error:
        refuse(path, f"is truncated or damaged ({reason(error)})", "fetch or copy it again")
    if any(_leaf(entry) == "constants.pkl" for entry in entries):
        refuse(path, "is a TorchScript program, which is code", "give the state dict it was made from")
    if problem or len(pickles) != 1:
        because = f" ({problem})" if problem else ""
        refuse(path, f"is a zip archive, but not one that torch.save writes{because}", f"give {KINDS}")
    if damaged is not None:
        name = printable(damaged)
        refuse(path, f"is damaged: the CRC-32 of '{name}' is not the recorded one", "fetch or copy it again")
    if data is None:
        refuse(path, _TOO_LONG, "save the network's state dict alone, as tensors")
    if foreign:
        refuse(path, "was saved on a machine with another order of bytes", "save it as safetensors there")
    return data, values


def _begin(file: BinaryIO, entry: zipfile.ZipInfo) -> int:
    """Return where the content of an archive's entry begins."""
    file.seek(entry.header_offset)
    header = file.read(_LOCAL_HEADER)
    lengths = int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")
    return entry.header_offset + _LOCAL_HEADER + lengths


def _leaf(entry: zipfile.ZipInfo) -> str:
    """Return the last part of an entry's name, in lower case."""
    return entry.filename.rpartition("/")[2].lower()


def _archive_problem(archive: zipfile.ZipFile, file: BinaryIO) -> str | None:
    """Return the first way in which an archive's directory differs from torch's, or None; contents are not read.

    After it, reading every entry takes no longer than reading the file once, and torch reads the same entries.
    """
    entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
    if any(entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size for entry in entries):
        return "its entries are compressed"
    if len({entry.filename.lower() for entry in entries}) != len(entries):  # torch finds names in any case
        return "two entries have one name"
    ends = [entry.header_offset + _LOCAL_HEADER + entry.file_size for entry in entries]
    begins = [*(entry.header_offset for entry in entries), archive.start_dir][1:]
    if any(end > begin for end, begin in zip(ends, begins, strict=True)):
        return "its entries overlap"
    file.seek(0, io.SEEK_END)
    if archive.comment or _directories(file) != {archive.start_dir}:
        return "its directory is not where its end says"
    return None


_LOCAL_HEADER = 30  # bytes in front of an entry's name
_END, _LOCATOR, _END64 = 22, 20, 56  # bytes of an archive's last three records, from the back


def _directories(file: BinaryIO) -> set[int]:
    """Return where the last records of an archive without a comment say that its directory begins.

    A reader may follow any of them. Python's searches from the back instead, so it would not notice another one.
    """
    size = file.tell()
    file.seek(max(0, size - _END - _LOCATOR - _END64))
    tail = file.read()
    end, locator = tail[-_END:], tail[-_END - _LOCATOR : -_END]
    short = int.from_bytes(end[16:20], "little")
    if not locator.startswith(b"PK\x06\x07"):
        return {short}
    record = tail[:_END64]
    begins = {int.from_bytes(record[48:56], "little")} | ({short} - {0xFFFFFFFF})
    at_its_place = int.from_bytes(locator[8:16], "little") == size - len(tail) and record.startswith(b"PK\x06\x06")
    return begins if at_its_place else set()


OLD_PICKLES = 5  # of the container before zip archives: two versions, the system, the content, the tensors' keys
_DEEPENING = frozenset({"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3", "REDUCE", "NEWOBJ"})  # that can make a tuple of one
_SAME = frozenset({"DUP", "BUILD"})


def _checked_names(path: Path, pickle: BinaryIO) -> set[str]:
    """Return the names of classes and functions in a pickle, such as ``numpy.dtype``; leave the file behind its end.

    A pickle that is too long or nests tuples too deeply is refused.

    Nothing is built: the depth of each value on the unpickler's stack is counted instead.
    """
    depths: list[int | None] = []  # None is a mark
    memo: dict[object, int] = {}
    names: set[str] = set()
    begin = pickle.tell()
    try:
        for opcode, argument, _ in pickletools.genops(pickle):
            if pickle.tell() - begin > PICKLE:
                refuse(path, _TOO_LONG, "save the network's state dict alone, as tensors")
            if opcode.name == "GLOBAL":
                names.add(_modern(*str(argument).split(" ", 1)))
            if opcode.name == "MARK":
                depths.append(None)
            elif opcode.name == "MEMOIZE" or "PUT" in opcode.name:
                memo[len(memo) if argument is None else argument] = depths[-1] or 0
            elif "GET" in opcode.name:
                depths.append(memo[argument])
            else:
                deepest = _popped(depths, opcode) + (opcode.name in _DEEPENING)
                if deepest > NESTING:
                    refuse(path, f"nests its values {deepest} deep", "save the network's state dict alone")
                depth = deepest if opcode.name in _DEEPENING | _SAME else 0
                depths += [depth] * len(opcode.stack_after)
    except CheckpointError:
        raise
    except Exception:  # of pickletools, which raises several kinds
        refuse(path, "is damaged, or a pickle that torch.save did not write", f"fetch it again, or give {KINDS}")
    return names


def _popped(depths: list[int | None], opcode: pickletools.OpcodeInfo) -> int:
    """Remove from a stack what an operation takes, and return the largest depth among it."""
    needed = opcode.stack_before
    deepest = 0
    if pickletools.markobject in needed:
        while (depth := depths.pop()) is not None:
            deepest = max(deepest, depth)
        needed = needed[: needed.index(pickletools.markobject)]
    for _ in needed:
        deepest = max(deepest, depths.pop() or 0)
    return deepest


def _modern(module: str, name: str) -> str:
    """Return the full name that torch looks for: Python 2 had some modules under other names, which pickles keep."""
    module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
    return f"{module}.{name}"


# Names of the standard library that stand for plain values; a name of any other module there is refused.
PLAIN = re.compile(
    r"builtins\.(bool|bytearray|bytes|complex|dict|float|frozenset|int|list|object|range|set|slice|str|tuple)"
    r"|argparse\.Namespace|types\.SimpleNamespace|copyreg\._reconstructor|uuid\.UUID|enum\.\w+"
    r"|(collections|datetime|decimal|fractions|pathlib)(\.\w+)+"
)
NAME = re.compile(r"[A-Za-z_]\w*(\.\w+)+", re.ASCII)
TABLES = frozenset({"collections.defaultdict", "collections.Counter", "builtins.dict"})


def _table(*_: object) -> dict[object, object]:
    """Return an empty table in the place of a kind of dictionary; what a pickle puts into it follows."""
    return {}


def _unpickle(path: Path, file: BinaryIO, names: set[str], device: str) -> object:
    """Load a file that torch.save wrote, restricted to tensors and plain values; other objects become a `Leftover`.

    torch receives an open file, not a path. By a path it would choose its reader by the suffix, and map the file into
    memory, where shortening it meanwhile ends the process.
    """
    file.seek(0)
    stand_ins: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = []
    for name in sorted(names):  # torch asks for a stand-in only where it has no safe class of that name itself
        root = name.partition(".")[0]
        if NAME.fullmatch(name) and (root not in sys.stdlib_module_names or PLAIN.fullmatch(name)):
            leftover = type("Leftover", (Leftover,), {"origin": printable(name)})
            stand_ins.append((_table if name in TABLES else leftover, name))
    try:
        with torch.serialization.safe_globals(stand_ins):
            return torch.load(file, map_location=device, weights_only=True)
    except Exception as error:
        match = re.search(r"GLOBAL (\S+)", str(error))
        if match:
            name = printable(match[1])
            problem = f"holds objects that are not tensors ({name}) and is refused, since reading them can run code"
            refuse(path, problem, "save the network's state dict alone")
        if "torch._utils._rebuild_qtensor" in names:  # torch makes none without its values
            refuse(path, "holds quantised tensors", "give the weights from before quantisation")
        refuse(path, "is damaged, or a pickle that torch.save did not write", f"fetch it again, or give {KINDS}")
