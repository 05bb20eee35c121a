"""Core ML on this Mac: the real coremltools over a stand-in for its native code, which this machine does not have."""

import gc
import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import apple

from fastvit_bench import backends
from fastvit_bench.backends import Images
from fastvit_bench.backends.coreml import CHOICES
from fastvit_bench.backends.coreml import device as local
from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.exporting import verification
from fastvit_bench.measuring import latency
from fastvit_bench.records import METHODS, CallPattern, Method, Protocol, Shape, Unit, Window

SHAPE = Shape(batch=1, height=apple.SIZE[0], width=apple.SIZE[1])
QUICK = Method(warmup=2, runs=3)


def read(path: Path, method: Method = QUICK, **options: Any) -> latency.TimedRuns:
    """Time a package as a worker does."""
    device = apple.profile(**options)
    return latency.read(
        lambda: local.open(path, device), lambda session: verification.images(SHAPE, session.images)[0], method
    )


# --- what is called is what is installed ------------------------------------------------------------------------------


def parameters(function: Any) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_calls_are_those_of_the_installed_coremltools() -> None:
    model = apple.module("models.model").MLModel
    assert "compute_units" in parameters(model.__init__)
    assert parameters(model.__init__)[:2] == ["self", "model"]
    assert parameters(model.predict) == ["self", "data", "state"]
    assert inspect.signature(model.predict).parameters["state"].default is None
    assert parameters(model.get_compiled_model_path) == ["self"]
    for name in ("load_duration_in_nano_seconds", "last_predict_duration_in_nano_seconds"):
        assert isinstance(getattr(model, name), property)
    plans = apple.module("models.compute_plan")
    assert parameters(plans.MLComputePlan.load_from_path) == ["path", "compute_units"]
    assert isinstance(plans.MLComputePlan.model_structure, property)
    for name in ("compute_device_usage", "estimated_cost"):
        assert parameters(getattr(plans.MLComputePlan, f"get_{name}_for_mlprogram_operation")) == ["self", "operation"]
    fields = {
        "MLModelStructure": {"program"},
        "MLModelStructureProgram": {"functions"},
        "MLModelStructureProgramFunction": {"block"},
        "MLModelStructureProgramBlock": {"operations"},
        "MLModelStructureProgramOperation": {"operator_name", "outputs", "blocks"},
        "MLModelStructureProgramNamedValueType": {"name"},
        "MLComputePlanDeviceUsage": {"preferred_compute_device", "supported_compute_devices"},
        "MLComputePlanCost": {"weight"},
    }
    for kind, wanted in fields.items():
        assert wanted <= set(getattr(plans, kind).__dataclass_fields__), kind
    devices = apple.module("models.compute_device")
    for kind in ("CPU", "GPU", "NeuralEngine"):
        assert issubclass(getattr(devices, f"ML{kind}ComputeDevice"), devices.MLComputeDevice)


def test_every_compute_units_option_is_one_of_coremltools() -> None:
    units = apple.module("models.model")._ComputeUnit
    assert set(local.COMPUTE_UNITS) == set(CHOICES["compute_units"])
    assert set(local.COMPUTE_UNITS.values()) == set(units.__members__)


# --- where it can run -------------------------------------------------------------------------------------------------


def test_another_system_is_told_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local.platform, "system", lambda: "Linux")
    device = apple.profile("iphone12pro")
    reason = local.device_unavailable_reason(device)
    assert reason is not None
    assert "Apple hardware only" in reason
    assert "fastvit-bench import FILE.mlperf --device iphone12pro" in reason
    with pytest.raises(UnavailableError, match="Apple hardware only"), local.open(Path("x.mlpackage"), device):
        pass
    assert local.detect_hardware(apple.profile()) is None


def test_a_mac_needs_the_native_library(mac: apple.Mac, monkeypatch: pytest.MonkeyPatch) -> None:
    assert local.device_unavailable_reason(apple.profile()) is None
    (local.toolkit_folder() / "libcoremlpython.so").unlink()
    assert "--force-reinstall coremltools" in str(local.device_unavailable_reason(apple.profile()))
    monkeypatch.setattr(local, "toolkit_folder", lambda: None)
    assert local.device_unavailable_reason(apple.profile()) is not None


def test_asking_does_not_import_coremltools() -> None:
    program = (
        "import sys, platform\n"
        "platform.system = lambda: 'Darwin'\n"
        "from fastvit_bench.backends.coreml import device\n"
        "from fastvit_bench.records import Device\n"
        "for location in ('this-mac', 'connected'):\n"
        "    device.device_unavailable_reason(Device(name='x', backend='coreml', options={'location': location}))\n"
        "assert device.toolkit_folder().name == 'coremltools'\n"
        "print(sorted({'coremltools', 'numpy', 'torch', 'PIL'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- timing -----------------------------------------------------------------------------------------------------------


def test_an_image_package_is_timed_by_core_ml(mac: apple.Mac, tmp_path: Path) -> None:
    reading = read(apple.package(tmp_path / "x.mlpackage"), compute_units="cpu-and-ne")
    assert reading.samples_ns == ((1_000_002, 1_000_003, 1_000_004),)
    assert (reading.window, reading.pacing) == (Window.PREDICTION, CallPattern.BACK_TO_BACK)
    assert reading.clock == "Core ML (mach_absolute_time)"
    assert reading.load_ns == (5_000_000,)
    assert mac.events[0] == ("load", "CPU_AND_NE", "")
    assert mac.events[-1] == ("unload",)
    picture = mac.events[1][1]["image"]
    assert (picture.mode, picture.size) == ("RGB", (6, 4))
    assert np.array_equal(np.asarray(picture), verification.images(SHAPE, Images.PIXELS)[0][0])


def test_the_stopwatch_can_be_asked_for(mac: apple.Mac, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(0, 1000, 5))
    monkeypatch.setattr(latency.time, "perf_counter_ns", lambda: next(ticks))
    reading = read(apple.package(tmp_path / "x.mlpackage"), window="end-to-end")
    assert reading.samples_ns == ((5, 5, 5),)
    assert (reading.window, reading.clock) == (Window.END_TO_END, latency.CLOCK)


@pytest.mark.parametrize("takes", ["float16", "float32"])
def test_a_tensor_package_gets_the_declared_numbers(mac: apple.Mac, tmp_path: Path, takes: str) -> None:
    path = apple.package(tmp_path / "x.mlpackage", takes=takes)
    batch = verification.images(SHAPE)[0]
    with local.open(path, apple.profile(input="tensor")) as session:
        assert isinstance(session, local.LocalSession)
        assert session.images is Images.TENSOR
        session.set_input(batch)
        fed = session._input["image"]
        session.run()
    assert mac.events[1][1]["image"] is fed  # coremltools would widen what is narrower, within the stopwatch's window
    assert fed.dtype == np.float32
    assert np.array_equal(fed, batch.astype(takes))


def test_modelbench_loads_the_package_anew_for_each_round(
    mac: apple.Mac, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(latency.gc, "collect", lambda: 0)  # twenty times, with PyTorch in memory, takes seconds
    mac.plan = RuntimeError("MLComputePlan is only available on macOS >= 14.4")
    reading = read(apple.package(tmp_path / "x.mlpackage"), METHODS[Protocol.MODELBENCH])
    assert [len(samples) for samples in reading.samples_ns] == [50] * 20
    assert len(reading.load_ns) == 20
    order = [event[0] for event in mac.events if event[0] in {"load", "unload", "plan"}]
    assert order == ["load", "unload"] * 19 + ["load", "plan", "unload"]
    assert mac.count("predict") == 20 * 51
    assert reading.placement is None


def test_outputs_are_copies_in_the_order_of_the_package(mac: apple.Mac, tmp_path: Path) -> None:
    maps = [f"feature{i}" for i in range(4)]
    mac.outputs = {name: np.full((1, 2), i, np.float32) for i, name in reversed(list(enumerate(maps)))}
    with local.open(apple.package(tmp_path / "x.mlpackage", gives=maps), apple.profile()) as session:
        session.set_input(verification.images(SHAPE, session.images)[0])
        session.run()
        session.wait()
        found = session.get_output()
    assert list(found) == maps
    mac.outputs["feature3"][:] = 9
    assert found["feature3"].tolist() == [[3, 3]]


def test_a_classifier_gives_its_probabilities(mac: apple.Mac, tmp_path: Path) -> None:
    path = apple.package(tmp_path / "x.mlpackage", gives=["classLabel", "classLabel_probs"])
    mac.outputs = {"classLabel": "newt", "classLabel_probs": {"newt": 0.7, "asp": 0.1, "eel": 0.2}}
    with local.open(path, apple.profile()) as session:
        session.set_input(verification.images(SHAPE, session.images)[0])
        session.run()
        found = session.get_output()
    assert {name: values.tolist() for name, values in found.items()} == {"classLabel_probs": [0.1, 0.2, 0.7]}


@pytest.mark.parametrize(
    ("takes", "batch"),
    [
        ("image", np.zeros((1, 6, 4, 3), np.uint8)),
        ("image", np.zeros((2, 4, 6, 3), np.uint8)),
        ("image", np.zeros((1, 4, 6, 3), np.float32)),
        ("float16", np.zeros((2, 3, 4, 6), np.float32)),
        ("float16", np.zeros((1, 3, 4, 6), np.uint8)),
    ],
)
def test_another_input_is_refused(mac: apple.Mac, tmp_path: Path, takes: str, batch: Any) -> None:
    path = apple.package(tmp_path / "x.mlpackage", takes=takes)
    with local.open(path, apple.profile()) as session, pytest.raises(UsageError, match="The package takes"):
        session.set_input(batch)


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_a_refused_package_is_one_sentence(mac: apple.Mac, tmp_path: Path) -> None:
    mac.refusal = 'Error compiling model: "Failed to parse\n the program."'
    with pytest.raises(UnavailableError) as caught:
        read(apple.package(tmp_path / "x.mlpackage"))
    assert (
        str(caught.value) == 'Core ML cannot load x.mlpackage: Error compiling model: "Failed to parse the program.".'
    )


def test_a_package_newer_than_the_system_is_one_sentence(mac: apple.Mac, tmp_path: Path) -> None:
    path = apple.package(tmp_path / "x.mlpackage", functions=["r32", "r64"])  # of specification version 9
    with pytest.raises(UnavailableError, match=r"cannot load x.mlpackage: This model was not loaded"):
        read(path)


def test_no_package_is_one_sentence(mac: apple.Mac, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"no such package"):
        read(tmp_path / "x.mlpackage")


def test_a_failing_prediction_is_one_sentence_and_ends_the_session(mac: apple.Mac, tmp_path: Path) -> None:
    mac.failure = "Unable to compute the prediction using ML Program.\nMore."
    with pytest.raises(UnavailableError) as caught:
        read(apple.package(tmp_path / "x.mlpackage"))
    assert str(caught.value) == "Core ML cannot run the package: Unable to compute the prediction using ML Program."
    del caught  # its traceback holds what failed
    gc.collect()
    assert mac.events[-1] == ("unload",)


def test_a_clock_that_tells_nothing_leads_to_the_stopwatch(mac: apple.Mac, tmp_path: Path) -> None:
    mac.durations = iter([None] * 9)  # type: ignore[assignment, list-item]
    mac.load_ns = None
    with pytest.raises(UnavailableError, match=r'window = "end-to-end" in the options of \[device.mac\]'):
        read(apple.package(tmp_path / "x.mlpackage"))
    mac.durations = iter([None] * 9)  # type: ignore[assignment, list-item]
    assert read(tmp_path / "x.mlpackage", window="end-to-end").load_ns == ()


def test_images_need_pillow(mac: apple.Mac, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UnavailableError, match=r"pip install .*pillow"):
        read(apple.package(tmp_path / "x.mlpackage"))


# --- placement --------------------------------------------------------------------------------------------------------


def test_the_plan_is_told_in_program_order(mac: apple.Mac, planner: apple.Planner, tmp_path: Path) -> None:
    inner = planner.block(planner.operation("ios16.mul", "inner"), planner.operation("const", "weight"))
    main = planner.block(
        planner.operation("const", "kernel"),
        planner.operation("ios16.conv", "first"),
        planner.operation("while_loop", "looped", inner, planner.block(planner.operation("ios16.add", "second"))),
        planner.operation("ios16.softmax", "last"),
    )
    usage = {
        "first": ("ne", "cpu gpu ne", 0.75),
        "looped": ("cpu", "cpu", None),
        "inner": ("gpu", "cpu gpu", 0.125),
        "second": ("ne", "ne cpu", 0.0),
        "last": ("cpu", "cpu gpu", 0.125),
    }
    mac.plan = planner.plan({"main": main}, usage)
    placement = read(apple.package(tmp_path / "x.mlpackage"), compute_units="cpu-only").placement
    assert ("plan", "/private/var/folders/T/model.mlmodelc", "CPU_ONLY") in mac.events
    assert placement is not None
    assert [(each.kind, each.output, each.cost) for each in placement.operations] == [
        ("ios16.conv", "first", 0.75),
        ("while_loop", "looped", None),
        ("ios16.mul", "inner", 0.125),
        ("ios16.add", "second", 0.0),
        ("ios16.softmax", "last", 0.125),
    ]
    assert placement.operations[0].supported == (Unit.CPU, Unit.GPU, Unit.NEURAL_ENGINE)
    assert placement.counts == {Unit.NEURAL_ENGINE: 2, Unit.GPU: 1, Unit.CPU: 2}
    assert placement.costs == {Unit.NEURAL_ENGINE: 0.75, Unit.GPU: 0.125, Unit.CPU: 0.125}


@pytest.mark.parametrize("name", ["r32", "main"])  # as the package calls its default function, or as Core ML may
def test_of_several_functions_the_default_one_is_placed(planner: apple.Planner, name: str) -> None:
    functions = {name: planner.block(planner.operation("ios16.conv", "a"))}
    if name == "r32":
        functions = {"r16": planner.block(planner.operation("ios16.conv", "b"))} | functions
    usage = dict.fromkeys("ab", ("gpu", "gpu", None))
    placement = local.placed(planner.plan(functions, usage), "r32")
    assert placement is not None
    assert [each.output for each in placement.operations] == ["a"]


@pytest.mark.parametrize(
    "plan", [RuntimeError("only available on macOS >= 14.4"), AttributeError("get_compute_plan"), None]
)
def test_for_the_want_of_a_plan_no_measurement_is_lost(mac: apple.Mac, tmp_path: Path, plan: Any) -> None:
    mac.plan = plan
    reading = read(apple.package(tmp_path / "x.mlpackage"))
    assert reading.placement is None
    assert len(reading.samples_ns[0]) == 3


def test_a_neural_network_and_an_unknown_unit_have_no_placement(
    mac: apple.Mac, planner: apple.Planner, tmp_path: Path
) -> None:
    assert local.placed(planner.plan(None, {}), "main") is None
    with pytest.raises(ValueError, match="unknown kind: str"):
        local._unit("a quantum unit")


def test_the_backend_opens_its_packages_here(mac: apple.Mac, tmp_path: Path) -> None:
    path = apple.package(tmp_path / "x.mlpackage")
    with backends.get("coreml").open(path, apple.profile()) as session:
        assert isinstance(session, local.LocalSession)
