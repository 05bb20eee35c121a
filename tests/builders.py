"""Records for tests: every builder makes something plausible, and takes what a test wants to be different."""

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from fastvit_bench.records import (
    SCHEMA,
    Artifact,
    Cell,
    Device,
    Failure,
    Fuse,
    Head,
    Machine,
    MachineState,
    Measurement,
    Method,
    ModelSpec,
    Parity,
    Request,
    Run,
    Shape,
    Weights,
    Window,
)

RANDOM = Weights(origin="random", seed=0)
CHECKPOINT = Weights(origin="checkpoint", sha256="1a2b3c4d" * 8, file="fastvit_t8.pth.tar")
START = datetime(2026, 1, 31, 14, 22, 33, tzinfo=UTC)


def at(minutes: float) -> str:
    """A moment so many minutes after `START`, as records write it."""
    return (START + timedelta(minutes=minutes)).isoformat(timespec="seconds")


def shape(size: int = 256, batch: int = 1) -> Shape:
    return Shape(batch=batch, height=size, width=size)


def device(**changes: Any) -> Device:
    return msgspec.structs.replace(Device(name="cpu", backend="onnxruntime", options={"threads": 4}), **changes)


def machine(**changes: Any) -> Machine:
    usual = Machine(
        host="0f1e2d3c",
        processor="Example Processor 9000 @ 2.50GHz",
        cores=4,
        memory_mib=16384,
        os="Linux 6.1 x86_64",
        python="3.11.9",
        packages={"onnxruntime": "1.23.0", "torch": "2.9.0"},
    )
    return msgspec.structs.replace(usual, **changes)


def parity(**changes: Any) -> Parity:
    usual = Parity(
        reference="unfused network in float64",
        images=4,
        seed=0,
        max_abs_error=2e-5,
        relative_error=1e-5,
        tolerance=1e-3,
        top1_agreement=1.0,
        passed=True,
    )
    return msgspec.structs.replace(usual, **changes)


def artifact(**changes: Any) -> Artifact:
    """A folded FastViT-T8; its multiply-accumulates follow the shape, its file's name the model and the size."""
    made = {"model": "fastvit_t8", "shape": shape(), "weights": CHECKPOINT} | changes
    pixels = made["shape"].batch * made["shape"].height * made["shape"].width
    usual: dict[str, Any] = {
        "variant": "fastvit_t8",
        "head": Head.CLASSIFIER,
        "classes": 1000,
        "backend": "onnxruntime",
        "precision": "fp32",
        "fused": Fuse.FOLDED,
        "toolchain": {"onnx": "1.19.0", "torch": "2.9.0"},
        "path": f"{made['model']}_{made['shape'].size}.onnx",
        "sha256": "ab" * 32,
        "size_bytes": 16_000_000,
        "params": 3_996_040,
        "macs": round(691_200_000 * pixels / 256**2),
        "parity": parity(),
    }
    return Artifact(**(usual | made))


def samples(median_ms: float = 10.21, count: int = 100, spread: float = 0.01) -> tuple[int, ...]:
    """`count` evenly spread nanoseconds around a median, shuffled so that they hold no trend."""
    ranks = [(i * 37) % count for i in range(count)]  # 37 has no factor in common with 100
    return tuple(round(1e6 * median_ms * (1 + spread * ((rank + 0.5) / count - 0.5))) for rank in ranks)


def measurement(**changes: Any) -> Measurement:
    """A quiet measurement of `artifact()`; without other samples its median is 10.21 ms at 256 pixels."""
    made: Artifact = changes.get("artifact", artifact())
    usual: dict[str, Any] = {
        "finished": at(1),
        "device": device(batch=made.shape.batch),
        "artifact": made,
        "method": Method(),
        "window": Window.COMPUTE,
        "clock": "time.perf_counter_ns",
        "samples_ns": (samples(10.21 * made.macs / 691_200_000),),
        "machine": machine(),
        "state": MachineState(load_before=0.3, load_after=0.9, steal_percent=0.0),
    }
    return Measurement(**(usual | changes))


def cell(**changes: Any) -> Cell:
    usual = Cell(model="fastvit_t8", shape=shape(), fused=Fuse.FOLDED, weights=CHECKPOINT)
    return msgspec.structs.replace(usual, **changes)


def failure(**changes: Any) -> Failure:
    usual = Failure(finished=at(2), cell=cell(), stage="timing", reason="the worker was killed")
    return msgspec.structs.replace(usual, **changes)


def spec(**changes: Any) -> ModelSpec:
    usual = ModelSpec(name="fastvit_t8", variant="fastvit_t8", published="FastViT-T8")
    return msgspec.structs.replace(usual, **changes)


def request(**changes: Any) -> Request:
    usual = Request(
        device=device(),
        models=(spec(),),
        shapes=(shape(224), shape(256)),
        fused=Fuse.FOLDED,
        method=Method(),
        seed=0,
        timeout_s=3600.0,
    )
    return msgspec.structs.replace(usual, **changes)


def run(**changes: Any) -> Run:
    usual = Run(
        schema=SCHEMA,
        id="20260131-142233-9f3c1a",
        started=at(0),
        tool="0.1.0",
        commit="0123abc",
        dirty=False,
        request=request(),
        cells=(cell(shape=shape(224)), cell()),
        machine=machine(),
    )
    return msgspec.structs.replace(usual, **changes)
