"""A converted network answers as before: any shape and form, copies, files and states; what it cannot do is refused."""

import copy

import given
import pytest
import torch
from torch import nn

from lib import models, storage
from lib.hashing import hashed_nets
from lib.hashing.shared.hashed_layers import MANY, HashedLinear, convert
from lib.pruning import magnitude
from lib.weights import compressed


def hashed(inputs: int, outputs: int, *, bias: bool = True, dtype=torch.float64, **options) -> nn.Module:
    layer = given.seeded(lambda: nn.Linear(inputs, outputs, bias=bias).to(dtype))
    return hashed_nets.compress(layer, **options)


def normal(*shape: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=given.generator(), dtype=torch.float64).to(dtype)


def network(dtype=torch.float64) -> nn.Module:
    model = given.seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(30, 45), nn.ReLU(), nn.Linear(45, 10)))
    return hashed_nets.compress(model.to(dtype), fraction=0.2)


# --- the same answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (7, 5), (37, 101), (100, 64)])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_converted_layer_answers_as_before(shape, signed, bias):
    layer = hashed(*shape, signed=signed, bias=bias, fraction=0.3)
    converted = convert(layer)
    assert isinstance(converted, HashedLinear)
    for samples in (0, 1, 2, 8, 13, MANY - 1, MANY, MANY + 5):
        x = normal(samples, shape[0])
        torch.testing.assert_close(converted(x), layer(x).detach())


def test_float32_answers_are_equal_to_rounding():
    layer = hashed(784, 100, dtype=torch.float32)
    for samples in (1, 5, 100):
        x = normal(samples, 784, dtype=torch.float32)
        torch.testing.assert_close(convert(layer)(x), layer(x).detach())


def test_edges_that_are_removed_stay_removed():
    layer = hashed_nets.remove_edges(nn.Linear(30, 45).double(), fraction=0.1)
    for samples in (1, 3, 50):
        x = normal(samples, 30)
        torch.testing.assert_close(convert(layer)(x), layer(x).detach())


def test_so_many_values_that_codes_need_more_bits():
    layer = hashed(300, 300, buckets={"": 80_000})
    assert convert(layer).places.dtype == torch.int32
    for samples in (1, 30):
        torch.testing.assert_close(convert(layer)(normal(samples, 300)), layer(normal(samples, 300)).detach())


@pytest.mark.parametrize("shape", [(), (1,), (4,), (2, 3), (2, 1, 5), (0, 3), (40,)])
def test_any_number_of_dimensions_is_taken(shape):
    layer = hashed(20, 33, fraction=0.3)
    x = normal(*shape, 20)
    torch.testing.assert_close(convert(layer)(x), layer(x).detach())


def test_gradients_reach_the_inputs():
    layer, x = hashed(20, 33, fraction=0.3), normal(3, 20)
    gradients = []
    for module in (layer, convert(layer)):
        point = x.clone().requires_grad_()
        module(point).square().sum().backward()
        gradients.append(point.grad)
    torch.testing.assert_close(*gradients)


def test_the_model_stays_as_it_was():
    model = network()
    before = copy.deepcopy(model.state_dict())
    converted = convert(model)
    assert model.training and not converted.training and len(list(compressed(model))) == 2
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert [type(layer) for layer in converted] == [nn.Flatten, HashedLinear, nn.ReLU, HashedLinear]
    assert not list(converted.parameters())
    x = normal(4, 30)
    torch.testing.assert_close(converted(x), model(x).detach())


def test_convolutions_keep_their_expansion():
    model = hashed_nets.compress(models.lenet5().double(), fraction=0.1)
    converted, x = convert(model), normal(2, 1, 28, 28)
    assert [name for name, _, _ in compressed(converted)] == ["conv1", "conv2"]
    torch.testing.assert_close(converted(x), model.eval()(x).detach())


def test_only_named_layers_are_converted():
    converted = convert(network(), names=["3"])
    assert [name for name, m in converted.named_modules() if isinstance(m, HashedLinear)] == ["3"]


def test_a_layer_that_attention_reads_stays_as_it_is():
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(8, 2), "linear": nn.Linear(8, 8)})
    hashed_nets.compress(model, fraction=0.5)
    converted = convert(model)
    assert isinstance(converted["linear"], HashedLinear)
    assert len(list(compressed(converted))) == 2  # in_proj_weight and out_proj
    with pytest.raises(ValueError, match=r"'attention.out_proj' cannot be converted: MultiheadAttention reads"):
        convert(model, names=["attention.out_proj"])


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def test_what_a_replacement_would_lose_stays_as_it_is():
    model = nn.Sequential(Doubled(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)).double()
    model[1].register_forward_hook(lambda layer, inputs, output: output + 1)
    hashed_nets.compress(model, fraction=0.5)
    converted, x = convert(model), normal(3, 6)
    assert [isinstance(layer, HashedLinear) for layer in converted] == [False, False, True]
    torch.testing.assert_close(converted(x), model(x))
    for name, why in (("0", "Doubled has a forward pass of its own"), ("1", "it has hooks, which would be lost")):
        with pytest.raises(ValueError, match=f"layer '{name}' cannot be converted: {why}"):
            convert(model, names=[name])


# --- state ------------------------------------------------------------------------------------------------------------


def test_a_state_and_a_copy_answer_the_same():
    converted, other, x = (
        convert(network()),
        convert(hashed_nets.compress(network_of_zeros(), fraction=0.2, seed=9)),
        normal(3, 30),
    )
    y = converted(x)
    assert not torch.equal(other(x), y)
    other.load_state_dict(converted.state_dict())
    assert torch.equal(other(x), y) and torch.equal(copy.deepcopy(converted)(x), y)


def network_of_zeros() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(30, 45), nn.ReLU(), nn.Linear(45, 10)).double()


def test_a_file_of_a_converted_network_answers_the_same(tmp_path):
    converted, x = convert(network(torch.float32)), normal(3, 30, dtype=torch.float32)
    y = converted(x)
    storage.save(converted, tmp_path / "model.slim")
    for value in converted.buffers():
        value.zero_()
    storage.load(tmp_path / "model.slim", converted)
    assert torch.equal(converted(x), y)


def test_values_that_change_count_at_once():
    converted, x = convert(hashed(20, 33, fraction=0.3, bias=False)), normal(1, 20)
    y = converted(x)
    converted.values *= 2
    torch.testing.assert_close(converted(x), 2 * y)


def test_a_state_with_a_wrong_code_is_refused():
    converted = convert(hashed(20, 33, fraction=0.3))
    converted(normal(1, 20))
    state = converted.state_dict()
    state["places"] = torch.full_like(state["places"], 5000)
    converted.load_state_dict(state)
    with pytest.raises(ValueError, match="5000"):
        converted(normal(1, 20))


# --- what is refused --------------------------------------------------------------------------------------------------


def test_what_cannot_be_converted_is_named():
    with pytest.raises(ValueError, match="there is no hashed linear layer to convert"):
        convert(models.lenet_300_100())
    with pytest.raises(ValueError, match="there is no hashed linear layer to convert"):
        convert(magnitude.prune(models.lenet_300_100(), density=0.1))
    with pytest.raises(ValueError, match=r"no layer 'fc9'"):
        convert(hashed_nets.compress(models.lenet_300_100()), names=["fc9"])
    with pytest.raises(ValueError, match=r"'conv1' cannot be converted: it is no hashed nn.Linear, but Conv2d"):
        convert(hashed_nets.compress(models.lenet5()), names=["conv1"])
    with pytest.raises(ValueError, match=r"'fc2' cannot be converted: it is no hashed nn.Linear, but Linear"):
        convert(hashed_nets.compress(models.lenet_300_100(), layers=["fc1"]), names=["fc2"])
    with pytest.raises(
        ValueError, match=r"torch.float32 and torch.float64 on the CPU, not torch.bfloat16 on cpu: move or cast"
    ):
        convert(hashed(20, 33, dtype=torch.bfloat16))


def test_inputs_that_do_not_fit_are_refused():
    converted = convert(hashed(20, 33))
    for x in (normal(2, 19), normal(2, 20, dtype=torch.float32), torch.tensor(1.0).double(), torch.ones(2, 20).long()):
        with pytest.raises(ValueError, match=r"accepted are torch.float64 and \(\.\.\., 20\)"):
            converted(x)


def test_a_layer_that_was_moved_is_refused():
    with pytest.raises(ValueError, match=r"float16.*move or cast the network before it is converted"):
        convert(hashed(20, 33)).half()(torch.ones(1, 20).half())
    with pytest.raises(ValueError, match=r"meta"):
        convert(hashed(20, 33)).to("meta")(torch.ones(1, 20).double())
