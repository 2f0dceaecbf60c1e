"""Keep numbers with their units: no line breaks between a measured value and its spread or unit."""

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms.post_transforms import SphinxPostTransform

from lib.evidence import unbroken


class Units(SphinxPostTransform):
    """Puts no-break spaces into the values that the roles ``glue:text`` and ``mean`` insert."""

    default_priority = 900  # after glued values are inserted

    def run(self, **kwargs: object) -> None:
        """Change the document in place; Sphinx calls it."""
        for inline in self.document.findall(nodes.inline):
            if "pasted-text" in inline["classes"]:
                for text in list(inline.findall(nodes.Text)):
                    text.parent.replace(text, nodes.Text(unbroken(text)))


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the transform; Sphinx calls it. Returns whether pages may be built in parallel."""
    app.add_post_transform(Units)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
