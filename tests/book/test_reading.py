"""The gates on how a page reads find long and crowded sentences and hard openings, and leave out what is not ours."""

from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from lib.book import reading

LONG = "We " + "really " * 29 + "wait."  # 31 words
PLAIN = "<p>A small net can do the job of a large one. It is half as big.</p>"


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A book of one chapter and its page."""
    for folder in ("chapters", "_build/html/chapters"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "chapters" / "one.py").write_text("# %% [markdown]\n# # One\n")
    page(tmp_path, PLAIN)
    return tmp_path


def page(book: Path, body: str) -> None:
    text = f"<article><section><h1>One</h1>{body}<h2>Next</h2></section></article>"
    (book / "_build" / "html" / "chapters" / "one.html").write_text(text)


def test_plain_sentences_pass(book):
    for gate in reading.GATES.values():
        count, wrong = gate(book)
        assert count and not wrong


def test_a_sentence_of_31_words_is_found(book):
    page(book, f"<p>{LONG}</p><p>{LONG.replace('really ', '', 1)}</p>")
    count, (wrong,) = reading.long_sentences(book)
    assert count == 2 and wrong.startswith(
        "chapters/one.html: 31 words in one sentence, at most 30 are allowed: We really"
    )


@pytest.mark.parametrize(
    "sentence",
    ["It took 1, 2, 3 and 4 runs.", "<em>It</em> took 1.5 ± 0.1, 2, −3 and 4,000 s.", "It is (0–1) in [5, 10]."],
)
def test_a_sentence_with_four_numbers_is_found(book, sentence):
    page(book, f"<ul><li>{sentence}</li></ul>")
    assert "4 numbers in one sentence" in reading.crowded_sentences(book)[1][0]


@pytest.mark.parametrize(
    "sentence",
    [
        "It took 1.5 ± 0.1, 2 ± 1 and 3,000 s.",  # an interval is no second number
        "See Fig. 3, Table 4 and sections 2.3 and 2.4: 1 of 2 <code>int8</code>.",
        "LeNet-300-100 has 3 layers, 784 inputs and 10 outputs.",
        "“1 2 3 4 5 6”, they say.",
        'It holds (<span class="verdict"><a>C2.3-01 ✓ supported</a></span>) for 1, 2 and 3 nets.',
        'It fails: <span class="verdict"><a>C2.3-01 · not measured</a></span> for 1, 2 and 3 nets.',
        'It has 1, 2 or 3 <span class="bibtex-citation">[<a>Han <em>et al.</em>, 2016</a>]</span>.',
    ],
)
def test_places_quotations_verdicts_and_citations_are_no_numbers(book, sentence):
    page(book, f"<p>{sentence}</p>")
    assert reading.crowded_sentences(book)[1] == []


@pytest.mark.parametrize(
    "body",
    [
        '<div class="claim"><p>{}</p></div>',
        '<div class="cell_output"><figure><figcaption><p>{}</p></figcaption></figure></div>',
        '<p class="refusals">{}</p>',
        "<blockquote><p>{}</p></blockquote>",
        "<table><tr><td><p>{}</p></td></tr></table>",
    ],
)
def test_what_is_no_sentence_of_ours_is_left_out(book, body):
    page(book, PLAIN + body.format(LONG))
    assert reading.long_sentences(book) == (2, [])


def test_a_list_item_is_read_once_and_so_is_one_with_paragraphs(book):
    page(book, "<ul><li>One.</li><li><p>Two.</p><p>Three.</p></li></ul>")
    assert reading.long_sentences(book)[0] == 3


def test_sentences_end_where_a_reader_would_end_them():
    text = "<p>Zhu et al. prune it, e.g. vs. a mask. <code>fit</code> trains it. (It does.) numba helps?</p>"
    found = list(reading.sentences(BeautifulSoup(text, "html.parser")))
    assert found == ["Zhu et al. prune it, e.g. vs. a mask.", "X trains it.", "(It does.", "numba helps?"]


def test_an_opening_in_long_words_is_found(book):
    page(book, "<p>Parametrizable architectural optimization methodologies necessitate experimentation.</p>")
    count, (wrong,) = reading.hard_openings(book)
    assert count == 1 and wrong.startswith("one: its opening reads at grade ")


@pytest.mark.parametrize("body", ["", '<p>See <span class="problematic">:mean:`a`</span>.</p>'])
def test_what_fails_elsewhere_is_not_graded(book, body):
    page(book, body)
    assert reading.hard_openings(book) == (0, [])


def test_only_the_opening_is_graded(book):
    page(book, PLAIN + "<details></details><p>Parametrizable architectural optimization methodologies.</p>")
    assert reading.hard_openings(book) == (1, [])


def test_pages_that_are_lists_of_names_are_not_read(book):
    (book / "_build" / "html" / "references.html").write_text(f"<article><p>{LONG}</p></article>")
    assert reading.long_sentences(book) == (2, [])
