"""Commands that write down what was measured before: table, report, history."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import fastvit_bench
from fastvit_bench import config
from fastvit_bench.cli import _screen, _values
from fastvit_bench.cli._options import (
    ConfigOption,
    Format,
    FormatOption,
    PictureOption,
    ReferenceOption,
    RunsArgument,
    SeriesFormat,
)
from fastvit_bench.errors import UsageError

if TYPE_CHECKING:
    from fastvit_bench.config import Config


class Join(StrEnum):
    """What a table of latencies can be joined with."""

    ACCURACY = "accuracy"


class ReportFormat(StrEnum):
    """How a report is written."""

    HTML = "html"
    PNG = "png"
    SVG = "svg"


def table(
    run: RunsArgument = None,
    join: Annotated[
        list[Join] | None,
        typer.Option("--join", help="accuracy: add the measured accuracy of the very files that were timed."),
    ] = None,
    reference: ReferenceOption = None,
    pareto: Annotated[
        bool, typer.Option("--pareto", help="Also who is on the accuracy-latency frontier, and who dominates the rest.")
    ] = False,
    compact: Annotated[
        bool,
        typer.Option("--compact", help="Leave out columns equal in every row, and say their values above the table."),
    ] = False,
    format_: FormatOption = Format.RICH,
    config_file: ConfigOption = None,
) -> None:
    """Tabulate measured latencies beside the published figures."""
    from fastvit_bench.report import store

    if compact and format_ in {Format.CSV, Format.JSON}:
        raise UsageError(f"--compact is for tables that people read; --format {format_} always has every column.")
    results = Path(_values.load(config_file).paths.results)
    paths = _values.runs(run or [], results)
    if not paths:
        raise UsageError(f"There are no runs in {results}/ yet; `fastvit-bench latency --device cpu` makes one.")
    others = store.all_runs(results) if join else None
    _screen.print_table(paths, format_, others, reference, pareto=pareto, compact=compact)


def report(
    run: RunsArgument = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The page, or the folder of the pictures. [default: report.html, figures]"),
    ] = None,
    format_: Annotated[
        ReportFormat, typer.Option("--format", "-f", help="A page, or every figure as a picture.")
    ] = ReportFormat.HTML,
    reference: ReferenceOption = None,
    gate: Annotated[  # not the command of that name
        list[Path] | None,
        typer.Option("--gate", help="Comparison as JSON, repeatable, besides those stored with the devices' runs."),
    ] = None,
    title: Annotated[str, typer.Option("--title", help="Stands above the page.")] = "FastViT latency report",
    config_file: ConfigOption = None,
) -> None:
    """Write one page that opens from a file, offline: frontier, latencies by size, verdicts, studies and every figure.

    Pictures are the page's own figures, one file each.

    \b
    fastvit-bench report -o report.html
    fastvit-bench report --format svg -o figures
    """
    from datetime import UTC, datetime

    from fastvit_bench.render import charts
    from fastvit_bench.report import compose, frontiers, store, studies
    from fastvit_bench.report.rows import collect

    charts.require()
    results = Path(_values.load(config_file).paths.results)
    paths = _values.runs(run or [], results)
    folders = [path.parent for path in paths] if run else sorted(path for path in results.glob("*") if path.is_dir())
    comparisons, notes = compose.stored_comparisons(list(dict.fromkeys(folders)), gate or [])
    here = [folder for folder in dict.fromkeys(folders) if run or folder.name != store.REFERENCE]
    found_studies, left = studies.newest(here)
    notes += left
    if not paths and not comparisons and not found_studies:
        raise UsageError(f"There are no runs in {results}/ yet; `fastvit-bench latency --device cpu` makes one.")
    files = [store.read(path) for path in paths]
    rows, counted = collect(files), frontiers.counted(found for file in files for found in file.accuracies)
    if format_ is ReportFormat.HTML:
        count = len(found_studies)
        sources = _screen.plural(len(paths), "run") + (
            f" and {count} stud{'ies' if count > 1 else 'y'}" if count else ""
        )
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        made = f"Made by fastvit-bench {fastvit_bench.__version__} on {now} from {sources}."
        text = compose.html(
            rows,
            comparisons,
            studies=found_studies,
            title=title,
            made=made,
            reference=reference,
            accuracies=counted,
            notes=notes,
        )
        written = [output or Path("report.html")]
        compose.write(text, written[0])
    else:
        folder = output or Path("figures")
        written, left_out = compose.pictures(
            rows, comparisons, folder, format_.value, studies=found_studies, reference=reference, accuracies=counted
        )
        notes += left_out
    typer.echo("\n".join([*notes, *(f"written: {path}" for path in written)]), err=True)


def history(
    run: Annotated[
        list[str] | None, typer.Argument(help="Runs: ids, prefixes, files, or folders. [default: all of the device]")
    ] = None,
    device: Annotated[
        str | None, typer.Option("--device", "-d", help="Device whose runs are taken. [default: every one]")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="Model, repeatable; globs such as 'fastvit_*' work. [default: all]"),
    ] = None,
    res: Annotated[
        str | None, typer.Option("--res", "--img-size", help="Sizes, such as 256, 224,256 or 224..1024. [default: all]")
    ] = None,
    min_change: Annotated[
        str, typer.Option("--min-change", help="Smaller changes are not reported: 2% or 0.02.")
    ] = "2%",
    format_: Annotated[
        SeriesFormat, typer.Option("--format", "-f", help="How the series are written.")
    ] = SeriesFormat.RICH,
    output: PictureOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Show how latencies went from run to run, at which runs they changed, and what else changed there.

    One series per cell: figures of one model, shape, device, method and machine. Versions of packages and drivers may
    differ within a series, as they may be why it changed. Changes are looked for from five runs on, and seen some three
    to five runs after they happened; a change is no failure, so the exit code stays 0 (`gate` is for that).

    \b
    fastvit-bench history --device cpu --model 'fastvit_*' -o history.svg
    """
    from fastvit_bench.render import charts
    from fastvit_bench.report import history as histories
    from fastvit_bench.report import history_plot, store

    settings = _values.load(config_file)
    least = config.share(min_change, zero=True)
    if output is not None:
        charts.check(output)
    results = Path(settings.paths.results)
    paths = _values.runs(run, results) if run else _runs_on(settings, results, device)
    files = [store.read(path) for path in paths]
    series = histories.collect(files)
    if not series:
        raise UsageError(f"No figure was measured in {_screen.plural(len(files), 'run')}: there is no history.")
    grid = sorted({shape.height for each in series if (shape := each.newest.shape)})
    sizes = config.sizes(res, grid) if res else []
    series = histories.select(series, device, model or [], sizes)
    if all(len(each.points) == 1 for each in series):
        raise UsageError(
            f"{_screen.plural(len(series), 'cell')} with a single figure: a history takes two runs of a cell, and "
            f"{histories.FEWEST} for changes to be looked for."
        )
    series = [histories.search(each, least) for each in series]
    if output is not None:
        said = history_plot.write(series, output)
        typer.echo("\n".join([*said, f"picture: {output}"]), err=True)
    if format_.value in histories.FORMATS:
        sys.stdout.write(histories.FORMATS[format_.value](series))
        return
    _screen.print_report(histories.report(series, sum(len(file.failures) for file in files)), format_.value)


def _runs_on(settings: "Config", results: Path, device: str | None) -> list[Path]:
    """Every run file, or those of a device; `UsageError` where there is none."""
    from fastvit_bench.report import store

    paths = [path for path in store.all_runs(results) if device in {None, path.parent.name}]
    if not paths and device is not None:
        name = settings.device(device).name  # an unknown one is told the known ones
        raise UsageError(
            f"There are no runs on '{name}' in {results}/ yet; `fastvit-bench latency --device {name}` makes one."
        )
    if not paths:
        raise UsageError(f"There are no runs in {results}/ yet; `fastvit-bench latency --device cpu` makes one.")
    return paths
