from pathlib import Path

import pytest

from fastvit_bench import resources
from fastvit_bench.errors import ConfigError


def test_a_clone_gives_the_repository_s_own_files() -> None:
    assert resources.find("benchmark.toml").read_text(encoding="utf-8").count("\n[model.") == 7
    assert (resources.find("published") / "paper_tables.csv").is_file()


def test_a_wheel_gives_the_packaged_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packaged = tmp_path / "fastvit_bench" / "resources"
    (packaged / "published").mkdir(parents=True)
    (packaged / "benchmark.toml").touch()
    (tmp_path / "benchmark.toml").touch()  # somebody else's, beside the package in site-packages
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "fastvit_bench")
    assert resources.find("benchmark.toml") == packaged / "benchmark.toml"
    assert resources.find("published") == packaged / "published"


def test_missing_data_and_unknown_names_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_PACKAGE", tmp_path / "fastvit_bench")
    with pytest.raises(ConfigError, match="Install fastvit-bench again"):
        resources.find("published")
    with pytest.raises(ConfigError, match="holds no data called 'passwords'"):
        resources.find("passwords")
