"""Questions to readers: an answer without a rule, or with one that does not hold, is named."""

from pathlib import Path

import pytest
import yaml
from quiz_book import questions
from small_ledger import K, claim, record, write_ledger

from lib.book import claims, quizzes

PROJECT = Path(__file__).parents[2]
SECTIONS = ["2.1", "2.2", "2.3", "2.4", "2.5", "2.6", "3.1", "3.2.1", "3.2.2", "3.2.3", "3.2.4"]


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        (("quizzes",), [], "its quizzes must be a mapping"),
        (("quizzes", 2.3), [], "a quiz must be named by its section, in quotes"),
        (("quizzes", "2.3"), [], "quiz 2.3: it must have 3 questions"),
        (("quizzes", "2.3", 0, "rule"), None, "quiz 2.3, question 1: it must have"),
        (("quizzes", "2.3", 0, "rule"), " ; ", "its rule must say when the answer is right"),
        (("quizzes", "2.3", 1, "right"), 4, "question 2: 'right' must be the place of a choice, 1 to 3, not 4"),
        (("quizzes", "2.3", 1, "right"), True, "'right' must be the place"),
        (("quizzes", "2.3", 2, "choices"), ["a", "b"], "three or four different choices"),
        (("quizzes", "2.3", 2, "choices"), ["a", "a", "b"], "three or four different choices"),
        (("quizzes", "2.3", 2, "ask"), "How many.", "must end with a question mark"),
        (("quizzes", "2.3", 2, "because"), "", "its 'because' must be a sentence"),
        (("quizzes", "2.3", 2, "hint"), "x", "question 3: it must have"),
        (("predictions", "An error"), {}, "lowercase letters, digits and hyphens, not 'An error'"),
        (("predictions", "error", "key"), "error", "the form chapter.subject.metric, not 'error'"),
        (("predictions", "error", "choices", 2, "below"), 9, "the last choice must have none"),
        (("predictions", "error", "choices", 1, "below"), 0.5, "the bounds must rise"),
        (("predictions", "error", "choices", 1, "below"), "5", "may have 'below', a number"),
        (("predictions", "error", "choices", 1), "Some", "a list of {says, below}"),
    ],
)
def test_a_wrong_question_is_refused_in_one_sentence(place, value, says):
    content = questions()
    part = content
    for step in place[:-1]:
        part = part[step]
    if value is None:
        del part[place[-1]]
    else:
        part[place[-1]] = value
    with pytest.raises(ValueError) as refused:
        quizzes.parsed(content)
    assert says in str(refused.value) and "\n" not in str(refused.value)


def test_a_file_that_is_no_mapping_or_no_yaml_is_refused(tmp_path):
    assert quizzes.load(tmp_path) == quizzes.Quizzes({}, {})
    (tmp_path / "survey").mkdir()
    for text, says in (("[]", "must be a mapping of quizzes and predictions"), ("{", "is not readable YAML")):
        (tmp_path / "survey" / "quizzes.yml").write_text(text)
        with pytest.raises(ValueError, match=says):
            quizzes.load(tmp_path)


HELD = claim()  # C2.3-01: at most 2 %
CLAIMS = {"C2.3-01": claims.parsed(HELD, "pruning", set())}
FAST = claims.parsed(claim(id="C2.3-02", elsewhere=["contradicted"]), "pruning", set())
LOW = {K: record(1.0, 1.1, 1.2)}


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ("C2.3-01 supported", None),
        (f"C2.3-01 supported; {K} < 2", None),
        (f"{K} < 1", f"its answer does not hold in the quick build: {K} < 1"),
        (f"C2.3-01 supported; {K} > 2", "does not hold in the quick build"),
        ("C2.3-01 contradicted", "needs C2.3-01 contradicted, but the ledger holds it supported"),
        ("C2.3-09 supported", "names the claim C2.3-09, which is not in survey/claims"),
        ("C2.3-02 supported", "whose verdict depends on the processor"),
        ("pruning.net.other_pct < 1", "no profile has records of"),
        ("1 < 2", "no profile has records of '1 < 2'"),
        (K, "compares nothing"),
    ],
)
def test_a_rule_holds_or_one_sentence_says_why_not(rule, says):
    found = quizzes.fault(rule, CLAIMS | {"C2.3-02": FAST}, {"quick build": ("quick", LOW)})
    assert found is None if says is None else says in found


def test_a_verdict_that_the_measurements_do_not_give_is_named():
    high = {K: record(5.0, 5.1, 5.2)}
    both = {"quick records": ("quick", LOW), "quick build": ("quick", high)}
    said = "its answer needs C2.3-01 supported, and the quick build give contradicted"
    assert quizzes.fault("C2.3-01 supported", CLAIMS, both) == said
    unsure = {K: record(1.0, 2.0, 3.5)}  # in a profile that is not published this says nothing
    assert quizzes.fault("C2.3-01 supported", CLAIMS, {"quick build": ("quick", unsure)}) is None
    assert "no profile has records" in quizzes.fault("C2.3-01 supported", CLAIMS, {"quick build": ("quick", {})})


@pytest.fixture
def book(tmp_path):
    """A book with a claim, a measurement, and one page with both kinds of questions."""
    write_ledger(tmp_path, [HELD], {"quick": LOW})
    content = questions()
    for row in content["quizzes"]["2.3"]:
        row |= {"rule": "C2.3-01 supported", "because": f"It is {{mean}}`{K}`."}
    content["predictions"]["error"]["key"] = K
    (tmp_path / "index.md").write_text("```{quiz} 2.3\n```\n\n:::{predict} error\n:::\n")
    (tmp_path / "survey" / "quizzes.yml").write_text(yaml.safe_dump(content))
    (tmp_path / "chapters").mkdir()
    (tmp_path / "_toc.yml").write_text("root: index\n")
    return tmp_path


def change(book, old, new):
    path = book / "survey" / "quizzes.yml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_the_gate_counts_all_questions_of_a_right_file(book):
    assert quizzes.gate(book) == (5, [])


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("C2.3-01 supported", f"{K} > 2", "quiz 2.3, question 1: its answer does not hold in the quick records"),
        ("So it is.", "It is 4 % here.", "types '4 %' in a reason"),
        (f"key: {K}", "key: pruning.net.other_pct", "prediction error: no profile has records of"),
        ("ask: What is the error?", "ask: What is it", "must end with a question mark"),
    ],
)
def test_the_gate_names_an_answer_that_is_not_borne_out(book, old, new, says):
    change(book, old, new)
    assert says in " ".join(quizzes.gate(book)[1])


@pytest.mark.parametrize(
    ("page", "says"),
    [
        ("```{quiz} 2.3\n```\n", "{predict} error is on 0 pages"),
        ("```{quiz} 2.3\n```\n```{quiz} 2.3\n```\n```{predict} error\n```\n", "{quiz} 2.3 is on 2 pages"),
        ("```{quiz} 2.3\n```\n```{predict} error\n```\n```{quiz} 2.4\n```\n", "a page has {quiz} 2.4, and"),
    ],
)
def test_the_gate_names_a_question_that_no_page_asks(book, page, says):
    (book / "index.md").write_text(page)
    assert len(wrong := quizzes.gate(book)[1]) == 1 and says in wrong[0]


def test_the_measurement_decides_which_choice_is_right():
    one = quizzes.parsed(questions()).predictions["error"]
    assert [one.right({one.key: record(value)}) for value in (0.9, 1.0, 4.9, 5.0, 99.0)] == [0, 1, 1, 2, 2]
    with pytest.raises(ValueError, match=r"prediction error: .* was not measured"):
        one.right({})


def test_each_section_ends_with_a_quiz_and_every_answer_holds():
    found = quizzes.load(PROJECT)
    assert sorted(found.sections) == SECTIONS and len(found.predictions) >= 5
    assert quizzes.gate(PROJECT)[1] == []
    toc = yaml.safe_load((PROJECT / "_toc.yml").read_text("utf-8"))
    last = {part["caption"].split()[0]: part["chapters"][-1]["file"] for part in toc["parts"]}
    for section in SECTIONS:
        text = (PROJECT / f"{last[section]}.py").read_text("utf-8")
        assert text.index(f"{{quiz}} {section}\n") < text.index("# ## In short")


def test_the_right_choices_are_not_all_in_one_place():
    places = [question.right for quiz in quizzes.load(PROJECT).sections.values() for question in quiz]
    assert max(places.count(place) for place in range(3)) <= len(places) / 2
