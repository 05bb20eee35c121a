"""What a person sees: tables on standard output; progress, and errors with their exit codes, on standard error."""

import codecs
import errno
import io
import sys
import tempfile
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from fastvit_bench.cli._options import Format
from fastvit_bench.errors import ExitCode, FastViTBenchError, StoreError
from fastvit_bench.records import Request

if TYPE_CHECKING:
    from rich.console import Console

    from fastvit_bench.render.table import TableReport
    from fastvit_bench.sweep import Step


# Typer's own errors of options: their base has another place, and no public name, in every version of Typer
_WRONG_WORDS = tuple(
    base for base in typer.BadParameter.__mro__ if issubclass(base, Exception) and hasattr(base, "format_message")
)


class Commands(TyperGroup):
    """The commands, whose errors end in one sentence and their exit code instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; what went wrong is said on standard error."""
        try:
            result = super().invoke(ctx)
            _require_output()
        except FastViTBenchError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            typer.echo("interrupted", err=True)
            raise typer.Exit(ExitCode.INTERRUPTED) from error
        except (typer.Exit, *_WRONG_WORDS):
            raise  # how a command ends with a code of its own, and how wrong options are told
        except Exception as error:
            typer.echo(_unforeseen(error), err=True)
            raise typer.Exit(ExitCode.UNFORESEEN) from error
        return result


def _unforeseen(error: Exception) -> str:
    """One line on an error that is a fault of this program; its traceback is kept in a file that the line names."""
    what = " ".join(f"{type(error).__name__}: {error}".split())
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="fastvit-bench-", suffix=".traceback.txt", delete=False, encoding="utf-8", errors="replace"
        ) as file:
            file.write(f"{' '.join(sys.argv)}\n{''.join(traceback.format_exception(error))}")
        where = f"please report it with its traceback, {file.name}"
    except OSError as refused:
        where = f"its traceback could not be kept ({refused.strerror or refused})"
    return f"error: unforeseen, a fault of fastvit-bench and no verdict ({what[:300]}); {where}."


# --- the standard streams ---------------------------------------------------------------------------------------------

# where an encoding lacks them, characters become these; a lost minus sign would be a wrong figure
_PLAIN = str.maketrans({"−": "-", "─": "-", "–": "-", "—": "-", "×": "x", "·": "|", "…": "~", "†": "+", "→": ">"})


def _in_plain(error: UnicodeError) -> tuple[str, int]:
    """Error handler of a codec: what cannot be encoded as the nearest ASCII character, else a question mark."""
    assert isinstance(error, UnicodeEncodeError)
    text = error.object[error.start : error.end].translate(_PLAIN)
    return "".join(character if character.isascii() else "?" for character in text), error.end


class _Patient(io.RawIOBase):
    """A raw stream whose refusals (a closed pipe, a full disk) are noted in `refused` and end nothing.

    What is printed is a copy: verdicts have an exit code, and files are written apart.
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
    """Make standard output and error take every character, and outlive a reader that is gone or a disk that is full."""
    codecs.register_error("fastvit-bench", _in_plain)
    sys.stdout, sys.stderr = _prepared(sys.stdout), _prepared(sys.stderr)


def _prepared(stream: Any) -> Any:
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)  # an unbuffered stream stands on the raw one itself
    if not isinstance(raw, io.RawIOBase):  # closed, or not a stream of the system's
        return stream
    return io.TextIOWrapper(
        io.BufferedWriter(_Patient(raw)),
        encoding=stream.encoding,
        errors="fastvit-bench",
        line_buffering=stream.line_buffering or stream.isatty(),
    )


def _require_output() -> None:
    """Raise `StoreError` where standard output could not take what was printed; a reader that had enough may leave."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if not isinstance(raw, _Patient):
        return
    sys.stdout.flush()
    if raw.refused is not None and raw.refused.errno != errno.EPIPE:
        raise StoreError(f"Standard output cannot be written: {raw.refused.strerror or raw.refused}.")


def stderr() -> "Console":
    """For who waits: progress and what is being done."""
    from rich.console import Console

    return Console(stderr=True)


def stdout() -> "Console":
    """For results."""
    from rich.console import Console

    return Console()


def notifier(console: "Console") -> Callable[[str], None]:
    """What the lower floors tell of slow work is shown through it."""
    return lambda what: console.print(f"{what} …", highlight=False, markup=False, soft_wrap=True)


def tell_unknown_commit() -> None:
    """Say on standard error why what will be measured bears no commit, where there is a repository."""
    from fastvit_bench import revisions

    if refusal := revisions.head().refusal:
        typer.echo(f"warning: the commit is not recorded: {refusal}.", err=True)


def print_report(report: "TableReport", format_: str) -> None:
    """Tables with their notes, on the terminal or in a format of text."""
    from fastvit_bench.report import row_table

    if format_ in row_table.REPORTS:
        sys.stdout.write(row_table.REPORTS[format_](report))
        return
    from fastvit_bench.render import terminal

    out = stdout()
    out.print(terminal.report(report, out.width))


def plural(count: int, what: str) -> str:
    """``1 run``, ``2 runs``."""
    return f"{count} {what}{'s' * (count != 1)}"


def print_table(
    paths: list[Path],
    format_: Format,
    others: list[Path] | None = None,
    reference: str | None = None,
    *,
    pareto: bool = False,
    compact: bool = False,
) -> None:
    """Tabulate runs; with what was counted in others, where those are given."""
    from fastvit_bench.report import frontiers, joined, row_table, rows

    found, counted = rows.read(paths, others or ())
    if others is not None:
        found = rows.join(found, counted)
    extras = joined.join(found, reference=reference, pareto=pareto, accuracies=frontiers.counted(counted))
    if compact and found:
        print_report(row_table.compact(row_table.report(found, extras)), format_.value)
    elif format_ is Format.RICH:
        console = stdout()
        console.print(row_table.rich(found, console.width, extras))
    else:
        sys.stdout.write(row_table.FORMATS[format_](found, extras))


def print_accuracies(path: Path, format_: Format) -> None:
    """Tabulate what was counted in a run."""
    from fastvit_bench.report import accuracies, store

    found = store.read(path).accuracies
    if format_ is Format.RICH:
        console = stdout()
        console.print(accuracies.rich(found, console.width))
    else:
        sys.stdout.write(accuracies.FORMATS[format_](found))


@contextmanager
def blocks_bar(console: "Console", cells: int) -> Generator[Any]:
    """A bar over the blocks up to the next look; drawn between blocks only."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(
        *columns, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("", total=1)

        def advance(cell: str, block: int, look: int) -> None:
            progress.update(
                task, completed=block - 1, total=look, description=f"{cell}: block {block} of {look}", refresh=True
            )

        yield advance


@contextmanager
def steps_bar(console: "Console", steps: "list[Step]", request: Request, rate: float | None) -> Generator[Any]:
    """A bar over the estimated time of the steps; drawn between them only, never while something is timed."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from fastvit_bench import sweep

    weight = {step.cell: sweep.seconds([step], request, rate) for step in steps}
    total = sum(weight.values())
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[left]}"), TimeElapsedColumn())
    with Progress(
        *columns, console=console, auto_refresh=False, transient=True, disable=not console.is_terminal
    ) as progress:
        task = progress.add_task("", total=total, left="")
        done: list[Any] = []

        def advance(step: "Step", what: str) -> None:
            if step.cell not in done:
                done.append(step.cell)
            finished = sum(weight[cell] for cell in done[:-1])
            spent = progress.tasks[0].elapsed or 0.0
            scale = spent / finished if finished else 1.0
            progress.update(
                task,
                completed=finished,
                description=f"{what} {step.cell.label} ({len(done)}/{len(steps)})",
                left=f"about {sweep.duration((total - finished) * scale)} left",
                refresh=True,
            )

        yield advance


@contextmanager
def transfer_bar(name: str) -> Generator[Any]:
    """A progress bar over bytes; yields the function that download.fetch reports to."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    console = stderr()
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(name, total=None)

        def report(done: int, total: int | None) -> None:
            progress.update(task, completed=done, total=total)

        yield report
