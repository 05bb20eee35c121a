"""The stopwatch: what lies between its two readings, and in which order things happen. No time is asserted."""

import gc
from collections.abc import Callable
from contextlib import contextmanager

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from fastvit_bench.backends import Images, Session
from fastvit_bench.measuring import latency
from fastvit_bench.records import METHODS, CallPattern, GpuState, Method, Placement, Protocol, Window


class Recorder(Session):
    """A session that writes down what is asked of it."""

    window = Window.COMPUTE

    def __init__(self, events: list[str]) -> None:
        self.events = events

    def set_input(self, images: object) -> None:
        self.events.append("feed")

    def run(self) -> None:
        self.events.append("run")

    def wait(self) -> None:
        self.events.append("wait")

    def get_output(self) -> dict[str, object]:
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
    taken = latency.measure(Recorder(events), Method(warmup=2, runs=3))
    assert events == ["run", "wait"] * 2 + ["clock", "run", "wait", "clock"] * 3
    assert taken.samples_ns == [(5, 5, 5)]
    assert taken.gpu == []


def test_every_round_warms_up_and_keeps_its_samples_apart(events: list[str]) -> None:
    taken = latency.measure(Recorder(events), Method(warmup=1, runs=2, rounds=3))
    assert [len(samples) for samples in taken.samples_ns] == [2, 2, 2]
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
    (samples,) = latency.measure(Recorder([]), Method()).samples_ns
    assert len(samples) == 100
    assert all(sample >= 0 for sample in samples)


class Clocked(Recorder):
    """A session whose toolkit reads its own clock: 7 ns, 14 ns and so on."""

    clock = "the toolkit's"
    window = Window.PREDICTION
    pacing = CallPattern.REMOTE_CALL
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


# --- warming up until steady ------------------------------------------------------------------------------------------

GPU = Method(warmup=20, warmup_ms=200, steady=0.01)


class Paced(Recorder):
    """A session whose toolkit says how long each run took, in milliseconds by the run's number."""

    clock = "the toolkit's"

    def __init__(self, ms: Callable[[int], float]) -> None:
        super().__init__([])
        self.ms = ms
        self.runs = 0
        self.looks: list[int] = []

    def run(self) -> None:
        self.runs += 1

    def elapsed_ns(self) -> int:
        return round(1e6 * self.ms(self.runs - 1))

    def sample_telemetry(self) -> GpuState | None:
        self.looks.append(self.runs)
        return GpuState(sm_mhz=self.runs)


def warmed(method: Method, ms: Callable[[int], float]) -> int:
    """Return how many runs came before the first sample of the GPU's state, which ends the warm-up."""
    session = Paced(ms)
    latency.measure(session, msgspec.structs.replace(method, runs=1))
    return session.looks[0]


def test_the_run_after_a_sample_of_the_gpu_is_not_timed() -> None:
    session = Paced(lambda number: 9.0 if number in session.looks else 1.0)  # its number is that of the runs before
    (samples,) = latency.measure(session, Method(warmup=3, runs=20)).samples_ns
    assert samples == (1_000_000,) * 20
    assert len(session.looks) == 1 + latency.LOOKS


def test_a_quick_network_is_warmed_up_for_200_ms() -> None:
    assert warmed(GPU, lambda number: 0.5) == 400


def test_a_slow_network_is_warmed_up_twice_the_set() -> None:
    assert warmed(GPU, lambda number: 100.0) == 40


def test_warming_up_goes_on_until_steady() -> None:
    assert 180 <= warmed(GPU, lambda number: max(5.0, 20.0 - number / 10)) <= 200  # from run 150 on it is


@pytest.mark.slow
def test_warming_up_ends_without_having_become_steady() -> None:
    assert warmed(GPU, lambda number: 1000.0 * (1 + number // 20 % 2)) == 20  # 5 s are over
    assert 3000 < warmed(GPU, lambda number: 1.0 * (1 + number // 20 % 2)) < 4000


def test_warming_up_ends_after_so_many_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "WARM_LIMIT_RUNS", 100)
    assert warmed(GPU, lambda number: 0.001) == 100


def test_warming_up_by_time_alone() -> None:
    assert warmed(METHODS[Protocol.TRTEXEC], lambda number: 1.0 * (1 + number // 20 % 2)) == 140


@pytest.mark.slow
def test_runs_go_on_for_as_long_as_the_method_says() -> None:
    (samples,) = latency.measure(Paced(lambda number: 10.0), METHODS[Protocol.TRTEXEC]).samples_ns
    assert len(samples) == 300  # 3 s
    (samples,) = latency.measure(Paced(lambda number: 1000.0), METHODS[Protocol.TRTEXEC]).samples_ns
    assert len(samples) == 10


@pytest.mark.slow
def test_a_gpu_is_looked_at_before_between_and_after_the_timed_runs() -> None:
    session = Paced(lambda number: 1.0)
    taken = latency.measure(session, Method(warmup=3, runs=100))
    assert session.looks == [3, 24, 45, 66, 87, 108]  # the run after each is not timed
    assert [look.sm_mhz for look in taken.gpu] == session.looks
    assert [len(samples) for samples in taken.samples_ns] == [100]
    session = Paced(lambda number: 1.0)
    assert [len(samples) for samples in latency.measure(session, Method(warmup=0, runs=7)).samples_ns] == [7]
