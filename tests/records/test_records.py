import math
import re
from typing import Any

import builders
import msgspec
import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from fastvit_bench import records
from fastvit_bench.records import (
    METHODS,
    CalibrationImages,
    CallPattern,
    CellError,
    ClassEmbeddings,
    ClassNumbering,
    ClassOrder,
    Device,
    EmbeddingCosines,
    Engine,
    EngineBuilt,
    EngineJob,
    EvaluationJob,
    ExportJob,
    ExportSpec,
    Fuse,
    Fusing,
    GpuIdentity,
    GpuState,
    GraphVariant,
    HalfWeights,
    Head,
    Interval,
    LabelIds,
    LabelledImage,
    LayerTime,
    MachineState,
    Measurement,
    Method,
    MicrobenchmarkJob,
    MicrobenchmarkTimed,
    MicrobenchmarkTimingJob,
    MicrobenchmarkWritten,
    ModelFacts,
    Placement,
    PlannedOperation,
    Preparation,
    Preprocessing,
    Protocol,
    RankedClasses,
    Record,
    ResourceUsage,
    Setting,
    Shape,
    Share,
    SpeedCheck,
    TimingCache,
    TimingJob,
    Unit,
    Unreadable,
    Weights,
    Window,
    by_name,
)
from fastvit_bench.records.measurement import sample_faults
from fastvit_bench.stats.intervals import order_statistic_ranks

# --- what follows from the samples ------------------------------------------------------------------------------------

nanoseconds = st.integers(1_000, 10**12)


@settings(deadline=None)
@given(st.lists(st.lists(nanoseconds, min_size=1, max_size=60), min_size=1, max_size=3))
def test_statistics_agree_with_numpy(rounds: list[list[int]]) -> None:
    found = builders.measurement(samples_ns=tuple(map(tuple, rounds)))
    samples = np.sort(np.concatenate(rounds)) / 1e6
    assert found.samples_ms == pytest.approx(samples.tolist())
    assert found.median_ms == pytest.approx(np.median(samples))
    assert found.mad_ms == pytest.approx(np.median(np.abs(samples - np.median(samples))))
    if len(samples) >= 36:
        assert found.p90_ms == pytest.approx(np.quantile(samples, 0.9))
    else:
        assert found.p90_ms is None
    assert found.p99_ms is None
    ranks = order_statistic_ranks(len(samples), 0.5)
    if ranks is None:
        assert found.interval_ms is None
    else:
        low, high, confidence = ranks
        assert found.interval_ms == Interval(low=samples[low - 1], high=samples[high - 1], confidence=confidence)
        assert found.interval_ms.low <= found.median_ms <= found.interval_ms.high


def test_p99_needs_368_samples() -> None:
    assert builders.measurement(samples_ns=(tuple(range(1, 368)),)).p99_ms is None
    p99 = builders.measurement(samples_ns=(tuple(range(1_000_000, 369_000_000, 1_000_000)),)).p99_ms
    assert p99 == pytest.approx(np.quantile(np.arange(1, 369), 0.99))


def test_latency_per_image_is_the_batch_s_divided() -> None:
    batch = builders.measurement(artifact=builders.artifact(shape=builders.shape(batch=8)))
    assert batch.ms_per_image == pytest.approx(batch.median_ms / 8)


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"samples_ns": (builders.samples(),)}, None),
        ({"samples_ns": ((1_000_000,) * 5,)}, "only 5 runs"),
        ({"samples_ns": (builders.samples(spread=0.6),)}, "median uncertain by"),
        ({"samples_ns": ((1_000_000,) * 50 + (1_200_000,) * 50,)}, r"second half of the runs \+20 %"),
        ({"state": MachineState(steal_percent=12.0)}, "hypervisor took 12 %"),
        ({"state": MachineState(steal_percent=2.0)}, None),
        ({"state": MachineState(quota_periods=3)}, "the CPU quota stopped it 3x"),
        ({"state": MachineState(quota_periods=0)}, None),
        ({"state": MachineState()}, None),
        ({"pacing": CallPattern.REMOTE_CALL}, "over the cable"),
        (
            {"gpu": (GpuState(throttle=("power cap",), power_limit_w=250.0), GpuState())},
            "slowed down .* in 1 of 2 looks",
        ),
        ({"gpu": (GpuState(other_processes=1),)}, "1 other process on the GPU"),
        ({"samples_ns": (builders.samples(),) * 3}, None),
        ({"samples_ns": (builders.samples(), builders.samples(11.4))}, "slowest's median is 12 % above the quickest's"),
        ({"samples_ns": ((1_000_000,), (2_000_000,))}, "only 2 runs"),  # too short to be called rounds that differ
        ({"samples_ns": (builders.samples(), builders.samples()[:50] + builders.samples(12)[:50])}, r"runs \+18 %"),
        ({"method": METHODS[Protocol.MODELBENCH], "samples_ns": (builders.samples(count=50),)}, "only 1 round:"),
    ],
)
def test_warnings_name_what_is_wrong(changes: dict[str, Any], warning: str | None) -> None:
    warnings = builders.measurement(**changes).warnings
    if warning is None:
        assert warnings == []
    else:
        assert any(re.search(warning, each) for each in warnings)


def test_rounds_that_differ_are_told_once() -> None:
    drifting = tuple(builders.samples()[:50] + builders.samples(12)[:50] for _ in range(20))
    assert len(builders.measurement(samples_ns=drifting).warnings) == 2  # of the median's interval, and of the drift


# --- ModelBench -------------------------------------------------------------------------------------------------------

MODELBENCH = METHODS[Protocol.MODELBENCH]


def test_the_protocols_are_what_they_are_called_for() -> None:
    assert METHODS[Protocol.MEDIAN100] == Method() == Method(warmup=10, runs=100, rounds=1)
    assert (MODELBENCH.rounds, MODELBENCH.runs, MODELBENCH.warmup, MODELBENCH.trim) == (20, 50, 1, 10)
    assert MODELBENCH.loading == "per-round"
    assert set(METHODS) == set(Protocol)


@pytest.mark.slow
@settings(max_examples=60)
@given(st.lists(st.lists(nanoseconds, min_size=50, max_size=50), min_size=20, max_size=20))
def test_modelbench_follows_from_the_samples_alone(rounds: list[list[int]]) -> None:
    """As the app computes it: of each round the mean of its 30 middle samples, then the mean of the 20 means."""
    found = builders.measurement(method=MODELBENCH, samples_ns=tuple(map(tuple, rounds)))
    middle = np.sort(np.array(rounds, float), axis=1)[:, 10:40].mean(axis=1) / 1e6
    assert found.round_means_ms == pytest.approx(middle.tolist())
    assert found.figure_ms == pytest.approx(middle.mean())
    assert found.ms_per_image == found.figure_ms
    assert min(middle) * (1 - 1e-12) <= found.figure_ms <= max(middle) * (1 + 1e-12)
    interval = found.interval_ms
    half = scipy.stats.t.ppf(0.975, 19) * middle.std(ddof=1) / math.sqrt(20)
    if interval is None:
        assert middle.mean() - half <= 1e-6 * middle.mean()  # it would reach zero
        return
    assert interval.low == pytest.approx(middle.mean() - half, abs=1e-6 * middle.mean())
    assert interval.high == pytest.approx(middle.mean() + half, abs=1e-6 * middle.mean())
    again = msgspec.json.decode(msgspec.json.encode(found), type=Measurement)
    assert again.figure_ms == found.figure_ms


@given(st.randoms(use_true_random=False))
def test_the_order_within_a_round_and_its_extremes_do_not_count(order: Any) -> None:
    calm = list(builders.samples(1.0, 50))
    noisy = [*sorted(calm)[:40], *(10**9 + i for i in range(10))]
    order.shuffle(noisy)
    figures = [
        builders.measurement(method=MODELBENCH, samples_ns=(tuple(samples),) * 20).figure_ms
        for samples in (calm, noisy)
    ]
    assert figures[0] == pytest.approx(figures[1], rel=1e-12)


def test_a_median_does_not_depend_on_rounds() -> None:
    samples = builders.samples(count=90)
    one = builders.measurement(samples_ns=(samples,))
    three = builders.measurement(
        method=Method(runs=30, rounds=3), samples_ns=(samples[:30], samples[30:60], samples[60:])
    )
    assert one.figure_ms == one.median_ms == three.figure_ms
    assert one.interval_ms == three.interval_ms


@pytest.mark.parametrize("rounds", [2, 3, 19, 20, 40])
def test_a_mean_over_any_number_of_rounds_has_its_interval(rounds: int) -> None:
    found = builders.measurement(method=MODELBENCH, samples_ns=rounds_of_a_millisecond(rounds))
    middle = np.array(found.round_means_ms)
    wanted = scipy.stats.t.interval(0.95, rounds - 1, middle.mean(), scipy.stats.sem(middle))
    assert found.interval_ms is not None
    assert (found.interval_ms.low, found.interval_ms.high) == pytest.approx(wanted, rel=1e-9)
    assert not [warning for warning in found.warnings if "interval" in warning]


def test_a_mean_whose_interval_would_reach_zero_has_none() -> None:
    far_apart = builders.measurement(method=MODELBENCH, samples_ns=((10**6,) * 50, (10**8,) * 50))
    assert far_apart.interval_ms is None
    assert "2 rounds that differ too much for an interval" in far_apart.warnings


def rounds_of_a_millisecond(count: int) -> tuple[tuple[int, ...], ...]:
    """So many rounds of 50 samples each, whose means differ by up to a hundredth."""
    return tuple(builders.samples(1 + (at * 7 % 11) / 1000, 50) for at in range(count))


# --- where operations are planned -------------------------------------------------------------------------------------

PLAN = builders.placement(
    *(Unit.NEURAL_ENGINE, Unit.NEURAL_ENGINE, Unit.CPU, Unit.NEURAL_ENGINE, Unit.GPU), costs=(0.5, 0.1, 0.1, 0.1, 0.0)
)


def test_shares_of_a_plan() -> None:
    assert PLAN.counts == {Unit.NEURAL_ENGINE: 3, Unit.GPU: 1, Unit.CPU: 1}
    assert PLAN.shares == {Unit.NEURAL_ENGINE: 0.6, Unit.GPU: 0.2, Unit.CPU: 0.2}
    assert PLAN.costs == pytest.approx({Unit.NEURAL_ENGINE: 0.875, Unit.GPU: 0.0, Unit.CPU: 0.125})
    assert (PLAN.switches, PLAN.eligible, PLAN.ops_off_neural_engine) == (3, 1.0, {"ios16.cast": 2})
    only_cpu = msgspec.structs.replace(PLAN.operations[0], supported=(Unit.CPU,))
    assert Placement(operations=(only_cpu, *PLAN.operations[1:])).eligible == 0.8


@given(st.lists(st.tuples(st.sampled_from(Unit), st.none() | st.floats(0, 1)), max_size=30))
def test_shares_of_any_plan_add_up(units: list[tuple[Unit, float | None]]) -> None:
    plan = Placement(
        operations=tuple(PlannedOperation(kind="x", output="y", unit=u, supported=(u,), cost=c) for u, c in units)
    )
    assert sum(plan.counts.values()) == len(units)
    assert sum(plan.shares.values()) == pytest.approx(1 if units else 0)
    if plan.costs is None:
        assert not any(cost for _, cost in units)
    else:
        assert sum(plan.costs.values()) == pytest.approx(1)
    assert 0 <= plan.switches <= max(0, len(units) - 1)


# --- records as values ------------------------------------------------------------------------------------------------

EXPORT_JOB = ExportJob(
    model="fastvit_t8",
    variant="fastvit_t8",
    head=Head.CLASSIFIER,
    classes=1000,
    checkpoint=None,
    weights=builders.RANDOM,
    backend="onnxruntime",
    precision="fp32",
    shape=builders.shape(),
    fused=Fuse.FOLDED,
    device=builders.device(),
    toolchain={"torch": "2.9.0"},
    path="models/fastvit_t8/file.onnx",
)
HALF_WEIGHTS = HalfWeights(weights=100, subnormal=3, zeroed=1, largest=4.5, largest_of="stem.0.weight")
CARD = GpuIdentity(compute_capability="7.5", name="RTX 2080 Ti", uuid="GPU-1", memory_mib=11264, driver="580.65")
PICTURE = LabelledImage(name="n01/a.jpg", size_bytes=1000, label=0)
PREPROCESSING = Preprocessing(resolution=256, crop=0.9)
PREPARATION = Preparation(mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1), resize="pad", interpolation="box", crop=0.875)
ONE_OF_EACH: list[Record] = [
    builders.shape(),
    builders.spec(checkpoint="a.pth", sha256="00"),
    builders.device(match="RTX", options={"threads": 4, "fast": True, "mode": "x", "share": 0.5}),
    builders.RANDOM,
    builders.CHECKPOINT,
    builders.parity(passed=False, reason="too far", top1_agreement=None),
    builders.artifact(quantisation=builders.quantisation()),
    builders.quantisation(),
    builders.calibration_set(),
    builders.fidelity(),
    builders.tuning(),
    builders.tuning().asked,
    builders.tuning().trials[1],
    CalibrationImages(folder="images", pictures=(PICTURE,), chosen=builders.calibration_set()),
    builders.traffic(),
    builders.probe(),
    builders.peak(),
    builders.peak().memory,
    MicrobenchmarkJob(probe=builders.probe(), device=builders.device(), path="probe.onnx"),
    MicrobenchmarkTimingJob(probe=builders.probe(), device=builders.device(), path="probe.onnx", method=Method()),
    builders.foreign(),
    builders.reported(artifact=builders.foreign(shape=builders.shape(224)), placement=PLAN),
    PLAN,
    PLAN.operations[0],
    GraphVariant(attention="per-head"),
    EXPORT_JOB,
    PREPARATION,
    Method(warmup=0, runs=5, rounds=2),
    builders.machine(accelerator="RTX 4090", driver="550.1"),
    MachineState(load_before=0.5),
    Interval(low=1.0, high=2.0, confidence=0.965),
    builders.measurement(),
    builders.cell(),
    builders.failure(),
    TimingJob(
        artifact=builders.artifact(),
        path="a.onnx",
        device=builders.device(),
        method=Method(),
        machine=builders.machine(),
    ),
    builders.request(),
    builders.run(commit=None),
    Fusing(
        variant="fastvit_t8",
        head=Head.DENSE,
        classes=0,
        form="unfused",
        kinds={"RepMixer": 10},
        params={Fuse.FUSED: 4_000_000},
        norms={Fuse.FUSED: 24},
        differences={Fuse.FUSED: 1e-15},
        saved_difference=1e-7,
    ),
    HALF_WEIGHTS,
    CARD,
    Setting(precision="fp16", batch=8, options={"graph": False}),
    GpuState(sm_mhz=1545, throttle=("power cap",)),
    LayerTime(name="patch_embed.0/Conv", kind="Conv", block="stem.0", median_ns=1000),
    EngineJob(export=EXPORT_JOB),
    EngineBuilt(path="out/net.engine", parity=builders.parity()),
    CellError(stage="timing", reason="it was killed", log="the end"),
    MicrobenchmarkWritten(),
    MicrobenchmarkTimed(best_ns=1000, window=Window.COMPUTE, clock="time.perf_counter_ns"),
    Engine(
        toolkit="tensorrt",
        version="11.4.0.106",
        platform="linux x86_64",
        card=CARD,
        onnx="fastvit_t8.trt.onnx",
        onnx_sha256="cd" * 32,
        settings={"optimization_level": "3", "workspace_mib": "0"},
        inputs={"image": "HALF 8x3x256x256"},
        outputs={"logits": "HALF 8x1000"},
        layers={"CONVOLUTION": 52},
        sha256="ef" * 32,
        size_bytes=9_000_000,
        warnings=("a warning",),
        parity=builders.parity(),
    ),
    TimingCache(toolkit="tensorrt", version="11.4.0.106", platform="linux x86_64", card=CARD, sha256="12" * 32),
    PICTURE,
    PREPROCESSING,
    Unreadable(name="n01/cut.jpg", reason="image file is truncated"),
    builders.evaluation(
        numbering=ClassNumbering(order=ClassOrder.NATURAL, class_map="names.txt", label_ids=LabelIds.FROM_1),
        among=RankedClasses.PRESENT,
    ),
    ClassNumbering(order=ClassOrder.TEXT),
    ClassEmbeddings(file="text.npy", sha256="ab" * 32, classes=1000, width=512),
    EmbeddingCosines(images=64, total=63.9, least=0.99, worst="a/b.jpg"),
    builders.tally(),
    builders.accuracy(),
    Share(value=0.5, low=0.25, high=0.75),
    ResourceUsage(peak_resident_bytes=130_000_000, device_bytes=2**29, energy_mj=1250.5, runs=100),
    SpeedCheck(before_ns=(2_400_000, 2_500_000), after_ns=(2_450_000,)),
    EvaluationJob(
        artifact=builders.artifact(),
        export=EXPORT_JOB,
        on_device=True,
        machine=builders.machine(),
        folder="val",
        pictures=(PICTURE,),
        first=0,
        preprocessing=PREPROCESSING,
        workers=2,
    ),
    ModelFacts(spec=builders.spec(), params={Fuse.NONE: 1, Fuse.FOLDED: 1}, gmacs=0.69, checkpoints=("a.pth",)),
]
by_type = pytest.mark.parametrize("record", ONE_OF_EACH, ids=lambda record: type(record).__name__)


def test_every_record_is_tried() -> None:
    declared = {each for each in vars(records).values() if isinstance(each, type) and issubclass(each, Record)}
    bases = {Record, ExportSpec}  # what others have in common
    assert declared - bases == {type(record) for record in ONE_OF_EACH}


@by_type
def test_json_gives_back_the_same_record(record: Record) -> None:
    assert msgspec.json.decode(msgspec.json.encode(record), type=type(record)) == record


@by_type
def test_unknown_fields_are_refused(record: Record) -> None:
    document = {**msgspec.to_builtins(record), "colour": "red"}
    with pytest.raises(msgspec.ValidationError, match="colour"):
        msgspec.convert(document, type(record))


@by_type
def test_records_do_not_change(record: Record) -> None:
    for name in record.__struct_fields__:
        with pytest.raises(AttributeError):
            setattr(record, name, None)


@given(
    st.builds(
        Measurement,
        **{
            "finished": st.text(),
            "device": st.builds(Device, name=st.text(), backend=st.text()),
            "artifact": st.just(builders.artifact()),
            "method": st.builds(Method, warmup=st.integers(0, 100)),
            "clock": st.text(),
            "samples_ns": st.lists(
                st.lists(nanoseconds, min_size=1, max_size=5).map(tuple), min_size=1, max_size=3
            ).map(tuple),
            "machine": st.just(builders.machine()),
            "state": st.builds(MachineState, load_before=st.none() | st.floats(0, 1e9)),
        },
    )
)
def test_any_measurement_survives_json(found: Measurement) -> None:
    assert msgspec.json.decode(msgspec.json.encode(found), type=Measurement) == found


@pytest.mark.parametrize(("height", "width", "size"), [(256, 256, "256"), (256, 384, "256x384"), (1024, 32, "1024x32")])
def test_a_size_is_one_number_for_squares_and_height_by_width_otherwise(height: int, width: int, size: str) -> None:
    shape = Shape(batch=8, height=height, width=width)
    assert shape.size == size
    assert shape.nchw == (8, 3, height, width)


def test_run_files_of_before_core_ml_are_read() -> None:
    """What the first version wrote of a measurement: none of the fields that came later."""
    line = msgspec.to_builtins(builders.measurement())
    for name in ("pacing", "cold_ns", "load_ns", "compile_ns", "placement"):
        del line[name]
    for name in ("proofs", "options", "functions", "operations"):
        del line["artifact"][name]
    for name in ("statistic", "trim", "loading"):
        del line["method"][name]
    for name in ("how", "judged", "rms_error"):
        del line["artifact"]["parity"][name]
    line["method"]["statistic"] = "median"
    assert msgspec.json.decode(msgspec.json.encode(line), type=Measurement) == builders.measurement()


def test_labels_tell_weights_and_cells_apart() -> None:
    assert builders.RANDOM.label == "random(seed 0)"
    assert builders.CHECKPOINT.label == "fastvit_t8.pth.tar@1a2b3c4d"
    assert builders.cell(shape=Shape(batch=8, height=256, width=384)).label == "fastvit_t8 256x384 b8"


def test_cells_can_be_counted_and_compared() -> None:
    assert len({builders.cell(), builders.cell(), builders.cell(fused=Fuse.NONE)}) == 2


# --- the key of an artifact -------------------------------------------------------------------------------------------

KEY = "a8d5eb76"  # of `builders.artifact()`


def test_the_key_is_stable() -> None:
    """A constant: another value would orphan every exported file on every machine."""
    assert builders.artifact().key == builders.artifact().key == KEY
    assert len(KEY) == 8


@pytest.mark.parametrize(
    "changes",
    [
        {"model": "mine"},
        {"variant": "fastvit_t12"},
        {"backend": "tensorrt"},
        {"precision": "fp16"},
        {"shape": builders.shape(384)},
        {"shape": builders.shape(batch=2)},
        {"fused": Fuse.NONE},
        {"weights": builders.RANDOM},
        {"weights": msgspec.structs.replace(builders.CHECKPOINT, sha256="ff" * 32)},
        {"toolchain": {"onnx": "1.19.0", "torch": "2.9.1"}},
        {"toolchain": {"onnx": "1.19.0"}},
    ],
)
def test_the_key_follows_everything_that_decides_the_content(changes: dict[str, Any]) -> None:
    assert builders.artifact(**changes).key != KEY


@pytest.mark.parametrize(
    "changes",
    [
        {"path": "elsewhere.onnx"},
        {"sha256": "cd" * 32},
        {"size_bytes": 1},
        {"parity": builders.parity(images=9)},
        {"toolchain": {"torch": "2.9.0", "onnx": "1.19.0"}},
        {"weights": msgspec.structs.replace(builders.CHECKPOINT, file="renamed.pth")},
    ],
)
def test_the_key_follows_nothing_else(changes: dict[str, Any]) -> None:
    assert builders.artifact(**changes).key == KEY


@pytest.mark.parametrize(
    "changes", [{"head": Head.DENSE}, {"classes": 10}, {"weights": Weights(origin="random", seed=1)}]
)
def test_the_key_of_random_weights_follows_what_they_are_drawn_for(changes: dict[str, Any]) -> None:
    plain = builders.artifact(weights=builders.RANDOM)
    assert builders.artifact(**({"weights": builders.RANDOM} | changes)).key != plain.key


def test_a_job_knows_the_key_of_its_artifact() -> None:
    made = builders.artifact(weights=builders.RANDOM, toolchain={"torch": "2.9.0"})
    assert EXPORT_JOB.key == made.key


# --- machines ---------------------------------------------------------------------------------------------------------


def test_machines_differ_in_what_forbids_a_comparison_only() -> None:
    ours = builders.machine()
    assert ours.differences(ours) == []
    assert ours.differences(builders.machine(memory_mib=16000)) == []  # the kernel keeps some of it
    theirs = builders.machine(cores=8, packages={"onnxruntime": "1.22.0", "torch": "2.9.0"})
    assert ours.differences(theirs) == ["processors: 8 then, 4 now", "onnxruntime: 1.22.0 then, 1.23.0 now"]


def test_a_new_host_name_is_the_same_machine_and_told() -> None:
    ours, container = builders.machine(), builders.machine(host="c0ffee00")
    assert ours.differences(container) == []
    assert ours.is_same_as(container)
    hint = ours.hint(container)
    assert hint is not None
    assert hint.startswith("host name: c0ffee00 then, 0f1e2d3c now")
    assert ours.hint(ours) is None
    assert ours.hint(builders.machine(host="")) is None  # of an imported figure nothing is known


def test_the_name_that_a_person_gives_decides_which_machine_it_is() -> None:
    ours, theirs = builders.machine(name="lab-1"), builders.machine(name="lab-2", host="x")
    assert ours.differences(theirs) == ["machine: lab-2 then, lab-1 now"]
    assert ours.differences(builders.machine(name="lab-1", host="x")) == []
    assert ours.hint(builders.machine(name="lab-1", host="x")) is None  # named: nothing to doubt
    assert ours.differences(builders.machine(host="x")) == []  # without a name hardware decides
    assert ours.hint(builders.machine(host="x"))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"os": "Linux 6.2 x86_64"}, "kernel: 6.2 then, 6.1 now"),
        ({"os": "Darwin 24.0 arm64"}, "operating system: Darwin 24.0 arm64 then, Linux 6.1 x86_64 now"),
        ({"quota": 0.5}, "processors: 0.5 of 4 then, 4 now"),
        ({"memory_mib": 8192}, "memory: 8.0 GiB then, 16.0 GiB now"),
        ({"processor": "Another"}, "processor: Another then, Example Processor 9000 @ 2.50GHz now"),
        ({"accelerator": "RTX 4090"}, "accelerator: RTX 4090 then, none now"),
        ({"driver": "550"}, "driver: 550 then, none now"),
        ({"python": "3.12.0"}, "Python: 3.12.0 then, 3.11.9 now"),
    ],
)
def test_what_makes_another_machine_is_said_in_words(changes: dict[str, Any], told: str) -> None:
    assert builders.machine().differences(builders.machine(**changes)) == [told]


def test_only_packages_that_count_are_compared() -> None:
    """A run of when one list served every backend is compared by what it held of those that count now."""
    before = builders.machine(packages={"onnxruntime": "1.23.0", "numpy": "2.0", "torch": "2.9.0", "coremltools": "9"})
    now = builders.machine(packages={"onnxruntime": "1.23.0", "numpy": "2.0", "nvidia-cudnn-cu12": "9.1"})
    counted = ("onnxruntime", "onnxruntime-gpu", "nvidia-cudnn-cu12", "numpy")
    assert now.differences(before, counted) == []
    assert before.differences(now, counted) == []
    another = msgspec.structs.replace(now, packages={"onnxruntime-gpu": "1.23.0", "numpy": "2.0"})
    assert another.differences(now, counted) == [
        "nvidia-cudnn-cu12: 9.1 then, none now",
        "onnxruntime: 1.23.0 then, none now",
        "onnxruntime-gpu: none then, 1.23.0 now",
    ]
    assert another.differences(before, counted) == ["onnxruntime: 1.23.0 then, none now"]


@given(memory=st.integers(256, 1 << 22), share=st.floats(0.92, 1.0))
def test_a_little_memory_more_or_less_is_the_same_machine(memory: int, share: float) -> None:
    ours, theirs = builders.machine(memory_mib=memory), builders.machine(memory_mib=max(1, round(memory * share)))
    assert ours.is_same_as(theirs)
    assert theirs.is_same_as(ours)


def test_processors_are_said_with_their_quota() -> None:
    assert builders.machine().processors == "4 cores"
    assert builders.machine(cores=1).processors == "1 core"
    assert builders.machine(cores=2, quota=0.5).processors == "0.5 of 2 processors"
    assert builders.machine(cores=None).processors == ""


def test_machines_of_one_kind_have_one_name_where_only_one_was_given() -> None:
    plain, named, other = builders.machine(), builders.machine(name="lab-1"), builders.machine(name="lab-2")
    assert by_name([plain, named]) == {plain.hardware: "lab-1"}
    assert by_name([plain, named, other]) == {}
    assert by_name([plain]) == {}


# --- bounds -----------------------------------------------------------------------------------------------------------

PAIR = builders.block(0)


@pytest.mark.parametrize(
    ("record", "changes"),
    [
        (builders.measurement(), {"samples_ns": [[10**15]]}),
        (builders.measurement(), {"samples_ns": [[0]]}),
        (builders.measurement(), {"method": {"statistic": "trimmed-mean", "trim": 10**6}}),
        (PAIR, {"base_ns": [[1], [2]], "head_ns": [[1]]}),
        (PAIR, {"reference": 0.0}),
        (PAIR, {"reference": 1e300}),
        (builders.verdict(), {"ratio": 0.0}),
        (builders.verdict(), {"ratio": -1.0}),
        (builders.verdict(), {"interval": {"low": 0.0, "high": 1.0, "confidence": 0.95}}),
        (builders.verdict(), {"interval": {"low": 1.0, "high": 1e308, "confidence": 0.95}}),
    ],
)
def test_figures_that_no_clock_gives_are_refused(record: Record, changes: dict[str, Any]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(msgspec.to_builtins(record) | changes, type(record))


def counted(runs: int, lengths: list[int], **method: Any) -> str:
    samples = tuple((1000,) * length for length in lengths)
    return sample_faults(builders.measurement(samples_ns=samples, method=Method(runs=runs, **method)))


@pytest.mark.parametrize(
    ("runs", "lengths", "method"),
    [
        (100, [100], {}),
        (100, [100] * 3, {"rounds": 3}),
        (100, [25] * 4, {"processes": 4}),
        (10, [3, 3, 2, 2], {"processes": 4}),
        (2, [1] * 4, {"processes": 4}),
        (10, [10], {"duration_ms": 3000}),
        (10, [4711], {"duration_ms": 3000}),
    ],
)
def test_samples_are_as_many_as_the_method_says(runs: int, lengths: list[int], method: dict[str, Any]) -> None:
    assert counted(runs, lengths, **method) == ""


@pytest.mark.parametrize(
    ("runs", "lengths", "method", "clause"),
    [
        (100, [1], {}, "round 1 has 1 samples, and its method has 100"),
        (5, [100], {}, "round 1 has 100 samples, and its method has 5"),
        (100, [100, 100], {}, "it has samples of 2 rounds, and its method has 1"),
        (100, [25] * 3, {"processes": 4}, "it has samples of 3 processes, and its method has 4"),
        (10, [2, 3, 3, 2], {"processes": 4}, "round 1 has 2 samples, and its method has 3"),
        (10, [9], {"duration_ms": 3000}, "round 1 has 9 samples, and its method has at least 10"),
        (10**18, [1], {"processes": 10**18}, f"it has samples of 1 processes, and its method has {10**18}"),
    ],
)
def test_any_other_number_of_samples_is_said(
    runs: int, lengths: list[int], method: dict[str, Any], clause: str
) -> None:
    assert counted(runs, lengths, **method) == clause


@pytest.mark.parametrize(
    "changes", [{"images": 0}, {"top1": 101}, {"top5": 40}, {"top5": 101}, {"top1": -1}, {"overflowed": 101}]
)
def test_counts_that_no_images_give_are_refused(changes: dict[str, int]) -> None:
    usual = builders.accuracy(images=100, top1=50, top5=80)
    with pytest.raises(ValueError, match="images"):
        msgspec.structs.replace(usual, **changes)
    for wrong in ({"top1": 65}, {"top5": 49}, {"top5": 65}, {"overflowed": 65}, {"pictures": 59}):
        with pytest.raises(ValueError, match="right"):
            builders.tally(**wrong)
