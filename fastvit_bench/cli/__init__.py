"""The door: words of the command line become values, one call does the work, results go to standard output.

Standard error has everything meant for a person who waits: the plan, the progress, the rows as they arrive, and errors.
"""

import os
from collections.abc import Callable
from typing import Annotated, Any

import typer

import fastvit_bench
from fastvit_bench import backends
from fastvit_bench.cli import comparing, importing, making, measuring, reporting, studying
from fastvit_bench.cli._screen import Commands, prepare_streams

# in the order that --help lists them
COMMANDS: dict[str, Callable[..., Any]] = {
    "download": making.download,
    "fuse": making.fuse,
    "export": making.export,
    "verify": making.verify,
    "latency": measuring.latency,
    "accuracy": measuring.accuracy,
    "import": importing.import_,
    "compare": comparing.compare,
    "gate": comparing.gate,
    "calibrate": comparing.calibrate,
    "study": studying.study,
    "claims": studying.claims,
    "table": reporting.table,
    "report": reporting.report,
    "history": reporting.history,
    "roofline": measuring.roofline,
    "models": making.models,
    "devices": making.devices,
}

app = typer.Typer(
    name="fastvit-bench",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for name, command in COMMANDS.items():
    app.command(name)(command)


@app.callback(invoke_without_command=True)
def version_or_command(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Fuse, export, prove, time and tabulate FastViT networks (arXiv 2303.14189).

    \b
    fastvit-bench latency --device cpu --res 224..1024
    fastvit-bench export --target onnx --model fastvit_t8 --checkpoint FILE
    """
    # GNU OpenMP lets torch's threads spin at every barrier: on a busy two-core machine an export then takes 20 times as
    # long. A short spin costs nothing on a quiet one. Read when torch is loaded, and inherited by the workers.
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    backends.bound_openmp()
    if version:
        typer.echo(f"fastvit-bench {fastvit_bench.__version__}")
        raise typer.Exit


def main() -> None:
    """Entry point of the console script."""
    prepare_streams()
    app()
