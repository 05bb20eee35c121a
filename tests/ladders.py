"""A ladder with figures of its own: FP32 as the reference, FP16 and INT8 beside it, BF16 that cannot run."""

from collections.abc import Sequence
from typing import Any

import builders
import msgspec

from fastvit_bench.records import Accuracy, Artifact, answers
from fastvit_bench.records.study import Contestant, Match, Study, StudyResult, StudyRow

ROWS = (
    StudyRow("FP32", "fastvit_t8", precision="fp32"),
    StudyRow("BF16", precision="bf16", note="not measured: this processor has no BF16 arithmetic"),
    StudyRow("FP16", "fastvit_t8", precision="fp16"),
    StudyRow("INT8", "fastvit_t8", precision="int8"),
)


def artifact(precision: str) -> Artifact:
    changes: dict[str, Any] = {"precision": precision, "sha256": precision[-1] * 64}
    if precision == "int8":
        changes |= {"quantisation": builders.quantisation(), "size_bytes": 4 * 2**20}
    return builders.artifact(**changes)


def accuracy(precision: str, right: Sequence[bool], **changes: Any) -> Accuracy:
    usual: dict[str, Any] = {
        "artifact": artifact(precision),
        "device": builders.device(precision=precision),
        "images": len(right),
        "top1": sum(right),
        "top5": len(right),
        "right": answers.packed(right),
        "contents": "cc" * 32,
        "evaluation": builders.evaluation(images=len(right)),
    }
    return builders.accuracy(**(usual | changes))


def answered(count: int, lost: int = 0, gained: int = 0) -> list[bool]:
    """Answers to so many images, of which the reference has nine in ten right, beside its own."""
    right = [at % 10 != 0 for at in range(count)]
    for at in [at for at in range(count) if right[at]][:lost]:
        right[at] = False
    for at in range(0, 10 * gained, 10):
        right[at] = True
    return right


def result(
    ratios: dict[str, float], accuracies: Sequence[Accuracy] = (), blocks: int = 10, **changes: Any
) -> StudyResult:
    """Ratios to FP32 by precision, each of ten blocks that scatter by 0.4 %, or of fewer."""
    shape, rows = builders.shape(256), {row.precision: row for row in ROWS}
    matches = tuple(Match(Contestant(rows["fp32"], shape), Contestant(rows[name], shape)) for name in ratios)
    cells = [
        builders.cell_result(match.name, ratio=ratio) for match, ratio in zip(matches, ratios.values(), strict=True)
    ]
    for at, (name, cell) in enumerate(zip(ratios, cells, strict=True)):
        assert cell.base is not None
        assert cell.head is not None
        verdict = cell.verdict if blocks >= 6 else msgspec.structs.replace(cell.verdict, interval=None)
        cells[at] = msgspec.structs.replace(
            cell,
            base=msgspec.structs.replace(cell.base, artifact=artifact("fp32")),
            head=msgspec.structs.replace(cell.head, artifact=artifact(name)),
            blocks=cell.blocks[:blocks],
            verdict=verdict,
        )
    usual: dict[str, Any] = {
        "study": Study(name="ladder", title="The precision ladder of fastvit_t8", rows=ROWS, grid=(256,)),
        "matches": matches,
        "cells": tuple(cells),
        "accuracies": tuple(accuracies),
        "blocks": blocks,
    }
    return builders.study_result({}, **(usual | changes))


def usual(images: int = 1000, lost: int = 30, gained: int = 4) -> StudyResult:
    """FP16 as right as FP32, INT8 worse; FP16 slower and INT8 quicker."""
    counted = [
        accuracy("fp32", answered(images)),
        accuracy("fp16", answered(images)),
        accuracy("int8", answered(images, lost, gained)),
    ]
    return result({"fp16": 1.3, "int8": 0.58}, counted)
