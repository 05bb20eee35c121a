"""benchmark.toml and the language of --res: what is accepted, and the sentence for what is not."""

import itertools
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastvit_bench import backends, config, files, options
from fastvit_bench.errors import ConfigError, UsageError
from fastvit_bench.network.registry import VARIANTS

GRID = (224, 256, 384, 512, 768, 1024)
MINIMAL = """
[model.small]
variant = "fastvit_t8"

[device.cpu]
backend = "onnxruntime"

[sweep]
models = ["small"]
grid = [224, 256]

[download]
base = "https://example.org"
"""


def read(path: Path, text: str) -> config.Config:
    path = path / "benchmark.toml"
    path.write_text(text, encoding="utf-8")
    return config.load(path, backends=backends.implemented())


def test_the_shipped_file_declares_every_variant_and_the_promised_devices(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # no benchmark.toml here: the packaged one is taken
    settings = config.load(None, backends=backends.implemented())
    assert list(settings.models) == list(VARIANTS)
    assert {"cpu", "rtx2080ti", "iphone12pro"} <= set(settings.devices)
    assert settings.sweep.grid == GRID
    assert (settings.method.runs, settings.method.statistic) == (100, "median")
    assert settings.devices["rtx2080ti"].match == "RTX 2080 Ti"


def test_the_working_directory_wins_over_the_packaged_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "benchmark.toml").write_text(MINIMAL, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    settings = config.load(None, backends=backends.implemented())
    assert settings.path == "benchmark.toml"
    assert [spec.name for spec in settings.select([])] == ["small"]


def test_a_file_of_ones_own_holds_only_what_differs(tmp_path: Path) -> None:
    settings = read(tmp_path, '[model.mine]\nvariant = "fastvit_t8"\nresolution = 64\n')
    assert [spec.name for spec in settings.select([])] == ["mine"]
    assert (settings.gate.models, settings.sweep.grid) == ((), GRID)
    assert settings.models["fastvit_sa12"].published == "FastViT-SA12"
    assert settings.devices["cpu"].backend == "onnxruntime"
    assert settings.download.base.startswith("https://")


@pytest.mark.parametrize(
    ("text", "models", "grid", "gate_models", "gate_grid"),
    [
        ("", ("fastvit_t8",), GRID, ("fastvit_t8",), GRID),
        ("[sweep]\ngrid = [64]", ("fastvit_t8",), (64,), ("fastvit_t8",), ()),
        ('[sweep]\nmodels = ["fastvit_s*"]', ("fastvit_s*",), GRID, (), GRID),
        ('[model.a]\nvariant = "fastvit_t8"', ("a",), GRID, (), GRID),
        ('[model.a]\nvariant = "fastvit_t8"\n[gate]\nmodels = ["fastvit_ma36"]', ("a",), GRID, ("fastvit_ma36",), GRID),
        ("[model.fastvit_t8]\ncrop = 0.8\n[gate]\ngrid = [96]", ("fastvit_t8",), GRID, (), (96,)),
    ],
)
def test_what_a_file_does_not_say_follows_from_what_it_does(
    tmp_path: Path,
    text: str,
    models: tuple[str, ...],
    grid: tuple[int, ...],
    gate_models: tuple[str, ...],
    gate_grid: tuple[int, ...],
) -> None:
    settings = read(tmp_path, text)
    assert (settings.sweep.models, settings.sweep.grid) == (models, grid)
    assert (settings.gate.models, settings.gate.grid) == (gate_models, gate_grid)
    assert settings.gate.max_regression == "5%"


def test_a_table_changes_keys_of_the_packaged_one_unless_it_says_what_it_is(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        '[model.fastvit_t8]\ncrop = 0.8\n[model.fastvit_t12]\nvariant = "fastvit_s12"\n[device.rtx2080ti]\nbatch = 1\n'
        '[device.iphone12pro]\nbackend = "onnxruntime"\n',
    )
    changed, replaced = settings.models["fastvit_t8"], settings.models["fastvit_t12"]
    assert (changed.crop, changed.published, changed.variant) == (0.8, "FastViT-T8", "fastvit_t8")
    assert (replaced.variant, replaced.published) == ("fastvit_s12", None)
    assert (settings.devices["rtx2080ti"].batch, settings.devices["rtx2080ti"].match) == (1, "RTX 2080 Ti")
    assert (settings.devices["iphone12pro"].backend, settings.devices["iphone12pro"].match) == ("onnxruntime", None)


def test_the_packaged_file_laid_over_itself_is_itself(tmp_path: Path) -> None:
    packaged = files.find(config.FILE_NAME)
    settings = config.load(packaged, backends=backends.implemented())
    assert (settings.sweep, settings.gate) == (read(tmp_path, "").sweep, read(tmp_path, "").gate)
    copied = read(tmp_path, packaged.read_text(encoding="utf-8"))
    assert (copied.models, copied.devices, copied.studies) == (settings.models, settings.devices, settings.studies)
    assert copied.gate == settings.gate


def test_a_checkpoint_is_found_from_the_file_that_names_it(tmp_path: Path) -> None:
    text = MINIMAL.replace('variant = "fastvit_t8"', 'variant = "fastvit_t8"\ncheckpoint = "weights/a.pth.tar"')
    assert read(tmp_path, text).models["small"].checkpoint == str(tmp_path / "weights" / "a.pth.tar")


@pytest.mark.parametrize(
    ("change", "line", "words"),
    [
        (('variant = "fastvit_t8"', 'varient = "fastvit_t8"'), 3, ["varient", "Did you mean 'variant'?"]),
        (('"fastvit_t8"', '"fastvit_t9"'), 3, ["fastvit_t9", "Did you mean", "fastvit_ma36"]),
        (('"onnxruntime"', '"onnxruntme"'), 6, ["Did you mean 'onnxruntime'?", "coreml"]),
        (("[sweep]", "[swep]"), 8, ["[swep]", "Did you mean 'sweep'?"]),
        (("grid = [224, 256]", "grid = [224, 250]"), 10, ["250", "multiple of 32", "224 or 256"]),
        (("grid = [224, 256]", 'grid = "224"'), 10, ["grid", "array", "str"]),
        (('variant = "fastvit_t8"', "resolution = 64"), 2, ["variant", "required"]),
        (('models = ["small"]', 'models = ["smal"]'), 9, ["smal", "Did you mean 'small'?"]),
        (("[download]", "[method]\nruns = 0\n[download]"), 13, ["runs = 0", "above 0"]),
        (("[download]", "[method]\nwarmup = -1\n[download]"), 13, ["warmup", "negative"]),
        (("[download]", "[method]\nruns = true\n[download]"), 13, ["runs", "int", "bool"]),
        (
            ("[download]", "[method]\ntrim = 5\n[download]"),
            13,
            ["unknown key 'trim'", "Known: processes"],
        ),
        (("[model.small]", "[model.small]\ncrop = 1.5"), 3, ["crop", "share"]),
        (('backend = "onnxruntime"', 'backend = "onnxruntime"\nbatch = 0'), 7, ["batch = 0"]),
        (('backend = "onnxruntime"', 'backend = "onnxruntime"\nprecision = "fp8"'), 7, ["fp8", "fp16", "fp32"]),
    ],
)
def test_a_mistake_is_named_with_its_line_and_the_way_out(
    tmp_path: Path, change: tuple[str, str], line: int, words: list[str]
) -> None:
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, MINIMAL.replace(*change, 1))
    message = str(caught.value)
    assert f"line {line}" in message, message
    assert all(word in message for word in words), message
    assert "\n" not in message
    assert message.endswith(".")
    assert ".." not in message.replace("224..", "")


def test_broken_toml_and_missing_files_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"not valid TOML: .*line 2"):
        read(tmp_path, "\n[model\n")
    with pytest.raises(ConfigError, match="There is no configuration file"):
        config.load(tmp_path / "absent.toml", backends=())
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(tmp_path, backends=())


def test_a_byte_order_mark_and_windows_line_ends_are_read(tmp_path: Path) -> None:
    path = tmp_path / "benchmark.toml"
    shipped = files.find("benchmark.toml").read_bytes()
    path.write_bytes(b"\xef\xbb\xbf" + shipped.replace(b"\n", b"\r\n"))
    assert config.load(path, backends=backends.implemented()).models
    names = tmp_path / "names.txt"
    names.write_bytes(b"\xef\xbb\xbfa\r\nb c\r\n")
    assert options.class_names(names) == ("a", "b c")


def test_select_takes_names_and_globs_in_the_order_of_the_file(tmp_path: Path) -> None:
    settings = config.load(None, backends=backends.implemented())
    assert [spec.name for spec in settings.select([])] == ["fastvit_t8"]
    assert [spec.name for spec in settings.select(["fastvit_sa*", "fastvit_t8"])] == [
        "fastvit_t8",
        "fastvit_sa12",
        "fastvit_sa24",
        "fastvit_sa36",
    ]
    with pytest.raises(UsageError, match=r"Did you mean 'fastvit_t8'\?"):
        settings.select(["fastvit_t7"])
    with pytest.raises(UsageError, match=f"Known: {', '.join(sorted(settings.devices))}"):
        settings.device("gpu")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("256", [256]),
        ("224,256", [224, 256]),
        ("224..1024", list(GRID)),
        ("256..800", [256, 384, 512, 768, 800]),
        ("320..352", [320, 352]),
        ("224..224", [224]),
        ("224..1024:160", [224, 384, 544, 704, 864, 1024]),
        ("224..1024:320", [224, 544, 864, 1024]),
        ("256, 224..256", [256, 224]),
    ],
)
def test_resolutions(text: str, expected: list[int]) -> None:
    assert config.sizes(text, GRID) == [(size, size) for size in expected]


def test_a_pair_is_height_by_width() -> None:
    assert config.sizes("384x512,64X32", GRID) == [(384, 512), (64, 32)]


@pytest.mark.parametrize("text", ["", "abc", "224..", "..224", "224...256", "-32", "224..512:", "224x", "٢٢٤", "1e3"])
def test_what_is_no_resolution_says_how_to_write_one(text: str) -> None:
    with pytest.raises(UsageError, match=r"Write 256, 224,256, 384x512"):
        config.sizes(text, GRID)


def test_sizes_must_fit_the_stride_and_ranges_must_run_upwards() -> None:
    with pytest.raises(UsageError, match=r"250 is not a multiple of 32.*224 or 256"):
        config.sizes("250", GRID)
    with pytest.raises(UsageError, match="use 32"):
        config.sizes("0", GRID)
    with pytest.raises(UsageError, match=r"write 224\.\.512"):
        config.sizes("512..224", GRID)
    with pytest.raises(UsageError, match="step of 0"):
        config.sizes("224..512:0", GRID)
    with pytest.raises(UsageError, match="324 is not a multiple"):
        config.sizes("224..1024:100", GRID)


@given(st.text(alphabet="0123456789.,:xX ab-", max_size=24))
def test_any_text_gives_sizes_or_a_usage_error(text: str) -> None:
    try:
        found = config.sizes(text, GRID)
    except UsageError:
        return
    assert found
    assert len(set(found)) == len(found)
    assert all(height % 32 == 0 and width % 32 == 0 for height, width in found)


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 12))
def test_a_range_holds_both_ends_and_its_steps(low: int, high: int, step: int) -> None:
    low, high = sorted((32 * low, 32 * high))
    found = [height for height, _ in config.sizes(f"{low}..{high}:{32 * step}", GRID)]
    assert found[0] == low
    assert found[-1] == high
    assert found == sorted(set(found))
    assert all(b - a <= 32 * step for a, b in itertools.pairwise(found))


@pytest.mark.parametrize(("text", "value"), [("5%", 0.05), ("0.05", 0.05), (" 100% ", 1), ("2.5 %", 0.025)])
def test_a_share_is_a_percentage_or_a_number(text: str, value: float) -> None:
    assert config.share(text) == config.share(text, zero=True) == pytest.approx(value)


def test_only_who_says_so_takes_a_share_of_0() -> None:
    assert config.share("0%", zero=True) == 0
    with pytest.raises(UsageError, match="'0%' is no share above 0 and up to 100%"):
        config.share("0%")


@pytest.mark.parametrize("text", ["", "much", "-1%", "101%", "1.01", "nan", "5%%"])
def test_what_is_no_share_is_refused(text: str) -> None:
    for zero in (False, True):
        with pytest.raises(UsageError, match="is no share"):
            config.share(text, zero=zero)


# --- the machine's name -----------------------------------------------------------------------------------------------


def test_a_machine_is_called_as_the_option_the_environment_or_the_file_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(config.MACHINE_VARIABLE, raising=False)
    assert read(tmp_path, MINIMAL).machine_name() == ""
    found = read(tmp_path, MINIMAL + '[machine]\nname = "lab-1"\n')
    assert found.machine_name() == "lab-1"
    monkeypatch.setenv(config.MACHINE_VARIABLE, "lab-2")
    assert found.machine_name() == "lab-2"
    assert found.machine_name(" lab-3 ") == "lab-3"
    assert found.machine_name("") == ""  # told to have none


@pytest.mark.parametrize("name", ["a\nb", "x" * 65, "\x1b[31m"])
def test_a_name_that_no_table_could_show_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="one line of at most 64 characters"):
        read(tmp_path, MINIMAL).machine_name(name)


# --- hostile files and words ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "line", "words"),
    [
        *(
            (("grid = [224, 256]", f"grid = [224, 256]\ntimeout_s = {value}"), 11, ["timeout_s"])
            for value in ("nan", "inf", "-inf", "1e10", "0", "-1", "1000001")
        ),
        (("[download]", "[gate]\nalpha = nan\n[download]"), 13, ["alpha", "finite"]),
        (('variant = "fastvit_t8"', 'variant = "fastvit_t8"\ncrop = nan'), 4, ["crop", "finite"]),
        (('backend = "onnxruntime"', 'backend = "onnxruntime"\noptions = {x = inf}'), 7, ["options", "finite"]),
        (('backend = "onnxruntime"', 'backend = "onnxruntime"\nbatch = 1000000'), 7, ["batch", "at most"]),
        (('backend = "onnxruntime"', 'backend = "onnxruntime"\nbatch = 99999999999999999'), 7, ["batch", "above"]),
        (('variant = "fastvit_t8"', 'variant = "fastvit_t8"\nclasses = 10000000'), 4, ["classes", "at most"]),
        (('variant = "fastvit_t8"', 'variant = "fastvit_t8"\nresolution = 10000000'), 4, ["resolution", "at most"]),
        (('variant = "fastvit_t8"', 'variant = "fastvit_t8"\ncheckpoint = "a\\u0000b"'), 4, ["checkpoint", "NUL"]),
        (("grid = [224, 256]", "grid = [224, 999968]"), 10, ["999968", "above 16384"]),
        *(
            (("[download]", f"[method]\n{key} = 100000000\n[download]"), 13, [key, "at most"])
            for key in ("runs", "rounds", "processes", "warmup")
        ),
        *(
            (("[model.small]", f'[model."{name}"]\nvariant = "fastvit_t8"\n[model.small]'), 2, [name])
            for name in ("../../../evil/x", "..", ".x", "a b", "a/b", "a:b", "-rf", "x" * 300, "timm:../x")
        ),
        (("[device.cpu]", '[device."../x"]\nbackend = "onnxruntime"\n[device.cpu]'), 5, ["../x"]),
        (("[download]", '[study."../x"]\ntitle = "x"\nrows = [{label = "a", note = "b"}]\n[download]'), 12, ["../x"]),
        (
            ('[device.cpu]\nbackend = "onnxruntime"', "[device.mine]\nbatch = 1"),
            5,
            ["'backend' is required", "add a line"],
        ),
    ],
)
def test_what_could_leave_its_folder_or_end_a_run_is_refused_with_its_line(
    tmp_path: Path, change: tuple[str, str], line: int, words: list[str]
) -> None:
    assert change[0] in MINIMAL
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, MINIMAL.replace(*change, 1))
    message = str(caught.value)
    assert f"line {line}, [" in message
    assert all(word[:80] in message for word in words), message


def test_names_that_real_configurations_use_are_taken(tmp_path: Path) -> None:
    names = ("fastvit_t8.fused", "my-model+2", "timm:convnext_tiny", "größer")
    text = "".join(f'[model."{name}"]\nvariant = "fastvit_t8"\n' for name in names)
    assert set(names) < set(read(tmp_path, MINIMAL + text).models)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x = " + "[" * 100_000, "nested too deeply"),
        ("x = " + "9" * 5000, "too many digits"),
        ('[device.cpu]\nbackend = "onnxruntime"\noptions' + ".a" * 5000 + " = 1", "nested too deeply"),
    ],
)
def test_toml_that_python_gives_up_on_is_one_sentence(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        read(tmp_path, text)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs pipes with names")
def test_nothing_waits_for_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "benchmark.toml")
    monkeypatch.chdir(tmp_path)
    for path in (None, tmp_path / "benchmark.toml", Path("/dev/zero")):
        with pytest.raises(ConfigError, match="no regular file"):
            config.load(path, backends=())


@pytest.mark.parametrize(
    "text",
    ["9" * 400, "99999999999x32", "224..100000000000:1", "224..16416:32", f"32..{'9' * 5000}", f"{'9' * 5000}..32"],
)
def test_sizes_that_no_image_has_are_refused_before_they_are_listed(text: str) -> None:
    with pytest.raises(UsageError) as refusal:
        config.sizes(text, GRID, 1)
    assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("text", ["9" * 400, "9" * 5000, "9" * 400 + "%", "1e400"])
def test_numbers_of_hundreds_of_digits_are_refused(text: str) -> None:
    for refuse in (config.share, config.seconds):
        with pytest.raises(UsageError) as refusal:
            refuse(text)
        assert len(str(refusal.value)) < 300


@pytest.mark.parametrize("name", ["...onnx", "a:b.onnx", "a\x1b[31m.onnx"])
def test_an_onnx_file_that_names_no_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).touch()
    with pytest.raises(UsageError, match="rename the file"):
        read(tmp_path, MINIMAL).select([name])


@pytest.mark.parametrize("name", ["x" * 5000 + ".onnx", "a\0.onnx", "timm:../../evil", "timm:a/b"])
def test_words_that_name_no_model_are_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="There is no "):
        read(tmp_path, MINIMAL).select([name])
