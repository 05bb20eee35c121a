"""What another revision of the repository exports: a temporary worktree, that revision's own code and environment."""

import os
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

from fastvit_bench.errors import UnavailableError, UsageError

PACKAGE = "fastvit_bench"


@dataclass(frozen=True)
class Revision:
    """A revision that lies in a worktree, ready to be used."""

    name: str  # as a person called it
    commit: str
    folder: Path
    python: str  # interpreter of its environment
    environment: dict[str, str]  # variables that make the interpreter use the revision's own code


@contextmanager
def checked_out(
    name: str, environments: Path, notify: Callable[[str], None] = lambda what: None
) -> Generator[Revision]:
    """A revision in a worktree that is gone afterwards; a new environment is kept in the folder `environments`.

    Its code is its own where the repository is that of fastvit-bench; elsewhere the installed fastvit-bench reads its
    configuration and checkpoints. Its environment is this one where both revisions ask for the same packages, else a
    new one with what it asks for. Raises `UsageError` outside of a repository and for an unknown revision,
    `UnavailableError` where git or the packages are not to be had.
    """
    git = shutil.which("git")
    if git is None:
        raise UnavailableError("--baseline-rev needs git, which is not on the PATH; install it, or use --baseline DIR.")
    root = Path(_git(git, "rev-parse", "--show-toplevel", wrong="This folder is in no git repository").strip())
    commit = _git(
        git, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}",
        wrong=f"There is no revision '{name}' here; fetch it first (in CI, check out with the whole history)",
    ).strip()  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="fastvit-bench-") as temporary:
        folder = Path(temporary) / "tree"
        notify(f"checking out {name} ({commit[:8]})")
        _git(git, "worktree", "add", "--detach", "--quiet", str(folder), commit, wrong=f"{name} cannot be checked out")
        try:
            here = folder / Path.cwd().resolve().relative_to(root.resolve())
            python = _interpreter(root, folder, environments, notify)
            variables = {"PYTHONPATH": str(folder)} if (folder / PACKAGE / "__init__.py").is_file() else {}
            yield Revision(name, commit, here if here.is_dir() else folder, python, variables)
        finally:
            subprocess.run([git, "worktree", "remove", "--force", str(folder)], capture_output=True, check=False)


def export(revision: Revision, words: Sequence[str], timeout_s: float) -> None:
    """Run the revision's own ``fastvit-bench export`` in its worktree; `UnavailableError` says how it ended."""
    told = [revision.python, "-m", f"{PACKAGE}.cli", "export", *words]
    environment = {**os.environ, **revision.environment, "NO_COLOR": "1"}
    try:
        done = subprocess.run(
            told,
            cwd=revision.folder,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"The export of {revision.name} took longer than {timeout_s:g} s.") from None
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise UnavailableError(f"{revision.name} ({revision.commit[:8]}) cannot be exported: {said.rstrip('.')}.")


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


def _interpreter(root: Path, folder: Path, environments: Path, notify: Callable[[str], None]) -> str:
    asked = requirements(folder)
    if asked == requirements(root):
        return sys.executable
    home = environments / sha256(f"{sys.version} {asked}".encode()).hexdigest()[:12]
    python = home / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    ready = home / ".ready"  # an installation that was interrupted lacks it
    if not ready.is_file():
        notify("installing what that revision asks for, once")
        venv.create(home, with_pip=True, clear=True)
        listed = folder / "requirements.txt"
        what = ["-r", str(listed)] if listed.is_file() else [str(folder)]
        done = subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", *what], capture_output=True, text=True, check=False
        )
        if done.returncode:
            said = (done.stderr.strip() or "it said nothing").splitlines()[-1]
            raise UnavailableError(f"The packages of that revision cannot be installed: {said.rstrip('.')}.")
        ready.touch()
    return str(python)


def _git(git: str, *words: str, wrong: str) -> str:
    done = subprocess.run([git, *words], capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise UsageError(f"{wrong}{': ' + said[-1].rstrip('.') if said else ''}.")
    return done.stdout
