"""Requests made from options: the same for the commands and for calls from Python."""

import collections
import fnmatch
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import msgspec

from fastvit_bench import backends, config, files
from fastvit_bench.backends.base import Backend
from fastvit_bench.config import Config
from fastvit_bench.errors import StoreError, UnavailableError, UsageError
from fastvit_bench.network import registry
from fastvit_bench.records import (
    CALIBRATED,
    CALIBRATION_IMAGES,
    METHODS,
    SETTINGS,
    Device,
    Evaluation,
    ExportJob,
    Fuse,
    Gelu,
    Head,
    Method,
    ModelSpec,
    Protocol,
    Request,
    Setting,
    Shape,
    Tune,
    TuneGoal,
)
from fastvit_bench.records.comparison import NoBaseline, Plan


def load(path: Path | None) -> Config:
    """Return the configuration, whose devices must have backends of this version; see `config.load`."""
    return config.load(path, backends=backends.implemented())


# --- device and method ------------------------------------------------------------------------------------------------


def resolve_device(
    device: Device,
    protocol: Protocol | None = None,
    precision: str | None = None,
    batch: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> Device:
    """Return the device with the changes of a protocol and of the options, every option filled in.

    Of `options`, those that are None stay as the device has them. Raises `UsageError` for a precision that the device
    does not run, and for a protocol that needs another kind of device.
    """
    backend = backends.get(device.backend)
    setting = SETTINGS.get(protocol, Setting()) if protocol else Setting()
    if setting.options and not backend.warmup_policy(device):
        raise UsageError(f"--protocol {protocol} is for NVIDIA GPUs, and device '{device.name}' is not one.")
    device = msgspec.structs.replace(
        device,
        precision=precision or setting.precision or device.precision,
        batch=batch or setting.batch or device.batch,
        options={
            **device.options,
            **setting.options,
            **{name: value for name, value in (options or {}).items() if value is not None},
        },
    )
    if device.precision not in backend.precisions:
        raise UsageError(
            f"Device '{device.name}' runs {' or '.join(backend.precisions)}, not {device.precision}; correct "
            f"--precision, or its precision in the configuration."
        )
    return msgspec.structs.replace(device, options=backend.options(device))


def resolve_method(
    settings: Config, protocol: Protocol, runs: int | None, warmup: int | None, warmup_policy: Mapping[str, float]
) -> Method:
    """Return the method to measure by: that of the protocol, else of [method] and the options.

    `warmup_policy` has the fields of the warm-up that the backend needs for such devices. Raises `UsageError` for an
    option that the protocol fixes.
    """
    if protocol is not Protocol.MEDIAN100:
        refused = [name for name, value in (("--runs", runs), ("--warmup", warmup)) if value is not None]
        if refused:
            fixed = METHODS[protocol]
            raise UsageError(
                f"--protocol {protocol} is {fixed.rounds} round{'s' * (fixed.rounds > 1)} of "
                f"{fixed.warmup} + {fixed.runs} runs; leave out {' and '.join(refused)}."
            )
        return METHODS[protocol]
    fields = {"warmup": settings.method.warmup, **warmup_policy}
    if warmup is not None:
        fields["warmup"] = warmup
    return msgspec.structs.replace(
        settings.method, **msgspec.convert(fields, dict[str, Any]), runs=runs or settings.method.runs
    )


# --- models and sizes -------------------------------------------------------------------------------------------------


def one_model(
    settings: Config,
    model: str | None,
    checkpoint: Path | None,
    head: Head | None = None,
    weights: str | None = None,
) -> ModelSpec:
    """Return the one model that is meant.

    Without a name it is the one that the checkpoint belongs to, else the first in [sweep]. `weights` chooses among
    several networks in a checkpoint. Raises `UsageError` for a name that means several, for a head beside a checkpoint,
    which has its own, and for `weights` without one.
    """
    _refuse_head(checkpoint, head)
    if model is not None:
        if fnmatch.filter(settings.models, model) != [model] and any(sign in model for sign in "*?["):
            raise UsageError(f"'{model}' may mean several models here; give one name.")
        spec = settings.select([model])[0]
    elif checkpoint is not None:
        from fastvit_bench.network import checkpoint as checkpoints

        variant = checkpoints.survey(checkpoint, entry=weights).chosen.match.variant
        spec = settings.models.get(variant) or ModelSpec(name=variant, variant=variant)
    else:
        spec = settings.select([])[0]
    if checkpoint is not None:
        return msgspec.structs.replace(spec, checkpoint=str(checkpoint), sha256=None, weights=weights)
    if weights is not None:
        if spec.checkpoint is None:
            raise UsageError("--weights chooses a network in a weight file; name that file with --checkpoint.")
        return msgspec.structs.replace(spec, weights=weights)
    return spec if head is None else msgspec.structs.replace(spec, head=head)


def select_models(
    settings: Config,
    models: Sequence[str],
    checkpoint: Path | None,
    head: Head | None = None,
    weights: str | None = None,
    gelu: str | None = None,
    *,
    pad: bool = False,
    normalize: bool = False,
) -> list[ModelSpec]:
    """Return the models that are meant, by names and globs; with a checkpoint, or `weights` of one, it is one.

    `gelu`, `pad` and `normalize` change them as `adapted` does.
    """
    if checkpoint is not None or weights is not None:
        if len(models) > 1:
            raise UsageError("--checkpoint is one network's weights; give one --model with it, or none.")
        specs = [one_model(settings, models[0] if models else None, checkpoint, head, weights)]
    else:
        specs = settings.select(models)
        specs = specs if head is None else [msgspec.structs.replace(spec, head=head) for spec in specs]
    return adapted(specs, gelu, pad=pad, normalize=normalize)


def adapted(
    specs: Sequence[ModelSpec], gelu: str | None = None, *, pad: bool = False, normalize: bool = False
) -> list[ModelSpec]:
    """Return models with another GELU than declared, and padding and normalising where `pad` and `normalize` ask."""
    chosen: dict[str, Any] = {} if gelu is None else {"gelu": msgspec.convert(str(gelu), Gelu)}
    return [
        msgspec.structs.replace(spec, pad=spec.pad or pad, normalize=spec.normalize or normalize, **chosen)
        for spec in specs
    ]


def _refuse_head(checkpoint: Path | None, head: Head | None) -> None:
    if head is not None and checkpoint is not None:
        raise UsageError("--head is for random weights; a checkpoint has its own, so leave it out.")


def sweep_shapes(settings: Config, res: str | None, specs: Sequence[ModelSpec], batch: int) -> tuple[Shape, ...]:
    """Return the shapes of a sweep: those named, else the sizes of the grid that every model can take."""
    grid, stride = settings.sweep.grid, config.stride(specs)
    return tuple(config.shapes(res or _possible(grid, stride), grid, batch, stride, _padding(specs)))


def _padding(specs: Sequence[ModelSpec]) -> str:
    """Return what helps where a stride does not divide a size, beside other sizes; only FastViT's networks pad."""
    padding = all(registry.find(spec.variant).family == "fastvit" for spec in specs)
    return ", or let the file pad its images with --pad" if padding else ""


def _possible(grid: Sequence[int], stride: int) -> str:
    """Return the sizes of a grid that a stride divides, as a value of ``--res``; all of them if there are none."""
    return ",".join(map(str, [size for size in sorted(grid) if size % stride == 0] or grid))


def square_shape(res: str | None, specs: Sequence[ModelSpec], batch: int) -> Shape:
    """Return the one square shape that images are prepared for; raises `UsageError` for several sizes."""
    own = {spec.resolution for spec in specs}
    if res is None and len(own) > 1:
        raise UsageError(f"The models are meant for {', '.join(map(str, sorted(own)))} pixels; name one with --res.")
    shapes = config.shapes(res or str(own.pop()), (), batch, config.stride(specs))
    if len(shapes) > 1 or shapes[0].height != shapes[0].width:
        raise UsageError(f"--res {res}: accuracy is counted at one square size; name it, such as 256.")
    return shapes[0]


def gate_selection(
    settings: Config, models: Sequence[str], res: str | None, batch: int
) -> tuple[list[ModelSpec], list[Shape]]:
    """Return the models and shapes that the options name, else those of [gate]."""
    grid = settings.gate.grid or settings.sweep.grid
    specs = settings.select(models or settings.gate.models)
    for spec in specs:
        registry.require(spec.variant)
    return specs, config.shapes(res or ",".join(map(str, grid)), grid, batch, config.stride(specs))


# --- requests ---------------------------------------------------------------------------------------------------------


def sweep_request(
    settings: Config,
    device: Device,
    specs: Sequence[ModelSpec],
    *,
    res: str | None,
    protocol: Protocol,
    runs: int | None,
    warmup: int | None,
    fuse: Fuse,
    seed: int,
    profile: bool,
) -> Request:
    """Return the request to time models on a device; raises `UsageError` for layers that it cannot time."""
    backend = backends.get(device.backend)
    if profile and (reason := backend.unprofiled(device)):
        raise UsageError(reason)
    method = resolve_method(settings, protocol, runs, warmup, backend.warmup_policy(device))
    return Request(
        device=device,
        models=tuple(specs),
        shapes=sweep_shapes(settings, res, specs, device.batch),
        fused=fuse,
        method=msgspec.structs.replace(method, processes=min(method.processes, method.runs)),
        seed=seed,
        timeout_s=settings.sweep.timeout_s,
        profile=profile,
    )


def evaluation_request(
    settings: Config,
    device: Device,
    specs: Sequence[ModelSpec],
    evaluation: Evaluation,
    *,
    res: str | None,
    fuse: Fuse,
    seed: int,
) -> Request:
    """Return the request to count how often models name the class of images; see `square_shape` for `res`."""
    return Request(
        device=device,
        models=tuple(specs),
        shapes=(square_shape(res, specs, device.batch),),
        fused=fuse,
        method=settings.method,
        seed=seed,
        timeout_s=settings.sweep.timeout_s,
        evaluation=evaluation,
    )


# --- files to export --------------------------------------------------------------------------------------------------


def images_per_run(text: str) -> tuple[int, str | None]:
    """Return the batch of ``--batch 8``; of ``1..8``, for a file of any batch within, the smallest and the range.

    Raises `UsageError` for any other text.
    """
    least, _, _ = text.partition("..")
    if not re.fullmatch(r"\d{1,6}", least, re.ASCII) or not int(least):
        raise UsageError(
            f"--batch {text[:80]} is no number of images; write 8, or 1..8 for a file of any batch within."
        )
    return int(least), text if least != text else None


def export_targets(text: str) -> list[str]:
    """Return the targets of ``--target coreml,coreai``. Raises `UsageError` for one that is named twice or empty."""
    targets = [target.strip() for target in text.split(",")]
    twice = next((target for target, count in collections.Counter(targets).items() if count > 1), None)
    if twice is not None:
        raise UsageError(f"--target names '{twice}' twice; name each format once, such as coreml,coreai.")
    return targets


def export_device(
    target: str,
    backend: Backend,
    precision: str | None,
    batch: int,
    options: Mapping[str, object],
    calibration: Path | None = None,
    calibration_images: int | None = None,
) -> Device:
    """Return the device that a file is exported for.

    Raises `UsageError` for an option that the target does not have, and for calibration images without INT8.
    """
    for name in sorted(name for name, value in options.items() if value is not None and name not in backend.flags):
        flag = "batch A..B" if name == "batches" else name.replace("_", "-")
        raise UsageError(f"--{flag} means nothing for --target {target}; leave it out.")
    precision = precision or backend.precisions[0]
    if precision not in backend.precisions:
        raise UsageError(f"--target {target} exports {' or '.join(backend.precisions)}, not {precision}.")
    if precision not in CALIBRATED and (calibration or calibration_images):
        raise UsageError(
            f"--calibration is for activations of 8 bits; give --precision {' or '.join(CALIBRATED)}, or leave it out."
        )
    return Device(
        name=target,
        backend=backend.name,
        precision=precision,
        batch=batch,
        calibration=None if calibration is None else str(calibration),
        calibration_images=calibration_images or CALIBRATION_IMAGES,
        options={name: str(options[name]) for name in backend.export_options if options.get(name) is not None},
    )


def export_devices(
    targets: str,
    precision: str | None,
    batch: int,
    options: Mapping[str, object],
    calibration: Path | None = None,
    calibration_images: int | None = None,
) -> list[Device]:
    """Return the devices of ``--target coreml,coreai``, all of which can be exported for on this machine.

    Raises what `export_targets`, `export_device` and `backends.require` raise.
    """
    devices = [
        export_device(name, backends.of_target(name), precision, batch, options, calibration, calibration_images)
        for name in export_targets(targets)
    ]
    for device in devices:
        backends.require(device.backend, device)
    return devices


def export_jobs(
    settings: Config,
    spec: ModelSpec,
    device: Device,
    *,
    res: str | None,
    fuse: Fuse,
    seed: int,
    multifunction: bool,
    classifier: Path | None,
    output: str | None,
    force: bool,
    tune: Tune | None = None,
    several: bool = False,
) -> list[ExportJob]:
    """Return what is to be exported for a target: a job for each file.

    `output` is a file with the target's ending, or a folder; `classifier` is a file of class names. `multifunction`
    puts all sizes into one file. `force` replaces files that this tool did not write. `tune` searches the choices of
    INT8; raises `UsageError` for it in another precision, and where the files to be timed cannot be run. `several` says
    that there are files of other targets too.
    """
    from fastvit_bench.exporting import checkpoints, pipeline

    backend = backends.get(device.backend)
    stride, remedy = config.stride([spec]), "" if device.options.get("dynamic") else _padding([spec])
    shapes = config.shapes(res or str(spec.resolution), settings.sweep.grid, device.batch, stride, remedy)
    if multifunction and len(shapes) < 2:
        raise UsageError("--multifunction puts several sizes into one file; name them with --res, such as 256,384.")
    weights = checkpoints.weights_of(spec, seed)
    labels = class_names(classifier) if classifier else ()
    of_files = [shapes] if multifunction else [[shape] for shape in shapes]
    if tune is not None and device.precision != "int8":
        raise UsageError("--tune searches the choices of --precision int8; leave it out.")
    if tune is not None and tune.goal == "latency":
        checked = msgspec.structs.replace(device, options=backend.options(device))
        if reason := backend.device_unavailable_reason(checked):
            raise UnavailableError(f"--tune latency times files, and these cannot be run here: {reason}.")
    parts = _name_parts(device, backend, fuse, labels) + ([f"tuned-{tune.goal}"] if tune else [])
    return [
        pipeline.job(
            spec,
            weights,
            sizes[0],
            fuse,
            device,
            folder=Path(settings.paths.models),
            path=output_path(output, backend.suffix, spec, sizes, parts, several=several or len(of_files) > 1),
            functions=tuple(sizes) if multifunction else (),
            labels=labels,
            force=force,
            seed=seed,
            tune=tune,
        )
        for sizes in of_files
    ]


TUNE_BUDGET_S = 600.0


def tuning(goal: str | None, budget: str | None) -> Tune | None:
    """Return the search that ``--tune`` and ``--tune-budget`` ask for; None without.

    Raises `UsageError` for another goal, a budget that is no duration, and one without a goal.
    """
    if goal is None:
        if budget is not None:
            raise UsageError("--tune-budget is of a search; give --tune accuracy or latency, or leave it out.")
        return None
    if goal not in get_args(TuneGoal):
        raise UsageError(f"--tune {goal[:80]!r} must be {' or '.join(get_args(TuneGoal))}.")
    return Tune(goal=cast(TuneGoal, goal), budget_s=config.seconds(budget) if budget else TUNE_BUDGET_S)


def export_phrase(job: ExportJob) -> str:
    """Return what a job exports as a phrase, such as "exporting fastvit_t8 256 b1 (folded, fp32, random(seed 0))"."""
    sizes = " ".join(shape.size for shape in job.functions or (job.shape,))
    settings = ", ".join(filter(None, (job.fused, job.precision, job.weights.label)))
    return f"exporting {job.model} {sizes} b{job.shape.batch} ({settings})"


def _name_parts(device: Device, backend: Backend, fuse: Fuse, labels: Sequence[str]) -> list[str]:
    """Return the parts of a file's name for settings that are not the default.

    They keep two exports of one network in a folder from overwriting each other.
    """
    usual = backend.options(msgspec.structs.replace(device, options={}))
    parts: list[str] = [] if fuse is Fuse.FOLDED else [fuse]
    parts += [] if device.precision == backend.precisions[0] else [device.precision]
    parts += [str(device.options[name]) for name in device.options if device.options[name] != usual.get(name)]
    return [*parts, "named"] if labels else parts


def output_path(
    output: str | None, suffix: str, spec: ModelSpec, sizes: Sequence[Shape], parts: Sequence[str], *, several: bool
) -> Path | None:
    """Return the path of one exported file: `output` itself if it has the file's suffix, else a path in that folder.

    The name in a folder consists of model, sizes, batch and `parts`, for settings that are not the default. Raises
    `UsageError` for a name with another ending, unless it is that of a folder: it exists, or ends in a slash.
    """
    if output is None:
        return None
    path = Path(output)
    if path.name.endswith(suffix) and not several:
        return path
    if path.name.endswith(suffix):
        raise UsageError(f"{path} names one file, and several sizes or targets make several; name a folder with -o.")
    if path.suffix and not output.endswith(("/", os.sep)) and not (files.exists(path) and path.is_dir()):
        raise UsageError(
            f"The names of such files end in {suffix}, and {path} does not; say {path.with_name(path.stem + suffix)}, "
            f"or {path}/ for a folder of that name."
        )
    name = "_".join((spec.name, *(shape.size for shape in sizes), f"b{sizes[0].batch}", *parts))
    return path / (name + suffix)


def class_names(path: Path) -> tuple[str, ...]:
    """Return the class names in a file, one per line; an empty last line does not count."""
    try:
        lines = files.read_text(path, encoding="utf-8-sig").removesuffix("\n").split("\n")  # some editors mark UTF-8
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The class names {path} cannot be read: {error}.") from None
    names = [line.strip() for line in lines]
    empty = [number for number, name in enumerate(names, 1) if not name]
    if empty:
        raise UsageError(f"{path}, line {empty[0]} holds no class name; write one name per line.")
    odd = next((number for number, name in enumerate(names, 1) if not name.isprintable()), None)
    if odd:
        raise UsageError(f"{path}, line {odd} holds a control character; remove it.")
    repeated = next((name for name, count in collections.Counter(names).items() if count > 1), None)
    if repeated:
        raise UsageError(f"{path} names the class '{repeated}' twice, and Core ML needs distinct names; rename one.")
    return tuple(names)


# --- comparisons ------------------------------------------------------------------------------------------------------


def comparison_plan(
    settings: Config,
    max_regression: str | None,
    max_pooled: str | None,
    max_time: str | None,
    seed: int,
    no_baseline: NoBaseline = NoBaseline.FAIL,
) -> Plan:
    """Return the plan of [gate] with the changes that the options make.

    A margin for cells that comes without a pooled one makes the pooled margin half as wide.
    """
    from fastvit_bench.comparing.interleaved import INTERLEAVE_PLAN

    defaults = settings.gate
    margin = config.share(max_regression or defaults.max_regression)
    pooled = max_pooled or ("" if max_regression else defaults.max_pooled_regression)
    return Plan(
        margin=margin,
        pooled_margin=config.share(pooled) if pooled else margin / 2,
        alpha=defaults.alpha,
        beta=defaults.beta,
        max_time_s=config.seconds(max_time or defaults.max_time),
        seed=seed,
        turns=INTERLEAVE_PLAN,
        no_baseline=no_baseline,
    )


# --- folders and run files --------------------------------------------------------------------------------------------


def require_folders(settings: Config, device: str, report: Path | None = None) -> None:
    """Raise `StoreError` unless the folders for exported files, results and reports can be written."""
    folders = {"results": Path(settings.paths.results) / device, "exported files": Path(settings.paths.models)}
    if report is not None:
        folders["reports"] = report
    for content, folder in folders.items():
        if (refused := files.refusal(folder)) is not None:
            raise StoreError(f"The folder {folder} for {content} cannot be written: {refused}.")


def run_to_resume(device: str, paths: Sequence[Path]) -> Path:
    """Return the one run file that is to be continued; raises `UsageError` for several, or one of another device."""
    if len(paths) > 1:
        raise UsageError(f"--resume continues one run, and this means {len(paths)}; name one of them.")
    path = paths[0]
    if path.parent.name != device:
        raise UsageError(f"Run {path.stem} was made on {path.parent.name}; say --device {path.parent.name}.")
    return path
