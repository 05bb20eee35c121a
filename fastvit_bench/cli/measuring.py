"""Commands that measure on a device: latency, accuracy, roofline."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from fastvit_bench import backends, config
from fastvit_bench.cli import _screen, _values
from fastvit_bench.cli._options import (
    BatchOption,
    CheckpointOption,
    ConfigOption,
    DeviceOption,
    Format,
    FormatOption,
    FuseLevelOption,
    MachineOption,
    ModelsOption,
    PictureOption,
    PrecisionOption,
    ResumeOption,
    SeriesFormat,
    ThreadsOption,
    WeightSeedOption,
)
from fastvit_bench.errors import ExitCode, UsageError
from fastvit_bench.records import METHODS, Failure, Fuse, Head, Method, ModelSpec, Protocol, Request, Shape

if TYPE_CHECKING:
    from fastvit_bench.config import Config
    from fastvit_bench.evaluation import Place
    from fastvit_bench.measure.images import DataSet
    from fastvit_bench.records import Cell, Tally
    from fastvit_bench.sweep import Step


def latency(
    context: typer.Context,
    device: DeviceOption = "cpu",
    model: ModelsOption = None,
    checkpoint: CheckpointOption = None,
    res: Annotated[
        str | None,
        typer.Option("--res", "--img-size", help="224..1024, 224..1024:160, 224,256 or 384x512. [default: the grid]"),
    ] = None,
    batch: BatchOption = None,
    runs: Annotated[
        int | None, typer.Option("--runs", "--iterations", min=1, help="Timed runs. [default: 100]")
    ] = None,
    warmup: Annotated[
        int | None, typer.Option("--warmup", "-w", min=0, help="Untimed runs in front. [default: 10]")
    ] = None,
    protocol: Annotated[
        Protocol,
        typer.Option(
            "--protocol",
            help="median100; modelbench: how the published iPhone figures were made; paper: its GPU column; "
            "trtexec: as that tool does.",
        ),
    ] = Protocol.MEDIAN100,
    threads: ThreadsOption = None,
    precision: PrecisionOption = None,
    head: Annotated[
        Head | None,
        typer.Option(
            "--head", help="Of random weights. dense (as published) and stages: the maps that detectors take."
        ),
    ] = None,
    graph: Annotated[
        bool | None,
        typer.Option("--graph/--no-graph", help="NVIDIA GPUs: replay a CUDA graph. [default: where the binding can]"),
    ] = None,
    transfers: Annotated[
        bool | None,
        typer.Option("--transfers/--no-transfers", help="NVIDIA GPUs: time the copies to and from the GPU too. [no]"),
    ] = None,
    sync: Annotated[
        str | None, typer.Option("--sync", help="NVIDIA GPUs: how the host waits, spin or block. [default: spin]")
    ] = None,
    cuda_binding: Annotated[
        str | None, typer.Option("--cuda-binding", help="TensorRT: cuda-python or pycuda. [default: cuda-python]")
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Also time every layer, in runs made for that alone.")
    ] = False,
    allow_device_mismatch: Annotated[
        bool,
        typer.Option(
            "--allow-device-mismatch", help="Run on hardware the device is not meant for, labelled by its own name."
        ),
    ] = False,
    wait: Annotated[
        str,
        typer.Option(
            "--wait", help="How long to wait in all for the machine's usual speed, to measure slow figures again."
        ),
    ] = "60s",
    any_speed: Annotated[
        bool, typer.Option("--any-speed", help="Take figures at whatever speed the machine runs; they stay marked.")
    ] = False,
    fuse: FuseLevelOption = Fuse.FOLDED,
    seed: WeightSeedOption = 0,
    resume: ResumeOption = None,
    machine_name: MachineOption = None,
    format_: FormatOption = Format.RICH,
    config_file: ConfigOption = None,
) -> None:
    """Time exported networks over image sizes: the median of 100 runs with its interval, in fresh processes.

    What is missing is exported and proved first. Every finished size is a line in results/DEVICE/RUN.jsonl at once, so
    a run that is interrupted goes on with --resume. Exit code 7 says that some sizes failed and the others are kept.
    """
    from fastvit_bench import sweep
    from fastvit_bench.report import store

    settings = _values.load(config_file)
    models, results = Path(settings.paths.models), Path(settings.paths.results)
    chosen = settings.device(device)
    if resume is not None:
        _values.refuse_besides_resume(context)
    if head is not None and checkpoint is not None:
        raise UsageError("--head is for random weights; a checkpoint tells its own, so leave it out.")
    running = {"graph": graph, "transfers": transfers, "sync": sync, "cuda_binding": cuda_binding, "threads": threads}
    chosen = _values.as_asked(chosen, protocol, precision, batch, running)
    wait_s = None if any_speed else config.seconds(wait, zero=True)
    name = settings.machine_name(machine_name)
    chosen, machine = sweep.preflight(chosen, "rename" if allow_device_mismatch else "refuse", name)
    method = _method(settings, protocol, runs, warmup, backends.get(chosen.backend).settling(chosen))
    method = msgspec.structs.replace(method, processes=sweep.processes(method, machine))
    if profile and (untold := backends.get(chosen.backend).unprofiled(chosen)):
        raise UsageError(untold)
    _values.require_folders(settings, chosen.name)
    if resume is not None:
        path = _run_of(chosen.name, store.find(results, resume))
        with store.lock(results, chosen.name):
            request, steps = sweep.resume(path, models, machine)
            _values.tell_host(machine, store.read(path).runs[0].machine)
            failed = _sweep(request, steps, machine, path, device, wait_s)
    else:
        grid = settings.sweep.grid
        specs = (
            [_values.one_model(settings, _values.single(model), checkpoint)]
            if checkpoint
            else settings.select(model or [])
        )
        if head is not None:
            specs = [msgspec.structs.replace(spec, head=head) for spec in specs]
        request = Request(
            device=chosen,
            models=tuple(specs),
            shapes=tuple(config.shapes(res or f"{min(grid)}..{max(grid)}", grid, chosen.batch, config.stride(specs))),
            fused=fuse,
            method=method,
            seed=seed,
            timeout_s=settings.sweep.timeout_s,
            profile=profile,
        )
        steps = sweep.plan(request, models)
        sweep.check_checkpoints(request, steps)
        with store.lock(results, chosen.name):
            path = sweep.begin(request, steps, machine, results)
            failed = _sweep(request, steps, machine, path, device, wait_s)
    _screen.print_table([path], format_)
    typer.echo(f"results: {path}", err=True)
    if failed:
        raise typer.Exit(ExitCode.CELLS_FAILED)


def _sweep(request: Request, steps: "list[Step]", machine: Any, path: Path, device: str, wait_s: float | None) -> int:
    """Run the steps under a progress bar; returns how many failed."""
    from fastvit_bench import sweep
    from fastvit_bench.report import row_text

    console = _screen.stderr()
    _screen.tell_unknown_commit()
    rate = sweep.measured_rate(path.parent.parent, device)
    console.print(sweep.outline(request, steps, rate), highlight=False, soft_wrap=True)
    failed = 0
    with _screen.steps_bar(console, steps, request, rate) as advance:
        try:
            for result in sweep.run(request, steps, machine, path, advance, wait_s=wait_s):
                failed += isinstance(result, Failure)
                console.print(row_text.live_row(result), highlight=False, markup=False, soft_wrap=True)
        except KeyboardInterrupt:
            console.print(
                f"interrupted; every finished size is kept. Go on with: "
                f"fastvit-bench latency --device {device} --resume {path.stem}",
                highlight=False,
                soft_wrap=True,
            )
            raise typer.Exit(ExitCode.INTERRUPTED) from None
    return failed


def accuracy(
    context: typer.Context,
    device: DeviceOption = "cpu",
    model: ModelsOption = None,
    data: Annotated[
        Path | None,
        typer.Option("--data", help="Folder of images: DIR/CLASS/… as ImageNet has it, or any with --labels."),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option("--labels", help="Classes of the images: lines `name number` or `name,number`, or JSON."),
    ] = None,
    checkpoint: CheckpointOption = None,
    res: Annotated[
        str | None, typer.Option("--res", "--img-size", help="One size, such as 256. [default: the model's]")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch", "-b", "--batch-size", min=1, help="Images per run, which the file is made for. [the device's]"
        ),
    ] = None,
    precision: PrecisionOption = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="So many images, evenly spread over all. [default: all]")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", "-j", min=1, help="Threads that decode images. [default: all cores]")
    ] = None,
    fuse: FuseLevelOption = Fuse.FOLDED,
    seed: WeightSeedOption = 0,
    resume: ResumeOption = None,
    machine_name: MachineOption = None,
    format_: FormatOption = Format.RICH,
    config_file: ConfigOption = None,
) -> None:
    """Count how often the file that `latency` times names the right class of an image: top-1 and top-5.

    The file is exported and proved first if it is missing. Where the device is not here, what proves its files on any
    machine takes its place, and the result says so. Images are prepared as for the published accuracies. What was
    counted is on disk every few images, so a run that is interrupted goes on with --resume. Files that cannot be read
    as images are left out, counted and named.
    """
    from fastvit_bench import evaluation, sweep
    from fastvit_bench.measure import images
    from fastvit_bench.report import store

    settings = _values.load(config_file)
    models, results = Path(settings.paths.models), Path(settings.paths.results)
    if resume is not None:
        _values.refuse_besides_resume(context)
    if resume is None and data is None:
        raise UsageError("Name the folder with the images: --data DIR.")
    chosen = _values.as_asked(settings.device(device), precision=precision, batch=batch)
    backends.require(chosen.backend, chosen)
    place = evaluation.preflight(chosen, settings.machine_name(machine_name))
    _values.require_folders(settings, place.device.name)
    if place.lacking:
        why = place.lacking.partition(";")[0]
        typer.echo(f"device '{chosen.name}' is not here ({why}); what proves its files takes its place", err=True)
    if resume is not None:
        path = _run_of(chosen.name, store.find(results, resume))
        with store.lock(results, chosen.name):
            request, steps, found, earlier = evaluation.resume(path, models, place.machine)
            _values.tell_host(place.machine, store.read(path).runs[0].machine)
            failed = _count(request, steps, found, place, path, earlier)
    else:
        assert data is not None
        specs = (
            [_values.one_model(settings, _values.single(model), checkpoint)]
            if checkpoint
            else settings.select(model or [])
        )
        found = images.collect(data, labels, limit)
        request = Request(
            device=place.device,
            models=tuple(specs),
            shapes=(_square(res, specs, place.device.batch),),
            fused=fuse,
            method=settings.method,
            seed=seed,
            timeout_s=settings.sweep.timeout_s,
            evaluation=evaluation.described(found, data, limit, workers or backends.available_cores()),
        )
        steps = sweep.plan(request, models)
        evaluation.check(request, steps, found)
        with store.lock(results, chosen.name):
            path = sweep.begin(request, steps, place.machine, results)
            failed = _count(request, steps, found, place, path, {})
    _screen.print_accuracies(path, format_)
    typer.echo(f"results: {path}", err=True)
    if failed:
        raise typer.Exit(ExitCode.CELLS_FAILED)


def _square(res: str | None, specs: Sequence[ModelSpec], batch: int) -> Shape:
    """The one size that images are prepared for."""
    own = {spec.resolution for spec in specs}
    if res is None and len(own) > 1:
        raise UsageError(f"The models are meant for {', '.join(map(str, sorted(own)))} pixels; name one with --res.")
    shapes = config.shapes(res or str(own.pop()), (), batch)
    if len(shapes) > 1 or shapes[0].height != shapes[0].width:
        raise UsageError(f"--res {res}: accuracy is counted at one square size; name it, such as 256.")
    return shapes[0]


def _count(
    request: Request,
    steps: "list[Step]",
    found: "DataSet",
    place: "Place",
    path: Path,
    earlier: "dict[Cell, list[Tally]]",
) -> int:
    """Count under a progress bar; returns how many cells failed."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from fastvit_bench import evaluation
    from fastvit_bench.records import Tally
    from fastvit_bench.report import accuracies

    console = _screen.stderr()
    _screen.tell_unknown_commit()
    failed = 0
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[right]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(found.pictures), right="")

        def notify(step: "Step", what: str) -> None:
            before = earlier.get(step.cell, []) if what == "counting" else []
            done = sum(tally.pictures for tally in before)
            progress.reset(task, description=f"{what} {step.cell.label}", right="", total=len(found.pictures))
            progress.update(task, completed=done)
            tallied[:] = before

        tallied: list[Tally] = []
        try:
            for _, result in evaluation.run(request, steps, found, place, path, earlier, notify):
                if isinstance(result, Tally):
                    tallied.append(result)
                    seen = sum(tally.pictures - len(tally.unreadable) for tally in tallied)
                    right = sum(tally.top1 for tally in tallied)
                    told = f"top-1 {100 * right / seen:.1f} %" if seen else ""
                    progress.update(task, advance=result.pictures, right=told)
                    continue
                failed += isinstance(result, Failure)
                console.print(accuracies.line(result), highlight=False, markup=False, soft_wrap=True)
        except KeyboardInterrupt:
            console.print(
                f"interrupted; what was counted is kept. Go on with: "
                f"fastvit-bench accuracy --device {request.device.name} --resume {path.stem}",
                highlight=False,
                soft_wrap=True,
            )
            raise typer.Exit(ExitCode.INTERRUPTED) from None
    return failed


def roofline(
    run: Annotated[
        list[str] | None, typer.Argument(help="Runs: ids, prefixes, files, or 'last'. [default: all of the device]")
    ] = None,
    device: DeviceOption = "cpu",
    again: Annotated[bool, typer.Option("--again", help="Measure the peak anew, even if one is kept.")] = False,
    format_: Annotated[
        SeriesFormat, typer.Option("--format", "-f", help="How roofs and figures are written.")
    ] = SeriesFormat.RICH,
    output: PictureOption = None,
    machine_name: MachineOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Hold measured latencies against what the device can do at best: GMAC/s, share of the peak, and what bounds them.

    Peak arithmetic rate and memory bandwidth are measured once through the device's own toolkit, on a quiet machine
    within a minute, and kept in results/DEVICE/peak.json by machine, versions, precision and options.

    \b
    fastvit-bench roofline --device cpu -o roofline.svg
    """
    from fastvit_bench import ceilings
    from fastvit_bench.render import charts
    from fastvit_bench.report import roofline as rooflines
    from fastvit_bench.report import roofline_plot, store
    from fastvit_bench.report.rows import collect

    settings = _values.load(config_file)
    chosen = settings.device(device)
    if output is not None:
        charts.check(output)
    results = Path(settings.paths.results)
    paths = _values.runs(run or [], results)
    files = [store.read(path) for path in paths if path.parent.name == device or run]
    rows = [row for row in collect(files) if row.device.name == device and row.measured]
    if run and not rows:
        raise UsageError(f"Nothing was measured on '{device}' in {_screen.plural(len(files), 'run')}; name its runs.")
    _values.require_folders(settings, device)
    console = _screen.stderr()
    notify, name = _screen.notifier(console), settings.machine_name(machine_name)
    held = ceilings.of_rows(rows, chosen, results / device, again=again, notify=notify, name=name)
    counted = ceilings.traffic((cell for row in rows for cell in row.measured), Path(settings.paths.models))
    points = rooflines.collect(rows, held, counted)
    if output is not None:
        said = roofline_plot.write(points, held, output)
        typer.echo("\n".join([*said, f"picture: {output}"]), err=True)
    if format_.value in rooflines.FORMATS:
        sys.stdout.write(rooflines.FORMATS[format_.value](points, held))
        return
    _screen.print_report(rooflines.report(points, held), format_.value)


def _method(
    settings: "Config", protocol: Protocol, runs: int | None, warmup: int | None, settling: Mapping[str, float]
) -> Method:
    """How to measure: by [method], the options and how such devices settle, unless a protocol fixes it."""
    if protocol is not Protocol.MEDIAN100:
        given = [name for name, value in (("--runs", runs), ("--warmup", warmup)) if value is not None]
        if given:
            fixed = METHODS[protocol]
            raise UsageError(
                f"--protocol {protocol} is {fixed.rounds} round{'s' * (fixed.rounds > 1)} of "
                f"{fixed.warmup} + {fixed.runs} runs; leave out {' and '.join(given)}."
            )
        return METHODS[protocol]
    told = {"warmup": settings.method.warmup, **settling}
    if warmup is not None:
        told["warmup"] = warmup
    return msgspec.structs.replace(
        settings.method, **msgspec.convert(told, dict[str, Any]), runs=runs or settings.method.runs
    )


def _run_of(device: str, found: list[Path]) -> Path:
    """The one run file that --resume means."""
    if len(found) > 1:
        raise UsageError(f"--resume continues one run, and this means {len(found)}; name one of them.")
    if found[0].parent.name != device:
        raise UsageError(
            f"Run {found[0].stem} was made on {found[0].parent.name}; say --device {found[0].parent.name}."
        )
    return found[0]
