"""A deeper network: the identity, and three ways with batch norm."""

import pytest
import torch
from given import refused, seeded
from given_morphism import chain, crossing, difference, images
from torch import nn

from lib.morphism.shared.checks import largest_difference
from lib.morphism.shared.deepening import deepen


@pytest.mark.parametrize(
    ("layer", "dtype"),
    [("stem", torch.float32), ("a", torch.float64), ("depthwise", torch.float64), ("hidden", torch.float32)],
)
def test_the_identity_changes_nothing_in_either_mode(layer, dtype):
    model, x = crossing(dtype), images(5, dtype=dtype)
    deeper = deepen(model, layer, x[:1], kernel=5)
    assert difference(model, deeper, x) == 0
    assert type(deeper.get_submodule(f"{layer}_deeper")) is type(model.get_submodule(layer))


def test_deepening_again_takes_another_name():
    model, x = chain(), images(2)
    deeper = deepen(deepen(deepen(model, "0", x), "0", x), "0_deeper", x)
    names = [name for name, _ in deeper.named_modules() if name.endswith("deeper") or name.endswith("deeper2")]
    assert sorted(names) == ["0_deeper", "0_deeper2", "0_deeper_deeper"]
    assert largest_difference(model, deeper, x) == 0


def test_a_measured_norm_keeps_evaluation_but_not_training():
    model, x, others = crossing(), images(64), images(8, seed=9)
    deeper = deepen(model, "a", x, batch_norm="measured")
    norm = deeper.a_deeper_norm
    torch.testing.assert_close(norm.weight, (norm.running_var + norm.eps).sqrt())
    assert torch.equal(norm.bias, norm.running_mean) and norm.running_mean.std() > 0
    assert largest_difference(model, deeper, others) < 1e-12
    assert largest_difference(model, deeper, others, training=True) > 1e-3


def test_a_measured_norm_keeps_training_on_a_batch_of_its_statistics():
    model = seeded(lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))).double()
    x = images(6)[:, 0, 0, :3]
    deeper = deepen(model, "0", x, batch_norm="measured")
    assert largest_difference(model, deeper, x, training=True) < 1e-12


def test_a_residual_norm_keeps_both_modes_and_learns():
    model, x = crossing(), images(8, seed=9)
    deeper = deepen(model, "stem", x[:1], batch_norm="residual")
    assert difference(model, deeper, x) == 0
    deeper.train()(x).square().sum().backward()
    assert deeper.stem_deeper_norm.weight.grad.abs().min() > 0


def test_layers_that_another_activation_follows_are_refused():
    for layer in ("grouped", "b", "head"):  # leaky ReLU, a sum, nothing
        with refused(model := crossing(), f"layer '{layer}' is not followed by ReLU, ReLU6 or Hardtanh alone"):
            deepen(model, layer, images(1))
    smooth = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1))
    with refused(smooth, "morph_depth inserts a layer anywhere"):
        deepen(smooth, "0", torch.zeros(1, 2))


def test_other_kernels_norms_and_layers_are_refused():
    model, x = crossing(), images(1)
    with refused(model, "kernel must be an odd number of 1 or more, not 2"):
        deepen(model, "stem", x, kernel=2)
    with refused(model, "batch_norm must be one of none, measured, residual, not 'yes'"):
        deepen(model, "stem", x, batch_norm="yes")
    with refused(model, "has no layer 'trunk' that this works on"):
        deepen(model, "trunk", x)
    tokens = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    with refused(tokens, r"batch norm after layer '0' needs \(n, channels, ...\), not the shape \(1, 4, 3\)"):
        deepen(tokens, "0", torch.zeros(1, 4, 2), batch_norm="residual")
