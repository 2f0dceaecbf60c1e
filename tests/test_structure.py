"""Scores to masks to smaller networks: the shrunk network computes what the masked one does, on others' models too."""

import copy

import pytest
import torch
from torch import nn

from lib import measure, models, structure
from lib.vision import torchvision


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """In float64, with batch norms that shift and scale: a removed channel that is not quite removed would show."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for values in (module.weight, module.bias, module.running_mean):
                values.data.normal_(generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
    return model.double().eval()


def scored(found: list[structure.Group], seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(group.channels, generator=generator) for group in found for name in group.producers}


def images(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(a: torch.Tensor, b: torch.Tensor) -> bool:
    return bool((a - b).abs().max() <= 1e-5 * b.abs().max().clamp_min(1))


TORCHVISION = {
    "DenseNet": {"growth_rate": 16, "block_config": (3, 6, 4), "num_init_features": 32},
    "squeezenet1_1": {},
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_shrunk_is_masked_on_torchvisions_models(name):
    model = randomized(getattr(torchvision.models, name)(num_classes=10, **TORCHVISION[name]))
    x = images(2, 3, 64, 64)
    found = structure.groups(model, x)
    masks = structure.keep(scored(found), fraction=0.4, groups=found)
    with torch.no_grad():
        small, masked = structure.shrink(model, masks, x), structure.mask(model, masks, x)
        assert close(small(x), masked(x))
        assert not close(masked(x), model(x))
    work = measure.multiply_adds(small, (3, 64, 64)) / measure.multiply_adds(model, (3, 64, 64))
    assert 0.3 < work < 0.5
    assert measure.multiply_adds(masked, (3, 64, 64)) == measure.multiply_adds(model, (3, 64, 64))
    for layer, removed in masks.removed.items():
        before, after = model.get_submodule(layer), small.get_submodule(layer)
        assert len(after.weight) == len(before.weight) - removed
        assert len(masked.get_submodule(layer).weight) == len(before.weight)


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (lambda: models.lenet5(), (1, 28, 28)),
        (lambda: models.lenet_300_100(), (1, 28, 28)),
        (lambda: models.resnet8(), (3, 32, 32)),
        (lambda: models.resnet20(channels=1), (1, 28, 28)),
    ],
)
def test_shrunk_is_masked_on_our_own_models(build, shape):
    model, x = randomized(build()), images(3, *shape)
    found = structure.groups(model, x)
    masks = structure.keep(scored(found), fraction=0.5, groups=found)
    with torch.no_grad():
        assert close(structure.shrink(model, masks, x)(x), structure.mask(model, masks, x)(x))


def test_removing_a_filter_is_a_gate_after_its_batch_norm():
    """Independent of any graph: the first block's inner map is set to zero where the network computes it."""
    model, x = randomized(models.resnet8()), images(2, 3, 32, 32)
    kept = torch.arange(16) % 3 > 0
    small = structure.shrink(model, {"stage1_1.conv1": kept}, x)
    block = model.get_submodule("stage1_1")
    block.bn1.register_forward_hook(lambda layer, inputs, output: output * kept[None, :, None, None])
    assert small.get_submodule("stage1_1.conv2").in_channels == int(kept.sum())
    assert close(small(x), model(x))


def test_removing_from_the_residual_stream_gates_all_that_are_added():
    model, x = randomized(models.resnet8()), images(2, 3, 32, 32)
    kept = torch.arange(32) % 2 > 0
    small = structure.shrink(model, {"stage2_1.conv2": kept}, x)  # the shortcut follows
    for name in ("stage2_1.bn2", "stage2_1.shortcut.1"):
        model.get_submodule(name).register_forward_hook(
            lambda layer, inputs, output: output * kept[None, :, None, None]
        )
    assert small.get_submodule("stage2_1.shortcut.0").out_channels == 16
    assert close(small(x), model(x))


class Branches(nn.Module):
    """Two branches after one another in a concatenation, a sigmoid (0 is not 0 there), and a depthwise layer."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(2, 6, 3, padding=1, bias=False)
        self.depthwise = nn.Conv2d(10, 10, 3, padding=1, groups=10)
        self.point = nn.Conv2d(10, 5, 1)
        self.head = nn.Linear(5 * 16, 3)

    def forward(self, x):
        both = torch.sigmoid(torch.cat([self.left(x), self.right(x)], 1))
        return self.head(torch.tanh(self.point(self.depthwise(both))).flatten(1))


def test_concatenation_depthwise_sigmoid_and_flatten_by_hand():
    torch.manual_seed(0)
    model, x = Branches().double().eval(), images(3, 2, 4, 4)
    found = {group.producers[0]: group for group in structure.groups(model, x)}
    assert list(found) == ["left", "right", "point"]  # the head is the output
    assert found["right"].carriers["depthwise"].flatten().tolist() == [4, 5, 6, 7, 8, 9]
    assert found["right"].consumers["point"].flatten().tolist() == [4, 5, 6, 7, 8, 9]
    assert found["point"].consumers["head"].tolist() == torch.arange(80).reshape(5, 16).tolist()
    masks = {"right": torch.tensor([1, 0, 1, 1, 0, 1]).bool(), "point": torch.tensor([0, 1, 1, 0, 1]).bool()}
    small = structure.shrink(model, masks, x)
    assert small.depthwise.groups == 8
    assert small.head.in_features == 48
    by_hand = copy.deepcopy(model)
    with torch.no_grad():
        by_hand.point.weight[:, [5, 8]] = 0
        by_hand.head.weight[:, torch.arange(80).reshape(5, 16)[[0, 3]].flatten()] = 0
    assert close(small(x), by_hand(x))
    assert close(structure.mask(model, masks, x)(x), by_hand(x))


def test_maps_are_what_the_consumer_reads():
    torch.manual_seed(0)
    model, x = Branches().double().eval(), images(3, 2, 4, 4)
    group = structure.groups(model, x)[2]
    maps = torch.randn(3, 5, 4, 4)
    assert torch.equal(group.maps(model, "head", maps.flatten(1)), maps.flatten(2))
    right = structure.groups(model, x)[1]
    every = torch.randn(3, 10, 4, 4)
    assert torch.equal(right.maps(model, "point", every), every[:, 4:].flatten(2))
    with pytest.raises(ValueError, match="layer 'head' does not read the channels of this group: point do"):
        right.maps(model, "head", every)
    with pytest.raises(ValueError, match=r"values of shape \(10, 4, 4\) are no batch of maps of convolution 'point'"):
        right.maps(model, "point", every[0])


def test_maps_of_a_linear_layer_are_its_last_axis():
    model, tokens = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(2, 5, 7, 4)
    (group,) = structure.groups(model, torch.zeros(1, 5, 7, 3))
    by_channel = torch.stack([tokens[..., channel].flatten(1) for channel in range(4)], dim=1)
    assert torch.equal(group.maps(model, "2", tokens), by_channel)
    assert torch.equal(group.maps(model, "0", tokens, written=True), by_channel)


def test_maps_that_producers_and_carriers_write_are_those_that_are_read():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 2, 1))
    (group,) = structure.groups(model, torch.zeros(1, 1, 8, 8))
    values = torch.randn(2, 4, 6, 6)
    for name in ("0", "1", "2"):
        assert torch.equal(group.maps(model, name, values, written=True), values.flatten(2))


def test_additions_tie_layers_and_the_output_is_free():
    model = models.resnet8()
    found = structure.groups(model, torch.zeros(1, 3, 32, 32))
    assert {tuple(sorted(group.producers)) for group in found} == {
        ("conv", "stage1_1.conv2"),
        ("stage1_1.conv1",),
        ("stage2_1.conv1",),
        ("stage2_1.conv2", "stage2_1.shortcut.0"),
        ("stage3_1.conv1",),
        ("stage3_1.conv2", "stage3_1.shortcut.0"),
    }


def test_the_model_and_its_state_stay_as_they_were():
    model = models.resnet8()
    model.conv.weight.requires_grad_(False)
    model.train()
    before = copy.deepcopy(model.state_dict())
    x = torch.rand(2, 3, 32, 32)
    masks = {"stage1_1.conv1": torch.arange(16) < 8}
    small = structure.shrink(model, masks, x)
    structure.mask(model, masks, x)
    assert model.training and model.stage1_1.bn1.training
    assert not model.conv.weight.requires_grad and all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    small(x).sum().backward()  # the small one trains
    assert small.stage1_1.conv1.weight.grad.shape == (8, 16, 3, 3)


def test_nothing_to_remove_changes_nothing():
    model, x = randomized(models.lenet5()), images(2, 1, 28, 28)
    masks = structure.keep(scored(structure.groups(model, x)), fraction=0)
    assert set(masks.removed.values()) == {0}
    assert torch.equal(structure.shrink(model, masks, x)(x), model(x))
    assert torch.equal(structure.shrink(model, {}, x)(x), model(x))


@pytest.mark.parametrize(("share", "multiple_of"), [(0.5, 1), (0.5, 8), (0.2, 1), (1.0, 1)])
def test_the_fraction_for_a_share_of_the_work_is_the_smallest(share, multiple_of):
    model, x = models.resnet8(), torch.zeros(1, 3, 32, 32)
    fraction = structure.fraction_for(model, x, multiply_adds=share, multiple_of=multiple_of)
    found = structure.groups(model, x)

    def work(at: float) -> float:
        masks = structure.keep(scored(found), fraction=at, groups=found, multiple_of=multiple_of)
        return measure.multiply_adds(structure.shrink(model, masks, x), (3, 32, 32)) / 12_501_632

    assert work(fraction) <= share
    assert share == 1 or work(fraction - 0.002) > share


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("masks", "says"),
    [
        ({"conv": torch.zeros(16).bool()}, "layer 'conv' would lose its last filter"),
        ({"conv": torch.ones(15).bool()}, "the mask of layer 'conv' must be 16 truth values, not torch.bool"),
        ({"conv": torch.ones(16)}, "must be 16 truth values, not torch.float32"),
        (
            {"fc": torch.ones(10).bool()},
            r"layer 'fc' has no filters that can go \(its channels are an output of the network\): accepted are conv, ",
        ),
        ({"no": torch.ones(10).bool()}, "layer 'no' has no filters that can go"),
        (
            {"conv": torch.arange(16) < 8, "stage1_1.conv2": torch.arange(16) > 8},
            "layers 'conv' and 'stage1_1.conv2' are tied by an addition and have different masks",
        ),
    ],
)
@pytest.mark.parametrize("cut", [structure.shrink, structure.mask])
def test_shrink_and_mask_refuse(cut, masks, says):
    with pytest.raises(ValueError, match=says):
        cut(models.resnet8(), masks, torch.zeros(1, 3, 32, 32))


class Grouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3)
        self.grouped = nn.Conv2d(8, 6, 3, groups=2)
        self.last = nn.Conv2d(6, 2, 3)

    def forward(self, x):
        return self.last(self.grouped(torch.relu(self.first(x))).relu()).mean((2, 3))


def test_grouped_convolutions_are_cut_where_all_groups_keep_as_many():
    torch.manual_seed(0)
    model, x = Grouped().double(), images(2, 1, 9, 9)
    masks = {
        "first": torch.tensor([1, 0, 1, 0, 0, 0, 1, 1]).bool(),  # two of each four
        "grouped": torch.tensor([0, 1, 1, 1, 1, 0]).bool(),
    }
    small = structure.shrink(model, masks, x)
    assert small.grouped.weight.shape == (4, 2, 3, 3)
    assert close(small(x), structure.mask(model, masks, x)(x))
    with pytest.raises(ValueError, match=r"the 2 groups of convolution 'grouped' cannot be cut equally: .* \[3, 4\]"):
        structure.shrink(model, {"first": torch.arange(8) > 0}, x)


@pytest.mark.parametrize("between", [nn.ReLU(), nn.Sigmoid(), nn.Softplus(), nn.BatchNorm2d(8, affine=False)])
def test_shrunk_is_masked_before_grouped_convolutions_whatever_comes_of_zero(between):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 8, 3), between, nn.Conv2d(8, 4, 3, groups=2), nn.Flatten(), nn.Linear(64, 3))
    if isinstance(between, nn.BatchNorm2d):
        between.running_mean.uniform_(-1, 1)
    model, x, kept = model.double().eval(), images(2, 1, 8, 8), torch.tensor([1, 1, 0, 1, 1, 0, 1, 1]).bool()
    small, masked = (cut(model, {"0": kept}, x) for cut in (structure.shrink, structure.mask))
    by_hand = copy.deepcopy(model)
    with torch.no_grad():
        by_hand[2].weight[:2, 2] = by_hand[2].weight[2:, 1] = 0  # channels 2 and 5, each in its own group
        assert close(small(x), by_hand(x)) and close(masked(x), by_hand(x)) and not close(small(x), model(x))


def test_every_parameter_is_frozen_as_it_was():
    layers = [nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=2), nn.Flatten(), nn.Linear(128, 4)]
    model, x, kept = nn.Sequential(*layers), torch.rand(1, 1, 8, 8), torch.arange(8) % 4 < 2
    for i, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(i % 3 == 0)
    for cut in (structure.shrink, structure.mask):
        copied = cut(model, {"0": kept, "2": kept}, x)
        assert [p.requires_grad for p in copied.parameters()] == [p.requires_grad for p in model.parameters()]
        assert all(isinstance(p, nn.Parameter) for p in copied.parameters())


class Untraceable(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        raise RuntimeError("only on Sundays")


def test_a_model_that_cannot_be_traced_says_so():
    with pytest.raises(ValueError, match="the graph of Untraceable cannot be traced: only on Sundays"):
        structure.groups(Untraceable(), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="the graph of Sequential cannot be traced"):
        structure.groups(models.lenet5(), torch.zeros(1, 3, 28, 28))


def test_compressed_weights_are_refused():
    from lib.pruning import magnitude

    with pytest.raises(ValueError, match="has compressed weights: decompress it first"):
        structure.groups(magnitude.prune(models.lenet5(), density=0.5), torch.zeros(1, 1, 28, 28))


def test_attention_and_loose_parameters_are_left_alone():
    sizes = {"num_layers": 3, "num_heads": 4, "hidden_dim": 32, "mlp_dim": 48}
    model = torchvision.models.VisionTransformer(image_size=32, patch_size=16, num_classes=4, **sizes).eval()
    found = structure.groups(model, torch.zeros(1, 3, 32, 32))
    assert [group.channels for group in found] == [48] * 3  # the hidden layer of each block's perceptron


def test_a_changed_network_gets_new_groups_and_the_list_is_the_callers():
    model, x = models.lenet5(), torch.zeros(1, 1, 28, 28)
    first = structure.groups(model, x)
    again = structure.groups(model, x)
    assert [a is b for a, b in zip(first, again, strict=True)] == [True] * 3
    first.clear()
    assert len(structure.groups(model, x)) == 3
    model.conv1, model.conv2 = nn.Conv2d(1, 7, 5), nn.Conv2d(7, 50, 5)
    assert [group.channels for group in structure.groups(model, x)] == [7, 50, 500]
    model.relu1 = model.fc1 = nn.Identity()
    model.fc2 = nn.Linear(800, 10)
    assert [group.channels for group in structure.groups(model, x)] == [7, 50]
