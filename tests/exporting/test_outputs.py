"""An export replaces what this tool wrote; it never replaces its input, and others' files only when it is forced."""

import os
from pathlib import Path

import msgspec
import onnx
import pytest
import torch
from conftest import export_job
from onnx import numpy_helper

from fastvit_bench.errors import CheckpointError, UsageError
from fastvit_bench.exporting import checkpoints, metadata, pipeline
from fastvit_bench.network import checkpoint
from fastvit_bench.records import ExportJob, Fuse, Head, ModelSpec, Shape, Weights

pytestmark = pytest.mark.usefixtures("shallow")

SHAPE = Shape(batch=1, height=32, width=32)
FOREIGN = ["x.onnx", "x.onnx.json", "x.onnx.expected.npz", "x.onnx.rejected", "x.onnx.rejected.json"]


def job(folder: Path, name: str = "x.onnx") -> ExportJob:
    return msgspec.structs.replace(export_job(folder), path=str(folder / name))


@pytest.mark.slow
@pytest.mark.parametrize("name", [FOREIGN[0], *(pytest.param(name, marks=pytest.mark.slow) for name in FOREIGN[1:])])
def test_a_file_of_someone_else_is_replaced_only_by_force(name: str, tmp_path: Path) -> None:
    place = tmp_path / name
    place.write_bytes(b'{"mine": true}')
    with pytest.raises(UsageError, match=r"was not written by fastvit-bench.*--force") as caught:
        pipeline.export(job(tmp_path))
    assert str(place) in str(caught.value)
    assert place.read_bytes() == b'{"mine": true}'
    assert list(tmp_path.iterdir()) == [place]
    made = pipeline.export(msgspec.structs.replace(job(tmp_path), force=True))
    assert pipeline.cached(job(tmp_path)) == made


@pytest.mark.slow
def test_a_file_of_this_tool_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    made = pipeline.export(job(tmp_path))
    content = path.read_bytes()
    assert pipeline.export(job(tmp_path)) == made
    metadata.metadata_path(path).unlink()  # the file says itself who wrote it
    assert pipeline.export(job(tmp_path)) == made
    model = onnx.load(path)
    del model.metadata_props[:]
    onnx.save(model, path)
    with pytest.raises(UsageError, match="was not written by fastvit-bench"):  # and the side-car describes another
        pipeline.export(job(tmp_path))
    described = msgspec.structs.replace(made, sha256=pipeline.files.sha256(path))
    metadata.metadata_path(path).write_bytes(msgspec.json.encode(described))
    pipeline.export(job(tmp_path))
    assert path.read_bytes() == content


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
@pytest.mark.parametrize("name", ["x.onnx", "x.onnx.json", "x.onnx.rejected", "x.onnx.expected.npz"])
def test_what_is_no_file_is_never_replaced(kind: str, name: str, tmp_path: Path) -> None:
    place = tmp_path / name
    if kind == "folder":
        place.mkdir()
        (place / "notes").write_text("keep", encoding="utf-8")
    elif kind == "pipe":
        os.mkfifo(place)
    else:
        place.symlink_to("/dev/null")
    forced = (False, True) if name in {"x.onnx", "x.onnx.rejected"} or kind == "folder" else (False,)
    for force in forced:
        with pytest.raises(UsageError, match=r"\.$"):
            pipeline.export(msgspec.structs.replace(job(tmp_path), force=force))
    assert list(tmp_path.iterdir()) == [place]
    assert kind != "folder" or (place / "notes").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x.onnx", "x.onnx.json", "x.onnx.expected.npz", "x.onnx.rejected"])
@pytest.mark.parametrize("link", [False, True])
def test_the_input_is_never_replaced(name: str, link: bool, tmp_path: Path) -> None:
    source = tmp_path / ("w.pth.tar" if link else name)
    network, _ = checkpoint.randomised("fastvit_t8", Head.CLASSIFIER, 10, 3)
    torch.save({"state_dict": network.state_dict()}, source)
    if link:
        os.link(source, tmp_path / name)
    spec = ModelSpec(name="t8", variant="fastvit_t8", checkpoint=str(source))
    asked = msgspec.structs.replace(job(tmp_path), checkpoint=str(source), weights=checkpoints.weights_of(spec, 0))
    before = source.read_bytes()
    for force in (False, True):
        with pytest.raises(UsageError, match=r"is the file that is read"):
            pipeline.export(msgspec.structs.replace(asked, force=force))
    assert source.read_bytes() == before


def test_weights_beside_an_onnx_file_are_an_input_too(exported: Path, tmp_path: Path) -> None:
    model = onnx.load(export_job(exported).path)
    onnx.save(model, tmp_path / "theirs.onnx", save_as_external_data=True, location="x.onnx", size_threshold=0)
    spec = ModelSpec(name="theirs", variant="onnx", checkpoint=str(tmp_path / "theirs.onnx"))
    device = export_job(tmp_path).device
    asked = pipeline.job(
        spec, checkpoints.weights_of(spec, 0), SHAPE, Fuse.FOLDED, device, folder=tmp_path, path=tmp_path / "x.onnx"
    )
    before = (tmp_path / "x.onnx").read_bytes()
    with pytest.raises(UsageError, match="is the file that is read"):
        pipeline.export(msgspec.structs.replace(asked, force=True))
    assert (tmp_path / "x.onnx").read_bytes() == before
    assert numpy_helper.to_array(onnx.load(tmp_path / "theirs.onnx").graph.initializer[0]).size


@pytest.mark.parametrize("name", [".hidden.onnx", "a\x1b[31m.onnx", "x" * 5000 + ".onnx", "a:b.onnx"])
def test_names_that_no_side_car_may_have_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be the name of an exported file"):
        pipeline.export(job(tmp_path, name))


@pytest.mark.slow
def test_the_bytes_do_not_depend_on_the_folder(exported: Path, tmp_path: Path) -> None:
    made = pipeline.export(job(tmp_path, "another.onnx"))
    assert made.sha256 == metadata.read_artifact(Path(export_job(exported).path)).sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [made.path, made.path + ".json", made.path + ".expected.npz"]
    )


# --- checkpoints ------------------------------------------------------------------------------------------------------


def special(folder: Path) -> dict[str, Path]:
    os.mkfifo(folder / "pipe")
    (folder / "zero").symlink_to("/dev/zero")
    return {
        "pipe": folder / "pipe",
        "device": Path("/dev/zero"),
        "link": folder / "zero",
        "folder": folder,
        "NUL": folder / "a\0b",
        "long": folder / ("x" * 5000),
        "escapes": folder / "\x1b]0;PWN\x07",
    }


def test_what_is_no_checkpoint_is_one_sentence_at_once(tmp_path: Path) -> None:
    weights = Weights(origin="checkpoint", sha256="ab" * 32, file="pipe")
    for path in special(tmp_path).values():
        for look in (
            lambda path: checkpoints.weights_of(ModelSpec(name="a", variant="fastvit_t8", checkpoint=str(path)), 0),
            lambda path: checkpoints.find_checkpoint(weights, path, tmp_path),
        ):
            with pytest.raises(
                CheckpointError, match=r"cannot be read|does not exist|not a regular|is a folder"
            ) as caught:
                look(path)
            assert str(caught.value).isprintable()
            assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", ["pipe", "zero", "*", "../secret", "/etc/passwd", "", ".", "..", "\0", "a" * 5000])
def test_a_checkpoint_is_searched_by_its_name_alone(name: str, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"abc")
    (tmp_path / "models").mkdir()
    special(tmp_path / "models")
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of abc
    weights = Weights(origin="checkpoint", sha256=sha256, file=name)
    with pytest.raises(CheckpointError, match="name it with --checkpoint") as caught:
        checkpoints.find_checkpoint(weights, None, tmp_path / "models")
    assert str(caught.value).isprintable()
    inside = tmp_path / "models" / "a" / "w.pth"
    inside.parent.mkdir()
    inside.write_bytes(b"abc")
    assert checkpoints.find_checkpoint(msgspec.structs.replace(weights, file="w.pth"), None, tmp_path) == inside


def test_a_search_among_too_many_files_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "_MOST_FILES", 3)
    for index in range(4):
        (tmp_path / f"{index}").touch()
    with pytest.raises(CheckpointError, match="more than 3 files; name the checkpoint with --checkpoint"):
        checkpoints.find_checkpoint(Weights(origin="checkpoint", sha256="ab" * 32, file="w"), None, tmp_path)


def test_a_fixed_size_file_answers_at_its_size(exported: Path) -> None:
    spec = ModelSpec(name="theirs", variant="onnx", checkpoint=export_job(exported).path)
    assert spec.resolution == 256
    assert checkpoints.answers_of(spec, SHAPE) == (Head.CLASSIFIER, 1000)
    with pytest.raises(UsageError, match=r"takes images \(1, 3, 32, 32\)"):
        checkpoints.answers_of(spec, Shape(batch=1, height=64, width=64))
