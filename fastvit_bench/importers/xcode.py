"""Measurements from performance reports that Xcode exports."""

import re
from datetime import datetime
from pathlib import Path

import msgspec

from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.exporting import metadata
from fastvit_bench.importers import apple_products
from fastvit_bench.importers.imported_measurement import ImportedMeasurement
from fastvit_bench.importers.xcode_report import XcodeReport
from fastvit_bench.records import (
    Artifact,
    Device,
    ExternalModel,
    Machine,
    MachineState,
    Measurement,
    Method,
    Window,
)


def device_name(product: str) -> str:
    """Return a device name for a product that no configuration declares: lower case, words joined by hyphens.

    It is the name of a folder on every file system, so what is beyond a hundred letters is cut off.
    """
    return re.sub(r"[^a-z0-9]+", "-", product.lower()).strip("-")[:100].rstrip("-") or "device"


# --- performance reports of Xcode -------------------------------------------------------------------------------------

REPORTED_BY = "Xcode's performance report"  # the clock of an imported measurement


CORE_ML = "coreml"  # the backend that such a report measures


def from_xcode(report: XcodeReport, profile: Device | None, models: Path) -> ImportedMeasurement:
    """Convert a performance report to a measurement.

    `profile` is the declared device that the report is of; without it, the device is named after the product. The model
    is identified by its own metadata and a side-car in the `models` folder. Raises `UnavailableError` for a report of
    another device, and `UsageError` for a profile of another backend or metadata that contradicts the report.
    """
    artifact = _reported(report, models)
    rounds = report.predict_ns
    measurement = Measurement(
        finished=report.finished,
        device=_reported_on(report, profile, artifact),
        artifact=artifact,
        method=Method(
            warmup=1,  # the cold first prediction of a round, which the report includes
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
    return ImportedMeasurement(measurement, datetime.fromisoformat(report.started), report.digest, "report")


def _reported(report: XcodeReport, models: Path) -> Artifact | ExternalModel:
    """Return the measured artifact of this tool, with all that is known of it, or an external model."""
    artifact = metadata.recognise(report.metadata, CORE_ML, models)
    if artifact is None:
        return ExternalModel(
            model=report.model,
            backend=CORE_ML,
            precision=report.precision,
            inputs=report.inputs,
            shape=report.shape,
            size_bytes=report.size_bytes or None,
            operations=report.operations,
            metadata=report.metadata,
        )
    if artifact.functions and report.function is not None:
        from fastvit_bench.backends.coreml import function_name

        shape = next((size for size in artifact.functions if function_name(size) == report.function), None)
        if shape is None:
            raise UsageError(
                f"The report is of function '{report.function}', and the model it names has "
                f"{', '.join(map(function_name, artifact.functions))}; its metadata is not its own."
            )
        artifact = metadata.at_size(artifact, shape)
    elif report.shape is not None and report.shape != artifact.shape:
        raise UsageError(
            f"The model of the report says that it is {artifact.model} at {artifact.shape.size}, and it takes "
            f"{report.shape.size}; its metadata is not its own."
        )
    return artifact if artifact.size_bytes else msgspec.structs.replace(artifact, size_bytes=report.size_bytes)


def _reported_on(report: XcodeReport, profile: Device | None, artifact: Artifact | ExternalModel) -> Device:
    """Return the device of the report, with the precision, batch and compute units that the report states."""
    options: dict[str, str | int | float | bool] = {"compute_units": report.compute_units}
    batch = artifact.shape.batch if artifact.shape else 1
    if profile is None:
        profile = Device(name=device_name(report.product), backend=CORE_ML, match=report.product)
    elif profile.backend != CORE_ML:
        raise UsageError(
            f"The report is of Core ML, and device '{profile.name}' runs {profile.backend}; name a device whose "
            f"backend is {CORE_ML}, or leave --device out."
        )
    elif profile.match is not None and not apple_products.fits(profile.match, report.product):
        wanted = apple_products.name_of(profile.match)
        also = f", that is {wanted}" if wanted != profile.match else ""
        raise UnavailableError(
            f"The report is of {report.product} ({report.os}), and device '{profile.name}' is meant for "
            f"'{profile.match}'{also}; leave --device out, or declare a [device.*] with match = \"{report.product}\"."
        )
    return msgspec.structs.replace(profile, precision=artifact.precision, batch=batch, options=options)
