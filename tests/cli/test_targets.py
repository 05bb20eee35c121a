"""`export --target A,B`: files of several toolkits from one command, and the table that sets them side by side."""

from pathlib import Path

import builders
import pytest
from commands import call, refused

from fastvit_bench.errors import StoreError
from fastvit_bench.render import listing
from fastvit_bench.store import runs


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("-t", "onnx,onnx"), "--target names 'onnx' twice"),
        (("-t", "onnx,"), "Unknown export target ''"),
        (("-t", "onnx,corml"), "Did you mean 'coreml'?"),
        (("-t", "onnx,coreml", "-o", "a.onnx"), "several sizes or targets make several; name a folder with -o"),
        (("-t", "onnx,coreml", "--attention", "conv"), "--attention means nothing for --target onnx"),
        (("-t", "onnx,coreml", "--precision", "bf16"), "--target onnx exports fp32 or fp16 or int8, not bf16"),
    ],
)
def test_wrong_lists_are_one_sentence_and_nothing_is_written(words: tuple[str, ...], sentence: str, zoo: Path) -> None:
    before = sorted(zoo.rglob("*"))
    assert sentence in refused("export", *words, "-m", "m00", "--res", "32")
    assert sorted(zoo.rglob("*")) == before


def test_the_table_has_size_operations_proof_and_what_was_measured() -> None:
    proofs = {"own rounded network": builders.parity(relative_error=0.0), "FP16": builders.parity(relative_error=0.07)}
    eight = builders.artifact(
        precision="w8a8",
        size_bytes=4_200_000,
        operations={"conv": 52, "gelu": 17},
        proofs=proofs,
        quantisation=builders.quantisation(fidelity=builders.fidelity(snr_db=38.2)),
    )
    rows = [
        listing.ExportedFile("coreml", eight, {"mac": builders.measurement(artifact=eight)}),
        listing.ExportedFile("coreai", builders.artifact(precision="w8a8", operations={}), {}),
    ]
    (table,) = listing.side_by_side(rows).tables
    first, second = table.records()
    assert (first["target"], first["size_bytes"], first["operations"], first["snr_db"]) == (
        "coreml",
        4_200_000,
        69,
        38.2,
    )
    cells = {column.title: cells for column, cells in table.visible}
    assert cells["proof"][0].startswith("0.0e+00 ≤ ")
    assert ", 7.0e-02 ≤ " in cells["proof"][0]
    assert cells["latency"][0].endswith("(mac)")
    assert (second["operations"], cells["latency"][1]) == (None, "–")


def test_the_newest_figure_of_the_same_file_is_taken_and_damaged_runs_are_named(tmp_path: Path) -> None:
    artifact = builders.artifact()
    for number, figure in enumerate((3.0, 2.0)):
        path = runs.create(tmp_path, builders.run(id=f"2026013{number}-142233-9f3c1a"))
        runs.append(path, builders.measurement(artifact=artifact, samples_ns=(builders.samples(figure),)))
        runs.append(path, builders.measurement(artifact=builders.artifact(sha256="ef" * 32)))
    damaged = path.with_name("20260139-142233-9f3c1a.jsonl")
    damaged.write_text("{}\n", encoding="utf-8")
    found, faults = runs.latencies_of({artifact.sha256}, tmp_path)
    ((_, cells),) = found.items()
    assert {device: round(cell.figure_ms) for device, cell in cells.items()} == {path.parent.name: 2}
    assert [type(fault) for fault in faults] == [StoreError]


@pytest.mark.slow
def test_files_of_two_toolkits_from_one_command(tmp_path: Path) -> None:
    words = ("export", "-t", "onnx,pytorch", "-m", "fastvit_t8", "--res", "32", "--precision", "fp32")
    done = call(*words, cwd=tmp_path)
    files = [Path(line) for line in done.stdout.splitlines()]
    assert [file.name.rpartition(".")[2] for file in files] == ["onnx", "pt2"]
    assert all((tmp_path / file).exists() for file in files)
    assert "none of these files has been timed yet" in done.stderr
    call("latency", "--device", "cpu", "-m", "fastvit_t8", "--res", "32", "--runs", "6", cwd=tmp_path)
    again = call(*words, cwd=tmp_path)
    table = again.stderr.rpartition("\nonnx ")[2]  # an interval may stand in a line below its figure
    onnx, pytorch = table.split("\npytorch ")
    assert "(cpu)" in onnx
    assert "(cpu)" not in pytorch
