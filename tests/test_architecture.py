"""The floors of the house, read from the imports; every rule has a planted fault that must be found."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import fastvit_bench

ROOT = Path(fastvit_bench.__file__).parent

FLOORS = {
    "__init__": 0,
    "records": 0,
    "verdicts": 0,
    "studies": 0,
    "errors": 0,
    "variants": 0,
    "catalogue": 0,
    "peers": 0,
    "resources": 0,
    "files": 0,
    "cgroups": 0,
    "products": 0,
    "cuda": 0,
    "stats": 0,
    "config": 1,
    "network": 1,
    "backends": 1,
    "render": 0,
    "report": 2,
    "store": 1,
    "measure": 2,
    "build": 3,
    "probing": 3,
    "elsewhere": 4,
    "worker": 4,
    "revisions": 4,
    "sweep": 5,
    "evaluation": 6,
    "sides": 6,
    "ceilings": 6,
    "turns": 7,
    "study": 8,
    "cli": 9,
    "api": 9,
}
HEAVY = {
    "torch",
    "pandas",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "coremltools",
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
}


def imports(source: str) -> set[str]:
    """Modules of this package that a source imports, anywhere in it; type-checking imports do not run."""
    found: set[str] = set()
    for node in ast.walk(_without_type_checking(ast.parse(source))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name.removeprefix("fastvit_bench").lstrip(".") for name in found if name.split(".")[0] == "fastvit_bench"}


def violations(module: str, source: str) -> list[str]:
    """Broken rules of one module, given by its dotted name inside the package (``measure.latency``)."""
    room = module.split(".")[0]
    broken: list[str] = []
    for name in sorted(imports(source) - {""}):
        other = name.split(".")[0]
        if other not in FLOORS:  # a name of the package itself, such as __version__
            continue
        if other != room and FLOORS[other] >= max(FLOORS[room], 1):  # the ground floor is one room
            broken.append(f"{module} (floor {FLOORS[room]}) imports {name} (floor {FLOORS[other]})")
        # what several backends share begins with an underscore
        siblings = {path.stem for path in (ROOT / "backends").glob("*.py") if not path.stem.startswith("_")}
        if (
            module.startswith("backends.")
            and other == "backends"
            and name.split(".")[1:2]
            and (name.split(".")[1] in siblings and name.split(".")[1] != module.split(".")[1])
        ):
            broken.append(f"{module} imports its sibling {name}")
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            if room != "cli" and called in {"print", "typer.echo", "sys.stdout.write", "rich.print"}:
                broken.append(f"{module} prints, line {node.lineno}")
        clocks = {"perf_counter", "perf_counter_ns", "monotonic", "monotonic_ns", "process_time", "process_time_ns"}
        if isinstance(node, ast.Attribute) and node.attr in clocks and room != "measure":
            broken.append(f"{module} reads a clock, line {node.lineno}")
        if isinstance(node, ast.Constant) and node.value == ".jsonl" and module != "report.store":
            broken.append(f"{module} knows what a run file is called, line {node.lineno}")
    return broken


def _without_type_checking(tree: ast.Module) -> ast.Module:
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
    ]
    return tree


def modules() -> dict[str, str]:
    """Dotted name -> source of every module of the package."""
    found: dict[str, str] = {}
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts if parts[-1] != "__init__" or len(parts) == 1 else parts[:-1])
        found[name] = path.read_text(encoding="utf-8")
    return found


@pytest.mark.parametrize("module", sorted(modules()))
def test_module_keeps_the_rules(module: str) -> None:
    assert module.split(".")[0] in FLOORS, "a new room needs a floor here and in docs/design.md"
    assert violations(module, modules()[module]) == []


@pytest.mark.parametrize("module", sorted(modules()))
def test_module_says_what_it_is_for(module: str) -> None:
    docstring = ast.get_docstring(ast.parse(modules()[module]))
    assert docstring


@pytest.mark.parametrize(
    ("module", "source", "broken"),
    [
        ("records", "from fastvit_bench import config", "floor 0"),
        ("network.fastvit", "from fastvit_bench.backends import onnxruntime", "floor 1"),
        ("report.table", "import fastvit_bench.measure.latency", "floor 2"),
        ("config", "def f():\n    from fastvit_bench.sweep import plan", "floor 1"),
        ("backends.coreml", "from fastvit_bench.backends.onnxruntime import BACKEND", "sibling"),
        ("backends.coreml", "from fastvit_bench.backends import onnxruntime", "sibling"),
        ("backends._onnx", "from fastvit_bench.backends import onnxruntime", "sibling"),
        ("sweep", "print('hello')", "prints"),
        ("report.store", "import time\ntime.perf_counter_ns()", "clock"),
        ("sweep", "open(name + '.jsonl', 'a')", "run file"),
        ("api", "print('hello')", "prints"),
        ("api", "from fastvit_bench.cli import _values", "floor 9"),
        ("turns", "from fastvit_bench.cli._screen import stdout", "floor 7"),
        ("cli.reporting", "from fastvit_bench import api", "floor 9"),
        ("cli._screen", "import time\ntime.monotonic()", "clock"),
        ("cli._values", "results.glob('*' + '.jsonl')", "run file"),
    ],
)
def test_planted_fault_is_found(module: str, source: str, broken: str) -> None:
    assert any(broken in found for found in violations(module, source))


@pytest.mark.parametrize("name", ["_onnx", "_engines"])
def test_backends_may_import_what_they_share(name: str) -> None:
    assert violations("backends.tensorrt", f"from fastvit_bench.backends import {name}") == []


@pytest.mark.parametrize("source", ["print('hello')", "from fastvit_bench.cli import _screen"])
def test_commands_may_print_and_share(source: str) -> None:
    assert violations("cli.reporting", source) == []


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
