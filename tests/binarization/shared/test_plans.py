"""Which layers read signs, in whose place, and that no sign is constant: every kind of network is right, or refused."""

import copy

import given
import pytest
import torch
from given_binarization import alive, converted_alike, snapshot, unchanged
from torch import nn
from torch.nn import functional

from lib.binarization import abc_net, bnn, gxnor_dst, xnor_net
from lib.binarization.shared.plans import check_signs, planned
from lib.binarization.shared.signs import Binarized, SignActivation
from lib.vision import torchvision
from lib.weights import layers

METHODS = {
    "bnn": bnn.binarize,
    "xnor": xnor_net.binarize,
    "gxnor": gxnor_dst.ternarize,
    "abc": lambda model, **more: abc_net.binarize(model, bases=1, activation_bases=2, **more),
}
REPLACING = {name: METHODS[name] for name in ("bnn", "gxnor")}


def plan(model, names=None, remove=True, **more):
    return planned(model, names, activation=SignActivation(), remove=remove, **more)


def parts(model, kind):
    return [name for name, module in model.named_modules() if isinstance(module, kind)]


# -- in the place of which activation ----------------------------------------------------------------------------------

ACTIVATIONS = [
    nn.ReLU,
    nn.ReLU6,
    nn.Sigmoid,
    nn.Hardsigmoid,
    nn.Softplus,
    nn.LogSigmoid,
    nn.SiLU,
    nn.GELU,
    nn.Hardswish,
]
ACTIVATIONS += [nn.Mish, nn.ELU, nn.LeakyReLU, nn.PReLU, lambda: nn.Hardtanh(0, 1), lambda: nn.Threshold(0.2, 0.0)]


@pytest.mark.parametrize("method", REPLACING)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_sign_takes_the_place_of_every_activation_that_is_not_odd(activation, method):
    def build():
        first = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), activation(), nn.MaxPool2d(2), nn.Dropout())
        return first.extend([nn.Conv2d(8, 9, 3), nn.BatchNorm2d(9), nn.Flatten(), activation(), nn.Linear(36, 4)])

    model = REPLACING[method](given.seeded(build))
    assert type(model[2]) is nn.Identity and type(model[8]) is nn.Identity
    assert [type(model[i].norm) for i in (5, 9)] == [nn.Identity] * 2
    assert alive(model, given.split(4, 3, 10, 10).images)


@pytest.mark.parametrize("activation", [nn.Tanh, nn.Hardtanh, nn.Softsign, nn.Tanhshrink])
def test_odd_activations_stay(activation):
    model = bnn.binarize(nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), activation(), nn.Linear(8, 3)))
    assert type(model[2]) is activation and alive(model, torch.randn(9, 5))


def test_a_threshold_that_an_odd_activation_never_reaches_is_refused():
    def build():
        return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Hardtanh(-0.25, 0.25), nn.Linear(8, 3))

    assert plan(build()).readers == ["3"]  # of a sign both values are there
    with given.refused(model := build(), r"layer '3' only reads values from -0.25 to 0.25, .* -0.5 and 0.5, for exam"):
        gxnor_dst.ternarize(model)
    assert alive(gxnor_dst.ternarize(build(), r=0.1), torch.randn(9, 5))


def test_activations_in_a_row_are_all_replaced_as_far_as_needed():
    model = nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.1), nn.ReLU6(), nn.Linear(8, 3))
    assert plan(model).removed == ["4", "2"]


def test_the_activation_before_an_own_norm_is_replaced_too():
    for norm in (nn.BatchNorm1d, nn.LayerNorm):
        model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), norm(8), nn.Linear(8, 3))
        assert plan(model).removed == ["1"] and plan(model).normed == ([] if norm is nn.BatchNorm1d else ["3"])


class Branches(nn.Module):
    """Two branches; the activation that the right one reads is not the one that is listed before it."""

    def __init__(self):
        super().__init__()
        self.c0, self.b0, self.relu = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        self.left, self.bl, self.relu_l = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        self.right, self.br = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.own, self.fc = nn.ReLU(), nn.Linear(8, 10)

    def forward(self, x):
        x = self.b0(self.c0(x))
        y = self.relu(x)
        z = self.own(x) if hasattr(self, "apart") else y
        return self.fc((self.relu_l(self.bl(self.left(y))) + self.br(self.right(z))).mean((2, 3)))


@pytest.mark.parametrize("method", REPLACING)
def test_the_activation_of_another_branch_is_never_touched(method):
    with given.refused(
        model := Branches(), "sign of layer 'right' would .* the activation 'relu', but 'left' reads its values"
    ):
        REPLACING[method](model, names=["right"])
    both = REPLACING[method](Branches(), names=["right", "left"])
    assert parts(both, nn.ReLU) == ["relu_l", "own"] and isinstance(both.relu, nn.Identity)
    model = Branches()
    model.apart = True
    model = REPLACING[method](model, names=["right"])
    assert parts(model, nn.ReLU) == ["relu", "relu_l"] and isinstance(model.own, nn.Identity)
    assert alive(model, given.split(4, 3, 8, 8).images)


class Twice(nn.Module):
    """One ReLU module at two places, as in torchvision's residual blocks."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 3)
        self.n, self.m, self.relu = nn.BatchNorm1d(6), nn.BatchNorm1d(6), nn.ReLU()

    def forward(self, x):
        return self.c(self.relu(self.m(self.b(self.relu(self.n(self.a(x)))))))


def test_a_module_used_twice_goes_only_if_both_lead_to_signs():
    with given.refused(model := Twice(), "layer 'b' would replace the activation 'relu', but 'c' reads its values too"):
        bnn.binarize(model, names=["b"])
    model = bnn.binarize(Twice())
    assert isinstance(model.relu, nn.Identity) and alive(model, torch.randn(9, 4))


def test_squeezenet_replaces_what_its_expand_layers_read():
    model = torchvision.models.squeezenet1_1(num_classes=4)
    before = parts(model, nn.ReLU)
    with given.refused(model, "activation 'features.3.squeeze_activation', but 'features.3.expand1x1' reads"):
        bnn.binarize(model, names=["features.3.expand3x3"])
    model = bnn.binarize(model, names=["features.3.expand3x3", "features.3.expand1x1"])
    assert set(before) - set(parts(model, nn.ReLU)) == {"features.3.squeeze_activation"}


class Functional(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.a, self.n, self.b, self.function = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3), function

    def forward(self, x):
        return self.b(self.function(self.n(self.a(x))))


FUNCTIONS = {
    "relu": functional.relu,
    "hardtanh": lambda x: functional.hardtanh(x, 0.0, 1.0),
    "sigmoid": torch.sigmoid,
    "silu": functional.silu,
    "clamp": lambda x: x.clamp(min=0),
}


@pytest.mark.parametrize("method", REPLACING)
@pytest.mark.parametrize("kind", FUNCTIONS)
def test_an_activation_that_is_called_as_a_function_is_refused(kind, method):
    for example in (None, torch.randn(5, 4)):
        with given.refused(
            model := Functional(FUNCTIONS[kind]), f"layer 'b' reads what the function {kind} gives, whose"
        ):
            REPLACING[method](model, example=example)


@pytest.mark.parametrize("function", [torch.abs, torch.square, lambda x: x * x + 1, lambda x: torch.where(x > 0, x, 0)])
def test_other_functions_between_norm_and_sign_are_normalized_again(function):
    for method in METHODS.values():
        model = method(Functional(function), names=["a", "b"])
        assert isinstance(model.b.norm, nn.BatchNorm1d) and alive(model, torch.randn(30, 4))


def test_xnor_without_its_norm_is_refused_after_an_activation():
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 6), nn.Linear(6, 3))
    with given.refused(model, "layer '3' only reads values from 0 to inf"):
        xnor_net.binarize(model, norm=False)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.BatchNorm1d(6), nn.Linear(6, 6), nn.Linear(6, 3))
    model = xnor_net.binarize(model, norm=False)
    assert type(model[1]) is nn.ReLU and type(model[3].norm) is nn.Identity and alive(model, torch.randn(9, 4))


def test_abc_replaces_activations_only_where_it_is_asked_to():
    def build():
        return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 6), nn.ReLU6(), nn.Linear(6, 3))

    for asked, kinds in ((False, [nn.ReLU, nn.ReLU6]), (True, [nn.Identity, nn.ReLU6])):
        model = abc_net.binarize(build(), activation_bases=2, replace_activations=asked)
        assert [type(model[1]), type(model[3])] == kinds and alive(model, torch.randn(30, 4))
    with given.refused(model := build(), "replace_activations needs activation_bases"):
        abc_net.binarize(model, replace_activations=True)


# -- which layers, after which norm ------------------------------------------------------------------------------------


class Listed(nn.Module):
    """The layers in another order than they run."""

    def __init__(self):
        super().__init__()
        self.last, self.middle, self.first = nn.Linear(6, 3), nn.Linear(6, 6), nn.Linear(4, 6)
        self.r2, self.r1 = nn.ReLU(), nn.ReLU()

    def forward(self, x):
        return self.last(self.r2(self.middle(self.r1(self.first(x)))))


def test_the_first_layer_is_the_one_that_reads_the_input():
    assert parts(bnn.binarize(Listed()), Binarized) == ["last", "middle"]
    assert parts(gxnor_dst.ternarize(Listed()), Binarized) == ["last", "middle"]
    assert parts(xnor_net.binarize(Listed()), Binarized) == ["middle"]
    assert plan(Listed(), ["middle"]).removed == ["r1"]
    named = gxnor_dst.ternarize(Listed(), names=["first", "middle"])
    assert parts(named, Binarized) == ["middle"] and hasattr(named.first, "parametrizations")
    assert parts(bnn.binarize(Listed(), names=["first"]), Binarized) == ["first"]


class Heads(nn.Module):
    """Two inputs and two outputs."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 6)
        self.d, self.e = nn.Linear(6, 2), nn.Linear(6, 3)

    def forward(self, x):
        y = self.c(self.a(x) + self.b(x.flip(1)))
        return self.d(y), self.e(y)


def test_all_layers_at_either_end_stay_real():
    assert plan(Heads()).readers == ["c", "d", "e"]
    assert plan(Heads(), ends=("first", "last")).readers == ["c"]


def test_only_signs_that_come_from_no_norm_get_one():
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU())
    model.extend([nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()])
    model.append(nn.Linear(8, 3))
    assert plan(model).normed == ["5", "10"]  # after a layer without one; after a mean, whose values are small
    assert plan(model, norm=True).normed == ["3", "5", "10"]


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_whose_owner_reads_its_weight_is_left_alone_or_refused(method):
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    build = lambda: copy.deepcopy(nn.Sequential(nn.Linear(5, 8), layer, nn.Linear(8, 8), nn.Linear(8, 3)))  # noqa: E731
    for name in ("1.linear1", "1.linear2", "1.self_attn.out_proj"):
        owner = "MultiheadAttention" if "out" in name else "TransformerEncoderLayer"
        with given.refused(
            model := build(), f"layer '{name}' is not called in Sequential, .*its owner, a {owner}, reads"
        ):
            METHODS[method](model, names=[name])
    model = METHODS[method](build())
    assert parts(model, Binarized) == (["2"] if method in ("xnor", "abc") else ["2", "3"])
    x = torch.randn(3, 7, 5)
    assert model.train()(x).shape == model.eval()(x).shape == (3, 7, 3)


@pytest.mark.parametrize("method", METHODS)
def test_a_network_without_a_layer_that_can_read_signs_is_refused(method):
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False
    )
    for model in (encoder, nn.TransformerEncoderLayer(8, 2, 16)):
        if method != "gxnor":
            with given.refused(model, "has no layer to binarize"):
                METHODS[method](model)
    x = torch.randn(3, 7, 8)
    ternary = gxnor_dst.ternarize(encoder)  # weights alone
    assert not parts(ternary, Binarized) and ternary.eval()(x).shape == x.shape


class Reading(nn.Module):
    """Its layer is called in training mode, and its weight read in evaluation mode."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.relu, self.slope = nn.ReLU6(), nn.LeakyReLU(0.3)

    def forward(self, x):
        x = self.relu(self.a(x))
        x = self.b(x) if self.training else functional.linear(x, self.b.weight, self.b.bias)
        return self.c(self.slope(x) + self.slope.negative_slope)


def test_a_layer_that_its_owner_also_reads_is_refused():
    for method in METHODS.values():
        with given.refused(model := Reading(), "layer 'b' cannot read signs: Reading reads its weight itself, beside"):
            method(model, names=["b"])
    with given.refused(model := Reading(), "sign would replace 'slope', but Reading reads its negative_slope"):
        bnn.binarize(model, names=["c"])
    assert plan(Reading(), remove=False).readers == ["c"]


class Scaled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def test_layers_with_their_own_forward_pass_or_hooks_are_refused():
    model = nn.Sequential(nn.Linear(4, 4), Scaled(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    with given.refused(model, "layer '1' is a Scaled with a forward pass or hooks of its own"):
        xnor_net.binarize(model, names=["1"])
    assert plan(model).readers == ["2", "3"]
    model[2].register_forward_hook(lambda *_: None)
    with given.refused(model, "layer '2' is a Linear with a forward pass or hooks of its own"):
        xnor_net.binarize(model, names=["2"])
    assert plan(model).readers == ["3"]


@pytest.mark.parametrize(
    "layer", [nn.Conv1d(4, 4, 1), nn.Conv3d(4, 4, 1), nn.ConvTranspose2d(4, 4, 1), nn.Embedding(4, 4)]
)
def test_other_layers_are_refused_by_name(layer):
    model = nn.Sequential(nn.Linear(4, 4), layer, nn.Linear(4, 4))
    for method in METHODS.values():
        with given.refused(model, "no layer '1' to binarize: accepted are 0, 2$"):
            method(model, names=["1"])


# -- networks that cannot be traced ------------------------------------------------------------------------------------


class Dynamic(nn.Module):
    def __init__(self, activation=nn.ReLU):
        super().__init__()
        self.a, self.n, self.relu = nn.Linear(4, 8), nn.BatchNorm1d(8), activation()
        self.b, self.c = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        y = self.relu(self.n(self.a(x)))
        return self.c(self.b(y)) if y.sum() > -1e9 else self.c(y)


@pytest.mark.parametrize("method", METHODS)
def test_a_network_that_cannot_be_traced_is_followed_on_an_example(method):
    with given.refused(model := Dynamic(), "Dynamic cannot be traced by torch.fx .*: give an example"):
        METHODS[method](model)
    model = METHODS[method](Dynamic(), example=torch.randn(8, 4))
    assert alive(model, torch.randn(20, 4))
    assert isinstance(model.relu, nn.Identity if method in REPLACING else nn.ReLU)


@pytest.mark.parametrize("method", REPLACING)
def test_a_constant_sign_that_only_values_show_is_refused_on_an_example(method):
    for shift, sign in ((1000.0, "-1"), (-1000.0, r"\+1")):
        model = Functional(lambda x, shift=shift: x + shift)
        with given.refused(model, f"for this example no sign that layer 'b' reads is {sign}"):
            REPLACING[method](model, example=torch.randn(8, 4))


def test_the_check_of_an_example_names_the_layer():
    model = nn.Sequential(nn.ReLU(), Binarized(nn.Linear(4, 2), SignActivation()))
    with pytest.raises(ValueError, match="for this example no sign that layer '1' reads is -1: what comes before it"):
        check_signs(model, torch.randn(3, 4))
    check_signs(model[1], torch.randn(3, 4))
    with pytest.raises(ValueError, match="Sequential does not take images of shape"):
        check_signs(model, torch.randn(3, 5))


@pytest.mark.parametrize("method", METHODS)
def test_an_example_changes_nothing_that_comes_out(method):
    dense = given.seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 2, 3)))
    plain = METHODS[method](copy.deepcopy(dense))
    tried = METHODS[method](copy.deepcopy(dense), example=given.split(4, 3, 9, 9).images)
    assert str(plain) == str(tried) and given.equal(plain, tried)
    assert [m.training for m in plain.modules()] == [m.training for m in tried.modules()]


# -- networks of torchvision -------------------------------------------------------------------------------------------

SMALL_VIT = {"image_size": 64, "patch_size": 16, "num_layers": 1, "num_heads": 2, "hidden_dim": 32, "mlp_dim": 48}
NETWORKS = {  # what of it bnn and gxnor refuse
    "resnet18": None,
    "mobilenet_v2": None,
    "mobilenet_v3_small": None,
    "efficientnet_b0": None,
    "squeezenet1_1": None,
    "shufflenet_v2_x0_5": None,
    "VisionTransformer": None,
    "densenet121": "layer 'classifier' reads what the function relu gives",
    "googlenet": "layer 'conv2.conv' reads what the function relu gives",
}
# Those that are also counted on bits; the norms of xnor and abc, before each sign, are tried on few networks.
COUNTED = {"mobilenet_v3_small": ("bnn",), "squeezenet1_1": ("gxnor",), "VisionTransformer": tuple(METHODS)}
TRIED = [(name, method) for name in NETWORKS for method in REPLACING]
TRIED += [("densenet121", "xnor"), ("googlenet", "xnor"), ("VisionTransformer", "xnor"), ("VisionTransformer", "abc")]


def of_torchvision(name):
    more = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    model = getattr(torchvision.models, name)(num_classes=4, **more | (SMALL_VIT if name[0] == "V" else {}))
    if name[0] == "V":
        nn.init.normal_(model.heads.head.weight)  # which is 0 otherwise
    return model


@pytest.mark.parametrize(("name", "method"), TRIED)
def test_networks_of_torchvision_have_no_constant_sign_or_are_refused_by_name(name, method):
    model = given.seeded(lambda: of_torchvision(name))
    if NETWORKS[name] and method in REPLACING:
        before = snapshot(model)
        with pytest.raises(ValueError, match=NETWORKS[name]):
            METHODS[method](model)
        return assert_unchanged(model, before)
    count = len(list(layers(model)))
    model = METHODS[method](model)
    images = given.split(8 if name[0] == "V" else 2, 3, 64, 64).images.contiguous(memory_format=torch.channels_last)
    assert len(parts(model, Binarized)) >= count - 5  # all but the ends, and what attention reads itself
    assert alive(model, images)
    if method in COUNTED.get(name, ()):
        assert converted_alike(model, images, exact=method != "abc")


def assert_unchanged(model, before):
    assert unchanged(model, before)
