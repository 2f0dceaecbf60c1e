"""From sources to pages on a small book: what is built, what is kept, how failures are told, one page alone."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest
from bs4 import BeautifulSoup
from small_book import PROJECT, copy_book, hears_ctrl_c, results, write_record

from lib.__main__ import main
from lib.book import build, execution, gates, last_run, pages

pytestmark = pytest.mark.book


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """The small book, built once, in a repository that has an address."""
    root = copy_book(tmp_path_factory.mktemp("built") / "book")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SURVEY_REPOSITORY", "git@github.com:someone/some-book.git")
        patch.setenv("SURVEY_BRANCH", "trunk")
        assert build.book(root, "quick", 2) == 0
    return root


def test_the_book_is_built_with_its_numbers_figures_and_formulas(built):
    pages = dict(gates.built_pages(built))
    assert "4.0 and 5.0 points" in pages["index.html"].get_text()
    chapter = pages["chapters/passes.html"]
    assert "4.0 and 5.0 points" in chapter.get_text()
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
    assert "After counting we get 4.0 and 5.0 points" in text and "The answer is" not in text


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
    assert "We get 4.0 and 5.0 points" in shown.get_text() and shown.find(id="fig-line")
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


def test_a_failing_chapter_stops_nothing_else(small_book, add_chapter, capfd):
    add_chapter("bad", "raise RuntimeError('no luck today')")
    add_chapter("reads", "1", survey="needs: [bad]")

    assert build.book(small_book, "quick", 2) == 1

    said = capfd.readouterr()
    assert last_run.status(small_book, "passes", "quick")["status"] == "ok"
    assert results(small_book).exists()
    assert "FAILED  chapter bad: cell [1] raised RuntimeError: no luck today" in said.err
    assert "FAILED  chapter reads: it waits for bad" in said.err
    assert "4.0 and 5.0 points" in (small_book / "_build/html/index.html").read_text()
    assert "no luck today" in (small_book / "_build/html/chapters/bad.html").read_text()


def test_two_builds_at_once_run_a_chapter_once_and_both_end_well(small_book):
    source = small_book / "chapters" / "passes.py"
    count = "\n# %%\nimport time\nwith open('../runs', 'a') as file:\n    file.write('run ')\ntime.sleep(2)\n"
    source.write_text(source.read_text().replace("\n# %%\nfrom lib", f"{count}\n# %%\nfrom lib"))
    for profile in ("quick", "standard"):
        write_record(small_book, profile, [11.0, 12.0])
    command = [sys.executable, "-m", "lib", "--root", small_book, "book"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": PROJECT}
    both = [subprocess.Popen(command, **pipes) for _ in range(2)]
    said = [one.communicate(timeout=240)[0] for one in both]
    assert [one.returncode for one in both] == [0, 0], said
    assert (small_book / "runs").read_text() == "run "


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["kill -9", "Ctrl-C"])
def test_a_stopped_build_goes_on_where_it_was(small_book, add_chapter, number):
    wait = small_book / "wait"
    wait.touch()
    add_chapter("slow", f"import pathlib, time\nwhile pathlib.Path({str(wait)!r}).exists(): time.sleep(0.1)")
    command = [sys.executable, "-m", "lib", "--root", small_book, "book"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    first = subprocess.Popen(command, start_new_session=True, preexec_fn=hears_ctrl_c, **quiet)
    done, under_way = (last_run.output(small_book, name, "quick") for name in ("passes", "slow"))
    deadline = time.monotonic() + 60
    while not (done.exists() and under_way.with_suffix(".lock").exists()) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.killpg(first.pid, number)
    assert first.wait(30) == (-signal.SIGKILL if number == signal.SIGKILL else 130)
    before = done.stat().st_mtime_ns
    assert not under_way.exists()
    wait.unlink()

    assert execution.execute(small_book, "quick", 2) == []

    assert done.stat().st_mtime_ns == before
    assert under_way.exists()

    source = small_book / "chapters" / "passes.py"  # and a change is seen all the same
    source.write_text(source.read_text() + "\n# %%\n")
    assert execution.execute(small_book, "quick", 2) == []
    assert done.stat().st_mtime_ns > before


def test_a_chapter_that_measures_time_runs_alone(small_book, add_chapter):
    add_chapter("times", "1", survey="alone: true")
    command = [sys.executable, "-m", "snakemake", "--cores", "2", "--dry-run", "--directory", small_book]
    said = subprocess.run([*command, "-s", small_book / "Snakefile"], capture_output=True, text=True, check=True)
    jobs = re.split(r"rule chapter:\n", said.stdout + said.stderr)[1:]
    threads = {name: ["threads: 2" in job for job in jobs if f"{name}.py" in job] for name in ("passes", "times")}
    assert threads == {"passes": [False], "times": [True]}


def test_snakemake_failing_by_itself_is_told(small_book):
    (small_book / "Snakefile").write_text("rule all:\n    input: 'nothing-makes-this'\n")
    problems = execution.execute(small_book, "quick", 2)
    assert problems[0] == "chapter passes: it has not run to its end"
    assert len(problems) == 2 and problems[1].startswith("snakemake failed: ") and "passes.ipynb" in problems[1]


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
