"""The committed records: written on demand, checked against the present sources, compared with a build.

``results/<profile>/<chapter>.json`` holds a chapter's data, its records, and what they were measured with: the code of
every file the chapter uses, the lock, the parameters, the processor, versions and time. Only :func:`record` writes it.
"""

import math
from pathlib import Path
from typing import Any

from lib.book import chapters, fingerprints, judging, last_run, ledger, wording
from lib.evidence import bounds, formatted, interval

GATED = ("quick", "standard")  # the others take too long to repeat: their records say which sources they belong to


def record(root: Path, profile: str, only: list[str] | None = None) -> list[str]:
    """Write the finished runs of a profile to ``results/``. Returns a sentence for each chapter that has no run.

    Records of chapters that no longer exist are deleted.

    root: the book's folder.
    profile: a profile's name.
    only: the chapters to record; by default all.
    """
    problems = []
    for chapter in only or chapters.names_in(root, profile):
        done = last_run.executed(root, chapter, profile)
        if done is None:
            problems.append(f"chapter {chapter}: {last_run.status(root, chapter, profile)['error']}")
        else:
            last_run.write_results(root, done, last_run.committed_results(root, profile))
    for path in last_run.committed_results(root, profile).glob("*.json"):
        if path.stem not in chapters.names_in(root, profile):
            path.unlink()
    return problems


def gate(root: Path) -> tuple[int, list[str]]:
    """Check that quick and standard records match the present sources: the code of each file, the lock, the parameters.

    Returns how many records were checked, and a sentence for each that is missing or out of date.
    """
    count, wrong = 0, []
    for profile in GATED:
        for chapter in chapters.names(root):
            path = last_run.committed_results(root, profile) / f"{chapter}.json"
            count += 1
            if why := stale(root, path):
                wrong.append(f"{path.relative_to(root).as_posix()} {why}: make record PROFILE={profile}")
    return count, wrong


def stale(root: Path, path: Path) -> str:
    """Return why the record at ``path`` does not match the present sources; "" if it does."""
    if not path.exists():
        return "is missing"
    then = ledger.load_result(path).get("run", {}).get("sources", {})
    now = fingerprints.sources(root, path.stem, path.parent.name)
    if then == now:
        return ""
    changed = [name for name in now if now[name] != then.get(name)] + sorted(then.keys() - now.keys())
    more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
    return f"is out of date: {', '.join(changed[:3])}{more} changed since"


def compare(root: Path, profile: str) -> int:
    """Compare the last build's results with the committed ones and print what differs, the worst first.

    Verdicts that flip come first. Then exact values, which must be equal on every machine. Then the values beyond their
    noise: with several seeds, 95 % intervals that do not overlap; for one accuracy or error of one run, three standard
    deviations of the difference of two binomial shares of its test set. Values of one run without a known noise, and
    times, are counted separately.

    root: the book's folder.
    profile: a profile's name.
    Returns 1 if a verdict, an exact value or a value beyond its noise differs, otherwise 0.
    Raises ValueError if there is no build or no record to compare.
    """
    old, new = _results(root, profile, built=False), _results(root, profile, built=True)
    if not old.keys() & new.keys():
        raise ValueError(
            f"nothing to compare: the {profile} profile needs a build (make book PROFILE={profile}) and records"
        )
    shared = sorted(old.keys() & new.keys())
    missing = sorted(old.keys() - new.keys())
    flips, left_open = _flips(root, profile, old, new)
    kinds: dict[str, list[str]] = {"exact": [], "noise": [], "unknown": [], "time": []}
    compared = 0
    for chapter in shared:
        before, after = old[chapter]["records"], new[chapter]["records"]
        for key in sorted(before.keys() | after.keys()):
            compared += 1
            kind, text = difference(key, before.get(key), after.get(key), _test_sizes(old[chapter], new[chapter]))
            if text:
                kinds[kind].append(f"  {key}: {text}")
    _list("Verdicts that flip", flips)
    _list("Verdicts that one of two runs leaves open", left_open)
    _list("Exact values that differ", kinds["exact"])
    _list("Values beyond their noise", kinds["noise"])
    _list("Values of one run whose noise is not known", kinds["unknown"], 10)
    _list("Times that changed by more than a quarter", kinds["time"], 10)
    if missing:
        print(f"Not built, so not compared: {', '.join(missing)}")
    print(
        f"{compared} results of {len(shared)} chapters compared with the committed ones: {len(flips)} verdicts flip,"
        f" {len(kinds['exact'])} exact values and {len(kinds['noise'])} beyond their noise differ"
    )
    return 1 if flips or kinds["exact"] or kinds["noise"] else 0


def difference(
    key: str, old: dict[str, Any] | None, new: dict[str, Any] | None, test_sizes: list[int]
) -> tuple[str, str]:
    """Return the kind of difference between two records of one key, and its text, "" if they agree.

    key: the measurement's key.
    old: the committed record, or None.
    new: the record of the build, or None.
    test_sizes: the numbers of test samples of the chapter's data sets; the smallest gives an accuracy's noise.
    Returns a kind, "exact", "noise", "unknown" or "time", and a text such as "was 1.62 %, is 1.70 %".
    """
    if old is None or new is None:
        return "exact", "new" if old is None else "gone"
    was, now = old["values"], new["values"]
    form = {"unit": new["unit"], "digits": new["digits"], "bounds": bounds(key, new["unit"])}
    text = f"was {formatted(was, **form)}, is {formatted(now, **form)}"
    if new.get("timing"):
        ratio = interval(now)[0] / interval(was)[0] if interval(was)[0] else math.inf
        return "time", "" if 0.8 <= ratio <= 1.25 else text
    if old.get("exact") or new.get("exact"):
        return "exact", "" if _equal(was, now) else text
    if _equal(was, now):
        return "noise", ""
    (a, half), (b, other_half) = interval(was), interval(now)
    if len(was) > 1 or len(now) > 1:
        return "noise", "" if abs(a - b) <= half + other_half + 1e-9 * abs(a) else text
    if new["unit"] == "%" and key.endswith(("error_pct", "accuracy_pct")) and test_sizes:
        share = min(max((a + b) / 200, 0.0), 1.0)
        noise = 300 * math.sqrt(2 * max(share * (1 - share), 1 / min(test_sizes)) / min(test_sizes))
        return "noise", "" if abs(a - b) <= noise else text
    return "unknown", text


def _equal(was: list[float], now: list[float]) -> bool:
    same = (math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12) for a, b in zip(was, now, strict=False))
    return len(was) == len(now) and all(same)


def _flips(root: Path, profile: str, old: dict[str, Any], new: dict[str, Any]) -> tuple[list[str], list[str]]:
    """A line for each claim whose verdict flips, and for each that differs because one of two runs leaves it open."""
    flips: list[str] = []
    left_open: list[str] = []
    before, after = (_merged(results) for results in (old, new))
    for claim in ledger.load_claims(root):
        keys = claim.keys(profile)
        if not keys or not keys <= after.keys():
            continue
        now = judging.judge(claim, profile, after)
        then = judging.judge(claim, profile, before) if keys <= before.keys() else None
        if judging.contradicts(now, claim) or (then and then.verdict != now.verdict):
            was = f", the committed records give {then.verdict}" if then else ""
            text = f"  {claim.id}: held {claim.verdict}{was}, this build gives {now.verdict} ({wording.reasons(now)})"
            (flips if judging.flips(now, claim, then) else left_open).append(text)
    return flips, left_open


def _merged(results: dict[str, Any]) -> ledger.Records:
    return {key: record for result in results.values() for key, record in result["records"].items()}


def _results(root: Path, profile: str, *, built: bool) -> dict[str, Any]:
    files = ledger.result_files(profile, root, built=built)
    return {path.stem: ledger.load_result(path) for path in files}


def _test_sizes(*results: dict[str, Any]) -> list[int]:
    return [data["test"] for result in results for data in result["data"] if data["test"]]


def _list(title: str, lines: list[str], most: int = 10**9) -> None:
    if lines:
        print(f"{title}: {len(lines)}")
        print("\n".join(lines[:most]))
        if len(lines) > most:
            print(f"  ... and {len(lines) - most} more")
