"""`compare`, `gate` and `calibrate` as users call them, on a network of 32 x 32 pixels."""

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from commands import call, refused

from fastvit_bench import api, build
from fastvit_bench.report import store, verdict
from fastvit_bench.verdicts import Outcome

SMALL = """
[gate]
models = ["m00"]
grid = [32]
max_regression = "60%"
max_time = "4m"
"""


@pytest.fixture
def gate(zoo: Path) -> Path:
    """The zoo with a [gate] of one small cell, whose margin is above the noise of a busy machine; it is entered."""
    with (zoo / "benchmark.toml").open("a") as file:
        file.write(SMALL)
    return zoo


@pytest.fixture
def baseline(gate: Path) -> Path:
    """What the base branch left: the same network."""
    shutil.copytree(gate / "models" / "m00", gate / "base")
    return gate / "base"


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_unchanged_tree_passes_and_leaves_every_report(baseline: Path, gate: Path) -> None:
    formats = "markdown,junit,json,bmf,gha,pytest-benchmark,svg,png"
    environment = {"GITHUB_STEP_SUMMARY": str(gate / "summary.md"), "GITHUB_OUTPUT": str(gate / "output")}
    os.environ.update(environment)
    try:
        done = call("gate", "--baseline", "base", "--report", "out", "--report-format", formats)
    finally:
        for name in environment:
            del os.environ[name]
    assert "m00 32 b1" in done.stdout
    assert "passes" in done.stdout
    assert files(gate / "out") == [
        "gate.bmf.json",
        "gate.gha.json",
        "gate.json",
        "gate.junit.xml",
        "gate.md",
        "gate.png",
        "gate.pytest-benchmark.json",
        "gate.svg",
    ]
    (kept,) = (gate / "results" / "cpu").glob("gate-*.json")
    found = verdict.read(kept)
    (cell,) = found.cells
    assert found.outcome is Outcome.PASS
    assert cell.verdict.blocks == 6
    assert cell.base is not None
    assert cell.base.parity is not None  # proved where it was timed
    assert found.commit is None or found.commit
    assert "m00 32 b1" in (gate / "summary.md").read_text()
    assert "verdict=pass" in (gate / "output").read_text()


@pytest.mark.slow
def test_another_size_is_never_compared(baseline: Path, gate: Path) -> None:
    call("export", "-t", "onnx", "-m", "m00", "--res", "64", "-o", "head")
    done = call("gate", "--baseline", "base", "--head", "head", expect=4)
    assert "lacks it" in done.stdout
    assert "64" in done.stdout


@pytest.mark.slow
def test_a_true_slowdown_is_exit_1(gate: Path) -> None:
    """The same network unfused takes at least 1.2 times as long."""
    said = call(
        "compare", "m00,fuse=folded", "m00,fuse=none", "--res", "32", "--max-regression", "2%", "--report", "out",
        "--report-format", "junit", expect=1,
    ).stdout  # fmt: skip
    assert "regressed" in said
    assert "failure" in (gate / "out" / "compare.junit.xml").read_text()


@pytest.mark.slow
def test_compare_without_a_margin_informs_and_ends_with_0(gate: Path) -> None:
    said = call("compare", "m00,threads=1", "m01,threads=1", "--max-time", "1s").stdout
    assert "m00 / m01 32 b1" in said or "inconclusive" in said


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        (["gate"], "--baseline DIR or RUN.jsonl, or --baseline-rev", 2),
        (["gate", "--baseline", "base", "--baseline-rev", "main"], "Say what to compare with", 2),
        (["gate", "--baseline", "nowhere"], "does not exist", 2),
        (["gate", "--baseline", "empty"], "nothing to compare", 4),
        (["gate", "--baseline", "base", "--max-regression", "5"], "Write 5%", 2),
        (["gate", "--baseline", "base", "--max-time", "soon"], "no length of time", 2),
        (["gate", "--baseline", "base", "--report", "out", "--report-format", "xml"], "no report format 'xml'", 2),
        (["gate", "--baseline", "base", "--device", "rtx2080ti"], "NVIDIA", 6),
        (["gate", "--baseline", "base", "--device", "elsewhere"], "meant for", 6),
        (["gate", "--baseline", "base", "-m", "m0x"], "no model 'm0x'", 2),
        (["gate", "--baseline", "base", "--head", "empty"], "nothing to compare", 4),
        (["gate", "--baseline-rev", "nowhere"], "revision", 2),
        (["compare", "m00", "nowhere.onnx"], "does not exist", 2),
        (["compare", "m00", "m00,speed=11"], "no setting", 2),
        (["compare", "m00", "m00,fuse=all"], "fuse must be", 2),
        (["compare", "base", "m00", "--res", "64"], "holds nothing of 64", 4),
        (["compare", "base,fuse=none", "m00"], "exported already", 2),
        (["compare", "m00", "m00", "--base-python", "no-python"], "no Python", 2),
    ],
)
def test_bad_input_is_one_sentence(baseline: Path, gate: Path, words: list[str], said: str, code: int) -> None:
    (gate / "empty").mkdir()
    subprocess.run(["git", "init", "--quiet"], check=True, cwd=gate)
    assert said in refused(*words, expect=code)
    assert not (gate / "out").exists()
    assert not list((gate / "results").glob("*/gate-*.json"))


@pytest.mark.slow
def test_a_cell_that_is_missing_on_a_side_is_never_green(baseline: Path, gate: Path) -> None:
    shutil.copytree(gate / "models" / "m01", gate / "both" / "m01")
    shutil.copytree(baseline, gate / "both" / "m00")
    # the base holds a model that this tree's [gate] no longer has
    done = call("gate", "--baseline", "both", "--max-time", "1s", expect=4)
    assert "m01 32 b1" in done.stdout
    assert "lacks it" in done.stdout
    # unless it is left out by name; then time is up, and that is no pass either
    call("gate", "--baseline", "both", "-m", "m00", "--max-time", "1s", expect=3)
    done = call("gate", "--baseline", "base", "-m", "m00", "-m", "m02", "--max-time", "1s", expect=4)
    assert "m02 32 b1" in done.stdout


def test_damaged_baselines_are_never_green(baseline: Path, gate: Path) -> None:
    (file,) = baseline.glob("*.onnx")
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert "is not the file" in refused("gate", "--baseline", "base", expect=5)
    file.write_bytes(whole)
    notes = build.sidecar(file)
    notes.write_bytes(notes.read_bytes()[:100])
    assert "cannot be read" in refused("gate", "--baseline", "base")


@pytest.mark.slow
def test_a_head_that_computes_something_else_is_exit_5_before_it_is_timed(baseline: Path, gate: Path) -> None:
    head = gate / "head"
    shutil.copytree(baseline, head)
    (file,) = head.glob("*.onnx")
    # another network's outputs beside it
    other = build.expected_file(file)
    call("export", "-t", "onnx", "-m", "m00", "--res", "32", "--seed", "7", "-o", "seven")
    (theirs,) = (gate / "seven").glob("*.npz")
    other.write_bytes(theirs.read_bytes())
    done = call("gate", "--baseline", "base", "--head", "head", "--report", "out", "--report-format", "junit", expect=5)
    assert "computes something else" in done.stdout
    assert "error" in (gate / "out" / "gate.junit.xml").read_text()


def test_two_gates_at_once_on_one_device(baseline: Path, gate: Path) -> None:
    with store.lock(gate / "results", "cpu"):
        assert "Another" in refused("gate", "--baseline", "base", expect=6)


def test_a_stored_run_is_a_weaker_baseline(gate: Path) -> None:
    call("latency", "-m", "m00", "--res", "32", "--runs", "20")
    (run,) = (gate / "results" / "cpu").glob("*.jsonl")
    done = call("gate", "--baseline", str(run), "--max-regression", "90%", "--report", "out", "--report-format", "json")
    assert "stored" in done.stdout
    found = verdict.read(gate / "out" / "gate.json")
    assert found.kind == "stored"
    assert found.plan.margin == pytest.approx(1.0)
    assert all(block.reference for block in found.cells[0].blocks)
    text = run.read_text()
    run.write_text(text.replace('"cores":', '"cores":1'))  # as if it had been measured on another machine
    said = refused("gate", "--baseline", str(run), expect=4)
    assert "processors: 1" in said
    assert "then" in said
    run.write_text(text.replace('"name":""', '"name":"lab-2"'))
    assert "machine: lab-2 then, lab-1 now" in refused("gate", "--baseline", str(run), "--machine", "lab-1", expect=4)


@pytest.mark.slow
def test_a_new_host_name_is_told_and_is_no_other_machine(gate: Path) -> None:
    call("latency", "-m", "m00", "--res", "32", "--runs", "20")
    (run,) = (gate / "results" / "cpu").glob("*.jsonl")
    host = store.read(run).runs[0].machine.host
    run.write_text(run.read_text().replace(f'"host":"{host}"', '"host":"c0ffee00"'))  # as of another container
    words = ("gate", "--baseline", str(run), "--max-regression", "90%", "--report", "out", "--report-format", "json")
    call(*words)
    found = verdict.read(gate / "out" / "gate.json")
    assert any(f"host name: c0ffee00 then, {host} now" in warning for warning in found.warnings)
    assert found.exit_code == 0


@pytest.mark.slow
def test_a_revision_is_exported_by_its_own_code(zoo: Path) -> None:
    """A repository that is not this tool's: its configuration is read at that revision, with the installed tool."""
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    (zoo / "benchmark.toml").write_text((zoo / "benchmark.toml").read_text() + SMALL)
    (zoo / ".gitignore").write_text("models/\nresults/\n")
    for words in (["init", "--quiet"], ["add", "-A"], ["commit", "--quiet", "-m", "base"]):
        subprocess.run([*git, *words], check=True, cwd=zoo)
    done = call("gate", "--baseline-rev", "HEAD", "--report", "out", "--report-format", "json")
    assert "exporting m00 by HEAD" in done.stderr
    found = verdict.read(zoo / "out" / "gate.json")
    assert found.base == "HEAD"
    assert found.outcome is Outcome.PASS
    assert (
        len(subprocess.run(["git", "worktree", "list"], capture_output=True, text=True, cwd=zoo).stdout.split("\n"))
        == 2
    )
    # a model that the revision does not have is a missing cell
    (zoo / "benchmark.toml").write_text(
        (zoo / "benchmark.toml").read_text().replace("[gate]", '[model.new]\nvariant = "fastvit_t8"\n[gate]')
    )
    done = call("gate", "--baseline-rev", "HEAD", "-m", "new", "--max-time", "1s", expect=4)
    assert "HEAD has no model 'new'" in done.stdout


@pytest.mark.slow
def test_another_python_environment_brings_its_own_packages(gate: Path, tmp_path: Path) -> None:
    """An environment that sees this one's packages, but says another version of one."""
    home = tmp_path / "other"
    venv.create(home, with_pip=False)
    (site,) = home.glob("lib/python*/site-packages")
    (site / "more.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")) + "\n")
    said = site / "onnxruntime-99.0.0.dist-info"
    said.mkdir()
    (said / "METADATA").write_text("Metadata-Version: 2.1\nName: onnxruntime\nVersion: 99.0.0\n")
    python = str(home / "bin" / "python")
    call("compare", "m00", "m00", "--head-python", python, "--report", "out", "--report-format", "json")
    (cell,) = verdict.read(gate / "out" / "compare.json").cells
    assert cell.head is not None
    assert cell.base is not None
    assert cell.head.machine.packages["onnxruntime"] == "99.0.0"
    assert cell.base.machine.packages["onnxruntime"] != "99.0.0"
    # an environment without what is needed is one reason, and not green
    bare = tmp_path / "bare"
    venv.create(bare, with_pip=False)
    done = call("compare", "m00", "m00", "--head-python", str(bare / "bin" / "python"), expect=4)
    assert "No module named" in done.stdout


@pytest.mark.slow
def test_calibration_is_kept_and_a_margin_below_the_noise_is_told(baseline: Path, gate: Path) -> None:
    done = call("calibrate", "--repeat", "2", "--max-regression", "60%")
    assert "2 gates" in done.stdout
    kept = gate / "results" / "cpu" / "calibration.json"
    noted = json.loads(kept.read_text())
    (cell,) = noted["cells"]
    assert cell["name"] == "m00 32 b1"
    cell["floor"] = 0.4
    kept.write_text(json.dumps(noted))
    done = call("gate", "--baseline", "base", "--max-regression", "30%", "--max-time", "1s", expect=3)
    assert "below the noise floor of 40 %" in done.stdout.replace("\n", " ")
    kept.write_text("{")
    assert "cannot be read" in refused("gate", "--baseline", "base")


@pytest.mark.slow
def test_the_same_from_python(gate: Path) -> None:
    ((path, artifact),) = api.export("m00", res=32)
    assert path.is_file()
    assert artifact.parity is not None
    assert artifact.parity.passed
    (measured,) = api.measure("m00", res=32)
    assert measured.artifact == artifact
    found = api.compare(str(path), "m00", margin=0.6)
    assert found.outcome is Outcome.PASS
    assert not list((gate / "results" / "cpu").glob("compare-*"))
