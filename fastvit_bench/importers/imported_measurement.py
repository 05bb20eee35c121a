"""A measurement by another program, and the facts that distinguish two of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from fastvit_bench.records import Measurement

TENSORRT = "tensorrt"  # the backend whose engines trtexec times


@dataclass(frozen=True)
class ImportedMeasurement:
    """A measurement by another program, with the start and the digest that name its run on every machine."""

    measurement: Measurement
    started: datetime
    digest: str  # six hex digits over the times themselves
    source: str  # kind of file that it was read from, for messages


# --- telling two apart ------------------------------------------------------------------------------------------------


def facts(measurement: Measurement) -> Mapping[str, str]:
    """Return the claims about a set of times by which two imports of it are compared, as label -> text.

    A fact that a later import may know better, such as a proof, is not among them.
    """
    artifact = measurement.artifact
    return {
        "device": measurement.device.name,
        "model": artifact.model,
        "input": f"{artifact.shape.size} b{artifact.shape.batch}" if artifact.shape else "unknown",
        "precision": artifact.precision,
        "window": measurement.window,
        "GPU": measurement.machine.accelerator or "none",
        "driver": measurement.machine.driver or "unknown",
        "version": measurement.machine.packages.get(TENSORRT, "unknown"),
        "way": ", ".join(f"{name} {value}" for name, value in sorted(measurement.device.options.items())),
    }
