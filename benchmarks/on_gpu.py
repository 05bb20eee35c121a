"""Everything CUDA that this project can do, on a real NVIDIA GPU, in at most nine minutes.

Each step is a process of its own with a limit, and steps stand in the order of their worth (`--list`). Time that a step
does not need is left to those after it; a step that no longer fits is left out, and the page says so. After each step
report.json and report.md in the output folder tell what ran, what failed and how, with figures and their intervals.
The run files of `fastvit-bench` lie beside them.

On a machine without a network, `on_gpu_wheels.py unpack` comes first. What cannot run is skipped with the reason.
Exit code 0 where everything that ran held, 1 where something did not, 6 without a GPU.
"""

import argparse
import contextlib
import importlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from on_gpu_wheels import ROOT, SITES, WORK

BUDGET_S = 540.0
GRACE_S = 3.0  # between asking a step to end and ending it
RESERVE_S = 10.0  # of the budget, for ending the last step and for the pages
LOG_LINES = 20
PACKAGES = (
    *("torch", "triton", "cuda-bindings", "pycuda", "nvidia-ml-py", "numpy", "onnx", "onnxruntime", "onnxruntime-gpu"),
    *("tensorrt", "tensorrt-rtx-cu13-libs"),
)
REFERENCE = ROOT / "results" / "gpu-reference"


@dataclass
class Result:
    """A step as it ended."""

    name: str
    shows: str
    outcome: str  # passed, missed, failed, stopped, skipped or dropped
    reason: str = ""
    seconds: float = 0.0
    limit_s: float = 0.0
    figures: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    goals: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    notes: list[str] = field(default_factory=list[str])
    latencies: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    comparisons: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    log: list[str] = field(default_factory=list[str])  # its last lines, where it did not pass


@dataclass
class Report:
    """The whole of `report.json`."""

    script: str
    date: str
    budget_s: float
    seconds: float
    small: bool  # figures of such a run mean nothing
    facts: dict[str, str]  # card, driver, versions, machine
    steps: list[Result]


# --- time -------------------------------------------------------------------------------------------------------------

Start = Callable[[Any, float], Result]  # runs a step for at most so many seconds


def run_all(
    steps: Sequence[Any],
    budget_s: float,
    start: Start,
    keep: Callable[[Sequence[Result], float], None],
    known: Mapping[str, Result] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> list[Result]:
    """Run the steps in order as far as the budget goes; `keep` gets all results after each, and the seconds by then.

    A step is begun if as much is left as it is likely to take, and has its own limit or what is left, if that is less.
    `known` results, of an earlier call, take their steps' places.
    """
    begun = clock()
    results: list[Result] = []
    for step in steps:
        left = budget_s - RESERVE_S - (clock() - begun)
        if known and step.name in known:
            results.append(known[step.name])
        elif left < step.likely_s:
            reason = f"{max(0.0, left):.0f} s of {budget_s:.0f} were left, and it takes about {step.likely_s:.0f}"
            results.append(Result(step.name, step.shows, "dropped", reason, limit_s=step.limit_s))
        else:
            results.append(start(step, min(step.limit_s, left)))
        keep(results, clock() - begun)
    return results


def start_step(step: Any, limit_s: float, out: Path, words: Sequence[str]) -> Result:
    """Run a step in a process group of its own, and read what it has left."""
    shutil.rmtree(out / "runs" / step.name, ignore_errors=True)  # of an earlier call
    log = out / "logs" / f"{step.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    kept = out / "steps" / f"{step.name}.json"
    kept.unlink(missing_ok=True)
    command = [sys.executable, str(Path(__file__).resolve()), "--step", step.name, "--out", str(out), *words]
    begun = time.monotonic()
    with log.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment(step.site), stdin=subprocess.DEVNULL,
            stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            code: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end_group(process)
    seconds = time.monotonic() - begun
    result = Result(step.name, step.shows, "failed", seconds=seconds, limit_s=limit_s)
    read_record(result, kept)
    if code is None:
        result.outcome, result.reason = "stopped", f"it took longer than {limit_s:.0f} s"
    elif result.outcome == "unfinished":
        result.outcome, result.reason = "failed", f"its process ended with exit code {code}"
    if result.outcome not in ("passed", "skipped"):
        result.log = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
    return result


def end_group(process: "subprocess.Popen[bytes]") -> None:
    """End a step and whatever it has started: politely, then by force; returns once none of it runs."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        until = time.monotonic() + GRACE_S
        while _alive(process) and time.monotonic() < until:
            time.sleep(0.02)


def _alive(process: "subprocess.Popen[bytes]") -> bool:
    """Whether the group that a process began has members."""
    process.poll()  # of one that has ended, nothing stays once it is asked for
    try:
        os.killpg(process.pid, 0)
    except ProcessLookupError:
        return False
    return True


def environment(site: str) -> dict[str, str]:
    """Of a step: it finds this tree and the unpacked wheels."""
    folders = [*dict.fromkeys((str(SITES[site]), str(ROOT), str(SITES["base"])))]
    before = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([*before, *folders]), "PYTHONUNBUFFERED": "1"}


# --- what a step leaves -----------------------------------------------------------------------------------------------


def read_record(result: Result, kept: Path) -> None:
    """Put what a step has written down into its result; a step that was cut off before has written nothing."""
    try:
        record = json.loads(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        result.outcome = "unfinished"
        return
    for name, value in record.items():
        setattr(result, name, value)


def read_runs(result: Result, folder: Path) -> None:
    """Put the figures of a step's run files and comparisons into its result, also where the step was stopped."""
    from fastvit_bench.comparing.formats import json_document
    from fastvit_bench.errors import FastViTBenchError
    from fastvit_bench.records import Failure, Measurement
    from fastvit_bench.store import runs

    for path in runs.all_runs(folder):
        try:
            lines = runs.read(path).lines
        except FastViTBenchError as error:  # what other files hold is as good as before
            result.notes.append(str(error))
            continue
        for line in lines:
            if isinstance(line, Measurement):
                result.latencies.append(_latency(line))
            elif isinstance(line, Failure):
                result.latencies.append({"what": line.cell.label, "device": path.parent.name, "failed": line.reason})
    for path in sorted(folder.glob("*/*.json")):
        try:
            comparison = json_document.read(path)
        except FastViTBenchError as error:
            result.notes.append(str(error))
            continue
        for cell in comparison.cells:
            interval = cell.verdict.interval
            result.comparisons.append(
                {
                    "what": cell.name,
                    "base": Path(comparison.base).name,
                    "head": Path(comparison.head).name,
                    "base_ms": cell.base_ms,
                    "head_ms": cell.head_ms,
                    "ratio": cell.verdict.ratio,
                    "low": interval.low if interval else None,
                    "high": interval.high if interval else None,
                    "blocks": cell.verdict.blocks,
                    "outcome": str(cell.verdict.outcome),
                    "reason": cell.verdict.reason,
                }
            )


def _latency(measurement: Any) -> dict[str, Any]:
    """A measurement as a row."""
    interval, options, artifact = measurement.interval_ms, measurement.device.options, measurement.artifact
    settings = [name for name in ("graph", "transfers") if options.get(name)]
    settings += [
        f"{name} {options[name]}" for name in ("sync", "compile", "provider") if options.get(name, "none") != "none"
    ]
    return {
        "what": f"{artifact.model} {artifact.shape.size} b{artifact.shape.batch}",
        "device": measurement.device.name,
        "how": f"{artifact.backend} {artifact.precision} {artifact.fused} {artifact.head}: {', '.join(settings)}",
        "ms": measurement.figure_ms,
        "low": interval.low if interval else None,
        "high": interval.high if interval else None,
        "runs": sum(map(len, measurement.samples_ns)),
        "window": str(measurement.window),
        "error": measurement.parity.relative_error if measurement.parity else None,
        "allowed": measurement.parity.tolerance if measurement.parity else None,
        "warnings": measurement.warnings,
    }


def facts() -> dict[str, str]:
    """The card, its driver, and what runs on it."""
    from fastvit_bench import backends
    from fastvit_bench.backends._nvidia import cuda
    from fastvit_bench.measuring import machine as machines
    from fastvit_bench.measuring.git import current_commit

    driver = cuda.probe()
    machine = machines.collect()
    packages = backends.installed(PACKAGES)
    with contextlib.chdir(ROOT):
        tree = current_commit()
    return {
        "card": ", ".join(gpu.name for gpu in driver.gpus),
        "compute capability": driver.gpus[0].compute_capability,
        "memory of the card": f"{driver.gpus[0].memory_mib} MiB",
        "driver": driver.version,
        "CUDA of the driver": driver.cuda,
        "processor": f"{machine.processor}, {machine.cores} cores",
        "system": f"{machine.os}, Python {machine.python}",
        "packages": ", ".join(f"{name} {version}" for name, version in packages.items()),
        "commit": f"{tree.commit or 'not known'}{' with changes' if tree.dirty else ''}",
    }


# --- the page ---------------------------------------------------------------------------------------------------------


def write(report: Report, out: Path) -> None:
    """Both pages, each replaced as a whole."""
    for name, text in (("report.json", json.dumps(asdict(report), indent=1)), ("report.md", page(report))):
        draft = out / f".{name}"
        draft.write_text(without_folders(text) + "\n", encoding="utf-8")
        draft.replace(out / name)


def without_folders(text: str) -> str:
    """Return a text with the paths of this tree and this Python cut short: where they lay says nothing elsewhere."""
    cuts = {f"{ROOT}{os.sep}": "", sys.executable: "python", f"{sysconfig.get_path('purelib')}{os.sep}": ""}
    for path in sorted(cuts, key=len, reverse=True):  # an environment often lies within the tree
        text = text.replace(path, cuts[path])
    return text


def page(report: Report) -> str:
    """The report for a person."""
    steps = report.steps
    counts = {
        outcome: sum(step.outcome == outcome for step in steps) for outcome in dict.fromkeys(s.outcome for s in steps)
    }
    lines = [f"# On {report.facts['card']}", ""]
    if report.small:
        lines += ["**A small run: it shows that the steps work. Its figures mean nothing.**", ""]
    lines += [f"- {name}: {value}" for name, value in report.facts.items()]
    lines += [
        f"- {report.date}, `benchmarks/{report.script}.py`, {report.seconds:.0f} of {report.budget_s:.0f} s",
        f"- steps: {', '.join(f'{count} {outcome}' for outcome, count in counts.items())}",
        "",
    ]
    lines += _table(
        "Steps",
        ("step", "outcome", "s", "what it shows, or why not"),
        [(s.name, s.outcome, f"{s.seconds:.0f}", s.reason or s.shows) for s in steps],
    )
    lines += _table(
        "Latencies, ms per batch",
        ("step", "what", "device", "how", "median", "95 % interval", "runs", "error, allowed", "remarks"),
        [
            (
                step.name, row["what"], row["device"], row.get("how", ""), _number(row.get("ms")), _bracket(row),
                str(row.get("runs", "")), _error(row), row.get("failed") or "; ".join(row["warnings"]),
            )
            for step in steps
            for row in step.latencies
        ],
    )  # fmt: skip
    lines += _table(
        "Comparisons, head over base",
        ("step", "what", "base ms", "head ms", "ratio", "95 % interval", "blocks", "verdict"),
        [
            (
                step.name, f"{row['what']}: {row['base']}, {row['head']}", _number(row["base_ms"]),
                _number(row["head_ms"]), _number(row["ratio"]), _bracket(row), str(row["blocks"]), row["outcome"],
            )
            for step in steps
            for row in step.comparisons
        ],
    )  # fmt: skip
    lines += _table(
        "Other figures",
        ("step", "what", "figure", "95 % interval", "remark"),
        [
            (step.name, row["what"], f"{_number(row['value'])} {row['unit']}".strip(), _bracket(row), row["note"])
            for step in steps
            for row in step.figures
        ],
    )
    lines += _table(
        "Goals",
        ("step", "goal", "met", "what decided"),
        [
            (step.name, goal["claim"], "yes" if goal["met"] else "**NO**", goal["reason"])
            for step in steps
            for goal in step.goals
        ],
    )
    remarks = [f"- {step.name}: {note}" for step in steps for note in step.notes]
    lines += ["## Remarks", "", *remarks, ""] if remarks else []
    for step in steps:
        if step.log:
            lines += [f"## The end of the log: {step.name}, {step.outcome}", "", "```", *step.log, "```", ""]
    return "\n".join(lines).rstrip()


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table below its heading; nothing without rows."""
    if not rows:
        return []
    cells = [[cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows]
    body = [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *cells)]
    return [f"## {title}", "", *body, ""]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _bracket(row: Mapping[str, Any]) -> str:
    low, high = row.get("low"), row.get("high")
    return "" if low is None or high is None else f"[{low:.4g}, {high:.4g}]"


def _error(row: Mapping[str, Any]) -> str:
    return "" if row.get("error") is None else f"{row['error']:.1e}, {row['allowed']:.0e}"


# --- the command ------------------------------------------------------------------------------------------------------


def main(words: Sequence[str] | None = None) -> int:
    """Run the steps, or one of them; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, metavar="DIR", help="of the report (results/gpu-reference/CARD)")
    options.add_argument("--only", nargs="+", metavar="STEP", help="run these steps and no others")
    options.add_argument("--list", action="store_true", help="name the steps and run none")
    options.add_argument("--budget", type=float, default=BUDGET_S, metavar="S", help="seconds for all (%(default).0f)")
    options.add_argument(
        "--resume", action="store_true", help="keep what has passed by the report in DIR, run the rest"
    )
    options.add_argument(
        "--limits", type=float, default=1.0, metavar="FACTOR", help="multiply the steps' limits (%(default).0f)"
    )
    options.add_argument("--small", action="store_true", help="tiny images and few runs, to try the steps themselves")
    options.add_argument(
        "--files", type=Path, default=WORK / "models", metavar="DIR", help="of exported files (build/on_gpu/models)"
    )
    options.add_argument("--step", help=argparse.SUPPRESS)  # of the process of a step
    arguments = options.parse_args(words)
    sys.path[1:1] = [str(ROOT), str(SITES["base"])]
    try:
        steps = importlib.import_module("_gpu_steps")
        lacking = None if importlib.util.find_spec("torch") else "torch"
    except ModuleNotFoundError as error:
        lacking = error.name or str(error)
    if lacking:
        way = "install PyTorch for CUDA" if lacking == "torch" else "run: python benchmarks/on_gpu_wheels.py unpack"
        print(f"error: {lacking} is not here; {way}.", file=sys.stderr)
        return 6
    unknown = set(arguments.only or ()) - {step.name for step in steps.STEPS}
    if unknown:
        known = ", ".join(step.name for step in steps.STEPS)
        options.error(f"there is no step {', '.join(sorted(unknown))}; there are {known}")
    if arguments.list:
        for step in steps.STEPS:
            print(f"{step.name:<14} about {step.likely_s:3.0f} s, at most {step.limit_s:3.0f} s  {step.shows}")
        return 0
    if arguments.step:
        (step,) = (step for step in steps.STEPS if step.name == arguments.step)
        steps.run(step, arguments.out, arguments.files, steps.SMALL if arguments.small else steps.FULL)
        return 0
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the step at work is ended too
    try:
        return everything(steps, arguments)
    except KeyboardInterrupt:
        print("interrupted; what has run is in the report, and --resume goes on", file=sys.stderr)
        return 130


def everything(steps: Any, arguments: argparse.Namespace) -> int:
    """Run the chosen steps on this machine's card; returns the exit code."""
    from fastvit_bench.backends._nvidia import cuda
    from fastvit_bench.errors import UnavailableError

    try:
        card = cuda.probe().gpus[0]
    except UnavailableError as error:
        count = len(arguments.only or steps.STEPS)
        print(
            f"on_gpu.py would run {count} step{'s' * (count != 1)} on an NVIDIA GPU in at most "
            f"{arguments.budget:.0f} s and write a report, and there is none here: {error}",
            file=sys.stderr,
        )
        return error.exit_code
    out = (arguments.out or REFERENCE / steps.card_slug(card.name)).resolve()
    known: dict[str, Result] = {}
    if (out / "report.json").exists():
        before = json.loads((out / "report.json").read_text(encoding="utf-8"))
        if not arguments.resume:
            print(f"error: {out} holds a report already; say --resume to go on with it, or --out DIR.", file=sys.stderr)
            return 2
        if (before["facts"]["card"].split(", ")[0], before["small"]) != (card.name, arguments.small):
            print(f"error: the report in {out} is of another card or scale; say --out DIR.", file=sys.stderr)
            return 2
        earlier = [Result(**step) for step in before["steps"]]
        # without names, what has not passed is tried again
        wanted = arguments.only or [result.name for result in earlier if result.outcome != "passed"]
        known = {result.name: result for result in earlier if result.name not in wanted}
    plan = [replace(step, limit_s=step.limit_s * arguments.limits) for step in steps.STEPS]
    chosen = [step for step in plan if not arguments.only or step.name in {*arguments.only, *known}]
    out.mkdir(parents=True, exist_ok=True)
    report = Report(
        "on_gpu", datetime.now(UTC).isoformat(timespec="seconds"), arguments.budget, 0.0, arguments.small, facts(), []
    )

    words = ["--files", str(arguments.files.resolve()), *(["--small"] if arguments.small else [])]

    def start(step: Any, limit_s: float) -> Result:
        print(f"{step.name}: {step.shows}; at most {limit_s:.0f} s", file=sys.stderr, flush=True)
        result = start_step(step, limit_s, out, words)
        read_runs(result, out / "runs" / step.name)
        print(f"{step.name}: {result.outcome} in {result.seconds:.0f} s {result.reason}", file=sys.stderr, flush=True)
        return result

    def keep(results: Sequence[Result], seconds: float) -> None:
        report.steps, report.seconds = list(results), seconds
        write(report, out)

    results = run_all(chosen, arguments.budget, start, keep, known)
    print(out / "report.md")
    return 1 if any(result.outcome in ("missed", "failed", "stopped") for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
