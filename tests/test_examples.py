"""The script in examples/: its parts, one tiny run without the toolkits, and the whole of it as a person starts it."""

import csv
import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import ladders
import numpy as np
import pytest
import torch
from builders import accuracy, artifact, device, measurement, request, run, samples
from rich.console import Console

from fastvit_bench import backends, config
from fastvit_bench.errors import ExitCode
from fastvit_bench.network import checkpoint
from fastvit_bench.network.fastvit import Form
from fastvit_bench.paper import study_table
from fastvit_bench.records import share
from fastvit_bench.store import runs

pytest.importorskip("sklearn")
SCRIPT = Path(__file__).parents[1] / "examples" / "digits.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("digits", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["digits"] = module  # dataclasses ask for it
    spec.loader.exec_module(module)
    return module


digits = load()
TINY = digits.Plan(train=20, validation=10, test=30, epochs=1, batch=20, teacher="fastvit_t8", threads=1)
NETWORKS = (digits.TEACHER, digits.PLAIN, digits.DISTILLED)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory):
    """The parts of the tiny plan, read back from their files."""
    folder = tmp_path_factory.mktemp("data")
    digits.write_images(folder, TINY)
    return {part: digits.read_images(folder / part) for part in ("train", "val", "test")}


# --- images -----------------------------------------------------------------------------------------------------------


def test_the_split_is_fair_and_always_the_same():
    labels = np.repeat(np.arange(10), 180)
    parts = digits.split(labels, digits.Plan())
    assert {part: len(numbers) for part, numbers in parts.items()} == {"train": 600, "val": 197, "test": 1000}
    assert len(set(np.concatenate(list(parts.values())).tolist())) == 1797
    for numbers in parts.values():
        counts = np.bincount(labels[numbers], minlength=10)
        assert counts.max() - counts.min() <= 1
    again = digits.split(labels, digits.Plan(seed=5))  # a seed of the training
    assert all((again[part] == parts[part]).all() for part in parts)


def test_images_come_back_as_they_were_drawn(data):
    from sklearn.datasets import load_digits

    source = load_digits()
    names = [name for part in data.values() for name in part.names]
    assert len(set(names)) == len(names) == 60
    test = data["test"]
    assert test.pixels.shape == (30, 3, 32, 32)
    for name, label, pixels in zip(test.names, test.labels.tolist(), test.pixels, strict=True):
        number = int(Path(name).stem)
        assert source.target[number] == label
        small = pixels[0].reshape(8, 4, 8, 4).float().mean((1, 3)) * 16 / 255
        assert np.corrcoef(small.flatten(), source.images[number].flatten())[0, 1] > 0.95


def test_changes_are_drawn_and_leave_most_of_an_image(data):
    values = data["train"].pixels.float() / 255
    first = digits.changed(values, torch.Generator().manual_seed(1))
    assert torch.equal(first, digits.changed(values, torch.Generator().manual_seed(1)))
    assert not torch.equal(first, digits.changed(values, torch.Generator().manual_seed(2)))
    assert first.min() >= 0
    assert first.max() <= 1
    kept = first.sum((1, 2, 3)) / values.sum((1, 2, 3))
    assert kept.min() > 0.6
    assert kept.max() < 1.3


# --- training ---------------------------------------------------------------------------------------------------------


def test_training_is_repeatable(data):
    states = []
    for _ in range(2):
        network = digits.fresh("fastvit_t8", 3)
        digits.train(network, digits.true_labels, data, replace(TINY, epochs=1), "plain", Console(quiet=True))
        states.append(network.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(state.values() for state in states), strict=True))
    assert not torch.equal(states[0]["head.weight"], digits.fresh("fastvit_t8", 3).state_dict()["head.weight"])


def test_the_epoch_with_the_least_validation_loss_is_kept_and_not_the_last(data):
    # labels of a validation part that training can only make worse; BatchNorm counts the steps behind what is kept
    wrong = {**data, "val": replace(data["train"], labels=(data["train"].labels + 1) % 10)}
    torch.manual_seed(0)
    for checked, least, most in (({**data, "val": data["train"]}, 8, 12), (wrong, 2, 4)):
        norm = torch.nn.BatchNorm1d(3 * 32 * 32)
        network = torch.nn.Sequential(torch.nn.Flatten(), norm, torch.nn.Linear(3 * 32 * 32, 10))
        plan = replace(TINY, epochs=6, batch=10, rate=1e-3)
        digits.train(network, digits.true_labels, checked, plan, "plain", Console(quiet=True))
        assert not network.training
        assert least <= int(norm.num_batches_tracked) <= most


def test_distillation_is_half_the_truth_and_half_the_teachers_hard_labels():
    teacher = torch.nn.Linear(4, 10)
    loss = digits.hard_distillation(teacher)
    images, labels = torch.randn(6, 4), torch.arange(6)
    logits = torch.randn(6, 10, requires_grad=True)
    said = teacher(images).argmax(1)
    halves = [digits.true_labels(images, logits, each) / 2 for each in (labels, said)]
    assert loss(images, logits, labels).item() == pytest.approx(sum(half.item() for half in halves))
    loss(images, logits, labels).backward()
    assert teacher.weight.grad is None
    assert logits.grad is not None


def test_both_students_begin_alike():
    states = [digits.fresh("fastvit_t8", seed).state_dict() for seed in (0, 0, 1)]
    assert all(torch.equal(a, b) for a, b in zip(states[0].values(), states[1].values(), strict=True))
    assert not torch.equal(states[0]["head.weight"], states[2]["head.weight"])


# --- which student is better ------------------------------------------------------------------------------------------


def students(gained: int, lost: int, count: int = 1000):
    """Answers of two students, each right alone so many times."""
    plain, distilled = np.ones(count, bool), np.ones(count, bool)
    plain[:gained] = False
    distilled[gained : gained + lost] = False
    return plain, distilled


@pytest.mark.parametrize(
    ("gained", "lost", "told"),
    [
        (0, 0, "no difference at all"),
        (6, 5, "+0.1 points [-0.6, +0.7], McNemar's exact p = 1; no difference is shown"),
        (5, 0, "+0.5 points [-0.0, +0.5], McNemar's exact p = 0.062; no difference is shown"),
        (20, 4, "the distilled one is better"),
        (4, 20, "the plain one is better"),
    ],
)
def test_students_are_compared_on_the_same_images(gained: int, lost: int, told: str):
    sentence = digits.compared(*students(gained, lost))
    assert told in sentence
    assert f"right on {gained} where the plain one is wrong, and wrong on {lost} where" in sentence


# --- the table --------------------------------------------------------------------------------------------------------


def measure_all(folder: Path, timed: tuple[str, ...] = ("onnx-fp32", "onnx-fp16")) -> None:
    """Run files as the command line writes them, of files whose figures all differ."""
    for at, (_, name, fuse) in enumerate(digits.FILES):
        asked = device(name=name)
        path = runs.create(folder / "results", run(id=f"20250101-00000{at}-abcdef", request=request(device=asked)))
        for number, network in enumerate(NETWORKS, start=10 * at):
            made = artifact(model=network, fused=fuse, sha256=f"{number:064x}", size_bytes=(number + 1) * 2**20)
            runs.append(path, accuracy(artifact=made, device=asked, images=1000, top1=950 + number, how=name))
            if name in timed:
                quick = (samples(1 + number / 10, spread=0.001),)
                runs.append(path, measurement(artifact=made, device=asked, samples_ns=quick))


def test_every_figure_of_the_table_is_that_of_a_record(tmp_path: Path):
    measure_all(tmp_path)
    found = digits.rows(tmp_path / "results")
    assert [(row.network, row.file) for row in found] == [
        (network, file) for network in NETWORKS for file, _, _ in digits.FILES
    ]
    text = digits.shown(found, {name: share(960, 1000) for name in NETWORKS}, ["a note"])
    head, rule, *lines = [line.split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == len(NETWORKS) * (1 + len(digits.FILES))
    assert {len(line) for line in (head, rule, *lines)} == {7}
    assert [line[3:6] for line in lines[:: 1 + len(digits.FILES)]] == [["–", "–", "–"]] * 3
    exported = [line for line in lines if "PyTorch, as trained" not in line]
    order = [10 * at + network for network in range(3) for at in range(len(digits.FILES))]
    for line, number in zip(exported, order, strict=True):
        assert line[2].startswith(f"{(950 + number) / 10:.2f} [")
        assert line[3] == f"{(number - 10) / 10:+.2f}"
        assert line[4].startswith(f"{1 + number / 10:.3f} [" if number < 30 else "–")
        assert line[5] == f"{number + 1}.0"
    assert text.endswith("- a note\n")


def test_a_file_that_was_not_counted_is_no_row_less_but_an_error(tmp_path: Path):
    measure_all(tmp_path)
    (path,) = (tmp_path / "results" / "coreml").iterdir()
    path.unlink()
    with pytest.raises(KeyError, match="coreml"):
        digits.rows(tmp_path / "results")


def test_a_latency_of_another_file_is_not_taken(tmp_path: Path):
    measure_all(tmp_path, timed=())
    other = measurement(artifact=artifact(model=digits.PLAIN, sha256="ff" * 32), device=device(name="onnx-fp32"))
    (path,) = (tmp_path / "results" / "onnx-fp32").glob("*-00000[0]-*")
    runs.append(path, other)
    assert all(row.timed is None for row in digits.rows(tmp_path / "results"))


def test_a_figure_to_distrust_has_a_star_and_its_reason(tmp_path: Path):
    measure_all(tmp_path)
    first, *others = digits.rows(tmp_path / "results")
    unsteady = replace(first, timed=measurement(artifact=first.accuracy.artifact, samples_ns=(samples(9.0, 5),)))
    text = digits.shown([unsteady, *others], {name: share(960, 1000) for name in NETWORKS}, [])
    assert "| 9.00\\* |" in text
    assert f"{first.network}, {first.file}: only 5 runs: no interval." in text


# --- the run ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_tiny_run_without_the_toolkits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Trained for an epoch; in place of the command line, which the slow test runs, stand its run files."""
    folder = tmp_path / "new"
    called: list[tuple[str, ...]] = []

    def tool(place: Path, *words: str, may_lack_device: bool = False) -> bool:
        called.append(words)
        assert place == folder
        if words[0] == "fuse":
            assert checkpoint.load(place / words[1], variant="fastvit_t8", classes=10).form is Form.UNFUSED
            return True
        if words[0] == "study":
            device = words[words.index("-d") + 1]
            path = place / "results" / device / "study-ladder-20250101-000000-abcdef.json"
            study_table.write(ladders.usual(30, lost=3, gained=0), path)
            return device != "openvino"
        if not (place / "results").exists():
            measure_all(place)
        return "coreml" not in words or not may_lack_device

    monkeypatch.setattr(digits, "tool", tool)
    text = digits.run(folder, TINY)
    of_files = ["accuracy", "latency"] * len(digits.FILES)
    of_ladders = ["study"] * len(digits.LADDERS) + ["accuracy"]
    assert [words[0] for words in called] == ["fuse"] * 3 + of_files + of_ladders
    settings = config.load(folder / "benchmark.toml", backends=backends.implemented())
    assert [spec.checkpoint for spec in settings.select([])] == [str(folder / words[1]) for words in called[:3]]
    assert (folder / "digits.md").read_text(encoding="utf-8") == text
    for file in ["PyTorch, as trained", *(file for file, _, _ in digits.FILES)]:
        assert text.count(f"| {file} |") == 3
    assert "coreml is not on this machine" in text
    assert "openvino is not on this machine, so it has no lines." in text
    assert "| onnx | INT8 | 80.00 [" in text
    assert "onnx, BF16: not measured: this processor has no BF16 arithmetic." in text
    assert "| coreml | FP16 |" in text
    assert "coreml, INT8: it takes the extra coreai." in text
    with (folder / "answers.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 30
    for name in NETWORKS:  # the table's figure is that of the answers
        right = share(sum(line[name] == line["label"] for line in lines), 30)
        assert f"| PyTorch, as trained | {100 * right.value:.2f} [" in text
    with pytest.raises(FileExistsError):
        digits.run(folder, TINY)


def test_a_command_that_fails_ends_the_script_with_its_code(tmp_path: Path):
    assert digits.tool(tmp_path, "--version")
    with pytest.raises(SystemExit) as ended:
        digits.tool(tmp_path, "latency", "--device", "no-such-device", may_lack_device=True)
    assert ended.value.code == ExitCode.USAGE


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML runs here")
def test_a_device_that_is_not_here_is_told_apart(tmp_path: Path):
    digits.configure(tmp_path, TINY)
    assert not digits.tool(tmp_path, "latency", "--device", "coreml", may_lack_device=True)
    with pytest.raises(SystemExit) as ended:
        digits.tool(tmp_path, "latency", "--device", "coreml")
    assert ended.value.code == ExitCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "exists already; name a new folder"),
        (["--train", "9"], "at least 10 images"),
        (["--test", "1001"], "at most 1797 images together"),
        (["--batch", "1"], "a batch holds at least 2"),
        (["--rate", "nan"], "the rate is above 0"),
        (["--wait", "-1"], "the wait is 0 seconds or more"),
        (["--student", "fastvit_t9"], "invalid choice: 'fastvit_t9'"),
    ],
)
def test_what_cannot_be_run_is_refused_in_a_sentence(
    words: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["digits.py", "--output", str(tmp_path), *words])
    with pytest.raises(SystemExit) as ended:
        digits.main()
    assert ended.value.code == ExitCode.USAGE
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.minutes
@pytest.mark.slow
def test_the_whole_of_it(tmp_path: Path):
    """As a person starts it, in half the epochs: above 95 % on unseen images, in every file alike."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--output", "digits", "--epochs", "12", "--wait", "0"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"},  # other tests want the cores on which threads would spin
    )
    assert done.returncode == 0, done.stderr
    files, _, ladder = done.stdout.partition("| toolkit |")
    lines = [line.split(" | ") for line in files.splitlines() if line.startswith("|")][2:]
    assert len(lines) == len(NETWORKS) * (1 + len(digits.FILES))
    for line in lines:
        assert float(line[2].split()[0]) > 95, line
        assert line[3] == "–" or abs(float(line[3])) <= 0.2, line
    timed = [row.timed for row in digits.rows(tmp_path / "digits" / "results")]
    assert sum(each is not None for each in timed) >= 9
    assert re.search(r"McNemar's exact p = |no difference at all", done.stdout)
    found = digits.steps(tmp_path / "digits" / "results")
    known = {(step.toolkit, step.precision): step for step in found}
    expected = {("onnx", "FP32"), ("onnx", "FP16"), ("onnx", "INT8"), ("coreml", "FP16"), ("coreml", "INT8")}
    if importlib.util.find_spec("openvino"):
        expected |= {("openvino", "FP32"), ("openvino", "BF16"), ("openvino", "INT8")}
    assert set(known) == expected
    for (toolkit, precision), step in known.items():
        assert f"| {toolkit} | {precision} |" in f"| {ladder}"
        if step.lacking:  # a processor without BF16 arithmetic, or no coreai-opt
            assert precision == "BF16" or (toolkit, precision) == ("coreml", "INT8")
            assert f"{toolkit}, {precision}: {step.lacking}" in ladder
        elif precision != "FP32":
            assert step.paired is not None
            assert step.paired.images == 1000
            assert 100 * abs(step.paired.difference) <= (1.0 if precision == "INT8" else 0.2)
