"""Options and steps shared by `compare`, `gate` and `calibrate`."""

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
import typer

from fastvit_bench.cli import _fleet, _output
from fastvit_bench.cli._options import VerdictFormat
from fastvit_bench.cli._progress import ProgressLine, of_blocks
from fastvit_bench.errors import StoreError, UsageError
from fastvit_bench.records import Device

if TYPE_CHECKING:
    from fastvit_bench.comparing.inputs import ComparisonPair
    from fastvit_bench.comparing.journal import Journal
    from fastvit_bench.config import Config
    from fastvit_bench.records import Machine
    from fastvit_bench.records.comparison import Comparison, Plan
    from fastvit_bench.records.unfinished import CompareOptions, GateOptions, Unfinished


MaxRegressionOption = Annotated[
    str | None,
    typer.Option(
        "--max-regression", help="Accepted slowdown of a cell, such as 5%. [default: max_regression in [gate]]"
    ),
]


MaxTimeOption = Annotated[
    str | None, typer.Option("--max-time", help="Time limit, such as 90s or 20m. [default: max_time in [gate]]")
]


ResumeComparisonOption = Annotated[
    str | None,
    typer.Option(
        "--resume", help="Go on with an interrupted one: its id, a prefix of it, or 'last'. [default: a new one]"
    ),
]


OrderSeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of the order of turns and cells.")]


ReportOption = Annotated[
    Path | None,
    typer.Option("--report", metavar="DIR", help="Folder for the files of --report-format. [default: none]"),
]


VerdictFormatOption = Annotated[VerdictFormat, typer.Option("--format", "-f", help="Format of the verdict.")]


KNOWN_FORMATS = "Formats, separated by commas: markdown, junit, json, bmf, gha, pytest-benchmark, svg, png."


def announce(sentences: list[str]) -> list[str]:
    """Print sentences on the sides before anything is measured; return them for the report."""
    for sentence in sentences:
        _output.say(sentence)
    return sentences


def locked(settings: "Config", device: str, scheduler: str | None = None, begun: "Unfinished | None" = None) -> Any:
    """Return a context manager that locks the device against other measurements; see `runs.lock`.

    On a fleet the worker locks its machine, so that only a comparison that goes on is locked here.
    """
    from fastvit_bench.store import runs

    if scheduler is None:
        return runs.lock(Path(settings.paths.results), device)
    if begun is None:
        return contextlib.nullcontext()
    return runs.lock(Path(settings.paths.results), device, begun.start.id)


def report_formats(report: Path | None, names: str | None, usual: str, stem: str, *, force: bool) -> list[str]:
    """Return the report formats to write, checked before anything is measured; `stem` begins the files' names.

    Formats named by the user must be possible here, and raise where they are not. Of the usual formats, impossible ones
    are left out with a warning. Naming exactly the usual ones, as the GitHub Action does, counts as naming none.
    """
    from fastvit_bench.comparing import formats as compare_formats

    if report is None:
        return []
    formats = compare_formats.checked([name.strip() for name in (names or usual).split(",") if name.strip()])
    compare_formats.check_outputs(report, formats, stem, force=force)
    if set(formats) != set(usual.split(",")):
        compare_formats.require(formats)
        return formats
    formats, omitted = compare_formats.possible(formats)
    if omitted:
        _output.warn(omitted)
    return formats


def run_blocks(
    contest: Any,
    kind: Any,
    device: Device,
    base: str,
    head: str,
    progress: "ProgressLine",
    journal: "Journal",
    warnings: Sequence[str] = (),
    scheduler: str | None = None,
) -> "Comparison":
    """Run an interleaved comparison under a line of progress and return its result.

    An interruption ends with its own exit code, after a line that says how to go on; so does a fleet that is lost.
    """
    from datetime import datetime

    from fastvit_bench.comparing import interleaved

    contest.notify = of_blocks(progress, contest.plan.max_time_s)
    try:
        verdicts = contest.run()
    except KeyboardInterrupt as error:
        command = f"{journal.path.name.partition('-')[0]} --resume {journal.start.id}{_fleet.suffix(scheduler)}"
        raise _output.interrupted(error, "every finished block", command, progress.console) from None
    return interleaved.to_comparison(
        contest,
        verdicts,
        kind=kind,
        device=device,
        base=base,
        head=head,
        started=datetime.fromisoformat(journal.start.started),
        warnings=warnings,
    )


_OF_OUTPUT = ("report", "report_format", "force")  # options that a resumed comparison may have anew


Options = TypeVar("Options", bound="GateOptions | CompareOptions")


def earlier(
    context: typer.Context, own: Options, results: Path, resume: str | None
) -> "tuple[Options, Unfinished | None]":
    """Return the options of an interrupted comparison with its blocks, or without `resume` the own options.

    Raises `UsageError` for an option that was given too and is another one than then.
    """
    if resume is None:
        return own, None
    from fastvit_bench.store import unfinished

    command = context.command.name or ""
    stored = unfinished.reopen(unfinished.find(results, command, resume))
    options = stored.start.options
    if not isinstance(options, type(own)):
        raise UsageError(f"{stored.path} is not of a {command}; begin a new one without --resume.")
    for parameter in context.command.params:
        name = parameter.name or ""
        source = context.get_parameter_source(name)
        if source is None or source.name == "DEFAULT" or getattr(own, name, None) == getattr(options, name, None):
            continue
        if name not in _OF_OUTPUT:
            raise UsageError(
                f"--resume goes on as it was begun, with {getattr(options, name)} for {parameter.opts[0]}; leave it "
                f"out, or begin a new one."
            )
        options = msgspec.structs.replace(options, **{name: getattr(own, name)})
    return options, stored


def open_journal(
    earlier: "Unfinished | None",
    settings: "Config",
    options: "GateOptions | CompareOptions",
    command: str,
    *,
    machine: "Machine",
    plan: "Plan",
    pairs: "Sequence[ComparisonPair]",
    device: Device,
) -> "Journal":
    """Return the journal of a new comparison, or of the `earlier` one that goes on."""
    from datetime import UTC, datetime

    from fastvit_bench.comparing import journal
    from fastvit_bench.store import runs

    if earlier is not None:
        return journal.resume(earlier, machine=machine, plan=plan, pairs=pairs, device=device, warn=_output.warn)
    return journal.begin(
        Path(settings.paths.results) / device.name,
        command,
        runs.new_id(datetime.now(UTC)),
        options=options,
        machine=machine,
        plan=plan,
        pairs=pairs,
        warn=_output.warn,
    )


def conclude(
    comparison: "Comparison",
    command: str,
    journal: "Journal",
    report: Path | None,
    formats: Sequence[str],
    format_: VerdictFormat,
) -> None:
    """Write and print everything about a comparison: its JSON document, the GitHub summary, the reports, the verdict.

    The document comes first, and the parts that can fail by themselves last. A file that cannot be written is only a
    warning: the blocks were measured, and they decide the exit code.
    """
    from fastvit_bench.comparing import formats as compare_formats
    from fastvit_bench.comparing.formats import github

    document = journal.path.with_suffix(".json")
    written: list[Path] = []
    try:
        compare_formats.write(comparison, "json", document)
        written.append(document)
        journal.remove()
    except StoreError as error:
        _output.warn(str(error))
    try:
        github.tell(comparison, os.environ, str(report or document))
    except StoreError as error:
        _output.warn(str(error))
    if report is not None:
        published = compare_formats.publish(comparison, report, formats, command)
        written += published.written
        for sentence in published.lost:
            _output.warn(sentence)
    for path in written:
        _output.say(f"written: {path}")
    annotations = github.annotations(comparison, os.environ)
    if format_ is VerdictFormat.RICH:
        out = _output.stdout()
        out.print(compare_formats.rich(comparison, out.width, verbose=_output.verbose()))
        for line in annotations:
            _output.show(line)
    else:  # what programs read has no lines for GitHub, which reads standard error as well
        sys.stdout.write(compare_formats.FORMATS[format_.value].writer(comparison).decode())
        for line in annotations:
            _output.say(line)
