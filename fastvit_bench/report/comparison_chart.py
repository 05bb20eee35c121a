"""A comparison as a chart: a line per cell with its ratio, the 95 % interval and the blocks, beside the margin."""

import math
from typing import Any, Literal

from fastvit_bench.render.charts import LIGHT, Chart, Palette, Spec, chart, distinct, of_height, picture, require, short
from fastvit_bench.report.verdict import words
from fastvit_bench.verdicts import CellResult, Comparison, Outcome, Verdict

MOST_CELLS = 40  # the worst first: more cannot be read

# outcome -> colour of a palette and shape, each of which tells it alone
_LOOKS: dict[Outcome, tuple[str, str]] = {
    Outcome.REGRESSED: ("bad", "triangle-right"),
    Outcome.INCOMPARABLE: ("unsure", "cross"),
    Outcome.NO_BASELINE: ("muted", "square"),
    Outcome.INCONCLUSIVE: ("unsure", "diamond"),
    Outcome.PASS: ("good", "circle"),
    Outcome.IMPROVED: ("accent", "triangle-left"),
}


def comparison(found: Comparison, palette: Palette) -> Chart | None:
    """The change of every cell, with its interval and its blocks; None where no cell has two figures."""
    if not any(cell.verdict.ratio is not None for cell in found.cells):
        return None
    return _drawn(found, palette)


def svg(found: Comparison) -> bytes:
    """A comparison as an SVG file, its text as text. Raises `UnavailableError` without what draws."""
    return _picture(found, "svg")


def png(found: Comparison) -> bytes:
    """A comparison as a PNG file. Raises `UnavailableError` without what draws."""
    return _picture(found, "png")


def _picture(found: Comparison, kind: Literal["svg", "png"]) -> bytes:
    """With the comparison's sentence, and each cell's figures beside it: a picture stands alone."""
    require()
    return picture(_drawn(found, LIGHT, alone=words.sentence(found)), kind)


def _drawn(found: Comparison, palette: Palette, alone: str = "") -> Chart:
    """The chart; with the sentence of one that stands `alone`, figures stand at its right edge."""
    import altair as alt

    cells = words.worst_first(found)
    rows: list[tuple[str, Verdict, CellResult | None]] = [
        (cell.name, cell.verdict, cell) for cell in cells[:MOST_CELLS]
    ]
    if found.pooled:
        rows.append((words.POOLED, found.pooled, None))
    names = distinct([short(words.shown(name), 38) for name, _, _ in rows])
    low, high = _limits([verdict for _, verdict, _ in rows])
    points = [_point(found, name, shown, verdict) for (name, verdict, _), shown in zip(rows, names, strict=True)]
    blocks: list[Spec] = [
        {"cell": name, "change": min(max(100 * math.expm1(block.log_ratio), low), high)}
        for (_, _, cell), name in zip(rows, names, strict=True)
        for block in (cell.blocks if cell else ())
        if not block.replaced
    ]
    margin = 100 * found.plan.margin
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
    outcomes = [outcome for outcome in _LOOKS if any(verdict.outcome is outcome for _, verdict, _ in rows)]
    looks = [_LOOKS[outcome] for outcome in outcomes]
    titles = [outcome.value for outcome in outcomes]
    legend: Any = alt.Legend() if outcomes else None  # one without entries has no size that a PNG could have
    colours = [getattr(palette, name) for name, _ in looks]
    colour = alt.Color("outcome:N", title=None, legend=legend, scale=alt.Scale(domain=titles, range=colours))
    shapes = [look for _, look in looks]
    shape = alt.Shape("outcome:N", title=None, legend=legend, scale=alt.Scale(domain=titles, range=shapes))

    def rule(value: float, colour: str, dash: tuple[int, ...] = ()) -> Any:
        return (
            alt.Chart(alt.Data(values=[{"change": value}]))
            .mark_rule(color=colour, strokeDash=list(dash), aria=False)
            .encode(x=x)
        )

    layers: list[Any] = [
        rule(0, palette.muted),
        rule(margin, palette.bad, (5, 4)),
        rule(-margin, palette.muted, (2, 3)),
        alt.Chart(alt.Data(values=blocks))
        .mark_point(filled=True, size=14, color=palette.muted, opacity=0.6, yOffset=9, aria=False)
        .encode(x=x, y=y),
        alt.Chart().mark_rule(strokeWidth=2.2, aria=False).encode(x="low:Q", x2="high:Q", y=y, color=colour),
        alt.Chart()
        .mark_point(filled=True, size=95, opacity=1)
        .encode(x=x, y=y, color=colour, shape=shape, tooltip="about:N", description="about:N"),
    ]
    if alone:
        layers.append(
            alt.Chart()
            .mark_text(align="left", dx=10, fontSize=12, aria=False)
            .encode(x=alt.value("width"), y=y, text="figures:N", color=colour)
        )
    left_out = (
        f" {len(cells) - MOST_CELLS} more cells, none of them worse, are left out." if len(cells) > MOST_CELLS else ""
    )
    how = f"Small: single blocks. Dashed: the margin of {margin:g} %. Bars: 95 % intervals.{left_out}"
    when = found.finished[:16].replace("T", " ")
    choice = f"{words.shown(found.head, 60)} against {words.shown(found.base, 60)}, {when}"
    caption = f"{alone}\n{how}" if alone else f"Change: head over base. {how}"
    made = chart("comparison", choice, words.title(found), caption, points, layers, palette)
    return of_height(made, 40 + 30 * len(rows))


def _point(found: Comparison, name: str, shown: str, verdict: Verdict) -> Spec:
    """A cell's change in percent; without a ratio it has no place, and its figures say why."""
    ratio, interval = verdict.ratio, verdict.interval
    figures = f"{words.change(verdict)} {words.span(interval)}".strip() if ratio is not None else "no ratio"
    point: Spec = {"cell": shown, "outcome": verdict.outcome.value, "figures": figures}
    point["about"] = "\n".join(
        text
        for text in (
            words.shown(name),
            f"{figures}, margin {words.margin(verdict)}",
            f"{verdict.outcome.value}: {words.reason(verdict)}",
            f"{verdict.blocks} blocks of turns on {words.machine(found.machine)}",
            f"finished {found.finished[:16].replace('T', ' ')} UTC",
        )
        if text
    )
    if ratio is None:
        return {**point, "change": None, "low": None, "high": None}
    ends = (interval.low, interval.high) if interval else (ratio, ratio)
    # JSON has no infinity: an open end reaches the edge, which the scale clamps it to
    low, high = (100 * (min(max(end, 1e-6), 1e6) - 1) for end in ends)
    return {**point, "change": 100 * (ratio - 1), "low": low, "high": high}


def _limits(verdicts: list[Verdict]) -> tuple[float, float]:
    """Of the axis, in percent: intervals, margins and zero are inside, single blocks may be outside."""
    ends = [0.0]
    for verdict in verdicts:
        ends += [100 * verdict.margin, -100 * verdict.margin]
        if verdict.ratio is not None:
            ends.append(100 * (verdict.ratio - 1))
        if verdict.interval:
            ends += [100 * (verdict.interval.low - 1), 100 * (verdict.interval.high - 1)]
    ends = [end for end in ends if math.isfinite(end)]
    low, high = min(ends), max(ends)
    beyond = 0.08 * (high - low) or 1.0
    return low - beyond, high + beyond
