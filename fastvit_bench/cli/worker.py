"""Command `worker`: offer this machine's devices to a fleet."""

from pathlib import Path
from typing import Annotated

import typer

from fastvit_bench.cli import _output
from fastvit_bench.cli._options import ConfigOption, MachineOption, PlaintextOption
from fastvit_bench.errors import UnavailableError


# long: declares the options of the command
def worker(
    scheduler: Annotated[str, typer.Option("--scheduler", help="Dask scheduler: tls://HOST:PORT or tcp://HOST:PORT.")],
    device: Annotated[
        str | None,
        typer.Option("--device", "-d", help="Devices to offer, separated by commas. [default: all that run here]"),
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the worker. [default: its address]")] = None,
    devices_apart: Annotated[
        bool, typer.Option("--devices-apart", help="Let several of its devices be busy at once.")
    ] = False,
    host: Annotated[
        str | None, typer.Option("--host", help="Address to listen on with TLS. [default: Dask's choice]")
    ] = None,
    plaintext: PlaintextOption = None,
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Folder for files. [default: ~/.cache/fastvit-bench]")
    ] = None,
    locks: Annotated[
        Path | None,
        typer.Option(
            "--locks",
            metavar="DIR",
            help="Folder of the machine's lock, the same for all of its workers. [default: the one that users share]",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="DIR", help="Folder of images for `accuracy`. [default: the one that the client names]"
        ),
    ] = None,
    dashboard: Annotated[
        str | None, typer.Option("--dashboard", help="Address of the worker's dashboard, such as :0. [default: none]")
    ] = None,
    machine_name: MachineOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Offer the devices of this machine to a Dask scheduler, until Ctrl-C.

    One cell runs on a machine at a time. Without TLS the worker listens on 127.0.0.1 alone.

    \b
    fastvit-bench worker --scheduler tls://HOST:8786
    fastvit-bench worker --scheduler tcp://127.0.0.1:8786 --device cpu
    """
    from fastvit_bench import fleet, options
    from fastvit_bench.cli import _fleet
    from fastvit_bench.sweep import preflight

    fleet.require()
    from fastvit_bench.fleet import cluster, offer

    settings = options.load(config_file)
    address = cluster.listen_address(scheduler, plaintext, host)
    chosen = [settings.device(part) for part in _fleet.names(device)] if device else list(settings.devices.values())
    processor = preflight.this_machine().processor
    reasons = {entry.name: preflight.unavailable_reason(entry, processor) for entry in chosen}
    absent = {entry: reason for entry, reason in reasons.items() if reason is not None}
    if device and absent:
        raise UnavailableError("; ".join(f"Device '{entry}' cannot run here: {why}" for entry, why in absent.items()))
    offered = [entry for entry in reasons if entry not in absent]
    if not offered:
        raise UnavailableError("No device of benchmark.toml runs here; `fastvit-bench devices` says what each lacks.")
    _output.say(f"offering {', '.join(offered)} to {scheduler}")
    offer.serve(
        offer.WorkerOptions(
            scheduler=scheduler,
            devices=offered,
            host=address,
            name=name,
            apart=devices_apart,
            machine=settings.machine_name(machine_name),
            cache=cache.absolute() if cache else None,
            locks=locks.absolute() if locks else None,
            data=data.absolute() if data else None,
            dashboard=dashboard,
        )
    )
