"""Command `compare`: time two files, models or settings in turns."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
    BatchOption,
    ConfigOption,
    DeviceOption,
    ForceOption,
    MachineOption,
    PlaintextOption,
    SchedulerOption,
    VerdictFormat,
)
from fastvit_bench.cli._progress import ProgressLine
from fastvit_bench.errors import ExitCode, UsageError
from fastvit_bench.records.unfinished import CompareOptions

if TYPE_CHECKING:
    from fastvit_bench.config import Config
    from fastvit_bench.fleet.place import ComparisonPlace
    from fastvit_bench.records.unfinished import Unfinished

# the default of --report-format
COMPARE_FORMATS = "markdown,json,svg"


# long: declares the options of the command
def compare(
    context: typer.Context,
    base: Annotated[
        str | None,
        typer.Argument(
            show_default=False,
            autocompletion=_complete.models,
            help="An exported file, a folder of them, or a model; with settings: fastvit_t8,fuse=none,threads=1.",
        ),
    ] = None,
    head: Annotated[
        str | None,
        typer.Argument(
            show_default=False,
            autocompletion=_complete.models,
            help="Compared with BASE, in the same form; ratios are HEAD over BASE.",
        ),
    ] = None,
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
        str | None, typer.Option("--report-format", help=f"{KNOWN_FORMATS} [default: {COMPARE_FORMATS}]")
    ] = None,
    force: ForceOption = False,
    format_: VerdictFormatOption = VerdictFormat.RICH,
    scheduler: SchedulerOption = None,
    plaintext: PlaintextOption = None,
    resume: ResumeComparisonOption = None,
    machine_name: MachineOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Time two files, models or settings in turns: which is faster?

    They may differ in fusion level, thread count or Python environment too. Exit code 4: something could not be
    compared. With --max-regression, exit code 1 is a regression and 3 inconclusive. Every block is kept at once, so an
    interrupted comparison can go on with --resume.

    \b
    fastvit-bench compare fastvit_t8,fuse=none fastvit_t8 --res 256
    fastvit-bench compare old.onnx new.onnx --max-regression 5%
    fastvit-bench compare fastvit_t8 fastvit_t8,precision=int8,calibration=images
    """
    from fastvit_bench import options
    from fastvit_bench.fleet import place

    own = CompareOptions(
        base=base,
        head=head,
        device=device,
        res=res,
        batch=batch,
        base_python=base_python,
        head_python=head_python,
        max_regression=max_regression,
        max_time=max_time,
        seed=seed,
        report=None if report is None else str(report),
        report_format=report_format,
        force=force,
    )
    settings = options.load(config_file)
    asked, begun = earlier(context, own, Path(settings.paths.results), resume)
    device_ = options.resolve_device(settings.device(asked.device), batch=asked.batch)
    if asked.base is None or asked.head is None:
        raise UsageError("Name two sides, such as: fastvit-bench compare fastvit_t8,fuse=none fastvit_t8.")
    if scheduler is not None and (asked.base_python or asked.head_python):
        raise UsageError("--base-python and --head-python are for this machine; a worker has its own Python.")
    like = begun.start.machine if begun is not None else None
    _fleet.check(scheduler, plaintext, machine_name, [device_])
    name = "" if scheduler else settings.machine_name(machine_name)
    with place.of_comparison(device_, name, scheduler, plaintext, like) as where:
        _compare(asked, (asked.base, asked.head), begun, settings, where, scheduler, format_)


def _compare(
    asked: CompareOptions,
    texts: tuple[str, str],
    begun: "Unfinished | None",
    settings: "Config",
    where: "ComparisonPlace",
    scheduler: str | None,
    format_: VerdictFormat,
) -> None:
    """Resolve both sides, measure them in turns, write and print the result, and end with its exit code."""
    from fastvit_bench import config, options
    from fastvit_bench.comparing import inputs, interleaved
    from fastvit_bench.records.comparison import BaselineKind, Outcome

    chosen, machine = where.device, where.machine
    report = None if asked.report is None else Path(asked.report)
    formats = report_formats(report, asked.report_format, COMPARE_FORMATS, "compare", force=asked.force)
    options.require_folders(settings, chosen.name, report)
    shapes = config.shapes(asked.res, settings.sweep.grid, chosen.batch) if asked.res else []
    pythons = (asked.base_python, asked.head_python)
    commands = [inputs.python_command(python) if python else () for python in pythons]
    plan = options.comparison_plan(settings, asked.max_regression, None, asked.max_time, asked.seed)
    labels = [f"{text} (in {python})" if python else text for text, python in zip(texts, pythons, strict=True)]

    with locked(settings, chosen.name, scheduler, begun), ProgressLine(_output.stderr()) as progress:
        pairs = inputs.resolve_pair(
            *texts, (labels[0], labels[1]), settings, chosen, shapes, commands, progress.step, engines=where.local
        )
        journal = open_journal(
            begun, settings, asked, "compare", machine=machine, plan=plan, pairs=pairs, device=chosen
        )
        contest = interleaved.InterleavedRun(
            pairs,
            plan,
            machine,
            timeout_s=settings.sweep.timeout_s,
            same=inputs.allow_any,
            recorded=journal.recorded,
            record=journal.record,
            measure=where.measure,
        )
        announced = announce([*where.notes, *inputs.same_content(pairs)])
        comparison = run_blocks(
            contest, BaselineKind.PAIRED, chosen, labels[0], labels[1], progress, journal, announced, scheduler
        )
    conclude(comparison, "compare", journal, report, formats, format_)
    judged = asked.max_regression is not None or comparison.outcome is Outcome.INCOMPARABLE
    raise typer.Exit(comparison.exit_code if judged else ExitCode.DONE)
