"""Measurements from the times that trtexec writes and the facts that a person adds."""

import re
from datetime import datetime
from pathlib import Path

import msgspec

from fastvit_bench import backends, files
from fastvit_bench.errors import ChecksumError, MismatchError, UsageError
from fastvit_bench.exporting import metadata
from fastvit_bench.importers.imported_measurement import TENSORRT, ImportedMeasurement
from fastvit_bench.importers.trtexec_times import Times
from fastvit_bench.importers.xcode import device_name
from fastvit_bench.records import (
    Artifact,
    Device,
    ExternalModel,
    Machine,
    MachineState,
    Measurement,
    Method,
    Record,
    Shape,
    Window,
)

# --- times of trtexec -------------------------------------------------------------------------------------------------

TIMED_BY = "CUDA events of trtexec"  # the clock of an imported measurement


ITERATIONS, DURATION_MS = 10, 3000  # both are minima of trtexec, by default


class VersionDefaults(Record, frozen=True):
    """Defaults of a version of trtexec for running queries; its file records neither."""

    graph: bool  # whether it replays a CUDA graph
    spin: bool  # whether the host spins until a query is done, or blocks


# first number of TensorRT's version -> defaults (samples/common/sampleOptions.h)
VERSION_DEFAULTS = {
    8: VersionDefaults(graph=False, spin=False),
    10: VersionDefaults(graph=False, spin=False),
    11: VersionDefaults(graph=True, spin=True),
}


class TrtexecFacts(Record, frozen=True):
    """The facts about times that are not in a file of trtexec; a person adds them."""

    made: Artifact | ExternalModel
    version: str  # of TensorRT, such as 10.16
    gpu: str | None = None  # its name; None: the GPU that the device is for
    driver: str | None = None
    graph: bool | None = None  # None, here and below: the default of that version
    spin: bool | None = None
    window: Window = Window.COMPUTE


def from_trtexec(times: Times, facts: TrtexecFacts, profile: Device | None) -> ImportedMeasurement:
    """Convert times of trtexec to a measurement; the device's options state every default of its version.

    `profile` is the declared device of the times; without it, the device is named after the GPU. Raises `UsageError`
    for a fact that is missing or contradicts the file, `MismatchError` for a GPU that the device is not for.
    """
    defaults = _defaults(facts)
    gpu = _gpu(facts, profile)
    if facts.window is Window.END_TO_END and not times.transfers:
        raise UsageError(
            "The file holds no copies between host and GPU, so its latencies are not end to end; import it with "
            "--window compute, or run trtexec with --includeDataTransfers (before TensorRT 11: without "
            "--noDataTransfers)."
        )
    artifact = facts.made
    samples = times.compute_ns if facts.window is Window.COMPUTE else times.latency_ns
    # trtexec checks the duration on the host, up to two queries before the end of the last one
    long = times.span_ms + 3e-6 * max(samples) >= DURATION_MS and len(samples) >= ITERATIONS
    device = profile or Device(name=device_name(gpu), backend=TENSORRT, match=gpu)
    measurement = Measurement(
        finished=times.finished,
        device=msgspec.structs.replace(
            device,
            precision=artifact.precision,
            batch=artifact.shape.batch if artifact.shape else 1,
            options={
                "graph": defaults.graph,
                "sync": "spin" if defaults.spin else "block",
                "transfers": times.transfers,
            },
        ),
        artifact=artifact,
        method=Method(
            warmup=0,
            warmup_ms=times.warm_up_ms,
            runs=ITERATIONS if long else len(samples),  # so that sizes of one sweep share a row
            duration_ms=DURATION_MS if long else 0,
        ),
        window=facts.window,
        clock=TIMED_BY,
        samples_ns=(samples,),
        machine=Machine(
            host="",
            processor="",
            cores=None,
            memory_mib=None,
            os="",
            python=None,
            packages={TENSORRT: facts.version},
            accelerator=gpu,
            driver=facts.driver,
        ),
        state=MachineState(),
    )
    return ImportedMeasurement(measurement, datetime.fromisoformat(times.finished), times.digest, "file")


def _defaults(facts: TrtexecFacts) -> VersionDefaults:
    """Return the given settings of a run, completed by the defaults of its version of trtexec.

    Raises `UsageError` for a malformed or unknown version, and for a window that trtexec does not time.
    """
    if not re.fullmatch(r"\d{1,4}(\.\d{1,9}){1,3}", facts.version, re.ASCII):
        raise UsageError(
            f"--trt-version {facts.version!r} is no version of TensorRT; write it as 10.16 or 10.16.1.11 (trtexec's "
            f"first line says v101601 for 10.16.1)."
        )
    usual = VERSION_DEFAULTS.get(int(facts.version.split(".")[0]))
    if facts.window is Window.PREDICTION:
        raise UsageError("trtexec times compute or end-to-end, not prediction; name one of them with --window.")
    graph = facts.graph if facts.graph is not None else usual and usual.graph
    spin = facts.spin if facts.spin is not None else usual and usual.spin
    if graph is None or spin is None:
        raise UsageError(
            f"What trtexec does by default is known here of TensorRT {', '.join(map(str, VERSION_DEFAULTS))}, not of "
            f"{facts.version}; say it with --graph or --no-graph, and --spin-wait or --no-spin-wait."
        )
    return VersionDefaults(graph=graph, spin=spin)


def _gpu(facts: TrtexecFacts, profile: Device | None) -> str:
    """Return the name of the GPU; raises `MismatchError` if the device is not for it."""
    if profile is not None and profile.backend != TENSORRT:
        raise UsageError(
            f"The file is of TensorRT, and device '{profile.name}' runs {profile.backend}; name a device whose backend "
            f"is {TENSORRT}, or say --gpu instead of --device."
        )
    match = profile.match if profile else None
    gpu = " ".join((facts.gpu if facts.gpu is not None else match or "").split())
    if not gpu:
        raise UsageError(
            "The file does not say which GPU it was made on; name it, such as --gpu 'NVIDIA GeForce RTX 2080 Ti'."
        )
    if match is not None and match.lower() not in gpu.lower():
        assert profile is not None
        raise MismatchError(
            f"The GPU is given as {gpu}, and device '{profile.name}' is meant for '{match}'; name another --device, "
            f"or leave it out."
        )
    return gpu


def assumptions(times: Times, measurement: Measurement) -> str:
    """Return the assumptions of an import as a line: how queries were run, and how many were left out."""
    options = measurement.device.options
    queries = (
        f"{times.left_out} of {times.left_out + len(times.compute_ns)} queries began within its {times.warm_up_ms} ms "
        f"of warm-up and were left out"
        if times.left_out
        else f"all {len(times.compute_ns)} queries were kept"
    )
    return (
        f"taken as TensorRT {measurement.machine.packages[TENSORRT]}: {'a' if options['graph'] else 'no'} CUDA graph, "
        f"the host {'spins' if options['sync'] == 'spin' else 'blocks'} while it waits; copies were "
        f"{'made' if times.transfers else 'left out'}, as the file shows; {queries}"
    )


def timed_file(path: Path, models: Path) -> Artifact:
    """Return the artifact of an exported ONNX file, with its proof if a side-car is known.

    Raises `UsageError` for a file that this tool did not write, `ChecksumError` for one that was changed since.
    """
    try:
        backend = backends.of_file(path)
        artifact = metadata.recognise(backend.metadata(path), backend.name, models)
    except UsageError as error:
        raise UsageError(f"--onnx: {error}") from None
    if artifact is None:
        raise UsageError(
            f"{path} was not written by fastvit-bench; name what was timed with --model instead of --onnx, and with "
            f"--res, --batch and --precision."
        )
    sha256 = files.file_sha256(path)
    if artifact.sha256 not in (None, sha256):
        raise ChecksumError(
            f"{path} is not the file that its side-car {artifact.path}.json describes; export it again."
        )
    return msgspec.structs.replace(artifact, sha256=sha256, size_bytes=path.stat().st_size)


def timed_model(name: str, shape: Shape | None, precision: str | None) -> ExternalModel:
    """Return a model that is known only by a person's description."""
    return ExternalModel(model=name, backend=TENSORRT, precision=precision or "unknown", inputs={}, shape=shape)
