"""The one idea: a compressed weight is a parametrization of any layer of any model."""

import copy

import given
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from lib import weights
from lib.pruning import magnitude
from lib.pruning.magnitude import PrunedWeight
from lib.weights import (
    CompressedWeight,
    Encoding,
    compress,
    compressed,
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


class Apart(CompressedWeight):
    """Stored as two tensors, size and sign."""

    def right_inverse(self, weight):
        return weight.abs(), weight.sign()

    def forward(self, size, sign):
        return size * sign


class Drawn(CompressedWeight):
    """Another weight at each look, as in stochastic binarization."""

    def __init__(self):
        super().__init__()
        self.generator, self.looks = torch.Generator().manual_seed(0), 0

    def right_inverse(self, weight):
        return weight

    def forward(self, weight):
        self.looks += 1
        return weight + torch.rand(weight.shape, generator=self.generator)


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


class Several(nn.Module):
    """Two weights of its own, and a layer below."""

    def __init__(self):
        super().__init__()
        self.a_weight, self.weight = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4, 4))
        self.fc = nn.Linear(4, 4)


def test_compressing_a_weight_leaves_the_others_of_its_module_compressed():
    names = ["a_weight", "", "fc"]
    model = compress(Several(), lambda name, layer: Doubled())
    assert [name for name, _, _ in compressed(model)] == names
    compress(model, lambda name, layer: Apart() if not name else None)
    forms = {name: type(form) for name, form, _ in compressed(model)}
    assert forms == {"a_weight": Doubled, "": Apart, "fc": Doubled}


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


@pytest.mark.parametrize("chosen", ["0", "1"])
def test_a_weight_shared_with_a_layer_left_alone_is_refused(chosen):
    model = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 3, bias=False))
    model[1].weight = model[0].weight
    before = model[0].weight.detach().clone()
    with pytest.raises(ValueError, match="layers '0' and '1' share one weight"):
        compress(model, lambda name, layer: Doubled() if name == chosen else None)
    assert model[1].weight is model[0].weight and torch.equal(model[0].weight, before)


def test_a_shared_weight_that_is_left_alone_is_no_error():
    model = tied()
    compress(model, lambda name, layer: None)
    assert model[0].weight is model[2].weight


# --- weights that their module keeps under another name ------------------------------------------------------------

LONG = {"num_layers": 2, "bidirectional": True, "batch_first": True}
RECURRENT = {
    "lstm": lambda: nn.LSTM(3, 4, **LONG),
    "lstm with projections": lambda: nn.LSTM(3, 4, proj_size=2, **LONG),
    "lstm without biases": lambda: nn.LSTM(3, 4, bias=False),
    "gru": lambda: nn.GRU(3, 4, **LONG),
    "rnn": lambda: nn.RNN(3, 4),
}
PACKED = RECURRENT | {
    "attention": lambda: nn.MultiheadAttention(4, 2, batch_first=True),
    "attention of other sizes": lambda: nn.MultiheadAttention(4, 2, kdim=3, vdim=5, batch_first=True),
    "lstm cell": lambda: nn.LSTMCell(3, 4),
    "gru cell": lambda: nn.GRUCell(3, 4),
    "encoder layer": lambda: nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, dropout=0),
    "encoder": lambda: nn.TransformerEncoder(
        nn.TransformerEncoderLayer(4, 2, 6, batch_first=True, norm_first=True, dropout=0), 2, enable_nested_tensor=False
    ),
    "decoder layer": lambda: nn.TransformerDecoderLayer(4, 2, 6, batch_first=True, dropout=0),
}


def answers(model):
    """What a network of PACKED says to two sequences of five steps."""
    x = torch.rand(2, 5, 4, generator=torch.Generator().manual_seed(0)).to(next(model.parameters()).dtype)
    if isinstance(model, nn.MultiheadAttention):
        return model(x, x[..., : model.kdim], torch.cat([x, x], -1)[..., : model.vdim], need_weights=False)[0]
    if isinstance(model, nn.TransformerDecoderLayer):
        return model(x, x.flip(1))
    if isinstance(model, nn.TransformerEncoderLayer | nn.TransformerEncoder):
        return model(x)
    x = x[..., :3]
    out = model(x[:, 0]) if isinstance(model, nn.RNNCellBase) else model(x)[0]
    return out[0] if isinstance(out, tuple) else out


def same(a, b):
    """Equal up to the last bit or two, which depends on where in memory a weight lies."""
    return torch.allclose(a, b, rtol=0, atol=1e-6)


def pair(kind):
    """A network of PACKED, and the same one in compressed form."""
    dense = given.seeded(PACKED[kind])
    return dense, compress(copy.deepcopy(dense), lambda name, layer: Doubled())


def test_packed_weights_have_the_names_of_their_parameters():
    names = {kind: [name for name, _ in layers(build())] for kind, build in PACKED.items()}
    assert names["attention"] == ["in_proj_weight", "out_proj"]
    assert names["attention of other sizes"] == ["k_proj_weight", "q_proj_weight", "v_proj_weight", "out_proj"]
    assert names["rnn"] == ["weight_hh_l0", "weight_ih_l0"] and names["gru cell"] == ["weight_hh", "weight_ih"]
    assert names["encoder layer"] == ["self_attn.in_proj_weight", "self_attn.out_proj", "linear1", "linear2"]
    for kind, build in PACKED.items():
        model = build()
        matrices = {name.removesuffix(".weight") for name, p in model.named_parameters() if p.dim() > 1}
        assert set(names[kind]) == matrices


def test_what_is_no_layers_weight_is_not_among_the_layers():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.class_token = nn.Parameter(torch.zeros(1, 1, 4))
            self.w = nn.Parameter(torch.ones(4, 4))
            self.mixing_weight = nn.Parameter(torch.ones(4, 4))
            self.weight_bias = nn.Parameter(torch.ones(4))
            self.no_weight = nn.Parameter(torch.ones(0, 4))
            self.norms = nn.ModuleList([nn.LayerNorm((4, 4)), nn.RMSNorm((4, 4)), nn.BatchNorm2d(4), nn.PReLU(4)])
            self.bilinear = nn.Bilinear(2, 3, 4)

    assert [name for name, _ in layers(Own())] == ["mixing_weight", "bilinear"]


def test_a_layer_that_has_no_weight_yet_is_named():
    with pytest.raises(ValueError, match="layer '1' has no weights before it has seen an input"):
        list(layers(nn.Sequential(nn.ReLU(), nn.LazyLinear(3))))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", PACKED)
def test_packed_weights_compute_and_learn_like_dense_ones(kind, training):
    dense, model = (network.train(training) for network in pair(kind))
    assert all(compressed_form(layer) for _, layer in layers(model))
    with torch.no_grad():  # where torch takes its fast path
        assert same(answers(model), answers(dense))
    answers(model).square().sum().backward()
    answers(dense).square().sum().backward()
    for (name, layer), (_, plain) in zip(layers(model), layers(dense), strict=True):
        ((stored,), expected) = compressed_form(layer)[1], plain.weight.grad
        assert torch.allclose(stored.grad, 2 * expected, atol=1e-6), name  # weight = 2 stored
    steps = torch.optim.SGD(model.parameters(), lr=0.1)
    steps.step()
    assert not same(answers(model), answers(dense))


@pytest.mark.parametrize("kind", PACKED)
def test_packed_weights_survive_copies_types_and_decompression(kind):
    dense, model = (network.eval() for network in pair(kind))
    expected = answers(model)  # a forward pass first: what it leaves behind must not stand in the way
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for value in twin.state_dict().values():
            value.zero_()
    assert not same(answers(twin), expected)
    twin.load_state_dict(model.state_dict())
    assert same(answers(twin), expected) and same(answers(model), expected)
    assert answers(twin.double()).dtype == torch.float64
    decompress(twin)
    assert twin.state_dict().keys() == dense.state_dict().keys()
    answers(twin).sum().backward()
    assert all(layer.weight.grad is not None for _, layer in layers(twin))
    assert all(compressed_form(layer) for _, layer in layers(model)), "the original is still compressed"
    assert same(answers(decompress(model)), expected)
    answers(model).sum().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert not same(answers(model), expected), "it computes with its parameters again"


@pytest.mark.parametrize("kind", RECURRENT)
def test_a_second_technique_may_take_some_of_the_weights_of_a_copy(kind):
    dense, first = pair(kind)
    second = compress(copy.deepcopy(first), lambda name, layer: Apart() if name == "weight_hh_l0" else None)
    third = compress(copy.deepcopy(dense), lambda name, layer: Apart() if name == "weight_ih_l0" else None)
    compress(copy.deepcopy(third), lambda name, layer: Doubled())
    for model in (first, second, third):
        assert same(answers(model), answers(dense))
    kinds = {name: type(compressed_form(layer)[0]) for name, layer in layers(second)}
    assert kinds.pop("weight_hh_l0") is Apart and set(kinds.values()) == {Doubled}
    assert [name for name, layer in layers(third) if compressed_form(layer)] == ["weight_ih_l0"]


def test_compressed_weights_are_found_without_computing_them():
    model = compress(nn.Sequential(nn.Linear(3, 4), nn.LSTM(4, 2)), lambda name, layer: Drawn() if name else None)
    looks = [form.looks for _, form, _ in compressed(model)]
    assert [name for name, _, _ in compressed(model)] == ["0", "1.weight_hh_l0", "1.weight_ih_l0"]
    assert [form.looks for _, form, _ in compressed(model)] == looks


def test_a_packed_weight_is_no_layer():
    model = nn.TransformerEncoderLayer(4, 2, 6)
    packed = weights.weight_named(model, "self_attn.in_proj_weight")
    assert isinstance(packed, weights.PackedWeight) and not isinstance(packed, nn.Module) and packed.bias is None
    assert packed.weight is model.self_attn.in_proj_weight
    with pytest.raises(ValueError, match=r"'self_attn\.in_proj_weight' is a weight of MultiheadAttention"):
        weights.layer_named(model, "self_attn.in_proj_weight")
    with given.refused(model, "'self_attn.in_proj_weight' is a weight of MultiheadAttention"):
        weights.replace(model, "self_attn.in_proj_weight", nn.Linear(4, 4))


# --- before anything is changed ------------------------------------------------------------------------------------


def test_a_form_that_refuses_the_second_layer_leaves_the_first_alone():
    class Narrow(Doubled):
        def right_inverse(self, weight):
            if weight.abs().max() > 9:
                raise ValueError("a weight is above 9")
            return weight / 2

    model = nn.Sequential(nn.Linear(2, 2), nn.LSTM(2, 2))
    nn.init.constant_(model[1].weight_ih_l0, 10.0)
    with given.refused(model, r"layer '1.weight_ih_l0': a weight is above 9"):
        compress(model, lambda name, layer: Narrow())


def test_a_form_of_another_type_is_refused_before_anything_changes():
    class Single(Doubled):
        def right_inverse(self, weight):
            return weight.float()

    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2).double())
    with given.refused(model, "layer '1' has weights of torch.float64, which Single does not take"):
        compress(model, lambda name, layer: Single())


def test_weights_that_are_computed_from_others_are_refused():
    for wrap in (lambda layer: prune.identity(layer, "weight"), nn.utils.parametrizations.weight_norm):
        model = nn.Sequential(nn.Linear(2, 2), wrap(nn.Linear(2, 2)))
        assert [name for name, _ in layers(model)] == ["0", "1"]
        with given.refused(model, "layer '1' (is computed from other tensors|cannot be compressed: Linear computes)"):
            compress(model, lambda name, layer: Doubled())


@pytest.mark.parametrize("dtype", [torch.complex64, torch.int8])
def test_numbers_that_are_no_floats_are_refused(dtype):
    layer = nn.Linear(2, 2)
    layer.weight = nn.Parameter(torch.ones(2, 2, dtype=dtype), requires_grad=False)
    with given.refused(layer, f"layer 'Linear' are {dtype}: floating-point numbers are needed"):
        compress(layer, lambda name, layer: Doubled())


@pytest.mark.parametrize("form", [Doubled, Apart])
@pytest.mark.parametrize("trained", [True, False])
def test_what_is_frozen_stays_frozen(form, trained):
    layer = nn.Linear(3, 3)
    layer.weight.requires_grad_(trained)
    compress(layer, lambda name, layer: form())
    assert all(tensor.requires_grad == trained for tensor in compressed_form(layer)[1])
    with torch.no_grad():
        decompress(layer)
    assert isinstance(layer.weight, nn.Parameter) and layer.weight.requires_grad == trained and layer.bias.requires_grad


# --- other parametrizations, names, replacing ----------------------------------------------------------------------


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


def test_a_layer_that_its_owner_reads_keeps_a_weight_when_replaced():
    model = nn.TransformerEncoderLayer(4, 2, 6)
    with given.refused(model, "layer 'linear1' cannot be replaced: TransformerEncoderLayer reads its weight"):
        weights.replace(model, "linear1", nn.Sequential(nn.Linear(4, 2), nn.Linear(2, 6)))
    new = nn.Linear(4, 6)
    assert weights.replace(model, "linear1", new).linear1 is new


@pytest.mark.parametrize("training", [True, False])
def test_a_compressed_model_stays_in_its_mode(training):
    model = nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4)).train(training)
    assert {module.training for module in magnitude.prune(model, density=0.5).modules()} == {training}
