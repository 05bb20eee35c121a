"""From weights to a proved file: what is written, what is reused, and what never gets its name."""

import os
import subprocess
import sys
from pathlib import Path

import builders
import msgspec
import onnx
import pytest
from conftest import export_job, made_shallow

from fastvit_bench import backends
from fastvit_bench.errors import CheckpointError, ChecksumError, ParityError, UsageError
from fastvit_bench.exporting import checkpoints, fuse_file, pipeline
from fastvit_bench.exporting import metadata as export_metadata
from fastvit_bench.files import file_sha256
from fastvit_bench.network import checkpoint as files
from fastvit_bench.network import reparam
from fastvit_bench.records import Artifact, Fuse, Head, ModelSpec


def test_the_side_car_tells_everything_of_the_file(exported: Path) -> None:
    job = export_job(exported)
    artifact = msgspec.json.decode(export_metadata.metadata_path(Path(job.path)).read_bytes(), type=Artifact)
    assert artifact == pipeline.cached(job)
    assert artifact.key == job.key
    assert artifact.key in artifact.path
    assert artifact.parity.passed
    assert artifact.parity.top1_agreement == 1
    with made_shallow():  # as the file is
        folded = reparam.fold(files.randomised("fastvit_t8", Head.CLASSIFIER, 1000, 0)[0])
    assert artifact.params == sum(parameter.numel() for parameter in folded.parameters())
    assert artifact.size_bytes == Path(job.path).stat().st_size
    assert artifact.weights.label == "random(seed 0)"
    metadata = {prop.key: prop.value for prop in onnx.load(job.path).metadata_props}
    assert metadata["fastvit_bench.variant"] == "fastvit_t8"
    assert metadata["fastvit_bench.fused"] == "folded"
    assert metadata["fastvit_bench.weights"] == "random"
    assert metadata["fastvit_bench.seed"] == "0"
    names = [artifact.path, artifact.path + ".expected.npz", artifact.path + ".json"]
    assert sorted(path.name for path in Path(job.path).parent.iterdir()) == names


def test_an_artifact_is_reused_only_as_what_it_is(exported: Path, tmp_path: Path) -> None:
    job = export_job(exported)
    assert pipeline.cached(job)
    for change in (
        {"fused": Fuse.NONE},
        {"weights": msgspec.structs.replace(job.weights, seed=1)},
        {"classes": 10},
        {"toolchain": {**job.toolchain, "torch": "0"}},
        {"variant": "fastvit_t12"},
    ):
        assert pipeline.cached(msgspec.structs.replace(job, **change)) is None
    copy = tmp_path / Path(job.path).name
    damaged = bytearray(Path(job.path).read_bytes())
    damaged[len(damaged) // 2] ^= 1
    copy.write_bytes(damaged)
    export_metadata.metadata_path(copy).write_bytes(export_metadata.metadata_path(Path(job.path)).read_bytes())
    assert pipeline.cached(msgspec.structs.replace(job, path=str(copy))) is None
    export_metadata.metadata_path(copy).write_bytes(b"{")
    assert pipeline.cached(msgspec.structs.replace(job, path=str(copy))) is None


@pytest.mark.usefixtures("shallow")
def test_a_file_that_fails_the_proof_is_kept_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = reparam.of
    monkeypatch.setattr(reparam, "of", lambda layer: reparam.Kernel(good(layer).weight, 0 * good(layer).bias))
    job = export_job(tmp_path)
    with pytest.raises(ParityError, match=r"largest error .* It was kept as .*\.rejected") as caught:
        pipeline.export(job)
    assert caught.value.exit_code == 5
    path = Path(job.path)
    rejected = path.with_name(path.name + ".rejected")
    assert sorted(path.parent.iterdir()) == sorted([rejected, export_metadata.metadata_path(rejected)])
    assert not msgspec.json.decode(export_metadata.metadata_path(rejected).read_bytes(), type=Artifact).parity.passed
    assert pipeline.cached(job) is None


def test_a_failed_export_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = backends.get("onnxruntime")

    def half(network: object, asked: object, path: Path, metadata: object) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(backend), "export", staticmethod(half))
    job = export_job(tmp_path)
    with pytest.raises(UsageError, match="cannot be written: No space left on device"):
        pipeline.export(job)
    assert list(Path(job.path).parent.iterdir()) == []


HANG = """
import sys, time
from pathlib import Path
from conftest import export_job
from fastvit_bench import backends
from fastvit_bench.exporting import pipeline

def half(network, asked, path, metadata):
    path.write_bytes(b"half")
    print(path, flush=True)
    time.sleep(600)

type(backends.get("onnxruntime")).export = staticmethod(half)
pipeline.export(export_job(Path(sys.argv[1])))
"""


def hanging(folder: Path) -> tuple[subprocess.Popen[str], Path]:
    """A process that is exporting to a folder, and its draft."""
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tests), *sys.path])}
    words = [sys.executable, "-c", HANG, str(folder)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_what_a_killed_export_left_goes_with_the_next_and_a_running_one_is_left_alone(tmp_path: Path) -> None:
    job = export_job(tmp_path)
    (killed, left), (running, busy) = hanging(tmp_path), hanging(tmp_path)
    try:
        killed.kill()
        killed.wait()
        assert left.exists()
        assert busy.exists()
        pipeline.export(job)
        assert not left.parent.exists()
        assert busy.exists()
        names = {path.name for path in Path(job.path).parent.iterdir() if path.name[0] != "."}
        assert names == {Path(job.path).name + suffix for suffix in ("", ".json", ".expected.npz")}
    finally:
        for process in (killed, running):
            process.kill()
            process.communicate()


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_a_file_whose_side_car_was_never_finished_is_made_anew(exported: Path, tmp_path: Path) -> None:
    job = export_job(tmp_path)
    path = Path(job.path)
    path.parent.mkdir()
    path.write_bytes(b"what a kill between the two left")
    made = pipeline.export(job)
    assert pipeline.cached(job) == made


def test_what_someone_else_put_there_is_left_alone(tmp_path: Path) -> None:
    place = tmp_path / "mine.onnx"
    place.write_bytes(b"mine")
    with pytest.raises(UsageError, match="was not written by fastvit-bench"):
        pipeline.export(msgspec.structs.replace(export_job(tmp_path), path=str(place)))
    assert place.read_bytes() == b"mine"


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("a file", encoding="utf-8")
    with pytest.raises(UsageError, match="cannot be written"):
        pipeline.export(export_job(tmp_path / "models"))


def test_precision_is_checked_before_anything_is_loaded(tmp_path: Path) -> None:
    job = msgspec.structs.replace(export_job(tmp_path), precision="bf16", checkpoint="absent")
    with pytest.raises(UsageError, match="exports fp32 or fp16 or int8, not bf16"):
        pipeline.export(job)


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_weights_are_known_by_content(tmp_path: Path) -> None:
    import torch

    path = tmp_path / "w.bin"
    torch.save(files.randomised("fastvit_t8", Head.CLASSIFIER, 2, 0)[0].state_dict(), path)
    digest = file_sha256(path)
    spec = ModelSpec(name="a", variant="fastvit_t8", checkpoint=str(path))
    weights = checkpoints.weights_of(spec, 0)
    assert weights.sha256 == digest
    assert weights.label == f"w.bin@{digest[:8]}"
    assert checkpoints.weights_of(msgspec.structs.replace(spec, sha256=weights.sha256), 0) == weights
    with pytest.raises(ChecksumError, match="the configuration of 'a' says 0000"):
        checkpoints.weights_of(msgspec.structs.replace(spec, sha256="0000"), 0)
    with pytest.raises(CheckpointError, match="does not exist"):
        checkpoints.weights_of(msgspec.structs.replace(spec, checkpoint=str(tmp_path / "absent")), 0)
    with pytest.raises(CheckpointError, match="is a folder without"):
        checkpoints.weights_of(msgspec.structs.replace(spec, checkpoint=str(tmp_path)), 0)


@pytest.mark.slow
@pytest.mark.parametrize("head", builders.FASTVITS_HEADS)
def test_a_checkpoint_becomes_a_fused_file_of_the_published_layout(tmp_path: Path, head: Head) -> None:
    import torch

    network, _ = files.randomised("fastvit_sa12", head, 10, 3)
    source = tmp_path / "source.pth.tar"
    torch.save({"state_dict": network.state_dict()}, source)
    report = fuse_file.fuse_file(source, tmp_path / "fused.pth.tar")
    assert report.kinds["RepMixer"] == 10
    assert report.kinds["positional encoding"] == 1
    assert max(report.differences.values()) < fuse_file.EXACT
    assert 0 < report.saved_difference < 1e-4
    assert report.norms[Fuse.NONE] > report.norms[Fuse.FUSED] > report.norms[Fuse.FOLDED]
    again = files.load(tmp_path / "fused.pth.tar")
    assert (again.variant, again.head, again.form) == ("fastvit_sa12", head, "fused")


@pytest.mark.slow
@pytest.mark.usefixtures("shallow")
def test_an_inexact_fuse_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    network, _ = files.randomised("fastvit_t8", Head.CLASSIFIER, 10, 3)
    source = tmp_path / "source.pth.tar"
    torch.save({"state_dict": network.state_dict()}, source)
    monkeypatch.setattr(reparam, "HEAD_DIM", 1)
    good = reparam.rep_mixer
    rule = reparam.RULES[reparam.RepMixer]
    monkeypatch.setitem(
        reparam.RULES,
        reparam.RepMixer,
        reparam.Rule(lambda module: good(module).scaled(torch.tensor(1.0001)), rule.leaf, rule.kind),
    )
    with pytest.raises(ParityError, match="changes its outputs"):
        fuse_file.fuse_file(source, tmp_path / "fused.pth.tar")
    assert not (tmp_path / "fused.pth.tar").exists()


@pytest.mark.slow
def test_counts_agree_with_the_variants_table(tmp_path: Path) -> None:
    from fastvit_bench.network.registry import VARIANTS

    released_m = {"t8": 4.00, "t12": 7.51, "s12": 9.43, "sa12": 11.55, "sa24": 21.50, "sa36": 31.46, "ma36": 43.98}
    for name, variant in VARIANTS.items():
        facts = checkpoints.describe(ModelSpec(name=name, variant=name), tmp_path)
        assert round(facts.params[Fuse.FUSED] / 1e6, 2) == released_m[name.removeprefix("fastvit_")]
        assert facts.gmacs == pytest.approx(variant.gmacs, rel=1e-3)
        assert facts.checkpoints == ()
