"""A comparison as a picture: a row per cell with its ratio, the 95 % interval and the blocks, beside the margin."""

import io
import math
import textwrap
import warnings
from typing import TYPE_CHECKING, Any, Literal

from fastvit_bench.report import pictures
from fastvit_bench.report.verdict.words import POOLED, change, sentence, shown, span, title, worst_first
from fastvit_bench.verdicts import CellResult, Comparison, Outcome, Verdict

if TYPE_CHECKING:  # an extra, and slow to import
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PACKAGES = ("matplotlib",)
MOST = 60  # rows: more cannot be read, and a picture of thousands would be too large for most viewers

# outcome -> colour and shape, each of which tells it alone (colours: Okabe and Ito, https://jfly.uni-koeln.de/color)
_LOOKS = {
    Outcome.REGRESSED: ("#D55E00", "D"),
    Outcome.INCOMPARABLE: ("#7F3C8D", "X"),
    Outcome.NO_BASELINE: ("#56718C", "P"),
    Outcome.INCONCLUSIVE: ("#B07A00", "s"),
    Outcome.PASS: ("#009E73", "o"),
    Outcome.IMPROVED: ("#0072B2", "^"),
}
_FAINT = "#8A8A8A"
_WIDTH = 9.6  # inches, of the picture; the names stand left of the axes and the figures right of them
_ROW = 0.30  # inches


def svg(comparison: Comparison) -> bytes:
    """The picture as SVG, its text as text. Raises `UnavailableError` without matplotlib."""
    return _picture(comparison, "svg")


def png(comparison: Comparison) -> bytes:
    """The picture as PNG, 150 dots per inch. Raises `UnavailableError` without matplotlib."""
    return _picture(comparison, "png")


def _picture(comparison: Comparison, kind: Literal["svg", "png"]) -> bytes:
    """The same bytes for the same comparison and the same matplotlib."""
    pictures.require(*PACKAGES)
    import matplotlib as mpl

    settings: dict[Any, Any] = {
        "text.parse_math": False,  # names may hold dollars
        "text.usetex": False,
        "font.family": ["DejaVu Sans", "sans-serif"],  # the first comes with matplotlib
        "font.size": 9,
        "svg.fonttype": "none",
        "svg.hashsalt": "fastvit-bench",
        "axes.unicode_minus": True,
    }
    # of the software, the time and the machine nothing is written
    metadata = {"Date": None, "Creator": "fastvit-bench"} if kind == "svg" else {"Software": None}
    written = io.BytesIO()
    with mpl.rc_context(), warnings.catch_warnings():
        mpl.rcdefaults()  # whatever style the user has set for pictures of their own
        mpl.rcParams.update(settings)
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # shown as boxes
        _drawn(comparison).savefig(written, format=kind, dpi=150, metadata=metadata)
    return written.getvalue()


def _drawn(comparison: Comparison) -> "Figure":
    from matplotlib.figure import Figure

    cells = worst_first(comparison)
    rows: list[tuple[str, Verdict, CellResult | None]] = [
        (shown(cell.name, 38), cell.verdict, cell) for cell in cells[:MOST]
    ]
    gap = 0.6  # of a row, around the line that sets the pooled row apart
    at = [-float(row) for row in range(len(rows))]
    if comparison.pooled:
        rows.append((POOLED, comparison.pooled, None))
        at.append(-(len(rows) - 1) - gap)
    heading = textwrap.wrap(shown(title(comparison), 200), 92)
    said = textwrap.wrap(sentence(comparison).replace(" %", "\N{NO-BREAK SPACE}%"), 120)
    left_out = f"{len(cells) - MOST} more cells, none of them worse, are left out" if len(cells) > MOST else ""
    top, bottom = 0.3 + 0.2 * len(heading) + 0.17 * len(said), 0.95 + 0.2 * bool(left_out)
    body = _ROW * ((max(0.0, -at[-1]) if at else 0.0) + 1.2)
    height = top + body + bottom
    figure = Figure(figsize=(_WIDTH, height), facecolor="white")
    beside = 0.25 + 0.073 * max((len(name) for name, _, _ in rows), default=8)  # inches: some 0.073 a character
    behind = 1.75
    axes = figure.add_axes((beside / _WIDTH, bottom / height, (_WIDTH - beside - behind) / _WIDTH, body / height))
    from_top = 0.12
    for line in heading:
        figure.text(0.15 / _WIDTH, 1 - from_top / height, line, weight="bold", size=11, va="top")
        from_top += 0.2
    for line in said:
        figure.text(0.15 / _WIDTH, 1 - (from_top + 0.03) / height, line, size=9, va="top", color="#333333")
        from_top += 0.17
    _frame(axes, rows, at, _limits(rows))
    for (_, verdict, cell), y in zip(rows, at, strict=True):
        _row(axes, verdict, cell, y)
    if comparison.pooled and len(rows) > 1:
        axes.axhline((at[-1] + at[-2]) / 2, color="#BBBBBB", linewidth=0.8)
    if left_out:
        figure.text(beside / _WIDTH, 0.78 / height, left_out, size=8, style="italic", va="bottom", color="#555555")
    _legend(figure, [verdict.outcome for _, verdict, _ in rows], height)
    return figure


def _limits(rows: "list[tuple[str, Verdict, CellResult | None]]") -> tuple[float, float]:
    """Of the axis, in percent: intervals, margins and zero are inside, single blocks may be outside."""
    ends = [0.0]
    for _, verdict, _ in rows:
        ends += [100 * verdict.margin, -100 * verdict.margin]
        if verdict.ratio is not None:
            ends.append(100 * (verdict.ratio - 1))
        if verdict.interval:
            ends += [100 * (verdict.interval.low - 1), 100 * (verdict.interval.high - 1)]
    ends = [end for end in ends if math.isfinite(end)]
    low, high = min(ends), max(ends)
    beyond = 0.08 * (high - low) or 1.0
    return low - beyond, high + beyond


def _frame(
    axes: "Axes", rows: "list[tuple[str, Verdict, CellResult | None]]", at: list[float], limits: tuple[float, float]
) -> None:
    """Names on the left, percents below, zero and margins as lines."""
    axes.set_xlim(limits)
    axes.set_ylim((at[-1] if at else 0.0) - 0.6, 0.6)
    axes.set_yticks(at, [name for name, _, _ in rows])
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", colors="#555555", labelsize=8)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:+g} %" if value else "0")
    axes.set_xlabel("time that head takes more (+) or less (−) than base", size=8, color="#555555")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color("#BBBBBB")
    axes.grid(axis="x", color="#EEEEEE", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.axvline(0, color="#444444", linewidth=0.9, zorder=1)
    for row, ((_, verdict, _), y) in enumerate(zip(rows, at, strict=True)):
        if row % 2:
            axes.axhspan(y - 0.5, y + 0.5, color="#F7F7F7", zorder=-1)
        percent = 100 * verdict.margin
        axes.vlines(percent, y - 0.5, y + 0.5, colors="#C03030", linestyles="dashed", linewidth=1.2, zorder=2)
        axes.vlines(-percent, y - 0.5, y + 0.5, colors="#999999", linestyles="dotted", linewidth=1.0, zorder=2)


def _row(axes: "Axes", verdict: Verdict, cell: CellResult | None, y: float) -> None:
    """The ratio as the outcome's shape, its interval as a whisker, blocks as faint dots below, and figures beside."""
    colour, shape = _LOOKS[verdict.outcome]
    low, high = axes.get_xlim()
    counted = [block for block in cell.blocks if not block.replaced] if cell else []
    for block in counted:
        percent = 100 * math.expm1(block.log_ratio)
        marker, where = (".", percent) if low <= percent <= high else ("<", low) if percent < low else (">", high)
        # of what lies outside, an arrow at the edge
        axes.plot(where, y - 0.3, marker=marker, color=_FAINT, markersize=4, alpha=0.6, zorder=3, clip_on=False, mew=0)
    if verdict.ratio is None:
        # beside the axis, because any place on it would be a figure
        beside = axes.get_yaxis_transform()
        axes.plot(
            1.02, y, marker=shape, color=colour, markersize=7, mec="white", mew=0.6, transform=beside, clip_on=False
        )
        figures = "    no ratio"
    else:
        percent = 100 * (verdict.ratio - 1)
        if verdict.interval:
            ends = [100 * (end - 1) for end in (verdict.interval.low, verdict.interval.high)]
            ends = [min(max(end, low), high) for end in ends]  # an open end reaches the edge
            axes.hlines(y, *ends, colors=colour, linewidth=2.0, zorder=4)
            axes.vlines(ends, y - 0.14, y + 0.14, colors=colour, linewidth=1.4, zorder=4)
        axes.plot(percent, y, marker=shape, color=colour, markersize=7.5, zorder=5, mec="white", mew=0.7)
        figures = f"{change(verdict)} {span(verdict.interval)}".rstrip()
    weight = "bold" if verdict.outcome is Outcome.REGRESSED else "normal"
    axes.annotate(
        figures,
        (1.0, y),
        xycoords=("axes fraction", "data"),
        xytext=(10, 0),
        textcoords="offset points",
        va="center",
        size=8,
        color=colour,
        weight=weight,
        annotation_clip=False,
    )


def _legend(figure: "Figure", outcomes: list[Outcome], height: float) -> None:
    """The shapes that occur, the whisker's meaning and the lines."""
    from matplotlib.lines import Line2D

    found = [
        Line2D([], [], marker=shape, color=colour, linestyle="none", markersize=7, label=outcome.value, mec="white")
        for outcome, (colour, shape) in _LOOKS.items()
        if outcome in outcomes
    ]
    found += [
        Line2D([], [], color="#444444", linewidth=2.0, label="95 % interval"),
        Line2D([], [], marker=".", color=_FAINT, linestyle="none", alpha=0.6, label="a block"),
        Line2D([], [], color="#C03030", linestyle="dashed", linewidth=1.2, label="margin"),
    ]
    figure.legend(
        handles=found,
        loc="lower center",
        bbox_to_anchor=(0.5, 0.06 / height),
        ncols=len(found),
        frameon=False,
        fontsize=8,
        handletextpad=0.5,
        columnspacing=1.4,
    )
