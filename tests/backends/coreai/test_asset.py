"""The metadata of an asset: what is written is read again, and what was changed is noticed."""

import contextlib
import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvit_bench.backends.coreai import asset
from fastvit_bench.errors import ChecksumError, FastViTBenchError, UnavailableError

TEXTS = {"author": "somebody", "description": "a network", "license": "MIT"}


def written(folder: Path, program: bytes = b"a program") -> Path:
    """An asset as Apple's writer leaves it, then sealed."""
    path = folder / "net.aimodel"
    path.mkdir()
    (path / asset.PROGRAM).write_bytes(program)
    (path / asset.HASH).write_bytes(hashlib.sha256(program).digest())
    stamped = {"producer": "coreai-core 1", "creationDate": str(os.urandom(4)), "assetVersion": "2.0"}
    (path / asset.METADATA).write_text(json.dumps(stamped), encoding="utf-8")
    asset.seal(path, TEXTS, {"fastvit_bench.variant": "tiny"})
    return path


def test_what_was_written_is_read(tmp_path: Path) -> None:
    assert asset.metadata(written(tmp_path))["fastvit_bench.variant"] == "tiny"


def test_no_date_and_no_order_by_chance_remain(tmp_path: Path) -> None:
    contents: set[bytes] = set()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        contents.add((written(tmp_path / name) / asset.METADATA).read_bytes())
    (content,) = contents
    assert b"creationDate" not in content
    assert json.loads(content)["producer"] == "coreai-core 1"


@pytest.mark.parametrize("name", [asset.PROGRAM, asset.HASH])
def test_a_changed_byte_is_noticed(name: str, tmp_path: Path) -> None:
    path = written(tmp_path)
    content = bytearray((path / name).read_bytes())
    content[3] ^= 1
    (path / name).write_bytes(content)
    with pytest.raises(ChecksumError, match="was changed"):
        asset.metadata(path)


def test_a_program_that_is_gone_is_one_sentence(tmp_path: Path) -> None:
    path = written(tmp_path)
    (path / asset.PROGRAM).unlink()
    with pytest.raises(UnavailableError, match=r"cannot load net\.aimodel: No such file"):
        asset.metadata(path)


@pytest.mark.parametrize("text", ["", "[]", "3", '{"creatorDefinedMetadata": 3}', "[" * 100_000, "\0", "NaN"])
def test_metadata_of_another_form_are_one_sentence(text: str, tmp_path: Path) -> None:
    path = written(tmp_path)
    (path / asset.METADATA).write_text(text, encoding="utf-8")
    with pytest.raises(UnavailableError, match=r"cannot load net\.aimodel") as caught:
        asset.metadata(path)
    assert "\n" not in str(caught.value)


@given(content=st.binary(max_size=60))
def test_any_metadata_are_read_or_refused(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.aimodel"
    path.mkdir(exist_ok=True)
    (path / asset.METADATA).write_bytes(content)
    with contextlib.suppress(FastViTBenchError):
        assert isinstance(asset.metadata(path), dict)
