"""Charts, described once in Vega-Lite: a page draws the description itself, SVG and PNG files are made from it."""

import math
import re
import struct
import textwrap
import zlib
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from fastvit_bench import files, install
from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.render import colours
from fastvit_bench.render.colours import HUES, ModelColours
from fastvit_bench.render.text import printable

PACKAGES = ("altair", "vl_convert")  # that draw
Spec = dict[str, Any]  # a Vega-Lite description


@dataclass(frozen=True)
class Palette:
    """Colours by purpose; the page passes CSS variables, so that its theme is the figures' theme."""

    ink: str
    muted: str
    grid: str
    accent: str
    paper: str
    bad: str
    good: str
    unsure: str
    models: ModelColours
    background: str | None

    def beside(self, models: Iterable[str]) -> "Palette":
        """Return the palette for a page or a picture that shows these models together."""
        return replace(self, models=replace(self.models, places=colours.together(models)))


# of verdicts and texts: from Okabe & Ito's palette and close to it, readable without distinguishing red from green
LIGHT = Palette(
    ink="#1b1f24",
    muted="#57606a",
    grid="#e3e6ea",
    accent="#0b62a8",
    paper="#ffffff",
    bad="#b8410b",
    good="#00785a",
    unsure="#8a6100",
    models=ModelColours(tuple(hue.light for hue in HUES)),
    background="#ffffff",
)
PAGE = Palette(
    ink="var(--ink)",
    muted="var(--muted)",
    grid="var(--grid)",
    accent="var(--accent)",
    paper="var(--paper)",
    bad="var(--bad)",
    good="var(--good)",
    unsure="var(--unsure)",
    models=ModelColours(tuple(f"var(--series-{number})" for number in range(1, len(HUES) + 1))),
    background=None,
)

SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-right", "triangle-left")
SMALL = 11  # pixels of the smallest letters: 8.25 points where a pixel is 1/96 inch
SHEET = 690  # pixels of a picture at most: what is between the margins of a printed page
NARROWEST = 240  # pixels of the axes
DASHES = ([1, 0], [6, 3], [2, 2], [6, 2, 2, 2], [10, 3])


@dataclass(frozen=True)
class LineLooks:
    """Colours, shapes and dashes of the lines of a chart; no two lines share all three."""

    colours: list[str]
    shapes: list[str]
    dashes: list[list[int]]


def line_looks(models: Sequence[str], palette: Palette) -> LineLooks:
    """Return the looks of lines by their models; several lines of one model differ by shape and dash."""
    lines_of: dict[int, int] = {}
    looks = LineLooks([], [], [])
    for model in models:
        place = palette.models.place(model)
        before = lines_of.get(place, 0)
        lines_of[place] = before + 1
        looks.colours.append(palette.models.of(model))
        looks.shapes.append(SHAPES[(place + before) % len(SHAPES)])
        looks.dashes.append(DASHES[before % len(DASHES)])
    return looks


@dataclass(frozen=True)
class Chart:
    """A Vega-Lite description with its title, its caption and its file's name."""

    kind: str  # accuracy, latency, ratio, study or comparison: the page shows figures of one kind together
    name: str  # of its file, without suffix: letters, digits, hyphens
    choice: str  # distinguishes it from others of its kind
    title: str
    caption: str  # how to read it, and what is left out
    spec: Spec


# --- files ------------------------------------------------------------------------------------------------------------

SUFFIXES = (".svg", ".png")
_DISTRIBUTIONS = {"vl_convert": "vl-convert-python"}  # where pip knows a package by another name


def require(packages: Sequence[str] = PACKAGES) -> None:
    """Raise `UnavailableError` where a package that draws is missing; an install by pip has them all."""
    import importlib.util

    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        wanted = install.packages(*(_DISTRIBUTIONS.get(name, name) for name in missing))
        raise UnavailableError(f"Pictures are drawn by {' and '.join(missing)}, not installed here; run: {wanted}.")


def check(path: Path, *, force: bool = False) -> None:
    """Raise `UsageError` for a file that is no picture, `UnavailableError` where a package that draws is missing.

    Without `force`, a file that this tool did not write is not replaced.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path} is no picture that can be drawn; end its name in {' or '.join(SUFFIXES)}.")
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder {path.parent} for {path.name}; make it first.")
    if (refused := files.refusal(path.parent)) is not None:
        raise UsageError(f"The picture {path} cannot be written: {refused}.")
    files.check_output(path, force=force)
    require()


def kind(path: Path) -> str:
    """Return svg or png, from the suffix of a path that was checked."""
    return path.suffix.lower().removeprefix(".")


def write(path: Path, data: bytes) -> None:
    """Write a picture's bytes to a file, completely or not at all. Raises `UsageError` where it cannot be written."""
    try:
        files.write(path, data)
    except OSError as error:
        raise UsageError(f"The picture {path} cannot be written: {error.strerror or error}.") from None


# --- descriptions -----------------------------------------------------------------------------------------------------


def chart(
    kind: str, choice: str, title: str, caption: str, points: Sequence[Spec], layers: Sequence[Any], palette: Palette
) -> Chart:
    """Return a chart of layers over common points, with the palette's look."""
    import altair as alt

    # the points are in the description once: a layer without data of its own takes the chart's
    drawn = alt.layer(*layers, data=values(points)).properties(width=680, height=380, description=f"{title}. {caption}")
    spec: Spec = drawn.configure(**config(palette)).to_dict(validate=False)
    return Chart(kind, slug(f"{kind}-{choice}"), choice, title, caption, spec)


@contextmanager
def unchecked() -> Generator[None]:
    """Describe charts without Altair's check of each part as it is made, which takes a third of the time.

    Tests describe the same charts with it.
    """
    from altair.utils import schemapi

    with schemapi.debug_mode(False):
        yield


def text_behind() -> dict[str, Any]:
    """Return the channels of the text behind a point, which its field `about` holds."""
    import altair as alt

    return {"tooltip": alt.Tooltip("about:N"), "description": alt.Description("about:N")}


def values(points: Sequence[Spec]) -> Any:
    """Return points as the data of a chart."""
    import altair as alt

    return alt.Data(values=_Described(points))  # pyright: ignore[reportArgumentType]


class _Described:
    """Points that Altair puts into a description as they are; of lists it looks at every number, and copies them."""

    _schema: ClassVar[Spec] = {"type": "array"}  # by which Altair knows what has a `to_dict`

    def __init__(self, points: Sequence[Spec]) -> None:
        self._points = list(points)

    def to_dict(self, *_: object, **__: object) -> list[Spec]:
        """Return the points."""
        return self._points


def of_height(drawn: Chart, pixels: int) -> Chart:
    """Return the chart with another height, in pixels."""
    return replace(drawn, spec={**drawn.spec, "height": pixels})


def config(palette: Palette) -> Spec:
    """Return a palette as a Vega-Lite configuration of fonts, axes, legends and titles."""
    quiet = {"labelColor": palette.muted, "titleColor": palette.ink, "labelFontSize": 12, "titleFontSize": 12}
    return {
        "background": palette.background or "transparent",
        "font": "system-ui, 'Segoe UI', 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif",
        "axis": {
            **quiet,
            "titleFontWeight": "normal",
            "titlePadding": 10,
            "gridColor": palette.grid,
            "domainColor": palette.muted,
            "tickColor": palette.muted,
            "tickCount": 6,
            "labelLimit": 230,
        },
        "legend": {
            "labelColor": palette.ink,
            "labelFontSize": 12,
            "symbolSize": 80,
            "labelLimit": 220,
            "rowPadding": 4,
        },
        "view": {"stroke": None},
        "title": {
            "color": palette.ink,
            "anchor": "start",
            "fontSize": 15,
            "subtitleColor": palette.muted,
            "subtitleFontSize": SMALL,
        },
    }


def scale(values: Sequence[float], below: float, above: float) -> Any:
    """Return a scale a little wider than the values: logarithmic if they span a factor of four, else linear."""
    import altair as alt

    low, high = min(values), max(values)
    if low > 0 and high / low >= 4:
        return alt.Scale(type="log", domain=[low * below, high * above], nice=False)
    margin = max(high - low, 0.02 * high)
    return alt.Scale(
        domain=[low - margin * (1 - below) * 0.6, high + margin * (above - 1) * 0.6], nice=False, zero=False
    )


def short(name: str, most: int = 28) -> str:
    """Return a name no longer than charts have space for; its middle is left out where it is longer."""
    line = printable(name) or "(no name)"
    return line if len(line) <= most else f"{line[: most - 9]}…{line[-8:]}"


def distinct(labels: Sequence[str]) -> list[str]:
    """Return the labels with numbers behind equal ones: shortened names may be equal, and one label is one line."""
    counts: dict[str, int] = {}
    unique: list[str] = []
    for label in labels:
        counts[label] = counts.get(label, 0) + 1
        unique.append(label if counts[label] == 1 else f"{label} ({counts[label]})")
    return unique


def slug(text: str) -> str:
    """Return a file name for any text: letters, digits and hyphens, 80 at most."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:80].rstrip("-") or "figure"


def picture(drawn: Chart, kind: str) -> bytes:
    """Return the content of an SVG or PNG file, with the title and the caption in it. `kind` is svg or png.

    It is no wider than a sheet of paper, so that nobody prints its letters smaller than they are.
    """
    title = {
        "text": textwrap.wrap(drawn.title, 72),
        "subtitle": [line for part in drawn.caption.split("\n") for line in textwrap.wrap(part, 100)],
        "offset": 12,
    }
    config = {**drawn.spec["config"], "legend": {**drawn.spec["config"]["legend"], "orient": "bottom", "columns": 3}}
    return rendered(_on_sheet({**drawn.spec, "config": config, "title": title, "padding": 12}), kind)


def _on_sheet(spec: Spec) -> Spec:
    """Return the description with axes so wide that the picture is no wider than a sheet."""
    if "width" not in spec:  # panels, whose sizes are their own
        return spec
    import vl_convert

    size = re.search(r'<svg[^>]*? width="([\d.]+)"', vl_convert.vegalite_to_svg(spec, allowed_base_urls=[]))
    beyond = math.ceil(float(size[1])) - SHEET if size else 0
    return {**spec, "width": max(spec["width"] - beyond, NARROWEST)} if beyond > 0 else spec


def rendered(spec: Spec, kind: str) -> bytes:
    """Return a description as SVG or PNG: nothing is fetched, and the same description gives the same bytes.

    The picture bears `files.MARK`, by which this tool knows that it may replace it.
    """
    import vl_convert

    if kind == "svg":
        svg: str = vl_convert.vegalite_to_svg(spec, allowed_base_urls=[])
        return _renumbered(svg).encode() + b"<!-- %s -->" % files.MARK
    return _marked_png(vl_convert.vegalite_to_png(spec, scale=2, allowed_base_urls=[]))


_PNG_HEADER = 33  # bytes of a PNG file's signature and its first chunk


def _marked_png(png: bytes) -> bytes:
    """Return a PNG file with the mark as a chunk of text (PNG specification, third edition, section 11.3.3)."""
    content = b"tEXtComment\0" + files.MARK
    chunk = struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))
    return png[:_PNG_HEADER] + chunk + png[_PNG_HEADER:]


_IDS = re.compile(r"\b(clip|gradient_)(\d+)\b")


def _renumbered(svg: str) -> str:
    """Return an SVG with ids that count from 0.

    Vega goes on counting from one picture of a process to the next.
    """
    numbers: dict[str, str] = {}
    return _IDS.sub(lambda match: numbers.setdefault(match[0], f"{match[1]}{len(numbers)}"), svg)
