"""Command `export`: write a network as a file of a toolkit and prove it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from fastvit_bench.cli import _complete, _output
from fastvit_bench.cli._options import (
    CheckpointOption,
    ConfigOption,
    ForceOption,
    GeluOption,
    NormalizeOption,
    PadOption,
    WeightsOption,
)
from fastvit_bench.cli._progress import ProgressLine
from fastvit_bench.records import Artifact, ExportJob, Fuse, Head


# long: declares the options of the command
def export(
    target: Annotated[
        str,
        typer.Option(
            "--target",
            "-t",
            autocompletion=_complete.targets,
            help="Format to write: onnx, openvino, coreml, coreai, tensorrt, tensorrt-rtx or pytorch; or several, as "
            "coreml,coreai.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            autocompletion=_complete.models,
            help="Model of benchmark.toml. [default: the first in [sweep]]",
        ),
    ] = None,
    checkpoint: CheckpointOption = None,
    weights: WeightsOption = None,
    res: Annotated[
        str | None,
        typer.Option(
            "--res",
            "--img-size",
            help="Sizes: 256, 384x512 (height x width), 224,256 or 224..1024. [default: the model's]",
        ),
    ] = None,
    batch: Annotated[
        str,
        typer.Option("--batch", "-b", "--batch-size", help="Images per run; onnx: also 1..8, a file for any within."),
    ] = "1",
    precision: Annotated[
        str | None,
        typer.Option(
            "--precision",
            help="Arithmetic of the file: fp32, fp16, bf16 or int8; coreai: w8, w8a8; coreml: w8a8. "
            "[default: fp16; of onnx and openvino fp32]",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            metavar="DIR",
            help="int8, w8a8: folder of images like those that the network will see. [default: none: refused]",
        ),
    ] = None,
    calibration_images: Annotated[
        int | None,
        typer.Option(
            "--calibration-images",
            min=1,
            help="int8, w8a8: how many images are drawn from it, by --seed. [default: 128]",
        ),
    ] = None,
    tune: Annotated[
        str | None,
        typer.Option(
            "--tune",
            metavar="GOAL",
            help="int8: search the best choices for accuracy or latency, and print all that was tried. [default: none]",
        ),
    ] = None,
    tune_budget: Annotated[
        str | None,
        typer.Option("--tune-budget", metavar="TIME", help="Time after which no other is tried. [default: 10m]"),
    ] = None,
    fuse: Annotated[
        Fuse, typer.Option("--fuse", help="How much is computed ahead of time; 'folded' is what to ship.")
    ] = Fuse.FOLDED,
    head: Annotated[
        Head | None,
        typer.Option("--head", help="Head of random weights; a checkpoint has its own. [default: the model's]"),
    ] = None,
    input_: Annotated[
        str | None,
        typer.Option(
            "--input",
            help="All but pytorch: image (8-bit RGB) or tensor (normalised). [default: tensor; coreml image]",
        ),
    ] = None,
    attention: Annotated[
        str | None,
        typer.Option("--attention", help="coreml: standard, or conv (per head, channels first). [default: standard]"),
    ] = None,
    compress: Annotated[
        str | None, typer.Option("--compress", help="coreml: int8, palette6 or palette4 weights. [default: none]")
    ] = None,
    classifier: Annotated[
        Path | None,
        typer.Option(
            "--classifier",
            help="coreml: file of class names, one per line; the output is then a name, of a batch scores. "
            "[default: none]",
        ),
    ] = None,
    multifunction: Annotated[
        bool,
        typer.Option("--multifunction", help="coreml: one file for all sizes of --res, with shared weights (iOS 18)."),
    ] = False,
    io: Annotated[
        str | None,
        typer.Option("--io", help="tensorrt, tensorrt-rtx: fp16 or fp32 input and outputs. [default: as --precision]"),
    ] = None,
    compute_capability: Annotated[
        str | None,
        typer.Option("--compute-capability", help="tensorrt-rtx: that of the GPU to build for. [default: 7.5]"),
    ] = None,
    dynamic: Annotated[
        str | None,
        typer.Option(
            "--dynamic",
            help="tensorrt, tensorrt-rtx: one file for all sizes of a range, such as 224..1024. [default: none]",
        ),
    ] = None,
    gelu: GeluOption = None,
    pad: PadOption = False,
    normalize: NormalizeOption = False,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of random weights, and of the draw of images.")] = 0,
    output: Annotated[  # as text: a path loses the slash that ends a folder's name
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="File with the format's ending, or a folder, such as out/. [default: models/MODEL/]",
        ),
    ] = None,
    force: ForceOption = False,
    config_file: ConfigOption = None,
) -> None:
    """Export a network for a toolkit and prove the file.

    The file must compute what the network computes. Prints the path of each file, and of the files beside it on
    standard error. FILE.json records what the file is and how exact its outputs are, FILE.expected.npz the outputs
    that it was proved against. Of several targets, a table sets the files side by side on standard error.

    \b
    fastvit-bench export -t coreml -m fastvit_t8 -o t8.mlpackage
    fastvit-bench export -t coreml,coreai -m fastvit_t8 --res 256
    fastvit-bench export -t onnx -m fastvit_t8 --res 224..1024
    """
    from fastvit_bench import options

    settings = options.load(config_file)
    named = options.one_model(settings, model, checkpoint, head, weights)
    (spec,) = options.adapted([named], gelu, pad=pad, normalize=normalize)
    _output.say_contents([spec])
    images, batches = options.images_per_run(batch)
    target_options = {
        "input": input_,
        "attention": attention,
        "compress": compress,
        "classifier": classifier,
        "multifunction": multifunction or None,
        "io": io,
        "compute_capability": compute_capability,
        "dynamic": dynamic,
        "batches": batches,
    }
    devices = options.export_devices(target, precision, images, target_options, calibration, calibration_images)
    jobs = [
        job
        for device in devices
        for job in options.export_jobs(
            settings,
            spec,
            device,
            res=res,
            fuse=fuse,
            seed=seed,
            multifunction=multifunction,
            classifier=classifier,
            output=output,
            force=force,
            tune=options.tuning(tune, tune_budget),
            several=len(devices) > 1,
        )
    ]
    if classifier is not None and images > 1:
        _output.say(
            f"Core ML names the class of a single image: of each of the {images}, the file gives the scores; the names "
            "are in its metadata (fastvit_bench.labels), in the order of the scores."
        )
    exported = [(job, _exported(job, settings.sweep.timeout_s)) for job in jobs]
    if len(devices) > 1:
        _print_side_by_side(exported, Path(settings.paths.results))


def _exported(job: ExportJob, timeout_s: float) -> Artifact:
    """Export a file, and its engine where its toolkit has one; print what was written."""
    from fastvit_bench import backends, files, options
    from fastvit_bench.exporting import metadata
    from fastvit_bench.sweep import run

    backend = backends.get(job.backend)
    with ProgressLine(_output.stderr()) as progress:
        progress.step(options.export_phrase(job))
        with files.temporary_files_apart():
            artifact = run.export(job, timeout_s)
    _print_artifact(artifact, verbose=_output.verbose())
    beside = [metadata.metadata_path(Path(job.path)), metadata.reference_outputs_path(Path(job.path))]
    if backend.engines is not None:
        beside += _engine(backend.engines.lacking(job.device), job, timeout_s)
    for path in beside:
        if path.exists():
            _output.say(f"written: {path}")
    _output.show(job.path)
    return artifact


def _print_side_by_side(exported: Sequence[tuple[ExportJob, Artifact]], results: Path) -> None:
    """Print a table of the files of several targets on standard error, with the latencies that are stored of them."""
    from fastvit_bench.render import listing, terminal
    from fastvit_bench.store import runs

    latencies, faults = runs.latencies_of({artifact.sha256 for _, artifact in exported}, results)
    rows = [
        listing.ExportedFile(job.device.name, artifact, latencies.get(artifact.sha256, {}))
        for job, artifact in exported
    ]
    console = _output.stderr()
    console.print(terminal.report(listing.side_by_side(rows), console.width))
    for sentence in runs.left_out(faults, some=True):
        _output.say(sentence)


def _print_artifact(artifact: Artifact, *, verbose: bool) -> None:
    """Print the proofs and the content of an exported file."""
    from fastvit_bench.render import listing

    against = "" if artifact.quantisation is None else "own rounded network"  # what the only proof is against
    for name, proof in (artifact.proofs or {against: artifact.parity}).items():
        assert proof is not None
        _output.say(listing.proof(name, proof, verbose=verbose))
    _output.say(listing.content(artifact, verbose=verbose))
    if artifact.quantisation is not None:
        for line in listing.quantisation(artifact.quantisation, artifact.classes):
            _output.say(line)
        if (tuning := artifact.quantisation.tuning) is not None:
            for line in listing.tuning(tuning):
                _output.say(line)
    if artifact.half_weights and (verbose or artifact.half_weights.zeroed):
        _output.say(listing.half_weights(artifact.half_weights))


def _engine(lacking: str | None, job: ExportJob, timeout_s: float) -> list[Path]:
    """Build the engine of an exported file in a separate process, say the outcome, and return the engine's files."""
    from fastvit_bench.measuring.worker import Worker
    from fastvit_bench.render import listing
    from fastvit_bench.sweep import run

    if lacking is not None:
        _output.say(f"left to do: build the engine, on the machine with the GPU it is for ({lacking})")
        return []
    with ProgressLine(_output.stderr()) as progress, Worker() as worker:
        progress.step(f"building the engine of {job.path}")
        engine = run.build_engine(
            job, worker, timeout_s, f"{Path(job.path).name} is proved and was kept, its engine failed"
        )
    if engine.parity is None:
        _output.say("engine built; it has not run, because its GPU is not here")
    else:
        _output.say(f"engine built: {listing.proof('', engine.parity, verbose=_output.verbose())}")
    for line in listing.engine(engine):
        _output.say(line)
    return [Path(engine.path), Path(f"{engine.path}.json")]
