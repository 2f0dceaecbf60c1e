"""Run chapters again and compare their verdicts with the ledger: for a claim, a chapter, or as many as time allows."""

import json
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lib import imports
from lib.book import build, chapters, claims, execution, judging, last_run, ledger, wording
from lib.book.claims import Claim

SLOWER = 1.3  # how much slower a reader's machine may be than the one that recorded the times


def reproduce(
    root: Path,
    profile: str,
    *,
    claim: str | None = None,
    chapter: str | None = None,
    minutes: float | None = None,
    cores: int = 2,
) -> int:
    """Run the chapters that are not up to date; print held and new verdict side by side; return 1 if one flips.

    A verdict that differs only because one of the two runs leaves it open is named, and does not count as a flip
    (:func:`lib.book.judging.flips`).

    root: the book's folder.
    profile: a profile's name.
    claim: only the chapters that decide this claim, and only its verdict.
    chapter: only this chapter, and the claims that it decides alone.
    minutes: stop after this time. Chapters whose code changed within a day before the last commit come first; the
        others take turns, so that each commit begins with a different one.
    cores: how many chapters may run at once.
    Raises ValueError for an unknown profile, claim or chapter, for a claim and a chapter together, and for a
        number of minutes that is not above 0.
    """
    if minutes is not None and not 0 < minutes < 10**6:
        raise ValueError(f"minutes must be above 0, not {minutes:g}")
    if claim and chapter:
        raise ValueError(f"name a claim or a chapter, not both: {claim} and {chapter}")
    chapters.profile_settings(root, profile)
    judged_claims = [entry for entry in ledger.load_claims(root) if entry.rules.get(profile)]
    chosen = chapters.names_in(root, profile)
    if claim:
        judged_claims = [_named(root, claim, profile)]
        chosen = sorted(_deciding(root, judged_claims[0], profile))
    elif chapter:
        chapters.notebook(root, chapter)
        chosen = [chapter]
    start = time.monotonic()
    if minutes is not None:
        chosen = fitting(root, profile, in_turn(root, chosen), 60 * minutes, cores)
    print(f"Reproducing {', '.join(chosen)} in the {profile} profile")
    left = None if minutes is None else 60 * minutes - (time.monotonic() - start)
    problems = execution.execute(root, profile, cores, chosen, left)
    late = [name for name in chosen if last_run.status(root, name, profile)["status"] == "not run"]
    if minutes is not None and late:
        print(f"Not finished within {minutes:g} minutes, so not judged: {', '.join(late)}")
        problems = [problem for problem in problems if problem.split(":")[0].removeprefix("chapter ") not in late]
    judged, unsure, flipped = _verdicts(root, profile, judged_claims)
    print(f"{judged - unsure - flipped} verdicts reproduced, {unsure} left open by one of two runs, {flipped} flipped")
    if not judged:
        problems.append("no verdict was judged: allow more minutes, or choose another claim or chapter")
    return max(build.conclusion(problems), int(bool(flipped)))


def in_turn(root: Path, names: list[str]) -> list[str]:
    """Return the chapters whose code changed recently, then the others; each commit rotates both groups by one.

    root: the book's folder.
    names: the chapters to order.
    """
    begin = turn(root)
    changed = _changed(root)
    lately = [name for name in names if not changed.isdisjoint(_paths(root, name))]
    others = [name for name in names if name not in lately]
    return [*rotated(lately, begin), *rotated(others, begin)]


def turn(root: Path) -> int:
    """Return the number of commits, by which lists are rotated; 0 if git cannot tell.

    root: the book's folder.
    """
    return int(_git(root, "rev-list", "--count", "HEAD") or 0)


def rotated(items: Iterable[Any], turn: int) -> list[Any]:
    """Return the items rotated to the left.

    items: any number of them.
    turn: by how many places; it may exceed their number.

    >>> rotated("abc", 4)
    ['b', 'c', 'a']
    """
    items = list(items)
    return items[turn % len(items) :] + items[: turn % len(items)] if items else []


def fitting(root: Path, profile: str, names: list[str], seconds: float, cores: int) -> list[str]:
    """Return as many of the chapters, from the first, as should finish in time by their recorded times; at least one.

    root: the book's folder.
    profile: a profile's name.
    names: the chapters, in the order of their importance.
    seconds: the time available.
    cores: how many chapters run at once.
    """
    expected = {}
    for name in names:
        path = last_run.committed_results(root, profile) / f"{name}.json"
        known = json.loads(path.read_text("utf-8")).get("run", {}) if path.exists() else {}
        expected[name] = SLOWER * known.get("seconds", 0.0)
    chosen: list[str] = []
    spent = 0.0
    for name in names:
        cost = expected[name] / (1 if chapters.header(root, name)["alone"] else cores)
        if max(expected[name], spent + cost) <= seconds:  # after one that is too long, a shorter one may still fit
            chosen.append(name)
            spent += cost
    return chosen or sorted(names, key=lambda name: expected[name])[:1]


def _verdicts(root: Path, profile: str, judged_claims: list[Claim]) -> tuple[int, int, int]:
    """Print each claim that the runs decide; return how many there are, are left open by one run, and flip."""
    built = ledger.load_results(profile, root, built=True)
    kept = ledger.load_results(profile, root)
    judged = unsure = flipped = 0
    for claim in judged_claims:
        keys = claim.keys(profile)
        if not keys <= built.keys():
            continue
        judged += 1
        now = judging.judge(claim, profile, built)
        then = judging.judge(claim, profile, kept) if keys <= kept.keys() else None
        flips = judging.flips(now, claim, then)
        differs = judging.contradicts(now, claim)
        flipped += flips
        unsure += differs and not flips
        mark = "FLIPPED " if flips else "LEFT OPEN " if differs else ""
        print(f"{mark}{claim.id}: held {claim.verdict}, here {now.verdict}")
        before = then.findings if then else (None,) * len(now.findings)
        for new, old in zip(now.findings, before, strict=True):
            was = f", committed {wording.measured(old)}" if old else ""
            print(f"    {wording.quantity(new.rule)}: here {wording.measured(new)}{was} ({new.outcome})")
    return judged, unsure, flipped


def _named(root: Path, id: str, profile: str) -> Claim:
    by_id = {claim.id: claim for claim in ledger.load_claims(root)}
    if id not in by_id:
        near = [known for known in by_id if known.split("-")[0] == id.split("-")[0]]
        raise ValueError(f"claim must be one of {', '.join(near or by_id)}, not {id!r}")
    claim = by_id[id]
    if claim.verdict == claims.NOT_TESTABLE:
        raise ValueError(f"the claim {id} is not testable here: {' '.join((claim.because or '').split())}")
    if profile not in claim.rules:
        raise ValueError(f"the profile for the claim {id} must be one of {', '.join(claim.rules)}, not {profile!r}")
    return claim


def _deciding(root: Path, claim: Claim, profile: str) -> set[str]:
    """The chapters that record what the claim's rules name."""
    keys = claim.keys(profile)
    recorded: dict[str, str] = {}
    for path in ledger.result_files(profile, root):
        recorded |= dict.fromkeys(ledger.load_result(path)["records"].keys() & keys, path.stem)
    for key in keys - recorded.keys():  # never recorded: the chapter whose name the key begins with
        known = [name for name in chapters.names(root) if key.startswith(f"{name}.")]
        if not known:
            raise ValueError(f"no record of the {profile} profile holds {key!r}: run the whole book once")
        recorded[key] = known[0]
    return set(recorded.values())


def _paths(root: Path, chapter: str) -> set[str]:
    library = chapters.library(root)
    files = [path.relative_to(library.parent).as_posix() for path in chapters.closure(root, chapter)]
    return {f"chapters/{chapter}.py", *files}


def _changed(root: Path) -> set[str]:
    """The chapters and files of lib whose code commits of the last day changed, not only words; none without git."""
    when = _git(root, "log", "-1", "--format=%ct")
    if not when:
        return set()
    day = int(when) - 86400
    folders = "--", "chapters", "lib"
    touched = set(_git(root, "log", f"--since={day}", "--name-only", "--format=", *folders).split("\n")) - {""}
    before = _git(root, "rev-list", "-1", f"--before={day}", "HEAD")
    return {name for name in touched if not before or _code(root, before, name) != _code(root, "HEAD", name)}


def _code(root: Path, commit: str, name: str) -> str:
    text = _git(root, "show", f"{commit}:{name}")
    return imports.code(text) if name.endswith(".py") else text


def _git(root: Path, *command: str) -> str:
    try:
        done = subprocess.run(["git", "-C", root, *command], capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
