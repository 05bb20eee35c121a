"""What a person sees: tables on standard output; progress, and errors with their exit codes, on standard error."""

import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from fastvit_bench.cli._options import Format
from fastvit_bench.errors import ExitCode, FastViTBenchError
from fastvit_bench.records import Request

if TYPE_CHECKING:
    from rich.console import Console

    from fastvit_bench.render.table import Column
    from fastvit_bench.sweep import Step


class Commands(TyperGroup):
    """The commands, whose errors end in one sentence and their exit code instead of a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; what went wrong is said on standard error."""
        try:
            return super().invoke(ctx)
        except FastViTBenchError as error:
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            typer.echo("interrupted", err=True)
            raise typer.Exit(ExitCode.INTERRUPTED) from error


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


def print_columns(columns: "Sequence[Column]") -> None:
    """A table without anything around it."""
    from fastvit_bench.render import terminal

    out = stdout()
    out.print(terminal.styled(terminal.layout(columns, out.width)))


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
    from fastvit_bench.report import frontiers, joined, rows, sheet, table

    found, counted = rows.read(paths, others or ())
    if others is not None:
        found = rows.join(found, counted)
    further = joined.join(found, reference=reference, pareto=pareto, accuracies=frontiers.counted(counted))
    shown = sheet.compact(table.told(found, further)) if compact and found else None
    if format_ is Format.RICH:
        console = stdout()
        console.print(table.on_terminal(shown, console.width) if shown else table.rich(found, console.width, further))
    else:
        sys.stdout.write(table.DOCUMENTS[format_](shown) if shown else table.FORMATS[format_](found, further))


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
