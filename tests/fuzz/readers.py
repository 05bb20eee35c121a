"""Every reader of files and texts that others may write: valid inputs, how they are mutated, and what shows them."""

import hashlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import builders
import msgspec
import numpy as np
import pictures
from conftest import made_shallow
from fakes import perf_reports, trtexec_times
from mutations import check_refusal

from fastvit_bench import backends, config, options
from fastvit_bench.accuracy import class_map, classes, dataset, embeddings, labels, preprocessing
from fastvit_bench.backends import Images, _sidecars
from fastvit_bench.backends._nvidia import engines
from fastvit_bench.backends._onnx import external, limits, traffic
from fastvit_bench.backends._onnx import model as onnx_model
from fastvit_bench.comparing import calibrate, chart, formats
from fastvit_bench.comparing import terminal as comparison_table
from fastvit_bench.comparing.formats import github
from fastvit_bench.errors import FastViTBenchError, NotComparableError, UnavailableError, UsageError
from fastvit_bench.exporting import metadata, preparation, verification
from fastvit_bench.history import series as history_series
from fastvit_bench.history import table as histories
from fastvit_bench.importers import trtexec, xcode, xcode_report
from fastvit_bench.importers import trtexec_times as times_reader
from fastvit_bench.network import checkpoint, registry, reparam
from fastvit_bench.network.cost import Cost
from fastvit_bench.paper import claims, claims_table, study_chart, study_frontier, study_table
from fastvit_bench.records import (
    Artifact,
    ClassNumbering,
    Engine,
    GpuIdentity,
    Head,
    LabelledImage,
    Measurement,
    Preprocessing,
    TimingCache,
    Unreadable,
)
from fastvit_bench.records.comparison import BaselineKind, Outcome, Plan
from fastvit_bench.records.unfinished import SCHEMA, BlockLine, ComparisonStart
from fastvit_bench.render import accuracies, charts, frontiers, joined, listing, row_table, rows, terminal
from fastvit_bench.render.charts import LIGHT
from fastvit_bench.render.page import compose
from fastvit_bench.roofline import points
from fastvit_bench.store import documents, runs, speeds, unfinished
from fuzz import mutants, packages
from fuzz.mutants import Mutate

STORED = Path(__file__).parent.parent / "data" / "version-0.1.0"
SHAPE = builders.shape(32)
TIMES = b"times of kernels"


@dataclass(frozen=True)
class Reader:
    """A reader: the name of its file, valid contents of it, their mutation, and a function that reads and shows it."""

    file: str
    valid: Callable[[], Sequence[bytes]]
    mutate: Mutate
    look: Callable[[Path, bool], object]  # of the file, and whether to draw it too
    weight: float = 1.0  # number of mutants in proportion to the others'


# --- what is shown ----------------------------------------------------------------------------------------------------


def check_text(text: str | bytes) -> None:
    """Assert that a text for people has nothing that a terminal obeys, and can be written."""
    text = text.decode() if isinstance(text, bytes) else text
    assert all(line.isprintable() for line in text.split("\n")), next(
        line for line in text.split("\n") if not line.isprintable()
    )
    text.encode()


def check_json(text: str | bytes) -> None:
    """Assert that a text is JSON, without the numbers that JSON lacks."""
    json.loads(text, parse_constant=lambda name: (_ for _ in ()).throw(AssertionError(name)))


def check_formats(written: Iterable[tuple[str, str | bytes]]) -> None:
    """Assert that texts are what the names of their formats say."""
    for name, text in written:
        if name == "junit":
            ElementTree.fromstring(text)
        elif name in {"json", "bmf", "gha", "pytest-benchmark"}:
            check_json(text)
        else:
            check_text(text)


def print_out(renderable: Any, width: int = 200) -> None:
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=width).print(renderable)
    check_text(out.getvalue())


def show_rows(paths: Sequence[Path], draw: bool) -> None:
    """What `table`, `history`, `report` and `accuracy` show of runs."""
    shown, counted, notes = rows.read(paths)
    for note in notes:
        check_text(note)
    reference = shown[0].model if shown else None
    accurate = frontiers.counted(counted)
    try:
        extras = joined.join(shown, reference=reference, pareto=True, accuracies=accurate)
    except NotComparableError:  # no other model was measured as the first one was
        reference, extras = None, joined.join(shown, pareto=True, accuracies=accurate)
    print_out(row_table.rich(shown, 100, extras))
    check_formats((name, write(shown, extras)) for name, write in row_table.FORMATS.items())
    if shown:
        check_text(row_table.REPORTS["markdown"](row_table.compact(row_table.report(shown, extras))))
    if counted:
        print_out(accuracies.rich(counted, 100))
        check_formats((name, write(counted)) for name, write in accuracies.FORMATS.items())
    files = [runs.read(path) for path in paths]
    series = [history_series.search(entry) for entry in history_series.collect(files)]
    check_text(row_table.REPORTS["markdown"](histories.report(series)))
    check_formats((name, write(series)) for name, write in histories.FORMATS.items())
    if draw and shown:
        compose.html(shown, [], title="t", footer="f", reference=reference, accuracies=accurate)


def show_measurement(measurement: Measurement) -> None:
    """What an import stores and shows."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "run.jsonl")
        run = builders.run(request=builders.request(device=measurement.device))
        path.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in (run, measurement)))
        show_rows([path], draw=False)


def show_comparison(path: Path, draw: bool) -> None:
    comparison = formats.read(path)
    print_out(comparison_table.rich(comparison, 200))
    check_text(formats.sentence(comparison))
    chart.comparison(comparison, LIGHT)
    pictured = {"svg", "png"}
    check_formats((name, kind.writer(comparison)) for name, kind in formats.FORMATS.items() if name not in pictured)
    for line in github.annotations(comparison, {"GITHUB_ACTIONS": "true"}):
        assert len(line.splitlines()) == 1
        check_text(line)
    summary, outputs = path.with_name("summary"), path.with_name("outputs")
    github.tell(comparison, {"GITHUB_STEP_SUMMARY": str(summary), "GITHUB_OUTPUT": str(outputs)})
    check_text(summary.read_bytes())
    for file in (summary, outputs):
        file.unlink()
    assert documents._decoded(path, formats.FORMATS["json"].writer(comparison), documents.COMPARISON) == comparison
    if draw:
        charts.picture(chart.comparison(comparison, LIGHT), "svg")
        compose.html([], [comparison], title="t", footer="f")


def show_study(path: Path, draw: bool) -> None:
    result = study_table.read(path)
    measured = study_table.measured(result, result.id)
    judged = claims.judged(claims.load(), measured)
    print_out(study_table.rich(result, [], 200))
    figure = study_chart.figure(result, LIGHT)
    frontier = study_frontier.figure(result, LIGHT)
    check_formats((name, write(result, [])) for name, write in study_table.FORMATS.items())
    print_out(claims_table.rich(judged, 200))
    print_out(claims_table.details(judged))
    check_text(claims_table.markdown_details(judged))
    check_formats((name, write(judged)) for name, write in claims_table.FORMATS.items())
    if draw:
        for drawn in (figure, frontier):
            if drawn is not None:
                charts.picture(drawn, "svg")
        compose.html([], [], studies=[result], title="t", footer="f")


def show_calibration(path: Path, draw: bool) -> None:
    calibration = documents.read(path, documents.CALIBRATION)
    print_out(terminal.report(calibrate.report(calibration), 100))
    check_text(calibrate.sentence(calibration))


def show_peaks(path: Path, draw: bool) -> None:
    from fastvit_bench.roofline import chart as roofline_chart

    peaks = documents.read(path, documents.PEAKS)
    measured = [row for row in rows.collect([runs.read(STORED / "latency.jsonl")]) if row.measured]
    placed = points.collect(measured, peaks, {})
    for write in row_table.REPORTS.values():
        check_text(write(points.report(placed, peaks)))
    check_formats((name, write(placed, peaks)) for name, write in points.FORMATS.items())
    for peak in points.used(placed, peaks):
        roofline_chart._rates([peak], [], roofline_chart._intensities([peak], [])[0])


def show_speeds(path: Path, draw: bool) -> None:
    for machine in (builders.machine(), runs.read(STORED / "latency.jsonl").runs[0].machine):
        known = speeds.load(path.parent, machine)
        assert known.factors is None or known.factors[0] > 0
        assert known.scatter is None or known.scatter > 0
    speeds.add(path.parent, builders.machine(), [5])
    speeds.add_scatter(path.parent, builders.machine(), [1.0, 2.0])
    assert speeds.load(path.parent, builders.machine()).best_ns


def show_blocks(path: Path, draw: bool) -> None:
    from fastvit_bench.comparing import journal

    earlier = unfinished.reopen(path)
    cells = {line.cell for line in earlier.blocks}
    results = tuple(
        builders.cell_result(name, Outcome.INCONCLUSIVE, None, blocks=tuple(own))
        for name in cells
        if (own := [line.block for line in earlier.blocks if line.cell == name and line.block])
    )
    print_out(comparison_table.rich(builders.comparison(*results, plan=earlier.start.plan), 200))
    for line in earlier.blocks:
        for side in filter(None, (line.base, line.head)):
            check_text(listing.content(side.artifact))
        if line.block:
            assert abs(line.block.log_ratio) < 100
    msgspec.json.encode(earlier.blocks)
    plan, machine, device = builders.comparison().plan, builders.machine(), builders.device()
    with suppress(NotComparableError):  # where it was begun elsewhere, or with other sides
        journal.resume(earlier, machine=machine, plan=plan, pairs=[], device=device, warn=check_text)


# --- files of networks ------------------------------------------------------------------------------------------------


def show_artifact(artifact: Artifact) -> None:
    check_text(listing.content(artifact))
    if artifact.parity is not None:
        check_text(listing.proof(metadata.printable(artifact.model), artifact.parity))
    assert artifact.key.isprintable()
    show_measurement(builders.measurement(artifact=artifact, device=builders.device(batch=artifact.shape.batch)))


def show_artifact_of(path: Path, draw: bool) -> None:
    show_artifact(metadata.read_artifact(path.with_suffix("")))


def show_engine(path: Path, draw: bool) -> None:
    known = _sidecars.read(path, Engine)
    target = engines.EngineTarget("tensorrt", "10.16.1", GpuIdentity(compute_capability="7.5", name="RTX"))
    engines.misplaced(known, target)
    show_measurement(builders.measurement(engine=known))


def show_timings(path: Path, draw: bool) -> None:
    path.with_suffix("").write_bytes(TIMES)
    target = engines.EngineTarget("tensorrt", "10.16.1", GpuIdentity(compute_capability="7.5", name="RTX"))
    engines.timings(path.with_suffix(""), target)


def show_onnx(path: Path, draw: bool) -> None:
    backend = backends.get("onnxruntime")
    model = onnx_model.read(path)
    limits.require_bounded(model, path.name)
    assert all(block == "" or block.isprintable() for block in map(onnx_model.block_of, onnx_model.operations(path)))
    for read in (
        lambda: onnx_model.shape_of(path),
        lambda: backend.metadata(path),
        lambda: metadata.asked_for(path, backend),
        lambda: show_described(path),
        lambda: msgspec.json.encode(traffic.count(path, SHAPE)),
        lambda: external.data_files(path),
        lambda: external.classes(external.normalize_external_onnx(path, SHAPE)),
        lambda: rounded(model),
        lambda: onnx_model.require_strongly_typed(model, path.name),
    ):
        try:
            read()
        except FastViTBenchError as error:  # which is no reason for the others to fail
            check_refusal(error)


def rounded(model: Any) -> None:
    with suppress(UnavailableError):  # a part of the sentence that a session is refused with
        onnx_model.rounding(model)


def show_described(path: Path) -> None:
    backend = backends.of_file(path)
    described = metadata.recognise(backend.metadata(path), backend.name, path.parent)
    if described is not None:
        show_artifact(described)


def show_package(path: Path, draw: bool) -> None:
    """What is read of a package whose model, weights or manifest `path` is."""
    from fastvit_bench.backends.coreml import evaluate, program

    package = next(folder for folder in path.parents if folder.suffix == ".mlpackage")
    backend = backends.get("coreml")
    read = program.read(package)
    check_text(f"{program.histogram(read.functions[read.default])}")
    backend.operations(package)
    program.specification(package)
    show_described(package)
    for name in read.functions:
        evaluate.Evaluator(read, name)
    metadata.asked_for(package, backend)


def show_program(path: Path, draw: bool) -> None:
    backend = backends.get("pytorch")
    show_described(path)
    assert all(backend.operations(path).values())
    metadata.asked_for(path, backend)


def show_checkpoint(path: Path, draw: bool) -> None:
    loaded = checkpoint.load(path)
    check_text(loaded.summary)


def show_reference(path: Path, draw: bool) -> None:
    known = verification.load(path)
    check_text(known.reference)
    assert all(np.isfinite(values).all() for batch in known.outputs for values in batch.values())
    verification.save(known, io.BytesIO())


# --- settings and texts -----------------------------------------------------------------------------------------------


def show_settings(path: Path, draw: bool) -> None:
    """What every command does first with a configuration, whose names become parts of paths."""
    settings = options.load(path)
    for device in settings.devices.values():
        assert Path(device.name).name == device.name
        with suppress(UsageError):
            options.resolve_device(device)
    specs = settings.select([])
    for spec in (*settings.models.values(), *specs):
        assert spec.name.isprintable()
    with suppress(UsageError):
        options.sweep_shapes(settings, None, specs, 1)
    with suppress(UsageError):
        options.gate_selection(settings, [], None, 1)
    options.comparison_plan(settings, None, None, None, 0)
    settings.machine_name()
    msgspec.json.encode(settings)


def show_sizes(path: Path, draw: bool) -> None:
    text = path.read_bytes().decode(errors="surrogateescape")
    assert all(0 < min(size) <= max(size) <= registry.LARGEST_SIDE for size in config.sizes(text, (224, 256, 1024)))


def show_seconds(path: Path, draw: bool) -> None:
    assert 0 <= config.seconds(path.read_bytes().decode(errors="surrogateescape"), zero=True) <= config.LONGEST_S


def show_share(path: Path, draw: bool) -> None:
    assert 0 <= config.share(path.read_bytes().decode(errors="surrogateescape"), zero=True) <= 1


def show_labels(path: Path, draw: bool) -> None:
    folder = path.parent / "images"
    if not folder.exists():
        for name in ("a.jpg", "b c.jpg", "c/d,e.png"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(b"x")
    assert all(label.text for label in labels.read(path))
    images = classes.number(dataset.collect(folder, path), ClassNumbering(), 1000, "fastvit_t8")
    assert all(0 <= picture.label < 1000 for picture in images.pictures)
    msgspec.json.encode(images.pictures)


def show_class_embeddings(path: Path, draw: bool) -> None:
    embedded = embeddings.read(path)
    assert embedded.rows.shape == (embedded.record.classes, embedded.record.width)
    assert np.allclose(np.linalg.norm(embedded.rows, axis=1), 1)


def show_class_map(path: Path, draw: bool) -> None:
    numbers = class_map.read(path, ["cat"])
    assert len(set(numbers.values())) == len(numbers)
    assert "cat" in numbers


def show_classes(path: Path, draw: bool) -> None:
    assert all(options.class_names(path))


def show_preparation(path: Path, draw: bool) -> None:
    resolved = preparation.resolve(builders.spec(checkpoint=str(path.parent / "w.safetensors")))
    check_text(resolved.aside)
    assert 0 < resolved.preparation.crop <= 1
    assert all(0 < value <= 1 for value in resolved.preparation.std)


def show_record(path: Path, draw: bool) -> None:
    digest = checkpoint.recorded_sha256(path.with_suffix(""))
    assert digest is not None
    assert len(digest) == 64


def show_image(path: Path, draw: bool) -> None:
    for form in Images:
        (image,) = preprocessing.decoded(
            path.parent,
            [LabelledImage(name=path.name, size_bytes=1, label=0)],
            Preprocessing(resolution=32, crop=0.9),
            form,
            workers=1,
            ahead=1,
        )
        if isinstance(image.image, Unreadable):
            check_text(image.image.reason)
            assert len(image.image.reason) < 200
        else:
            assert np.isfinite(image.image).all()


# --- imports ----------------------------------------------------------------------------------------------------------


def show_report(path: Path, draw: bool) -> None:
    report = xcode_report.read(path)
    show_measurement(xcode.from_xcode(report, None, path.parent).measurement)


def show_times(path: Path, draw: bool) -> None:
    os.utime(path, (1e9, 1e9))
    times = times_reader.read(path)
    facts = trtexec.TrtexecFacts(
        made=trtexec.timed_model("net", SHAPE, "fp16"), version="10.16", gpu="RTX", driver=None, graph=None, spin=None
    )
    measurement = trtexec.from_trtexec(times, facts, None).measurement
    check_text(trtexec.assumptions(times, measurement))
    show_measurement(measurement)


# --- valid inputs -----------------------------------------------------------------------------------------------------


def stored(*names: str) -> Callable[[], list[bytes]]:
    return lambda: [(STORED / name).read_bytes() for name in names]


def lines(*records: Any) -> bytes:
    return b"".join(msgspec.json.encode(record) + b"\n" for record in records)


def run_files() -> list[bytes]:
    probed = builders.measurement(
        layers=(builders.layer("stages.0.blocks.0/conv", "stages.0.blocks.0", 5000),),
        engine=builders.engine(),
    )
    other = builders.artifact(model="fastvit_t12", traffic=builders.traffic())
    return [
        *stored("latency.jsonl", "accuracy.jsonl")(),
        lines(
            builders.run(),
            builders.measurement(),
            builders.measurement(artifact=other, samples_ns=(builders.samples(12.0),)),
            builders.measurement(artifact=builders.artifact(shape=builders.shape(384))),
            probed,
            builders.failure(),
        ),
        lines(builders.run(), builders.reported(), builders.reported(artifact=builders.foreign())),
        *(
            [
                lines(
                    *(
                        builders.run(id=builders.run().id),
                        *(builders.measurement(finished=builders.at(5 * at)) for at in range(6)),
                    )
                )
            ]
        ),
    ]


def comparisons() -> list[bytes]:
    cells = (
        builders.cell_result(),
        builders.cell_result("fastvit_t8 384 b1", Outcome.REGRESSED, 1.2),
        builders.cell_result("fastvit_t12 256 b1", Outcome.INCOMPARABLE, None),
    )
    known = (
        builders.comparison(cells[0]),
        builders.comparison(*cells, warnings=("a warning",)),
        builders.comparison(*cells[:2], kind=BaselineKind.STORED),
    )
    return [*stored("comparison.json")(), *(formats.FORMATS["json"].writer(comparison) for comparison in known)]


def calibrations() -> list[bytes]:
    return stored("calibration.json")()


def peak_files() -> list[bytes]:
    return [*stored("peak.json")(), documents.encoded((builders.peak(), builders.peak(100.0)))]


def speed_files() -> list[bytes]:
    known = {
        speeds._key(builders.machine()): speeds.Speeds(times_ns=tuple(range(100, 120)), variances=(1e-5,) * 9),
        "another": speeds.Speeds(),
    }
    return [*stored("machine-speeds.json")(), msgspec.json.encode(known)]


def block_files() -> list[bytes]:
    start = ComparisonStart(
        schema=SCHEMA,
        id=builders.run().id,
        started=builders.at(0),
        tool="0.1.0",
        options=None,
        machine=builders.machine(),
        plan=Plan(),
        sides={"fastvit_t8 256 b1": ("ab", "cd")},
    )
    cell = "fastvit_t8 256 b1"
    blocks = (
        BlockLine(cell=cell, seconds=5.0, block=builders.block(), base=builders.side(), head=builders.side(), runs=10),
        BlockLine(cell=cell, seconds=5.0, block=builders.block(2), reference_ns=(5, 6)),
        BlockLine(cell=cell, seconds=5.0, block=None, failed="it broke", stage="timing"),
    )
    return [lines(start, *blocks), lines(msgspec.structs.replace(start, sides={}), *blocks[:2])]


def artifacts() -> list[bytes]:
    proved = builders.artifact(proofs={"main": builders.parity()}, operations={"Conv": 3}, traffic=builders.traffic())
    return [msgspec.json.encode(artifact) for artifact in (builders.artifact(), proved)]


def engine_files() -> list[bytes]:
    return [msgspec.json.encode(builders.engine(parity=builders.parity()))]


def timing_files() -> list[bytes]:
    known = TimingCache(
        toolkit="tensorrt",
        version="10.16.1",
        platform=engines.EngineTarget("", "", GpuIdentity(compute_capability="7.5")).system,
        card=GpuIdentity(compute_capability="7.5", name="RTX"),
        sha256=hashlib.sha256(TIMES).hexdigest(),
    )
    return [msgspec.json.encode(known)]


def own_entries(**changes: Any) -> dict[str, str]:
    return metadata.metadata_entries(builders.export_job(shape=SHAPE, **changes), Cost(params=1000, macs=2000))


def networks() -> list[bytes]:
    """A classifier of open sizes, one of float16 with this tool's metadata, and one with a local function."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    def network(kind: Any, dims: Sequence[Any], entries: dict[str, str], **more: Any) -> bytes:
        weights = {"w": (2, 3, 3, 3), "g": (2, 5), "c": (5,)}
        draw = np.random.default_rng(0)
        tensors = [
            numpy_helper.from_array(draw.standard_normal(size).astype(helper.tensor_dtype_to_np_dtype(kind)), name)
            for name, size in weights.items()
        ]
        activation = helper.make_node("F" if more else "Relu", ["a"], ["b"], domain="local" if more else "")
        nodes = [
            helper.make_node("Conv", ["x", "w"], ["a"], name="/stages.0/blocks.0/Conv", strides=[2, 2], pads=[1] * 4),
            activation,
            helper.make_node("GlobalAveragePool", ["b"], ["p"]),
            helper.make_node("Flatten", ["p"], ["f"]),
            helper.make_node("Gemm", ["f", "g", "c"], ["y"]),
        ]
        image = helper.make_tensor_value_info("x", kind, dims)
        logits = helper.make_tensor_value_info("y", kind, [dims[0], 5])
        graph = helper.make_graph(nodes, "g", [image], [logits], tensors)
        opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=8, **more)
        onnx.helper.set_model_props(model, entries)
        return model.SerializeToString()

    relu = helper.make_node("Relu", ["x"], ["y"])
    function = helper.make_function("local", "F", ["x"], ["y"], [relu], [helper.make_opsetid("", 17)])
    return [
        network(TensorProto.FLOAT, ("N", 3, "H", "W"), {}),
        network(TensorProto.FLOAT16, SHAPE.nchw, own_entries(precision="fp16")),
        network(TensorProto.FLOAT, SHAPE.nchw, own_entries(), functions=[function]),
    ]


def write_package(path: Path) -> None:
    """Write a small Core ML package that says of itself that this tool wrote it."""
    packages.write(path, own_entries(backend="coreml", precision="fp16"))


def in_package(part: str) -> Callable[[], list[bytes]]:
    def read() -> list[bytes]:
        with tempfile.TemporaryDirectory() as folder:
            write_package(Path(folder, "net.mlpackage"))
            return [Path(folder, "net.mlpackage", part).read_bytes()]

    return read


def programs() -> list[bytes]:
    """An archive as `torch.export.save` writes it, as far as it is read without running it."""
    nodes = [{"target": "torch.ops.aten.conv2d.default"}, {"target": "torch.ops.aten.relu.default"}]
    entries = {
        "a/models/model.json": json.dumps({"graph_module": {"graph": {"nodes": nodes}}}),
        "a/extra/fastvit_bench.json": json.dumps(own_entries(backend="pytorch", precision="fp16")),
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, text in entries.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return [file.getvalue()]


def weights_of(*endings: str) -> Callable[[], list[bytes]]:
    def read() -> list[bytes]:
        import torch

        with made_shallow(), tempfile.TemporaryDirectory() as folder:
            network, weights = checkpoint.randomised("fastvit_t8", Head.CLASSIFIER, 2, 0)
            fused = reparam.fuse(network)
            contents: list[bytes] = []
            for ending in endings:
                path = Path(folder, f"w{ending}")
                if ending == ".old":
                    torch.save({"state_dict": fused.state_dict()}, path, _use_new_zipfile_serialization=False)
                else:
                    checkpoint.save(fused, path, source=weights)
                contents.append(path.read_bytes())
            return contents

    return read


def reference_files() -> list[bytes]:
    draw = np.random.default_rng(0)
    outputs = tuple({"logits": draw.standard_normal((1, 5)).astype(np.float32)} for _ in range(4))
    file = io.BytesIO()
    known = verification.ReferenceOutputs(Images.TENSOR, SHAPE, Head.CLASSIFIER, "a network", outputs)
    verification.save(known, file)
    return [file.getvalue()]


def settings_files() -> list[bytes]:
    text = (Path(config.__file__).parent.parent / "benchmark.toml").read_text(encoding="utf-8")
    head, _, studies = text.partition("[study.")
    first, *_, last = studies.split("[study.")
    tail = last[last.index("# ---") :]
    return [f"{head}[study.{first}{tail}".encode()]


def image_files() -> list[bytes]:
    contents: list[bytes] = []
    for format_, mode in (
        ("JPEG", "RGB"),
        ("PNG", "P"),
        ("PPM", "RGB"),
        ("BMP", "RGB"),
        ("TIFF", "RGB"),
        ("WEBP", "RGB"),
        ("PNG", "RGBA"),
        ("JPEG", "CMYK"),
    ):
        file = io.BytesIO()
        pictures.image(1, 40, 36).convert(mode).save(file, format_)
        contents.append(file.getvalue())
    return contents


def report_files() -> list[bytes]:
    own = perf_reports.of(builders.export_job(backend="coreml", precision="fp16", path="a.mlpackage"))
    return [json.dumps(report).encode() for report in (perf_reports.report(), own)]


def preparations() -> list[bytes]:
    values = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "interpolation": "bicubic", "crop_pct": 0.9}
    documents = [
        {"architecture": "fastvit_t8", "pretrained_cfg": {"crop_mode": "squash", **values}},
        {"architecture": "fastvit_t12.mine", **values},
    ]
    return [json.dumps(document).encode() for document in documents]


def times_files() -> list[bytes]:
    queries = trtexec_times.queries([1.5, 1.4, 1.6, 1.5])
    return [trtexec_times.text(queries).encode(), trtexec_times.text(trtexec_times.before(queries)).encode()]


def embedding_arrays() -> list[bytes]:
    values = np.random.default_rng(0).standard_normal((3, 4))
    contents = []
    for kind in (np.float16, np.float64):
        stream = io.BytesIO()
        np.save(stream, values.astype(kind))
        contents.append(stream.getvalue())
    return contents


def embedding_archives() -> list[bytes]:
    stream = io.BytesIO()
    np.savez(stream, text=np.random.default_rng(0).standard_normal((3, 4)), names=np.array(["ant", "bee", "cat"]))
    return [stream.getvalue()]


def texts(*values: str) -> Callable[[], list[bytes]]:
    return lambda: [value.encode() for value in values]


LABELS = ("a.jpg 0\nb c.jpg 1\nc/d,e.png 2\n", 'name,label\na.jpg,0\nb c.jpg,1\n"c/d,e.png",2\n')
DATA = "net.mlpackage/Data/com.apple.CoreML"
DIGEST = "ab" * 32
SIZES = ("224..1024:160", "256,384x512", "224..1024")

READERS: dict[str, Reader] = {
    "runs": Reader("run.jsonl", run_files, mutants.of_json_lines, lambda path, draw: show_rows([path], draw), weight=2),
    "comparisons": Reader("comparison.json", comparisons, mutants.of_json, show_comparison, weight=2),
    "studies": Reader("study.json", stored("study.json"), mutants.of_json, show_study),
    "calibrations": Reader("calibration.json", calibrations, mutants.of_json, show_calibration),
    "peaks": Reader("peak.json", peak_files, mutants.of_json, show_peaks),
    "speeds": Reader(speeds.FILE_NAME, speed_files, mutants.of_json, show_speeds),
    "blocks": Reader("gate-x.blocks", block_files, mutants.of_json_lines, show_blocks),
    "side-cars": Reader("x.onnx.json", artifacts, mutants.of_json, show_artifact_of),
    "engines": Reader("x.engine.json", engine_files, mutants.of_json, show_engine),
    "timing-caches": Reader("x.timing.json", timing_files, mutants.of_json, show_timings),
    "onnx": Reader("theirs.onnx", networks, mutants.of_protobuf, show_onnx, weight=2),
    "package-manifests": Reader(
        "net.mlpackage/Manifest.json", in_package("Manifest.json"), mutants.of_json, show_package
    ),
    "package-models": Reader(
        f"{DATA}/model.mlmodel", in_package("Data/com.apple.CoreML/model.mlmodel"), mutants.of_protobuf, show_package
    ),
    "package-weights": Reader(
        f"{DATA}/weights/weight.bin",
        in_package("Data/com.apple.CoreML/weights/weight.bin"),
        mutants.of_bytes,
        show_package,
        weight=0.3,
    ),
    "programs": Reader("net.pt2", programs, mutants.of_archive, show_program),
    "safetensors": Reader("w.safetensors", weights_of(".safetensors"), mutants.of_safetensors, show_checkpoint),
    "torch-archives": Reader("w.pth.tar", weights_of(".pth.tar"), mutants.of_archive, show_checkpoint),
    "torch-pickles": Reader("w.pth", weights_of(".old"), mutants.of_bytes, show_checkpoint),
    "reference-outputs": Reader("x.onnx.expected.npz", reference_files, mutants.of_archive, show_reference),
    "settings": Reader("benchmark.toml", settings_files, mutants.of_toml, show_settings, weight=2),
    "preparations": Reader("config.json", preparations, mutants.of_json, show_preparation),
    "sizes": Reader("res.txt", texts(*SIZES), mutants.of_text, show_sizes),
    "seconds": Reader("max-time.txt", texts("90", "20m", "1.5h", "0"), mutants.of_text, show_seconds),
    "shares": Reader("share.txt", texts("5%", "0.05", "2.5 %"), mutants.of_text, show_share),
    "labels": Reader("labels.csv", texts(*LABELS), mutants.of_text, show_labels),
    "labels-json": Reader(
        "labels.json", texts('{"a.jpg": 0, "b c.jpg": 1, "c/d,e.png": 2}'), mutants.of_json, show_labels
    ),
    "class-embeddings": Reader("text.npy", embedding_arrays, mutants.of_bytes, show_class_embeddings),
    "class-embeddings-named": Reader("text.npz", embedding_archives, mutants.of_archive, show_class_embeddings),
    "class-map": Reader("map.txt", texts("dog\ncat\n", "0 cat\n1 dog\n"), mutants.of_text, show_class_map),
    "class-map-json": Reader(
        "map.json",
        texts('["cat"]', '{"0": ["n02123045", "cat"]}', '{"label2id": {"cat": 1}}'),
        mutants.of_json,
        show_class_map,
    ),
    "class-names": Reader("classes.txt", texts("cat\ndog\nowl\n"), mutants.of_text, show_classes),
    "hashes": Reader(
        "w.pth.sha256", texts(f"{DIGEST}  w.pth\n", f"{DIGEST} *x\n{DIGEST} *w.pth\n"), mutants.of_text, show_record
    ),
    "images": Reader("c/a.jpg", image_files, mutants.of_bytes, show_image, weight=2),
    "xcode-reports": Reader("report.json", report_files, mutants.of_json, show_report),
    "trtexec-times": Reader("times.json", times_files, mutants.of_json, show_times),
}
