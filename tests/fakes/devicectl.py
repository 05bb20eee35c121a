"""A stand-in for Xcode's command devicectl, with a device and coremltools' app ModelRunner behind it.

It answers what coremltools 9.0 asks, in the form that public recordings of the command show. A script of its own with
nothing but the standard library, because a test starts it hundreds of times: python devicectl.py FOLDER WORDS...
"""

import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def answer_to(folder: Path, words: list[str]) -> int:
    """The command devicectl, and the device and the app behind it."""
    plan = json.loads((folder / "plan.json").read_bytes()) if (folder / "plan.json").exists() else {}

    def value(name: str) -> str:
        return next(
            (word.partition("=")[2] or words[at + 1] for at, word in enumerate(words) if word.split("=")[0] == name), ""
        )

    def note(event: str) -> None:
        with (folder / "log").open("a", encoding="utf-8") as file:
            file.write(f"{event}\n")

    def unplugged() -> bool:
        return "unplugged_after" in plan and predictions(folder) >= plan["unplugged_after"]

    def answer(result: dict[str, Any]) -> int:
        document = {"info": {"commandType": "devicectl", "outcome": "success"}, "result": result}
        Path(value("-j")).write_text(json.dumps(document), encoding="utf-8")
        return 0

    def refuse(why: str) -> int:
        sys.stderr.write(f"Acquiring tunnel\nERROR: {why} (com.apple.dt.CoreDeviceError error 1000.)\n")
        return 1

    if words[:2] == ["list", "devices"]:
        return answer({"devices": json.loads((folder / "devices.json").read_bytes())})
    if unplugged():
        return refuse("The specified device was not found.")
    if words[:3] == ["device", "info", "details"]:
        details = plan.get("details", {}).get(value("--device"))
        return answer(details) if details else refuse("The device is locked.")
    if words[:3] == ["device", "install", "app"]:
        note(f"install {Path(words[5]).name}")
        return answer({"installedApplications": [{"bundleID": "the.app", "databaseUUID": "1"}]})
    if words[:3] == ["device", "process", "launch"]:
        note(f"launch {words[-1]}")
        (folder / "pid").write_text(str(os.getpid()), encoding="utf-8")
        # macOS's shell becomes the command it is given, so that ending the one ends the other; Linux's does not
        shell = os.getppid()
        while os.getppid() == shell and not unplugged():
            time.sleep(0.02)
        return 0
    source, destination = value("--source"), value("--destination")
    assert words[:2] == ["device", "copy"]
    assert value("--domain-identifier") == "the.app"
    copied = (source, folder / "container" / destination)
    if words[2] == "from":
        copied = (folder / "container" / source, Path(destination))
        if not copied[0].exists():
            return refuse("The file does not exist.")
    Path(copied[1]).parent.mkdir(parents=True, exist_ok=True)
    (shutil.copytree if Path(copied[0]).is_dir() else shutil.copy)(*copied)
    if words[2] == "to" and destination.endswith("message.json"):
        _model_runner(folder / "container", json.loads(Path(source).read_bytes()), plan, folder, note)
    return answer({"source": str(source), "destination": str(destination)})


def _model_runner(
    container: Path,
    asked: dict[str, Any],
    plan: dict[str, Any],
    folder: Path,
    note: Callable[[str], None],
) -> None:
    """The app ModelRunner: answers one message."""
    note(asked["method"])
    root = container / "Documents" / "modelrunnerd"
    resource = root / "requests" / "resources" / asked["id"] / asked.get("resource", "")
    reply = root / "responses" / asked["id"]
    reply.mkdir(parents=True)
    answer: dict[str, Any] = {"id": asked["id"]}
    result: dict[str, Any] = {"modelID": asked["params"]["modelID"]}
    if asked["method"] == "MLModelService.Load":
        assert resource.is_dir()
        result |= {"duration": 7_000_000, "isCached": False}
        if "refusal" in plan:
            answer["error"] = {"code": -32000, "message": plan["refusal"]}
    elif asked["method"] == "MLModelService.Prediction":
        sent = asked["params"]["inputs"]["image"]
        (folder / "received.bin").write_bytes(resource.read_bytes())
        (folder / "received.json").write_text(json.dumps(sent), encoding="utf-8")
        (reply / "data.bin").write_bytes(bytes.fromhex("003e00c00034"))  # LOGITS
        shape = {"dataType": "Float16", "shape": [1, 3], "strides": [3, 1], "storage": {"offset": 0, "size": 6}}
        result |= {
            "outputs": {"logits": shape},
            "duration": None if plan.get("mute") else 1_999_999 + predictions(folder),
        }
        answer["resource"] = "data.bin"
    elif asked["method"] == "MLModelService.ComputePlan":
        answer["error"] = {"code": -32601, "message": "Unsupported request: needs iOS 17.4"}
    answer |= {} if "error" in answer else {"result": result}
    (reply / "message.json").write_text(json.dumps(answer), encoding="utf-8")


def predictions(folder: Path) -> int:
    """How many were asked for so far."""
    log = folder / "log"
    return log.read_text(encoding="utf-8").count("Prediction") if log.exists() else 0


if __name__ == "__main__":
    sys.exit(answer_to(Path(sys.argv[1]), sys.argv[2:]))
