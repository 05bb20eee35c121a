"""Times of trtexec: what is read of them, what trtexec itself would say, and what is said to odd ones."""

import json
import math
import os
import statistics
from pathlib import Path
from typing import Any

import pytest
from fakes import trtexec_times as times
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import check_refusal, mutated

from fastvit_bench.errors import FastViTBenchError, UsageError
from fastvit_bench.importers import trtexec_times


def refused(path: Path, found: object, warm_up_ms: int = 200) -> str:
    """The one sentence that an unusable file gives."""
    path.write_text(found if isinstance(found, str) else json.dumps(found), encoding="utf-8")
    with pytest.raises(UsageError) as caught:
        trtexec_times.read(path, warm_up_ms)
    sentence = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert str(path) in sentence
    return sentence


def changed(number: int, **fields: Any) -> list[dict[str, Any]]:
    """Queries of which one has other fields; None takes a field away."""
    found: list[dict[str, Any]] = [dict(query) for query in times.queries([1.5] * 4)]
    found[number] |= fields
    found[number] = {name: value for name, value in found[number].items() if value is not None}
    return found


# --- what is read -----------------------------------------------------------------------------------------------------


def test_the_file_of_today(tmp_path: Path) -> None:
    """As trtexec of TensorRT 8.5 to 11 writes it."""
    path = tmp_path / "times.json"
    path.write_text(
        '[\n  { "startEnqMs" : 200.1, "endEnqMs" : 200.2, "startH2dMs" : 200.2, "endH2dMs" : 200.25, '
        '"startComputeMs" : 200.25, "endComputeMs" : 201.724, "startD2hMs" : 201.724, "endD2hMs" : 201.726, '
        '"h2dMs" : 0.0503998, "computeMs" : 1.47421, "d2hMs" : 0.00201416, "latencyMs" : 1.52663 }\n]\n'
    )
    os.utime(path, (1_769_869_353, 1_769_869_353))
    found = trtexec_times.read(path)
    assert found.compute_ns == (1_474_210,)
    assert found.latency_ns == (1_526_630,)
    assert found.transfers
    assert found.span_ms == pytest.approx(1.474)
    assert (found.left_out, found.warm_up_ms) == (0, 200)
    assert found.finished == "2026-01-31T14:22:33+00:00"


def test_a_file_of_8_0_holds_its_warm_up_which_is_left_out(tmp_path: Path) -> None:
    """Those whose computing began within the first 200 ms, as trtexec's own report leaves them out."""
    found = times.queries([50.0, 40.0, 30.0, 30.0, 30.0, 30.0, 30.0, 1.5, 1.6, 1.4], begin_ms=0.1)
    read = trtexec_times.read(times.write(tmp_path / "old.json", times.before(found)))
    assert read.left_out == 6
    assert [round(each / 1e6, 2) for each in read.compute_ns] == [30.0, 1.5, 1.6, 1.4]
    everything = trtexec_times.read(tmp_path / "old.json", 0)
    assert (everything.left_out, len(everything.compute_ns)) == (0, 10)
    assert everything.digest == read.digest


def test_whether_anything_was_copied_stands_in_the_file(tmp_path: Path) -> None:
    with_copies = trtexec_times.read(times.write(tmp_path / "a.json", times.queries([1.5] * 20)))
    without = trtexec_times.read(times.write(tmp_path / "b.json", times.queries([1.5] * 20, copy_ms=(0, 0))))
    assert (with_copies.transfers, without.transfers) == (True, False)
    assert without.latency_ns == without.compute_ns
    assert all(a > b for a, b in zip(with_copies.latency_ns, with_copies.compute_ns, strict=True))


def test_two_copies_of_a_file_have_one_digest_however_they_are_written(tmp_path: Path) -> None:
    found = times.queries([1.5, 1.6, 1.7])
    one = trtexec_times.read(times.write(tmp_path / "a.json", found))
    shuffled = [dict(reversed(query.items())) for query in json.loads(times.text(found))]
    (tmp_path / "b.json").write_text(json.dumps(shuffled, indent=1))
    assert trtexec_times.read(tmp_path / "b.json").digest == one.digest
    other = trtexec_times.read(times.write(tmp_path / "c.json", times.queries([1.5, 1.6, 1.8])))
    assert other.digest != one.digest


@given(st.lists(st.floats(0.05, 500), min_size=1, max_size=40), st.floats(200.1, 20_000))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_median_is_the_one_that_trtexec_prints(tmp_path: Path, compute_ms: list[float], begin_ms: float) -> None:
    """Its findMedian: of the sorted times the middle one, or the mean of the two middle ones."""
    written = times.queries(compute_ms, begin_ms=begin_ms)
    read = trtexec_times.read(times.write(tmp_path / "times.json", written))
    ordered = sorted(query["computeMs"] for query in written)
    middle = len(ordered) // 2
    theirs = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    assert statistics.median(read.compute_ns) / 1e6 == pytest.approx(theirs, rel=1e-5)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "it is cut off or not JSON"),
        (times.text(times.queries([1.5] * 3))[:-40], "it is cut off or not JSON"),
        (times.text(times.queries([1.5] * 3)).replace("1.5", "nan"), "it is cut off or not JSON"),
        ("{}", "it is not a JSON array"),
        ("[]", "it holds no query"),
        ("[1]", "query 0: Expected 'object', got 'int'"),
        ('[{ "count" : 10 }, { "name" : "conv" }]', "it is a profile of layers, which --exportProfile writes"),
        ('[{ "name" : "logits", "dimensions" : "1x1000" }]', "Object missing required field 'startComputeMs'"),
        (changed(1, computeMs=None), "query 1: Object missing required field 'computeMs'"),
        (changed(1, computeMs="1.5"), "query 1, computeMs: Expected 'float', got 'str'"),
        (changed(1, h2dMs=None), "query 1 has no times of its copies"),
        (changed(1, computeMs=0), "computeMs of query 1 is 0 ms, which is not a duration"),
        (changed(1, computeMs=-1.5), "computeMs of query 1 is -1.5 ms, which is not a duration"),
        (changed(1, computeMs=1e300), "computeMs of query 1 is 1e+300 ms, which is not a duration"),
        (changed(3, latencyMs=0), "latencyMs of query 3 is 0 ms"),
        (changed(0, startComputeMs=-3), "startComputeMs of query 0 is -3 ms, which is not a time"),
        (changed(2, d2hMs=-0.1), "d2hMs of query 2 is -0.1 ms"),
        # planted faults: figures that somebody improved
        (changed(2, computeMs=1.2), "computeMs of query 2 is not from its start to its end"),
        (changed(2, latencyMs=1.2), "latencyMs of query 2 is not the sum of its parts"),
        (changed(2, endComputeMs=1e308), "computeMs of query 2 is not from its start to its end"),
    ],
)
def test_what_is_no_such_file_is_said_in_one_sentence(tmp_path: Path, content: object, sentence: str) -> None:
    assert sentence in refused(tmp_path / "times.json", content)


def test_nothing_but_warm_up_is_refused(tmp_path: Path) -> None:
    found = times.queries([1.5] * 20, begin_ms=1)
    assert "All queries of" in refused(tmp_path / "times.json", found)
    assert len(trtexec_times.read(tmp_path / "times.json", 0).compute_ns) == 20


def test_queries_of_several_streams_are_refused(tmp_path: Path) -> None:
    """Each of them takes longer, because the others compute meanwhile."""
    one, other = times.queries([3.0] * 50), times.queries([3.0] * 50, begin_ms=201.9)
    both = sorted(one + other, key=lambda query: query["startH2dMs"])
    assert "overlap on the GPU (300 ms of computing within 151 ms), as with --infStreams" in refused(
        tmp_path / "times.json", both
    )


def test_an_absent_file_and_a_folder(tmp_path: Path) -> None:
    for path in (tmp_path / "absent.json", tmp_path):
        with pytest.raises(UsageError, match=r"There is no file|cannot be read"):
            trtexec_times.read(path)


@pytest.mark.parametrize("target", ["/dev/zero", "pipe"])
def test_a_device_or_pipe_is_not_read(tmp_path: Path, target: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "times.json").symlink_to(tmp_path / target)
    with pytest.raises(UsageError, match="cannot be read: it is no regular file"):
        trtexec_times.read(tmp_path / "times.json")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "times.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(UsageError, match="cannot be read: it has 1099511627776 bytes"):
        trtexec_times.read(tmp_path / "times.json")


@pytest.mark.parametrize("name", ["x" * 5000, "x\0"])
def test_a_name_that_no_file_has(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        trtexec_times.read(tmp_path / name)


def test_a_date_beyond_all_calendars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = times.write(tmp_path / "times.json", times.queries([1.5] * 20))

    class Calendar:
        @staticmethod
        def fromtimestamp(*_: object) -> None:
            raise OverflowError("timestamp out of range for platform time_t")

    monkeypatch.setattr(trtexec_times, "datetime", Calendar)
    with pytest.raises(UsageError, match="beyond all calendars"):
        trtexec_times.read(path)


@given(content=mutated(times.text(times.queries([1.5, 1.6, 1.4])).encode()))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_changed_byte_is_more_than_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.json"
    path.write_bytes(content)
    try:
        trtexec_times.read(path)
    except FastViTBenchError as error:
        check_refusal(error)


LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
WHOLE = [dict(query) for query in times.queries([1.5, 1.6, 1.4])]


@given(
    number=st.integers(0, 2),
    name=st.sampled_from([*times.NOW, *times.NOW_TIMES, "inMs", "new"]),
    value=LEAVES | st.lists(LEAVES, max_size=2) | st.dictionaries(st.text(max_size=3), LEAVES, max_size=2),
    cut=st.none() | st.integers(0, 900),
)
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_file_is_more_than_refused(tmp_path: Path, number: int, name: str, value: object, cut: int | None) -> None:
    found = [dict(query) for query in WHOLE]
    document = json.dumps([query | {name: value} if at == number else query for at, query in enumerate(found)])
    path = tmp_path / "odd.json"
    path.write_text(document[:cut])
    try:
        read = trtexec_times.read(path)
    except UsageError as error:
        assert str(error).endswith(".")  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
    else:
        assert all(each > 0 for each in (*read.compute_ns, *read.latency_ns))
        assert math.isfinite(read.span_ms)


@given(st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3)))
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_json_is_more_than_refused(tmp_path: Path, document: object) -> None:
    refused(tmp_path / "odd.json", document)
