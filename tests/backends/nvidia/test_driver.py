"""The probe, against libraries that a C compiler makes here, and the choice of a GPU."""

import functools
import subprocess
import sys
from pathlib import Path

import pytest
from builders import device
from fakes.cudadriver import compiled, library

from fastvit_bench.backends._nvidia.cuda import Gpu, choose, probe
from fastvit_bench.backends._nvidia.cuda.driver import LIBRARY
from fastvit_bench.errors import ExitCode, UnavailableError


def refusal(path: Path | str) -> str:
    with pytest.raises(UnavailableError) as caught:
        probe(path)
    assert caught.value.exit_code is ExitCode.UNAVAILABLE
    said = str(caught.value)
    assert "\n" not in said
    assert said.endswith(".")
    return said


@compiled
@pytest.mark.parametrize("defines", [(), ("FIRST_UUID",)])
def test_gpus_of_a_working_driver(tmp_path: Path, defines: tuple[str, ...]) -> None:
    release = tmp_path / "version"
    release.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (builder)\n"
        "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n"
    )
    driver = probe(library(tmp_path, defines=defines), release)
    assert (driver.version, driver.cuda) == ("580.65.06", "13.1")
    assert driver.gpus == (
        Gpu("NVIDIA GeForce RTX 2080 Ti", "7.5", "GPU-00010203-0405-0607-0809-0a0b0c0d0e0f", 11264, 0),
        Gpu("NVIDIA H100 80GB HBM3 MIG 1g.10gb", "9.0", "MIG-10111213-1415-1617-1819-1a1b1c1d1e1f", 11264, 1),
    )


@compiled
@pytest.mark.parametrize("text", [None, "", "something else"])
def test_version_of_a_driver_whose_release_cannot_be_read(tmp_path: Path, text: str | None) -> None:
    release = tmp_path / "version"
    if text is not None:
        release.write_text(text)
    assert probe(library(tmp_path), release).version == "CUDA 13.1"


@compiled
@pytest.mark.parametrize(
    ("code", "words"),
    [
        (34, ["the CUDA toolkit's stub", "LD_LIBRARY_PATH"]),
        (35, ["too old", "cuInit says 35)", "install a newer NVIDIA driver"]),
        (100, ["No NVIDIA GPU", "cuInit says 100 CUDA_ERROR_NO_DEVICE", "nvidia-smi"]),
        (802, ["not ready", "nvidia-fabricmanager"]),
        (803, ["different versions", "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "restart"]),
        (804, ["compatibility library", "LD_LIBRARY_PATH"]),
        (999, ["does not answer", "CUDA_ERROR_UNKNOWN"]),
        (4711, ["the driver fails", "cuInit says 4711)"]),
    ],
)
def test_driver_that_refuses_is_named_with_its_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: list[str]
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    # a path of its own: the loader answers with the library that it has loaded from the same path before
    said = refusal(library(tmp_path / str(code), init=code))
    assert all(word in said for word in words), said


@compiled
@pytest.mark.parametrize(("init", "count"), [(100, 2), (0, 0)])
def test_hidden_gpus_are_blamed_on_the_variable_that_hides_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, init: int, count: int
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    said = refusal(library(tmp_path, init=init, count=count))
    assert "CUDA_VISIBLE_DEVICES is '-1'" in said
    assert "unset" in said


@compiled
def test_call_that_fails_later(tmp_path: Path) -> None:
    assert "cuDeviceGetName says 46" in refusal(library(tmp_path, defines=("BROKEN_NAME",)))


@compiled
@pytest.mark.parametrize("source", ["int something(void) { return 0; }", "int cuInit(unsigned f) { return 100; }"])
def test_library_that_is_no_driver(tmp_path: Path, source: str) -> None:
    assert "No " in refusal(library(tmp_path, source=source))


@compiled
def test_too_old_driver_without_a_call(tmp_path: Path) -> None:
    said = refusal(library(tmp_path, source="int cuInit(unsigned f) { return 0; }"))
    assert "too old" in said
    assert "cuDriverGetVersion" in said


def test_no_library_at_all(tmp_path: Path) -> None:
    said = refusal(tmp_path / "libcuda.so.1")
    assert said.startswith("No NVIDIA driver: ")
    assert "was not found" in said


@pytest.mark.skipif(sys.platform == "darwin", reason="no library is ever found there")
def test_file_that_is_no_library(tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").write_bytes(b"not a library")
    assert "cannot be loaded" in refusal(tmp_path / "libcuda.so.1")


def test_this_machine_is_answered_for_in_a_fresh_process() -> None:
    """Whatever it has: no crash, and nothing beyond the standard library and the errors."""
    program = (
        "import sys\n"
        "from fastvit_bench.backends._nvidia import cuda\n"
        "from fastvit_bench.errors import UnavailableError\n"
        "try:\n    print(cuda.probe().gpus)\nexcept UnavailableError as error:\n    print(error)\n"
        "loaded = {'numpy', 'torch', 'cuda', 'pynvml', 'pycuda', 'tensorrt'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "Gpu(" in done.stdout or "No " in done.stdout
    assert LIBRARY in {"libcuda.so.1", "nvcuda.dll"}


gpu = functools.partial(Gpu, uuid="GPU-0", memory_mib=1)
TURING = gpu("NVIDIA GeForce RTX 2080 Ti", "7.5", index=0)
HOPPER = gpu("NVIDIA H100 80GB HBM3", "9.0", index=1)


@pytest.mark.parametrize(
    ("match", "options", "chosen"),
    [
        ("RTX 2080 Ti", {}, TURING),
        ("rtx 2080 ti", {"gpu": 0}, TURING),
        ("H100", {}, HOPPER),
        (None, {}, TURING),
        (None, {"gpu": 1}, HOPPER),
        (None, {"compute_capability": "9.0"}, HOPPER),
        (None, {"compute_capability": 7.5}, TURING),
    ],
)
def test_gpu_that_fits(match: str | None, options: dict[str, str | int | float | bool], chosen: Gpu) -> None:
    assert choose(device(match=match, options=options), [TURING, HOPPER]) is chosen


@pytest.mark.parametrize(
    ("match", "options", "words"),
    [
        ("RTX 3090", {}, ["meant for 'RTX 3090'", "GPU 0 'NVIDIA GeForce RTX 2080 Ti' (7.5)", "GPU 1 'NVIDIA H100"]),
        ("H100", {"gpu": 0}, ["'H100' with GPU 0", "set its option gpu = 1"]),
        ("H100", {"compute_capability": "7.5"}, ["'H100' with compute capability 7.5"]),
        (None, {"gpu": 7, "compute_capability": "8.6"}, ["GPU 7", "correct its option gpu"]),
    ],
)
def test_gpu_that_does_not_fit(
    match: str | None, options: dict[str, str | int | float | bool], words: list[str]
) -> None:
    with pytest.raises(UnavailableError) as caught:
        choose(device(name="rtx2080ti", match=match, options=options), [TURING, HOPPER])
    said = str(caught.value)
    assert "'rtx2080ti' cannot run here" in said
    assert all(word in said for word in words), said


def test_no_gpu_to_choose_from() -> None:
    with pytest.raises(UnavailableError, match="this machine has no GPU"):
        choose(device(), [])
