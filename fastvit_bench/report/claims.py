"""The claims of the paper's text: whether its own tables bear them out, and whether what was measured here does.

The claims are data (``results/published/claims.toml``): what is said, and the cells of the published tables it must
follow from. Everything else is computed here.
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

from fastvit_bench import resources
from fastvit_bench.errors import ConfigError, UsageError
from fastvit_bench.records import Record
from fastvit_bench.report import published
from fastvit_bench.report.published import Place, Printed


class Kind(StrEnum):
    """How the number of a claim follows from a cell and the base it is held against."""

    TIMES_LESS = "times-less"  # base / cell
    TIMES_MORE = "times-more"  # cell / base
    PERCENT_LESS = "percent-less"  # 100 (1 - cell / base)
    PERCENT_MORE = "percent-more"  # 100 (cell / base - 1)
    DIFFERENCE = "difference"  # cell - base
    VALUE = "value"  # cell, without a base

    @property
    def neutral(self) -> float:
        """Of two equal cells; what is above lies in the claim's direction."""
        return 1.0 if self in (Kind.TIMES_LESS, Kind.TIMES_MORE) else 0.0


Figures = Literal["latency", "params", "macs"]
DeviceKind = Literal["iphone", "gpu", "other"]


class Wanted(Record, frozen=True):
    """The figures of a study that measure a claim."""

    study: str
    row: str  # measures the claim's cell
    reference: str  # measures its base
    column: Figures
    size: int | None = None  # pixels; None where the names of the rows say it


class Cell(Printed, frozen=True):
    """A number that was published, and where it stands."""

    place: Place

    @property
    def ends(self) -> tuple[float, float]:
        """Between which the number lies that was rounded to this one, or read off a plot."""
        half = _DIGITISED[self.place.table] if self.status == "digitised" else _unit_in_the_last_place(self.text) / 2
        value = float(self.text)
        return value - half, value + half

    @property
    def table(self) -> str:
        """``table 5``."""
        return _table(self.place.table)

    @property
    def figure(self) -> str:
        """``2.2 ms``."""
        return f"{self.text} {self.unit.partition(' ')[0]}"


class Reading(Record, frozen=True):
    """Another way to come to a claim's number."""

    what: str
    kind: Kind
    cell: Cell
    base: Cell | None


class Claim(Record, frozen=True):
    """One number of the paper's text and the cells it must follow from."""

    id: str
    section: str
    text: str
    where: tuple[str, ...]
    printed: str
    said: Cell  # that holds the printed number
    kind: Kind
    cell: Cell
    base: Cell | None
    instead: tuple[Reading, ...]
    measured: Wanted | None
    study: str | None  # that it belongs to

    @property
    def printed_for(self) -> DeviceKind | None:
        """The kind of device that a latency was printed for; None of any other figure."""
        column = self.cell.place.column
        return "iphone" if "mobile_latency" in column else "gpu" if "gpu_latency" in column else None


class Measured(Record, frozen=True):
    """One figure of a study that has run."""

    study: str
    row: str
    reference: str | None  # of a latency: what its ratio is to; None of a count
    size: int  # pixels
    column: Figures
    value: float  # of latencies row / reference; of params and macs (one image) the row's own number
    interval: tuple[float, float] | None  # 95 %, of the ratio; None of a count
    device: str
    device_kind: DeviceKind
    machine: str  # in one line
    finished: str
    source: str  # file


class Verdict(StrEnum):
    """Of the paper's text against its tables."""

    AGREES = "agrees"
    DIFFERS = "does not follow"
    UNCHECKABLE = "not checkable"


class Outcome(StrEnum):
    """Of the paper's text against what was measured here."""

    REPRODUCED = "reproduced"
    NOT_REPRODUCED = "not reproduced"
    NOT_COMPARABLE = "not comparable here"


class Recomputed(Record, frozen=True):
    """What cells give, and the range it lies in as they are rounded; in the unit of the claim."""

    value: float
    low: float
    high: float
    shown: str  # with its unit
    fit: str | None  # how the printed number comes of it; None where it does not


class Aside(Record, frozen=True):
    """What another reading gives."""

    what: str
    recomputed: Recomputed | None
    sentence: str


class Here(Record, frozen=True):
    """A claim beside one device's measurement, or why there is none to put beside it."""

    outcome: Outcome
    sentence: str
    value: float | None = None  # in the unit of the claim
    low: float | None = None
    high: float | None = None
    shown: str | None = None  # with its unit and interval
    same_device: bool | None = None  # of the kind it was printed for; None of counts
    measured: Measured | None = None


class Judged(Record, frozen=True):
    """A claim with both verdicts."""

    claim: Claim
    printed: str  # with its unit
    recomputed: Recomputed | None
    off: str | None  # recomputed minus printed, with its sign
    verdict: Verdict
    sentence: str  # why; empty where the numbers say it
    asides: tuple[Aside, ...]
    here: tuple[Here, ...]


# --- reading ----------------------------------------------------------------------------------------------------------

FILE = "claims.toml"


class _Reading(Record, frozen=True):
    what: str
    kind: Kind | None = None
    cell: Place | None = None
    base: Place | None = None


class _Claim(Record, frozen=True):
    """An entry as it stands in the file."""

    id: Annotated[str, msgspec.Meta(pattern="^[a-z0-9-]+$")]
    section: str
    text: str
    where: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    printed: Annotated[str, msgspec.Meta(pattern=r"^[0-9]+(\.[0-9]+)?$")]
    said: Place
    kind: Kind
    cell: Place
    base: Place | None = None
    instead: tuple[_Reading, ...] = ()
    measured: Wanted | None = None
    study: str | None = None


def load(path: Path | None = None, printed: Mapping[Place, Printed] | None = None) -> tuple[Claim, ...]:
    """The claims with their cells, in the order of the file; by default of the files that the package brings.

    Raises `ConfigError` naming the file, the entry and its key: for what is no claim, for a cell that does not exist,
    and for a number that does not stand where it is said to.
    """
    path = path or resources.find("published") / FILE
    printed = published.printed() if printed is None else printed
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {str(error).rstrip('.')}.") from None
    entries = document.pop("claim", None)
    if document or not isinstance(entries, list) or not entries:
        raise ConfigError(f"{path} must hold entries [[claim]] and nothing else.")
    found: dict[str, Claim] = {}
    for number, entry in enumerate(entries, 1):
        claim = _Reader(path, number, entry, printed).claim()
        if claim.id in found:
            raise ConfigError(f"{path}, claim '{claim.id}', key 'id': an earlier claim has the same.")
        found[claim.id] = claim
    return tuple(found.values())


class _Reader:
    """Turns one entry into a claim, and every mistake in it into a sentence that says where."""

    def __init__(self, path: Path, number: int, entry: Any, printed: Mapping[Place, Printed]) -> None:
        name = entry.get("id") if isinstance(entry, dict) else None
        self.where = f"{path}, claim '{name}'" if isinstance(name, str) else f"{path}, claim number {number}"
        self.entry = entry
        self.printed = printed

    def claim(self) -> Claim:
        try:
            entry = msgspec.convert(self.entry, _Claim)
        except msgspec.ValidationError as error:
            what, _, where = str(error).partition(" - at `$.")
            raise self.error(re.split(r"[\[`]", where)[0] or None, what.replace("`", "'")) from None
        said = self.cell("said", entry.said)
        if entry.printed not in re.findall(r"\d+(?:\.\d+)?", said.text):
            raise self.error("printed", f"{entry.printed} does not stand in that cell, which holds '{said.text}'")
        if not float(entry.printed):
            raise self.error("printed", "a number above 0 is needed")
        if (entry.kind is Kind.VALUE) is not (entry.base is None):
            raise self.error("base", f"a claim of kind '{entry.kind}' takes {'no' if entry.base else 'a'} base")
        cell = self.cell("cell", entry.cell)
        base = self.cell("base", entry.base) if entry.base else None
        readings = [
            Reading(
                what=each.what,
                kind=each.kind or entry.kind,
                cell=self.cell("instead", each.cell) if each.cell else cell,
                base=self.cell("instead", each.base) if each.base else base,
            )
            for each in entry.instead
        ]
        for each in readings:
            if (each.kind is Kind.VALUE) is not (each.base is None):
                raise self.error("instead", f"a reading of kind '{each.kind}' takes {'no' if each.base else 'a'} base")
        if entry.measured is None and entry.kind is not Kind.VALUE and entry.cell.column not in _UNMEASURED:
            raise self.error("measured", f"a claim about '{entry.cell.column}' says which study measures it")
        if entry.measured is not None and entry.kind is Kind.VALUE:
            raise self.error("measured", "a claim that is one cell has no ratio to measure")
        claim = Claim(
            id=entry.id,
            section=entry.section,
            text=entry.text,
            where=entry.where,
            printed=entry.printed,
            said=said,
            kind=entry.kind,
            cell=cell,
            base=base,
            instead=tuple(readings),
            measured=entry.measured,
            study=entry.measured.study if entry.measured else entry.study,
        )
        timed = entry.measured is not None and entry.measured.column == "latency"
        if timed and (entry.kind is Kind.DIFFERENCE or claim.printed_for is None):
            raise self.error("measured", "only a ratio of latencies, of the phone or of the GPU, is held against one")
        return claim

    def cell(self, key: str, place: Place) -> Cell:
        if place not in self.printed:
            raise self.error(key, f"nothing is published as {_path(place)}. {_nearest(place, self.printed)}")
        cell = Cell(place=place, **msgspec.structs.asdict(self.printed[place]))
        if cell.value is not None and cell.ends[0] <= 0:
            raise self.error(key, f"{_path(place)} is {cell.text}, too near to nothing to be compared")
        return cell

    def error(self, key: str | None, what: str) -> ConfigError:
        return ConfigError(f"{self.where}{f', key {key!r}' if key else ''}: {what.rstrip('.')}.")


def _nearest(place: Place, known: Collection[Place]) -> str:
    """Places that share the table and the model, as far as those exist."""
    for given in (place[:2], place[:1], ()):
        choices = sorted({each[len(given)] for each in known if each[: len(given)] == given})
        if choices:
            near = difflib.get_close_matches(place[len(given)], choices, n=3, cutoff=0.4) or choices[:3]
            return f"Nearest: {', '.join(near)}"
    return "No figure is published"


def choose(claims: Sequence[Claim], ids: Sequence[str] = (), study: str | None = None) -> list[Claim]:
    """The claims of these ids that belong to a study; without either, all. Raises `UsageError` for unknown names."""
    studies = {each.study for each in claims if each.study}
    for what, names, known in (
        ("claim", ids, [each.id for each in claims]),
        ("study", [study] if study is not None else [], sorted(studies)),
    ):
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=3, cutoff=0.4) or known
                raise UsageError(f"There is no {what} '{name}'. Nearest: {', '.join(near)}.")
    return [each for each in claims if (not ids or each.id in ids) and study in (None, each.study)]


# --- the paper against itself -----------------------------------------------------------------------------------------

# what a position read off a plot may be off by, in ms (results/published/README.md)
_DIGITISED = {"fig3_repmixer_vs_pooling_digitised": 0.1, "fig1_points_not_in_table5_digitised": 0.03}


def judged(claims: Sequence[Claim], measured: Sequence[Measured] = (), device: str | None = None) -> list[Judged]:
    """Both verdicts on each claim; of the measurements those of one device, where one is named."""
    figures = [each for each in measured if device in {None, each.device}]
    return [_judged(claim, figures, device) for claim in claims]


def _judged(claim: Claim, measured: Sequence[Measured], device: str | None) -> Judged:
    found = _recomputed(claim, claim.kind, claim.cell, claim.base)
    if found is None:
        blank = next(cell for cell in (claim.cell, claim.base) if cell is not None and cell.value is None)
        verdict, sentence = Verdict.UNCHECKABLE, f"{_has(blank)}."
    elif found.fit is None:
        verdict, sentence = Verdict.DIFFERS, _mismatch(claim)
    else:
        verdict, sentence = Verdict.AGREES, _FITS[found.fit]
    return Judged(
        claim=claim,
        printed=_printed(claim),
        recomputed=found,
        off=_signed(found.value - float(claim.printed), _digits(claim, claim.kind)) if found else None,
        verdict=verdict,
        sentence=sentence,
        asides=tuple(_aside(claim, reading) for reading in claim.instead),
        here=_here(claim, measured, device),
    )


# how a printed number can come of the cells -> what is said of it
_FITS = {
    "rounded": "",
    "cut off": "Cut off rather than rounded.",
    "within rounding": "Within what the cells may be off by.",
}


def _recomputed(claim: Claim, kind: Kind, cell: Cell, base: Cell | None, further: int = 0) -> Recomputed | None:
    """What cells give, shown with so many further digits; None where one holds no number."""
    if cell.value is None or (base is not None and base.value is None):
        return None
    value = _number(kind, cell.value, base.value if base else None)
    # each formula rises or falls with each cell, so its extremes lie at the ends
    ends = [_number(kind, *pair) for pair in itertools.product(cell.ends, base.ends if base else (None,))]
    low, high = min(ends), max(ends)
    shown = cell.figure if kind is Kind.VALUE else f"{value:.{_digits(claim, kind) + further}f}{_unit(kind, cell)}"
    return Recomputed(value=value, low=low, high=high, shown=shown, fit=_fit(claim.printed, value, low, high))


def _number(kind: Kind, cell: float, base: float | None) -> float:
    if base is None:
        return cell
    return cell - base if kind is Kind.DIFFERENCE else _of_ratio(kind, cell / base)


def _of_ratio(kind: Kind, ratio: float) -> float:
    """The number of a claim from cell / base; it rises in the claim's direction."""
    match kind:
        case Kind.TIMES_LESS:
            return 1 / ratio
        case Kind.TIMES_MORE:
            return ratio
        case Kind.PERCENT_LESS:
            return 100 * (1 - ratio)
        case Kind.PERCENT_MORE:
            return 100 * (ratio - 1)
        case Kind.DIFFERENCE | Kind.VALUE:
            raise ValueError(f"{kind} is no ratio")


_EPSILON = 1e-9  # what binary fractions may be off by


def _fit(printed: str, value: float, low: float, high: float) -> str | None:
    """How a printed number comes of a value that lies between two: by rounding, by cutting off its last digits, or
    because the cells it was computed from had more digits than are printed. None if in no such way.
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
    """0.1 of ``2.2``, 1 of ``20``."""
    return 10.0 ** -_decimals(text)


def _mismatch(claim: Claim) -> str:
    """The cell that the printed number would take."""
    cell, base = claim.cell, claim.base
    if base is None:
        return ""
    number, other = float(claim.printed), float(base.text)
    match claim.kind:
        case Kind.TIMES_LESS:
            needed = other / number
        case Kind.TIMES_MORE:
            needed = other * number
        case Kind.PERCENT_LESS:
            needed = other * (1 - number / 100)
        case Kind.PERCENT_MORE:
            needed = other * (1 + number / 100)
        case Kind.DIFFERENCE | Kind.VALUE:
            needed = other + number
    unit = cell.unit.partition(" ")[0]
    wanted = f"{needed:.{_decimals(cell.text)}f} {unit} for {cell.place.model}"
    held = f"the {base.figure} of {base.place.model}"
    return f"{_printed(claim)} would take {wanted} beside {held}; {cell.table} has {cell.figure}."


def _aside(claim: Claim, reading: Reading) -> Aside:
    # per cents with a digit more: what is printed and what comes near it must be told apart
    found = _recomputed(claim, reading.kind, reading.cell, reading.base, further=int("percent" in reading.kind))
    cells = [each for each in (reading.cell, reading.base) if each is not None]
    with_what = " and ".join(f"{each.place.model} {each.figure}" for each in cells)
    if found is None:
        return Aside(what=reading.what, recomputed=None, sentence=f"{reading.what}: not published.")
    told = {None: "", "rounded": ", as printed", "cut off": ", as printed if cut off", "within rounding": ", near it"}
    sentence = f"{reading.what} ({with_what}): {found.shown}{told[found.fit]}."
    return Aside(what=reading.what, recomputed=found, sentence=sentence)


# --- the paper against what was measured here -------------------------------------------------------------------------

# column of a claim that no study measures -> why
_UNMEASURED = {
    "top1": "Top-1 takes trained weights of every row; studies time networks with random ones.",
    "train_time": "Training is not timed here.",
    "miou": "No segmentation network is trained or evaluated here, only its backbone is timed.",
    "fps": "The mesh regression behind the backbone, and its rivals, are not part of this tool.",
}
_OF_THE_TABLES = "Said of the paper's own tables; there is nothing to measure."

# what a latency was printed for, by kind of device
PRINTED_FOR: dict[DeviceKind, str] = {"iphone": "an iPhone 12 Pro (Core ML)", "gpu": "an RTX 2080 Ti (TensorRT)"}

_COUNTED = {"params": (1e6, "M"), "macs": (1e9, "G")}  # the paper's FLOPs are multiply-accumulates


def _here(claim: Claim, measured: Sequence[Measured], device: str | None) -> tuple[Here, ...]:
    wanted = claim.measured
    if wanted is None:
        reason = _OF_THE_TABLES if claim.kind is Kind.VALUE else _UNMEASURED[claim.cell.place.column]
        return (Here(outcome=Outcome.NOT_COMPARABLE, sentence=reason),)
    found = [each for each in measured if each.study == wanted.study]
    if not found:
        on = f" on '{device}'" if device else ""
        sentence = f"The study '{wanted.study}' has not run{on}."
        return (Here(outcome=Outcome.NOT_COMPARABLE, sentence=sentence),)
    if wanted.column != "latency":
        return (_counted(claim, wanted, found),)
    devices = dict.fromkeys(each.device for each in found)
    return tuple(_timed(claim, wanted, [each for each in found if each.device == name], name) for name in devices)


def _newest(found: Sequence[Measured], wanted: Wanted, row: str, reference: str | None) -> Measured | None:
    fitting = [
        each
        for each in found
        if (each.row, each.reference, each.column) == (row, reference, wanted.column)
        and wanted.size in {None, each.size}
    ]
    return max(fitting, key=lambda each: each.finished, default=None)


def _timed(claim: Claim, wanted: Wanted, found: Sequence[Measured], device: str) -> Here:
    """The rule of docs/claims.md on the interval of a ratio of latencies."""
    best = _newest(found, wanted, wanted.row, wanted.reference)
    if best is None:
        at = f" at {wanted.size} pixels" if wanted.size else ""
        return Here(
            outcome=Outcome.NOT_COMPARABLE,
            sentence=f"On '{device}' the study has no ratio of {wanted.row} to {wanted.reference}{at}: one of them "
            f"was not timed there, or could not be exported.",
        )
    kind = claim.printed_for
    assert kind is not None  # as `load` has made sure
    same = kind == best.device_kind
    on = f"Printed for {PRINTED_FOR[kind]}, measured on '{device}' ({best.machine})"
    on += "." if same else ", which says nothing of the former."
    value = _of_ratio(claim.kind, best.value)
    if best.interval is None:
        shown = _in_words(claim, value)
        return Here(
            outcome=Outcome.NOT_COMPARABLE,
            sentence=f"{shown}, without an interval. {on}",
            value=value,
            shown=shown,
            same_device=same,
            measured=best,
        )
    low, high = sorted(_of_ratio(claim.kind, end) for end in best.interval)
    outcome, told = _compared(claim, low, high)
    digits = _digits(claim, claim.kind)
    shown = f"{_in_words(claim, value)} [{low:.{digits}f}, {high:.{digits}f}]"
    return Here(
        outcome=outcome,
        sentence=f"{shown}: {told}. {on}",
        value=value,
        low=low,
        high=high,
        shown=shown,
        same_device=same,
        measured=best,
    )


def _compared(claim: Claim, low: float, high: float) -> tuple[Outcome, str]:
    """An interval in the unit of the claim against the printed number, which was rounded."""
    neutral = claim.kind.neutral
    least = float(claim.printed) - _unit_in_the_last_place(claim.printed) / 2
    if high >= least and low <= neutral:
        return Outcome.NOT_COMPARABLE, f"too coarse, it holds both {_printed(claim)} and no difference at all"
    if high >= least:
        beyond = low > float(claim.printed) + _unit_in_the_last_place(claim.printed) / 2
        return Outcome.REPRODUCED, f"{'goes beyond' if beyond else 'reaches'} {_printed(claim)}"
    if low > neutral:
        return Outcome.NOT_REPRODUCED, f"in the same direction, but short of {_printed(claim)}"
    if high < neutral:
        return Outcome.NOT_REPRODUCED, f"in the opposite direction to {_printed(claim)}"
    return Outcome.NOT_REPRODUCED, f"no difference can be told, where {_printed(claim)} is printed"


def _counted(claim: Claim, wanted: Wanted, found: Sequence[Measured]) -> Here:
    """Counts are exact, so they give the printed number or they do not."""
    row, reference = (_newest(found, wanted, name, None) for name in (wanted.row, wanted.reference))
    if row is None or reference is None:
        missing = " and ".join(
            name for name, each in ((wanted.row, row), (wanted.reference, reference)) if each is None
        )
        return Here(outcome=Outcome.NOT_COMPARABLE, sentence=f"The study '{wanted.study}' has no count of {missing}.")
    scale, unit = _COUNTED[wanted.column]
    value = _number(claim.kind, row.value / scale, reference.value / scale)
    fit = _fit(claim.printed, value, value, value)
    shown = _in_words(claim, value)
    told = f"as printed{', cut off' if fit == 'cut off' else ''}" if fit else f"where {_printed(claim)} is printed"
    return Here(
        outcome=Outcome.REPRODUCED if fit else Outcome.NOT_REPRODUCED,
        sentence=f"Counted {row.value / scale:.2f} {unit} for {row.row} and {reference.value / scale:.2f} {unit} for "
        f"{reference.row}: {shown}, {told}.",
        value=value,
        low=value,
        high=value,
        shown=shown,
        measured=row,
    )


# --- as text ----------------------------------------------------------------------------------------------------------


def _unit(kind: Kind, cell: Cell) -> str:
    match kind:
        case Kind.TIMES_LESS | Kind.TIMES_MORE:
            return "×"
        case Kind.PERCENT_LESS | Kind.PERCENT_MORE:
            return " %"
        case Kind.DIFFERENCE:
            return " points" if cell.unit == "%" else f" {cell.unit}"
        case Kind.VALUE:
            return f" {cell.unit.partition(' ')[0]}"


def _printed(claim: Claim) -> str:
    """As the paper writes it: differences in points are given in per cent."""
    unit = _unit(claim.kind, claim.cell)
    return claim.printed + (" %" if unit == " points" else unit)


def _in_words(claim: Claim, value: float) -> str:
    """A measured number with its unit."""
    return f"{value:.{_digits(claim, claim.kind)}f}{_unit(claim.kind, claim.cell)}"


def _digits(claim: Claim, kind: Kind) -> int:
    """Behind the point: of ratios one more than is printed, of per cents and differences at least one."""
    printed = _decimals(claim.printed)
    if kind is Kind.VALUE:
        return max(printed, _decimals(claim.cell.text))
    return printed + 1 if kind in (Kind.TIMES_LESS, Kind.TIMES_MORE) else max(printed, 1)


def _signed(value: float, digits: int) -> str:
    """``-11.5``, ``+0.3``, and ``0.0`` without a sign."""
    text = f"{value:+.{digits}f}"
    return text if float(text) else text[1:]


def _decimals(text: str) -> int:
    return len(text.partition(".")[2])


def _table(name: str) -> str:
    """``table 5`` of ``table5_imagenet``, ``figure 3``, ``README``, ``timm``."""
    if match := re.match(r"(table|fig)(\d+)_", name):
        return f"{'table' if match[1] == 'table' else 'figure'} {match[2]}"
    return {"readme_zoo": "the README", "text_claims": "the text"}.get(name, name.partition(" ")[0])


def _has(cell: Cell) -> str:
    """``Table 5 has 5.3 ms for DeiT-S@224``."""
    return f"{cell.table[0].upper()}{cell.table[1:]} has {cell.figure} for {cell.place.model}"


def _path(place: Place) -> str:
    return " / ".join(place)
