"""From sources to pages: run the chapters that are not up to date, build the pages, check them, show them."""

import functools
import http.server
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterable
from contextlib import ExitStack, suppress
from pathlib import Path

from filelock import FileLock

from lib.book import chapters, doctor, gates, ledger, records, run, warm

# A notebook is written in one step at the end of its run: one that is there is complete, whatever Snakemake was told.
SNAKEMAKE = ("--keep-going", "--ignore-incomplete", "--nolock", "--rerun-triggers", "params", "input")
JUPYTER_BOOK = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"


def book(root: Path, profile: str, cores: int) -> int:
    """Build the whole book. Returns 0 where every chapter ran, the pages built without a warning and all gates hold.

    One failure stops nothing else: all that can be built is built, and every failure is named at the end.
    """
    chapters.profile_settings(root, profile)
    if not chapters.names(root):
        raise ValueError(f"{root / 'chapters'} holds no chapter: accepted are notebooks in percent format, <name>.py")
    start = time.monotonic()
    problems = execute(root, profile, cores)
    if doctor.main(chapters.library(root).parent):  # kept for this processor and these versions: seconds once
        problems.append("doctor: a kernel that the book uses is wrong on this machine, as said above")
    problems += _pages_and_gates(root, profile)
    print(f"\nChapters of the {profile} profile")
    for chapter in chapters.names(root):
        said = chapters.status(root, chapter, profile)
        print(f"  {chapter:<24} {said['status']:<8} {said['seconds']:>8.1f} s {said['peak_mib']:>6} MiB")
    print(f"Whole build {time.monotonic() - start:.1f} s")
    print(f"The book is at {root / '_build' / 'html' / 'index.html'}  (make serve shows it)")
    return conclusion(problems)


def assemble(root: Path, profile: str) -> int:
    """Build the pages of runs that are there already, wherever they were made, and hold the gates against them."""
    chapters.profile_settings(root, profile)
    problems = []
    for chapter in chapters.names(root):
        if (done := chapters.executed(root, chapter, profile)) is None:
            problems.append(f"chapter {chapter}: {chapters.status(root, chapter, profile)['error']}")
        else:
            chapters.write_results(root, done, chapters.built_results(root, profile))
    problems += _pages_and_gates(root, profile)
    print(f"The book is at {root / '_build' / 'html' / 'index.html'}  (make serve shows it)")
    return conclusion(problems)


def _pages_and_gates(root: Path, profile: str) -> list[str]:
    with FileLock(root / "_build" / "html.lock"):  # of two builds at once the second waits for the first
        return pages(root, profile) + hold_gates(root, profile)


def check(root: Path, profile: str) -> int:
    """The gates alone, on the pages that were built last."""
    return conclusion(hold_gates(root, profile))


def execute(
    root: Path, profile: str, cores: int, only: Collection[str] | None = None, seconds: float | None = None
) -> list[str]:
    """Run, through Snakemake, every chapter whose fingerprint changed. Returns a sentence for each that has no run.

    only: the chapters to run, with those that they need; by default all.
    seconds: what is still running after that time is stopped; what is finished stays.
    """
    chosen = with_needs(root, chapters.names(root) if only is None else only)
    log = root / "_build" / "logs" / "snakemake.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    before = [chapter for chapter in chosen if chapters.executed(root, chapter, profile) is not None]
    for chapter in before:
        print(f"{chapter}: up to date", flush=True)
    ended = 0
    if waiting := [chapter for chapter in chosen if chapter not in before]:
        # Forced by our own stamps: of a run that was killed at its very end Snakemake has no parameters to compare.
        paths = [chapters.output(root, chapter, profile) for chapter in waiting]
        stale = [path.relative_to(root).as_posix() for path in paths if path.exists()]
        command = [sys.executable, "-m", "snakemake", "--snakefile", root / "Snakefile", "--directory", root]
        command += ["--cores", str(cores), "--config", f"profile={profile}", *SNAKEMAKE]
        command += ["--forcerun", *stale] if stale else []
        command += ["--", *(path.relative_to(root).as_posix() for path in paths)]
        with log.open("w") as noise, ExitStack() as held:
            environment = os.environ | {"PYTHONPATH": run.environment(root)["PYTHONPATH"]}
            if len(waiting) > 1:
                environment[warm.PLACE] = held.enter_context(warm.server(root, run.environment(root)))
            ended = _wait(subprocess.Popen(command, stderr=noise, env=environment), seconds)
    problems, explained = [], False
    for chapter in chosen:
        done, results = chapters.executed(root, chapter, profile), chapters.built_results(root, profile)
        if done is not None:
            chapters.write_results(root, done, results)
            continue
        (results / f"{chapter}.json").unlink(missing_ok=True)
        said = chapters.status(root, chapter, profile)
        explained |= said["status"] == "failed"
        problems.append(f"chapter {chapter}: {said['error']}")
    if ended and not explained:  # no chapter of its own failed
        problems.append(f"snakemake failed: {_last_lines(log)}")
    return problems


def with_needs(root: Path, chosen: Iterable[str]) -> list[str]:
    """The chapters and all that they need, in the order of their names."""
    found: set[str] = set()
    waiting = list(chosen)
    while waiting:
        chapter = waiting.pop()
        if chapter not in found:
            found.add(chapter)
            waiting += chapters.header(root, chapter)["needs"]
    return sorted(found)


def pages(root: Path, profile: str) -> list[str]:
    """Build the pages anew: what an earlier build left would hide what is missing now. Returns the warnings."""
    built, log = root / "_build" / "html", root / "_build" / "logs" / "html.log"
    for stale in (built, root / "_build" / ".doctrees", root / "_build" / "jupyter_execute"):
        shutil.rmtree(stale, ignore_errors=True)
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"Building the pages in {built}", flush=True)
    command = [sys.executable, "-c", JUPYTER_BOOK, "build", root, "-W", "-n", "--keep-going", "--all", "-q"]
    with log.open("w") as noise:
        environment = os.environ | {"SURVEY_PROFILE": profile, "NO_COLOR": "1"}
        environment["PYTHONPATH"] = run.environment(root)["PYTHONPATH"]
        ended = _wait(subprocess.Popen(command, stdout=noise, stderr=noise, cwd=root, env=environment))
    warnings = _warnings(root, log.read_text("utf-8"))
    if ended and not warnings:
        warnings = [f"the build ended with status {ended}: {_last_lines(log)}"]
    return [f"pages: {warning}" for warning in warnings]


def hold_gates(root: Path, profile: str) -> list[str]:
    """Hold every gate against the sources and the pages. Prints how much each looked at; returns what fails."""
    problems = []
    for name, gate in {**gates.GATES, "records": records.gate}.items():
        count, found = gate(root)
        print(f"  {name}: {count} checked, {len(found)} wrong")
        problems += [f"{name}: {problem}" for problem in found] or ([] if count else [f"{name}: nothing to check"])
    counts, found = ledger.gate(root, profile)
    judged = ", ".join(f"{n} in the {name}" for name, n in counts.items())
    print(f"  verdicts: {judged or 'none'} judged, {len(found)} wrong")
    return problems + [f"verdicts: {problem}" for problem in found]


def conclusion(problems: list[str]) -> int:
    """Name every problem; return the exit status."""
    for problem in problems:
        print(f"FAILED  {problem}", file=sys.stderr)
    if problems:
        print(f"{len(problems)} problems", file=sys.stderr)
    return 1 if problems else 0


def serve(root: Path, port: int) -> int:
    """Show the built pages on 127.0.0.1, at ``port`` or the next free one, until Ctrl-C."""
    pages = root / "_build" / "html"
    if not (pages / "index.html").exists():
        raise ValueError(f"there is no page at {pages / 'index.html'}: build the book first, with make book")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=pages)
    for candidate in range(port, port + 20):
        try:
            server = http.server.ThreadingHTTPServer(("127.0.0.1", candidate), handler)
        except OSError:
            continue
        print(f"The book is at http://127.0.0.1:{candidate}/  (Ctrl-C ends)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    raise ValueError(f"no port from {port} to {port + 19} is free on 127.0.0.1: name another with --port")


def _warnings(root: Path, said: str) -> list[str]:
    """The build's warnings, once each, at most five of one file: a chapter without a run would give dozens."""
    said = re.sub(r"\x1b\[[\d;]*m", "", said).replace(f"{root}{os.sep}", "")
    said = re.sub(r"(\.py):(\d+)(\d{4}):", lambda at: f"{at[1]}, cell {at[2]}, line {int(at[3])}:", said)
    shown: dict[str, list[str]] = {}
    for line in dict.fromkeys(line.strip() for line in said.splitlines() if "WARNING:" in line or "ERROR:" in line):
        shown.setdefault(re.split("[:,]", line)[0], []).append(line)
    more = [
        f"{file}: {len(lines) - 5} more, in _build/logs/html.log" for file, lines in shown.items() if len(lines) > 5
    ]
    return [line for lines in shown.values() for line in lines[:5]] + more


def _wait(process: subprocess.Popen, seconds: float | None = None) -> int:
    """The process's exit status. Ctrl-C reaches it too; it gets the time to stop its own.

    seconds: after that time it is stopped with all that it started, and its status is 0.
    """
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        stop(process)
        return 0
    except KeyboardInterrupt:
        process.wait()
        print("Stopped. The same command goes on from here: finished chapters are kept.", file=sys.stderr)
        sys.exit(130)


def stop(process: subprocess.Popen) -> None:
    """End a process and all that it started: first those that start others, then what is left of them."""
    family, waiting = [], [process.pid]
    while waiting:
        parent = waiting.pop()
        family.append(parent)
        for children in Path("/proc", str(parent), "task").glob("*/children"):
            with suppress(OSError):
                waiting += map(int, children.read_text().split())
    for one in family:
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    process.wait()


def _last_lines(log: Path) -> str:
    lines = [line.strip() for line in log.read_text("utf-8").splitlines() if line.strip()]
    return " / ".join(lines[-5:]) or f"it said nothing ({log})"
