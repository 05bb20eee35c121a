"""Command `latency`: time exported networks over image sizes."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fastvit_bench.cli import _fleet, _output, _resolve
from fastvit_bench.cli._options import (
    BatchOption,
    CheckpointOption,
    ConfigOption,
    DeviceOption,
    FormatOption,
    FuseLevelOption,
    GeluOption,
    MachineOption,
    ModelsOption,
    NormalizeOption,
    PadOption,
    PlaintextOption,
    PrecisionOption,
    ResumeOption,
    SchedulerOption,
    TableFormat,
    ThreadsOption,
    WeightSeedOption,
    WeightsOption,
)
from fastvit_bench.cli._progress import ProgressLine, of_steps
from fastvit_bench.errors import ExitCode, UsageError
from fastvit_bench.records import Device, Failure, Fuse, Head, Protocol, Request

if TYPE_CHECKING:
    from fastvit_bench.sweep.plan import Step


# long: declares the options of the command
def latency(
    context: typer.Context,
    device: DeviceOption = "cpu",
    model: ModelsOption = None,
    checkpoint: CheckpointOption = None,
    weights: WeightsOption = None,
    res: Annotated[
        str | None,
        typer.Option(
            "--res", "--img-size", help="Sizes: 224..1024, 224..1024:160, 224,256 or 384x512. [default: the grid]"
        ),
    ] = None,
    batch: BatchOption = None,
    runs: Annotated[
        int | None, typer.Option("--runs", "--iterations", min=1, help="Timed runs. [default: 100]")
    ] = None,
    warmup: Annotated[
        int | None, typer.Option("--warmup", "-w", min=0, help="Untimed runs before the timed ones. [default: 10]")
    ] = None,
    protocol: Annotated[
        Protocol,
        typer.Option(
            "--protocol",
            help="Way of measuring: median100; modelbench, as for the published iPhone figures; paper, as for its GPU "
            "column; or trtexec, as that tool does.",
        ),
    ] = Protocol.MEDIAN100,
    threads: ThreadsOption = None,
    precision: PrecisionOption = None,
    head: Annotated[
        Head | None,
        typer.Option(
            "--head",
            help="Head of random weights; dense (as published) and stages give the maps that detectors take. "
            "[default: the model's]",
        ),
    ] = None,
    gelu: GeluOption = None,
    pad: PadOption = False,
    normalize: NormalizeOption = False,
    graph: Annotated[
        bool | None,
        typer.Option("--graph/--no-graph", help="NVIDIA GPUs: replay a CUDA graph. [default: where the binding can]"),
    ] = None,
    transfers: Annotated[
        bool | None,
        typer.Option(
            "--transfers/--no-transfers", help="NVIDIA GPUs: also time the copies to and from it. [default: no]"
        ),
    ] = None,
    sync: Annotated[
        str | None, typer.Option("--sync", help="NVIDIA GPUs: how the host waits, spin or block. [default: spin]")
    ] = None,
    cuda_binding: Annotated[
        str | None, typer.Option("--cuda-binding", help="TensorRT: cuda-python or pycuda. [default: cuda-python]")
    ] = None,
    profile: Annotated[bool, typer.Option("--profile", help="Also time every layer, in separate runs.")] = False,
    allow_device_mismatch: Annotated[
        bool,
        typer.Option(
            "--allow-device-mismatch",
            help="Run on hardware that the device is not meant for, under the hardware's name.",
        ),
    ] = False,
    wait: Annotated[
        str,
        typer.Option("--wait", help="Total time to wait for the machine's usual speed, to measure slow figures again."),
    ] = "60s",
    any_speed: Annotated[
        bool, typer.Option("--any-speed", help="Accept figures at any speed of the machine; slow ones stay marked.")
    ] = False,
    fuse: FuseLevelOption = Fuse.FOLDED,
    seed: WeightSeedOption = 0,
    scheduler: SchedulerOption = None,
    plaintext: PlaintextOption = None,
    resume: ResumeOption = None,
    machine_name: MachineOption = None,
    format_: FormatOption = TableFormat.RICH,
    config_file: ConfigOption = None,
) -> None:
    """Time models, ONNX files or timm models over image sizes.

    The figure is the median of 100 runs with its interval, in fresh processes. Missing files are exported and proved
    first. Every finished size is written to results/DEVICE/RUN.jsonl at once, so an interrupted run can continue with
    --resume. Exit code 7: some sizes failed, and the others were saved.

    \b
    fastvit-bench latency --device cpu --res 224..1024
    fastvit-bench latency --model file.onnx --model timm:resnet50
    """
    from fastvit_bench import config, options
    from fastvit_bench.store import runs as store_runs
    from fastvit_bench.sweep import plan, preflight, run

    settings = options.load(config_file)
    models, results = Path(settings.paths.models), Path(settings.paths.results)
    chosen = [settings.device(name) for name in _fleet.names(device)]
    _fleet.check(scheduler, plaintext, machine_name, chosen)
    if resume is not None:
        _resolve.refuse_besides_resume(context)
    device_options = {
        "graph": graph,
        "transfers": transfers,
        "sync": sync,
        "cuda_binding": cuda_binding,
        "threads": threads,
    }
    chosen = [options.resolve_device(entry, protocol, precision, batch, device_options) for entry in chosen]
    wait_s = None if any_speed else config.seconds(wait, zero=True)

    def request_of(device: Device) -> Request:
        _output.say_contents(
            specs := options.select_models(
                settings, model or [], checkpoint, head, weights, gelu, pad=pad, normalize=normalize
            )
        )
        return options.sweep_request(
            settings,
            device,
            specs,
            res=res,
            protocol=protocol,
            runs=runs,
            warmup=warmup,
            fuse=fuse,
            seed=seed,
            profile=profile,
        )

    if scheduler is not None:
        if allow_device_mismatch:
            raise UsageError("--allow-device-mismatch is for this machine; a fleet has its workers'.")
        for entry in chosen:
            options.require_folders(settings, entry.name)
        path = _fleet.run_to_resume(chosen, results, resume)
        paths, failed = _fleet.sweep(scheduler, plaintext, chosen, request_of, path, models, results, wait_s)
    else:
        name = settings.machine_name(machine_name)
        target, machine = preflight.preflight(chosen[0], "rename" if allow_device_mismatch else "refuse", name)
        options.require_folders(settings, target.name)
        if resume is not None:
            path = options.run_to_resume(target.name, store_runs.find(results, resume))
            with store_runs.lock(results, target.name), store_runs.lock(results, target.name, path.stem):
                request, steps = run.resume(path, models, machine)
                _resolve.print_host_hint(machine, store_runs.read(path).runs[0].machine)
                failed = _sweep(request, steps, machine, path, device, wait_s)
        else:
            request = request_of(target)
            steps = plan.plan(request, models)
            plan.check_checkpoints(request, steps)
            with store_runs.lock(results, target.name):
                path = run.begin(request, steps, machine, results)
                failed = _sweep(request, steps, machine, path, device, wait_s)
        paths = [path]
    _output.print_table(paths, format_)
    for path in paths:
        _output.say(f"results: {path}")
    if failed:
        raise typer.Exit(ExitCode.CELLS_FAILED)


def _sweep(request: Request, steps: "list[Step]", machine: Any, path: Path, device: str, wait_s: float | None) -> int:
    """Run the steps under a line of progress and return the number of failures."""
    from fastvit_bench.render import row_text
    from fastvit_bench.sweep import estimate, run

    console = _output.stderr()
    _output.warn_unknown_commit()
    times = estimate.run_times(request.device, path.parent.parent)
    _output.say(estimate.outline(request, steps, times))
    failed = 0
    with ProgressLine(console) as progress:
        notify = of_steps(progress, steps, request, times)
        try:
            for result in run.run(request, steps, machine, path, notify, wait_s=wait_s):
                failed += isinstance(result, Failure)
                progress.say(row_text.live_row(result))
        except KeyboardInterrupt as error:
            command = f"latency --device {device} --resume {path.stem}"
            raise _output.interrupted(error, "every finished size", command, console) from None
    return failed
