"""What is written against Apple's packages, held against those that are installed; skipped without them."""

import ast
import importlib.util
import inspect
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from fastvit_bench import backends
from fastvit_bench.backends.coreai import device

ROOT = Path(__file__).parents[3]
EXTRA = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"][
    "coreai"
]
NEXT = "is not the version that this backend was written for; read its changes, run -m slow, then pin it in the extra"

needs_packages = pytest.mark.skipif(
    backends.get("coreai").unavailable_reason() is not None, reason="Apple's packages are not installed"
)


@needs_packages
@pytest.mark.parametrize("line", EXTRA)
def test_the_installed_versions_are_the_pinned_ones(line: str) -> None:
    requirement = Requirement(line)
    version = metadata.version(requirement.name)
    assert requirement.specifier.contains(version, prereleases=True), f"{requirement.name} {version} {NEXT}"


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


@needs_packages
@pytest.mark.slow
def test_the_calls_have_the_parameters_they_are_given() -> None:
    import coreai_torch
    from coreai import authoring, runtime
    from coreai_torch.debugging import debug_info

    converter, options = coreai_torch.TorchConverter, runtime.SpecializationOptions
    expected: dict[Any, list[str]] = {
        coreai_torch.get_decomp_table: [],
        converter.__init__: ["mode"],
        converter.to_coreai: ["entrypoints"],
        debug_info.strip_debug_info: ["program"],
        authoring.AIProgram.save_asset: ["path", "metadata", "minimum_os"],
        authoring.AIModelAsset.load: ["path"],
        authoring.AIModelAsset.summary: ["include_statistics"],
        authoring.AIModelAsset.executable: ["specialization_options"],
        runtime.AIModel.load: ["path", "specialization_options"],
        runtime.AIModel.load_function: ["function_name", "intermediate_logger", "profiler"],
        runtime.InferenceFunction.__call__: ["inputs", "state"],
        runtime.NDArray.__init__: ["data", "backing"],
        options.default: [],
        options.cpu_only: [],
        options.from_preferred_compute_unit_kind: ["compute_unit_kind"],
    }
    wrong = {function.__qualname__: parameters(function) for function in expected}
    wrong = {name: found for name, found in wrong.items() if found not in expected.values()}
    assert not wrong, f"coreai {NEXT}: {wrong}"
    for function, names in expected.items():
        assert parameters(function) == names, f"{function.__qualname__} {NEXT}"
    assert {"input_names", "output_names"} <= set(parameters(converter.add_exported_program))
    assert converter.Mode.RELEASE


@needs_packages
def test_the_compute_units_of_macos_are_in_the_stubs() -> None:
    """The module has them on macOS only."""
    spec = importlib.util.find_spec("coreai")
    assert spec is not None
    assert spec.origin is not None
    tree = ast.parse((Path(spec.origin).parent / "runtime" / "__init__.pyi").read_text(encoding="utf-8"))
    (kinds,) = [node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "ComputeUnitKind"]
    methods = {node.name for node in kinds.body if isinstance(node, ast.FunctionDef)}
    assert {"gpu", "neural_engine"} <= methods, f"coreai-core {NEXT}"
    assert device.COMPUTE_UNITS == ("default", "cpu-only", "gpu", "neural-engine")
