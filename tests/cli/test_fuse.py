"""Fusing a file never costs a file: neither the checkpoint that is read, nor one that this tool did not write."""

import os
from pathlib import Path

import pytest
import torch
from commands import refused

from fastvit_bench.errors import UsageError
from fastvit_bench.exporting import fuse_file
from fastvit_bench.network import checkpoint
from fastvit_bench.network.fastvit import Form
from fastvit_bench.records import Head


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint as training leaves it, in the working directory."""
    monkeypatch.chdir(tmp_path)
    network, _ = checkpoint.randomised("fastvit_t8", Head.CLASSIFIER, 2, 0)
    torch.save({"epoch": 3, "optimizer": [1.0], "state_dict": network.state_dict()}, "train.pth.tar")
    return tmp_path / "train.pth.tar"


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks are compared without computing anything."""
    from fastvit_bench.exporting import verification

    monkeypatch.setattr(verification, "difference", lambda *_: 0.0)


@pytest.mark.slow
@pytest.mark.parametrize("force", [(), ("--force",)])
def test_the_checkpoint_itself_is_never_replaced(trained: Path, force: tuple[str, ...]) -> None:
    before = trained.read_bytes()
    os.link("train.pth.tar", "hard.pth.tar")
    Path("soft.pth.tar").symlink_to("train.pth.tar")
    Path("folder").mkdir()
    names = ["train.pth.tar", str(trained), "folder/../train.pth.tar", "hard.pth.tar", "soft.pth.tar"]
    for name in names if not force else names[:1]:
        assert "is the file that is read; name another output with -o" in refused(
            "fuse", "train.pth.tar", "-o", name, *force
        )
    assert "is the file that is read" in refused("fuse", "soft.pth.tar", "-o", "train.pth.tar", *force)
    assert trained.read_bytes() == before


@pytest.mark.slow
@pytest.mark.usefixtures("shallow", "quick")
def test_a_file_of_others_is_replaced_by_force_only(tmp_path: Path) -> None:
    network, _ = checkpoint.randomised("fastvit_t8", Head.CLASSIFIER, 2, 0)
    source = tmp_path / "train.pth.tar"
    torch.save({"state_dict": network.state_dict()}, source)
    for name in ("out.pth.tar", "out.safetensors"):
        output = tmp_path / name
        output.write_bytes(b"precious, and it says fastvit_bench")
        with pytest.raises(UsageError, match="exists and was not written by fastvit-bench"):
            fuse_file.fuse_file(source, output)
        assert output.read_bytes().startswith(b"precious")
        fuse_file.fuse_file(source, output, force=True)
        fuse_file.fuse_file(source, output)  # its own output is replaced without a word
        assert checkpoint.load(output).form is Form.FUSED
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.pth.tar", "out.safetensors", "train.pth.tar"]


def test_a_training_file_of_others_is_kept(trained: Path) -> None:
    before = trained.read_bytes()
    Path("other.pth.tar").write_bytes(before)
    assert "exists and was not written by fastvit-bench" in refused("fuse", "other.pth.tar", "-o", "train.pth.tar")
    assert trained.read_bytes() == before


@pytest.mark.usefixtures("trained")
def test_outputs_that_cannot_be_are_refused_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    def work(*_: object) -> None:
        raise AssertionError("the checkpoint is read")

    monkeypatch.setattr(checkpoint, "load", work)
    source = Path("train.pth.tar")
    checkpoint.record_sha256(Path("fetched.pth.tar"), "0" * 64)
    Path("folder.pth.tar").mkdir()
    os.mkfifo("pipe.pth.tar")
    for name, part in {
        "fetched.pth.tar": "it is a fetched checkpoint",
        "folder.pth.tar": "it is a folder",
        "pipe.pth.tar": "cannot be replaced",
        "x.onnx": "its name must end in",
        "train.pth.tar/x.pth.tar": "cannot be written",
        "x" * 5000 + ".pth": "cannot be written",
        "x\0.pth": "cannot be written",
    }.items():
        with pytest.raises(UsageError, match=part):
            fuse_file.fuse_file(source, Path(name))
    with pytest.raises(UsageError, match="it is a fetched checkpoint"):
        fuse_file.fuse_file(source, Path("fetched.pth.tar"), force=True)
