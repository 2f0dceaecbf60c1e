"""What a chapter is, what its run depends on, and what is left of its last run.

A chapter is ``chapters/<name>.py``, a notebook in jupytext's percent format. Its header may say, under ``survey``,
``needs: [chapters whose results it reads]`` and ``alone: true`` (it measures time, so nothing runs beside it).
A profile is ``profiles/<name>.yml``: ``{chapter: {parameter: value}}``, and ``limits: {cell_s, chapter_s}`` in seconds.
"""

import ast
import copy
import hashlib
import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import yaml

from lib import datasets, evidence, imports
from lib.datasets import places

LIB = Path(__file__).parents[1]
LIMITS = {"cell_s": 600, "chapter_s": 1800}


def names(root: Path) -> list[str]:
    """The names of the book's chapters."""
    return sorted(path.stem for path in (root / "chapters").glob("*.py"))


def notebook(root: Path, chapter: str) -> nbformat.NotebookNode:
    """The chapter's source as a notebook without outputs. ValueError names the chapters there are."""
    if chapter not in names(root):
        raise ValueError(f"no chapter is called {chapter!r}: accepted are {', '.join(names(root)) or 'none, yet'}")
    return _parsed(_source(root, chapter))


def profile_settings(root: Path, profile: str) -> dict[str, dict[str, Any]]:
    """What a profile changes: ``{chapter: {parameter: value}, "limits": {...}}``.

    Raises ValueError for an unknown profile, chapter, parameter or limit; each names what is accepted.
    """
    known = sorted(path.stem for path in (root / "profiles").glob("*.yml"))
    if profile not in known:
        raise ValueError(f"no profile is called {profile!r}: accepted are {', '.join(known)}")
    try:
        settings = copy.deepcopy(_yaml((root / "profiles" / f"{profile}.yml").read_text("utf-8"))) or {}
    except yaml.YAMLError as error:
        raise ValueError(f"the profile {profile!r} is not readable YAML: {' '.join(str(error).split())}") from error
    form = "accepted is {chapter: {parameter: value}}"
    if not isinstance(settings, dict):
        raise ValueError(f"the profile {profile!r} is a {type(settings).__name__}: {form}")
    for chapter, values in settings.items():
        if not isinstance(values, dict | None):
            raise ValueError(f"the profile {profile!r} gives {chapter!r} the value {values!r}: {form}")
        accepted = LIMITS if chapter == "limits" else defaults(notebook(root, chapter))
        what = "limit" if chapter == "limits" else f"parameter of the chapter {chapter!r}"
        for name in values or {}:
            if name not in accepted:
                raise ValueError(
                    f"the profile {profile!r} sets {name!r}, which is no {what}: accepted are {', '.join(accepted)}"
                )
    return {chapter: values or {} for chapter, values in settings.items()}


def defaults(source: nbformat.NotebookNode) -> dict[str, Any]:
    """What the cell tagged ``parameters`` assigns: the values of the quick profile (as text where not literal)."""
    found: dict[str, Any] = {}
    cells = [cell for cell in source.cells if "parameters" in cell.metadata.get("tags", [])]
    for statement in (statement for cell in cells for statement in ast.parse(cell.source).body):
        if isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value is not None:
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            try:
                value = ast.literal_eval(statement.value)
            except ValueError:
                value = ast.unparse(statement.value)
            found |= {target.id: value for target in targets if isinstance(target, ast.Name)}
    return found


def header(root: Path, chapter: str) -> dict[str, Any]:
    """What the chapter's header says about its run: ``needs`` and ``alone``."""
    said = notebook(root, chapter).metadata.get("survey", {})
    return {"needs": list(said.get("needs", [])), "alone": bool(said.get("alone", False))}


def fingerprint(root: Path, chapter: str, profile: str, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """All that a run of the chapter depends on. Of two runs with one fingerprint, one is enough.

    ``code_sha256`` is of the chapter's code cells: what it says in Markdown is put on its page without another run.
    ``lib_sha256`` is of the files of ``lib`` that the chapter imports, directly or not.
    """
    if chapter in above:
        raise ValueError(f"the chapters {', '.join(above)} need each other: one of them must run without the others")
    parameters = profile_settings(root, profile).get(chapter, {})
    needs = [fingerprint(root, other, profile, (*above, chapter)) for other in header(root, chapter)["needs"]]
    return {
        "chapter": chapter,
        "profile": profile,
        "parameters": parameters,
        "code_sha256": _sha(json.dumps(_code(notebook(root, chapter)))),
        "lib_sha256": lib_sha256(library(root), closure(root, chapter)),
        "lock_sha256": lock_sha256(root),
        "data_sha256": data_sha256(root, defaults(notebook(root, chapter)) | parameters),
        "needs_sha256": _sha(json.dumps(needs, sort_keys=True)),
    }


def sources(root: Path, chapter: str, profile: str, above: tuple[str, ...] = ()) -> dict[str, str]:
    """What a committed record depends on, by name: each file's code without its words, the lock and the parameters.

    Neither the data nor a file's comments and docstrings are among them: a record stays while its code stays.
    """
    if chapter in above:
        raise ValueError(f"the chapters {', '.join(above)} need each other: one of them must run without the others")
    folder = library(root)
    text = "\n".join(_code(notebook(root, chapter)))
    found = {f"chapters/{chapter}.py": imports.code(text), "requirements.lock": lock_sha256(root)}
    found[f"profiles/{profile}.yml: {chapter}"] = _sha(
        json.dumps(profile_settings(root, profile).get(chapter, {}), sort_keys=True)
    )
    for path in closure(root, chapter):
        found[f"lib/{path.relative_to(folder).as_posix()}"] = imports.code_of_file(path)
    for other in header(root, chapter)["needs"]:
        found |= sources(root, other, profile, (*above, chapter))
    return {name: digest[:12] for name, digest in found.items()}


def summary(root: Path, chapter: str, profile: str) -> dict[str, Any]:
    """What another program needs to know to run the chapter: its fingerprint, what it needs, and the data it names."""
    settings = defaults(notebook(root, chapter)) | profile_settings(root, profile).get(chapter, {})
    about = header(root, chapter)
    stamp = json.dumps(fingerprint(root, chapter, profile), sort_keys=True)
    return {"chapter": chapter, "fingerprint": _sha(stamp)[:24], **about, "data": data_names(settings)}


def library(root: Path) -> Path:
    """The ``lib`` that the chapters of the book at ``root`` import: its own, or this one where it has none."""
    return root / "lib" if (root / "lib" / "__init__.py").is_file() else LIB


def closure(root: Path, chapter: str) -> list[Path]:
    """The files of ``lib`` that the chapter imports, directly or not."""
    try:
        return imports.closure(library(root), _code(notebook(root, chapter)))
    except ValueError as error:
        raise ValueError(f"the chapter {chapter!r}: {error}") from error


def lib_sha256(folder: Path, files: list[Path]) -> str:
    """One hash of the names and contents of ``files`` below ``folder``."""
    digest = hashlib.sha256()
    for path in files:
        name = path.relative_to(folder).as_posix()
        digest.update(f"{name}\0{_file_sha256(path, path.stat().st_mtime_ns)}\0".encode())
    return digest.hexdigest()


def lock_sha256(root: Path) -> str:
    """The hash of the locked versions."""
    lock = root / "requirements.lock"
    return _sha(lock.read_text("utf-8") if lock.exists() else "")


def data_sha256(root: Path, parameters: dict[str, Any]) -> str:
    """One hash of the files that the parameters name; "" where there are none (the lock fixes embedded sets).

    A parameter ``data`` or ``..._data`` may name a path; any other, and the members of a list, one of the known sets.
    """
    digest, hashed = hashlib.sha256(), False
    for name in data_names(parameters):
        for found in places.files(name, root):
            hashed = True
            for inner, path in places.contents(found).items():
                digest.update(f"{inner}\0{_file_sha256(path, path.stat().st_mtime_ns)}\0".encode())
    return digest.hexdigest() if hashed else ""


def data_names(parameters: dict[str, Any]) -> list[str]:
    """The values of the parameters that may name data: :func:`data_sha256` says which."""
    named = []
    for parameter, value in sorted(parameters.items()):
        for name in value if isinstance(value, list | tuple) else [value]:
            is_data = parameter == "data" or parameter.endswith("_data")
            if isinstance(name, str) and (is_data or name in datasets.NAMES):
                named.append(name)
    return named


def executed(root: Path, chapter: str, profile: str) -> nbformat.NotebookNode | None:
    """The notebook of the chapter's last good run, with its present text; None where none of its fingerprint is there.

    Text cells and their tags are those of the source now, code cells and what they showed those of the run.
    """
    path = output(root, chapter, profile)
    if not path.exists():
        return None
    found = nbformat.read(path, as_version=4)
    stamp, now = found.metadata.get("survey", {}), fingerprint(root, chapter, profile)
    if {name: stamp.get(name) for name in now} != now:
        return None
    ran = [cell for cell in found.cells if cell.cell_type == "code"]
    cells = []
    for cell in copy.deepcopy(notebook(root, chapter).cells):
        if cell.cell_type != "code":
            cells.append(cell)
            continue
        cells.append(ran.pop(0))
        cells[-1].metadata.update(cell.metadata)
        if ran and "injected-parameters" in ran[0].metadata.get("tags", []):
            cells.append(ran.pop(0))
    found.cells = cells
    return found


def status(root: Path, chapter: str, profile: str) -> dict[str, Any]:
    """How the chapter's last run ended: ``{"status": "ok" | "failed" | "not run", "error", "seconds", "peak_mib"}``."""
    if (found := executed(root, chapter, profile)) is not None:
        return {"status": "ok", "error": None} | {name: found.metadata.survey[name] for name in ("seconds", "peak_mib")}
    path = output(root, chapter, profile, ".status.json")
    if path.exists():
        return json.loads(path.read_text("utf-8"))
    waiting = [other for other in header(root, chapter)["needs"] if executed(root, other, profile) is None]
    why = f"it waits for {', '.join(waiting)}" if waiting else "it has not run to its end"
    if not waiting and output(root, chapter, profile).exists():
        why = "its last run is out of date: the chapter, lib, the lock, data or a parameter changed since"
    return {"status": "not run", "error": why, "seconds": 0.0, "peak_mib": 0}


def output(root: Path, chapter: str, profile: str, suffix: str = ".ipynb") -> Path:
    """Where a run of the chapter leaves its executed notebook, or the file beside it with another suffix."""
    return root / "_build" / "executed" / profile / f"{chapter}{suffix}"


def built_results(root: Path, profile: str) -> Path:
    """Where the runs of a profile leave what they measured, one file a chapter."""
    return root / "_build" / "results" / profile


def committed_results(root: Path, profile: str) -> Path:
    """Where the records of a profile are kept: written by ``make record`` alone."""
    return root / "results" / profile


def write_results(root: Path, done: nbformat.NotebookNode, folder: Path) -> None:
    """Write what a stamped notebook recorded to ``folder``, unless just that stands there."""
    survey = done.metadata["survey"]
    chapter, profile = survey["chapter"], survey["profile"]
    found = evidence.harvest(done, chapter)
    for entry in found["records"].values():
        entry["values"] = [float(f"{value:.12g}") for value in entry["values"]]
    run = {name: survey[name] for name in ("seconds", "peak_mib", "processor", "versions")}
    run |= {"sources": sources(root, chapter, profile), "data_sha256": survey["data_sha256"]}
    content = {"chapter": chapter, "profile": profile, **found, "run": run}
    text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    path = folder / f"{chapter}.json"
    if not path.exists() or path.read_text("utf-8") != text:
        write(path, text)


def write(path: Path, text: str) -> None:
    """All of the text, or nothing: to a temporary file beside ``path``, which is then renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(text, "utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@cache
def _yaml(text: str) -> Any:
    return yaml.safe_load(text)


@cache
def _parsed(text: str) -> nbformat.NotebookNode:
    return jupytext.reads(text, fmt="py:percent")


@cache
def _file_sha256(path: Path, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _source(root: Path, chapter: str) -> str:
    return (root / "chapters" / f"{chapter}.py").read_text("utf-8").replace("\r\n", "\n")


def _code(source: nbformat.NotebookNode) -> list[str]:
    """The notebook's code, cell by cell."""
    return [cell.source for cell in source.cells if cell.cell_type == "code"]


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
