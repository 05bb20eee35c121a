"""Machines that are not here."""

from pathlib import Path
from typing import Any

import pytest
from fakes import apple

from fastvit_bench.backends.coreml import device as local


@pytest.fixture
def mac(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> apple.Mac:
    """This machine as a Mac with coremltools' native library."""
    found = apple.Mac()
    stand_in = apple.native(found)
    for name in ("model", "compute_plan"):
        monkeypatch.setattr(apple.module(f"models.{name}"), "_MLModelProxy", stand_in)
    toolkit = tmp_path / "site-packages" / "coremltools"
    (toolkit / "modelrunner" / "ModelRunner.xcworkspace").mkdir(parents=True)
    (toolkit / "libcoremlpython.so").touch()
    monkeypatch.setattr(local, "toolkit_folder", lambda: toolkit)
    monkeypatch.setattr(local.platform, "system", lambda: "Darwin")
    return found


@pytest.fixture
def planner(monkeypatch: pytest.MonkeyPatch) -> apple.Planner:
    """Makes compute plans."""
    return apple.Planner(monkeypatch)


@pytest.fixture
def xcode(mac: apple.Mac, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> apple.Xcode:
    """That Mac with Xcode, and an iPhone 12 Pro on its cable."""
    found = apple.Xcode(tmp_path / "mac")
    monkeypatch.setenv("PATH", str(found.path), prepend=":")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    remote = apple.module("models.ml_program.experimental.remote_device")
    wrapper = apple.module("models.ml_program.experimental.async_wrapper")
    monkeypatch.setattr(remote._DeviceCtl, "_validation_done", False)
    monkeypatch.setattr(
        remote._ModelRunnerAppBuilder, "_get_project_path", staticmethod(lambda: local.toolkit_folder() / "modelrunner")
    )

    def compile_model(model: str, destination_path: str) -> str:
        Path(destination_path).mkdir()
        (Path(destination_path) / "model.mil").write_text(model, encoding="utf-8")
        return destination_path

    monkeypatch.setattr(wrapper, "compile_model", compile_model)
    wait = remote._asyncio.sleep

    async def sleep(delay: float, *rest: Any) -> None:
        await wait(min(delay, 0.01), *rest)

    monkeypatch.setattr(remote._asyncio, "sleep", sleep)
    return found
