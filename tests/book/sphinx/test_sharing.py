"""What others show of a page that is shared."""

import pytest
from docutils.core import publish_doctree

from lib.book.sphinx import sharing

LONG = "A first sentence of the page. " + "Another one that goes on and on and on. " * 20


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("One *sentence*\nin two lines.", "One sentence in two lines."),
        (LONG, "A first sentence of the page. " + " ".join(["Another one that goes on and on and on."] * 6)),
        ("word " * 100, "word " * 56 + "…"),
    ],
)
def test_a_description_is_the_first_sentences(text, says):
    page = publish_doctree(
        f"Title\n=====\n\n.. note:: A note.\n\n{text}\n\nMore.\n", settings_overrides={"doctitle_xform": False}
    )
    assert sharing.description(page) == says


def test_a_page_without_text_has_no_description():
    assert sharing.description(publish_doctree("")) == ""
