"""The path against the conditions of its optimum and a second solver; the fitted weights against numpy."""

import warnings

import numpy as np
import pytest
import torch
from given import of_torchvision, refused, two_convolutions
from given import split as noise
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import Lasso, lars_path_gram

from lib import structure
from lib.pruning import channel_lasso, thinet
from lib.pruning.shared import patches, reconstruction


def split(*shape, seed=0):
    return noise(*shape, seed=seed, labels="zero", dtype=torch.float64)


def sample(seed, rows=40, channels=7):
    z = torch.randn(rows, channels, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    z[:, 1] += z[:, 0]
    return z, z.sum(1)


@pytest.mark.parametrize("seed", range(4))
def test_every_step_of_the_path_meets_the_conditions_of_the_optimum(seed):
    z, y = sample(seed)
    n = len(z)
    for penalty, beta in zip(*(lambda p, b: (p, b.T))(*channel_lasso.path(z.T @ z / n)), strict=True):
        beta = torch.from_numpy(beta)
        correlation = z.T @ (y - z @ beta) / n
        assert (correlation.abs() <= penalty + 1e-9).all()
        active = beta != 0
        torch.testing.assert_close(correlation[active], penalty * beta[active].sign(), atol=1e-9, rtol=0)


def test_the_path_is_that_of_coordinate_descent():
    z, y = sample(0)
    penalties, coefficients = channel_lasso.path(z.T @ z / len(z))
    for penalty in penalties[0] * np.array([0.9, 0.5, 0.2, 0.05]):
        expected = Lasso(alpha=penalty, fit_intercept=False, tol=1e-12, max_iter=100_000).fit(z.numpy(), y.numpy())
        found = [np.interp(penalty, penalties[::-1], row[::-1]) for row in coefficients]
        np.testing.assert_allclose(found, expected.coef_, atol=1e-6)


def test_the_ends_of_the_path_are_nothing_and_everything():
    z, y = sample(0)
    penalties, coefficients = channel_lasso.path(z.T @ z / len(z))
    assert penalties[0] == pytest.approx((z.T @ y / len(z)).abs().max().item())
    assert not coefficients[:, 0].any()
    assert penalties[-1] == pytest.approx(0, abs=1e-12)
    np.testing.assert_allclose(coefficients[:, -1], 1, atol=1e-9)  # Y is the sum of all Z


def test_orthogonal_contributions_are_thresholded_softly():
    size = np.array([1.0, 4, 9, 0.5])  # Z^T Z / N, so Z^T Y / N is the same: beta = max(0, 1 - penalty / size)
    penalties, coefficients = channel_lasso.path(torch.from_numpy(np.diag(size)))
    for penalty in (8.0, 3.0, 0.7, 0.1):
        found = [np.interp(penalty, penalties[::-1], row[::-1]) for row in coefficients]
        np.testing.assert_allclose(found, np.maximum(0, 1 - penalty / size), atol=1e-12)


def test_a_score_is_the_penalty_at_which_the_channel_leaves():
    model, data = two_convolutions(), split(8, 1, 8, 8)
    scores, matrices = channel_lasso.scores(model, data), reconstruction.grams(model, data)
    for name, score in scores.items():
        gram = matrices[name].numpy()
        root = np.linalg.cholesky(gram + 1e-14 * np.eye(len(gram))).T * np.sqrt(len(gram))
        for channel, share in enumerate(score.tolist()):
            assert 0 < share <= 1
            for factor, left in ((1.02, False), (0.98, True)) if share > 0.01 else ():
                penalty = factor * share * gram.sum(1).max()
                fit = Lasso(alpha=penalty, fit_intercept=False, tol=1e-13, max_iter=100_000).fit(root, root.sum(1))
                assert bool(abs(fit.coef_[channel]) > 1e-9) == left


def test_dead_channels_and_copies_do_not_stop_the_path():
    z, _ = sample(0)
    z[:, 3] = 0
    z[:, 5] = z[:, 2]
    coefficients = channel_lasso.path(z.T @ z)[1]
    assert not coefficients[3].any() and np.isfinite(coefficients).all()
    assert coefficients[[2, 5], -1].sum() == pytest.approx(2)  # one does the work of both
    np.testing.assert_allclose(coefficients[[0, 1, 4, 6], -1], 1, atol=1e-6)
    assert not channel_lasso.path(torch.zeros(3, 3, dtype=torch.float64))[1].any()


DEPENDENCES = {
    "none": lambda z, i, j, draw: None,
    "a copy": lambda z, i, j, draw: z[:, j],
    "a negated copy": lambda z, i, j, draw: -z[:, j],
    "a multiple": lambda z, i, j, draw: z[:, j] * draw.choice([-3, 0.5, 2, 1000]),
    "a near copy": lambda z, i, j, draw: z[:, j] + 1e-4 * draw.standard_normal(len(z)),
    "copies of few": lambda z, i, j, draw: z[:, draw.integers(0, 2, z.shape[1])] * draw.choice([-1, 1], z.shape[1]),
    "a sum of others": lambda z, i, j, draw: np.delete(z, i, 1) @ draw.integers(-1, 2, z.shape[1] - 1),
    "nothing": lambda z, i, j, draw: np.zeros(len(z)),
    "small whole numbers": lambda z, i, j, draw: draw.integers(-1, 2, z.shape),
    "orthogonal and alike": lambda z, i, j, draw: np.linalg.qr(draw.standard_normal(z.shape))[0],
    "of all sizes": lambda z, i, j, draw: z * 10.0 ** draw.uniform(-2, 2, z.shape[1]),
    "more channels than samples": lambda z, i, j, draw: np.where(np.arange(len(z))[:, None] < 2, z, 0),
}


@settings(max_examples=150)
@given(st.sampled_from(list(DEPENDENCES)), st.integers(2, 9), st.integers(0, 2**32 - 1), st.floats(-6, 6))
def test_the_path_is_optimal_whatever_channels_depend_on_each_other(name, channels, seed, scale):
    draw = np.random.default_rng(seed)
    z = draw.standard_normal((channels + 4, channels)) + draw.uniform(-1, 1)
    i, j = draw.choice(channels, 2, replace=False)
    changed = DEPENDENCES[name](z, i, j, draw)
    if changed is not None and changed.ndim == 2:
        z = changed.astype(float)
    elif changed is not None:
        z[:, i] = changed
    gram = z.T @ z * 10.0**scale
    penalties, coefficients = channel_lasso.path(torch.from_numpy(gram))
    target = gram.sum(1)
    if penalties[0] < 1e-9 * gram.diagonal().max():  # the channels add up to nothing
        return
    assert penalties[-1] < 1e-9 * penalties[0] and (np.diff(penalties) < 0).all()
    for step in np.arange(0, len(penalties) - 1, 0.5):  # at the steps, and between them
        ends = [int(np.floor(step)), int(np.ceil(step))]
        penalty, beta = penalties[ends].mean(), coefficients[:, ends].mean(1)
        correlation = target - gram @ beta
        active = beta != 0
        slack = 1e-8 * penalties[0]
        assert (abs(correlation) <= penalty + slack).all()
        assert (abs(correlation - penalty * np.sign(beta))[active] <= slack).all()
        # A second solver may choose other channels among those that depend on each other, but at the same objective.
        root = z * 10.0 ** (scale / 2)
        fit = Lasso(alpha=penalty / len(z), fit_intercept=False, tol=1e-10, max_iter=5000)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            other = fit.fit(root, root.sum(1)).coef_

        def objective(b, root=root, penalty=penalty):
            return ((root @ (b - 1)) ** 2).sum() / 2 + penalty * abs(b).sum()

        assert objective(beta) <= objective(other) * (1 + 1e-9) + 1e-12 * target.sum()


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("seed", range(6))
def test_of_a_channel_and_its_copies_one_does_the_work(seed, sign):
    z, _ = sample(seed)
    z[:, 4] = z[:, 5] = sign * z[:, 2]
    coefficients = channel_lasso.path(z.T @ z)[1]
    work = (coefficients[[2, 4, 5]].T * [1, sign, sign])[-1]
    assert np.count_nonzero(work) == 1 and work.sum() == pytest.approx(1 + 2 * sign)
    np.testing.assert_allclose(coefficients[[0, 1, 3, 6], -1], 1, atol=1e-9)


def test_a_channel_that_depended_on_one_that_left_may_enter_again():
    """Channel 0 is the sum of the others: first it enters alone, in the end any of several answers is exact."""
    generator = np.random.default_rng(0)
    for _ in range(50):
        z = generator.standard_normal((9, 5))
        z[:, 0] = z[:, 1:] @ [1, 1, -1, 1]
        penalties, coefficients = channel_lasso.path(torch.from_numpy(z.T @ z))
        assert penalties[-1] <= 1e-12 * penalties[0]
        np.testing.assert_allclose(z @ coefficients[:, -1], z.sum(1), atol=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_path_is_that_of_scikit_learn(seed):
    """With several channels that leave and come back, and another target than the sum of all contributions."""
    draw = np.random.default_rng(seed)
    z = draw.standard_normal((70, 10)) @ draw.standard_normal((10, 60)) + 0.3 * draw.standard_normal((70, 60))
    gram, target = z.T @ z, z.T @ (z.sum(1) + 9 * draw.standard_normal(70))
    for goal in (gram.sum(1), target):
        penalties, coefficients = channel_lasso.path(torch.from_numpy(gram), torch.from_numpy(goal))
        expected, _, other = lars_path_gram(Xy=goal, Gram=gram, n_samples=1, method="lasso")
        there = coefficients != 0
        assert (there[:, :-1] & ~there[:, 1:]).sum() > 3  # some leave
        for penalty in expected[0] * np.linspace(0.9, 0.01, 40):
            found, wanted = (
                [np.interp(penalty, p[::-1], row[::-1]) for row in c]
                for p, c in ((penalties, coefficients), (expected, other))
            )
            np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_rounding_errors_do_not_add_up_on_a_long_path():
    draw = np.random.default_rng(0)
    z = draw.standard_normal((120, 80)) @ draw.standard_normal((80, 150)) + 0.01 * draw.standard_normal((120, 150))
    gram = z.T @ z
    penalties, coefficients = channel_lasso.path(torch.from_numpy(gram))
    correlation = gram.sum(1)[:, None] - gram @ coefficients
    active, slack = coefficients != 0, 1e-9 * penalties[0]
    assert len(penalties) > 150 and (active[:, :-1] & ~active[:, 1:]).any()
    assert (abs(correlation) <= penalties + slack).all()
    assert (abs(correlation - penalties * np.sign(coefficients))[active] <= slack).all()


@pytest.mark.parametrize("seed", range(5))
def test_the_support_is_what_a_rising_penalty_leaves(seed):
    draw = np.random.default_rng(seed)
    z = draw.standard_normal((30, 6)) @ draw.standard_normal((6, 14)) + 0.3 * draw.standard_normal((30, 14))
    penalties, coefficients = channel_lasso.path(torch.from_numpy(z.T @ z))
    rising = np.linspace(0, penalties[0], 4001)[1:]
    left = np.array([np.interp(rising, penalties[::-1], row[::-1]) for row in coefficients]) != 0
    for count in range(15):
        found, first = channel_lasso.support(coefficients, count), left[:, (left.sum(0) <= count).argmax()]
        assert (first <= found).all() and first.sum() <= found.sum() <= count  # the grid may pass over a step
        assert found.sum() - first.sum() <= 1


def test_with_a_fraction_the_papers_set_is_kept():
    model, data = two_convolutions(), split(8, 1, 8, 8)
    plain, matrices = channel_lasso.scores(model, data), reconstruction.grams(model, data)
    for fraction in (0.0, 0.2, 0.5, 0.8):
        scores = channel_lasso.scores(model, data, fraction=fraction)
        masks = structure.keep(scores, fraction=fraction)
        for name, mask in masks.items():
            coefficients = channel_lasso.path(matrices[name])[1]
            wanted = channel_lasso.support(coefficients, len(mask) - int(fraction * len(mask) + 1e-9))
            assert not (torch.from_numpy(wanted) & ~mask).any() and 0 <= scores[name].min() <= scores[name].max() <= 1
            inside, outside = scores[name][torch.from_numpy(wanted)], scores[name][torch.from_numpy(~wanted)]
            assert not len(inside) or not len(outside) or inside.min() > outside.max()
            assert torch.equal(inside.argsort(), plain[name][torch.from_numpy(wanted)].argsort())
    for fraction in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=rf"fraction must be in \[0, 1\), not {fraction}"):
            channel_lasso.scores(model, data, fraction=fraction)


def test_first_entries_and_the_papers_set_can_differ():
    found = 0
    for seed in range(40):
        draw = np.random.default_rng(seed)
        z = draw.standard_normal((20, 4)) @ draw.standard_normal((4, 12)) + 0.3 * draw.standard_normal((20, 12))
        coefficients = channel_lasso.path(torch.from_numpy(z.T @ z))[1]
        first = (coefficients != 0).argmax(1) + np.where((coefficients != 0).any(1), 0, 10**6)
        for count in range(1, 12):
            wanted = channel_lasso.support(coefficients, count)
            found += wanted.sum() == count and set(np.argsort(first)[:count]) != set(np.flatnonzero(wanted))
    assert 0 < found < 200


def test_layer_by_layer_is_all_at_once_where_there_is_one_layer():
    model, data = two_convolutions(), split(30, 1, 8, 8)
    alone = torch.nn.Sequential(*model[2:])
    pictures = split(30, 6, 6, 6)
    for technique, repair in ((channel_lasso, channel_lasso.refit), (thinet, thinet.rescale)):
        options = {"fraction": 0.5} if technique is channel_lasso else {}
        expected = structure.keep(technique.scores(alone, pictures, **options), fraction=0.5)
        fitted, masks = technique.layer_by_layer(alone, pictures, fraction=0.5)
        assert masks.keys() == expected.keys() == {"0"} and torch.equal(masks["0"], expected["0"])
        for key, value in repair(alone, masks, pictures).state_dict().items():
            torch.testing.assert_close(fitted.state_dict()[key], value)
        with refused(model, r"fraction must be in \[0, 1\), not 1"):
            technique.layer_by_layer(model, data, fraction=1)
    with refused(model, "ridge must be 1e-12 or more"):
        channel_lasso.layer_by_layer(model, data, fraction=0.5, ridge=0)


def test_layer_by_layer_answers_like_the_whole_network_more_than_masks_do():
    model, data = two_convolutions(), split(60, 1, 8, 8)
    with torch.no_grad():
        wanted = model(data.images)
        for technique in (channel_lasso, thinet):
            fitted, masks = technique.layer_by_layer(model, data, fraction=0.4)
            assert masks.removed == {"0": 2, "2": 2}
            plain = structure.mask(model, masks, data.images[:1])
            share = 0.5 if technique is channel_lasso else 1
            assert ((fitted(data.images) - wanted) ** 2).sum() < share * ((plain(data.images) - wanted) ** 2).sum()
            smaller = structure.shrink(fitted, masks, data.images[:1])
            torch.testing.assert_close(smaller(data.images), fitted(data.images))


@pytest.mark.parametrize("inputs", [20, 2100])
def test_the_fit_does_not_depend_on_the_size_of_what_is_read(inputs):
    generator = torch.Generator().manual_seed(0)
    x, y, w = (torch.randn(*n, generator=generator).double() for n in ((30, inputs, 1), (30, 4), (4, inputs, 1)))
    expected = channel_lasso.least_squares(x, y, w, torch.arange(inputs), ridge=1e-3)
    found = channel_lasso.least_squares(x * 1e-9, y * 1e-9, w, torch.arange(inputs), ridge=1e-3)
    torch.testing.assert_close(found, expected)
    nothing = channel_lasso.least_squares(0 * x, y, w, torch.arange(inputs), ridge=1e-3)
    assert torch.equal(nothing, w)


def test_few_samples_of_many_inputs_take_the_smaller_system():
    generator = torch.Generator().manual_seed(0)
    x, y, w = (torch.randn(*n, generator=generator).double() for n in ((30, 300, 7), (30, 4), (4, 300, 7)))
    flat = x.flatten(1)
    penalty = 1e-3 * flat.square().mean() * 30
    system = flat.T @ flat + penalty * torch.eye(2100)
    expected = w.flatten(1) + torch.linalg.solve(system, flat.T @ (y - flat @ w.flatten(1).T)).T
    found = channel_lasso.least_squares(x, y, w, torch.arange(300), ridge=1e-3)
    torch.testing.assert_close(found.flatten(1), expected)


def test_channels_that_add_up_to_nothing_have_an_empty_path():
    z = torch.tensor([[1.0, -1, 0], [2, -2, 0]]).double()
    penalties, coefficients = channel_lasso.path(z.T @ z)
    assert penalties.tolist() == [0] and not coefficients.any()


def test_a_factor_moved_from_one_layer_to_the_next_changes_no_score():
    model, data = two_convolutions(), split(8, 1, 8, 8)
    before = channel_lasso.scores(model, data)
    model[0].weight.data[2] *= 100
    model[0].bias.data[2] *= 100
    model[2].weight.data[:, 2] /= 100
    after = channel_lasso.scores(model, data)
    assert all(torch.allclose(after[name], before[name], atol=1e-6) for name in before)


def test_fitted_weights_are_the_least_squares_of_numpy():
    generator = torch.Generator().manual_seed(0)
    x, y, w = (torch.randn(*n, generator=generator).double() for n in ((50, 4, 3), (50, 5), (5, 4, 3)))
    found = channel_lasso.least_squares(x, y, w, torch.arange(4), ridge=1e-14)
    expected, *_ = np.linalg.lstsq(x.flatten(1).numpy(), y.numpy())
    np.testing.assert_allclose(found.flatten(1).numpy(), expected.T, atol=1e-9)
    few = channel_lasso.least_squares(x[:6], y[:6], w, torch.arange(4), ridge=1e-10)  # fewer samples than weights
    rest, *_ = np.linalg.lstsq(x[:6].flatten(1).numpy(), (y[:6] - x[:6].flatten(1) @ w.flatten(1).T).numpy())
    np.testing.assert_allclose((few - w).flatten(1).numpy(), rest.T, atol=1e-4)  # the smallest change that fits


def test_the_fitted_layer_answers_as_well_as_any_can():
    model, data = two_convolutions(), split(40, 1, 8, 8)
    masks = {"0": torch.tensor([True, False, True, True, False, True])}
    fitted = channel_lasso.refit(model, masks, data, places=99, ridge=1e-12)
    (_, read, answers) = next(patches.sampled(model, ["2"], data, places=99))
    x, kernel = read[:, masks["0"]].flatten(1), fitted[2].weight.detach()
    best, *_ = np.linalg.lstsq(x.numpy(), answers.numpy())
    reached = x @ kernel[:, masks["0"]].flatten(1).T
    torch.testing.assert_close(reached, x @ torch.from_numpy(best), atol=1e-5, rtol=0)
    assert kernel[:, ~masks["0"]].count_nonzero() == 0
    assert torch.equal(fitted[2].bias, model[2].bias) and torch.equal(fitted[5].weight, model[5].weight)


@pytest.mark.parametrize("ridge", [1e-9, 1e-3, 1.0])
def test_fitting_never_errs_more_than_factors_or_than_nothing(ridge):
    model, data = two_convolutions(), split(8, 1, 8, 8)

    def error(other):
        (_, read, _), (_, _, wanted) = (next(patches.sampled(m, ["2"], data, places=99)) for m in (other, model))
        return ((reconstruction.contributions(read, patches.kernels(other[2])).sum(2) - wanted) ** 2).sum()

    masks = {"0": torch.tensor([True, False, True, True, False, True])}
    plain = error(structure.mask(model, masks, data.images[:1]))
    fitted = error(channel_lasso.refit(model, masks, data, places=99, ridge=ridge))
    assert fitted < plain
    if ridge < 1e-6:
        assert fitted < error(thinet.rescale(model, masks, data, places=99))


def test_the_loss_of_a_copied_filter_is_repaired_in_every_layer():
    model, data = two_convolutions(), split(60, 1, 8, 8)
    for layer in (model[0], model[2]):  # filters 4 and 1 say the same in both layers
        layer.weight.data[4], layer.bias.data[4] = layer.weight.data[1], layer.bias.data[1]
    masks = {"0": torch.arange(6) != 4, "2": torch.arange(5) != 4}
    example = data.images[:1]
    fitted = channel_lasso.refit(model, masks, data, places=99, ridge=1e-10)
    with torch.no_grad():
        wanted = model(data.images)
        assert (structure.mask(model, masks, example)(data.images) - wanted).abs().max() > 1e-2
        torch.testing.assert_close(fitted(data.images), wanted, atol=1e-5, rtol=0)
        smaller = structure.shrink(fitted, masks, example)
        torch.testing.assert_close(smaller(data.images), fitted(data.images))
    assert smaller[2].weight.shape == (4, 5, 3, 3)


def test_errors_of_an_earlier_layer_are_corrected_and_not_passed_on():
    model, data = two_convolutions(), split(200, 1, 8, 8)
    masks = {"0": torch.arange(6) < 3, "2": torch.arange(5) < 4}
    fitted = channel_lasso.refit(model, masks, data, places=99)

    def one_by_one():
        copy = structure.mask(model, masks, data.images[:1])
        for name, layer in (("0", 2), ("2", 5)):
            alone = channel_lasso.refit(model, {name: masks[name]}, data, places=99)
            rows = masks["2"] if layer == 2 else slice(None)
            copy[layer].weight.data[rows] = alone[layer].weight.data[rows]
        return copy

    with torch.no_grad():
        wanted = model(data.images)
        apart, together = (((m(data.images) - wanted) ** 2).mean() for m in (one_by_one(), fitted))
    assert together < apart


@pytest.mark.parametrize("build", ["resnet18", "squeezenet1_1"])
def test_networks_of_others(build):
    model, data, found = of_torchvision(build)
    scores = channel_lasso.scores(model, data, places=2, outputs=4)
    assert scores.keys() == {name for group in found for name in group.producers}
    assert all(torch.isfinite(score).all() for score in scores.values())
    masks = structure.keep(scores, fraction=0.75, groups=found)
    fitted = channel_lasso.refit(model, masks, data, places=2)
    with torch.no_grad():
        smaller = structure.shrink(fitted, masks, data.images[:1])
        torch.testing.assert_close(smaller(data.images), fitted(data.images), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("ridge", [0, -1, 1e-13, float("nan"), float("inf")])
def test_a_ridge_that_is_no_penalty_is_refused(ridge):
    with pytest.raises(ValueError, match=f"ridge must be 1e-12 or more and finite, not {ridge}"):
        channel_lasso.refit(two_convolutions(), {}, split(2, 1, 8, 8), ridge=ridge)


def test_an_empty_split_is_refused():
    model, data = two_convolutions(), split(2, 1, 8, 8)
    with pytest.raises(ValueError, match="the split is empty"):
        channel_lasso.scores(model, data.first(0))
    with pytest.raises(ValueError, match="the split is empty"):
        channel_lasso.refit(model, {"0": torch.ones(6, dtype=torch.bool)}, data.first(0))
