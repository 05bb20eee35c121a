"""Progress on standard error: a line that moves on a terminal, and a line every so often elsewhere.

While something is timed, nothing moves: the line is drawn once, with the expected end, and no thread is awake.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from fastvit_bench.cli import _output

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from fastvit_bench.records import Cell, Request
    from fastvit_bench.sweep.estimate import RunTimes
    from fastvit_bench.sweep.plan import Step

FRAME_S = 0.2  # between two frames of the spinner
INTERVAL_S = 60.0  # between two lines on one step, where standard error is no terminal
FRAMES = "⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏"


class ProgressLine:
    """The line of progress of one command; a context manager that removes the line in the end."""

    def __init__(self, console: "Console") -> None:
        from rich.live import Live

        self.console = console
        # what is printed on standard output is a result, and stays there, even beside a line on a terminal
        live = Live(console=console, auto_refresh=False, transient=True, redirect_stdout=False)
        self._live = live if _output.redraws(console) else None
        self._changed = threading.Condition()  # held while the line is drawn
        self._text, self._detail = "", ""
        self._moving = self._ended = False
        self._begun_s = self._begun_step_s = _now_s()
        self._printed_s = float("-inf")
        self._thread = threading.Thread(target=self._animate, daemon=True)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._changed:
            self._moving, self._ended = False, True
            self._changed.notify()
        self._thread.join()
        if self._live is not None:
            self._live.stop()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the command began to show progress."""
        return _now_s() - self._begun_s

    def step(self, text: str) -> None:
        """Begin a step that nothing times, such as an export: its line moves until the next step."""
        with self._changed:
            self._text, self._detail, self._begun_step_s, self._moving = text, "", _now_s(), True
            if self._live is None:
                self._print(f"{text} …")
            else:
                self._draw()
            self._changed.notify()

    def detail(self, text: str) -> None:
        """Say how far the step has come; it is drawn with the next frame."""
        with self._changed:
            self._detail = text

    def timing(self, text: str) -> None:
        """Begin a part that is timed: its line is drawn at once and stands still.

        Where standard error is no terminal, it is printed only if the last line is `INTERVAL_S` old.
        """
        with self._changed:
            self._text, self._detail, self._moving = text, "", False
            if self._live is not None:
                self._live.update(_line(text), refresh=True)
            elif _now_s() - self._printed_s >= INTERVAL_S:
                self._print(text)

    def say(self, text: str) -> None:
        """Print a message above the line."""
        with self._changed:
            self._print(text)

    def _print(self, text: str) -> None:
        _output.say(text, self.console)
        self._printed_s = _now_s()

    def _animate(self) -> None:
        """Draw the line of a step that nothing times, again and again; sleep while it stands still."""
        with self._changed:
            while not self._ended:
                self._changed.wait((FRAME_S if self._live is not None else INTERVAL_S) if self._moving else None)
                if self._moving and not self._ended:
                    self._draw()

    def _draw(self) -> None:
        spent_s = _now_s() - self._begun_step_s
        text = " · ".join(filter(None, (self._text, self._detail, clock(spent_s))))
        if self._live is not None:
            self._live.update(_line(f"{FRAMES[int(spent_s / FRAME_S) % len(FRAMES)]} {text}"), refresh=True)
        elif _now_s() - self._printed_s >= INTERVAL_S:
            self._print(text)


def _now_s() -> float:
    from fastvit_bench.measuring import machine

    return machine.monotonic_s()


def _line(text: str) -> "Text":
    """Return what is drawn of a text: one line of the terminal, without characters that a terminal obeys."""
    from rich.text import Text

    from fastvit_bench.render.text import printable_lines

    return Text(printable_lines(text), no_wrap=True, overflow="ellipsis", end="")


def clock(seconds: float) -> str:
    """Return a duration as a stopwatch shows it: ``0:07``, ``12:30``, ``1:02:03``."""
    minutes, rest_s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest_s:02d}" if hours else f"{minutes}:{rest_s:02d}"


def end_time(seconds: float) -> str:
    """Return the local time in so many seconds, with the day where it is another one: ``14:32``, ``tomorrow 2:05``."""
    begun = datetime.now().astimezone()
    end = begun + timedelta(seconds=seconds)
    days = (end.date() - begun.date()).days
    day = {0: "", 1: "tomorrow "}.get(days, f"{end:%Y-%m-%d} ")
    return f"{day}{end:%H:%M}"


Part = TypeVar("Part")


def remaining_seconds(
    estimates: Mapping[Part, float], begun: Sequence[Part], spent_s: float, share: float = 0.0
) -> float:
    """Return the seconds that the parts take from the one that began last on, of which a `share` is done.

    The estimates are scaled by how they held for the parts before it, which took `spent_s`.
    """
    *finished, current = begun
    finished_s = sum(estimates[part] for part in finished)
    scale = spent_s / finished_s if finished_s else 1.0
    return scale * (sum(estimates.values()) - finished_s - share * estimates[current])


def of_steps(
    progress: ProgressLine, steps: "list[Step]", request: "Request", times: "RunTimes"
) -> "Callable[[Step, str], None]":
    """Return the function that a sweep notifies of each step and its stage.

    The expected end follows from the estimates, scaled by how they held for the steps so far.
    """
    from fastvit_bench.sweep import estimate

    weights = {step.cell: estimate.seconds([step], request, times) for step in steps}
    begun: list[Cell] = []

    def notify(step: "Step", stage: str) -> None:
        if step.cell not in begun:
            begun.append(step.cell)
        text = f"{stage} {step.cell.label} ({len(begun)} of {len(steps)})"
        if stage not in _UNTIMED:
            end = end_time(remaining_seconds(weights, begun, progress.elapsed_s))
            progress.timing(f"{text} · all done about {end}")
        else:
            progress.step(text)

    return notify


_UNTIMED = ("exporting", "building")  # stages of a sweep


def of_blocks(progress: ProgressLine, limit_s: float) -> Callable[[str, int, int], None]:
    """Return the function that a comparison notifies of each block; it ends within `limit_s` seconds."""
    from fastvit_bench.sweep import estimate

    def notify(cell: str, block: int, look: int) -> None:
        limit = f" of at most {estimate.duration(limit_s)}"
        progress.timing(f"timing {cell}: block {block} of {look} · {clock(progress.elapsed_s)}{limit}")

    return notify
