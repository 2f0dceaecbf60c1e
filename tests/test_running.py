"""What flows through a network is what it computes with, and no layout changes an answer."""

import copy

import given
import pytest
import torch
from torch import nn

from lib import models, running, training
from lib.datasets import Split
from lib.pruning import magnitude


@pytest.fixture
def split():
    return given.split(20, 1, 28, 28, labels="in turn")


def linear(seed: int = 0) -> nn.Module:
    return models.lenet_300_100(seed)


def test_inputs_and_outputs_of_the_last_pass():
    model, x = models.lenet5().eval(), torch.rand(2, 1, 28, 28)
    with running.captured(model, ["conv2", "fc2"]) as flow:
        out = model(x)
    assert torch.equal(flow.outputs["fc2"], out)
    assert torch.equal(flow.inputs["conv2"], model.pool1(model.conv1(x)))
    out.sum().backward(retain_graph=True)
    gradient = torch.autograd.grad(flow.outputs["fc2"].sum(), flow.inputs["conv2"])[0]
    assert gradient.shape == (2, 20, 12, 12) and gradient.abs().sum() > 0


def test_the_hooks_go_even_when_the_network_fails():
    model = models.lenet5()
    with pytest.raises(RuntimeError), running.captured(model, ["conv1"]):
        model(torch.rand(1, 3, 28, 28))
    assert not any(module._forward_hooks for module in model.modules())


def test_an_unknown_layer_is_named():
    said = pytest.raises(ValueError, match="Sequential has no layer 'conv9': it has conv1, pool1")
    with said, running.captured(models.lenet5(), ["conv1", "conv9"]):
        pass


class Named(nn.Module):
    """Passes what its layer reads by the name of the argument."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(input=x)


def test_an_input_that_is_passed_by_name_is_captured():
    model, x = Named(), torch.rand(2, 4)
    with running.captured(model, ["layer"]) as flow:
        model(x)
    assert torch.equal(flow.inputs["layer"], x)


def test_a_layer_without_an_input_runs():
    class Placed(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc, self.pos = nn.Linear(4, 3), Place()

        def forward(self, x):
            return self.fc(x) + self.pos()

    class Place(nn.Module):
        def forward(self):
            return torch.ones(3)

    assert running.ran(Placed(), ["pos", "fc"], torch.rand(2, 4)) == ["pos", "fc"]


@pytest.mark.parametrize(
    "error", [RuntimeError("no"), AssertionError("no"), IndexError("no"), ValueError("no"), TypeError("no")]
)
def test_what_a_layer_raises_becomes_one_sentence(error):
    class Failing(nn.Module):
        def forward(self, x):
            raise error

    with pytest.raises(ValueError, match=r"Failing does not take images of shape \(2, 4\): no"):
        running.logits(Failing(), torch.rand(2, 4))


def test_a_sentence_of_our_own_stays_as_it_is():
    class Checking(nn.Module):
        def forward(self, x):
            return running.class_logits(nn.Identity(), x / 0)

    with pytest.raises(ValueError, match=r"^the network's logits hold NaN or infinity"):
        running.logits(Checking(), torch.rand(2, 4))


# -- layers that run -----------------------------------------------------------------------------------------------


def test_a_layer_whose_owner_reads_its_weight_does_not_run():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2).train()
    names = ["layers.0.self_attn.out_proj", "layers.1.linear1", "layers.0.linear2"]
    before = copy.deepcopy(model.state_dict())
    ran = running.ran(model, names, torch.rand(3, 5, 8))
    assert ran == names[1:]
    running.check_ran(names[1:], ran)
    with pytest.raises(ValueError, match=r"layer 'layers.0.self_attn.out_proj' did not run: its owner reads"):
        running.check_ran(names, ran)
    assert model.training and not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_branch_for_training_alone_does_not_run():
    class Branched(nn.Module):
        def __init__(self):
            super().__init__()
            self.trunk, self.branch = nn.Linear(4, 3), nn.Linear(4, 3)

        def forward(self, x):
            return self.trunk(x) + (self.branch(x) if self.training else 0)

    assert running.ran(Branched(), ["branch", "trunk"], torch.rand(3, 4)) == ["trunk"]
    with pytest.raises(ValueError, match="has no layer 'twig'"):
        running.ran(Branched(), ["twig"], torch.rand(3, 4))


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (
            lambda x: x.new_zeros(2, 3, 3),
            r"must answer 2 samples with logits of shape \(2, classes\), not with \(2, 3, 3\)",
        ),
        (lambda x: x.new_zeros(4, 3), r"not with \(4, 3\)"),
        (lambda x: (x,), "not with tuple"),
        (lambda x: x / 0, "logits hold NaN or infinity"),
    ],
)
def test_only_finite_logits_of_classes_are_accepted(answer, says):
    class Answering(nn.Module):
        def forward(self, x):
            return answer(x)

    with pytest.raises(ValueError, match=says):
        running.class_logits(Answering(), torch.ones(2, 4))


def test_images_come_to_the_type_of_the_weights():
    pixels = torch.randint(0, 255, (2, 1, 4, 4), dtype=torch.uint8)
    assert running.fitted(nn.Conv2d(1, 2, 3).half(), pixels).dtype == torch.float16
    words = nn.Sequential(nn.Embedding(9, 4), nn.Flatten())
    assert running.fitted(words, pixels).dtype == torch.uint8
    assert running.fitted(words, torch.rand(2, 4).double()).dtype == torch.float32
    assert running.fitted(nn.ReLU(), pixels) is pixels


# -- layout ------------------------------------------------------------------------------------------------------------

PLAIN, LAST = torch.contiguous_format, torch.channels_last


class Flattened(nn.Module):
    """Two convolutions and a linear layer; ``flatten`` joins channels and places."""

    def __init__(self, flatten):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.last = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 6, 3), nn.Linear(6 * 16, 10)
        self.flatten = flatten

    def forward(self, x):
        return self.last(self.flatten(torch.relu(self.second(torch.relu(self.first(x))))))


def small(n=6):
    images = torch.rand(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return Split(images, torch.arange(n) % 10)


@pytest.mark.parametrize(
    ("flatten", "expected"),
    [
        (lambda x: x.flatten(1), LAST),
        (lambda x: x.reshape(len(x), -1), LAST),
        (lambda x: x.contiguous().view(len(x), -1), LAST),
        (lambda x: x.view(x.size(0), -1), PLAIN),
        (lambda x: x.view(-1, 96), PLAIN),
        (lambda x: x.view(len(x), 6, 16).view(len(x), 96), PLAIN),
        (lambda x: x.as_strided((len(x), 96), (96, 1)), PLAIN),  # runs in both, and reads another order
    ],
)
def test_plain_memory_is_used_where_channels_last_raises_or_reads_another_order(flatten, expected):
    model, data = Flattened(flatten), small()
    assert running.layout(model, data.images) == expected
    reference = Flattened(lambda x: x.flatten(1))
    losses = [training.fit(net, data, epochs=2, seed=0, learning_rate=0.01) for net in (model, reference)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("build", [models.lenet_300_100, models.lenet5])
def test_ordinary_networks_are_trained_in_channels_last(build, split):
    assert running.layout(build(), split.images) == LAST


def test_one_channel_is_told_from_plain_memory():
    images = torch.rand(2, 1, 3, 4)
    assert running.arranged(images, LAST).stride() == (12, 1, 4, 1)
    assert running.arranged(running.arranged(images, LAST), PLAIN).stride() == (12, 12, 4, 1)
    assert torch.equal(running.arranged(images, LAST), images)
    assert torch.equal(running.arranged(images[0, 0], LAST), images[0, 0])


def test_a_masked_first_layer_stays_in_channels_last():
    """The product of a mask and a weight of one input channel lies alike in both layouts."""
    model, seen = magnitude.prune(Flattened(lambda x: x.flatten(1)), density=0.5), []
    model.first.register_forward_hook(lambda layer, inputs, output: seen.append(output.stride()))
    training.fit(model, small(), epochs=1, seed=0)
    assert seen[-1] == (4 * 36, 1, 4 * 6, 4)


def test_a_masked_layer_before_a_view_takes_plain_memory():
    class Viewed(Flattened):
        def forward(self, x):
            return self.last(self.first(x).view(len(x), -1))

    model = Viewed(None)
    model.last = nn.Linear(4 * 36, 10)
    magnitude.prune(model, density=0.5)
    assert running.layout(model, small().images) == PLAIN
    assert len(training.fit(model, small(), epochs=1, seed=0)) == 1


def volumes(layer):
    return nn.Sequential(layer, nn.ReLU(), nn.AdaptiveAvgPool3d(2), nn.Flatten(), nn.Linear(32, 10))


@pytest.mark.parametrize("layer", [nn.Conv3d(1, 4, 3), nn.ConvTranspose3d(1, 4, 3)])
def test_networks_of_volumes_are_trained(layer):
    data = Split(torch.rand(6, 1, 4, 4, 4), torch.arange(6))
    assert running.layout(volumes(layer), data.images) == PLAIN
    assert len(training.fit(volumes(layer), data, epochs=1, seed=0)) == 1


def test_a_buffer_of_five_dimensions_does_not_stop_training():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    model.register_buffer("table", torch.zeros(1, 1, 2, 2, 2))
    assert running.layout(model, small().images) == PLAIN
    assert len(training.fit(model, small(), epochs=1, seed=0)) == 1


@pytest.mark.parametrize("stride", [2, (1, 2), (3, 1)])
def test_strided_1x1_convolutions_of_few_channels_never_run_in_channels_last(stride, monkeypatch):
    monkeypatch.setattr(running, "_answers", lambda *_: pytest.fail("it may write outside its memory"))
    model = nn.Sequential(nn.Conv2d(7, 4, 1, stride=stride), nn.Flatten())
    assert running.layout(model, torch.rand(2, 7, 8, 8)) == PLAIN


@pytest.mark.parametrize(("channels", "size", "stride"), [(1, 1, 2), (7, 1, (1, 2)), (1, 1, (3, 1))])
def test_no_gradient_of_a_constant_is_tried_in_channels_last(channels, size, stride, monkeypatch):
    """A mean over places, as K of XNOR-Net has: its weight gradient may write outside its memory on some processors."""

    class Mean(nn.Module):
        def forward(self, x):
            return nn.functional.conv2d(x, x.new_ones(1, channels, size, size), stride=stride)

    seen, right = [], running.convolved

    def convolved(images, weight, *rest, **options):
        seen.append((weight, options["gradients"]))
        return right(images, weight, *rest, **options)

    monkeypatch.setattr(running, "convolved", convolved)
    running._same_in_both_layouts.cache_clear()
    model = nn.Sequential(nn.Conv2d(1, channels, 3), Mean(), nn.Flatten())
    assert running.layout(model, torch.rand(4, 1, 8, 8)) == LAST
    assert dict(seen) == {(channels, 1, 3, 3): True, (1, channels, size, size): False}


class Draws(nn.Module):
    """Everything a forward pass may change: random states, buffers, attributes."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout()
        self.calls, self.generator = 0, torch.Generator().manual_seed(3)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        self.seen += len(x)
        noise = torch.rand(1) + torch.rand(1, generator=self.generator)
        return self.drop(self.norm(self.conv(x))).flatten(1) * noise


def test_the_trial_leaves_no_trace():
    model, images = Draws(), small().images
    model.norm.eval()
    before, modes = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()]
    own, outer = model.generator.get_state(), torch.get_rng_state()
    strides = [p.stride() for p in model.parameters()]
    assert running.layout(model, images) == LAST
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert modes == [m.training for m in model.modules()] and model.calls == 0
    assert torch.equal(own, model.generator.get_state()) and torch.equal(outer, torch.get_rng_state())
    assert strides == [p.stride() for p in model.parameters()]
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


class _Gradient(torch.autograd.Function):
    """The same values, and another gradient."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, error):
        error = error.clone()
        error[0] *= 2
        return error


def wrong_output(x, weight, result):
    result = result.clone()
    result[0, 0, 0, 0] += 1
    return result


def wrong_gradients(x, weight, result):
    return _Gradient.apply(result)


def not_finite(x, weight, result):
    return result * float("nan")


@pytest.mark.parametrize("fault", [wrong_output, wrong_gradients, not_finite])
@pytest.mark.parametrize("groups", [1, 2])
def test_plain_memory_is_used_where_a_channels_last_kernel_is_wrong(fault, groups, monkeypatch):
    right = torch.convolution

    def convolution(x, weight, *rest):
        result = right(x, weight, *rest)
        last = x.is_contiguous(memory_format=LAST) and not x.is_contiguous()
        return fault(x, weight, result) if last else result

    model = nn.Sequential(nn.Conv2d(2, 6, 3, groups=groups), nn.ReLU(), nn.Conv2d(6, 4, 3, groups=groups), nn.Flatten())
    images = torch.rand(9, 2, 8, 8)
    running._same_in_both_layouts.cache_clear()
    assert running.layout(model, images) == LAST
    running._same_in_both_layouts.cache_clear()
    monkeypatch.setattr(torch, "convolution", convolution)
    assert running.layout(model, images) == PLAIN
    running._same_in_both_layouts.cache_clear()
