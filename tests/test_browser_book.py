"""What the book's own scripts and styles do in a real browser, on a small book with two chapters."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from given_browser import MARKS, serving
from playwright.sync_api import Page
from survey_book import build, stamp_run, tiny_book

from lib.book import pages
from lib.book.sphinx import weight

pytestmark = MARKS
EXTRA = """
# %% [markdown]
# ## Lottery tickets and k-means
#
# A ticket that wins the lottery means a good start.
#
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


def test_a_book_of_no_known_repository_names_none(visit):
    assert visit("reproduce.html").locator("article pre").count() == 0
    page = visit("chapters/pruning.html")
    assert page.locator("meta[property='og:image']").get_attribute("content") == "../_static/card.png"
    assert page.locator("a.btn-download-notebook-button").get_attribute("download") == ""


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


def shown(page: Page) -> list[str]:
    """The ids of the claims that a reader of the ledger sees."""
    return page.evaluate(
        "() => [...document.querySelectorAll('div.claim[id]')].filter(c => c.checkVisibility()).map(c => c.id)"
    )


def test_the_ledger_shows_all_claims_where_no_script_runs(visit):
    page = visit("claims.html", java_script_enabled=False)
    assert page.locator("div.claim[id]:visible").count() == 4
    assert page.locator("form.filter").count() == 0


def test_filters_hide_claims_say_how_many_and_keep_the_address(visit):
    page = visit("claims.html")
    assert len(shown(page)) == 4
    assert (
        page.locator("[aria-live=polite]").inner_text()
        == "All 4 claims: 2 measured, 1 not measured in this profile, 1 not testable here."
    )
    page.get_by_label("Verdict").select_option("contradicted")
    assert shown(page) == ["claim-C2.3-38"]
    assert page.locator("[aria-live=polite]").inner_text() == "1 of 4 claims: 1 measured."
    assert not page.locator("#section-2-4-quantization").is_visible()
    page.get_by_label("Verdict").select_option("")
    page.locator("select[name=section]").select_option(label="2.4: Quantization")
    page.get_by_label("Text").press_sequentially("HUFFMAN file")
    assert shown(page) == ["claim-C2.4-12"]
    assert page.url.endswith("claims.html?section=section-2-4-quantization&text=HUFFMAN+file")
    assert shown(visit(page.url.split("/")[-1])) == ["claim-C2.4-12"]
    page.get_by_role("button", name="Show all").press("Enter")
    assert len(shown(page)) == 4
    assert page.url.endswith("claims.html")


def count(page: Page) -> str:
    return page.locator("[aria-live=polite]").inner_text()


def test_filters_combine_with_the_chapter_and_say_when_nothing_fits(visit):
    page = visit("claims.html?chapter=quantization")
    assert shown(page) == ["claim-C2.4-12", "claim-C2.4-13"]
    assert page.locator("select[name=chapter] option:checked").inner_text() == "Quantization"
    page.get_by_label("Verdict").select_option("supported")
    assert shown(page) == ["claim-C2.4-12"]
    assert page.url.endswith("claims.html?chapter=quantization&verdict=supported")
    page.get_by_label("Text").fill("no such word")
    assert (shown(page), count(page)) == ([], "0 of 4 claims: no claim fits all filters.")
    groups = page.locator("select[name=verdict] optgroup").evaluate_all("groups => groups.map(g => g.label)")
    assert groups == ["Measured", "Counted apart"]


def test_a_bar_sets_the_filter_by_keyboard_and_back_undoes_it(visit):
    page = visit("claims.html")
    part = page.locator("ul.section-bars .bar a", has_text="contradicted")
    part.focus()
    page.keyboard.press("Enter")
    assert shown(page) == ["claim-C2.3-38"]
    assert page.url.endswith("claims.html?verdict=contradicted&section=section-2-3-pruning")
    assert page.evaluate("document.activeElement.className") == "filter-count"
    page.keyboard.press("Shift+Tab")  # back from what was counted to the filter
    assert page.evaluate("document.activeElement.textContent") == "Show all"
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.go_back()
    assert (len(shown(page)), page.locator("select[name=verdict]").input_value()) == (4, "")


def test_the_bars_fit_the_width_of_a_phone(visit):
    page = visit("claims.html", viewport={"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    sizes = page.locator("ul.section-bars a").evaluate_all("all => all.map(a => a.getBoundingClientRect().height)")
    assert min(sizes) >= 24


def test_a_tile_filters_the_ledger_and_a_wrong_filter_hides_nothing(visit):
    page = visit("index.html")
    page.locator("ul.tiles a", has_text="contradicted").click()
    page.wait_for_url("**/claims.html?verdict=contradicted")
    assert shown(page) == ["claim-C2.3-38"]
    assert len(shown(visit("claims.html?verdict=wrong&other=1"))) == 4


def test_a_link_to_a_claim_shows_it_whatever_the_filter(visit):
    page = visit("claims.html?verdict=contradicted#claim-C2.4-12")
    assert "claim-C2.4-12" in shown(page)


WIDE = """() => {
    const table = document.createElement("table");
    table.innerHTML = `<tr>${"<td>measured value</td>".repeat(40)}</tr>`;
    const formula = document.querySelector(".math mjx-container").cloneNode(true);
    formula.setAttribute("display", "true");
    formula.querySelector("mjx-math").append("wide ".repeat(300));
    formula.querySelector("mjx-math").style.whiteSpace = "nowrap";
    document.querySelector("article").append(table, formula);
}"""


def test_paper_is_light_open_and_narrow_and_the_screen_is_as_before(visit):
    page = visit("chapters/quantization.html", color_scheme="dark")
    page.evaluate(WIDE)
    state = """() => ({
        theme: document.documentElement.dataset.theme,
        closed: document.querySelectorAll("article details:not([open])").length,
        wide: [...document.querySelectorAll("article :is(table, mjx-math)")]
            .filter(part => part.getBoundingClientRect().width > 700).length,
    })"""
    before = page.evaluate(state)
    assert before["theme"] == "dark"
    assert (before["closed"], before["wide"]) == (3, 2)  # claims, costs and a cell; a table and a formula
    page.evaluate("() => window.dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(state) == {"theme": "light", "closed": 0, "wide": 0}
    page.evaluate("() => window.dispatchEvent(new Event('afterprint'))")
    assert page.evaluate(state) == before


def test_paper_has_nothing_to_click_and_no_addresses(visit):
    page = visit("chapters/quantization.html")
    page.emulate_media(media="print")
    assert page.locator(".bd-header-article").is_hidden()
    assert page.locator(".bd-sidebar-primary").is_hidden()
    after = "() => [...document.querySelectorAll('article a')].map(a => getComputedStyle(a, '::after').content)"
    assert set(page.evaluate(after)) == {"none"}
    held = "() => getComputedStyle(document.querySelector('div.highlight')).breakInside"
    assert page.evaluate(held) == "auto"


RING = """() => {
    const style = getComputedStyle(document.activeElement);
    const seen = parseFloat(style.outlineWidth) >= 2 && style.outlineStyle !== "none";
    return [document.activeElement.tagName, document.activeElement.className, seen];
}"""


@pytest.mark.parametrize("name", ["claims.html", "chapters/quantization.html"])
def test_every_control_that_the_keyboard_reaches_has_a_ring(visit, name):
    page = visit(name)
    stops = []
    while len(stops) < 150:
        page.keyboard.press("Tab")
        stops.append(page.evaluate(RING))
        if stops[-1][0] == "BODY":
            break
    reached = " ".join(style for _, style, _ in stops)
    for control in ("search-button-field", "primary-toggle", "dropdown-toggle", "btn-fullscreen-button"):
        assert control in reached
    assert {"SUMMARY", "A", "BUTTON"} <= {tag for tag, _, _ in stops}
    assert [stop for stop in stops if stop[0] != "BODY" and not stop[2]] == []


NAMES = {"label-content-name-mismatch", "region"}


@pytest.mark.parametrize("name", ["claims.html", "chapters/quantization.html"])
def test_names_and_landmarks_are_in_order(visit, name):
    found = Axe().run(visit(name), options={"runOnly": sorted(NAMES)})
    kinds = ("violations", "passes", "inapplicable")
    assert {result["id"] for kind in kinds for result in found.response[kind]} == NAMES
    assert [node["html"] for result in found.response["violations"] for node in result["nodes"]] == []


def found(page: Page) -> list[str]:
    """The titles of the pages that a search shows, in their order."""
    page.locator(".search-summary", has_text="“").wait_for()
    return page.locator("ul.search > li > a").all_inner_texts()


def test_a_search_shows_headings_and_the_sentence_with_the_words(visit):
    page = visit("search.html?q=lottery")
    assert found(page) == ["Quantization"]
    inside = page.locator(".search-headings a")
    assert inside.all_inner_texts() == ["Lottery tickets and k-means"]
    assert inside.get_attribute("href").endswith("chapters/quantization.html#lottery-tickets-and-k-means")
    context = page.locator("ul.search p.context").first
    assert context.inner_text() == "A ticket that wins the lottery means a good start."
    assert context.locator("mark").inner_text() == "lottery"


def test_a_compound_finds_what_is_about_it_first(visit):
    titles = found(visit("search.html?q=k-means"))
    assert titles[0] == "Quantization"  # it has the heading; others have the word, and most have "means"
    assert "Pruning" not in titles
    assert found(visit("search.html?q=zebra-stripes")) == []


def test_no_page_is_marked_after_a_search(visit):
    page = visit("search.html?q=lottery")
    found(page)
    page.locator("ul.search > li > a").first.click()
    page.wait_for_url("**/quantization.html")
    assert page.locator(".highlighted, .highlight-link").count() == 0
