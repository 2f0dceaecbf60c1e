"""Pages lose the scripts that they do not use, the rest is in order, and formulas are drawn without the network."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from lib.book.sphinx import offline

STATIC = Path(__file__).parents[3] / "_static"


def files(*names):
    return [SimpleNamespace(filename=name, attributes={}) for name in names]


ALL = ("_static/thebe.js", "mathjax/tex-chtml.js", "_static/search.js", "_static/ledger.js", "_static/book.js")


@pytest.mark.parametrize(
    ("page", "body", "left"),
    [
        ("chapters/a", "<p>words</p>", {"_static/book.js"}),
        ("chapters/a", '<span class="math notranslate">x</span>', {"_static/book.js", "mathjax/tex-chtml.js"}),
        ("search", "", {"_static/book.js", "_static/search.js"}),
        ("claims", '<div class="ledger-filter">', {"_static/book.js", "_static/ledger.js"}),
    ],
)
def test_a_page_keeps_the_scripts_that_it_uses(page, body, left):
    scripts, styles = files(*ALL), files("_static/sphinx-design.css", "_static/book.css")
    context = {"body": body, "script_files": scripts, "css_files": styles}
    offline.drop_unused(None, page, "page.html", context, None)
    assert {file.filename for file in scripts} == left and context["script_files"] is scripts
    assert [file.filename for file in styles] == ["_static/book.css"]


def test_a_script_is_known_by_its_text_as_well():
    inline = SimpleNamespace(filename=None, attributes={"body": "var THEBE_JS_URL = 1"})
    context = {"body": "", "script_files": [inline, *files("_static/book.js")], "css_files": []}
    offline.drop_unused(None, "index", "page.html", context, None)
    assert inline not in context["script_files"] and len(context["script_files"]) == 1


STYLES = [path.name for path in STATIC.glob("*.css")]
EVERY_PAGE = {"book.css", "preview.css", "print.css", "survey.css"}


@pytest.mark.parametrize(
    ("page", "body", "more"),
    [
        ("chapters/a", "", set()),
        ("index", '<div class="headline docutils container">', {"first_page.css"}),
        ("search", "", {"search.css"}),
        ("techniques", '<div class="zoo" tabindex="0">', {"zoo.css"}),
        ("errata", '<div class="erratum docutils container">', {"errata.css"}),
        ("errata", '<ul class="errata-bars">', {"errata.css"}),
        ("chapters/a", '<img alt="A curve" src="a.svg">', {"enlarge.css"}),
    ],
)
def test_a_page_keeps_the_styles_that_it_uses(page, body, more):
    context = {"body": body, "script_files": [], "css_files": files(*STYLES)}
    offline.drop_unused(None, page, "page.html", context, None)
    assert {file.filename for file in context["css_files"]} == EVERY_PAGE | more


def test_files_are_loaded_by_name_whatever_the_disk_says():
    given = SimpleNamespace(
        html_css_files=["survey.css", ("a.css", {"media": "print"}), "book.css"], html_js_files=["b.js", "a.js"]
    )
    offline.sort_files(None, given)
    assert given.html_css_files == [("a.css", {"media": "print"}), "book.css", "survey.css"]
    assert given.html_js_files == ["a.js", "b.js"]


@pytest.mark.parametrize("path", sorted(STATIC.glob("*.js")), ids=lambda path: path.name)
def test_a_script_shares_no_name_with_another(path):
    outside = [line for line in path.read_text("utf-8").splitlines() if line and line[0] != " "]
    assert outside[1:] == ['"use strict";', "{", "}"]


@pytest.mark.parametrize(
    ("form", "failure", "copied"), [("html", None, True), ("latex", None, False), ("html", ValueError(), False)]
)
def test_formulas_are_drawn_by_a_copy_of_mathjax(tmp_path, form, failure, copied):
    offline.copy_mathjax(SimpleNamespace(builder=SimpleNamespace(format=form), outdir=tmp_path), failure)
    folder = tmp_path / "_static" / "mathjax"
    assert (folder / "tex-chtml.js").is_file() == copied
    assert bool(list(folder.rglob("*.woff2")) + list(folder.rglob("*.woff"))) == copied


SVG = """<?xml version="1.0"?>
<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">
 <metadata>
  <about/>
 </metadata>
 <path d="M 0 0
L 1 1" style="fill: none"/>
 <g>
 </g>{}
</svg>
"""


@pytest.mark.parametrize(
    ("form", "failure", "slim"), [("html", None, True), ("latex", None, False), ("html", ValueError(), False)]
)
def test_figures_lose_what_no_browser_draws(tmp_path, form, failure, slim):
    folder = tmp_path / "_images"
    folder.mkdir()
    (folder / "a.svg").write_text(SVG.format(""))
    (folder / "b.svg").write_text(SVG.format("<text> a </text>"))
    for _ in range(2):  # a second build finds slim figures
        offline.slim_figures(SimpleNamespace(builder=SimpleNamespace(format=form), outdir=tmp_path), failure)
    head = '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9">'
    left = head + '<path d="M 0 0\nL 1 1" style="fill: none"/><g></g></svg>\n'
    assert (folder / "a.svg").read_text() == (left if slim else SVG.format(""))
    assert (folder / "b.svg").read_text() == SVG.format("<text> a </text>")
