"""What directives share: the data behind a page, and errors that name the directive."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from survey_book import stamp_run, tiny_book

from lib.book.sphinx import page


def test_a_page_is_read_again_when_a_file_behind_it_changes(tmp_path):
    root, noted = tiny_book(tmp_path), []
    env = SimpleNamespace(srcdir=str(root), note_dependency=noted.append)
    before = page.watched(env)
    names = {Path(path).relative_to(root).as_posix() for path in noted}
    assert {"survey/claims/pruning.yml", "survey/techniques.yml", "survey/references.bib"} <= names
    assert len(before) == len(noted) == len(set(noted))
    assert page.watched(env) == before
    stat = (path := root / "survey" / "techniques.yml").stat()
    path.touch()
    assert stat.st_mtime_ns != path.stat().st_mtime_ns and page.watched(env) != before


def test_this_builds_results_and_the_published_ones_are_loaded(tmp_path):
    root = tiny_book(tmp_path)
    stamp_run(root, "pruning")
    claims, results = page.load(root, (1,))
    assert {claim.id for claim in claims} == {"C2.4-12", "C2.4-13", "C2.3-09", "C2.3-38"}
    assert results.keys() == {page.PUBLISHED, page.SECOND, page.PROFILE}
    assert results[page.PUBLISHED] and results[page.PROFILE] and not results[page.SECOND]


def test_a_wrong_file_is_read_once_and_raises_each_time(tmp_path, monkeypatch):
    root, read = tiny_book(tmp_path), []
    path = root / "survey" / "claims" / "pruning.yml"
    good = path.read_text()
    path.write_text(good.replace("verdict: contradicted", "verdict: perhaps"))
    loaded = page.ledger.load_claims
    monkeypatch.setattr(page.ledger, "load_claims", lambda root: read.append(root) or loaded(root))
    for _ in range(3):
        with pytest.raises(ValueError, match=r"its verdict must be one of .*, not 'perhaps'"):
            page.load(root, (2,))
    assert len(read) == 1
    path.write_text(good)
    assert len(page.load(root, (3,))[0]) == 4


class Broken(page.Page):
    name = "broken"

    def __init__(self, error):
        self.raised = error

    def error(self, message):
        return RuntimeError(message)

    def render(self):
        raise self.raised


@pytest.mark.parametrize("error", [ValueError("no such claim"), OSError("no such file")])
def test_what_is_wrong_becomes_an_error_of_the_directive(error):
    with pytest.raises(RuntimeError, match=f"^broken: {error}$"):
        Broken(error).run()


def test_a_section_can_be_linked_by_its_title():
    section = page.Page.section(SimpleNamespace(), "Not yet here", [])
    assert section["ids"] == ["not-yet-here"] and section.astext() == "Not yet here"
