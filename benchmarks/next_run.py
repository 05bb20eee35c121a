"""Whether a printed figure holds for the next run: how often its 95 % interval holds the figure of another run.

Each run is the whole command `fastvit-bench latency`, as a person calls it, in turn with the same command as it was
before: in one process (`processes = 1`), and at any speed. With `--bursts` a second process loads a core in bursts.
With `--folder` the runs are kept, and those of earlier calls count too, so that hours can be measured in pieces.

Goals, of the figures without a warning: the interval holds another's in at least 90 % of pairs, at a mean width of at
most 5 %; of the figures made at less than 0.85 of the machine's best, at least 95 % are flagged. Exits with 1 where one
is missed.
"""

import argparse
import itertools
import json
import math
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from _report import pixels, say, whole
from gate import BURSTS

from fastvit_bench import files
from fastvit_bench.config import FILE_NAME
from fastvit_bench.records import Measurement
from fastvit_bench.store import runs, speeds

HELD, WIDTH, FLAGGED, CLEARLY_SLOW = 0.90, 0.05, 0.95, 0.85
WAYS = {"spread over processes": 4, "in one process": 1}


def measure(folder: Path, models: Sequence[str], sizes: Sequence[int], processes: int, wait: str = "") -> None:
    """Run the command once, waiting so long for the machine's usual speed; `SystemExit` where it fails."""
    packaged = files.find(FILE_NAME).read_text(encoding="utf-8")
    configuration = folder / f"processes-{processes}.toml"
    lines = (f"processes = {processes}" if line.startswith("processes =") else line for line in packaged.splitlines())
    configuration.write_text("\n".join(lines), encoding="utf-8")
    words = [word for model in models for word in ("--model", model)]
    command = [sys.executable, "-m", "fastvit_bench.cli", "latency", "--config", str(configuration)]
    command += ["--wait", wait] if wait else ["--any-speed"]
    done = subprocess.run(
        [*command, *words, "--res", ",".join(map(str, sizes))], cwd=folder, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"error: {done.stderr.strip().splitlines()[-1]}")


def kept(folder: Path) -> dict[tuple[str, str], list[Measurement]]:
    """The figures of all runs in the folder, by cell and way; the run that made the files is none of them."""
    way_of = {processes: way for way, processes in WAYS.items()}
    figures: dict[tuple[str, str], list[Measurement]] = {}
    for path in runs.all_runs(folder / "results")[1:]:
        for figure in runs.read(path).measurements:
            assert figure.shape
            figures.setdefault(
                (f"{figure.artifact.model} {figure.shape.size}", way_of[figure.method.processes]), []
            ).append(figure)
    return figures


def summary(figures: Sequence[Measurement], best_ns: int) -> dict[str, float | int]:
    """What the figures of one cell and way show, all of them against the best speed known in the end."""
    speed = [best_ns / (figure.reference_median_ns or math.inf) for figure in figures]
    plain = [figure for figure in figures if not figure.warnings and figure.interval_ms]
    pairs = [
        figure.interval_ms.low <= other.figure_ms <= figure.interval_ms.high
        for figure, other in itertools.permutations(plain, 2)
        if figure.interval_ms
    ]
    widths = [(f.interval_ms.high - f.interval_ms.low) / f.figure_ms for f in plain if f.interval_ms]
    slow = [bool(f.warnings) for f, share in zip(figures, speed, strict=True) if share < CLEARLY_SLOW]
    return {
        "runs": len(figures),
        "without a warning": len(plain),
        "held": statistics.fmean(pairs) if pairs else math.nan,
        "width": statistics.fmean(widths) if widths else math.nan,
        "slow": len(slow),
        "slow and flagged": statistics.fmean(slow) if slow else math.nan,
    }


def main() -> int:
    """Measure and print; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--models", nargs="+", default=["fastvit_t8", "fastvit_sa12"], help="(%(default)s)")
    options.add_argument("--res", type=pixels, nargs="+", default=[224, 256], help="pixels (%(default)s)")
    options.add_argument("--runs", type=whole, default=60, help="calls of each command (%(default)s)")
    options.add_argument(
        "--wait", default="60s", metavar="TIME", help="how long a command waits for the usual speed (%(default)s)"
    )
    options.add_argument("--bursts", action="store_true", help="a second process loads one core meanwhile")
    options.add_argument(
        "--folder", type=Path, metavar="DIR", help="keep the runs there, and count those of earlier calls"
    )
    written = options.add_mutually_exclusive_group()
    written.add_argument("--json", action="store_true", help="print the figures as JSON")
    written.add_argument("--markdown", action="store_true", help="print the table, as without it")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = (asked.folder or Path(temporary)) / ("bursts" if asked.bursts else "quiet")
        folder.mkdir(parents=True, exist_ok=True)
        if not runs.all_runs(folder / "results"):
            measure(folder, asked.models, asked.res, 1)  # exports, and a first look at the machine's speed
        if asked.bursts:
            loader = subprocess.Popen([sys.executable, "-c", BURSTS])
            stack.callback(loader.wait)
            stack.callback(loader.kill)
        for number in range(asked.runs):
            for way, processes in WAYS.items():
                say(f"run {number + 1} of {asked.runs}, {way}")
                measure(folder, asked.models, asked.res, processes, asked.wait if processes > 1 else "")
        cells = kept(folder)
        machine = next(iter(cells.values()))[0].machine
        best = speeds.load(folder / "results", machine).best_ns
    assert best
    rows = {key: summary(figures, best) for key, figures in cells.items()}
    if asked.json:
        print(json.dumps([{"cell": cell, "way": way, **row} for (cell, way), row in rows.items()], indent=1))
    else:
        print("| cell | runs | without a warning | hold another's figure | mean width | slow | of them flagged |")
        print("| --- | --- | --: | --: | --: | --: | --: |")
        for (cell, way), row in rows.items():
            share = [f"{100 * row[name]:.1f} %" for name in ("held", "width", "slow and flagged")]
            print(
                f"| {cell} | {way} | {row['without a warning']} of {row['runs']} | {share[0]} | {share[1]} "
                f"| {row['slow']} | {share[2]} |"
            )
    missed = [
        cell
        for (cell, way), row in rows.items()
        if WAYS[way] > 1
        and not (
            row["held"] >= HELD and row["width"] <= WIDTH and (not row["slow"] or row["slow and flagged"] >= FLAGGED)
        )
    ]
    met = f"MISSED by {', '.join(missed)}" if missed else "met"
    print(f"- Goal: the figures hold for the next run: {met}.", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
