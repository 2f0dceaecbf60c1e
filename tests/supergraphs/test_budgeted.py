"""Proposition 1 and the gradient against enumeration, the objective against its formula, and budgets that are kept."""

import copy
import itertools
import math

import given
import pytest
import torch
from torch.nn import functional

from lib import measure, storage
from lib.datasets import Split
from lib.supergraphs import budgeted
from lib.supergraphs.budgeted import Gated, excess, gate_gradient
from lib.supergraphs.fabric import fabric
from lib.supergraphs.shared import costs
from lib.supergraphs.shared.costs import Makespan, Sum


def toy(n: int = 96, size: int = 4, dtype=torch.float32) -> Split:
    """Four patterns under noise."""
    random = given.generator()
    patterns, labels = torch.rand(4, 1, size, size, generator=random), torch.arange(n) % 4
    return Split((patterns[labels] + 0.2 * torch.rand(n, 1, size, size, generator=random)).to(dtype), labels)


def small(seed: int = 0, **options) -> Gated:
    return Gated(fabric(seed, layers=2, size=4, width=4, classes=4), **options)


def expected_loss(table: torch.Tensor, probabilities: torch.Tensor) -> torch.Tensor:
    """The expectation of D over all masks; the table has one dimension of two for each edge: off, on."""
    for p in probabilities:
        table = (1 - p) * table[0] + p * table[1]
    return table


def table(gates: int) -> torch.Tensor:
    """D of each mask: a loss that falls with each edge, and a hinge on a cost of one per edge."""
    masks = torch.tensor(list(itertools.product([0.0, 1.0], repeat=gates)), dtype=torch.float64)
    losses = (
        2 * torch.rand(2**gates, generator=given.generator(), dtype=torch.float64)
        - masks @ torch.arange(gates).double() / 4
    )
    return (losses + 10 * (masks.sum(1) - 3).clamp(min=0) / gates).reshape((2,) * gates)


def test_the_relaxed_optimum_is_that_of_the_best_architecture():
    loss = table(6)
    best = loss.min()
    corners = [expected_loss(loss, torch.tensor(c, dtype=torch.float64)) for c in itertools.product([0, 1], repeat=6)]
    assert torch.equal(torch.stack(corners), loss.flatten())
    inside = torch.rand(2000, 6, generator=given.generator(1), dtype=torch.float64)
    assert all(expected_loss(loss, gates) > best for gates in inside)
    for gates in inside[:20]:  # one gate after the other to its better end: never worse, and ends at a corner
        value = expected_loss(loss, gates)
        for i in range(6):
            ends = [torch.cat([gates[:i], torch.tensor([end]), gates[i + 1 :]]) for end in (0.0, 1.0)]
            gates = min(ends, key=lambda g: float(expected_loss(loss, g)))
            assert expected_loss(loss, gates) <= value + 1e-12
            value = expected_loss(loss, gates)
        assert value >= best and gates.unique().tolist() in ([0.0, 1.0], [0.0], [1.0])


@pytest.mark.parametrize("n", [2, 5])
def test_the_estimated_gradient_is_that_of_the_multilinear_form(n):
    loss, random = table(4), given.generator(3)
    logits = torch.tensor([0.5, -1.0, 0.2, 1.5], dtype=torch.float64, requires_grad=True)
    (exact,) = torch.autograd.grad(expected_loss(loss, logits.sigmoid()), logits)
    gates = logits.sigmoid().detach()
    masks = torch.rand(4000, n, 4, generator=random, dtype=torch.float64) < gates
    losses = loss[tuple(masks.long().unbind(-1))]
    estimates = torch.stack([gate_gradient(d, h, gates) for d, h in zip(losses, masks, strict=True)])
    errors = (estimates.mean(0) - exact) / (estimates.std(0) / 4000**0.5)
    assert errors.abs().max() < 3
    biased = (estimates.mean(0) * (n - 1) / n - exact) / (estimates.std(0) / 4000**0.5)
    assert biased.abs().max() > 3  # with the example itself in the mean, it would be too small


def test_the_estimate_is_the_derivative_of_the_log_probability():
    random = given.generator()
    logits = torch.randn(5, generator=random, dtype=torch.float64, requires_grad=True)
    masks, losses = torch.rand(7, 5, generator=random) < 0.5, torch.rand(7, generator=random, dtype=torch.float64)
    others = torch.stack([losses[[j for j in range(7) if j != k]].mean() for k in range(7)])
    log = torch.distributions.Bernoulli(logits=logits).log_prob(masks.double()).sum(1)
    (expected,) = torch.autograd.grad(((losses - others) * log).mean(), logits)
    torch.testing.assert_close(gate_gradient(losses, masks, logits.sigmoid().detach()), expected)


def fixed(model: Gated, mask: torch.Tensor) -> Gated:
    """With gates that are surely open or closed."""
    model.logits.copy_(torch.where(mask, 60.0, -60.0))
    return model


@pytest.mark.parametrize("case", ["sampled", "pruned", "nothing"])
def test_the_loss_is_that_of_the_paper(case):
    model, split = small(), toy(32)
    graph = model.network.graph
    cost = Sum(graph, costs.parameters(model.network))
    mask = graph.cheapest_path(dict.fromkeys(model.network.layers, 1.0))[1]
    mask[graph.leaving["l0s0"]] = True  # now one edge leads nowhere
    charged = {"sampled": float(cost(mask[None])), "pruned": float(cost(graph.live(mask)[None])), "nothing": cost.full}
    assert charged["pruned"] < charged["sampled"] < charged["nothing"]
    mask &= case != "nothing"
    budget = cost.cheapest + 1
    before = functional.cross_entropy(copy.deepcopy(model.network).train()(split.images, mask), split.labels).item()
    charge = "pruned" if case == "pruned" else "sampled"
    frozen = {"gate_rate": 0.0, "learning_rate": 0.0, "batch_size": 32, "weight_decay": 0.0}
    losses = budgeted.fit(
        fixed(model, mask), split, cost=cost, budget=budget, epochs=1, seed=0, strength=7.0, charge=charge, **frozen
    )
    assert losses == [pytest.approx(before + 7 * max(0, charged[case] - budget) / cost.full, rel=1e-5)]


def test_the_excess_counts_all_open_gates_or_those_on_a_path():
    model = small()
    graph = model.network.graph
    cost = Sum(graph, costs.parameters(model.network))
    masks = torch.rand(50, len(graph.edges), generator=given.generator()) < 0.6
    for charge, priced in (("sampled", masks), ("pruned", graph.live(masks))):
        costly = [
            float(cost(one[None])) if graph.connected(mask[None]) else cost.full
            for mask, one in zip(masks, priced, strict=True)
        ]
        expected = [max(0, value - 0.5 * cost.full) for value in costly]
        assert excess(masks, graph, cost=cost, budget=0.5 * cost.full, charge=charge).tolist() == expected
    assert 0 < sum(graph.connected(masks).tolist()) < 50


LATENCIES = {edge.name: 0.1 + 0.01 * i for i, edge in enumerate(small().network.graph.edges)}
KINDS = {
    "multiply_adds": lambda network: Sum(network.graph, costs.multiply_adds(network, (1, 4, 4))),
    "parameters": lambda network: Sum(network.graph, costs.parameters(network)),
    "latency": lambda network: Sum(network.graph, LATENCIES),
    "makespan": lambda network: Makespan(network.graph, machines=2),
}


@pytest.mark.parametrize("kind", KINDS)
def test_budgets_are_kept_and_the_network_has_learned(kind):
    model, split = small(), toy()
    cost = KINDS[kind](model.network)
    budget = 0.6 * cost.full
    epochs: list[int] = []
    losses = budgeted.fit(
        model, split, cost=cost, budget=budget, epochs=12, seed=0, batch_size=16, learning_rate=0.05, gate_rate=0.2,
        before_epoch=epochs.append,
    )  # fmt: skip
    alone = model.plain()
    assert float(cost(model.network.graph.live(model.mask)[None])) <= 1.05 * budget
    assert epochs == list(range(12)) and losses[-1] < losses[0]
    assert torch.equal(alone.eval()(split.images), model(split.images))
    assert (alone(split.images).argmax(1) == split.labels).float().mean() > 0.8
    if kind == "parameters":
        assert measure.parameters(alone) <= 1.05 * budget


def test_without_a_penalty_gates_stay_open_where_edges_help():
    model, split = small(), toy()
    cost = KINDS["parameters"](model.network)
    budgeted.fit(model, split, cost=cost, budget=cost.full, epochs=3, seed=0, batch_size=16, learning_rate=0.02)
    assert model.mask.all() and not torch.equal(model.logits, small().logits)


def test_gates_do_not_move_at_the_rate_zero():
    model = small()
    cost = KINDS["makespan"](model.network)
    budgeted.fit(model, toy(16), cost=cost, budget=3, epochs=1, seed=0, gate_rate=0.0)
    assert torch.equal(model.logits, small().logits)
    assert not given.equal(model.network, small().network)


def test_the_same_seed_learns_the_same_and_draws_nothing_else():
    state, models = torch.get_rng_state(), []
    for seed in (0, 0, 1):
        models.append(small().double())
        cost = KINDS["parameters"](models[-1].network)
        split = toy(32, dtype=torch.float64)
        budgeted.fit(models[-1], split, cost=cost, budget=0.5 * cost.full, epochs=2, seed=seed, batch_size=16)
    assert torch.equal(torch.get_rng_state(), state)
    assert given.equal(models[0], models[1]) and not torch.equal(models[0].logits, models[2].logits)
    assert models[0].logits.dtype == torch.float64


def test_each_pixel_can_have_a_label():
    network = fabric(layers=2, size=4, width=4, classes=3, task="segmentation")
    model, random = Gated(network), given.generator()
    split = Split(torch.rand(8, 1, 4, 4, generator=random), torch.randint(0, 3, (8, 4, 4), generator=random))
    cost = Makespan(network.graph, machines=1)
    losses = budgeted.fit(model, split, cost=cost, budget=cost.full, epochs=4, seed=0, batch_size=8, learning_rate=0.1)
    assert losses[-1] < losses[0] and model.plain()(split.images).shape == (8, 3, 4, 4)


def test_gates_survive_copies_states_and_files(tmp_path):
    model = small()
    model.logits.copy_(torch.linspace(-1, 3, len(model.logits)))
    images = toy(4).images
    model.eval()
    other = small(1).eval()
    other.load_state_dict(model.state_dict())
    storage.save(model, tmp_path / "gated.slim")
    stored = storage.load(tmp_path / "gated.slim", small(2)).eval()
    for twin in (other, copy.deepcopy(model), stored):
        assert torch.equal(twin(images), model(images)) and torch.equal(twin.mask, model.mask)


def test_entropy_is_one_bit_for_undecided_gates_and_zero_for_decided_ones():
    assert small(start=0.0).entropy_bits() == pytest.approx(1)
    assert fixed(small(), small().mask).entropy_bits() == pytest.approx(0, abs=1e-12)


def test_a_loss_that_is_not_finite_moves_no_gate():
    model, split = small(), toy(8)
    model.network.head.linear.bias.data[0] = math.inf
    cost = KINDS["parameters"](model.network)
    with pytest.raises(ValueError, match="the loss of a batch is nan: try a lower learning rate"):
        budgeted.fit(model, split, cost=cost, budget=cost.full, epochs=1, seed=0)
    assert torch.equal(model.logits, small().logits)


def test_bad_input_is_refused_before_anything_changes():
    model, split = small(), toy(8)
    cost = KINDS["parameters"](model.network)
    options = {"cost": cost, "budget": cost.full, "epochs": 1, "seed": 0}
    cases = [
        ({"budget": 10}, split, rf"the budget is 10, but the cheapest connected network costs {cost.cheapest:g}"),
        ({"budget": math.nan}, split, "the budget is nan"),
        ({"strength": -1.0}, split, "strength must be finite, 0 or more, not -1.0"),
        ({"gate_rate": math.inf}, split, "gate_rate must be finite, 0 or more, not inf"),
        ({"charge": "all"}, split, 'charge must be "sampled" or "pruned", not \'all\''),
        ({"batch_size": 1}, split, "a batch needs two examples or more"),
        ({}, split.first(1), "a batch needs two examples or more"),
        ({}, split.first(0), "the split is empty"),
        ({"epochs": -1}, split, "epochs must be 0 or more"),
        ({}, Split(split.images / 0, split.labels), "the images hold NaN or infinity"),
    ]
    for changed, samples, message in cases:
        with given.refused(model, message):
            budgeted.fit(model, samples, **{**options, **changed})
    with pytest.raises(TypeError, match="there is no option 'loss'"):
        budgeted.fit(model, split, **options, loss="squared_hinge")
    with pytest.raises(ValueError, match="start must be a finite number, not nan"):
        small(start=math.nan)
    with pytest.raises(
        ValueError, match="two examples or more are needed, since each is compared with the others, not 1"
    ):
        gate_gradient(torch.ones(1), torch.ones(1, 2, dtype=torch.bool), torch.ones(2))
    with pytest.raises(ValueError, match="it leaves no network"):
        fixed(model, model.mask & False).plain()
