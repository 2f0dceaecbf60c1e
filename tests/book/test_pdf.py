"""The PDF has every page of the book, an outline by parts, and links that lead inside."""

import pytest
import yaml
from given_browser import in_browser
from pypdf import PdfReader

from lib.__main__ import main
from lib.book import pages, pdf

TOC = {
    "format": "jb-book",
    "root": "index",
    "parts": [{"caption": "2.3 Pruning", "chapters": [{"file": "chapters/a"}]}],
}
INDEX = """<title>The book</title><h1>The book<a class="headerlink">#</a></h1>
<p>First words. <a href="chapters/a.html?of=one#part">inside</a> <a href="https://example.org/a.html">outside</a></p>"""
CHAPTER = "<title>A</title><h1>Pruning, executed</h1><p>Second words.</p>"


@pytest.fixture
def built(tmp_path):
    (tmp_path / "_toc.yml").write_text(yaml.safe_dump(TOC))
    (pages.site(tmp_path) / "chapters").mkdir(parents=True)
    (pages.site(tmp_path) / "index.html").write_text(INDEX)
    (pages.site(tmp_path) / "chapters" / "a.html").write_text(CHAPTER)
    return tmp_path


@in_browser
def test_pages_are_printed_in_order_with_outline_and_inner_links(built):
    read = PdfReader(pdf.write(built))
    first, second = (sheet.extract_text() for sheet in read.pages)
    assert "First words" in first and "Second words" in second
    title, part, (chapter,) = read.outline
    assert [title.title, part.title, chapter.title] == ["The book", "2.3 Pruning", "Pruning, executed"]
    assert [read.get_destination_page_number(one) for one in (title, part, chapter)] == [0, 1, 1]
    inside, outside = (note.get_object()["/A"] for note in read.pages[0]["/Annots"])
    assert inside["/D"][0].get_object() == read.pages[1]
    assert outside["/URI"] == "https://example.org/a.html"


def test_without_pages_or_a_browser_it_is_one_sentence(built, monkeypatch, capsys):
    monkeypatch.setattr(pdf.shutil, "which", {"chromium": "/bin/false"}.get)
    (pages.site(built) / "chapters" / "a.html").unlink()
    assert main(["--root", str(built), "pdf"]) == 1
    assert "there is no page" in capsys.readouterr().err
    monkeypatch.setattr(pdf.shutil, "which", lambda name: None)
    assert main(["--root", str(built), "pdf"]) == 1
    assert "printing needs a browser, and none was found: install one of chromium" in capsys.readouterr().err


def test_the_parts_are_those_of_the_table_of_contents(built):
    assert pdf.contents(built) == {"": ["index"], "2.3 Pruning": ["chapters/a"]}
