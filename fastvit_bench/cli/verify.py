"""Command `verify`: prove an exported file again."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from fastvit_bench.cli import _output
from fastvit_bench.cli._options import ConfigOption, WeightsOption

if TYPE_CHECKING:
    from fastvit_bench.backends import Backend
    from fastvit_bench.config import Config


def verify(
    path: Annotated[Path, typer.Argument(help="A file that `export` wrote.")],
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--checkpoint", "-c", help="Weight file that it was exported from. [default: searched in models/]"
        ),
    ] = None,
    weights: WeightsOption = None,
    config_file: ConfigOption = None,
) -> None:
    """Prove an exported file again, as it is stored.

    It must compute what its network computes; the file itself names the network. Exit code 5: its outputs differ, or
    its content was changed.

    \b
    fastvit-bench verify t8.mlpackage
    fastvit-bench verify t8.onnx --checkpoint fastvit_t8.pth.tar
    """
    from fastvit_bench import backends, files, options
    from fastvit_bench.errors import ParityError
    from fastvit_bench.exporting import pipeline
    from fastvit_bench.render import listing

    backend = backends.of_file(path)
    backends.require(backend.name)
    settings = options.load(config_file)
    models = Path(settings.paths.models)
    with files.temporary_files_apart():
        proofs = pipeline.verify(path, checkpoint, models, weights)
    verbose = _output.verbose()
    for name, proof in proofs.items():
        what = str(path) if not name else f"{path} ({name})"
        _output.show(listing.proof(name, proof) if verbose else listing.proof(what, proof, verbose=False))
    _say_differences(path, backend, settings, checkpoint)
    failed = [proof for proof in proofs.values() if not proof.passed]
    if failed:
        raise ParityError(f"{path} does not compute what its network computes: {failed[0].reason}.")
    if verbose:
        _output.show(f"{path}: proved")


def _say_differences(path: Path, backend: "Backend", settings: "Config", checkpoint: Path | None) -> None:
    """Print how a file's preparation of images differs from the one that its model has by settings and checkpoint.

    The proof is by the file's own values, so wrong ones pass it where the graph has them too.
    """
    from fastvit_bench.exporting import metadata, preparation
    from fastvit_bench.records import ModelSpec
    from fastvit_bench.render.text import preparation_value

    asked = metadata.asked_for(path, backend)
    spec = settings.models.get(asked.model)
    if spec is None or spec.variant != asked.variant:
        spec = ModelSpec(name=asked.model, variant=asked.variant)
    if checkpoint is not None:
        spec = msgspec.structs.replace(spec, checkpoint=str(checkpoint))
    for name, (value, expected, source) in preparation.differences(asked, spec).items():
        _output.say(
            f"{path} is for images with {preparation_value(name, value)}, and {asked.model} is for "
            f"{preparation_value(name, expected)} ({source})"
        )
