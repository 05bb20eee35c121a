"""This tool's own export of the network that a file of others is compared with."""

from pathlib import Path

import msgspec

from fastvit_bench import backends
from fastvit_bench.auditing.audit import AuditSubject
from fastvit_bench.auditing.outputs import NORMALIZED
from fastvit_bench.errors import FastViTBenchError
from fastvit_bench.exporting import pipeline
from fastvit_bench.records import Artifact, Device, ExportJob, Fuse, ModelSpec
from fastvit_bench.records.audit import Audit


def job(spec: ModelSpec, item: AuditSubject, models: Path) -> ExportJob:
    """Return the job that exports the network as the file has it: for its toolkit, in its precision and shape, folded.

    Raises `UsageError` for what this tool does not export.
    """
    file, backend = item.file, backends.of_target(item.file.target)
    taken = {"input": "image" if file.port.dtype == "image" else "tensor"}
    device = Device(
        name=file.target,
        backend=backend.name,
        precision=file.precision,
        batch=item.shape.batch,
        options={name: value for name, value in taken.items() if name in backend.export_options},
    )
    return pipeline.job(spec, item.weights, item.shape, Fuse.FOLDED, device, folder=models)


def beside(audit: Audit, spec: ModelSpec, item: AuditSubject, models: Path) -> Audit:
    """Return an audit with the operations of this tool's own export, which is written below `models` where it is not.

    Where the file divides the embedding by its norm, so does the export. Where there is none, the audit says why.
    """
    try:
        backends.require(backends.of_target(item.file.target).name)
        ending = any(output.passed and output.value == NORMALIZED for output in audit.outputs)
        asked = job(msgspec.structs.replace(spec, normalize=ending), item, models)
        artifact: Artifact = pipeline.cached(asked) or pipeline.export(asked)
    except FastViTBenchError as error:
        return msgspec.structs.replace(audit, own_reason=str(error).rstrip("."))
    return msgspec.structs.replace(
        audit, own_operations=artifact.operations, own_path=str(Path(asked.path).with_name(artifact.path))
    )
