"""Records for tests: every builder makes something plausible, and takes what a test wants to be different."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from fastvit_bench.records import (
    MICROBENCHMARKS_VERSION,
    SCHEMA,
    Accuracy,
    AccuracyChunk,
    Artifact,
    CalibrationSet,
    CallPattern,
    Cell,
    Device,
    DevicePeak,
    Engine,
    Evaluation,
    ExportJob,
    ExternalModel,
    Failure,
    Fidelity,
    Fuse,
    GpuIdentity,
    GpuState,
    Head,
    Interval,
    LayerTime,
    Machine,
    MachineState,
    Measurement,
    Method,
    Microbenchmark,
    MicrobenchmarkTime,
    ModelSpec,
    Parity,
    Placement,
    PlannedOperation,
    Preprocessing,
    Quantisation,
    Request,
    Run,
    Shape,
    Traffic,
    Trial,
    Tune,
    Tuning,
    Unit,
    Weights,
    Window,
)
from fastvit_bench.records.comparison import SCHEMA as COMPARISON_SCHEMA
from fastvit_bench.records.comparison import (
    BaselineKind,
    Block,
    CellResult,
    Comparison,
    InterleavePlan,
    Outcome,
    Plan,
    Side,
    Verdict,
)
from fastvit_bench.records.study import SCHEMA as STUDY_SCHEMA
from fastvit_bench.records.study import Contestant, Match, Study, StudyResult, StudyRow
from fastvit_bench.render.rows import Row

FASTVITS_HEADS = tuple(
    head for head in Head if head not in (Head.EMBEDDING, Head.TOKENS)
)  # those of the paper's networks

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


def export_job(**changes: Any) -> ExportJob:
    """An export of random weights; its path, device and precision are for the test to say."""
    usual = ExportJob(
        model="fastvit_t8",
        variant="fastvit_t8",
        head=Head.CLASSIFIER,
        classes=1000,
        checkpoint=None,
        weights=RANDOM,
        backend="onnxruntime",
        precision="fp32",
        shape=shape(),
        fused=Fuse.FOLDED,
        device=device(),
        toolchain={},
        path="",
    )
    return msgspec.structs.replace(usual, **changes)


def calibration_set(**changes: Any) -> CalibrationSet:
    usual = CalibrationSet(
        images=128,
        available=50_000,
        seed=0,
        digest="cd" * 32,
        classes=1000,
        preprocessing=Preprocessing(resolution=256, crop=0.9),
        decoder="Pillow 12.0.0",
    )
    return msgspec.structs.replace(usual, **changes)


def fidelity(**changes: Any) -> Fidelity:
    usual = Fidelity(images=16, snr_db=38.2, cosine=0.9991, top1_agreement=1.0, correct=12)
    return msgspec.structs.replace(usual, **changes)


def tuning() -> Tuning:
    """A search for latency that kept the usual choices, and that ended before its last change."""
    usual = Trial(choices=(), snr_db=38.2, accepted=True)
    rounded = Trial(choices=("logits rounded",), snr_db=38.0, accepted=False, ms=5.1, base_ms=5.0)
    return Tuning(
        asked=Tune(goal="latency", budget_s=600), trials=(usual, rounded), untried=("gates between integers",)
    )


def quantisation(**changes: Any) -> Quantisation:
    """T8 in INT8, with its GELUs in float."""
    usual = Quantisation(
        weights="int8 symmetric per channel",
        activations="uint8 asymmetric per tensor",
        ranges="least squared error",
        quantiser="onnxruntime.quantization 1.32.0",
        integer={"Conv": 55, "Add": 10},
        floating={"Gelu": 17, "Conv": 1},
        excluded=("stem.0/Conv",),
        changes={"equalised": 4},
        calibration=calibration_set(),
        fidelity=fidelity(),
        tuning=tuning(),
    )
    return msgspec.structs.replace(usual, **changes)


def measurement(**changes: Any) -> Measurement:
    """A quiet measurement of `artifact()`; without other samples its median is 10.21 ms at 256 pixels."""
    made: Artifact | ExternalModel = changes.get("artifact", artifact())
    macs = made.macs if isinstance(made, Artifact) else 691_200_000
    usual: dict[str, Any] = {
        "finished": at(1),
        "device": device(batch=made.shape.batch if made.shape else 1),
        "artifact": made,
        "method": Method(),
        "window": Window.COMPUTE,
        "clock": "time.perf_counter_ns",
        "samples_ns": (samples(10.21 * macs / 691_200_000),),
        "machine": machine(),
        "state": MachineState(load_before=0.3, load_after=0.9, steal_percent=0.0),
        "parity": parity(),
    }
    return Measurement(**(usual | changes))


def placement(*units: Unit, costs: tuple[float, ...] | None = None) -> Placement:
    """A plan of convolutions on these units, and casts where it is not the Neural Engine; every unit could run each."""
    return Placement(
        operations=tuple(
            PlannedOperation(
                kind="ios16.conv" if unit is Unit.NEURAL_ENGINE else "ios16.cast",
                output=f"x{at}",
                unit=unit,
                supported=tuple(Unit),
                cost=costs[at] if costs else None,
            )
            for at, unit in enumerate(units)
        )
    )


def engine(**changes: Any) -> Engine:
    """Of TensorRT, for an RTX 2080 Ti."""
    usual = Engine(
        toolkit="tensorrt",
        version="10.16.1",
        platform="linux x86_64",
        card=GpuIdentity(compute_capability="7.5", name="NVIDIA GeForce RTX 2080 Ti"),
        onnx="fastvit_t8_256.trt.onnx",
        onnx_sha256="cd" * 32,
        settings={"optimization_level": "3", "workspace_mib": "0"},
        inputs={"image": "HALF 8x3x256x256"},
        outputs={"logits": "HALF 8x1000"},
        layers={"CONVOLUTION": 60},
        sha256="ef" * 32,
        size_bytes=9_000_000,
    )
    return msgspec.structs.replace(usual, **changes)


def layer(name: str, block: str, median_ns: int, kind: str = "Conv") -> LayerTime:
    return LayerTime(name=name, kind=kind, block=block, median_ns=median_ns)


def foreign(**changes: Any) -> ExternalModel:
    """A model of others that takes no images."""
    usual = ExternalModel(
        model="tagger",
        backend="coreml",
        precision="Mixed (Float16, Int32)",
        inputs={"tokens": "MultiArray (Int32 1 × 512)"},
        shape=None,
        size_bytes=775_344,
        operations={"Ios16.linear": 12},
    )
    return msgspec.structs.replace(usual, **changes)


def phone(**changes: Any) -> Device:
    usual = Device(name="iphone12pro", backend="coreml", precision="fp16", options={"compute_units": "all"})
    return msgspec.structs.replace(usual, **changes)


def reported(**changes: Any) -> Measurement:
    """What a performance report of an iPhone tells: three rounds with their cold first runs, load times, no parity."""
    form = {"attention": "standard", "compress": "none", "input": "image"}
    usual: dict[str, Any] = {
        "device": phone(),
        "artifact": artifact(backend="coreml", precision="fp16", options=form, parity=None, sha256=None),
        "method": Method(warmup=1, runs=39, rounds=3, loading="per-round"),
        "window": Window.PREDICTION,
        "clock": "Xcode's performance report",
        "samples_ns": (samples(1.2, 39),) * 3,
        "cold_ns": (9_000_000, 500_000, 520_000),
        "load_ns": (300_000_000, 20_000_000, 21_000_000),
        "compile_ns": (70_000_000, 72_000_000, 74_000_000),
        "machine": machine(
            host="", processor="iPhone 12 Pro", cores=None, memory_mib=None, os="iOS 18.7", python=None, packages={}
        ),
        "state": MachineState(),
        "parity": None,
    }
    return measurement(**(usual | changes))


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


def paired(log_ratio: float = 0.0, number: int = 1, **changes: Any) -> Block:
    """A block of one turn and one sample per side, a second long, whose ratio of head over base is e to `log_ratio`."""
    usual = Block(number=number, order="AB", base_ns=((10**9,),), head_ns=((round(1e9 * math.exp(log_ratio)),),))
    return msgspec.structs.replace(usual, **changes)


def blocks(log_ratios: Iterable[float]) -> tuple[Block, ...]:
    """Blocks with these log ratios, numbered from 1."""
    return tuple(paired(value, number) for number, value in enumerate(log_ratios, start=1))


def block(number: int = 1, base_ms: float = 10.0, head_ms: float = 10.0, **changes: Any) -> Block:
    """Two turns of each side, three samples in each, so that medians and the ratio are those of the arguments."""
    sides = {
        "base_ns": tuple(tuple(round(1e6 * base_ms * factor) for factor in (0.999, 1.0, 1.002)) for _ in range(2)),
        "head_ns": tuple(tuple(round(1e6 * head_ms * factor) for factor in (0.999, 1.0, 1.002)) for _ in range(2)),
    }
    return Block(**({"number": number, "order": "ABBA", **sides} | changes))


def side(label: str = "main", **changes: Any) -> Side:
    """The usual file on the usual machine."""
    usual: dict[str, Any] = {
        "label": label,
        "artifact": artifact(),
        "device": device(),
        "window": Window.COMPUTE,
        "clock": "time.perf_counter_ns",
        "pacing": CallPattern.BACK_TO_BACK,
        "machine": machine(),
        "parity": 1e-5,
    }
    return Side(**(usual | changes))


def verdict(outcome: Outcome = Outcome.PASS, ratio: float | None = 1.004, **changes: Any) -> Verdict:
    """A verdict after ten blocks, its interval within 0.8 % of the ratio; without a ratio nothing else is known."""
    usual: dict[str, Any] = {"outcome": outcome, "margin": 0.05, "ratio": ratio, "reason": f"It is {outcome.value}."}
    if ratio is not None:
        usual |= {
            "blocks": 10,
            "above": 10 if outcome is Outcome.REGRESSED else 0,
            "interval": Interval(low=ratio - 0.008, high=ratio + 0.008, confidence=0.96),
            "bounds": (0.0, ratio + 0.01),
            "detectable": 0.06,
            "floor": 0.02,
        }
    return Verdict(**(usual | changes))


def cell_result(
    name: str = "fastvit_t8 256 b1", outcome: Outcome = Outcome.PASS, ratio: float | None = 1.004, **changes: Any
) -> CellResult:
    """A cell of ten blocks of 10 ms around the ratio; without one, a cell that could not be compared."""
    usual: dict[str, Any] = {"name": name, "verdict": verdict(outcome, ratio)}
    if ratio is not None:
        wobble = [0.004 * (at - 4.5) / 4.5 for at in range(10)]
        usual |= {
            "base": side("main"),
            "head": side("work"),
            "blocks": tuple(block(at + 1, 10.0, 10.0 * (ratio + apart)) for at, apart in enumerate(wobble)),
            "base_ms": 10.0,
            "head_ms": 10.0 * ratio,
        }
    return CellResult(**(usual | changes))


def comparison(*cells: CellResult, **changes: Any) -> Comparison:
    """A paired comparison of these cells on the usual machine; of several, a pooled verdict that passes."""
    usual: dict[str, Any] = {
        "schema": COMPARISON_SCHEMA,
        "kind": BaselineKind.PAIRED,
        "started": at(0),
        "finished": at(7),
        "tool": "0.1.0",
        "commit": "0123abc",
        "dirty": False,
        "device": device(),
        "machine": machine(),
        "base": "main",
        "head": "work",
        "plan": Plan(),
        "cells": cells,
        "pooled": verdict(margin=0.025) if len(cells) > 1 else None,
    }
    return Comparison(**(usual | changes))


def traffic(**changes: Any) -> Traffic:
    """Of `artifact()`: 86.4 MB moved for 691.2 million multiply-accumulates, which is 16 FLOP per byte."""
    usual = Traffic(
        params=3_996_040, macs=691_200_000, weight_bytes=16_000_000, read_bytes=37_400_000, written_bytes=33_000_000
    )
    return msgspec.structs.replace(usual, **changes)


def probe(**changes: Any) -> Microbenchmark:
    """3x3 convolutions of 600 million multiply-accumulates or so."""
    return msgspec.structs.replace(
        Microbenchmark(kind="spatial", width=128, side=32, depth=4, precision="fp32"), **changes
    )


def peak(gmacs_per_s: float = 200.0, gbytes_per_s: float = 20.0, **changes: Any) -> DevicePeak:
    """Of `device()` on `machine()`; its ridge is at 20 FLOP per byte."""
    scaled = probe(kind="copy", width=3, side=4096, depth=1)
    arithmetic, memory = probe().macs / gmacs_per_s, scaled.moved_bytes / gbytes_per_s  # nanoseconds
    usual = DevicePeak(
        probes=MICROBENCHMARKS_VERSION,
        finished=at(3),
        device=device(),
        machine=machine(),
        method=Method(warmup=2, runs=5, rounds=20),
        window=Window.COMPUTE,
        clock="time.perf_counter_ns",
        arithmetic=(MicrobenchmarkTime(probe=probe(), best_ns=(round(arithmetic), round(1.01 * arithmetic))),),
        memory=MicrobenchmarkTime(probe=scaled, best_ns=(round(memory), round(1.02 * memory))),
        others_percent=3.0,
    )
    return msgspec.structs.replace(usual, **changes)


def gpu_state(**changes: Any) -> GpuState:
    """A look at a GPU that is at ease."""
    usual = GpuState(sm_mhz=1350, memory_mhz=7000, temperature_c=55, throttle=(), other_processes=0)
    return msgspec.structs.replace(usual, **changes)


def evaluation(**changes: Any) -> Evaluation:
    usual = Evaluation(
        data="data/imagenet",
        labels=None,
        limit=None,
        images=50_000,
        digest="da" * 32,
        workers=4,
        decoder="Pillow 13.0.0",
    )
    return msgspec.structs.replace(usual, **changes)


def accuracy(**changes: Any) -> Accuracy:
    """Of the artifact that `measurement` times; top-5 follows from the number of images."""
    images, top1 = changes.get("images", 50_000), changes.get("top1", 38_100)
    changes = {"top5": max(top1, images * 93 // 100), **changes}
    usual = Accuracy(
        finished=at(3),
        device=device(),
        artifact=artifact(),
        how="onnxruntime",
        evaluation=evaluation(),
        preprocessing=Preprocessing(resolution=256, crop=0.9),
        images=50_000,
        top1=38_100,
        top5=46_500,
        overflowed=0,
        unreadable=(),
        machine=machine(),
    )
    return msgspec.structs.replace(usual, **changes)


def tally(**changes: Any) -> AccuracyChunk:
    usual = AccuracyChunk(artifact="ab" * 32, how="onnxruntime", first=0, pictures=64, top1=50, top5=60)
    return msgspec.structs.replace(usual, **changes)


def study(**changes: Any) -> Study:
    """Figure 3 of the paper at two of its sizes, with a control."""
    published = "MetaFormer-S12@{size}"
    usual: dict[str, Any] = {
        "name": "repmixer-vs-pooling",
        "title": "RepMixer against pooling",
        "tables": ("fig3_repmixer_vs_pooling_digitised",),
        "grid": (384, 1024),
        "rows": (
            StudyRow("Pooling", "poolformer_s12", published=published, iphone="pooling_mobile_latency"),
            StudyRow("RepMixer", "metaformer_s12_repmixer", published=published, iphone="repmixer_mobile_latency"),
            StudyRow("Pooling, BatchNorm", "metaformer_s12_pooling_bn", note="a control"),
        ),
    }
    return Study(**(usual | changes))


def study_result(ratios: Mapping[tuple[str, int], float | None], **changes: Any) -> StudyResult:
    """Of `study`, with ratios to its first row, which takes 10 ms, by label and size; None is a row that failed."""
    declared: Study = changes.get("study", study())
    reference, *others = (row for row in declared.rows if row.model)
    sizes = dict.fromkeys(size for _, size in ratios)
    rows = {row.label: row for row in others}
    matches = tuple(
        Match(Contestant(reference, shape(reference.res or size)), Contestant(rows[label], shape(size)))
        for size in sizes
        for label in rows
        if (label, size) in ratios
    )
    cells = tuple(
        cell_result(
            match.name,
            ratio=ratio,
            verdict=verdict(Outcome.INCOMPARABLE if ratio is None else Outcome.PASS, ratio, bounds=None),
        )
        for match in matches
        for ratio in [ratios[match.row.row.label, match.row.shape.width]]
    )
    usual: dict[str, Any] = {
        "schema": STUDY_SCHEMA,
        "id": "20260131-142233-9f3c1a",
        "study": declared,
        "started": at(0),
        "finished": at(9),
        "tool": "0.1.0",
        "commit": "0123abc",
        "dirty": False,
        "device": device(),
        "machine": machine(),
        "turns": InterleavePlan(),
        "blocks": 10,
        "seed": 0,
        "matches": matches,
        "cells": cells,
    }
    return StudyResult(**(usual | changes))


def unpacked(rows: Iterable[Row]) -> list[Row]:
    """Rows with samples as tuples, as records are made; a reader of many figures has them as arrays."""
    return [
        replace(
            row,
            cells={
                shape: msgspec.structs.replace(
                    cell, samples_ns=tuple(map(tuple, cell.samples_ns)), reference_ns=tuple(cell.reference_ns)
                )
                if isinstance(cell, Measurement)
                else cell
                for shape, cell in row.cells.items()
            },
        )
        for row in rows
    ]
