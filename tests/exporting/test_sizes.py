"""Image sizes of a file: by its network's own stride."""

from pathlib import Path

import msgspec
import onnx
import pytest

from fastvit_bench import backends, options
from fastvit_bench.backends._onnx import session as onnx_session
from fastvit_bench.backends.tensorrt import BACKEND as TENSORRT
from fastvit_bench.config import Config
from fastvit_bench.errors import UsageError
from fastvit_bench.exporting import checkpoints, pipeline, verification
from fastvit_bench.network import factory, registry
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
    with pytest.raises(UsageError, match="224 is not a multiple of 64"):
        options.sweep_shapes(settings, "224..512", specs, 1)


def test_gates_exports_and_accuracies_know_the_stride(settings: Config, tmp_path: Path) -> None:
    (spec,) = settings.select(["fastvit_mci3"])
    with pytest.raises(UsageError, match="224 is not a multiple of 64"):
        options.gate_selection(settings, ["fastvit_mci3"], None, 1)
    with pytest.raises(UsageError, match="96 is not a multiple of 64"):
        options.square_shape("96", [spec], 1)
    device = options.export_device("onnx", backends.get("onnxruntime"), None, 1, {})
    how = {"fuse": Fuse.FOLDED, "seed": 0, "multifunction": False, "classifier": None, "output": None, "force": False}
    with pytest.raises(UsageError, match="96 is not a multiple of 64"):
        options.export_jobs(settings, spec, device, res="96", **how)  # type: ignore[arg-type]
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
