"""Git: what the tree at hand is, and what another revision exports, from a temporary worktree of it."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from fastvit_bench.errors import FastViTBenchError, UnavailableError, UsageError

PACKAGE = "fastvit_bench"


@dataclass(frozen=True)
class Revision:
    """A revision that lies in a worktree, ready to be used."""

    name: str  # as a person called it
    commit: str
    root: Path  # of the repository at hand
    tree: Path  # its counterpart: the worktree
    folder: Path  # counterpart of the working directory, or the worktree where the revision lacks it
    python: str  # interpreter of its environment
    environment: dict[str, str]  # variables that decide which fastvit-bench the interpreter uses

    def counterpart(self, path: Path) -> Path:
        """Where a path of the repository lies in the worktree; a path outside of the repository is itself."""
        whole = path.resolve()
        return self.tree / whole.relative_to(self.root) if whole.is_relative_to(self.root) else whole

    def origin(self, path: Path) -> Path:
        """Where a path of the worktree lies in the repository at hand: the way back from `counterpart`."""
        return self.root / path.relative_to(self.tree) if path.is_relative_to(self.tree) else path


@dataclass(frozen=True)
class Head:
    """What the tree in the working directory is; without a commit outside of a repository and where git refuses."""

    commit: str | None = None
    dirty: bool = False
    refusal: str = ""  # why git does not tell, where there is a repository


def head() -> Head:
    """The commit of the working directory, and whether files that git knows were changed since."""
    git = shutil.which("git")
    if git is None:
        return Head(refusal="git is not on the PATH" if _marker() else "")
    try:
        commit = _git(git, "rev-parse", "--verify", "HEAD", wrong="The commit at hand cannot be read").strip()
        changes = _git(git, "status", "--porcelain", "--untracked-files=no", wrong="Changes cannot be listed")
    except FastViTBenchError as error:
        return Head(refusal=str(error).rstrip(".") if _marker() else "")
    return Head(commit, bool(changes.strip()))


@contextmanager
def checked_out(
    name: str, environments: Path, notify: Callable[[str], None] = lambda what: None
) -> Generator[Revision]:
    """A revision in a worktree that is gone afterwards; a new environment is kept in the folder `environments`.

    Where the repository is that of fastvit-bench, its code is its own; its environment is this one where both revisions
    ask for the same packages, else a new one with what it asks for. In any other repository the installed fastvit-bench
    of this interpreter reads the revision's configuration and checkpoints, whatever packages that repository asks for.

    Raises `UsageError` outside of a repository and for an unknown revision, `UnavailableError` where git refuses or the
    packages are not to be had.
    """
    git = shutil.which("git")
    if git is None:
        raise UnavailableError("--baseline-rev needs git, which is not on the PATH; install it, or use --baseline DIR.")
    root = Path(_git(git, "rev-parse", "--show-toplevel", wrong="The repository cannot be read").strip()).resolve()
    commit = _commit(git, name)
    try:
        temporary = tempfile.TemporaryDirectory(prefix="fastvit-bench-")
    except OSError as error:
        raise UnavailableError(f"There is no place for {name} to be checked out: {_reason(error)}.") from error
    with temporary:
        tree = Path(temporary.name).resolve() / "tree"
        notify(f"checking out {name} ({commit[:8]})")
        _git(git, "worktree", "add", "--detach", "--quiet", str(tree), commit, wrong=f"{name} cannot be checked out")
        try:
            folder = tree / Path.cwd().resolve().relative_to(root)
            variables = {
                "PYTHONPATH": os.pathsep.join(_search_path()),
                "PYTHONSAFEPATH": "1",  # modules in the worktree must not take the place of packages
                "PYTHONIOENCODING": "utf-8",
            }
            python = sys.executable
            if (tree / PACKAGE / "__init__.py").is_file():
                variables["PYTHONPATH"] = str(tree)
                python = _interpreter(root, tree, environments.absolute(), notify)
            yield Revision(name, commit, root, tree, folder if folder.is_dir() else tree, python, variables)
        finally:
            subprocess.run([git, "worktree", "remove", "--force", str(tree)], capture_output=True, check=False)


def export(revision: Revision, words: Sequence[str], timeout_s: float) -> None:
    """Run the revision's own ``fastvit-bench export`` in its worktree; `UnavailableError` says how it ended."""
    command = [revision.python, "-m", f"{PACKAGE}.cli", "export", *words]
    environment = {**os.environ, **revision.environment, "NO_COLOR": "1"}
    try:
        done = subprocess.run(
            command,
            cwd=revision.folder,
            env=environment,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            check=False,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"The export of {revision.name} took longer than {timeout_s:g} s.") from None
    if done.returncode:
        message = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise UnavailableError(f"{revision.name} ({revision.commit[:8]}) cannot be exported: {message.rstrip('.')}.")


def requirements(folder: Path) -> str:
    """What a worktree asks to be installed, as one text; equal texts are one environment."""
    try:
        project: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    except FileNotFoundError:
        project = {}
    except (OSError, ValueError) as error:
        raise UsageError(f"{folder / 'pyproject.toml'} of that revision cannot be read: {error}.") from None
    asked = project.get("project", {})
    pinned = [folder / name for name in ("requirements.txt", "uv.lock", "pylock.toml") if (folder / name).is_file()]
    return repr(
        (
            asked.get("requires-python"),
            asked.get("dependencies"),
            asked.get("optional-dependencies"),
            [(file.name, file.read_bytes()) for file in pinned],
        )
    )


def _interpreter(root: Path, tree: Path, environments: Path, notify: Callable[[str], None]) -> str:
    """The Python of a revision of this tool; its path is absolute, because it runs in another working directory."""
    wanted = requirements(tree)
    if wanted == requirements(root):
        return sys.executable
    home = environments / sha256(f"{sys.version} {wanted}".encode()).hexdigest()[:12]
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ready = home / ".ready"  # an installation that was interrupted lacks it
    if ready.is_file():
        return str(python)
    notify("installing what that revision asks for, once")
    listed = tree / "requirements.txt"
    what = ["-r", str(listed)] if listed.is_file() else [str(tree)]
    try:
        venv.create(home, with_pip=True, clear=True)
        done = subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what],
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if done.returncode:
            message = (done.stderr.strip() or "pip said nothing").splitlines()[-1]
            raise UnavailableError(f"The packages of that revision cannot be installed: {message.rstrip('.')}.")
        ready.touch()
    except (OSError, subprocess.CalledProcessError) as error:
        raise UnavailableError(f"The environment {home} of that revision cannot be made: {_reason(error)}.") from error
    return str(python)


def _search_path() -> list[str]:
    """PYTHONPATH with absolute folders, for a process with another working directory."""
    return [str(Path(entry).absolute()) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]


# --- git --------------------------------------------------------------------------------------------------------------


def _commit(git: str, name: str) -> str:
    """The commit that a person calls `name`."""
    done = _run(git, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    if done.returncode == 0:
        return done.stdout.strip()
    if done.stderr.strip():  # it is quiet about names it does not know
        raise _refusal(done.stderr, f"The revision '{name}' cannot be read")
    if _run(git, "rev-parse", "--is-shallow-repository").stdout.strip() == "true":
        raise UsageError(
            f"There is no revision '{name}' in this clone, which is shallow; fetch its history with "
            f"git fetch --unshallow (in CI, check out with fetch-depth: 0)."
        )
    raise UsageError(f"There is no revision '{name}' here; fetch it first (in CI, check out with the whole history).")


def _run(git: str, *words: str) -> "subprocess.CompletedProcess[str]":
    # in English, because its reasons are told apart by their words; and no lock that would disturb another git
    environment = {**os.environ, "LC_ALL": "C", "LANGUAGE": "", "GIT_OPTIONAL_LOCKS": "0"}
    return subprocess.run([git, *words], capture_output=True, text=True, errors="replace", check=False, env=environment)


def _git(git: str, *words: str, wrong: str) -> str:
    """What git answers; `wrong` begins the message where it does not."""
    done = _run(git, *words)
    if done.returncode:
        raise _refusal(done.stderr, wrong)
    return done.stdout


def _refusal(stderr: str, wrong: str) -> FastViTBenchError:
    """An error with git's own reason, and the remedy where it is known."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    reason = next((line for line in lines if line.startswith(("fatal:", "error:"))), lines[-1] if lines else "")
    reason = reason.removeprefix("fatal: ").removeprefix("error: ").rstrip(".") or "it gives no reason"
    if "dubious ownership" in stderr or "unsafe repository" in stderr:
        named = re.search(r"'([^'\n]+)'", stderr)
        place = shlex.quote(named[1] if named else str(_marker() or Path.cwd()))
        return UnavailableError(
            f"git refuses to read a repository of another user ({reason}); run "
            f"git config --global --add safe.directory {place} if you trust it, and try again."
        )
    if "not a git repository" in stderr:
        marker = _marker()
        if marker is None:
            return UsageError(
                "This folder is in no git repository; run it where the revision is known, or use --baseline DIR."
            )
        return UnavailableError(
            f"git does not accept {marker} as a repository ({reason}); it may be damaged: clone anew, or use "
            f"--baseline DIR."
        )
    return UnavailableError(f"{wrong}; git says: {reason}.")


def _marker() -> Path | None:
    """The ``.git`` of the working directory or of the nearest folder above it that has one."""
    here = Path.cwd()
    return next((folder / ".git" for folder in (here, *here.parents) if (folder / ".git").exists()), None)


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).rstrip(".")
