"""What NVIDIA's parser and builder say of every variant at every size: TensorRT-RTX, ahead of time, without a GPU.

A cell is `fastvit-bench export --target tensorrt-rtx` of one variant at one size: the strongly typed ONNX file with its
proof on the processor, then an engine for a compute capability, in a process and a folder of its own, which is removed.
The seconds are of one build each, with whatever else the machine was doing.

Goal: every file is proved, parsed and built, and neither parser nor builder warns. Exits with 1 when one is not.
"""

import argparse
import multiprocessing
import shutil
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import msgspec
from _report import heading, pixels, report, say, whole

from fastvit_bench.backends._nvidia import engines
from fastvit_bench.backends.tensorrt_rtx import BACKEND, TURING
from fastvit_bench.errors import FastViTBenchError
from fastvit_bench.exporting import checkpoints, pipeline
from fastvit_bench.measuring.machine import Watch
from fastvit_bench.network.registry import VARIANTS
from fastvit_bench.records import Device, Fuse, ModelSpec, Record, Shape

SIZES = (224, 256, 384, 512, 768, 1024)
FREE_MIB = 8192  # on the disk, for one cell: its file, and an engine of 2.9 GB (SA12) or more at 1024 pixels
PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "numpy")


class Cell(Record, frozen=True):
    """What became of one variant at one size. None and empty is what it did not come to."""

    variant: str
    size: str
    failed: str = ""  # why
    largest_error: float | None = None  # over the standard deviation of the reference's outputs
    rms_error: float | None = None  # likewise
    export_s: float | None = None  # export with its proof, the reference in float64 included
    build_s: float | None = None  # parsing and building
    engine_mib: float | None = None
    layers: int | None = None  # that the parser made of the file
    warnings: tuple[str, ...] = ()


def make(variant: str, size: int, asked: argparse.Namespace) -> Cell:
    """Export, prove and build one cell; whatever goes wrong is in it."""
    found = Cell(variant=variant, size=str(size))
    spec = ModelSpec(name=variant, variant=variant, checkpoint=asked.checkpoint)
    device = Device(name="rtx", backend=BACKEND.name, precision="fp16", batch=asked.batch, options=dict(asked.options))
    shape = Shape(batch=asked.batch, height=size, width=size)
    with tempfile.TemporaryDirectory() as name:
        if shutil.disk_usage(name).free < FREE_MIB * 2**20:
            return msgspec.structs.replace(found, failed=f"less than {FREE_MIB} MiB are free in {name}")
        try:
            job = pipeline.job(
                spec, checkpoints.weights_of(spec, asked.seed), shape, Fuse.FOLDED, device, folder=Path(name)
            )
            start = time.perf_counter()
            parity = pipeline.export(job).parity
            export_s = time.perf_counter() - start
            assert parity is not None
            found = msgspec.structs.replace(
                found, largest_error=parity.relative_error, rms_error=parity.rms_error, export_s=export_s
            )
            BACKEND.toolkit()  # importing it is no part of a build
            start = time.perf_counter()
            BACKEND.build(Path(job.path), job.device)
            build_s = time.perf_counter() - start
            engine = engines.read_metadata(BACKEND.engine(Path(job.path), job.device)[0])
        except FastViTBenchError as error:
            return msgspec.structs.replace(found, failed=str(error).replace(name, "."))
        return msgspec.structs.replace(
            found,
            build_s=build_s,
            engine_mib=engine.size_bytes / 2**20,
            layers=sum(engine.layers.values()),
            warnings=engine.warnings,
        )


def alone(variant: str, size: int, asked: argparse.Namespace) -> Cell:
    """The same in a process of its own, which native code may end."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(make, variant, size, asked).result()
        except BrokenProcessPool:
            return Cell(variant=variant, size=str(size), failed="its process was ended")


# --- output -----------------------------------------------------------------------------------------------------------

NUMBERS = ("max / std", "rms / std", "export s", "build s", "engine MiB", "layers", "warnings")
HEADS = ("variant", "size", *NUMBERS, "outcome")


def cells(found: Cell) -> tuple[str, ...]:
    """A row of the table."""
    return (
        found.variant,
        found.size,
        _number(found.largest_error, ".1e"),
        _number(found.rms_error, ".1e"),
        _number(found.export_s, ".0f"),
        _number(found.build_s, ".1f"),
        _number(found.engine_mib, ".0f"),
        _number(found.layers, "d"),
        str(len(found.warnings)),
        found.failed or "ok",
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def markdown(rows: list[Cell]) -> str:
    """The table as README.md holds it."""
    lines = [HEADS, ["---"] * 2 + ["--:"] * len(NUMBERS) + ["---"], *map(cells, rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def text(rows: list[Cell]) -> str:
    """The same for a terminal."""
    table = [HEADS, *map(cells, rows)]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEADS))]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table
    )


def main() -> int:
    """Build the chosen cells; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--models", nargs="+", choices=list(VARIANTS), default=list(VARIANTS), metavar="MODEL", help="variants (all)"
    )
    options.add_argument(
        "--res", nargs="+", type=pixels, default=list(SIZES), help=f"pixels ({' '.join(map(str, SIZES))})"
    )
    options.add_argument("--batch", type=whole, default=8, help="images per run (%(default)s)")
    options.add_argument("--seed", type=int, default=0, help="of random weights (%(default)s)")
    options.add_argument("--checkpoint", help="weights of the one model that is named, in place of random ones")
    options.add_argument("--dynamic", default="", metavar="MIN..MAX", help="files that take every size within (none)")
    options.add_argument("--capability", default=TURING, help="compute capability to build for (%(default)s)")
    written = options.add_mutually_exclusive_group()
    written.add_argument("--json", action="store_true", help="print the cells as JSON, with every warning")
    written.add_argument("--markdown", action="store_true", help="print the table for README.md")
    asked = options.parse_args()
    if asked.checkpoint and len(asked.models) != 1:
        options.error("--checkpoint is of one model; name it with --models")
    lacking = BACKEND.unavailable_reason()
    if lacking:
        options.error(lacking)
    asked.options = {"compute_capability": asked.capability, "dynamic": asked.dynamic}
    watch = Watch()
    found: list[Cell] = []
    for variant in asked.models:
        for size in asked.res:
            found.append(alone(variant, size, asked))
            say("  ".join(cells(found[-1])))
    settings: dict[str, str | int] = {
        "TensorRT-RTX": BACKEND.toolkit().__version__,
        "compute capability": asked.capability,
        "precision": "fp16",
        "batch": asked.batch,
        **({"sizes in a file": asked.dynamic} if asked.dynamic else {}),
        "weights": asked.checkpoint or f"random, seed {asked.seed}",
    }
    about = heading(report("rtx_builds", watch, settings, [], [], packages=PACKAGES))
    met = [cell for cell in found if not cell.failed and not cell.warnings]
    if asked.json:
        print(msgspec.json.format(msgspec.json.encode({"about": about, "cells": found}), indent=2).decode())
    else:
        verdict = "met" if len(met) == len(found) else "MISSED"
        goal = f"Goal: every cell proved, parsed and built without a warning: {verdict} ({len(met)} of {len(found)})."
        print(f"{about}\n\n{markdown(found) if asked.markdown else text(found)}\n\n{'- ' * asked.markdown}{goal}")
    return 0 if len(met) == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
