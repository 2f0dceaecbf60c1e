"""A sentence that a measurement does not bear out is found, and so is one that compares without a rule."""

import json

import pytest

from lib.book import findings

A, B = "pruning.net.error_pct", "pruning.net.dense_error_pct"


def records(**values: list[float]) -> dict:
    return {f"a.b.{key}": {"values": value, "unit": "%", "digits": 1} for key, value in values.items()}


@pytest.mark.parametrize(
    ("rule", "holds"),
    [
        ("a.b.c > a.b.d", True),
        ("a.b.d < a.b.c", True),
        ("a.b.c < a.b.d", False),
        ("a.b.c > 2.9", True),
        ("a.b.c > 3", False),
        ("a.b.c >= 3; a.b.c <= 3", True),
        ("a.b.c >= 3; a.b.c > 3", False),
        ("a.b.c >> a.b.d", False),  # 3 ± 2.5 is no more than 1
        ("a.b.c >> 0", True),
        ("0 << a.b.c", True),
        ("a.b.c << 0", False),
        ("a.b.shifted >> a.b.c", True),  # seed by seed
        ("a.b.c ~ a.b.d", True),
        ("a.b.c ~ 0", False),
        ("a.b.c - a.b.d > 1.9", True),
        ("a.b.c - a.b.d > 2", False),
        ("a.b.shifted > a.b.c > a.b.d > 0", True),
        ("a.b.shifted > a.b.d > a.b.c", False),
        ("a.b.two > a.b.c", False),  # without pairs, by their means
        ("a.b.d > −1", True),
    ],
)
def test_a_rule_holds_or_does_not(rule, holds):
    known = records(c=[2, 3, 4], d=[1], shifted=[2.1, 3.1, 4.1], two=[1, 2])
    assert findings.holds(rule, known) == holds


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("a.b.c", "the rule 'a.b.c' compares nothing"),
        ("a.b.c > a.b.x", "'a.b.x' is neither a number nor a key that was recorded"),
        ("a.b.c > much", "'much' is neither a number nor a key"),
        ("a.b.c - a.b.c - a.b.c > 0", "must be a key, a number or a difference of two keys"),
    ],
)
def test_a_wrong_rule_is_refused(rule, says):
    with pytest.raises(ValueError, match=says):
        findings.holds(rule, records(c=[1]))


@pytest.fixture
def book(tmp_path):
    """A book of one chapter that recorded two errors in the quick profile."""
    (tmp_path / "chapters").mkdir()
    (tmp_path / "_toc.yml").write_text("root: index\nchapters:\n- file: chapters/pruning\n")
    (tmp_path / "results" / "quick").mkdir(parents=True)
    found = {key: {"values": values, "unit": "%", "digits": 1} for key, values in ((A, [2, 3, 4]), (B, [1, 1, 1]))}
    (tmp_path / "results" / "quick" / "pruning.json").write_text(json.dumps({"records": found}))
    return tmp_path


def write(book, text):
    lines = "\n".join(f"# {line}".rstrip() for line in text.splitlines())
    (book / "chapters" / "pruning.py").write_text(f"# %% [markdown]\n{lines}\n\n# %%\nx = 1\n")


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (f"{A} > {B}", None),
        (f"{A} < {B}", f"chapters/pruning.py says 'more', but the quick records disagree: {A} < {B}"),
        (f"{A} > pruning.net.other_pct", "chapters/pruning.py: no profile has records for the finding 'more': "),
        ("1 > 0", "no profile has records for the finding 'more': 1 > 0"),
        (f"{A} {B}", "compares nothing"),
    ],
)
def test_a_finding_holds_in_every_profile_or_is_named(book, rule, says):
    write(book, f"Small networks err {{finding}}`more | {rule}`.")
    count, wrong = findings.ruled(book)
    assert count == 1 and (wrong == [] if says is None else says in wrong[0])


@pytest.mark.parametrize(
    ("text", "looked_at", "wrong"),
    [
        (f"The small one errs more, {{mean}}`{A}`.", 1, 1),
        (f"The small one errs {{finding}}`more | {A} > {B}`, {{mean}}`{A}`.", 1, 0),
        (f"The small one errs {{glue:text}}`pruning.net.word`, more than others, {{mean}}`{A}`.", 1, 0),
        (f"The survey has more {{cite:p}}`x2020`, here {{mean}}`{A}`.", 1, 0),
        (f"The error is {{mean}}`{A}`.\nOthers do better.", 0, 0),
        (f"The error is {{mean}}`{A}`. It errs less, {{mean}}`{B}`.", 1, 1),
        ("**What to see.** Small ones err more.", 1, 1),
        ("**Why.** Small ones err more.", 0, 0),
    ],
)
def test_a_sentence_that_compares_needs_a_rule(book, text, looked_at, wrong):
    write(book, text)
    count, found = findings.unruled(book)
    assert (count, len(found)) == (looked_at, wrong)
