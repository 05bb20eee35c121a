"""Where `export -o` writes: a file of the target's ending, or a folder that is one beyond doubt."""

from pathlib import Path

import pytest
from commands import refused
from hypothesis import given
from hypothesis import strategies as st

from fastvit_bench import backends, options
from fastvit_bench.errors import UsageError
from fastvit_bench.records import ModelSpec, Shape

SPEC = ModelSpec(name="m", variant="fastvit_t8")
SIZES = [Shape(batch=1, height=32, width=32)]


def target_path(output: str, suffix: str = ".onnx", *, several: bool = False) -> Path | None:
    return options.output_path(output, suffix, SPEC, SIZES, [], several=several)


@pytest.mark.parametrize("target", ["onnx", "openvino", "coreml", "tensorrt", "tensorrt-rtx", "pytorch"])
@pytest.mark.parametrize("name", ["t8.xyz", "t8.mlmodel", "sub/t8.v2"])
def test_another_ending_is_refused_and_no_folder_is_made(zoo: Path, target: str, name: str) -> None:
    sentence = refused("export", "-t", target, "-m", "m00", "--res", "32", "-o", name)
    suffix = backends.of_target(target).suffix
    assert f"end in {suffix}, and {name} does not; say {Path(name).with_suffix('')}{suffix}, or {name}/" in sentence
    assert not Path(name).exists()
    assert not Path(name).parent.joinpath("sub").exists()


def test_a_folder_is_one_by_its_slash_its_name_or_because_it_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("v1.0").mkdir()
    for output in ("out", "out/", "out.v2/", "v1.0", "."):
        assert target_path(output) == Path(output) / "m_32_b1.onnx"
    assert target_path("a.b.onnx") == Path("a.b.onnx")
    with pytest.raises(UsageError, match=r"say v2\.onnx, or v2\.0/"):
        target_path("v2.0")
    with pytest.raises(UsageError, match="name a folder"):
        target_path("a.onnx", several=True)


@given(st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=20))
def test_whatever_is_named_is_a_file_of_that_ending_or_refused(output: str) -> None:
    try:
        path = target_path(output)
    except UsageError as error:
        assert str(error).endswith(".")  # noqa: PT017
    else:
        assert path is not None
        assert path.name.endswith(".onnx")
