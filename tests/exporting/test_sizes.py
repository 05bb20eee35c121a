"""Image sizes of a file: by its network's own stride, or padded; and images of other than three channels."""

from pathlib import Path

import hypothesis
import msgspec
import numpy as np
import onnx
import pytest
import torch
from hypothesis import strategies

from fastvit_bench import backends, options
from fastvit_bench.backends._onnx import session as onnx_session
from fastvit_bench.backends.tensorrt import BACKEND as TENSORRT
from fastvit_bench.config import Config
from fastvit_bench.errors import ParityError, UsageError
from fastvit_bench.exporting import checkpoints, pipeline, verification
from fastvit_bench.network import factory, folded, registry
from fastvit_bench.records import Device, ExportJob, Fuse, Head, Shape

CPU = Device(name="cpu", backend="onnxruntime")


@pytest.fixture(scope="module")
def settings() -> Config:
    return options.load(None)


def job(
    settings: Config, name: str, folder: Path, height: int, width: int, device: Device = CPU, **changes: object
) -> ExportJob:
    """The export of a model with random weights at a size."""
    (spec,) = settings.select([name])
    shape = Shape(batch=1, height=height, width=width)
    asked = pipeline.job(spec, checkpoints.weights_of(spec, 0), shape, Fuse.FOLDED, device, folder=folder)
    return msgspec.structs.replace(asked, **changes)


# --- the stride -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "stride", "said"),
    [
        (96, 64, "height 96 is not a multiple of 64, the network's total stride; use 64 or 128"),
        (32, 64, "height 32 is below 64 pixels; use 64 or more"),
        (16, 1, "height 16 is below 32 pixels; use 32 or more"),
    ],
)
def test_a_size_is_checked_by_the_networks_own_stride(size: int, stride: int, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        registry.check_size(size, size, stride)


def test_a_sweep_takes_the_sizes_of_the_grid_that_all_its_models_can(settings: Config) -> None:
    for names, sizes in (
        (["fastvit_t8"], [224, 256, 384, 512, 768, 1024]),
        (["fastvit_t8", "fastvithd"], [256, 384, 512, 768, 1024]),
    ):
        specs = settings.select(names)
        assert [shape.height for shape in options.sweep_shapes(settings, None, specs, 1)] == sizes
    within = options.sweep_shapes(settings, "192..512", specs, 1)
    assert [shape.height for shape in within] == [192, 256, 384, 512]
    refused = "224 is not a multiple of 64, the network's total stride; use 192 or 256"
    for sizes in ("224..512", "224..512:64", "224x256"):
        with pytest.raises(UsageError, match=f"{refused}, or let the file pad its images with --pad"):
            options.sweep_shapes(settings, sizes, specs, 1)
    with pytest.raises(UsageError, match=r"use 192 or 224\.$"):  # which this network does not do
        options.sweep_shapes(settings, "200", settings.select(["cmt_ti"]), 1)


def test_gates_exports_and_accuracies_know_the_stride(settings: Config, tmp_path: Path) -> None:
    (spec,) = settings.select(["fastvit_mci3"])
    with pytest.raises(UsageError, match="224 is not a multiple of 64"):
        options.gate_selection(settings, ["fastvit_mci3"], None, 1)
    with pytest.raises(UsageError, match="96 is not a multiple of 64"):
        options.square_shape("96", [spec], 1)
    device = options.export_device("onnx", backends.get("onnxruntime"), None, 1, {})
    how = {"fuse": Fuse.FOLDED, "seed": 0, "multifunction": False, "classifier": None, "output": None, "force": False}
    with pytest.raises(UsageError, match=r"96 is not a multiple of 64, .*, or let the file pad its images with --pad"):
        options.export_jobs(settings, spec, device, res="96", **how)  # type: ignore[arg-type]
    ranged = options.export_device("tensorrt", backends.get("tensorrt"), None, 1, {"dynamic": "64..192"})
    with pytest.raises(UsageError, match=r"use 64 or 128\.$"):
        options.export_jobs(settings, spec, ranged, res="96", **how)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="width 96 is not a multiple of 64"):
        pipeline.check_job(job(settings, "fastvit_mci3", tmp_path, 64, 96))


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("head", [Head.TOKENS, Head.STAGES])
def test_a_file_of_several_sizes_is_traced_at_multiples_of_a_stride_of_64(
    settings: Config, tmp_path: Path, head: Head
) -> None:
    device = Device(name="gpu", backend="tensorrt", precision="fp32", options={"dynamic": "64..192"})
    asked = job(settings, "fastvithd", tmp_path, 64, 128, device, head=head)
    path = Path(pipeline.export(asked).path)
    exported = Path(asked.path).with_name(path.name)
    free = [
        [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim] for value in outputs(exported)
    ]
    if head is Head.TOKENS:
        assert free == [[1, "tokens", 1024]]
    else:
        assert [sizes[2:] for sizes in free] == [[f"height/{s}", f"width/{s}"] for s in (4, 8, 16, 32, 64)]
    reference = factory.random("fastvithd", head, asked.classes, 0, asked.shape)
    with onnx_session.as_typed(exported, 1) as session:  # sizes beside those of the proof
        for height, width in ((192, 64), (128, 192)):
            shape = Shape(batch=1, height=height, width=width)
            proof = verification.prove(verification.reference_outputs(reference, shape), session, "fp32")
            assert proof.passed, proof.reason


def outputs(path: Path) -> list[onnx.ValueInfoProto]:
    return list(onnx.load(path).graph.output)


def test_a_range_of_sizes_ends_at_multiples_of_the_stride(settings: Config, tmp_path: Path) -> None:
    device = Device(name="gpu", backend="tensorrt", precision="fp16", options={"dynamic": "96..192"})
    asked = job(settings, "fastvithd", tmp_path, 128, 128, device)
    with pytest.raises(UsageError, match="96 is not a multiple of 64"):
        pipeline.check_job(asked)
    assert TENSORRT.options(asked.device)["dynamic"] == "96..192"  # a device is for any network


# --- padding ----------------------------------------------------------------------------------------------------------


def padded_job(
    settings: Config, folder: Path, device: Device = CPU, name: str = "fastvit_t8", **fields: object
) -> ExportJob:
    """The export of a model with fields of its own, at a size that no stride divides."""
    (spec,) = settings.select([name])
    spec = msgspec.structs.replace(spec, **{"pad": True, **fields})
    shape = Shape(batch=1, height=50, width=70)
    return pipeline.job(spec, checkpoints.weights_of(spec, 0), shape, Fuse.FOLDED, device, folder=folder)


@pytest.mark.usefixtures("shallow")
def test_a_size_that_is_no_multiple_is_padded_where_it_is_asked_for(settings: Config, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="height 50 is not a multiple of 32"):
        pipeline.check_job(padded_job(settings, tmp_path, pad=False))
    asked = padded_job(settings, tmp_path)
    artifact = pipeline.export(asked)
    assert (artifact.pad, artifact.shape.size, artifact.parity and artifact.parity.passed) == (True, "50x70", True)
    path = Path(asked.path)
    metadata = backends.get("onnxruntime").metadata(path)
    assert metadata["fastvit_bench.pad"] == "zeros, right and below"
    (proof,) = pipeline.verify(path, None, tmp_path).values()
    assert proof.passed
    reference = factory.random("fastvit_t8", Head.CLASSIFIER, 1000, 0, asked.shape).network
    image = torch.from_numpy(verification.images(asked.shape)[0]).double()
    with torch.no_grad(), onnx_session.as_typed(path, 1) as session:
        wanted = reference(torch.nn.functional.pad(image, (0, 96 - 70, 0, 64 - 50))).numpy()
        session.set_input(image.numpy())
        session.run()
        assert np.abs(session.get_output()["logits"] - wanted).max() < 1e-4 * wanted.std()


@pytest.mark.usefixtures("shallow")
def test_a_file_that_pads_on_the_other_sides_fails_its_proof(
    settings: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def left_and_above(x: torch.Tensor, variant: registry.Variant) -> torch.Tensor:
        bottom, right = (-size % variant.stride for size in x.shape[2:])
        return torch.nn.functional.pad(x, (right, 0, bottom, 0))

    monkeypatch.setattr(folded, "padded", left_and_above)
    with pytest.raises(ParityError, match="does not compute what the network computes"):
        pipeline.export(padded_job(settings, tmp_path))


def test_padding_is_a_part_of_the_file_only_where_it_does_something(settings: Config, tmp_path: Path) -> None:
    (spec,) = settings.select(["fastvit_t8"])
    weights, shape = checkpoints.weights_of(spec, 0), Shape(batch=1, height=64, width=96)
    plain, padded = (
        pipeline.job(msgspec.structs.replace(spec, pad=pad), weights, shape, Fuse.FOLDED, CPU, folder=tmp_path)
        for pad in (False, True)
    )
    assert (plain, padded.pad) == (padded, False)
    assert padded_job(settings, tmp_path).key != padded_job(settings, tmp_path, pad=False).key


@pytest.mark.parametrize(
    ("name", "device", "fields", "said"),
    [
        ("cmt_ti", CPU, {}, "cmt_ti takes RGB images of its own sizes"),
        ("cmt_ti", CPU, {"pad": False, "gelu": "tanh"}, "with its own GELU"),
        (
            "fastvit_t8",
            Device(name="gpu", backend="tensorrt", precision="fp16", options={"dynamic": "64..96"}),
            {},
            "A file of several sizes is not padded; leave --pad or --dynamic out",
        ),
        (
            "fastvit_t8",
            Device(name="phone", backend="coreml", precision="fp16"),
            {"channels": 4},
            "fastvit_t8 takes 4 channels; give --input tensor",
        ),
    ],
)
def test_what_cannot_be_is_refused(
    settings: Config, tmp_path: Path, name: str, device: Device, fields: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        pipeline.check_job(padded_job(settings, tmp_path, device, name, **fields))


# --- channels and GELU ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("target", ["onnxruntime", "coreml", "tensorrt", "pytorch", "openvino", "coreai"])
def test_every_toolkit_takes_other_channels_and_sizes_and_gelu_by_tanh(
    settings: Config, tmp_path: Path, target: str
) -> None:
    backend = backends.get(target)
    device = Device(name="x", backend=target, precision=backend.precisions[0])
    if "input" in backend.export_options:
        device = msgspec.structs.replace(device, options={"input": "tensor"})
    if reason := backend.unavailable_reason(device):
        pytest.skip(reason)
    asked = padded_job(settings, tmp_path, device, channels=4, gelu="tanh", classes=10)
    artifact = pipeline.export(asked)
    assert artifact.parity is not None
    assert artifact.parity.passed
    assert (artifact.shape.nchw, artifact.gelu, artifact.pad) == ((1, 4, 50, 70), "tanh", True)
    metadata = backend.metadata(Path(asked.path))
    assert {name: metadata[f"fastvit_bench.{name}"] for name in ("channels", "gelu")} == {
        "channels": "4",
        "gelu": "tanh",
    }
    for proof in pipeline.verify(Path(asked.path), None, tmp_path).values():
        assert proof.passed


@pytest.mark.usefixtures("shallow")
def test_gelu_by_tanh_is_another_network(settings: Config, tmp_path: Path) -> None:
    exact, tanh = (padded_job(settings, tmp_path, gelu=gelu) for gelu in ("erf", "tanh"))
    assert exact.key != tanh.key
    image = torch.from_numpy(verification.images(exact.shape)[0]).double()
    with torch.no_grad():
        outputs = [
            factory.random("fastvit_t8", Head.CLASSIFIER, 10, 0, exact.shape, gelu, pad=True).network(image)
            for gelu in ("erf", "tanh")
        ]
    # beyond what float32 may differ by, so that a file with the other GELU fails its proof
    apart = float((outputs[0] - outputs[1]).abs().max() / outputs[0].std())
    assert apart > 3 * verification.limit("fp32", Head.CLASSIFIER).tolerance


# --- batches ----------------------------------------------------------------------------------------------------------

ANY = Device(name="cpu", backend="onnxruntime", batch=1, options={"batches": "1..6"})


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_one_file_takes_every_batch_of_a_range(settings: Config, tmp_path: Path) -> None:
    asked = job(settings, "fastvit_t8", tmp_path, 32, 64, ANY)
    artifact = pipeline.export(asked)
    assert list(artifact.proofs) == ["batch 1", "batch 3", "batch 6"]
    assert all(proof.passed for proof in artifact.proofs.values())
    path = Path(asked.path)
    graph = onnx.load(path).graph
    for value, sizes in ((graph.input[0], ["batch", 3, 32, 64]), (graph.output[0], ["batch", 1000])):
        assert [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim] == sizes
    kinds = backends.get("onnxruntime").operations(path)
    assert not kinds.keys() & {"Shape", "Gather", "Reshape"}  # an open batch costs nothing
    assert set(pipeline.verify(path, None, tmp_path)) == {"batch 1", "batch 3", "batch 6"}
    reference = factory.random("fastvit_t8", Head.CLASSIFIER, 1000, 0, asked.shape)
    with onnx_session.as_typed(path, 1) as session:  # one session, and a batch beside those of the proof
        for batch in (5, 2):
            shape = msgspec.structs.replace(asked.shape, batch=batch)
            assert verification.prove(verification.reference_outputs(reference, shape), session, "fp32").passed


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
@pytest.mark.parametrize("fused", list(Fuse))
def test_attention_and_layernorm_take_every_batch(settings: Config, tmp_path: Path, fused: Fuse) -> None:
    (spec,) = settings.select(["fastvithd"])
    shape = Shape(batch=2, height=64, width=128)
    device = msgspec.structs.replace(ANY, batch=2)
    asked = pipeline.job(spec, checkpoints.weights_of(spec, 0), shape, fused, device, folder=tmp_path)
    artifact = pipeline.export(asked)
    assert list(artifact.proofs) == ["batch 2", "batch 1", "batch 3", "batch 6"]
    assert all(proof.passed for proof in artifact.proofs.values())


@pytest.mark.parametrize(
    ("options_", "batch", "said"),
    [
        ({"batches": "8"}, 1, "batches = '8': '8' must be two numbers of images, the smaller first, such as 1..8"),
        ({"batches": "8..1"}, 1, "the smaller first"),
        ({"batches": "0..8"}, 1, "the smaller first"),
        ({"batches": "1..99999"}, 1, "the smaller first"),
        ({"batches": "2..8"}, 1, "batches of 1 are not within 2..8"),
        ({"batches": "1..8", "provider": "cuda"}, 1, "unknown option 'batches'"),
    ],
)
def test_a_range_of_batches_is_two_numbers_and_holds_the_devices_own(
    options_: dict[str, str], batch: int, said: str
) -> None:
    device = Device(name="cpu", backend="onnxruntime", batch=batch, options=options_)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=said) as caught:
        backends.get("onnxruntime").options(device)
    assert "\n" not in str(caught.value)


@hypothesis.given(text=strategies.text(alphabet="0123456789.- x٣", max_size=12))
def test_a_batch_on_the_command_line_is_a_number_or_a_range(text: str) -> None:
    try:
        least, range_ = options.images_per_run(text)
    except UsageError:
        return
    assert least > 0
    assert range_ == text if ".." in text else int(text) == least


def test_another_target_has_no_range_of_batches() -> None:
    backend = backends.get("coreml")
    with pytest.raises(UsageError, match=r"--batch A\.\.B means nothing for --target coreml"):
        options.export_device("coreml", backend, None, 1, {"batches": "1..8"})
