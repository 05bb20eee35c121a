"""What `calibrate` found of a machine: kept beside a device's runs, tabulated, held against the margins of a gate."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from fastvit_bench import files
from fastvit_bench.errors import StoreError
from fastvit_bench.records import Machine
from fastvit_bench.render import terminal
from fastvit_bench.render.table import Column
from fastvit_bench.report.sheet import plain
from fastvit_bench.verdicts import Calibration, CellCalibration, Plan

if TYPE_CHECKING:
    from rich.console import Group

NAME = "calibration.json"  # in the folder of a device's results; the last one counts


def save(calibration: Calibration, folder: Path) -> Path:
    """Keep it in a device's folder, in place of an earlier one; raises `StoreError` where the disk refuses."""
    path = folder / NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        files.write(path, msgspec.json.format(msgspec.json.encode(calibration), indent=2) + b"\n")
    except OSError as error:
        raise StoreError(f"The calibration {path} cannot be written: {error.strerror or error}.") from error
    return path


def load(folder: Path) -> Calibration | None:
    """The last calibration of a device, None where there is none; raises `StoreError` for one that cannot be read."""
    path = folder / NAME
    try:
        return msgspec.json.decode(path.read_bytes(), type=Calibration)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise StoreError(f"{path} cannot be read ({error}); remove it, or calibrate again.") from None


def doubts(folder: Path, plan: Plan, machine: Machine) -> list[str]:
    """Cells whose margin is below the noise that the last calibration found on `machine`: one sentence each.

    What another machine's calibration found says nothing here.
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


# heading -> text of a cell
_COLUMNS: dict[str, Callable[[CellCalibration], str]] = {
    "margin": lambda cell: _percent(cell.margin),
    "blocks": lambda cell: str(cell.blocks),
    "scatter": lambda cell: _percent(cell.scatter),
    "noise floor": lambda cell: _percent(cell.floor),
    "detectable": lambda cell: _percent(cell.detectable),
    "false alarms (of redrawn)": lambda cell: f"{cell.false_alarms} ({_percent(cell.drawn_false_alarms)})",
    "left open (of redrawn)": lambda cell: f"{cell.inconclusive} ({_percent(cell.drawn_inconclusive)})",
}


def rich(calibration: Calibration, width: int) -> "Group":
    """A row per cell, for a terminal of so many columns."""
    from rich.console import Group
    from rich.text import Text

    cells = [*calibration.cells, *([calibration.pooled] if calibration.pooled else [])]
    columns = [
        Column("cell", [plain(_name(cell)) for cell in cells]),
        *(Column(title, [text(cell) for cell in cells], "right") for title, text in _COLUMNS.items()),
    ]
    title = Text(f"{calibration.repetitions} gates of each cell against itself", style="bold")
    return Group(title, terminal.styled(terminal.layout(columns, width)))


def sentence(calibration: Calibration) -> str:
    """What a person should know before choosing a margin."""
    floors = [cell.floor for cell in calibration.cells if cell.floor is not None]
    lowest = f" Margins below {_percent(max(floors))} would leave cells open here." if floors else ""
    return (
        f"Of {calibration.repetitions} gates in which nothing had changed, {calibration.false_alarms} called a "
        f"regression and {calibration.inconclusive} stayed open.{lowest}"
    )


def _name(cell: CellCalibration) -> str:
    return cell.name or "all together"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2g} %"
