"""Tables: their head, rows and caption, which columns are aligned to the right, and which go to the caption."""

import pytest
from bs4 import BeautifulSoup

from lib import evidence, figures

ROWS = [{"layer": "fc1", "kept": "8 %"}, {"layer": "fc2", "kept": "9 %"}]


@pytest.fixture
def html(shown):
    """The HTML of a table."""

    def of(rows, caption="A table"):
        (output,) = shown(lambda: figures.table(rows, caption=caption))
        return output.data["text/html"]

    return of


def columns(text):
    return [head.get_text() for head in BeautifulSoup(text, "html.parser").find_all("th")]


def right(text):
    """The numbers of the columns that the style aligns to the right, in the head and in the rows."""
    rules = BeautifulSoup(text, "html.parser").style.get_text().split("}")
    selectors = [rule.split("{")[0].split() for rule in rules if "text-align: right" in rule]
    found = {tag: [int(s[1].split("col")[1]) for s in selectors if s[1].startswith(f"{tag}.")] for tag in ("th", "td")}
    assert found["th"] == found["td"]
    return found["td"]


def test_a_table_has_a_caption_a_head_and_rows_without_index(html):
    text = html(ROWS, "Kept")
    assert "<caption>Kept</caption>" in text and columns(text) == ["layer", "kept"] and text.count("<td ") == 4


def test_the_same_table_is_the_same_bytes(html):
    assert html(ROWS) == html(ROWS)


def test_tables_of_one_page_differ_in_their_identity(html):
    one, two = (html([{"a": 1}], caption) for caption in ("one", "two"))
    assert one.replace("one", "two") != two


def recorded(values, unit="%"):
    return evidence.formatted(values, unit=unit, digits=1, bounds=(0, 100))


@pytest.mark.parametrize(
    "values",
    [
        (1, 2.5),
        ("1,234", "−5.0"),
        ("8 %", "41.3×"),
        ("8\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}1\N{NO-BREAK SPACE}%", "9 %"),
        ("1e-07", "nan"),
        ("–", "12"),
        (recorded([1.0, 2.0, 3.0]), recorded([0.1, 0.2, 0.9])),
        (recorded([2.5, 0.7], "x"), recorded([1000.0], "bytes")),
        (recorded([2.5, 2.6, 2.9], "points"), recorded([2.5, 2.7], "ms")),
    ],
)
def test_columns_of_numbers_are_aligned_to_the_right(html, values):
    assert right(html([{"layer": f"fc{i}", "value": value} for i, value in enumerate(values)])) == [1]


def test_a_number_is_written_as_it_is(html):
    text = html([{"step": 0.002, "n": 4}, {"step": 0.02, "n": 40}])
    assert ">0.002<" in text and ">0.02<" in text and ">40<" in text


@pytest.mark.parametrize("values", [(3, 2.5), (1000000, None), (2**60 + 1, 1.5), ([1], [2])])
def test_a_value_is_written_as_it_is_whatever_stands_below_it(html, values):
    text = html([{"layer": f"fc{i}", "n": value} for i, value in enumerate(values)])
    assert all(f">{value}<" in text for value in values)


@pytest.mark.parametrize(
    ("value", "written"),
    [("4,530 ± 12 points", "4,530_±_12_points"), ("8 %", "8_%"), ("3 s", "3_s"), ("3 sets", "3 sets")],
)
def test_a_number_keeps_its_spread_and_unit_on_its_line(html, value, written):
    assert f">{written.replace('_', chr(0xA0))}<" in html([{"layer": "fc1", "value": value}])


@pytest.mark.parametrize("values", [("12", "twelve"), ("12 of 13", "5"), ("fc1", "fc2"), ("3 x 3", "1"), (",", "1")])
def test_mixed_columns_stay_on_the_left(html, values):
    assert right(html([{"value": value, "n": i} for i, value in enumerate(values)])) == [1]


def test_constant_columns_move_to_the_caption(html):
    rows = [{"layer": "fc1", "bits": 4, "kept": 8, "seed": 0}, {"layer": "fc2", "bits": 4, "kept": 9, "seed": 0}]
    text = html(rows, "Kept")
    assert columns(text) == ["layer", "kept"]
    assert "<caption>Kept (bits: 4; seed: 0 in every row)</caption>" in text


@pytest.mark.parametrize(
    "rows",
    [
        [{"layer": "fc1", "bits": 4, "kept": 8}, {"layer": "fc2", "bits": 4, "kept": 8}],  # nothing would be left
        [{"layer": "fc1", "bits": 4, "kept": 8}],  # in one row all columns are constant
        [{"net": "LeNet", "bits": 4}, {"net": "LeNet", "bits": 5}],  # the first column says what a row is
    ],
)
def test_never_all_columns_move_nor_the_first(html, rows):
    text = html(rows)
    assert columns(text) == list(rows[0]) and "<caption>A table</caption>" in text
