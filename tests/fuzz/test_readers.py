"""Mutants of valid inputs for every reader: each is refused in a sentence or can be shown, and none is waited for.

Case K of a reader is the same mutant in every run. ``FASTVIT_BENCH_FUZZ=20`` makes twenty times as many cases, and
``FASTVIT_BENCH_FUZZ_CASE=K`` repeats one, as the message of a failure says.
"""

import dataclasses
import faulthandler
import os
import random
import signal
import traceback
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import builders
import pytest
from conftest import made_shallow
from mutations import check_refusal

from fastvit_bench.errors import FastViTBenchError, UsageError
from fuzz import readers
from fuzz.readers import READERS, Reader

TIMES = float(os.environ.get("FASTVIT_BENCH_FUZZ", "1"))
ONE = os.environ.get("FASTVIT_BENCH_FUZZ_CASE")
QUICK, SLOW = 12, 300  # cases of a reader, times its weight
DRAWN = 0.002  # share of the mutants that are also drawn, which takes a hundred times longer than a table
THIS = "tests/fuzz/test_readers.py"
LONGEST_S = 30  # a case that takes longer hangs; none of them takes a second
STUCK_S = 600  # a case that holds the interpreter this long ends the process, and tells where


class HungError(BaseException):
    """A case does not end; no ``except Exception`` takes it."""


@contextmanager
def limited() -> Generator[None]:
    """Raise `HungError` where the block takes too long."""

    def end(signal_number: int, frame: Any) -> None:
        raise HungError(f"it took longer than {LONGEST_S} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(LONGEST_S)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def mutant(name: str, number: int, valid: Sequence[bytes]) -> bytes:
    """Case `number` of a reader."""
    draw = random.Random(f"{name} {number}")
    return READERS[name].mutate(draw.choice(valid), draw)


def look(reader: Reader, content: bytes, folder: Path, draw: bool) -> bool:
    """Read and show a content; returns whether it was taken."""
    path = folder / reader.file
    path.write_bytes(content)
    try:
        with limited():
            reader.look(path, draw)
    except FastViTBenchError as error:
        check_refusal(error)
        return False
    return True


def attack(name: str, numbers: Sequence[int], folder: Path, drawn: float = 0.0) -> None:
    """Look at these cases of a reader, and fail with all that end in anything but a sentence or a table."""
    reader, valid = READERS[name], prepare(name, folder)
    faults: dict[str, list[int]] = {}
    with (folder / "case").open("w+", encoding="utf-8") as case:  # what is left of a process that a mutant ends
        for number in numbers:
            case.seek(0)
            case.write(f"{name} {number}\n")
            case.flush()
            faulthandler.dump_traceback_later(STUCK_S, exit=True, file=case)
            try:
                draw = random.Random(number).random() < drawn
                look(reader, mutant(name, number, valid), folder, draw)
            except (Exception, HungError) as error:
                faults.setdefault(kind_of(error), []).append(number)
            finally:
                faulthandler.cancel_dump_traceback_later()
    assert not faults, "\n\n".join(
        f"{len(cases)} of {len(numbers)} mutants of {name}, such as {cases[:5]}: {text}\nRepeat one with "
        f"FASTVIT_BENCH_FUZZ_CASE={cases[0]} pytest '{THIS}::test_a_mutant_is_refused_or_shown[{name}]'"
        for text, cases in faults.items()
    )


def kind_of(error: BaseException) -> str:
    """The class and the text of an error, and the lines that it came from; the text of the first one is given."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    places = [f"  {Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    text = "" if isinstance(error, AssertionError) else f": {str(error)[:200]!r}"
    return "\n".join([f"{type(error).__name__}{text}", *places])


def prepare(name: str, folder: Path) -> Sequence[bytes]:
    """Make what lies around a reader's file, and return the valid contents of it."""
    path = folder / READERS[name].file
    for parent in path.parents:
        if parent.suffix == ".mlpackage":
            readers.write_package(parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    return READERS[name].valid()


@pytest.fixture(autouse=True)
def _shallow() -> Generator[None]:
    with made_shallow():
        yield


@pytest.mark.parametrize("name", READERS)
def test_what_is_valid_is_shown(name: str, tmp_path: Path) -> None:
    for content in prepare(name, tmp_path):
        assert look(READERS[name], content, tmp_path, draw=False)


@pytest.mark.parametrize("name", READERS)
def test_a_mutant_is_refused_or_shown(name: str, tmp_path: Path) -> None:
    count = int(QUICK * READERS[name].weight * TIMES)
    attack(name, [int(ONE)] if ONE else range(count), tmp_path, drawn=DRAWN * (TIMES > 1))


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_hundreds_of_mutants_are_refused_or_shown(name: str, tmp_path: Path) -> None:
    attack(name, range(int(SLOW * READERS[name].weight * TIMES)), tmp_path, DRAWN)


@pytest.mark.parametrize("damage", [ValueError("a\nb"), UsageError("no sentence"), RecursionError()])
def test_a_planted_fault_is_noticed(damage: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def show(path: Path, draw: bool) -> None:
        raise type(damage)(*damage.args)

    monkeypatch.setitem(READERS, "shares", dataclasses.replace(READERS["shares"], look=show))
    with pytest.raises(AssertionError, match=r"(?s)3 of 3 mutants of shares.*FASTVIT_BENCH_FUZZ_CASE=0 pytest"):
        attack("shares", range(3), tmp_path)


def test_a_hang_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(path: Path, draw: bool) -> None:
        try:
            signal.raise_signal(signal.SIGALRM)  # as after half a minute
        except Exception:
            pytest.fail("a reader can swallow it")

    monkeypatch.setitem(READERS, "shares", dataclasses.replace(READERS["shares"], look=wait))
    with pytest.raises(AssertionError, match="HungError"):
        attack("shares", range(1), tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "a [" * 100_000,
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("a" * 300_000, "é" * 300_000, " " * 300_000, "a " * 100_000)
        ),
    ],
)
def test_a_name_without_end_is_shown(name: str, tmp_path: Path) -> None:
    named = builders.measurement(artifact=builders.artifact(model=name), machine=builders.machine(processor=name))
    assert look(READERS["runs"], readers.lines(builders.run(), named), tmp_path, draw=False)
