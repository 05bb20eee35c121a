"""Command `models`: list the configured models."""

from pathlib import Path

from fastvit_bench.cli import _output
from fastvit_bench.cli._options import ConfigOption


def models(config_file: ConfigOption = None) -> None:
    """List the models of benchmark.toml: their size, as counted and as published, and their checkpoints."""
    from fastvit_bench import options
    from fastvit_bench.exporting import checkpoints
    from fastvit_bench.render import listing

    settings = options.load(config_file)
    facts = [checkpoints.describe(spec, Path(settings.paths.models)) for spec in settings.models.values()]
    out = _output.stdout()
    out.print(listing.models(facts, out.width))
