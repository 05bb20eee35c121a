"""Command `models`: list the configured models."""

from pathlib import Path

from fastvit_bench.cli import _output
from fastvit_bench.cli._options import ConfigOption, ListFormatOption, SeriesFormat


def models(format_: ListFormatOption = SeriesFormat.RICH, config_file: ConfigOption = None) -> None:
    """List the models of benchmark.toml: sizes and files.

    Parameters and multiply-accumulates are counted, beside the published ones. Checkpoints are those in models/.

    \b
    fastvit-bench models
    fastvit-bench models --json
    """
    from fastvit_bench import options
    from fastvit_bench.exporting import checkpoints
    from fastvit_bench.render import listing

    settings = options.load(config_file)
    facts = [checkpoints.describe(spec, Path(settings.paths.models)) for spec in settings.models.values()]
    _output.print_report(listing.models(facts), format_.value)
