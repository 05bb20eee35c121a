"""Operations in the graph of a file that could have been computed ahead of time, or be one operation."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from fastvit_bench.auditing.graph import FileGraph, GraphNode
from fastvit_bench.records.audit import FoldableOperations

_VIEWS = ("cast", "reshape", "transpose", "squeeze", "unsqueeze", "expand_dims", "identity", "flatten")


def of_graph(graph: FileGraph) -> tuple[FoldableOperations, ...]:
    """Return what is left of each kind, in a fixed order; kinds without any are left out."""
    names = {title: sorted(finder(graph)) for title, finder in _FINDERS.items()}
    return tuple(
        FoldableOperations(kind=title, count=len(places), names=tuple(places))
        for title, places in names.items()
        if places
    )


def _of_kind(kind: str) -> Callable[[FileGraph], Iterator[str]]:
    return lambda graph: (node.name for node in graph.nodes if node.kind == kind)


# --- branches of one source -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Term:
    """A summand that is linear in its source."""

    source: str
    conv: GraphNode | None  # None: the source itself, or a BatchNorm of it
    is_bare: bool  # the source itself


def _sums(graph: FileGraph) -> Iterator[tuple[GraphNode, list[_Term]]]:
    """Yield the last node of each sum, and its summands."""
    inner: set[str] = set()
    for node in reversed(graph.nodes):
        if node.kind in ("add", "sub") and node.name not in inner and len(graph.operands(node)[0]) == 2:
            yield node, [term for value in node.inputs for term in _terms(graph, value, inner)]


def _terms(graph: FileGraph, value: str, inner: set[str]) -> Iterator[_Term]:
    """Yield the summands of a value; nodes of sums within it are added to `inner`."""
    node = graph.makers.get(value)
    computed = graph.operands(node)[0] if node else []
    if node is None or not graph.is_private(value):
        yield _Term(value, None, is_bare=True)
    elif node.kind in ("add", "sub") and computed:
        inner.add(node.name)
        for operand in computed:
            yield from _terms(graph, operand, inner)
    elif node.kind == "conv":
        yield _Term(computed[0], node, is_bare=False)
    elif node.kind == "batch_norm":
        before = graph.maker(computed[0])
        if before is not None and before.kind == "conv" and graph.is_private(computed[0]):
            yield _Term(graph.operands(before)[0][0], before, is_bare=False)
        else:
            yield _Term(computed[0], None, is_bare=False)
    elif node.kind in ("mul", "identity", "cast") and len(computed) == 1:
        yield from _terms(graph, computed[0], inner)
    else:
        yield _Term(value, None, is_bare=True)


def _branches(*, depthwise: bool) -> Callable[[FileGraph], Iterator[str]]:
    """Return the finder of sums of which several summands are linear in one value: one convolution computes them."""

    def finder(graph: FileGraph) -> Iterator[str]:
        for node, terms in _sums(graph):
            for source in dict.fromkeys(term.source for term in terms):
                own = [term for term in terms if term.source == source]
                convs = [term.conv for term in own if term.conv]
                linear = [term for term in own if not term.is_bare]
                if len(own) > 1 and linear and depthwise == (all(conv.depthwise for conv in convs)):
                    yield node.name

    return finder


# --- single operations ------------------------------------------------------------------------------------------------


def _layer_scales(graph: FileGraph) -> Iterator[str]:
    """Yield multiplications by a constant of each channel that a layer in front, or behind, could hold.

    Their result is a summand, and the other one is computed too: that of a norm would be a constant.
    """
    for node in graph.nodes:
        computed, constant = graph.operands(node)
        if node.kind == "mul" and len(computed) == len(constant) == 1 and graph.size(constant[0]) > 1:
            readers = [reader for value in node.outputs for reader in _behind(graph, value)]
            if readers and all(
                reader.kind in ("add", "sub") and len(graph.operands(reader)[0]) == 2 for reader in readers
            ):
                yield node.name


def _attention_scales(graph: FileGraph) -> Iterator[str]:
    """Yield multiplications and divisions by one number in front of, or right behind, a product of two matrices."""
    for node in graph.nodes:
        computed, constant = graph.operands(node)
        if node.kind not in ("mul", "real_div") or len(computed) != 1 or len(constant) != 1:
            continue
        if graph.size(constant[0]) != 1:
            continue
        before = graph.maker(computed[0], *_VIEWS)
        after = [reader for value in node.outputs for reader in _behind(graph, value)]
        if any(_is_product(graph, neighbour) for neighbour in (before, *after)):
            yield node.name


def _behind(graph: FileGraph, value: str) -> Iterator[GraphNode]:
    """Yield the nodes that read a value, looking through views."""
    for reader in graph.readers.get(value, ()):
        if reader.kind in _VIEWS:
            for output in reader.outputs:
                yield from _behind(graph, output)
        else:
            yield reader


def _is_product(graph: FileGraph, node: GraphNode | None) -> bool:
    return node is not None and node.kind == "matmul" and len(graph.operands(node)[0]) == 2


def _split_gelus(graph: FileGraph) -> Iterator[str]:
    """Yield the error functions and hyperbolic tangents that GELU consists of: to their result, one is added."""
    for node in graph.nodes:
        if node.kind not in ("erf", "tanh"):
            continue
        readers = [reader for value in node.outputs for reader in _behind(graph, value)]
        if any(reader.kind == "add" and len(graph.operands(reader)[1]) == 1 for reader in readers):
            yield node.name


def _split_norms(graph: FileGraph) -> Iterator[str]:
    """Yield the subtractions of a mean of the same value, with which a LayerNorm in parts begins."""
    for node in graph.nodes:
        if node.kind != "sub" or len(node.inputs) != 2:
            continue
        value, mean = node.inputs
        maker = graph.maker(mean, "cast")
        if maker is not None and maker.kind == "reduce_mean" and _same(graph, value, graph.operands(maker)[0][0]):
            yield node.name


def _same(graph: FileGraph, first: str, second: str) -> bool:
    makers = [graph.maker(value, "cast", "identity") for value in (first, second)]
    return first == second or (makers[0] is not None and makers[0] is makers[1])


# by what people call them
_FINDERS: dict[str, Callable[[FileGraph], Iterator[str]]] = {
    "BatchNormalization": _of_kind("batch_norm"),
    "layer scale": _layer_scales,
    "scale of attention": _attention_scales,
    "depthwise branches in training form": _branches(depthwise=True),
    "parallel convolution branches": _branches(depthwise=False),
    "GELU in parts": _split_gelus,
    "LayerNorm in parts": _split_norms,
    "Identity": _of_kind("identity"),
}
