"""Command `devices`: list the configured devices."""

import shutil

from fastvit_bench.cli import _output
from fastvit_bench.cli._options import ConfigOption


def devices(config_file: ConfigOption = None) -> None:
    """List the devices of benchmark.toml, and what each of them lacks to run on this machine."""
    from fastvit_bench import options
    from fastvit_bench.render import listing
    from fastvit_bench.sweep import preflight

    host = preflight.this_machine()
    declared = options.load(config_file).devices.values()
    rows = [(device, preflight.unavailable_reason(device, host.processor)) for device in declared]
    about = f"{host.processor}, {host.processors}, {host.os}"
    _output.show(listing.devices(rows, about, shutil.get_terminal_size().columns))
