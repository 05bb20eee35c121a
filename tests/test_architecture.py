"""The rules of docs/explanation/architecture.md, read from that page; each has a planted fault to be noticed."""

import ast
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

import fastvit_bench

ROOT = Path(fastvit_bench.__file__).parent
PAGE = ROOT.parent / "docs" / "explanation" / "architecture.md"
CLOCKS = {"perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "process_time", "process_time_ns"}
HEAVY = {
    "torch",
    "pandas",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "coremltools",
    "coreai",
    "coreai_torch",
    "safetensors",
    "timm",
    "PIL",
    "scipy",
} | {
    "tensorrt",
    "tensorrt_rtx",
    "tensorrt_rtx_bindings",
    "cuda",
    "pycuda",
    "pynvml",
    "altair",
    "vl_convert",
    "dask",
    "distributed",
}
PRINTERS = {"print", "typer.echo", "sys.stdout.write", "rich.print"}


def layers(heading: str) -> dict[str, set[str]]:
    """Folder or module -> what its line of the table below a heading allows it to import, in the table's order."""
    section = PAGE.read_text(encoding="utf-8").split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("| `")]
    cells = [[re.findall(r"`([\w.]+)`", cell) for cell in line.strip("|").split("|")] for line in lines]
    return {name: set(allowed[-1]) for names, *allowed in cells for name in names}


LAYERS = layers("Layers")
INSIDE = {folder: layers(f"Inside `{folder}`") for folder in ("render", "comparing")}


def sources() -> dict[str, str]:
    """Dotted name inside the package -> source of every module."""
    paths = {path.relative_to(ROOT).with_suffix("").parts: path for path in ROOT.rglob("*.py")}
    return {
        ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts): path.read_text(encoding="utf-8")
        for parts, path in paths.items()
    }


SOURCES = sources()


def unit(module: str, table: Mapping[str, set[str]]) -> str:
    """Return the longest prefix of a module's name that has a line of its own in a table."""
    parts = module.split(".")
    prefixes = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
    return next((prefix for prefix in prefixes if prefix in table), parts[0])


def imported(source: str) -> set[str]:
    """Return the modules of this package that a source imports anywhere, but for annotations only."""
    tree = ast.parse(source)
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            dotted = (f"{node.module}.{alias.name}" for alias in node.names)
            names.update(name if name.removeprefix("fastvit_bench.") in SOURCES else node.module for name in dotted)
    return {name.removeprefix("fastvit_bench.") for name in names if name.startswith("fastvit_bench.")}


def broken_layers(module: str, source: str) -> list[str]:
    """Return the imports of a module that no line of the page allows."""
    own, folder = unit(module, LAYERS), module.split(".")[0]
    broken = [
        f"{module} imports {name}: '{own}' may not import '{other}'"
        for name in sorted(imported(source))
        if (other := unit(name, LAYERS)) != own and other not in LAYERS.get(own, set())
    ]
    if (table := INSIDE.get(folder)) is None or own != folder:
        return broken
    inner = unit(module.removeprefix(f"{folder}."), table)
    for name in sorted(imported(source)):
        other = unit(name.removeprefix(f"{folder}."), table)
        if unit(name, LAYERS) == folder and other not in {inner, folder} | table.get(inner, set()):
            broken.append(f"{module} imports {name}: inside {folder}, '{inner}' may not import '{other}'")
    return broken


# modules that read files of the system or of the package itself, which nobody else can write
READ_THE_SYSTEM = {
    "backends._cgroups",
    "measuring.resources",
    "backends._nvidia.cuda.driver",
    "backends.pytorch",
    "exporting.metadata",
    "install",
    "measuring.machine",
    "measuring.processor",
    "render.page",
    "store.cache",
}


def broken_rules(module: str, source: str) -> list[str]:
    """Return what a module breaks of the rules below the tables, in words."""
    broken: list[str] = []
    folder = module.split(".")[0]
    if folder == "backends":
        parts = module.split(".")
        shared = {"base", ""} | {name.split(".")[1] for name in SOURCES if name.startswith("backends._")}
        for name in imported(source):
            other = name.split(".")[1] if name.startswith("backends.") else ""
            if other not in shared | {parts[1] if len(parts) > 1 else ""}:
                broken.append(f"{module} imports its sibling {name}")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and folder != "cli" and ast.unparse(node.func) in PRINTERS:
            broken.append(f"{module} prints, line {node.lineno}")
        if isinstance(node, ast.Attribute) and node.attr in CLOCKS and folder != "measuring":
            broken.append(f"{module} reads a clock, line {node.lineno}")
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in {"read_bytes", "read_text"}
            and ast.unparse(node.func.value) != "files"
            and module not in {"files", *READ_THE_SYSTEM}
        ):
            broken.append(f"{module} opens a file without asking what it is, line {node.lineno}")
        if isinstance(node, ast.Constant) and node.value == ".jsonl" and module != "store.runs":
            broken.append(f"{module} knows what a run file is called, line {node.lineno}")
    return broken


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_a_module_keeps_the_layers_and_rules(module: str) -> None:
    if module != "__init__":
        assert unit(module, LAYERS) in LAYERS, "a new folder needs a line in docs/explanation/architecture.md"
        assert broken_layers(module, SOURCES[module]) == []
    assert broken_rules(module, SOURCES[module]) == []
    assert ast.get_docstring(ast.parse(SOURCES[module]))


@pytest.mark.parametrize("table", [LAYERS, *INSIDE.values()], ids=["layers", *INSIDE])
def test_what_a_line_may_import_stands_above_it(table: dict[str, set[str]]) -> None:
    names = list(table)
    assert len(names) > 5
    for at, name in enumerate(names):
        ground = {"errors", "files", "records", "stats"} if table is LAYERS and at < 4 else set()
        assert table[name] <= set(names[:at]) | ground, name


def test_every_permission_is_used() -> None:
    used: dict[str, set[str]] = {name: set() for name in LAYERS}
    for module, source in SOURCES.items():
        if module != "__init__":
            own = unit(module, LAYERS)
            used[own] |= {unit(name, LAYERS) for name in imported(source)} - {own}
    assert {name: allowed - used[name] for name, allowed in LAYERS.items() if allowed - used[name]} == {}


def test_the_page_and_the_package_have_the_same_folders() -> None:
    folders = {module.split(".")[0] for module in SOURCES} - {"__init__"}
    assert {name.split(".")[0] for name in LAYERS} == folders


@pytest.mark.parametrize(
    ("module", "source", "broken"),
    [
        ("records.spec", "from fastvit_bench import config", "'records' may not import 'config'"),
        ("network.fastvit", "from fastvit_bench.backends import onnxruntime", "may not import 'backends'"),
        ("render.rows", "import fastvit_bench.measuring.latency", "may not import 'measuring'"),
        ("config", "def f():\n    from fastvit_bench.sweep import plan", "may not import 'sweep'"),
        ("api", "from fastvit_bench.cli import _resolve", "may not import 'cli'"),
        ("comparing.interleaved", "from fastvit_bench.cli._output import stdout", "may not import 'cli'"),
        ("measuring.worker", "from fastvit_bench.accuracy import run", "may not import 'accuracy'"),
        ("render.rows", "from fastvit_bench.render.page import content", "may not import 'render.page'"),
        ("paper.published", "from fastvit_bench.paper import claims", "may not import 'paper'"),
        (
            "render.table",
            "from fastvit_bench.render import terminal",
            "inside render, 'table' may not import",
        ),
        ("render.markdown", "from fastvit_bench.render.rows import Row", "inside render, 'markdown' may not"),
        ("comparing.phrases", "from fastvit_bench.comparing import chart", "inside comparing, 'phrases' may not"),
        (
            "comparing.inputs",
            "from fastvit_bench.comparing.interleaved import results",
            "'inputs' may not",
        ),
        (
            "comparing.terminal",
            "from fastvit_bench.comparing.formats.junit import junit",
            "'terminal' may",
        ),
    ],
)
def test_a_planted_import_is_found(module: str, source: str, broken: str) -> None:
    assert any(broken in fault for fault in broken_layers(module, source))


@pytest.mark.parametrize(
    ("module", "source", "broken"),
    [
        ("backends.coreml", "from fastvit_bench.backends.onnxruntime import BACKEND", "sibling"),
        ("backends.coreml.program", "from fastvit_bench.backends import onnxruntime", "sibling"),
        ("backends._onnx.model", "from fastvit_bench.backends import onnxruntime", "sibling"),
        ("sweep.run", "print('hello')", "prints"),
        ("api", "print('hello')", "prints"),
        ("store.runs", "import time\ntime.perf_counter_ns()", "clock"),
        ("cli._output", "import time\ntime.monotonic()", "clock"),
        ("sweep.run", "open(name + '.jsonl', 'a')", "run file"),
        ("cli._resolve", "results.glob('*' + '.jsonl')", "run file"),
        ("store.peaks", "path.read_bytes()", "without asking what it is"),
        ("config", "Path('benchmark.toml').read_text()", "without asking what it is"),
    ],
)
def test_a_planted_fault_is_found(module: str, source: str, broken: str) -> None:
    assert any(broken in fault for fault in broken_rules(module, source))


@pytest.mark.parametrize("name", ["_onnx", "_nvidia", "base"])
def test_backends_may_import_what_they_share(name: str) -> None:
    assert broken_rules("backends.tensorrt", f"from fastvit_bench.backends import {name}") == []


@pytest.mark.parametrize("source", ["print('hello')", "from fastvit_bench.cli import _output"])
def test_commands_may_print_and_share(source: str) -> None:
    assert broken_rules("cli.report", source) + broken_layers("cli.report", source) == []


@pytest.mark.parametrize("words", [["--help"], ["latency", "--help"], ["devices"], ["--version"]])
def test_light_commands_import_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "from fastvit_bench.cli import main\n"
        f"sys.argv = ['fastvit-bench', *{words!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code, end.code\n"
        f"print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stderr.splitlines()[-1] == "[]"
    assert done.stdout
