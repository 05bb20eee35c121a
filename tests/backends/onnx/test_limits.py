"""Files that would never be finished, or cannot be named, are refused before a toolkit sees them."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from fastvit_bench.backends._onnx import external, limits, model
from fastvit_bench.backends._onnx import session as onnx_session
from fastvit_bench.errors import UnavailableError
from fastvit_bench.records import Shape

SHAPE = Shape(batch=1, height=32, width=32)
OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]


def calls(names: list[str], body: list[str]) -> list[onnx.NodeProto]:
    """A chain of calls of local functions or operators, from x to y."""
    values = ["x", *(f"v{index}" for index in range(1, len(body))), "y"]
    return [
        helper.make_node(kind, [values[index]], [values[index + 1]], domain="local" if kind in names else "")
        for index, kind in enumerate(body)
    ]


def with_functions(bodies: dict[str, list[str]]) -> onnx.ModelProto:
    """A model that calls the first of some local functions, each of which has a chain of calls for its body."""
    names = list(bodies)
    functions = [
        helper.make_function("local", name, ["x"], ["y"], calls(names, body), OPSETS) for name, body in bodies.items()
    ]
    return of_nodes(calls(names, names[:1]), functions=functions)


def of_nodes(nodes: list[onnx.NodeProto], **more: Any) -> onnx.ModelProto:
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE.nchw)
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    return helper.make_model(helper.make_graph(nodes, "g", [image], [result]), opset_imports=OPSETS, **more)


def doubled(levels: int) -> onnx.ModelProto:
    """As many functions, each of which calls the next twice: 2^levels nodes."""
    return with_functions(
        {f"f{index}": [f"f{index + 1}" if index + 1 < levels else "Relu"] * 2 for index in range(levels)}
    )


def nested(depth: int) -> onnx.ModelProto:
    """An If within an If, and so on."""
    nodes = [helper.make_node("Relu", ["x"], ["y"])]
    for _ in range(depth):
        branch = helper.make_graph(nodes, "b", [], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)])
        nodes = [helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)]
    return of_nodes(nodes)


def refusal(folder: Path, content: onnx.ModelProto | bytes) -> str:
    """The one sentence that every way of reading a file refuses it with."""
    path = folder / "theirs.onnx"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    sentences: set[str] = set()
    for read in (
        lambda: model.read(path),
        lambda: external.normalize_external_onnx(path, SHAPE),
        lambda: onnx_session.on_processor(path, 1),
        lambda: onnx_session.as_typed(path, 1).__enter__(),
    ):
        with pytest.raises(UnavailableError, match=r"^ONNX cannot load theirs\.onnx: .*\.$") as caught:
            read()
        sentences.add(str(caught.value))
    (sentence,) = sentences
    assert sentence.isprintable()
    return sentence


def test_four_kilobytes_that_stand_for_a_billion_nodes_are_refused_at_once(tmp_path: Path) -> None:
    small = doubled(36)
    assert small.ByteSize() < 5000
    assert "more than 100000 nodes, counting those of its functions at each call" in refusal(tmp_path, small)


def test_functions_within_the_limit_are_taken(tmp_path: Path) -> None:
    onnx.save(doubled(10), tmp_path / "a.onnx")
    assert len(model.read(tmp_path / "a.onnx").functions) == 10
    onnx.save(nested(limits.MOST_DEPTH), tmp_path / "b.onnx")
    model.read(tmp_path / "b.onnx")


@pytest.mark.parametrize(
    ("bodies", "reason"),
    [
        ({"a": ["b"], "b": ["a"]}, "its function a calls itself"),
        ({"a": ["a"]}, "its function a calls itself"),
        ({f"f{index}": [f"f{index + 1}"] for index in range(3000)}, "call each other more than 64 deep"),
        ({f"f{index:04d}": [f"f{index - 1:04d}" if index else "Relu"] for index in range(99, -1, -1)}, "64 deep"),
    ],
)
def test_functions_that_call_themselves_or_too_many_others(
    bodies: dict[str, list[str]], reason: str, tmp_path: Path
) -> None:
    assert reason in refusal(tmp_path, with_functions(bodies))


def test_the_nodes_of_graphs_within_nodes_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert f"nested more than {limits.MOST_DEPTH} deep" in refusal(tmp_path, nested(limits.MOST_DEPTH + 1))
    monkeypatch.setattr(limits, "MOST_NODES", 20)
    assert "more than 20 nodes" in refusal(tmp_path, nested(4))  # 1 + 2 (1 + 2 (…)) = 31


def test_functions_in_graphs_within_functions_add_up_in_depth(tmp_path: Path) -> None:
    """Each function is measured once, and the nest around its calls counts at each."""
    value = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    functions: list[onnx.FunctionProto] = []
    for index in range(12):
        kind, domain = (f"f{index - 1}", "local") if index else ("Relu", "")
        branch = helper.make_graph([helper.make_node(kind, ["x"], ["y"], domain=domain)], "b", [], [value])
        node = helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch)
        functions.append(helper.make_function("local", f"f{index}", ["x"], ["y"], [node], OPSETS))
    nodes = [
        helper.make_node(f"f{index}", ["x"], [f"y{index}" if index < 11 else "y"], domain="local")
        for index in range(12)
    ]
    assert "nested more than" in refusal(tmp_path, of_nodes(nodes, functions=functions))


def test_too_many_initialisers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_INITIALISERS", 3)
    many = nested(0)
    for index in range(4):
        many.graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), f"w{index}"))
    assert "more than 3 initialisers" in refusal(tmp_path, many)


@pytest.mark.parametrize("place", ["input", "output", "initializer", "node", "value", "kind", "metadata"])
@pytest.mark.parametrize(("bad", "reason"), [(b"a\xffb", "not valid UTF-8"), (b"a\x1bb", "signs that cannot be pr")])
def test_a_name_that_is_no_text_is_one_sentence(place: str, bad: bytes, reason: str, tmp_path: Path) -> None:
    odd = nested(0)
    graph = odd.graph
    graph.initializer.append(numpy_helper.from_array(np.zeros(1, np.float32), "w"))
    if place == "node":
        graph.node[0].name = "aXb"
    elif place == "value":
        graph.node[0].output[0] = graph.output[0].name = "aXb"
    elif place == "kind":
        graph.node[0].op_type = "aXb"
    elif place == "metadata":
        odd.metadata_props.add(key="aXb", value="v")
    else:
        getattr(graph, place)[0].name = "aXb"
    content = odd.SerializeToString().replace(b"aXb", bad)
    if place == "metadata" and b"\x1b" in bad:  # values of metadata are texts of any kind, such as class names
        path = tmp_path / "theirs.onnx"
        path.write_bytes(content)
        assert model.metadata(path) == {"a\x1bb": "v"}
        return
    assert reason in refusal(tmp_path, content)


@pytest.mark.parametrize("content", [b"\xff" * 100, b"\x08", bytes(range(256)) * 9])
def test_what_is_no_model_is_one_printable_sentence(content: bytes, tmp_path: Path) -> None:
    refusal(tmp_path, content)


def test_pipes_and_devices_are_no_models(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.onnx"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero"), tmp_path):
        for read in (model.read, lambda path: external.normalize_external_onnx(path, SHAPE)):
            with pytest.raises(UnavailableError, match=r"it is (no regular file|a folder)"):
                read(path)


@pytest.mark.parametrize("place", ["/etc/hosts", "../outside.bin", "link.bin", "pipe.bin"])
def test_weights_in_other_files_are_read_from_beside_the_file_alone(place: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "outside.bin").write_bytes(bytes(4))
    (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
    os.mkfifo(folder / "pipe.bin")
    odd = nested(0)
    tensor = numpy_helper.from_array(np.zeros(1, np.float32), "w")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=place)
    odd.graph.initializer.append(tensor)
    (folder / "theirs.onnx").write_bytes(odd.SerializeToString())
    with pytest.raises(UnavailableError, match="ONNX cannot load the data of"):
        external.normalize_external_onnx(folder / "theirs.onnx", SHAPE)
