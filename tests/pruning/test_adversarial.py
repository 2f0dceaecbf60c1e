"""FISTA against closed forms, masks against removal, and a training that never sees a label."""

import copy
import inspect
import math

import given
import pytest
import torch
from torch import nn

from lib import measure, models, structure
from lib.datasets import Split
from lib.pruning import adversarial
from lib.pruning.adversarial import (
    Fista,
    Learned,
    MaskOptions,
    discriminator,
    learn_masks,
    scores,
    summands,
    weights,
    without,
)
from lib.vision import torchvision

QUICK = {"epochs": 1, "batch_size": 8, "seed": 0}


def split(n=10, shape=(1, 28, 28)):
    return given.split(n, *shape, labels="in turn")


def resnet(build=models.resnet8):
    """A small one whose batch norms are not those of a fresh network."""
    model, generator = build(width=4), torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for values in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                values.copy_(0.5 + torch.rand(values.shape, generator=generator))
    return model.eval()


# -- FISTA -------------------------------------------------------------------------------------------------------------


def test_fista_reaches_the_soft_threshold_of_a_quadratic_as_fast_as_promised():
    curvature, target, sparsity = torch.tensor([4.0, 1.0, 0.05, 0.5]), torch.tensor([1.0, 0.2, 2.0, 0.3]), 0.25
    best = (target - sparsity / curvature).clamp_min(0)  # of h/2 (m - c)^2 + sparsity m over m >= 0

    def value(m):
        return (curvature / 2 * (m - target).square()).sum() + sparsity * m.sum()

    fista = Fista([torch.ones(4)], step_size=1 / 4, sparsity=sparsity)
    start = (torch.ones(4) - best).square().sum()
    for t in range(1, 1501):
        fista.step([curvature * (fista.points[0] - target)])
        assert value(fista.masks[0]) - value(best) <= 2 * 4 * start / (t + 1) ** 2 + 1e-6  # O(1 / t^2)
    torch.testing.assert_close(fista.masks[0], best, atol=1e-4, rtol=0)
    assert (fista.masks[0][best == 0] == 0).all() and (best == 0).any()  # exactly, not nearly


@pytest.mark.parametrize("y", [-0.3, 0.0, 0.04, 0.05, 0.06, 1.0])
def test_one_step_is_the_soft_threshold_and_never_negative(y):
    fista = Fista([torch.tensor([y])], step_size=0.1, sparsity=0.5)
    fista.step([torch.zeros(1)])
    assert fista.masks[0].item() == pytest.approx(max(0.0, y - 0.05), abs=1e-7)


def test_a_part_of_many_channels_takes_the_mean_of_their_slopes():
    fista = Fista([torch.ones(()), torch.ones(())], step_size=0.1, sparsity=0.5, sizes=[1, 8])
    fista.step([torch.tensor(2.0), torch.tensor(16.0)])
    assert fista.masks[0] == fista.masks[1] == pytest.approx(1 - 0.1 * 2.5)


def test_its_momentum_is_nesterovs():
    fista, a = Fista([torch.ones(1)], step_size=0.1, sparsity=0.0), 1.0
    masks = [torch.ones(1)]
    for _ in range(5):
        fista.step([torch.tensor([1.0])])
        masks.append(fista.masks[0])
        after = (1 + math.sqrt(1 + 4 * a**2)) / 2
        expected = masks[-1] + (a - 1) / after * (masks[-1] - masks[-2])
        torch.testing.assert_close(fista.points[0], expected)
        a = after


# -- Masks and removal -------------------------------------------------------------------------------------------------


def test_factors_of_one_and_copied_weights_are_the_network_itself():
    model, data = resnet(), split(4, (3, 16, 16))
    groups = structure.groups(model, data.images[:1])
    parts = {name: torch.ones(()) for names in summands(model) for name in names}
    ones = weights(model, groups, [torch.ones(group.channels) for group in groups], parts)
    assert torch.equal(torch.func.functional_call(model, ones, data.images), model(data.images))


def test_a_channels_factor_is_what_its_map_is_multiplied_by():
    model, images = models.lenet5(), split(3).images
    group = structure.groups(model, images[:1])[1]  # conv2, read by fc1 after pooling and flatten
    factors = torch.rand(group.channels, generator=torch.Generator().manual_seed(0))
    hook = model.pool2.register_forward_hook(lambda layer, given, output: output * factors[:, None, None])
    expected = model(images)
    hook.remove()
    found = torch.func.functional_call(model, weights(model, [group], [factors], {}), images)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("build", [models.resnet8, models.resnet20])
def test_a_block_of_factor_zero_can_be_left_out_bit_for_bit(build):
    model, images = resnet(build), split(4, (3, 16, 16)).images
    blocks = [names[0] for names in summands(model) if len(names) == 1]
    assert len(blocks) == {models.resnet8: 1, models.resnet20: 7}[build]
    for name in blocks:
        zeroed = copy.deepcopy(model)
        zeroed.load_state_dict(weights(model, [], [], {name: torch.zeros(())}), strict=False)
        kept = {}
        block = zeroed.get_submodule(name.rsplit(".", 1)[0])
        hook = block.register_forward_hook(lambda layer, given, output, kept=kept: kept.update(x=given[0], y=output))
        expected = zeroed(images)
        hook.remove()
        assert torch.equal(kept["x"], kept["y"])
        smaller = without(model, [name])
        assert torch.equal(smaller(images), expected)
        assert measure.parameters(model) - measure.parameters(smaller) == measure.parameters(block)


def test_a_branch_without_its_layers_equals_zeros_in_its_place():
    model, images = resnet(), split(4, (3, 16, 16)).images
    branches = [name for names in summands(model) if len(names) == 2 for name in names]
    assert branches == ["stage2_1.bn2", "stage2_1.shortcut.1", "stage3_1.bn2", "stage3_1.shortcut.1"]
    for name in branches:
        zeroed = copy.deepcopy(model)
        zeroed.load_state_dict(weights(model, [], [], {name: torch.zeros(())}), strict=False)
        smaller = without(model, [name])
        assert torch.equal(smaller(images), zeroed(images))
        assert name not in dict(smaller.named_modules())
        assert measure.multiply_adds(smaller, (3, 16, 16)) < measure.multiply_adds(model, (3, 16, 16))


def test_summands_of_a_network_that_nobody_here_wrote():
    torch.manual_seed(0)
    model, images = torchvision.models.resnet18(num_classes=10).eval(), torch.rand(2, 3, 64, 64)
    found = summands(model)
    assert [len(names) for names in found] == [1, 1, 2, 1, 2, 1, 2, 1]
    smaller = without(model, [found[0][0], found[2][0]])
    zeroed = copy.deepcopy(model)
    gone = {name: torch.zeros(()) for name in (found[0][0], found[2][0])}
    zeroed.load_state_dict(weights(model, [], [], gone), strict=False)
    assert torch.equal(smaller(images), zeroed(images))
    assert structure.groups(smaller, images[:1])  # can be shrunk further
    assert [len(names) for names in summands(torchvision.models.squeezenet1_1())] == [2] * 8  # fire modules


def test_what_is_removed_changes_nothing_more_than_the_factors_did():
    model, images = resnet(), split(4, (3, 16, 16)).images
    groups, generator = structure.groups(model, images[:1]), torch.Generator().manual_seed(0)
    factors = [torch.rand(group.channels, generator=generator) for group in groups]
    channels = [torch.where(m < 0.5, 0, m) for m in factors]
    channels[1] = torch.zeros(groups[1].channels)  # one channel has to stay
    parts = {"stage1_1.bn2": torch.tensor(0.0), "stage2_1.shortcut.1": torch.tensor(0.0)}
    parts |= {"stage3_1.bn2": torch.tensor(0.0), "stage3_1.shortcut.1": torch.tensor(0.0)}  # one has to stay
    learned = Learned(model, groups, channels, parts, [torch.zeros_like(m) for m in channels])
    smaller, folded = learned.removed(images[:1]).eval(), learned.folded().eval()
    torch.testing.assert_close(smaller(images), folded(images), rtol=0, atol=1e-5)
    assert measure.parameters(smaller) < 0.6 * measure.parameters(model)
    left = dict(smaller.named_modules())
    assert "stage1_1.conv1" not in left and "stage2_1.shortcut.0" not in left
    assert "stage3_1.bn2" in left and "stage3_1.shortcut.1" not in left


# -- Learning ----------------------------------------------------------------------------------------------------------


def test_labels_are_not_read():
    data, model = split(), models.lenet5()
    other = Split(data.images, data.labels.flip(0) * 0 + 99)
    first, second = (scores(model, each, **QUICK) for each in (data, other))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_zero_masks_grow_with_the_sparsity_from_none_to_all():
    data, model = split(16), models.lenet5()
    zeros = []
    for sparsity in (0.0, 0.1, 10.0):
        learned = learn_masks(model, data.images, sparsity=sparsity, **QUICK | {"epochs": 6})
        zeros.append(sum(int((mask == 0).sum()) for mask in learned.channels))
    assert zeros[0] == 0 and zeros[0] <= zeros[1] <= zeros[2] == 570


def test_masks_that_died_later_score_between_the_earlier_and_the_living(monkeypatch):
    model, images = models.lenet5(), split().images
    groups = structure.groups(model, images[:1])
    masks = [torch.zeros(group.channels) for group in groups]
    silent = [torch.linspace(0.1, 1, group.channels) for group in groups]
    masks[0][3] = 0.2
    learned = Learned(model, groups, masks, {}, silent)
    monkeypatch.setattr(adversarial, "learn_masks", lambda *given, **options: learned)
    found = scores(model, split())["conv1"]
    assert found.argmax() == 3 and found.argsort(descending=True)[1:].tolist() == [n for n in range(20) if n != 3]


def test_model_and_random_state_stay_and_a_second_run_agrees():
    model, data = resnet().train(), split(9, (3, 16, 16))
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    parts = [name for names in summands(model) for name in names]
    first, second = (learn_masks(model, data.images, parts=parts, **QUICK) for _ in range(2))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules()) and all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.channels, second.channels, strict=True))
    assert first.parts == second.parts and set(first.parts) == set(parts)


@pytest.mark.parametrize(
    ("model", "shape"),
    [
        (models.lenet_300_100(), (1, 28, 28)),
        (nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(64, 2)), (1, 8, 8)),
        (torchvision.models.squeezenet1_1(num_classes=3).requires_grad_(False), (3, 64, 64)),
    ],
)
def test_every_producer_gets_scores_even_from_one_image(model, shape):
    data = split(1, shape)
    found = scores(model, data, **QUICK)
    groups = structure.groups(model, data.images)
    assert set(found) == {name for group in groups for name in group.producers}
    assert all(len(found[name]) == group.channels for group in groups for name in group.producers)
    structure.shrink(model, structure.keep(found, fraction=0.5, groups=groups), data.images)


def test_the_discriminator_has_rectifiers_and_gives_logits():
    judge = discriminator(10, seed=0)
    assert [type(layer) for layer in judge] == [nn.Linear, nn.ReLU] * 3 + [nn.Linear]
    assert [layer.out_features for layer in judge[::2]] == [128, 256, 128, 1]


def test_scores_pass_every_option_on(monkeypatch):
    passed, model, data = {}, models.lenet5(), split()

    def learned(model, images, **options):
        passed.update(options)
        return Learned(model, [], [], {}, [])

    monkeypatch.setattr(adversarial, "learn_masks", learned)
    options = {name: place for place, name in enumerate(MaskOptions.__annotations__)}
    assert scores(model, data, seed=9, **options) == {}
    assert passed == options | {"seed": 9}
    assert options.keys() == inspect.signature(learn_masks).parameters.keys() - {"model", "images", "seed"}


def test_a_misspelt_option_is_refused_by_its_name():
    with pytest.raises(TypeError, match="there is no option 'sparsty': accepted are parts, sparsity, epochs, "):
        scores(models.lenet5(), split().first(0), sparsty=0.1)


def test_bad_input_is_refused_in_a_sentence():
    model, data = models.lenet5(), split()
    with pytest.raises(ValueError, match="the split is empty: at least one sample is needed to learn masks from"):
        scores(model, data.first(0))
    with pytest.raises(ValueError, match="there are no images: at least one"):
        learn_masks(model, data.images[:0], seed=0)
    for wrong in ({"sparsity": -1.0}, {"step_size": 0}, {"epochs": 0}, {"fidelity": float("nan")}, {"batch_size": 0}):
        with pytest.raises(ValueError, match="sparsity and fidelity must be 0 or more"):
            scores(model, data, **wrong)
    for part in ("relu1", "conv9"):
        with pytest.raises(
            ValueError, match=f"parts must be last layers of branches or blocks, with a weight, not '{part}'"
        ):
            learn_masks(model, data.images, seed=0, parts=[part])
    with pytest.raises(ValueError, match="layer 'conv1' ends no branch that can be cut out"):
        without(model, ["conv1"])
    with pytest.raises(ValueError, match=r"layer 'stage2_1\.shortcut\.1' ends no branch that can be cut out"):
        without(models.resnet8(), ["stage2_1.bn2", "stage2_1.shortcut.1"])
    data.images[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="diverged in step 1: try a smaller"):
        scores(model, data, **QUICK | {"batch_size": 16})


class Inception(nn.Module):
    """Two branches that are joined, read by a convolution; a block behind dropout; a scaled, permuted block."""

    def __init__(self, norm=False):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 5, 3, padding=1)
        self.norm = nn.BatchNorm2d(9) if norm else nn.Identity()
        self.c, self.d = nn.Conv2d(9, 6, 1), nn.Conv2d(6, 6, 1)
        self.drop, self.e, self.scale = nn.Dropout(0.5), nn.Linear(6, 6), nn.Parameter(torch.rand(6, 1, 1))
        self.head = nn.Linear(6, 2)

    def forward(self, x):
        x = self.norm(torch.cat([torch.relu(self.a(x)), nn.functional.relu(self.b(x))], 1))
        x = self.c(x)
        x = x + self.drop(self.d(torch.tanh(x)))
        x = x + self.scale * self.e(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("name", ["a", "b", "d", "e"])
def test_joined_branches_and_blocks_behind_dropout_can_go(name, norm):
    model = given.seeded(lambda: Inception(norm)).eval()
    assert adversarial.summands(model) == [("a", "b"), ("d",), ("e",)]
    images = torch.rand(2, 3, 5, 5, generator=given.generator())
    if norm:  # statistics that are no fresh ones
        model.train()(images)
        model.eval()
    zeros = copy.deepcopy(model)
    for parameter in zeros.get_submodule(name).parameters():
        parameter.data.zero_()
    if norm and name in "ab":  # a channel that goes takes its batch norm's shift with it
        rows = slice(0, 4) if name == "a" else slice(4, 9)
        for value in (zeros.norm.running_mean, zeros.norm.weight.data, zeros.norm.bias.data):
            value[rows] = 0
    small = adversarial.without(model, [name], images[:1])
    torch.testing.assert_close(small(images), zeros(images))
    assert name not in dict(small.named_modules())
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())


def test_both_branches_at_once_and_no_example_are_refused():
    model = given.seeded(Inception).eval()
    with pytest.raises(ValueError, match="layer 'b' ends in a concatenation: an example input is needed"):
        adversarial.without(model, ["b"])
    with pytest.raises(ValueError, match="layer 'b' ends no branch that can be cut out"):
        adversarial.without(model, ["a", "b"], torch.rand(1, 3, 5, 5))


def test_a_masked_branch_of_a_concatenation_is_removed():
    model, images = given.seeded(Inception).eval(), torch.rand(4, 3, 5, 5, generator=given.generator())
    learned = adversarial.learn_masks(model, images, seed=0, parts=["a", "b", "d"], epochs=2, sparsity=10.0)
    assert all(factor == 0 for factor in learned.parts.values())
    small = learned.removed(images[:1])
    left = {name for name, _ in small.named_modules()}
    assert {"a"} <= left and not {"b", "d"} & left, "of a concatenation one branch stays"
    assert small(images).isfinite().all()
