"""What the book's own scripts and styles do in a real browser, on a small book with two ledgers."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright
from survey_book import build, stamp_run, tiny_book
from test_browser import CHROMIUM, serving

from lib.book import pages
from lib.book.sphinx import weight

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is found: apt-get install chromium, to look at the pages"),
]
EXTRA = """
# %% [markdown]
# A formula: $x^2$.

# %% tags=["hide-cell"]
print("folded")
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small book, built; one of its chapters has a formula and a folded cell."""
    root = tiny_book(tmp_path_factory.mktemp("book"))
    with (root / "chapters" / "quantization.py").open("a") as chapter:
        chapter.write(EXTRA)
    stamp_run(root, "quantization")
    done = build(root)
    assert done.returncode == 0, done.stdout + done.stderr
    return root


@pytest.fixture(scope="module")
def address(root: Path) -> Iterator[str]:
    with serving(pages.site(root)) as address:
        yield address


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def visit(browser: Browser, address: str) -> Iterator[Callable[..., Page]]:
    """Open a page of the book: ``visit("claims.html")``; more arguments are those of a context. No script may fail."""
    contexts, errors = [], []

    def visit(name: str, **options: object) -> Page:
        contexts.append(browser.new_context(**{"viewport": {"width": 1280, "height": 900}} | options))
        contexts[-1].set_default_timeout(60_000)
        page = contexts[-1].new_page()
        page.on("pageerror", lambda error: errors.append(error.message))
        page.on("response", lambda said: said.status >= 400 and errors.append(f"{said.status} for {said.url}"))
        page.goto(f"{address}/{name}", wait_until="networkidle")
        return page

    yield visit
    for context in contexts:
        context.close()
    assert errors == []


def test_a_link_to_a_folded_claim_opens_its_fold(visit):
    page = visit("chapters/pruning.html")
    assert not page.locator("#claim-C2\\.3-38").is_visible()
    page.evaluate("() => { window.location.hash = '#claim-C2.3-38' }")
    page.locator("#claim-C2\\.3-38").wait_for(state="visible")
    assert visit("chapters/pruning.html#claim-C2.3-38").locator("#claim-C2\\.3-38").is_visible()


@pytest.mark.parametrize("name", ["index.html", "claims.html", "chapters/pruning.html", "chapters/quantization.html"])
def test_a_page_loads_what_the_gate_counts_and_little_of_it(browser, address, root, name):
    page = browser.new_page()
    loaded = {}
    page.on("response", lambda answer: loaded.update({answer.url: len(answer.body())}))
    page.goto(f"{address}/{name}", wait_until="networkidle")
    formulas = page.locator(".math").count()
    page.close()
    before_drawing = sum(size for url, size in loaded.items() if "fonts/woff" not in url)
    counted = sum(path.stat().st_size for path in weight.loaded(pages.site(root) / name))
    assert 0.95 * counted <= before_drawing <= counted
    assert before_drawing <= (weight.LIMIT_WITH_FORMULAS if formulas else weight.LIMIT)
    assert any("mathjax" in url for url in loaded) == bool(formulas) == (name == "chapters/quantization.html")


def test_every_icon_has_a_sign_of_the_small_font(visit):
    icons = visit("chapters/quantization.html").evaluate("""async () => {
        await document.fonts.ready;
        const shown = [...document.querySelectorAll("i[class*=fa-], span[class*=fa-]")];
        return {
            shown: shown.length,
            bare: shown.filter(i => getComputedStyle(i, "::before").content === "none").map(i => i.className),
            loaded: document.fonts.check('900 16px "Font Awesome 6 Free"', "\\uf185"),
        };
    }""")
    assert icons["shown"] > 10
    assert (icons["bare"], icons["loaded"]) == ([], True)
