"""Every page in a real browser: light, dark and at the width of a phone, with the network shut.

Builds the quick book first, where that is not up to date. Needs Chromium, Debian's package ``chromium``.
"""

import functools
import http.server
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

from lib.book import gates, pages

PROJECT = Path(__file__).parents[1]
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
MODES = {
    "light": {"viewport": {"width": 1400, "height": 900}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1400, "height": 900}, "color_scheme": "dark"},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "light", "has_touch": True},
}
THEME = {  # axe's findings that are the theme's own, with what they are about
    "label-content-name-mismatch": "the names of the search button and of hidden cells",
    "region": "the logo stands outside a landmark",
}
OURS = {"exclude": [["div.highlight pre"], ["mjx-container"]]}  # colored by the theme, drawn by MathJax; and many
AXE = {"preload": False, "resultTypes": ["violations"]}  # preloading looks for style sheets where they are not
RULES = {  # the phone has the colors of the light page, and the dark page has its elements: once is enough
    "light": {},
    "dark": {"runOnly": {"type": "rule", "values": ["color-contrast"]}},
    "phone": {"rules": {"color-contrast": {"enabled": False}}},
}
PAGES = [f"{name}.html" for name in re.findall(r"(?:root|file): ([\w/-]+)", (PROJECT / "_toc.yml").read_text())]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is found: apt-get install chromium, to look at the pages"),
]


@pytest.fixture(scope="session")
def site() -> Iterator[str]:
    """The address of the built quick book."""
    said = subprocess.run([sys.executable, "-m", "lib", "book"], cwd=PROJECT, capture_output=True, text=True)
    assert said.returncode == 0, f"the quick book does not build:\n{said.stdout}\n{said.stderr}"
    with serving(pages.site(PROJECT)) as address:
        yield address


class serving:
    """A folder on a free port of 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_: object) -> None: ...

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder))

    def __enter__(self) -> str:
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def look(browser: Browser, address: str, name: str, mode: str, shots: str | None = None) -> list[str]:
    """Open one page; return one sentence for everything that is wrong with it."""
    wrong: list[str] = []
    context = browser.new_context(**MODES[mode])
    context.set_default_timeout(120_000)  # a busy machine is slow, not wrong
    page = context.new_page()

    def answer(route) -> None:
        if route.request.url.startswith((address, "data:", "blob:")):
            route.continue_()
        else:
            wrong.append(f"asks the network for {route.request.url}")
            route.abort()

    page.route("**/*", answer)
    page.on("console", lambda said: said.type == "error" and wrong.append(f"console: {said.text}"))
    page.on("pageerror", lambda error: wrong.append(f"script error: {error.message}"))
    page.on("response", lambda said: said.status >= 400 and wrong.append(f"{said.status} for {said.url}"))
    page.goto(f"{address}/{name}", wait_until="load")
    page.wait_for_function(
        "() => !document.querySelector('.math') || (window.MathJax && MathJax.startup && MathJax.startup.promise)"
    )
    page.evaluate("() => window.MathJax && MathJax.startup ? MathJax.startup.promise.then(() => null) : null")
    page.add_style_tag(content="*, *::before, *::after {transition: none !important; animation: none !important}")
    if shots:
        page.screenshot(path=Path(shots, f"{name.replace('/', '-').removesuffix('.html')}-{mode}.png"), full_page=True)
    wrong += faults(page, mode)
    context.close()
    return wrong


def faults(page: Page, mode: str) -> list[str]:
    """What is wrong with an open page: formulas, images, width, theme, accessibility."""
    wrong = []
    found = page.evaluate("""() => ({
        formulas: document.querySelectorAll('.math').length,
        rendered: document.querySelectorAll('.math mjx-container').length,
        failed: document.querySelectorAll('mjx-merror, [data-mjx-error]').length,
        images: [...document.images].filter(i => !i.alt.trim() || !i.complete || !i.naturalWidth).map(i => i.src),
        width: document.documentElement.scrollWidth, room: window.innerWidth,
        theme: document.documentElement.dataset.theme,
    })""")
    if found["rendered"] < found["formulas"] or found["failed"]:
        wrong.append(f"{found['rendered']} of {found['formulas']} formulas rendered, {found['failed']} with an error")
    wrong += [f"the image {image} is missing, or has no alternative text" for image in found["images"]]
    if found["width"] > found["room"]:
        wrong.append(f"is {found['width']} wide on a screen of {found['room']}")
    if found["theme"] != ("dark" if mode == "dark" else "light"):
        wrong.append(f"shows the theme {found['theme']} to a reader who wants {mode}")
    for violation in Axe().run(page, context=OURS, options=AXE | RULES[mode]).response["violations"]:
        if violation["id"] not in THEME:
            where = "; ".join(node["html"][:120] for node in violation["nodes"][:3])
            wrong.append(f"axe: {violation['id']} ({violation['help']}), {len(violation['nodes'])} times: {where}")
    return wrong


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_in_the_browser(site, browser, name, mode):
    assert look(browser, site, name, mode, os.environ.get("SURVEY_SHOTS")) == []


def test_formulas_are_there_to_be_rendered(site):
    assert any(page.select(".math") for _, page in gates.built_pages(PROJECT))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ('<script src="https://example.org/a.js"></script>', "asks the network for https://example.org/a.js"),
        ("<script>throw new Error('broken')</script>", "script error: broken"),
        ("<script>console.error('careful')</script>", "console: careful"),
        ('<img src="missing.png" alt="A curve falls">', "404 for"),
        ('<img src="data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA=">', "has no alternative text"),
        (
            '<p class="math">x^2</p><script>MathJax = {startup: {promise: Promise.resolve()}}</script>',
            "0 of 1 formulas",
        ),
        ('<div style="width: 5000px">wide</div>', "is 5000 wide"),
        ('<p style="color: #ddd; background: #fff">faint</p>', "axe: color-contrast"),
    ],
)
def test_a_fault_is_seen(browser, tmp_path, body, says):
    assert any(says in sentence for sentence in faults_of(browser, tmp_path, body, "light"))


@pytest.mark.parametrize(
    ("body", "says", "mode"),
    [
        ('<p style="color: #222; background: #000">faint</p>', "axe: color-contrast", "dark"),
        ('<a href="#"><span></span></a>', "axe: link-name", "phone"),
    ],
)
def test_a_fault_is_seen_where_fewer_rules_run(browser, tmp_path, body, says, mode):
    assert any(says in sentence for sentence in faults_of(browser, tmp_path, body, mode))


def faults_of(browser: Browser, folder: Path, body: str, mode: str) -> list[str]:
    """What is found wrong with a page of this content."""
    head = '<head><title>Page</title><link rel="icon" href="data:,"></head>'
    main = f'<body style="margin: 0"><main><h1>Page</h1>{body}</main></body>'
    (folder / "page.html").write_text(f'<!doctype html><html lang="en" data-theme="light">{head}{main}</html>')
    with serving(folder) as address:
        return look(browser, address, "page.html", mode)
