"""A study as a frontier: published top-1 against the latency measured here, of every network that has both."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastvit_bench.paper.study_table import StudyFigure, StudyLine, lines
from fastvit_bench.records import Interval
from fastvit_bench.records.study import StudyResult
from fastvit_bench.render import charts, colours
from fastvit_bench.render.charts import Chart, Palette, Spec
from fastvit_bench.render.frontiers import Basis
from fastvit_bench.render.joined import probability_text, some
from fastvit_bench.render.row_charts import LABELLED, ON, SIZE, accuracy_layers, word
from fastvit_bench.render.rows import size_of
from fastvit_bench.render.text import latency, printable
from fastvit_bench.stats import pareto
from fastvit_bench.stats.pareto import SURE, Standing

if TYPE_CHECKING:  # takes longer to import than `--help` may
    import numpy as np


@dataclass(frozen=True)
class Place:
    """A network of a study whose top-1 is published, or stated by its owner, and whose latency was measured here."""

    line: StudyLine
    top1: float  # percent
    figure: StudyFigure  # milliseconds per batch
    standing: Standing

    @property
    def name(self) -> str:
        """The row's label; it holds the image size where the study has several."""
        return printable(self.line.row.label)

    @property
    def is_fastvit(self) -> bool:
        """Whether it is one of the seven variants."""
        return colours.of_fastvit(self.line.row.model) is not None


def places(result: StudyResult) -> list[Place]:
    """Return the networks that have both figures, the quickest first.

    A network's latency is its ratio to its reference, as measured in turns, times the reference's latency. So two
    networks of a group stand to one another as their ratios say, whatever the speed of the machine was. A network of
    several groups is that of the first.
    """
    import numpy as np

    rng = np.random.default_rng(0)
    by_label: dict[str, tuple[StudyLine, float, StudyFigure, np.ndarray[Any, Any]]] = {}
    base, base_draws = StudyFigure(0.0, None), np.zeros(pareto.DRAWS)
    for line in lines(result):
        if line.reference and line.figure:
            base, base_draws = line.figure, _draws(line.figure, rng)
        own = base if line.reference else _times(line.ratio, base.value)
        printed = line.published.get("top1")
        top1 = printed.value if printed is not None else line.row.top1
        if own is None or line.figure is None or top1 is None:
            continue
        draws = base_draws if line.reference or line.ratio is None else base_draws * _draws(line.ratio, rng)
        by_label.setdefault(line.row.label, (line, float(top1), own, draws))
    entries = sorted(by_label.values(), key=lambda entry: entry[2].value)
    if not entries:
        return []
    tops = [top1 for _, top1, _, _ in entries]
    latencies = np.column_stack([draws for *_, draws in entries])
    standings = pareto.standings(
        [own.value for _, _, own, _ in entries], tops, latencies, np.tile(tops, (pareto.DRAWS, 1))
    )
    return [Place(line, top1, own, standing) for (line, top1, own, _), standing in zip(entries, standings, strict=True)]


def _draws(figure: StudyFigure, rng: "np.random.Generator") -> "np.ndarray[Any, Any]":
    return pareto.latency_draws(pareto.Latency(figure.value, interval=figure.interval), pareto.DRAWS, rng)


def _times(figure: StudyFigure | None, factor: float) -> StudyFigure | None:
    if figure is None:
        return None
    ends = figure.interval
    interval = Interval(ends.low * factor, ends.high * factor, ends.confidence) if ends else None
    return StudyFigure(figure.value * factor, interval)


def figure(result: StudyResult, palette: Palette, size: tuple[int, int] | None = None) -> Chart | None:
    """Return top-1 against latency with the frontier as a staircase; None of fewer than two networks.

    `size` is the axes' in pixels, where they are not a page's.
    """
    networks = places(result)
    if len(networks) < 2:
        return None
    peers = _peers(networks)
    points = [_point(result, networks, place, peers, palette) for place in networks]
    points.sort(key=lambda point: point["stroke"] == palette.muted)  # the names of FastViT are placed first
    device = printable(result.device.name)
    return charts.chart(
        "accuracy",
        f"{result.study.name} on {device}, {result.finished[:16].replace('T', ' ')}",
        f"Accuracy against latency: {result.study.title}",
        _caption(result, networks, bool(peers)),
        points,
        accuracy_layers(Basis.PUBLISHED, points, palette, f"latency measured here on {device}, ms", size or SIZE),
        palette,
    )


def _peers(networks: Sequence[Place]) -> set[str]:
    """Return the names of FastViT's peers, drawn in grey; none where FastViT itself is not among the networks."""
    if not any(place.is_fastvit for place in networks):
        return set()
    return {place.name for place in networks if not place.is_fastvit and not place.line.row.challenger}


def _caption(result: StudyResult, networks: Sequence[Place], with_peers: bool) -> str:
    """Return which figure is from which source, and how to read the chart."""
    hardware = printable(result.machine.accelerator or result.machine.processor)
    text = (
        f"Of two sources: top-1 is the paper's, latency was measured on {printable(result.device.name)} ({hardware}) "
        f"with random weights, whose speed is that of any. A network's latency is its ratio to the reference of its "
        f"group, in turns, times the reference's. The line joins the networks that no other is both as quick and as "
        f"accurate as. Filled: on it in at least {100 * SURE:.0f} % of resamplings; hollow: in at most "
        f"{100 - 100 * SURE:.0f} %; diamond: in between. Bars: 95 % intervals, of a reference of its latency, else of "
        f"the ratio."
    )
    if any(place.line.row.challenger for place in networks):
        text += " The top-1 of your own network is as you stated it."
    if with_peers:
        text += " Grey: networks other than FastViT."
    return text


def _point(
    result: StudyResult, networks: Sequence[Place], place: Place, peers: Collection[str], palette: Palette
) -> Spec:
    value, interval = place.figure
    own = palette.muted if place.name in peers else palette.models.of(place.line.row.model)
    standing = word(place.standing.probability)
    labelled = len(networks) <= LABELLED or place.name not in peers or place.standing.on_frontier
    source = "as you stated it" if place.line.row.challenger else "as the paper prints it"
    by = [networks[at].name for at in place.standing.dominated_by]
    size = size_of(place.line.contestant.shape) if place.line.contestant else ""
    details = [
        f"{place.name}, {size} px",
        f"{latency(value, interval)} ms",
        f"{place.top1:.1f} % top-1, {source}",
        f"on the frontier with {probability_text(place.standing.probability)}",
        *([f"dominated by {some(by)}"] if by else []),
        f"{result.blocks} blocks of turns on {printable(result.machine.processor)}",
    ]
    return {
        "ms": value,
        "low": interval.low if interval else value,
        "high": interval.high if interval else value,
        "top1": place.top1,
        "least": place.top1,
        "most": place.top1,
        "member": place.standing.on_frontier,
        "standing": standing,
        "stroke": own,
        "fill": own if standing == ON else palette.paper,
        "label": place.name if labelled else "",
        "about": "\n".join(details),
    }
