"""Core and factors against the bounds of the higher-order SVD; the Bayesian rank against planted ones."""

import copy
import itertools

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import nn

from lib import measure, models, storage
from lib.factorization import tucker
from lib.vision import torchvision


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def kernel(u_t, core, u_s):
    return torch.einsum("ta,ab...,sb->ts...", u_t, core, u_s)


def test_error_is_within_the_unfoldings_bounds_and_factors_are_orthonormal():
    w = drawn(8, 6, 3, 3)
    for ranks in ((2, 3), (1, 1), (6, 2), (5, 8)):
        cut = [
            torch.linalg.svdvals(tucker.unfolding(w, way))[r:].square().sum().item()
            for way, r in zip((1, 0), ranks, strict=True)
        ]
        for sweeps in (0, 5):
            u_t, core, u_s, residuals = tucker.decompose(w, ranks, sweeps=sweeps)
            wrong = (w - kernel(u_t, core, u_s)).square().sum().item()
            assert max(cut) - 1e-9 <= wrong <= sum(cut) + 1e-9
            assert wrong**0.5 / w.norm().item() == pytest.approx(residuals[-1], abs=1e-9)
            for u in (u_t, u_s):
                assert torch.allclose(u.T @ u, torch.eye(u.shape[1], dtype=torch.float64), atol=1e-10)
            assert torch.allclose(core, torch.einsum("tsyx,ta,sb->abyx", w, u_t, u_s), atol=1e-10)


def test_sweeps_never_raise_the_residual():
    for seed in range(5):
        residuals = tucker.decompose(drawn(9, 7, 3, 3, seed=seed), (3, 4), sweeps=10)[-1]
        assert len(residuals) == 11
        assert all(after <= before + 1e-12 for before, after in itertools.pairwise(residuals))
        assert residuals[-1] < residuals[0]


def test_planted_factors_are_found_again():
    u_t, u_s = (torch.linalg.qr(drawn(n, r)).Q for n, r in ((9, 3), (7, 2)))
    w = kernel(u_t, drawn(3, 2, 3, 3), u_s)
    u, _, _, residuals = tucker.decompose(w, (2, 3), sweeps=0)
    assert residuals[0] < 1e-7
    assert torch.allclose(u @ u.T, u_t @ u_t.T, atol=1e-7)  # the same space
    assert tucker.ranks_for(with_weight(w), energy=1.0 - 1e-9) == (2, 3)


def with_weight(w):
    layer = nn.Conv2d(w.shape[1], w.shape[0], w.shape[2]).double()
    layer.weight.data = w.clone()
    return layer


LAYERS = [
    (nn.Conv2d(4, 6, 3, stride=2, padding=1), (2, 4, 9, 9)),
    (nn.Conv2d(3, 5, (3, 5), padding=(0, 2), dilation=(2, 1), bias=False), (2, 3, 9, 9)),
    (nn.Conv2d(4, 4, 3, padding="same", padding_mode="reflect"), (1, 4, 6, 6)),
    (nn.Conv1d(5, 4, 3, stride=2), (1, 5, 9)),
    (nn.Conv3d(2, 3, 2, padding=1), (1, 2, 4, 4, 4)),
    (nn.Conv2d(1, 3, 5), (1, 1, 7, 7)),
]


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_full_ranks_are_exact_and_lower_ones_compute_with_their_kernel(layer, shape):
    x, full = drawn(*shape).float(), (layer.in_channels, layer.out_channels)
    exact = tucker.factorize(layer, full)
    assert len(exact) == 1 and torch.allclose(exact(x), layer(x), atol=1e-5)
    for ranks in ((max(1, full[0] - 1), full[1] - 1), (full[0], 2), (1, full[1])):
        whole = copy.deepcopy(layer)
        u_t, core, u_s, _ = tucker.decompose(layer.weight, ranks)
        whole.weight.data = kernel(u_t, core, u_s).float()
        factors = tucker.factorize(layer, ranks)
        assert torch.allclose(factors(x), whole(x), atol=1e-5)
        assert len(factors) == 1 + (ranks[0] < full[0]) + (ranks[1] < full[1])
        assert (factors[-1].bias is None) == (layer.bias is None) and all(p.bias is None for p in factors[:-1])


def test_weights_and_multiply_adds_are_those_of_the_formula():
    layer, (a, b), size = nn.Conv2d(16, 24, 3, padding=1, bias=False), (5, 7), 10 * 10
    factors = tucker.factorize(layer, (a, b))
    weights = 16 * a + 9 * a * b + b * 24
    assert sum(part.weight.numel() for part in factors) == weights
    assert measure.multiply_adds(factors, (16, 10, 10)) == size * weights


@pytest.mark.parametrize("rank", [0, 1, 3, 10])
@pytest.mark.parametrize("shape", [(40, 300), (60, 60), (200, 50)])
def test_the_bayesian_rank_is_the_planted_one(shape, rank):
    for noise in (0.01, 1.0):
        signal = drawn(shape[0], rank, seed=1) @ drawn(rank, shape[1], seed=2)
        matrix = 3 * signal + noise * drawn(*shape, seed=3)
        assert tucker.bayesian_rank(matrix) == rank
        assert tucker.bayesian_rank(1e-4 * matrix.T) == rank  # neither scale nor side matters


def test_the_bayesian_rank_without_noise_and_of_nothing():
    assert tucker.bayesian_rank(drawn(20, 4) @ drawn(4, 50, seed=1)) == 4
    assert tucker.bayesian_rank(torch.zeros(4, 9)) == 0
    assert tucker.bayesian_rank(drawn(1, 9)) in (0, 1)
    assert tucker.bayesian_rank(drawn(30, 10_000)) == 0


def test_the_threshold_is_the_known_limit_of_a_square_matrix():
    tau = brentq(lambda z: 2 * (np.log1p(z) / z - 0.5), 0.1, 10)
    assert tau == pytest.approx(2.5129, abs=1e-4)  # the constant of the literature
    n, x_bar = 400, (1 + tau) * (1 + 1 / tau)
    noise = drawn(n, n)
    u, _, v = torch.linalg.svd(drawn(n, n, seed=1))
    for factor, rank in ((0.93, 0), (1.07, 1)):
        observed = factor * (x_bar * n) ** 0.5  # a strength g, squared, is seen as (g + n)^2 / g
        squared = brentq(lambda g, seen=observed: (g + n) * (g + n) / g - seen**2, n, 100 * n)
        assert tucker.bayesian_rank(noise + squared**0.5 * u[:, :1] @ v[:1]) == rank


def test_the_whole_network_by_the_bayesian_rule_or_by_energy():
    model = models.resnet8()
    small, report = tucker.factorize_model(model)
    wide = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
    assert [row.layer for row in report] == wide  # the 1 x 1 shortcuts are matrices already
    assert all(row.ranks == tucker.ranks_for(model.get_submodule(row.layer)) for row in report)
    assert measure.parameters(model) - measure.parameters(small) == sum(row.before - row.after for row in report)
    x = torch.rand(2, 3, 32, 32)
    assert small(x).shape == (2, 10)
    same, report = tucker.factorize_model(model, energy=1.0)  # nothing is smaller: nothing is replaced
    assert torch.equal(same.eval()(x), model.eval()(x)) and all(row.after == row.before for row in report)


def test_a_model_that_we_did_not_write_is_stored_and_read_back(tmp_path):
    model = torchvision.models.resnet18(num_classes=10).eval()
    ranks = {"layer1.0.conv1": (8, 8), "layer2.0.conv1": (16, 24)}
    small, report = tucker.factorize_model(model, ranks=ranks)
    x = torch.rand(1, 3, 64, 64)
    assert [row.ranks for row in report] == list(ranks.values())
    exact, _ = tucker.factorize_model(model, ranks={"conv1": (3, 64)})
    assert torch.allclose(exact(x), model(x), atol=1e-4)
    storage.save(small, tmp_path / "small.slim")
    blank, _ = tucker.factorize_model(torchvision.models.resnet18(num_classes=10), ranks=ranks)
    assert torch.equal(storage.load(tmp_path / "small.slim", blank).eval()(x), small(x))


def test_bad_input_is_one_sentence():
    layer, model = nn.Conv2d(3, 5, 3), models.lenet5()
    for call, says in (
        (lambda: tucker.factorize(nn.Linear(3, 3), (1, 1)), "it is Linear, accepted are Conv1d, Conv2d, Conv3d"),
        (lambda: tucker.factorize(nn.Conv2d(4, 4, 3, groups=2), (1, 1)), "a convolution of 2 groups"),
        (lambda: tucker.factorize(layer, 3), "ranks must be a pair, that of the inputs and that of the outputs, not 3"),
        (lambda: tucker.factorize(layer, (4, 1)), "the rank must be a whole number from 1 to 3, not 4"),
        (lambda: tucker.factorize(layer, (1, 6)), "the rank must be a whole number from 1 to 5, not 6"),
        (lambda: tucker.factorize(layer, (1, 1), sweeps=-1), "sweeps must be 0 or more, not -1"),
        (lambda: tucker.ranks_for(layer, energy=0), r"energy must be in \(0, 1\], not 0"),
        (lambda: tucker.factorize_model(model, ranks={"conv2": (2, 2)}, energy=0.5), "give ranks or energy, not both"),
        (
            lambda: tucker.factorize_model(model, ranks={"conv2": (2, 2)}, layers=["conv2"]),
            "name the layers only once",
        ),
        (
            lambda: tucker.factorize_model(model, ranks={"fc1": (2, 2)}),
            "layer 'fc1' cannot be factorized: it is Linear",
        ),
        (lambda: tucker.factorize_model(nn.Sequential(nn.Conv2d(3, 5, 1))), "has no layer to factorize"),
        (lambda: tucker.bayesian_rank(torch.full((2, 2), torch.nan)), "finite"),
    ):
        with pytest.raises(ValueError, match=says):
            call()
