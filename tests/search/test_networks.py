"""Given networks as a space of latencies: what tracing finds is all that runs, and it gives the network's answers."""

import pytest
import torch
from torch import nn

from lib.search.latency_table import latency_table
from lib.search.networks import Networks
from lib.vision import torchvision

IMAGES = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def net(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        return getattr(torchvision.models, name)(weights=None, num_classes=4)


class Own(nn.Module):
    """A network whose forward pass uses functions and methods besides modules."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        y = torch.relu(self.conv(x))
        return torch.cat([y, y + x.mean(1, keepdim=True)], dim=1).flatten(1)


def test_functions_and_methods_are_operations_too():
    names = [operation.name for operation in Networks({"own": Own()}, IMAGES).operations_of("own")]
    assert [name.split("(")[0] for name in names] == ["Conv2d", "relu", "mean", "add", "cat", "flatten"]
    assert names[1] == "relu((1, 4, 64, 64))" and names[-1] == "flatten((1, 8, 64, 64), 1)"


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_the_operations_of_a_network_are_all_that_it_runs(name):
    space = Networks({name: net(name)}, IMAGES)
    ran = [operation.name.split("(")[0] for operation in space.operations_of(name)]
    convolutions = [module for module in space.models[name].modules() if isinstance(module, nn.Conv2d)]
    additions = {"resnet18": 8, "mobilenet_v2": 10}[name]
    assert ran.count("Conv2d") == len(convolutions) and ran.count("add") + ran.count("iadd") == additions
    assert len(space.every_operation()) < len(ran)  # blocks repeat, and are timed once


def test_the_last_operation_gives_the_answer_of_the_network():
    model = Own().eval()
    space = Networks({"net": model}, IMAGES)
    with torch.no_grad():
        answer = space.operations_of("net")[-1].call(torch.device("cpu"))()
        assert torch.equal(answer, model(IMAGES))
        assert torch.equal(space.call("net", torch.device("cpu"))(), model(IMAGES))


def test_a_network_is_left_as_it_was():
    model = Own().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    latency_table(Networks({"own": model}, IMAGES[..., :8, :8]), runs=20)
    assert model.training and all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_sums_rank_whole_networks():
    layers = [nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU()]
    models = {f"{n} layers": nn.Sequential(*layers[: 2 * n]) for n in (1, 2, 3)}
    result = latency_table(Networks(models, IMAGES), runs=20).validate(models, runs=20)
    assert result.rank_correlation == pytest.approx(1)


def test_networks_that_cannot_be_traced_are_refused():
    class Decides(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ValueError, match=r"torch\.fx cannot trace the network 'mine'"):
        Networks({"mine": Decides()}, IMAGES)


def test_images_that_a_network_does_not_take_are_refused():
    with pytest.raises(ValueError, match=r"'own' does not take images of \(1, 2, 8, 8\)"):
        Networks({"own": Own()}, torch.zeros(1, 2, 8, 8))


class Attends(nn.Module):
    """Attention among pixels."""

    def __init__(self, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(64, heads, batch_first=True)

    def forward(self, x):
        x = x.flatten(2)
        return self.attention(x, x, x)[0]


def test_settings_that_a_module_does_not_print_are_in_its_name():
    images = torch.zeros(1, 3, 8, 8)
    space = Networks({"few": Attends(1), "many": Attends(32), "again": Attends(32)}, images)
    few, many, again = (space.operations_of(name)[-2].name for name in space.models)
    assert "num_heads=1 " in few and "num_heads=32 " in many == again
    assert len([part for part in space.every_operation() if "Attention" in part.name]) == 2


def test_settings_of_children_are_in_the_name():
    def named(**options):
        layer = nn.TransformerEncoderLayer(64, 2, 8, **options)
        return Networks({"net": nn.Sequential(nn.Flatten(2), layer)}, IMAGES[..., :8, :8]).operations_of("net")[-1].name

    assert len({named(), named(norm_first=True), named(activation="gelu")}) == 3
    assert "self_attn.num_heads=2" in named()


@pytest.mark.parametrize(
    "error", [ValueError("too small\nand more"), TypeError("too small"), RuntimeError("too small")]
)
def test_errors_of_a_network_are_one_line_with_its_name(error):
    def fails(x):
        raise error

    model = nn.Sequential(nn.Identity())
    model[0].forward = fails
    with pytest.raises(ValueError, match=r"^'mine' does not take images of \(1, 3, 64, 64\): too small$"):
        Networks({"mine": model}, IMAGES)


def test_no_network_and_unknown_networks_are_refused():
    with pytest.raises(ValueError, match="models are empty"):
        Networks({}, IMAGES)
    with pytest.raises(ValueError, match="there is no network 'other': accepted are own"):
        Networks({"own": Own()}, IMAGES).operations_of("other")
