"""Histories: what is one series, where it changed, how it is told and drawn, and the command as users call it."""

import csv
import io
import itertools
import json
import math
import random
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import builders
import msgspec
import pytest
import scipy.stats
from commands import call, refused
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.history import chart, table
from fastvit_bench.history import series as history_series
from fastvit_bench.history.series import HistoryPoint, Series
from fastvit_bench.records import METHODS, Artifact, CallPattern, Engine, Fuse, Head, Measurement, Protocol, Run, Window
from fastvit_bench.render import charts, markdown
from fastvit_bench.stats import changepoints
from fastvit_bench.store import runs
from fastvit_bench.store.runs import Line, RunFile


def run(number: int, **changes: Any) -> Run:
    """The run of a day."""
    day = builders.START + timedelta(days=number)
    return builders.run(
        **{"id": runs.new_id(day, f"{number:06x}"), "started": day.isoformat(), "commit": f"{number:07x}"} | changes
    )


def figure(number: int, median_ms: float = 10.0, **changes: Any) -> Measurement:
    """A measurement of a day; words of an artifact go into its artifact."""
    of_artifact = {name: changes.pop(name) for name in list(changes) if name in Artifact.__struct_fields__}
    usual: dict[str, Any] = {
        "finished": builders.at(1440 * number),
        "artifact": builders.artifact(**of_artifact),
        "samples_ns": (builders.samples(median_ms, 20),),
    }
    return builders.measurement(**(usual | changes))


def file(number: int, *lines: Line, **changes: Any) -> RunFile:
    return RunFile(path=Path(f"{number}.jsonl"), lines=(run(number, **changes), *lines), torn_bytes=0)


def series(figures: list[float], min_change: float = history_series.MIN_CHANGE) -> Series:
    """A series of these figures, one a day, searched."""
    (found,) = history_series.collect([file(number, figure(number, ms)) for number, ms in enumerate(figures)])
    return history_series.search(found, min_change)


def simulated(levels: list[tuple[int, float]], noise: float, seed: int) -> list[float]:
    """So many figures around each level, with normal noise of a share."""
    draw = random.Random(seed)
    return [level * math.exp(draw.gauss(0, noise)) for count, level in levels for _ in range(count)]


# --- what is one series -----------------------------------------------------------------------------------------------


def test_figures_of_a_cell_are_a_series_in_the_order_they_were_measured() -> None:
    (found,) = history_series.collect([file(2, figure(2, 12)), file(0, figure(0, 10)), file(1, figure(1, 11))])
    assert [round(point.figure_ms) for point in found.points] == [10, 11, 12]
    assert [point.commit for point in found.points] == ["0000000", "0000001", "0000002"]


@pytest.mark.parametrize(
    "changes",
    [
        {"machine": builders.machine(packages={"onnxruntime": "1.24.0"})},
        {"machine": builders.machine(os="Linux 6.2 x86_64", python="3.12.1", driver="570.1", memory_mib=16000)},
        {"machine": builders.machine(host="x")},
        {"toolchain": {"onnx": "1.20.0"}, "sha256": "cd" * 32},
        {"weights": msgspec.structs.replace(builders.CHECKPOINT, sha256="ff" * 32)},
    ],
)
def test_what_may_explain_a_change_is_in_the_series_and_named(changes: dict[str, Any]) -> None:
    (found,) = history_series.collect([file(0, figure(0)), file(1, figure(1, **changes))])
    assert len(found.points) == 2
    said = " ".join(history_series.also_changed(*found.points))
    wanted = {
        "machine": ("onnxruntime: 1.23.0 then, 1.24.0 now", "driver: none then, 570.1 now", "host name: "),
        "toolchain": ("onnx: 1.19.0 then, 1.20.0 now", "the exported file"),
        "weights": ("weights: fastvit_t8.pth.tar@1a2b3c4d then, fastvit_t8.pth.tar@ffffffff now",),
    }
    assert any(each in said for each in wanted[next(iter(changes))])


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "mine"},
        {"head": Head.DENSE},
        {"classes": 10},
        {"shape": builders.shape(512)},
        {"shape": builders.shape(256, batch=8)},
        {"fused": Fuse.NONE},
        {"precision": "fp16"},
        {"options": {"attention": "conv"}},
        {"weights": builders.RANDOM},
        {"window": Window.END_TO_END},
        {"clock": "another"},
        {"pacing": CallPattern.REMOTE_CALL},
        {"method": METHODS[Protocol.PAPER]},
        {"device": builders.device(backend="pytorch")},
        {"device": builders.device(options={"threads": 1})},
        {"device": builders.device(name="another")},
        {"engine": builders.engine()},
        *({"machine": builders.machine(**one)} for one in ({"processor": "x"}, {"cores": 2}, {"quota": 0.5})),
        {"machine": builders.machine(memory_mib=8192)},
        {"machine": builders.machine(accelerator="NVIDIA H200")},
    ],
)
def test_what_makes_figures_another_cells_makes_another_series(changes: dict[str, Any]) -> None:
    assert len(history_series.collect([file(0, figure(0)), file(1, figure(1, **changes))])) == 2


def test_a_series_goes_on_when_its_machine_gets_a_name_and_not_on_another() -> None:
    first, second = builders.machine(name="lab-1"), builders.machine(name="lab-2")
    assert len(history_series.collect([file(0, figure(0)), file(1, figure(1, machine=first))])) == 1
    assert len(history_series.collect([file(0, figure(0, machine=first)), file(1, figure(1, machine=second))])) == 2


def test_an_engine_of_another_version_is_in_the_series_and_named() -> None:
    def built(**changes: Any) -> Engine:
        return builders.engine(**changes)

    card = msgspec.structs.replace(built().card, driver="570")
    one, other = figure(0, engine=built()), figure(1, engine=built(version="11.0", card=card))
    (found,) = history_series.collect([file(0, one), file(1, other)])
    said = history_series.also_changed(*found.points)
    assert "tensorrt of the engine: 10.16.1 then, 11.0 now" in said
    assert any("driver of the engine" in each for each in said)
    other = figure(2, engine=built(settings={"optimization_level": "5"}))
    assert len(history_series.collect([file(0, one), file(2, other)])) == 2


def test_what_a_profile_demands_of_the_hardware_makes_no_series() -> None:
    demanding = figure(1, device=builders.device(match="Example Processor"))
    assert len(history_series.collect([file(0, figure(0)), file(1, demanding)])) == 1


def test_a_run_that_is_named_twice_counts_once_and_a_resumed_one_goes_on() -> None:
    once = file(0, figure(0), run(0, commit="fffffff", dirty=True), figure(1))
    (found,) = history_series.collect([once, once])
    assert [point.commit for point in found.points] == ["0000000", "fffffff+"]


# --- where it changed -------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=60)
@given(st.integers(6, 30), st.integers(6, 30), st.booleans(), st.integers(0, 10**6), st.floats(0.5, 2000))
def test_a_step_of_ten_percent_is_found(before: int, after: int, slower: bool, seed: int, level: float) -> None:
    """Within a point, nearly always; the size within what two percent of noise allow."""
    ratio = 1.1 if slower else 1 / 1.1
    hits = 0
    for trial in range(5):
        found = series(simulated([(before, level), (after, level * ratio)], 0.02, seed + trial)).changes
        hits += len(found) == 1 and abs(found[0].at - before) <= 1 and abs(found[0].shift.ratio / ratio - 1) < 0.05
    assert hits >= 3


@pytest.mark.slow
def test_steps_are_found_in_nearly_all_series() -> None:
    """Of 200: a step after 15 of 30 runs within one run in 95 %, and with only four runs after it in 80 %."""
    middle = late = 0
    for seed in range(200):
        found = series(simulated([(15, 10), (15, 11)], 0.02, seed)).changes
        middle += [abs(change.at - 15) <= 1 for change in found] == [True]
        found = series(simulated([(26, 10), (4, 11)], 0.02, seed)).changes
        late += [abs(change.at - 26) <= 1 for change in found] == [True]
    assert middle >= 190
    assert late >= 160


NOISE = {
    "normal": lambda draw: draw.gauss(0, 0.02),
    "heavy tails": lambda draw: 0.02 * draw.gauss(0, 1) / math.sqrt(draw.gammavariate(1.5, 1 / 1.5)),
    "skewed": lambda draw: draw.expovariate(50),
    "one in five 30 % slower": lambda draw: draw.gauss(0, 0.01) + 0.26 * (draw.random() < 0.2),
}


@pytest.mark.parametrize("kind", NOISE)
@pytest.mark.parametrize("count", [5, 20, *(pytest.param(count, marks=pytest.mark.slow) for count in (6, 10, 60, 200))])
def test_noise_is_no_change_in_95_percent_of_series(kind: str, count: int) -> None:
    draw = random.Random(f"{kind} {count}")
    trials = 200
    alarms = sum(bool(changes([10 * math.exp(NOISE[kind](draw)) for _ in range(count)])) for _ in range(trials))
    # so many would be exceeded by chance in one of a thousand, if the share were 5 %
    assert alarms <= scipy.stats.binom.ppf(0.999, trials, 0.05)
    assert kind != "normal" or alarms <= 0.05 * trials


def changes(figures: list[float]) -> tuple[history_series.HistoryChange, ...]:
    """Of a series without the records around it, which take most of the time."""
    points = tuple(HistoryPoint(run(0), _Figure(ms)) for ms in figures)  # type: ignore[arg-type]
    return history_series.search(Series(points)).changes


def test_the_simulation_finds_a_penalty_that_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changepoints, "PENALTY", (0.3, 0.1))
    with pytest.raises(AssertionError):
        test_noise_is_no_change_in_95_percent_of_series("normal", 60)


@pytest.mark.slow
def test_the_simulation_finds_a_penalty_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changepoints, "PENALTY", (4.0, 2.0))
    with pytest.raises(AssertionError):
        test_steps_are_found_in_nearly_all_series()


class _Figure:
    """As much of a measurement as finding changes needs."""

    def __init__(self, figure_ms: float) -> None:
        self.figure_ms = figure_ms
        self.machine = builders.machine()
        self.device = builders.device()
        self.artifact = None
        self.engine = None
        self.tool = ""


@pytest.mark.slow
@settings(max_examples=40)
@given(st.integers(6, 20), st.integers(6, 20), st.integers(6, 20), st.integers(0, 10**6))
def test_a_step_and_the_way_back_are_two_changes(before: int, between: int, after: int, seed: int) -> None:
    hits = 0
    for trial in range(5):
        found = changes(simulated([(before, 10), (between, 11.5), (after, 10)], 0.015, seed + trial))
        near = [abs(change.at - at) <= 1 for change, at in zip(found, (before, before + between), strict=False)]
        hits += near == [True, True] and len(found) == 2 and found[0].shift.ratio > 1.1 > 0.95 > found[1].shift.ratio
    assert hits >= 3


@given(st.integers(5, 40), st.data())
def test_one_run_far_off_is_no_change(count: int, data: st.DataObject) -> None:
    figures = simulated([(count, 10)], 0.005, count)
    before = len(changes(figures))
    figures[data.draw(st.integers(0, count - 1))] *= data.draw(st.sampled_from([0.2, 0.7, 1.5, 3, 100]))
    assert len(changes(figures)) <= before


def test_outliers_do_not_hide_a_change() -> None:
    figures = simulated([(20, 10), (20, 11)], 0.01, 1)
    for at in (3, 11, 27, 35):
        figures[at] *= 1.8
    (found,) = changes(figures)
    assert abs(found.at - 20) <= 1
    assert found.shift.low < 1.1 < found.shift.high


@pytest.mark.parametrize(
    ("ratio", "least", "count"), [(1.015, 0.02, 0), (1.015, 0.01, 1), (0.97, 0.02, 1), (1.3, 0.5, 0)]
)
def test_changes_smaller_than_asked_for_are_not_reported(ratio: float, least: float, count: int) -> None:
    assert len(series(simulated([(20, 10), (20, 10 * ratio)], 0.001, 3), least).changes) == count


def test_a_small_step_left_out_does_not_split_the_level_of_a_large_one() -> None:
    found = series(simulated([(20, 10), (20, 10.1), (20, 12)], 0.0005, 5))
    (change,) = found.changes
    assert change.at == 40
    assert change.before_ms == pytest.approx(10.05, abs=0.06)
    assert [(start, end) for start, end, _ in found.levels] == [(0, 40), (40, 60)]


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_fewer_than_five_points_are_not_searched(count: int) -> None:
    found = series([10.0, 10.0, 20.0, 20.0][:count])
    assert not found.searched
    assert found.changes == ()
    assert table.changes_in_words(found) == f"not searched ({count} of 5 runs)"
    assert changepoints.breaks([10.0, 10.0, 20.0, 20.0][:count]) == []


def test_equal_figures_have_no_changes_and_a_plain_step_has_one() -> None:
    assert changes([10.0] * 30) == ()
    assert [change.at for change in changes([10.0] * 10 + [11.0] * 10)] == [10]


def test_a_change_tells_what_else_changed_with_its_run() -> None:
    old, new = builders.machine(), builders.machine(packages={"onnxruntime": "1.24.0", "torch": "2.9.0"}, driver="570")
    files = [file(at, figure(at, 10 + (at >= 8), machine=new if at >= 8 else old)) for at in range(16)]
    (found,) = [history_series.search(each) for each in history_series.collect(files)]
    (change,) = found.changes
    assert change.also == (
        "commit: 0000007 then, 0000008 now",
        "driver: none then, 570 now",
        "onnxruntime: 1.23.0 then, 1.24.0 now",
    )


# --- by how much ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("few", range(1, 9))
def test_ranks_follow_from_the_exact_distribution_of_u(few: int) -> None:
    """Counted here over every arrangement."""
    for many in range(few, 9):
        us = [
            sum(place for place in places) - few * (few - 1) // 2
            for places in itertools.combinations(range(few + many), few)
        ]
        rank, confidence = changepoints._rank(few, many)
        below = sum(u < rank for u in us) / len(us)
        assert confidence == pytest.approx(1 - 2 * below)
        if rank > 1:
            assert confidence >= 0.95
        assert 1 - 2 * sum(u <= rank for u in us) / len(us) < 0.95  # the next one would not do


def test_exact_ranks_meet_the_approximation() -> None:
    exact, _ = changepoints._rank(20, 20)
    assert abs(exact - (200 - 1.96 * math.sqrt(400 * 41 / 12))) <= 2
    rank, confidence = changepoints._rank(21, 20)
    assert confidence == 0.95
    assert rank > 100


def test_the_interval_holds_the_shift_in_95_percent() -> None:
    inside = 0
    for seed in range(400):
        figures = simulated([(9, 10), (9, 11)], 0.05, seed)
        found = changepoints.shift(figures[:9], figures[9:])
        assert found.low <= found.ratio <= found.high
        inside += found.low <= 1.1 <= found.high
    assert inside >= scipy.stats.binom.ppf(0.001, 400, 0.95)


def test_two_points_say_how_little_they_are_sure_of() -> None:
    found = changepoints.shift([10.0, 10.1, 10.2], [11.0, 11.1])
    assert found.confidence == pytest.approx(0.8)
    assert found.low == pytest.approx(11.0 / 10.2)
    assert found.high == pytest.approx(11.1 / 10.0)


# --- as text and as a picture -----------------------------------------------------------------------------------------

NAME = "$x^{1}$_<b>&"


def named(count: int, **changes: Any) -> list[Series]:
    """So many series, every other one with a step."""
    files = [
        file(
            day,
            *(figure(day, 10 + each % 2 * (day >= 6), model=f"{NAME}{each:02d}", **changes) for each in range(count)),
        )
        for day in range(12)
    ]
    return [history_series.search(each) for each in history_series.collect(files)]


def test_formats_tell_the_same_changes() -> None:
    found = named(2)
    lines = list(csv.DictReader(io.StringIO(table.csv(found))))
    assert len(lines) == 24
    (changed,) = [line for line in lines if line["change"]]
    assert (changed["model"], changed["run"], changed["level"]) == (f"{NAME}01", run(6).id, "2")
    document = json.loads(table.json(found))
    assert [len(each["changes"]) for each in document] == [0, 1]
    (change,) = document[1]["changes"]
    assert change["ratio"] == pytest.approx(float(changed["change"])) == pytest.approx(1.1, abs=1e-3)
    assert change["also_changed"] == ["commit: 0000005 then, 0000006 now"]
    text = markdown.report(table.report(found, failures=2))
    assert "+10.0 [+10.0, +10.0] |" in text
    assert "2 failed cells of these runs gave no figure." in text
    assert "none found" in text
    assert "<b>" not in text.replace("\\<b\\>", "")


def test_what_was_not_searched_is_said() -> None:
    few = [series([10.0, 11.0])]
    assert any("No changes were looked for" in note for note in table.report(few).notes)
    some = [*few, series([10.0] * 6)]
    assert any("1 of 2 series" in note for note in table.report(some).notes)


@pytest.mark.slow
def test_a_picture_is_the_same_for_the_same_series_and_takes_names_as_they_are(tmp_path: Path) -> None:
    found = named(3)
    for suffix in charts.SUFFIXES:
        one, other = tmp_path / f"one{suffix}", tmp_path / f"other{suffix}"
        assert chart.write(found, one) == chart.write(found, other) == []
        assert one.read_bytes() == other.read_bytes()
    text = (tmp_path / "one.svg").read_text(encoding="utf-8")
    assert "$x^{1}$_&lt;b&gt;&amp;00" in text
    assert "+10.0 % at 0000006" in text
    assert "median of 100 runs" in text
    assert (tmp_path / "one.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_has_24_panels_and_says_what_it_leaves_out() -> None:
    found = named(60)
    shown, (sentence,) = chart.choose(found)
    assert len(shown) == 24
    assert all(each.changes for each in shown)
    assert sentence.startswith("36 of 60 series are not drawn, 6 of them with changes")
    assert chart.choose(found[:24]) == (found[:24], [])


@pytest.mark.parametrize("figures", [[10.0, 10.0], [10.0, 30.0], [10.0] * 5, [10.0] * 6 + [1000.0]])
def test_pictures_of_short_and_flat_series(figures: list[float], tmp_path: Path) -> None:
    chart.write([series(figures)], tmp_path / "a.svg")
    assert (tmp_path / "a.svg").stat().st_size > 1000


def test_a_picture_needs_a_suffix_a_folder_and_what_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"\.svg or \.png"):
        charts.check(tmp_path / "a.jpg")
    with pytest.raises(UsageError, match="no folder"):
        charts.check(tmp_path / "none" / "a.svg")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(UnavailableError, match=r"run: .*pip install .*altair vl-convert-python"):
        charts.check(tmp_path / "a.svg")


# --- as users call it -------------------------------------------------------------------------------------------------


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory; the packaged configuration counts there."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(root: Path, number: int, *lines: Line) -> Path:
    """A run file as a sweep leaves it."""
    path = runs.create(root / "results", run(number))
    for line in lines:
        runs.append(path, line)
    return path


@pytest.mark.slow
def test_a_history_from_run_files(here: Path) -> None:
    for day in range(12):
        models = {"fastvit_t8": 10 + (day >= 6), "fastvit_t12": 20}
        written(here, day, *(figure(day, ms, model=name) for name, ms in models.items()), builders.failure())
    done = call("history", "--device", "cpu", "-o", "h.svg")
    assert "Changes, by the run they were first seen in" in done.stdout
    assert run(6).id in done.stdout
    assert "commit: 0000005 then, 0000006 now" in done.stdout
    assert "12 failed cells" in done.stdout
    assert "picture: h.svg" in done.stderr
    assert (here / "h.svg").is_file()
    only = call("history", "-d", "cpu", "-m", "*t12", "--res", "224..512", "-f", "csv").stdout
    assert {line["model"] for line in csv.DictReader(io.StringIO(only))} == {"fastvit_t12"}
    assert len(json.loads(call("history", "last", run(3).id, "-f", "json").stdout)[0]["points"]) == 2
    assert "Changes" not in call("history", "--min-change", "15%", "-f", "markdown").stdout
    assert "Changes" in call("history", "--min-change", "0.05", "-f", "markdown").stdout


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-d", "nowhere"), "nowhere"),
        (("-d", "mac"), "There are no runs on 'mac'"),
        (("-m", "resnet*"), "No model 'resnet*' was measured in these runs; measured: fastvit_t8"),
        (("--res", "512"), "None of these sizes was measured in these runs; measured: 256"),
        (("--res", "big"), "'big' is not a resolution"),
        (("--min-change", "much"), "'much' is no share"),
        (("--min-change", "200%"), "'200%' is no share"),
        (("-o", "h.jpg"), "end its name in one of these"),
        (("-o", "none/h.svg"), "There is no folder none"),
        (("20991231",), "No run '20991231'"),
        (("last", "-d", "mac"), "These runs hold no measurement on 'mac'; measured on: cpu"),
        (("last",), "1 cell with a single figure: a history takes two runs"),
    ],
)
def test_what_cannot_be_shown_is_one_sentence(words: tuple[str, ...], said: str, here: Path) -> None:
    written(here, 0, figure(0))
    written(here, 1, figure(1))
    assert said in refused("history", *words)


def test_nothing_there_is_no_success(here: Path) -> None:
    assert "There are no runs in results/ yet" in refused("history")
    assert "There are no runs on 'cpu' in results/ yet" in refused("history", "-d", "cpu")
    written(here, 0, builders.failure())
    assert "No figure was measured in 1 run" in refused("history")
    written(here, 1, figure(1))
    assert "single figure" in refused("history", "-d", "cpu")


def test_a_damaged_run_file_is_named_and_a_torn_line_is_not_a_point(here: Path) -> None:
    paths = [written(here, day, figure(day)) for day in range(3)]
    with paths[2].open("a", encoding="utf-8") as torn:
        torn.write('{"kind":"measurement"')
    assert len(call("history", "-f", "csv").stdout.splitlines()) == 4
    paths[1].write_text("{}\n", encoding="utf-8")
    others = call("history", "-f", "csv", expect=7)
    assert len(others.stdout.splitlines()) == 3
    assert f"results/cpu/{paths[1].name}, line 1" in others.stderr
    assert f"results/cpu/{paths[1].name}, line 1" in refused("history", str(paths[1]))


@pytest.mark.slow
def test_a_planted_slow_run_is_not_reported_and_a_planted_regression_is(here: Path) -> None:
    for day, ms in enumerate(simulated([(10, 10), (6, 10.8)], 0.005, 7)):
        written(here, day, figure(day, ms * (2 if day == 4 else 1)))
    (found,) = json.loads(call("history", "-f", "json").stdout)
    (change,) = found["changes"]
    assert change["run"] == run(10).id
    assert change["low"] < 1.08 < change["high"]


def test_the_program_starts_without_what_histories_need() -> None:
    program = (
        "import sys; from fastvit_bench.history import chart, series, table; import fastvit_bench.cli;"
        "print(sorted({'numpy', 'ruptures', 'scipy', 'altair', 'pandas'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
