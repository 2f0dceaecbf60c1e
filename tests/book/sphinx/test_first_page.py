"""The first page of the book itself: its headline's numbers, and the code that it shows."""

import re
from pathlib import Path

import pytest

from lib import models
from lib.book import chapters, findings, ledger
from lib.book.sphinx import bars, first_page
from lib.book.sphinx.first_page import headline

PROJECT = Path(__file__).parents[3]
RECORDS = {
    "quantization.lenet300.dense_bytes": {"values": [1_066_440.0]},
    "quantization.lenet300.file_bytes": {"values": [18_000.0, 20_000.0]},
    "quantization.lenet300.trained_on_error_pct": {"values": [2.0, 2.2]},
    "quantization.lenet300.error_pct": {"values": [1.6, 1.7]},
}


def test_the_headline_has_means_and_the_share_that_is_left():
    words, share = headline(RECORDS)
    assert [word.replace("\N{NO-BREAK SPACE}", " ") for word in words] == ["1,066 kB", "19 kB", "2.1 %", "1.6 %"]
    assert share == pytest.approx(100 * 19_000 / 1_066_440)


@pytest.mark.parametrize("missing", RECORDS)
def test_without_one_of_its_records_there_is_no_headline(missing):
    assert headline({key: record for key, record in RECORDS.items() if key != missing}) is None


def test_the_calls_of_the_first_page_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = re.search(r"```python\n(.*?)```", (PROJECT / "index.md").read_text("utf-8"), re.DOTALL)[1]
    model = models.lenet_300_100(0)
    dense = 4 * sum(part.numel() for part in model.parameters())
    exec("\n".join(line.removeprefix("  ") for line in code.splitlines()), {"model": model})
    assert 0 < (tmp_path / "model.slim").stat().st_size < dense / 10


def test_a_card_has_what_came_out_and_its_bars():
    lines = [
        "C2.3-38: Weights can go",
        "",
        "weights removed",
        "the survey = 30 % {cite:p}`berthelier2020survey`",
        "here = a.b.c",
        "pruning: Time: less",
    ]
    first, second = first_page.cards(lines, {"C2.3-38", "pruning"})
    assert (first.title, first.quantity) == ("Weights can go", "weights removed")
    assert first.bars == ["the survey = 30 % {cite:p}`berthelier2020survey`", "here = a.b.c"]
    assert (second.about, second.title, second.bars) == ("pruning", "Time: less", [])


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["C9-99: Why?"], "a card must begin with `claim or chapter: what came out`"),
        (["pruning: Why?", "a = 1"], "not 'a = 1'"),
        (["pruning: Why?", "weights", "more weights"], "not 'more weights'"),
        (["pruning: Why?", "weights"], "the card pruning says what its bars show, 'weights', but has no bar"),
    ],
)
def test_a_card_of_another_form_is_refused(lines, says):
    with pytest.raises(ValueError, match=says):
        first_page.cards(lines, {"pruning"})


def on_the_first_page() -> list[first_page.Card]:
    text = (PROJECT / "index.md").read_text("utf-8")
    content = re.search(r"```\{findings\}\n(.*?)```", text, re.DOTALL)[1]
    known = {*(claim.id for claim in ledger.load_claims(PROJECT)), *chapters.names(PROJECT)}
    return first_page.cards(content.splitlines(), known)


@pytest.mark.parametrize("profile", ["quick", "standard"])
def test_five_cards_have_figures_and_hold_in_both_profiles(profile):
    records = ledger.load_results(profile, PROJECT)
    shown = on_the_first_page()
    assert len(shown) == 5
    for card in shown:
        assert len(bars.read(card.bars, records)) >= 2, card.about
        ((_, rule),) = findings.ROLE.findall(card.title)
        assert findings.holds(rule, records), card.about


def test_the_bars_of_the_first_page_have_records():
    text = (PROJECT / "index.md").read_text("utf-8")
    ((_, content),) = re.findall(r"```\{bars\} (.+)\n([^`]*(?:`[^`\n]+`[^`]*)*)```", text)
    for profile in ("quick", "standard"):
        assert bars.read(content.strip().splitlines(), ledger.load_results(profile, PROJECT)), profile
