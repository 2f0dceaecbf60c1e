"""Pages load nothing from the network: MathJax is copied from its package; thebe, which no page uses, is dropped."""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

MATHJAX = ("tex-chtml.js", "output/chtml/fonts/woff-v2")  # 1.5 of the package's 24 MB


def copy_mathjax(app: Sphinx, failure: Exception | None) -> None:
    if failure is None and app.builder.format == "html":
        package = importlib.util.find_spec("sphinx-mathjax-offline")
        source = Path(package.submodule_search_locations[0]) / "static" / "mathjax"
        target = Path(app.outdir) / "_static" / "mathjax"
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source / MATHJAX[0], target)
        shutil.copytree(source / MATHJAX[1], target / MATHJAX[1], dirs_exist_ok=True)


def drop_thebe(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    def of_thebe(file: Any) -> bool:
        inline = str(getattr(file, "attributes", {}).get("body", ""))
        return "thebe" in str(getattr(file, "filename", "") or "") or "THEBE" in inline

    for files in ("script_files", "css_files"):
        context[files][:] = [file for file in context[files] if not of_thebe(file)]  # in place: others hold this list


def setup(app: Sphinx) -> dict[str, bool]:
    app.config.mathjax_path = "mathjax/tex-chtml.js"
    app.connect("build-finished", copy_mathjax)
    app.connect("html-page-context", drop_thebe, priority=900)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
