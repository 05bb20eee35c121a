"""Numbers and names as people read them."""

import io
import re

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fastvit_bench.render import terminal
from fastvit_bench.render.table import Column, Table, TableReport
from fastvit_bench.render.text import by_kind


def test_reasons_that_differ_in_numbers_alone_are_one() -> None:
    reasons = {
        "the machine ran at 0.94 of its best": ["t8 256"],
        "not steady: second half of the runs +12 %": ["t8 256", "t8 512"],
        "the machine ran at 0.62 of its best": ["s12 256", "t8 256"],
        "not steady: second half of the runs -7 %": ["s12 512"],
        "no interval": ["s12 224"],
    }
    assert by_kind(reasons) == {
        "the machine ran at 0.62 to 0.94 of its best": ["t8 256", "s12 256"],
        "not steady: second half of the runs -7 to +12 %": ["t8 256", "t8 512", "s12 512"],
        "no interval": ["s12 224"],
    }


@given(
    st.dictionaries(
        st.text(st.sampled_from("ab 1.-+%"), max_size=12), st.lists(st.sampled_from("xyz"), min_size=1, max_size=3)
    )
)
def test_no_cell_is_lost_and_words_stay(reasons: dict[str, list[str]]) -> None:
    merged = by_kind(reasons)
    assert {name for names in merged.values() for name in names} == {n for names in reasons.values() for n in names}
    assert len(merged) <= len(reasons)

    def words(text: str) -> str:
        return re.sub(r"[+-]?\d+(?:\.\d+)?( to [+-]?\d+(?:\.\d+)?)?", "0", text)

    assert {words(text) for text in merged} == {words(text) for text in reasons}


def test_punctuation_stays_at_the_interval_that_it_follows() -> None:
    texts = ["11.5 % [11.4, 12.5]: in the same direction.", "fits [1, 2], [3, 4]"]
    table = Table(texts, [Column("words", "words", lambda text: text, wraps=True, role="key")])
    console = Console(width=24, file=io.StringIO(), record=True)
    console.print(terminal.report(TableReport([table]), 24))
    words = " ".join(console.export_text().split())
    assert all(text in words for text in texts)
