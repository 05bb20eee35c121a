"""Graph of a file that others wrote, in one vocabulary for ONNX and MIL."""

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True)
class GraphNode:
    """One operation."""

    kind: str  # MIL's word for it, such as conv, batch_norm or mul; of others the file's own in lower case
    name: str
    inputs: tuple[str, ...]  # names of values, those of constants among them
    outputs: tuple[str, ...]
    depthwise: bool = False  # of a convolution: each output channel reads one input channel
    word: str = ""  # the file's own word


@dataclass(frozen=True)
class FileGraph:
    """The operations of a file without its constants, of which the shapes are known."""

    nodes: tuple[GraphNode, ...]
    constants: Mapping[str, tuple[int, ...]]  # name -> shape
    outputs: frozenset[str]

    @cached_property
    def makers(self) -> dict[str, GraphNode]:
        """The node that computes each value."""
        return {value: node for node in self.nodes for value in node.outputs}

    @cached_property
    def readers(self) -> dict[str, list[GraphNode]]:
        """The nodes that read each value, one that reads it twice twice."""
        readers: dict[str, list[GraphNode]] = {}
        for node in self.nodes:
            for value in node.inputs:
                readers.setdefault(value, []).append(node)
        return readers

    @cached_property
    def fixed(self) -> set[str]:
        """The values that no image changes: constants, and what is computed from them and from sizes alone."""
        fixed = {"", *self.constants}
        for node in self.nodes:
            if node.kind == "shape" or (node.inputs and fixed.issuperset(node.inputs)):
                fixed.update(node.outputs)
        return fixed

    def operands(self, node: GraphNode) -> tuple[list[str], list[str]]:
        """Return the inputs of a node that are computed from the image, and those that are not."""
        constant = [value for value in node.inputs if value and value in self.fixed]
        return [value for value in node.inputs if value not in self.fixed], constant

    def size(self, value: str) -> int:
        """Return the number of elements of a constant; 1 of a fixed value that the file computes."""
        return math.prod(self.constants.get(value, ()))

    def maker(self, value: str, *through: str) -> GraphNode | None:
        """Return the node that computes a value, looking through nodes of these kinds with one computed input."""
        node = self.makers.get(value)
        while node is not None and node.kind in through and len(self.operands(node)[0]) == 1:
            node = self.makers.get(self.operands(node)[0][0])
        return node

    def is_private(self, value: str) -> bool:
        """Return whether one node alone reads a value, which is no output of the file."""
        return len(self.readers.get(value, ())) == 1 and value not in self.outputs

    @property
    def counts(self) -> dict[str, int]:
        """Number of operations by the file's own words, the most frequent first."""
        return dict(Counter(node.word for node in self.nodes).most_common())
