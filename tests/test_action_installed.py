"""The GitHub Action from end to end: its own words install the package into a bare environment, and gate with it.

The environment holds the closure of the package's base dependencies, as the distributions that are installed here, and
nothing else. So the test needs no network, and an import of what no base dependency brings fails as on a runner.
"""

import os
import subprocess
import sys
import tomllib
import venv
import xml.etree.ElementTree as ElementTree
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
STEPS: list[dict[str, Any]] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))["runs"]["steps"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

CONFIGURATION = """
[model.mine]
variant = "fastvit_t8"
[device.cpu]
backend = "onnxruntime"
[sweep]
models = ["mine"]
grid = [32]
[download]
base = "https://example.org"
"""


def closure(requirements: list[str]) -> dict[str, metadata.Distribution]:
    """What pip would install for some requirements, by name."""
    found: dict[str, metadata.Distribution] = {}
    left = [(Requirement(each), "") for each in requirements]
    while left:
        requirement, extra = left.pop()
        name = canonicalize_name(requirement.name)
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        distribution = metadata.distribution(name)
        known = name in found
        found[name] = distribution
        needs = [Requirement(each) for each in distribution.requires or []]
        left += [(each, asked) for asked in requirement.extras for each in needs]
        left += [(each, "") for each in needs if not known]
    return found


def linked(distributions: dict[str, metadata.Distribution], site: Path) -> None:
    """Make distributions importable from `site`, each by links to what lies at its top level."""
    for distribution in distributions.values():
        for name in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            if not (site / name).exists():
                (site / name).symlink_to(Path(str(distribution.locate_file(name))))


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare environment with pip and the base dependencies."""
    home = tmp_path_factory.mktemp("action") / "environment"
    try:
        wanted = closure([*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]])
    except metadata.PackageNotFoundError as error:
        pytest.skip(f"{error.name} is not installed here, so it cannot be linked")
    venv.create(home, with_pip=True, symlinks=True)
    (site,) = home.glob("lib/python*/site-packages")
    linked(wanted, site)
    return home


def run(name: str, environment: Path, cwd: Path, **variables: str) -> "subprocess.CompletedProcess[str]":
    """A step's own script, in the action's own shell, with the environment's programs first on the PATH."""
    (step,) = [step for step in STEPS if step.get("name") == name]
    script = cwd.parent / "step.sh"
    script.write_text(step["run"], encoding="utf-8")
    given = {**dict.fromkeys(step["env"], ""), **variables}
    inherited = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", str(script)],
        cwd=cwd,
        env={**inherited, **given, "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="the links are those of a POSIX system")
def test_a_default_install_gates_to_a_green_end(environment: Path, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    (repository / "benchmark.toml").write_text(CONFIGURATION)
    (repository / ".gitignore").write_text("models/\nresults/\n")
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org"]
    for words in (["init", "--quiet"], ["add", "-A"], ["commit", "--quiet", "-m", "base"]):
        subprocess.run([*git, *words], check=True, cwd=repository)
    # what builds the package is linked too, so that pip looks for nothing anywhere
    offline = {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    done = run("Install fastvit-bench", environment, repository, GITHUB_ACTION_PATH=str(ROOT), **offline)
    assert done.returncode == 0, done.stderr
    done = run(
        "Gate",
        environment,
        repository,
        BASELINE_REV="HEAD",
        DEVICE="cpu",
        # a margin that no noise of a busy machine reaches: what is tested is the way to the end
        MAX_REGRESSION="100%",
        MAX_TIME="10m",
        EXTRA_ARGS="--max-pooled-regression 100%",
        RUNNER_TEMP=str(tmp_path),
        GITHUB_ACTIONS="true",
        GITHUB_STEP_SUMMARY=str(tmp_path / "summary"),
        GITHUB_OUTPUT=str(tmp_path / "output"),
    )
    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "warning" not in done.stderr
    assert "mine 32 b1" in (tmp_path / "summary").read_text(encoding="utf-8")
    outputs = dict(line.split("=", 1) for line in (tmp_path / "output").read_text(encoding="utf-8").splitlines())
    assert outputs["verdict"] in {"pass", "improved"}
    assert outputs["report"] == "fastvit-bench-report"
    report = repository / outputs["report"]
    assert sorted(path.name for path in report.iterdir()) == ["gate.json", "gate.junit.xml", "gate.md", "gate.svg"]
    assert ElementTree.parse(report / "gate.svg").getroot().tag.endswith("svg")
    # the other defaults of a command: a page of what was measured
    page = [str(environment / "bin" / "fastvit-bench"), "report"]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run(page, cwd=repository, env=clean, check=True, capture_output=True)
    assert (repository / "report.html").stat().st_size > 100_000


def test_the_closure_follows_requirements_and_extras() -> None:
    found = closure(PROJECT["project"]["dependencies"])
    assert {"torch", "numpy", "altair", "vl-convert-python"} <= set(found)
    assert not {"timm", "scikit-learn", "pytest"} & set(found)
    assert sys.version_info >= (3, 11)
