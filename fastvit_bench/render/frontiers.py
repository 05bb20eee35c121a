"""Frontiers of accuracy and latency: rows measured alike at one size, by accuracies of one kind."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from fastvit_bench.paper import published
from fastvit_bench.paper.published import Figure
from fastvit_bench.records import Accuracy, Artifact, Measurement, Shape
from fastvit_bench.render.row_text import legend, model_name, variant_label
from fastvit_bench.render.rows import Row, best_of, size_of
from fastvit_bench.render.text import printable
from fastvit_bench.stats import pareto
from fastvit_bench.stats.pareto import Counted, Standing, Stated


class Basis(StrEnum):
    """The source of a frontier's accuracies; a frontier has one basis."""

    MEASURED = "measured"  # of the very file that was timed
    PUBLISHED = "published"  # printed by the authors, of their weights at that size


@dataclass(frozen=True)
class Group:
    """Rows whose figures were made alike: one device, machine, method, window, toolkit, batch and precision."""

    label: str  # such as ``cpu (2), batch 1, fp32``
    device: str  # the name with its mark
    rows: tuple[Row, ...]
    names: tuple[str, ...]  # of the rows, each different

    @property
    def sizes(self) -> list[Shape | None]:
        """Sizes at which anything was measured, smallest first."""
        shapes = {cell.shape for row in self.rows for cell in row.measured}
        return sorted(shapes, key=lambda shape: (shape is None, shape and (shape.height * shape.width, shape.height)))

    def at(self, shape: Shape | None) -> list[tuple[str, Row, Measurement]]:
        """Return the measurements at a size, each with its name and its row."""
        entries = [(name, row, row.cells.get(shape)) for name, row in zip(self.names, self.rows, strict=True)]
        return [(name, row, cell) for name, row, cell in entries if isinstance(cell, Measurement)]


@dataclass(frozen=True)
class FrontierPlace:
    """One model in a frontier."""

    name: str
    row: Row
    cell: Measurement
    accuracy: Counted | Stated
    source: str  # of a published accuracy; empty of a measured one
    standing: Standing


@dataclass(frozen=True)
class Frontier:
    """One frontier and every model in it, the quickest first."""

    group: Group
    shape: Shape
    basis: Basis
    places: tuple[FrontierPlace, ...]

    def dominating(self, place: FrontierPlace) -> list[str]:
        """Return the names of the models that dominate a model, the quickest first."""
        return [self.places[at].name for at in place.standing.dominated_by]


def groups(rows: Sequence[Row]) -> list[Group]:
    """Return rows grouped by how they were measured: the most models first, then the newest."""
    marks, _ = legend(rows)
    by_conditions: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        if row.measured:
            key = (f"{printable(row.device.name)}{marks[row.key]}", row.batch, printable(row.precision))
            by_conditions.setdefault(key, []).append(row)
    ordered = [
        Group(f"{device}, batch {batch}, {precision}", device, tuple(members), tuple(names(members)))
        for (device, batch, precision), members in by_conditions.items()
    ]
    newest = {id(group): max(cell.finished for row in group.rows for cell in row.measured) for group in ordered}
    ordered.sort(key=lambda group: newest[id(group)], reverse=True)
    return sorted(ordered, key=lambda group: -len({row.model for row in group.rows}))


def names(rows: Sequence[Row]) -> list[str]:
    """Return names that distinguish the rows of a group: the model's, and what else differs among its namesakes."""
    parts = [
        {
            "weights": printable(row.weights.label) if row.weights else "",
            "fused": row.fused.value if row.fused else "",
            "form": variant_label(row),
        }
        for row in rows
    ]
    by_model: dict[str, list[int]] = {}
    for at, row in enumerate(rows):
        by_model.setdefault(model_name(row), []).append(at)
    labels = [""] * len(rows)
    for name, members in by_model.items():
        differing = [part for part in parts[0] if len({parts[at][part] for at in members}) > 1]
        for at in members:
            detail = ", ".join(parts[at][part] for part in differing if parts[at][part])
            labels[at] = f"{name}, {detail}" if detail else name
    counts: dict[str, int] = {}
    for at, name in enumerate(labels):  # labels that are still equal differ in fields without a short name
        counts[name] = counts.get(name, 0) + 1
        labels[at] = name if counts[name] == 1 else f"{name} #{counts[name]}"
    return labels


def frontiers(
    groups: Sequence[Group], accuracies: Mapping[str, Counted] | None = None, seed: int = 0
) -> list[Frontier]:
    """Return every frontier of two models or more, by group, then size.

    `accuracies` are by the artifact's SHA-256. The measured frontier holds the models that were evaluated, be it all or
    some. The published one holds a model at the size its accuracy was published for. It is a frontier of its own; the
    two are never mixed.
    """
    results: list[Frontier] = []
    for group in groups:
        for shape in group.sizes:
            if shape is None:
                continue
            every = (frontier(group, shape, basis, accuracies or {}, seed) for basis in Basis)
            results += [result for result in every if result]
    return results


def frontier(
    group: Group, shape: Shape, basis: Basis, accuracies: Mapping[str, Counted], seed: int = 0
) -> Frontier | None:
    """Return the frontier of a group at a size by one kind of accuracy; None of fewer than two models."""
    entries: list[tuple[str, Row, Measurement, Counted | Stated, str]] = []
    for name, row, cell in group.at(shape):
        if basis is Basis.MEASURED:
            artifact = cell.artifact
            sha256 = artifact.sha256 if isinstance(artifact, Artifact) else None
            counted = accuracies.get(sha256) if sha256 else None
            if counted:
                entries.append((name, row, cell, counted, ""))
        elif figure := published_top1(row, shape):
            entries.append((name, row, cell, Stated(figure.value), figure.source))
    if len(entries) < 2:
        return None
    entries.sort(key=lambda entry: entry[2].figure_ms)
    standings = pareto.frontier(
        [pareto.FrontierPoint(name, pareto.Latency.of(cell), accuracy) for name, _, cell, accuracy, _ in entries],
        seed=seed,
    )
    places = (FrontierPlace(*entry, standing) for entry, standing in zip(entries, standings, strict=True))
    return Frontier(group, shape, basis, tuple(places))


def published_top1(row: Row, shape: Shape) -> Figure | None:
    """Return the top-1 that the authors print for the model at this very size, without distillation.

    It is that of the released weights, else the paper's. It is known of the model, not of the weights that were timed:
    beside random weights it says what such a network can reach, and whoever shows it says so.
    """
    known = row.published
    if known is None or shape.height != shape.width:
        return None
    model = published.models().get(f"{known.name}@{size_of(shape)}")
    return model.top1_undistilled if model else None


def counted(accuracies: Iterable[Accuracy]) -> dict[str, Counted]:
    """Return the right answers that frontiers take, by the SHA-256 of the file that gave them."""
    return {name: Counted(accuracy.top1, accuracy.images) for name, accuracy in best_of(accuracies).items()}
