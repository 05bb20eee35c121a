"""Output of the command line: tables on standard output; progress and errors on standard error."""

import codecs
import errno
import gc
import io
import sys
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fastvit_bench.cli._help import CommandGroup
from fastvit_bench.cli._options import TableFormat
from fastvit_bench.cli._stopping import exit_code
from fastvit_bench.errors import ExitCode, FastViTBenchError, StoreError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from fastvit_bench.records import Accuracy, ModelSpec
    from fastvit_bench.render.table import TableReport
    from fastvit_bench.store.selection import Selection


# Typer's own errors of options: the place of their base class changes between versions, and it has no public name
_WRONG_WORDS = tuple(
    base for base in typer.BadParameter.__mro__ if issubclass(base, Exception) and hasattr(base, "format_message")
)


class Commands(CommandGroup):
    """The group of all commands; an error ends in one sentence and its exit code instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command, and print an error on standard error."""
        try:
            result = super().invoke(ctx)
            _require_output()
        except FastViTBenchError as error:
            _print(f"error: {error}")
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            typer.echo("interrupted", err=True)
            raise typer.Exit(exit_code(error)) from error
        except typer.Exit:
            raise  # a command's own exit code
        except _WRONG_WORDS as error:
            raise _printable_words(error) from None
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:  # a name of the command line or of a file, wherever it is looked at
                _print(_unforeseen(error))
                raise typer.Exit(ExitCode.UNFORESEEN) from error
            _print(
                f"error: {UsageError(f'No file can be called {error.filename}; the name is too long, so correct it.')}"
            )
            raise typer.Exit(ExitCode.USAGE) from error
        except Exception as error:
            _print(_unforeseen(error))
            raise typer.Exit(ExitCode.UNFORESEEN) from error
        return result

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Return the context of a command line; an interruption before the command begins has its own code too."""
        choose_verbosity(Verbosity.USUAL)
        try:
            return super().make_context(info_name, args, parent, **extra)
        except KeyboardInterrupt as error:  # Typer would end with 1, which means a regression
            raise typer.Exit(exit_code(error)) from error

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words before a command's name."""
        try:
            return super().parse_args(ctx, args)
        except _WRONG_WORDS as error:
            raise _printable_words(error) from None


def _printable_words(error: Exception) -> Exception:
    """Return an error of options, which Typer prints, with a printable message: it repeats the words."""
    from fastvit_bench.render.text import printable_lines

    words: Any = error
    words.message = printable_lines(words.message)
    return error


def _unforeseen(error: Exception) -> str:
    """Return one line on a fault of this program, which names the file that its traceback was written to."""
    import tempfile
    import traceback

    summary = " ".join(f"{type(error).__name__}: {error}".split())
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="fastvit-bench-", suffix=".traceback.txt", delete=False, encoding="utf-8", errors="replace"
        ) as file:
            file.write(f"{' '.join(sys.argv)}\n{''.join(traceback.format_exception(error))}")
        advice = f"please report it with its traceback, {file.name}"
    except OSError as refused:
        advice = f"its traceback could not be kept ({refused.strerror or refused})"
    return f"error: unforeseen, a fault of fastvit-bench and no verdict ({summary[:300]}); {advice}."


# --- the standard streams ---------------------------------------------------------------------------------------------

# replacements for characters that an encoding lacks; a lost minus sign would be a wrong figure
_PLAIN = str.maketrans(
    {"−": "-", "─": "-", "–": "-", "—": "-", "×": "x", "·": "|", "…": "~", "†": "+", "→": ">", "≤": "<="}
)


def _in_plain(error: UnicodeError) -> tuple[str, int]:
    """Replace what cannot be encoded by the nearest ASCII characters, else question marks (a codecs error handler)."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(_PLAIN)
    return "".join(character if character.isascii() else "?" for character in text), error.end


class _Patient(io.RawIOBase):
    """A raw stream that notes a failed write (a closed pipe, a full disk) in `refused` instead of raising it.

    Printed output is only a copy: a verdict has its exit code, and files are written separately.
    """

    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__()
        self._raw = raw
        self.refused: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int | None:
        if self.refused is None:
            try:
                return self._raw.write(data)
            except OSError as error:
                self.refused = error
        return len(data)

    def fileno(self) -> int:
        return self._raw.fileno()

    def isatty(self) -> bool:
        return self._raw.isatty()


def prepare_streams() -> None:
    """Make the standard streams accept every character and survive failed writes.

    Writes fail when the reader is gone or the disk is full.
    """
    codecs.register_error("fastvit-bench", _in_plain)
    sys.stdout, sys.stderr = _prepared(sys.stdout), _prepared(sys.stderr)


def _prepared(stream: Any) -> Any:
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # an unbuffered stream has the raw one as its buffer
    if not isinstance(raw, io.RawIOBase):  # closed, or not a stream of the system's
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(_Patient(raw)),
        encoding=stream.encoding,
        errors="fastvit-bench",
        line_buffering=stream.line_buffering or stream.isatty(),
    )


def _require_output() -> None:
    """Raise `StoreError` if standard output lost what was printed; a closed pipe is no error."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if not isinstance(raw, _Patient):
        return
    sys.stdout.flush()
    if raw.refused is not None and raw.refused.errno != errno.EPIPE:
        raise StoreError(f"Standard output cannot be written: {raw.refused.strerror or raw.refused}.")


# --- verbosity --------------------------------------------------------------------------------------------------------


class Verbosity(IntEnum):
    """Amounts of notes beside a result; warnings and errors are printed at each."""

    QUIET = -1  # -q: no progress and no notes
    USUAL = 0
    VERBOSE = 1  # -v: every note and property, which are short otherwise


_chosen = Verbosity.USUAL


def verbosity() -> Verbosity:
    """Return the verbosity that this call's -q or -v chose."""
    return _chosen


def verbose() -> bool:
    """Return whether -v was given: every note and property is printed then."""
    return verbosity() is Verbosity.VERBOSE


def choose_verbosity(value: Verbosity) -> None:
    """Set the verbosity of the rest of this call."""
    global _chosen
    _chosen = value


# --- messages ---------------------------------------------------------------------------------------------------------


def say(text: str, console: "Console | None" = None) -> None:
    """Print a note on standard error, unless -q was given.

    Characters that a terminal obeys are left out: names in it come from files. While a bar is drawn, its `console`
    keeps the two apart.
    """
    if verbosity() > Verbosity.QUIET:
        _print(text, console)


def _print(text: str, console: "Console | None" = None) -> None:
    """Print lines on standard error, whatever the verbosity."""
    from fastvit_bench.render.text import printable_lines

    lines = printable_lines(text)
    if console is None or console.quiet:
        typer.echo(lines, err=True)
    else:
        console.print(lines, highlight=False, markup=False, soft_wrap=True)


def interrupted(error: KeyboardInterrupt, kept: str, command: str, console: "Console") -> typer.Exit:
    """Print what an interruption kept and the command that goes on; return the exit with the signal's code."""
    _print(f"interrupted; {kept} is kept. Go on with: fastvit-bench {command}", console)
    return typer.Exit(exit_code(error))


def say_contents(specs: Iterable["ModelSpec"]) -> None:
    """Print on standard error where each model's network lies in its weight file, and what else the file holds."""
    from fastvit_bench.exporting import checkpoints

    for spec in specs:
        if spec.checkpoint is not None and (line := checkpoints.contents(spec)):
            say(f"{spec.checkpoint}: {line}")
        _say_preparation(spec)


def _say_preparation(spec: "ModelSpec") -> None:
    """Print the values of a model's preparation by their source: those that are not its network's own, or with -v all.

    A file beside the weights that is about another network is named too.
    """
    from fastvit_bench.exporting import preparation
    from fastvit_bench.render.text import preparation_value

    resolved = preparation.resolve(spec)
    if resolved.aside:
        say(f"{resolved.aside}.")
    by_source: dict[str, list[str]] = {}
    for name, source in (resolved.sources if verbose() else resolved.departures).items():
        value = preparation_value(name, getattr(resolved.preparation, name))
        by_source.setdefault(source, []).append(value)
    for source, values in by_source.items():
        say(f"{spec.name}: images are prepared with {', '.join(values)} ({source})")


def warn(text: str) -> None:
    """Print a warning on standard error."""
    _print(f"warning: {text}")


def show(text: str) -> None:
    """Print lines of a result on standard output, without characters that a terminal obeys."""
    from fastvit_bench.render.text import printable_lines

    typer.echo(printable_lines(text))


def stderr() -> "Console":
    """Return the console for progress and notices; after -q it prints nothing."""
    from rich.console import Console

    return Console(stderr=True, quiet=verbosity() is Verbosity.QUIET)


def redraws(console: "Console") -> bool:
    """Return whether a console's lines can be drawn again: FORCE_COLOR, as CI sets it, makes no terminal of a log."""
    return console.is_terminal and console.file.isatty()


def stdout() -> "Console":
    """Return the console for results."""
    from rich.console import Console

    return Console()


def warn_unknown_commit() -> None:
    """Print on standard error why results will have no commit, if there is a repository that cannot be read."""
    from fastvit_bench.measuring.git import current_commit

    if refusal := current_commit().refusal:
        warn(f"the commit is not recorded: {refusal}.")


def print_report(report: "TableReport", format_: str) -> None:
    """Print tables with their notes, laid out for the terminal or in a text format."""
    from fastvit_bench.render import row_table

    if format_ in {"csv", "json"}:
        from fastvit_bench.render import data

        table = report.tables[0]  # programs may need no other of it
        sys.stdout.write(data.csv(table) if format_ == "csv" else data.json(table.records()))
        return
    if format_ in row_table.REPORTS:
        sys.stdout.write(row_table.REPORTS[format_](report))
        return
    from fastvit_bench.render import terminal

    out = stdout()
    out.print(terminal.report(report, out.width, verbose=verbose()))


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: ``1 run``, ``2 runs``."""
    return f"{count} {noun}{'s' * (count != 1)}"


def print_table(
    paths: list[Path],
    format_: TableFormat,
    accuracy_paths: list[Path] | None = None,
    reference: str | None = None,
    *,
    selection: "Selection | None" = None,
    pareto: bool = False,
    compact: bool = False,
    columns: Sequence[str] = (),
) -> list[str]:
    """Print the table of the runs at `paths`, joined with accuracies of the runs at `accuracy_paths` where given.

    Only what fits the selection is shown; raises `UsageError` where nothing does. It has the named `columns`, or
    without names those that its format has of itself. Runs that counted and timed nothing are shown as `accuracy`
    showed them.
    Returns a sentence on each run that could not be read, after a warning of it on standard error.
    """
    from fastvit_bench.render import frontiers, joined, row_table, rows
    from fastvit_bench.store.selection import EVERYTHING

    selection = selection or EVERYTHING
    table_rows, counted, unreadable = rows.read(paths, accuracy_paths or (), selection)
    for sentence in unreadable:
        warn(sentence)
    if counted and not (table_rows or reference or pareto):
        own = counted if accuracy_paths is None else rows.read(paths, selection=selection)[1]
        if own or not selection:
            print_accuracies(own, format_)
            return unreadable
    if selection and not table_rows:
        raise selection.nothing(paths)
    if accuracy_paths is not None:
        table_rows = rows.join(table_rows, counted)
    extras = joined.join(table_rows, reference=reference, pareto=pareto, accuracies=frontiers.counted(counted))
    on_paper = format_ is TableFormat.LATEX and not verbose()  # which is as narrow as a terminal
    compact = compact and format_ is not TableFormat.RICH  # a terminal's is compact unless -v is given
    if table_rows and (columns or compact or on_paper):
        shown = (
            row_table.choose(table_rows, columns, extras)
            if columns
            else row_table.compact(row_table.report(table_rows, extras))
        )
        print_report(row_table.in_short(shown) if on_paper else shown, format_.value)
    elif format_ is TableFormat.RICH:
        console = stdout()
        console.print(row_table.rich(table_rows, console.width, extras, verbose=verbose()))
    elif format_ is TableFormat.JSON:
        sys.stdout.writelines(row_table.json_texts(table_rows, extras))
    else:
        sys.stdout.write(row_table.FORMATS[format_](table_rows, extras))
    return unreadable


@contextmanager
def without_collector() -> Generator[None]:
    """Pause the garbage collector while a command reads and shows figures, and spare it what is left of them.

    A process that ends looks through all of it once more: that was a tenth of a report of 100,000 figures.
    """
    from fastvit_bench.store import figures

    with figures.undisturbed():
        yield
        gc.freeze()


def print_accuracies(counted: "list[Accuracy]", format_: TableFormat) -> None:
    """Print the table of accuracies."""
    from fastvit_bench.render import accuracies

    if format_ is TableFormat.RICH:
        console = stdout()
        console.print(accuracies.rich(counted, console.width, verbose=verbose()))
    else:
        sys.stdout.write(accuracies.FORMATS[format_](counted))


@contextmanager
def transfer_bar(name: str) -> Generator[Any]:
    """Show a progress bar over bytes; yields the function that `download.fetch` reports to."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = stderr()
    with Progress(*columns, console=console, disable=not redraws(console)) as progress:
        task = progress.add_task(name, total=None)

        def report(done: int, total: int | None) -> None:
            progress.update(task, completed=done, total=total)

        yield report
