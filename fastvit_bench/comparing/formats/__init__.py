"""Reports of a comparison: a sentence and tables for people, pictures, and files that other programs read.

`FORMATS` lists the files. Each writer is a pure function from a comparison to bytes. Only `write` and `publish` touch
the disk, and `github.tell`, which writes the files that GitHub's runners read.
"""

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from fastvit_bench import files
from fastvit_bench.comparing import terminal
from fastvit_bench.comparing.formats import bencher, json_document, junit, pytest_benchmark
from fastvit_bench.comparing.formats.json_document import read
from fastvit_bench.comparing.phrases import sentence
from fastvit_bench.comparing.terminal import markdown, rich
from fastvit_bench.errors import StoreError, UnavailableError, UsageError
from fastvit_bench.records.comparison import Comparison
from fastvit_bench.render import charts

__all__ = [
    "FORMATS",
    "ReportFormat",
    "WrittenReports",
    "check_outputs",
    "checked",
    "markdown",
    "possible",
    "publish",
    "read",
    "require",
    "rich",
    "sentence",
    "write",
]


class ReportFormat(NamedTuple):
    """A format of report files: its suffix, its writer and the packages that it needs."""

    suffix: str  # of the file name
    writer: Callable[[Comparison], bytes]
    own: Callable[[bytes], bool]  # whether a file's content is what the writer writes
    needs: tuple[str, ...] = ()  # packages that draw it


class WrittenReports(NamedTuple):
    """The files that `publish` wrote, and the formats that failed."""

    written: list[Path]
    lost: list[str]  # a sentence for each reason of a failure, with its formats


def _markdown(comparison: Comparison) -> bytes:
    return terminal.markdown(comparison).encode()


def _svg(comparison: Comparison) -> bytes:
    from fastvit_bench.comparing import chart

    return chart.svg(comparison)


def _png(comparison: Comparison) -> bytes:
    from fastvit_bench.comparing import chart

    return chart.png(comparison)


class _Comparison(msgspec.Struct, tag="comparison", tag_field="document"):
    """The field that identifies a comparison of any version."""


def _with(mark: bytes) -> Callable[[bytes], bool]:
    """Return a function that tells whether a file bears a mark."""
    return lambda data: mark in data


def _json_of(kind: Any) -> Callable[[bytes], bool]:
    """Return a function that tells whether a file is JSON of a kind."""

    def holds(data: bytes) -> bool:
        try:
            msgspec.json.decode(data, type=kind)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return False
        return True

    return holds


FORMATS: dict[str, ReportFormat] = {
    "markdown": ReportFormat(".md", _markdown, _with(b"### Latency of ")),
    "junit": ReportFormat(".junit.xml", junit.junit, _with(b'<testsuites name="fastvit-bench"')),
    "json": ReportFormat(".json", json_document.json, _json_of(_Comparison)),
    "bmf": ReportFormat(".bmf.json", bencher.bmf, _json_of(dict[str, bencher.Benchmark])),
    "gha": ReportFormat(".gha.json", bencher.github_action_benchmark, _json_of(list[bencher.ActionEntry])),
    "pytest-benchmark": ReportFormat(
        ".pytest-benchmark.json", pytest_benchmark.pytest_benchmark, _with(b'"project": "fastvit-bench"')
    ),
    "svg": ReportFormat(".svg", _svg, files.is_marked, charts.PACKAGES),
    "png": ReportFormat(".png", _png, files.is_marked, charts.PACKAGES),
}


def checked(names: Sequence[str]) -> list[str]:
    """Return the names without repetitions; raises `UsageError` with the nearest name for an unknown format."""
    for name in names:
        if name not in FORMATS:
            near = difflib.get_close_matches(name, FORMATS, n=1)
            hint = f"Did you mean '{near[0]}'? " if near else ""
            raise UsageError(f"There is no report format '{name}'. {hint}Known: {', '.join(FORMATS)}.")
    return list(dict.fromkeys(names))


def require(names: Sequence[str]) -> None:
    """Raise `UnavailableError` unless the packages that the formats need are installed."""
    charts.require([package for name in names for package in FORMATS[name].needs])


def check_outputs(folder: Path, names: Sequence[str], stem: str, *, force: bool = False) -> None:
    """Raise `UsageError` if a report would replace a file that this tool did not write, unless `force`."""
    for name in names:
        files.check_output(folder / f"{stem}{FORMATS[name].suffix}", force=force, own=FORMATS[name].own)


def possible(names: Sequence[str]) -> tuple[list[str], str]:
    """Return the formats whose packages are installed, and a sentence on the omitted ones; empty if none is."""
    usable, lacking = list(names), ""
    for name in names:
        try:
            require([name])
        except UnavailableError as error:
            usable.remove(name)
            lacking = str(error)
    omitted = [name for name in names if name not in usable]
    return usable, f"{', '.join(omitted)} is left out of the reports: {lacking}" if omitted else ""


def write(comparison: Comparison, name: str, path: Path) -> None:
    """Write one format to a file, completely or not at all.

    Raises `UsageError` for an unknown format, `StoreError` where the file cannot be written, `UnavailableError` where
    a package that the format needs is not installed.
    """
    [name] = checked([name])
    data = FORMATS[name].writer(comparison)
    try:
        files.write(path, data)
    except OSError as error:
        raise StoreError(f"The report {path} cannot be written: {error.strerror or error}.") from error


def publish(comparison: Comparison, folder: Path, names: Sequence[str], stem: str = "gate") -> WrittenReports:
    """Write each format as ``folder/gate.SUFFIX``; return the files, and the formats that failed with their reasons.

    A failing format does not prevent the next ones and changes no verdict: a run of minutes must not lose its reports.
    Raises `UsageError` for an unknown format before any is written.
    """
    chosen = checked(names)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return WrittenReports([], [f"The folder {folder} for reports cannot be made: {error.strerror or error}."])
    written: list[Path] = []
    failed: dict[str, list[str]] = {}  # reason -> formats
    for name in chosen:
        path = folder / f"{stem}{FORMATS[name].suffix}"
        try:
            files.write(path, FORMATS[name].writer(comparison))
            written.append(path)
        except Exception as error:  # of any kind: the next formats must still be written
            reason = error.strerror or str(error) if isinstance(error, OSError) else str(error) or type(error).__name__
            failed.setdefault(reason.rstrip("."), []).append(name)
    lost = [f"No {' and no '.join(formats)} in {folder}: {reason}." for reason, formats in failed.items()]
    return WrittenReports(written, lost)
