"""The commands that add an extra, for every way in which the tool can be installed."""

import json
import shlex
import sys
from importlib import metadata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvit_bench import install
from fastvit_bench.install import Installation

GIT = {"url": "https://example.org/owner/fastvit-bench.git", "vcs_info": {"vcs": "git", "commit_id": "1f" * 20}}
GIT_ADDRESS = "git+https://example.org/owner/fastvit-bench.git"
WHEEL = "file:///down/fastvit_bench-0.1.0-py3-none-any.whl"


@pytest.mark.parametrize(
    ("record", "clone", "address"),
    [
        ("", "", ""),  # of an index
        ({"url": "file:///a%20b/clone", "dir_info": {"editable": True}}, "/a b/clone", ""),
        ({"url": "file:///a/clone", "dir_info": {}}, "", "file:///a/clone"),
        (GIT, "", GIT_ADDRESS),
        (
            {**GIT, "vcs_info": {**GIT["vcs_info"], "requested_revision": "v1"}, "subdirectory": "tool"},
            "",
            f"{GIT_ADDRESS}@v1#subdirectory=tool",
        ),
        ({"url": WHEEL, "archive_info": {"hash": "sha256=00"}}, "", WHEEL),
        ("{", "", ""),
        ("[" * 100_000, "", ""),
        ({"url": 1}, "", ""),
        ({"dir_info": {"editable": "yes"}, "url": "file:///a"}, "", ""),
    ],
)
def test_where_it_came_from_is_read_from_its_record(record: object, clone: str, address: str) -> None:
    assert install.source(record if isinstance(record, str) else json.dumps(record)) == (clone, address)


@pytest.mark.parametrize(
    ("installation", "zoo", "torch"),
    [
        (Installation(), "pip install 'fastvit-bench[zoo]'", "pip install torch"),
        (Installation(clone="."), "pip install -e '.[zoo]'", "pip install torch"),
        (Installation(clone="/a b/clone"), "pip install -e '/a b/clone[zoo]'", "pip install torch"),
        (
            Installation(python=".venv/bin/python", clone="."),
            ".venv/bin/python -m pip install -e '.[zoo]'",
            ".venv/bin/python -m pip install torch",
        ),
        (Installation(address=GIT_ADDRESS), f"pip install 'fastvit-bench[zoo] @ {GIT_ADDRESS}'", "pip install torch"),
        (Installation(address=WHEEL), f"pip install 'fastvit-bench[zoo] @ {WHEEL}'", "pip install torch"),
        (Installation("uv"), "uv pip install 'fastvit-bench[zoo]'", "uv pip install torch"),
        (
            Installation("uv", python="/e/bin/python"),
            "uv pip install --python /e/bin/python 'fastvit-bench[zoo]'",
            "uv pip install --python /e/bin/python torch",
        ),
        (
            Installation("uv tool", address=GIT_ADDRESS, extras=("compress",), beside=("triton>=3",)),
            f"uv tool install --force 'fastvit-bench[compress,zoo] @ {GIT_ADDRESS}' --with 'triton>=3'",
            f"uv tool install --force 'fastvit-bench[compress] @ {GIT_ADDRESS}' --with 'triton>=3' --with torch",
        ),
        (
            Installation("uvx", address=GIT_ADDRESS),
            f"uvx --from 'fastvit-bench[zoo] @ {GIT_ADDRESS}' fastvit-bench",
            f"uvx --from 'fastvit-bench @ {GIT_ADDRESS}' --with torch fastvit-bench",
        ),
        (
            Installation("pipx run", address=GIT_ADDRESS),
            f"pipx run --spec 'fastvit-bench[zoo] @ {GIT_ADDRESS}' fastvit-bench",
            f"pipx run --spec 'fastvit-bench @ {GIT_ADDRESS}' --with torch fastvit-bench",
        ),
        (
            Installation("uv tool", clone="/clone"),
            "uv tool install --force --editable '/clone[zoo]'",
            "uv tool install --force --editable /clone --with torch",
        ),
    ],
)
def test_the_command_follows_the_installation(installation: Installation, zoo: str, torch: str) -> None:
    assert install.extra_command(installation, "zoo") == zoo
    assert install.packages_command(installation, ("torch",)) == torch


def test_pipx_adds_what_an_extra_requires(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = ["torch>=2.8", 'timm>=1.0.22; extra == "zoo"', "x>=1; (sys_platform != 'darwin') and extra == 'rtx'"]
    monkeypatch.setattr(metadata, "requires", lambda name: lines)
    monkeypatch.setattr(install, "detect", lambda: Installation("pipx", python="/p/bin/python"))
    assert install.extra("zoo") == "pipx inject fastvit-bench 'timm>=1.0.22'"
    assert install.extra("rtx") == "pipx inject fastvit-bench 'x>=1'"
    assert install.packages("torch") == "pipx inject fastvit-bench torch"
    assert install.pip("uninstall", "onnxruntime") == "pipx runpip fastvit-bench uninstall onnxruntime"


def test_what_uv_recorded_is_named_again() -> None:
    receipt = """
[tool]
requirements = [
    { name = "fastvit-bench", extras = ["zoo"], git = "https://example.org/x" },
    { name = "triton", specifier = ">=3" },
]
entrypoints = [{ name = "fastvit-bench", install-path = "/bin/fastvit-bench" }]
"""
    assert install.recorded(receipt) == (("zoo",), ("triton>=3",))
    assert install.recorded("[tool") == install.recorded("") == install.recorded("tool = 1") == ((), ())


@given(st.text() | st.recursive(st.none() | st.text(), lambda inner: st.dictionaries(st.text(), inner)).map(json.dumps))
def test_no_record_is_a_fault(text: str) -> None:
    assert all(isinstance(part, str) for part in install.source(text))
    assert all(isinstance(part, tuple) for part in install.recorded(text))


@pytest.mark.parametrize(
    ("file", "manager"),
    [
        ("venvs/x/pipx_metadata.json", "pipx"),
        (".cache/x/pipx_metadata.json", "pipx run"),
        ("tools/x/uv-receipt.toml", "uv tool"),
        ("archive-v0/x/pyvenv.cfg", "uvx"),
        ("x/pyvenv.cfg", "pip"),
    ],
)
def test_what_made_the_environment_is_seen_in_it(
    file: str, manager: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / file
    path.parent.mkdir(parents=True)
    path.touch()
    monkeypatch.setattr(sys, "prefix", str(path.parent))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert install.detect().manager == manager


def test_pip_is_named_by_its_interpreter_where_the_shell_has_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for environment in ("mine", "another"):
        (tmp_path / environment / "bin").mkdir(parents=True)
        program = tmp_path / environment / "bin" / "pip"
        program.touch(mode=0o755)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "mine"))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "mine" / "bin" / "python"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "mine" / "bin"))
    assert install.packages("torch") == "pip install torch"
    monkeypatch.setenv("PATH", str(tmp_path / "another" / "bin"))
    assert install.packages("torch") == "mine/bin/python -m pip install torch"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert install.packages("torch") == "mine/bin/python -m pip install torch"
    # an environment without pip is uv's
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.delenv("VIRTUAL_ENV", raising=False)
    assert install.packages("torch") == "uv pip install --python mine/bin/python torch"
    monkeypatch.setenv("VIRTUAL_ENV", str(tmp_path / "mine"))
    assert install.packages("torch") == "uv pip install torch"


def test_a_clone_that_nobody_installed_is_installed_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    root = Path(install.__file__).parents[1]
    monkeypatch.chdir(root)
    assert shlex.split(install.extra("zoo"))[-2:] == ["-e", ".[zoo]"]
