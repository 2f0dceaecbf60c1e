"""What a chapter is: its source, its header, its parameters, and what a profile changes in them.

A chapter is ``chapters/<name>.py``, a notebook in jupytext's percent format. Its header may say, under ``survey``,
``needs: [chapters whose results it reads]`` and ``alone: true`` (it measures time, so nothing runs beside it).
A profile is ``profiles/<name>.yml``: ``{chapter: {parameter: value}}``, and ``limits: {cell_s, chapter_s}`` in seconds.
Or it repeats another profile on other data, for the chapters that use the data it replaces: ``like: standard`` and
``instead: {mnist: fashion-mnist}``.
"""

import ast
import copy
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypedDict

import jupytext
import nbformat
import yaml

from lib import datasets, imports

LIB = Path(__file__).parents[1]
LIMITS = {"cell_s": 600, "chapter_s": 1800}


class Header(TypedDict):
    """What a chapter's header says about its run."""

    needs: list[str]
    alone: bool


def names(root: Path) -> list[str]:
    """Return the names of the chapters of the book at ``root``, sorted."""
    return sorted(path.stem for path in (root / "chapters").glob("*.py"))


def notebook(root: Path, chapter: str) -> nbformat.NotebookNode:
    """Return a chapter's source as a notebook without outputs, read again when the file changes. Do not change it.

    root: the book's folder.
    chapter: a chapter's name.
    Raises ValueError for an unknown chapter, and names the known ones.
    """
    source = root / "chapters" / f"{chapter}.py"
    if source.stem != chapter or not source.is_file():  # listing all chapters at each call would be slow
        raise ValueError(f"chapter must be one of {', '.join(names(root)) or 'none, yet'}, not {chapter!r}")
    about = source.stat()
    return _read(source, about.st_mtime_ns, about.st_size)


def code(root: Path, chapter: str) -> list[str]:
    """Return a chapter's code, cell by cell."""
    return [cell.source for cell in notebook(root, chapter).cells if cell.cell_type == "code"]


def code_below_parameters(root: Path, chapter: str) -> str:
    """Return a chapter's code without its parameters cell, whose values :func:`parameters` gives."""
    cells = [cell for cell in notebook(root, chapter).cells if cell.cell_type == "code"]
    return "\n".join(cell.source for cell in cells if "parameters" not in cell.metadata.get("tags", []))


def header(root: Path, chapter: str) -> Header:
    """Return what a chapter's header says about its run: the chapters it needs, and whether it runs alone."""
    about = notebook(root, chapter).metadata.get("survey", {})
    return {"needs": list(about.get("needs", [])), "alone": bool(about.get("alone", False))}


def with_needs(root: Path, chosen: Iterable[str]) -> list[str]:
    """Return the chosen chapters and all that they need, directly or not, sorted by name."""
    needed: set[str] = set()
    waiting = list(chosen)
    while waiting:
        chapter = waiting.pop()
        if chapter not in needed:
            needed.add(chapter)
            waiting += header(root, chapter)["needs"]
    return sorted(needed)


def defaults(source: nbformat.NotebookNode) -> dict[str, Any]:
    """Return what the cell tagged ``parameters`` assigns: the values of the quick profile.

    source: a chapter as a notebook. Do not change values that are lists: they are cached.
    Returns {name: value}; a value that is not a literal is returned as its source text.
    """
    values: dict[str, Any] = {}
    for cell in source.cells:
        if "parameters" in cell.metadata.get("tags", []):
            values |= _assigned(cell.source)
    return values


@cache
def _assigned(code: str) -> dict[str, Any]:
    """The names that a cell assigns, with their values."""
    values: dict[str, Any] = {}
    for statement in ast.parse(code).body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            try:
                value = ast.literal_eval(statement.value)
            except ValueError:
                value = ast.unparse(statement.value)
            values |= {target.id: value for target in targets if isinstance(target, ast.Name)}
    return values


def profile_settings(root: Path, profile: str) -> dict[str, dict[str, Any]]:
    """Return what a profile changes: ``{chapter: {parameter: value}, "limits": {...}}``.

    root: the book's folder.
    profile: the name of a file in ``profiles``.
    Raises ValueError for an unknown profile, chapter, parameter or limit; each names what is accepted.
    """
    known = sorted(path.stem for path in (root / "profiles").glob("*.yml"))
    if profile not in known:
        raise ValueError(f"profile must be one of {', '.join(known)}, not {profile!r}")
    try:
        settings = copy.deepcopy(_yaml((root / "profiles" / f"{profile}.yml").read_text("utf-8"))) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"the profile {profile!r} is not readable YAML: {' '.join(str(error).split())}") from error
    form = "must be {chapter: {parameter: value}}"
    if not isinstance(settings, dict):
        raise ValueError(f"the profile {profile!r} {form}, not a {type(settings).__name__}")
    if "like" in settings:
        return _on_other_data(root, profile, settings)
    there = names(root)
    for chapter, values in settings.items():
        if not isinstance(values, dict | None):
            raise ValueError(f"the profile {profile!r} {form}, not {chapter!r}: {values!r}")
        if chapter != "limits" and chapter not in there:
            accepted = ", ".join(["limits", *there])
            raise ValueError(f"a chapter in the profile {profile!r} must be one of {accepted}, not {chapter!r}")
        known = list(LIMITS if chapter == "limits" else defaults(notebook(root, chapter)))
        kind = "a limit" if chapter == "limits" else f"a parameter of the chapter {chapter!r}"
        for name in values or {}:
            if name not in known:
                raise ValueError(f"{kind} in the profile {profile!r} must be one of {', '.join(known)}, not {name!r}")
    return {chapter: values or {} for chapter, values in settings.items()}


def _on_other_data(root: Path, profile: str, settings: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings of another profile with its data replaced, for the chapters where that changes something."""
    instead = settings.get("instead")
    if set(settings) != {"like", "instead"} or not isinstance(instead, dict) or settings["like"] == profile:
        raise ValueError(
            f"the profile {profile!r} must have 'like' with another profile, and 'instead' with {{data: data}}"
        )
    original = profile_settings(root, settings["like"])
    for name in instead.values():
        if name not in datasets.NAMES:
            raise ValueError(
                f"data in the profile {profile!r} must be one of {', '.join(datasets.NAMES)}, not {name!r}"
            )
    found = {}
    for chapter, values in original.items():
        swapped = {
            name: instead.get(value, value) if isinstance(value, str) else value for name, value in values.items()
        }
        if swapped != values or chapter == "limits":
            found[chapter] = swapped
    return found


def names_in(root: Path, profile: str) -> list[str]:
    """Return the chapters that a profile runs, sorted: all, or those whose data it replaces if it is ``like`` another.

    root: the book's folder.
    profile: the name of a file in ``profiles``.
    """
    raw = _yaml((root / "profiles" / f"{profile}.yml").read_text("utf-8")) or {}
    settings = profile_settings(root, profile)
    return [name for name in names(root) if name in settings] if "like" in raw else names(root)


def parameters(root: Path, chapter: str, profile: str) -> dict[str, Any]:
    """Return the values of all of a chapter's parameters in a profile."""
    return defaults(notebook(root, chapter)) | profile_settings(root, profile).get(chapter, {})


def data_names(values: dict[str, Any]) -> list[str]:
    """Return the parameter values that name data.

    values: {parameter: value}. The parameters ``data`` and ``..._data`` may name paths or known sets, the others only
        known sets; each may also be a list of names.
    """
    named = []
    for parameter, value in sorted(values.items()):
        for name in value if isinstance(value, list | tuple) else [value]:
            is_data = parameter == "data" or parameter.endswith("_data")
            if isinstance(name, str) and (is_data or name in datasets.NAMES):
                named.append(name)
    return named


def library(root: Path) -> Path:
    """Return the ``lib`` that the chapters of the book at ``root`` import: its own, or this one where it has none."""
    return root / "lib" if (root / "lib" / "__init__.py").is_file() else LIB


def closure(root: Path, chapter: str) -> list[Path]:
    """Return the files of ``lib`` that a chapter imports, directly or not, sorted.

    Raises ValueError for an import of a module that ``lib`` does not have.
    """
    try:
        return imports.closure_of_files(library(root), [root / "chapters" / f"{chapter}.py"])
    except ValueError as error:
        raise ValueError(f"the chapter {chapter!r}: {error}") from error


@cache
def _yaml(text: str) -> Any:
    return yaml.safe_load(text)


@cache
def _read(source: Path, changed: int, size: int) -> nbformat.NotebookNode:
    return _parsed(source.read_text("utf-8").replace("\r\n", "\n"))


@cache
def _parsed(text: str) -> nbformat.NotebookNode:
    return jupytext.reads(text, fmt="py:percent")
