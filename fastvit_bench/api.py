"""The work of the commands from Python: export, measure, compare and evaluate networks, load and fuse weights.

Every call returns records (`fastvit_bench.records`) or networks and raises the errors of `fastvit_bench.errors`, whose
text is meant for a person. Nothing is printed. Arguments have the names and meanings of the commands' options.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from fastvit_bench import backends, config, options
from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.records import (
    Accuracy,
    AccuracyChunk,
    Artifact,
    Failure,
    Fuse,
    Head,
    Measurement,
    Protocol,
    Shape,
)
from fastvit_bench.records.comparison import BaselineKind, Comparison

if TYPE_CHECKING:
    from torch import nn

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
    batch: int = 1,
    precision: str | None = None,
    calibration: Path | str | None = None,
    calibration_images: int | None = None,
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
    seed: int = 0,
    output: Path | str | None = None,
    force: bool = False,
    configuration: Path | str | None = None,
    progress: ProgressCallback | None = None,
) -> list[tuple[Path, Artifact]]:
    """Export a model for a toolkit, one proved file per size; return the files and what they are.

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
    spec = options.one_model(settings, model, _path(checkpoint), head, weights)
    backend = backends.of_target(target)
    target_options = {
        "input": input,
        "attention": attention,
        "compress": compress,
        "classifier": _path(classifier),
        "multifunction": multifunction or None,
        "io": io,
        "compute_capability": compute_capability,
        "dynamic": dynamic,
    }
    device = options.export_device(
        target, backend, precision, batch, target_options, _path(calibration), calibration_images
    )
    backends.require(backend.name, device)
    jobs = options.export_jobs(
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
    )
    exported: list[tuple[Path, Artifact]] = []
    for job in jobs:
        progress(Progress(options.export_phrase(job), len(exported), len(jobs)))
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
    graph: bool | None = None,
    transfers: bool | None = None,
    sync: str | None = None,
    cuda_binding: str | None = None,
    profile: bool = False,
    allow_device_mismatch: bool = False,
    wait_s: float | None = 60,
    fuse: Fuse = Fuse.FOLDED,
    seed: int = 0,
    resume: str | None = None,
    machine_name: str | None = None,
    configuration: Path | str | None = None,
    progress: ProgressCallback | None = None,
) -> list[Measurement]:
    """Time models on a device as ``fastvit-bench latency`` does, and keep the run; return its measurements.

    There is one for each model and size. `wait_s` is the time in seconds to wait, in all, for the machine's usual
    speed; None accepts figures of any speed. `resume` is an id, a prefix of it, a file or "last": what that run still
    lacks is measured and returned, with the models, sizes and method that it began with.

    Raises:
        UnavailableError: The device is not available here, or a size failed. The other sizes are kept in the run file.
        UsageError: The arguments do not fit together.
        NotComparableError: The run cannot be continued on this machine.
    """
    from fastvit_bench.store import runs as store_runs
    from fastvit_bench.sweep import plan, preflight, run

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
    chosen = options.resolve_device(settings.device(device), protocol, precision, batch, device_options)
    chosen, machine = preflight.preflight(
        chosen, "rename" if allow_device_mismatch else "refuse", settings.machine_name(machine_name)
    )
    options.require_folders(settings, chosen.name)
    with store_runs.lock(results, chosen.name):
        if resume is not None:
            path = options.run_to_resume(chosen.name, store_runs.find(results, resume))
            request, steps = run.resume(path, models, machine)
        else:
            request = options.sweep_request(
                settings,
                chosen,
                machine,
                options.select_models(settings, _names(model), _path(checkpoint), head, weights),
                res=_sizes(res),
                protocol=protocol,
                runs=runs,
                warmup=warmup,
                fuse=fuse,
                seed=seed,
                profile=profile,
            )
            steps = plan.plan(request, models)
            plan.check_checkpoints(request, steps)
            path = run.begin(request, steps, machine, results)
        measurements: list[Measurement] = []
        failures: list[Failure] = []

        def notify(step: "Step", stage: str) -> None:
            progress(Progress(f"{stage} {step.cell.label}", len(measurements) + len(failures), len(steps)))

        for result in run.run(request, steps, machine, path, notify, wait_s=wait_s):
            if isinstance(result, Failure):
                failures.append(result)
            else:
                measurements.append(result)
    _refuse_failures(failures, path)
    return measurements


# long: takes the options of the command
def evaluate(
    data: Path | str | None = None,
    model: Models = (),
    device: str = "cpu",
    *,
    labels: Path | str | None = None,
    checkpoint: Path | str | None = None,
    weights: str | None = None,
    res: int | None = None,
    batch: int | None = None,
    precision: str | None = None,
    limit: int | None = None,
    workers: int | None = None,
    fuse: Fuse = Fuse.FOLDED,
    seed: int = 0,
    resume: str | None = None,
    machine_name: str | None = None,
    configuration: Path | str | None = None,
    progress: ProgressCallback | None = None,
) -> list[Accuracy]:
    """Count how often models name the class of images in a folder, as ``fastvit-bench accuracy`` does.

    `data` is a folder of images, as DIR/CLASS/…, or of any layout with `labels`. The file that `measure` times is what
    is run. If the device is not available here, the reference runtime of its files runs it, and `Accuracy.how` says so.
    The counts are kept in a run file, and `resume` continues one, with the images and models that it began with.

    Raises:
        UsageError: A model cannot name the classes of these images, or the arguments do not fit together.
        UnavailableError: A model failed. What was counted is kept in the run file.
    """
    from fastvit_bench.accuracy import dataset
    from fastvit_bench.accuracy import run as accuracy_run
    from fastvit_bench.store import runs as store_runs
    from fastvit_bench.sweep import plan, run

    progress = progress or _ignore
    settings = options.load(_path(configuration))
    models, results = Path(settings.paths.models), Path(settings.paths.results)
    chosen = options.resolve_device(settings.device(device), precision=precision, batch=batch)
    backends.require(chosen.backend, chosen)
    target = accuracy_run.preflight(chosen, settings.machine_name(machine_name))
    options.require_folders(settings, target.device.name)
    with store_runs.lock(results, target.device.name):
        if resume is not None:
            path = options.run_to_resume(target.device.name, store_runs.find(results, resume))
            request, steps, images, earlier = accuracy_run.resume(path, models, target.machine)
        else:
            if data is None:
                raise UsageError("Name the folder with the images: data, or a run to resume.")
            specs = options.select_models(settings, _names(model), _path(checkpoint), None, weights)
            images, earlier = dataset.collect(Path(data), _path(labels), limit), {}
            evaluation = accuracy_run.described(images, Path(data), limit, workers or backends.available_cores())
            request = options.evaluation_request(
                settings, target.device, specs, evaluation, res=_sizes(res), fuse=fuse, seed=seed
            )
            steps = plan.plan(request, models)
            accuracy_run.check(request, steps, images)
            path = run.begin(request, steps, target.machine, results)
        accuracies: list[Accuracy] = []
        failures: list[Failure] = []
        counted, total = 0, len(steps) * len(images.pictures)

        def notify(step: "Step", stage: str) -> None:
            progress(Progress(f"{stage} {step.cell.label}", counted, total))

        for step, result in accuracy_run.run(request, steps, images, target, path, earlier, notify):
            if isinstance(result, AccuracyChunk):
                counted += result.pictures
                notify(step, "counting")
            elif isinstance(result, Failure):
                failures.append(result)
            else:
                accuracies.append(result)
    _refuse_failures(failures, path)
    return accuracies


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
    machine_name: str | None = None,
    configuration: Path | str | None = None,
    progress: ProgressCallback | None = None,
) -> Comparison:
    """Time two sides in turns and judge the new one against the base, as ``fastvit-bench compare`` does.

    A side is an exported file, a folder of them, or a model with settings of its own (``fastvit_t8,fuse=none``).
    `max_regression` is the share by which the new side may be slower, such as 0.05. `report` is a folder for files of
    `report_formats`, which replace others' files only with `force`; without it nothing but exported files is written.

    Raises:
        NotComparableError: Nothing of the two sides fits together.
        UsageError: A side cannot be understood, or a format does not exist.
        UnavailableError: The device is not available here.
        StoreError: A report cannot be written.
    """
    from fastvit_bench.comparing import formats, inputs, interleaved
    from fastvit_bench.store import runs as store_runs
    from fastvit_bench.sweep import preflight

    progress = progress or _ignore
    settings = options.load(_path(configuration))
    chosen = options.resolve_device(settings.device(device), batch=batch)
    chosen, machine = preflight.preflight(chosen, name=settings.machine_name(machine_name))
    wanted = formats.checked(report_formats) if report is not None else []
    formats.require(wanted)
    formats.check_outputs(_path(report) or Path(), wanted, "compare", force=force)
    options.require_folders(settings, chosen.name, _path(report))
    shapes: list[Shape] = config.shapes(_sizes(res) or "", settings.sweep.grid, chosen.batch) if res is not None else []
    commands = [inputs.python_command(python) if python else () for python in (base_python, new_python)]
    plan = options.comparison_plan(settings, None, None, None, seed)
    if max_regression is not None:
        plan = msgspec.structs.replace(plan, margin=max_regression, pooled_margin=max_regression / 2)
    if max_time_s is not None:
        plan = msgspec.structs.replace(plan, max_time_s=max_time_s)

    def notify(cell: str, block: int, look: int) -> None:
        progress(Progress(f"timing {cell}", block - 1, look))

    with store_runs.lock(Path(settings.paths.results), chosen.name):
        pairs = inputs.resolve_pair(
            base,
            new,
            (base, new),
            settings,
            chosen,
            shapes,
            commands,
            lambda message: progress(Progress(message, 0, 0)),
        )
        started = datetime.now(UTC)
        timing = interleaved.InterleavedRun(
            pairs, plan, machine, timeout_s=settings.sweep.timeout_s, same=inputs.allow_any, notify=notify
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
        warnings=inputs.same_content(pairs),
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
        return (
            checkpoints.load_network(spec.checkpoint, spec.variant, spec.head, spec.sha256, spec.weights).float().eval()
        )
    shape = Shape(batch=1, height=spec.resolution, width=spec.resolution)
    return factory.random(spec.variant, spec.head, spec.classes, seed, shape).network.float().eval()


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
