"""The paper's studies on the device at hand, and its claims."""

import fnmatch
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from fastvit_bench import config
from fastvit_bench.cli import _screen, _values
from fastvit_bench.cli._options import (
    BatchOption,
    ConfigOption,
    DeviceOption,
    MachineOption,
    PictureOption,
    SeriesFormat,
    ThreadsOption,
)
from fastvit_bench.errors import ExitCode, UnavailableError, UsageError

if TYPE_CHECKING:
    from fastvit_bench.config import Config
    from fastvit_bench.studies import Study, StudyResult
    from fastvit_bench.study import Planned


def study(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="Study of benchmark.toml. [default: list them]", show_default=False)
    ] = None,
    device: DeviceOption = "cpu",
    res: Annotated[
        str | None,
        typer.Option("--res", "--img-size", help="Sizes of the rows without one of their own. [default: the study's]"),
    ] = None,
    batch: BatchOption = None,
    threads: ThreadsOption = None,
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="A model that joins: of benchmark.toml, or timm:NAME; repeatable."),
    ] = None,
    onnx: Annotated[
        list[Path] | None, typer.Option("--onnx", help="An ONNX file that joins, such as your own; repeatable.")
    ] = None,
    row: Annotated[
        list[str] | None,
        typer.Option("--row", help="Only these rows and what they are divided by; globs; repeatable. [default: all]"),
    ] = None,
    blocks: Annotated[
        int, typer.Option("--blocks", min=1, help="Blocks of turns of each pair; below 6 there is no interval.")
    ] = 6,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of random weights and of the order of turns.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be measured and how long it takes.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the newest one of that name and device.")
    ] = False,
    stored: Annotated[
        Path | None, typer.Option("--stored", help="Measure nothing: show this file, or the newest of a folder.")
    ] = None,
    format_: Annotated[
        SeriesFormat, typer.Option("--format", "-f", help="How the table is written.")
    ] = SeriesFormat.RICH,
    output: PictureOption = None,
    machine_name: MachineOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Reproduce a table of the paper here: its networks in turns, beside the published figures, claim by claim.

    Every pair that is finished is kept in results/DEVICE/study-NAME-ID.json at once. Exit code 7 says that some rows
    failed and the others are kept.
    """
    from fastvit_bench import study as studying
    from fastvit_bench import sweep
    from fastvit_bench.render import charts
    from fastvit_bench.report import store, studies

    settings = _values.load(config_file)
    results = Path(settings.paths.results)
    if output is not None:
        charts.check(output)
    if name is None:
        _list(settings)
        return
    if stored is not None:
        _show(_stored(stored, name), format_, output)
        return
    if resume:
        _values.refuse_besides_resume(context)
    chosen = settings.study(name)
    if row:
        chosen = _only(chosen, row)
    more = [*(model or []), *map(str, onnx or [])]
    for each in more:
        settings.select([each])  # which refuses what is no model
    chosen = studying.joined(chosen, more)
    asked = _values.as_asked(settings.device(device), batch=batch, running={"threads": threads})
    called = settings.machine_name(machine_name)
    try:
        target, machine = sweep.preflight(asked, name=called)
    except UnavailableError as error:
        if not dry_run:
            raise
        target, machine = asked, sweep.this_machine(called)
        typer.echo(f"only planned: {error}", err=True)
    if resume:
        found = studies.lying([results / target.name], name)
        if not found:
            raise UsageError(
                f"There is no study '{name}' of {target.name} in {results} to go on with; leave --resume out."
            )
        path = found[-1]
        planned = studying.resumed(studies.read(path), settings, machine)
    else:
        sizes = config.sizes(res, settings.sweep.grid, 1) if res else []
        planned = studying.plan(chosen, settings, target, machine, sizes=sizes, blocks=blocks, seed=seed)
        path = studying.file_of(planned.result, results)
    rate = studying.measured_rate(results, target.name)
    console = _screen.stderr()
    console.print(studying.outline(planned, rate), highlight=False, soft_wrap=True)
    if dry_run:
        _show_plan(planned)
        return
    _values.require_folders(settings, target.name)
    _screen.tell_unknown_commit()
    with store.lock(results, target.name):
        result = _measure(planned, settings, path)
    _show(result, format_, output)
    typer.echo(f"study: {path}", err=True)
    if any(cell.verdict.ratio is None for cell in result.cells):
        raise typer.Exit(ExitCode.CELLS_FAILED)


def _list(settings: "Config") -> None:
    from fastvit_bench.render.table import Column, Table, TableReport
    from fastvit_bench.studies import Study

    columns: list[Column[Study]] = [
        Column("study", "study", lambda each: each.name, role="key"),
        Column("what", "what", lambda each: each.title, wraps=True),
        Column("networks", "networks", lambda each: len({row.label for row in each.rows}), align="right"),
        Column("tables", "published in", lambda each: ", ".join(each.tables), wraps=True),
    ]
    _screen.print_report(TableReport([Table(list(settings.studies.values()), columns)]), "rich")


def _only(chosen: "Study", patterns: list[str]) -> "Study":
    """The rows that fit a pattern, and the first of each of their groups."""
    fit = [row for row in chosen.rows if any(fnmatch.fnmatchcase(row.label, pattern) for pattern in patterns)]
    if not fit:
        labels = ", ".join(dict.fromkeys(row.label for row in chosen.rows))
        raise UsageError(f"No row of '{chosen.name}' is called {' or '.join(patterns)}; it has {labels}.")
    first = [next(row for row in chosen.rows if row.group == group) for group in {row.group for row in fit}]
    return msgspec.structs.replace(chosen, rows=tuple(row for row in chosen.rows if row in fit or row in first))


def _stored(path: Path, name: str) -> "StudyResult":
    from fastvit_bench.report import studies

    if path.is_dir():
        found = studies.lying([path], name)
        if not found:
            raise UsageError(f"{path} holds no study '{name}'; `fastvit-bench study {name}` measures it.")
        path = found[-1]
    return studies.read(path)


def _show_plan(planned: "Planned") -> None:
    from fastvit_bench.render.table import Column, Table, TableReport
    from fastvit_bench.studies import Match

    columns: list[Column[Match]] = [
        Column("row", "row", lambda match: match.row.row.label, role="key"),
        Column("network", "network", lambda match: match.row.row.model),
        Column("size", "px", lambda match: match.row.shape.size, align="right"),
        Column("reference", "divided by", lambda match: match.reference.name),
        Column("file", "file", lambda match: planned.state(match.row), wraps=True),
    ]
    _screen.print_report(TableReport([Table(planned.left, columns)]), "rich")


def _measure(planned: "Planned", settings: "Config", path: Path) -> "StudyResult":
    """Under a progress bar; a line per pair as it ends."""
    from fastvit_bench import study as studying
    from fastvit_bench.report import studies

    console, result = _screen.stderr(), planned.result
    with _screen.blocks_bar(console, len(planned.left)) as advance:
        try:
            for so_far, cell in studying.run(planned, settings, path, say=_screen.notifier(console), notify=advance):
                result = so_far
                console.print(studies.live_row(cell), highlight=False, markup=False, soft_wrap=True)
        except KeyboardInterrupt:
            console.print(
                f"interrupted; every finished pair is kept. Go on with: fastvit-bench study "
                f"{result.study.name} --device {result.device.name} --resume",
                highlight=False,
                soft_wrap=True,
            )
            raise typer.Exit(ExitCode.INTERRUPTED) from None
    return result


def _show(result: "StudyResult", format_: SeriesFormat, output: Path | None) -> None:
    """The table, what became of the claims, and the picture if it was asked for."""
    from fastvit_bench.report import claims as claiming
    from fastvit_bench.report import claims_table, studies, study_figures

    if output is not None:
        study_figures.write(result, output)
    known = [claim for claim in claiming.load() if claim.study == result.study.name]
    told = claims_table.sentences(claiming.judged(known, studies.measured(result, result.id), result.device.name))
    if format_ is SeriesFormat.RICH:
        out = _screen.stdout()
        out.print(studies.rich(result, told, out.width))
    else:
        sys.stdout.write(studies.FORMATS[format_](result, told))


def claims(
    claim: Annotated[list[str] | None, typer.Option("--claim", help="Only the claim of this id; repeatable.")] = None,
    study: Annotated[str | None, typer.Option("--study", help="Only what belongs to this study.")] = None,
    device: Annotated[
        str | None, typer.Option("--device", "-d", help="Only what was measured on this device. [default: all]")
    ] = None,
    details: Annotated[
        bool, typer.Option("--details", help="Tell of each claim its cells, their sources and every reading.")
    ] = False,
    format_: Annotated[
        SeriesFormat, typer.Option("--format", "-f", help="How the claims are written.")
    ] = SeriesFormat.RICH,
    config_file: ConfigOption = None,
) -> None:
    """Hold each claim of the paper's text against the paper's own tables, and against what was measured here.

    \b
    fastvit-bench claims --claim mobileone-s4-gpu --details
    """
    from fastvit_bench.report import claims as claiming
    from fastvit_bench.report import claims_table, store, studies

    if details and format_.value in claims_table.COMPLETE:
        raise UsageError(f"--details is for people; --format {format_} holds all of it anyway.")
    settings = _values.load(config_file)
    if device is not None:
        device = settings.device(device).name
    chosen = claiming.choose(claiming.load(), claim or [], study)
    stored, notes = studies.newest(store.folders(Path(settings.paths.results)))
    for note in notes:
        typer.echo(note, err=True)
    measured = [figure for result in stored for figure in studies.measured(result, result.id)]
    found = claiming.judged(chosen, measured, device)
    if format_ is SeriesFormat.RICH:
        out = _screen.stdout()
        out.print(claims_table.details(found) if details else claims_table.rich(found, out.width))
    else:
        write = claims_table.markdown_details if details else claims_table.FORMATS[format_.value]
        sys.stdout.write(write(found))
