"""Commands stopped by a signal: they end with its exit code, keep what was measured, and leave nothing else."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import psutil
import pytest
from commands import call, refused

from fastvit_bench import files
from fastvit_bench.comparing import formats
from fastvit_bench.paper import study_table
from fastvit_bench.records.unfinished import Unfinished
from fastvit_bench.store import unfinished

WORDS = (sys.executable, "-m", "fastvit_bench.cli")
GATE = """
[gate]
models = ["m00"]
grid = [32]
max_regression = "100%"
max_time = "4m"
[study.mini]
title = "three names of one network"
rows = [{label = "a", model = "m00"}, {label = "b", model = "m01"}, {label = "c", model = "m02"}]
grid = [32]
"""
GREEN = (0, 3)  # a busy machine may leave a cell open


@pytest.fixture
def place(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The zoo with a [gate] of one cell, a study, a base and a folder for temporary files; it is entered."""
    (zoo / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(zoo / "temporary"))
    with (zoo / "benchmark.toml").open("a") as file:
        file.write(GATE)
    shutil.copytree(zoo / "models" / "m00", zoo / "base")
    return zoo


def stopped(number: signal.Signals, when: Callable[[], bool], *words: str) -> subprocess.CompletedProcess[str]:
    """Start a command, and send it a signal once something has happened; it and its children are gone then."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
    process = subprocess.Popen(
        [*WORDS, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    deadline = time.monotonic() + 200
    while not when():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=120)
    _, alive = psutil.wait_procs(children, timeout=60)
    assert not alive
    assert "Traceback" not in stderr
    return subprocess.CompletedProcess(words, process.returncode, stdout, stderr)


INTERRUPTED_WHILE_EVALUATING = """
import signal, sys
from fastvit_bench.cli import _stopping
_stopping.prepare_signals()
try:
    exec("import signal\\nsignal.raise_signal(signal.SIGINT)\\npass")
except KeyboardInterrupt as error:
    sys.exit(_stopping.exit_code(error))
"""


def test_an_interruption_of_an_evaluated_string_has_its_exit_code_too(tmp_path: Path) -> None:
    (tmp_path / "evaluating.py").write_text(INTERRUPTED_WHILE_EVALUATING)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(tmp_path), *sys.path))}
    words = [sys.executable, "-m", "evaluating"]  # as a module: a script is ended otherwise
    done = subprocess.run(words, env=environment, capture_output=True, check=False)
    assert done.returncode == 130, done.stderr


def blocks(command: str, least: int) -> Callable[[], bool]:
    """Return whether a file of blocks has that many."""

    def enough() -> bool:
        paths = list(Path("results").glob(f"*/{command}-*{unfinished.SUFFIX}"))
        return bool(paths) and paths[0].read_bytes().count(b"\n") > least

    return enough


def interrupted(command: str) -> Unfinished:
    (path,) = Path("results").glob(f"*/{command}-*{unfinished.SUFFIX}")
    return unfinished.reopen(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGINT, 130), (signal.SIGKILL, -9)],
)
def test_a_gate_that_is_stopped_goes_on_with_its_blocks(place: Path, number: signal.Signals, code: int) -> None:
    done = stopped(number, blocks("gate", 2), "gate", "--baseline", "base", "--seed", "3")
    assert done.returncode == code
    assert not list(Path("results/cpu").glob("gate-*.json"))
    assert bool(list(Path("temporary").iterdir())) == (code == -9)
    earlier = interrupted("gate")
    if code != -9:
        assert f"fastvit-bench gate --resume {earlier.start.id}" in done.stderr
    assert "with 3 for --seed" in refused("gate", "--resume", "last", "--seed", "4")
    call("gate", "--resume", "last", "--report", "out", expect=GREEN, fresh=True)
    assert not list(Path("results/cpu").glob(f"*{unfinished.SUFFIX}"))
    (path,) = Path("results/cpu").glob("gate-*.json")
    comparison = formats.read(path)
    assert comparison.plan.seed == 3
    (cell,) = comparison.cells
    assert [block.number for block in cell.blocks] == list(range(1, len(cell.blocks) + 1))
    known = [line.block for line in earlier.blocks if line.block]
    assert [block.base_ns for block in cell.blocks[: len(known)]] == [block.base_ns for block in known]
    assert (place / "out" / "gate.json").is_file()
    assert not list(Path("temporary").iterdir())


@pytest.mark.slow
def test_what_is_no_longer_what_it_was_is_not_gone_on_with(place: Path) -> None:
    done = stopped(signal.SIGTERM, blocks("compare", 1), "compare", "m00", "m01", "--res", "32")
    assert done.returncode == 143
    kept = interrupted("compare")
    text = Path("benchmark.toml").read_text()
    Path("benchmark.toml").write_text(text.replace('max_time = "4m"', 'max_time = "3m"'))
    assert "max_time_s: 240.0 then, 180.0 now" in refused("compare", "--resume", "last", expect=4)
    Path("benchmark.toml").write_text(text)
    assert "No interrupted gate" in refused("gate", "--resume", "last")
    assert "No interrupted compare" in refused("compare", "--resume", "1999")
    assert interrupted("compare") == kept


@pytest.mark.slow
def test_a_study_that_is_killed_goes_on_within_its_pass(place: Path) -> None:
    stopped(signal.SIGKILL, blocks("study", 2), "study", "mini")
    earlier = interrupted("study")
    call("study", "mini", "--resume")
    (path,) = Path("results/cpu").glob("study-mini-*.json")
    result = study_table.read(path)
    assert [cell.name for cell in result.cells] == [match.name for match in result.matches]
    for line in earlier.blocks:
        (cell,) = (cell for cell in result.cells if cell.name == line.cell)
        assert line.block is None or line.block.base_ns in [block.base_ns for block in cell.blocks]
    assert {len([block for block in cell.blocks if not block.replaced]) for cell in result.cells} == {6}
    assert not list(Path("results/cpu").glob(f"*{unfinished.SUFFIX}"))


@pytest.mark.slow
def test_a_study_goes_on_only_with_the_rows_it_began_with(place: Path) -> None:
    stopped(signal.SIGKILL, blocks("study", 1), "study", "mini")
    text = Path("benchmark.toml").read_text()
    changed = text.replace('[model.m02]\nvariant = "fastvit_t8"', '[model.m02]\nvariant = "fastvit_t12"\nclasses = 7')
    assert changed != text
    Path("benchmark.toml").write_text(changed)
    sentence = refused_after_the_plan("study", "mini", "--resume")
    assert "c: variant fastvit_t8 then, fastvit_t12 now; c: classes 1000 then, 7 now" in sentence


def refused_after_the_plan(*words: str) -> str:
    done = call(*words, expect=4)
    return done.stderr.strip().splitlines()[-1]


@pytest.mark.slow
def test_a_revision_that_is_killed_leaves_no_worktree_behind(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*words: str) -> str:
        told = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *words]
        return subprocess.run(told, check=True, capture_output=True, text=True).stdout

    with Path("benchmark.toml").open("a") as file:
        file.write(GATE.partition("[study")[0].replace("m00", "big") + '[model.big]\nvariant = "fastvit_ma36"\n')
    Path(".gitignore").write_text("models\nresults\n")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "base")
    temporary = zoo / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))

    def exporting() -> bool:
        return any("fastvit_bench.cli" in " ".join(words) and "export" in words for words in _command_lines())

    for number in (signal.SIGKILL, signal.SIGTERM):
        stopped(number, exporting, "gate", "--baseline-rev", "HEAD")
        assert not exporting()
        if number == signal.SIGTERM:
            assert len(git("worktree", "list").splitlines()) == 1  # that of the kill is swept, the own one removed
            assert not list(temporary.glob(f"{files.PREFIX}*"))
        else:
            assert len(git("worktree", "list").splitlines()) == 2


def _command_lines() -> list[list[str]]:
    lines: list[list[str]] = []
    for process in psutil.process_iter():
        try:
            lines.append(process.cmdline() if str(Path.cwd()) in " ".join(process.environ().values()) else [])
        except psutil.Error:
            continue
    return lines


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """As under nohup: the handler takes only what nobody has decided about."""
    code = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from fastvit_bench.cli._stopping import prepare_signals; prepare_signals()\n"
        "print(signal.getsignal(signal.SIGHUP) is signal.SIG_IGN, callable(signal.getsignal(signal.SIGTERM)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]


@pytest.mark.slow
def test_options_of_a_resumed_comparison_are_those_it_was_begun_with(place: Path) -> None:
    """Without measuring: what the file says is taken, and what is said too must agree."""
    stopped(signal.SIGTERM, blocks("gate", 0), "gate", "--baseline", "base", "--max-time", "2m")
    start = interrupted("gate").start
    assert msgspec.to_builtins(start.options) == {
        "command": "gate",
        "baseline": "base",
        "baseline_rev": None,
        "head": None,
        "device": "cpu",
        "model": (),
        "res": None,
        "threads": None,
        "max_regression": None,
        "max_pooled_regression": None,
        "max_time": "2m",
        "seed": 0,
        "report": None,
        "report_format": None,
        "no_baseline": "fail",
        "allow": (),
        "force": False,
    }
    assert "with base for --baseline" in refused("gate", "--resume", "last", "--baseline", "other")
