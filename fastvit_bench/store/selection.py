"""Selections: the lines of run files that fit conditions on the command line, such as ``resolution=512``.

Lines are dropped as they are read, so that a selection of a large store takes the memory of what it shows.
"""

import fnmatch
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from fastvit_bench.errors import StoreError, UsageError
from fastvit_bench.records import (
    Accuracy,
    Device,
    ExternalModel,
    Failure,
    Fuse,
    Machine,
    Measurement,
    Run,
    Shape,
    Weights,
)
from fastvit_bench.store import runs
from fastvit_bench.store.runs import Line

_MOST_NAMED = 8  # values of a field in a message


class _Facts(NamedTuple):
    """The facts of a line that conditions are about."""

    run: Run
    device: Device
    machine: Machine
    model: str
    precision: str
    shape: Shape | None
    fused: Fuse | None
    weights: Weights | None


def _facts(line: Measurement | Failure | Accuracy, run: Run) -> _Facts:
    if isinstance(line, Failure):
        cell, device = line.cell, run.request.device
        return _Facts(run, device, run.machine, cell.model, device.precision, cell.shape, cell.fused, cell.weights)
    file = line.artifact
    own = (None, None) if isinstance(file, ExternalModel) else (file.level, file.weights)
    return _Facts(run, line.device, line.machine, file.model, file.precision, file.shape, *own)


_NUMBERS: dict[str, Callable[[_Facts], int | None]] = {
    "resolution": lambda facts: facts.shape.height if facts.shape and facts.shape.height == facts.shape.width else None,
    "height": lambda facts: facts.shape.height if facts.shape else None,
    "width": lambda facts: facts.shape.width if facts.shape else None,
    "batch": lambda facts: facts.shape.batch if facts.shape else None,
    "cores": lambda facts: facts.machine.cores,
}
_TEXTS: dict[str, Callable[[_Facts], str | None]] = {
    "model": lambda facts: facts.model,
    "device": lambda facts: facts.device.name,
    "backend": lambda facts: facts.device.backend,
    "precision": lambda facts: facts.precision,
    "fuse": lambda facts: facts.fused.value if facts.fused else None,
    "weights": lambda facts: facts.weights.label if facts.weights else None,
    "machine": lambda facts: facts.machine.name,
    "host": lambda facts: facts.machine.host,
    "processor": lambda facts: facts.machine.processor,
    "accelerator": lambda facts: facts.machine.accelerator,
    "driver": lambda facts: facts.machine.driver,
    "os": lambda facts: facts.machine.os,
    "python": lambda facts: facts.machine.python,
    "commit": lambda facts: facts.run.commit,
    "run": lambda facts: facts.run.id,
}
NAMES = (*_NUMBERS, *_TEXTS)  # that a condition can begin with

_ORDERS: dict[str, Callable[[int, int], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_CONDITION = re.compile(r"\s*([^\s<>=!]+)\s*(!=|<=|>=|=|<|>)\s*(.*\S)\s*")


@dataclass(frozen=True)
class Condition:
    """A condition on one field: a number that it is compared with, or patterns of which its text fits one."""

    text: str  # as written on the command line
    field: str
    order: str  # = or !=, and of numbers also < <= > >=
    values: tuple[str, ...]  # one number, or shell patterns

    def fits(self, facts: _Facts) -> bool:
        """Return whether a line's facts fit. A number that a line lacks fits nothing, and a text it lacks is empty."""
        if self.field in _NUMBERS:
            number = _NUMBERS[self.field](facts)
            return number is not None and _ORDERS[self.order](number, int(self.values[0]))
        value = _TEXTS[self.field](facts) or ""
        return any(fnmatch.fnmatchcase(value, pattern) for pattern in self.values) == (self.order == "=")


def condition(text: str) -> Condition:
    """Return the condition of a text such as ``resolution=512``, ``batch>=2`` or ``model=fastvit_t*``.

    Raises `UsageError` for another form, a name that no figure has, or a value that does not fit the name.
    """
    match = _CONDITION.fullmatch(text)
    if match is None:
        raise UsageError(
            f"'{text[:80]}' is no condition; write a name, one of = != < <= > >=, and a value, such as resolution=512."
        )
    field, order, value = match.groups()
    if field not in NAMES:
        raise UsageError(f"--where knows no '{field[:80]}'; there are {', '.join(NAMES)}.")
    if field in _NUMBERS and not re.fullmatch(r"\d{1,9}", value, re.ASCII):
        raise UsageError(f"'{text[:80]}' compares {field} with '{value[:80]}'; write a whole number, such as 2.")
    if field in _TEXTS and order not in {"=", "!="}:
        raise UsageError(f"'{text[:80]}' orders texts; write {field}=… or {field}!=…, with * for any letters.")
    return Condition(f"--where '{text.strip()}'", field, order, (value,))


_AGE = re.compile(r"(\d{1,5})\s*([hdw])", re.ASCII)
_AGES = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def since(text: str, at: datetime) -> str:
    """Return the UTC time of a date, a date with a time, or an age at a time `at`: ``2026-01-31``, ``30d``.

    A time without an offset is UTC. Raises `UsageError` for others.
    """
    try:
        if age := _AGE.fullmatch(text.strip()):
            begin = at - int(age[1]) * _AGES[age[2]]
        else:
            begin = datetime.fromisoformat(text.strip())
        begin = begin.replace(tzinfo=UTC) if begin.tzinfo is None else begin.astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageError(
            f"'{text[:80]}' is no date or age; write 2026-01-31, 2026-01-31T14:00, 12h, 30d or 8w."
        ) from None
    return begin.isoformat(timespec="seconds")


@dataclass(frozen=True)
class Selection:
    """Conditions that figures must all fit; without any, every figure does."""

    conditions: tuple[Condition, ...] = ()
    since: str = ""  # the earliest time at which a figure was finished, in UTC; empty: any

    def __bool__(self) -> bool:
        """Return whether anything can be left out."""
        return bool(self.conditions or self.since)

    def __str__(self) -> str:
        """Return the options of the command line that say the same."""
        times = [f"--since {self.since}"] if self.since else []
        return " ".join([*(one.text for one in self.conditions), *times])

    def fits(self, line: Line, run: Run) -> bool:
        """Return whether a line of a run counts; a run's own lines and its tallies always do."""
        if not isinstance(line, Measurement | Failure | Accuracy):
            return True
        # both begin with a UTC time to the second
        if line.finished[:19] < self.since[:19]:
            return False
        if not self.conditions:
            return True
        facts = _facts(line, run)
        return all(one.fits(facts) for one in self.conditions)

    def lines(self, lines: Iterable[Line], spared: tuple[type, ...] = ()) -> Iterator[Line]:
        """Yield the lines of one run file that count, and those of `spared` types, one in memory at a time."""
        run: Run | None = None
        for line in lines:
            if isinstance(line, Run):
                run = line
            assert run is not None  # a run file begins with its run
            if isinstance(line, spared) or self.fits(line, run):
                yield line

    def nothing(self, paths: Iterable[Path]) -> UsageError:
        """Return the error of a selection that leaves nothing, with the values that the runs have of its fields."""
        known: dict[str, set[int | str]] = {one.field: set() for one in self.conditions}
        newest = ""
        for facts, finished in _every(paths):
            newest = max(newest, finished)
            for field, values in known.items():
                value = _value(field, facts)
                if value is not None and value != "":
                    values.add(value)
        clauses = [f"{field}: {_listed(values)}" for field, values in known.items()]
        clauses += [f"newest figure: {newest or 'none'}"] if self.since else []
        return UsageError(f"No figure fits {self}. These runs have {'; '.join(clauses)}.")


def _every(paths: Iterable[Path]) -> Iterator[tuple[_Facts, str]]:
    """Yield the facts of each figure in the runs that can be read, and when it was finished."""
    for path in paths:
        run: Run | None = None
        with suppress(StoreError):  # which the command has shown
            for line in runs.iterate_lines(path):
                if isinstance(line, Run):
                    run = line
                elif run is not None and isinstance(line, Measurement | Failure | Accuracy):
                    yield _facts(line, run), line.finished


def _value(field: str, facts: _Facts) -> int | str | None:
    return _NUMBERS[field](facts) if field in _NUMBERS else _TEXTS[field](facts)


EVERYTHING = Selection()


def select(
    *, devices: Sequence[str] = (), models: Sequence[str] = (), where: Sequence[str] = (), begin: str = ""
) -> Selection:
    """Return the selection of devices and models by shell patterns, of conditions, and of a time as `since` returns it.

    Raises `UsageError` as `condition` does.
    """
    patterns = {"device": devices, "model": models}
    named = [
        Condition(" ".join(f"--{field} '{one}'" for one in some), field, "=", tuple(some))
        for field, some in patterns.items()
        if some
    ]
    return Selection((*named, *map(condition, where)), begin)


def _listed(values: Iterable[int | str]) -> str:
    """Return values for a message, numbers by size, and how many more there are."""
    ordered = sorted(values, key=lambda value: (value, "") if isinstance(value, int) else (0, value))
    more = f" and {len(ordered) - _MOST_NAMED} more" if len(ordered) > _MOST_NAMED else ""
    return ", ".join(map(str, ordered[:_MOST_NAMED])) + more or "none"
