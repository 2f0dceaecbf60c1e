"""Which pages need no other build: those of a good one, as long as nothing that it read or wrote has changed."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from given_browser import quick_book
from small_book import results

from lib.book import build, built, last_run, pages

pytestmark = pytest.mark.book


@pytest.fixture(autouse=True, scope="module")
def listed_once() -> Iterator[None]:
    """The packages and their versions, which each digest has: listing them is most of its time."""
    installed = [SimpleNamespace(name=one.name, version=one.version) for one in built.metadata.distributions()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(built, "metadata", SimpleNamespace(distributions=lambda: installed))
        yield


@pytest.fixture
def marked(small_book: Path) -> Path:
    """A book with a run and a page, as a good build would leave them; nothing of it was built."""
    run = last_run.output(small_book, "passes", "quick")
    for path in (run, results(small_book), pages.site(small_book) / "chapters" / "passes.html"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("as built")
    built.mark(small_book, "quick")
    assert built.is_current(small_book, "quick")
    return small_book


@pytest.mark.parametrize(
    "name",
    [
        *("index.md", "_config.yml", "Snakefile", "chapters/passes.py", "profiles/quick.yml", "requirements.lock"),
        *("survey/claims/passes.yml", "survey/references.bib", "results/standard/passes.json", "_static/new.css"),
        *("_build/executed/quick/passes.ipynb", "_build/results/quick/passes.json"),
        *("_build/html/chapters/passes.html", "_build/html/chapters/new.html", "lib/new.py"),
    ],
)
def test_a_change_of_any_source_run_or_page_is_seen(marked, name):
    path = marked / name
    path.parent.mkdir(parents=True, exist_ok=True)
    before = path.read_text() if path.exists() else None
    path.write_text((before or "") + "\n")
    assert not built.is_current(marked, "quick")
    path.unlink() if before is None else path.write_text(before)
    assert built.is_current(marked, "quick")
    if before is not None and name != "profiles/quick.yml":
        path.unlink()
        assert not built.is_current(marked, "quick")


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setenv("SURVEY_REPOSITORY", "git@github.com:someone/another-book.git"),
        lambda patch: patch.setattr(built.processor, "decisive", lambda: ["another processor"]),
        lambda patch: patch.setattr(built.metadata, "distributions", lambda: []),
        lambda patch: patch.setattr(built.sys, "version", "3.99"),
        lambda patch: patch.setattr(built.fingerprints, "data_sha256", lambda *_: "other data"),
    ],
    ids=["repository", "processor", "packages", "python", "data"],
)
def test_a_change_of_the_machine_is_seen(marked, monkeypatch, change: Callable):
    change(monkeypatch)
    assert not built.is_current(marked, "quick")
    monkeypatch.undo()
    assert built.is_current(marked, "quick")


def test_the_remote_that_git_knows_counts(marked):
    for command in (["init", "-b", "trunk"], ["remote", "add", "origin", "git@github.com:someone/some-book.git"]):
        before = built.digest(marked, "quick")
        subprocess.run(["git", "-C", marked, *command], check=True, capture_output=True)
        assert built.digest(marked, "quick") != before


def test_tests_copies_and_what_is_hidden_need_no_build(marked, tmp_path):
    for name in ("tests/test_new.py", ".hypothesis/example", "chapters/.passes.py.swp", "lib/__pycache__/a.pyc"):
        (marked / name).parent.mkdir(parents=True, exist_ok=True)
        (marked / name).write_text("new")
    os.utime(marked / "index.md")
    assert built.is_current(marked, "quick")
    assert built.is_current(shutil.copytree(marked, tmp_path / "copy"), "quick")


def test_another_profile_and_a_book_that_was_not_built_are_not_current(marked):
    assert not built.is_current(marked, "standard")
    (marked / "_build" / "html.sha256").unlink()
    assert not built.is_current(marked, "quick")


@pytest.mark.parametrize("failing", ["pages", "gates", "chapter", "nothing"])
def test_only_a_build_without_a_problem_is_marked(marked, monkeypatch, failing):
    monkeypatch.setattr(build.pages, "build", lambda *_: ["pages: wrong"] * (failing == "pages"))
    monkeypatch.setattr(build, "hold_gates", lambda *_: ["gate: wrong"] * (failing == "gates"))
    (marked / "_build" / "html.sha256").unlink()
    problems = build._pages_and_gates(marked, "quick", ["chapter: wrong"] * (failing == "chapter"))
    assert built.is_current(marked, "quick") == (not problems) == (failing == "nothing")


def test_the_browser_sees_the_pages_that_are_there_or_builds_them_again(request, tmp_path):
    root = shutil.copytree(request.getfixturevalue("built"), tmp_path / "book")
    built.mark(root, "quick")
    page, index = pages.site(root) / "index.html", root / "index.md"
    before = page.stat().st_mtime_ns
    assert quick_book(root) == pages.site(root) and page.stat().st_mtime_ns == before
    index.write_text(index.read_text() + "\nSomething new is said here.\n")
    quick_book(root)
    assert "Something new is said here." in page.read_text() and built.is_current(root, "quick")
