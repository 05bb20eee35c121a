"""The proof: a right file passes it, and every kind of wrong one is named."""

import copy
import dataclasses
import io
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from fastvit_bench.backends import Images, Session
from fastvit_bench.errors import UsageError
from fastvit_bench.exporting import verification
from fastvit_bench.network import factory, reparam
from fastvit_bench.network.fastvit import FastViT
from fastvit_bench.network.random_weights import randomise
from fastvit_bench.network.registry import VARIANTS
from fastvit_bench.records import MEAN, STD, Head, Parity, Shape, Window

SHAPE = Shape(batch=2, height=64, width=64)
SMALL = dataclasses.replace(VARIANTS["fastvit_t8"], blocks=(1, 1, 1, 1), channels=(16, 32, 64, 128))
Outputs = dict[str, NDArray[np.float32]]


@pytest.fixture(scope="module")
def reference() -> FastViT:
    network = FastViT(SMALL, classes=10).eval()
    randomise(network, seed=0)
    return network.double()


class Eager(Session):
    """A session that runs a network in float32 and then damages its outputs."""

    window = Window.COMPUTE

    def __init__(self, network: torch.nn.Module, damage: Callable[[Outputs], Outputs]) -> None:
        self.network, self.damage = network, damage

    def set_input(self, images: NDArray[np.float32]) -> None:
        self.batch = torch.from_numpy(images)

    def run(self) -> None:
        with torch.no_grad():
            self.outputs = self.network(self.batch)

    def wait(self) -> None:
        pass

    def get_output(self) -> Outputs:
        outputs = self.outputs if isinstance(self.outputs, tuple) else (self.outputs,)
        names = ["logits"] if len(outputs) == 1 else [f"feature{i}" for i in range(len(outputs))]
        return self.damage({name: value.numpy() for name, value in zip(names, outputs, strict=True)})


class Doubled(Eager):
    """The same in float64."""

    def set_input(self, images: NDArray[np.float32]) -> None:
        self.batch = torch.from_numpy(images).double()


def proven(reference: FastViT, session: Session, precision: str, **more: str) -> Parity:
    return verification.prove(
        verification.reference_outputs(factory.of(reference), SHAPE, session.images), session, precision, **more
    )


def proof(reference: FastViT, damage: Callable[[Outputs], Outputs] = lambda outputs: outputs) -> Parity:
    session = Eager(reparam.fold(reference).float(), damage)
    return proven(reference, session, "fp32")


def test_the_folded_network_passes(reference: FastViT) -> None:
    passed = proof(reference)
    assert passed.passed
    assert passed.top1_agreement == 1
    assert passed.images == 8  # four batches of 2
    assert 0 < passed.relative_error < 1e-5
    assert "unfused" in passed.reference


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda o: {"logits": o["logits"] * 1.01}, "largest error"),
        (lambda o: {"logits": o["logits"] + 1e-2}, "largest error"),
        (lambda o: {"logits": np.full_like(o["logits"], np.nan)}, "logits holds 20 NaN of 20 values"),
        (lambda o: {"logits": np.full_like(o["logits"], np.inf)}, "logits holds 20 infinite of 20 values"),
        (lambda o: {"logits": np.where(np.arange(10) < 1, np.nan, -np.inf) + o["logits"]}, "2 NaN and 18 infinite"),
        (lambda o: {"logits": np.zeros_like(o["logits"])}, "zero everywhere"),
        (lambda o: {"logits": o["logits"][:, :-1]}, "shape [2, 9] instead of [2, 10]"),
        (lambda o: {"output": o["logits"]}, "outputs are output"),
        (lambda o: {**o, "more": o["logits"]}, "outputs are logits, more"),
        (lambda o: {"logits": o["logits"][::-1].copy()}, "largest error"),
    ],
)
def test_planted_fault_fails(reference: FastViT, damage: Callable[[Outputs], Outputs], reason: str) -> None:
    failed = proof(reference, damage)
    assert not failed.passed
    assert reason in failed.reason


@pytest.mark.parametrize(
    ("size", "batch", "differ"), [(256, 8, 8), (512, 8, 2), (1024, 8, 1), (1024, 1, 1), (32, 2, 2)]
)
def test_large_batches_repeat_their_images(size: int, batch: int, differ: int) -> None:
    shape = Shape(batch=batch, height=size, width=size)
    found = verification.images(shape)[0]
    assert found.shape == shape.nchw
    assert verification.different(shape) == differ == len({image.tobytes() for image in found})


def test_images_that_repeat_are_all_compared(reference: FastViT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "_DIFFERENT", 64 * 64)
    whole = proof(reference)
    assert (whole.passed, whole.images) == (True, 4)

    def last(outputs: Outputs) -> Outputs:
        damaged = outputs["logits"].copy()
        damaged[-1] += 1
        return {"logits": damaged}

    assert not proof(reference, last).passed


def test_what_was_expected_is_kept(reference: FastViT, tmp_path: Path) -> None:
    known = verification.reference_outputs(factory.of(reference), SHAPE)
    with (tmp_path / "x.npz").open("wb") as file:
        verification.save(known, file)
    again = verification.load(tmp_path / "x.npz")
    assert again[:4] == known[:4]
    assert [list(each) for each in again.outputs] == [["logits"]] * 4
    for ours, theirs in zip(again.outputs, known.outputs, strict=True):
        np.testing.assert_allclose(ours["logits"], theirs["logits"], rtol=1e-6)


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:200], lambda content: b"PK" * 99])
def test_reference_outputs_that_are_damaged_are_one_sentence(
    damage: Callable[[bytes], bytes], reference: FastViT, tmp_path: Path
) -> None:
    path = tmp_path / "x.npz"
    with path.open("wb") as file:
        verification.save(verification.reference_outputs(factory.of(reference), SHAPE), file)
    path.write_bytes(damage(path.read_bytes()))
    for broken in (path, tmp_path / "absent.npz"):
        with pytest.raises(UsageError, match="does not hold reference outputs") as caught:
            verification.load(broken)
        assert "\n" not in str(caught.value)


# --- files of reference outputs that are a stranger's -----------------------------------------------------------------

ABOUT = ("tensor", "classifier", "a reference", "2", "64", "64")


def entries(**changes: Any) -> dict[str, NDArray[Any]]:
    """The arrays of a file for `SHAPE`; None takes one away."""
    usual: dict[str, Any] = {"about": np.array(ABOUT)}
    usual |= {f"logits/{index}": np.ones((2, 10), np.float32) for index in range(4)}
    return {name: value for name, value in {**usual, **changes}.items() if value is not None}


def header(shape: tuple[int, ...], kind: str = "<f4", more: str = "") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, {more}}}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text) + 1) + text + b"\n"


def odd_arrays() -> dict[str, Callable[[Path], object]]:
    """Ways to write something else than reference outputs to a path."""
    about = io.BytesIO()
    np.save(about, np.array(ABOUT))

    def zipped(content: bytes, how: int = zipfile.ZIP_STORED) -> Callable[[Path], object]:
        def write(path: Path) -> None:
            with zipfile.ZipFile(path, "w", how) as archive:
                archive.writestr("about.npy", about.getvalue())
                for index in range(4):
                    archive.writestr(f"logits/{index}.npy", content)

        return write

    def overlapping(path: Path) -> None:
        """Four entries that share one body."""
        zipped(header((2, 10)) + bytes(80))(path)
        archive = zipfile.ZipFile(path, "a")
        first = archive.filelist[1]
        for index in range(100):
            twin = copy.copy(first)
            twin.filename = twin.orig_filename = f"more/{index}"
            archive.filelist.append(twin)
        archive._didModify = True
        archive.close()

    def saved(**changes: Any) -> Callable[[Path], object]:
        return lambda path: np.savez(path.open("wb"), **entries(**changes))

    return {
        "an .npy": lambda path: np.save(path.open("wb"), np.zeros(4)),
        "compressed": zipped(header((2, 10)) + bytes(80), zipfile.ZIP_DEFLATED),
        "compressed oddly": zipped(header((2, 10)) + bytes(80), zipfile.ZIP_LZMA),
        "800 GB": zipped(header((200_000_000_000,))),
        "2^62": zipped(header((2**31, 2**31))),
        "a negative shape": zipped(header((-1, 10)) + bytes(80)),
        "a header of another kind": zipped(b"\x93NUMPY\x01\x00\x04\x00{[(\n" + bytes(80)),
        "a deep header": zipped(header((2, 10), more="'a': " + "(" * 900) + bytes(80)),
        "a long header": zipped(header((2, 10), more=" " * 60_000) + bytes(80)),
        "objects": saved(**{"logits/0": np.array([{}], object)}),
        "overlapping": overlapping,
        "not finite": saved(**{"logits/1": np.full((2, 10), np.nan, np.float32)}),
        "another batch": saved(**{"logits/1": np.ones((3, 10), np.float32)}),
        "another rank": saved(**{"logits/1": np.ones((2, 10, 1, 1), np.float32)}),
        "another type": saved(**{"logits/1": np.ones((2, 10))}),
        "a batch too many": saved(**{"logits/4": np.ones((2, 10), np.float32)}),
        "a batch too few": saved(**{"logits/3": None}),
        "an output too many": saved(**{"more/3": np.ones((2, 10), np.float32)}),
        "no outputs": saved(**{f"logits/{index}": None for index in range(4)}),
        "an odd index": saved(**{"logits/-1": np.ones((2, 10), np.float32), "logits/x": np.ones(1)}),
        "no size": saved(about=np.array(ABOUT[:4])),
        "a huge size": saved(about=np.array((*ABOUT[:3], "1", "1000000000", "32"))),
        "a long size": saved(about=np.array((*ABOUT[:3], "1", "9" * 5000, "32"))),
        "nothing about it": saved(about=None),
        "a pipe": os.mkfifo,
        "a device": lambda path: path.symlink_to("/dev/zero"),
        "a folder": Path.mkdir,
    }


@pytest.mark.parametrize("kind", odd_arrays())
def test_reference_outputs_of_a_stranger_are_one_sentence(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    odd_arrays()[kind](path)
    with pytest.raises(UsageError, match="does not hold reference outputs") as caught:
        verification.load(path)
    assert str(caught.value).isprintable()


def test_reference_outputs_are_known_for_this_tools(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, **entries())
    assert verification.load(path).shape == SHAPE
    assert verification.is_own(path)
    np.savez(path, mine=np.zeros(3))
    assert not verification.is_own(path)
    assert not verification.is_own(tmp_path / "absent")


@given(st.data())
def test_no_change_of_reference_outputs_is_more_than_a_sentence(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    file = io.BytesIO()
    np.savez(file, **entries())
    content = bytearray(file.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "changed.npz"
    path.write_bytes(content)
    try:
        said = verification.load(path).reference
    except UsageError as error:
        said = str(error)
    assert said.isprintable()


def test_metrics_of_a_known_error(reference: FastViT) -> None:
    """An output that is 1 % too large: every metric follows from that alone."""
    found = proof(reference, lambda o: {"logits": o["logits"] * 1.01})
    assert found.snr_db == pytest.approx(40, abs=0.01)  # errors are 1/100 of the signal
    assert found.cosine == pytest.approx(1)
    turned = proof(reference, lambda o: {"logits": -o["logits"]})
    assert turned.cosine == pytest.approx(-1)
    assert turned.snr_db == pytest.approx(-6.02, abs=0.01)
    assert turned.range_error is not None
    assert 0.5 < turned.range_error <= 2  # twice the largest magnitude, over a range of at most twice that


def test_metrics_where_there_is_no_error_or_nothing_to_compare(reference: FastViT) -> None:
    exact = proven(reference, Doubled(reference, lambda o: o), "fp32")
    assert (exact.snr_db, exact.range_error) == (verification.EXACT_DB, 0)
    silent = proof(reference, lambda o: {"logits": np.zeros_like(o["logits"])})
    assert (silent.cosine, silent.snr_db) == (0, 0)  # noise as large as the signal
    nothing = proof(reference, lambda o: {"logits": o["logits"] * np.nan})
    assert (nothing.cosine, nothing.snr_db, nothing.range_error) == (None, None, None)


def test_a_fault_in_a_single_weight_fails(reference: FastViT) -> None:
    network = reparam.fold(reference).float()
    with torch.no_grad():
        network.network[4][0].ffn.fc1.bias.zero_()
    assert not proven(reference, Eager(network, lambda o: o), "fp32").passed


def test_dense_maps_are_compared_each(reference: FastViT) -> None:
    dense = FastViT(SMALL, head=Head.DENSE).eval()
    randomise(dense, seed=0)
    dense = dense.double()
    network = reparam.fold(dense).float()
    assert proven(dense, Eager(network, lambda o: o), "fp32").passed
    wrong = proven(dense, Eager(network, lambda o: {**o, "feature2": o["feature2"] * 1.001}), "fp32")
    assert not wrong.passed
    assert wrong.top1_agreement is None


def test_every_output_is_judged_by_its_own_scale(reference: FastViT) -> None:
    """A large map next to a small one: the rounding of the one is no error of the other, and no excuse for it."""
    dense = FastViT(SMALL, head=Head.DENSE).eval()
    randomise(dense, seed=0)
    dense = dense.double()
    with torch.no_grad():
        dense.get_submodule("norm6").weight.mul_(1e5)
        dense.get_submodule("norm6").bias.mul_(1e5)
    network = reparam.fold(dense).float()
    assert proven(dense, Eager(network, lambda o: o), "fp32").passed
    wrong = proven(dense, Eager(network, lambda o: {**o, "feature0": o["feature0"] * 1.001}), "fp32")
    assert not wrong.passed


def test_images_are_fixed_and_fewer_when_larger() -> None:
    first, again = verification.images(SHAPE), verification.images(SHAPE)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], first[1])
    assert [len(verification.images(Shape(batch=1, height=r, width=r))) for r in (256, 512, 1024)] == [4, 1, 1]
    assert verification.images(Shape(batch=8, height=256, width=256))[0].shape == (8, 3, 256, 256)


def test_difference_is_exact_for_exact_algebra(reference: FastViT) -> None:
    shape = Shape(batch=1, height=64, width=64)
    assert verification.difference(reference, reference, shape) == 0
    assert verification.difference(reference, reparam.fold(reference), shape) < 1e-12


# --- 8-bit images, and half precision ---------------------------------------------------------------------------------


class Normalising(Eager):
    """A session that takes 8-bit pixels and normalises them itself, as a Core ML package does."""

    images = Images.PIXELS

    def set_input(self, images: NDArray[np.uint8]) -> None:
        assert images.dtype == np.uint8
        assert images.shape == (SHAPE.batch, SHAPE.height, SHAPE.width, 3)
        mean, std = torch.tensor(MEAN).reshape(1, 3, 1, 1), torch.tensor(STD).reshape(1, 3, 1, 1)
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float()
        self.batch = (pixels / 255 - self.shift - mean) / std

    shift = 0.0


def test_pixels_are_proved_with_their_normalisation(reference: FastViT) -> None:
    session = Normalising(reparam.fold(reference).float(), lambda outputs: outputs)
    proved = proven(reference, session, "fp32")
    assert proved.passed
    assert "8-bit RGB pixels" in proved.reference
    session.shift = 1 / 255
    assert not proven(reference, session, "fp32").passed


def test_half_precision_has_its_own_limits(reference: FastViT) -> None:
    def off(share: float) -> Parity:
        """With one logit of each image wrong by that share of the standard deviation."""

        def damage(outputs: Outputs) -> Outputs:
            logits = outputs["logits"].copy()
            logits[:, logits[0].argmin()] -= share * logits.std()
            return {"logits": logits}

        session = Eager(reparam.fold(reference).float(), damage)
        return proven(reference, session, "fp16")

    assert off(0.015).passed
    assert not off(0.03).passed
    assert off(0.03).judged == "max"
    assert (
        verification.limit("fp16", Head.CLASSIFIER, random=True).tolerance
        > verification.limit("fp16", Head.CLASSIFIER).tolerance
    )
    assert verification.limit("fp32", Head.CLASSIFIER, random=True) == verification.limit("fp32", Head.CLASSIFIER)


@pytest.mark.parametrize(("bits", "passes"), [(8, True), (4, False)])  # of bfloat16, and of 8-bit floating point
def test_bfloat16_is_told_from_coarser_arithmetic(bits: int, passes: bool, reference: FastViT) -> None:
    def rounded(values: torch.Tensor) -> torch.Tensor:
        mantissas, exponents = torch.frexp(values)
        return torch.ldexp(torch.round(mantissas * 2.0**bits) / 2.0**bits, exponents)

    network = reparam.fold(reference).float()
    with torch.no_grad():
        for values in network.parameters():
            values.copy_(rounded(values))
    for module in network.modules():
        if not list(module.children()):
            module.register_forward_hook(lambda module, inputs, output: rounded(output))
    proof = proven(reference, Eager(network, lambda outputs: outputs), "bf16", subject="hardware")
    assert proof.passed is passes, proof
    assert proof.tolerance == verification.limit("bf16", Head.CLASSIFIER, random=True).tolerance
    for head in set(Head) - {Head.CLASSIFIER, Head.EMBEDDING}:  # a rounding 8 times as large
        assert verification.limit("bf16", head).tolerance == 8 * verification.limit("fp16", head).tolerance


def test_another_top_1_passes_only_as_a_tie(reference: FastViT, monkeypatch: pytest.MonkeyPatch) -> None:
    """Swap the two best classes: with equal scores that is rounding, with different ones it is a wrong file."""
    monkeypatch.setitem(verification.LIMITS, ("fp16", Head.CLASSIFIER), verification.Limit("rms", 10.0))

    def swapped(outputs: Outputs) -> Outputs:
        logits = outputs["logits"].copy()
        for row in logits:
            best, second = row.argsort()[::-1][:2]
            row[best] = row[second] - 1e-6
        return {"logits": logits}

    session = Eager(reparam.fold(reference).float(), swapped)
    proved = proven(reference, session, "fp16")
    assert proved.top1_agreement == 0
    assert proved.passed  # each margin is the largest error itself

    def far(outputs: Outputs) -> Outputs:
        return {"logits": outputs["logits"][:, ::-1].copy()}

    wrong = proven(reference, Eager(reparam.fold(reference).float(), far), "fp16")
    assert wrong.top1_agreement is not None
    assert wrong.top1_agreement < 1


def test_lossy_files_are_told_from_broken_ones(reference: FastViT) -> None:
    noise = np.random.default_rng(0)

    def lossy(outputs: Outputs) -> Outputs:
        logits = outputs["logits"]
        return {"logits": logits + 0.1 * logits.std() * noise.standard_normal(logits.shape).astype(np.float32)}

    def broken(outputs: Outputs) -> Outputs:
        return {"logits": outputs["logits"][:, ::-1].copy()}

    for compress in verification.COMPRESSED:
        found = [
            proven(reference, Eager(reparam.fold(reference).float(), damage), "fp16", compress=compress)
            for damage in (lossy, broken)
        ]
        assert [proof.passed for proof in found] == [True, False]
        assert found[0].rms_error == pytest.approx(0.1, rel=0.5)
