"""Other revisions: their own code and configuration, in a worktree that is gone afterwards."""

import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

import pytest

from fastvit_bench.comparing import git_revision
from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.measuring.git import Commit, current_commit

# a package of the same name whose command line writes what it was asked, and which revision it is
PROGRAM = """
import pathlib, sys
from fastvit_bench import REVISION
words = sys.argv[1:]
if "broken" in words:
    sys.exit("error: it cannot be exported.")
place = pathlib.Path(words[words.index("--output") + 1])
place.mkdir(parents=True, exist_ok=True)
(place / "made.txt").write_text(REVISION + " " + " ".join(words))
"""


def git(folder: Path, *words: str) -> str:
    told = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(folder), *words]
    return subprocess.run(told, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two revisions, tagged ``old`` and ``new``, of a package named like ours; it is entered."""
    root = tmp_path / "repository"
    package = root / "fastvit_bench"
    package.mkdir(parents=True)
    git(root, "init", "--quiet")
    (package / "cli.py").write_text(PROGRAM)
    (root / "pyproject.toml").write_text('[project]\nname = "x"\ndependencies = ["typer"]\n')
    for name in ("old", "new"):
        (package / "__init__.py").write_text(f"REVISION = '{name}'\n")
        git(root, "add", "-A")
        git(root, "commit", "--quiet", "-m", name)
        git(root, "tag", name)
    monkeypatch.chdir(root)
    return root


def test_a_revision_exports_with_its_own_code_and_leaves_no_worktree(repository: Path, tmp_path: Path) -> None:
    with git_revision.git_worktree("old", tmp_path / "environments") as revision:
        assert revision.python == sys.executable  # the same packages are asked for
        assert revision.commit == git(repository, "rev-parse", "old")
        git_revision.export(revision, ["--output", str(tmp_path / "out")], 60)
        trees = git(repository, "worktree", "list", "--porcelain").splitlines()
        assert [line for line in trees if line.startswith("HEAD ")] == [
            f"HEAD {git(repository, 'rev-parse', name)}" for name in ("new", "old")
        ]
        folder = revision.folder
    assert (tmp_path / "out" / "made.txt").read_text().startswith("old export")
    assert not folder.exists()
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    assert git(repository, "status", "--porcelain") == ""


def test_in_a_folder_below_the_repository_its_counterpart_is_used(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository / "fastvit_bench")
    with git_revision.git_worktree("old", tmp_path) as revision:
        assert revision.folder.name == "fastvit_bench"


def test_other_packages_get_an_environment_of_their_own_once(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "pyproject.toml").write_text('[project]\nname = "x"\ndependencies = ["typer", "rich"]\n')
    made: list[list[str]] = []

    def without_pip(command: list[str], **options: object) -> object:
        made.append(command)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(git_revision.children, "run", without_pip)
    monkeypatch.setattr(git_revision.venv, "create", lambda home, **options: Path(home).mkdir(parents=True))
    pythons = []
    for _ in range(2):
        with git_revision.git_worktree("old", tmp_path / "environments") as revision:
            pythons.append(revision.python)
    assert len(set(pythons)) == len(made) == 1
    assert pythons[0].startswith(str(tmp_path / "environments"))


def test_packages_that_cannot_be_installed_are_one_sentence(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "pyproject.toml").write_text('[project]\nname = "x"\ndependencies = []\n')
    monkeypatch.setattr(git_revision.venv, "create", lambda home, **options: Path(home).mkdir(parents=True))
    with (
        pytest.raises(UnavailableError, match="cannot be made"),
        git_revision.git_worktree("old", tmp_path / "environments"),
    ):
        pass
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_an_export_that_fails_is_told_in_its_own_words(repository: Path, tmp_path: Path) -> None:
    with (
        git_revision.git_worktree("old", tmp_path) as revision,
        pytest.raises(UnavailableError, match="it cannot be exported"),
    ):
        git_revision.export(revision, ["broken"], 60)


@pytest.mark.parametrize("name", ["nowhere", "--all", "", "HEAD~99"])
def test_an_unknown_revision_is_refused(repository: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="no revision"), git_revision.git_worktree(name, tmp_path):
        pass


def test_outside_of_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UsageError, match="no git repository"), git_revision.git_worktree("HEAD", tmp_path):
        pass
    assert current_commit() == Commit()


def test_an_environment_in_a_relative_folder_is_used_from_the_worktree(
    repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The export runs in another working directory than the one that the folder is relative to."""
    (repository / "pyproject.toml").write_text('[project]\nname = "x"\ndependencies = ["typer", "rich"]\n')
    monkeypatch.setattr(git_revision.venv, "create", bare)
    run = git_revision.children.run
    monkeypatch.setattr(
        git_revision.children,
        "run",
        lambda words, **options: (
            subprocess.CompletedProcess(words, 0, "", "") if "pip" in words else run(words, **options)
        ),
    )
    with git_revision.git_worktree("old", Path("models/.environments")) as revision:
        assert revision.python != sys.executable
        git_revision.export(revision, ["--output", str(tmp_path / "out")], 60)
    assert (tmp_path / "out" / "made.txt").read_text().startswith("old export")


def bare(home: Path, **options: object) -> None:
    """An environment without pip: tests install nothing."""
    venv.EnvBuilder(with_pip=False, symlinks=True).create(home)


def test_in_another_repository_the_installed_tool_exports_whatever_packages_that_one_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "user"
    root.mkdir()
    git(root, "init", "--quiet")
    for pin in ("1", "2"):
        (root / "requirements.txt").write_text(f"no-such-package=={pin}\n")
        (root / "torch.py").write_text("raise SystemExit('the module of the user took the place of the package')\n")
        git(root, "add", "-A")
        git(root, "commit", "--quiet", "-m", pin)
    monkeypatch.chdir(root)
    monkeypatch.setenv("PYTHONPATH", os.path.relpath(Path(git_revision.__file__).parents[1]))
    with git_revision.git_worktree("HEAD~1", Path("environments")) as revision:
        assert revision.python == sys.executable
        with pytest.raises(UnavailableError, match="There is no model 'nowhere'"):
            git_revision.export(revision, ["--target", "onnx", "--model", "nowhere"], 60)
    assert not (root / "environments").exists()


def test_paths_have_counterparts_in_the_worktree(repository: Path, tmp_path: Path) -> None:
    with git_revision.git_worktree("old", tmp_path) as revision:
        inside, outside = repository / "weights" / "a.pth", tmp_path / "b.pth"
        there = revision.counterpart(inside)
        assert there == revision.tree / "weights" / "a.pth"
        assert revision.origin(there) == inside.resolve()
        assert revision.counterpart(outside) == outside.resolve()
        assert revision.origin(outside) == outside


# --- what git refuses -------------------------------------------------------------------------------------------------


def damaged_head(root: Path) -> None:
    (root / ".git" / "HEAD").write_text("nonsense\n")


def damaged_commit(root: Path) -> None:
    commit = git(root, "rev-parse", "old")
    stored = root / ".git" / "objects" / commit[:2] / commit[2:]
    stored.chmod(0o644)
    stored.write_bytes(b"damaged")


def gone(root: Path) -> None:
    (root / ".git" / "HEAD").unlink()


@pytest.mark.parametrize("damage", [damaged_head, damaged_commit, gone])
def test_a_damaged_repository_is_not_told_as_none(
    repository: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    damage(repository)
    with pytest.raises(UnavailableError) as caught, git_revision.git_worktree("old", tmp_path):
        pass
    assert "no git repository" not in str(caught.value)
    assert re.search(r"git says: |does not accept ", str(caught.value))


def test_a_repository_of_another_user_is_told_with_the_remedy(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own switch for such tests
    with (
        pytest.raises(UnavailableError, match="dubious ownership") as caught,
        git_revision.git_worktree("old", tmp_path),
    ):
        pass
    assert f"git config --global --add safe.directory {repository}" in str(caught.value)
    assert "dubious ownership" in current_commit().refusal
    assert current_commit().commit is None


def test_a_shallow_clone_is_told_to_fetch_its_history(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(tmp_path, "clone", "--quiet", "--depth", "1", f"file://{repository}", "shallow")
    monkeypatch.chdir(tmp_path / "shallow")
    refused = pytest.raises(UsageError, match=r"no revision 'HEAD~1' .*shallow.*fetch-depth: 0")
    with refused, git_revision.git_worktree("HEAD~1", tmp_path):
        pass


def test_without_git_the_commit_is_unknown_and_said_to_be(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert current_commit() == Commit(git(repository, "rev-parse", "HEAD"), dirty=False)
    (repository / "pyproject.toml").write_text("")
    assert current_commit().dirty
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert current_commit() == Commit(refusal="git is not on the PATH")


KILLED = """
import os, sys
from pathlib import Path
from fastvit_bench.comparing import git_revision
with git_revision.git_worktree("old", Path(sys.argv[1])) as revision:
    print(revision.tree, flush=True)
    sys.stdin.readline()
    os._exit(1)  # as if it was killed: nothing is tidied up
"""


def test_worktrees_of_killed_processes_go_and_those_in_use_stay(repository: Path, tmp_path: Path) -> None:
    """That of a live process stays even where its folder is not seen, as from another container."""
    root = str(Path(git_revision.__file__).parents[2])
    environment = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONSAFEPATH": "1", "PYTHONPATH": root}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path / "environments")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=repository, env=environment,
        )
        for _ in range(2)
    ]  # fmt: skip
    trees = [Path(process.stdout.readline().strip()) for process in processes if process.stdout]
    try:
        processes[0].communicate("\n")
        hidden = trees[1].rename(tmp_path / "elsewhere")
        with git_revision.git_worktree("old", tmp_path / "environments"):
            listed = git(repository, "worktree", "list", "--porcelain")
            assert str(trees[0]) not in listed
            assert str(trees[1]) in listed
        hidden.rename(trees[1])
        assert git(trees[1], "rev-parse", "HEAD") == git(repository, "rev-parse", "old")
    finally:
        processes[1].communicate("\n")
    with git_revision.git_worktree("old", tmp_path / "environments"):
        pass
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_a_worktree_of_the_users_own_stays(repository: Path, tmp_path: Path) -> None:
    git(repository, "worktree", "add", "--detach", str(tmp_path / "mine"), "old")
    with git_revision.git_worktree("old", tmp_path / "environments"):
        pass
    assert str(tmp_path / "mine") in git(repository, "worktree", "list")
