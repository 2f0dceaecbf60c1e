"""Scores to masks: layer by layer or in the whole network, tied layers and grouped convolutions included."""

import itertools

import given
import pytest
import torch
from given_structure import Net, close, conv, halves, head, images
from torch import nn

from lib import models, structure


def test_keep_by_layer_and_globally():
    scores = {"a": torch.tensor([4.0, 1, 3, 2]), "b": torch.tensor([8.0, 7, 6, 0.5])}
    masks = structure.keep(scores, fraction=0.5)
    assert masks["a"].tolist() == [True, False, True, False]
    assert masks["b"].tolist() == [True, True, False, False]
    assert masks.removed == {"a": 2, "b": 2}
    assert repr(masks) == "Masks(removed: a 2 of 4, b 2 of 4)"
    everywhere = structure.keep(scores, fraction=0.5, scope="global")
    assert everywhere.removed == {"a": 3, "b": 1}
    assert structure.keep(scores, fraction=0.7, scope="global", least=1).removed == {"a": 3, "b": 2}


def test_masks_of_growing_fractions_are_nested_and_ties_go_to_the_first():
    score = {"a": torch.rand(50, generator=torch.Generator().manual_seed(0)).round(decimals=1)}
    before = torch.ones(50, dtype=torch.bool)
    for fraction in (0.0, 0.1, 0.33, 0.5, 0.9, 0.99):
        now = structure.keep(score, fraction=fraction)["a"]
        assert (now <= before).all() and int((~now).sum()) == int(50 * fraction + 1e-9)
        before = now
    assert structure.keep({"a": torch.zeros(4)}, fraction=0.5)["a"].tolist() == [True, True, False, False]


def test_tied_layers_get_one_mask_by_the_sum_of_their_scaled_scores():
    group = structure.Group(3, ("a", "b"), {}, {})
    scores = {"a": torch.tensor([1.0, 2, 3]), "b": torch.tensor([300.0, 100, 0]), "c": torch.tensor([1.0, 2])}
    masks = structure.keep(scores, fraction=0.34, groups=[group])
    # a / 2 + b / (400 / 3) = 0.5 + 2.25, 1 + 0.75, 1.5 + 0
    assert masks["a"].tolist() == masks["b"].tolist() == [True, True, False]
    assert masks["c"].tolist() == [True, True]
    nothing = {"a": torch.zeros(3), "b": torch.zeros(3)}
    assert structure.keep(nothing, fraction=0.34, groups=[group])["b"].tolist() == [True, True, False]


def test_counts_are_rounded_to_multiples():
    kept = {
        n: int(structure.keep({"a": torch.rand(n)}, fraction=0.3, multiple_of=8)["a"].sum())
        for n in (1, 7, 8, 16, 20, 64)
    }
    assert kept == {1: 1, 7: 7, 8: 8, 16: 8, 20: 16, 64: 48}  # of 1, 5, 6, 12, 14, 45


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"fraction": 1.0}, r"fraction must be in \[0, 1\), not 1.0"),
        ({"fraction": -0.1}, r"fraction must be in \[0, 1\), not -0.1"),
        ({"fraction": float("nan")}, "not nan"),
        ({"fraction": 0.5, "scope": "model"}, "scope must be one of layer, global, not 'model'"),
        ({"fraction": 0.5, "multiple_of": 0}, "multiple_of must be 1 or more"),
        ({"fraction": 0.75, "scope": "global"}, "layer 'a' would lose its last filter"),
    ],
)
def test_keep_refuses(options, says):
    with pytest.raises(ValueError, match=says):
        structure.keep({"a": torch.tensor([1.0, 2]), "b": torch.tensor([3.0, 4])}, **options)


@pytest.mark.parametrize(
    ("scores", "says"),
    [
        ({}, "there are no scores"),
        (
            {"a": torch.ones(2, 2)},
            r"the scores of layer 'a' must be one finite number for each filter, not a tensor of shape \(2, 2\)",
        ),
        ({"a": torch.ones(0)}, r"of shape \(0,\)"),
        ({"a": [1.0, 2.0]}, "the scores of layer 'a' must be one finite number for each filter, not a list"),
        (
            {"a": torch.tensor([1.0, float("nan")])},
            "the scores of layer 'a' must be one finite number for each filter, not NaN or infinity",
        ),
    ],
)
def test_keep_refuses_scores(scores, says):
    with pytest.raises(ValueError, match=says):
        structure.keep(scores, fraction=0.5)


def test_scores_of_another_number_than_the_channels_are_refused():
    group = structure.Group(3, ("a", "b"), {}, {})
    with pytest.raises(ValueError, match="layer 'b' has 4 scores: 3 are needed"):
        structure.keep({"a": torch.ones(3), "b": torch.ones(4)}, fraction=0.5, groups=[group])


# --- the global scope with groups ------------------------------------------------------------------------------------


def test_one_threshold_for_the_whole_network_counts_tied_channels_once():
    """By brute force: of all distinct channels, by the mean of their scores, the share with the lowest goes."""
    found = structure.groups(models.resnet8(), torch.zeros(1, 3, 32, 32))
    generator = torch.Generator().manual_seed(0)
    scores = {
        name: torch.rand(g.channels, generator=generator) + g.channels / 128 for g in found for name in g.producers
    }
    for fraction in (0.1, 0.3, 0.45):
        masks = structure.keep(scores, fraction=fraction, scope="global", groups=found)
        means = [sum(scores[name] for name in group.producers) / len(group.producers) for group in found]
        ranked = sorted((float(value), i, j) for i, values in enumerate(means) for j, value in enumerate(values))
        gone = {(i, j) for _, i, j in ranked[: int(fraction * len(ranked))]}
        for i, group in enumerate(found):
            kept = torch.tensor([(i, j) not in gone for j in range(group.channels)])
            assert all(torch.equal(masks[name], kept) for name in group.producers)


@pytest.mark.parametrize("fraction", [0.1, 0.45, 0.7])
def test_masks_of_the_global_scope_can_be_cut_with_the_groups(fraction):
    model, x = models.resnet8(), torch.zeros(1, 3, 32, 32)
    found = structure.groups(model, x)
    generator = torch.Generator().manual_seed(1)
    scores = {name: torch.rand(g.channels, generator=generator) for g in found for name in g.producers}
    structure.shrink(model, structure.keep(scores, fraction=fraction, scope="global", groups=found, least=1), x)
    with pytest.raises(ValueError, match="tied by an addition and have different masks: give keep"):
        structure.shrink(model, structure.keep(scores, fraction=fraction, scope="global", least=1), x)


# --- grouped convolutions ---------------------------------------------------------------------------------------------


def parted(parts: int) -> structure.Group:
    return structure.Group(12, ("a",), {}, {}, parts)


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("fraction", [0, 0.3, 0.5, 0.66])
def test_every_part_keeps_its_highest_and_as_many(parts, fraction):
    score = torch.rand(12, generator=torch.Generator().manual_seed(parts))
    mask = structure.keep({"a": score}, fraction=fraction, groups=[parted(parts)])["a"].reshape(parts, -1)
    each = int(mask[0].sum())
    for kept, values in zip(mask, score.reshape(parts, -1), strict=True):
        best = max(itertools.combinations(range(12 // parts), each), key=lambda some: float(values[list(some)].sum()))
        assert kept.nonzero().flatten().tolist() == sorted(best)
    asked = 12 - int(12 * fraction + 1e-9)
    assert abs(each * parts - asked) <= parts / 2 or each == 1


def test_parts_and_multiples_are_both_kept():
    score = torch.rand(24, generator=torch.Generator().manual_seed(0))
    group = structure.Group(24, ("a",), {}, {}, 3)
    masks = structure.keep({"a": score}, fraction=0.4, groups=[group], multiple_of=4)
    assert int(masks["a"].sum()) == 12 and masks["a"].reshape(3, 8).sum(1).tolist() == [4, 4, 4]


def block() -> Net:
    """As in ResNeXt: a convolution of 4 groups between two of 1 x 1, and a shortcut."""
    return Net(
        lambda net, x: head(net, (lambda y: y + net.last(net.mid(net.first(y).relu()).relu()))(net.a(x))),
        **{"a": conv(3, 8), "b": conv(8, 6), "fc": nn.Linear(6, 4), "first": nn.Conv2d(8, 16, 1)},
        **{"mid": conv(16, 24, groups=4), "last": nn.Conv2d(24, 8, 1)},
    )


def test_a_block_of_grouped_convolutions_is_cut_in_equal_parts():
    model, x = given.seeded(block), images()
    found = structure.groups(model, x)
    assert {group.producers: group.parts for group in found} == {
        ("a", "last"): 1,
        ("b",): 1,
        ("first",): 4,
        ("mid",): 4,
    }
    masks = halves(found)
    small = structure.shrink(model, masks, x)
    assert small.mid.weight.shape == (12, 2, 3, 3) and small.mid.groups == 4
    assert close(small(x), structure.mask(model, masks, x)(x))
    assert structure.fraction_for(model, x, multiply_adds=0.4) < 0.6
    uneven = {"first": torch.arange(16) > 1}
    with pytest.raises(ValueError, match=r"the 4 groups of convolution 'mid' cannot be cut equally: .* \[2, 4, 4, 4\]"):
        structure.shrink(model, uneven, x)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_whole_numbers_are_scores_of_tied_layers(scope):
    scores, group = (
        {"a": torch.tensor([0, 3, 1, 2]), "b": torch.tensor([0, 3, 2, 2])},
        structure.Group(4, ("a", "b"), {}, {}),
    )
    masks = structure.keep(scores, fraction=0.5, scope=scope, groups=[group])
    assert masks["a"].tolist() == masks["b"].tolist() == [False, True, False, True]
