"""Other revisions: their own code and configuration, in a worktree that is gone afterwards."""

import subprocess
import sys
from pathlib import Path

import pytest

from fastvit_bench import revisions
from fastvit_bench.errors import UnavailableError, UsageError

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
    with revisions.checked_out("old", tmp_path / "environments") as revision:
        assert revision.python == sys.executable  # the same packages are asked for
        assert revision.commit == git(repository, "rev-parse", "old")
        revisions.export(revision, ["--output", str(tmp_path / "out")], 60)
        assert "old" in git(repository, "worktree", "list") or len(git(repository, "worktree", "list").split("\n")) == 2
        folder = revision.folder
    assert (tmp_path / "out" / "made.txt").read_text().startswith("old export")
    assert not folder.exists()
    assert len(git(repository, "worktree", "list").splitlines()) == 1
    assert git(repository, "status", "--porcelain") == ""


def test_in_a_folder_below_the_repository_its_counterpart_is_used(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository / "fastvit_bench")
    with revisions.checked_out("old", tmp_path) as revision:
        assert revision.folder.name == "fastvit_bench"


def test_other_packages_get_an_environment_of_their_own_once(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "pyproject.toml").write_text('[project]\nname = "x"\ndependencies = ["typer", "rich"]\n')
    made: list[list[str]] = []
    run = subprocess.run

    def without_pip(told: list[str], **options: object) -> object:
        if "pip" in told:
            made.append(told)
            return subprocess.CompletedProcess(told, 0, "", "")
        return run(told, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(subprocess, "run", without_pip)
    monkeypatch.setattr(revisions.venv, "create", lambda home, **options: Path(home).mkdir(parents=True))
    pythons = []
    for _ in range(2):
        with revisions.checked_out("old", tmp_path / "environments") as revision:
            pythons.append(revision.python)
    assert len(set(pythons)) == len(made) == 1
    assert pythons[0].startswith(str(tmp_path / "environments"))


def test_packages_that_cannot_be_installed_are_one_sentence(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "pyproject.toml").write_text('[project]\nname = "x"\ndependencies = []\n')
    monkeypatch.setattr(revisions.venv, "create", lambda home, **options: Path(home).mkdir(parents=True))
    with (
        pytest.raises((UnavailableError, FileNotFoundError)),
        revisions.checked_out("old", tmp_path / "environments"),
    ):
        pass
    assert len(git(repository, "worktree", "list").splitlines()) == 1


def test_an_export_that_fails_is_told_in_its_own_words(repository: Path, tmp_path: Path) -> None:
    with (
        revisions.checked_out("old", tmp_path) as revision,
        pytest.raises(UnavailableError, match="it cannot be exported"),
    ):
        revisions.export(revision, ["broken"], 60)


@pytest.mark.parametrize("name", ["nowhere", "--all", "", "HEAD~99"])
def test_an_unknown_revision_is_refused(repository: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="no revision"), revisions.checked_out(name, tmp_path):
        pass


def test_outside_of_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    with pytest.raises(UsageError, match="no git repository"), revisions.checked_out("HEAD", tmp_path):
        pass
