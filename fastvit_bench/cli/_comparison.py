"""Options and steps shared by `compare`, `gate` and `calibrate`."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastvit_bench.cli import _output
from fastvit_bench.errors import StoreError
from fastvit_bench.records import Device

if TYPE_CHECKING:
    from rich.console import Console

    from fastvit_bench.config import Config
    from fastvit_bench.records.comparison import Comparison


MaxRegressionOption = Annotated[
    str | None, typer.Option("--max-regression", help="Accepted slowdown of a cell, such as 5%.")
]


MaxTimeOption = Annotated[
    str | None, typer.Option("--max-time", help="Time limit, such as 90s or 20m. [default: max_time in [gate]]")
]


OrderSeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of the order of turns and cells.")]


ReportOption = Annotated[
    Path | None, typer.Option("--report", help="Folder for the files of --report-format. [default: none]")
]


KNOWN_FORMATS = "Formats, separated by commas: markdown, junit, json, bmf, gha, pytest-benchmark, svg, png."


def announce_same(sentences: list[str]) -> list[str]:
    """Print, before anything is measured, the sentences on sides that are equal; return them for the report."""
    for sentence in sentences:
        typer.echo(sentence, err=True)
    return sentences


def locked(settings: "Config", device: str) -> Any:
    """Return a context manager that locks the device against other measurements; see `runs.lock`."""
    from fastvit_bench.store import runs

    return runs.lock(Path(settings.paths.results), device)


def report_formats(report: Path | None, names: str | None, usual: str) -> list[str]:
    """Return the report formats to write, checked before anything is measured.

    Formats named by the user must be possible here, and raise where they are not. Of the usual formats, impossible ones
    are left out with a warning. Naming exactly the usual ones, as the GitHub Action does, counts as naming none.
    """
    from fastvit_bench.comparing import formats as compare_formats

    if report is None:
        return []
    formats = compare_formats.checked([name.strip() for name in (names or usual).split(",") if name.strip()])
    if set(formats) != set(usual.split(",")):
        compare_formats.require(formats)
        return formats
    formats, omitted = compare_formats.possible(formats)
    if omitted:
        warn(omitted)
    return formats


def warn(sentence: str) -> None:
    """Print a warning on standard error."""
    typer.echo(f"warning: {sentence}", err=True)


def run_blocks(
    contest: Any, kind: Any, device: Device, base: str, head: str, console: "Console", warnings: Sequence[str] = ()
) -> "Comparison":
    """Run an interleaved comparison under a progress bar and return its result."""
    from datetime import UTC, datetime

    from fastvit_bench.comparing import interleaved

    started = datetime.now(UTC)
    with _output.blocks_bar(console, len(contest.cells)) as advance:
        contest.notify = advance
        verdicts = contest.run()
    return interleaved.to_comparison(
        contest, verdicts, kind=kind, device=device, base=base, head=head, started=started, warnings=warnings
    )


def conclude(
    comparison: "Comparison", settings: "Config", command: str, report: Path | None, formats: Sequence[str]
) -> None:
    """Write and print everything about a comparison: its JSON document, the GitHub summary, the reports, the table.

    The document comes first, and the parts that can fail by themselves last. A file that cannot be written is only a
    warning: the blocks were measured, and they decide the exit code.
    """
    from datetime import UTC, datetime

    from fastvit_bench.comparing import formats as compare_formats
    from fastvit_bench.comparing.formats import github
    from fastvit_bench.store import runs

    document = (
        Path(settings.paths.results) / comparison.device.name / f"{command}-{runs.new_id(datetime.now(UTC))}.json"
    )
    written: list[Path] = []
    try:
        compare_formats.write(comparison, "json", document)
        written.append(document)
    except StoreError as error:
        warn(str(error))
    try:
        github.tell(comparison, os.environ, str(report or document))
    except StoreError as error:
        warn(str(error))
    if report is not None:
        published = compare_formats.publish(comparison, report, formats, command)
        written += published.written
        for sentence in published.lost:
            warn(sentence)
    for path in written:
        typer.echo(f"written: {path}", err=True)
    out = _output.stdout()
    out.print(compare_formats.rich(comparison, out.width))
    typer.echo(compare_formats.sentence(comparison))
    for line in github.annotations(comparison, os.environ):
        typer.echo(line)
