"""Records of a run file's first line: the request, the plan and the machine."""

from fastvit_bench.records.accuracy import Evaluation
from fastvit_bench.records.machine import Machine
from fastvit_bench.records.measurement import Cell
from fastvit_bench.records.spec import Device, Fuse, Method, ModelSpec, Record, Shape

SCHEMA = 1  # version of the lines in a run file; raised when a reader of old lines would misunderstand new ones


class Request(Record, frozen=True):
    """The settings of a sweep, complete enough to plan it again."""

    device: Device
    models: tuple[ModelSpec, ...]
    shapes: tuple[Shape, ...]
    fused: Fuse | None  # None of a report on a file of others
    method: Method
    seed: int  # of random weights
    timeout_s: float  # for one export or one measurement
    profile: bool = False
    evaluation: Evaluation | None = None  # of an accuracy sweep, which counts correct answers instead of timing


class Run(Record, frozen=True, tag="run", tag_field="kind"):
    """The first line of a run file; written again with the current facts each time the run is resumed."""

    schema: int
    id: str
    started: str  # UTC, ISO 8601
    tool: str  # version of fastvit-bench
    commit: str | None  # of the working directory's repository
    dirty: bool
    request: Request
    cells: tuple[Cell, ...]  # the plan, in order
    machine: Machine
