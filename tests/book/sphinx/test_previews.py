"""What a page shows of the places that it links to."""

import json
import re
from types import SimpleNamespace

import pytest

from lib.book.sphinx.previews import LONGEST, addresses, preview, previews, with_previews, write

GLOSSARY = """<article class="bd-article"><dl class="simple glossary">
<dt id="term-mask">mask<a class="headerlink" href="#term-mask">#</a></dt><dd><p>Ones and
zeros.</p><p>See Pruning.</p></dd>
<dt id="term-rank">rank</dt><dd><p>Independent rows.</p></dd></dl></article>"""
SOURCES = """<article class="bd-article"><div class="citation" id="id9" role="listitem"><span class="label">9</span>
<p>Song Han. <em>Learning both</em>. 2015. <a href="https://arxiv.org/abs/1">arXiv:1</a>.</p></div></article>"""
SPEED = """<article class="bd-article"><section id="speed"><span id="sec-speed"></span><h1>Speed
<a class="headerlink" href="#speed">#</a></h1><p>A formula <span class="math">x</span>.</p><p>No formula &lt;here.</p>
<div class="claim claim-line" id="claim-C1"><p class="claim-head">C1 supported</p><p>Zeros are fast.</p></div>
<figure id="fig-time"><img alt="Time falls" src="../_images/a.svg"/><figcaption><p><span class="caption-number">Fig. 1
</span><span class="caption-text">The time.</span><a class="headerlink" href="#fig-time">#</a></p></figcaption></figure>
<div class="math" id="equation-eq">x</div><p id="other">Other.</p></section></article>"""
LINKS = """<nav><a class="reference internal" href="glossary.html#term-rank">no link of the article</a></nav>
<article class="bd-article"><a class="reference internal" href="glossary.html#term-mask">mask</a>
<a class="reference internal" href="glossary.html#term-mask">again</a>
<a title="Han" href="references.html#id9" class="reference internal">Han</a>
<a class="reference internal" href="chapters/speed.html#fig-time">Fig. 1</a>
<a class="reference internal" href="chapters/speed.html">all of it</a>
<a class="reference internal" href="chapters/speed.html#nowhere">lost</a>
<a class="reference internal" href="gone.html#id1">gone</a>
<a class="reference external" href="https://example.org#a">outside</a>
<a class="headerlink" href="#title">#</a></article>"""
PAGES = {
    "index.html": f"<body>{LINKS}</body>",
    "glossary.html": GLOSSARY,
    "references.html": SOURCES,
    "chapters/speed.html": SPEED,
}


def test_only_places_that_the_article_links_to_are_taken():
    found = ["glossary.html#term-mask", "references.html#id9", "chapters/speed.html#fig-time"]
    assert addresses(PAGES["index.html"]) == [*found, "chapters/speed.html#nowhere", "gone.html#id1"]
    assert list(previews(PAGES, "index.html")) == found


@pytest.mark.parametrize(
    ("page", "id", "shown"),
    [
        ("glossary.html", "term-mask", {"title": "mask", "text": "Ones and zeros."}),
        ("references.html", "id9", {"text": "Song Han. Learning both. 2015. arXiv:1."}),
        ("chapters/speed.html", "sec-speed", {"title": "Speed", "text": "No formula <here."}),
        ("chapters/speed.html", "speed", {"title": "Speed", "text": "No formula <here."}),
        ("chapters/speed.html", "claim-C1", {"title": "C1 supported", "text": "Zeros are fast."}),
        ("chapters/speed.html", "equation-eq", None),
        ("chapters/speed.html", "other", None),
        ("chapters/speed.html", "fig", None),
    ],
)
def test_each_kind_of_place_is_shown_in_its_way(page, id, shown):
    assert preview(PAGES[page], id) == shown


def test_a_figure_is_found_from_the_page_that_links_to_it():
    about = {"title": "Fig. 1", "text": "The time.", "alt": "Time falls"}
    assert preview(SPEED, "fig-time") == {**about, "image": "../_images/a.svg"}
    assert previews(PAGES, "index.html")["chapters/speed.html#fig-time"] == {**about, "image": "_images/a.svg"}
    pages = {"chapters/other.html": LINKS.replace("chapters/", ""), "chapters/speed.html": SPEED}
    assert previews(pages, "chapters/other.html")["speed.html#fig-time"]["image"] == "../_images/a.svg"


def test_a_long_text_is_cut_between_words():
    text = preview(f'<dl><dt id="a">a</dt><dd><p>{"word " * 200}</p></dd></dl>', "a")["text"]
    assert LONGEST - 8 < len(text) <= LONGEST
    assert text.endswith("word …")


def test_no_text_ends_the_script_and_a_second_build_replaces_the_first():
    shown = {"#a": {"text": "</script><b>"}}
    page = with_previews("<body><p>Text</p></body>", shown)
    assert page.count("</script>") == 1
    assert json.loads(re.search(r'id="previews">(.*)</script>', page)[1]) == shown
    assert with_previews(page, shown) == page
    assert with_previews(page, {}) == "<body><p>Text</p></body>"


@pytest.mark.parametrize(("form", "failure", "count"), [("html", None, 1), ("latex", None, 0), ("html", OSError(), 0)])
def test_pages_are_written_after_a_build_that_did_not_fail(tmp_path, form, failure, count):
    (tmp_path / "chapters").mkdir()
    for name, html in PAGES.items():
        (tmp_path / name).write_text(html)
    write(SimpleNamespace(builder=SimpleNamespace(format=form), outdir=tmp_path), failure)
    written = [path.name for path in tmp_path.rglob("*.html") if 'id="previews"' in path.read_text()]
    assert written == ["index.html"] * count
