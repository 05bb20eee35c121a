"""Commands that time two sides in turns: compare, gate, calibrate."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastvit_bench import backends, catalogue, config
from fastvit_bench.cli import _screen, _values
from fastvit_bench.cli._options import BatchOption, ConfigOption, DeviceOption, MachineOption, ThreadsOption
from fastvit_bench.errors import ExitCode, StoreError, UsageError
from fastvit_bench.records import Device, Fuse, ModelSpec, Shape, cell_name
from fastvit_bench.verdicts import NoBaseline

if TYPE_CHECKING:
    from rich.console import Console

    from fastvit_bench.config import Config
    from fastvit_bench.verdicts import Comparison, Plan

GateModelsOption = Annotated[
    list[str] | None, typer.Option("--model", "-m", help="Model or glob, repeatable. [default: of [gate]]")
]
GateSizesOption = Annotated[str | None, typer.Option("--res", "--img-size", help="Sizes. [default: grid of [gate]]")]
MaxRegressionOption = Annotated[
    str | None, typer.Option("--max-regression", help="Slowdown of a cell that is accepted, such as 5%.")
]
MaxTimeOption = Annotated[
    str | None, typer.Option("--max-time", help="When to stop, such as 90s or 20m. [default: of [gate]]")
]
OrderSeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of the order of turns and cells.")]
ReportOption = Annotated[
    Path | None, typer.Option("--report", help="Folder for the outputs of --report-format. [default: none]")
]
_KNOWN_FORMATS = "Of: markdown, junit, json, bmf, gha, pytest-benchmark, svg, png; by commas."
# written where --report-format does not say
COMPARE_FORMATS = "markdown,json,svg"
GATE_FORMATS = "markdown,junit,json,svg"


def compare(
    base: Annotated[
        str,
        typer.Argument(
            help="An exported file, a folder of them, or a model; with settings: fastvit_t8,fuse=none,threads=1."
        ),
    ],
    head: Annotated[str, typer.Argument(help="Likewise; ratios are HEAD over BASE.")],
    device: DeviceOption = "cpu",
    res: Annotated[
        str | None,
        typer.Option("--res", "--img-size", help="Sizes. [default: those of the files, else the model's own]"),
    ] = None,
    batch: BatchOption = None,
    base_python: Annotated[
        str | None, typer.Option("--base-python", help="Python whose packages run BASE. [default: this one]")
    ] = None,
    head_python: Annotated[
        str | None, typer.Option("--head-python", help="Python whose packages run HEAD. [default: this one]")
    ] = None,
    max_regression: MaxRegressionOption = None,
    max_time: MaxTimeOption = None,
    seed: OrderSeedOption = 0,
    report: ReportOption = None,
    report_format: Annotated[
        str | None, typer.Option("--report-format", help=f"{_KNOWN_FORMATS} [default: {COMPARE_FORMATS}]")
    ] = None,
    machine_name: MachineOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Time two exports, models, fuse levels, thread counts or Python environments in turns, and say which is quicker.

    Exit code 4 says that something could not be compared. With --max-regression, 1 is a regression and 3 inconclusive.
    """
    from fastvit_bench import sides, sweep, turns
    from fastvit_bench.verdicts import Kind, Outcome

    settings = _values.load(config_file)
    asked = _values.as_asked(settings.device(device), batch=batch)
    chosen, machine = sweep.preflight(asked, name=settings.machine_name(machine_name))
    formats = _formats(report, report_format, COMPARE_FORMATS)
    _values.require_folders(settings, chosen.name, report)
    console = _screen.stderr()
    shapes = config.shapes(res, settings.sweep.grid, chosen.batch) if res else []
    commands = [sides.elsewhere(python) if python else () for python in (base_python, head_python)]
    plan = _plan(settings, max_regression, None, max_time, seed)
    labels = [
        f"{text} (in {python})" if python else text for text, python in ((base, base_python), (head, head_python))
    ]

    with _locked(settings, chosen.name):
        pairs = sides.both(
            base, head, (labels[0], labels[1]), settings, chosen, shapes, commands, _screen.notifier(console)
        )
        contest = turns.Contest(pairs, plan, machine, timeout_s=settings.sweep.timeout_s, same=sides.anything_goes)
        alike = _announce_same(sides.same_content(pairs))
        comparison = _contested(contest, Kind.PAIRED, chosen, labels[0], labels[1], console, alike)
    _conclude(comparison, settings, "compare", report, formats)
    judged = max_regression is not None or comparison.outcome is Outcome.INCOMPARABLE
    raise typer.Exit(comparison.exit_code if judged else ExitCode.DONE)


def gate(
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline", help="Folder of exported files, or results/DEVICE/RUN.jsonl of another day (weaker)."
        ),
    ] = None,
    baseline_rev: Annotated[
        str | None, typer.Option("--baseline-rev", help="Git revision to export the base from, such as origin/main.")
    ] = None,
    head: Annotated[
        Path | None, typer.Option("--head", help="Folder of exported files. [default: exported from here]")
    ] = None,
    device: DeviceOption = "cpu",
    model: GateModelsOption = None,
    res: GateSizesOption = None,
    threads: ThreadsOption = None,
    max_regression: MaxRegressionOption = None,
    max_pooled_regression: Annotated[
        str | None,
        typer.Option("--max-pooled-regression", help="Likewise, of all cells together. [half of --max-regression]"),
    ] = None,
    max_time: MaxTimeOption = None,
    seed: OrderSeedOption = 0,
    report: ReportOption = None,
    report_format: Annotated[
        str | None, typer.Option("--report-format", help=f"{_KNOWN_FORMATS} [default: {GATE_FORMATS}]")
    ] = None,
    no_baseline: Annotated[
        NoBaseline,
        typer.Option("--no-baseline", help="What a model is that the base does not have at all: fail (4) or pass."),
    ] = NoBaseline.FAIL,
    machine_name: MachineOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Compare this tree with a baseline for CI: exit code 0 passed, 1 regression, 3 inconclusive, 4 not comparable.

    Cells, margins and time are those of [gate] in benchmark.toml. Every file is proved before it is timed (5).
    """
    from contextlib import ExitStack

    from fastvit_bench import sides, sweep, turns
    from fastvit_bench.report import calibration
    from fastvit_bench.store import speeds
    from fastvit_bench.verdicts import Kind

    if (baseline is None) == (baseline_rev is None):
        raise UsageError("Say what to compare with: --baseline DIR or RUN.jsonl, or --baseline-rev REVISION.")
    settings = _values.load(config_file)
    asked = _values.as_asked(settings.device(device), running={"threads": threads})
    chosen, machine = sweep.preflight(asked, name=settings.machine_name(machine_name))
    specs, shapes = _gated(settings, model, res, chosen.batch)
    formats = _formats(report, report_format, GATE_FORMATS)
    _values.require_folders(settings, chosen.name, report)
    console = _screen.stderr()
    notify = _screen.notifier(console)
    weak = (
        baseline is not None and baseline.is_file() and not baseline.name.endswith(backends.get(chosen.backend).suffix)
    )
    plan = _plan(settings, max_regression, max_pooled_regression, max_time, seed, no_baseline)
    kept = Path(settings.paths.results) / chosen.name
    timeout_s = settings.sweep.timeout_s
    with _locked(settings, chosen.name), ExitStack() as held:
        if baseline_rev is not None:
            bases = held.enter_context(sides.exported_by(baseline_rev, settings, specs, shapes, chosen, notify))
        elif weak:
            assert baseline is not None
            bases = sides.stored(baseline, chosen, machine)
            plan = turns.weaker(plan, config.share(settings.gate.stored_extra))
        else:
            assert baseline is not None
            bases = [*sides.lying(baseline, chosen, str(baseline))]
        if head is not None:
            heads = [*sides.lying(head, chosen, str(head))]
        else:
            heads = sides.made(
                specs,
                shapes,
                Fuse.FOLDED,
                chosen,
                label="this tree",
                seed=0,
                models=Path(settings.paths.models),
                timeout_s=timeout_s,
                notify=notify,
            )
        for side in (bases, heads):
            sides.build_engines(side, timeout_s)
        wanted = [cell_name(spec.name, shape) for spec in specs for shape in shapes]
        pairs = [
            pair
            for pair in sides.advised(sides.by_name(bases, heads, wanted), no_baseline)
            # what is left out on purpose is not missing; any other cell that a side holds is a cell
            if pair.name in wanted or not (model or res)
        ]
        doubts = calibration.doubts(kept, plan, machine)  # refuses a calibration that cannot be read
        known = speeds.load(Path(settings.paths.results), machine).factors if weak else None
        contest = turns.Contest(pairs, plan, machine, timeout_s=timeout_s, factors=known)
        alike = _announce_same(sides.same_content(pairs))
        comparison = _contested(
            contest,
            Kind.STORED if weak else Kind.PAIRED,
            chosen,
            str(baseline_rev or baseline),
            str(head or "this tree"),
            console,
            [*alike, *sides.host_hints(bases, machine), *doubts],
        )
    _conclude(comparison, settings, "gate", report, formats)
    raise typer.Exit(comparison.exit_code)


def calibrate(
    device: DeviceOption = "cpu",
    model: GateModelsOption = None,
    res: GateSizesOption = None,
    threads: ThreadsOption = None,
    repeat: Annotated[int, typer.Option("--repeat", "-k", min=2, help="Gates of each cell against itself.")] = 5,
    max_regression: MaxRegressionOption = None,
    max_time: MaxTimeOption = None,
    seed: OrderSeedOption = 0,
    machine_name: MachineOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Compare each cell with itself: this machine's noise, false alarms, and the slowdowns that a gate can see here.

    `gate` reads the result and warns of margins below the noise.
    """
    from fastvit_bench import sides, sweep, turns
    from fastvit_bench.report import calibration

    settings = _values.load(config_file)
    asked = _values.as_asked(settings.device(device), running={"threads": threads})
    chosen, machine = sweep.preflight(asked, name=settings.machine_name(machine_name))
    specs, shapes = _gated(settings, model, res, chosen.batch)
    console = _screen.stderr()
    plan = _plan(settings, max_regression, None, max_time, seed)
    _values.require_folders(settings, chosen.name)
    with _locked(settings, chosen.name):
        same = sides.made(
            specs,
            shapes,
            Fuse.FOLDED,
            chosen,
            label="itself",
            seed=0,
            models=Path(settings.paths.models),
            timeout_s=settings.sweep.timeout_s,
            notify=_screen.notifier(console),
        )
        pairs = sides.by_name(same, same)
        with _screen.blocks_bar(console, len(pairs)) as advance:
            found = turns.calibrated(
                pairs, plan, machine, repeat=repeat, timeout_s=settings.sweep.timeout_s, notify=advance
            )
        path = calibration.save(found, Path(settings.paths.results) / chosen.name)
    out = _screen.stdout()
    out.print(calibration.rich(found, out.width))
    typer.echo(calibration.sentence(found))
    typer.echo(f"written: {path}", err=True)


def _announce_same(sentences: list[str]) -> list[str]:
    """Say at once, before anything is measured, that sides are the same; returns the sentences for the report."""
    for sentence in sentences:
        typer.echo(sentence, err=True)
    return sentences


def _gated(
    settings: "Config", model: list[str] | None, res: str | None, batch: int
) -> tuple[list[ModelSpec], list[Shape]]:
    """Models and shapes of [gate], or those that the options name."""
    grid = settings.gate.grid or settings.sweep.grid
    specs = settings.select(model or settings.gate.models)
    for spec in specs:
        catalogue.require(spec.variant)
    return specs, config.shapes(res or ",".join(map(str, grid)), grid, batch)


def _plan(
    settings: "Config",
    max_regression: str | None,
    max_pooled: str | None,
    max_time: str | None,
    seed: int,
    no_baseline: NoBaseline = NoBaseline.FAIL,
) -> "Plan":
    """The plan of [gate] with what the options change; without its own, the pooled margin is half of the cells'."""
    from fastvit_bench.turns import TURNS
    from fastvit_bench.verdicts import Plan

    ours = settings.gate
    margin = config.share(max_regression or ours.max_regression)
    pooled = max_pooled or ("" if max_regression else ours.max_pooled_regression)
    return Plan(
        margin=margin,
        pooled_margin=config.share(pooled) if pooled else margin / 2,
        alpha=ours.alpha,
        beta=ours.beta,
        max_time_s=config.seconds(max_time or ours.max_time),
        seed=seed,
        turns=TURNS,
        no_baseline=no_baseline,
    )


def _locked(settings: "Config", device: str) -> Any:
    from fastvit_bench.report import store

    return store.lock(Path(settings.paths.results), device)


def _formats(report: Path | None, names: str | None, usual: str) -> list[str]:
    """Formats that will be written, known before anything is measured.

    What was asked for by name must be possible here; of the usual ones, what is not is left out and told. To name just
    the usual ones, as the GitHub Action does, asks for nothing more than they are.
    """
    from fastvit_bench.report import verdict

    if report is None:
        return []
    formats = verdict.checked([name.strip() for name in (names or usual).split(",") if name.strip()])
    if set(formats) != set(usual.split(",")):
        verdict.require(formats)
        return formats
    formats, left_out = verdict.possible(formats)
    if left_out:
        _warn(left_out)
    return formats


def _warn(sentence: str) -> None:
    typer.echo(f"warning: {sentence}", err=True)


def _contested(
    contest: Any, kind: Any, device: Device, base: str, head: str, console: "Console", warnings: Sequence[str] = ()
) -> "Comparison":
    """Run a contest under a progress bar."""
    from datetime import UTC, datetime

    from fastvit_bench import turns

    started = datetime.now(UTC)
    with _screen.blocks_bar(console, len(contest.cells)) as advance:
        contest.notify = advance
        verdicts = contest.run()
    return turns.told(
        contest, verdicts, kind=kind, device=device, base=base, head=head, started=started, warnings=warnings
    )


def _conclude(
    comparison: "Comparison", settings: "Config", command: str, report: Path | None, formats: Sequence[str]
) -> None:
    """Everything that is written, before any exit code: what is kept first, what can fail by itself last.

    What cannot be written is a warning beside the verdict: the blocks were measured, and the exit code is theirs.
    """
    from datetime import UTC, datetime

    from fastvit_bench.report import store, verdict
    from fastvit_bench.report.verdict import github

    kept = Path(settings.paths.results) / comparison.device.name / f"{command}-{store.new_id(datetime.now(UTC))}.json"
    written: list[Path] = []
    try:
        verdict.write(comparison, "json", kept)
        written.append(kept)
    except StoreError as error:
        _warn(str(error))
    try:
        github.tell(comparison, os.environ, str(report or kept))
    except StoreError as error:
        _warn(str(error))
    if report is not None:
        published = verdict.publish(comparison, report, formats, command)
        written += published.written
        for sentence in published.lost:
            _warn(sentence)
    for path in written:
        typer.echo(f"written: {path}", err=True)
    out = _screen.stdout()
    out.print(verdict.rich(comparison, out.width))
    typer.echo(verdict.sentence(comparison))
    for line in github.annotations(comparison, os.environ):
        typer.echo(line)
