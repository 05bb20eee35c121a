"""Options that several commands have, each declared once, and the formats they can name."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fastvit_bench.records import Fuse


class Format(StrEnum):
    """How a table is written."""

    RICH = "rich"
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"
    LATEX = "latex"


class SeriesFormat(StrEnum):
    """How a history or a roofline is written."""

    RICH = "rich"
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"


ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", help="Configuration file. [default: ./benchmark.toml, else the packaged one]"),
]
DeviceOption = Annotated[str, typer.Option("--device", "-d", help="Device of benchmark.toml.")]
ModelsOption = Annotated[
    list[str] | None,
    typer.Option("--model", "-m", help="Model, repeatable; globs such as 'fastvit_*' work. [default: of [sweep]]"),
]
CheckpointOption = Annotated[
    Path | None, typer.Option("--checkpoint", "-c", help="Weight file. Without one, weights are random by --seed.")
]
BatchOption = Annotated[
    int | None, typer.Option("--batch", "-b", "--batch-size", min=1, help="Images per run. [default: the device's]")
]
PrecisionOption = Annotated[
    str | None, typer.Option("--precision", help="Of the file's arithmetic: fp32 or fp16. [default: the device's]")
]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="Threads. [default: all cores]")]
FuseLevelOption = Annotated[Fuse, typer.Option("--fuse", help="none, fused or folded.")]
WeightSeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of random weights.")]
MachineOption = Annotated[
    str | None,
    typer.Option(
        "--machine",
        help="Your name for this machine; figures of other names are not compared. "
        "[default: $FASTVIT_BENCH_MACHINE, else of [machine], else machines of like hardware are one]",
    ),
]
ResumeOption = Annotated[
    str | None, typer.Option("--resume", help="Continue a run: its id, a prefix of it, its file, or 'last'.")
]
RunsArgument = Annotated[
    list[str] | None, typer.Argument(help="Runs: ids, prefixes, files, or 'last'. [default: all of results/]")
]
ReferenceOption = Annotated[
    str | None, typer.Option("--reference", help="Model that every figure is also given as a ratio to.")
]
FormatOption = Annotated[Format, typer.Option("--format", "-f", help="How the table is written.")]
PictureOption = Annotated[
    Path | None, typer.Option("--output", "-o", help="Also draw them into this file (.svg or .png).")
]
