"""From sources to pages: run the chapters that are not up to date, build the pages, check them, show them."""

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from filelock import FileLock

from lib import chapters, checks, ledger
from lib.evidence import formatted, interval

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
    with FileLock(root / "_build" / "html.lock"):
        problems += pages(root, profile)
        problems += gates(root, profile)
    print(f"\nChapters of the {profile} profile")
    for chapter in chapters.names(root):
        said = chapters.status(root, chapter, profile)
        print(f"  {chapter:<24} {said['status']:<8} {said['seconds']:>8.1f} s {said['peak_mib']:>6} MiB")
    print(f"Whole build {time.monotonic() - start:.1f} s")
    print(f"The book is at {root / '_build' / 'html' / 'index.html'}  (make serve shows it)")
    return conclusion(problems)


def check(root: Path, profile: str) -> int:
    """The gates alone, on the pages that were built last."""
    return conclusion(gates(root, profile))


def execute(root: Path, profile: str, cores: int) -> list[str]:
    """Run, through Snakemake, every chapter whose fingerprint changed. Returns a sentence for each that has no run."""
    log = root / "_build" / "logs" / "snakemake.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    before = [chapter for chapter in chapters.names(root) if chapters.executed(root, chapter, profile) is not None]
    for chapter in before:
        print(f"{chapter}: up to date", flush=True)
    # Forced by our own stamps: of a run that was killed at its very end Snakemake has kept no parameters to compare.
    paths = [chapters.output(root, chapter, profile) for chapter in chapters.names(root) if chapter not in before]
    stale = [path.relative_to(root).as_posix() for path in paths if path.exists()]
    command = [sys.executable, "-m", "snakemake", "--snakefile", root / "Snakefile", "--directory", root]
    command += ["--cores", str(cores), "--config", f"profile={profile}", *SNAKEMAKE]
    command += ["--forcerun", *stale] if stale else []
    with log.open("w") as noise:
        ended = _wait(subprocess.Popen(command, stderr=noise))
    problems = []
    for chapter in chapters.names(root):
        said = chapters.status(root, chapter, profile)
        if said["status"] == "ok":
            chapters.write_results(root, chapters.executed(root, chapter, profile))
        else:
            problems.append(f"chapter {chapter}: {said['error']}")
    if ended and not problems:
        problems.append(f"snakemake failed: {_last_lines(log)}")
    return problems


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
        ended = _wait(subprocess.Popen(command, stdout=noise, stderr=noise, cwd=root, env=environment))
    warnings = _warnings(root, log.read_text("utf-8"))
    if ended and not warnings:
        warnings = [f"the build ended with status {ended}: {_last_lines(log)}"]
    return [f"pages: {warning}" for warning in warnings]


def gates(root: Path, profile: str) -> list[str]:
    """Hold every gate against the sources and the pages. Prints how much each looked at; returns what fails."""
    problems = []
    for name, gate in checks.GATES.items():
        count, found = gate(root)
        print(f"  {name}: {count} checked, {len(found)} wrong")
        problems += [f"{name}: {problem}" for problem in found] or ([] if count else [f"{name}: nothing to check"])
    counts, found = ledger.gate(root, profile)
    judged = ", ".join(f"{n} in the {name} profile" for name, n in counts.items())
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


def compare(root: Path, profile: str) -> int:
    """Print which results lie beyond the interval of the committed ones; return 1 where any does.

    Timing is left out: it belongs to a machine.
    """
    moved = compared = 0
    for path in sorted((root / "results" / profile).glob("*.json")):
        name = path.relative_to(root).as_posix()
        shown = subprocess.run(["git", "-C", root, "show", f"HEAD:{name}"], capture_output=True, text=True)
        if shown.returncode:
            print(f"{name}: not committed yet")
            continue
        new, old = json.loads(path.read_text("utf-8"))["records"], json.loads(shown.stdout)["records"]
        for key in sorted(new.keys() | old.keys()):
            compared += 1
            if says := _moved(key, old.get(key), new.get(key)):
                print(f"{key}: {says}")
                moved += 1
    print(f"{compared} results compared with the committed ones, {moved} moved")
    if not compared:
        raise ValueError(f"nothing to compare: results/{profile} holds no results that are committed at HEAD")
    return 1 if moved else 0


def _moved(key: str, old: dict[str, Any] | None, new: dict[str, Any] | None) -> str:
    if old is None or new is None:
        return "new" if old is None else "gone"
    if "latency" in key or "seconds" in key:
        return ""
    (was, half), (now, other_half) = interval(old["values"]), interval(new["values"])
    if abs(now - was) <= half + other_half + 1e-9 * abs(was):
        return ""
    form = {"unit": new["unit"], "digits": new["digits"]}
    return f"was {formatted(old['values'], **form)}, is {formatted(new['values'], **form)}"


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


def _wait(process: subprocess.Popen) -> int:
    """The process's exit status. Ctrl-C reaches it too; it gets the time to stop its own."""
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        print("Stopped. The same command goes on from here: finished chapters are kept.", file=sys.stderr)
        sys.exit(130)


def _last_lines(log: Path) -> str:
    lines = [line.strip() for line in log.read_text("utf-8").splitlines() if line.strip()]
    return " / ".join(lines[-5:]) or f"it said nothing ({log})"
