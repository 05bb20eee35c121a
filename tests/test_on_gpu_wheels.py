"""The wheels that travel to a machine with a GPU: laid into parts, joined there, and nothing replaced."""

import hashlib
import importlib
import json
import sys
import tomllib
import zipfile
from pathlib import Path
from types import ModuleType

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
PYTHON = ".".join(map(str, sys.version_info[:2]))


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, with folders of the test."""
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("on_gpu_wheels")
    site = tmp_path / "site"
    monkeypatch.setattr(module, "SITES", {"base": site, "rtx": site, "ort": tmp_path / "site-ort"})
    return module


def wheel(folder: Path, name: str, size: int = 0, version: str = "1.0") -> Path:
    """A wheel of one module, with so many bytes that do not compress."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-py3-none-any.whl"
    notes = f"{name}-{version}.dist-info"
    filler = b"".join(hashlib.sha256(f"{name}{at}".encode()).digest() for at in range(size // 32))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/__init__.py", "VALUE = 1\n")
        archive.writestr(f"{name}/data.bin", filler)
        archive.writestr(f"{notes}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{notes}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{notes}/RECORD", "")
    return path


def laid(wheels: ModuleType, folder: Path) -> tuple[Path, list[str]]:
    """Parts of 1000 bytes: small packages, and a large one of another group; returns their folder and names."""
    source = folder / "wheels"
    chosen = [
        ("base", wheel(source, "tiny_one")),
        ("base", wheel(source, "pytest")),
        ("rtx", wheel(source, "large", 2048)),
    ]
    manifest = wheels.lay(chosen, folder / "parts", 1000, PYTHON)
    return folder / "parts", [part.name for part in manifest.parts]


def test_parts_hold_no_more_than_they_may_and_a_group_begins_with_its_own(wheels: ModuleType, tmp_path: Path):
    parts, names = laid(wheels, tmp_path)
    assert names == [path.name for path in sorted(parts.glob("part-*"))]
    assert all(0 < (parts / name).stat().st_size <= 1000 for name in names)
    held = wheels.read(parts).wheels
    whole = {
        entry.name: b"".join(
            (parts / piece.part).read_bytes()[piece.offset : piece.offset + piece.size] for piece in entry.pieces
        )
        for entry in held
    }
    for entry in held:
        assert whole[entry.name] == (tmp_path / "wheels" / entry.file).read_bytes()
    base, rtx = (
        {piece.part for entry in held if entry.group == group for piece in entry.pieces} for group in ("base", "rtx")
    )
    assert len(rtx) > 2
    assert not base & rtx


@pytest.mark.slow
def test_what_is_complete_is_installed_and_the_rest_waits(wheels: ModuleType, tmp_path: Path):
    parts, names = laid(wheels, tmp_path)
    last = (parts / names[-1]).read_bytes()
    (parts / names[-1]).unlink()
    first = wheels.unpack(parts)
    assert "tiny-one 1.0: unpacked" in first
    assert f"large 1.0: waits for {names[-1]}" in first
    site = wheels.SITES["base"]
    assert (site / "tiny_one" / "__init__.py").is_file()
    assert not (site / "large").exists()
    (parts / names[-1]).write_bytes(last)
    assert "large 1.0: unpacked" in wheels.unpack(parts)
    assert (site / "large" / "data.bin").stat().st_size == 2048


@pytest.mark.slow
def test_what_this_python_has_is_left_as_it_is(wheels: ModuleType, tmp_path: Path):
    parts, _ = laid(wheels, tmp_path)
    (line,) = (line for line in wheels.unpack(parts) if line.startswith("pytest "))
    assert line == f"pytest 1.0: there already, {pytest.__version__}"
    assert not (wheels.SITES["base"] / "pytest").exists()


@pytest.mark.slow
def test_parts_that_have_been_unpacked_are_not_needed_again(wheels: ModuleType, tmp_path: Path):
    parts, names = laid(wheels, tmp_path)
    before = wheels.unpack(parts)
    for name in names:
        (parts / name).unlink()
    assert wheels.unpack(parts) == before


def test_a_damaged_part_is_named_and_nothing_of_it_is_installed(
    wheels: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    parts, names = laid(wheels, tmp_path)
    content = bytearray((parts / names[-1]).read_bytes())
    content[0] ^= 1
    (parts / names[-1]).write_bytes(content)
    assert wheels.main(["unpack", "--parts", str(parts)]) == 1
    printed = capsys.readouterr().out
    assert f"{names[-1]} is damaged; bring it once more" in printed
    assert f"large 1.0: waits for {names[-1]}" in printed
    assert wheels.main(["list", "--parts", str(parts)]) == 0
    assert "DAMAGED: large" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda document: document.update(python="2.7"), "The wheels are for Python 2.7, and this is"),
        (
            lambda document: document["wheels"][0].update(sha256="0"),
            "tiny_one-1.0-py3-none-any.whl is not what was packed",
        ),
        (lambda document: document.pop("parts"), "cannot be read"),
    ],
)
def test_what_does_not_fit_is_one_sentence(
    wheels: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], change, words: str
):
    parts, _ = laid(wheels, tmp_path)
    path = parts / wheels.MANIFEST
    document = json.loads(path.read_text(encoding="utf-8"))
    change(document)
    path.write_text(json.dumps(document), encoding="utf-8")
    assert wheels.main(["unpack", "--parts", str(parts)]) == 2
    (sentence,) = capsys.readouterr().err.strip().splitlines()
    assert words in sentence
    assert sentence.endswith(".")


def test_without_a_manifest(wheels: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert wheels.main(["unpack", "--parts", str(tmp_path)]) == 2
    assert "pack where there is a network" in capsys.readouterr().err


def test_what_is_packed_follows_from_pyproject(wheels: ModuleType):
    """A new dependency is packed by itself; what the machine has, or no step imports, is not."""
    project = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(wheels.UNUSED) <= {wheels.split_requirement(text)[0] for text in project["dependencies"]}
    base = dict(wheels.split_requirement(text) for text in wheels.requirements("base"))
    assert {"msgspec", "typer", "rich", "onnx", "onnxruntime", "cuda-bindings", "nvidia-ml-py"} <= base.keys()
    assert not base.keys() & {*wheels.PRESENT, *wheels.UNUSED}
    assert base["cuda-bindings"].startswith(">=")
    assert wheels.requirements("rtx")[0].startswith("tensorrt-rtx-cu13-libs>=")
    (ort,) = wheels.requirements("ort")
    assert ort.startswith("onnxruntime-gpu>=")


def test_a_package_is_packed_with_the_first_group_that_needs_it(
    wheels: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    needs = {"msgspec": [("msgspec", "1.0"), ("shared_one", "1.0"), ("numpy", "2.0")]}
    alone = [("shared_one", "1.0"), ("onnxruntime_gpu", "1.0")]
    monkeypatch.setattr(
        wheels,
        "resolve",
        lambda wanted, python: [
            (wheels.normalised(name), version)
            for name, version in (needs["msgspec"] if any("msgspec" in word for word in wanted) else alone)
        ],
    )
    monkeypatch.setattr(
        wheels,
        "download",
        lambda chosen, python, folder: [
            wheel(folder, name.replace("-", "_"), version=version) for name, version in chosen
        ],
    )
    manifest = wheels.pack(["base", "ort"], wheels.PRESENT, 1, PYTHON, tmp_path / "parts")
    assert [(entry.group, entry.name) for entry in manifest.wheels] == [
        ("base", "msgspec"),
        ("base", "shared-one"),
        ("ort", "onnxruntime-gpu"),
    ]


def test_parts_may_not_be_larger_than_what_travels(wheels: ModuleType):
    with pytest.raises(SystemExit) as ended:
        wheels.main(["pack", "--mib", str(wheels.MOST_MIB + 1)])
    assert ended.value.code == 2
