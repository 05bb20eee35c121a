"""What is compared with what: words, files, folders, stored runs; and everything that must not be compared."""

import shutil
from pathlib import Path

import builders
import hypothesis.strategies as st
import msgspec
import onnx
import pytest
from conftest import export_job
from hypothesis import given

from fastvit_bench import backends, config, options
from fastvit_bench.comparing import inputs
from fastvit_bench.comparing.inputs import Candidate, Unavailable
from fastvit_bench.errors import ChecksumError, FastViTBenchError, NotComparableError, StoreError, UsageError
from fastvit_bench.exporting import metadata
from fastvit_bench.measuring import machine as machines
from fastvit_bench.records import Device, Fuse, Measurement, Shape
from fastvit_bench.records.comparison import NoBaseline, Outcome
from fastvit_bench.store import runs

CPU = Device(name="cpu", backend="onnxruntime", options={"threads": 2})


def entry(label: str = "base", device: Device = CPU, **changes: object) -> Candidate:
    return Candidate(label, builders.artifact(**changes), Path("x.onnx"), device)


# --- words ------------------------------------------------------------------------------------------------------------


def test_a_word_is_a_name_and_settings() -> None:
    assert inputs.parse_spec("fastvit_t8") == inputs.ParsedSpec("fastvit_t8", {})
    assert inputs.parse_spec("a/b.onnx, threads=1 ,fuse = none").settings == {"threads": "1", "fuse": "none"}


@pytest.mark.parametrize("text", ["", ",threads=1", "t8,threads", "t8,=1", "t8,threads=", "t8,threads=1,threads=2"])
def test_a_word_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        inputs.parse_spec(text)


@given(st.text(alphabet="ab,= /.", max_size=20))
def test_any_word_is_read_or_refused(text: str) -> None:
    try:
        found = inputs.parse_spec(text)
    except UsageError:
        return
    assert found.name
    assert all(found.settings.values())


def test_settings_of_a_word_are_options_of_its_device() -> None:
    assert inputs.with_options(CPU, {"threads": "1"}).options == {"threads": 1}
    for wrong in ({"threads": "many"}, {"spin": "1"}):
        with pytest.raises(UsageError):
            inputs.with_options(CPU, wrong)


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(exported: Path, tmp_path: Path) -> Path:
    """A folder with one proved export in it."""
    shutil.copytree(Path(export_job(exported).path).parent, tmp_path / "kept")
    return tmp_path / "kept"


def test_an_onnx_file_of_others_is_a_model(tmp_path: Path, folder: Path) -> None:
    """One of this tool's own without its side-car is not: it has lost its proof."""
    settings, device = options.load(None), CPU
    graph = onnx.helper.make_graph([], "theirs", [], [])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    onnx.save(model, tmp_path / "theirs.onnx")
    asked = inputs.parse_input(str(tmp_path / "theirs.onnx"), "a", settings, device)
    assert (asked.path, [spec.variant for spec in asked.specs]) == (None, ["onnx"])
    (exported,) = folder.rglob("*.onnx")
    moved = Path(shutil.copy(exported, tmp_path / "moved.onnx"))
    for path in (exported, moved):
        assert inputs.parse_input(str(path), "a", settings, device).path == path


def test_a_side_in_int8_names_its_calibration_images() -> None:
    settings = config.load(None, backends=backends.implemented())
    device = msgspec.structs.replace(CPU, calibration="usual", calibration_images=64)
    asked = [
        inputs.parse_input(text, "a", settings, device).device
        for text in (
            "fastvit_t8,precision=int8",
            "fastvit_t8,precision=int8,calibration=own",
            "fastvit_t8,precision=int8,calibration_images=32,calibration=own,threads=1",
        )
    ]
    assert [(each.precision, each.calibration, each.calibration_images) for each in asked] == [
        ("int8", "usual", 64),
        ("int8", "own", 64),
        ("int8", "own", 32),
    ]
    assert asked[2].options["threads"] == 1


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ("calibration=own", "for activations of 8 bits; set precision=int8 or w8a8"),
        ("precision=fp16,calibration_images=4", "for activations of 8 bits"),
        ("precision=int8,calibration_images=0", "a whole number from 1 to 1000000"),
        ("precision=int8,calibration_images=4.5", "a whole number"),
        ("precision=int8,calibration_images=²", "a whole number"),
        ("precision=int8,calibration_images=9999999", "a whole number"),
    ],
)
def test_calibration_images_that_mean_nothing_are_refused(settings: str, said: str) -> None:
    configured = config.load(None, backends=backends.implemented())
    with pytest.raises(UsageError, match=said):
        inputs.parse_input(f"fastvit_t8,{settings}", "a", configured, CPU)


def test_a_folder_of_exports_is_ready_to_run(folder: Path) -> None:
    (found,) = inputs.load_exported(folder, CPU, "base")
    assert found.artifact.model == "fastvit_t8"
    assert found.device.options == {"threads": 2}
    assert found.path.is_file()
    (again,) = inputs.load_exported(found.path, CPU, "base")
    assert again == found


def test_what_lies_in_hidden_folders_is_not_meant(folder: Path) -> None:
    shutil.copytree(folder, folder / ".old")
    assert len(inputs.load_exported(folder, CPU, "base")) == 1


def test_an_empty_folder_is_nothing_to_compare(tmp_path: Path) -> None:
    with pytest.raises(NotComparableError, match="nothing to compare"):
        inputs.load_exported(tmp_path, CPU, "base")


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def test_a_damaged_baseline_is_one_sentence_each(folder: Path) -> None:
    (file,) = folder.glob("*.onnx")
    whole, notes = file.read_bytes(), metadata.metadata_path(file).read_bytes()
    _cut(file)
    with pytest.raises(ChecksumError, match="export it again"):
        inputs.load_exported(folder, CPU, "base")
    file.unlink()
    with pytest.raises(UsageError, match="is not there"):
        inputs.load_exported(folder, CPU, "base")
    file.write_bytes(whole)
    _cut(metadata.metadata_path(file))
    with pytest.raises(UsageError, match="cannot be read"):
        inputs.load_exported(folder, CPU, "base")
    metadata.metadata_path(file).unlink()
    with pytest.raises(UsageError, match="beside it"):
        inputs.load_exported(file, CPU, "base")
    metadata.metadata_path(file).write_bytes(notes)
    assert inputs.load_exported(folder, CPU, "base")


@pytest.mark.parametrize("name", ["nowhere", "other.mlpackage"])
def test_a_path_that_is_not_there_or_of_another_toolkit(tmp_path: Path, name: str) -> None:
    if name.endswith("mlpackage"):
        (tmp_path / name).mkdir()
    with pytest.raises(UsageError):
        inputs.load_exported(tmp_path / name, CPU, "base")


# --- pairs ------------------------------------------------------------------------------------------------------------


def test_the_gate_pairs_by_model_and_shape_and_misses_nothing() -> None:
    base = [entry(), entry(model="fastvit_s12")]
    head = [entry("head"), Unavailable("fastvit_sa12 256 b1", "its export failed", "export")]
    pairs = {pair.name: pair for pair in inputs.by_name(base, head)}
    assert set(pairs) == {"fastvit_t8 256 b1", "fastvit_s12 256 b1", "fastvit_sa12 256 b1"}
    assert isinstance(pairs["fastvit_s12 256 b1"].head, Unavailable)
    assert isinstance(pairs["fastvit_sa12 256 b1"].base, Unavailable)


def test_a_cell_that_was_asked_for_and_both_sides_lack_is_a_cell() -> None:
    pairs = {pair.name: pair for pair in inputs.by_name([entry()], [entry("head")], ["fastvit_t8 64 b1"])}
    lacking = pairs["fastvit_t8 64 b1"]
    assert isinstance(lacking.base, Unavailable)
    assert isinstance(lacking.head, Unavailable)
    assert lacking.base.outcome is Outcome.INCOMPARABLE


def test_only_a_model_that_the_base_lacks_altogether_has_no_baseline() -> None:
    head = [entry("head"), entry("head", model="fastvit_s12")]
    base = [entry(), Unavailable("fastvit_sa12 256 b1", "its export failed", "export")]
    pairs = {pair.name: pair for pair in inputs.apply_no_baseline(inputs.by_name(base, head), NoBaseline.FAIL)}
    new = pairs["fastvit_s12 256 b1"].base
    assert isinstance(new, Unavailable)
    assert new.outcome is Outcome.NO_BASELINE
    assert new.reason == (
        "the baseline has no model 'fastvit_s12' yet, so there is nothing to compare with; "
        "--no-baseline pass lets the first gate pass"
    )
    failed = pairs["fastvit_sa12 256 b1"].base
    assert isinstance(failed, Unavailable)
    assert failed.outcome is Outcome.INCOMPARABLE
    assert failed.reason == "its export failed"


def test_a_new_model_that_this_tree_cannot_make_is_no_first_gate() -> None:
    broken = Unavailable("fastvit_s12 256 b1", "it computes something else", "parity")
    new = Unavailable("fastvit_s12 256 b1", "main has no model 'fastvit_s12' yet", outcome=Outcome.NO_BASELINE)
    (pair,) = inputs.apply_no_baseline(inputs.by_name([new], [broken]), NoBaseline.PASS)
    assert pair.base == pair.head == broken


def test_an_empty_set_of_cells_is_nothing_to_compare() -> None:
    with pytest.raises(NotComparableError):
        inputs.by_name([], [])


def test_two_artifacts_of_one_cell_are_ambiguous() -> None:
    with pytest.raises(NotComparableError, match="two artifacts"):
        inputs.by_name([entry(), entry(precision="fp16")], [entry("head")])


def test_compare_pairs_by_shape_whatever_the_models_are() -> None:
    base = [entry(shape=builders.shape(224)), entry()]
    head = [entry("head", model="fastvit_s12"), entry("head", model="fastvit_s12", shape=builders.shape(224))]
    found = inputs.by_shape(base, head)
    assert [pair.name for pair in found] == ["fastvit_t8 / fastvit_s12 224 b1", "fastvit_t8 / fastvit_s12 256 b1"]
    with pytest.raises(NotComparableError, match="no counterpart"):
        inputs.by_shape(base[:1], head)
    with pytest.raises(NotComparableError, match="several files for one shape"):
        inputs.by_shape(base, [*head, entry("head", model="fastvit_s12", fused=Fuse.NONE)])


@pytest.mark.parametrize(
    ("changes", "device", "said"),
    [
        ({"precision": "fp16"}, CPU, "precision: fp32 there, fp16 here"),
        ({"shape": Shape(batch=1, height=224, width=256)}, CPU, "shape"),
        ({"backend": "coreml"}, CPU, "toolkit"),
        ({}, msgspec.structs.replace(CPU, options={"threads": 1}), "threads: 2 there, 1 here"),
        ({}, msgspec.structs.replace(CPU, name="other"), "device: cpu there, other here"),
    ],
)
def test_what_a_gate_must_not_compare_is_named(changes: dict[str, object], device: Device, said: str) -> None:
    apart = inputs.incompatibilities(entry(), entry("head", device, **changes))
    assert any(said in each for each in apart)
    assert inputs.incompatibilities(entry(), entry("head")) == []
    assert inputs.allow_any(entry(), entry("head", device, **changes)) == []


# --- runs of another day ----------------------------------------------------------------------------------------------


def stored_run(root: Path, *found: Measurement, **changes: object) -> Path:
    run = builders.run(machine=machines.collect(), **changes)
    path = runs.create(root, run)
    for each in found:
        runs.append(path, each)
    return path


def here(**changes: object) -> Measurement:
    return builders.measurement(**({"machine": machines.collect(), "device": CPU} | changes))


def test_a_stored_run_gives_its_last_figures_and_names_what_it_lacks(tmp_path: Path) -> None:
    first, last = here(samples_ns=((9_000_000,) * 100,)), here(samples_ns=((8_000_000,) * 100,))
    path = stored_run(tmp_path, first, last)
    found = inputs.stored_baseline(path, CPU, machines.collect())
    measured = [each for each in found if isinstance(each, Measurement)]
    assert [each.median_ms for each in measured] == [8.0]
    assert [each.name for each in found if isinstance(each, Unavailable)] == ["fastvit_t8 224 b1"]


def test_another_machine_is_refused_with_each_key_and_both_values(tmp_path: Path) -> None:
    other = msgspec.structs.replace(machines.collect(), processor="Example 9000", cores=96)
    path = stored_run(tmp_path, here(machine=other))
    with pytest.raises(NotComparableError) as error:
        inputs.stored_baseline(path, CPU, machines.collect())
    assert "processor: Example 9000 then" in str(error.value)
    assert "processors: 96 then" in str(error.value)


def test_a_clock_reading_is_no_reason_to_refuse(tmp_path: Path) -> None:
    state = builders.MachineState(clock_mhz_before=800.0, clock_mhz_after=4800.0)
    path = stored_run(tmp_path, here(state=state))
    assert isinstance(inputs.stored_baseline(path, CPU, machines.collect())[0], Measurement)


def test_a_run_cut_in_half_or_empty_is_never_a_baseline(tmp_path: Path) -> None:
    path = stored_run(tmp_path, here())
    text = path.read_bytes()
    path.write_bytes(text[: text.index(b"\n") + 200])  # the measurement is torn off
    with pytest.raises(NotComparableError, match="no finished figure"):
        inputs.stored_baseline(path, CPU, machines.collect())
    path.write_bytes(text[:100])
    with pytest.raises(StoreError):
        inputs.stored_baseline(path, CPU, machines.collect())
    # a sample that is no number
    path.write_bytes(text.replace(b'"samples_ns":[[', b'"samples_ns":[[NaN,'))
    with pytest.raises(StoreError):
        inputs.stored_baseline(path, CPU, machines.collect())


def test_another_device_is_refused(tmp_path: Path) -> None:
    path = stored_run(tmp_path, here(device=msgspec.structs.replace(CPU, name="phone")))
    with pytest.raises(NotComparableError, match="device: phone then, cpu now"):
        inputs.stored_baseline(path, CPU, machines.collect())


def test_a_python_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FastViTBenchError, match="no Python"):
        inputs.python_command(str(tmp_path / "python"))
