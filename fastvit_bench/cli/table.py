"""Command `table`: print measured latencies beside the published figures."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fastvit_bench.cli import _output, _resolve
from fastvit_bench.cli._options import (
    ConfigOption,
    FormatOption,
    OnlyDevicesOption,
    OnlyModelsOption,
    ReferenceOption,
    RunsArgument,
    SinceOption,
    TableFormat,
    WhereOption,
)
from fastvit_bench.errors import ExitCode, UsageError


class Join(StrEnum):
    """Measurements that a table of latencies can be joined with."""

    ACCURACY = "accuracy"


# long: declares the options of the command
def table(
    run: RunsArgument = None,
    device: OnlyDevicesOption = None,
    model: OnlyModelsOption = None,
    since: SinceOption = None,
    where: WhereOption = None,
    join: Annotated[
        list[Join] | None,
        typer.Option("--join", help="accuracy: add the measured accuracy of the same files. [default: none]"),
    ] = None,
    reference: ReferenceOption = None,
    pareto: Annotated[
        bool,
        typer.Option("--pareto", help="Also show the accuracy-latency frontier, and which models dominate the others."),
    ] = False,
    compact: Annotated[
        bool,
        typer.Option(
            "--compact",
            help="Leave out columns equal in every row, and print their values beside the table; a terminal and LaTeX "
            "always do so without -v.",
        ),
    ] = False,
    columns: Annotated[
        str | None,
        typer.Option(
            "--columns",
            help="Columns by their names in CSV, separated by commas; without its size, such as latency_ms or "
            "images_per_s, a name stands for all sizes. [default: those of the format]",
        ),
    ] = None,
    format_: FormatOption = TableFormat.RICH,
    config_file: ConfigOption = None,
) -> None:
    """Print measured latencies beside the published figures.

    Exit code 7: some runs could not be read, and the others are shown.

    \b
    fastvit-bench table last
    fastvit-bench table --reference fastvit_t8 --pareto -o table.md
    fastvit-bench table --since 30d --device cpu --where resolution=256
    """
    from fastvit_bench import options
    from fastvit_bench.store import runs

    if compact and format_ in {TableFormat.CSV, TableFormat.JSON}:
        raise UsageError(f"--compact is for tables that people read; --format {format_} always has every column.")
    names = [name.strip() for name in columns.split(",") if name.strip()] if columns is not None else []
    if columns is not None and (compact or not names):
        raise UsageError("--columns names the columns to show, such as model,latency_ms; leave out --compact.")
    selection = _resolve.selection(since, where, device, model)
    results = Path(options.load(config_file).paths.results)
    paths = _resolve.runs(run or [], results)
    if not paths:
        raise UsageError(f"There are no runs in {results}/ yet; `fastvit-bench latency --device cpu` makes one.")
    accuracy_paths = runs.all_runs(results) if join else None
    with _output.without_collector():
        unreadable = _output.print_table(
            paths,
            format_,
            accuracy_paths,
            reference,
            selection=selection,
            pareto=pareto,
            compact=compact,
            columns=names,
        )
        if unreadable:
            raise typer.Exit(ExitCode.CELLS_FAILED)
