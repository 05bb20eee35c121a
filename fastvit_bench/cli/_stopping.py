"""Signals that end the program: it tidies up as after Ctrl-C, and ends with the exit code of the signal."""

import signal
from types import FrameType
from typing import NoReturn

from fastvit_bench.errors import ExitCode

_SIGNALS = {"SIGTERM": ExitCode.TERMINATED, "SIGHUP": ExitCode.HUNG_UP}


class Stopped(KeyboardInterrupt):
    """A request to end, by a signal; what tidies up after Ctrl-C tidies up after it too."""

    def __init__(self, code: ExitCode) -> None:
        super().__init__()
        self.code = code


def prepare_signals() -> None:
    """Have Ctrl-C, SIGTERM and SIGHUP raise `Stopped` in the main thread, unless they are ignored, as by nohup."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    for name, code in _SIGNALS.items():
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, lambda received, frame, code=code: _stop(code, frame))


def _interrupt(received: int, frame: FrameType | None) -> NoReturn:
    """Raise `Stopped`, each time: a second Ctrl-C may cut the tidying up short.

    A plain KeyboardInterrupt in a string that Python evaluates, as imports of dataclasses and named tuples do, marks
    the process: CPython then ends it by the signal, though the exception was caught and an exit code was chosen.
    """
    raise Stopped(ExitCode.INTERRUPTED)


def _stop(code: ExitCode, frame: FrameType | None) -> NoReturn:
    """Raise `Stopped`, once: a second signal must not interrupt the tidying up."""
    for name in _SIGNALS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _ignore)
    raise Stopped(code)


def _ignore(received: int, frame: FrameType | None) -> None:
    """Do nothing: unlike SIG_IGN, it is not inherited, and takes a signal that is pending already."""


def exit_code(error: KeyboardInterrupt) -> ExitCode:
    """Return the exit code of an interruption: 130 after Ctrl-C, 143 after SIGTERM, 129 after SIGHUP."""
    return error.code if isinstance(error, Stopped) else ExitCode.INTERRUPTED
