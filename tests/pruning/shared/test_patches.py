"""Samples against the layers' own outputs, in every kind of layer and network."""

import copy

import given
import pytest
import torch
from torch import nn

from lib.pruning.shared import patches
from lib.pruning.shared.patches import kernels, sampled
from lib.pruning.shared.reconstruction import contributions


def split(*shape, seed=0):
    return given.split(*shape, seed=seed, labels="zero", dtype=torch.float64)


def small(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        parts = [nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3, stride=2, bias=False)]
        return nn.Sequential(*parts, nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(5 * 4, 4)).double().eval()


LAYERS = {
    "stride": (nn.Conv2d(4, 6, 3, stride=2, padding=1), (3, 4, 7, 8)),
    "same": (nn.Conv2d(4, 6, (3, 2), padding="same", dilation=2), (3, 4, 7, 8)),
    "circular": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular", bias=False), (3, 4, 7, 8)),
    "groups": (nn.Conv2d(4, 6, 3, groups=2), (3, 4, 7, 8)),
    "depthwise": (nn.Conv2d(4, 8, 3, groups=4), (3, 4, 7, 8)),
    "1d": (nn.Conv1d(4, 6, 5, stride=3), (3, 4, 20)),
    "3d": (nn.Conv3d(4, 6, 2, padding=1), (3, 4, 4, 5, 3)),
    "reflect 1d": (nn.Conv1d(4, 6, 4, stride=3, padding=2, padding_mode="reflect"), (3, 4, 20)),
    "replicate 2d": (nn.Conv2d(4, 6, 3, padding=(2, 1), dilation=2, padding_mode="replicate"), (3, 4, 7, 8)),
    "reflect, same, groups": (nn.Conv2d(4, 6, (4, 3), padding="same", padding_mode="reflect", groups=2), (3, 4, 7, 8)),
    "valid": (nn.Conv2d(4, 6, 3, padding="valid", stride=(1, 2)), (3, 4, 7, 8)),
    "circular 3d": (nn.Conv3d(4, 6, 2, padding=1, padding_mode="circular", groups=2), (3, 4, 4, 5, 3)),
    "linear": (nn.Linear(4, 6), (3, 4)),
    "windows": (nn.Linear(4, 6, bias=False), (3, 2, 5, 4)),
    "tokens": (nn.Linear(4, 6), (3, 9, 4)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_contributions_sum_to_what_the_layer_answers(kind):
    layer, shape = LAYERS[kind]
    model = nn.Sequential(copy.deepcopy(layer)).double()
    data = split(*shape)
    found = list(sampled(model, ["0"], data, images=99, places=10_000))
    (_, patches, answers) = found[0]
    outputs = model(data.images).detach()
    outputs = outputs.movedim(-1, 1) if isinstance(layer, nn.Linear) else outputs
    expected = outputs.transpose(0, 1).flatten(1)
    if layer.bias is not None:
        expected = expected - model[0].bias.detach()[:, None]
    assert len(found) == 1 and answers.T.shape == expected.shape  # each place of each image once
    torch.testing.assert_close(answers.T.sort(1).values, expected.sort(1).values, atol=1e-12, rtol=0)
    each = contributions(patches, kernels(model[0]))
    torch.testing.assert_close(each.sum(2), answers, atol=1e-12, rtol=0)


def test_patches_are_those_of_unfold():
    layer, data = nn.Conv2d(3, 2, (3, 5), stride=2, padding=1).double(), split(4, 3, 9, 11)
    _, patches, _ = next(sampled(nn.Sequential(layer), ["0"], data, places=999))
    expected = nn.functional.unfold(data.images, (3, 5), padding=1, stride=2).transpose(1, 2).flatten(0, 1)
    assert sorted(patches.flatten(1).tolist()) == sorted(expected.tolist())


def test_the_kernels_of_a_grouped_convolution_are_those_of_a_dense_one():
    layer, images = nn.Conv2d(6, 4, 3, groups=2, bias=False).double(), split(2, 6, 5, 5).images
    dense = kernels(layer).reshape(4, 6, 3, 3)
    torch.testing.assert_close(nn.functional.conv2d(images, dense), layer(images))
    assert dense[0, 3:].count_nonzero() == 0


def test_sampling_depends_on_the_seed_alone_and_leaves_the_model():
    model, data = small().train(), split(30, 1, 9, 9)
    before, state = copy.deepcopy(model.state_dict()), torch.random.get_rng_state()

    def draw(seed):
        return next(x for _, x, _ in sampled(model, ["3"], data, images=7, places=3, seed=seed))

    first, again, other = draw(1), draw(1), draw(2)
    assert torch.equal(first, again) and not torch.equal(first, other) and first.shape == (21, 6, 9)
    assert model.training and not any(module._forward_hooks for module in model.modules())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_what_happens_in_place_afterwards_does_not_count():
    convolutions = [nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 3, 3), nn.ReLU(inplace=True)]
    model, data = nn.Sequential(*convolutions).double(), split(3, 1, 9, 9)
    for name, read, answers in sampled(model, ["0", "2"], data, places=99):
        each = contributions(read, kernels(model[int(name)]))
        torch.testing.assert_close(each.sum(2), answers, atol=1e-12, rtol=0)


class Odd(nn.Module):
    """Calls a layer by a named argument, and another twice."""

    def __init__(self):
        super().__init__()
        self.first, self.again = nn.Linear(6, 4), nn.Linear(4, 4)

    def forward(self, x):
        return self.again(self.again(self.first(input=x)))


def test_each_call_of_a_layer_is_seen_however_it_is_called():
    model, data = Odd().double(), split(3, 6)
    found = list(sampled(model, ["again", "first"], data))
    assert [name for name, _, _ in found] == ["first", "again", "again"]
    with torch.no_grad():
        torch.testing.assert_close(found[1][1].flatten(1).sort(0).values, model.first(data.images).sort(0).values)
        second = model.again(model.first(data.images))
    torch.testing.assert_close(found[2][1].flatten(1).sort(0).values, second.sort(0).values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_samples_of_every_type_are_the_networks_own_values(dtype):
    model, data = small().to(dtype), given.split(4, 1, 9, 9, dtype=dtype)
    for name, read, answers in sampled(model, ["0", "3", "7"], data, places=3):
        assert read.dtype == answers.dtype == torch.float64
        each = contributions(read, kernels(model.get_submodule(name))).sum(2)
        torch.testing.assert_close(each, answers, rtol=0, atol=30 * torch.finfo(dtype).eps)


@pytest.mark.parametrize("entries", [1, 700, 10**9])
def test_small_batches_show_the_same_as_large_ones(entries, monkeypatch):
    model, data = small(), split(7, 1, 9, 9)
    whole = list(sampled(model, ["3"], data, places=3))
    assert len(whole) == 1
    parts = patches.batches(model, data, images=7, seed=0, entries=entries)
    assert [len(part) for part in parts] == {1: [1] * 7, 700: [1] * 7, 10**9: [7]}[entries]  # 6 maps of 9 x 9 each
    found = [call for calls in patches.calls(model, ["3"], parts, places=3, seed=0) for call in calls]
    torch.testing.assert_close(torch.cat([read for _, read, _ in found]), whole[0][1])


def test_layers_are_shown_in_turn_before_they_answer():
    data = split(6, 1, 9, 9)
    shown = {}
    for size in (6, 2):  # in one pass, and in one for each layer
        model, seen = small(), []

        def take(name, read, model=model, seen=seen):
            seen.append((name, read))
            model.get_submodule(name).weight.data.mul_(2)

        patches.in_turn(model, ["0", "3", "7"], list(data.images.split(size)), take, places=4, seed=3)
        shown[size] = seen
        assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
        assert torch.equal(model[7].weight, 2 * small()[7].weight)
    for (name, read), (other, again) in zip(shown[6], shown[2], strict=True):
        assert name == other
        torch.testing.assert_close(read, again)
    expected = small()
    for name, read in shown[6]:  # what a layer reads comes from the layers as they are by then
        ((found,),) = patches.calls(expected, [name], [data.images], places=4, seed=3)
        torch.testing.assert_close(read, found[1])
        expected.get_submodule(name).weight.data.mul_(2)


def test_modes_are_restored_where_a_pass_ends_early():
    model, data = small().train(), split(4, 1, 9, 9)
    model[2].eval()
    modes = [module.training for module in model.modules()]
    patches.in_turn(model, ["3"], list(data.images.split(2)), lambda name, read: None, places=1, seed=0)
    generator = sampled(model, ["3"], data, images=4)
    next(generator)
    assert [module.training for module in model.modules()] == modes


def test_samples_are_made_where_the_network_is():
    model, images = small(), split(3, 1, 9, 9).images
    with torch.device("meta"):  # what is made on the default device would be elsewhere
        for kind in ("3", "7"):
            ((call,),) = patches.calls(model, [kind], [images], places=2, seed=0)
            assert call[1].device.type == "cpu"
    assert kernels(nn.Conv2d(4, 6, 3, groups=2, device="meta")).device.type == "meta"


# -- Bad input ---------------------------------------------------------------------------------------------------------


def test_an_empty_split_and_no_samples_are_refused():
    with pytest.raises(ValueError, match="the split is empty: at least one sample is needed to see what the layers"):
        list(sampled(small(), ["0"], split(2, 1, 9, 9).first(0)))
    with pytest.raises(ValueError, match="images and places must be 1 or more, not 10 and 0"):
        list(sampled(small(), ["0"], split(2, 1, 9, 9), images=10, places=0))


def test_images_of_another_shape_are_refused_and_the_mode_restored():
    model = small().train()
    with pytest.raises(ValueError, match="does not take images of shape"):
        list(sampled(model, ["0"], split(2, 3, 9, 9)))
    assert model.training and not any(module._forward_hooks for module in model.modules())


def test_layers_of_other_kinds_are_refused_by_name():
    model = nn.Sequential(nn.ConvTranspose2d(1, 2, 3)).double()
    with pytest.raises(ValueError, match="layer '0' must be a convolution or linear, not ConvTranspose2d"):
        list(sampled(model, ["0"], split(2, 1, 9, 9)))

    with pytest.raises(ValueError, match="has no layer 'nine'"):
        list(sampled(small(), ["nine"], split(2, 1, 9, 9)))


class Standardized(nn.Conv2d):
    def forward(self, images):
        return self._conv_forward(images, self.weight - self.weight.mean(), self.bias)


class Unbatched(nn.Sequential):
    def forward(self, images):
        return super().forward(images[0])[None]


def test_layers_that_compute_in_their_own_way_are_refused_by_name():
    with pytest.raises(ValueError, match="layer '0', Standardized, has a forward pass of its own"):
        list(sampled(nn.Sequential(Standardized(1, 2, 3)).double(), ["0"], split(2, 1, 9, 9)))
    for layer, shape in ((nn.Conv2d(1, 2, 3), (2, 1, 9, 9)), (nn.Linear(4, 3), (2, 4))):
        with pytest.raises(ValueError, match=r"layer '0' reads shape .*: the first axis must count the samples"):
            list(sampled(Unbatched(layer).double(), ["0"], split(*shape)))


def test_layers_that_do_not_run_are_refused_by_name():
    model = nn.TransformerEncoderLayer(4, 2, 6, batch_first=True).double()
    with pytest.raises(ValueError, match=r"layer 'self_attn\.out_proj' did not run"):
        list(sampled(model, ["linear1", "self_attn.out_proj"], split(2, 5, 4)))
    assert [name for name, _, _ in sampled(model, ["linear2", "linear1"], split(2, 5, 4))] == ["linear1", "linear2"]
