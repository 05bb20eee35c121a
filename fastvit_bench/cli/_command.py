"""Options that commands have without declaring them: how much they print, and where a table goes."""

import functools
import inspect
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from fastvit_bench.cli import _help, _output, _table_file
from fastvit_bench.cli._options import ForceOption
from fastvit_bench.cli._output import Verbosity
from fastvit_bench.errors import UsageError

QuietOption = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print no progress and no notes, only warnings and errors.")
]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Print every note and property.")]
JsonOption = Annotated[bool, typer.Option("--json", help="The same as --format json.")]
TableFileOption = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="Write the table into this file; its ending is its format. [default: none, it is shown]"
    ),
]

Command = Callable[..., Any]
_VERBOSITY: dict[str, Any] = {"quiet": QuietOption, "verbose": VerboseOption}


def choose_verbosity(quiet: bool, verbose: bool) -> None:
    """Take over -q or -v; given nowhere, what was chosen before the command's name stays."""
    if quiet and verbose:
        raise UsageError("-q prints less and -v prints more; give one of them.")
    if quiet or verbose:
        _output.choose_verbosity(Verbosity.QUIET if quiet else Verbosity.VERBOSE)


def complete(command: Command) -> Command:
    """Return a command with the options that all commands have, and with those of a table if it prints one."""
    prints_table = _format_of(command) is not None
    return _with_verbosity(_with_table_options(command) if prints_table else command)


def _format_of(command: Command) -> type[StrEnum] | None:
    """Return the formats of the table that a command prints, or None if it prints none."""
    declared = inspect.signature(command).parameters.get("format_")
    if declared is None or not isinstance(declared.default, StrEnum):
        return None
    formats = type(declared.default)
    return formats if "json" in {str(member) for member in formats} else None


def _with_verbosity(command: Command) -> Command:
    def run(*, quiet: bool, verbose: bool, **options: Any) -> Any:
        choose_verbosity(quiet, verbose)
        return command(**options)

    return _declared(run, command, _VERBOSITY)


def _with_table_options(command: Command) -> Command:
    """Return a command with --json, and with --output and --force for its table."""
    declared = inspect.signature(command).parameters
    formats = _format_of(command)
    assert formats is not None
    draws = "output" in declared  # a picture, which is told from a table by its ending

    def run(*, json: bool, **options: Any) -> Any:
        if json:
            options["format_"] = _as_json(formats, options["format_"])
        path, force = options.pop("output"), options["force"]
        if "force" not in declared:
            del options["force"]
        picture = draws and path is not None and path.suffix.lower() in _table_file.PICTURES
        if draws:
            options["output"] = path if picture else None
        if path is None or picture:
            return command(**options)
        offered = [str(format_.value) for format_ in formats]
        name = _table_file.format_at(path, options["format_"].value, offered, draws=draws)
        options["format_"] = formats(name)
        with _table_file.standard_output_to(path, name, force=force):
            return command(**options)

    more: dict[str, Any] = {"json": JsonOption}
    more |= {
        name: option
        for name, option in {"output": TableFileOption, "force": ForceOption}.items()
        if name not in declared
    }
    return _declared(run, command, more)


def _as_json(formats: type[StrEnum], chosen: StrEnum) -> StrEnum:
    if chosen.value not in {"rich", "json"}:
        raise UsageError(f"--json and --format {chosen.value} are two formats; give one of them.")
    return formats("json")


def _declared(run: Command, command: Command, more: dict[str, Any]) -> Command:
    """Return `run` under the name and with the options of a command, and with more options behind its format."""
    parameters = list(inspect.signature(command).parameters.values())
    names = [parameter.name for parameter in parameters]
    keyword, absent = inspect.Parameter.KEYWORD_ONLY, False
    added = [
        inspect.Parameter(name, keyword, default=None if name == "output" else absent, annotation=annotation)
        for name, annotation in more.items()
    ]
    at = names.index("format_") + 1 if "json" in more else len(names)
    parameters = [parameter.replace(kind=keyword) for parameter in parameters]
    parameters[at:at] = added
    for parameter in parameters:
        _help.name_type(parameter)
    functools.update_wrapper(run, command)
    run.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run
