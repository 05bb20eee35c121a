"""What tests of more than one room need."""

import contextlib
import dataclasses
import gc
import importlib.util
import os
import shutil
import signal
from collections.abc import Generator
from pathlib import Path
from types import ModuleType

import hypothesis
import msgspec
import pytest
import torch
from narrow import narrow_encoders

from fastvit_bench import files
from fastvit_bench.exporting import checkpoints, metadata, pipeline
from fastvit_bench.network import checkpoint
from fastvit_bench.network.checkpoint import recognition
from fastvit_bench.network.peers.timm import load
from fastvit_bench.network.registry import VARIANTS
from fastvit_bench.records import Device, ExportJob, Fuse, ModelSpec, Shape

# several test processes with a thread per core each only wait for each other, and the networks here are small
torch.set_num_threads(1)

# a suite in the background ignores Ctrl-C, and under nohup SIGHUP; so would the programs that tests interrupt
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

# no test asserts a time, and these machines are busy at times
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests of minutes, so that no process of several is left alone with one of them."""
    items.sort(key=lambda item: item.get_closest_marker("minutes") is None)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Take what was imported out of the garbage collector's sight: looking through torch takes half a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def no_cache_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Generator[None]:
    """Keep what can be computed again in a folder of the tests, also in the programs that they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(files.CACHE_VARIABLE, str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def timm() -> ModuleType:
    """timm, as the product imports it; where it is not installed, a skip."""
    if importlib.util.find_spec("timm") is None:
        pytest.skip("timm is not installed")
    return load()


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with FastViT-T8, made shallow, exported at 32 pixels: an export takes seconds. Read only."""
    folder = tmp_path_factory.mktemp("exported")
    with made_shallow():
        pipeline.export(export_job(folder))
    return folder


@pytest.fixture
def shallow() -> Generator[None]:
    """FastViT-T8 has one narrow block per stage in this process: for tests that need no network in particular."""
    with made_shallow():
        yield


@pytest.fixture
def narrow() -> Generator[None]:
    """MobileCLIP's first and fourth encoder and FastVLM's are narrow in this process."""
    with narrow_encoders():
        yield


@contextlib.contextmanager
def made_shallow() -> Generator[None]:
    small = dataclasses.replace(VARIANTS["fastvit_t8"], blocks=(1, 1, 1, 1), channels=(16, 32, 64, 128))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(VARIANTS, "fastvit_t8", small)
        for known in (checkpoint.expected, recognition._template, pipeline._reference):
            known.cache_clear()
        yield
    for known in (checkpoint.expected, recognition._template, pipeline._reference):
        known.cache_clear()


def export_job(folder: Path, name: str = "fastvit_t8", size: int = 32) -> ExportJob:
    """The export that `fastvit-bench latency --device cpu --res SIZE` would ask for."""
    spec = ModelSpec(name=name, variant="fastvit_t8", published="FastViT-T8")
    shape = Shape(batch=1, height=size, width=size)
    cpu = Device(name="cpu", backend="onnxruntime")
    return pipeline.job(spec, checkpoints.weights_of(spec, 0), shape, Fuse.FOLDED, cpu, folder=folder)


@pytest.fixture
def zoo(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with twelve models, ready exported at 32 pixels, and a quick [method]; it is entered.

    The models are one network under twelve names, so that a sweep has many cells without as many exports. Tests may
    change the files of the first three; those of the others are links to one file.
    """
    names = [f"m{i:02d}" for i in range(12)]
    source = export_job(exported)
    artifact = pipeline.cached(source)
    assert artifact is not None
    for name in names:
        job = export_job(tmp_path / "models", name)
        copy = Path(job.path)
        copy.parent.mkdir(parents=True)
        put = shutil.copyfile if name in names[:3] else os.link
        put(source.path, copy)
        put(metadata.reference_outputs_path(Path(source.path)), metadata.reference_outputs_path(copy))
        renamed = msgspec.structs.replace(artifact, model=name, path=copy.name)
        metadata.metadata_path(copy).write_bytes(msgspec.json.encode(renamed))
    assert pipeline.cached(job) == renamed
    tables = "\n".join(f'[model.{name}]\nvariant = "fastvit_t8"\npublished = "FastViT-T8"' for name in names)
    (tmp_path / "benchmark.toml").write_text(
        f"""{tables}
[device.cpu]
backend = "onnxruntime"
[device.elsewhere]
backend = "onnxruntime"
match = "a processor of another age"
[device.rtx2080ti]
backend = "tensorrt"
[method]
warmup = 1
runs = 6
processes = 2
[sweep]
models = ["m*"]
grid = [32]
timeout_s = 60
[download]
base = "http://127.0.0.1:9"
""",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path
