"""Calibration of a machine: stored beside a device's runs, shown as a table, compared with the margins of a gate."""

from collections.abc import Callable
from pathlib import Path

from fastvit_bench.records import Machine
from fastvit_bench.records.comparison import Calibration, CellCalibration, Plan
from fastvit_bench.render.table import NONE, Column, Table, TableReport
from fastvit_bench.render.text import printable
from fastvit_bench.store import documents

NAME = "calibration.json"  # in the folder of a device's results; the last one counts


def save(calibration: Calibration, folder: Path) -> Path:
    """Write a calibration into a device's folder, replacing an earlier one, and return its path.

    Raises `StoreError` if it cannot be written.
    """
    path = folder / NAME
    documents.write(path, documents.encoded(calibration), "calibration")
    return path


def load(folder: Path) -> Calibration | None:
    """Return the last calibration of a device, or None if there is none.

    Raises `StoreError` for one that cannot be read.
    """
    path = folder / NAME
    return documents.read(path, documents.CALIBRATION) if path.exists() else None


def doubts(folder: Path, plan: Plan, machine: Machine) -> list[str]:
    """Return a sentence for each cell whose margin is below the noise floor of the last calibration on `machine`.

    A calibration of another machine is ignored.
    """
    known = load(folder)
    if known is None or (known.machine is not None and not known.machine.is_same_as(machine)):
        return []
    margins = [(cell, plan.margin) for cell in known.cells]
    margins += [(known.pooled, plan.pooled_margin)] if known.pooled else []
    return [
        f"{_name(cell)}: the margin of {_percent(margin)} is below the noise floor of {_percent(cell.floor)} that "
        f"`calibrate` found here, so a verdict may stay open."
        for cell, margin in margins
        if cell.floor is not None and cell.floor > margin
    ]


def _share(name: str, title: str, share: Callable[[CellCalibration], float | None]) -> Column[CellCalibration]:
    return Column(name, title, share, lambda cell: _percent(share(cell)), align="right")


_COLUMNS: list[Column[CellCalibration]] = [
    Column("cell", "cell", lambda cell: cell.name, lambda cell: printable(_name(cell)), role="key"),
    _share("margin", "margin", lambda cell: cell.margin),
    Column("blocks", "blocks", lambda cell: cell.blocks, align="right"),
    _share("scatter", "scatter", lambda cell: cell.scatter),
    _share("floor", "noise floor", lambda cell: cell.floor),
    _share("detectable", "detectable", lambda cell: cell.detectable),
    Column(
        "false_alarms",
        "false alarms (of redrawn)",
        lambda cell: cell.false_alarms,
        lambda cell: f"{cell.false_alarms} ({_percent(cell.drawn_false_alarms)})",
        align="right",
    ),
    Column(
        "inconclusive",
        "left open (of redrawn)",
        lambda cell: cell.inconclusive,
        lambda cell: f"{cell.inconclusive} ({_percent(cell.drawn_inconclusive)})",
        align="right",
    ),
]


def report(calibration: Calibration) -> TableReport:
    """Return a table with a row per cell and one of all together, with the result in a sentence."""
    cells = [*calibration.cells, *([calibration.pooled] if calibration.pooled else [])]
    title = f"{calibration.repetitions} gates of each cell against itself"
    return TableReport([Table(cells, _COLUMNS, title)], notes=[sentence(calibration)])


def sentence(calibration: Calibration) -> str:
    """Return the result of a calibration in a sentence, for choosing a margin."""
    floors = [cell.floor for cell in calibration.cells if cell.floor is not None]
    lowest = f" Margins below {_percent(max(floors))} would leave cells open here." if floors else ""
    return (
        f"Of {calibration.repetitions} gates in which nothing had changed, {calibration.false_alarms} called a "
        f"regression and {calibration.inconclusive} stayed open.{lowest}"
    )


def _name(cell: CellCalibration) -> str:
    return cell.name or "all together"


def _percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.2g} %"
