"""The stopwatch: what lies between its two readings, and in which order things happen. No time is asserted."""

import gc

import pytest

from fastvit_bench.measure import latency
from fastvit_bench.records import Method, Window


class Recorder:
    """A session that writes down what is asked of it."""

    window = Window.COMPUTE

    def __init__(self, events: list[str]) -> None:
        self.events = events

    def feed(self, images: object) -> None:
        self.events.append("feed")

    def run(self) -> None:
        self.events.append("run")

    def wait(self) -> None:
        self.events.append("wait")

    def fetch(self) -> dict[str, object]:
        self.events.append("fetch")
        return {}


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Events of a measurement, with the clock's readings among them; every reading is 5 ns after the last."""
    happened: list[str] = []

    def clock() -> int:
        happened.append("clock")
        return 5 * happened.count("clock")

    monkeypatch.setattr(latency.time, "perf_counter_ns", clock)
    return happened


def test_only_run_and_wait_lie_between_two_readings(events: list[str]) -> None:
    samples = latency.measure(Recorder(events), Method(warmup=2, runs=3))
    assert events == ["run", "wait"] * 2 + ["clock", "run", "wait", "clock"] * 3
    assert samples == ((5, 5, 5),)


def test_every_round_warms_up_and_keeps_its_samples_apart(events: list[str]) -> None:
    samples = latency.measure(Recorder(events), Method(warmup=1, runs=2, rounds=3))
    assert [len(taken) for taken in samples] == [2, 2, 2]
    assert events.count("run") == 3 * (1 + 2)


def test_the_garbage_collector_rests_meanwhile_and_works_again_after() -> None:
    class Curious(Recorder):
        def run(self) -> None:
            assert not gc.isenabled()
            super().run()

    latency.measure(Curious([]), Method(warmup=1, runs=1))
    assert gc.isenabled()

    class Broken(Recorder):
        def run(self) -> None:
            raise RuntimeError("the device fell off")

    with pytest.raises(RuntimeError, match="fell off"):
        latency.measure(Broken([]), Method(warmup=1, runs=1))
    assert gc.isenabled()


def test_the_default_method_is_the_median_of_a_hundred_runs() -> None:
    samples = latency.measure(Recorder([]), Method())
    assert [len(taken) for taken in samples] == [100]
    assert all(sample >= 0 for sample in samples[0])
