"""Policies: probabilities sum to one over all candidates, draws follow them, seeds, what is refused."""

import copy

import pytest
import torch
from given import generator
from given_choices import every

from lib.search.chains import Chains
from lib.supergraphs.enas import Controller
from lib.supergraphs.shared.choices import Listed, choices_of
from lib.supergraphs.shared.macro_space import MacroSpace
from lib.supergraphs.shared.policies import RecurrentPolicy, SoftmaxPolicy

UNEVEN = Listed([("conv", 3, 8), ("conv", 5, 8), ("pool", 3), ("conv", 3, 16), ("skip",)])
MACRO = MacroSpace(layers=3, operations=("conv3", "max3"))


def far(policy, seed=1):
    """The policy with weights so large that its choices are far from uniform."""
    for i, parameter in enumerate(policy.parameters()):
        parameter.data = torch.randn(parameter.shape, generator=generator(seed + i)).to(parameter)
    return policy


POLICIES = {
    "softmax": lambda: SoftmaxPolicy(choices_of(Chains(positions=3))),
    "softmax with holes": lambda: SoftmaxPolicy(UNEVEN),
    "recurrent": lambda: RecurrentPolicy(choices_of(Chains(positions=3)), seed=0),
    "recurrent with holes": lambda: RecurrentPolicy(UNEVEN, seed=0, bound=2.0),
    "controller of the macro space": lambda: Controller(MACRO, seed=0),
}


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_probabilities_of_all_candidates_sum_to_one(name, dtype):
    policy = far(POLICIES[name]().to(dtype))
    probabilities = policy(every(policy.choices)).log_probabilities.exp()
    assert probabilities.dtype == dtype and probabilities.max() > 1.5 * probabilities.mean()
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-5 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("name", POLICIES)
def test_draws_follow_the_probabilities(name):
    policy, n = far(POLICIES[name]()), 4000
    rows = every(policy.choices)
    probabilities = policy(rows).log_probabilities.exp().detach().double()
    counts = torch.zeros(len(rows), dtype=torch.double)
    place = {tuple(row): i for i, row in enumerate(rows.tolist())}
    for row in policy.sample(n, generator()).tolist():  # a KeyError: drawn though it makes no candidate
        counts[place[tuple(row)]] += 1
    deviation = (counts - n * probabilities).abs()
    assert (deviation <= 4.5 * (n * probabilities * (1 - probabilities)).sqrt() + 1).all()


def test_the_probability_is_the_product_of_those_of_the_choices():
    policy = far(RecurrentPolicy(UNEVEN, seed=0))
    rows = every(UNEVEN)
    decisions = policy(rows)
    for row, log in zip(range(len(rows)), decisions.log_probabilities, strict=True):
        by_hand = sum(step[row, rows[row, i]] for i, step in enumerate(decisions.steps))
        assert log.item() == pytest.approx(by_hand.item(), abs=1e-6)


def test_only_the_recurrent_policy_reads_what_was_chosen():
    rows = torch.tensor([[0, 0, 0], [1, 0, 0]])
    choices = choices_of(Chains(positions=3))
    after = [far(policy)(rows).steps[1] for policy in (SoftmaxPolicy(choices), RecurrentPolicy(choices, seed=0))]
    assert torch.equal(after[0][0], after[0][1]) and not torch.allclose(after[1][0], after[1][1])


def test_bounded_logits_let_no_option_die():
    policy = far(RecurrentPolicy(choices_of(Chains(positions=3)), seed=0, bound=1.5))
    for parameter in policy.parameters():
        parameter.data *= 100
    smallest = min(step.min().item() for step in policy(every(policy.choices)).steps)
    assert smallest >= -torch.tensor([1.5, 1.5, 1.5, -1.5]).logsumexp(0).item() - 1.5 - 1e-5


def test_the_seed_decides_and_the_global_state_is_left_alone():
    before = torch.random.get_rng_state()
    make = POLICIES["recurrent"]
    a, b, other = make(), make(), RecurrentPolicy(choices_of(Chains(positions=3)), seed=1)
    assert torch.equal(a.sample(20, generator(3)), b.sample(20, generator(3)))
    assert not torch.equal(a.start, other.start) and a.start.abs().max() <= 0.1
    assert torch.equal(before, torch.random.get_rng_state())


def test_copies_and_stored_weights_decide_alike():
    policy = far(Controller(MACRO, seed=0))
    fresh = Controller(MACRO, seed=5)
    fresh.load_state_dict(policy.state_dict())
    rows = every(MACRO)
    expected = policy(rows).log_probabilities
    assert torch.equal(fresh(rows).log_probabilities, expected)
    assert torch.equal(copy.deepcopy(policy)(rows).log_probabilities, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden": 0}, "hidden must be a whole number"),
        ({"layers": 1.5}, "layers must be a whole number"),
        ({"bound": 0.0}, "bound must be above 0"),
        ({"bound": float("nan")}, "bound must be above 0"),
    ],
)
def test_sizes_that_make_no_policy_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RecurrentPolicy(UNEVEN, seed=0, **options)


@pytest.mark.parametrize("make", [SoftmaxPolicy, lambda choices: RecurrentPolicy(choices, seed=0)])
def test_a_space_without_a_choice_is_refused(make):
    with pytest.raises(ValueError, match="the space has no choice: at least one is needed"):
        make(Listed([()]))


@pytest.mark.parametrize("shape", [(3,), (3, 2), (3, 4)])
def test_choices_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"\(n, 3\) are needed"):
        SoftmaxPolicy(UNEVEN)(torch.zeros(shape, dtype=torch.long))
