"""List what exporting left in the models folder, so that it can be removed: files, engines and environments.

Only what this tool wrote, and nobody changed since, is listed; checkpoints and results never are.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from fastvit_bench import files
from fastvit_bench.backends import _sidecars
from fastvit_bench.errors import UsageError
from fastvit_bench.exporting.metadata import read_artifact, reference_outputs_path
from fastvit_bench.records import Engine, TimingCache
from fastvit_bench.records.removable import Removable, RemovableKind

ENVIRONMENTS = ".environments"  # folder of the environments that compared revisions need
_ABANDONED_S = 86_400  # age of a temporary folder without a lock, on file systems that have none
_ENVIRONMENT = re.compile(r"[0-9a-f]{12}")


def items(models: Path) -> list[Removable]:
    """Return everything in the models folder that can be made again, by model and name.

    Left out are links, and folders in which another process is writing.
    """
    folders = [folder for folder in _folders(models) if folder.name != ENVIRONMENTS and not is_used(folder)]
    return [
        *(item for folder in folders for item in _of_model(folder)),
        *(_environment(home) for home in _folders(models / ENVIRONMENTS) if _is_environment(home)),
    ]


def used(models: Path) -> list[Path]:
    """Return the folders of models in which another process is writing."""
    return [folder for folder in _folders(models) if is_used(folder)]


def is_used(folder: Path) -> bool:
    """Return whether another process has a temporary folder in a folder, as exports and downloads do."""
    return any(
        place.is_dir() and not files.is_abandoned(place, _ABANDONED_S) for place in folder.glob(f".{files.PREFIX}*")
    )


def remove(item: Removable) -> None:
    """Remove an item, its side-car last, so that an interrupted removal can go on. Raises `OSError`."""
    for path in item.paths:
        files.remove(Path(path))


def _folders(folder: Path) -> list[Path]:
    if not folder.is_dir() or folder.is_symlink():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())


def _of_model(folder: Path) -> Iterator[Removable]:
    """Yield the items of a model's folder, each found by its side-car."""
    for notes in sorted(folder.glob("*.json")):
        if notes.is_symlink() or not notes.is_file():
            continue
        path = notes.with_suffix("")
        for kind, owns in _OWNERS.items():
            beside = owns(path)
            if beside is not None:
                yield _item(kind, folder.name, [*beside, notes])


def _item(kind: RemovableKind, model: str, paths: Sequence[Path]) -> Removable:
    existing = tuple(path for path in paths if files.exists(path))
    size = sum(files.size_bytes(path) for path in existing)
    return Removable(kind, model, tuple(map(str, existing)), size, existing[-1].stat().st_mtime)


def _export(path: Path) -> list[Path] | None:
    """Return an exported file and its reference outputs if a side-car describes it as it is; else None."""
    from fastvit_bench.exporting import verification

    try:
        digest = read_artifact(path).sha256
    except UsageError:
        return None
    if not _is_described(path, digest):
        return None
    outputs = reference_outputs_path(path)
    is_own = not outputs.is_symlink() and outputs.is_file() and verification.is_own(outputs)
    return [path, outputs] if is_own else [path]


def _engine(path: Path) -> list[Path] | None:
    return _with_sidecar(path, Engine)


def _timings(path: Path) -> list[Path] | None:
    return _with_sidecar(path, TimingCache)


def _with_sidecar(path: Path, kind: type[Engine | TimingCache]) -> list[Path] | None:
    """Return a file if its side-car is of a kind and describes it as it is; else None."""
    with suppress(UsageError, OSError):
        if _is_described(path, _sidecars.read(path.with_name(path.name + ".json"), kind).sha256):
            return [path]
    return None


def _is_described(path: Path, digest: str | None) -> bool:
    """Return whether a file is gone, which leaves its side-car useless, or has the digest in its side-car."""
    if path.is_symlink():
        return False
    if not files.exists(path):
        return True
    try:
        return files.sha256(path) == digest
    except OSError:
        return False


_OWNERS = {RemovableKind.EXPORT: _export, RemovableKind.ENGINE: _engine, RemovableKind.TIMINGS: _timings}


def _is_environment(home: Path) -> bool:
    return _ENVIRONMENT.fullmatch(home.name) is not None and (home / "pyvenv.cfg").is_file()


def _environment(home: Path) -> Removable:
    size, modified = files.stored_bytes(home), (home / "pyvenv.cfg").stat().st_mtime
    return Removable(RemovableKind.ENVIRONMENT, "", (str(home),), size, modified)
