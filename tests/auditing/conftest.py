"""A stranger with the weights of a small FastViT-T8."""

from collections.abc import Generator
from types import ModuleType

import pytest
import torch
from conftest import made_shallow
from strangers import Stranger, timms

from fastvit_bench.records import ModelSpec


@pytest.fixture(scope="module")
def stranger(timm: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stranger]:
    from timm.utils.model import reparameterize_model

    folder = tmp_path_factory.mktemp("stranger")
    with made_shallow():
        network, theirs = timms(timm, seed=0)
        torch.save(network.state_dict(), folder / "t8.pth")
        spec = ModelSpec(name="fastvit_t8", variant="fastvit_t8", checkpoint=str(folder / "t8.pth"))
        yield Stranger(spec, theirs, reparameterize_model(theirs), folder)
