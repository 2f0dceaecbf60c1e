"""What several tests of the book share."""

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import given_builds
import pytest
from small_book import copy_book

from lib.book import build, pages, run, warm


@pytest.fixture(scope="session", autouse=True)
def forked_builds() -> Iterator[None]:
    """Pages that a test builds in its own process, and not by ``python -m lib``, are built by a fork."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pages, "subprocess", SimpleNamespace(Popen=given_builds.popen))
        yield


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The socket of a running server of runners and kernels."""
    root = copy_book(tmp_path_factory.mktemp("served") / "book")
    with warm.server(root, run.environment(root)) as socket:
        yield socket


@pytest.fixture
def warm_runs(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chapters that Snakemake runs start at once. Each build of several would load the libraries for itself."""
    monkeypatch.setenv(warm.PLACE, place)
    monkeypatch.setattr(warm, "server", lambda *_: nullcontext(place))


@pytest.fixture(scope="session")
def built(tmp_path_factory) -> Path:
    """The small book, built once, in a repository that has an address."""
    root = copy_book(tmp_path_factory.mktemp("built") / "book")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SURVEY_REPOSITORY", "git@github.com:someone/some-book.git")
        patch.setenv("SURVEY_BRANCH", "trunk")
        assert build.book(root, "quick", 2) == 0
    return root
