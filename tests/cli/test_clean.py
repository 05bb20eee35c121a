"""`clean`: what can be made again is shown and removed; nothing else ever is."""

import hashlib
import json
import os
import time
from pathlib import Path

import builders
import msgspec
import pytest
from commands import call, refused
from hypothesis import given
from hypothesis import strategies as st

from fastvit_bench import config, files
from fastvit_bench.errors import UsageError
from fastvit_bench.exporting import inventory, metadata
from fastvit_bench.records.removable import RemovableKind
from fastvit_bench.store import runs


@pytest.fixture(autouse=True)
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(files.CACHE_VARIABLE, str(tmp_path / "none"))


def content(folder: Path = Path()) -> set[str]:
    return {str(path) for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}


def cleaned(*words: str) -> list[dict[str, object]]:
    return json.loads(call("clean", "--json", *words).stdout)


def environment(name: str = "0123456789ab") -> Path:
    home = Path("models", inventory.ENVIRONMENTS, name)
    home.mkdir(parents=True)
    (home / "pyvenv.cfg").write_bytes(b"x" * 1000)
    (home / "python").symlink_to("/usr/bin/env")
    return home


def test_it_is_only_shown_until_yes_is_said(zoo: Path) -> None:
    before = content()
    done = call("clean")
    assert "12 items, " in done.stdout
    assert "remove it with --yes" in done.stdout
    assert content() == before
    assert len(cleaned()) == 12


def test_exports_go_with_what_is_beside_them(zoo: Path) -> None:
    Path("models/m00/m00.pth.tar").write_bytes(b"weights")
    Path("models/m00/notes.json").write_text("{}", encoding="utf-8")
    run = runs.create(Path("results"), builders.run())
    items = cleaned("--model", "m0[01]", "--yes")
    assert sorted(str(item["model"]) for item in items) == ["m00", "m01"]
    assert all(len(item["paths"]) == 3 for item in items)  # type: ignore[arg-type]
    assert content(Path("models/m00")) == {"models/m00/m00.pth.tar", "models/m00/notes.json"}
    assert content(Path("models/m01")) == set()
    assert len(content(Path("models/m02"))) == 3
    assert run.is_file()
    assert cleaned("--model", "m00") == []


def test_what_was_changed_or_is_of_others_stays(zoo: Path) -> None:
    (changed,) = Path("models/m00").glob("*.onnx")
    changed.write_bytes(b"mine")
    (linked,) = Path("models/m01").glob("*.onnx")
    linked.rename("elsewhere.onnx")
    linked.symlink_to(Path("elsewhere.onnx").absolute())
    (outputs,) = Path("models/m02").glob("*.npz")
    outputs.write_bytes(b"mine")
    Path("models/strange").symlink_to(Path("models/m05").absolute())
    (Path("models") / inventory.ENVIRONMENTS / "mine").mkdir(parents=True)
    call("clean", "--yes")
    assert len(content(Path("models/m00"))) == 3
    assert linked.is_symlink()
    assert Path("elsewhere.onnx").is_file()
    assert content(Path("models/m02")) == {str(outputs)}
    assert content(Path("models/m05")) == set()
    assert Path("models", inventory.ENVIRONMENTS, "mine").is_dir()


def test_age_is_that_of_the_side_car(zoo: Path) -> None:
    (old,) = Path("models/m00").glob("*.onnx.json")
    long_ago = time.time() - 31 * 86_400
    os.utime(old, (long_ago, long_ago))
    (item,) = cleaned("--older-than", "30d")
    assert item["model"] == "m00"
    assert cleaned("--older-than", "5w") == []
    assert "write 12h, 30d or 8w" in refused("clean", "--older-than", "soon")
    assert "holds nothing of 'm99'; it holds m00, m01" in refused("clean", "--model", "m99")


def test_environments_and_engines_go_too(zoo: Path) -> None:
    home = environment()
    engine = Path("models/m00/m00.engine")
    engine.write_bytes(b"machine code")
    digest = hashlib.sha256(b"machine code").hexdigest()
    engine.with_name("m00.engine.json").write_bytes(msgspec.json.encode(builders.engine(sha256=digest)))
    kinds = [item["kind"] for item in cleaned()]
    assert kinds.count(RemovableKind.ENGINE) == kinds.count(RemovableKind.ENVIRONMENT) == 1
    call("clean", "--model", "m00", "--yes")
    assert home.is_dir()
    assert not engine.exists()
    call("clean", "--yes")
    assert not home.exists()


def test_what_is_in_use_stays(zoo: Path) -> None:
    with files.temporary_folder(Path("models/m00")):
        done = call("clean", "--yes")
        assert "models/m00 is left as it is: another process is writing there" in done.stderr
        assert len([path for path in content(Path("models/m00")) if "fastvit-bench-" not in path]) == 3
    before = content(Path("models"))
    with runs.lock(Path("results"), "cpu"):
        assert "Another sweep is measuring" in refused("clean", "--yes", expect=6)
        assert content(Path("models")) == before
        assert len(cleaned()) == 1


def test_a_removal_that_was_interrupted_goes_on(zoo: Path) -> None:
    (exported,) = Path("models/m00").glob("*.onnx")
    exported.unlink()
    (item,) = cleaned("--model", "m00", "--yes")
    assert metadata.metadata_path(exported).name in str(item["paths"])
    assert content(Path("models/m00")) == set()


def test_nothing_to_remove_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert "There is nothing to remove" in call("clean", "--yes").stdout + call("clean").stdout


@pytest.mark.slow
def test_models_shows_what_is_stored(zoo: Path) -> None:
    stored = {row["model"]: row["stored_bytes"] for row in json.loads(call("models", "--json").stdout)}
    assert stored["m00"] == sum(path.stat().st_size for path in Path("models/m00").iterdir())


@given(st.text(max_size=12))
def test_an_age_is_a_number_with_a_unit(text: str) -> None:
    try:
        seconds = config.age(text)
    except UsageError as error:
        assert "write 12h, 30d or 8w" in str(error)  # noqa: PT017
    else:
        assert text.strip()[-1] in "hdw"
        assert seconds >= 0
