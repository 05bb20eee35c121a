"""Our folded export against timm's re-parameterised network, same weights, ONNX Runtime on the processor.

timm's `reparameterize_model` does what the published fused checkpoints do: one convolution per re-parameterisable
block, with the BatchNorms of ConvFFN and attention and the layer scales left in. Both networks are exported by the same
call, their outputs are compared, and then they are timed turn by turn.

Without --models these are FastViT's seven variants; the image encoders of MobileCLIP are named.

Goal: no variant slower beyond noise (no interval entirely above 1), and a geometric mean of at most 0.97.
Exits with 1 when the goal is missed.
"""

import importlib
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from _interleave import (
    Blocks,
    Ratio,
    compare,
    export,
    geometric_mean,
    share_threads,
    time_files,
)
from _report import Goal, add_networks, finish, parser, report, say, say_ratio, ticker

from fastvit_bench.errors import UnavailableError
from fastvit_bench.measuring.machine import Watch
from fastvit_bench.network.peers.timm import load
from fastvit_bench.network.registry import VARIANTS
from fastvit_bench.records import Shape

if TYPE_CHECKING:
    from torch import nn

OURS, THEIRS = "ours", "timm"
MEAN = 0.97  # what the geometric mean may be at most
ENCODERS = ("fastvit_mci0", "fastvit_mci1", "fastvit_mci2")  # MobileCLIP's that a processor runs in good time


def judge(ratios: Sequence[Ratio], mean: Ratio) -> tuple[Goal, Goal]:
    """Whether each variant and their mean are what is claimed. A ratio without an interval shows nothing."""
    slower = [ratio.what for ratio in ratios if ratio.interval is not None and ratio.interval.low > 1]
    unknown = [ratio.what for ratio in ratios if ratio.interval is None]
    if slower:
        reason = f"slower: {', '.join(slower)}"
    elif unknown:
        reason = f"too few blocks to tell: {', '.join(unknown)}"
    else:
        known = len(VARIANTS) + len(ENCODERS)
        reason = f"{len(ratios)} of the {known} networks timed"
    return (
        Goal(claim="no variant slower beyond noise", met=not slower and not unknown, reason=reason),
        Goal(
            claim=f"geometric mean at most {MEAN}",
            met=mean.interval is not None and mean.ratio <= MEAN,
            reason=f"{mean.ratio:.3f}" if mean.interval else "too few blocks to tell",
        ),
    )


def timm_network(name: str, seed: int) -> "nn.Module":
    """Return timm's network as its own ONNX export builds it, in training form, with weights of `random_weights`."""

    from fastvit_bench.network.random_weights import randomise

    network = load().create_model(name, exportable=True).eval()
    randomise(network, seed)
    return network


def export_pair(name: str, shape: Shape, seed: int, folder: Path) -> dict[str, Path]:
    """Both files of a variant. Ours is made from timm's weight file, as a person who has one would make it."""
    import torch

    from fastvit_bench.network import checkpoint, reparam

    theirs = timm_network(name, seed)
    reparameterize = importlib.import_module("timm.utils.model").reparameterize_model
    weights = folder / f"{name}.pth"
    torch.save(theirs.state_dict(), weights)
    ours = reparam.fold(checkpoint.load(weights, variant=name).network.double())
    return {
        OURS: export(ours, shape, folder / f"{name}.ours.onnx"),
        THEIRS: export(reparameterize(theirs.double()), shape, folder / f"{name}.timm.onnx"),
    }


def time_pair(name: str, shape: Shape, seed: int, blocks: int, runs: int) -> tuple[Blocks, float]:
    """Export, compare and time a variant; returns its blocks and how far its outputs are from timm's."""
    what = f"{name} {shape.size} b{shape.batch}"
    say(f"{what}: exporting both")
    with tempfile.TemporaryDirectory() as folder:
        files = export_pair(name, shape, seed, Path(folder))
        return time_files(what, files, THEIRS, shape, seed, blocks, runs, ticker(what))


def main() -> int:
    """Time the chosen variants; returns the exit code."""
    options = parser(__doc__, blocks=20, runs=10)
    add_networks(options, list(VARIANTS), ENCODERS)
    asked = options.parse_args()
    try:
        load()
    except UnavailableError as error:
        sys.exit(f"error: {error}")
    shape = Shape(batch=asked.batch, height=asked.res, width=asked.res)
    share_threads(asked.threads)
    watch = Watch()
    found: list[Blocks] = []
    ratios: list[Ratio] = []
    worst = 0.0
    for name in asked.models:
        blocks, difference = time_pair(name, shape, asked.seed, asked.blocks, asked.runs)
        found.append(blocks)
        ratios.append(compare(blocks, OURS, THEIRS))
        worst = max(worst, difference)
        say_ratio(ratios[-1])
    mean = geometric_mean(found, OURS, THEIRS, asked.seed)
    settings = {"threads": asked.threads, "runs per block": asked.runs, "seed": asked.seed}
    remark = f"Outputs before timing: at most {worst:.0e} of their standard deviation apart."
    everything = report(
        "against_timm", watch, settings, [*ratios, mean], found, judge(ratios, mean), [remark], packages=["timm"]
    )
    return finish(everything, asked)


if __name__ == "__main__":
    sys.exit(main())
