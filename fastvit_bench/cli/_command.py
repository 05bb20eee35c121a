"""Options that commands have in common without declaring them: how much they print."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from fastvit_bench.cli import _output
from fastvit_bench.cli._output import Verbosity
from fastvit_bench.errors import UsageError

QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print no progress and no notes, only warnings and errors.")
]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Print every note and property.")]


def choose_verbosity(quiet: bool, verbose: bool) -> None:
    """Take over -q or -v; given nowhere, what was chosen before the command's name stays."""
    if quiet and verbose:
        raise UsageError("-q prints less and -v prints more; give one of them.")
    if quiet or verbose:
        _output.choose_verbosity(Verbosity.QUIET if quiet else Verbosity.VERBOSE)


def complete(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return a command with the options that all commands have."""
    signature = inspect.signature(command)
    common = {"quiet": QuietOption, "verbose": VerboseOption}

    @functools.wraps(command)
    def run(*, quiet: bool, verbose: bool, **options: Any) -> Any:
        choose_verbosity(quiet, verbose)
        return command(**options)

    parameters = [
        *signature.parameters.values(),
        *(
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=False, annotation=annotation)
            for name, annotation in common.items()
        ),
    ]
    run.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore[reportAttributeAccessIssue]
    run.__annotations__ = {**command.__annotations__, **common}
    return run
