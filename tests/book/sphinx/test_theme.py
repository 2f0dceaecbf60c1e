"""What stands around the text of a page: the profile, and mended markup."""

from types import SimpleNamespace

import pytest

from lib.book.sphinx import theme


@pytest.mark.parametrize(("profile", "banner"), [("quick", True), ("standard", False)])
def test_the_foot_names_the_profile_and_a_quick_page_its_top(monkeypatch, profile, banner):
    monkeypatch.setenv("SURVEY_PROFILE", profile)
    config = SimpleNamespace(html_theme_options={"extra_footer": "<p>By us</p>"})
    theme.say_profile(None, config)
    foot = config.html_theme_options["extra_footer"]
    assert foot == f'<p>By us</p><p class="profile">Profile of this build: {profile}.</p>'
    assert ("announcement" in config.html_theme_options) == banner


def test_a_build_without_a_profile_is_quick(monkeypatch):
    monkeypatch.delenv("SURVEY_PROFILE", raising=False)
    assert theme.profile() == "quick"


def test_our_templates_go_before_the_themes():
    config = SimpleNamespace(templates_path=["theirs"])
    theme.add_templates(None, config)
    ours, theirs = config.templates_path
    assert theirs == "theirs" and ours.endswith("sphinx/templates")


def test_markup_that_screen_readers_stumble_over_is_mended():
    context = {
        "body": '<li role="doc-biblioentry">a</li><summary aria-label="Toggle hidden content">b</summary>'
        '<table><tr><th class="c"> </th><th>d</th></tr></table>',
        "metatags": '<meta name="viewport" content="x" /><meta name="author" content="y" />',
    }
    theme.mend(None, "index", "page.html", context, None)
    assert context["body"] == (
        '<li role="listitem">a</li><summary>b</summary><table><tr><td class="c"></td><th>d</th></tr></table>'
    )
    assert context["metatags"] == '<meta name="author" content="y" />'


def test_a_page_without_a_body_is_left_alone():
    context = {}
    theme.mend(None, "genindex", "genindex.html", context, None)
    assert context == {"metatags": ""}
