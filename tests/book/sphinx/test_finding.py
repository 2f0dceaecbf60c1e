"""The role of a finding shows its words; without a rule it is an error of the page."""

import pytest
from docutils import core
from docutils.parsers.rst import roles

from lib.book.sphinx.finding import Finding


@pytest.fixture(autouse=True)
def _role():
    roles.register_local_role("finding", Finding())
    yield
    del roles._roles["finding"]


def page(text):
    return core.publish_doctree(text, settings_overrides={"report_level": 5})


def test_the_words_are_shown_and_the_rule_is_not():
    tree = page("It :finding:`is smaller | a.file_ratio > 2` now.")
    assert tree.astext() == "It is smaller now." and "finding" in tree.pformat()


@pytest.mark.parametrize("text", ["is smaller", "is smaller |", "| a.file_ratio > 2", "|"])
def test_words_without_a_rule_are_an_error(text):
    said = page(f"It :finding:`{text}` now.").pformat()
    assert "words, a bar and a rule are needed" in said and 'level="3"' in said
