"""The search for the best choices of a file in INT8: a declared set of changes, each tried upon the best so far."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec
import numpy as np

from fastvit_bench import backends
from fastvit_bench.exporting import fidelity
from fastvit_bench.records import ExportJob, Trial, Tune, Tuning
from fastvit_bench.records.quantisation import GAIN_DB, LOSS_DB, QUICKER

if TYPE_CHECKING:
    from fastvit_bench.backends import QuantisedFile, Quantiser, Session


class Instruments(NamedTuple):
    """Readings of the clock, for which `measuring` has the functions."""

    seconds: Callable[[], float]  # since any moment
    in_turns: "Callable[[Sequence[Session]], tuple[float, ...]]"  # median milliseconds of sessions that take turns


def search(
    attempt: Callable[[tuple[str, ...], tuple[str, ...]], Trial],
    changes: Sequence[str],
    asked: Tune,
    seconds: Callable[[], float],
) -> Tuning:
    """Return all that was tried: the usual choices, and each change in its order beside those that were kept.

    `attempt` takes choices to try and the best so far. No change is begun once the budget is used up; the usual choices
    are always tried.
    """
    begun = seconds()
    best = msgspec.structs.replace(attempt((), ()), accepted=True)
    trials = [best]
    for number, change in enumerate(changes):
        if seconds() - begun >= asked.budget_s:
            return Tuning(asked=asked, trials=tuple(trials), untried=tuple(changes[number:]))
        trial = attempt((*best.choices, change), best.choices)
        trial = msgspec.structs.replace(trial, accepted=_is_better(trial, best, asked))
        trials.append(trial)
        best = trial if trial.accepted else best
    return Tuning(asked=asked, trials=tuple(trials))


def _is_better(trial: Trial, best: Trial, asked: Tune) -> bool:
    """Return whether a trial is so much better than the best so far that its change is kept."""
    if asked.goal == "accuracy":
        return trial.snr_db > best.snr_db + GAIN_DB
    assert trial.ms is not None
    assert trial.base_ms is not None
    return trial.ms <= QUICKER * trial.base_ms and trial.snr_db >= best.snr_db - LOSS_DB


def write(
    quantiser: "Quantiser",
    asked: ExportJob,
    known: fidelity.Expected,
    path: Path,
    metadata: dict[str, str],
    instruments: Instruments,
) -> "QuantisedFile":
    """Write the file by the choices that a search finds best, and return what was done, with all that was tried.

    The files of the trials are beside `path` and are removed. Their outputs are those of the operators one by one, on
    every machine the same.
    """
    tune = asked.tune
    assert tune is not None
    backend, trials = backends.get(asked.backend), path.parent / "trials"
    trials.mkdir()

    def written(choices: tuple[str, ...]) -> Path:
        place = trials / ("_".join(("trial", *choices)).replace(" ", "-") + backend.suffix)
        if not place.exists():
            quantiser.write(place, metadata, choices)
        return place

    def attempt(choices: tuple[str, ...], base: tuple[str, ...]) -> Trial:
        place = written(choices)
        look = next(iter(backend.verification_sessions(place, asked)))
        with look.session as session:
            likeness = fidelity.compare(known, fidelity.of_session(session, known.head, asked.shape.batch))
        trial = Trial(choices=choices, snr_db=likeness.snr_db, accepted=False)
        if tune.goal == "accuracy" or not choices:
            return trial
        with backend.open(place, asked.device) as own, backend.open(written(base), asked.device) as before:
            for session in (own, before):
                session.set_input(np.stack([known.images[0]] * asked.shape.batch))
            ms, base_ms = instruments.in_turns((own, before))
        return msgspec.structs.replace(trial, ms=ms, base_ms=base_ms)

    tuning = search(attempt, quantiser.changes[tune.goal], tune, instruments.seconds)
    done = quantiser.write(path, metadata, tuning.choices)
    for file in trials.iterdir():
        file.unlink()
    trials.rmdir()
    return done._replace(tuning=tuning)
