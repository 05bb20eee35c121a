"""The command for what was measured elsewhere: import."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastvit_bench.cli import _screen, _values
from fastvit_bench.cli._options import ConfigOption, Format, FormatOption
from fastvit_bench.errors import UsageError
from fastvit_bench.records import Shape, Window

if TYPE_CHECKING:
    from fastvit_bench.records import Artifact, Foreign


class Source(StrEnum):
    """Whose measurements can be imported."""

    XCODE = "xcode"
    TRTEXEC = "trtexec"


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
    settings = _values.load(config_file)
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
    _screen.print_table([path], format_)
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
