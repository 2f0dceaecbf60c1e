"""Run one chapter with papermill, within time limits; it leaves a stamped notebook and results, or one clear error."""

import copy
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import nbformat
from filelock import FileLock, Timeout

from lib import evidence, imports
from lib.book import chapters, files, fingerprints, last_run, processor

VERSIONS = ("torch", "torchvision", "numpy", "scipy", "scikit-learn", "numba", "matplotlib")
OUTPUT_S = 120  # what a cell that has ended may still need to send its output; papermill gives it 4 s
ONE_THREAD = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "NUMBA", "VECLIB_MAXIMUM")


class ChapterFailed(Exception):
    """A chapter that did not run to its end: which cell, and why. ``partial`` is the notebook as far as it came."""

    def __init__(self, why: str, partial: str = "") -> None:
        super().__init__(why)
        self.partial = partial


def command(root: Path, chapter: str, profile: str) -> int:
    """Run one chapter and report on the terminal; return 0, the exit status.

    root: the book's folder.
    chapter: a chapter's name.
    profile: a profile's name.
    Raises ValueError with one sentence if the chapter fails.
    """
    print(f"{chapter}: running, {profile} profile", flush=True)
    try:
        done = run(root, chapter, profile, bar=sys.stderr.isatty())
    except Exception as error:
        print(f"{chapter}: FAILED: {error}", flush=True)
        if isinstance(error, ChapterFailed):
            raise ValueError(str(error)) from error
        raise
    print(f"{chapter}: done in {done['seconds']:.1f} s, peak {done['peak_mib']} MiB", flush=True)
    return 0


def run(root: Path, chapter: str, profile: str, *, bar: bool = False) -> last_run.Status:
    """Run one chapter; write its stamped notebook and its results; return its :func:`lib.book.last_run.status`.

    A second run of the same chapter waits for the first.

    root: the book's folder.
    chapter: a chapter's name.
    profile: a profile's name.
    bar: show a progress bar, which grows with each cell.
    Raises ChapterFailed if a cell raises, writes to stderr, exceeds a time limit or loses the kernel. There are then
        no results and no stamped notebook, only the error and ``<chapter>.failed.ipynb``, with all that was shown.
    Raises ValueError for an unknown chapter or profile.
    """
    root = root.resolve()
    fingerprints.fingerprint(root, chapter, profile)
    target = last_run.output(root, chapter, profile)
    target.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(target.with_suffix(".lock"))  # released when its process ends, even after kill -9
    with ExitStack() as held:
        try:
            held.enter_context(lock.acquire(blocking=False))
        except Timeout:
            print(f"{chapter}: already running, waiting for that run", flush=True)
            held.enter_context(lock.acquire())
            if last_run.executed(root, chapter, profile) is not None:
                return last_run.status(root, chapter, profile)
        return _run(root, chapter, profile, target, bar)


def _run(root: Path, chapter: str, profile: str, target: Path, bar: bool) -> last_run.Status:
    note, failed = target.with_suffix(".status.json"), target.with_suffix(".failed.ipynb")
    for stale in (target, note, failed):
        stale.unlink(missing_ok=True)
    stamp = fingerprints.fingerprint(root, chapter, profile)
    start = time.monotonic()
    try:
        done = _execute(root, chapter, stamp, bar)
    except Exception as error:
        why = str(error) if isinstance(error, ChapterFailed | ValueError) else f"{type(error).__name__}: {error}"
        if partial := getattr(error, "partial", ""):
            files.write(failed, partial)
        record = {"status": "failed", "error": why, "seconds": _since(start), "peak_mib": _peak_mib()}
        files.write(note, json.dumps(record, indent=1) + "\n")
        raise ChapterFailed(why) from error
    seconds, peak_mib = _since(start), _peak_mib()
    measured = {"seconds": seconds, "peak_mib": peak_mib, "processor": processor.described(), "versions": _versions()}
    done.metadata["survey"] = stamp | measured | {"data": evidence.harvest(done, chapter)["data"]}
    last_run.write_results(root, done, last_run.built_results(root, profile))
    files.write(target, nbformat.writes(done))
    return {"status": "ok", "error": None, "seconds": seconds, "peak_mib": peak_mib}


def _execute(root: Path, chapter: str, stamp: dict[str, Any], bar: bool) -> nbformat.NotebookNode:
    """Return the executed notebook, or raise ChapterFailed. Papermill's marks go: it calls a killed cell completed."""
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    source = copy.deepcopy(chapters.notebook(root, chapter))
    if not {"name", "display_name", "language"} <= set(source.metadata.get("kernelspec", {})):
        raise ChapterFailed("its header has no kernelspec with name, display_name and language")
    limits = chapters.LIMITS | chapters.profile_settings(root, stamp["profile"]).get("limits", {})
    source.cells.append(nbformat.v4.new_code_cell(LOADED))
    cells = sum(cell.cell_type == "code" for cell in source.cells) + bool(stamp["parameters"])  # in a cell of their own
    clock = _Clock(chapter, cells, limits)
    with tempfile.TemporaryDirectory() as folder, _set(environment(root) | {"IPYTHONDIR": folder}):
        origin, partial = Path(folder, "source.ipynb"), Path(folder, "partial.ipynb")
        nbformat.write(source, origin)
        try:
            done = papermill.execute_notebook(
                origin,
                partial,
                parameters=stamp["parameters"] or None,
                cwd=root / "chapters",
                progress_bar=bar,
                timeout_func=clock,
                iopub_timeout=OUTPUT_S,
                # Silent: it says each time that loopback is unencrypted, and now and then that it was interrupted.
                extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
            )
            loaded = json.loads(done.cells.pop()["outputs"][0]["text"])
            why = _fault(done, chapter) or _foreign(root, chapter, loaded)
        except papermill.PapermillExecutionError as error:
            why = f"cell [{error.exec_count}] raised {error.ename}: {error.evalue}"
        except CellTimeoutError as error:
            if "Timeout waiting for IOPub output" in str(error):  # nbclient raises the same error for both
                why = f"cell [{clock.cell}] ended, but its output did not come in {OUTPUT_S} s: the machine is too busy"
            else:
                why = clock.exceeded()
        except DeadKernelError:
            why = f"the kernel died in cell [{clock.cell}]: killed, or out of memory"
        if why:
            raise ChapterFailed(why, partial.read_text("utf-8"))
    for part in (done, *done.cells):
        part.metadata.pop("papermill", None)
    return done


class _Clock:
    """Gives each cell its time limit: its own or what is left of the chapter's. Reports the progress of long runs."""

    def __init__(self, chapter: str, cells: int, limits: dict[str, float]) -> None:
        self.chapter, self.cells, self.limits = chapter, cells, limits
        self.cell, self.last = 0, False
        self.start = self.reported = time.monotonic()

    def __call__(self, cell: nbformat.NotebookNode) -> float:
        self.cell += 1
        now = time.monotonic()
        if now - self.reported > 15:
            self.reported = now
            print(f"{self.chapter}: cell {self.cell} of {self.cells}, {now - self.start:.0f} s", flush=True)
        left = self.limits["chapter_s"] - (now - self.start)
        self.last = left < self.limits["cell_s"]  # told here: nbclient counts whole seconds, so time cannot tell
        return max(min(self.limits["cell_s"], left), 0.1)

    def exceeded(self) -> str:
        """Return the sentence that says which limit the stopped cell exceeded."""
        if self.last:
            return f"the chapter exceeded its limit of {self.limits['chapter_s']:g} s, in cell [{self.cell}]"
        return f"cell [{self.cell}] exceeded the limit of {self.limits['cell_s']:g} s for one cell"


def environment(root: Path) -> dict[str, str]:
    """Return a kernel's environment: one thread, absolute folders (it works in chapters/) and the book's own ``lib``.

    Matplotlib keeps its list of fonts below ``_build``: a home folder may be missing or read-only.
    """
    cache = Path(os.environ.get("SURVEY_CACHE") or root / "_build" / "cache").resolve()
    variables = {f"{name}_NUM_THREADS": "1" for name in ONE_THREAD}
    variables |= {"PYTHONHASHSEED": "0", "JUPYTER_PREFER_ENV_PATH": "1", "SURVEY_CACHE": str(cache)}
    variables |= {"MPLCONFIGDIR": str(root.resolve() / "_build" / "matplotlib")}
    if data := os.environ.get("SURVEY_DATA"):
        variables["SURVEY_DATA"] = str(Path(data).resolve())
    return variables | {"PYTHONPATH": search_path(root)}


def search_path(root: Path) -> str:
    """Return the ``PYTHONPATH`` with which Python finds the ``lib`` of the book at ``root`` first."""
    own = str(chapters.library(root).parent.resolve())
    others = [place for place in os.environ.get("PYTHONPATH", "").split(os.pathsep) if place and place != own]
    return os.pathsep.join([own, *others])


@contextmanager
def _set(variables: dict[str, str]) -> Iterator[None]:
    """Set these environment variables inside the block; afterwards restore all of them."""
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


LOADED = """import json as _json, sys as _sys
print(_json.dumps({name: _sys.modules[name].__file__ for name in sorted(_sys.modules) if name.split(".")[0] == "lib"}))
"""


def _foreign(root: Path, chapter: str, loaded: dict[str, str]) -> str:
    """Which module of ``lib`` a kernel had loaded that its fingerprint does not cover, as a sentence, or ""."""
    folder = chapters.library(root).resolve()
    known = imports.modules(folder, (path.resolve() for path in chapters.closure(root, chapter)))
    for name, file in loaded.items():
        if not Path(file).resolve().is_relative_to(folder):
            return f"its kernel imported {name} from outside the book's own lib: {file}"
        if name not in known:
            return f"it used {name} without importing it, so a change of that module would not repeat its run"
    return ""


def _fault(done: nbformat.NotebookNode, chapter: str) -> str:
    """What is wrong with a notebook that ran to its end: output on stderr, or records that cannot be kept; or ""."""
    for cell in done.cells:
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr" and output.text.strip():
                return f"cell [{cell.execution_count}] wrote to stderr: {output.text.strip().splitlines()[0]}"
    try:
        evidence.harvest(done, chapter)
    except ValueError as error:
        return str(error)
    return ""


def _versions() -> dict[str, str]:
    return {"python": sys.version.split()[0]} | {name: version(name) for name in VERSIONS}


def _peak_mib() -> int:
    return round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)


def _since(start: float) -> float:
    return round(time.monotonic() - start, 1)
