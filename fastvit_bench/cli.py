"""The door: words of the command line become values, one call does the work, results go to standard output.

Standard error has everything meant for a person who waits: the plan, the progress, the rows as they arrive, and errors.
"""

import fnmatch
import os
import shutil
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer
from typer.core import TyperGroup

import fastvit_bench
from fastvit_bench import backends, config
from fastvit_bench.errors import ExitCode, FastViTBenchError, UsageError
from fastvit_bench.records import (
    METHODS,
    SETTINGS,
    Device,
    ExportJob,
    Failure,
    Fuse,
    Head,
    Method,
    ModelSpec,
    Protocol,
    Request,
    Setting,
    Shape,
    Window,
    cell_name,
)

if TYPE_CHECKING:
    from rich.console import Console

    from fastvit_bench.config import Config
    from fastvit_bench.evaluation import Place
    from fastvit_bench.measure.images import DataSet
    from fastvit_bench.records import Artifact, Cell, Foreign, Tally
    from fastvit_bench.sweep import Step
    from fastvit_bench.verdicts import Comparison, Plan


class Format(StrEnum):
    """How a table is written."""

    RICH = "rich"
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"
    LATEX = "latex"


class HistoryFormat(StrEnum):
    """How a history is written."""

    RICH = "rich"
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"


class ReportFormat(StrEnum):
    """How a report is written."""

    HTML = "html"
    PNG = "png"
    SVG = "svg"


class CheckpointForm(StrEnum):
    """Which of the two published files of a model."""

    UNFUSED = "unfused"
    FUSED = "fused"


class Join(StrEnum):
    """What a table of latencies can be joined with."""

    ACCURACY = "accuracy"


class Source(StrEnum):
    """Whose measurements can be imported."""

    XCODE = "xcode"
    TRTEXEC = "trtexec"


class Commands(TyperGroup):
    """The commands, whose errors end in one sentence and their exit code instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; what went wrong is said on standard error."""
        try:
            return super().invoke(ctx)
        except FastViTBenchError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            typer.echo("interrupted", err=True)
            raise typer.Exit(ExitCode.INTERRUPTED) from error


app = typer.Typer(
    name="fastvit-bench",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# --- options that several commands share ------------------------------------------------------------------------------

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="Configuration file. [default: ./benchmark.toml, else the packaged one]"),
]
CheckpointOption = Annotated[
    Path | None, typer.Option("--checkpoint", "-c", help="Weight file. Without one, weights are random by --seed.")
]
FuseOption = Annotated[
    Fuse, typer.Option("--fuse", help="How much is computed ahead of time; 'folded' is what to ship.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of random weights.")]
ReferenceOption = Annotated[
    str | None, typer.Option("--reference", help="Model that every figure is also given as a ratio to.")
]
FormatOption = Annotated[Format, typer.Option("--format", "-f", help="How the table is written.")]


@app.callback(invoke_without_command=True)
def version_or_command(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Fuse, export, prove, time and tabulate FastViT networks (arXiv 2303.14189).

    \b
    fastvit-bench latency --device cpu --res 224..1024
    fastvit-bench export --target onnx --model fastvit_t8 --checkpoint FILE
    """
    # GNU OpenMP lets torch's threads spin at every barrier: on a busy two-core machine an export then takes 20 times as
    # long. A short spin costs nothing on a quiet one. Read when torch is loaded, and inherited by the workers.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    if version:
        typer.echo(f"fastvit-bench {fastvit_bench.__version__}")
        raise typer.Exit


# --- weights ----------------------------------------------------------------------------------------------------------


@app.command()
def download(
    name: Annotated[str, typer.Argument(help="Variant, such as fastvit_t8; `fastvit-bench models` lists them.")],
    distilled: Annotated[bool, typer.Option("--distilled", help="The weights trained by distillation.")] = False,
    form: Annotated[CheckpointForm, typer.Option(help="As trained, or fused by the authors.")] = CheckpointForm.UNFUSED,
    config_file: ConfigOption = None,
) -> None:
    """Bring a published checkpoint into models/, resuming what was begun and checking its SHA-256."""
    from fastvit_bench.network import download as downloads
    from fastvit_bench.network.fastvit import Form

    settings = _load(config_file)
    with _transfer(name) as progress:
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


@app.command()
def fuse(
    checkpoint: Annotated[Path, typer.Argument(help="Weight file of a FastViT network.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write (.pth.tar or .safetensors).")],
) -> None:
    """Fuse a checkpoint's train-time branches and save it in the published fused layout.

    Prints what was fused, by kind, and how far the fused and the folded network are from the checkpoint's own.
    """
    from fastvit_bench import build
    from fastvit_bench.report import listing

    console = _console()
    report = build.fuse_file(checkpoint, output)
    console.print(listing.fusing(report))
    typer.echo(output)


# --- export -----------------------------------------------------------------------------------------------------------


@app.command()
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
    fuse: FuseOption = Fuse.FOLDED,
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
    seed: SeedOption = 0,
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
    settings = _load(config_file)
    spec = _one_model(settings, model, checkpoint)
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
    _require(backend.name)
    device = Device(
        name=target,
        backend=backend.name,
        precision=precision,
        batch=batch,
        options={name: str(given[name]) for name in backend.shaping if given[name] is not None},
    )
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
    console = _console()
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


@app.command()
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
    _require(backend.name)
    proofs = build.verify(path, checkpoint, Path(_load(config_file).paths.models))
    for name, proof in proofs.items():
        typer.echo(listing.proof(name, proof))
    failed = [proof for proof in proofs.values() if not proof.passed]
    if failed:
        raise ParityError(f"{path} does not compute what its network computes: {failed[0].reason}.")
    typer.echo(f"{path}: proved")


# --- latency ----------------------------------------------------------------------------------------------------------


@app.command()
def latency(
    device: Annotated[str, typer.Option("--device", "-d", help="Device of benchmark.toml.")] = "cpu",
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="Model, repeatable; globs such as 'fastvit_*' work. [default: of [sweep]]"),
    ] = None,
    checkpoint: CheckpointOption = None,
    res: Annotated[
        str | None,
        typer.Option("--res", "--img-size", help="224..1024, 224..1024:160, 224,256 or 384x512. [default: the grid]"),
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", "-b", "--batch-size", min=1, help="Images per run. [default: the device's]")
    ] = None,
    runs: Annotated[
        int | None, typer.Option("--runs", "--iterations", min=1, help="Timed runs. [default: 100]")
    ] = None,
    warmup: Annotated[
        int | None, typer.Option("--warmup", "-w", min=0, help="Untimed runs in front. [default: 10]")
    ] = None,
    protocol: Annotated[
        Protocol | None,
        typer.Option(
            "--protocol",
            help="median100; modelbench: how the published iPhone figures were made; paper: its GPU column; "
            "trtexec: as that tool does. [default: median100]",
        ),
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="Threads. [default: all cores]")] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="Of the file's arithmetic: fp32 or fp16. [default: the device's]")
    ] = None,
    head: Annotated[
        Head | None, typer.Option("--head", help="Of random weights: dense for the maps that detectors take.")
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
    fuse: Annotated[Fuse | None, typer.Option("--fuse", help="none, fused or folded. [default: folded]")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of random weights. [default: 0]")] = None,
    resume: Annotated[
        str | None, typer.Option("--resume", help="Continue a run: its id, a prefix of it, its file, or 'last'.")
    ] = None,
    format_: FormatOption = Format.RICH,
    config_file: ConfigOption = None,
) -> None:
    """Time exported networks over image sizes: the median of 100 runs with its interval, one process per size.

    What is missing is exported and proved first. Every finished size is a line in results/DEVICE/RUN.jsonl at once, so
    a run that is interrupted goes on with --resume. Exit code 7 says that some sizes failed and the others are kept.
    """
    from fastvit_bench import sweep
    from fastvit_bench.report import store

    settings = _load(config_file)
    models, results = Path(settings.paths.models), Path(settings.paths.results)
    chosen = settings.device(device)
    given = {
        "--model": model,
        "--checkpoint": checkpoint,
        "--res": res,
        "--batch": batch,
        "--runs": runs,
        "--warmup": warmup,
        "--protocol": protocol,
        "--threads": threads,
        "--precision": precision,
        "--head": head,
        "--graph": graph,
        "--transfers": transfers,
        "--sync": sync,
        "--cuda-binding": cuda_binding,
        "--profile": profile or None,
        "--fuse": fuse,
        "--seed": seed,
    }
    set_too = [name for name, value in given.items() if value is not None and value != []]
    if resume is not None and set_too:
        raise UsageError(
            f"--resume continues a run as it was begun; leave out {', '.join(set_too)} or start a new run."
        )
    if head is not None and checkpoint is not None:
        raise UsageError("--head is for random weights; a checkpoint tells its own, so leave it out.")
    running = {"graph": graph, "transfers": transfers, "sync": sync, "cuda_binding": cuda_binding, "threads": threads}
    chosen = _as_asked(chosen, protocol, precision, batch, running)
    method = _method(settings, protocol, runs, warmup, backends.get(chosen.backend).settling(chosen))
    _require(chosen.backend)
    _require_hardware(chosen)
    chosen, machine = sweep.preflight(chosen, "rename" if allow_device_mismatch else "refuse")
    if resume is not None:
        path = _run_of(chosen.name, store.find(results, resume))
        with store.lock(results, chosen.name):
            request, steps = sweep.resume(path, models, machine)
            failed = _sweep(request, steps, machine, path, device)
    else:
        grid = settings.sweep.grid
        specs = [_one_model(settings, _single(model), checkpoint)] if checkpoint else settings.select(model or [])
        if head is not None:
            specs = [msgspec.structs.replace(spec, head=head) for spec in specs]
        request = Request(
            device=chosen,
            models=tuple(specs),
            shapes=tuple(config.shapes(res or f"{min(grid)}..{max(grid)}", grid, chosen.batch)),
            fused=fuse or Fuse.FOLDED,
            method=method,
            seed=seed or 0,
            timeout_s=settings.sweep.timeout_s,
            profile=profile,
        )
        steps = sweep.plan(request, models)
        sweep.check_checkpoints(request, steps)
        with store.lock(results, chosen.name):
            path = sweep.begin(request, steps, machine, results)
            failed = _sweep(request, steps, machine, path, device)
    _print_table([path], format_)
    typer.echo(f"results: {path}", err=True)
    if failed:
        raise typer.Exit(ExitCode.CELLS_FAILED)


def _sweep(request: Request, steps: "list[Step]", machine: Any, path: Path, device: str) -> int:
    """Run the steps under a progress bar; returns how many failed."""
    from fastvit_bench import sweep
    from fastvit_bench.report import table

    console = _console()
    rate = sweep.measured_rate(path.parent.parent, device)
    console.print(sweep.outline(request, steps, rate), highlight=False, soft_wrap=True)
    failed = 0
    with _bar(console, steps, request, rate) as advance:
        try:
            for result in sweep.run(request, steps, machine, path, advance):
                failed += isinstance(result, Failure)
                console.print(table.live_row(result), highlight=False, markup=False, soft_wrap=True)
        except KeyboardInterrupt:
            console.print(
                f"interrupted; every finished size is kept. Go on with: "
                f"fastvit-bench latency --device {device} --resume {path.stem}",
                highlight=False,
                soft_wrap=True,
            )
            raise typer.Exit(ExitCode.INTERRUPTED) from None
    return failed


# --- accuracy ---------------------------------------------------------------------------------------------------------


@app.command()
def accuracy(
    device: Annotated[str, typer.Option("--device", "-d", help="Device of benchmark.toml.")] = "cpu",
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="Model, repeatable; globs such as 'fastvit_*' work. [default: of [sweep]]"),
    ] = None,
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
    precision: Annotated[
        str | None, typer.Option("--precision", help="Of the file's arithmetic: fp32 or fp16. [default: the device's]")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="So many images, evenly spread over all. [default: all]")
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", "-j", min=1, help="Threads that decode images. [default: all cores]")
    ] = None,
    fuse: Annotated[Fuse | None, typer.Option("--fuse", help="none, fused or folded. [default: folded]")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of random weights. [default: 0]")] = None,
    resume: Annotated[
        str | None, typer.Option("--resume", help="Continue a run: its id, a prefix of it, its file, or 'last'.")
    ] = None,
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

    settings = _load(config_file)
    models, results = Path(settings.paths.models), Path(settings.paths.results)
    given = {
        "--model": model,
        "--data": data,
        "--labels": labels,
        "--checkpoint": checkpoint,
        "--res": res,
        "--batch": batch,
        "--precision": precision,
        "--limit": limit,
        "--workers": workers,
        "--fuse": fuse,
        "--seed": seed,
    }
    set_too = [name for name, value in given.items() if value is not None and value != []]
    if resume is not None and set_too:
        raise UsageError(
            f"--resume continues a run as it was begun; leave out {', '.join(set_too)} or start a new run."
        )
    if resume is None and data is None:
        raise UsageError("Name the folder with the images: --data DIR.")
    chosen = _as_asked(settings.device(device), None, precision, batch, {})
    _require(chosen.backend)
    place = evaluation.preflight(chosen)
    if place.lacking:
        why = place.lacking.partition(";")[0]
        typer.echo(f"device '{chosen.name}' is not here ({why}); what proves its files takes its place", err=True)
    if resume is not None:
        path = _run_of(chosen.name, store.find(results, resume))
        with store.lock(results, chosen.name):
            request, steps, found, earlier = evaluation.resume(path, models, place.machine)
            failed = _count(request, steps, found, place, path, earlier)
    else:
        assert data is not None
        specs = [_one_model(settings, _single(model), checkpoint)] if checkpoint else settings.select(model or [])
        found = images.collect(data, labels, limit)
        request = Request(
            device=place.device,
            models=tuple(specs),
            shapes=(_square(res, specs, place.device.batch),),
            fused=fuse or Fuse.FOLDED,
            method=settings.method,
            seed=seed or 0,
            timeout_s=settings.sweep.timeout_s,
            evaluation=evaluation.described(found, data, limit, workers or backends.available_cores()),
        )
        steps = sweep.plan(request, models)
        evaluation.check(request, steps, found)
        with store.lock(results, chosen.name):
            path = sweep.begin(request, steps, place.machine, results)
            failed = _count(request, steps, found, place, path, {})
    _print_accuracies(path, format_)
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

    console = _console()
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


@app.command("import")
def import_(
    report: Annotated[
        list[str],
        typer.Argument(
            metavar="[KIND] FILE",
            help="FILE is what Xcode exported (.mlperf) or the report.json in it; behind the KIND trtexec, what "
            "`trtexec --exportTimes` wrote.",
        ),
    ],
    device: Annotated[
        str | None,
        typer.Option("--device", "-d", help="The device of benchmark.toml that it is of. [default: by its own name]"),
    ] = None,
    trt_version: Annotated[
        str | None,
        typer.Option("--trt-version", help="trtexec: version of TensorRT, such as 10.16; it decides the defaults."),
    ] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", help="trtexec: name of the GPU. [default: the device's]")] = None,
    driver: Annotated[str | None, typer.Option("--driver", help="trtexec: version of the GPU's driver.")] = None,
    graph: Annotated[
        bool | None,
        typer.Option("--graph/--no-graph", help="trtexec: whether it replayed a CUDA graph. [default: the version's]"),
    ] = None,
    spin_wait: Annotated[
        bool | None,
        typer.Option("--spin-wait/--no-spin-wait", help="trtexec: how the host waited. [default: the version's]"),
    ] = None,
    warm_up: Annotated[
        int | None, typer.Option("--warm-up", min=0, help="trtexec: milliseconds of its --warmUp. [default: 200]")
    ] = None,
    window: Annotated[
        Window | None,
        typer.Option("--window", help="trtexec: compute (GPU Compute Time) or end-to-end (Latency). [compute]"),
    ] = None,
    onnx: Annotated[
        Path | None, typer.Option("--onnx", help="trtexec: the file of `export` that was timed; it tells the model.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="trtexec: any other model, by a name.")] = None,
    res: Annotated[
        str | None, typer.Option("--res", "--img-size", help="trtexec: image size of the other model, such as 256.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", "-b", "--batch-size", min=1, help="trtexec: its images per run.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="trtexec: its arithmetic, such as fp16. [default: unknown]")
    ] = None,
    format_: FormatOption = Format.RICH,
    config_file: ConfigOption = None,
) -> None:
    """Import what was measured elsewhere as a run, and tabulate it: an Xcode report, or times of trtexec.

    Of a Core ML performance report, latencies, load times and the planned placement are kept; names, serial numbers and
    folders are not. Times of trtexec say nothing of what was timed, so that is said with options; what is left out is
    what trtexec of that version does by default. What was imported before is shown again.

    \b
    fastvit-bench import FILE.mlperf --device iphone12pro
    fastvit-bench import trtexec TIMES.json --trt-version 10.16 --device rtx2080ti --onnx FILE.trt.onnx
    """
    from fastvit_bench import elsewhere, sweep
    from fastvit_bench.report import mlperf, trtexec

    kind, file = _kind_of_import(report)
    settings = _load(config_file)
    profile = None if device is None else settings.device(device)
    models, results = Path(settings.paths.models), Path(settings.paths.results)
    if kind is Source.XCODE:
        given = {
            "--trt-version": trt_version,
            "--gpu": gpu,
            "--driver": driver,
            "--graph": graph,
            "--spin-wait": spin_wait,
            "--warm-up": warm_up,
            "--window": window,
            "--onnx": onnx,
            "--model": model,
            "--res": res,
            "--batch": batch,
            "--precision": precision,
        }
        for name in (name for name, value in given.items() if value is not None):
            raise UsageError(f"{name} means nothing for a report of Xcode; leave it out, or write import trtexec FILE.")
        found = elsewhere.of_xcode(mlperf.read(file), profile, models)
        said = ""
    else:
        if trt_version is None:
            raise UsageError(
                "Times of trtexec mean something only with the version of TensorRT, whose defaults changed; say "
                "--trt-version, such as 10.16."
            )
        times = trtexec.read(file, trtexec.WARM_UP_MS if warm_up is None else warm_up)
        told = elsewhere.Told(
            made=_timed_by_trtexec(onnx, model, res, batch, precision, models),
            version=trt_version,
            gpu=gpu,
            driver=driver,
            graph=graph,
            spin=spin_wait,
            window=window or Window.COMPUTE,
        )
        found = elsewhere.of_trtexec(times, told, profile)
        said = elsewhere.taken_for_granted(times, found.measurement)
    path, new = sweep.adopt(found, settings.models, results)
    _print_table([path], format_)
    if said:
        typer.echo(said, err=True)
    typer.echo(f"{'results' if new else 'imported before'}: {path}", err=True)


def _kind_of_import(words: Sequence[str]) -> tuple[Source, Path]:
    """What is imported, and its file; one word alone is a report of Xcode."""
    *kind, file = words
    if kind and kind[0] not in set(Source):
        raise UsageError(f"There is no import of '{kind[0]}'; known: {', '.join(Source)}.")
    if len(kind) > 1:
        raise UsageError(f"import takes one file, and this names {len(kind)}; import them one by one.")
    if not kind and file in set(Source) and not Path(file).exists():
        raise UsageError(f"Name the file too: fastvit-bench import {file} FILE.")
    return Source(kind[0]) if kind else Source.XCODE, Path(file)


def _timed_by_trtexec(
    onnx: Path | None, model: str | None, res: str | None, batch: int | None, precision: str | None, models: Path
) -> "Artifact | Foreign":
    """What trtexec timed: a file of ours, which tells for itself, or a model that the options describe."""
    from fastvit_bench import elsewhere

    described = {"--model": model, "--res": res, "--batch": batch, "--precision": precision}
    described = [name for name, value in described.items() if value is not None]
    if onnx is not None:
        if described:
            raise UsageError(
                f"--onnx tells the model, its input and its precision; leave out {', '.join(described)}, or --onnx if "
                f"trtexec was told another precision than the file's."
            )
        return elsewhere.timed_file(onnx, models)
    if model is None:
        raise UsageError(
            "The file does not say what was timed; give the exported file with --onnx, or a name with --model."
        )
    if not model.strip():
        raise UsageError("--model needs a name.")
    if (res is None) != (batch is None):
        raise UsageError("--res and --batch say together what was timed; give both, or neither for another input.")
    if res is None or batch is None:
        return elsewhere.timed_model(model, None, precision)
    # any size, because the model is not ours
    height, _, width = res.partition("x")
    if not all(side.isascii() and side.isdecimal() and 0 < int(side) < 2**20 for side in (height, width or height)):
        raise UsageError(f"--res {res} is no image size; write one, such as 256 or 384x512 (height x width).")
    return elsewhere.timed_model(model, Shape(batch=batch, height=int(height), width=int(width or height)), precision)


# --- comparing --------------------------------------------------------------------------------------------------------

DeviceOption = Annotated[str, typer.Option("--device", "-d", help="Device of benchmark.toml.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="Threads. [default: all cores]")]
MaxRegressionOption = Annotated[
    str | None, typer.Option("--max-regression", help="Slowdown of a cell that is accepted, such as 5%.")
]
MaxTimeOption = Annotated[
    str | None, typer.Option("--max-time", help="When to stop, such as 90s or 20m. [default: of [gate]]")
]
OrderSeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of the order of turns and cells.")]
ReportOption = Annotated[
    Path | None, typer.Option("--report", help="Folder for the outputs of --report-format. [default: none]")
]
ReportFormatOption = Annotated[
    str,
    typer.Option("--report-format", help="Of: markdown, junit, json, bmf, gha, pytest-benchmark, svg, png; by commas."),
]


@app.command()
def compare(
    base: Annotated[
        str,
        typer.Argument(
            help="An exported file, a folder of them, or a model; with settings: fastvit_t8,fuse=none,threads=1."
        ),
    ],
    head: Annotated[str, typer.Argument(help="Likewise; ratios are HEAD over BASE.")],
    device: DeviceOption = "cpu",
    res: Annotated[
        str | None,
        typer.Option("--res", "--img-size", help="Sizes. [default: those of the files, else the model's own]"),
    ] = None,
    batch: Annotated[
        int | None, typer.Option("--batch", "-b", "--batch-size", min=1, help="Images per run. [default: the device's]")
    ] = None,
    base_python: Annotated[
        str | None, typer.Option("--base-python", help="Python whose packages run BASE. [default: this one]")
    ] = None,
    head_python: Annotated[
        str | None, typer.Option("--head-python", help="Python whose packages run HEAD. [default: this one]")
    ] = None,
    max_regression: MaxRegressionOption = None,
    max_time: MaxTimeOption = None,
    seed: OrderSeedOption = 0,
    report: ReportOption = None,
    report_format: ReportFormatOption = "markdown,json,svg",
    config_file: ConfigOption = None,
) -> None:
    """Time two exports, models, fuse levels, thread counts or Python environments in turns, and say which is quicker.

    Exit code 4 says that something could not be compared. With --max-regression, 1 is a regression and 3 inconclusive.
    """
    from fastvit_bench import sides, sweep, turns
    from fastvit_bench.verdicts import Kind, Outcome

    settings = _load(config_file)
    formats = _formats(report, report_format)
    chosen = _as_asked(settings.device(device), None, None, batch, {})
    _require(chosen.backend)
    _require_hardware(chosen)
    chosen, machine = sweep.preflight(chosen)
    console = _console()
    shapes = config.shapes(res, settings.sweep.grid, chosen.batch) if res else []
    commands = [sides.elsewhere(python) if python else () for python in (base_python, head_python)]
    labels = [
        f"{text} (in {python})" if python else text for text, python in ((base, base_python), (head, head_python))
    ]

    with _locked(settings, chosen.name):
        pairs = sides.both(base, head, (labels[0], labels[1]), settings, chosen, shapes, commands, _say(console))
        plan = _plan(settings, max_regression, None, max_time, seed)
        contest = turns.Contest(pairs, plan, machine, timeout_s=settings.sweep.timeout_s, same=sides.anything_goes)
        comparison = _contested(contest, Kind.PAIRED, chosen, labels[0], labels[1], console)
    _conclude(comparison, settings, "compare", report, formats)
    if max_regression is not None or comparison.outcome is Outcome.INCOMPARABLE:
        raise typer.Exit(comparison.exit_code)


@app.command()
def gate(
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline", help="Folder of exported files, or results/DEVICE/RUN.jsonl of another day (weaker)."
        ),
    ] = None,
    baseline_rev: Annotated[
        str | None, typer.Option("--baseline-rev", help="Git revision to export the base from, such as origin/main.")
    ] = None,
    head: Annotated[
        Path | None, typer.Option("--head", help="Folder of exported files. [default: exported from here]")
    ] = None,
    device: DeviceOption = "cpu",
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Model or glob, repeatable. [default: of [gate]]")
    ] = None,
    res: Annotated[str | None, typer.Option("--res", "--img-size", help="Sizes. [default: grid of [gate]]")] = None,
    threads: ThreadsOption = None,
    max_regression: MaxRegressionOption = None,
    max_pooled_regression: Annotated[
        str | None,
        typer.Option("--max-pooled-regression", help="Likewise, of all cells together. [half of --max-regression]"),
    ] = None,
    max_time: MaxTimeOption = None,
    seed: OrderSeedOption = 0,
    report: ReportOption = None,
    report_format: ReportFormatOption = "markdown,junit,json,svg",
    config_file: ConfigOption = None,
) -> None:
    """Compare this tree with a baseline for CI: exit code 0 passed, 1 regression, 3 inconclusive, 4 not comparable.

    Cells, margins and time are those of [gate] in benchmark.toml. Every file is proved before it is timed (5).
    """
    from contextlib import ExitStack

    from fastvit_bench import sides, sweep, turns
    from fastvit_bench.report import calibration
    from fastvit_bench.verdicts import Kind

    if (baseline is None) == (baseline_rev is None):
        raise UsageError("Say what to compare with: --baseline DIR or RUN.jsonl, or --baseline-rev REVISION.")
    settings = _load(config_file)
    formats = _formats(report, report_format)
    chosen = _as_asked(settings.device(device), None, None, None, {"threads": threads})
    _require(chosen.backend)
    _require_hardware(chosen)
    chosen, machine = sweep.preflight(chosen)
    specs = settings.select(model or settings.gate.models)
    grid = settings.gate.grid or settings.sweep.grid
    shapes = (
        config.shapes(res, grid, chosen.batch) if res else config.shapes(",".join(map(str, grid)), grid, chosen.batch)
    )
    console = _console()
    notify = _say(console)
    weak = (
        baseline is not None and baseline.is_file() and not baseline.name.endswith(backends.get(chosen.backend).suffix)
    )
    plan = _plan(settings, max_regression, max_pooled_regression, max_time, seed)
    timeout_s = settings.sweep.timeout_s
    with _locked(settings, chosen.name), ExitStack() as held:
        if baseline_rev is not None:
            bases = held.enter_context(sides.exported_by(baseline_rev, settings, specs, shapes, chosen, notify))
        elif weak:
            assert baseline is not None
            bases = sides.stored(baseline, chosen, machine)
            plan = turns.weaker(plan, config.share(settings.gate.stored_extra))
        else:
            assert baseline is not None
            bases = [*sides.lying(baseline, chosen, str(baseline))]
        if head is not None:
            heads = [*sides.lying(head, chosen, str(head))]
        else:
            heads = sides.made(
                specs,
                shapes,
                Fuse.FOLDED,
                chosen,
                label="this tree",
                seed=0,
                models=Path(settings.paths.models),
                timeout_s=timeout_s,
                notify=notify,
            )
        for side in (bases, heads):
            sides.equip(side, timeout_s)
        wanted = {cell_name(spec.name, shape) for spec in specs for shape in shapes}
        pairs = [
            pair
            for pair in sides.by_name(bases, heads)
            # what is left out on purpose is not missing; any other cell that a side holds is a cell
            if pair.name in wanted or not (model or res)
        ]
        contest = turns.Contest(pairs, plan, machine, timeout_s=timeout_s)
        kept = Path(settings.paths.results) / chosen.name
        comparison = _contested(
            contest,
            Kind.STORED if weak else Kind.PAIRED,
            chosen,
            str(baseline_rev or baseline),
            str(head or "this tree"),
            console,
            calibration.doubts(kept, plan),
        )
    _conclude(comparison, settings, "gate", report, formats)
    raise typer.Exit(comparison.exit_code)


def _plan(
    settings: "Config", max_regression: str | None, max_pooled: str | None, max_time: str | None, seed: int
) -> "Plan":
    """The plan of [gate] with what the options change; without its own, the pooled margin is half of the cells'."""
    from fastvit_bench.verdicts import Plan

    ours = settings.gate
    margin = config.share(max_regression or ours.max_regression)
    pooled = max_pooled or ("" if max_regression else ours.max_pooled_regression)
    return Plan(
        margin=margin,
        pooled_margin=config.share(pooled) if pooled else margin / 2,
        alpha=ours.alpha,
        beta=ours.beta,
        max_time_s=config.seconds(max_time or ours.max_time),
        seed=seed,
    )


@app.command()
def calibrate(
    device: DeviceOption = "cpu",
    model: Annotated[
        list[str] | None, typer.Option("--model", "-m", help="Model or glob, repeatable. [default: of [gate]]")
    ] = None,
    res: Annotated[str | None, typer.Option("--res", "--img-size", help="Sizes. [default: grid of [gate]]")] = None,
    threads: ThreadsOption = None,
    repeat: Annotated[int, typer.Option("--repeat", "-k", min=2, help="Gates of each cell against itself.")] = 5,
    max_regression: MaxRegressionOption = None,
    max_time: MaxTimeOption = None,
    seed: OrderSeedOption = 0,
    config_file: ConfigOption = None,
) -> None:
    """Compare each cell with itself: this machine's noise, false alarms, and the slowdowns that a gate can see here.

    `gate` reads the result and warns of margins below the noise.
    """
    from fastvit_bench import sides, sweep, turns
    from fastvit_bench.report import calibration

    settings = _load(config_file)
    chosen = _as_asked(settings.device(device), None, None, None, {"threads": threads})
    _require(chosen.backend)
    _require_hardware(chosen)
    chosen, machine = sweep.preflight(chosen)
    specs = settings.select(model or settings.gate.models)
    grid = settings.gate.grid or settings.sweep.grid
    shapes = config.shapes(res or ",".join(map(str, grid)), grid, chosen.batch)
    console = _console()
    plan = _plan(settings, max_regression, None, max_time, seed)
    with _locked(settings, chosen.name):
        same = sides.made(
            specs,
            shapes,
            Fuse.FOLDED,
            chosen,
            label="itself",
            seed=0,
            models=Path(settings.paths.models),
            timeout_s=settings.sweep.timeout_s,
            notify=_say(console),
        )
        pairs = sides.by_name(same, same)
        with _blocks_bar(console, len(pairs)) as advance:
            found = turns.calibrated(
                pairs, plan, machine, repeat=repeat, timeout_s=settings.sweep.timeout_s, notify=advance
            )
        path = calibration.save(found, Path(settings.paths.results) / chosen.name)
    _stdout().print(calibration.table(found))
    typer.echo(calibration.sentence(found))
    typer.echo(f"written: {path}", err=True)


def _locked(settings: "Config", device: str) -> Any:
    from fastvit_bench.report import store

    return store.lock(Path(settings.paths.results), device)


def _formats(report: Path | None, names: str) -> list[str]:
    """Formats that will be written, known before anything is measured."""
    from fastvit_bench.report import verdict

    return verdict.checked([name.strip() for name in names.split(",") if name.strip()]) if report else []


def _say(console: "Console") -> Callable[[str], None]:
    return lambda what: console.print(f"{what} …", highlight=False, markup=False, soft_wrap=True)


def _contested(
    contest: Any, kind: Any, device: Device, base: str, head: str, console: "Console", warnings: Sequence[str] = ()
) -> "Comparison":
    """Run a contest under a progress bar."""
    from datetime import UTC, datetime

    from fastvit_bench import turns

    started = datetime.now(UTC)
    with _blocks_bar(console, len(contest.cells)) as advance:
        contest.notify = advance
        verdicts = contest.run()
    return turns.told(
        contest, verdicts, kind=kind, device=device, base=base, head=head, started=started, warnings=warnings
    )


def _conclude(
    comparison: "Comparison", settings: "Config", command: str, report: Path | None, formats: Sequence[str]
) -> None:
    """Everything that is written, before any exit code."""
    from datetime import UTC, datetime

    from fastvit_bench.report import store, verdict
    from fastvit_bench.report.verdict import github

    out = _stdout()
    out.print(verdict.rich(comparison, out.width))
    typer.echo(verdict.sentence(comparison))
    kept = Path(settings.paths.results) / comparison.device.name / f"{command}-{store.new_id(datetime.now(UTC))}.json"
    verdict.write(comparison, "json", kept)
    written = [kept, *(verdict.publish(comparison, report, formats, command) if report else [])]
    for path in written:
        typer.echo(f"written: {path}", err=True)
    for line in github.tell(comparison, os.environ, str(report or kept)):
        typer.echo(line)


# --- tables -----------------------------------------------------------------------------------------------------------


@app.command()
def table(
    run: Annotated[
        list[str] | None, typer.Argument(help="Runs: ids, prefixes, files, or 'last'. [default: all of results/]")
    ] = None,
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
    results = Path(_load(config_file).paths.results)
    paths = _runs(run or [], results)
    if not paths:
        raise UsageError(f"There are no runs in {results}/ yet; `fastvit-bench latency --device cpu` makes one.")
    _print_table(paths, format_, store.all_runs(results) if join else None, reference, pareto=pareto, compact=compact)


@app.command()
def report(
    run: Annotated[
        list[str] | None, typer.Argument(help="Runs: ids, prefixes, files, or 'last'. [default: all of results/]")
    ] = None,
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
    """Write one page that opens from a file, offline: frontier, latencies by resolution, verdicts, and every figure.

    Takes the extra 'report'. Pictures are the page's own figures, one file each.

    \b
    fastvit-bench report -o report.html
    fastvit-bench report --format svg -o figures
    """
    from datetime import UTC, datetime

    from fastvit_bench.report import compose, frontiers, store
    from fastvit_bench.report.rows import collect

    results = Path(_load(config_file).paths.results)
    paths = _runs(run or [], results)
    folders = [path.parent for path in paths] if run else sorted(path for path in results.glob("*") if path.is_dir())
    comparisons, notes = compose.stored_comparisons(list(dict.fromkeys(folders)), gate or [])
    if not paths and not comparisons:
        raise UsageError(f"There are no runs in {results}/ yet; `fastvit-bench latency --device cpu` makes one.")
    files = [store.read(path) for path in paths]
    rows, counted = collect(files), frontiers.counted(found for file in files for found in file.accuracies)
    if format_ is ReportFormat.HTML:
        now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
        made = f"Made by fastvit-bench {fastvit_bench.__version__} on {now} from {_counted(len(paths), 'run')}."
        text = compose.html(
            rows, comparisons, title=title, made=made, reference=reference, accuracies=counted, notes=notes
        )
        written = [output or Path("report.html")]
        compose.write(text, written[0])
    else:
        folder = output or Path("figures")
        written, left_out = compose.pictures(
            rows, comparisons, folder, format_.value, reference=reference, accuracies=counted
        )
        notes += left_out
    typer.echo("\n".join([*notes, *(f"written: {path}" for path in written)]), err=True)


@app.command()
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
        HistoryFormat, typer.Option("--format", "-f", help="How the series are written.")
    ] = HistoryFormat.RICH,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also draw them into this file (.svg or .png).")
    ] = None,
    config_file: ConfigOption = None,
) -> None:
    """Show how latencies went from run to run, at which runs they changed, and what else changed there.

    One series per cell: figures of one model, shape, device, method and machine. Versions of packages and drivers may
    differ within a series, as they may be why it changed. Changes are looked for from five runs on, and seen some three
    to five runs after they happened; a change is no failure, so the exit code stays 0 (`gate` is for that).

    \b
    fastvit-bench history --device cpu --model 'fastvit_*' -o history.svg
    """
    from fastvit_bench.report import history as histories
    from fastvit_bench.report import history_plot, store, table

    settings = _load(config_file)
    least = _share("--min-change", min_change)
    if output is not None:
        history_plot.check(output)
    results = Path(settings.paths.results)
    paths = _runs(run, results) if run else _runs_on(settings, results, device)
    files = [store.read(path) for path in paths]
    series = histories.collect(files)
    if not series:
        raise UsageError(f"No figure was measured in {_counted(len(files), 'run')}: there is no history.")
    grid = sorted({shape.height for each in series if (shape := each.newest.shape)})
    sizes = config.sizes(res, grid) if res else []
    series = histories.select(series, device, model or [], sizes)
    if all(len(each.points) == 1 for each in series):
        raise UsageError(
            f"{_counted(len(series), 'cell')} with a single figure: a history takes two runs of a cell, and "
            f"{histories.FEWEST} for changes to be looked for."
        )
    series = [histories.search(each, least) for each in series]
    if output is not None:
        said = history_plot.write(series, output)
        typer.echo("\n".join([*said, f"picture: {output}"]), err=True)
    if format_.value in histories.FORMATS:
        sys.stdout.write(histories.FORMATS[format_.value](series))
        return
    found = histories.document(series, sum(len(file.failures) for file in files))
    if format_ is HistoryFormat.MARKDOWN:
        sys.stdout.write(table.in_markdown(found))
    else:
        console = _stdout()
        console.print(table.on_terminal(found, console.width))


@app.command()
def roofline(
    run: Annotated[
        list[str] | None, typer.Argument(help="Runs: ids, prefixes, files, or 'last'. [default: all of the device]")
    ] = None,
    device: Annotated[str, typer.Option("--device", "-d", help="Device of benchmark.toml.")] = "cpu",
    again: Annotated[bool, typer.Option("--again", help="Measure the peak anew, even if one is kept.")] = False,
    format_: Annotated[
        HistoryFormat, typer.Option("--format", "-f", help="How roofs and figures are written.")
    ] = HistoryFormat.RICH,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Also draw them into this file (.svg or .png).")
    ] = None,
    config_file: ConfigOption = None,
) -> None:
    """Hold measured latencies against what the device can do at best: GMAC/s, share of the peak, and what bounds them.

    Peak arithmetic rate and memory bandwidth are measured once through the device's own toolkit, on a quiet machine
    within a minute, and kept in results/DEVICE/peak.json by machine, versions, precision and options.

    \b
    fastvit-bench roofline --device cpu -o roofline.svg
    """
    from fastvit_bench import ceilings
    from fastvit_bench.report import roofline as rooflines
    from fastvit_bench.report import roofline_plot, store, table
    from fastvit_bench.report.rows import collect

    settings = _load(config_file)
    chosen = settings.device(device)
    if output is not None:
        roofline_plot.check(output)
    results = Path(settings.paths.results)
    paths = _runs(run or [], results)
    files = [store.read(path) for path in paths if path.parent.name == device or run]
    rows = [row for row in collect(files) if row.device.name == device and row.measured]
    if run and not rows:
        raise UsageError(f"Nothing was measured on '{device}' in {_counted(len(files), 'run')}; name its runs.")
    console = _console()
    held = ceilings.of_rows(rows, chosen, results / device, again=again, notify=_say(console))
    counted = ceilings.traffic((cell for row in rows for cell in row.measured), Path(settings.paths.models))
    points = rooflines.collect(rows, held, counted)
    if output is not None:
        said = roofline_plot.write(points, held, output)
        typer.echo("\n".join([*said, f"picture: {output}"]), err=True)
    if format_.value in rooflines.FORMATS:
        sys.stdout.write(rooflines.FORMATS[format_.value](points, held))
        return
    found = rooflines.document(points, held)
    if format_ is HistoryFormat.MARKDOWN:
        sys.stdout.write(table.in_markdown(found))
    else:
        out = _stdout()
        out.print(table.on_terminal(found, out.width))


def _runs(run: Sequence[str], results: Path) -> list[Path]:
    """The run files that were named, each once; without names every one."""
    from fastvit_bench.report import store

    return list(dict.fromkeys(path for ref in run for path in store.find(results, ref))) or store.all_runs(results)


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


def _share(option: str, text: str) -> float:
    """A share from ``5%`` or ``0.05``: at least 0 and below 1."""
    number = text.strip().removesuffix("%")
    try:
        share = float(number) / (100 if text.strip().endswith("%") else 1)
    except ValueError:
        share = -1.0
    if not 0 <= share < 1:
        raise UsageError(f"{option} {text} is no share; write a percentage such as 2%, or 0.02.")
    return share


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


@app.command()
def models(config_file: ConfigOption = None) -> None:
    """List the models: size counted here and published, and their known checkpoints."""
    from fastvit_bench import build
    from fastvit_bench.report import listing

    settings = _load(config_file)
    _stdout().print(
        listing.models([build.describe(spec, Path(settings.paths.models)) for spec in settings.models.values()])
    )


@app.command()
def devices(config_file: ConfigOption = None) -> None:
    """List the devices of benchmark.toml: what can run here, and what the others lack."""
    from fastvit_bench.measure import machine
    from fastvit_bench.report import listing

    here = machine.processor()
    rows = [(device, _lacking(device, here)) for device in _load(config_file).devices.values()]
    about = f"{here}, {backends.available_cores()} cores, {machine.system()}"
    typer.echo(listing.devices(rows, about, shutil.get_terminal_size().columns))


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


# --- between the words and the values ---------------------------------------------------------------------------------


def _load(path: Path | None) -> "Config":
    return config.load(path, backends=backends.implemented())


def _require(backend: str) -> None:
    """Raise `UnavailableError` unless the backend can run here."""
    from fastvit_bench.errors import UnavailableError

    lacking = backends.missing(backend)
    if lacking:
        raise UnavailableError(f"{lacking[0].upper()}{lacking[1:]}. `fastvit-bench devices` lists what can run here.")


def _require_hardware(device: Device) -> None:
    """Raise `UnavailableError` unless files can be run from here on the device, whose options are filled in."""
    from fastvit_bench.errors import UnavailableError

    backend = backends.get(device.backend)
    absent = backend.absent(device)
    if absent:
        raise UnavailableError(f"Device '{device.name}' cannot run here: {absent}.")


def _method(
    settings: "Config", protocol: Protocol | None, runs: int | None, warmup: int | None, settling: Mapping[str, float]
) -> Method:
    """How to measure: by [method], the options and how such devices settle, unless a protocol fixes it."""
    if protocol is not None and protocol is not Protocol.MEDIAN100:
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
    return Method(
        **msgspec.convert(told, dict[str, Any]), runs=runs or settings.method.runs, rounds=settings.method.rounds
    )


def _as_asked(
    device: Device, protocol: Protocol | None, precision: str | None, batch: int | None, running: Mapping[str, Any]
) -> Device:
    """The device with what a protocol and the options say of it, every option filled in."""
    backend = backends.get(device.backend)
    setting = SETTINGS.get(protocol, Setting()) if protocol else Setting()
    if setting.options and not backend.settling(device):
        raise UsageError(f"--protocol {protocol} is for NVIDIA GPUs, and device '{device.name}' is none.")
    device = msgspec.structs.replace(
        device,
        precision=precision or setting.precision or device.precision,
        batch=batch or setting.batch or device.batch,
        options={
            **device.options,
            **setting.options,
            **{name: value for name, value in running.items() if value is not None},
        },
    )
    if device.precision not in backend.precisions:
        raise UsageError(
            f"Device '{device.name}' runs {' or '.join(backend.precisions)}, not {device.precision}; correct "
            f"--precision, or its precision in the configuration."
        )
    return msgspec.structs.replace(device, options=backend.options(device))


def _engine(lacking: str | None, job: ExportJob, timeout_s: float) -> str:
    """Build the engine of an exported file in a process of its own; returns what came of it, as a line."""
    from fastvit_bench.errors import ParityError, UnavailableError
    from fastvit_bench.records import EngineJob
    from fastvit_bench.report import listing
    from fastvit_bench.worker import Equipped, Trouble, Worker

    if lacking is not None:
        return f"left to do: build the engine, on the machine with the GPU it is for ({lacking})"
    with Worker() as worker:
        reply = worker.ask(EngineJob(export=job), timeout_s)
    if isinstance(reply, Trouble):
        kind = ParityError if reply.stage == "parity" else UnavailableError
        raise kind(f"{Path(job.path).name} is proved and was kept, its engine failed: {reply.reason.rstrip('.')}.")
    assert isinstance(reply, Equipped)
    if reply.parity is None:
        return "engine built; it has not run, because its GPU is not here"
    return f"engine built: {listing.proof('', reply.parity)}"


def _single(model: list[str] | None) -> str | None:
    """The one model that goes with one checkpoint."""
    if model and len(model) > 1:
        raise UsageError("--checkpoint is one network's weights; give one --model with it, or none.")
    return model[0] if model else None


def _one_model(settings: "Config", model: str | None, checkpoint: Path | None) -> ModelSpec:
    """The model a command is about; without a name, the one that the checkpoint turns out to be."""
    if model is not None:
        if fnmatch.filter(settings.models, model) != [model] and any(sign in model for sign in "*?["):
            raise UsageError(f"'{model}' may mean several models here; give one name.")
        spec = settings.select([model])[0]
    elif checkpoint is not None:
        from fastvit_bench.network import checkpoint as files

        found = files.load(checkpoint)
        named = settings.models.get(found.variant)
        spec = named or ModelSpec(name=found.variant, variant=found.variant)
    else:
        spec = settings.select([])[0]
    return spec if checkpoint is None else msgspec.structs.replace(spec, checkpoint=str(checkpoint), sha256=None)


def _run_of(device: str, found: list[Path]) -> Path:
    """The one run file that --resume means."""
    if len(found) > 1:
        raise UsageError(f"--resume continues one run, and this means {len(found)}; name one of them.")
    if found[0].parent.name != device:
        raise UsageError(
            f"Run {found[0].stem} was made on {found[0].parent.name}; say --device {found[0].parent.name}."
        )
    return found[0]


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


# --- what a person sees -----------------------------------------------------------------------------------------------


def _console() -> "Console":
    from rich.console import Console

    return Console(stderr=True)


def _stdout() -> "Console":
    from rich.console import Console

    return Console()


def _print_table(
    paths: list[Path],
    format_: Format,
    others: list[Path] | None = None,
    reference: str | None = None,
    *,
    pareto: bool = False,
    compact: bool = False,
) -> None:
    """Tabulate runs; with what was counted in others, where those are given."""
    from fastvit_bench.report import frontiers, joined, rows, sheet, table

    found, counted = rows.read(paths, others or ())
    if others is not None:
        found = rows.join(found, counted)
    further = joined.join(found, reference=reference, pareto=pareto, accuracies=frontiers.counted(counted))
    shown = sheet.compact(table.told(found, further)) if compact and found else None
    if format_ is Format.RICH:
        console = _stdout()
        console.print(table.on_terminal(shown, console.width) if shown else table.rich(found, console.width, further))
    else:
        sys.stdout.write(table.DOCUMENTS[format_](shown) if shown else table.FORMATS[format_](found, further))


def _print_accuracies(path: Path, format_: Format) -> None:
    from fastvit_bench.report import accuracies, store

    found = store.read(path).accuracies
    if format_ is Format.RICH:
        console = _stdout()
        console.print(accuracies.rich(found, console.width))
    else:
        sys.stdout.write(accuracies.FORMATS[format_](found))


@contextmanager
def _blocks_bar(console: "Console", cells: int) -> Generator[Any]:
    """A bar over the blocks up to the next look; drawn between blocks only."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("", total=1)

        def advance(cell: str, block: int, look: int) -> None:
            progress.update(
                task, completed=block - 1, total=look, description=f"{cell}: block {block} of {look}", refresh=True
            )

        yield advance


@contextmanager
def _bar(console: "Console", steps: "list[Step]", request: Request, rate: float | None) -> Generator[Any]:
    """A bar over the estimated time of the steps; drawn between them only, never while something is timed."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from fastvit_bench import sweep

    weight = {step.cell: sweep.seconds([step], request, rate) for step in steps}
    total = sum(weight.values())
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"), TimeElapsedColumn())
    with Progress(
        *columns, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("", total=total, left="")
        done: list[Any] = []

        def advance(step: "Step", what: str) -> None:
            if step.cell not in done:
                done.append(step.cell)
            finished = sum(weight[cell] for cell in done[:-1])
            spent = progress.tasks[0].elapsed or 0.0
            scale = spent / finished if finished else 1.0
            progress.update(
                task,
                completed=finished,
                description=f"{what} {step.cell.label} ({len(done)}/{len(steps)})",
                left=f"about {sweep.duration((total - finished) * scale)} left",
                refresh=True,
            )

        yield advance


@contextmanager
def _transfer(name: str) -> Generator[Any]:
    """A progress bar over bytes; yields the function that download.fetch reports to."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = _console()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=None)

        def report(done: int, total: int | None) -> None:
            progress.update(task, completed=done, total=total)

        yield report


def main() -> None:
    """Entry point of the console script."""
    app()


if __name__ == "__main__":
    main()
