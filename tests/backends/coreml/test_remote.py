"""Core ML on a connected device: the real coremltools over stand-ins for Xcode's commands and what answers them."""

import gc
import inspect
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import apple

from fastvit_bench.backends import Hardware
from fastvit_bench.backends.coreml import device as local
from fastvit_bench.backends.coreml import remote
from fastvit_bench.errors import ExitCode, UnavailableError, UsageError
from fastvit_bench.exporting import verification
from fastvit_bench.measuring import latency
from fastvit_bench.records import CallPattern, Method, Shape, Statistic, Unit, Window

SHAPE = Shape(batch=1, height=apple.SIZE[0], width=apple.SIZE[1])
QUICK = Method(warmup=1, runs=2)
TEAM = "ABCDE12345"


def profile(**changes: Any) -> Any:
    usual = {"name": "iphone12pro", "match": "iPhone13,3", "location": "connected", "input": "tensor", "team": TEAM}
    return apple.profile(**(usual | changes))


def read(path: Path, method: Method = QUICK, **changes: Any) -> latency.TimedRuns:
    """Time a package as a worker does."""
    device = profile(**changes)
    return latency.read(
        lambda: local.open(path, device), lambda session: verification.images(SHAPE, session.images)[0], method
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return apple.package(tmp_path / "x.mlpackage", takes="float16")


# --- what is called is what is installed ------------------------------------------------------------------------------


def test_the_calls_are_those_of_the_installed_coremltools() -> None:
    devices = apple.module("models.ml_program.experimental.remote_device")
    wrapper = apple.module("models.ml_program.experimental.async_wrapper")

    def parameters(function: Any) -> list[str]:
        return list(inspect.signature(function).parameters)

    described = ["name", "type", "identifier", "udid", "os_version", "os_build_number", "developer_mode_state"]
    assert parameters(devices.Device) == [*described, "state", "session"]
    assert devices.DeviceType("iphone") is devices.DeviceType.IPHONE
    assert devices.DeviceType("ipad") is devices.DeviceType.IPAD
    assert devices.DeviceState.CONNECTED.value == "connected"
    credentials = ["development_team", "provisioning_profile_uuid", "bundle_identifier"]
    assert parameters(devices.AppSigningCredentials) == credentials
    prepare = devices.Device.prepare_for_model_debugging
    assert parameters(prepare) == ["self", "credentials", "working_directory", "clean"]
    assert inspect.iscoroutinefunction(prepare)
    # what our own list takes the place of
    assert parameters(devices.Device.get_connected_devices) == ["device_type"]
    assert parameters(devices.Device.get_devices) == []
    assert {"stop", "is_alive"} <= set(dir(devices._AppSession))
    assert "working_directory" in parameters(devices._AppSession)
    make = wrapper.MLModelAsyncWrapper.from_spec_or_path
    wanted = ["spec_or_path", "weights_dir", "compute_units", "function_name", "optimization_hints", "device"]
    assert parameters(make) == wanted
    model = wrapper.RemoteMLModelAsyncWrapper
    assert parameters(model.predict) == ["self", "inputs", "state"]
    for name in ("load", "predict", "retrieve_compute_plan", "unload"):
        assert inspect.iscoroutinefunction(getattr(model, name))
    for name in ("load_duration_in_nano_seconds", "last_predict_duration_in_nano_seconds"):
        assert isinstance(getattr(model, name), property)


def test_the_limits_that_the_session_works_around_are_still_there() -> None:
    """When one of these fails after an upgrade, something in remote.py can go."""
    devices = apple.module("models.ml_program.experimental.remote_device")
    with pytest.raises(ValueError, match="not supported"):  # image inputs
        devices._TensorDescriptor._to_multi_array_dtype(np.dtype(np.uint8))
    assert "delete=False" in inspect.getsource(devices._RemoteMLModelService._prepare_data_for_transfer)
    assert 'f"devicectl device copy' in inspect.getsource(devices._DeviceCtl.send_file_to_app)
    assert "message=e.stderr" in inspect.getsource(devices._AppBuilder.build)


# --- which device -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("match", ["iPhone13,3", "iphone 12 pro", "iPhone", None])
def test_the_connected_device_is_found(xcode: apple.Xcode, match: str | None) -> None:
    assert local.detect_hardware(profile(match=match)) == Hardware("iPhone 12 Pro (iPhone13,3)", "iOS 17.5.1 (21F90)")


def test_an_ipad_has_its_own_system(xcode: apple.Xcode) -> None:
    xcode.devices = [apple.entry("iPad14,8", "iPad Air 11-inch (M2)", kind="iPad")]
    assert local.detect_hardware(profile(match="iPad Air")) == Hardware(
        "iPad Air 11-inch (M2) (iPad14,8)", "iPadOS 17.5.1 (21F90)"
    )


def test_the_list_of_xcode_27_is_read(xcode: apple.Xcode) -> None:
    xcode.devices = [apple.entry_27()]
    assert local.detect_hardware(profile()) == Hardware("iPhone 12 Pro (iPhone13,3)", "iOS 27.0")


def test_a_device_that_says_nothing_of_its_reality_is_real(xcode: apple.Xcode) -> None:
    xcode.devices = [apple.entry(reality=None)]
    assert remote.find(profile()).identifier == xcode.devices[0]["identifier"]


def test_an_exact_name_goes_before_one_that_holds_it(xcode: apple.Xcode) -> None:
    xcode.devices = [apple.entry(), apple.entry("iPhone13,4", "iPhone 12 Pro Max", number=2)]
    assert remote.find(profile(match="iPhone 12 Pro")).product == "iPhone13,3"
    assert remote.find(profile(match="Max")).product == "iPhone13,4"


def test_a_cable_goes_before_a_network(xcode: apple.Xcode) -> None:
    xcode.devices = [apple.entry(number=2, transport="localNetwork"), apple.entry()]
    assert remote.find(profile()).udid.endswith("0001E")


def test_a_closed_tunnel_is_opened_by_asking_the_device(xcode: apple.Xcode) -> None:
    closed = apple.entry(tunnel="disconnected", developer_mode="disabled")  # the list is out of date
    xcode.devices = [closed]
    xcode.plan(details={closed["identifier"]: apple.entry()})
    assert remote.find(profile()).tunnel == "connected"


@pytest.mark.parametrize(
    ("devices", "said"),
    [
        ([], "connected to this Mac is no iPhone or iPad; connect it by cable, unlock it, tap Trust"),
        ([apple.entry("iPhone16,1", "iPhone 15 Pro")], r"'iPhone13,3', and .* is iPhone 15 Pro \(iPhone16,1\), iOS 17"),
        ([apple.entry(tunnel="unavailable")], "connected to this Mac is no iPhone or iPad"),
        ([apple.entry(kind="appleWatch")], "connected to this Mac is no iPhone or iPad"),
        ([apple.entry(reality="simulated", transport="sameMachine")], "Only a simulator fits device 'iphone12pro'"),
        ([apple.entry(reality=None, visibilityClass="simulators")], "Only a simulator fits"),
        ([apple.entry(), apple.entry(number=2)], r"could be any of iPhone 12 Pro .*, iPhone 12 Pro .*; unplug all but"),
        (
            [apple.entry(tunnel="disconnected")],
            r"\(Xcode's `devicectl device info details` failed: ERROR: The device is locked.*\); connect",
        ),
        ([apple.entry(developer_mode="disabled")], "Developer Mode; switch it on"),
    ],
)
def test_another_state_of_affairs_is_one_sentence(xcode: apple.Xcode, devices: Any, said: str) -> None:
    xcode.devices = devices
    with pytest.raises(UnavailableError, match=said) as caught:
        local.detect_hardware(profile())
    assert caught.value.exit_code is ExitCode.UNAVAILABLE
    assert "Person" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("answer", ["not JSON", "{}", '{"result": []}'])
def test_an_answer_that_cannot_be_read_is_one_sentence(
    xcode: apple.Xcode, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    def run(command: list[str], **_: Any) -> None:
        Path(command[-1]).write_text(answer, encoding="utf-8")

    monkeypatch.setattr(remote.subprocess, "run", run)
    with pytest.raises(UnavailableError, match="`devicectl list devices` failed: "):
        remote.find(profile())


def test_a_command_that_does_not_end_is_one_sentence(xcode: apple.Xcode, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "_PATIENCE_S", 0.001)
    with pytest.raises(UnavailableError, match=r"`devicectl list devices` failed: .* timed out"):
        remote.find(profile())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"team": ""},
            r"an Apple development team; set team = \"ABCDE12345\" in the options of \[device.iphone12pro\]",
        ),
        ({"team": "x; rm -rf /"}, "is no Apple team id"),
        ({"window": "end-to-end"}, 'time the cable of device .*; set window = "prediction"'),
        ({"input": "image"}, 'nothing but tensors to connected devices; set input = "tensor"'),
    ],
)
def test_options_that_cannot_be_met_are_refused_before_anything_is_built(
    xcode: apple.Xcode, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        local.detect_hardware(profile(**options))


def test_a_mac_without_xcode_says_so(xcode: apple.Xcode, monkeypatch: pytest.MonkeyPatch) -> None:
    assert local.device_unavailable_reason(profile()) is None
    (xcode.tools / "devicectl").unlink()
    assert "install Xcode 15 or later" in str(local.device_unavailable_reason(profile()))
    monkeypatch.setenv("PATH", "/nowhere")
    assert "install Xcode 15 or later" in str(local.device_unavailable_reason(profile()))
    with pytest.raises(UnavailableError, match="Device 'iphone12pro' cannot run here: devicectl is missing"):
        local.detect_hardware(profile())
    shutil.rmtree(local.toolkit_folder() / "modelrunner")
    assert "--force-reinstall coremltools" in str(local.device_unavailable_reason(profile()))


def test_another_system_is_told_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local.platform, "system", lambda: "Linux")
    with pytest.raises(UnavailableError, match="Apple hardware only"):
        local.detect_hardware(profile())


# --- timing -----------------------------------------------------------------------------------------------------------


def test_a_package_is_timed_on_the_device(xcode: apple.Xcode, path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert shutil.which("devicectl") is None  # coremltools calls it by that name
    reading = read(path, compute_units="cpu-and-ne")
    assert reading.samples_ns == ((2_000_001, 2_000_002),)
    assert (reading.window, reading.pacing) == (Window.PREDICTION, CallPattern.REMOTE_CALL)
    assert reading.clock == "Core ML on the device (mach_absolute_time)"
    assert reading.load_ns == (7_000_000,)
    assert reading.placement is None  # the app answers that the device's system is too old
    events = list(xcode.log)
    events.remove("launch the.app")  # its process may be slower than the service to say so
    assert events == [
        "install modelrunner.app",
        "MLModelService.Load",
        *["MLModelService.Prediction"] * 3,
        "MLModelService.ComputePlan",
        "MLModelService.Unload",
    ]
    assert xcode.received().dtype == np.float16
    assert np.array_equal(xcode.received(), verification.images(SHAPE)[0].astype(np.float16))
    assert xcode.ended()
    assert capfd.readouterr().err == ""  # of coremltools' progress bars


def test_outputs_come_back_and_nothing_else_is_left(
    xcode: apple.Xcode, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "T"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    surroundings = os.environ["PATH"], sys.stderr
    with local.open(path, profile()) as session:
        session.set_input(verification.images(SHAPE)[0])
        session.run()
        session.wait()
        assert session.get_output()["logits"].tolist() == apple.LOGITS.tolist()
    assert (os.environ["PATH"], sys.stderr) == surroundings
    assert list(temporary.iterdir()) == []
    cache = tmp_path / "home" / "Library" / "Caches" / "fastvit-bench"
    assert {file.name for file in cache.rglob("*") if not list(file.glob("*"))} == {"modelrunner.app"}


@pytest.mark.slow
def test_the_app_is_built_once_and_signed_by_the_team(xcode: apple.Xcode, path: Path) -> None:
    reading = read(
        path, Method(warmup=1, runs=1, rounds=2, statistic=Statistic.TRIMMED_MEAN, loading="per-round"), match=None
    )
    assert reading.samples_ns == ((2_000_001,), (2_000_003,))
    assert reading.load_ns == (7_000_000, 7_000_000)
    assert [event for event in xcode.log if "Service" not in event] == ["install modelrunner.app", "launch the.app"] * 2
    assert len(xcode.builds) == 1
    assert f"DEVELOPMENT_TEAM={TEAM}" in xcode.builds[0]
    assert "PRODUCT_BUNDLE_IDENTIFIER=fastvit-bench.modelrunner.abcde12345" in xcode.builds[0]
    assert "id=00008101-000000000000001E" in xcode.builds[0]


def test_the_plan_of_the_device_is_told(xcode: apple.Xcode, planner: apple.Planner, path: Path) -> None:
    plan = planner.plan({"main": planner.block(planner.operation("conv", "a"))}, {"a": ("ne", "ne", 1.0)})

    async def retrieve_compute_plan() -> Any:
        return plan

    with local.open(path, profile()) as session:
        assert isinstance(session, remote.RemoteSession)
        session._model.retrieve_compute_plan = retrieve_compute_plan
        placement = session.placement()
    assert placement is not None
    assert placement.counts[Unit.NEURAL_ENGINE] == 1


# --- what goes wrong --------------------------------------------------------------------------------------------------


# coremltools' own destructor tries to unload the model once more, through an event loop that is closed by then
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_unplugged_device_is_one_sentence_and_ends_the_session(xcode: apple.Xcode, path: Path) -> None:
    xcode.plan(unplugged_after=2)
    with pytest.raises(UnavailableError) as caught:
        read(path)
    said = "iPhone 12 Pro (iPhone13,3), iOS 17.5.1 (21F90) cannot run the package (its app has ended): ERROR: The"
    assert str(caught.value).startswith(said)
    assert "; check the cable, " in str(caught.value)
    assert xcode.ended()
    del caught  # what holds the model, so that its destructor runs within this test
    gc.collect()


def test_a_package_that_does_not_load_ends_the_session(xcode: apple.Xcode, path: Path) -> None:
    xcode.plan(refusal="Error in building plan")
    with pytest.raises(UnavailableError, match=r"cannot load x.mlpackage: Error in building plan; check the cable"):
        read(path)
    assert xcode.ended()


@pytest.mark.slow
def test_an_app_that_cannot_be_signed_is_told_in_xcodes_words_and_built_anew(xcode: apple.Xcode, path: Path) -> None:
    (xcode.folder / "unsigned").touch()
    with pytest.raises(UnavailableError, match=r"cannot start its app on iPhone 12 Pro .*: error: No Accounts; unlock"):
        read(path)
    (xcode.folder / "unsigned").unlink()
    read(path)
    assert len(xcode.builds) == 2


def test_a_device_that_tells_no_duration_leads_to_xcode(xcode: apple.Xcode, path: Path) -> None:
    xcode.plan(mute=True)
    with pytest.raises(UnavailableError, match="did not report how long the prediction took"):
        read(path)
    assert xcode.ended()
    assert xcode.log[-1] == "MLModelService.Unload"


def test_images_and_labels_are_refused(xcode: apple.Xcode, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"x.mlpackage takes an image, and .* set input = \"tensor\""):
        read(apple.package(tmp_path / "x.mlpackage"))
    path = apple.package(tmp_path / "y.mlpackage", takes="float16", gives=["classLabel", "classLabel_probs"])
    with pytest.raises(UsageError, match="export it without --classifier"):
        read(path)
    assert xcode.log == []


def test_a_path_with_spaces_is_refused(xcode: apple.Xcode, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(path.parent / "a home"))
    with pytest.raises(UnavailableError, match="path with spaces"):
        read(path)
    assert xcode.builds == []
