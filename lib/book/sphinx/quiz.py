"""Directives that ask the reader. Answers are folded, so they work without a script; ``_static/quiz.js`` adds a score.

``{quiz} 2.3``           three questions about a section   ``{predict} masked-time``   one question, before a result

Both come from ``survey/quizzes.yml``; an answer that fails in this build or in the published records is an error.
"""

from html import escape
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

from lib.book import quizzes
from lib.book.claims import PUBLISHED
from lib.book.sphinx.page import PROFILE, Page
from lib.book.sphinx.parts import fold

CHOICE = '<input type="radio" name="{name}" value="{value}">'
MEASURED = "Measured here: {{mean}}`{0}`. {1}"


class Part(nodes.General, nodes.Element):
    """An element of HTML whose name is its attribute ``tag``."""


class Ask(Page):
    """What both directives share: one question, its choices, and the folded answer."""

    required_arguments = 1

    def questions(self) -> quizzes.Quizzes:
        """Return all questions; the page is read again when their file changes."""
        self.env.note_dependency(str(self.root / quizzes.FILE))
        return quizzes.load(self.root)

    def check(self, rule: str) -> None:
        """Raise ValueError if a rule does not hold for the measurements.

        rule: in the form that :mod:`lib.book.quizzes` describes.
        """
        claims, results = self.load()
        known = {f"{PROFILE} build": (PROFILE, results[PROFILE]), "published records": (PUBLISHED, results[PUBLISHED])}
        if wrong := quizzes.fault(rule, {claim.id: claim for claim in claims}, known):
            raise ValueError(wrong)

    def asked(self, name: str, ask: str, choices: tuple[str, ...], right: int, answer: str, opener: str) -> Part:
        """Return one question as a group of radio buttons with a folded answer.

        name: the name of the group, unique on the page.
        ask: the question.
        choices: texts, one of which is right.
        right: the position of the right one, from 0.
        answer: Markdown with the reason.
        opener: the line that unfolds the answer.
        """
        group = Part(tag="fieldset", classes=["quiz-question"])
        group += Part("", *self.inline(ask), tag="legend")
        for place, choice in enumerate(choices):
            label = Part(tag="label", classes=["quiz-choice", *(["quiz-right"] if place == right else [])])
            label += nodes.raw("", CHOICE.format(name=escape(name), value=place + 1), format="html")
            label += Part("", *self.inline(choice), tag="span")
            group += label
        said = nodes.paragraph("", "", nodes.strong(text="Answer:"), nodes.Text(" "), *self.inline(choices[right]))
        said += nodes.Text("" if choices[right][-1] in ".?!" else ".")
        reason = self.parsed(answer, nodes.container(classes=["quiz-reason"]))
        box = fold([nodes.Text(opener)], [said, *reason.children])
        box["classes"].append("quiz-answer")
        group += box
        return group

    def inline(self, text: str) -> list[nodes.Node]:
        """Return parsed Markdown without the paragraph around it."""
        parsed = self.parsed(text, nodes.container())
        return list(parsed[0].children) if parsed.children else []


class Quiz(Ask):
    """Three questions about a section of the survey."""

    def render(self) -> list[nodes.Node]:
        section = self.arguments[0]
        known = self.questions().sections
        if section not in known:
            raise ValueError(f"a section with a quiz must be one of {', '.join(known)}, not {section!r}")
        box = Part(tag="div", classes=["quiz"])
        for number, question in enumerate(known[section], 1):
            self.check(question.rule)
            name = f"quiz-{section.replace('.', '-')}-{number}"
            ask = f"{number}.\N{NO-BREAK SPACE}{question.ask}"  # an ordinary space would make it a Markdown list
            box += self.asked(name, ask, question.choices, question.right, question.because, "Check the answer")
        return [box]


class Predict(Ask):
    """A question before a result: the measurement of this build says which choice is right."""

    def render(self) -> list[nodes.Node]:
        known = self.questions().predictions
        if self.arguments[0] not in known:
            raise ValueError(f"a prediction must be one of {', '.join(known)}, not {self.arguments[0]!r}")
        one = known[self.arguments[0]]
        if one.rule:
            self.check(one.rule)
        right = one.right(self.load()[1][PROFILE])
        box = Part(tag="div", classes=["quiz", "predict"])
        box += nodes.paragraph("", "", nodes.strong(text="Predict first"), classes=["predict-title"])
        answer = MEASURED.format(one.key, one.because)
        box += self.asked(f"predict-{one.name}", one.ask, one.choices, right, answer, "Show what was measured")
        return [box]


def _open(writer: Any, node: Part) -> None:
    writer.body.append(writer.starttag(node, node["tag"], ""))


def _close(writer: Any, node: Part) -> None:
    writer.body.append(f"</{node['tag']}>\n")


def setup(app: Sphinx) -> dict[str, bool]:
    """Add the directives; Sphinx calls it. Returns whether pages may be built in parallel."""
    app.add_node(Part, html=(_open, _close))
    app.add_directive("quiz", Quiz)
    app.add_directive("predict", Predict)
    app.setup_extension("lib.book.sphinx.parts")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
