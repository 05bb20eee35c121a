"""What the program says of itself: help, versions, verbosity."""

import inspect
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import builders
import pytest
import typer
from commands import call, refused
from typer.testing import CliRunner

from fastvit_bench.cli import COMMANDS, GROUPS, _help, app
from fastvit_bench.store import runs


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder, which holds nothing."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("words", [("-q", "table"), ("table", "-q"), ("-v", "table", "--quiet")])
def test_quiet_keeps_results_and_errors(here: None, words: tuple[str, ...]) -> None:
    assert "There are no runs" in refused(*words)


@pytest.mark.parametrize("words", [("-q", "-v", "devices"), ("devices", "-qv")])
def test_less_and_more_are_not_given_together(here: None, words: tuple[str, ...]) -> None:
    assert "give one of them" in refused(*words)


def test_a_quiet_sweep_prints_its_table_alone(zoo: Path) -> None:
    done = call("latency", "-m", "m00", "--res", "32", "--threads", "1", "-q")
    assert "m00" in done.stdout
    assert all(line.startswith("warning: ") for line in done.stderr.splitlines())
    assert "results:" in call("latency", "-m", "m00", "--res", "32", "--threads", "1").stderr


# --- help -------------------------------------------------------------------------------------------------------------

APP: Any = typer.main.get_command(app)


def helped(*words: str, columns: int = 80) -> str:
    done = CliRunner().invoke(app, [*words, "--help"], env={"COLUMNS": str(columns)}, prog_name="fastvit-bench")
    assert done.exit_code == 0, done.output
    return done.stdout


def test_every_summary_is_one_line_of_80_columns() -> None:
    text = helped()
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    for title, commands in GROUPS.items():
        at = lines.index(f"{title}:")
        for line, name in zip(lines[at + 1 :], commands, strict=False):
            word, _, summary = line.strip().partition(" ")
            assert word == name
            assert summary.strip() == inspect.cleandoc(COMMANDS[name].__doc__ or "").splitlines()[0].removesuffix(".")


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("name", COMMANDS)
def test_types_have_plain_names_and_defaults_are_said(name: str, columns: int) -> None:
    text = helped(name, columns=columns)
    assert f"Usage: fastvit-bench {name}" in text
    assert not re.search(r"<\w+|\bstr\b|Optional|list\[|None", text)
    for parameter in APP.commands[name].params:
        if parameter.param_type_name == "option" and not parameter.is_flag and not parameter.required:
            unsaid = parameter.default in (None, ())
            assert not unsaid or re.search(r"\[(default: |required )", parameter.help), parameter.opts


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_two_examples_that_it_takes(name: str) -> None:
    lines = _help.examples(APP.commands[name])
    assert len(lines) >= 2
    text = helped(name)
    for line in lines:
        assert f"  {line}\n" in text
        program, command, *words = shlex.split(line)
        assert (program, command) == ("fastvit-bench", name)
        assert len(line) <= 78
        assert APP.commands[name].make_context(name, words)  # raises for what does not parse


def test_the_programs_own_examples_are_taken() -> None:
    for line in _help.examples(APP):
        program, command, *words = shlex.split(line, comments=True)
        assert program == "fastvit-bench"
        assert APP.commands[command].make_context(command, words)


@pytest.mark.parametrize("module", ["fastvit_bench", "fastvit_bench.cli"])
def test_the_package_is_a_program(module: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", module, "-V"]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == call("--version").stdout


# --- completion -------------------------------------------------------------------------------------------------------


def offered(*words: str) -> list[str]:
    """The words that bash is offered behind these, whose last one is incomplete."""
    line = " ".join(("fastvit-bench", *words))
    done = call(
        environment={
            "_FASTVIT_BENCH_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words)),
        }
    )
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.slow
def test_names_are_completed(zoo: Path) -> None:
    assert "latency" in offered("lat")
    assert offered("latency", "--device", "c") == ["cpu", "cuda", "cuda-ort"]
    assert offered("latency", "-m", "m0") == sorted(offered("latency", "-m", "m0"))
    assert "m00" in offered("gate", "-m", "m0")
    assert offered("export", "-t", "tens") == ["tensorrt", "tensorrt-rtx"]
    assert offered("table", "") == []
    path = runs.create(Path("results"), builders.run())
    assert offered("table", "") == ["last", path.stem]
    assert offered("latency", "--resume", path.stem[:5]) == [path.stem]


def test_studies_are_completed(here: None) -> None:
    assert "architecture" in offered("study", "a")
    assert "architecture" in offered("claims", "--study", "a")


@pytest.mark.parametrize("text", ["no = [toml", "device = 3", "[device.x]\nbackend = 'none'"])
def test_a_broken_configuration_completes_nothing(text: str, here: None) -> None:
    Path("benchmark.toml").write_text(text, encoding="utf-8")
    assert offered("latency", "--device", "") == []


def test_the_configuration_that_is_named_completes(here: None) -> None:
    Path("other.toml").write_text("[device.mine]\nbackend = 'onnxruntime'\n[sweep]\nmodels = []\ngrid = [256]\n")
    Path("benchmark.toml").write_text("broken", encoding="utf-8")
    assert offered("latency", "--config", "other.toml", "--device", "m") == [
        "mac",
        "mac-coreai",
        "mine",
    ]  # over the packaged ones


@pytest.mark.parametrize("words", [("latency", "--device"), ("export", "-t"), ("study",), ("table",)])
def test_completion_imports_nothing_heavy(words: tuple[str, ...], tmp_path: Path) -> None:
    program = (
        "import sys\nfrom fastvit_bench.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n"
        "    assert not {'torch', 'numpy', 'onnx', 'rich', 'pandas', 'onnxruntime'} & set(sys.modules)\n"
    )
    line = {"COMP_WORDS": f"fastvit-bench {' '.join(words)} ", "COMP_CWORD": str(len(words) + 1)}
    environment = {**os.environ, **line, "_FASTVIT_BENCH_COMPLETE": "complete_bash"}
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path, env=environment)
