"""A study as a chart: measured and published ratios, distinguished by shape, in the colours of the models."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from fastvit_bench.errors import UsageError
from fastvit_bench.paper import study_frontier
from fastvit_bench.paper.study_table import StudyLine, lines
from fastvit_bench.records.study import StudyResult
from fastvit_bench.render import charts
from fastvit_bench.render.charts import LIGHT, Chart, Palette, Spec, line_looks
from fastvit_bench.render.rows import size_of
from fastvit_bench.render.text import latency, printable

MEASURED, IPHONE, GPU = "measured here", "published, iPhone 12 Pro", "published, RTX 2080 Ti"


def figure(result: StudyResult, palette: Palette) -> Chart | None:
    """Return a chart of a study's ratios, or None where nothing was measured yet.

    Its x axis is the image size where the rows have several; else it has a line per row.
    """
    study_lines = lines(result)
    if not any(line.ratio for line in study_lines):
        return None
    sizes = {line.contestant.shape for line in study_lines if line.contestant}
    several = len(sizes) > 1 and all(row.res is None for row in result.study.rows if row.model)
    return _over_sizes(result, study_lines, palette) if several else _by_row(result, study_lines, palette)


def write(result: StudyResult, path: Path, *, force: bool = False) -> None:
    """Draw a study into an SVG or PNG file: its ratios, or the frontier where a network of known top-1 challenges it.

    Raises `UsageError` where there is nothing to draw or the file cannot be written, and what `charts.check` raises.
    """
    charts.check(path, force=force)
    challenged = any(row.challenger and row.top1 is not None for row in result.study.rows)
    draw = study_frontier.figure if challenged else figure
    chart = draw(result, LIGHT.beside(models(result)))
    if chart is None:
        raise UsageError(f"Nothing of study '{result.study.name}' was measured, so there is nothing to draw.")
    charts.write(path, charts.picture(chart, charts.kind(path)))


def models(result: StudyResult) -> list[str]:
    """Return the models of a study."""
    return [row.model for row in result.study.rows if row.model]


def _points(result: StudyResult, study_lines: Sequence[StudyLine]) -> list[Spec]:
    """Return a point per measured ratio and per published one."""
    points: list[Spec] = []
    references: dict[str, StudyLine] = {}
    for line in study_lines:
        if line.reference:
            references[line.group] = line
            continue
        if line.contestant is None:
            continue
        base = references[line.group]
        where = {
            "row": printable(line.row.label),
            "model": line.row.model,
            "group": printable(line.group),
            "size": line.contestant.shape.width,
        }
        if line.ratio:
            interval = line.ratio.interval
            points.append(
                {
                    **where,
                    "kind": MEASURED,
                    "ratio": line.ratio.value,
                    "low": interval.low if interval else line.ratio.value,
                    "high": interval.high if interval else line.ratio.value,
                    "about": "\n".join(
                        [
                            f"{line.row.label} / {base.row.label}, {size_of(line.contestant.shape)} px",
                            f"{latency(*line.ratio)} of its latency",
                            *([f"{latency(*line.figure)} ms"] if line.figure else []),
                            f"{result.blocks} blocks of turns on {printable(result.machine.processor)}",
                            f"finished {result.finished[:16].replace('T', ' ')} UTC",
                        ]
                    ),
                }
            )
        for kind, name in ((IPHONE, "iphone_ms"), (GPU, "gpu_ms")):
            if name in line.published_ratios:
                value, own, reference = line.published_ratios[name], line.published[name], base.published[name]
                points.append(
                    {
                        **where,
                        "kind": kind,
                        "ratio": value,
                        "low": value,
                        "high": value,
                        "about": f"{line.row.label} / {base.row.label}: {own.text} ms / {reference.text} ms ({kind})",
                    }
                )
    return points


_SHAPES = {MEASURED: "circle", IPHONE: "diamond", GPU: "square"}


def _shape(points: Sequence[Spec], palette: Palette) -> Any:
    """Return the encoding of measured and published ratios as shapes, whose legend has no model's colour."""
    import altair as alt

    kinds = [kind for kind in _SHAPES if any(point["kind"] == kind for point in points)]
    return alt.Shape(
        "kind:N",
        title=None,
        sort=kinds,
        scale=alt.Scale(domain=kinds, range=[_SHAPES[kind] for kind in kinds]),
        legend=alt.Legend(symbolStrokeColor=palette.muted, symbolFillColor=palette.paper, symbolStrokeWidth=1.6),
    )


def _rule_at_one(palette: Palette, **where: Any) -> Any:
    import altair as alt

    return (
        alt.Chart(alt.Data(values=[{"one": 1}]))
        .mark_rule(color=palette.muted, strokeDash=[4, 3], aria=False)
        .encode(**where)
    )


def _by_row(result: StudyResult, study_lines: Sequence[StudyLine], palette: Palette) -> Chart:
    import altair as alt

    points = _points(result, study_lines)
    for point in points:
        twice = len({twin["group"] for twin in points if twin["row"] == point["row"]}) > 1
        point["name"] = f"{point['row']} ({point['group']})" if twice else point["row"]
        point["stroke"] = palette.models.of(point["model"])
        point["fill"] = point["stroke"] if point["kind"] == MEASURED else palette.paper
    names = list(dict.fromkeys(point["name"] for point in points))
    shape, stroke, fill = _shape(points, palette), alt.Stroke("stroke:N", scale=None), alt.Fill("fill:N", scale=None)
    ends = [point[end] for point in points for end in ("low", "high")] + [1.0]
    scale = charts.scale(ends, 0.9, 1.1)
    x = alt.X("ratio:Q", title="latency over the reference's (right is slower)", scale=scale)
    y = alt.Y("name:N", title=None, sort=names, axis=alt.Axis(grid=True, ticks=False, domain=False))
    layers = [
        _rule_at_one(palette, x=alt.X("one:Q", scale=scale)),
        alt.Chart()
        .transform_filter(f"datum.kind === '{MEASURED}'")
        .mark_rule(strokeWidth=2.2, aria=False)
        .encode(x=alt.X("low:Q", scale=scale), x2=alt.X2("high:Q"), y=y, stroke=stroke),
        alt.Chart()
        .mark_point(size=90, strokeWidth=1.8, opacity=1)
        .encode(
            x=x,
            y=y,
            stroke=stroke,
            fill=fill,
            shape=shape,
            **charts.text_behind(),
        ),
    ]
    return _chart(result, points, layers, palette, height=40 + 26 * len(names))


def _over_sizes(result: StudyResult, study_lines: Sequence[StudyLine], palette: Palette) -> Chart:
    import altair as alt

    points = _points(result, study_lines)
    rows = list(dict.fromkeys(point["row"] for point in points))
    for point in points:
        point["name"] = point["kind"] if len(rows) == 1 else f"{point['row']}, {point['kind']}"
    names = list(dict.fromkeys(point["name"] for point in points))
    model_of = {point["name"]: point["model"] for point in points}
    looks = line_looks([model_of[name] for name in names], palette)
    colour = alt.Color("name:N", title=None, sort=names, scale=alt.Scale(domain=names, range=looks.colours))
    shape = alt.Shape("name:N", title=None, sort=names, scale=alt.Scale(domain=names, range=looks.shapes))
    dash = alt.StrokeDash("name:N", title=None, sort=names, scale=alt.Scale(domain=names, range=looks.dashes))
    ticks = sorted({point["size"] for point in points})
    x = alt.X(
        "size:Q",
        title="image size, px",
        axis=alt.Axis(values=ticks, format="d", labelOverlap="greedy", grid=False),
        scale=alt.Scale(type="log", domain=[ticks[0] / 1.04, ticks[-1] * 1.04], nice=False),
    )
    ends = [point[end] for point in points for end in ("low", "high")] + [1.0]
    y = alt.Y("ratio:Q", title="latency over the reference's", scale=charts.scale(ends, 0.9, 1.1))
    layers = [
        _rule_at_one(palette, y=alt.Y("one:Q")),
        alt.Chart()
        .mark_line(strokeWidth=1.8, aria=False)
        .encode(x=x, y=y, color=colour, strokeDash=dash, detail=alt.Detail("name:N")),
        alt.Chart()
        .mark_rule(strokeWidth=1.6, aria=False)
        .encode(x=x, y=alt.Y("low:Q"), y2=alt.Y2("high:Q"), color=colour),
        alt.Chart()
        .mark_point(filled=True, size=70, opacity=1)
        .encode(x=x, y=y, color=colour, shape=shape, **charts.text_behind()),
    ]
    return _chart(result, points, layers, palette)


def _chart(
    result: StudyResult, points: Sequence[Spec], layers: Sequence[Any], palette: Palette, height: int | None = None
) -> Chart:
    references = list(dict.fromkeys(printable(match.reference.row.label) for match in result.matches))
    reference = references[0] if len(references) == 1 else "the first of each group"
    caption = (
        f"Latency over that of {reference}; bars: 95 % intervals of the ratios measured here on {result.device.name}."
    )
    if any(point["kind"] != MEASURED for point in points):
        caption += " The published ones are another device's."
    when = result.finished[:16].replace("T", " ")
    chart = charts.chart(
        "study",
        f"{result.study.name} on {result.device.name}, {when}",
        result.study.title,
        caption,
        points,
        layers,
        palette,
    )
    return chart if height is None else charts.of_height(chart, height)
