"""Stand-ins for what only Apple's machines have: Core ML's native code, and the commands of Xcode.

Everything between this tool and them is the real coremltools: it runs here as it would there, down to the calls that
its native library or a command would answer.
"""

import importlib
import json
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fakes import devicectl
from fastvit_bench.backends import coreml
from fastvit_bench.backends.coreml import program
from fastvit_bench.records import Device

SIZE = (4, 6)  # height, width
LOGITS = np.array([[1.5, -2.0, 0.25]], np.float16)
KINDS = {"float16": 65552, "float32": 65568, "int32": 131104}


def profile(name: str = "mac", batch: int = 1, match: str | None = None, **options: Any) -> Device:
    """A device with its options filled in, as the backend fills them in."""
    bare = Device(name=name, backend="coreml", precision="fp16", batch=batch, match=match, options=options)
    return msgspec.structs.replace(bare, options=coreml.BACKEND.options(bare))


def module(name: str) -> Any:
    """A module of coremltools, imported without its remarks."""
    with program.quiet():
        return importlib.import_module(f"coremltools.{name}")


# --- packages ---------------------------------------------------------------------------------------------------------


def package(
    path: Path,
    *,
    takes: str = "image",  # or the numbers of a tensor
    batch: int = 1,
    gives: Sequence[str] = ("logits",),
    functions: Sequence[str] = (),
) -> Path:
    """A package without operations: what it takes and gives is all that a session looks at."""
    ct = program.toolkit()
    spec = ct.proto.Model_pb2.Model()
    spec.specificationVersion = 9 if functions else 7
    spec.mlProgram.version = 1
    for name in functions or ("main",):
        function = spec.mlProgram.functions[name]
        function.opset = "CoreML6"
        function.block_specializations["CoreML6"].outputs.extend(gives)
        if functions:
            spec.description.functions.add(name=name)
    if functions:
        spec.description.defaultFunctionName = functions[0]
    for described in spec.description.functions or [spec.description]:
        taken = described.input.add(name="image").type
        if takes == "image":
            taken.imageType.height, taken.imageType.width = SIZE
            taken.imageType.colorSpace = ct.proto.FeatureTypes_pb2.ImageFeatureType.RGB
        else:
            taken.multiArrayType.dataType = KINDS[takes]
            taken.multiArrayType.shape.extend([batch, 3, *SIZE])
        for name in gives:
            given = described.output.add(name=name).type
            if name == "classLabel":
                given.stringType.SetInParent()
            elif name == "classLabel_probs":
                given.dictionaryType.stringKeyType.SetInParent()
            else:
                given.multiArrayType.dataType = KINDS["float16"]
                given.multiArrayType.shape.extend(LOGITS.shape)
    model = path / "Data" / "com.apple.CoreML" / "model.mlmodel"
    model.parent.mkdir(parents=True)
    model.write_bytes(spec.SerializeToString())
    item = {"author": "com.apple.CoreML", "name": "model.mlmodel", "path": "com.apple.CoreML/model.mlmodel"}
    item["description"] = "CoreML Model Specification"
    key = str(uuid.uuid4())
    manifest = {"fileFormatVersion": "1.0.0", "itemInfoEntries": {key: item}, "rootModelIdentifier": key}
    (path / "Manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return path


# --- Core ML on a Mac -------------------------------------------------------------------------------------------------


class Mac:
    """What a Mac's Core ML was asked, and what it is to answer. Take it from the fixture `mac`."""

    def __init__(self) -> None:
        self.events: list[Any] = []  # (load, units), input of a prediction, plan, unload
        self.outputs: dict[str, Any] = {"logits": LOGITS}
        self.durations = iter(range(1_000_000, 10**9))  # of predictions, in nanoseconds
        self.load_ns: int | None = 5_000_000
        self.refusal: str | None = None  # of the package
        self.failure: str | None = None  # of a prediction
        self.plan: Any = None  # a plan, or the exception it ends in

    def count(self, event: str) -> int:
        return sum(isinstance(each, tuple) and each[0] == event for each in self.events)


def native(mac: Mac) -> type:
    """The class that stands for coremltools.libcoremlpython's _MLModelProxy; its calls are CoreMLPython.mm's."""

    class Native:
        def __init__(self, filename: str, units: str, function: str, hints: dict[str, str], asset: None) -> None:
            assert Path(filename).is_dir()
            assert (hints, asset) == ({}, None)
            if mac.refusal:
                raise RuntimeError(mac.refusal)
            self._told: int | None = None
            mac.events.append(("load", units, function))

        def __del__(self) -> None:
            if hasattr(self, "_told"):
                mac.events.append(("unload",))

        def predict(self, data: dict[str, Any], state: None) -> dict[str, Any]:
            assert state is None
            mac.events.append(("predict", dict(data)))
            if mac.failure:
                raise RuntimeError(mac.failure)
            self._told = next(mac.durations)
            return mac.outputs

        def get_compiled_model_path(self) -> str:
            return "/private/var/folders/T/model.mlmodelc"

        def get_load_duration_in_nano_seconds(self) -> int | None:
            return mac.load_ns

        def get_last_predict_duration_in_nano_seconds(self) -> int | None:
            return self._told

        @staticmethod
        def maximum_supported_specification_version() -> int:
            return 8

        @staticmethod
        def get_compute_plan(path: str, units: str) -> Any:
            mac.events.append(("plan", path, units))
            if isinstance(mac.plan, Exception):
                raise mac.plan
            return mac.plan

    return Native


# --- compute plans ----------------------------------------------------------------------------------------------------


class Planner:
    """Makes compute plans out of coremltools' own classes. Take it from the fixture `planner`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._plans = module("models.compute_plan")
        devices = module("models.compute_device")

        class Proxy:
            """Stands for the native side of a plan or device."""

        for kind in ("CPU", "GPU", "NeuralEngine"):
            monkeypatch.setattr(devices, f"_ML{kind}ComputeDeviceProxy", Proxy)
        monkeypatch.setattr(self._plans, "_MLComputePlanProxy", Proxy)
        self._proxy = Proxy
        self._devices = {
            "cpu": devices.MLCPUComputeDevice(Proxy()),
            "gpu": devices.MLGPUComputeDevice(Proxy()),
            "ne": devices.MLNeuralEngineComputeDevice(Proxy()),
        }

    def operation(self, kind: str, output: str, *blocks: Any) -> Any:
        value = self._plans.MLModelStructureProgramNamedValueType(output, None)
        return self._plans.MLModelStructureProgramOperation({}, kind, [value], list(blocks), None)

    def block(self, *operations: Any) -> Any:
        return self._plans.MLModelStructureProgramBlock([], list(operations), [])

    def plan(self, functions: dict[str, Any] | None, usage: dict[str, tuple[str, str, float | None]]) -> Any:
        """Of functions (name -> block; None for a neural network), where usage has output -> unit, units, cost."""
        plans, devices = self._plans, self._devices
        program_ = None
        if functions is not None:
            made = {name: plans.MLModelStructureProgramFunction([], block) for name, block in functions.items()}
            program_ = plans.MLModelStructureProgram(made)

        class Proxy(self._proxy):  # type: ignore[name-defined, misc]
            model_structure = plans.MLModelStructure(neuralnetwork=None, program=program_, pipeline=None)

            def get_compute_device_usage_for_mlprogram_operation(self, operation: Any) -> Any:
                found = usage.get(operation.outputs[0].name)
                if found is None:
                    return None
                supported = [devices[name] for name in found[1].split()]
                return plans.MLComputePlanDeviceUsage(devices[found[0]], supported)

            def get_estimated_cost_for_mlprogram_operation(self, operation: Any) -> Any:
                cost = usage[operation.outputs[0].name][2]
                return None if cost is None else plans.MLComputePlanCost(cost)

        return plans.MLComputePlan(Proxy())


# --- Xcode's commands, and a device on a cable ------------------------------------------------------------------------


def entry(
    product: str = "iPhone13,3",
    marketing: str = "iPhone 12 Pro",
    *,
    tunnel: str = "connected",
    transport: str = "wired",
    kind: str = "iPhone",
    reality: str | None = "physical",
    developer_mode: str = "enabled",
    number: int = 1,
    **more: Any,
) -> dict[str, Any]:
    """A device as `devicectl list devices` of Xcode 15 to 26 writes it, with its owner's name in it."""
    return {
        "connectionProperties": {"pairingState": "paired", "transportType": transport, "tunnelState": tunnel},
        "deviceProperties": {
            "developerModeStatus": developer_mode,
            "name": "A Person's Phone",
            "osBuildUpdate": "21F90",
            "osVersionNumber": "17.5.1",
        },
        "hardwareProperties": {
            "deviceType": kind,
            "marketingName": marketing,
            "platform": "iOS",
            "productType": product,
            "udid": f"00008101-00000000000{number:04d}E",
        }
        | ({} if reality is None else {"reality": reality}),
        "identifier": f"00000000-0000-0000-0000-{number:012d}",
        "visibilityClass": "default",
    } | more


def entry_27(state: str = "connected") -> dict[str, Any]:
    """A device as Xcode 27 writes it when it leaves out what it calls deprecated."""
    return {
        "identifier": "00000000-0000-0000-0000-000000000027",
        "properties": {
            "connection": {"pairingState": "paired", "state": state, "transportType": "wired"},
            "hardware": {
                "deviceType": "iPhone",
                "marketingName": "iPhone 12 Pro",
                "platform": "iOS",
                "productType": "iPhone13,3",
                "udid": "00008101-000000000027E",
            },
            "software": {"osVersionNumber": {"components": [27, 0], "stringValue": "27.0"}},
            "state": {"developerModeStatus": {"enabled": {"mode": 1}}, "name": "A Person's Phone"},
        },
    }


class Xcode:
    """A Mac with Xcode and devices on its cables; commands read and write its folder. Take it from `xcode`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tools = folder / "Xcode.app" / "Contents" / "Developer" / "usr" / "bin"  # not on the PATH
        self.path = folder / "bin"
        for directory in (self.tools, self.path, folder / "container"):
            directory.mkdir(parents=True)
        # through a shell: a path of more than 127 characters cannot follow #! on Linux
        _script(self.tools / "devicectl", f'exec "{sys.executable}" -SE "{devicectl.__file__}" "{folder}" "$@"')
        _script(
            self.path / "xcrun",
            f'[ "$1" = --find ] || {{ shift; exec "{self.tools}/devicectl" "$@"; }}\n'
            f'[ -x "{self.tools}/$2" ] && echo "{self.tools}/$2"',
        )
        _script(
            self.path / "xcodebuild",
            f'echo "$@" >> "{folder}/built"\n'
            'for word in "$@"; do case "$word" in SYMROOT=*) mkdir -p "${word#SYMROOT=}/modelrunner.app";; esac; done\n'
            f'[ -e "{folder}/unsigned" ] && echo "Building" && echo "error: No Accounts" && exit 65\n'
            "exit 0",
        )
        self.devices = [entry()]

    @property
    def devices(self) -> list[dict[str, Any]]:
        """What `list devices` answers."""
        found: list[dict[str, Any]] = json.loads((self.folder / "devices.json").read_bytes())
        return found

    @devices.setter
    def devices(self, found: list[dict[str, Any]]) -> None:
        (self.folder / "devices.json").write_text(json.dumps(found), encoding="utf-8")

    def plan(self, **what: Any) -> None:
        """What is to happen: unplugged_after predictions, refusal of a package, mute about times, details by device."""
        (self.folder / "plan.json").write_text(json.dumps(what), encoding="utf-8")

    @property
    def log(self) -> list[str]:
        """Requests that reached the app, installations and starts, in order."""
        file = self.folder / "log"
        return file.read_text(encoding="utf-8").splitlines() if file.exists() else []

    @property
    def builds(self) -> list[str]:
        file = self.folder / "built"
        return file.read_text(encoding="utf-8").splitlines() if file.exists() else []

    def ended(self) -> bool:
        """Whether the app that was started last has ended, or does so within seconds."""
        state = Path("/proc", (self.folder / "pid").read_text(encoding="utf-8"), "stat")
        for _ in range(500):
            if not state.exists() or state.read_text(encoding="utf-8").split()[2] == "Z":
                return True
            time.sleep(0.01)
        return False

    def received(self) -> Any:
        """The input of the last prediction, as the app got it."""
        sent = json.loads((self.folder / "received.json").read_bytes())
        found = np.frombuffer((self.folder / "received.bin").read_bytes(), sent["dataType"].lower())
        return found.reshape(sent["shape"])


def _script(path: Path, body: str) -> None:
    path.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
