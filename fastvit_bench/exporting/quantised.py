"""Files in INT8: what they must compute, and the record of what they are."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from fastvit_bench import backends
from fastvit_bench.exporting import calibration, fidelity
from fastvit_bench.records import ExportJob, Parity, Quantisation, Shape

if TYPE_CHECKING:
    from torch import nn

    from fastvit_bench.backends import Images, QuantisedFile
    from fastvit_bench.exporting.verification import ReferenceOutputs
    from fastvit_bench.network.factory import Reference


def references(
    network: "nn.Module",
    wanted: "Callable[[Shape, Images], ReferenceOutputs]",
    asked: ExportJob,
    path: Path,
) -> "tuple[Parity, ReferenceOutputs]":
    """Return the proof of the float graph that a file was quantised from, and what the file must compute.

    The float graph must compute what the network does, by the limits of float32. Rounded to the file's grids, it
    computes the outputs that the file is judged by. Raises `ParityError` for a file of other operators.
    """
    from fastvit_bench.exporting import verification

    twins = backends.get(asked.backend).quantised_twins(network, asked, path)
    with twins.unrounded as session:
        known = wanted(asked.shape, session.images)
        proof = verification.prove(known, session, "fp32", how=f"float32, {twins.how}")
    with twins.rounded as session:
        how = "network rounded to the file's 8-bit grids in float"
        return proof, verification.outputs_of(session, asked.shape, how, known.head)


def record(written: "QuantisedFile", asked: ExportJob, reference: "Reference | None", path: Path) -> Quantisation:
    """Return the record of a file in INT8, with its likeness to the float64 network on calibration images.

    The outputs are those of the last check of the backend: of its own kernels, where they are here.
    """
    images = asked.calibration
    assert images is not None
    assert reference is not None
    labels = [picture.label for picture in images.pictures[: fidelity.IMAGES]]
    *_, look = backends.get(asked.backend).verification_sessions(path, asked)
    with look.session as session:
        likeness = fidelity.compare(
            fidelity.expected(reference, calibration.prepared(images)[: fidelity.IMAGES]),
            fidelity.of_session(session, reference.head, asked.shape.batch),
            labels if images.chosen.classes == reference.classes else (),
        )
    return Quantisation(
        weights=written.weights,
        activations=written.activations,
        ranges=written.ranges,
        quantiser=written.quantiser,
        integer=dict(written.integer),
        floating=dict(written.floating),
        excluded=written.excluded,
        changes=dict(written.changes),
        calibration=images.chosen,
        fidelity=likeness,
        tuning=written.tuning,
    )
