import importlib.util
import io
import json
import math
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import builders
import jsonschema
import msgspec
import pytest
import xmlschema
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from fastvit_bench.comparing import chart, phrases
from fastvit_bench.comparing import formats as reports
from fastvit_bench.comparing import terminal as compare_terminal
from fastvit_bench.comparing.formats import bencher, github, json_document, junit, pytest_benchmark
from fastvit_bench.errors import StoreError, UnavailableError, UsageError
from fastvit_bench.records import Interval
from fastvit_bench.records.comparison import BaselineKind, CellResult, Comparison, NoBaseline, Outcome, Plan
from fastvit_bench.render import charts

XSD = Path(__file__).parent.parent / "data" / "junit.xsd"
CI = {"GITHUB_ACTIONS": "true"}
NASTY = "<script>alert(1)</script> | `x` $y$ ![p](http://e.x) @team #12 &amp; %0A::error::\n\r\x00\x1b[31m ]]> \u202e"

# what Bencher's adapter takes (bencher.dev/docs/reference/bencher-metric-format)
BMF = {
    "type": "object",
    "propertyNames": {"minLength": 1, "maxLength": 1024},
    "additionalProperties": {
        "type": "object",
        "propertyNames": {"enum": ["latency"]},
        "required": ["latency"],
        "additionalProperties": {
            "type": "object",
            "required": ["value"],
            "properties": {
                "value": {"type": "number"},
                "lower_value": {"type": "number"},
                "upper_value": {"type": "number"},
            },
            "additionalProperties": False,
        },
    },
}
# github-action-benchmark, src/extract.ts: what a custom benchmark result holds
GHA = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["name", "unit", "value"],
        "properties": {
            "name": {"type": "string", "minLength": 1},
            "unit": {"const": "ms"},
            "value": {"type": "number", "exclusiveMinimum": 0},
            "range": {"type": "string", "pattern": r"^± [0-9.e+-]+$"},
            "extra": {"type": "string"},
        },
        "additionalProperties": False,
    },
}


def mixed(**changes: Any) -> Comparison:
    """A cell of each outcome, not in the order in which they are shown."""
    return builders.comparison(
        builders.cell_result("quick", Outcome.IMPROVED, 0.9),
        builders.cell_result("fine", Outcome.PASS, 1.012),
        builders.cell_result("slow", Outcome.REGRESSED, 1.118),
        builders.cell_result("open", Outcome.INCONCLUSIVE, 1.047),
        builders.cell_result("slowest", Outcome.REGRESSED, 1.2),
        builders.cell_result("gone", Outcome.INCOMPARABLE, None),
        **changes,
    )


EMPTY = builders.comparison()
ONE = builders.comparison(builders.cell_result())
GONE = builders.comparison(builders.cell_result("gone", Outcome.INCOMPARABLE, None))
NAMED = builders.comparison(
    builders.cell_result(NASTY, Outcome.REGRESSED, 1.2), builders.cell_result(NASTY), base=NASTY, head=NASTY
)
STORED = mixed(kind=BaselineKind.STORED, warnings=("the base is 40 days old", NASTY))
CASES = {"empty": EMPTY, "one": ONE, "gone": GONE, "mixed": mixed(), "named": NAMED, "stored": STORED}


def terminal(comparison: Comparison, width: int = 80, *, verbose: bool = True) -> str:
    console = Console(width=width, file=io.StringIO(), record=True)
    console.print(reports.rich(comparison, width, verbose=verbose))
    return console.export_text()


def tables(markdown: str) -> list[list[list[Any]]]:
    """Of each table its rows, of each row the inline tokens of its cells; as GitHub's dialect has tables."""
    found: list[list[list[Any]]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(markdown):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and found and token.level >= 4:
            found[-1][-1].append(token)
    return found


def text_of(inline: Any) -> str:
    """What a reader sees of inline tokens."""
    return "".join(child.content for child in inline.children if child.type in ("text", "text_special"))


# --- the sentence -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("comparison", "said"),
    [
        (ONE, "fastvit_t8 256 b1 passes: head is slower, +0.4 % [-0.4, +1.2] (margin 5 %)."),
        (EMPTY, "Nothing was compared, because there is no cell."),
        (GONE, "gone cannot be compared: It is incomparable."),
        (
            mixed(),
            "2 of 6 cells regressed, slowest most: head is slower, +20.0 % [+19.2, +20.8] (margin 5 %); 1 other cell "
            "cannot be compared, 1 is inconclusive, 1 passes, 1 improved.",
        ),
        (
            builders.comparison(
                builders.cell_result("fastvit_t8 256 b1", Outcome.REGRESSED, 1.118),
                *(builders.cell_result(str(at)) for at in range(5)),
            ),
            "fastvit_t8 256 b1 regressed: head is slower, +11.8 % [+11.0, +12.6] (margin 5 %); 5 other cells pass.",
        ),
        (
            builders.comparison(
                builders.cell_result("a", Outcome.IMPROVED, 0.9),
                builders.cell_result("b", Outcome.IMPROVED, 0.8),
                pooled=builders.verdict(Outcome.IMPROVED, 0.85),
            ),
            "Both cells improved, b most: head is quicker, -20.0 % [-20.8, -19.2] (margin 5 %).",
        ),
        (
            builders.comparison(
                builders.cell_result("a"),
                builders.cell_result("b"),
                pooled=builders.verdict(Outcome.REGRESSED, 1.04, margin=0.025),
            ),
            "2 cells regressed when taken together: head is slower, +4.0 % [+3.2, +4.8] (margin 2.5 %); alone, "
            "all pass.",
        ),
        (
            builders.comparison(
                builders.cell_result("a", Outcome.REGRESSED, 1.1),
                builders.cell_result("b"),
                pooled=builders.verdict(Outcome.INCONCLUSIVE, 1.03, margin=0.025),
            ),
            "a regressed: head is slower, +10.0 % [+9.2, +10.8] (margin 5 %); 1 other cell passes; all cells together, "
            "head is slower, +3.0 % [+2.2, +3.8].",
        ),
    ],
)
def test_sentence(comparison: Comparison, said: str) -> None:
    assert reports.sentence(comparison) == said


def test_stored_baseline_is_marked_as_weaker() -> None:
    assert reports.sentence(STORED).startswith("Against a stored baseline, which is weaker")
    for text in (terminal(STORED).splitlines()[0], compare_terminal.markdown(STORED).splitlines()[0]):
        assert "weaker" in text
    assert "weaker" not in terminal(mixed())


@pytest.mark.parametrize(
    ("low", "high", "shown"),
    [
        (1.109, 1.126, "[+10.9, +12.6]"),  # 1.109 - 1 is 0.10899999999999999
        (1.10901, 1.12601, "[+10.9, +12.7]"),
        (0.99999, 1.0, "[-0.1, +0.0]"),
        (0.9, math.inf, "[-10.0, +inf]"),
    ],
)
def test_interval_is_rounded_outwards(low: float, high: float, shown: str) -> None:
    assert phrases.span(Interval(low=low, high=high, confidence=0.95)) == shown


def test_change_of_nothing_has_no_minus() -> None:
    assert phrases.change(builders.verdict(ratio=0.9999999)) == "+0.0 %"


# --- tables -----------------------------------------------------------------------------------------------------------

ORDER = ["slowest", "slow", "gone", "open", "fine", "quick", "all cells together"]


def test_markdown_has_a_row_per_cell_worst_first() -> None:
    [rows] = tables(compare_terminal.markdown(mixed()))
    assert [text_of(row[0]) for row in rows[1:]] == ORDER
    assert [text_of(cell) for cell in rows[2]] == [
        *("slow", "10.00", "11.18", "+11.8 % [+11.0, +12.6]", "regressed", "5 %", "10", "6.0 %", "It is regressed.")
    ]
    assert [text_of(cell) for cell in rows[3][1:4]] == ["–", "–", "–"]


@pytest.mark.parametrize("width", [80, 120])
def test_terminal_shows_every_figure_worst_first(width: int) -> None:
    shown = terminal(STORED, width)
    lines = [line.split() for line in shown.splitlines() if re.match(r"\w+ +\S+ +\S+ +\S+", line)]
    assert [line[0] for line in lines if line[0] in ORDER] == ORDER[:-1]
    for figure in ("10.00", "11.18", "+11.8 %", "[+11.0, +12.6]", "5 %", "regressed", "6.0 %", "all cells together"):
        assert figure in shown
    for fact in ("base: main", "Example Processor", "0123abc", "2026-01-31", "compute", "10 turns", "40 days old"):
        assert fact in shown
    assert all(len(line) <= width for line in shown.splitlines())
    assert "\x1b[31m" not in shown


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("comparison", CASES.values(), ids=CASES)
def test_notes_in_short_are_five_lines_below_one_sentence(comparison: Comparison, width: int) -> None:
    shown = terminal(comparison, width, verbose=False)
    told, sentence = " ".join(shown.split()), " ".join(reports.sentence(comparison).split())
    assert told.count(sentence) == 1
    assert "-v" in shown.splitlines()[-1]
    lines = shown.splitlines()
    end = next(at for at in range(len(lines)) if sentence in " ".join(" ".join(lines[: at + 1]).split()))
    assert len(lines) - end - 1 <= 5


def test_notes_in_short_begin_with_reasons_and_warnings() -> None:
    shown = terminal(builders.comparison(builders.cell_result(), warnings=("the base is 40 days old",)), verbose=False)
    *_, warning, conditions, date, way = shown.splitlines()
    assert warning == "* the base is 40 days old"
    assert conditions.startswith("paired, both sides in turns; cpu, onnxruntime, fp32, batch 1")
    assert date.endswith("2026-01-31.")
    assert way == "All notes and properties: -v"
    (named,) = [line for line in terminal(GONE, verbose=False).splitlines() if "It is incomparable" in line]
    assert named.startswith("gone cannot be compared: ")


def test_terminal_cuts_long_lists_of_reasons() -> None:
    cells = [builders.cell_result(f"c{at}", Outcome.INCONCLUSIVE, 1.04) for at in range(30)]
    shown = terminal(builders.comparison(*cells))
    assert shown.count("It is inconclusive.") == compare_terminal.SOME
    assert "... and 18 more" in shown


@pytest.mark.parametrize("comparison", CASES.values(), ids=CASES)
def test_markdown_holds_no_markup_from_names(comparison: Comparison) -> None:
    written = compare_terminal.markdown(comparison)
    parsed = MarkdownIt("commonmark").enable("table").parse(written)
    kinds = {child.type for token in parsed for child in token.children or ()}
    assert kinds <= {"text", "text_special", "strong_open", "strong_close", "html_inline"}
    html = {child.content for token in parsed for child in token.children or () if child.type == "html_inline"}
    assert html <= {"<!-- -->"}
    blocks = {token.type for token in parsed if token.nesting == 1}
    usual = {"heading_open", "paragraph_open", "bullet_list_open", "list_item_open"}
    in_tables = {"table_open", "thead_open", "tbody_open", "tr_open", "th_open", "td_open"}
    assert blocks <= usual | in_tables
    assert len(tables(written)) == bool(comparison.cells)


@pytest.mark.parametrize(
    ("text", "inert"),
    [
        ("fastvit_t8 256 b1", "fastvit_t8 256 b1"),
        ("a|b", r"a\|b"),
        ("a\\|b", r"a\\\|b"),
        ("`x`", r"\`x\`"),
        ("a\nb", "a b"),
        ("_x_", r"\_x\_"),
        ("@team", "@<!-- -->team"),
        ("main@0123abc", "main@0123abc"),
        ("CPU @ 2.5GHz", "CPU @ 2.5GHz"),
        ("see #12", "see #<!-- -->12"),
        ("https://e.x", "https:<!-- -->//e.x"),
        (":boom:", ":<!-- -->boom:"),
        ("14:22:33", "14:22:33"),
    ],
)
def test_escapes_of_markdown(text: str, inert: str) -> None:
    assert compare_terminal.escaped(text) == inert


# --- any name in any text format --------------------------------------------------------------------------------------

NAMES = st.text() | st.text(alphabet="|`<>&*_[]()!\\\n\r\x00$%:,@#~=-+. a1", max_size=30)


@cache
def schema() -> xmlschema.XMLSchema:
    return xmlschema.XMLSchema(XSD)


@settings(max_examples=40, deadline=None)
@given(NAMES, NAMES, NAMES)
def test_names_survive_every_text_format(first: str, second: str, label: str) -> None:
    comparison = builders.comparison(
        builders.cell_result(first, Outcome.REGRESSED, 1.2),
        builders.cell_result(second, Outcome.INCOMPARABLE, None, verdict=builders.verdict(Outcome.INCOMPARABLE, None)),
        builders.cell_result(first),
        base=label,
        head=label,
        warnings=(label,),
    )
    [rows] = tables(compare_terminal.markdown(comparison))
    assert [len(row) for row in rows] == [9] * 5
    printable = " ".join("".join(c for c in " ".join(first.split()) if c.isprintable()).split())
    if len(printable) <= phrases.LONGEST:
        assert text_of(rows[1][0]) == (printable or "(no name)")
    test_markdown_holds_no_markup_from_names(comparison)
    schema().validate(ElementTree.fromstring(junit.junit(comparison)))
    jsonschema.validate(json.loads(bencher.bmf(comparison)), BMF)
    jsonschema.validate(found := json.loads(bencher.github_action_benchmark(comparison)), GHA)
    assert len({entry["name"] for entry in found}) == 2
    assert len(json.loads(pytest_benchmark.pytest_benchmark(comparison))["benchmarks"]) == 4
    for line in github.annotations(comparison, CI):
        assert re.fullmatch(r"::(error|warning) title=[^:,\r\n]*::[^\r\n]*", line)
    assert terminal(comparison)
    assert msgspec.convert(undone(json_document.json(comparison)), Comparison) == comparison


def undone(data: bytes) -> dict[str, Any]:
    found = msgspec.json.decode(data)
    return {name: value for name, value in found.items() if name not in ("outcome", "exit_code", "sentence")}


# --- JUnit ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("comparison", CASES.values(), ids=CASES)
def test_junit_is_valid(comparison: Comparison) -> None:
    schema().validate(ElementTree.fromstring(junit.junit(comparison)))


def test_junit_schema_finds_faults() -> None:
    sound = junit.junit(mixed()).decode()
    for fault in (("<failure ", "<failed "), ("</failure>", "</failure><oops/>"), ('failures="2"', 'failures="many"')):
        broken = sound.replace(*fault).replace("</failure>", "</failed>" if fault[1] == "<failed " else "</failure>")
        assert not schema().is_valid(ElementTree.fromstring(broken))


def test_junit_says_what_became_of_each_cell() -> None:
    suite = ElementTree.fromstring(junit.junit(mixed()))[0]
    assert {name: suite.get(name) for name in ("tests", "failures", "errors", "skipped", "time", "timestamp")} == {
        "tests": "7",
        "failures": "2",
        "errors": "1",
        "skipped": "1",
        "time": "420.000",
        "timestamp": "2026-01-31T14:22:33",
    }
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert list(cases) == ORDER
    assert {case.get("classname") for case in cases.values()} == {"cpu.onnxruntime.fp32"}
    assert {name: case[0].tag for name, case in cases.items()} == {
        **dict.fromkeys(["slowest", "slow"], "failure"),
        "gone": "error",
        "open": "skipped",
        **dict.fromkeys(["fine", "quick", "all cells together"], "system-out"),
    }
    assert cases["slow"][0].attrib == {"type": "regression", "message": "It is regressed."}
    assert cases["slow"].get("time") == "0.011180000"
    assert "ratio: 1.118" in (cases["slow"][1].text or "")
    found = {each.get("name"): each.get("value") for each in suite.iter("property")}
    assert found["margin"] == "0.05"
    assert found["seed"] == "0"
    assert found["package.torch"] == "2.9.0"
    assert found["pooled.ratio"] == "1.004"


def test_junit_replaces_what_xml_forbids() -> None:
    case = next(ElementTree.fromstring(junit.junit(NAMED)).iter("testcase"))
    assert case.get("name") == NASTY.replace("\x00", "\ufffd").replace("\x1b", "\ufffd")


# --- Bencher and github-action-benchmark ------------------------------------------------------------------------------


@pytest.mark.parametrize("comparison", CASES.values(), ids=CASES)
def test_formats_of_other_tools_fit_their_schemas(comparison: Comparison) -> None:
    jsonschema.validate(json.loads(bencher.bmf(comparison)), BMF)
    jsonschema.validate(json.loads(bencher.github_action_benchmark(comparison)), GHA)


def test_bmf_is_in_nanoseconds_with_the_interval_of_head() -> None:
    found = json.loads(bencher.bmf(mixed()))
    assert set(found) == {"quick", "fine", "slow", "open", "slowest"}
    # 10 ms of base × 1.11 .. 1.126
    assert found["slow"]["latency"] == {"value": 11.18e6, "lower_value": 11.10e6, "upper_value": 11.26e6}


def test_interval_of_head_holds_head_where_a_stored_base_was_corrected() -> None:
    corrected = builders.cell_result("a", Outcome.PASS, 1.0, head_ms=11.0)  # a machine that is 10 % slower than then
    latency = json.loads(bencher.bmf(builders.comparison(corrected)))["a"]["latency"]
    assert latency["lower_value"] < latency["value"] < latency["upper_value"]


@pytest.mark.parametrize("interval", [None, Interval(low=0.9, high=math.inf, confidence=0.95)])
def test_interval_that_is_not_known_is_left_out(interval: Interval | None) -> None:
    cell = builders.cell_result("a", verdict=builders.verdict(interval=interval))
    comparison = builders.comparison(cell)
    assert json.loads(bencher.bmf(comparison)) == {"a": {"latency": {"value": 10.04e6}}}
    assert "range" not in json.loads(bencher.github_action_benchmark(comparison))[0]
    for name in reports.FORMATS:
        assert reports.FORMATS[name].writer(comparison)


def test_long_names_stay_apart_and_within_bencher_s_limit() -> None:
    cells = [builders.cell_result("é" * 3000 + end) for end in ("a", "b", "b")]
    names = list(json.loads(bencher.bmf(builders.comparison(*cells))))
    assert len(names) == 3
    assert all(len(name.encode()) <= 1024 for name in names)


def test_github_action_benchmark_has_milliseconds_and_a_range() -> None:
    found = {entry["name"]: entry for entry in json.loads(bencher.github_action_benchmark(mixed()))}
    assert found["slow"] == {
        "name": "slow",
        "unit": "ms",
        "value": 11.18,
        "range": "± 0.08",
        "extra": "regressed: base 10 ms, +11.8 % [+11.0, +12.6]\nmargin 5 %, 10 blocks",
    }


# --- pytest-benchmark -------------------------------------------------------------------------------------------------


def test_pytest_benchmark_compares_what_was_written(tmp_path: Path) -> None:
    for stem, comparison in (("one", mixed()), ("two", NAMED)):
        reports.publish(comparison, tmp_path, ["pytest-benchmark"], stem)
    files = [f"{stem}.pytest-benchmark.json" for stem in ("one", "two")]
    command = [sys.executable, "-m", "pytest_benchmark.cli", "compare", *files, "--columns", "median,iqr,outliers,ops"]
    command = [sys.executable, "-c", "from pytest_benchmark.cli import main; main()", *command[3:], "--csv", "out.csv"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    [base] = [line for line in done.stdout.splitlines() if line.startswith("slow[base]")]
    [head] = [line for line in done.stdout.splitlines() if line.startswith("slow[head]")]
    assert "10.0000 (1.0)" in base
    assert "11.1800 (1.12)" in head
    assert "gone" not in done.stdout


def test_pytest_benchmark_has_the_statistics_its_own_files_have() -> None:
    from pytest_benchmark.stats import Stats

    own = Stats()
    cell = mixed().cells[2]
    blocks = [block.head_ms / 1e3 for block in cell.blocks]
    for value in blocks:
        own.update(value)
    written = json.loads(pytest_benchmark.pytest_benchmark(mixed()))
    [head] = [each for each in written["benchmarks"] if each["name"] == "slow[head]"]
    stats = head["stats"]
    assert set(stats) == {*Stats.fields, "data", "iterations"}
    assert stats["data"] == blocks
    quartiles = {"iqr", "q1", "q3"}  # which it computes by a method of its own
    for name in set(Stats.fields) - quartiles:
        assert stats[name] == pytest.approx(getattr(own, name)), name
    assert {"machine_info", "commit_info", "datetime", "version"} < set(written)


def test_replaced_blocks_do_not_count_and_a_figure_alone_is_one_round() -> None:
    blocks = (builders.block(1, 99.0, 99.0, replaced=True), builders.block(2), builders.block(3))
    cells = [builders.cell_result("a", blocks=blocks), builders.cell_result("b", blocks=())]
    found = json.loads(pytest_benchmark.pytest_benchmark(builders.comparison(*cells)))["benchmarks"]
    assert [(each["name"], each["stats"]["rounds"]) for each in found] == [
        *(("a[base]", 2), ("a[head]", 2), ("b[base]", 1), ("b[head]", 1))
    ]


# --- JSON of its own --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("comparison", CASES.values(), ids=CASES)
def test_json_comes_back(comparison: Comparison, tmp_path: Path) -> None:
    reports.write(comparison, "json", tmp_path / "c.json")
    assert reports.read(tmp_path / "c.json") == comparison
    told = json.loads((tmp_path / "c.json").read_text(encoding="utf-8"))
    assert told["outcome"] == comparison.outcome.value
    assert told["exit_code"] == int(comparison.exit_code)


def test_open_ends_come_back(tmp_path: Path) -> None:
    interval = Interval(low=0.9, high=math.inf, confidence=0.95)
    told = builders.verdict(bounds=(0.9, math.inf), interval=interval)
    comparison = builders.comparison(builders.cell_result("a", verdict=told), pooled=told)
    reports.write(comparison, "json", tmp_path / "c.json")
    assert reports.read(tmp_path / "c.json") == comparison


def damaged(changes: dict[str, Any]) -> bytes:
    return json.dumps(json.loads(json_document.json(mixed())) | changes).encode()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (json_document.json(ONE)[:-100], "is no complete JSON"),
        (b"", "is no complete JSON"),
        (b"\xff\xfe", "is no complete JSON"),
        (b"[" * 100_000, "is no complete JSON"),
        (b"[]", "is not a comparison"),
        (b'{"document": "run"}', "is not a comparison"),
        (damaged({"schema": 2}), "newer fastvit-bench"),
        (damaged({"schema": 0}), "older fastvit-bench"),
        (damaged({"schema": "x"}), "is no comparison"),
        (damaged({"cells": 3}), "is no comparison"),
        (damaged({"cells": [3]}), "is no comparison"),
        (damaged({"cells": [{"verdict": 3}]}), "is no comparison"),
        (damaged({"pooled": {"bounds": [1]}}), "is no comparison"),
        (damaged({"pooled": {"interval": 3}}), "is no comparison"),
        (damaged({"extra": 3}), "is no comparison"),
    ],
)
def test_damaged_comparison_is_one_sentence(data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(data)
    with pytest.raises(StoreError, match=said) as caught:
        reports.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_comparison_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot be read: No such file"):
        reports.read(tmp_path / "c.json")


# --- GitHub -----------------------------------------------------------------------------------------------------------


def test_annotations_tell_each_undecided_cell() -> None:
    assert github.annotations(mixed(), CI) == [
        "::error title=Latency regressed%3A slowest::head takes +20.0 %25 [+19.2, +20.8]; It is regressed.",
        "::error title=Latency regressed%3A slow::head takes +11.8 %25 [+11.0, +12.6]; It is regressed.",
        "::warning title=Latency cannot be compared%3A gone::It is incomparable.",
        "::warning title=Latency inconclusive%3A open::head takes +4.7 %25 [+3.9, +5.5]; It is inconclusive.",
    ]
    assert github.annotations(mixed(), {}) == []
    assert github.annotations(ONE, CI) == []
    assert len(github.annotations(EMPTY, CI)) == 1


def test_annotations_are_ten_of_a_kind_at_most() -> None:
    cells = [builders.cell_result(str(at), Outcome.REGRESSED, 1.1) for at in range(25)]
    cells += [builders.cell_result(str(at), Outcome.INCONCLUSIVE, 1.04) for at in range(10)]
    pooled = builders.verdict(Outcome.REGRESSED, 1.1)
    lines = github.annotations(builders.comparison(*cells, pooled=pooled), CI)
    errors = [line for line in lines if line.startswith("::error")]
    assert (len(errors), len(lines)) == (10, 20)
    assert "all cells together" in errors[0]
    assert "17 more" in errors[-1]


def test_escapes_of_workflow_commands() -> None:
    assert github.escaped_data("50 %\r\n::x, y") == "50 %25%0D%0A::x, y"
    assert github.escaped_property("50 %\r\n::x, y") == "50 %25%0D%0A%3A%3Ax%2C y"


def outputs_of(text: str) -> dict[str, str]:
    """As actions/runner reads the file (`FileCommandManager`): ``name=value`` or a delimiter, whichever comes first."""
    found: dict[str, str] = {}
    lines = iter(re.split(r"\r\n|\n|\r", text))
    for line in lines:
        if not line:
            continue
        equals, heredoc = line.find("="), line.find("<<")
        if equals >= 0 and (heredoc < 0 or equals < heredoc):
            name, _, found[name] = (*line.partition("=")[:2], line.partition("=")[2])
        else:
            name, _, delimiter = line.partition("<<")
            value: list[str] = []
            while (line := next(lines)) != delimiter:
                value.append(line)
            found[name] = "\n".join(value)
    return found


@pytest.mark.parametrize("name", ["fastvit_t8 256 b1", "a\nverdict=pass\nb", "a<<b", "ghadelimiter\nEOF\r\nx=1"])
def test_outputs_hold_what_was_found_and_nothing_else(name: str, tmp_path: Path) -> None:
    comparison = builders.comparison(builders.cell_result(name, Outcome.REGRESSED, 1.118))
    path = tmp_path / "output"
    path.write_text("earlier=1\n", encoding="utf-8")
    github.hand_over(github.outputs(comparison, "out/gate.md"), path)
    found = outputs_of(path.read_bytes().decode())
    assert found == {
        "earlier": "1",
        "verdict": "regressed",
        "worst_ratio": "1.1180",
        "worst_cell": name.replace("\r\n", "\n"),
        "report": "out/gate.md",
    }


def test_outputs_of_nothing_are_empty() -> None:
    assert github.outputs(EMPTY) == {"verdict": "incomparable", "worst_ratio": "", "worst_cell": "", "report": ""}
    assert github.outputs(GONE)["worst_ratio"] == ""


def many() -> Comparison:
    """20,000 cells, whose records are shared to be made quickly."""
    usual = builders.cell_result("x")
    bad = builders.verdict(Outcome.REGRESSED, 1.2)
    cells: list[CellResult] = []
    for at in range(20_000):
        named = msgspec.structs.replace(usual, name=f"fastvit_t8 é{at} b1", blocks=())
        cells.append(msgspec.structs.replace(named, verdict=bad) if at == 19_999 else named)
    return builders.comparison(*cells, warnings=tuple(f"warning {at}" for at in range(20_000)))


@pytest.mark.slow
def test_summary_stays_below_the_limit_and_says_what_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "summary"
    earlier = "# Earlier\n" * 30_000
    path.write_text(earlier, encoding="utf-8")
    comparison = many()
    assert github.summarise(comparison, path, "out/gate.md")
    text = path.read_text(encoding="utf-8")
    size = len(text.encode())
    assert github.SUMMARY_LIMIT - 2000 < size < github.SUMMARY_LIMIT
    assert text.startswith(earlier)
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    assert rows[2].startswith("| fastvit_t8 é19999 b1 |")
    assert rows[-1].startswith("| all cells together |")
    assert len({line.count("|") for line in rows}) == 1
    [left] = re.findall(r"^(\d+) more rows are left out here; the full report is in out/gate.md\.$", text, re.M)
    assert int(left) + len(rows) - 3 == 20_000
    [notes] = re.findall(r"^- (\d+) more notes are left out here", text, re.M)
    assert int(notes) > 0
    # the next one finds no room, and must not have the whole summary dropped
    path.write_bytes(b"x" * (github.SUMMARY_LIMIT - 100))
    assert not github.summarise(comparison, path)
    assert path.stat().st_size == github.SUMMARY_LIMIT - 100


@pytest.mark.parametrize("limit", [0, 300, 700, 1000, 1500, 2000, 2500, 3000, 5000])
def test_markdown_keeps_any_limit(limit: int) -> None:
    assert len(compare_terminal.markdown(STORED, limit, NASTY * 10).encode()) <= limit


def test_summary_of_little_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "summary"
    github.summarise(mixed(), path)
    assert path.read_text(encoding="utf-8") == compare_terminal.markdown(mixed())


def test_github_is_told_as_far_as_it_asks(tmp_path: Path) -> None:
    files = {"GITHUB_STEP_SUMMARY": str(tmp_path / "summary"), "GITHUB_OUTPUT": str(tmp_path / "output")}
    github.tell(mixed(), CI | files, "r")
    assert len(github.annotations(mixed(), CI)) == 4
    assert (tmp_path / "summary").exists()
    assert outputs_of((tmp_path / "output").read_text(encoding="utf-8"))["worst_cell"] == "slowest"
    assert github.annotations(mixed(), {}) == []


def test_github_s_outputs_are_written_where_the_summary_cannot_be(tmp_path: Path) -> None:
    files = {"GITHUB_STEP_SUMMARY": str(tmp_path), "GITHUB_OUTPUT": str(tmp_path / "output")}
    with pytest.raises(StoreError, match=r"The step summary .* cannot be written"):
        github.tell(mixed(), files)
    assert (tmp_path / "output").exists()


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("comparison", CASES.values(), ids=CASES)
def test_svg_holds_names_as_text(comparison: Comparison) -> None:
    root = ElementTree.fromstring(chart.svg(comparison))
    space = "{http://www.w3.org/2000/svg}"
    assert not list(root.iter(f"{space}script"))
    shown = {"".join(text.itertext()) for text in root.iter(f"{space}text")}
    for cell in comparison.cells:
        assert charts.short(phrases.shown(cell.name), 38) in shown
    assert (phrases.POOLED in shown) == bool(comparison.pooled)


def test_dollars_are_no_formula() -> None:
    comparison = builders.comparison(builders.cell_result(r"$\frac{1}$"), builders.cell_result("$x$"))
    assert "$x$" in chart.svg(comparison).decode()
    assert chart.png(comparison).startswith(b"\x89PNG")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["svg", "png"])
def test_picture_is_the_same_each_time(kind: str) -> None:
    first = reports.FORMATS[kind].writer(mixed())
    reports.FORMATS["svg"].writer(ONE)
    assert reports.FORMATS[kind].writer(mixed()) == first
    assert b"Software" not in first


def test_picture_of_too_many_cells_says_what_is_left_out() -> None:
    cells = [builders.cell_result(str(at)) for at in range(chart.MOST_CELLS + 5)]
    assert "5 more cells, none of them worse, are left out" in chart.svg(builders.comparison(*cells)).decode()


def test_blocks_far_off_leave_the_scale_alone() -> None:
    cell = builders.cell_result("a", blocks=(builders.block(1, 10.0, 1000.0), builders.block(2, 10.0, 1.0)))
    assert chart.svg(builders.comparison(cell))


def test_picture_without_what_draws_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "vl_convert" else find(name))
    with pytest.raises(UnavailableError, match=r"run: .*pip install .*vl-convert-python"):
        chart.png(ONE)
    published = reports.publish(ONE, tmp_path, ["svg", "markdown", "png", "junit"])
    (sentence,) = published.lost
    assert sentence.startswith(f"No svg and no png in {tmp_path}: Pictures are drawn by vl_convert")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gate.junit.xml", "gate.md"]


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("comparison", CASES.values(), ids=CASES)
def test_every_format_is_written(comparison: Comparison, tmp_path: Path) -> None:
    names = [*reports.FORMATS, "json"]
    written, lost = reports.publish(comparison, tmp_path / "new" / "folder", names)
    assert lost == []
    assert [path.name for path in written] == [
        "gate.md",
        "gate.junit.xml",
        "gate.json",
        "gate.bmf.json",
        "gate.gha.json",
        "gate.pytest-benchmark.json",
        "gate.svg",
        "gate.png",
    ]
    assert sorted(path.name for path in written[0].parent.iterdir()) == sorted(path.name for path in written)
    assert all(path.stat().st_size for path in written)


def test_unknown_format_names_the_nearest_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no report format 'junitt'\. Did you mean 'junit'\? Known: markdown, junit,"):
        reports.publish(ONE, tmp_path, ["markdown", "junitt"])
    assert not list(tmp_path.iterdir())
    with pytest.raises(UsageError, match=r"'zzz'\. Known:"):
        reports.checked(["zzz"])


def test_folder_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        written, (sentence,) = reports.publish(ONE, folder, ["markdown", "json"])
        assert written == []
        assert re.search(r"cannot be made: (File exists|Not a directory)\.$", sentence)
        assert sentence.count(".") == 1 + str(folder).count(".")


def test_what_one_format_cannot_do_keeps_no_other_from_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Comparison) -> bytes:
        raise ValueError("of its own")

    monkeypatch.setitem(reports.FORMATS, "bmf", reports.ReportFormat(".bmf.json", broken, bool))
    (tmp_path / "gate.md").mkdir()
    (tmp_path / "gate.md" / "kept").write_text("x", encoding="utf-8")
    (tmp_path / "gate.json").write_text("old", encoding="utf-8")
    monkeypatch.setattr(reports.files, "put", lambda source, target: source.rename(target))  # a folder is in the way
    written, lost = reports.publish(ONE, tmp_path, ["markdown", "json", "bmf", "gha"])
    assert [path.name for path in written] == ["gate.json", "gate.gha.json"]
    assert [sentence.partition(" in ")[0] for sentence in lost] == ["No markdown", "No bmf"]
    assert lost[1].endswith(": of its own.")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["gate.gha.json", "gate.json", "gate.md"]  # and no draft
    assert reports.read(tmp_path / "gate.json") == ONE


def test_formats_whose_packages_are_missing_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = ["markdown", "junit", "json", "svg"]
    assert reports.possible(usual) == (usual, "")
    monkeypatch.setitem(reports.FORMATS, "svg", reports.FORMATS["svg"]._replace(needs=("no_such_package",)))
    kept, left_out = reports.possible(usual)
    assert kept == usual[:3]
    assert re.search(r"^svg is left out of the reports: .*no_such_package.*\.$", left_out)
    reports.require(kept)
    with pytest.raises(UnavailableError, match="no_such_package"):
        reports.require(usual)


NEW = builders.cell_result("new", Outcome.NO_BASELINE, None)


@pytest.mark.parametrize(
    ("others", "policy", "outcome", "code"),
    [
        ((), NoBaseline.FAIL, Outcome.NO_BASELINE, 4),
        ((), NoBaseline.PASS, Outcome.NO_BASELINE, 0),
        ((Outcome.PASS, Outcome.IMPROVED), NoBaseline.PASS, Outcome.NO_BASELINE, 0),
        ((Outcome.PASS,), NoBaseline.FAIL, Outcome.NO_BASELINE, 4),
        # what may pass hides no other cell that did not
        ((Outcome.INCONCLUSIVE,), NoBaseline.PASS, Outcome.INCONCLUSIVE, 3),
        ((Outcome.INCONCLUSIVE,), NoBaseline.FAIL, Outcome.NO_BASELINE, 4),
        ((Outcome.INCOMPARABLE,), NoBaseline.PASS, Outcome.INCOMPARABLE, 4),
        ((Outcome.REGRESSED,), NoBaseline.PASS, Outcome.REGRESSED, 1),
    ],
)
def test_a_cell_without_a_baseline_ends_by_the_policy(
    others: tuple[Outcome, ...], policy: NoBaseline, outcome: Outcome, code: int, tmp_path: Path
) -> None:
    cells = [builders.cell_result(each.value, each, None if each is Outcome.INCOMPARABLE else 1.01) for each in others]
    comparison = builders.comparison(NEW, *cells, plan=Plan(no_baseline=policy))
    assert (comparison.outcome, comparison.exit_code) == (outcome, code)
    assert reports.publish(comparison, tmp_path, list(reports.FORMATS)).lost == []
    assert reports.read(tmp_path / "gate.json") == comparison
    assert "no baseline yet" in phrases.sentence(comparison)
    case = ElementTree.parse(tmp_path / "gate.junit.xml").find(".//testcase[@name='new']/*[@type='no-baseline']")
    assert case is not None
    assert case.tag == ("skipped" if policy is NoBaseline.PASS else "error")


def test_a_comparison_of_before_there_was_a_policy_is_read(tmp_path: Path) -> None:
    reports.write(ONE, "json", tmp_path / "old.json")
    document = json.loads((tmp_path / "old.json").read_text(encoding="utf-8"))
    del document["plan"]["no_baseline"]
    (tmp_path / "old.json").write_text(json.dumps(document), encoding="utf-8")
    assert reports.read(tmp_path / "old.json").plan.no_baseline is NoBaseline.FAIL


def test_write_says_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="No such file"):
        reports.write(ONE, "markdown", tmp_path / "missing" / "a.md")


def test_plan_is_told() -> None:
    plan = Plan(margin=0.03, seed=7)
    assert "margin 3 %" in phrases.conditions(mixed(plan=plan))["plan"]
    assert "seed 7" in compare_terminal.markdown(mixed(plan=plan))
