"""Bringing published checkpoints into ``models/``: resumed where one stopped, proved before use, hashed ever after.

While a file arrives it is called ``<file>.part``, and what names its version on the server (ETag or date) stands in
``<file>.part.version``. Only after the whole of it was proved to be the asked-for network does it get its own name,
and its SHA-256 a place beside it in ``<file>.sha256``.
"""

import http.client
import re
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO, NoReturn

from filelock import FileLock, Timeout

from fastvit_bench import __version__
from fastvit_bench.errors import CheckpointError, ChecksumError, DownloadError, UsageError
from fastvit_bench.network import checkpoint
from fastvit_bench.network.fastvit import Form
from fastvit_bench.variants import VARIANTS

CHECK = "check the network and `[download] base` in benchmark.toml"
CHUNK = 1 << 18  # most bytes between two calls of the progress callback
TIMEOUT_S = 30.0  # without a byte from the server
PAUSES_S = (1.0, 3.0)  # between attempts: enough for a hiccup, short enough for a wrong address

Progress = Callable[[int, int | None], None]  # bytes there so far, bytes in all if the server says so


class Training(StrEnum):
    """How the published weights were trained: on labels alone, or with a teacher as well."""

    PLAIN = "plain"
    DISTILLED = "distilled"


# The server has equal file names in two folders; here they lie in one.
FOLDERS = {
    Training.PLAIN: "image_classification_models",
    Training.DISTILLED: "image_classification_distilled_models",
}
LOCAL = {Training.PLAIN: "", Training.DISTILLED: "_distilled"}
SUFFIXES = {Form.UNFUSED: "", Form.FUSED: "_reparam"}


def fetch(
    name: str,
    *,
    training: Training = Training.PLAIN,
    form: Form = Form.UNFUSED,
    base: str,
    folder: Path,
    progress: Progress = lambda done, total: None,
    pauses_s: Sequence[float] = PAUSES_S,
) -> Path:
    """The path of a published checkpoint under ``folder/name/``, fetched from `base` unless it is there already.

    A file that is there is hashed and compared with its record, without the network; one without a record, put there
    by hand, is proved and then recorded. A transfer that broke off continues where it stopped.

    Raises `UsageError` for an unknown name, a `base` that is no web address and a folder that cannot be written;
    `DownloadError` for a transfer that failed or brought something else; `ChecksumError` for content that is not the
    recorded one; `CheckpointError` for a file put there by hand of another network, and for a record without its hash.
    """
    checkpoint.check_variant(name)
    url = address(name, training, form, base)
    target = folder / name / f"{name}{LOCAL[training]}{SUFFIXES[form]}.pth.tar"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock"), timeout=0):
            if target.exists():
                return _present(target, name, form)
            part = _transfer(url, _beside(target, ".part"), progress, pauses_s)
            return _accept(url, part, target, name, form)
    except Timeout as error:
        raise DownloadError(f"{target} is being fetched by another process; wait for that one.") from error
    except OSError as error:
        raise UsageError(
            f"{target.parent} cannot be used ({error.strerror or error}); free some space or correct the folder."
        ) from error


def address(name: str, training: Training, form: Form, base: str) -> str:
    """Where a published checkpoint lies under the server's base address. Raises `UsageError` if that is none."""
    try:
        parts = urllib.parse.urlsplit(base)
        sound = parts.scheme in ("http", "https") and parts.hostname is not None and parts.port != 0
    except ValueError:
        sound = False
    if not sound:
        raise UsageError(
            f"{base!r} is not a web address; write an https:// one in `[download] base` of benchmark.toml."
        )
    return f"{base.rstrip('/')}/{FOLDERS[training]}/{name}{SUFFIXES[form]}.pth.tar"


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


# --- what is there, and what arrived ----------------------------------------------------------------------------------


def _present(target: Path, name: str, form: Form) -> Path:
    """A file that lay there before: equal to its record, or proved and recorded now."""
    recorded = checkpoint.recorded_sha256(target)
    digest = checkpoint.file_sha256(target)
    if recorded is None:
        _prove(target, name, form)
        checkpoint.record_sha256(target, digest)
    elif digest != recorded:
        raise ChecksumError(
            f"{target} has changed since it was fetched (SHA-256 {digest}, recorded {recorded}); "
            "remove it and fetch it again."
        )
    return target


def _accept(url: str, part: Path, target: Path, name: str, form: Form) -> Path:
    """Give what arrived its name if it has the recorded hash, or is the right network and gets recorded."""
    digest = checkpoint.file_sha256(part)
    recorded = checkpoint.recorded_sha256(target)
    _version_file(part).unlink(missing_ok=True)
    if recorded is not None and digest != recorded:
        rejected = part.replace(_beside(target, ".rejected"))
        raise ChecksumError(
            f"{url} now has the SHA-256 {digest}, but {checkpoint.record_path(target)} records {recorded}; what "
            f"arrived is kept as {rejected.name}, and removing the record accepts new content at the next fetch."
        )
    try:
        _prove(part, name, form)
    except CheckpointError as error:
        part.unlink()
        checkpoint.record_path(target).unlink(missing_ok=True)
        reason = str(error).removeprefix(f"{part} ").partition("; ")[0]
        raise DownloadError(
            f"{url} is not {name}, and nothing of it was kept: what arrived {reason}; {CHECK}."
        ) from error
    part.replace(target)
    checkpoint.record_sha256(target, digest)
    return target


def _prove(path: Path, name: str, form: Form) -> None:
    found = checkpoint.load(path, variant=name)
    if found.form is not form:
        raise CheckpointError(f"{path} holds {found.summary}, not its {form} form; fetch it again.")


# --- the transfer -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Answer:
    """How a server's answer joins what is there already."""

    start: int  # offset of its first byte in the file
    end: int | None  # size of the whole file, if the server says so


class _PassingError(Exception):
    """A fault that another attempt may not meet; its text says what happened."""


def _transfer(url: str, part: Path, progress: Progress, pauses_s: Sequence[float]) -> Path:
    """The complete `part` file, after as many attempts as there are pauses and one."""
    for pause_s in (*pauses_s, None):
        try:
            _attempt(url, part, progress)
        except _PassingError as error:
            if pause_s is None:
                raise DownloadError(_given_up(url, part, error)) from error
            time.sleep(pause_s)
        else:
            break
    return part


def _given_up(url: str, part: Path, error: _PassingError) -> str:
    kept = part.stat().st_size if part.exists() else 0
    if kept:
        return (
            f"{url} did not arrive whole ({error}); {kept} bytes are kept, and the same command continues from there."
        )
    return f"{url} cannot be reached ({error}); {CHECK}."


def _attempt(url: str, part: Path, progress: Progress) -> None:
    """One request: fetch what is missing of `part`. Raises `_PassingError` if that did not complete it."""
    there = part.stat().st_size if part.exists() else 0
    try:
        response = urllib.request.urlopen(_request(url, part, there), timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        with error:
            if _is_complete(error, there):
                return
            _answered_with_error(url, part, error)
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            message = f"{url} has no certificate that this machine trusts; check its clock and `[download] base`."
            raise DownloadError(message) from error
        raise _PassingError(str(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _PassingError(_describe(error)) from error
    with response:
        answer = _placed(response, there)
        if answer.start == 0:
            _remember_version(part, response)
        # Unbuffered, so that a process that is killed leaves everything it received.
        with part.open("ab" if answer.start else "wb", buffering=0) as file:
            done = _receive(response, file, answer, progress)
    if answer.end is not None and done != answer.end:
        raise _PassingError(f"the connection ended after {done} of {answer.end} bytes")


def _request(url: str, part: Path, there: int) -> urllib.request.Request:
    headers = {"User-Agent": f"fastvit-bench/{__version__}"}
    if there:
        headers["Range"] = f"bytes={there}-"
        version = _version_file(part)
        if version.exists():
            headers["If-Range"] = version.read_text(encoding="ascii", errors="ignore").strip()
    return urllib.request.Request(url, headers=headers)


def _placed(response: http.client.HTTPResponse, there: int) -> _Answer:
    """Where an answer belongs: behind what is there if it says exactly that, in its place otherwise."""
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""))
        if span and int(span[1]) == there:
            return _Answer(there, int(span[2]))
        raise _PassingError("the server continued at another place than asked")
    length = response.headers.get("Content-Length", "")
    return _Answer(0, int(length) if length.isdecimal() else None)


def _receive(response: http.client.HTTPResponse, file: BinaryIO, answer: _Answer, progress: Progress) -> int:
    """Append an answer to a file; returns the file's size then."""
    done = answer.start
    progress(done, answer.end)
    while True:
        try:
            chunk = response.read1(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _PassingError(f"{_describe(error)} after {done} bytes") from error
        if not chunk:
            return done
        file.write(chunk)
        done += len(chunk)
        progress(done, answer.end)


def _is_complete(error: urllib.error.HTTPError, there: int) -> bool:
    """Whether the server refused to continue because there is nothing left to send."""
    return error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and (
        error.headers.get("Content-Range") == f"bytes */{there}"
    )


def _answered_with_error(url: str, part: Path, error: urllib.error.HTTPError) -> NoReturn:
    match error.code:
        case http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            # More is there than the server has: it belongs to another version.
            part.unlink()
            raise _PassingError("the file on the server has changed") from error
        case http.HTTPStatus.NOT_FOUND | http.HTTPStatus.GONE:
            known = ", ".join(VARIANTS)
            raise DownloadError(f"{url} does not exist; published are {known}, so {CHECK}.") from error
        case http.HTTPStatus.REQUEST_TIMEOUT | http.HTTPStatus.TOO_MANY_REQUESTS | 500 | 502 | 503 | 504:
            raise _PassingError(f"the server answered {error.code} {error.reason}") from error
        case _:
            raise DownloadError(f"{url} is refused by the server ({error.code} {error.reason}); {CHECK}.") from error


def _version_file(part: Path) -> Path:
    return _beside(part, ".version")


def _remember_version(part: Path, response: http.client.HTTPResponse) -> None:
    """Keep what identifies the file's version for If-Range, which takes no weak ETag (RFC 9110, section 13.1.5)."""
    tag = response.headers.get("ETag", "")
    version = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
    version = version if version.isascii() and version.isprintable() else ""
    # The old content goes first: it must never stand beside the new version.
    part.write_bytes(b"")
    if version:
        _version_file(part).write_text(version, encoding="ascii")
    else:
        _version_file(part).unlink(missing_ok=True)


def _describe(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
