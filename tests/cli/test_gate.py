"""`compare`, `gate` and `calibrate` as users call them, on a network of 32 x 32 pixels."""

import json
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from commands import call, refused

from fastvit_bench.comparing import formats as compare_formats
from fastvit_bench.exporting import metadata
from fastvit_bench.records.comparison import Outcome
from fastvit_bench.store import runs

# what an unchanged network may come to: on a busy machine some runs in a hundred are called quicker
GREEN = {Outcome.PASS, Outcome.IMPROVED}
SMALL = """
[gate]
models = ["m00"]
grid = [32]
max_regression = "100%"
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


def git(folder: Path, *words: str) -> str:
    told = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(folder), *words]
    return subprocess.run(told, check=True, capture_output=True, text=True).stdout.strip()


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_an_unchanged_tree_passes_and_leaves_every_report(baseline: Path, gate: Path) -> None:
    formats = "markdown,junit,json,bmf,gha,pytest-benchmark,svg,png"
    git(gate, "init", "--quiet")
    git(gate, "add", "benchmark.toml")
    git(gate, "commit", "--quiet", "-m", "as it is")
    environment = {"GITHUB_STEP_SUMMARY": str(gate / "summary.md"), "GITHUB_OUTPUT": str(gate / "output")}
    os.environ.update(environment)
    try:
        done = call("gate", "--baseline", "base", "--report", "out", "--report-format", formats)
    finally:
        for name in environment:
            del os.environ[name]
    assert "m00 32 b1" in done.stdout
    assert len(re.findall(r"m00 32 b1 (?:passes|improved): ", done.stdout)) == 1
    assert "-v" in done.stdout.splitlines()[-1]
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
    found = compare_formats.read(kept)
    (cell,) = found.cells
    assert found.outcome in GREEN
    assert cell.verdict.blocks in found.plan.looks  # how many it takes is up to the machine
    assert cell.base is not None
    assert cell.base.parity is not None  # proved where it was timed
    assert found.commit == git(gate, "rev-parse", "HEAD")
    assert found.dirty is False
    assert "m00 32 b1" in (gate / "summary.md").read_text()
    assert re.search("^verdict=(pass|improved)$", (gate / "output").read_text(), re.MULTILINE)


@pytest.mark.slow
def test_another_size_is_never_compared(baseline: Path, gate: Path) -> None:
    call("export", "-t", "onnx", "-m", "m00", "--res", "64", "-o", "head")
    done = call("gate", "--baseline", "base", "--head", "head", expect=4)
    assert "lacks it" in done.stdout
    assert "64" in done.stdout


@pytest.mark.slow
def test_a_true_slowdown_is_exit_1(gate: Path) -> None:
    """SA12 unfused takes several times as long as T8, however busy the machine is."""
    with (gate / "benchmark.toml").open("a") as file:
        file.write('[model.slow]\nvariant = "fastvit_sa12"\n')
    said = call(
        "compare", "m00", "slow,fuse=none", "--res", "32", "--max-regression", "2%", "--report", "out",
        "--report-format", "junit", expect=1,
    ).stdout  # fmt: skip
    assert "regressed" in said
    assert "failure" in (gate / "out" / "compare.junit.xml").read_text()


@pytest.mark.slow
def test_compare_without_a_margin_informs_and_ends_with_0(gate: Path) -> None:
    said = call("compare", "m00,threads=1", "m01,threads=1", "--res", "32", "--max-time", "1s").stdout
    assert "m00 / m01 32 b1 is inconclusive: Nothing was measured" in " ".join(said.split())
    assert "and the time allowed is 1 s; allow more" in " ".join(said.split())


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


@pytest.mark.slow
def test_a_head_that_computes_something_else_is_exit_5_before_it_is_timed(baseline: Path, gate: Path) -> None:
    head = gate / "head"
    shutil.copytree(baseline, head)
    (file,) = head.glob("*.onnx")
    # another network's outputs beside it
    other = metadata.reference_outputs_path(file)
    call("export", "-t", "onnx", "-m", "m00", "--res", "32", "--seed", "7", "-o", "seven")
    (theirs,) = (gate / "seven").glob("*.npz")
    other.write_bytes(theirs.read_bytes())
    done = call("gate", "--baseline", "base", "--head", "head", "--report", "out", "--report-format", "junit", expect=5)
    assert "computes something else" in done.stdout
    assert "error" in (gate / "out" / "gate.junit.xml").read_text()


def test_two_gates_at_once_on_one_device(baseline: Path, gate: Path) -> None:
    with runs.lock(gate / "results", "cpu"):
        assert "Another" in refused("gate", "--baseline", "base", expect=6)


@pytest.mark.slow
def test_a_stored_run_is_a_weaker_baseline(gate: Path) -> None:
    call("latency", "-m", "m00", "--res", "32", "--runs", "20")
    (run,) = (gate / "results" / "cpu").glob("*.jsonl")
    words = ("gate", "--baseline", str(run), "--max-regression", "90%", "--report", "out", "--report-format", "json")
    done = call(*words, expect=(0, 3))  # a busy machine may leave it open
    assert "stored" in done.stdout
    found = compare_formats.read(gate / "out" / "gate.json")
    assert found.kind == "stored"
    assert found.plan.margin == pytest.approx(1.0)
    assert all(block.reference for block in found.cells[0].blocks)


@pytest.mark.slow
def test_a_stored_run_of_another_machine_is_not_compared(gate: Path) -> None:
    call("latency", "-m", "m00", "--res", "32", "--runs", "6")
    (run,) = (gate / "results" / "cpu").glob("*.jsonl")
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
    host = runs.read(run).runs[0].machine.host
    run.write_text(run.read_text().replace(f'"host":"{host}"', '"host":"c0ffee00"'))  # as of another container
    words = ("gate", "--baseline", str(run), "--max-regression", "90%", "--report", "out", "--report-format", "json")
    call(*words, expect=(0, 3))  # a busy machine may leave it open; another machine would be 4
    found = compare_formats.read(gate / "out" / "gate.json")
    assert any(f"host name: c0ffee00 then, {host} now" in warning for warning in found.warnings)


@pytest.mark.slow
def test_a_revision_is_exported_by_its_own_code(zoo: Path) -> None:
    """A repository that is not this tool's: its configuration is read at that revision, with the installed tool."""
    (zoo / "benchmark.toml").write_text((zoo / "benchmark.toml").read_text() + SMALL)
    (zoo / ".gitignore").write_text("models/\nresults/\n")
    (zoo / "requirements.txt").write_text("no-such-package==1\n")
    for words in (["init", "--quiet"], ["add", "-A"], ["commit", "--quiet", "-m", "base"]):
        git(zoo, *words)
    # packages of the user's own: they are none of this tool's, so nothing is installed for the base
    (zoo / "requirements.txt").write_text("no-such-package==2\n")
    done = call("gate", "--baseline-rev", "HEAD", "--report", "out", "--report-format", "json")
    assert "exporting m00 by HEAD" in done.stderr
    found = compare_formats.read(zoo / "out" / "gate.json")
    assert found.base == "HEAD"
    assert found.outcome in GREEN
    assert len(git(zoo, "worktree", "list").splitlines()) == 1
    # a model that the revision does not have is a missing cell
    (zoo / "benchmark.toml").write_text(
        (zoo / "benchmark.toml").read_text().replace("[gate]", '[model.new]\nvariant = "fastvit_t8"\n[gate]')
    )
    done = call("gate", "--baseline-rev", "HEAD", "-m", "new", "--max-time", "1s", expect=4)
    assert "HEAD has no model 'new' yet" in done.stdout


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
    (cell,) = compare_formats.read(gate / "out" / "compare.json").cells
    assert cell.head is not None
    assert cell.base is not None
    assert cell.head.machine.packages["onnxruntime"] == "99.0.0"
    assert cell.base.machine.packages["onnxruntime"] != "99.0.0"
    # an environment without what is needed is one reason, and not green
    bare = tmp_path / "bare"
    venv.create(bare, with_pip=False)
    done = call("compare", "m00", "m00", "--head-python", str(bare / "bin" / "python"), expect=4)
    assert "No module named" in " ".join(done.stdout.split())


@pytest.mark.slow
def test_calibration_is_kept_and_a_margin_below_the_noise_is_told(baseline: Path, gate: Path) -> None:
    done = call("calibrate", "--repeat", "2", "--max-regression", "60%", "-o", "noise.csv")
    assert done.stdout == ""
    header, line = (gate / "noise.csv").read_text().splitlines()
    assert header.startswith("cell,margin,blocks,scatter,")
    assert line.startswith("m00 32 b1,0.6,")
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


# --- what a gate leaves, whatever refuses it --------------------------------------------------------------------------

# the program with something planted in front of it
PLANTED = "import fastvit_bench.cli as cli\n{}\ncli.main()"
NOTHING_DRAWS = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "vl_convert" else find(name, *more)
"""
BROKEN_DRAWING = """
from fastvit_bench.comparing import formats as verdict
def broken(comparison):
    raise RuntimeError("a fault of the drawing library")
verdict.FORMATS["svg"] = verdict.FORMATS["svg"]._replace(writer=broken)
"""
NEW_MODEL = ("gate", "--baseline", "base", "-m", "m01")  # a verdict for which nothing is timed
GITHUB = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": "summary.md", "GITHUB_OUTPUT": "output"}


def planted(
    fault: str, *words: str, stdout: int = subprocess.PIPE, stderr: int = subprocess.PIPE
) -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", **GITHUB}
    return subprocess.run(
        [sys.executable, "-c", PLANTED.format(fault), *words],
        stdout=stdout,
        stderr=stderr,
        text=True,
        check=False,
        env=environment,
    )


def kept_for_github(folder: Path, verdict_: str = "no-baseline") -> None:
    assert "m01 32 b1" in (folder / "summary.md").read_text()
    assert f"verdict={verdict_}" in (folder / "output").read_text()


@pytest.mark.slow
def test_a_model_that_the_base_does_not_have_ends_by_the_policy(baseline: Path, gate: Path) -> None:
    done = planted("", *NEW_MODEL)
    assert done.returncode == 4
    assert "m01 32 b1 has no baseline yet: the baseline has no model 'm01' yet" in done.stdout
    assert "--no-baseline pass lets the first gate pass" in done.stdout
    kept_for_github(gate)
    done = planted("", *NEW_MODEL, "--no-baseline", "pass", "--report", "out")
    assert done.returncode == 0, done.stderr
    assert "it passes by --no-baseline pass" in done.stdout
    assert "no baseline yet" in (gate / "out" / "gate.md").read_text()
    assert (gate / "output").read_text().count("verdict=no-baseline") == 2


@pytest.mark.slow
def test_the_verdict_is_one_document_for_programs(baseline: Path, gate: Path) -> None:
    done = planted("", *NEW_MODEL, "--json")
    assert done.returncode == 4
    record = json.loads(done.stdout)
    assert (record["outcome"], record["exit_code"]) == ("no-baseline", 4)
    assert "::" in done.stderr  # GitHub's annotations
    assert planted("", *NEW_MODEL, "-o", "verdict.md").returncode == 4
    written = (gate / "verdict.md").read_text(encoding="utf-8")
    assert "m01 32 b1" in written
    assert planted("", *NEW_MODEL, "-o", "verdict.md").returncode == 4  # its own is replaced
    (gate / "mine.json").write_text('{"mine": true}')
    done = planted("", *NEW_MODEL, "-o", "mine.json")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "--force" in done.stderr
    assert planted("", *NEW_MODEL, "-o", "mine.json", "--force").returncode == 4
    assert planted("", *NEW_MODEL, "-o", "mine.json").returncode == 4


def test_cells_that_both_sides_lack_are_never_green(baseline: Path, gate: Path) -> None:
    """Nothing is timed here: what both folders hold is another size."""
    done = call("gate", "--baseline", "base", "--head", "base", "--res", "64,96", "--no-baseline", "pass", expect=4)
    assert "m00 64 b1" in done.stdout
    assert "m00 96 b1" in done.stdout


FOLDER_IN_THE_WAY = """import shutil
from fastvit_bench.comparing import formats
formats.check_outputs = lambda *words, **more: shutil.copytree('base', 'out/gate.svg')"""


@pytest.mark.slow
@pytest.mark.parametrize("fault", [BROKEN_DRAWING, FOLDER_IN_THE_WAY])
def test_a_report_that_cannot_be_written_is_a_warning_beside_the_verdict(
    fault: str, baseline: Path, gate: Path
) -> None:
    done = planted(fault + "\nimport fastvit_bench.files as f\nf.put = lambda a, b: a.replace(b)", *NEW_MODEL,
                   "--report", "out")  # fmt: skip
    assert done.returncode == 4
    (warning,) = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert warning.startswith("warning: No svg in out: ")
    assert {"gate.md", "gate.json", "gate.junit.xml"} <= set(files(gate / "out"))
    assert "no baseline yet" in done.stdout
    kept_for_github(gate)


@pytest.mark.slow
def test_what_draws_is_looked_for_before_anything_is_measured(baseline: Path, gate: Path) -> None:
    done = planted(NOTHING_DRAWS, *NEW_MODEL, "--report", "out", "--report-format", "junit,svg")
    assert done.returncode == 6
    assert done.stderr.count("\n") == 1
    assert re.search("run: .*pip install vl-convert-python", done.stderr)
    assert not (gate / "out").exists()
    # of the default formats it is left out, and said to be
    done = planted(NOTHING_DRAWS, *NEW_MODEL, "--report", "out")
    assert done.returncode == 4
    assert done.stderr.startswith("warning: svg is left out of the reports: ")
    assert files(gate / "out") == ["gate.json", "gate.junit.xml", "gate.md"]
    kept_for_github(gate)


@pytest.mark.parametrize(("refusing", "both"), [("closed", True), pytest.param("full", False, marks=pytest.mark.slow)])
def test_a_standard_output_that_takes_nothing_changes_no_verdict_and_loses_no_file(
    refusing: str, both: bool, baseline: Path, gate: Path
) -> None:
    if refusing == "closed":
        reading, stream = os.pipe()
        os.close(reading)
    elif Path("/dev/full").exists():
        stream = os.open("/dev/full", os.O_WRONLY)
    else:
        pytest.skip("this system has no /dev/full")
    try:
        for policy, code in (("fail", 4), ("pass", 0)):
            words = (*NEW_MODEL, "--report", "out", "--no-baseline", policy)
            done = planted("", *words, stdout=stream, stderr=stream if both else subprocess.PIPE)
            assert done.returncode == code, done.stderr
    finally:
        os.close(stream)
    assert files(gate / "out") == ["gate.json", "gate.junit.xml", "gate.md", "gate.svg"]
    assert len(list((gate / "results" / "cpu").glob("gate-*.json"))) == 2
    kept_for_github(gate)


@pytest.mark.parametrize(("folder", "what"), [("results", "results"), ("models", "exported files"), ("out", "reports")])
def test_a_folder_that_takes_nothing_is_told_before_anything_is_measured(
    folder: str, what: str, baseline: Path, gate: Path
) -> None:
    """Whoever runs the tests may write everywhere, so the system's answer is planted."""
    place = gate / folder
    place.mkdir(exist_ok=True)
    fault = (
        f"import os; can = os.access; os.access = lambda path, mode: can(path, mode) and str(path) != {str(place)!r}"
    )
    done = planted(fault, *NEW_MODEL, "--report", "out")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert f"for {what} cannot be written" in line
    assert not (gate / "summary.md").exists()


@pytest.mark.slow
def test_a_base_of_before_the_gate_was_added_has_no_baseline(zoo: Path) -> None:
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    (zoo / ".gitignore").write_text("models/\nresults/\n")
    written = (zoo / "benchmark.toml").read_text() + SMALL
    (zoo / "benchmark.toml").unlink()
    for words in (["init", "--quiet"], ["add", "-A"], ["commit", "--quiet", "-m", "base"]):
        subprocess.run([*git, *words], check=True, cwd=zoo)
    (zoo / "ci").mkdir()
    (zoo / "ci" / "gate.toml").write_text(written)
    for place in ("benchmark.toml", "ci/gate.toml"):  # the counterpart of the configuration in use, wherever it lies
        (zoo / place).write_text(written)
        done = call("gate", "--baseline-rev", "HEAD", "--config", place, expect=4)
        assert f"HEAD has no {Path(place).name} yet, so there is nothing to compare with" in done.stdout
        assert "exporting" not in done.stderr
        call("gate", "--baseline-rev", "HEAD", "--config", place, "--no-baseline", "pass")


@pytest.mark.slow
@pytest.mark.parametrize("format_", ["svg", "png"])
def test_commands_that_draw_look_for_what_draws_first(format_: str, zoo: Path) -> None:
    for words in (["roofline"], ["history"]):
        done = planted(NOTHING_DRAWS, *words, "-o", f"a.{format_}")
        assert (done.returncode, done.stderr.count("\n")) == (6, 1)
        assert re.search("run: .*pip install vl-convert-python", done.stderr)


def rewrite_sidecar(folder: Path, change: dict[str, object]) -> None:
    (path,) = folder.glob("*.onnx.json")
    content = json.loads(path.read_text())
    for name, value in change.items():
        content[name] = content[name] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(content))


@pytest.mark.slow
def test_an_allowed_difference_is_said_first(baseline: Path, gate: Path) -> None:
    rewrite_sidecar(baseline, {"fused": "none", "classes": 5})
    assert "differ in fuse, variant" in refused("gate", "--baseline", "base", "--allow", "threads")
    assert "classes: 5 there" in call("gate", "--baseline", "base", "--allow", "fuse", expect=4).stdout
    words = ("gate", "--baseline", "base", "--allow", "fuse", "--allow", "classes", "--max-time", "1s")
    done = call(*words, "--report", "out", expect=3)  # nothing was measured within a second
    found = compare_formats.read(gate / "out" / "gate.json")
    assert found.plan.allowed == ("fuse", "classes")
    assert done.returncode == 3


def test_other_weights_are_said_and_compared(baseline: Path, gate: Path) -> None:
    rewrite_sidecar(baseline, {"weights": {"seed": 7}})
    done = call("gate", "--baseline", "base", "--max-time", "1s", expect=3)
    assert "m00 32 b1: the weights differ, random(seed 7) there and random(seed 0) here." in done.stderr


@pytest.mark.slow
def test_a_report_never_replaces_a_file_of_others(baseline: Path, gate: Path) -> None:
    (gate / "out").mkdir()
    (gate / "out" / "gate.json").write_text('{"mine": true}')
    (gate / "out" / "gate.md").write_text("# Mine\n")
    said = refused("gate", "--baseline", "base", "--report", "out")
    assert "gate.md exists and was not written by fastvit-bench" in said
    assert (gate / "out" / "gate.json").read_text() == '{"mine": true}'
    words = ("gate", "--baseline", "base", "--report", "out", "--max-time", "1s")
    formats = ("--report-format", ",".join(compare_formats.FORMATS))
    call(*words, *formats, "--force", expect=3)
    call(*words, *formats, expect=3)  # what it wrote itself it may replace
