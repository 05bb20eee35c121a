"""What identifies a file: the hash of its content, readable without importing torch."""

from pathlib import Path


def file_sha256(path: Path) -> str:
    """Hex digest of a file's content, read in pieces. Raises `OSError` as opening and reading do."""
    import hashlib  # here, because `--help` would wait for OpenSSL

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
