"""Each deletion against the constrained minimum, the inverse against inversion, the layers against least squares."""

import copy
from itertools import pairwise

import given
import pytest
import torch
from torch import nn

from lib import models, training
from lib.datasets import Split
from lib.pruning import magnitude
from lib.pruning import optimal_brain_surgeon as surgeon
from lib.pruning.shared import gauss_newton
from lib.weights import decompress, layers


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def split(*shape, classes=3):
    return given.split(*shape, classes=classes, labels="in turn")


def network(seed=0, inputs=4, hidden=3, classes=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, classes)).double()


@pytest.fixture
def bowl():
    a = randn(8, 8)
    return a @ a.T + 0.1 * torch.eye(8, dtype=torch.float64), randn(8, seed=1)


def constrained(h, w, chosen):
    """The minimum of (v - w)ᵀ H (v - w) / 2 under v = 0 at the chosen, by the normal equations of the rest."""
    rest = torch.tensor([i for i in range(len(w)) if i not in chosen.tolist()])
    v = torch.zeros_like(w)
    v[rest] = torch.linalg.solve(h[rest][:, rest], (h @ w)[rest])
    return v


@pytest.mark.parametrize("chosen", [[0], [5], [1, 4], [7, 2, 3]])
def test_a_deletion_reaches_the_constrained_minimum_at_the_predicted_cost(bowl, chosen):
    h, w = bowl
    chosen = torch.tensor(chosen)
    moved, inverse, cost = surgeon.remove(w, torch.linalg.inv(h), chosen)
    torch.testing.assert_close(moved, constrained(h, w, chosen))
    assert (moved[chosen] == 0).all()
    assert float((moved - w) @ h @ (moved - w) / 2) == pytest.approx(float(cost), rel=1e-11)
    rest = torch.tensor([i for i in range(8) if i not in chosen.tolist()])
    torch.testing.assert_close(inverse[rest][:, rest], torch.linalg.inv(h[rest][:, rest]))  # the downdate
    assert (inverse[chosen] == 0).all() and (inverse[:, chosen] == 0).all()


def test_surgery_never_costs_more_than_damage_and_both_agree_on_a_diagonal(bowl):
    h, w = bowl
    for matrix in (h, torch.diag(h.diagonal())):
        inverse = torch.linalg.inv(matrix)
        by_surgery, by_damage = w**2 / (2 * inverse.diagonal()), matrix.diagonal() * w**2 / 2
        assert (by_surgery <= by_damage * (1 + 1e-12)).all()
        moved, _, cost = surgeon.remove(w, inverse, torch.tensor([3]))
        assert float(cost) == pytest.approx(float(by_surgery[3]), rel=1e-12)
    others = torch.arange(8) != 3
    assert torch.equal(moved[others], w[others])  # on the diagonal nothing else moves


def test_two_deletions_in_a_row_are_one_of_both(bowl):
    h, w = bowl
    once, inverse_once, cost_once = surgeon.remove(w, torch.linalg.inv(h), torch.tensor([2, 6]))
    first, inverse, cost = surgeon.remove(w, torch.linalg.inv(h), torch.tensor([6]))
    second, inverse, more = surgeon.remove(first, inverse, torch.tensor([2]))
    torch.testing.assert_close(second, once)
    torch.testing.assert_close(inverse, inverse_once)
    assert float(cost + more) == pytest.approx(float(cost_once))


def test_surgery_on_a_linear_model_follows_brute_force_step_by_step():
    """Against the exact matrix, inverted again after each deletion."""
    model, data = nn.Linear(4, 3).double(), split(9, 4)
    nn.init.normal_(model.weight, generator=torch.Generator().manual_seed(0))
    w = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    rows = surgeon.gauss_newton_rows(model, data)
    h = rows.T @ rows / 9 + 1e-3 * torch.eye(15, dtype=torch.float64)
    surgery = surgeon.operate(model, data, delete=6, alpha=1e-3, refresh=100)
    alive, deleted, v = list(range(15)), [], w.clone()
    for _ in range(6):
        inverse = torch.linalg.inv(h[alive][:, alive])
        costs = v[alive] ** 2 / (2 * inverse.diagonal())
        deleted.append(alive.pop(int(costs.argmin())))
        v = constrained(h, w, torch.tensor(deleted))  # the updates of all steps are that of the set
    assert surgery.deleted.tolist() == deleted
    torch.testing.assert_close(nn.utils.parameters_to_vector(model.parameters()).detach(), v)
    assert float((v - w) @ h @ (v - w) / 2) == pytest.approx(float(surgery.costs.sum()), rel=1e-9)
    flat = torch.cat([mask.flatten() for mask in surgery.masks.values()])
    assert sorted(deleted) == (~flat).nonzero().flatten().tolist()
    assert (v[~flat] == 0).all()


@pytest.mark.parametrize("refresh", [1, 3])
def test_deletions_go_on_from_masks_and_leave_what_is_gone_alone(refresh):
    model, data = network(), split(7, 4)
    first = surgeon.operate(model, data, delete=5, alpha=1e-3, refresh=refresh)
    second = surgeon.operate(model, data, delete=5, alpha=1e-3, refresh=refresh, masks=first.masks)
    assert not set(first.deleted.tolist()) & set(second.deleted.tolist())
    assert sum(int(m.sum()) for m in second.masks.values()) == 17
    for name, p in model.named_parameters():
        assert (p[~second.masks[name]] == 0).all()


def test_the_path_goes_down_one_by_one_to_minima_and_is_nested():
    model, data = network(hidden=2), split(12, 4)
    for by in ("surgeon", "damage", "magnitude"):
        stages = surgeon.path(model, data, weight_decay=1e-2, choose_by=by)
        assert [s.size for s in stages] == list(range(stages[0].size, 0, -1))
        for big, small in pairwise(stages):
            assert all(not (small.masks[n] & ~big.masks[n]).any() for n in big.masks)
        middle = stages[8]
        surgeon.put(model, middle)
        for name, p in model.named_parameters():
            assert (p[~middle.masks[name]] == 0).all()
        loss = nn.functional.cross_entropy(model(data.images.double()), data.labels)
        decay = sum(p.square().sum() for p in model.parameters()) * 1e-2 / 2
        gradients = torch.autograd.grad(loss + decay, list(model.parameters()))
        for g, (name, _) in zip(gradients, model.named_parameters(), strict=True):
            assert g[middle.masks[name]].abs().max() < 1e-4 if middle.masks[name].any() else True
        assert loss.item() == pytest.approx(middle.loss, rel=1e-9)


def test_the_shortest_description_asks_neither_test_nor_size_alone():
    def stage(size, loss, error):
        return surgeon.Stage({"w": torch.arange(9) < size}, torch.zeros(9), loss, error)

    stages = [stage(9, 0.01, 0.0), stage(5, 0.02, 0.0), stage(4, 0.05, 0.0), stage(2, 0.9, 30.0)]
    assert surgeon.shortest(stages, 100).size == 4  # 5 describes it in the fewest nats; 4 has no more errors
    assert surgeon.shortest(stages[:2], 100).size == 5
    assert surgeon.shortest(stages, 1).size == 4


# -- Layer by layer ----------------------------------------------------------------------------------------------------


def test_each_row_is_the_least_squares_solution_on_its_support():
    layer, data = nn.Linear(6, 3).double(), split(40, 6)
    data = Split(data.images.double(), data.labels)
    before, x = layer(data.images).detach(), torch.cat([data.images, torch.ones(40, 1)], dim=1).double()
    mask = surgeon.operate_by_layer(layer, data, density=0.5, alpha=1e-12)[""]
    assert mask.sum() == 9 and (layer.weight[~mask] == 0).all()
    for row in range(3):
        support = torch.cat([mask[row], torch.tensor([True])])
        expected = torch.linalg.lstsq(x[:, support], before[:, row, None]).solution.flatten()
        solved = torch.cat([layer.weight[row], layer.bias[row, None]]).detach()[support]
        torch.testing.assert_close(solved, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular", "replicate"])
@pytest.mark.parametrize("padding", [1, (0, 1), "same"])
def test_a_convolution_gets_the_best_weights_whatever_its_padding(mode, padding):
    layer = given.seeded(lambda: nn.Conv2d(2, 3, 3, padding=padding, padding_mode=mode).double())
    images, before = randn(20, 2, 5, 5), copy.deepcopy(layer)
    mask = surgeon.operate_by_layer(layer, Split(images, torch.zeros(20).long()), density=0.5, alpha=1e-9)[""]
    wanted = before(images).detach()
    for row, keep in enumerate(mask.flatten(1)):
        basis = []  # what each weight that is kept adds to the output, by the layer itself
        for place in keep.nonzero().flatten():
            one = copy.deepcopy(before)
            one.weight.data.zero_().flatten(1)[row, place] = 1.0
            one.bias.data.zero_()
            basis.append(one(images)[:, row].detach().flatten())
        basis.append(torch.ones_like(basis[0]))
        best = torch.linalg.lstsq(torch.stack(basis, dim=1), wanted[:, row].reshape(-1, 1)).solution.flatten()
        found = torch.cat([layer.weight.detach().flatten(1)[row, keep], layer.bias.detach()[row, None]])
        torch.testing.assert_close(found, best, rtol=1e-5, atol=1e-6)


def test_a_layer_that_is_used_twice_is_pruned_for_both_uses():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 5)

        def forward(self, x):
            return self.layer(input=torch.tanh(self.layer(x)))

    model, images = given.seeded(lambda: Twice().double()), randn(40, 5)
    first = torch.tanh(model.layer(images)).detach()
    both = torch.cat([images, first])  # all that the layer reads
    alone = copy.deepcopy(model.layer)
    mask = surgeon.operate_by_layer(model, Split(images, torch.zeros(40).long()), density=0.5, alpha=1e-4)["layer"]
    expected = surgeon.operate_by_layer(alone, Split(both, torch.zeros(80).long()), density=0.5, alpha=0.5e-4)[""]
    assert torch.equal(mask, expected)
    torch.testing.assert_close(model.layer.weight, alone.weight)


def test_a_compressed_layer_is_pruned_as_its_dense_one():
    dense = nn.Linear(6, 4)
    packed = magnitude.prune(copy.deepcopy(dense), density=0.7)
    plain = decompress(copy.deepcopy(packed))
    data = split(30, 6)
    masks = [surgeon.operate_by_layer(layer, data, density=0.5)[""] for layer in (packed, plain)]
    assert torch.equal(*masks) and torch.equal(packed.weight, plain.weight)
    assert (packed.weight[~masks[0]] == 0).all() and packed.weight.count_nonzero() == 12


def test_density_one_changes_no_output_and_lower_ones_less_than_zeroing():
    data = split(30, 1, 28, 28, classes=10)
    plain = models.lenet5(0)
    with torch.no_grad():
        before = plain(data.images)
        same, pruned, zeroed = models.lenet5(0), models.lenet5(0), models.lenet5(0)
        surgeon.operate_by_layer(same, data, density=1.0)
        assert torch.equal(same(data.images), before)
        masks = surgeon.operate_by_layer(pruned, data, density={"conv2": 0.3})
        zeroed.conv2.weight *= masks["conv2"]
        assert list(masks) == ["conv2"] and masks["conv2"].sum() == round(0.3 * 25_000)
        assert (pruned(data.images) - before).square().sum() < 0.5 * (zeroed(data.images) - before).square().sum()


def test_inputs_that_are_always_zero_go_first():
    layer, data = nn.Linear(6, 4), split(40, 6)
    data.images[:, [1, 3]] = 0.0
    mask = surgeon.operate_by_layer(layer, data, density=4 / 6, alpha=1e-12)[""]
    assert not mask[:, [1, 3]].any() and mask[:, [0, 2, 4, 5]].all()


def test_models_of_others_are_pruned_layer_by_layer():
    from lib.vision import torchvision

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torchvision.models.mobilenet_v2(num_classes=3, width_mult=0.25).eval()
    names = ["features.0.0", "features.1.conv.0.0", "classifier.1"]  # strided, depthwise, linear
    masks = surgeon.operate_by_layer(model, split(4, 3, 32, 32), density=dict.fromkeys(names, 0.5))
    for name, layer in layers(model):
        if name in names:
            assert masks[name].sum() == round(0.5 * layer.weight.numel()) and (layer.weight[~masks[name]] == 0).all()
    assert torch.isfinite(model(torch.rand(1, 3, 32, 32))).all()


def test_every_module_keeps_its_mode():
    model, data = nn.Sequential(nn.Linear(4, 3), nn.Dropout(), nn.Linear(3, 3)).train(), split(7, 4)
    model[1].eval()
    surgeon.operate(model, data, delete=3, alpha=1e-3)
    surgeon.operate_by_layer(model, data, density=0.5)
    assert [module.training for module in model.modules()] == [True, True, False, True]


def attention():
    from lib.vision import torchvision

    shape = {"image_size": 8, "patch_size": 4, "num_layers": 1, "num_heads": 2, "hidden_dim": 8, "mlp_dim": 16}
    return torchvision.models.VisionTransformer(num_classes=3, **shape)


def test_a_transformer_is_refused_by_name_and_its_other_layers_are_pruned():
    model, data = given.seeded(attention), split(6, 3, 8, 8)
    before = copy.deepcopy(model.state_dict())
    block = "encoder.layers.encoder_layer_0"
    for density in (0.5, {f"{block}.self_attention.out_proj": 0.5}):
        with pytest.raises(ValueError, match=rf"{block}.self_attention.(in_proj_weight|out_proj)"):
            surgeon.operate_by_layer(model, data, density=density)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    names = ["conv_proj", f"{block}.mlp.0", f"{block}.mlp.3"]
    masks = surgeon.operate_by_layer(model, data, density=dict.fromkeys(names, 0.5))
    for name in names:
        assert (model.get_submodule(name).weight[~masks[name]] == 0).all()
    assert torch.isfinite(model(data.images)).all()


def test_half_precision_follows_double():
    model, data = network(), split(7, 4)
    half = copy.deepcopy(model).bfloat16()
    exact = surgeon.operate(copy.deepcopy(half).double(), data, delete=5, alpha=1e-3, refresh=100)
    found = surgeon.operate(half, data, delete=5, alpha=1e-3, refresh=100)
    assert torch.equal(found.deleted, exact.deleted)
    assert all(p.dtype == torch.bfloat16 for p in half.parameters())


def test_tensors_are_made_where_the_model_is():
    model, data = network(), split(7, 4)
    other = copy.deepcopy(model)
    with torch.device("meta"):  # what is made without a device would have no values
        surgery = surgeon.operate(model, data, delete=3, alpha=1e-3)
        surgeon.operate_by_layer(model, data, density=0.5)
    assert torch.equal(surgery.deleted, surgeon.operate(other, data, delete=3, alpha=1e-3).deleted)
    surgeon.operate_by_layer(other, data, density=0.5)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


# -- Bad input ---------------------------------------------------------------------------------------------------------


def test_bad_input_is_refused_and_nothing_changes():
    model, data = network(), split(7, 4)
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    doubles = Split(data.images.double(), data.labels)
    for call, message in (
        (
            lambda: surgeon.operate(models.lenet_300_100(), data, delete=1, alpha=1e-3),
            "266,610 parameters are too many",
        ),
        (lambda: surgeon.operate(model, split(7, 5), delete=1, alpha=1e-3), r"does not take images of shape \(1, 5\)"),
        (lambda: surgeon.operate(model, data, delete=28, alpha=1e-3), r"delete must be in 0\.\.27"),
        (lambda: surgeon.operate(model, data, delete=1, alpha=1e-3, refresh=0), "refresh 1 or more"),
        (
            lambda: surgeon.operate(model, data, delete=1, alpha=1e-3, masks={"0.wait": doubles.labels}),
            "no weight '0.wait'",
        ),
        (lambda: surgeon.operate(model, data, delete=1, alpha=1e-3, masks={"0.bias": doubles.labels}), r"shape \(3,\)"),
        (lambda: surgeon.operate(model, data, delete=1, alpha=0), "alpha must be above 0"),
        (lambda: surgeon.path(model, data, weight_decay=1e-3, choose_by="luck"), "not 'luck'"),
        (lambda: surgeon.path(model, data, weight_decay=0), "weight_decay must be above 0"),
        (lambda: surgeon.operate_by_layer(model, doubles.first(0), density=0.5), "at least one sample"),
        (lambda: surgeon.operate_by_layer(model, doubles, density=1.5), r"density must be in \(0, 1\], not 1.5"),
        (
            lambda: surgeon.operate_by_layer(model, doubles, density={"9": 0.5}),
            "no layer '9' to prune: the layers are 0, 2",
        ),
        (lambda: surgeon.operate_by_layer(model, doubles, density=0.5, alpha=0), "alpha must be above 0"),
        (lambda: surgeon.operate_by_layer(model, doubles, density=0.5, batch_size=0), "batch_size 1 or more"),
        (lambda: surgeon.operate_by_layer(model, doubles, density=0.5, at_once=1), r"at_once in \[0, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
    assert torch.equal(nn.utils.parameters_to_vector(model.parameters()), before)
    with pytest.raises(ValueError, match="at least one sample"):
        training.minimize(model, data.first(0), weight_decay=0.1)


class Odd(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


def unbatched():
    class Unbatched(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(1, 3, 2)

        def forward(self, x):
            return torch.stack([self.conv(image).mean(dim=(1, 2)) for image in x])

    return Unbatched()


def tied():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    return model


def infinite():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3))
    model[0].bias.data[1] = float("inf")
    return model


@pytest.mark.parametrize(
    ("build", "shape", "says"),
    [
        (lambda: Odd(4, 3), (4,), "layer '', Odd, must compute as nn.Linear or nn.Conv2d does"),
        (unbatched, (1, 4, 4), r"layer 'conv' must read \(n, channels, height, width\), not \(1, 4, 4\)"),
        (tied, (4,), "layers '0' and '1' share one weight"),
        (infinite, (4,), "what layer '1' reads holds NaN or infinity"),
        (lambda: nn.LSTM(4, 3), (4,), "weight 'weight_hh_l0' belongs to no layer that is called"),
        (lambda: nn.Tanh(), (4,), "Tanh has no linear or 2-d convolution layer"),
    ],
)
def test_layers_that_cannot_be_pruned_by_rows_are_named(build, shape, says):
    model = build()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=says):
        surgeon.operate_by_layer(model, split(5, *shape), density=0.5)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_hooks for module in model.modules())


def test_a_layer_that_would_take_hours_is_refused_before_anything_runs():
    model = nn.Sequential(nn.Conv2d(512, 512, 3), nn.Flatten())
    model.register_forward_hook(lambda *_: pytest.fail("it ran"))
    with pytest.raises(ValueError, match=r"layer '0' of 512 rows and 4,608 inputs takes about 1.9e\+13 multi"):
        surgeon.operate_by_layer(model, split(2, 512, 3, 3), density=0.5)
    small = nn.Linear(6, 4)
    with pytest.raises(ValueError, match="name the other layers in density, or raise at_most"):
        surgeon.operate_by_layer(small, split(2, 6), density=0.5, at_most=100)


def test_a_failure_on_the_way_brings_the_parameters_back(monkeypatch):
    model, data = network(), split(7, 4)
    before = nn.utils.parameters_to_vector(model.parameters()).detach().clone()
    right, calls = gauss_newton.parts, []

    def parts(model, split):
        calls.append(1)
        if len(calls) == 3:  # the check, the first matrix, the second
            raise ValueError("the network's logits hold NaN")
        return right(model, split)

    monkeypatch.setattr(gauss_newton, "parts", parts)
    with pytest.raises(ValueError, match="hold NaN"):
        surgeon.operate(model, data, delete=4, alpha=1e-3, refresh=2)
    assert torch.equal(nn.utils.parameters_to_vector(model.parameters()), before)
