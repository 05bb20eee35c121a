"""Commands that make files and tell what they can be made of: download, fuse, export, verify, models, devices."""

import shutil
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from fastvit_bench import backends, config
from fastvit_bench.cli import _screen, _values
from fastvit_bench.cli._options import CheckpointOption, ConfigOption
from fastvit_bench.errors import UsageError
from fastvit_bench.records import Device, ExportJob, Fuse, Head, ModelSpec, Shape


class CheckpointForm(StrEnum):
    """Which of the two published files of a model."""

    UNFUSED = "unfused"
    FUSED = "fused"


def download(
    name: Annotated[str, typer.Argument(help="Variant, such as fastvit_t8; `fastvit-bench models` lists them.")],
    distilled: Annotated[bool, typer.Option("--distilled", help="The weights trained by distillation.")] = False,
    form: Annotated[CheckpointForm, typer.Option(help="As trained, or fused by the authors.")] = CheckpointForm.UNFUSED,
    config_file: ConfigOption = None,
) -> None:
    """Bring a published checkpoint into models/, resuming what was begun and checking its SHA-256."""
    from fastvit_bench.network import download as downloads
    from fastvit_bench.network.fastvit import Form

    settings = _values.load(config_file)
    with _screen.transfer_bar(name) as progress:
        path = downloads.fetch(
            name,
            training=downloads.Training.DISTILLED if distilled else downloads.Training.PLAIN,
            form=Form(form),
            base=settings.download.base,
            folder=Path(settings.paths.models),
            progress=progress,
        )
    typer.echo(path)
    typer.echo(f"next: fastvit-bench latency --device cpu --checkpoint {path}", err=True)


def fuse(
    checkpoint: Annotated[Path, typer.Argument(help="Weight file of a FastViT network.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write (.pth.tar or .safetensors).")],
) -> None:
    """Fuse a checkpoint's train-time branches and save it in the published fused layout.

    Prints what was fused, by kind, and how far the fused and the folded network are from the checkpoint's own.
    """
    from fastvit_bench import build
    from fastvit_bench.report import listing

    console = _screen.stderr()
    report = build.fuse_file(checkpoint, output)
    console.print(listing.fusing(report, console.width))
    typer.echo(output)


def export(
    target: Annotated[
        str, typer.Option("--target", "-t", help="What to write: onnx, coreml, tensorrt, tensorrt-rtx or pytorch.")
    ],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Model of benchmark.toml. [default: the first of [sweep]]")
    ] = None,
    checkpoint: CheckpointOption = None,
    res: Annotated[
        str | None,
        typer.Option(
            "--res", "--img-size", help="256, 384x512 (height x width), 224,256 or 224..1024. [default: the model's]"
        ),
    ] = None,
    batch: Annotated[int, typer.Option("--batch", "-b", "--batch-size", min=1, help="Images per run.")] = 1,
    precision: Annotated[
        str | None, typer.Option("--precision", help="Of the file's arithmetic. [default: fp16; of onnx fp32]")
    ] = None,
    fuse: Annotated[
        Fuse, typer.Option("--fuse", help="How much is computed ahead of time; 'folded' is what to ship.")
    ] = Fuse.FOLDED,
    head: Annotated[Head | None, typer.Option("--head", help="Of random weights; a checkpoint tells its own.")] = None,
    input_: Annotated[
        str | None, typer.Option("--input", help="coreml: image (8-bit RGB) or tensor (normalised, any batch). [image]")
    ] = None,
    attention: Annotated[
        str | None, typer.Option("--attention", help="coreml: standard, or conv (per head, channels first). [standard]")
    ] = None,
    compress: Annotated[
        str | None, typer.Option("--compress", help="coreml: int8, palette6 or palette4 weights. [none]")
    ] = None,
    classifier: Annotated[
        Path | None,
        typer.Option("--classifier", help="coreml: class names, one per line; the file then answers with one."),
    ] = None,
    multifunction: Annotated[
        bool,
        typer.Option("--multifunction", help="coreml: all sizes of --res in one file with shared weights (iOS 18)."),
    ] = False,
    io: Annotated[
        str | None,
        typer.Option("--io", help="tensorrt, tensorrt-rtx: fp16 or fp32 input and outputs. [as --precision]"),
    ] = None,
    compute_capability: Annotated[
        str | None,
        typer.Option("--compute-capability", help="tensorrt-rtx: of the GPU to build for. [7.5, the RTX 2080 Ti's]"),
    ] = None,
    dynamic: Annotated[
        str | None,
        typer.Option(
            "--dynamic", help="tensorrt, tensorrt-rtx: one file for all sizes of a range, such as 224..1024. [static]"
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of random weights.")] = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder, or file by its suffix. [default: models/MODEL/]")
    ] = None,
    config_file: ConfigOption = None,
) -> None:
    """Export a network for a toolkit and prove that the file computes what the network computes.

    Prints the path of each file. Beside each lies FILE.json, which says what the file is and how near it came.
    """
    from fastvit_bench import build
    from fastvit_bench.report import listing

    if head is not None and checkpoint is not None:
        raise UsageError("--head is for random weights; a checkpoint tells its own, so leave it out.")
    settings = _values.load(config_file)
    spec = _values.one_model(settings, model, checkpoint)
    if head is not None:
        spec = msgspec.structs.replace(spec, head=head)
    backend = backends.of_target(target)
    given = {
        "input": input_,
        "attention": attention,
        "compress": compress,
        "classifier": classifier,
        "multifunction": multifunction or None,
        "io": io,
        "compute_capability": compute_capability,
        "dynamic": dynamic,
    }
    for name in sorted(name for name, value in given.items() if value is not None and name not in backend.flags):
        raise UsageError(f"--{name.replace('_', '-')} means nothing for --target {target}; leave it out.")
    precision = precision or backend.precisions[0]
    if precision not in backend.precisions:
        raise UsageError(f"--target {target} exports {' or '.join(backend.precisions)}, not {precision}.")
    device = Device(
        name=target,
        backend=backend.name,
        precision=precision,
        batch=batch,
        options={name: str(given[name]) for name in backend.shaping if given[name] is not None},
    )
    backends.require(backend.name, device)
    shapes = config.shapes(res or str(spec.resolution), settings.sweep.grid, batch)
    if multifunction and len(shapes) < 2:
        raise UsageError("--multifunction puts several sizes into one file; name them with --res, such as 256,384.")
    weights = build.weights_of(spec, seed)
    labels = _labels(classifier) if classifier else ()
    jobs = [shapes] if multifunction else [[shape] for shape in shapes]
    # two forms of a network must not take each other's place in a folder
    usual = backend.options(msgspec.structs.replace(device, options={}))
    form = [*([] if fuse is Fuse.FOLDED else [fuse]), *([] if precision == backend.precisions[0] else [precision])]
    form += [str(device.options[name]) for name in device.options if device.options[name] != usual[name]]
    form += ["named"] if labels else []
    console = _screen.stderr()
    for sizes in jobs:
        shape = sizes[0]
        path = _output_path(output, backend.suffix, spec, sizes, form, several=len(jobs) > 1)
        job = build.job(
            spec,
            weights,
            shape,
            fuse,
            device,
            folder=Path(settings.paths.models),
            path=path,
            functions=tuple(sizes) if multifunction else (),
            labels=labels,
        )
        console.print(
            f"exporting {spec.name} {' '.join(shape.size for shape in sizes)} b{batch} "
            f"({fuse}, {device.precision}, {weights.label}) …",
            highlight=False,
            soft_wrap=True,
        )
        artifact = build.build(job)
        for name, proof in (artifact.proofs or {"": artifact.parity}).items():
            assert proof is not None
            console.print(listing.proof(name, proof), highlight=False, markup=False, soft_wrap=True)
        console.print(listing.content(artifact), highlight=False, markup=False, soft_wrap=True)
        if artifact.half_weights:
            console.print(listing.half_weights(artifact.half_weights), highlight=False, markup=False, soft_wrap=True)
        if backend.engines is not None:
            said = _engine(backend.engines.lacking(job.device), job, settings.sweep.timeout_s)
            console.print(said, highlight=False, markup=False, soft_wrap=True)
        typer.echo(job.path)


def verify(
    path: Annotated[Path, typer.Argument(help="A file that `export` wrote.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", "-c", help="The weights it was made from. [default: looked for in models/]"),
    ] = None,
    config_file: ConfigOption = None,
) -> None:
    """Prove once more that an exported file, as it lies on the disk, computes what its network computes.

    Which network that is, the file itself says. Exit code 5 says that it does not, or that its content was changed.
    """
    from fastvit_bench import build
    from fastvit_bench.errors import ParityError
    from fastvit_bench.report import listing

    backend = backends.of_file(path)
    backends.require(backend.name)
    proofs = build.verify(path, checkpoint, Path(_values.load(config_file).paths.models))
    for name, proof in proofs.items():
        typer.echo(listing.proof(name, proof))
    failed = [proof for proof in proofs.values() if not proof.passed]
    if failed:
        raise ParityError(f"{path} does not compute what its network computes: {failed[0].reason}.")
    typer.echo(f"{path}: proved")


def models(config_file: ConfigOption = None) -> None:
    """List the models: size counted here and published, and their known checkpoints."""
    from fastvit_bench import build
    from fastvit_bench.report import listing

    settings = _values.load(config_file)
    facts = [build.describe(spec, Path(settings.paths.models)) for spec in settings.models.values()]
    out = _screen.stdout()
    out.print(listing.models(facts, out.width))


def devices(config_file: ConfigOption = None) -> None:
    """List the devices of benchmark.toml: what can run here, and what the others lack."""
    from fastvit_bench.measure import machine
    from fastvit_bench.report import listing

    here = machine.collect()
    rows = [(device, _lacking(device, here.processor)) for device in _values.load(config_file).devices.values()]
    about = f"{here.processor}, {here.processors}, {here.os}"
    typer.echo(listing.devices(rows, about, shutil.get_terminal_size().columns))


def _engine(lacking: str | None, job: ExportJob, timeout_s: float) -> str:
    """Build the engine of an exported file in a process of its own; returns what came of it, as a line."""
    from fastvit_bench.errors import ParityError, UnavailableError
    from fastvit_bench.records import CellError, EngineJob
    from fastvit_bench.report import listing
    from fastvit_bench.worker import Worker

    if lacking is not None:
        return f"left to do: build the engine, on the machine with the GPU it is for ({lacking})"
    with Worker() as worker:
        reply = worker.ask(EngineJob(export=job), timeout_s)
    if isinstance(reply, CellError):
        kind = ParityError if reply.stage == "parity" else UnavailableError
        raise kind(f"{Path(job.path).name} is proved and was kept, its engine failed: {reply.reason.rstrip('.')}.")
    if reply.parity is None:
        return "engine built; it has not run, because its GPU is not here"
    return f"engine built: {listing.proof('', reply.parity)}"


def _output_path(
    output: Path | None, suffix: str, spec: ModelSpec, sizes: Sequence[Shape], form: Sequence[str], *, several: bool
) -> Path | None:
    """Where one file goes: `output` itself if it ends like such a file, else into a folder of that name.

    There its name tells model, sizes, batch, and what of its `form` is not the usual.
    """
    if output is None:
        return None
    if output.name.endswith(suffix) and not several:
        return output
    if output.name.endswith(suffix):
        raise UsageError(f"{output} names one file, and several sizes make several; name a folder with -o.")
    if output.suffix == Path(f"x{suffix}").suffix:  # as a folder's name it would be a trap
        raise UsageError(f"The names of such files end in {suffix}, and {output} does not; say {output.stem}{suffix}.")
    parts = (spec.name, *(shape.size for shape in sizes), f"b{sizes[0].batch}", *form)
    return output / ("_".join(parts) + suffix)


def _labels(path: Path) -> tuple[str, ...]:
    """Class names, one per line; an empty last line does not count."""
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The class names {path} cannot be read: {error}.") from None
    names = [line.strip() for line in lines]
    empty = [number for number, name in enumerate(names, 1) if not name]
    if empty:
        raise UsageError(f"{path}, line {empty[0]} holds no class name; write one name per line.")
    twice = next((name for at, name in enumerate(names) if name in names[:at]), None)
    if twice:
        raise UsageError(f"{path} names the class '{twice}' twice, and Core ML needs distinct names; tell them apart.")
    return tuple(names)


def _lacking(device: Device, processor: str) -> str | None:
    """What keeps a device from running here, by what can be said without loading a toolkit."""
    from fastvit_bench.errors import UnavailableError
    from fastvit_bench.measure import machine

    lacking = backends.missing(device.backend)
    if lacking:
        return lacking
    backend = backends.get(device.backend)
    device = msgspec.structs.replace(device, options=backend.options(device))
    absent = backend.absent(device)
    # what is on a cable is asked for its name when it is used
    if absent or device.options.get("location") == "connected":
        return absent
    try:
        hardware = backend.identify(device)
    except UnavailableError as error:
        return str(error).rstrip(".")
    return machine.mismatch(device, hardware.name if hardware else processor)
