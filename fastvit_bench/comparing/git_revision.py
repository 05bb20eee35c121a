"""Git revisions: check one out in a temporary worktree, prepare its environment, and export by its own code."""

import os
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from fastvit_bench import files
from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.measuring import children
from fastvit_bench.measuring.git import git_output, refusal, run_git

PACKAGE = "fastvit_bench"


@dataclass(frozen=True)
class Revision:
    """A revision that is checked out in a worktree, with the interpreter that runs its code."""

    name: str  # as given by the user, such as main
    commit: str
    root: Path  # of the current repository
    tree: Path  # root of the worktree
    folder: Path  # counterpart of the working directory, or the worktree where the revision lacks it
    python: str  # interpreter of its environment
    environment: dict[str, str]  # variables that decide which fastvit-bench the interpreter uses

    def counterpart(self, path: Path) -> Path:
        """Return the worktree's path for one of the repository; a path outside of it is returned resolved."""
        absolute = path.resolve()
        return self.tree / absolute.relative_to(self.root) if absolute.is_relative_to(self.root) else absolute

    def origin(self, path: Path) -> Path:
        """Return the repository's path for one of the worktree, the reverse of `counterpart`."""
        return self.root / path.relative_to(self.tree) if path.is_relative_to(self.tree) else path


@contextmanager
def git_worktree(
    name: str, environments: Path, notify: Callable[[str], None] = lambda what: None
) -> Generator[Revision]:
    """Check out a revision in a worktree and yield it; the worktree is removed on exit.

    In the repository of fastvit-bench, the revision runs its own code. It uses this environment if both revisions
    require the same packages, and otherwise a new one, which stays in the folder `environments`. In any other
    repository, the installed fastvit-bench reads the revision's configuration and checkpoints; the packages that the
    repository requires do not matter.

    Raises `UsageError` outside of a repository and for an unknown revision, `UnavailableError` where git refuses or the
    packages cannot be installed.
    """
    git = shutil.which("git")
    if git is None:
        raise UnavailableError("--baseline-rev needs git, which is not on the PATH; install it, or use --baseline DIR.")
    root = Path(
        git_output(git, "rev-parse", "--show-toplevel", wrong="The repository cannot be read").strip()
    ).resolve()
    commit = _commit(git, name)
    with ExitStack() as stack:
        try:
            temporary = stack.enter_context(files.temporary_folder())
        except OSError as error:
            raise UnavailableError(f"No temporary folder for {name} can be created: {_reason(error)}.") from error
        tree = temporary.resolve() / "tree"
        notify(f"checking out {name} ({commit[:8]})")
        try:
            stack.enter_context(_checked_out(git, tree, commit, name))
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
            run_git(git, "worktree", "remove", "--force", str(tree))


@contextmanager
def _checked_out(git: str, tree: Path, commit: str, name: str) -> Generator[None]:
    """Add a worktree, after removing those that killed processes left in the repository, and mark it as used."""
    import filelock

    shared = Path(git_output(git, "rev-parse", "--git-common-dir", wrong="The repository cannot be read").strip())
    with ExitStack() as stack:
        try:
            # one at a time: an entry without a lock of its own can then only be that of a killed process
            with filelock.FileLock(shared / "fastvit-bench.lock"):
                for entry in (shared / "worktrees").glob("*"):
                    _remove_if_abandoned(git, entry)
                wrong = f"{name} cannot be checked out"
                git_output(git, "worktree", "add", "--detach", "--quiet", str(tree), commit, wrong=wrong)
                own = git_output(git, "-C", str(tree), "rev-parse", "--absolute-git-dir", wrong=wrong).strip()
                stack.enter_context(files.in_use(Path(own)))
        except OSError as error:
            raise UnavailableError(f"{name} cannot be checked out: {_reason(error)}.") from error
        yield


def _remove_if_abandoned(git: str, entry: Path) -> None:
    """Remove a repository's entry of a worktree of this tool whose process was killed, and the worktree."""
    try:
        tree = Path(files.read_text(entry / "gitdir").strip()).parent
    except (OSError, UnicodeDecodeError):
        return
    if tree.parent.name.startswith(files.PREFIX) and files.is_abandoned(entry, 0):
        run_git(git, "worktree", "remove", "--force", str(tree))
        shutil.rmtree(entry, ignore_errors=True)  # where git refuses, because the tree is gone


def export(revision: Revision, words: Sequence[str], timeout_s: float) -> None:
    """Run the revision's own ``fastvit-bench export`` in its worktree; raises `UnavailableError` if it fails."""
    command = [revision.python, "-m", f"{PACKAGE}.cli", "export", *words]
    environment = {**os.environ, **revision.environment, "NO_COLOR": "1"}
    try:
        done = children.run(command, cwd=revision.folder, env=environment, timeout_s=timeout_s)
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"The export of {revision.name} took longer than {timeout_s:g} s.") from None
    if done.returncode:
        message = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise UnavailableError(f"{revision.name} ({revision.commit[:8]}) cannot be exported: {message.rstrip('.')}.")


def requirements(folder: Path) -> str:
    """Return the packages that a worktree requires as one text; equal texts mean equal environments.

    Raises `UsageError` for a ``pyproject.toml`` that cannot be read.
    """
    try:
        project: dict[str, Any] = tomllib.loads(files.read_text(folder / "pyproject.toml"))
    except FileNotFoundError:
        project = {}
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{folder / 'pyproject.toml'} of that revision cannot be read: {error}.") from None
    asked = project.get("project", {})
    pinned = [folder / name for name in ("requirements.txt", "uv.lock", "pylock.toml") if (folder / name).is_file()]
    return repr(
        (
            asked.get("requires-python"),
            asked.get("dependencies"),
            asked.get("optional-dependencies"),
            [(file.name, files.read_bytes(file)) for file in pinned],
        )
    )


def _interpreter(root: Path, tree: Path, environments: Path, notify: Callable[[str], None]) -> str:
    """Return the Python interpreter for a revision of this tool, in a new environment if it needs one.

    The path is absolute, because it runs in another working directory.
    """
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
        done = children.run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *what])
        if done.returncode:
            message = (done.stderr.strip() or "pip said nothing").splitlines()[-1]
            raise UnavailableError(f"The packages of that revision cannot be installed: {message.rstrip('.')}.")
        ready.touch()
    except (OSError, subprocess.CalledProcessError) as error:
        raise UnavailableError(f"The environment {home} of that revision cannot be made: {_reason(error)}.") from error
    return str(python)


def _search_path() -> list[str]:
    """Return PYTHONPATH with absolute folders, for a process with another working directory."""
    return [str(Path(entry).absolute()) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]


# --- git --------------------------------------------------------------------------------------------------------------


def _commit(git: str, name: str) -> str:
    """Return the commit that a revision such as ``main`` names."""
    done = run_git(git, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    if done.returncode == 0:
        return done.stdout.strip()
    if done.stderr.strip():  # an unknown name prints nothing
        raise refusal(done.stderr, f"The revision '{name}' cannot be read")
    if run_git(git, "rev-parse", "--is-shallow-repository").stdout.strip() == "true":
        raise UsageError(
            f"There is no revision '{name}' in this clone, which is shallow; fetch its history with "
            f"git fetch --unshallow (in CI, check out with fetch-depth: 0)."
        )
    raise UsageError(f"There is no revision '{name}' here; fetch it first (in CI, check out with the whole history).")


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error).rstrip(".")
