"""What the scripts say and how: common options, progress on standard error, one report on standard output."""

import argparse
import importlib.metadata
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import msgspec
from _interleave import Blocks, Ratio

from fastvit_bench.backends import available_cores
from fastvit_bench.errors import UsageError
from fastvit_bench.measuring import machine as machines
from fastvit_bench.network.registry import VARIANTS, check_size
from fastvit_bench.records import Machine, MachineState, Record


class Goal(Record, frozen=True):
    """A claim, and whether the figures bear it out."""

    claim: str
    met: bool
    reason: str  # the figure that decided


class Report(Record, frozen=True):
    """Everything one call of a script found."""

    script: str
    date: str  # UTC, ISO 8601
    machine: Machine
    state: MachineState  # before and after all of it
    settings: dict[str, str]
    ratios: tuple[Ratio, ...]
    goals: tuple[Goal, ...]
    remarks: tuple[str, ...]
    blocks: tuple[Blocks, ...]  # as timed, for whoever wants to compute something else


# --- options ----------------------------------------------------------------------------------------------------------


def parser(about: str | None, *, blocks: int, runs: int | None) -> argparse.ArgumentParser:
    """The options every script has, with its defaults; `runs` is None for scripts that time whole processes."""
    options = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--blocks", type=whole, default=blocks, help="blocks per side; below six there is no interval (%(default)s)"
    )
    if runs is not None:
        options.add_argument("--runs", type=whole, default=runs, help="timed runs in a block (%(default)s)")
        options.add_argument(
            "--threads", type=whole, default=available_cores(), help="threads of one operator (all cores)"
        )
    options.add_argument("--seed", type=int, default=0, help="of the weights and of the order (%(default)s)")
    written = options.add_mutually_exclusive_group()
    written.add_argument("--json", action="store_true", help="print the report as JSON, every block included")
    written.add_argument("--markdown", action="store_true", help="print the table for README.md")
    return options


def add_networks(options: argparse.ArgumentParser, models: Sequence[str], others: Sequence[str] = ()) -> None:
    """The options of scripts that time networks: `models` unless others are named, which may be of `others` too."""
    options.add_argument(
        "--models",
        nargs="+",
        choices=[*VARIANTS, *others],
        default=list(models),
        metavar="MODEL",
        help=" ".join(models) + (f"; or {' '.join(others)}" if others else ""),
    )
    options.add_argument("--res", type=pixels, default=256, help="height and width in pixels (%(default)s)")
    options.add_argument("--batch", type=whole, default=1, help="images per run (%(default)s)")


def whole(text: str) -> int:
    """A whole number above 0."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} must be above 0")
    return value


def pixels(text: str) -> int:
    """An image size the networks take."""
    size = int(text)
    try:
        check_size(size, size)
    except UsageError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    return size


# --- progress ---------------------------------------------------------------------------------------------------------


def say(text: str) -> None:
    """One line for the person who waits."""
    print(text, file=sys.stderr, flush=True)


def ticker(what: str) -> Callable[[int, int], None]:
    """What `interleave` notifies: a line that counts on a terminal, one line per comparison elsewhere."""
    begun = 0.0
    terminal = sys.stderr.isatty()

    def tick(done: int, total: int) -> None:
        nonlocal begun
        if done == 0:
            begun = time.monotonic()
            text = f"{what}: {total} blocks"
        else:
            left = (time.monotonic() - begun) / done * (total - done)
            text = f"{what}: block {done} of {total}, about {left:.0f} s left"
        if terminal:
            end = "\n" if done == total else ""
            print(f"\r\x1b[K{text}", end=end, file=sys.stderr, flush=True)
        elif done == 0:
            say(text)

    return tick


def say_ratio(ratio: Ratio) -> None:
    """A result as soon as it is there."""
    say(f"{ratio.what}: {ratio.side} / {ratio.base} = {number(ratio)} {bracket(ratio)}")


# --- output -----------------------------------------------------------------------------------------------------------

HEADS = ("what", "side", "against", "side ms", "against ms", "ratio", "95 % interval", "blocks")


def report(
    script: str,
    watch: machines.Watch,
    settings: dict[str, str | int],
    ratios: Sequence[Ratio],
    blocks: Sequence[Blocks],
    goals: Sequence[Goal] = (),
    remarks: Sequence[str] = (),
    packages: Sequence[str] = (),
) -> Report:
    """Put the figures beside the machine and the settings they were made with; `packages` are versions to add."""
    machine = machines.collect()
    versions = {name: importlib.metadata.version(name) for name in packages}
    return Report(
        script=script,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine=msgspec.structs.replace(machine, packages={**machine.packages, **versions}),
        state=watch.state(),
        settings={name: str(value) for name, value in settings.items()},
        ratios=tuple(ratios),
        goals=tuple(goals),
        remarks=tuple(remarks),
        blocks=tuple(blocks),
    )


def finish(found: Report, options: argparse.Namespace) -> int:
    """Print a report as the options want it; returns the exit code, 1 when a goal was missed."""
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    elif options.markdown:
        print(markdown(found))
    else:
        print(text(found))
    return 0 if all(goal.met for goal in found.goals) else 1


def markdown(found: Report) -> str:
    """The table as README.md holds it, under the machine, the date and the versions."""
    lines = [heading(found), "", _row(HEADS), _row(["---"] * 3 + ["--:"] * 3 + ["---", "--:"])]
    lines += [_row(cells) for cells in _cells(found)]
    lines += ["", *(f"- {line}" for line in _footnotes(found))]
    return "\n".join(lines).rstrip()


def text(found: Report) -> str:
    """The same for a terminal."""
    table = [HEADS, *_cells(found)]
    widths = [max(len(row[column]) for row in table) for column in range(len(HEADS))]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table]
    return "\n".join([heading(found), "", *rows, "", *_footnotes(found)]).rstrip()


def heading(found: Report) -> str:
    """Machine, date, versions and settings in one paragraph."""
    machine, state = found.machine, found.state
    versions = ", ".join(f"{name} {version}" for name, version in machine.packages.items() if name != "coremltools")
    facts = [
        f"{machine.processor}, {machine.processors}, {machine.memory_mib / 1024:.0f} GiB",
        found.date[:10],
        f"{machine.os}, Python {machine.python}, {versions}",
        ", ".join(f"{name} {value}" for name, value in found.settings.items()),
    ]
    if state.load_before is not None:
        facts.append(f"load before {state.load_before:.1f}")
    if state.steal_percent is not None:
        facts.append(f"processor time lost to the hypervisor {state.steal_percent:.1f} %")
    return " · ".join(facts)


def number(ratio: Ratio) -> str:
    """A ratio with as many digits as its interval can bear out."""
    width = ratio.interval.high - ratio.interval.low if ratio.interval else 1.0
    return f"{ratio.ratio:.3f}" if width < 0.1 else f"{ratio.ratio:.2f}"


def bracket(ratio: Ratio) -> str:
    """The interval, or why there is none."""
    if ratio.interval is None:
        return "(once)" if ratio.blocks == 1 else "(too few blocks)"
    digits = 3 if ratio.interval.high - ratio.interval.low < 0.1 else 2
    return f"[{ratio.interval.low:.{digits}f}, {ratio.interval.high:.{digits}f}]"


def _cells(found: Report) -> list[tuple[str, ...]]:
    return [
        (
            ratio.what,
            ratio.side,
            ratio.base,
            _milliseconds(ratio.side_ms),
            _milliseconds(ratio.base_ms),
            number(ratio),
            bracket(ratio),
            str(ratio.blocks),
        )
        for ratio in found.ratios
    ]


def _footnotes(found: Report) -> list[str]:
    goals = [f"Goal: {goal.claim}: {'met' if goal.met else 'MISSED'} ({goal.reason})." for goal in found.goals]
    return [*goals, *found.remarks]


def _milliseconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
