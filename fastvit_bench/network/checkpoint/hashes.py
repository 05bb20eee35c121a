"""Hashes of weight files, recorded beside them in the format of sha256sum."""

import errno
import re
from pathlib import Path

from fastvit_bench import files
from fastvit_bench.errors import UsageError
from fastvit_bench.network.checkpoint.messages import reason, refusal, refuse

RECORD = 64 << 10  # bytes of a file with hashes


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
        refuse(record, f"cannot be read ({reason(error)})", "remove it, and the next download writes it again")
    for line in lines:
        entry = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line.rstrip())
        if entry and Path(entry[2]).name == path.name:
            return entry[1].lower()
    raise refusal(record, f"records no SHA-256 of {path.name}", "remove it, and the next download writes it again")


def record_sha256(path: Path, digest: str) -> None:
    """Record the hash of a weight file beside it."""
    write_atomically(record_path(path), f"{digest}  {path.name}\n".encode())


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file completely or not at all, creating its folder. Raises `UsageError` if it cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
        files.write(path, data)
    except (OSError, ValueError) as error:
        raise UsageError(
            f"{path} cannot be written ({reason(error)}); free some space or choose another folder."
        ) from error
