"""The program as users call it, for tests of the command line."""

import os
import subprocess
import sys
from pathlib import Path


def call(*words: str, expect: int | tuple[int, ...] = 0, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own; no traceback is ever right.

    Figures are taken at any speed of the machine, unless a test says how long to wait for it: tests do not depend on
    quiet. Several codes to `expect` are those that a busy machine may give as well.
    """
    if words[:1] == ("latency",) and not {"--wait", "--any-speed"} & set(words):
        words = (*words, "--any-speed")
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "fastvit_bench.cli", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=environment,
    )
    assert "Traceback" not in done.stderr, done.stderr
    codes = expect if isinstance(expect, tuple) else (expect,)
    assert done.returncode in codes, (done.returncode, done.stdout, done.stderr)
    return done


def refused(*words: str, expect: int = 2) -> str:
    """The one sentence that a refused command says."""
    done = call(*words, expect=expect)
    assert done.stdout == ""
    (sentence,) = done.stderr.strip().splitlines()
    assert sentence.startswith("error: ")
    assert sentence.endswith(".")
    return sentence
