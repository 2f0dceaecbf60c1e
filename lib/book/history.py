"""The check of the ledger's history: a rule that changed after a result was known says so in ``changed:``."""

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from lib.book.claims import PROFILES

SINCE = "de679d4"  # from this commit on, every such change must be explained
CLAIMS = "survey/claims"


def unsaid(root: Path, since: str = SINCE) -> tuple[int, list[str]]:
    """Find the rules of the ledger that changed without an explanation since a commit; a merge is one step.

    root: the book's folder, in a clone with its history.
    since: a commit; earlier steps are not checked.

    Returns how many steps changed the ledger, and a sentence for each fault: a claim changed its rules or was
    removed after its quantities were recorded, and ``changed`` does not say so then or later.
    Raises ValueError if git does not know the commit.
    """
    steps = _git(root, "rev-list", "--first-parent", "--reverse", f"{since}..HEAD", "--", CLAIMS).split()
    wrong, present = [], _claims(root, "HEAD")
    for commit in steps:
        before, after = _claims(root, f"{commit}^"), _claims(root, commit)
        said = " ".join(str(claim.get("changed", "")) for claim in after.values())
        for id, old in before.items():
            new = after.get(id)
            profiles = [name for name in PROFILES if name in old.get("decided_by", {})]
            changed = [name for name in profiles if new is None or _differ(old, new, name)]
            known = [name for name in changed if _recorded(root, f"{commit}^", name, old["decided_by"][name])]
            if not known:
                continue
            where = f"{commit[:7]}: {id}, whose {known[0]} quantities had been recorded"
            if new is None and id not in said:
                wrong.append(f"{where}, was removed, and no claim says so in 'changed'")
            elif new is not None and _words(old) == _words(new) == _words(present.get(id, new)):
                wrong.append(f"{where}, has other rules now, and its 'changed' does not say so")
    return len(steps), wrong


def _words(claim: dict[str, Any]) -> str:
    return claim.get("changed", "")


def _differ(old: dict[str, Any], new: dict[str, Any], profile: str) -> bool:
    rules = new.get("decided_by", {}).get(profile)
    return rules is not None and rules != old["decided_by"][profile]


def _recorded(root: Path, commit: str, profile: str, rules: list[dict[str, Any]]) -> bool:
    """Whether all quantities of the rules had been recorded at a commit."""
    names = _git(root, "ls-tree", "--name-only", commit, f"results/{profile}/").split()
    chapters = {key.split(".")[0] for key in _keys(rules)}
    keys: set[str] = set()
    for name in names:
        if any(f"{Path(name).stem}_".startswith(f"{chapter}_") for chapter in chapters):
            keys |= json.loads(_git(root, "show", f"{commit}:{name}"))["records"].keys()
    return _keys(rules) <= keys


def _keys(rules: list[dict[str, Any]]) -> set[str]:
    named = [rule.get(word) for rule in rules for word in ("key", "above", "of", "exceeds")]
    return {name for name in named if isinstance(name, str)}


def _claims(root: Path, commit: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for blob in _git(root, "ls-tree", "--format=%(objectname)", commit, f"{CLAIMS}/").split():
        found |= {claim["id"]: claim for claim in _parsed(root, blob)}
    return found


@cache  # most files are the same from step to step
def _parsed(root: Path, blob: str) -> list[dict[str, Any]]:
    claims: list[dict[str, Any]] = yaml.safe_load(_git(root, "cat-file", "blob", blob))
    return claims


def _git(root: Path, *command: str) -> str:
    done = subprocess.run(["git", "-C", root, *command], capture_output=True, text=True)
    if done.returncode:
        raise ValueError(f"git {command[0]} failed: {' '.join(done.stderr.split())}")
    return done.stdout
