"""The audit of a file that others wrote: it is run beside the network of a checkpoint, in float64."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastvit_bench import files
from fastvit_bench.auditing import foldable, foreign, outputs, preparations, weights
from fastvit_bench.auditing.foreign import ForeignFile
from fastvit_bench.auditing.outputs import NetworkValue, OutputMatch
from fastvit_bench.auditing.preparations import Layout, TrialPreparation
from fastvit_bench.errors import UsageError
from fastvit_bench.exporting import verification
from fastvit_bench.records import Shape
from fastvit_bench.records import Weights as WeightsIdentity
from fastvit_bench.records.audit import Audit, OutputProof, TriedPreparation

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastvit_bench.network.factory import Reference

    Pixels = NDArray[np.uint8]

ROUNDING = 1e-3  # error that float32 never has: above it, another preparation within the file may be hidden
MOST_IMAGES, MOST_PIXELS = 4, 4 * 256 * 256  # that are compared, at least one
OPEN_BATCH = 2  # images at once, of a file that takes any number


@dataclass(frozen=True)
class AuditSubject:
    """A file, the network it may hold, and the images that both are run on."""

    file: ForeignFile
    reference: "Reference"
    variant: str
    weights: WeightsIdentity
    shape: Shape
    layout: Layout
    pixels: "list[Pixels]"  # of each batch


@dataclass(frozen=True)
class _Trial:
    """The outputs of a file fed in one way, beside the network on images prepared in one way."""

    fed: TrialPreparation
    computed: TrialPreparation
    matches: dict[str, OutputMatch | None]

    @property
    def spent(self) -> float:
        """Share of the tolerance that the worst output takes up, of those that could be compared."""
        return max((match.spent for match in self.matches.values() if match), default=math.inf)

    @property
    def error(self) -> float:
        """The largest error of an output, of those that could be compared."""
        return max((match.error for match in self.matches.values() if match), default=math.inf)

    @property
    def rank(self) -> float:
        """The same, where the order of the values does not matter."""
        return max((match.spent_in_any_order for match in self.matches.values() if match), default=math.inf)


def subject(
    path: Path,
    reference: "Reference",
    variant: str,
    identity: WeightsIdentity,
    size: tuple[int, int] | None,
    usual: int,
) -> AuditSubject:
    """Open a file, and draw the images that it takes, at `size` or at the `usual` one where its sizes are open.

    Raises what `foreign.opened` raises, and `UsageError` for a file that takes no such images.
    """
    file = foreign.opened(path)
    layout, batch, own = _images_of(file)
    height, width = ((fixed or asked) for fixed, asked in zip(own, size or (usual, usual), strict=True))
    if size is not None and (height, width) != size:
        taken = Shape(batch=1, height=height, width=width).size
        raise UsageError(f"{path} takes images of {taken} pixels; correct --res, or leave it out.")
    images = max(1, min(MOST_IMAGES, MOST_PIXELS // (height * width)))
    batch = batch or min(OPEN_BATCH, images)
    count = -(-images // batch)
    pixels = preparations.noise(batch * count, height, width, verification.SEED)
    shape = Shape(batch=batch, height=height, width=width)
    return AuditSubject(file, reference, variant, identity, shape, layout, list(np.split(pixels, count)))


def _images_of(file: ForeignFile) -> tuple[Layout, int | None, tuple[int | None, int | None]]:
    """Return the layout, the batch and the height and width of a file's input; None of each that is open."""
    port = file.port
    sizes = port.shape if len(port.shape) == 4 else (1, *port.shape)
    takes = ", ".join(str(size) if size else "open" for size in port.shape)
    if len(sizes) != 4:
        raise UsageError(f"{file.path} takes '{port.name}' ({takes}); a network of images takes (N, 3, H, W).")
    if sizes[1] in (3, None) and not (sizes[1] is None and sizes[3] == 3):
        return "NCHW", sizes[0], (sizes[2], sizes[3])
    if sizes[3] == 3:
        return "NHWC", sizes[0], (sizes[1], sizes[2])
    raise UsageError(f"{file.path} takes '{port.name}' ({takes}), which are no images of three colours.")


def audit(item: AuditSubject, notify: Callable[[str], None] = lambda what: None) -> Audit:
    """Run a file and the network on the same images, and return what is known of it.

    Every preparation is tried on the first batch, and the one that fits best on all. Raises `UnavailableError` for a
    file that cannot be run.
    """
    file, own = item.file, preparations.of_network(item.variant)
    notify(f"running {item.variant} in float64")
    runs = _Runs(item)
    first = item.pixels[:1]
    notify("trying preparations of images")
    tried = [runs.compare(first, trial, own) for trial in preparations.of_port(file.port, own)]
    best = min(tried, key=lambda trial: trial.rank)
    if best.rank > 1:
        notify("trying preparations within the file")
        plain = [trial for trial in preparations.PLAIN if trial in preparations.of_port(file.port, own)]
        candidates = [computed for computed in preparations.WITHIN if computed != own]
        trials = [runs.compare(first, fed, computed) for fed in plain for computed in candidates]
        nearest = min(trials, key=lambda trial: trial.rank)
        best = nearest if nearest.rank <= 1 else best  # of what does not fit, the nearest of the usual ones says more
    elif best.error > ROUNDING:
        # one that computes another network so much better is no matter of rounding
        for computed in preparations.alike(own):
            closer = runs.compare(first, best.fed, computed)
            best = closer if closer.rank < best.rank / 2 else best
    notify("comparing all images")
    final = runs.compare(item.pixels, best.fed, best.computed)
    values = runs.outputs(item.pixels, best.fed)
    proofs = tuple(outputs.proof(name, values[name], match) for name, match in final.matches.items())
    stored, compared = weights.stored(file.weights, item.reference.network)
    return Audit(
        file=str(file.path),
        sha256=files.sha256(file.path),
        size_bytes=files.size_bytes(file.path),
        variant=item.variant,
        head=item.reference.head,
        weights=item.weights,
        precision=file.precision if file.compress == "none" else f"{file.precision}, weights {file.compress}",
        shape=item.shape,
        layout=item.layout,
        images=sum(map(len, item.pixels)),
        seed=verification.SEED,
        how=file.how,
        passed=bool(proofs) and all(proof.passed for proof in proofs) and final.computed == own,
        preparation=str(final.fed),
        expected=str(own),
        computed="" if final.computed == own else str(final.computed),
        outputs=proofs,
        tried=_tried(tried),
        weights_stored=stored,
        weights_compared=compared,
        foldable=foldable.of_graph(file.graph),
        operations=file.graph.counts,
        notes=_notes(item, proofs, tried),
    )


class _Runs:
    """Outputs of a file and values of the network, each computed once."""

    def __init__(self, item: AuditSubject) -> None:
        self._item = item
        self._arithmetic = outputs.Arithmetic(item.file.precision, item.file.compress)
        self._outputs: dict[tuple[int, TrialPreparation], dict[str, NDArray[Any]]] = {}
        self._values: dict[tuple[int, TrialPreparation], list[NetworkValue]] = {}

    def outputs(self, pixels: "Sequence[Pixels]", trial: TrialPreparation) -> "dict[str, NDArray[Any]]":
        """Return the file's outputs for some batches, fed in one way."""
        parts = [self._output(index, batch, trial) for index, batch in enumerate(pixels)]
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([np.atleast_1d(part[name]) for part in parts]) for name in parts[0]}

    def _output(self, index: int, batch: "Pixels", trial: TrialPreparation) -> "dict[str, NDArray[Any]]":
        file = self._item.file
        if (index, trial) not in self._outputs:
            fed = preparations.fed(file.port, self._item.layout, batch, trial)
            self._outputs[index, trial] = file.run(fed)
        return self._outputs[index, trial]

    def compare(self, pixels: "Sequence[Pixels]", fed: TrialPreparation, computed: TrialPreparation) -> _Trial:
        """Return the outputs of the file beside the nearest values of the network."""
        for index, batch in enumerate(pixels):
            if (index, computed) not in self._values:
                images = computed.apply(batch)
                self._values[index, computed] = outputs.network_values(self._item.reference, images)
        values = outputs.joined([self._values[index, computed] for index in range(len(pixels))])
        actual = self.outputs(pixels, fed)
        return _Trial(
            fed, computed, {name: outputs.nearest(output, values, self._arithmetic) for name, output in actual.items()}
        )


def _tried(trials: Sequence[_Trial]) -> tuple[TriedPreparation, ...]:
    """Return the errors of the tried preparations, the nearest first."""
    ordered = sorted(trials, key=lambda trial: trial.spent)
    return tuple(
        TriedPreparation(preparation=str(trial.fed), error=trial.spent if math.isfinite(trial.spent) else None)
        for trial in ordered
    )


def _notes(item: AuditSubject, proofs: Sequence[OutputProof], tried: Sequence[_Trial]) -> tuple[str, ...]:
    notes: list[str] = []
    if item.file.labels:
        notes.append(
            f"It names {len(item.file.labels)} classes, the first '{item.file.labels[0]}'; the weights do not say "
            "which name belongs to which class."
        )
    if None in item.file.port.shape:
        takes = ", ".join(str(size) if size else "open" for size in item.file.port.shape)
        notes.append(
            f"Its input is ({takes}); only {item.shape.size} pixels in batches of {item.shape.batch} were run."
        )
    fitting = sum(trial.spent <= 1 for trial in tried)
    if fitting > 1:
        notes.append(f"{fitting} preparations are within what is allowed; the nearest was taken.")
    if len(proofs) > 1 and len({proof.value for proof in proofs}) < len(proofs):
        notes.append("Several of its outputs are the same value.")
    return tuple(notes)
