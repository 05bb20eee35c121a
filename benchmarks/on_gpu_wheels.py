"""Bring the packages that `on_gpu.py` needs to a machine without a network, in parts of a limited size.

`pack` asks pip which wheels that machine lacks, downloads them and lays them into numbered parts with a manifest.
`unpack`, there, joins the parts that have arrived, checks their SHA-256 and installs into folders of their own.
Packages which that Python already has are left as they are, PyTorch above all. Parts may arrive in several goes:
what is complete is installed, and what is still missing is named. `list` says the same and changes nothing.
"""

import argparse
import hashlib
import importlib.metadata
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "on_gpu"  # git ignores it
PARTS, MANIFEST = WORK / "parts", "manifest.json"
MIB = 1 << 20
MOST_MIB = 60

PYTHON = "3.12"
# wheels say the oldest C library they run with; pip takes each of these words by itself
PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in range(28, 4, -1)),
    *("manylinux2014_x86_64", "manylinux2010_x86_64", "manylinux1_x86_64"),
)

# what a machine with PyTorch for CUDA and the usual scientific packages has, with what those require
PRESENT = (
    *("torch", "triton", "numpy", "scipy", "pandas", "pillow", "jinja2", "filelock", "fsspec", "markupsafe", "mpmath"),
    *("networkx", "python-dateutil", "setuptools", "six", "sympy", "typing-extensions", "tzdata"),
)
# imported by what no step of on_gpu.py does: Core ML, histories and pictures
UNUSED = ("coremltools", "ruptures", "altair", "vl-convert-python")
GPU = ("cuda-bindings", "nvidia-ml-py")

# group -> its packages, by the dependency of pyproject.toml that says which versions
GROUPS: dict[str, dict[str, str]] = {
    "base": {},  # the dependencies themselves
    "rtx": {"tensorrt-rtx-cu13-libs": "tensorrt-rtx", "tensorrt-rtx-cu13-bindings": "tensorrt-rtx"},
    "ort": {"onnxruntime-gpu": "onnxruntime"},
}
# ONNX Runtime for CUDA has the module of the one for the processor: only the step that wants it may see it
SITES = {"base": WORK / "site", "rtx": WORK / "site", "ort": WORK / "site-ort"}


class PackingError(Exception):
    """One sentence for a person."""


@dataclass(frozen=True)
class Piece:
    """Where some bytes of a wheel lie."""

    part: str
    offset: int
    size: int


@dataclass(frozen=True)
class Part:
    """A file that travels."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Wheel:
    """A package, and the pieces that make its file when joined in order."""

    group: str
    name: str
    version: str
    file: str
    size: int
    sha256: str
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class Manifest:
    """All parts and what they hold."""

    python: str
    parts: tuple[Part, ...]
    wheels: tuple[Wheel, ...]


# --- packing ----------------------------------------------------------------------------------------------------------


def requirements(group: str, present: Iterable[str] = PRESENT) -> list[str]:
    """What pip is asked for, with the versions that pyproject.toml allows."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    base = [split_requirement(text) for text in project["dependencies"]]
    extras = [split_requirement(text) for texts in project["optional-dependencies"].values() for text in texts]
    versions = dict(reversed([*base, *extras]))
    wanted = GROUPS[group]
    if not wanted:
        names = [name for name, _ in base if name not in {*present, *UNUSED}]
        wanted = {name: name for name in (*names, *GPU)}
    return [f"{name}{versions[source]}" for name, source in wanted.items()]


def split_requirement(text: str) -> tuple[str, str]:
    """Name and versions of a requirement, without extras and markers."""
    match = re.match(r"\s*([A-Za-z0-9._-]+)\s*(?:\[[^\]]*\])?\s*([^;]*)", text)
    assert match is not None
    return normalised(match[1]), match[2].strip()


def normalised(name: str) -> str:
    """A package's name as it is compared."""
    return re.sub(r"[-_.]+", "-", name).lower()


def resolve(wanted: Sequence[str], python: str) -> list[tuple[str, str]]:
    """Name and version of every package that installing `wanted` takes there, as pip finds them."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        pip("install", "--dry-run", "--ignore-installed", "--target", folder, "--report", str(report),
            *_there(python), *wanted)  # fmt: skip
        resolved = json.loads(report.read_text(encoding="utf-8"))["install"]
    return [(normalised(entry["metadata"]["name"]), entry["metadata"]["version"]) for entry in resolved]


def download(chosen: Sequence[tuple[str, str]], python: str, folder: Path) -> list[Path]:
    """Fetch one wheel of each package; returns the files in the same order."""
    names = [f"{name}=={version}" for name, version in chosen]
    pip("download", "--no-deps", "--dest", str(folder), *_there(python), *names)
    files = {wheel_name(path): path for path in folder.glob("*.whl")}
    return [files[package] for package in chosen]


def wheel_name(path: Path) -> tuple[str, str]:
    """Name and version, of a wheel's file name."""
    name, version, *_ = path.name.split("-")
    return normalised(name), version


def _there(python: str) -> list[str]:
    """The options by which pip chooses for another machine."""
    digits = python.replace(".", "")
    words = ["--only-binary=:all:", "--python-version", python, "--implementation", "cp"]
    words += [word for abi in (f"cp{digits}", "abi3", "none") for word in ("--abi", abi)]
    return words + [word for platform in PLATFORMS for word in ("--platform", platform)]


def pip(*words: str) -> None:
    """Run pip; raises `PackingError` with its last line where it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *words],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it says nothing"]
        raise PackingError(f"pip {words[0]} failed: {lines[-1].strip().rstrip('.')}.")


def lay(wheels: Sequence[tuple[str, Path]], folder: Path, part_bytes: int, python: str = PYTHON) -> Manifest:
    """Write the parts of some wheels, each with its group, and their manifest; a group begins with a new part."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("part-*"), *folder.glob(MANIFEST)):
        old.unlink()
    sizes: dict[str, int] = {}
    laid: list[Wheel] = []
    for group, path in wheels:
        content = path.read_bytes()
        if laid and laid[-1].group != group:
            sizes[_part_name(len(sizes) + 1)] = 0
        name, version = wheel_name(path)
        pieces: list[Piece] = []
        done = 0
        while done < len(content):
            part = next(reversed(sizes), None)
            if part is None or sizes[part] >= part_bytes:
                part = _part_name(len(sizes) + 1)
                sizes[part] = 0
            size = min(part_bytes - sizes[part], len(content) - done)
            with (folder / part).open("ab") as file:
                file.write(content[done : done + size])
            pieces.append(Piece(part, sizes[part], size))
            sizes[part] += size
            done += size
        digest = hashlib.sha256(content).hexdigest()
        laid.append(Wheel(group, name, version, path.name, len(content), digest, tuple(pieces)))
    parts = tuple(Part(name, size, _digest(folder / name)) for name, size in sizes.items())
    manifest = Manifest(python, parts, tuple(laid))
    (folder / MANIFEST).write_text(json.dumps(asdict(manifest), indent=1) + "\n", encoding="utf-8")
    return manifest


def _part_name(number: int) -> str:
    return f"part-{number:02d}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def pack(groups: Sequence[str], present: Sequence[str], part_mib: int, python: str, folder: Path) -> Manifest:
    """Resolve, download and lay; a package is packed once, with the first group that needs it."""
    wheels: list[tuple[str, Path]] = []
    packed = {normalised(name) for name in present}
    with tempfile.TemporaryDirectory() as temporary:
        for group in groups:
            chosen = [
                (name, version) for name, version in resolve(requirements(group, present), python) if name not in packed
            ]
            packed |= {name for name, _ in chosen}
            place = Path(temporary) / group
            wheels += [(group, path) for path in download(chosen, python, place)]
        return lay(wheels, folder, part_mib * MIB, python)


# --- unpacking --------------------------------------------------------------------------------------------------------


def read(folder: Path) -> Manifest:
    """The manifest beside the parts; raises `PackingError` without one."""
    try:
        document = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return Manifest(
            python=document["python"],
            parts=tuple(Part(**part) for part in document["parts"]),
            wheels=tuple(
                Wheel(**{**wheel, "pieces": tuple(Piece(**piece) for piece in wheel["pieces"])})
                for wheel in document["wheels"]
            ),
        )
    except FileNotFoundError:
        raise PackingError(
            f"{folder / MANIFEST} is not there; pack where there is a network, and bring the manifest with the parts."
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise PackingError(f"{folder / MANIFEST} cannot be read ({error}); bring it once more.") from None


def sound_parts(manifest: Manifest, folder: Path) -> tuple[set[str], set[str]]:
    """Names of the parts that are there and whole, and of those that are there and damaged."""
    arrived = [part for part in manifest.parts if (folder / part.name).is_file()]
    damaged = {part.name for part in arrived if _digest(folder / part.name) != part.sha256}
    return {part.name for part in arrived} - damaged, damaged


def installed(name: str, paths: Sequence[str]) -> str | None:
    """Version of a package in some folders, or None."""
    for distribution in importlib.metadata.distributions(name=name, path=list(paths)):
        return distribution.version
    return None


def own_paths() -> list[str]:
    """Where this Python looks for packages, without the folders that `unpack` fills."""
    unpacked = {site.resolve() for site in SITES.values()}
    return [path for path in sys.path if Path(path or ".").resolve() not in unpacked]


def state_of(wheel: Wheel, sound: set[str]) -> str:
    """Where a package stands: there already, unpacked, ready to be, or which parts it still waits for."""
    version = installed(wheel.name, own_paths())
    if version is not None:
        return f"there already, {version}"
    if installed(wheel.name, [str(SITES[wheel.group])]) == wheel.version:
        return "unpacked"
    waits = [piece.part for piece in wheel.pieces if piece.part not in sound]
    return f"waits for {', '.join(waits)}" if waits else "ready"


def unpack(folder: Path) -> list[str]:
    """Install what is complete and lacking here; returns a line for each package, and for each damaged part.

    Raises `PackingError` for another version of Python, and for a wheel that pip or its SHA-256 refuses.
    """
    manifest = read(folder)
    running = ".".join(map(str, sys.version_info[:2]))
    if running != manifest.python:
        raise PackingError(
            f"The wheels are for Python {manifest.python}, and this is {running}; pack with --python {running}."
        )
    sound, damaged = sound_parts(manifest, folder)
    lines = [f"{part} is damaged; bring it once more" for part in sorted(damaged)]
    for wheel in manifest.wheels:
        state = state_of(wheel, sound)
        if state == "ready":
            _install(wheel, folder)
            state = "unpacked"
        lines.append(f"{wheel.name} {wheel.version}: {state}")
    return lines


def _install(wheel: Wheel, folder: Path) -> None:
    """Join a wheel's pieces and install it where its group belongs, alone."""
    content = bytearray()
    for piece in wheel.pieces:
        with (folder / piece.part).open("rb") as file:
            file.seek(piece.offset)
            content += file.read(piece.size)
    if hashlib.sha256(content).hexdigest() != wheel.sha256:
        raise PackingError(f"{wheel.file} is not what was packed, though its parts are; pack anew.")
    with tempfile.TemporaryDirectory() as temporary:
        path = Path(temporary) / wheel.file
        path.write_bytes(content)
        pip("install", "--no-index", "--no-deps", "--no-compile", "--upgrade", "--target",
            str(SITES[wheel.group]), str(path))  # fmt: skip


# --- the command ------------------------------------------------------------------------------------------------------


def outline(manifest: Manifest, folder: Path) -> list[str]:
    """Every part with what it holds, and every package with where it stands here."""
    sound, damaged = sound_parts(manifest, folder)
    lines: list[str] = []
    for part in manifest.parts:
        names = [wheel.name for wheel in manifest.wheels if any(piece.part == part.name for piece in wheel.pieces)]
        state = "here" if part.name in sound else "DAMAGED" if part.name in damaged else "not here"
        lines.append(f"{part.name}  {part.size / MIB:5.1f} MiB  {state}: {', '.join(names)}")
    return [*lines, *(f"{wheel.name} {wheel.version}: {state_of(wheel, sound)}" for wheel in manifest.wheels)]


def part_mib(text: str) -> int:
    """A part's size in MiB."""
    value = int(text)
    if not 1 <= value <= MOST_MIB:
        raise argparse.ArgumentTypeError(f"{value} must be from 1 to {MOST_MIB}")
    return value


def main(words: Sequence[str] | None = None) -> int:
    """Do what the words say; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("command", choices=("pack", "unpack", "list"))
    options.add_argument("--parts", type=Path, default=PARTS, metavar="DIR", help="of the parts (build/on_gpu/parts)")
    options.add_argument(
        "--groups", nargs="+", choices=tuple(GROUPS), default=["base"], help="pack: of packages (base)"
    )
    options.add_argument("--mib", type=part_mib, default=56, help="pack: of a part at most (%(default)s)")
    options.add_argument("--python", default=PYTHON, help="pack: version there (%(default)s)")
    options.add_argument(
        "--present", nargs="+", default=list(PRESENT), metavar="NAME", help=f"pack: what is there ({' '.join(PRESENT)})"
    )
    arguments = options.parse_args(words)
    try:
        if arguments.command == "pack":
            manifest = pack(arguments.groups, arguments.present, arguments.mib, arguments.python, arguments.parts)
            print("\n".join(outline(manifest, arguments.parts)))
        elif arguments.command == "unpack":
            lines = unpack(arguments.parts)
            print("\n".join(lines))
            return 1 if any("damaged" in line for line in lines) else 0
        else:
            print("\n".join(outline(read(arguments.parts), arguments.parts)))
    except PackingError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
