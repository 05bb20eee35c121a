"""Embeddings that a file divides by their L2 norm: exactly, safely in FP16, and never for another head."""

from pathlib import Path

import hypothesis
import msgspec
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from commands import call
from hypothesis import strategies
from strangers import Changed, Stranger

from fastvit_bench import backends
from fastvit_bench.accuracy import count
from fastvit_bench.auditing import own
from fastvit_bench.backends._onnx import session as onnx_session
from fastvit_bench.errors import ParityError, UsageError
from fastvit_bench.exporting import checkpoints, pipeline, verification
from fastvit_bench.network import factory, folded, random_weights
from fastvit_bench.network.fastvit import LEAST_NORM, FastViT, unit_length
from fastvit_bench.network.registry import ENCODERS, Variant
from fastvit_bench.records import Device, ExportJob, Fuse, Head, ModelSpec, Shape

ENCODER = ModelSpec(name="t8", variant="fastvit_t8", head=Head.EMBEDDING, classes=24, normalize=True)


def vectors(scale: float, width: int = 512, rows: int = 3, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, width, generator=draw, dtype=torch.float64)


# --- the form ---------------------------------------------------------------------------------------------------------


@hypothesis.given(
    exponent=strategies.integers(-8, 150), width=strategies.integers(1, 3072), seed=strategies.integers(0, 99)
)
def test_in_float64_it_is_what_torch_computes(exponent: int, width: int, seed: int) -> None:
    x = vectors(10.0**exponent, width, seed=seed)
    x[0] = 0
    hypothesis.assume(bool((x[1:].norm(dim=1) > LEAST_NORM**2).all()))
    np.testing.assert_allclose(unit_length(x), F.normalize(x, dim=1), rtol=1e-14, atol=0)


@pytest.mark.parametrize("scale", [0, 1e-300, 1e-12, 1e-9, 4e-9])
def test_below_the_least_norm_it_is_torchs_with_that_one(scale: float) -> None:
    x = vectors(1, 64)
    x = scale * x / x.norm(dim=1, keepdim=True)
    np.testing.assert_allclose(unit_length(x), F.normalize(x, dim=1, eps=LEAST_NORM**2), rtol=1e-13, atol=0)


@pytest.mark.parametrize("scale", [1e4, 300.0, 1.0, 1e-5, 1e-6])
def test_in_float16_no_square_overflows_or_vanishes(scale: float) -> None:
    x = vectors(scale).half()
    exact = F.normalize(x.double(), dim=1)
    assert float((unit_length(x).double() - exact).abs().max() / exact.std()) < 1e-2
    plain = x / (x * x).sum(1, keepdim=True, dtype=torch.float16).sqrt().clamp(min=1e-12)
    assert scale == 1.0 or not torch.allclose(plain.double(), exact, atol=1e-2)  # so the test can fail


def test_in_float16_a_vector_of_zeros_stays_one() -> None:
    assert unit_length(torch.zeros(2, 512).half()).eq(0).all()
    assert not F.normalize(torch.zeros(2, 512).half(), dim=1, eps=1e-12).isfinite().all()


def test_every_cosine_stays() -> None:
    embeddings = vectors(7.0, 24, rows=20).numpy()
    unit = unit_length(torch.from_numpy(embeddings)).numpy()
    np.testing.assert_allclose(count.cosines(embeddings, unit), 1, atol=1e-12)


# --- files ------------------------------------------------------------------------------------------------------------


def job(folder: Path, spec: ModelSpec = ENCODER, device: Device | None = None, fuse: Fuse = Fuse.FOLDED) -> ExportJob:
    shape = Shape(batch=1, height=64, width=64)
    device = device or Device(name="cpu", backend="onnxruntime")
    return pipeline.job(spec, checkpoints.weights_of(spec, 0), shape, fuse, device, folder=folder)


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_a_file_gives_embeddings_of_length_one_and_says_so(tmp_path: Path) -> None:
    asked = job(tmp_path)
    artifact = pipeline.export(asked)
    assert artifact.normalize
    path = Path(asked.path)
    assert backends.get("onnxruntime").metadata(path)["fastvit_bench.normalize"] == "L2"
    plain = factory.random("fastvit_t8", Head.EMBEDDING, 24, 0, asked.shape).network
    image = torch.from_numpy(verification.images(asked.shape)[0])
    with torch.no_grad(), onnx_session.as_typed(path, 1) as session:
        session.set_input(image.numpy())
        session.run()
        (embedding,) = session.get_output().values()
        np.testing.assert_allclose(embedding, F.normalize(plain(image.double()), dim=1), atol=1e-6)
    (proof,) = pipeline.verify(path, None, tmp_path).values()
    assert proof.passed
    assert asked.key != job(tmp_path, msgspec.structs.replace(ENCODER, normalize=False)).key


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_a_file_that_is_not_normalised_fails_its_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unchanged(x: torch.Tensor, variant: Variant) -> torch.Tensor:
        return x

    monkeypatch.setattr(folded, "embedded", unchanged)
    with pytest.raises(ParityError, match="does not compute what the network computes"):
        pipeline.export(job(tmp_path))


TARGETS = [
    ("onnxruntime", "fp16"),
    ("openvino", "fp32"),
    ("coreml", "fp16"),
    ("coreai", "fp16"),
    ("tensorrt", "fp16"),
    ("tensorrt-rtx", "fp16"),
    ("pytorch", "fp16"),
]


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize(("backend", "precision"), TARGETS)
@pytest.mark.parametrize("fuse", [Fuse.FOLDED, Fuse.FUSED])
def test_every_target_normalises(backend: str, precision: str, fuse: Fuse, tmp_path: Path) -> None:
    if lacking := backends.get(backend).unavailable_reason():
        pytest.skip(lacking)
    asked = job(tmp_path, device=Device(name="x", backend=backend, precision=precision), fuse=fuse)
    artifact = pipeline.export(asked)
    assert artifact.parity is not None
    assert artifact.parity.passed
    assert backends.get(backend).metadata(Path(asked.path))["fastvit_bench.normalize"] == "L2"


# --- other heads ------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("shallow")
@pytest.mark.parametrize("head", [Head.CLASSIFIER, Head.TOKENS, Head.STAGES])
def test_only_an_embedding_is_normalised(head: Head, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"this network's head is '{head}'; leave --normalize out"):
        pipeline.export(job(tmp_path, msgspec.structs.replace(ENCODER, head=head)))
    assert not list(tmp_path.rglob("*.onnx*"))


def test_a_network_without_embeddings_is_refused_by_the_command(tmp_path: Path) -> None:
    done = call("export", "-t", "onnx", "-m", "cmt_ti", "--normalize", expect=2, cwd=tmp_path)
    said = "error: cmt_ti has no embedding that --normalize could divide by its L2 norm; leave it out."
    assert done.stderr.splitlines()[-1] == said


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_exports_and_verify_says_so(tmp_path: Path) -> None:
    words = ("export", "-t", "onnx", "-m", "fastvit_t8", "--res", "64", "--normalize", "-o", "t8.onnx")
    done = call(*words, "--head", "embedding", cwd=tmp_path)
    assert "the embedding is divided by its L2 norm" in done.stderr
    assert "t8.onnx: the embedding is divided by its L2 norm\n" in call("verify", "t8.onnx", cwd=tmp_path).stdout
    done = call(*words, expect=2, cwd=tmp_path)
    assert "this network's head is 'classifier'; leave --normalize out" in done.stderr.splitlines()[-1]


# --- files of others --------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("narrow")
def test_an_audit_names_the_norm_and_exports_the_same_beside(tmp_path: Path) -> None:
    network = FastViT(ENCODERS["fastvit_mci0"], head=Head.EMBEDDING, classes=512).eval()
    random_weights.draw(network, 3)
    network = network.float()
    torch.save(
        {f"image_encoder.model.{name}": value for name, value in network.state_dict().items()}, tmp_path / "a.pt"
    )
    spec = ModelSpec(name="mci0", variant="fastvit_mci0", checkpoint=str(tmp_path / "a.pt"))
    theirs = Stranger(spec, network, network, tmp_path)
    path = theirs.onnx(Changed(network, after=lambda y: F.normalize(y, dim=-1)), (1, 3, 64, 64))
    audit = theirs.audit(path)
    assert audit.passed
    assert audit.outputs[0].value == "embedding, divided by its norm"
    from fastvit_bench.auditing import audit as auditing

    item = auditing.subject(path, theirs.reference, spec.variant, theirs.weights, None, 64)
    beside = own.beside(audit, spec, item, tmp_path / "models")
    assert backends.get("onnxruntime").metadata(Path(beside.own_path))["fastvit_bench.normalize"] == "L2"
