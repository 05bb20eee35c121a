"""Command `accuracy`: count how often an exported file names the right class."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastvit_bench.cli import _fleet, _output, _resolve
from fastvit_bench.cli._options import (
    CheckpointOption,
    ConfigOption,
    DeviceOption,
    FormatOption,
    FuseLevelOption,
    MachineOption,
    ModelsOption,
    PlaintextOption,
    PrecisionOption,
    ResumeOption,
    SchedulerOption,
    TableFormat,
    WeightSeedOption,
    WeightsOption,
)
from fastvit_bench.cli._progress import ProgressLine
from fastvit_bench.errors import ExitCode, UsageError
from fastvit_bench.records import (
    ClassNumbering,
    ClassOrder,
    Device,
    Failure,
    Fuse,
    LabelIds,
    Machine,
    RankedClasses,
    Request,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from fastvit_bench.accuracy.dataset import DataSet
    from fastvit_bench.accuracy.run import AccuracyTarget
    from fastvit_bench.config import Config
    from fastvit_bench.records import AccuracyChunk, Cell
    from fastvit_bench.sweep.plan import Step


# long: declares the options of the command
def accuracy(
    context: typer.Context,
    device: DeviceOption = "cpu",
    model: ModelsOption = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DIR",
            help="Folder of images, as DIR/CLASS/… like ImageNet; with --labels any layout. "
            "[required without --resume]",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            "--labels",
            help="File of the images' classes: lines `name number`, `name,synset` or ImageNet's own forms, or JSON. "
            "[default: the folders' names]",
        ),
    ] = None,
    class_order: Annotated[
        ClassOrder | None,
        typer.Option(
            "--class-order",
            help="How training numbered the folders: natural (2 before 10, timm) or text (torchvision). "
            "[required where they differ]",
        ),
    ] = None,
    class_map: Annotated[
        Path | None,
        typer.Option(
            "--class-map",
            help="File of the class names: a line each in the model's order, or JSON. "
            "[default: the folders or labels number them]",
        ),
    ] = None,
    label_ids: Annotated[
        LabelIds | None,
        typer.Option(
            "--label-ids",
            help="Numbers in --labels: index (from 0), from-1, or devkit (ImageNet's). [required where in doubt]",
        ),
    ] = None,
    among: Annotated[
        RankedClasses,
        typer.Option("--among", help="Classes to choose from: all of the model's, or those of the images."),
    ] = RankedClasses.ALL,
    class_embeddings: Annotated[
        Path | None,
        typer.Option(
            "--class-embeddings",
            help="Of an embedding network: .npy (classes, width), or .npz with their names. [required for one]",
        ),
    ] = None,
    reference_images: Annotated[
        int | None,
        typer.Option(
            "--reference-images",
            min=0,
            help="Images whose embeddings are compared with the float64 network's. [default: 64]",
        ),
    ] = None,
    checkpoint: CheckpointOption = None,
    weights: WeightsOption = None,
    res: Annotated[
        str | None, typer.Option("--res", "--img-size", help="One size, such as 256. [default: the model's]")
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch",
            "-b",
            "--batch-size",
            min=1,
            help="Images per run; the file is exported for it. [default: the device's]",
        ),
    ] = None,
    precision: PrecisionOption = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", min=1, help="Number of images, evenly spread over the folder. [default: all]"),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", "-j", min=1, help="Threads that decode images. [default: all cores]")
    ] = None,
    fuse: FuseLevelOption = Fuse.FOLDED,
    seed: WeightSeedOption = 0,
    scheduler: SchedulerOption = None,
    plaintext: PlaintextOption = None,
    resume: ResumeOption = None,
    machine_name: MachineOption = None,
    format_: FormatOption = TableFormat.RICH,
    config_file: ConfigOption = None,
) -> None:
    """Count top-1 and top-5 accuracy on a folder of images.

    The file is the one that `latency` times; it is exported and proved first if it is missing. If this machine lacks
    the device, the file runs on the runtime that proves such files, and the result says so. Images are prepared as for
    the published accuracies. The counts are saved every few images, so an interrupted run can continue with --resume.
    Files that cannot be read as images are left out, counted and named. An encoder takes --class-embeddings, and is
    counted zero-shot. On a fleet, each worker has the images.

    \b
    fastvit-bench accuracy --data imagenet/val -c fastvit_t8.pth.tar
    fastvit-bench accuracy --data val -c s0.pt --class-embeddings text.npy
    fastvit-bench accuracy --resume last
    """
    from fastvit_bench import options
    from fastvit_bench.accuracy import run as accuracy_run
    from fastvit_bench.fleet import place
    from fastvit_bench.store import runs

    settings = options.load(config_file)
    models, results = Path(settings.paths.models), Path(settings.paths.results)
    if resume is not None:
        _resolve.refuse_besides_resume(context)
    if resume is None and data is None:
        raise UsageError("Name the folder with the images: --data DIR.")
    chosen = [
        options.resolve_device(settings.device(name), precision=precision, batch=batch) for name in _fleet.names(device)
    ]
    _fleet.check(scheduler, plaintext, machine_name, chosen)

    choices = accuracy_run.CountingChoices(
        ClassNumbering(order=class_order, class_map=str(class_map) if class_map else None, label_ids=label_ids),
        among,
        class_embeddings,
        accuracy_run.REFERENCE_IMAGES if reference_images is None else reference_images,
    )
    folder = data or Path()

    def request_of(device: Device, cores: int, decoder: str | None) -> Request:
        specs = options.select_models(settings, model or [], checkpoint, None, weights)
        _output.say_contents(specs)
        evaluation = accuracy_run.described(folder, labels, limit, workers or cores, choices, decoder)
        return options.evaluation_request(settings, device, specs, evaluation, res=res, fuse=fuse, seed=seed)

    if scheduler is not None:
        if class_embeddings is not None:
            raise UsageError("--class-embeddings counts on this machine only; leave --scheduler out.")
        for entry in chosen:
            options.require_folders(settings, entry.name)
        path = _fleet.run_to_resume(chosen, results, resume)
        images = place.images_of(path, folder, labels)

        def on_fleet(device: Device, machine: Machine, decoder: str) -> Request:
            return request_of(device, machine.cores or 1, decoder)

        paths, failed = _fleet.count(scheduler, plaintext, chosen, images, on_fleet, path, models, results)
    else:
        name = settings.machine_name(machine_name)
        path, failed = _here(chosen[0], settings, name, request_of, resume, data, labels)
        paths = [path]
    _output.print_accuracies([line for path in paths for line in runs.read(path).accuracies], format_)
    for path in paths:
        _output.say(f"results: {path}")
    if failed:
        raise typer.Exit(ExitCode.CELLS_FAILED)


def _here(
    chosen: Device,
    settings: "Config",
    machine_name: str,
    request_of: "Callable[[Device, int, str | None], Request]",
    resume: str | None,
    data: Path | None,
    labels: Path | None,
) -> tuple[Path, int]:
    """Count on this machine; return the run file, and the number of failures."""
    from fastvit_bench import backends, options
    from fastvit_bench.accuracy import dataset
    from fastvit_bench.accuracy import run as accuracy_run
    from fastvit_bench.store import runs
    from fastvit_bench.sweep import plan
    from fastvit_bench.sweep import run as sweep_run

    models, results = Path(settings.paths.models), Path(settings.paths.results)
    backends.require(chosen.backend, chosen)
    target = accuracy_run.preflight(chosen, machine_name)
    options.require_folders(settings, target.device.name)
    if target.lacking:
        reason = target.lacking.partition(";")[0]
        _output.say(
            f"device '{chosen.name}' is not available here ({reason}); "
            f"the reference runtime of its files runs them instead"
        )
    if resume is not None:
        path = options.run_to_resume(chosen.name, runs.find(results, resume))
        with runs.lock(results, chosen.name):
            request, steps, images, earlier = accuracy_run.resume(path, models, target.machine)
            _resolve.print_host_hint(target.machine, runs.read(path).runs[0].machine)
            failed = _count(request, steps, images, target, path, earlier)
        return path, failed
    assert data is not None
    collected = dataset.collect(data, labels)
    request = request_of(target.device, backends.available_cores(), None)
    steps = plan.plan(request, models)
    request, images = accuracy_run.numbered(request, steps, collected)
    _output.say(f"classes: numbered {images.numbered}")
    with runs.lock(results, chosen.name):
        path = sweep_run.begin(request, steps, target.machine, results)
        failed = _count(request, steps, images, target, path, {})
    return path, failed


def _count(
    request: Request,
    steps: "list[Step]",
    images: "DataSet",
    target: "AccuracyTarget",
    path: Path,
    earlier: "dict[Cell, list[AccuracyChunk]]",
) -> int:
    """Count under a line of progress and return the number of failed cells."""
    from fastvit_bench.accuracy import run
    from fastvit_bench.records import AccuracyChunk
    from fastvit_bench.render import accuracies

    _output.warn_unknown_commit()
    failed, tallied = 0, list["AccuracyChunk"]()
    with ProgressLine(_output.stderr()) as progress:

        def notify(step: "Step", stage: str) -> None:
            tallied[:] = earlier.get(step.cell, []) if stage == "counting" else []
            progress.step(f"{stage} {step.cell.label}")

        try:
            for _, result in run.run(request, steps, images, target, path, earlier, notify):
                if isinstance(result, AccuracyChunk):
                    tallied.append(result)
                    progress.detail(_counted(tallied, len(images.pictures)))
                    continue
                failed += isinstance(result, Failure)
                progress.say(accuracies.line(result))
        except KeyboardInterrupt as error:
            command = f"accuracy --device {request.device.name} --resume {path.stem}"
            raise _output.interrupted(error, "what was counted", command, progress.console) from None
    return failed


def _counted(tallies: "list[AccuracyChunk]", pictures: int) -> str:
    """Return how far the counting has come: ``1200 of 50000 images, top-1 76.2 %``."""
    decoded = sum(tally.pictures - len(tally.unreadable) for tally in tallies)
    top1 = f", top-1 {100 * sum(tally.top1 for tally in tallies) / decoded:.1f} %" if decoded else ""
    return f"{sum(tally.pictures for tally in tallies)} of {pictures} images{top1}"
