"""What a chapter is, what its run depends on, and what is left of its last run.

A chapter is ``chapters/<name>.py``, a notebook in jupytext's percent format. Its header may say, under ``survey``,
``needs: [chapters whose results it reads]`` and ``alone: true`` (it measures time, so nothing runs beside it).
A profile is ``profiles/<name>.yml``: ``{chapter: {parameter: value}}``, and ``limits: {cell_s, chapter_s}`` in seconds.
"""

import ast
import hashlib
import json
import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import yaml

from lib import evidence

LIB = Path(__file__).parent
RUNNER = ("__main__.py", "book.py", "chapters.py", "checks.py", "ledger.py", "run.py")  # these run in no kernel
# Data sets whose files bear another name; any other name is that of its file or folder.
DATA_FILES = {"cifar10": ("cifar-10-batches-py",), "monks-1": ("monks",), "monks-2": ("monks",), "monks-3": ("monks",)}
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
        settings = yaml.safe_load((root / "profiles" / f"{profile}.yml").read_text("utf-8")) or {}
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
    """All that a run of the chapter depends on. Of two runs with one fingerprint, one is enough."""
    if chapter in above:
        raise ValueError(f"the chapters {', '.join(above)} need each other: one of them must run without the others")
    parameters = profile_settings(root, profile).get(chapter, {})
    needs = [fingerprint(root, other, profile, (*above, chapter)) for other in header(root, chapter)["needs"]]
    lock = root / "requirements.lock"
    return {
        "chapter": chapter,
        "profile": profile,
        "parameters": parameters,
        "source_sha256": _sha(_source(root, chapter)),
        "lib_sha256": lib_sha256(LIB),
        "lock_sha256": _sha(lock.read_text("utf-8") if lock.exists() else ""),
        "data_sha256": data_sha256(root, defaults(notebook(root, chapter)) | parameters),
        "needs_sha256": _sha(json.dumps(needs, sort_keys=True)),
    }


def lib_sha256(folder: Path) -> str:
    """One hash of all code of ``lib`` that a chapter's kernel imports."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        name = path.relative_to(folder).as_posix()
        if name not in RUNNER:
            digest.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def data_sha256(root: Path, parameters: dict[str, Any]) -> str:
    """One hash of the files that the parameters name; "" where there are none (the lock fixes embedded sets).

    A parameter ``data`` or ``..._data`` may name a path; any other, and the members of a list, a set of the data root.
    """
    digest, hashed = hashlib.sha256(), False
    for parameter, value in sorted(parameters.items()):
        for name in value if isinstance(value, list | tuple) else [value]:
            is_data = parameter == "data" or parameter.endswith("_data")
            if isinstance(name, str) and (is_data or re.fullmatch(r"[a-z][a-z0-9-]*", name)):
                for found in _data_files(root, name):
                    hashed = True
                    for path in [found] if found.is_file() else sorted(p for p in found.rglob("*") if p.is_file()):
                        about = path.stat()
                        digest.update(f"{path.relative_to(found)}\0{_file_sha256(path, about.st_mtime_ns)}\0".encode())
    return digest.hexdigest() if hashed else ""


def _data_files(root: Path, name: str) -> list[Path]:
    """What a data set's name stands for: the files or folders of the first data root that has any."""
    told = os.environ.get("SURVEY_DATA")
    stems = {Path(name).stem.lower(), *DATA_FILES.get(name, ())}
    for place in [Path(told), root / "data"] if told else [root / "data"]:
        entries = [place / name] if (place / name).exists() else sorted(place.glob("*"))
        if found := [entry for entry in entries if entry.stem.lower() in stems]:
            return found
    return []


def executed(root: Path, chapter: str, profile: str) -> nbformat.NotebookNode | None:
    """The notebook of the chapter's last good run, or None where none of the present fingerprint is there."""
    path = output(root, chapter, profile)
    if not path.exists():
        return None
    found = nbformat.read(path, as_version=4)
    stamp, now = found.metadata.get("survey", {}), fingerprint(root, chapter, profile)
    return found if {name: stamp.get(name) for name in now} == now else None


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
        why = "its run is of other sources: the chapter, lib, the data or a parameter has changed since it began"
    return {"status": "not run", "error": why, "seconds": 0.0, "peak_mib": 0}


def output(root: Path, chapter: str, profile: str, suffix: str = ".ipynb") -> Path:
    """Where a run of the chapter leaves its executed notebook, or the file beside it with another suffix."""
    return root / "_build" / "executed" / profile / f"{chapter}{suffix}"


def write_results(root: Path, done: nbformat.NotebookNode) -> None:
    """Write what a stamped notebook recorded to ``results/<profile>/<chapter>.json``, unless just that stands there."""
    chapter, profile = done.metadata["survey"]["chapter"], done.metadata["survey"]["profile"]
    found = evidence.harvest(done, chapter)
    for entry in found["records"].values():
        entry["values"] = [float(f"{value:.12g}") for value in entry["values"]]
    text = json.dumps({"chapter": chapter, "profile": profile, **found}, indent=1, sort_keys=True, ensure_ascii=False)
    path = root / "results" / profile / f"{chapter}.json"
    if not path.exists() or path.read_text("utf-8") != text + "\n":
        write(path, text + "\n")


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
def _parsed(text: str) -> nbformat.NotebookNode:
    return jupytext.reads(text, fmt="py:percent")


@cache
def _file_sha256(path: Path, changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _source(root: Path, chapter: str) -> str:
    return (root / "chapters" / f"{chapter}.py").read_text("utf-8").replace("\r\n", "\n")


def _sha(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
