"""Core ML on an iPhone or iPad that is connected to this Mac, through coremltools' remote device support.

coremltools builds its ModelRunner app with Xcode, installs it and starts it. It exchanges files with the app that
Xcode's `devicectl` copies, in four processes for each prediction. The durations are read on the device, around Core
ML's call, so they exclude the copies. But the device idles during the copies, and does not stay in the state of
predictions back to back. Hence `CallPattern.REMOTE_CALL`.

That support is marked experimental. Written against the signatures of coremltools 9.0, which tests compare with the
installed package. Tests drive it with stand-ins for Apple's commands; it has not yet run on Apple hardware.
"""

import asyncio
import contextlib
import importlib
import itertools
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from fastvit_bench import files, install
from fastvit_bench.backends import Hardware, Session
from fastvit_bench.backends._text import first_line
from fastvit_bench.backends.coreml import device as local
from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.records import CallPattern, Device, Placement, Window

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fastvit_bench.backends.coreml.program import Function

CLOCK = "Core ML on the device (mach_absolute_time)"

_EXPERIMENTAL = "coremltools.models.ml_program.experimental"
_PATIENCE_S = 90.0  # for one answer of devicectl, which may have to open a tunnel to the device first
_CONNECT = (
    "connect it by cable, unlock it, tap Trust, and switch on Settings > Privacy & Security > Developer Mode "
    "(iOS 17 or later)"
)


def device_unavailable_reason(toolkit: Path) -> str | None:
    """Return why no connected device can be used from this Mac, and the remedy, or None.

    `toolkit` is the folder in which coremltools is installed.
    """
    if not (toolkit / "modelrunner").is_dir():
        return (
            "coremltools is installed without the app it runs on connected devices; "
            f"run: {install.pip('install', '--force-reinstall', 'coremltools')}"
        )
    if _tool_folder() is None:
        return (
            "devicectl is missing; install Xcode 15 or later (its command line tools alone do not do), and run: "
            "sudo xcode-select --switch /Applications/Xcode.app"
        )
    return None


def _tool_folder() -> Path | None:
    """Return the folder of Xcode that holds devicectl, or None."""
    try:
        completed = subprocess.run(["xcrun", "--find", "devicectl"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return Path(completed.stdout.strip()).parent


# --- which device -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Connected:
    """A device as devicectl lists it, without its owner's name for it."""

    identifier: str  # devicectl's
    udid: str
    kind: str  # iphone, ipad, or another kind that devicectl lists
    product: str  # such as iPhone13,3
    marketing: str  # such as iPhone 12 Pro
    version: str
    build: str
    tunnel: str  # connected, disconnected, unavailable
    wired: bool
    developer_mode: str  # enabled, disabled; empty where it is not known
    simulated: bool

    @property
    def hardware(self) -> Hardware:
        """The marketing name and product type, and the system with version and build."""
        system = "iPadOS" if self.kind == "ipad" else "iOS"
        build = f"({self.build})" if self.build else ""
        driver = " ".join(text for text in (system, self.version, build) if text)
        return Hardware(name=f"{self.marketing} ({self.product})", driver=driver)


def detect_hardware(device: Device) -> Hardware:
    """Return the hardware of the connected device that `device` is meant for.

    Raises the errors of `find`, and `UsageError` for options that its session would refuse.
    """
    local.require(device)
    _team(device)
    if device.options["input"] == "image":
        raise UsageError(_takes_images(f"Device '{device.name}'", device))
    return find(device).hardware


def find(device: Device) -> Connected:
    """Return the one connected device whose product type or marketing name is, or else contains, ``match``.

    Raises `UnavailableError` where there is none or more than one; it lists the connected devices.
    """
    listed = [_parsed(entry) for entry in _devicectl("list", "devices").get("devices", [])]
    mobile = [candidate for candidate in listed if candidate.kind in {"iphone", "ipad"}]
    fitting = _fitting(mobile, device.match)
    real = _reachable(fitting)
    ready: list[Connected] = []
    refusal = ""
    for candidate in [candidate for candidate in real if candidate.wired] or real:
        try:
            ready.append(candidate if candidate.tunnel == "connected" else _refreshed(candidate))
        except UnavailableError as error:
            refusal = str(error).rstrip(".")
    if not ready:
        raise UnavailableError(_none_ready(device, fitting, mobile, refusal))
    if len(ready) > 1:
        raise UnavailableError(
            f"Device '{device.name}' could be any of {_names(ready)}; unplug all but one, or give its [device.*] "
            'the product type as match, such as match = "iPhone13,3".'
        )
    if ready[0].developer_mode == "disabled":
        raise UnavailableError(
            f"{_names(ready)} runs apps of Xcode only in Developer Mode; switch it on in "
            "Settings > Privacy & Security > Developer Mode."
        )
    return ready[0]


def _fitting(candidates: list[Connected], match: str | None) -> list[Connected]:
    """Return the devices whose product type or marketing name is, or else contains, `match`."""
    if match is None:
        return candidates
    wanted = match.lower()
    exact = [device for device in candidates if wanted in {device.product.lower(), device.marketing.lower()}]
    return exact or [
        device for device in candidates if any(wanted in name.lower() for name in (device.product, device.marketing))
    ]


def _reachable(candidates: list[Connected]) -> list[Connected]:
    """Return the devices without simulators and without those that this Mac merely remembers."""
    return [device for device in candidates if not device.simulated and device.tunnel != "unavailable"]


def _none_ready(device: Device, fitting: list[Connected], mobile: list[Connected], refusal: str) -> str:
    """Return why no device can be used, and what to do."""
    if refusal:
        return f"{_names(_reachable(fitting))} does not answer ({refusal}); {_CONNECT}."
    meant = f"'{device.match}'" if device.match else "an iPhone or iPad"
    if fitting and all(candidate.simulated for candidate in fitting):
        return (
            f"Only a simulator fits device '{device.name}' ({meant}), and its times are this Mac's; "
            f"to time the device itself, {_CONNECT}."
        )
    return (
        f"Device '{device.name}' is meant for {meant}, and connected to this Mac is "
        f"{_names(_reachable(mobile)) or 'no iPhone or iPad'}; {_CONNECT}."
    )


def _names(devices: Iterable[Connected]) -> str:
    return ", ".join(f"{device.hardware.name}, {device.hardware.driver}" for device in devices)


def _refreshed(connected: Connected) -> Connected:
    """Return a device's current state, as it answers.

    The list has only what this Mac remembers, and tunnels are closed when unused.
    """
    answer = _parsed(_devicectl("device", "info", "details", "--device", connected.identifier))
    if answer.tunnel != "connected":
        raise UnavailableError(f"its tunnel is {answer.tunnel or 'closed'}")
    return answer


def _parsed(entry: dict[str, Any]) -> Connected:
    """Return the device of an entry as Xcode 15 to 26 write it, or as Xcode 27 does."""
    product = _text(entry, "properties.hardware.productType", "hardwareProperties.productType")
    kind = _text(entry, "properties.hardware.deviceType", "hardwareProperties.deviceType")
    reality = _text(entry, "properties.hardware.reality", "hardwareProperties.reality")
    visibility = _text(entry, "visibilityClass", "properties.state.visibilityClass")
    transport = _text(entry, "properties.connection.transportType", "connectionProperties.transportType")
    return Connected(
        identifier=_text(entry, "identifier"),
        udid=_text(entry, "properties.hardware.udid", "hardwareProperties.udid"),
        kind=kind.lower(),
        product=product,
        marketing=_text(entry, "properties.hardware.marketingName", "hardwareProperties.marketingName") or product,
        version=_text(entry, "properties.software.osVersionNumber.stringValue", "deviceProperties.osVersionNumber"),
        build=_text(entry, "deviceProperties.osBuildUpdate"),
        tunnel=_text(entry, "properties.connection.state", "connectionProperties.tunnelState").lower(),
        wired=transport == "wired",
        developer_mode=_text(
            entry, "properties.state.developerModeStatus", "deviceProperties.developerModeStatus"
        ).lower(),
        # a real device may have no entry for its reality
        simulated=reality == "simulated" or visibility.lower().startswith("simulator"),
    )


def _text(entry: dict[str, Any], *paths: str) -> str:
    """Return the text at the first of these paths that leads to one, or an empty text.

    An enumeration may be a text or an object of one key.
    """
    for path in paths:
        value: Any = entry
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        if isinstance(value, dict) and len(value) == 1:
            value = next(iter(value))
        if value and isinstance(value, str):
            return value
    return ""


def _devicectl(*words: str) -> dict[str, Any]:
    """Run `xcrun devicectl` and return the result that it writes as JSON."""
    with files.temporary_folder() as folder:
        answer = folder / "answer.json"
        command = ["xcrun", "devicectl", *words, "-j", str(answer)]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=_PATIENCE_S)
            result: Any = json.loads(files.read_bytes(answer))["result"]
            if not isinstance(result, dict):
                raise TypeError("its answer has an unknown form")
        except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError) as error:
            what = " ".join(itertools.takewhile(str.isalpha, words))
            raise UnavailableError(f"Xcode's `devicectl {what}` failed: {_reason(error)}.") from error
    return cast("dict[str, Any]", result)


# --- the session ------------------------------------------------------------------------------------------------------


class RemoteSession(Session):
    """A session on a package that Core ML loaded on the connected device."""

    window = Window.PREDICTION
    pacing = CallPattern.REMOTE_CALL
    clock = CLOCK

    def __init__(
        self, runner: asyncio.Runner, connected: Connected, prepared: Any, model: Any, function: "Function"
    ) -> None:
        self._runner, self._connected, self._prepared, self._model = runner, connected, prepared, model
        self._function = function
        self.load_ns = local.reported_ns(model.load_duration_in_nano_seconds)
        self._input: dict[str, NDArray[Any]] = {}
        self._outputs: dict[str, Any] = {}

    def set_input(self, images: "NDArray[np.float32] | NDArray[np.uint8]") -> None:
        """Store a batch in the declared element type; every prediction copies it to the device again.

        Raises `UsageError` for a batch that the package does not take.
        """
        feature = self._function.takes[0]
        self._input = {feature.name: local.fitting(feature, images)}

    def run(self) -> None:
        """Run one prediction on the device; return when its outputs are on this Mac."""
        try:
            self._outputs = self._runner.run(self._model.predict(self._input))
        except Exception as error:  # _DeviceCtlError, ValueError, OSError: none of them public
            raise _trouble("run the package", self._connected, self._prepared, error) from error

    def wait(self) -> None:
        """Return at once: `run` has waited already."""

    def elapsed_ns(self) -> int:
        """Return the nanoseconds of the last prediction, read on the device around Core ML's call.

        Raises `UnavailableError` where the device did not report them.
        """
        durations = local.reported_ns(self._model.last_predict_duration_in_nano_seconds)
        if not durations:
            raise UnavailableError(
                f"{_names([self._connected])} did not report how long the prediction took; time it with Xcode's "
                "Performance tab, and import the report: fastvit-bench import FILE.mlperf"
            )
        return durations[0]

    def get_output(self) -> "dict[str, NDArray[np.floating]]":
        """Return copies of the outputs, in the order the package names them."""
        return local.arrays(self._function, self._outputs)

    def placement(self) -> Placement | None:
        """Return the device's own plan, or None before iOS 17.4 or macOS 14.4 and where it makes none.

        A plan that fails must not lose the measurement before it, so every error gives None.
        """
        try:
            return local.placed(self._runner.run(self._model.retrieve_compute_plan()), self._function.name)
        except Exception:
            return None


@contextmanager
def open(path: Path, device: Device) -> Generator[RemoteSession]:  # noqa: A001 - named by the interface
    """Load a package into coremltools' app on the connected device, and end the app afterwards, whatever happens.

    The app is built once for each team and version of coremltools, which takes minutes, and stored among the user's
    caches.
    """
    local.require(device)
    team = _team(device)
    function = _feedable(path, device)
    connected = find(device)
    with (
        _surroundings() as scratch,
        asyncio.Runner() as runner,  # coremltools ties the model to one event loop
        _started(runner, connected, team, scratch) as prepared,
        _loaded(runner, connected, prepared, path, str(device.options["compute_units"])) as model,
    ):
        yield RemoteSession(runner, connected, prepared, model, function)


def _team(device: Device) -> str:
    """Return the team that signs the app.

    Raises `UsageError` where it is missing, or the options cannot be met from here.
    """
    where = f"in the options of [device.{device.name}] in benchmark.toml"
    if device.options["window"] != "prediction":
        raise UsageError(
            f"A stopwatch on this Mac would time the cable of device '{device.name}'; "
            f'set window = "prediction" {where}.'
        )
    team = str(device.options["team"])
    if not team:
        raise UsageError(
            f"The app that runs on device '{device.name}' must be signed by an Apple development team; set "
            f'team = "ABCDE12345" {where} to its id (Xcode > Settings > Accounts, or developer.apple.com/account).'
        )
    if not re.fullmatch(r"[A-Z0-9]{10}", team):  # coremltools puts it into a shell command
        raise UsageError(
            f"team = {team!r} is no Apple team id, which has ten capital letters or digits; set it {where}."
        )
    return team


def _feedable(path: Path, device: Device) -> "Function":
    """Return the function that will run.

    Raises `UsageError` where coremltools 9.0 cannot send its input or receive its outputs.
    """
    function = local.default_function(path)
    if any(feature.kind != "tensor" for feature in function.takes):
        raise UsageError(_takes_images(path.name, device))
    if any(feature.kind != "tensor" for feature in function.gives):
        raise UsageError(
            f"{path.name} answers with a class name, and coremltools takes nothing but tensors from connected devices; "
            "export it without --classifier."
        )
    return function


def _takes_images(what: str, device: Device) -> str:
    return (
        f"{what} takes an image, and coremltools sends nothing but tensors to connected devices; "
        f'set input = "tensor" in the options of [device.{device.name}] in benchmark.toml, and export it so.'
    )


@contextmanager
def _surroundings() -> Generator[Path]:
    """Set the environment that coremltools needs, and yield a folder for the files that it would leave behind.

    It calls devicectl by its bare name, stores the input of every prediction among the temporary files, and draws two
    progress bars for each. TQDM_DISABLE would come too late for those: tqdm reads it when it is imported.
    """
    tools = _tool_folder()
    assert tools is not None
    path, temporary = os.environ.get("PATH", ""), tempfile.tempdir
    with (
        files.temporary_folder() as folder,
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        contextlib.redirect_stderr(nowhere),
    ):
        os.environ["PATH"], tempfile.tempdir = f"{tools}{os.pathsep}{path}", str(folder)
        try:
            yield folder
        finally:
            os.environ["PATH"], tempfile.tempdir = path, temporary


@contextmanager
def _started(runner: asyncio.Runner, connected: Connected, team: str, scratch: Path) -> Generator[Any]:
    """Start the app on the device, and yield coremltools' description of the device."""
    from fastvit_bench.backends.coreml import program

    ct = program.toolkit()
    remote = importlib.import_module(f"{_EXPERIMENTAL}.remote_device")
    cache = Path.home() / "Library" / "Caches" / "fastvit-bench" / f"modelrunner-{ct.__version__}-{team}"
    for folder in (cache, scratch, local.toolkit_folder()):  # coremltools puts them unquoted into shell commands
        if re.search(r"\s", str(folder)):
            raise UnavailableError(
                f"coremltools cannot use connected devices from a path with spaces ({folder}); time the package with "
                "Xcode's Performance tab, and import the report: fastvit-bench import FILE.mlperf"
            )
    # not from coremltools' own list, which calls a device disconnected whenever its tunnel happens to be closed
    listed = remote.Device(
        name=connected.marketing,
        type=remote.DeviceType(connected.kind),
        identifier=connected.identifier,
        udid=connected.udid,
        os_version=connected.version,
        os_build_number=connected.build,
        developer_mode_state=connected.developer_mode,
        state=remote.DeviceState.CONNECTED,
        session=None,
    )
    # an app's name belongs to the first team that registers it; another team may have registered coremltools' own
    credentials = remote.AppSigningCredentials(
        development_team=team, bundle_identifier=f"fastvit-bench.modelrunner.{team.lower()}"
    )
    cache.mkdir(parents=True, exist_ok=True)
    try:
        prepared: Any = runner.run(
            listed.prepare_for_model_debugging(credentials=credentials, working_directory=cache, clean=False)
        )
    except Exception as error:
        files.remove(cache)  # the next run would reuse an incomplete app, or one whose signature has expired
        raise UnavailableError(
            f"coremltools cannot start its app on {_names([connected])}: {_reason(error)}; unlock the device, and see "
            f"that Xcode > Settings > Accounts lists team {team}."
        ) from error
    prepared.session.working_directory = scratch  # or every message would stay beside the app
    try:
        yield prepared
    finally:
        prepared.session.stop()


@contextmanager
def _loaded(runner: asyncio.Runner, connected: Connected, prepared: Any, path: Path, units: str) -> Generator[Any]:
    """Compile the package on this Mac, load it on the device, and yield coremltools' model."""
    ct = importlib.import_module("coremltools")
    wrapper = importlib.import_module(f"{_EXPERIMENTAL}.async_wrapper")
    try:
        model = wrapper.MLModelAsyncWrapper.from_spec_or_path(
            str(path),
            weights_dir=str(path / "Data" / "com.apple.CoreML" / "weights"),
            compute_units=getattr(ct.ComputeUnit, local.COMPUTE_UNITS[units]),
            device=prepared,
        )
        runner.run(model.load())
    except Exception as error:
        raise _trouble(f"load {path.name}", connected, prepared, error) from error
    try:
        yield model
    finally:
        # without a device there is nothing to unload, and coremltools would try for half a minute
        if prepared.session.is_alive():
            with contextlib.suppress(Exception):
                runner.run(model.unload())


def _trouble(what: str, connected: Connected, prepared: Any, error: Exception) -> UnavailableError:
    """Return the error for a device that stopped answering; coremltools itself only notices a timeout."""
    ended = "" if prepared.session.is_alive() else " (its app has ended)"
    return UnavailableError(
        f"{_names([connected])} cannot {what}{ended}: {_reason(error)}; check the cable, keep the device unlocked "
        "(Settings > Display & Brightness > Auto-Lock > Never), and run the command again."
    )


def _reason(error: BaseException) -> str:
    """Return the line that says what went wrong; of a command that failed, out of what it printed."""
    # coremltools passes on a command's exit code, and its output as bytes or not at all
    command = error if isinstance(error, subprocess.CalledProcessError) else error.__context__
    if isinstance(command, subprocess.CalledProcessError):
        printed: bytes = command.stderr or command.stdout or b""
        lines = [line.strip() for line in printed.decode(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if "error:" in line.lower()] or lines[-1:]
        if errors:
            return errors[0].rstrip(".")
    message = getattr(error, "message", None)  # of coremltools' own errors, without the number they put before it
    return first_line(message if isinstance(message, str) else error)
