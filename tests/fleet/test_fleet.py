"""A fleet: files travel once and are checked, cells come back once, and plaintext takes permission."""

import importlib.util
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from types import ModuleType
from typing import Any

import builders
import msgspec
import pytest
from commands import call, refused
from distributed import Client, LocalCluster
from distributed.security import Security

from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.exporting import pipeline
from fastvit_bench.fleet import cluster, machine_lock, remote, transfer
from fastvit_bench.fleet import executor as executors
from fastvit_bench.fleet.executor import DaskExecutor
from fastvit_bench.fleet.offer import WorkerOptions
from fastvit_bench.measuring import machine
from fastvit_bench.records import CellError, Failure, Measurement, Request
from fastvit_bench.store import runs
from fastvit_bench.sweep import plan, preflight, run
from fastvit_bench.sweep.cell import CellJob

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
    monkeypatch.setenv(transfer.CACHE_VARIABLE, str(tmp_path / "cache"))
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
    monkeypatch.setenv(transfer.CACHE_VARIABLE, str(tmp_path / "cache"))
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
    (error,) = msgspec.json.decode(reply, type=list[CellError])
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
    for command in (("worker",), ("latency", "--res", "32")):
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


@pytest.mark.slow
@pytest.mark.parametrize("part", ["chaos", "two", "scheduler", "deadly", "tls"])
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
