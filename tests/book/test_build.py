"""From sources to pages on a small book: what is built, what is kept, how failures are told, one page alone."""

import shutil
import subprocess
import sys

import nbformat
import pytest
from small_book import PROJECT, results, write_record

from lib.__main__ import main
from lib.book import build, execution, gates, last_run, pages

pytestmark = [pytest.mark.book, pytest.mark.usefixtures("warm_runs")]


def test_the_book_is_built_with_its_numbers_figures_and_formulas(built):
    pages = dict(gates.built_pages(built))
    number = "4.5 ± 2.5 points".replace(" ", "\N{NO-BREAK SPACE}")  # it stays on one line
    assert number in pages["index.html"].get_text()
    chapter = pages["chapters/passes.html"]
    assert number in chapter.get_text()
    assert [image["alt"] for image in chapter.select("figure img")] == ["A line of 3 points rises"]
    assert chapter.select_one("figure#fig-line")
    assert chapter.select_one("figure figcaption").get_text().strip().startswith("Fig. 1")
    assert chapter.select_one("span.math")
    assert (built / "_build/html/_static/mathjax/tex-chtml.js").exists()


def test_links_point_at_the_source_in_the_repository(built):
    links = {link["href"] for link in dict(gates.built_pages(built))["chapters/passes.html"].find_all("a", href=True)}
    assert "https://mybinder.org/v2/gh/someone/some-book/trunk?urlpath=lab/tree/chapters/passes.py" in links
    assert "https://github.com/someone/some-book/edit/trunk/chapters/passes.py" in links
    assert any(link.startswith("https://github.com/someone/some-book/issues/new") for link in links)


def test_a_second_build_runs_nothing_and_says_where_the_pages_are(built, monkeypatch, capfd):
    monkeypatch.delenv("SURVEY_REPOSITORY", raising=False)
    executed = last_run.output(built, "passes", "quick")
    before = executed.stat().st_mtime_ns
    results(built).unlink()

    assert main(["--root", str(built), "book"]) == 0

    said = capfd.readouterr().out
    assert executed.stat().st_mtime_ns == before
    assert "passes: up to date" in said
    assert str(built / "_build" / "html" / "index.html") in said
    assert results(built).exists()  # what a kept run measured is written again
    text = (built / "_build/html/chapters/passes.html").read_text()
    assert "mybinder.org" not in text  # no address is known: no buttons
    assert "/edit/" not in text


@pytest.mark.parametrize("part", ["code_sha256", "lib_sha256", "lock_sha256", "parameters", "profile"])
def test_a_page_whose_run_is_of_another_state_fails_the_build(built, tmp_path, part):
    root = shutil.copytree(built, tmp_path / "book")
    path = last_run.output(root, "passes", "quick")
    notebook = nbformat.read(path, as_version=4)
    notebook.metadata["survey"][part] = "another"
    nbformat.write(notebook, path)
    problems = pages.build(root, "quick")
    assert any("no run matches its source" in problem for problem in problems)
    assert "has not run" in (root / "_build/html/chapters/passes.html").read_text()


def test_a_number_that_nothing_recorded_fails_the_build(built, tmp_path):
    root = shutil.copytree(built, tmp_path / "book")
    page = root / "index.md"
    page.write_text(page.read_text().replace("passes.sum.value:s", "passes.sum.other:s"))
    assert any("passes.sum.other" in problem for problem in pages.build(root, "quick"))


def test_new_words_reach_the_page_without_a_run(built, tmp_path):
    root = shutil.copytree(built, tmp_path / "book")
    source = root / "chapters" / "passes.py"
    source.write_text(source.read_text().replace("The answer is", "After counting we get"))
    before = last_run.output(root, "passes", "quick").stat().st_mtime_ns
    assert execution.execute(root, "quick", 2) == [] and pages.build(root, "quick") == []
    assert last_run.output(root, "passes", "quick").stat().st_mtime_ns == before
    text = dict(gates.built_pages(root))["chapters/passes.html"].get_text()
    assert "After counting we get 4.5\N{NO-BREAK SPACE}points" in text and "The answer is" not in text


def test_a_failing_chapter_stops_nothing_else(small_book, add_chapter, capfd):
    add_chapter("bad", "raise RuntimeError('no luck today')")
    add_chapter("reads", "1", survey="needs: [bad]")

    assert build.book(small_book, "quick", 2) == 1

    said = capfd.readouterr()
    assert last_run.status(small_book, "passes", "quick")["status"] == "ok"
    assert results(small_book).exists()
    assert "FAILED  chapter bad: cell [1] raised RuntimeError: no luck today" in said.err
    assert "FAILED  chapter reads: it waits for bad" in said.err
    assert "4.5\N{NO-BREAK SPACE}±" in (small_book / "_build/html/index.html").read_text()
    assert "no luck today" in (small_book / "_build/html/chapters/bad.html").read_text()


def test_two_builds_at_once_run_a_chapter_once_and_both_end_well(small_book):
    source = small_book / "chapters" / "passes.py"
    count = "\n# %%\nimport time\nwith open('../runs', 'a') as file:\n    file.write('run ')\ntime.sleep(2)\n"
    source.write_text(source.read_text().replace("\n# %%\nfrom lib", f"{count}\n# %%\nfrom lib"))
    for profile in ("quick", "standard"):
        write_record(small_book, profile, [10.5, 11.5, 12.5])
    command = [sys.executable, "-m", "lib", "--root", small_book, "book"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": PROJECT}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    said = [one.communicate(timeout=240)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert (small_book / "runs").read_text() == "run "
