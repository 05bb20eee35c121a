"""Command `models`: list the configured models."""

from pathlib import Path

from fastvit_bench.cli import _output
from fastvit_bench.cli._options import ConfigOption, ListFormatOption, SeriesFormat


def models(format_: ListFormatOption = SeriesFormat.RICH, config_file: ConfigOption = None) -> None:
    """List models and encoders: sizes, published figures and files.

    Parameters and multiply-accumulates are counted, beside the published ones. Checkpoints are those in models/.

    \b
    fastvit-bench models
    fastvit-bench models --json
    """
    from fastvit_bench import options
    from fastvit_bench.exporting import checkpoints
    from fastvit_bench.network import registry
    from fastvit_bench.render import listing

    settings = options.load(config_file)
    encoders = settings.select([name for name in registry.ENCODERS if name not in settings.models])
    facts = [checkpoints.describe(spec, Path(settings.paths.models)) for spec in (*settings.models.values(), *encoders)]
    _output.print_report(listing.models(facts), format_.value)
