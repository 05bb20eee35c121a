"""Words that a shell offers behind an option: names of the configuration and of stored runs.

Whatever goes wrong, such as a broken configuration, only means that nothing is offered: a shell shows no errors.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from fastvit_bench.config import Config

Completion = Callable[[typer.Context], list[str]]


def _silent(words: "Callable[[Config], Iterable[str]]") -> Completion:
    """Return a completion that offers the words of the configuration in use, or nothing where that fails."""

    def offered(context: typer.Context) -> list[str]:
        from fastvit_bench import options

        try:
            named: Any = context.params.get("config_file")
            return list(words(options.load(Path(named) if named else None)))
        except Exception:
            return []

    return offered


def _runs(settings: "Config") -> list[str]:
    from fastvit_bench.store import runs

    newest_first = sorted((path.stem for path in runs.all_runs(Path(settings.paths.results))), reverse=True)
    return ["last", *newest_first] if newest_first else []


def _targets(settings: "Config") -> list[str]:
    from fastvit_bench import backends

    return sorted(backends.targets())


devices = _silent(lambda settings: settings.devices)
models = _silent(lambda settings: settings.models)
studies = _silent(lambda settings: settings.studies)
runs = _silent(_runs)
targets = _silent(_targets)
