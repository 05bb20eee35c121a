"""Colours of models: the same for a name wherever it stands, and told apart by every reader."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvit_bench.render import colours
from fastvit_bench.render.charts import LIGHT, PAGE, line_looks

FASTVIT = [f"fastvit_{name}" for name in ("t8", "t12", "s12", "sa12", "sa24", "sa36", "ma36")]
PAPERS = {"light": "#ffffff", "dark": "#14171b"}
# Machado, Oliveira and Fernandes 2009, table 1, at full severity
SIGHTS = {
    "usual": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152286, 1.052583, -0.204868), (0.114503, 0.786281, 0.099216), (-0.003882, -0.048116, 1.051998)),
    "deuteranopia": ((0.367322, 0.860646, -0.227968), (0.280085, 0.672501, 0.047413), (-0.01182, 0.04294, 0.968881)),
    "tritanopia": ((1.255528, -0.076749, -0.178779), (-0.078411, 0.930809, 0.147602), (0.004733, 0.691367, 0.3039)),
}
LMS = (
    (0.4122214708, 0.5363325363, 0.0514459929),
    (0.2119034982, 0.6806995451, 0.1073969566),
    (0.0883024619, 0.2817188376, 0.6299787005),
)
LAB = (
    (0.2104542553, 0.7936177850, -0.0040720468),
    (1.9779984951, -2.4285922050, 0.4505937099),
    (0.0259040371, 0.7827717662, -0.8086757660),
)


def times(matrix: tuple[tuple[float, ...], ...], vector: list[float]) -> list[float]:
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def linear(colour: str) -> list[float]:
    shares = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return [share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares]


def seen(colour: str, sight: str) -> list[float]:
    """A colour in Oklab (Ottosson 2020), as a reader of that sight sees it."""
    inside = [min(1.0, max(0.0, share)) for share in times(SIGHTS[sight], linear(colour))]
    return times(LAB, [share ** (1 / 3) for share in times(LMS, inside)])


def contrast(one: str, other: str) -> float:
    """The contrast of WCAG 2.2."""
    high, low = sorted((0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in map(linear, (one, other))), reverse=True)
    return (high + 0.05) / (low + 0.05)


def shades(theme: str) -> list[str]:
    return [hue.light if theme == "light" else hue.dark for hue in colours.HUES]


@pytest.mark.parametrize("sight", SIGHTS)
@pytest.mark.parametrize("theme", PAPERS)
def test_the_variants_of_fastvit_are_told_apart(theme: str, sight: str) -> None:
    """Planted: the colours before differed by 0.018 for readers with deuteranopia."""
    fixed = [shades(theme)[colours.usual(name)] for name in FASTVIT]
    assert len(set(fixed)) == 7
    for one, other in itertools.combinations(fixed, 2):
        apart = sum((a - b) ** 2 for a, b in zip(seen(one, sight), seen(other, sight), strict=True)) ** 0.5
        assert apart > 0.09, (one, other)


@pytest.mark.parametrize("theme", PAPERS)
def test_every_colour_stands_out_from_its_paper(theme: str) -> None:
    assert len(set(shades(theme))) == 14
    assert min(contrast(shade, PAPERS[theme]) for shade in shades(theme)) >= 3


@pytest.mark.parametrize(
    "name", ["fastvit_sa12", "FastViT-SA12@256", "FastViT-SA12", "timm:fastvit_sa12.apple_in1k", "a/fastvit_sa12.onnx"]
)
def test_a_model_keeps_its_colour_however_it_is_written(name: str) -> None:
    assert colours.own_name(name) == "fastvit_sa12"
    assert LIGHT.models.of(name) == "#a56eff"


def test_another_model_is_none_of_fastvit_s() -> None:
    for name in ("fastvit_t80", "my_fastvit_t8", "fastvit", "x.onnx", ""):
        assert colours.of_fastvit(name) is None
        assert colours.usual(name) >= 7
    assert colours.own_name("models/x.onnx") == "x"


@given(st.sets(st.text(), max_size=7))
def test_seven_other_models_of_a_page_never_share_a_colour(names: set[str]) -> None:
    others = {colours.own_name(name) for name in names} - set(FASTVIT)
    places = colours.together([*names, *FASTVIT])
    assert len({places[name] for name in others}) == len(others)
    assert {name: places[name] for name in FASTVIT} == {name: at for at, name in enumerate(FASTVIT)}


@given(st.text())
def test_a_model_alone_has_its_usual_colour(name: str) -> None:
    assert colours.together([name, *FASTVIT])[colours.own_name(name)] == colours.usual(name)
    assert LIGHT.beside([name]).models.of(name) == LIGHT.models.of(name)


@given(st.lists(st.sampled_from([*FASTVIT, "a", "b", "c", "d", "e", "f", "g", "h"]), max_size=16))
def test_no_two_lines_look_alike(models: list[str]) -> None:
    looks = line_looks(models, LIGHT.beside(models))
    alike = [*zip(looks.colours, looks.shapes, map(tuple, looks.dashes), strict=True)]
    assert len(set(alike)) == len(models)
    of_model = dict(zip(models, looks.colours, strict=True))
    assert [of_model[model] for model in models] == looks.colours


def test_the_page_has_the_colours_of_both_themes() -> None:
    assert colours.css("light").startswith("--series-1: #009d9a; ")
    assert colours.css("dark").startswith("--series-1: #08bdba; ")
    assert colours.css("dark").count("--series-") == len(PAGE.models.series) == 14
