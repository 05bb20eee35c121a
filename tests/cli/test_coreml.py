"""Core ML from the command line: export, verify, and what a machine that is no Mac says to timing."""

import re
import shutil
from pathlib import Path

import golden
import msgspec
import pytest
import torch
from commands import call, refused

from fastvit_bench.records import Artifact, Head

SIZE = "64"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the golden checkpoint and its package, made once. Read only."""
    folder = tmp_path_factory.mktemp("cli")
    torch.save({"state_dict": golden.state("fastvit_t8", Head.CLASSIFIER)}, folder / "golden.pth.tar")
    done = call("export", "--target", "coreml", "-c", "golden.pth.tar", "--res", SIZE, "-o", "out", "-v", cwd=folder)
    assert done.stdout == f"out/fastvit_t8_{SIZE}_b1.mlpackage\n"
    assert "proved against the unfused PyTorch network" in done.stderr
    assert "8-bit RGB pixels" in done.stderr
    assert "88 operations" in done.stderr
    return folder


@pytest.fixture
def here(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a copy of the package alone."""
    shutil.copytree(exported / f"out/fastvit_t8_{SIZE}_b1.mlpackage", tmp_path / "t8.mlpackage")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_the_side_car_holds_the_proof(exported: Path) -> None:
    notes = exported / f"out/fastvit_t8_{SIZE}_b1.mlpackage.json"
    made = msgspec.json.decode(notes.read_bytes(), type=Artifact)
    assert made.backend == "coreml"
    assert made.precision == "fp16"
    assert made.parity is not None
    assert made.parity.passed
    assert made.parity.tolerance == 2e-2
    assert made.weights.file == "golden.pth.tar"
    assert made.options == {"input": "image", "attention": "standard", "compress": "none"}


@pytest.mark.slow
def test_a_package_is_verified_with_its_checkpoint(here: Path, exported: Path) -> None:
    done = call("verify", "t8.mlpackage", "-c", str(exported / "golden.pth.tar"))
    assert re.fullmatch(r"t8\.mlpackage: proved \d\.\de-\d\d ≤ 2e-02\n", done.stdout)


@pytest.mark.slow
def test_the_checkpoint_is_found_in_the_models_folder(here: Path, exported: Path) -> None:
    assert "is not in models/; name it with --checkpoint" in refused("verify", "t8.mlpackage")
    Path("models/fastvit_t8").mkdir(parents=True)
    shutil.copy(exported / "golden.pth.tar", "models/fastvit_t8")
    assert "proved" in call("verify", "t8.mlpackage").stdout


@pytest.mark.slow
def test_another_checkpoint_is_no_reference(here: Path) -> None:
    Path("other.pth.tar").write_bytes(b"other")
    assert "is not the checkpoint the file was made from" in refused("verify", "t8.mlpackage", "-c", "other.pth.tar")


@pytest.mark.slow
def test_a_changed_package_is_exit_5(here: Path, exported: Path) -> None:
    weights = Path("t8.mlpackage/Data/com.apple.CoreML/weights/weight.bin")
    content = bytearray(weights.read_bytes())
    content[-1000] ^= 0x10
    weights.write_bytes(content)
    assert "was changed" in refused("verify", "t8.mlpackage", expect=5)
    weights.write_bytes(content[:5000])
    assert "cannot load t8.mlpackage" in refused("verify", "t8.mlpackage", expect=5)


@pytest.mark.slow
def test_a_changed_package_is_not_its_side_cars(here: Path, exported: Path) -> None:
    shutil.copy(exported / f"out/fastvit_t8_{SIZE}_b1.mlpackage.json", "t8.mlpackage.json")
    Path("t8.mlpackage/stray").write_text("", encoding="utf-8")
    said = refused("verify", "t8.mlpackage", "-c", str(exported / "golden.pth.tar"), expect=5)
    assert "is not the file that t8.mlpackage.json describes" in said


@pytest.mark.slow
def test_any_exported_file_is_verified(here: Path) -> None:
    call("export", "-t", "onnx", "-m", "fastvit_t8", "--res", SIZE, "-o", "t8.onnx")
    assert re.fullmatch(r"t8\.onnx: proved \d\.\de-\d\d ≤ 1e-04\n", call("verify", "t8.onnx").stdout)
    assert "top-1 agreement" in call("verify", "t8.onnx", "-v").stdout
    Path("t8.onnx.json").unlink()
    assert "leave the checkpoint out" in refused("verify", "t8.onnx", "-c", "any")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["-t", "onnx", "--attention", "conv"], "--attention means nothing for --target onnx"),
        (["-t", "onnx", "--multifunction"], "--multifunction means nothing for --target onnx"),
        (["-t", "coreml", "--input", "photo"], "input = 'photo' must be image or tensor"),
        (["-t", "coreml", "--batch", "2", "--input", "image"], "one by one"),
        (["-t", "coreml", "--multifunction", "--res", "64"], "puts several sizes into one file"),
        (["-t", "coreml", "--res", "64,96", "-o", "one.mlpackage"], "several sizes or targets make several"),
        (["-t", "coreml", "--precision", "int8"], "exports fp16 or fp32 or w8a8, not int8"),
        (["-t", "coreml", "--classifier", "absent.txt"], "cannot be read"),
        (["-t", "coreml", "--classifier", "twice.txt"], "names the class 'cat' twice"),
        (["-t", "coreml", "--classifier", "gap.txt"], "line 2 holds no class name"),
    ],
)
def test_wrong_wishes_are_one_sentence(words: list[str], sentence: str, here: Path) -> None:
    Path("twice.txt").write_text("cat\ndog\ncat\n", encoding="utf-8")
    Path("gap.txt").write_text("cat\n\ndog\n", encoding="utf-8")
    assert sentence in refused("export", *words)
    assert sorted(path.name for path in here.iterdir()) == ["gap.txt", "t8.mlpackage", "twice.txt"]


@pytest.mark.slow
def test_forms_of_a_network_have_names_of_their_own(here: Path) -> None:
    export = ("export", "-t", "coreml", "--res", "32", "-o", "out")
    for words in ([], ["--precision", "fp32", "--input", "tensor"], ["--fuse", "fused"]):
        call(*export, *words)
    names = sorted(path.stem for path in Path("out").glob("*.mlpackage"))
    assert names == ["fastvit_t8_32_b1", "fastvit_t8_32_b1_fp32_tensor", "fastvit_t8_32_b1_fused"]


def test_what_lies_in_the_way_stays(here: Path) -> None:
    Path("t8.mlpackage/mine").write_text("keep", encoding="utf-8")
    said = call("export", "-t", "coreml", "--res", SIZE, "-o", "t8.mlpackage", expect=2).stderr
    assert "files that were not written by fastvit-bench" in said
    assert Path("t8.mlpackage/mine").read_text(encoding="utf-8") == "keep"


@pytest.mark.parametrize("device", ["mac", "iphone12pro"])
def test_timing_needs_apple_hardware_and_says_the_way_out(device: str, here: Path) -> None:
    said = refused("latency", "--device", device, expect=6)
    assert f"fastvit-bench import FILE.mlperf --device {device}" in said
    assert "export here" in said
