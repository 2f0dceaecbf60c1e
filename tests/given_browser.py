"""What tests in the browser share, without playwright: where Chromium is, its screens, a folder that is served."""

import functools
import http.server
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SCREENS: dict[str, dict[str, Any]] = {
    "wide": {"viewport": {"width": 1280, "height": 900}},
    "narrow": {"viewport": {"width": 390, "height": 844}, "has_touch": True},
}
NO_NETWORK = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
MARKS = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is found: apt-get install chromium, to look at the pages"),
]


def in_browser(test: Callable) -> Callable:
    """Mark one test of a file whose others need no browser."""
    return functools.reduce(lambda marked, mark: mark(marked), MARKS, test)


def quick_book(root: Path) -> Path:
    """Build the quick book, where its pages are not those of a good build of the present sources; return their folder.

    root: the book's folder.
    """
    from lib.book import built, pages  # here: tests/conftest.py first says how many threads libraries may start

    if not built.is_current(root, "quick"):
        command = [sys.executable, "-m", "lib", "--root", root, "book"]
        said = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True)
        assert said.returncode == 0, f"the quick book does not build:\n{said.stdout}\n{said.stderr}"
    return pages.site(root)


class serving:
    """A folder on a free port of 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        class Quiet(http.server.SimpleHTTPRequestHandler):
            protocol_version = "HTTP/1.1"  # one connection for many files

            def do_GET(self) -> None:
                if self.path == "/favicon.ico":  # the browser asks for it, not the page
                    self.send_response(204)
                    return self.end_headers()
                return super().do_GET()

            def log_message(self, *_: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))

    def __enter__(self) -> str:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
