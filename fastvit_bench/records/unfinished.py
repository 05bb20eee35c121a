"""Records of a comparison that is not finished: the options it was begun with, and every block so far."""

import msgspec

from fastvit_bench.records import Machine, Record, Stage
from fastvit_bench.records.comparison import Block, NoBaseline, Plan, Side

SCHEMA = 1  # of a file of blocks


class GateOptions(Record, frozen=True, tag="gate", tag_field="command"):
    """The options of a `gate`, as they were given."""

    baseline: str | None
    baseline_rev: str | None
    head: str | None
    device: str
    model: tuple[str, ...]
    res: str | None
    threads: int | None
    max_regression: str | None
    max_pooled_regression: str | None
    max_time: str | None
    seed: int
    report: str | None
    report_format: str | None
    no_baseline: NoBaseline
    allow: tuple[str, ...]
    force: bool


class CompareOptions(Record, frozen=True, tag="compare", tag_field="command"):
    """The arguments and options of a `compare`, as they were given."""

    base: str | None
    head: str | None
    device: str
    res: str | None
    batch: int | None
    base_python: str | None
    head_python: str | None
    max_regression: str | None
    max_time: str | None
    seed: int
    report: str | None
    report_format: str | None
    force: bool


class ComparisonStart(Record, frozen=True, tag="start", tag_field="kind"):
    """The first line of a file of blocks: what is compared, where and how."""

    schema: int
    id: str
    started: str  # UTC, ISO 8601
    tool: str  # version of fastvit-bench
    options: GateOptions | CompareOptions | None  # None of a study, whose document has them
    machine: Machine
    plan: Plan
    sides: dict[str, tuple[str, str]]  # cell -> digests of its base and its new side, and of how they are run


class BlockLine(Record, frozen=True, tag="block", tag_field="kind"):
    """One measured block of a cell, or the reason why the cell ended without one."""

    cell: str
    seconds: float  # that it took
    block: Block | None
    failed: str = ""  # the reason, where there is no block
    stage: Stage | None = None  # at which it failed
    base: Side | None = None  # of a cell's first block: its sides, and the runs of a turn
    head: Side | None = None
    runs: int = 0
    reference_ns: tuple[int, ...] = ()  # against a stored base: times of the reference workload


UnfinishedLine = ComparisonStart | BlockLine


class Unfinished(msgspec.Struct, frozen=True, kw_only=True):
    """A file of blocks as read: its first line, and the blocks in the order they were measured."""

    path: str
    start: ComparisonStart
    blocks: tuple[BlockLine, ...]
