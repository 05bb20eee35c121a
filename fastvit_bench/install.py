"""The commands that add an extra or a package to this installation, by the way it was made.

Sources: PEP 610 (``direct_url.json``), and what pipx and uv leave in an environment: ``pipx_metadata.json`` and
``uv-receipt.toml``.
"""

import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import msgspec

if TYPE_CHECKING:
    from importlib.metadata import Distribution

NAME = "fastvit-bench"


@dataclass(frozen=True)
class Installation:
    """The way in which this package came into its environment."""

    manager: str = "pip"  # what made the environment: pip, uv, pipx, uv tool, or for one run uvx, pipx run
    python: str = ""  # the environment's interpreter, where no activated program stands for it
    clone: str = ""  # the folder of an editable installation
    address: str = ""  # what follows "@" in a requirement; empty from an index
    extras: tuple[str, ...] = ()  # that are installed, as far as the manager recorded them
    beside: tuple[str, ...] = ()  # packages that the manager was told to add


def extra(name: str) -> str:
    """Return the shell command that adds an extra of this package to the running installation."""
    installation = detect()
    if installation.manager == "pipx":
        return packages(*_requirements(name))
    return extra_command(installation, name)


def packages(*requirements: str) -> str:
    """Return the shell command that adds packages to the running installation."""
    return packages_command(detect(), requirements)


def pip(*words: str) -> str:
    """Return a command of pip, such as ``install --force-reinstall NAME``, for the environment that runs this."""
    return pip_command(detect(), words)


# --- by installation --------------------------------------------------------------------------------------------------


def extra_command(installation: Installation, name: str) -> str:
    """Return the command that adds an extra to an installation."""
    if installation.manager in _AGAIN:
        return _again_command(installation, (name,), ())
    editable = ("-e",) if installation.clone else ()
    return pip_command(installation, ("install", *editable, requirement(installation, (name,))))


def packages_command(installation: Installation, requirements: tuple[str, ...]) -> str:
    """Return the command that adds packages to an installation."""
    if installation.manager == "pipx":
        return shlex.join(("pipx", "inject", NAME, *requirements))
    if installation.manager in _AGAIN:
        return _again_command(installation, (), requirements)
    return pip_command(installation, ("install", *requirements))


def pip_command(installation: Installation, words: tuple[str, ...]) -> str:
    """Return a command of pip for the environment of an installation."""
    command, *arguments = words
    if installation.manager == "pipx":
        return shlex.join(("pipx", "runpip", NAME, *words))
    if installation.manager in {"uv", "uv tool", "uvx"}:
        chosen = ("--python", installation.python) if installation.python else ()
        return shlex.join(("uv", "pip", command, *chosen, *arguments))
    return shlex.join((*((installation.python, "-m") if installation.python else ()), "pip", *words))


def requirement(installation: Installation, extras: tuple[str, ...]) -> str:
    """Return this package with extras, as pip and uv take it from where it was installed."""
    bracket = f"[{','.join(extras)}]" if extras else ""
    if installation.clone:
        return f"{installation.clone}{bracket}"
    return f"{NAME}{bracket} @ {installation.address}" if installation.address else f"{NAME}{bracket}"


# managers that make an environment anew, which forgets what is not named again: the words before and after the package
_AGAIN = {
    "uv tool": (("uv", "tool", "install", "--force"), ()),
    "uvx": (("uvx", "--from"), (NAME,)),
    "pipx run": (("pipx", "run", "--spec"), (NAME,)),
}


def _again_command(installation: Installation, extras: tuple[str, ...], beside: tuple[str, ...]) -> str:
    """Return the command that makes the environment of an installation anew, with more in it."""
    package = requirement(installation, tuple(dict.fromkeys((*installation.extras, *extras))))
    options = [word for name in dict.fromkeys((*installation.beside, *beside)) for word in ("--with", name)]
    editable = ("--editable",) if installation.clone and installation.manager == "uv tool" else ()
    before, after = _AGAIN[installation.manager]
    return shlex.join((*before, *editable, package, *options, *after))


# --- the running installation -----------------------------------------------------------------------------------------


def detect() -> Installation:
    """Return how the running package was installed; a damaged record counts as none."""
    from importlib import metadata  # slow to import, and needed for messages only

    prefix = Path(sys.prefix)
    try:
        distribution: Distribution | None = metadata.distribution(NAME)
    except metadata.PackageNotFoundError:
        distribution = None
    folder = Path(__file__).resolve().parents[1]
    if distribution is not None:
        clone, address = source(distribution.read_text("direct_url.json") or "")
    else:  # run from a clone that nobody installed
        clone, address = (str(folder) if (folder / "pyproject.toml").is_file() else ""), ""
    receipt = _text(prefix / "uv-receipt.toml")
    manager = _manager(prefix, has_receipt=receipt is not None)
    extras, beside = recorded(receipt or "")
    return Installation(
        manager, _python(manager), _relative(Path(clone)) if clone else "", address, extras=extras, beside=beside
    )


class _Folder(msgspec.Struct):
    editable: bool = False


class _Version(msgspec.Struct):
    vcs: str
    requested_revision: str = ""


class _Source(msgspec.Struct):
    """A ``direct_url.json``; hashes and commits in it are left out."""

    url: str = ""
    dir_info: _Folder | None = None
    vcs_info: _Version | None = None
    subdirectory: str = ""


class _Requirement(msgspec.Struct):
    name: str
    extras: tuple[str, ...] = ()
    specifier: str = ""


class _Tool(msgspec.Struct):
    requirements: tuple[_Requirement, ...] = ()


class _Receipt(msgspec.Struct):
    """A ``uv-receipt.toml``."""

    tool: _Tool


def source(record: str) -> tuple[str, str]:
    """Return the folder of an editable installation, and the address of any other, from a ``direct_url.json``.

    Both are empty for a package of an index, and for a record that is not one.
    """
    try:
        direct = msgspec.json.decode(record, type=_Source)
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return "", ""
    if direct.dir_info is not None and direct.dir_info.editable:
        return unquote(urlsplit(direct.url).path), ""
    version = direct.vcs_info
    begin = f"{version.vcs}+" if version else ""
    revision = f"@{version.requested_revision}" if version and version.requested_revision else ""
    end = f"#subdirectory={direct.subdirectory}" if direct.subdirectory else ""
    return "", f"{begin}{direct.url}{revision}{end}" if direct.url else ""


def recorded(receipt: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the extras and the packages beside this one that a ``uv-receipt.toml`` records."""
    try:
        lines = msgspec.toml.decode(receipt, type=_Receipt).tool.requirements
    except (msgspec.MsgspecError, RecursionError, ValueError):
        return (), ()
    extras = [name for line in lines if line.name == NAME for name in line.extras]
    return tuple(extras), tuple(f"{line.name}{line.specifier}" for line in lines if line.name != NAME)


def _requirements(name: str) -> list[str]:
    """Return what an extra requires, without its markers."""
    from importlib import metadata

    pattern = re.compile(rf"extra == ['\"]{re.escape(name)}['\"]")
    try:
        lines = metadata.requires(NAME) or []
    except metadata.PackageNotFoundError:
        lines = []
    return [line.partition(";")[0].strip() for line in lines if pattern.search(line.partition(";")[2])]


def _manager(prefix: Path, has_receipt: bool) -> str:
    """Return what made the environment at `prefix`; one without pip inside is uv's."""
    import importlib.util

    if has_receipt:
        return "uv tool"
    if (prefix / "pipx_metadata.json").is_file():
        return "pipx run" if prefix.parent.name == ".cache" else "pipx"
    if re.fullmatch(r"(archive|environments)-v\d+", prefix.parent.name):  # of uv's cache
        return "uvx"
    return "pip" if importlib.util.find_spec("pip") else "uv"


def _python(manager: str) -> str:
    """Return the interpreter that a command must name; empty where the shell's pip is that of this environment."""
    import os
    import shutil

    program = shutil.which("pip")
    of_pip = str(Path(program).parents[1]) if program else ""
    active = {"pip": of_pip, "uv": os.environ.get("VIRTUAL_ENV", "")}.get(manager, "")
    if active and Path(active).resolve() == Path(sys.prefix).resolve():
        return ""
    return _relative(Path(sys.executable))


def _relative(path: Path) -> str:
    """Return a path as it is short to type: beneath the working folder it is relative to it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def _text(path: Path) -> str | None:
    """Return the text of a file of this environment, or None where there is none to read."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError):
        return None
