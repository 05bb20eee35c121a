"""Weight files: every layout is recognised and proved, everything else is refused in one sentence and never run."""

import argparse
import errno
import io
import json
import os
import pickle
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import builders
import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import check_refusal, mutated
from torch import Tensor

from fastvit_bench.errors import CheckpointError, ChecksumError, FastViTBenchError, UsageError
from fastvit_bench.files import file_sha256
from fastvit_bench.network import checkpoint, reparam
from fastvit_bench.network.checkpoint import NamingScheme, contents, loading, recognition
from fastvit_bench.network.checkpoint import pickles as reader
from fastvit_bench.network.fastvit import VARIANTS, FastViT, Form, Mixer
from fastvit_bench.network.random_weights import draw
from fastvit_bench.records import DRAW, Head, Weights

State = dict[str, Tensor]
SOURCE = Weights(origin="random", seed=4)
T8 = "fastvit_t8 (classifier with 2 classes, unfused)"


def drawn(variant: str, head: Head, classes: int) -> FastViT:
    """A network with weights that no forward pass was spent on: here they are stored, and nothing is computed."""
    network = FastViT(VARIANTS[variant], head=head, classes=classes).eval()
    draw(network, 4)
    return network


@pytest.fixture(scope="module")
def network() -> FastViT:
    return drawn("fastvit_t8", Head.CLASSIFIER, 2)


@pytest.fixture(scope="module")
def fused(network: FastViT) -> FastViT:
    return reparam.fuse(network)


@pytest.fixture
def state(network: FastViT) -> State:
    return dict(network.state_dict())


def refusal(path: Path, kind: type[Exception] = CheckpointError, **expected: object) -> str:
    """The message a file is refused with: of one line, beginning with the file and ending in a full stop."""
    with pytest.raises(kind) as caught:
        checkpoint.load(path, **expected)
    message = str(caught.value)
    assert message.startswith(f"{path} ")
    assert message.endswith(".")
    assert "\n" not in message
    return message


def equal(one: FastViT, state: State) -> bool:
    return all(torch.equal(tensor.double(), state[key].double()) for key, tensor in one.state_dict().items())


# --- what is accepted -------------------------------------------------------------------------------------------------


QUICK = ("fastvit_t8", "fastvit_sa12")


@pytest.mark.slow
def test_a_network_without_a_classifier_ends_in_its_features(tmp_path: Path):
    state = drawn("fastvit_t8", Head.CLASSIFIER, 5).state_dict()
    torch.save({name: value for name, value in state.items() if not name.startswith("head.")}, tmp_path / "none.pth")
    loaded = checkpoint.load(tmp_path / "none.pth")
    assert (loaded.variant, loaded.head, loaded.classes) == ("fastvit_t8", Head.EMBEDDING, 0)
    assert loaded.network(torch.zeros(1, 3, 32, 32)).shape == (1, 768)


@pytest.mark.parametrize("form", Form)
@pytest.mark.parametrize("head", builders.FASTVITS_HEADS)
@pytest.mark.parametrize(
    "variant", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in VARIANTS]
)
def test_a_network_is_told_by_keys_and_shapes(variant: str, head: Head, form: Form):
    shapes = checkpoint.expected(variant, head, 7, form)
    classes = 7 if head is Head.CLASSIFIER else 1000
    if head is Head.STAGES and VARIANTS[variant].last is Mixer.REPMIXER:
        head = Head.DENSE  # the same network, and published under this name
    match = recognition.nearest(shapes)
    assert match.whole
    assert (match.variant, match.head, match.classes, match.form) == (variant, head, classes, form)


@pytest.mark.slow
@pytest.mark.parametrize("head", builders.FASTVITS_HEADS)
def test_a_published_file_in_training_form(head: Head, tmp_path: Path):
    network = drawn("fastvit_sa12", head, 5)
    file = tmp_path / "anything.pth.tar"
    torch.save({"epoch": 3, "state_dict": network.state_dict()}, file)
    found = checkpoint.load(file, variant="fastvit_sa12", head=head, classes=5)
    assert (found.variant, found.head, found.classes) == ("fastvit_sa12", head, 5 if head is Head.CLASSIFIER else 1000)
    assert (found.form, found.layout) == (Form.UNFUSED, NamingScheme.PUBLISHED)
    assert found.weights == Weights(origin="checkpoint", sha256=file_sha256(file), file="anything.pth.tar")
    assert found.source is None
    assert not found.network.training
    assert equal(found.network, network.state_dict())
    torch.save({}, file)  # the network does not live in the file
    assert equal(found.network, network.state_dict())


WRAPPINGS: dict[str, Callable[[State], object]] = {
    "bare": lambda state: state,
    "model": lambda state: {"model": state},
    "ema": lambda state: {"state_dict_ema": state},
    "both": lambda state: {"state_dict_ema": {}, "state_dict": state},
    "parallel": lambda state: {"state_dict": {f"module.{key}": tensor for key, tensor in state.items()}},
    "parameters": lambda state: {key: torch.nn.Parameter(t, requires_grad=False) for key, t in state.items()},
    "with options": lambda state: {"state_dict": state, "args": argparse.Namespace(lr=0.1, opt=["adamw"])},
    "in another order": lambda state: dict(reversed(state.items())),
}


@pytest.mark.parametrize("container", ["archive", "old"])
@pytest.mark.parametrize("wrap", WRAPPINGS)
def test_wrappings_and_containers(wrap: str, container: str, state: State, tmp_path: Path):
    torch.save(WRAPPINGS[wrap](state), tmp_path / "x", _use_new_zipfile_serialization=container == "archive")
    assert equal(checkpoint.load(tmp_path / "x").network, state)


@pytest.mark.parametrize("container", ["archive", "old", "safetensors"])
@pytest.mark.parametrize("name", ["x.pth.tar", "pytorch_model.bin", "model.safetensors", "fastvit_ma36"])
def test_the_name_of_a_file_says_nothing(name: str, container: str, damaged, tmp_path: Path):
    _, whole, state = damaged
    (tmp_path / name).write_bytes(whole[container])
    found = checkpoint.load(tmp_path / name)
    assert (found.variant, found.weights.file) == ("fastvit_t8", name)
    assert equal(found.network, state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("container", ["torch", "safetensors"])
def test_other_precisions_become_float32(dtype: torch.dtype, container: str, state: State, tmp_path: Path):
    file = tmp_path / "x.bin"
    stored = {key: tensor.to(dtype) if tensor.is_floating_point() else tensor for key, tensor in state.items()}
    write = safetensors.torch.save_file if container == "safetensors" else torch.save
    write(stored, file)
    found = checkpoint.load(file).network
    assert {tensor.dtype for tensor in found.state_dict().values()} == {torch.float32, torch.int64}
    assert equal(found, stored)


@pytest.mark.parametrize(
    ("head", "suffix"),
    [
        (Head.CLASSIFIER, ".pth.tar"),
        (Head.CLASSIFIER, ".pth"),
        (Head.CLASSIFIER, ".safetensors"),
        *((head, ".safetensors") for head in (Head.DENSE, Head.SEGMENTER, Head.DETECTOR)),
    ],
)
def test_what_is_saved_is_loaded(head: Head, suffix: str, tmp_path: Path):
    network = drawn("fastvit_t8", head, 3)
    fused = reparam.fuse(network)
    file = tmp_path / "new" / "folder" / f"x{suffix}"
    source = Weights(origin="checkpoint", sha256="ab" * 32, file="t8.pth.tar")
    written = checkpoint.save(fused, file, source=source)
    found = checkpoint.load(file)
    assert found.weights == written
    assert found.source == source
    assert (found.variant, found.head, found.form, found.layout) == (
        "fastvit_t8",
        head,
        Form.FUSED,
        NamingScheme.PUBLISHED,
    )
    assert equal(found.network, fused.float().state_dict())
    assert checkpoint.save(fused, file, source=source) == written  # the same bytes again
    assert [entry.name for entry in file.parent.iterdir()] == [file.name]


def test_a_saved_file_is_readable_without_this_tool(fused: FastViT, tmp_path: Path):
    checkpoint.save(fused, tmp_path / "x.pth.tar", source=SOURCE)
    content = torch.load(tmp_path / "x.pth.tar", weights_only=True)
    assert content["state_dict"].keys() == fused.state_dict().keys()
    assert content["fastvit_bench"]["source"]["seed"] == 4
    checkpoint.save(fused, tmp_path / "x.safetensors", source=SOURCE)
    with safetensors.safe_open(tmp_path / "x.safetensors", "pt") as file:
        assert json.loads(file.metadata()["fastvit_bench"])["source"]["seed"] == 4


def test_a_safetensors_file_that_begins_like_a_pickle(state: State, tmp_path: Path):
    """It begins with the length of its header, and that can be any number."""
    contents = (safetensors.torch.save(state, metadata={"padding": "x" * 8 * length}) for length in range(32))
    content = next(content for content in contents if content[0] == 0x80)
    (tmp_path / "x.bin").write_bytes(content)
    assert equal(checkpoint.load(tmp_path / "x.bin").network, state)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "part"),
    [
        (
            {"variant": "fastvit_t12"},
            f"holds {T8}, but variant fastvit_t12 was",
        ),
        ({"head": Head.DENSE}, "but head dense was"),
        ({"classes": 1000}, "but classes 1000 was"),
    ],
)
def test_another_network_than_expected(expected: dict[str, object], part: str, state: State, tmp_path: Path):
    torch.save(state, tmp_path / "fastvit_t12.pth")
    assert part in refusal(tmp_path / "fastvit_t12.pth", **expected)


def test_a_variant_that_does_not_exist(tmp_path: Path):
    with pytest.raises(UsageError, match="did you mean fastvit_sa12"):
        checkpoint.load(tmp_path / "x", variant="fastvit_sa11")


KEY = "network.0.1.token_mixer.mixer.rbr_scale.conv.weight"
VAR = "patch_embed.2.rbr_skip.running_var"
COUNTER = "patch_embed.0.rbr_conv.0.bn.num_batches_tracked"


def put(key: str, alter: Callable[[Tensor], object]) -> Callable[[State], object]:
    """A change of one entry."""
    return lambda state: state.update({key: alter(state[key])})


CHANGES: dict[str, tuple[Callable[[State], object], str]] = {
    "missing": (lambda s: s.pop(KEY), f"entries of {T8} is missing, {KEY} by its published name"),
    "surplus": (lambda s: s.update({KEY + "s": torch.zeros(2)}), f"'{KEY}s' is not a part of it"),
    "two": (lambda s: (s.pop(KEY), s.pop(VAR)), f"entries of {T8} are missing, first "),
    "shape": (put(KEY, lambda t: t.reshape(1, 48, 1, 1)), f"{KEY} has the shape (1, 48, 1, 1), not (48, 1, 1, 1)"),
    "half a classifier": (lambda s: s.pop("head.weight"), "head.weight by its published name"),
    "no classes": (put("head.weight", lambda t: t[:0]), "its classifier has 0 classes"),
    "integers": (put(KEY, lambda t: t.to(torch.int8)), f"holds {KEY} as int8"),
    "complex": (put(KEY, lambda t: t.to(torch.complex64)), f"holds {KEY} as complex64"),
    "not a number": (
        put(KEY, lambda t: t.index_fill(0, torch.tensor([3]), torch.nan)),
        f"holds {KEY} with values that",
    ),
    "infinity": (put(KEY, lambda t: t / 0), f"holds {KEY} with values that are infinite"),
    "beyond float32": (put(KEY, lambda t: t.double() * 1e300), f"holds {KEY} with values that are infinite"),
    "negative variance": (put(VAR, lambda t: -t), f"holds {VAR} with a negative variance"),
    "sparse": (put(KEY, lambda t: t.to_sparse()), f"{KEY} is held as a sparse"),
    "without values": (put(KEY, lambda t: t.to("meta")), "empty tensor"),
    "no tensor": (put(KEY, lambda t: [1.0]), f"{KEY} is held as a value of type list, not as a tensor"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_one_wrong_entry(change: str, state: State, tmp_path: Path):
    alter, part = CHANGES[change]
    alter(state)
    torch.save({"state_dict": state}, tmp_path / "x.pth.tar")
    assert part in refusal(tmp_path / "x.pth.tar")


def test_one_wrong_entry_among_timms(timm, tmp_path: Path):
    state = timm.create_model("fastvit_sa12", num_classes=2).state_dict()
    state["stages.3.blocks.0.norm.weight"] = torch.zeros(3)
    state["network.7.0.norm.bias"] = torch.zeros(512)
    torch.save(state, tmp_path / "x.bin")
    assert "'stages.3.blocks.0.norm.bias' and 'network.7.0.norm.bias' are the same entry of fastvit_sa12" in refusal(
        tmp_path / "x.bin"
    )
    del state["network.7.0.norm.bias"]
    torch.save(state, tmp_path / "x.bin")
    message = refusal(tmp_path / "x.bin")
    assert "1 entry disagrees with fastvit_sa12 (classifier with 2 classes, unfused)" in message
    assert "network.7.0.norm.weight has the shape (3,), not (512,)" in message


class Mischief:
    """Unpickled without care, makes a folder."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.marker),)


def pickles(state: State, mischief: Mischief) -> dict[str, bytes]:
    def torch_bytes(content: object, zipped: bool) -> bytes:
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
        return buffer.getvalue()

    return {
        "archive": torch_bytes({"state_dict": state, "hook": mischief}, zipped=True),
        "old": torch_bytes({"state_dict": state, "hook": mischief}, zipped=False),
        "pickle": pickle.dumps(mischief),
        "old pickle": pickle.dumps(mischief, protocol=2),
        "text pickle": pickle.dumps(mischief, protocol=0),
    }


@pytest.mark.parametrize("kind", ["archive", "old", "pickle", "old pickle", "text pickle"])
def test_code_in_a_file_does_not_run(kind: str, state: State, tmp_path: Path):
    marker = tmp_path / "ran"
    content = pickles(state, Mischief(marker))[kind]
    (tmp_path / "x.pth.tar").write_bytes(content)
    message = refusal(tmp_path / "x.pth.tar")
    assert not marker.exists()
    if kind in ("archive", "old", "old pickle"):
        assert "holds objects that are not tensors" in message
        assert "mkdir" in message
    pickle.loads(pickle.dumps(Mischief(marker)))  # the trap is armed: read carelessly, it does go off
    assert marker.exists()


def test_a_whole_network_in_a_file_is_refused(network: FastViT, tmp_path: Path):
    torch.save(network, tmp_path / "x.pth")
    assert "is a whole pickled object (fastvit_bench.network.fastvit.FastViT), and reading one runs code" in refusal(
        tmp_path / "x.pth"
    )


def test_torchscript_is_refused(tmp_path: Path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(str(tmp_path / "x.pt"))
    assert "TorchScript" in refusal(tmp_path / "x.pt")


def zipped(compression: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        archive.writestr("archive/data.pkl" if compression else "letter.txt", "x" * 1000)
    return buffer.getvalue()


NOT_WEIGHTS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "is empty"),
    "html": (b"<!DOCTYPE html>\n<html><head>" * 9, "is a text file that begins with '<!DOCTYPE html>', not weights"),
    "blank": (b"\n \n" * 40, "is a text file"),
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a pointer of Git LFS"),
    "noise": (bytes(range(255, 0, -1)) * 9, "is not a weight file"),
    "one byte": (b"\x80", "is damaged"),
    "zip": (zipped(zipfile.ZIP_STORED), "is a zip archive, but not one that torch.save writes"),
    "compressed zip": (zipped(zipfile.ZIP_DEFLATED), "is a zip archive, but not one that torch.save writes"),
    "half a zip": (zipped(zipfile.ZIP_STORED)[:500], "is truncated or damaged"),
    "plain pickle": (pickle.dumps({"state_dict": {"a": 1}}), "a pickle that torch.save did not write"),
    "safetensors header": (b"\x40\0\0\0\0\0\0\0{" + b" " * 40, "is truncated or damaged"),
    "huge safetensors header": (b"\xff\xff\xff\xff\xff\xff\xff\x7f{" + b" " * 40, "is truncated or damaged"),
}


@pytest.mark.parametrize("kind", NOT_WEIGHTS)
def test_files_that_are_no_weights(kind: str, tmp_path: Path):
    content, part = NOT_WEIGHTS[kind]
    (tmp_path / "x.pth.tar").write_bytes(content)
    assert part in refusal(tmp_path / "x.pth.tar")


def test_a_graph_in_place_of_weights(tmp_path: Path):
    (tmp_path / "x.onnx").write_bytes(b"\x08\x07\x12\x07pytorch")
    assert "is an ONNX file, which holds no state dict" in refusal(tmp_path / "x.onnx")


CONTENTS: dict[str, tuple[object, str]] = {
    "nothing": ({}, "holds no weights"),
    "a list": ([1, 2], "holds one list"),
    "a list of tensors": ([torch.zeros(3)], "holds no FastViT network (its first entry is '0')"),
    "a number": (3, "holds one int"),
    "a tensor": (torch.zeros(3), "holds one Tensor"),
    "numbers": ({"epoch": 3}, "its first entry 'epoch' is held as a value of type int"),
    "numbered tensors": ({0: torch.zeros(3)}, "holds no FastViT network (its first entry is '0')"),
    "another network": (
        {
            "conv1.weight": torch.zeros(64, 3, 7, 7),
            "layer1.0.bn1.running_var": torch.ones(64),
        },
        "holds no FastViT network (its first entry is 'conv1.weight')",
    ),
    "somebody's note": ({"fastvit_bench": {"tool": 3}}, "holds no weights"),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_contents_that_are_no_weights(kind: str, tmp_path: Path):
    content, part = CONTENTS[kind]
    torch.save(content, tmp_path / "x.pth.tar")
    assert part in refusal(tmp_path / "x.pth.tar")


@pytest.mark.skipif(not hasattr(torch, "quantize_per_tensor"), reason="this torch makes no quantised tensors")
@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor")
def test_quantised_tensors_are_named(tmp_path: Path):
    torch.save({"a": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)}, tmp_path / "x.pth.tar")
    assert "holds quantised tensors" in refusal(tmp_path / "x.pth.tar")


def test_a_network_in_a_list(state: State, tmp_path: Path):
    torch.save([{"lr": 0.1}, state, {"epoch": 3}], tmp_path / "x.pth.tar")
    assert checkpoint.load(tmp_path / "x.pth.tar").place == "1"


def test_a_note_of_another_tool(state: State, tmp_path: Path):
    torch.save({"state_dict": state, "fastvit_bench": {"tool": "1"}}, tmp_path / "x.pth.tar")
    assert "note that this tool did not write" in refusal(tmp_path / "x.pth.tar")


def test_places_without_a_file(tmp_path: Path):
    assert "does not exist" in refusal(tmp_path / "x.pth.tar")
    with pytest.raises(CheckpointError, match="nul does not exist"):  # printable, as every message
        checkpoint.load(tmp_path / "nul\0")
    assert "is a folder" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "is not a regular file" in refusal(tmp_path / "pipe")


@pytest.mark.parametrize("target", ["/dev/zero", "pipe"])
def test_a_link_to_a_device_or_pipe_is_not_read(target: str, state: State, tmp_path: Path):
    """Neither as a checkpoint nor as the record of its hash: both would never end."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "x.pth").symlink_to(tmp_path / target)
    assert "is not a regular file" in refusal(tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="cannot be read"):
        contents.read(tmp_path / "x.pth", bool)
    torch.save(state, tmp_path / "y.pth")
    (tmp_path / "y.pth.sha256").symlink_to(tmp_path / target)
    with pytest.raises(CheckpointError, match=r"y\.pth\.sha256 cannot be read \(it is no regular file"):
        checkpoint.load(tmp_path / "y.pth")


def test_a_sparse_file_of_a_terabyte_is_not_hashed(tmp_path: Path):
    with (tmp_path / "x.pth").open("wb") as file:
        file.truncate(1 << 40)
    assert "more than the" in refusal(tmp_path / "x.pth")


def test_names_at_the_limit_of_a_file_system(state: State, tmp_path: Path):
    """The record's name would be too long, so there is none."""
    file = tmp_path / ("x" * 251 + ".pth")
    torch.save(state, file)
    assert checkpoint.load(file).variant == "fastvit_t8"
    with pytest.raises(CheckpointError, match=r"x…x+ cannot be read"):  # of a readable length
        checkpoint.load(tmp_path / ("x" * 5000))


# --- hostile archives and pickles -------------------------------------------------------------------------------------


def archive(content: object = None, *, data: bytes | None = None, **extra: bytes) -> bytes:
    """What torch.save writes of a content, with another pickle if `data` is given, and further entries."""
    buffer, changed = io.BytesIO(), io.BytesIO()
    torch.save({} if content is None else content, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(changed, "w") as target:
        for name in source.namelist():
            swap = data is not None and name.endswith("data.pkl")
            target.writestr(name, data if swap else source.read(name))  # type: ignore[arg-type]
        for name, value in extra.items():
            target.writestr(f"archive/{name}", value)
    return changed.getvalue()


def over_one_body(names: list[str], body: bytes) -> bytes:
    """A zip archive whose entries all lie at its beginning."""
    head = struct.pack("<IHHHHHIIIHH", 0x04034B50, 20, 0, 0, 0, 0, 0, len(body), len(body), len(names[0]), 0)
    local = head + names[0].encode() + body
    directory = b"".join(
        struct.pack(
            "<IHHHHHHIIIHHHHHII", 0x02014B50, 20, 20, 0, 0, 0, 0, 0, len(body), len(body), len(name), 0, 0, 0, 0, 0, 0
        )
        + name.encode()
        for name in names
    )
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, len(names), len(names), len(directory), len(local), 0)
    return local + directory + end


@pytest.fixture
def unread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Contents of archives must not be read."""

    def read(self: zipfile.ZipFile) -> None:
        raise AssertionError("the archive is read")

    monkeypatch.setattr(zipfile.ZipFile, "testzip", read)
    monkeypatch.setattr(reader, "_unpickle", read)


@pytest.mark.usefixtures("unread")
@pytest.mark.parametrize(
    ("names", "part"),
    [
        (["a/data.pkl", *(f"a/data/{number}" for number in range(400))], "its entries overlap"),
        (["a/data.pkl"] * 400, "two entries have one name"),
        (["a/data.pkl", "a/DATA.pkl"], "two entries have one name"),
    ],
)
def test_entries_over_one_body_are_refused_unread(names: list[str], part: str, tmp_path: Path):
    """Each of 400 entries over 64 MB would be read: 25 GB for a file of 64 MB."""
    (tmp_path / "x.pth").write_bytes(over_one_body(names, bytes(1 << 16)))
    assert f"not one that torch.save writes ({part})" in refusal(tmp_path / "x.pth")


@pytest.mark.usefixtures("unread")
def test_an_archive_with_a_second_directory_is_refused(tmp_path: Path):
    """Readers differ in which of them they follow, so what was checked would not be what is loaded."""
    content = archive({"a": torch.zeros(2)})
    (tmp_path / "x.pth").write_bytes(content + content)
    assert "its directory is not where its end says" in refusal(tmp_path / "x.pth")
    (tmp_path / "x.pth").write_bytes(content[:-2] + b"\x03\0odd")
    assert "its directory is not where its end says" in refusal(tmp_path / "x.pth")


def nested(depth: int) -> bytes:
    """A pickle of a dictionary with one key: a tuple within a tuple and so on; Python's own hash of it crashes."""
    return b"\x80\x02}" + b")" + b"\x85" * depth + b"K\x01s."


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_is_nested_too_deeply(zipped: bool, tmp_path: Path):
    data = nested(1_000_000)
    (tmp_path / "x.pth").write_bytes(archive(data=data) if zipped else data)
    assert "nests its values 101 deep" in refusal(tmp_path / "x.pth")
    data = b"\x80\x02}" + b")" + b"\x85q\x00h\x00" * 200 + b"K\x01s."  # through the memo
    (tmp_path / "x.pth").write_bytes(archive(data=data) if zipped else data)
    assert "nests its values 101 deep" in refusal(tmp_path / "x.pth")


def test_a_pickle_that_is_too_long(tmp_path: Path):
    (tmp_path / "x.pth").write_bytes(archive(data=bytes(reader.PICKLE + 1)))
    assert "beside its tensors, such as weights held as NumPy arrays" in refusal(tmp_path / "x.pth")


@pytest.mark.slow
def test_options_in_lists_and_tables_are_no_deep_nesting(state: State, tmp_path: Path):
    options = {"lr": [0.1] * 50_000, "steps": [(i, (i, i)) for i in range(3000)], "deep": {"a": {"b": [[[[1]]]]}}}
    torch.save({"state_dict": state, "options": options}, tmp_path / "x.pth")
    assert checkpoint.load(tmp_path / "x.pth").variant == "fastvit_t8"


ODD_CONTENTS: dict[str, tuple[object, str]] = {
    "a long name": ({"x" * 10**6: torch.zeros(1)}, "holds no FastViT network"),
    "a name with escapes": ({"\x1b]0;x\x07\n": torch.zeros(1)}, "holds no FastViT network"),
    "half a letter": ({"\ud800": torch.zeros(1)}, "holds no FastViT network"),
    "names that are tuples": ({(1, (2,)): torch.zeros(1)}, "(its first entry is '<tuple>')"),
    "a name that is a tensor": ({torch.zeros(1): torch.zeros(1)}, "(its first entry is '<Tensor>')"),
    "no room": ({"head.weight": torch.zeros(1).expand(1 << 40, 384)}, "expanded or empty tensor"),
    "no room for one": ({"a": torch.zeros(1).expand(1 << 62)}, "expanded or empty tensor"),
}


@pytest.mark.parametrize("kind", ODD_CONTENTS)
def test_odd_names_and_shapes(kind: str, tmp_path: Path):
    content, part = ODD_CONTENTS[kind]
    torch.save(content, tmp_path / "x.pth")
    message = refusal(tmp_path / "x.pth")
    assert part in message
    assert message.isprintable()
    assert len(message) < 1500


def test_a_classifier_beyond_all_bounds(tmp_path: Path):
    torch.save({"head.weight": torch.zeros(1 << 21, 0)}, tmp_path / "x.pth")
    assert "holds no FastViT network (its first" in refusal(tmp_path / "x.pth")


@pytest.mark.parametrize("note", [{"tool": "1", "source": {"origin": "\n" * 5000}}, "x" * 10**6, [[[[]]]], 2**70])
def test_odd_notes(note: object, state: State, tmp_path: Path):
    torch.save({"state_dict": state, "fastvit_bench": note}, tmp_path / "x.pth")
    message = refusal(tmp_path / "x.pth")
    assert "note that this tool did not write" in message
    assert message.isprintable()


def test_a_name_of_code_with_escapes_is_shown_without_them(tmp_path: Path):
    (tmp_path / "x.pth").write_bytes(archive(data=b"\x80\x02cos\x1b]0;x\x07\nsystem\x1b[31m\n."))
    message = refusal(tmp_path / "x.pth")
    assert "holds objects that are not tensors" in message
    assert message.isprintable()


def test_a_file_that_cannot_be_read(state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    torch.save(state, tmp_path / "x.pth")

    def broken(path: Path) -> str:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(loading.files, "file_sha256", broken)
    assert "cannot be read" in refusal(tmp_path / "x.pth")


# --- hashes -----------------------------------------------------------------------------------------------------------


def test_the_hash_must_be_the_recorded_and_the_configured_one(state: State, tmp_path: Path):
    file = tmp_path / "x.pth"
    torch.save(state, file)
    digest = file_sha256(file)
    checkpoint.record_sha256(file, digest)
    assert (tmp_path / "x.pth.sha256").read_text() == f"{digest}  x.pth\n"
    assert checkpoint.load(file, sha256=digest.upper()).weights.sha256 == digest
    assert "the configuration says 0000" in refusal(file, ChecksumError, sha256="0" * 64)
    checkpoint.record_sha256(file, "1" * 64)
    assert "x.pth.sha256 says 1111" in refusal(file, ChecksumError)
    assert "x.pth.sha256 says 1111" in refusal(file, ChecksumError, sha256=digest)


@pytest.mark.parametrize(
    "record", ["", "hello", " " * 65537, "a" * 60_000, f"{'a' * 64}  y.pth\n", f"{'a' * 63}  x.pth", "\0\xff"]
)
def test_a_record_without_the_files_hash(record: str, state: State, tmp_path: Path):
    torch.save(state, tmp_path / "x.pth")
    (tmp_path / "x.pth.sha256").write_text(record, encoding="latin-1")
    with pytest.raises(CheckpointError, match=r"x\.pth\.sha256 (records no SHA-256 of x.pth|cannot be read)"):
        checkpoint.load(tmp_path / "x.pth")


def test_a_record_of_several_files(state: State, tmp_path: Path):
    torch.save(state, tmp_path / "x.pth")
    digest = file_sha256(tmp_path / "x.pth")
    (tmp_path / "x.pth.sha256").write_text(f"{'a' * 64}  y.pth\n{digest} *x.pth\n")
    assert checkpoint.load(tmp_path / "x.pth").weights.sha256 == digest


# --- damage -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def damaged(fused: FastViT, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes], State]:
    """Where to put a damaged file, the whole file in each container, and what is in it."""
    state = {k: t.half() if t.is_floating_point() else t for k, t in fused.state_dict().items()}
    new, old = io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": state}, new)
    torch.save({"state_dict": state}, old, _use_new_zipfile_serialization=False)
    whole = {"archive": new.getvalue(), "old": old.getvalue(), "safetensors": safetensors.torch.save(state)}
    return tmp_path_factory.mktemp("damaged") / "x.pth.tar", whole, state


def load_or_refuse(path: Path) -> FastViT | None:
    """The network of a file, or None if it is refused as it should be; any other exception fails the test."""
    try:
        return checkpoint.load(path).network
    except (CheckpointError, ChecksumError) as error:
        message = str(error)
    assert "\n" not in message
    return None


@settings(max_examples=40, deadline=None, derandomize=True, database=None)
@given(kind=st.sampled_from(["archive", "old", "safetensors"]), share=st.floats(0, 1, exclude_max=True))
def test_truncated_files_are_refused(kind: str, share: float, damaged):
    path, whole, _ = damaged
    path.write_bytes(whole[kind][: int(share * len(whole[kind]))])
    assert load_or_refuse(path) is None


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    place=st.one_of(st.floats(0, 1, exclude_max=True), st.integers(-16000, 16000)),
    flip=st.integers(1, 255),
)
def test_a_flipped_byte_in_an_archive_is_found_or_harmless(place: float, flip: int, damaged):
    """An archive has CRCs, so whatever still loads is what was written."""
    path, whole, state = damaged
    content = bytearray(whole["archive"])
    content[place if isinstance(place, int) else int(place * len(content))] ^= flip
    path.write_bytes(content)
    network = load_or_refuse(path)
    assert network is None or equal(network, state)


@pytest.mark.slow
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    kind=st.sampled_from(["old", "safetensors"]),
    places=st.lists(st.integers(0, 20000), min_size=1, max_size=5),
    flip=st.integers(1, 255),
)
def test_flipped_bytes_in_other_containers_raise_nothing_else(kind: str, places: list[int], flip: int, damaged):
    """These have no checksum of their own: a changed weight is only found against a recorded hash."""
    path, whole, state = damaged
    content = bytearray(whole[kind])
    for place in places:
        content[place] ^= flip
    path.write_bytes(content)
    network = load_or_refuse(path)
    if network is not None:
        assert network.state_dict().keys() == state.keys()
        with pytest.raises(ChecksumError):
            checkpoint.load(path, sha256="0" * 64)


SMALL_STATE = {"patch_embed.0.weight": torch.ones(2, 3), "head.bias": torch.ones(3, dtype=torch.float16)}


def small_files() -> dict[str, bytes]:
    """A small file of each container, with a note and options; no network's, but every reader goes through it."""
    note = {"tool": "1", "source": {"origin": "random", "seed": 3}}
    content = {"state_dict": SMALL_STATE, "fastvit_bench": note, "args": argparse.Namespace(lr=[0.1, (1, 2)])}
    buffers = io.BytesIO(), io.BytesIO()
    for buffer, zipped in zip(buffers, (True, False), strict=True):
        torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    tensors = safetensors.torch.save(SMALL_STATE, metadata={"fastvit_bench": json.dumps(note)})
    return {"archive": buffers[0].getvalue(), "old": buffers[1].getvalue(), "safetensors": tensors}


SMALL = small_files()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.one_of(*(mutated(content) for content in SMALL.values())))
def test_no_change_of_a_weight_file_is_more_than_refused(content: bytes, tmp_path: Path):
    (tmp_path / "x.pth").write_bytes(content)
    try:
        checkpoint.load(tmp_path / "x.pth")
    except FastViTBenchError as error:
        check_refusal(error)
    assert checkpoint.is_saved(content) in (True, False)  # whatever it is, nothing is raised


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(record=mutated(f"{'a' * 64}  y.pth\n{'b' * 64} *x.pth\n".encode()))
def test_no_change_of_a_record_is_more_than_refused(record: bytes, tmp_path: Path):
    (tmp_path / "x.pth.sha256").write_bytes(record)
    try:
        digest = checkpoint.recorded_sha256(tmp_path / "x.pth")
    except FastViTBenchError as error:
        check_refusal(error)
    else:
        assert digest is not None
        assert len(digest) == 64


# --- writing ----------------------------------------------------------------------------------------------------------


def test_only_a_fused_network_is_saved(network: FastViT, tmp_path: Path):
    with pytest.raises(UsageError, match="only a fused network"):
        checkpoint.save(network, tmp_path / "x.pth.tar", source=SOURCE)


@pytest.mark.parametrize("name", ["x.onnx", "x", "safetensors"])
def test_the_suffix_must_be_known(name: str, fused: FastViT, tmp_path: Path):
    with pytest.raises(UsageError, match="must end in"):
        checkpoint.save(fused, tmp_path / name, source=SOURCE)
    assert not list(tmp_path.iterdir())


def test_a_fetched_checkpoint_is_not_overwritten(fused: FastViT, tmp_path: Path):
    checkpoint.record_sha256(tmp_path / "x.pth.tar", "0" * 64)
    with pytest.raises(UsageError, match="choose another file name"):
        checkpoint.save(fused, tmp_path / "x.pth.tar", source=SOURCE)


def test_a_folder_in_the_place_of_a_file_is_kept(fused: FastViT, tmp_path: Path):
    (tmp_path / "x.pth.tar").mkdir()
    (tmp_path / "x.pth.tar" / "precious").touch()
    with pytest.raises(UsageError, match="it is a folder"):
        checkpoint.save(fused, tmp_path / "x.pth.tar", source=SOURCE)
    with pytest.raises(UsageError, match="it is a folder"):
        checkpoint.write_atomically(tmp_path / "x.pth.tar", b"")
    assert (tmp_path / "x.pth.tar" / "precious").exists()


def test_a_saved_file_is_known_by_its_content(fused: FastViT, state: State, tmp_path: Path):
    for name in ("x.pth.tar", "x.safetensors"):
        checkpoint.save(fused, tmp_path / name, source=SOURCE)
        assert checkpoint.is_saved((tmp_path / name).read_bytes())
    note = {"tool": "1", "source": {"origin": "random", "seed": 3}}
    users: list[object] = [
        state,
        {"state_dict": state},
        {"state_dict": state, "fastvit_bench": "a word"},
        {"state_dict": state, "comment": "Written by fastvit_bench"},
        {"state_dict": state, "fastvit_bench": note, "optimizer": [1]},  # trained further
        [1],
    ]
    for content in users:
        torch.save(content, tmp_path / "user.pth")
        assert not checkpoint.is_saved((tmp_path / "user.pth").read_bytes())
    assert not checkpoint.is_saved(safetensors.torch.save(state, metadata={"fastvit_bench": "a word"}))
    assert not checkpoint.is_saved(safetensors.torch.save(state, metadata={"by": "fastvit_bench"}))
    assert not checkpoint.is_saved(b"")


def test_a_value_beyond_float32_is_not_saved(network: FastViT, tmp_path: Path):
    fused = reparam.fuse(network)
    with torch.no_grad():
        fused.head.bias[1] = 1e300
    with pytest.raises(UsageError, match=r"head\.bias"):
        checkpoint.save(fused, tmp_path / "x.pth.tar", source=SOURCE)


def test_a_folder_that_cannot_be_written(fused: FastViT, tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="cannot be written"):
        checkpoint.save(fused, tmp_path / "file" / "x.pth.tar", source=SOURCE)


@pytest.mark.parametrize("suffix", [".pth.tar", ".safetensors"])
def test_a_full_disk_leaves_the_old_file(suffix: str, fused: FastViT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / f"x{suffix}"
    file.write_bytes(b"old")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="No space left"):
        checkpoint.save(fused, file, source=SOURCE)
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


# --- without a file ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_random_weights_follow_from_the_seed_alone():
    before = torch.get_rng_state()
    one, weights = checkpoint.randomised("fastvit_t8", Head.CLASSIFIER, 4, 9)
    two, _ = checkpoint.randomised("fastvit_t8", Head.CLASSIFIER, 4, 9)
    assert weights == Weights(origin="random", seed=9, draw=DRAW)
    assert weights.label == "random(seed 9)"
    assert torch.equal(torch.get_rng_state(), before)
    assert (one.classes, one.head_kind, one.form, one.training) == (4, Head.CLASSIFIER, Form.UNFUSED, False)
    assert equal(one, two.state_dict())
    assert all((buffer == 0).all() for name, buffer in one.named_buffers() if name.endswith("tracked"))


def test_random_weights_of_nothing():
    with pytest.raises(UsageError, match="did you mean fastvit_ma36"):
        checkpoint.randomised("fastvit_ma63", Head.CLASSIFIER, 1000, 0)
    with pytest.raises(UsageError, match="at least one class"):
        checkpoint.randomised("fastvit_t8", Head.CLASSIFIER, 0, 0)
