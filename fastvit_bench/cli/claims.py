"""Command `claims`: check the paper's claims against its tables and against measurements."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from fastvit_bench.cli import _complete, _output
from fastvit_bench.cli._options import ConfigOption, SeriesFormat
from fastvit_bench.errors import ExitCode, UsageError


def claims(
    claim: Annotated[
        list[str] | None, typer.Option("--claim", help="Only the claim of this id; repeatable. [default: all]")
    ] = None,
    study: Annotated[
        str | None,
        typer.Option("--study", autocompletion=_complete.studies, help="Only the claims of this study. [default: all]"),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device", "-d", autocompletion=_complete.devices, help="Only measurements of this device. [default: all]"
        ),
    ] = None,
    details: Annotated[
        bool, typer.Option("--details", help="Show of each claim its cells, their sources and every reading.")
    ] = False,
    format_: Annotated[SeriesFormat, typer.Option("--format", "-f", help="Format of the claims.")] = SeriesFormat.RICH,
    config_file: ConfigOption = None,
) -> None:
    """Check the paper's claims against tables and measurements.

    The tables are the paper's own, the measurements this machine's. Exit code 7: some stored studies could not be read,
    and the others count.

    \b
    fastvit-bench claims
    fastvit-bench claims --claim mobileone-s4-gpu --details
    """
    from fastvit_bench import options
    from fastvit_bench.paper import claims as claiming
    from fastvit_bench.paper import claims_table, study_table
    from fastvit_bench.store import runs

    if details and format_.value in claims_table.COMPLETE:
        raise UsageError(f"--details is for people; --format {format_} holds all of it anyway.")
    settings = options.load(config_file)
    if device is not None:
        device = settings.device(device).name
    chosen = claiming.choose(claiming.load(), claim or [], study)
    stored, notes = study_table.newest(runs.folders(Path(settings.paths.results)))
    for note in notes:
        _output.warn(note)
    measured = [figure for result in stored for figure in study_table.measured(result, result.id)]
    judged = claiming.judged(chosen, measured, device)
    if format_ is SeriesFormat.RICH:
        out = _output.stdout()
        out.print(claims_table.details(judged) if details else claims_table.rich(judged, out.width))
    else:
        write = claims_table.markdown_details if details else claims_table.FORMATS[format_.value]
        sys.stdout.write(write(judged))
    if notes:
        raise typer.Exit(ExitCode.CELLS_FAILED)
