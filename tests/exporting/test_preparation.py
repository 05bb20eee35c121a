"""How images are prepared for a model: whose word counts, and what is wrong with the others'."""

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import builders
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvit_bench.errors import ConfigError
from fastvit_bench.exporting import preparation
from fastvit_bench.network import registry
from fastvit_bench.records import Preparation
from fastvit_bench.records.preparation import CLIP, FASTVLM, IMAGENET, UNNORMALISED

TIMM = {
    "architecture": "fastvit_t8",
    "num_classes": 10,
    "pretrained_cfg": {
        "tag": "mine",
        "input_size": [3, 256, 256],
        "interpolation": "bilinear",
        "crop_pct": 0.875,
        "crop_mode": "center",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
    },
}
OPEN_CLIP = {
    "model_cfg": {"embed_dim": 512, "vision_cfg": {"timm_model_name": "fastvit_mci0", "timm_pool": "avg"}},
    "preprocess_cfg": {"mean": [0, 0, 0], "std": [1, 1, 1], "interpolation": "bicubic", "resize_mode": "shortest"},
}
TRANSFORMERS = {
    "do_center_crop": True,
    "crop_size": {"height": 336, "width": 336},
    "size": {"shortest_edge": 384},
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.2, 0.2],
    "resample": 2,
    "rescale_factor": 0.00392156862745098,
}


def resolved(folder: Path, variant: str = "fastvit_t8", **declared: Any) -> preparation.ResolvedPreparation:
    """The preparation of a model whose weights lie in a folder."""
    spec = builders.spec(name="mine", variant=variant, checkpoint=str(folder / "model.safetensors"), **declared)
    return preparation.resolve(spec)


def write(folder: Path, document: Any, name: str = "config.json") -> Path:
    path = folder / name
    path.write_text(document if isinstance(document, str) else json.dumps(document), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("variant", "own"),
    [
        ("fastvit_t8", IMAGENET),
        ("fastvit_ma36", msgspec.structs.replace(IMAGENET, crop=0.95)),
        ("fastvit_mci0", UNNORMALISED),
        ("fastvit_mci2", UNNORMALISED),
        ("fastvit_mci3", CLIP),
        ("fastvit_mci4", CLIP),
        ("fastvithd", FASTVLM),
    ],
)
def test_each_network_has_a_preparation_of_its_own(variant: str, own: Preparation, tmp_path: Path) -> None:
    found = resolved(tmp_path, variant)
    assert found.preparation == registry.find(variant).preparation == own
    assert found.departures == {}


def test_a_key_of_the_model_wins_over_a_file_and_that_over_the_network(tmp_path: Path) -> None:
    path = write(tmp_path, TIMM)
    found = resolved(tmp_path, std=(0.1, 0.2, 0.3), interpolation="lanczos")
    assert found.preparation == Preparation(
        mean=(0.5, 0.5, 0.5), std=(0.1, 0.2, 0.3), interpolation="lanczos", crop=0.875
    )
    assert found.sources == {
        **dict.fromkeys(("mean", "crop", "resize"), str(path)),
        **dict.fromkeys(("std", "interpolation"), "[model.mine]"),
    }


def test_what_a_file_leaves_out_is_the_networks_own(tmp_path: Path) -> None:
    path = write(tmp_path, {"architecture": "fastvit_mci3.mine", "crop_pct": 0.5})  # without a table, as older ones
    found = resolved(tmp_path, "fastvit_mci3")
    assert found.preparation == msgspec.structs.replace(CLIP, crop=0.5)
    assert found.departures == {"crop": str(path)}


def test_open_clips_and_transformers_files_are_read_too(tmp_path: Path) -> None:
    write(tmp_path, {"architectures": ["LlavaQwen2ForCausalLM"], "image_aspect_ratio": "pad"})  # another library's
    write(tmp_path, TRANSFORMERS, "preprocessor_config.json")
    found = resolved(tmp_path, "fastvithd").preparation
    assert found == Preparation(
        mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.2), resize="pad", interpolation="bilinear", crop=336 / 384
    )
    path = write(tmp_path, OPEN_CLIP, "open_clip_config.json")
    beside = resolved(tmp_path, "fastvit_mci0")
    assert beside.preparation == msgspec.structs.replace(UNNORMALISED, interpolation="bicubic")
    assert set(beside.departures.values()) == {str(path)}


def test_an_image_that_is_not_normalised_in_transformers_words(tmp_path: Path) -> None:
    write(tmp_path, {**TRANSFORMERS, "do_normalize": False, "size": {"height": 9, "width": 9}, "crop_size": 9}, NAME)
    found = resolved(tmp_path).preparation
    assert (found.mean, found.std, found.resize, found.crop) == ((0, 0, 0), (1, 1, 1), "squash", 1)


NAME = "preprocessor_config.json"


def test_a_file_of_another_network_is_left_aside_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, TIMM)
    found = resolved(tmp_path, "fastvit_t12")
    assert found.preparation == IMAGENET
    assert found.aside == f"{path} is about fastvit_t8, not fastvit_t12, and was not used"


def test_fastvlms_encoder_is_timms_fastvit_mci3(tmp_path: Path) -> None:
    write(tmp_path, {**TIMM, "architecture": "fastvit_mci3.fastvlm"})
    assert resolved(tmp_path, "fastvithd").preparation.crop == 0.875


def test_a_file_lies_beside_an_index_or_in_the_folder_of_the_parts(tmp_path: Path) -> None:
    write(tmp_path, TIMM)
    spec = builders.spec(variant="fastvit_t8", checkpoint=str(tmp_path))
    assert preparation.resolve(spec).preparation.crop == 0.875


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"mean": [123.675, 116.28, 103.53]}, "mean = 123.675 116.28 103.53 is not within 0..1, .*; divide by 255"),
        ({"std": [0, 1, 1]}, "std = 0 1 1 is not within"),
        ({"mean": [0.5, 0.5]}, "mean is "),
        ({"mean": "imagenet"}, "mean is "),
        ({"crop_pct": 1.5}, "crop = 1.5 is not a share"),
        ({"crop_mode": "border"}, "crop_mode is border, and center or squash can be done here"),
        ({"interpolation": "random"}, "interpolation is random"),
    ],
)
def test_values_that_cannot_be_meant_are_named_with_their_file(
    change: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = write(tmp_path, {**TIMM, "pretrained_cfg": {**TIMM["pretrained_cfg"], **change}})  # type: ignore
    with pytest.raises(ConfigError, match=words) as refused:
        resolved(tmp_path)
    assert str(refused.value).startswith(f"{path} does not say how images are prepared")


@pytest.mark.parametrize("text", ["{", "[" * 5000, '{"architecture": "fastvit_t8", "mean": 1e999}'])
def test_a_damaged_file_is_refused_in_a_sentence(text: str, tmp_path: Path) -> None:
    write(tmp_path, text)
    with pytest.raises(ConfigError, match=r"config\.json"):
        resolved(tmp_path)


def test_pixels_that_are_not_divided_by_255_are_refused(tmp_path: Path) -> None:
    write(tmp_path, {**TRANSFORMERS, "rescale_factor": 1 / 127.5}, NAME)
    with pytest.raises(ConfigError, match="rescale_factor"):
        resolved(tmp_path)


WORDS = [
    *("architecture", "pretrained_cfg", "mean", "std", "interpolation", "crop_pct", "crop_mode"),
    *("model_cfg", "vision_cfg", "timm_model_name", "preprocess_cfg", "resize_mode"),
    *("image_mean", "image_std", "size", "crop_size", "resample", "rescale_factor", "shortest_edge", "height"),
]
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 300) | st.floats() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(WORDS),
            inner,
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize("name", preparation.READERS)
@given(document=DOCUMENTS)
def test_any_document_gives_a_preparation_or_a_sentence(
    name: str, document: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("beside")
    (folder / name).write_bytes(msgspec.json.encode(document))
    with suppress(ConfigError):
        found = resolved(folder)
        assert msgspec.convert(msgspec.to_builtins(found.preparation), Preparation) == found.preparation
