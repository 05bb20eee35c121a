"""Download of published checkpoints into ``models/``, with resumption, a check of the network, and recorded hashes.

During the transfer the file is named ``<file>.part``, and ``<file>.part.version`` holds its version on the server
(ETag or date). Once the complete file is known to be the requested network, it gets its own name. Its SHA-256 is then
recorded beside it in ``<file>.sha256``.
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
from http.client import HTTPMessage
from pathlib import Path
from typing import IO, BinaryIO, NoReturn

from filelock import FileLock, Timeout

from fastvit_bench import __version__, files
from fastvit_bench.errors import CheckpointError, ChecksumError, DownloadError, UsageError, printable
from fastvit_bench.network import checkpoint
from fastvit_bench.network.fastvit import Form
from fastvit_bench.network.registry import VARIANTS

CHECK = "check the network and `[download] base` in benchmark.toml"
CHUNK = 1 << 18  # most bytes between two calls of the progress callback
TIMEOUT_S = 30.0  # without a byte from the server
PAUSES_S = (1.0, 3.0)  # between attempts: enough for a hiccup, short enough for a wrong address
LIMIT = files.PROGRAM  # most bytes of a checkpoint; the largest published one has a tenth
LONGEST_S = 6 * 3600.0  # of one attempt: a server that sends a byte now and then would never end
VERSION = 1024  # most bytes of a version, which becomes a header
SHOWN = 200  # characters of a server's words in a message

Progress = Callable[[int, int | None], None]  # bytes received so far, bytes in all if the server reports them


class Training(StrEnum):
    """Training of the published weights: on labels alone, or also with a teacher."""

    PLAIN = "plain"
    DISTILLED = "distilled"


# The server has equal file names in two folders. `LOCAL` distinguishes them in one local folder.
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
    """Return the path of a published checkpoint under ``folder/name/``, after fetching it from `base` if it is missing.

    An existing file is hashed and compared with its record, without network access. One without a record, copied there
    by hand, is checked to be the right network and then recorded. An interrupted transfer continues where it stopped.

    Raises `UsageError` for an unknown name, a `base` that is no web address and a folder that cannot be written;
    `DownloadError` for a transfer that failed or delivered another file; `ChecksumError` for content that does not
    match the recorded hash; `CheckpointError` for a hand-copied file of another network, and for a record without the
    file's hash.
    """
    checkpoint.check_variant(name)
    url = address(name, training, form, base)
    target = folder / name / f"{name}{LOCAL[training]}{SUFFIXES[form]}.pth.tar"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock"), timeout=0):
            if target.exists():
                return _check_existing(target, name, form)
            part = _transfer(url, _beside(target, ".part"), progress, pauses_s)
            return _accept(url, part, target, name, form)
    except Timeout as error:
        raise DownloadError(f"{target} is being fetched by another process; wait for that one.") from error
    except OSError as error:
        raise UsageError(
            f"{target.parent} cannot be used ({error.strerror or error}); free some space or correct the folder."
        ) from error


def address(name: str, training: Training, form: Form, base: str) -> str:
    """Return the URL of a published checkpoint under the server's base address. Raises `UsageError` if that is none."""
    try:
        parts = urllib.parse.urlsplit(base)
        valid = parts.scheme in ("http", "https") and parts.hostname is not None and parts.port != 0
    except ValueError:
        valid = False
    if not valid or not base.isascii() or not base.isprintable() or " " in base:
        raise UsageError(
            f"{base!r} is not a web address; write an https:// one in `[download] base` of benchmark.toml."
        )
    return f"{base.rstrip('/')}/{FOLDERS[training]}/{name}{SUFFIXES[form]}.pth.tar"


def _beside(path: Path, suffix: str) -> Path:
    """Return the path in the same folder whose name has `suffix` appended."""
    return path.with_name(path.name + suffix)


# --- existing and received files --------------------------------------------------------------------------------------


def _check_existing(target: Path, name: str, form: Form) -> Path:
    """Return an existing file's path if it has the recorded hash, or is the right network and is now recorded."""
    recorded = checkpoint.recorded_sha256(target)
    digest = files.file_sha256(target)
    if recorded is None:
        _check_network(target, name, form)
        checkpoint.record_sha256(target, digest)
    elif digest != recorded:
        raise ChecksumError(
            f"{target} has changed since it was fetched (SHA-256 {digest}, recorded {recorded}); "
            "remove it and fetch it again."
        )
    return target


def _accept(url: str, part: Path, target: Path, name: str, form: Form) -> Path:
    """Rename a received file to `target` and record its hash, if it is the right network and no record disagrees."""
    digest = files.file_sha256(part)
    recorded = checkpoint.recorded_sha256(target)
    _version_file(part).unlink(missing_ok=True)
    if recorded is not None and digest != recorded:
        rejected = part.replace(_beside(target, ".rejected"))
        raise ChecksumError(
            f"{url} now has the SHA-256 {digest}, but {checkpoint.record_path(target)} records {recorded}; what "
            f"arrived is kept as {rejected.name}, and removing the record accepts new content at the next fetch."
        )
    try:
        _check_network(part, name, form)
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


def _check_network(path: Path, name: str, form: Form) -> None:
    """Raise `CheckpointError` unless a file holds the variant `name` in a form."""
    content = checkpoint.load(path, variant=name)
    if content.form is not form:
        raise CheckpointError(f"{path} holds {content.summary}, not its {form} form; fetch it again.")


# --- the transfer -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Answer:
    """Position of a server's answer in the file."""

    start: int  # offset of its first byte in the file
    end: int | None  # size of the complete file, if the server reports it


class _PassingError(Exception):
    """A fault that may not recur at the next attempt; its text is the reason."""


def _transfer(url: str, part: Path, progress: Progress, pauses_s: Sequence[float]) -> Path:
    """Complete the `part` file, with one attempt more than there are pauses, and return its path."""
    if part.is_symlink() or (part.exists() and not part.is_file()):
        raise UsageError(f"{part} is no regular file, so nothing can be received in it; remove it.")
    for pause_s in (*pauses_s, None):
        try:
            _attempt(url, part, progress)
        except _PassingError as error:
            if pause_s is None:
                raise DownloadError(_failure_message(url, part, error)) from error
            time.sleep(pause_s)
        else:
            break
    return part


def _failure_message(url: str, part: Path, error: _PassingError) -> str:
    """Return the message of a transfer whose last attempt failed."""
    received = part.stat().st_size if part.exists() else 0
    if received:
        reason = f"{url} did not arrive whole ({error})"
        return f"{reason}; {received} bytes are kept, and the same command continues from there."
    return f"{url} cannot be reached ({error}); {CHECK}."


def _attempt(url: str, part: Path, progress: Progress) -> None:
    """Request the missing bytes of `part` once and append them. Raises `_PassingError` if it is still incomplete."""
    received = part.stat().st_size if part.exists() else 0
    try:
        response = _open(_request(url, part, received))
    except urllib.error.HTTPError as error:
        with error:
            if _is_complete(error, received):
                return
            _raise_http_error(url, part, error)
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLCertVerificationError):
            message = f"{url} has no certificate that this machine trusts; check its clock and `[download] base`."
            raise DownloadError(message) from error
        raise _PassingError(_printable(str(error.reason))) from error
    except (OSError, http.client.HTTPException) as error:
        raise _PassingError(_describe(error)) from error
    except ValueError as error:  # such as a redirection to what is no address
        reason = _describe(error)
        raise DownloadError(f"{url} is answered with what makes no sense ({reason}); {CHECK}.") from error
    with response:
        answer = _position(response, received)
        if answer.end is not None and answer.end > LIMIT:
            raise _too_large(url, part)
        if answer.start == 0:
            _remember_version(part, response)
        # Unbuffered, so that a killed process leaves everything it received on disk.
        with part.open("ab" if answer.start else "wb", buffering=0) as file:
            size = _receive(url, response, file, answer, progress)
    if size > LIMIT:
        raise _too_large(url, part)
    if answer.end is not None and size != answer.end:
        raise _PassingError(f"the connection ended after {size} of {answer.end} bytes")


def _too_large(url: str, part: Path) -> DownloadError:
    """Remove what was received of a file that is too large for a checkpoint, and return the error that says so."""
    part.unlink(missing_ok=True)
    _version_file(part).unlink(missing_ok=True)
    return DownloadError(f"{url} has more than {LIMIT} bytes, so it is no checkpoint and nothing is kept; {CHECK}.")


class _Redirection(urllib.request.HTTPRedirectHandler):
    """Follows a server to other web addresses, and from https to https only."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        """Return the request to the new address. Raises `DownloadError` if it is not to be followed."""
        scheme = urllib.parse.urlsplit(newurl).scheme.lower()
        if scheme not in (("https",) if req.type == "https" else ("http", "https")):
            fp.close()
            raise DownloadError(f"{req.full_url} leads to {_printable(newurl)}, which is not followed; {CHECK}.")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(request: urllib.request.Request) -> http.client.HTTPResponse:
    """Send a request and return the answer; raises what `urllib` raises, and `ValueError` for a senseless answer."""
    return urllib.request.build_opener(_Redirection).open(request, timeout=TIMEOUT_S)


def _request(url: str, part: Path, received: int) -> urllib.request.Request:
    """Return the request for the bytes behind those received, of the same version of the file."""
    headers = {"User-Agent": f"fastvit-bench/{__version__}"}
    if received:
        headers["Range"] = f"bytes={received}-"
        if version := _known_version(part):
            headers["If-Range"] = version
    return urllib.request.Request(url, headers=headers)


def _position(response: http.client.HTTPResponse, received: int) -> _Answer:
    """Return an answer's position: behind the received bytes if it is partial content, at the start otherwise.

    Raises `_PassingError` for partial content that does not begin behind the received bytes.
    """
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range", ""), re.ASCII)
        if span and _number(span[1]) == received:
            return _Answer(received, _number(span[2]))
        raise _PassingError("the server continued at another place than asked")
    length = response.headers.get("Content-Length", "")
    return _Answer(0, _number(length) if re.fullmatch(r"\d+", length, re.ASCII) else None)


def _number(digits: str) -> int:
    """Return a number of bytes; any with more than 20 digits counts as one beyond all limits."""
    return int(digits) if len(digits) <= 20 else 10**20


def _receive(url: str, response: http.client.HTTPResponse, file: BinaryIO, answer: _Answer, progress: Progress) -> int:
    """Append an answer to a file, up to one byte or more above the limit, and return the file's new size."""
    done, begin = answer.start, time.time()
    progress(done, answer.end)
    while done <= LIMIT:
        if time.time() - begin > LONGEST_S:
            raise DownloadError(
                f"{url} takes longer than {LONGEST_S / 3600:g} hours; {done} bytes are kept, and the same command "
                "continues from there."
            )
        try:
            chunk = response.read1(CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _PassingError(f"{_describe(error)} after {done} bytes") from error
        if not chunk:
            return done
        file.write(chunk)
        done += len(chunk)
        progress(done, answer.end)
    return done


def _is_complete(error: urllib.error.HTTPError, received: int) -> bool:
    """Return whether the server refused to continue because every byte has been received."""
    return (
        received > 0
        and error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE
        and error.headers.get("Content-Range") == f"bytes */{received}"
    )


def _raise_http_error(url: str, part: Path, error: urllib.error.HTTPError) -> NoReturn:
    """Raise `_PassingError` for a status that another attempt may not meet, and `DownloadError` for any other."""
    match error.code:
        case http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            # The part is longer than the file on the server, so it is of another version.
            part.unlink(missing_ok=True)
            raise _PassingError("the file on the server has changed") from error
        case http.HTTPStatus.NOT_FOUND | http.HTTPStatus.GONE:
            known = ", ".join(VARIANTS)
            raise DownloadError(f"{url} does not exist; published are {known}, so {CHECK}.") from error
        case http.HTTPStatus.REQUEST_TIMEOUT | http.HTTPStatus.TOO_MANY_REQUESTS | 500 | 502 | 503 | 504:
            raise _PassingError(f"the server answered {error.code} {_printable(error.reason)}") from error
        case _:
            reason = f"{error.code} {_printable(error.reason)}"
            raise DownloadError(f"{url} is refused by the server ({reason}); {CHECK}.") from error


def _version_file(part: Path) -> Path:
    """Return the path of the file that holds the version of a partial file."""
    return _beside(part, ".version")


def _known_version(part: Path) -> str:
    """Return the recorded version of a partial file; empty without one, and for what cannot be one."""
    try:
        version = files.read_text(_version_file(part), VERSION, "ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return version if version.isprintable() else ""


def _remember_version(part: Path, response: http.client.HTTPResponse) -> None:
    """Empty the part, and record the file's version for If-Range.

    That header takes no weak ETag (RFC 9110, section 13.1.5), so the date replaces one.
    """
    tag = response.headers.get("ETag", "")
    version = tag if tag.startswith('"') else response.headers.get("Last-Modified", "")
    version = version if version.isascii() and version.isprintable() and len(version) <= VERSION else ""
    # The old content goes first: it must never be taken for the new version.
    part.write_bytes(b"")
    _version_file(part).unlink(missing_ok=True)
    if version:
        _version_file(part).write_text(version, encoding="ascii")


def _describe(error: Exception) -> str:
    """Return the system's text for an error, its message, or its class if both are empty."""
    message = (error.strerror if isinstance(error, OSError) else None) or str(error)
    return _printable(message) or type(error).__name__


def _printable(text: str) -> str:
    """Return a server's words for a message: one line of printable characters, cut off where it gets long."""
    line = printable(text[: 2 * SHOWN])
    return line[:SHOWN] + ("…" if len(line) > SHOWN else "")
