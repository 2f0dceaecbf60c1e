"""Run chapters again and hold their verdicts against the ledger: a claim, a chapter, or as many as fit in a time."""

import json
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

from lib.book import build, chapters, ledger

SLOWER = 1.3  # a stranger's machine against the one that recorded the times


def reproduce(
    root: Path,
    profile: str,
    *,
    claim: str | None = None,
    chapter: str | None = None,
    minutes: float | None = None,
    cores: int = 2,
) -> int:
    """Run the chapters that are not up to date; print held and new verdict side by side; return 1 where one flips.

    claim: only the chapters that decide this claim, and only its verdict.
    chapter: only this chapter, and the claims that it decides alone.
    minutes: stop after this time. Chapters whose sources changed within a day before the last commit come first; the
        others take turns, so that each commit begins with another one.
    Raises ValueError for a claim, a chapter or a number of minutes that does not exist.
    """
    if minutes is not None and not 0 < minutes < 10**6:
        raise ValueError(f"minutes is {minutes:g}: accepted is a number above 0")
    if claim and chapter:
        raise ValueError(f"both the claim {claim} and the chapter {chapter} are named: accepted is one of them")
    claims = [one for one in ledger.load_claims(root) if one.rules.get(profile)]
    chosen = chapters.names(root)
    if claim:
        claims = [_named(root, claim, profile)]
        chosen = sorted(_deciding(root, claims[0], profile))
    elif chapter:
        chapters.notebook(root, chapter)
        chosen = [chapter]
    chapters.profile_settings(root, profile)
    start = time.monotonic()
    if minutes is not None:
        chosen = fitting(root, profile, in_turn(root, chosen), 60 * minutes, cores)
    print(f"Reproducing {', '.join(chosen)} in the {profile} profile")
    left = None if minutes is None else 60 * minutes - (time.monotonic() - start)
    problems = build.execute(root, profile, cores, chosen, left)
    late = [name for name in chosen if chapters.status(root, name, profile)["status"] == "not run"]
    if minutes is not None and late:
        print(f"Not finished within {minutes:g} minutes, so not judged: {', '.join(late)}")
        problems = [problem for problem in problems if problem.split(":")[0].removeprefix("chapter ") not in late]
    judged, flipped = _verdicts(root, profile, claims)
    print(f"{judged} verdicts reproduced, {flipped} flipped")
    if not judged:
        problems.append("no verdict was judged: give it more minutes, or another claim or chapter")
    return max(build.conclusion(problems), int(bool(flipped)))


def in_turn(root: Path, names: list[str]) -> list[str]:
    """The chapters whose sources changed lately, then the others; both begin with another one at each commit."""
    turn = int(_git(root, "rev-list", "--count", "HEAD") or 0)
    changed = _changed(root)
    lately = [name for name in names if not changed.isdisjoint(_paths(root, name))]
    others = [name for name in names if name not in lately]
    return [*_rotated(lately, turn), *_rotated(others, turn)]


def fitting(root: Path, profile: str, names: list[str], seconds: float, cores: int) -> list[str]:
    """As many of the chapters, from the first, as their recorded times let hope to finish in time; always one."""
    expected = {}
    for name in names:
        path = chapters.committed_results(root, profile) / f"{name}.json"
        known = json.loads(path.read_text("utf-8")).get("run", {}) if path.exists() else {}
        expected[name] = SLOWER * known.get("seconds", 0.0)
    chosen: list[str] = []
    spent = 0.0
    for name in names:
        cost = expected[name] / (1 if chapters.header(root, name)["alone"] else cores)
        if max(expected[name], spent + cost) <= seconds:  # of those after a long one, a shorter one may still fit
            chosen.append(name)
            spent += cost
    return chosen or (names and [min(names, key=expected.get)])


def _verdicts(root: Path, profile: str, claims: list[ledger.Claim]) -> tuple[int, int]:
    """Print a line for each claim that this build's runs decide; return how many, and how many flipped."""
    built = ledger.load_results(profile, root, built=True)
    kept = ledger.load_results(profile, root)
    judged = flipped = 0
    for claim in claims:
        keys = {key for rule in claim.rules[profile] for key in rule.keys}
        if not keys <= built.keys():
            continue
        judged += 1
        now = ledger.judge(claim, profile, built)
        flips = ledger.contradiction(claim, now) is not None
        flipped += flips
        print(f"{'FLIPPED ' if flips else ''}{claim.id}: held {claim.verdict}, here {now.verdict}")
        before = ledger.judge(claim, profile, kept).findings if keys <= kept.keys() else (None,) * len(now.findings)
        for new, old in zip(now.findings, before, strict=True):
            was = f", committed {ledger.measured(old)}" if old else ""
            print(f"    {ledger.quantity(new.rule)}: here {ledger.measured(new)}{was} ({new.outcome})")
    return judged, flipped


def _named(root: Path, id: str, profile: str) -> ledger.Claim:
    claims = {claim.id: claim for claim in ledger.load_claims(root)}
    if id not in claims:
        near = [known for known in claims if known.split("-")[0] == id.split("-")[0]]
        raise ValueError(f"no claim has the id {id!r}: accepted are {', '.join(near or claims)}")
    claim = claims[id]
    if claim.verdict == ledger.NOT_TESTABLE:
        raise ValueError(f"the claim {id} is not testable here: {' '.join((claim.because or '').split())}")
    if profile not in claim.rules:
        raise ValueError(f"the claim {id} has no rule for the {profile} profile: accepted are {', '.join(claim.rules)}")
    return claim


def _deciding(root: Path, claim: ledger.Claim, profile: str) -> set[str]:
    """The chapters that record what the claim's rules name."""
    keys = {key for rule in claim.rules[profile] for key in rule.keys}
    found = {}
    for path in ledger.result_files(profile, root):
        found |= dict.fromkeys(ledger.load_result(path)["records"].keys() & keys, path.stem)
    for key in keys - found.keys():  # never recorded: the chapter whose name the key begins with
        known = [name for name in chapters.names(root) if key.startswith(f"{name}.")]
        if not known:
            raise ValueError(f"no record of the {profile} profile holds {key!r}: run the whole book once")
        found[key] = known[0]
    return set(found.values())


def _paths(root: Path, chapter: str) -> set[str]:
    library = chapters.library(root)
    files = [path.relative_to(library.parent).as_posix() for path in chapters.closure(root, chapter)]
    return {f"chapters/{chapter}.py", *files}


def _changed(root: Path) -> set[str]:
    """The files that commits of the last day before HEAD touched; none outside a repository."""
    when = _git(root, "log", "-1", "--format=%ct")
    if not when:
        return set()
    return set(_git(root, "log", f"--since={int(when) - 86400}", "--name-only", "--format=").split("\n")) - {""}


def _git(root: Path, *command: str) -> str:
    try:
        done = subprocess.run(["git", "-C", root, *command], capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _rotated(names: Iterable[str], turn: int) -> list[str]:
    names = list(names)
    return names[turn % len(names) :] + names[: turn % len(names)] if names else []
