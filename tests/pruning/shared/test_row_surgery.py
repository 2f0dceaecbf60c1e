"""Rows that are pruned together against each row alone, deleted one by one with a fresh inverse."""

import pytest
import torch
from torch import nn

from lib.pruning.shared import row_surgery


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def matrix(n):
    x = randn(3 * n, n)
    return x.T @ x / len(x)


def by_hand(w, h, size, at_once):
    """The losses of one row: after each step the inverse and the weights are those of the constrained minimum."""
    alive, losses, highest, left, v = list(range(len(w))), torch.zeros(size, dtype=w.dtype), 0.0, size, w.clone()
    while left:
        inverse = torch.linalg.inv(h[alive][:, alive])
        costs = {q: float(v[q] ** 2 / (2 * inverse[i, i])) for i, q in enumerate(alive) if q < size}
        for q in sorted(costs, key=costs.get)[: max(1, int(at_once * left))]:
            highest = max(highest, costs[q])
            losses[q] = highest
            alive.remove(q)
        left = sum(q < size for q in alive)
        v = torch.zeros_like(w)
        if alive:
            v[alive] = torch.linalg.solve(h[alive][:, alive], (h @ w)[alive])
    return losses


@pytest.mark.parametrize("at_once", [0.0, 0.3])
@pytest.mark.parametrize("extra", [0, 1])
def test_rows_together_are_each_row_alone_with_fresh_inverses(at_once, extra):
    h, weights = matrix(12 + extra), randn(5, 12 + extra, seed=1)
    inverse = torch.linalg.inv(h)
    together = row_surgery.losses(weights, inverse, 12, at_once)
    alone = torch.stack([by_hand(w, h, 12, at_once) for w in weights])
    torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-12)
    single = torch.cat([row_surgery.losses(w[None], inverse, 12, at_once) for w in weights])
    torch.testing.assert_close(together, single)
    torch.testing.assert_close(inverse, torch.linalg.inv(h))  # it is shared, and stays


@pytest.mark.parametrize("batch", [1, 10**9])
@pytest.mark.parametrize("groups", [1, 2])
def test_all_rows_are_ranked_together_and_solved_for_their_mask(batch, groups, monkeypatch):
    monkeypatch.setattr(row_surgery, "AT_ONCE", batch)
    h, rows = torch.stack([matrix(8), matrix(9)[1:, 1:]][:groups]), randn(4, 8, seed=1)
    h[0, 2] = h[0, :, 2] = 0.0  # an input that is always zero
    mask, moved = row_surgery.prune(rows, h, 7, share=0.5, alpha=1e-3, at_once=0.2)
    full = h + 1e-3 * torch.eye(8, dtype=torch.float64)
    costs = torch.zeros(4, 7, dtype=torch.float64)
    for i, w in enumerate(rows):
        live = [j for j in range(8) if i * groups // 4 or j != 2]
        costs[i] = 1e-3 / 2 * w[:7].square()
        own = full[i * groups // 4][live][:, live]
        costs[i, live[:-1]] = by_hand(w[live], own, len(live) - 1, 0.2)
    expected = costs >= costs.flatten().sort(descending=True).values[13]
    assert torch.equal(mask, expected) and mask.sum() == 14
    for i, w in enumerate(rows):
        keep, own = [*mask[i].nonzero().flatten().tolist(), 7], full[i * groups // 4]
        best = torch.linalg.solve(own[keep][:, keep], (own @ w)[keep])
        torch.testing.assert_close(moved[i, keep], best)
        assert moved[i].count_nonzero() == len(keep)


@pytest.mark.parametrize("share", [0.2, 0.9])  # either system is the smaller one
def test_both_ways_to_move_what_stays_agree(share):
    h, rows = matrix(8)[None], randn(4, 8, seed=1)
    mask, moved = row_surgery.prune(rows, h, 8, share=share, alpha=1e-3, at_once=0.0)
    full = h[0] + 1e-3 * torch.eye(8, dtype=torch.float64)
    for w, v, keep in zip(rows, moved, mask, strict=True):
        gradient = full @ (v - w)
        assert gradient[keep].abs().max() < 1e-10 if keep.any() else not v.any()


@pytest.mark.parametrize(
    ("groups", "bias", "options"),
    [
        (1, True, {"padding": 1}),
        (2, False, {"padding": 1, "stride": 2}),
        (4, True, {"padding": 1}),
        (1, True, {"padding": "same"}),
        (1, True, {"padding": (2, 0), "dilation": (1, 2)}),
        (1, True, {"padding": 1, "padding_mode": "reflect"}),
        (1, False, {"padding": "same", "padding_mode": "replicate"}),
        (2, True, {"padding": (1, 2), "padding_mode": "circular", "stride": 2}),
    ],
)
def test_a_convolution_is_its_unfolded_product(groups, bias, options):
    layer = nn.Conv2d(4, 8, 3, groups=groups, bias=bias, **options).double()
    images = randn(3, 4, 6, 6)
    x = row_surgery.columns(layer, images)
    rows = layer.weight.flatten(1) if not bias else torch.cat([layer.weight.flatten(1), layer.bias[:, None]], dim=1)
    by_product = torch.einsum("gpi,goi->pgo", x, rows.unflatten(0, (groups, -1))).flatten(1)
    expected = layer(images).permute(0, 2, 3, 1).flatten(0, 2)
    torch.testing.assert_close(by_product, expected)


@pytest.mark.parametrize("layer", [nn.Conv2d(2, 3, 3, padding=1), nn.Linear(4, 3)])
def test_a_few_samples_at_a_time_give_the_same_matrix(layer, monkeypatch):
    from lib.datasets import Split

    layer, split = layer.double(), Split(randn(9, 2, 5, 4), torch.zeros(9).long())
    whole = row_surgery.second_moments(layer, {"": layer}, split, 9)[""]
    monkeypatch.setattr(row_surgery, "AT_ONCE", 1)
    torch.testing.assert_close(row_surgery.second_moments(layer, {"": layer}, split, 4)[""], whole)
    x = row_surgery.columns(layer, split.images)
    torch.testing.assert_close(whole, x.mT @ x / 9)
