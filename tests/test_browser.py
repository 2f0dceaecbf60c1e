"""Every page in a real browser: light, dark and at the width of a phone, with the network shut.

Builds the quick book first, where that is not up to date. Needs Chromium, Debian's package ``chromium``.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from given_browser import MARKS, PROJECT, SCREENS, quick_book, serving
from playwright.sync_api import Browser, BrowserContext, Page, Request

from lib.book import gates

MODES = ("phone", "dark", "light")  # a page is loaded once, in the first of these
SCHEMES = {"dark": "dark", "light": "light", "phone": "light"}
FOLLOWS = """theme => new Promise(done => {  // a switched theme takes a while on a busy machine; a page may have none
    const end = Date.now() + 5000, themed = document.querySelector('link[href*="theme"]') !== null;
    const follow = () => !themed || document.documentElement.dataset.theme === theme || Date.now() > end
        ? requestAnimationFrame(() => done(null))
        : setTimeout(follow, 20);
    follow();
})"""
CODE = "div.highlight pre"
OURS = {"exclude": [[CODE], ["mjx-container"]]}  # colored by the theme, drawn by MathJax; and many
AXE = {"preload": False, "reporter": "no-passes"}  # preloading looks for style sheets where they are not
AXE_ONCE = """if (!window.axe) {  // once for a page, of which each color is read once: that is a fifth of the time
    %s;
    const colors = new Map(), color = axe.commons.color.Color.prototype, parse = color.parseString;
    color.parseString = function (text) {
        if (!colors.has(text)) {
            parse.call(this, text);
            colors.set(text, [this.r, this.g, this.b, this.alpha]);
        }
        [this.r, this.g, this.b, this.alpha] = colors.get(text);
        return this;
    };
} null"""
RULES = {  # the phone has the colors of the light page, and the dark page has its elements: once is enough
    "light": {},
    "dark": {"runOnly": {"type": "rule", "values": ["color-contrast"]}},
    "phone": {"rules": {"color-contrast": {"enabled": False}}},
}
CODE_PCT = 35  # of a page's height, at the most, is code that is shown before anything is unfolded
KINDS = ["index.html", "claims.html", "glossary.html", "chapters/own_model.html", "chapters/pruning.html"]
PAGES = [f"{name}.html" for name in re.findall(r"(?:root|file): ([\w/-]+)", (PROJECT / "_toc.yml").read_text())]

pytestmark = MARKS


@pytest.fixture(scope="session")
def site() -> Iterator[str]:
    """The address of the built quick book."""
    with serving(quick_book(PROJECT)) as address:
        yield address


@pytest.fixture(scope="session")
def window(browser: Browser) -> Iterator[BrowserContext]:
    """A browser's window; pages that follow find the theme's files in its cache."""
    context = browser.new_context(**SCREENS["wide"])
    context.set_default_timeout(120_000)  # a busy machine is slow, not wrong
    yield context
    context.close()


def look(
    context: BrowserContext, address: str, name: str, modes: tuple[str, ...], shots: str | None = None
) -> list[str]:
    """Open one page; return one sentence for everything that is wrong with it in one of these modes.

    After the phone the same page is widened, without another load: that would take as long as to look for faults.
    """
    wrong: list[str] = []
    page = context.new_page()

    def asks(request: Request) -> None:
        if not request.url.startswith((address, "data:", "blob:")):
            wrong.append(f"asks the network for {request.url}")

    page.on("request", asks)
    page.on("console", lambda said: said.type == "error" and wrong.append(f"console: {said.text}"))
    page.on("pageerror", lambda error: wrong.append(f"script error: {error.message}"))
    page.on("response", lambda said: said.status >= 400 and wrong.append(f"{said.status} for {said.url}"))
    finger = page.context.new_cdp_session(page)
    if modes[0] == "phone":
        page.set_viewport_size(SCREENS["narrow"]["viewport"])
        finger.send("Emulation.setTouchEmulationEnabled", {"enabled": True})
    page.emulate_media(color_scheme=SCHEMES[modes[0]])
    page.goto(f"{address}/{name}", wait_until="load")
    page.wait_for_function(
        "() => !document.querySelector('.math') || (window.MathJax && MathJax.startup && MathJax.startup.promise)"
    )
    page.evaluate("() => window.MathJax && MathJax.startup ? MathJax.startup.promise.then(() => null) : null")
    page.add_style_tag(content="*, *::before, *::after {transition: none !important; animation: none !important}")
    for mode in modes:
        if mode != "phone" == modes[0]:
            finger.send("Emulation.setTouchEmulationEnabled", {"enabled": False})
            page.set_viewport_size(SCREENS["wide"]["viewport"])
        page.emulate_media(color_scheme=SCHEMES[mode])
        page.evaluate(FOLLOWS, "dark" if mode == "dark" else "light")
        if shots:
            file = f"{name.replace('/', '-').removesuffix('.html')}-{mode}.png"
            page.screenshot(path=Path(shots, file), full_page=True)
        wrong += [f"{mode}: {sentence}" for sentence in faults(page, mode)]
    page.close()
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
        captions: [...document.querySelectorAll('caption')].filter(
            one => one.getBoundingClientRect().width > window.innerWidth).map(one => one.textContent.trim()),
        theme: document.documentElement.dataset.theme,
    })""")
    if found["rendered"] < found["formulas"] or found["failed"]:
        wrong.append(f"{found['rendered']} of {found['formulas']} formulas rendered, {found['failed']} with an error")
    wrong += [f"the image {image} is missing, or has no alternative text" for image in found["images"]]
    if found["width"] > found["room"]:
        wrong.append(f"is {found['width']} wide on a screen of {found['room']}")
    wrong += [f"the caption {caption[:60]!r} is wider than the screen" for caption in found["captions"]]
    if found["theme"] != ("dark" if mode == "dark" else "light"):
        wrong.append(f"shows the theme {found['theme']} to a reader who wants {mode}")
    if mode == "light":
        wrong += misshapen(page)
    for violation in violations(page, mode):
        where = "; ".join(node["html"][:120] for node in violation["nodes"][:3])
        wrong.append(f"axe: {violation['id']} ({violation['help']}), {len(violation['nodes'])} times: {where}")
    return wrong


def misshapen(page: Page) -> list[str]:
    """What is wrong with the shape of a page: boxes that are cut; of a chapter, too much code and a late figure."""
    found = page.evaluate("""() => {
        const seen = box => box.checkVisibility({contentVisibilityAuto: true}) && box.clientWidth > 0;
        const all = selector => [...document.querySelectorAll(`main ${selector}`)].filter(seen);
        const height = boxes => boxes.reduce((sum, box) => sum + box.getBoundingClientRect().height, 0);
        const figure = document.querySelector('main figure img');
        const boxes = ['div.highlight pre', 'div.math', '.table-wrap', 'table', 'figure'].flatMap(all);
        return {
            cut: boxes.filter(box => box.scrollWidth > box.clientWidth + 1).map(box => box.textContent.trim()),
            code: 100 * height(all('div.highlight pre')) / height(all('article').slice(0, 1)),
            chapter: document.querySelector('main div.cell') !== null,
            bottom: figure ? figure.getBoundingClientRect().bottom + window.scrollY : null,
            screen: window.innerHeight,
        };
    }""")
    wrong = [f"a box is cut: {' '.join(text.split())[:60]!r}" for text in found["cut"]]
    if found["chapter"] and found["code"] > CODE_PCT:
        wrong.append(f"{found['code']:.0f} % of its height is code, and at most {CODE_PCT} % may be")
    if found["chapter"] and (found["bottom"] is None or found["bottom"] > found["screen"]):
        wrong.append(f"its first figure ends at {found['bottom']}, below the first screen of {found['screen']}")
    return wrong


def violations(page: Page, mode: str) -> list[dict]:
    """What axe finds. Meanwhile code, at which it need not look, is plain text: most elements of a page color code."""
    code = page.evaluate_handle(
        """selector => [...document.querySelectorAll(selector)].map(pre => {
            const parts = [...pre.childNodes];
            pre.replaceChildren(pre.textContent);
            return () => pre.replaceChildren(...parts);
        })""",
        CODE,
    )
    axe = Axe(AXE_ONCE % Axe().axe_script)
    found = axe.run(page, context=OURS, options=AXE | RULES[mode]).response["violations"]
    code.evaluate("blocks => blocks.forEach(restore => restore())")
    return found


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_in_the_browser(site, window, name):
    assert look(window, site, name, MODES, os.environ.get("SURVEY_SHOTS")) == []


@pytest.mark.parametrize("name", KINDS)
def test_a_page_of_each_kind_opens_whole_on_a_wide_screen(site, window, name):
    assert look(window, site, name, ("dark",)) == []


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
        (f'<div class="highlight"><pre style="overflow: auto">{"x" * 500}</pre></div>', "a box is cut: 'xxx"),
        (
            '<div class="table-wrap" style="overflow: auto; width: 9em"><p style="width: 40em">Row</p></div>',
            "cut: 'Row",
        ),
        (
            '<article><div class="cell"></div><div class="highlight"><pre>1\n2</pre></div></article>',
            "% of its height is code",
        ),
        (
            '<article><div class="cell"></div><p style="height: 2000px"></p><figure><img alt="A"></figure></article>',
            "its first figure ends",
        ),
        ('<article><div class="cell"></div><p>No figure at all.</p></article>', "its first figure ends at None"),
    ],
)
def test_a_fault_is_seen(window, tmp_path, body, says):
    assert any(says in sentence for sentence in faults_of(window, tmp_path, body, "light"))


@pytest.mark.parametrize(
    ("body", "says", "mode"),
    [
        ('<p style="color: #222; background: #000">faint</p>', "axe: color-contrast", "dark"),
        ('<a href="#"><span></span></a>', "axe: link-name", "phone"),
        (
            f'<div style="overflow: auto"><table><caption>Wide</caption><tr><td>{"x" * 90}</td></tr></table></div>',
            "the caption 'Wide' is wider",
            "phone",
        ),
    ],
)
def test_a_fault_is_seen_where_fewer_rules_run(window, tmp_path, body, says, mode):
    assert any(says in sentence for sentence in faults_of(window, tmp_path, body, mode))


def faults_of(window: BrowserContext, folder: Path, body: str, mode: str) -> list[str]:
    """What is found wrong with a page of this content."""
    head = '<head><title>Page</title><link rel="icon" href="data:,"></head>'
    main = f'<body style="margin: 0"><main><h1>Page</h1>{body}</main></body>'
    (folder / "page.html").write_text(f'<!doctype html><html lang="en" data-theme="light">{head}{main}</html>')
    with serving(folder) as address:
        return look(window, address, "page.html", (mode,))
