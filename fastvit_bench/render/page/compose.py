"""The report: one page of rows, comparisons and what joins them, or single pictures of its figures."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fastvit_bench import files
from fastvit_bench.comparing import chart, formats
from fastvit_bench.errors import StoreError, UsageError
from fastvit_bench.history import chart as timeline
from fastvit_bench.history.series import Series, collect, search_all
from fastvit_bench.paper import study_chart, study_frontier
from fastvit_bench.records.comparison import Comparison
from fastvit_bench.records.study import StudyResult
from fastvit_bench.render import charts, page
from fastvit_bench.render import frontiers as standings
from fastvit_bench.render import row_charts as drawing
from fastvit_bench.render.charts import LIGHT, PAGE, Chart, Palette
from fastvit_bench.render.frontiers import Frontier, Group
from fastvit_bench.render.page.content import content
from fastvit_bench.render.ratios import Key, Ratio, against
from fastvit_bench.render.row_charts import MOST_CHOICES
from fastvit_bench.render.rows import Row
from fastvit_bench.render.rows import newest as newest_rows
from fastvit_bench.stats.pareto import Counted
from fastvit_bench.store.runs import RunFile

MOST_COMPARISONS = 20  # the newest ones in the results
MOST_ROWS = 500  # of a page, which has a line for each of their figures and opens at once


def html(
    rows: Sequence[Row],
    comparisons: Sequence[Comparison],
    *,
    studies: Sequence[StudyResult] = (),
    histories: Sequence[Series] = (),
    title: str,
    footer: str,
    reference: str | None = None,
    accuracies: Mapping[str, Counted] | None = None,
    notes: Sequence[str] = (),
    advice: Sequence[tuple[str, str]] = (),
) -> str:
    """Return the page. Raises as `ratios.against` and `charts.require` do.

    `footer` says when and by what the page was made, `advice` what there is to do where nothing was measured yet.
    """
    charts.require()
    groups, frontiers, ratios = _joined(rows, reference, accuracies)
    palette = PAGE.beside(models(rows, comparisons, studies))
    with charts.unchecked():
        figures, omitted = _figures(
            rows, comparisons, studies, histories, groups, frontiers, ratios, reference, palette
        )
    words = content(
        rows,
        groups,
        frontiers,
        comparisons,
        studies,
        title=title,
        footer=footer,
        accuracies=accuracies,
        ratios=ratios,
        reference=reference,
        notes=[*notes, *omitted],
        advice=advice,
    )
    return page.html(words, figures, page.bundle())


def pictures(
    rows: Sequence[Row],
    comparisons: Sequence[Comparison],
    folder: Path,
    kind: str,
    *,
    studies: Sequence[StudyResult] = (),
    histories: Sequence[Series] = (),
    reference: str | None = None,
    accuracies: Mapping[str, Counted] | None = None,
    force: bool = False,
) -> tuple[list[Path], list[str]]:
    """Write every figure into a folder as SVG or PNG; return the files, and sentences on figures left out.

    Raises as `html` does, `UsageError` when there is nothing to draw or, without `force`, a file is in the way that
    this tool did not write, `StoreError` where a file cannot be written.
    """
    charts.require()
    groups, frontiers, ratios = _joined(rows, reference, accuracies)
    palette = LIGHT.beside(models(rows, comparisons, studies))
    with charts.unchecked():
        figures, omitted = _figures(
            rows, comparisons, studies, histories, groups, frontiers, ratios, reference, palette
        )
    if not figures:
        raise UsageError("There is nothing to draw: no frontier, no model at two sizes, no comparison and no study.")
    drawn = {folder / f"{figure.name}.{kind}": figure for figure in figures}
    for path in drawn:
        files.check_output(path, force=force)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path, figure in drawn.items():
            files.write(path, charts.picture(figure, kind))
    except OSError as error:
        raise StoreError(f"The pictures cannot be written to {folder}: {error.strerror or error}.") from error
    return list(drawn), omitted


def check(path: Path, inputs: Iterable[Path] = (), *, force: bool = False) -> None:
    """Raise `UsageError` for a file that a page must not be written to.

    These are names without .html, an input and, without `force`, any file that this tool did not write.
    """
    if path.suffix.lower() != ".html":
        raise UsageError(f"{path} is no name of a page; end it in .html.")
    files.check_output(path, inputs=inputs, force=force)


def write(text: str, path: Path) -> None:
    """Write a page, completely or not at all. Raises `StoreError`."""
    try:
        files.write(path, text.encode("utf-8"))
    except OSError as error:
        raise StoreError(f"The report {path} cannot be written: {error.strerror or error}.") from error


def stored_comparisons(folders: Sequence[Path], asked: Sequence[Path]) -> tuple[list[Comparison], list[str], list[str]]:
    """Return the comparisons asked for, then the newest in these folders.

    Sentences follow: on each that cannot be read, and on those that are too many. Raises `StoreError` for one that was
    asked for and cannot be read.
    """
    comparisons = [formats.read(path) for path in asked]
    known = {path.resolve() for path in asked}
    stored = [path for folder in folders for name in ("gate-", "compare-") for path in folder.glob(f"{name}*.json")]
    # an id begins with the time, so names without their first word are in the order of time
    newest = sorted(stored, key=lambda path: path.stem.partition("-")[2], reverse=True)
    unreadable: list[str] = []
    read = 0
    for path in newest:
        if path.resolve() in known or read == MOST_COMPARISONS:
            continue
        try:
            comparisons.append(formats.read(path))
            read += 1
        except StoreError as error:
            unreadable.append(f"A stored comparison is left out: {error}")
    if len(newest) <= MOST_COMPARISONS:
        return comparisons, unreadable, []
    return comparisons, unreadable, [f"Of {len(newest)} stored comparisons the newest {MOST_COMPARISONS} are shown."]


def newest(rows: Sequence[Row]) -> tuple[list[Row], list[str]]:
    """Return the rows that a page or its pictures are of, and a sentence on those that are too many."""
    chosen = newest_rows(rows, MOST_ROWS)
    if len(chosen) == len(rows):
        return chosen, []
    figures, shown = (sum(len(row.measured) for row in some) for some in (rows, chosen))
    return chosen, [
        f"Of {len(rows):,} rows with {figures:,} figures the newest {MOST_ROWS} with {shown:,} are shown; histories "
        f"are of all. Choose others with --model, --device, --since or --where; `fastvit-bench table -f csv` has all."
    ]


def models(rows: Sequence[Row], comparisons: Sequence[Comparison], studies: Sequence[StudyResult]) -> set[str]:
    """Return the models of a page, whose colours differ."""
    return {
        *(row.model for row in rows),
        *(model for comparison in comparisons for model in chart.models(comparison)),
        *(model for study in studies for model in study_chart.models(study)),
    }


def _joined(
    rows: Sequence[Row], reference: str | None, accuracies: Mapping[str, Counted] | None
) -> tuple[list[Group], list[Frontier], dict[Key, Ratio]]:
    ratios = against(rows, reference) if reference is not None else {}
    groups = standings.groups(rows)
    return groups, standings.frontiers(groups, accuracies), ratios


def _figures(
    rows: Sequence[Row],
    comparisons: Sequence[Comparison],
    studies: Sequence[StudyResult],
    histories: Sequence[Series],
    groups: Sequence[Group],
    frontiers: Sequence[Frontier],
    ratios: Mapping[Key, Ratio],
    reference: str | None,
    palette: Palette,
) -> tuple[list[Chart], list[str]]:
    """Return every figure, at most so many of a kind; and a sentence on each kind that has more."""
    measured = drawing.conditions(rows)
    devices = _by_device(histories)
    first = sorted(frontiers, key=lambda frontier: -len(frontier.places))  # stable: groups and sizes keep their order
    figures: list[Chart | None] = []
    notes: list[str] = []
    for what, count, drawn in (
        ("frontiers", len(first), (drawing.accuracy(frontier, measured, palette) for frontier in first[:MOST_CHOICES])),
        (
            "ways of measuring",
            len(groups),
            (drawing.resolution(group, measured, palette) for group in groups[:MOST_CHOICES]),
        ),
        (
            "ways of measuring, of ratios",
            len(groups) if reference is not None else 0,
            (
                drawing.ratios(group, ratios, reference or "", measured, palette)
                for group in groups[:MOST_CHOICES]
                if ratios
            ),
        ),
        (
            "histories",
            len(devices),
            (timeline.figure(name, series, palette) for name, series in list(devices.items())[:MOST_CHOICES]),
        ),
        (
            "studies",
            len(studies),
            (
                drawn.figure(study, palette)
                for study in studies[:MOST_CHOICES]
                for drawn in (study_frontier, study_chart)
            ),
        ),
        (
            "comparisons",
            len(comparisons),
            (chart.comparison(comparison, palette) for comparison in comparisons[:MOST_CHOICES]),
        ),
    ):
        figures += drawn
        if count > MOST_CHOICES:
            notes.append(f"Of {count} {what} the first {MOST_CHOICES} are drawn; all are in the tables.")
    return _named([figure for figure in figures if figure]), notes


def developed(files: Iterable[RunFile]) -> list[Series]:
    """Return the series of cells that were measured in several runs, with their changes."""
    return search_all(series for series in collect(files) if len(series.points) > 1)


def _by_device(histories: Sequence[Series]) -> dict[str, list[Series]]:
    """Return the series of each device, in the order in which each was first measured."""
    devices: dict[str, list[Series]] = {}
    for series in histories:
        devices.setdefault(series.row.device.name, []).append(series)
    return devices


def _named(figures: Sequence[Chart]) -> list[Chart]:
    """Return the figures with file names that differ."""
    counts: dict[str, int] = {}
    renamed: list[Chart] = []
    for figure in figures:
        counts[figure.name] = counts.get(figure.name, 0) + 1
        number = counts[figure.name]
        renamed.append(figure if number == 1 else replace(figure, name=f"{figure.name}-{number}"))
    return renamed
