"""The package's errors, as one tree; each class has the exit code that the command line ends with.

    FastViTBenchError
    ├── UsageError ................ 2   a wrong option, a wrong combination of options
    │   ├── ConfigError ........... 2   benchmark.toml is missing, malformed or incomplete
    │   ├── CheckpointError ....... 2   a weight file that cannot be used
    │   └── StoreError ............ 2   a result file that cannot be read, found or written
    ├── NotComparableError ........ 4   figures that must not be compared, or nothing to compare
    ├── ParityError ............... 5   an artifact that does not compute what the network computes
    ├── ChecksumError ............. 5   a file whose content is not the recorded one
    └── UnavailableError .......... 6   a device, toolkit, host or file server that is missing
        ├── MismatchError ......... 6   hardware that is not the one a device profile is meant for
        └── DownloadError ......... 6   a transfer that did not finish

Exit codes without a class of their own: 0 done, 1 regression, 3 inconclusive, 7 some cells failed (the others
are kept), 70 an unforeseen error, 130 interrupted (129 by SIGHUP, 143 by SIGTERM). A message says what is wrong, where,
and what to do next, in one or two sentences.
"""

from enum import IntEnum

LONGEST = 2500  # characters of a message
LONGEST_WORD = 400  # characters without a blank in a message: a longer name is cut


def printable(text: str) -> str:
    """Return one line of printable characters: names come from files, and a terminal obeys what it is sent."""
    line = " ".join(text.split())
    return line if line.isprintable() else "".join(c for c in line if c.isprintable())


class ExitCode(IntEnum):
    """The frozen exit codes; CI scripts rely on them."""

    DONE = 0
    REGRESSION = 1
    USAGE = 2
    INCONCLUSIVE = 3
    NOT_COMPARABLE = 4
    PROOF_FAILED = 5
    UNAVAILABLE = 6
    CELLS_FAILED = 7
    UNFORESEEN = 70  # EX_SOFTWARE of sysexits.h: a fault of this program; never 1, which means regression
    HUNG_UP = 129  # by SIGHUP; this code, like the next ones, is 128 and the number of the signal
    INTERRUPTED = 130  # by Ctrl-C
    TERMINATED = 143  # by SIGTERM


class FastViTBenchError(Exception):
    """Base of every error that this package raises on purpose; ``str(error)`` is the complete message for the user."""

    exit_code: ExitCode = ExitCode.USAGE

    def __str__(self) -> str:
        """Return the message as one printable line: what it repeats may come from a stranger's file."""
        text = "".join(sign if sign.isprintable() else " " * sign.isspace() for sign in super().__str__())
        words = (
            word if len(word) <= LONGEST_WORD else f"{word[:LONGEST_WORD]}…{word[-9:]}" for word in text.split(" ")
        )
        line = " ".join(words)
        return line if len(line) <= LONGEST else f"{line[: LONGEST - 500]}…{line[-500:]}"  # advice is at the end


class UsageError(FastViTBenchError):
    """An option, or a combination of options, that means nothing."""


class ConfigError(UsageError):
    """``benchmark.toml`` is missing, malformed or names something unknown."""


class CheckpointError(UsageError):
    """A weight file that is missing, damaged, of another network, or not a weight file."""


class StoreError(UsageError):
    """A result file that is missing, damaged or cannot be written."""


class NotComparableError(FastViTBenchError):
    """Figures measured under different conditions, or a cell that is missing."""

    exit_code = ExitCode.NOT_COMPARABLE


class ParityError(FastViTBenchError):
    """An exported file whose outputs differ from the network's by more than the tolerance."""

    exit_code = ExitCode.PROOF_FAILED


class ChecksumError(FastViTBenchError):
    """A file whose SHA-256 differs from the recorded one."""

    exit_code = ExitCode.PROOF_FAILED


class UnavailableError(FastViTBenchError):
    """Hardware, a toolkit or a server that this machine does not have or reach."""

    exit_code = ExitCode.UNAVAILABLE


class MismatchError(UnavailableError):
    """Hardware that works and is not the one a device profile is meant for."""


class DownloadError(UnavailableError):
    """A transfer that could not be started or finished; the received part is saved for the next attempt."""
