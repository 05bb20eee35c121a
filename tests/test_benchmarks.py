"""The scripts in benchmarks/: their statistics against known truth, their verdicts, and one tiny run of each.

No test here asserts a time or a ratio of two times: that is what the scripts themselves are for.
"""

import argparse
import importlib
import importlib.util
import itertools
import json
import os
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import builders
import msgspec
import numpy as np
import pytest
from fakes import cudadriver

from fastvit_bench.records import Interval, MachineState, Method, comparison
from fastvit_bench.render import rows
from fastvit_bench.stats import sequential
from fastvit_bench.store import runs

FOLDER = Path(__file__).parent.parent / "benchmarks"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("[!_]*.py"))


def load(name: str) -> ModuleType:
    """A module of benchmarks/, whose scripts find each other by the folder they are started from."""
    sys.path.insert(0, str(FOLDER))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(FOLDER))


instrument, reports = load("_interleave"), load("_report")


def blocks(truth: float, count: int, seed: int, noise: float = 0.02):
    """Blocks of two sides, one `truth` times as long, on a machine that becomes half as slow again meanwhile."""
    draw = np.random.default_rng(seed)
    drift = np.linspace(10, 15, count)
    # now and then another process takes a share: ratios of a kind no normal distribution has
    base, side = (drift * np.exp(noise * draw.standard_t(2, count)) for _ in range(2))
    return instrument.Blocks(
        what="a model",
        seed=seed,
        orders=(),
        values_ms={"side": tuple((truth * side).tolist()), "base": tuple(base.tolist())},
    )


def ratio(value: float, low: float | None = None, high: float | None = None, **changes):
    """A ratio with or without an interval."""
    interval = None if low is None else Interval(low=low, high=high, confidence=0.95)
    usual = instrument.Ratio(
        what="a model", side="ours", base="timm", side_ms=9.0, base_ms=10.0, ratio=value, interval=interval, blocks=20
    )
    return msgspec.structs.replace(usual, **changes)


# --- order ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sides", ["ab", "abc", "abcd"])
def test_every_side_has_every_place_equally_often(sides: str):
    found = instrument.orders(sides, 12, seed=3)
    assert all(sorted(order) == list(sides) for order in found)
    for place in range(len(sides)):
        assert Counter(order[place] for order in found) == dict.fromkeys(sides, 12 / len(sides))


def test_the_order_is_drawn_and_repeatable():
    drawn = {tuple(instrument.orders("ab", 20, seed)) for seed in range(10)}
    assert len(drawn) == 10
    assert instrument.orders("ab", 20, 4) == instrument.orders("ab", 20, 4)
    # which of the two begins a pair of blocks is drawn too: a strict alternation would beat with the machine's rhythms
    starts = Counter(instrument.orders("ab", 400, seed=1)[0::2])
    assert 70 < starts["a", "b"] < 130


def test_a_number_of_blocks_that_does_not_divide_is_kept():
    assert len(instrument.orders("abc", 7, seed=0)) == 7


def test_sides_run_in_the_planned_order_and_the_first_block_is_dropped():
    ran: list[str] = []
    told: list[tuple[int, int]] = []
    counter = itertools.count()

    def side(name: str):
        return lambda: (ran.append(name), float(next(counter)))[1]

    found = instrument.interleave("x", {"a": side("a"), "b": side("b")}, 4, 7, lambda *now: told.append(now))
    assert ran[:2] == ["a", "b"]
    assert ran[2:] == [name for order in found.orders for name in order]
    assert sorted(found.values_ms["a"] + found.values_ms["b"]) == [2, 3, 4, 5, 6, 7, 8, 9]
    assert told == [(i, 4) for i in range(5)]


def test_drift_of_the_machine_cancels_in_paired_ratios():
    clock = itertools.count(1)
    sides = {"a": lambda: 0.9 * (next(clock) // 2), "b": lambda: 1.0 * (next(clock) // 2)}
    found = instrument.compare(instrument.interleave("x", sides, 20, 0), "a", "b")
    assert found.ratio == pytest.approx(0.9, abs=0.05)


# --- statistics -------------------------------------------------------------------------------------------------------


def test_a_known_ratio_is_recovered():
    found = instrument.compare(blocks(0.9, 2001, seed=0), "side", "base")
    assert found.ratio == pytest.approx(0.9, rel=0.003)
    assert found.interval.low < 0.9 < found.interval.high
    assert found.interval.high - found.interval.low < 0.01
    assert found.side_ms == pytest.approx(0.9 * found.base_ms, rel=0.01)


def test_the_interval_of_a_ratio_covers_the_truth_as_often_as_it_says():
    found = [instrument.compare(blocks(0.9, 20, seed), "side", "base").interval for seed in range(600)]
    covered = np.mean([interval.low <= 0.9 <= interval.high for interval in found])
    assert covered > 0.94
    assert covered < 1  # an interval that is never wrong says nothing


def test_fewer_than_six_blocks_have_no_interval():
    assert instrument.compare(blocks(0.9, 5, 0), "side", "base").interval is None
    assert instrument.compare(blocks(0.9, 6, 0), "side", "base").interval is not None
    assert instrument.geometric_mean([blocks(0.9, 5, 0)] * 3, "side", "base", 0).interval is None


def test_the_geometric_mean_and_its_interval(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(instrument, "RESAMPLES", 400)
    truths = (0.8, 0.9, 1.1)
    truth = float(np.prod(truths)) ** (1 / 3)
    covered = 0
    for trial in range(200):
        models = [blocks(value, 20, 10 * trial + i) for i, value in enumerate(truths)]
        found = instrument.geometric_mean(models, "side", "base", trial)
        covered += found.interval.low <= truth <= found.interval.high
        assert found.interval.low <= found.ratio <= found.interval.high
        assert found.ratio == pytest.approx(truth, rel=0.05)
    assert 0.9 < covered / 200 < 1


def test_the_geometric_mean_is_repeatable():
    models = [blocks(0.9, 20, seed) for seed in range(3)]
    assert instrument.geometric_mean(models, "side", "base", 5) == instrument.geometric_mean(models, "side", "base", 5)


# --- equal outputs ----------------------------------------------------------------------------------------------------


class Network:
    """Stands in for a session: its input times a factor."""

    def __init__(self, factor: float, classes: int = 8) -> None:
        self.factor, self.classes = factor, classes

    def get_inputs(self) -> list[SimpleNamespace]:
        return [SimpleNamespace(name="image")]

    def run(self, names: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [self.factor * inputs["image"].reshape(1, -1)[:, : self.classes]]


def test_sessions_with_equal_outputs_are_accepted():
    batch = instrument.images(builders.shape(32))
    assert instrument.check_equal({"ours": Network(1 + 1e-6), "timm": Network(1)}, "timm", batch) < 1e-5


@pytest.mark.parametrize("other", [Network(1.01), Network(float("nan")), Network(1, classes=4)])
def test_sessions_that_compute_something_else_are_not_timed(other: Network):
    batch = instrument.images(builders.shape(32))
    with pytest.raises(SystemExit, match="ours and timm do not compute the same"):
        instrument.check_equal({"ours": other, "timm": Network(1)}, "timm", batch)


# --- verdicts ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variant", "mean", "met"),
    [
        (ratio(0.9, 0.88, 0.92), ratio(0.9, 0.88, 0.92), [True, True]),
        (ratio(1.01, 0.99, 1.03), ratio(0.97, 0.96, 0.98), [True, True]),  # slower, but not beyond noise
        (ratio(1.02, 1.01, 1.03), ratio(0.98, 0.97, 0.99), [False, False]),
        (ratio(0.9), ratio(0.9), [False, False]),  # without an interval nothing is shown
    ],
)
def test_the_verdict_against_timm(variant, mean, met: list[bool]):
    goals = load("against_timm").judge([variant], mean)
    assert [goal.met for goal in goals] == met


@pytest.mark.parametrize(
    ("value", "met"),
    [
        (ratio(1.0, 0.99, 1.01, side="stopwatch"), True),
        (ratio(1.03, 1.025, 1.035, side="stopwatch"), False),
        (ratio(1.0, 0.9, 1.1, side="stopwatch"), False),  # too noisy to say that they agree
        (ratio(1.0, side="stopwatch"), False),
        (ratio(1.0, 0.997, 1.003, side="stopwatch with readings"), True),
        (ratio(1.0, 0.99, 1.01, side="stopwatch with readings"), False),
    ],
)
def test_the_verdict_on_the_window(value, met: bool):
    assert load("window").judge(value).met is met


def test_the_verdict_on_the_overhead():
    overhead = load("overhead")
    ratios = [
        ratio(1.2, base=overhead.WORK),
        ratio(9.0, base=overhead.RUNS),
        ratio(1.3, base=overhead.BARE),
        ratio(3.1, base=overhead.BARE),
    ]
    assert [goal.met for goal in overhead.judge(ratios)] == [True, True, False]


def test_the_seconds_of_a_sweep():
    overhead = load("overhead")
    samples = (1_000_000,) * 100
    taken = builders.measurement(samples_ns=(samples,), method=Method(warmup=10, runs=100))
    assert overhead.run_seconds(taken) == pytest.approx(0.110)
    sweep = overhead.Sweep(sizes=2, wall_s=12.0, exports_s=8.0, runs_s=2.0)
    assert overhead.sweep_ratio(sweep).ratio == pytest.approx(1.2)
    assert "everything else 2.0 s" in overhead.spent(sweep)


def test_simulated_gates_are_the_judges():
    simulation = load("gate_simulation")
    plan = comparison.Plan()
    logs = 0.04 * simulation.noise("t, 3 degrees", 1, (40, 4, 40)) + [[0.0], [0.05], [0.10], [0.02]]
    found, taken = simulation.gates(logs, plan)
    known = {comparison.Outcome.REGRESSED: simulation.REGRESSED, comparison.Outcome.INCONCLUSIVE: simulation.OPEN}
    seen = set()
    for gate in range(len(logs)):
        said: dict[str, comparison.Verdict] = {}
        for look in plan.looks:
            said = sequential.judge({str(c): builders.blocks(logs[gate, c, :look]) for c in range(4)}, plan, said)
        order = [*"0123", sequential.POOLED]
        assert [known.get(said[name].outcome, simulation.PASSED) for name in order] == found[gate].tolist()
        assert [said[name].blocks for name in order] == taken[gate].tolist()
        seen |= set(zip(found[gate].tolist(), taken[gate].tolist(), strict=True))
    assert len(seen) > 8  # all outcomes, at most looks


def test_simulated_gates_meet_their_goals():
    simulation = load("gate_simulation")
    rows = [simulation.simulate(name, 400, 1) for name in ("normal", "skewed")]
    assert [goal.claim for goal in simulation.goals(rows, 400) if not goal.met] == []
    lines = simulation.table(rows).splitlines()
    assert {line.count("|") for line in lines} == {len(simulation.HEADS) + 1}
    worse = replace(rows[0], false_alarms=0.1, caught=0.5, floor=(1.0, 2.0))
    assert sum(not goal.met for goal in simulation.goals([worse], 400)) == 3


# --- what is printed --------------------------------------------------------------------------------------------------


def report(*goals):
    return reports.Report(
        script="against_timm",
        date=builders.at(0),
        machine=builders.machine(),
        state=MachineState(load_before=0.25, steal_percent=0.0),
        settings={"threads": "2"},
        ratios=(ratio(0.9, 0.89, 0.91), ratio(0.9), ratio(0.9, 0.89, 0.91, side_ms=None, base_ms=None)),
        goals=goals,
        remarks=("A remark.",),
        blocks=(blocks(0.9, 6, 0),),
    )


@pytest.mark.parametrize("form", ["text", "json", "markdown"])
@pytest.mark.parametrize("met", [True, False])
def test_a_missed_goal_is_exit_code_1_in_every_form(form: str, met: bool, capsys: pytest.CaptureFixture[str]):
    options = argparse.Namespace(json=form == "json", markdown=form == "markdown")
    goal = reports.Goal(claim="it is fast", met=met, reason="0.9")
    assert reports.finish(report(goal), options) == (not met)
    assert "it is fast" in capsys.readouterr().out


def test_the_markdown_table():
    heading, _, *lines = reports.markdown(report()).splitlines()
    assert heading.startswith("Example Processor 9000 @ 2.50GHz, 4 cores, 16 GiB · 2026-01-31 · Linux 6.1 x86_64")
    assert "onnxruntime 1.23.0" in heading
    assert lines[2] == "| a model | ours | timm | 9 | 10 | 0.900 | [0.890, 0.910] | 20 |"
    assert lines[3] == "| a model | ours | timm | 9 | 10 | 0.90 | (too few blocks) | 20 |"
    assert lines[4] == "| a model | ours | timm |  |  | 0.900 | [0.890, 0.910] | 20 |"
    assert {line.count("|") for line in lines[:5]} == {9}


def test_json_holds_every_block():
    found = report()
    assert msgspec.json.decode(msgspec.json.encode(found), type=reports.Report) == found


# --- the scripts themselves -------------------------------------------------------------------------------------------


def call(script: str, *words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, FOLDER / f"{script}.py", *words],
        cwd=folder,
        # torch's threads wait by spinning, which other tests on the same cores turn into minutes
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_the_readme_describes_every_script():
    readme = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert SCRIPTS == [
        "accuracy_overlap",
        "against_timm",
        "coreml_export",
        "cuda_window",
        "encoders",
        "fleet_chaos",
        "fusing",
        "gate",
        "gate_simulation",
        "int8",
        "int8_gelu",
        "kills",
        "many_rows",
        "next_run",
        "on_gpu",
        "on_gpu_wheels",
        "overhead",
        "precision",
        "rtx_builds",
        "turns",
        "window",
    ]
    for script in SCRIPTS:
        assert f"python benchmarks/{script}.py" in readme


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_help_says_what_is_claimed(script: str, tmp_path: Path):
    done = call(script, "--help", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (load(script).__doc__ or "").splitlines()[0] in done.stdout
    assert "--markdown" in done.stdout or script in (
        "encoders",
        "fleet_chaos",
        "kills",
        "on_gpu",
        "on_gpu_wheels",
    )  # no report of this kind


@pytest.mark.parametrize("words", [("--blocks", "0"), ("--res", "100"), ("--models", "fastvit_t9")])
def test_wrong_usage_is_exit_code_2(words: tuple[str, str], tmp_path: Path):
    assert call("window", *words, folder=tmp_path).returncode == 2


@cudadriver.compiled
def test_without_a_gpu_there_is_nothing_to_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LD_LIBRARY_PATH", str(cudadriver.library(tmp_path / "driver", init=100).parent))
    done = call("cuda_window", folder=tmp_path)
    assert done.returncode == 6, done.stderr
    assert "nothing to time here: No NVIDIA GPU" in done.stderr


TINY = ("--models", "fastvit_t8", "--res", "32", "--blocks", "2", "--runs", "2", "--threads", "1")


def test_stores_of_many_rows_are_read_whole(tmp_path: Path):
    """50 measurements are a run of 42 and one of 8: every store holds them all, and shows the rows it should."""
    many_rows = load("many_rows")
    shown = {}
    for scene in many_rows.SCENES:
        folder = tmp_path / scene.name
        size = many_rows.fill(folder / "results", scene, 50, seed=0)
        paths = runs.all_runs(folder / "results")
        found = [each for path in paths for each in runs.read(path).measurements]
        assert len(found) == 50
        assert size == sum(path.stat().st_size for path in paths)
        assert 3000 < size / 50 < 5000  # a line of a real run has 3.6 KB
        shown[scene.name] = (len(paths), len(rows.read(paths)[0]))
    assert shown == {"one setting": (2, 7), "upgrades": (2, 7), "one file": (1, 7), "all kept": (2, 9)}


def test_of_many_rows_the_slowest_format_decides():
    many_rows = load("many_rows")
    found = [
        many_rows.Found("one setting", "csv", 7, 1.0, 0.9, 80.0),
        many_rows.Found("one setting", "rich", 7, 2.1, 2.0, 90.0),
        many_rows.Found("all kept", "csv", 9, 30.0, 4.0, 501.0),
        many_rows.Found("all kept", "report", 0, 30.0, 4.0, 499.0),
    ]
    judged = {goal.claim: goal.met for goal in many_rows.goals(found, 100)}
    assert judged == {
        "one setting: 100 stored measurements in at most 2 s": False,
        "one setting: at most 500 MiB": True,
        "all kept, csv: at most 5 s of processor time and 500 MiB": False,
        "all kept, report: at most 5 s of processor time and 500 MiB": True,
    }


# --- kills ------------------------------------------------------------------------------------------------------------


def line(**changes: object) -> str:
    usual: dict[str, object] = {"kind": "measurement", "artifact": {"model": "a", "shape": {"height": 32}}}
    return json.dumps(usual | changes) + "\n"


def tally(first: int, pictures: int) -> str:
    return json.dumps({"kind": "tally", "first": first, "pictures": pictures}) + "\n"


def block(number: int, *samples: int) -> dict[str, object]:
    return {"number": number, "base_ns": [samples], "head_ns": [samples]}


def faults(found: list[Any]) -> Counter[str]:
    return sum((Counter({fault.kind: fault.count}) for fault in found), Counter())


def test_what_a_killed_run_file_lost_or_has_twice_is_counted(tmp_path: Path):
    kills, path = load("kills"), tmp_path / "run.jsonl"
    other = {"model": "b", "shape": {"height": 32}}
    usual = tmp_path / "usual.jsonl"
    usual.write_text(line() + line(artifact=other) + tally(0, 64) + tally(64, 6) + line(kind="accuracy", top1=7))
    assert kills.check_run(usual, usual) == []
    path.write_text(line() + line() + line(kind="failure", reason="memory ran out") + '{"kind": "measurement", "torn')
    assert faults(kills.check_run(path, None)) == {"twice": 1, "wrong": 1}
    assert faults(kills.check_run(path, usual)) == {"twice": 1, "wrong": 2, "lost": 2}
    path.write_text(tally(0, 64) + tally(60, 10) + tally(80, 5))
    assert faults(kills.check_run(path, None)) == {"twice": 4, "lost": 10}
    path.write_text(usual.read_text().replace('"top1": 7', '"top1": 8'))
    assert faults(kills.check_run(path, usual)) == {"wrong": 1}


def test_what_a_killed_comparison_lost_or_has_twice_is_counted(tmp_path: Path):
    kills, path = load("kills"), tmp_path / "gate-1.json"
    blocks, torn = tmp_path / "gate-1.blocks", '{"kind": "block", "cell": "a", "bl'
    start = json.dumps({"kind": "start"}) + "\n"
    blocks.write_text(start + json.dumps({"kind": "block", "cell": "a", "block": block(1, 5, 6)}) + "\n" + torn)
    before = kills.stored_keys(tmp_path, "gate-1")
    assert len(before) == 1
    blocks.unlink()
    path.write_text(json.dumps({"cells": [{"name": "a", "blocks": [block(1, 5, 6), block(2, 7, 8)]}]}))
    assert kills.check_document(path) == []
    assert before < kills.stored_keys(tmp_path, "gate-1")
    path.write_text(json.dumps({"cells": [{"name": "a", "blocks": [block(1, 7, 8), block(1, 7, 8), block(4, 9)]}]}))
    assert not before & kills.stored_keys(tmp_path, "gate-1")
    assert faults(kills.check_document(path)) == {"twice": 3}  # two numbers and one block
    pair = {"name": "a", "blocks": [block(1, 5)]}
    path.write_text(json.dumps({"cells": [pair, pair], "matches": [1, 2]}))
    assert faults(kills.check_document(path)) == {"twice": 1, "lost": 1}


def test_a_seed_draws_the_same_kills():
    kills = load("kills")
    drawn = [[kills.drawn(draw, 10) for _ in range(40)] for draw in (random.Random(3), random.Random(3))]
    assert drawn[0] == drawn[1]
    assert {strike.number for strike in drawn[0]} == set(kills.SIGNALS)
    assert {strike.group for strike in drawn[0]} == {strike.at_change for strike in drawn[0]} == {True, False}


def test_a_command_that_cannot_be_killed_is_refused(tmp_path: Path):
    done = call("kills", "--commands", "latency,table", folder=tmp_path)
    assert done.returncode == 2
    assert "'table' is none of latency, " in done.stderr


@pytest.mark.slow
def test_a_killed_export_is_begun_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    done = call("kills", "--kills", "1", "--commands", "export", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (row,) = (line for line in done.stdout.splitlines() if line.startswith("| export |"))
    assert row.endswith("| 1 | 0 | 0 | 0 | 0 | 0 |")  # one kill, and no fault; some rounds may end before it
    assert list(tmp_path.iterdir()) == []


# --- INT8 -------------------------------------------------------------------------------------------------------------


def quantised(model: str, gains: dict[str, float]) -> list[Any]:
    """Rows of `int8.py` of one model, by its labels."""
    row = load("int8").Row
    usual = {"weights": "golden", "settings": "256", "kept": 3, "images": 4}
    return [row(model=model, choices=label, snr_db=gain, **usual) for label, gain in gains.items()]


def test_an_export_is_judged_against_the_defaults_of_its_own_model():
    int8 = load("int8")
    rows = quantised("a", {int8.DEFAULTS: 18.0, int8.EXPORT: 20.99}) + quantised(
        "b", {int8.DEFAULTS: 10.0, int8.EXPORT: 13.5}
    )
    assert [(goal.met, goal.reason) for goal in int8.goals(rows)] == [(False, "+2.99 dB"), (True, "+3.50 dB")]
    assert int8.goals(quantised("a", {int8.EXPORT: 20.0})) == []  # nothing to compare is no verdict
    assert [line.split("|")[4:6] for line in int8.table(rows)[2:4]] == [[" +0.00 ", " -2.99 "], [" +2.99 ", " +0.00 "]]
    assert int8.EXPORT in int8.CHOICES
    assert int8.CHOICES[int8.EXPORT] == int8.QuantisingChoices()
    assert len(set(int8.CHOICES.values())) == len(int8.CHOICES)


def test_forms_of_gelu_are_counted_in_steps():
    gelu = load("int8_gelu")
    assert gelu.table()[gelu.INPUT_ZERO] == gelu.OUTPUT_ZERO  # GELU of 0 is 0
    assert gelu.steps_off(gelu.BASE).max() == 0
    assert gelu.steps_off("table of 256 values").max() == 0
    assert gelu.steps_off("x sigmoid(1.702 x) between integers").max() == 1
    assert gelu.steps_off("conversions around a Relu").max() == 7


def test_rows_are_kept_for_equal_settings(tmp_path: Path):
    int8 = load("int8")
    first, second = quantised("a", {int8.DEFAULTS: 18.0, int8.EXPORT: 21.0})
    kept = int8.Kept(tmp_path / "rows")
    kept.add(first)
    kept.add(second)
    again = int8.Kept(tmp_path / "rows")
    assert again.get("a", "golden", "256", int8.EXPORT) == second
    assert again.get("a", "golden", "128", int8.EXPORT) is None


@pytest.mark.slow
def test_int8_goes_on_where_it_was_stopped(tmp_path: Path):
    words = ("--res", "32", "--calibrate", "2", "--compare", "2", "--keep", "rows")
    done = call("int8", *words, "--choices", "defaults", "squared", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Goal" not in done.stdout
    before = (tmp_path / "rows").read_bytes()
    done = call("int8", *words, "--choices", "defaults", "squared", "**an export", folder=tmp_path)
    assert done.returncode in (0, 1), done.stderr  # two images decide nothing
    assert done.stdout.count("- Goal: fastvit_t8: at least 3 dB above the quantiser's defaults") == 1
    assert len(done.stderr.splitlines()) == 1
    assert (tmp_path / "rows").read_bytes().startswith(before)


# --- tiny runs --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "words", "ratios"),
    [
        ("against_timm", TINY, 2),
        ("fusing", TINY, 2),
        ("precision", TINY, 4),
        ("window", TINY, 3),
        ("overhead", ("--res", "32", "--runs", "2", "--blocks", "2"), 4),
        ("accuracy_overlap", ("--res", "32", "--images", "8", "--blocks", "2"), 5),
    ],
)
def test_a_tiny_run(script: str, words: tuple[str, ...], ratios: int, tmp_path: Path):
    if script == "against_timm" and importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    done = call(script, *words, "--json", folder=tmp_path)
    assert done.returncode in (0, 1), done.stderr  # two blocks decide nothing
    found = json.loads(done.stdout)
    assert found["script"] == script
    assert len(found["ratios"]) == ratios
    assert all(ratio["ratio"] > 0 for ratio in found["ratios"])
    assert [len(values) for values in found["blocks"][0]["values_ms"].values()] == [2] * len(
        found["blocks"][0]["orders"][0]
    )
    assert list(tmp_path.iterdir()) == []  # nothing is left behind
