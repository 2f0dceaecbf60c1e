"""New weights: in place where channels are gone, in the paper's order, and by name where they cannot be fitted."""

import copy

import given
import pytest
import torch
from torch import nn

from lib import models, structure
from lib.pruning.shared import patches, reconstruction, refitting
from lib.pruning.shared.refitting import reconstruct
from lib.vision import torchvision


def split(*shape, seed=0):
    return given.split(*shape, seed=seed, labels="zero", dtype=torch.float64)


def small(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = [nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3, stride=2, bias=False)]
        return nn.Sequential(*parts, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(5 * 4, 4)).double().eval()


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
    reconstruct(model, masks_for(model, data.images), data, lambda x, y, w, c: w)


def best(x, y, w, c):
    """Least squares, near the old weights."""
    x, change = x.flatten(1), y - x.flatten(1) @ w.flatten(1).T
    system = x.T @ x + 1e-6 * torch.eye(x.shape[1], dtype=x.dtype)
    return w + torch.linalg.solve(system, x.T @ change).T.reshape(w.shape)


def test_many_images_are_fitted_in_batches_as_few_are_at_once(monkeypatch):
    model, data = small(), split(30, 1, 9, 9)
    masks = masks_for(model, data.images[:1])
    at_once = reconstruct(model, masks, data, best, places=3)
    whole = patches.batches

    def small_ones(model, split, *, images, seed, entries=2**24, most=100):
        return whole(model, split, images=images, seed=seed, entries=min(entries, 1500), most=most)

    monkeypatch.setattr(patches, "batches", small_ones)
    in_batches = reconstruct(model, masks, data, best, places=3)
    assert len(small_ones(model, data, images=30, seed=0)) == 10
    for key, value in in_batches.state_dict().items():
        torch.testing.assert_close(value, at_once.state_dict()[key], msg=key)


def test_activations_in_place_are_no_part_of_the_answers():
    def build(inplace):
        parts = [nn.Conv2d(1, 6, 3), nn.ReLU(inplace), nn.Conv2d(6, 5, 3), nn.ReLU(inplace)]
        return given.seeded(lambda: nn.Sequential(*parts, nn.Flatten(), nn.Linear(5 * 25, 4)).double())

    data, masks = split(20, 1, 9, 9), {"0": torch.arange(6) < 4}
    plain, inplace = build(False), build(True)
    inplace.load_state_dict(plain.state_dict())
    expected, found = (reconstruct(model, masks, data, best) for model in (plain, inplace))
    assert not torch.equal(expected[2].weight[:, :4], plain[2].weight[:, :4])
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in expected.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_frozen_layers_types_and_modes_stay(dtype):
    model, data = small().to(dtype).train(), given.split(6, 1, 9, 9, dtype=dtype)
    model[3].requires_grad_(False)
    model[1].eval()
    fitted = reconstruct(model, masks_for(model, data.images), data, lambda x, y, w, c: w / 2)
    for (name, old), (_, new) in zip(model.named_parameters(), fitted.named_parameters(), strict=True):
        assert new.dtype == dtype and new.requires_grad == old.requires_grad, name
    assert [m.training for m in fitted.modules()] == [m.training for m in model.modules()]
    assert not fitted[1].training and fitted.training


def test_channels_of_one_layer_are_chosen_in_what_the_layers_before_left():
    """The second choice and fit against a masked and fitted copy made by hand."""
    model, data = given.two_convolutions(), split(40, 1, 8, 8)
    options = {"images": 30, "places": 4, "outputs": 3, "seed": 2}
    seen = []

    def score(gram, goal, count):
        seen.append((gram, goal, count))
        return gram.diagonal()

    fitted, masks = refitting.layer_by_layer(model, data, score, best, fraction=0.4, fit_images=35, **options)
    assert masks.removed == {"0": 2, "2": 2} and [count for _, _, count in seen] == [4, 3]
    first, second = structure.groups(model, data.images[:1])
    gram, goal = reconstruction.measured(model, model, [first], data, **options)[0]
    assert torch.equal(gram, seen[0][0]) and torch.equal(goal, seen[0][1])
    kept = structure.keep({"0": gram.diagonal()}, fraction=0.4)
    assert torch.equal(kept["0"], masks["0"])
    step = reconstruct(model, kept, data, best, images=35, places=4, seed=2)
    gram, goal = reconstruction.measured(step, model, [second], data, **options)[0]
    torch.testing.assert_close(gram, seen[1][0])
    torch.testing.assert_close(goal, seen[1][1])
    torch.testing.assert_close(fitted[2].weight[masks["2"]], step[2].weight[masks["2"]])
    assert not fitted[2].weight[~masks["2"]].any() and not fitted[5].weight.view(4, 5, 16)[:, ~masks["2"]].any()
    with torch.no_grad():
        smaller = structure.shrink(fitted, masks, data.images[:1])
        torch.testing.assert_close(smaller(data.images), fitted(data.images))


def test_layers_that_an_addition_ties_lose_filters_only_where_asked():
    model = given.seeded(lambda: models.resnet8(width=4)).double().eval()
    data = split(6, 3, 16, 16)
    options = {"images": 6, "fit_images": 6, "places": 2, "fraction": 0.5}
    tied = [group.producers for group in structure.groups(model, data.images[:1]) if len(group.producers) > 1]
    alone = refitting.layer_by_layer(model, data, lambda g, t, n: g.diagonal(), best, **options)[1]
    every, masks = refitting.layer_by_layer(model, data, lambda g, t, n: g.diagonal(), best, tied=True, **options)
    assert tied and set(masks) - set(alone) == {name for names in tied for name in names}
    assert next(iter(masks)) == "conv"  # in the order in which the layers are read
    with torch.no_grad():
        small_one = structure.shrink(every, masks, data.images[:1])
        torch.testing.assert_close(small_one(data.images), every(data.images))


# -- Bad input ---------------------------------------------------------------------------------------------------------


def test_an_empty_split_and_no_samples_are_refused():
    model, data = small(), split(2, 1, 9, 9)
    for run in (
        lambda split, **options: reconstruct(model, {}, split, best, **options),
        lambda split, **options: refitting.layer_by_layer(model, split, None, best, fraction=0.5, **options),
    ):
        with pytest.raises(
            ValueError, match="the split is empty: at least one sample is needed to see what the layers"
        ):
            run(data.first(0))
        with pytest.raises(ValueError, match="images and places must be 1 or more, not 0 and 10"):
            run(data, images=0, places=10)
    with pytest.raises(ValueError, match="must be 1 or more, not 0 and 10"):
        refitting.layer_by_layer(model, data, None, best, fraction=0.5, fit_images=0)
    for fraction in (-0.1, 1, float("nan")):
        with pytest.raises(ValueError, match=rf"fraction must be in \[0, 1\), not {fraction}"):
            refitting.layer_by_layer(model, data, None, best, fraction=fraction)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.again, self.last = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 3)

    def forward(self, images):
        return self.last(self.again(self.again(self.first(images).relu()).relu()).relu().mean((2, 3)))


def test_a_layer_that_runs_twice_is_refused_by_name():
    model, data = given.seeded(Twice).double(), split(2, 1, 9, 9)
    group = structure.groups(model, data.images[:1])[0]
    masks = dict.fromkeys(group.producers, torch.arange(4) < 3)
    with given.refused(model, "layer 'again' runs more than once in a forward pass"):
        reconstruct(model, masks, data, best)


def test_what_is_not_finite_is_refused_by_name():
    model, data = small(), split(2, 1, 9, 9)
    masks = masks_for(model, data.images)
    data.images[1] = torch.nan
    with given.refused(model, "what layer '3' reads and answers must be finite: look for NaN in the split"):
        reconstruct(model, masks, data, best)


def test_a_network_without_layers_that_may_lose_filters_is_refused():
    with pytest.raises(ValueError, match="Sequential has no layer that may lose filters"):
        refitting.layer_by_layer(
            nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).double(), split(2, 1, 2, 2), None, best, fraction=0.5
        )
