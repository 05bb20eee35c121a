"""Where the data of the package lies: in the repository of a clone, inside the package once installed from a wheel."""

from pathlib import Path

from fastvit_bench.errors import ConfigError

_PACKAGE = Path(__file__).parent

# name -> place in the repository; in the wheel every name lies in fastvit_bench/resources/ (see pyproject.toml)
_IN_REPOSITORY: dict[str, str] = {
    "benchmark.toml": "benchmark.toml",
    "published": "results/published",
}


def find(name: str) -> Path:
    """The file or folder called ``benchmark.toml`` or ``published``.

    Raises `ConfigError` for any other name, and when the installation lacks the data.
    """
    if name not in _IN_REPOSITORY:
        raise ConfigError(f"The package holds no data called '{name}'. It holds: {', '.join(sorted(_IN_REPOSITORY))}.")
    packaged = _PACKAGE / "resources" / name
    cloned = _PACKAGE.parent / _IN_REPOSITORY[name]
    for place in (packaged, cloned):
        if place.exists():
            return place
    raise ConfigError(f"'{name}' is neither at {packaged} nor at {cloned}. Install fastvit-bench again.")
