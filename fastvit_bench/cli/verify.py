"""Command `verify`: prove an exported file again, or audit a file of others."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from fastvit_bench.cli import _complete, _output
from fastvit_bench.cli._comparison import MaxTimeOption, locked
from fastvit_bench.cli._options import ConfigOption, DeviceOption, RecordFormat, WeightsOption
from fastvit_bench.cli._progress import ProgressLine, of_blocks
from fastvit_bench.errors import FastViTBenchError, NotComparableError, ParityError, UsageError

if TYPE_CHECKING:
    from fastvit_bench.backends import Backend
    from fastvit_bench.config import Config
    from fastvit_bench.records import ModelSpec
    from fastvit_bench.records.audit import Audit


# long: declares the options of the command
def verify(
    path: Annotated[Path, typer.Argument(help="A file that `export` wrote, or an ONNX or Core ML file of others.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint",
            "-c",
            help="Weight file that it was exported from. [default: of this tool's own files, searched in models/]",
        ),
    ] = None,
    weights: WeightsOption = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            autocompletion=_complete.models,
            help="Network that a file of others should be. [default: the checkpoint's]",
        ),
    ] = None,
    res: Annotated[
        str | None,
        typer.Option("--res", help="Size to run a file of others at, where its sizes are open. [default: the model's]"),
    ] = None,
    latency: Annotated[
        bool, typer.Option("--latency", help="Also time a file of others and this tool's own export of it in turns.")
    ] = False,
    device: DeviceOption = "cpu",
    max_time: MaxTimeOption = None,
    format_: Annotated[RecordFormat, typer.Option("--format", "-f", help="Format of the proof.")] = RecordFormat.RICH,
    config_file: ConfigOption = None,
) -> None:
    """Prove an exported file again, or say what a file of others is.

    A file that `export` wrote names its network, and must compute what that computes. Of a file of others, this says
    whether it is the checkpoint's network, how far off, and which preparation of images fits. It counts what could
    have been folded, and the operations of this tool's own export, which is kept in models/. Exit code 5: its outputs
    differ, or its content was changed. Exit code 4: --latency could not time it.

    \b
    fastvit-bench verify t8.mlpackage
    fastvit-bench verify theirs.onnx --checkpoint fastvit_t8.pth.tar
    """
    from fastvit_bench import backends, files, options

    backend = backends.of_file(path)
    backends.require(backend.name)
    settings = options.load(config_file)
    with files.temporary_files_apart():
        if _is_of_others(path, backend):
            spec = options.one_model(settings, model, checkpoint, weights=weights)
            result = _audit(path, spec, settings, res)
            if latency:
                result = _timed(result, settings, device, max_time)
            _conclude(result, format_)
            return
        for name, value in (("--model", model), ("--res", res), ("--latency", latency or None)):
            if value is not None:
                raise UsageError(f"{path} says itself which network it is, at which size; leave {name} out.")
        _prove(path, checkpoint, backend, settings, weights, format_)


def _is_of_others(path: Path, backend: "Backend") -> bool:
    """Return whether a file can be read and was not written by this tool."""
    from fastvit_bench import files
    from fastvit_bench.exporting import metadata

    try:
        return files.exists(path) and not metadata.is_own(backend.metadata(path))
    except FastViTBenchError:
        return False  # damaged, or changed since this tool wrote it: the proof says so


def _prove(
    path: Path,
    checkpoint: Path | None,
    backend: "Backend",
    settings: "Config",
    weights: str | None,
    format_: RecordFormat,
) -> None:
    """Prove a file of this tool's own, and print the proof of each of its parts."""
    from fastvit_bench.exporting import metadata, pipeline
    from fastvit_bench.render import data, listing

    proofs = pipeline.verify(path, checkpoint, Path(settings.paths.models), weights)
    verbose = _output.verbose()
    if format_ is RecordFormat.JSON:
        sys.stdout.write(data.json({name or str(path): proof for name, proof in proofs.items()}))
    for name, proof in proofs.items() if format_ is RecordFormat.RICH else ():
        what = str(path) if not name else f"{path} ({name})"
        _output.show(listing.proof(name, proof) if verbose else listing.proof(what, proof, verbose=False))
    if metadata.asked_for(path, backend).normalize and format_ is RecordFormat.RICH:
        _output.show(f"{path}: {listing.NORMALIZED}")
    _say_differences(path, backend, settings, checkpoint)
    failed = [proof for proof in proofs.values() if not proof.passed]
    if failed:
        raise ParityError(f"{path} does not compute what its network computes: {failed[0].reason}.")
    if verbose and format_ is RecordFormat.RICH:
        quantised = "INT8 file" in proofs
        _output.show(f"{path}: {'quantised as its scheme says' if quantised else 'proved'}")


def _say_differences(path: Path, backend: "Backend", settings: "Config", checkpoint: Path | None) -> None:
    """Print how a file's preparation of images differs from the one that its model has by settings and checkpoint.

    The proof is by the file's own values, so wrong ones pass it where the graph has them too.
    """
    from fastvit_bench.exporting import metadata, preparation
    from fastvit_bench.records import ModelSpec
    from fastvit_bench.render.text import preparation_value

    asked = metadata.asked_for(path, backend)
    spec = settings.models.get(asked.model)
    if spec is None or spec.variant != asked.variant:
        spec = ModelSpec(name=asked.model, variant=asked.variant)
    if checkpoint is not None:
        spec = msgspec.structs.replace(spec, checkpoint=str(checkpoint))
    for name, (value, expected, source) in preparation.differences(asked, spec).items():
        _output.say(
            f"{path} is for images with {preparation_value(name, value)}, and {asked.model} is for "
            f"{preparation_value(name, expected)} ({source})"
        )


def _audit(path: Path, spec: "ModelSpec", settings: "Config", res: str | None) -> "Audit":
    """Return what a file of others is, beside the network of a checkpoint."""
    from fastvit_bench import config
    from fastvit_bench.auditing import audit as auditing
    from fastvit_bench.auditing import own
    from fastvit_bench.exporting import checkpoints
    from fastvit_bench.network import factory

    if spec.checkpoint is None:
        raise UsageError(
            f"{path} was not written by fastvit-bench: it does not say which network it holds; name its weights with "
            "--checkpoint."
        )
    _output.say_contents([spec])
    sizes = config.shapes(res, (), 1) if res else []
    if len(sizes) > 1:
        raise UsageError(f"--res {res}: a file of others is run at one size; name it, such as 256.")
    identity = checkpoints.weights_of(spec, 0)
    network = checkpoints.load_network(spec.checkpoint, spec.variant, spec.head, spec.sha256, spec.weights)
    size = (sizes[0].height, sizes[0].width) if sizes else None
    with ProgressLine(_output.stderr()) as progress:
        reference = factory.of(network, spec.gelu)
        item = auditing.subject(path, reference, spec.variant, identity, size, spec.resolution)
        result = auditing.audit(item, progress.step)
        progress.step(f"exporting {spec.name} {item.shape.size} beside it")
        return own.beside(result, spec, item, Path(settings.paths.models))


def _timed(result: "Audit", settings: "Config", device: str, max_time: str | None) -> "Audit":
    """Return an audit with the latencies of the file and of this tool's own export of it, which take turns."""
    import msgspec

    from fastvit_bench import options
    from fastvit_bench.comparing import inputs, interleaved
    from fastvit_bench.records.audit import TurnTimes
    from fastvit_bench.sweep import preflight

    plan = options.comparison_plan(settings, None, None, max_time, 0)
    precision = result.precision.partition(",")[0]
    try:
        if not result.file.endswith(".onnx"):
            raise NotComparableError(
                "of files of others only ONNX files take turns with this tool's own; time both packages in Xcode's "
                "Performance tab"
            )
        if not result.own_path:
            raise NotComparableError(f"there is no export of this tool beside it ({result.own_reason})")
        chosen = options.resolve_device(settings.device(device), precision=precision, batch=result.shape.batch)
        chosen, machine = preflight.preflight(chosen, name=settings.machine_name(None))
        options.require_folders(settings, chosen.name)
        with locked(settings, chosen.name), ProgressLine(_output.stderr()) as progress:
            sides = (result.file, result.own_path)
            pairs = inputs.resolve_pair(*sides, sides, settings, chosen, [result.shape], notify=progress.step)
            contest = interleaved.InterleavedRun(
                pairs,
                plan,
                machine,
                timeout_s=settings.sweep.timeout_s,
                same=inputs.allow_any,
                notify=of_blocks(progress, plan.max_time_s),
            )
            (cell,) = interleaved.results(contest, contest.run())
    except FastViTBenchError as error:
        return msgspec.structs.replace(result, times=TurnTimes(device=device, reason=str(error).rstrip(".")))
    times = TurnTimes(
        device=chosen.name,
        file_ms=cell.base_ms,
        own_ms=cell.head_ms,
        ratio=cell.verdict.ratio,
        interval=cell.verdict.interval,
        blocks=len(cell.blocks),
        reason=cell.verdict.reason.rstrip(".") if cell.verdict.ratio is None else "",
    )
    return msgspec.structs.replace(result, times=times)


def _conclude(result: "Audit", format_: RecordFormat) -> None:
    """Print an audit, and raise what it ends with."""
    from fastvit_bench.render import audit as render
    from fastvit_bench.render import data

    if format_ is RecordFormat.JSON:
        sys.stdout.write(data.json(result))
    else:
        for line in render.lines(result, verbose=_output.verbose()):
            _output.show(line)
    if not result.passed:
        raise ParityError(f"{result.file}: {render.verdict(result)}.")
    if result.times is not None and result.times.ratio is None:
        raise NotComparableError(f"{result.file} was not timed on {result.times.device}: {result.times.reason}.")
