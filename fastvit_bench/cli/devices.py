"""Command `devices`: list the configured devices."""

import shutil

from fastvit_bench.cli import _output
from fastvit_bench.cli._options import ConfigOption, ListFormatOption, SeriesFormat


def devices(format_: ListFormatOption = SeriesFormat.RICH, config_file: ConfigOption = None) -> None:
    """List the devices of benchmark.toml: which run here?

    Of each device that cannot run on this machine, it says what is missing.

    \b
    fastvit-bench devices
    fastvit-bench devices --json
    """
    from fastvit_bench import options
    from fastvit_bench.render import listing
    from fastvit_bench.sweep import preflight

    host = preflight.this_machine()
    declared = options.load(config_file).devices.values()
    rows = [(device, preflight.unavailable_reason(device, host.processor)) for device in declared]
    about = f"{host.processor}, {host.processors}, {host.os}"
    if format_ is not SeriesFormat.RICH:
        _output.print_report(listing.devices(rows), format_.value)
        return
    _output.show(listing.devices_text(rows, about, shutil.get_terminal_size().columns))
