"""The commit of the working directory, and git's output with the remedy for each refusal."""

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from fastvit_bench.errors import FastViTBenchError, UnavailableError, UsageError


@dataclass(frozen=True)
class Commit:
    """The commit of the working directory; its `commit` is None outside of a repository and where git refuses."""

    commit: str | None = None
    dirty: bool = False
    refusal: str = ""  # git's reason to refuse, where there is a repository


def current_commit() -> Commit:
    """Return the commit of the working directory, and whether tracked files have changed since."""
    git = shutil.which("git")
    if git is None:
        return Commit(refusal="git is not on the PATH" if repository_marker() else "")
    try:
        commit = git_output(git, "rev-parse", "--verify", "HEAD", wrong="The commit at hand cannot be read").strip()
        changes = git_output(git, "status", "--porcelain", "--untracked-files=no", wrong="Changes cannot be listed")
    except FastViTBenchError as error:
        return Commit(refusal=str(error).rstrip(".") if repository_marker() else "")
    return Commit(commit, bool(changes.strip()))


def run_git(git: str, *words: str) -> "subprocess.CompletedProcess[str]":
    """Run git and return its output, whatever its exit code is."""
    # in English, because `refusal` recognises reasons by their words; and no lock that would disturb another git
    environment = {**os.environ, "LC_ALL": "C", "LANGUAGE": "", "GIT_OPTIONAL_LOCKS": "0"}
    return subprocess.run([git, *words], capture_output=True, text=True, errors="replace", check=False, env=environment)


def git_output(git: str, *words: str, wrong: str) -> str:
    """Return git's standard output.

    Raises what `refusal` returns where git fails; `wrong` begins the message of an unknown reason.
    """
    process = run_git(git, *words)
    if process.returncode:
        raise refusal(process.stderr, wrong)
    return process.stdout


def refusal(stderr: str, wrong: str) -> FastViTBenchError:
    """Return an error with git's own reason, and the remedy where it is known."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    reason = next((line for line in lines if line.startswith(("fatal:", "error:"))), lines[-1] if lines else "")
    reason = reason.removeprefix("fatal: ").removeprefix("error: ").rstrip(".") or "it gives no reason"
    if "dubious ownership" in stderr or "unsafe repository" in stderr:
        named = re.search(r"'([^'\n]+)'", stderr)
        place = shlex.quote(named[1] if named else str(repository_marker() or Path.cwd()))
        return UnavailableError(
            f"git refuses to read a repository of another user ({reason}); run "
            f"git config --global --add safe.directory {place} if you trust it, and try again."
        )
    if "not a git repository" in stderr:
        marker = repository_marker()
        if marker is None:
            return UsageError(
                "This folder is in no git repository; run it where the revision is known, or use --baseline DIR."
            )
        return UnavailableError(
            f"git does not accept {marker} as a repository ({reason}); it may be damaged: clone it again, or use "
            f"--baseline DIR."
        )
    return UnavailableError(f"{wrong}; git says: {reason}.")


def repository_marker() -> Path | None:
    """Return the ``.git`` of the working directory, or of the nearest folder above it that has one."""
    working = Path.cwd()
    return next((folder / ".git" for folder in (working, *working.parents) if (folder / ".git").exists()), None)
