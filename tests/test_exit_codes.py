"""Exit codes that are about the program itself: faults nobody foresaw, and streams that refuse what is printed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fastvit_bench.errors import ExitCode

# the program with a fault planted in one of its commands
PLANTED = """
import fastvit_bench.cli as cli
from fastvit_bench.config import Config
def device(self, name):
    raise {fault}
Config.device = device
cli.main()
"""


def program(*words: str, planted: str = "", encoding: str | None = None) -> "subprocess.CompletedProcess[bytes]":
    environment = {**os.environ, "COLUMNS": "120", "NO_COLOR": "1"}
    if encoding:
        environment["PYTHONIOENCODING"] = encoding
    start = ["-c", PLANTED.format(fault=planted)] if planted else ["-m", "fastvit_bench.cli"]
    return subprocess.run([sys.executable, *start, *words], capture_output=True, check=False, env=environment)


@pytest.mark.parametrize(
    "fault", ["KeyError('x')", "OSError(28, 'No space')", "RecursionError()", "EOFError()", "MemoryError()"]
)
def test_an_error_nobody_foresaw_has_a_code_of_its_own(fault: str, zoo: Path) -> None:
    done = program("latency", "--device", "cpu", planted=fault)
    said = done.stderr.decode()
    assert done.returncode == ExitCode.UNFORESEEN == 70
    (line,) = said.strip().splitlines()
    assert fault.split("(")[0] in line
    (path,) = re.findall(r"(\S+\.traceback\.txt)\.$", line)
    assert "Traceback" in Path(path).read_text(encoding="utf-8")
    Path(path).unlink()


@pytest.mark.slow
@pytest.mark.parametrize("words", [("table",), ("compare", "m00"), ("verify",), ("report", "--gate"), ("fuse", "-o")])
def test_a_name_that_no_file_can_have_is_one_short_sentence(words: tuple[str, ...], zoo: Path) -> None:
    done = program(*words, f"{'x' * 5000}.pth", *(["m00.onnx"] if words[0] == "fuse" else []))
    (line,) = done.stderr.decode().strip().splitlines()
    assert done.returncode == ExitCode.USAGE, line
    assert len(line) < 1500


@pytest.mark.slow
def test_messages_hold_nothing_that_a_terminal_obeys(zoo: Path) -> None:
    name = "a\x1b]0;owned\x07\x1b[31m\u202eb\x85"
    for words in (("table", f"./{name}.jsonl"), ("latency", "--model", name), ("table", "--format", name), (name,)):
        done = program(*words)
        assert done.returncode == ExitCode.USAGE
        shown = done.stderr.decode()
        assert all(line.isprintable() for line in shown.splitlines()), shown
        assert "owned" in shown


def test_wrong_words_are_wrong_usage(zoo: Path) -> None:
    assert program("gate", "--no-such-option").returncode == ExitCode.USAGE
    assert program("latency", "--seed", "x").returncode == ExitCode.USAGE


@pytest.mark.parametrize(
    ("command", "encoding"),
    [
        ("claims", "ascii"),
        ("claims", "latin-1"),
        ("study", "ascii"),
        ("study", "cp1252"),
        pytest.param("models", "cp1252", marks=pytest.mark.slow),
    ],
)
def test_a_console_that_cannot_show_every_character_gets_its_table(command: str, encoding: str, zoo: Path) -> None:
    done = program(command, encoding=encoding)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode("utf-8" if encoding == "ascii" else encoding).strip()


def test_what_an_encoding_lacks_becomes_the_nearest_character() -> None:
    told = "from fastvit_bench.cli import _output; _output.prepare_streams(); print('\\u221261.7 % \\xd7 \\u03b1')"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, check=True, env=environment)
    assert done.stdout.split() == [b"-61.7", b"%", b"x", b"?"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_full_disk_for_standard_output_is_told(zoo: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", "fastvit_bench.cli", "study"], stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert done.returncode == ExitCode.USAGE
    (line,) = done.stderr.decode().strip().splitlines()
    assert line == "error: Standard output cannot be written: No space left on device."


def test_a_reader_that_had_enough_is_no_error(zoo: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "wb") as pipe:
        done = subprocess.run(
            [sys.executable, "-m", "fastvit_bench.cli", "study"], stdout=pipe, stderr=subprocess.PIPE, check=False
        )
    assert (done.returncode, done.stderr) == (0, b"")


# --- what a command needs is looked for first -------------------------------------------------------------------------

WITHOUT = """
import importlib.util
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name in {lacking!r} else find(name, *more)
import fastvit_bench.cli as cli
cli.main()
"""

STUDY = """
[study.peers]
title = "with a peer"
rows = [
    {label = "ours", model = "m00", res = 32},
    {label = "theirs", model = "timm:resnet18", res = 32},
]
"""


def files_of(folder: Path) -> list[Path]:
    """Everything in it but the locks of devices."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")


def without(*lacking: str, words: str) -> "subprocess.CompletedProcess[str]":
    """The program where packages are not installed."""
    program = WITHOUT.format(lacking=lacking)
    return subprocess.run([sys.executable, "-c", program, *words.split()], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("lacking", "words", "remedy"),
    [
        ("timm", "latency --model timm:resnet18 --res 32", r"pip install .*\[zoo\]"),
        ("timm", "export --target onnx --model timm:resnet18", r"pip install .*\[zoo\]"),
        ("timm", "compare m00 timm:resnet18", r"pip install .*\[zoo\]"),
        ("timm", "gate --baseline base --model timm:resnet18", r"pip install .*\[zoo\]"),
        ("timm", "study peers --blocks 1", r"pip install .*\[zoo\]"),
        ("sklearn", "export --target coreml --compress palette6", r"pip install .*\[compress\]"),
        ("coreai_torch", "export --target coreai", r"pip install .*\[coreai\]"),
        ("altair", "study peers -o a.svg", "pip install .*altair"),
        ("vl_convert", "report", "pip install .*vl-convert-python"),
        ("openvino", "export --target openvino", r"pip install .*\[openvino\]"),
        ("tensorrt_rtx tensorrt_rtx_bindings", "export --target tensorrt-rtx", "pip install"),
    ],
)
def test_what_is_missing_is_one_sentence_before_anything_is_done(
    lacking: str, words: str, remedy: str, zoo: Path
) -> None:
    with (zoo / "benchmark.toml").open("a") as file:
        file.write(STUDY)
    before = files_of(zoo)
    done = without(*lacking.split(), words=words)
    assert (done.returncode, done.stdout) == (ExitCode.UNAVAILABLE, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert re.search(remedy, line)
    assert files_of(zoo) == before


def test_layers_whose_times_are_not_told_are_refused_before_anything_is_timed(zoo: Path) -> None:
    planted = (
        "from fastvit_bench.backends import onnxruntime\n"
        "type(onnxruntime.BACKEND).unprofiled = lambda self, device: 'No times of layers; leave --profile out.'\n"
        "import fastvit_bench.cli as cli\ncli.main()"
    )
    before = files_of(zoo)
    words = [sys.executable, "-c", planted, "latency", "--profile", "-m", "m00", "--res", "32"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (ExitCode.USAGE, "error: No times of layers; leave --profile out.\n")
    assert files_of(zoo) == before
