"""The work of the commands from Python: export, measure, compare and evaluate networks, load and fuse weights.

Every call returns records (`fastvit_bench.records`) or networks and raises the errors of `fastvit_bench.errors`, whose
text is meant for a person. Nothing is printed. Arguments have the names and meanings of the commands' options.
"""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from fastvit_bench import backends, config, fleet, options
from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.records import (
    Accuracy,
    AccuracyChunk,
    Artifact,
    ClassNumbering,
    ClassOrder,
    Device,
    Failure,
    Fuse,
    Gelu,
    Head,
    LabelIds,
    Measurement,
    Protocol,
    RankedClasses,
    Request,
    Shape,
)
from fastvit_bench.records.comparison import BaselineKind, Comparison

if TYPE_CHECKING:
    from torch import nn

    from fastvit_bench.accuracy.run import PlannedCount
    from fastvit_bench.sweep.executor import Executor
    from fastvit_bench.sweep.plan import Step

Sizes = str | int | Sequence[int]  # as --res takes them: 256, "224..1024", "384x512", [224, 256]
Models = str | Sequence[str]  # names or globs


class Progress(NamedTuple):
    """The state of a call as its next step begins."""

    message: str  # what begins, such as "timing fastvit_t8 256 b1"
    done: int  # finished sizes; of `evaluate` images, of `compare` blocks of this cell
    total: int  # of the same; 0 where it is not known yet


ProgressCallback = Callable[[Progress], None]


def _ignore(progress: Progress) -> None:
    """Do nothing with a progress report."""


# long: takes the options of the command
def export(
    model: str | None = None,
    target: str = "onnx",
    *,
    checkpoint: Path | str | None = None,
    weights: str | None = None,
    res: Sizes | None = None,
    batch: int | str = 1,
    precision: str | None = None,
    calibration: Path | str | None = None,
    calibration_images: int | None = None,
    tune: str | None = None,
    tune_budget: str | None = None,
    fuse: Fuse = Fuse.FOLDED,
    head: Head | None = None,
    input: str | None = None,  # noqa: A002 - as the option is called
    attention: str | None = None,
    compress: str | None = None,
    classifier: Path | str | None = None,
    multifunction: bool = False,
    io: str | None = None,
    compute_capability: str | None = None,
    dynamic: str | None = None,
    gelu: Gelu | None = None,
    pad: bool = False,
    normalize: bool = False,
    seed: int = 0,
    output: Path | str | None = None,
    force: bool = False,
    configuration: Path | str | None = None,
    progress: ProgressCallback | None = None,
) -> list[tuple[Path, Artifact]]:
    """Export a model for a toolkit, or for several (``coreml,coreai``), one proved file per size; return the files.

    `model` is one of benchmark.toml; without it, it is the checkpoint's, else the first in [sweep]. A file that was
    exported before is used again. Where the toolkit runs engines and its GPU is here, the engine is built and proved.
    A file that this tool did not write is replaced only with `force`.

    Raises:
        ParityError: A file, or its engine, computes something else than the network.
        UsageError: The arguments do not fit together.
        CheckpointError: The weights cannot be used.
        UnavailableError: The toolkit is not installed, or an engine cannot be built.
    """
    from fastvit_bench.exporting import pipeline
    from fastvit_bench.measuring.worker import Worker
    from fastvit_bench.sweep import run

    progress = progress or _ignore
    settings = options.load(_path(configuration))
    named = options.one_model(settings, model, _path(checkpoint), head, weights)
    (spec,) = options.adapted([named], gelu, pad=pad, normalize=normalize)
    images, batches = options.images_per_run(str(batch))
    target_options = {
        "input": input,
        "attention": attention,
        "compress": compress,
        "classifier": _path(classifier),
        "multifunction": multifunction or None,
        "io": io,
        "compute_capability": compute_capability,
        "dynamic": dynamic,
        "batches": batches,
    }
    devices = options.export_devices(target, precision, images, target_options, _path(calibration), calibration_images)
    jobs = [
        job
        for device in devices
        for job in options.export_jobs(
            settings,
            spec,
            device,
            res=_sizes(res),
            fuse=fuse,
            seed=seed,
            multifunction=multifunction,
            classifier=_path(classifier),
            output=None if output is None else str(output),
            force=force,
            tune=options.tuning(tune, tune_budget),
            several=len(devices) > 1,
        )
    ]
    exported: list[tuple[Path, Artifact]] = []
    for job in jobs:
        progress(Progress(options.export_phrase(job), len(exported), len(jobs)))
        backend = backends.get(job.backend)
        artifact = pipeline.cached(job) or run.export(job, settings.sweep.timeout_s)
        path = Path(job.path).with_name(artifact.path)
        if backend.engines is not None and backend.engines.lacking(job.device) is None:
            progress(Progress(f"building the engine of {path.name}", len(exported), len(jobs)))
            with Worker() as worker:
                context = f"{path.name} is proved and was kept, its engine failed"
                run.build_engine(
                    msgspec.structs.replace(job, path=str(path)), worker, settings.sweep.timeout_s, context
                )
        exported.append((path, artifact))
    return exported


# long: takes the options of the command
def measure(
    model: Models = (),
    device: str = "cpu",
    *,
    checkpoint: Path | str | None = None,
    weights: str | None = None,
    res: Sizes | None = None,
    batch: int | None = None,
    runs: int | None = None,
    warmup: int | None = None,
    protocol: Protocol = Protocol.MEDIAN100,
    threads: int | None = None,
    precision: str | None = None,
    head: Head | None = None,
    gelu: Gelu | None = None,
    pad: bool = False,
    normalize: bool = False,
    graph: bool | None = None,
    transfers: bool | None = None,
    sync: str | None = None,
    cuda_binding: str | None = None,
    profile: bool = False,
    allow_device_mismatch: bool = False,
    wait_s: float | None = 60,
    fuse: Fuse = Fuse.FOLDED,
    seed: int = 0,
    scheduler: str | None = None,
    plaintext: str | None = None,
    resume: str | None = None,
    machine_name: str | None = None,
    configuration: Path | str | None = None,
    progress: ProgressCallback | None = None,
) -> list[Measurement]:
    """Time models on a device as ``fastvit-bench latency`` does, and keep the run; return its measurements.

    There is one for each model and size. `wait_s` is the time in seconds to wait, in all, for the machine's usual
    speed; None accepts figures of any speed. `resume` is an id, a prefix of it, a file or "last": what that run still
    lacks is measured and returned, with the models, sizes and method that it began with. With `scheduler`, the workers
    of a fleet measure.

    Raises:
        UnavailableError: The device is not available here, or a size failed. The other sizes are kept in the run file.
        UsageError: The arguments do not fit together.
        NotComparableError: The run cannot be continued on this machine.
    """
    from fastvit_bench.store import runs as store_runs
    from fastvit_bench.sweep import plan, preflight, run
    from fastvit_bench.sweep.executor import LocalExecutor

    progress = progress or _ignore
    settings = options.load(_path(configuration))
    models, results = Path(settings.paths.models), Path(settings.paths.results)
    device_options = {
        "graph": graph,
        "transfers": transfers,
        "sync": sync,
        "cuda_binding": cuda_binding,
        "threads": threads,
    }
    target = options.resolve_device(settings.device(device), protocol, precision, batch, device_options)
    fleet.check_options(scheduler, plaintext, machine_name)

    def request_of(chosen: Device) -> Request:
        return options.sweep_request(
            settings,
            chosen,
            options.select_models(
                settings, _names(model), _path(checkpoint), head, weights, gelu, pad=pad, normalize=normalize
            ),
            res=_sizes(res),
            protocol=protocol,
            runs=runs,
            warmup=warmup,
            fuse=fuse,
            seed=seed,
            profile=profile,
        )

    measurements: list[Measurement] = []
    failures: list[Failure] = []
    with ExitStack() as stack:
        if scheduler is not None:
            from fastvit_bench.fleet import place

            options.require_folders(settings, target.name)
            executor: Executor = stack.enter_context(place.executor_of(scheduler, plaintext, wait_s))
            earlier = None if resume is None else options.run_to_resume(target.name, store_runs.find(results, resume))
            planned, _ = stack.enter_context(place.latencies(executor, target, request_of, models, results, earlier))
        else:
            mismatch = "rename" if allow_device_mismatch else "refuse"
            chosen, machine = preflight.preflight(target, mismatch, settings.machine_name(machine_name))
            options.require_folders(settings, chosen.name)
            stack.enter_context(store_runs.lock(results, chosen.name))
            executor = LocalExecutor(machine, wait_s)
            if resume is not None:
                path = options.run_to_resume(chosen.name, store_runs.find(results, resume))
                request, steps = run.resume(path, models, machine)
            else:
                request = request_of(chosen)
                steps = plan.plan(request, models)
                plan.check_checkpoints(request, steps)
                path = run.begin(request, steps, machine, results)
            planned = run.PlannedRun(request, steps, path)

        def notify(step: "Step", stage: str) -> None:
            done = len(measurements) + len(failures)
            progress(Progress(f"{stage} {step.cell.label}", done, len(planned.steps)))

        for result in run.run_all([planned], executor, notify):
            if isinstance(result, Failure):
                failures.append(result)
            else:
                measurements.append(result)
    _refuse_failures(failures, planned.path)
    return measurements


# long: takes the options of the command
def evaluate(
    data: Path | str | None = None,
    model: Models = (),
    device: str = "cpu",
    *,
    labels: Path | str | None = None,
    class_order: ClassOrder | None = None,
    class_map: Path | str | None = None,
    label_ids: LabelIds | None = None,
    among: RankedClasses = RankedClasses.ALL,
    class_embeddings: Path | str | None = None,
    reference_images: int | None = None,
    checkpoint: Path | str | None = None,
    weights: str | None = None,
    res: int | None = None,
    batch: int | None = None,
    precision: str | None = None,
    limit: int | None = None,
    workers: int | None = None,
    fuse: Fuse = Fuse.FOLDED,
    seed: int = 0,
    scheduler: str | None = None,
    plaintext: str | None = None,
    resume: str | None = None,
    machine_name: str | None = None,
    configuration: Path | str | None = None,
    progress: ProgressCallback | None = None,
) -> list[Accuracy]:
    """Count how often models name the class of images in a folder, as ``fastvit-bench accuracy`` does.

    `data` is a folder of images, as DIR/CLASS/…, or of any layout with `labels`. The file that `measure` times is what
    is run. If the device is not available here, the reference runtime of its files runs it, and `Accuracy.how` says so.
    The counts are kept in a run file, and `resume` continues one, with the images and models that it began with. With
    `scheduler`, the workers of a fleet count, each on its own copy of the images.

    Raises:
        UsageError: A model cannot name the classes of these images, or the arguments do not fit together.
        UnavailableError: A model failed. What was counted is kept in the run file.
    """
    from fastvit_bench.accuracy import run as accuracy_run

    progress = progress or _ignore
    settings = options.load(_path(configuration))
    chosen = options.resolve_device(settings.device(device), precision=precision, batch=batch)
    fleet.check_options(scheduler, plaintext, machine_name)
    if data is None and resume is None:
        raise UsageError("Name the folder with the images: data, or a run to resume.")

    if scheduler is not None and class_embeddings is not None:
        raise UsageError("class_embeddings counts on this machine only; leave scheduler out.")
    choices = accuracy_run.CountingChoices(
        ClassNumbering(order=class_order, class_map=str(class_map) if class_map else None, label_ids=label_ids),
        among,
        _path(class_embeddings),
        accuracy_run.REFERENCE_IMAGES if reference_images is None else reference_images,
    )
    folder = Path(data or "")

    def request_of(device: Device, cores: int, decoder: str | None) -> Request:
        evaluation = accuracy_run.described(folder, _path(labels), limit, workers or cores, choices, decoder)
        specs = options.select_models(settings, _names(model), _path(checkpoint), None, weights)
        return options.evaluation_request(settings, device, specs, evaluation, res=_sizes(res), fuse=fuse, seed=seed)

    accuracies: list[Accuracy] = []
    failures: list[Failure] = []
    with ExitStack() as stack:
        planned, executor = _planned_count(
            stack, settings, chosen, scheduler, plaintext, machine_name, resume, request_of, folder, _path(labels)
        )
        counted, total = 0, len(planned.steps) * len(planned.images.pictures)

        def notify(step: "Step", stage: str) -> None:
            progress(Progress(f"{stage} {step.cell.label}", counted, total))

        for step, result in accuracy_run.run_all([planned], executor, notify):
            if isinstance(result, AccuracyChunk):
                counted += result.pictures
                notify(step, "counting")
            elif isinstance(result, Failure):
                failures.append(result)
            else:
                accuracies.append(result)
    _refuse_failures(failures, planned.path)
    return accuracies


def _planned_count(
    stack: ExitStack,
    settings: config.Config,
    chosen: Device,
    scheduler: str | None,
    plaintext: str | None,
    machine_name: str | None,
    resume: str | None,
    request_of: Callable[[Device, int, str | None], Request],
    folder: Path,
    labels: Path | None,
) -> "tuple[PlannedCount, Executor]":
    """Return an evaluation that is ready to be counted, here or on a fleet, and what counts it; `stack` ends both."""
    from fastvit_bench.accuracy import dataset
    from fastvit_bench.accuracy import run as accuracy_run
    from fastvit_bench.store import runs as store_runs
    from fastvit_bench.sweep.executor import LocalExecutor

    models, results = Path(settings.paths.models), Path(settings.paths.results)
    if scheduler is not None:
        from fastvit_bench.fleet import place

        options.require_folders(settings, chosen.name)
        executor: Executor = stack.enter_context(place.executor_of(scheduler, plaintext))
        earlier_run = None if resume is None else options.run_to_resume(chosen.name, store_runs.find(results, resume))
        images = place.images_of(earlier_run, folder, labels)
        counts = place.counts(
            executor,
            chosen,
            images,
            lambda device, machine, decoder: request_of(device, machine.cores or 1, decoder),
            models,
            results,
            earlier_run,
        )
        planned, _ = stack.enter_context(counts)
    else:
        backends.require(chosen.backend, chosen)
        target = accuracy_run.preflight(chosen, settings.machine_name(machine_name))
        options.require_folders(settings, target.device.name)
        stack.enter_context(store_runs.lock(results, target.device.name))
        executor = LocalExecutor(target.machine, None)
        if resume is not None:
            path = options.run_to_resume(target.device.name, store_runs.find(results, resume))
            planned = accuracy_run.resumed(path, models, target)
        else:
            images = dataset.collect(folder, labels)
            request = request_of(target.device, backends.available_cores(), None)
            planned = accuracy_run.begun(request, target.machine, images, models, results, target.on_device)
    return planned, executor


# long: takes the options of the command
def compare(
    base: str,
    new: str,
    device: str = "cpu",
    *,
    res: Sizes | None = None,
    batch: int | None = None,
    base_python: str | None = None,
    new_python: str | None = None,
    max_regression: float | None = None,
    max_time_s: float | None = None,
    seed: int = 0,
    report: Path | str | None = None,
    report_formats: Sequence[str] = ("markdown", "json", "svg"),
    force: bool = False,
    scheduler: str | None = None,
    plaintext: str | None = None,
    machine_name: str | None = None,
    configuration: Path | str | None = None,
    progress: ProgressCallback | None = None,
) -> Comparison:
    """Time two sides in turns and judge the new one against the base, as ``fastvit-bench compare`` does.

    A side is an exported file, a folder of them, or a model with settings of its own (``fastvit_t8,fuse=none``).
    `max_regression` is the share by which the new side may be slower, such as 0.05. `report` is a folder for files of
    `report_formats`, which replace others' files only with `force`; without it nothing but exported files is written.
    With `scheduler`, one worker of a fleet measures all of it.

    Raises:
        NotComparableError: Nothing of the two sides fits together.
        UsageError: A side cannot be understood, or a format does not exist.
        UnavailableError: The device is not available here.
        StoreError: A report cannot be written.
    """
    from fastvit_bench.comparing import formats, inputs, interleaved
    from fastvit_bench.fleet import place
    from fastvit_bench.store import runs as store_runs

    progress = progress or _ignore
    settings = options.load(_path(configuration))
    target = options.resolve_device(settings.device(device), batch=batch)
    fleet.check_options(scheduler, plaintext, machine_name)
    if scheduler is not None and (base_python or new_python):
        raise UsageError("base_python and new_python are for this machine; a worker has its own Python.")
    commands = [inputs.python_command(python) if python else () for python in (base_python, new_python)]
    plan = options.comparison_plan(settings, None, None, None, seed)
    if max_regression is not None:
        plan = msgspec.structs.replace(plan, margin=max_regression, pooled_margin=max_regression / 2)
    if max_time_s is not None:
        plan = msgspec.structs.replace(plan, max_time_s=max_time_s)

    def notify(cell: str, block: int, look: int) -> None:
        progress(Progress(f"timing {cell}", block - 1, look))

    name = "" if scheduler else settings.machine_name(machine_name)
    with ExitStack() as stack:
        where = stack.enter_context(place.of_comparison(target, name, scheduler, plaintext))
        chosen = where.device
        wanted = formats.checked(report_formats) if report is not None else []
        formats.require(wanted)
        formats.check_outputs(_path(report) or Path(), wanted, "compare", force=force)
        options.require_folders(settings, chosen.name, _path(report))
        shapes: list[Shape] = []
        if res is not None:
            shapes = config.shapes(_sizes(res) or "", settings.sweep.grid, chosen.batch)
        if where.local:
            stack.enter_context(store_runs.lock(Path(settings.paths.results), chosen.name))
        pairs = inputs.resolve_pair(
            base,
            new,
            (base, new),
            settings,
            chosen,
            shapes,
            commands,
            lambda message: progress(Progress(message, 0, 0)),
            engines=where.local,
        )
        started = datetime.now(UTC)
        timing = interleaved.InterleavedRun(
            pairs,
            plan,
            where.machine,
            timeout_s=settings.sweep.timeout_s,
            same=inputs.allow_any,
            notify=notify,
            measure=where.measure,
        )
        verdicts = timing.run()
    comparison = interleaved.to_comparison(
        timing,
        verdicts,
        kind=BaselineKind.PAIRED,
        device=chosen,
        base=base,
        head=new,
        started=started,
        warnings=[*where.notes, *inputs.same_content(pairs)],
    )
    if report is not None:
        lost = formats.publish(comparison, Path(report), wanted, "compare").lost
        if lost:
            raise UnavailableError(" ".join(lost))
    return comparison


def load(
    model: str | None = None,
    *,
    checkpoint: Path | str | None = None,
    weights: str | None = None,
    head: Head | None = None,
    seed: int = 0,
    configuration: Path | str | None = None,
) -> "nn.Module":
    """Return a network with its weights, as they are trained: in float32 and evaluation mode, not fused.

    Takes normalised images (B, 3, H, W). `model` is one of benchmark.toml; without it, it is the checkpoint's. Without
    a checkpoint, the weights are those of the configuration, else random ones from `seed`. `weights` chooses among
    several networks in a checkpoint, such as ``state_dict_ema``. A checkpoint that was saved
    fused stays fused.

    Raises:
        CheckpointError: The weights are missing, damaged or of another network.
        ChecksumError: The weights are not those of the configuration.
        UsageError: The model does not exist, or is no network (an ONNX file).
    """
    from fastvit_bench.exporting import checkpoints
    from fastvit_bench.network import factory, registry

    settings = options.load(_path(configuration))
    spec = options.one_model(settings, model, _path(checkpoint), head, weights)
    registry.require(spec.variant)
    if spec.variant == registry.ONNX:
        raise UsageError(f"'{spec.name}' is an ONNX file and no network of PyTorch's; `export` and `measure` take it.")
    if spec.checkpoint is not None:
        network = checkpoints.load_network(spec.checkpoint, spec.variant, spec.head, spec.sha256, spec.weights)
        reference = factory.of(network, spec.gelu, pad=spec.pad, normalize=spec.normalize)
    else:
        shape = Shape(batch=1, height=spec.resolution, width=spec.resolution, channels=spec.channels)
        kind = (spec.variant, spec.head, spec.classes)
        reference = factory.random(*kind, seed, shape, spec.gelu, pad=spec.pad, normalize=spec.normalize)
    return reference.network.float().eval()


def fuse(network: "nn.Module | Path | str", level: Fuse = Fuse.FOLDED, *, weights: str | None = None) -> "nn.Module":
    """Return a copy of a FastViT network with its branches fused, in the precision of its weights and evaluation mode.

    `network` is a result of `load`, or a weight file. With ``Fuse.FUSED`` the copy has the layers of the published
    fused checkpoints. With ``Fuse.FOLDED`` the remaining norms, layer scales and attention scales are folded too. The
    arithmetic is done in float64. The network itself is not changed.

    Raises:
        UsageError: The network is not one of `load`'s FastViT networks.
        CheckpointError: The weight file cannot be used.
    """
    import torch

    from fastvit_bench.network import checkpoint as checkpoints
    from fastvit_bench.network import reparam
    from fastvit_bench.network.fastvit import FastViT

    if isinstance(network, Path | str):
        network = checkpoints.load(Path(network), entry=weights).network
    if not isinstance(network, FastViT):
        kind = type(network).__name__
        raise UsageError(f"Only FastViT networks as `load` returns them can be fused, and this is a {kind}.")
    dtype: torch.dtype = next(network.parameters()).dtype
    return reparam.at_level(network, level).to(dtype)


def _refuse_failures(failures: Sequence[Failure], path: Path) -> None:
    """Raise `UnavailableError` if a cell of the run failed."""
    if failures:
        label, reason = failures[0].cell.label, failures[0].reason.rstrip(".")
        more = f" In all, {len(failures)} failed." if len(failures) > 1 else ""
        raise UnavailableError(f"{label} gave no figure: {reason}.{more} The other figures are kept in {path}.")


def _names(model: Models) -> list[str]:
    return [model] if isinstance(model, str) else list(model)


def _path(path: Path | str | None) -> Path | None:
    return None if path is None else Path(path)


def _sizes(res: Sizes | None) -> str | None:
    if res is None or isinstance(res, str):
        return res
    return str(res) if isinstance(res, int) else ",".join(map(str, res))
