"""The words of the package: names say what they hold, docstrings what is returned; every rule has a planted fault."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastvit_bench

ROOT = Path(fastvit_bench.__file__).parent
SOURCES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py"))}
FILLERS = {
    "found",
    "each",
    "told",
    "made",
    "here",
    "said",
    "theirs",
    "held",
    "rest",
    "now",
    "ours",
    "given",
    "left",
    "seen",
    "kept",
    "those",
    "these",
    "there",
    "them",
    "itself",
    "whole",
    "likewise",
    "else",
    "elsewhere",
    "other",
}
MOST_FILLERS = 0.005  # share of names
OPENINGS = {"What", "Of", "How", "Where", "Why", "Whether", "Likewise", "As"}  # say nothing by themselves
MOST_OPENINGS = 0.01  # share of docstrings
MOST_LINES = 60  # of a function, without a comment above it that says why


def names(source: str) -> Iterator[tuple[str, int]]:
    """Yield every variable and argument that a source names, with its line."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno


def fillers(source: str) -> list[str]:
    """Return the names that are a filler word, or have one among their parts, with their lines."""
    return [f"{name}, line {line}" for name, line in names(source) if FILLERS.intersection(name.split("_"))]


def documented(source: str) -> Iterator[str]:
    """Yield every docstring of a source."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, kinds) and (text := ast.get_docstring(node)):
            yield text


def empty_openings(source: str) -> list[str]:
    """Return the first lines that begin with a word that says nothing by itself."""
    return [text.splitlines()[0] for text in documented(source) if text.split()[0].strip(":,.") in OPENINGS]


def long_functions(source: str) -> list[str]:
    """Return the functions that are too long and say no reason (``# long: …`` above them)."""
    lines = source.splitlines()
    long: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            excused = re.match(r"\s*# long: \w", lines[first - 2]) if first > 1 else None
            if node.end_lineno - node.lineno + 1 > MOST_LINES and not excused:
                long.append(f"{node.name}, line {node.lineno}: {node.end_lineno - node.lineno + 1} lines")
    return long


def public_classes(source: str) -> list[str]:
    """Return the public classes of a source."""
    tree = ast.parse(source)
    return [node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and not node.name.startswith("_")]


def test_names_say_what_they_hold() -> None:
    total = sum(1 for source in SOURCES.values() for _ in names(source))
    empty = {path: words for path, source in SOURCES.items() if (words := fillers(source))}
    assert sum(map(len, empty.values())) <= MOST_FILLERS * total, empty


def test_docstrings_say_what_is_returned_or_done() -> None:
    total = sum(1 for source in SOURCES.values() for _ in documented(source))
    empty = {path: lines for path, source in SOURCES.items() if (lines := empty_openings(source))}
    assert sum(map(len, empty.values())) <= MOST_OPENINGS * total, empty


@pytest.mark.parametrize("path", SOURCES)
def test_a_long_function_says_why(path: str) -> None:
    assert long_functions(SOURCES[path]) == []


def test_a_class_has_a_name_of_its_own() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path, source in SOURCES.items():
        for name in public_classes(source):
            places[name].append(path)
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}


def test_planted_faults_are_noticed() -> None:
    assert fillers("for each in rows:\n    found, _rest = each") == ["each, line 1", "found, line 2", "_rest, line 2"]
    assert fillers("def f(told, *, row_seen, eachway): pass") == ["told, line 1", "row_seen, line 1"]
    assert fillers("rows = [row for row in other]") == []
    assert empty_openings('"""What a thing is."""\ndef f():\n    """Return it."""') == ["What a thing is."]
    body = "\n".join("    x = 1" for _ in range(MOST_LINES))
    assert long_functions(f"def f():\n{body}") == [f"f, line 1: {MOST_LINES + 1} lines"]
    assert long_functions(f"# long: a table of columns\n@cache\ndef f():\n{body}") == []
    assert long_functions(f"# a table of columns\ndef f():\n{body}") != []
    assert public_classes("class A:\n    class B: pass\nclass _C: pass") == ["A", "B"]
