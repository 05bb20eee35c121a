"""What a fleet loses and costs: workers killed at random, two sweeps at once, a scheduler that stops, and TLS.

Everything runs on this machine: a Dask scheduler, workers in processes of their own, and the command `latency` as a
person calls it. The devices are stand-ins that take a known time (`_standin.py`); files are served and checked as
always. Parts, of which `--part` chooses some:

chaos      4 workers with a device each, 200 cells; a worker's process is killed every few seconds. Every cell must be
           in its run file exactly once. Reported: kills, cells begun again, device-seconds spent twice.
two        two sweeps at once on one device: no two of its cells overlap in time, by the stand-ins' own clock.
scheduler  the scheduler is killed in the middle and started again: one message, exit code 6, and --resume completes.
client     the command is killed (SIGKILL) in the middle and begun again with --resume: every cell once.
deadly     a cell that ends its worker's process: it is recorded as failed after two workers, and the others are kept.
tls        certificates made here: a client with one measures, a client without is refused.
overhead   60 cells on two workers: the wall time over that of the cells themselves. Goal: at most 5 % more.

Exits with 1 when a goal is missed.
"""

import argparse
import contextlib
import itertools
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil

from fastvit_bench import files
from fastvit_bench.exporting import metadata
from fastvit_bench.records import Artifact, ExportJob, Failure, Measurement, Parity
from fastvit_bench.records.artifact import ExportSpec
from fastvit_bench.store import runs
from fastvit_bench.sweep.plan import cell_of

FOLDER = Path(__file__).parent
DEVICES = ("a", "b", "c", "d")
SIZES = [32 * number for number in range(1, 51)]


def config_text(devices: Sequence[str]) -> str:
    tables = "\n".join(f'[device.{device}]\nbackend = "onnxruntime"' for device in devices)
    return (
        f'[model.m]\nvariant = "fastvit_t8"\n{tables}\n[method]\nprocesses = 1\nruns = 6\nwarmup = 1\n'
        f'[sweep]\nmodels = ["m"]\ngrid = [32]\n'
    )


def write_export(job: ExportJob) -> None:
    """Write a file with its side-cars that counts as the export of a job; the stand-in never opens it."""
    path = Path(job.path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(os.urandom(100_000))
    metadata.reference_outputs_path(path).write_bytes(os.urandom(1000))
    settings = {name: getattr(job, name) for name in ExportSpec.__struct_fields__} | {"path": path.name}
    parity = Parity(
        reference="a stand-in's",
        images=1,
        seed=0,
        max_abs_error=0.0,
        relative_error=0.0,
        tolerance=1e-3,
        top1_agreement=1.0,
        passed=True,
    )
    artifact = Artifact(**settings, sha256=files.sha256(path), size_bytes=100_000, params=1, macs=10**6, parity=parity)
    metadata.metadata_path(path).write_bytes(msgspec.json.encode(artifact))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Fleet:
    """A scheduler and workers of this machine in a folder; a context manager that ends all of them."""

    def __init__(self, folder: Path, cell_s: float, environment: dict[str, str] | None = None, scheme: str = "tcp"):
        self.folder, self.cell_s = folder, cell_s
        self.log = folder / "log"
        self.log.mkdir(parents=True)
        self.port = free_port()
        self.address = f"{scheme}://127.0.0.1:{self.port}"
        self.workers: list[subprocess.Popen[bytes]] = []
        self.scheduler: subprocess.Popen[bytes] | None = None
        self.environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(FOLDER.parent), str(FOLDER)]),
            "NO_COLOR": "1",
            "COLUMNS": "200",
            **(environment or {}),
        }

    def __enter__(self) -> "Fleet":
        self.start_scheduler()
        return self

    def __exit__(self, *_: object) -> None:
        for process in (*self.workers, self.scheduler):
            if process is not None:
                end_tree(process.pid)
                process.wait()

    def start_scheduler(self) -> None:
        scheme = self.address.partition(":")[0]
        words = ["--host", f"{scheme}://127.0.0.1", "--port", str(self.port), "--no-dashboard"]
        if scheme == "tls":
            words[1] = "tls://127.0.0.1"
        self.scheduler = self._spawn("distributed.cli.dask_scheduler", *words, log="scheduler")
        for _ in range(300):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.1)
        raise SystemExit("the scheduler did not start")

    def prepare(self, devices: Sequence[str], sizes: Sequence[int]) -> None:
        """Write the configuration, and the files of every cell."""
        from fastvit_bench import options
        from fastvit_bench.records import Fuse, Protocol
        from fastvit_bench.sweep import plan, preflight

        (self.folder / "benchmark.toml").write_text(config_text(devices))
        with contextlib.chdir(self.folder):
            settings = options.load(None)
            for device in devices:
                chosen, _ = preflight.preflight(options.resolve_device(settings.device(device)))
                asked = options.sweep_request(
                    settings, chosen, options.select_models(settings, [], None, None),
                    res=",".join(map(str, sizes)), protocol=Protocol.MEDIAN100, runs=None, warmup=None,
                    fuse=Fuse.FOLDED, seed=0, profile=False,
                )  # fmt: skip
                for step in plan.plan(asked, Path(settings.paths.models)):
                    write_export(step.job)

    def add_worker(self, devices: str, *words: str) -> None:
        preload = {
            "DASK_DISTRIBUTED__WORKER__PRELOAD": json.dumps([str(FOLDER / "_standin.py")]),
            "STANDIN_S": str(self.cell_s),
            "STANDIN_LOG": str(self.log),
        }
        name = f"w{len(self.workers)}"
        arguments = ["worker", "--scheduler", self.address, "--device", devices, "--name", name]
        arguments += ["--cache", str(self.folder / f"cache-{name}"), "--locks", str(self.folder), *words]
        self.workers.append(self._spawn("fastvit_bench", *arguments, log=name, environment=preload))

    def wait_for_workers(self) -> None:
        for _ in range(240):
            done = self.call("fleet", "--scheduler", self.address, "--json")
            if done.returncode == 0 and len(json.loads(done.stdout)["workers"]) >= len(self.workers):
                return
            time.sleep(0.5)
        raise SystemExit(f"the workers did not start: {done.stderr}")

    def _spawn(
        self, module: str, *words: str, log: str, environment: dict[str, str] | None = None
    ) -> "subprocess.Popen[bytes]":
        with (self.folder / f"{log}.log").open("ab") as file:
            return subprocess.Popen(
                [sys.executable, "-m", module, *words],
                cwd=self.folder,
                env={**self.environment, **(environment or {})},
                stdout=file,
                stderr=file,
                start_new_session=True,
            )

    def client(self, *words: str, **changes: Any) -> "subprocess.Popen[str]":
        """Begin a command of a person; its output is text."""
        return subprocess.Popen(
            [sys.executable, "-m", "fastvit_bench", *words],
            cwd=changes.pop("cwd", self.folder),
            env=changes.pop("env", self.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def call(self, *words: str, **changes: Any) -> "subprocess.CompletedProcess[str]":
        process = self.client(*words, **changes)
        out, err = process.communicate(timeout=600)
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def latency(self, devices: str, sizes: Sequence[int]) -> list[str]:
        res = ",".join(map(str, sizes))
        return ["latency", "--device", devices, "--res", res, "--scheduler", self.address, "--any-speed"]

    def kill_worker(self, chance: random.Random) -> bool:
        """Kill the process below a random nanny; return whether there was one."""
        nanny = chance.choice(self.workers)
        with contextlib.suppress(psutil.Error):
            for child in psutil.Process(nanny.pid).children():
                if "spawn_main" in " ".join(child.cmdline()):
                    child.kill()
                    return True
        return False

    def events(self) -> list[dict[str, Any]]:
        """Return what the stand-ins logged, in the order of time."""
        lines = [json.loads(line) for file in self.log.glob("*.jsonl") for line in file.read_text().splitlines()]
        return sorted(lines, key=lambda line: line["at"])

    def results(self) -> tuple[Counter[tuple[str, object]], int]:
        """Return how often each cell of each device has a measurement or a last failure, and the failures."""
        counts: Counter[tuple[str, object]] = Counter()
        failures = 0
        for path in runs.all_runs(self.folder / "results"):
            file = runs.read(path)
            for line in file.lines:
                if isinstance(line, Measurement):
                    counts[path.parent.name, cell_of(line)] += 1
                elif isinstance(line, Failure):
                    counts[path.parent.name, line.cell] += 1
                    failures += 1
        return counts, failures


def end_tree(pid: int) -> None:
    with contextlib.suppress(psutil.Error):
        parent = psutil.Process(pid)
        for process in (*parent.children(recursive=True), parent):
            with contextlib.suppress(psutil.Error):
                process.kill()


def overlaps(events: Sequence[dict[str, Any]], cell_s: float) -> int:
    """Return how many cells of one device began before the one before them had ended."""
    last: dict[str, tuple[float, bool]] = {}
    count = 0
    for event in events:
        device = event["cell"].split()[0]
        if event["event"] == "begin":
            begun, open_ = last.get(device, (0.0, False))
            count += open_ and event["at"] < begun + cell_s
            last[device] = event["at"], True
        else:
            last[device] = event["at"], False
    return count


def chaos(folder: Path, quick: bool) -> list[str]:
    sizes, cell_s = (SIZES[:5], 1.0) if quick else (SIZES, 1.0)
    chance, kills = random.Random(19), 0
    with Fleet(folder, cell_s) as fleet:
        fleet.prepare(DEVICES, sizes)
        for device in DEVICES:
            fleet.add_worker(device, "--devices-apart")
        fleet.wait_for_workers()
        begun = time.monotonic()
        client = fleet.client(*fleet.latency(",".join(DEVICES), sizes))
        output: list[str] = []
        reader = threading.Thread(target=lambda: output.extend(client.communicate()))
        reader.start()
        while reader.is_alive():
            reader.join(chance.uniform(2, 4) if quick else chance.uniform(2, 6))
            kills += reader.is_alive() and fleet.kill_worker(chance)
        wall_s = time.monotonic() - begun
        counts, failures = fleet.results()
        starts: defaultdict[str, list[float]] = defaultdict(list)
        for event in fleet.events():
            if event["event"] == "begin":
                starts[event["cell"]].append(event["at"])
        ends = Counter(event["cell"] for event in fleet.events() if event["event"] == "end")
        again = sum(len(times) > 1 for times in starts.values())
        lost_s = sum(min(b - a, cell_s) for times in starts.values() for a, b in itertools.pairwise(times))
        twice_s = [line for line in output[1].splitlines() if "spent twice" in line]
        print(
            f"chaos: {len(counts)} cells of {len(DEVICES) * len(sizes)} in {wall_s:.0f} s, {kills} workers killed, "
            f"{again} cells begun again, {failures} failed after two lost workers, "
            f"{sum(ends.values()) - len(ends)} finished twice; device-seconds spent twice: {lost_s:.1f} of "
            f"{cell_s * len(counts):.0f} by the stand-ins' clock; {' '.join(twice_s) or 'the command names none'}"
        )
        faults = [f"chaos: exit code {client.returncode}: {output[1][-500:]}"] * (client.returncode not in (0, 7))
        faults += [f"chaos: {len(counts)} cells"] * (len(counts) != len(DEVICES) * len(sizes))
        faults += [f"chaos: {cell} is there {count} times" for cell, count in counts.items() if count != 1]
        return faults + ["chaos: nothing was killed"] * (not kills)


def two(folder: Path, quick: bool) -> list[str]:
    sizes, cell_s = (SIZES[:3], 0.3) if quick else (SIZES[:15], 0.5)
    with Fleet(folder, cell_s) as fleet:
        fleet.prepare("a", sizes)
        fleet.add_worker("a")
        fleet.wait_for_workers()
        clients = [fleet.client(*fleet.latency("a", sizes)) for _ in range(2)]
        for client in clients:
            client.communicate()
        events, (counts, _) = fleet.events(), fleet.results()
        found = overlaps(events, cell_s)
        print(f"two: {sum(counts.values())} cells of two sweeps on one device, {found} overlap")
        faults = [f"two: {found} overlaps"] * bool(found)
        faults += ["two: a sweep failed"] * any(client.returncode for client in clients)
        return faults + ["two: cells are missing"] * (set(counts.values()) != {2} or len(counts) != len(sizes))


def scheduler(folder: Path, quick: bool) -> list[str]:
    sizes = SIZES[:6] if quick else SIZES[:20]
    with Fleet(folder, 0.5) as fleet:
        fleet.prepare("a", sizes)
        fleet.add_worker("a")
        fleet.wait_for_workers()
        client = fleet.client(*fleet.latency("a", sizes))
        while sum(fleet.results()[0].values()) < 2:
            time.sleep(0.1)
        assert fleet.scheduler is not None
        end_tree(fleet.scheduler.pid)
        fleet.scheduler.wait()
        _, errors = client.communicate(timeout=120)
        messages = [line for line in errors.splitlines() if line.startswith("error")]
        kept = sum(fleet.results()[0].values())
        fleet.start_scheduler()
        fleet.wait_for_workers()
        run = runs.all_runs(folder / "results")[0].stem
        done = fleet.call("latency", "--device", "a", "--resume", run, "--scheduler", fleet.address, "--any-speed")
        counts, _ = fleet.results()
        print(f"scheduler: {kept} cells kept, {len(counts)} after --resume; {messages}")
        faults = ["scheduler: not one message: " + errors[-800:]] * (len(messages) != 1 or "Traceback" in errors)
        faults += [f"scheduler: exit code {client.returncode}"] * (client.returncode != 6)
        faults += [f"scheduler: --resume ended with {done.returncode}: {done.stderr[-500:]}"] * bool(done.returncode)
        return faults + ["scheduler: cells are lost or twice"] * (
            len(counts) != len(sizes) or set(counts.values()) != {1}
        )


def client(folder: Path, quick: bool) -> list[str]:
    sizes = SIZES[:6] if quick else SIZES[:20]
    with Fleet(folder, 0.5) as fleet:
        fleet.prepare("a", sizes)
        fleet.add_worker("a")
        fleet.wait_for_workers()
        killed = fleet.client(*fleet.latency("a", sizes))
        while sum(fleet.results()[0].values()) < 2:
            time.sleep(0.1)
        killed.kill()  # SIGKILL: it tidies nothing up
        killed.communicate()
        kept = sum(fleet.results()[0].values())
        run = runs.all_runs(folder / "results")[0].stem
        done = fleet.call("latency", "--device", "a", "--resume", run, "--scheduler", fleet.address, "--any-speed")
        counts, failures = fleet.results()
        begun = Counter(event["cell"] for event in fleet.events() if event["event"] == "begin")
        again = sum(times - 1 for times in begun.values())
        print(
            f"client: {kept} cells kept of a killed client, {len(counts)} after --resume, {again} measured twice; "
            f"{overlaps(fleet.events(), fleet.cell_s)} overlap"
        )
        faults = [f"client: --resume ended with {done.returncode}: {done.stderr[-500:]}"] * bool(done.returncode)
        faults += ["client: a failure is recorded"] * bool(failures)
        # what ran or waited when the client ended may be measured once more, and nothing else
        faults += [f"client: {again} cells were measured twice"] * (again > 2)
        return faults + ["client: cells are lost or twice"] * (
            len(counts) != len(sizes) or set(counts.values()) != {1} or kept >= len(sizes)
        )


def deadly(folder: Path, quick: bool) -> list[str]:
    sizes = SIZES[:4]
    with Fleet(folder, 0.2, {"STANDIN_DEADLY": str(sizes[1])}) as fleet:
        fleet.prepare("a", sizes)
        for _ in range(2):
            fleet.add_worker("a", "--devices-apart")
        fleet.wait_for_workers()
        done = fleet.call(*fleet.latency("a", sizes))
        counts, failures = fleet.results()
        begun = sum(event["event"] == "begin" and event["cell"].endswith(f" {sizes[1]}") for event in fleet.events())
        print(f"deadly: {len(counts)} cells, {failures} failed after it was begun {begun} times")
        faults = [f"deadly: exit code {done.returncode}: {done.stderr[-500:]}"] * (done.returncode != 7)
        return faults + ["deadly: not one failure, or cells are missing"] * (
            failures != 1 or begun != 2 or len(counts) != len(sizes) or set(counts.values()) != {1}
        )


def tls(folder: Path, quick: bool) -> list[str]:
    folder.mkdir(parents=True)
    authority, certificate, key = certificates(folder)
    names = {"CA_FILE": authority, **{f"{role}__CERT": certificate for role in ("SCHEDULER", "WORKER", "CLIENT")}}
    names |= {f"{role}__KEY": key for role in ("SCHEDULER", "WORKER", "CLIENT")}
    environment = {f"DASK_DISTRIBUTED__COMM__TLS__{name}": str(path) for name, path in names.items()}
    environment["DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION"] = "true"
    stranger = folder / "stranger"
    stranger.mkdir()
    _, other_certificate, other_key = certificates(stranger)
    with Fleet(folder, 0.2, environment, "tls") as fleet:
        fleet.prepare("a", SIZES[:2])
        fleet.add_worker("a", "--host", "127.0.0.1")
        fleet.wait_for_workers()
        words = fleet.latency("a", SIZES[:2])
        done = fleet.call(*words)
        without = {name: value for name, value in fleet.environment.items() if "__TLS__" not in name}
        foreign = {
            **fleet.environment,
            "DASK_DISTRIBUTED__COMM__TLS__CLIENT__CERT": str(other_certificate),
            "DASK_DISTRIBUTED__COMM__TLS__CLIENT__KEY": str(other_key),
        }
        plain = [word.replace("tls://", "tcp://") for word in words]
        refused = [
            fleet.call(*words, env=without),
            fleet.call(*plain, env={**without, "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "false"}),
            fleet.call(*words, env=foreign),
        ]
        counts, _ = fleet.results()
        codes = [call.returncode for call in refused]
        print(f"tls: {len(counts)} cells with a certificate; without, in plaintext and with a stranger's: exit {codes}")
        faults = [f"tls: exit code {done.returncode}: {done.stderr[-500:]}"] * bool(done.returncode)
        faults += [f"tls: refused with {codes}: {refused[codes.index(0)].stderr[-300:]}" for _ in [0] if 0 in codes]
        faults += ["tls: a traceback"] * any("Traceback" in call.stderr for call in refused)
        return faults + ["tls: cells"] * (len(counts) != 2 or set(counts.values()) != {1})


def certificates(folder: Path) -> tuple[Path, Path, Path]:
    """Write an authority of this script's own, and a certificate and a key that it signed."""
    from datetime import UTC, datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    def named(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])

    def signed(subject: str, key: Any, issuer: str, issuer_key: Any, ca: bool) -> Any:
        today = datetime.now(UTC)
        builder = x509.CertificateBuilder().subject_name(named(subject)).issuer_name(named(issuer))
        builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(today - timedelta(days=1)).not_valid_after(today + timedelta(days=2))
        builder = builder.add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        return builder.sign(issuer_key, hashes.SHA256())

    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    paths = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
    paths[0].write_bytes(signed("authority", authority_key, "authority", authority_key, True).public_bytes(pem))
    paths[1].write_bytes(signed("fleet", key, "authority", authority_key, False).public_bytes(pem))
    paths[2].write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))
    return paths


def overhead(folder: Path, quick: bool) -> list[str]:
    sizes, cell_s = (SIZES[:4], 0.5) if quick else (SIZES[:30], 2.0)
    with Fleet(folder, cell_s) as fleet:
        fleet.prepare("ab", sizes)
        for device in "ab":
            fleet.add_worker(device, "--devices-apart")
        fleet.wait_for_workers()
        begun = time.monotonic()
        done = fleet.call(*fleet.latency("a,b", sizes))
        whole_s = time.monotonic() - begun
        times = [event["at"] for event in fleet.events()]
        own_s, wall_s = cell_s * len(sizes), times[-1] - times[0]
        print(
            f"overhead: {2 * len(sizes)} cells of {cell_s:g} s on two workers took {wall_s:.1f} s, "
            f"{100 * (wall_s / own_s - 1):.1f} % more than their own {own_s:g} s; the whole command {whole_s:.1f} s"
        )
        faults = [f"overhead: exit code {done.returncode}: {done.stderr[-500:]}"] * bool(done.returncode)
        return faults + ["overhead: more than 5 %"] * (not quick and wall_s > 1.05 * own_s)


PARTS: dict[str, Callable[[Path, bool], list[str]]] = {
    "chaos": chaos,
    "two": two,
    "scheduler": scheduler,
    "client": client,
    "deadly": deadly,
    "tls": tls,
    "overhead": overhead,
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=list(PARTS), help="run this part; repeatable [default: all]")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter cells")
    chosen = parser.parse_args(arguments)
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for name in chosen.part or PARTS:
            faults += PARTS[name](Path(folder, name), chosen.quick)
    for fault in faults:
        print(fault, file=sys.stderr)
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
