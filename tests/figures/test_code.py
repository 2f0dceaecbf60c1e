"""Shown code is the code that runs: the marked lines of it first, the whole folded below."""

import ast
import importlib.util
import re
import sys
from pathlib import Path

import pytest

from lib import figures
from lib.coding import gaps
from lib.figures import code

LIB = Path(figures.__file__).parents[1]
SOURCE = '''"""Functions of many forms."""


def marked(x: int, /, *rest: int, y: int = 0, **more: int) -> int:
    """Return x, doubled twice,
    as one number.

    x: any number.
    """
    if x < 0:
        raise ValueError("no")
    # method
    for _ in range(2):
        x = 2 * x
    # end of method
    x = x + 0
    if x > 0:
        # method
        x = x + y

        x = x - 0
        # end of method
    return x


def plain(x):
    r"""Return x.

    Raises nothing."""
    return x


def left_open(x):
    # method
    return x


class Pair(list):
    """Two of them."""

    def first(self):
        """Return the first.

        Raises nothing.
        """
        return "\\n\\n"


class Half:
    # method
    def second(self):
        return self[1]
    # end of method

    def third(self):
        return None
'''


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A module with that source, where inspect finds it."""
    path = tmp_path / "toy_of_shown_code.py"
    path.write_text(SOURCE)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, path.stem, module)
    return module


@pytest.fixture
def text(shown):
    """The Markdown of shown code."""

    def of(*objects):
        (output,) = shown(lambda: figures.show_source(*objects))
        return output.data["text/markdown"]

    return of


def blocks(markdown):
    return re.findall(r"^```python\n(.*?)\n```$", markdown, re.M | re.S)


def test_shown_source_is_the_code_that_runs(text):
    (shown,) = blocks(text(gaps.positions))
    assert "return np.cumsum(np.asarray(fields, dtype=np.int64) + 1) - 1" in shown
    tree = ast.parse(shown)
    assert [node.name for node in tree.body] == ["positions"]


def test_marked_lines_are_shown_first_and_the_whole_is_folded(text, toy):
    said = text(toy.marked)
    method, whole = blocks(said)
    assert method.splitlines() == [
        "def marked(x, *rest, y, **more):",
        "    for _ in range(2):",
        "        x = 2 * x",
        "",
        "    x = x + y",
        "",
        "    x = x - 0",
    ]
    assert said.index(method) < said.index("<details") < said.index(whole) < said.index("</details>")
    assert "<summary>The whole definition</summary>" in said
    assert "method" not in whole and whole.startswith("def marked") and "x = x + 0" in whole


def test_the_whole_runs_as_the_function_does(text, toy):
    _, whole = blocks(text(toy.marked))
    names = {}
    exec(compile(whole, "shown", "exec"), names)
    assert names["marked"](3, y=1) == toy.marked(3, y=1) == 13


def test_what_is_not_marked_is_shown_whole_and_once(text, toy):
    said = text(toy.plain, toy.marked)
    first, whole = blocks(said)
    assert first.startswith("def plain(x):") and "x = x - 0" in first and "def plain" not in whole
    assert "<details" not in text(toy.plain)
    assert "<summary>2 whole definitions</summary>" in text(toy.marked, toy.marked)


def test_marked_methods_are_shown_below_the_head_of_their_class(text, toy):
    method, whole = blocks(text(toy.Half))
    assert method == "class Half:\n    def second(self):\n        return self[1]"
    assert "def third" in whole


def test_a_mark_left_open_shows_the_whole(text, toy):
    said = text(toy.left_open)
    assert blocks(said) == ["def left_open(x):\n    return x"] and "<details" not in said


def test_of_docstrings_the_first_paragraph_is_shown(text, toy):
    whole = blocks(text(toy.marked))[1]
    assert whole.splitlines()[1:3] == ['    """Return x, doubled twice,', '    as one number."""']
    assert "any number" not in whole and ast.parse(whole)
    (plain,) = blocks(text(toy.plain))
    assert "Raises nothing" in plain, "its quotes are not on a line of their own, so it stays as it is"


def test_docstrings_of_a_class_and_its_methods_are_shortened(text, toy):
    (shown,) = blocks(text(toy.Pair))
    assert '"""Two of them."""' in shown and '"""Return the first."""' in shown and "Raises nothing" not in shown
    assert '"\\n\\n"' in shown


def faults(source: str) -> list[str]:
    """What is wrong with the marks of a source: each opens, closes, holds a line, and lies within one definition."""
    wrong, begun = [], None
    lines = source.splitlines()
    spans = [
        (node.lineno, node.end_lineno)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.ClassDef | ast.FunctionDef)
    ]
    for i, line in enumerate(lines, 1):
        word = line.strip()
        if word == code.BEGIN:
            wrong += [f"line {begun} is not closed"] if begun else []
            begun = i
        elif word == code.END:
            held = [j for j in range(begun or i, i) if lines[j - 1].strip()][1:]
            if begun is None:
                wrong += [f"line {i} closes nothing"]
            elif not held:
                wrong += [f"line {begun} holds nothing"]
            elif not any(first < begun and held[-1] <= last for first, last in spans):
                wrong += [f"line {begun} is in no definition"]
            begun = None
    return wrong + ([f"line {begun} is not closed"] if begun else [])


def test_every_mark_in_lib_is_closed():
    found = {path.relative_to(LIB).as_posix(): faults(path.read_text()) for path in LIB.rglob("*.py")}
    assert found
    assert {name: wrong for name, wrong in found.items() if wrong} == {}


def test_the_marked_lines_of_lib_are_code_below_their_head(text):
    for path in sorted(LIB.rglob("*.py")):
        lines = [line.strip() for line in path.read_text().splitlines()]
        if code.BEGIN not in lines:
            continue
        module = importlib.import_module(".".join(path.relative_to(LIB.parent).with_suffix("").parts))
        for node in ast.parse(path.read_text()).body:
            if code.BEGIN in lines[node.lineno - 1 : node.end_lineno]:
                method, _ = blocks(text(getattr(module, node.name)))
                try:
                    (shown,) = ast.parse(method).body
                except SyntaxError as error:
                    pytest.fail(f"{path.name}: the marked lines of {node.name} are not code by themselves ({error})")
                assert shown.name == node.name


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("    # method\n    return 1\n    # end of method", []),
        ("    # method\n    return 1\n\n    # end of method\n", []),
        ("    # method\n    return 1", ["line 2 is not closed"]),
        ("    return 1\n    # end of method", ["line 3 closes nothing"]),
        ("    # method\n    # end of method\n    return 1", ["line 2 holds nothing"]),
        ("    # method\n    # method\n    return 1\n    # end of method", ["line 2 is not closed"]),
        ("    return 1\n\n\n# method\nx = 1\n# end of method", ["line 5 is in no definition"]),
    ],
)
def test_a_wrong_mark_is_found(body, says):
    assert faults(f"def f():\n{body}\n") == says
