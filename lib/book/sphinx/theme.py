"""What every page has around its text: our templates over the theme's, the profile, and names for screen readers."""

import os
import re
from pathlib import Path
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
    """Name the build's profile at the foot of every page; a quick build says so at the top as well."""
    options = config.html_theme_options
    options["extra_footer"] = (
        f'{options.get("extra_footer") or ""}<p class="profile">Profile of this build: {profile()}.</p>'
    )
    if profile() == "quick":
        options["announcement"] = BANNER


def add_templates(app: Sphinx, config: Config) -> None:
    """Put our templates before the theme's."""
    config.templates_path.insert(0, str(Path(__file__).with_name("templates")))


def mend(app: Sphinx, pagename: str, templatename: str, context: dict[str, Any], doctree: Any) -> None:
    """Mend what Docutils and MyST-NB write into pages.

    - the deprecated role ``doc-biblioentry`` inside a list, where screen readers expect ``listitem``.
    - a label of folded cells that differs from the text they show.
    - an empty column heading, which becomes an ordinary cell.
    - a second viewport.
    """
    if "body" in context:
        body = context["body"].replace('role="doc-biblioentry"', 'role="listitem"')
        body = body.replace('<summary aria-label="Toggle hidden content">', "<summary>")
        context["body"] = re.sub(r"<th([^>]*)>\s*</th>", r"<td\1></td>", body)
    context["metatags"] = re.sub(r'<meta name="viewport"[^>]*>', "", context.get("metatags", ""))


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect these functions to the build; Sphinx calls it. Returns whether pages may be built in parallel."""
    app.connect("config-inited", say_profile)
    app.connect("config-inited", add_templates)
    app.connect("html-page-context", mend)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
