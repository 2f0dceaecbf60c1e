"""Graphs that move: the last frame is the picture, the script shows any other, and nothing moves by itself."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from given_browser import in_browser

from lib import figures
from lib.figures import animation

SAMPLES = np.array([[0.0, 0.0], [2.0, 1.0]])
START = (np.array([[1.0, 0.5]] * 3), np.zeros((0, 2), dtype=int))
MIDDLE = (np.array([[0.5, 0.5], [1.0, 0.5], [1.5, 0.5]]), np.array([[0, 1]]))
END = (np.array([[0.0, 0.0], [1.0, 0.5], [2.0, 1.0]]), np.array([[0, 1], [1, 2]]))
GROWN = (np.array([[0.0, 0.0], [1.0, 0.5], [2.0, 1.0], [2.0, 0.0]]), np.array([[0, 1], [1, 2], [2, 3]]))
WORDS = {
    "steps": (1, 10, 1000),
    "unit": "samples",
    "alt": "Three units spread over the line <of> data",
    "name": "fig-moving",
    "caption": "Units on a line of data",
}


def made(shown, *frames, **words) -> str:
    panels = {"a gas": (figures.look("neural-gas"), SAMPLES, frames or (START, MIDDLE, END))}
    (output,) = shown(lambda: animation.graphs(panels, **WORDS | words))
    assert output.data["text/plain"] == WORDS["alt"]
    return output.data["text/html"]


def test_the_picture_is_the_last_frame(shown):
    page = made(shown)
    svg = ElementTree.fromstring(re.search(r"<svg.*?</svg>", page, re.S)[0])
    samples, edges, units = (path.get("d") for path in svg.iter() if path.tag.endswith("path"))
    assert samples == "M14 334h0M586 48h0"  # the corners, up is up
    assert units == "M14 334h0M300 191h0M586 48h0"
    assert edges == "M14 334L300 191M300 191L586 48"
    assert svg.get("aria-label") == WORDS["alt"] and 'id="fig-moving"' in page
    assert re.search('class="controls" hidden', page)  # without a script there is nothing to press


def test_the_same_graphs_are_the_same_bytes_without_an_address(shown):
    page = made(shown)
    assert page == made(shown)
    assert re.findall(r"https?://[^\s\"']+", page) == ["http://www.w3.org/2000/svg"]


@pytest.mark.parametrize(
    ("frames", "words", "says"),
    [
        ((START, END), {}, "the panel 'a gas' has 2 frames; there are 3 steps"),
        ((START, MIDDLE, END), {"steps": (1, 1, 2)}, r"steps of figure 'fig-moving' are \[1, 1, 2\]"),
        ((START,), {"steps": (1,)}, "they must be two or more, ascending"),
        ((START, MIDDLE, END), {"alt": "a gas"}, "alt of figure 'fig-moving' is 'a gas'"),
        ((START, MIDDLE, END), {"caption": ""}, "caption of figure 'fig-moving' is ''"),
    ],
)
def test_what_cannot_be_shown_is_refused(frames, words, says):
    panels = {"a gas": (figures.look("neural-gas"), SAMPLES, frames)}
    with pytest.raises(ValueError, match=says):
        animation.graphs(panels, **WORDS | words)


def test_a_panel_without_samples_is_refused():
    panels = {"a gas": (figures.look("neural-gas"), SAMPLES[:0], (START, MIDDLE, END))}
    with pytest.raises(ValueError, match="the panel 'a gas' has no samples"):
        animation.graphs(panels, **WORDS)


def test_a_figure_without_panels_is_refused():
    with pytest.raises(ValueError, match="figure 'fig-moving' has no panels; one or more are needed"):
        animation.graphs({}, **WORDS)


def test_the_last_frame_may_have_no_edges(shown):
    assert 'stroke-width="2.5" d=""' in made(shown, START, MIDDLE, (END[0], np.array([])))


@in_browser
def test_a_reader_plays_it_and_goes_to_any_frame(browser, shown):
    page_text = made(shown, START, MIDDLE, GROWN)
    units = "() => document.querySelector('.units').getAttribute('d')"
    page = browser.new_page()
    wrong = []
    page.on("pageerror", lambda error: wrong.append(error.message))
    page.set_content(page_text)
    assert page.evaluate(units).count("h0") == 4  # nothing moves by itself
    slide = "v => { const s = document.querySelector('input'); s.value = v; s.dispatchEvent(new Event('input')); }"
    page.evaluate(slide, 0.5)
    assert page.evaluate(units) == "M228.5 191.0h0M300.0 191.0h0M371.5 191.0h0"  # halfway
    assert page.locator(".said").text_content() == "after 10"
    page.evaluate(slide, 1.2)
    assert page.evaluate(units).count("h0") == 3 and page.locator(".edges").get_attribute("d").count("L") == 1
    page.evaluate("() => { document.querySelector('figure').dataset.seconds = 0.2; }")
    page.get_by_role("button", name="Play").click()
    page.wait_for_function("() => document.querySelector('.said').textContent === 'after 1,000'")
    page.get_by_role("button", name="Play").wait_for()  # it stops at the end
    assert page.evaluate(units).count("h0") == 4 and wrong == []
    page.close()
