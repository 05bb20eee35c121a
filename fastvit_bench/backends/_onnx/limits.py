"""Limits that an ONNX model keeps before anything infers its shapes, checks it or runs it.

A file of 4 kB can stand for 2^36 nodes: of 36 local functions, each calls the next twice. Toolkits put the body of a
function in the place of each call and hold the interpreter meanwhile, so that no timeout and no Ctrl-C ends them.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from fastvit_bench.backends._text import printable
from fastvit_bench.errors import UnavailableError

if TYPE_CHECKING:
    import onnx

MOST_NODES = 100_000  # with the body of every local function in the place of its calls; MA36 has 600
MOST_INITIALISERS = 100_000
MOST_DEPTH = 8  # of graphs within nodes, since some inference doubles its work at each level
MOST_CALLS = 64  # of local functions that call each other in turn

_Key = tuple[str, str, str]  # of a local function: domain, name, overload


def require_bounded(model: "onnx.ModelProto", name: str) -> None:
    """Raise `UnavailableError` for a model with too many nodes, too deep a nest, or a name that is no text."""
    fault = _fault(model)
    if fault:
        raise UnavailableError(f"ONNX cannot load {printable(name)}: {fault}.")


def _fault(model: "onnx.ModelProto") -> str | None:
    """Return why a model is refused, as a part of a sentence, or None."""
    try:
        _Counter(model.functions).measure(model.graph)
        _require_text(text for entry in model.metadata_props for text in (entry.key, entry.value))
    except _RefusalError as refusal:
        return str(refusal)
    return None


class _RefusalError(Exception):
    """A reason why a model is refused, as a part of a sentence."""


class _Extent(NamedTuple):
    """The extent of some nodes, with the body of every local function in the place of its calls."""

    nodes: int = 0
    depth: int = 0  # of graphs within nodes
    calls: int = 0  # of functions that call each other in turn


class _Counter:
    """A measure of graphs that looks at each local function once, however often it is called."""

    def __init__(self, functions: Iterable[Any]) -> None:
        self._functions = {_key(function.domain, function.name, function): function for function in functions}
        self._extents: dict[_Key, _Extent] = {}  # of the functions so far
        self._calling: list[_Key] = []
        self._initialisers = 0

    def measure(self, graph: Any) -> _Extent:
        """Return the extent of a graph. Raises `_RefusalError` for one beyond the limits."""
        self._initialisers += len(graph.initializer) + len(graph.sparse_initializer)
        if self._initialisers > MOST_INITIALISERS:
            raise _RefusalError(f"it has more than {MOST_INITIALISERS} initialisers")
        _require_names(value.name for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer))
        _require_text(entry.value for tensor in graph.initializer for entry in tensor.external_data)
        return self._sum(graph.node)

    def _sum(self, nodes: Iterable[Any]) -> _Extent:
        """Return the extent of a list of nodes."""
        total = _Extent()
        for node in nodes:
            _require_names((node.name, node.op_type, node.domain, *node.input, *node.output))
            _require_names(name for attribute in node.attribute for name in (attribute.name, attribute.ref_attr_name))
            inner = [self.measure(graph) for attribute in node.attribute for graph in _graphs(attribute)]
            called = self._called(_key(node.domain, node.op_type, node))
            total = _Extent(
                nodes=total.nodes + 1 + called.nodes + sum(extent.nodes for extent in inner),
                depth=max(total.depth, called.depth, *(1 + extent.depth for extent in inner)),
                calls=max(total.calls, called.calls, *(extent.calls for extent in inner)),
            )
            _require_within(total)
        return total

    def _called(self, key: _Key) -> _Extent:
        """Return the extent of the local function that a node calls; that of nothing for an operator."""
        function = self._functions.get(key)
        if function is None:
            return _Extent()
        if key in self._calling:
            raise _RefusalError(f"its function {printable(key[1])} calls itself")
        if key not in self._extents:
            _require_names((*function.input, *function.output))
            self._calling.append(key)
            _require_within(_Extent(calls=len(self._calling)))
            self._extents[key] = self._sum(function.node)
            self._calling.pop()
        extent = self._extents[key]
        return extent._replace(calls=extent.calls + 1)


def _require_within(extent: _Extent) -> None:
    """Refuse an extent beyond the limits."""
    if extent.nodes > MOST_NODES:
        raise _RefusalError(f"it has more than {MOST_NODES} nodes, counting those of its functions at each call")
    if extent.depth > MOST_DEPTH:
        raise _RefusalError(f"its graphs are nested more than {MOST_DEPTH} deep")
    if extent.calls > MOST_CALLS:
        raise _RefusalError(f"its functions call each other more than {MOST_CALLS} deep")


def _key(domain: Any, name: Any, owner: Any) -> _Key:
    """Return the key of a local function, which a node that calls it has as well."""
    _require_names((domain, name))
    return "" if domain == "ai.onnx" else domain, name, getattr(owner, "overload", "")


def _graphs(attribute: Any) -> Iterator[Any]:
    """Yield the graphs in a node's attribute."""
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def _require_text(texts: Iterable[Any]) -> None:
    """Refuse what is not valid UTF-8, which protobuf returns as bytes."""
    if not all(isinstance(text, str) for text in texts):
        raise _RefusalError("a name in it is not valid UTF-8")


def _require_names(names: Iterable[Any]) -> None:
    """Refuse a name that is not valid UTF-8 or has signs that cannot be printed."""
    for name in names:
        _require_text((name,))
        if not name.isprintable():
            raise _RefusalError(f"the name '{printable(name)}' in it has signs that cannot be printed")
