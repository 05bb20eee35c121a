"""What a proved Core ML export costs over a bare conversion of the same network by coremltools.

One side is `fastvit-bench export --target coreml`: weights, fusing, conversion, writing, reading back, the proof. The
other is the shortest script that converts and saves the same folded network, without any proof. Both are whole
processes from start to end, turn by turn, so the import of torch and coremltools is in both. The time that the one call
of `coremltools.convert` takes inside the bare script is reported beside it, without a goal.

Goal: the export takes at most twice the bare conversion. Exits with 1 when it is missed.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from _interleave import Ratio, Side, command, compare, interleave
from _report import Goal, finish, number, parser, pixels, report, say_ratio, ticker
from overhead import tool

from fastvit_bench.measuring.machine import Watch
from fastvit_bench.network.registry import VARIANTS

LIMIT = 2.0
OURS, BARE = "fastvit-bench export", "bare conversion"

# prints the nanoseconds of the one call of convert
SCRIPT = """
import sys, time, torch, coremltools as ct
from fastvit_bench.network import checkpoint, reparam
from fastvit_bench.records import Head, Layout
name, size, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
network, _ = checkpoint.randomised(name, Head.CLASSIFIER, 1000, 0)
network = reparam.fold(network, Layout(images="centred", doubling="grouped")).float().eval()
shape = (1, 3, size, size)
with torch.no_grad():
    program = torch.export.export(network, (torch.zeros(shape),)).run_decompositions({})
image = ct.ImageType(name="image", shape=shape, scale=1 / 255, bias=[-0.485, -0.456, -0.406])
start = time.perf_counter_ns()
model = ct.convert(program, inputs=[image], minimum_deployment_target=ct.target.iOS16, skip_model_load=True)
print(time.perf_counter_ns() - start)
model.save(path)
"""


def bare(words: Sequence[str], calls_ns: list[int]) -> Side:
    """The bare script as a side; what it says of its call of `coremltools.convert` is added to `calls_ns`."""

    def block() -> float:
        start = time.perf_counter()
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        wall_s = time.perf_counter() - start
        calls_ns.append(int(done.stdout.split()[-1]))
        return wall_s * 1e3

    return block


def judge(ratio: Ratio) -> Goal:
    """Whether the proof costs no more than the conversion itself."""
    claim = f"{ratio.what}: an export at most {LIMIT} times a bare conversion"
    return Goal(claim=claim, met=ratio.ratio <= LIMIT, reason=number(ratio))


def main() -> int:
    """Time the two; returns the exit code."""
    options = parser(__doc__, blocks=7, runs=None)
    options.add_argument("--model", choices=list(VARIANTS), default="fastvit_t8", help="variant (%(default)s)")
    options.add_argument("--res", type=pixels, default=256, help="height and width in pixels (%(default)s)")
    asked = options.parse_args()
    watch = Watch()
    calls_ns: list[int] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        words = ["--target", "coreml", "--model", asked.model, "--res", str(asked.res), "-o", "ours.mlpackage"]
        plain = [sys.executable, "-c", SCRIPT, asked.model, str(asked.res), str(folder / "bare.mlpackage")]
        sides = {OURS: command([tool(), "export", *words], folder), BARE: bare(plain, calls_ns)}
        what = f"{asked.model} {asked.res} b1"
        blocks = interleave(what, sides, asked.blocks, asked.seed, ticker(what))
    ratio = compare(blocks, OURS, BARE)
    say_ratio(ratio)
    call_s = statistics.median(calls_ns) / 1e9
    remark = f"Within the bare script, the call of coremltools.convert took {call_s:.2f} s (median)."
    return finish(
        report("coreml_export", watch, {"seed": asked.seed}, [ratio], [blocks], [judge(ratio)], [remark]), asked
    )


if __name__ == "__main__":
    sys.exit(main())
