"""The threshold against its definition by brute force, and scales trained towards zero."""

import given
import numpy as np
import pytest
import torch
from torch import nn

from lib import models, structure, training
from lib.datasets import Split
from lib.pruning import optimal_threshold
from lib.pruning.optimal_threshold import threshold
from lib.vision import torchvision


def images(*shape, n=3):
    return given.split(n, *shape)


def double(data):
    return Split(data.images.double(), data.labels)


COLOR, PHOTOGRAPH = images(3, 32, 32), images(3, 64, 64, n=1)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("delta", [0.0, 1e-3, 0.05, 0.5, 0.999, 1 - 1e-16])
def test_what_goes_holds_at_most_delta_and_one_more_exceeds_it(seed, delta):
    scales = torch.randn(40, generator=torch.Generator().manual_seed(seed)).double() ** 3
    scales[::9] = 0
    gone = scales.abs() < threshold(scales, delta=delta)
    energy, rest = scales.square(), scales.abs()[~gone]
    assert len(rest) >= 1
    assert energy[gone].sum() <= delta * energy.sum() * (1 + 1e-12)
    assert energy[gone].sum() + rest.min() ** 2 > delta * energy.sum() * (1 - 1e-12)
    assert torch.equal(gone, scales == 0) or delta > 0


def test_the_threshold_lies_in_the_middle_of_its_two_neighbors():
    assert threshold(torch.tensor([3.0, -0.02, 0.01, 2.0]), delta=1e-3) == pytest.approx((0.02 + 2) / 2)
    assert threshold(torch.tensor([1.0, 1, 1]), delta=0.1) == 0  # nothing fits into a tenth


def test_equal_scales_go_together():
    scales = torch.tensor([0.1, -0.1, 0.1, 5.0])
    assert int((scales.abs() < threshold(scales, delta=0.0015)).sum()) == 3
    assert int((scales.abs() < threshold(scales, delta=0.0005)).sum()) == 0  # one would fit, not all three


@pytest.mark.parametrize("factor", [1e-30, 0.25, 1e30])
def test_scaling_a_whole_layer_changes_nothing(factor):
    scales = torch.rand(30, generator=torch.Generator().manual_seed(0)).double() ** 4
    gone = scales < threshold(scales, delta=0.01)
    assert 0 < gone.sum() < 30
    assert torch.equal(factor * scales < threshold(factor * scales, delta=0.01), gone)


@pytest.mark.parametrize("build", ["resnet18", "mobilenet_v2", "googlenet"])
def test_scores_are_the_scales_in_networks_we_did_not_write(build):
    more = {"aux_logits": False, "init_weights": False} if build == "googlenet" else {}
    model = getattr(torchvision.models, build)(num_classes=10, **more)
    scores = optimal_threshold.scores(model, PHOTOGRAPH)
    found = structure.groups(model, PHOTOGRAPH.images)
    assert scores.keys() == {n for g in found for n in g.producers}
    assert all(bool((score > 0).all()) for score in scores.values())


def test_layers_tied_by_an_addition_share_the_root_of_the_mean_square():
    model = models.resnet8()
    model.bn.weight.data = torch.linspace(-1, 1, 16)
    model.get_submodule("stage1_1.bn2").weight.data = torch.full((16,), 2.0)
    scores = optimal_threshold.scores(model, COLOR)
    assert torch.allclose(scores["conv"], ((torch.linspace(-1, 1, 16) ** 2 + 4) / 2).sqrt())
    assert torch.equal(scores["conv"], scores["stage1_1.conv2"])
    assert torch.equal(scores["stage1_1.conv1"], torch.ones(16))


def test_channels_of_scale_zero_go_and_only_their_shift_is_missed():
    model = models.resnet8().double().eval()
    data = Split(COLOR.images.double(), COLOR.labels)
    model.get_submodule("stage1_1.bn1").weight.data[[2, 5, 7]] = 0
    masks = optimal_threshold.masks(model, data, delta=0.0)
    assert {name: n for name, n in masks.removed.items() if n} == {"stage1_1.conv1": 3}
    small = structure.shrink(model, masks, data.images)
    assert torch.allclose(small(data.images), model(data.images), atol=1e-12)  # the shift of a fresh batch norm is 0


def test_the_penalty_is_added_to_the_gradient_of_the_scales_alone():
    data = images(3, 32, 32, n=8)
    plain, slimmed = models.resnet8(1), models.resnet8(1)
    options = {"epochs": 1, "seed": 0, "learning_rate": 0.5, "momentum": 0.0, "batch_size": 8}
    training.fit(plain, data, **options)
    assert optimal_threshold.slim(slimmed, data, sparsity=0.25, **options) is slimmed
    moved = {n: v - slimmed.state_dict()[n] for n, v in plain.state_dict().items()}
    for name, difference in moved.items():
        if name.endswith("weight") and difference.dim() == 1:  # scales, all 1 at the start
            assert torch.allclose(difference, torch.full_like(difference, 0.5 * 0.25), atol=1e-5)
        else:
            assert torch.allclose(difference.float(), torch.zeros_like(difference.float()), atol=1e-5)
    assert all(not p._backward_hooks for p in slimmed.parameters())


def test_an_unknown_option_is_refused_before_training():
    model = models.resnet8(channels=1, width=4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(TypeError, match="there is no option 'momenta': accepted are learning_rate, momentum"):
        optimal_threshold.slim(model, images(1, 28, 28), sparsity=0.1, epochs=1, seed=0, momenta=0.5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(not p._backward_hooks for p in model.parameters())


def test_no_hook_stays_behind_where_training_fails():
    model = models.resnet8()
    with pytest.raises(ValueError, match="split is empty"):
        optimal_threshold.slim(model, COLOR.first(0), sparsity=0.1, epochs=1, seed=0)
    assert all(not p._backward_hooks for p in model.parameters())


def test_bad_input_is_refused():
    model = models.resnet8()
    for delta in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"delta must be in \[0, 1\), not"):
            optimal_threshold.masks(model, COLOR, delta=delta)
    for sparsity in (-1e-3, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="sparsity must be 0 or more and finite, not"):
            optimal_threshold.slim(model, COLOR, sparsity=sparsity, epochs=1, seed=0)
    with pytest.raises(ValueError, match="the split is empty"):
        optimal_threshold.scores(model, COLOR.first(0))
    model.get_submodule("stage2_1.bn1").weight.data.zero_()
    with pytest.raises(
        ValueError, match=r"layer 'stage2_1.conv1': scales must be finite and not all zero, not \[0\.0, 0\.0"
    ):
        optimal_threshold.masks(model, COLOR)
    with pytest.raises(ValueError, match="scales must be finite"):
        threshold(torch.tensor([1.0, float("nan")]))


@pytest.mark.parametrize(
    "build",
    [
        models.lenet5,
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False), nn.Flatten(), nn.Linear(4 * 676, 2)),
    ],
)
def test_a_network_without_scales_is_refused(build):
    with pytest.raises(ValueError, match="has no batch norm after a layer whose filters can go"):
        optimal_threshold.scores(build(), images(1, 28, 28))
    with pytest.raises(ValueError, match="has no batch norm with scales to penalize"):
        optimal_threshold.slim(build(), images(1, 28, 28), sparsity=0.1, epochs=1, seed=0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_scales_of_a_network_of_another_type(dtype):
    model = models.resnet8(width=4).to(dtype)
    model.get_submodule("stage1_1.bn2").weight.data.fill_(2)
    data = Split(COLOR.images.to(dtype), COLOR.labels)
    scores = optimal_threshold.scores(model, data)["conv"]
    assert scores.dtype in (torch.float32, torch.float64) and torch.allclose(
        scores, torch.tensor(2.5).to(scores).sqrt()
    )
    assert optimal_threshold.masks(model, data)["conv"].all()
    renewed = optimal_threshold.recalibrated(model, data, batch_size=np.int64(2))
    assert renewed.bn.running_mean.dtype == dtype


def test_new_means_are_those_of_the_data_and_the_model_stays():
    data, model = images(3, 16, 16, n=12), models.resnet8(4)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    renewed = optimal_threshold.recalibrated(model.train(), data, batch_size=4)
    maps = model.conv(data.images).detach()
    assert torch.allclose(renewed.bn.running_mean, maps.mean((0, 2, 3)), atol=1e-5)
    parts = torch.stack([part.transpose(0, 1).flatten(1).var(1) for part in maps.split(4)])
    assert torch.allclose(renewed.bn.running_var, parts.mean(0), atol=1e-5)
    assert renewed.bn.momentum == 0.1 and renewed.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="the split is empty"):
        optimal_threshold.recalibrated(model, data.first(0))
    with pytest.raises(ValueError, match="batch_size must be 1 or more, not 0"):
        optimal_threshold.recalibrated(model, data, batch_size=0)


def test_new_means_take_up_the_constants_of_channels_that_were_cut_out():
    data, model = double(images(3, 16, 16, n=12)), models.resnet8(5).double().eval()
    norm = model.get_submodule("stage1_1.bn1")
    norm.weight.data[3], norm.bias.data[3] = 0, 2.0  # a constant of 2 after ReLU
    model.get_submodule("stage1_1.conv2").padding_mode = "replicate"  # so that it is a constant at the border as well
    whole = optimal_threshold.recalibrated(model, data)
    masks = optimal_threshold.masks(whole, data, delta=0.0)
    assert masks.removed["stage1_1.conv1"] == 1
    small = structure.shrink(whole, masks, data.images)
    assert (small(data.images) - whole(data.images)).abs().max() > 1e-3
    small = optimal_threshold.recalibrated(small, data)
    assert torch.allclose(small(data.images), whole(data.images), atol=1e-9)
