"""Discrete states: the space is never left, what is stored, the file, and the mean of a transition."""

import given
import numpy as np
import pytest
import torch
from given_binarization import in_space, ternary
from torch import nn

from lib.binarization.shared.states import PROBABILITIES, TernaryStates, check_space, check_transition, transition
from lib.weights import compress

SPACES = range(7)
SHAPES = [(4, 6), (3, 1, 5), (6, 1, 3, 3), (1, 1), (2, 3, 1, 1, 2)]


# -- the space ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES)
def test_the_space_is_the_papers(space):
    form = TernaryStates(space)
    wanted = [n / 2 ** (space - 1) - 1 for n in range(2**space + 1)]
    form.states = torch.arange(2**space + 1, dtype=torch.int8)
    assert form(torch.zeros(0)).tolist() == wanted
    assert wanted[0] == -1 and wanted[-1] == 1 and len(wanted) == 2**space + 1


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("shape", SHAPES)
def test_bases_and_the_file_give_the_same_weight(space, shape):
    form = TernaryStates(space)
    stored = form.right_inverse(torch.randn(shape, generator=given.generator()))
    weight = form(stored)
    assert stored.shape == (0,) and weight.shape == shape and in_space(weight, space)
    signs, scales = form.bases(stored)
    assert signs.shape == (2**space, *shape) and scales.shape == (2**space, shape[0])
    assert (signs.abs() == 1).all()
    assert torch.equal((scales.reshape(*scales.shape, *[1] * (len(shape) - 1)) * signs).sum(0), weight)
    encoding = form.encode(stored)
    assert encoding.symbols["state"].min() >= 0 and encoding.symbols["state"].max() <= 2**space
    assert torch.equal(TernaryStates.decode(encoding, weight.shape), weight)


def test_a_ternary_weight_is_half_of_each_of_two_matrices_of_signs():
    form = TernaryStates()
    weight = ternary(5, 9)
    signs, scales = form.bases(form.right_inverse(weight))
    at_least, above = (torch.where(each, 1.0, -1.0) for each in (weight >= 0, weight > 0))
    assert torch.equal(signs, torch.stack([at_least, above])) and (scales == 0.5).all()


def test_a_dense_weight_goes_to_the_nearest_state_of_its_scale():
    weight = torch.randn(40, 30, generator=given.generator()) * 0.03
    for space in SPACES:
        form = TernaryStates(space)
        near = form(form.right_inverse(weight))
        scaled = weight / weight.abs().mean()
        states = torch.arange(2**space + 1) * form.step - 1
        best = (scaled[..., None] - states).abs().argmin(-1) * form.step - 1
        assert torch.equal(near, best)


@pytest.mark.parametrize("layer", [nn.Linear(784, 300), nn.Conv2d(20, 50, 5), nn.Conv2d(64, 64, 3, groups=64)])
def test_the_default_initial_weights_give_a_mix_of_all_three(layer):
    compress(layer, lambda name, layer: TernaryStates())
    for value in (-1, 0, 1):
        assert 0.15 < (layer.weight == value).float().mean() < 0.5


@pytest.mark.parametrize("space", SPACES)
def test_a_weight_of_the_space_enters_as_it_is(space):
    weight = torch.randint(0, 2**space + 1, (6, 7), generator=given.generator()) * 2.0 ** (1 - space) - 1
    form = TernaryStates(space)
    assert torch.equal(form(form.right_inverse(weight)), weight)
    assert torch.equal(form(form.right_inverse(weight / 3)), weight) or space > 1  # a scale alone changes nothing


def test_the_scale_of_a_dense_weight_does_not_matter_however_small():
    weight = torch.randn(40, 30, generator=given.generator())
    for space in SPACES:
        form = TernaryStates(space)
        found = [form(form.right_inverse(weight * 2.0**-k)) for k in (0, 40, 100)]
        assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@pytest.mark.parametrize(("space", "state"), [(0, 1.0), (1, 0.0), (3, 0.0)])
def test_zeros_enter(space, state):
    layer = nn.Linear(3, 2)
    nn.init.zeros_(layer.weight)
    assert compress(layer, lambda name, layer: TernaryStates(space)).weight.unique().tolist() == [state]


# -- the transition ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("probability", PROBABILITIES)
def test_the_transition_is_the_equations_weight_by_weight(space, probability):
    step = 2.0 ** (1 - space)
    states = torch.randint(0, 2**space + 1, (400,), generator=given.generator(1)).to(torch.int8)
    increment = torch.randn(400, generator=given.generator(2)) * 1.5 * step
    drawn = torch.rand(400, generator=given.generator(3)).tolist()
    new = transition(states, increment, space=space, generator=given.generator(3), probability=probability)
    for n, change, u, found in zip(states.tolist(), increment.tolist(), drawn, new.tolist(), strict=True):
        w = n * step - 1
        rho = min(1 - w, change) if change >= 0 else max(-1 - w, change)
        kappa = np.fix(rho / step)
        nu = rho - kappa * step
        chance = np.tanh(3 * abs(nu) / step) if probability == "tanh" else abs(nu) / step
        assert abs(u - chance) > 1e-6, "a draw on the edge: take another seed"
        assert found * step - 1 == w + kappa * step + np.sign(rho) * step * (u < chance)
    assert new.dtype == torch.int8


@pytest.mark.parametrize("space", [0, 1, 2])
def test_at_the_rail_an_outward_increment_never_moves(space):
    outward = torch.rand(10_000, generator=given.generator()) * 5
    for state, increment in ((2**space, outward), (0, -outward)):
        states = torch.full((10_000,), state, dtype=torch.int8)
        for seed in range(5):
            assert torch.equal(transition(states, increment, space=space, generator=given.generator(seed)), states)


def test_no_increment_is_no_transition():
    states = torch.arange(3, dtype=torch.int8).repeat(1000)
    for probability in PROBABILITIES:
        assert torch.equal(
            transition(states, torch.zeros(3000), probability=probability, generator=given.generator()), states
        )


@pytest.mark.parametrize("change", [-0.9, -0.3, -0.05, 0.05, 0.3, 0.9])
@pytest.mark.parametrize("space", [1, 2])
def test_a_linear_probability_is_unbiased_and_tanh_moves_too_far(change, space):
    n, step = 100_000, 2.0 ** (1 - space)
    states = torch.full((n,), 2 ** (space - 1), dtype=torch.int8)  # W = 0
    mean, moved = {}, {}
    for probability in PROBABILITIES:
        new = transition(
            states, torch.full((n,), change), space=space, probability=probability, generator=given.generator()
        )
        change_in_steps = (new - states).double()
        mean[probability] = change_in_steps.mean().item() * step
        moved[probability] = change_in_steps.unique()
    rest = abs(change) / step % 1
    sigma = step * (rest * (1 - rest) / n) ** 0.5
    assert abs(mean["linear"] - change) <= 4 * sigma
    for probability in PROBABILITIES:
        assert np.sign(mean[probability]) == np.sign(change)
        assert (moved[probability] * np.sign(change) >= 0).all()  # no weight ever moves the other way
    chance = np.tanh(3 * rest)
    expected = np.sign(change) * (abs(change) // step + chance) * step
    assert abs(mean["tanh"] - expected) <= 4 * step * (chance * (1 - chance) / n) ** 0.5
    assert abs(mean["tanh"]) > abs(change) + 4 * sigma


def test_draws_depend_on_the_generator_alone_and_not_on_the_layout():
    states = torch.ones(4, 5, 3, 3, dtype=torch.int8)
    increment = torch.rand(4, 5, 3, 3, generator=given.generator()) - 0.5
    one = transition(states, increment, generator=given.generator(1))
    last = [each.to(memory_format=torch.channels_last) for each in (states, increment)]
    assert torch.equal(transition(*last, generator=given.generator(1)), one)
    assert not torch.equal(transition(states, increment, generator=given.generator(2)), one)


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("space", [-1, 7, 0.5, None])
def test_another_space_is_refused(space):
    for refuses in (check_space, TernaryStates):
        with pytest.raises(ValueError, match=f"^space must be a whole number from 0 to 6, not {space}$"):
            refuses(space)


def test_another_transition_is_refused():
    with pytest.raises(ValueError, match=r"^probability must be one of tanh, linear, not 'square'$"):
        check_transition("square", 3.0)
    for m in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=f"^m must be a finite number above 0, not {m}$"):
            check_transition("tanh", m)
