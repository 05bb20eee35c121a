"""Networks in other people's files: found wherever they lie, said where, chosen among several, refused in truth."""

import argparse
import collections
import dataclasses
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path

import msgspec
import numpy as np
import pytest
import safetensors.torch
import torch
from conftest import made_shallow
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastvit_bench import options
from fastvit_bench.errors import CheckpointError, UsageError
from fastvit_bench.exporting import checkpoints, pipeline
from fastvit_bench.network import checkpoint, reparam
from fastvit_bench.network.checkpoint import recognition
from fastvit_bench.network.fastvit import FastViT, Form
from fastvit_bench.records import Device, Fuse, Head, ModelSpec, Shape, Weights

State = dict[str, Tensor]


@pytest.fixture(scope="module", autouse=True)
def shallow() -> Generator[None]:
    with made_shallow():
        yield


@pytest.fixture(scope="module")
def network(shallow: None) -> FastViT:
    return checkpoint.randomised("fastvit_t8", Head.CLASSIFIER, 3, 5)[0]


@pytest.fixture(scope="module")
def plain(network: FastViT) -> State:
    return dict(network.state_dict())


@pytest.fixture(scope="module")
def averaged(shallow: None) -> State:
    return dict(checkpoint.randomised("fastvit_t8", Head.CLASSIFIER, 3, 6)[0].state_dict())


def below(prefix: str, state: State) -> State:
    return {prefix + key: tensor for key, tensor in state.items()}


def within(names: list[str], content: object) -> object:
    for name in reversed(names):
        content = {name: content}
    return content


def equal(loaded: FastViT, state: State) -> bool:
    own = loaded.state_dict()
    return own.keys() == state.keys() and all(torch.equal(own[key], state[key]) for key in own)


def refusal(path: Path, **asked: object) -> str:
    with pytest.raises(CheckpointError) as caught:
        checkpoint.load(path, **asked)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- wherever it lies -------------------------------------------------------------------------------------------------

WRAPPERS = ["module", "_orig_mod", "model", "net", "backbone", "visual.trunk", "a b", "network", "stem", "head", "7"]
JUNK: dict[str, object] = {
    "epoch": 3,
    "n_averaged": torch.tensor(4),
    "optimizer": {"state": {0: {"exp_avg": torch.zeros(2, 2)}}, "param_groups": [{"lr": 0.1, "params": [0, 1]}]},
    "criterion.weight": torch.ones(5),
    "text_encoder.stages.0.weight": torch.zeros(3),
    "lm_head.weight": torch.zeros(2, 2),
    "args": argparse.Namespace(lr=0.1),
    "queue": [torch.zeros(2), torch.zeros(3)],
}


@pytest.mark.slow
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    entries=st.lists(st.sampled_from(["state_dict", "model", "ema", "params", "x"]), max_size=3),
    wrappers=st.lists(st.sampled_from(WRAPPERS), max_size=3),
    junk=st.sets(st.sampled_from(sorted(JUNK))),
)
def test_a_whole_network_is_found_wherever_it_lies(
    entries: list[str], wrappers: list[str], junk: set[str], plain: State, tmp_path: Path
):
    prefix = "".join(f"{wrapper}." for wrapper in wrappers)
    content = within(entries, below(prefix, plain))
    assert isinstance(content, dict)
    torch.save({name: JUNK[name] for name in sorted(junk)} | content, tmp_path / "x.pth")
    loaded = checkpoint.load(tmp_path / "x.pth")
    assert loaded.place == ".".join([*entries, *wrappers])
    assert equal(loaded.network, plain)
    remark = checkpoint.survey(tmp_path / "x.pth").remark
    assert ("left aside" in remark) == bool(junk)
    assert all(value not in remark for value in ("tensor(", "Namespace("))


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "somebody"])
def test_a_wrapper_in_the_middle_of_names(wrapper: str, plain: State, tmp_path: Path):
    wrapped = {key.replace(".convffn.", f".convffn.{wrapper}."): tensor for key, tensor in plain.items()}
    assert wrapped.keys() != plain.keys()
    torch.save(wrapped, tmp_path / "x.pth")
    assert equal(checkpoint.load(tmp_path / "x.pth").network, plain)


def test_an_adapter_is_no_wrapper(plain: State, tmp_path: Path):
    """Its entries change what a layer computes, so the layer alone is another network."""
    key = "network.0.0.convffn.fc1.weight"
    state = plain | {key.replace("weight", "base.weight"): plain[key], key.replace("weight", "low.weight"): plain[key]}
    del state[key]
    torch.save(state, tmp_path / "x.pth")
    message = refusal(tmp_path / "x.pth")
    assert "'network.0.0.convffn.fc1.base.weight' and 'network.0.0.convffn.fc1.low.weight' are the same" in message
    torch.save(plain | {"network.0.0.convffn.fc1.lora": torch.zeros(2, 2)}, tmp_path / "x.pth")
    assert "'network.0.0.convffn.fc1.lora' is not a part of it" in refusal(tmp_path / "x.pth")


def test_counters_may_be_missing_and_counts_may_lie_beside(plain: State, tmp_path: Path):
    state = {key: tensor for key, tensor in plain.items() if not key.endswith("tracked")}
    torch.save(state | {"patch_embed.0.total_ops": torch.zeros(1)}, tmp_path / "x.pth")
    assert equal(checkpoint.load(tmp_path / "x.pth").network, plain)
    assert "1 tensor (patch_embed.0.total_ops)" in checkpoint.survey(tmp_path / "x.pth").remark


@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_network_without_one_entry_is_refused_by_its_name(data: st.DataObject, plain: State, tmp_path: Path):
    key = data.draw(st.sampled_from([key for key in plain if not key.endswith("tracked")]))
    torch.save({"ema": below("module.", {name: plain[name] for name in plain if name != key})}, tmp_path / "x.pth")
    message = refusal(tmp_path / "x.pth")
    assert "holds no whole network at 'ema.module'" in message
    assert f"1 of {len(plain)} entries of fastvit_t8" in message
    assert key in message


@pytest.mark.slow
def test_a_deeper_network_with_a_gap_is_not_taken_for_a_shallower_one():
    shapes = dict(checkpoint.expected("fastvit_sa36", Head.CLASSIFIER, 9, Form.UNFUSED))
    del shapes["network.0.5.layer_scale"]
    match = recognition.nearest(shapes)
    assert (match.variant, match.missing, match.faults) == ("fastvit_sa36", ("network.0.5.layer_scale",), ())


# --- several networks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("one", "other"), [("state_dict", "state_dict_ema"), ("model", "ema"), ("student", "teacher")])
@pytest.mark.parametrize("turned", [False, True])
def test_of_two_networks_both_are_named_and_either_can_be_chosen(
    one: str, other: str, turned: bool, plain: State, averaged: State, tmp_path: Path
):
    content = {one: plain, other: below("module.", averaged)}
    torch.save(dict(reversed(content.items())) if turned else content, tmp_path / "x.pth")
    usual = checkpoint.load(tmp_path / "x.pth")
    assert equal(usual.network, plain)
    assert usual.weights.entry == one
    assert f"another fastvit_t8 at '{other}.module' (--weights chooses)" in checkpoint.survey(tmp_path / "x.pth").remark
    for entry in (other, f"{other}.module"):
        chosen = checkpoint.load(tmp_path / "x.pth", entry=entry)
        assert equal(chosen.network, averaged)
        assert chosen.weights.entry == f"{other}.module"
    message = refusal(tmp_path / "x.pth", entry="elsewhere")
    assert f"'{one}' (fastvit_t8)" in message
    assert f"'{other}.module' (fastvit_t8)" in message


@pytest.mark.slow
def test_the_model_decides_between_networks_of_two_variants(plain: State, tmp_path: Path):
    teacher = checkpoint.randomised("fastvit_t12", Head.CLASSIFIER, 3, 1)[0].state_dict()
    torch.save({"a": plain, "b": teacher}, tmp_path / "x.pth")
    assert checkpoint.load(tmp_path / "x.pth").variant == "fastvit_t8"
    assert checkpoint.load(tmp_path / "x.pth", variant="fastvit_t12").place == "b"


def test_one_table_under_two_names_is_one_network(plain: State, tmp_path: Path):
    torch.save({"model": plain, "ema": plain}, tmp_path / "x.pth")
    loaded = checkpoint.load(tmp_path / "x.pth", entry="ema")
    assert (loaded.place, loaded.weights.entry) == ("model", None)


def job(path: Path, entry: str | None) -> pipeline.ExportJob:
    spec = ModelSpec(name="a", variant="fastvit_t8", checkpoint=str(path), weights=entry)
    device = Device(name="cpu", backend="onnxruntime")
    weights = checkpoints.weights_of(spec, 0)
    return pipeline.job(spec, weights, Shape(batch=1, height=32, width=32), Fuse.FOLDED, device, folder=path.parent)


def test_the_choice_is_a_part_of_the_identity(plain: State, averaged: State, tmp_path: Path):
    torch.save({"state_dict": plain, "state_dict_ema": averaged}, tmp_path / "x.pth")
    usual, chosen = job(tmp_path / "x.pth", None), job(tmp_path / "x.pth", "state_dict_ema")
    assert usual.key != chosen.key
    assert usual.key == job(tmp_path / "x.pth", "state_dict").key
    assert usual.weights.sha256 == chosen.weights.sha256
    assert chosen.weights.label.startswith("x.pth[state_dict_ema]@")
    assert "another fastvit_t8 at 'state_dict'" in chosen.contents


@pytest.mark.slow
def test_two_networks_of_one_file_are_exported_apart(plain: State, averaged: State, tmp_path: Path):
    torch.save({"state_dict": plain, "state_dict_ema": averaged}, tmp_path / "x.pth")
    usual, chosen = job(tmp_path / "x.pth", None), job(tmp_path / "x.pth", "state_dict_ema")
    files = {asked.key: pipeline.export(asked) for asked in (usual, chosen)}
    assert {artifact.weights.entry for artifact in files.values()} == {"state_dict", "state_dict_ema"}
    assert all(pipeline.cached(asked) == files[asked.key] for asked in (usual, chosen))
    assert all(proof.passed for proof in pipeline.verify(Path(chosen.path), tmp_path / "x.pth", tmp_path).values())
    with pytest.raises(CheckpointError, match="exported from 'state_dict_ema', not from 'state_dict'"):
        pipeline.verify(Path(chosen.path), tmp_path / "x.pth", tmp_path, "state_dict")


def test_a_record_of_before_names_no_entry_and_keeps_its_key(plain: State, tmp_path: Path):
    old = msgspec.json.decode(b'{"origin": "checkpoint", "sha256": "ab", "file": "x.pth"}', type=Weights)
    assert (old.entry, old.label) == (None, "x.pth@ab")
    torch.save({"state_dict": plain, "epoch": 1}, tmp_path / "x.pth")
    asked = job(tmp_path / "x.pth", None)
    assert asked.weights.entry is None
    assert asked.key == msgspec.structs.replace(asked, contents="").key


# --- values of others, and code ---------------------------------------------------------------------------------------


@dataclasses.dataclass
class Leftovers:
    """Options as a training script keeps them."""

    rate: float = 0.1


BESIDE: dict[str, Callable[[], object]] = {
    "numpy scalar": lambda: np.float64(71.2),
    "numpy array": lambda: np.arange(3),
    "path": lambda: Path("/x/y"),
    "namespace of a path": lambda: argparse.Namespace(out=Path("/x")),
    "defaultdict": lambda: collections.defaultdict(float, a=1.0),
    "ordered": lambda: collections.OrderedDict(a=1),
    "counter": lambda: collections.Counter("aab"),
    "set": lambda: {1, 2},
    "dataclass": Leftovers,
    "a class": lambda: Leftovers,
}


@pytest.mark.parametrize("container", ["archive", "old"])
@pytest.mark.parametrize("kind", BESIDE)
def test_plain_values_beside_weights_load(kind: str, container: str, plain: State, tmp_path: Path):
    content = {"state_dict": plain, "beside": BESIDE[kind]()}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=container == "archive")
    assert equal(checkpoint.load(tmp_path / "x.pth").network, plain)


class Trap:
    """Calls a function when it is unpickled without care."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Trap.spring, (self.marker,)

    @staticmethod
    def spring(marker: Path) -> None:
        marker.touch()


def spring(marker: str) -> None:
    Path(marker).touch()


class FunctionTrap(Trap):
    """Calls a function of a module that is at hand."""

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return spring, (str(self.marker),)


def test_a_function_of_others_is_never_called(plain: State, tmp_path: Path):
    trap = FunctionTrap(tmp_path / "sprung")
    torch.save({"state_dict": plain, "beside": trap}, tmp_path / "x.pth")
    assert equal(checkpoint.load(tmp_path / "x.pth").network, plain)
    assert not trap.marker.exists()
    pickle.loads(pickle.dumps(trap, protocol=2))  # the trap is armed
    assert trap.marker.exists()


@pytest.mark.parametrize("function", [os.system, os.remove, eval, subprocess.check_output])
def test_functions_of_the_standard_library_are_refused(function: Callable[..., object], plain: State, tmp_path: Path):
    class Call:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return function, ("true",)

    torch.save({"state_dict": plain, "beside": Call()}, tmp_path / "x.pth")
    assert "is refused, since reading them can run code" in refusal(tmp_path / "x.pth")


def test_a_pickled_network_is_refused_with_the_remedy(network: FastViT, tmp_path: Path):
    torch.save(network, tmp_path / "x.pth")
    message = refusal(tmp_path / "x.pth")
    lines = message.split("`")[1::2]
    names = {"torch": torch}
    before = Path.cwd()
    try:
        os.chdir(tmp_path)
        for line in lines:
            exec(line, names)  # what a user is told to do
    finally:
        os.chdir(before)
    assert equal(checkpoint.load(tmp_path / "weights.pth").network, dict(network.state_dict()))
    torch.save({"model": network}, tmp_path / "x.pth")
    assert "holds 'model' as a pickled fastvit_bench.network.fastvit.FastViT" in refusal(tmp_path / "x.pth")


# --- half fused -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("parts", [("patch_embed",), ("network.0", "network.3"), ("network.1.proj.0", "conv_exp")])
def test_a_file_with_some_blocks_fused_computes_the_same(parts: tuple[str, ...], network: FastViT, tmp_path: Path):
    fused = reparam.fuse(network).float().state_dict()
    own = network.state_dict()
    inside = tuple(f"{part}." for part in parts)
    state = {key: tensor for key, tensor in own.items() if not key.startswith(inside)}
    state |= {key: tensor for key, tensor in fused.items() if key.startswith(inside)}
    torch.save(state, tmp_path / "x.pth")
    loaded = checkpoint.load(tmp_path / "x.pth")
    assert loaded.form is Form.UNFUSED
    assert "blocks fused)" in loaded.summary
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = reparam.at_level(network, Fuse.NONE)(image)
        for level in Fuse:
            actual = reparam.at_level(loaded.network, level)(image)
            assert (actual - wanted).abs().max() < 1e-5 * wanted.std()  # the fused parts are stored in float32
        exact = reparam.at_level(loaded.network, Fuse.NONE)(image)
        assert (reparam.at_level(loaded.network, Fuse.FOLDED)(image) - exact).abs().max() < 1e-11 * exact.std()


def test_a_block_in_both_forms_is_refused(network: FastViT, tmp_path: Path):
    fused = reparam.fuse(network).float().state_dict()
    torch.save({**fused, **network.state_dict()}, tmp_path / "x.pth")
    assert "is in it twice, fused and in training form" in refusal(tmp_path / "x.pth")


# --- several files ----------------------------------------------------------------------------------------------------


def shards(folder: Path, state: State, suffix: str = ".safetensors") -> Path:
    """Write a network in two files, and beside it a file that must not be opened; return the index."""
    names = [f"part-{number}{suffix}" for number in (1, 2)]
    keys = sorted(state)
    for number, name in enumerate(names):
        part = {key: state[key].contiguous() for key in keys[number::2]}
        if suffix == ".bin":
            torch.save(part, folder / name)
        else:
            safetensors.torch.save_file(part, folder / name)
    where = {key: names[number % 2] for number, key in enumerate(keys)} | {"model.layers.0.weight": f"absent{suffix}"}
    index = folder / ("pytorch_model.bin.index.json" if suffix == ".bin" else "model.safetensors.index.json")
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": where}))
    return index


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_an_index_or_its_folder_is_loaded_from_the_files_it_needs(suffix: str, plain: State, tmp_path: Path):
    index = shards(tmp_path, below("model.vision_tower.", plain), suffix)
    for path in (index, tmp_path):
        loaded = checkpoint.load(path)
        assert equal(loaded.network, plain)
        assert loaded.weights.file == index.name
    assert checkpoint.identify(index) == loaded.weights
    assert "1 other value (model.layers.0.weight)" in checkpoint.survey(index).remark


def test_the_hash_of_an_index_follows_the_weights(plain: State, averaged: State, tmp_path: Path):
    first = checkpoint.identify(shards(tmp_path, plain)).sha256
    assert checkpoint.identify(shards(tmp_path, averaged)).sha256 != first
    assert checkpoint.identify(shards(tmp_path, below("model.", plain))).sha256 == first


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing file": (lambda folder: (folder / "part-2.safetensors").unlink(), "names part-2.safetensors, which is not"),
    "truncated file": (
        lambda folder: (folder / "part-2.safetensors").write_bytes((folder / "part-2.safetensors").read_bytes()[:-9]),
        "part-2.safetensors is truncated or damaged",
    ),
    "no index": (lambda folder: (folder / "model.safetensors.index.json").write_text('{"a": 1}'), "is no index"),
    "another folder": (
        lambda folder: (folder / "model.safetensors.index.json").write_text('{"weight_map": {"stem.a": "../x"}}'),
        "names the file '../x', which cannot lie beside it",
    ),
    "itself": (
        lambda folder: (folder / "model.safetensors.index.json").write_text(
            '{"weight_map": {"stem.a": "model.safetensors.index.json"}}'
        ),
        "which cannot lie beside it",
    ),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_an_index_that_is_not_whole(fault: str, plain: State, tmp_path: Path):
    index = shards(tmp_path, plain)
    spoil, part = BROKEN[fault]
    spoil(tmp_path)
    assert part in refusal(index)


def test_a_folder_without_weights_is_refused(tmp_path: Path):
    assert "is a folder without model.safetensors" in refusal(tmp_path)


IN_A_CHILD = """
import json, sys
from pathlib import Path
import safetensors.torch
from fastvit_bench.network import checkpoint
from fastvit_bench.records import Head

def largest():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

small, large, beyond = Path("small.safetensors"), Path("large.safetensors"), 15 << 30
state = checkpoint.randomised("fastvit_t8", Head.CLASSIFIER, 3, 1)[0].state_dict()
data = safetensors.torch.save({f"v.{key}": tensor for key, tensor in state.items()})
small.write_bytes(data)
length = int.from_bytes(data[:8], "little")
header, size = json.loads(data[8 : 8 + length]), len(data) - 8 - length
header["lm.weight"] = {"dtype": "BF16", "shape": [beyond // 2], "data_offsets": [size, size + beyond]}
text = json.dumps(header).encode()
with large.open("wb") as file:
    file.write(len(text).to_bytes(8, "little") + text + data[8 + length :])
    file.truncate(8 + len(text) + size + beyond)
checkpoint.load(small)
before = largest()
loaded = checkpoint.load(large)
print(loaded.place, largest() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the largest memory is read from Linux")
def test_a_file_of_many_gigabytes_takes_the_memory_of_its_network(tmp_path: Path):
    """The file is sparse: 15 GiB of a language model that take no place on the disk."""
    ran = subprocess.run([sys.executable, "-c", IN_A_CHILD], cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    place, grown_kib = ran.stdout.split()
    assert place == "v"
    assert int(grown_kib) < 64 << 10


# --- as a user calls it -----------------------------------------------------------------------------------------------


def test_weights_without_a_checkpoint_are_refused():
    with pytest.raises(UsageError, match="name that file with --checkpoint"):
        options.one_model(options.load(None), "fastvit_t8", None, None, "ema")


# --- other shapes of a network ----------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 4, 6, 12])
@pytest.mark.parametrize("form", list(Form))
def test_the_first_convolution_says_how_many_channels_images_have(channels: int, form: Form, tmp_path: Path):
    made = checkpoint.randomised("fastvit_t8", Head.CLASSIFIER, 3, 5, channels)[0]
    made = reparam.fuse(made).float() if form is Form.FUSED else made
    path = tmp_path / "x.pth"
    torch.save({"state_dict": below("module.", dict(made.state_dict()))}, path)
    loaded = checkpoint.load(path)
    assert equal(loaded.network, dict(made.state_dict()))
    assert f"{channels} input channel" in loaded.summary
    spec = ModelSpec(name="x", variant="fastvit_t8", checkpoint=str(path), classes=3)
    assert checkpoints.channels_of(spec) == channels
    shape = Shape(batch=1, height=32, width=32)
    cpu = Device(name="cpu", backend="onnxruntime")
    asked = pipeline.job(spec, checkpoints.weights_of(spec, 0), shape, Fuse.FOLDED, cpu, folder=tmp_path)
    assert asked.shape.nchw == (1, channels, 32, 32)


def test_a_first_convolution_of_no_network_is_named(plain: State, tmp_path: Path):
    key = "patch_embed.0.rbr_scale.conv.weight"
    path = tmp_path / "x.pth"
    torch.save(plain | {key: torch.ones(16, 4, 1, 1)}, path)
    assert f"{key} has the shape (16, 4, 1, 1), not (16, 3, 1, 1)" in refusal(path)


@pytest.mark.slow
def test_a_checkpoint_of_other_channels_becomes_a_proved_file(tmp_path: Path):
    path = tmp_path / "x.pth"
    torch.save(checkpoint.randomised("fastvit_t8", Head.CLASSIFIER, 3, 5, 12)[0].state_dict(), path)
    spec = ModelSpec(name="x", variant="fastvit_t8", checkpoint=str(path))
    cpu, shape = Device(name="cpu", backend="onnxruntime"), Shape(batch=1, height=32, width=64)
    asked = pipeline.job(spec, checkpoints.weights_of(spec, 0), shape, Fuse.FOLDED, cpu, folder=tmp_path)
    artifact = pipeline.export(asked)
    assert artifact.parity is not None
    assert artifact.parity.passed
    assert (artifact.shape.channels, artifact.classes) == (12, 3)


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "said"), [(1, "classifier with 1 class,"), (7, "classifier with 7 classes,")])
def test_classes_are_counted_in_words(classes: int, said: str, tmp_path: Path):
    path = tmp_path / "x.pth"
    torch.save(checkpoint.randomised("fastvit_t8", Head.CLASSIFIER, classes, 5)[0].state_dict(), path)
    assert said in checkpoint.load(path).summary
