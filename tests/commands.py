"""The program as users call it, for tests of the command line.

Every call is a process of its own. Most are forked from one that has imported already what earlier calls imported,
because a new interpreter spends up to five seconds of processor time on imports, and the suite calls it hundreds of
times. What an interpreter or its libraries read when they start gets a new interpreter nevertheless.
"""

import atexit
import gc
import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, ClassVar

# of the environment's variables, those that act when an interpreter or a library is loaded
_READ_AT_START = ("PYTHON", "LD_", "DYLD_", "LANG", "LC_", "OMP_", "GOMP_", "CUDA")


def call(
    *words: str,
    expect: int | tuple[int, ...] = 0,
    cwd: Path | None = None,
    fresh: bool = False,
    environment: dict[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run the program in a process of its own; no traceback is ever right. With `fresh`, in a new interpreter.

    Figures are taken at any speed of the machine, unless a test says how long to wait for it: tests do not depend on
    quiet. Several codes to `expect` are those that a busy machine may give as well. An `environment` is added to the
    usual one.
    """
    if words[:1] == ("latency",) and not {"--wait", "--any-speed"} & set(words):
        words = (*words, "--any-speed")
    environment = {**os.environ, "COLUMNS": "200", "NO_COLOR": "1", "OMP_NUM_THREADS": "1", **(environment or {})}
    # elsewhere than on Linux, forks do without what frameworks of the system have begun
    if fresh or sys.platform != "linux" or _at_start(environment) != _at_start(_Server.environment):
        done = subprocess.run(
            [sys.executable, "-m", "fastvit_bench.cli", *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=cwd,
            env=environment,
        )
    else:
        done = _Server.run(words, cwd or Path.cwd(), environment)
    assert "Traceback" not in done.stderr, done.stderr
    codes = expect if isinstance(expect, tuple) else (expect,)
    assert done.returncode in codes, (done.returncode, done.stdout, done.stderr)
    return done


def refused(*words: str, expect: int = 2, cwd: Path | None = None) -> str:
    """The one sentence that a refused command says."""
    done = call(*words, expect=expect, cwd=cwd)
    assert done.stdout == ""
    (sentence,) = done.stderr.strip().splitlines()
    assert sentence.startswith("error: ")
    assert sentence.endswith(".")
    return sentence


def _at_start(environment: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(_READ_AT_START)}


# --- forked processes -------------------------------------------------------------------------------------------------

# modules that are imported before the next fork once a call has needed them; onnxruntime starts a thread, and no fork
# has the threads of its origin
_WARM = {"altair", "coremltools", "jinja2", "onnx", "pandas", "rich.table", "scipy.stats", "torch"}
_WARM |= {"vl_convert"}


class _Server:
    """The process that forks; one for each process of tests, started by the first call."""

    environment: ClassVar = {**os.environ, "OMP_NUM_THREADS": "1"}  # as it was before any test
    process: subprocess.Popen[str] | None = None

    @classmethod
    def run(cls, words: tuple[str, ...], cwd: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
        if cls.process is None:
            cls.process = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=cls.environment | {"OPENBLAS_NUM_THREADS": "1"},
                cwd=Path(__file__).parent.parent,
            )
            atexit.register(cls.process.communicate)  # its standard input ends, and so does it
        assert cls.process.stdin is not None
        assert cls.process.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            streams = [str(Path(folder, name)) for name in ("stdout", "stderr")]
            request = {"words": words, "cwd": str(cwd), "environment": environment, "streams": streams}
            cls.process.stdin.write(json.dumps(request) + "\n")
            cls.process.stdin.flush()
            code = int(cls.process.stdout.readline())
            stdout, stderr = (Path(stream).read_text(encoding="utf-8") for stream in streams)
        return subprocess.CompletedProcess(words, code, stdout, stderr)


def _serve() -> dict[str, Any]:
    """Fork for every request; returns it in the forked process."""
    while line := sys.stdin.readline():
        request = json.loads(line)
        told, tells = os.pipe()
        gc.freeze()  # nothing that a forked process never touches need be copied for it
        if not (child := os.fork()):
            os.close(told)
            atexit.register(_tell_imports, tells)
            return request
        os.close(tells)
        with os.fdopen(told, encoding="utf-8") as pipe:
            imported = pipe.read()
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for name in json.loads(imported or "[]"):
            importlib.import_module(name)
        sys.stdout.write(f"{code}\n")
        sys.stdout.flush()
    sys.exit()


def _tell_imports(pipe: int) -> None:
    own = [name for name in sys.modules if name.startswith("fastvit_bench.") and not name.endswith("__main__")]
    os.write(pipe, json.dumps([*own, *(name for name in _WARM if name in sys.modules)]).encode())


def _become(request: dict[str, Any]) -> None:
    """Take over the folder, the environment, the streams and the words of a request."""
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for target, path in enumerate([os.devnull, *request["streams"]]):
        stream = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(stream, target)
        os.close(stream)
    sys.argv = ["fastvit-bench", *request["words"]]


def _end(code: int) -> None:
    """End a forked process as an interpreter does, but for taking apart what it had imported."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


if __name__ == "__main__":
    from fastvit_bench.cli import main

    _become(_serve())
    try:
        main()
    except SystemExit as ended:
        _end(ended.code if isinstance(ended.code, int) else int(ended.code is not None))
    _end(0)
