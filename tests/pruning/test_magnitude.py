"""Masks against their definition, and survivors against everything that training may do."""

import copy
import math

import given
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from lib import models, training
from lib.coding import gaps
from lib.pruning import magnitude
from lib.pruning.magnitude import PrunedWeight, masks, prune
from lib.weights import decompress, layers


@pytest.fixture
def split():
    return given.split(48, 1, 28, 28)


class Mixed(nn.Sequential):
    """Depthwise without bias, normalization, grouped, one channel."""

    def __init__(self):
        torch.manual_seed(0)
        parts = [nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6, bias=False)]
        super().__init__(*parts, nn.Conv2d(6, 4, 3, groups=2), nn.Flatten(), nn.Linear(4 * 22 * 22, 10))


def dense(model):
    return {name: layer.weight.detach().clone() for name, layer in layers(model)}


@pytest.mark.parametrize("s", [0.5, 1.0, 1.5, 1.75, 2.0])
def test_share_pruned_of_normal_weights_is_the_error_function(s):
    layer = nn.Linear(600, 600)
    nn.init.normal_(layer.weight, std=0.3, generator=torch.Generator().manual_seed(0))
    removed = 1 - masks(layer, quality=s)[""].float().mean().item()
    assert removed == pytest.approx(math.erf(s / math.sqrt(2)), abs=0.005)


def test_quality_zero_prunes_nothing():
    model = Mixed()
    before = dense(model)
    prune(model, quality=0)
    assert all(torch.equal(layer.weight, before[name]) for name, layer in layers(model))


@pytest.mark.parametrize("options", [{"quality": 1.2}, {"density": 0.3}, {"density": 0.3, "scope": "global"}])
def test_masks_do_not_change_when_layers_are_scaled(options):
    model = Mixed()
    before = masks(model, **options)
    for i, (_, layer) in enumerate(layers(model)):
        layer.weight.data *= 4.0**i  # powers of two: exact
    after = masks(model, **options)
    assert all(torch.equal(after[name], mask) for name, mask in before.items())


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_masks_of_falling_density_are_nested_and_a_second_time_the_same(scope):
    model, last = Mixed(), None
    for density in (0.9, 0.5, 0.2, 0.05):
        fresh = masks(Mixed(), density=density, scope="layer")
        kept = masks(model, density=density, scope=scope)
        assert all(not (kept[n] & ~last[n]).any() for n in kept) if last else len(kept) == 4
        prune(model, density=density, scope=scope)
        again = masks(model, density=density, scope=scope)
        assert all(torch.equal(again[n], kept[n]) for n in kept)
        if scope == "layer":
            assert all(torch.equal(fresh[n], kept[n]) for n in kept)  # in steps or at once
        last = kept


@pytest.mark.parametrize("density", [1e-9, 0.1, 1 / 3, 0.5, 0.999, 1.0])
def test_density_keeps_exactly_the_largest(density):
    weight = dense(models.lenet_300_100())["fc2"].abs().flatten()
    mask = masks(models.lenet_300_100(), density=density)["fc2"].flatten()
    keep = max(1, round(density * 30_000))
    assert mask.sum() == keep
    assert weight[mask].min() >= weight[~mask].max() if keep < 30_000 else mask.all()


def test_global_density_is_one_quality_parameter_for_all_layers():
    model = Mixed()
    kept = masks(model, density=0.2, scope="global")
    ratio = {n: w.abs() / w.std(correction=0) for n, w in dense(model).items()}
    s = min(ratio[n][kept[n]].min() for n in kept)
    assert all(torch.equal(kept[n], ratio[n] >= s) for n in kept)
    assert sum(int(m.sum()) for m in kept.values()) == round(0.2 * sum(m.numel() for m in kept.values()))


def test_a_mapping_prunes_the_layers_it_names_alone():
    model = models.lenet_300_100()
    before = dense(model)
    prune(model, density={"fc1": 0.08, "fc3": 0.26})
    assert [int(layer.weight.count_nonzero()) for _, layer in layers(model)] == [18_816, 30_000, 260]
    assert torch.equal(model.fc2.weight, before["fc2"])


def test_ties_keep_the_first_and_constant_layers_stay_under_quality():
    layer = nn.Linear(10, 1, bias=False)
    nn.init.constant_(layer.weight, -0.5)
    assert masks(layer, density=0.3)[""].tolist() == [[True] * 3 + [False] * 7]
    assert masks(layer, quality=3.0)[""].all()


def test_zeros_are_never_kept_even_where_the_density_would_allow():
    layer = nn.Linear(10, 1, bias=False)
    layer.weight.data = torch.tensor([[0.0, 1, 0, 2, 0, 0, 0, 0, 0, -0.0]])
    for options in ({"density": 0.9}, {"quality": 0}, {"density": 0.9, "scope": "global"}):
        assert masks(layer, **options)[""].sum() == 2
    layer.weight.data.zero_()
    assert prune(layer, density=0.5).weight.count_nonzero() == 0


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}, {"momentum": 0.0}, {"batch_size": 5}])
def test_pruned_weights_stay_exactly_zero_while_training(options, split):
    model = prune(Mixed(), density=0.3)
    kept = {name: layer.weight != 0 for name, layer in layers(model)}
    before = dense(model)
    training.fit(model, split, epochs=2, seed=0, learning_rate=0.01, **options)
    for name, layer in layers(model):
        assert (layer.weight[~kept[name]] == 0).all()
        assert not torch.equal(layer.weight, before[name])  # the survivors do move


def test_weights_pruned_while_momentum_carries_them_stay_positive_zero(split):
    model = models.lenet_300_100()

    def step(epoch):
        prune(model, density=0.7 ** (epoch + 1))

    training.fit(model, split, epochs=4, seed=0, learning_rate=0.01, batch_size=8, before_epoch=step)
    latent, weight = model.fc1.parametrizations.weight.original, model.fc1.weight.detach()
    form = model.fc1.parametrizations.weight[0]
    assert (latent[form.mask == 0] != 0).any()  # the optimizer did push on them
    assert (weight[form.mask == 0] == 0).all() and not torch.signbit(weight[form.mask == 0]).any()


def test_a_pruned_weight_has_no_gradient_and_a_survivor_the_dense_one():
    mask = torch.tensor([[True, False, True]])
    form, weight = PrunedWeight(mask), torch.tensor([[1.0, 2, 3]], requires_grad=True)
    (form(weight) * torch.tensor([[5.0, 6, 7]])).sum().backward()
    assert weight.grad.tolist() == [[5, 0, 7]]


@pytest.mark.parametrize("shape", [(1, 1), (3, 1, 5), (4, 2, 3, 3), (7, 40)])
@pytest.mark.parametrize("density", [0.0, 0.03, 0.5, 0.97, 0.98, 1.0])
def test_the_file_alone_gives_the_same_weight(shape, density):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator)
    form = PrunedWeight(torch.rand(shape, generator=generator) < density)
    stored = form.right_inverse(weight)
    assert torch.equal(PrunedWeight.decode(form.encode(stored), weight.shape), form(stored))


def test_scatter_refuses_places_outside_and_values_that_lack():
    with pytest.raises(ValueError, match="2 values at 1 places"):
        gaps.scatter(torch.tensor([0]), torch.ones(2), torch.Size([4]))
    with pytest.raises(ValueError, match=r"do not fit a weight of shape \(2, 2\)"):
        gaps.scatter(torch.tensor([4]), torch.ones(1), torch.Size([2, 2]))


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_the_loops_end_dense_at_the_density_asked_for(scope, split):
    for run in (
        lambda m: magnitude.iterative(
            m, split, density=0.1, rounds=2, epochs=1, seed=0, learning_rate=0.01, scope=scope
        ),
        lambda m: magnitude.gradual(m, split, density=0.1, ramp=2, epochs=3, seed=0, learning_rate=0.01, scope=scope),
    ):
        model = run(models.lenet_300_100())
        assert magnitude.density(model) == pytest.approx(0.1, abs=1e-5)
        assert model.state_dict().keys() == models.lenet_300_100().state_dict().keys()


def test_gradual_takes_a_density_for_each_layer(split):
    shares = {"fc1": 0.08, "fc2": 0.09, "fc3": 0.26}
    model = magnitude.gradual(
        models.lenet_300_100(), split, density=shares, ramp=2, epochs=2, seed=0, learning_rate=0.01
    )
    assert [int(layer.weight.count_nonzero()) for _, layer in layers(model)] == [18_816, 2_700, 260]


def test_biases_and_normalization_are_left_alone():
    model = Mixed()
    expected = copy.deepcopy({n: p for n, p in model.named_parameters() if p.dim() == 1})
    prune(model, density=0.01)
    assert len(expected) == 5
    assert all(torch.equal(dict(model.named_parameters())[n], p) for n, p in expected.items())


# -- Networks that others wrote ----------------------------------------------------------------------------------------


def small(dtype=torch.float32):
    build = lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4))  # noqa: E731
    return given.seeded(build).to(dtype)


@pytest.mark.parametrize("options", [{"density": 0.4}, {"density": 0.4, "scope": "global"}, {"quality": 0.8}])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_types_are_pruned_as_float32_is(dtype, options):
    model, twin = small(dtype), small(dtype).float()
    expected = masks(twin, **options)
    assert all(torch.equal(mask, expected[name]) for name, mask in masks(model, **options).items())
    prune(model, **options)
    assert all(p.dtype == dtype for p in model.parameters()) and model[0].parametrizations.weight[0].mask.dtype == dtype
    images = given.split(2, 1, 8, 8, dtype=dtype).images
    assert model(images).dtype == dtype
    assert all(torch.equal(layer.weight != 0, expected[name]) for name, layer in layers(model))
    assert prune(small(), **options).to(dtype)(images).dtype == dtype  # the type may change afterwards


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_the_loops_take_other_types(scope):
    data = given.split(8, 1, 8, 8, classes=4, dtype=torch.bfloat16)
    model = magnitude.iterative(
        small(torch.bfloat16), data, density=0.2, rounds=2, epochs=1, seed=0, learning_rate=0.01, scope=scope
    )
    assert magnitude.density(model) == pytest.approx(0.2, abs=0.01) and model[0].weight.dtype == torch.bfloat16


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.memory, self.head = kind(8, 6, batch_first=True), nn.Linear(6, 4)

    def forward(self, images):
        return self.head(self.memory(images.flatten(1, 2))[0][:, -1])


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.block, self.head = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True), nn.Linear(8, 4)

    def forward(self, images):
        return self.head(self.block(images.flatten(1, 2)).mean(1))


@pytest.mark.parametrize("scope", ["layer", "global"])
@pytest.mark.parametrize("build", [lambda: Recurrent(nn.LSTM), lambda: Recurrent(nn.GRU), Attention])
def test_all_weights_of_attention_and_recurrent_layers_are_pruned(build, scope):
    model, data = given.seeded(build), given.split(12, 1, 8, 8, classes=4)
    matrices = {n: p for n, p in model.named_parameters() if p.dim() > 1}
    whole = sum(p.numel() for p in matrices.values())
    kept = masks(model, density=0.25, scope=scope)
    assert {name.removesuffix(".weight") for name in matrices} == set(kept)
    run = {
        "prune": lambda m: prune(m, density=0.25, scope=scope),
        "iterative": lambda m: magnitude.iterative(m, data, density=0.25, rounds=2, epochs=1, seed=0, scope=scope),
        "gradual": lambda m: magnitude.gradual(m, data, density=0.25, ramp=2, epochs=2, seed=0, scope=scope),
    }
    for prunes in run.values():
        pruned = prunes(copy.deepcopy(model))
        found = [layer.weight for _, layer in layers(pruned)]
        assert sum(w.numel() for w in found) == whole
        assert sum(int(w.count_nonzero()) for w in found) / whole == pytest.approx(0.25, abs=0.01)
        assert magnitude.density(pruned) == pytest.approx(0.25, abs=0.01)
        assert torch.isfinite(pruned(data.images)).all()


def test_packed_weights_go_by_their_full_name():
    model = given.seeded(Attention)
    prune(model, density={"block.self_attn.in_proj_weight": 0.5})
    assert model.block.self_attn.in_proj_weight.count_nonzero() == 96 and model.head.weight.all()
    mask = torch.zeros(24, 8, dtype=torch.bool)
    magnitude.apply(model, {"block.self_attn.in_proj_weight": mask})
    assert not model.block.self_attn.in_proj_weight.any()


def test_a_layer_of_zeros_may_be_kept_and_then_learns(split):
    def build():
        model = models.lenet_300_100()
        nn.init.zeros_(model.fc3.weight)
        return model

    assert masks(build(), density=0.3)["fc3"].sum() == 300 and masks(build(), quality=1)["fc3"].all()
    options = {"epochs": 2, "seed": 0, "learning_rate": 0.01}
    for model in (
        magnitude.iterative(build(), split, density=0.3, rounds=2, **options),
        magnitude.gradual(build(), split, density=0.3, ramp=1, **options),
        prune(build(), density=0.3),
    ):
        training.fit(model, split, **options)
        assert model.fc3.weight.count_nonzero() >= 250
    sparse = prune(build(), density=0.3, scope="global")  # there are larger weights elsewhere
    assert not masks(sparse, density=0.9)["fc3"].any()


def test_what_a_mask_keeps_stays_a_candidate_though_it_is_zero():
    layer = nn.Linear(4, 1, bias=False)
    layer.weight.data = torch.tensor([[3.0, 0, 0, 1]])
    magnitude.apply(layer, {"": torch.tensor([[True, True, False, True]])})
    assert masks(layer, density=1.0)[""].tolist() == [[True, True, False, True]]
    assert masks(layer, density=0.5)[""].tolist() == [[True, False, False, True]]
    assert masks(decompress(layer), density=1.0)[""].tolist() == [[True, False, False, True]]


def test_dropout_for_retraining_falls_with_the_root_of_the_connections():
    assert magnitude.dropout_rate(0.5, density=1.0) == 0.5
    assert magnitude.dropout_rate(0.5, density=0.25) == 0.25
    for rate, density in ((-0.1, 0.5), (0.5, 1.1), (math.nan, 0.5)):
        with pytest.raises(ValueError, match=rf"must be in \[0, 1\], not {rate} and {density}"):
            magnitude.dropout_rate(rate, density=density)


def test_a_shared_weight_counts_once_and_is_not_pruned():
    model = nn.Sequential(nn.Embedding(6, 4), nn.Linear(4, 6, bias=False), nn.Linear(6, 4))
    model[1].weight = model[0].weight
    model[2].weight.data[0] = 0
    assert magnitude.density(model) == pytest.approx(42 / 48)
    with given.refused(model, "layers '0' and '1' share one weight"):
        prune(model, density=0.5)
    assert prune(model, density={"2": 0.5})[2].weight.count_nonzero() == 12


def test_frozen_layers_stay_frozen():
    model = small()
    model[0].requires_grad_(False)
    prune(model, density=0.5)
    assert not model[0].parametrizations.weight.original.requires_grad
    assert not decompress(model)[0].weight.requires_grad and model[3].weight.requires_grad


def test_masks_are_made_where_the_weights_are():
    layer = nn.Linear(6, 4)
    with torch.device("meta"):  # what is made on the default device would be elsewhere
        for options in ({"density": 0.5}, {"density": 0.5, "scope": "global"}, {"quality": 1.0}):
            prune(layer, **options)
            assert layer.weight.device.type == "cpu"


# -- Bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("density", [0, -0.1, 1.01, float("nan"), float("inf")])
def test_density_outside_0_to_1_is_refused(density, split):
    model = models.lenet_300_100()
    for run in (
        lambda: prune(model, density=density),
        lambda: prune(model, density=density, scope="global"),
        lambda: prune(model, density={"fc1": density}),
        lambda: magnitude.iterative(model, split, density=density, rounds=2, epochs=1, seed=0),
        lambda: magnitude.gradual(model, split, density=density, ramp=1, epochs=2, seed=0),
        lambda: magnitude.gradual(model, split, density={"fc1": density}, ramp=1, epochs=2, seed=0),
    ):
        with pytest.raises(ValueError, match=r"density must be in \(0, 1\].* not .*"):
            run()
    assert magnitude.density(model) == 1


@pytest.mark.parametrize("quality", [-1, float("nan")])
def test_a_negative_quality_is_refused(quality):
    with pytest.raises(ValueError, match=f"must be 0 or larger, not {quality}"):
        masks(models.lenet_300_100(), quality=quality)


def test_one_way_to_choose_is_needed_and_unknown_names_are_refused():
    model = models.lenet_300_100()
    for options in ({}, {"density": 0.5, "quality": 1}):
        with pytest.raises(ValueError, match="exactly one"):
            prune(model, **options)
    assert magnitude.density(model) == 1
    with pytest.raises(ValueError, match="no layer 'fc9' to prune: the layers are fc1, fc2, fc3"):
        masks(model, density={"fc9": 0.5})
    with pytest.raises(ValueError, match="scope must be one of layer, global, not 'all'"):
        masks(model, density=0.5, scope="all")
    with pytest.raises(ValueError, match="density must be one number with scope='global'"):
        masks(model, density={"fc1": 0.5}, scope="global")


@pytest.mark.parametrize("options", [{"density": 0.5}, {"density": 0.5, "scope": "global"}, {"quality": 1.0}])
def test_a_model_without_weights_and_weights_not_finite_are_refused(options):
    with pytest.raises(ValueError, match="ReLU has no layer with a weight"):
        prune(nn.ReLU(), **options)
    layer = nn.Linear(2, 2)
    layer.weight.data[0, 0] = float("nan")
    with pytest.raises(ValueError, match="NaN or infinity"):
        prune(layer, **options)


@pytest.mark.parametrize(("rounds", "ramp"), [(0, 0), (-1, 9)])
def test_loops_that_would_not_reach_the_density_are_refused(rounds, ramp, split):
    with pytest.raises(ValueError, match="rounds must be 1 or more"):
        magnitude.iterative(models.lenet_300_100(), split, density=0.5, rounds=rounds, epochs=1, seed=0)
    with pytest.raises(ValueError, match=r"ramp must be in 1\.\.3"):
        magnitude.gradual(models.lenet_300_100(), split, density=0.5, ramp=ramp, epochs=3, seed=0)


def test_a_value_that_training_refuses_changes_nothing(split):
    for options, message in (
        ({"epochs": -1}, "epochs 0 or more"),
        ({"epochs": 1, "batch_size": 0}, "batch_size 1 or more"),
        ({"epochs": 1, "loss": "hinge"}, "loss must be one of"),
    ):
        with given.refused(model := models.lenet_300_100(), message):
            magnitude.iterative(model, split, density=0.5, rounds=1, seed=0, **options)


def test_a_misspelt_argument_changes_nothing(split):
    model = models.lenet_300_100()
    common = {"density": 0.5, "epochs": 2, "seed": 0}
    with pytest.raises(TypeError, match="densty"):
        prune(model, densty=0.5)
    for run in (
        lambda **options: magnitude.iterative(model, split, rounds=1, **common, **options),
        lambda **options: magnitude.gradual(model, split, ramp=1, **common, **options),
    ):
        with pytest.raises(TypeError, match="no option 'learning_rat'"):
            run(learning_rat=0.1)
        with pytest.raises(ValueError, match="scope must be one of layer, global, not 'all'"):
            run(scope="all")
    assert magnitude.density(model) == 1 and not any(map(parametrize.is_parametrized, model.modules()))


def test_loops_refuse_unknown_layers_and_empty_splits_before_they_prune(split):
    model = models.lenet_300_100()
    common = {"ramp": 1, "epochs": 1, "seed": 0}
    with pytest.raises(ValueError, match="no layer 'fc9' to prune"):
        magnitude.gradual(model, split, density={"fc1": 0.5, "fc9": 0.5}, **common)
    with pytest.raises(ValueError, match="density must be one number with scope='global'"):
        magnitude.gradual(model, split, density={"fc1": 0.5}, scope="global", **common)
    with pytest.raises(ValueError, match="at least one sample"):
        magnitude.gradual(model, split.first(0), density=0.5, **common)
    with pytest.raises(ValueError, match="at least one sample"):
        magnitude.iterative(model, split.first(0), density=0.5, rounds=1, epochs=1, seed=0)
    assert magnitude.density(model) == 1 and not any(map(parametrize.is_parametrized, model.modules()))


def test_masks_of_another_criterion_are_applied_or_refused_as_they_are():
    model = models.lenet_300_100()
    mask = torch.rand(10, 100, generator=torch.Generator().manual_seed(0)) < 0.3
    before = dense(model)
    for wrong, message in (
        ({"fc3": mask, "fc9": mask}, "no weight 'fc9' to mask: there are fc1, fc2, fc3"),
        ({"fc3": mask.T}, r"the mask of 'fc3' must be of shape \(10, 100\), not \(100, 10\)"),
    ):
        with pytest.raises(ValueError, match=message):
            magnitude.apply(model, wrong)
    assert not any(map(parametrize.is_parametrized, model.modules()))
    assert magnitude.apply(model, {"fc3": mask}) is model
    assert torch.equal(model.fc3.weight, torch.where(mask, before["fc3"], 0.0))
    assert torch.equal(model.fc1.weight, before["fc1"])
