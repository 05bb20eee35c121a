"""Files and lines that GitHub's runners read from a step: its summary, its annotations and its outputs.

Sources: docs.github.com, "Workflow commands for GitHub Actions" (step summaries are dropped above 1024 KiB, ten
annotations per kind and step, outputs with a delimiter), and actions/toolkit `packages/core/src/command.ts` (escaping).
"""

import secrets
from collections.abc import Mapping
from pathlib import Path

from fastvit_bench.comparing.phrases import POOLED, change, reason, shown, span, worst_first
from fastvit_bench.comparing.terminal import markdown
from fastvit_bench.errors import StoreError
from fastvit_bench.records.comparison import Comparison, Outcome, Verdict

SUMMARY_LIMIT = 1024 * 1024  # bytes; above it the whole summary is dropped
ANNOTATIONS = 10  # of a kind in one step

# outcome -> kind of annotation, its title
_KINDS = {
    Outcome.REGRESSED: ("error", "Latency regressed"),
    Outcome.INCOMPARABLE: ("warning", "Latency cannot be compared"),
    Outcome.NO_BASELINE: ("warning", "Latency has no baseline yet"),
    Outcome.INCONCLUSIVE: ("warning", "Latency inconclusive"),
}


def annotations(comparison: Comparison, environment: Mapping[str, str]) -> list[str]:
    """Return lines for stdout: an error per regression, a warning per undecided cell; none outside of GitHub.

    There are at most ten of a kind: of more, the tenth states the number.
    """
    if environment.get("GITHUB_ACTIONS") != "true":
        return []
    verdicts = [(shown(cell.name), cell.verdict) for cell in worst_first(comparison)]
    if comparison.pooled:  # first, because the last ones may be omitted
        verdicts.insert(0, (POOLED, comparison.pooled))
    by_kind: dict[str, list[str]] = {"error": [], "warning": []}
    for name, verdict in verdicts:
        if verdict.outcome in _KINDS:
            kind, heading = _KINDS[verdict.outcome]
            by_kind[kind].append(_command(kind, f"{heading}: {name}", _message(verdict)))
    if not comparison.cells:
        by_kind["warning"].append(_command("warning", "Latency cannot be compared", "There is no cell."))
    lines: list[str] = []
    for kind, commands in by_kind.items():
        if len(commands) > ANNOTATIONS:
            omitted = len(commands) - ANNOTATIONS + 1
            more = _command(
                kind, f"{omitted} more cells", f"{omitted} more {kind}s are in the summary and in the reports."
            )
            commands = [*commands[: ANNOTATIONS - 1], more]
        lines += commands
    return lines


def _message(verdict: Verdict) -> str:
    figures = "" if verdict.ratio is None else f"head takes {change(verdict)} {span(verdict.interval)}".rstrip()
    return "; ".join(part for part in (figures, reason(verdict)) if part) or verdict.outcome.value


def _command(kind: str, title: str, message: str) -> str:
    return f"::{kind} title={escaped_property(title)}::{escaped_data(message)}"


def escaped_data(text: str) -> str:
    """Escape the message of a workflow command, so that it is one line."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def escaped_property(text: str) -> str:
    """Escape the value of a property of a workflow command."""
    return escaped_data(text).replace(":", "%3A").replace(",", "%2C")


def summarise(comparison: Comparison, path: Path, report: str = "") -> bool:
    """Append the comparison to a step summary, which stays below GitHub's limit; return False if nothing fits.

    `report` is the path of the full report. Raises `StoreError` when the file cannot be written.
    """
    try:
        before = path.stat().st_size if path.exists() else 0
        text = markdown(comparison, limit=SUMMARY_LIMIT - 1 - before - 2, report=report)
        if text:
            with path.open("ab") as file:
                file.write(("\n\n" * bool(before) + text).encode())  # in one write: half a table is worse than none
    except OSError as error:
        raise StoreError(f"The step summary {path} cannot be written: {error.strerror or error}.") from error
    return bool(text)


def outputs(comparison: Comparison, report: str = "") -> dict[str, str]:
    """Return the outputs of the step: verdict, worst_ratio (empty without one), worst_cell, report."""
    worst = next(iter(worst_first(comparison)), None)
    ratio = worst.verdict.ratio if worst else None
    return {
        "verdict": comparison.outcome.value,
        "worst_ratio": "" if ratio is None else f"{ratio:.4f}",
        "worst_cell": worst.name if worst else "",
        "report": report,
    }


def hand_over(values: Mapping[str, str], path: Path) -> None:
    """Append outputs to the file that ``$GITHUB_OUTPUT`` names; raises `StoreError` if it cannot be written."""
    try:
        with path.open("ab") as file:
            file.write("".join(_output(name, value) for name, value in values.items()).encode(errors="replace"))
    except OSError as error:
        raise StoreError(f"The step's outputs {path} cannot be written: {error.strerror or error}.") from error


def _output(name: str, value: str) -> str:
    """Return ``name=value``; for several lines, between unguessable delimiters, so that no line forges an output."""
    if not any(end in value for end in "\r\n"):
        return f"{name}={value}\n"
    delimiter = f"ghadelimiter_{secrets.token_hex(16)}"
    return f"{name}<<{delimiter}\n{value}\n{delimiter}\n"


def tell(comparison: Comparison, environment: Mapping[str, str], report: str = "") -> None:
    """Write the step's summary and its outputs, if the environment names files for them.

    Raises `StoreError` after both were attempted.
    """
    failures: list[StoreError] = []
    if path := environment.get("GITHUB_STEP_SUMMARY"):
        try:
            summarise(comparison, Path(path), report)
        except StoreError as error:
            failures.append(error)
    if path := environment.get("GITHUB_OUTPUT"):
        try:
            hand_over(outputs(comparison, report), Path(path))
        except StoreError as error:
            failures.append(error)
    if failures:
        raise StoreError(" ".join(map(str, failures))) from failures[0]
