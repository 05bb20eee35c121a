"""The GitHub Action and the jobs in docs/guides/ci.md: they parse, use what they declare, and run what they say.

A fake `fastvit-bench` on the PATH writes down its words, so that what is tested is the shell between inputs and words.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
PAGE = (ROOT / "docs" / "guides" / "ci.md").read_text(encoding="utf-8")
GITHUB, GITLAB = (yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))

REPORT = ["--report=fastvit-bench-report", "--report-format=markdown,junit,json,svg"]
INPUT = re.compile(r"\$\{\{ inputs\.([\w-]+) \}\}")


def injections(action: dict[str, Any]) -> list[str]:
    """Scripts that expressions are pasted into."""
    return [step["run"] for step in action["runs"]["steps"] if "${{" in step.get("run", "")]


def used(action: dict[str, Any]) -> set[str]:
    """Inputs that any step takes, with the environment variables of a script counted only where it reads them."""
    found: set[str] = set()
    for step in action["runs"]["steps"]:
        for name, value in step.get("env", {}).items():
            if re.search(rf"\$\{{?{name}\b|environ\[\"{name}\"\]", step["run"]):
                found.update(INPUT.findall(str(value)))
        for value in step.get("with", {}).values():
            found.update(INPUT.findall(str(value)))
    return found


def environment(step: dict[str, Any], inputs: dict[str, str]) -> dict[str, str]:
    """A step's variables, from the inputs that were given and the defaults of the others."""
    known = {name: str(about["default"]) for name, about in ACTION["inputs"].items()} | inputs
    return {name: INPUT.sub(lambda found: known[found[1]], value) for name, value in step["env"].items()}


def run(
    folder: Path, step: dict[str, Any], inputs: dict[str, str], code: int = 0
) -> tuple[subprocess.CompletedProcess[str], list[list[str]]]:
    """Run a step's script as GitHub does, with programs that only write down their words and end with `code`."""
    said, programs = folder / "said", folder / "bin"
    programs.mkdir(exist_ok=True)
    program = f"""#!{sys.executable}
import json, sys
with open({str(said)!r}, "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
sys.exit({code})
"""
    for name in ("fastvit-bench", "python"):
        (programs / name).unlink(missing_ok=True)
    (programs / "fastvit-bench").write_text(program, encoding="utf-8")
    if "pip" in step["run"]:
        (programs / "python").write_text(program, encoding="utf-8")
    else:
        (programs / "python").symlink_to(sys.executable)
    for each in programs.iterdir():
        each.chmod(0o755)
    script = folder / "step.sh"
    script.write_text(step["run"], encoding="utf-8")
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(script)],
        cwd=folder,
        env={
            **environment(step, inputs),
            "PATH": f"{programs}{os.pathsep}{os.defpath}",
            "RUNNER_TEMP": str(folder),
            "GITHUB_ACTION_PATH": "/the action",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    lines = said.read_text(encoding="utf-8").splitlines() if said.exists() else []
    return done, [json.loads(line) for line in lines]


def step(name: str) -> dict[str, Any]:
    (found,) = [step for step in STEPS if step.get("name") == name]
    return found


# --- the files --------------------------------------------------------------------------------------------------------


def test_every_input_is_explained_and_used() -> None:
    assert used(ACTION) == set(ACTION["inputs"])
    assert set(ACTION["inputs"]) == {
        *("baseline-rev", "baseline", "device", "model", "res", "max-regression", "max-time"),
        *("python-version", "install", "extra-args"),
    }
    for name, about in ACTION["inputs"].items():
        assert about["description"].endswith("."), name
        assert isinstance(about["default"], str), name
        assert f"`{name}`" in PAGE, name


def test_outputs_are_those_the_gate_writes() -> None:
    assert set(ACTION["outputs"]) == {"verdict", "worst_ratio", "worst_cell", "report"}
    for name, about in ACTION["outputs"].items():
        assert about["value"] == f"${{{{ steps.gate.outputs.{name} }}}}"
        assert f"`{name}`" in PAGE
    assert step("Gate")["id"] == "gate"


def test_no_expression_is_pasted_into_a_script() -> None:
    assert injections(ACTION) == []


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ('"${INSTALL:-$GITHUB_ACTION_PATH}"', '"${{ inputs.install }}"', injections),
        ('words+=("--model=$MODEL")', "true", lambda action: {"model"} - used(action)),
        (
            "python-version: ${{ inputs.python-version }}",
            "python-version: '3.12'",
            lambda a: {"python-version"} - used(a),
        ),
    ],
)
def test_planted_faults_are_found(old: str, new: str, found: Any) -> None:
    text = (ROOT / "action.yml").read_text(encoding="utf-8")
    assert old in text
    text = text.replace(old, new).replace('if [ -n "$MODEL" ]; then true; fi', "true")
    assert found(yaml.safe_load(text))


def test_the_report_is_kept_whatever_comes_out() -> None:
    kept = STEPS[-1]
    assert kept["if"] == "always()"
    assert kept["uses"].startswith("actions/upload-artifact@")
    assert REPORT[0].endswith(f"={kept['with']['path']}")


def test_scripts_name_their_shell_and_are_sound(tmp_path: Path) -> None:
    for each in STEPS:
        assert ("run" in each) != ("uses" in each)
        if "run" in each:
            assert each["shell"] == "bash"
            script = tmp_path / "step.sh"
            script.write_text(each["run"], encoding="utf-8")
            subprocess.run(["bash", "-n", str(script)], check=True)


def test_the_action_is_in_the_source_distribution() -> None:
    assert '"/action.yml"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


# --- the words --------------------------------------------------------------------------------------------------------


def test_empty_inputs_are_options_that_were_not_given(tmp_path: Path) -> None:
    _, said = run(tmp_path, step("Gate"), {})
    assert said == [["gate", "--device=cpu", *REPORT]]


def test_all_inputs_are_passed_on(tmp_path: Path) -> None:
    inputs = {
        "baseline-rev": "origin/main",
        "baseline": "results/cpu/a.jsonl",
        "device": "cpu",
        "model": "fastvit_*",
        "res": "224..512",
        "max-regression": "5%",
        "max-time": "20m",
        "extra-args": "--seed 3 --label 'two words'",
    }
    (tmp_path / "fastvit_a").touch()  # what a wildcard would find
    _, said = run(tmp_path, step("Gate"), inputs)
    options = [f"--{name}={value}" for name, value in inputs.items() if name != "extra-args"]
    assert said == [["gate", *options, *REPORT, "--seed", "3", "--label", "two words"]]


HOSTILE = [
    "a b",
    "it's",
    '"quoted"',
    "$(touch pwned)",
    "`touch pwned`",
    "; touch pwned",
    "*",
    "-x",
    "a\nb",
    "$HOME",
    "\\",
    "é",
]


INPUTS = ["baseline-rev", "baseline", "device", "model", "res", "max-regression", "max-time"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        # by default each value once
        pytest.param(name, value, marks=() if at % len(INPUTS) == INPUTS.index(name) else pytest.mark.slow)
        for at, value in enumerate(HOSTILE)
        for name in INPUTS
    ],
)
def test_inputs_arrive_as_they_are(name: str, value: str, tmp_path: Path) -> None:
    done, said = run(tmp_path, step("Gate"), {"device": "", name: value})
    assert done.returncode == 0, done.stderr
    assert said == [["gate", f"--{name}={value}", *REPORT]]
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("value", HOSTILE)
def test_extra_words_arrive_as_they_are(value: str, tmp_path: Path) -> None:
    (tmp_path / "b").touch()
    _, said = run(tmp_path, step("Gate"), {"extra-args": f"--seed  3 {shlex.quote(value)} *"})
    assert said == [["gate", "--device=cpu", *REPORT, "--seed", "3", value, "*"]]
    assert not (tmp_path / "pwned").exists()


def test_a_quote_that_is_not_closed_ends_the_step_before_anything_runs(tmp_path: Path) -> None:
    done, said = run(tmp_path, step("Gate"), {"extra-args": "--label 'two"})
    assert done.returncode != 0
    assert said == []


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 5, 6, 7, 70, 130])
def test_the_exit_code_is_passed_on(code: int, tmp_path: Path) -> None:
    done, said = run(tmp_path, step("Gate"), {}, code)
    assert done.returncode == code
    assert len(said) == 1


@pytest.mark.parametrize(
    ("install", "requirement"),
    [("", "/the action"), ("fastvit-bench[rtx] @ git+https://x/y", None), ("; touch pwned", None)],
)
def test_what_is_installed_is_one_requirement(install: str, requirement: str | None, tmp_path: Path) -> None:
    done, said = run(tmp_path, step("Install fastvit-bench"), {"install": install})
    assert said == [["-m", "pip", "install", requirement or install]]
    assert run(tmp_path, step("Install fastvit-bench"), {}, 1)[0].returncode == 1
    assert done.returncode == 0


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_workflow_gives_inputs_that_exist_and_the_whole_history() -> None:
    checkout, gate = GITHUB["jobs"]["gate"]["steps"]
    assert checkout["with"]["fetch-depth"] == 0
    assert set(gate["with"]) <= set(ACTION["inputs"])
    assert gate["uses"].split("@")[0].endswith("/fastvit-bench")
    assert "pull_request" in GITHUB[True]  # YAML 1.1 reads `on` as true


def test_gitlab_runs_the_same_command(tmp_path: Path) -> None:
    (command,) = [line for line in GITLAB["latency"]["script"] if line.startswith("fastvit-bench ")]
    inputs = {name: str(value) for name, value in GITHUB["jobs"]["gate"]["steps"][1]["with"].items()}
    assert inputs["baseline-rev"] == "${{ github.event.pull_request.base.sha }}"
    _, said = run(tmp_path, step("Gate"), inputs | {"baseline-rev": "0123abc"})
    assert shlex.split(command.replace("$CI_MERGE_REQUEST_DIFF_BASE_SHA", "0123abc"))[1:] == said[0]


def test_gitlab_keeps_the_reports() -> None:
    job = GITLAB["latency"]
    assert int(job["variables"]["GIT_DEPTH"]) == 0
    assert job["artifacts"]["when"] == "always"
    (folder,) = job["artifacts"]["paths"]
    assert REPORT[0] == f"--report={folder.rstrip('/')}"
    assert job["artifacts"]["reports"]["junit"] == f"{folder}*.xml"
    assert "junit" in REPORT[1]


def test_every_exit_code_is_explained() -> None:
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}
    assert told == {*range(8), 70}
