"""Command `gate`: compare this tree with a baseline, for CI."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from fastvit_bench.cli import _complete, _fleet, _output
from fastvit_bench.cli._comparison import (
    KNOWN_FORMATS,
    MaxRegressionOption,
    MaxTimeOption,
    OrderSeedOption,
    ReportOption,
    ResumeComparisonOption,
    VerdictFormatOption,
    announce,
    conclude,
    earlier,
    locked,
    open_journal,
    report_formats,
    run_blocks,
)
from fastvit_bench.cli._options import (
    ConfigOption,
    DeviceOption,
    ForceOption,
    MachineOption,
    PlaintextOption,
    SchedulerOption,
    ThreadsOption,
    VerdictFormat,
)
from fastvit_bench.cli._progress import ProgressLine
from fastvit_bench.errors import UsageError
from fastvit_bench.records import Fuse, cell_name
from fastvit_bench.records.comparison import NoBaseline
from fastvit_bench.records.unfinished import GateOptions

if TYPE_CHECKING:
    from contextlib import ExitStack

    from fastvit_bench.comparing.inputs import ComparisonPair
    from fastvit_bench.config import Config
    from fastvit_bench.fleet.place import ComparisonPlace
    from fastvit_bench.records import Device, Machine
    from fastvit_bench.records.unfinished import Unfinished

GateModelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--model", "-m", autocompletion=_complete.models, help="Model or glob, repeatable. [default: models in [gate]]"
    ),
]


GateSizesOption = Annotated[
    str | None, typer.Option("--res", "--img-size", help="Image sizes. [default: grid in [gate]]")
]


# the default of --report-format
GATE_FORMATS = "markdown,junit,json,svg"


# long: declares the options of the command
def gate(
    context: typer.Context,
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline",
            metavar="PATH",
            help="Folder of exported files, or an earlier run: results/DEVICE/RUN.jsonl (weaker). "
            "[required without --baseline-rev]",
        ),
    ] = None,
    baseline_rev: Annotated[
        str | None,
        typer.Option(
            "--baseline-rev",
            help="Git revision to export the base from, such as origin/main. [required without --baseline]",
        ),
    ] = None,
    head: Annotated[
        Path | None,
        typer.Option("--head", metavar="DIR", help="Folder of exported files. [default: exported from this tree]"),
    ] = None,
    device: DeviceOption = "cpu",
    model: GateModelsOption = None,
    res: GateSizesOption = None,
    threads: ThreadsOption = None,
    max_regression: MaxRegressionOption = None,
    max_pooled_regression: Annotated[
        str | None,
        typer.Option(
            "--max-pooled-regression",
            help="Accepted slowdown of all cells together. [default: half of --max-regression]",
        ),
    ] = None,
    max_time: MaxTimeOption = None,
    seed: OrderSeedOption = 0,
    report: ReportOption = None,
    report_format: Annotated[
        str | None, typer.Option("--report-format", help=f"{KNOWN_FORMATS} [default: {GATE_FORMATS}]")
    ] = None,
    no_baseline: Annotated[
        NoBaseline,
        typer.Option("--no-baseline", help="Result for a model that the base does not have at all: fail (4) or pass."),
    ] = NoBaseline.FAIL,
    allow: Annotated[
        list[str] | None,
        typer.Option(
            "--allow",
            help="Compare although the sides differ in this: fuse, variant, classes, head or precision. "
            "[default: none]",
        ),
    ] = None,
    force: ForceOption = False,
    format_: VerdictFormatOption = VerdictFormat.RICH,
    scheduler: SchedulerOption = None,
    plaintext: PlaintextOption = None,
    resume: ResumeComparisonOption = None,
    machine_name: MachineOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Compare this tree with a baseline, for CI.

    Exit code 0 passed, 1 regression, 3 inconclusive, 4 not comparable. Cells, margins and time are those of [gate] in
    benchmark.toml. Every file is proved before it is timed (5). Every block is kept at once, so an interrupted gate can
    go on with --resume.

    \b
    fastvit-bench gate --baseline-rev origin/main --report gate
    fastvit-bench gate --baseline exported/ --max-regression 3%
    """
    from fastvit_bench import options
    from fastvit_bench.fleet import place

    own = GateOptions(
        baseline=None if baseline is None else str(baseline),
        baseline_rev=baseline_rev,
        head=None if head is None else str(head),
        device=device,
        model=tuple(model or ()),
        res=res,
        threads=threads,
        max_regression=max_regression,
        max_pooled_regression=max_pooled_regression,
        max_time=max_time,
        seed=seed,
        report=None if report is None else str(report),
        report_format=report_format,
        no_baseline=no_baseline,
        allow=tuple(allow or ()),
        force=force,
    )
    settings = options.load(config_file)
    asked, begun = earlier(context, own, Path(settings.paths.results), resume)
    if (asked.baseline is None) == (asked.baseline_rev is None):
        raise UsageError("Say what to compare with: --baseline DIR or RUN.jsonl, or --baseline-rev REVISION.")
    device_ = options.resolve_device(settings.device(asked.device), options={"threads": asked.threads})
    _fleet.check(scheduler, plaintext, machine_name, [device_])
    name = "" if scheduler else settings.machine_name(machine_name)
    with place.of_comparison(device_, name, scheduler, plaintext, _measured_on(asked, begun, device_)) as where:
        _gate(asked, begun, settings, where, scheduler, format_)


def _measured_on(asked: GateOptions, begun: "Unfinished | None", device: "Device") -> "Machine | None":
    """Return the machine that measured a part of the comparison before: its earlier blocks, or its stored base."""
    from fastvit_bench.store import runs

    if begun is not None:
        return begun.start.machine
    if asked.baseline is not None and _stored(asked.baseline, device):
        return next((line.machine for line in runs.read(Path(asked.baseline)).measurements), None)
    return None


def _gate(
    asked: GateOptions,
    begun: "Unfinished | None",
    settings: "Config",
    where: "ComparisonPlace",
    scheduler: str | None,
    format_: VerdictFormat,
) -> None:
    """Resolve both sides, measure them in turns, write and print the result, and end with its exit code."""
    from contextlib import ExitStack

    from fastvit_bench import config, options
    from fastvit_bench.comparing import calibrate, inputs, interleaved
    from fastvit_bench.records.comparison import BaselineKind
    from fastvit_bench.store import speeds

    chosen, machine = where.device, where.machine
    allowed = inputs.check_allowed(asked.allow)
    report = None if asked.report is None else Path(asked.report)
    formats = report_formats(report, asked.report_format, GATE_FORMATS, "gate", force=asked.force)
    options.require_folders(settings, chosen.name, report)
    stored = _stored(asked.baseline, chosen)
    plan = options.comparison_plan(
        settings, asked.max_regression, asked.max_pooled_regression, asked.max_time, asked.seed, asked.no_baseline
    )
    plan = msgspec.structs.replace(plan, allowed=allowed)
    if stored:
        plan = interleaved.widen_margins(plan, config.share(settings.gate.stored_extra))
    results = Path(settings.paths.results)
    with ExitStack() as stack:
        stack.enter_context(locked(settings, chosen.name, scheduler, begun))
        progress = stack.enter_context(ProgressLine(_output.stderr()))
        pairs = _pairs(asked, settings, where, stack, progress.step)
        doubts = calibrate.doubts(results / chosen.name, plan, machine)  # refuses a calibration that cannot be read
        journal = open_journal(begun, settings, asked, "gate", machine=machine, plan=plan, pairs=pairs, device=chosen)
        contest = interleaved.InterleavedRun(
            pairs,
            plan,
            machine,
            timeout_s=settings.sweep.timeout_s,
            same=lambda base, head: inputs.incompatibilities(base, head, allowed),
            factors=speeds.load(results, machine).factors if stored else None,
            recorded=journal.recorded,
            record=journal.record,
            measure=where.measure,
        )
        announced = announce([*where.notes, *inputs.same_content(pairs), *inputs.other_weights(pairs)])
        comparison = run_blocks(
            contest,
            BaselineKind.STORED if stored else BaselineKind.PAIRED,
            chosen,
            asked.baseline_rev or str(asked.baseline),
            asked.head or "this tree",
            progress,
            journal,
            [*announced, *inputs.host_hints((pair.base for pair in pairs), machine), *doubts],
            scheduler,
        )
    conclude(comparison, "gate", journal, report, formats, format_)
    raise typer.Exit(comparison.exit_code)


def _stored(baseline: str | None, device: "Device") -> bool:
    """Return whether a baseline is a stored run, and neither a revision nor exported files."""
    from fastvit_bench import backends

    suffix = backends.get(device.backend).suffix
    return baseline is not None and Path(baseline).is_file() and not baseline.endswith(suffix)


def _pairs(
    asked: GateOptions,
    settings: "Config",
    where: "ComparisonPlace",
    stack: "ExitStack",
    notify: Callable[[str], None],
) -> "list[ComparisonPair]":
    """Return the cells of a gate with both sides; what they need to stay on the disk is released with `stack`."""
    from fastvit_bench import options
    from fastvit_bench.comparing import inputs

    device, machine = where.device, where.machine
    specs, shapes = options.gate_selection(settings, asked.model, asked.res, device.batch)
    if asked.baseline is None:
        assert asked.baseline_rev is not None
        bases = stack.enter_context(inputs.exported_by(asked.baseline_rev, settings, specs, shapes, device, notify))
    elif _stored(asked.baseline, device):
        bases = inputs.stored_baseline(Path(asked.baseline), device, machine)
    else:
        bases = inputs.load_exported(Path(asked.baseline), device, asked.baseline)
    if asked.head is not None:
        heads = inputs.load_exported(Path(asked.head), device, asked.head)
    else:
        heads = inputs.export_missing(
            specs,
            shapes,
            Fuse.FOLDED,
            device,
            label="this tree",
            seed=0,
            models=Path(settings.paths.models),
            timeout_s=settings.sweep.timeout_s,
            notify=notify,
        )
    for side in (bases, heads) if where.local else ():
        inputs.build_engines(side, settings.sweep.timeout_s, notify)
    wanted = [cell_name(spec.name, shape) for spec in specs for shape in shapes]
    return [
        pair
        for pair in inputs.apply_no_baseline(inputs.by_name(bases, heads, wanted), asked.no_baseline)
        # cells that --model or --res leave out are not missing; without them every cell of a side counts
        if pair.name in wanted or not (asked.model or asked.res)
    ]
