"""Core ML packages: what is in them, what app developers see of them, and what a failed export leaves."""

import collections
import errno
import importlib.util
import json
import os
import shutil
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import builders
import golden
import msgspec
import pytest
import torch

from fastvit_bench import backends, files
from fastvit_bench.backends import coreml
from fastvit_bench.backends.coreml import BACKEND, program
from fastvit_bench.errors import ChecksumError, ParityError, UnavailableError, UsageError
from fastvit_bench.exporting import checkpoints, pipeline
from fastvit_bench.exporting import metadata as export_metadata
from fastvit_bench.network import checkpoint, factory, reparam
from fastvit_bench.network.fastvit import FastViT
from fastvit_bench.records import Device, ExportJob, Fuse, Head, ModelSpec, Parity, Shape

SIZE = 64


def job(folder: Path, variant: str = "fastvit_t8", **changes: Any) -> ExportJob:
    """The export that `fastvit-bench export --target coreml` would ask for; options of the device among the changes."""
    options = {name: changes.pop(name) for name in ("input", "attention", "compress") if name in changes}
    batch, size = changes.pop("batch", 1), changes.pop("size", SIZE)
    head, classes = changes.pop("head", Head.CLASSIFIER), changes.pop("classes", 1000)
    device = Device(
        name="coreml", backend="coreml", precision=changes.pop("precision", "fp16"), batch=batch, options=options
    )
    spec = ModelSpec(name=variant, variant=variant, head=head, classes=classes)
    shape = Shape(batch=batch, height=size, width=size)
    fused = changes.pop("fused", Fuse.FOLDED)
    return pipeline.job(spec, checkpoints.weights_of(spec, 0), shape, fused, device, folder=folder, **changes)


def operations(path: Path) -> collections.Counter[str]:
    return collections.Counter(BACKEND.operations(path))


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with T8 exported once. Read only."""
    folder = tmp_path_factory.mktemp("packages")
    pipeline.export(job(folder))
    return folder


# --- the program ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "blocks", "published", "ours"),
    [("fastvit_t8", 0, 89, 88), pytest.param("fastvit_sa12", 2, 142, 117, marks=pytest.mark.slow)],
)
def test_the_program_has_nothing_left_to_fold(
    packages: Path, tmp_path: Path, variant: str, blocks: int, published: int, ours: int
) -> None:
    asked = job(packages if variant == "fastvit_t8" else tmp_path, variant)
    if not Path(asked.path).exists():
        pipeline.export(asked)
    counted = operations(Path(asked.path))
    assert counted["batch_norm"] == counted["transpose"] == counted["const"] == 0
    # of the image and of squeeze-and-excite
    assert counted["mul"] == 2
    assert counted["cast"] == 1
    assert counted["softmax"] == blocks
    assert counted["matmul"] == 2 * blocks
    assert sum(counted.values()) == ours < published


@pytest.mark.slow
def test_tensors_need_no_preprocessing(tmp_path: Path) -> None:
    made = pipeline.export(job(tmp_path, input="tensor", batch=2))
    assert made.operations["mul"] == 1
    assert "cast" not in made.operations
    assert sum(made.operations.values()) == 85


@pytest.mark.slow
def test_attention_per_head_has_smaller_products_and_no_transpose(tmp_path: Path) -> None:
    made = pipeline.export(job(tmp_path, "fastvit_sa12", attention="conv"))
    assert made.parity is not None
    assert made.parity.passed
    assert made.operations["matmul"] == 2 * 2 * 16  # blocks, products, heads
    assert made.operations["softmax"] == 2 * 16
    assert "transpose" not in made.operations
    assert job(tmp_path, "fastvit_sa12").path != job(tmp_path, "fastvit_sa12", attention="conv").path


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["fastvit_t8", "fastvit_sa12"])
def test_dense_backbones_give_four_maps(variant: str, tmp_path: Path) -> None:
    asked = job(tmp_path, variant, head=Head.DENSE)
    made = pipeline.export(asked)
    package = program.read(Path(asked.path))
    assert [output.name for output in package.outputs] == [f"feature{i}" for i in range(4)]
    assert "batch_norm" not in made.operations


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["fastvit_t12", "fastvit_s12", "fastvit_sa24", "fastvit_sa36", "fastvit_ma36"])
def test_every_other_variant_is_proved(variant: str, tmp_path: Path) -> None:
    made = pipeline.export(job(tmp_path, variant))
    assert made.parity is not None
    assert made.parity.passed
    assert "batch_norm" not in made.operations


@pytest.mark.slow
@pytest.mark.parametrize("fused", [Fuse.NONE, Fuse.FUSED])
def test_networks_that_are_not_folded_are_exact_too(fused: Fuse, tmp_path: Path) -> None:
    made = pipeline.export(job(tmp_path, fused=fused, precision="fp32"))
    assert made.parity is not None
    assert made.parity.relative_error < 1e-4


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_the_debugging_twin_computes_in_fp32(tmp_path: Path) -> None:
    asked = job(tmp_path, precision="fp32")
    made = pipeline.export(asked)
    assert made.parity is not None
    assert made.parity.relative_error < 1e-4
    assert "cast" not in made.operations
    declared = {output.type.dtype for operation in _main(asked).operations for output in operation.outputs}
    assert "fp32" in declared
    assert "fp16" not in declared


@pytest.mark.parametrize(
    ("variant", "head", "precision", "allowed"),
    [
        pytest.param("fastvit_t8", Head.CLASSIFIER, "fp32", 1e-4, marks=pytest.mark.slow),
        ("fastvit_t8", Head.CLASSIFIER, "fp16", 2e-2),
        pytest.param("fastvit_t8", Head.DENSE, "fp32", 4e-4, marks=pytest.mark.slow),
        pytest.param("fastvit_sa12", Head.CLASSIFIER, "fp32", 1e-4, marks=pytest.mark.slow),
        pytest.param("fastvit_sa12", Head.CLASSIFIER, "fp16", 2e-2, marks=pytest.mark.slow),
    ],
)
def test_golden_outputs(variant: str, head: Head, precision: str, allowed: float, tmp_path: Path) -> None:
    """What the published implementation computes from the unfused weights, out of the saved package."""
    weights = tmp_path / "golden.pth.tar"
    torch.save({"state_dict": golden.state(variant, head)}, weights)
    spec = ModelSpec(name=variant, variant=variant, head=head, checkpoint=str(weights))
    batch, size, name = (2, 256, variant) if head is Head.CLASSIFIER else (1, 512, f"{variant}_dense")
    options = {"input": "tensor"}
    device = Device(name="coreml", backend="coreml", precision=precision, batch=batch, options=dict(options))
    shape = Shape(batch=batch, height=size, width=size)
    asked = pipeline.job(spec, checkpoints.weights_of(spec, 0), shape, Fuse.FOLDED, device, folder=tmp_path)
    pipeline.export(asked)
    (look,) = BACKEND.verification_sessions(Path(asked.path), asked)
    with look.session as session:
        session.set_input(golden.image(shape.nchw).numpy())
        session.run()
        outputs = session.get_output()
    for key, wanted in golden.output(name).items():
        found = outputs[key] if head is Head.CLASSIFIER else outputs[key][:, :, ::8, ::8]
        assert abs(found.astype(float) - wanted).max() / wanted.std() < allowed


def _main(asked: ExportJob) -> program.Function:
    package = program.read(Path(asked.path))
    return package.functions[package.default]


# --- what the package says of itself ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_what_xcode_shows(packages: Path) -> None:
    import coremltools

    asked = job(packages)
    spec = coremltools.utils.load_spec(asked.path)
    about = spec.description.metadata
    assert spec.specificationVersion == 7  # iOS 16
    assert "fastvit_t8" in about.shortDescription
    assert "64 x 64" in about.shortDescription
    assert about.author
    assert about.license
    assert about.versionString
    (image,) = spec.description.input
    assert (image.name, image.type.imageType.width, image.type.imageType.height) == ("image", SIZE, SIZE)
    assert "RGB" in image.shortDescription
    (logits,) = spec.description.output
    assert logits.name == "logits"
    assert "1000" in logits.shortDescription
    ours = {key: value for key, value in about.userDefined.items() if key.startswith("fastvit_bench.")}
    assert ours["fastvit_bench.variant"] == "fastvit_t8"
    assert ours["fastvit_bench.resolution"] == "64"
    assert ours["fastvit_bench.fused"] == "folded"
    assert json.loads(ours["fastvit_bench.toolchain"]).keys() >= {"fastvit-bench", "torch", "coremltools"}
    made = pipeline.cached(asked)
    assert made is not None
    assert ours["fastvit_bench.key"] == made.key
    assert "conversion_date" not in str(about)
    assert str(Path.home()) not in str(about)


@pytest.mark.slow
def test_a_package_is_known_again_by_what_it_says(packages: Path, tmp_path: Path) -> None:
    asked = job(packages)
    metadata = BACKEND.metadata(Path(asked.path))
    made = pipeline.cached(asked)
    assert export_metadata.recognise(metadata, "coreml", packages) == made
    assert made is not None
    elsewhere = export_metadata.recognise(metadata, "coreml", tmp_path)
    assert elsewhere is not None
    assert elsewhere.parity is None
    assert elsewhere.sha256 is None
    for field in ("key", "model", "variant", "weights", "shape", "precision", "options", "params", "macs"):
        assert getattr(elsewhere, field) == getattr(made, field)
    assert export_metadata.recognise({"author": "someone else"}, "coreml", packages) is None
    with pytest.raises(UsageError, match="metadata is not what"):
        export_metadata.recognise({**metadata, "fastvit_bench.params": "many"}, "coreml", tmp_path)


@pytest.mark.slow
def test_layout_and_rights_of_the_files(packages: Path) -> None:
    package = Path(job(packages).path)
    inside = sorted(str(path.relative_to(package)) for path in package.rglob("*") if path.is_file())
    data = "Data/com.apple.CoreML"
    assert inside == [f"{data}/model.mlmodel", f"{data}/weights/weight.bin", "Manifest.json"]
    for path in package.rglob("*"):
        if path.is_file():
            assert stat.S_IMODE(path.stat().st_mode) & 0o444 == 0o444
    manifest = json.loads((package / "Manifest.json").read_text(encoding="utf-8"))
    root = manifest["itemInfoEntries"][manifest["rootModelIdentifier"]]
    assert root["path"] == "com.apple.CoreML/model.mlmodel"
    from coremltools.libmodelpackage import ModelPackage

    assert ModelPackage.isValid(str(package))


def test_no_weight_is_stored_twice(packages: Path) -> None:
    made = pipeline.cached(job(packages))
    assert made is not None
    assert made.size_bytes < 2 * made.params + 200_000


# --- classifiers, several sizes, compression --------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_a_classifier_answers_with_a_name(tmp_path: Path) -> None:
    labels = tuple(f"class {number}" for number in range(10))
    asked = job(tmp_path, classes=10, labels=labels)
    made = pipeline.export(asked)
    assert made.parity is not None
    assert made.parity.passed
    assert made.options["labels"]
    assert [output.name for output in program.read(Path(asked.path)).outputs] == ["classLabel", "classLabel_probs"]
    assert artifact_differs(asked, job(tmp_path, classes=10, labels=labels[::-1]))
    with pytest.raises(UsageError, match="has 10 classes, and 3 names"):
        pipeline.export(job(tmp_path, classes=10, labels=labels[:3]))
    with pytest.raises(UsageError, match="this network is dense"):
        pipeline.export(job(tmp_path, head=Head.DENSE, labels=labels))


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_a_batch_has_scores_of_each_image_and_the_names_in_its_metadata(tmp_path: Path) -> None:
    labels = tuple(f"class {number}" for number in range(10))
    asked = job(tmp_path, classes=10, labels=labels, batch=2)
    made = pipeline.export(asked)
    assert made.parity is not None
    assert made.parity.passed
    package = program.read(Path(asked.path))
    (output,) = package.outputs
    assert (output.name, output.shape) == ("logits", (2, 10))
    assert package.metadata["fastvit_bench.labels"].split("\n") == list(labels)
    assert made.options["labels"]


def artifact_differs(one: ExportJob, other: ExportJob) -> bool:
    return one.path != other.path


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_labels_in_another_order_are_found_out(tmp_path: Path) -> None:
    labels = tuple(f"class {number}" for number in range(10))
    asked = job(tmp_path, classes=10, labels=labels)
    pipeline.export(asked)
    wrong = msgspec.structs.replace(asked, labels=labels[::-1])
    (look,) = BACKEND.verification_sessions(Path(asked.path), wrong)
    reference, _ = checkpoint.randomised("fastvit_t8", Head.CLASSIFIER, 10, 0)
    from fastvit_bench.exporting import verification

    with look.session as session, pytest.raises(ParityError, match="class names are not the given ones"):
        verification.prove(
            verification.reference_outputs(factory.of(reference), look.shape, session.images), session, "fp16"
        )


@pytest.mark.slow
def test_several_sizes_share_their_weights(packages: Path, tmp_path: Path) -> None:
    sizes = tuple(Shape(batch=1, height=height, width=width) for height, width in ((64, 64), (96, 64)))
    asked = job(tmp_path, functions=sizes)
    made = pipeline.export(asked)
    single = pipeline.cached(job(packages))
    assert single is not None
    assert made.proofs.keys() == {"r64", "r96x64"}
    assert all(proof.passed for proof in made.proofs.values())
    assert made.size_bytes < 1.1 * single.size_bytes
    package = program.read(Path(asked.path))
    assert package.functions.keys() == {"r64", "r96x64"}
    assert package.default == "r64"
    assert package.specification == 9
    assert "64 x 64, 96 x 64" in package.description
    assert ["96 x 64" in feature.text for name in ("r64", "r96x64") for feature in package.functions[name].takes] == [
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("compress", "share"),
    [
        pytest.param("int8", 0.55, marks=pytest.mark.slow),
        pytest.param("palette6", 0.45, marks=pytest.mark.slow),
        pytest.param("palette4", 0.35, marks=pytest.mark.slow),
    ],
)
def test_compressed_weights_are_smaller_and_measured(
    compress: str, share: float, packages: Path, tmp_path: Path
) -> None:
    if compress != "int8":
        pytest.importorskip("sklearn")
    asked = job(tmp_path, compress=compress)
    made, plain = pipeline.export(asked), pipeline.cached(job(packages))
    assert plain is not None
    assert plain.parity is not None
    assert made.parity is not None
    assert made.size_bytes < share * plain.size_bytes
    assert made.parity.passed
    assert made.parity.relative_error > plain.parity.relative_error


def test_without_scikit_learn_palettes_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sklearn" else find(name))
    with pytest.raises(UnavailableError, match=r"pip install .*\[compress\]"):
        pipeline.export(job(tmp_path, compress="palette6"))
    assert not any(tmp_path.rglob("*.mlpackage*"))


# --- options ----------------------------------------------------------------------------------------------------------


def test_options_have_defaults() -> None:
    single = BACKEND.options(Device(name="mac", backend="coreml"))
    assert (single["input"], single["attention"], single["compress"]) == ("image", "standard", "none")
    assert single["compute_units"] == "all"
    assert BACKEND.options(Device(name="mac", backend="coreml", batch=8))["input"] == "tensor"


@pytest.mark.parametrize(
    ("options", "batch", "sentence"),
    [
        ({"input": "photo"}, 1, "input = 'photo' must be image or tensor"),
        ({"input": "image"}, 2, "one by one"),
        ({"compute_units": 3}, 1, "compute_units = 3 must be"),
        ({"attention": "flash"}, 1, "attention = 'flash'"),
        ({"threads": 2}, 1, "unknown option 'threads'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], batch: int, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        BACKEND.options(Device(name="mac", backend="coreml", batch=batch, options=options))


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def package(packages: Path, tmp_path: Path) -> Path:
    """A copy of the exported T8, without its side-car: a package that went on its own way."""
    copy = tmp_path / "copy.mlpackage"
    shutil.copytree(job(packages).path, copy)
    return copy


def verified(path: Path) -> dict[str, Parity]:
    return pipeline.verify(path, None, path.parent)


def test_a_sound_package_verifies_without_its_side_car(package: Path) -> None:
    (proof,) = verified(package).values()
    assert proof.passed
    assert "8-bit RGB pixels" in proof.reference


@pytest.mark.parametrize("where", [0.1, 0.5, 0.999])
def test_one_flipped_bit_of_a_weight_is_found(package: Path, where: float) -> None:
    weights = package / "Data/com.apple.CoreML/weights/weight.bin"
    content = bytearray(weights.read_bytes())
    content[int(where * len(content))] ^= 1
    weights.write_bytes(content)
    with pytest.raises(ChecksumError, match="damaged or was changed"):
        verified(package)


@pytest.mark.parametrize("damage", ["version", "name", "second item", "link", "pipe among the weights"])
def test_a_package_that_coremltools_could_not_open_is_one_sentence(package: Path, damage: str) -> None:
    manifest: dict[str, Any] = json.loads((package / "Manifest.json").read_text(encoding="utf-8"))
    items: list[dict[str, str]] = list(manifest["itemInfoEntries"].values())
    if damage == "version":
        del manifest["fileFormatVersion"]
    elif damage == "name":
        del items[0]["name"]
    elif damage == "second item":
        manifest["itemInfoEntries"]["more"] = {"name": "more", "path": "com.apple.CoreML/more", "author": "a"}
    elif damage == "link":
        (package / "Data" / "more").symlink_to("/dev/zero")
    else:
        os.mkfifo(package / "Data/com.apple.CoreML/weights/more")
    (package / "Manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(ChecksumError, match=r"\.$"):
        verified(package)


def rewrite(package: Path, change: Any) -> None:
    """Change a package's specification and make its digest fit, as a tool that knew of it would."""
    import coremltools

    model = package / "Data/com.apple.CoreML/model.mlmodel"
    spec = coremltools.utils.load_spec(str(package))
    change(spec)
    spec.description.metadata.userDefined[coreml._DIGEST] = coreml._digest(package, spec)
    model.write_bytes(spec.SerializeToString(deterministic=True))


def test_swapped_colours_fail_the_proof(package: Path) -> None:
    def swap(spec: Any) -> None:
        kind = spec.description.input[0].type.imageType
        kind.colorSpace = kind.ColorSpace.Value("BGR")

    rewrite(package, swap)
    (proof,) = verified(package).values()
    assert not proof.passed


def test_a_wrong_mean_fails_the_proof(package: Path) -> None:
    """ImageNet's means in the order of BGR."""

    def shift(spec: Any) -> None:
        block = spec.mlProgram.functions["main"].block_specializations["CoreML6"]
        constants = [operation for operation in block.operations if operation.type == "const"]
        values = [operation.attributes["val"].immediateValue.tensor.floats.values for operation in constants]
        (mean,) = [value for value in values if len(value) == 3]
        mean[:] = list(mean)[::-1]

    rewrite(package, shift)
    (proof,) = verified(package).values()
    assert not proof.passed


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("fault", ["a dropped branch", "a permuted head"])
def test_a_wrong_network_fails_the_proof(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(network: FastViT, *rest: Any) -> torch.nn.Module:
        found = folded(network, *rest)
        with torch.no_grad():
            if fault == "a permuted head":
                found.classifier.weight.copy_(found.classifier.weight.roll(1, 0))
            else:
                found.network[0][0].ffn.fc2.weight.zero_()
        return found

    folded = reparam.fold
    monkeypatch.setattr(reparam, "fold", planted)
    asked = job(tmp_path)
    with pytest.raises(ParityError, match="does not compute"):
        pipeline.export(asked)
    assert not Path(asked.path).exists()
    assert Path(asked.path + ".rejected").is_dir()


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_a_weight_that_the_converter_changes_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the smallest step of FP16, which no output would tell."""
    convert = program.toolkit().convert

    def careless(exported: Any, **options: Any) -> Any:
        weight = exported.state_dict["stem.4.weight"].detach().clone()
        weight[0, 0, 0, 0] *= 1 + 2**-9
        exported.state_dict["stem.4.weight"] = weight
        return convert(exported, **options)

    monkeypatch.setattr(program.toolkit(), "convert", careless)
    with pytest.raises(ParityError, match=r"coremltools changed the weights stem\.4\.weight"):
        pipeline.export(job(tmp_path))
    assert leftovers(tmp_path) == []


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("step", [0, 1])
def test_weights_that_half_precision_makes_zero_are_known_for_what_coremltools_makes_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    def trained(network: FastViT, *rest: Any) -> torch.nn.Module:
        found = folded(network, *rest)
        with torch.no_grad():
            found.network[6][0].mixer.bias[:4] = torch.tensor([1e-9, -1e-9, 0.0, 2e-7])
        return found

    def careless(exported: Any, **options: Any) -> Any:
        bias = exported.state_dict["network.6.0.mixer.bias"].detach().clone()
        bias[0] += step * 2**-23  # twice the smallest number
        exported.state_dict["network.6.0.mixer.bias"] = bias
        return convert(exported, **options)

    folded, convert = reparam.fold, program.toolkit().convert
    monkeypatch.setattr(reparam, "fold", trained)
    monkeypatch.setattr(program.toolkit(), "convert", careless)
    asked = job(tmp_path)
    if step:
        with pytest.raises(ParityError, match=r"coremltools changed the weights network\.6\.0\.mixer\.bias"):
            pipeline.export(asked)
        return
    pipeline.export(asked)
    package = program.read(Path(asked.path))
    held = [
        value.value[:4].tolist()
        for operation in package.functions[package.default].operations
        if operation.kind == "const"
        for value in operation.attributes.values()
        if value.value.shape == (128,)
    ]
    assert [2**-24, -(2**-24), 0.0, 3 * 2**-24] in held


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_a_weight_beyond_half_precision_ends_the_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def large(network: FastViT, *rest: Any) -> torch.nn.Module:
        found = folded(network, *rest)
        with torch.no_grad():
            found.classifier.weight[0, 0] = 70000.0
        return found

    folded = reparam.fold
    monkeypatch.setattr(reparam, "fold", large)
    with pytest.raises(ParityError, match=r"classifier\.weight do not fit into FP16"):
        pipeline.export(job(tmp_path))
    assert leftovers(tmp_path) == []


def test_a_package_of_someone_else_is_one_sentence(package: Path) -> None:
    rewrite(
        package,
        lambda spec: [spec.description.metadata.userDefined.pop(key) for key in list(BACKEND.metadata(package))],
    )
    with pytest.raises(UsageError, match="was not written by fastvit-bench"):
        verified(package)


# --- failures ---------------------------------------------------------------------------------------------------------


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if "mlpackage" in path.name or path.name.endswith(".work")]


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(coreml, "_describe", full)
    with pytest.raises(UsageError, match="cannot be written: No space left on device"):
        pipeline.export(job(tmp_path))
    assert leftovers(tmp_path) == []


@pytest.mark.usefixtures("shallow")
def test_a_full_disk_inside_the_native_library_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toolkit = program.toolkit()

    def full(*_: object, **__: object) -> None:
        raise RuntimeError("[MIL FileWriter]: Unknown error occurred while writing data to the file.")

    monkeypatch.setattr(toolkit, "convert", full)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=1000))
    with pytest.raises(UsageError, match="cannot be written: no space is left there"):
        pipeline.export(job(tmp_path))
    assert leftovers(tmp_path) == []


@pytest.mark.usefixtures("shallow")
def test_what_coremltools_cannot_convert_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toolkit = program.toolkit()

    def fail(*_: object, **__: object) -> None:
        raise ValueError("op 'svd'\n is not supported")

    monkeypatch.setattr(toolkit, "convert", fail)
    with pytest.raises(
        UnavailableError, match=r"coremltools cannot convert fastvit_t8 64: ValueError: op 'svd' is not"
    ):
        pipeline.export(job(tmp_path))
    assert leftovers(tmp_path) == []


def test_something_else_in_the_place_is_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "mine.mlpackage"
    mine.mkdir()
    (mine / "notes").write_text("keep", encoding="utf-8")
    with pytest.raises(UsageError, match="not written by fastvit-bench"):
        pipeline.export(job(tmp_path, path=mine))
    assert (mine / "notes").read_text(encoding="utf-8") == "keep"


@pytest.mark.slow
def test_an_earlier_package_is_replaced_whole(tmp_path: Path) -> None:
    place = tmp_path / "t8.mlpackage"
    first = pipeline.export(job(tmp_path, path=place))
    (place / "stray").write_text("keep", encoding="utf-8")
    with pytest.raises(UsageError, match="not written by fastvit-bench, or were changed since"):
        pipeline.export(job(tmp_path, path=place))
    assert (place / "stray").read_text(encoding="utf-8") == "keep"
    (place / "stray").unlink()
    again = pipeline.export(job(tmp_path, path=place))
    assert again == first
    assert files.sha256(place) == first.sha256
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "t8.mlpackage",
        "t8.mlpackage.expected.npz",
        "t8.mlpackage.json",
    ]


def test_a_python_without_the_native_library_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pure = tmp_path / "coremltools"
    pure.mkdir()
    (pure / "__init__.py").write_text("", encoding="utf-8")
    spec = importlib.util.spec_from_file_location("coremltools", pure / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    assert "Python 3.11 to 3.13" in str(BACKEND.unavailable_reason())
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "pip install" in str(BACKEND.unavailable_reason())


def test_here_it_can_be_written() -> None:
    assert BACKEND.unavailable_reason() is None
    assert "coreml" in backends.targets()
    assert builders.export_job(backend="coreml").backend in backends.implemented()
