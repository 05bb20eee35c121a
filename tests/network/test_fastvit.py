"""The networks: published names and sizes, golden outputs, and timm's networks as a second opinion."""

import gzip
import json
from pathlib import Path

import golden
import pytest
import torch

from fastvit_bench.network import checkpoint
from fastvit_bench.network.fastvit import VARIANTS, FastViT, Form
from fastvit_bench.records import Head

PUBLISHED: dict[str, dict[str, dict[str, list[int]]]] = json.loads(
    gzip.decompress((Path(__file__).parents[1] / "data" / "published_keys.json.gz").read_bytes())
)
# of the fused classifier with 1000 classes, in millions, as the released code has them
PARAMETERS = {
    "fastvit_t8": 4.00,
    "fastvit_t12": 7.51,
    "fastvit_s12": 9.43,
    "fastvit_sa12": 11.55,
    "fastvit_sa24": 21.50,
    "fastvit_sa36": 31.46,
    "fastvit_ma36": 43.98,
}


def test_the_published_lists_cover_every_variant_in_both_forms():
    assert {name for name in PUBLISHED if not name.endswith("_dense")} == set(VARIANTS)
    assert all(set(forms) == {"unfused", "fused"} for name, forms in PUBLISHED.items() if not name.endswith("_dense"))
    assert sum(name.endswith("_dense") for name in PUBLISHED) == 3


@pytest.mark.parametrize(("name", "form"), [(name, form) for name, forms in PUBLISHED.items() for form in forms])
def test_names_and_shapes_are_the_published_ones(name: str, form: str):
    head = Head.DENSE if name.endswith("_dense") else Head.CLASSIFIER
    with torch.device("meta"):
        network = FastViT(VARIANTS[name.removesuffix("_dense")], head=head, form=Form(form))
    ours = {key: list(tensor.shape) for key, tensor in network.state_dict().items()}
    assert ours == PUBLISHED[name][form]


@pytest.mark.parametrize("variant", VARIANTS)
def test_fused_parameters_are_as_many_as_published(variant: str):
    with torch.device("meta"):
        network = FastViT(VARIANTS[variant], form=Form.FUSED)
    assert f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f}" == f"{PARAMETERS[variant]:.2f}"


@torch.no_grad()
@pytest.mark.parametrize("variant", ["fastvit_t8", "fastvit_sa12"])
def test_golden_logits(variant: str):
    network = FastViT(VARIANTS[variant])
    network.load_state_dict(golden.state(variant, Head.CLASSIFIER), strict=True)
    logits = network.double().eval()(golden.image((2, 3, 256, 256)).double())
    wanted = torch.from_numpy(golden.output(variant)["logits"])
    assert wanted.dtype == torch.float64
    assert (logits - wanted).abs().max() < 1e-9


@torch.no_grad()
def test_golden_feature_maps():
    network = FastViT(VARIANTS["fastvit_t8"], head=Head.DENSE)
    network.load_state_dict(golden.state("fastvit_t8", Head.DENSE), strict=True)
    maps = network.double().eval()(golden.image((1, 3, 512, 512)).double())
    wanted = golden.output("fastvit_t8_dense")
    assert len(wanted) == len(maps) == 4
    for index, features in enumerate(maps):
        published = torch.from_numpy(wanted[f"feature{index}"])  # rounded to float32
        assert torch.allclose(features[0, :, ::8, ::8].float(), published, rtol=1e-6, atol=1e-7)


@torch.no_grad()
@pytest.mark.parametrize("variant", ["fastvit_t8", "fastvit_sa12"])
def test_dense_maps_have_the_published_strides(variant: str):
    """With attention the last map is that of the positional encoding, which the published weights were trained with."""
    network, _ = checkpoint.randomised(variant, Head.DENSE, 1000, 0)
    maps = network(torch.zeros(1, 3, 64, 96))
    wanted = [(1, c, 64 // s, 96 // s) for c, s in zip(VARIANTS[variant].channels, (4, 8, 16, 32), strict=True)]
    assert [tuple(features.shape) for features in maps] == wanted


def shake(network: torch.nn.Module, seed: int) -> None:
    """Spread statistics and layer scales of timm's freshly initialised network, so that every branch of it counts."""
    draw = torch.Generator().manual_seed(seed)
    for key, tensor in network.state_dict().items():
        leaf = key.rpartition(".")[2]
        if leaf == "gamma":
            tensor.copy_(torch.rand(tensor.shape, generator=draw) * 0.08 + 0.02)
        elif leaf == "running_var" or (leaf == "weight" and tensor.ndim == 1):
            tensor.copy_(torch.rand(tensor.shape, generator=draw) + 0.5)
        elif tensor.ndim == 1:
            tensor.copy_(torch.randn(tensor.shape, generator=draw) * 0.1)
        elif tensor.ndim > 1:
            tensor.copy_(torch.randn(tensor.shape, generator=draw) / tensor[0].numel() ** 0.5)


@torch.no_grad()
@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_timm_computes_the_same(variant: str, timm, difference, tmp_path: Path):
    """The networks in timm were written independently: its weights, in either form, give its logits here."""
    from safetensors.torch import save_file
    from timm.utils.model import reparameterize_model

    theirs = timm.create_model(variant, num_classes=10).eval()
    shake(theirs, 3)
    image = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    for form, network in ((Form.UNFUSED, theirs), (Form.FUSED, reparameterize_model(theirs))):
        file = tmp_path / "model.safetensors"
        save_file(network.state_dict(), file)
        found = checkpoint.load(file)
        file.unlink()
        assert (found.variant, found.form, found.layout) == (variant, form, checkpoint.NamingScheme.TIMM)
        assert (found.head, found.classes) == (Head.CLASSIFIER, 10)
        assert difference(found.network.double()(image), network.double()(image)) < 1e-9
        network.float()
