"""What the run of a chapter depends on: its code, the files of ``lib`` that it imports, the lock, parameters, data."""

import hashlib
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

from lib import imports
from lib.book import chapters
from lib.datasets import places


def fingerprint(root: Path, chapter: str, profile: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return everything that a run of a chapter depends on. Two runs with the same fingerprint do the same.

    root: the book's folder.
    chapter: a chapter's name.
    profile: a profile's name.
    above: the chapters that need this one; only the recursion passes it.
    Returns a dict. ``code_sha256`` covers the chapter's code cells, not its Markdown, which reaches the page without
        another run. ``lib_sha256`` covers the files of ``lib`` that the chapter imports, directly or not.
    Raises ValueError for an unknown chapter or profile, and for chapters that need each other.
    """
    _check_no_circle(chapter, above)
    parameters = chapters.profile_settings(root, profile).get(chapter, {})
    needs = [fingerprint(root, other, profile, (*above, chapter)) for other in chapters.header(root, chapter)["needs"]]
    return {
        "chapter": chapter,
        "profile": profile,
        "parameters": parameters,
        "code_sha256": _sha256(json.dumps(chapters.code(root, chapter))),
        "lib_sha256": lib_sha256(chapters.library(root), chapters.closure(root, chapter)),
        "lock_sha256": lock_sha256(root),
        "data_sha256": data_sha256(root, chapters.parameters(root, chapter, profile)),
        "needs_sha256": _sha256(json.dumps(needs, sort_keys=True)),
    }


def sources(root: Path, chapter: str, profile: str, above: tuple[str, ...] = ()) -> dict[str, str]:
    """Return what a committed record depends on: each file's code, the lock and the parameters.

    Data, comments, docstrings and the words of errors do not count: a record stays valid as long as its code stays the
    same. Of the parameters the profile's values count, so a default that the profile replaces may change.

    root: the book's folder.
    chapter: a chapter's name.
    profile: a profile's name.
    above: the chapters that need this one; only the recursion passes it.
    Returns {name: digest}, including those of the chapters that it needs.
    Raises ValueError as :func:`fingerprint` does.
    """
    _check_no_circle(chapter, above)
    folder = chapters.library(root)
    text, values = chapters.code_below_parameters(root, chapter), chapters.parameters(root, chapter, profile)
    digests = {f"chapters/{chapter}.py": imports.code(text), "requirements.lock": lock_sha256(root)}
    digests[f"parameters of {chapter}"] = _sha256(json.dumps(values, sort_keys=True))
    for path in chapters.closure(root, chapter):
        digests[f"lib/{path.relative_to(folder).as_posix()}"] = imports.code_of_file(path)
    for other in chapters.header(root, chapter)["needs"]:
        digests |= sources(root, other, profile, (*above, chapter))
    return {name: digest[:12] for name, digest in digests.items()}


def summary(root: Path, chapter: str, profile: str) -> dict[str, Any]:
    """Return what another program needs to know to run a chapter.

    Returns {"chapter", "fingerprint", "needs", "alone", "data"}: ``data`` are the names of its data sets.
    """
    about = chapters.header(root, chapter)
    stamp = json.dumps(fingerprint(root, chapter, profile), sort_keys=True)
    data = chapters.data_names(chapters.parameters(root, chapter, profile))
    return {"chapter": chapter, "fingerprint": _sha256(stamp)[:24], **about, "data": data}


def summaries(root: Path, profile: str) -> list[dict[str, Any]]:
    """Return the :func:`summary` of every chapter, sorted by name."""
    return [summary(root, chapter, profile) for chapter in chapters.names_in(root, profile)]


def show(root: Path, profile: str, *, as_json: bool) -> int:
    """Print the names of all chapters, one a line; return 0, the exit status.

    root: the book's folder.
    profile: a profile's name.
    as_json: print the summary of each instead, as one JSON list.
    """
    rows = summaries(root, profile)
    print(json.dumps(rows) if as_json else "\n".join(row["chapter"] for row in rows))
    return 0


def lib_sha256(folder: Path, files: list[Path]) -> str:
    """Return one hash of the names and contents of ``files`` below ``folder``."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(_line(path.relative_to(folder).as_posix(), path))
    return digest.hexdigest()


def lock_sha256(root: Path) -> str:
    """Return a hash of the locked versions without the tools that requirements.in names.

    Packages that only the tools need still count.

    root: the book's folder. Its ``requirements.in`` names the tools after the line that begins with ``# Tools``.
    """
    lock, direct = (
        path.read_text("utf-8").splitlines() if (path := root / name).exists() else []
        for name in ("requirements.lock", "requirements.in")
    )
    first = next((at for at, line in enumerate(direct) if line.startswith("# Tools")), len(direct))
    tools = {_package(line) for line in direct[first:]} - {""}
    return _sha256("\n".join(line for line in lock if _package(line) not in tools))


def _package(line: str) -> str:
    """The name that a line of requirements begins with; "" for a comment."""
    return re.split(r"[^\w.-]", line, maxsplit=1)[0].lower().replace("_", "-")


def data_sha256(root: Path, values: dict[str, Any]) -> str:
    """Return one hash of the data files that a chapter's parameters name; "" where there are none.

    Sets that come with a package have no files here: the lock fixes them.

    root: the book's folder.
    values: {parameter: value}; :func:`lib.book.chapters.data_names` says which of them name data.
    """
    digest, hashed = hashlib.sha256(), False
    for name in chapters.data_names(values):
        for place in places.files(name, root):
            hashed = True
            for inner, path in places.contents(place).items():
                digest.update(_line(inner, path))
    return digest.hexdigest() if hashed else ""


def _check_no_circle(chapter: str, above: tuple[str, ...]) -> None:
    if chapter in above:
        raise ValueError(f"the chapters {', '.join(above)} need each other: one of them must run without the others")


def _line(name: str, path: Path) -> bytes:
    return f"{name}\0{_file_sha256(path, path.stat().st_mtime_ns)}\0".encode()


@cache
def _file_sha256(path: Path, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
