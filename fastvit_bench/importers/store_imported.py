"""Store an imported measurement as a run of its own, once."""

from collections.abc import Mapping
from pathlib import Path

import msgspec

from fastvit_bench.errors import UsageError
from fastvit_bench.importers.imported_measurement import ImportedMeasurement, facts
from fastvit_bench.records import (
    Artifact,
    ModelSpec,
    Request,
)
from fastvit_bench.store import runs
from fastvit_bench.sweep.plan import cell_of
from fastvit_bench.sweep.run import header

# --- imported runs ----------------------------------------------------------------------------------------------------


def store_imported_run(
    imported: ImportedMeasurement, specs: Mapping[str, ModelSpec], results: Path
) -> tuple[Path, bool]:
    """Store an imported measurement as a run; return its file, and whether the run is new.

    The digest of its times identifies a run that exists already. `specs` are the configured models, by name. Raises
    `UsageError` if the same times are stored already with other facts.
    """
    measurement, device = imported.measurement, imported.measurement.device
    # an external model is no file of this tool: its run has no configured model and no cell
    artifact = measurement.artifact if isinstance(measurement.artifact, Artifact) else None
    shape = measurement.artifact.shape
    request = Request(
        device=device,
        models=(_spec_of(artifact, specs),) if artifact else (),
        shapes=() if shape is None else (shape,),
        fused=artifact.fused if artifact else None,
        method=measurement.method,
        seed=(artifact.weights.seed if artifact else None) or 0,
        timeout_s=0,  # nothing was waited for
    )
    with runs.lock(results, device.name):
        named = [path for path in runs.all_runs(results) if path.stem.endswith(f"-{imported.digest}")]
        # a sweep may happen to have these digits, but its runs have a host
        path = next((path for path in named if not runs.read(path).runs[0].machine.host), None)
        if path is not None and (path.parent.name != device.name or runs.reopen(path).measurements):
            _check_same(path, imported)
            return path, False
        if path is None:
            identity = runs.new_id(imported.started, imported.digest)
            cells = (cell_of(measurement),) if artifact else ()
            path = runs.create(results, header(identity, imported.started, request, cells, measurement.machine))
        runs.append(path, measurement)
    return path, True


def _check_same(path: Path, imported: ImportedMeasurement) -> None:
    """Raise `UsageError` unless a stored run states the same facts about the same times."""
    known = facts(imported.measurement)
    file = runs.read(path)
    before = facts(file.measurements[0]) if file.measurements else {"device": path.parent.name}
    for label, fact in known.items():
        if before.get(label, fact) != fact:
            raise UsageError(
                f"This {imported.source} is run {path.stem} already, and its {label} was '{before[label]}' then; "
                f"remove {path} to import it with '{fact}'."
            )


def _spec_of(artifact: Artifact, specs: Mapping[str, ModelSpec]) -> ModelSpec:
    """Return the configured model of that name if it is the same network, otherwise one from the file's metadata."""
    spec = specs.get(artifact.model)
    if spec is None or spec.variant != artifact.variant:
        spec = ModelSpec(name=artifact.model, variant=artifact.variant)
    return msgspec.structs.replace(spec, head=artifact.head, classes=artifact.classes, checkpoint=None, sha256=None)
