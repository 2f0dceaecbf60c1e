"""The same color, marker and line for a technique everywhere, and another one for its neighbors."""

from itertools import combinations
from pathlib import Path

import pytest
import yaml

from lib import figures

CATALOGUE = Path(__file__).parents[2] / "survey" / "techniques.yml"
SURVEY = yaml.safe_load(CATALOGUE.read_text())
SECTION = {row["id"]: row["section"] for row in SURVEY}
TREATMENTS = {"dense", "float", "random", "reported", "pruned", "retrained", "iterated", "teacher", "ensemble"} | {
    "nearest rounding",
    "stochastic rounding",
}
OF_ALL_CHAPTERS = ["DENSE", "PRUNING", "RETRAINED", "QUANTIZATION", "COMBINED", "REPORTED"]


def test_treatments_are_told_apart_by_color_and_by_marker():
    looks = [getattr(figures, name) for name in OF_ALL_CHAPTERS]
    assert len({look["color"] for look in looks}) == len({look["marker"] for look in looks}) == len(looks)


def test_techniques_of_one_section_differ_in_color_or_marker():
    techniques = [name for name in figures.LOOKS if name in SECTION]
    met = [pair for pair in combinations(techniques, 2) if len({SECTION[name] for name in pair}) == 1]
    look = {name: (figures.look(name)["color"], figures.look(name)["marker"]) for name in techniques}
    assert met and [pair for pair in met if look[pair[0]] == look[pair[1]]] == []


def test_every_look_is_of_a_technique_or_a_treatment():
    assert set(figures.LOOKS) - set(SECTION) == TREATMENTS


def test_only_what_was_reported_is_black_and_hollow():
    hollow = [name for name, look in figures.LOOKS.items() if look.get("markerfacecolor") == "none"]
    assert hollow == ["reported"] == [name for name, look in figures.LOOKS.items() if look["color"] == "black"]


@pytest.mark.parametrize("name", ["", "Dense", "prune-obc"])
def test_a_look_that_is_not_there_is_refused_by_name(name):
    with pytest.raises(ValueError, match=f"^a look must be one of dense, float, .* not '{name}'$"):
        figures.look(name)
