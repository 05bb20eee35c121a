"""Reading and writing of weight files: the network is recognised from keys and shapes, and every entry is checked.

Two naming schemes are read, each in training and in fused form: the published one, for classification or dense, and
timm's (classification). One layout is written: the published fused one, with a note of where the weights came from. A
file's name never decides what network it holds, and nothing in a file is ever executed.
"""

import argparse
import errno
import hashlib
import io
import pickletools
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from enum import StrEnum
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO, NoReturn, cast

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from fastvit_bench import __version__, files
from fastvit_bench.errors import CheckpointError, ChecksumError, UsageError
from fastvit_bench.files import file_sha256
from fastvit_bench.network.fastvit import FastViT, Form
from fastvit_bench.network.random_weights import randomise
from fastvit_bench.network.registry import VARIANTS
from fastvit_bench.records import DRAW, Head, Record, Weights


@dataclass(frozen=True)
class Checkpoint:
    """A network loaded from a weight file, after a check that the file holds exactly one of the known networks."""

    network: FastViT  # in evaluation mode and float32
    variant: str  # key of `VARIANTS`
    head: Head
    classes: int  # of the classifier; 1000 for a dense network, which has none
    form: Form
    layout: "NamingScheme"
    weights: Weights
    source: Weights | None  # of a file that `save` wrote: the weights that were fused into it

    @property
    def summary(self) -> str:
        """Description for messages: ``fastvit_t8 (classifier with 1000 classes, unfused)``."""
        return summary(self.variant, self.head, self.classes, self.form)


class NamingScheme(StrEnum):
    """Scheme by which the entries of a file are named."""

    PUBLISHED = "published"
    TIMM = "timm"


class Provenance(Record, frozen=True):
    """Note that `save` writes beside the weights: its version, and the weights that were fused."""

    tool: str  # version of fastvit-bench
    source: Weights


ENTRIES = ("state_dict", "state_dict_ema", "model")  # that may hold a file's weights; the first one present is read
NOTE = "fastvit_bench"  # the entry, or header field, with the `Provenance`
WRAPPER = "module."  # in front of every key of a network that was trained in parallel
# Keys that identify a head, in this order. The four stages of a variant without attention are the published dense
# network.
HEAD_KEYS = (
    (re.compile(r"dense_head\.paths\."), Head.SEGMENTER),
    (re.compile(r"dense_head\."), Head.DETECTOR),
    (re.compile(r"norm7\."), Head.STAGES),
    (re.compile(r"norm\d+\."), Head.DENSE),
)
FUSED_KEY = re.compile(r"\.(reparam_conv|lkb_reparam)\.")
UNFUSED_KEY = re.compile(r"\.(rbr_conv|rbr_scale|rbr_skip|lkb_origin|small_conv|pe)\.")
COUNTER = ".num_batches_tracked"  # the only integers in a state dict; inference does not read them
FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)

# Patterns that turn timm's names into the published ones; every row is applied, in this order.
TIMM_NAMES = (
    (r"^stem\.", "patch_embed."),
    (r"^stages\.3\.pos_emb\.pos_enc\.", "network.6.pe."),
    (r"^stages\.3\.pos_emb\.", "network.6."),
    (r"\.downsample\.proj\.0\.reparam_conv\.", ".downsample.proj.0.lkb_reparam."),
    (r"^stages\.1\.downsample\.", "network.1."),
    (r"^stages\.2\.downsample\.", "network.3."),
    (r"^stages\.3\.downsample\.", "network.5."),
    (r"^stages\.0\.blocks\.", "network.0."),
    (r"^stages\.1\.blocks\.", "network.2."),
    (r"^stages\.2\.blocks\.", "network.4."),
    (r"^stages\.3\.blocks\.", "network.6."),
    (r"^final_conv\.", "conv_exp."),
    (r"^head\.fc\.", "head."),
    (r"\.conv_kxk\.", ".rbr_conv."),
    (r"\.conv_scale\.", ".rbr_scale."),
    (r"\.identity\.", ".rbr_skip."),
    (r"\.large_conv\.", ".lkb_origin."),
    (r"\.mlp\.", ".convffn."),
    (r"\.se\.fc1\.", ".se.reduce."),
    (r"\.se\.fc2\.", ".se.expand."),
    (r"\.gamma$", ""),
)
# The published network counts the positional encoding as an entry of its own, timm as a part of the last stage.
TIMM_POSITIONAL = "stages.3.pos_emb."
TIMM_AFTER_POSITIONAL = (r"^stages\.3\.blocks\.", "network.7.")

# Limits of what is read; the largest network's training state in float64 stays below a half of each.
WEIGHT_FILE = 4 << 30  # bytes of a weight file
PICKLE = 8 << 20  # bytes of a pickle, without the tensors
NESTING = 100  # tuples within tuples: Python hashes them by recursion, without a check of its stack
CLASSES = 1_000_000
SHOWN = 100  # characters of a file's text in a message
RECORD = 64 << 10  # bytes of a file with hashes

KINDS = "a published FastViT checkpoint (.pth.tar), one of timm (.bin, .pth, .safetensors) or one this tool saved"


# --- reading ----------------------------------------------------------------------------------------------------------


def load(
    path: Path,
    *,
    variant: str | None = None,
    head: Head | None = None,
    classes: int | None = None,
    sha256: str | None = None,
) -> Checkpoint:
    """Load the network of a weight file and check every key, shape and value.

    `variant`, `head` and `classes` are the caller's expectations; None accepts any. The file's hash must be `sha256`,
    and the one in ``<file>.sha256`` if that file exists. If a file has more than one set of weights, ``state_dict``
    comes before ``state_dict_ema`` and ``model``.

    Raises `CheckpointError` for a file that is missing, damaged or of another network, `ChecksumError` for a wrong
    hash, and `UsageError` for a variant that does not exist.
    """
    if variant is not None:
        check_variant(variant)
    digest = _check_hash(path, sha256)
    stored, note = _read(path)
    layout, state = _published_names(path, stored)
    actual_variant, actual_head, actual_classes, form = _recognise(path, state)
    description = summary(actual_variant, actual_head, actual_classes, form)
    for name, wanted, actual in (
        ("variant", variant, actual_variant),
        ("head", head, actual_head),
        ("classes", classes if actual_head is Head.CLASSIFIER else None, actual_classes),
    ):
        if wanted is not None and wanted != actual:
            problem = f"holds {description}, but {name} {wanted} was asked for"
            _refuse(path, problem, f"correct {name}, or give another file")
    with torch.device("meta"):
        network = FastViT(VARIANTS[actual_variant], head=actual_head, classes=actual_classes, form=form)
    network.load_state_dict(_checked_values(path, state), strict=True, assign=True)
    return Checkpoint(
        network=network.eval(),
        variant=actual_variant,
        head=actual_head,
        classes=actual_classes,
        form=form,
        layout=layout,
        weights=Weights(origin="checkpoint", sha256=digest, file=path.name),
        source=_source(path, note),
    )


def summary(variant: str, head: Head, classes: int, form: Form) -> str:
    """Describe a network for messages: ``fastvit_t8 (classifier with 1000 classes, unfused)``."""
    kind = f"classifier with {classes} classes" if head is Head.CLASSIFIER else head.value
    return f"{variant} ({kind}, {form})"


def check_variant(name: str) -> None:
    """Raise `UsageError` unless a variant of that name exists."""
    if name not in VARIANTS:
        near = get_close_matches(name, VARIANTS, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UsageError(f"There is no network {name!r}; {hint}known are {', '.join(VARIANTS)}.")


def _refuse(path: Path, problem: str, remedy: str) -> NoReturn:
    """Raise `CheckpointError` with one sentence: the file, what is wrong with it, and what to do."""
    raise CheckpointError(f"{path} {problem}; {remedy}.")


def _read(path: Path) -> tuple[dict[str, object], object]:
    """Return the weights of a file as stored, and the note that `save` may have written beside them.

    The first bytes select the reader, because the suffixes in use (.bin, .pth, .tar) identify no format.
    """
    try:
        with files.open_regular(path, WEIGHT_FILE) as file:
            start = file.read(64)
            if start[8:9] != b"{" and start.startswith((b"PK\x03\x04", b"\x80")):
                return _unwrap(path, _read_pickled(path, file))
    except OSError as error:
        _refuse(path, f"cannot be read ({_reason(error)})", "check its permissions")
    if start[8:9] == b"{":  # behind a length, whose first byte may be that of a pickle
        return _read_safetensors(path)
    if start and all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in start):
        line = start.decode("ascii").strip().splitlines()[0] if start.strip() else ""
        _refuse(path, f"is a text file that begins with {line[:40]!r}, not weights", f"give {KINDS}")
    _refuse(path, "is not a weight file", f"give {KINDS}")


def _read_safetensors(path: Path) -> tuple[dict[str, object], object]:
    """Return the tensors of a safetensors file, and the note in its header if there is one."""
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            stored: dict[str, object] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        note = msgspec.json.decode(header[NOTE]) if NOTE in header else None
    except Exception as error:
        _refuse(path, f"is truncated or damaged ({_reason(error)})", "fetch or copy it again")
    return stored, note


def _read_pickled(path: Path, file: BinaryIO) -> object:
    """Return the content of a file that torch.save wrote, in either of its containers, after all checks of it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about pickles that torch did not write, which raise below
        file.seek(0)
        if file.read(4) == b"PK\x03\x04":
            _check_nesting(path, io.BytesIO(_checked_archive(path, file)))
        else:
            file.seek(0)
            # In memory, since a file sets aside as much as a pickle says that a text in it has.
            start = io.BytesIO(file.read(2 * PICKLE))
            for _ in range(OLD_PICKLES):
                if start.tell() == len(start.getbuffer()):  # torch refuses it, too
                    break
                _check_nesting(path, start)
        file.seek(0)
        return _unpickle(path, file)


def _checked_archive(path: Path, file: BinaryIO) -> bytes:
    """Return the pickle of a zip archive, after refusing one that torch did not write, or that is damaged.

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
    except Exception as error:
        _refuse(path, f"is truncated or damaged ({_reason(error)})", "fetch or copy it again")
    if any(_leaf(entry) == "constants.pkl" for entry in entries):
        _refuse(path, "is a TorchScript program, which is code", "give the state dict it was made from")
    if problem or len(pickles) != 1:
        reason = f" ({problem})" if problem else ""
        _refuse(path, f"is a zip archive, but not one that torch.save writes{reason}", f"give {KINDS}")
    if damaged is not None:
        name = _printable(damaged)
        _refuse(path, f"is damaged: the CRC-32 of '{name}' is not the recorded one", "fetch or copy it again")
    if data is None:
        _refuse(path, f"has a pickle of more than {PICKLE} bytes", "save the network's state dict alone")
    return data


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


def _check_nesting(path: Path, pickle: BinaryIO) -> None:
    """Refuse a pickle that is too long or nests tuples too deeply; leave the file behind its end.

    Nothing is built: the depth of each value on the unpickler's stack is counted instead.
    """
    depths: list[int | None] = []  # None is a mark
    memo: dict[object, int] = {}
    begin = pickle.tell()
    try:
        for opcode, argument, _ in pickletools.genops(pickle):
            if pickle.tell() - begin > PICKLE:
                _refuse(path, f"has a pickle of more than {PICKLE} bytes", "save the network's state dict alone")
            if opcode.name == "MARK":
                depths.append(None)
            elif opcode.name == "MEMOIZE" or "PUT" in opcode.name:
                memo[len(memo) if argument is None else argument] = depths[-1] or 0
            elif "GET" in opcode.name:
                depths.append(memo[argument])
            else:
                deepest = _popped(depths, opcode) + (opcode.name in _DEEPENING)
                if deepest > NESTING:
                    _refuse(path, f"nests its values {deepest} deep", "save the network's state dict alone")
                depth = deepest if opcode.name in _DEEPENING | _SAME else 0
                depths += [depth] * len(opcode.stack_after)
    except CheckpointError:
        raise
    except Exception:  # of pickletools, which raises several kinds
        _refuse(path, "is damaged, or a pickle that torch.save did not write", f"fetch it again, or give {KINDS}")


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


def _unpickle(path: Path, file: BinaryIO) -> object:
    """Load a file that torch.save wrote, restricted to tensors and plain values.

    `argparse.Namespace` is allowed because training scripts, including timm's, store their options beside the weights.
    It holds attributes and runs nothing. torch receives an open file, not a path. By a path it would choose its reader
    by the suffix, and map the file into memory, where shortening it meanwhile ends the process.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        match = re.search(r"GLOBAL (\S+)", str(error))
        if match:
            name = _printable(match[1])
            problem = f"holds objects that are not tensors ({name}) and is refused, since reading them can run code"
            _refuse(path, problem, "save the network's state dict alone")
        _refuse(path, "is damaged, or a pickle that torch.save did not write", f"fetch it again, or give {KINDS}")


def _unwrap(path: Path, content: object) -> tuple[dict[str, object], object]:
    """Return the table of weights within a file's content, and the note of `save` if there is one."""
    if not isinstance(content, Mapping):
        _refuse(path, f"holds one {type(content).__name__}, not a table of weights", f"give {KINDS}")
    outer = cast("Mapping[object, object]", content)
    inner = next((outer[entry] for entry in ENTRIES if isinstance(outer.get(entry), Mapping)), outer)
    entries = cast("Mapping[object, object]", inner).items()
    return {_key(key): value for key, value in entries}, outer.get(NOTE)


def _key(key: object) -> str:
    """Return the name of an entry; any key that is no text or number names its type, since its text can be endless."""
    return str(key) if isinstance(key, str | int) else f"<{type(key).__name__}>"


def _source(path: Path, note: object) -> Weights | None:
    """Return the weights that a note of `save` names, or None without a note."""
    if note is None:
        return None
    try:
        return msgspec.convert(note, Provenance).source
    except Exception as error:  # a note can be nested beyond all limits, too
        _refuse(path, f"has a {NOTE} note that this tool did not write ({_reason(error)})", "save it again")


def _reason(error: Exception) -> str:
    """Return the first line of an error's message without its full stop, or the error's class if it has none."""
    message = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return _printable((message.strip() or type(error).__name__).splitlines()[0].rstrip("."))


def _printable(text: str) -> str:
    """Return a text of a file for a message: its printable characters, and no more than a line of them."""
    return "".join(letter for letter in text[:SHOWN] if letter.isprintable()) + ("…" if len(text) > SHOWN else "")


def _quoted(name: str) -> str:
    """Return the name of an entry in quotes, for a message."""
    return repr(name) if len(name) <= SHOWN else f"{name[:SHOWN]!r}…"


# --- recognising ------------------------------------------------------------------------------------------------------


def _published_names(path: Path, stored: dict[str, object]) -> tuple[NamingScheme, dict[str, Tensor]]:
    """Return the naming scheme of a file's entries, and the entries under their published names."""
    if not stored:
        _refuse(path, "holds no weights", f"give {KINDS}")
    if all(key.startswith(WRAPPER) for key in stored):
        stored = {key.removeprefix(WRAPPER): value for key, value in stored.items()}
    layout = NamingScheme.TIMM if any(key.startswith("stages.") for key in stored) else NamingScheme.PUBLISHED
    table = TIMM_NAMES if layout is NamingScheme.TIMM else ()
    if any(key.startswith(TIMM_POSITIONAL) for key in stored):
        table = (TIMM_AFTER_POSITIONAL, *table)
    state: dict[str, Tensor] = {}
    for key, value in stored.items():
        name = _rename(key, table)
        if name in state:
            _refuse(path, f"holds {_quoted(name)} twice, once under the name {_quoted(key)}", f"give {KINDS}")
        if not isinstance(value, Tensor):
            problem = f"its entry {_quoted(key)} is of type {type(value).__name__}, not a tensor"
            _refuse(path, f"holds no FastViT weights: {problem}", f"give {KINDS}")
        if not _is_plain(value):
            problem = f"holds {_quoted(key)} as a sparse, quantised, expanded or empty tensor"
            _refuse(path, problem, "save it as an ordinary dense tensor")
        state[name] = value
    return layout, state


def _rename(key: str, table: Iterable[tuple[str, str]]) -> str:
    """Apply every pattern of a table to a key, in order."""
    for pattern, replacement in table:
        key = re.sub(pattern, replacement, key)
    return key


def _is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor is an ordinary dense one on the CPU, with a place in its storage for every value."""
    return (
        type(tensor) in (Tensor, nn.Parameter)
        and tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_nested
        and not tensor.is_quantized
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )


def _recognise(path: Path, state: dict[str, Tensor]) -> tuple[str, Head, int, Form]:
    """Return variant, head, classes and form of the network that a state dict fits in every key and shape."""
    head = next((head for pattern, head in HEAD_KEYS if any(map(pattern.match, state))), Head.CLASSIFIER)
    fused = sum(FUSED_KEY.search(key) is not None for key in state)
    unfused = sum(UNFUSED_KEY.search(key) is not None for key in state)
    form = Form.FUSED if fused > unfused else Form.UNFUSED
    weight = state.get("head.weight")
    classes = weight.shape[0] if weight is not None and weight.ndim == 2 and head is Head.CLASSIFIER else 1000
    if classes == 0:
        _refuse(path, "has a classifier without classes", "give a checkpoint with a classifier")
    if classes > CLASSES:
        _refuse(path, f"has a classifier with {classes} classes, more than {CLASSES}", f"give {KINDS}")
    faults = {name: _disagreements(state, expected(name, head, classes, form)) for name in VARIANTS}
    nearest = min(faults, key=lambda name: len(faults[name]))
    if not faults[nearest]:
        return nearest, head, classes, form
    count, first = len(faults[nearest]), faults[nearest][0]
    description = summary(nearest, head, classes, form)
    places = "entry disagrees" if count == 1 else "entries disagree"
    verdict = f"does not hold a whole {nearest}"
    if 2 * count > len(state):
        verdict = f"holds no FastViT network (its first entry is {_quoted(next(iter(state)))})"
    problem = f"{verdict}: {count} {places} with {description}; first, by its published name, {first}"
    _refuse(path, problem, f"give {KINDS}")


@cache
def expected(variant: str, head: Head, classes: int, form: Form) -> Mapping[str, tuple[int, ...]]:
    """Return the shape of every parameter and statistic of a network by its published key, without allocating any."""
    with torch.device("meta"):
        network = FastViT(VARIANTS[variant], head=head, classes=classes, form=form)
    return MappingProxyType({key: tuple(tensor.shape) for key, tensor in network.state_dict().items()})


def _disagreements(state: dict[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> list[str]:
    """Describe each difference between a state dict and a network.

    Wrong and missing entries come first, in the network's order, then surplus ones.
    """
    differences: list[str] = []
    for key, shape in shapes.items():
        if key not in state:
            differences.append(f"{key} is missing")
        elif tuple(state[key].shape) != shape:
            differences.append(f"{key} has the shape {tuple(state[key].shape)}, not {shape}")
    return differences + [f"{_quoted(key)} is not a part of it" for key in state if key not in shapes]


def _checked_values(path: Path, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the entries copied out of the file as float32 (counters as int64).

    Raises `CheckpointError` for one that is not floating point or not finite, and for a negative variance.
    """
    values: dict[str, Tensor] = {}
    for key, tensor in state.items():
        if key.endswith(COUNTER) and not tensor.dtype.is_complex:
            values[key] = tensor.to(torch.int64, copy=True)
            continue
        if tensor.dtype not in FLOATS:
            dtype = str(tensor.dtype).removeprefix("torch.")
            _refuse(path, f"holds {key} as {dtype}, not as floating-point weights", "save it before quantisation")
        value = tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        if not value.isfinite().all():
            _refuse(path, f"holds {key} with values that are infinite or not a number", "give a checkpoint without")
        if key.endswith(".running_var") and (value < 0).any():
            _refuse(path, f"holds {key} with a negative variance", "it is damaged, so fetch or copy it again")
        values[key] = value
    return values


# --- hashes -----------------------------------------------------------------------------------------------------------


def record_path(path: Path) -> Path:
    """Return the path of the file that records a weight file's hash, in the format of sha256sum."""
    return path.with_name(f"{path.name}.sha256")


def recorded_sha256(path: Path) -> str | None:
    """Return the hash recorded beside a weight file, or None without a record.

    Raises `CheckpointError` for a record that names no hash of that file.
    """
    record = record_path(path)
    try:
        lines = files.read_text(record, RECORD).splitlines()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:  # so there is none
            return None
        _refuse(record, f"cannot be read ({_reason(error)})", "remove it, and the next download writes it again")
    for line in lines:
        entry = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line.rstrip())
        if entry and Path(entry[2]).name == path.name:
            return entry[1].lower()
    _refuse(record, f"records no SHA-256 of {path.name}", "remove it, and the next download writes it again")


def record_sha256(path: Path, digest: str) -> None:
    """Record the hash of a weight file beside it."""
    write_atomically(record_path(path), f"{digest}  {path.name}\n".encode())


def _check_hash(path: Path, sha256: str | None) -> str:
    """Return the hash of a weight file, after a check that it can be read, is not empty and has the expected hash."""
    try:
        if path.is_dir():
            _refuse(path, "is a folder", "give the weight file in it")
        if not path.exists():
            _refuse(path, "does not exist", "check the path; `fastvit-bench download` brings published checkpoints")
        if not path.is_file():
            _refuse(path, "is not a regular file", f"give {KINDS}")
        if path.stat().st_size == 0:
            _refuse(path, "is empty", "fetch or copy it again")
        files.open_regular(path, WEIGHT_FILE).close()  # for its size: the hash of a sparse file can take hours
        digest = file_sha256(path)
    except (OSError, ValueError) as error:
        _refuse(path, f"cannot be read ({_reason(error)})", "check its permissions")
    for wanted, source in ((sha256, "the configuration"), (recorded_sha256(path), record_path(path).name)):
        if wanted is not None and digest != wanted.strip().lower():
            raise ChecksumError(
                f"{path} has the SHA-256 {digest}, but {source} says {wanted}; "
                "fetch the file again, or correct the hash if the new content is what you want."
            )
    return digest


# --- writing ----------------------------------------------------------------------------------------------------------


def save(network: FastViT, path: Path, *, source: Weights) -> Weights:
    """Write a fused network in the published fused layout, in float32, and return the file's `Weights`.

    The suffix decides the container: ``.safetensors``, or ``.pth.tar`` / ``.pth``. `source` names the weights that were
    fused and is noted in the file. The file is written completely or not at all.

    Raises `UsageError` for a network in training form, a value beyond float32, and what `check_target` refuses.
    """
    if network.form is not Form.FUSED:
        raise UsageError(f"{path} is not written: only a fused network can be saved; fuse it first.")
    check_target(path)
    state = {key: _to_store(path, key, tensor) for key, tensor in network.state_dict().items()}
    note = Provenance(tool=__version__, source=source)
    if path.name.endswith(".safetensors"):
        # One field only: safetensors writes several in an order that changes, and with it the file's hash.
        data = safetensors.torch.save(state, metadata={NOTE: msgspec.json.encode(note).decode()})
    else:
        # Written to memory first: torch's own writer does not report a full disk as one error.
        buffer = io.BytesIO()
        torch.save({"state_dict": state, NOTE: msgspec.to_builtins(note)}, buffer)
        data = buffer.getvalue()
    write_atomically(path, data)
    return Weights(origin="checkpoint", sha256=hashlib.sha256(data).hexdigest(), file=path.name)


def check_target(path: Path) -> None:
    """Raise `UsageError` for a path that `save` cannot write, before any work.

    That is one with another suffix, of a folder, of a fetched checkpoint, and in a folder that cannot be written.
    """
    if not path.name.endswith((".safetensors", ".pth.tar", ".pth")):
        raise UsageError(f"{path} is not written: its name must end in .pth.tar, .pth or .safetensors.")
    if files.exists(record_path(path)):
        raise UsageError(f"{path} is not written: it is a fetched checkpoint; choose another file name.")
    reason = files.refusal(path.parent)
    try:
        if path.is_dir():
            raise UsageError(f"{path} is not written: it is a folder; name a file in it.")
        path.lstat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # a name that no file can have
        reason = _reason(error)
    if reason:
        raise UsageError(f"{path} cannot be written ({reason}); free some space or choose another folder.")


def is_saved(data: bytes) -> bool:
    """Return whether the content of a file is exactly what `save` writes: fused weights and their note, nothing else.

    A checkpoint that holds such a note among things of its own, as after further training, is not.
    """
    path = Path("content")  # for messages, which nobody reads
    try:
        if data[8:9] == b"{":
            length = int.from_bytes(data[:8], "little")
            header = msgspec.json.decode(data[8 : 8 + length], type=dict[str, Any]).get("__metadata__", {})
            return header.keys() == {NOTE} and _source(path, msgspec.json.decode(header[NOTE])) is not None
        content = _read_pickled(path, io.BytesIO(data))
        known = cast("dict[object, object]", content) if isinstance(content, dict) else {}
        return known.keys() == {"state_dict", NOTE} and _source(path, known[NOTE]) is not None
    except Exception:  # of many kinds; each says that the content is something else
        return False


def _to_store(path: Path, key: str, tensor: Tensor) -> Tensor:
    """Return a tensor as `save` stores it: on the CPU, contiguous, and in float32 unless it is a counter.

    Raises `UsageError` for a value beyond float32; `path` is for its message.
    """
    if not tensor.is_floating_point():
        return tensor.detach().cpu().contiguous()
    value = tensor.detach().to("cpu", torch.float32).contiguous()
    if not value.isfinite().all():
        raise UsageError(f"{path} is not written: {key} has values that float32 cannot hold; check the weights.")
    return value


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file completely or not at all, creating its folder. Raises `UsageError` if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
        files.write(path, data)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be written ({_reason(error)}); free some space or choose another folder."
        ) from error


# --- without a file ---------------------------------------------------------------------------------------------------


def randomised(variant: str, head: Head, classes: int, seed: int) -> tuple[FastViT, Weights]:
    """Build a FastViT in training form with random weights, for figures that need no trained ones.

    The weights are those of `random_weights.randomise`. The network is in evaluation mode and float32. torch's own
    random state does not change. Raises `UsageError` for a variant that does not exist and for fewer than one class.
    """
    check_variant(variant)
    if classes < 1:
        raise UsageError(f"A classifier has at least one class, not {classes}; correct `classes`.")
    with torch.device("meta"):
        network = FastViT(VARIANTS[variant], head=head, classes=classes)
    network = network.to_empty(device="cpu").eval()
    randomise(network, seed)
    return network, Weights(origin="random", seed=seed, draw=DRAW)
