import csv

import msgspec
import pytest

from fastvit_bench import files, options
from fastvit_bench.errors import ConfigError
from fastvit_bench.network.registry import ENCODERS, VARIANTS
from fastvit_bench.paper import published
from fastvit_bench.records import Fuse, ModelFacts
from fastvit_bench.render import listing

# name: params M, FLOPs G, top-1, distilled, released top-1, distilled, iPhone ms, GPU ms; typed from the paper's
# tables 5 and 6 and from the README of the released code
PRINTED = {
    "FastViT-T8": (3.6, 0.7, 75.6, 76.7, 76.2, 77.2, 0.8, 1.7),
    "FastViT-T12": (6.8, 1.4, 79.1, 80.3, 79.3, 80.3, 1.2, 2.1),
    "FastViT-S12": (8.8, 1.8, 79.8, 80.9, 79.9, 81.1, 1.4, 2.2),
    "FastViT-SA12": (10.9, 1.9, 80.6, 81.9, 80.9, 81.9, 1.6, 2.5),
    "FastViT-SA24": (20.6, 3.8, 82.6, 83.4, 82.7, 83.4, 2.6, 3.8),
    "FastViT-SA36": (30.4, 5.6, 83.6, 84.2, 83.6, 84.2, 3.5, 5.2),
    "FastViT-MA36": (42.7, 7.9, 83.9, 84.6, 83.9, 84.6, 4.5, 6.7),
}
FIELDS = (
    "params_m",
    "flops_g",
    "top1",
    "top1_distilled",
    "released_top1",
    "released_top1_distilled",
    "iphone_ms",
    "gpu_ms",
)


@pytest.mark.parametrize("name", PRINTED)
def test_the_seven_models_carry_the_printed_figures(name: str) -> None:
    model = published.find(name)
    assert (model.name, model.size) == (name, 256)
    assert tuple(getattr(model, field).value for field in FIELDS) == PRINTED[name]
    assert all(getattr(model, field).status == "sourced" for field in FIELDS)


def test_every_variant_is_published_and_evaluated_by_timm() -> None:
    for variant in VARIANTS:
        model = published.find("FastViT-" + variant.removeprefix("fastvit_").upper())
        assert model.timm_top1 is not None
        assert model.timm_top1_distilled is not None
        assert model.released_top1 is not None
        assert abs(model.timm_top1.value - model.released_top1.value) < 0.15


def test_timm_counts_are_those_of_the_re_parameterised_network() -> None:
    model = published.find("FastViT-T8")
    assert model.timm_params_m is not None
    assert model.timm_params_m.value == 4.00  # 4.03 before re-parameterisation
    assert "fastvit_t8.apple_in1k at 256" in model.timm_params_m.source


def test_another_size_is_another_entry_without_the_first_one_s_figures() -> None:
    large = published.find("FastViT-SA36@384")
    assert (large.label, large.size) == ("FastViT-SA36@384", 384)
    assert large.iphone_ms is not None
    assert large.iphone_ms.value == 7.4
    assert large.released_top1 is None  # the README speaks of 256 pixels
    assert published.find("FastViT-SA36").label == published.find("FastViT-SA36@256").label == "FastViT-SA36@256"


def test_a_printed_dash_is_no_figure() -> None:
    assert published.find("Swin-T").gpu_ms is None
    assert published.find("CaiT S-24").iphone_ms is None


def test_peers_come_from_the_same_tables() -> None:
    mobileone = published.find("MobileOne-S0")
    assert mobileone.size == 224
    assert mobileone.top1 is not None
    assert mobileone.top1.value == 71.4


@pytest.mark.parametrize(("wrong", "near"), [("fastvit_t8", "FastViT-T8"), ("FastViT-MA63", "FastViT-MA36"), ("", "")])
def test_an_unknown_name_is_an_error_with_the_nearest_ones(wrong: str, near: str) -> None:
    with pytest.raises(ConfigError, match=rf"under the name '{wrong}'\. Nearest: .*{near}"):
        published.find(wrong)


def test_every_figure_says_where_it_stands() -> None:
    for model in published.models().values():
        for name in FIELDS:
            figure = getattr(model, name)
            assert figure is None or (figure.source and figure.unit)


def test_what_is_published_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        published.find("FastViT-T8").size = 224  # type: ignore[misc]
    with pytest.raises(TypeError):
        published.models()["FastViT-T8"] = published.find("FastViT-T12")  # type: ignore[index]
    assert msgspec.json.encode(published.find("FastViT-T8"))


def test_the_files_hold_the_columns_that_their_readme_describes() -> None:
    folder = files.find("published")
    readme = (folder / "README.md").read_text(encoding="utf-8")
    for file in ("paper_tables.csv", "timm_reference.csv"):
        assert f"`{file}`" in readme
    with (folder / "paper_tables.csv").open(encoding="utf-8", newline="") as text:
        rows = list(csv.DictReader(text))
    for column in rows[0]:
        assert f"`{column}`" in readme
    for status in {row["status"] for row in rows}:
        assert f"`{status}`" in readme
    for table in {row["table"] for row in rows}:
        assert f"`{table}`" in readme


# of the table of MobileCLIP's README: network, params M, ms of the image half, zero-shot top-1
PRINTED_ENCODERS = {
    "MobileCLIP-S0": ("fastvit_mci0", 11.4, 1.5, 67.8),
    "MobileCLIP2-S0": ("fastvit_mci0", 11.4, 1.5, 71.5),
    "MobileCLIP-S1": ("fastvit_mci1", 21.5, 2.5, 72.6),
    "MobileCLIP-S2": ("fastvit_mci2", 35.7, 3.6, 74.4),
    "MobileCLIP2-S2": ("fastvit_mci2", 35.7, 3.6, 77.2),
    "MobileCLIP-S3": ("fastvit_mci3", 125.1, 8.0, 78.3),
    "MobileCLIP2-S3": ("fastvit_mci3", 125.1, 8.0, 80.7),
    "MobileCLIP-S4": ("fastvit_mci4", 321.6, 19.6, 79.4),
    "MobileCLIP2-S4": ("fastvit_mci4", 321.6, 19.6, 81.9),
}


def test_the_six_encoders_carry_the_printed_figures() -> None:
    assert published.encoders().keys() == ENCODERS.keys()
    models = {model.name: (network, model) for network, known in published.encoders().items() for model in known}
    assert models.keys() - PRINTED_ENCODERS.keys() == {"FastVLM-0.5B", "FastVLM-1.5B", "FastVLM-7B"}
    for name, (network, *values) in PRINTED_ENCODERS.items():
        assert models[name][0] == network
        figures = [getattr(models[name][1], field) for field in ("params_m", "phone_ms", "zero_shot_top1")]
        assert [figure.value for figure in figures] == values
        assert all("apple/ml-mobileclip@" in figure.source for figure in figures)


def test_models_lists_variants_and_encoders_with_what_was_printed_of_them() -> None:
    settings = options.load(files.find("benchmark.toml"))
    specs = [*settings.models.values(), *settings.select(list(ENCODERS))]
    facts = [ModelFacts(spec=spec, params=dict.fromkeys(Fuse, 1_000_000), gmacs=1.0, checkpoints=()) for spec in specs]
    rows = {row["model"]: row for row in listing.models(facts).tables[0].records()}
    assert list(rows) == [*VARIANTS, *ENCODERS]
    assert (rows["fastvit_sa12"]["published_phone_ms"], rows["fastvit_sa12"]["published_top1"]) == (1.6, (80.9,))
    mci0 = rows["fastvit_mci0"]
    assert mci0["published_as"] == ("MobileCLIP-S0", "MobileCLIP2-S0")
    assert (mci0["published_params_m"], mci0["published_phone_ms"], mci0["published_top1"]) == (11.4, 1.5, (67.8, 71.5))
    assert (rows["fastvithd"]["published_params_m"], rows["fastvithd"]["published_top1"]) == (None, ())
