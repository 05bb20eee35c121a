"""Probes as files of a toolkit, and their times: a worker's part in measuring a device's peak."""

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fastvit_bench import backends
from fastvit_bench.records import ExportJob, Fuse, Head, MicrobenchmarkJob, MicrobenchmarkTimingJob, Weights
from fastvit_bench.stats.intervals import median

if TYPE_CHECKING:
    from fastvit_bench.backends import Batch, Session
    from fastvit_bench.measuring.latency import TimedRuns


def write(job: MicrobenchmarkJob) -> None:
    """Export a probe like any network, and build its engine where the toolkit runs one.

    Raises what `Backend.export` and `backends.Engines.build` do.
    """
    from fastvit_bench.network import microbench

    probe, backend, path = job.probe, backends.get(job.device.backend), Path(job.path)
    device = msgspec.structs.replace(job.device, precision=probe.precision)
    options = backend.options(device)
    export = ExportJob(
        model=f"probe, {probe.label}",
        variant="probe",
        head=Head.CLASSIFIER,
        classes=probe.width,
        checkpoint=None,
        weights=Weights(origin="random", seed=0),
        backend=backend.name,
        precision=probe.precision,
        shape=probe.shape,
        fused=Fuse.NONE,
        device=device,
        toolchain={},
        path=job.path,
        options={name: str(options[name]) for name in backend.export_options if options.get(name, "") != ""},
    )
    backend.export(microbench.network(probe), export, path, {})
    if backend.engines is not None:
        backend.engines.build(path, device)


def read(job: MicrobenchmarkTimingJob) -> "TimedRuns":
    """Time a probe's file on its device, with `measure.latency`."""
    from fastvit_bench.measuring import latency

    backend, path = backends.get(job.device.backend), Path(job.path)
    device = msgspec.structs.replace(job.device, precision=job.probe.precision)

    def images(session: "Session") -> "Batch":
        return _images(job, session)

    return latency.read(lambda: backend.open(path, device), images, job.method)


def best_ns(reading: "TimedRuns") -> int:
    """Return the lowest median of a round, in nanoseconds: the time of a run when nothing disturbs the device."""
    return round(min(median(samples) for samples in reading.samples_ns))


def _images(job: MicrobenchmarkTimingJob, session: "Session") -> "Batch":
    """Return noise in the form the session takes; zeros would be quicker on devices that clock by power."""
    import numpy as np

    draw, (batch, channels, height, width) = np.random.default_rng(0), job.probe.shape.nchw
    if session.images is backends.Images.PIXELS:
        return np.resize(draw.integers(0, 256, 1 << 20, np.uint8), (batch, height, width, channels))
    return np.resize(draw.standard_normal(1 << 20, np.float32), (batch, channels, height, width))
