"""Hash, measure, replace and remove files, and folders that count as one file, such as Core ML packages."""

import os
import shutil
from pathlib import Path

from fastvit_bench.errors import ConfigError


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content in hex, read in pieces. Raises `OSError` if the file cannot be read."""
    import hashlib  # here, because `--help` would wait for OpenSSL

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256(path: Path) -> str:
    """Return the SHA-256 in hex of a file, or of the names and digests of a folder's files, sorted by name."""
    if not path.is_dir():
        return file_sha256(path)
    import hashlib

    digest = hashlib.sha256()
    for file in _files(path):
        digest.update(f"{file.relative_to(path).as_posix()}\0{file_sha256(file)}\n".encode())
    return digest.hexdigest()


def size_bytes(path: Path) -> int:
    """Return the bytes in a file, or in all files of a folder."""
    return sum(file.stat().st_size for file in _files(path)) if path.is_dir() else path.stat().st_size


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def put(source: Path, target: Path) -> None:
    """Move a finished file or folder to its final name, in the place of an earlier one.

    A folder cannot be replaced in one step, so the old one is renamed first. If the new one cannot be moved, the old
    one is renamed back.
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
    """Write a file completely or not at all, in the place of an earlier one; raises `OSError` if the disk refuses."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        draft.write_bytes(data)
        put(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def refusal(folder: Path) -> str | None:
    """Return the reason why a folder cannot be written or created, or None if it can; nothing is changed.

    It is called before work that takes minutes. The write itself may still fail.
    """
    try:
        nearest = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
        if not nearest.is_dir():
            return f"{nearest} is no folder"
        return None if os.access(nearest, os.W_OK | os.X_OK) else f"{nearest} is read-only"
    except OSError as error:  # such as a name that is too long, or a folder without permission to read it
        return error.strerror or str(error)


def _files(folder: Path) -> list[Path]:
    """Return all files below a folder, sorted by path."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


_PACKAGE = Path(__file__).parent


# name -> path in the repository; in the wheel every name is in fastvit_bench/resources/ (see pyproject.toml)
_IN_REPOSITORY: dict[str, str] = {
    "benchmark.toml": "benchmark.toml",
    "published": "results/published",
}


def find(name: str) -> Path:
    """Return the path of the packaged ``benchmark.toml`` or ``published``.

    Raises `ConfigError` for any other name, and when the installation lacks the data.
    """
    if name not in _IN_REPOSITORY:
        raise ConfigError(f"The package holds no data called '{name}'. It holds: {', '.join(sorted(_IN_REPOSITORY))}.")
    packaged = _PACKAGE / "resources" / name
    cloned = _PACKAGE.parent / _IN_REPOSITORY[name]
    for path in (packaged, cloned):
        if path.exists():
            return path
    raise ConfigError(f"'{name}' is neither at {packaged} nor at {cloned}. Install fastvit-bench again.")
