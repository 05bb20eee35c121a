"""The pages as a site: each can be reached, every link and command line in them works, and sentences are short."""

import re
import runpy
import shlex
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from fastvit_bench.cli import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = sorted(DOCS.rglob("*.md"))
NAMES = [str(path.relative_to(ROOT)) for path in (README, *PAGES)]
COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]

# rows of the published tables name files of the repository that printed them
OF_OTHERS = {"results/published/paper_tables.csv"}
GENERATED = {"docs/reference/records.md", "docs/reference/configuration.md", "docs/reference/cli.md"}
MOST_WORDS = 20  # of a sentence, on average over a page


def tracked() -> list[Path]:
    """Every text file of the repository."""
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    paths = [ROOT / name for name in listing.split("\0") if name and name not in OF_OTHERS]
    if not paths:
        pytest.skip("not a git checkout")
    return [path for path in paths if path.is_file() and path.suffix not in {".npz", ".gz", ".png", ".onnx", ".svg"}]


# --- the site ---------------------------------------------------------------------------------------------------------


def in_navigation(entries: list[Any]) -> Iterator[str]:
    """Pages of a navigation, in its order."""
    for entry in entries:
        if isinstance(entry, str):
            yield entry
        else:
            for value in entry.values():
                yield from [value] if isinstance(value, str) else in_navigation(value)


def site() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def test_every_page_is_in_the_navigation_once() -> None:
    assert sorted(in_navigation(site()["nav"])) == sorted(str(path.relative_to(DOCS)) for path in PAGES)


def test_the_four_parts_follow_the_start() -> None:
    parts = [next(iter(entry)) for entry in site()["nav"]]
    assert parts == ["Start", "Tutorial", "Guides", "Reference", "Explanation"]


def test_ci_builds_the_site_strictly() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert re.search(r"docs/generate\.py --check\n.*zensical\" build --strict", script, re.DOTALL)


@pytest.mark.parametrize("path", sorted((DOCS / "images").glob("*.svg")), ids=lambda path: path.name)
def test_pictures_fetch_nothing(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"<script|<image|@import|url\((?!#)|href=\"(?!#)", text)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_pictures_show_the_studies(theme: str) -> None:
    frontier, curves = ((DOCS / "images" / f"{name}-{theme}.svg").read_text() for name in ("frontier", "curves"))
    named = ("T8@256", "SA12@256", "SA24@256", "SA36@256", "MA36@256", "MA36@384", "CMT-S@224", "EfficientNet-B2@288")
    assert all(f">{name}</text>" in frontier for name in named)
    assert ">RepMixer</text>" in curves


# --- links ------------------------------------------------------------------------------------------------------------


def broken_links(page: Path, text: str) -> list[str]:
    """Targets of a page's relative links and pictures that do not exist, or that the site does not have."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    targets = re.findall(r"\]\(([^)#\s]+)", prose) + re.findall(r"(?:src|srcset|href)=\"([^\"#]+)", prose)
    broken: list[str] = []
    for target in targets:
        path = (page.parent / target).resolve()
        if "://" not in target and not (path.exists() and (DOCS not in page.parents or DOCS in path.parents)):
            broken.append(target)
    return broken


def test_every_relative_link_leads_somewhere() -> None:
    for page in tracked():
        if page.suffix == ".md":
            assert broken_links(page, page.read_text(encoding="utf-8")) == [], page.relative_to(ROOT)


def test_a_broken_link_is_noticed() -> None:
    text = '[a](docs/index.md#x) [b](docs/gone.md) <img src="gone.svg"> `[c](code.md)` [d](https://example.org/x)'
    assert broken_links(README, text) == ["docs/gone.md", "gone.svg"]
    assert broken_links(DOCS / "index.md", "[a](../README.md) [b](tutorial.md)") == ["../README.md"]


def missing_paths(text: str) -> list[str]:
    """Paths below docs/ that a text mentions and that do not exist."""
    mentioned = re.findall(r"(?<![\w./:@-])docs/[\w./-]*[\w/]", text)
    return [path for path in mentioned if not (ROOT / path).exists()]


def test_every_mentioned_path_of_docs_exists() -> None:
    for path in tracked():
        if path != Path(__file__):
            assert missing_paths(path.read_text(encoding="utf-8")) == [], path.relative_to(ROOT)


def test_a_mention_of_a_moved_page_is_noticed() -> None:
    assert missing_paths("see docs/gate.md and docs/explanation/gate.md, docs/adr/.") == ["docs/gate.md", "docs/adr/"]


# --- command lines ----------------------------------------------------------------------------------------------------


def command_lines(text: str) -> Iterator[list[str]]:
    """The words of every command line of this tool in a page, in blocks of code and within sentences."""
    for block in re.findall(r"```\w*\n(.*?)```", text, re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            if match := re.search(r"(?:^|[\s/(])fastvit-bench ([a-z].*)", line):
                yield words(match[1])
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for code in re.findall(r"`([^`\n]+)`", prose):
        if match := re.match(r"(?:\S*/)?fastvit-bench ([a-z].*)", code):
            yield words(match[1])
        elif code.split()[0] in COMMANDS and " -" in code:
            yield words(code)


def words(line: str) -> list[str]:
    """Split a line as a shell does, up to a comment or the next command; what is in brackets may be left out."""
    first = re.split(r"\s#|\s&&\s|\s\|\s|\s>", line)[0]
    return [word for word in shlex.split(first) if not word.startswith("[")]


def refusal(line: list[str]) -> str | None:
    """Why the program does not take a command line; None if it does, or if words are left out. Nothing is run."""
    name, *arguments = line
    if name not in COMMANDS:
        return f"there is no command {name}"
    try:
        COMMANDS[name].make_context(name, arguments)
    except Exception as error:  # of click, or of the copy of it that Typer brings
        return None if type(error).__name__ == "MissingParameter" else str(error)
    return None


@pytest.mark.parametrize("name", NAMES)
def test_every_command_line_is_accepted(name: str) -> None:
    for line in command_lines((ROOT / name).read_text(encoding="utf-8")):
        assert refusal(line) is None, shlex.join(line)


@pytest.mark.parametrize(
    "text",
    [
        "`fastvit-bench measure --device cpu`",
        "`latency --devices cpu`",
        "```bash\n$ fastvit-bench table --format html  # a page\n```",
        "```yaml\n    - fastvit-bench gate \\\n      --baseline-revision main\n```",
        "```bash\npip install -e . && .venv/bin/fastvit-bench latency --ress 256\n```",
    ],
)
def test_a_wrong_command_line_is_noticed(text: str) -> None:
    [line] = command_lines(text)
    assert refusal(line)


def test_command_lines_are_found() -> None:
    counts = {name: len(list(command_lines((ROOT / name).read_text(encoding="utf-8")))) for name in NAMES}
    assert counts["README.md"] >= 6
    assert counts["docs/guides/index.md"] >= 30
    assert {line[0] for line in command_lines((DOCS / "guides" / "index.md").read_text(encoding="utf-8"))} == {
        *COMMANDS
    }


# --- words ------------------------------------------------------------------------------------------------------------


def sentences(text: str) -> list[str]:
    """Sentences of a page, without code, tables, headings and raw HTML; a code in a sentence is one word."""
    text = re.sub(r"<!--.*?-->|```.*?```", "", text, flags=re.DOTALL)
    text = re.sub(r"^(?:\||#|:::|    |<|!\[).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"`[^`]*`", "code", text)
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", text)
    parts = re.split(r"(?<=[.!?:])\s+|\n\s*\n|\n\s*(?:[-*]|\d+\.)\s", text)
    return [part for part in parts if len(part.split()) > 2]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in GENERATED])
def test_sentences_are_short(name: str) -> None:
    lengths = [len(sentence.split()) for sentence in sentences((ROOT / name).read_text(encoding="utf-8"))]
    assert not lengths or sum(lengths) / len(lengths) <= MOST_WORDS


def test_the_readme_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").split()) < 900


@pytest.mark.slow
def test_the_pictures_of_the_readme_are_those_that_the_script_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Charts and stored studies change; then the script draws them again. Places depend on this machine's fonts."""
    drawn: dict[str, bytes] = {}
    script = runpy.run_path(str(ROOT / "docs" / "pictures.py"))
    monkeypatch.setitem(script["main"].__globals__, "write", lambda path, data: drawn.update({path.name: data}))
    script["main"]()
    assert len(drawn) == 4
    for name, picture in drawn.items():
        stored = (ROOT / "docs" / "images" / name).read_text(encoding="utf-8")
        assert parts(stored) == parts(picture.decode()), f"{name} is stale: python docs/pictures.py"


def parts(picture: str) -> tuple[list[str], Counter[str]]:
    """The texts of a picture, and how often it has each colour."""
    return sorted(re.findall(r">([^<>]+)</text>", picture)), Counter(re.findall(r"#[0-9a-f]{6}", picture))
