"""The steps of `on_gpu.py`: what each shows, how long it may take, and how it does it.

A step runs in a process of its own. Latencies and comparisons are made by `fastvit-bench` itself and stay in its run
files; whatever else a step finds goes through a `Bench`, which has it on disk at once.
"""

import json
import os
import queue
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fastvit_bench import backends, config
from fastvit_bench.backends import pytorch, tensorrt_rtx
from fastvit_bench.backends._nvidia import cuda
from fastvit_bench.backends._nvidia.cuda import binding
from fastvit_bench.backends._nvidia.cuda.monitor import Monitor
from fastvit_bench.backends._nvidia.cuda.torch_binding import TorchCuda
from fastvit_bench.comparing.formats import json_document
from fastvit_bench.errors import FastViTBenchError, UnavailableError
from fastvit_bench.exporting import checkpoints, pipeline
from fastvit_bench.measuring.worker import Worker
from fastvit_bench.network import registry
from fastvit_bench.records import PROCESSES, Artifact, Device, ExportJob, Fuse, Head, Measurement, ModelSpec, Shape
from fastvit_bench.records.comparison import CellResult, Outcome
from fastvit_bench.store import runs as store_runs

BENCHMARKS = Path(__file__).resolve().parent
ROOT = BENCHMARKS.parent


@dataclass(frozen=True)
class Scale:
    """How much is measured, and of what."""

    models: tuple[str, str, str]  # from small to large
    grid: tuple[int, ...]  # pixels
    size: int  # the one that single questions are asked at
    large: int  # one whose runs last long beside everything the host does
    batch: int
    batches: tuple[int, ...]
    dense: tuple[int, int]  # pixels and batch of the dense backbone, as in the paper's detection tables
    runs: int | None  # timed ones of a latency; None: as many as the protocol says
    processes: int  # of a latency that is spread over several
    blocks: int  # of cuda_window.py
    block_runs: int
    max_time: str  # of a comparison, which ends inconclusive before its step's limit
    load_runs: int  # of the sweep beside which another runs
    copied: int  # bytes that the bindings copy
    spare_mib: int  # memory that the step about memory leaves to a process beyond what its start takes


FULL = Scale(
    models=("fastvit_t8", "fastvit_sa12", "fastvit_ma36"),
    grid=(224, 256, 384, 512, 768, 1024), size=256, large=1024, batch=8, batches=(1, 8, 32), dense=(512, 2), runs=None,
    processes=PROCESSES, blocks=24, block_runs=100, max_time="240s", load_runs=15_000, copied=64 << 20, spare_mib=128,
)  # fmt: skip
SMALL = Scale(
    models=("fastvit_t8", "fastvit_t8", "fastvit_t8"),
    grid=(32, 64, 96), size=32, large=64, batch=1, batches=(1, 2), dense=(32, 1), runs=6,
    processes=2, blocks=2, block_runs=2, max_time="30m", load_runs=200, copied=64 << 10, spare_mib=640,
)  # fmt: skip


class StepError(Exception):
    """What went otherwise than it must, in one sentence."""


class SkipError(Exception):
    """Why a step means nothing on this machine."""


# --- what a step works with -------------------------------------------------------------------------------------------


@dataclass
class Figure:
    """A number with what it is of; low and high are those of its 95 % interval."""

    what: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass
class Finding:
    """A claim, whether it holds, and what decided."""

    claim: str
    met: bool
    reason: str


@dataclass
class Record:
    """Everything one step found by itself."""

    outcome: str = "unfinished"
    reason: str = ""
    figures: list[Figure] = field(default_factory=list[Figure])
    goals: list[Finding] = field(default_factory=list[Finding])
    notes: list[str] = field(default_factory=list[str])


class Bench:
    """The place, the card and the pen of one step."""

    def __init__(self, step: str, out: Path, models: Path, scale: Scale) -> None:
        self.scale, self.models = scale, models
        self.runs_folder = out / "runs" / step
        self.scratch = models.parent / "scratch" / step
        self.config = self.scratch / "benchmark.toml"
        self.record = Record()
        self._kept = out / "steps" / f"{step}.json"
        self.driver = cuda.probe()
        self.gpu = self.driver.gpus[0]
        self.device = card_slug(self.gpu.name)

    def prepare(self) -> None:
        """Lay the folders and the configuration, in which the devices bear the card's own name."""
        for folder in (self.scratch, self.runs_folder, self._kept.parent):
            folder.mkdir(parents=True, exist_ok=True)
        packaged = (ROOT / "benchmark.toml").read_text(encoding="utf-8")
        text = configuration(packaged, self.gpu, self.scale.batch, self.models, self.runs_folder)
        self.config.write_text(text, encoding="utf-8")
        self.save()

    def save(self) -> None:
        """Put on disk what is known by now."""
        draft = self._kept.with_suffix(".new")
        draft.write_text(json.dumps(asdict(self.record)), encoding="utf-8")
        draft.replace(self._kept)

    def figure(self, what: str, value: float, unit: str, note: str = "") -> None:
        """Keep a number that has no interval."""
        self.record.figures.append(Figure(what, value, unit, note=note))
        self.save()

    def goal(self, claim: str, met: bool, reason: str) -> None:
        """Keep whether a claim holds."""
        self.record.goals.append(Finding(claim, met, reason))
        print(f"{'met' if met else 'MISSED'}: {claim} ({reason})", flush=True)
        self.save()

    def note(self, text: str) -> None:
        """Keep a remark."""
        self.record.notes.append(text)
        print(text, flush=True)
        self.save()

    def cli(self, *words: str) -> list[str]:
        """The command line of this tool with this step's configuration."""
        return [sys.executable, "-m", "fastvit_bench.cli", *words, "--config", str(self.config)]

    def call(self, *words: str, expect: int = 0, says: str = "") -> str:
        """Run the tool; returns all it said. `StepError` where it ends otherwise than expected or says something else.

        Lines may be broken anywhere, so `says` is looked for without regard to white space.
        """
        command = self.cli(*words)
        print(f"$ fastvit-bench {' '.join(words)}", flush=True)
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "COLUMNS": "200", "NO_COLOR": "1"}, stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        )  # fmt: skip
        print(done.stdout, flush=True)
        name = f"fastvit-bench {' '.join(words)}"
        if done.returncode != expect:
            last = ([line for line in done.stdout.splitlines() if line.strip()] or ["it said nothing"])[-1]
            raise StepError(f"{name} ended with {done.returncode} instead of {expect}: {last.strip()}")
        if "".join(says.split()) not in "".join(done.stdout.split()):
            raise StepError(f"{name} does not say '{says}'.")
        return done.stdout

    def latency(self, *words: str, device: str = "", expect: int = 0, says: str = "", protocol: str = "") -> None:
        """Run `latency` on the card; few runs where the scale says so and the protocol lets it.

        There is no time to wait for a quicker machine.
        """
        few = ["--runs", str(self.scale.runs)] if self.scale.runs and not protocol else []
        chosen = ["--protocol", protocol] if protocol else []
        self.call("latency", "-d", self.device + device, "--any-speed", *words, *chosen, *few, expect=expect, says=says)

    def measurements(self) -> list[Measurement]:
        """Of all run files of this step."""
        paths = store_runs.all_runs(self.runs_folder)
        return [measurement for path in paths for measurement in store_runs.read(path).measurements]

    def comparison(self, *words: str, expect: int = 0) -> CellResult:
        """Run `compare` or `gate` on one cell; returns it."""
        known = set(self.runs_folder.glob("*/*.json"))
        self.call(*words, "-d", self.device, "--max-time", self.scale.max_time, expect=expect)
        (path,) = set(self.runs_folder.glob("*/*.json")) - known
        (cell,) = json_document.read(path).cells
        return cell

    def script(self, name: str, *words: str) -> Mapping[str, Any]:
        """Run another script of this folder; returns its report. A goal it misses is no error."""
        command = [sys.executable, str(BENCHMARKS / f"{name}.py"), *words, "--json"]
        print(f"$ python benchmarks/{name}.py {' '.join(words)}", flush=True)
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode not in (0, 1) or not done.stdout.startswith("{"):
            raise StepError(f"{name}.py ended with {done.returncode}; its log says why.")
        return json.loads(done.stdout)


def card_slug(name: str) -> str:
    """A card's name as a device: ``nvidia-h100-80gb-hbm3``."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def configuration(packaged: str, gpu: cuda.Gpu, batch: int, models: Path, results: Path) -> str:
    """The packaged configuration with this card's devices and a step's own folders."""
    slug, match = card_slug(gpu.name), json.dumps(gpu.name)
    kinds = {
        "": ("pytorch", match, "{}"),
        "-second": ("pytorch", match, "{}"),
        "-compiled": ("pytorch", match, '{ compile = "default" }'),
        "-another": ("pytorch", '"a card that is not here"', "{}"),
        "-ort": ("onnxruntime", match, '{ provider = "cuda" }'),
        "-trt": ("tensorrt", match, "{}"),
        "-rtx": ("tensorrt-rtx", match, f'{{ compute_capability = "{gpu.compute_capability}" }}'),
    }
    images = f"calibration = {json.dumps(str(calibration_folder(models)))}\ncalibration_images = {_CALIBRATED}\n"
    rounded = {f"{kind}-int8": kinds[kind] for kind in _QUANTISING}
    devices = "".join(
        f'[device.{slug}{kind}]\nbackend = "{backend}"\nprecision = "{"int8" if kind in rounded else "fp16"}"\n'
        f"batch = {batch}\nmatch = {name}\noptions = {options}\n{images if kind in rounded else ''}\n"
        for kind, (backend, name, options) in {**kinds, **rounded}.items()
    )
    text = re.sub(r"(?ms)^\[paths\].*?(?=^\[|\Z)", "", packaged)
    text = re.sub(r"(?m)^processes = \d+", "processes = 1", text)  # what they differ by is a step of its own
    return f"{text}\n{devices}[paths]\nmodels = {json.dumps(str(models))}\nresults = {json.dumps(str(results))}\n"


_QUANTISING = ("-trt", "-rtx")  # devices that there are in INT8 too
_CALIBRATED = 8  # images, of noise: enough for a time, and no measure of accuracy


def calibration_folder(models: Path) -> Path:
    """The images that files in INT8 are calibrated on."""
    return models.parent / "calibration"


# --- the steps --------------------------------------------------------------------------------------------------------


def driver(bench: Bench) -> None:
    """Compare what the driver says of the card with what PyTorch and NVML say."""
    gpu = bench.gpu
    bench.note(
        f"{gpu.name}, compute capability {gpu.compute_capability}, {gpu.memory_mib} MiB, "
        f"driver {bench.driver.version}, CUDA {bench.driver.cuda}, {len(bench.driver.gpus)} GPU(s)"
    )
    torch = pytorch._toolkit().cuda.get_device_properties(0)
    by_torch = {"name": torch.name, "compute capability": f"{torch.major}.{torch.minor}", "UUID": str(torch.uuid)}
    by_driver = {"name": gpu.name, "compute capability": gpu.compute_capability, "UUID": gpu.uuid.partition("-")[2]}
    for what, value in by_driver.items():
        bench.goal(f"PyTorch tells the same {what}", by_torch[what] == value, f"{value} and {by_torch[what]}")
    apart = abs(gpu.memory_mib - (torch.total_memory >> 20))
    bench.goal("PyTorch tells the same memory within 1 %", apart <= 0.01 * gpu.memory_mib, f"{apart} MiB apart")
    with Monitor(gpu.uuid) as monitor:
        bench.goal(
            "NVML knows the card by the driver's UUID",
            monitor.unavailable_reason is None,
            monitor.unavailable_reason or gpu.uuid,
        )
        state = msgspec.structs.asdict(monitor.sample_telemetry())
    unread = [name for name, value in state.items() if value is None]
    bench.note("NVML: " + ", ".join(f"{name} {value}" for name, value in state.items() if value is not None))
    bench.note(f"not told by NVML: {', '.join(unread) or 'nothing'}")
    bench.call("devices")


def bindings(bench: Bench) -> None:
    """Allocate, copy, time and replay through every binding that can be imported here."""
    for name in (*binding.BINDINGS, TorchCuda.name):
        lacking = binding.unavailable_reason(name) if name in binding.BINDINGS else None
        if lacking:
            bench.note(f"{name} is not tried: {lacking}")
            continue
        try:
            calls = TorchCuda(pytorch._toolkit()) if name == TorchCuda.name else binding.load(name)
            _exercise(bench, calls)
        except FastViTBenchError as error:
            bench.goal(f"{name} works", False, str(error))


def _exercise(bench: Bench, calls: binding.Cuda) -> None:
    """Copy there and back between two events, ten times, and once more from a graph."""
    size = bench.scale.copied
    first, second = bytes(range(256)) * (size // 256), bytes(reversed(range(256))) * (size // 256)
    with binding.Context(calls, bench.gpu.index) as context:
        memory, sent, received = context.memory(size), context.pinned(size), context.pinned(size)
        stream, start, end = context.stream(), context.event(), context.event()

        def there_and_back(handle: int) -> None:
            calls.upload(memory, sent, stream)
            calls.download(received, memory, stream)

        sent.view[:] = first
        times_ms: list[float] = []
        for _ in range(10):
            calls.record(start, stream)
            there_and_back(stream.handle)
            calls.record(end, stream)
            calls.synchronise_event(end)
            times_ms.append(calls.elapsed_ms(start, end))
        whole = received.view == first
        bench.goal(f"{calls.name}: bytes come back as they went", whole, f"{size >> 10} KiB")
        bench.goal(f"{calls.name}: events tell a time", min(times_ms) > 0, f"at least {min(times_ms):.4f} ms")
        if min(times_ms) > 0:
            rate = 2 * size / statistics.median(times_ms) / 1e6
            bench.figure(f"{calls.name}: pinned copies there and back", rate, "GB/s")
        if not calls.graphs:
            bench.note(f"{calls.name} knows no graphs")
            return
        graph = context.capture(there_and_back, stream)
        sent.view[:] = second
        calls.launch(graph, stream)
        calls.synchronise_stream(stream)
        bench.goal(f"{calls.name}: a replayed graph does its work", received.view == second, f"{size >> 10} KiB")


def files(bench: Bench) -> None:
    """Export and prove what later steps time, several at once: a proof takes seconds of every core, not of the GPU."""
    scale = bench.scale
    settings = config.load(bench.config, backends=backends.implemented())
    smallest, middle, largest = (settings.select((name,))[0] for name in scale.models)
    device = settings.device(bench.device)
    square = [Shape(batch=scale.batch, height=size, width=size) for size in scale.grid]
    few = [shape for shape in square if shape.height in (scale.size, scale.large)]
    usual = Shape(batch=scale.batch, height=scale.size, width=scale.size)
    dense = Shape(batch=scale.dense[1], height=scale.dense[0], width=scale.dense[0])
    wanted: list[tuple[ModelSpec, Shape, Fuse]] = [
        *((spec, shape, Fuse.FOLDED) for spec in (smallest, middle) for shape in square),
        *((largest, shape, Fuse.FOLDED) for shape in few),
        *((smallest, msgspec.structs.replace(usual, batch=batch), Fuse.FOLDED) for batch in scale.batches),
        (msgspec.structs.replace(middle, head=Head.DENSE), dense, Fuse.FOLDED),
        (smallest, usual, Fuse.NONE),
    ]
    jobs = {
        job.path: job
        for spec, shape, fused in wanted
        for job in [pipeline.job(spec, checkpoints.weights_of(spec, 0), shape, fused, device, folder=bench.models)]
        if pipeline.cached(job) is None
    }
    cost = {
        path: registry.macs(job.variant, job.shape.height * job.shape.width) * job.shape.batch
        for path, job in jobs.items()
    }
    since = time.monotonic()
    _export(bench, sorted(jobs.values(), key=lambda job: -cost[job.path]))
    bench.figure(f"exporting and proving {len(jobs)} files", time.monotonic() - since, "s")


def _export(bench: Bench, jobs: Sequence[ExportJob]) -> None:
    """Make files in several processes, the longest first, which ends soonest."""
    cores = backends.available_cores()
    workers = max(1, min(len(jobs), cores // 3, 6))
    os.environ["OMP_NUM_THREADS"] = str(max(1, cores // workers))
    # memory that a layer has used is kept for the next one: giving it back and forth is half of a proof's time
    os.environ |= {"MALLOC_MMAP_THRESHOLD_": str(16 << 30), "MALLOC_TRIM_THRESHOLD_": str(32 << 30)}
    waiting: queue.SimpleQueue[ExportJob] = queue.SimpleQueue()
    for job in jobs:
        waiting.put(job)

    def work() -> None:
        with Worker() as worker:
            while True:
                try:
                    job = waiting.get_nowait()
                except queue.Empty:
                    return
                reply = worker.ask(job, 3600)
                name = Path(job.path).name
                if isinstance(reply, Artifact):
                    print(f"made {name}", flush=True)
                else:
                    bench.goal(f"{name} is exported", False, str(getattr(reply, "reason", reply)))

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def window(bench: Bench) -> None:
    """Run `cuda_window.py` where a run lasts long beside what the host does."""
    _window(bench, bench.scale.large, max(2, bench.scale.block_runs // 5))


def graph(bench: Bench) -> None:
    """Run `cuda_window.py` where the host's part of a run is largest."""
    _window(bench, bench.scale.size, bench.scale.block_runs)


def _window(bench: Bench, size: int, runs: int) -> None:
    scale = bench.scale
    report = bench.script(
        "cuda_window", "--models", scale.models[0], "--res", str(size), "--batch", str(scale.batch),
        "--blocks", str(scale.blocks), "--runs", str(runs), "--files", str(bench.models),
    )  # fmt: skip
    for ratio in report["ratios"]:
        interval = ratio["interval"] or {"low": None, "high": None}
        what = f"{ratio['what']}: {ratio['side']} / {ratio['base']}"
        note = f"{ratio['side_ms']:.4g} against {ratio['base_ms']:.4g} ms, {ratio['blocks']} blocks"
        bench.record.figures.append(Figure(what, ratio["ratio"], "", interval["low"], interval["high"], note))
    bench.save()
    for goal in report["goals"]:
        bench.goal(f"at {size}: {goal['claim']}", goal["met"], goal["reason"])


def smallest(bench: Bench) -> None:
    """Time the smallest network over the whole grid."""
    bench.latency("-m", bench.scale.models[0], "--res", _list(bench.scale.grid))


def processes(bench: Bench) -> None:
    """Time one network twice, each time spread over processes: what they differ by is in the interval."""
    text = bench.config.read_text(encoding="utf-8")
    bench.config.write_text(text.replace("processes = 1", f"processes = {bench.scale.processes}"), encoding="utf-8")
    for _ in range(2):
        bench.latency("-m", bench.scale.models[0], "--res", str(bench.scale.size))
    first, second = bench.measurements()
    interval, ms = first.interval_ms, second.figure_ms
    for number, measurement in enumerate((first, second), 1):
        medians = ", ".join(f"{ns / 1e6:.4g}" for ns in measurement.process_medians_ns)
        bench.note(f"run {number}: {medians} ms in the processes")
    covered = interval is not None and interval.low <= ms <= interval.high
    limits = f"[{interval.low:.4g}, {interval.high:.4g}]" if interval else "no interval"
    bench.goal("the interval covers the figure of another run", covered, f"{ms:.4g} ms, {limits}")


def middle(bench: Bench) -> None:
    """Time the middle network over the whole grid."""
    bench.latency("-m", bench.scale.models[1], "--res", _list(bench.scale.grid))


def largest(bench: Bench) -> None:
    """Time the largest network at its own size and at the largest."""
    bench.latency("-m", bench.scale.models[2], "--res", _few(bench))


def eager(bench: Bench) -> None:
    """Time all three without a graph."""
    bench.latency(*_models(bench.scale.models), "--no-graph", "--res", _few(bench))


def paper(bench: Bench) -> None:
    """Time all three as the paper says it timed its GPU."""
    bench.latency(*_models(bench.scale.models), "--res", str(bench.scale.size), protocol="paper")


def batches(bench: Bench) -> None:
    """Time one size at several batches."""
    for batch in bench.scale.batches:
        bench.latency("-m", bench.scale.models[0], "--res", str(bench.scale.size), "--batch", str(batch))


def dense(bench: Bench) -> None:
    """Time a dense backbone."""
    size, batch = bench.scale.dense
    bench.latency("-m", bench.scale.models[1], "--head", "dense", "--res", str(size), "--batch", str(batch))


def compiled(bench: Bench) -> None:
    """Time what `torch.compile` makes of a network, and the same network as it is."""
    for device in ("", "-compiled"):
        bench.latency("-m", bench.scale.models[0], "--res", str(bench.scale.size), device=device)
    ms = {measurement.device.name: measurement.figure_ms for measurement in bench.measurements()}
    ratio = ms[f"{bench.device}-compiled"] / ms[bench.device]
    bench.figure("compiled / as it is", ratio, "", note="one run each, not in turns")


def remaining(bench: Bench) -> None:
    """Time the cells of the grid that other steps leave out."""
    left = [size for size in bench.scale.grid if size not in (bench.scale.size, bench.scale.large)]
    if left:
        bench.latency(*_models(bench.scale.models[:2]), "--no-graph", "--res", _list(left))
        bench.latency("-m", bench.scale.models[2], "--res", _list(left))
        bench.latency("-m", bench.scale.models[2], "--no-graph", "--res", _list(left))


def another_card(bench: Bench) -> None:
    """Ask for a card that is not here: refused before anything is exported."""
    refusal = bench.call("latency", "-d", f"{bench.device}-another", "--res", str(bench.scale.size), expect=6)
    bench.goal("the refusal names the card that is here", bench.gpu.name in refusal, refusal.strip())
    bench.goal("nothing was written", not store_runs.all_runs(bench.runs_folder), str(bench.runs_folder.name))


def memory(bench: Bench) -> None:
    """Hold nearly all memory of the card and let a sweep fail: its row must say why."""
    with _memory_taken(bench) as taken_mib:
        bench.note(f"{taken_mib} of {bench.gpu.memory_mib} MiB were held meanwhile")
        bench.latency("-m", bench.scale.models[0], "--res", str(bench.scale.large), expect=7, says="memory ran out")


# what a process with PyTorch has taken of the card once it can convolve and multiply, in MiB by NVML
START = """
import sys, pynvml, torch
pynvml.nvmlInit()
card = pynvml.nvmlDeviceGetHandleByUUID(sys.argv[1])
before = pynvml.nvmlDeviceGetMemoryInfo(card).free
image, weights = (torch.zeros(8, 8, n, n, device="cuda", dtype=torch.half) for n in (8, 3))
torch.nn.functional.conv2d(image, weights)
image @ image
torch.cuda.synchronize()
print(before - pynvml.nvmlDeviceGetMemoryInfo(card).free >> 20)
"""


def _start_mib(bench: Bench) -> int:
    """Return what a process takes of the card before it has a network, in MiB; 0 and a note where nothing tells."""
    words = [sys.executable, "-c", START, bench.gpu.uuid]
    try:
        mib = max(0, int(subprocess.run(words, capture_output=True, text=True, timeout=60, check=True).stdout))
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        bench.note(f"what a process takes of the card to begin is not known: {error.__class__.__name__}")
        return 0
    bench.note(f"a process takes {mib} MiB of the card to begin")
    return mib


@contextmanager
def _memory_taken(bench: Bench) -> Iterator[int]:
    """Allocate until none is left, less what a process takes to begin and a little; yields the MiB that are held."""
    left_mib = bench.scale.spare_mib + _start_mib(bench)
    calls = binding.load(binding.DEFAULT)
    with binding.Context(calls, bench.gpu.index):
        allocations: list[binding.Memory] = []
        try:
            for mib in (1024, 256, 64, 16):
                _allocate(calls, allocations, mib, bench.gpu.memory_mib)
            held_mib = _held_mib(allocations) - left_mib
            while allocations and _held_mib(allocations) > held_mib:
                calls.free(allocations.pop())
            _allocate(calls, allocations, 16, held_mib)  # the last one freed may have been a large one
            yield _held_mib(allocations)
        finally:
            while allocations:
                calls.free(allocations.pop())


def _allocate(calls: Any, allocations: list[binding.Memory], mib: int, most_mib: int) -> None:
    """Add allocations of so many MiB until `most_mib` are held or the card has no more."""
    while _held_mib(allocations) + mib <= most_mib:
        try:
            allocations.append(calls.allocate(mib << 20))
        except UnavailableError:
            return


def _held_mib(allocations: Sequence[binding.Memory]) -> int:
    return sum(memory.size >> 20 for memory in allocations)


def same(bench: Bench) -> None:
    """Compare a file with itself, in turns."""
    cell = bench.comparison("compare", bench.scale.models[0], bench.scale.models[0], "--res", str(bench.scale.size))
    verdict = cell.verdict
    near = verdict.ratio is not None and abs(verdict.ratio - 1) <= 0.02
    bench.goal("a file is as fast as itself, within 2 %", near, verdict.reason)
    bench.goal("and nothing else is concluded", verdict.outcome is Outcome.PASS, verdict.outcome)


def folded(bench: Bench) -> None:
    """Compare the network as it is trained with what is shipped."""
    cell = bench.comparison(
        "compare", f"{bench.scale.models[0]},fuse=none", bench.scale.models[0], "--res", str(bench.scale.size)
    )
    verdict = cell.verdict
    below = verdict.interval is not None and verdict.interval.high < 1
    bench.goal("folded is faster than unfused", below, verdict.reason)


def slower(network: Any, images: int) -> Any:
    """A network that computes part of its batch, so many images, a second time and adds nothing of it."""
    from torch import nn

    class Slower(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, x: Any) -> Any:  # (N, 3, H, W)
            return self.network(x) + 0.0 * self.network(x[:images]).mean()

    return Slower()


def slowdown(bench: Bench) -> None:
    """Gate a network with planted extra work against itself: exit code 1."""
    from fastvit_bench.network import factory

    settings = config.load(bench.config, backends=backends.implemented())
    (spec,) = settings.select(bench.scale.models[:1])
    shape = Shape(batch=bench.scale.batch, height=bench.scale.size, width=bench.scale.size)
    folders = bench.scratch / "base", bench.scratch / "head"
    level = factory.at_level
    try:
        for folder in folders:
            path = folder / f"{bench.scale.models[0]}.pt2"
            job = pipeline.job(
                spec, checkpoints.weights_of(spec, 0), shape, Fuse.FOLDED, settings.device(bench.device), folder=folder,
                path=path,
            )  # fmt: skip
            pipeline.export(job)
            factory.at_level = lambda *words: slower(level(*words), max(1, shape.batch // 2))
    finally:
        factory.at_level = level
    base, head = (os.path.relpath(folder, ROOT) for folder in folders)  # the command runs there
    cells = ["-m", bench.scale.models[0], "--res", str(bench.scale.size)]  # [gate] names more than were made
    cell = bench.comparison("gate", "--baseline", base, "--head", head, *cells, expect=1)
    bench.goal(
        "planted extra work is called a regression", cell.verdict.outcome is Outcome.REGRESSED, cell.verdict.reason
    )


def at_once(bench: Bench) -> None:
    """Begin a sweep beside another: refused on the same device, and told beside the figure on one of another name."""
    scale = bench.scale
    size = str(scale.size)
    words = bench.cli(
        "latency", "-d", bench.device, "--any-speed", "-m", bench.scale.models[0], "--res", size,
        "--runs", str(scale.load_runs),
    )  # fmt: skip
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT) as first:
        try:
            while not store_runs.all_runs(bench.runs_folder) and first.poll() is None:
                time.sleep(0.1)
            bench.latency("-m", bench.scale.models[0], "--res", size, expect=6, says="Another sweep is measuring")
            bench.latency("-m", bench.scale.models[0], "--res", size, device="-second")
            beside = first.poll() is None
        finally:
            code = first.wait()
    bench.goal("the first sweep ends as if alone", code == 0, f"exit code {code}")
    bench.goal("the two ran at once", beside, "the first was still running" if beside else "the first was done before")
    (second,) = (figure for figure in bench.measurements() if figure.device.name.endswith("-second"))
    warned = [warning for warning in second.warnings if "other process" in warning]
    bench.goal("the other sweep is told beside the figure", bool(warned), "; ".join(second.warnings) or "no warning")


def onnxruntime(bench: Bench) -> None:
    """Time ONNX Runtime's CUDA provider."""
    _where_possible(bench, "-ort")
    bench.latency("-m", bench.scale.models[0], "--res", _few(bench), device="-ort")
    bench.latency("-m", bench.scale.models[0], "--res", str(bench.scale.size), "--no-graph", device="-ort")


def rtx(bench: Bench) -> None:
    """Build TensorRT-RTX's engine for this card and time it."""
    _where_possible(bench, "-rtx")
    bench.latency("-m", bench.scale.models[0], "--res", _few(bench), device="-rtx")


def _built_for(bench: Bench) -> None:
    """Raise `SkipError` where TensorRT-RTX builds no engines for this card."""
    trt = tensorrt_rtx.BACKEND.toolkit()
    known = trt.ComputeCapability.__members__
    if "SM" + bench.gpu.compute_capability.replace(".", "") not in known:
        cards = ", ".join(f"{name[2:-1]}.{name[-1]}" for name in known if name.startswith("SM"))
        raise SkipError(
            f"TensorRT-RTX {trt.__version__} builds for {cards}, and this card is {bench.gpu.compute_capability}"
        )


def tensorrt(bench: Bench) -> None:
    """Build TensorRT's engines and time them, once as the paper did."""
    _where_possible(bench, "-trt")
    bench.latency("-m", bench.scale.models[0], "--res", _few(bench), device="-trt")
    bench.latency("-m", bench.scale.models[0], "--res", str(bench.scale.size), device="-trt", protocol="paper")


def _where_possible(bench: Bench, kind: str) -> None:
    """Raise `SkipError` where the toolkit of a device cannot be used."""
    device = config.load(bench.config, backends=backends.implemented()).device(bench.device + kind)
    backend = backends.get(device.backend)
    filled: Device = msgspec.structs.replace(device, options=backend.options(device))
    lacking = backend.unavailable_reason() or backend.device_unavailable_reason(filled)
    if lacking:
        raise SkipError(lacking)
    if kind.startswith("-rtx"):
        _built_for(bench)


def int8(bench: Bench) -> None:
    """Build INT8 engines with each of NVIDIA's toolkits, prove them, and time them beside FP16."""
    lacking: dict[str, str] = {}
    for kind in _QUANTISING:
        try:
            _where_possible(bench, f"{kind}-int8")
        except SkipError as reason:
            lacking[kind] = str(reason)
    if len(lacking) == len(_QUANTISING):
        raise SkipError("; ".join(lacking.values()))
    for reason in lacking.values():
        bench.note(reason)
    _noise(calibration_folder(bench.models))
    for kind in _QUANTISING:
        if kind not in lacking:
            _beside_fp16(bench, kind)


def _beside_fp16(bench: Bench, kind: str) -> None:
    """Time a device in FP16 and in INT8, and keep the ratio and the layers that multiply INT8 values."""
    for device in (kind, f"{kind}-int8"):
        bench.latency("-m", bench.scale.models[0], "--res", str(bench.scale.size), device=device)
    timed = {measurement.device.name: measurement for measurement in bench.measurements()}
    half, rounded = (timed[f"{bench.device}{device}"] for device in (kind, f"{kind}-int8"))
    engine = rounded.engine
    assert engine is not None
    ratio = rounded.figure_ms / half.figure_ms
    bench.figure(f"{engine.toolkit}: INT8 / FP16", ratio, "", note="one run each, not in turns")
    share = engine.integer_share
    counts = f"INT8 {engine.integer or 'none'}, wider {engine.floating or 'none'}"
    bench.goal(f"{engine.toolkit} lists what its engine multiplies", share is not None, counts)
    if share is not None:
        bench.figure(f"{engine.toolkit}: layers with products that multiply INT8 values", share, "", note=counts)
    against = rounded.parity.reference if rounded.parity else "nothing"
    bench.goal(f"{engine.toolkit}: the engine is held to its rounded network", "rounded" in against, against)


def _noise(folder: Path) -> None:
    """Write images to calibrate on, the same ones every time."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(0)
    for number in range(_CALIBRATED):
        few = draw.integers(0, 256, (6, 6, 3), np.uint8)
        Image.fromarray(few).resize((320, 320), Image.Resampling.BICUBIC).save(folder / f"{number}.png")


def _list(sizes: Sequence[int]) -> str:
    return ",".join(map(str, sizes))


def _few(bench: Bench) -> str:
    return _list((bench.scale.size, bench.scale.large))


def _models(models: Sequence[str]) -> list[str]:
    return [word for model in models for word in ("-m", model)]


# --- the table --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """One question, with its answer's limits in seconds."""

    name: str
    shows: str
    likely_s: float  # an estimate; with less left it is not begun
    limit_s: float  # after which it is stopped
    do: Callable[[Bench], None]
    site: str = "base"  # of `on_gpu_wheels.SITES`: packages it sees besides


# in the order of their worth: when time runs out, what is left stands at the end
STEPS = (
    Step("driver", "the driver, PyTorch and NVML speak of the same card", 8, 60, driver),
    Step("bindings", "memory, copies, events and graphs through each CUDA binding", 15, 60, bindings),
    Step("files", "files for the later steps are exported and proved", 60, 200, files),
    Step("graph", "a graph does not cost, looking on is free; small runs", 43, 90, graph),
    Step("window", "CUDA events tell what PyTorch's timer tells; long runs", 45, 100, window),
    Step("smallest", "T8 over the grid, with a graph; each session computes what the network does", 80, 150, smallest),
    Step("another-card", "a device meant for another card is refused", 2, 30, another_card),
    Step("memory", "memory that runs out is a row", 25, 60, memory),
    Step("processes", "the interval of a figure covers that of another run", 95, 160, processes),
    Step("slowdown", "gate catches planted extra work", 190, 280, slowdown),
    Step("paper", "T8, SA12 and MA36 by the paper's protocol", 47, 80, paper),
    Step("dense", "the dense backbone of SA12", 14, 40, dense),
    Step("batches", "T8 at several batches", 41, 80, batches),
    Step("same", "compare calls a file as fast as itself", 75, 170, same),
    Step("largest", "MA36 at two sizes, with a graph", 35, 80, largest),
    Step("at-once", "two sweeps at once are refused or told", 30, 90, at_once),
    Step("eager", "T8, SA12 and MA36 at two sizes, without a graph", 45, 120, eager),
    Step("middle", "SA12 over the grid, with a graph", 50, 120, middle),
    Step("rtx", "TensorRT-RTX's engine, built here and run", 40, 120, rtx),
    Step("onnxruntime", "ONNX Runtime's CUDA provider", 40, 100, onnxruntime, "ort"),
    Step("compiled", "torch.compile", 60, 150, compiled),
    Step("folded", "compare calls folded faster than unfused", 75, 170, folded),
    Step("tensorrt", "TensorRT's engine, built here and run", 60, 180, tensorrt),
    Step("int8", "NVIDIA's engines in INT8 compute their rounded network; their time beside FP16", 90, 200, int8),
    Step("remaining", "the other sizes without a graph, and of MA36", 120, 300, remaining),
)


def sessions(bench: Bench) -> None:
    """Hold every session that was timed to what the float64 network computes."""
    figures = bench.measurements()
    shares = [figure.parity.relative_error / figure.parity.tolerance for figure in figures if figure.parity]
    if figures:
        bench.goal(
            "every timed session computes what its network does",
            len(shares) == len(figures) and max(shares) <= 1,
            f"{len(shares)} of {len(figures)} compared, errors up to {max(shares, default=0.0):.2f} of what is allowed",
        )


def run(step: Step, out: Path, models: Path, scale: Scale) -> None:
    """Do a step in this process; how it ended is in its record, and an error nobody foresaw in the log as well."""
    bench = Bench(step.name, out, models, scale)
    bench.prepare()
    record = bench.record
    try:
        step.do(bench)
        sessions(bench)
    except SkipError as reason:
        record.outcome, record.reason = "skipped", str(reason)
    except (StepError, FastViTBenchError) as error:
        record.outcome, record.reason = "failed", str(error)
    except Exception as error:
        record.outcome, record.reason = "failed", f"{type(error).__name__}: {' '.join(str(error).split())}"
        bench.save()
        raise
    else:
        missed = [goal.claim for goal in record.goals if not goal.met]
        record.outcome, record.reason = ("missed", "; ".join(missed)) if missed else ("passed", "")
    finally:
        bench.save()
