"""Command `history`: show how latencies changed from run to run."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastvit_bench.cli import _complete, _output, _resolve
from fastvit_bench.cli._options import ConfigOption, ForceOption, PictureOption, SeriesFormat, SinceOption, WhereOption
from fastvit_bench.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from fastvit_bench.config import Config


# long: declares the options of the command
def history(
    run: Annotated[
        list[str] | None,
        typer.Argument(
            autocompletion=_complete.runs, help="Runs: ids, prefixes, files, or folders. [default: all of the device]"
        ),
    ] = None,
    device: Annotated[
        str | None,
        typer.Option(
            "--device", "-d", autocompletion=_complete.devices, help="Only runs of this device. [default: all]"
        ),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            autocompletion=_complete.models,
            help="Model, repeatable; globs such as 'fastvit_*' work. [default: all]",
        ),
    ] = None,
    res: Annotated[
        str | None, typer.Option("--res", "--img-size", help="Sizes, such as 256, 224,256 or 224..1024. [default: all]")
    ] = None,
    since: SinceOption = None,
    where: WhereOption = None,
    min_change: Annotated[str, typer.Option("--min-change", help="Smallest change to report: 2% or 0.02.")] = "2%",
    format_: Annotated[SeriesFormat, typer.Option("--format", "-f", help="Format of the series.")] = SeriesFormat.RICH,
    output: PictureOption = None,
    force: ForceOption = False,
    config_file: ConfigOption = None,
) -> None:
    """Show latencies from run to run, and where they changed.

    A series has the figures of one model, shape, device, method and machine. Versions of packages and drivers may
    differ within a series, since they may be the cause of a change; what changed with a figure is shown. Changes are
    searched from five runs on, and are detected three to five runs after they happened. A change is no failure: the
    exit code stays 0 (`gate` has others). Exit code 7: some runs could not be read, and the others are shown.

    \b
    fastvit-bench history
    fastvit-bench history --device cpu --model 'fastvit_*' -o history.svg
    """
    from fastvit_bench import config, options
    from fastvit_bench.history import chart
    from fastvit_bench.history import series as history_series
    from fastvit_bench.history import table as histories
    from fastvit_bench.render import charts
    from fastvit_bench.stats.changepoints import FEWEST
    from fastvit_bench.store import figures

    settings = options.load(config_file)
    least = config.share(min_change, zero=True)
    if output is not None:
        charts.check(output, force=force)
    selection = _resolve.selection(since, where)
    results = Path(settings.paths.results)
    paths = _resolve.runs(run, results) if run else _runs_on(settings, results, device)
    with _output.without_collector():
        files, unreadable = figures.read_all(paths, selection.lines)
        for sentence in unreadable:
            _output.warn(sentence)
        series = history_series.collect(files)
        if selection and not series:
            raise selection.nothing(paths)
        if not series:
            raise UsageError(f"No figure was measured in {_output.plural(len(files), 'run')}: there is no history.")
        grid = sorted({shape.height for cell_series in series if (shape := cell_series.newest.shape)})
        sizes = config.sizes(res, grid, 1) if res else []
        series = history_series.select(series, device, model or [], sizes)
        if all(len(cell_series.points) == 1 for cell_series in series):
            raise UsageError(
                f"{_output.plural(len(series), 'cell')} with a single figure: a history takes two runs of a cell, and "
                f"{FEWEST} for changes to be looked for."
            )
        series = history_series.search_all(series, least)
        if format_.value in histories.FORMATS:
            sys.stdout.write(histories.FORMATS[format_.value](series))
        else:
            _output.print_report(histories.report(series, sum(len(file.failures) for file in files)), format_.value)
        if output is not None:  # the table is printed by then, which a picture that cannot be written must not cost
            _output.say("\n".join([*chart.write(series, output, force=force), f"picture: {output}"]))
        if unreadable:
            raise typer.Exit(ExitCode.CELLS_FAILED)


def _runs_on(settings: "Config", results: Path, device: str | None) -> list[Path]:
    """Return every run file, or those of a device; raises `UsageError` if there is none."""
    from fastvit_bench.store import runs

    paths = [path for path in runs.all_runs(results) if device in {None, path.parent.name}]
    if not paths and device is not None:
        name = settings.device(device).name  # for an unknown device, raises with the known ones
        raise UsageError(
            f"There are no runs on '{name}' in {results}/ yet; `fastvit-bench latency --device {name}` makes one."
        )
    if not paths:
        raise UsageError(f"There are no runs in {results}/ yet; `fastvit-bench latency --device cpu` makes one.")
    return paths
