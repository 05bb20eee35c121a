"""The session on a Mac, with a stand-in for Core AI: which compute units are asked for, and who may be timed."""

import importlib
import platform
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from fastvit_bench import backends
from fastvit_bench.backends.coreai import asset
from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.records import Device, Window

BACKEND = backends.get("coreai")


class Runtime:
    """`coreai.runtime` of macOS, as far as it is called; it doubles its input."""

    def __init__(self) -> None:
        self.units: list[str] = []
        names = ("gpu", "neural_engine")
        self.ComputeUnitKind = SimpleNamespace(**{name: lambda name=name: name for name in names})
        self.SpecializationOptions = SimpleNamespace(
            default=lambda: "default", cpu_only=lambda: "cpu", from_preferred_compute_unit_kind=lambda kind: kind
        )
        self.AIModel = SimpleNamespace(load=self.load)
        self.NDArray = lambda values: values

    async def load(self, path: Path, specialization_options: Any = None) -> Any:
        if b"damaged" in (path / asset.PROGRAM).read_bytes():
            raise RuntimeError("no specialization\ndetails")
        self.units.append(specialization_options)
        return SimpleNamespace(load_function=lambda name: Doubling())


class Doubling:
    """A function of a model."""

    desc = SimpleNamespace(input_descriptor=lambda name: SimpleNamespace(shape=[1, 3, 2, 2], dtype="float16"))

    async def __call__(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {"logits": SimpleNamespace(numpy=lambda: inputs["image"] * 2)}


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    """A Mac with macOS 27."""
    fake, load = Runtime(), importlib.import_module
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "mac_ver", lambda: ("27.1", ("", "", ""), "arm64"))
    monkeypatch.setattr(importlib, "import_module", lambda name: fake if name == "coreai.runtime" else load(name))
    return fake


def stored(folder: Path, content: bytes = b"a program") -> Path:
    path = folder / "net.aimodel"
    path.mkdir()
    (path / asset.PROGRAM).write_bytes(content)
    return path


def mac(units: str) -> Device:
    return Device(name="mac-coreai", backend="coreai", precision="fp16", options={"compute_units": units})


@pytest.mark.parametrize(
    ("units", "asked"),
    [("default", "default"), ("cpu-only", "cpu"), ("gpu", "gpu"), ("neural-engine", "neural_engine")],
)
def test_a_run_is_one_call_on_the_chosen_units(units: str, asked: str, runtime: Runtime, tmp_path: Path) -> None:
    with BACKEND.open(stored(tmp_path), mac(units)) as session:
        assert session.window is Window.END_TO_END
        session.set_input(np.ones((1, 3, 2, 2), np.float32))
        session.run()
        session.wait()
        assert session.get_output()["logits"].dtype == np.float16
        assert (session.get_output()["logits"] == 2).all()
        with pytest.raises(UsageError, match=r"not \[2, 3, 2, 2\]"):
            session.set_input(np.ones((2, 3, 2, 2), np.float32))
    assert runtime.units == [asked]


def test_what_core_ai_refuses_is_one_sentence(runtime: Runtime, tmp_path: Path) -> None:
    path = stored(tmp_path, b"damaged")
    with (
        pytest.raises(UnavailableError, match=r"^Core AI cannot load net\.aimodel: no specialization\.$"),
        BACKEND.open(path, mac("gpu")),
    ):
        pass


@pytest.mark.parametrize(("system", "version"), [("linux", ""), ("darwin", "26.4"), ("darwin", "")])
def test_other_machines_are_never_timed(
    system: str, version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "mac_ver", lambda: (version, ("", "", ""), ""))
    reason = BACKEND.device_unavailable_reason(mac("default"))
    assert reason is not None
    assert "reference interpreter" in reason
    path = stored(tmp_path)
    with pytest.raises(UnavailableError, match="says nothing about its speed"), BACKEND.open(path, mac("default")):
        pass


def test_unknown_compute_units_are_refused() -> None:
    with pytest.raises(UsageError, match="compute_units = 'npu' must be default or cpu-only or gpu or neural-engine"):
        BACKEND.options(mac("npu"))
