"""Launch, edit and issue buttons for the repository that the build is told, and none where it is not known.

``SURVEY_REPOSITORY`` names it, otherwise git's remote ``origin``; ``SURVEY_BRANCH`` names the branch, otherwise git's.
"""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ADDRESS = re.compile(
    r"(?:(?P<scheme>https?)://(?:[^/@]*@)?(?P<host>[\w.-]+(?::\d+)?)/"  # https, with a name or a token before @
    r"|ssh://(?:[^/@]*@)?(?P<ssh>[\w.-]+)(?::\d+)?/|[\w.-]+@(?P<scp>[\w.-]+):/?)"
    r"(?P<path>[\w.~-]+(?:/[\w.~-]+)+)/?"
)
HOSTS = {"github.com": ("edit_page", "issues"), "gitlab.com": ("edit_page", "issues"), "bitbucket.org": ("edit_page",)}


def web_address(remote: str) -> str | None:
    """The web address of a repository on a host, from any form that git takes; None for a folder of this machine."""
    found = ADDRESS.fullmatch(remote.strip())
    if not found:
        return None
    host = found["host"] or found["ssh"] or found["scp"]
    return f"{found['scheme'] or 'https'}://{host}/{found['path'].removesuffix('.git')}"


def settings(address: str, branch: str) -> dict[str, Any]:
    """The theme's options for the repository. Hosts whose edit and issue addresses are unknown get no such buttons."""
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
    remote = os.environ.get("SURVEY_REPOSITORY") or _git(app.srcdir, "config", "--get", "remote.origin.url")
    if address := web_address(remote):
        branch = os.environ.get("SURVEY_BRANCH") or _git(app.srcdir, "branch", "--show-current") or "main"
        config.html_theme_options = (config.html_theme_options or {}) | settings(address, branch)


def _git(folder: str | Path, *command: str) -> str:
    try:
        return subprocess.run(["git", "-C", folder, *command], capture_output=True, text=True).stdout.strip()
    except OSError:  # no git here
        return ""


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("config-inited", configure, priority=100)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
