"""The staircase: exact at its thresholds, gradients by hand, and the best begin for a Gaussian."""

import itertools

import numpy as np
import pytest
import torch
from scipy import stats

from lib.binarization.shared.staircase import MOST, AbcActivation, check_bases, gaussian


def random(shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("count", [1, 2, 3, 5, 16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_output_is_exact_at_the_thresholds_and_beside_them(count, dtype):
    form = AbcActivation(count).to(dtype)
    with torch.no_grad():
        form.v.add_(random((count,), count, dtype) / 3)
        form.beta.add_(random((count,), count + 1, dtype) / 3)
    t, far = (0.5 - form.v).detach(), torch.tensor(torch.inf, dtype=dtype)
    x = torch.cat([t, torch.nextafter(t, far), torch.nextafter(t, -far), torch.tensor([0.0, -0.0, 9.0, -9.0]).to(t)])
    x = torch.cat([x, random((500,), 3, dtype)])
    bases = form.bases()
    assert torch.equal(sum(b * torch.where(x >= t, 1.0, -1.0).to(dtype) for t, b in bases), form(x))
    assert [t for t, _ in bases] == t.tolist() and [b for _, b in bases] == form.beta.tolist()


def test_the_output_is_that_of_the_formula():
    form = AbcActivation(3)
    v, beta = torch.tensor([1.5, 0.25, -0.5]), torch.tensor([0.5, 2.0, -1.0])
    form.v.data, form.beta.data = v.clone(), beta.clone()
    x = torch.arange(-128, 129).reshape(1, 257) / 64  # all sums are exact
    h = [(x + each).clamp(0, 1) for each in v]
    a = [2.0 * (each >= 0.5) - 1 for each in h]
    assert torch.equal(form(x), sum(b * each for b, each in zip(beta, a, strict=True)))


def test_gradients_are_those_by_hand_and_end_one_float_outside():
    form = AbcActivation(2)
    v, beta = torch.tensor([0.5, -0.25]), torch.tensor([3.0, -2.0])
    form.v.data, form.beta.data = v.clone(), beta.clone()
    edges, far = torch.tensor([-0.5, 0.5]), torch.tensor(9.0)  # of the first base: there x + v is 0, and 1
    x = torch.cat([edges, torch.nextafter(edges, far), torch.nextafter(edges, -far), torch.arange(-64, 65) / 32])
    x.requires_grad_()
    gradient = torch.randint(-8, 9, x.shape, generator=torch.Generator().manual_seed(0)) / 8
    form(x).backward(gradient)
    shifted = x.detach().double() + v.double()[:, None]
    gate = (shifted >= 0) & (shifted <= 1)
    assert gate[0, :6].tolist() == [True, True, True, False, False, True] and gate.sum(1)[1] == 3 + 33
    assert torch.equal(x.grad.double(), (gradient.double() * beta[:, None] * gate).sum(0))
    assert torch.equal(form.v.grad.double(), (gradient.double() * beta[:, None] * gate).sum(1))
    signs = torch.where(x.detach() >= (0.5 - v)[:, None], 1.0, -1.0)
    assert torch.equal(form.beta.grad, (gradient * signs).sum(1))


@pytest.mark.parametrize(
    ("count", "t", "values", "left"),
    [  # the best quantizers of a Gaussian with 2, 3, 4 and 6 values: Max, Quantizing for minimum distortion, 1960
        (1, [0], [0.7980], 0.3634),
        (2, [0.6120], [0, 1.224], 0.1902),
        (3, [0, 0.9816], [0.4528, 1.510], 0.1175),
        (5, [0, 0.6589, 1.447], [0.3177, 1.000, 1.894], 0.05798),
    ],
)
def test_it_begins_as_the_best_sum_for_a_gaussian(count, t, values, left):
    found, b = gaussian(count)
    torch.testing.assert_close(found[found > -1e-6], torch.tensor(t).float(), rtol=0, atol=1e-3)
    torch.testing.assert_close(found, -found.flip(0), rtol=0, atol=1e-6)
    x = torch.from_numpy(stats.norm.ppf((np.arange(100000) + 0.5) / 100000)).float()
    form = AbcActivation(count)
    output = form(x).detach()
    levels = output.unique()
    assert levels.numel() == count + 1
    torch.testing.assert_close(levels[levels > -1e-6], torch.tensor(values).float(), rtol=0, atol=1e-3)
    best = (x - output).square().mean().item()
    assert best == pytest.approx(left, abs=5e-4)
    assert form.bases() == list(zip((0.5 - (0.5 - found)).tolist(), b.tolist(), strict=True))
    for step in (0.05, -0.05):
        for parameter, i in itertools.product((form.v, form.beta), range(count)):
            with torch.no_grad():
                parameter[i] += step
                assert (x - form(x)).square().mean() > best
                parameter[i] -= step


def test_sixteen_bases_begin_in_order_too():
    t, b = gaussian(MOST)
    assert (t.diff() > 0).all() and (b > 0).all() and b.sum() < 4


@pytest.mark.parametrize("bases", [0, 17, 2.0, -1])
def test_other_numbers_of_bases_are_refused(bases):
    for refuses in (check_bases, AbcActivation, gaussian):
        with pytest.raises(ValueError, match=f"number of bases must be a whole number from 1 to 16, not {bases}"):
            refuses(bases)
