"""The ladder as a study: a row for each precision of a device, the widest float first."""

import msgspec

from fastvit_bench import backends
from fastvit_bench.errors import UsageError
from fastvit_bench.network import registry
from fastvit_bench.records import CALIBRATED, Device, ModelSpec
from fastvit_bench.records.study import Study, StudyResult, StudyRow

NAME = "ladder"
TITLE = "The precision ladder"
ORDER = ("fp32", "bf16", "fp16", "w8", "int8", "w8a8")  # the widest first; others follow


def rungs(device: Device) -> tuple[str, ...]:
    """Return the precisions of a device, the reference first. Raises `UsageError` for a device with fewer than two."""
    known = backends.get(device.backend).precisions
    ordered = tuple(name for name in (*ORDER, *known) if name in known)
    if len(known) < 2:
        raise UsageError(f"Device '{device.name}' runs {' or '.join(known)} alone, so it has no ladder; name another.")
    return tuple(dict.fromkeys(ordered))


def declare(spec: ModelSpec, device: Device) -> Study:
    """Return the study of a network in every precision; a precision that cannot run has its reason as a note.

    Raises `UsageError` as `rungs` does, and for an ONNX file.
    """
    if spec.variant == registry.ONNX:
        raise UsageError(f"{spec.checkpoint} is an ONNX file, which runs as it is; a ladder is made of a network.")
    rows = [_row(spec.name, device, precision) for precision in rungs(device)]
    return Study(name=NAME, title=f"{TITLE} of {spec.name}", rows=tuple(rows), grid=(spec.resolution,))


def _row(model: str, device: Device, precision: str) -> StudyRow:
    lacking = _lacking(msgspec.structs.replace(device, precision=precision))
    return StudyRow(label=precision.upper(), model="" if lacking else model, precision=precision, note=lacking)


def _lacking(device: Device) -> str:
    """Return why a precision is left out, empty if it is not."""
    if device.precision in CALIBRATED and device.calibration is None:
        return "not measured: it needs calibration images, which --calibration DIR names"
    backend = backends.get(device.backend)
    wide = msgspec.structs.replace(device, precision=rungs(device)[0])
    if backend.device_unavailable_reason(wide) is not None:
        return ""  # the device itself is not here, which is not a matter of precision
    reason = backend.device_unavailable_reason(device)
    return "" if reason is None else f"not measured: {reason}"


def is_ladder(result: StudyResult) -> bool:
    """Return whether a study's rows are precisions."""
    return any(row.precision for row in result.study.rows)
