"""Restarts: the best network is kept, and one that is stuck gets random states."""

import given
import pytest
import torch
from given_binarization import in_space, ternary_network, two_halves

from lib import training
from lib.binarization.shared.restarts import SHARE, Restarts, random_states
from lib.weights import layers


@pytest.mark.parametrize("space", [0, 1, 3])
def test_random_states_are_drawn_evenly_for_a_share_of_the_weights(space):
    count, n = 2**space + 1, 100_000
    states = torch.zeros(n, dtype=torch.int8)
    for share in (0.0, 0.5, SHARE, 1.0):
        found = random_states(states, space, given.generator(), share)
        assert found.dtype == torch.int8 and set(found.tolist()) <= set(range(count))
        for state in range(count):
            chance = share / count + (1 - share) * (state == 0)
            assert (found == state).float().mean().item() == pytest.approx(chance, abs=4.5 * (0.25 / n) ** 0.5 + 1e-9)
    assert not states.any()


def test_the_best_network_is_kept(monkeypatch):
    model = ternary_network()
    errors = iter([50.0, 40.0, 45.0, 40.0, 41.0])
    monkeypatch.setattr(training, "error_pct", lambda *_: next(errors))
    restarts, states = Restarts(model, two_halves(), patience=9), []
    for epoch in range(4):
        states.append(given.state(model))
        restarts(epoch)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1)
    restarts.finish()
    assert restarts.best == 40.0 and restarts.count == 0 and given.same_state(given.state(model), states[1])


def test_a_network_that_is_stuck_restarts_from_the_best_with_other_states(monkeypatch):
    model = ternary_network()
    monkeypatch.setattr(training, "error_pct", lambda *_: 50.0)
    before = given.state(model)
    restarts = Restarts(model, two_halves(), patience=2)
    counts = []
    for epoch in range(8):
        restarts(epoch)
        counts.append(restarts.count)
    assert counts == [0, 0, 1, 1, 2, 2, 3, 3]
    after = given.state(model)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if "states" in name}
    assert all(in_space(layer.weight) for _, layer in layers(model))
    restarts.finish()
    assert given.same_state(given.state(model), before)


def test_an_empty_split_and_no_patience_are_refused():
    with pytest.raises(ValueError, match="the split is empty"):
        Restarts(ternary_network(), two_halves(0))
    with pytest.raises(ValueError, match="patience must be 1 epoch or more, not 0"):
        Restarts(ternary_network(), two_halves(), patience=0)
