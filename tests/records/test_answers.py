"""Packed answers: read as they were written, and refused where they are none."""

import builders
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvit_bench.records import AccuracyChunk, answers


@given(st.lists(st.booleans(), max_size=200))
def test_answers_are_read_as_they_were_packed(right: list[bool]) -> None:
    text = answers.packed(right)
    assert list(answers.unpacked(text, len(right))) == right
    assert len(text) <= len(right) / 4 + 1


@pytest.mark.parametrize(("text", "count"), [("f", 5), ("ff", 4), ("g", 4), ("F", 4), ("1", 3), ("", 1), ("-1", 8)])
def test_other_texts_are_refused(text: str, count: int) -> None:
    with pytest.raises(ValueError, match="answers"):
        answers.unpacked(text, count)


def test_a_record_whose_answers_are_not_its_counts_cannot_be_read() -> None:
    whole = builders.tally(pictures=8, top1=3, top5=8, right="e0")
    assert msgspec.json.decode(msgspec.json.encode(whole), type=AccuracyChunk) == whole
    assert whole.answers == (True, True, True, *[False] * 5)
    edited = msgspec.json.encode(whole).replace(b'"e0"', b'"e1"')
    with pytest.raises(msgspec.ValidationError, match="answers"):
        msgspec.json.decode(edited, type=AccuracyChunk)
