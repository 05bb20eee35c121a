"""What all pictures share."""

from pathlib import Path

import pytest

from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.report import history_plot, pictures, roofline_plot


def test_missing_packages_are_named_and_no_others() -> None:
    pictures.require("json", "re")
    with pytest.raises(UnavailableError, match=r"drawn by no_such_one and no_such_two, .* 'no_such_one'"):
        pictures.require("no_such_one", "json", "no_such_two")


def test_a_picture_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.svg").mkdir()
    with pytest.raises(UsageError, match=r"a\.svg cannot be written: .*directory\.$"):
        pictures.write(tmp_path / "a.svg", b"<svg/>")


@pytest.mark.parametrize(("name", "kind"), [("a.svg", "svg"), ("a.b.PNG", "png")])
def test_the_suffix_says_what_is_drawn(tmp_path: Path, name: str, kind: str) -> None:
    pictures.check(tmp_path / name)
    assert pictures.kind(tmp_path / name) == kind


def test_a_folder_that_takes_no_picture_is_told_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # because whoever runs the tests may write everywhere
    with pytest.raises(UsageError, match=r"a\.svg cannot be written: .* is read-only\.$"):
        pictures.check(tmp_path / "a.svg")


def test_both_plots_ask_the_same() -> None:
    assert history_plot.check is roofline_plot.check is pictures.check
