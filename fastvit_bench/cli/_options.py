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
    Path | None, typer.Option("--checkpoint", "-c", help="Weight file. [default: random weights, see --seed]")
]
BatchOption = Annotated[
    int | None, typer.Option("--batch", "-b", "--batch-size", min=1, help="Images per run. [default: the device's]")
]
PrecisionOption = Annotated[
    str | None, typer.Option("--precision", help="Arithmetic of the file: fp32, fp16 or bf16. [default: the device's]")
]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads. [default: all cores]")]
FuseLevelOption = Annotated[
    Fuse, typer.Option("--fuse", help="How much is computed ahead of time; 'folded' is what to ship.")
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
