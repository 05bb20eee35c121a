"""Command `gate`: compare this tree with a baseline, for CI."""

from pathlib import Path
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
from fastvit_bench.cli._options import ConfigOption, DeviceOption, MachineOption, ThreadsOption
from fastvit_bench.errors import UsageError
from fastvit_bench.records import Fuse, cell_name
from fastvit_bench.records.comparison import NoBaseline

GateModelsOption = Annotated[
    list[str] | None, typer.Option("--model", "-m", help="Model or glob, repeatable. [default: models in [gate]]")
]


GateSizesOption = Annotated[
    str | None, typer.Option("--res", "--img-size", help="Image sizes. [default: grid in [gate]]")
]


# the default of --report-format
GATE_FORMATS = "markdown,junit,json,svg"


# long: declares the options of the command
def gate(
    baseline: Annotated[
        Path | None,
        typer.Option(
            "--baseline", help="Folder of exported files, or an earlier run: results/DEVICE/RUN.jsonl (weaker)."
        ),
    ] = None,
    baseline_rev: Annotated[
        str | None, typer.Option("--baseline-rev", help="Git revision to export the base from, such as origin/main.")
    ] = None,
    head: Annotated[
        Path | None, typer.Option("--head", help="Folder of exported files. [default: exported from this tree]")
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
    machine_name: MachineOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Compare this tree with a baseline for CI: exit code 0 passed, 1 regression, 3 inconclusive, 4 not comparable.

    Cells, margins and time are those of [gate] in benchmark.toml. Every file is proved before it is timed (5).
    """
    from contextlib import ExitStack

    from fastvit_bench import backends, config, options
    from fastvit_bench.comparing import calibrate, inputs, interleaved
    from fastvit_bench.records.comparison import BaselineKind
    from fastvit_bench.store import speeds
    from fastvit_bench.sweep import preflight

    if (baseline is None) == (baseline_rev is None):
        raise UsageError("Say what to compare with: --baseline DIR or RUN.jsonl, or --baseline-rev REVISION.")
    settings = options.load(config_file)
    asked = options.resolve_device(settings.device(device), options={"threads": threads})
    chosen, machine = preflight.preflight(asked, name=settings.machine_name(machine_name))
    specs, shapes = options.gate_selection(settings, model or [], res, chosen.batch)
    formats = report_formats(report, report_format, GATE_FORMATS)
    options.require_folders(settings, chosen.name, report)
    console = _output.stderr()
    notify = _output.notifier(console)
    weak = (
        baseline is not None and baseline.is_file() and not baseline.name.endswith(backends.get(chosen.backend).suffix)
    )
    plan = options.comparison_plan(settings, max_regression, max_pooled_regression, max_time, seed, no_baseline)
    timeout_s = settings.sweep.timeout_s
    with locked(settings, chosen.name), ExitStack() as stack:
        if baseline_rev is not None:
            bases = stack.enter_context(inputs.exported_by(baseline_rev, settings, specs, shapes, chosen, notify))
        elif weak:
            assert baseline is not None
            bases = inputs.stored_baseline(baseline, chosen, machine)
            plan = interleaved.widen_margins(plan, config.share(settings.gate.stored_extra))
        else:
            assert baseline is not None
            bases = [*inputs.load_exported(baseline, chosen, str(baseline))]
        if head is not None:
            heads = [*inputs.load_exported(head, chosen, str(head))]
        else:
            heads = inputs.export_missing(
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
            inputs.build_engines(side, timeout_s)
        wanted = [cell_name(spec.name, shape) for spec in specs for shape in shapes]
        pairs = [
            pair
            for pair in inputs.apply_no_baseline(inputs.by_name(bases, heads, wanted), no_baseline)
            # cells that --model or --res leave out are not missing; without them every cell of a side counts
            if pair.name in wanted or not (model or res)
        ]
        doubts = calibrate.doubts(
            Path(settings.paths.results) / chosen.name, plan, machine
        )  # refuses a calibration that cannot be read
        factors = speeds.load(Path(settings.paths.results), machine).factors if weak else None
        contest = interleaved.InterleavedRun(pairs, plan, machine, timeout_s=timeout_s, factors=factors)
        alike = announce_same(inputs.same_content(pairs))
        comparison = run_blocks(
            contest,
            BaselineKind.STORED if weak else BaselineKind.PAIRED,
            chosen,
            str(baseline_rev or baseline),
            str(head or "this tree"),
            console,
            [*alike, *inputs.host_hints(bases, machine), *doubts],
        )
    conclude(comparison, settings, "gate", report, formats)
    raise typer.Exit(comparison.exit_code)
