"""Everything that a weight file holds as one flat table: a dotted name for each entry, and no tensor read yet.

A table within a table adds its name and a dot, so that ``state_dict`` and ``module.`` in front of a key are the same
thing: a part of its name. Files in several parts (an index and its shards) are one table too.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import cast

import msgspec
import safetensors
import torch
from torch import Tensor, nn

from fastvit_bench import files
from fastvit_bench.network.checkpoint import pickles
from fastvit_bench.network.checkpoint.messages import KINDS, printable, quoted, reason, refusal, refuse

WEIGHT_FILE = 64 << 30  # bytes of a weight file, or of one part of it
INDEX = 64 << 20  # bytes of an index
DEPTH = 32  # tables within tables
NOTE = "fastvit_bench"  # the entry, or header field, with the note of `saving.save`
# Names of weight files in a folder, as Hugging Face's libraries write them, the first one that exists is taken.
IN_A_FOLDER = (
    "model.safetensors",
    "model.safetensors.index.json",
    "open_clip_model.safetensors",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "open_clip_pytorch_model.bin",
)


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of a file: its shape, and the function that reads its values."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]


@dataclass(frozen=True)
class Unusable:
    """An entry that is no tensor, or one that a network cannot be loaded from."""

    reason: str  # after "holds NAME", such as "as a sparse tensor"
    kind: str = ""  # full name of a class whose object was not loaded


Entry = StoredTensor | Unusable


@dataclass(frozen=True)
class Contents:
    """The entries of a weight file by their dotted names, in its order."""

    entries: dict[str, Entry]
    same: dict[str, str] = field(default_factory=dict[str, str])  # name of a table -> first name of the same table
    note: object = None  # of `saving.save`
    parts: tuple[Path, ...] = ()  # the files of an index that were opened


def resolve(path: Path) -> Path:
    """Return the weight file that a path means: itself, or the one in a folder such as a Hugging Face snapshot."""
    try:
        if not path.is_dir():
            return path
        present = next((path / name for name in IN_A_FOLDER if (path / name).is_file()), None)
    except (OSError, ValueError) as error:
        refuse(path, f"cannot be read ({reason(error)})", "check its permissions")
    if present is None:
        refuse(
            path, f"is a folder without {', '.join(IN_A_FOLDER[:2])} or {IN_A_FOLDER[3]}", "give the weight file in it"
        )
    return present


def read(path: Path, wanted: Callable[[str], bool]) -> Contents:
    """Return what a weight file holds; of an index, only the parts with a `wanted` name are opened.

    The first bytes select the reader, because the suffixes in use (.bin, .pth, .tar) identify no format.
    """
    try:
        with files.open_regular(path, WEIGHT_FILE) as file:
            start = file.read(64)
            if start[8:9] != b"{" and start.startswith((b"PK\x03\x04", b"\x80")):
                return _flat(path, pickles.read(path, file))
    except OSError as error:
        refuse(path, f"cannot be read ({reason(error)})", "check its permissions")
    if start[8:9] == b"{" and start[:1] != b"{":  # behind a length, whose first byte may be that of a pickle
        return _read_safetensors(path)
    if path.name.endswith(".index.json"):
        return _read_index(path, wanted)
    if start and all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in start):
        line = start.decode("ascii").strip().splitlines()[0] if start.strip() else ""
        if line.startswith("version https://git-lfs"):
            refuse(path, "is a pointer of Git LFS, not the file itself", "run `git lfs pull` where it lies")
        refuse(path, f"is a text file that begins with {line[:40]!r}, not weights", f"give {KINDS}")
    if path.suffix.lower() == ".onnx":
        refuse(path, "is an ONNX file, which holds no state dict", f"time it with `latency -m FILE`, or give {KINDS}")
    raise refusal(path, "is not a weight file", f"give {KINDS}")


def _read_safetensors(path: Path) -> Contents:
    """Return the tensors of a safetensors file, and the note in its header if there is one."""
    entries: dict[str, Entry] = {}
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            for key in file.keys():  # noqa: SIM118 - no mapping
                entries[key] = StoredTensor(tuple(file.get_slice(key).get_shape()), partial(_tensor, path, key))
    except Exception as error:
        refuse(path, f"is truncated or damaged ({reason(error)})", "fetch or copy it again")
    try:
        note = msgspec.json.decode(header[NOTE]) if NOTE in header else None
    except Exception as error:
        refuse(path, f"has a {NOTE} note that this tool did not write ({reason(error)})", "save it again")
    return Contents(entries, note=note)


def _tensor(path: Path, key: str) -> Tensor:
    """Return one tensor of a safetensors file; no other is read."""
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            return file.get_tensor(key)
    except Exception as error:
        refuse(path, f"holds {quoted(key)}, which cannot be read ({reason(error)})", "fetch or copy it again")


def _read_index(path: Path, wanted: Callable[[str], bool]) -> Contents:
    """Return the entries of all parts of an index; the parts without a `wanted` name are not opened."""
    try:
        index = msgspec.json.decode(files.read_bytes(path, INDEX), type=dict[str, msgspec.Raw])
        names = msgspec.json.decode(index["weight_map"], type=dict[str, str])
    except (OSError, KeyError, msgspec.DecodeError, RecursionError) as error:
        refuse(path, f"is no index of weight files ({reason(error)})", f"give {KINDS}")
    parts = sorted({name for key, name in names.items() if wanted(key)})
    opened: dict[str, Contents] = {}
    for name in parts:
        part = path.with_name(name) if files.is_part(name) else None
        if part is None or name.endswith(".index.json"):
            refuse(path, f"names the file {quoted(name)}, which cannot lie beside it", "fetch it again")
        if not files.exists(part):
            refuse(path, f"names {name}, which is not beside it", "fetch that file too")
        opened[name] = read(part, wanted)
    entries: dict[str, Entry] = {}
    for key, name in names.items():
        missing = Unusable(f"in {quoted(name)}, which was not opened")
        if name in opened:
            missing = Unusable(f"in {quoted(name)} by its index, but not by the file")
        entries[key] = opened[name].entries.get(key, missing) if name in opened else missing
    return Contents(entries, parts=tuple(path.with_name(name) for name in opened))


# --- flattening -------------------------------------------------------------------------------------------------------


def _flat(path: Path, unpickled: pickles.Unpickled) -> Contents:
    """Return the content of a pickle as one table."""
    content = unpickled.content
    if isinstance(content, pickles.Leftover):
        refuse(
            path,
            f"is a whole pickled object ({content.origin}), and reading one runs code of its class",
            f"where that code is installed, run `model = torch.load({path.name!r}, weights_only=False)` and "
            "`torch.save(model.state_dict(), 'weights.pth')`, and give weights.pth",
        )
    if (table := _items(content)) is None:
        refuse(path, f"holds one {type(content).__name__}, not a table of weights", f"give {KINDS}")
    tables: dict[int, str] = {}
    same: dict[str, str] = {}
    entries: dict[str, Entry] = {}

    def visit(value: object, name: str, depth: int) -> None:
        """Add a value and what is within it under a name; a table that was met before is not entered again."""
        items = _items(value) if depth < DEPTH else None
        if items is None:
            entries[name] = Unusable("twice") if name in entries else _entry(path, value, unpickled.values)
        elif id(value) in tables:
            same[name] = tables[id(value)]
        else:
            tables[id(value)] = name
            for key, item in items:
                visit(item, f"{name}.{key}" if name else key, depth + 1)

    for key, item in table:
        if key != NOTE:
            visit(item, key, 1)
    note = cast("Mapping[object, object]", content).get(NOTE) if isinstance(content, Mapping) else None
    return Contents(entries, same, note)


def _items(value: object) -> Iterable[tuple[str, object]] | None:
    """Return names and values within a table, or within a list of tables or tensors; None of any other value."""
    if isinstance(value, Mapping):
        return ((_key(key), item) for key, item in cast("Mapping[object, object]", value).items())
    if isinstance(value, list | tuple):
        items = cast("Sequence[object]", value)
        if any(isinstance(item, Mapping | Tensor) for item in items):
            return ((str(number), item) for number, item in enumerate(items))
    return None


def _key(key: object) -> str:
    """Return the name of an entry; any key that is no text or number names its type, since its text can be endless."""
    return str(key) if isinstance(key, str | int) else f"<{type(key).__name__}>"


def _entry(path: Path, value: object, values: dict[int, int]) -> Entry:
    """Return a value of a pickle as an entry."""
    if isinstance(value, pickles.Leftover):
        return Unusable(f"as an object of {value.origin}, which was not loaded", value.origin)
    if not isinstance(value, Tensor):
        return Unusable(f"as a value of type {printable(type(value).__name__)}, not as a tensor")
    if not _is_plain(value):
        return Unusable("as a sparse, quantised, expanded or empty tensor, not as an ordinary dense one")
    return StoredTensor(tuple(value.shape), partial(pickles.stored_values, path, value.detach(), values))


def _is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor is an ordinary dense one, with a place in its storage for every value."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout is torch.strided
        and not tensor.is_nested
        and not tensor.is_quantized
        and (tensor.device.type == "cpu" or pickles.place(tensor) is not None)
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )
