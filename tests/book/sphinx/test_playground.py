"""The numbers beside the sliders: small, in order, and the same as in the table."""

import json
import math

from bs4 import BeautifulSoup
from quiz_book import sliders

from lib.book.sphinx import playground


def test_the_numbers_are_ordered_from_few_weights_and_few_bits():
    data = playground.compact(sliders())
    assert data["densities"] == [3, 6, 10, 20, 30, 50, 100] and data["bits"] == [2, 3, 4, 5, 6, 8, 32]
    at = data["densities"].index(20) * len(data["bits"]) + data["bits"].index(5)
    assert data["bytes"][at] == 100 * 20 * 5 and math.isclose(data["error"][at], 100 / 20 + 8 / 5)
    assert data["bars"][at] == "0" * 20 + "_" + "0" * 20 and data["heights"].index("_") == 63
    assert len(json.dumps(data, separators=(",", ":"))) < 5000  # a few kB


def test_the_table_holds_each_setting_once():
    rows = BeautifulSoup(playground.table(sliders()), "html.parser")("tr")
    assert [cell.get_text() for cell in rows[0]("th")][:2] == ["kept", "2\N{NO-BREAK SPACE}bits"]
    assert len(rows) == 8 and all(len(row("td")) == 7 for row in rows[1:])
    assert rows[4]("td")[3].get_text(" ") == "6.6\N{NO-BREAK SPACE}% 10\N{NO-BREAK SPACE}kB"
