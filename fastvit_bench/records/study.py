"""Records of a study: networks compared with one another, as in a table or figure of a paper.

A study is declared in ``[study.NAME]`` of benchmark.toml. Its rows form groups, and the first row of a group is its
reference. Ratios are row over reference, so that 0.8 is 20 % less.
"""

from typing import Annotated

import msgspec

from fastvit_bench.records import (
    Accuracy,
    Device,
    Evaluation,
    Fuse,
    Head,
    Machine,
    ModelSpec,
    Record,
    Shape,
    Weights,
)
from fastvit_bench.records.comparison import CellResult, InterleavePlan

SCHEMA = 1  # of a written study


class StudyRow(Record, frozen=True):
    """One declared network of a study."""

    label: str  # as in the published table
    model: str = ""  # of benchmark.toml or the catalogue, ``timm:NAME`` or an ONNX file; empty: cannot be measured
    fuse: Fuse = Fuse.FOLDED  # level of fusing
    precision: str = ""  # arithmetic of its file; empty: the device's
    head: Head = Head.CLASSIFIER  # last part of the network
    res: int | None = None  # its own evaluation size in pixels; empty: every size of the study
    group: str = ""  # rows of one group are divided by its first row
    published: str = ""  # its name in the published tables, with `{size}` for the pixels; empty: the label
    table: str = ""  # the table that publishes it, if not one of the study's
    iphone: str = ""  # column of its published iPhone latency; empty: the usual one
    note: str = ""  # for readers; for a row that cannot be measured, the reason
    challenger: bool = False  # somebody's own network, compared with the reference of every group
    top1: Annotated[float, msgspec.Meta(ge=0, le=100)] | None = None  # its accuracy in percent, as its owner says


class Study(Record, frozen=True):
    """A study as declared in ``[study.NAME]`` of benchmark.toml."""

    name: str
    title: str  # heading of the printed table
    rows: Annotated[tuple[StudyRow, ...], msgspec.Meta(min_length=1)]  # compared networks; see below
    grid: tuple[int, ...] = ()  # pixels, for rows without a size of their own
    tables: tuple[str, ...] = ()  # names in results/published, in which the rows are looked up
    note: str = ""  # printed below the table


class Contestant(Record, frozen=True):
    """A study's row at one image size."""

    row: StudyRow
    shape: Shape

    @property
    def name(self) -> str:
        """Name with the image size, which distinguishes rows of one label: ``FastViT-T8 256``; stored with results."""
        return f"{self.row.label} {self.shape.size}"

    @property
    def title(self) -> str:
        """Name for people, who read a size once: ``FastViT-T8@256``, and ``FastViT-T8 256`` of a label without it."""
        return self.row.label if self.row.label.endswith(f"@{self.shape.size}") else self.name


class Match(Record, frozen=True):
    """A row paired with the reference of its group; their sizes differ where each row has its own."""

    reference: Contestant
    row: Contestant

    def __post_init__(self) -> None:
        """Raise `ValueError` where the reference is another group's."""
        if self.reference.row.group != self.row.row.group:
            raise ValueError(f"the reference {self.reference.name} is of another group than {self.row.name}")

    @property
    def name(self) -> str:
        """Name of the pair's cell: ``RepMixer 384 / Pooling 384``, with the group's name in front if it has one."""
        group = f"{self.row.row.group}: " if self.row.row.group else ""
        return f"{group}{self.row.name} / {self.reference.name}"


class StudyNetwork(Record, frozen=True):
    """A row's network as the configuration described it when its study began."""

    row: StudyRow
    spec: ModelSpec
    weights: Weights


class StudyResult(Record, frozen=True, tag="study", tag_field="document"):
    """The results of one `study` so far, from which its tables, figures and claims are written."""

    schema: int
    id: str
    study: Study  # as declared at its start, with rows added since
    started: str  # UTC, ISO 8601
    finished: str  # of its last cell
    tool: str  # version of fastvit-bench
    commit: str | None
    dirty: bool
    device: Device  # options resolved
    machine: Machine
    turns: InterleavePlan
    blocks: int  # of each cell
    seed: int  # of the order of turns, and of random weights
    matches: tuple[Match, ...]  # all planned pairs
    networks: tuple[StudyNetwork, ...] = ()  # of the rows that can be exported; none in studies of earlier versions
    cells: tuple[CellResult, ...] = ()  # finished, named after their matches; the base is the reference
    evaluation: Evaluation | None = None  # images that the rungs of a ladder are counted on
    accuracies: tuple[Accuracy, ...] = ()  # of its rungs, by the precision of their devices

    def cell(self, match: Match) -> CellResult | None:
        """Return the finished cell of a match; None before it is measured."""
        return next((cell for cell in self.cells if cell.name == match.name), None)
