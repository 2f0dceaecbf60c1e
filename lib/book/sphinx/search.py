"""The words of the search: "k-means" is one word, beside the two of which it is made.

Sphinx alone splits it into "k" and "means", finds "mean" on nearly every page, and so tells nothing. ``search.js`` in
``_static`` shows what is found.
"""

import re

from sphinx.application import Sphinx
from sphinx.search.en import SearchEnglish

COMPOUND = re.compile(r"\w+(?:[-\N{NON-BREAKING HYPHEN}]\w+)+")


class Words(SearchEnglish):
    """English with compounds: joined, "kmeans", in the index and in what a reader asks for."""

    # A reader's "k-means" is the compound alone.
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
    """Replace Sphinx's English; Sphinx calls it. Returns whether pages may be built at once."""
    app.add_search_language(Words)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
