"""Launch, edit and issue buttons for the book's repository, or none if its address is not known.

``{clone}`` shows the commands that fetch the repository, or nothing if its address is not known.

``SURVEY_REPOSITORY`` gives the address, or else git's remote ``origin``; ``SURVEY_BRANCH`` names the branch, or else
git does. ``SURVEY_SITE`` is the address of the published pages, which the picture in a shared link needs in full.
"""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ADDRESS = re.compile(
    r"(?:(?P<scheme>https?)://(?:[^/@]*@)?(?P<host>[\w.-]+(?::\d+)?)/"  # https, with a name or a token before @
    r"|ssh://(?:[^/@]*@)?(?P<ssh>[\w.-]+)(?::\d+)?/|[\w.-]+@(?P<scp>[\w.-]+):/?)"
    r"(?P<path>[\w.~-]+(?:/[\w.~-]+)+)/?"
)
HOSTS = {"github.com": ("edit_page", "issues"), "gitlab.com": ("edit_page", "issues"), "bitbucket.org": ("edit_page",)}


def web_address(remote: str) -> str | None:
    """Return the web address of a repository, or None for a folder of this machine.

    remote: its address in any form that git takes.
    """
    parts = ADDRESS.fullmatch(remote.strip())
    if not parts:
        return None
    host = parts["host"] or parts["ssh"] or parts["scp"]
    return f"{parts['scheme'] or 'https'}://{host}/{parts['path'].removesuffix('.git')}"


def settings(address: str, branch: str) -> dict[str, Any]:
    """Return the theme's options for a repository. Hosts with unknown edit and issue addresses get no such buttons.

    address: its web address, as :func:`web_address` returns it.
    branch: the branch on which readers edit.
    """
    host = address.split("/")[2]
    return {
        "repository_url": address,
        "repository_provider": host.split(".")[0] if host in HOSTS else "github",
        "repository_branch": branch,
        "path_to_docs": "",
        "use_repository_button": True,
        **{f"use_{button}_button": True for button in HOSTS.get(host, ())},
        "launch_buttons": {"binderhub_url": "https://mybinder.org", "notebook_interface": "jupyterlab"},
    }


def configure(app: Sphinx, config: Any) -> None:
    """Give the theme the repository's options, if its address is known."""
    remote = os.environ.get("SURVEY_REPOSITORY") or _git(app.srcdir, "config", "--get", "remote.origin.url")
    if address := web_address(remote):
        branch = os.environ.get("SURVEY_BRANCH") or _git(app.srcdir, "branch", "--show-current") or "main"
        config.html_theme_options = (config.html_theme_options or {}) | settings(address, branch)

    if site := os.environ.get("SURVEY_SITE"):
        config.html_baseurl = site


def known_address(config: Any) -> str | None:
    """Return the repository's web address; None if it is not known, although Jupyter Book then fills in its own."""
    options = config.html_theme_options
    return options.get("repository_url") if options.get("use_repository_button") else None


class Clone(SphinxDirective):
    """The commands that fetch the repository."""

    def run(self) -> list[nodes.Node]:
        """Return the commands as a block of code, or nothing if the address is not known; Sphinx calls it."""
        address = known_address(self.config)
        if address is None:
            return []
        text = f"git clone {address}.git\ncd {address.rsplit('/', 1)[1]}"
        return [nodes.literal_block(text, text, language="bash")]


def _git(folder: str | Path, *command: str) -> str:
    try:
        return subprocess.run(["git", "-C", folder, *command], capture_output=True, text=True).stdout.strip()
    except OSError:  # no git here
        return ""


def setup(app: Sphinx) -> dict[str, bool]:
    """Add this extension; Sphinx calls it. Returns whether pages may be built in parallel."""
    app.connect("config-inited", configure, priority=100)
    app.add_directive("clone", Clone)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
