import csv
import io
import json
import re
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

from fastvit_bench.records import (
    Artifact,
    Failure,
    Fuse,
    Head,
    Interval,
    MachineState,
    Measurement,
    Method,
    Run,
    Shape,
    Weights,
    Window,
)
from fastvit_bench.report import table
from fastvit_bench.report.rows import Row, collect
from fastvit_bench.report.store import Line, RunFile


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


def cells(markdown: str) -> list[list[str]]:
    """The pipe table's lines, heading first, without the line of dashes."""
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    split = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [split[0], *split[2:]]


def columns(markdown: str) -> dict[str, list[str]]:
    heading, *lines = cells(markdown)
    return dict(zip(heading, map(list, zip(*lines, strict=True)), strict=True))


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
        sized(256, machine=builders.machine(host="another")),
        sized(256, machine=builders.machine(packages={"onnxruntime": "1.22.0"})),
        sized(256, model="mine"),
        sized(256, weights=builders.RANDOM),
        sized(256, head=Head.DENSE),
        sized(256, classes=10),
        sized(256, fused=Fuse.NONE),
        sized(256, precision="fp16"),
        sized(256, window=Window.END_TO_END),
        sized(256, method=Method(runs=50)),
        builders.measurement(artifact=builders.artifact(shape=builders.shape(batch=8))),
    ],
)
def test_any_difference_of_setting_makes_another_row(other: Measurement) -> None:
    assert len(collect([file(sized(256), other)])) == 2


def test_batches_share_the_column_of_a_size() -> None:
    batch = builders.measurement(artifact=builders.artifact(shape=builders.shape(batch=8)))
    rows = collect([file(sized(256), batch)])
    assert cells(table.markdown(rows))[0].count("256 ms") == 1
    assert columns(table.markdown(rows))["batch"] == ["1", "8"]
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
    assert table.latency(median, Interval(low=low, high=high, confidence=0.965)) == expected


@pytest.mark.parametrize(
    ("median", "expected"), [(10.2134, "10.2"), (0.81234, "0.812"), (12345.6, "12300"), (9.999, "10.0")]
)
def test_a_latency_without_interval_has_three_digits(median: float, expected: str) -> None:
    assert table.latency(median, None) == expected


@given(st.floats(1e-3, 1e6), st.floats(0, 0.9), st.floats(0, 0.9))
def test_the_printed_interval_encloses_the_true_one_and_the_printed_median(
    median: float, below: float, above: float
) -> None:
    interval = Interval(low=median * (1 - below), high=median * (1 + above), confidence=0.95)
    middle, low, high = map(float, re.findall(r"[\d.]+\d|\d", table.latency(median, interval)))
    assert low <= interval.low
    assert interval.high <= high
    assert low <= middle <= high
    assert middle == pytest.approx(median, abs=max(interval.high - interval.low, 0.001 * median))


def test_a_finished_cell_is_one_line() -> None:
    assert re.fullmatch(
        r"fastvit_t8 +256 b1  10\.21 \[10\.19, 10\.23\] ms  p90 10\.3 ms", table.live_row(builders.measurement())
    )
    many = builders.measurement(samples_ns=(builders.samples(count=100) * 5,))
    assert re.search(r" p90 10\.3 ms  p99 10\.3 ms$", table.live_row(many))
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
        "published top-1 %": "76.2 / 77.2",
        "published iPhone ms": "0.8",
        "published GPU ms (batch 8)": "1.7",
    }


ACCURACIES = re.compile(r"7[56]\.\d|77\.\d|76\.184|77\.17")  # everything published as top-1 of T8


def test_random_weights_never_carry_an_accuracy() -> None:
    rows = collect([file(sized(256, weights=builders.RANDOM, samples_ns=((1_000_000,) * 100,)))])
    found = columns(table.markdown(rows))
    assert found["top-1 %"] == ["random weights"]
    assert found["published top-1 %"] == [""]
    assert found["published params M"] == ["3.6"]
    shown = [format_(rows) for format_ in table.FORMATS.values()] + [text(rows, width) for width in (80, 120, 300)]
    for each in shown:
        assert not ACCURACIES.search(each)
    assert "top1" in table.csv(rows)
    (record,) = json.loads(table.json(rows))
    assert record["top1"] is None
    assert not [name for name in record["published"] if "top1" in name]


def test_the_planted_accuracy_would_be_seen() -> None:
    """The check above can fail: with a checkpoint every format shows the figure."""
    rows = collect([file(sized(256, samples_ns=((1_000_000,) * 100,)))])
    for each in [format_(rows) for format_ in table.FORMATS.values()] + [text(rows, 80)]:
        assert ACCURACIES.search(each)


@pytest.mark.parametrize("changes", [{"head": Head.DENSE}, {"classes": 37}])
def test_another_head_or_other_classes_are_not_the_published_model(changes: dict[str, Any]) -> None:
    found = columns(table.markdown(collect([file(sized(256, **changes))])))
    assert [cell for heading, (cell,) in found.items() if "published" in heading] == [""] * 6


def test_a_name_that_nobody_published_is_noted() -> None:
    run = builders.run(request=builders.request(models=(builders.spec(published="FastViT-X"),)))
    assert "Nothing is published under the name 'FastViT-X'." in table.markdown(collect([file(sized(256), run=run)]))
    none = builders.run(request=builders.request(models=(builders.spec(published=None),)))
    assert "ublished under" not in table.markdown(collect([file(sized(256), run=none)]))


def test_multiply_accumulates_are_per_image_and_say_their_size() -> None:
    batch = builders.measurement(artifact=builders.artifact(shape=builders.shape(batch=8)))
    assert columns(table.markdown(collect([file(batch)])))["GMACs at 256"] == ["0.691"]
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
def test_data_formats_keep_a_name_as_it_is(name: str) -> None:
    rows = collect([file(sized(256, model=name))])
    (line,) = csv.DictReader(io.StringIO(table.csv(rows), newline=""))
    (record,) = json.loads(table.json(rows))
    assert line["model"] == record["model"] == name


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
        "runs": 100,
        "window": "compute",
        "gmacs": 0.6912,
        "artifact": "ab" * 32,
        "finished": builders.at(1),
        "warnings": [],
    }
    assert record["latency"]["384"]["failed"] == {"stage": "timing", "reason": "the worker was killed"}
    assert record["machine"] == msgspec.to_builtins(builders.machine())
    assert record["published"]["released_top1"]["value"] == 76.2
    assert record["published"]["released_top1"]["status"] == "sourced"


def test_latex_is_a_booktabs_table() -> None:
    shown = table.latex(collect([file(sized(256), sized(384))]))
    for part in (r"\toprule", r"\midrule", r"\bottomrule", r"\caption{Latency", r"top-1 \%", r"fastvit\_t8 & "):
        assert part in shown
    heading, row = (line for line in shown.splitlines() if line.endswith(r"\\"))
    assert heading.count(" & ") == row.count(" & ") == 16


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
            value, _, interval = table.latency(cell.median_ms, cell.interval_ms).partition(" ")
            assert value in shown
            assert interval in shown
    for word in ("cpu", "fp32", "4.00", "0.691", "published", "FastViT-T8@256"):
        assert word in shown


def test_the_layout_follows_the_width() -> None:
    rows = many([256])
    wide, narrow = text(rows, 300), text(rows, 80)
    assert len([line for line in wide.splitlines() if "──" in line]) == 1
    assert len([line for line in narrow.splitlines() if "──" in line]) == 2
    assert "95 % interval" in narrow.splitlines()[1]


def test_a_published_model_is_listed_once_and_with_its_accuracy_if_any_row_may_show_it() -> None:
    rows = collect([file(sized(256, weights=builders.RANDOM), sized(256))])
    shown = text(rows, 80)
    assert shown.count("FastViT-T8@256") == 1
    assert "76.2 / 77.2" in shown


# --- cost -------------------------------------------------------------------------------------------------------------


def test_the_module_imports_nothing_heavy() -> None:
    program = (
        "import sys; import fastvit_bench.report.table, fastvit_bench.report.store, fastvit_bench.report.published; "
        "print(sorted({'pandas', 'numpy', 'torch', 'rich', 'filelock', 'jinja2'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_rows_are_grouped_without_statistics() -> None:
    found = sized(256)
    collect([file(found)])
    assert "samples_ms" not in vars(found)
