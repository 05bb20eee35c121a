"""Fetching checkpoints from a server on this machine that misbehaves as told."""

import errno
import http.server
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import check_refusal, mutated

from fastvit_bench.errors import CheckpointError, ChecksumError, DownloadError, FastViTBenchError, UsageError
from fastvit_bench.files import file_sha256
from fastvit_bench.network import checkpoint, download, reparam
from fastvit_bench.network.download import Training
from fastvit_bench.network.fastvit import Form
from fastvit_bench.records import Head

PATH = "/image_classification_models/fastvit_t8_reparam.pth.tar"
FILE = Path("fastvit_t8") / "fastvit_t8_reparam.pth.tar"
ETAG = '"version 1"'


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers each request with the next step of the server's script, and as a good server when there is none."""

    server: "Server"

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers)))
        step = self.server.script.pop(0) if self.server.script else serve
        step(self)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as inherited
        pass

    def send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        headers = {"Content_Length": str(len(body))} | headers
        for name, value in headers.items():
            if value:
                self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    script: list[Callable[[Handler], None]]
    requests: list[tuple[str, dict[str, str]]]
    content: bytes
    etag: str

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that went away is a part of these tests


# --- steps of a script ------------------------------------------------------------------------------------------------


def serve(handler: Handler) -> None:
    """As RFC 9110 wants it: a part if one is asked for and the version is still the same, the whole otherwise."""
    content, etag = handler.server.content, handler.server.etag
    wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
    if not wanted or handler.headers.get("If-Range", etag) != etag:
        handler.send(200, content, ETag=etag)
    elif int(wanted[1]) >= len(content):
        handler.send(416, b"", Content_Range=f"bytes */{len(content)}")
    else:
        start = int(wanted[1])
        handler.send(206, content[start:], ETag=etag, Content_Range=f"bytes {start}-{len(content) - 1}/{len(content)}")


def ignore_range(handler: Handler) -> None:
    handler.send(200, handler.server.content)


def break_off(handler: Handler) -> None:
    """Promise what is left of everything, send 100000 bytes of it."""
    start = int((handler.headers.get("Range") or "bytes=0-")[6:-1])
    content = handler.server.content
    span = f"bytes {start}-{len(content) - 1}/{len(content)}" if start else ""
    left = str(len(content) - start)
    part = content[start : start + 100_000]
    handler.send(206 if start else 200, part, Content_Length=left, ETag=ETAG, Content_Range=span)


def break_off_chunked(handler: Handler) -> None:
    handler.protocol_version = "HTTP/1.1"
    handler.send(200, b"186a0\r\n" + handler.server.content[:50_000], Content_Length="", Transfer_Encoding="chunked")
    handler.close_connection = True


def without_length(handler: Handler) -> None:
    handler.send(200, handler.server.content, Content_Length="")


def elsewhere(handler: Handler) -> None:
    handler.send(206, b"abc", Content_Range="bytes 7-9/1000")


def page(handler: Handler) -> None:
    handler.send(200, b"<!DOCTYPE html><title>Sign in</title>" * 20, Content_Type="text/html")


def silence(handler: Handler) -> None:
    handler.close_connection = True


def status(code: int) -> Callable[[Handler], None]:
    return lambda handler: handler.send(code, b"no")


def raw(answer: bytes) -> Callable[[Handler], None]:
    """A step that sends an answer as it is."""

    def step(handler: Handler) -> None:
        handler.wfile.write(answer)
        handler.close_connection = True

    return step


def redirect(address: str, code: int = 302) -> Callable[[Handler], None]:
    return raw(f"HTTP/1.0 {code} Found\r\nLocation: {address}\r\n\r\n".encode("latin-1"))


# --- fixtures ---------------------------------------------------------------------------------------------------------


def torch_bytes(state: dict[str, torch.Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save({"state_dict": {key: t.half() if t.is_floating_point() else t for key, t in state.items()}}, buffer)
    return buffer.getvalue()


@pytest.fixture(scope="module")
def contents() -> dict[Form, bytes]:
    """A checkpoint of T8 in both forms."""
    network, _ = checkpoint.randomised("fastvit_t8", Head.CLASSIFIER, 2, 0)
    return {
        Form.UNFUSED: torch_bytes(network.state_dict()),
        Form.FUSED: torch_bytes(reparam.fuse(network).state_dict()),
    }


@pytest.fixture
def server(contents: dict[Form, bytes], monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    with Server(("127.0.0.1", 0), Handler) as server:
        server.script, server.requests = [], []
        server.content, server.etag = contents[Form.FUSED], ETAG
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


Fetch = Callable[..., Path]


@pytest.fixture
def fetch(server: Server, tmp_path: Path) -> Fetch:
    def call(pauses_s: tuple[float, ...] = (), **options: object) -> Path:
        asked = {"form": Form.FUSED, "base": server.base, "folder": tmp_path} | options
        return download.fetch("fastvit_t8", pauses_s=pauses_s, **asked)

    return call


def files(folder: Path) -> list[str]:
    """Names under a folder, without the lock, which says nothing once it is released."""
    found = (entry for entry in folder.rglob("*") if entry.is_file() and not entry.name.endswith(".lock"))
    return sorted(entry.name for entry in found)


# --- what works -------------------------------------------------------------------------------------------------------


def test_a_checkpoint_arrives_and_its_hash_is_recorded(server: Server, fetch: Fetch, tmp_path: Path):
    seen: list[tuple[int, int | None]] = []
    path = fetch(progress=lambda done, total: seen.append((done, total)))
    assert path == tmp_path / FILE
    assert path.read_bytes() == server.content
    assert files(tmp_path) == [FILE.name, f"{FILE.name}.sha256"]
    assert checkpoint.recorded_sha256(path) == file_sha256(path)
    assert checkpoint.load(path, variant="fastvit_t8").form is Form.FUSED
    assert [request for request, _ in server.requests] == [PATH]
    assert seen[0] == (0, len(server.content))
    assert seen[-1] == (len(server.content), len(server.content))
    assert seen == sorted(seen)


def test_every_kind_has_its_own_address_and_file(server: Server, fetch: Fetch, contents: dict[Form, bytes]):
    found: dict[str, str] = {}
    for training in Training:
        for form in Form:
            server.content = contents[form]
            path = fetch(training=training, form=form, base=f"{server.base}/")
            found[server.requests[-1][0]] = path.name
    assert found == {
        "/image_classification_models/fastvit_t8.pth.tar": "fastvit_t8.pth.tar",
        "/image_classification_models/fastvit_t8_reparam.pth.tar": "fastvit_t8_reparam.pth.tar",
        "/image_classification_distilled_models/fastvit_t8.pth.tar": "fastvit_t8_distilled.pth.tar",
        "/image_classification_distilled_models/fastvit_t8_reparam.pth.tar": "fastvit_t8_distilled_reparam.pth.tar",
    }


def test_a_file_that_is_there_needs_no_server(server: Server, fetch: Fetch):
    path = fetch()
    assert fetch() == path
    assert fetch(base="http://127.0.0.1:9") == path
    assert len(server.requests) == 1


def test_a_file_put_there_by_hand_is_proved_and_recorded(server: Server, fetch: Fetch, contents, tmp_path: Path):
    path = tmp_path / FILE
    path.parent.mkdir()
    path.write_bytes(contents[Form.UNFUSED])
    with pytest.raises(CheckpointError, match="not its fused form"):
        fetch()
    assert path.exists()
    path.write_bytes(contents[Form.FUSED])
    assert fetch() == path
    assert checkpoint.recorded_sha256(path) == file_sha256(path)
    assert not server.requests


def test_a_broken_transfer_is_kept_and_continued(server: Server, fetch: Fetch, tmp_path: Path):
    server.script = [break_off]
    with pytest.raises(DownloadError, match="100000 bytes are kept, and the same command continues") as caught:
        fetch()
    assert f"the connection ended after 100000 of {len(server.content)} bytes" in str(caught.value)
    assert (tmp_path / f"{FILE}.part").stat().st_size == 100_000
    path = fetch()
    assert path.read_bytes() == server.content
    assert server.requests[1][1]["Range"] == "bytes=100000-"
    assert server.requests[1][1]["If-Range"] == ETAG
    assert files(tmp_path) == [FILE.name, f"{FILE.name}.sha256"]


def test_one_call_continues_after_several_breaks(server: Server, fetch: Fetch):
    server.script = [break_off, status(503), silence, break_off]
    path = fetch(pauses_s=(0, 0, 0, 0))
    assert path.read_bytes() == server.content
    ranges = [headers.get("Range") for _, headers in server.requests]
    assert ranges == [None, "bytes=100000-", "bytes=100000-", "bytes=100000-", "bytes=200000-"]


def test_a_new_version_on_the_server_is_fetched_from_its_beginning(server: Server, fetch: Fetch):
    server.script = [break_off]
    with pytest.raises(DownloadError):
        fetch()
    server.etag = '"version 2"'
    assert fetch().read_bytes() == server.content


@pytest.mark.parametrize("step", [ignore_range, without_length])
def test_a_server_that_ignores_the_range(step: Callable[[Handler], None], server: Server, fetch: Fetch):
    server.script = [break_off, step]
    assert fetch(pauses_s=(0,)).read_bytes() == server.content


def test_a_server_that_continues_elsewhere(server: Server, fetch: Fetch):
    server.script = [break_off, elsewhere]
    assert fetch(pauses_s=(0, 0)).read_bytes() == server.content


def test_a_part_that_is_already_everything(server: Server, fetch: Fetch, tmp_path: Path):
    part = tmp_path / f"{FILE}.part"
    part.parent.mkdir()
    part.write_bytes(server.content)
    assert fetch().read_bytes() == server.content
    assert server.requests[0][1]["Range"] == f"bytes={len(server.content)}-"


def test_a_part_that_is_more_than_everything(server: Server, fetch: Fetch, tmp_path: Path):
    part = tmp_path / f"{FILE}.part"
    part.parent.mkdir()
    part.write_bytes(server.content + b"more")
    assert fetch(pauses_s=(0,)).read_bytes() == server.content


@pytest.mark.parametrize(
    ("headers", "kept"),
    [
        ({"ETag": 'W/"weak"', "Last_Modified": "Tue, 03 Oct 2023 10:00:00 GMT"}, "Tue, 03 Oct 2023 10:00:00 GMT"),
        ({"ETag": 'W/"weak"'}, None),
        ({}, None),
    ],
)
def test_what_names_a_version(headers: dict[str, str], kept: str | None, server: Server, fetch: Fetch):
    """A weak ETag does not tell whether the bytes are the same, a date does; without either the range is asked for."""
    length = str(len(server.content))
    server.script = [lambda handler: handler.send(200, server.content[:5000], Content_Length=length, **headers)]
    server.etag = kept or ETAG
    assert fetch(pauses_s=(0,)).read_bytes() == server.content
    assert server.requests[1][1]["Range"] == "bytes=5000-"
    assert server.requests[1][1].get("If-Range") == kept


@pytest.mark.slow
def test_a_process_that_is_killed_leaves_what_arrived(server: Server, fetch: Fetch, tmp_path: Path):
    go_on = threading.Event()

    def stall(handler: Handler) -> None:
        handler.send(200, server.content[:3_000_000], Content_Length=str(len(server.content)), ETag=ETAG)
        go_on.wait(60)

    server.script = [stall]
    part = tmp_path / f"{FILE}.part"
    program = (
        "import sys; from pathlib import Path; from fastvit_bench.network import download; "
        "from fastvit_bench.network.fastvit import Form; "
        "download.fetch('fastvit_t8', form=Form.FUSED, base=sys.argv[1], folder=Path(sys.argv[2]))"
    )
    process = subprocess.Popen([sys.executable, "-c", program, server.base, str(tmp_path)])
    try:
        deadline = time.monotonic() + 60
        while not part.exists() or part.stat().st_size < 1_000_000:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(DownloadError, match="is being fetched by another process"):
            fetch()
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        go_on.set()
    assert files(tmp_path) == [part.name, f"{part.name}.version"]
    arrived = part.stat().st_size
    assert fetch().read_bytes() == server.content
    assert server.requests[-1][1]["Range"] == f"bytes={arrived}-"


# --- what does not ----------------------------------------------------------------------------------------------------


def test_an_unknown_name(tmp_path: Path):
    with pytest.raises(UsageError, match="did you mean fastvit_sa12"):
        download.fetch("fastvit_sa_12", base="https://127.0.0.1", folder=tmp_path)
    assert not files(tmp_path)


@pytest.mark.parametrize(
    "base",
    [
        *("", "models", "ftp://x", "file:///etc", "https://", "http://[1", "http://x:port"),
        *("https://x/\udc80", "https://x/é", "https://x/a b", "https://x/\x1b[31m", "https://x/\0"),
    ],
)
def test_a_base_that_is_no_web_address(base: str, tmp_path: Path):
    with pytest.raises(UsageError, match="is not a web address"):
        download.fetch("fastvit_t8", base=base, folder=tmp_path)


def test_a_file_the_server_does_not_have(server: Server, fetch: Fetch, tmp_path: Path):
    server.script = [status(404)]
    with pytest.raises(DownloadError) as caught:
        fetch(pauses_s=(0, 0))
    assert f"{server.base}{PATH} does not exist" in str(caught.value)
    assert "fastvit_t12" in str(caught.value)
    assert "benchmark.toml" in str(caught.value)
    assert len(server.requests) == 1
    assert not files(tmp_path)


def test_a_file_the_server_keeps_to_itself(server: Server, fetch: Fetch):
    server.script = [status(403)]
    with pytest.raises(DownloadError, match=r"is refused by the server \(403 Forbidden\)"):
        fetch(pauses_s=(0, 0))
    assert len(server.requests) == 1


def test_a_fault_that_passes(server: Server, fetch: Fetch):
    server.script = [status(500)]
    assert fetch(pauses_s=(0,)).read_bytes() == server.content


def test_a_fault_that_does_not_pass(server: Server, fetch: Fetch):
    server.script = [status(500), status(502), status(429)]
    with pytest.raises(DownloadError, match=r"cannot be reached \(the server answered 429 Too Many Requests\); check"):
        fetch(pauses_s=(0, 0))
    assert len(server.requests) == 3


def test_a_server_that_hangs_up(server: Server, fetch: Fetch):
    server.script = [silence]
    with pytest.raises(DownloadError, match="cannot be reached"):
        fetch()


def test_a_server_that_stops_sending(server: Server, fetch: Fetch, monkeypatch: pytest.MonkeyPatch):
    go_on = threading.Event()

    def stall(handler: Handler) -> None:
        handler.send(200, server.content[:5000], Content_Length=str(len(server.content)))
        go_on.wait(60)

    server.script = [stall]
    monkeypatch.setattr(download, "TIMEOUT_S", 0.2)
    with pytest.raises(DownloadError, match="timed out after 5000 bytes"):
        fetch()
    go_on.set()


def test_an_answer_in_pieces_that_breaks_off(server: Server, fetch: Fetch):
    server.script = [break_off_chunked]
    with pytest.raises(DownloadError, match=r"fastvit_t8_reparam\.pth\.tar (cannot be reached|did not arrive whole)"):
        fetch()
    assert fetch().read_bytes() == server.content


def test_a_server_that_is_not_there(fetch: Fetch):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound and not listening: nobody answers, and nobody else gets the port
        port = unused.getsockname()[1]
        with pytest.raises(DownloadError) as caught:
            fetch(base=f"http://127.0.0.1:{port}", pauses_s=(0, 0))
    assert "cannot be reached" in str(caught.value)
    assert "check the network and `[download] base` in benchmark.toml" in str(caught.value)


def test_a_page_instead_of_a_checkpoint(server: Server, fetch: Fetch, tmp_path: Path):
    server.script = [page]
    with pytest.raises(DownloadError) as caught:
        fetch()
    assert "what arrived is a text file that begins with '<!DOCTYPE html>" in str(caught.value)
    assert "nothing of it was kept" in str(caught.value)
    assert not files(tmp_path)


@pytest.mark.parametrize("asked", ["fastvit_t12", "fastvit_t8"])
def test_another_network_than_asked_for(asked: str, server: Server, contents: dict[Form, bytes], tmp_path: Path):
    server.content = contents[Form.UNFUSED]
    with pytest.raises(DownloadError, match=r"what arrived holds fastvit_t8 \(classifier with 2 classes, unfused\)"):
        download.fetch(asked, form=Form.FUSED, base=server.base, folder=tmp_path, pauses_s=())
    assert not files(tmp_path)


def test_a_part_of_something_else_is_found_out(server: Server, fetch: Fetch, tmp_path: Path):
    part = tmp_path / f"{FILE}.part"
    part.parent.mkdir()
    part.write_bytes(bytes(reversed(server.content[:100_000])))
    with pytest.raises(DownloadError, match="nothing of it was kept"):
        fetch()
    assert fetch().read_bytes() == server.content


def test_content_other_than_recorded_is_put_aside(server: Server, fetch: Fetch, contents, tmp_path: Path):
    path = fetch()
    path.unlink()
    record = checkpoint.record_path(path).read_text()
    server.content = contents[Form.UNFUSED]
    with pytest.raises(ChecksumError, match=r"kept as fastvit_t8_reparam\.pth\.tar\.rejected"):
        fetch()
    assert (tmp_path / f"{FILE}.rejected").read_bytes() == server.content
    assert checkpoint.record_path(path).read_text() == record
    assert files(tmp_path) == [f"{FILE.name}.rejected", f"{FILE.name}.sha256"]


def test_a_file_that_changed_is_not_used(server: Server, fetch: Fetch):
    path = fetch()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ChecksumError, match="has changed since it was fetched"):
        fetch()
    assert len(server.requests) == 1


def test_a_folder_that_cannot_be_used(fetch: Fetch, tmp_path: Path):
    (tmp_path / "fastvit_t8").touch()
    with pytest.raises(UsageError, match="cannot be used"):
        fetch()


def test_a_full_disk(fetch: Fetch, monkeypatch: pytest.MonkeyPatch):
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(download, "_receive", full)
    with pytest.raises(UsageError, match="No space left"):
        fetch()


# --- hostile servers and folders --------------------------------------------------------------------------------------


def refusal(fetch: Fetch, kind: type[FastViTBenchError] = DownloadError) -> str:
    """The sentence that a transfer ends with."""
    with pytest.raises(kind) as caught:
        fetch()
    check_refusal(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("length", ["9" * 5000, "9" * 19, str(2**31)])
def test_a_file_that_is_said_to_be_too_large(length: str, server: Server, fetch: Fetch, tmp_path: Path):
    server.script = [raw(f"HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\nbody".encode())]
    assert "has more than 2147483647 bytes, so it is no checkpoint and nothing is kept" in refusal(fetch)
    assert not files(tmp_path)
    server.script = [
        break_off,
        raw(f"HTTP/1.0 206 OK\r\nContent-Range: bytes 100000-{length}/{length}\r\n\r\nx".encode()),
    ]
    refusal(fetch)
    assert "has more than 2147483647 bytes" in refusal(fetch)
    assert not files(tmp_path)


def test_a_file_without_end(server: Server, fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download, "LIMIT", 300_000)
    server.script = [without_length]
    assert "has more than 300000 bytes" in refusal(fetch)
    assert not files(tmp_path)


def test_a_transfer_that_takes_too_long(server: Server, fetch: Fetch, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(download, "LONGEST_S", -1.0)
    assert "0 bytes are kept, and the same command continues from there" in refusal(fetch)
    assert len(server.requests) == 1


@pytest.mark.parametrize("length", ["-5", "x", "٣", "1 2", "0x10", "\x1b[31m"])
def test_a_length_that_is_no_number_says_nothing(length: str, server: Server, fetch: Fetch):
    head = b"HTTP/1.0 200 OK\r\nContent-Length: " + length.encode() + b"\r\n\r\n"
    server.script = [raw(head + server.content)]
    assert fetch().read_bytes() == server.content


@pytest.mark.parametrize("span", ["bytes 9-9/" + "9" * 5000, "bytes " + "9" * 5000 + "-1/2", "bytes */x", "\x1b", "٣"])
@pytest.mark.parametrize("code", [206, 416])
def test_a_range_that_makes_no_sense(code: int, span: str, server: Server, fetch: Fetch):
    server.script = [raw(f"HTTP/1.0 {code} OK\r\nContent-Range: {span}\r\n\r\nx".encode())]
    refusal(fetch)


@pytest.mark.parametrize(
    "address",
    [
        *("http://[::1", "http://[", "ftp://127.0.0.1/x", "file:///etc/passwd", "data:,x", "javascript:x"),
        *("http://127.0.0.1:port/", "http://127.0.0.1:99999/", "//[", "http://[\x1b]/"),
    ],
)
def test_a_redirection_to_no_web_address(address: str, server: Server, fetch: Fetch):
    server.script = [redirect(address)]
    refusal(fetch)
    assert len(server.requests) == 1


@pytest.mark.slow
def test_a_redirection_to_a_web_address(server: Server, fetch: Fetch):
    server.script = [redirect("/elsewhere"), redirect(f"{server.base}/again", 307)]
    assert fetch().read_bytes() == server.content
    assert [path for path, _ in server.requests] == [PATH, "/elsewhere", "/again"]


def test_redirections_in_a_circle(server: Server, fetch: Fetch):
    server.script = [redirect("/elsewhere")] * 50
    assert "is refused by the server (302" in refusal(fetch)


@pytest.mark.parametrize(("old", "new"), [("https", "http"), ("https", "ftp"), ("http", "ftp")])
def test_redirections_that_are_not_followed(old: str, new: str):
    request = urllib.request.Request(f"{old}://example.org/x")
    with pytest.raises(DownloadError, match=f"leads to {new}://example.org/y, which is not followed"):
        download._Redirection().redirect_request(
            request, io.BytesIO(), 302, "Found", http.client.HTTPMessage(), f"{new}://example.org/y"
        )


ODD_ANSWERS = {
    "reason with escapes": b"HTTP/1.0 403 \x1b]0;x\x07\x1b[31mNo\x85\r\n\r\n",
    "long reason": b"HTTP/1.0 503 " + b"x" * 60_000 + b"\r\n\r\n",
    "status line of something else": b"SSH-2.0-\x1b[31mOpenSSH\r\n",
    "long status line": b"x" * 70_000 + b"\r\n",
    "status of 5000 digits": b"HTTP/1.0 " + b"2" * 5000 + b" OK\r\n\r\n",
    "negative status": b"HTTP/1.0 -20 OK\r\n\r\n",
    "many headers": b"HTTP/1.0 200 OK\r\n" + b"A: b\r\n" * 200 + b"\r\n",
    "headers without names": b"HTTP/1.0 200 OK\r\n: b\r\n\xff\r\n\r\n",
    "chunk of no length": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\x1b[31m\r\n",
    "chunk of a negative length": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nabc",
    "chunk of endless length": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 5000 + b"\r\nabc",
}


@pytest.mark.parametrize("kind", ODD_ANSWERS)
def test_an_answer_that_makes_no_sense(kind: str, server: Server, fetch: Fetch):
    server.script = [raw(ODD_ANSWERS[kind])]
    refusal(fetch)


ANSWER = (
    b"HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\nContent-Range: bytes 4-8/9\r\n"
    b'ETag: "v"\r\nLocation: http://127.0.0.1:9/x\r\n\r\n<html'
)


@pytest.mark.slow
@settings(max_examples=40)
@given(answer=mutated(ANSWER) | mutated(ANSWER.replace(b"206", b"302")), received=st.sampled_from([b"", b"<htm"]))
def test_no_answer_is_more_than_refused(answer: bytes, received: bytes, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("answers")
    part = folder / f"{FILE}.part"
    part.parent.mkdir()
    if received:
        part.write_bytes(received)
    with pytest.MonkeyPatch.context() as patch, Server(("127.0.0.1", 0), Handler) as server:
        patch.setenv("no_proxy", "*")
        patch.setattr(download, "TIMEOUT_S", 5)
        server.script, server.requests = [raw(answer)], []
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(FastViTBenchError) as caught:
            download.fetch("fastvit_t8", form=Form.FUSED, base=server.base, folder=folder, pauses_s=())
        thread.join()
    check_refusal(caught.value)


@pytest.mark.parametrize("version", [b'"a"\r\nX-Injected: 1', b"\xff\xfe", b"x" * 5000, b"\x1b[31m", b""])
def test_a_version_that_cannot_be_one_is_not_sent(version: bytes, server: Server, fetch: Fetch, tmp_path: Path):
    part = tmp_path / f"{FILE}.part"
    part.parent.mkdir()
    part.write_bytes(server.content[:1000])
    part.with_name(f"{part.name}.version").write_bytes(version)
    assert fetch().read_bytes() == server.content
    ((_, headers),) = server.requests
    assert headers["Range"] == "bytes=1000-"
    assert "If-Range" not in headers
    assert "X-Injected" not in headers


@pytest.mark.parametrize("suffix", ["", ".part", ".sha256"])
@pytest.mark.parametrize("target", ["/dev/zero", "pipe"])
def test_special_files_in_the_folder_are_not_read(suffix: str, target: str, fetch: Fetch, tmp_path: Path):
    path = tmp_path / FILE
    path.parent.mkdir()
    os.mkfifo(path.parent / "pipe")
    path.with_name(path.name + suffix).symlink_to(path.parent / target)
    assert "regular file" in refusal(fetch, UsageError)


def test_a_version_in_a_pipe_is_not_read(server: Server, fetch: Fetch, tmp_path: Path):
    part = tmp_path / f"{FILE}.part"
    part.parent.mkdir()
    part.write_bytes(server.content[:1000])
    os.mkfifo(part.with_name(f"{part.name}.version"))
    server.script = [ignore_range]
    assert fetch().read_bytes() == server.content
