"""Command `fleet`: show the workers of a fleet."""

import sys
from typing import Annotated

import typer

from fastvit_bench.cli import _output
from fastvit_bench.cli._options import ListFormatOption, SeriesFormat


def fleet(
    scheduler: Annotated[str, typer.Option("--scheduler", help="Dask scheduler: tls://HOST:PORT or tcp://HOST:PORT.")],
    format_: ListFormatOption = SeriesFormat.RICH,
) -> None:
    """Show a fleet's workers, what runs and waits, and for how long.

    \b
    fastvit-bench fleet --scheduler tls://HOST:8786
    fastvit-bench fleet --scheduler tcp://127.0.0.1:8786 --json
    """
    from fastvit_bench import fleet as package

    package.require()
    from fastvit_bench.fleet import cluster
    from fastvit_bench.render import data, listing

    with cluster.connect(scheduler) as client:
        offers, sweeps = cluster.offers(client), cluster.sweeps(client)
    rows = [
        listing.FleetRow(
            worker=offer.name,
            address=offer.address,
            devices=offer.devices,
            at_once=len(offer.devices) if offer.apart else 1,
            running=offer.tasks[: offer.running],
            waiting=offer.tasks[offer.running :],
        )
        for offer in offers
    ]
    of_sweeps = [
        listing.SweepRow(
            run=sweep.progress.run,
            device=sweep.progress.device,
            finished=sweep.progress.finished,
            cells=sweep.progress.cells,
            seconds=sweep.seconds,
            silent_s=sweep.silent_s,
        )
        for sweep in sweeps
    ]
    report = listing.fleet(rows, of_sweeps)
    if format_ is SeriesFormat.JSON:
        workers, *others = (table.records() for table in report.tables)
        sys.stdout.write(data.json({"workers": workers, "sweeps": [row for records in others for row in records]}))
        return
    _output.print_report(report, format_.value)
