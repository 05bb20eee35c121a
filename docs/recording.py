"""Records real commands with their real output as a picture of a terminal, for README.md.

python docs/recording.py        write docs/images/terminal.svg

The commands run in a temporary folder that holds a copy of results/cpu-reference. Their figures were measured when that
study was; nothing is timed here, so the picture does not depend on how busy this machine is.
"""

import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from fastvit_bench.files import write

DOCS = Path(__file__).parent
REPOSITORY = DOCS.parent
WIDTH = 100  # columns
COMMANDS = (
    "fastvit-bench export --target onnx --model fastvit_t8 --res 256",
    "fastvit-bench study architecture --stored results/cpu-reference | head -22",
)


def output(command: str, folder: Path) -> str:
    """Run a command of this checkout in a folder and return everything it prints, with its colours."""
    program = f"{shlex.quote(sys.executable)} -m fastvit_bench.cli"
    environment = {"COLUMNS": str(WIDTH), "FORCE_COLOR": "1", "PYTHONPATH": str(REPOSITORY), "PYTHONUTF8": "1"}
    return subprocess.run(
        ["bash", "-c", f"({command.replace('fastvit-bench', program, 1)}) 2>&1"],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout


def recording(outputs: dict[str, str]) -> str:
    """Return commands and their outputs as an SVG of a terminal, which fetches no font."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, legacy_windows=False)
    for command, text in outputs.items():
        console.print(Text.assemble(("$ ", "bold green"), (command, "bold")), soft_wrap=True)
        console.print(Text.from_ansi(text.rstrip()))
        console.print()
    without_fonts = re.sub(r"@font-face \{\{.*?\}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
    return console.export_svg(
        title="fastvit-bench", theme=MONOKAI, code_format=without_fonts, unique_id="terminal-recording"
    )


def main() -> int:
    """Run the commands and write the picture."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(REPOSITORY / "results" / "cpu-reference", folder / "results" / "cpu-reference")
        outputs = {command: output(command, folder) for command in COMMANDS}
    text = "\n".join(line.rstrip() for line in recording(outputs).splitlines())
    write(DOCS / "images" / "terminal.svg", f"{text}\n".encode())
    print("wrote terminal.svg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
