"""The packages as an index and a user would take them, the images, and the lock file of developers."""

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

import fastvit_bench

ROOT = Path(__file__).parents[1]
SETTINGS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT: dict[str, Any] = SETTINGS["project"]
WHEEL: dict[str, Any] = SETTINGS["tool"]["hatch"]["build"]["targets"]["wheel"]


def program(*words: str | Path, cwd: Path, **variables: str) -> str:
    """What a program prints; it finds no other copy of this package through the environment."""
    clean = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    done = subprocess.run(
        [*map(str, words)], cwd=cwd, env={**clean, **variables}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    return done.stdout


# --- sdist and wheel --------------------------------------------------------------------------------------------------


class Built(NamedTuple):
    sdist: Path
    wheel: Path

    def metadata(self) -> Message:
        with zipfile.ZipFile(self.wheel) as wheel:
            (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
            return Parser().parsestr(wheel.read(name).decode())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The sdist, and the wheel that is built from it: so nothing is missing in the sdist."""
    for needed in ("hatchling", "hatch_fancy_pypi_readme", "twine"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    folder = tmp_path_factory.mktemp("packages")
    program(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    source = folder / sdist.name.removesuffix(".tar.gz")
    program(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=source)
    (wheel,) = folder.glob("*.whl")
    return Built(sdist, wheel)


@pytest.mark.slow
def test_an_index_would_take_both(built: Built) -> None:
    said = program(sys.executable, "-m", "twine", "--no-color", "check", "--strict", *built, cwd=built.sdist.parent)
    assert said.count("PASSED") == 2


@pytest.mark.slow
def test_the_metadata_says_what_an_index_shows(built: Built) -> None:
    about = built.metadata()
    assert about["Version"] == fastvit_bench.__version__
    assert about["License-Expression"] == "MIT"
    assert about["License-File"] == "LICENSE"
    assert SpecifierSet(about["Requires-Python"]) == SpecifierSet(PROJECT["requires-python"])
    assert set(about.get_all("Provides-Extra") or []) == set(PROJECT["optional-dependencies"])
    places = dict(line.split(", ") for line in about.get_all("Project-URL") or [])
    assert {"Source", "Documentation", "Changelog", "Issues"} <= set(places)
    text = about.get_payload()
    assert isinstance(text, str)
    links = [*re.findall(r"\]\(([^)]+)\)", text), *re.findall(r'(?:src|srcset|href)="([^"]+)"', text)]
    assert links
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    # each link into the repository is of a file that is there
    begin = re.compile(rf"{re.escape(places['Source'])}/(?:blob|raw)/main/([^#]+)")
    inside = [found[1] for link in links if (found := begin.match(link))]
    assert inside
    assert [name for name in inside if not (ROOT / name).exists()] == []


@pytest.mark.slow
def test_the_sdist_holds_sources_and_no_runs(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        files = {name.partition("/")[2]: archive.getmember(name).size for name in archive.getnames()}
    assert {"PKG-INFO", "README.md", "LICENSE", "pyproject.toml", "tests/conftest.py"} <= set(files)
    assert not [name for name in files if name.startswith((".ci", ".git/", ".github", "models", "dist", ".venv"))]
    results = {name.split("/")[1] for name in files if name.startswith("results/")}
    assert results == {"published", "cpu-reference"}
    assert not [name for name in files if "__pycache__" in name]
    assert sum(files.values()) < 20e6


@pytest.mark.slow
def test_the_wheel_holds_the_package_with_its_data_and_nothing_beside(built: Built) -> None:
    with zipfile.ZipFile(built.wheel) as wheel:
        files = set(wheel.namelist())
    assert {name.split("/")[0].partition("-")[0] for name in files} == {"fastvit_bench"}
    listed = subprocess.run(["git", "ls-files", "fastvit_bench"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        assert set(listed.stdout.split()) <= files
    assert "fastvit_bench/py.typed" in files
    for source, target in WHEEL["force-include"].items():
        inside = [path.relative_to(ROOT / source) for path in (ROOT / source).rglob("*") if path.is_file()]
        assert {(Path(target) / path).as_posix() for path in inside} <= files
        assert (ROOT / source).exists()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="this environment has no pip")
def test_the_wheel_works_outside_the_clone(built: Built, tmp_path: Path) -> None:
    home, work = tmp_path / "environment", tmp_path / "work"
    work.mkdir()
    venv.create(home, symlinks=True)
    python = home / "bin" / "python"
    program(
        sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", built.wheel, cwd=work
    )
    (site,) = home.glob("lib/python*/site-packages")
    # the dependencies are those of the environment that runs this
    (site / "dependencies.pth").write_text(str(Path(pytest.__file__).parents[1]), encoding="utf-8")
    command = home / "bin" / "fastvit-bench"
    assert fastvit_bench.__version__ in program(command, "--version", cwd=work)
    where = program(python, "-c", "import fastvit_bench; print(fastvit_bench.__file__)", cwd=work)
    assert Path(where.strip()).is_relative_to(home.resolve()) or Path(where.strip()).is_relative_to(home)
    assert "rtx2080ti" in program(command, "devices", cwd=work)  # of the packaged benchmark.toml
    assert "fastvit_t8" in program(command, "claims", "-f", "json", cwd=work).lower().replace("-", "_")
    # the wheel's own address is in the message on a missing extra
    said = program(python, "-c", "from fastvit_bench import install; print(install.extra('zoo'))", cwd=work)
    assert shlex.split(said)[-2:] == ["install", f"fastvit-bench[zoo] @ {built.wheel.as_uri()}"]


# --- images -----------------------------------------------------------------------------------------------------------

IMAGES = ("Dockerfile", "Dockerfile.nvidia")


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile with what follows them, lines joined and comments left out."""
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
    return [
        (word.upper(), more.strip())
        for line in lines.replace("\\\n", " ").splitlines()
        if line.strip()
        for word, _, more in [line.partition(" ")]
    ]


def copied(text: str) -> Iterator[str]:
    """The names in the clone that an image copies."""
    for word, more in instructions(text):
        if word in {"COPY", "ADD"} and not more.startswith("--from"):
            yield from (name for name in shlex.split(more)[:-1] if not name.startswith("--"))


def faults(text: str, allowed: set[str]) -> list[str]:
    """What is wrong with a Dockerfile of this project, in words."""
    found = [f"{name} is not there" for name in copied(text) if not (ROOT / name).exists()]
    found += [f"{name} is kept out by .dockerignore" for name in copied(text) if name not in allowed]
    built_from = {"pyproject.toml", "README.md", *PROJECT["license-files"], *WHEEL["packages"], *WHEEL["force-include"]}
    found += [f"{name}, of which the wheel is built, is not copied" for name in sorted(built_from - set(copied(text)))]
    words = [word for word, _ in instructions(text)]
    last = dict(instructions(text))
    if last.get("USER", "root").split(":")[0] in {"root", "0"}:
        found.append("it runs as root")
    elif "RUN" in words[words.index("USER") :]:
        found.append("something is installed as another user")
    scripts = {f'["/opt/fastvit-bench/bin/{name}"]' for name in PROJECT["scripts"]}
    if last.get("ENTRYPOINT") not in scripts:
        found.append("the entry point is not the program")
    extras = [name for each in re.findall(r"'\.\[([\w,]+)\]'", text) for name in each.split(",")]
    return found + [f"no extra {name}" for name in extras if name not in PROJECT["optional-dependencies"]]


def let_through() -> set[str]:
    """The names that .dockerignore lets through: it keeps out everything else."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith(("#", "!"))] == ["*", "**/__pycache__"]
    return {line[1:] for line in lines if line.startswith("!")}


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_is_made_of_files_that_exist_and_starts_the_program_without_rights(name: str) -> None:
    assert faults((ROOT / name).read_text(encoding="utf-8"), let_through()) == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("COPY fastvit_bench fastvit_bench\n", "", "fastvit_bench, of which the wheel is built, is not copied"),
        ("COPY fastvit_bench fast", "COPY fastvit_bank fast", "fastvit_bank is not there"),
        ("benchmark.toml ./", "benchmark.toml docs ./", "docs is kept out by .dockerignore"),
        ("USER bench\n", "", "it runs as root"),
        ("USER bench\n", "USER bench\nRUN true\n", "something is installed as another user"),
        ('bin/fastvit-bench"]', 'bin/fastvit"]', "the entry point is not the program"),
        (".[compress,zoo]", ".[compress,moo]", "no extra moo"),
    ],
)
@pytest.mark.parametrize("name", IMAGES)
def test_a_planted_fault_of_an_image_is_found(name: str, old: str, new: str, fault: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert old in text
    assert fault in faults(text.replace(old, new), let_through())


def test_nothing_is_let_through_that_no_image_copies() -> None:
    assert let_through() == {name for image in IMAGES for name in copied((ROOT / image).read_text(encoding="utf-8"))}


def test_the_image_has_a_python_that_the_package_takes() -> None:
    bases = [more.split()[0] for word, more in instructions((ROOT / "Dockerfile").read_text()) if word == "FROM"]
    assert len(set(bases)) == 1
    version = re.fullmatch(r"python:([\d.]+)-slim", bases[0])
    assert version is not None
    assert Version(version[1]) in SpecifierSet(PROJECT["requires-python"])


def test_what_was_never_run_is_said_to_be() -> None:
    assert "Not yet built or run" in (ROOT / "Dockerfile.nvidia").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "guides" / "install.md").read_text(encoding="utf-8")
    assert "It has not been built or run yet" in page
    for name in PROJECT["optional-dependencies"].keys() - {"dev", "report"}:
        assert f"| `{name}` |" in page


@pytest.mark.slow
def test_what_an_image_copies_is_enough_to_build_the_package(built: Built, tmp_path: Path) -> None:
    for name in copied((ROOT / "Dockerfile").read_text(encoding="utf-8")):
        place = tmp_path / "source" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(ROOT / name, place) if (ROOT / name).is_dir() else shutil.copy(ROOT / name, place)
    program(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=tmp_path / "source")
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as one, zipfile.ZipFile(built.wheel) as other:
        bytecode = {name for name in one.namelist() if "__pycache__" in name}
        assert set(one.namelist()) - bytecode == set(other.namelist())


@pytest.mark.slow
def test_the_image_for_processors_builds_and_runs(tmp_path: Path) -> None:
    docker = shutil.which("docker") or shutil.which("podman")
    if docker is None or subprocess.run([docker, "info"], capture_output=True, check=False).returncode:
        pytest.skip("no builder of images is at hand")
    base = next(more.split()[0] for word, more in instructions((ROOT / "Dockerfile").read_text()) if word == "FROM")
    if subprocess.run([docker, "pull", base], capture_output=True, check=False).returncode:
        pytest.skip(f"{base} cannot be fetched")
    tag = "fastvit-bench-tested"
    program(docker, "build", "-t", tag, ".", cwd=ROOT)
    try:
        assert fastvit_bench.__version__ in program(docker, "run", "--rm", tag, "--version", cwd=tmp_path)
        user = program(docker, "run", "--rm", "--entrypoint", "id", tag, "-u", cwd=tmp_path)
        assert user.strip() != "0"
    finally:
        subprocess.run([docker, "rmi", tag], capture_output=True, check=False)


# --- the lock file ----------------------------------------------------------------------------------------------------

LOCK = (ROOT / "requirements-dev.lock").read_text(encoding="utf-8")


def locked(text: str) -> dict[str, list[Version]]:
    """The versions of each package of a lock file. Raises `AssertionError` for a line of another kind."""
    found: dict[str, list[Version]] = {}
    lines = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#")).replace("\\\n", " ")
    for line in filter(None, lines.splitlines()):
        name, version, hashes = line.partition("==")[0], line.partition("==")[2].split()[0], line.split("--hash=")[1:]
        assert re.fullmatch(r"[a-z0-9-]+", name), line
        assert hashes, line
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", each.strip()) for each in hashes), line
        found.setdefault(name, []).append(Version(version))
    return found


def wanted() -> list[Requirement]:
    """What a developer's environment needs, extras of this package resolved."""
    found: list[Requirement] = []
    left = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["dev"]]
    while left:
        requirement = Requirement(left.pop())
        if canonicalize_name(requirement.name) != PROJECT["name"]:
            found.append(requirement)
            continue
        left += [line for extra in requirement.extras for line in PROJECT["optional-dependencies"][extra]]
    return found


def test_every_dependency_of_developers_is_locked_by_its_hashes() -> None:
    versions = locked(LOCK)
    lacking = [
        str(requirement)
        for requirement in wanted()
        if not any(
            version in requirement.specifier for version in versions.get(canonicalize_name(requirement.name), [])
        )
    ]
    assert lacking == [], "renew requirements-dev.lock as CONTRIBUTING.md says"
    assert len(versions) > len(wanted())


def test_the_lock_names_no_index_and_its_command_is_in_contributing() -> None:
    for word in ("index-url", "find-links", "file:", "http:", "https:", "@ ", "+cpu"):
        assert word not in LOCK
    command = LOCK.splitlines()[1].strip("# ")
    assert command.partition("pip compile ")[2] in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "line",
    ["numpy>=2", "numpy==2.0", "numpy @ file:///numpy.whl --hash=sha256:00", "--index-url x", "numpy==2 --hash=x"],
)
def test_a_line_without_version_or_hash_is_found(line: str) -> None:
    with pytest.raises((AssertionError, IndexError)):
        locked(line + "\n")
