"""What is glued into a sentence does not break before its spread or its unit."""

import pytest
from docutils import nodes
from docutils.utils import new_document

from lib.book.sphinx import units


def shown(text: str, *classes: str) -> str:
    document = new_document("page")
    inline = nodes.inline("", text, classes=list(classes))
    document += nodes.paragraph("", "", inline)
    units.Units(document).run()
    return inline.astext()


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("2.15 ± 0.85 %", "2.15~±~0.85~%"),
        ("12 points behind", "12~points behind"),
        ("1,640 bytes", "1,640~bytes"),
        ("10.3 (0.0 to 26.4) %", "10.3 (0.0 to 26.4)~%"),
        ("1 step of 3 bits", "1 step of 3~bits"),
        ("no number here", "no number here"),
    ],
)
def test_a_pasted_number_keeps_its_unit(text, kept):
    assert shown(text, "pasted-text") == kept.replace("~", "\N{NO-BREAK SPACE}")


def test_other_words_break_as_they_did():
    assert shown("2 %") == "2 %"
