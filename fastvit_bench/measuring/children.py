"""Child processes that end with their parent."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

can_end_with_parent = sys.platform == "linux"

# The kernel keeps the request across the exec, so that any program ends with its parent: while it starts, while native
# code runs, and while it is halted.
_LAUNCHER = """
import ctypes, os, sys
ctypes.CDLL(None).prctl(1, 9)
if os.getppid() == int(sys.argv[1]):
    os.execvp(sys.argv[2], sys.argv[2:])
"""


def ending_with_parent(command: Sequence[str]) -> list[str]:
    """Return the command that starts a program so that Linux kills it when this process ends, in whatever way.

    On other systems it is the command itself.
    """
    if not can_end_with_parent:
        return list(command)
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command]


def run(
    command: Sequence[str],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
) -> "subprocess.CompletedProcess[str]":
    """Run a program to its end and return its output as text, whatever its exit code is.

    It ends with this process (see `ending_with_parent`). Raises `subprocess.TimeoutExpired`, and
    `FileNotFoundError` if there is no such program.
    """
    if shutil.which(command[0]) is None:
        raise FileNotFoundError(errno.ENOENT, "there is no such program", command[0])
    process = subprocess.Popen(
        ending_with_parent(command),
        cwd=cwd,
        env=None if env is None else dict(env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )
    try:
        stdout, stderr = process.communicate(timeout=timeout_s)
    except BaseException:  # an interruption too
        _end(process)
        raise
    return subprocess.CompletedProcess(command, process.returncode, stdout, stderr)


PATIENCE_S = 5.0  # for a program to tidy up


def _end(process: "subprocess.Popen[str]") -> None:
    """End a program: ask it first, so that it can tidy up, and kill it where that does not help."""
    process.terminate()
    try:
        process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
