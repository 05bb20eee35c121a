"""Side-cars and metadata of files: whatever stands in them, the answer is one sentence or a new export."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import builders
import msgspec
import onnx
import pytest
from commands import refused
from conftest import export_job
from hypothesis import given
from hypothesis import strategies as st

from fastvit_bench import backends
from fastvit_bench.errors import FastViTBenchError, UsageError
from fastvit_bench.exporting import metadata, pipeline
from fastvit_bench.records import Artifact, Shape

PLAIN = builders.artifact(path="x.onnx")


def changed(**fields: Any) -> bytes:
    """A side-car with other values, which may be those of no artifact."""
    return msgspec.json.encode({**msgspec.to_builtins(PLAIN), **fields})


DAMAGED = {
    "empty": b"",
    "no JSON": b"{",
    "no UTF-8": changed().replace(b"fastvit_t8", b"fast\xffit_t8"),
    "deep": b"[" * 100_000,
    "deep inside": changed().replace(b'"options":{}', b'"options":{"a":' + b"[" * 100_000 + b"}"),
    "a huge number": changed().replace(b'"classes":1000', b'"classes":' + b"9" * 5000),
    "a huge float": changed().replace(b"1e-05", b"1e400").replace(b"0.00001", b"1e400"),
    "many classes": changed(classes=2**50),
    "a negative size": changed(size_bytes=-1),
    "a huge shape": changed(shape={"batch": 1, "height": 10**9, "width": 10**9}),
    "no shape": changed(shape={"batch": 0, "height": 0, "width": 0}),
    "a huge batch": changed(shape={"batch": 65_536, "height": 16_384, "width": 16_384}),
    "beyond 64 bits": changed(shape={"batch": 2**70, "height": 32, "width": 32}),
    "many functions": changed(functions=[{"batch": 1, "height": 32, "width": 32}] * 101),
    "a file elsewhere": changed(path="../x.onnx"),
    "an unknown field": changed(**{"run\x1b]0;PWN\x07": 1}),
}


def folder_with(folder: Path, content: bytes) -> Path:
    (folder / "x.onnx.json").write_bytes(content)
    return folder / "x.onnx"


def test_a_side_car_is_read(tmp_path: Path) -> None:
    assert metadata.read_artifact(folder_with(tmp_path, changed())) == PLAIN
    rejected = msgspec.structs.replace(PLAIN, path="x.onnx.rejected")
    (tmp_path / "x.onnx.rejected.json").write_bytes(msgspec.json.encode(rejected))
    assert metadata.read_artifact(tmp_path / "x.onnx.rejected") == rejected
    folder_with(tmp_path, changed(path="y.onnx"))  # renamed together with its file
    assert metadata.read_artifact(tmp_path / "x.onnx") == PLAIN


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_side_car_is_one_sentence(damage: str, tmp_path: Path) -> None:
    path = folder_with(tmp_path, DAMAGED[damage])
    with pytest.raises(UsageError, match=r"x\.onnx\.json .*\.$") as caught:
        metadata.read_artifact(path)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "device", "long"])
def test_what_is_no_side_car_is_one_sentence(kind: str, tmp_path: Path) -> None:
    path = tmp_path / ("x" * 5000 if kind == "long" else "x.onnx")
    notes = metadata.metadata_path(path)
    if kind == "folder":
        notes.mkdir()
    elif kind == "pipe":
        os.mkfifo(notes)
    elif kind == "device":
        notes.symlink_to("/dev/zero")
    with pytest.raises(UsageError, match=r"\.$"):
        metadata.read_artifact(path)


@given(st.data())
def test_no_change_of_a_side_car_is_more_than_a_sentence(tmp_path_factory: Any, data: st.DataObject) -> None:
    content = bytearray(changed())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = folder_with(tmp_path_factory.getbasetemp(), bytes(content))
    try:
        said = metadata.read_artifact(path).key
    except UsageError as error:
        said = str(error)
    assert said.isprintable()


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_side_car_means_a_new_export(damage: str, exported: Path, tmp_path: Path) -> None:
    source = Path(export_job(exported).path)
    job = msgspec.structs.replace(export_job(exported), path=str(tmp_path / "x.onnx"))
    os.link(source, job.path)
    os.link(metadata.reference_outputs_path(source), metadata.reference_outputs_path(Path(job.path)))
    artifact = msgspec.structs.replace(metadata.read_artifact(source), path="x.onnx")
    folder_with(tmp_path, msgspec.json.encode(artifact))
    assert pipeline.cached(job) == artifact
    folder_with(tmp_path, DAMAGED[damage])
    assert pipeline.cached(job) is None
    assert "x.onnx.json" in refused("verify", job.path)


def test_a_damaged_side_car_hides_no_other_one(exported: Path, tmp_path: Path) -> None:
    source = Path(export_job(exported).path)
    known = metadata.read_artifact(source)
    for index, content in enumerate(DAMAGED.values()):
        folder = tmp_path / f"m{index}"
        folder.mkdir()
        (folder / source.name).with_suffix(".onnx.json").write_bytes(content)
    backend = backends.get("onnxruntime")
    described = metadata.recognise(backend.metadata(source), backend.name, tmp_path)
    assert described is not None
    assert (described.key, described.sha256) == (known.key, None)
    (tmp_path / "zoo").mkdir()
    (tmp_path / "zoo" / f"{source.name}.json").write_bytes(msgspec.json.encode(known))
    assert metadata.recognise(backend.metadata(source), backend.name, tmp_path) == known


# --- metadata in files ------------------------------------------------------------------------------------------------

CHECKPOINT = {"weights": "checkpoint", "checkpoint_sha256": "ab" * 32, "checkpoint_file": "w.pth", "seed": None}
HOSTILE: dict[str, tuple[dict[str, str | None], str]] = {
    "a checkpoint elsewhere": ({**CHECKPOINT, "checkpoint_file": "/etc/passwd"}, "is not in "),
    "a pattern": ({**CHECKPOINT, "checkpoint_file": "../../../etc/pass*"}, "is not in "),
    "a long name": ({**CHECKPOINT, "checkpoint_file": "x" * 3000}, "name no checkpoint"),
    "escapes": ({**CHECKPOINT, "checkpoint_file": "\x1b]0;PWNED\x07"}, "name no checkpoint"),
    "no name": ({**CHECKPOINT, "checkpoint_file": None}, "name no checkpoint"),
    "no hash": ({**CHECKPOINT, "checkpoint_sha256": None}, "name no checkpoint"),
    "no seed": ({"seed": None}, "no seed"),
    "a long seed": ({"seed": "9" * 5000}, "is not what fastvit-bench writes"),
    "an ONNX file": ({"variant": "onnx"}, "an ONNX file has no random weights"),
    "no network": ({"variant": "fastvit_t9"}, "there is no network 'fastvit_t9'"),
    "a network with escapes": ({"variant": "\x1b[31m"}, "its variant is no text"),
    "a huge network": ({"variant": "x" * 10**5}, "its variant is no text"),
    "a size": ({"resolution": str(10**9)}, "are impossible"),
    "an odd size": ({"resolution": "33"}, "is not a multiple of 32"),
    "half a size": ({"resolution": "32x"}, ""),
    "a batch": ({"batch": str(2**50)}, "are impossible"),
    "a batch of large images": ({"batch": "65536", "resolution": "16384"}, "are too large"),
    "classes": ({"classes": str(2**50)}, "classes, and at most"),
    "no classes": ({"classes": "0"}, "at least one class"),
    "a precision": ({"precision": "../x"}, "has fp32 and fp16"),
    "a fuse level": ({"fused": "twice"}, "is not what fastvit-bench writes"),
    "a head": ({"head": "tail"}, "is not what fastvit-bench writes"),
    "options": ({"options": "[" * 100_000}, "is not what fastvit-bench writes"),
    "a compression": ({"options": '{"compress": "x"}'}, ""),
    "many shapes": ({"functions": "32 " * 1000}, "1001 shapes"),
}


def rewritten(exported: Path, folder: Path, entries: dict[str, str | None]) -> Path:
    """A copy of an exported file, without its side-car, whose metadata say something else."""
    model = onnx.load(export_job(exported).path)
    noted = {entry.key: entry.value for entry in model.metadata_props}
    noted |= {f"fastvit_bench.{name}": value for name, value in entries.items()}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, {name: value for name, value in noted.items() if value is not None})
    onnx.save(model, folder / "theirs.onnx")
    return folder / "theirs.onnx"


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_file_says_of_itself_is_a_strangers_word(name: str, exported: Path, tmp_path: Path) -> None:
    entries, reason = HOSTILE[name]
    path = rewritten(exported, tmp_path, entries)
    models = tmp_path / "models"
    models.mkdir()
    if not reason:  # as good as before
        assert all(proof.passed for proof in pipeline.verify(path, None, models).values())
        return
    with pytest.raises(UsageError, match=reason) as caught:
        pipeline.verify(path, None, models)
    sentence = str(caught.value)
    assert len(sentence) < 1000
    assert sentence.isprintable()
    assert sentence.endswith(".")
    assert sentence in refused("verify", str(path)).replace("models/", f"{models}/") or "is not in" in reason


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize(
    "damage",
    [
        lambda graph: graph.node[0].input.__setitem__(0, "gone"),
        lambda graph: graph.input[0].CopyFrom(onnx.helper.make_tensor_value_info("image", onnx.TensorProto.INT64, [1])),
        lambda graph: graph.input.pop(),
        lambda graph: graph.output.pop(),
        lambda graph: graph.node.pop(),
        lambda graph: graph.initializer.pop(),
    ],
)
def test_a_file_that_cannot_be_run_is_one_sentence(
    damage: Callable[[onnx.GraphProto], Any], exported: Path, tmp_path: Path
) -> None:
    path = rewritten(exported, tmp_path, {})
    model = onnx.load(path)
    damage(model.graph)
    onnx.save(model, path)
    with pytest.raises(FastViTBenchError, match=r"\.$") as caught:
        pipeline.verify(path, None, tmp_path)
    assert str(caught.value).isprintable()


def test_sizes_that_files_are_exported_for_are_plausible() -> None:
    largest = [Shape(batch=1, height=16_384, width=16_384), Shape(batch=65_536, height=160, width=192)]
    metadata.require_plausible(largest, 21_843)
    assert msgspec.json.decode(changed(), type=Artifact) == PLAIN


@pytest.mark.parametrize("name", ["pipe", "device", "folder", "long", "NUL"])
def test_what_is_no_exported_file_is_one_sentence(name: str, tmp_path: Path) -> None:
    path = tmp_path / {"long": "x" * 5000 + ".onnx", "NUL": "a\0.onnx"}.get(name, "x.onnx")
    if name == "pipe":
        os.mkfifo(path)
    elif name == "device":
        path.symlink_to("/dev/zero")
    elif name == "folder":
        path.mkdir()
    with pytest.raises(FastViTBenchError, match=r"\.$") as caught:
        pipeline.verify(path, None, tmp_path)
    assert str(caught.value).isprintable()
