"""Which layers are replaced, what the report says, and what is refused."""

import copy

import given
import numpy as np
import pytest
import torch
from torch import nn

from lib import measure, models
from lib.factorization import cp, low_rank, spatial, tucker
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


def test_a_layer_with_two_names_stays_one():
    layer = nn.Linear(20, 20)
    model = nn.ModuleDict({"a": layer, "b": layer})
    small, _ = low_rank.factorize_model(model, rank=2)
    assert isinstance(small["a"], nn.Sequential) and small["a"] is small["b"]


def test_layers_that_their_owner_reads_are_left_with_the_reason():
    block = torchvision.models.vision_transformer.EncoderBlock(2, 16, 64, 0.0, 0.0).eval()
    small, report = low_rank.factorize_model(block, rank=2)
    assert [row.layer for row in report if not row.reason] == ["mlp.0", "mlp.3"]
    assert {row.layer: (row.before, row.after, row.reason) for row in report if row.reason} == {
        "self_attention.in_proj_weight": (768, 768, "it is a weight of MultiheadAttention, which is no layer"),
        "self_attention.out_proj": (272, 272, "MultiheadAttention reads its weight instead of calling it"),
    }
    assert (
        measure.parameters(small)
        == sum(row.after for row in report) + sum(p.numel() for p in block.ln_1.parameters()) * 2 + 48
    )
    assert small(torch.rand(1, 3, 16)).shape == (1, 3, 16)


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True)
    return given.seeded(lambda: nn.Sequential(nn.TransformerEncoder(layer, 2), nn.Linear(32, 20)))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("build", "replaced"),
    [
        (encoder, ["1"]),
        (lambda: nn.TransformerDecoderLayer(32, 4, 64, dropout=0.0, batch_first=True), ["linear1", "linear2"]),
        (lambda: nn.Sequential(nn.LSTM(32, 30), Last(), nn.Linear(30, 20)), ["2"]),
        (lambda: torchvision.models.swin_transformer.SwinTransformerBlock(32, 4, [2, 2], [1, 1]), ["mlp.0", "mlp.3"]),
    ],
)
def test_networks_with_attention_compute_in_both_modes(build, replaced, training):
    model = build().train(training)
    inputs = [torch.rand(3, 4, 32)] * (2 if isinstance(model, nn.TransformerDecoderLayer) else 1)
    if "Swin" in type(model).__name__:
        inputs = [torch.rand(3, 4, 4, 32)]
    full, report = low_rank.factorize_model(model, rank=1)
    assert sorted(row.layer for row in report if row.after < row.before) == replaced
    with torch.no_grad():
        assert full(*inputs).shape == model(*inputs).shape
        exact = low_rank.factorize_model(model, energy=1.0)[0]
        assert torch.allclose(exact(*inputs), model(*inputs), atol=1e-5)


class Last(nn.Module):
    """The outputs of a recurrent layer, without its state."""

    def forward(self, outputs):
        return outputs[0]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("0.layers.0.linear1", "TransformerEncoderLayer reads its weight"),
        ("0.layers.1.self_attn.out_proj", "MultiheadAttention reads its weight"),
        ("0.layers.1.self_attn.in_proj_weight", "it is a packed weight, accepted are layers"),
    ],
)
def test_a_layer_that_cannot_be_replaced_is_refused_where_it_is_named(name, reason):
    model = encoder()
    with given.refused(model, f"'{name}' cannot be factorized: {reason}"):
        low_rank.factorize_model(model, rank={name: 2})


def test_a_layer_with_hooks_is_left_alone():
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    model[0].register_forward_hook(lambda *_: None)
    _, report = tucker.factorize_model(model, energy=0.5)
    assert [(row.layer, row.reason) for row in report] == [("0", "it has hooks, which would be lost"), ("1", "")]
    with pytest.raises(ValueError, match="layer '0' cannot be factorized: it has hooks"):
        tucker.factorize_model(model, energy=0.5, layers=["0"])


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint8])
def test_ranks_of_numpy_are_whole_numbers_too(kind):
    model, n = nn.Sequential(nn.Conv2d(8, 16, 3), nn.Flatten(), nn.Linear(16, 4)), kind(3)
    for report in (
        low_rank.factorize_model(model, rank=n)[1],
        low_rank.factorize_model(model, rank={"0": n})[1],
        spatial.factorize_model(model, rank=n)[1],
        cp.factorize_model(model, rank=n, sweeps=2)[1],
        tucker.factorize_model(model, ranks={"0": (n, n)})[1],
    ):
        assert set(report[0].ranks) == {3} and all(type(rank) is int for rank in report[0].ranks)
        assert report[0].after < report[0].before
    for rank in (True, 2.0, "3", np.float64(2)):
        with pytest.raises(ValueError, match=r"layer '0': the rank must be a whole number from 1 to 16, not"):
            low_rank.factorize_model(model, rank=rank)


def test_biases_that_two_layers_share_are_refused():
    model = nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 9))
    model[1].bias = model[0].bias
    with pytest.raises(ValueError, match=r"layers '0\.bias' and '1\.bias' share one weight"):
        low_rank.factorize_model(model, rank=2)


def test_weights_that_are_not_finite_are_refused_by_name():
    model = nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 9))
    nn.init.constant_(model[1].weight, float("nan"))
    with given.refused(model, "layer '1': the weights of the layer hold NaN"):
        low_rank.factorize_model(model, rank=2)


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
        (lambda: low_rank.factorize_model(model, rank={"fc1": 2}, layers=["fc1"]), "name the layers only once"),
        (lambda: tucker.factorize_model(model, ranks={"fc1": (2, 2)}, layers=["fc1"]), "the layers only once"),
        (lambda: low_rank.factorize_model(depthwise, rank=2), "Conv2d has no layer to factorize: accepted are Linear"),
        (lambda: low_rank.factorize_model(tied, rank=2), "layers '0' and '1' share one weight"),
    ):
        with pytest.raises(ValueError, match=says):
            call()
    assert type(model.fc1) is nn.Linear
