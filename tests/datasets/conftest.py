"""A machine without data and without network, and a server on this machine."""

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import sklearn.datasets

from lib.datasets import places


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty data root, an empty working folder, and no network."""

    def fails(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setenv("SURVEY_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(places, "CHECKOUT", tmp_path)
    monkeypatch.setattr(places, "fetch", fails)
    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fails)
    return tmp_path


class Server(http.server.ThreadingHTTPServer):
    """Serves ``contents``: path -> bytes. ``behavior`` says what it does wrong; ``asked`` are the ranges asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.contents: dict[str, bytes] = {}
        self.behavior: set[str] = set()
        self.asked: list[str | None] = []
        self.stop = threading.Event()  # a slow answer waits for it

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server, content = self.server, self.server.contents.get(self.path)
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        self.close_connection = True
        if content is None:
            return self.send_error(404)
        if "dead" in server.behavior:
            return server.stop.wait(20)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and "ranges" in server.behavior else 0
        if start >= len(content) and start:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            return self.end_headers()
        self.send_response(206 if start else 200)
        if start:
            shift = 1 if "wrong range" in server.behavior else 0
            self.send_header("Content-Range", f"bytes {start + shift}-{len(content) - 1}/{len(content)}")
        chunked = "no length" in server.behavior
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(len(content) - start))
        if "html" in server.behavior:
            self.send_header("Content-Type", "text/html; charset=utf-8")
        self.end_headers()
        rest = content[start:]
        sent = rest[: len(rest) // 2] if "cut" in server.behavior else rest
        if "cut once" in server.behavior:
            server.behavior.remove("cut once")
            sent = rest[: len(rest) // 2]
        for place in range(0, len(sent), 1 << 12):
            piece = sent[place : place + (1 << 12)]
            self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if chunked else piece)
            if "slow" in server.behavior and server.stop.wait(0.2):
                return None
        if chunked and len(sent) == len(rest):
            self.wfile.write(b"0\r\n\r\n")
        return None

    def log_message(self, *_: object) -> None:
        """Nothing: the tests look at standard error."""


@pytest.fixture
def server() -> Iterator[Server]:
    """A server on 127.0.0.1, on a port of its own."""
    started = Server()
    thread = threading.Thread(target=functools.partial(started.serve_forever, 0.02), daemon=True)
    thread.start()
    yield started
    started.stop.set()
    started.shutdown()
    started.server_close()
