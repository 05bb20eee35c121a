"""What is compared with what: exported files, models, stored runs and revisions become the two sides of cells."""

import itertools
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

import fastvit_bench
from fastvit_bench import backends, build, catalogue, config, files, resources, revisions, sweep
from fastvit_bench.errors import (
    ChecksumError,
    ConfigError,
    NotComparableError,
    ParityError,
    UnavailableError,
    UsageError,
)
from fastvit_bench.records import (
    Artifact,
    CellError,
    Device,
    EngineJob,
    Failure,
    Fuse,
    Machine,
    Measurement,
    Method,
    ModelSpec,
    Request,
    Shape,
    Stage,
    cell_name,
)
from fastvit_bench.report import store
from fastvit_bench.verdicts import NoBaseline, Outcome
from fastvit_bench.worker import Worker

Command = tuple[str, ...]


@dataclass(frozen=True)
class Entry:
    """One side of a cell, as it lies on the disk."""

    label: str
    artifact: Artifact
    path: Path
    device: Device  # options filled in
    command: Command = ()  # of its processes; empty: this Python's


@dataclass(frozen=True)
class Unavailable:
    """A side of a cell that is not there, and why."""

    name: str  # of the cell
    reason: str
    stage: Stage | None = None  # where it broke down
    outcome: Outcome = Outcome.INCOMPARABLE  # what is concluded of its cell


BaseSide = Entry | Measurement | Unavailable


@dataclass(frozen=True)
class Pair:
    """A cell: what is compared with what. A measurement in place of the base is one of another day."""

    name: str
    base: BaseSide
    head: Entry | Unavailable


# --- words ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Word:
    """A side as the command line names it: a model or a path, and settings that are its own."""

    name: str
    settings: Mapping[str, str]


KEYS = ("fuse", "precision", "checkpoint", "seed", "threads")  # of a word's settings; or an option of the device


def word(text: str) -> Word:
    """``NAME[,KEY=VALUE]…`` such as ``fastvit_t8,fuse=none`` or ``models/t8.onnx,threads=1``; raises `UsageError`."""
    name, *rest = text.split(",")
    settings: dict[str, str] = {}
    for part in rest:
        key, sign, value = part.partition("=")
        if not sign or not key.strip() or not value.strip():
            raise UsageError(f"'{part}' in '{text}' is no setting; write KEY=VALUE, such as fuse=none or threads=1.")
        if key.strip() in settings:
            raise UsageError(f"'{text}' sets {key.strip()} twice; leave one out.")
        settings[key.strip()] = value.strip()
    if not name.strip():
        raise UsageError(f"'{text}' names nothing; write a model, an exported file or a folder of them first.")
    return Word(name.strip(), settings)


def with_options(device: Device, settings: Mapping[str, str]) -> Device:
    """The device with a word's settings among its options, each as the option's own type; raises `UsageError`."""
    backend = backends.get(device.backend)
    known = backend.options(device)
    told: dict[str, str | int | float | bool] = {}
    for name, text in settings.items():
        if name not in known:
            raise UsageError(
                f"'{name}' is no setting for device '{device.name}'; known: {', '.join(sorted({*KEYS, *known}))}."
            )
        usual = known[name]
        try:
            told[name] = {"true": True, "false": False}[text.lower()] if isinstance(usual, bool) else type(usual)(text)
        except (KeyError, ValueError):
            raise UsageError(
                f"{name}={text} must be {'true or false' if isinstance(usual, bool) else 'a number'}."
            ) from None
    changed = msgspec.structs.replace(device, options={**device.options, **told})
    return msgspec.structs.replace(changed, options=backend.options(changed))


def lying(path: Path, device: Device, label: str, command: Command = ()) -> list[Entry]:
    """What `export` has left in a file or a folder, ready to run on a device; each file's hash is checked.

    Raises `NotComparableError` for a folder without any, `UsageError` for what cannot be read or is of another toolkit,
    `ChecksumError` for a file that is not the one its side-car describes.
    """
    backend = backends.get(device.backend)
    if path.is_dir() and not any(path.name.endswith(each.suffix) for each in backends.targets().values()):
        notes = path.rglob(f"*{backend.suffix}.json")
        found = sorted(
            each.with_suffix("") for each in notes if not any(part[0] == "." for part in each.relative_to(path).parts)
        )
        if not found:
            raise NotComparableError(
                f"{path} holds no exported files (*{backend.suffix}), so there is nothing to compare; "
                f"`fastvit-bench export --target {backend.target} -o {path}` writes some."
            )
    elif path.exists():
        found = [path]
        if backends.of_file(path).name != backend.name:
            raise UsageError(
                f"{path} is for {backends.of_file(path).target}; device '{device.name}' runs {backend.target} files."
            )
    else:
        raise UsageError(f"{path} does not exist; name an exported file or a folder of them.")
    return [_entry(file, device, label, command) for file in found]


def _entry(path: Path, device: Device, label: str, command: Command) -> Entry:
    notes = build.sidecar(path)
    try:
        artifact = msgspec.json.decode(notes.read_bytes(), type=Artifact)
    except FileNotFoundError:
        raise UsageError(f"{path} has no {notes.name} beside it, which says what it is; export it again.") from None
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(f"{notes} cannot be read: {error}.") from None
    try:
        digest = files.sha256(path)
    except FileNotFoundError:
        raise UsageError(f"{notes} describes {path.name}, which is not there; export it again.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from None
    if digest != artifact.sha256:
        raise ChecksumError(f"{path} is not the file that {notes.name} describes; export it again.")
    backend = backends.get(device.backend)
    shaped = {name: value for name, value in artifact.options.items() if name in backend.shaping}
    device = msgspec.structs.replace(
        device,
        precision=artifact.precision,
        batch=artifact.shape.batch,
        options={**device.options, **{name: _like(device.options.get(name), value) for name, value in shaped.items()}},
    )
    return Entry(label, artifact, path, msgspec.structs.replace(device, options=backend.options(device)), command)


def _like(usual: str | int | float | bool | None, text: str) -> str | int | float | bool:
    """An option that a side-car holds as text, as the type that it has."""
    if isinstance(usual, bool):
        return text == "True"
    return type(usual)(text) if usual is not None else text


def made(
    specs: Sequence[ModelSpec],
    shapes: Sequence[Shape],
    fused: Fuse,
    device: Device,
    *,
    label: str,
    seed: int,
    models: Path,
    timeout_s: float,
    command: Command = (),
    notify: Callable[[str], None] = lambda what: None,
) -> list[Entry | Unavailable]:
    """Export what is missing of some models at some shapes; a cell that fails comes back by name, with the reason."""
    request = Request(
        device=device,
        models=tuple(specs),
        shapes=tuple(shapes),
        fused=fused,
        method=Method(),
        seed=seed,
        timeout_s=timeout_s,
    )
    steps = sweep.plan(request, models)
    sweep.check_checkpoints(request, steps)
    found: list[Entry | Unavailable] = []
    with Worker() as exporter:
        for step in steps:
            reply = sweep.ready(
                step,
                exporter,
                timeout_s,
                lambda step, what: notify(f"{what} {label}: {step.cell.label}"),
                engine=False,  # `build_engines` builds those of all sides
            )
            if isinstance(reply, CellError):
                found.append(Unavailable(step.cell.label, reply.reason, reply.stage))
            else:
                found.append(Entry(label, reply, Path(sweep.file_of(step, reply)), step.job.device, command))
    return found


def build_engines(side: Iterable["BaseSide"], timeout_s: float) -> None:
    """Build the engines of a side's files that lack them, where the toolkit runs engines.

    Raises `ParityError` for one that computes something else, `UnavailableError` for one that cannot be built.
    """
    entries = [each for each in side if isinstance(each, Entry) and backends.get(each.device.backend).engines]
    with Worker() as builder:
        for entry in entries:
            asked = build.asked_for(entry.path, backends.get(entry.device.backend))
            reply = builder.ask(EngineJob(export=msgspec.structs.replace(asked, device=entry.device)), timeout_s)
            if isinstance(reply, CellError):
                kind = ParityError if reply.stage == "parity" else UnavailableError
                raise kind(f"{entry.path}: {reply.reason.rstrip('.')}.")


def name_of(artifact: Artifact) -> str:
    """Of a cell, without what the two sides of `compare` may differ in: ``fastvit_t8 256 b1``."""
    return cell_name(artifact.model, artifact.shape)


def by_name(base: Sequence[BaseSide], head: Sequence[Entry | Unavailable], wanted: Sequence[str] = ()) -> list[Pair]:
    """Cells of the gate: sides of one name are compared, and a name that one side lacks is a cell without a figure.

    So is a name of `wanted` that both lack. Where the base has nothing at all of a model, there is no baseline.
    Raises `NotComparableError` where one side has two artifacts of a name, or nothing is to be compared.
    """
    ours, theirs = _named(head, "this tree"), _named(base, "the baseline")
    known = {_model(side) for side in base}
    found: list[Pair] = []
    for name in dict.fromkeys([*wanted, *ours, *theirs]):
        here = ours.get(name, Unavailable(name, "this tree lacks it"))
        assert not isinstance(here, Measurement)
        there = theirs.get(name)
        if there is None and not isinstance(here, Unavailable) and here.artifact.model not in known:
            reason = f"the baseline has no model '{here.artifact.model}' yet, so there is nothing to compare with"
            there = Unavailable(name, reason, outcome=Outcome.NO_BASELINE)
        if isinstance(here, Unavailable) and isinstance(there, Unavailable) and there.outcome is Outcome.NO_BASELINE:
            there = here  # a file that this tree could not make is no first gate that may pass
        found.append(Pair(name, there or Unavailable(name, "the baseline lacks it"), here))
    if not found:
        raise NotComparableError("There are no cells to compare; name models and sizes in [gate] of benchmark.toml.")
    return found


def _model(side: BaseSide) -> str:
    """Of which model a side is; a missing one names its cell, which begins with it."""
    if isinstance(side, Unavailable):
        return side.name.rsplit(" ", 2)[0]
    return side.artifact.model


def by_shape(base: Sequence[Entry], head: Sequence[Entry]) -> list[Pair]:
    """Pairs for `compare`: what has the same input shape; where a side holds several models, also the same model.

    Raises `NotComparableError` where nothing fits, or more than one artifact does.
    """
    several = len({entry.artifact.model for entry in base}) > 1 or len({entry.artifact.model for entry in head}) > 1

    def key(entry: Entry) -> tuple[object, ...]:
        return (entry.artifact.shape, entry.artifact.model if several else None)

    for side in (base, head):
        twice = [key for key, group in itertools.groupby(sorted(map(key, side), key=str)) if len(list(group)) > 1]
        if twice:
            raise NotComparableError(
                f"{side[0].label} holds several files for one shape; name one file, or keep each kind in a folder."
            )
    heads = {key(entry): entry for entry in head}
    found = [
        Pair(name_of(entry.artifact) if several else _shape_name(entry, heads[key(entry)]), entry, heads[key(entry)])
        for entry in base
        if key(entry) in heads
    ]
    lone = [entry for entry in base if key(entry) not in heads]
    lone += [entry for entry in head if key(entry) not in {key(each) for each in base}]
    if lone:
        raise NotComparableError(
            f"{name_of(lone[0].artifact)} ({lone[0].label}) has no counterpart of its shape on the other side; "
            f"name the sizes that both have with --res."
        )
    return found


def _shape_name(base: Entry, head: Entry) -> str:
    models = list(dict.fromkeys([base.artifact.model, head.artifact.model]))
    return cell_name(" / ".join(models), base.artifact.shape)


def _named(side: Sequence[BaseSide], whose: str) -> dict[str, BaseSide]:
    found: dict[str, BaseSide] = {}
    for each in side:
        name = each.name if isinstance(each, Unavailable) else cell_of(each)
        if name in found:
            raise NotComparableError(
                f"{whose[0].upper()}{whose[1:]} holds two artifacts for {name}; keep those of one precision and fuse "
                f"level in a folder of their own."
            )
        found[name] = each
    return found


def cell_of(side: Entry | Measurement) -> str:
    """The name of the cell that a side belongs to."""
    assert isinstance(side.artifact, Artifact)
    return name_of(side.artifact)


def same_content(pairs: Iterable[Pair]) -> list[str]:
    """Say which cells have one file on both sides, run in the same way: their true ratio is 1."""
    return [
        f"{pair.name}: both sides are the same file (SHA-256 {(pair.head.artifact.sha256 or '')[:8]}...), run alike."
        for pair in pairs
        if isinstance(pair.base, Entry)
        and isinstance(pair.head, Entry)
        and pair.base.artifact.sha256 == pair.head.artifact.sha256
        and (pair.base.device, pair.base.command) == (pair.head.device, pair.head.command)
    ]


def anything_goes(base: BaseSide, head: Entry) -> list[str]:
    """Nothing forbids `compare` to compare: what differs is what is asked about."""
    return []


def differences(base: BaseSide, head: Entry) -> list[str]:
    """What forbids a gate to compare two sides: ``precision: fp16 there, fp32 here``. A cell's model may change."""
    if isinstance(base, Unavailable):
        return []
    theirs, ours = base.artifact, head.artifact
    assert isinstance(theirs, Artifact)
    facts = {
        "toolkit": (theirs.backend, ours.backend),
        "precision": (theirs.precision, ours.precision),
        "shape": (theirs.shape.nchw, ours.shape.nchw),
        "head": (str(theirs.head), str(ours.head)),
        "device": (base.device.name, head.device.name),
    }
    options = {*base.device.options, *head.device.options}
    facts |= {name: (base.device.options.get(name), head.device.options.get(name)) for name in sorted(options)}
    return [f"{what}: {there} there, {here} here" for what, (there, here) in facts.items() if there != here]


@contextmanager
def exported_by(
    name: str,
    settings: config.Config,
    specs: Sequence[ModelSpec],
    shapes: Sequence[Shape],
    device: Device,
    notify: Callable[[str], None] = lambda what: None,
) -> Generator[list[Entry | Unavailable]]:
    """What a revision exports of the cells, by its own code and configuration; the files are gone afterwards.

    A model that the revision cannot export is a missing cell, one that it does not have is a cell without a baseline.
    Raises what `revisions` does.
    """
    backend, kept = backends.get(device.backend), Path(settings.paths.models)
    found: list[Entry | Unavailable] = []
    with (
        revisions.checked_out(name, kept / ".environments", notify) as revision,
        tempfile.TemporaryDirectory(prefix="fastvit-bench-") as temporary,
    ):
        configuration = _configuration(revision, settings)
        old = _configured(configuration, name) if configuration.is_file() else {}
        for spec in specs:
            cells = [cell_name(spec.name, shape) for shape in shapes]
            if not configuration.is_file():
                reason = f"{name} has no {configuration.name} yet, so there is nothing to compare with"
                found += [Unavailable(cell, reason, outcome=Outcome.NO_BASELINE) for cell in cells]
                continue
            if spec.name not in old:
                reason = f"{name} has no model '{spec.name}' yet, so there is nothing to compare with"
                found += [Unavailable(cell, reason, outcome=Outcome.NO_BASELINE) for cell in cells]
                continue
            place = Path(temporary) / spec.name
            words = ["--target", backend.target, "--model", spec.name, "--batch", str(device.batch)]
            words += ["--res", ",".join(shape.size for shape in shapes), "--precision", device.precision]
            words += ["--output", str(place / "")]
            if configuration != revision.folder / config.FILE_NAME:
                words += ["--config", str(configuration)]
            checkpoint = old[spec.name].checkpoint
            if checkpoint is not None:  # files that git does not hold lie in the repository at hand, at the same place
                own = Path(checkpoint)
                words += ["--checkpoint", str(own if own.is_file() else revision.origin(own))]
            notify(f"exporting {spec.name} by {name} ({revision.commit[:8]})")
            try:
                revisions.export(revision, words, settings.sweep.timeout_s)
            except UnavailableError as error:
                found += [Unavailable(cell, str(error).rstrip("."), "export") for cell in cells]
                continue
            found += lying(place, device, f"{name} ({revision.commit[:8]})")
        yield found


def _configuration(revision: revisions.Revision, settings: config.Config) -> Path:
    """The configuration file that a revision is exported by: the counterpart of the one in use.

    Where the one in use is packaged with this tool, the revision may have one of its own.
    """
    own = revision.folder / config.FILE_NAME
    packaged = Path(settings.path).resolve() == resources.find(config.FILE_NAME).resolve()
    return own if packaged and own.is_file() else revision.counterpart(Path(settings.path))


def _configured(path: Path, name: str) -> dict[str, ModelSpec]:
    """The models of a revision's configuration; raises `UsageError` for one that cannot be read."""
    try:
        return config.load(path, backends=backends.implemented()).models
    except ConfigError as error:
        raise UsageError(f"In {name}, {error}") from None


def advised(pairs: Sequence[Pair], policy: NoBaseline) -> list[Pair]:
    """The cells of a gate, of which those without a baseline say what becomes of them by its policy."""
    advice = {
        NoBaseline.FAIL: "--no-baseline pass lets the first gate pass",
        NoBaseline.PASS: "it passes by --no-baseline pass",
    }
    return [
        replace(pair, base=replace(pair.base, reason=f"{pair.base.reason}; {advice[policy]}"))
        if isinstance(pair.base, Unavailable) and pair.base.outcome is Outcome.NO_BASELINE
        else pair
        for pair in pairs
    ]


def stored(path: Path, device: Device, machine: Machine) -> list[BaseSide]:
    """The figures of a run on another day, as bases; of a cell that was measured twice, the last.

    Raises `NotComparableError` where the run is of another device or machine (naming each thing that differs; a
    reading such as a clock frequency is none), or holds no figure of a network of ours; `StoreError` as reading does.
    """
    file = store.read(path)
    found: dict[str, BaseSide] = {}
    for line in file.lines:
        if isinstance(line, Failure):
            name = line.cell.label
            found.setdefault(name, Unavailable(name, f"the stored run failed there: {line.reason}", line.stage))
        if isinstance(line, Measurement) and isinstance(line.artifact, Artifact):
            found[name_of(line.artifact)] = line
    measured = [each for each in found.values() if isinstance(each, Measurement)]
    if not measured:
        raise NotComparableError(f"{path} holds no finished figure, so there is nothing to compare with.")
    for each in measured:
        apart = machine.differences(each.machine, backends.figure_packages(device))
        if each.device.name != device.name:
            apart.insert(0, f"device: {each.device.name} then, {device.name} now")
        if apart:
            raise NotComparableError(
                f"{path} was measured under other conditions ({'; '.join(apart)}); run the base again here, with "
                f"--baseline DIR or --baseline-rev, or store a new baseline on this machine."
            )
    lacking = [cell.label for cell in file.runs[0].cells if cell.label not in found]
    return [*found.values(), *(Unavailable(name, "the stored run ended before it") for name in lacking)]


def host_hints(bases: Iterable[BaseSide], machine: Machine) -> list[str]:
    """What to know where stored figures bear another host name than this machine; one sentence for each."""
    hints = [machine.hint(base.machine) for base in bases if isinstance(base, Measurement)]
    return [f"Stored baseline: {hint}" for hint in dict.fromkeys(hints) if hint]


@dataclass(frozen=True)
class Asked:
    """A word of `compare` whose settings make sense."""

    label: str
    path: Path | None  # of exported files; else a model is meant
    specs: Sequence[ModelSpec]
    fused: Fuse
    seed: int
    device: Device


def ask(text: str, label: str, settings: config.Config, device: Device) -> Asked:
    """What a word means, before anything is exported; raises `UsageError` for what means nothing."""
    told = word(text)
    own = {name: value for name, value in told.settings.items() if name not in KEYS or name == "threads"}
    if _on_disk(told.name):
        beside = [name for name in told.settings if name not in own]
        if beside:
            raise UsageError(f"{told.name} is exported already; leave out {', '.join(beside)}, or name a model.")
        path = Path(told.name)
        if not path.exists():
            raise UsageError(f"{path} does not exist; name an exported file, a folder of them, or a model.")
        return Asked(label, path, (), Fuse.FOLDED, 0, with_options(device, own))
    try:
        fused, seed = Fuse(told.settings.get("fuse", Fuse.FOLDED)), int(told.settings.get("seed", "0"))
    except ValueError:
        raise UsageError(f"'{text}': fuse must be {', '.join(Fuse)} and seed a whole number.") from None
    specs = settings.select([told.name])
    for spec in specs:
        catalogue.require(spec.variant)
    if "checkpoint" in told.settings:
        specs = [msgspec.structs.replace(spec, checkpoint=told.settings["checkpoint"], sha256=None) for spec in specs]
    precisions = backends.get(device.backend).precisions
    precision = told.settings.get("precision", device.precision)
    if precision not in precisions:
        raise UsageError(f"'{text}': device '{device.name}' runs {' or '.join(precisions)}.")
    return Asked(
        label, None, specs, fused, seed, with_options(msgspec.structs.replace(device, precision=precision), own)
    )


def resolve(
    asked: Asked,
    settings: config.Config,
    shapes: Sequence[Shape],
    command: Command = (),
    notify: Callable[[str], None] = lambda what: None,
) -> list[Entry]:
    """A side of `compare`: exported files that lie there, or models that are exported first if need be.

    `shapes` are those that are wanted; none: all files, or a model at its evaluation size. Raises what `lying` does,
    `ParityError` and `UnavailableError` for a model whose export fails.
    """
    if asked.path is not None:
        found = lying(asked.path, asked.device, asked.label, command)
        chosen = [each for each in found if not shapes or each.artifact.shape in shapes]
        if not chosen:
            raise NotComparableError(f"{asked.path} holds nothing of {', '.join(each.size for each in shapes)} pixels.")
        return chosen
    entries: list[Entry] = []
    for spec in asked.specs:
        usual = Shape(batch=asked.device.batch, height=spec.resolution, width=spec.resolution)
        for each in made(
            [spec],
            shapes or [usual],
            asked.fused,
            asked.device,
            label=asked.label,
            seed=asked.seed,
            models=Path(settings.paths.models),
            timeout_s=settings.sweep.timeout_s,
            command=command,
            notify=notify,
        ):
            if isinstance(each, Unavailable):
                kind = ParityError if each.stage == "parity" else UnavailableError
                raise kind(f"{each.name} ({asked.label}) gave no file: {each.reason}")
            entries.append(each)
    return entries


def both(
    base: str,
    head: str,
    labels: tuple[str, str],
    settings: config.Config,
    device: Device,
    shapes: Sequence[Shape],
    commands: Sequence[Command] = ((), ()),
    notify: Callable[[str], None] = lambda what: None,
) -> list[Pair]:
    """The pairs of `compare`; without `shapes`, a model follows the sizes of the files it is compared with."""
    asked = [ask(text, label, settings, device) for text, label in zip((base, head), labels, strict=True)]
    first = 1 if asked[1].path is not None and asked[0].path is None else 0
    sides: dict[int, list[Entry]] = {}
    for at in (first, 1 - first):
        wanted = shapes or [entry.artifact.shape for side in sides.values() for entry in side]
        sides[at] = resolve(asked[at], settings, wanted, commands[at], notify)
        build_engines(sides[at], settings.sweep.timeout_s)
    return by_shape(sides[0], sides[1])


def _on_disk(name: str) -> bool:
    """Whether a word means a path: because it is one, or because no model is written like that."""
    return Path(name).exists() or "/" in name or bool(Path(name).suffix)


def elsewhere(python: str) -> Command:
    """The command of a worker in another Python environment, with this fastvit-bench and that environment's packages.

    Raises `UsageError` for what is no Python.
    """
    found = shutil.which(python)
    if found is None:
        raise UsageError(
            f"{python} is no Python interpreter; name the one of an environment, such as .venv/bin/python."
        )
    ours = Path(fastvit_bench.__file__).resolve()
    # by its own path and not by a folder on the search path, where this environment's packages lie too
    program = (
        "import importlib.util, runpy, sys; "
        f"spec = importlib.util.spec_from_file_location('fastvit_bench', {str(ours)!r}, "
        f"submodule_search_locations=[{str(ours.parent)!r}]); "
        "module = sys.modules['fastvit_bench'] = importlib.util.module_from_spec(spec); "
        "spec.loader.exec_module(module); runpy.run_module('fastvit_bench.worker', run_name='__main__')"
    )
    return (found, "-c", program)
