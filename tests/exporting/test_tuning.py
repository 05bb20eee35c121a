"""The search for the best choices of INT8: what it keeps, where it ends, and the file that it writes."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import builders
import msgspec
import numpy as np
import pytest
import torch
from commands import refused
from torch import nn

from fastvit_bench.backends import get
from fastvit_bench.exporting import fidelity, tuning
from fastvit_bench.measuring import latency
from fastvit_bench.network.factory import Reference
from fastvit_bench.network.fastvit import Form
from fastvit_bench.records import ExportJob, Head, Shape, Trial, Tune, Tuning
from fastvit_bench.render import listing

ACCURACY, LATENCY = Tune(goal="accuracy", budget_s=100), Tune(goal="latency", budget_s=100)


def clock(*, step: float = 1.0) -> Callable[[], float]:
    """A clock that goes on by a step at each look."""
    looks: Iterator[float] = iter(step * number for number in range(10**6))
    return lambda: next(looks)


def by(gains: dict[str, float], times: dict[str, float] | None = None) -> Callable[..., Trial]:
    """An attempt whose changes are each worth some decibels, and some share of the time."""

    def attempt(choices: tuple[str, ...], base: tuple[str, ...]) -> Trial:
        trial = Trial(choices=choices, snr_db=20.0 + sum(gains[change] for change in choices), accepted=False)
        if times is None or not choices:
            return trial
        ms, base_ms = (float(10 * np.prod([times[change] for change in names])) for names in (choices, base))
        return msgspec.structs.replace(trial, ms=ms, base_ms=base_ms)

    return attempt


def test_changes_that_pay_are_kept_together() -> None:
    gains = {"a": 1.0, "b": -2.0, "c": 0.05, "d": 0.5}
    found = tuning.search(by(gains), list(gains), ACCURACY, clock())
    assert found.choices == ("a", "d")
    assert [trial.choices for trial in found.trials] == [(), ("a",), ("a", "b"), ("a", "c"), ("a", "d")]
    assert [trial.accepted for trial in found.trials] == [True, True, False, False, True]
    assert found.untried == ()


def test_a_change_for_latency_is_quicker_and_loses_little() -> None:
    gains = {"a": -0.5, "b": -1.5, "c": 3.0, "d": 0.0}
    times = {"a": 0.9, "b": 0.5, "c": 0.99, "d": 0.97}
    found = tuning.search(by(gains, times), list(gains), LATENCY, clock())
    assert found.choices == ("a", "d")
    assert found.trials[-1].base_ms == pytest.approx(9)


@pytest.mark.parametrize(("budget", "tried"), [(0.5, 0), (2, 1), (1000, 3)])
def test_what_a_budget_leaves_out_is_told(budget: float, tried: int) -> None:
    gains = {"first": 1.0, "second": 1.0, "third": 1.0}
    found = tuning.search(by(gains), list(gains), Tune(goal="accuracy", budget_s=budget), clock())
    assert len(found.trials) == 1 + tried
    assert found.untried == tuple(gains)[tried:]
    assert ("the budget of" in "\n".join(listing.tuning(found))) == bool(found.untried)


def test_the_table_has_every_trial() -> None:
    found = tuning.search(by({"a": 1.0, "b": 0.0}, {"a": 0.5, "b": 1.0}), ["a", "b"], LATENCY, clock())
    head, usual, first, second = listing.tuning(found)
    assert head == "tuned for latency: 2 changes tried, one at a time, kept if 2% quicker for at most 1 dB"
    assert usual.split() == ["20.00", "dB", "usual", "choices:", "kept"]
    assert first.split() == ["21.00", "dB", "5", "ms,", "before", "10", "ms", "a:", "kept"]
    assert second.split() == ["21.00", "dB", "5", "ms,", "before", "5", "ms", "b"]


# --- the file ---------------------------------------------------------------------------------------------------------


class Small(nn.Module):
    """A depthwise convolution, called as RepMixer's are, with an outlier at its centre, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.mixer = nn.Conv2d(8, 8, 3, 1, 1, groups=8)
        self.classifier = nn.Linear(8, 10)
        with torch.no_grad():
            self.mixer.weight[:, :, 1, 1] += 1

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classifier(torch.nn.functional.gelu(self.mixer(self.stem(image))).mean((2, 3)))


def tuned(folder: Path, tune: Tune) -> tuple[Path, Tuning, fidelity.Expected, ExportJob]:
    """The file of a small network, whose choices were searched."""
    torch.manual_seed(0)
    network, shape = Small().double().eval(), Shape(batch=1, height=32, width=32)
    device = builders.device(precision="int8", options={"threads": 1})
    asked = builders.export_job(precision="int8", shape=shape, device=device, tune=tune)
    draw = np.random.default_rng(0)
    images = [draw.standard_normal((3, 32, 32)).astype(np.float32) for _ in range(6)]
    known = fidelity.expected(Reference(network, Head.CLASSIFIER, 10, Form.FUSED), images)
    quantiser = get("onnxruntime").quantiser(network, asked, images)
    folder.mkdir()
    done = tuning.write(quantiser, asked, known, folder / "a.onnx", {}, latency.INSTRUMENTS)
    assert done.tuning is not None
    return folder / "a.onnx", done.tuning, known, asked


@pytest.mark.slow
def test_the_file_is_the_best_of_those_tried_and_the_same_again(tmp_path: Path) -> None:
    path, found, known, asked = tuned(tmp_path / "first", ACCURACY)
    assert [entry.name for entry in path.parent.iterdir()] == ["a.onnx"]
    with next(iter(get("onnxruntime").verification_sessions(path, asked))).session as session:
        gained = fidelity.compare(known, fidelity.of_session(session, Head.CLASSIFIER, 1))
    assert gained.snr_db == max(trial.snr_db for trial in found.trials if trial.accepted) >= found.trials[0].snr_db
    assert len({trial.snr_db for trial in found.trials}) > 3  # changes do change the file
    again, other, *_ = tuned(tmp_path / "second", ACCURACY)
    assert other == found
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.slow
def test_for_latency_every_change_is_timed_in_turns(tmp_path: Path) -> None:
    _, found, *_ = tuned(tmp_path / "timed", LATENCY)
    assert found.trials[0].ms is None
    assert all(trial.ms and trial.base_ms for trial in found.trials[1:])


def test_sessions_take_turns_forth_and_back() -> None:
    order: list[str] = []

    class Named:
        clock = None

        def __init__(self, name: str) -> None:
            self.name = name

        def run(self) -> None:
            order.append(self.name)

        def wait(self) -> None: ...

    sessions: Any = [Named("a"), Named("b")]
    assert len(latency.in_turns(sessions)) == 2
    turns = [name for name, before in zip(order, ["", *order], strict=False) if name != before]
    assert turns[:4] == ["a", "b", "a", "b"]  # the first two warm up
    assert len(turns) == 2 + 2 + 11  # every other of 12 rounds is backwards, so that one begins where one ended
    assert order.count("a") == order.count("b")


# --- the options ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--tune", "accuracy"), "--tune searches the choices of --precision int8; leave it out."),
        (("--tune", "speed", "--precision", "int8"), "'speed' must be accuracy or latency."),
        (("--tune-budget", "5m", "--precision", "int8"), "give --tune accuracy or latency, or leave it out."),
        (("--tune", "accuracy", "--tune-budget", "soon", "--precision", "int8"), "'soon' is no length of time"),
        (("--tune", "accuracy", "--precision", "int8"), "name a folder of them with --calibration DIR"),
    ],
)
def test_options_that_do_not_fit_are_refused(words: tuple[str, ...], told: str, tmp_path: Path) -> None:
    assert told in " ".join(refused("export", "-t", "onnx", "-m", "fastvit_t8", *words, cwd=tmp_path).split())
