"""What tables cost when results have piled up: 100,000 stored measurements, in wall time, processor time and memory.

The measurements are drawn, line for line what `fastvit-bench latency` stores of the seven variants at six sizes: 100
samples, artifact with its proof, traffic and toolchain, machine and its state, some 3.7 KB each. Four stores are made
of them: `one setting` (a run after the other on an unchanged machine, of which the table shows the newest), `upgrades`
(a package changes a hundred times, and every version is a row), `one file` (all of them in one run file) and `all kept`
(every run has versions of its own, so that nothing is left out). `fastvit-bench table` then reads each as a whole
process. Files have just been written, so the disk is not part of it.

The tool's own cache is in a temporary folder. A first call fills it, and does not count.

In `all kept` also `history`, `roofline` and `report` are called, the first two for CSV.

Goals: at most 2 s of wall time and 500 MiB in each store, whatever the format. In `all kept`, where 100,000 figures are
shown, at most 5 s of processor time and 500 MiB in each command.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
from _report import Goal, say, whole
from overhead import tool

from fastvit_bench import files
from fastvit_bench.measuring import machine as machines
from fastvit_bench.network.registry import VARIANTS
from fastvit_bench.records import (
    MICROBENCHMARKS_VERSION,
    SCHEMA,
    Artifact,
    Cell,
    Device,
    DevicePeak,
    Fuse,
    Head,
    Machine,
    MachineState,
    Measurement,
    Method,
    Microbenchmark,
    MicrobenchmarkTime,
    ModelSpec,
    Parity,
    Request,
    Run,
    Shape,
    Traffic,
    Weights,
    Window,
)
from fastvit_bench.store import peaks, runs

WALL_S, MEMORY_MIB = 2.0, 500.0
PROCESSOR_S = 5.0  # where nothing is superseded

SIZES = (224, 256, 384, 512, 768, 1024)
CELLS = [(variant, size) for variant in VARIANTS for size in SIZES]
FORMATS = ("rich", "markdown", "csv", "json")
# what else is called where nothing is superseded
OTHERS: dict[str, tuple[str, ...]] = {
    "history": ("history", "--format", "csv"),
    "roofline": ("roofline", "--format", "csv"),
    "report": ("report", "--force"),
}

DEVICE = Device(name="cpu", backend="onnxruntime", options={"threads": 2})
WEIGHTS = Weights(origin="random", seed=0)
BEGIN = datetime(2020, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Scene:
    """How the measurements lie in their store."""

    name: str
    every: int | None  # runs after which a package has another version; None: never
    one_file: bool = False
    goal: bool = True  # for the seconds of a table; else for those of every command


SCENES = (
    Scene("one setting", None),
    Scene("upgrades", 24),
    Scene("one file", None, one_file=True),
    Scene("all kept", 1, goal=False),
)


@dataclass(frozen=True)
class Found:
    """What one call of the command took."""

    scene: str
    format: str  # of the table, or another command
    rows: int  # of the table
    wall_s: float
    processor_s: float
    peak_mib: float


# --- what is stored ---------------------------------------------------------------------------------------------------


def machine(version: int) -> Machine:
    """A machine whose ONNX Runtime is of a version."""
    return Machine(
        host="0f1e2d3c",
        processor="Example Processor 9000 @ 2.50GHz",
        cores=2,
        memory_mib=24576,
        os="Linux 6.1.0 x86_64",
        python="3.11.7",
        packages={
            "torch": "2.13.0+cpu",
            "onnx": "1.23.2",
            "onnxscript": "0.7.2",
            "onnxruntime": f"1.32.{version}",
            "numpy": "2.4.6",
        },
    )


def artifact(variant: str, size: int) -> Artifact:
    """A file as an export describes it; but for its multiply-accumulates, every variant's counts are those of T8."""
    scale = size**2 / 256**2
    macs = round(VARIANTS[variant].gmacs * 1e9 * scale)
    return Artifact(
        model=variant,
        variant=variant,
        head=Head.CLASSIFIER,
        classes=1000,
        backend="onnxruntime",
        precision="fp32",
        shape=Shape(batch=1, height=size, width=size),
        fused=Fuse.FOLDED,
        weights=WEIGHTS,
        toolchain={
            "fastvit-bench": "0.1.0+92338fea",
            "torch": "2.13.0+cpu",
            "onnx": "1.23.2",
            "onnxscript": "0.7.2",
        },
        path=f"{variant}_{size}_b1_fp32_folded_f9e3f882.onnx",
        sha256=f"{CELLS.index((variant, size)):064x}",
        size_bytes=16_002_761,
        params=3_992_392,
        macs=macs,
        parity=parity(),
        operations={"Conv": 56, "Gelu": 17, "Add": 10, "Concat": 4, "ReduceMean": 2, "Relu": 1, "Mul": 1, "Gemm": 1},
        traffic=Traffic(
            params=3_992_392,
            macs=macs,
            weight_bytes=15_969_600,
            read_bytes=round(52_000_000 * scale),
            written_bytes=round(46_000_000 * scale),
        ),
    )


def parity() -> Parity:
    """A proof with every figure that there is."""
    return Parity(
        reference="unfused PyTorch network in float64, image from N(0, 1)",
        images=4,
        seed=230314189,
        max_abs_error=5.779776725667318e-06,
        relative_error=2.3504843731624323e-06,
        tolerance=0.0001,
        top1_agreement=1.0,
        passed=True,
        how="onnxruntime on this processor",
        rms_error=6.331626919499703e-07,
        cosine=0.9999999999998028,
        snr_db=123.9827178245049,
        range_error=3.582986137490903e-07,
    )


def run(number: int, version: int) -> Run:
    """A run over every cell."""
    started = BEGIN + timedelta(hours=number)
    return Run(
        schema=SCHEMA,
        id=runs.new_id(started, f"{number:06x}"),
        started=started.isoformat(timespec="seconds"),
        tool="0.1.0",
        commit="0123abc",
        dirty=False,
        request=Request(
            device=DEVICE,
            models=tuple(ModelSpec(name=name, variant=name, published=_published(name)) for name in VARIANTS),
            shapes=tuple(Shape(batch=1, height=size, width=size) for size in SIZES),
            fused=Fuse.FOLDED,
            method=Method(),
            seed=0,
            timeout_s=3600.0,
        ),
        cells=tuple(
            Cell(model=variant, shape=Shape(batch=1, height=size, width=size), fused=Fuse.FOLDED, weights=WEIGHTS)
            for variant, size in CELLS
        ),
        machine=machine(version),
    )


def _published(variant: str) -> str:
    """FastViT-T8 of fastvit_t8."""
    return f"FastViT-{variant.removeprefix('fastvit_').upper()}"


def measurements(number: int, version: int, seed: int) -> Iterator[Measurement]:
    """Those of a run: samples that scatter by 1 % around 8 ms at 256 pixels, now and then an outlier."""
    draw = np.random.default_rng((seed, number))
    noise = 1 + 0.01 * np.abs(draw.standard_t(3, size=(len(CELLS), 100)))
    for at, (variant, size) in enumerate(CELLS):
        finished = BEGIN + timedelta(hours=number, seconds=30 * (at + 1))
        yield Measurement(
            finished=finished.isoformat(timespec="seconds"),
            device=DEVICE,
            artifact=artifact(variant, size),
            method=Method(),
            window=Window.COMPUTE,
            clock="time.perf_counter_ns",
            samples_ns=(tuple(np.rint(8e6 * size**2 / 256**2 * noise[at]).astype(int).tolist()),),
            machine=machine(version),
            state=MachineState(
                load_before=0.78, load_after=0.81, clock_mhz_before=2596.1, clock_mhz_after=2596.1, steal_percent=0.0
            ),
            parity=parity(),
            reference_ns=tuple(draw.integers(3_600_000, 3_800_000, 15).tolist()),
        )


def fill(root: Path, scene: Scene, rows: int, seed: int) -> int:
    """Write so many measurements as run files; returns their bytes.

    The store's own writer would wait for the disk after each line.
    """
    folder = root / DEVICE.name
    folder.mkdir(parents=True)
    encode = msgspec.json.Encoder().encode
    written = number = size = 0
    while written < rows:
        version = number // scene.every if scene.every else 0
        each = run(0 if scene.one_file else number, version)
        with (folder / f"{each.id}{runs.SUFFIX}").open("ab") as file:
            if not (scene.one_file and number):
                size += file.write(encode(each) + b"\n")
            for line in measurements(number, version, seed):
                if written < rows:
                    size += file.write(encode(line) + b"\n")
                    written += 1
        number += 1
    peaks.save([peak()], folder)
    return size


def peak() -> DevicePeak:
    """A peak of the machine, without which `roofline` would measure one."""
    arithmetic = Microbenchmark(kind="spatial", precision="fp32", width=128, side=32, depth=4)
    copy = Microbenchmark(kind="copy", precision="fp32", width=3, side=4096, depth=1)
    return DevicePeak(
        probes=MICROBENCHMARKS_VERSION,
        finished=BEGIN.isoformat(timespec="seconds"),
        device=DEVICE,
        machine=machine(0),
        method=Method(warmup=2, runs=5, rounds=20),
        window=Window.COMPUTE,
        clock="time.perf_counter_ns",
        arithmetic=(MicrobenchmarkTime(probe=arithmetic, best_ns=(3_000_000,)),),
        memory=MicrobenchmarkTime(probe=copy, best_ns=(20_000_000,)),
    )


# --- what it takes ----------------------------------------------------------------------------------------------------


def call(folder: Path, scene: Scene, form: str, cache: Path) -> Found:
    """Run `fastvit-bench table`, or another command, in a folder as a process of its own.

    Linux gives a new process the peak of the one that started it, so no peak below this script's own can be told.
    """
    environment = {**os.environ, "COLUMNS": "200", files.CACHE_VARIABLE: str(cache)}
    with tempfile.TemporaryFile() as output:
        start = time.perf_counter()
        words = OTHERS.get(form, ("table", "--format", form))
        process = subprocess.Popen([tool(), *words], cwd=folder, stdout=output, env=environment)
        _, status, used = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise SystemExit(f"error: fastvit-bench {words[0]} ended with exit code {process.returncode}.")
        output.seek(0)
        shown = sum(re.match(rb'[ "model:|\d,]*fastvit', line) is not None for line in output)
    per_mib = 1024 if sys.platform == "linux" else 1024**2  # macOS counts bytes
    return Found(scene.name, form, shown, wall_s, used.ru_utime + used.ru_stime, used.ru_maxrss / per_mib)


def goals(found: Sequence[Found], rows: int) -> list[Goal]:
    """Whether each store is read as quickly and in as little memory as claimed: the worst of its formats decides."""
    judged: list[Goal] = []
    for scene in SCENES:
        members = [each for each in found if each.scene == scene.name]
        for each in members if not scene.goal else ():
            claim = f"{scene.name}, {each.format}: at most {PROCESSOR_S:g} s of processor time and {MEMORY_MIB:g} MiB"
            met = each.processor_s <= PROCESSOR_S and each.peak_mib <= MEMORY_MIB
            judged.append(Goal(claim=claim, met=met, reason=f"{each.processor_s:.1f} s, {each.peak_mib:.0f} MiB"))
        if not members or not scene.goal:
            continue
        wall, most = max(each.wall_s for each in members), max(each.peak_mib for each in members)
        claim = f"{scene.name}: {rows} stored measurements in at most {WALL_S:g} s"
        judged.append(Goal(claim=claim, met=wall <= WALL_S, reason=f"{wall:.2f} s"))
        claim = f"{scene.name}: at most {MEMORY_MIB:g} MiB"
        judged.append(Goal(claim=claim, met=most <= MEMORY_MIB, reason=f"{most:.0f} MiB"))
    return judged


HEADS = ("store", "format or command", "rows shown", "wall s", "processor s", "peak MiB")


def table(found: Sequence[Found]) -> str:
    """A line per store and format, as README.md holds it."""
    lines = [HEADS, ("---", "---", *["--:"] * 4)]
    lines += [
        (
            each.scene,
            each.format,
            str(each.rows),
            f"{each.wall_s:.2f}",
            f"{each.processor_s:.2f}",
            f"{each.peak_mib:.0f}",
        )
        for each in found
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> int:
    """Fill stores and read them; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rows", type=whole, default=100_000, help="measurements in each store (%(default)s)")
    options.add_argument("--stores", nargs="+", choices=[each.name for each in SCENES], help="all of them")
    every = (*FORMATS, *OTHERS)
    options.add_argument("--formats", nargs="+", choices=every, default=every, help=" ".join(every))
    options.add_argument(
        "--blocks", type=whole, default=3, help="calls of each, of which the median counts (%(default)s)"
    )
    options.add_argument("--seed", type=int, default=0, help="of the samples (%(default)s)")
    options.add_argument("--keep", type=Path, metavar="FOLDER", help="leave the stores there, to look at or profile")
    written = options.add_mutually_exclusive_group()
    written.add_argument("--json", action="store_true", help="print every figure as JSON")
    written.add_argument("--markdown", action="store_true", help="print the table for README.md, as without it")
    asked = options.parse_args()
    watch = machines.Watch()
    found: list[Found] = []
    for scene in SCENES:
        if asked.stores and scene.name not in asked.stores:
            continue
        with tempfile.TemporaryDirectory() as name:
            folder = asked.keep / scene.name.replace(" ", "-") if asked.keep else Path(name)
            size = fill(folder / "results", scene, asked.rows, asked.seed)
            say(f"{scene.name}: {asked.rows} measurements, {size / 1e6:.0f} MB")
            for form in (form for form in asked.formats if form in FORMATS or not scene.goal):
                call(folder, scene, form, Path(name, "cache"))
                every_call = (call(folder, scene, form, Path(name, "cache")) for _ in range(asked.blocks))
                calls = sorted(every_call, key=lambda each: each.wall_s)
                found.append(calls[len(calls) // 2])
                say(f"  {form}: {found[-1].wall_s:.2f} s, {found[-1].peak_mib:.0f} MiB")
    judged = goals(found, asked.rows)
    if asked.json:
        document = {"script": "many_rows", "rows": asked.rows, "seed": asked.seed, "calls": [asdict(e) for e in found]}
        document["goals"] = [{"claim": goal.claim, "met": goal.met, "reason": goal.reason} for goal in judged]
        print(json.dumps(document, indent=2))
    else:
        here, load = machines.collect(), watch.state().load_before
        about = f"{here.processor}, {here.cores} cores · {here.os}, Python {here.python} · seed {asked.seed}"
        print(about + (f" · load before {load:.1f}" if load is not None else ""), "", sep="\n")
        print(table(found), "", sep="\n")
        for goal in judged:
            print(f"- Goal: {goal.claim}: {'met' if goal.met else 'MISSED'} ({goal.reason}).")
    return 0 if all(goal.met for goal in judged) else 1


if __name__ == "__main__":
    sys.exit(main())
