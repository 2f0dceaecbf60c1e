"""The words of the search."""

import pytest

from lib.book.sphinx.search import Words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("plain words", ["plain", "words"]),
        ("Exact k-means, 8-bit", ["Exact", "k", "means", "8", "bit", "kmeans", "8bit"]),
        ("LeNet-300-100", ["LeNet", "300", "100", "LeNet300100"]),
        ("a - b -c d-", ["a", "b", "c", "d"]),
    ],
)
def test_a_compound_is_a_word_beside_its_parts(text, words):
    assert Words({}).split(text) == words
