"""Inputs of a comparison: exported files, models, stored runs and revisions become the two sides of cells."""

import itertools
import shutil
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

import fastvit_bench
from fastvit_bench import backends, config, files
from fastvit_bench.comparing import git_revision
from fastvit_bench.errors import (
    ChecksumError,
    ConfigError,
    NotComparableError,
    ParityError,
    UnavailableError,
    UsageError,
)
from fastvit_bench.exporting import inventory, metadata
from fastvit_bench.measuring.worker import Worker
from fastvit_bench.network import registry
from fastvit_bench.records import (
    CALIBRATED,
    MOST_CALIBRATION_IMAGES,
    Artifact,
    CellError,
    Device,
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
    sample_faults,
)
from fastvit_bench.records.comparison import ALLOWABLE, NoBaseline, Outcome
from fastvit_bench.store import runs
from fastvit_bench.sweep import plan, run
from fastvit_bench.sweep.block import BlockSide

Command = tuple[str, ...]


@dataclass(frozen=True)
class Candidate:
    """One side of a cell: an exported file on disk and the device it runs on."""

    label: str
    artifact: Artifact
    path: Path
    device: Device  # options filled in
    command: Command = ()  # that starts its worker process; empty: the Python of this process

    @property
    def side(self) -> BlockSide:
        """The same as a record, for a block."""
        return BlockSide(
            label=self.label, artifact=self.artifact, path=str(self.path), device=self.device, command=self.command
        )


@dataclass(frozen=True)
class Unavailable:
    """A missing side of a cell, and the reason."""

    name: str  # of the cell
    reason: str
    stage: Stage | None = None  # at which it failed
    outcome: Outcome = Outcome.INCOMPARABLE  # what is concluded of its cell


BaseSide = Candidate | Measurement | Unavailable


@dataclass(frozen=True)
class ComparisonPair:
    """A cell and its two sides; a measurement as the base is one of another day."""

    name: str
    base: BaseSide
    head: Candidate | Unavailable


# --- arguments of the command line ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ParsedSpec:
    """One side as the command line names it: a model or a path, and settings of this side alone."""

    name: str
    settings: Mapping[str, str]


KEYS = (
    "fuse",
    "precision",
    "calibration",
    "calibration_images",
    "checkpoint",
    "weights",
    "seed",
    "threads",
)  # of settings; options of the device are accepted too


def parse_spec(text: str) -> ParsedSpec:
    """Parse ``NAME[,KEY=VALUE]…`` such as ``fastvit_t8,fuse=none`` or ``models/t8.onnx,threads=1``.

    Raises `UsageError` for a malformed or repeated setting, and for a missing name.
    """
    name, *parts = text.split(",")
    settings: dict[str, str] = {}
    for part in parts:
        key, sign, value = part.partition("=")
        if not sign or not key.strip() or not value.strip():
            raise UsageError(f"'{part}' in '{text}' is no setting; write KEY=VALUE, such as fuse=none or threads=1.")
        if key.strip() in settings:
            raise UsageError(f"'{text}' sets {key.strip()} twice; leave one out.")
        settings[key.strip()] = value.strip()
    if not name.strip():
        raise UsageError(f"'{text}' names nothing; write a model, an exported file or a folder of them first.")
    return ParsedSpec(name.strip(), settings)


def with_options(device: Device, settings: Mapping[str, str]) -> Device:
    """Return the device with the settings among its options, each converted to the option's type.

    Raises `UsageError` for an unknown option or a value of the wrong type.
    """
    backend = backends.get(device.backend)
    known = backend.options(device)
    values: dict[str, str | int | float | bool] = {}
    for name, text in settings.items():
        if name not in known:
            raise UsageError(
                f"'{name}' is no setting for device '{device.name}'; known: {', '.join(sorted({*KEYS, *known}))}."
            )
        usual = known[name]
        try:
            values[name] = (
                {"true": True, "false": False}[text.lower()] if isinstance(usual, bool) else type(usual)(text)
            )
        except (KeyError, ValueError):
            raise UsageError(
                f"{name}={text} must be {'true or false' if isinstance(usual, bool) else 'a number'}."
            ) from None
    changed = msgspec.structs.replace(device, options={**device.options, **values})
    return msgspec.structs.replace(changed, options=backend.options(changed))


def load_exported(path: Path, device: Device, label: str, command: Command = ()) -> list[Candidate]:
    """Load the exported file, or every exported file of a folder, ready to run on a device.

    Each file's hash is checked. Raises `NotComparableError` for a folder without exported files, and `UsageError` for a
    file that cannot be read or is of another toolkit. Raises `ChecksumError` for a hash that is not the side-car's.
    """
    backend = backends.get(device.backend)
    if path.is_dir() and not any(path.name.endswith(target.suffix) for target in backends.targets().values()):
        sidecars = path.rglob(f"*{backend.suffix}.json")
        exported = sorted(
            sidecar.with_suffix("")
            for sidecar in sidecars
            if not any(part[0] == "." for part in sidecar.relative_to(path).parts)
        )
        if not exported:
            raise NotComparableError(
                f"{path} holds no exported files (*{backend.suffix}), so there is nothing to compare; "
                f"`fastvit-bench export --target {backend.target} -o {path}` writes some."
            )
    elif path.exists():
        exported = [path]
        if backends.of_file(path).name != backend.name:
            raise UsageError(
                f"{path} is for {backends.of_file(path).target}; device '{device.name}' runs {backend.target} files."
            )
    else:
        raise UsageError(f"{path} does not exist; name an exported file or a folder of them.")
    return [_entry(file, device, label, command) for file in exported]


def _entry(path: Path, device: Device, label: str, command: Command) -> Candidate:
    notes = metadata.metadata_path(path)
    artifact = metadata.read_artifact(path)
    try:
        digest = files.sha256(path)
    except FileNotFoundError:
        raise UsageError(f"{notes} describes {path.name}, which is not there; export it again.") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror or error}.") from None
    if digest != artifact.sha256:
        raise ChecksumError(f"{path} is not the file that {notes.name} describes; export it again.")
    backend = backends.get(device.backend)
    shaped = {name: value for name, value in artifact.options.items() if name in backend.export_options}
    device = msgspec.structs.replace(
        device,
        precision=artifact.precision,
        batch=artifact.shape.batch,
        options={
            **{name: value for name, value in device.options.items() if name not in backend.export_options},
            **{name: _like(device.options.get(name), value) for name, value in shaped.items()},
        },
    )
    return Candidate(label, artifact, path, msgspec.structs.replace(device, options=backend.options(device)), command)


def _like(usual: str | int | float | bool | None, text: str) -> str | int | float | bool:
    """Convert an option, which a side-car stores as text, to the type of its usual value."""
    if isinstance(usual, bool):
        return text == "True"
    return type(usual)(text) if usual is not None else text


def export_missing(
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
) -> list[Candidate | Unavailable]:
    """Export each model at each shape where its file is missing; return every cell, a failed one as `Unavailable`."""
    request = Request(
        device=device,
        models=tuple(specs),
        shapes=tuple(shapes),
        fused=fused,
        method=Method(),
        seed=seed,
        timeout_s=timeout_s,
    )
    steps = plan.plan(request, models)
    plan.check_checkpoints(request, steps)
    sides: list[Candidate | Unavailable] = []
    with Worker() as exporter:
        for step in steps:
            reply = run.ready(
                step,
                exporter,
                timeout_s,
                lambda step, what: notify(f"{what} {label}: {step.cell.label}"),
                engine=False,  # `build_engines` builds the engines of all sides
            )
            if isinstance(reply, CellError):
                sides.append(Unavailable(step.cell.label, reply.reason, reply.stage))
            else:
                sides.append(Candidate(label, reply, Path(plan.file_of(step, reply)), step.job.device, command))
    return sides


def build_engines(
    side: Iterable["BaseSide"], timeout_s: float, notify: Callable[[str], None] = lambda what: None
) -> None:
    """Build the missing engines of a side's files, where the toolkit runs engines.

    Raises `ParityError` for an engine with other outputs than the network, `UnavailableError` for a failed build.
    """
    entries = [entry for entry in side if isinstance(entry, Candidate) and backends.get(entry.device.backend).engines]
    with Worker() as builder:
        for entry in entries:
            asked = metadata.asked_for(entry.path, backends.get(entry.device.backend))
            job = msgspec.structs.replace(asked, device=entry.device)
            notify(f"building the engine of {entry.path.name}")
            run.build_engine(job, builder, timeout_s, str(entry.path))


def name_of(artifact: Artifact) -> str:
    """Return the name of an artifact's cell, such as ``fastvit_t8 256 b1``: only what both sides have in common."""
    return cell_name(artifact.model, artifact.shape)


def by_name(
    base: Sequence[BaseSide], head: Sequence[Candidate | Unavailable], wanted: Sequence[str] = ()
) -> list[ComparisonPair]:
    """Pair the sides of a gate by the names of their cells.

    A name that one side lacks becomes a cell without a figure, and so does a name of `wanted` that both lack. A model
    that is entirely missing in the base has no baseline. Raises `NotComparableError` where one side has two artifacts
    of a name, or there is no cell at all.
    """
    head_sides, base_sides = _named(head, "this tree"), _named(base, "the baseline")
    known = {_model(side) for side in base}
    pairs: list[ComparisonPair] = []
    for name in dict.fromkeys([*wanted, *head_sides, *base_sides]):
        new = head_sides.get(name, Unavailable(name, "this tree lacks it"))
        assert not isinstance(new, Measurement)
        old = base_sides.get(name)
        if old is None and not isinstance(new, Unavailable) and new.artifact.model not in known:
            reason = f"the baseline has no model '{new.artifact.model}' yet, so there is nothing to compare with"
            old = Unavailable(name, reason, outcome=Outcome.NO_BASELINE)
        if isinstance(new, Unavailable) and isinstance(old, Unavailable) and old.outcome is Outcome.NO_BASELINE:
            old = new  # a failed export must not pass as the first gate of a new model
        pairs.append(ComparisonPair(name, old or Unavailable(name, "the baseline lacks it"), new))
    if not pairs:
        raise NotComparableError("There are no cells to compare; name models and sizes in [gate] of benchmark.toml.")
    return pairs


def _model(side: BaseSide) -> str:
    """Return the name of a side's model; the cell name of a missing side begins with it."""
    if isinstance(side, Unavailable):
        return side.name.rsplit(" ", 2)[0]
    return side.artifact.model


def by_shape(base: Sequence[Candidate], head: Sequence[Candidate]) -> list[ComparisonPair]:
    """Pair the sides of `compare` by input shape, and by model too where a side has several models.

    Raises `NotComparableError` for an artifact without a counterpart, and for two of one shape on one side.
    """
    several = len({entry.artifact.model for entry in base}) > 1 or len({entry.artifact.model for entry in head}) > 1

    def key(entry: Candidate) -> tuple[object, ...]:
        return (entry.artifact.shape, entry.artifact.model if several else None)

    for side in (base, head):
        twice = [key for key, group in itertools.groupby(sorted(map(key, side), key=str)) if len(list(group)) > 1]
        if twice:
            raise NotComparableError(
                f"{side[0].label} holds several files for one shape; name one file, or keep each kind in a folder."
            )
    heads = {key(entry): entry for entry in head}
    pairs = [
        ComparisonPair(
            name_of(entry.artifact) if several else _shape_name(entry, heads[key(entry)]), entry, heads[key(entry)]
        )
        for entry in base
        if key(entry) in heads
    ]
    lone = [entry for entry in base if key(entry) not in heads]
    lone += [entry for entry in head if key(entry) not in {key(counterpart) for counterpart in base}]
    if lone:
        raise NotComparableError(
            f"{name_of(lone[0].artifact)} ({lone[0].label}) has no counterpart of its shape on the other side; "
            f"name the sizes that both have with --res."
        )
    return pairs


def _shape_name(base: Candidate, head: Candidate) -> str:
    models = list(dict.fromkeys([base.artifact.model, head.artifact.model]))
    return cell_name(" / ".join(models), base.artifact.shape)


def _named(side: Sequence[BaseSide], whose: str) -> dict[str, BaseSide]:
    named: dict[str, BaseSide] = {}
    for entry in side:
        name = entry.name if isinstance(entry, Unavailable) else cell_of(entry)
        if name in named:
            raise NotComparableError(
                f"{whose[0].upper()}{whose[1:]} holds two artifacts for {name}; keep those of one precision and fuse "
                f"level in a folder of their own."
            )
        named[name] = entry
    return named


def cell_of(side: Candidate | Measurement) -> str:
    """Return the name of the cell that a side belongs to."""
    assert isinstance(side.artifact, Artifact)
    return name_of(side.artifact)


def same_content(pairs: Iterable[ComparisonPair]) -> list[str]:
    """Return a sentence for each cell with one file on both sides, run in the same way: its true ratio is 1."""
    return [
        f"{pair.name}: both sides are the same file (SHA-256 {(pair.head.artifact.sha256 or '')[:8]}...), run alike."
        for pair in pairs
        if isinstance(pair.base, Candidate)
        and isinstance(pair.head, Candidate)
        and pair.base.artifact.sha256 == pair.head.artifact.sha256
        and (pair.base.device, pair.base.command) == (pair.head.device, pair.head.command)
    ]


def other_weights(pairs: Iterable[ComparisonPair]) -> list[str]:
    """Return a sentence for each cell whose sides have other weights, which a gate compares all the same."""
    return [
        f"{pair.name}: the weights differ, {pair.base.artifact.weights.label} there and "
        f"{pair.head.artifact.weights.label} here."
        for pair in pairs
        if not isinstance(pair.base, Unavailable)
        and isinstance(pair.base.artifact, Artifact)
        and isinstance(pair.head, Candidate)
        and pair.base.artifact.weights.label != pair.head.artifact.weights.label
    ]


def unproved(name: str, side: Candidate | Measurement) -> Unavailable | None:
    """Return why a side of a cell must not be judged: its file or its figure has no proof, or a failed one; or None."""
    artifact = side.artifact
    label = side.label if isinstance(side, Candidate) else "the stored figure"
    proofs = [artifact.parity, *artifact.proofs.values()] if isinstance(artifact, Artifact) else []
    proofs += [side.parity] if isinstance(side, Measurement) else []
    failure = next((proof.failure for proof in proofs if proof is not None and proof.failure), "")
    if failure:
        return Unavailable(name, f"{label} failed its proof: {failure}", "parity")
    if None in proofs or not proofs:
        return Unavailable(name, f"{label} has no proof that it computes what the network computes; export it again")
    return None


def allow_any(base: BaseSide, head: Candidate) -> list[str]:
    """Return no incompatibility: the difference of the two sides is what `compare` is asked about."""
    return []


def check_allowed(keys: Sequence[str]) -> tuple[str, ...]:
    """Return the properties that ``--allow`` names, each once. Raises `UsageError` for one that does not exist."""
    for key in keys:
        if key not in ALLOWABLE:
            raise UsageError(f"--allow {key} means nothing; sides may differ in {', '.join(ALLOWABLE)}.")
    return tuple(key for key in ALLOWABLE if key in keys)


def incompatibilities(base: BaseSide, head: Candidate, allowed: Collection[str] = ()) -> list[str]:
    """Return the properties that forbid a gate to compare two sides, such as ``precision: fp16 there, fp32 here``.

    A cell's weights may change. Its network, fuse level, precision, shape, device and options may not, but for those
    properties that are `allowed`.
    """
    if isinstance(base, Unavailable):
        return []
    old, new = base.artifact, head.artifact
    assert isinstance(old, Artifact)
    facts: dict[str, tuple[object, object]] = {
        "toolkit": (old.backend, new.backend),
        "shape": (old.shape.nchw, new.shape.nchw),
        "device": (base.device.name, head.device.name),
    }
    facts |= {name: (of(old), of(new)) for name, of in ALLOWABLE.items() if name not in allowed}
    options = {*base.device.options, *head.device.options}
    facts |= {name: (base.device.options.get(name), head.device.options.get(name)) for name in sorted(options)}
    return [
        f"{what}: {old_fact} there, {new_fact} here"
        for what, (old_fact, new_fact) in facts.items()
        if old_fact != new_fact
    ]


@contextmanager
def exported_by(
    name: str,
    settings: config.Config,
    specs: Sequence[ModelSpec],
    shapes: Sequence[Shape],
    device: Device,
    notify: Callable[[str], None] = lambda what: None,
) -> Generator[list[Candidate | Unavailable]]:
    """Export cells by a revision's own code and configuration; the files are deleted on exit.

    A model that the revision cannot export is a missing cell; a model that it does not have is a cell without a
    baseline. Raises what `git_revision.git_worktree` does.
    """
    backend, models = backends.get(device.backend), Path(settings.paths.models)
    sides: list[Candidate | Unavailable] = []
    with (
        git_revision.git_worktree(name, models / inventory.ENVIRONMENTS, notify) as revision,
        files.temporary_folder() as temporary,
    ):
        configuration = _configuration(revision, settings)
        old = _configured(configuration, name) if configuration.is_file() else {}
        for spec in specs:
            cells = [cell_name(spec.name, shape) for shape in shapes]
            if not configuration.is_file():
                reason = f"{name} has no {configuration.name} yet, so there is nothing to compare with"
                sides += [Unavailable(cell, reason, outcome=Outcome.NO_BASELINE) for cell in cells]
                continue
            if spec.name not in old:
                reason = f"{name} has no model '{spec.name}' yet, so there is nothing to compare with"
                sides += [Unavailable(cell, reason, outcome=Outcome.NO_BASELINE) for cell in cells]
                continue
            folder = temporary / spec.name
            words = ["--target", backend.target, "--model", spec.name, "--batch", str(device.batch)]
            words += ["--res", ",".join(shape.size for shape in shapes), "--precision", device.precision]
            words += ["--output", str(folder / "")]
            if configuration != revision.folder / config.FILE_NAME:
                words += ["--config", str(configuration)]
            checkpoint = old[spec.name].checkpoint
            if checkpoint is not None:  # a file outside of git exists only in the current repository, at the same path
                own = Path(checkpoint)
                words += ["--checkpoint", str(own if own.exists() else revision.origin(own))]
                if (entry := old[spec.name].weights) is not None:
                    words += ["--weights", entry]
            notify(f"exporting {spec.name} by {name} ({revision.commit[:8]})")
            try:
                git_revision.export(revision, words, settings.sweep.timeout_s)
            except UnavailableError as error:
                sides += [Unavailable(cell, str(error).rstrip("."), "export") for cell in cells]
                continue
            sides += load_exported(folder, device, f"{name} ({revision.commit[:8]})")
        yield sides


def _configuration(revision: git_revision.Revision, settings: config.Config) -> Path:
    """Return the configuration file that a revision is exported by: the counterpart of the current one.

    Where the current one is packaged with this tool, a file of the revision's own is preferred.
    """
    own = revision.folder / config.FILE_NAME
    packaged = Path(settings.path).resolve() == files.find(config.FILE_NAME).resolve()
    return own if packaged and own.is_file() else revision.counterpart(Path(settings.path))


def _configured(path: Path, name: str) -> dict[str, ModelSpec]:
    """Load the models of a revision's configuration; raises `UsageError` for one that cannot be read."""
    try:
        return config.load(path, backends=backends.implemented()).models
    except ConfigError as error:
        raise UsageError(f"In {name}, {error}") from None


def apply_no_baseline(pairs: Sequence[ComparisonPair], policy: NoBaseline) -> list[ComparisonPair]:
    """Return the cells of a gate; the reasons of those without a baseline state what the policy does with them."""
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


def stored_baseline(path: Path, device: Device, machine: Machine) -> list[BaseSide]:
    """Load the measurements of a stored run as bases; of a cell that was measured twice, the last.

    Raises `NotComparableError` where the run is of another device or machine, naming each difference; a reading such as
    a clock frequency is none. Raises it too for a run without a finished cell, and `StoreError` for an unreadable run.
    """
    file = runs.read(path)
    bases: dict[str, BaseSide] = {}
    for line in file.lines:
        if isinstance(line, Failure):
            name = line.cell.label
            bases.setdefault(name, Unavailable(name, f"the stored run failed there: {line.reason}", line.stage))
        if isinstance(line, Measurement) and isinstance(line.artifact, Artifact):
            bases[name_of(line.artifact)] = line
    measured = [base for base in bases.values() if isinstance(base, Measurement)]
    if not measured:
        raise NotComparableError(f"{path} holds no finished figure, so there is nothing to compare with.")
    for measurement in measured:
        differences = machine.differences(measurement.machine, backends.figure_packages(device))
        if measurement.device.name != device.name:
            differences.insert(0, f"device: {measurement.device.name} then, {device.name} now")
        if differences:
            raise NotComparableError(
                f"{path} was measured under other conditions ({'; '.join(differences)}); run the base again here, with "
                f"--baseline DIR or --baseline-rev, or store a new baseline on this machine."
            )
    for measurement in measured:
        if fault := sample_faults(measurement):
            name = cell_of(measurement)
            bases[name] = Unavailable(name, f"the stored figure was changed: {fault}; measure the base again")
    lacking = [cell.label for cell in file.runs[0].cells if cell.label not in bases]
    return [*bases.values(), *(Unavailable(name, "the stored run ended before it") for name in lacking)]


def host_hints(bases: Iterable[BaseSide], machine: Machine) -> list[str]:
    """Return a sentence for each stored base that counts as this machine's in spite of another host name."""
    hints = [machine.hint(base.machine) for base in bases if isinstance(base, Measurement)]
    return [f"Stored baseline: {hint}" for hint in dict.fromkeys(hints) if hint]


@dataclass(frozen=True)
class ParsedInput:
    """One side of `compare`, parsed and checked, before anything is exported."""

    label: str
    path: Path | None  # of exported files; None for a model
    specs: Sequence[ModelSpec]
    fused: Fuse
    seed: int
    device: Device


def parse_input(text: str, label: str, settings: config.Config, device: Device) -> ParsedInput:
    """Parse one side of `compare`, before anything is exported; raises `UsageError` for an invalid one."""
    parsed = parse_spec(text)
    own = {name: value for name, value in parsed.settings.items() if name not in KEYS or name == "threads"}
    if _on_disk(parsed.name) and not _is_of_others(Path(parsed.name)):
        beside = [name for name in parsed.settings if name not in own]
        if beside:
            raise UsageError(f"{parsed.name} is exported already; leave out {', '.join(beside)}, or name a model.")
        path = Path(parsed.name)
        if not path.exists():
            raise UsageError(f"{path} does not exist; name an exported file, a folder of them, or a model.")
        return ParsedInput(label, path, (), Fuse.FOLDED, 0, with_options(device, own))
    try:
        fused, seed = Fuse(parsed.settings.get("fuse", Fuse.FOLDED)), int(parsed.settings.get("seed", "0"))
    except ValueError:
        raise UsageError(f"'{text}': fuse must be {', '.join(Fuse)} and seed a whole number.") from None
    specs = settings.select([parsed.name])
    for spec in specs:
        registry.require(spec.variant)
    if "checkpoint" in parsed.settings:
        specs = [
            msgspec.structs.replace(spec, checkpoint=parsed.settings["checkpoint"], sha256=None, weights=None)
            for spec in specs
        ]
    if "weights" in parsed.settings:
        if any(spec.checkpoint is None for spec in specs):
            raise UsageError(f"'{text}': weights chooses a network in a weight file; name that file with checkpoint=.")
        specs = [msgspec.structs.replace(spec, weights=parsed.settings["weights"]) for spec in specs]
    precisions = backends.get(device.backend).precisions
    precision = parsed.settings.get("precision", device.precision)
    if precision not in precisions:
        raise UsageError(f"'{text}': device '{device.name}' runs {' or '.join(precisions)}.")
    device = _calibrated(msgspec.structs.replace(device, precision=precision), parsed.settings, text)
    return ParsedInput(label, None, specs, fused, seed, with_options(device, own))


def _calibrated(device: Device, settings: Mapping[str, str], text: str) -> Device:
    """Return the device with the calibration images that a side's settings name, if they do."""
    folder, count = settings.get("calibration"), settings.get("calibration_images")
    if folder is None and count is None:
        return device
    if device.precision not in CALIBRATED:
        raise UsageError(
            f"'{text}': calibration images are for activations of 8 bits; set precision={' or '.join(CALIBRATED)}, or "
            f"leave them out."
        )
    if count is not None and not (count.isascii() and count.isdigit() and 0 < int(count) <= MOST_CALIBRATION_IMAGES):
        raise UsageError(f"'{text}': calibration_images must be a whole number from 1 to {MOST_CALIBRATION_IMAGES}.")
    changes = {"calibration": folder, "calibration_images": None if count is None else int(count)}
    return msgspec.structs.replace(device, **{name: value for name, value in changes.items() if value is not None})


def resolve_inputs(
    asked: ParsedInput,
    settings: config.Config,
    shapes: Sequence[Shape],
    command: Command = (),
    notify: Callable[[str], None] = lambda what: None,
) -> list[Candidate]:
    """Load the exported files of one side of `compare`; a model is exported first if its file is missing.

    `shapes` selects files or sizes; if it is empty, all files are taken, or a model at its evaluation size. Raises what
    `load_exported` does, and `ParityError` or `UnavailableError` for a model whose export fails.
    """
    if asked.path is not None:
        entries = load_exported(asked.path, asked.device, asked.label, command)
        chosen = [entry for entry in entries if not shapes or entry.artifact.shape in shapes]
        if not chosen:
            raise NotComparableError(
                f"{asked.path} holds nothing of {', '.join(shape.size for shape in shapes)} pixels."
            )
        return chosen
    entries = []
    for spec in asked.specs:
        usual = Shape(batch=asked.device.batch, height=spec.resolution, width=spec.resolution)
        for entry in export_missing(
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
            if isinstance(entry, Unavailable):
                kind = ParityError if entry.stage == "parity" else UnavailableError
                raise kind(f"{entry.name} ({asked.label}) gave no file: {entry.reason}")
            entries.append(entry)
    return entries


def resolve_pair(
    base: str,
    head: str,
    labels: tuple[str, str],
    settings: config.Config,
    device: Device,
    shapes: Sequence[Shape],
    commands: Sequence[Command] = ((), ()),
    notify: Callable[[str], None] = lambda what: None,
    *,
    engines: bool = True,
) -> list[ComparisonPair]:
    """Return the pairs of `compare`, exporting models as needed, and building engines unless another machine does.

    Without `shapes`, a model is exported at the sizes of the files that it is compared with.
    """
    asked = [parse_input(text, label, settings, device) for text, label in zip((base, head), labels, strict=True)]
    first = 1 if asked[1].path is not None and asked[0].path is None else 0
    sides: dict[int, list[Candidate]] = {}
    for at in (first, 1 - first):
        wanted = shapes or [entry.artifact.shape for side in sides.values() for entry in side]
        sides[at] = resolve_inputs(asked[at], settings, wanted, commands[at], notify)
        if engines:
            build_engines(sides[at], settings.sweep.timeout_s, notify)
    return by_shape(sides[0], sides[1])


def _on_disk(name: str) -> bool:
    """Return whether a name means a path: it exists, or it has a slash or a suffix, which no model has."""
    return files.exists(Path(name)) or "/" in name or bool(Path(name).suffix)


def _is_of_others(path: Path) -> bool:
    """Return whether a path is an ONNX file that this tool did not write; it is read where nothing beside it says."""
    if path.suffix != f".{registry.ONNX}" or not path.is_file() or metadata.metadata_path(path).exists():
        return False
    try:
        return not metadata.is_own(backends.of_file(path).metadata(path))
    except UnavailableError:
        return False  # what cannot be read is refused as an exported file


def python_command(python: str) -> Command:
    """Return the command of a worker in another Python environment, with this fastvit-bench and its own packages.

    Raises `UsageError` if `python` is no executable.
    """
    executable = shutil.which(python)
    if executable is None:
        raise UsageError(
            f"{python} is no Python interpreter; name the one of an environment, such as .venv/bin/python."
        )
    package = Path(fastvit_bench.__file__).resolve()
    # loaded by its own path: its folder on the search path would bring the packages of this environment along
    program = (
        "import importlib.util, runpy, sys; "
        f"spec = importlib.util.spec_from_file_location('fastvit_bench', {str(package)!r}, "
        f"submodule_search_locations=[{str(package.parent)!r}]); "
        "module = sys.modules['fastvit_bench'] = importlib.util.module_from_spec(spec); "
        "spec.loader.exec_module(module); runpy.run_module('fastvit_bench.worker', run_name='__main__')"
    )
    return (executable, "-c", program)
