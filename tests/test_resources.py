from pathlib import Path

import pytest

from fastvit_bench import files
from fastvit_bench.errors import ConfigError


def test_a_clone_gives_the_repository_s_own_files() -> None:
    assert files.find("benchmark.toml").read_text(encoding="utf-8").count("\n[model.") == 7
    assert (files.find("published") / "paper_tables.csv").is_file()


def test_a_wheel_gives_the_packaged_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = tmp_path / "fastvit_bench" / "resources"
    (packaged / "published").mkdir(parents=True)
    (packaged / "benchmark.toml").touch()
    (tmp_path / "benchmark.toml").touch()  # somebody else's, beside the package in site-packages
    monkeypatch.setattr(files, "_PACKAGE", tmp_path / "fastvit_bench")
    assert files.find("benchmark.toml") == packaged / "benchmark.toml"
    assert files.find("published") == packaged / "published"


def test_missing_data_and_unknown_names_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_PACKAGE", tmp_path / "fastvit_bench")
    with pytest.raises(ConfigError, match="Install fastvit-bench again"):
        files.find("published")
    with pytest.raises(ConfigError, match="holds no data called 'passwords'"):
        files.find("passwords")
