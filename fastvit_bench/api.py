"""The same three things from Python: `export` a network, `measure` it, `compare` two of them.

Every call returns records (`fastvit_bench.records`, `fastvit_bench.verdicts`) and raises the errors of
`fastvit_bench.errors`, whose text is meant for a person. Nothing is printed.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from fastvit_bench import backends, build, config, sides, sweep, turns
from fastvit_bench.errors import UnavailableError, UsageError
from fastvit_bench.records import Artifact, Device, Failure, Fuse, Measurement, ModelSpec, Request
from fastvit_bench.report import store
from fastvit_bench.verdicts import Comparison, Kind, Plan

Sizes = str | int | Sequence[int]  # as --res takes them: 256, "224..1024", "384x512", [224, 256]


def export(
    model: str,
    target: str = "onnx",
    *,
    checkpoint: Path | None = None,
    res: Sizes | None = None,
    batch: int = 1,
    precision: str | None = None,
    fuse: Fuse = Fuse.FOLDED,
    seed: int = 0,
    configuration: Path | None = None,
) -> list[tuple[Path, Artifact]]:
    """Export a model for a toolkit, one file per size, each proved; returns the files and what they are.

    `model` is one of benchmark.toml. A file that was exported before is used again. Raises `ParityError` where a file
    does not compute what the network computes, `UsageError` and `CheckpointError` as their names say.
    """
    settings = config.load(configuration, backends=backends.implemented())
    backend = backends.of_target(target)
    spec = _spec(settings, model, checkpoint)
    device = Device(name=target, backend=backend.name, precision=precision or backend.precisions[0], batch=batch)
    made: list[tuple[Path, Artifact]] = []
    for shape in config.shapes(_sizes(res) or str(spec.resolution), settings.sweep.grid, batch, config.stride([spec])):
        weights = build.weights_of(spec, seed)
        job = build.job(spec, weights, shape, fuse, device, folder=Path(settings.paths.models))
        artifact = build.cached(job) or build.build(job)
        made.append((Path(job.path).with_name(artifact.path), artifact))
    return made


def measure(
    model: str,
    device: str = "cpu",
    *,
    checkpoint: Path | None = None,
    res: Sizes | None = None,
    fuse: Fuse = Fuse.FOLDED,
    seed: int = 0,
    configuration: Path | None = None,
) -> list[Measurement]:
    """Time a model on a device as `fastvit-bench latency` does, and keep the run; one measurement per size.

    `model` may be a glob. Raises `UnavailableError` where the device is not here, or where a size failed; the sizes
    before it are kept in the run file.
    """
    settings = config.load(configuration, backends=backends.implemented())
    chosen, machine = sweep.preflight(settings.device(device), name=settings.machine_name())
    specs = [_spec(settings, model, checkpoint)] if checkpoint else settings.select([model])
    grid = settings.sweep.grid
    request = Request(
        device=chosen,
        models=tuple(specs),
        shapes=tuple(
            config.shapes(_sizes(res) or f"{min(grid)}..{max(grid)}", grid, chosen.batch, config.stride(specs))
        ),
        fused=fuse,
        method=msgspec.structs.replace(
            settings.method,
            **backends.get(chosen.backend).settling(chosen),
            processes=sweep.processes(settings.method, machine),
        ),
        seed=seed,
        timeout_s=settings.sweep.timeout_s,
    )
    results = Path(settings.paths.results)
    steps = sweep.plan(request, Path(settings.paths.models))
    sweep.check_checkpoints(request, steps)
    found: list[Measurement] = []
    with store.lock(results, chosen.name):
        path = sweep.begin(request, steps, machine, results)
        for result in sweep.run(request, steps, machine, path):
            if isinstance(result, Failure):
                raise UnavailableError(f"{result.cell.label} gave no figure: {result.reason}; see {path}.")
            found.append(result)
    return found


def compare(
    base: str,
    head: str,
    device: str = "cpu",
    *,
    res: Sizes | None = None,
    margin: float = 0.05,
    max_time_s: float = 1200,
    seed: int = 0,
    base_python: str | None = None,
    head_python: str | None = None,
    configuration: Path | None = None,
) -> Comparison:
    """Time two sides in turns and judge head against base, as `fastvit-bench compare` does.

    A side is an exported file, a folder of them, or a model with settings of its own (``fastvit_t8,fuse=none``).
    `margin` is the share by which head may be slower. Raises `NotComparableError` where nothing fits together.
    """
    settings = config.load(configuration, backends=backends.implemented())
    chosen, machine = sweep.preflight(settings.device(device), name=settings.machine_name())
    shapes = config.shapes(_sizes(res), settings.sweep.grid, chosen.batch) if res is not None else []
    commands = [sides.elsewhere(python) if python else () for python in (base_python, head_python)]
    plan = Plan(margin=margin, pooled_margin=margin / 2, max_time_s=max_time_s, seed=seed, turns=turns.TURNS)
    with store.lock(Path(settings.paths.results), chosen.name):
        pairs = sides.both(base, head, (base, head), settings, chosen, shapes, commands)
        started = datetime.now(UTC)
        contest = turns.Contest(pairs, plan, machine, timeout_s=settings.sweep.timeout_s, same=sides.anything_goes)
        verdicts = contest.run()
    return turns.told(contest, verdicts, kind=Kind.PAIRED, device=chosen, base=base, head=head, started=started)


def _spec(settings: config.Config, model: str, checkpoint: Path | None) -> ModelSpec:
    (spec, *more) = settings.select([model])
    if more and checkpoint is not None:
        raise UsageError(f"'{model}' means several models, and a checkpoint is of one; name it.")
    return spec if checkpoint is None else msgspec.structs.replace(spec, checkpoint=str(checkpoint), sha256=None)


def _sizes(res: Sizes | None) -> str:
    if res is None or isinstance(res, str):
        return res or ""
    return str(res) if isinstance(res, int) else ",".join(map(str, res))
