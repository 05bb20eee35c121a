"""Frontiers and ratios of rows: who may stand beside whom, and what tables make of it."""

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest
from builders import RANDOM, accuracy, artifact, at, device, engine, measurement, request, run, samples, shape, spec

from fastvit_bench.errors import NotComparableError, UsageError
from fastvit_bench.records import METHODS, Measurement, Protocol
from fastvit_bench.render import row_table
from fastvit_bench.render.frontiers import Basis, counted, frontiers, groups, names
from fastvit_bench.render.joined import join
from fastvit_bench.render.ratios import against, ratio
from fastvit_bench.render.rows import Row, collect
from fastvit_bench.stats.pareto import Counted
from fastvit_bench.store.runs import RunFile

PUBLISHED = {"fastvit_t8": "FastViT-T8", "fastvit_sa12": "FastViT-SA12", "fastvit_ma36": "FastViT-MA36"}
MS = {"fastvit_t8": 8.0, "fastvit_sa12": 21.0, "fastvit_ma36": 100.0}


def one(model: str = "fastvit_t8", ms: float | None = None, size: int = 256, **changes: Any) -> Measurement:
    made = artifact(model=model, shape=shape(size), sha256=f"{model:0>64}", **changes.pop("made", {}))
    return measurement(artifact=made, samples_ns=(samples(ms or MS.get(model, 5.0)),), **changes)


def rows(*found: Measurement) -> list[Row]:
    specs = tuple(spec(name=name, published=published) for name, published in PUBLISHED.items())
    return collect([RunFile(Path("x"), (run(request=request(models=specs)), *found), 0)])


def three(**changes: Any) -> list[Measurement]:
    return [one(model, **changes) for model in MS]


def test_published_accuracy_counts_at_its_own_size_only() -> None:
    found = frontiers(groups(rows(*three(), *three(size=224))))
    [(frontier)] = found
    assert (frontier.basis, frontier.shape) == (Basis.PUBLISHED, shape(256))
    assert [place.name for place in frontier.places] == list(MS)
    assert [place.accuracy.percent for place in frontier.places] == [76.2, 80.9, 83.9]


def test_measured_and_published_never_share_a_frontier() -> None:
    counted = {
        f"{model:0>64}": Counted(correct, 1000) for model, correct in (("fastvit_t8", 900), ("fastvit_sa12", 800))
    }
    found = {each.basis: each for each in frontiers(groups(rows(*three())), counted)}
    measured = found[Basis.MEASURED]
    assert [place.name for place in measured.places] == ["fastvit_t8", "fastvit_sa12"]
    assert [place.standing.on_frontier for place in measured.places] == [True, False]
    assert measured.dominating(measured.places[1]) == ["fastvit_t8"]
    assert len(found[Basis.PUBLISHED].places) == 3
    assert all(place.standing.on_frontier for place in found[Basis.PUBLISHED].places)


@pytest.mark.parametrize(
    "changes",
    [
        {"device": device(name="other")},
        {"device": device(options={"threads": 1})},
        {"engine": engine()},
        {"method": METHODS[Protocol.PAPER]},
        {"made": {"precision": "fp16"}},
    ],
)
def test_only_figures_made_alike_stand_together(changes: dict[str, Any]) -> None:
    found = groups(rows(one("fastvit_t8"), one("fastvit_sa12", **changes)))
    assert [len(group.rows) for group in found] == [1, 1]
    assert frontiers(found) == []


def test_names_tell_namesakes_apart_by_what_differs() -> None:
    alike = rows(one(), one(made={"weights": RANDOM}), one("fastvit_sa12"))
    assert names(alike) == ["fastvit_t8, fastvit_t8.pth.tar@1a2b3c4d", "fastvit_t8, random(seed 0)", "fastvit_sa12"]


def test_a_ratio_has_an_interval_of_both_ends() -> None:
    found = ratio(one("fastvit_sa12"), one("fastvit_t8"))
    assert found.value == pytest.approx(21 / 8)
    assert found.interval
    assert found.interval.low < found.value < found.interval.high
    alone = one("fastvit_sa12").interval_ms
    assert alone
    assert found.interval.high / found.value > alone.high / one("fastvit_sa12").figure_ms  # wider than one side's


def test_an_interval_covers_the_true_ratio() -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(300):
        base, head = (
            measurement(samples_ns=(tuple(int(1e6 * ms * v) for v in rng.lognormal(0, 0.1, 30)),))
            for ms in (10.0, 12.0)
        )
        interval = ratio(head, base).interval
        assert interval
        hits += interval.low <= 1.2 <= interval.high
    assert hits >= 285 - 8  # 95 % of 300, less two standard deviations


def test_a_mean_over_rounds_has_an_interval_by_students_t() -> None:
    method = METHODS[Protocol.MODELBENCH]
    rounds = [tuple(samples(ms + 0.01 * at, 50) for at in range(20)) for ms in (1.0, 2.0)]
    base, head = (measurement(method=method, samples_ns=each) for each in rounds)
    interval = ratio(head, base).interval
    assert interval
    assert interval.low < ratio(head, base).value < interval.high


def test_too_few_samples_give_a_ratio_without_interval() -> None:
    assert ratio(measurement(samples_ns=((10**6,),)), measurement()).interval is None


def test_a_reference_without_a_row_is_refused_with_the_nearest() -> None:
    with pytest.raises(
        UsageError, match=r"'fastvit_t9' was not measured in these runs, so it has no row\. Nearest: fastvit_t8"
    ):
        against(rows(*three()), "fastvit_t9")


def test_a_reference_that_was_measured_otherwise_is_not_comparable() -> None:
    with pytest.raises(NotComparableError, match="Nothing else was measured as the reference 'fastvit_t8' was"):
        against(rows(one("fastvit_t8", device=device(name="other")), one("fastvit_sa12")), "fastvit_t8")


def test_the_newest_row_with_the_same_weights_is_the_reference() -> None:
    found = rows(
        one("fastvit_t8", ms=8, finished=at(1)),
        one("fastvit_t8", ms=4, finished=at(9), made={"weights": RANDOM}),
        one("fastvit_sa12", ms=16),
    )
    ratios = {row.model: against(found, "fastvit_t8")[row.key, shape(256)].value for row in found}
    assert ratios["fastvit_sa12"] == pytest.approx(2.0)


def test_programs_read_frontier_and_ratio_beside_the_latency() -> None:
    found = rows(*three())
    joined = join(found, reference="fastvit_t8", pareto=True)
    lines = list(csv.DictReader(io.StringIO(row_table.csv(found, joined))))
    assert [line["frontier_by_published_top1_256"] for line in lines] == ["1.0"] * 3
    assert [round(float(line["ratio_256"]), 3) for line in lines] == [1.0, 2.625, 12.5]
    assert {line["ratio_to_256"] for line in lines} == {"fastvit_t8"}
    cells = [row["latency"]["256"] for row in json.loads(row_table.json(found, joined))]
    assert [cell["frontier_by_published_top1"] for cell in cells] == [1.0] * 3
    assert cells[1]["ratio_low"] < 2.625 < cells[1]["ratio_high"]


def test_people_read_them_in_tables_that_name_basis_and_method() -> None:
    found = rows(*three(), one("twin", ms=9.0))
    text = row_table.markdown(found, join(found, reference="fastvit_t8", pareto=True))
    assert "by published top-1 without distillation, which was not measured here" in text
    assert "**Ratio to fastvit_t8: below 1 is quicker, 95 % interval in brackets**" in text
    assert "order statistics of a median" in text


def test_without_being_asked_tables_are_as_they_were() -> None:
    found = rows(*three())
    assert row_table.csv(found) == row_table.csv(found, join(found))
    assert row_table.markdown(found) == row_table.markdown(found, join(found))


def test_no_frontier_is_said() -> None:
    found = rows(one())
    assert "No frontier: it takes two models" in row_table.markdown(found, join(found, pareto=True))


def test_measured_accuracy_of_the_very_file_makes_a_frontier_of_its_own() -> None:
    few, many = accuracy(images=100, top1=99), accuracy(images=50_000, top1=38_100)
    assert counted([many, few]) == {"ab" * 32: Counted(38_100, 50_000)}


@pytest.mark.parametrize("rounds", [1, 2, 19, 20])
def test_a_mean_has_an_interval_in_the_table_and_in_the_ratio_or_in_neither(rounds: int) -> None:
    """As of a report in which one of 20 rounds failed."""
    means = [1 + (at * 7 % 11) / 1000 for at in range(rounds)]
    base, head = (
        measurement(
            artifact=artifact(model=model, sha256=f"{model:0>64}"),
            method=METHODS[Protocol.MODELBENCH],
            samples_ns=tuple(samples(ms * mean, 50) for mean in means),
        )
        for model, ms in (("fastvit_t8", 0.8), ("fastvit_sa12", 1.6))
    )
    found = ratio(head, base)
    assert (head.interval_ms is None) is (found.interval is None) is (rounds == 1)
    shown = row_table.markdown(rows(base, head), join(rows(base, head), reference="fastvit_t8"))
    assert (" [" in shown) is (rounds > 1)
    assert ("no interval" in shown) is (rounds == 1)
