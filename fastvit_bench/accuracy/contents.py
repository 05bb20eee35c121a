"""Digests of the contents of images, in the order in which they are counted.

The digest after an image is the SHA-256 of the digest before it and of the image's own SHA-256. So a count that goes on
continues the digest of the images before, and two counts of equal contents have equal digests, whatever their chunks.
"""

from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256
from pathlib import Path

from fastvit_bench import files
from fastvit_bench.records import LabelledImage


def read(path: Path) -> tuple[bytes, OSError | None]:
    """Return the content of an image file, or nothing and the reason why it cannot be read."""
    try:
        return files.read_bytes(path, files.IMAGE), None
    except OSError as error:
        return b"", error


def extended(before: str, own: bytes) -> str:
    """Return the digest after an image with the SHA-256 `own`; `before` is that of the images before, or empty."""
    return sha256(bytes.fromhex(before) + own).hexdigest()


def digests_after(
    folder: Path, pictures: Sequence[LabelledImage], counts: Collection[int], workers: int
) -> dict[int, str]:
    """Return the digests after so many images, by their number; the files are read by `workers` threads."""

    def own_digest(picture: LabelledImage) -> bytes:
        return sha256(read(folder / picture.name)[0]).digest()

    digests: dict[int, str] = {}
    digest = ""
    section = pictures[: max(counts, default=0)]
    with ThreadPoolExecutor(workers, thread_name_prefix="hash") as pool:
        for number, own in enumerate(pool.map(own_digest, section), 1):
            digest = extended(digest, own)
            if number in counts:
                digests[number] = digest
    return digests
