"""Run the chapters that are out of date, through Snakemake, which decides on order, cores and nodes."""

import os
import subprocess
import sys
from collections.abc import Collection
from contextlib import ExitStack
from pathlib import Path

from lib.book import chapters, last_run, processes, run, warm

# A notebook is written in one step at the end of its run, so it is complete even if Snakemake marked it incomplete.
SNAKEMAKE = ("--keep-going", "--ignore-incomplete", "--nolock", "--rerun-triggers", "params", "input")


def execute(
    root: Path, profile: str, cores: int, only: Collection[str] | None = None, seconds: float | None = None
) -> list[str]:
    """Run every chapter whose fingerprint changed. Returns a sentence for each that then has no run.

    root: the book's folder.
    profile: a profile's name.
    cores: how many chapters may run at once.
    only: the chapters to run, with those that they need; by default all.
    seconds: runs still going after this time are stopped, and finished ones are kept; by default there is no limit.
    """
    chosen = chapters.with_needs(root, chapters.names_in(root, profile) if only is None else only)
    log = root / "_build" / "logs" / "snakemake.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    before = [chapter for chapter in chosen if last_run.executed(root, chapter, profile) is not None]
    for chapter in before:
        print(f"{chapter}: up to date", flush=True)
    waiting = [chapter for chapter in chosen if chapter not in before]
    ended = _snakemake(root, profile, cores, waiting, log, seconds) if waiting else 0
    problems, explained = [], False
    for chapter in chosen:
        done, results = last_run.executed(root, chapter, profile), last_run.built_results(root, profile)
        if done is not None:
            last_run.write_results(root, done, results)
            continue
        (results / f"{chapter}.json").unlink(missing_ok=True)
        status = last_run.status(root, chapter, profile)
        explained |= status["status"] == "failed"
        problems.append(f"chapter {chapter}: {status['error']}")
    if ended and not explained:  # Snakemake failed for another reason than a chapter
        problems.append(f"snakemake failed: {processes.last_lines(log)}")
    return problems


def _snakemake(root: Path, profile: str, cores: int, waiting: list[str], log: Path, seconds: float | None) -> int:
    """Let Snakemake run these chapters; return its exit status."""
    # Force what our own stamps call stale: after a run was killed at its very end, Snakemake has nothing to compare.
    paths = [last_run.output(root, chapter, profile) for chapter in waiting]
    stale = [path.relative_to(root).as_posix() for path in paths if path.exists()]
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(root / "Snakefile"), "--directory", str(root)]
    command += ["--cores", str(cores), "--config", f"profile={profile}", *SNAKEMAKE]
    command += ["--forcerun", *stale] if stale else []
    command += ["--", *(path.relative_to(root).as_posix() for path in paths)]
    with log.open("w") as noise, ExitStack() as held:
        environment = os.environ | {"PYTHONPATH": run.search_path(root)}
        if len(waiting) > 1:
            environment[warm.PLACE] = held.enter_context(warm.server(root, run.environment(root)))
        return processes.wait(subprocess.Popen(command, stderr=noise, env=environment), seconds)
