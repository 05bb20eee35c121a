"""What a backend runs on is what it declares: the versions beside its figures, and those that a gate refuses."""

import sys
from pathlib import Path

import builders
import pytest

from fastvit_bench import backends
from fastvit_bench.comparing import inputs
from fastvit_bench.errors import ExitCode, NotComparableError
from fastvit_bench.measuring import jobs, machine, timing, worker
from fastvit_bench.records import Device
from fastvit_bench.store import runs
from fastvit_bench.sweep import preflight

TOYKIT = """
from fastvit_bench.backends import onnxruntime


class Toykit(onnxruntime.OnnxRuntime):
    name, target, suffix = "toykit", "toykit", ".toy.onnx"

    def runtime_packages(self, device):
        return ("toykit-runtime", "toykit-extras")


BACKEND = Toykit()
"""


def install(folder: Path, version: str) -> None:
    """What pip would leave of a package that nothing else knows."""
    metadata = folder / f"toykit_runtime-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: toykit-runtime\nVersion: {version}\n", encoding="utf-8")


@pytest.fixture
def toykit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Device:
    """A device of a backend that this version does not have, whose file is found like any other's."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "toykit.py").write_text(TOYKIT, encoding="utf-8")
    monkeypatch.setattr(backends, "__path__", [*backends.__path__, str(tmp_path / "code")])
    monkeypatch.delitem(sys.modules, "fastvit_bench.backends.toykit", raising=False)
    install(tmp_path / "old", "1.0")
    monkeypatch.syspath_prepend(str(tmp_path / "old"))
    return Device(name="toy", backend="toykit", options={"threads": 1})


def test_a_new_backend_s_package_is_recorded_and_another_version_refused(
    toykit: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device, then = preflight.preflight(toykit)
    assert then.packages.keys() == {"toykit-runtime", "numpy"}
    assert then.packages["toykit-runtime"] == "1.0"
    path = runs.create(tmp_path / "results", builders.run(request=builders.request(device=device), machine=then))
    runs.append(path, builders.measurement(device=device, machine=then))
    assert inputs.stored_baseline(path, device, then)
    monkeypatch.delitem(sys.path_importer_cache, str(tmp_path / "old"), raising=False)
    install(tmp_path / "new", "2.0")
    monkeypatch.syspath_prepend(str(tmp_path / "new"))
    _, now = preflight.preflight(toykit)
    with pytest.raises(NotComparableError, match=r"\(toykit-runtime: 1\.0 then, 2\.0 now\)") as refused:
        inputs.stored_baseline(path, device, now)
    assert refused.value.exit_code is ExitCode.NOT_COMPARABLE


def test_packages_of_other_backends_do_not_stand_beside_a_figure() -> None:
    packages = machine.collect(device=Device(name="cpu", backend="onnxruntime")).packages
    assert packages.keys() == {"onnxruntime", "numpy"}
    assert machine.collect().packages == {}


def test_runs_of_before_are_compared_by_the_packages_that_count(tmp_path: Path) -> None:
    """Those runs had the versions of every backend that was installed."""
    device = Device(name="cpu", backend="onnxruntime", options={"threads": 1})
    now = machine.collect(device=device)
    before = builders.msgspec.structs.replace(now, packages={**now.packages, "torch": "1.0", "coremltools": "1.0"})
    path = runs.create(tmp_path, builders.run(request=builders.request(device=device), machine=before))
    runs.append(path, builders.measurement(device=device, machine=before))
    assert inputs.stored_baseline(path, device, now)
    assert backends.narrowed(before, device) == now
    unknown = Device(name="cpu", backend="of-another-version")
    assert backends.narrowed(before, unknown) == before


def test_the_options_of_a_device_decide_what_runs_it() -> None:
    def packages(backend: str, **options: str) -> tuple[str, ...]:
        found = backends.figure_packages(Device(name="x", backend=backend, options=dict(options)))
        assert found is not None
        return found

    assert "pycuda" in packages("tensorrt", cuda_binding="pycuda")
    assert "cuda-bindings" in packages("tensorrt")
    assert "tensorrt" in packages("tensorrt")
    assert "tensorrt-rtx" in packages("tensorrt-rtx")
    assert "triton" in packages("pytorch", compile="default")
    assert "triton" not in packages("pytorch")
    assert "cuda-bindings" in packages("onnxruntime", provider="cuda")
    assert "cuda-bindings" not in packages("onnxruntime")
    assert "numpy" not in packages("pytorch")  # no reference workload beside a GPU
    assert {"numpy", "onnxruntime", "onnxruntime-gpu"} <= set(packages("onnxruntime"))


@pytest.mark.slow
def test_a_side_tells_the_versions_of_its_own_process(exported: Path) -> None:
    from conftest import export_job

    from fastvit_bench.exporting import pipeline

    job = export_job(exported)
    made = pipeline.cached(job)
    assert made is not None
    opened = worker.answer(jobs.OpenJob(artifact=made, path=job.path, device=job.device, machine=builders.machine()))
    timing._open_contexts.close()
    assert isinstance(opened, jobs.Opened)
    assert opened.packages == backends.figure_versions(job.device)
