"""Images are decoded while others are computed: an evaluation is as fast as the slower of the two alone.

Generated JPEG files go through `measure.accuracy` as `fastvit-bench accuracy` does it, in turn with the same files only
decoded and prepared, and with prepared images only computed. Twice: with a session that takes its time and nothing of
the processor's, as a GPU does, and with ONNX Runtime on the processor, where both want the same cores. There
"computing alone" is the session that `latency` times, with all cores for one image.

Goal: the slower one alone takes at least 0.9 of the time of both together, in either case. Exits with 1 when missed.
"""

import itertools
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from _interleave import Blocks, Ratio, Side, compare, interleave
from _report import Goal, bracket, finish, parser, pixels, report, say, say_ratio, ticker, whole

from fastvit_bench.accuracy import count as accuracy_count
from fastvit_bench.accuracy import preprocessing
from fastvit_bench.backends import Session, available_cores
from fastvit_bench.backends._onnx.session import on_processor
from fastvit_bench.exporting import checkpoints, pipeline
from fastvit_bench.measuring.machine import Watch
from fastvit_bench.network import registry
from fastvit_bench.records import Artifact, Device, Fuse, LabelledImage, ModelSpec, Preprocessing, Shape

if TYPE_CHECKING:
    from numpy.typing import NDArray

TOGETHER, DECODING, COMPUTING = "together", "decoding alone", "computing alone"
SHARED = "computing alone, an image per core"
LEAST = 0.9
CLASSES = 10


def judge(what: str, ratios: Sequence[Ratio]) -> Goal:
    """Whether the slower of both alone is as slow as both together, or nearly."""
    slower = max(ratios, key=lambda ratio: ratio.ratio)
    met = slower.interval is not None and slower.ratio >= LEAST
    return Goal(claim=f"{what}: at least {LEAST} times as fast as {slower.side}", met=met, reason=bracket(slower))


class Elsewhere(Session):
    """Computes nothing, and takes its time for it: a stand-in for a device with a processor of its own."""

    def __init__(self, milliseconds: float) -> None:
        self._seconds = milliseconds / 1e3
        self._batch = 0

    def set_input(self, images: "NDArray[np.float32] | NDArray[np.uint8]") -> None:
        """Only how many they are is of interest."""
        self._batch = len(images)

    def run(self) -> None:
        """Nothing begins."""

    def wait(self) -> None:
        """As long as the device would take."""
        time.sleep(self._batch * self._seconds)

    def get_output(self) -> "dict[str, NDArray[np.floating]]":
        """Scores of no meaning."""
        return {"logits": np.zeros((self._batch, CLASSES), np.float32)}


def generate(folder: Path, count: int, width: int, height: int, seed: int) -> list[LabelledImage]:
    """JPEG files of smooth noise."""
    from PIL import Image

    draw = np.random.default_rng(seed)
    found: list[LabelledImage] = []
    for at in range(count):
        few = draw.integers(0, 256, (max(2, height // 12), max(2, width // 12), 3), np.uint8)
        path = folder / f"{at:05}.jpg"
        Image.fromarray(few).resize((width, height), Image.Resampling.BICUBIC).save(path, quality=90)
        found.append(LabelledImage(name=path.name, size_bytes=path.stat().st_size, label=at % CLASSES))
    return found


Work = Callable[[accuracy_count.ImageSelection, Sequence[Session], Artifact], None]


def decode(selection: accuracy_count.ImageSelection, sessions: Sequence[Session], artifact: Artifact) -> None:
    """Only decode and prepare."""
    ahead = 2 * selection.workers + artifact.shape.batch * len(sessions)
    how = selection.preprocessing
    for _ in preprocessing.decoded(
        selection.folder, selection.pictures, how, sessions[0].images, workers=selection.workers, ahead=ahead
    ):
        pass


def compute(selection: accuracy_count.ImageSelection, sessions: Sequence[Session], artifact: Artifact) -> None:
    """Only compute, the same prepared image again and again."""
    size, batch = selection.preprocessing.resolution, artifact.shape.batch
    image = preprocessing.stacked([np.zeros((3, size, size), np.float32)], batch)
    pictures = [LabelledImage(name="none", size_bytes=0, label=0)] * batch
    with accuracy_count.lanes(sessions, accuracy_count.Scoring(CLASSES)) as lane:
        for pending in [lane(image, pictures) for _ in range(len(selection.pictures) // batch)]:
            pending.result()


def count(selection: accuracy_count.ImageSelection, sessions: Sequence[Session], artifact: Artifact) -> None:
    """Both, as an evaluation does."""
    for _ in accuracy_count.tallies(sessions, artifact, selection, 0, "a benchmark"):
        pass


def timed(
    work: Work, shares: Sequence[accuracy_count.ImageSelection], sessions: Sequence[Session], artifact: Artifact
) -> Side:
    """A side: the milliseconds that each block takes, every one with the next share of the files."""
    turn = itertools.cycle(shares)

    def block() -> float:
        selection = next(turn)
        start = time.perf_counter()
        work(selection, sessions, artifact)
        return (time.perf_counter() - start) * 1e3

    return block


def main() -> int:
    """Time both cases; returns the exit code."""
    options = parser(__doc__, blocks=10, runs=None)
    options.add_argument("--images", type=whole, default=2000, help="files, over all blocks (%(default)s)")
    options.add_argument("--width", type=whole, default=320, help="of a file, in pixels (%(default)s)")
    options.add_argument("--height", type=whole, default=240, help="likewise (%(default)s)")
    options.add_argument("--res", type=pixels, default=256, help="image size in pixels (%(default)s)")
    options.add_argument("--device-ms", type=float, default=4.0, help="of an image, of the stand-in (%(default)s)")
    options.add_argument("--workers", type=whole, default=available_cores(), help="threads that decode (all cores)")
    asked = options.parse_args()
    cores = available_cores()
    spec = ModelSpec(name="fastvit_t8", variant="fastvit_t8", classes=CLASSES)
    shape = Shape(batch=1, height=asked.res, width=asked.res)
    cpu = Device(name="cpu", backend="onnxruntime")
    watch = Watch()
    found: list[Blocks] = []
    ratios: list[Ratio] = []
    goals: list[Goal] = []
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        place = Path(folder)
        say(f"drawing {asked.images} files of {asked.width} x {asked.height}")
        pictures = generate(place, asked.images, asked.width, asked.height, asked.seed)
        say("exporting")
        job = pipeline.job(spec, checkpoints.weights_of(spec, asked.seed), shape, Fuse.FOLDED, cpu, folder=place)
        artifact = pipeline.export(job)
        all_cores = stack.enter_context(on_processor(Path(job.path), cores))
        one_core = stack.enter_context(on_processor(Path(job.path), 1))
        side_by_side = [one_core, *(one_core.clone() for _ in range(cores - 1))]
        how = Preprocessing.of(registry.preparation_of(job), asked.res)
        each = max(1, asked.images // asked.blocks)
        shares = [
            accuracy_count.ImageSelection(place, pictures[at : at + each], how, asked.workers)
            for at in range(0, len(pictures) - each + 1, each)
        ]
        # what is counted with -> what computes alone
        device = [Elsewhere(asked.device_ms)]
        cases: dict[str, tuple[Sequence[Session], dict[str, Sequence[Session]]]] = {
            f"a device of its own, {asked.device_ms:g} ms": (device, {COMPUTING: device}),
            f"the processor, {cores} cores": (side_by_side, {COMPUTING: [all_cores], SHARED: side_by_side}),
        }
        for what, (sessions, alone) in cases.items():
            sides = {
                TOGETHER: timed(count, shares, sessions, artifact),
                DECODING: timed(decode, shares, sessions, artifact),
                **{name: timed(compute, shares, used, artifact) for name, used in alone.items()},
            }
            blocks = interleave(what, sides, asked.blocks, asked.seed, ticker(what))
            found.append(blocks)
            mine = [compare(blocks, side, TOGETHER) for side in sides if side != TOGETHER]
            for ratio in mine:
                say_ratio(ratio)
            ratios += mine
            goals.append(judge(what, [ratio for ratio in mine if ratio.side != SHARED]))
    settings = {
        "files": f"{asked.images} of {asked.width} x {asked.height}",
        "size": asked.res,
        "workers": asked.workers,
        "files per block": each,
        "seed": asked.seed,
    }
    return finish(report("accuracy_overlap", watch, settings, ratios, found, goals), asked)


if __name__ == "__main__":
    sys.exit(main())
