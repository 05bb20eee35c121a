"""Weight files of others on the command line: said what was taken and left aside, and chosen by --weights."""

from pathlib import Path

import pytest
import torch
from commands import call, refused

from fastvit_bench.network import checkpoint
from fastvit_bench.records import Head


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file with weights, their average and a counter, in the working directory."""
    monkeypatch.chdir(tmp_path)
    plain, averaged = (checkpoint.randomised("fastvit_t8", Head.CLASSIFIER, 2, seed)[0] for seed in (0, 1))
    torch.save({"state_dict": plain.state_dict(), "state_dict_ema": averaged.state_dict(), "epoch": 3}, "two.pth")
    return tmp_path / "two.pth"


@pytest.mark.slow
def test_a_wrong_entry_is_refused_with_those_there_are(two: Path) -> None:
    sentence = refused("fuse", "two.pth", "--weights", "model", "-o", "x.pth", expect=2)
    assert "whole ones are at: 'state_dict' (fastvit_t8), 'state_dict_ema' (fastvit_t8)" in sentence
    assert not Path("x.pth").exists()
    assert "name that file with --checkpoint" in refused("export", "-t", "onnx", "--weights", "ema", "-m", "fastvit_t8")


@pytest.mark.slow
def test_either_network_is_exported_and_what_was_taken_is_said(two: Path) -> None:
    words = ("export", "-t", "onnx", "-c", "two.pth", "--res", "32")
    usual = call(*words, "-o", "a.onnx")
    assert "at 'state_dict'; left aside: another fastvit_t8 at 'state_dict_ema' (--weights chooses)" in usual.stderr
    assert "1 other value (epoch)" in usual.stderr
    chosen = call(*words, "--weights", "state_dict_ema", "-o", "b.onnx")
    assert "at 'state_dict_ema'; left aside: another fastvit_t8 at 'state_dict'" in chosen.stderr
    assert Path("a.onnx").read_bytes() != Path("b.onnx").read_bytes()
    call("verify", "b.onnx", "-c", "two.pth")
    call("verify", "b.onnx", "-c", "two.pth", "--weights", "state_dict", expect=2)
