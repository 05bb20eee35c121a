"""Series of one cell's figures over the runs of a device, with their changes."""

import functools
import hashlib
import importlib.metadata
import itertools
import math
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import msgspec

from fastvit_bench import backends
from fastvit_bench.errors import UsageError
from fastvit_bench.records import (
    Artifact,
    Engine,
    ExternalModel,
    Machine,
    Measurement,
    Run,
    Weights,
    by_name,
)
from fastvit_bench.render.rows import Keys, Row, measured_row, network_key, setting_key, size_of
from fastvit_bench.render.table import NONE
from fastvit_bench.render.text import printable
from fastvit_bench.stats.changepoints import FEWEST, Shift, breaks, noise, shift
from fastvit_bench.stats.intervals import median
from fastvit_bench.store.cache import Cache, program
from fastvit_bench.store.runs import RunFile

MIN_CHANGE = 0.02  # share below which a change is not reported


# --- series -----------------------------------------------------------------------------------------------------------


class HistoryPoint(NamedTuple):
    """A figure of a series, and the run that it belongs to."""

    run: Run
    cell: Measurement

    @property
    def figure_ms(self) -> float:
        """Latency in ms by the method's statistic, which is the same throughout a series."""
        return self.cell.figure_ms

    @property
    def day(self) -> str:
        """Date of the measurement, such as 2026-01-31."""
        return self.cell.finished[:10]

    @property
    def commit(self) -> str:
        """Short commit of the working directory, with a + where files were changed; empty where there was none."""
        return f"{self.run.commit[:7]}{'+' * self.run.dirty}" if self.run.commit else ""


@dataclass(frozen=True)
class HistoryChange:
    """A point from which on the figures of a series differ from those before it."""

    at: int  # index of the first point after it
    before_ms: float  # median of the figures since the change before
    after_ms: float  # median of the figures until the next change
    shift: Shift
    also: tuple[str, ...]  # further facts that differ from the point before


@dataclass(frozen=True)
class Series:
    """The figures of one cell in the order they were measured; at least one."""

    points: tuple[HistoryPoint, ...]
    changes: tuple[HistoryChange, ...] = ()

    @property
    def searched(self) -> bool:
        """Return whether the series has enough points for finding changes."""
        return len(self.points) >= FEWEST

    @property
    def newest(self) -> Measurement:
        """The last measurement."""
        return self.points[-1].cell

    @functools.cached_property
    def row(self) -> Row:
        """The table's row of the newest point: its model and its conditions."""
        return replace(measured_row(self.newest, self.points[-1].run), cells={self.newest.shape: self.newest})

    @functools.cached_property
    def levels(self) -> list[tuple[int, int, float]]:
        """Levels between changes: first point, the one behind the last, and the median of the figures in ms."""
        ends = [0, *(change.at for change in self.changes), len(self.points)]
        figures = [point.figure_ms for point in self.points]
        return [(start, end, median(figures[start:end])) for start, end in itertools.pairwise(ends)]

    @functools.cached_property
    def noise(self) -> float | None:
        """Scatter from one run to the next as a share, without its changes; None below three points."""
        return noise([math.log(point.figure_ms) for point in self.points]) if len(self.points) > 2 else None


def collect(files: Iterable[RunFile]) -> list[Series]:
    """Return the measurements of run files as series, in the order in which each was first measured.

    Two figures are of one series if they would share a row of a table were it not for what may explain a change:
    versions of packages, driver, toolkit and system, the host name, and which weights of an origin they are. A
    measurement that several files hold counts once.
    """
    points_of: dict[bytes, dict[tuple[str, str], HistoryPoint]] = {}
    files = list(files)
    machines = {
        id(line.machine): line.machine for file in files for line in file.lines if isinstance(line, Measurement)
    }
    keys = _SeriesKeys(by_name(machines.values()))
    for file in files:
        run = file.runs[0]
        for line in file.lines:
            if isinstance(line, Run):
                run = line
            elif isinstance(line, Measurement):
                points_of.setdefault(keys.of(line), {})[run.id, line.finished] = HistoryPoint(run, line)
    ordered = (sorted(points.values(), key=lambda point: point.cell.finished) for points in points_of.values())
    return [Series(tuple(points)) for points in sorted(ordered, key=lambda points: points[0].cell.finished)]


def select(
    series: Sequence[Series], device: str | None, models: Sequence[str], sizes: Sequence[tuple[int, int]]
) -> list[Series]:
    """Return the series of a device, of models by shell patterns, and of sizes (height, width); without any, all.

    Raises `UsageError`, which names the existing ones, for a device, a pattern or sizes that match nothing.
    """
    import fnmatch

    selected = [entry for entry in series if device in {None, entry.row.device.name}]
    if not selected:
        known = ", ".join(sorted({printable(entry.row.device.name) for entry in series}))
        raise UsageError(f"These runs hold no measurement on '{device}'; measured on: {known}.")
    names = {entry.row.model for entry in selected}
    for pattern in models:
        if not fnmatch.filter(names, pattern):
            raise UsageError(f"No model '{pattern}' was measured in these runs; measured: {_listed(names)}.")
    if models:
        selected = [
            entry for entry in selected if any(fnmatch.fnmatchcase(entry.row.model, pattern) for pattern in models)
        ]
    if sizes:
        measured = {size_of(entry.newest.shape) for entry in selected}
        selected = [entry for entry in selected if (at := entry.newest.shape) and (at.height, at.width) in sizes]
        if not selected:
            raise UsageError(f"None of these sizes was measured in these runs; measured: {_listed(measured)}.")
    return selected


def _listed(names: Iterable[str]) -> str:
    return ", ".join(printable(name) for name in sorted(names, key=lambda name: (len(name), name)))


class _SeriesKeys(Keys):
    """Keys that measurements of one series share: those of their rows, without the facts that may explain a change."""

    def __init__(self, names: Mapping[tuple[object, ...], str]) -> None:
        """Take the names of machines by their hardware."""
        super().__init__()
        self._names = names

    def network(self, artifact: Artifact | ExternalModel) -> bytes:
        """Return the half of a key that the artifact decides, here with the size."""
        return network_key(_of_origin(artifact)) + msgspec.json.encode(artifact.shape)

    def setting(self, measurement: Measurement) -> bytes:
        """Return the half of a key that is about how and on what the artifact was measured."""
        device = msgspec.structs.replace(measurement.device, match=None)  # the hardware itself is in the machine
        machine = _lasting(measurement.machine, self._names)
        engine = measurement.engine and _of_any_version(measurement.engine)
        way = (measurement.window, measurement.pacing, measurement.clock)
        return setting_key(device, machine, engine, measurement.method, way)


def _of_origin(artifact: Artifact | ExternalModel) -> Artifact | ExternalModel:
    if isinstance(artifact, ExternalModel):
        return artifact
    return msgspec.structs.replace(artifact, weights=Weights(origin=artifact.weights.origin))


def _of_any_version(engine: Engine) -> Engine:
    return msgspec.structs.replace(engine, version="", platform="")


def _lasting(machine: Machine, names: Mapping[tuple[object, ...], str]) -> Machine:
    """Return the facts that machines of one series share: name, processors, accelerator, and roughly the memory."""
    name = machine.name or names.get(machine.hardware, "")
    return msgspec.structs.replace(
        machine, name=name, memory_mib=machine.memory_step, os="", python=None, packages={}, driver=None
    )


# --- changes ----------------------------------------------------------------------------------------------------------


def search_all(series: Iterable[Series], min_change: float = MIN_CHANGE) -> list[Series]:
    """Return series with their changes, as `search` does; where the cache knows the points, they are not looked for."""
    with Cache() as cache:
        return [search(one, min_change, functools.partial(_remembered, cache, one)) for one in series]


def _remembered(cache: Cache, series: Series, figures: Sequence[float]) -> list[int]:
    """Return `breaks` of the figures of a series, from the cache where they are the same as before."""
    name = hashlib.blake2b(series.row.key + msgspec.json.encode(series.newest.shape), digest_size=16).hexdigest()
    content = hashlib.sha256(array("d", figures).tobytes()).digest()
    stamp = program() + importlib.metadata.version("ruptures").encode() + content
    value = cache.remembered(f"breaks {name}", stamp, lambda: msgspec.msgpack.encode(breaks(figures)))
    return msgspec.msgpack.decode(value, type=list[int])


def search(
    series: Series, min_change: float = MIN_CHANGE, find: Callable[[Sequence[float]], list[int]] = breaks
) -> Series:
    """Return the series with its changes of at least a share `min_change`; without any below 5 points.

    `find`, which is `breaks` or equal to it, proposes the points. The smallest change is dropped and its two levels
    become one, until all remaining changes are large enough and have an interval that excludes "no change".
    """
    if not series.searched:
        return series
    figures = [point.figure_ms for point in series.points]
    at = find(figures)
    while at:
        ends = [0, *at, len(figures)]
        shifts = {
            middle: shift(figures[start:middle], figures[middle:end])
            for start, middle, end in zip(ends, ends[1:], ends[2:], strict=False)
        }
        doubtful = [middle for middle, change in shifts.items() if not _is_change(change, min_change)]
        if not doubtful:
            return replace(series, changes=_changes(series.points, figures, shifts))
        at.remove(min(doubtful, key=lambda middle: abs(math.log(shifts[middle].ratio))))
    return replace(series, changes=())


def _is_change(change: Shift, min_change: float) -> bool:
    return abs(change.ratio - 1) >= min_change and not change.low <= 1 <= change.high


def _changes(
    points: Sequence[HistoryPoint], figures: Sequence[float], shifts: dict[int, Shift]
) -> tuple[HistoryChange, ...]:
    levels = [median(figures[a:b]) for a, b in itertools.pairwise([0, *shifts, len(figures)])]
    return tuple(
        HistoryChange(middle, before, after, level_shift, also_changed(points[middle - 1], points[middle]))
        for (middle, level_shift), (before, after) in zip(shifts.items(), itertools.pairwise(levels), strict=True)
    )


def also_changed(before: HistoryPoint, after: HistoryPoint) -> tuple[str, ...]:
    """Return the recorded differences of two neighbouring points: ``onnxruntime: 1.22.0 then, 1.23.0 now``."""
    old, new = before.cell, after.cell
    differences = [
        f"{name}: {was or NONE} then, {is_ or NONE} now"
        for name, was, is_ in (
            ("commit", before.commit, after.commit),
            ("fastvit-bench", old.tool or before.run.tool, new.tool or after.run.tool),
        )
        if was != is_
    ]
    names = backends.figure_packages(new.device)
    if old.machine.host != new.machine.host:
        differences.append(f"host name: {old.machine.host or NONE} then, {new.machine.host or NONE} now")
    differences += new.machine.differences(old.machine, names)
    known = {**old.machine.packages, **new.machine.packages} if names is None else dict.fromkeys(names)
    pair = (old.artifact, new.artifact)
    if isinstance(pair[0], Artifact) and isinstance(pair[1], Artifact):
        old_file, new_file = pair[0], pair[1]
        tools = sorted((old_file.toolchain.keys() | new_file.toolchain.keys()) - known.keys())
        facts = [(name, old_file.toolchain.get(name), new_file.toolchain.get(name)) for name in tools]
        facts.append(("weights", old_file.weights.label, new_file.weights.label))
        differences += [f"{name}: {was} then, {is_} now" for name, was, is_ in facts if was != is_]
        if old_file.sha256 != new_file.sha256:
            differences.append("the exported file")
    if old.engine and new.engine:
        differences += [f"{name}: {was} then, {is_} now" for name, was, is_ in _of_engines(old.engine, new.engine)]
    return tuple(printable(difference) for difference in differences)


def _of_engines(old: Engine, new: Engine) -> list[tuple[str, str, str]]:
    facts = (
        (f"{new.toolkit} of the engine", old.version, new.version),
        ("platform of the engine", old.platform, new.platform),
        ("driver of the engine", old.card.driver, new.card.driver),
    )
    return [fact for fact in facts if fact[1] != fact[2]]
