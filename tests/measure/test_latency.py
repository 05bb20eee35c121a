"""The stopwatch: what lies between its two readings, and in which order things happen. No time is asserted."""

import gc
from contextlib import contextmanager

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from fastvit_bench.backends import Images, Session
from fastvit_bench.measure import latency
from fastvit_bench.records import METHODS, Method, Pacing, Placement, Protocol, Window


class Recorder(Session):
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


class Clocked(Recorder):
    """A session whose toolkit reads its own clock: 7 ns, 14 ns, …"""

    clock = "the toolkit's"
    window = Window.PREDICTION
    pacing = Pacing.REMOTE_CALL
    load_ns = (1000,)

    def __init__(self, events: list[str]) -> None:
        super().__init__(events)
        self.told = 0

    def elapsed_ns(self) -> int:
        self.told += 7
        return self.told

    def placement(self) -> Placement:
        self.events.append("placement")
        return Placement(operations=())


def opener(events: list[str], session: type[Recorder]):
    @contextmanager
    def load():
        events.append("load")
        yield session(events)
        events.append("close")

    return load


def test_a_toolkits_own_clock_is_asked_and_ours_is_not(events: list[str]) -> None:
    method = Method(warmup=1, runs=3, rounds=2)
    reading = latency.read(opener(events, Clocked), lambda session: np.zeros(1, np.float32), method)
    assert reading.samples_ns == ((7, 14, 21), (28, 35, 42))
    assert (reading.clock, reading.window, reading.pacing) == ("the toolkit's", "prediction", "remote-call")
    assert reading.load_ns == (1000,)
    assert reading.placement is not None
    assert "clock" not in events
    assert events[-2:] == ["placement", "close"]  # outside of what is timed


def test_modelbench_loads_the_file_for_every_round(events: list[str]) -> None:
    method = msgspec.structs.replace(METHODS[Protocol.MODELBENCH], rounds=3)
    reading = latency.read(opener(events, Recorder), lambda session: np.zeros(1, np.float32), method)
    assert [len(samples) for samples in reading.samples_ns] == [50] * 3
    assert events.count("load") == events.count("close") == events.count("feed") == 3
    assert events.count("run") == 3 * 51  # one untimed run each
    assert reading.clock == latency.CLOCK
    assert reading.load_ns == ()


def test_the_form_of_the_images_is_the_sessions(events: list[str]) -> None:
    seen: list[Images] = []

    def images(session: Session) -> NDArray[np.float32]:
        seen.append(session.images)
        return np.zeros(1, np.float32)

    class Pixels(Recorder):
        images = Images.PIXELS

    for session in (Recorder, Pixels):
        latency.read(opener(events, session), images, Method(warmup=0, runs=1))
    assert seen == [Images.TENSOR, Images.PIXELS]
