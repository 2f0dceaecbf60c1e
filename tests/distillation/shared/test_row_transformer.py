"""The transformer of image rows: its taps, torch's own layer as second implementation, what it keeps and refuses."""

import copy

import given
import pytest
import torch
from torch import nn

from lib import cache, running, storage, training
from lib.distillation.shared.row_transformer import row_transformer

SIZES = {"rows": 6, "columns": 5, "channels": 2, "classes": 3, "layers": 2, "width": 8, "heads": 2}


def small(seed: int = 0) -> nn.Module:
    return row_transformer(seed, **SIZES).double().eval()


def images(n: int = 3) -> torch.Tensor:
    return given.split(n, 2, 6, 5, dtype=torch.float64).images


def taps(model: nn.Module, names: list[str]) -> list[torch.Tensor]:
    with running.captured(model, names) as flow:
        model(images())
    return [flow.outputs[name] for name in names]


def test_attention_is_probabilities_and_cls_the_first_token():
    attention, state, whole = taps(small(), ["layers.1.attention.probabilities", "layers.1.cls", "layers.1"])
    assert attention.shape == (3, 2, 7, 7) and state.shape == (3, 8)
    assert (attention >= 0).all()
    torch.testing.assert_close(attention.sum(-1), torch.ones(3, 2, 7, dtype=torch.float64))
    assert torch.equal(state, whole[:, 0])
    assert isinstance(dict(small().named_modules())["layers.0.attention.probabilities"], nn.Softmax)


def as_torch(layer: nn.Module) -> nn.TransformerEncoderLayer:
    """Torch's pre-norm layer with the same weights."""
    same = nn.TransformerEncoderLayer(8, 2, 32, 0.0, nn.functional.gelu, batch_first=True, norm_first=True).double()
    pairs = {"norm1": layer.norm1, "norm2": layer.norm2, "linear1": layer.fc1, "linear2": layer.fc2}
    for name, part in pairs.items():
        getattr(same, name).load_state_dict(part.state_dict())
    with torch.no_grad():
        same.self_attn.in_proj_weight.copy_(layer.attention.read.weight)
        same.self_attn.in_proj_bias.copy_(layer.attention.read.bias)
    same.self_attn.out_proj.load_state_dict(layer.attention.write.state_dict())
    return same


def test_a_layer_is_that_of_torch():
    layer = small().layers[0]
    x = torch.randn(4, 7, 8, generator=given.generator(), dtype=torch.float64)
    torch.testing.assert_close(layer(x), as_torch(layer)(x), rtol=1e-12, atol=1e-12)
    _, expected = as_torch(layer).self_attn(*[layer.norm1(x)] * 3, average_attn_weights=False)
    with running.captured(layer, ["attention.probabilities"]) as flow:
        layer(x)
    torch.testing.assert_close(flow.outputs["attention.probabilities"], expected, rtol=1e-12, atol=1e-12)


def test_the_network_is_its_parts_in_order():
    model, x = small(), images()
    tokens = [model.token.expand(3, 8)] + [model.embed(x[:, :, row].reshape(3, 10)) for row in range(6)]
    y = torch.stack(tokens, 1) + model.positions
    for layer in model.layers:
        y = layer(y)
    torch.testing.assert_close(model(x), model.head(model.norm(y[:, 0])), rtol=1e-12, atol=1e-12)


def test_the_order_of_rows_matters_by_positions_alone():
    model, x = small(), images()
    assert not torch.allclose(model(x), model(x.flip(2)))
    model.positions.data[1:] = 0
    torch.testing.assert_close(model(x), model(x.flip(2)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_types_of_floats_and_strided_images_are_right(dtype):
    model, x = small(), images()
    found = copy.deepcopy(model).to(dtype)(x.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), model(x), rtol=0, atol=100 * torch.finfo(dtype).eps)
    last = x.to(memory_format=torch.channels_last)
    torch.testing.assert_close(model(last), model(x))
    torch.testing.assert_close(model(x.transpose(2, 3).contiguous().transpose(2, 3)), model(x))


def test_it_depends_on_its_seed_alone():
    before = torch.get_rng_state()
    first, again, other = small(), small(), small(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert given.equal(first, again) and not given.equal(first, other)
    assert torch.equal(copy.deepcopy(first)(images()), first(images()))
    other.load_state_dict(first.state_dict())
    assert torch.equal(other(images()), first(images()))


def test_it_learns_and_is_cached_and_stored(tmp_path, monkeypatch):
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    split = given.split(12, 2, 6, 5, classes=3, labels="in turn")
    model = row_transformer(**SIZES)
    losses = training.fit(model, split, epochs=30, seed=0, learning_rate=0.05)
    assert losses[-1] < 0.7 * losses[0]
    options = {"split": split, "epochs": 1, "seed": 0}
    networks = [cache.cached(training.fit, row_transformer(**SIZES | {"heads": h}), **options) for h in (2, 4, 2)]
    assert len(list(tmp_path.glob("*.safetensors"))) == 2  # the number of heads is in no shape, and in the key
    assert given.equal(networks[0], networks[2]) and not given.equal(networks[0], networks[1])
    storage.save(model, tmp_path / "model")
    again = storage.load(tmp_path / "model", row_transformer(1, **SIZES)).eval()
    assert torch.equal(again(split.images), model(split.images))


@pytest.mark.parametrize("name", SIZES)
def test_a_number_below_one_is_refused(name):
    with pytest.raises(ValueError, match=f"{name} must be 1 or more, not 0"):
        row_transformer(**SIZES | {name: 0})


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ValueError, match="3 heads do not divide 8"):
        row_transformer(**SIZES | {"heads": 3})


@pytest.mark.parametrize("shape", [(3, 2, 5, 6), (3, 1, 6, 5), (3, 2, 6), (3, 6, 2, 5), (3, 2, 0, 5)])
def test_images_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match=r"images must have the shape \(n, 2, 6, 5\), not"):
        small()(torch.zeros(shape, dtype=torch.float64))
