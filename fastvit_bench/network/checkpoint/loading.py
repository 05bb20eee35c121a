"""Loading of weight files: find the one network that is meant, check every value, and say what else the file holds."""

import hashlib
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from fastvit_bench import files
from fastvit_bench.errors import ChecksumError
from fastvit_bench.network.checkpoint import contents, finding, hashes, recognition, saving
from fastvit_bench.network.checkpoint.contents import Contents, StoredTensor, Unusable
from fastvit_bench.network.checkpoint.finding import Located
from fastvit_bench.network.checkpoint.messages import KINDS, quoted, reason, refusal, refuse
from fastvit_bench.network.checkpoint.recognition import COUNTER, NamingScheme
from fastvit_bench.network.fastvit import FastViT, Form
from fastvit_bench.records import Head, Weights

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
HASHED = 4 << 30  # bytes of a file that is hashed as a whole; of a larger one, only the network's entries are


@dataclass(frozen=True)
class Checkpoint:
    """A network loaded from a weight file, after a check that a whole known network lies in it."""

    network: FastViT  # in evaluation mode and float32
    variant: str  # key of `VARIANTS`
    head: Head
    classes: int  # of the classifier; 1000 for a dense network, which has none
    form: Form  # in training form if any block is
    layout: NamingScheme
    weights: Weights
    source: Weights | None  # of a file that `save` wrote: the weights that were fused into it
    place: str  # of the network in the file: in front of every entry; empty for the file itself
    summary: str  # description for messages: ``fastvit_t8 (classifier with 1000 classes, unfused)``


@dataclass(frozen=True)
class Survey:
    """The network that is meant in a file, found without reading any values."""

    path: Path
    stored: Contents
    chosen: Located
    networks: tuple[Located, ...]  # all whole networks in the file

    @property
    def entry(self) -> str | None:
        """Place of the network where the file holds several, as an identity of its weights; else None."""
        return self.chosen.place or "." if len(self.networks) > 1 else None

    @property
    def remark(self) -> str:
        """Line on where the network lies and what the file holds besides; empty for a network alone."""
        return _remark(self)


def survey(path: Path, *, variant: str | None = None, entry: str | None = None) -> Survey:
    """Find the network that is meant in a weight file or in a folder with one; no values are read.

    `entry` chooses among several. Without it, a network of `variant` comes before others, then one that is not an
    average of others, then the first. Raises `CheckpointError` for a file without a whole network, and for an `entry`
    at which none lies.
    """
    path = contents.resolve(path)
    _check_readable(path)
    status = path.stat()
    stored, places = _located(path, variant, (status.st_mtime_ns, status.st_size, status.st_ino))
    networks = tuple(located for located in places if located.whole)
    if entry is not None:
        return Survey(path, stored, _asked(path, stored, places, entry), networks)
    if not networks:
        _refuse_all(path, stored, places)
    wanted = [located for located in networks if located.match.variant == variant] or list(networks)
    return Survey(path, stored, finding.preferred(wanted), networks)


@lru_cache(maxsize=1)
def _located(path: Path, variant: str | None, _: tuple[int, ...]) -> tuple[Contents, list[Located]]:
    """Return what a file holds and where in it networks may lie; cached for a file that does not change."""
    stored = contents.read(path, finding.is_candidate)
    return stored, finding.locate(stored.entries, variant)


def load(
    path: Path,
    *,
    variant: str | None = None,
    head: Head | None = None,
    classes: int | None = None,
    sha256: str | None = None,
    entry: str | None = None,
) -> Checkpoint:
    """Load a network of a weight file and check every key, shape and value.

    `variant`, `head` and `classes` are the caller's expectations; None accepts any. The hash must be `sha256`, and the
    one in ``<file>.sha256`` if that file exists. `entry` chooses among several networks in a file, as in `survey`.

    Raises `CheckpointError` for a file that is missing, damaged or of another network, `ChecksumError` for a wrong
    hash, and `UsageError` for a variant that does not exist.
    """
    if variant is not None:
        recognition.check_variant(variant)
    surveyed = survey(path, variant=variant, entry=entry)
    path, chosen, match = surveyed.path, surveyed.chosen, surveyed.chosen.match
    digest = _checked_hash(surveyed, sha256)
    for name, wanted, actual in (
        ("variant", variant, match.variant),
        ("head", head, match.head),
        ("classes", classes if match.head is Head.CLASSIFIER else None, match.classes),
    ):
        if wanted is not None and wanted != actual:
            problem = f"holds {match.summary}, but {name} {wanted} was asked for"
            refuse(path, problem, f"correct {name}, or give another file")
    expected = recognition.names_in(match)
    state = {key: _value(path, key, surveyed.stored, chosen.names[key]) for key in expected if key in chosen.names}
    return Checkpoint(
        network=recognition.build(match, state),
        variant=match.variant,
        head=match.head,
        classes=match.classes,
        form=match.form,
        layout=chosen.scheme,
        weights=Weights(origin="checkpoint", sha256=digest, file=path.name, entry=surveyed.entry),
        source=saving.source_of(path, surveyed.stored.note),
        place=chosen.place,
        summary=match.summary,
    )


def identify(path: Path, *, variant: str | None = None, entry: str | None = None) -> Weights:
    """Return the identity of the weights that `load` would return, without reading more than it takes.

    Raises what `survey` raises, and `ChecksumError` where a hash recorded beside the file is another.
    """
    surveyed = survey(path, variant=variant, entry=entry)
    digest = _checked_hash(surveyed, None)
    return Weights(origin="checkpoint", sha256=digest, file=surveyed.path.name, entry=surveyed.entry)


# --- choosing and refusing --------------------------------------------------------------------------------------------


def _asked(path: Path, stored: Contents, places: list[Located], entry: str) -> Located:
    """Return the whole network at an entry: at that place, or the only one below it or at the end of a name."""
    place = entry.strip(".")
    place = next((stored.same[name] + place[len(name) :] for name in stored.same if _within(place, name)), place)
    networks = [located for located in places if located.whole]
    for fitting in (
        [located for located in networks if located.place == place],
        [located for located in networks if _within(located.place, place)],
        [located for located in networks if f".{located.place}".endswith(f".{place}")],
    ):
        if len(fitting) == 1:
            return fitting[0]
        if fitting:
            named = ", ".join(_titled(located) for located in fitting)
            refuse(path, f"holds several networks at {quoted(entry)}: {named}", "give one of them to --weights")
    known = ", ".join(_titled(located) for located in networks) or "none"
    nearest = [located for located in places if _within(located.place, place)]
    because = f" ({_shortcoming(min(nearest, key=_distance))})" if nearest else ""
    problem = f"holds no whole network at {quoted(entry)}{because}; whole ones are at: {known}"
    raise refusal(path, problem, "give one of those to --weights")


def _within(place: str, outer: str) -> bool:
    """Return whether a place is another one, or lies within it."""
    return not outer or place == outer or place.startswith(f"{outer}.")


def _titled(located: Located) -> str:
    """Return a place in quotes and the network there."""
    return f"{quoted(located.place or '.')} ({located.match.variant})"


def _distance(located: Located) -> int:
    """Return in how many entries a place differs from the nearest network."""
    return len(located.match.missing) + len(located.match.faults) + len(located.doubled)


def _shortcoming(located: Located) -> str:
    """Return how the entries at a place differ from the nearest network."""
    match = located.match
    if located.doubled:
        first, second = located.doubled[0]
        return f"{quoted(first)} and {quoted(second)} are the same entry of {match.summary}"
    parts: list[str] = []
    if len(match.missing) > 0:
        one = len(match.missing) == 1
        parts.append(
            f"{len(match.missing)} of {match.size} entries of {match.summary} {'is' if one else 'are'} missing, "
            f"{'' if one else 'first '}{next(iter(match.missing))} by its published name"
        )
    if match.faults:
        count = f"{len(match.faults)} entries disagree" if len(match.faults) > 1 else "1 entry disagrees"
        parts.append(f"{count} with {match.summary}: {'first, ' * (len(match.faults) > 1)}{next(iter(match.faults))}")
    return ", and ".join(parts)


def _refuse_all(path: Path, stored: Contents, places: list[Located]) -> None:
    """Raise `CheckpointError` for a file without a whole network, naming the nearest one and what it lacks."""
    tensors = [name for name, entry in stored.entries.items() if isinstance(entry, StoredTensor)]
    if places:
        near = min(places, key=_distance)
        if len(near.match.missing) * 2 <= near.match.size:
            where = f" at {quoted(near.place)}" if near.place else ""
            refuse(path, f"holds no whole network{where}: {_shortcoming(near)}", "save its whole state dict")
    for name, entry in stored.entries.items():
        if isinstance(entry, Unusable) and entry.kind and not tensors:
            refuse(
                path,
                f"holds {quoted(name)} as a pickled {entry.kind}, and reading one runs code of its class",
                f"where that code is installed, load the file with weights_only=False, and save "
                f"{name}.state_dict() by torch.save",
            )
    if not stored.entries:
        refuse(path, "holds no weights", f"give {KINDS}")
    if not tensors:
        first, entry = next(iter(stored.entries.items()))
        kind = entry.reason if isinstance(entry, Unusable) else ""
        refuse(path, f"holds no weights: its first entry {quoted(first)} is held {kind}", f"give {KINDS}")
    refuse(path, f"holds no FastViT network (its first entry is {quoted(tensors[0])})", f"give {KINDS}")


# --- the rest of the file ---------------------------------------------------------------------------------------------


def _remark(surveyed: Survey) -> str:
    """Return a line on where the network lies and what the file holds besides; empty for a network alone."""
    chosen, stored = surveyed.chosen, surveyed.stored
    parts = [
        f"another {located.match.variant} at {quoted(located.place or '.')} (--weights chooses)"
        for located in surveyed.networks
        if located is not chosen
    ]
    used = {name for located in surveyed.networks for name in located.names.values()}
    aside = [name for name in stored.entries if name not in used]
    aside += _unused(chosen)
    tensors = [name for name in aside if isinstance(stored.entries[name], StoredTensor)]
    values = [name for name in aside if not isinstance(stored.entries[name], StoredTensor)]
    for names, what in ((tensors, "tensor"), (values, "other value")):
        if names:
            parts.append(f"{len(names)} {what}{'s' * (len(names) > 1)} ({_groups(names, chosen.place)})")
    same = [name for name, first in stored.same.items() if first and _within(chosen.place, first)]
    if same:
        parts.append(f"the same again as {', '.join(map(quoted, same[:3]))}")
    match = chosen.match
    if not parts and not chosen.place and match.form is Form.UNFUSED and not match.fused:
        return ""
    where = f"at {quoted(chosen.place)}" if chosen.place else "as it is"
    return f"{chosen.match.summary} {where}" + (f"; left aside: {', '.join(parts)}" if parts else "")


def _unused(located: Located) -> list[str]:
    """Return the entries at a place that are no part of the network there."""
    expected = recognition.names_in(located.match)
    return [name for key, name in located.names.items() if key not in expected]


def _groups(names: list[str], place: str) -> str:
    """Return the one name, or the first parts of names behind what they share with a place, the most frequent three."""
    if len(names) == 1:
        return quoted(names[0])[1:-1]
    outer = place.split(".")[:-1]
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        shared = next((index for index, part in enumerate(outer) if parts[index : index + 1] != [part]), len(outer))
        counts[parts[min(shared, len(parts) - 1)]] += 1
    shown = ", ".join(quoted(part)[1:-1] for part, _ in counts.most_common(3))
    return shown + (", …" if len(counts) > 3 else "")


# --- values -----------------------------------------------------------------------------------------------------------


def _value(path: Path, key: str, stored: Contents, name: str) -> Tensor:
    """Return an entry read from the file, as float32 (a counter as int64).

    Raises `CheckpointError` for one that is not floating point or not finite, and for a negative variance.
    """
    entry = stored.entries[name]
    assert isinstance(entry, StoredTensor)
    tensor = entry.read()
    if finding.is_transposed(key, name):
        tensor = tensor.T
    if key.endswith(COUNTER) and not tensor.dtype.is_complex:
        return tensor.to(torch.int64, copy=True).reshape(())
    if tensor.dtype not in FLOATS:
        dtype = str(tensor.dtype).removeprefix("torch.")
        refuse(path, f"holds {key} as {dtype}, not as floating-point weights", "save it before quantisation")
    value = tensor.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    if not value.isfinite().all():
        refuse(path, f"holds {key} with values that are infinite or not a number", "give a checkpoint without")
    if key.endswith(".running_var") and (value < 0).any():
        refuse(path, f"holds {key} with a negative variance", "it is damaged, so fetch or copy it again")
    return value


# --- hashes -----------------------------------------------------------------------------------------------------------


def _check_readable(path: Path) -> None:
    """Raise `CheckpointError` unless a path is a regular file that is not empty."""
    try:
        if not path.exists():
            refuse(path, "does not exist", "check the path; `fastvit-bench download` brings published checkpoints")
        if not path.is_file():
            refuse(path, "is not a regular file", f"give {KINDS}")
        if path.stat().st_size == 0:
            refuse(path, "is empty", "fetch or copy it again")
    except (OSError, ValueError) as error:
        refuse(path, f"cannot be read ({reason(error)})", "check its permissions")


def _checked_hash(surveyed: Survey, sha256: str | None) -> str:
    """Return the hash of a network's weights, after a check that it is the expected one.

    That of a file is the hash of its content. Of an index, and of a file beyond `HASHED`, only the network's own
    entries are read and hashed.
    """
    path = surveyed.path
    recorded = hashes.recorded_sha256(path)
    try:
        if surveyed.stored.parts or path.stat().st_size > HASHED:
            digest = _digest_of_entries(surveyed)
            actual = digest if recorded is None else files.file_sha256(path)
        else:
            actual = digest = files.file_sha256(path)
    except (OSError, ValueError) as error:
        refuse(path, f"cannot be read ({reason(error)})", "check its permissions")
    for wanted, computed, source in (
        (sha256, digest, "the configuration"),
        (recorded, actual, hashes.record_path(path).name),
    ):
        if wanted is not None and computed != wanted.strip().lower():
            raise ChecksumError(
                f"{path} has the SHA-256 {computed}, but {source} says {wanted}; "
                "fetch the file again, or correct the hash if the new content is what you want."
            )
    return digest


def _digest_of_entries(surveyed: Survey) -> str:
    """Return the SHA-256 over name, type, shape and values of a network's entries, sorted by their published names."""
    digest = hashlib.sha256()
    expected = recognition.names_in(surveyed.chosen.match)
    for key in sorted(expected & surveyed.chosen.names.keys()):
        entry = surveyed.stored.entries[surveyed.chosen.names[key]]
        assert isinstance(entry, StoredTensor)
        tensor = entry.read().contiguous()
        digest.update(f"{key}\0{tensor.dtype}\0{tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
