"""A session that evaluates a package's program with PyTorch, for proofs on machines without Core ML."""

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from fastvit_bench.backends import INPUT, Images, Session
from fastvit_bench.errors import ParityError
from fastvit_bench.records import Window

LABEL, PROBABILITIES = "classLabel", "classLabel_probs"  # outputs of a package with class names

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from fastvit_bench.backends.coreml.evaluate import Evaluator, ResultRounding


@contextmanager
def evaluated(
    path: Path, function: str | None, labels: tuple[str, ...], arithmetic: "ResultRounding | None" = None
) -> "Generator[EvaluatedSession]":
    """Open a session on a stored package; without a name, on its default function, and in its declared arithmetic.

    `labels` are the class names it should have, if any. Raises `UnavailableError` for a package that cannot be read.
    """
    from fastvit_bench.backends.coreml import program
    from fastvit_bench.backends.coreml.evaluate import Evaluator, ResultRounding

    package = program.read(path)
    evaluator = Evaluator(package, function, arithmetic or ResultRounding.DECLARED)
    pixels = any(feature.kind == "image" for feature in package.inputs)
    yield EvaluatedSession(evaluator, Images.PIXELS if pixels else Images.TENSOR, labels)


class EvaluatedSession(Session):
    """A session that evaluates one function of a package operation by operation."""

    window = Window.COMPUTE

    def __init__(self, evaluator: "Evaluator", images: Images, labels: tuple[str, ...]) -> None:
        self.images = images
        self._evaluator, self._labels = evaluator, labels
        self._input: NDArray[np.float32] | NDArray[np.uint8] | None = None
        self._outputs: dict[str, NDArray[np.floating]] = {}

    def set_input(self, images: "NDArray[np.float32] | NDArray[np.uint8]") -> None:
        """Store a batch for the next runs.

        Raises `UsageError` for a batch that the package does not take.
        """
        self._evaluator.check({INPUT: images})
        self._input = images

    def run(self) -> None:
        """Evaluate the program.

        Raises `ParityError` where a classifier's answer does not follow from its own scores, or its class names differ.
        """
        assert self._input is not None
        scores = self._evaluator.scores
        if scores is None:
            self._outputs = self._evaluator.run({INPUT: self._input})
            return
        self._outputs = {"logits": self._classified(scores)}

    def wait(self) -> None:
        """Return at once: `run` has waited already."""

    def get_output(self) -> "dict[str, NDArray[np.floating]]":
        """Return the outputs by name; of a classifier, the scores that its probabilities come from."""
        return {name: value.copy() for name, value in self._outputs.items()}

    def _classified(self, scores: str) -> "NDArray[np.floating]":
        """Evaluate a classifier, check its answer and its class names, and return its scores."""
        assert self._input is not None
        if self._evaluator.classes != self._labels:
            raise ParityError("The package's class names are not the given ones, or not in their order.")
        answer = self._evaluator.run({INPUT: self._input}, also=[scores])
        logits, label = answer[scores], str(answer[LABEL].item())
        best = self._labels[int(logits.argmax())]
        if label != best:
            raise ParityError(f"The package answers '{label}' where its own scores say '{best}'.")
        return logits
