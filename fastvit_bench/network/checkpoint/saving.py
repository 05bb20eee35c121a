"""Writing of weight files: one layout, the published fused one, with a note of where the weights came from."""

import hashlib
import io
from pathlib import Path
from typing import Any, cast

import msgspec
import safetensors.torch
import torch
from torch import Tensor

from fastvit_bench import __version__, files
from fastvit_bench.errors import UsageError
from fastvit_bench.network.checkpoint import pickles
from fastvit_bench.network.checkpoint.hashes import record_path, write_atomically
from fastvit_bench.network.checkpoint.messages import reason, refuse
from fastvit_bench.network.fastvit import FastViT, Form
from fastvit_bench.records import Record, Weights

NOTE = "fastvit_bench"  # the entry, or header field, with the `Provenance`


class Provenance(Record, frozen=True):
    """Note that `save` writes beside the weights: its version, and the weights that were fused."""

    tool: str  # version of fastvit-bench
    source: Weights


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
    problem = files.refusal(path.parent)
    try:
        if path.is_dir():
            raise UsageError(f"{path} is not written: it is a folder; name a file in it.")
        path.lstat()
    except FileNotFoundError:
        pass
    except (OSError, ValueError) as error:  # a name that no file can have
        problem = reason(error)
    if problem:
        raise UsageError(f"{path} cannot be written ({problem}); free some space or choose another folder.")


def is_saved(data: bytes) -> bool:
    """Return whether the content of a file is exactly what `save` writes: fused weights and their note, nothing else.

    A checkpoint that holds such a note among things of its own, as after further training, is not.
    """
    path = Path("content")  # for messages, which nobody reads
    try:
        if data[8:9] == b"{":
            length = int.from_bytes(data[:8], "little")
            header = msgspec.json.decode(data[8 : 8 + length], type=dict[str, Any]).get("__metadata__", {})
            return header.keys() == {NOTE} and source_of(path, msgspec.json.decode(header[NOTE])) is not None
        content = pickles.read(path, io.BytesIO(data)).content
        known = cast("dict[object, object]", content) if isinstance(content, dict) else {}
        return known.keys() == {"state_dict", NOTE} and source_of(path, known[NOTE]) is not None
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


def source_of(path: Path, note: object) -> Weights | None:
    """Return the weights that a note of `save` names, or None without a note."""
    if note is None:
        return None
    try:
        return msgspec.convert(note, Provenance).source
    except Exception as error:  # a note can be nested beyond all limits, too
        refuse(path, f"has a {NOTE} note that this tool did not write ({reason(error)})", "save it again")
