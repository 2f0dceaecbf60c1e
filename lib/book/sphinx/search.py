"""How the search splits text into words: "k-means" counts as one word, besides its two parts.

Sphinx alone splits it into "k" and "means", and finds "mean" on nearly every page. ``search.js`` in
``_static`` shows what is found.
"""

import re

from sphinx.application import Sphinx
from sphinx.search.en import SearchEnglish

COMPOUND = re.compile(r"\w+(?:[-\N{NON-BREAKING HYPHEN}]\w+)+")


class Words(SearchEnglish):
    """English with compounds, joined as "kmeans", in the index and in queries."""

    # A query for "k-means" looks for the compound alone.
    js_splitter_code = r"""
function splitQuery(query) {
  return query
    .replace(/(?<=[\p{L}\p{N}])[-\u2011](?=[\p{L}\p{N}])/gu, "")
    .split(/[^\p{L}\p{N}_]+/gu)
    .filter((word) => word);
}
"""

    def split(self, input: str) -> list[str]:
        """Return the words of a text, and each compound without its hyphens.

        input: any text of a page.
        """
        return super().split(input) + [re.sub(r"\W", "", word) for word in COMPOUND.findall(input)]


def setup(app: Sphinx) -> dict[str, bool]:
    """Replace Sphinx's English; Sphinx calls it. Returns whether pages may be built in parallel."""
    app.add_search_language(Words)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
