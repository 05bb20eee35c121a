"""The line of progress: it moves while nothing is timed, stands still while something is, and keeps out of results."""

import io
import sys
import threading
from datetime import datetime

import pytest
from rich.console import Console

from fastvit_bench.cli import _progress
from fastvit_bench.cli._progress import ProgressLine, clock, end_time, of_blocks, remaining_seconds


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frames and lines follow one another at once."""
    monkeypatch.setattr(_progress, "FRAME_S", 0.001)
    monkeypatch.setattr(_progress, "INTERVAL_S", 0.001)


class Terminal(io.StringIO):
    """A stream that notes each write, so that a test can wait for the next one."""

    def __init__(self) -> None:
        super().__init__()
        self.written = threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str, /) -> int:
        count = super().write(text)
        self.written.set()
        return count

    def wait(self) -> None:
        """Wait for something that is written from now on; a minute without fails the test."""
        self.written.clear()
        assert self.written.wait(60)


def terminal() -> tuple[Terminal, Console]:
    stream = Terminal()
    return stream, Console(file=stream, force_terminal=True, width=60, color_system=None)


def test_an_untimed_step_moves_and_a_timed_part_stands_still(quick: None) -> None:
    stream, console = terminal()
    with ProgressLine(console) as progress:
        progress.step("exporting m00 32")
        stream.wait()
        stream.wait()
        assert "exporting m00 32 · 0:00" in stream.getvalue()
        progress.timing("timing m00 32 (1 of 2)")
        drawn = stream.getvalue()
        assert "timing m00 32 (1 of 2)" in drawn
        stream.written.clear()
        stream.written.wait(0.2)  # the time for hundreds of frames
        assert stream.getvalue() == drawn
        progress.step("exporting m01 32")
        stream.wait()
    assert not any(thread.name.endswith("(_animate)") for thread in threading.enumerate())


def test_where_there_is_no_terminal_a_long_step_is_a_line_every_so_often(quick: None) -> None:
    stream = Terminal()
    with ProgressLine(Console(file=stream, force_terminal=False, width=200)) as progress:
        progress.step("exporting m00 32")
        while stream.getvalue().count("exporting m00 32 · ") < 2:
            stream.wait()
    assert stream.getvalue().startswith("exporting m00 32 …\n")


def test_colours_that_are_forced_make_no_terminal_of_a_log(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with ProgressLine(Console(stderr=True)) as progress:
        progress.step("exporting m00 32")
        progress.timing("timing m00 32")
    assert capfd.readouterr().err == "exporting m00 32 …\n"


def test_where_there_is_no_terminal_blocks_are_said_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    now_s = [0.0]
    monkeypatch.setattr(_progress, "_now_s", lambda: now_s[0])
    with ProgressLine(Console(stderr=True, force_terminal=False, width=200)) as progress:
        notify = of_blocks(progress, 1200)
        for block in range(1, 11):  # a block every 20 seconds
            notify("m00 32 b1", block, 10)
            now_s[0] += 20
    assert capfd.readouterr().err.splitlines() == [
        "timing m00 32 b1: block 1 of 10 · 0:00 of at most 20 min",
        "timing m00 32 b1: block 4 of 10 · 1:00 of at most 20 min",
        "timing m00 32 b1: block 7 of 10 · 2:00 of at most 20 min",
        "timing m00 32 b1: block 10 of 10 · 3:00 of at most 20 min",
    ]


def test_results_stay_on_standard_output_beside_a_line_on_a_terminal() -> None:
    stream, console = terminal()
    before = sys.stdout
    with ProgressLine(console) as progress:
        progress.step("exporting")
        assert sys.stdout is before
        progress.say("m00 32: 1.00 ms")
    assert "m00 32: 1.00 ms" in stream.getvalue()
    assert sys.stdout is before


def test_names_cannot_command_the_terminal(quick: None) -> None:
    stream, console = terminal()
    with ProgressLine(console) as progress:
        progress.step("exporting \x1b]0;title\x07name")
        stream.wait()
        progress.timing("timing \x1b[2Jname")
    assert "\x1b]0;" not in stream.getvalue()
    assert "\x1b[2J" not in stream.getvalue()


def test_an_error_ends_the_line_and_its_thread(quick: None) -> None:
    _, console = terminal()

    def interrupted() -> None:
        with ProgressLine(console) as progress:
            progress.step("exporting")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert not any(thread.name.endswith("(_animate)") for thread in threading.enumerate())


@pytest.mark.parametrize(("seconds", "text"), [(7.9, "0:07"), (750, "12:30"), (3723, "1:02:03")])
def test_a_stopwatch(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_the_expected_end_is_a_time_of_day(monkeypatch: pytest.MonkeyPatch) -> None:
    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> "Clock":
            return cls(2026, 3, 31, 23, 30)

    monkeypatch.setattr(_progress, "datetime", Clock)
    assert end_time(60 * 20) == "23:50"
    assert end_time(60 * 60) == "tomorrow 00:30"
    assert end_time(3 * 24 * 3600) == "2026-04-03 23:30"


def test_what_remains_follows_how_the_estimates_held() -> None:
    estimates = {"a": 10.0, "b": 20.0, "c": 30.0}
    assert remaining_seconds(estimates, ["a"], 3.0) == 60.0  # nothing is known yet
    assert remaining_seconds(estimates, ["a", "b"], 20.0) == 100.0  # the first took twice its estimate
    assert remaining_seconds(estimates, ["a", "b"], 20.0, 0.5) == 80.0
