"""Command `study`: measure a table of the paper in pairs."""

import contextlib
import dataclasses
import fnmatch
import sys
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from fastvit_bench.cli import _complete, _fleet, _output, _resolve
from fastvit_bench.cli._options import (
    BatchOption,
    ConfigOption,
    DeviceOption,
    ForceOption,
    MachineOption,
    PictureOption,
    PlaintextOption,
    SchedulerOption,
    TableFormat,
    ThreadsOption,
)
from fastvit_bench.cli._progress import ProgressLine, end_time, remaining_seconds
from fastvit_bench.errors import ExitCode, UnavailableError, UsageError
from fastvit_bench.records import ClassOrder

if TYPE_CHECKING:
    from fastvit_bench.config import Config
    from fastvit_bench.fleet.place import ComparisonPlace
    from fastvit_bench.paper.study import Planned
    from fastvit_bench.records import Device, Machine
    from fastvit_bench.records.study import Study, StudyResult
    from fastvit_bench.sweep.estimate import RunTimes


# long: declares the options of the command
def study(
    context: typer.Context,
    name: Annotated[
        str | None,
        typer.Argument(
            autocompletion=_complete.studies,
            help="Study of benchmark.toml, or 'ladder': one network in every precision. [default: list them]",
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = "cpu",
    res: Annotated[
        str | None,
        typer.Option(
            "--res", "--img-size", help="Sizes of the rows that have no size of their own. [default: the study's]"
        ),
    ] = None,
    batch: BatchOption = None,
    threads: ThreadsOption = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            autocompletion=_complete.models,
            help="Additional model, from benchmark.toml or as timm:NAME; repeatable. Of the ladder, its network, by "
            "default the first of the sweep. [default: none]",
        ),
    ] = None,
    onnx: Annotated[
        list[Path] | None,
        typer.Option("--onnx", help="Additional ONNX file, such as your own; repeatable. [default: none]"),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            "--against",
            autocompletion=_complete.models,
            help="Compare your network (an ONNX file, timm:NAME or a model of benchmark.toml) with the reference of "
            "every group, and with nothing else unless --row says so; --res is its size. [default: none]",
        ),
    ] = None,
    top1: Annotated[
        float | None,
        typer.Option(
            "--top1", min=0, max=100, help="Top-1 of the network of --against, in percent. [default: not known]"
        ),
    ] = None,
    row: Annotated[
        list[str] | None,
        typer.Option(
            "--row", help="Only these rows and the reference rows of theirs; globs; repeatable. [default: all]"
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DIR",
            help="ladder: folder of images to count right answers on, as DIR/CLASS/…. [default: none]",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="ladder: file of the images' classes; see `accuracy`. [default: folders]"),
    ] = None,
    class_order: Annotated[
        ClassOrder | None,
        typer.Option("--class-order", help="ladder: how training numbered the folders of --data. [default: none]"),
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="ladder: number of images of --data. [default: all]")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            metavar="DIR",
            help="ladder: images that 8-bit activations are calibrated on. [default: none]",
        ),
    ] = None,
    calibration_images: Annotated[
        int | None,
        typer.Option("--calibration-images", min=1, help="ladder: how many are drawn from them. [default: 128]"),
    ] = None,
    blocks: Annotated[
        int, typer.Option("--blocks", min=1, help="Blocks of turns for each pair; fewer than 6 give no interval.")
    ] = 6,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of random weights and of the order of turns.")] = 0,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only show what would be measured and how long it takes.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the newest study of that name and device.")
    ] = False,
    stored: Annotated[
        Path | None,
        typer.Option(
            "--stored",
            metavar="PATH",
            help="Measure nothing: show this file, or the newest file of a folder. [default: measure]",
        ),
    ] = None,
    format_: Annotated[TableFormat, typer.Option("--format", "-f", help="Format of the table.")] = TableFormat.RICH,
    output: PictureOption = None,
    force: ForceOption = False,
    scheduler: SchedulerOption = None,
    plaintext: PlaintextOption = None,
    machine_name: MachineOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Reproduce a table of the paper on this machine.

    Its networks are timed in turns, and its claims are checked. The table shows the published figures too. Every
    pass over the pairs is written to results/DEVICE/study-NAME-ID.json at once. Exit code 7: some rows failed, and the
    others were saved. `ladder` is no table of the paper: it is one network in all precisions of a device, each timed in
    turns with FP32 and counted on the same images.

    \b
    fastvit-bench study repmixer-vs-pooling --dry-run
    fastvit-bench study ladder -m fastvit_t8 --data val --calibration train
    fastvit-bench study classification --against timm:resnet50 --top1 80.4
    fastvit-bench study architecture --stored results/cpu-reference
    """
    from fastvit_bench import config, options
    from fastvit_bench.ladder import declare as laddering
    from fastvit_bench.paper import study as studying
    from fastvit_bench.paper import study_table
    from fastvit_bench.render import charts

    settings = options.load(config_file)
    results = Path(settings.paths.results)
    if output is not None:
        charts.check(output, force=force)
    if name is None:
        _list(settings, format_)
        return
    if stored is not None:
        _show(_stored(stored, name), format_, output, force=force)
        return
    if resume:
        _resolve.refuse_besides_resume(context)
    sizes = config.sizes(res, settings.sweep.grid, 1) if res else []
    asked = options.resolve_device(settings.device(device), batch=batch, options={"threads": threads})
    if name == laddering.NAME and name not in settings.studies:
        asked, chosen = _ladder(context, settings, asked, model, calibration, calibration_images)
    else:
        _refuse_of_ladder(context, name)
        chosen = _chosen(settings, name, row, [*(model or []), *map(str, onnx or [])], alone=against is not None)
    chosen = _challenged(settings, chosen, against, sizes, top1)
    earlier = study_table.read(_newest(results, asked.name, name)) if resume else None
    _fleet.check(scheduler, plaintext, machine_name, [asked])
    label = "" if scheduler else settings.machine_name(machine_name)
    like = earlier.machine if earlier is not None else None
    with _place(asked, label, scheduler, plaintext, like, dry_run=dry_run) as where:
        if earlier is not None:
            path = _newest(results, asked.name, name)
            planned = studying.resumed(earlier, settings, where.machine)
        else:
            planned = studying.plan(
                chosen, settings, where.device, where.machine, sizes=sizes, blocks=blocks, seed=seed
            )
            planned = _with_images(planned, data, labels, class_order, limit)
            path = studying.file_of(planned.result, results)
        times = studying.run_times(results, where.device)
        _output.say(studying.outline(planned, times))
        if dry_run:
            _show_plan(planned, format_)
            return
        result, failed = _locked(planned, settings, path, times, where, scheduler)
    _show(result, format_, output, force=force)
    _output.say(f"study: {path}")
    if failed or any(cell.verdict.ratio is None for cell in result.cells):
        raise typer.Exit(ExitCode.CELLS_FAILED)


_OF_LADDER = ("data", "labels", "class_order", "limit", "calibration", "calibration_images")
_NOT_OF_LADDER = ("onnx", "against", "top1", "row")


def _given(context: typer.Context, names: Sequence[str]) -> list[str]:
    """Return the options of these names that were given, as they are written."""
    return [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name in names
        and (source := context.get_parameter_source(parameter.name or "")) is not None
        and source.name != "DEFAULT"
    ]


def _refuse_of_ladder(context: typer.Context, name: str) -> None:
    """Raise `UsageError` for options that only the ladder has."""
    if named := _given(context, _OF_LADDER):
        raise UsageError(f"{', '.join(named)} is for `study ladder`; leave it out of '{name}'.")


def _ladder(
    context: typer.Context,
    settings: "Config",
    asked: "Device",
    models: list[str] | None,
    calibration: Path | None,
    calibration_images: int | None,
) -> "tuple[Device, Study]":
    """Return the device in the reference's precision, with its calibration images, and the ladder of one network."""
    from fastvit_bench import options
    from fastvit_bench.exporting.calibration import available
    from fastvit_bench.ladder import declare

    if named := _given(context, _NOT_OF_LADDER):
        raise UsageError(f"The ladder has one network in every precision; leave out {', '.join(named)}.")
    specs = settings.select(models or settings.sweep.models[:1])
    if len(specs) > 1:
        raise UsageError(f"The ladder has one network, and --model names {len(specs)}; give one.")
    changes = {"calibration": calibration and str(calibration), "calibration_images": calibration_images}
    changed = msgspec.structs.replace(asked, **{name: value for name, value in changes.items() if value is not None})
    if calibration is not None:
        available(changed)  # a rung that fails would cost a whole ladder
    reference = declare.rungs(changed)[0]
    return options.resolve_device(changed, precision=reference), declare.declare(specs[0], changed)


def _with_images(
    planned: "Planned", data: Path | None, labels: Path | None, order: ClassOrder | None, limit: int | None
) -> "Planned":
    """Return the plan of a ladder with the images that its rungs are counted on, if it has some."""
    if data is None:
        if labels is not None or order is not None or limit is not None:
            raise UsageError("--labels, --class-order and --limit are of the images of --data; name their folder too.")
        return planned
    from fastvit_bench import backends
    from fastvit_bench.accuracy import dataset
    from fastvit_bench.accuracy import run as accuracy_run
    from fastvit_bench.ladder import counting
    from fastvit_bench.records import ClassNumbering

    counting.check(planned.result)
    dataset.collect(data, labels)  # raises for a folder without images, before anything is timed
    choices = accuracy_run.CountingChoices(ClassNumbering(order=order))
    images = accuracy_run.described(data, labels, limit, backends.available_cores(), choices)
    return dataclasses.replace(planned, result=msgspec.structs.replace(planned.result, evaluation=images))


def _count(planned: "Planned", result: "StudyResult", settings: "Config", path: Path) -> "tuple[StudyResult, int]":
    """Count the rungs of a ladder under a line of progress; return the study and the number of failures."""
    from fastvit_bench.ladder import counting
    from fastvit_bench.records import Failure
    from fastvit_bench.render import accuracies

    failed = 0
    with ProgressLine(_output.stderr()) as progress:
        try:
            for counted, line in counting.count(
                planned,
                result,
                settings,
                path,
                notify=lambda rung, stage: progress.step(f"{stage} {rung.name}"),
                counted=lambda rung, chunk: progress.detail(f"{chunk.first + chunk.pictures} images"),
            ):
                result = counted
                failed += isinstance(line, Failure)
                progress.say(accuracies.line(line))
        except KeyboardInterrupt as error:
            command = f"study {result.study.name} --device {result.device.name} --resume"
            raise _output.interrupted(error, "every finished count", command, progress.console) from None
    return result, failed


def _list(settings: "Config", format_: TableFormat) -> None:
    """Print the studies of the configuration."""
    from fastvit_bench.ladder import declare
    from fastvit_bench.records.study import Study, StudyRow
    from fastvit_bench.render.table import Column, Table, TableReport

    columns: list[Column[Study]] = [
        Column("study", "study", lambda study: study.name, role="key"),
        Column("what", "what", lambda study: study.title, wraps=True),
        Column("networks", "networks", lambda study: len({row.label for row in study.rows}), align="right"),
        Column("tables", "published in", lambda study: ", ".join(study.tables), wraps=True),
    ]
    ladder = Study(name=declare.NAME, title="One network in every precision of a device", rows=(StudyRow(label=""),))
    listed = {ladder.name: ladder, **settings.studies}
    _output.print_report(TableReport([Table(list(listed.values()), columns)]), format_.value)


def _chosen(settings: "Config", name: str, patterns: list[str] | None, additions: list[str], *, alone: bool) -> "Study":
    """Return a study with only the rows of the patterns, if any, and with additional models or ONNX files.

    `alone`: without patterns, only the reference of each group.
    """
    from fastvit_bench.paper import study as studying

    chosen = settings.study(name)
    if patterns:
        chosen = _only(chosen, patterns)
    elif alone:
        first = {group: next(row for row in chosen.rows if row.group == group) for group in _groups(chosen)}
        chosen = msgspec.structs.replace(chosen, rows=tuple(first.values()))
    for addition in additions:
        settings.select([addition])  # raises for what is no model
    return studying.joined(chosen, additions)


def _challenged(
    settings: "Config", chosen: "Study", model: str | None, sizes: Sequence[tuple[int, int]], top1: float | None
) -> "Study":
    """Return a study with a network of the user's own in every group, if there is one."""
    from fastvit_bench.paper import study as studying

    if model is None and top1 is not None:
        raise UsageError("--top1 is of the network of --against; name that too.")
    if model is None:
        return chosen

    settings.select([model])  # raises for what is no model
    if len(sizes) > 1 or any(height != width for height, width in sizes):
        raise UsageError("--against compares one network at one square size; name one with --res, such as 224.")
    return studying.challenged(chosen, model, res=sizes[0][0] if sizes else None, top1=top1)


def _groups(chosen: "Study") -> list[str]:
    """Return the names of a study's groups, in their order."""
    return list(dict.fromkeys(row.group for row in chosen.rows))


@contextlib.contextmanager
def _place(
    asked: "Device",
    machine_label: str,
    scheduler: str | None,
    plaintext: str | None,
    like: "Machine | None",
    *,
    dry_run: bool,
) -> "Generator[ComparisonPlace]":
    """Yield where the study is measured; a dry run needs no working device."""
    from fastvit_bench.fleet import place
    from fastvit_bench.sweep import block, preflight

    with contextlib.ExitStack() as stack:
        try:
            where = stack.enter_context(place.of_comparison(asked, machine_label, scheduler, plaintext, like))
        except UnavailableError as error:
            if not dry_run:
                raise
            _output.say(f"only planned: {error}")
            machine = preflight.this_machine(machine_label)
            where = place.ComparisonPlace(asked, machine, block.measure, local=True)
        yield where


def _newest(results: Path, device: str, name: str) -> Path:
    """Return the file of the newest study of a name on a device."""
    from fastvit_bench.paper import study_table

    paths = study_table.lying([results / device], name)
    if not paths:
        raise UsageError(f"There is no study '{name}' of {device} in {results} to go on with; leave --resume out.")
    return paths[-1]


def _only(chosen: "Study", patterns: list[str]) -> "Study":
    """Return the study with only the rows that fit a pattern, and the first row of each of their groups."""
    fit = [row for row in chosen.rows if any(fnmatch.fnmatchcase(row.label, pattern) for pattern in patterns)]
    if not fit:
        labels = ", ".join(dict.fromkeys(row.label for row in chosen.rows))
        raise UsageError(f"No row of '{chosen.name}' is called {' or '.join(patterns)}; it has {labels}.")
    first = [next(row for row in chosen.rows if row.group == group) for group in {row.group for row in fit}]
    return msgspec.structs.replace(chosen, rows=tuple(row for row in chosen.rows if row in fit or row in first))


def _stored(path: Path, name: str) -> "StudyResult":
    """Return the result in a file, or the newest of that study in a folder."""
    from fastvit_bench.paper import study_table

    if path.is_dir():
        paths = study_table.lying([path], name)
        if not paths:
            raise UsageError(f"{path} holds no study '{name}'; `fastvit-bench study {name}` measures it.")
        # one that was interrupted before its first pair holds no figure
        results = [study_table.read(path) for path in reversed(paths)]
        return next((result for result in results if result.cells), results[0])
    return study_table.read(path)


def _show_plan(planned: "Planned", format_: TableFormat) -> None:
    """Print the pairs that are still to be measured."""
    from fastvit_bench.records.study import Match
    from fastvit_bench.render.table import Column, Table, TableReport

    columns: list[Column[Match]] = [
        Column("row", "row", lambda match: match.row.row.label, role="key"),
        Column("network", "network", lambda match: match.row.row.model),
        Column("size", "px", lambda match: match.row.shape.size, align="right"),
        Column("reference", "divided by", lambda match: match.reference.name),
        Column("file", "file", lambda match: planned.state(match.row), wraps=True),
    ]
    _output.print_report(TableReport([Table(planned.remaining, columns)]), format_.value)


def _locked(
    planned: "Planned",
    settings: "Config",
    path: Path,
    times: "RunTimes",
    where: "ComparisonPlace",
    scheduler: str | None,
) -> "tuple[StudyResult, int]":
    """Measure a study and count the rungs of a ladder, locked; return the result and the number of failed counts."""
    from fastvit_bench import options
    from fastvit_bench.store import runs

    if planned.result.evaluation is not None and not where.local:
        raise UsageError("--data counts on this machine only; leave --scheduler out.")
    options.require_folders(settings, where.device.name)
    _output.warn_unknown_commit()
    for note in where.notes:
        _output.warn(note)
    with runs.lock(Path(settings.paths.results), where.device.name, path.stem if scheduler else ""):
        result = _measure(planned, settings, path, times, where, scheduler)
        return _count(planned, result, settings, path) if result.evaluation is not None else (result, 0)


def _measure(
    planned: "Planned",
    settings: "Config",
    path: Path,
    times: "RunTimes",
    where: "ComparisonPlace",
    scheduler: str | None,
) -> "StudyResult":
    """Measure the planned pairs under a line of progress, print a line after each pass, and return the result."""
    from fastvit_bench.paper import study as studying
    from fastvit_bench.paper import study_table

    result = planned.result
    failed = {cell.name for cell in result.cells if cell.verdict.ratio is None}
    with ProgressLine(_output.stderr()) as progress:
        notify = _of_passes(progress, planned, times)
        try:
            for result in studying.run(
                planned,
                settings,
                path,
                announce=progress.step,
                notify=notify,
                warn=_output.warn,
                measure=where.measure,
                engines=where.local,
            ):
                for cell in result.cells:
                    if cell.verdict.ratio is None and cell.name not in failed:
                        progress.say(study_table.live_row(cell))
                        failed.add(cell.name)
                progress.say(studying.progress(result))
        except KeyboardInterrupt as error:
            command = f"study {result.study.name} --device {result.device.name} --resume{_fleet.suffix(scheduler)}"
            raise _output.interrupted(error, "every finished block", command, progress.console) from None
    return result


def _of_passes(progress: ProgressLine, planned: "Planned", times: "RunTimes") -> Callable[[str, int, int], None]:
    """Return the function that a study notifies of each block; its expected end follows the time of earlier blocks."""
    from fastvit_bench.paper import study as studying

    blocks = planned.result.blocks
    weights = {match.name: studying.match_seconds(planned, match, times) / blocks for match in planned.remaining}
    begun: list[tuple[str, int]] = []  # pair and pass of each block of this call, the last one running
    first_s: list[float] = []

    def notify(pair: str, block: int, look: int) -> None:
        begun.append((pair, block))
        first_s.append(progress.elapsed_s)
        in_pass = {name for name, number in begun if number == block}
        estimates = {(name, number): weights[name] for name, number in begun}
        estimates |= {(name, number): weights[name] for name in weights for number in range(block + 1, look + 1)}
        estimates |= {(name, block): weights[name] for name in weights if name not in in_pass}
        left_s = remaining_seconds(estimates, list(dict.fromkeys(begun)), progress.elapsed_s - first_s[0])
        progress.timing(
            f"timing {pair} ({len(in_pass)} of {len(weights)}, pass {block} of {look}) · "
            f"all done about {end_time(left_s)}"
        )

    return notify


def _show(result: "StudyResult", format_: TableFormat, output: Path | None, *, force: bool) -> None:
    """Print the table with the verdicts on its claims, then write the chart if `output` is given."""
    from fastvit_bench.ladder import declare
    from fastvit_bench.ladder import table as ladder_table
    from fastvit_bench.paper import claims as claiming
    from fastvit_bench.paper import claims_table, study_chart, study_table

    if output is not None:
        study_chart.write(result, output, force=force)
    if declare.is_ladder(result):
        if format_ is TableFormat.RICH:
            out = _output.stdout()
            out.print(ladder_table.rich(result, out.width, verbose=_output.verbose()))
        else:
            sys.stdout.write(ladder_table.FORMATS[format_](result))
        return
    study_claims = [claim for claim in claiming.load() if claim.study == result.study.name]
    sentences = claims_table.sentences(
        claiming.judged(study_claims, study_table.measured(result, result.id), result.device.name)
    )
    if format_ is TableFormat.RICH:
        out = _output.stdout()
        out.print(study_table.rich(result, sentences, out.width))
    else:
        sys.stdout.write(study_table.FORMATS[format_](result, sentences))
