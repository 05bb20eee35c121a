"""Labels and folders of images that someone else wrote: what is doubtful is refused in one sentence, and at once."""

import os
import re
from pathlib import Path

import pictures
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvit_bench.accuracy import dataset, labels
from fastvit_bench.errors import UsageError


def wrong(folder: Path, labels: Path | None = None) -> str:
    """The one sentence that refuses a data set."""
    with pytest.raises(UsageError) as refusal:
        dataset.collect(folder, labels)
    sentence = str(refusal.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("l.txt", "a.jpg 0\na.jpg 1\n"),
        ("l.txt", "a.jpg 0\n./a.jpg 0\n"),
        ("l.csv", "a.jpg,0\n./a.jpg,1\n"),
        ("l.json", '{"a.jpg": 0, "a.jpg": 1}'),
        ("l.json", '{"a.jpg": 0, "./a.jpg": 0}'),
        ("l.json", '{"c/a.jpg": 0, "c//a.jpg": 0}'),
    ],
)
def test_a_name_twice_is_refused_in_every_format(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    pictures.flat(tmp_path / "d", 1)
    assert "a second time" in wrong(tmp_path / "d", tmp_path / name)


@pytest.mark.parametrize("line", [" " * 40_000, "," * 20_000, " " * 40_000 + "3", "a" * 5000 + " 3"])
def test_a_line_without_end_is_refused_at_once(tmp_path: Path, line: str) -> None:
    (tmp_path / "l.txt").write_text(line, encoding="utf-8")
    pictures.flat(tmp_path / "d", 1)
    assert "line 1: has " in wrong(tmp_path / "d", tmp_path / "l.txt")


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a.jpg": %s}' % ("9" * 5000),
        '{"a.jpg": 1e3}',
        '{"a.jpg": true}',
        '{"a.jpg": {"b": 1}}',
        '["a"]',
    ],
)
def test_json_of_anything_else_is_one_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "l.json").write_text(text, encoding="utf-8")
    pictures.flat(tmp_path / "d", 1)
    assert "is not a JSON object of names and classes" in wrong(tmp_path / "d", tmp_path / "l.json")


@given(st.text(alphabet='a b,"\t3./', max_size=30))
def test_any_line_of_labels_is_split_as_the_grammar_says(line: str) -> None:
    """Against the grammar as regular expressions, which are too slow for long lines."""
    match = (
        re.fullmatch(r"([^\t]+)\t([^\t]+)", line.strip())
        or re.fullmatch(r"\s*(.+)\s*,\s*(\S*)\s*", line)
        or re.fullmatch(r"\s*(.+?)\s+(\S+)\s*", line)
    )
    expected = (match[1].strip().strip('"'), match[2].strip().strip('"')) if match else ("", "")
    name, label = labels.parts(line.strip())
    if expected[0]:  # without a name, a line is refused anyway
        assert (name, label) == expected


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_pipes_and_devices_are_named_and_never_opened(tmp_path: Path) -> None:
    (tmp_path / "d" / "c0").mkdir(parents=True)
    os.mkfifo(tmp_path / "d" / "c0" / "a.jpg")
    assert "a.jpg is no regular file" in wrong(tmp_path / "d")
    (tmp_path / "d" / "c0" / "a.jpg").unlink()
    (tmp_path / "d" / "c0" / "a.jpg").symlink_to("/dev/zero")
    assert "a.jpg is no regular file" in wrong(tmp_path / "d")
    pictures.flat(tmp_path / "e", 1)
    os.mkfifo(tmp_path / "labels")
    for file in (tmp_path / "labels", Path("/dev/zero")):
        assert "cannot be read: it is no regular file" in wrong(tmp_path / "e", file)


def test_a_folder_with_an_impossible_name_is_one_sentence(tmp_path: Path) -> None:
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(UsageError, match=r"does not exist|cannot be read"):
            dataset.collect(tmp_path / name)
