"""A fleet: files travel once and are checked, cells come back once, and plaintext takes permission."""

import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Generator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import builders
import msgspec
import pytest
from commands import call, refused
from distributed import Client, LocalCluster, get_worker
from distributed.security import Security
from fakes.worker import QUIET, Side

import fastvit_bench
from fastvit_bench import files
from fastvit_bench.accuracy import dataset
from fastvit_bench.accuracy import run as accuracy_run
from fastvit_bench.accuracy.dataset import DataSet, ImageFiles
from fastvit_bench.accuracy.run import CountingChoices
from fastvit_bench.comparing import inputs, interleaved
from fastvit_bench.comparing.inputs import Candidate, ComparisonPair
from fastvit_bench.errors import NotComparableError, UnavailableError, UsageError
from fastvit_bench.exporting import pipeline
from fastvit_bench.fleet import cluster, machine_lock, place, remote, transfer
from fastvit_bench.fleet import executor as executors
from fastvit_bench.fleet import images as fleet_images
from fastvit_bench.fleet.executor import DaskExecutor
from fastvit_bench.fleet.offer import WorkerOptions
from fastvit_bench.measuring import machine
from fastvit_bench.records import (
    Accuracy,
    AccuracyChunk,
    CellError,
    Device,
    Failure,
    LabelledImage,
    Machine,
    Measurement,
    Request,
)
from fastvit_bench.records.comparison import InterleavePlan, Plan
from fastvit_bench.records.unfinished import BlockLine
from fastvit_bench.store import runs
from fastvit_bench.sweep import plan, preflight, run
from fastvit_bench.sweep.cell import CellJob
from fastvit_bench.sweep.plan import Step

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def client() -> Generator[Client]:
    """A client of a scheduler and two workers in this process; both offer the device `cpu`."""
    options = WorkerOptions("", ["cpu"], None, apart=True)
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=2,
            processes=False,
            protocol="tcp://",
            host="127.0.0.1",
            dashboard_address=":0",
            resources=options.resources,
            security=Security(),
            memory_limit=0,
        ) as local,
        Client(local, set_as_default=False) as connected,
    ):
        yield connected


@pytest.fixture
def request_(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Request:
    """A request of five sizes whose files exist, and stand-ins that measure them at once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(files.CACHE_VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setenv(machine_lock.LOCKS_VARIABLE, str(tmp_path))
    monkeypatch.setenv("STANDIN_S", "0.01")
    monkeypatch.setenv("STANDIN_LOG", str(tmp_path))
    monkeypatch.setattr(remote, "start", load("_standin").StandIn)
    device, _ = preflight.preflight(builders.device(name="cpu", backend="onnxruntime", options={}))
    shapes = tuple(builders.shape(size) for size in (32, 64, 96, 128, 160))
    asked = builders.request(device=device, shapes=shapes)
    chaos = load("fleet_chaos")
    for step in plan.plan(asked, Path("models")):
        chaos.write_export(step.job)
    return asked


def planned(asked: Request) -> run.PlannedRun:
    return run.planned_on_fleet(asked, machine.collect(), Path("models"), Path("results"), None)


def test_every_cell_comes_back_once_and_files_travel_once(client: Client, request_: Request) -> None:
    first, second = planned(request_), planned(request_)
    assert all(step.cached for step in first.steps)
    size = sum(len(file.read_bytes()) for file in Path("models").rglob("*") if file.is_file())
    with DaskExecutor(client, cluster.LOOPBACK) as executor:
        assert {seat.machine.host for seat in executor.seats(request_.device)} == {machine.collect().host}
        results = list(run.run_all([first], executor, lambda step, stage: None))
        assert executor.sent_bytes == size  # both workers have one cache here
        assert executor.repeated == 0
        results += list(run.run_all([second], executor, lambda step, stage: None))
        assert executor.sent_bytes == size
    assert all(isinstance(result, Measurement) for result in results)
    for entry in (first, second):
        counts = Counter(plan.cell_of(line) for line in runs.read(entry.path).measurements)
        assert counts == Counter(step.cell for step in entry.steps)
    left = [file for file in Path("cache", "files").iterdir() if "draft" in file.name]
    assert left == []


def test_a_run_goes_on_where_it_ended(client: Client, request_: Request) -> None:
    entry = planned(request_)
    with DaskExecutor(client, cluster.LOOPBACK) as executor:
        results = run.run_all([entry], executor, lambda step, stage: None)
        next(results)
        results.close()
        again = run.planned_on_fleet(request_, machine.collect(), Path("models"), Path("results"), entry.path)
        assert len(again.steps) == len(entry.steps) - 1
        list(run.run_all([again], executor, lambda step, stage: None))
    counts = Counter(plan.cell_of(line) for line in runs.read(entry.path).measurements)
    assert counts == Counter(step.cell for step in entry.steps)


def test_a_file_that_arrives_changed_costs_its_cell(
    client: Client, request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: a byte of one file changes on its way."""
    honest = transfer.FileServer.chunk
    entry = planned(request_)
    bad = Path(entry.steps[2].job.path)
    spoiled = pipeline.files.file_sha256(bad)

    async def chunk(self: Any, sha256: str, offset: int) -> bytes:
        content = await honest(self, sha256, offset)
        return b"!" + content[1:] if sha256 == spoiled else content

    monkeypatch.setattr(transfer.FileServer, "chunk", chunk)
    with DaskExecutor(client, cluster.LOOPBACK) as executor:
        results = list(run.run_all([entry], executor, lambda step, stage: None))
    (failure,) = [result for result in results if isinstance(result, Failure)]
    assert failure.cell == entry.steps[2].cell
    assert "arrived with another content" in failure.reason
    kept = [folder for folder in Path("cache", "files").iterdir() if folder.is_dir()]
    assert len(kept) == len(entry.steps) - 1
    assert not any((folder / bad.name).exists() for folder in kept)


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", ".hidden", "a//../b"])
def test_a_name_outside_the_cache_is_not_fetched(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(files.CACHE_VARIABLE, str(tmp_path / "cache"))
    reference = transfer.FileReference(name=name, sha256="0" * 64, size_bytes=1)
    parcels = transfer.Parcel(name="x", files=(reference,)), transfer.Parcel(name=name, files=())
    for parcel in parcels:
        with pytest.raises(UsageError, match="is not fetched"):
            transfer.fetch(parcel, "tcp://127.0.0.1:1")
    assert not (tmp_path / "cache").exists()


def test_a_cell_that_ended_two_workers_is_not_begun_again(client: Client, request_: Request, tmp_path: Path) -> None:
    entry = planned(request_)
    artifact = entry.steps[0].cached
    assert artifact is not None
    job = CellJob(export=entry.steps[0].job, artifact=artifact, method=request_.method, timeout_s=1)
    order = remote.Order(topic="planted", job=job, parcels={}, client="")
    for name in ("one", "another"):
        client.log_event("planted", msgspec.to_builtins(remote.Start(worker=name)))
    reply = client.submit(remote.perform, msgspec.json.encode(order), pure=False).result()
    (error,) = msgspec.json.decode(reply, type=remote.Done).replies
    assert isinstance(error, CellError)
    assert "one and another were lost" in error.reason
    assert not list(tmp_path.glob("*.jsonl"))  # no stand-in began


def test_a_device_that_nobody_offers_is_named(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(executors, "ABSENT_S", 0)
    with DaskExecutor(client, cluster.LOOPBACK) as executor, pytest.raises(UnavailableError, match="Offered: cpu"):
        executor.seats(builders.device(name="rtx2080ti"))


def test_workers_are_shown_with_what_they_offer(client: Client) -> None:
    offers = cluster.offers(client)
    assert [(offer.devices, offer.apart, offer.tasks) for offer in offers] == [(("cpu",), True, ())] * 2


def test_devices_of_a_machine_share_it_unless_they_are_apart() -> None:
    shared, apart = (WorkerOptions("", ["a", "b"], None, apart=apart).resources for apart in (False, True))
    needed = [Counter(cluster.resources(device)) for device in ("a", "b")]
    assert not all(shared[name] >= count for name, count in (needed[0] + needed[1]).items())
    assert all(apart[name] >= count for name, count in (needed[0] + needed[1]).items())
    assert not all(apart[name] >= count for name, count in (needed[0] + needed[0]).items())


def test_a_fleet_knows_how_far_its_sweeps_are(client: Client, request_: Request) -> None:
    entry = planned(request_)
    cells = [step.cell for step in entry.steps]
    with DaskExecutor(client, cluster.LOOPBACK) as executor:
        executor.expect(entry.path, "cpu", dict.fromkeys(cells, 60.0))
        (sweep,) = cluster.sweeps(client)
        assert (sweep.progress.run, sweep.progress.finished, sweep.progress.cells) == (entry.path.stem, 0, 5)
        assert sweep.seconds == pytest.approx(5 * 60 / 2)  # on two workers
        shown = json.loads(call("fleet", "--scheduler", client.scheduler.address, "--json").stdout)
        assert [worker["devices"] for worker in shown["workers"]] == [["cpu"], ["cpu"]]
        assert [(row["run"], row["finished"], row["cells"]) for row in shown["sweeps"]] == [(entry.path.stem, 0, 5)]
        results = run.run_all([entry], executor, lambda step, stage: None)
        for _ in range(3):
            next(results)
        (sweep,) = cluster.sweeps(client)
        assert sweep.progress.finished == 3
        assert sweep.progress.left_s == pytest.approx(120)
        assert sweep.seconds is not None
        assert sweep.seconds < 5  # stand-ins are quicker than the estimate, which follows them
        list(results)
    assert cluster.sweeps(client) == []
    assert json.loads(call("fleet", "--scheduler", client.scheduler.address, "--json").stdout)["sweeps"] == []


# --- accuracies -------------------------------------------------------------------------------------------------------


@pytest.fixture
def images(request_: Request, tmp_path: Path) -> ImageFiles:
    """Five images in three class folders, which nothing decodes."""
    for number in range(5):
        path = tmp_path / "set" / f"c{number % 3}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(100 + number))
    return dataset.collect(Path("set"))


def counted(client: Client, asked: Request, images: ImageFiles, resume: Path | None = None) -> tuple[Path, list[Any]]:
    """Count on the fleet; the networks are taken for classifiers of the images' classes."""

    def request_of(device: Device, machine: Machine, decoder: str) -> Request:
        evaluation = accuracy_run.described(Path("set"), None, None, 1, CountingChoices(), decoder)
        return msgspec.structs.replace(asked, evaluation=evaluation)

    with DaskExecutor(client, cluster.LOOPBACK) as executor:
        roots = Path("models"), Path("results")
        with place.counts(executor, asked.device, images, request_of, *roots, resume) as (entry, _):
            replies = accuracy_run.run_all([entry], executor, lambda step, stage: None)
            return entry.path, [reply for _, reply in replies if not isinstance(reply, AccuracyChunk)]


@pytest.fixture
def any_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    def numbered(asked: Request, steps: Sequence[Step], images: ImageFiles) -> tuple[Request, DataSet]:
        pictures = tuple(
            LabelledImage(name=image.name, size_bytes=image.size_bytes, label=images.classes.index(image.text))
            for image in images.images
        )
        data = DataSet(images.folder, pictures)
        assert asked.evaluation is not None
        evaluation = msgspec.structs.replace(asked.evaluation, images=len(pictures), digest=data.digest)
        return msgspec.structs.replace(asked, evaluation=evaluation), data

    monkeypatch.setattr(accuracy_run, "numbered", numbered)


@pytest.mark.usefixtures("any_classes")
def test_right_answers_are_counted_on_the_images_of_the_workers(
    client: Client, request_: Request, images: ImageFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "copy"
    (tmp_path / "set").rename(elsewhere)
    monkeypatch.setenv(fleet_images.DATA_VARIABLE, str(elsewhere))  # as `worker --data`
    path, replies = counted(client, request_, images)
    assert len(replies) == 5
    assert all(isinstance(reply, Accuracy) and reply.top1 == reply.images == 5 for reply in replies)
    assert {reply.machine.host for reply in replies} == {machine.collect().host}
    (digest,) = {reply.contents for reply in replies}
    assert len(runs.read(path).tallies) == 15
    # of a run that lost two results, these alone are counted again
    lines = path.read_text().splitlines()
    kept = [line for line in lines if '"kind":"accuracy"' not in line] + [
        line for line in lines if '"kind":"accuracy"' in line
    ][:3]
    path.write_text("\n".join(kept) + "\n")
    _, again = counted(client, request_, images, path)
    assert [reply.contents for reply in again] == [digest] * 2
    assert len(runs.read(path).accuracies) == 5


@pytest.mark.usefixtures("any_classes")
@pytest.mark.parametrize("fault", ["missing", "other size"])
def test_a_worker_without_the_images_is_named_before_anything_is_measured(
    client: Client, request_: Request, images: ImageFiles, tmp_path: Path, fault: str
) -> None:
    if fault == "missing":
        (tmp_path / "set" / "c1" / "1.jpg").unlink()
    else:
        (tmp_path / "set" / "c1" / "1.jpg").write_bytes(b"x")
    with pytest.raises(UnavailableError, match=r"worker '\d'.*1 of 5 images .* such as c1/1.jpg; .*--data DIR"):
        counted(client, request_, images)
    assert not list((tmp_path / "results").rglob("*.jsonl"))


@pytest.mark.usefixtures("any_classes")
def test_images_of_other_contents_give_no_accuracy(client: Client, request_: Request, images: ImageFiles) -> None:
    """Planted: an image changes between two counts of one run, at the same size."""
    path, _ = counted(client, request_, images)
    lines = path.read_text().splitlines()
    last = max(number for number, line in enumerate(lines) if '"kind":"accuracy"' in line)
    path.write_text("\n".join(lines[:last] + lines[last + 1 :]) + "\n")
    (images.folder / "c1" / "1.jpg").write_bytes(os.urandom(101))
    _, (failure,) = counted(client, request_, images, path)
    assert isinstance(failure, Failure)
    assert failure.reason == accuracy_run.OTHER_IMAGES


# --- comparisons ------------------------------------------------------------------------------------------------------


def contest(executor: DaskExecutor, asked: Request, seat: remote.Seat, **changes: Any) -> interleaved.InterleavedRun:
    """A comparison of two files of a request, whose sides take their times from stand-ins."""
    steps = planned(asked).steps
    sides = [
        Candidate(label, artifact, Path(plan.file_of(step, artifact)), seat.device)
        for label, step in zip(("base", "head"), steps, strict=False)
        if (artifact := step.cached) is not None
    ]
    pair = ComparisonPair("the cell", sides[0], sides[1])
    settings = Plan(looks=(6,), turns=InterleavePlan(pause_ms=0))
    return interleaved.InterleavedRun(
        [pair], settings, seat.machine, timeout_s=60, same=inputs.allow_any, measure=executor.block, **changes
    )


@pytest.fixture
def sides(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sides on the workers, of which the new one takes 1.2 times as long, and a machine that is always quiet."""
    monkeypatch.setattr(machine.Between, "readings", lambda self, own_s, gpu=(): QUIET)
    monkeypatch.setattr(remote, "block_start", lambda side: Side(side.label, 1.2 if side.label == "head" else 1.0))


@pytest.mark.usefixtures("sides")
def test_all_blocks_of_a_comparison_are_measured_by_one_worker(client: Client, request_: Request) -> None:
    with DaskExecutor(client, cluster.LOOPBACK) as executor:
        seat = executor.seat_like(request_.device, None)
        measured = contest(executor, request_, seat)
        verdicts = measured.run()
        sent = executor.sent_bytes
        topics = [f"cpu/the_cell/block-{number}/{executor._session}" for number in range(1, 7)]
        starts = [message["worker"] for topic in topics for _, message in client.get_events(topic)]
    cell = measured.cells["the cell"]
    assert cell.failed is None, cell.failed
    assert verdicts["the cell"].ratio == pytest.approx(1.2, rel=0.02)
    assert starts == [seat.worker] * 6
    assert cell.head is not None
    assert cell.head.machine.host == seat.machine.host
    assert 0 < sent < 500_000  # each file once, not once a block


@pytest.mark.usefixtures("sides")
def test_a_comparison_goes_on_where_it_was_begun_or_not_at_all(client: Client, request_: Request) -> None:
    lines: list[BlockLine] = []
    with DaskExecutor(client, cluster.LOOPBACK) as executor:
        seat = executor.seat_like(request_.device, None)
        whole = contest(executor, request_, seat, record=lines.append)
        whole.run()
        again = contest(executor, request_, executor.seat_like(request_.device, seat.machine), recorded=lines[:4])
        again.run()
        assert [block.number for block in again.cells["the cell"].blocks] == list(range(1, 7))
        other = msgspec.structs.replace(seat.machine, processor="another")
        with pytest.raises(NotComparableError, match="the machine that measured before"):
            executor.seat_like(request_.device, other)


@pytest.mark.usefixtures("sides")
def test_a_block_is_refused_by_another_machine(client: Client, request_: Request) -> None:
    """Planted: the worker that comes back is on other hardware than the comparison."""
    with DaskExecutor(client, cluster.LOOPBACK) as executor:
        seat = executor.seat_like(request_.device, None)
        other = msgspec.structs.replace(seat, machine=msgspec.structs.replace(seat.machine, processor="another"))
        measured = contest(executor, request_, other)
        measured.run()
    failed = measured.cells["the cell"].failed
    assert failed is not None
    assert "on another machine than the comparison (processor: another then" in failed.reason


def test_a_side_that_fails_on_a_worker_costs_its_cell(
    client: Client, request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = CellError(stage="timing", reason="memory ran out")
    monkeypatch.setattr(remote, "block_start", lambda side: Side(side.label, 1.0, open=error))
    with DaskExecutor(client, cluster.LOOPBACK) as executor:
        measured = contest(executor, request_, executor.seat_like(request_.device, None))
        measured.run()
    failed = measured.cells["the cell"].failed
    assert failed is not None
    assert (failed.reason, failed.stage) == ("base: memory ran out", "timing")


# --- versions ---------------------------------------------------------------------------------------------------------


def test_a_worker_with_other_versions_is_named_and_its_rows_carry_them(
    client: Client, request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted: one of the two workers has another version of this package and of its toolkit."""
    known = remote.here

    def here(device: Device) -> tuple[Device, Machine]:
        chosen, own = known(device)
        packages = {**own.packages, "onnxruntime": "0.0.7"} if _is_second() else own.packages
        return chosen, msgspec.structs.replace(own, packages=packages)

    monkeypatch.setattr(remote, "here", here)
    monkeypatch.setattr(remote, "tool", lambda: "0.0.1" if _is_second() else fastvit_bench.__version__)
    entry = planned(request_)
    with DaskExecutor(client, cluster.LOOPBACK) as executor:
        seats = executor.seats(request_.device)
        notes = place.differences(seats)
        monkeypatch.setenv("STANDIN_S", "0.2")  # long enough that both workers have a share
        list(run.run_all([entry], executor, lambda step, stage: None))
    assert any("Worker '1' has fastvit-bench 0.0.1" in note for note in notes)
    assert any("onnxruntime" in note and "0.0.7 on '1'" in note and "kept apart" in note for note in notes)
    measurements = runs.read(entry.path).measurements
    assert {(line.tool, line.machine.packages["onnxruntime"] == "0.0.7") for line in measurements} == {
        ("", False),
        ("0.0.1", True),
    }
    rows = call("table", "--json", str(entry.path)).stdout
    assert "0.0.7" in rows


def _is_second() -> bool:
    return str(get_worker().name) == "1"


def test_a_worker_that_takes_other_records_is_refused(
    client: Client, request_: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = remote.take_seat

    def older(device: bytes) -> bytes:
        seat = msgspec.json.decode(real(device), type=remote.Seat)
        return msgspec.json.encode(msgspec.structs.replace(seat, wire=1, tool="0.0.1"))

    monkeypatch.setattr(remote, "take_seat", older)
    with DaskExecutor(client, cluster.LOOPBACK) as executor, pytest.raises(UnavailableError, match=r"0\.0\.1, which"):
        executor.seats(request_.device)


# --- the command line -------------------------------------------------------------------------------------------------


def test_plaintext_takes_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for scheduler, words in (
        ("tcp://192.0.2.1:8786", "--plaintext ADDRESS"),
        ("tls://192.0.2.1:8786", "certificates"),
        ("192.0.2.1", "tls://HOST:PORT"),
    ):
        with pytest.raises(UsageError, match=words):
            cluster.listen_address(scheduler, None)
    for command in (
        ("worker",),
        ("latency", "--res", "32"),
        ("accuracy", "--data", "."),
        ("compare", "fastvit_t8", "fastvit_t12"),
        ("gate", "--baseline", "x"),
        ("study", "architecture"),
    ):
        assert "--plaintext ADDRESS" in refused(*command, "--scheduler", "tcp://192.0.2.1:8786")
    assert not (tmp_path / "results").exists()
    assert cluster.listen_address("tcp://127.0.0.1:8786", None) == cluster.LOOPBACK
    assert cluster.listen_address("tcp://192.0.2.1:8786", "192.0.2.7") == "192.0.2.7"


@pytest.mark.slow
def test_a_scheduler_that_is_not_there_is_exit_code_6(tmp_path: Path) -> None:
    soon = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "0.2s"}
    done = call("fleet", "--scheduler", "tcp://127.0.0.1:1", cwd=tmp_path, expect=6, environment=soon)
    assert "cannot be reached" in done.stderr


def test_several_devices_take_a_fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "--scheduler" in refused("latency", "--device", "cpu,rtx2080ti")
    assert "belongs to --scheduler" in refused("latency", "--plaintext", "192.0.2.7")
    assert "--scheduler" in refused("accuracy", "--data", ".", "--device", "cpu,rtx2080ti")
    assert "a worker has its own Python" in refused(
        "compare", "fastvit_t8", "fastvit_t12", "--base-python", "python3", "--scheduler", "tcp://127.0.0.1:8786"
    )
    assert "--machine is for this machine" in refused(
        "gate", "--baseline", "x", "--machine", "mine", "--scheduler", "tcp://127.0.0.1:8786"
    )


@pytest.mark.slow
@pytest.mark.parametrize("part", ["chaos", "two", "scheduler", "client", "deadly", "tls"])
def test_processes_of_a_fleet_may_end_at_any_moment(part: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "fleet_chaos.py"), "--quick", "--part", part],
        env={**os.environ, "PYTHONPATH": str(BENCHMARKS.parent)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
