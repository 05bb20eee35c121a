"""Command `import`: store measurements of Xcode or trtexec as a run."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastvit_bench.cli import _complete, _output
from fastvit_bench.cli._options import ConfigOption, FormatOption, TableFormat
from fastvit_bench.errors import UsageError
from fastvit_bench.records import Shape, Window

if TYPE_CHECKING:
    from fastvit_bench.records import Artifact, ExternalModel


class Source(StrEnum):
    """Tools whose measurements can be imported."""

    XCODE = "xcode"
    TRTEXEC = "trtexec"


# long: declares the options of the command
def import_(
    report: Annotated[
        list[str],
        typer.Argument(
            metavar="[KIND] FILE",
            help="A performance report of Xcode (.mlperf) or the report.json in it. With the KIND trtexec, a file "
            "that `trtexec --exportTimes` wrote.",
        ),
    ],
    device: Annotated[
        str | None,
        typer.Option(
            "--device",
            "-d",
            autocompletion=_complete.devices,
            help="Device of benchmark.toml that was measured. [default: its own name]",
        ),
    ] = None,
    trt_version: Annotated[
        str | None,
        typer.Option(
            "--trt-version",
            help="trtexec: version of TensorRT, such as 10.16; it decides the defaults. [required for trtexec]",
        ),
    ] = None,
    gpu: Annotated[str | None, typer.Option("--gpu", help="trtexec: name of the GPU. [default: the device's]")] = None,
    driver: Annotated[
        str | None, typer.Option("--driver", help="trtexec: version of the GPU's driver. [default: unknown]")
    ] = None,
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
        typer.Option(
            "--window", help="trtexec: compute (GPU Compute Time) or end-to-end (Latency). [default: compute]"
        ),
    ] = None,
    onnx: Annotated[
        Path | None,
        typer.Option(
            "--onnx", help="trtexec: the exported file that was timed; it names the model. [default: none, see --model]"
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="trtexec: name of the model. [default: that of --onnx]")
    ] = None,
    res: Annotated[
        str | None,
        typer.Option("--res", "--img-size", help="trtexec: image size of --model, such as 256. [default: unknown]"),
    ] = None,
    batch: Annotated[
        int | None,
        typer.Option(
            "--batch", "-b", "--batch-size", min=1, help="trtexec: images per run of --model. [default: unknown]"
        ),
    ] = None,
    precision: Annotated[
        str | None, typer.Option("--precision", help="trtexec: arithmetic of --model, such as fp16. [default: unknown]")
    ] = None,
    format_: FormatOption = TableFormat.RICH,
    config_file: ConfigOption = None,
) -> None:
    """Store a report of Xcode, or times of trtexec, as a run.

    Its table is printed. Of a report of Xcode, latencies, load times and the planned placement are stored. Names,
    serial numbers and folders are not. Times of trtexec do not record what was timed, so the options must describe
    it. Options that are left out mean the defaults of that version of trtexec. A file that was imported before is only
    shown again.

    \b
    fastvit-bench import FILE.mlperf --device iphone12pro
    fastvit-bench import trtexec TIMES.json --trt-version 10.16 --onnx FILE
    """
    from fastvit_bench import options
    from fastvit_bench.importers import store_imported, trtexec, trtexec_times, xcode, xcode_report

    kind, file = _kind_of_import(report)
    settings = options.load(config_file)
    profile = None if device is None else settings.device(device)
    models, results = Path(settings.paths.models), Path(settings.paths.results)
    if kind is Source.XCODE:
        trtexec_options = {
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
        for name in (name for name, value in trtexec_options.items() if value is not None):
            raise UsageError(f"{name} means nothing for a report of Xcode; leave it out, or write import trtexec FILE.")
        imported = xcode.from_xcode(xcode_report.read(file), profile, models)
        message = ""
    else:
        if trt_version is None:
            raise UsageError(
                "Times of trtexec mean something only with the version of TensorRT, whose defaults changed; say "
                "--trt-version, such as 10.16."
            )
        times = trtexec_times.read(file, trtexec_times.WARM_UP_MS if warm_up is None else warm_up)
        facts = trtexec.TrtexecFacts(
            made=_timed_by_trtexec(onnx, model, res, batch, precision, models),
            version=trt_version,
            gpu=gpu,
            driver=driver,
            graph=graph,
            spin=spin_wait,
            window=window or Window.COMPUTE,
        )
        imported = trtexec.from_trtexec(times, facts, profile)
        message = trtexec.assumptions(times, imported.measurement)
    path, new = store_imported.store_imported_run(imported, settings.models, results)
    _output.print_table([path], format_)
    if message:
        _output.say(message)
    _output.say(f"{'results' if new else 'imported before'}: {path}")


def _kind_of_import(words: Sequence[str]) -> tuple[Source, Path]:
    """Return the kind of import and its file; a file without a kind is a report of Xcode."""
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
) -> "Artifact | ExternalModel":
    """Return what trtexec timed: the artifact of an exported file, or a model that the options describe."""
    from fastvit_bench.importers import trtexec

    described = {"--model": model, "--res": res, "--batch": batch, "--precision": precision}
    described = [name for name, value in described.items() if value is not None]
    if onnx is not None:
        if described:
            raise UsageError(
                f"--onnx gives the model, its input and its precision; leave out {', '.join(described)}, or --onnx if "
                f"trtexec ran at another precision than the file's."
            )
        return trtexec.timed_file(onnx, models)
    if model is None:
        raise UsageError(
            "The file does not say what was timed; give the exported file with --onnx, or a name with --model."
        )
    if not model.strip():
        raise UsageError("--model needs a name.")
    if (res is None) != (batch is None):
        raise UsageError("--res and --batch say together what was timed; give both, or neither for another input.")
    if res is None or batch is None:
        return trtexec.timed_model(model, None, precision)
    # any size: a model of another source has no sizes that are known
    height, _, width = res.partition("x")
    if not all(side.isascii() and side.isdecimal() and 0 < int(side) < 2**20 for side in (height, width or height)):
        raise UsageError(f"--res {res} is no image size; write one, such as 256 or 384x512 (height x width).")
    return trtexec.timed_model(model, Shape(batch=batch, height=int(height), width=int(width or height)), precision)
