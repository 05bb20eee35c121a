"""Outputs as users meet them: nothing is replaced or lost silently, and nothing that is printed moves a terminal."""

import csv
import io
import os
import struct
import zlib
from pathlib import Path

import builders
import pytest
from commands import call, refused

from fastvit_bench import files
from fastvit_bench.render import charts, data
from fastvit_bench.render.table import Column, Table
from fastvit_bench.render.text import printable_lines
from fastvit_bench.store import runs

CONTROL = ("\x1b", "\x07", "\u202e", "\x9b")


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with two runs, a day apart, of one model at two sizes."""
    for day in (1, 2):
        path = runs.create(tmp_path / "results", builders.run(id=f"2026020{day}-142233-9f3c1a"))
        for size in (224, 256):
            artifact = builders.artifact(shape=builders.shape(size))
            runs.append(path, builders.measurement(artifact=artifact, finished=builders.at(day * 1440)))
    return tmp_path


# --- what is replaced -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_report_never_replaces_what_it_did_not_write(home: Path) -> None:
    (run, _) = sorted((home / "results" / "cpu").glob("*.jsonl"))
    before = run.read_bytes()
    for words in (["-o", str(run)], ["-o", str(run), "--force"]):
        assert "end it in .html" in refused("report", *words, "--config", str(config(home)))
    assert run.read_bytes() == before
    (home / "notes.html").write_text("mine", encoding="utf-8")
    (home / "report.html").write_text("mine too", encoding="utf-8")
    for words in (["-o", str(home / "notes.html")], []):
        done = call("report", *words, expect=2, cwd=home)
        assert "was not written by fastvit-bench" in done.stderr
    assert (home / "notes.html").read_text() == "mine"
    call("report", "-o", "notes.html", "--force", cwd=home)
    call("report", "-o", "notes.html", cwd=home)  # its own page
    assert files.is_marked((home / "notes.html").read_bytes())


def test_an_input_is_not_replaced_even_by_force(home: Path) -> None:
    run = sorted((home / "results" / "cpu").glob("*.jsonl"))[0]
    (home / "link.html").symlink_to(run)
    done = call("report", run.stem, "-o", "link.html", "--force", expect=2, cwd=home)
    assert "is the file that is read" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("words", [["report", "--format", "svg"], ["history", "-o", "figures/history.svg"]])
def test_pictures_replace_pictures_only(home: Path, words: list[str]) -> None:
    (home / "figures").mkdir()
    call(*words, cwd=home)
    drawn = sorted((home / "figures").iterdir())
    assert drawn
    content = [path.read_bytes() for path in drawn]
    call(*words, cwd=home)
    assert [path.read_bytes() for path in drawn] == content  # the same bytes again
    drawn[0].write_text("mine", encoding="utf-8")
    assert "was not written by fastvit-bench" in call(*words, expect=2, cwd=home).stderr
    assert drawn[0].read_text() == "mine"
    call(*words, "--force", cwd=home)
    assert files.is_marked(drawn[0].read_bytes())


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_a_picture_bears_the_mark_and_is_one(kind: str) -> None:
    picture = charts.rendered({"data": {"values": [{"a": 1}]}, "mark": "point", "encoding": {}}, kind)
    assert files.is_marked(picture)
    if kind == "svg":
        from xml.etree import ElementTree

        assert ElementTree.fromstring(picture).tag.endswith("svg")
        return
    from PIL import Image

    with Image.open(io.BytesIO(picture)) as image:
        image.load()
        assert image.info["Comment"].encode() == files.MARK
    at = picture.index(b"tEXt")
    (length,) = struct.unpack(">I", picture[at - 4 : at])
    assert picture[at + 4 + length : at + 8 + length] == struct.pack(">I", zlib.crc32(picture[at : at + 4 + length]))


@pytest.mark.slow
def test_a_picture_that_cannot_be_written_costs_itself_alone(home: Path) -> None:
    printed = call("history", cwd=home).stdout
    done = call("history", "-o", "x" * 252 + ".svg", expect=2, cwd=home)  # a name that only the write refuses
    assert done.stdout == printed
    assert "File name too long" in done.stderr


# --- what cannot be read ----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("command", ["table", "report", "history"])
def test_a_run_that_cannot_be_read_is_named_and_the_others_are_shown(home: Path, command: str) -> None:
    bad = home / "results" / "cpu" / "20260131-000000-000000.jsonl"
    bad.write_text("{}\n", encoding="utf-8")
    done = call(command, cwd=home, expect=7)
    [warning] = [line for line in done.stderr.splitlines() if line.startswith("warning: ")]
    assert "20260131-000000-000000.jsonl, line 1" in warning
    shown = (home / "report.html").read_text(encoding="utf-8") if command == "report" else done.stdout
    assert "fastvit_t8" in shown
    for run in runs.all_runs(home / "results"):
        run.write_text("{}\n", encoding="utf-8")
    assert "line 1" in call(command, cwd=home, expect=2).stderr


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_a_pipe_among_the_runs_is_named(home: Path) -> None:
    os.mkfifo(home / "results" / "cpu" / "20260131-000000-000000.jsonl")
    assert "no regular file" in call("table", cwd=home, expect=7).stderr


# --- what is printed --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("table", "./a\x1b]0;PWNED\x07.jsonl"),
        ("table", "--no-such-\x1b[31moption"),
        ("no-such-\x1b[31mcommand",),
        ("--no-such-\x1b[31moption",),
        ("table", "--format", "\x1b[31m\u202e"),
        ("history", "--res", "\x9b31m"),
        ("report", "-o", "\x1b[31m.txt"),
        ("models", "--config", "\x1b[31m.toml"),
    ],
)
def test_no_message_moves_the_terminal(home: Path, words: tuple[str, ...]) -> None:
    done = call(*words, expect=2, cwd=home)
    assert done.stderr.strip()
    assert not any(control in done.stderr + done.stdout for control in CONTROL)


@pytest.mark.slow
def test_names_in_files_are_printed_without_what_a_terminal_obeys(home: Path) -> None:
    text = (config(home)).read_text(encoding="utf-8")
    hostile = home / "hostile.toml"
    hostile.write_text(text + '\n["\\u001b]0;PWNED\\u0007"]\n', encoding="utf-8")
    assert not any(control in refused("models", "--config", str(hostile)) for control in CONTROL)


def test_lines_and_blanks_stay_and_nothing_else_that_moves() -> None:
    assert printable_lines("a  b\n  c\td\x1b[31m\r\u2028e\u202ef\x85g") == "a  b\n  c d[31m  ef g"


@pytest.mark.parametrize(
    "name", ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(1)", "\t=1", "\r=1", "  =1", "＝1", "\x1b=1"]
)
def test_no_text_is_a_formula(name: str) -> None:
    columns = [Column[str]("name", "name", lambda row: row), Column[str]("change", "change", lambda row: -1.5)]
    [line] = csv.DictReader(io.StringIO(data.csv(Table([name], columns))))
    assert line["name"].startswith("'")
    assert line["name"].isprintable()
    assert float(line["change"]) == -1.5  # a number of this tool stays a number


def test_a_table_as_csv_has_no_formula(home: Path) -> None:
    path = runs.create(home / "results", builders.run(id="20260203-142233-9f3c1a"))
    runs.append(path, builders.measurement(artifact=builders.foreign(model="=1+1\x1b[31m\u202e")))
    done = call("table", str(path), "--format", "csv", cwd=home)
    assert "'=1+1[31m" in done.stdout
    assert not any(control in done.stdout for control in CONTROL)


def config(home: Path) -> Path:
    """The usual configuration, with the results of this home."""
    path = home / "benchmark.toml"
    text = files.find("benchmark.toml").read_text(encoding="utf-8")
    path.write_text(text.replace('results = "results"', f'results = "{home / "results"}"'), encoding="utf-8")
    return path
