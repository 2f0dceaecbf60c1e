"""The bottleneck against the theorem of Eckart and Young, its product, and its cost by count."""

import copy

import given
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from lib import datasets, measure, models, training
from lib.distillation.linear_bottleneck import Bottleneck, bottleneck, merged
from lib.pruning import magnitude
from lib.vision import torchvision


def drawn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=given.generator(seed), dtype=torch.float64).to(dtype)


def linear(inputs, outputs, *, bias=True, dtype=torch.float64):
    return given.seeded(lambda: nn.Linear(inputs, outputs, bias=bias).to(dtype))


@pytest.mark.parametrize("shape", [(7, 12), (12, 7), (5, 5), (1, 6), (6, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_the_svd_loses_the_singular_values_that_are_cut(shape, bias):
    layer = linear(*shape, bias=bias)
    sigma = np.linalg.svd(layer.weight.detach().numpy(), compute_uv=False)
    for rank in range(1, min(shape) + 1):
        new = bottleneck(layer, "", rank=rank, start="svd")
        lost = (new.U.weight @ new.V.weight - layer.weight).square().sum().item()
        assert lost == pytest.approx((sigma[rank:] ** 2).sum(), abs=1e-12)
    x = drawn(4, shape[0])
    torch.testing.assert_close(new(x), layer(x))  # the last rank is the full one


def test_no_product_of_the_same_rank_is_nearer_than_the_svd():
    layer = linear(14, 9)
    new = bottleneck(layer, "", rank=3, start="svd")
    mine = (new.U.weight @ new.V.weight - layer.weight).square().sum()
    for seed in range(20):  # least squares onto any other three directions
        right = drawn(3, 14, seed=seed)
        left = torch.linalg.lstsq(right.T, layer.weight.detach().T).solution.T
        assert (left @ right - layer.weight).square().sum() > mine


def test_both_factors_carry_the_root_of_the_singular_values():
    new = bottleneck(linear(8, 6), "", rank=4, start="svd")
    gram = new.U.weight.T @ new.U.weight
    torch.testing.assert_close(gram, new.V.weight @ new.V.weight.T)
    torch.testing.assert_close(gram, gram.diag().diag())


@pytest.mark.parametrize("start", ["random", "svd"])
@pytest.mark.parametrize(("dtype", "digits"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_the_merged_network_answers_the_same(start, dtype, digits):
    model = models.lenet_300_100().to(dtype)
    new = bottleneck(model, "fc1", rank=20, start=start)
    back, x = merged(new, "fc1"), torch.rand(3, 1, 28, 28, generator=given.generator()).to(dtype)
    torch.testing.assert_close(back(x), new(x), rtol=digits, atol=digits)
    assert type(back.fc1) is nn.Linear and isinstance(new.fc1, Bottleneck)
    assert str(back) == str(model)
    assert torch.linalg.matrix_rank(back.fc1.weight) == 20


def test_parameters_and_multiply_adds_are_k_times_the_sum():
    model = models.mlp(inputs=64, hidden=(2000,), batch_norm=False)
    new = bottleneck(model, "fc1", rank=8)
    assert measure.parameters(model) - measure.parameters(new) == 64 * 2000 - 8 * (64 + 2000)
    assert new.fc1.V.weight.numel() + new.fc1.U.weight.numel() == 16_512
    count = measure.multiply_adds(new, (1, 64)) - measure.multiply_adds(model, (1, 64))
    assert count == 8 * (64 + 2000) - 64 * 2000


@pytest.mark.parametrize(("inputs", "outputs"), [(6, 3), (5, 20), (4, 4)])
def test_a_bottleneck_is_smaller_just_below_the_break_even_rank(inputs, outputs):
    for rank in range(1, min(inputs, outputs) + 1):
        new = bottleneck(linear(inputs, outputs, bias=False), "", rank=rank)
        smaller = measure.parameters(new) < inputs * outputs
        assert smaller == (rank < inputs * outputs / (inputs + outputs))


def test_random_factors_are_uniform_up_to_the_root_of_their_inputs():
    new = bottleneck(linear(400, 300), "", rank=100, seed=5)
    for values, inputs in ((new.V.weight, 400), (new.U.weight, 100), (new.U.bias, 100)):
        scaled = (values * inputs**0.5).flatten()
        assert scaled.abs().max() <= 1
        assert scaled.mean().item() == pytest.approx(0, abs=4 / (3 * len(scaled)) ** 0.5)
        assert scaled.var().item() == pytest.approx(1 / 3, rel=0.25)
    assert new.V.bias is None


def test_the_seed_alone_decides_the_draws():
    layer, before = linear(9, 7), torch.random.get_rng_state()
    first, again, other = (bottleneck(layer, "", rank=2, seed=seed) for seed in (3, 3, 4))
    assert given.equal(first, again) and not given.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_nothing_stands_between_the_factors():
    new, x, y = bottleneck(linear(9, 7, bias=False), "", rank=2), drawn(3, 9), drawn(3, 9, seed=1)
    torch.testing.assert_close(new(2 * x - y), 2 * new(x) - new(y))
    assert new(x[0]).shape == (7,) and new(x.expand(5, 3, 9)).shape == (5, 3, 7)


def test_the_given_model_is_left_as_it_was():
    model = models.lenet_300_100()
    model.fc2.weight.requires_grad_(False)
    model.fc2.eval()
    before, text = given.state(model), str(model)
    new = bottleneck(model, "fc2", rank=4)
    factors, modes = given.state(new), [new.fc2.training, new.fc2.U.training, new.fc1.training]
    back = merged(new, "fc2")
    assert given.same_state(before, given.state(model)) and str(model) == text
    assert given.same_state(factors, given.state(new))
    assert modes == [False, False, True] and not back.fc2.training
    assert [p.requires_grad for p in new.fc2.parameters()] == [False, False, True]
    assert [back.fc2.weight.requires_grad, back.fc2.bias.requires_grad] == [False, True]
    assert new.fc1.weight.data_ptr() != model.fc1.weight.data_ptr()


def test_a_bottleneck_trains_and_is_copied_with_its_state(tmp_path):
    split, student = given.split(40, 20, classes=4), models.mlp(inputs=20, hidden=(50,), classes=4, batch_norm=False)
    new = bottleneck(student, "fc1", rank=5)
    losses = training.fit(new, split, epochs=20, seed=0)
    assert losses[-1] < losses[0] and torch.linalg.matrix_rank(merged(new, "fc1").fc1.weight) == 5
    blank = bottleneck(student, "fc1", rank=5, seed=9)
    blank.load_state_dict(new.state_dict())
    for other in (blank.eval(), copy.deepcopy(new)):
        assert torch.equal(other(split.images), new(split.images))


def test_the_svd_of_a_trained_layer_is_the_better_start():
    split, model = datasets.load("digits").train.first(200), models.mlp(hidden=(60,), batch_norm=False)
    training.fit(model, split, epochs=10, seed=0)
    kept, drawn_anew = (bottleneck(model, "fc1", rank=15, start=start) for start in ("svd", "random"))
    assert training.error_pct(kept, split) < 20 and training.error_pct(drawn_anew, split) > 60


@pytest.mark.parametrize(("name", "layer"), [("mobilenet_v2", "classifier.1"), ("resnet18", "fc")])
def test_networks_we_did_not_write(name, layer):
    model = given.seeded(lambda: getattr(torchvision.models, name)(weights=None, num_classes=10)).eval()
    x = torch.rand(2, 3, 64, 64, generator=given.generator())
    torch.testing.assert_close(bottleneck(model, layer, rank=10, start="svd")(x), model(x), rtol=1e-4, atol=1e-4)
    small = bottleneck(model, layer, rank=3)
    assert torch.linalg.matrix_rank((small(x) - small(0 * x)).detach()) <= 3 and small(x).shape == (2, 10)
    torch.testing.assert_close(merged(small, layer)(x), small(x), rtol=1e-4, atol=1e-4)


def tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    return model


def hooked():
    model = nn.Sequential(nn.Linear(4, 4))
    model[0].register_forward_hook(lambda *_: None)
    return model


def broken(key):
    model = nn.Sequential(nn.Linear(4, 4))
    getattr(model[0], key).data[0] = torch.nan
    return model


@pytest.mark.parametrize(
    ("build", "layer", "options", "says"),
    [
        (models.lenet5, "fc1", {"rank": 0}, "rank of layer 'fc1' must be a whole number from 1 to 500, not 0"),
        (models.lenet5, "fc1", {"rank": 501}, "from 1 to 500, not 501"),
        (models.lenet5, "fc1", {"rank": 2.5}, "from 1 to 500, not 2.5"),
        (models.lenet5, "fc1", {"rank": True}, "from 1 to 500, not True"),
        (models.lenet5, "fc1", {"rank": 3, "start": "zero"}, "start must be one of random, svd, not 'zero'"),
        (models.lenet5, "conv1", {"rank": 3}, "layer 'conv1' is Conv2d: accepted are plain linear layers"),
        (models.lenet5, "fc9", {"rank": 3}, "has no layer 'fc9' with a weight: it has conv1, conv2, fc1, fc2"),
        (models.lenet5, "relu1", {"rank": 3}, "has no layer 'relu1' with a weight"),
        (lambda: magnitude.prune(models.lenet5(), density=0.5), "fc1", {"rank": 3}, "is compressed or computed"),
        (lambda: nn.Sequential(nn.utils.weight_norm(nn.Linear(4, 4))), "0", {"rank": 3}, "compressed or computed"),
        (lambda: nn.TransformerEncoderLayer(8, 2), "linear1", {"rank": 3}, "TransformerEncoderLayer reads its weight"),
        (lambda: nn.MultiheadAttention(8, 2), "in_proj_weight", {"rank": 3}, "which is no layer"),
        (lambda: nn.MultiheadAttention(8, 2), "out_proj", {"rank": 3}, "accepted are plain linear layers"),
        (tied, "1", {"rank": 3}, "layers '0' and '1' share one weight"),
        (hooked, "0", {"rank": 3}, "has hooks, which would be lost"),
        (lambda: broken("weight"), "0", {"rank": 3, "start": "svd"}, "layer '0' hold NaN or infinity"),
        (lambda: broken("bias"), "0", {"rank": 3, "start": "svd"}, "layer '0' hold NaN or infinity"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning", "ignore:enable_nested_tensor")
def test_bad_input_is_one_sentence(build, layer, options, says):
    model = build()
    with given.refused(model, says):
        bottleneck(model, layer, **options)


def test_only_a_bottleneck_of_plain_factors_is_merged():
    model = bottleneck(models.lenet_300_100(), "fc1", rank=4)
    for name, says in (("fc2", "layer 'fc2' is a Linear: bottlenecks are 'fc1'"), ("fc9", "layer 'fc9' is not there")):
        with given.refused(model, says):
            merged(model, name)
    with given.refused(models.lenet5(), "bottlenecks are none"):
        merged(models.lenet5(), "fc1")
    model.fc1.V = nn.Sequential(model.fc1.V, nn.ReLU())
    with given.refused(model, "a factor of layer 'fc1' has become Sequential"):
        merged(model, "fc1")


def test_compressed_factors_are_merged_as_they_compute():
    model = bottleneck(models.lenet_300_100(), "fc1", rank=6)
    magnitude.prune(model.fc1, density=0.5)
    assert parametrize.is_parametrized(model.fc1.V)
    x = torch.rand(2, 1, 28, 28, generator=given.generator())
    torch.testing.assert_close(merged(model, "fc1")(x), model(x), rtol=1e-5, atol=1e-5)
