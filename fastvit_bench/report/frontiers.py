"""Which rows may stand in one frontier: those measured alike at one size, by accuracies of one kind."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from fastvit_bench.records import Accuracy, Artifact, Measurement, Shape
from fastvit_bench.render.text import plain
from fastvit_bench.report import pareto, published
from fastvit_bench.report.pareto import Counted, Standing, Stated
from fastvit_bench.report.published import Figure
from fastvit_bench.report.row_text import form, legend, model_name
from fastvit_bench.report.rows import Row, best_of, size_of


class Basis(StrEnum):
    """Where the accuracies of a frontier come from; a frontier has one basis."""

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
        """At which anything was measured, smallest first."""
        shapes = {cell.shape for row in self.rows for cell in row.measured}
        return sorted(shapes, key=lambda shape: (shape is None, shape and (shape.height * shape.width, shape.height)))

    def at(self, shape: Shape | None) -> list[tuple[str, Row, Measurement]]:
        """What was measured at a size, with its name."""
        found = [(name, row, row.cells.get(shape)) for name, row in zip(self.names, self.rows, strict=True)]
        return [(name, row, cell) for name, row, cell in found if isinstance(cell, Measurement)]


@dataclass(frozen=True)
class Place:
    """One model in a frontier."""

    name: str
    row: Row
    cell: Measurement
    accuracy: Counted | Stated
    source: str  # where a published accuracy stands; empty of a measured one
    standing: Standing


@dataclass(frozen=True)
class Frontier:
    """One frontier and everybody in it, the quickest first."""

    group: Group
    shape: Shape
    basis: Basis
    places: tuple[Place, ...]

    def dominating(self, place: Place) -> list[str]:
        """Names of those that dominate a model, the quickest first."""
        return [self.places[at].name for at in place.standing.dominated_by]


def groups(rows: Sequence[Row]) -> list[Group]:
    """Rows by how they were measured; those with the most models first, then the newest."""
    marks, _ = legend(rows)
    found: dict[tuple[str, int, str], list[Row]] = {}
    for row in rows:
        if row.measured:
            key = (f"{plain(row.device.name)}{marks[row.key]}", row.batch, plain(row.precision))
            found.setdefault(key, []).append(row)
    made = [
        Group(f"{device}, batch {batch}, {precision}", device, tuple(members), tuple(names(members)))
        for (device, batch, precision), members in found.items()
    ]
    newest = {id(group): max(cell.finished for row in group.rows for cell in row.measured) for group in made}
    made.sort(key=lambda group: newest[id(group)], reverse=True)
    return sorted(made, key=lambda group: -len({row.model for row in group.rows}))


def names(rows: Sequence[Row]) -> list[str]:
    """Names that tell the rows of a group apart: the model's, and behind it what else differs among its namesakes."""
    parts = [
        {
            "weights": plain(row.weights.label) if row.weights else "",
            "fused": row.fused.value if row.fused else "",
            "form": form(row),
        }
        for row in rows
    ]
    by_model: dict[str, list[int]] = {}
    for at, row in enumerate(rows):
        by_model.setdefault(model_name(row), []).append(at)
    found = [""] * len(rows)
    for name, members in by_model.items():
        differing = [part for part in parts[0] if len({parts[at][part] for at in members}) > 1]
        for at in members:
            told = ", ".join(parts[at][part] for part in differing if parts[at][part])
            found[at] = f"{name}, {told}" if told else name
    seen: dict[str, int] = {}
    for at, name in enumerate(found):  # what is left differs in fields that have no short name
        seen[name] = seen.get(name, 0) + 1
        found[at] = name if seen[name] == 1 else f"{name} #{seen[name]}"
    return found


def frontiers(
    groups: Sequence[Group], accuracies: Mapping[str, Counted] | None = None, seed: int = 0
) -> list[Frontier]:
    """Every frontier of two models or more, by group, then size; `accuracies` are by the artifact's SHA-256.

    Where all models were evaluated, and where some were, the measured frontier holds those; the published one, which
    holds a model at the size its accuracy was published for, stands beside it and never in it.
    """
    found: list[Frontier] = []
    for group in groups:
        for shape in group.sizes:
            if shape is None:
                continue
            every = (frontier(group, shape, basis, accuracies or {}, seed) for basis in Basis)
            found += [each for each in every if each]
    return found


def frontier(
    group: Group, shape: Shape, basis: Basis, accuracies: Mapping[str, Counted], seed: int = 0
) -> Frontier | None:
    """The frontier of a group at a size by one kind of accuracy; None of fewer than two models."""
    entries: list[tuple[str, Row, Measurement, Counted | Stated, str]] = []
    for name, row, cell in group.at(shape):
        if basis is Basis.MEASURED:
            made = cell.artifact
            sha256 = made.sha256 if isinstance(made, Artifact) else None
            counted = accuracies.get(sha256) if sha256 else None
            if counted:
                entries.append((name, row, cell, counted, ""))
        elif figure := published_top1(row, shape):
            entries.append((name, row, cell, Stated(figure.value), figure.source))
    if len(entries) < 2:
        return None
    entries.sort(key=lambda entry: entry[2].figure_ms)
    standings = pareto.frontier(
        [pareto.Candidate(name, pareto.Latency.of(cell), accuracy) for name, _, cell, accuracy, _ in entries], seed=seed
    )
    places = (Place(*entry, standing) for entry, standing in zip(entries, standings, strict=True))
    return Frontier(group, shape, basis, tuple(places))


def published_top1(row: Row, shape: Shape) -> Figure | None:
    """What the authors print for the model at this very size: of the released weights, else the paper's; not distilled.

    It is known of the model, not of the weights that were timed: beside random weights it says what such a network can
    reach, and whoever shows it says so.
    """
    known = row.published
    if known is None or shape.height != shape.width:
        return None
    model = published.models().get(f"{known.name}@{size_of(shape)}")
    return model.top1_undistilled if model else None


def counted(accuracies: Iterable[Accuracy]) -> dict[str, Counted]:
    """The right answers that frontiers take, by the SHA-256 of the file that gave them."""
    return {name: Counted(found.top1, found.images) for name, found in best_of(accuracies).items() if found.images}
