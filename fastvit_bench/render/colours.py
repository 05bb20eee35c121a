"""The colour of a model, by its name alone: the same on every page, in both themes, and in every picture.

The colours are the categorical palette of IBM's Carbon Design System, which has a shade for each theme
(https://carbondesignsystem.com/data-visualization/color-palettes). FastViT's seven variants have those seven of its
fourteen that differ most for readers with protanopia, deuteranopia and tritanopia. Other models share the rest.
"""

import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Hue:
    """One colour of the palette: its shade on white, and the one on a dark page."""

    light: str
    dark: str


_FASTVIT = {
    "t8": Hue("#009d9a", "#08bdba"),  # teal
    "t12": Hue("#005d5d", "#007d79"),  # dark teal
    "s12": Hue("#b28600", "#d2a106"),  # yellow
    "sa12": Hue("#a56eff", "#d4bbff"),  # light purple
    "sa24": Hue("#6929c4", "#8a3ffc"),  # purple
    "sa36": Hue("#8a3800", "#ba4e00"),  # orange
    "ma36": Hue("#520408", "#fff1f1"),  # the palette's extreme red: nearly black, and nearly white
}
_OTHERS = (
    Hue("#1192e8", "#33b1ff"),  # cyan
    Hue("#9f1853", "#ff7eb6"),  # magenta
    Hue("#198038", "#6fdc8c"),  # green
    Hue("#002d9c", "#4589ff"),  # blue
    Hue("#fa4d56", "#fa4d56"),  # red
    Hue("#012749", "#bae6ff"),  # dark cyan
    Hue("#ee5396", "#d02670"),  # light magenta
)
HUES = (*_FASTVIT.values(), *_OTHERS)

_VARIANT = re.compile(rf"fastvit[-_]?({'|'.join(_FASTVIT)})(?![a-z0-9])")
_SIZE = re.compile(r"@\d+$")


def own_name(model: str) -> str:
    """Return a model's name without the folder, ending, origin and image size that it may be written with."""
    plain = _SIZE.sub("", model.strip().lower().removeprefix("timm:")).replace("\\", "/").rpartition("/")[2]
    variant = _VARIANT.match(plain)
    return f"fastvit_{variant[1]}" if variant else plain.removesuffix(".onnx")


def of_fastvit(model: str) -> int | None:
    """Return the place in `HUES` that a variant of FastViT has for good; None for another model."""
    return _fixed(own_name(model))


def usual(model: str) -> int:
    """Return the place in `HUES` that a model has wherever no other model claims it."""
    return _wanted(own_name(model))


def _fixed(name: str) -> int | None:
    variant = _VARIANT.fullmatch(name)
    return list(_FASTVIT).index(variant[1]) if variant else None


def _wanted(name: str) -> int:
    fixed = _fixed(name)
    return len(_FASTVIT) + zlib.crc32(name.encode(errors="replace")) % len(_OTHERS) if fixed is None else fixed


def together(models: Iterable[str]) -> dict[str, int]:
    """Return the places of models that one page shows, by their own names.

    Of two that claim one place, the later by its name takes the next free one, while there is any.
    """
    names = sorted({own_name(model) for model in models})
    places = {name: fixed for name in names if (fixed := _fixed(name)) is not None}
    taken: set[int] = set()
    for name in (name for name in names if name not in places):
        wanted = _wanted(name) - len(_FASTVIT)
        nexts = [(wanted + step) % len(_OTHERS) for step in range(len(_OTHERS))]
        place = next((place for place in nexts if place not in taken), wanted)
        taken.add(place)
        places[name] = len(_FASTVIT) + place
    return places


@dataclass(frozen=True)
class ModelColours:
    """Colours of models in one theme; those of a page are known beforehand, so that they differ."""

    series: tuple[str, ...]  # of every place in `HUES`
    places: Mapping[str, int] = field(default_factory=dict[str, int])

    def of(self, model: str) -> str:
        """Return the colour of a model."""
        return self.series[self.place(model)]

    def place(self, model: str) -> int:
        """Return the place of a model in `HUES`."""
        return self.places.get(own_name(model), usual(model))


def css(theme: str) -> str:
    """Return the colours of a theme, light or dark, as CSS variables."""
    shades = (hue.light if theme == "light" else hue.dark for hue in HUES)
    return " ".join(f"--series-{number}: {shade};" for number, shade in enumerate(shades, 1))
