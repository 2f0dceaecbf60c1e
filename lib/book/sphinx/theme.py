"""What every page has around its text: the profile of the build, and a role that screen readers expect."""

import os
from typing import Any

from sphinx.application import Sphinx
from sphinx.config import Config

BANNER = (
    "<strong>Quick profile</strong>: small data, one machine. The published verdicts come from the standard profile."
)


def profile() -> str:
    """Return the profile of this build."""
    return os.environ.get("SURVEY_PROFILE", "quick")


def say_profile(app: Sphinx, config: Config) -> None:
    """Name the build's profile in the foot of every page; a quick build says so at the top as well."""
    options = config.html_theme_options
    options["extra_footer"] = (
        f'{options.get("extra_footer") or ""}<p class="profile">Profile of this build: {profile()}.</p>'
    )
    if profile() == "quick":
        options["announcement"] = BANNER


def mend_roles(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Replace the deprecated role ``doc-biblioentry``, which Docutils puts into a list: screen readers expect items."""
    if "body" in context:
        context["body"] = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect both to the build; Sphinx calls it. Returns whether pages may be built at once."""
    app.connect("config-inited", say_profile)
    app.connect("html-page-context", mend_roles)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
