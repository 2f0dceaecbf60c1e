"""Whether the built pages are up to date, by a digest of the pages and of everything they were built from."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from lib.book import chapters, files, fingerprints, last_run, processor

NO_SOURCES = {"_build", "benchmarks", "data", "tests"}  # and hidden files
VARIABLES = ("SURVEY_REPOSITORY", "SURVEY_BRANCH", "SURVEY_SITE")
# Where those variables are not set, the pages use git's answers to these.
GIT = (("config", "--get", "remote.origin.url"), ("branch", "--show-current"))


def mark(root: Path, profile: str) -> None:
    """Store the digest of a build without failures, for :func:`is_current`.

    root: the book's folder.
    profile: the profile whose runs the pages show.
    """
    files.write(_place(root), digest(root, profile))


def is_current(root: Path, profile: str) -> bool:
    """Return whether the last build had no failures, and nothing that it read or wrote has changed since.

    root: the book's folder.
    profile: a profile's name.
    """
    place = _place(root)
    return place.is_file() and place.read_text("utf-8") == digest(root, profile)


def digest(root: Path, profile: str) -> str:
    """Return one hash of sources, data, runs and pages, of the versions of all packages and of this processor.

    Tests and hidden files do not count. Paths are relative to ``root``, so a copy of the folder has the same digest.

    root: the book's folder.
    profile: a profile's name.
    Raises ValueError for an unknown profile.
    """
    digest = hashlib.sha256()
    parameters = [chapters.parameters(root, chapter, profile) for chapter in chapters.names(root)]
    data = [fingerprints.data_sha256(root, values) for values in parameters]
    variables = [f"{name}={os.environ.get(name, '')}" for name in VARIABLES]
    versions = sorted(f"{found.name} {found.version}" for found in metadata.distributions())
    for line in (profile, *data, *variables, *_git(root), sys.version, *processor.decisive(), *versions):
        digest.update(f"{line}\0".encode())
    for folder in _folders(root, profile):
        for path in _files(folder):
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
            digest.update(f"{folder.name}/{path.relative_to(folder).as_posix()}\0{content}\0".encode())
    return digest.hexdigest()


def _folders(root: Path, profile: str) -> list[Path]:
    sources = sorted(path for path in root.iterdir() if path.name not in NO_SOURCES and path.name[0] != ".")
    library = chapters.library(root)
    made = [last_run.output(root, "", profile).parent, last_run.built_results(root, profile), root / "_build" / "html"]
    return [*sources, *([] if library in sources else [library]), *made]


def _files(folder: Path) -> Iterator[Path]:
    """The files in a folder, sorted, without hidden ones and locks; of a file, the file itself."""
    if folder.is_file():
        yield folder
    for place, names, found in os.walk(folder):
        names[:] = sorted(name for name in names if name != "__pycache__" and name[0] != ".")
        yield from (Path(place, name) for name in sorted(found) if name[0] != "." and not name.endswith(".lock"))


def _git(root: Path) -> list[str]:
    try:
        return [subprocess.run(["git", "-C", root, *asked], capture_output=True, text=True).stdout for asked in GIT]
    except OSError:  # no git here
        return []


def _place(root: Path) -> Path:
    return root / "_build" / "html.sha256"
