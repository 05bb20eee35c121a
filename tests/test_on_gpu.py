"""The script for a machine with a GPU: its budget, its limits, its pages, and every step with stand-ins."""

import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from fakes import cudadriver, cudatorch, nvidia

FOLDER = Path(__file__).parent.parent / "benchmarks"
CARD = "NVIDIA GeForce RTX 2080 Ti"


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(FOLDER))
    return importlib.import_module("on_gpu")


@pytest.fixture
def steps(on_gpu: ModuleType) -> ModuleType:
    return importlib.import_module("_gpu_steps")


def step(name: str, likely_s: float, limit_s: float = 100) -> SimpleNamespace:
    return SimpleNamespace(name=name, shows=f"what {name} shows", likely_s=likely_s, limit_s=limit_s, site="base")


class Clock:
    """Time that passes only where a step takes some."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def driven(on_gpu: ModuleType, planned: list[tuple[str, float, float, float]], budget_s: float, known: Any = None):
    """Steps: a name, what is likely, the limit, what it takes; returns the results and the limits that were given."""
    clock, limits = Clock(), {}
    takes = {name: seconds for name, _, _, seconds in planned}
    pages: list[int] = []

    def start(chosen: Any, limit_s: float) -> Any:
        limits[chosen.name] = limit_s
        clock.now += min(takes[chosen.name], limit_s)
        outcome = "stopped" if takes[chosen.name] > limit_s else "failed" if chosen.name == "bad" else "passed"
        return on_gpu.Result(chosen.name, chosen.shows, outcome)

    steps = [step(name, likely, limit) for name, likely, limit, _ in planned]
    results = on_gpu.run_all(
        steps, budget_s, start, lambda results, seconds: pages.append(len(results)), known, clock=clock
    )
    assert pages == list(range(1, len(planned) + 1))
    return {result.name: result for result in results}, limits


# --- time -------------------------------------------------------------------------------------------------------------


def test_time_that_is_not_needed_goes_to_later_steps(on_gpu: ModuleType):
    results, limits = driven(on_gpu, [("a", 40, 60, 5), ("b", 40, 60, 5), ("c", 40, 60, 5)], budget_s=70)
    assert [result.outcome for result in results.values()] == ["passed"] * 3
    assert limits == {"a": 60, "b": 55, "c": 50}


def test_what_no_longer_fits_is_dropped_with_the_reason_and_what_is_shorter_runs(on_gpu: ModuleType):
    results, limits = driven(on_gpu, [("a", 40, 60, 58), ("long", 40, 60, 5), ("short", 2, 60, 1)], budget_s=75)
    assert results["long"].outcome == "dropped"
    assert results["long"].reason == "7 s of 75 were left, and it takes about 40"
    assert limits == {"a": 60, "short": 7}


def test_a_step_that_fails_or_is_stopped_does_not_end_the_others(on_gpu: ModuleType):
    results, _ = driven(on_gpu, [("bad", 1, 10, 5), ("slow", 1, 10, 99), ("c", 1, 10, 1)], budget_s=100)
    assert [result.outcome for result in results.values()] == ["failed", "stopped", "passed"]


def test_the_whole_never_takes_more_than_the_budget(on_gpu: ModuleType):
    planned = [(f"s{number}", 10.0, 100.0, 1000.0) for number in range(20)]
    results, limits = driven(on_gpu, planned, budget_s=300)
    assert sum(limits.values()) <= 300
    assert results["s19"].outcome == "dropped"


def test_what_has_passed_before_keeps_its_result(on_gpu: ModuleType):
    known = {"a": on_gpu.Result("a", "", "passed", seconds=42.0)}
    results, limits = driven(on_gpu, [("a", 40, 60, 5), ("b", 40, 60, 5)], budget_s=70, known=known)
    assert results["a"].seconds == 42.0
    assert limits == {"b": 60}


# --- processes --------------------------------------------------------------------------------------------------------


@pytest.fixture
def script(on_gpu: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Puts a script of a line or two in the place of a step's process; gives the result of that step."""

    def run(source: str, limit_s: float = 60) -> Any:
        path = tmp_path / "step.py"
        path.write_text(f"import json, os, pathlib, signal, subprocess, sys, time\n{source}\n", encoding="utf-8")
        monkeypatch.setattr(on_gpu, "__file__", str(path))
        monkeypatch.setattr(on_gpu, "GRACE_S", 0.1)
        (tmp_path / "steps").mkdir(exist_ok=True)
        return on_gpu.start_step(step("probe", 1), limit_s, tmp_path, [])

    return run


KEPT = "pathlib.Path(sys.argv[4], 'steps', 'probe.json').write_text(json.dumps({}))"


def test_a_step_s_record_is_its_result(script: Callable[..., Any]):
    record = {"outcome": "missed", "reason": "a goal", "figures": [], "goals": [], "notes": ["a remark"]}
    result = script(f"print('a line'); {KEPT.format(record)}")
    assert (result.outcome, result.reason, result.notes, result.log) == ("missed", "a goal", ["a remark"], ["a line"])


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("print('last words'); sys.exit(3)", "its process ended with exit code 3"),
        (
            "print('last words', flush=True); os.kill(os.getpid(), signal.SIGSEGV)",
            "its process ended with exit code -11",
        ),
    ],
)
def test_a_process_that_dies_is_a_failed_step_with_its_last_words(script: Callable[..., Any], source: str, reason: str):
    result = script(source)
    assert (result.outcome, result.reason, result.log) == ("failed", reason, ["last words"])


def test_a_step_that_takes_too_long_is_ended_with_all_it_started(
    script: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    ready = tmp_path / "ready"

    def too_long(process: subprocess.Popen[bytes], timeout: float) -> int:
        """As if the limit passed once everything has begun, however long that takes here."""
        while not ready.exists():
            time.sleep(0.01)
        raise subprocess.TimeoutExpired(process.args, timeout)

    monkeypatch.setattr(subprocess.Popen, "wait", too_long)
    record = {"outcome": "unfinished", "notes": ["half of it"]}
    deaf = (
        "import os, pathlib, signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
        f"pathlib.Path({str(tmp_path / 'draft')!r}).write_text(str(os.getpid())); "
        f"os.replace({str(tmp_path / 'draft')!r}, {str(ready)!r}); time.sleep(600)"
    )
    result = script(
        f"{KEPT.format(record)}\nchild = subprocess.Popen([sys.executable, '-c', {deaf!r}])\ntime.sleep(600)", limit_s=7
    )
    assert (result.outcome, result.reason, result.notes) == ("stopped", "it took longer than 7 s", ["half of it"])
    status = Path(f"/proc/{ready.read_text()}/stat")
    for _ in range(3000):  # a process that has been ended is gone when the system comes to it
        if not status.exists() or status.read_text().split()[2] == "Z":
            return
        time.sleep(0.01)
    pytest.fail("the child still runs")


# --- what a step leaves -----------------------------------------------------------------------------------------------


def test_a_file_that_cannot_be_read_is_a_remark(on_gpu: ModuleType, tmp_path: Path):
    """A step that was stopped may leave half of one; the others' results must not be lost with it."""
    (tmp_path / "card").mkdir()
    (tmp_path / "card" / "compare-1.json").write_text('{"document": "compar', encoding="utf-8")
    (tmp_path / "card" / "20260131-120000-000000.jsonl").write_text("{}\n{}\n", encoding="utf-8")
    result = on_gpu.Result("probe", "", "stopped")
    on_gpu.read_runs(result, tmp_path)
    assert len(result.notes) == 2, result.notes
    assert not result.latencies
    assert not result.comparisons


# --- pages ------------------------------------------------------------------------------------------------------------


def test_the_page_holds_everything(on_gpu: ModuleType, tmp_path: Path):
    results = [
        on_gpu.Result(
            "graph", "a graph is free", "missed", "a goal", 12.3,
            figures=[{"what": "graph / eager", "value": 0.98764, "unit": "", "low": 0.9, "high": 1.1, "note": "n = 3"}],
            goals=[{"claim": "within 2 %", "met": False, "reason": "[0.9, 1.1] | wide"}],
            notes=["a remark"],
            latencies=[
                {
                    "what": "fastvit_t8 256 b8", "device": "card", "how": "graph", "ms": 1.23456, "low": 1.2,
                    "high": 1.3, "runs": 100, "window": "compute", "error": 0.0012, "allowed": 0.05,
                    "warnings": ["heat"],
                },
                {"what": "fastvit_t8 1024 b8", "device": "card", "failed": "memory ran out"},
            ],
            comparisons=[
                {
                    "what": "t8", "base": "a", "head": "b", "base_ms": 1.0, "head_ms": 2.0, "ratio": 2.0, "low": 1.9,
                    "high": 2.1, "blocks": 6, "outcome": "regressed", "reason": "slower",
                }
            ],
            log=["the last line"],
        ),
        on_gpu.Result("late", "something", "dropped", "no time was left"),
    ]  # fmt: skip
    report = on_gpu.Report("on_gpu", "2026-01-31T12:00:00", 540, 500, False, {"card": "NVIDIA H100"}, results)
    on_gpu.write(report, tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert text.startswith("# On NVIDIA H100\n")
    for line in (
        "- steps: 1 missed, 1 dropped",
        "| graph | missed | 12 | a goal |",
        "| late | dropped | 0 | no time was left |",
        "| graph | fastvit_t8 256 b8 | card | graph | 1.235 | [1.2, 1.3] | 100 | 1.2e-03, 5e-02 | heat |",
        "| graph | fastvit_t8 1024 b8 | card |  |  |  |  |  | memory ran out |",
        "| graph | t8: a, b | 1 | 2 | 2 | [1.9, 2.1] | 6 | regressed |",
        "| graph | graph / eager | 0.9876 | [0.9, 1.1] | n = 3 |",
        "| graph | within 2 % | **NO** | [0.9, 1.1] \\| wide |",
        "- graph: a remark",
        "the last line",
    ):
        assert line in text.splitlines(), line
    kept = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert [entry["name"] for entry in kept["steps"]] == ["graph", "late"]
    report.small = True
    assert "mean nothing" in on_gpu.page(report)


# --- the table of steps -----------------------------------------------------------------------------------------------


def test_limits_of_steps_hold_what_they_are_likely_to_take(on_gpu: ModuleType, steps: ModuleType):
    names = [entry.name for entry in steps.STEPS]
    assert len(set(names)) == len(names)
    assert all(0 < entry.likely_s <= entry.limit_s < on_gpu.BUDGET_S for entry in steps.STEPS)
    assert names.index("files") < min(names.index(name) for name in ("graph", "window", "smallest"))
    assert all(entry.do.__doc__ for entry in steps.STEPS)


def test_the_configuration_names_devices_after_the_card(steps: ModuleType, tmp_path: Path):
    packaged = (FOLDER.parent / "benchmark.toml").read_text(encoding="utf-8")
    path = tmp_path / "benchmark.toml"
    path.write_text(
        steps.configuration(packaged, nvidia.HOPPER, 8, tmp_path / "models", tmp_path / "runs"), encoding="utf-8"
    )
    settings = steps.config.load(path, backends=steps.backends.implemented())
    device = settings.device("nvidia-h100")
    assert (device.backend, device.precision, device.batch, device.match) == ("pytorch", "fp16", 8, "NVIDIA H100")
    assert settings.device("nvidia-h100-rtx").options["compute_capability"] == "9.0"
    rounded = settings.device("nvidia-h100-rtx-int8")
    assert (rounded.backend, rounded.precision, rounded.batch) == ("tensorrt-rtx", "int8", 8)
    assert rounded.calibration == str(steps.calibration_folder(tmp_path / "models"))
    assert settings.paths.results == str(tmp_path / "runs")
    for name in (name for name in settings.devices if name.startswith("nvidia-h100")):
        device = settings.device(name)
        assert steps.backends.get(device.backend).options(device)


# --- the script itself ------------------------------------------------------------------------------------------------


def call(*words: str, folder: Path) -> subprocess.CompletedProcess[str]:
    # threads that wait for each other at every operator must not take the processor from other tests
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    command = [sys.executable, str(FOLDER / "on_gpu.py"), *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@cudadriver.compiled
def test_without_a_gpu_it_says_what_it_would_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: ModuleType):
    monkeypatch.setenv("LD_LIBRARY_PATH", str(cudadriver.library(tmp_path / "driver", init=100).parent))
    done = call("--out", str(tmp_path / "out"), folder=tmp_path)
    assert done.returncode == 6, done.stderr
    (sentence,) = done.stderr.strip().splitlines()
    count = len(steps.STEPS)
    assert sentence.startswith(f"on_gpu.py would run {count} steps on an NVIDIA GPU in at most 540 s and write")
    assert "No NVIDIA GPU" in sentence
    assert not (tmp_path / "out").exists()


def test_without_a_package_it_says_how_to_bring_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = "raise ModuleNotFoundError('not here', name='msgspec')\n"
    (tmp_path / "msgspec.py").write_text(source, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(FOLDER.parent)]))
    done = call(folder=tmp_path)
    assert (done.returncode, done.stdout) == (6, "")
    assert done.stderr == "error: msgspec is not here; run: python benchmarks/on_gpu_wheels.py unpack.\n"


def test_where_nothing_is_installed_it_says_so_too():
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-S", str(FOLDER / "on_gpu.py")]  # without what is installed, this package included
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (6, "")
    assert "is not here; run: python benchmarks/on_gpu_wheels.py unpack." in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("environment", [Path("elsewhere"), Path(".venv")])
def test_a_page_does_not_say_where_its_machine_kept_things(
    on_gpu: ModuleType, monkeypatch: pytest.MonkeyPatch, environment: Path
):
    folder = on_gpu.ROOT / environment if environment == Path(".venv") else Path(os.sep, environment)
    monkeypatch.setattr(sys, "executable", str(folder / "bin" / "python3"))
    text = f"written: {on_gpu.ROOT / 'build' / 'runs'}; run: {sys.executable} -m pip"
    assert on_gpu.without_folders(text) == f"written: {Path('build', 'runs')}; run: python -m pip"


def test_a_list_of_steps(tmp_path: Path, steps: ModuleType):
    done = call("--list", folder=tmp_path)
    assert [line.split()[0] for line in done.stdout.splitlines()] == [entry.name for entry in steps.STEPS]
    assert call("--only", "nothing", folder=tmp_path).returncode == 2


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine with an imaginary RTX 2080 Ti in every process that is started, and without what is not packed."""
    cudadriver.library(tmp_path / "driver", count=1)
    modules = tmp_path / "modules"
    nvidia.write(modules)
    cudatorch.write(modules)
    monkeypatch.syspath_prepend(str(FOLDER))
    unused = importlib.import_module("on_gpu_wheels").UNUSED
    for name in unused:
        module = {"vl-convert-python": "vl_convert"}.get(name, name)
        (modules / f"{module}.py").write_text("raise ImportError('not packed')\n", encoding="utf-8")
    folders = [
        str(modules), str(Path(__file__).parent), str(FOLDER.parent),
        *os.environ.get("PYTHONPATH", "").split(os.pathsep),
    ]  # fmt: skip
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "driver"))
    monkeypatch.setenv("NVIDIA_FAULT", f"memory:{1 << 20}")  # all that is held while memory is to run out
    monkeypatch.setenv("NVIDIA_FULL", str(tmp_path / "full"))
    yield tmp_path
    shutil.rmtree(tmp_path / "work", ignore_errors=True)  # networks of 8 MB each


def run_small(card: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return call("--small", "--files", str(card / "work" / "models"), "--out", str(card / "out"), *words, folder=card)


def ended(out: Path) -> dict[str, Any]:
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert (out / "report.md").is_file()
    return {entry["name"]: entry for entry in report["steps"]}


@pytest.mark.slow
@cudadriver.compiled
def test_a_step_runs_on_an_imaginary_card_and_its_report_is_kept(card: Path):
    done = run_small(card, "--only", "another-card")
    assert done.returncode == 0, done.stderr
    (result,) = ended(card / "out").values()
    assert result["outcome"] == "passed", result
    assert [goal["claim"] for goal in result["goals"]] == [
        "the refusal names the card that is here",
        "nothing was written",
    ]
    assert (card / "out" / "report.md").read_text(encoding="utf-8").startswith(f"# On {CARD}\n")
    again = run_small(card, "--only", "another-card")
    assert again.returncode == 2
    assert "holds a report already; say --resume" in again.stderr
    more = run_small(card, "--only", "driver", "--resume")
    assert more.returncode == 0, more.stderr
    assert [entry["outcome"] for entry in ended(card / "out").values()] == ["passed", "passed"]


MISSED = {  # imaginary events tell nothing of time, and an imaginary NVML knows no other process
    "graph": ["PyTorch's timer", "no graph", "not looked at"],
    "window": ["PyTorch's timer", "no graph", "not looked at"],
    "at-once": ["told beside the figure"],
}


@pytest.mark.minutes
@pytest.mark.slow
@cudadriver.compiled
def test_every_step_runs_on_an_imaginary_card(card: Path, steps: ModuleType):
    done = run_small(card, "--budget", "100000", "--limits", "100")  # however busy this machine is
    results = ended(card / "out")
    assert list(results) == [entry.name for entry in steps.STEPS]
    for name, result in results.items():
        why = (name, result["reason"], result["log"])
        if name == "onnxruntime" and result["outcome"] == "skipped":
            assert "has no CUDA provider" in result["reason"], why
            continue
        assert result["outcome"] == ("missed" if name in MISSED else "passed"), why
        missed = [goal["claim"] for goal in result["goals"] if not goal["met"]]
        assert len(missed) == len(MISSED.get(name, ())), why
        assert all(claim.endswith(end) for claim, end in zip(missed, MISSED.get(name, ()), strict=True)), why
    assert done.returncode == 1, done.stderr
    timed = {name for name, result in results.items() if result["latencies"]}
    assert timed >= {
        "smallest",
        "middle",
        "largest",
        "eager",
        "paper",
        "dense",
        "batches",
        "compiled",
        "rtx",
        "tensorrt",
        "int8",
    }
    assert all(results[name]["comparisons"] for name in ("same", "slowdown", "folded"))
    (row,) = results["memory"]["latencies"]
    assert "memory ran out" in row["failed"]
    int8_is_timed_beside_fp16_and_its_layers_are_told(results["int8"])


def int8_is_timed_beside_fp16_and_its_layers_are_told(result: dict[str, Any]) -> None:
    devices = [row["device"] for row in result["latencies"]]
    assert {name.rpartition("2080-ti")[2] for name in devices} == {"-trt", "-trt-int8", "-rtx", "-rtx-int8"}
    figures = {figure["what"]: figure for figure in result["figures"]}
    share = figures["tensorrt: layers with products that multiply INT8 values"]
    assert share["value"] == pytest.approx(50 / 52)  # all convolutions but those of squeeze-and-excitation
    assert figures["tensorrt: INT8 / FP16"]["value"] == 1  # the stand-in takes as long for either
