"""Reproducing a claim, a chapter or as much as fits in a time: what runs, what is said, and the exit status."""

import json
import subprocess
from pathlib import Path

import pytest

from lib.__main__ import main
from lib.book import last_run, reproduce
from lib.book.run import run

pytestmark = pytest.mark.book


def again(root: Path, *options: str) -> int:
    return main(["--root", str(root), "reproduce", *options])


@pytest.mark.usefixtures("warm_runs")
def test_a_verdict_that_holds_and_one_that_flips(small_book, capfd):
    assert again(small_book, "--chapter", "passes") == 0
    said = capfd.readouterr().out
    assert "C2.3-01: held supported, here undecided" in said  # three seeds: the interval crosses the bound
    assert "passes.sum.value: here 4.5 ± 2.5 points, committed 4.5 ± 2.5 points" in said
    assert "1 verdicts reproduced, 0 left open by one of two runs, 0 flipped" in said
    source = small_book / "chapters" / "passes.py"
    source.write_text(source.read_text().replace("sum(range(terms)) + v", "sum(range(terms)) - 99 + v / 9"))
    assert again(small_book, "--claim", "C2.3-01") == 1
    assert "FLIPPED C2.3-01: held supported, here contradicted" in capfd.readouterr().out


@pytest.mark.usefixtures("warm_runs")
def test_a_verdict_that_one_run_leaves_open_is_no_flip(small_book, capfd):
    source = small_book / "chapters" / "passes.py"
    source.write_text(source.read_text().replace("sum(range(terms)) + v", "sum(range(terms)) - 7 + v"))
    assert again(small_book, "--claim", "C2.3-01", "--profile", "standard") == 0
    said = capfd.readouterr().out
    assert "LEFT OPEN C2.3-01: held supported, here undecided" in said
    assert "0 verdicts reproduced, 1 left open by one of two runs, 0 flipped" in said


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--claim", "C9-99"], "claim must be one of C2.3-01, C2.3-02, C2.3-03, not 'C9-99'"),
        (["--claim", "C2.3-99"], "claim must be one of C2.3-01, C2.3-02, C2.3-03, not 'C2.3-99'"),
        (["--claim", "C2.3-02"], "the claim C2.3-02 is not testable here: Opinion."),
        (["--claim", "C2.3-03"], "the profile for the claim C2.3-03 must be one of standard, not 'quick'"),
        (["--chapter", "passed"], "chapter must be one of passes, not 'passed'"),
        (["--minutes", "0"], "minutes must be above 0, not 0"),
        (["--minutes", "-3"], "minutes must be above 0, not -3"),
        (["--minutes", "nan"], "minutes must be above 0, not nan"),
        (
            ["--claim", "C2.3-01", "--chapter", "passes"],
            "name a claim or a chapter, not both: C2.3-01 and passes",
        ),
        (["--profile", "huge"], "profile must be one of quick, standard, not 'huge'"),
    ],
)
def test_what_does_not_exist_is_refused_in_one_sentence(small_book, capsys, options, says):
    claims = small_book / "survey" / "claims" / "passes.yml"
    claims.write_text(
        claims.read_text()
        + '- {id: C2.3-02, section: "2.3", says: It is nice., verdict: not testable here, because: Opinion.}\n'
        + '- {id: C2.3-03, section: "2.3", says: It is so., verdict: supported,\n'
        + "   decided_by: {standard: [{key: passes.sum.value, at_least: 3}]}}\n"
    )
    assert again(small_book, *options) == 1
    said = capsys.readouterr().err.strip()
    assert says in said and said.startswith("error: ") and len(said.splitlines()) == 1


def test_an_unreadable_number_of_minutes_is_refused(small_book, capsys):
    with pytest.raises(SystemExit) as ended:
        again(small_book, "--minutes", "many")
    assert ended.value.code == 2 and "invalid float value: 'many'" in capsys.readouterr().err


def test_what_is_late_is_stopped_and_said(small_book, add_chapter, capfd):
    run(small_book, "passes", "quick")
    add_chapter("slow", "import time\ntime.sleep(120)")
    assert again(small_book, "--minutes", "0.1") == 0
    said = capfd.readouterr().out
    assert "Not finished within 0.1 minutes, so not judged: slow" in said
    assert "1 verdicts reproduced, 0 left open by one of two runs, 0 flipped" in said
    left = subprocess.run(["pgrep", "-f", str(small_book)], capture_output=True, text=True).stdout
    assert not left.strip()


@pytest.mark.usefixtures("warm_runs")
def test_nothing_judged_is_a_failure(small_book, add_chapter, capfd):
    add_chapter("empty", "1")
    assert again(small_book, "--chapter", "empty") == 1
    assert "no verdict was judged" in capfd.readouterr().err


@pytest.mark.usefixtures("warm_runs")
def test_a_chapter_that_fails_is_a_failure(small_book, add_chapter, capfd):
    add_chapter("bad", "1 / 0")
    assert again(small_book) == 1
    said = capfd.readouterr()
    assert "chapter bad: cell [1] raised ZeroDivisionError" in said.err and "1 verdicts reproduced" in said.out


# --- which chapters, in which order --------------------------------------------------------------------------------


def git(root: Path, *command: str, date: str = "2026-01-01T12:00:00") -> None:
    identity = ("-c", "user.name=one", "-c", "user.email=one@example.org")
    when = {"GIT_AUTHOR_DATE": date, "GIT_COMMITTER_DATE": date, "PATH": "/usr/bin:/bin"}
    subprocess.run(["git", "-C", root, *identity, *command], check=True, capture_output=True, env=when)


def test_changed_chapters_come_first_and_the_others_take_turns(small_book, add_chapter):
    for name in ("a", "b", "c", "d"):
        add_chapter(name, "1")
    names = ["a", "b", "c", "d", "passes"]
    git(small_book, "init")
    git(small_book, "add", ".")
    git(small_book, "commit", "-m", "all")
    assert sorted(reproduce.in_turn(small_book, names)) == names
    (small_book / "chapters" / "c.py").write_text((small_book / "chapters" / "c.py").read_text() + "\n# %%\n2\n")
    git(small_book, "add", ".")
    git(small_book, "commit", "-m", "c", date="2026-02-01T12:00:00")
    seen = [reproduce.in_turn(small_book, names)]
    for i in range(4):  # commits that touch no chapter, on the same day
        git(small_book, "commit", "--allow-empty", "-m", "more", date=f"2026-02-01T12:0{i + 1}:00")
        seen.append(reproduce.in_turn(small_book, names))
    assert {order[0] for order in seen} == {"c"}
    assert {order[1] for order in seen} == {"a", "b", "d", "passes"}
    assert all(sorted(order) == names for order in seen)
    git(small_book, "commit", "--allow-empty", "-m", "later", date="2026-03-01T12:00:00")
    assert reproduce._changed(small_book) == set()  # a day later c takes its turn with the others


def test_a_chapter_whose_words_changed_takes_its_turn_as_before(small_book, add_chapter):
    for name in ("a", "b"):
        add_chapter(name, "1")
    git(small_book, "init")
    git(small_book, "add", ".")
    git(small_book, "commit", "-m", "all")
    for name, text in (("a", "\n# words\n"), ("b", "\n2\n")):
        path = small_book / "chapters" / f"{name}.py"
        path.write_text(path.read_text() + text)
    git(small_book, "commit", "-am", "words of a, code of b", date="2026-02-01T12:00:00")
    assert reproduce._changed(small_book) == {"chapters/b.py"}


def test_outside_a_repository_the_order_stays(small_book, add_chapter):
    for name in ("a", "b"):
        add_chapter(name, "1")
    assert reproduce.in_turn(small_book, ["b", "a"]) == ["b", "a"]


def test_chapters_are_chosen_by_their_recorded_times(small_book, add_chapter):
    for name, seconds in (("a", 100.0), ("b", 1000.0), ("c", 10.0), ("d", 100.0)):
        add_chapter(name, "1", survey="alone: true" if name == "c" else "")
        path = small_book / "results" / "quick" / f"{name}.json"
        path.write_text(json.dumps({"records": {}, "run": {"seconds": seconds}}))

    def chosen(seconds: float, *names: str) -> list[str]:
        return reproduce.fitting(small_book, "quick", list(names), seconds, 2)

    assert reproduce.SLOWER == 1.3
    assert chosen(200, "b", "a", "c") == ["a", "c"]  # b would take 1,300 s; a takes 65 s of two cores, c 13 s of both
    assert chosen(131, "a", "d", "c") == ["a", "d"]
    assert chosen(131, "c", "a", "d") == ["c", "a"]
    assert chosen(70, "a", "c") == ["c"]  # a alone takes 130 s, whatever runs beside it
    assert chosen(5, "b", "a", "c") == ["c"]  # always one
    assert chosen(5) == []


@pytest.mark.usefixtures("warm_runs")
def test_the_chapters_of_a_claim_are_those_that_record_its_keys(small_book, capfd):
    assert again(small_book, "--claim", "C2.3-01", "--profile", "standard") == 0
    assert "Reproducing passes in the standard profile" in capfd.readouterr().out
    assert last_run.executed(small_book, "passes", "standard") is not None
