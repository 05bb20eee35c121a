"""The pages say what the program does: generated ones are fresh, the README holds the commands that are run."""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import jsonschema
import msgspec
import pytest
import typer
from builders import accuracy, artifact, failure, measurement, request, run, shape, spec, tally
from commands import call

from fastvit_bench.cli import app
from fastvit_bench.network.registry import VARIANTS
from fastvit_bench.records import Weights
from fastvit_bench.store import runs

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = (ROOT / "docs" / "guides" / "index.md").read_text(encoding="utf-8")
TIMING = (ROOT / "docs" / "explanation" / "timing.md").read_text(encoding="utf-8")
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.fixture
def generate(tmp_path: Path) -> ModuleType:
    """docs/generate.py, writing into a folder of the test."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    for path in module.pages():
        copy = tmp_path / path.relative_to(ROOT / "docs")
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(path, copy)
    module.DOCS = tmp_path
    return module


def test_generated_pages_are_fresh(generate: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    assert generate.main() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    [
        "reference/cli.md",
        *(
            pytest.param(f"reference/{name}", marks=pytest.mark.slow)
            for name in ("configuration.md", "records.md", "run.schema.json")
        ),
    ],
)
def test_a_stale_page_is_found_and_named(
    generate: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], page: str
) -> None:
    path = generate.DOCS / page
    path.write_text(path.read_text(encoding="utf-8").replace("a", "b", 1), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    assert generate.main() == 1
    assert f"{Path(page).name} is stale" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["generate.py"])
    assert generate.main() == 0
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    assert generate.main() == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("old", "new"), [("| 15.4 % |", "| 26.9 % |"), ("By the tables 15.4 %.", "By the tables 26.9 %.")]
)
def test_a_number_typed_into_the_page_of_claims_is_found_and_prose_is_kept(
    generate: ModuleType, monkeypatch: pytest.MonkeyPatch, old: str, new: str
) -> None:
    path = generate.DOCS / "explanation" / "claims.md"
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new).replace("# What the paper", "# All the paper"), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["generate.py", "--check"])
    assert generate.main() == 1
    monkeypatch.setattr(sys, "argv", ["generate.py"])
    assert generate.main() == 0
    assert path.read_text(encoding="utf-8") == text.replace("# What the paper", "# All the paper")
    path.write_text(text.replace("<!-- end -->", ""), encoding="utf-8")
    with pytest.raises(SystemExit, match="lacks the marks"):
        generate.main()


def test_a_new_option_makes_the_reference_stale(generate: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    before = generate.cli_reference()
    parameter = COMMANDS["table"].params[-1]
    monkeypatch.setattr(parameter, "help", "Something else.")
    monkeypatch.setattr(generate.typer.main, "get_command", lambda _: type("G", (), {"help": "", "commands": COMMANDS}))
    assert generate.cli_reference() != before


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_and_option_is_explained(name: str) -> None:
    command = COMMANDS[name]
    assert command.help
    for parameter in command.params:
        assert parameter.help, f"{name} {parameter.name}"
    assert f"\nfastvit-bench {name}" in GUIDES, f"the list of all commands lacks `{name}`"


def test_every_key_of_the_settings_is_explained(generate: ModuleType) -> None:
    page = generate.configuration_reference()
    document = tomllib.loads((ROOT / "benchmark.toml").read_text(encoding="utf-8"))
    for name, table in document.items():
        tables = table.values() if name in {"model", "device", "study"} else [table]
        heading = f"## [{name}.NAME]" if name in {"model", "device", "study"} else f"## [{name}]"
        section = page.split(f"{heading}\n")[1].split("\n## ")[0]
        for key in {key for each in tables for key in each}:
            assert re.search(rf"^\| `{key}` \| \w.* \| .+ \| \w.* \|$", section, re.MULTILINE), f"[{name}] {key}"


def test_records_keep_the_published_schema() -> None:
    schema = json.loads((ROOT / "docs" / "reference" / "run.schema.json").read_text(encoding="utf-8"))
    for line in (run(), measurement(), failure(), tally(), accuracy()):
        document = json.loads(msgspec.json.encode(line))
        jsonschema.validate(document, schema)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**document, "surprise": 1}, schema)


def test_ci_runs_the_readmes_own_test_line() -> None:
    first, second = re.findall(r"^python3 -m venv .*$", README, re.MULTILINE)[:2]
    assert "fastvit-bench latency --device cpu" in first
    assert second.endswith("pytest")
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert f"\n{second}\n" in script
    for tool in ("ruff check", "ruff format --check", "pyright", "docs/generate.py --check"):
        assert tool in script


SIZES = (224, 256, 384, 512, 768, 1024)


def test_the_table_of_one_processor_is_what_the_command_prints(tmp_path: Path) -> None:
    """Columns, models, published figures and caption; the figures themselves are of a run that is not kept here."""
    specs = [spec(name=name, variant=name, published=f"FastViT-{name[8:].upper()}") for name in VARIANTS]
    random = Weights(origin="random", seed=0)
    path = runs.create(tmp_path, run(request=request(models=tuple(specs))))
    for at, name in enumerate(VARIANTS):
        for size in SIZES:
            made = artifact(model=name, variant=name, shape=shape(size), weights=random, params=4_000_000 + at * 10**6)
            made = msgspec.structs.replace(made, macs=round(VARIANTS[name].gmacs * size**2 / 256**2 * 1e9))
            runs.append(path, measurement(artifact=made))
    printed = call("table", str(path), "--compact", "--format", "markdown", cwd=tmp_path).stdout
    caption, table, _ = printed.split("\n\n")
    assert f"\n{caption}\n\n| model " in TIMING
    ours, stated = (
        [line.split(" | ") for line in text.splitlines() if line.startswith("| ")] for text in (table, TIMING)
    )
    stated = stated[: len(ours)]
    assert stated[:2] == ours[:2]
    assert len(stated) == len(VARIANTS) + 2
    for line, other in zip(ours[2:], stated[2:], strict=True):
        assert (line[0], line[-3:]) == (other[0], other[-3:])
        assert all(re.fullmatch(r"\d[\d.]*(\\\*)? \[\d[\d.]*, \d[\d.]*\]", cell) for cell in other[3:-3])
        assert len(other) == len(line)


def table_rows(text: str) -> list[dict[str, str]]:
    """Rows of a page's table of latencies, by column."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith(("| model ", "| fastvit_"))]
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]


def test_the_readmes_table_has_figures_of_the_whole_table() -> None:
    short, whole = table_rows(README), table_rows(TIMING)
    assert [row["model"] for row in short] == list(VARIANTS)
    assert "published top-1 % (not distilled)" in short[0]
    for row, complete in zip(short, whole, strict=True):
        assert row.items() <= complete.items()


def test_nothing_names_the_place_it_was_made_in() -> None:
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    names = [name for name in tracked.split("\0") if name and not name.endswith((".npz", ".gz"))]
    if not names:
        pytest.skip("not a git checkout")
    pattern = re.compile(r"/(?:home|root|work|Users)/[a-z]")
    for name in names:
        if (ROOT / name).is_file() and name != "tests/test_docs.py":
            assert not pattern.search((ROOT / name).read_text(encoding="utf-8")), name
