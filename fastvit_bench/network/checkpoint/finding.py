"""The search for whole networks in a file, below whatever name the training script put in front of their entries.

A network is recognised by the names and shapes of its entries alone. A part of a name that no known network has, such
as ``_orig_mod`` in the middle, is a wrapper's, and does not count.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from fastvit_bench.network import timm_names
from fastvit_bench.network.checkpoint import recognition
from fastvit_bench.network.checkpoint.contents import Entry, StoredTensor
from fastvit_bench.network.checkpoint.recognition import NamingScheme, NearestNetwork

PARTS = 24  # of a name that are looked at
PLACES = 32  # that are compared with all networks; those with the most entries
AVERAGED = ("ema", "swa", "averag", "teacher", "shadow")  # in the names of second sets of weights


@dataclass(frozen=True)
class Located:
    """A place in a file, and the network that is nearest to the entries below it."""

    place: str  # in front of every entry, without the last dot; empty for the file itself
    match: NearestNetwork
    scheme: NamingScheme
    names: Mapping[str, str]  # published name -> name in the file
    doubled: tuple[tuple[str, str], ...]  # names of two entries that both mean the same one of the network

    @property
    def whole(self) -> bool:
        """Whether a whole network lies at this place."""
        return self.match.whole and not self.doubled


def is_candidate(name: str) -> bool:
    """Return whether an entry of that name may be a part of a network."""
    return any(_is_root(part) for part in name.split(".")[:PARTS])


def locate(entries: Mapping[str, Entry], variant: str | None = None) -> list[Located]:
    """Return the places at which networks may lie, compared with all of them: in the order of the file.

    Of networks that fit alike, `variant` is preferred.
    """
    below: dict[str, list[str]] = {}
    for name in entries:
        for place in _places(name):
            below.setdefault(place, []).append(name)
    largest = sorted(below, key=lambda place: -len(below[place]))[:PLACES]
    return [_located(place, below[place], entries, variant) for place in below if place in set(largest)]


def _places(name: str) -> Iterator[str]:
    """Yield the places that an entry may lie below: in front of each part that a network's names begin with."""
    parts = name.split(".")[:PARTS]
    return (".".join(parts[:index]) for index, part in enumerate(parts) if _is_root(part))


def _is_root(part: str) -> bool:
    """Return whether names of a network may begin with a part of a name."""
    return timm_names.unlisted(part).partition(".")[0] in recognition.roots()


def _located(place: str, names: list[str], entries: Mapping[str, Entry], variant: str | None) -> Located:
    """Compare the entries below a place with all networks."""
    tails = [_unlisted(name[len(place) + 1 :] if place else name) for name in names]
    short = [_unwrapped(tail) for tail in tails]
    titles = [
        recognition.PROJECTION if title == recognition.APPLES_PROJECTION else title
        for title in recognition.published(short)
    ]
    own: dict[str, str] = {}
    doubled: list[tuple[str, str]] = []
    repeated: set[str] = set()
    plain: set[str] = set()  # entries without a part of a wrapper's come before those with one
    for title, name, tail, bare in zip(titles, names, tails, short, strict=True):
        if title in own and ((title in plain) == (tail == bare)):
            doubled.append((own[title], name))
            repeated.add(title)
        elif title not in own or title not in plain:
            own[title] = name
        if tail == bare:
            plain.add(title)
    shapes = {title: _shape(entries[name], transposed=is_transposed(title, name)) for title, name in own.items()}
    match = recognition.nearest(shapes, variant)
    again = doubled if any(recognition.is_part(title) for title in repeated) else []
    return Located(place, match, recognition.scheme_of(short), own, tuple(again))


def _unlisted(tail: str) -> str:
    """Return a name with each part as a network has it."""
    return ".".join(map(timm_names.unlisted, tail.split(".")))


def _unwrapped(tail: str) -> str:
    """Return a name without the parts, but for the last, that no network's names have."""
    *parts, last = tail.split(".")
    return ".".join([*(part for part in parts if part in recognition.words() or part.isdigit()), last])


def is_transposed(title: str, name: str) -> bool:
    """Return whether an entry holds the transpose of what its published name stands for, as Apple's projection does."""
    return title == recognition.PROJECTION and name.endswith(recognition.APPLES_PROJECTION)


def _shape(entry: Entry, *, transposed: bool) -> tuple[int, ...] | str:
    """Return an entry's shape, or why it cannot be used."""
    if not isinstance(entry, StoredTensor):
        return entry.reason
    return entry.shape[::-1] if transposed else entry.shape


def preferred(places: list[Located]) -> Located:
    """Return the network that is taken where nobody chooses: the first that is not called an average of others."""
    return min(places, key=lambda located: any(word in located.place.lower() for word in AVERAGED))
