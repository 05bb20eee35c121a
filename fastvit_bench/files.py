"""Files, and folders that count as one (a Core ML package): their hash, their size, replacing and removing them."""

import os
import shutil
from pathlib import Path


def file_sha256(path: Path) -> str:
    """Hex digest of a file's content, read in pieces. Raises `OSError` as opening and reading do."""
    import hashlib  # here, because `--help` would wait for OpenSSL

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256(path: Path) -> str:
    """Hex digest of a file, or of a folder: of its files' names and digests, in the order of their names."""
    if not path.is_dir():
        return file_sha256(path)
    import hashlib

    digest = hashlib.sha256()
    for file in _files(path):
        digest.update(f"{file.relative_to(path).as_posix()}\0{file_sha256(file)}\n".encode())
    return digest.hexdigest()


def size_bytes(path: Path) -> int:
    """Bytes in a file, or in all files of a folder."""
    return sum(file.stat().st_size for file in _files(path)) if path.is_dir() else path.stat().st_size


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def put(source: Path, target: Path) -> None:
    """Give a finished file or folder its name, in the place of what bears it now.

    A folder cannot be replaced in one step, so the old one steps aside first; if the new one cannot take its place,
    the old one comes back.
    """
    if not target.is_dir():
        source.replace(target)
        return
    aside = target.with_name(f".{target.name}.{os.getpid()}.old")
    target.replace(aside)
    try:
        source.replace(target)
    except OSError:
        aside.replace(target)
        raise
    shutil.rmtree(aside)


def write(path: Path, data: bytes) -> None:
    """Write a file whole or not at all, in the place of an earlier one; raises `OSError` where the disk refuses."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        draft.write_bytes(data)
        put(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def refusal(folder: Path) -> str | None:
    """Why nothing can be written into a folder, or could be once it is made; None where it can. Changes nothing.

    Work that takes minutes asks before it begins. What the disk says in the end is still the last word.
    """
    try:
        nearest = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
        if not nearest.is_dir():
            return f"{nearest} is no folder"
        return None if os.access(nearest, os.W_OK | os.X_OK) else f"{nearest} is read-only"
    except OSError as error:  # such as a name that is too long, or a folder that may not be looked into
        return error.strerror or str(error)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())
