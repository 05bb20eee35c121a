"""What could have been folded is counted in small graphs, and what could not is not."""

from collections.abc import Iterable

import pytest

from fastvit_bench.auditing import foldable
from fastvit_bench.auditing.graph import FileGraph, GraphNode


def graph(text: str, constants: Iterable[str] = ()) -> FileGraph:
    """A graph of lines ``result = kind input …``; constants that begin with `per_` have several numbers.

    A convolution that begins with `d` is depthwise.
    """
    nodes: list[GraphNode] = []
    names = {"one", "per_channel", "kernel", *constants}
    for line in filter(None, map(str.strip, text.splitlines())):
        result, _, (kind, *inputs) = (line.partition(" = ")[0], "", line.partition(" = ")[2].split())
        nodes.append(
            GraphNode(kind.removeprefix("d"), result, tuple(inputs), (result,), kind.startswith("dconv"), kind)
        )
    return FileGraph(
        tuple(nodes),
        {name: (8, 1, 1) if name.startswith("per_") or name == "kernel" else (1,) for name in names},
        frozenset({nodes[-1].outputs[0]}),
    )


def counted(text: str) -> dict[str, int]:
    return {kind.kind: kind.count for kind in foldable.of_graph(graph(text))}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # RepMixer in training form: branches of one source, a scale, and the source itself
        (
            """
            a = dconv x kernel
            b = dconv x kernel
            c = batch_norm x per_channel per_channel
            s = add a b
            m = sub s c
            t = mul m per_channel
            y = add x t
            """,
            {"BatchNormalization": 1, "layer scale": 1, "depthwise branches in training form": 1},
        ),
        # a positional encoding: the source beside one convolution of it
        ("p = dconv x kernel\n y = add p x", {"depthwise branches in training form": 1}),
        ("a = conv x kernel\n b = conv x kernel\n y = add a b", {"parallel convolution branches": 1}),
        # a convolution and its BatchNorm are one branch
        (
            """
            a = conv x kernel
            n = batch_norm a per_channel
            b = conv x kernel
            y = add n b
            """,
            {"BatchNormalization": 1, "parallel convolution branches": 1},
        ),
        # a residual connection around two layers can't be folded, and its scale can
        ("a = conv x kernel\n g = gelu a\n b = conv g kernel\n y = add x b", {}),
        (
            "a = conv x kernel\n g = gelu a\n b = conv g kernel\n s = mul per_channel b\n y = add x s",
            {"layer scale": 1},
        ),
        # convolutions of different values
        ("a = conv x kernel\n g = gelu x\n b = conv g kernel\n y = add a b", {}),
        # a convolution whose result is read elsewhere too cannot be joined with another
        ("a = conv x kernel\n g = gelu a\n b = conv x kernel\n s = add a b\n y = concat s g", {}),
        # a bias of a sum, and a normalisation in parts: no layer scales
        ("a = mul x per_channel\n y = add a per_channel", {}),
        (
            """
            m = reduce_mean x
            d = sub x m
            v = mul d d
            w = mul d per_channel
            y = add w per_channel
            """,
            {"LayerNorm in parts": 1},
        ),
        # squeeze-and-excite multiplies by what it computes
        ("s = sigmoid x\n y = mul x s", {}),
        ("q = conv x kernel\n s = mul q one\n t = transpose s\n y = matmul t x", {"scale of attention": 1}),
        ("m = matmul x x\n d = real_div m one\n y = softmax d", {"scale of attention": 1}),
        ("q = matmul x per_channel\n y = mul q one", {}),
        ("d = real_div x one\n e = erf d\n a = add e one\n y = mul a x", {"GELU in parts": 1}),
        ("y = tanh x", {}),
        ("i = identity x\n y = gelu i", {"Identity": 1}),
        # a scale that is computed from sizes alone
        ("z = shape x\n r = sqrt z\n q = mul x r\n y = matmul q x", {"scale of attention": 1}),
    ],
)
def test_foldable_operations(text: str, expected: dict[str, int]) -> None:
    assert counted(text) == expected
