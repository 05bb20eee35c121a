"""Command `verify` on files of others."""

import json
from pathlib import Path
from types import ModuleType

import onnx
import pytest
import torch
from commands import call, refused
from onnx import helper
from strangers import CLASSES, Changed, timms

from fastvit_bench import options
from fastvit_bench.cli import verify
from fastvit_bench.records import Head, Shape, Weights
from fastvit_bench.records.audit import Audit

IMAGES = (1, 3, 64, 64)


@pytest.fixture(scope="module")
def place(timm: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of FastViT-T8, and ONNX files of it that timm and torch wrote."""
    folder = tmp_path_factory.mktemp("place")
    network, theirs = timms(timm, seed=0)
    torch.save(network.state_dict(), folder / "t8.pth")
    for name, changed in {
        "theirs": theirs,
        "reversed": Changed(theirs, after=lambda y: y.flip(1)),
        "halved": Changed(theirs, before=lambda x: x / 2),
    }.items():
        torch.onnx.export(changed, (torch.zeros(IMAGES),), str(folder / f"{name}.onnx"), opset_version=17, dynamo=False)
    return folder


def test_a_file_of_others_needs_weights(tmp_path: Path) -> None:
    graph = helper.make_graph([], "theirs", [], [])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "theirs.onnx")
    message = refused("verify", "theirs.onnx", cwd=tmp_path)
    assert "does not say which network it holds; name its weights with --checkpoint" in message


@pytest.mark.parametrize("device", ["cpu", "mac"])
def test_a_core_ml_package_of_others_is_not_timed_and_the_line_says_why(device: str) -> None:
    audit = Audit(
        file="theirs.mlpackage",
        sha256="0" * 64,
        size_bytes=1,
        variant="fastvit_t8",
        head=Head.CLASSIFIER,
        weights=Weights(origin="random", seed=0),
        precision="fp16",
        shape=Shape(batch=1, height=64, width=64),
        layout="NCHW",
        images=1,
        seed=0,
        how="",
        passed=True,
        preparation="",
        expected="",
        own_path="models/own.mlpackage",
    )
    times = verify._timed(audit, options.load(None), device, None).times  # pyright: ignore[reportPrivateUsage]
    assert times is not None
    assert times.ratio is None
    assert "only ONNX files take turns" in times.reason
    assert "Xcode's Performance tab" in times.reason


@pytest.mark.slow
def test_what_is_asked_must_fit_the_file(place: Path) -> None:
    assert "but variant fastvit_sa12 was asked for" in refused(
        "verify", "theirs.onnx", "-c", "t8.pth", "-m", "fastvit_sa12", cwd=place
    )
    assert "takes images of 64 pixels" in refused("verify", "theirs.onnx", "-c", "t8.pth", "--res", "96", cwd=place)
    assert "is run at one size" in refused("verify", "theirs.onnx", "-c", "t8.pth", "--res", "64,96", cwd=place)


@pytest.mark.slow
def test_a_file_of_others_is_named(place: Path) -> None:
    first, *lines = call("verify", "theirs.onnx", "-c", "t8.pth", cwd=place).stdout.splitlines()
    assert first.startswith("theirs.onnx: it is fastvit_t8 (classifier) with t8.pth@")
    assert "≤ 1e-04 of the reference's standard deviation" in first
    assert "preparation: RGB, ImageNet's mean and std; NCHW, 1 x 64 pixels" in lines
    assert any(line.startswith("could have been folded: 24 x BatchNormalization, 20 x layer scale") for line in lines)
    (operations,) = (line for line in lines if line.startswith("operations: "))
    counts = [int(word) for word in operations.replace(",", "").split() if word.isdigit()]
    assert counts[0] > 2 * counts[1] > 0
    assert "models/fastvit_t8/fastvit_t8_64_b1_fp32_folded_" in operations


@pytest.mark.slow
def test_what_is_not_the_network_ends_in_5(place: Path) -> None:
    done = call("verify", "reversed.onnx", "-c", "t8.pth", expect=5, cwd=place)
    assert "with its classes in another order" in done.stderr
    done = call("verify", "halved.onnx", "-c", "t8.pth", "--json", expect=5, cwd=place)
    audit = json.loads(done.stdout)
    assert (audit["passed"], audit["variant"], len(audit["outputs"])) == (False, "fastvit_t8", 1)
    assert audit["outputs"][0]["shape"] == [4, CLASSES]
    assert "not proved to be fastvit_t8" in done.stderr


@pytest.mark.slow
def test_this_tools_own_file_has_its_own_proof(place: Path) -> None:
    call("export", "-t", "onnx", "-c", "t8.pth", "--res", "64", "-o", "own.onnx", cwd=place)
    proofs = json.loads(call("verify", "own.onnx", "-c", "t8.pth", "--json", cwd=place).stdout)
    assert proofs["own.onnx"]["passed"] is True
    assert "leave --model out" in refused("verify", "own.onnx", "-c", "t8.pth", "-m", "fastvit_t8", cwd=place)
    assert "leave --res out" in refused("verify", "own.onnx", "-c", "t8.pth", "--res", "64", cwd=place)
