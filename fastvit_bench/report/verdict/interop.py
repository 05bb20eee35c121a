"""A comparison for other programs: JUnit, Bencher, github-action-benchmark, pytest-benchmark, and JSON of its own."""

import hashlib
import math
import re
import statistics
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import cast

import msgspec

from fastvit_bench.render.text import plain
from fastvit_bench.report.verdict.words import POOLED, change, conditions, margin, sentence, span, title, worst_first
from fastvit_bench.stats.intervals import mean, median, quantile
from fastvit_bench.store import documents
from fastvit_bench.verdicts import CellResult, Comparison, NoBaseline, Outcome, Verdict


def _names(cells: Sequence[CellResult], most: int | None = None) -> list[str]:
    """A printable name per cell, none empty and none twice; of at most so many bytes.

    What is cut off is replaced by digits of its digest, so that two long names stay apart and each stays the same from
    one comparison to the next.
    """
    taken: set[str] = set()
    found: list[str] = []
    for cell in cells:
        name = usual = _cut(plain(cell.name) or "unnamed", most)
        number = 1
        while name in taken:
            number += 1
            name = _cut(f"{usual} ({number})", most)
        taken.add(name)
        found.append(name)
    return found


def _cut(name: str, most: int | None) -> str:
    data = name.encode()
    if most is None or len(data) <= most:
        return name
    digest = hashlib.sha256(data).hexdigest()[:8]
    return f"{data[: most - 9].decode(errors='ignore')}~{digest}"


def _head_range(cell: CellResult) -> tuple[float, float] | None:
    """95 % interval of head's milliseconds with base held fixed: head's figure, scaled as the ratio's interval is.

    That is base × interval where head / base is the ratio. It is not where a stored base is corrected by a reference
    workload, nor exactly for medians of blocks, and the figure must lie within its own interval.
    """
    verdict = cell.verdict
    if cell.head_ms is None or not verdict.ratio or verdict.interval is None:
        return None
    ends = [cell.head_ms * end / verdict.ratio for end in (verdict.interval.low, verdict.interval.high)]
    if not all(map(math.isfinite, ends)):
        return None
    return min(ends[0], cell.head_ms), max(ends[1], cell.head_ms)


# --- JSON of its own --------------------------------------------------------------------------------------------------


def json(comparison: Comparison) -> bytes:
    """The comparison as it is, every sample included, with its outcome, exit code and sentence beside it.

    These are for readers that do not know how to judge, and are not read back. Open ends of intervals, which JSON has
    no number for, are null.
    """
    whole: dict[str, object] = msgspec.to_builtins(comparison)
    derived = {
        "outcome": comparison.outcome.value,
        "exit_code": int(comparison.exit_code),
        "sentence": sentence(comparison),
    }
    return documents.encoded(whole | derived)


def read(path: Path) -> Comparison:
    """The comparison that `json` wrote; raises `StoreError` with what is wrong and what to do."""
    return documents.read(path, documents.COMPARISON)


# --- JUnit ------------------------------------------------------------------------------------------------------------

# what XML 1.0 (section 2.2) lets no document hold, not even as a reference
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _xml(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)


def junit(comparison: Comparison) -> bytes:
    """A test suite with a test case per cell, and one for all of them; times are head's seconds.

    The elements are those that Jenkins' xunit plugin takes (junit-10.xsd), which knows properties of a suite but none
    of a test case: what is to be known of a cell stands in its ``system-out``.
    """
    from xml.etree import ElementTree as Xml

    device = comparison.device
    where = ".".join(_xml(part).replace(".", "_") for part in (device.name, device.backend, device.precision))
    cases: list[tuple[str, Verdict, CellResult | None]] = [
        (cell.name, cell.verdict, cell) for cell in worst_first(comparison)
    ]
    if comparison.pooled:
        cases.append((POOLED, comparison.pooled, None))
    kinds = [_element(verdict.outcome, comparison) for _, verdict, _ in cases]
    elements = [kind[0] for kind in kinds if kind]
    counts = {
        "tests": str(len(cases)),
        "failures": str(elements.count("failure")),
        "errors": str(elements.count("error")),
    }
    seconds = _seconds(comparison)
    root = Xml.Element("testsuites", {"name": "fastvit-bench", "time": seconds, **counts})
    suite = Xml.SubElement(root, "testsuite", {"name": _xml(title(comparison)), "time": seconds, **counts})
    suite.set("skipped", str(elements.count("skipped")))
    suite.set("timestamp", _timestamp(comparison.started))
    if name := comparison.machine.name or comparison.machine.host:
        suite.set("hostname", _xml(name))
    properties = Xml.SubElement(suite, "properties")
    for name, value in _properties(comparison).items():
        Xml.SubElement(properties, "property", name=_xml(name), value=_xml(value))
    for (name, verdict, cell), kind in zip(cases, kinds, strict=True):
        spent = (cell.head_ms or 0.0) / 1e3 if cell else 0.0
        case = Xml.SubElement(suite, "testcase", classname=where, name=_xml(name), time=f"{spent:.9f}")
        if kind:
            message = _xml(verdict.reason or verdict.outcome.value)
            Xml.SubElement(case, kind[0], type=kind[1], message=message).text = message
        told = "\n".join(f"{label}: {value}" for label, value in _details(verdict, cell).items())
        Xml.SubElement(case, "system-out").text = _xml(told)
    Xml.SubElement(suite, "system-out").text = _xml("\n".join((sentence(comparison), *comparison.warnings)))
    Xml.indent(root)
    return Xml.tostring(root, encoding="utf-8", xml_declaration=True) + b"\n"


# outcome -> element, its type
_ELEMENTS = {
    Outcome.REGRESSED: ("failure", "regression"),
    Outcome.INCOMPARABLE: ("error", "incomparable"),
    Outcome.NO_BASELINE: ("error", "no-baseline"),
    Outcome.INCONCLUSIVE: ("skipped", "inconclusive"),
}


def _element(outcome: Outcome, comparison: Comparison) -> tuple[str, str] | None:
    """Element and type of a case that did not pass; one that may lack its baseline was skipped."""
    if outcome is Outcome.NO_BASELINE and comparison.plan.no_baseline is NoBaseline.PASS:
        return ("skipped", "no-baseline")
    return _ELEMENTS.get(outcome)


def _properties(comparison: Comparison) -> dict[str, str]:
    plan = comparison.plan
    found = conditions(comparison) | {
        "outcome": comparison.outcome.value,
        "exit_code": str(int(comparison.exit_code)),
        "margin": f"{plan.margin:g}",
        "pooled_margin": f"{plan.pooled_margin:g}",
        "seed": str(plan.seed),
        **{f"package.{name}": version for name, version in sorted(comparison.machine.packages.items())},
    }
    if comparison.pooled and comparison.pooled.ratio is not None:
        found["pooled.ratio"] = repr(comparison.pooled.ratio)
        found["pooled.change"] = f"{change(comparison.pooled)} {span(comparison.pooled.interval)}".rstrip()
    return found


def _details(verdict: Verdict, cell: CellResult | None) -> dict[str, str]:
    """What is known of a cell, figures in full precision."""
    known = {
        "verdict": verdict.outcome.value,
        "reason": verdict.reason,
        "base_ms": cell.base_ms if cell else None,
        "head_ms": cell.head_ms if cell else None,
        "ratio": verdict.ratio,
        "interval": f"{verdict.interval.low!r} to {verdict.interval.high!r}" if verdict.interval else None,
        "margin": verdict.margin,
        "blocks": verdict.blocks,
        "detectable": verdict.detectable,
        "base": cell.base.label if cell and cell.base else None,
        "head": cell.head.label if cell and cell.head else None,
    }
    return {label: str(value) for label, value in known.items() if value is not None}


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _seconds(comparison: Comparison) -> str:
    started, finished = _time(comparison.started), _time(comparison.finished)
    try:
        spent = (finished - started).total_seconds() if started and finished else 0.0
    except TypeError:  # one of them tells its time zone
        spent = 0.0
    return f"{max(spent, 0.0):.3f}"


def _timestamp(text: str) -> str:
    """As JUnit's readers want it: to the second and without a time zone, which is UTC."""
    moment = _time(text)
    return f"{moment:%Y-%m-%dT%H:%M:%S}" if moment else _xml(text)


# --- Bencher ----------------------------------------------------------------------------------------------------------

BENCHER_NAME = 1024  # bytes that the name of a benchmark may have (bencher.dev, `BenchmarkName`)


def bmf(comparison: Comparison) -> bytes:
    """Bencher Metric Format (bencher.dev/docs/reference/bencher-metric-format): head's latency in nanoseconds."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    cells = [cell for cell in comparison.cells if cell.head_ms is not None]
    for name, cell in zip(_names(cells, BENCHER_NAME), cells, strict=True):
        latency = {"value": round(1e6 * (cell.head_ms or 0.0), 3)}
        if ends := _head_range(cell):
            latency |= {"lower_value": round(1e6 * ends[0], 3), "upper_value": round(1e6 * ends[1], 3)}
        found[name] = {"latency": latency}
    return documents.encoded(found)


# --- github-action-benchmark ------------------------------------------------------------------------------------------


def github_action_benchmark(comparison: Comparison) -> bytes:
    """``customSmallerIsBetter`` of benchmark-action/github-action-benchmark: head's milliseconds.

    Its ``range`` has one figure for both directions: the farther end of the interval.
    """
    found: list[dict[str, object]] = []
    cells = [cell for cell in comparison.cells if cell.head_ms is not None]
    for name, cell in zip(_names(cells), cells, strict=True):
        value = cell.head_ms or 0.0
        entry: dict[str, object] = {"name": name, "unit": "ms", "value": round(value, 9)}
        if ends := _head_range(cell):
            entry["range"] = f"± {max(value - ends[0], ends[1] - value):.3g}"
        base = f"base {cell.base_ms:.4g} ms, " if cell.base_ms is not None else ""
        told = f"{cell.verdict.outcome.value}: {base}{change(cell.verdict)} {span(cell.verdict.interval)}".rstrip()
        entry["extra"] = f"{told}\nmargin {margin(cell.verdict)}, {cell.verdict.blocks} blocks"
        found.append(entry)
    return documents.encoded(found)


# --- pytest-benchmark -------------------------------------------------------------------------------------------------

PYTEST_BENCHMARK = "5.1.0"  # the version whose files these are like


def pytest_benchmark(comparison: Comparison) -> bytes:
    """What ``pytest --benchmark-json`` writes: per cell a group with base and head, in seconds, a round per block."""
    machine, device, turns = comparison.machine, comparison.device, comparison.plan.turns
    cells = [cell for cell in comparison.cells if _blocks_ms(cell)]
    where = f"{plain(device.name)}.{plain(device.backend)}.{plain(device.precision)}"
    return documents.encoded(
        {
            "machine_info": {
                "node": machine.name or machine.host,
                "processor": machine.processor,
                "machine": machine.os,
                "python_version": machine.python or "",
                "system": machine.os.partition(" ")[0],
                "release": machine.os,
                "cpu": {"brand_raw": machine.processor, "count": machine.cores, "quota": machine.quota},
                "accelerator": machine.accelerator,
                "driver": machine.driver,
                "packages": machine.packages,
            },
            "commit_info": {
                "id": comparison.commit or "unversioned",
                "time": None,
                "author_time": None,
                "dirty": comparison.dirty,
                "project": "fastvit-bench",
                "branch": "(unknown)",
            },
            "benchmarks": [
                {
                    "group": name,
                    "name": f"{name}[{side}]",
                    "fullname": f"{where}::{name}[{side}]",
                    "params": {"side": side},
                    "param": side,
                    "extra_info": {
                        "label": comparison.base if side == "base" else comparison.head,
                        "verdict": cell.verdict.outcome.value,
                        "ratio": cell.verdict.ratio,
                    },
                    "options": {"disable_gc": True, "timer": "", "min_rounds": 1, "max_time": 0.0, "warmup": True},
                    "stats": _stats([value / 1e3 for value in values], turns.turns * turns.runs),
                }
                for name, cell in zip(_names(cells), cells, strict=True)
                for side, values in _blocks_ms(cell).items()
            ],
            "datetime": comparison.finished,
            "version": PYTEST_BENCHMARK,
        }
    )


def _blocks_ms(cell: CellResult) -> dict[str, list[float]]:
    """Side -> the medians of its blocks that counted; its one figure where a side has no blocks."""
    counted = [block for block in cell.blocks if not block.replaced]
    found: dict[str, list[float]] = {}
    for side, figure in (("base", cell.base_ms), ("head", cell.head_ms)):
        values = [getattr(block, f"{side}_ms") for block in counted]
        if values or figure is not None:
            found[side] = values or [cast("float", figure)]
    return found


def _stats(data: Sequence[float], iterations: int) -> dict[str, object]:
    """Of seconds, as pytest-benchmark names them; quartiles are interpolated, fences are Tukey's (1.5 × IQR)."""
    ordered = sorted(data)
    q1, q3 = quantile(ordered, 0.25), quantile(ordered, 0.75)
    spread = q3 - q1
    average = mean(ordered)
    deviation = statistics.stdev(ordered) if len(ordered) > 1 else 0.0
    far = _outside(ordered, average - deviation, average + deviation)
    fenced = [value for value in ordered if q1 - 1.5 * spread <= value <= q3 + 1.5 * spread] or ordered
    beyond = len(ordered) - len(fenced)
    return {
        "min": ordered[0],
        "max": ordered[-1],
        "mean": average,
        "stddev": deviation,
        "rounds": len(ordered),
        "median": median(ordered),
        "iqr": spread,
        "q1": q1,
        "q3": q3,
        "iqr_outliers": beyond,
        "stddev_outliers": far,
        "outliers": f"{far};{beyond}",
        "ld15iqr": fenced[0],
        "hd15iqr": fenced[-1],
        "ops": 1 / average,
        "total": math.fsum(ordered),
        "data": list(data),
        "iterations": iterations,
    }


def _outside(values: Iterable[float], low: float, high: float) -> int:
    return sum(not low <= value <= high for value in values)
