"""Previews of what links lead to, and figures that fill the window, in a real browser."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe
from given_browser import MARKS, SCREENS, serving
from playwright.sync_api import Page
from survey_book import build, tiny_book

from lib.book import pages

pytestmark = MARKS
GLOSSARY = """# Glossary

```{glossary}
mask
  Ones and zeros.

  See {doc}`chapters/pruning`.

density
  The share of weights that is kept.
```
"""
THINGS = """# Things

A {term}`mask` is a thing, {term}`density` another, and {cite:t}`han2015learning` write of both.
The stages are in {numref}`fig-stages`, the rule in {eq}`eq-rule`, and more in {ref}`the next part <sec-more>`.
Nothing is said of [a page](claims.md).

```{figure} _static/stages.svg
:name: fig-stages
:alt: Four stages side by side

From weights to bits
```

```{math}
:label: eq-rule
x = 1
```

(sec-more)=
## More

There is more.
"""
AXE = {"preload": False}  # it would look for style sheets where they are not
MASK, BOX = "a[href$='#term-mask']", "#preview"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The small book with a glossary, and a page that links to places of all kinds."""
    root: Path = tiny_book(tmp_path_factory.mktemp("book"))
    for name, text in (("glossary", GLOSSARY), ("things", THINGS)):
        (root / f"{name}.md").write_text(text)
    toc = yaml.safe_load((root / "_toc.yml").read_text())
    toc["chapters"] += [{"file": "glossary"}, {"file": "things"}]
    (root / "_toc.yml").write_text(yaml.safe_dump(toc))
    done = build(root)
    assert done.returncode == 0, done.stdout + done.stderr
    with serving(pages.site(root)) as address:
        yield address


@pytest.fixture
def visit(visit: Callable[..., Page]) -> Callable[..., Page]:
    """Open the page of links; the arguments are those of a context."""
    return functools.partial(visit, "things.html")


def said(page: Page) -> list[str]:
    """The paragraphs of the preview that is shown."""
    page.locator(BOX).wait_for()
    return page.locator(f"{BOX} p").all_inner_texts()


def rest(page: Page, selector: str) -> list[str]:
    """Rest with the pointer on a link, and return what is shown."""
    page.locator(selector).first.hover()
    page.locator(f"{selector}[aria-describedby=preview]").first.wait_for()
    return said(page)


def test_the_pointer_shows_a_term_until_it_leaves(visit):
    page = visit()
    assert page.locator(BOX).is_hidden()
    assert rest(page, MASK) == ["mask", "Ones and zeros."]
    page.locator(BOX).hover()
    page.wait_for_timeout(500)
    assert page.locator(BOX).is_visible()  # a reader may point to the text itself
    page.locator("article h1").hover()
    page.locator(BOX).wait_for(state="hidden")
    assert page.locator(MASK).get_attribute("aria-describedby") is None


def test_each_kind_of_place_has_its_preview(visit):
    page = visit()
    (source,) = rest(page, "a[href^='references.html#']")
    assert "Learning both weights and connections" in source
    assert page.locator("a[href^='references.html#']").first.get_attribute("title") is None
    assert rest(page, "a[href='#fig-stages']") == ["Fig. 1", "From weights to bits"]
    assert page.locator(f"{BOX} img").get_attribute("alt") == "Four stages side by side"
    assert page.evaluate("() => document.querySelector('#preview img').naturalWidth") > 0
    assert rest(page, "a[href='#sec-more']") == ["More", "There is more."]
    rest(page, "a[href='#equation-eq-rule']")
    assert page.locator(f"{BOX} mjx-container").count() == 1


def test_a_link_to_a_whole_page_shows_nothing(visit):
    page = visit()
    page.locator("article a[href='claims.html']").hover()
    page.wait_for_timeout(600)
    assert page.locator(BOX).is_hidden()


def test_the_keyboard_shows_and_escape_closes(visit):
    page = visit()
    page.locator("a[href$='#term-density']").focus()
    page.keyboard.press("Shift+Tab")
    assert said(page) == ["mask", "Ones and zeros."]
    assert page.evaluate("() => document.activeElement.getAttribute('aria-describedby')") == "preview"
    page.keyboard.press("Escape")
    assert page.locator(BOX).is_hidden()
    page.keyboard.press("Tab")
    assert said(page)[0] == "density"
    page.keyboard.press("Enter")
    page.wait_for_url("**/glossary.html#term-density")


def test_a_tap_shows_a_second_goes_there_and_another_closes(visit):
    page = visit(**SCREENS["narrow"])
    page.locator(MASK).tap()
    assert said(page) == ["mask", "Ones and zeros.", "Tap the link again to go there."]
    box = page.locator(BOX).bounding_box()
    assert box["x"] >= 0
    assert box["x"] + box["width"] <= 390
    page.locator("article h1").tap()
    assert page.locator(BOX).is_hidden()
    page.locator(MASK).tap()
    page.keyboard.press("Escape")
    assert page.locator(BOX).is_hidden()
    page.locator(MASK).tap()
    page.locator(MASK).tap()
    page.wait_for_url("**/glossary.html#term-mask")


def test_a_preview_stays_in_the_window_above_a_low_link(visit):
    page = visit(viewport={"width": 700, "height": 250})
    page.evaluate("selector => document.querySelector(selector).scrollIntoView({block: 'end'})", MASK)
    rest(page, MASK)
    box, link = page.locator(BOX).bounding_box(), page.locator(MASK).bounding_box()
    assert 0 <= box["y"] <= box["y"] + box["height"] <= link["y"]


def test_a_preview_closes_when_its_link_has_scrolled_away(visit):
    page = visit(viewport={"width": 700, "height": 250})
    page.locator("a[href$='#term-density']").focus()
    page.keyboard.press("Shift+Tab")
    assert said(page)[0] == "mask"
    page.evaluate("() => window.scrollTo(0, document.body.scrollHeight)")
    page.locator(BOX).wait_for(state="hidden")
    assert page.locator("[aria-describedby=preview]").count() == 0


def test_a_browser_without_popovers_shows_no_previews(visit):
    page = visit()
    page.add_init_script("delete HTMLElement.prototype.popover; delete HTMLElement.prototype.showPopover")
    page.reload(wait_until="load")
    page.locator("a[href$='#term-density']").focus()
    page.keyboard.press("Shift+Tab")
    assert page.locator(BOX).count() == 0


@pytest.mark.parametrize(("wish", "name"), [("reduce", "none"), ("no-preference", "preview-appears")])
def test_nothing_moves_for_readers_who_want_that(visit, wish, name):
    page = visit(reduced_motion=wish)
    rest(page, MASK)
    assert page.evaluate("() => getComputedStyle(document.getElementById('preview')).animationName") == name


BUTTON = "button.enlarge"


def test_enter_enlarges_a_figure_and_escape_gives_the_focus_back(visit):
    page = visit()
    small = page.locator("#fig-stages img").bounding_box()
    page.locator(BUTTON).focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog", name="Enlarged figure")
    assert dialog.locator("img").bounding_box()["height"] > small["height"]
    assert dialog.locator(".enlarged-caption").inner_text() == "Fig. 1 From weights to bits"
    assert dialog.locator("img").get_attribute("alt") == "Four stages side by side"
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert page.evaluate("() => document.activeElement.getAttribute('aria-label')") == "Enlarge Fig. 1"


def test_a_click_enlarges_and_a_click_beside_closes(visit):
    page = visit()
    page.locator("#fig-stages img").click()
    dialog = page.get_by_role("dialog", name="Enlarged figure")
    assert dialog.is_visible()
    dialog.get_by_role("button", name="Close").click()
    dialog.wait_for(state="hidden")
    page.locator("#fig-stages img").click()
    page.mouse.click(4, 4)
    dialog.wait_for(state="hidden")


def test_on_a_phone_the_enlarged_figure_is_wider_than_the_screen(visit):
    page = visit(**SCREENS["narrow"])
    page.locator(BUTTON).tap()
    assert page.locator("dialog.enlarged img").bounding_box()["width"] > 390
    assert page.evaluate("() => document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_what_opens(visit, scheme):
    page = visit(color_scheme=scheme, reduced_motion="reduce")
    rest(page, MASK)
    found = Axe().run(page, options=AXE).response["violations"]
    page.keyboard.press("Escape")
    page.locator(BUTTON).press("Enter")
    found += Axe().run(page, options=AXE).response["violations"]
    assert [(wrong["id"], node["html"]) for wrong in found for node in wrong["nodes"]] == []


def test_paper_has_no_buttons(visit):
    page = visit()
    page.locator(BUTTON).press("Enter")
    dialog = page.locator("dialog.enlarged")
    assert dialog.is_visible()
    page.emulate_media(media="print")
    assert page.locator(BUTTON).is_hidden() and dialog.is_hidden()
