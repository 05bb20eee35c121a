"""What a stopped command loses: commands are killed at random moments, resumed, killed again, and let end at last.

Each round begins a command in a working folder of the script's own, with tiny networks and a folder for temporary
files. A signal drawn from the seed (SIGKILL, SIGTERM, SIGHUP or SIGINT) stops it, either alone or with its whole group,
as a terminal does. The moment is drawn too: half of the signals come at a time, half when a file changes after it.
The command then goes on by --resume, or is begun again where nothing was on the disk. Before the first round, every
command runs undisturbed once: its duration bounds the moments, and its results are what the others must be.

Counted are:

lost         lines of runs, tallies and blocks that were on the disk after a kill and are not in the final result
twice        cells, images, blocks and pairs that the final result has twice, and numbers of blocks that leave a gap
wrong        other counts or files than undisturbed, exit codes that are not the signal's, tracebacks, hanging
orphans      processes that are alive five seconds after their command was killed
left behind  temporary folders, drafts, files of blocks and git worktrees after the next run that ended by itself

Goal: none of any. Exits with 1 when there is one.
"""

import argparse
import contextlib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from _report import say, whole
from PIL import Image

from fastvit_bench import files
from fastvit_bench.exporting import metadata

SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
KINDS = ("lost", "twice", "wrong", "orphans", "left behind")

START_S = 3.0  # that a command takes before it does anything
GONE_S = 5.0  # after which nothing of a killed command may be alive
FINISH_S = 15.0  # in which a command that had all but ended may end by itself
HANG_S = 90.0  # from a signal to the end of its command
LIMIT_S = 600.0  # of a command that nothing stops

CONFIG = """
[model.a]
variant = "fastvit_t8"
classes = 10
resolution = 64
[model.b]
variant = "fastvit_t8"
classes = 10
[model.c]
variant = "fastvit_t8"
classes = 10
[model.fresh]
variant = "fastvit_t8"
classes = 10
[device.cpu]
backend = "onnxruntime"
[method]
warmup = 1
runs = 6
processes = 2
[sweep]
models = ["a", "b"]
grid = [32, 64]
timeout_s = 120
[gate]
models = ["a"]
grid = [32]
max_regression = "100%"
max_time = "10m"  # of a busy machine; the gate ends when it is decided
[study.mini]
title = "three names of one network"
rows = [{ label = "a", model = "a" }, { label = "b", model = "b" }, { label = "c", model = "c" }]
grid = [32]
[download]
base = "http://127.0.0.1:9"
"""
IGNORED = "models\nresults\nbase\nset\nout\n"  # by git
CLASSES, IMAGES = 10, 60  # of the data set, and of each class


@dataclass(frozen=True)
class Command:
    """A command that is killed: how it is begun, how it goes on, and where its results lie."""

    name: str
    words: tuple[str, ...]
    resume: tuple[str, ...] = ()
    begun: str = ""  # pattern in the device's results: with a new one, the command can go on
    result: str = ""  # pattern of its final results there
    codes: tuple[int, ...] = (0,)  # that it may end with by itself
    needs: tuple[str, ...] = ()  # models that are exported before
    makes: str = ""  # folder that is removed before each round, so that it is made in it


_GATE: dict[str, Any] = {
    "resume": ("gate", "--resume", "last"),
    "begun": "gate-*.blocks",
    "result": "gate-*.json",
    "codes": (0, 3),  # a busy machine may leave a cell open
    "needs": ("a",),
}
_LATENCY: dict[str, Any] = {
    "resume": ("latency", "--resume", "last", "--any-speed"),
    "begun": "*.jsonl",
    "result": "*.jsonl",
}
_SWEEP = ("latency", "--any-speed", "--runs", "8")

COMMANDS = (
    Command("latency", (*_SWEEP, "--res", "32,64"), needs=("a", "b"), **_LATENCY),
    Command("latency-export", (*_SWEEP, "-m", "fresh", "--res", "32,64"), makes="models/fresh", **_LATENCY),
    Command(
        "accuracy",
        ("accuracy", "-m", "a", "--data", "set"),
        ("accuracy", "--resume", "last"),
        "*.jsonl",
        "*.jsonl",
        needs=("a",),
    ),
    Command("gate", ("gate", "--baseline", "base"), **_GATE),
    Command("gate-rev", ("gate", "--baseline-rev", "HEAD"), **_GATE),
    Command(
        "compare",
        ("compare", "a", "b", "--res", "32"),
        ("compare", "--resume", "last"),
        "compare-*.blocks",
        "compare-*.json",
        needs=("a", "b"),
    ),
    Command(
        "study",
        ("study", "mini"),
        ("study", "mini", "--resume"),
        "study-mini-*.json",
        "study-mini-*.json",
        needs=("a", "b", "c"),
    ),
    Command("export", ("export", "-t", "onnx", "-m", "fresh", "--res", "32,64", "-o", "out"), makes="out"),
)


@dataclass(frozen=True)
class Fault:
    """Something that must not be, of one of `KINDS`."""

    kind: str
    what: str
    count: int = 1


@dataclass
class Tally:
    """Everything found about one command."""

    rounds: int = 0
    kills: int = 0
    faults: list[Fault] = field(default_factory=list)

    def count(self, kind: str) -> int:
        """Number of faults of a kind."""
        return sum(fault.count for fault in self.faults if fault.kind == kind)


# --- the place --------------------------------------------------------------------------------------------------------


class Place:
    """A working folder in a repository of its own, beside a folder for temporary files and one for logs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.work, self.temporary, self.logs = (self.folder / name for name in ("work", "temporary", "logs"))
        self.results = self.work / "results" / "cpu"
        self.calls = 0
        self.environment = {
            **os.environ,
            **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(self.temporary)),
            # torch's threads wait by spinning, which other programs on the same cores turn into minutes
            "OMP_NUM_THREADS": "1",
            "COLUMNS": "200",
            "NO_COLOR": "1",
        }

    def fill(self) -> None:
        """Write the configuration and the images, and commit the former."""
        for folder in (self.work, self.temporary, self.logs):
            folder.mkdir(parents=True)
        (self.work / "benchmark.toml").write_text(CONFIG, encoding="utf-8")
        (self.work / ".gitignore").write_text(IGNORED, encoding="utf-8")
        draw = np.random.default_rng(0)
        for number in range(CLASSES * IMAGES):
            path = self.work / "set" / f"c{number % CLASSES}" / f"{number:04}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            few = Image.fromarray(draw.integers(0, 256, (5, 6, 3), np.uint8))
            few.resize((60 + number % 70, 50 + number % 90), Image.Resampling.BICUBIC).save(path, quality=90)
        self.git("init", "--quiet")
        self.git("add", ".")
        self.git("commit", "--quiet", "-m", "base")

    def git(self, *words: str) -> str:
        """Run git in the working folder and return what it prints."""
        identity = ("-c", "user.name=kills", "-c", "user.email=kills@example.org")
        command = ["git", *identity, *words]
        return subprocess.run(command, cwd=self.work, check=True, capture_output=True, text=True).stdout

    def start(self, words: Sequence[str]) -> "Running":
        """Start the tool in a group of processes of its own, as a shell does."""
        self.calls += 1
        path = self.logs / f"{self.calls:03}-{words[0]}.txt"
        with path.open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "fastvit_bench.cli", *words],
                cwd=self.work,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        return Running(process, path, time.monotonic())

    def fitting(self, pattern: str) -> set[Path]:
        """Return the device's results that a pattern fits."""
        return set(self.results.glob(pattern)) if pattern else set()

    def processes(self) -> Iterator[psutil.Process]:
        """Yield the processes whose environment or working folder is in this place, but for the dead."""
        text = str(self.folder)
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                inside = process.cwd().startswith(text) or process.environ().get("TMPDIR", "").startswith(text)
                if inside and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                    yield process

    def files(self) -> dict[str, tuple[int, int]]:
        """Return size and time of every file that a command may write, to see a change."""
        stamps: dict[str, tuple[int, int]] = {}
        waiting = [
            str(self.work / ".git" / "worktrees"),
            str(self.temporary),
            *(str(self.work / name) for name in ("models", "results", "out")),
        ]
        while waiting:
            with contextlib.suppress(OSError), os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(entry.path)
                        status = entry.stat(follow_symlinks=False)
                        stamps[entry.path] = (status.st_size, status.st_mtime_ns)
        return stamps

    def left_behind(self) -> set[str]:
        """Return what no finished run may leave."""
        remains = {str(path.relative_to(self.folder)) for path in self.temporary.iterdir() if not _is_probe(path)}
        for pattern in (".fastvit-bench-*", "*.partial", "*.draft", "earlier-*", "*.blocks"):
            remains |= {str(path.relative_to(self.folder)) for path in self.work.rglob(pattern)}
        entries = (line for line in self.git("worktree", "list", "--porcelain").splitlines())
        trees = [line.partition(" ")[2] for line in entries if line.startswith("worktree ")]
        return remains | {f"git worktree {tree}" for tree in trees[1:]}


def _is_probe(path: Path) -> bool:
    """Return whether a file is Python's own, by which it finds out where temporary files can be written."""
    return re.fullmatch("[a-z0-9_]{8}", path.name) is not None and path.is_file() and path.stat().st_size == 0


@dataclass(frozen=True)
class Running:
    """A started command."""

    process: subprocess.Popen[bytes]
    log: Path
    since: float

    @property
    def seconds(self) -> float:
        """Seconds since its start."""
        return time.monotonic() - self.since

    def last_line(self) -> str:
        """Return the last line that it printed."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return lines[-1].strip() if lines else "it said nothing"


# --- what is on the disk ----------------------------------------------------------------------------------------------


def lines(path: Path) -> list[str]:
    """Return the complete lines of a file; a killed process may leave one that is not."""
    *complete, _ = path.read_text(encoding="utf-8").split("\n") if path.exists() else [""]
    return complete


def block_key(cell: str, block: dict[str, Any]) -> str:
    """Return what identifies a block: its cell, and every sample of both sides."""
    return json.dumps([cell, block["base_ns"], block["head_ns"]])


def stored_keys(results: Path, stem: str) -> set[str]:
    """Return what is on the disk of a run, or of a comparison or study: its lines, or the keys of its blocks."""
    run = results / f"{stem}.jsonl"
    if run.exists():
        return set(lines(run))
    records = [json.loads(line) for line in lines(results / f"{stem}.blocks")]
    keys = {block_key(record["cell"], record["block"]) for record in records if record.get("block")}
    document = results / f"{stem}.json"
    if document.exists():
        for cell in json.loads(document.read_bytes())["cells"]:
            keys |= {block_key(cell["name"], block) for block in cell["blocks"]}
    return keys


def check_run(path: Path, usual: Path | None) -> list[Fault]:
    """Return the faults of a finished run file; `usual` is that of an undisturbed run."""
    records = [json.loads(line) for line in lines(path)]
    faults = [
        Fault("wrong", f"{path.name}: {record['reason']}", 1) for record in records if record["kind"] == "failure"
    ]
    cells = Counter(cell for record in records if (cell := _cell(record)))
    faults += [Fault("twice", f"{path.name}: {cell}", count - 1) for cell, count in cells.items() if count > 1]
    end = 0
    for record in (record for record in records if record["kind"] == "tally"):
        if record["first"] < end:
            faults.append(Fault("twice", f"{path.name}: images before {end}", end - record["first"]))
        if record["first"] > end:
            faults.append(Fault("lost", f"{path.name}: images from {end}", record["first"] - end))
        end = record["first"] + record["pictures"]
    if usual is not None:
        wanted = [json.loads(line) for line in lines(usual)]
        missing = {cell for record in wanted if (cell := _cell(record))} - set(cells)
        faults += [Fault("lost", f"{path.name}: {cell} at the end") for cell in sorted(missing)]
        if _answers(wanted) != _answers(records):
            faults.append(Fault("wrong", f"{path.name}: counts {_answers(records)}, undisturbed {_answers(wanted)}"))
    return faults


def _cell(record: dict[str, Any]) -> str:
    """Return the name of a finished cell of a run; empty for other lines."""
    if record["kind"] not in ("measurement", "accuracy"):
        return ""
    artifact = record["artifact"]
    return f"{record['kind']} of {artifact['model']} {artifact['shape']['height']}"


def _answers(records: Sequence[dict[str, Any]]) -> list[list[Any]]:
    """Return every count of a run's accuracies."""
    names = ("images", "top1", "top5", "overflowed", "unreadable", "contents")
    return [[record.get(name) for name in names] for record in records if record["kind"] == "accuracy"]


def check_document(path: Path) -> list[Fault]:
    """Return the faults of a finished comparison or study."""
    document = json.loads(path.read_bytes())
    cells = document["cells"]
    faults: list[Fault] = []
    names = Counter(cell["name"] for cell in cells)
    faults += [Fault("twice", f"{path.name}: pair {name}", count - 1) for name, count in names.items() if count > 1]
    if not cells or len(names) < len(document.get("matches", ())):
        faults.append(Fault("lost", f"{path.name}: {len(names)} pairs of {len(document.get('matches', ()))}"))
    for cell in cells:
        blocks, name = cell["blocks"], f"{path.name}: {cell['name']}"
        numbers = [block["number"] for block in blocks]
        if wrong := sum(number != at for at, number in enumerate(numbers, 1)):
            faults.append(Fault("twice", f"{name}: its blocks have the numbers {numbers}", wrong))
        if again := len(blocks) - len({block_key("", block) for block in blocks}):
            faults.append(Fault("twice", f"{name}: blocks with the same samples", again))
        if not blocks:
            faults.append(Fault("wrong", f"{name}: no block, because {cell['verdict'].get('reason')}"))
    return faults


def check_exports(folder: Path, expected: int) -> list[Fault]:
    """Return the faults of exported files: each is the one that its side-car describes."""
    paths = sorted(folder.glob("*.onnx"))
    faults: list[Fault] = []
    if len(paths) != expected:
        faults.append(Fault("lost", f"{folder.name}: {len(paths)} of {expected} files", abs(expected - len(paths))))
    for path in paths:
        try:
            described = metadata.read_artifact(path).sha256 == files.sha256(path)
        except Exception as error:  # whatever a damaged file raises
            faults.append(Fault("wrong", f"{path.name}: {error}"))
            continue
        if not described:
            faults.append(Fault("wrong", f"{path.name} is not the file that its side-car describes"))
    return faults


# --- kills ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Strike:
    """One signal: which, to whom, and when."""

    number: signal.Signals
    group: bool
    moment_s: float
    at_change: bool  # at the first change of a file after the moment
    delay_s: float  # after that change

    def __str__(self) -> str:
        whom = " to its group" if self.group else ""
        return f"{self.number.name}{whom} at {'a change after ' if self.at_change else ''}{self.moment_s:.1f} s"


def drawn(draw: random.Random, duration_s: float) -> Strike:
    """Draw a signal for a command that takes so long."""
    return Strike(
        number=draw.choice(SIGNALS),
        group=draw.random() < 0.5,
        moment_s=draw.uniform(0.05, draw.choice((START_S, duration_s, duration_s))),  # starting is delicate too
        at_change=draw.random() < 0.5,
        delay_s=draw.choice([0.0, draw.uniform(0, 0.05)]),
    )


def wait_for(running: Running, strike: Strike, place: Place) -> bool:
    """Wait for the moment of a signal; returns False where the command has ended before."""
    while running.seconds < strike.moment_s:
        if running.process.poll() is not None:
            return False
        time.sleep(0.02)
    if strike.at_change:
        before = place.files()
        while place.files() == before and running.seconds < LIMIT_S:
            if running.process.poll() is not None:
                return False
            time.sleep(0.001)
        time.sleep(strike.delay_s)
    return running.process.poll() is None


def kill(running: Running, strike: Strike, place: Place, codes: Sequence[int]) -> tuple[str, list[Fault]]:
    """Send a signal and look at the end of the command; returns what happened, and the faults."""
    faults: list[Fault] = []
    process = running.process
    family = [*_descendants(process.pid), *(one for one in place.processes() if one.pid != process.pid)]
    if strike.group:
        os.killpg(process.pid, strike.number)
    else:
        process.send_signal(strike.number)
    struck = time.monotonic()
    try:
        code = process.wait(HANG_S)
    except subprocess.TimeoutExpired:
        process.kill()
        code = process.wait()
        faults.append(Fault("wrong", f"it still ran {HANG_S:g} s after {strike}"))
    took = time.monotonic() - struck
    code = 128 - code if code < 0 else code  # as shells tell it
    if code != 128 + strike.number and not (code in codes and took < FINISH_S):
        faults.append(Fault("wrong", f"{strike}: exit code {code} after {took:.1f} s, {running.last_line()}"))
    faults += orphans(place, family, strike)
    faults += check_log(running, strike)
    return f"{strike}: ended with {code} after {took:.1f} s", faults


def _descendants(number: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(number).children(recursive=True)
    return []


def orphans(place: Place, family: Sequence[psutil.Process], strike: Strike) -> list[Fault]:
    """Wait until nothing of a command is alive; returns what is after some seconds, and ends it."""
    deadline = time.monotonic() + GONE_S
    while alive := [one for one in {*family, *place.processes()} if _is_alive(one)]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.1)
    faults: list[Fault] = []
    for one in alive:
        with contextlib.suppress(psutil.Error):
            faults.append(Fault("orphans", f"{strike}: {' '.join(one.cmdline())[:120]}"))
            one.kill()
    return faults


def _is_alive(process: psutil.Process) -> bool:
    """Return whether a process runs; one that only waits to be reaped does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def check_log(running: Running, strike: Strike) -> list[Fault]:
    """Return a fault for a traceback, unless the signal came before the program itself was loaded."""
    text = running.log.read_text(encoding="utf-8", errors="replace")
    if ("Traceback" in text and ", in main\n" in text) or "Exception ignored" in text:
        return [Fault("wrong", f"{strike}: a traceback, in {running.log.name}: {running.last_line()}")]
    return []


# --- rounds -----------------------------------------------------------------------------------------------------------


@dataclass
class Usual:
    """Commands that nothing disturbed: how long each took, and its result."""

    seconds: dict[str, float] = field(default_factory=dict)
    results: dict[str, Path] = field(default_factory=dict)


def finish(place: Place, words: Sequence[str], codes: Sequence[int]) -> tuple[str, list[Fault]]:
    """Let a command end by itself; returns what happened, and the faults."""
    running = place.start(words)
    try:
        code = running.process.wait(LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(running.process.pid, signal.SIGKILL)
        running.process.wait()
        return "it hung", [Fault("wrong", f"{' '.join(words)} still ran after {LIMIT_S:g} s")]
    what = f"{' '.join(words)} ended with {code} after {running.seconds:.0f} s"
    return what, [] if code in codes else [Fault("wrong", f"{what}: {running.last_line()}")]


def prepare(place: Place, commands: Sequence[Command]) -> Usual:
    """Export what the commands need, then run each of them once; raises `SystemExit` where one fails."""
    for model in sorted({model for command in commands for model in command.needs}):
        what, faults = finish(place, ("export", "-t", "onnx", "-m", model, "--res", "32,64"), (0,))
        say(what)
        if faults:
            raise SystemExit(f"error: {faults[0].what}")
    if (place.work / "models" / "a").exists():
        shutil.copytree(place.work / "models" / "a", place.work / "base")
        for path in (place.work / "base").glob("*_64_*"):
            path.unlink()
    usual = Usual()
    for command in commands:
        before, since = place.fitting(command.result), time.monotonic()
        what, faults = finish(place, command.words, command.codes)
        say(what)
        if faults:
            raise SystemExit(f"error: {faults[0].what}")
        usual.seconds[command.name] = time.monotonic() - since
        for path in place.fitting(command.result) - before:
            usual.results[command.name] = path
    return usual


def play(place: Place, command: Command, kills: int, usual: Usual, draw: random.Random, tally: Tally) -> None:
    """Kill a command some times, let it end, and look at everything it leaves."""
    tally.rounds += 1
    if command.makes:
        shutil.rmtree(place.work / command.makes, ignore_errors=True)
    earlier, before = place.fitting(command.begun) | place.fitting(command.result), place.left_behind()
    remaining_s = usual.seconds[command.name]
    noted: dict[str, set[str]] = {}
    ended = False
    for _ in range(kills):
        strike = drawn(draw, remaining_s)
        running = place.start(next_words(place, command, earlier))
        if not wait_for(running, strike, place):
            code = running.process.wait()
            say(f"{command.name}: ended with {code} before {strike}")
            if code not in command.codes:
                tally.faults.append(Fault("wrong", f"exit code {code} without a signal, {running.last_line()}"))
            ended = True
            break
        lasted = running.seconds
        what, faults = kill(running, strike, place, command.codes)
        tally.kills += 1
        remaining_s = max(2 * START_S, remaining_s - max(0.0, lasted - START_S))
        note(place, command, earlier, noted)
        say(f"{command.name}: {what}; {sum(map(len, noted.values()))} lines or blocks on the disk{_list(faults)}")
        tally.faults += faults
    if not ended:
        what, faults = finish(place, next_words(place, command, earlier), command.codes)
        say(f"{command.name}: {what}{_list(faults)}")
        tally.faults += faults
    faults = judge(place, command, earlier, noted, usual)
    faults += [Fault("left behind", what) for what in sorted(place.left_behind() - before)]
    if faults:
        say(f"{command.name}: {_list(faults)}")
    tally.faults += faults


def next_words(place: Place, command: Command, earlier: set[Path]) -> tuple[str, ...]:
    """Return the words that go on with what has begun since, or else begin it."""
    return command.resume if command.resume and place.fitting(command.begun) - earlier else command.words


def note(place: Place, command: Command, earlier: set[Path], noted: dict[str, set[str]]) -> None:
    """Remember what is on the disk of everything that has begun since."""
    for path in (place.fitting(command.begun) | place.fitting(command.result)) - earlier:
        noted[path.stem] = noted.get(path.stem, set()) | stored_keys(place.results, path.stem)


def judge(place: Place, command: Command, earlier: set[Path], noted: dict[str, set[str]], usual: Usual) -> list[Fault]:
    """Return the faults of everything that a round has written."""
    faults: list[Fault] = []
    for stem, keys in noted.items():
        if gone := keys - stored_keys(place.results, stem):
            faults.append(Fault("lost", f"{stem}: {len(gone)} of {len(keys)} lines or blocks", len(gone)))
    results = place.fitting(command.result) - earlier
    if command.result and not results:
        faults.append(Fault("lost", "no result at the end"))
    for path in sorted(results):
        is_run = path.suffix == ".jsonl"
        faults += check_run(path, usual.results.get(command.name)) if is_run else check_document(path)
    if command.makes:
        faults += check_exports(place.work / command.makes, 2)
    return faults


def _list(faults: Sequence[Fault]) -> str:
    return "".join(f"\n    {fault.kind}: {fault.what}" for fault in faults)


# --- output -----------------------------------------------------------------------------------------------------------


def table(tallies: dict[str, Tally]) -> str:
    """A line per command, as README.md holds it."""
    rows = [("command", "rounds", "kills", *KINDS), ("---", *["--:"] * (len(KINDS) + 2))]
    for name, tally in tallies.items():
        rows.append((name, str(tally.rounds), str(tally.kills), *(str(tally.count(kind)) for kind in KINDS)))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def chosen(text: str) -> list[Command]:
    """The commands of a list with commas."""
    known = {command.name: command for command in COMMANDS}
    names = [name.strip() for name in text.split(",") if name.strip()]
    if wrong := [name for name in names if name not in known] or ([] if names else [text]):
        raise argparse.ArgumentTypeError(f"{wrong[0]!r} is none of {', '.join(known)}")
    return [known[name] for name in dict.fromkeys(names)]


def attack(place: Place, commands: Sequence[Command], kills: int, draw: random.Random) -> dict[str, Tally]:
    """Play rounds, in an order drawn anew for each time through all commands, until so many kills have been made."""
    usual = prepare(place, commands)
    tallies = {command.name: Tally() for command in commands}
    waiting: list[Command] = []
    for _ in range(10 * kills):  # a round may end before its first kill
        if (missing := kills - sum(tally.kills for tally in tallies.values())) <= 0:
            break
        waiting = waiting or draw.sample(commands, len(commands))
        command = waiting.pop()
        play(place, command, min(missing, draw.choice((1, 2, 3))), usual, draw, tallies[command.name])
    return tallies


def main() -> int:
    """Attack and count; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--kills", type=whole, default=40, help="how many signals in all (%(default)s)")
    options.add_argument("--seed", type=int, default=0, help="of signals, moments and order (%(default)s)")
    options.add_argument(
        "--commands",
        type=chosen,
        default=list(COMMANDS),
        metavar="LIST",
        help=f"with commas between them: {','.join(command.name for command in COMMANDS)} (all)",
    )
    options.add_argument("--keep", action="store_true", help="keep the working folder, with what every command said")
    asked = options.parse_args()
    for number in (signal.SIGINT, signal.SIGHUP):  # ignored, as nohup and a background job ask for, so would commands
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)
    place = Place(Path(tempfile.mkdtemp(prefix="kills-")))
    try:
        place.fill()
        tallies = attack(place, asked.commands, asked.kills, random.Random(asked.seed))
    finally:
        for process in place.processes():  # of a command that runs while this script is interrupted
            process.kill()
        if asked.keep:
            say(f"kept: {place.folder}")
        else:
            shutil.rmtree(place.folder, ignore_errors=True)
    print(
        f"seed {asked.seed}, {sum(tally.kills for tally in tallies.values())} kills", "", table(tallies), "", sep="\n"
    )
    for name, tally in tallies.items():
        for fault in tally.faults:
            print(f"- {name}: {fault.kind}: {fault.what}")
    bad = sum(fault.count for tally in tallies.values() for fault in tally.faults)
    print(f"- Goal: nothing lost, twice, wrong, orphaned or left behind: {'MISSED' if bad else 'met'} ({bad}).")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
