"""What comes out of a comparison: a sentence and tables for people, pictures, and files that other programs read.

`FORMATS` lists what can be written. Each writer is a pure function from a comparison to bytes; only `write` and
`publish` touch the disk, and `github.tell` what GitHub's runners read.
"""

import difflib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from fastvit_bench import files
from fastvit_bench.errors import StoreError, UnavailableError, UsageError
from fastvit_bench.render import charts
from fastvit_bench.report.verdict import interop, person
from fastvit_bench.report.verdict.interop import read
from fastvit_bench.report.verdict.person import markdown, rich
from fastvit_bench.report.verdict.words import sentence
from fastvit_bench.verdicts import Comparison

__all__ = [
    "FORMATS",
    "Format",
    "Published",
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


class Format(NamedTuple):
    """A kind of file."""

    suffix: str  # what follows the name in the file's
    writer: Callable[[Comparison], bytes]
    needs: tuple[str, ...] = ()  # packages that it is drawn by


class Published(NamedTuple):
    """What became of the reports."""

    written: list[Path]
    lost: list[str]  # a sentence on each reason why formats could not be written


def _markdown(comparison: Comparison) -> bytes:
    return person.markdown(comparison).encode()


def _svg(comparison: Comparison) -> bytes:
    from fastvit_bench.report import comparison_chart

    return comparison_chart.svg(comparison)


def _png(comparison: Comparison) -> bytes:
    from fastvit_bench.report import comparison_chart

    return comparison_chart.png(comparison)


FORMATS: dict[str, Format] = {
    "markdown": Format(".md", _markdown),
    "junit": Format(".junit.xml", interop.junit),
    "json": Format(".json", interop.json),
    "bmf": Format(".bmf.json", interop.bmf),
    "gha": Format(".gha.json", interop.github_action_benchmark),
    "pytest-benchmark": Format(".pytest-benchmark.json", interop.pytest_benchmark),
    "svg": Format(".svg", _svg, charts.PACKAGES),
    "png": Format(".png", _png, charts.PACKAGES),
}


def checked(names: Sequence[str]) -> list[str]:
    """The names without repetitions; raises `UsageError` with the nearest one for a format that does not exist."""
    for name in names:
        if name not in FORMATS:
            near = difflib.get_close_matches(name, FORMATS, n=1)
            hint = f"Did you mean '{near[0]}'? " if near else ""
            raise UsageError(f"There is no report format '{name}'. {hint}Known: {', '.join(FORMATS)}.")
    return list(dict.fromkeys(names))


def require(names: Sequence[str]) -> None:
    """Raise `UnavailableError` where a package that one of the formats needs is missing."""
    charts.require([package for name in names for package in FORMATS[name].needs])


def possible(names: Sequence[str]) -> tuple[list[str], str]:
    """The formats whose packages are installed, and a sentence on those that are left out; empty if none is."""
    kept, lacking = list(names), ""
    for name in names:
        try:
            require([name])
        except UnavailableError as error:
            kept.remove(name)
            lacking = str(error)
    left_out = [name for name in names if name not in kept]
    return kept, f"{', '.join(left_out)} is left out of the reports: {lacking}" if left_out else ""


def write(comparison: Comparison, name: str, path: Path) -> None:
    """Write one format to a file, whole or not at all.

    Raises `UsageError` for an unknown format, `StoreError` where the file cannot be written, `UnavailableError` where
    a package that the format needs is not installed.
    """
    [name] = checked([name])
    data = FORMATS[name].writer(comparison)
    try:
        files.write(path, data)
    except OSError as error:
        raise StoreError(f"The report {path} cannot be written: {error.strerror or error}.") from error


def publish(comparison: Comparison, folder: Path, names: Sequence[str], stem: str = "gate") -> Published:
    """Write each format as ``folder/gate.SUFFIX``; tells the files, and which formats could not be written and why.

    What one format cannot do keeps no other from being written, and changes no verdict: a run that took minutes must
    not lose its reports. Raises `UsageError` for an unknown format before any is written.
    """
    chosen = checked(names)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        return Published([], [f"The folder {folder} for reports cannot be made: {error.strerror or error}."])
    written: list[Path] = []
    failed: dict[str, list[str]] = {}  # why -> formats
    for name in chosen:
        path = folder / f"{stem}{FORMATS[name].suffix}"
        try:
            files.write(path, FORMATS[name].writer(comparison))
            written.append(path)
        except Exception as error:  # whatever it is, the other formats do not share it
            why = error.strerror or str(error) if isinstance(error, OSError) else str(error) or type(error).__name__
            failed.setdefault(why.rstrip("."), []).append(name)
    lost = [f"No {' and no '.join(formats)} in {folder}: {why}." for why, formats in failed.items()]
    return Published(written, lost)
