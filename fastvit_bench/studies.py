"""The nouns of studies: networks that are set against one another as a paper's table or figure does.

A study is declared in ``[study.NAME]`` of benchmark.toml. Its rows stand in groups, and the first row of a group is the
one that the others are divided by: ratios are row over reference, so that 0.8 is 20 % less.
"""

from typing import Annotated

import msgspec

from fastvit_bench.records import Device, Fuse, Head, Machine, Record, Shape
from fastvit_bench.verdicts import CellResult, Turns

SCHEMA = 1  # of a written study


class StudyRow(Record, frozen=True):
    """One network of a study, as it is declared."""

    label: str  # as the published table writes it
    model: str = ""  # of benchmark.toml or the catalogue, ``timm:NAME`` or an ONNX file; empty: nobody can measure it
    fuse: Fuse = Fuse.FOLDED
    head: Head = Head.CLASSIFIER
    res: int | None = None  # pixels of its own evaluation; None: every size of the study
    group: str = ""
    published: str = ""  # its name in the published tables, where `{size}` stands for pixels; empty: the label
    table: str = ""  # where it is published, if not in the study's tables
    iphone: str = ""  # the column of its published iPhone latency, where that is not the usual one
    note: str = ""  # what a reader must know of it; of a row that cannot be measured, why not


class Study(Record, frozen=True):
    """A study as ``[study.NAME]`` declares it."""

    name: str
    title: str
    rows: Annotated[tuple[StudyRow, ...], msgspec.Meta(min_length=1)]
    grid: tuple[int, ...] = ()  # pixels, of the rows without a size of their own
    tables: tuple[str, ...] = ()  # of results/published, in which the rows are looked up
    note: str = ""  # below the table


class Contestant(Record, frozen=True):
    """A row at one image size."""

    row: StudyRow
    shape: Shape

    @property
    def name(self) -> str:
        """``FastViT-T8 256``, with what tells apart two rows of one label."""
        return f"{self.row.label} {self.shape.size}"


class Match(Record, frozen=True):
    """A row against the reference of its group; sizes may differ where each row has its own."""

    reference: Contestant
    row: Contestant

    @property
    def name(self) -> str:
        """Of its cell: ``RepMixer 384 / Pooling 384``, after the group's name where there are several."""
        group = f"{self.row.row.group}: " if self.row.row.group else ""
        return f"{group}{self.row.name} / {self.reference.name}"


class StudyResult(Record, frozen=True, tag="study", tag_field="document"):
    """Everything one `study` did so far; what its tables, figures and claims are made from."""

    schema: int
    id: str
    study: Study  # as it was declared then, with the rows that joined
    started: str  # UTC, ISO 8601
    finished: str  # of its last cell
    tool: str  # version of fastvit-bench
    commit: str | None
    dirty: bool
    device: Device  # options resolved
    machine: Machine
    turns: Turns
    blocks: int  # of each cell
    seed: int  # of the order of turns, and of random weights
    matches: tuple[Match, ...]  # planned
    cells: tuple[CellResult, ...] = ()  # done; named after their matches; base is the reference

    def cell(self, match: Match) -> CellResult | None:
        """What was measured of a match."""
        return next((cell for cell in self.cells if cell.name == match.name), None)
