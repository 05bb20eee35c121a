"""The report: rows, comparisons and what joins them become one page, or single pictures of its figures."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from fastvit_bench import files
from fastvit_bench.errors import StoreError, UsageError
from fastvit_bench.render import charts
from fastvit_bench.render.charts import LIGHT, PAGE, Chart, Palette
from fastvit_bench.report import comparison_chart, page, study_figures, verdict
from fastvit_bench.report import figures as drawing
from fastvit_bench.report import frontiers as standings
from fastvit_bench.report.figures import MOST_CHOICES
from fastvit_bench.report.frontiers import Frontier, Group
from fastvit_bench.report.page.content import content
from fastvit_bench.report.pareto import Counted
from fastvit_bench.report.ratios import Key, Ratio, against
from fastvit_bench.report.rows import Row
from fastvit_bench.studies import StudyResult
from fastvit_bench.verdicts import Comparison

MOST_COMPARISONS = 20  # the newest ones, of those that lie in the results


def html(
    rows: Sequence[Row],
    comparisons: Sequence[Comparison],
    *,
    studies: Sequence[StudyResult] = (),
    title: str,
    made: str,
    reference: str | None = None,
    accuracies: Mapping[str, Counted] | None = None,
    notes: Sequence[str] = (),
) -> str:
    """The whole page; `made` says when and by what. Raises as `ratios.against` and `charts.require` do."""
    charts.require()
    groups, frontiers, ratios = _joined(rows, reference, accuracies)
    figures, left_out = _figures(rows, comparisons, studies, groups, frontiers, ratios, reference, PAGE)
    words = content(
        rows,
        groups,
        frontiers,
        comparisons,
        studies,
        title=title,
        made=made,
        accuracies=accuracies,
        ratios=ratios,
        reference=reference,
        notes=[*notes, *left_out],
    )
    return page.html(words, figures, page.bundle())


def pictures(
    rows: Sequence[Row],
    comparisons: Sequence[Comparison],
    folder: Path,
    kind: str,
    *,
    studies: Sequence[StudyResult] = (),
    reference: str | None = None,
    accuracies: Mapping[str, Counted] | None = None,
) -> tuple[list[Path], list[str]]:
    """Write every figure into a folder as SVG or PNG: the files, and what a person should know of those left out.

    Raises as `html` does, `UsageError` when there is nothing to draw, `StoreError` where a file cannot be written.
    """
    charts.require()
    groups, frontiers, ratios = _joined(rows, reference, accuracies)
    figures, left_out = _figures(rows, comparisons, studies, groups, frontiers, ratios, reference, LIGHT)
    if not figures:
        raise UsageError("There is nothing to draw: no frontier, no model at two sizes, no comparison and no study.")
    written: list[Path] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for figure in figures:
            written.append(folder / f"{figure.name}.{kind}")
            written[-1].write_bytes(charts.picture(figure, kind))
    except OSError as error:
        raise StoreError(f"The pictures cannot be written to {folder}: {error.strerror or error}.") from error
    return written, left_out


def write(text: str, path: Path) -> None:
    """Write a page, whole or not at all. Raises `StoreError`."""
    draft = path.with_name(f".{path.name}.partial")
    try:
        draft.write_text(text, encoding="utf-8")
        files.put(draft, path)
    except OSError as error:
        with contextlib.suppress(OSError):  # of a draft that could not be begun
            draft.unlink()
        raise StoreError(f"The report {path} cannot be written: {error.strerror or error}.") from error


def stored_comparisons(folders: Sequence[Path], asked: Sequence[Path]) -> tuple[list[Comparison], list[str]]:
    """Comparisons that were asked for, then the newest that lie in these folders; and a sentence on each left out.

    Raises `StoreError` for one that was asked for and cannot be read.
    """
    found = [verdict.read(path) for path in asked]
    known = {path.resolve() for path in asked}
    lying = [path for folder in folders for name in ("gate-", "compare-") for path in folder.glob(f"{name}*.json")]
    # an id begins with the time, so names without their first word are in the order of time
    newest = sorted(lying, key=lambda path: path.stem.partition("-")[2], reverse=True)
    notes: list[str] = []
    read = 0
    for path in newest:
        if path.resolve() in known or read == MOST_COMPARISONS:
            continue
        try:
            found.append(verdict.read(path))
            read += 1
        except StoreError as error:
            notes.append(f"A stored comparison is left out: {error}")
    if len(newest) > MOST_COMPARISONS:
        notes.append(f"Of {len(newest)} stored comparisons the newest {MOST_COMPARISONS} are shown.")
    return found, notes


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
    groups: Sequence[Group],
    frontiers: Sequence[Frontier],
    ratios: Mapping[Key, Ratio],
    reference: str | None,
    palette: Palette,
) -> tuple[list[Chart], list[str]]:
    """Every figure, at most so many of a kind; and a sentence on each kind that has more."""
    measured = drawing.conditions(rows)
    first = sorted(frontiers, key=lambda each: -len(each.places))  # stable: groups and sizes keep their order
    found: list[Chart | None] = []
    notes: list[str] = []
    for what, count, made in (
        ("frontiers", len(first), (drawing.accuracy(each, measured, palette) for each in first[:MOST_CHOICES])),
        (
            "ways of measuring",
            len(groups),
            (drawing.resolution(each, measured, palette) for each in groups[:MOST_CHOICES]),
        ),
        (
            "ways of measuring, of ratios",
            len(groups) if reference is not None else 0,
            (
                drawing.ratios(each, ratios, reference or "", measured, palette)
                for each in groups[:MOST_CHOICES]
                if ratios
            ),
        ),
        ("studies", len(studies), (study_figures.figure(each, palette) for each in studies[:MOST_CHOICES])),
        (
            "comparisons",
            len(comparisons),
            (comparison_chart.comparison(each, palette) for each in comparisons[:MOST_CHOICES]),
        ),
    ):
        found += made
        if count > MOST_CHOICES:
            notes.append(f"Of {count} {what} the first {MOST_CHOICES} are drawn; all are in the tables.")
    return _named([each for each in found if each]), notes


def _named(figures: Sequence[Chart]) -> list[Chart]:
    """With file names that differ."""
    seen: dict[str, int] = {}
    found: list[Chart] = []
    for figure in figures:
        seen[figure.name] = seen.get(figure.name, 0) + 1
        number = seen[figure.name]
        found.append(figure if number == 1 else replace(figure, name=f"{figure.name}-{number}"))
    return found
