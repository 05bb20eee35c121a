"""Help of the program and of its commands: commands in groups, plain names of types, examples at the end.

It is laid out without rich, whose import takes longer than the rest of `--help`.
"""

import inspect
import re
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, get_args

import typer
from typer.core import TyperCommand, TyperGroup

EXAMPLES = "\b\n"  # begins the examples in a docstring: Typer keeps the lines behind it as they are


class Command(TyperCommand):
    """A command whose help ends with its examples."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the arguments, those that may be left out in brackets, and the word for all options."""
        arguments = [parameter for parameter in self.get_params(ctx) if parameter.param_type_name == "argument"]
        return [*(name if one.required else f"[{name}]" for one in arguments for name in _names(one)), "[OPTIONS]"]

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write the description without the examples."""
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(inspect.cleandoc(self.help or "").partition(EXAMPLES)[0].strip())

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then the options."""
        parameters = self.get_params(ctx)
        for title, kind in (("Arguments", "argument"), ("Options", "option")):
            chosen = [parameter for parameter in parameters if parameter.param_type_name == kind]
            if rows := [row for parameter in chosen for row in _rows(parameter, ctx)]:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples, which are never broken into lines."""
        if lines := examples(self):
            with formatter.section("Examples"):
                formatter.write("".join(f"{'':>{formatter.current_indent}}{line}\n" for line in lines))


class CommandGroup(TyperGroup):
    """The program, whose help lists its commands by what they are for."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands under the titles of their groups, each with its summary uncut."""
        commands: dict[str, Any] = dict(self.commands)
        titles = dict.fromkeys(command.rich_help_panel for command in commands.values())
        width = max(map(len, commands))
        for title in titles:
            with formatter.section(title):
                formatter.write_dl(
                    [
                        (f"{name:{width}}", summary(command))
                        for name, command in commands.items()
                        if command.rich_help_panel == title
                    ]
                )


def summary(command: Any) -> str:
    """Return the first sentence of a command's docstring, without its full stop."""
    return inspect.cleandoc(command.help or "").partition("\n\n")[0].replace("\n", " ").removesuffix(".")


def examples(command: Any) -> list[str]:
    """Return the example command lines in a command's docstring."""
    return inspect.cleandoc(command.help or "").partition(EXAMPLES)[2].splitlines()


def _names(argument: Any) -> Iterator[str]:
    """Yield the words by which usage and help call an argument."""
    yield argument.metavar or argument.name.upper()


def _rows(parameter: Any, ctx: Any) -> Iterator[tuple[str, str]]:
    """Yield a parameter's name and meaning, with its default and its range in one pair of brackets."""
    if (row := parameter.get_help_record(ctx)) is None:
        return
    name, meaning = row
    meaning = re.sub(r"\](?: *\[(?=x|\d))", "; ", re.sub(r" {2,}\[", " [", meaning))
    yield from ((word, meaning) for word in (_names(parameter) if parameter.param_type_name == "argument" else [name]))


# --- names of types ---------------------------------------------------------------------------------------------------

_TYPES: dict[type, str] = {str: "TEXT", Path: "FILE", int: "N", float: "N"}


def name_type(parameter: inspect.Parameter) -> None:
    """Give a parameter of a command without a name for its values that of their type, such as TEXT or FILE."""
    annotation, *infos = get_args(parameter.annotation) or (None,)
    for info in infos:
        if getattr(info, "metavar", "") is None:
            if isinstance(info, typer.models.ArgumentInfo):
                info.metavar = parameter.name.rstrip("_").upper() + ("..." if "list" in str(annotation) else "")
            else:
                info.metavar = _type_name(annotation)


def _type_name(annotation: Any) -> str | None:
    """Return the plain name of a type; None for switches, which take no value."""
    inner = [of for of in get_args(annotation) if of is not type(None)]
    if inner:
        return _type_name(inner[0])
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "|".join(str(member.value) for member in annotation)
    return _TYPES.get(annotation)
