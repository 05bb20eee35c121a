"""Performance reports become runs like any other: through the command line, as a person does it."""

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import builders
import msgspec
import pytest
from commands import call, refused
from fakes import perf_reports as reports
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastvit_bench import backends
from fastvit_bench.errors import StoreError, UsageError
from fastvit_bench.exporting import metadata as export_metadata
from fastvit_bench.importers import apple_products, store_imported, xcode, xcode_report
from fastvit_bench.records import (
    Artifact,
    CallPattern,
    Device,
    ExportJob,
    ExternalModel,
    Fuse,
    Measurement,
    ModelSpec,
    Unit,
    Window,
)
from fastvit_bench.render import row_table
from fastvit_bench.render.rows import collect
from fastvit_bench.store import runs
from fastvit_bench.sweep import plan as sweep_plan

IPHONE = Device(name="iphone12pro", backend="coreml", precision="fp16", match="iPhone13,3")
CONFIG = """
[model.fastvit_t8]
variant = "fastvit_t8"
published = "FastViT-T8"
[model.mine]
variant = "fastvit_t12"
[device.cpu]
backend = "onnxruntime"
[device.iphone12pro]
backend = "coreml"
precision = "fp16"
match = "iPhone13,3"
options = { location = "connected", input = "tensor", team = "ABCDE12345" }
[device.mac]
backend = "coreml"
[sweep]
models = ["fastvit_t8"]
grid = [256]
[download]
base = "http://127.0.0.1:9"
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with a configuration; it is entered."""
    (tmp_path / "benchmark.toml").write_text(CONFIG, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def job(size: int = 256, **changes: Any) -> ExportJob:
    """What `export --target coreml` asks for."""
    usual = {
        "backend": "coreml",
        "precision": "fp16",
        "shape": builders.shape(size),
        "weights": builders.CHECKPOINT,
        "toolchain": {"coremltools": "9.0", "torch": "2.9.0"},
        "options": {"attention": "standard", "compress": "none", "input": "image"},
        "path": f"models/fastvit_t8/fastvit_t8_{size}.mlpackage",
    }
    return builders.export_job(**(usual | changes))


def adopt(found: dict[str, Any], profile: Device | None = None, specs: tuple[ModelSpec, ...] = ()) -> Measurement:
    """The one measurement of an adopted report."""
    report = xcode_report.read(reports.write(Path("adopted.json"), found))
    read = xcode.from_xcode(report, profile, Path("models"))
    path, new = store_imported.store_imported_run(read, {spec.name: spec for spec in specs}, Path("results"))
    assert new
    (measurement,) = runs.read(path).measurements
    return measurement


# --- as a person does it ----------------------------------------------------------------------------------------------


def test_a_report_becomes_a_run_and_a_table(here: Path) -> None:
    reports.write(Path("t8.mlperf"), reports.of(job()))
    done = call("import", "t8.mlperf", "--device", "iphone12pro", "-v")
    (path,) = runs.all_runs(Path("results"))
    assert done.stderr == f"results: {path}\n"
    assert path.parent.name == "iphone12pro"
    for fact in (
        "fastvit_t8",
        "@1a2b3c4d",
        "1.200",
        "median of 3 x 39 runs after the first of each round, which is kept apart, "
        "the file loaded again for each round",
        "coreml, compute_units all",
        "iPhone 12 Pro; iOS 18.7 (22H123); 2026-06-21",
        "FastViT-T8@256",
        "Known from its report only, not proved here: fastvit_t8 256",
        "Planned by the toolkit, not measured",
    ):
        assert fact in " ".join(done.stdout.split()), fact
    assert call("table", "last", "-v").stdout == done.stdout
    assert "ABCDE12345" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("format_", ["markdown", "csv", "json", "latex"])
def test_every_format_is_printed(here: Path, format_: str) -> None:
    reports.write(Path("a.json"), reports.report())
    done = call("import", "a.json", "--format", format_)
    assert "convnet" in done.stdout
    assert done.stdout == call("table", "--format", format_).stdout


def test_several_sizes_imported_one_by_one_share_a_row(here: Path) -> None:
    for size in (256, 384):
        reports.write(Path(f"{size}.json"), reports.of(job(size), deviceResults=reports.results(size / 100)))
        call("import", f"{size}.json", "--device", "iphone12pro")
    (row,) = csv.DictReader(io.StringIO(call("table", "-f", "csv").stdout))
    assert float(row["latency_256_ms"]) == pytest.approx(2.56, rel=0.01)
    assert float(row["latency_384_ms"]) == pytest.approx(3.84, rel=0.01)
    assert float(row["first_load_256_ms"]) == 300
    assert float(row["later_loads_256_ms"]) == 20
    assert float(row["compile_256_ms"]) == pytest.approx(73.4)
    assert float(row["first_run_256_ms"]) == 9
    assert float(row["planned_neural_engine_384"]) == 0.6
    assert float(row["planned_neural_engine_cost_384"]) == pytest.approx(0.95)
    assert row["proved"] == "False"


def test_a_report_imported_again_is_shown_again(here: Path) -> None:
    reports.write(Path("a.mlperf"), reports.report())
    first = call("import", "a.mlperf")
    shutil.copytree("a.mlperf", "copy.mlperf")
    again = call("import", "copy.mlperf")
    (path,) = runs.all_runs(Path("results"))
    assert again.stdout == first.stdout
    assert again.stderr == f"imported before: {path}\n"
    assert len(runs.read(path).lines) == 2


def test_a_report_is_of_one_device_only(here: Path) -> None:
    reports.write(Path("a.mlperf"), reports.report())
    call("import", "a.mlperf")
    (path,) = runs.all_runs(Path("results"))
    said = refused("import", "a.mlperf", "--device", "iphone12pro")
    assert f"This report is run {path.stem} already, and its device was 'iphone-12-pro' then; remove {path}" in said
    assert "to import it with 'iphone12pro'" in said
    assert runs.all_runs(Path("results")) == [path]


def test_an_import_that_was_cut_off_is_completed(here: Path) -> None:
    reports.write(Path("a.mlperf"), reports.report())
    call("import", "a.mlperf")
    (path,) = runs.all_runs(Path("results"))
    whole = path.read_bytes()
    header = whole.index(b"\n") + 1
    for kept in (header, header + 100):
        path.write_bytes(whole[:kept])
        assert call("import", "a.mlperf").stderr == f"results: {path}\n"
        assert path.read_bytes() == whole


def test_the_wrong_device_is_exit_6_with_the_way_out(here: Path) -> None:
    reports.write(Path("a.mlperf"), reports.report(deviceInfo=reports.device(modelName="iPhone 12 Pro Max")))
    said = refused("import", "a.mlperf", "--device", "iphone12pro", expect=6)
    assert "The report is of iPhone 12 Pro Max (iOS 18.7 (22H123))" in said
    assert "device 'iphone12pro' is meant for 'iPhone13,3', that is iPhone 12 Pro" in said
    assert 'leave --device out, or declare a [device.*] with match = "iPhone 12 Pro Max".' in said
    assert "runs onnxruntime" in refused("import", "a.mlperf", "--device", "cpu")
    assert "Did you mean 'iphone12pro'?" in refused("import", "a.mlperf", "--device", "iphone12")
    assert not Path("results").exists()


def test_what_is_no_report_is_exit_2_and_no_run(here: Path) -> None:
    assert "There is no report absent.mlperf" in refused("import", "absent.mlperf")
    assert "cut off or not JSON" in refused("import", "benchmark.toml")
    reports.write(Path("new.json"), reports.report(jsonVersion=2))
    assert "has jsonVersion 2" in refused("import", "new.json")
    reports.write(Path("sim.json"), reports.report(deviceInfo=reports.device(modelName="iPhone 15 Simulator")))
    assert "was made on a simulator" in refused("import", "sim.json")
    assert not Path("results").exists()


def test_nothing_that_names_a_person_reaches_the_run_file(here: Path) -> None:
    reports.write(Path("a.mlperf"), reports.report())
    reports.write(Path("b.mlperf"), reports.of(job(), deviceResults=reports.results(2.0)))
    done = [call("import", name, "-f", "json").stdout for name in ("a.mlperf", "b.mlperf")]
    kept = "".join(path.read_text(encoding="utf-8") for path in runs.all_runs(Path("results"))) + "".join(done)
    assert len(runs.all_runs(Path("results"))) == 2
    for word in ("MARKER", "/Users/", "file:"):
        assert word not in kept


def test_imports_and_sweeps_stand_in_one_table(zoo: Path) -> None:
    call("latency", "--model", "m00", "--threads", "1")
    reports.write(Path("a.mlperf"), reports.report())
    call("import", "a.mlperf")
    shown = json.loads(call("table", "-f", "json").stdout)
    assert sorted(row["model"] for row in shown) == ["convnet_256", "m00"]
    assert "convnet_256" in call("table").stdout


# --- what a run holds -------------------------------------------------------------------------------------------------


def test_a_run_of_a_report_is_complete(here: Path) -> None:
    found = adopt(reports.of(job()), IPHONE, (builders.spec(),))
    assert found.window is Window.PREDICTION
    assert found.pacing is CallPattern.BACK_TO_BACK
    assert (found.method.warmup, found.method.runs, found.method.rounds) == (1, 39, 3)
    assert found.method.loading == "per-round"
    assert [len(samples) for samples in found.samples_ns] == [39, 39, 39]
    assert found.cold_ns == (9_000_000, 500_000, 500_000)
    assert found.figure_ms == pytest.approx(1.2, rel=0.005)
    assert (found.machine.host, found.machine.processor, found.machine.cores) == ("", "iPhone 12 Pro", None)
    assert found.device.options == {"compute_units": "all"}
    assert found.placement is not None
    assert found.placement.counts[Unit.NEURAL_ENGINE] == 3
    (path,) = runs.all_runs(Path("results"))
    run = runs.read(path).runs[0]
    assert path.stem.startswith("20260621-235510-")
    assert run.cells == (sweep_plan.cell_of(found),)
    assert run.request.device == found.device
    assert run.request.shapes == (found.shape,)
    assert run.request.models == (builders.spec(),)
    assert run.request.fused is Fuse.FOLDED


def test_a_file_of_ours_is_known_from_its_own_metadata(here: Path) -> None:
    asked = job(384, weights=builders.RANDOM, options={"attention": "conv", "compress": "palette6", "input": "tensor"})
    made = adopt(reports.of(asked), IPHONE).artifact
    assert isinstance(made, Artifact)
    assert (made.variant, made.weights, made.options, made.shape) == (
        "fastvit_t8", builders.RANDOM, asked.options, asked.shape
    )  # fmt: skip
    assert made.key == asked.key
    assert (made.params, made.macs, made.size_bytes) == (3_996_040, 691_200_000, 1_234_567)
    assert made.parity is None
    assert made.sha256 is None


def test_its_side_car_brings_the_proof(here: Path) -> None:
    asked = job()
    noted = builders.artifact(
        backend="coreml",
        precision="fp16",
        toolchain=asked.toolchain,
        options=asked.options,
        path=Path(asked.path).name,
    )
    assert noted.key == asked.key
    notes = export_metadata.metadata_path(Path(asked.path))
    notes.parent.mkdir(parents=True)
    notes.write_bytes(msgspec.json.encode(noted))
    assert adopt(reports.of(asked), IPHONE).artifact == noted


def test_a_configured_model_is_the_same_network_or_not_that_model(here: Path) -> None:
    """A name is not enough: another variant of that name has no right to its published figures."""
    other = ModelSpec(name="fastvit_t8", variant="fastvit_t12", published="FastViT-T12")
    adopt(reports.of(job()), IPHONE, (other,))
    (path,) = runs.all_runs(Path("results"))
    assert runs.read(path).runs[0].request.models == (ModelSpec(name="fastvit_t8", variant="fastvit_t8"),)


def test_a_model_of_others_is_called_so(here: Path) -> None:
    made = adopt(reports.report()).artifact
    assert isinstance(made, ExternalModel)
    assert (made.model, made.backend, made.shape) == ("convnet_256", "coreml", builders.shape(256))
    assert made.inputs == {"image": "Image (Color 256 × 256)"}
    (path,) = runs.all_runs(Path("results"))
    run = runs.read(path).runs[0]
    assert (run.request.models, run.cells, run.request.shapes) == ((), (), (builders.shape(256),))


def test_without_a_device_it_is_named_after_the_product(here: Path) -> None:
    info = reports.device(modelName="iPad Air 11-inch (M2)")
    device = adopt(reports.report(deviceInfo=info, computeUnit=3)).device
    assert device == Device(
        name="ipad-air-11-inch-m2",
        backend="coreml",
        precision="Mixed (Float16, Int32)",
        match="iPad Air 11-inch (M2)",
        options={"compute_units": "cpu-and-ne"},
    )
    assert adopt(reports.report(deviceInfo=reports.device(modelName="電話"))).device.name == "device"


def test_metadata_that_lies_is_refused(here: Path) -> None:
    honest = reports.of(job(256))
    with pytest.raises(UsageError, match="fastvit_t8 at 256, and it takes 384; its metadata is not its own"):
        adopt(honest | {"modelMetadata": taking(honest, 384)})
    with pytest.raises(UsageError, match="metadata is not what fastvit-bench writes"):
        adopt(reports.report(modelMetadata=reports.model(metadata={
            "fastvit_bench.key": "x", "fastvit_bench.model": "y", "fastvit_bench.variant": "z"
        })))  # fmt: skip
    assert not list(Path("results").rglob("*.jsonl"))


def taking(document: dict[str, Any], size: int) -> dict[str, Any]:
    """The metadata of a model that takes images of another size than it says of itself."""
    (compiled,) = json.loads(document["modelMetadata"]["rawMetadata"])
    compiled["inputSchema"] = [reports.image(size, size)]
    return document["modelMetadata"] | {"rawMetadata": json.dumps([compiled])}


def test_one_function_of_a_file_of_several_sizes(here: Path) -> None:
    asked = job(256, functions=(builders.shape(256), builders.shape(384)))
    plan = reports.program([], r384=reports.operations())
    made = adopt(reports.of(asked, deviceResults=reports.results(structure=plan)), IPHONE).artifact
    assert isinstance(made, Artifact)
    assert made.shape == builders.shape(384)
    assert made.functions == asked.functions
    assert made.macs == pytest.approx(691_200_000 * 384**2 / 256**2, rel=0.02)
    other = reports.program([], r512=reports.operations())
    with pytest.raises(UsageError, match="function 'r512', and the model it names has r256, r384"):
        adopt(reports.of(asked, deviceResults=reports.results(2.0, structure=other)), IPHONE)


@pytest.mark.slow
def test_an_exported_package_is_recognised_with_its_proof(here: Path) -> None:
    """With a real package, whose metadata Core ML's compiler carries into every report."""
    exported = Path(call("export", "-t", "coreml", "-m", "fastvit_t8", "--res", "32").stdout.strip())
    metadata = backends.get("coreml").metadata(exported)
    document = reports.report(modelMetadata=reports.model((reports.image(32, 32),), metadata))
    reports.write(Path("t8.mlperf"), document)
    call("import", "t8.mlperf", "--device", "iphone12pro")
    (path,) = runs.all_runs(Path("results"))
    noted = msgspec.json.decode(export_metadata.metadata_path(exported).read_bytes(), type=Artifact)
    assert runs.read(path).measurements[0].artifact == noted
    assert noted.parity is not None
    assert noted.parity.passed
    export_metadata.metadata_path(exported).unlink()
    path.unlink()
    call("import", "t8.mlperf", "--device", "iphone12pro")
    made = runs.read(path).measurements[0].artifact
    assert isinstance(made, Artifact)
    assert made.parity is None
    assert made.key == noted.key
    assert (made.params, made.macs) == (noted.params, noted.macs)


OURS = reports.of(job(), deviceResults=reports.results(rounds=2, count=3, loads=2))
COMPILED = json.loads(OURS["modelMetadata"]["rawMetadata"])[0]
WORDS = COMPILED["userDefinedMetadata"]


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(WORDS)),
    value=st.none() | st.text(max_size=8) | st.sampled_from(["0", "-1", "{}", "[]", '{"a": 1}', "256x384", "9" * 400]),
    milliseconds=st.floats(0.1, 100),
)
def test_no_change_of_a_file_s_own_words_is_more_than_refused(
    here: Path, name: str, value: str | None, milliseconds: float
) -> None:
    words = {key: text for key, text in WORDS.items() if key != name} | ({} if value is None else {name: value})
    document = OURS | {
        "modelMetadata": OURS["modelMetadata"]
        | {"rawMetadata": json.dumps([COMPILED | {"userDefinedMetadata": words}])},
        "deviceResults": reports.results(milliseconds, rounds=2, count=3, loads=2),
    }
    report = xcode_report.read(reports.write(Path("changed.json"), document))
    try:
        path, _ = store_imported.store_imported_run(
            xcode.from_xcode(report, IPHONE, Path("models")), {}, Path("results")
        )
    except UsageError as error:
        assert str(error).endswith(".")  # noqa: PT017
    else:
        rows = collect([runs.read(path)])
        assert all(format_(rows) for format_ in row_table.FORMATS.values())


# --- names of products ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "name", "fits"),
    [
        ("iPhone13,3", "iPhone 12 Pro", True),
        ("iphone13,3", "iPhone 12 Pro", True),
        ("iPhone13,3", "iPhone 12 Pro Max", False),
        ("iPhone13,3", "iPhone 13", False),
        ("iPhone10,4", "iPhone 8", True),
        ("iPhone 12 Pro", "iPhone 12 Pro", True),
        ("iPhone 12 Pro", "iPhone 12 Pro Max", False),
        ("iPad", "iPad Air 11-inch (M2)", True),
        ("iPad Air 11-inch M2", "iPad Air (11-inch) (M2)", True),
        ("iPhone99,1", "iPhone 12 Pro", False),
        ("MacBook Pro", "MacBook Pro (14-inch, 2021)", True),
    ],
)
def test_a_match_is_a_product_type_or_a_text(match: str, name: str, fits: bool) -> None:
    assert apple_products.fits(match, name) is fits


def test_names_of_products() -> None:
    assert apple_products.name_of("iPhone13,3") == "iPhone 12 Pro"
    assert apple_products.name_of("RTX 2080 Ti") == "RTX 2080 Ti"
    for product, name in apple_products.MARKETING.items():
        family, _, rest = product.partition(",")
        assert family.rstrip("0123456789") == name.split()[0]
        assert rest.isdecimal()


def test_a_device_that_cannot_be_a_folder_is_refused(here: Path) -> None:
    with pytest.raises(StoreError, match="cannot be a folder"):
        adopt(reports.report(deviceInfo=reports.device(modelName="published")))
