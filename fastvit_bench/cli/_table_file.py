"""A table written into a file instead of standard output."""

import io
import re
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import typer

from fastvit_bench import files
from fastvit_bench.cli._output import say
from fastvit_bench.errors import StoreError, UsageError

ENDINGS = {".md": "markdown", ".csv": "csv", ".json": "json", ".tex": "latex", ".txt": "rich"}
PICTURES = (".svg", ".png")

_MARKS = {"markdown": "\n<!-- {} -->\n", "latex": "% {}\n", "rich": "\n{}\n"}  # CSV and JSON have no place for one
# the first two names of each table, by which those without a mark are known
_FIRST_NAMES = (
    *("model,variant", "model,params", "model,size", "series,model", "device,backend", "row,network", "id,section"),
    *("study,group", "study,what", "study,lines", "claim,id", "peaks,roof", "document,schema", "cell,margin"),
)
_BEGINNINGS = re.compile(
    "|".join(
        rf'{names},|[\[{{\s]*"{first}":.{{0,200}}?[{{,]\s*"{second}":'
        for names in _FIRST_NAMES
        for first, second in [names.split(",")]
    ).encode(),
    re.DOTALL,
)


def format_at(path: Path, chosen: str, offered: list[str], *, draws: bool) -> str:
    """Return the format that a file is written in: the one that was chosen, else that of its ending.

    A command that `draws` has pictures too, which its own options name.
    """
    if chosen != "rich":
        return chosen
    known = {ending: name for ending, name in ENDINGS.items() if name in offered}
    if (name := known.get(path.suffix.lower())) is None:
        if draws:
            pictures, tables = ", ".join(PICTURES), ", ".join(known)
            raise UsageError(
                f"{path} is no picture ({pictures}) and no table ({tables}); end its name in one of these."
            )
        raise UsageError(f"{path} does not say its format; end it in {', '.join(known)}, or name one with -f.")
    return name


@contextmanager
def standard_output_to(path: Path, format_: str, *, force: bool) -> Generator[None]:
    """Write what is printed on standard output meanwhile into a file, completely or not at all.

    Raises `UsageError` at once for a path that cannot or must not be written.
    """
    _check(path, force=force)
    printed, before = io.StringIO(), sys.stdout
    sys.stdout = printed
    try:
        yield
    except typer.Exit:  # the table is complete, and the exit code says something else
        _write(path, printed.getvalue(), format_)
        raise
    else:
        _write(path, printed.getvalue(), format_)
    finally:
        sys.stdout = before


def _check(path: Path, *, force: bool) -> None:
    if not path.parent.is_dir():
        raise UsageError(f"There is no folder {path.parent} for {path.name}; make it first.")
    if (refused := files.refusal(path.parent)) is not None:
        raise UsageError(f"The table {path} cannot be written: {refused}.")
    files.check_output(path, force=force, own=is_own)


def is_own(content: bytes) -> bool:
    """Return whether the content of a file is a table of this tool's."""
    return files.is_marked(content) or _BEGINNINGS.match(content) is not None


def _write(path: Path, text: str, format_: str) -> None:
    mark = _MARKS.get(format_, "").format(files.MARK.decode())
    try:
        files.write(path, (text + mark).encode())
    except OSError as error:
        raise StoreError(f"The table {path} cannot be written: {error.strerror or error}.") from error
    say(f"written: {path}")
