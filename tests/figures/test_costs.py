"""A value against costs: a reader chooses the cost and the groups, without a script; names cover nothing."""

import math
import re
from xml.etree import ElementTree

import pytest
from given_browser import in_browser

from lib import figures
from lib.figures import costs
from lib.figures.costs import Cost, Point

COSTS = (
    Cost("weights", "weights (millions)", "Small is as good as Large"),
    Cost("time", "time (ms)", "Small & fast is as good <here>"),
)
LOOKS = {"old": figures.look("pruned"), "new": figures.look("dense")}
POINTS = (
    Point("Small", "old", 70, (1, 500)),
    Point("Large", "old", 71, (100, 1000)),
    Point("Large", "new", 79, (100, 1000)),
    Point("Untimed", "new", 75, (10, math.nan)),
    Point("Fast", "new", 72, (10, 10)),
)
WORDS = {
    "ylabel": "accuracy (%)",
    "alt": "Small is nearly as <good> as Large",
    "name": "fig-costs",
    "caption": "Accuracy against two costs",
}


def made(shown, points=POINTS, **words) -> str:
    (output,) = shown(lambda: costs.choosable(points, **{"costs": COSTS, "looks": LOOKS} | WORDS | words))
    assert output.data["text/plain"] == WORDS["alt"]
    return output.data["text/html"]


def drawn(page: str) -> ElementTree.Element:
    return ElementTree.fromstring(re.search(r"<svg.*?</svg>", page, re.S)[0].replace("xmlns=", "data-xmlns="))


def test_the_picture_shows_the_first_cost_and_all_groups(shown):
    page = made(shown)
    svg = drawn(page)
    places = {
        mark.findtext("title"): mark.get("transform") for mark in svg.iter("g") if mark.findtext("title") is not None
    }
    left, right = costs._Axis([1, 10, 100]).across(1), costs._Axis([1, 10, 100]).across(100)
    assert places == {  # from 70 to 80 % upwards; 1 and 100 are as far from the ends, and 10 in the middle
        "Small, old: 70.0": f"translate({left} 366.0)",
        "Large, old: 71.0": f"translate({right} 333.8)",
        "Large, new: 79.0": f"translate({right} 76.2)",
        "Untimed, new: 75.0": "translate(322.0 205.0)",
        "Fast, new: 72.0": "translate(322.0 301.6)",
    }
    assert left + right == costs.LEFT + costs.RIGHT
    hidden = [group.get("class") for group in svg.iter("g") if group.get("display") == "none"]
    assert hidden == ["by c1"]  # the scale of the second cost
    assert svg.get("aria-label") == WORDS["alt"] and "Small &amp; fast is as good &lt;here&gt;" in page


def test_the_same_points_are_the_same_bytes_without_script_or_address(shown):
    page = made(shown)
    assert page == made(shown) and "<script" not in page
    assert re.findall(r"https?://[^\s\"']+", page) == ["http://www.w3.org/2000/svg"]


def test_names_cover_no_point_and_no_name(shown):
    crowd = [Point(f"network {i}", "old", 70 + i % 7, (1 + i % 5, 2 + i % 11)) for i in range(60)]
    svg = drawn(made(shown, crowd))
    places = [
        re.findall(r"--x0:([\d.]+)px;.*--y:([\d.]+)px", mark.get("style"))
        for mark in svg.iter("g")
        if mark.get("style")
    ]
    boxes = [(float(x) - 6, float(y) - 6, float(x) + 6, float(y) + 6) for ((x, y),) in places]
    (scale,) = [group for group in svg.iter("g") if group.get("class") == "by c0"]
    names = [text for text in scale.iter("text") if text.get("class")]
    assert 5 < len(names) < 60
    for text in names:
        half, y = costs.WIDE * costs.SMALL * len(text.text) / 2, float(text.get("y"))
        box = (float(text.get("x")) - half, y - 11, float(text.get("x")) + half, y + 3)
        assert box[0] >= costs.LEFT and box[2] <= costs.RIGHT
        assert not any(costs._overlap(box, other) for other in boxes), text.text
        boxes.append(box)


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([1, 100], "1 2 5 10 20 50 100"),
        ([0.02, 3000], "0.01 0.1 1 10 100 1,000"),
        ([2, 60], "2 5 10 20 50"),
        ([2e6, 1e7], "2,000,000 5,000,000 10,000,000"),
    ],
)
def test_an_axis_has_round_ticks_that_fit(values, ticks):
    said = re.findall(r">([\d.,]+)</text>", costs._Axis(values).ticks())
    assert " ".join(said) == ticks


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"points": POINTS[:1]}, "figure 'fig-costs' has 2 costs and 1 points; two or more are needed"),
        ({"costs": COSTS[:1]}, "has 1 costs and 5 points"),
        (
            {"points": (*POINTS, Point("x", "older", 70, (1, 1)))},
            "the group of 'x' must be one of old, new, not 'older'",
        ),
        ({"points": (*POINTS, Point("x", "old", 70, (1,)))}, "'x' has the value 70 and the costs .*2 costs above 0"),
        ({"points": (*POINTS, Point("x", "old", 70, (0, 1)))}, "'x' has the value 70 and the costs"),
        ({"points": (*POINTS, Point("x", "old", math.nan, (1, 1)))}, "'x' has the value nan"),
        (
            {"points": (*POINTS, Point("Small", "new", 70, (1, 600)))},
            r"'Small' has the costs \(1, 500\) and \(1, 600\); one name has the same costs",
        ),
        ({"points": (POINTS[0], POINTS[3])}, "two or more points must have the cost 'time'"),
        ({"looks": LOOKS | {"old": LOOKS["old"] | {"marker": "*"}}}, r"the marker of 'old' must be one of o, s, \^, D"),
        ({"alt": "points"}, "alt of figure 'fig-costs' is 'points': a sentence"),
        ({"caption": ""}, "caption of figure 'fig-costs' is ''"),
        (
            {"costs": (COSTS[0], Cost("time", "time", "fast"))},
            "finding of the cost 'time' of figure 'fig-costs' is 'fast'",
        ),
    ],
)
def test_what_cannot_be_shown_is_refused(changed, says):
    with pytest.raises(ValueError, match=says):
        costs.choosable(**{"points": POINTS, "costs": COSTS, "looks": LOOKS} | WORDS | changed)


@in_browser
def test_a_reader_chooses_cost_and_groups_without_a_script(browser, shown):
    page_text = made(shown)
    page = browser.new_page(java_script_enabled=False, reduced_motion="reduce")
    page.set_content(page_text)

    def seen(selector):
        return [one.text_content() for one in page.locator(selector).all() if one.is_visible()]

    assert seen(".found p") == ["Small is as good as Large"]
    assert seen(".by > text[y='410']") == ["weights (millions)"]
    assert len(seen("g.point:has(title)")) == 5
    before = page.locator("g.point", has_text="Small, old").bounding_box()
    assert len(seen("g.point:has(title)")) == 5
    page.get_by_label("weights").focus()
    page.keyboard.press("ArrowRight")  # radio buttons are for the keyboard, too
    assert seen(".found p") == ["Small & fast is as good <here>"]
    assert seen(".by > text[y='410']") == ["time (ms)"]
    after = page.locator("g.point", has_text="Small, old").bounding_box()
    assert after["y"] == before["y"] and after["x"] > before["x"] + 100
    assert len(seen("g.point:has(title)")) == 4  # one is not timed
    page.get_by_label("new").uncheck()
    assert len(seen("g.point:has(title)")) == 2
    assert not page.locator("g.point:not(:has(title))").first.is_visible()  # no line to a point that is gone
    page.close()
