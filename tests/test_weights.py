"""The one idea: a compressed weight is a parametrization of any layer of any model."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from lib import weights
from lib.pruning.magnitude import PrunedWeight
from lib.weights import (
    CompressedWeight,
    Encoding,
    check_one_of,
    compress,
    compressed_form,
    decompress,
    form_named,
    layers,
)


class Doubled(CompressedWeight):
    """Stored at half the size: easy to tell from the dense weight."""

    def right_inverse(self, weight):
        return weight / 2

    def forward(self, half):
        return half * 2

    def encode(self, half):
        return Encoding(tables={"half": half})


class Net(nn.Module):
    """Nested, grouped, depthwise, without bias, with normalization."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(4, 4, 3, groups=2, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.body = nn.ModuleDict({"depthwise": nn.Conv2d(4, 4, 1, groups=4, bias=False)})
        self.embedding = nn.Embedding(3, 2)
        self.empty = nn.Linear(2, 2)
        self.empty.weight = nn.Parameter(torch.zeros(2, 0))

    def forward(self, x):
        return self.body["depthwise"](self.stem(x))


def tied() -> nn.Sequential:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    return model


@pytest.mark.parametrize("accepted", [("layer", "global"), ["layer", "global"], {"layer": 1, "global": 2}])
def test_what_is_not_accepted_is_refused_with_what_is(accepted):
    for value in ("layer", "global"):
        check_one_of("scope", value, accepted)
    for value, shown in (("", "''"), ("Layer", "'Layer'"), ("lay", "'lay'"), (None, "None"), (1, "1")):
        with pytest.raises(ValueError) as error:
            check_one_of("scope", value, accepted)
        assert str(error.value) == f"scope must be one of layer, global, not {shown}"


def test_layers_are_those_with_a_weight_of_two_dimensions():
    assert [name for name, _ in layers(Net())] == ["stem.0", "body.depthwise", "embedding"]


def test_a_single_layer_is_a_model_with_an_empty_name():
    assert [name for name, _ in layers(nn.Linear(2, 3))] == [""]
    assert parametrize.is_parametrized(compress(nn.Linear(2, 3), lambda name, layer: Doubled()), "weight")


def test_layers_stay_the_same_when_they_are_compressed():
    model = Net()
    before = [name for name, _ in layers(model)]
    compress(model, lambda name, layer: Doubled())
    assert [name for name, _ in layers(model)] == before


def test_compressed_layers_compute_with_what_the_form_says():
    model = Net().eval()
    x, dense = torch.randn(2, 4, 5, 5), copy.deepcopy(model)
    compress(model, lambda name, layer: Doubled() if name == "stem.0" else None)
    form, (stored,) = compressed_form(model.stem[0])
    assert isinstance(form, Doubled) and torch.equal(stored, dense.stem[0].weight / 2)
    assert torch.equal(model(x), dense(x))
    assert compressed_form(model.body["depthwise"]) is None


def test_a_second_technique_follows_on_the_dense_weight_of_the_first():
    layer = nn.Linear(4, 4)
    dense = layer.weight.detach().clone()
    compress(layer, lambda name, _: Doubled())
    compress(layer, lambda name, _: Doubled())
    assert torch.equal(layer.weight, dense) and len(layer.parametrizations.weight) == 1


def test_decompress_gives_plain_parameters_of_the_same_values():
    model = compress(Net(), lambda name, layer: Doubled())
    expected = {name: layer.weight.detach().clone() for name, layer in layers(model)}
    decompress(model)
    assert not any(parametrize.is_parametrized(m) for m in model.modules())
    assert all(torch.equal(layer.weight, expected[name]) for name, layer in layers(model))
    assert model.state_dict().keys() == Net().state_dict().keys()


def test_decompressing_a_deep_copy_leaves_the_original_compressed():
    model = compress(Net(), lambda name, layer: Doubled() if name != "empty" else None)
    expected = {name: layer.weight.detach().clone() for name, layer in layers(model)}
    decompress(copy.deepcopy(model))
    assert len(expected) == 3
    assert all(torch.equal(layer.weight, expected[name]) for name, layer in layers(model))
    assert all(compressed_form(layer) is not None for _, layer in layers(model))


def test_an_optimizer_made_before_goes_on_with_the_same_parameter():
    layer = nn.Linear(3, 3)
    before = layer.weight
    compress(layer, lambda name, _: Doubled())
    assert layer.parametrizations.weight.original is before
    assert decompress(layer).weight is before


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused_and_nothing_is_changed(bad):
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight.data[0, 0] = bad
    with pytest.raises(ValueError, match="layer '1' hold NaN or infinity"):
        compress(model, lambda name, layer: Doubled())
    assert not any(parametrize.is_parametrized(m) for m in model.modules())


def test_a_layer_left_alone_may_hold_anything():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight.data[0, 0] = float("nan")
    compress(model, lambda name, layer: Doubled() if name == "0" else None)
    assert parametrize.is_parametrized(model[0]) and not parametrize.is_parametrized(model[1])


@pytest.mark.parametrize("model", [nn.ReLU(), nn.BatchNorm2d(3), nn.Sequential()])
def test_a_model_without_weights_is_refused(model):
    with pytest.raises(ValueError, match=f"{type(model).__name__} has no layer with a weight"):
        compress(model, lambda name, layer: Doubled())


def test_a_weight_that_two_layers_share_is_refused_and_nothing_is_changed():
    model = tied()
    with pytest.raises(ValueError, match="layers '0' and '2' share one weight"):
        compress(model, lambda name, layer: Doubled())
    assert model[0].weight is model[2].weight and not parametrize.is_parametrized(model[0])


def test_a_shared_weight_that_is_left_alone_is_no_error():
    model = tied()
    compress(model, lambda name, layer: None)
    assert model[0].weight is model[2].weight


def test_a_foreign_parametrization_is_named():
    layer = nn.utils.parametrizations.orthogonal(nn.Linear(3, 3))
    with pytest.raises(ValueError, match="no CompressedWeight"):
        compressed_form(layer)


def test_forms_are_found_by_their_name_and_others_refused():
    assert form_named("PrunedWeight") is PrunedWeight
    assert form_named("PrunedSharedWeight").__module__ == "lib.quantization.deep_compression"
    for name in ("", "os", "CompressedWeight", "lib.storage"):
        with pytest.raises(ValueError, match="no technique stores weights as"):
            weights.form_named(name)


def test_the_base_class_promises_nothing():
    with pytest.raises(NotImplementedError):
        CompressedWeight().encode(torch.zeros(1))
    with pytest.raises(NotImplementedError):
        CompressedWeight.decode(Encoding(), torch.Size([1]))


def test_replace_puts_a_layer_under_all_names_of_another():
    model, new = Net(), nn.Identity()
    model.again = model.stem[0]
    assert weights.replace(model, "stem.0", new) is model
    assert model.stem[0] is new and model.again is new and isinstance(model.stem[1], nn.BatchNorm2d)
    assert weights.replace(model, "", new) is new
    with pytest.raises(ValueError, match=r"Net has no layer 'stem\.9': it has stem, stem\.0"):
        weights.replace(model, "stem.9", new)
