"""What a chapter's last run left behind: its executed notebook, how it ended, and what it measured."""

import copy
import json
from pathlib import Path
from typing import Any, TypedDict

import nbformat

from lib import evidence
from lib.book import chapters, files, fingerprints


class Status(TypedDict):
    """How a run ended: ``status`` is "ok", "failed" or "not run"; ``error`` is a sentence, or None where it is ok."""

    status: str
    error: str | None
    seconds: float
    peak_mib: int


def output(root: Path, chapter: str, profile: str, suffix: str = ".ipynb") -> Path:
    """Return where a run leaves its executed notebook, or the file beside it with another suffix."""
    return root / "_build" / "executed" / profile / f"{chapter}{suffix}"


def built_results(root: Path, profile: str) -> Path:
    """Return the folder where the runs of a profile leave what they measured, one file a chapter."""
    return root / "_build" / "results" / profile


def committed_results(root: Path, profile: str) -> Path:
    """Return the folder where the records of a profile are kept: ``make record`` alone writes there."""
    return root / "results" / profile


def executed(root: Path, chapter: str, profile: str) -> nbformat.NotebookNode | None:
    """Return the notebook of a chapter's last run with its present text, or None if the run is missing or out of date.

    Text cells and all tags come from the present source; code cells and their outputs come from the run.

    root: the book's folder.
    chapter: a chapter's name.
    profile: a profile's name.
    """
    path = output(root, chapter, profile)
    if not path.exists():
        return None
    done = nbformat.read(path, as_version=4)
    stamp, now = done.metadata.get("survey", {}), fingerprints.fingerprint(root, chapter, profile)
    if {name: stamp.get(name) for name in now} != now:
        return None
    ran = [cell for cell in done.cells if cell.cell_type == "code"]
    cells = []
    for cell in copy.deepcopy(chapters.notebook(root, chapter).cells):
        if cell.cell_type != "code":
            cells.append(cell)
            continue
        cells.append(ran.pop(0))
        cells[-1].metadata.update(cell.metadata)
        if ran and "injected-parameters" in ran[0].metadata.get("tags", []):
            cells.append(ran.pop(0))
    done.cells = cells
    return done


def status(root: Path, chapter: str, profile: str) -> Status:
    """Return how a chapter's last run ended."""
    if (done := executed(root, chapter, profile)) is not None:
        about = done.metadata.survey
        return {"status": "ok", "error": None, "seconds": about["seconds"], "peak_mib": about["peak_mib"]}
    path = output(root, chapter, profile, ".status.json")
    if path.exists():
        failed: Status = json.loads(path.read_text("utf-8"))
        return failed
    waiting = [other for other in chapters.header(root, chapter)["needs"] if executed(root, other, profile) is None]
    why = f"it waits for {', '.join(waiting)}" if waiting else "it has not run to the end"
    if not waiting and output(root, chapter, profile).exists():
        why = "its last run is out of date: the chapter, lib, the lock, data or a parameter has changed since"
    return {"status": "not run", "error": why, "seconds": 0.0, "peak_mib": 0}


def write_results(root: Path, done: nbformat.NotebookNode, folder: Path) -> None:
    """Write what a run recorded to ``folder``, unless the file there already says the same.

    root: the book's folder.
    done: the executed notebook, with the stamp of its run.
    folder: :func:`built_results` or :func:`committed_results`; the file is ``<chapter>.json``.
    """
    survey = done.metadata["survey"]
    chapter, profile = survey["chapter"], survey["profile"]
    content: dict[str, Any] = {"chapter": chapter, "profile": profile} | evidence.harvest(done, chapter)
    for entry in content["records"].values():
        entry["values"] = [float(f"{value:.12g}") for value in entry["values"]]
    run = {name: survey[name] for name in ("seconds", "peak_mib", "processor", "versions")}
    run |= {"sources": fingerprints.sources(root, chapter, profile), "data_sha256": survey["data_sha256"]}
    text = json.dumps(content | {"run": run}, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    path = folder / f"{chapter}.json"
    if not path.exists() or path.read_text("utf-8") != text:
        files.write(path, text)
