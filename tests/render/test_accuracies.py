"""Accuracies as text, and beside the latencies of the very same files."""

import csv
import io
import json
import re
from pathlib import Path

import builders
import pytest
from rich.console import Console

from fastvit_bench.records import Accuracy, Preprocessing, Unreadable
from fastvit_bench.records.preparation import IMAGENET
from fastvit_bench.render import accuracies, row_table
from fastvit_bench.render.rows import Row, collect, join
from fastvit_bench.store.runs import Line, RunFile


def row(*accuracies: Accuracy, sizes: tuple[int, ...] = (224, 256)) -> list[Row]:
    """A row of the sizes, whose files have hashes of their own, joined with what was counted."""
    made = [builders.artifact(shape=builders.shape(size), sha256=sha(size)) for size in sizes]
    lines: list[Line] = [builders.measurement(artifact=each) for each in made]
    file = RunFile(path=Path("run.jsonl"), lines=(builders.run(), *lines), torn_bytes=0)
    return join(collect([file]), accuracies)


def sha(size: int) -> str:
    return f"{size:064x}"


def of(size: int, **changes: object) -> Accuracy:
    return builders.accuracy(artifact=builders.artifact(shape=builders.shape(size), sha256=sha(size)), **changes)


def columns(markdown: str) -> dict[str, str]:
    heading, _, line = [line for line in markdown.splitlines() if line.startswith("|")][:3]
    cells = ([cell.strip() for cell in each.split("|")[1:-1]] for each in (heading, line))
    return dict(zip(*cells, strict=True))


def test_the_accuracy_of_the_very_file_stands_beside_its_latency() -> None:
    found = columns(row_table.markdown(row(of(256))))
    assert found["measured top-1 %"] == "76.20 [75.82, 76.57]"
    assert found["measured top-5 %"] == "93.00 [92.77, 93.22]"
    assert found["published top-1 % (not distilled)"] == "76.2"
    assert "top-1 %" not in found


def test_without_joining_nothing_changes() -> None:
    bare = columns(row_table.markdown(collect([RunFile(Path("a"), (builders.run(), builders.measurement()), 0)])))
    assert bare["top-1 %"] == "–"
    assert not [title for title in bare if "measured" in title]


@pytest.mark.parametrize(
    "other",
    [
        builders.accuracy(artifact=builders.artifact(sha256="ee" * 32)),  # the same model, another file
        builders.accuracy(artifact=builders.artifact(sha256=None)),
    ],
)
def test_another_files_accuracy_is_not_taken(other: Accuracy) -> None:
    told = row_table.markdown(row(other))
    assert columns(told)["measured top-1 %"] == "–"
    assert "none of these files has been counted" in told


def test_other_sizes_say_which_they_are() -> None:
    assert columns(row_table.markdown(row(of(224))))["measured top-1 %"] == "76.20 [75.82, 76.57] at 224"
    both = columns(row_table.markdown(row(of(224, top1=38_000), of(256))))["measured top-1 %"]
    assert both == "76.20 [75.82, 76.57], 76.00 [75.62, 76.37] at 224"


def test_more_images_count_more_and_then_the_newest() -> None:
    few = of(256, images=100, top1=90, top5=95, finished=builders.at(9))
    older = of(256, top1=10_000, finished=builders.at(1))
    for order in ([few, older, of(256)], [of(256), older, few]):
        assert columns(row_table.markdown(row(*order)))["measured top-1 %"].startswith("76.20")


def test_notes_tell_of_what_the_figures_are() -> None:
    broken = of(256, unreadable=(Unreadable(name="a", reason="b"),), images=49_999)
    told = row_table.markdown(row(broken))
    assert "of the very file that was timed" in told
    assert (
        "imagenet (names and sizes dadadadadada); shorter side 284, bicubic, middle 256 x 256 (crop 0.9), "
        "pixels / 255, mean 0.485 0.456 0.406, std 0.229 0.224 0.225, Pillow 13.0.0; 2026-01-31; "
        "49999 images, 1 unreadable files left out: fastvit\\_t8 256" in told.replace("fastvit_t8", "fastvit\\_t8")
    )
    assert "not all of the same images" not in told
    mixed = row(of(224, evaluation=builders.evaluation(digest="0b" * 32)), of(256))
    assert "not all of the same images" in row_table.markdown(mixed)


def test_another_preparation_than_the_published_one_is_said_everywhere() -> None:
    how = Preprocessing(resolution=256, crop=0.9, mean=(0.5, 0.5, 0.5), resize="squash")
    other = of(256, preprocessing=how, own=IMAGENET)
    assert other.departures == {"mean": IMAGENET.mean, "resize": "shorter-side"}
    assert accuracies.line(other).endswith("* with another mean and resize than published")
    (note,) = [note for note in accuracies.notes([other]) if "Counted by" in note]
    assert "both sides 284, bicubic" in note
    assert "pixels / 255, mean 0.5 0.5 0.5" in note
    assert "not as the network was published, with mean 0.485 0.456 0.406, resize shorter-side; " in note
    assert "not as the network was published" in row_table.markdown(row(other))
    (line,) = csv.DictReader(io.StringIO(accuracies.csv([other])))
    assert (line["mean"], line["resize"], line["prepared_otherwise"]) == ("0.5 0.5 0.5", "squash", "mean resize")
    assert "published" not in accuracies.line(of(256))
    assert of(256).departures == {}


def test_machines_get_all_digits() -> None:
    rows = row(of(256), sizes=(224, 256))
    (line,) = csv.DictReader(io.StringIO(row_table.csv(rows)))
    assert float(line["measured_top1_256"]) == float(line["top1"]) == 76.2
    assert float(line["measured_top1_256_low"]) < 76.2 < float(line["measured_top1_256_high"])
    assert line["measured_images_256"] == "50000"
    assert "measured_top1_224" not in line
    (record,) = json.loads(row_table.json(rows))
    assert record["top1"] == 76.2
    assert list(record["accuracy"]) == ["256"]
    assert record["accuracy"]["256"]["artifact"] == sha(256)
    assert r"measured \\ top-1 \%\end{tabular}" in row_table.latex(rows)


@pytest.mark.parametrize("width", [60, 80, 120, 300])
def test_a_terminal_of_any_width_shows_the_whole_figure(width: int) -> None:
    bad = Unreadable(name="n01/\x1b[31mx.jpg", reason="not an image of a known kind")
    found = [builders.accuracy(unreadable=(bad,)), builders.accuracy(top5=None, overflowed=3)]
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(accuracies.rich(found, width))
    shown = console.export_text()
    assert "76.20" in shown
    assert "[75.82, 76.57]" in shown
    assert "…" not in shown
    assert "\x1b" not in shown
    words = " ".join(shown.split())
    assert "Unreadable: n01/[31mx.jpg (not an image of a known kind)." in words
    assert "NaN or infinite scores for 3 images" in words


def test_every_format_of_an_evaluation() -> None:
    found = [builders.accuracy(), builders.accuracy(top5=None, artifact=builders.artifact(weights=builders.RANDOM))]
    told = accuracies.markdown(found)
    assert columns(told)["top-1 %"] == "76.20 [75.82, 76.57]"
    assert "Random weights: the figure shows that counting works" in told
    first, second = csv.DictReader(io.StringIO(accuracies.csv(found)))
    assert (first["top1"], first["top5"], second["top5"]) == ("0.762", "0.93", "")
    records = json.loads(accuracies.json(found))
    assert records[0]["top5_share"]["value"] == 0.93
    assert records[1]["top5_share"] is None
    assert r"76.20 \\ \scriptsize {[}75.82, 76.57{]}" in accuracies.latex(found)
    for format_ in accuracies.FORMATS.values():
        assert isinstance(format_([]), str)


def test_a_home_folder_is_not_told() -> None:
    told = accuracies.markdown([builders.accuracy(evaluation=builders.evaluation(data="/private/somebody/val/"))])
    assert "somebody" not in told
    assert re.search(r"; val \(names and sizes da", told)
