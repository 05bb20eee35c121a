"""The jobs of a worker process on artifacts: timing, counting right answers, and taking turns."""

import contextlib
import platform
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fastvit_bench import backends
from fastvit_bench.backends import Session
from fastvit_bench.errors import UsageError
from fastvit_bench.exporting import pipeline
from fastvit_bench.measuring.jobs import Opened, OpenJob, Turned, TurnJob, WarmedUp, WarmUpJob
from fastvit_bench.records import (
    AccuracyChunk,
    CallPattern,
    EvaluationJob,
    LayerTime,
    Machine,
    Measurement,
    Parity,
    ResourceUsage,
    SpeedCheck,
    TimingJob,
)

if TYPE_CHECKING:
    from fastvit_bench.accuracy.count import Scoring


def time_artifact(job: TimingJob) -> Measurement:
    """Load an artifact on its device, check that it computes what it should there, and time it in this process."""
    from fastvit_bench.exporting import verification
    from fastvit_bench.measuring import latency, machine, reference, resources

    backend, path = backends.get(job.device.backend), Path(job.path)
    shape = job.artifact.shape
    proofs: list[Parity] = []
    before = () if job.machine.accelerator else reference.time_ns()
    watch = machine.Watch()

    def check(session: Session) -> None:
        proofs.append(pipeline.check(session, path, job.artifact, f"{backend.name} on {_hardware(job.machine)}"))
        watch.begin_timing()

    reading = latency.read(
        lambda: backend.open(path, job.device),
        lambda session: verification.images(shape, session.images)[0],
        job.method,
        check,
    )
    state = watch.state()
    device_mib = [sample.own_memory_mib for sample in reading.gpu if sample.own_memory_mib is not None]
    on_this_host = reading.pacing is not CallPattern.REMOTE_CALL
    usage = ResourceUsage(
        peak_resident_bytes=resources.peak_resident_bytes() if on_this_host else None,
        device_bytes=max(device_mib) << 20 if device_mib else None,
        energy_mj=reading.energy_mj,
        runs=sum(map(len, reading.samples_ns)),
    )
    layers: tuple[LayerTime, ...] = ()
    if job.profile:
        batch = verification.images(shape, reading.images)[0]
        layers = backend.profile(path, job.device, batch, job.method.runs)
    checks: tuple[SpeedCheck, ...] = ()
    if before and reading.clock == latency.CLOCK:
        machine.pause(reference.RESTED_S)
        checks = (SpeedCheck(before_ns=before, after_ns=reference.time_ns()),)
    return Measurement(
        finished=datetime.now(UTC).isoformat(timespec="seconds"),
        device=job.device,
        artifact=job.artifact,
        method=job.method,
        window=reading.window,
        clock=reading.clock,
        samples_ns=reading.samples_ns,
        machine=job.machine,
        state=state,
        pacing=reading.pacing,
        load_ns=reading.load_ns,
        placement=reading.placement,
        parity=proofs[-1],
        engine=reading.engine,
        gpu=reading.gpu,
        usage=(usage,),
        layers=layers,
        speed_checks=checks,
    )


def evaluate_artifact(job: EvaluationJob) -> Generator[AccuracyChunk]:
    """Load an artifact on its device, or in the runtime that proves its files anywhere, and count its right answers.

    On a device its outputs are proved first. Where the device computes an image with several threads, as many images
    are computed at a time with one thread each. That wastes less of a processor's time, and leaves the decoding threads
    their share of it.
    """
    from fastvit_bench.accuracy import count

    scoring = _scoring(job)
    export, path = job.export, Path(job.export.path)
    backend, device = backends.get(export.backend), export.device
    lanes = int(device.options.get("threads", 1))
    if job.on_device:
        options = {**device.options, "threads": 1} if lanes > 1 else device.options
        opened = backend.open(path, msgspec.structs.replace(device, options=options))
        how = backend.name
    else:
        *_, look = backend.verification_sessions(path, export)  # earlier ones may compute in a wider type
        opened, how = look.session, look.how
    selection = count.ImageSelection(Path(job.folder), job.pictures, job.preprocessing, job.workers)
    with opened as session:
        twins: list[backends.Session | None] = []
        if job.on_device:
            pipeline.check(session, path, job.artifact, f"{how} on {_hardware(job.machine)}")
            twins = [session.clone() for _ in range(lanes - 1)]
        sessions = [session, *(twin for twin in twins if twin is not None)]
        yield from count.tallies(sessions, job.artifact, selection, job.first, how, job.contents, scoring)


def _scoring(job: EvaluationJob) -> "Scoring":
    """Return how outputs become scores; of an embedding network, load the class embeddings and the reference network.

    Raises `UsageError` for class embeddings that are not those of the job, or of another width than the network's.
    """
    from fastvit_bench.accuracy import embeddings
    from fastvit_bench.accuracy.count import Scoring

    if job.class_embeddings is None:
        return Scoring(job.artifact.classes, job.candidates)
    embedded = embeddings.read(Path(job.class_embeddings.file))
    if embedded.record != job.class_embeddings:
        raise UsageError(f"{job.class_embeddings.file} was changed since the run began; start a new run.")
    number = min(job.reference_images, len(job.pictures))
    compared = frozenset(job.pictures[at * len(job.pictures) // number].name for at in range(number))
    reference = pipeline.reference_outputs_of(job.export) if number else None
    return Scoring(embedded.record.classes, job.candidates, embedded.rows, reference, compared)


# The session that takes turns. The process is ended when its block is over, and the session with it.
_open_sessions: list[Session] = []
_open_contexts = contextlib.ExitStack()


def open_artifact(job: OpenJob) -> Opened:
    """Load an artifact, prove its outputs, feed it, and keep it loaded for the turns."""
    from fastvit_bench.exporting import verification
    from fastvit_bench.measuring import latency

    backend, path = backends.get(job.device.backend), Path(job.path)
    session = _open_contexts.enter_context(backend.open(path, job.device))
    proof = pipeline.check(session, path, job.artifact, f"{backend.name} on {_hardware(job.machine)}")
    session.set_input(verification.images(job.artifact.shape, session.images)[0])
    _open_sessions[:] = [session]
    return Opened(
        window=session.window,
        clock=session.clock or latency.CLOCK,
        pacing=session.pacing,
        parity=proof,
        python=platform.python_version(),
        packages=backends.figure_versions(job.device),
    )


def warm_up(job: WarmUpJob) -> WarmedUp:
    """Warm up the open artifact until its times are steady."""
    from fastvit_bench.measuring import latency

    (session,) = _open_sessions
    return WarmedUp(run_ns=latency.settle(session, 1_000_000 * job.turns.turn_ms, job.turns.steady))


def take_turn(job: TurnJob) -> Turned:
    """Time the runs of one turn of the open artifact, and sample the state of its GPU."""
    from fastvit_bench.measuring import latency

    (session,) = _open_sessions
    samples = latency.turn(session, job.untimed, job.runs)
    return Turned(samples_ns=samples, gpu=session.sample_telemetry())


def _hardware(machine: Machine) -> str:
    return machine.accelerator or "this processor"
