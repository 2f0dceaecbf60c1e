"""Questions and sliders in a real browser: by mouse, by keyboard, without scripts, on a phone and in print."""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from given_browser import MARKS, serving
from playwright.sync_api import Page
from quiz_book import questions, quiz_book

from lib.book import pages

pytestmark = MARKS
OURS = {"include": [[".quiz"], [".playground"], [".playground-table"]]}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    root = tmp_path_factory.mktemp("quiz") / "book"
    root.mkdir()
    assert quiz_book(root, questions()) == ""
    with serving(Path(pages.site(root))) as address:
        yield address


@pytest.fixture
def visit(visit: Callable[..., Page]) -> Callable[..., Page]:
    """Open the page of questions; the arguments are those of a context."""
    return functools.partial(visit, "index.html")


def test_answers_are_judged_and_counted(visit):
    page = visit()
    groups = page.locator(".quiz:not(.predict) fieldset")
    for number, chosen in enumerate((0, 0, 2)):  # the right ones are 0, 1 and 2
        group = groups.nth(number)
        group.locator("label").nth(chosen).click()
        assert group.get_by_role("status").text_content() == ""  # there before it says something
        group.locator("summary").click()
        said = group.locator(".quiz-said").filter(has_text="Right." if chosen == number else "Not this time.")
        said.wait_for()
        assert group.locator("input").first.is_disabled()
    page.locator(".quiz > .quiz-said", has_text="You have 2 of 3 right.").wait_for()
    groups.nth(1).locator("summary").click()
    page.wait_for_function("() => !document.querySelectorAll('.quiz fieldset')[1].querySelector('input').disabled")
    assert page.locator(".quiz > .quiz-said").first.text_content() == ""


def test_an_answer_that_is_only_looked_at_is_not_judged(visit):
    group = visit().locator(".predict fieldset")
    group.locator("summary").click()
    assert group.locator("details").evaluate("fold => new Promise(d => setTimeout(() => d(fold.open), 100))")
    assert group.locator(".quiz-said").text_content() == "" and group.locator("input").first.is_enabled()


def test_the_keyboard_answers_with_a_visible_focus(visit):
    page = visit()
    page.locator(".predict input").first.focus()
    page.keyboard.press("ArrowDown")
    assert page.locator(".predict input:checked").get_attribute("value") == "2"
    page.keyboard.press("Tab")
    ring = page.evaluate(
        "() => [document.activeElement.tagName, getComputedStyle(document.activeElement).outlineStyle]"
    )
    assert ring == ["SUMMARY", "solid"]
    page.keyboard.press("Enter")
    page.locator(".predict .quiz-said", has_text="Right.").wait_for()


def test_all_works_without_a_script(visit):
    page = visit(java_script_enabled=False)
    group = page.locator(".quiz fieldset").first
    group.locator("label").nth(1).click()
    group.locator("summary").click()
    assert group.get_by_text("It lost").is_visible()
    signs = [
        group.locator("label").nth(place).evaluate("label => getComputedStyle(label, '::after').content")
        for place in range(3)
    ]
    assert "right" in signs[0] and "chosen" in signs[1] and signs[2] == "none"
    assert not page.locator(".playground").is_visible() and page.get_by_text("All settings as a table").is_visible()


def test_the_sliders_say_what_was_recorded(visit):
    page = visit()
    said = page.locator(".playground-said")
    assert "100 % of the weights and 32 bits for each" in said.text_content()
    kept, bits = page.locator("#playground-kept"), page.locator("#playground-bits")
    kept.focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    bits.focus()
    page.keyboard.press("Home")
    text = said.text_content().replace("\N{NO-BREAK SPACE}", " ")
    assert text.startswith(
        "With 20 % of the weights and 2 bits for each, the file has 4 kB, 80 times smaller than the float file"
    )
    assert "misclassifies 9.0 %" in text  # 100 / 20 + 8 / 2
    assert kept.get_attribute("aria-valuetext") == "20\N{NO-BREAK SPACE}%"
    heights = page.locator(".playground rect").evaluate_all("bars => bars.map(bar => bar.height.baseVal.value)")
    assert len(heights) == 41 and heights[20] == 120 and sum(heights) == 120


@pytest.mark.parametrize("options", [{"color_scheme": "dark"}, {}, {"viewport": {"width": 390, "height": 844}}])
def test_axe_finds_nothing_and_nothing_is_too_wide(visit, options):
    page = visit(**options)
    for summary in page.locator("summary").all():
        summary.click()
    page.locator(".quiz label").first.click()
    found = Axe().run(page, context=OURS, options={"preload": False}).response["violations"]
    assert [(fault["id"], fault["nodes"][0]["html"]) for fault in found] == []
    assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth")


def test_print_shows_the_answers_and_the_table_and_no_sliders(visit):
    page = visit()
    page.evaluate("() => window.dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.get_by_text("It lost").first.is_visible() and page.locator(".playground-table").is_visible()
    assert not page.locator(".playground").is_visible()
