"""Questions on a page: groups of radio buttons with a folded answer, and no page with a wrong one."""

import pytest
from bs4 import BeautifulSoup
from quiz_book import ERROR, questions, quiz_book


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> BeautifulSoup:
    root = tmp_path_factory.mktemp("quiz") / "book"
    root.mkdir()
    assert quiz_book(root, questions()) == ""
    return BeautifulSoup((root / "_build" / "html" / "index.html").read_text("utf-8"), "html.parser")


def words(tag) -> str:
    return " ".join(tag.get_text(" ").split())


def test_each_question_is_a_group_with_one_right_choice(page):
    groups = page.select(".quiz:not(.predict) fieldset")
    assert [words(group.legend)[:2] for group in groups] == ["1.", "2.", "3."]
    assert len({group.input["name"] for group in groups}) == 3
    for number, group in enumerate(groups):
        choices = group("label")
        assert ["quiz-right" in choice["class"] for choice in choices] == [place == number for place in range(3)]
        assert all(choice.input["type"] == "radio" for choice in choices) and choices[0].em.get_text() == "tenth"


def test_the_answer_is_folded_with_its_measured_reason(page):
    answers = page.select(".quiz:not(.predict) details")
    assert words(answers[1].summary) == "Check the answer" and not answers[1].has_attr("open")
    said = words(answers[1]).replace("\N{NO-BREAK SPACE}", " ")
    assert "Answer: Half of them. It lost 92 % of them: C2.3-38 ✗ contradicted" in said
    assert answers[1].select_one(".verdict a")["href"] == "claims.html#claim-c2-3-38"


def test_a_prediction_has_the_choice_that_was_measured(page):
    box = page.select_one(".predict")
    assert [words(choice) for choice in box.select(".quiz-right")] == ["Some"]
    assert "Answer: Some. Measured here: 3.20 % . So it is." in words(box).replace("\N{NO-BREAK SPACE}", " ")


def test_a_page_with_a_quiz_loads_its_script_and_others_do_not(page, tmp_path_factory):
    assert any("quiz.js" in script.get("src", "") for script in page("script"))
    built = sorted(tmp_path_factory.getbasetemp().glob("quiz*/book/_build/html/claims.html"))[0].read_text("utf-8")
    assert "quiz.js" not in built and "playground.js" not in built


def test_a_build_with_a_wrong_answer_fails_and_says_why(tmp_path):
    wrong = questions()
    wrong["quizzes"]["2.3"][1]["rule"] = "pruning.lenet300.removed_pct < 50"
    wrong["predictions"]["error"]["rule"] = f"{ERROR} > 90"
    (tmp_path / "book").mkdir()
    said = quiz_book(tmp_path / "book", wrong)
    assert "quiz: its answer does not hold in the quick build: pruning.lenet300.removed_pct < 50" in said
    assert f"predict: its answer does not hold in the quick build: {ERROR} > 90" in said
