"""Addresses of repositories in every form that git takes, and what the pages offer for them."""

from types import SimpleNamespace

import pytest

from lib.book.sphinx import repository

WEB = "https://github.com/someone/some-book"


@pytest.mark.parametrize(
    ("remote", "address"),
    [
        (WEB, WEB),
        (f"{WEB}.git\n", WEB),
        (f"{WEB}/", WEB),
        ("https://name:token@github.com/someone/some-book.git", WEB),  # a token is no part of a page
        ("git@github.com:someone/some-book.git", WEB),
        ("ssh://git@github.com:22/someone/some-book", WEB),
        ("http://code.example.org:8080/group/part/book", "http://code.example.org:8080/group/part/book"),
        ("/srv/books/some-book", None),
        ("../some-book.git", None),
        ("file:///srv/books", None),
        ("", None),
    ],
)
def test_an_address_is_that_of_the_web_or_none(remote, address):
    assert repository.web_address(remote) == address


@pytest.mark.parametrize(
    ("host", "provider", "buttons"),
    [
        ("github.com", "github", {"edit_page", "issues"}),
        ("gitlab.com", "gitlab", {"edit_page", "issues"}),
        ("bitbucket.org", "bitbucket", {"edit_page"}),
        ("code.example.org", "github", set()),  # its addresses for edits and issues are not known
    ],
)
def test_a_host_gets_the_buttons_whose_addresses_are_known(host, provider, buttons):
    options = repository.settings(f"https://{host}/a/b", "next")
    assert options["repository_provider"] == provider and options["repository_branch"] == "next"
    offered = {name for name in ("edit_page", "issues") if options.get(f"use_{name}_button")}
    assert offered == buttons and options["use_repository_button"]


def configured(monkeypatch, folder, **environment):
    for name in ("SURVEY_REPOSITORY", "SURVEY_BRANCH", "SURVEY_SITE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    config = SimpleNamespace(html_theme_options={"logo": "x"}, html_baseurl="")
    repository.configure(SimpleNamespace(srcdir=folder), config)
    return config


def test_what_the_build_is_told_goes_before_what_git_knows(monkeypatch, tmp_path):
    config = configured(
        monkeypatch, tmp_path, SURVEY_REPOSITORY=WEB, SURVEY_BRANCH="v1", SURVEY_SITE="https://a.org/b/"
    )
    assert repository.known_address(config) == WEB and config.html_theme_options["logo"] == "x"
    assert config.html_theme_options["repository_branch"] == "v1" and config.html_baseurl == "https://a.org/b/"


def test_a_folder_without_a_repository_offers_nothing(monkeypatch, tmp_path):
    config = configured(monkeypatch, tmp_path)
    assert config.html_theme_options == {"logo": "x"} and repository.known_address(config) is None
    assert config.html_baseurl == ""
