"""What can be made again: in the models folder, and the cache."""

from enum import StrEnum

from fastvit_bench.records.artifact import Count
from fastvit_bench.records.spec import Record


class RemovableKind(StrEnum):
    """Kinds of what can be made again."""

    EXPORT = "export"
    ENGINE = "engine"
    TIMINGS = "kernel timings"
    ENVIRONMENT = "environment"
    CACHE = "cache of figures"


class Removable(Record, frozen=True):
    """A file or folder with the files beside it that belong to it, the side-car last."""

    kind: RemovableKind
    model: str  # name of its folder; empty for an environment and the cache
    paths: tuple[str, ...]  # the first is the file or folder itself, or what is left of it
    size_bytes: Count
    modified: float  # seconds since 1970
