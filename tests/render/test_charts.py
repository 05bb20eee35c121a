"""What all charts share: the packages that draw them, and the files that hold them."""

from pathlib import Path

import pytest

from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.render import charts


def test_missing_packages_are_named_and_no_others() -> None:
    charts.require(["json", "re"])
    with pytest.raises(
        UnavailableError, match=r"drawn by no_such_one and no_such_two, .*install no_such_one no_such_two"
    ):
        charts.require(["no_such_one", "json", "no_such_two"])


def test_a_picture_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "a.svg").mkdir()
    with pytest.raises(UsageError, match=r"a\.svg cannot be written: .*directory\.$"):
        charts.write(tmp_path / "a.svg", b"<svg/>")


@pytest.mark.parametrize(("name", "kind"), [("a.svg", "svg"), ("a.b.PNG", "png")])
def test_the_suffix_says_what_is_drawn(tmp_path: Path, name: str, kind: str) -> None:
    charts.check(tmp_path / name)
    assert charts.kind(tmp_path / name) == kind


def test_a_folder_that_takes_no_picture_is_told_before_anything_is_drawn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: False)  # because whoever runs the tests may write everywhere
    with pytest.raises(UsageError, match=r"a\.svg cannot be written: .* is read-only\.$"):
        charts.check(tmp_path / "a.svg")


def test_ids_do_not_go_on_counting_from_one_picture_to_the_next() -> None:
    first = '<g clip-path="url(#clip7)"/><clipPath id="clip7"/><clipPath id="clip9"/>'
    again = first.replace("clip7", "clip21").replace("clip9", "clip22")
    assert charts._renumbered(first) == charts._renumbered(again)
    assert charts._renumbered(first).count("clip0") == 2
