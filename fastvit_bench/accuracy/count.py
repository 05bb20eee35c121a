"""Count right answers: run labelled images in order, and compare the scores with the labels.

decoding threads ─► batch ─► feed ─► run ─► wait ─► fetch ─► ranks ─► a tally per few images
"""

import contextlib
import queue
from collections import deque
from collections.abc import Callable, Collection, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastvit_bench.accuracy import contents
from fastvit_bench.accuracy import preprocessing as accuracy_preprocessing
from fastvit_bench.accuracy.preprocessing import DecodedImage
from fastvit_bench.backends import Session
from fastvit_bench.errors import UsageError
from fastvit_bench.records import (
    AccuracyChunk,
    Artifact,
    EmbeddingCosines,
    LabelledImage,
    Preprocessing,
    Unreadable,
    answers,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastvit_bench.backends import Batch

CHUNK = 64  # images of a tally, at least; an interrupted evaluation loses no more
TOP = 5


class ChunkCounts(NamedTuple):
    """Numbers of images whose class is best, is among the best five, and whose scores are not all finite."""

    top1: int
    top5: int
    overflowed: int
    right: tuple[bool, ...] = ()  # of each image, whether its class is best

    def joined(self, more: "ChunkCounts") -> "ChunkCounts":
        """Return the counts of these images and of more, which follow them."""
        top1, top5 = self.top1 + more.top1, self.top5 + more.top5
        return ChunkCounts(top1, top5, self.overflowed + more.overflowed, self.right + more.right)


class ImageSelection(NamedTuple):
    """Images to count on, their preprocessing, and the number of threads that decode them."""

    folder: Path
    pictures: Sequence[LabelledImage]
    preprocessing: Preprocessing
    workers: int


class Scoring(NamedTuple):
    """The way from a session's outputs to scores of classes, and what else they are compared with."""

    classes: int  # that there are scores of
    candidates: Sequence[int] | None = None  # classes that are ranked, which all labels must be among; None: all
    class_embeddings: "NDArray[np.float64] | None" = None  # (classes, width), of norm 1: outputs are embeddings
    reference: "Callable[[Batch], NDArray[np.floating]] | None" = None  # embeddings (N, width) of the reference network
    compared: Collection[str] = ()  # names of the images whose embeddings are compared with the reference network's

    @property
    def ranked(self) -> int:
        """Number of classes to choose from."""
        return self.classes if self.candidates is None else len(self.candidates)


class Answer(NamedTuple):
    """Counts of a batch, and cosines of the embeddings that were compared with the reference network's."""

    counts: ChunkCounts
    cosines: EmbeddingCosines | None = None


def tallies(
    sessions: Sequence[Session],
    artifact: Artifact,
    selection: ImageSelection,
    first: int,
    how: str,
    contents_before: str = "",
    scoring: Scoring | None = None,
) -> Generator[AccuracyChunk]:
    """Yield the counts of every `CHUNK` images or so, from picture number `first` on, in order.

    `how` names what computes, and goes into the records. `contents_before` is the digest of the contents of the images
    before `first` (see `accuracy.contents`). Several sessions of the artifact compute side by side, in a
    thread each. A single one computes in this thread, as a GPU's must. Tallies end at the same pictures wherever they
    begin. So the batches of a continued evaluation are those of an uninterrupted one. A batch that is not full is
    filled up with its first image.
    """
    batch = artifact.shape.batch
    stream = accuracy_preprocessing.decoded(
        selection.folder,
        selection.pictures[first:],
        selection.preprocessing,
        sessions[0].images,
        workers=selection.workers,
        ahead=2 * selection.workers + batch * len(sessions),
    )
    parts: deque[_Part] = deque()
    scoring = scoring or Scoring(artifact.classes)
    with (
        lanes(sessions, scoring) as compute,
        contextlib.closing(_prefetched(_batches(stream, selection.pictures, first, batch, contents_before))) as ready,
    ):
        for prepared in ready:
            if not parts or parts[-1] is not prepared.part:
                parts.append(prepared.part)
            if prepared.pictures:
                prepared.part.answers.append(compute(prepared.images, prepared.pictures))
            prepared.part.complete = prepared.last
            # bounds the memory of batches that wait for a session
            while sum(len(part.answers) for part in parts) > 2 * len(sessions):
                next(part for part in parts if part.answers).settle()
            while parts and parts[0].is_settled():
                yield parts.popleft().tally(artifact, how, scoring.ranked)
        for part in parts:
            while part.answers:
                part.settle()
            yield part.tally(artifact, how, scoring.ranked)


class _Part:
    """Consecutive pictures of one tally, some of whose batches may still be computed."""

    def __init__(self, first: int, pictures: int) -> None:
        self.first, self.pictures = first, pictures
        self.complete = False  # whether its last batch is submitted
        self.answers: deque[Future[Answer]] = deque()
        self.counts = ChunkCounts(0, 0, 0)
        self.cosines: EmbeddingCosines | None = None
        self.unreadable: list[Unreadable] = []
        self.readable: list[bool] = []  # of each picture
        self.contents = ""

    def settle(self) -> None:
        """Wait for the first pending batch, and add its counts."""
        more = self.answers.popleft().result()
        self.counts = self.counts.joined(more.counts)
        if more.cosines is not None:
            self.cosines = more.cosines.joined(self.cosines)

    def is_settled(self) -> bool:
        """Return whether all batches are computed, after adding the counts of those that are."""
        while self.answers and self.answers[0].done():
            self.settle()
        return self.complete and not self.answers

    def tally(self, artifact: Artifact, how: str, ranked: int) -> AccuracyChunk:
        """Return the counts as a record; `ranked` is the number of classes to choose from."""
        assert artifact.sha256 is not None
        right = iter(self.counts.right)
        return AccuracyChunk(
            artifact=artifact.sha256,
            how=how,
            first=self.first,
            pictures=self.pictures,
            top1=self.counts.top1,
            top5=self.counts.top5 if ranked > TOP else None,
            overflowed=self.counts.overflowed,
            unreadable=tuple(self.unreadable),
            contents=self.contents,
            cosines=self.cosines,
            right=answers.packed([readable and next(right) for readable in self.readable]),
        )


class _Batch(NamedTuple):
    """Prepared images of one part, as many as a session takes at once."""

    part: _Part
    images: Any
    pictures: list[LabelledImage]  # fewer than images if it was filled up; none if none of its images could be read
    last: bool = False  # whether it is the last one of its part


def _batches(
    stream: Generator[DecodedImage], pictures: Sequence[LabelledImage], first: int, size: int, digest: str
) -> Generator[_Batch]:
    """Yield batches of the pictures from number `first` on; the last one of each part is marked.

    `digest` is that of the contents of the pictures before.
    """
    chunk = -(-CHUNK // size) * size
    with contextlib.closing(stream):
        at = first
        while at < len(pictures):
            section = pictures[at : (at // chunk + 1) * chunk]
            part = _Part(at, len(section))
            waiting: list[Any] = []
            batched: list[LabelledImage] = []
            for picture, (own, image) in zip(section, stream, strict=False):
                digest = contents.extended(digest, own)
                if len(waiting) == size:
                    yield _Batch(part, accuracy_preprocessing.stacked(waiting, size), batched)
                    waiting, batched = [], []
                part.readable.append(not isinstance(image, Unreadable))
                if isinstance(image, Unreadable):
                    part.unreadable.append(image)
                else:
                    waiting.append(image)
                    batched.append(picture)
            part.contents = digest
            yield _Batch(part, accuracy_preprocessing.stacked(waiting, size) if waiting else None, batched, last=True)
            at += len(section)


def _prefetched(batches: Generator[_Batch]) -> Generator[_Batch]:
    """Yield the batches, while a thread prepares the next two."""
    with contextlib.closing(batches), ThreadPoolExecutor(1, thread_name_prefix="batch") as pool:
        pending = deque(pool.submit(next, batches, None) for _ in range(2))
        try:
            while (batch := pending.popleft().result()) is not None:
                pending.append(pool.submit(next, batches, None))
                yield batch
        finally:
            for future in pending:
                future.cancel()


Compute = Callable[["Batch", Sequence[LabelledImage]], "Future[Answer]"]


@contextlib.contextmanager
def lanes(sessions: Sequence[Session], scoring: Scoring) -> Generator[Compute]:
    """Yield a function that submits a batch: to the only session at once, or to the next free one, in a thread."""

    def compute(session: Session, batch: "Batch", pictures: Sequence[LabelledImage]) -> Answer:
        return answer(_outputs(session, batch), batch, pictures, scoring)

    if len(sessions) == 1:

        def at_once(batch: "Batch", pictures: Sequence[LabelledImage]) -> "Future[Answer]":
            done: Future[Answer] = Future()
            done.set_result(compute(sessions[0], batch, pictures))
            return done

        yield at_once
        return
    free: queue.SimpleQueue[Session] = queue.SimpleQueue()
    for session in sessions:
        free.put(session)

    def whenever_free(batch: "Batch", pictures: Sequence[LabelledImage]) -> Answer:
        session = free.get()
        try:
            return compute(session, batch, pictures)
        finally:
            free.put(session)

    with ThreadPoolExecutor(len(sessions), thread_name_prefix="compute") as pool:
        yield lambda batch, pictures: pool.submit(whenever_free, batch, pictures)


def answer(
    outputs: "NDArray[np.floating]", batch: "Batch", pictures: Sequence[LabelledImage], scoring: Scoring
) -> Answer:
    """Return what a session's outputs (N, classes or width) for a batch say of its first images, the pictures."""
    outputs, labels = outputs[: len(pictures)], [picture.label for picture in pictures]
    scores = outputs if scoring.class_embeddings is None else _similarities(outputs, scoring.class_embeddings)
    if scoring.candidates is not None:
        position = {label: at for at, label in enumerate(scoring.candidates)}
        scores, labels = scores[:, list(scoring.candidates)], [position[label] for label in labels]
    chosen = [at for at, picture in enumerate(pictures) if picture.name in scoring.compared]
    if scoring.reference is None or not chosen:
        return Answer(counted(scores, labels))
    values = cosines(outputs[chosen], scoring.reference(batch[chosen]))
    worst = int(np.argmin(values))
    return Answer(
        counted(scores, labels),
        EmbeddingCosines(
            images=len(chosen),
            total=float(values.sum()),
            least=float(values[worst]),
            worst=pictures[chosen[worst]].name,
        ),
    )


def _similarities(embeddings: "NDArray[np.floating]", rows: "NDArray[np.float64]") -> "NDArray[np.float64]":
    """Return the cosines (N, classes) of embeddings (N, width) with class embeddings (classes, width) of norm 1."""
    if embeddings.shape[1] != rows.shape[1]:
        raise UsageError(
            f"The class embeddings have {rows.shape[1]} numbers each, and the network's {embeddings.shape[1]}; they "
            f"belong to another network."
        )
    return directions(embeddings) @ rows.T


def directions(embeddings: "NDArray[np.floating]") -> "NDArray[np.float64]":
    """Return embeddings (N, width) divided by their norms; one that is zero or not finite becomes NaN."""
    values = embeddings.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return values / np.linalg.norm(values, axis=1, keepdims=True)


def cosines(embeddings: "NDArray[np.floating]", others: "NDArray[np.floating]") -> "NDArray[np.float64]":
    """Return the cosines (N) between embeddings (N, width) row by row, and -1 where one is zero or not finite."""
    values = np.einsum("nw,nw->n", directions(embeddings), directions(others))
    return np.where(np.isfinite(values), np.clip(values, -1, 1), -1.0)


def counted(scores: "NDArray[np.floating]", labels: Sequence[int]) -> ChunkCounts:
    """Count right answers among scores (N, classes); an image with a NaN or infinite score counts as wrong.

    Of equal scores, that of the class with the lower number ranks first, as in argmax.
    """
    known = np.asarray(labels)
    own = scores[np.arange(len(known)), known][:, None]
    before = np.arange(scores.shape[1]) < known[:, None]
    rank = np.count_nonzero((scores > own) | ((scores == own) & before), axis=1)
    finite = np.isfinite(scores).all(axis=1)
    right = (rank < 1) & finite
    return ChunkCounts(
        top1=int(np.count_nonzero(right)),
        top5=int(np.count_nonzero((rank < TOP) & finite)),
        overflowed=int(np.count_nonzero(~finite)),
        right=tuple(right.tolist()),
    )


def _outputs(session: Session, batch: "Batch") -> "NDArray[np.floating]":
    """Run a session once on a batch of N images, and return its scores or embeddings (N, classes or width)."""
    session.set_input(batch)
    session.run()
    session.wait()
    (outputs,) = session.get_output().values()
    return outputs.reshape(len(batch), -1)
