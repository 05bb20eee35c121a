"""Files that version 0.1.0 wrote: they are read, and mean what they meant."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from commands import call

from fastvit_bench.records.comparison import Outcome
from fastvit_bench.store import documents, peaks, runs, speeds

STORED = Path(__file__).parent.parent / "data" / "version-0.1.0"


def plain(text: str | bytes) -> Any:
    return json.loads(text)


def without(known: Any, *names: str) -> Any:
    """The object without fields that are derived for other readers."""
    return {name: value for name, value in known.items() if name not in names}


@pytest.mark.parametrize("name", ["latency.jsonl", "accuracy.jsonl"])
def test_a_run_file_says_the_same_in_each_line(name: str) -> None:
    lines = runs.read(STORED / name).lines
    stored = [plain(line) for line in (STORED / name).read_text().splitlines()]
    # a field that came later has its default; all that were there keep their values
    for line, before in zip(lines, stored, strict=True):
        assert changes(plain(msgspec.json.encode(line)), before) == []


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("comparison.json", documents.COMPARISON),
        ("calibration.json", documents.CALIBRATION),
        ("study.json", documents.STUDY),
        ("peak.json", documents.PEAKS),
    ],
)
def test_a_document_says_the_same(name: str, kind: documents.DocumentKind[Any]) -> None:
    content = documents.read(STORED / name, kind)
    before = plain((STORED / name).read_text())
    if isinstance(before, dict):
        before = without(before, "outcome", "exit_code", "sentence")
    assert changes(plain(documents.encoded(content)), before) == []


def changes(now: Any, before: Any, at: str = "") -> list[str]:
    """The places at which something that was stored is no more, or is another value."""
    if isinstance(before, dict) and isinstance(now, dict):
        return [fault for key, value in before.items() for fault in changes(now.get(key), value, f"{at}.{key}")]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = enumerate(zip(now, before, strict=True))
        return [fault for number, (new, old) in pairs for fault in changes(new, old, f"{at}[{number}]")]
    return [] if now == before else [at]


def test_a_planted_change_is_reported() -> None:
    stored = plain((STORED / "peak.json").read_text())
    changed = json.loads(json.dumps(stored).replace('"onnxruntime"', '"other"', 1))
    assert changes(stored, stored) == []
    assert len(changes(changed, stored)) == 1


def test_the_verdict_of_a_comparison_is_the_stored_one() -> None:
    comparison = documents.read(STORED / "comparison.json", documents.COMPARISON)
    before = plain((STORED / "comparison.json").read_text())
    assert comparison.outcome is Outcome(before["outcome"])
    assert comparison.exit_code == before["exit_code"]


@pytest.mark.slow
def test_commands_tabulate_what_was_stored(zoo: Path) -> None:
    results = zoo / "results" / "cpu"
    results.mkdir(parents=True)
    # with a name of its own: a machine like that one would measure the peak of its own packages, for minutes
    for stored, name in (("latency.jsonl", "20261126-181251-b31cf2.jsonl"), ("peak.json", "peak.json")):
        text, machines = re.subn(r'"name": ?""', '"name": "lab-1"', (STORED / stored).read_text())
        assert machines
        (results / name).write_text(text)
    (results.parent / "machine-speeds.json").write_bytes((STORED / "machine-speeds.json").read_bytes())
    machine = runs.read(STORED / "latency.jsonl").runs[0].machine
    assert speeds.load(results.parent, machine).times_ns
    assert len(peaks.load(results)) == 1
    (first, second) = runs.read(STORED / "latency.jsonl").measurements
    table = json.loads(call("table", "--format", "json").stdout)
    (row,) = table
    figures = [row["latency"][size]["median_ms"] for size in ("32", "64")]
    assert figures == pytest.approx([first.median_ms, second.median_ms])
    assert "fastvit_t8" in call("roofline", "--machine", "another").stdout
    call("report", "-o", "page.html")
