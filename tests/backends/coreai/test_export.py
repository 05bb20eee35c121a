"""Assets made and run by Apple's own packages: planted faults, weights, equal bytes. Skipped without the extra."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import builders
import golden
import msgspec
import pytest
import torch
from torch import nn

from fastvit_bench import backends
from fastvit_bench.backends.coreai import convert, projection
from fastvit_bench.errors import ParityError, UsageError
from fastvit_bench.exporting import verification
from fastvit_bench.network import factory
from fastvit_bench.records import Device, ExportJob, Fuse, Head, Parity, Shape
from fastvit_bench.records.preparation import IMAGENET

BACKEND = backends.get("coreai")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BACKEND.unavailable_reason() is not None, reason="Apple's packages are not installed"),
]
SHAPE = Shape(batch=1, height=32, width=32)


def asked(precision: str, shape: Shape = SHAPE, **options: str) -> ExportJob:
    device = Device(name="x", backend="coreai", precision=precision, options=dict(options))
    filled = BACKEND.options(device)
    return builders.export_job(
        backend="coreai", precision=precision, shape=shape, device=device, options={"input": str(filled["input"])}
    )


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The golden T8 in float64, as its checkpoint holds it."""
    from fastvit_bench.exporting.checkpoints import load_network

    path = tmp_path_factory.mktemp("golden") / "t8.pth.tar"
    torch.save({"state_dict": golden.state("fastvit_t8", Head.CLASSIFIER)}, path)
    return factory.of(load_network(str(path), "fastvit_t8", Head.CLASSIFIER, None))


def folded(reference: Any, job: ExportJob) -> nn.Module:
    return factory.at_level("fastvit_t8", reference, Fuse.FOLDED, BACKEND.layout(job))


def proof(reference: Any, network: nn.Module, job: ExportJob, folder: Path) -> Parity:
    """The proof of a network's asset against the reference."""
    path = folder / "t8.aimodel"
    BACKEND.export(network, job, path, {})
    (look,) = BACKEND.verification_sessions(path, job)
    with look.session as session:
        known = verification.reference_outputs(reference, job.shape, session.images)
        return verification.prove(known, session, job.precision, how=look.how, subject=look.subject)


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)]


def flipped_weight(network: nn.Module) -> None:
    with torch.no_grad():
        convolutions(network)[6].weight[0, 0, 0, 0] *= -1


def swapped_channels(network: nn.Module) -> None:
    with torch.no_grad():
        first = convolutions(network)[0]
        first.weight.copy_(first.weight.flip(1))


def dropped_branch(network: nn.Module) -> None:
    with torch.no_grad():
        for parameter in convolutions(network)[8].parameters():
            parameter.zero_()


@pytest.mark.parametrize(
    ("plant", "precision"),
    [(flipped_weight, "fp32"), (swapped_channels, "fp32"), (swapped_channels, "fp16"), (dropped_branch, "fp16")],
)
def test_planted_faults_fail_the_proof(
    plant: Callable[[nn.Module], None], precision: str, reference: Any, tmp_path: Path
) -> None:
    job = asked(precision)
    network = folded(reference, job)
    plant(network)
    assert not proof(reference, network, job, tmp_path).passed


@pytest.mark.parametrize("convolutions", [True, False])
def test_a_projection_is_added_up_in_fp32(
    convolutions: bool, reference: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A matrix product is added up in FP16 instead, which the limits of Core ML's files notice."""
    if not convolutions:
        monkeypatch.setattr(projection, "replace_linear_layers", lambda network: None)
    job = asked("fp16", Shape(batch=1, height=64, width=64))
    found = proof(reference, folded(reference, job), job, tmp_path)
    assert found.tolerance == verification.LIMITS["fp16", Head.CLASSIFIER].tolerance
    assert found.passed is convolutions
    products = BACKEND.operations(tmp_path / "t8.aimodel").get("broadcasting_batch_matmul", 0)
    assert products == (0 if convolutions else 1)


@pytest.mark.parametrize("fault", [False, True])
def test_a_wrong_mean_fails_the_proof(
    fault: bool, reference: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if fault:
        wrong = msgspec.structs.replace(IMAGENET, mean=(0.485, 0.456, 0.416))
        monkeypatch.setattr(convert.registry, "preparation_of", lambda _: wrong)
    job = asked("fp32", input="image")
    found = proof(reference, folded(reference, job), job, tmp_path)
    assert "8-bit RGB pixels" in found.reference
    assert found.passed is not fault


class Small(nn.Module):
    """A network with a large and a small weight, and one output per image."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 300, 3)
        self.last = nn.Linear(300, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.conv(x).mean((2, 3)))


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_one_changed_weight_among_all_is_noticed(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change that no output shows."""
    network, write = Small().eval(), convert.write

    def tampered(given: nn.Module, job: ExportJob, path: Path) -> None:
        other = copy.deepcopy(given)
        with torch.no_grad():
            list(other.parameters())[1][7] += 1e-3
        write(other, job, path)

    BACKEND.export(network, asked(precision), tmp_path / "a.aimodel", {})
    monkeypatch.setattr(convert, "write", tampered)
    with pytest.raises(ParityError, match=r"changed the weights conv\.bias"):
        BACKEND.export(network, asked(precision), tmp_path / "b.aimodel", {})
    assert [path.name for path in tmp_path.iterdir()] == ["a.aimodel"]


def test_a_weight_beyond_fp16_ends_the_export(tmp_path: Path) -> None:
    network = Small().eval()
    with torch.no_grad():
        network.last.bias[0] = 1e6
    with pytest.raises(ParityError, match=r"last\.bias do not fit into FP16"):
        BACKEND.export(network, asked("fp16"), tmp_path / "a.aimodel", {})
    assert list(tmp_path.iterdir()) == []


def test_the_form_is_the_one_for_the_neural_engine(reference: Any, tmp_path: Path) -> None:
    """No tensor has more than five axes, and an FP16 program holds no number in FP32."""
    from coreai.authoring import AIModelAsset

    path, job = tmp_path / "t8.aimodel", asked("fp16")
    BACKEND.export(folded(reference, job), job, path, {})
    program = AIModelAsset.load(path).program
    kinds = {
        str(result.type)
        for operation in convert.operations(program._module._mlir_module.operation)
        for result in operation.results
    }
    assert kinds
    assert not [kind for kind in kinds if "f32" in kind]
    assert max(kind.count("x") for kind in kinds) <= 5


def test_a_precision_that_is_not_offered_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="not in int4"):
        BACKEND.export(Small(), asked("int4"), tmp_path / "a.aimodel", {})
