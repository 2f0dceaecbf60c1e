"""Make pages load nothing from the network, and only what they use: scripts and styles in a fixed order, slim figures.

No page runs thebe, for example, and only some have formulas. MathJax is copied from its package.
"""

import re
import shutil
from importlib import resources
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config

MATHJAX = ("tex-chtml.js", "output/chtml/fonts/woff-v2")  # 1.5 of the package's 24 MB
UNUSED = {  # a word in the address or text of a script or style -> the HTML that needs it; None: nothing does
    "thebe": None,
    "mathjax": 'class="math ',
    "search.js": 'page="search"',
    "search.css": 'page="search"',
    "first_page.css": 'class="headline',
    "errata.css": 'class="errat',
    "zoo.css": 'class="zoo"',
    "enlarge.": "<img ",
    "ledger.": 'class="ledger-filter',
    "roadmap.css": 'class="roadmap',
    "quiz": 'class="quiz',
    "playground": 'class="playground',
    "sphinx-design": 'class="sd-',
    "sd-tabs": 'class="sd-',
    "design-tabs": 'class="sd-',
}

UNDRAWN = re.compile(r"<metadata>.*?</metadata>|(?<=>)\s+(?=<)", re.DOTALL)  # of an SVG figure


def copy_mathjax(app: Sphinx, failure: Exception | None) -> None:
    """Copy MathJax's script and fonts into the pages, after a build that did not fail."""
    if failure is None and app.builder.format == "html":
        source = Path(str(resources.files("sphinx-mathjax-offline"))) / "static" / "mathjax"
        target = Path(app.outdir) / "_static" / "mathjax"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / MATHJAX[0], target)
        shutil.copytree(source / MATHJAX[1], target / MATHJAX[1], dirs_exist_ok=True)


def slim_figures(app: Sphinx, failure: Exception | None) -> None:
    """Take out of each SVG figure what no browser draws: its metadata, and blanks between elements.

    That is a tenth of the file. Figures with text elements stay as they are: blanks could be part of the text.
    """
    if failure is None and app.builder.format == "html":
        for path in sorted((Path(app.outdir) / "_images").glob("*.svg")):
            given = path.read_text("utf-8")
            slim = given if "<text" in given else UNDRAWN.sub("", given)
            if slim != given:
                path.write_text(slim, "utf-8")


def sort_files(app: Sphinx, config: Config) -> None:
    """Sort styles and scripts by name: jupyter-book lists them in the order of the disk.

    Of two style rules of equal weight the later one wins, so the order matters.
    """
    config.html_css_files = sorted(config.html_css_files, key=str)
    config.html_js_files = sorted(config.html_js_files, key=str)


def drop_unused(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Remove the scripts and styles that a page does not use: those of UNUSED whose HTML it does not contain."""
    body = f'page="{page}" {context.get("body", "")}'
    unused = [word for word, mark in UNUSED.items() if mark is None or mark not in body]

    def is_unused(file: Any) -> bool:
        text = f"{getattr(file, 'filename', '') or ''} {getattr(file, 'attributes', {}).get('body', '')}".lower()
        return any(word in text for word in unused)

    for files in ("script_files", "css_files"):
        context[files][:] = [file for file in context[files] if not is_unused(file)]  # in place: others use this list


def setup(app: Sphinx) -> dict[str, bool]:
    """Add this extension; Sphinx calls it. Returns whether pages may be built in parallel."""
    app.config.mathjax_path = "mathjax/tex-chtml.js"
    app.connect("config-inited", sort_files)
    app.connect("build-finished", copy_mathjax)
    app.connect("build-finished", slim_figures)
    app.connect("html-page-context", drop_unused, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
