"""Small changes to the bytes of a valid file: flipped, cut, removed, inserted, repeated; for tests of its readers."""

from hypothesis import strategies as st

from fastvit_bench.errors import FastViTBenchError

# values that readers of lengths, depths and texts stumble over
ODD = (
    b"\0",
    b"\xff",
    b"\xff\xff\xff\x7f",
    b"\xff" * 8,
    b"[" * 2000,
    b"9" * 5000,
    b"1e999",
    b"\n",
    b"\x1b[31m",
    b"\r\n",
)

Edit = tuple[str, float, bytes]  # kind, place as a share of the length, and bytes for it

EDITS = st.tuples(
    st.sampled_from(["flip", "cut", "remove", "insert", "replace", "repeat"]),
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(ODD) | st.binary(min_size=1, max_size=8),
)


def mutated(data: bytes) -> st.SearchStrategy[bytes]:
    """Draw a changed version of a file's content, with one to four changes."""
    return st.lists(EDITS, min_size=1, max_size=4).map(lambda edits: changed(data, edits))


def changed(data: bytes, edits: list[Edit]) -> bytes:
    """Return the content after all changes."""
    for kind, share, value in edits:
        place = int(share * len(data))
        before, behind = data[:place], data[place:]
        match kind:
            case "flip":
                data = before + bytes(byte ^ value[0] for byte in behind[:1]) + behind[1:]
            case "cut":
                data = before
            case "remove":
                data = before + behind[len(value) :]
            case "insert":
                data = before + value + behind
            case "replace":
                data = before + value + behind[len(value) :]
            case _:
                data = before + behind[:64] * 2 + behind[64:]
    return data


def check_refusal(error: FastViTBenchError) -> None:
    """Assert that an error is one printable sentence of a readable length."""
    sentence = str(error)
    assert sentence.isprintable(), sentence
    assert sentence.endswith("."), sentence
    assert len(sentence) < 3000, sentence
