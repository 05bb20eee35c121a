"""The command line: each command turns its options into values, makes one call, and prints the result.

Results go to standard output. Standard error gets the plan, the progress, the rows as they arrive, and errors.
"""

import os
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

import fastvit_bench
from fastvit_bench.cli import (
    accuracy,
    calibrate,
    claims,
    clean,
    compare,
    devices,
    download,
    export,
    fleet,
    fuse,
    gate,
    history,
    import_,
    latency,
    models,
    report,
    roofline,
    study,
    table,
    verify,
    worker,
)
from fastvit_bench.cli._command import QuietOption, VerboseOption, choose_verbosity, complete
from fastvit_bench.cli._help import Command
from fastvit_bench.cli._output import Commands, prepare_streams
from fastvit_bench.cli._stopping import exit_code, prepare_signals

# by the titles of --help
GROUPS: dict[str, dict[str, Callable[..., Any]]] = {
    "Make files": {
        "download": download.download,
        "fuse": fuse.fuse,
        "export": export.export,
        "verify": verify.verify,
        "clean": clean.clean,
    },
    "Measure": {
        "latency": latency.latency,
        "accuracy": accuracy.accuracy,
        "study": study.study,
        "import": import_.import_,
        "worker": worker.worker,
        "fleet": fleet.fleet,
    },
    "Judge": {
        "compare": compare.compare,
        "gate": gate.gate,
        "calibrate": calibrate.calibrate,
        "claims": claims.claims,
    },
    "Show": {
        "table": table.table,
        "report": report.report,
        "history": history.history,
        "roofline": roofline.roofline,
        "models": models.models,
        "devices": devices.devices,
    },
}

COMMANDS = {name: command for commands in GROUPS.values() for name, command in commands.items()}

app = typer.Typer(
    name="fastvit-bench",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for title, commands in GROUPS.items():
    for name, command in commands.items():
        app.command(name, cls=Command, rich_help_panel=title)(complete(command))


@app.callback(invoke_without_command=True)
def version_or_command(
    version: Annotated[bool, typer.Option("--version", "-V", help="Print the version and exit.")] = False,
    quiet: QuietOption = False,
    verbose: VerboseOption = False,
) -> None:
    """Fuse, export, prove, time and tabulate FastViT networks (arXiv 2303.14189).

    \b
    fastvit-bench latency --res 224..1024          # time FastViT on this CPU
    fastvit-bench latency -m file.onnx             # time any ONNX file
    fastvit-bench export -t coreml -m fastvit_t8   # make a file for an iPhone
    fastvit-bench gate --baseline-rev origin/main  # fail CI on a slowdown
    """
    # GNU OpenMP lets torch's threads spin at every barrier: on a busy two-core machine an export then takes 20 times as
    # long. A short spin costs nothing on a quiet one. The variable is read when torch is loaded; workers inherit it.
    from fastvit_bench import backends

    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
    backends.bound_openmp()
    choose_verbosity(quiet, verbose)
    if version:
        typer.echo(f"fastvit-bench {fastvit_bench.__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line; the console script calls this."""
    prepare_streams()
    prepare_signals()
    try:
        app(prog_name="fastvit-bench")  # also where it was called as a module
    except KeyboardInterrupt as error:  # while the commands are put together: Python would end with 1, a regression
        sys.exit(exit_code(error))
