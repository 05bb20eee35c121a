"""Resume runs and find run files by what the command line names."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from typer.core import TyperOption

from fastvit_bench.cli import _output
from fastvit_bench.errors import UsageError
from fastvit_bench.records import Machine

if TYPE_CHECKING:
    from fastvit_bench.store.selection import Selection

# parameters that do not decide how a run is measured, and may be given besides --resume
_ALLOWED_WITH_RESUME = {
    *("resume", "device", "machine_name", "config_file", "format_", "output", "dry_run"),
    *("wait", "any_speed", "allow_device_mismatch", "scheduler", "plaintext", "quiet", "verbose", "json", "force"),
}


def refuse_besides_resume(context: typer.Context) -> None:
    """Raise `UsageError` if options that decide how a run is measured were given besides --resume."""
    set_too = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name
        and parameter.name not in _ALLOWED_WITH_RESUME
        and isinstance(parameter, TyperOption)
        and (source := context.get_parameter_source(parameter.name)) is not None
        and source.name != "DEFAULT"
    ]
    if set_too:
        raise UsageError(
            f"--resume continues a run as it was begun; leave out {', '.join(set_too)} or start a new run."
        )


def runs(run: Sequence[str], results: Path) -> list[Path]:
    """Return the run files that were named, each once; without names every one."""
    from fastvit_bench.store import runs as store_runs

    return list(dict.fromkeys(path for ref in run for path in store_runs.find(results, ref))) or store_runs.all_runs(
        results
    )


def selection(
    since: str | None,
    where: Sequence[str] | None,
    devices: Sequence[str] | None = None,
    models: Sequence[str] | None = None,
) -> "Selection":
    """Return the selection that options ask for; raises `UsageError` for what is none."""
    from datetime import UTC, datetime

    from fastvit_bench.store import selection as selections

    begin = "" if since is None else selections.since(since, datetime.now(UTC))
    return selections.select(devices=devices or (), models=models or (), where=where or (), begin=begin)


def print_host_hint(machine: Machine, earlier: Machine) -> None:
    """Print on standard error that a run was begun under another host name, if it was."""
    if hint := machine.hint(earlier):
        _output.say(hint)
