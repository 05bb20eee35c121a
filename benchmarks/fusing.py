"""What fusing is worth: each network unfused, fused as published, and folded, turn by turn on ONNX Runtime.

The three files compute the same, which is checked first. Ratios are against the unfused network. This states no goal.
"""

import sys
import tempfile
from pathlib import Path

from _interleave import (
    Blocks,
    Ratio,
    compare,
    export,
    geometric_mean,
    share_threads,
    time_files,
)
from _report import add_networks, finish, parser, report, say, say_ratio, ticker

from fastvit_bench.measuring.machine import Watch
from fastvit_bench.records import Fuse, Head, Shape

NAMES = {Fuse.NONE: "unfused", Fuse.FUSED: "fused", Fuse.FOLDED: "folded"}
BASE = NAMES[Fuse.NONE]


def export_levels(name: str, shape: Shape, seed: int, folder: Path) -> dict[str, Path]:
    """One file per fuse level, all of one set of random weights."""
    from fastvit_bench.network import checkpoint, reparam

    network, _ = checkpoint.randomised(name, Head.CLASSIFIER, 1000, seed)
    network = network.double()
    return {
        side: export(reparam.at_level(network, level), shape, folder / f"{side}.onnx") for level, side in NAMES.items()
    }


def time_levels(name: str, shape: Shape, seed: int, blocks: int, runs: int) -> tuple[Blocks, float]:
    """Export, compare and time the levels of a variant; returns its blocks and how far the outputs are apart."""
    what = f"{name} {shape.size} b{shape.batch}"
    say(f"{what}: exporting three levels")
    with tempfile.TemporaryDirectory() as folder:
        files = export_levels(name, shape, seed, Path(folder))
        return time_files(what, files, BASE, shape, seed, blocks, runs, ticker(what))


def main() -> int:
    """Time the chosen variants; returns the exit code."""
    options = parser(__doc__, blocks=21, runs=10)
    add_networks(options, ["fastvit_t8", "fastvit_sa12"])
    asked = options.parse_args()
    shape = Shape(batch=asked.batch, height=asked.res, width=asked.res)
    share_threads(asked.threads)
    watch = Watch()
    found: list[Blocks] = []
    ratios: list[Ratio] = []
    worst = 0.0
    fused = [side for side in NAMES.values() if side != BASE]
    for name in asked.models:
        blocks, difference = time_levels(name, shape, asked.seed, asked.blocks, asked.runs)
        found.append(blocks)
        worst = max(worst, difference)
        for side in fused:
            ratios.append(compare(blocks, side, BASE))
            say_ratio(ratios[-1])
    if len(found) > 1:
        ratios += [geometric_mean(found, side, BASE, asked.seed) for side in fused]
    settings = {"threads": asked.threads, "runs per block": asked.runs, "seed": asked.seed}
    remark = f"Outputs before timing: at most {worst:.0e} of their standard deviation apart."
    return finish(report("fusing", watch, settings, ratios, found, remarks=[remark]), asked)


if __name__ == "__main__":
    sys.exit(main())
