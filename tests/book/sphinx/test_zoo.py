"""The table of techniques on other people's networks, and the sentences of the refusals."""

from bs4 import BeautifulSoup
from docutils import nodes

from lib.book.sphinx import zoo

CELLS = {
    "a-net": {"state": "works", "says": "3 of 3 weights"},
    "b-net": {"state": "refused", "says": "layer 'x' is <odd>"},
    "c-net": {"state": "fault", "says": "IndexError"},
    "d-net": {"state": "refused", "says": "layer 'x' is <odd>"},
}
RECORD = {"signs": {"code": "0", "networks": CELLS}}


def test_each_trial_has_a_cell_that_says_how_it_ended():
    table = BeautifulSoup(zoo.table(RECORD, {"signs": "Signs & more"}), "html.parser")
    assert [cell.get_text() for cell in table.thead("th")] == ["technique", "a-net", "b-net", "c-net", "d-net"]
    row = table.tbody.tr
    assert row.th.a["href"] == "#signs" and row.th.get_text() == "Signs & more"
    assert [cell.find(class_="visually-hidden").get_text() for cell in row("td")] == [
        "works",
        "refused",
        "fault",
        "refused",
    ]
    assert [cell["title"] for cell in row("td")] == [cell["says"] for cell in CELLS.values()]


def test_a_network_that_was_not_tried_leaves_its_cell_empty():
    record = {**RECORD, "new": {"code": "0", "networks": {"a-net": CELLS["a-net"]}}}
    rows = BeautifulSoup(zoo.table(record, {}), "html.parser").tbody("tr")
    assert [cell.get_text() for cell in rows[1]("td")[1:]] == ["", "", ""]


def test_a_refusal_is_said_once_with_all_its_networks():
    assert [node.astext() for node in zoo.refusals(RECORD["signs"])] == [" b-net, d-net: layer 'x' is <odd>."]
    assert all(isinstance(node, nodes.Text) for node in zoo.refusals(RECORD["signs"]))
