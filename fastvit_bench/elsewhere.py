"""What was measured elsewhere becomes a measurement: reports of Xcode, and times of trtexec with what a person adds."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from fastvit_bench import backends, build, files, products
from fastvit_bench.errors import ChecksumError, MismatchError, UnavailableError, UsageError
from fastvit_bench.records import (
    Artifact,
    Device,
    Foreign,
    Machine,
    MachineState,
    Measurement,
    Method,
    Record,
    Shape,
    Window,
)
from fastvit_bench.report.mlperf import Report
from fastvit_bench.report.trtexec import Times


@dataclass(frozen=True)
class Found:
    """A measurement that was made elsewhere, and what names its run wherever it is imported."""

    measurement: Measurement
    started: datetime
    digest: str  # six hex digits over the times themselves
    source: str  # what it was read from, for messages


def _named_after(product: str) -> str:
    """The name of a device that nobody declared."""
    return re.sub(r"[^a-z0-9]+", "-", product.lower()).strip("-") or "device"


# --- performance reports of Xcode -------------------------------------------------------------------------------------

REPORTED_BY = "Xcode's performance report"  # the clock of an imported measurement
_CORE_ML = "coreml"  # the backend whose files such a report can be of


def of_xcode(report: Report, profile: Device | None, models: Path) -> Found:
    """What a performance report says, as a measurement.

    `profile` is the declared device it is said to be of; without, the device is named after the product. What the model
    is, its own metadata and a side-car in the `models` folder tell. Raises `UnavailableError` for a report of another
    device.
    """
    made = _reported(report, models)
    rounds = report.predict_ns
    measurement = Measurement(
        finished=report.finished,
        device=_reported_on(report, profile, made),
        artifact=made,
        method=Method(
            warmup=1,  # the cold first prediction of a round, which the report holds too
            runs=len(rounds[0]) - 1,
            rounds=len(rounds),
            loading="per-round" if report.loads and len(report.load_ns) == report.loads * len(rounds) else "once",
        ),
        window=Window.PREDICTION,
        clock=REPORTED_BY,
        samples_ns=tuple(samples[1:] for samples in rounds),
        cold_ns=tuple(samples[0] for samples in rounds),
        load_ns=report.load_ns,
        compile_ns=report.compile_ns,
        machine=Machine(
            host="", processor=report.product, cores=None, memory_mib=None, os=report.os, python=None, packages={}
        ),
        state=MachineState(),
        placement=report.placement,
    )
    return Found(measurement, datetime.fromisoformat(report.started), report.digest, "report")


def _reported(report: Report, models: Path) -> Artifact | Foreign:
    """What was measured: a file of ours, as far as it is known here, or a model of others."""
    ours = build.recognise(report.metadata, _CORE_ML, models)
    if ours is None:
        return Foreign(
            model=report.model,
            backend=_CORE_ML,
            precision=report.precision,
            inputs=report.inputs,
            shape=report.shape,
            size_bytes=report.size_bytes or None,
            operations=report.operations,
            metadata=report.metadata,
        )
    if ours.functions and report.function is not None:
        from fastvit_bench.backends.coreml import function_name

        shape = next((each for each in ours.functions if function_name(each) == report.function), None)
        if shape is None:
            raise UsageError(
                f"The report is of function '{report.function}', and the model it names has "
                f"{', '.join(map(function_name, ours.functions))}; its metadata is not its own."
            )
        ours = build.at_size(ours, shape)
    elif report.shape is not None and report.shape != ours.shape:
        raise UsageError(
            f"The model of the report says that it is {ours.model} at {ours.shape.size}, and it takes "
            f"{report.shape.size}; its metadata is not its own."
        )
    return ours if ours.size_bytes else msgspec.structs.replace(ours, size_bytes=report.size_bytes)


def _reported_on(report: Report, profile: Device | None, made: Artifact | Foreign) -> Device:
    """The device as the report was made on it."""
    options: dict[str, str | int | float | bool] = {"compute_units": report.compute_units}
    batch = made.shape.batch if made.shape else 1
    if profile is None:
        profile = Device(name=_named_after(report.product), backend=_CORE_ML, match=report.product)
    elif profile.backend != _CORE_ML:
        raise UsageError(
            f"The report is of Core ML, and device '{profile.name}' runs {profile.backend}; name a device whose "
            f"backend is {_CORE_ML}, or leave --device out."
        )
    elif profile.match is not None and not products.fits(profile.match, report.product):
        wanted = products.name_of(profile.match)
        also = f", that is {wanted}" if wanted != profile.match else ""
        raise UnavailableError(
            f"The report is of {report.product} ({report.os}), and device '{profile.name}' is meant for "
            f"'{profile.match}'{also}; leave --device out, or declare a [device.*] with match = \"{report.product}\"."
        )
    return msgspec.structs.replace(profile, precision=made.precision, batch=batch, options=options)


# --- times of trtexec -------------------------------------------------------------------------------------------------

TIMED_BY = "CUDA events of trtexec"  # the clock of an imported measurement
_TENSORRT = "tensorrt"  # the backend whose engines trtexec times

ITERATIONS, DURATION_MS = 10, 3000  # trtexec goes on for at least so many queries and so long, unless told otherwise


class Habits(Record, frozen=True):
    """How a version of trtexec runs queries unless it is told otherwise; its file says nothing of either."""

    graph: bool  # whether it replays a CUDA graph
    spin: bool  # whether the host spins until a query is done, or blocks


# first number of TensorRT's version -> its habits (samples/common/sampleOptions.h)
HABITS = {
    8: Habits(graph=False, spin=False),
    10: Habits(graph=False, spin=False),
    11: Habits(graph=True, spin=True),
}


class Told(Record, frozen=True):
    """What a file of trtexec leaves out and a person adds."""

    made: Artifact | Foreign
    version: str  # of TensorRT, such as 10.16
    gpu: str | None = None  # its name; None: the one the device is meant for
    driver: str | None = None
    graph: bool | None = None  # None, as below: what that version does
    spin: bool | None = None
    window: Window = Window.COMPUTE


def of_trtexec(times: Times, told: Told, profile: Device | None) -> Found:
    """What trtexec timed, as a measurement; every default of its version is spelt out in the device's options.

    `profile` is the declared device it is said to be of; without, the device is named after the GPU. Raises
    `UsageError` for what is missing or contradicts the file, `MismatchError` for a GPU the device is not meant for.
    """
    habits = _habits(told)
    gpu = _gpu(told, profile)
    if told.window is Window.END_TO_END and not times.transfers:
        raise UsageError(
            "The file holds no copies between host and GPU, so its latencies are not end to end; import it with "
            "--window compute, or run trtexec with --includeDataTransfers (before TensorRT 11: without "
            "--noDataTransfers)."
        )
    made = told.made
    samples = times.compute_ns if told.window is Window.COMPUTE else times.latency_ns
    # it looks at the clock on the host, up to two queries before the end of the last one
    long = times.span_ms + 3e-6 * max(samples) >= DURATION_MS and len(samples) >= ITERATIONS
    device = profile or Device(name=_named_after(gpu), backend=_TENSORRT, match=gpu)
    measurement = Measurement(
        finished=times.finished,
        device=msgspec.structs.replace(
            device,
            precision=made.precision,
            batch=made.shape.batch if made.shape else 1,
            options={"graph": habits.graph, "sync": "spin" if habits.spin else "block", "transfers": times.transfers},
        ),
        artifact=made,
        method=Method(
            warmup=0,
            warmup_ms=times.warm_up_ms,
            runs=ITERATIONS if long else len(samples),  # so that sizes of one sweep share a row
            duration_ms=DURATION_MS if long else 0,
        ),
        window=told.window,
        clock=TIMED_BY,
        samples_ns=(samples,),
        machine=Machine(
            host="",
            processor="",
            cores=None,
            memory_mib=None,
            os="",
            python=None,
            packages={_TENSORRT: told.version},
            accelerator=gpu,
            driver=told.driver,
        ),
        state=MachineState(),
    )
    return Found(measurement, datetime.fromisoformat(times.finished), times.digest, "file")


def _habits(told: Told) -> Habits:
    if not re.fullmatch(r"\d{1,4}(\.\d{1,9}){1,3}", told.version, re.ASCII):
        raise UsageError(
            f"--trt-version {told.version!r} is no version of TensorRT; write it as 10.16 or 10.16.1.11 (trtexec's "
            f"first line says v101601 for 10.16.1)."
        )
    usual = HABITS.get(int(told.version.split(".")[0]))
    if told.window is Window.PREDICTION:
        raise UsageError("trtexec times compute or end-to-end, not prediction; name one of them with --window.")
    graph = told.graph if told.graph is not None else usual and usual.graph
    spin = told.spin if told.spin is not None else usual and usual.spin
    if graph is None or spin is None:
        raise UsageError(
            f"What trtexec does by default is known here of TensorRT {', '.join(map(str, HABITS))}, not of "
            f"{told.version}; say it with --graph or --no-graph, and --spin-wait or --no-spin-wait."
        )
    return Habits(graph=graph, spin=spin)


def _gpu(told: Told, profile: Device | None) -> str:
    """The GPU's name, and that it is one the device is meant for."""
    if profile is not None and profile.backend != _TENSORRT:
        raise UsageError(
            f"The file is of TensorRT, and device '{profile.name}' runs {profile.backend}; name a device whose backend "
            f"is {_TENSORRT}, or say --gpu instead of --device."
        )
    match = profile.match if profile else None
    gpu = " ".join((told.gpu if told.gpu is not None else match or "").split())
    if not gpu:
        raise UsageError(
            "The file does not say which GPU it was made on; name it, such as --gpu 'NVIDIA GeForce RTX 2080 Ti'."
        )
    if match is not None and match.lower() not in gpu.lower():
        assert profile is not None
        raise MismatchError(
            f"The GPU is said to be {gpu}, and device '{profile.name}' is meant for '{match}'; name another --device, "
            f"or leave it out."
        )
    return gpu


def taken_for_granted(times: Times, found: Measurement) -> str:
    """What stands in no file, as a line: how the queries were run, and which were left out."""
    options = found.device.options
    left_out = (
        f"{times.left_out} of {times.left_out + len(times.compute_ns)} queries began within its {times.warm_up_ms} ms "
        f"of warm-up and were left out"
        if times.left_out
        else f"all {len(times.compute_ns)} queries were kept"
    )
    return (
        f"taken as TensorRT {found.machine.packages[_TENSORRT]}: {'a' if options['graph'] else 'no'} CUDA graph, the "
        f"host {'spins' if options['sync'] == 'spin' else 'blocks'} while it waits; copies were "
        f"{'made' if times.transfers else 'left out'}, as the file shows; {left_out}"
    )


def timed_file(path: Path, models: Path) -> Artifact:
    """The artifact that an exported ONNX file says it is, with its proof where a side-car is known.

    Raises `UsageError` for a file that this tool did not write, `ChecksumError` for one that was changed since.
    """
    try:
        backend = backends.of_file(path)
        ours = build.recognise(backend.metadata(path), backend.name, models)
    except UsageError as error:
        raise UsageError(f"--onnx: {error}") from None
    if ours is None:
        raise UsageError(
            f"{path} was not written by fastvit-bench; name what was timed with --model instead of --onnx, and with "
            f"--res, --batch and --precision."
        )
    sha256 = files.file_sha256(path)
    if ours.sha256 not in (None, sha256):
        raise ChecksumError(f"{path} is not the file that its side-car {ours.path}.json describes; export it again.")
    return msgspec.structs.replace(ours, sha256=sha256, size_bytes=path.stat().st_size)


def timed_model(name: str, shape: Shape | None, precision: str | None) -> Foreign:
    """A model that only a person knows."""
    return Foreign(model=name, backend=_TENSORRT, precision=precision or "unknown", inputs={}, shape=shape)


# --- telling two apart ------------------------------------------------------------------------------------------------


def facts(found: Measurement) -> Mapping[str, str]:
    """What one set of times may be said to be, and nothing that a later import may know better, such as a proof."""
    made = found.artifact
    return {
        "device": found.device.name,
        "model": made.model,
        "input": f"{made.shape.size} b{made.shape.batch}" if made.shape else "unknown",
        "precision": made.precision,
        "window": found.window,
        "GPU": found.machine.accelerator or "none",
        "driver": found.machine.driver or "unknown",
        "version": found.machine.packages.get(_TENSORRT, "unknown"),
        "way": ", ".join(f"{name} {value}" for name, value in sorted(found.device.options.items())),
    }
