"""What the tool costs beside the work: a whole sweep over its exports and runs, and the start of a command.

The sweep is `fastvit-bench latency` in an empty folder, from the start of its process to the end. Its wall time is set
against the time spent in exports and in warm-up and timed runs. The same sweep again, with everything exported already,
is shown beside it without a goal: long exports hide what the rest costs. Starts are whole processes, turn by turn with
`python -c "import typer"`, the least that a command line of this kind can take.

Goals: wall time at most 1.25 times the work; a start at most 3 times the bare one. Exits with 1 when one is missed.
"""

import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from _interleave import Ratio, command, compare, interleave
from _report import Goal, finish, number, parser, report, say, say_ratio, ticker, whole

from fastvit_bench.exporting import metadata
from fastvit_bench.measuring.machine import Watch
from fastvit_bench.records import Measurement, Record
from fastvit_bench.store import runs

SWEEP = 1.25
START = 3.0

WALL, WORK, RUNS = "whole sweep", "exports and runs", "runs alone"
BARE = "import typer"
PROGRESS = ("exporting ", "building ", "timing ", "waiting ")  # begin lines that no size is done with


class Sweep(Record, frozen=True):
    """Where the wall time of a sweep went."""

    sizes: int
    wall_s: float
    exports_s: float  # the exporting process's start and the proof of every file included
    runs_s: float  # warm-up and timed runs


def tool() -> str:
    """The console script that belongs to this interpreter."""
    suffix = ".exe" if sys.platform == "win32" else ""
    script = Path(sysconfig.get_path("scripts")) / f"fastvit-bench{suffix}"
    if not script.exists():
        raise SystemExit("error: fastvit-bench is not installed for this Python; run: pip install -e .")
    return str(script)


def run_sweep(words: Sequence[str], folder: Path) -> Sweep:
    """Run `fastvit-bench latency` in a folder and find out where its time went.

    The tool says when the work begins and when each size is done, a line each on standard error; those lines are
    stamped as they arrive, and nothing is polled meanwhile. A file's side-car is written when its proof is done, so the
    time of an export lies between the line before it and the modification of the side-car. A side-car that is older
    than that line is of an earlier sweep, and nothing was exported.
    """
    stamps_ns: list[int] = []
    said: list[str] = []
    start = time.perf_counter()
    with subprocess.Popen(
        [tool(), "latency", *words], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith(PROGRESS):
                continue
            stamps_ns.append(time.time_ns())
            said.append(line)
            say(f"  {line.rstrip()}")
    wall_s = time.perf_counter() - start
    if process.returncode:
        raise SystemExit(f"error: the sweep ended with exit code {process.returncode}: {''.join(said[-1:]).strip()}")
    measurements = runs.read(runs.all_runs(folder / "results")[-1]).measurements
    # the plan, a line for each size, and where the results are
    if len(said) != len(measurements) + 2:
        raise SystemExit(f"error: the sweep said {len(said)} lines for {len(measurements)} sizes: the stamps are off.")
    exports_ns = sum(
        max(0, sidecar(folder, measurement).stat().st_mtime_ns - before)
        for before, measurement in zip(stamps_ns[: len(measurements)], measurements, strict=True)
    )
    return Sweep(
        sizes=len(measurements),
        wall_s=wall_s,
        exports_s=exports_ns / 1e9,
        runs_s=sum(map(run_seconds, measurements)),
    )


def sidecar(folder: Path, measurement: Measurement) -> Path:
    """The file that is written when a measurement's artifact has been exported and proved."""
    artifact = measurement.artifact
    return metadata.metadata_path(folder / "models" / artifact.model / artifact.path)


def run_seconds(measurement: Measurement) -> float:
    """Seconds in all runs of a measurement; the warm-up, which is not recorded, at the pace of the timed ones."""
    method = measurement.method
    return sum(map(sum, measurement.samples_ns)) / 1e9 * (method.warmup + method.runs) / method.runs


def sweep_ratio(sweep: Sweep) -> Ratio:
    """Wall time over the work."""
    exported = sweep.exports_s > 0
    work_s = sweep.exports_s + sweep.runs_s
    return Ratio(
        what=f"{sweep.sizes} sizes{'' if exported else ', exported before'}",
        side=WALL,
        base=WORK if exported else RUNS,
        side_ms=sweep.wall_s * 1e3,
        base_ms=work_s * 1e3,
        ratio=sweep.wall_s / work_s,
        interval=None,
        blocks=1,
    )


def spent(sweep: Sweep) -> str:
    """Where the seconds went, in a sentence."""
    rest_s = sweep.wall_s - sweep.exports_s - sweep.runs_s
    return (
        f"A sweep took {sweep.wall_s:.1f} s: exports with their proofs {sweep.exports_s:.1f} s, warm-up and timed runs "
        f"{sweep.runs_s:.1f} s, everything else {rest_s:.1f} s."
    )


def judge(ratios: Sequence[Ratio]) -> list[Goal]:
    """Whether the sweep and the starts cost as little as claimed; of what is compared with something else, nothing."""
    limits = {WORK: SWEEP, BARE: START}
    return [
        Goal(
            claim=f"{ratio.side} at most {limits[ratio.base]} times {ratio.base}",
            met=ratio.ratio <= limits[ratio.base],
            reason=number(ratio),
        )
        for ratio in ratios
        if ratio.base in limits
    ]


def main() -> int:
    """Time a sweep, the same again, and many starts; returns the exit code."""
    options = parser(__doc__, blocks=21, runs=None)
    options.add_argument("--res", help="sizes of the sweep, as fastvit-bench latency takes them (its default grid)")
    options.add_argument("--model", help="model of the sweep (the tool's default)")
    options.add_argument("--runs", type=whole, help="timed runs of a size (the tool's default)")
    asked = options.parse_args()
    given = {"--res": asked.res, "--model": asked.model, "--runs": asked.runs, "--seed": asked.seed}
    words = [word for name, value in given.items() if value is not None for word in (name, str(value))]
    watch = Watch()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        say(f"fastvit-bench latency {' '.join(words)}")
        sweeps = [run_sweep(words, folder), run_sweep(words, folder)]
        ratios = [sweep_ratio(sweep) for sweep in sweeps]
        starts = {
            "fastvit-bench --help": command([tool(), "--help"], folder),
            "fastvit-bench devices": command([tool(), "devices"], folder),
            BARE: command([sys.executable, "-c", "import typer"], folder),
        }
        blocks = interleave("start", starts, asked.blocks, asked.seed, ticker("starts"))
    ratios += [compare(blocks, side, BARE) for side in starts if side != BARE]
    for ratio in ratios:
        say_ratio(ratio)
    remarks = [spent(sweep) for sweep in sweeps]
    settings = {"sweep": " ".join(words), "starts per command": asked.blocks}
    return finish(
        report("overhead", watch, settings, ratios, [blocks], judge(ratios), remarks, packages=["typer"]), asked
    )


if __name__ == "__main__":
    sys.exit(main())
