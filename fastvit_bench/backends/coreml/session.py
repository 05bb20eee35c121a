"""A session that evaluates the package's program with PyTorch: what the proof looks at on machines without Core ML."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastvit_bench.backends import INPUT, Images, Session
from fastvit_bench.errors import ParityError
from fastvit_bench.records import Window

LABEL, PROBABILITIES = "classLabel", "classLabel_probs"  # outputs of a package that knows its classes

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fastvit_bench.backends.coreml.evaluate import Evaluator


@contextmanager
def evaluated(path: Path, function: str | None, labels: tuple[str, ...]) -> "Generator[EvaluatedSession]":
    """A session on a package read from the disk; without a name, on its default function.

    `labels` are the class names it is meant to have, if any. `UnavailableError` for a package that cannot be read.
    """
    from fastvit_bench.backends.coreml import program
    from fastvit_bench.backends.coreml.evaluate import Evaluator

    package = program.read(path)
    pixels = any(feature.kind == "image" for feature in package.inputs)
    yield EvaluatedSession(Evaluator(package, function), Images.PIXELS if pixels else Images.TENSOR, labels)


class EvaluatedSession(Session):
    """One function of a package, evaluated operation by operation."""

    window = Window.COMPUTE

    def __init__(self, evaluator: "Evaluator", images: Images, labels: tuple[str, ...]) -> None:
        self.images = images
        self._evaluator, self._labels = evaluator, labels
        self._input: NDArray[np.float32] | NDArray[np.uint8] | None = None
        self._outputs: dict[str, NDArray[np.floating]] = {}

    def feed(self, images: "NDArray[np.float32] | NDArray[np.uint8]") -> None:
        """Keep a batch for the runs to come; `UsageError` for one the package does not take."""
        self._evaluator.check({INPUT: images})
        self._input = images

    def run(self) -> None:
        """Evaluate the program. Of a classifier, what it answers must follow from its own scores."""
        assert self._input is not None
        scores = self._evaluator.scores
        if scores is None:
            self._outputs = self._evaluator.run({INPUT: self._input})
            return
        self._outputs = {"logits": self._classified(scores)}

    def wait(self) -> None:
        """Nothing is left to wait for."""

    def fetch(self) -> "dict[str, NDArray[np.floating]]":
        """Outputs by name; of a classifier, the scores that its probabilities come from."""
        return {name: value.copy() for name, value in self._outputs.items()}

    def _classified(self, scores: str) -> "NDArray[np.floating]":
        """Scores of the last run, after its answer was held against them and its class names against the given ones."""
        assert self._input is not None
        if self._evaluator.classes != self._labels:
            raise ParityError("The package's class names are not the given ones, or not in their order.")
        answer = self._evaluator.run({INPUT: self._input}, also=[scores])
        logits, label = answer[scores], str(answer[LABEL].item())
        best = self._labels[int(logits.argmax())]
        if label != best:
            raise ParityError(f"The package answers '{label}' where its own scores say '{best}'.")
        return logits
