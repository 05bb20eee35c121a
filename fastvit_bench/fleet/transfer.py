"""Exported files on their way to the workers: named by their hashes, in chunks, past the scheduler.

The client listens; a worker fetches what it lacks, checks it, and keeps it in its cache under the hash of its contents.
"""

import hashlib
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

import filelock
import msgspec
from distributed import Worker, get_worker
from distributed.core import Server
from distributed.security import Security
from distributed.utils import sync

from fastvit_bench import files
from fastvit_bench.errors import ChecksumError, UsageError
from fastvit_bench.exporting import metadata
from fastvit_bench.records import Record

CHUNK = 4 << 20  # bytes of one message


class FileReference(Record, frozen=True):
    """A file beside or inside an exported one: its name below their folder, and its content's hash."""

    name: str
    sha256: str
    size_bytes: int


class Parcel(Record, frozen=True):
    """A file and those that belong to it, to be fetched together."""

    name: str  # of the file or package that the others belong to
    files: tuple[FileReference, ...]


def references(path: Path) -> dict[FileReference, Path]:
    """Return the files that make up an exported one: its own or those of its package, and those beside it."""
    own = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]
    beside = [metadata.metadata_path(path), metadata.reference_outputs_path(path)]
    return {
        FileReference(
            name=file.relative_to(path.parent).as_posix(),
            sha256=files.file_sha256(file),
            size_bytes=file.stat().st_size,
        ): file
        for file in (*own, *(file for file in beside if files.exists(file)))
    }


class FileServer(Server):
    """A listener of the client that sends chunks of the files that were added to it, and of no others."""

    def __init__(self, security: Security) -> None:
        self.sent_bytes = 0
        self._sources: dict[str, Path | bytes] = {}
        self._parcels: dict[Path, Parcel] = {}
        # messages stay as they arrive: nothing in them is unpickled
        super().__init__(
            {"chunk": self.chunk}, deserialize=False, connection_args=security.get_connection_args("client")
        )

    def add(self, path: Path) -> Parcel:
        """Offer the files of an exported one, which is hashed once, and return them as a parcel."""
        if path not in self._parcels:
            added = references(path)
            self._sources.update({reference.sha256: file for reference, file in added.items()})
            self._parcels[path] = Parcel(name=path.name, files=tuple(added))
        return self._parcels[path]

    def add_content(self, name: str, content: bytes) -> Parcel:
        """Offer a content as a file of that name, and return it as a parcel."""
        reference = FileReference(name=name, sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
        self._sources[reference.sha256] = content
        return Parcel(name=name, files=(reference,))

    async def chunk(self, sha256: str, offset: int) -> bytes:
        """Return the bytes of a file from an offset on, `CHUNK` at most. Raises `KeyError` for an unknown file."""
        source = self._sources[sha256]
        if isinstance(source, bytes):
            content = source[offset : offset + CHUNK]
        else:
            with files.open_regular(source) as file:
                file.seek(offset)
                content = file.read(CHUNK)
        self.sent_bytes += len(content)
        return content


def fetch(parcel: Parcel, address: str) -> Path:
    """Return the path of a parcel's file; what the cache lacks is fetched from the client at `address`.

    Raises `ChecksumError` for a file that arrives with another content, and `UsageError` for a name that would lie
    outside. A fetch that fails leaves nothing under the folder's name.
    """
    for name in (parcel.name, *(reference.name for reference in parcel.files)):
        if not all(files.is_part(part) for part in PurePosixPath(name).parts) or name[:1] == "/":
            raise UsageError(f"A file named {name!r} is not fetched.")
    key = hashlib.sha256(msgspec.json.encode(sorted(parcel.files, key=lambda entry: entry.name))).hexdigest()
    folder = files.cache_folder() / "files" / key
    folder.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder.with_name(f".{key}.lock")):
        if not folder.is_dir():
            draft = folder.with_name(f".{key}.draft")
            shutil.rmtree(draft, ignore_errors=True)  # of a killed worker
            try:
                for reference in parcel.files:
                    _fetch_file(reference, address, draft / reference.name)
                draft.replace(folder)
            finally:
                shutil.rmtree(draft, ignore_errors=True)
    return folder / parcel.name


def _fetch_file(reference: FileReference, address: str, target: Path) -> None:
    worker: Worker = get_worker()
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, received = hashlib.sha256(), 0
    with target.open("wb") as file:
        while received < reference.size_bytes:
            content: Any = sync(worker.loop, worker.rpc(address).chunk, sha256=reference.sha256, offset=received)
            if not content:
                break
            file.write(content)
            digest.update(content)
            received += len(content)
    if received != reference.size_bytes or digest.hexdigest() != reference.sha256:
        raise ChecksumError(f"{reference.name} arrived with another content than its hash says; run the sweep again.")
