"""The claims of the paper's text, checked against its own tables and against the figures that this tool measured.

The claims are data (``results/published/claims.toml``): the text, and the cells of the published tables it must follow
from. This module computes the verdicts.
"""

import difflib
import itertools
import re
import tomllib
from collections.abc import Collection, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from fastvit_bench import files
from fastvit_bench.errors import ConfigError, UsageError
from fastvit_bench.paper import published
from fastvit_bench.paper.published import FigurePlace, Printed
from fastvit_bench.records import Record
from fastvit_bench.render.text import interval_text


class ClaimKind(StrEnum):
    """Formulas that give the number of a claim from a cell and its base."""

    TIMES_LESS = "times-less"  # base / cell
    TIMES_MORE = "times-more"  # cell / base
    PERCENT_LESS = "percent-less"  # 100 (1 - cell / base)
    PERCENT_MORE = "percent-more"  # 100 (cell / base - 1)
    DIFFERENCE = "difference"  # cell - base
    VALUE = "value"  # cell, without a base

    @property
    def neutral(self) -> float:
        """The number that two equal cells give; greater numbers lie in the claim's direction."""
        return 1.0 if self in (ClaimKind.TIMES_LESS, ClaimKind.TIMES_MORE) else 0.0


Figures = Literal["latency", "params", "macs"]
DeviceKind = Literal["iphone", "gpu", "other"]


class WantedFigure(Record, frozen=True):
    """The figures of a study that measure a claim: a row, its reference, a column and a size."""

    study: str
    row: str  # measures the claim's cell
    reference: str  # measures its base
    column: Figures
    size: int | None = None  # pixels; None where the names of the rows say it


class ClaimedCell(Printed, frozen=True):
    """A published number and its place in the files."""

    place: FigurePlace

    @property
    def ends(self) -> tuple[float, float]:
        """The range of the exact number, which was rounded to the printed one or read off a plot."""
        half = _DIGITISED[self.place.table] if self.status == "digitised" else _unit_in_the_last_place(self.text) / 2
        value = float(self.text)
        return value - half, value + half

    @property
    def table(self) -> str:
        """The name of the table for people: ``table 5``."""
        return _table(self.place.table)

    @property
    def figure(self) -> str:
        """The number with its unit: ``2.2 ms``."""
        return f"{self.text} {self.unit.partition(' ')[0]}"


class Reading(Record, frozen=True):
    """Another formula or other cells that may give a claim's number."""

    what: str
    kind: ClaimKind
    cell: ClaimedCell
    base: ClaimedCell | None


class Claim(Record, frozen=True):
    """One number of the paper's text and the cells it must follow from."""

    id: str
    section: str
    text: str
    where: tuple[str, ...]
    printed: str
    said: ClaimedCell  # that holds the printed number
    kind: ClaimKind
    cell: ClaimedCell
    base: ClaimedCell | None
    instead: tuple[Reading, ...]
    measured: WantedFigure | None
    study: str | None  # that it belongs to

    @property
    def printed_for(self) -> DeviceKind | None:
        """The kind of device that a latency was printed for; None of any other figure."""
        column = self.cell.place.column
        return "iphone" if "mobile_latency" in column else "gpu" if "gpu_latency" in column else None


class Measured(Record, frozen=True):
    """A figure of a study that has run, with its interval, device and source."""

    study: str
    row: str
    reference: str | None  # the row that a latency is divided by; None of a count
    size: int  # pixels
    column: Figures
    value: float  # of latencies row / reference; of params and macs (one image) the row's own number
    interval: tuple[float, float] | None  # 95 %, of the ratio; None of a count
    device: str
    device_kind: DeviceKind
    machine: str  # in one line
    finished: str
    source: str  # file


class ClaimVerdict(StrEnum):
    """Verdicts on a claim of the paper's text from the paper's own tables."""

    AGREES = "agrees"
    DIFFERS = "does not follow"
    UNCHECKABLE = "not checkable"


class ClaimOutcome(StrEnum):
    """Outcomes of a claim's comparison with a study that this tool measured."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    NOT_COMPARABLE = "not comparable here"


class Recomputed(Record, frozen=True):
    """The number that cells give and the range that their rounding leaves open, in the unit of the claim."""

    value: float
    low: float
    high: float
    shown: str  # with its unit
    fit: str | None  # a key of `_FITS`: how the printed number follows; None where it does not


class Aside(Record, frozen=True):
    """The number that another reading of a claim gives, with a sentence on it."""

    what: str
    recomputed: Recomputed | None
    sentence: str


class DeviceComparison(Record, frozen=True):
    """A claim compared with one device's measurement, or the reason why there is none."""

    outcome: ClaimOutcome
    sentence: str
    value: float | None = None  # in the unit of the claim
    low: float | None = None
    high: float | None = None
    shown: str | None = None  # with its unit and interval
    same_device: bool | None = None  # whether it is of the kind the claim was printed for; None of counts
    measured: Measured | None = None


class Judged(Record, frozen=True):
    """A claim with its verdict on the paper's tables and its comparison with every device's measurement."""

    claim: Claim
    printed: str  # with its unit
    recomputed: Recomputed | None
    off: str | None  # recomputed minus printed, with its sign
    verdict: ClaimVerdict
    sentence: str  # why; empty where the numbers say it
    asides: tuple[Aside, ...]
    here: tuple[DeviceComparison, ...]


# --- reading ----------------------------------------------------------------------------------------------------------

FILE = "claims.toml"


class _Reading(Record, frozen=True):
    what: str
    kind: ClaimKind | None = None
    cell: FigurePlace | None = None
    base: FigurePlace | None = None


class _Claim(Record, frozen=True):
    """An entry of the file before its places are looked up."""

    id: Annotated[str, msgspec.Meta(pattern="^[a-z0-9-]+$")]
    section: str
    text: str
    where: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    printed: Annotated[str, msgspec.Meta(pattern=r"^[0-9]+(\.[0-9]+)?$")]
    said: FigurePlace
    kind: ClaimKind
    cell: FigurePlace
    base: FigurePlace | None = None
    instead: tuple[_Reading, ...] = ()
    measured: WantedFigure | None = None
    study: str | None = None


def load(path: Path | None = None, printed: Mapping[FigurePlace, Printed] | None = None) -> tuple[Claim, ...]:
    """Load the claims with their cells, in the order of the file; by default from the files of the package.

    Raises `ConfigError`, which names the file, the entry and its key. It is raised for an entry that is no claim, a
    cell that does not exist, and a number that is not in its cell.
    """
    path = path or files.find("published") / FILE
    printed = published.printed() if printed is None else printed
    try:
        document = tomllib.loads(files.read_text(path))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {str(error).rstrip('.')}.") from None
    entries = document.pop("claim", None)
    if document or not isinstance(entries, list) or not entries:
        raise ConfigError(f"{path} must hold entries [[claim]] and nothing else.")
    loaded: dict[str, Claim] = {}
    for number, entry in enumerate(entries, 1):
        claim = _Reader(path, number, entry, printed).claim()
        if claim.id in loaded:
            raise ConfigError(f"{path}, claim '{claim.id}', key 'id': an earlier claim has the same.")
        loaded[claim.id] = claim
    return tuple(loaded.values())


class _Reader:
    """Converter of one entry into a claim; its errors name the entry and the key."""

    def __init__(self, path: Path, number: int, entry: Any, printed: Mapping[FigurePlace, Printed]) -> None:
        name = entry.get("id") if isinstance(entry, dict) else None
        self.where = f"{path}, claim '{name}'" if isinstance(name, str) else f"{path}, claim number {number}"
        self.entry = entry
        self.printed = printed

    def claim(self) -> Claim:
        """Return the claim of the entry; raises `ConfigError` for any mistake in it."""
        entry = self._entry()
        quoted = self.cell("said", entry.said)
        if entry.printed not in re.findall(r"\d+(?:\.\d+)?", quoted.text):
            raise self.error("printed", f"{entry.printed} does not stand in that cell, which holds '{quoted.text}'")
        if not float(entry.printed):
            raise self.error("printed", "a number above 0 is needed")
        if (entry.kind is ClaimKind.VALUE) is not (entry.base is None):
            raise self.error("base", f"a claim of kind '{entry.kind}' takes {'no' if entry.base else 'a'} base")
        cell = self.cell("cell", entry.cell)
        base = self.cell("base", entry.base) if entry.base else None
        readings = self._readings(entry, cell, base)
        if entry.measured is None and entry.kind is not ClaimKind.VALUE and entry.cell.column not in _UNMEASURED:
            raise self.error("measured", f"a claim about '{entry.cell.column}' says which study measures it")
        if entry.measured is not None and entry.kind is ClaimKind.VALUE:
            raise self.error("measured", "a claim that is one cell has no ratio to measure")
        claim = Claim(
            id=entry.id,
            section=entry.section,
            text=entry.text,
            where=entry.where,
            printed=entry.printed,
            said=quoted,
            kind=entry.kind,
            cell=cell,
            base=base,
            instead=readings,
            measured=entry.measured,
            study=entry.measured.study if entry.measured else entry.study,
        )
        timed = entry.measured is not None and entry.measured.column == "latency"
        if timed and (entry.kind is ClaimKind.DIFFERENCE or claim.printed_for is None):
            raise self.error("measured", "only a ratio of latencies, of the phone or of the GPU, is held against one")
        return claim

    def _entry(self) -> _Claim:
        try:
            return msgspec.convert(self.entry, _Claim)
        except msgspec.ValidationError as error:
            what, _, where = str(error).partition(" - at `$.")
            raise self.error(re.split(r"[\[`]", where)[0] or None, what.replace("`", "'")) from None

    def _readings(self, entry: _Claim, cell: ClaimedCell, base: ClaimedCell | None) -> tuple[Reading, ...]:
        """Return the other readings; whatever one of them leaves out is the claim's own."""
        readings = tuple(
            Reading(
                what=reading.what,
                kind=reading.kind or entry.kind,
                cell=self.cell("instead", reading.cell) if reading.cell else cell,
                base=self.cell("instead", reading.base) if reading.base else base,
            )
            for reading in entry.instead
        )
        for reading in readings:
            if (reading.kind is ClaimKind.VALUE) is not (reading.base is None):
                raise self.error(
                    "instead", f"a reading of kind '{reading.kind}' takes {'no' if reading.base else 'a'} base"
                )
        return readings

    def cell(self, key: str, place: FigurePlace) -> ClaimedCell:
        """Return the published cell at a place; raises `ConfigError` for none, and for one that is not above 0."""
        if place not in self.printed:
            raise self.error(key, f"nothing is published as {_path(place)}. {_nearest(place, self.printed)}")
        cell = ClaimedCell(place=place, **msgspec.structs.asdict(self.printed[place]))
        if cell.value is not None and cell.ends[0] <= 0:
            raise self.error(key, f"{_path(place)} is {cell.text}, too near to nothing to be compared")
        return cell

    def error(self, key: str | None, what: str) -> ConfigError:
        """Return an error that names the file, the entry and the key."""
        return ConfigError(f"{self.where}{f', key {key!r}' if key else ''}: {what.rstrip('.')}.")


def _nearest(place: FigurePlace, known: Collection[FigurePlace]) -> str:
    """Return a sentence on places that share the table and the model, as far as such exist."""
    for prefix in (place[:2], place[:1], ()):
        choices = sorted({candidate[len(prefix)] for candidate in known if candidate[: len(prefix)] == prefix})
        if choices:
            near = difflib.get_close_matches(place[len(prefix)], choices, n=3, cutoff=0.4) or choices[:3]
            return f"Nearest: {', '.join(near)}"
    return "No figure is published"


def choose(claims: Sequence[Claim], ids: Sequence[str] = (), study: str | None = None) -> list[Claim]:
    """Return the claims of these ids that belong to a study; without either, all.

    Raises `UsageError` for unknown names.
    """
    studies = {claim.study for claim in claims if claim.study}
    for what, names, known in (
        ("claim", ids, [claim.id for claim in claims]),
        ("study", [study] if study is not None else [], sorted(studies)),
    ):
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
                raise UsageError(f"There is no {what} '{name}'. Nearest: {', '.join(near)}.")
    return [claim for claim in claims if (not ids or claim.id in ids) and study in (None, claim.study)]


# --- the paper against itself -----------------------------------------------------------------------------------------

# the error of a position that was read off a plot, in ms (results/published/README.md)
_DIGITISED = {"fig3_repmixer_vs_pooling_digitised": 0.1, "fig1_points_not_in_table5_digitised": 0.03}


def judged(claims: Sequence[Claim], measured: Sequence[Measured] = (), device: str | None = None) -> list[Judged]:
    """Return each claim with its verdicts; `device` restricts the measurements to those of one device."""
    figures = [figure for figure in measured if device in {None, figure.device}]
    return [_judged(claim, figures, device) for claim in claims]


def _judged(claim: Claim, measured: Sequence[Measured], device: str | None) -> Judged:
    recomputed = _recomputed(claim, claim.kind, claim.cell, claim.base)
    if recomputed is None:
        blank = next(cell for cell in (claim.cell, claim.base) if cell is not None and cell.value is None)
        verdict, sentence = ClaimVerdict.UNCHECKABLE, f"{_has(blank)}."
    elif recomputed.fit is None:
        verdict, sentence = ClaimVerdict.DIFFERS, _mismatch(claim)
    else:
        verdict, sentence = ClaimVerdict.AGREES, _FITS[recomputed.fit]
    return Judged(
        claim=claim,
        printed=_printed(claim),
        recomputed=recomputed,
        off=_signed(recomputed.value - float(claim.printed), _digits(claim, claim.kind)) if recomputed else None,
        verdict=verdict,
        sentence=sentence,
        asides=tuple(_aside(claim, reading) for reading in claim.instead),
        here=_comparisons(claim, measured, device),
    )


# how a printed number can follow from the cells -> the sentence on it
_FITS = {
    "rounded": "",
    "cut off": "Cut off rather than rounded.",
    "within rounding": "Within what the cells may be off by.",
}


def _recomputed(
    claim: Claim, kind: ClaimKind, cell: ClaimedCell, base: ClaimedCell | None, further: int = 0
) -> Recomputed | None:
    """Return the number that cells give, shown with `further` more digits; None where a cell holds no number."""
    if cell.value is None or (base is not None and base.value is None):
        return None
    value = _number(kind, cell.value, base.value if base else None)
    # each formula rises or falls with each cell, so its extremes lie at the ends
    ends = [_number(kind, *pair) for pair in itertools.product(cell.ends, base.ends if base else (None,))]
    low, high = min(ends), max(ends)
    shown = cell.figure if kind is ClaimKind.VALUE else f"{value:.{_digits(claim, kind) + further}f}{_unit(kind, cell)}"
    return Recomputed(value=value, low=low, high=high, shown=shown, fit=_fit(claim.printed, value, low, high))


def _number(kind: ClaimKind, cell: float, base: float | None) -> float:
    if base is None:
        return cell
    return cell - base if kind is ClaimKind.DIFFERENCE else _of_ratio(kind, cell / base)


def _of_ratio(kind: ClaimKind, ratio: float) -> float:
    """Return the number of a claim from cell / base; it rises in the claim's direction."""
    match kind:
        case ClaimKind.TIMES_LESS:
            return 1 / ratio
        case ClaimKind.TIMES_MORE:
            return ratio
        case ClaimKind.PERCENT_LESS:
            return 100 * (1 - ratio)
        case ClaimKind.PERCENT_MORE:
            return 100 * (ratio - 1)
        case ClaimKind.DIFFERENCE | ClaimKind.VALUE:
            raise ValueError(f"{kind} is no ratio")


_EPSILON = 1e-9  # the error of binary fractions


def _fit(printed: str, value: float, low: float, high: float) -> str | None:
    """Return how a printed number follows from a value between `low` and `high`, as a key of `_FITS`, or None.

    It follows by rounding, by cutting off the last digits, or because the cells had more digits than are printed.
    """
    number, unit = float(printed), _unit_in_the_last_place(printed)
    if abs(value - number) <= unit / 2 + _EPSILON:
        return "rounded"
    if -_EPSILON <= value - number < unit - _EPSILON:
        return "cut off"
    if low < number + unit / 2 - _EPSILON and high > number - unit / 2 + _EPSILON:
        return "within rounding"
    return None


def _unit_in_the_last_place(text: str) -> float:
    """Return the value of the last digit: 0.1 of ``2.2``, 1 of ``20``."""
    return 10.0 ** -_decimals(text)


def _mismatch(claim: Claim) -> str:
    """Return a sentence on the cell that the printed number would need."""
    cell, base = claim.cell, claim.base
    if base is None:
        return ""
    number, reference = float(claim.printed), float(base.text)
    match claim.kind:
        case ClaimKind.TIMES_LESS:
            needed = reference / number
        case ClaimKind.TIMES_MORE:
            needed = reference * number
        case ClaimKind.PERCENT_LESS:
            needed = reference * (1 - number / 100)
        case ClaimKind.PERCENT_MORE:
            needed = reference * (1 + number / 100)
        case ClaimKind.DIFFERENCE | ClaimKind.VALUE:
            needed = reference + number
    unit = cell.unit.partition(" ")[0]
    wanted = f"{needed:.{_decimals(cell.text)}f} {unit} for {cell.place.model}"
    beside = f"the {base.figure} of {base.place.model}"
    table = cell.table[0].upper() + cell.table[1:]
    return f"{_printed(claim)} would take {wanted} beside {beside}. {table} has {cell.figure}."


def _aside(claim: Claim, reading: Reading) -> Aside:
    # per cents get a digit more, so that the printed number and a near one look different
    recomputed = _recomputed(claim, reading.kind, reading.cell, reading.base, further=int("percent" in reading.kind))
    cells = [cell for cell in (reading.cell, reading.base) if cell is not None]
    with_what = " and ".join(f"{cell.place.model} {cell.figure}" for cell in cells)
    if recomputed is None:
        return Aside(what=reading.what, recomputed=None, sentence=f"{reading.what}: not published.")
    fits = {None: "", "rounded": ", as printed", "cut off": ", as printed if cut off", "within rounding": ", near it"}
    sentence = f"{reading.what} ({with_what}): {recomputed.shown}{fits[recomputed.fit]}."
    return Aside(what=reading.what, recomputed=recomputed, sentence=sentence)


# --- the paper against measurements -----------------------------------------------------------------------------------

# column of a claim that no study measures -> why
_UNMEASURED = {
    "top1": "Top-1 takes trained weights of every row; studies time networks with random ones.",
    "train_time": "Training is not timed here.",
    "miou": "No segmentation network is trained or evaluated here, only its backbone is timed.",
    "fps": "The mesh regression behind the backbone, and its rivals, are not part of this tool.",
}
_OF_THE_TABLES = "Said of the paper's own tables; there is nothing to measure."

# kind of device -> the one that the paper printed latencies of
PRINTED_FOR: dict[DeviceKind, str] = {"iphone": "an iPhone 12 Pro (Core ML)", "gpu": "an RTX 2080 Ti (TensorRT)"}

_COUNTED = {"params": (1e6, "M"), "macs": (1e9, "G")}  # the paper's FLOPs are multiply-accumulates


def _comparisons(claim: Claim, measured: Sequence[Measured], device: str | None) -> tuple[DeviceComparison, ...]:
    wanted = claim.measured
    if wanted is None:
        reason = _OF_THE_TABLES if claim.kind is ClaimKind.VALUE else _UNMEASURED[claim.cell.place.column]
        return (DeviceComparison(outcome=ClaimOutcome.NOT_COMPARABLE, sentence=reason),)
    figures = [figure for figure in measured if figure.study == wanted.study]
    if not figures:
        on = f" on '{device}'" if device else ""
        sentence = f"The study '{wanted.study}' has not run{on}."
        return (DeviceComparison(outcome=ClaimOutcome.NOT_COMPARABLE, sentence=sentence),)
    if wanted.column != "latency":
        return (_counted(claim, wanted, figures),)
    devices = dict.fromkeys(figure.device for figure in figures)
    return tuple(
        _timed(claim, wanted, [figure for figure in figures if figure.device == name], name) for name in devices
    )


def _newest(figures: Sequence[Measured], wanted: WantedFigure, row: str, reference: str | None) -> Measured | None:
    fitting = [
        figure
        for figure in figures
        if (figure.row, figure.reference, figure.column) == (row, reference, wanted.column)
        and wanted.size in {None, figure.size}
    ]
    return max(fitting, key=lambda figure: figure.finished, default=None)


def _timed(claim: Claim, wanted: WantedFigure, figures: Sequence[Measured], device: str) -> DeviceComparison:
    """Compare a claim with a measured ratio of latencies, by the rule of docs/explanation/claims.md on its interval."""
    best = _newest(figures, wanted, wanted.row, wanted.reference)
    if best is None:
        at = f" at {wanted.size} pixels" if wanted.size else ""
        return DeviceComparison(
            outcome=ClaimOutcome.NOT_COMPARABLE,
            sentence=f"On '{device}' the study has no ratio of {wanted.row} to {wanted.reference}{at}: one of them "
            f"was not timed there, or could not be exported.",
        )
    kind = claim.printed_for
    assert kind is not None  # as `load` has made sure
    same = kind == best.device_kind
    on = f"Printed for {PRINTED_FOR[kind]}, measured on '{device}' ({best.machine})"
    on += "." if same else ". The latter says nothing of the former."
    value = _of_ratio(claim.kind, best.value)
    if best.interval is None:
        shown = _in_words(claim, value)
        return DeviceComparison(
            outcome=ClaimOutcome.NOT_COMPARABLE,
            sentence=f"{shown}, without an interval. {on}",
            value=value,
            shown=shown,
            same_device=same,
            measured=best,
        )
    low, high = sorted(_of_ratio(claim.kind, end) for end in best.interval)
    outcome, finding = _compared(claim, low, high)
    digits = _digits(claim, claim.kind)
    shown = f"{_in_words(claim, value)} {interval_text(low, high, digits)}"
    return DeviceComparison(
        outcome=outcome,
        sentence=f"{shown}: {finding}. {on}",
        value=value,
        low=low,
        high=high,
        shown=shown,
        same_device=same,
        measured=best,
    )


def _compared(claim: Claim, low: float, high: float) -> tuple[ClaimOutcome, str]:
    """Compare an interval, in the unit of the claim, with the printed number, which was rounded."""
    neutral = claim.kind.neutral
    least = float(claim.printed) - _unit_in_the_last_place(claim.printed) / 2
    if high >= least and low <= neutral:
        return ClaimOutcome.NOT_COMPARABLE, f"too coarse, it holds both {_printed(claim)} and no difference at all"
    if high >= least:
        beyond = low > float(claim.printed) + _unit_in_the_last_place(claim.printed) / 2
        return ClaimOutcome.REPRODUCED, f"{'goes beyond' if beyond else 'reaches'} {_printed(claim)}"
    if low > neutral:
        return ClaimOutcome.NOT_REPRODUCED, f"in the same direction, but short of {_printed(claim)}"
    if high < neutral:
        return ClaimOutcome.NOT_REPRODUCED, f"in the opposite direction to {_printed(claim)}"
    return ClaimOutcome.NOT_REPRODUCED, f"no difference can be shown, where {_printed(claim)} is printed"


def _counted(claim: Claim, wanted: WantedFigure, figures: Sequence[Measured]) -> DeviceComparison:
    """Compare a claim with counts, which are exact: they give the printed number or they do not."""
    row, reference = (_newest(figures, wanted, name, None) for name in (wanted.row, wanted.reference))
    if row is None or reference is None:
        missing = " and ".join(
            name for name, figure in ((wanted.row, row), (wanted.reference, reference)) if figure is None
        )
        return DeviceComparison(
            outcome=ClaimOutcome.NOT_COMPARABLE, sentence=f"The study '{wanted.study}' has no count of {missing}."
        )
    scale, unit = _COUNTED[wanted.column]
    value = _number(claim.kind, row.value / scale, reference.value / scale)
    fit = _fit(claim.printed, value, value, value)
    shown = _in_words(claim, value)
    finding = f"as printed{', cut off' if fit == 'cut off' else ''}" if fit else f"where {_printed(claim)} is printed"
    return DeviceComparison(
        outcome=ClaimOutcome.REPRODUCED if fit else ClaimOutcome.NOT_REPRODUCED,
        sentence=f"Counted {row.value / scale:.2f} {unit} for {row.row} and {reference.value / scale:.2f} {unit} for "
        f"{reference.row}: {shown}, {finding}.",
        value=value,
        low=value,
        high=value,
        shown=shown,
        measured=row,
    )


# --- as text ----------------------------------------------------------------------------------------------------------


def _unit(kind: ClaimKind, cell: ClaimedCell) -> str:
    match kind:
        case ClaimKind.TIMES_LESS | ClaimKind.TIMES_MORE:
            return "×"
        case ClaimKind.PERCENT_LESS | ClaimKind.PERCENT_MORE:
            return " %"
        case ClaimKind.DIFFERENCE:
            return " points" if cell.unit == "%" else f" {cell.unit}"
        case ClaimKind.VALUE:
            return f" {cell.unit.partition(' ')[0]}"


def _printed(claim: Claim) -> str:
    """Return the printed number with its unit, as the paper writes it: differences in points are given in per cent."""
    unit = _unit(claim.kind, claim.cell)
    return claim.printed + (" %" if unit == " points" else unit)


def _in_words(claim: Claim, value: float) -> str:
    """Return a measured number with its unit."""
    return f"{value:.{_digits(claim, claim.kind)}f}{_unit(claim.kind, claim.cell)}"


def _digits(claim: Claim, kind: ClaimKind) -> int:
    """Return the digits behind the point: one more than printed for ratios, at least one for differences."""
    printed = _decimals(claim.printed)
    if kind is ClaimKind.VALUE:
        return max(printed, _decimals(claim.cell.text))
    return printed + 1 if kind in (ClaimKind.TIMES_LESS, ClaimKind.TIMES_MORE) else max(printed, 1)


def _signed(value: float, digits: int) -> str:
    """Return a number with its sign: ``-11.5``, ``+0.3``, and ``0.0`` without one."""
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]


def _decimals(text: str) -> int:
    return len(text.partition(".")[2])


def _table(name: str) -> str:
    """Return the name of a table for people: ``table 5`` of ``table5_imagenet``, ``figure 3``, ``timm``."""
    if match := re.match(r"(table|fig)(\d+)_", name):
        return f"{'table' if match[1] == 'table' else 'figure'} {match[2]}"
    return {"readme_zoo": "the README", "text_claims": "the text"}.get(name, name.partition(" ")[0])


def _has(cell: ClaimedCell) -> str:
    """Return a sentence on a cell: ``Table 5 has 5.3 ms for DeiT-S@224``."""
    return f"{cell.table[0].upper()}{cell.table[1:]} has {cell.figure} for {cell.place.model}"


def _path(place: FigurePlace) -> str:
    return " / ".join(place)
