"""Core AI from the command line: what a bare installation says, and what Linux says to timing."""

import json
import sys
from pathlib import Path

import pytest
from commands import call, refused

from fastvit_bench import backends

INSTALLED = backends.get("coreai").unavailable_reason() is None
needs_packages = pytest.mark.skipif(not INSTALLED, reason="Apple's packages are not installed")


@pytest.mark.skipif(INSTALLED, reason="Apple's packages are installed")
@pytest.mark.parametrize(
    "words", [("export", "-t", "coreai"), ("export", "-t", "coreml,coreai"), ("latency", "--device", "mac-coreai")]
)
def test_a_bare_installation_names_the_extra(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    sentence = refused(*words, "-m", "fastvit_t8", "--res", "32", expect=6)
    assert "coreai-torch is not installed; run:" in sentence
    assert "[coreai]" in sentence
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(INSTALLED, reason="Apple's packages are installed")
def test_core_ml_in_8_bits_names_the_extra_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("export", "-t", "coreml", "-m", "fastvit_t8", "--precision", "w8a8", "--calibration", ".")
    sentence = refused(*words, expect=6)
    assert "coreai-opt is not installed, and w8a8 needs it; run:" in sentence
    assert "[coreai]" in sentence
    assert list(tmp_path.iterdir()) == []


@needs_packages
@pytest.mark.slow
def test_both_of_apples_formats_are_written_by_one_command_and_set_side_by_side(tmp_path: Path) -> None:
    from PIL import Image

    for number in range(2):
        Image.radial_gradient("L").rotate(40 * number).convert("RGB").save(tmp_path / f"{number}.png")
    words = ("export", "-t", "coreml,coreai", "-m", "fastvit_t8", "--res", "32", "-o", "out/")
    done = call(*words, "--precision", "w8a8", "--calibration", ".", cwd=tmp_path)
    name = "out/fastvit_t8_32_b1_w8a8"
    assert done.stdout.splitlines() == [f"{name}.mlpackage", f"{name}.aimodel"]
    rows = [line.split() for line in done.stderr.splitlines() if line.startswith(("coreml  ", "coreai  "))]
    assert [row[:2] for row in rows] == [["coreml", "w8a8"], ["coreai", "w8a8"]]
    notes = json.loads((tmp_path / f"{name}.mlpackage.json").read_bytes())
    assert notes["proofs"]["own rounded network"]["max_abs_error"] == 0  # bit for bit
    assert notes["quantisation"]["integer"]["conv2d"] == 52
    assert "own rounded network, FP16" in call("verify", f"{name}.mlpackage", cwd=tmp_path).stdout


@needs_packages
@pytest.mark.skipif(sys.platform == "darwin", reason="a Mac may time it")
def test_the_interpreter_is_never_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sentence = refused("latency", "--device", "mac-coreai", "-m", "fastvit_t8", "--res", "32", expect=6)
    assert "reference interpreter, which proves a file and says nothing about its speed" in sentence
    assert list(tmp_path.iterdir()) == []


@needs_packages
@pytest.mark.slow
def test_an_asset_is_proved_again_and_a_changed_one_is_not(tmp_path: Path) -> None:
    words = ("export", "-t", "coreai", "-m", "fastvit_t8", "--res", "32", "--precision", "fp32", "-v")
    done = call(*words, "-o", "a.aimodel", cwd=tmp_path)
    assert done.stdout == "a.aimodel\n"
    assert "Apple's Core AI runtime on this machine" in done.stderr
    assert "ODIE" not in done.stderr
    notes = json.loads((tmp_path / "a.aimodel.json").read_bytes())
    assert notes["operations"]["conv2d"] == 53  # the classifier among them
    call(*words, "-o", "again.aimodel", cwd=tmp_path)
    for name in ("main.mlirb", "main.hash", "metadata.json"):
        assert (tmp_path / "a.aimodel" / name).read_bytes() == (tmp_path / "again.aimodel" / name).read_bytes()
    assert "a.aimodel: proved" in call("verify", "a.aimodel", cwd=tmp_path).stdout
    program = tmp_path / "a.aimodel" / "main.mlirb"
    content = bytearray(program.read_bytes())
    content[-1000] ^= 0x10
    program.write_bytes(content)
    assert "was changed" in call("verify", "a.aimodel", cwd=tmp_path, expect=5).stderr
