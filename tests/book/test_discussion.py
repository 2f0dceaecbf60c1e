"""The chapter that compares all techniques leaves none of the catalogue out without a reason."""

import ast
from pathlib import Path

import jupytext
import pytest
import yaml

PROJECT = Path(__file__).parents[2]
LEFT_OUT = "EXCUSED"


def tables(text: str) -> dict[str, dict[str, ast.expr]]:
    """The dictionaries of a chapter whose keys are all words: name -> its keys and what stands at them."""
    code = "\n".join(cell.source for cell in jupytext.reads(text, fmt="py:percent").cells if cell.cell_type == "code")
    return {
        node.targets[0].id: {key.value: value for key, value in zip(node.value.keys, node.value.values, strict=True)}
        for node in ast.parse(code).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Dict)
        and all(isinstance(key, ast.Constant) for key in node.value.keys)
    }


def wrong(text: str, catalogue: set[str]) -> list[str]:
    """What is compared twice, compared and excused, excused without words, unknown, or neither compared nor excused."""
    named = tables(text)
    families = [node.id for node in named["FAMILIES"].values() if isinstance(node, ast.Name)]
    compared = [name for family in families for name in named[family]]
    excused = {name: ast.literal_eval(reason) for name, reason in named[LEFT_OUT].items()}
    all_names = [*compared, *excused]
    faults = [f"{name} is there twice" for name in sorted(set(all_names)) if all_names.count(name) > 1]
    faults += [f"{name} has no reason" for name, reason in excused.items() if len(reason.split()) < 3]
    faults += [f"{name} is no technique" for name in sorted(set(all_names) - catalogue)]
    return faults + [f"{name} is neither compared nor excused" for name in sorted(catalogue - set(all_names))]


def test_every_technique_is_compared_or_excused():
    catalogue = {row["id"] for row in yaml.safe_load((PROJECT / "survey" / "techniques.yml").read_text())}
    assert len(catalogue) >= 86
    assert wrong((PROJECT / "chapters" / "discussion.py").read_text(), catalogue) == []


@pytest.mark.parametrize(
    ("compared", "excused", "found"),
    [
        ('{"a": 1}', '{"b": "it is a map"}', []),
        ('{"a": 1}', '{"b": "why"}', ["b has no reason"]),
        ('{"a": 1}', "{}", ["b is neither compared nor excused"]),
        ('{"a": 1, "b": 2}', '{"b": "it is a map"}', ["b is there twice"]),
        ('{"a": 1, "c": 2}', '{"b": "it is a map"}', ["c is no technique"]),
    ],
)
def test_a_technique_that_is_left_out_is_found(compared, excused, found):
    text = f'# %%\nONE = {compared}\nEXCUSED = {excused}\nFAMILIES = {{"2.1": ONE}}\n'
    assert wrong(text, {"a", "b"}) == found


def test_the_number_of_excuses_is_the_one_in_the_text():
    text = (PROJECT / "chapters" / "discussion.py").read_text()
    assert len(tables(text)[LEFT_OUT]) == 18
    assert "Eighteen techniques are not in the comparison" in text
