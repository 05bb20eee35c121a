"""The interpreter's process, with a stand-in for Apple's runtime: what it prints, and how it fails."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from fastvit_bench.backends import Images, get
from fastvit_bench.backends.coreai import asset, interpreter
from fastvit_bench.errors import UnavailableError, UsageError

TENSOR, PIXELS = "NDArray (Float16, 2 × 3 × 4 × 5)", "NDArray (UInt8, 1 × 4 × 5 × 3)"


def stored(folder: Path, **document: str) -> Path:
    path = folder / "net.aimodel"
    path.mkdir()
    (path / asset.PROGRAM).write_text(json.dumps({"input": TENSOR, **document}), encoding="utf-8")
    return path


@pytest.fixture
def session(tmp_path: Path, fake_runtime: None) -> Iterator[interpreter.InterpretedSession]:
    with interpreter.interpreted(stored(tmp_path)) as opened:
        yield opened


def test_noise_of_the_runtime_is_no_reply_and_reaches_nobody(
    session: interpreter.InterpretedSession, capfd: pytest.CaptureFixture[str]
) -> None:
    images = np.random.default_rng(0).standard_normal((2, 3, 4, 5), np.float32)
    assert session.images is Images.TENSOR
    for scale in (1, 3):
        session.set_input(images * scale)
        session.run()
        session.wait()
        logits = session.get_output()["logits"]
        assert logits.dtype == np.float16
        np.testing.assert_allclose(logits[:, 0], scale * images.mean((1, 2, 3)), atol=2e-3)
    assert capfd.readouterr() == ("", "")


def test_a_batch_of_another_shape_is_refused(session: interpreter.InterpretedSession) -> None:
    with pytest.raises(UsageError, match=r"takes image of shape \[2, 3, 4, 5\], not \[1, 3, 4, 5\]"):
        session.set_input(np.zeros((1, 3, 4, 5), np.float32))


def test_pixels_are_known_by_their_type(tmp_path: Path, fake_runtime: None) -> None:
    with interpreter.interpreted(stored(tmp_path, input=PIXELS)) as session:
        assert session.images is Images.PIXELS


def test_operations_are_counted_without_constants(tmp_path: Path, fake_runtime: None) -> None:
    assert get("coreai").operations(stored(tmp_path)) == {"broadcasting_add": 1, "conv2d": 2}


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("raise", "no kernel for conv2d"), ("crash", "its process ended with code 70: assertion failed in native code")],
)
def test_a_failure_of_the_runtime_is_one_sentence(fault: str, reason: str, tmp_path: Path, fake_runtime: None) -> None:
    with interpreter.interpreted(stored(tmp_path, fault=fault)) as session:
        session.set_input(np.zeros((2, 3, 4, 5), np.float32))
        with pytest.raises(UnavailableError, match=rf"^Apple's Core AI runtime cannot load net\.aimodel: {reason}\.$"):
            session.run()


def test_a_damaged_program_is_one_sentence(tmp_path: Path, fake_runtime: None) -> None:
    path = stored(tmp_path)
    (path / asset.PROGRAM).write_bytes(b"no program")
    with pytest.raises(UnavailableError, match=r"^Apple's Core AI runtime cannot load net\.aimodel: Expecting value"):
        get("coreai").operations(path)


@pytest.mark.parametrize(
    ("text", "shape", "kind"), [(TENSOR, [2, 3, 4, 5], "float16"), (PIXELS, [1, 4, 5, 3], "uint8")]
)
def test_apple_s_words_for_a_type(text: str, shape: list[int], kind: str) -> None:
    assert interpreter.parsed_type(text) == (shape, kind)
