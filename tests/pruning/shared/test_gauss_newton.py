"""The factor of the matrix against the diagonal of another file, the inverse against inversion, and what is held."""

import given
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from lib import models
from lib.datasets import Split
from lib.pruning import optimal_brain_damage as damage
from lib.pruning import optimal_brain_surgeon as surgeon
from lib.pruning.shared import gauss_newton


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network():
    return given.seeded(lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)).double())


def split(*shape):
    return given.split(*shape, classes=3, labels="in turn")


@pytest.mark.parametrize("block", [1, 3, 256])
def test_the_recursion_is_the_inverse(block):
    rows = randn(20, 8)
    direct = torch.linalg.inv(rows.T @ rows / 5 + 1e-4 * torch.eye(8, dtype=torch.float64))
    inverse = gauss_newton.inverse_hessian(rows, samples=5, alpha=1e-4, block=block)
    torch.testing.assert_close(inverse, direct, rtol=1e-7, atol=1e-7)
    parts = gauss_newton.inverse_hessian(iter(rows.split(7)), samples=5, alpha=1e-4, block=block)
    torch.testing.assert_close(parts, direct, rtol=1e-7, atol=1e-7)
    assert torch.equal(parts, parts.T)


def test_the_rows_make_the_matrix_whose_diagonal_damage_has():
    model, data = network(), split(7, 4)
    rows = gauss_newton.gauss_newton_rows(model, data)
    diagonal = rows.square().sum(dim=0) / 7
    h = damage.curvature(model, data)
    torch.testing.assert_close(diagonal[:12], h["0"].flatten())
    torch.testing.assert_close(diagonal[15:24], h["2"].flatten())
    assert rows.shape == (21, 27)


def test_rows_of_a_few_samples_at_a_time_are_those_of_all(monkeypatch):
    model, data = network(), split(7, 4)
    whole = gauss_newton.gauss_newton_rows(model, data)
    monkeypatch.setattr(gauss_newton, "AT_ONCE", 250)
    parts = list(gauss_newton.parts(model, data))
    assert [len(part) for part in parts] == [6, 6, 6, 3]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_a_weight_that_no_answer_depends_on_has_no_curvature():
    model = network()
    model.other = nn.Linear(2, 2).double()
    model.forward = lambda x: model[2](model[1](model[0](x)))
    rows = gauss_newton.gauss_newton_rows(model, split(7, 4))
    assert rows.shape == (21, 33) and not rows[:, 27:].any() and rows[:, :27].any(dim=0).all()


class Large(TorchDispatchMode):
    """Notes the memory of every tensor that is at least so large."""

    def __init__(self, numbers):
        super().__init__()
        self.numbers, self.seen = numbers, {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().nbytes() >= 8 * self.numbers:
                self.seen[tensor.untyped_storage().data_ptr()] = tensor  # held, so that its address is not used again
        return made


def test_one_matrix_is_held_and_changed_in_place():
    n = 1500
    with Large(n * n) as large:
        inverse = gauss_newton.inverse_hessian(iter(randn(6, n).split(2)), samples=3, alpha=1.0)
        _, after, _ = surgeon.remove(randn(n), inverse, torch.tensor([4]), in_place=True)
    assert len(large.seen) == 1 and after is inverse


@pytest.mark.parametrize("in_place", [False, True])
def test_a_deletion_leaves_the_inverse_unless_it_may_change_it(in_place):
    inverse = torch.eye(3, dtype=torch.float64)
    surgeon.remove(torch.ones(3, dtype=torch.float64), inverse, torch.tensor([1]), in_place=in_place)
    assert torch.equal(inverse, torch.eye(3, dtype=torch.float64)) != in_place


class Counting(nn.Module):
    """Its answer depends on the values of a sample by a branch of Python."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x) if x.sum() > 0 else -self.layer(x)


def test_bad_input_is_refused():
    model, data = network(), split(7, 4)
    many = Split(torch.zeros(300_000, 4), torch.zeros(300_000, dtype=torch.long))
    for call, says in (
        (lambda: gauss_newton.gauss_newton_rows(model, data.first(0)), "at least one sample"),
        (lambda: gauss_newton.gauss_newton_rows(models.lenet_300_100(), data), "266,610 parameters are too many"),
        (
            lambda: gauss_newton.gauss_newton_rows(nn.Sequential(nn.Linear(4, 300), nn.Linear(300, 3)), many),
            "X of 900,000 rows and 2,403 parameters takes 17 GB, and 5 GB are accepted",
        ),
        (lambda: gauss_newton.gauss_newton_rows(Counting(), data), "Counting does not run on one sample at a time"),
        (lambda: gauss_newton.inverse_hessian(randn(2, 2), samples=1, alpha=0), "alpha must be above 0"),
        (lambda: gauss_newton.inverse_hessian([], samples=1, alpha=1), "there is no row"),
    ):
        with pytest.raises(ValueError, match=says):
            call()
    model[2].bias.data[0] = float("nan")
    with pytest.raises(ValueError, match="logits hold NaN"):
        gauss_newton.gauss_newton_rows(model, data)
