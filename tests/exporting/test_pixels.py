"""Files that take 8-bit pixels: normalised inside, by the model's own values; with wrong ones the proof fails."""

from collections.abc import Generator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from commands import call, refused
from conftest import made_shallow
from onnx import numpy_helper

from fastvit_bench import backends, options
from fastvit_bench.backends import Images
from fastvit_bench.errors import ParityError, UsageError
from fastvit_bench.exporting import checkpoints, pipeline, preparation
from fastvit_bench.network import checkpoint
from fastvit_bench.records import Device, ExportJob, Fuse, Head, ModelSpec, Preparation, Shape
from fastvit_bench.records.preparation import IMAGENET, UNNORMALISED

OTHER: dict[str, Any] = {"mean": (0.5, 0.4, 0.3), "std": (0.25, 0.3, 0.35), "resize": "squash", "crop": 0.5}


@pytest.fixture(autouse=True, scope="module")
def small() -> Generator[None]:
    with made_shallow():
        yield


@pytest.fixture(scope="module")
def exported(small: None, tmp_path_factory: pytest.TempPathFactory) -> ExportJob:
    """The job of an ONNX file with values of its own, which was exported. Read only."""
    asked = job(tmp_path_factory.mktemp("exported"), **OTHER)
    pipeline.export(asked)
    return asked


def job(folder: Path, backend: str = "onnxruntime", fuse: Fuse = Fuse.FOLDED, **declared: Any) -> ExportJob:
    """The export of a T8 whose input is an image of 32 x 64 pixels."""
    found = backends.get(backend)
    if lacking := found.unavailable_reason():
        pytest.skip(lacking)
    precision = declared.pop("precision", "fp32")
    device = Device(name="x", backend=backend, precision=precision, options={"input": "image"})
    spec = ModelSpec(name="mine", variant="fastvit_t8", **declared)
    shape = Shape(batch=1, height=32, width=64)
    return pipeline.job(spec, checkpoints.weights_of(spec, 0), shape, fuse, device, folder=folder)


def plant(monkeypatch: pytest.MonkeyPatch, method: str, backend: str, wrong: Preparation) -> None:
    """Let a backend's method see another preparation than the job's, as if it read it from the wrong place."""
    kind = type(backends.get(backend))
    original = getattr(kind, method)

    def planted(self: Any, *words: Any) -> Any:
        changed = [
            msgspec.structs.replace(word, preparation=wrong) if isinstance(word, ExportJob) else word for word in words
        ]
        return original(self, *changed)

    monkeypatch.setattr(kind, method, planted)


def check_noted(asked: ExportJob) -> None:
    """Assert that a file was proved by `OTHER`, and says so."""
    artifact = pipeline.cached(asked)
    assert artifact is not None
    assert artifact.parity is not None
    assert "8-bit RGB pixels (pixels / 255, mean 0.5 0.4 0.3, std 0.25 0.3 0.35)" in artifact.parity.reference
    assert artifact.preparation == Preparation(**OTHER)
    noted = backends.get(asked.backend).metadata(Path(asked.path))["fastvit_bench.preparation"]
    assert msgspec.json.decode(noted, type=Preparation) == artifact.preparation


@pytest.mark.slow
def test_the_values_are_in_the_proof_the_artifact_and_the_file(exported: ExportJob) -> None:
    check_noted(exported)
    assert all(proof.passed for proof in pipeline.verify(Path(exported.path), None, Path("models")).values())


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["openvino", "coreml", "coreai", "tensorrt"])
def test_a_file_of_each_target_normalises_as_the_model_says(backend: str, tmp_path: Path) -> None:
    asked = job(tmp_path, backend, **OTHER)
    pipeline.export(asked)
    check_noted(asked)


@pytest.mark.parametrize(
    ("backend", "method", "field"),
    [
        ("onnxruntime", "export", "mean"),
        *(
            pytest.param(backend, method, field, marks=pytest.mark.slow)
            for backend in ("onnxruntime", "openvino", "coreml", "coreai")
            for method, field in (("export", "mean"), ("layout", "std"))
            if (backend, field) != ("onnxruntime", "mean")
        ),
    ],
)
def test_a_file_that_normalises_by_wrong_values_fails_its_proof(
    backend: str, method: str, field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = job(tmp_path, backend)
    plant(monkeypatch, method, backend, msgspec.structs.replace(IMAGENET, **{field: (0.485, 0.456, 0.416)}))
    with pytest.raises(ParityError, match="does not compute what the network computes"):
        pipeline.export(asked)


def test_an_onnx_file_takes_bytes_and_computes_what_the_network_does(exported: ExportJob) -> None:
    graph = onnx.load(exported.path).graph
    (taken,) = graph.input
    assert taken.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [size.dim_value for size in taken.type.tensor_type.shape.dim] == [1, 32, 64, 3]
    assert [node.op_type for node in graph.node[:5]] == ["Cast", "Mul", "Sub", "Transpose", "Conv"]
    assert not any("wrapped_network" in node.name for node in graph.node)
    pixels = np.random.default_rng(7).integers(0, 256, (1, 32, 64, 3), np.uint8)
    image = ((pixels / 255 - np.array(OTHER["mean"])) / np.array(OTHER["std"])).transpose(0, 3, 1, 2)
    network = checkpoint.randomised("fastvit_t8", Head.CLASSIFIER, 1000, 0)[0].double().eval()
    with torch.no_grad():
        wanted = network(torch.from_numpy(image)).numpy()
    backend = backends.get("onnxruntime")
    with backend.open(Path(exported.path), exported.device) as session:
        assert session.images is Images.PIXELS
        session.set_input(pixels)
        session.run()
        assert np.abs(session.get_output()["logits"] - wanted).max() < 1e-4 * wanted.std()
        with pytest.raises(UsageError, match=r"takes image \[1, 32, 64, 3\], not"):
            session.set_input(np.zeros((1, 3, 32, 64), np.float32))


@pytest.mark.slow
@pytest.mark.parametrize("fuse", Fuse)
def test_nothing_is_computed_for_images_that_are_not_normalised(fuse: Fuse, tmp_path: Path) -> None:
    asked = job(tmp_path, fuse=fuse, mean=UNNORMALISED.mean, std=UNNORMALISED.std)
    pipeline.export(asked)
    kinds = [node.op_type for node in onnx.load(asked.path).graph.node[:4]]
    assert kinds == ["Cast", "Mul", "Transpose", "Conv"]


@pytest.mark.slow
def test_fp16_is_proved_in_its_own_arithmetic(tmp_path: Path) -> None:
    artifact = pipeline.export(job(tmp_path, precision="fp16", **OTHER))
    assert artifact.parity is not None
    assert artifact.parity.relative_error < 2e-2


@pytest.mark.parametrize("fault", ["the graph's mean", "what the metadata say", "swapped colours"])
def test_a_file_that_was_changed_since_is_found_out(fault: str, exported: ExportJob, tmp_path: Path) -> None:
    model, path = onnx.load(exported.path), tmp_path / "changed.onnx"  # without a side-car, which would have a hash
    wrong = msgspec.structs.replace(Preparation(**OTHER), mean=(0.5, 0.4, 0.31))  # by one in a hundred, of blue alone
    if fault == "what the metadata say":
        (entry,) = [entry for entry in model.metadata_props if entry.key == "fastvit_bench.preparation"]
        entry.value = msgspec.json.encode(wrong).decode()
    else:
        (mean,) = [tensor for tensor in model.graph.initializer if tensor.name == "mean"]
        values = wrong.mean if fault == "the graph's mean" else OTHER["mean"][::-1]
        mean.CopyFrom(numpy_helper.from_array(np.array(values, np.float32), "mean"))
    onnx.save(model, path)
    (proof,) = pipeline.verify(path, None, tmp_path).values()
    assert not proof.passed


@pytest.mark.parametrize("change", [{"crop": 0.875}, {"resize": "pad"}, {"mean": (0.5, 0.4, 0.31)}, {"std": (1, 1, 1)}])
def test_files_of_two_preparations_are_never_taken_for_each_other(change: dict[str, Any], exported: ExportJob) -> None:
    assert pipeline.cached(exported) is not None
    other = job(Path(exported.path).parents[1], **{**OTHER, **change})
    assert other.path != exported.path
    assert pipeline.cached(msgspec.structs.replace(other, path=exported.path)) is None


def test_an_onnx_file_of_somebodys_is_run_as_it_is(exported: ExportJob, tmp_path: Path) -> None:
    theirs = ModelSpec(name="theirs", variant="onnx", checkpoint=exported.path)
    device, shape = exported.device, Shape(batch=1, height=32, width=32)
    asked = pipeline.job(theirs, checkpoints.weights_of(theirs, 0), shape, Fuse.FOLDED, device, folder=tmp_path)
    with pytest.raises(UsageError, match="run as it is, and takes tensors"):
        pipeline.export(asked)


# --- as users call it -------------------------------------------------------------------------------------------------


SETTINGS = """
[model.mine]
variant = "fastvit_t8"
crop = 1
mean = [0, 0, 0]
[sweep]
models = ["mine"]
grid = [32]
"""


def test_export_names_the_source_of_each_value(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benchmark.toml").write_text(SETTINGS)
    declared = "mine: images are prepared with mean 0 0 0, crop 1 ([model.mine])\n"
    own = "std 0.229 0.224 0.225, resize shorter-side, interpolation bicubic (the network's own)\n"
    words = ("export", "-t", "onnx", "-o", "not-an-onnx.png")  # refused behind what is printed first
    verbose, plain = (call(*words, *more, expect=2).stderr for more in (["-v"], []))
    assert declared in verbose
    assert own in verbose
    assert declared in plain
    assert own not in plain


def test_verify_says_what_the_model_would_be_prepared_by_instead(exported: ExportJob, tmp_path: Path) -> None:
    (tmp_path / "benchmark.toml").write_text(SETTINGS.replace("crop = 1", "crop = 0.5"))
    beside = tmp_path / "config.json"
    beside.write_text('{"architecture": "fastvit_t8", "mean": 0.4, "std": [0.25, 0.3, 0.35], "crop_pct": 0.7}')
    spec = options.load(tmp_path / "benchmark.toml").models["mine"]
    spec = msgspec.structs.replace(spec, checkpoint=str(tmp_path / "weights.pth"))
    assert preparation.differences(exported, spec) == {
        "mean": (OTHER["mean"], (0, 0, 0), "[model.mine]"),
        "resize": ("squash", "shorter-side", "the network's own"),
    }
    spec = msgspec.structs.replace(spec, mean=None, resize="squash")
    assert preparation.differences(exported, spec) == {"mean": (OTHER["mean"], (0.4, 0.4, 0.4), str(beside))}


@pytest.mark.slow
def test_a_file_that_takes_images_is_exported_and_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benchmark.toml").write_text(SETTINGS)
    done = call("export", "-t", "onnx", "--input", "image", "--res", "32", "-v", "-o", "t8.onnx")
    assert "8-bit RGB pixels (pixels / 255, mean 0 0 0, std 0.229 0.224 0.225)" in done.stderr
    verified = call("verify", "t8.onnx")
    assert verified.stdout.startswith("t8.onnx: proved ")
    assert verified.stderr == ""
    (tmp_path / "benchmark.toml").write_text(SETTINGS.replace("mean = [0, 0, 0]", ""))
    said = "t8.onnx is for images with mean 0 0 0, and mine is for mean 0.485 0.456 0.406 (the network's own)\n"
    assert call("verify", "t8.onnx").stderr == said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["-t", "onnx", "--input", "photo"], "input = 'photo' must be tensor or image"),
        (["-t", "pytorch", "--input", "image"], "--input means nothing for --target pytorch"),
        (
            ["-t", "tensorrt", "--input", "image", "--dynamic", "64..96", "--res", "64"],
            "a file of several sizes takes tensors; leave its input at tensor, or name one size",
        ),
    ],
)
def test_inputs_that_a_target_does_not_have_are_refused(words: list[str], sentence: str, tmp_path: Path) -> None:
    assert sentence in refused("export", *words, cwd=tmp_path)
