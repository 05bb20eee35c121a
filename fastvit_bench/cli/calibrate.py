"""Command `calibrate`: compare each cell with itself."""

from pathlib import Path
from typing import Annotated

import typer

from fastvit_bench.cli import _output
from fastvit_bench.cli._comparison import (
    MaxRegressionOption,
    MaxTimeOption,
    OrderSeedOption,
    locked,
)
from fastvit_bench.cli._options import (
    ConfigOption,
    DeviceOption,
    FormatOption,
    MachineOption,
    TableFormat,
    ThreadsOption,
)
from fastvit_bench.cli._progress import ProgressLine, of_blocks
from fastvit_bench.cli.gate import GateModelsOption, GateSizesOption
from fastvit_bench.records import Fuse


def calibrate(
    device: DeviceOption = "cpu",
    model: GateModelsOption = None,
    res: GateSizesOption = None,
    threads: ThreadsOption = None,
    repeat: Annotated[int, typer.Option("--repeat", "-k", min=2, help="Comparisons of each cell with itself.")] = 5,
    max_regression: MaxRegressionOption = None,
    max_time: MaxTimeOption = None,
    seed: OrderSeedOption = 0,
    format_: FormatOption = TableFormat.RICH,
    machine_name: MachineOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Measure this machine's noise: compare cells with themselves.

    Shows its false alarms and the least slowdown that it can see. `gate` reads the result and warns of margins below
    the noise.

    \b
    fastvit-bench calibrate
    fastvit-bench calibrate --model fastvit_t8 --res 256 --repeat 10 -o noise.md
    """
    from fastvit_bench import options
    from fastvit_bench.comparing import calibrate as compare_calibrate
    from fastvit_bench.comparing import inputs, interleaved
    from fastvit_bench.sweep import preflight

    settings = options.load(config_file)
    asked = options.resolve_device(settings.device(device), options={"threads": threads})
    chosen, machine = preflight.preflight(asked, name=settings.machine_name(machine_name))
    specs, shapes = options.gate_selection(settings, model or [], res, chosen.batch)
    plan = options.comparison_plan(settings, max_regression, None, max_time, seed)
    options.require_folders(settings, chosen.name)
    with locked(settings, chosen.name), ProgressLine(_output.stderr()) as progress:
        candidates = inputs.export_missing(
            specs,
            shapes,
            Fuse.FOLDED,
            chosen,
            label="itself",
            seed=0,
            models=Path(settings.paths.models),
            timeout_s=settings.sweep.timeout_s,
            notify=progress.step,
        )
        pairs = inputs.by_name(candidates, candidates)
        calibration = interleaved.calibrated(
            pairs,
            plan,
            machine,
            repeat=repeat,
            timeout_s=settings.sweep.timeout_s,
            notify=of_blocks(progress, repeat * plan.max_time_s),
        )
        path = compare_calibrate.save(calibration, Path(settings.paths.results) / chosen.name)
    _output.print_report(compare_calibrate.report(calibration), format_.value)
    _output.say(f"stored: {path}")
