"""Pages on a small book: built from nothing, one alone, and shown on this machine."""

import shutil
import signal
import subprocess
import sys
import urllib.request

import pytest
from bs4 import BeautifulSoup
from small_book import hears_ctrl_c

from lib.__main__ import main
from lib.book import last_run, pages

pytestmark = [pytest.mark.book, pytest.mark.usefixtures("warm_runs")]


def test_a_page_of_an_earlier_build_is_gone(built, tmp_path):
    root = shutil.copytree(built, tmp_path / "book")
    (root / "_build/html/old.html").write_text("<p>old</p>")
    assert pages.build(root, "quick") == []
    assert not (root / "_build/html/old.html").exists()


def test_one_page_is_built_from_its_last_run(built, tmp_path, capfd):
    root = shutil.copytree(built, tmp_path / "book")
    (root / "chapters" / "other.py").write_text("# %% [markdown]\n# # Other\n")
    with (root / "_toc.yml").open("a") as toc:
        toc.write("  - file: chapters/other\n")
    with (root / "index.md").open("a") as index:  # other pages may be wrong
        index.write("\n```{cost} other\n```\n")
    source = root / "chapters" / "passes.py"
    source.write_text(source.read_text().replace("The answer is", "See {doc}`other` and {ref}`sec-other`. We get"))
    whole, run = root / "_build/html/chapters/passes.html", last_run.output(root, "passes", "quick")
    before = whole.read_bytes(), run.stat().st_mtime_ns

    assert main(["--root", str(root), "page", "chapters/passes.py"]) == 0

    page = root / "_build/page/chapters/passes.html"
    printed = capfd.readouterr().out
    assert "passes: up to date" in printed and f"The page is at {page}" in printed
    shown = BeautifulSoup(page.read_text(), "html.parser")
    assert "We get 4.5\N{NO-BREAK SPACE}points" in shown.get_text() and shown.find(id="fig-line")
    assert not page.with_name("other.html").exists()
    assert (whole.read_bytes(), run.stat().st_mtime_ns) == before
    assert not (root / "_build" / "page.new").exists()

    (root / "_config.yml").write_text((root / "_config.yml").read_text().replace("repository,", "nowhere,"))
    assert main(["--root", str(root), "page", "passes"]) == 1
    printed = capfd.readouterr()
    assert "The page is at" not in printed.out and "lib.book.sphinx.nowhere" in printed.err  # and no earlier page
    assert not page.exists()


def test_a_page_whose_chapter_has_no_run_runs_it_first(small_book, add_chapter, capfd):
    add_chapter("needed", "1")
    add_chapter("reads", "print(6 * 7)", survey="needs: [needed]")
    add_chapter("bad", "raise RuntimeError('no luck today')")
    assert main(["--root", str(small_book), "page", "reads"]) == 0
    assert "<span></span>42" in (small_book / "_build/page/chapters/reads.html").read_text()
    assert last_run.executed(small_book, "passes", "quick") is None  # it needs no other
    assert main(["--root", str(small_book), "page", "bad"]) == 1
    assert "FAILED  chapter bad: cell [1] raised RuntimeError: no luck today" in capfd.readouterr().err
    assert "no luck today" in (small_book / "_build/page/chapters/bad.html").read_text()
    assert main(["--root", str(small_book), "page", "pass"]) == 1
    assert "error: chapter must be one of bad, needed, passes, reads, not 'pass'" in capfd.readouterr().err


def test_serve_shows_the_pages_on_this_machine_only(built):
    command = [sys.executable, "-m", "lib", "--root", built, "serve", "--port", "18765"]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=hears_ctrl_c)
    try:
        address = server.stdout.readline().split()[4]
        assert address.startswith("http://127.0.0.1:187")
        assert b"A small book" in urllib.request.urlopen(address).read()
    finally:
        server.send_signal(signal.SIGINT)
    assert server.wait(10) == 0


def test_serve_asks_for_a_build_first(small_book, capsys):
    assert main(["--root", str(small_book), "serve"]) == 1
    assert "build the book first" in capsys.readouterr().err
