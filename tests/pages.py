"""Pages for tests: what a colleague would be sent, with a model whose name is a script."""

import random
from pathlib import Path

import msgspec
from builders import (
    artifact,
    at,
    cell,
    cell_result,
    comparison,
    device,
    failure,
    measurement,
    request,
    run,
    samples,
    shape,
    spec,
    study,
    study_result,
)

from fastvit_bench.records import Measurement
from fastvit_bench.records.comparison import Comparison, Outcome
from fastvit_bench.records.study import StudyResult, StudyRow
from fastvit_bench.render.rows import Row, collect
from fastvit_bench.store.runs import RunFile

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&{{7*7}}"
MS = {"fastvit_t8": 8.0, "fastvit_sa12": 21.0, HOSTILE: 23.0, "fastvit_ma36": 100.0}
PUBLISHED = {"fastvit_t8": "FastViT-T8", "fastvit_sa12": "FastViT-SA12", HOSTILE: "FastViT-SA12"} | {
    "fastvit_ma36": "FastViT-MA36"
}
SPECS = tuple(spec(name=name, published=published) for name, published in PUBLISHED.items())


def figure(model: str, ms: float, size: int, minutes: float = 1, on: str = "cpu") -> Measurement:
    made = artifact(model=model, shape=shape(size), path="x.onnx")
    pixels = (size / 256) ** 2
    return measurement(artifact=made, device=device(name=on), samples_ns=(samples(ms * pixels),), finished=at(minutes))


def few() -> list[Row]:
    """Four models at three sizes, one of them with a script for a name, and a failure with one for a reason."""
    found = [figure(model, ms, size) for model, ms in MS.items() for size in (224, 256, 512)]
    failed = failure(cell=cell(model=HOSTILE, shape=shape(2048)), reason=f"no room for {HOSTILE}")
    return collect([RunFile(Path("x"), (run(request=request(models=SPECS)), *found, failed), 0)])


def many() -> list[Row]:
    """5,000 figures: a hundred models, five devices, ten sizes."""
    draw = random.Random(0)
    specs = tuple(spec(name=f"model_{at:03}", published=list(PUBLISHED.values())[at % 3]) for at in range(100))
    sizes = (128, 160, 192, 224, 256, 288, 320, 384, 448, 512)
    return collect(
        RunFile(
            Path("x"),
            (
                run(request=request(models=specs, device=device(name=f"device{on}"))),
                *(
                    figure(each.name, (3 + 0.7 * at) * (on + 1) * draw.uniform(0.99, 1.01), size, on=f"device{on}")
                    for at, each in enumerate(specs)
                    for size in sizes
                ),
            ),
            0,
        )
        for on in range(5)
    )


def verdicts() -> list[Comparison]:
    """A gate with every outcome, and one that passed."""
    cells = (
        cell_result("fastvit_t8 256 b1", Outcome.REGRESSED, 1.11),
        cell_result(f"{HOSTILE} 256 b1", Outcome.IMPROVED, 0.91),
        cell_result("fastvit_sa12 256 b1", Outcome.PASS, 1.004),
        cell_result("fastvit_ma36 256 b1", Outcome.INCONCLUSIVE, 1.045),
        cell_result("fastvit_t12 256 b1", Outcome.INCOMPARABLE, None),
    )
    return [comparison(*cells, head=HOSTILE), comparison(cell_result())]


def studies() -> list[StudyResult]:
    """One over sizes, and one whose row has a script for a name."""
    over = study_result({("RepMixer", size): ratio for size, ratio in ((384, 0.76), (1024, 0.58))})
    rows = (StudyRow("FastViT-S12@256", "fastvit_s12", res=256), StudyRow(HOSTILE, "x.onnx", res=256, note=HOSTILE))
    hostile = study(name="own", title=HOSTILE, rows=rows, tables=("table5_imagenet",), note=HOSTILE)
    return [over, study_result({(HOSTILE, 256): 1.3}, study=hostile)]


def histories() -> list[RunFile]:
    """Twelve runs of two cells, which take 11 % longer from the seventh on."""
    return [
        RunFile(
            Path(f"{day}"),
            (
                run(id=f"202601{day:02}-120000-aaaaaa"),
                *(
                    msgspec.structs.replace(
                        figure("fastvit_t8", 10 * (1 + 0.002 * (day % 3)) * (1.11 if day > 6 else 1), size),
                        finished=f"2026-01-{day:02}T12:00:00+00:00",
                    )
                    for size in (224, 256)
                ),
            ),
            0,
        )
        for day in range(1, 13)
    ]
