"""The cache itself: what it gives was put there, for that key and stamp; `clean` shows and removes it."""

import json
from pathlib import Path

import builders
import pytest
from commands import call
from hypothesis import given
from hypothesis import strategies as st

from fastvit_bench import files
from fastvit_bench.history import series
from fastvit_bench.history.series import Series
from fastvit_bench.store import cache
from fastvit_bench.store.cache import Cache

_ENTRIES = st.lists(st.tuples(st.sampled_from("abc"), st.binary(max_size=3), st.binary(max_size=50)), max_size=20)


@given(_ENTRIES)
def test_a_key_has_the_last_value_of_its_stamp(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, bytes, bytes]]
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(files.CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        last: dict[str, tuple[bytes, bytes]] = {}
        for key, stamp, value in entries:
            with Cache() as written:
                written.put(key, stamp, value)
                assert written.get(key, stamp) == value
            last[key] = stamp, value
        with Cache() as read:
            for key in "abc":
                stamp, value = last.get(key, (b"", None))
                assert read.get(key, stamp) == value
                assert read.get(key, stamp + b"x") is None


def test_the_environment_says_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(files.CACHE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.path() == tmp_path / "fastvit-bench" / cache.NAME
    monkeypatch.setenv(files.CACHE_VARIABLE, str(tmp_path / "own"))
    assert cache.path() == tmp_path / "own" / cache.NAME
    with Cache() as written:
        written.put("key", b"", b"value")
    assert cache.path().is_file()


def test_clean_shows_it_and_removes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(files.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    assert json.loads(call("clean", "--json").stdout) == []
    with Cache() as written:
        written.put("key", b"", b"value")
    (item,) = json.loads(call("clean", "--json").stdout)
    assert item["kind"] == "cache of figures"
    assert json.loads(call("clean", "--json", "--older-than", "1h").stdout) == []
    call("clean", "--yes")
    assert not cache.path().exists()
    with Cache() as read:
        assert read.get("key", b"") is None


def test_changes_that_are_known_are_those_that_would_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(files.CACHE_VARIABLE, str(tmp_path))

    def of(count: int, middle_ms: float = 20.0) -> Series:
        figures = (10.0 + at % 3 / 10 if at < 20 else middle_ms + at % 3 / 10 for at in range(count))
        return Series(
            tuple(
                series.HistoryPoint(builders.run(), builders.measurement(samples_ns=(builders.samples(ms),)))
                for ms in figures
            )
        )

    for some in ([of(40)], [of(41)], [of(40, middle_ms=10.0), of(3)], [of(40)]):
        expected = [series.search(one) for one in some]
        assert series.search_all(some) == expected
        with monkeypatch.context() as patch:
            patch.setattr(series, "breaks", lambda figures: pytest.fail("it was searched again"))
            assert series.search_all(some) == expected
    assert series.search_all([of(40)])[0].changes
