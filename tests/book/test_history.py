"""A rule that changes after a result, and does not say so, is found in the history of the ledger."""

import json
import subprocess
from pathlib import Path

import pytest
from small_ledger import K, claim, record, write_ledger

from lib.book import history

ROOT = Path(__file__).parents[2]


def git(root: Path, *command: str) -> str:
    made = ["git", "-C", root, "-c", "user.name=a", "-c", "user.email=a@b", *command]
    return subprocess.run(made, capture_output=True, text=True, check=True).stdout.strip()


def step(root: Path, claims: list, message: str = "step") -> str:
    """Commit these claims; returns the commit."""
    write_ledger(root, claims)
    git(root, "add", "-A")
    git(root, "commit", "-qm", message, "--allow-empty")
    return git(root, "rev-parse", "HEAD")


def rules(bound: float, profile: str = "standard") -> dict:
    return {"decided_by": {profile: [{"key": K, "at_most": bound}]}}


@pytest.fixture
def book(tmp_path):
    """A book whose only claim has been measured in the standard profile."""
    git(tmp_path.parent, "init", "-q", tmp_path)
    path = tmp_path / "results" / "standard" / "pruning.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"records": {K: record(1, 2, 3)}}))
    step(tmp_path, [claim(**rules(2))])
    return tmp_path


@pytest.mark.parametrize(
    ("after", "says"),
    [
        ([claim(**rules(2), verdict="contradicted")], None),
        ([claim(**rules(2), says="Pruning helps much.")], None),
        ([claim(**rules(3))], "C2.3-01, whose standard quantities had been recorded, has other rules"),
        ([claim(**rules(3), changed="It was at most 2, before the source was read again.")], None),
        ([claim(id="C2.3-02", **rules(3))], "C2.3-01, whose standard quantities had been recorded, was removed"),
        ([claim(id="C2.3-02", **rules(3), changed="It was C2.3-01, at most 2.")], None),
    ],
)
def test_a_rule_that_changes_after_a_result_says_so(book, after, says):
    begin = git(book, "rev-parse", "HEAD")
    step(book, after)
    count, wrong = history.unsaid(book, begin)
    assert count == 1 and (wrong == [] if says is None else says in wrong[0])


def test_a_second_change_is_said_again(book):
    begin = step(book, [claim(**rules(3), changed="It was at most 2.")])
    step(book, [claim(**rules(4), changed="It was at most 2.")])
    assert len(history.unsaid(book, begin)[1]) == 1


def test_a_rule_may_change_before_its_result(book):
    begin = step(book, [claim(**rules(2, "full"), changed="It was of the standard profile.")])
    step(book, [claim(**rules(5, "full"), changed="It was of the standard profile.")])
    assert history.unsaid(book, begin) == (1, [])


def test_an_unknown_commit_is_refused(book):
    with pytest.raises(ValueError, match="git rev-list failed"):
        history.unsaid(book, "0123456")


def test_this_ledger_says_what_changed():
    if git(ROOT, "rev-parse", "--is-shallow-repository") == "true":
        pytest.skip("a clone without history")
    count, wrong = history.unsaid(ROOT)
    assert count > 0 and wrong == []
