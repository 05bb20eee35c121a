"""Every command's table at every width: no figure and no name is cut, and all are laid out by one hand."""

import ast
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import builders
import msgspec
import pages
import pytest
from rich.console import Console
from typer.testing import CliRunner

import fastvit_bench
from fastvit_bench.cli import COMMANDS, _output, app
from fastvit_bench.cli._options import TableFormat
from fastvit_bench.comparing import calibrate, formats
from fastvit_bench.paper import study_table
from fastvit_bench.records import Fuse, Fusing, Head, ModelFacts, Unit
from fastvit_bench.records.comparison import Calibration, CellCalibration, Plan
from fastvit_bench.records.removable import Removable, RemovableKind
from fastvit_bench.render import listing, terminal
from fastvit_bench.render.table import Table
from fastvit_bench.store import peaks, runs

LONG = "a_network_of_ours_whose_name_is_long"
TOML = f"""
[model.fastvit_t8]
variant = "fastvit_t8"
published = "FastViT-T8"

[model.{LONG}]
variant = "fastvit_t8"
published = "FastViT-SA12"

[device.cpu]
backend = "onnxruntime"

[device.a_device_whose_name_is_long]
backend = "tensorrt"

[sweep]
models = ["fastvit_t8"]
grid = [256]

[download]
base = "https://example.org"

[study.repmixer-vs-pooling]
title = "RepMixer against pooling, over resolutions and with a control that has nothing else in common"
tables = ["fig3_repmixer_vs_pooling_digitised", "table1_mobileone_to_fastvit"]
grid = [384, 1024]
rows = [
    {{ label = "Pooling", model = "poolformer_s12" }},
    {{ label = "RepMixer", model = "metaformer_s12_repmixer" }},
]
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with what all commands of the second half read: two runs of two models, a peak, accuracies, a study."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "benchmark.toml").write_text(TOML, encoding="utf-8")
    specs = (builders.spec(), builders.spec(name=LONG, published="FastViT-SA12"))
    for number in range(6):
        of_this_run = builders.run(
            id=f"2026010{number + 1}-120000-abcdef", request=builders.request(models=specs), started=builders.at(number)
        )
        path = runs.create(tmp_path / "results", of_this_run)
        for at, (spec, ms) in enumerate(zip(specs, (10.21, 1234.5), strict=True)):
            made = builders.artifact(model=spec.name, sha256=f"{at:064}", traffic=builders.traffic())
            slower = 1.2 if number > 2 else 1.0
            runs.append(
                path,
                builders.measurement(
                    artifact=made,
                    samples_ns=(builders.samples(ms * slower, 400),),
                    finished=builders.at(10 * number + at),
                    load_ns=(300_000_000, 20_000_000),
                    placement=builders.placement(Unit.NEURAL_ENGINE, Unit.GPU, Unit.CPU) if number == 5 else None,
                ),
            )
            counted = builders.accuracy(artifact=made)
            runs.append(path, counted)
    peaks.save([builders.peak()], path.parent)
    result = builders.study_result({("RepMixer", size): ratio for size, ratio in ((384, 0.7604), (1024, 0.5803))})
    study_table.write(result, path.parent / f"study-{result.study.name}-{result.id}.json")
    return tmp_path


def shown(width: int, *words: str) -> str:
    """Standard output of a command on a terminal of so many columns."""
    done = CliRunner().invoke(app, words, env={"COLUMNS": str(width), "NO_COLOR": "1", "TERM": "dumb"})
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def drawn(width: int, found: Any) -> str:
    """What a command prints of something that takes minutes to measure."""
    console = Console(width=width, record=True, file=None, quiet=False, color_system=None)
    with console.capture() as capture:
        console.print(found)
    return capture.get()


def tabulated(width: int, capsys: pytest.CaptureFixture[str], tabulate: Callable[..., None], *words: Any) -> str:
    """What the end of a measuring command prints of its run file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", str(width))
        tabulate(*words)
    return capsys.readouterr().out


def newest_run() -> Path:
    return runs.all_runs(Path("results"))[-1]


def calibrated() -> Calibration:
    cells = [
        CellCalibration(
            name=f"{name} 1024x768 b1",
            margin=0.05,
            blocks=30,
            scatter=0.0123,
            false_alarms=1,
            inconclusive=2,
            drawn_false_alarms=0.011,
            drawn_inconclusive=0.21,
            detectable=0.061,
            floor=0.024,
        )
        for name in ("fastvit_t8", LONG)
    ]
    plan = Plan(margin=0.05, pooled_margin=0.025)
    pooled = msgspec.structs.replace(cells[0], name="", margin=0.025)
    return Calibration(plan=plan, repetitions=5, false_alarms=1, inconclusive=2, cells=tuple(cells), pooled=pooled)


FUSED = Fusing(
    variant="fastvit_t8",
    head=Head.CLASSIFIER,
    classes=1000,
    form="unfused",
    kinds={"token mixer": 10},
    params={level: 4_025_064 - 10_000 * at for at, level in enumerate(Fuse)},
    norms={level: 75 - 30 * at for at, level in enumerate(Fuse)},
    differences={level: 1.25e-7 * (1 + at) for at, level in enumerate(Fuse)},
    saved_difference=2.5e-7,
)

FACTS = [
    ModelFacts(
        spec=builders.spec(name=name),
        params={Fuse.NONE: 4_020_000, Fuse.FUSED: 3_990_000, Fuse.FOLDED: 3_980_000},
        gmacs=0.691,
        checkpoints=("fastvit_t8.pth.tar", "fastvit_t8_distilled.pth.tar", "fastvit_t8_reparam.pth.tar"),
    )
    for name in ("fastvit_t8", LONG)
]

LEFT = [
    Removable(
        RemovableKind.EXPORT, LONG, (f"models/{LONG}/{LONG}_256_b1.onnx", "x.json"), 16_123_456, 1e9 - 31 * 86_400
    ),
    Removable(RemovableKind.ENVIRONMENT, "", ("models/.environments/0123456789ab",), 1_000_000_000, 1e9 - 5000),
]

FLEET = [
    listing.FleetRow("workstation", "tls://10.0.0.7:43211", ("rtx2080ti", "cpu"), 2, ("fastvit_t8-256-b8",), ()),
    listing.FleetRow(LONG, "tls://10.0.0.8:43211", ("jetson",), 1, (), ("fastvit_t8-256-b1",)),
]

SWEEPS = [
    listing.SweepRow("20261127-095456-0c3846", "rtx2080ti", 12, 50, 1000.0, 3.2),
    listing.SweepRow("20261127-095456-0c3847", LONG, 0, 6, None, 4000.0),
]

Show = Callable[[int, pytest.CaptureFixture[str]], str]

# command -> its tables by what they are of, and figures that must stand in them; a sentence for one without a table
TABLES: dict[str, str | dict[str, tuple[Show, tuple[str, ...]]]] = {
    "download": "prints a path",
    "export": "prints sentences and paths",
    "verify": "prints sentences",
    "report": "writes files",
    "worker": "prints Dask's log",
    "fleet": {
        "workers": (
            lambda width, _: drawn(width, terminal.report(listing.fleet(FLEET, SWEEPS), width)),
            ("rtx2080ti, cpu", "2", "17 min", "3 s ago"),
        )
    },
    "fuse": {"levels": (lambda width, _: drawn(width, listing.fusing(FUSED, width)), ("4,025,064", "1.2e-07"))},
    "latency": {
        "run": (
            lambda width, out: tabulated(width, out, _output.print_table, [newest_run()], TableFormat.RICH),
            ("12.25", "1481", "76.2", "80.9", "0.691"),
        )
    },
    "accuracy": {
        "run": (
            lambda width, out: tabulated(
                width, out, _output.print_accuracies, runs.read(newest_run()).accuracies, TableFormat.RICH
            ),
            ("76.20", "[75.82, 76.57]", "50000"),
        )
    },
    "import": {
        "run": (
            lambda width, out: tabulated(width, out, _output.print_table, [newest_run()], TableFormat.RICH),
            ("12.25", "300", "20.0", "33"),
        )
    },
    "compare": {
        "cells": (lambda width, _: drawn(width, formats.rich(pages.verdicts()[0], width)), ("11.10", "[+10.2, +11.8]"))
    },
    "gate": {
        "cells": (lambda width, _: drawn(width, formats.rich(pages.verdicts()[1], width)), ("10.04", "[-0.4, +1.2]"))
    },
    "calibrate": {
        "cells": (
            lambda width, _: drawn(width, terminal.report(calibrate.report(calibrated()), width)),
            ("1.2 %", "6.1 %", "2 (21 %)"),
        )
    },
    "study": {
        "list": (lambda width, _: shown(width, "study"), ("2",)),
        "plan": (lambda width, _: shown(width, "study", "repmixer-vs-pooling", "--dry-run"), ("384", "1024")),
        "stored": (
            lambda width, _: shown(width, "study", "repmixer-vs-pooling", "--stored", "results/cpu"),
            ("10.00", "384", "1024"),
        ),
    },
    "claims": {"claims": (lambda width, _: shown(width, "claims"), ("15.4 %", "49"))},
    "table": {
        "whole": (lambda width, _: shown(width, "table"), ("12.25", "1481")),
        "joined": (
            lambda width, _: shown(width, "table", "--join", "accuracy", "--reference", "fastvit_t8", "--pareto"),
            ("12.25", "76.20", "120.9"),
        ),
        "columns": (
            lambda width, _: shown(width, "table", "--columns", "model,latency_ms,images_per_s"),
            ("12.25", "1481", "81.62"),
        ),
        "verbose": (lambda width, _: shown(width, "table", "-v"), ("12.25", "1481", "76.2", "81.62")),
        "compact": (lambda width, _: shown(width, "table", "--compact"), ("12.25", "1481", "76.2", "80.9")),
    },
    "history": {"series": (lambda width, _: shown(width, "history"), ("10.2", "12.3", "+20.0"))},
    "roofline": {"points": (lambda width, _: shown(width, "roofline"), ("12.25", "200", "28.21 %", "1481"))},
    "models": {
        "models": (
            lambda width, _: drawn(width, terminal.report(listing.models(FACTS), width)),
            ("4.02 / 3.99 / 3.98", "3.6", "0.69"),
        )
    },
    "devices": {"devices": (lambda width, _: shown(width, "devices"), ("ready",))},
    "clean": {
        "items": (
            lambda width, _: drawn(width, terminal.report(listing.removable(LEFT, 1e9, removed=False), width)),
            ("16.1 MB", "1.02 GB", "31 d"),
        )
    },
}


def test_no_command_is_forgotten() -> None:
    assert set(TABLES) == set(COMMANDS)


WITH_TABLES = [(name, what) for name, found in TABLES.items() if isinstance(found, dict) for what in found]


@pytest.mark.parametrize(("command", "what"), WITH_TABLES)
def test_every_figure_of_every_table_is_whole(
    command: str, what: str, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = TABLES[command]
    assert isinstance(tables, dict)
    show, figures = tables[what]
    laid_out: list[Table[Any]] = []
    layout = terminal.layout

    def watched(table: Table[Any], width: int) -> list[terminal.Line]:
        laid_out.append(table)
        return layout(table, width)

    monkeypatch.setattr(terminal, "layout", watched)
    for width in (60, 80, 100, 200):
        laid_out.clear()
        text = show(width, capsys)
        assert laid_out, f"{command} has a table of its own"
        assert max(map(len, text.splitlines())) <= width
        assert "…" not in text
        for figure in figures:
            assert whole(figure, text), (width, figure, text)
        words = " ".join(text.split())
        for column, cells in (pair for table in laid_out for pair in table.visible):
            for cell in cells:
                for part in parts(terminal.FOLD.sub(" ", cell, 1) if column.folds else cell):
                    assert whole(part, words) or (column.wraps and part in text.replace("\n", "")), (width, part, text)


def parts(cell: str) -> list[str]:
    """What must not be broken: words, and intervals with both ends."""
    return re.findall(r"\[[^\]]*\]|[^\s\[]+", cell)


def whole(part: str, text: str) -> bool:
    """Whether it stands there, and not as the beginning or end of another number."""
    return re.search(rf"(?<![\d.]){re.escape(part)}(?!\.?\d)", text) is not None


def test_a_cut_figure_would_be_seen() -> None:
    assert whole("10.21", "a 10.21 [10.20, 10.22]")
    assert not whole("10.21", "a 10.2 110.21 10.215 10.21.5")
    assert not whole("[10.20, 10.22]", "[10.20, 10.2")


@pytest.mark.slow
def test_no_table_is_drawn_by_another_hand() -> None:
    root = Path(fastvit_bench.__file__).parent
    for path in root.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{each.name}" for each in node.names]
                assert not [name for name in names if name.startswith(("rich.table", "rich.box"))], path


# --- into a file ------------------------------------------------------------------------------------------------------

PRINTED = {
    "table": ("table",),
    "claims": ("claims",),
    "history": ("history",),
    "roofline": ("roofline",),
    "study": ("study", "repmixer-vs-pooling", "--stored", "results/cpu"),
    "studies": ("study",),
    "plan": ("study", "repmixer-vs-pooling", "--dry-run"),
    "models": ("models",),
    "devices": ("devices",),
}


@pytest.mark.parametrize("words", PRINTED.values(), ids=PRINTED)
def test_json_is_all_that_is_printed(words: tuple[str, ...], home: Path) -> None:
    short = shown(80, *words, "--json")
    assert json.loads(short) == json.loads(shown(200, *words, "-f", "json"))


@pytest.mark.slow
@pytest.mark.parametrize("words", PRINTED.values(), ids=PRINTED)
@pytest.mark.parametrize(
    "ending", ["md", *(pytest.param(name, marks=pytest.mark.slow) for name in ("csv", "json", "txt"))]
)
def test_a_table_goes_into_a_file_and_replaces_only_its_like(words: tuple[str, ...], ending: str, home: Path) -> None:
    path = Path(f"table.{ending}")
    for _ in range(2):
        assert shown(80, *words, "-q", "-o", str(path)) == ""
    text = path.read_text(encoding="utf-8")
    assert text.strip()
    if ending == "json":
        assert json.loads(text) == json.loads(shown(80, *words, "--json"))
    if ending == "csv":
        assert text == shown(80, *words, "-f", "csv")
    path.write_text("mine", encoding="utf-8")
    done = CliRunner().invoke(app, [*words, "-o", str(path)])
    assert done.exit_code == 2
    assert "--force" in done.stderr
    assert path.read_text(encoding="utf-8") == "mine"
    assert shown(80, *words, "-o", str(path), "--force") == ""
    assert path.read_text(encoding="utf-8") == text


def test_a_table_file_that_cannot_be_is_refused_at_once(home: Path) -> None:
    for words, sentence in {
        ("-o", "table.xls"): "end it in .md, .csv, .json, .tex, .txt",
        ("-o", "absent/table.md"): "There is no folder absent",
        ("-o", "results"): "does not say its format",
        ("-f", "csv", "-o", "results"): "is a folder",
        ("-f", "csv", "--json"): "give one of them",
    }.items():
        done = CliRunner().invoke(app, ["table", *words])
        assert done.exit_code == 2, words
        assert sentence in done.stderr, words
    assert "\\toprule" not in shown(80, "table", "-o", "table.tex")
    assert "\\toprule" in Path("table.tex").read_text(encoding="utf-8")
