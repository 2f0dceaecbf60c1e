"""The commands that turn the sources into pages and records. Each returns its exit status."""

import sys
import time
from pathlib import Path

from filelock import FileLock

from lib.book import (
    built,
    chapters,
    choices,
    doctor,
    execution,
    findings,
    form,
    gates,
    last_run,
    pages,
    quizzes,
    reading,
    records,
)


def book(root: Path, profile: str, cores: int) -> int:
    """Build the whole book. Returns 0 if every chapter ran, the pages built without a warning, and all gates pass.

    A failure stops nothing else: everything that can be built is built, and all failures are listed at the end.

    root: the book's folder.
    profile: a profile's name.
    cores: how many chapters may run at once.
    Raises ValueError for an unknown profile or one without pages, and for a book without chapters.
    """
    chapters.profile_settings(root, profile)
    if not chapters.names(root):
        raise ValueError(f"{root / 'chapters'} must hold at least one chapter, a notebook in percent format: <name>.py")
    if chapters.names_in(root, profile) != chapters.names(root):
        raise ValueError(
            f"the {profile} profile runs only some chapters and has no pages: use make record PROFILE={profile}"
        )
    start = time.monotonic()
    problems = execution.execute(root, profile, cores)
    if doctor.main(chapters.library(root).parent):  # seconds the first time, then its verdict is kept
        problems.append("doctor: a kernel that the book uses gives wrong results on this machine (see above)")
    problems = _pages_and_gates(root, profile, problems)
    print(f"\nChapters of the {profile} profile")
    for chapter in chapters.names(root):
        status = last_run.status(root, chapter, profile)
        print(f"  {chapter:<24} {status['status']:<8} {status['seconds']:>8.1f} s {status['peak_mib']:>6} MiB")
    print(f"Whole build {time.monotonic() - start:.1f} s")
    print(f"The book is at {pages.site(root) / 'index.html'}  (make serve shows it)")
    return conclusion(problems)


def assemble(root: Path, profile: str) -> int:
    """Build the pages from existing runs, wherever those were made, and run the gates.

    root: the book's folder.
    profile: a profile's name.
    Raises ValueError for an unknown profile.
    """
    chapters.profile_settings(root, profile)
    problems = []
    for chapter in chapters.names(root):
        if (done := last_run.executed(root, chapter, profile)) is None:
            problems.append(f"chapter {chapter}: {last_run.status(root, chapter, profile)['error']}")
        else:
            last_run.write_results(root, done, last_run.built_results(root, profile))
    problems = _pages_and_gates(root, profile, problems)
    print(f"The book is at {pages.site(root) / 'index.html'}  (make serve shows it)")
    return conclusion(problems)


def page(root: Path, chapter: str, profile: str) -> int:
    """Preview one chapter's page, in seconds; the chapter runs first if its last run is out of date.

    root: the book's folder.
    chapter: a chapter's name.
    profile: the profile whose run the page shows.
    Raises ValueError for an unknown chapter or profile.
    """
    chapters.profile_settings(root, profile)
    chapters.notebook(root, chapter)
    problems = execution.execute(root, profile, 1, [chapter]) + pages.preview(root, chapter, profile)
    if (built := pages.preview_page(root, chapter)).exists():
        print(f"The page is at {built}")
    return conclusion(problems)


def record(root: Path, profile: str, cores: int, chapter: str | None = None) -> int:
    """Run the chapters that are out of date and write the committed records in ``results/``.

    root: the book's folder.
    profile: a profile's name.
    cores: how many chapters may run at once.
    chapter: only this chapter; by default all.
    Raises ValueError for an unknown profile or chapter.
    """
    chapters.profile_settings(root, profile)
    if chapter:
        chapters.notebook(root, chapter)
    only = [chapter] if chapter else None
    execution.execute(root, profile, cores, only)  # the next line names chapters that still have no run
    return conclusion(records.record(root, profile, only))


def check(root: Path, profile: str) -> int:
    """Run only the gates, on the pages that were built last.

    root: the book's folder.
    profile: the profile whose results the verdicts are checked against.
    """
    return conclusion(hold_gates(root, profile))


def hold_gates(root: Path, profile: str) -> list[str]:
    """Run every gate on the sources and the pages. Prints how many things each checked; returns the failures.

    root: the book's folder.
    profile: the profile whose results the verdicts are checked against.
    """
    problems = []
    on_pages = {**gates.GATES, **form.GATES, **reading.GATES}
    for name, gate in {**on_pages, **findings.GATES, **choices.GATES, **quizzes.GATES, "records": records.gate}.items():
        count, wrong = gate(root)
        print(f"  {name}: {count} checked, {len(wrong)} wrong")
        problems += [f"{name}: {problem}" for problem in wrong] or ([] if count else [f"{name}: nothing to check"])
    counts, wrong = gates.verdicts(root, profile)
    judged = ", ".join(f"{n} in the {name}" for name, n in counts.items())
    print(f"  verdicts: {judged or 'none'} judged, {len(wrong)} wrong")
    return problems + [f"verdicts: {problem}" for problem in wrong]


def conclusion(problems: list[str]) -> int:
    """Print every problem; return the exit status, 0 if there are none."""
    for problem in problems:
        print(f"FAILED  {problem}", file=sys.stderr)
    if problems:
        print(f"{len(problems)} problem{'s' * (len(problems) > 1)}", file=sys.stderr)
    return 1 if problems else 0


def _pages_and_gates(root: Path, profile: str, problems: list[str]) -> list[str]:
    """Build the pages and run the gates; return the given problems and the new ones, and mark a build without any."""
    with FileLock(root / "_build" / "html.lock"):  # a second build waits for the first
        problems = problems + pages.build(root, profile) + hold_gates(root, profile)
        if not problems:
            built.mark(root, profile)
    return problems
