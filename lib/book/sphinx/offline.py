"""Pages load nothing from the network: MathJax is copied from its package; thebe, which no page uses, is dropped."""

import shutil
from importlib import resources
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

MATHJAX = ("tex-chtml.js", "output/chtml/fonts/woff-v2")  # 1.5 of the package's 24 MB


def copy_mathjax(app: Sphinx, failure: Exception | None) -> None:
    """Copy MathJax's script and fonts into the pages, after a build that did not fail."""
    if failure is None and app.builder.format == "html":
        source = Path(str(resources.files("sphinx-mathjax-offline"))) / "static" / "mathjax"
        target = Path(app.outdir) / "_static" / "mathjax"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / MATHJAX[0], target)
        shutil.copytree(source / MATHJAX[1], target / MATHJAX[1], dirs_exist_ok=True)


def drop_thebe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Take thebe's scripts and styles off a page."""

    def of_thebe(file: Any) -> bool:
        inline = str(getattr(file, "attributes", {}).get("body", ""))
        return "thebe" in str(getattr(file, "filename", "") or "") or "THEBE" in inline

    for files in ("script_files", "css_files"):
        context[files][:] = [file for file in context[files] if not of_thebe(file)]  # in place: others hold this list


def setup(app: Sphinx) -> dict[str, bool]:
    """Add this extension; Sphinx calls it. Returns whether pages may be built at once."""
    app.config.mathjax_path = "mathjax/tex-chtml.js"
    app.connect("build-finished", copy_mathjax)
    app.connect("html-page-context", drop_thebe, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
