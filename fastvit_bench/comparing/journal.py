"""The journal of a comparison: its blocks as they are measured, and the earlier ones of a comparison that goes on."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import msgspec

import fastvit_bench
from fastvit_bench import backends
from fastvit_bench.comparing.inputs import BaseSide, Candidate, ComparisonPair
from fastvit_bench.errors import NotComparableError, StoreError
from fastvit_bench.records import Device, Machine, Measurement
from fastvit_bench.records.comparison import Plan
from fastvit_bench.records.unfinished import (
    SCHEMA,
    BlockLine,
    CompareOptions,
    ComparisonStart,
    GateOptions,
    Unfinished,
)
from fastvit_bench.store import unfinished

Warn = Callable[[str], None]


class Journal:
    """The file of blocks of one comparison, and the blocks that an interrupted one measured before."""

    def __init__(
        self, path: Path, start: ComparisonStart, recorded: Sequence[BlockLine] = (), *, warn: Warn | None
    ) -> None:
        self.path, self.start, self.recorded = path, start, tuple(recorded)
        self._warn = warn  # None once something could not be written, and nothing more will be

    def record(self, line: BlockLine) -> None:
        """Write a block; one that cannot be written costs the resumption and not the comparison."""
        if self._warn is None:
            return
        try:
            unfinished.append(self.path, line)
        except StoreError as error:
            self._warn(f"{error} The comparison goes on, and cannot be resumed.")
            self._warn = None

    def remove(self) -> None:
        """Remove the file, once the finished comparison is written."""
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


def begin(
    folder: Path,
    command: str,
    identity: str,
    *,
    options: GateOptions | CompareOptions | None,
    machine: Machine,
    plan: Plan,
    pairs: Sequence[ComparisonPair],
    warn: Warn,
) -> Journal:
    """Write the file of a new comparison into the folder of a device's results, and return its journal.

    A file that cannot be written is a warning: the comparison can be measured, and not be resumed.
    """
    start = ComparisonStart(
        schema=SCHEMA,
        id=identity,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        tool=fastvit_bench.__version__,
        options=options,
        machine=machine,
        plan=plan,
        sides=_sides(pairs),
    )
    path = unfinished.path_of(folder, command, identity)
    try:
        unfinished.create(path, start)
    except StoreError as error:
        warn(f"{error} The comparison goes on, and cannot be resumed.")
        return Journal(path, start, warn=None)
    return Journal(path, start, warn=warn)


def resume(
    earlier: Unfinished, *, machine: Machine, plan: Plan, pairs: Sequence[ComparisonPair], device: Device, warn: Warn
) -> Journal:
    """Return the journal of an interrupted comparison.

    Raises `NotComparableError` if what it compares, or how or where, is no longer what it was.
    """
    start = earlier.start
    changes = machine.differences(start.machine, backends.figure_packages(device))
    if start.tool != fastvit_bench.__version__:
        changes.append(f"fastvit-bench: {start.tool} then, {fastvit_bench.__version__} now")
    changes += [f"{name}: {before} then, {after} now" for name, before, after in _plan_changes(start.plan, plan)]
    changes += _side_changes(start.sides, _sides(pairs))
    if changes:
        raise NotComparableError(
            f"The comparison {start.id} cannot go on, because something has changed since ({'; '.join(changes)}). "
            f"Begin a new one without --resume."
        )
    return Journal(Path(earlier.path), start, earlier.blocks, warn=warn)


def _plan_changes(before: Plan, after: Plan) -> list[tuple[str, object, object]]:
    """Return the fields in which two plans differ, with both values."""
    names = (name for name in before.__struct_fields__ if getattr(before, name) != getattr(after, name))
    return [(name, getattr(before, name), getattr(after, name)) for name in names]


def _side_changes(before: Mapping[str, tuple[str, str]], after: Mapping[str, tuple[str, str]]) -> list[str]:
    """Return a phrase for each cell that is another one, or has another file on a side."""
    phrases: list[str] = []
    for name in dict.fromkeys([*before, *after]):
        old, new = before.get(name), after.get(name)
        if old is None or new is None:
            phrases.append(f"{name} is {'new' if old is None else 'gone'}")
        else:
            differing = [
                side for side, *digests in zip(("base", "head"), old, new, strict=True) if len(set(digests)) > 1
            ]
            phrases += [f"{name}: another {side}" for side in differing]
    return phrases


def _sides(pairs: Sequence[ComparisonPair]) -> dict[str, tuple[str, str]]:
    return {pair.name: (_digest(pair.base), _digest(pair.head)) for pair in pairs}


def _digest(side: BaseSide) -> str:
    """Return a digest of what decides the times of a side: its file, and how it is run; or of its stored figure."""
    if isinstance(side, Measurement):
        return sha256(msgspec.json.encode(side)).hexdigest()[:16]
    if isinstance(side, Candidate):
        facts = (side.artifact.sha256, side.device, side.command)
        return sha256(msgspec.json.encode(facts, order="sorted")).hexdigest()[:16]
    return "none"
