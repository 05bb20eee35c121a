"""The version of this tool that a cached export belongs to."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastvit_bench
from fastvit_bench.exporting import metadata

PACKAGE = Path(fastvit_bench.__file__).parent
ASK = "from fastvit_bench.exporting.metadata import own_version; print(own_version())"


def version_of(folder: Path) -> str:
    """The version that a copy of the package says it is."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    words = [sys.executable, "-c", ASK]
    done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_folders_that_shape_files_exist() -> None:
    for folder in metadata.SHAPING_FOLDERS:
        assert any((PACKAGE / folder).rglob("*.py")), folder


def test_an_edit_renews_cached_exports_where_it_can_change_them(tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "fastvit_bench", ignore=shutil.ignore_patterns("__pycache__"))
    before = version_of(tmp_path)
    assert before == metadata.own_version()
    shaping = [
        "network/reparam.py",
        "network/peers/cmt.py",
        "backends/pytorch.py",
        "backends/_onnx/export.py",
        "exporting/pipeline.py",
    ]
    for name in [*shaping, "render/table.py", "cli/latency.py"]:
        source = tmp_path / "fastvit_bench" / name
        text = source.read_text(encoding="utf-8")
        source.write_text(text + "# a change\n", encoding="utf-8")
        assert (version_of(tmp_path) != before) == (name in shaping), name
        source.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("folder", metadata.SHAPING_FOLDERS)
def test_a_new_file_renews_them_too(folder: str, tmp_path: Path) -> None:
    shutil.copytree(PACKAGE, tmp_path / "fastvit_bench", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "fastvit_bench" / folder / "added.py").touch()
    assert version_of(tmp_path) != metadata.own_version()
