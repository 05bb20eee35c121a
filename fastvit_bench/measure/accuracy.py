"""Counts right answers: images in order through a session, and whether the class that each shows has the best score.

decoding threads ─► batch ─► feed ─► run ─► wait ─► fetch ─► ranks ─► a tally per few images
"""

import contextlib
import queue
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastvit_bench.backends import Session
from fastvit_bench.measure import images
from fastvit_bench.records import Artifact, Picture, Preprocessing, Tally, Unreadable

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from fastvit_bench.backends import Batch

CHUNK = 64  # images of a tally, at least: what a kill costs
TOP = 5


class Counted(NamedTuple):
    """Of some images."""

    top1: int
    top5: int
    overflowed: int


class Seen(NamedTuple):
    """What is looked at, and how."""

    folder: Path
    pictures: Sequence[Picture]
    preprocessing: Preprocessing
    workers: int


def tallies(sessions: Sequence[Session], artifact: Artifact, seen: Seen, first: int, how: str) -> Generator[Tally]:
    """Look at the pictures from number `first` on, and yield what every few of them gave; `how` says what computes.

    Several sessions of the artifact compute side by side, in a thread each; a single one computes in this thread, as a
    GPU's must. Tallies end at the same pictures wherever they begin, so that the batches of an evaluation that was
    continued are those of one that was not. A batch that is not full is filled up with its first image.
    """
    batch = artifact.shape.batch
    stream = images.decoded(
        seen.folder,
        seen.pictures[first:],
        seen.preprocessing,
        sessions[0].images,
        workers=seen.workers,
        ahead=2 * seen.workers + batch * len(sessions),
    )
    parts: deque[_Part] = deque()
    with lanes(sessions) as compute, contextlib.closing(_begun(_batches(stream, seen.pictures, first, batch))) as ready:
        for each in ready:
            if not parts or parts[-1] is not each.part:
                parts.append(each.part)
            if each.labels:
                each.part.answers.append(compute(each.images, each.labels))
            each.part.whole = each.last
            # what has been handed over and not come back is bounded, as what is decoded is
            while sum(len(part.answers) for part in parts) > 2 * len(sessions):
                next(part for part in parts if part.answers).settle()
            while parts and parts[0].is_settled():
                yield parts.popleft().tally(artifact, how)
        for part in parts:
            while part.answers:
                part.settle()
            yield part.tally(artifact, how)


class _Part:
    """Consecutive pictures of one tally, some of whose batches may still be computed."""

    def __init__(self, first: int, pictures: int) -> None:
        self.first, self.pictures = first, pictures
        self.whole = False  # whether its last batch is handed over
        self.answers: deque[Future[Counted]] = deque()
        self.found = Counted(0, 0, 0)
        self.unreadable: list[Unreadable] = []

    def settle(self) -> None:
        """Wait for the first of its batches."""
        more = self.answers.popleft().result()
        self.found = Counted(*(a + b for a, b in zip(self.found, more, strict=True)))

    def is_settled(self) -> bool:
        """Whether all of its batches have come back; takes in those that have."""
        while self.answers and self.answers[0].done():
            self.settle()
        return self.whole and not self.answers

    def tally(self, artifact: Artifact, how: str) -> Tally:
        """As a record."""
        assert artifact.sha256 is not None
        return Tally(
            artifact=artifact.sha256,
            how=how,
            first=self.first,
            pictures=self.pictures,
            top1=self.found.top1,
            top5=self.found.top5 if artifact.classes > TOP else None,
            overflowed=self.found.overflowed,
            unreadable=tuple(self.unreadable),
        )


class _Batch(NamedTuple):
    """Prepared images of one part, as many as a run takes."""

    part: _Part
    images: Any
    labels: list[int]  # fewer than images where it was filled up; none where nothing of it could be read
    last: bool = False  # of its part


def _batches(stream: Generator[Any], pictures: Sequence[Picture], first: int, size: int) -> Generator[_Batch]:
    """The pictures from number `first` on in batches, and the last one of each part says that it is."""
    chunk = -(-CHUNK // size) * size
    with contextlib.closing(stream):
        at = first
        while at < len(pictures):
            these = pictures[at : (at // chunk + 1) * chunk]
            part = _Part(at, len(these))
            waiting: list[Any] = []
            labels: list[int] = []
            for picture, image in zip(these, stream, strict=False):
                if len(waiting) == size:
                    yield _Batch(part, images.stacked(waiting, size), labels)
                    waiting, labels = [], []
                if isinstance(image, Unreadable):
                    part.unreadable.append(image)
                else:
                    waiting.append(image)
                    labels.append(picture.label)
            yield _Batch(part, images.stacked(waiting, size) if waiting else None, labels, last=True)
            at += len(these)


def _begun(batches: Generator[_Batch]) -> Generator[_Batch]:
    """The same, the next two of them made by a thread while one is computed."""
    with contextlib.closing(batches), ThreadPoolExecutor(1, thread_name_prefix="batch") as pool:
        pending = deque(pool.submit(next, batches, None) for _ in range(2))
        try:
            while (made := pending.popleft().result()) is not None:
                pending.append(pool.submit(next, batches, None))
                yield made
        finally:
            for future in pending:
                future.cancel()


Compute = Callable[["Batch", Sequence[int]], "Future[Counted]"]


@contextlib.contextmanager
def lanes(sessions: Sequence[Session]) -> Generator[Compute]:
    """What computes a batch: the one session here and now, or whichever of several is free, in a thread."""

    def compute(session: Session, batch: "Batch", labels: Sequence[int]) -> Counted:
        return counted(_scores(session, batch)[: len(labels)], labels)

    if len(sessions) == 1:

        def at_once(batch: "Batch", labels: Sequence[int]) -> "Future[Counted]":
            done: Future[Counted] = Future()
            done.set_result(compute(sessions[0], batch, labels))
            return done

        yield at_once
        return
    free: queue.SimpleQueue[Session] = queue.SimpleQueue()
    for session in sessions:
        free.put(session)

    def whenever_free(batch: "Batch", labels: Sequence[int]) -> Counted:
        session = free.get()
        try:
            return compute(session, batch, labels)
        finally:
            free.put(session)

    with ThreadPoolExecutor(len(sessions), thread_name_prefix="compute") as pool:
        yield lambda batch, labels: pool.submit(whenever_free, batch, labels)


def counted(scores: "NDArray[np.floating]", labels: Sequence[int]) -> Counted:
    """Right answers among scores (N, classes); where one of an image's is NaN or infinite, nothing is right.

    Of equal scores that of the class with the lower number comes first, as argmax has it.
    """
    known = np.asarray(labels)
    own = scores[np.arange(len(known)), known][:, None]
    before = np.arange(scores.shape[1]) < known[:, None]
    rank = np.count_nonzero((scores > own) | ((scores == own) & before), axis=1)
    finite = np.isfinite(scores).all(axis=1)
    return Counted(
        top1=int(np.count_nonzero((rank < 1) & finite)),
        top5=int(np.count_nonzero((rank < TOP) & finite)),
        overflowed=int(np.count_nonzero(~finite)),
    )


def _scores(session: Session, batch: "Batch") -> "NDArray[np.floating]":
    session.feed(batch)
    session.run()
    session.wait()
    (scores,) = session.fetch().values()
    return scores.reshape(len(batch), -1)
