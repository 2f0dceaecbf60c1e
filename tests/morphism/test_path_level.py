"""Trees of branches in place of layers, to depth three: the same function, until an identity edge is replaced."""

import pytest
import torch
from given import equal, refused, same_state, state
from given_morphism import crossing, difference, images, of_torchvision
from torch import nn

from lib.morphism.path_level import EDGES, branch, depth, edges, grow, insert_identity, replace_identity
from lib.morphism.shared.checks import largest_difference

SCHEMES = [
    ("stem", "replicate-add", 3),
    ("stem_norm", "replicate-add", 2),
    ("a", "replicate-concat", 4),
    ("head", "replicate-concat", 2),
    ("a", "split-add", 3),
    ("hidden", "split-add", 7),
    ("depthwise", "split-concat", 2),
    ("grouped", "split-concat", 2),
    ("joined_norm", "split-concat", 3),
    ("relu", "split-concat", 2),
]


@pytest.mark.parametrize(("layer", "scheme", "branches"), SCHEMES)
def test_branches_compute_what_the_layer_did(layer, scheme, branches):
    model, x = crossing(), images(6)
    before = state(model)
    wide = branch(model, layer, x[:1], scheme=scheme, branches=branches)
    assert len(wide.get_submodule(layer).branches) == branches
    assert difference(model, wide, x) < 1e-13
    assert same_state(before, state(model))


def test_two_copies_and_parts_of_outputs_are_exact():
    model, x = crossing(torch.float32), images(6, dtype=torch.float32)
    assert largest_difference(model, branch(model, "a", x, branches=2), x) == 0
    assert largest_difference(model, branch(model, "a", x, scheme="replicate-concat"), x) < 3e-7


def test_a_tree_of_depth_three_computes_the_same():
    model, x = crossing(), images(6)
    tree = branch(model, "a", x, scheme="replicate-add")
    tree = branch(tree, "a.branches.0", x, scheme="split-add")
    tree = insert_identity(tree, "a.branches.1", x)
    tree = branch(tree, "a.branches.1.1", x, scheme="split-concat", branches=3)
    tree = branch(tree, "a.branches.0.branches.1", x, scheme="replicate-concat")
    deepest = "a.branches.0.branches.1.branches.0"
    assert depth(tree, deepest) == 3 and len(edges(tree, "a")) == 3 + 1 + 3
    assert difference(model, tree, x) < 1e-13
    with refused(tree, f"layer '{deepest}' is already 3 branches deep"):
        branch(tree, deepest, x)


@pytest.mark.parametrize("layer", ["stem", "depthwise"])
def test_random_trees_compute_the_same_and_have_a_seed(layer):
    model, x = crossing(), images(6)
    trees = [grow(model, layer, x[:1], steps=4, seed=seed) for seed in (0, 0, 1)]
    assert all(difference(model, tree, x) < 1e-12 for tree in trees)
    assert str(trees[0]) == str(trees[1]) != str(trees[2]) and equal(trees[0], trees[1])
    assert max(depth(tree, edge) for tree in trees for edge in edges(tree, layer)) <= 3
    assert equal(grow(model, layer, x, steps=0), model)


def test_noise_of_copies_has_mean_zero_so_that_a_convolution_stays_exact():
    model, x = crossing(), images(6)
    noisy = branch(model, "a", x, branches=3, noise=0.1, seed=1)
    weights = torch.stack([part.weight for part in noisy.a.branches])
    assert weights.std(0).min() > 0
    torch.testing.assert_close(weights.mean(0), model.a.weight)
    assert difference(model, noisy, x) < 1e-13
    assert equal(noisy, branch(model, "a", x, branches=3, noise=0.1, seed=1))


@pytest.mark.parametrize("operation", EDGES)
def test_an_operation_in_place_of_an_identity_changes_the_function(operation):
    model, x = crossing(), images(6)
    inserted = insert_identity(model, "a", x)
    assert largest_difference(model, inserted, x) == 0
    changed = replace_identity(inserted, "a.1", x, operation=operation)
    assert largest_difference(model, changed, x) > 1e-3
    assert changed(x).shape == model(x).shape and changed.a[1].training == model.a.training
    assert equal(changed, replace_identity(inserted, "a.1", x, operation=operation))


def test_modes_of_parts_stay_as_they_were():
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))).train()
    model[0][1].eval()
    wide = branch(model, "0", torch.zeros(1, 2))
    assert wide[0].training and wide[0].branches[1].training and not wide[0].branches[1][1].training


@pytest.mark.parametrize(
    ("name", "layer", "schemes"),
    [
        ("resnet18", "layer1.0.conv1", ["replicate-add", "replicate-concat", "split-add"]),
        ("mobilenet_v2", "features.2.conv.1.0", ["replicate-add", "split-concat"]),
    ],
)
def test_networks_of_torchvision_keep_their_function(name, layer, schemes, monkeypatch):
    model, x = of_torchvision(name)
    monkeypatch.setattr("lib.structure.proof.difference", lambda *_: "")  # compared here instead, once
    tree = model
    for i, scheme in enumerate(schemes):
        tree = branch(tree, layer + ".branches.0" * i, x[:1], scheme=scheme)
    assert depth(tree, layer + ".branches.0" * len(schemes)) == len(schemes)
    assert difference(model, tree, x) < 1e-9


def test_schemes_that_do_not_fit_are_refused():
    model, x = crossing(), images(1)
    for layer, scheme, branches, message in [
        ("tail", "replicate-add", 2, "has no layer 'tail' that this works on"),
        ("a", "replicate-multiply", 2, "scheme must be one of replicate-add"),
        ("a", "replicate-add", 1, "branches must be a whole number of 2 or more, not 1"),
        ("a", "split-concat", 2, "layer 'a' is a Conv2d: only grouped convolutions"),
        ("grouped", "split-add", 2, "only convolutions without groups"),
        ("depthwise", "split-concat", 3, "4 groups of layer 'depthwise' cannot be shared equally among 3"),
        ("stem", "split-add", 3, "layer 'stem' has 2 channels to share, fewer than 3 branches"),
    ]:
        with refused(model, message):
            branch(model, layer, x, scheme=scheme, branches=branches)


def test_a_module_that_its_owner_looks_into_is_refused():
    class Owner(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)

        def forward(self, x):
            return nn.functional.linear(x, self.layer.weight)

    with refused(model := Owner(), "layer 'layer' cannot be replaced: Owner reads its weight, which Branches does not"):
        branch(model, "layer", torch.ones(1, 2))


def shared_layers():
    """The second layer is the first one, by another name."""
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)).double()
    model[2] = model[0]
    return model


def test_a_layer_of_two_names_stays_one_layer():
    model, x = shared_layers(), torch.ones(2, 3).double()
    for morphed in (branch(model, "0", x), insert_identity(model, "0", x), grow(model, "0", x, steps=3)):
        assert morphed[0] is morphed[2] and difference(model, morphed, x) < 1e-15


def test_layers_that_share_a_weight_are_refused():
    model, x = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)), torch.ones(1, 3)
    model[2].weight = model[0].weight
    for morph in (branch, insert_identity):
        with refused(model, "layer '2' shares a tensor with '0.weight', which a morph would end"):
            morph(model, "2", x)
    inside = nn.Sequential(shared_layers(), nn.ReLU())
    assert insert_identity(inside, "0", torch.ones(1, 3).double())[0][0][0].weight is not inside[0][0].weight
    inside.append(inside[0][0])
    with refused(inside, "layer '0' shares a tensor with '2.weight'"):
        insert_identity(inside, "0", torch.ones(1, 3).double())


class Twofold(nn.Module):
    """Calls its layers with two inputs, or with a keyword."""

    def __init__(self):
        super().__init__()
        self.pair, self.named = nn.Bilinear(2, 2, 4), nn.BatchNorm1d(4)

    def forward(self, x):
        return self.named(input=self.pair(x, x))


def test_a_tree_does_not_grow_where_no_step_is_possible():
    with refused(model := Twofold(), "edge 'pair' can neither be branched nor followed by a node: a node after layer"):
        grow(model, "pair", torch.ones(1, 2), steps=3)


def test_layers_called_by_keyword_and_unfit_examples_are_refused():
    with refused(model := Twofold(), "layer 'named' is called with keyword arguments only: it must"):
        branch(model, "named", torch.ones(1, 2), scheme="split-concat")
    model = crossing()
    with refused(model, "Crossing does not run on the example: "):
        branch(model, "relu", images(1, channels=3), scheme="split-concat")


def test_edges_and_steps_that_cannot_be_are_refused():
    model, x = crossing(), images(1)
    with refused(model, "has no layer 'a' that this works on: accepted are none"):
        replace_identity(model, "a", x, operation="average3")
    inserted = insert_identity(model, "hidden", x)
    with refused(inserted, r"edge 'hidden.1' gets a tensor of shape \(1, 5\)"):
        replace_identity(inserted, "hidden.1", x, operation="average3")
    with refused(inserted, "operation must be one of separable3"):
        replace_identity(inserted, "hidden.1", x, operation="separable4")
    with refused(model, "steps must be a whole number of 0 or more, not -1"):
        grow(model, "a", x, steps=-1)
