"""The small figures of bars: what their lines mean, and what is drawn."""

import pytest
from bs4 import BeautifulSoup
from docutils import nodes

from lib.book.sphinx import bars

RECORDS = {
    "a.b.time_ratio": {"values": [1.0, 3.0], "unit": "x", "digits": 1},
    "a.b.correlation": {"values": [-0.169], "unit": "", "digits": 2},
}


def drawn(*lines: str) -> BeautifulSoup:
    return BeautifulSoup(bars.picture("time", bars.read(lines, RECORDS)), "html.parser")


def test_a_bar_is_as_long_as_its_share_of_the_longest():
    first, second = drawn("on paper = 8 x {cite:p}`han2016deep`", "here = a.b.time_ratio")("rect")
    assert float(second["width"]) == pytest.approx(float(first["width"]) / 4)
    assert (first["class"], second["class"]) == (["said"], ["measured"])


def test_the_picture_says_in_words_what_it_shows():
    picture = drawn("on paper = 8.5 x {cite:p}`han2016deep`", "here & now = a.b.time_ratio")
    assert picture.svg["role"] == "img"
    assert picture.svg["aria-label"] == "time: on paper 8.5×; here & now 2.0×"
    assert [text.text for text in picture("text")] == ["on paper", "8.5×", "here & now", "2.0×"]


def test_a_value_below_zero_keeps_its_sign_and_has_no_bar():
    picture = drawn("all = 1 {cite:p}`han2016deep`", "this = a.b.correlation")
    assert picture("text")[-1].text == "−0.17"
    assert float(picture("rect")[1]["width"]) == 0


def test_values_that_are_all_zero_are_drawn():
    assert [float(bar["width"]) for bar in drawn("none = 0 % {cite:p}`han2016deep`")("rect")] == [2]


def test_without_one_of_its_records_there_is_no_figure():
    assert bars.read(["on paper = 58 x {cite:p}`han2016deep`", "here = a.b.unknown_ratio"], RECORDS) is None
    (shown,) = [bars.figure("time", ["here = a.b.unknown_ratio"], RECORDS)]
    assert isinstance(shown, nodes.paragraph) and shown.astext() == bars.MISSING


@pytest.mark.parametrize("line", ["here", "here =", "= 3 x", "here = three", "here = a.b"])
def test_a_line_of_another_form_is_refused(line):
    with pytest.raises(ValueError, match="a bar must be `name = key` or `name = number unit`, not"):
        bars.read([line], RECORDS)


@pytest.mark.parametrize("line", ["on paper = 58 x", "the survey = 30 %", "all = 1"])
def test_a_number_without_a_source_is_refused(line):
    with pytest.raises(ValueError, match="a bar with a number must cite its source, not"):
        bars.read([line], RECORDS)


def test_what_others_are_compared_with_needs_no_source():
    assert bars.read(["floats = 1 x"], RECORDS)[0].text == "1×"
