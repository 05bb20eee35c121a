"""Values that can be made again, kept in an SQLite file of the user's cache folder, which is never the truth.

A value belongs to a key and holds for one stamp, which names what it was made of. A file that is missing, damaged,
locked or read-only gives nothing and takes nothing. It may be deleted at any time, also while it is in use.
"""

import functools
import hashlib
import sys
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

from fastvit_bench import files
from fastvit_bench.records.removable import Removable, RemovableKind

if TYPE_CHECKING:  # not needed before something is read
    import sqlite3

Result = TypeVar("Result")

NAME = "figures-1.sqlite"  # the number is that of the layout
MOST_BYTES = 4 << 30  # a larger file is begun anew
WAIT_S = 2.0  # for a process that is writing
_UNSAVED = 8 << 20  # bytes of values that wait for being written

_LAYOUT = "CREATE TABLE IF NOT EXISTS entry (key TEXT PRIMARY KEY, stamp BLOB, value BLOB, checksum INTEGER)"


def path() -> Path:
    """Return the path of the file, which need not exist."""
    return files.cache_folder() / NAME


def removable() -> list[Removable]:
    """Return the file as something that can be removed; none where there is no such file."""
    with suppress(OSError):
        status = path().stat()
        return [Removable(RemovableKind.CACHE, "", (str(path()),), status.st_size, status.st_mtime)]
    return []


@functools.cache
def program() -> bytes:
    """Return a digest of the code that computes and reads values: another version's are not used."""
    package = Path(__file__).parent.parent
    digest = hashlib.sha256(sys.byteorder.encode())
    for folder in ("records", "stats", "store"):
        for module in sorted((package / folder).rglob("*.py")):
            digest.update(module.read_bytes())
    return digest.digest()


class Cache:
    """The file, for one command: values are read at once, and written when they have become many or in the end."""

    def __init__(self) -> None:
        """Open the file, or make it."""
        self._connection: Any = None
        self._unsaved: dict[str, tuple[bytes, bytes]] = {}
        self._size = 0
        try:
            import sqlite3
        except ImportError:  # some builds of Python are without it
            return
        try:
            path().parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path(), timeout=WAIT_S, isolation_level=None)
        except (OSError, sqlite3.Error):
            return
        self._attempt(_prepare)

    def __enter__(self) -> Self:
        """Return the cache."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Write what is new, and close the file."""
        self._save()
        self._close()

    def get(self, key: str, stamp: bytes) -> bytes | None:
        """Return the value of a key; None where there is none, or it was made of something else or damaged."""
        if key in self._unsaved:
            known, value = self._unsaved[key]
            return value if known == stamp else None
        row = self._attempt(
            lambda connection: connection.execute(
                "SELECT stamp, value, checksum FROM entry WHERE key = ?", (key,)
            ).fetchone()
        )
        if row is None or row[0] != stamp or not isinstance(row[1], bytes) or _checksum(key, stamp, row[1]) != row[2]:
            return None
        return row[1]

    def put(self, key: str, stamp: bytes, value: bytes) -> None:
        """Keep a value for the next command."""
        self._unsaved[key] = stamp, value
        self._size += len(value)
        if self._size > _UNSAVED:
            self._save()

    def remembered(self, key: str, stamp: bytes, make: Callable[[], bytes]) -> bytes:
        """Return the value of a key, which is made where there is none."""
        value = self.get(key, stamp)
        if value is None:
            value = make()
            self.put(key, stamp, value)
        return value

    def _save(self) -> None:
        rows = [(key, stamp, value, _checksum(key, stamp, value)) for key, (stamp, value) in self._unsaved.items()]
        self._unsaved.clear()
        self._size = 0
        if rows:
            self._attempt(lambda connection: _write(connection, rows))

    def _attempt(self, work: "Callable[[sqlite3.Connection], Result]") -> Result | None:
        """Return what work on the file returns; None, and do without the file from then on, where it fails."""
        if self._connection is None:
            return None
        import sqlite3

        try:
            return work(self._connection)
        except sqlite3.OperationalError:  # locked, read-only, or the disk is full
            self._close()
        except sqlite3.DatabaseError:  # damaged, or no such file at all
            self._close()
            with suppress(OSError):
                path().unlink()
        return None

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _checksum(key: str, stamp: bytes, value: bytes) -> int:
    return zlib.crc32(value, zlib.crc32(stamp, zlib.crc32(key.encode())))


def _prepare(connection: "sqlite3.Connection") -> None:
    # what a power cut or a kill damages is made again; a journal beside the file would outlive a deletion
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("PRAGMA journal_mode = MEMORY")
    connection.execute("PRAGMA page_size = 16384")
    if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        connection.execute(_LAYOUT)


def _write(connection: "sqlite3.Connection", rows: list[tuple[str, bytes, bytes, int]]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    pages, size = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    if pages * size > MOST_BYTES:
        connection.execute("DELETE FROM entry")
    connection.executemany("INSERT OR REPLACE INTO entry VALUES (?, ?, ?, ?)", rows)
    connection.execute("COMMIT")
