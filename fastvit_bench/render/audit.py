"""The audit of a file that others wrote, for people."""

from collections.abc import Iterator

from fastvit_bench.records.audit import Audit, FoldableOperations, OutputProof, TurnTimes
from fastvit_bench.render.table import clean

_SHOWN = 3  # names of nodes of a kind, and tried preparations, without -v


def lines(audit: Audit, *, verbose: bool) -> list[str]:
    """Return what is known of a file, a fact a line."""
    return [clean(line) for line in _lines(audit, verbose=verbose)]


def verdict(audit: Audit) -> str:
    """Return the sentence that says whether the file is the network."""
    network = f"{audit.variant} ({audit.head}) with {audit.weights.label}"
    if audit.passed:
        return f"it is {network}, in {audit.precision}: {_worst(audit)}"
    if audit.computed and all(output.passed for output in audit.outputs):
        return (
            f"it is {network}, and prepares images in another way: fed {audit.preparation}, it computes the network "
            f"of {audit.computed}, which takes {audit.expected}"
        )
    moved = [output for output in audit.outputs if output.classes]
    if moved:
        return f"it is {network}, with its classes in another order: {moved[0].reason}"
    return f"not proved to be {network}: {_failure(audit)}"


def _worst(audit: Audit) -> str:
    worst = max(audit.outputs, key=lambda output: (output.error or 0.0) / output.tolerance)
    return _error(worst)


def _error(output: OutputProof) -> str:
    if output.error is None:
        return output.reason
    kind = "largest error" if output.judged == "max" else "root mean square error"
    sign = "≤" if output.passed else ">"
    return f"{kind} {output.error:.1e} {sign} {output.tolerance:.0e} of the reference's standard deviation"


def _failure(audit: Audit) -> str:
    failed = next((output for output in audit.outputs if not output.passed), None)
    if failed is None:
        return "it has no outputs"
    if failed.error is None:
        return f"of output {failed.name} {list(failed.shape)}, {failed.reason}"
    return f"output {failed.name}, {_error(failed)}"


def _lines(audit: Audit, *, verbose: bool) -> Iterator[str]:
    yield f"{audit.file}: {verdict(audit)}"
    size = f"{audit.shape.batch} x {audit.shape.size} pixels"
    nearest = "" if audit.passed or audit.computed else "nearest of those tried: "
    within = f", made within to {audit.expected}" if audit.passed and audit.preparation != audit.expected else ""
    yield f"preparation: {nearest}{audit.preparation}{within}; {audit.layout}, {size}"
    if len(audit.tried) > 1:
        others = [trial for trial in audit.tried if trial.preparation != audit.preparation]
        shown = others if verbose else others[:_SHOWN]
        texts = [
            f"{trial.preparation} {'nothing to compare' if trial.error is None else f'{trial.error:.1e}'}"
            for trial in shown
        ]
        yield f"other preparations, error over what is allowed: {'; '.join(texts)}"
    for output in audit.outputs:
        what = output.value or "no value of the network"
        agreement = "" if output.top1_agreement is None else f", top-1 agreement {100 * output.top1_agreement:.0f} %"
        yield f"output {output.name} {list(output.shape)}: {what}, {_error(output)}{agreement}"
    if not audit.passed and audit.weights_stored is not None:
        yield (
            f"weights: {audit.weights_stored} of the network's {audit.weights_compared} weight tensors are in the "
            f"file as they are{'' if audit.weights_stored else ', so it has other weights, or changed all of them'}"
        )
    yield _foldable_line(audit.foldable)
    for kind in audit.foldable if verbose else ():
        yield f"{kind.kind}: {', '.join(kind.names)}"
    yield from _operations(audit, verbose=verbose)
    if audit.times is not None:
        yield _times(audit.times)
    yield from audit.notes
    if verbose:
        yield f"{audit.images} images drawn from seed {audit.seed}; computed by {audit.how}, against float64"


def _times(times: TurnTimes) -> str:
    if times.file_ms is None or times.own_ms is None or times.ratio is None:
        return f"latency: not measured on {times.device}: {times.reason}"
    span = times.interval
    bounds = f", [{span.low:.3f}, {span.high:.3f}] at {100 * span.confidence:.0f} %" if span else ""
    return (
        f"latency on {times.device}: {times.file_ms:.2f} ms, and {times.own_ms:.2f} ms of this tool's own: "
        f"ratio {times.ratio:.3f}{bounds}, of {times.blocks} blocks in turns"
    )


def _foldable_line(foldable: tuple[FoldableOperations, ...]) -> str:
    if not foldable:
        return "could have been folded: nothing that is looked for"
    return "could have been folded: " + ", ".join(f"{kind.count} x {kind.kind}" for kind in foldable)


def _operations(audit: Audit, *, verbose: bool) -> Iterator[str]:
    own = sum(audit.own_operations.values())
    beside = f"{own} in {audit.own_path}" if own else f"none of this tool's own ({audit.own_reason})"
    yield f"operations: {sum(audit.operations.values())}, beside {beside}"
    if verbose:
        kinds = dict.fromkeys((*audit.operations, *audit.own_operations))
        texts = [f"{kind} {audit.operations.get(kind, 0)}/{audit.own_operations.get(kind, 0)}" for kind in kinds]
        yield f"operations by kind, its and this tool's: {', '.join(texts)}"
