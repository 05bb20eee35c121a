"""Command `clean`: remove what can be made again."""

import fnmatch
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastvit_bench.cli import _complete, _output
from fastvit_bench.cli._options import ConfigOption, ListFormatOption, SeriesFormat
from fastvit_bench.errors import StoreError, UsageError

if TYPE_CHECKING:
    from fastvit_bench.records.removable import Removable


def clean(
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", help="Only what was made so long ago: 12h, 30d or 8w. [default: any age]"),
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            "-m",
            autocompletion=_complete.models,
            help="Only of this model; globs such as 'fastvit_*' work; repeatable. [default: all, and the rest]",
        ),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove it; without this option it is only shown.")] = False,
    format_: ListFormatOption = SeriesFormat.RICH,
    config_file: ConfigOption = None,
) -> None:
    """Show exports, engines, environments and caches, and remove them.

    Exported files go with their side-cars and reference outputs. All of it is made again when it is needed. Results and
    checkpoints are never removed, nor files that this tool did not write or that were changed since, nor what another
    process uses.

    \b
    fastvit-bench clean
    fastvit-bench clean --older-than 30d --model 'fastvit_*' --yes
    """
    from datetime import UTC, datetime

    from fastvit_bench import config, options
    from fastvit_bench.exporting import inventory
    from fastvit_bench.render import listing
    from fastvit_bench.store import cache

    age_s = 0.0 if older_than is None else config.age(older_than)
    settings = options.load(config_file)
    models, time_s = Path(settings.paths.models), datetime.now(UTC).timestamp()
    with ExitStack() as stack:
        if yes:
            _lock_devices(Path(settings.paths.results), stack)
        items = [*inventory.items(models), *cache.removable()]
        chosen = [item for item in _of_models(items, model, models) if time_s - item.modified >= age_s]
        removed = _remove(chosen) if yes else []
    _output.print_report(listing.removable(removed if yes else chosen, time_s, removed=yes), format_.value)
    for folder in inventory.used(models):
        _output.warn(f"{folder} is left as it is: another process is writing there.")
    if len(removed) < len(chosen) and yes:
        raise StoreError(f"{len(chosen) - len(removed)} of {len(chosen)} could not be removed; see the warnings.")


def _lock_devices(results: Path, stack: ExitStack) -> None:
    """Lock every device that was ever measured, so that nothing that is being timed is removed."""
    from fastvit_bench.store import runs

    for lock in sorted(results.glob("*/.lock")):
        stack.enter_context(runs.lock(results, lock.parent.name))


def _of_models(items: "Sequence[Removable]", patterns: list[str] | None, models: Path) -> "list[Removable]":
    """Return the items of the models that fit a pattern; without patterns all. Raises `UsageError` where none fits."""
    if not patterns:
        return list(items)
    names = [pattern.replace(":", "-") for pattern in patterns]  # as folders are called
    folders = sorted(path.name for path in models.glob("*") if path.is_dir() and not path.name.startswith("."))
    for name in names:
        if not fnmatch.filter(folders, name):
            raise UsageError(f"{models}/ holds nothing of '{name}'; it holds {', '.join(folders) or 'no models'}.")
    return [item for item in items if any(fnmatch.fnmatchcase(item.model, name) for name in names)]


def _remove(items: "Sequence[Removable]") -> "list[Removable]":
    """Remove items, and return those that are gone; a warning tells of each of the others."""
    from fastvit_bench.exporting import inventory

    removed: list[Removable] = []
    for item in items:
        try:
            inventory.remove(item)
        except OSError as error:
            _output.warn(f"{item.paths[0]} cannot be removed: {error.strerror or error}.")
        else:
            removed.append(item)
    return removed
