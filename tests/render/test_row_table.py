import csv
import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import builders
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fastvit_bench.errors import UsageError
from fastvit_bench.paper import published
from fastvit_bench.records import (
    METHODS,
    Artifact,
    CallPattern,
    Failure,
    Fuse,
    Head,
    Interval,
    MachineState,
    Measurement,
    Method,
    Placement,
    Protocol,
    ResourceUsage,
    Run,
    Shape,
    Unit,
    Weights,
    Window,
)
from fastvit_bench.render import frontiers, latex, markdown, row_text, terminal
from fastvit_bench.render import row_table as table
from fastvit_bench.render.rows import Row, collect
from fastvit_bench.render.table import Table, TableReport
from fastvit_bench.render.text import latency, printable
from fastvit_bench.store.runs import Line, RunFile


def file(*lines: Line, run: Run | None = None) -> RunFile:
    return RunFile(path=Path("run.jsonl"), lines=(run or builders.run(), *lines), torn_bytes=0)


def sized(size: int, **changes: Any) -> Measurement:
    """A measurement at a size; words of an artifact go into its artifact."""
    of_artifact = {name: changes.pop(name) for name in list(changes) if name in Artifact.__struct_fields__}
    return builders.measurement(artifact=builders.artifact(shape=builders.shape(size), **of_artifact), **changes)


def text(rows: list[Row], width: int) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(table.rich(rows, width))
    return console.export_text()


def cells(written: str) -> list[list[str]]:
    """The pipe table's lines, heading first, without the line of dashes."""
    lines = [line for line in written.splitlines() if line.startswith("|")]
    split = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [split[0], *split[2:]]


def columns(written: str) -> dict[str, list[str]]:
    heading, *lines = cells(written)
    return dict(zip(heading, map(list, zip(*lines, strict=True)), strict=True))


@pytest.mark.parametrize("recorded", [None, Fuse.FOLDED])
def test_no_fuse_level_is_printed_of_a_file_of_others(recorded: Fuse | None) -> None:
    """Earlier versions recorded the level that was asked for."""
    external = builders.artifact(model="theirs", variant="onnx", fused=recorded)
    failed = builders.failure(cell=builders.cell(model="theirs", shape=builders.shape(512), fused=recorded))
    declared = (builders.spec(name="theirs", variant="onnx", checkpoint="theirs.onnx"),)
    run = builders.run(request=builders.request(models=declared))
    stored = RunFile(path=Path("run.jsonl"), lines=(run, builders.measurement(artifact=external), failed), torn_bytes=0)
    (row,) = collect([stored])
    assert row.fused is None
    for format_ in table.FORMATS.values():
        assert "folded" not in format_([row])
    assert "folded" not in text([row], 200)


# --- rows -------------------------------------------------------------------------------------------------------------


def test_sizes_of_one_setting_share_a_row_sorted_by_pixels() -> None:
    wide = builders.measurement(artifact=builders.artifact(shape=Shape(batch=1, height=256, width=384)))
    (row,) = collect([file(sized(512), sized(224), wide, sized(256))])
    assert [shape.size for shape in row.cells] == ["224", "256", "256x384", "512"]
    assert list(columns(table.markdown([row])))[6:10] == ["224 ms", "256 ms", "256x384 ms", "512 ms"]


@pytest.mark.parametrize(
    "other",
    [
        sized(256, device=builders.device(name="gpu")),
        sized(256, device=builders.device(options={"threads": 1})),
        sized(256, machine=builders.machine(name="another")),
        sized(256, machine=builders.machine(quota=0.5)),
        sized(256, machine=builders.machine(packages={"onnxruntime": "1.22.0"})),
        sized(256, model="mine"),
        sized(256, weights=builders.RANDOM),
        sized(256, head=Head.DENSE),
        sized(256, classes=10),
        sized(256, fused=Fuse.NONE),
        sized(256, precision="fp16"),
        sized(256, window=Window.END_TO_END),
        sized(256, method=Method(runs=50)),
        sized(256, method=METHODS[Protocol.MODELBENCH]),
        sized(256, pacing=CallPattern.REMOTE_CALL),
        sized(256, clock="another"),
        sized(256, options={"attention": "conv"}),
        sized(256, functions=(builders.shape(256), builders.shape(384))),
        sized(256, engine=builders.engine()),
        *(
            sized(256, device=builders.device(options={"threads": 4, name: value}))
            for name, value in (("graph", True), ("transfers", True), ("sync", "block"), ("cuda_binding", "pycuda"))
        ),
        builders.measurement(artifact=builders.artifact(shape=builders.shape(batch=8))),
    ],
)
def test_any_difference_of_setting_makes_another_row(other: Measurement) -> None:
    assert len(collect([file(sized(256), other)])) == 2


@pytest.mark.parametrize("changes", [{"version": "10.13"}, {"toolkit": "tensorrt-rtx"}, {"platform": "win32 amd64"}])
def test_engines_of_two_toolkits_do_not_share_a_row(changes: dict[str, str]) -> None:
    one, other = builders.engine(), builders.engine(**changes)
    rows = collect([file(sized(256, engine=one), sized(256, engine=other))])
    assert len(rows) == 2
    for format_ in table.FORMATS.values():
        assert rows[1].toolkit.split()[1] in format_(rows)
    assert "(2) Measured:" in table.markdown(rows)
    assert "engine of tensorrt 10.16.1 for linux x86_64" in table.markdown(rows)


def test_engines_of_one_toolkit_share_a_row_whatever_they_were_built_from() -> None:
    sizes = [
        sized(224, engine=builders.engine(sha256="1" * 64, onnx="224.onnx", inputs={"image": "HALF 8x3x224x224"})),
        sized(256, engine=builders.engine(sha256="2" * 64, timing_cache="3" * 64)),
    ]
    assert len(collect([file(*sizes)])) == 1


def test_a_success_with_another_graph_is_not_the_failed_cell_s() -> None:
    def run(**options: bool) -> Run:
        return builders.run(request=builders.request(device=builders.device(options=options)))

    succeeded = sized(256, finished=builders.at(2), device=builders.device(options={"graph": False}))
    assert len(collect([file(failed(256, 1), run=run(graph=True)), file(succeeded, run=run(graph=False))])) == 2
    assert len(collect([file(failed(256, 1), run=run(graph=False)), file(succeeded, run=run(graph=False))])) == 1


def test_batches_share_the_column_of_a_size() -> None:
    batch = builders.measurement(artifact=builders.artifact(shape=builders.shape(batch=8)))
    rows = collect([file(sized(256), batch)])
    assert cells(table.markdown(rows))[0].count("256 ms") == 1
    assert tables(table.markdown(rows))[""]["batch"] == ["1", "8"]
    assert list(table.frame(rows).columns).count("latency_256_ms") == 1


def test_heads_can_be_told_apart() -> None:
    rows = collect([file(sized(256), sized(256, head=Head.DENSE))])
    assert columns(table.markdown(rows))["model"] == ["fastvit_t8", "fastvit_t8 (dense)"]


def test_the_newest_measurement_of_a_cell_wins_in_any_order() -> None:
    old = sized(256, finished=builders.at(1))
    new = sized(256, finished=builders.at(9))
    for files in ([file(old), file(new)], [file(new), file(old)], [file(new, old)]):
        (row,) = collect(files)
        assert list(row.cells.values()) == [new]


def test_two_forms_of_a_network_are_two_rows_and_say_which() -> None:
    forms = [
        {"attention": "standard", "compress": "none", "input": "image"},
        {"attention": "conv", "compress": "none", "input": "image"},
        {"attention": "standard", "compress": "palette6", "input": "tensor"},
        {"attention": "standard", "compress": "none", "input": "image", "labels": "0123456789abcdef"},
    ]
    rows = collect([file(*(sized(256, options=options) for options in forms))])
    assert columns(table.markdown(rows))["form"] == [
        "input image",
        "attention conv, input image",
        "compress palette6, input tensor",
        "input image, labels 01234567",
    ]
    assert "form" in table.csv(rows).splitlines()[0].split(",")
    assert [row["form"] for row in json.loads(table.json(rows))] == forms
    assert "form" not in columns(table.markdown(collect([file(sized(256))])))


def test_sizes_of_one_file_share_a_row() -> None:
    functions = (builders.shape(256), builders.shape(384))
    rows = collect([file(sized(256, functions=functions), sized(384, functions=functions), sized(384))])
    assert columns(table.markdown(rows))["form"] == ["256+384 in one file", "–"]
    assert [list(row.cells) for row in rows] == [[*functions], [builders.shape(384)]]


def failed(size: int, minutes: float, **changes: Any) -> Failure:
    cell = builders.cell(shape=builders.shape(size), **changes)
    return builders.failure(cell=cell, finished=builders.at(minutes))


def test_a_failure_stands_in_the_row_of_its_run() -> None:
    resolved = builders.device(options={"threads": 16, "mode": "fast"})  # other than what was asked for
    (row,) = collect([file(failed(224, 1), sized(256, device=resolved), failed(384, 3))])
    assert [type(cell).__name__ for cell in row.cells.values()] == ["Failure", "Measurement", "Failure"]
    found = columns(table.markdown([row]))
    assert found["224 ms"] == found["384 ms"] == ["failed"]


def test_a_failure_is_forgotten_once_its_cell_succeeded() -> None:
    for files in (
        [file(failed(256, 1), sized(256, finished=builders.at(2)))],
        [
            file(failed(256, 1)),
            file(sized(256, finished=builders.at(2))),
        ],
    ):
        (row,) = collect(files)
        assert isinstance(row.cells[builders.shape(256)], Measurement)


def test_a_success_in_another_form_or_by_another_statistic_is_not_that_cell_s() -> None:
    def run(**options: str) -> Run:
        device = builders.device(options={"threads": 4, **options})
        return builders.run(request=builders.request(device=device))

    conv = {"attention": "conv"}
    succeeded = sized(
        256, finished=builders.at(2), options=conv, device=builders.device(options={"threads": 4, **conv})
    )
    assert len(collect([file(failed(256, 1), run=run(attention="standard")), file(succeeded, run=run(**conv))])) == 2
    assert len(collect([file(failed(256, 1), run=run(**conv)), file(succeeded, run=run(**conv))])) == 1
    (mean, median) = collect([
        file(sized(256, finished=builders.at(2))),
        file(failed(256, 1), run=builders.run(request=builders.request(method=METHODS[Protocol.MODELBENCH]))),
    ])  # fmt: skip
    assert isinstance(mean.cells[builders.shape(256)], Measurement)
    assert isinstance(median.cells[builders.shape(256)], Failure)


def test_a_later_failure_is_shown() -> None:
    (row,) = collect([file(sized(256, finished=builders.at(1)), failed(256, 2))])
    assert isinstance(row.cells[builders.shape(256)], Failure)


def test_a_row_of_failures_only_is_still_a_row() -> None:
    rows = collect([file(failed(224, 1), failed(256, 2), failed(256, 2, model="unknown"))])
    assert [(row.model, row.window, len(row.cells)) for row in rows] == [("fastvit_t8", None, 2), ("unknown", None, 1)]
    for format_ in table.FORMATS.values():
        assert "failed" in format_(rows)
    assert columns(table.markdown(rows))["params M"] == ["–", "–"]
    assert "failed" in text(rows, 80)


def test_rows_keep_the_order_in_which_they_were_measured() -> None:
    models = [f"model{n}" for n in (3, 1, 2)]
    rows = collect([file(*(sized(256, model=model) for model in models))])
    assert [row.model for row in rows] == models


def test_nothing_gives_nothing() -> None:
    assert collect([]) == []
    assert collect([file()]) == []
    assert table.markdown([]) == "No measurements.\n"
    assert json.loads(table.json([])) == []
    assert table.csv([]).startswith("model,variant,")
    assert table.latex([]) == "% No measurements.\n"
    assert text([], 80).strip() == "No measurements."


def test_csv_is_what_pandas_would_write_of_the_frame() -> None:
    """But for whole numbers beside gaps, which pandas turns into floats."""
    of_a_phone = builders.reported(
        artifact=builders.artifact(backend="coreml", model='a "name", with all', parity=None)
    )
    rows = collect([file(sized(256), sized(384), of_a_phone, modelbench(), failed(224, 9), builders.reported())])
    written = list(csv.reader(io.StringIO(table.csv(rows))))
    expected = list(csv.reader(io.StringIO(table.frame(rows).to_csv(index=False, lineterminator="\n"))))
    assert written[0] == expected[0]
    assert len(written) == len(rows) + 1
    floats = {"trim"}
    for line, other in zip(written[1:], expected[1:], strict=True):
        for name, ours, theirs in zip(written[0], line, other, strict=True):
            assert ours == (theirs.removesuffix(".0") if name in floats else theirs), name
    assert "10" in {line[written[0].index("trim")] for line in written[1:]}


# --- with what is equal said once -------------------------------------------------------------------------------------


def compacted(*lines: Line, run: Run | None = None) -> tuple[dict[str, list[str]], str]:
    """The columns of a compact table, and its caption."""
    shown = markdown.report(table.compact(table.report(collect([file(*lines, run=run)]))))
    return columns(shown), next((line for line in shown.splitlines() if line.startswith("Equal")), "")


def two(**changes: Any) -> tuple[Run, list[Measurement]]:
    """A run of two models under their own names."""
    names = ("fastvit_t8", "fastvit_sa12")
    specs = tuple(builders.spec(name=name, variant=name, published=PUBLISHED_AS[name]) for name in names)
    found = [
        sized(size, model=name, variant=name, params=params, **changes)
        for name, params in zip(names, (4_000_000, 11_000_000), strict=True)
        for size in (224, 256)
    ]
    return builders.run(request=builders.request(models=specs)), found


PUBLISHED_AS = {"fastvit_t8": "FastViT-T8", "fastvit_sa12": "FastViT-SA12"}


def test_what_is_equal_in_every_row_is_said_once() -> None:
    run, found = two(weights=builders.RANDOM)
    shown, caption = compacted(*found, run=run)
    assert list(shown) == [
        "model",
        "params M",
        "224 ms",
        "256 ms",
        "published top-1 % (not distilled)",
        "published iPhone ms",
        "published GPU ms (batch 8)",
    ]
    assert caption == (
        "Equal in every row: weights random(seed 0), fused folded, GMACs at 256 0.691, top-1 % random weights, "
        "device cpu, batch 1, precision fp32, published as …@256."
    )
    whole = columns(table.markdown(collect([file(*found, run=run)])))
    assert shown == {title: whole[title] for title in shown}


def test_nothing_is_lost_but_published_sizes() -> None:
    run, found = two()
    found.append(sized(256, model="other", fused=Fuse.FUSED))
    shown, caption = compacted(*found, run=run)
    whole = columns(table.markdown(collect([file(*found, run=run)])))
    for title, values in whole.items():
        told = title in shown or f"{title} {values[0]}" in caption
        assert told is (title not in ("published params M", "published FLOPs G")), title


def test_a_column_that_differs_in_one_row_stays() -> None:
    run, found = two()
    changed = msgspec.structs.replace(found[-1], device=builders.device(options={"threads": 1}))
    shown, caption = compacted(*found, changed, run=run)
    assert shown["device"] == ["cpu (1)", "cpu (1)", "cpu (2)"]
    assert "device" not in caption
    assert "batch 1" in caption


def test_names_that_are_not_the_models_own_stay() -> None:
    specs = (builders.spec(name="mine"), builders.spec(name="fastvit_sa12", published="FastViT-SA12"))
    run = builders.run(request=builders.request(models=specs))
    shown, caption = compacted(sized(256, model="mine"), sized(256, model="fastvit_sa12"), run=run)
    assert shown["published as"] == ["FastViT-T8@256", "FastViT-SA12@256"]
    assert "published as" not in caption


def test_figures_of_two_published_sizes_say_which() -> None:
    specs = (builders.spec(), builders.spec(name="FastViT-SA36", published="FastViT-SA36@384"))
    run = builders.run(request=builders.request(models=specs))
    shown, _ = compacted(sized(256), sized(384, model="FastViT-SA36"), run=run)
    assert shown["published as"] == ["…@256", "…@384"]


def test_latencies_stay_even_where_they_are_equal() -> None:
    run, found = two()
    shown, _ = compacted(*found[:2], run=run)
    assert list(shown) == ["model", "224 ms", "256 ms"]


def test_figures_of_two_statistics_have_one_caption() -> None:
    shown = markdown.report(table.compact(table.report(collect([file(sized(256), modelbench(), modelbench(4.0))]))))
    assert shown.count("Equal in every row") == 1
    assert "precision" not in shown.partition("**median**")[2]


def briefly(rows: list[Row], width: int) -> tuple[list[str], list[str]]:
    """The lines of a short table on a terminal, and those of its notes."""
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(table.rich(rows, width, verbose=False))
    head, _, notes = console.export_text().rstrip().rpartition("\n\n")
    return head.splitlines(), notes.splitlines()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_notes_on_a_terminal_are_five_lines_and_name_the_way_to_all(width: int) -> None:
    run, found = two(weights=builders.RANDOM)
    slow = [msgspec.structs.replace(cell, device=builders.device(options={"threads": 1})) for cell in found]
    doubtful = [uncompared(512, samples_ns=((5_000_000,) * 5,)), failed(1024, 3)]
    for lines in (found, [*found, *slow], [*found, *slow, *doubtful]):
        _, notes = briefly(collect([file(*lines, run=run)]), width)
        assert len(notes) <= 5
        assert notes[-1].endswith(" properties: -v")
        assert max(map(len, notes)) <= width
    for mark in ("failed at ", "* "):  # why a figure is doubtful comes first
        assert any(note.startswith(mark) for note in notes)


def test_notes_that_are_few_are_printed_whole() -> None:
    notes = ["one", "two", "three"]
    assert terminal.few(notes, 80, brief=["less"]) == notes
    assert terminal.few([*notes, *notes], 80) == ["one", "two", "three", "one", "2 more notes, and all properties: -v"]
    assert terminal.few(["x " * 900, *notes], 80) == [*notes, "1 more note, and all properties: -v"]
    assert terminal.few(["x " * 900], 80, brief=["x"]) == ["x", "All notes and properties: -v"]


def test_a_short_table_says_once_what_is_equal_and_nothing_that_is_missing() -> None:
    run, found = two(weights=builders.RANDOM)
    head, notes = briefly(collect([file(*found, run=run)]), 200)
    assert head[:2] == [
        "Equal in every row: weights: random(seed 0), fused: folded, GMACs at 256: 0.691, device: cpu, batch: 1, "
        "precision: fp32.",
        "Published: at 256.",
    ]
    _, notes = briefly(collect([file(*found, run=run)]), 120)
    assert notes[0].startswith(
        "ms per batch [95 % interval]: median of 100 runs after 10 untimed ones; compute window;"
    )
    assert notes[1].endswith("4 cores; 2026-01-31.")
    head, _ = briefly(collect([file(sized(256, head=Head.DENSE))]), 200)
    assert head[0].startswith("Setting: weights: fastvit_t8.pth.tar@1a2b3c4d, ")
    assert "ublished" not in "".join(head)


def test_conditions_in_short_name_what_marks_differ_in() -> None:
    rows = collect([file(sized(256), sized(256, device=builders.device(options={"threads": 1})))])
    _, notes = briefly(rows, 100)
    assert "(1) onnxruntime, threads 4; (2) onnxruntime, threads 1." in notes


def test_a_record_keeps_figures_and_properties_apart() -> None:
    sizes = [sized(size, weights=builders.RANDOM) for size in (224, 256, 384, 448, 480, 512)]
    lines = text(collect([file(*sizes)]), 60).splitlines()
    (place,) = [at for at, line in enumerate(lines) if "512 ms: " in line]
    assert "weights" not in lines[place]
    assert lines[place + 1].startswith("  weights: random")
    assert not [line for line in lines if "precision" in line and "published" in line]


@pytest.mark.parametrize("width", [60, 80, 120, 200, 300])
def test_a_compact_table_fits_a_terminal(width: int) -> None:
    run, found = two()
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(terminal.report(table.compact(table.report(collect([file(*found, run=run)]))), width))
    shown = console.export_text()
    assert max(map(len, shown.splitlines())) <= width
    assert shown.startswith("Equal in every row: ")
    for cell in found:
        assert shown.count(f"{cell.figure_ms:.2f}") >= 1
    assert "device" not in shown.partition("fastvit_t8")[0].partition("\n\n")[2]


def test_a_compact_latex_table_says_it_below_itself() -> None:
    run, found = two()
    written = latex.report(table.compact(table.report(collect([file(*found, run=run)]))))
    assert "\nEqual in every row: weights" in written.partition(r"\end{tabular}")[2]
    assert r"\caption{Latency on cpu.}" in written
    assert "precision &" not in written


# --- with chosen columns ----------------------------------------------------------------------------------------------


def test_chosen_columns_stand_in_the_order_of_their_names() -> None:
    run, found = two()
    rows = collect([file(*found, run=run)])
    shown = table.choose(
        rows, ["images_per_s_256", "model", "latency_ms", "published_released_top1", "latency_256_low_ms"]
    )
    assert list(columns(markdown.report(shown))) == [
        *("256 images/s", "model", "224 ms", "256 ms", "published released top1", "latency 256 low ms")
    ]
    assert shown.tables[0].names == [
        *("images_per_s_256", "model", "latency_224_ms", "latency_256_ms"),
        *("published_released_top1", "latency_256_low_ms"),
    ]
    assert columns(markdown.report(shown))["published released top1"] == ["76.2", "80.9"]
    assert [line["published_released_top1"] for line in shown.tables[0].records()] == [76.2, 80.9]
    assert r"256 images/s & model & 224 ms & 256 ms & " in latex.report(shown)


def test_a_glob_names_several_columns_and_none_twice() -> None:
    rows = collect([file(sized(224), sized(256))])
    (chosen,) = table.choose(rows, ["published_*_ms", "published_gpu_ms", "latency_2??_ms"]).tables
    assert chosen.names == ["published_iphone_ms", "published_gpu_ms", "latency_224_ms", "latency_256_ms"]


def test_notes_on_published_figures_go_with_their_columns() -> None:
    rows = collect([file(sized(256))])
    with_them, without = table.choose(rows, ["model", "published_gpu_ms"]), table.choose(rows, ["model"])
    assert any("Published" in note for note in with_them.notes)
    assert not any("Published" in note for note in (*without.notes, *without.brief))
    assert without.notes[0].startswith("Latency in ms per batch")


@pytest.mark.parametrize(
    ("asked", "answer"),
    [
        ("latency", r"did you mean latency_ms, .*\?"),
        ("modle", r"did you mean model.*\?"),
        ("zebra", r"there are model, .* and others\."),
    ],
)
def test_a_column_that_does_not_exist_is_answered_by_those_like_it(asked: str, answer: str) -> None:
    with pytest.raises(UsageError, match=rf"no column '{asked}' here; {answer} .* names all \d+") as one:
        table.choose(collect([file(sized(224), sized(256))]), ["model", asked])
    assert "224" not in str(one.value)
    assert len(str(one.value)) < 300


def test_memory_and_energy_are_shown_on_demand_and_never_guessed() -> None:
    usage = ResourceUsage(peak_resident_bytes=300 << 20, energy_mj=2500.0, runs=100)
    measured = msgspec.structs.replace(sized(256), usage=(usage,))
    rows = collect([file(measured, sized(384))])
    (line,) = csv.DictReader(io.StringIO(table.csv(rows)))
    assert float(line["peak_memory_mib_256"]) == 300
    assert float(line["energy_mj_256"]) == 25
    assert "gpu_memory_mib_256" not in line  # no process had a GPU
    assert "peak_memory_mib_384" not in line
    (record,) = json.loads(table.json(rows))
    assert record["latency"]["256"]["peak_memory_mib"] == 300
    assert "peak_memory_mib" not in record["latency"]["384"]
    shown = columns(markdown.report(table.choose(rows, ["peak_memory_mib", "energy_mj"])))
    assert shown == {
        "256 peak memory MiB": ["300"],
        "384 peak memory MiB": ["–"],
        "256 energy mJ per batch": ["25.0"],
        "384 energy mJ per batch": ["–"],
    }
    assert "Memory of the process" in text(rows, 120)
    assert "Memory of the process" not in table.markdown(rows)
    assert "Memory of the process" not in text(collect([file(sized(256))]), 120)


def test_throughput_is_a_batch_over_its_latency_and_never_guessed() -> None:
    eight = builders.measurement(artifact=builders.artifact(shape=builders.shape(batch=8)))
    other = builders.reported(artifact=builders.foreign())
    rows = collect([file(sized(256), failed(224, 1), eight, other)])
    shown = columns(markdown.report(table.choose(rows, ["images_per_s"])))
    assert shown == {
        "224 images/s": ["–"] * 3,
        "256 images/s": ["97.94", "97.94", "–"],
        "other input images/s": ["–"] * 3,
    }
    one, batched, strange = csv.DictReader(io.StringIO(table.csv(rows)))
    assert float(one["images_per_s_256"]) == pytest.approx(1000 / float(one["latency_256_ms"]))
    assert float(batched["images_per_s_256"]) == pytest.approx(8000 / float(batched["latency_256_ms"]))
    assert strange["images_per_s_256"] == ""
    assert "images_per_s_224" not in one
    record, _, of_tokens = json.loads(table.json(rows))
    assert record["latency"]["256"]["images_per_s"] == float(one["images_per_s_256"])
    assert "images_per_s" not in record["latency"]["224"]
    assert "images_per_s" not in of_tokens["latency"]["other input"]
    assert "Throughput, derived from the latency" in text(rows, 120)
    assert "Throughput" not in table.markdown(rows)


# --- of two statistics ------------------------------------------------------------------------------------------------


def modelbench(figure_ms: float = 0.8, **changes: Any) -> Measurement:
    """A measurement by ModelBench's protocol, whose rounds differ a little."""
    rounds = tuple(builders.samples(figure_ms * (1 + 0.001 * (i % 5 - 2)), 50) for i in range(20))
    return sized(256, **({"method": METHODS[Protocol.MODELBENCH], "samples_ns": rounds} | changes))


def tables(written: str) -> dict[str, dict[str, list[str]]]:
    """Heading -> columns, of every pipe table."""
    found: dict[str, dict[str, list[str]]] = {}
    heading = ""
    for part in written.split("\n\n"):
        if part.startswith("**"):
            heading = part.strip("*")
        elif part.startswith("|"):
            found[heading] = columns(part)
            heading = ""
    return found


def test_medians_and_means_never_share_a_column() -> None:
    rows = collect([file(modelbench(), sized(256), sized(384))])
    found = tables(table.markdown(rows))
    assert list(found) == ["median", "ModelBench: mean of trimmed rounds"]
    assert found["median"]["256 ms"] == ["10.21 [10.19, 10.23]"]
    assert found["ModelBench: mean of trimmed rounds"]["256 ms"] == ["0.8000 [0.7994, 0.8006]"]
    assert "384 ms" not in found["ModelBench: mean of trimmed rounds"]
    mean, median = csv.DictReader(io.StringIO(table.csv(rows), newline=""))
    assert (mean["statistic"], median["statistic"]) == ("trimmed-mean", "median")
    assert float(mean["modelbench_256_ms"]) == pytest.approx(0.8, rel=1e-3)
    assert float(mean["modelbench_256_low_ms"]) < 0.8 < float(mean["modelbench_256_high_ms"])
    assert (mean["latency_256_ms"], median["modelbench_256_ms"]) == ("", "")
    assert "modelbench_384_ms" not in mean
    one, other = (row["latency"]["256"] for row in json.loads(table.json(rows)))
    assert "median_ms" not in one
    assert "trimmed_mean_ms" not in other
    assert one["trimmed_mean_ms"] == pytest.approx(0.8, rel=1e-3)
    latex = table.latex(rows)
    assert latex.count(r"\begin{tabular}{") == 2
    assert r"\caption{Latency on cpu (median).}" in latex
    assert r"\caption{Latency on cpu (ModelBench).}" in latex
    assert "\nMean of trimmed rounds." in latex
    assert re.findall(r"\\label\{(.*)\}", latex) == ["tab:latency-on-cpu-median", "tab:latency-on-cpu-modelbench"]
    for width in (80, 300):
        shown = text(rows, width).splitlines()
        assert shown.index("median") < shown.index("ModelBench: mean of trimmed rounds")


def test_medians_alone_need_no_heading_and_means_always_have_one() -> None:
    assert list(tables(table.markdown(collect([file(sized(256))])))) == [""]
    assert list(tables(table.markdown(collect([file(modelbench())])))) == ["ModelBench: mean of trimmed rounds"]
    assert "latency_256_ms" not in table.csv(collect([file(modelbench())]))


def test_the_method_is_told_in_words() -> None:
    shown = table.markdown(collect([file(modelbench())]))
    assert (
        "Measured: mean over 20 rounds of 50 runs, each round with the file loaded again, after 1 untimed run, "
        "10 lowest and 10 highest left out; compute window"
    ) in shown
    assert "95 % interval of the mean in brackets (Student's t over the rounds)" in shown
    assert "interval of the median" not in shown
    assert "median of 100 runs after 1 untimed one;" in table.markdown(
        collect([file(sized(256, method=Method(warmup=1)))])
    )


# --- what reports tell ------------------------------------------------------------------------------------------------

STARTED = "Compiling, loading and the first run of each round, in ms; medians where there are several"
PLANNED = "Planned by the toolkit, not measured: share of operations / of estimated cost"
NE, GPU, CPU = Unit.NEURAL_ENGINE, Unit.GPU, Unit.CPU


def reported(size: int = 256, **changes: Any) -> Measurement:
    usual = builders.reported()
    made = usual.artifact
    assert isinstance(made, Artifact)
    return builders.reported(**({"artifact": msgspec.structs.replace(made, shape=builders.shape(size))} | changes))


def test_a_report_s_conditions_say_what_is_known() -> None:
    (line,) = [line for line in table.markdown(collect([file(reported())])).splitlines() if "Measured:" in line]
    assert line == (
        "- Measured: median of 3 x 39 runs after the first of each round, which is kept apart, the file loaded again "
        "for each round; prediction window (the toolkit's own reading around its native call); read by Xcode's "
        "performance report; back to back; coreml, compute_units all; iPhone 12 Pro; iOS 18.7; 2026-01-31."
    )
    remote = table.markdown(collect([file(reported(pacing=CallPattern.REMOTE_CALL))]))
    assert "each run called over the cable, the device idle in between;" in remote
    assert "back to back;" not in remote
    assert "ModelBench's means: compare them with --protocol modelbench only" in remote


def test_what_comes_before_the_runs_is_kept_apart() -> None:
    rows = collect([file(reported())])
    found = tables(table.markdown(rows))[STARTED]
    assert found == {
        "model": ["fastvit_t8"],
        "form": ["input image"],
        "size": ["256"],
        "compile": ["72.0"],
        "first load": ["300"],
        "later loads": ["20.5"],
        "first run": ["9.00"],
        "later first runs": ["0.510"],
    }
    (record,) = json.loads(table.json(rows))
    assert record["latency"]["256"]["cold_ms"] == [9.0, 0.5, 0.52]
    assert record["latency"]["256"]["load_ms"] == [300.0, 20.0, 21.0]
    assert record["latency"]["256"]["median_ms"] == pytest.approx(1.2, rel=1e-3)
    loaded = sized(256, load_ns=(5_000_000,))
    assert list(tables(table.markdown(collect([file(loaded)])))[STARTED]) == ["model", "size", "first load"]


QUANTISED = "In 8 bits: share that computes between integers, outputs against the float64 network, and scheme"


def test_a_file_in_8_bits_says_what_computes_between_integers_and_how_well() -> None:
    artifact = builders.artifact(precision="int8", quantisation=builders.quantisation())
    rows = collect([file(builders.measurement(artifact=artifact), sized(384))])
    shown = tables(table.markdown(rows))[QUANTISED]
    assert shown["between integers"] == ["78 %"]  # 65 of 83 operations of the file
    assert shown["SNR dB"] == ["38.2"]
    assert shown["weights"] == ["int8 symmetric per channel"]
    (int8, fp32) = json.loads(table.json(rows))
    values = int8["latency"]["256"]
    assert (values["operations_integer"], values["operations_float"]) == (65, 18)
    assert values["calibration_digest"] == builders.calibration_set().digest
    assert values["quantiser"] == "onnxruntime.quantization 1.32.0"
    assert "integer_share" not in fp32["latency"]["384"]
    assert QUANTISED not in table.markdown(collect([file(sized(256))]))


def test_what_an_engine_multiplies_is_shown_in_place_of_what_its_file_holds() -> None:
    artifact = builders.artifact(precision="int8", quantisation=builders.quantisation())
    engine = builders.engine(integer={"CaskConvolution": 1}, floating={"CaskConvolution": 52})
    rows = collect([file(builders.measurement(artifact=artifact, engine=engine))])
    assert tables(table.markdown(rows))[QUANTISED]["between integers"] == ["2 %"]


def test_files_known_from_a_report_only_are_noted() -> None:
    rows = collect([file(reported(), reported(384))])
    for format_ in (table.markdown, table.latex):
        assert "Known from its report only, not proved here" in format_(rows)
    assert [line["proved"] for line in csv.DictReader(io.StringIO(table.csv(rows)))] == ["False"]
    assert json.loads(table.json(rows))[0]["latency"]["384"]["proved"] is False
    assert "not proved" not in table.markdown(collect([file(sized(256))]))
    assert "proved" not in table.csv(collect([file(sized(256))]))


def test_a_model_of_others_has_a_row_without_what_is_ours() -> None:
    rows = collect([file(builders.reported(artifact=builders.foreign()), reported())])
    found = tables(table.markdown(rows))[""]
    assert found["model"] == ["tagger", "fastvit_t8"]
    for heading in ("weights", "fused", "form", "params M", "GMACs at 256", "top-1 %"):
        assert found[heading][0] == "–", heading
    assert found["other input ms"] == ["1.200† [1.198, 1.202]", ""]
    assert found["256 ms"][0] == ""
    assert found["published as"] == ["", "FastViT-T8@256"]
    note = "Not exported by fastvit-bench: tagger (input tokens MultiArray (Int32 1 × 512); 0.78 MB)."
    assert note in table.markdown(rows)
    line = next(csv.DictReader(io.StringIO(table.csv(rows))))
    assert float(line["latency_other_input_ms"]) == pytest.approx(1.2, rel=1e-3)
    assert (line["params"], line["classes"], line["weights"], line["proved"]) == ("", "", "", "False")
    record = json.loads(table.json(rows))[0]
    assert (record["variant"], record["published"]) == (None, None)
    assert record["latency"]["other input"]["inputs"] == {"tokens": "MultiArray (Int32 1 × 512)"}
    assert "published as" not in tables(table.markdown(rows[:1]))[""]


def test_models_of_others_are_told_apart_by_what_they_hold() -> None:
    others = [
        builders.foreign(),
        builders.foreign(operations={"Ios16.linear": 12, "Ios18.constexprLutToDense": 12}),
        builders.foreign(inputs={"tokens": "MultiArray (Int32 1 × 128)"}),
        builders.foreign(shape=builders.shape(224), inputs={"image": "Image (Color 224 × 224)"}),
        builders.foreign(shape=builders.shape(256), inputs={"image": "Image (Color 256 × 256)"}),
    ]
    rows = collect([file(*(builders.reported(artifact=each) for each in others))])
    assert [len(row.cells) for row in rows] == [1, 1, 1, 2]


def plan(ours: int, others: int, costs: tuple[float, float] | None = None) -> Placement:
    """So many operations on the Neural Engine, so many on the processor, and the cost of one of each."""
    units = (*[NE] * ours, *[CPU] * others)
    return builders.placement(*units, costs=tuple(costs[unit is CPU] for unit in units) if costs else None)


def test_plans_stand_in_a_table_of_their_own() -> None:
    rows = collect([file(reported(placement=plan(297, 3, (0.003, 0.03))), reported(384, placement=plan(1, 1)))])
    found = tables(table.markdown(rows))[PLANNED]
    assert found["size"] == ["256", "384"]
    assert found["operations"] == ["300", "2"]
    assert found["Neural Engine"] == ["99 % / 91 %", "50 %"]
    assert found["GPU"] == ["0 % / 0 %", "0 %"]
    assert found["CPU"] == ["1 % / 9 %", "50 %"]
    assert found["switches"] == ["1", "1"]
    assert found["could run on Neural Engine"] == ["100 %", "100 %"]
    assert found["not on Neural Engine"] == ["ios16.cast 3", "ios16.cast 1"]
    (line,) = csv.DictReader(io.StringIO(table.csv(rows)))
    assert float(line["planned_neural_engine_256"]) == 0.99
    assert float(line["planned_neural_engine_cost_256"]) == pytest.approx(0.891 / 0.981)
    assert (line["planned_neural_engine_384"], line["planned_cpu_384"]) == ("0.5", "0.5")
    assert "planned_cpu_cost_384" not in line
    assert line["planned_elsewhere_256"] == "ios16.cast 3"
    planned = json.loads(table.json(rows))[0]["latency"]["256"]["planned"]
    assert planned["operations"] == {"neural-engine": 297, "gpu": 0, "cpu": 3}
    assert planned["switches"] == 1


def test_shares_are_rounded_but_never_to_all_or_nothing() -> None:
    found = tables(table.markdown(collect([file(reported(placement=plan(999, 1)))])))[PLANNED]
    assert (found["Neural Engine"], found["CPU"]) == ([r"\>99 %"], [r"\<1 %"])


@pytest.mark.parametrize(
    ("smaller", "larger", "warning"),
    [
        (plan(95, 5), plan(94, 6), None),
        (plan(95, 5), plan(80, 20), "of operations on the Neural Engine falls from 95 % at 256 to 80 % at 384"),
        (plan(80, 20), plan(95, 5), None),
        # a few cheap operations elsewhere are no fall; what they cost decides where it is known
        (plan(9, 1, (0.1, 0.001)), plan(5, 5, (0.1, 0.001)), None),
        (plan(9, 1, (0.1, 0.001)), plan(9, 1, (0.05, 0.5)), "of cost on the Neural Engine falls from 100 % at 256"),
        # costs against none: the operations decide
        (plan(9, 1, (0.1, 0.001)), plan(5, 5), "of operations on the Neural Engine falls from 90 % at 256 to 50 % at"),
        (plan(1, 1), None, None),
        (None, plan(1, 1), None),
    ],
)
def test_a_fall_of_the_neural_engine_s_share_is_a_warning(
    smaller: Placement | None, larger: Placement | None, warning: str | None
) -> None:
    rows = collect([file(reported(placement=smaller), reported(384, placement=larger))])
    shown = table.markdown(rows)
    (line,) = csv.DictReader(io.StringIO(table.csv(rows)))
    if warning is None:
        assert "falls" not in shown + line["warnings"]
        return
    assert f"* planned share {warning}" in shown.replace("\\", "")
    assert "1.200\\*" in tables(shown)[""]["384 ms"][0]
    assert f"384: planned share {warning}" in line["warnings"]
    assert warning in json.loads(table.json(rows))[0]["latency"]["384"]["warnings"][0]
    assert "falls" in " ".join(text(rows, 80).split())


def test_without_reports_nothing_is_added() -> None:
    rows = collect([file(sized(256), sized(384))])
    assert list(tables(table.markdown(rows))) == [""]
    assert table.latex(rows).count(r"\begin{table}") == 1
    for word in ("lanned", "proved", "load", "pacing", "form"):
        assert word not in table.csv(rows).splitlines()[0]


@pytest.mark.parametrize("width", [80, 100, 160, 300])
def test_nothing_of_a_report_is_lost_or_cut_at_any_width(width: int) -> None:
    other = builders.foreign(model="a_model_of_others_with_a_rather_long_name_0")
    rows = collect([
        file(
            reported(placement=plan(90, 10, (0.01, 0.01))),
            reported(512, placement=builders.placement(NE, GPU, CPU)),
            builders.reported(artifact=other, placement=builders.placement(CPU)),
            modelbench(),
        )
    ])  # fmt: skip
    shown = text(rows, width)
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    for word in ("90 %", "33 %", "ios16.cast 10", "72.0", "300", "20.5", "9.00", "switches", "ModelBench: mean"):
        assert word in shown, word


@pytest.mark.parametrize("name", ["a|b", "x\ny", "[bold]x[/bold]", "\\end{tabular}", "$x_1^2$ #{} 100%", "\x1b[31mred"])
def test_names_in_reports_cannot_break_out(name: str) -> None:
    hostile = builders.foreign(model=name, inputs={name: name}, precision=name)
    one = builders.placement(CPU)
    ops = tuple(msgspec.structs.replace(each, kind=name, output=name) for each in one.operations)
    rows = collect([file(builders.reported(artifact=hostile, placement=Placement(operations=ops)))])
    plain = collect([file(builders.reported(artifact=builders.foreign(), placement=one))])
    assert len(table.markdown(rows).splitlines()) == len(table.markdown(plain).splitlines())
    assert len(table.latex(rows).splitlines()) == len(table.latex(plain).splitlines())
    for shown in (table.markdown(rows), table.latex(rows), text(rows, 80), text(rows, 300)):
        assert "\x1b" not in shown
    (line,) = csv.DictReader(io.StringIO(table.csv(rows), newline=""))
    assert line["model"] == printable(name)


# --- batches, proofs on the device, failures --------------------------------------------------------------------------

PER_IMAGE = "Per image, derived: the latency of a batch over its images, which is not that of one image alone"


def batch(size: int = 256, images: int = 8, **changes: Any) -> Measurement:
    made = builders.artifact(shape=builders.shape(size, images))
    return builders.measurement(**({"artifact": made} | changes))


def test_a_batch_s_latency_is_the_headline_and_per_image_is_derived() -> None:
    rows = collect([file(batch(), batch(384), sized(256))])
    shown = tables(table.markdown(rows))
    assert shown[""]["256 ms"][0].startswith("81.68")
    assert {name: shown[PER_IMAGE][name] for name in ("size", "batch", "ms/image", "images/s")} == {
        "size": ["256", "384"], "batch": ["8", "8"], "ms/image": ["10.21", "22.97"], "images/s": ["97.94", "43.53"]
    }  # fmt: skip
    one, alone = csv.DictReader(io.StringIO(table.csv(rows)))
    assert float(one["256_ms_per_image"]) == pytest.approx(float(one["latency_256_ms"]) / 8)
    assert alone["256_ms_per_image"] == ""
    assert "per_image" not in table.csv(collect([file(sized(256))]))
    assert PER_IMAGE not in table.markdown(collect([file(sized(256))]))


def uncompared(size: int, **changes: Any) -> Measurement:
    return msgspec.structs.replace(sized(size, **changes), parity=None)


NOTE = "† Not compared with the reference on that device."


def test_a_figure_of_which_nobody_saw_the_outputs_is_marked() -> None:
    rows = collect([file(uncompared(256), sized(384), reported())])
    shown = table.markdown(rows)
    assert tables(shown)[""]["256 ms"] == ["10.21† [10.19, 10.23]", "1.200† [1.198, 1.202]"]
    assert "†" not in tables(shown)[""]["384 ms"][0]
    assert shown.count(NOTE) == table.latex(rows).count(NOTE.replace("†", r"\dag{}")) == 1
    assert NOTE in text(rows, 80)
    assert text(rows, 80).count("†") == 3
    assert [row["compared"] for row in csv.DictReader(io.StringIO(table.csv(rows)))] == ["False", "False"]
    cells_of = [row["latency"] for row in json.loads(table.json(rows))]
    assert [cells_of[0]["256"].get("compared"), cells_of[0]["384"].get("compared")] == [False, None]


def test_what_was_compared_is_not_marked() -> None:
    rows = collect([file(sized(256))])
    assert all("†" not in format_(rows) and "compared" not in format_(rows) for format_ in table.FORMATS.values())


def test_a_doubtful_figure_that_was_not_compared_has_both_marks() -> None:
    rows = collect([file(uncompared(256, samples_ns=((5_000_000,) * 5,)))])
    assert tables(table.markdown(rows))[""]["256 ms"] == [r"5.00\*†"]


@pytest.mark.parametrize(
    ("reason", "cell"),
    [
        ("The GPU's memory ran out while allocating 9000 MiB: take a smaller batch", "failed: out of memory"),
        ("memory ran out", "failed: out of memory"),
        ("memory ran out: RuntimeError: DefaultCPUAllocator", "failed: out of memory"),
        ("CUDA error: out of memory", "failed: out of memory"),
        ("took longer than 3600 s and was stopped", "failed: too slow"),
        ("the process was killed (signal 9), most often because memory ran out", "failed: killed"),
        ("ONNX cannot load it", "failed"),
    ],
)
def test_a_size_that_did_not_fit_says_so_in_its_row(reason: str, cell: str) -> None:
    lost = builders.failure(cell=builders.cell(shape=builders.shape(1024)), reason=reason)
    rows = collect([file(sized(256), lost)])
    shown = table.markdown(rows)
    assert tables(shown)[""]["1024 ms"] == [cell]
    assert f"failed at timing: {reason}: fastvit_t8 1024" in shown
    for width in (80, 300):
        assert " ".join(cell.split()) in " ".join(text(rows, width).split())
    assert json.loads(table.json(rows))[0]["latency"]["1024"]["failed"]["reason"] == reason


@pytest.mark.parametrize(
    ("method", "words"),
    [
        (Method(), "median of 100 runs after 10 untimed ones;"),
        (Method(warmup=0, warmup_ms=200), "median of 100 runs after 200 ms of untimed ones;"),
        (
            Method(warmup=20, warmup_ms=1500, steady=0.01),
            "median of 100 runs after at least 20 and 1.5 s of untimed ones, until their medians differed by less than "
            "1 %;",
        ),
        (Method(duration_ms=3000), "median of at least 100 runs and 3 s of them after 10 untimed ones;"),
        (Method(rounds=3), "median of 3 x 100 runs after 10 untimed ones;"),
    ],
)
def test_warming_up_by_time_is_told(method: Method, words: str) -> None:
    assert words in table.markdown(collect([file(sized(256, method=method))]))


# --- layers -----------------------------------------------------------------------------------------------------------

LAYERS = (
    builders.layer("stem.0/Conv", "stem.0", 100_000, "Conv"),
    builders.layer("stages.0.blocks.0/Conv", "stages.0.blocks.0", 600_000, "Conv"),
    builders.layer("stages.0.blocks.0/Gelu", "stages.0.blocks.0", 200_000, ""),
    builders.layer("reformat", "", 95_000, "Reformat"),
    *(builders.layer(f"head/Gemm{at}", "head", 500 + 2 * at, "Gemm") for at in range(10)),
)
BLOCKS = "Layers of fastvit_t8 256 b1 by block, in a pass of its own whose sum, 1.00 ms, is not the latency"
SLOWEST = "The slowest layers of fastvit_t8 256 b1 in that pass"


def test_layers_are_summed_by_block_of_the_network() -> None:
    rows = collect([file(sized(256, layers=LAYERS))])
    shown = tables(table.markdown(rows))
    assert shown[BLOCKS] == {
        "block": ["stem.0", "stages.0.blocks.0", "(not told)", "head"],
        "layers": ["1", "2", "1", "10"],
        "ms": ["0.100", "0.800", "0.0950", "0.00509"],
        "share": ["10 %", "80 %", "9 %", "1 %"],
    }
    slow = shown[SLOWEST]
    assert slow["layer"][:4] == ["stages.0.blocks.0/Conv", "stages.0.blocks.0/Gelu", "stem.0/Conv", "reformat"]
    assert (slow["kind"][1], slow["block"][3]) == ("–", "–")
    assert len(slow["layer"]) == 10
    assert table.latex(rows).count(r"\begin{tabular}{") == 3


def test_layers_are_data_too() -> None:
    rows = collect([file(sized(256, layers=LAYERS), sized(384))])
    found = json.loads(table.json(rows))[0]["latency"]
    assert found["256"]["layers"]["sum_ms"] == pytest.approx(1.00009)
    assert found["256"]["layers"]["blocks_ms"]["stages.0.blocks.0"] == pytest.approx(0.8)
    assert len(found["256"]["layers"]["layers"]) == len(LAYERS)
    assert "layers" not in found["384"]
    (line,) = csv.DictReader(io.StringIO(table.csv(rows)))
    assert (line["layers_256"], float(line["layers_256_sum_ms"])) == ("14", pytest.approx(1.00009))
    assert "layers_384" not in line
    assert "layers" not in table.csv(collect([file(sized(256))]))


@pytest.mark.parametrize("width", [80, 120, 300])
def test_layers_fit_a_terminal(width: int) -> None:
    long = builders.layer(" + ".join(f"stages.3.blocks.1.mlp.fc{at}/Conv" for at in range(40)), "stages.3.blocks.1", 9)
    rows = collect([file(sized(256, layers=(*LAYERS[:5], long)))])
    shown = text(rows, width)
    assert max(map(len, shown.splitlines())) <= width
    for fact in ("stages.0.blocks.0", "60 %", "0.800", "(not told)", "0.00000900"):
        assert fact in shown, fact


def test_layers_that_took_no_time_make_no_table_fail() -> None:
    rows = collect([file(sized(256, layers=(builders.layer("a", "", 0),)))])
    for format_ in table.FORMATS.values():
        assert format_(rows)
    assert text(rows, 80)


def test_each_measurement_with_layers_has_its_own_tables() -> None:
    rows = collect([file(sized(256, layers=LAYERS), sized(384, layers=LAYERS))])
    titles = [title for title in tables(table.markdown(rows)) if "ayers of" in title]
    assert [title.split(" of ")[1].split()[1] for title in titles] == ["256", "256", "384", "384"]


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("median", "low", "high", "expected"),
    [
        (10.21, 10.18, 10.25, "10.21 [10.18, 10.25]"),
        (10.21, 10.2099, 10.2101, "10.21 [10.20, 10.22]"),  # four digits, whatever the interval
        (7.817031, 7.652874, 7.981189, "7.82 [7.65, 7.99]"),
        (7.8, 7.0, 9.1, "7.8 [7.0, 9.1]"),
        (23.4, 20.0, 29.0, "23 [20, 29]"),
        (1.234, 1.2, 1.26, "1.23 [1.20, 1.26]"),
        (0.81234, 0.8121, 0.8126, "0.8123 [0.8121, 0.8126]"),
        (0.0123456, 0.0123, 0.0124, "0.01235 [0.01230, 0.01240]"),
        (12345.6, 12300.2, 12400.4, "12350 [12300, 12410]"),
        (12345.6, 9000.0, 19000.0, "12000 [9000, 19000]"),
        (1234.5, 1234.5, 1234.5, "1234 [1234, 1235]"),
        (9.9996, 9.9996, 9.9996, "10.00 [9.99, 10.00]"),
        (10.0, 9.5, 10.49, "10.0 [9.5, 10.5]"),
        (5.0, 5.0, 5.0, "5.000 [5.000, 5.000]"),
    ],
)
def test_a_latency_has_the_digits_its_interval_supports(median: float, low: float, high: float, expected: str) -> None:
    assert latency(median, Interval(low=low, high=high, confidence=0.965)) == expected


@pytest.mark.parametrize(
    ("median", "expected"), [(10.2134, "10.2"), (0.81234, "0.812"), (12345.6, "12300"), (9.999, "10.0")]
)
def test_a_latency_without_interval_has_three_digits(median: float, expected: str) -> None:
    assert latency(median, None) == expected


@given(st.floats(1e-3, 1e6), st.floats(0, 0.9), st.floats(0, 0.9))
def test_the_printed_interval_encloses_the_true_one_and_the_printed_median(
    median: float, below: float, above: float
) -> None:
    interval = Interval(low=median * (1 - below), high=median * (1 + above), confidence=0.95)
    middle, low, high = map(float, re.findall(r"[\d.]+\d|\d", latency(median, interval)))
    assert low <= interval.low
    assert interval.high <= high
    assert low <= middle <= high
    assert middle == pytest.approx(median, abs=max(interval.high - interval.low, 0.001 * median))


def test_a_finished_cell_is_one_line() -> None:
    assert re.fullmatch(
        r"fastvit_t8 +256 b1  10\.21 \[10\.19, 10\.23\] ms  p90 10\.3 ms", table.live_row(builders.measurement())
    )
    many = builders.measurement(samples_ns=(builders.samples(count=100) * 5,))
    assert re.search(r" p90 10\.3 ms  p99 10\.26 \[10\.25, 10\.27\] ms$", table.live_row(many))
    planned = table.live_row(reported(placement=plan(19, 1)))
    assert re.fullmatch(
        r"fastvit_t8 +256 b1  1\.200 \[1\.198, 1\.202\] ms  p90 1\.20 ms  planned on the Neural Engine 95 %", planned
    )
    assert table.live_row(builders.reported(artifact=builders.foreign())).startswith(
        "tagger         other input b1  1.2"
    )
    assert re.search(r" ms  \(ModelBench: mean of trimmed rounds\)$", table.live_row(modelbench()))
    whole = uncompared(256, layers=LAYERS, engine=builders.engine())
    assert table.live_row(whole) == table.live_row(builders.measurement())
    short = table.live_row(builders.measurement(samples_ns=((5_000_000,) * 5,)))
    assert short.endswith("256 b1  5.00 ms  * only 5 runs: no interval")
    lost = table.live_row(builders.failure(reason="killed\nby \x1b[31mthe system"))
    assert lost.endswith("256 b1  failed at timing: killed by [31mthe system")


# --- what the table shows ---------------------------------------------------------------------------------------------


def test_the_measured_columns() -> None:
    found = columns(table.markdown(collect([file(sized(224), sized(256))])))
    assert found["model"] == ["fastvit_t8"]
    assert found["weights"] == ["fastvit_t8.pth.tar@1a2b3c4d"]
    assert found["fused"] == ["folded"]
    assert found["params M"] == ["4.00"]
    assert found["GMACs at 256"] == ["0.691"]
    assert found["top-1 %"] == ["–"]
    assert found["256 ms"] == ["10.21 [10.19, 10.23]"]
    assert (found["device"], found["batch"], found["precision"]) == (["cpu"], ["1"], ["fp32"])


def test_published_figures_stand_in_columns_that_say_so() -> None:
    found = columns(table.markdown(collect([file(sized(256))])))
    assert {heading: cell for heading, (cell,) in found.items() if "published" in heading} == {
        "published as": "FastViT-T8@256",
        "published params M": "3.6",
        "published FLOPs G": "0.7",
        "published top-1 % (not distilled)": "76.2",
        "published iPhone ms": "0.8",
        "published GPU ms (batch 8)": "1.7",
    }


@pytest.mark.parametrize("weights", [builders.RANDOM, builders.CHECKPOINT])
@pytest.mark.parametrize("compact", [False, True])
def test_published_top1_stands_in_its_own_column_whatever_was_timed(weights: Weights, compact: bool) -> None:
    run, found = two(weights=weights)
    rows = collect([file(*found, run=run)])
    document = table.report(rows)
    if compact:
        document = table.compact(document)
    shown = columns(markdown.report(document))
    assert shown["published top-1 % (not distilled)"] == ["76.2", "80.9"]
    for written in (markdown.report(document), latex.report(document), *terminals(document)):
        for fact in ("76.2", "80.9", "distilled)", "Published top-1: the authors'", "whatever weights were timed here"):
            assert fact in " ".join(written.split())
    one, other = csv.DictReader(io.StringIO(table.csv(rows)))
    assert (one["published_released_top1"], other["published_released_top1"]) == ("76.2", "80.9")
    assert (one["published_top1"], one["published_top1_distilled"]) == ("75.6", "76.7")
    assert [record["published"]["released_top1"]["value"] for record in json.loads(table.json(rows))] == [76.2, 80.9]


def terminals(document: TableReport) -> list[str]:
    """A document on terminals of several widths."""
    found: list[str] = []
    for width in (60, 80, 300):
        console = Console(width=width, file=io.StringIO(), record=True)
        console.print(terminal.report(document, width))
        found.append(console.export_text())
    return found


def test_random_weights_never_carry_a_measured_accuracy() -> None:
    rows = collect([file(sized(256, weights=builders.RANDOM))])
    found = columns(table.markdown(rows))
    assert found["top-1 %"] == ["random weights"]
    (line,) = csv.DictReader(io.StringIO(table.csv(rows)))
    assert line["top1"] == ""
    assert json.loads(table.json(rows))[0]["top1"] is None


def test_the_published_top1_is_the_one_that_frontiers_take() -> None:
    """Two figures beside one another never contradict: the checkpoint's plain one, else the paper's."""
    for name, known in published.models().items():
        spec = builders.spec(name=name, published=name)
        run = builders.run(request=builders.request(models=(spec,)))
        (row,) = collect([file(sized(known.size, model=name), run=run)])
        taken = frontiers.published_top1(row, builders.shape(known.size))
        shown = columns(table.markdown([row])).get("published top-1 % (not distilled)")
        assert shown == ([f"{taken.value:g}"] if taken else None)


# --- tails ------------------------------------------------------------------------------------------------------------

TAILS = "The slowest runs: 99 and 99.9 % of all runs took at most so long, 95 % interval in brackets"


@pytest.mark.parametrize(
    ("runs", "shown"),
    [(100, []), (367, []), (368, ["p99 ms"]), (3687, ["p99 ms"]), (3688, ["p99 ms", "p99.9 ms"])],
)
def test_far_quantiles_are_printed_with_their_intervals_once_the_runs_show_them(runs: int, shown: list[str]) -> None:
    found = sized(256, samples_ns=(tuple(10_000_000 + 1000 * at for at in range(runs)),))
    rows = collect([file(found, sized(384))])
    document = tables(table.markdown(rows)).get(TAILS, {})
    assert [title for title in document if title.startswith("p99")] == shown
    (line,), (record,) = csv.DictReader(io.StringIO(table.csv(rows))), json.loads(table.json(rows))
    live = row_text.live_row(found)
    for title, name, quantile in (("p99 ms", "p99", 0.99), ("p99.9 ms", "p999", 0.999)):
        cell = record["latency"]["256"]
        if title not in shown:
            assert f"{name}_256_ms" not in line
            assert f"{name}_low_ms" not in cell
            assert title.removesuffix("ms") not in live
            continue
        interval, value = found.quantile_interval_ms(quantile), found.quantile_ms(quantile)
        assert interval is not None
        assert value is not None
        assert interval.low <= value <= interval.high
        text = latency(value, interval)
        assert document[title] == [text]
        assert document["runs"] == [str(runs)]
        assert f"{title.removesuffix(' ms')} {text} ms" in live
        ends = ("", value), ("_low", interval.low), ("_high", interval.high)
        for end, number in ends:
            assert float(line[f"{name}_256{end}_ms"]) == number
            assert cell[f"{name}{end}_ms"] == number
        for written in terminals(table.report(rows)):
            assert text in written or text.replace(" [", "\n[").partition("\n")[0] in written


@pytest.mark.parametrize("changes", [{"head": Head.DENSE}, {"classes": 37}])
def test_another_head_or_other_classes_are_not_the_published_model(changes: dict[str, Any]) -> None:
    found = columns(table.markdown(collect([file(sized(256, **changes))])))
    assert not [heading for heading in found if "published" in heading]


def test_a_name_that_nobody_published_is_noted() -> None:
    run = builders.run(request=builders.request(models=(builders.spec(published="FastViT-X"),)))
    assert "Nothing is published under the name 'FastViT-X'." in table.markdown(collect([file(sized(256), run=run)]))
    none = builders.run(request=builders.request(models=(builders.spec(published=None),)))
    assert "ublished under" not in table.markdown(collect([file(sized(256), run=none)]))


def test_multiply_accumulates_are_per_image_and_say_their_size() -> None:
    batch = builders.measurement(artifact=builders.artifact(shape=builders.shape(batch=8)))
    assert tables(table.markdown(collect([file(batch)])))[""]["GMACs at 256"] == ["0.691"]
    without_256 = collect([file(sized(512), sized(384))])
    assert columns(table.markdown(without_256))["GMACs at 384"] == ["1.56"]
    both = collect([file(sized(512, model="a"), sized(256, model="b"))])
    assert columns(table.markdown(both))["GMACs at 256"] == ["2.76 at 512", "0.691"]


def test_warnings_are_marked_and_listed_once() -> None:
    five = ((5_000_000,) * 5,)
    rows = collect([file(sized(224, samples_ns=five), sized(256), sized(384, samples_ns=five))])
    shown = table.markdown(rows)
    found = columns(shown)
    assert (found["224 ms"], found["256 ms"]) == ([r"5.00\*"], ["10.21 [10.19, 10.23]"])
    assert shown.count("only 5 runs") == 1
    assert r"- \* only 5 runs: no interval: fastvit_t8 224, fastvit_t8 384" in shown
    assert "5.00*" in text(rows, 80)


def test_many_warnings_of_one_kind_are_counted() -> None:
    noisy = [sized(32 * n, state=MachineState(steal_percent=9.0)) for n in range(7, 17)]
    assert "fastvit_t8 384 and 4 more" in table.markdown(collect([file(*noisy)]))


def test_a_failure_gives_its_reason_below() -> None:
    shown = table.markdown(collect([file(sized(256), failed(384, 3))]))
    assert "- failed at timing: the worker was killed: fastvit_t8 384" in shown


def test_method_window_machine_and_date_travel_with_the_figures() -> None:
    method = Method(warmup=7, runs=50, rounds=3)
    rows = collect([file(sized(256, method=method), sized(384, method=method, finished="2026-02-03T00:00:00+00:00"))])
    for shown in (table.markdown(rows), " ".join(text(rows, 80).split())):
        for fact in (
            "median of 3 x 50 runs after 7 untimed ones",
            "compute window",
            "onnxruntime, threads 4",
            "Example Processor 9000 @ 2.50GHz, 4 cores, 16 GiB",
            "Python 3.11.9",
            "onnxruntime 1.23.0",
            "2026-01-31 to 2026-02-03",
            "95 % interval",
        ):
            assert fact in shown
        assert "(1)" not in shown


def test_every_set_of_conditions_has_a_mark_and_a_line() -> None:
    gpu = builders.machine(host="b", accelerator="RTX 4090", driver="550.1")
    rows = collect(
        [file(sized(256), sized(256, machine=gpu, window=Window.END_TO_END), sized(256, model="x", machine=gpu))]
    )
    shown = table.markdown(rows)
    assert columns(shown)["device"] == ["cpu (1)", "cpu (2)", "cpu (3)"]
    assert "- (1) Measured: median of 100 runs after 10 untimed ones; compute window" in shown
    assert "- (2) Measured: median of 100 runs after 10 untimed ones; end-to-end window" in shown
    assert shown.count("RTX 4090; driver 550.1") == 2


# --- formats ----------------------------------------------------------------------------------------------------------

HOSTILE = [
    "a|b",
    "a\nb",
    "a\r\n\n| c | d |\n",
    "\\",
    "\\|",
    "`x`",
    "<script>alert(1)</script>",
    "[x](http://example.invalid)",
    "![x][y]",
    "**x**",
    "&lt;",
    "x\u2028y\x85z",
    "\x1b[31mred",
    "[bold]x[/bold]",
    "[/]",
    "~~x~~",
    "$x_1^2$ #{} 100%",
    "\\\\ \\end{tabular}",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_cannot_break_out_of_markdown(name: str) -> None:
    plain = table.markdown(collect([file(sized(256, model="x"), sized(384, model="y"))]))
    shown = table.markdown(collect([file(sized(256, model=name), sized(384, model="y"))]))
    assert [len(line) for line in cells(shown)] == [len(line) for line in cells(plain)]
    assert len(shown.splitlines()) == len(plain.splitlines())
    (cell, _) = columns(shown)["model"]
    assert not re.search(r"(?<!\\)(?:\\\\)*[`<*~&|]", re.sub(r"\\[^\w\s]", "", cell))
    assert not re.search(r"(?<!\\)\][(\[:]", cell)
    assert "\x1b" not in shown


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("width", [80, 300])
def test_a_name_cannot_break_out_of_the_terminal_table(name: str, width: int) -> None:
    shown = text(collect([file(sized(256, model=name))]), width)
    assert "\x1b" not in shown
    visible = "".join(c for c in " ".join(name.split()) if c.isprintable())
    assert visible in shown  # markup is text


@pytest.mark.parametrize("name", HOSTILE)
def test_a_name_cannot_break_out_of_latex(name: str) -> None:
    plain = table.latex(collect([file(sized(256, model="x"))]))
    shown = table.latex(collect([file(sized(256, model=name))]))
    assert len(shown.splitlines()) == len(plain.splitlines())
    (row,) = [line for line in shown.splitlines() if "fastvit\\_t8.pth.tar" in line]
    cell = row.split(" & fastvit")[0]
    bare = re.sub(r"\\[&%$#_{}]|\\text\w+\{\}|\{\[\}|\{\]\}|\{\*\}", "", cell)
    assert not re.search(r"[\\&%$#_{}~^\[\]]", bare)


@pytest.mark.parametrize("name", HOSTILE)
def test_json_keeps_a_name_as_it_is_and_csv_has_it_in_a_line(name: str) -> None:
    rows = collect([file(sized(256, model=name))])
    (line,) = csv.DictReader(io.StringIO(table.csv(rows), newline=""))
    (record,) = json.loads(table.json(rows))
    assert record["model"] == name
    assert line["model"] == printable(name)


def test_csv_has_a_line_per_row_and_a_column_per_figure() -> None:
    five = ((5_000_000,) * 5,)
    rows = collect([file(sized(256), sized(384, samples_ns=five), failed(512, 3), failed(224, 1, model="other"))])
    one, other = csv.DictReader(io.StringIO(table.csv(rows), newline=""))
    found = sized(256)
    interval = found.interval_ms
    assert interval is not None
    assert float(one["latency_256_ms"]) == found.median_ms
    assert (float(one["latency_256_low_ms"]), float(one["latency_256_high_ms"])) == (interval.low, interval.high)
    assert (one["latency_384_ms"], one["latency_384_low_ms"], one["latency_512_ms"]) == ("5.0", "", "")
    assert one["params"] == "3996040"
    assert float(one["gmacs"]) == 0.6912
    assert (one["top1"], one["published_top1"], one["published_released_top1"]) == ("", "75.6", "76.2")
    assert (one["options"], one["window"], one["runs"]) == ("threads=4", "compute", "100")
    assert one["warnings"] == "384: only 5 runs: no interval"
    assert one["failed"] == "512: timing: the worker was killed"
    assert (other["params"], other["window"], other["latency_256_ms"]) == ("", "", "")


def test_json_holds_every_figure_of_every_cell() -> None:
    (record,) = json.loads(table.json(collect([file(sized(256), failed(384, 3))])))
    found = sized(256)
    interval = found.interval_ms
    assert interval is not None
    assert record["latency"]["256"] == {
        "median_ms": found.median_ms,
        "low_ms": interval.low,
        "high_ms": interval.high,
        "confidence": interval.confidence,
        "p90_ms": found.p90_ms,
        "p99_ms": None,
        "mad_ms": found.mad_ms,
        "ms_per_image": found.ms_per_image,
        "images_per_s": 1000 / found.figure_ms,
        "runs": 100,
        "window": "compute",
        "gmacs": 0.6912,
        "artifact": "ab" * 32,
        "finished": builders.at(1),
        "warnings": [],
    }
    assert record["latency"]["384"]["failed"] == {"stage": "timing", "reason": "the worker was killed"}
    assert record["machine"] == msgspec.to_builtins(builders.machine(packages={"onnxruntime": "1.23.0"}))
    assert record["published"]["released_top1"]["value"] == 76.2
    assert record["published"]["released_top1"]["status"] == "sourced"


def test_latex_is_a_booktabs_table() -> None:
    shown = table.latex(collect([file(sized(256), sized(384))]))
    for part in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption{Latency", r"top-1 \%", r"fastvit\_t8 & "):
        assert part in shown
    heading, row = (line for line in shown.splitlines() if line.endswith(r"\\"))
    assert heading.count(" & ") == row.count(" & ") == 16
    above, _, below = shown.partition(r"\begin{tabular}")
    assert above.splitlines()[-3:-1] == [r"\caption{Latency on cpu.}", r"\label{tab:latency-on-cpu}"]
    assert "Measured: median of 100 runs" in below.partition(r"\end{tabular}")[2]


def test_an_interval_stands_under_its_figure_where_a_latex_row_is_long() -> None:
    stacked = r"\begin{tabular}[t]{@{}r@{}}10.21 \\ \scriptsize {[}10.19, 10.23{]}\end{tabular}"
    assert stacked in table.latex(collect([file(*(sized(size) for size in (224, 256, 384, 512)))]))
    run, found = two()
    short = latex.report(table.compact(table.report(collect([file(*found[:2], run=run)]))))
    assert r" & 10.21 {[}10.19, 10.23{]} \\" in short


def test_latex_labels_are_never_the_same() -> None:
    shown = latex.report(TableReport([Table([1], [], "Layers of a, by block")] * 3, title="Any"))
    assert re.findall(r"\\label\{(.*)\}", shown) == ["tab:layers-of-a", "tab:layers-of-a-2", "tab:layers-of-a-3"]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_pdflatex_takes_every_table(tmp_path: Path) -> None:
    run, found = two()
    hostile = [sized(256, model=name) for name in HOSTILE]
    rows = collect([file(*found, modelbench(), uncompared(384), failed(512, 3), *hostile, run=run)])
    written = [table.latex(rows), latex.report(table.compact(table.report(rows))), latex.report(table.report(rows))]
    document = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n%s\n\\end{document}\n"
    (tmp_path / "paper.tex").write_text(document % "\n".join(written), encoding="utf-8")
    command = ("pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-no-shell-escape", "paper.tex")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-3000:]
    assert (tmp_path / "paper.pdf").stat().st_size > 10_000


# --- on a terminal ----------------------------------------------------------------------------------------------------


def many(sizes: list[int]) -> list[Row]:
    weights = Weights(origin="checkpoint", sha256="1a2b3c4d" * 8, file="fastvit_sa36_distilled.pth.tar")
    models = ["fastvit_t8", "fastvit_sa36"]
    return collect([file(*(sized(size, model=model, weights=weights) for model in models for size in sizes))])


@pytest.mark.parametrize("width", [80, 100, 120, 160, 200, 300])
@pytest.mark.parametrize("sizes", [[256], [256, 512], [224, 256, 384, 512, 768, 1024]])
def test_no_figure_is_lost_or_cut_at_any_width(sizes: list[int], width: int) -> None:
    rows = many(sizes)
    shown = text(rows, width)
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown
    for row in rows:
        assert row.model in shown
        for cell in row.cells.values():
            assert isinstance(cell, Measurement)
            value, _, interval = latency(cell.median_ms, cell.interval_ms).partition(" ")
            assert value in shown
            assert interval in shown
    for word in ("cpu", "fp32", "4.00", "0.691", "published", "FastViT-T8@256"):
        assert word in shown


def test_the_layout_follows_the_width() -> None:
    rows = many([256])
    wide, narrow = (text(rows, width).partition("Throughput")[0] for width in (300, 80))
    assert len([line for line in wide.splitlines() if "──" in line]) == 1
    assert "──" not in narrow
    assert "  256 ms: 10.21 [10.19, 10.23]" in narrow


def test_what_is_published_stands_with_each_row_where_it_does_not_fit_beside_it() -> None:
    rows = collect([file(sized(256, weights=builders.RANDOM), sized(256))])
    assert text(rows, 80).count("published top-1 % (not distilled): 76.2") == 2


# --- cost -------------------------------------------------------------------------------------------------------------


def test_the_module_imports_nothing_heavy() -> None:
    program = (
        "import sys; from fastvit_bench.render import row_table; from fastvit_bench.store import runs; "
        "from fastvit_bench.paper import published; "
        "print(sorted({'pandas', 'numpy', 'torch', 'rich', 'filelock', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_rows_are_grouped_without_statistics() -> None:
    found = sized(256)
    collect([file(found)])
    assert not vars(found)


def test_doubts_of_a_kind_are_one_line_in_short() -> None:
    run, _ = two(weights=builders.RANDOM)
    cells = [
        sized(size, samples_ns=((5_000_000,) * 30 + (round(5_000_000 * (1.1 + drift)),) * 30,))
        for size, drift in ((224, 0.1), (256, 0.2), (384, 0.3), (512, 0.4))
    ]
    _, notes = briefly(collect([file(*cells, run=run)]), 120)
    assert sum(note.startswith("* ") for note in notes) == 2  # the drift, and an interval that is wide
    assert any("not steady: second half of the runs +20 to +50 %" in note for note in notes)
