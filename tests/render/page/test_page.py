"""The report as a file: what stands in it, what can not, and the pictures made of the same descriptions."""

import base64
import contextlib
import hashlib
import json
import re
import shutil
import subprocess
import sys
import zipfile
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any
from unittest import mock

import altair
import msgspec
import pages
import pytest
from builders import artifact, failure, measurement, request, run, shape, spec
from commands import call, refused
from hypothesis import given
from hypothesis import strategies as st

from fastvit_bench.comparing import chart, formats
from fastvit_bench.errors import StoreError, UnavailableError
from fastvit_bench.records import Fuse, Head, Measurement, Unit
from fastvit_bench.render import charts, row_charts, row_table
from fastvit_bench.render.frontiers import frontiers, groups
from fastvit_bench.render.page import compose, in_script
from fastvit_bench.render.page.content import headline
from fastvit_bench.render.ratios import ratio
from fastvit_bench.render.rows import Row, collect
from fastvit_bench.render.text import latency
from fastvit_bench.stats.pareto import Counted
from fastvit_bench.store import runs
from fastvit_bench.store.runs import RunFile

ROOT = Path(__file__).parents[3]
CAME_ALONG = list((ROOT / "results" / "cpu-reference").glob("study-*.json"))


class Outline(HTMLParser):
    """Elements, their attributes, and the text of scripts, as a browser's parser would part them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.words = ""
        self._in_script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_script = tag == "script"
        if self._in_script:
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_script = False

    def handle_data(self, data: str) -> None:
        if self._in_script:
            self.scripts[-1] += data
        else:
            self.words += data


@pytest.fixture(scope="module")
def page() -> str:
    return compose.html(
        pages.few(),
        pages.verdicts(),
        studies=pages.studies(),
        title=pages.HOSTILE,
        footer="Made by a test.",
        reference="fastvit_t8",
    )


@pytest.mark.slow
def test_charts_that_are_not_checked_are_those_that_are() -> None:
    def described() -> str:
        return compose.html(
            pages.few(),
            pages.verdicts(),
            studies=pages.studies(),
            histories=compose.developed(pages.histories()),
            title="t",
            footer="f",
            reference="fastvit_t8",
        )

    quick = described()
    with mock.patch.object(charts, "unchecked", contextlib.nullcontext):
        assert described() == quick


@pytest.mark.slow
def test_names_from_files_are_text_wherever_they_stand(page: str) -> None:
    outline = Outline(page)
    assert [tag for tag, _ in outline.tags].count("script") == 3  # the data, the bundle, the page's own
    assert "img" not in [tag for tag, _ in outline.tags]
    assert not any(name.startswith("on") for _, attributes in outline.tags for name in attributes)
    shown = " ".join(pages.HOSTILE.split())
    assert outline.words.count(shown) >= 4  # title, headline, verdict, failure
    data = json.loads(outline.scripts[0])
    assert any(row[0][0] == shown for row in data["tables"]["figures"]["rows"])
    assert shown in json.dumps(data["figures"]["comparison"], ensure_ascii=False).encode().decode("unicode_escape")


def test_the_policy_names_the_scripts_and_nothing_else(page: str) -> None:
    outline = Outline(page)
    [policy] = [each["content"] for _, each in outline.tags if each.get("http-equiv") == "Content-Security-Policy"]
    assert policy
    hashes = {base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in outline.scripts[1:]}
    assert set(re.findall(r"'sha256-([^']+)'", policy)) == hashes
    assert policy.startswith("default-src 'none'; ")
    assert "eval" not in policy
    assert "http" not in policy
    fetched = [each for _, each in outline.tags if each.get("src") or (each.get("href") or "#")[0] not in "#d"]
    assert fetched == []


def test_the_bundle_stands_in_the_page_once(page: str) -> None:
    assert page.count("window.vegaEmbed=") == 1
    assert len(page.encode()) < 1_500_000


@given(st.recursive(st.text() | st.none(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_in_a_script_is_the_same_json_without_markup(value: Any) -> None:
    text = in_script(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value


def told(*lines: Any, specs: tuple[Any, ...] = pages.SPECS, accuracies: dict[str, Counted] | None = None) -> str:
    """The headline of some measurements, with usual spaces."""
    rows = collect([RunFile(Path("x"), (run(request=request(models=specs)), *lines), 0)])
    sentence, doubts = headline(groups(rows), accuracies)
    return " ".join([sentence, *doubts]).replace("\N{NO-BREAK SPACE}", " ")


UNPUBLISHED = tuple(spec(name=f"m{at}", published=None) for at in range(4))


def timed(model: str, *ms: float, size: int = 256, **changes: Any) -> Measurement:
    """A measurement of so many milliseconds, each as often as makes fifty runs."""
    made = artifact(model=model, shape=shape(size), **changes)
    return measurement(artifact=made, samples_ns=(tuple(round(1e6 * each) for each in ms) * (50 // len(ms)),))


def figure_cells(rows: list[Row]) -> list[list[str]]:
    """The latencies of the first table, column by column."""
    (table, *_) = row_table.report(rows).tables
    return [cells for column, cells in table.visible if column.role == "figure"]


def test_the_headline_says_who_leads_and_at_what_cost() -> None:
    sentence, doubts = headline(groups(pages.few()))
    assert not doubts
    shown = sentence.replace("\N{NO-BREAK SPACE}", " ")
    assert shown.startswith(
        "Of 4 models at 256 px on cpu, 3 are on the accuracy-latency frontier, from fastvit_t8 (8.000 [7.991, 8.009] "
        "ms, 76.2 %) to fastvit_ma36 (100.0 [99.8, 100.2] ms, 83.9 %), by published top-1; "
    )
    assert shown.endswith(" is dominated by fastvit_sa12.")
    assert headline([]) == ("No latency was measured in these runs.", [])


def test_the_headline_has_the_digits_and_marks_of_the_table() -> None:
    """Planted: a figure of `6 [2, 7] *` was told as 6.31 ms."""
    doubtful = timed("m0", 2.2, 2.2, 6.31, 6.4, 6.9)
    rows = collect([RunFile(Path("x"), (run(request=request(models=UNPUBLISHED)), doubtful), 0)])
    [in_table] = figure_cells(rows)
    shown = told(doubtful, specs=UNPUBLISHED)
    assert shown.startswith(f"m0 takes {in_table[0]} ms at 256 px on cpu. * m0: ")
    assert "*" in in_table[0]
    for warning in doubtful.warnings:
        assert warning in shown
    assert "6.31 ms" not in shown


def test_the_headline_tells_what_was_not_compared() -> None:
    unseen = msgspec.structs.replace(timed("m0", 8.0), parity=None)
    assert "8.000† [" in told(unseen, specs=UNPUBLISHED)
    assert told(unseen, specs=UNPUBLISHED).endswith("† Not compared with the reference on that device.")


def test_the_headline_is_of_the_folded_file() -> None:
    """Planted: the quickest figure of an unfused file stood for the model."""
    unfused, folded = timed("m0", 5.0, fused=Fuse.NONE), timed("m0", 8.0)
    assert "8.000 [" in told(unfused, folded, specs=UNPUBLISHED)
    assert "5.0" not in told(unfused, folded, specs=UNPUBLISHED)
    assert told(unfused, specs=UNPUBLISHED).startswith("m0 (unfused) takes 5.000 [")


def test_the_headline_is_at_the_models_own_size() -> None:
    own = (spec(name="m0", published=None, resolution=384), spec(name="m1", published=None, resolution=256))
    assert "at 384 px on" in told(timed("m0", 8.0), timed("m0", 9.0, size=384), specs=own)
    assert "at 256 px, which is not its own size, on" in told(timed("m0", 8.0), specs=own)
    both = told(timed("m0", 8.0), timed("m0", 9.0, size=384), timed("m1", 9.0), specs=own)
    assert both.startswith("m1 takes 9.000 [")  # m0 was not made for that size


def test_a_ratio_in_the_headline_has_its_interval_or_is_not_said() -> None:
    """Planted: "takes 16 times as long" where the tool's own ratio is `16 [4, 17]`."""
    quick, slow = timed("m0", 1.0, 1.0, 1.0, 1.4, 4.0), timed("m1", 16.0)
    interval = ratio(slow, quick).interval
    assert interval is not None
    text = latency(ratio(slow, quick).value, interval)
    assert f"m1 takes 16.00 [16.00, 16.00] ms, {text} times as long." in told(quick, slow, specs=UNPUBLISHED)
    few = measurement(artifact=artifact(model="m0"), samples_ns=((10**6,) * 5,))
    assert " times " not in told(few, slow, specs=UNPUBLISHED)
    other = timed("m1", 16.0, head=Head.DENSE)  # which is another network
    assert " times " not in told(quick, other, specs=UNPUBLISHED)


def test_who_is_quickest_is_doubted_where_intervals_do_not_tell() -> None:
    close = timed("m1", 8.0, 8.2, 7.9, 8.4, 7.95)
    shown = told(timed("m0", 7.99, 8.1, 7.9, 8.3, 8.4), close, timed("m2", 20.0), specs=UNPUBLISHED)
    assert ", which is not beyond doubt (" in shown
    assert "doubt" not in told(timed("m0", 8.0), timed("m2", 20.0), specs=UNPUBLISHED)


def test_the_page_s_table_has_the_marks_of_the_terminal_s() -> None:
    """The plan's share that falls marks a figure on the terminal; on the page it did not."""
    from builders import placement, reported

    small = reported(artifact=artifact(backend="coreml"), placement=placement(*[Unit.NEURAL_ENGINE] * 9, Unit.CPU))
    large = reported(
        artifact=artifact(backend="coreml", shape=shape(384)), placement=placement(Unit.NEURAL_ENGINE, Unit.CPU)
    )
    rows = collect([RunFile(Path("x"), (run(), small, large), 0)])
    in_table = {cell for cells in figure_cells(rows) for cell in cells}
    assert any("*" in cell for cell in in_table)
    data = json.loads(Outline(compose.html(rows, [], title="t", footer="")).scripts[0])
    at = [column["title"] for column in data["tables"]["figures"]["columns"]].index("latency ms [95 % interval]")
    lines = data["tables"]["figures"]["rows"]
    assert {line[at][0] for line in lines} == in_table
    assert any("falls from 90 % at 256" in line[at][2] for line in lines)


def test_far_quantiles_stand_on_the_page() -> None:
    long = measurement(samples_ns=(tuple(10_000_000 + 1000 * at for at in range(400)),))
    rows = collect([RunFile(Path("x"), (run(), long), 0)])
    data = json.loads(Outline(compose.html(rows, [], title="t", footer="")).scripts[0])
    titles = [column["title"] for column in data["tables"]["figures"]["columns"]]
    assert "p99 ms" in titles
    assert not [title for title in titles if "p99.9" in title]
    cell = data["tables"]["figures"]["rows"][0][titles.index("p99 ms")]
    interval = long.quantile_interval_ms(0.99)
    assert cell == [latency(long.quantile_ms(0.99) or 0, interval), long.quantile_ms(0.99)]


@pytest.mark.slow
def test_measured_accuracy_has_columns_and_a_frontier_of_its_own() -> None:
    rows = collect(
        [
            RunFile(
                Path("x"),
                (
                    run(),
                    *(
                        measurement(
                            artifact=artifact(model=f"m{at}", sha256=f"{at:064}"), samples_ns=((10**6 * at,) * 9,)
                        )
                        for at in (1, 2)
                    ),
                ),
                0,
            )
        ]
    )
    counted = {f"{at:064}": Counted(700 + 50 * at, 1000) for at in (1, 2)}
    text = compose.html(rows, [], title="t", footer="", accuracies=counted)
    data = json.loads(Outline(text).scripts[0])
    titles = [column["title"] for column in data["tables"]["figures"]["columns"]]
    assert "measured top-1 %" in titles
    assert "on frontier, measured top-1" in titles
    assert not [title for title in titles if title.startswith("published top-1")]
    [figure] = data["figures"]["accuracy"]
    assert "measured top-1 of the files that were timed" in figure["caption"]
    assert "measured on 1000 images" in json.dumps(figure["spec"])


def test_descriptions_are_valid_vega_lite() -> None:
    rows = pages.few()
    found = groups(rows)
    measured = row_charts.conditions(rows)
    made = [row_charts.accuracy(each, measured, charts.PAGE) for each in frontiers(found)]
    made += [each for group in found if (each := row_charts.resolution(group, measured, charts.PAGE))]
    made += [each for one in pages.verdicts() if (each := chart.comparison(one, charts.PAGE))]
    assert [each.kind for each in made] == ["accuracy", "latency", "comparison", "comparison"]
    for each in made:
        altair.LayerChart.from_dict(each.spec, validate=True)


def test_charts_are_limited_and_say_so() -> None:
    rows = pages.many()
    found = groups(rows)
    measured = row_charts.conditions(rows)
    drawn = row_charts.resolution(found[0], measured, charts.LIGHT)
    assert drawn
    assert "84 of 100 models are in the table only." in drawn.caption
    frontier = row_charts.accuracy(frontiers(found)[0], measured, charts.LIGHT)
    assert "further dominated models are in the table only." in frontier.caption


def ends(counted: Counted) -> tuple[float, float]:
    return 100 * counted.share.low, 100 * counted.share.high


def test_wilson_s_interval_is_the_textbook_s() -> None:
    assert ends(Counted(81, 263)) == pytest.approx((25.53, 36.62), abs=0.02)  # Newcombe 1998, table I
    assert ends(Counted(0, 10))[0] == 0.0


# --- on the command line ----------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a run of two models, a comparison, and one that cannot be read."""
    path = runs.create(tmp_path / "results", run(request=run().request))
    for model, ms in (("fastvit_t8", 8.0), ("<b>other</b>", 9.0)):
        for size in (224, 256):
            runs.append(path, pages.figure(model, ms, size))
    formats.write(pages.verdicts()[0], "json", path.parent / "gate-20260131-150000-aaaaaa.json")
    (path.parent / "compare-20260131-160000-bbbbbb.json").write_text("{}", encoding="utf-8")
    return tmp_path


def test_the_command_writes_one_page_and_says_what_it_left_out(home: Path) -> None:
    done = call("report", "-o", "r.html", "--reference", "fastvit_t8", cwd=home, expect=7)
    assert done.stdout == ""
    assert "A stored comparison is left out: " in done.stderr
    assert "written: r.html" in done.stderr
    text = (home / "r.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;other&lt;/b&gt;" in text
    assert "Verdicts of comparisons" in text


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "starts"), [("svg", b"<svg"), ("png", b"\x89PNG")])
def test_the_command_writes_single_figures(home: Path, kind: str, starts: bytes) -> None:
    call("report", "--format", kind, "-o", "out", "--reference", "fastvit_t8", cwd=home, expect=7)
    written = sorted((home / "out").iterdir())
    assert [path.name.partition("-")[0] for path in written] == ["comparison", "latency", "ratio"]
    assert all(path.suffix == f".{kind}" and path.read_bytes().startswith(starts) for path in written)
    if kind == "svg":
        latency = next(path for path in written if path.name.startswith("latency")).read_text(encoding="utf-8")
        assert "&lt;b&gt;other&lt;/b&gt;" in latency
        assert "<b>" not in latency


@pytest.mark.slow
def test_comparisons_alone_make_a_report(home: Path) -> None:
    next((home / "results" / "cpu").glob("*.jsonl")).unlink()
    call("report", cwd=home, expect=7)
    text = (home / "report.html").read_text(encoding="utf-8")
    outline = Outline(text)
    assert "fastvit_t8 256 b1 regressed: " in outline.words.partition("1 comparison")[0]
    assert "Every figure" not in text
    assert "Verdicts of comparisons" in text


@pytest.mark.slow
def test_failures_alone_make_a_page() -> None:
    rows = collect([RunFile(Path("x"), (run(), failure()), 0)])
    text = compose.html(rows, [], title="t", footer="")
    assert "fastvit_t8 256: failed at timing: the worker was killed" in text


@pytest.mark.slow
def test_what_cannot_be_done_is_one_sentence(home: Path) -> None:
    assert "it has no row" in refused("report", "--reference", "fastvit_x", "--config", str(config(home)))
    assert "cannot be written" in refused("report", "-o", "no/such/r.html", "--config", str(config(home)))
    missing = refused("report", "--gate", "missing.json", "--config", str(config(home)))
    assert "missing.json" in missing
    assert "has no row" in refused("table", "--reference", "fastvit_x", "--config", str(config(home)))


@pytest.mark.slow
def test_without_runs_of_one_s_own_the_studies_that_came_along_are_shown(tmp_path: Path) -> None:
    done = call("report", cwd=tmp_path, expect=0)
    assert "Nothing was measured in results/ yet" in done.stderr
    assert "`fastvit-bench latency --device cpu` makes a run" in done.stderr
    assert "written: report.html" in done.stderr
    words = Outline((tmp_path / "report.html").read_text(encoding="utf-8")).words
    studies = f"{len(CAME_ALONG)} studies"
    assert f"Nothing was measured here yet; {studies} of another machine came with the tool." in words
    for command in ("fastvit-bench latency --device cpu", "fastvit-bench study", "fastvit-bench report"):
        assert command in words
    assert "RepMixer against pooling" in words
    assert f"from {studies}" in words


@pytest.mark.slow
def test_only_runs_of_others_are_still_nothing_of_one_s_own(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "results" / "cpu-reference", tmp_path / "results" / "cpu-reference")
    call("report", "--format", "svg", cwd=tmp_path, expect=0)
    kinds = [path.name.partition("-")[0] for path in (tmp_path / "figures").iterdir()]
    assert kinds.count("study") == len(CAME_ALONG)
    assert 0 < kinds.count("accuracy") == len(kinds) - len(CAME_ALONG)  # frontiers of those with published top-1


def test_every_heading_has_an_anchor_and_the_contents_name_every_section(page: str) -> None:
    outline = Outline(page)
    headings = [attributes.get("id") for tag, attributes in outline.tags if tag in {"h2", "h3"}]
    ids = [attributes["id"] for _, attributes in outline.tags if "id" in attributes]
    links = [attributes["href"] for tag, attributes in outline.tags if tag == "a"]
    assert None not in headings
    assert len(set(ids)) == len(ids)
    assert {f"#{name}" for name in headings} <= set(links)
    contents = re.findall(r'href="#([^"]+)"', page.partition('<nav class="contents"')[2].partition("</nav>")[0])
    assert contents == [attributes["id"] for tag, attributes in outline.tags if tag == "h2"]


@pytest.mark.slow
def test_a_history_has_a_chart_per_device_with_the_changes() -> None:
    found = pages.histories()
    text = compose.html(collect(found), [], histories=compose.developed(found), title="t", footer="")
    [figure] = json.loads(Outline(text).scripts[0])["figures"]["history"]
    assert figure["choice"] == "cpu"
    assert len(figure["spec"]["concat"]) == 2
    drawn = json.dumps(figure["spec"])
    assert "+11.0 %" in drawn
    assert "run 20260107-120000-aaaaaa" in drawn
    once = json.loads(Outline(compose.html(pages.few(), [], title="t", footer="")).scripts[0])
    assert once["figures"]["history"] == []


@pytest.mark.slow
def test_pictures_printed_on_a_sheet_have_letters_of_eight_points(tmp_path: Path) -> None:
    found = [RunFile(Path("x"), (run(request=request(models=pages.SPECS)),), 0), *pages.histories()]
    written, _ = compose.pictures(
        pages.few(),
        pages.verdicts(),
        tmp_path,
        "svg",
        studies=pages.studies(),
        histories=compose.developed(found),
        reference="fastvit_t8",
    )
    assert {path.name.partition("-")[0] for path in written} == {
        *("accuracy", "latency", "ratio", "history", "study", "comparison")
    }
    for path in written:
        text = path.read_text(encoding="utf-8")
        width = float(re.findall(r'<svg[^>]*? width="([\d.]+)"', text)[0])
        sizes = {float(size) for size in re.findall(r'font-size="([\d.]+)px"', text)}
        printed = min(1, SHEET_PX / width)
        assert sizes
        assert min(sizes) * printed * 0.75 >= 8, path.name


SHEET_PX = (210 - 2 * 12) / 25.4 * 96  # between the margins of A4


def config(home: Path) -> Path:
    """The usual configuration, with the results of this home."""
    path = home / "benchmark.toml"
    text = (ROOT / "benchmark.toml").read_text(encoding="utf-8")
    path.write_text(text.replace('results = "results"', f'results = "{home / "results"}"'), encoding="utf-8")
    return path


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "vl_convert" else object())
    with pytest.raises(
        UnavailableError, match=r"drawn by vl_convert, not installed here; run: .*pip install .*vl-convert-python"
    ):
        compose.html(pages.few(), [], title="", footer="")


def test_a_page_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "r.html").mkdir()
    (tmp_path / "r.html" / "x").touch()
    with pytest.raises(StoreError, match="cannot be written"):
        compose.write("x", tmp_path / "none" / "r.html")
    assert not list(tmp_path.glob(".r*"))


def test_the_page_s_parts_are_in_the_package() -> None:
    folder = files("fastvit_bench.render.page")
    for name in ("page.html", "page.css", "page.js"):
        assert (folder / name).read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_wheel_holds_the_page_s_parts(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(tmp_path), str(ROOT)]
    subprocess.run(pip, check=True, capture_output=True)
    [wheel] = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for name in ("page.html", "page.css", "page.js"):
        assert f"fastvit_bench/render/page/{name}" in names
