"""Engines that TensorRT built from an exported file."""

from fastvit_bench.records.artifact import Count
from fastvit_bench.records.gpu import GpuIdentity
from fastvit_bench.records.parity import Parity
from fastvit_bench.records.quantisation import integer_share
from fastvit_bench.records.spec import Record


class TimingCache(Record, frozen=True, tag="timing-cache", tag_field="kind"):
    """Kernel times that a build can reuse; valid for one card, driver and toolkit version only."""

    toolkit: str
    version: str
    platform: str
    card: GpuIdentity
    sha256: str


class Engine(Record, frozen=True, tag="engine", tag_field="kind"):
    """A TensorRT engine, with every fact that determines whether two engines' latencies are comparable."""

    toolkit: str  # tensorrt or tensorrt-rtx: two products
    version: str  # of the toolkit
    platform: str  # system and processor family, such as linux x86_64
    card: GpuIdentity
    onnx: str  # name of the file it was built from
    onnx_sha256: str
    settings: dict[str, str]  # of the builder
    inputs: dict[str, str]  # name -> type and shape, in the toolkit's notation
    outputs: dict[str, str]
    layers: dict[str, int]  # kind -> number of layers after parsing; the engine fuses many of them
    sha256: str
    size_bytes: Count
    timing_cache: str | None = None  # SHA-256 of the cache the build started from; None: every kernel was timed
    integer: dict[str, Count] = {}  # kind -> layers of the engine that multiply INT8 values, of one of a file in INT8
    floating: dict[str, Count] = {}  # likewise, that multiply wider values; both empty where the builder lists none
    warnings: tuple[str, ...] = ()  # of parser and builder
    parity: Parity | None = None  # of its outputs on the GPU; None before the first run

    @property
    def integer_share(self) -> float | None:
        """The share of layers with products that multiply INT8 values; None where none are listed."""
        return integer_share(self.integer, self.floating)
