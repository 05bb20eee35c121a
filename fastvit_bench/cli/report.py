"""Command `report`: write a page or figures of the results."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import fastvit_bench
from fastvit_bench.cli import _output, _resolve
from fastvit_bench.cli._options import (
    ConfigOption,
    ForceOption,
    OnlyDevicesOption,
    OnlyModelsOption,
    ReferenceOption,
    RunsArgument,
    SinceOption,
    WhereOption,
)
from fastvit_bench.errors import ExitCode

# where nothing was measured yet: commands, and what each does
_ADVICE = (
    ("fastvit-bench latency --device cpu", "times the models on this machine's processor, and keeps the run."),
    ("fastvit-bench study", "lists the paper's studies; with the name of one, it repeats that on this machine."),
    ("fastvit-bench report", "then makes this page of your own figures."),
)


class PageFormat(StrEnum):
    """Output formats of a report."""

    HTML = "html"
    PNG = "png"
    SVG = "svg"


# long: declares the options of the command
def report(
    run: RunsArgument = None,
    device: OnlyDevicesOption = None,
    model: OnlyModelsOption = None,
    since: SinceOption = None,
    where: WhereOption = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="File of the page, or folder of the pictures. [default: report.html, figures]",
        ),
    ] = None,
    format_: Annotated[
        PageFormat, typer.Option("--format", "-f", help="A page, or every figure as a picture.")
    ] = PageFormat.HTML,
    reference: ReferenceOption = None,
    gate: Annotated[  # not the command of that name
        list[Path] | None,
        typer.Option(
            "--gate", help="Comparison as JSON, repeatable, in addition to those beside the runs. [default: none]"
        ),
    ] = None,
    title: Annotated[str, typer.Option("--title", help="Title of the page.")] = "FastViT latency report",
    force: ForceOption = False,
    config_file: ConfigOption = None,
) -> None:
    """Write an offline HTML page of all results, or pictures.

    The page has the frontier, latencies by size, verdicts, studies and every figure. With --format svg or png, the
    figures of the page are written instead, one file each. Where nothing was measured yet, the page shows the studies
    that came with the package, and says how to make more. Exit code 7: some results could not be read, and the page is
    of the others.

    \b
    fastvit-bench report -o report.html
    fastvit-bench report --format svg -o figures
    """
    from datetime import UTC, datetime

    from fastvit_bench import files, options
    from fastvit_bench.paper import study_table
    from fastvit_bench.render import charts, frontiers
    from fastvit_bench.render.page import compose
    from fastvit_bench.render.rows import collect
    from fastvit_bench.store import figures, runs

    charts.require()
    selection = _resolve.selection(since, where, device, model)
    page = output or Path("report.html")
    results = Path(options.load(config_file).paths.results)
    paths = _resolve.runs(run or [], results)
    if format_ is PageFormat.HTML:
        compose.check(page, [*paths, *(gate or [])], force=force)
    folders = [path.parent for path in paths] if run else sorted(path for path in results.glob("*") if path.is_dir())
    comparisons, unreadable, notes = compose.stored_comparisons(list(dict.fromkeys(folders)), gate or [])
    study_folders = [folder for folder in dict.fromkeys(folders) if run or folder.name != runs.REFERENCE]
    studies, study_notes = study_table.newest(study_folders)
    nothing = not paths and not comparisons and not studies
    if nothing:
        studies, study_notes = study_table.newest([files.find(runs.REFERENCE)])
        notes.append(
            f"Nothing was measured in {results}/ yet: shown are studies of another machine. "
            f"`{_ADVICE[0][0]}` makes a run."
        )
    with _output.without_collector():
        run_files, unread = figures.read_all(paths, selection.lines)
        unreadable += [*study_notes, *unread]
        rows = collect(run_files)
        if selection and not (rows or any(file.accuracies for file in run_files)):
            raise selection.nothing(paths)
        rows, omitted_rows = compose.newest(rows)
        notes += omitted_rows
        counted = frontiers.counted(accuracy for file in run_files for accuracy in file.accuracies)
        histories = compose.developed(run_files)
        if format_ is PageFormat.HTML:
            count = len(studies)
            counts = [_output.plural(len(run_files), "run")] * (not nothing)
            counts += [f"{count} stud{'ies' if count > 1 else 'y'}"] * bool(count)
            sources = " and ".join(counts)
            origin = (
                f"Made by fastvit-bench {fastvit_bench.__version__} on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC "
                f"from {sources}."
            )
            text = compose.html(
                rows,
                comparisons,
                studies=studies,
                histories=histories,
                title=title,
                footer=origin,
                reference=reference,
                accuracies=counted,
                notes=[*unreadable, *notes],
                advice=_ADVICE if nothing else (),
            )
            written = [page]
            compose.write(text, page)
        else:
            folder = output or Path("figures")
            written, omitted = compose.pictures(
                rows,
                comparisons,
                folder,
                format_.value,
                studies=studies,
                histories=histories,
                reference=reference,
                accuracies=counted,
                force=force,
            )
            notes += omitted
        for sentence in unreadable:
            _output.warn(sentence)
        for line in [*notes, *(f"written: {path}" for path in written)]:
            _output.say(line)
        if unreadable:
            raise typer.Exit(ExitCode.CELLS_FAILED)
