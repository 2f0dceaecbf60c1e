"""Samples against the layers' own outputs, the matrix G against removing channels, and new weights in place."""

import copy

import given
import pytest
import torch
from torch import nn

from lib import models, running, structure
from lib.pruning.shared import reconstruction
from lib.pruning.shared.reconstruction import contributions, grams, kernels, reconstruct, sampled
from lib.vision import torchvision


def split(*shape, seed=0):
    return given.split(*shape, seed=seed, labels="zero", dtype=torch.float64)


def small(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = [nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3, stride=2, bias=False)]
        return nn.Sequential(*parts, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(5 * 4, 4)).double().eval()


LAYERS = {
    "stride": (nn.Conv2d(4, 6, 3, stride=2, padding=1), (3, 4, 7, 8)),
    "same": (nn.Conv2d(4, 6, (3, 2), padding="same", dilation=2), (3, 4, 7, 8)),
    "circular": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular", bias=False), (3, 4, 7, 8)),
    "groups": (nn.Conv2d(4, 6, 3, groups=2), (3, 4, 7, 8)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4), (3, 4, 7, 8)),
    "1d": (nn.Conv1d(4, 6, 5, stride=3), (3, 4, 20)),
    "3d": (nn.Conv3d(4, 6, 2, padding=1), (3, 4, 4, 5, 3)),
    "linear": (nn.Linear(4, 6), (3, 4)),
    "tokens": (nn.Linear(4, 6), (3, 9, 4)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_contributions_sum_to_what_the_layer_answers(kind):
    layer, shape = LAYERS[kind]
    model = nn.Sequential(copy.deepcopy(layer)).double()
    data = split(*shape)
    found = list(sampled(model, ["0"], data, images=99, places=10_000))
    (_, patches, answers) = found[0]
    outputs = model(data.images).detach()
    outputs = outputs.movedim(-1, 1) if isinstance(layer, nn.Linear) else outputs
    expected = outputs.transpose(0, 1).flatten(1)
    if layer.bias is not None:
        expected = expected - model[0].bias.detach()[:, None]
    assert len(found) == 1 and answers.T.shape == expected.shape  # each place of each image once
    torch.testing.assert_close(answers.T.sort(1).values, expected.sort(1).values, atol=1e-12, rtol=0)
    each = contributions(patches, kernels(model[0]))
    torch.testing.assert_close(each.sum(2), answers, atol=1e-12, rtol=0)


def test_patches_are_those_of_unfold():
    layer, data = nn.Conv2d(3, 2, (3, 5), stride=2, padding=1).double(), split(4, 3, 9, 11)
    _, patches, _ = next(sampled(nn.Sequential(layer), ["0"], data, places=999))
    expected = nn.functional.unfold(data.images, (3, 5), padding=1, stride=2).transpose(1, 2).flatten(0, 1)
    assert sorted(patches.flatten(1).tolist()) == sorted(expected.tolist())


def test_the_kernels_of_a_grouped_convolution_are_those_of_a_dense_one():
    layer, images = nn.Conv2d(6, 4, 3, groups=2, bias=False).double(), split(2, 6, 5, 5).images
    dense = kernels(layer).reshape(4, 6, 3, 3)
    torch.testing.assert_close(nn.functional.conv2d(images, dense), layer(images))
    assert dense[0, 3:].count_nonzero() == 0


def test_sampling_depends_on_the_seed_alone_and_leaves_the_model():
    model, data = small().train(), split(30, 1, 9, 9)
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()

    def draw(seed):
        return next(x for _, x, _ in sampled(model, ["3"], data, images=7, places=3, seed=seed))

    first, again, other = draw(1), draw(1), draw(2)
    assert torch.equal(first, again) and not torch.equal(first, other) and first.shape == (21, 6, 9)
    assert model.training and not any(module._forward_hooks for module in model.modules())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("removed", [[0], [1, 4], [0, 1, 2, 3, 4]])
@pytest.mark.parametrize(("producer", "consumer"), [("0", "3"), ("3", "7")])
def test_gram_is_the_error_of_the_next_layer_when_channels_go(removed, producer, consumer):
    model, data = small(), split(12, 1, 9, 9)
    gram = grams(model, data, places=999, outputs=99)[producer]
    mask = torch.ones(len(gram), dtype=torch.bool)
    mask[removed] = False
    with running.captured(model, [consumer]) as flow, torch.no_grad():
        model(data.images)
        inputs, layer = flow.inputs[consumer].clone(), model.get_submodule(consumer)
        dense = layer(inputs)
        maps = inputs.view(len(inputs), len(gram), -1)
        maps[:, removed] = 0
        error = ((dense - layer(inputs)) ** 2).sum()
        bias = 0 if layer.bias is None else layer.bias
        energy = ((dense - bias) ** 2).sum()
    beta = mask.double()
    torch.testing.assert_close((1 - beta) @ gram @ (1 - beta), error / energy)
    torch.testing.assert_close(gram.sum(), torch.tensor(1.0, dtype=torch.float64))


def test_several_next_layers_count_alike_whatever_their_scale():
    model, data = models.resnet8(width=4).double().eval(), split(3, 3, 16, 16)
    before = grams(model, data, places=5)["conv"]
    model.stage2_1.shortcut[0].weight.data *= 100
    torch.testing.assert_close(grams(model, data, places=5)["conv"], before)
    torch.testing.assert_close(before.sum(), torch.tensor(1.0, dtype=torch.float64))


def test_drawn_outputs_are_an_unbiased_picture_of_all():
    model, data = small(), split(12, 1, 9, 9)
    whole = grams(model, data, places=999)["0"]
    drawn = [grams(model, data, places=999, outputs=4, seed=seed)["0"] for seed in range(30)]
    assert not torch.equal(drawn[0], whole)
    assert (sum(drawn) / 30 - whole).norm() < 0.1 * whole.norm()


def masks_for(model, example, fraction=0.5):
    found = structure.groups(model, example)
    generator = torch.Generator().manual_seed(0)
    values = {name: torch.rand(g.channels, generator=generator) for g in found for name in g.producers}
    return structure.keep(values, fraction=fraction, groups=found)


NETWORKS = {
    "lenet5": (lambda: models.lenet5(), (4, 1, 28, 28)),
    "resnet8": (lambda: models.resnet8(width=4), (4, 3, 16, 16)),
    "depthwise": (
        lambda: nn.Sequential(
            torchvision.models.mobilenetv2.InvertedResidual(3, 4, 2, 2),
            torchvision.models.mobilenetv2.InvertedResidual(4, 4, 1, 2),
            *(nn.Flatten(), nn.Linear(4 * 16, 3)),
        ),
        (4, 3, 8, 8),
    ),
    "concatenations": (lambda: torchvision.models.DenseNet(8, (2, 2), 8, num_classes=4), (2, 3, 32, 32)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_new_weights_come_only_where_channels_are_gone(name):
    build, shape = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build().double().eval()
    data = split(*shape)
    example = data.images[:1]
    masks = masks_for(model, example)
    before = copy.deepcopy(model.state_dict())
    same = reconstruct(model, masks, data, lambda x, y, w, c: w, images=2, places=2)
    plain = structure.mask(model, masks, example)
    assert all(torch.equal(value, plain.state_dict()[key]) for key, value in same.state_dict().items())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    doubled = reconstruct(model, masks, data, lambda x, y, w, c: 2 * w, images=2, places=2)
    readers = {name for group in structure.groups(model, example) for name in group.consumers}
    for key, value in doubled.state_dict().items():
        factor = 2 if key.removesuffix(".weight") in readers and key.endswith(".weight") else 1
        torch.testing.assert_close(value, factor * plain.state_dict()[key], msg=key)
    with torch.no_grad():  # what is gone stays gone: it can be shrunk
        small_one = structure.shrink(doubled, masks, example)
        torch.testing.assert_close(small_one(data.images), doubled(data.images))


def test_grouped_consumers_are_solved_group_by_group():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(6 * 4, 3))
    model, data = model.double().eval(), split(3, 1, 6, 6)
    masks = {"0": torch.tensor([True, False, False, True])}
    shapes = []

    def solve(patches, answers, weight, channel):
        shapes.append((tuple(patches.shape[1:]), tuple(answers.shape[1:]), tuple(weight.shape), len(channel)))
        return weight + 1

    changed = reconstruct(model, masks, data, solve)
    assert shapes == [((1, 9), (3,), (3, 1, 9), 1)] * 2
    expected = structure.mask(model, masks, data.images[:1])[1].weight.detach().clone()
    expected[:3, 0] += 1
    expected[3:, 1] += 1
    torch.testing.assert_close(changed[1].weight.detach(), expected)


def test_one_image_of_one_channel_will_do():
    model, data = small(), split(1, 1, 9, 9)
    assert grams(model, data)["0"].shape == (6, 6)
    reconstruct(model, masks_for(model, data.images), data, lambda x, y, w, c: w)


# -- Bad input ---------------------------------------------------------------------------------------------------------


def test_an_empty_split_and_no_samples_are_refused():
    model, data = small(), split(2, 1, 9, 9)
    for run in (
        lambda split, **options: grams(model, split, **options),
        lambda split, **options: list(sampled(model, ["0"], split, **options)),
        lambda split, **options: reconstruct(model, {}, split, lambda x, y, w, c: w, **options),
    ):
        with pytest.raises(
            ValueError, match="the split is empty: at least one sample is needed to see what the layers read"
        ):
            run(data.first(0))
        with pytest.raises(ValueError, match="images and places must be 1 or more, not 0 and 10"):
            run(data, images=0, places=10)
    for outputs in (0, -1):
        with pytest.raises(ValueError, match=f"outputs must be 1 or more, not {outputs}"):
            grams(model, data, outputs=outputs)


def test_what_is_not_finite_is_refused_and_the_mode_restored():
    model, data = small().train(), split(2, 1, 9, 9)
    data.images[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="what the layers after '3' read must be finite: look for NaN in the split"):
        grams(model, data)
    assert model.training
    with pytest.raises(ValueError, match="does not take images of shape"):
        list(sampled(model, ["0"], split(2, 3, 9, 9)))
    assert model.training and not any(module._forward_hooks for module in model.modules())


def test_layers_of_other_kinds_are_refused_by_name():
    model = nn.Sequential(nn.ConvTranspose2d(1, 2, 3)).double()
    with pytest.raises(ValueError, match="layer '0' must be a convolution or linear, not ConvTranspose2d"):
        list(sampled(model, ["0"], split(2, 1, 9, 9)))


def test_unknown_layers_are_named():
    with pytest.raises(ValueError, match="has no layer 'nine'"):
        list(sampled(small(), ["nine"], split(2, 1, 9, 9)))
    assert reconstruction.grams(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double(), split(2, 1, 2, 2)) == {}
