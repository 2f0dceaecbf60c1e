"""The tree search: the top of a hill and of a small space found, ways of single morphs, nothing tried again."""

import itertools

import numpy as np
import pytest

from lib.morphism.shared.tree_search import Node, climb


def step(width, random):
    return width + int(random.choice([-1, 1]))


def climbed(
    roots=(0,), scores=None, *, value=lambda width: -abs(width - 30) / 10, tried=(), seed=0, morph=step, describe=int
):
    """Search the whole numbers for the largest value, by steps of one."""
    return climb(
        [Node((width,), row) for row, width in enumerate(roots)],
        [0.0] * len(roots) if scores is None else scores,
        morph=morph,
        describe=describe,
        bounds=lambda widths: [value(width) for width in widths],
        tried={*roots, *tried},
        random=np.random.default_rng(seed),
    )


def test_most_searches_find_the_top_of_a_hill():
    assert sum(climbed(seed=seed).candidate == 30 for seed in range(10)) >= 8  # chance may close the only way


def test_most_searches_find_the_largest_of_a_few_candidates():
    hits = 0
    for seed in range(20):
        values = np.random.default_rng(seed).normal(size=12)
        node = climbed(value=values.__getitem__, seed=seed, morph=lambda _, random: int(random.integers(12)))
        hits += node.candidate == values[1:].argmax() + 1  # the first is the root, which was tried
    assert hits >= 18


def test_the_way_leads_from_an_evaluated_candidate_by_single_morphs():
    node = climbed(roots=(0, 20), scores=[0.0, 1.0])
    assert node.path[0] == 20 and node.parent == 1 and node.candidate == 30
    assert all(abs(after - before) == 1 for before, after in itertools.pairwise(node.path))


def test_what_was_tried_is_not_chosen():
    assert climbed(roots=(29,), tried=(30, 28)) is None  # both ways out are closed
    assert climbed(roots=(29, 32), tried=(30,), seed=1).candidate == 31


def test_candidates_with_one_description_count_once():
    asked = []

    def value(tens):
        asked.append(tens)
        return tens / 10

    climbed(value=value, morph=lambda width, random: width + int(random.integers(20)), describe=tens_of)
    assert len(asked) == len(set(asked)) > 5 and 0 not in asked


def tens_of(width):
    return width // 10


def test_the_seed_decides():
    paths = [climbed(seed=seed, value=lambda width: np.cos(width)).path for seed in (3, 3, 4)]
    assert paths[0] == paths[1] != paths[2]


def test_without_roots_there_is_nothing_to_choose():
    assert climbed(roots=()) is None


def test_scores_that_are_not_one_for_each_root_are_refused():
    with pytest.raises(ValueError, match="longer"):
        climbed(roots=(0, 1), scores=[0.0])
