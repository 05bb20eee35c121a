"""Gates whose evidence was doctored, as one list: none of them is green.

A doctored gate ends with 1 to 5 and says why. The list holds one case for each way in which a side can be changed: its
side-car, its file, its reference outputs, its folder, and the run of a stored figure. Doctored blocks of an interrupted
gate are in tests/comparing/test_journal.py.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from commands import call

from fastvit_bench import files
from fastvit_bench.exporting import metadata
from fastvit_bench.store import runs

CONFIG = """
[gate]
models = ["m00"]
grid = [32]
max_regression = "30%"
max_time = "4s"
"""


class Case(NamedTuple):
    """A doctored gate: how its evidence is changed, what it says, and the code it ends with."""

    name: str
    doctor: Callable[[Path], object]  # of the folder of exported files, or of the stored run
    said: str
    code: int | tuple[int, ...]  # several where a busy machine may leave the cell open
    slow: bool = True  # one case of a kind is in the default run


# --- of exported files ------------------------------------------------------------------------------------------------


def sidecar(**change: Any) -> Callable[[Path], object]:
    """Change fields of the side-car; ``parity__passed=False`` means the field of a field."""

    def doctor(folder: Path) -> None:
        (path,) = folder.glob("*.onnx.json")
        content = json.loads(path.read_text())
        for name, value in change.items():
            *outer, last = name.split("__")
            place = content
            for part in outer:
                place = place[part]
            place[last] = value
        path.write_text(json.dumps(content))

    return doctor


def exported(folder: Path) -> Path:
    """The one exported file of a folder."""
    (path,) = folder.glob("*.onnx")
    return path


def content(change: Callable[[bytes], bytes], *, rehashed: bool = False) -> Callable[[Path], object]:
    """Change the bytes of the exported file, and with `rehashed` its digest in the side-car too."""

    def doctor(folder: Path) -> None:
        path = exported(folder)
        path.write_bytes(change(path.read_bytes()))
        if rehashed:
            sidecar(sha256=files.sha256(path))(folder)

    return doctor


def flipped(whole: bytes) -> bytes:
    """The file with the sign of a few hundred weights turned: it loads, and computes something else."""
    changed = bytearray(whole)
    for place in range(len(whole) // 2, len(whole) // 2 + 4096, 4):
        changed[place + 3] ^= 0x80
    return bytes(changed)


def twice(folder: Path) -> None:
    """A second file for the same cell."""
    path = exported(folder)
    other = path.with_name("other.onnx")
    shutil.copyfile(path, other)
    described = json.loads(metadata.metadata_path(path).read_text()) | {"path": other.name}
    metadata.metadata_path(other).write_text(json.dumps(described))


def replaced_by_pipe(folder: Path) -> None:
    """A pipe in the file's place, which nobody writes to."""
    path = exported(folder)
    path.unlink()
    os.mkfifo(path)


def emptied(folder: Path) -> None:
    """Nothing is left of the folder's files."""
    shutil.rmtree(folder)
    folder.mkdir()


EXPORTED = [
    Case("other fuse level", sidecar(fused="none"), "fuse: none there, folded here", 4, slow=False),
    Case("other fuse level, unknown", sidecar(fused="some"), "cannot be read", 2),
    Case("other variant", sidecar(variant="fastvit_ma36"), "variant: fastvit_ma36 there, fastvit_t8 here", 4),
    Case("other classes", sidecar(classes=5), "classes: 5 there, 1000 here", 4),
    Case("other head", sidecar(head="dense"), "head: dense there, classifier here", 4),
    Case("other precision", sidecar(precision="fp16"), "precision: fp16 there, fp32 here", 4),
    Case("other toolkit", sidecar(backend="coreml"), "", 4),
    Case("other size", sidecar(shape={"batch": 1, "height": 64, "width": 64}), "m00 32 b1", 4),
    Case("other batch", sidecar(shape={"batch": 8, "height": 32, "width": 32}), "m00 32 b1", 4),
    Case("other model", sidecar(model="m09"), "m00 32 b1", 4),
    Case("no proof", sidecar(parity=None), "has no proof", 4, slow=False),
    Case("failed proof", sidecar(parity__passed=False, parity__reason="planted"), "failed its proof: planted", 5),
    Case("failed proof without a reason", sidecar(parity__passed=False), "failed its proof", 5, slow=False),
    Case("failed proof of another day", sidecar(proofs={"cpu": None}), "cannot be read", 2),
    Case(
        "errors above the tolerance",
        sidecar(parity__max_abs_error=3.0, parity__relative_error=3.0),
        "it is called passed",
        5,
    ),
    Case("errors that are no numbers", sidecar(parity__relative_error="nan"), "cannot be read", 2),
    Case("a tolerance that allows everything", sidecar(parity__tolerance=1e9), "cannot be read", 2),
    Case("judged by an error that it lacks", sidecar(parity__judged="rms", parity__rms_error=None), "proof", 5),
    Case("no digest", sidecar(sha256=None), "is not the file", 5),
    Case("digest of another file", sidecar(sha256="0" * 64), "is not the file", 5),
    Case("path out of the folder", sidecar(path="../../m01/m01.onnx"), "", 2),
    Case("side-car of another kind", sidecar(kind="run"), "cannot be read", 2),
    Case("deep side-car", lambda folder: metadata.metadata_path(exported(folder)).write_text("[" * 10**5), "", 2),
    Case("no side-car", lambda folder: metadata.metadata_path(exported(folder)).unlink(), "holds no exported files", 4),
    Case("half a side-car", lambda folder: os.truncate(metadata.metadata_path(exported(folder)), 100), "", 2),
    Case("half a file", content(lambda whole: whole[: len(whole) // 2]), "is not the file", 5, slow=False),
    Case("half a file, rehashed", content(lambda whole: whole[: len(whole) // 2], rehashed=True), "m00 32 b1", 4),
    Case("no bytes, rehashed", content(lambda whole: b"", rehashed=True), "m00 32 b1", 4),
    Case("other weights in the file", content(flipped), "is not the file", 5),
    Case("other weights, rehashed", content(flipped, rehashed=True), "computes something else", 5, slow=False),
    Case("no file", lambda folder: exported(folder).unlink(), "is not there", 2),
    Case("a pipe", replaced_by_pipe, "", 2),
    Case("two files for a cell", twice, "holds two artifacts", 4),
    Case("no reference outputs", lambda folder: metadata.reference_outputs_path(exported(folder)).unlink(), "", 4),
    Case(
        "half the reference outputs",
        lambda folder: os.truncate(metadata.reference_outputs_path(exported(folder)), 500),
        "",
        4,
    ),
    Case("empty folder", emptied, "nothing to compare", 4),
]


# --- of a stored run --------------------------------------------------------------------------------------------------


def measured(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    """Change the record of the one measurement of a run."""

    def doctor(path: Path) -> None:
        header, line = path.read_text().splitlines()
        record = json.loads(line)
        change(record)
        path.write_text(f"{header}\n{json.dumps(record)}\n")

    return doctor


def samples(change: Callable[[list[list[int]]], list[list[int]]]) -> Callable[[Path], object]:
    """Change the samples of a run, in nanoseconds, a list for each process."""
    return measured(lambda record: record.update(samples_ns=change(record["samples_ns"])))


def header(**change: Any) -> Callable[[Path], object]:
    """Change fields of the first line of a run."""

    def doctor(path: Path) -> None:
        first, line = path.read_text().splitlines()
        path.write_text(f"{json.dumps(json.loads(first) | change)}\n{line}\n")

    return doctor


def repeated(path: Path) -> None:
    """The measurement a second time, a hundred times as slow."""
    _, line = path.read_text().splitlines()
    record = json.loads(line)
    record["samples_ns"] = [[100 * ns for ns in process] for process in record["samples_ns"]]
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def cut(path: Path) -> None:
    """The last line breaks off, as if its writer had been killed."""
    path.write_bytes(path.read_bytes()[:-50])


STORED = [
    Case("a round is short", samples(lambda ns: [ns[0][:2], *ns[1:]]), "round 1 has 2 samples", 4, slow=False),
    Case("a process is missing", samples(lambda ns: ns[:1]), "it has samples of 1", 4),
    Case("no samples", samples(lambda ns: []), "length >= 1", 2),
    Case("samples beyond a year", samples(lambda ns: [[10**18, *ns[0][1:]], *ns[1:]]), "Expected 'int' <", 2),
    Case("samples of nothing", samples(lambda ns: [[0, *ns[0][1:]], *ns[1:]]), "", 2),
    Case("negative samples", samples(lambda ns: [[-5, *ns[0][1:]], *ns[1:]]), "", 2),
    Case("a thousand times as slow", samples(lambda ns: [[1000 * t for t in process] for process in ns]), "", 3),
    Case(
        "a thousand times as fast", samples(lambda ns: [[1 + t // 1000 for t in process] for process in ns]), "", (1, 3)
    ),
    Case("more runs than were made", measured(lambda record: record["method"].update(runs=9)), "", 4),
    Case("no proof", measured(lambda record: record.update(parity=None)), "has no proof", 4, slow=False),
    Case("failed proof", measured(lambda record: record["parity"].update(passed=False)), "failed its proof", 5),
    Case("other threads", measured(lambda record: record["device"]["options"].update(threads=9)), "threads: 9", 4),
    Case("other device", measured(lambda record: record["device"].update(name="gpu")), "device: gpu then", 4),
    Case("other machine", measured(lambda record: record["machine"].update(processor="another")), "processor", 4),
    Case("other packages", measured(lambda record: record["machine"].update(memory_mib=1)), "memory", 4),
    Case("other size", measured(lambda record: record["artifact"]["shape"].update(height=64, width=64)), "32 b1", 4),
    Case("other fuse level", measured(lambda record: record["artifact"].update(fused="none")), "fuse: none there", 4),
    Case("later format", header(schema=99), "", 2),
    Case("no first line", lambda path: path.write_text(path.read_text().splitlines()[1] + "\n"), "", 2),
    Case("a cell twice", repeated, "m00 32 b1 is inconclusive", 3),
    Case("half a line", cut, "", 4),
]


def params(cases: list[Case]) -> list[Any]:
    """The cases as pytest takes them."""
    return [pytest.param(case, id=case.name, marks=pytest.mark.slow if case.slow else ()) for case in cases]


@pytest.fixture
def gate(zoo: Path) -> Path:
    """The zoo with a [gate] of one small cell; it is entered."""
    with (zoo / "benchmark.toml").open("a") as file:
        file.write(CONFIG)
    return zoo


@pytest.fixture(scope="module")
def stored_run() -> dict[str, bytes]:
    """The content of a run by its name, filled by the first test that needs it: a run takes seconds."""
    return {}


def check(case: Case, *words: str) -> None:
    """Check that the gate ends with the case's code and sentence, and that no report calls it green."""
    done = call("gate", *words, "--report", "out", "--report-format", "json", expect=case.code)
    assert case.said in " ".join((done.stdout + done.stderr).split()), done.stdout + done.stderr
    report = Path("out/gate.json")
    if report.exists():
        assert json.loads(report.read_text())["outcome"] not in {"pass", "improved"}


@pytest.mark.parametrize("case", params(EXPORTED))
def test_doctored_exported_files_are_never_green(case: Case, gate: Path) -> None:
    shutil.copytree(gate / "models" / "m00", gate / "base")
    case.doctor(gate / "base")
    check(case, "--baseline", "base")


@pytest.mark.slow
@pytest.mark.parametrize("case", params(STORED))
def test_doctored_stored_figures_are_never_green(case: Case, gate: Path, stored_run: dict[str, bytes]) -> None:
    if not stored_run:
        call("latency", "-m", "m00", "--res", "32", "--runs", "8")
        (path,) = runs.all_runs(gate / "results")
        stored_run[path.name] = path.read_bytes()
    ((name, whole),) = stored_run.items()
    path = gate / name
    path.write_bytes(whole)
    case.doctor(path)
    check(case, "--baseline", str(path))


def test_the_list_is_long_and_its_names_are_told_apart() -> None:
    for cases in (EXPORTED, STORED):
        assert len({case.name for case in cases}) == len(cases)
    assert len(EXPORTED) + len(STORED) >= 40
