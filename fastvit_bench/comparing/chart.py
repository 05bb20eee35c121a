"""Chart of a comparison: a line per cell with its ratio, the 95 % interval and the blocks, beside the margin."""

import math
from typing import Any, Literal

from fastvit_bench.comparing import phrases
from fastvit_bench.records.comparison import CellResult, Comparison, Outcome, Verdict
from fastvit_bench.render.charts import (
    LIGHT,
    Chart,
    Palette,
    Spec,
    chart,
    distinct,
    of_height,
    picture,
    require,
    short,
    text_behind,
)

MOST_CELLS = 40  # the worst first: more would be unreadable

# outcome -> colour of a palette and shape; each is unique, so that neither needs the other
_LOOKS: dict[Outcome, tuple[str, str]] = {
    Outcome.REGRESSED: ("bad", "triangle-right"),
    Outcome.INCOMPARABLE: ("unsure", "cross"),
    Outcome.NO_BASELINE: ("muted", "square"),
    Outcome.INCONCLUSIVE: ("unsure", "diamond"),
    Outcome.PASS: ("good", "circle"),
    Outcome.IMPROVED: ("accent", "triangle-left"),
}

_Row = tuple[str, Verdict, CellResult | None]  # name, verdict, cell; no cell for all of them pooled


def comparison(record: Comparison, palette: Palette) -> Chart | None:
    """Draw the change of every cell, with its interval and its blocks; return None if no cell has two figures."""
    if not any(cell.verdict.ratio is not None for cell in record.cells):
        return None
    return _drawn(record, palette)


def models(record: Comparison) -> list[str]:
    """Return the models of a comparison."""
    return [_model(cell) for cell in record.cells]


def _model(cell: CellResult) -> str:
    side = cell.head or cell.base
    return side.artifact.model if side else cell.name.rsplit(" ", 2)[0]


def svg(record: Comparison) -> bytes:
    """Draw a comparison as an SVG file with selectable text.

    Raises `UnavailableError` if the packages that draw are not installed.
    """
    return _picture(record, "svg")


def png(record: Comparison) -> bytes:
    """Draw a comparison as a PNG file.

    Raises `UnavailableError` if the packages that draw are not installed.
    """
    return _picture(record, "png")


def _picture(record: Comparison, kind: Literal["svg", "png"]) -> bytes:
    """Draw a chart that stands alone, with the comparison's sentence and each cell's figures."""
    require()
    return picture(_drawn(record, LIGHT.beside(models(record)), alone=phrases.sentence(record)), kind)


def _drawn(record: Comparison, palette: Palette, alone: str = "") -> Chart:
    """Return the chart; with the sentence of one that stands `alone`, figures are at its right edge."""
    cells = phrases.worst_first(record)
    rows: list[_Row] = [(cell.name, cell.verdict, cell) for cell in cells[:MOST_CELLS]]
    if record.pooled:
        rows.append((phrases.POOLED, record.pooled, None))
    names = distinct([short(phrases.shown(name), 38) for name, _, _ in rows])
    points = [_point(record, name, shown, verdict) for (name, verdict, _), shown in zip(rows, names, strict=True)]
    margin = 100 * record.plan.margin
    layers = _layers(rows, names, margin, palette, figures=bool(alone))
    omitted = (
        f" {len(cells) - MOST_CELLS} more cells, none of them worse, are left out." if len(cells) > MOST_CELLS else ""
    )
    legend = (
        f"Bars: 95 % intervals; at the left, the model's colour. Small: single blocks. Dashed: the margin of "
        f"{margin:g} %.{omitted}"
    )
    finished = record.finished[:16].replace("T", " ")
    choice = f"{phrases.shown(record.head, 60)} against {phrases.shown(record.base, 60)}, {finished}"
    caption = f"{alone}\n{legend}" if alone else f"Change: head over base. {legend}"
    drawn = chart("comparison", choice, phrases.title(record), caption, points, layers, palette)
    return of_height(drawn, 40 + 30 * len(rows))


def _layers(rows: list[_Row], names: list[str], margin: float, palette: Palette, *, figures: bool) -> list[Any]:
    """Return the layers of the chart: rules, blocks, intervals, points, and with `figures` a text per row.

    `names` label the rows, and `margin` is in percent.
    """
    import altair as alt

    low, high = _limits([verdict for _, verdict, _ in rows])
    blocks: list[Spec] = [
        {"cell": name, "change": min(max(100 * math.expm1(block.log_ratio), low), high)}
        for (_, _, cell), name in zip(rows, names, strict=True)
        for block in (cell.blocks if cell else ())
        if not block.replaced
    ]
    x = alt.X(
        "change:Q",
        title="time that head takes more (+) or less (-) than base, %",
        scale=alt.Scale(domain=[low, high], nice=False, zero=False, clamp=True),
    )
    y = alt.Y(
        "cell:N",
        title=None,
        sort=names,
        scale=alt.Scale(domain=names),
        axis=alt.Axis(grid=True, ticks=False, domain=False, labelLimit=400),
    )
    colour, shape = _outcome_scales(rows, palette)

    def rule(value: float, colour: str, dash: tuple[int, ...] = ()) -> Any:
        return (
            alt.Chart(alt.Data(values=[{"change": value}]))
            .mark_rule(color=colour, strokeDash=list(dash), aria=False)
            .encode(x=x)
        )

    layers: list[Any] = [
        _swatches(rows, names, palette, y),
        rule(0, palette.muted),
        rule(margin, palette.bad, (5, 4)),
        rule(-margin, palette.muted, (2, 3)),
        alt.Chart(alt.Data(values=blocks))
        .mark_point(filled=True, size=14, color=palette.muted, opacity=0.6, yOffset=9, aria=False)
        .encode(x=x, y=y),
        alt.Chart()
        .mark_rule(strokeWidth=2.2, aria=False)
        .encode(x=alt.X("low:Q"), x2=alt.X2("high:Q"), y=y, color=colour),
        alt.Chart()
        .mark_point(filled=True, size=95, opacity=1)
        .encode(x=x, y=y, color=colour, shape=shape, **text_behind()),
    ]
    if figures:
        layers.append(
            alt.Chart()
            .mark_text(align="left", dx=10, fontSize=12, aria=False)
            .encode(x=alt.value("width"), y=y, text=alt.Text("figures:N"), color=colour)
        )
    return layers


def _swatches(rows: list[_Row], names: list[str], palette: Palette, y: Any) -> Any:
    """Return a bar per cell at the left edge, in the colour of its model: the others say the outcome."""
    import altair as alt

    colours: list[Spec] = [
        {"cell": name, "colour": palette.models.of(_model(cell))}
        for (_, _, cell), name in zip(rows, names, strict=True)
        if cell
    ]
    return (
        alt.Chart(alt.Data(values=colours))
        .mark_tick(orient="vertical", thickness=6, size=18, opacity=1, aria=False)
        .encode(x=alt.value(3), y=y, fill=alt.Fill("colour:N", scale=None))
    )


def _outcome_scales(rows: list[_Row], palette: Palette) -> tuple[Any, Any]:
    """Return the encodings of outcomes as colour and as shape, for the outcomes that occur."""
    import altair as alt

    outcomes = [outcome for outcome in _LOOKS if any(verdict.outcome is outcome for _, verdict, _ in rows)]
    looks = [_LOOKS[outcome] for outcome in outcomes]
    titles = [outcome.value for outcome in outcomes]
    # a legend without entries has no size, which a PNG needs
    legend: Any = alt.Legend(orient="bottom") if outcomes else None
    colours = [getattr(palette, name) for name, _ in looks]
    shapes = [look for _, look in looks]
    return (
        alt.Color("outcome:N", title=None, legend=legend, scale=alt.Scale(domain=titles, range=colours)),
        alt.Shape("outcome:N", title=None, legend=legend, scale=alt.Scale(domain=titles, range=shapes)),
    )


def _point(record: Comparison, name: str, shown: str, verdict: Verdict) -> Spec:
    """Return the data of a row: its change in percent, and its figures; without a ratio the change is null."""
    ratio, interval = verdict.ratio, verdict.interval
    figures = f"{phrases.change(verdict)} {phrases.span(interval)}".strip() if ratio is not None else "no ratio"
    point: Spec = {"cell": shown, "outcome": verdict.outcome.value, "figures": figures}
    point["about"] = "\n".join(
        text
        for text in (
            phrases.shown(name),
            f"{figures}, margin {phrases.margin(verdict)}",
            f"{verdict.outcome.value}: {phrases.reason(verdict)}",
            f"{verdict.blocks} blocks of turns on {phrases.machine(record.machine)}",
            f"finished {record.finished[:16].replace('T', ' ')} UTC",
        )
        if text
    )
    if ratio is None:
        return {**point, "change": None, "low": None, "high": None}
    ends = (interval.low, interval.high) if interval else (ratio, ratio)
    # JSON has no infinity: an open end becomes a number that the scale clamps to the edge
    low, high = (100 * (min(max(end, 1e-6), 1e6) - 1) for end in ends)
    return {**point, "change": 100 * (ratio - 1), "low": low, "high": high}


def _limits(verdicts: list[Verdict]) -> tuple[float, float]:
    """Return the limits of the axis in percent: intervals, margins and zero are inside, blocks may be outside."""
    ends = [0.0]
    for verdict in verdicts:
        ends += [100 * verdict.margin, -100 * verdict.margin]
        if verdict.ratio is not None:
            ends.append(100 * (verdict.ratio - 1))
        if verdict.interval:
            ends += [100 * (verdict.interval.low - 1), 100 * (verdict.interval.high - 1)]
    ends = [end for end in ends if math.isfinite(end)]
    low, high = min(ends), max(ends)
    padding = 0.08 * (high - low) or 1.0
    return low - padding, high + padding
