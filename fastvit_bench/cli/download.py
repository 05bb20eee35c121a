"""Command `download`: fetch a published checkpoint."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from fastvit_bench.cli import _complete, _output
from fastvit_bench.cli._options import ConfigOption


class CheckpointForm(StrEnum):
    """The two published files of a model: unfused or fused."""

    UNFUSED = "unfused"
    FUSED = "fused"


def download(
    name: Annotated[
        str,
        typer.Argument(
            autocompletion=_complete.models, help="Variant, such as fastvit_t8; `fastvit-bench models` lists them."
        ),
    ],
    distilled: Annotated[bool, typer.Option("--distilled", help="Take the weights trained by distillation.")] = False,
    form: Annotated[
        CheckpointForm, typer.Option(help="Network as trained, or fused by the authors.")
    ] = CheckpointForm.UNFUSED,
    config_file: ConfigOption = None,
) -> None:
    """Download a published checkpoint into models/.

    Its SHA-256 is checked. An interrupted download resumes.

    \b
    fastvit-bench download fastvit_t8
    fastvit-bench download fastvit_sa12 --distilled --form fused
    """
    from fastvit_bench import options
    from fastvit_bench.network import download as downloads
    from fastvit_bench.network.fastvit import Form

    settings = options.load(config_file)
    with _output.transfer_bar(name) as progress:
        path = downloads.fetch(
            name,
            training=downloads.Training.DISTILLED if distilled else downloads.Training.PLAIN,
            form=Form(form),
            base=settings.download.base,
            folder=Path(settings.paths.models),
            progress=progress,
        )
    _output.show(str(path))
    _output.say(f"next: fastvit-bench latency --device cpu --checkpoint {path}")
