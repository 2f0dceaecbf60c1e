"""What several tests of the book share."""

from pathlib import Path

import pytest
from small_book import copy_book

from lib.book import build


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """The small book, built once, in a repository that has an address."""
    root = copy_book(tmp_path_factory.mktemp("built") / "book")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SURVEY_REPOSITORY", "git@github.com:someone/some-book.git")
        patch.setenv("SURVEY_BRANCH", "trunk")
        assert build.book(root, "quick", 2) == 0
    return root
