"""Command `compare`: time two files, models or settings in turns."""

from typing import Annotated

import typer

from fastvit_bench.cli import _output
from fastvit_bench.cli._comparison import (
    KNOWN_FORMATS,
    MaxRegressionOption,
    MaxTimeOption,
    OrderSeedOption,
    ReportOption,
    announce_same,
    conclude,
    locked,
    report_formats,
    run_blocks,
)
from fastvit_bench.cli._options import BatchOption, ConfigOption, DeviceOption, MachineOption
from fastvit_bench.errors import ExitCode

# the default of --report-format
COMPARE_FORMATS = "markdown,json,svg"


# long: declares the options of the command
def compare(
    base: Annotated[
        str,
        typer.Argument(
            help="An exported file, a folder of them, or a model; with settings: fastvit_t8,fuse=none,threads=1."
        ),
    ],
    head: Annotated[str, typer.Argument(help="Compared with BASE, in the same form; ratios are HEAD over BASE.")],
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
    machine_name: MachineOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Time two exports, models, fusion levels, thread counts or Python environments in turns, and say which is faster.

    Exit code 4: something could not be compared. With --max-regression, exit code 1 is a regression and 3 inconclusive.
    """
    from fastvit_bench import config, options
    from fastvit_bench.comparing import inputs, interleaved
    from fastvit_bench.records.comparison import BaselineKind, Outcome
    from fastvit_bench.sweep import preflight

    settings = options.load(config_file)
    asked = options.resolve_device(settings.device(device), batch=batch)
    chosen, machine = preflight.preflight(asked, name=settings.machine_name(machine_name))
    formats = report_formats(report, report_format, COMPARE_FORMATS)
    options.require_folders(settings, chosen.name, report)
    console = _output.stderr()
    shapes = config.shapes(res, settings.sweep.grid, chosen.batch) if res else []
    commands = [inputs.python_command(python) if python else () for python in (base_python, head_python)]
    plan = options.comparison_plan(settings, max_regression, None, max_time, seed)
    labels = [
        f"{text} (in {python})" if python else text for text, python in ((base, base_python), (head, head_python))
    ]

    with locked(settings, chosen.name):
        pairs = inputs.resolve_pair(
            base, head, (labels[0], labels[1]), settings, chosen, shapes, commands, _output.notifier(console)
        )
        contest = interleaved.InterleavedRun(
            pairs, plan, machine, timeout_s=settings.sweep.timeout_s, same=inputs.allow_any
        )
        alike = announce_same(inputs.same_content(pairs))
        comparison = run_blocks(contest, BaselineKind.PAIRED, chosen, labels[0], labels[1], console, alike)
    conclude(comparison, settings, "compare", report, formats)
    judged = max_regression is not None or comparison.outcome is Outcome.INCOMPARABLE
    raise typer.Exit(comparison.exit_code if judged else ExitCode.DONE)
