"""A stand-in for coreai-core in the interpreter's process, and the mark of tests that need Apple's own packages."""

from pathlib import Path

import pytest

# an asset whose program is a JSON document: {"fault": …}
AUTHORING = """
import json, os, sys
from contextlib import asynccontextmanager
from types import SimpleNamespace as Names
import numpy as np

print("ODIE [default]: on standard output")
os.write(1, b"ODIE [default]: from native code\\n")


def operation(name, *inner):
    return Names(name=name, regions=[Names(blocks=[Names(operations=list(inner))])] if inner else [])


class Array:
    def __init__(self, values):
        self.values = values

    def numpy(self):
        return self.values


class Function:
    desc = Names(output_names=["logits"])
    fault = None

    async def __call__(self, inputs):
        if self.fault == "crash":
            sys.stderr.write("assertion failed in native code\\n")
            sys.stderr.flush()
            os._exit(70)
        if self.fault == "raise":
            raise RuntimeError("no kernel for conv2d.\\nDetails")
        images = inputs["image"].values
        return {"logits": Array(images.mean((1, 2, 3), dtype=np.float32).astype(images.dtype).reshape(-1, 1))}


class Loaded:
    def __init__(self, document):
        self.document = document
        graph = operation(
            "coreai.graph", operation("coreai.constant"), operation("coreai.conv2d"),
            operation("coreai.decomposable.broadcasting_add"), operation("coreai.conv2d"), operation("coreai.output"),
        )
        self.program = Names(_module=Names(_mlir_module=Names(operation=operation("module", graph))))

    def summary(self, include_statistics=True):
        return Names(function_inputs=lambda name: [("image", self.document["input"])])

    @asynccontextmanager
    async def executable(self):
        function = Function()
        function.fault = self.document.get("fault")
        yield Names(load_function=lambda name: function)


class AIModelAsset:
    @staticmethod
    def load(path):
        return Loaded(json.loads((path / "main.mlirb").read_bytes()))
"""
RUNTIME = """
class NDArray:
    def __init__(self, values):
        self.values = values
"""


@pytest.fixture
def fake_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the interpreter's process find the stand-in in the place of coreai-core."""
    package = tmp_path / "stand-in" / "coreai"
    package.mkdir(parents=True)
    for name, text in (("__init__", ""), ("authoring", AUTHORING), ("runtime", RUNTIME)):
        (package / f"{name}.py").write_text(text, encoding="utf-8")
    root = Path(__file__).parents[3]
    monkeypatch.setenv("PYTHONPATH", f"{package.parent}:{root}")
