"""Layers in a row: which are replaced, what the report says, what is refused, and how separable halves move."""

import copy

import pytest
import torch
from torch import nn

from lib import measure, models
from lib.factorization import low_rank, tucker
from lib.factorization.shared import rows
from lib.vision import torchvision


def test_layers_are_replaced_if_factors_are_smaller_and_the_report_says_so():
    model = models.lenet_300_100()
    before = copy.deepcopy(model.state_dict())
    small, report = low_rank.factorize_model(model, rank=20)
    assert [(row.layer, row.ranks, row.before, row.after) for row in report] == [
        ("fc1", (20,), 235_500, 20 * (784 + 300) + 300),
        ("fc2", (20,), 30_100, 20 * 400 + 100),
        ("fc3", (10,), 1_010, 1_010),
    ]
    assert isinstance(small.fc3, nn.Linear) and isinstance(small.fc1, nn.Sequential)
    assert measure.parameters(small) == sum(row.after for row in report)
    assert measure.multiply_adds(small, (1, 28, 28)) == 20 * 1084 + 20 * 400 + 1000
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_break_even_is_the_rank_of_the_formula():
    layer = nn.Linear(30, 20, bias=False)  # 600 / 50 = 12: equal is not smaller
    for rank, smaller in ((11, True), (12, False)):
        model, (row,) = low_rank.factorize_model(nn.Sequential(layer), rank=rank)
        assert isinstance(model[0], nn.Sequential) == smaller == (row.after < row.before)


def test_mode_type_and_frozen_weights_stay():
    layer = nn.Linear(6, 5).double().eval().requires_grad_(False)
    factors = low_rank.factorize(layer, 2)
    assert not factors.training and not factors[0].weight.requires_grad and factors[1].weight.dtype == torch.float64


def test_a_layer_with_two_names_stays_one():
    layer = nn.Linear(20, 20)
    model = nn.ModuleDict({"a": layer, "b": layer})
    small, _ = low_rank.factorize_model(model, rank=2)
    assert isinstance(small["a"], nn.Sequential) and small["a"] is small["b"]


def test_layers_that_their_owner_reads_are_left_alone():
    block = torchvision.models.vision_transformer.EncoderBlock(2, 16, 64, 0.0, 0.0).eval()  # reads out_proj.weight
    small, report = low_rank.factorize_model(block, rank=2)
    assert [row.layer for row in report] == ["mlp.0", "mlp.3"]
    assert small(torch.rand(1, 3, 16)).shape == (1, 3, 16)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(2, 4, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(2, 4, (3, 2), padding=(2, 1), dilation=(2, 1), padding_mode="circular"),
        nn.Conv2d(4, 4, 3, padding="same", groups=4),
        nn.Conv3d(2, 3, 2),
    ],
)
def test_a_convolution_is_made_again_from_its_values_and_geometry(layer):
    again = rows.convolution(layer.weight, layer.bias, groups=layer.groups, **rows.geometry(layer))
    x = torch.rand(2, layer.in_channels, *[7] * (layer.weight.dim() - 2))
    assert type(again) is type(layer) and torch.equal(again(x), layer(x))


@pytest.mark.parametrize("padding", [(2, 1), "same"])
def test_the_halves_of_a_separable_layer_move_as_it_does(padding):
    stride = (1, 1) if padding == "same" else (2, 3)
    layer = nn.Conv2d(1, 1, (3, 5), stride=stride, padding=padding, dilation=(1, 2), bias=False)
    column, line = torch.rand(1, 1, 3, 1), torch.rand(1, 1, 1, 5)
    layer.weight.data = column * line
    down, across = rows.apart(layer)
    pair = nn.Sequential(rows.convolution(column, **down), rows.convolution(line, **across))
    x = torch.rand(1, 1, 11, 12)
    assert torch.allclose(pair(x), layer(x), atol=1e-5)


def test_energy_is_a_share_of_the_squares():
    sigma = torch.tensor([4.0, 2, 2, 1])  # squares 16, 4, 4, 1 of 25
    assert [rows.rank_for(sigma, share / 25) for share in (16, 16.1, 20, 24, 24.1, 25)] == [1, 2, 2, 3, 4, 4]
    assert rows.rank_for(torch.zeros(3), 0.9) == 1


def test_a_rank_is_meant_for_one_layer_or_for_all():
    assert rows.chosen_rank(9, "fc1", 5) == 5 and rows.chosen_rank({"fc1": 9}, "fc1", 5) == 9
    assert rows.chosen_layers(None, 9) is None and rows.chosen_layers(["fc1"], 9) == ["fc1"]
    assert list(rows.chosen_layers(None, {"fc1": 9})) == ["fc1"]


def test_what_cannot_be_factorized_is_refused_before_anything_changes():
    model, depthwise = models.lenet_300_100(), nn.Conv2d(4, 4, 3, groups=4)
    tied = nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 9))
    tied[1].weight = tied[0].weight
    for call, says in (
        (
            lambda: low_rank.factorize_model(model, rank={"fc9": 2}),
            "no layer 'fc9' to factorize: the layers are fc1, fc2, fc3",
        ),
        (
            lambda: low_rank.factorize_model(model, rank=2, layers=["relu1"]),
            "layer 'relu1' cannot be factorized: it is ReLU",
        ),
        (lambda: low_rank.factorize_model(model, rank={"fc1": 2}, layers=["fc1"]), "give the names of layers once"),
        (lambda: tucker.factorize_model(model, ranks={"fc1": (2, 2)}, layers=["fc1"]), "the names of layers once"),
        (lambda: low_rank.factorize_model(depthwise, rank=2), "Conv2d has no layer to factorize: accepted are Linear"),
        (lambda: low_rank.factorize_model(tied, rank=2), "layers '0' and '1' share one weight"),
    ):
        with pytest.raises(ValueError, match=says):
            call()
    assert type(model.fc1) is nn.Linear
