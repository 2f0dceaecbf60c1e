"""Sparse layers: equality with dense ones, gradients of active rows alone, what selections choose, ages, refusals."""

import copy

import pytest
import torch
from given import equal, generator, of_torchvision, refused, seeded, state
from torch import nn
from torch.nn import functional

from lib import datasets, measure, models, storage, training
from lib.datasets import Split
from lib.hashing import sparse_layers
from lib.hashing.inner_product_search import Candidates
from lib.hashing.shared import linear_layers
from lib.hashing.shared.linear_layers import Work
from lib.hashing.sparse_layers import SELECTIONS, SelectedLinear, overlap, rebuilding, recall, select


def linear(inputs: int = 12, outputs: int = 40, *, bias: bool = True, dtype=torch.float64, seed: int = 0) -> nn.Linear:
    return seeded(lambda: nn.Linear(inputs, outputs, bias=bias, dtype=dtype), seed)


def whole(layer: nn.Linear) -> nn.Linear:
    """The layer with small whole weights: sums of their products are exact in any order."""
    with torch.no_grad():
        for values in layer.parameters():
            values.copy_((100 * values).round())
    return layer


def inputs(*shape: int, dtype=torch.float64, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64).to(dtype)


def mask(active: torch.Tensor, outputs: int) -> torch.Tensor:
    return torch.zeros(len(active), outputs, dtype=torch.bool).scatter(1, active, True)


def gradients(layer: nn.Module, x: torch.Tensor, output) -> list[torch.Tensor]:
    """Of the input and the parameters, of a loss that is a sum of squares and so depends on the outputs."""
    x = x.clone().requires_grad_()
    return list(torch.autograd.grad(output(x).square().sum(), [x, *layer.parameters()]))


# --- a layer ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_with_all_units_outputs_and_gradients_are_the_dense_ones(selection, bias):
    dense, x = linear(bias=bias), inputs(9, 12)
    layer = SelectedLinear(copy.deepcopy(dense), fraction=1, selection=selection)
    assert torch.equal(layer(x), dense(x))
    pairs = zip(gradients(layer, x, layer), gradients(dense, x, dense), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("selection", SELECTIONS)
def test_active_outputs_are_the_dense_ones_and_the_others_zero(selection):
    dense, x = whole(linear()), (4 * inputs(30, 12)).round()
    layer = SelectedLinear(copy.deepcopy(dense), fraction=0.1, selection=selection)
    outputs = layer(x)
    assert layer.active.shape == (30, 4)
    assert torch.equal(outputs, dense(x) * mask(layer.active, 40))
    assert (mask(layer.active, 40).sum(1) == 4).all()  # no unit twice


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("pool", [1, 5])
def test_gradients_are_those_of_the_masked_dense_layer(bias, pool):
    dense, x = linear(bias=bias), inputs(7, 12)
    layer = SelectedLinear(copy.deepcopy(dense), fraction=0.1, pool=pool)
    found = gradients(layer, x, layer)
    kept = mask(layer.active, 40)
    for a, b in zip(found, gradients(dense, x, lambda x: dense(x) * kept), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)
    outside = ~kept.any(0)
    assert outside.any() and not any(gradient[outside].any() for gradient in found[1:])  # exactly 0


def test_gradients_are_computed_only_where_they_are_needed():
    layer, x = SelectedLinear(linear(), fraction=0.1), inputs(3, 12).requires_grad_()
    layer.weight.requires_grad_(False)
    layer(x).sum().backward()
    assert layer.weight.grad is None and x.grad.any() and layer.bias.grad.sum() == 12
    (gradient,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_updates_of_disjoint_active_sets_commute_exactly():
    layer = SelectedLinear(linear(outputs=200), fraction=0.02)
    x = inputs(40, 12)
    kept = mask(layer.choose(x), 200).int()
    first, second = ((kept @ kept.T) == 0).nonzero()[0].tolist()

    def updated(*samples: int) -> nn.Module:
        changed = copy.deepcopy(layer)
        for sample in samples:
            changed(x[sample : sample + 1]).square().sum().backward()
            with torch.no_grad():
                for values in changed.parameters():
                    values -= 0.1 * values.grad
                    values.grad = None
        return changed

    assert equal(updated(first, second), updated(second, first))
    assert not equal(updated(first, second), updated(first))
    assert not equal(updated(first, first), updated(first))  # the order matters where the sets are the same


# --- what is chosen -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", ["simhash", "simple-lsh", "sign-alsh", "l2-alsh"])
def test_hashing_takes_the_rows_that_share_most_buckets(transform):
    dense, x = linear(), inputs(6, 12)
    layer = SelectedLinear(dense, fraction=0.2, transform=transform, bits=3, tables=20, seed=5)
    rows = torch.cat([dense.weight, dense.bias[:, None]], dim=1).detach()
    candidates = Candidates(rows, transform=transform, bits=3, tables=20, seed=5)
    with_one = torch.cat([x, torch.ones(6, 1)], dim=1)
    assert torch.equal(layer.choose(x), candidates.retrieve(with_one, 8))


def test_top_takes_the_units_with_the_largest_outputs():
    dense, x = linear(), inputs(6, 12)
    chosen = SelectedLinear(dense, fraction=0.2, selection="top").choose(x)
    expected = dense(x).argsort(1, descending=True)[:, :8]
    assert torch.equal(chosen, expected)


def test_random_units_are_drawn_equally_often_and_again_each_time():
    layer, x = SelectedLinear(linear(outputs=10), fraction=0.2, selection="random").train(), inputs(20_000, 12)
    before = torch.get_rng_state()
    shares = layer.choose(x).flatten().bincount(minlength=10) / 20_000
    assert ((shares - 0.2).abs() <= 4 * (0.2 * 0.8 / 20_000) ** 0.5).all()
    assert not torch.equal(layer.choose(x), layer.choose(x))
    assert torch.equal(layer.eval().choose(x), layer.choose(x))  # in evaluation mode it is a fixed network
    assert torch.equal(torch.get_rng_state(), before)


def test_hashing_finds_more_of_the_largest_than_chance():
    layer, x = SelectedLinear(linear(outputs=400), fraction=0.05, bits=4, tables=100), inputs(50, 12)
    random = SelectedLinear(linear(outputs=400), fraction=0.05, selection="random")
    exact = SelectedLinear(linear(outputs=400), fraction=0.05, selection="top")
    assert recall(exact, x) == 1 and recall(layer, x) > 0.3 > 0.15 > recall(random, x)
    largest = [set(row) for row in exact.choose(x).tolist()]
    hits = [len(set(row) & truth) / 20 for row, truth in zip(layer.choose(x).tolist(), largest, strict=True)]
    assert recall(layer, x) == pytest.approx(sum(hits) / 50)


def test_pooled_vectors_keep_inner_products_with_constant_ones():
    layer = SelectedLinear(linear(inputs=11), fraction=0.2, pool=4)
    assert layer.index.width == 3 + 1  # 4 + 4 + 3 inputs, and the bias
    x = inputs(3, 3).repeat_interleave(4, dim=1)[:, :12]
    wide = SelectedLinear(linear(inputs=12), fraction=0.2, pool=4)
    pooled = wide._hashable(x, torch.ones(3)) @ wide._rows().T
    assert (pooled - functional.linear(x, wide.weight, wide.bias)).abs().max() < 1e-12


def test_stale_tables_find_less_until_they_are_rebuilt():
    layer, x = SelectedLinear(linear(outputs=400), fraction=0.05), inputs(50, 12)
    fresh, found = recall(layer, x), []
    for step in range(3):
        layer.weight.data += 0.1 * inputs(400, 12, seed=step)
        found.append(recall(layer, x))
    assert fresh > found[0] > found[1] > found[2] and fresh > found[2] + 0.15
    layer.rebuild()
    assert recall(layer, x) > found[2] + 0.15


def test_age_counts_training_steps_and_rebuilding_keeps_it_low():
    layer, x, ages = SelectedLinear(linear(), fraction=0.1).train(), inputs(5, 12), []
    after_step = rebuilding(nn.Sequential(layer), every=3)
    for _ in range(7):
        layer(x)
        ages.append(int(layer.age))
        layer.weight.data.neg_()
        after_step()
    assert ages == [1, 2, 3, 1, 2, 3, 1]
    layer.eval()(x)
    assert layer.age == 1
    layer.rebuild()
    assert layer.age == 0 and torch.equal(layer.choose(x), SelectedLinear(_plain(layer), fraction=0.1).choose(x))


def _plain(layer: SelectedLinear) -> nn.Linear:
    plain = linear(layer.inputs, layer.outputs)
    plain.load_state_dict({"weight": layer.weight.detach(), "bias": layer.bias.detach()})
    return plain


# --- networks -----------------------------------------------------------------------------------------------------


def test_a_network_of_all_units_trains_exactly_as_a_dense_one():
    digits, dense = datasets.load("digits").train, models.mlp(inputs=784, hidden=(30,), batch_norm=False)
    split = Split(digits.images[:200], digits.labels[:200])
    model = select(dense, ["fc1"], fraction=1)
    losses = [sparse_layers.fit(m, split, epochs=2, seed=0) for m in (model, dense)]
    assert losses[0] == losses[1]
    assert torch.equal(model.fc1.weight, dense.fc1.weight) and torch.equal(model.fc2.weight, dense.fc2.weight)


def test_rows_that_were_never_active_keep_their_bits():
    split = Split(inputs(20, 784, dtype=torch.float32), torch.arange(20) % 10)
    model = select(models.mlp(hidden=(300,), batch_norm=False), ["fc1"], fraction=0.01)
    before, seen = model.fc1.weight.detach().clone(), torch.zeros(300, dtype=torch.bool)

    def note() -> None:
        seen[model.fc1.active.flatten()] = True

    training.fit(
        model,
        split,
        epochs=1,
        seed=0,
        batch_size=5,
        weight_decay=0.0,
        optimizer=lambda groups: torch.optim.Adagrad(groups, lr=0.05),
        after_step=note,
    )
    moved = (model.fc1.weight != before).any(1)
    assert moved.any() and not moved[~seen].any() and (~seen).sum() > 200


def test_hashing_learns_more_than_random_units_do():
    digits = datasets.load("digits")
    dense, errors = models.mlp(hidden=(400,), batch_norm=False), {}
    for selection in SELECTIONS:
        model = select(dense, ["fc1"], fraction=0.05, selection=selection, pool=14 if selection == "lsh" else 1)
        losses = sparse_layers.fit(model, digits.train, epochs=3, seed=0)
        assert losses[-1] < losses[0]
        errors[selection] = training.error_pct(model, digits.validation)
        assert model.fc1.age == 102 % 40  # of the last steps
    assert errors["top"] < errors["random"] - 5 and errors["lsh"] < errors["random"] - 5


def test_work_is_that_of_active_units_hashing_and_dense_layers():
    dense = models.mlp(hidden=(1000,), batch_norm=False)
    counts = {
        selection: linear_layers.work(select(dense, ["fc1"], fraction=0.05, selection=selection, bits=6), (1, 28, 28))
        for selection in SELECTIONS
    }
    products, every = 50 * 784 + 1000 * 10, 1000 * 784 + 1000 * 10
    assert every == measure.multiply_adds(dense, (1, 28, 28))
    assert counts == {
        "lsh": Work(products, 6 * 100 * 785, every),
        "top": Work(products, 784_000, every),
        "random": Work(products, 0, every),
    }
    assert linear_layers.work(select(dense, ["fc1"], fraction=1), (1, 28, 28)) == Work(every, 0, every)
    alone = SelectedLinear(linear(), fraction=0.1, pool=3, tables=7)
    assert linear_layers.work(alone, (5, 12)) == Work(5 * 4 * 12, 5 * 4 * 7 * 5, 5 * 40 * 12)


def test_overlap_is_the_mean_jaccard_index_of_neighbors():
    active = SelectedLinear(linear(), fraction=0.2).choose(inputs(30, 12))
    sets = [set(row) for row in active.tolist()]
    expected = [len(a & b) / len(a | b) for a, b in zip(sets[1:], sets[:-1], strict=True)]
    assert overlap(active) == pytest.approx(sum(expected) / 29)
    assert overlap(torch.tensor([[1, 2], [2, 1]])) == 1 and overlap(torch.tensor([[1, 2], [3, 4]])) == 0


@pytest.mark.parametrize(("name", "layer"), [("resnet18", "fc"), ("mobilenet_v2", "classifier.1")])
def test_networks_that_we_did_not_write_have_sparse_layers(name, layer):
    model, images, _ = of_torchvision(name)
    before = state(model)
    changed = select(model, [layer], fraction=0.5)
    with torch.no_grad():
        dense, sparse = model(images.images), changed(images.images)
    kept = mask(changed.get_submodule(layer).active, 4)
    torch.testing.assert_close(sparse, dense * kept, rtol=1e-4, atol=1e-5)
    assert type(model.get_submodule(layer)) is nn.Linear and all(
        torch.equal(value, before[key]) for key, value in model.state_dict().items()
    )
    assert linear_layers.work(changed, (3, 64, 64)).products < measure.multiply_adds(model, (3, 64, 64))


# --- state, shapes, types -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("selection", SELECTIONS)
def test_copies_files_and_loaded_states_choose_alike(selection, tmp_path):
    def made(seed: int) -> nn.Module:
        return select(models.mlp(seed, inputs=12, hidden=(40,)), ["fc1"], fraction=0.1, selection=selection, seed=seed)

    model, other, stored, x = made(0), made(1), made(2), inputs(6, 12, dtype=torch.float32)
    model.train()(x)
    if selection == "lsh":
        model.fc1.weight.data.neg_()  # its tables are old
    other.load_state_dict(model.state_dict())
    storage.save(model, tmp_path / "model.slim")
    for same in (other, storage.load(tmp_path / "model.slim", stored), copy.deepcopy(model)):
        for mode in (True, False):
            assert torch.equal(same.train(mode)(x), copy.deepcopy(model).train(mode)(x))
            same.load_state_dict(model.state_dict())
            assert torch.equal(same.train(mode).fc1.choose(x), copy.deepcopy(model).train(mode).fc1.choose(x))


@pytest.mark.parametrize("selection", SELECTIONS)
def test_inputs_of_any_shape_and_stride_are_taken(selection):
    layer, x = SelectedLinear(linear(), fraction=0.1, selection=selection).eval(), inputs(6, 12)
    flat = layer(x)
    assert flat.shape == (6, 40)
    for same in (layer(x.view(2, 3, 12)).flatten(0, 1), layer(x.T.contiguous().T)):
        torch.testing.assert_close(same, flat, rtol=1e-12, atol=1e-12)
    assert layer(x[0]).shape == (40,) and layer(x[0]).count_nonzero() == 4
    assert layer(x[:0]).shape == (0, 40) and layer(x[:, None][:, :0]).shape == (6, 0, 40)
    layer.weight.data = layer.weight.data.T.contiguous().T
    torch.testing.assert_close(layer(x), flat, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("selection", SELECTIONS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_other_types_of_float_have_the_dense_outputs(selection, dtype):
    dense, x = linear(dtype=dtype), inputs(6, 12, dtype=dtype)
    layer = SelectedLinear(copy.deepcopy(dense), fraction=0.1, selection=selection)
    assert layer(x).dtype == dtype
    torch.testing.assert_close(layer(x), dense(x) * mask(layer.active, 40), rtol=2e-2, atol=2e-2)
    layer(x).float().sum().backward()
    assert layer.weight.grad.dtype == dtype and torch.isfinite(layer.weight.grad).all()
    moved = SelectedLinear(linear(), fraction=0.1, selection=selection).to(dtype)
    assert torch.isfinite(moved(x)).all() and moved.active.shape == (6, 4)


def test_inference_mode_answers_like_evaluation():
    layer, x = SelectedLinear(linear(), fraction=0.1).eval(), inputs(6, 12)
    with torch.inference_mode():
        fresh = layer(x + 0)
    assert torch.equal(fresh, layer(x))


def test_draws_leave_other_random_numbers_alone():
    before = torch.get_rng_state()
    for selection in SELECTIONS:
        select(models.lenet_300_100(), ["fc1", "fc2"], fraction=0.1, selection=selection).train()(
            inputs(2, 784).float()
        )
    assert torch.equal(torch.get_rng_state(), before)


def test_the_layers_of_a_network_have_seeds_of_their_own():
    model = select(models.mlp(inputs=40, hidden=(40, 40)), ["fc1", "fc2", "fc1"], fraction=0.1, seed=3)
    directions = [model.get_submodule(name).index.tables.directions for name in ("fc1", "fc2")]
    assert directions[0].shape == directions[1].shape and not torch.equal(*directions)


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fraction": 0.0}, r"fraction must be in \(0, 1\], not 0"),
        ({"fraction": 1.5}, r"fraction must be in \(0, 1\], not 1.5"),
        ({"selection": "best"}, "selection must be one of lsh, top, random, not 'best'"),
        ({"bits": 65}, r"bits must be in 1..64.*not 65"),
        ({"tables": 0}, "tables must be 1 or more, not 0"),
        ({"probes": 5}, r"probes must be in 0..4, .*not 5"),
        ({"probes": 1, "transform": "l2-alsh"}, "probes must be 0 with hashes of distances, .*not 1"),
        ({"pool": 0}, r"pool must be in 1..784, the inputs of the layer, not 0"),
        ({"pool": 785}, r"pool must be in 1..784, the inputs of the layer, not 785"),
        ({"transform": "alsh"}, "transform must be one of"),
        ({"seed": -1}, "seed must be 0 or more, not -1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    model = models.lenet_300_100()
    with refused(model, f"layer 'fc1': {message}"):
        select(model, ["fc1"], **({"fraction": 0.1} | options))


def test_layers_that_cannot_be_sparse_are_refused():
    model = models.lenet5()
    for names, message in (
        ([], "name one linear layer or more"),
        (["fc9"], "has no layer 'fc9' with a weight: it has conv1"),
        (["conv1"], "layer 'conv1' must be a plain nn.Linear, not Conv2d"),
    ):
        with refused(model, message):
            select(model, names, fraction=0.1)
    encoder = nn.TransformerEncoderLayer(8, 2, 12, batch_first=True)
    with refused(encoder, "'linear1' cannot be replaced: TransformerEncoderLayer reads its weight"):
        select(encoder, ["linear1"], fraction=0.1)
    with refused(encoder, "'self_attn.in_proj_weight' is a weight of MultiheadAttention"):
        select(encoder, ["self_attn.in_proj_weight"], fraction=0.1)
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    with refused(tied, "layers '0' and '1' share one weight"):
        select(tied, ["1"], fraction=0.5)
    normed = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))
    with pytest.raises(ValueError, match=r"layer '0' must be a plain nn\.Linear, not one whose weight is compressed"):
        select(normed, ["0"], fraction=0.5)
    with pytest.raises(ValueError, match=r"must be a plain nn\.Linear, not SelectedLinear"):
        select(select(models.lenet5(), ["fc1"], fraction=0.1), ["fc1"], fraction=0.1)


def test_values_that_are_not_finite_are_refused():
    model = models.lenet_300_100()
    model.fc2.weight.data[0, 0] = torch.nan
    with refused(model, "layer 'fc2': the weights hold NaN or infinity"):
        select(model, ["fc1", "fc2"], fraction=0.1)
    layer = SelectedLinear(linear(), fraction=0.1)
    with pytest.raises(ValueError, match="queries must be finite"):
        layer(torch.full((2, 12), torch.inf).double())
    layer.bias.data[3] = torch.inf
    with pytest.raises(ValueError, match="the weights hold NaN or infinity"):
        layer.rebuild()


def test_calls_that_make_no_sense_are_refused():
    layer, model = SelectedLinear(linear(), fraction=0.1), models.lenet_300_100()
    with pytest.raises(ValueError, match=r"inputs must be of shape \(..., 12\), not \(3, 11\)"):
        layer(torch.zeros(3, 11))
    with pytest.raises(ValueError, match=r"must be of shape \(1 or more, 12\)"):
        recall(layer, torch.zeros(0, 12).double())
    with pytest.raises(ValueError, match="every 1 step or more, not 0"):
        rebuilding(model, every=0)
    for active in (torch.zeros(1, 3), torch.zeros(4), torch.zeros(3, 0)):
        with pytest.raises(ValueError, match="two samples or more"):
            overlap(active.long())
    split = Split(torch.zeros(2, 784), torch.tensor([0, 1]))
    for options, message in (
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"rebuild": 0}, "every 1 step or more, not 0"),
        ({"batch_size": 0}, "batch_size 1 or more"),
    ):
        with refused(model, message):
            sparse_layers.fit(model, split, epochs=1, seed=0, **options)
    with refused(model, "to train on"):
        sparse_layers.fit(model, Split(torch.zeros(0, 784), torch.zeros(0).long()), epochs=1, seed=0)
