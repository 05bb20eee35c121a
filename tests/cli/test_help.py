"""What the program says of itself: help, versions, verbosity."""

from pathlib import Path

import pytest
from commands import call, refused


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The current folder, which holds nothing."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("words", [("-q", "table"), ("table", "-q"), ("-v", "table", "--quiet")])
def test_quiet_keeps_results_and_errors(here: None, words: tuple[str, ...]) -> None:
    assert "There are no runs" in refused(*words)


@pytest.mark.parametrize("words", [("-q", "-v", "devices"), ("devices", "-qv")])
def test_less_and_more_are_not_given_together(here: None, words: tuple[str, ...]) -> None:
    assert "give one of them" in refused(*words)


def test_a_quiet_sweep_prints_its_table_alone(zoo: Path) -> None:
    done = call("latency", "-m", "m00", "--res", "32", "--threads", "1", "-q")
    assert "m00" in done.stdout
    assert all(line.startswith("warning: ") for line in done.stderr.splitlines())
    assert "results:" in call("latency", "-m", "m00", "--res", "32", "--threads", "1").stderr
