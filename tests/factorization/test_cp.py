"""Alternating least squares against planted terms, one exact solution, and the four layers against their kernel."""

import copy
import itertools

import pytest
import torch
from torch import nn

from lib import measure, models
from lib.factorization import cp
from lib.vision import torchvision


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def planted(shape, rank, seed=0):
    factors = [drawn(n, rank, seed=10 * seed + i) for i, n in enumerate(shape)]
    return torch.einsum("tr,sr,yr,xr->tsyx", *factors), factors


@pytest.mark.parametrize(
    ("shape", "rank"), [((8, 6, 3, 3), 3), ((5, 7, 3, 1), 2), ((10, 1, 5, 5), 4), ((4, 4, 2, 2), 1)]
)
def test_planted_terms_are_found_again(shape, rank):
    kernel, factors = planted(shape, rank)
    fitted = cp.decompose(kernel, rank, sweeps=300, starts=5, ridge=1e-9)
    assert (fitted.kernel - kernel).norm() < 1e-6 * kernel.norm()
    # terms are unique up to their order and the scale of their vectors
    for mine, theirs in zip(fitted.factors, factors, strict=True):
        if min(mine.shape) > 1:
            cosines = (nn.functional.normalize(mine, dim=0).T @ nn.functional.normalize(theirs, dim=0)).abs()
            assert torch.allclose(cosines.max(dim=0).values, torch.ones(rank, dtype=torch.float64), atol=1e-4)


def test_the_objective_never_rises_and_holds_the_residual():
    fitted = cp.decompose(drawn(9, 8, 3, 3), 6, sweeps=60, starts=4, ridge=1e-3)
    assert fitted.objectives.shape == fitted.residuals.shape == (60, 4)
    assert (fitted.objectives.diff(dim=0) <= 1e-12).all()
    assert (fitted.objectives > fitted.residuals.square()).all()
    tiny = cp.decompose(drawn(9, 8, 3, 3), 6, sweeps=60, starts=4, ridge=1e-12)
    assert (tiny.residuals.diff(dim=0) <= 1e-9).all()


def test_the_best_start_is_returned_and_its_residual_is_true():
    kernel = drawn(7, 6, 3, 3)
    fitted = cp.decompose(kernel, 4, sweeps=20, starts=6)
    best = fitted.residuals[-1, fitted.objectives[-1].argmin()]
    assert ((fitted.kernel - kernel).norm() / kernel.norm()).item() == pytest.approx(best.item(), abs=1e-7)


def test_a_factor_is_the_least_squares_solution_given_the_others():
    kernel, ridge = drawn(6, 5, 3, 2), 1e-12
    a = list(cp.decompose(kernel, 3, sweeps=200, ridge=ridge).factors)
    for n, letters in enumerate(cp.WAYS):
        others = [m for m in range(4) if m != n]
        way = "".join(cp.WAYS[m] for m in others)
        product = torch.einsum(f"{way[0]}r,{way[1]}r,{way[2]}r->{way}r", *(a[m] for m in others)).flatten(0, 2)
        solved = torch.linalg.lstsq(product, kernel.movedim(n, 0).flatten(1).T).solution.T
        assert torch.allclose(a[n], solved, atol=1e-3), letters


def test_one_term_of_two_ways_is_the_first_singular_pair():
    kernel = drawn(6, 5, 1, 1)
    u, sigma, v = torch.linalg.svd(kernel[..., 0, 0])
    fitted = cp.decompose(kernel, 1, sweeps=300, ridge=1e-12)
    assert torch.allclose(fitted.kernel[..., 0, 0], sigma[0] * u[:, :1] @ v[:1], atol=1e-6)


def test_scaling_and_the_order_of_channels_do_not_matter():
    kernel = drawn(5, 4, 3, 3)
    one = cp.decompose(kernel, 3, sweeps=30)
    ten = cp.decompose(1000 * kernel, 3, sweeps=30)
    assert torch.allclose(1000 * one.kernel, ten.kernel, rtol=1e-8)
    lengths = [factor.norm(dim=0) for factor in one.factors]
    assert all(torch.allclose(a, b) for a, b in itertools.pairwise(lengths))


def test_the_seed_decides_and_nothing_else():
    kernel = drawn(5, 4, 3, 3)
    state = torch.random.get_rng_state()
    a, b, c = (cp.decompose(kernel, 3, sweeps=3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(a.kernel, b.kernel) and not torch.equal(a.kernel, c.kernel)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_border_rank_two_makes_terms_grow_and_a_ridge_holds_them():
    tensor = torch.zeros(2, 2, 2, 1)
    tensor[0, 0, 1], tensor[0, 1, 0], tensor[1, 0, 0] = 1, 1, 1

    def longest(fitted):
        return torch.stack([factor.norm(dim=0) for factor in fitted.factors]).prod(0).max()

    short, long, held = (
        cp.decompose(tensor, 2, sweeps=n, ridge=r) for n, r in ((10, 1e-12), (200, 1e-12), (200, 1e-2))
    )
    assert (long.kernel - tensor).norm() < (short.kernel - tensor).norm() < (held.kernel - tensor).norm()
    assert longest(long) > longest(short) > longest(held)
    assert torch.allclose(cp.decompose(tensor, 3, ridge=1e-12).kernel, tensor.double(), atol=1e-6)


LAYERS = [
    nn.Conv2d(4, 6, 3),
    nn.Conv2d(3, 5, (3, 5), stride=(2, 1), padding=(1, 3), dilation=(1, 2), bias=False),
    nn.Conv2d(2, 4, (5, 3), padding="same"),
    nn.Conv2d(3, 3, 3, stride=2, padding=1, padding_mode="reflect"),
    nn.Conv2d(1, 3, (1, 4)),
]


@pytest.mark.parametrize("layer", LAYERS)
def test_the_four_layers_compute_with_the_kernel_of_the_factors(layer):
    rank = min(5, cp.largest_rank(layer.weight))
    factors = cp.factorize(layer, rank, sweeps=5, seed=3)
    whole = copy.deepcopy(layer)
    whole.weight.data = cp.decompose(layer.weight, rank, sweeps=5, seed=3).kernel.float()
    x = drawn(2, layer.in_channels, 12, 13).float()
    assert torch.allclose(factors(x), whole(x), atol=1e-5)
    t, s, height, width = layer.weight.shape
    assert sum(part.weight.numel() for part in factors) == rank * (t + s + height + width)
    assert [part.bias is not None for part in factors] == [False] * 3 + [layer.bias is not None]


def test_the_largest_rank_computes_what_the_layer_does():
    layer, x = nn.Conv2d(3, 4, 2), drawn(1, 3, 6, 6).float()
    assert cp.largest_rank(layer.weight) == 12
    assert torch.allclose(cp.factorize(layer, 12, sweeps=300, ridge=1e-9)(x), layer(x), atol=1e-4)


def test_a_kernel_of_zeros_stays_zero():
    layer = nn.Conv2d(2, 3, 3)
    nn.init.zeros_(layer.weight)
    assert cp.decompose(layer.weight, 2).kernel.abs().max() == 0


def test_the_report_counts_as_the_formula():
    small, report = cp.factorize_model(models.lenet5(), rank=16, sweeps=2)
    assert [(row.layer, row.ranks, row.after) for row in report] == [("conv1", (16,), 516), ("conv2", (16,), 1_330)]
    assert small(torch.rand(1, 1, 28, 28)).shape == (1, 10)


def test_a_model_that_we_did_not_write():
    model = torchvision.models.squeezenet1_1(num_classes=10).eval()
    x = torch.rand(1, 3, 64, 64)
    small, report = cp.factorize_model(model, rank={"features.3.expand3x3": 4, "features.0": 5}, sweeps=3)
    assert small(x).shape == (1, 10)
    assert measure.parameters(model) - measure.parameters(small) == sum(row.before - row.after for row in report) > 0


def test_bad_input_is_one_sentence():
    kernel = drawn(2, 2, 2, 2)
    for call, says in (
        (lambda: cp.factorize(nn.Linear(3, 3), 1), "it is Linear, accepted are Conv2d"),
        (lambda: cp.factorize(nn.Conv2d(4, 4, 3, groups=4), 1), "a convolution of 4 groups"),
        (lambda: cp.decompose(kernel, 9), "the rank must be a whole number from 1 to 8, not 9"),
        (lambda: cp.decompose(kernel, 1, sweeps=0), "sweeps and starts must be 1 or more"),
        (lambda: cp.decompose(kernel, 1, ridge=0), r"ridge in \(0, 1\), not 100, 3 and 0"),
        (lambda: cp.decompose(kernel * torch.inf, 1), "must have four dimensions and finite entries"),
        (lambda: cp.decompose(drawn(3, 3), 1), r"the kernel of shape \(3, 3\) must have four dimensions"),
        (lambda: cp.factorize_model(models.lenet_300_100(), rank=2), "has no layer to factorize"),
    ):
        with pytest.raises(ValueError, match=says):
            call()
