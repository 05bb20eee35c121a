"""Options shared by several commands, and the output formats that they can name."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fastvit_bench.cli import _complete
from fastvit_bench.records import Fuse


class TableFormat(StrEnum):
    """Output formats of a table."""

    RICH = "rich"
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"
    LATEX = "latex"


class SeriesFormat(StrEnum):
    """Output formats of a history, a roofline, a study or a list."""

    RICH = "rich"
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"


class VerdictFormat(StrEnum):
    """Output formats of a comparison's verdict."""

    RICH = "rich"
    MARKDOWN = "markdown"
    JSON = "json"


class GeluForm(StrEnum):
    """Ways of computing GELU, as `records.Gelu` has them."""

    ERF = "erf"
    TANH = "tanh"


class RecordFormat(StrEnum):
    """Output formats of a proof."""

    RICH = "rich"
    JSON = "json"


ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="Configuration file. [default: ./benchmark.toml, else the packaged one]"),
]
DeviceOption = Annotated[
    str, typer.Option("--device", "-d", autocompletion=_complete.devices, help="Device, by its name in benchmark.toml.")
]
ModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        autocompletion=_complete.models,
        help="Model of benchmark.toml or glob ('fastvit_*'), an ONNX file, or timm:NAME; repeatable. "
        "[default: models in [sweep]]",
    ),
]
CheckpointOption = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        "-c",
        help="Weight file, index of several files, or folder with one. [default: random weights, see --seed]",
    ),
]
WeightsOption = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="ENTRY",
        help="Which network of a checkpoint that holds several, such as state_dict_ema. "
        "[default: the first that is no average of others]",
    ),
]
BatchOption = Annotated[
    int | None, typer.Option("--batch", "-b", "--batch-size", min=1, help="Images per run. [default: the device's]")
]
PrecisionOption = Annotated[
    str | None,
    typer.Option("--precision", help="Arithmetic of the file: fp32, fp16, bf16 or int8. [default: the device's]"),
]
SchedulerOption = Annotated[
    str | None,
    typer.Option(
        "--scheduler",
        help="Measure on the workers of this Dask scheduler: tls://HOST:PORT or tcp://HOST:PORT. [default: here]",
    ),
]
PlaintextOption = Annotated[
    str | None,
    typer.Option(
        "--plaintext",
        metavar="ADDRESS",
        help="Listen on this address without TLS, though anybody on the network can then read and run everything. "
        "[default: never; 127.0.0.1 needs no permission]",
    ),
]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads. [default: all cores]")]
FuseLevelOption = Annotated[
    Fuse, typer.Option("--fuse", help="How much is computed ahead of time; 'folded' is what to ship.")
]
GeluOption = Annotated[
    GeluForm | None,
    typer.Option(
        "--gelu", help="How the weights were trained: with GELU itself, or its approximation by tanh. [default: erf]"
    ),
]
PadOption = Annotated[
    bool,
    typer.Option(
        "--pad",
        help="Take sides that are no multiple of the network's stride: the file pads them with zeros.",
    ),
]
NormalizeOption = Annotated[
    bool,
    typer.Option("--normalize", help="Encoders: divide the embedding by its L2 norm within the file."),
]
WeightSeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of random weights.")]
MachineOption = Annotated[
    str | None,
    typer.Option(
        "--machine",
        help="Your name for this machine; only figures of one name are compared. "
        "[default: $FASTVIT_BENCH_MACHINE, else name in [machine]; without a name, equal hardware is one machine]",
    ),
]
ResumeOption = Annotated[
    str | None,
    typer.Option(
        "--resume",
        autocompletion=_complete.runs,
        metavar="RUN",
        help="Continue a run: its id, a prefix of it, its file, or 'last'. [default: a new run]",
    ),
]
RunsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        autocompletion=_complete.runs, help="Runs: ids, prefixes, files, or 'last'. [default: all of results/]"
    ),
]
ReferenceOption = Annotated[
    str | None,
    typer.Option(
        "--reference",
        autocompletion=_complete.models,
        help="Model to divide by: also show every figure as a ratio to its figure. [default: none]",
    ),
]
OnlyDevicesOption = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        "-d",
        autocompletion=_complete.devices,
        help="Only figures of this device or glob, repeatable. [default: all]",
    ),
]
OnlyModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model",
        "-m",
        autocompletion=_complete.models,
        help="Only figures of this model or glob ('fastvit_*'), repeatable. [default: all]",
    ),
]
SinceOption = Annotated[
    str | None,
    typer.Option(
        "--since",
        metavar="TIME",
        help="Only figures measured since then: 2026-01-31, or 12h, 30d, 8w ago. [default: all]",
    ),
]
WhereOption = Annotated[
    list[str] | None,
    typer.Option(
        "--where",
        metavar="CONDITION",
        help="Only figures that fit, such as resolution=512, 'batch>=2' or fuse=folded; repeatable, all must fit. "
        "[default: all]",
    ),
]
FormatOption = Annotated[TableFormat, typer.Option("--format", "-f", help="Format of the table.")]
ListFormatOption = Annotated[SeriesFormat, typer.Option("--format", "-f", help="Format of the list.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace an output that this tool did not write.")]
PictureOption = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Also draw a chart into this file (.svg, .png), or write the table into it (.md, .csv, .json, .txt). "
        "[default: none]",
    ),
]
