"""Xcode's performance reports: what is kept, what is dropped, and what is said to one that cannot be used."""

import copy
import json
import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fakes import perf_reports as reports
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import check_refusal, mutated

from fastvit_bench.errors import FastViTBenchError, StoreError, UsageError
from fastvit_bench.importers import xcode_report
from fastvit_bench.records import Shape, Unit


def read(folder: Path, found: object) -> xcode_report.XcodeReport:
    return xcode_report.read(reports.write(folder / "a.mlperf", found))


def refused(folder: Path, found: object) -> str:
    """The one sentence an unusable report gives."""
    with pytest.raises(UsageError) as caught:
        read(folder, found)
    sentence = str(caught.value)
    assert caught.value.exit_code == 2
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert str(folder / "a.mlperf") in sentence
    return sentence


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_what_a_report_says_is_kept_in_units_of_ours(tmp_path: Path) -> None:
    found = read(tmp_path, reports.report())
    assert (found.model, found.kind, found.size_bytes) == ("convnet_256", "ML Program", 1_234_567)
    assert (found.product, found.os) == ("iPhone 12 Pro", "iOS 18.7 (22H123)")
    assert found.compute_units == "all"
    assert found.precision == "Mixed (Float16, Int32)"
    assert found.inputs == {"image": "Image (Color 256 × 256)"}
    assert found.shape == Shape(batch=1, height=256, width=256)
    assert found.operations["Ios16.conv"] == 2
    assert found.metadata == {"com.github.apple.coremltools.version": "9.0"}
    assert (found.started, found.finished) == ("2026-06-21T23:55:10+00:00", "2026-06-21T23:55:11+00:00")
    assert [len(samples) for samples in found.predict_ns] == [40, 40, 40]
    assert [samples[0] for samples in found.predict_ns] == [9_000_000, 500_000, 500_000]
    assert found.load_ns[:4] == (300_000_000, 20_000_000, 20_000_000, 190_000_000)
    assert found.compile_ns == (73_400_000, 73_900_000, 72_200_000)


def test_the_plan_is_kept_in_program_order_and_constants_are_left_out(tmp_path: Path) -> None:
    plan = read(tmp_path, reports.report()).placement
    assert plan is not None
    assert [(each.kind, each.output, each.unit, each.cost) for each in plan.operations] == [
        ("ios16.conv", "conv_cast_fp16", Unit.NEURAL_ENGINE, 0.7),
        ("ios16.gelu", "gelu_cast_fp16", Unit.NEURAL_ENGINE, 0.2),
        ("ios16.add", "add_cast_fp16", Unit.GPU, None),
        ("split", "split_0", Unit.NEURAL_ENGINE, 0.05),
        ("ios16.cast", "cast_fp32", Unit.CPU, 0.05),
    ]
    assert plan.operations[0].supported == (Unit.NEURAL_ENGINE, Unit.GPU, Unit.CPU)
    assert plan.operations[3].supported == (Unit.GPU, Unit.CPU)  # from the states, where nothing else is given
    assert plan.switches == 3
    assert plan.shares[Unit.NEURAL_ENGINE] == 3 / 5
    assert plan.ops_off_neural_engine == {"ios16.add": 1, "ios16.cast": 1}


@pytest.mark.parametrize(
    ("inputs", "shape"),
    [
        ((reports.image(384, 512),), Shape(batch=1, height=384, width=512)),
        ((reports.tensor("[8, 3, 256, 384]"),), Shape(batch=8, height=256, width=384)),
        ((reports.tensor("[1, 224, 224, 3]"),), Shape(batch=1, height=224, width=224)),
        ((reports.tensor("[1, 96, 1, 32]", "spikes"),), None),
        ((reports.tensor("[1, 512]", "tokens"),), None),
        ((reports.tensor("[]"),), None),
        ((reports.image(0, 256),), None),
        ((reports.image(), reports.tensor("[1, 2]", "threshold")), None),
        ((), None),
        (({"name": "x", "type": "Sequence"},), None),
    ],
)
def test_only_an_image_input_gives_a_size(tmp_path: Path, inputs: tuple[Any, ...], shape: Shape | None) -> None:
    assert read(tmp_path, reports.report(modelMetadata=reports.model(inputs))).shape == shape


@pytest.mark.parametrize(("raw", "units"), list(enumerate(["cpu-only", "cpu-and-gpu", "all", "cpu-and-ne"])))
def test_compute_units_by_their_raw_value(tmp_path: Path, raw: int, units: str) -> None:
    assert read(tmp_path, reports.report(computeUnit=raw)).compute_units == units


def test_enums_are_read_in_either_form(tmp_path: Path) -> None:
    """With or without the device around it: ``{"deviceType": {"gpu": {}}}``, ``{"gpu": {}}``, ``"gpu"``."""
    one = reports.operation("ios16.conv", ["x"], "gpu")
    for form in ({"deviceType": {"gpu": {}}}, {"gpu": {}}, {"deviceType": "gpu"}, "gpu"):
        one["deviceUsage"]["preferred"] = form
        plan = read(tmp_path, reports.report(deviceResults=reports.results(structure=reports.program([one])))).placement
        assert plan is not None
        assert plan.operations[0].unit is Unit.GPU


def shuffled(value: Any, order: random.Random) -> Any:
    """The same JSON with its keys in another order."""
    if isinstance(value, dict):
        keys = list(value)
        order.shuffle(keys)
        return {key: shuffled(value[key], order) for key in keys}
    return [shuffled(each, order) for each in value] if isinstance(value, list) else value


def test_the_order_of_keys_means_nothing(tmp_path: Path) -> None:
    first, second = reports.report(), shuffled(reports.report(), random.Random(1))
    assert json.dumps(first) != json.dumps(second)
    assert read(tmp_path, first) == read(tmp_path, second)
    assert read(tmp_path, first).digest == read(tmp_path, second).digest


def test_the_digest_follows_what_was_timed(tmp_path: Path) -> None:
    digest = read(tmp_path, reports.report()).digest
    assert read(tmp_path, reports.report(deviceResults=reports.results(1.3))).digest != digest
    assert read(tmp_path, reports.report(computeUnit=0)).digest != digest
    assert read(tmp_path, reports.report(deviceInfo=reports.device(modelName="iPhone 13"))).digest != digest


def test_folders_of_every_kind_and_the_file_alone(tmp_path: Path) -> None:
    expected = read(tmp_path, reports.report())
    for name in ("new.mlperf", "old.mlperfreport"):
        assert xcode_report.read(reports.write(tmp_path / name, reports.report())) == expected
    assert xcode_report.read(tmp_path / "new.mlperf" / "report.json") == expected
    assert xcode_report.read(reports.write(tmp_path / "sent-by-mail.json", reports.report())) == expected
    (tmp_path / "old.mlperfreport" / "report.json").rename(tmp_path / "old.mlperfreport" / "other.json")
    assert xcode_report.read(tmp_path / "old.mlperfreport") == expected


@pytest.mark.parametrize(
    "changes",
    [
        {"modelStructure": None},
        {"structure": {"neuralNetwork": {"_0": {"layers": []}}}},
        {"structure": reports.program([reports.operation("const", ["x"])])},
        {"structure": {"program": {"_0": {"functions": {}}}}},
        {"structure": reports.program([], r256=reports.operations(), r384=reports.operations())},
    ],
)
def test_without_a_plan_the_times_are_kept(tmp_path: Path, changes: dict[str, Any]) -> None:
    found = read(tmp_path, reports.report(deviceResults=reports.results(**changes)))
    assert found.placement is None
    assert len(found.predict_ns) == 3


def test_the_function_that_was_run_is_the_one_that_is_planned(tmp_path: Path) -> None:
    both = reports.program([], r256=reports.operations(), r384=reports.operations(("cpu",) * 4))
    config = {"loadCount": 3, "experimentIterations": 3, "predictionCount": 40, "functionName": "r384"}
    found = read(tmp_path, reports.report(deviceResults=reports.results(structure=both, perfRunConfig=config)))
    assert found.function == "r384"
    assert found.placement is not None
    assert found.placement.counts[Unit.CPU] == 5
    alone = reports.results(structure=reports.program([], r256=reports.operations()))
    assert read(tmp_path, reports.report(deviceResults=alone)).function == "r256"
    assert read(tmp_path, reports.report()).function is None


def test_a_run_that_ended_early_has_the_rounds_it_says(tmp_path: Path) -> None:
    """Fewer predictions than asked for, as a limit of time leaves them, where the report counts them itself."""
    short = reports.results(count=10)
    short["perfRunConfig"]["predictionCount"] = 40
    found = read(tmp_path, reports.report(deviceResults=short))
    assert [len(samples) for samples in found.predict_ns] == [10, 10, 10]


def test_a_report_needs_no_compilation_and_no_loading(tmp_path: Path) -> None:
    found = read(tmp_path, reports.report(deviceResults=reports.results(load=None, compile=None)))
    assert (found.load_ns, found.compile_ns) == ((), ())


# --- what is dropped --------------------------------------------------------------------------------------------------


def texts(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from (key, *texts(inner))
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from texts(inner)
    elif isinstance(value, str):
        yield value


def test_nothing_that_names_a_person_or_a_folder_is_kept(tmp_path: Path) -> None:
    document = reports.report()
    planted = [text for text in texts(document) if "MARKER" in text or "/Users/" in text]
    assert len(planted) >= 9
    assert document["modelMetadata"]["rawMetadata"].count("MARKER") >= 5
    kept = repr(read(tmp_path, document))
    assert "MARKER" not in kept
    assert "/Users/" not in kept
    assert "file:" not in kept


@pytest.mark.parametrize("sign", ["/Users/MARKER", "file:///MARKER", "C:\\Users\\MARKER", "/home/MARKER"])
def test_folders_are_dropped_wherever_they_turn_up(tmp_path: Path, sign: str) -> None:
    document = reports.report(
        modelMetadata=reports.model((reports.image(name=sign),), fileName=f"{sign}/convnet.mlmodel")
    )
    plan = document["deviceResults"]["modelStructure"]["program"]["_0"]["functions"]["main"]["block"]["operations"]
    plan[1]["outputs"][0]["name"] = plan[1]["operatorName"] = sign
    found = read(tmp_path, document)
    assert "MARKER" not in repr(found)
    assert found.model == "convnet"


@pytest.mark.parametrize(("name", "kept"), [("Somebody's phone", False), ("iPhone", True), ("me", True)])
def test_metadata_that_names_the_device_s_owner_is_dropped(tmp_path: Path, name: str, kept: bool) -> None:
    model = reports.model(metadata={"made.for": f"{name}, with love"})
    document = reports.report(modelMetadata=model, deviceInfo=reports.device(displayName=name))
    assert ("made.for" in read(tmp_path, document).metadata) is kept


@pytest.mark.parametrize(
    "changes",
    [
        {"modelName": "iPhone 15 Simulator"},
        {"deviceType": {"simulator": {}}},
        {"deviceType": {"iOSSimulator": {}}},
        {"identifier": "com.apple.CoreSimulator.SimDeviceType.iPhone-15"},
        {"isSimulator": True},
    ],
)
def test_simulators_are_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    assert "was made on a simulator" in refused(tmp_path, reports.report(deviceInfo=reports.device(**changes)))


def test_a_device_may_be_called_simulator(tmp_path: Path) -> None:
    device = reports.device(displayName="My Simulator", isSimulator=False)
    assert read(tmp_path, reports.report(deviceInfo=device)).product == "iPhone 12 Pro"


# --- what cannot be used ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "value"), [("jsonVersion", 2), ("deviceResultVersion", 5), ("jsonVersion", "1")])
def test_another_version_is_named_with_the_known_one(tmp_path: Path, key: str, value: object) -> None:
    known = xcode_report.KNOWN[key][0]
    said = refused(tmp_path, reports.report(**{key: value}))
    assert f"has {key} {value}, and this version of fastvit-bench reads {known}:" in said


def without(document: dict[str, Any], path: str) -> dict[str, Any]:
    found = copy.deepcopy(document)
    *folders, last = path.split(".")
    inner = found
    for folder in folders:
        inner = inner[folder]
    del inner[last]
    return found


@pytest.mark.parametrize(
    "path",
    [
        "jsonVersion",
        "computeUnit",
        "deviceInfo",
        "deviceInfo.modelName",
        "modelMetadata",
        "modelMetadata.rawMetadata",
        "deviceResults.perfRunConfig",
        "deviceResults.perfRunConfig.experimentIterations",
        "deviceResults.predict",
        "deviceResults.predict.samples",
        "deviceResults.load.samples",
        "deviceResults.compile.startTime",
        "deviceResults.modelStructure.program._0",
        "deviceResults.modelStructure.program._0.functions",
    ],
)
def test_a_missing_key_is_named_with_its_path(tmp_path: Path, path: str) -> None:
    assert f"the key {path} is missing" in refused(tmp_path, without(reports.report(), path))


def changed(**series: Any) -> dict[str, Any]:
    found = reports.results()
    for name, value in series.items():
        target, _, key = name.partition("__")
        found[target][key] = value
    return reports.report(deviceResults=found)


@pytest.mark.parametrize(
    ("document", "sentence"),
    [
        (changed(predict__samples=[0.001] * 119), "holds 119 samples, where 3 rounds of 40 make 120"),
        (changed(predict__samples=[]), "holds 0 samples, where 3 rounds of 40 make 120"),
        (changed(load__samples=[0.001] * 8), "load.samples holds 8 samples, where 3 rounds of 3 make 9"),
        (changed(predict__samples=[0.001] * 60 + [0.0] * 60), "predict.samples[60] is 0 s, which is not a duration"),
        (changed(predict__samples=[-0.001] * 120), "predict.samples[0] is -0.001 s"),
        (changed(compile__samples=[1e300]), "compile.samples[0] is 1e+300 s"),
        (changed(predict__samples=["fast"] * 120), "deviceResults.predict.samples[0]: Expected 'float', got 'str'"),
        (changed(predict__startTime=-5), "predict.startTime is -5, which is not a time"),
        (changed(predict__startTime=1e300), "predict.startTime is 1e+300"),
        (changed(perfRunConfig__experimentIterations=0), "perfRunConfig.experimentIterations: Expected 'int' >= 1"),
        (reports.report(deviceResults=reports.results(rounds=120, count=1)), "is the cold first one of its round"),
        (reports.report(deviceResults=None), "no results of a device, only the model; run the report on a device"),
        (without(reports.report(), "deviceResults"), "holds no results of a device"),
        (reports.report(computeUnit=4), "computeUnit: Expected 'int' <= 3"),
        (reports.report(computeUnit="all"), "computeUnit: Expected 'int', got 'str'"),
        (reports.report(modelMetadata=reports.model(rawMetadata="{")), "modelMetadata.rawMetadata is not JSON"),
        (reports.report(modelMetadata=reports.model(rawMetadata="[]")), "rawMetadata describes 0 models"),
        (
            reports.report(modelMetadata=reports.model(rawMetadata='[{"inputSchema": [{}]}]')),
            "the key modelMetadata.rawMetadata.inputSchema[0].name is missing",
        ),
        (reports.report(deviceInfo=reports.device(modelName="\n")), "deviceInfo.modelName is empty"),
        ([], "it is not a JSON object"),
        ({"title": "something else"}, "the key jsonVersion is missing"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_said(tmp_path: Path, document: object, sentence: str) -> None:
    assert sentence in refused(tmp_path, document)


def test_an_unknown_compute_device_is_said_with_its_place(tmp_path: Path) -> None:
    one = reports.operation("ios16.conv", ["x"], "quantumEngine")
    said = refused(tmp_path, reports.report(deviceResults=reports.results(structure=reports.program([one]))))
    assert "functions.main.block.operations[0].deviceUsage.preferred names no compute device that is known" in said


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "it is cut off or not JSON"),
        (b"\x00\x01bplist", "it is cut off or not JSON"),
        (b'{"jsonVersion": NaN}', "it is cut off or not JSON"),
        (b'{"a": "\xff"}', "it is cut off or not JSON"),
        (b"[" * 100_000, "it is cut off or not JSON"),
    ],
)
def test_files_that_are_no_reports(tmp_path: Path, data: bytes, sentence: str) -> None:
    (tmp_path / "report.json").write_bytes(data)
    with pytest.raises(StoreError, match=sentence):
        xcode_report.read(tmp_path / "report.json")


def test_a_report_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    path = reports.write(tmp_path / "a.json", reports.report())
    whole = path.read_bytes()
    for share in (0.1, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(StoreError, match="cut off or not JSON"):
            xcode_report.read(path)


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"There is no report .*absent\.mlperf; Xcode's Performance tab"):
        xcode_report.read(tmp_path / "absent.mlperf")
    (tmp_path / "empty.mlperf").mkdir()
    with pytest.raises(StoreError, match=r"empty\.mlperf holds no report\.json"):
        xcode_report.read(tmp_path / "empty.mlperf")
    (tmp_path / "empty.mlperf" / "report.json").mkdir()
    with pytest.raises(StoreError):
        xcode_report.read(tmp_path / "empty.mlperf")


@pytest.mark.parametrize("target", ["/dev/zero", "pipe"])
@pytest.mark.parametrize("name", ["a.mlperf", "folder/report.json", "folder/other.json"])
def test_devices_and_pipes_are_not_read(tmp_path: Path, name: str, target: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / name).symlink_to(tmp_path / target)
    for path in {tmp_path / name, (tmp_path / name).parent if "/" in name else tmp_path / name}:
        with pytest.raises(StoreError, match="cannot be read: it is no regular file"):
            xcode_report.read(path)


def test_a_report_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "report.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(StoreError, match="cannot be read: it has 1099511627776 bytes"):
        xcode_report.read(tmp_path / "report.json")


@pytest.mark.parametrize("name", ["x" * 5000, "x\0"])
def test_a_name_that_no_report_has(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError):
        xcode_report.read(tmp_path / name)


@pytest.mark.parametrize("key", ["predict", "load", "compile"])
def test_samples_that_take_millennia_together(tmp_path: Path, key: str) -> None:
    """Their sum is added to a date, and dates end."""
    document = reports.report()
    document["deviceResults"][key]["samples"] = [999_999.0] * 120
    assert f"deviceResults.{key}.samples take 1.2e+08 s together" in refused(tmp_path, document)


@pytest.mark.parametrize("depth", [30, 100, 300, 1000, 5000])
def test_blocks_within_blocks(tmp_path: Path, depth: int) -> None:
    one = json.dumps({"operations": [reports.operation("ios16.conv", ["x"], "gpu")]})
    deep = '{"operations": [{"operatorName": "cond", "blocks": [' * depth + one + "]}]}" * depth
    mark = reports.operation("MARK", [], "gpu")
    document = json.dumps(reports.report(deviceResults=reports.results(structure=reports.program([mark]))))
    head, _, end = document.partition(json.dumps(reports.block([mark])))
    assert end
    (tmp_path / "a.json").write_text(head + deep + end)
    try:
        plan = xcode_report.read(tmp_path / "a.json").placement
    except StoreError as error:
        check_refusal(error)
        assert depth > 30
    else:
        assert plan is not None
        assert len(plan.operations) == 1


def test_a_place_in_a_function_with_an_odd_name(tmp_path: Path) -> None:
    one = reports.operation("ios16.conv", ["x"], "quantumEngine")
    structure = json.loads(json.dumps(reports.program([one])).replace('"main"', json.dumps("\x1b[31m\n" * 5000)))
    sentence = refused(tmp_path, reports.report(deviceResults=reports.results(structure=structure)))
    assert sentence.isprintable()
    assert len(sentence) < 1000


# --- anything at all --------------------------------------------------------------------------------------------------


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every value in a document, and of the model's own metadata inside of it."""
    if path:
        yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*path, key))


SMALL = reports.report(deviceResults=reports.results(rounds=2, count=3, loads=2))
INSIDE = json.loads(SMALL["modelMetadata"]["rawMetadata"])
PLACES = sorted(places(SMALL), key=repr)
PLACES_INSIDE = sorted(places(INSIDE), key=repr)
ANYTHING = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False),
    st.text(max_size=5),
    st.sampled_from([[], {}, [[]], {"_0": {}}, {"cpu": {}}, "1e999", 10**400]),
)


def replaced(document: Any, place: tuple[Any, ...], value: Any, *, delete: bool) -> Any:
    found = copy.deepcopy(document)
    *folders, last = place
    inner = found
    for folder in folders:
        inner = inner[folder]
    if delete:
        del inner[last]
    else:
        inner[last] = value
    return found


@pytest.mark.slow
@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(PLACES), value=ANYTHING, delete=st.booleans())
def test_no_change_of_a_report_is_more_than_refused(
    tmp_path: Path, place: tuple[Any, ...], value: Any, delete: bool
) -> None:
    survives(tmp_path, replaced(SMALL, place, value, delete=delete))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=mutated(json.dumps(SMALL).encode()))
def test_nor_is_one_of_its_bytes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    try:
        xcode_report.read(tmp_path / "a.json")
    except FastViTBenchError as error:
        check_refusal(error)


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(PLACES_INSIDE), value=ANYTHING, delete=st.booleans())
def test_nor_is_one_of_the_metadata_inside(tmp_path: Path, place: tuple[Any, ...], value: Any, delete: bool) -> None:
    inside = json.dumps(replaced(INSIDE, place, value, delete=delete))
    survives(tmp_path, SMALL | {"modelMetadata": SMALL["modelMetadata"] | {"rawMetadata": inside}})


def survives(folder: Path, document: object) -> None:
    """A report is either read, and then can be written, or refused in one sentence."""
    try:
        found = read(folder, document)
    except UsageError:
        refused(folder, document)
    else:
        assert msgspec.json.decode(msgspec.json.encode(found), type=xcode_report.XcodeReport) == found
        assert found.model
        assert found.product
