"""A comparison as JUnit XML, for CI servers."""

import re
from datetime import datetime

from fastvit_bench.comparing.formats._cells import details
from fastvit_bench.comparing.phrases import POOLED, change, conditions, sentence, span, title, worst_first
from fastvit_bench.records.comparison import CellResult, Comparison, NoBaseline, Outcome, Verdict

# --- JUnit ------------------------------------------------------------------------------------------------------------

# characters that XML 1.0 (section 2.2) forbids in a document, even as a reference
_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _xml(text: str) -> str:
    return _FORBIDDEN.sub("\ufffd", text)


def junit(comparison: Comparison) -> bytes:
    """Encode a test suite with a test case per cell, and one for all of them; times are the new side's seconds.

    The elements are those of Jenkins' xunit plugin (junit-10.xsd). It has properties of a suite, but none of a test
    case, so the facts of a cell are in its ``system-out``.
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
        facts = "\n".join(f"{label}: {value}" for label, value in details(verdict, cell).items())
        Xml.SubElement(case, "system-out").text = _xml(facts)
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
    """Return element and type of a case that did not pass; one whose missing baseline is allowed was skipped."""
    if outcome is Outcome.NO_BASELINE and comparison.plan.no_baseline is NoBaseline.PASS:
        return ("skipped", "no-baseline")
    return _ELEMENTS.get(outcome)


def _properties(comparison: Comparison) -> dict[str, str]:
    plan = comparison.plan
    properties = conditions(comparison) | {
        "outcome": comparison.outcome.value,
        "exit_code": str(int(comparison.exit_code)),
        "margin": f"{plan.margin:g}",
        "pooled_margin": f"{plan.pooled_margin:g}",
        "seed": str(plan.seed),
        **{f"package.{name}": version for name, version in sorted(comparison.machine.packages.items())},
    }
    if comparison.pooled and comparison.pooled.ratio is not None:
        properties["pooled.ratio"] = repr(comparison.pooled.ratio)
        properties["pooled.change"] = f"{change(comparison.pooled)} {span(comparison.pooled.interval)}".rstrip()
    return properties


def _time(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _seconds(comparison: Comparison) -> str:
    started, finished = _time(comparison.started), _time(comparison.finished)
    try:
        spent = (finished - started).total_seconds() if started and finished else 0.0
    except TypeError:  # only one of them has a time zone
        spent = 0.0
    return f"{max(spent, 0.0):.3f}"


def _timestamp(text: str) -> str:
    """Format a time as JUnit's readers expect it: to the second, in UTC, without a time zone."""
    moment = _time(text)
    return f"{moment:%Y-%m-%dT%H:%M:%S}" if moment else _xml(text)
