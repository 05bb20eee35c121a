"""Files of blocks: what a comparison has measured so far, so that a killed one can go on.

A file ``results/<device>/<command>-<id>.blocks`` has a line for the start and one for each block, on the disk before
the next block begins. It is removed when the finished comparison is written as a document.
"""

import os
from pathlib import Path

import msgspec

from fastvit_bench import files
from fastvit_bench.errors import StoreError
from fastvit_bench.records.unfinished import SCHEMA, BlockLine, ComparisonStart, Unfinished, UnfinishedLine

SUFFIX = ".blocks"
LAST = "last"  # word of the command line for the newest one


def path_of(folder: Path, command: str, identity: str) -> Path:
    """Return the path of a command's file of blocks, in the folder of a device's results."""
    return folder / f"{command}-{identity}{SUFFIX}"


def create(path: Path, start: ComparisonStart) -> None:
    """Write a new file with its first line. Raises `StoreError` where it cannot be written, or not be read again."""
    data = _encoded(start)
    _decoded(path, 1, data)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, data)
    except OSError as error:
        raise StoreError(f"The file of blocks {path} cannot be written: {error.strerror or error}.") from error


def append(path: Path, line: BlockLine) -> None:
    """Append a line; when this returns, it survives a power cut. Raises `StoreError` where it cannot be written."""
    try:
        files.append(path, _encoded(line))
    except OSError as error:
        raise StoreError(f"The block was not added to {path}: {error.strerror or error}.") from error


def reopen(path: Path) -> Unfinished:
    """Return a file that is to be continued, after cutting off a line that a killed process did not finish.

    Raises `StoreError` with the line of any other damage.
    """
    try:
        data = files.read_bytes(path, files.PROGRAM)
    except OSError as error:
        raise StoreError(f"The file of blocks {path} cannot be read: {error.strerror or error}.") from None
    end = data.rfind(b"\n") + 1
    lines = [_decoded(path, number, raw) for number, raw in enumerate(data[:end].splitlines(keepends=True), 1)]
    start, *blocks = lines or [None]
    if not isinstance(start, ComparisonStart) or not all(isinstance(line, BlockLine) for line in blocks):
        raise StoreError(f"{path} is no file of blocks; remove it, and begin a new comparison.")
    if end < len(data):
        try:
            os.truncate(path, end)
        except OSError as error:
            raise StoreError(f"The unfinished line of {path} cannot be cut off: {error.strerror or error}.") from None
    return Unfinished(path=str(path), start=start, blocks=tuple(line for line in blocks if isinstance(line, BlockLine)))


def find(results: Path, command: str, ref: str) -> Path:
    """Return the file of blocks that `ref` means: ``last``, an id, the beginning of one, or a path.

    Raises `StoreError` when none or several fit.
    """
    if ref.endswith(SUFFIX):
        return Path(ref)
    paths = sorted(results.glob(f"*/{command}-*{SUFFIX}"), key=lambda path: path.stem)
    identities = {path: path.stem.removeprefix(f"{command}-") for path in paths}
    matches = paths[-1:] if ref == LAST else [path for path in paths if identities[path].startswith(ref)]
    if not matches:
        raise StoreError(f"No interrupted {command} in {results} is called '{ref}'; begin a new one without --resume.")
    if len(matches) > 1:
        known = ", ".join(identities[path] for path in matches[:5])
        raise StoreError(f"'{ref}' fits {len(matches)} of them: {known}. Write more of the id.")
    return matches[0]


def _encoded(line: UnfinishedLine) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def _decoded(path: Path, number: int, raw: bytes) -> UnfinishedLine:
    try:
        line = msgspec.json.decode(raw, type=UnfinishedLine)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        reason = str(error).replace("`", "'").rstrip(".")
        raise StoreError(
            f"{path}, line {number}: {reason}. It was changed or damaged; remove it, and begin a new comparison."
        ) from None
    if isinstance(line, ComparisonStart) and line.schema != SCHEMA:
        raise StoreError(f"{path} has schema {line.schema}, this version reads {SCHEMA}; begin a new comparison.")
    return line
