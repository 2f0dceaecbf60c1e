"""The one pass against the paper's recursion written out by hand, and what it refuses."""

import copy

import pytest
import torch
from torch import nn

from lib.pruning.shared import squared, uses


def seeded(build):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().double().eval()


def drawn(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_pass(model, x):
    return squared.second_derivatives(squared.installed(model), uses.watchable(model), x)


def at_the_outputs(logits):
    p = logits.softmax(dim=1)
    return p * (1 - p)


def test_a_perceptron_follows_the_papers_recursion():
    model = seeded(lambda: nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Sigmoid(), nn.Linear(4, 3)))
    second, third = (model[i].weight.detach() for i in (2, 4))
    x = drawn(7, 6)
    with torch.no_grad():
        h1 = model[:2](x)
        h2 = model[:4](x)
        d3 = at_the_outputs(model(x))
    d2 = (h2 * (1 - h2)).square() * (d3 @ third.square())  # f'(a)² Σ_l w_li² d²E/da_l²
    d1 = (1 - h1.square()).square() * (d2 @ second.square())
    expected = {"0": d1.T @ x.square(), "2": d2.T @ h1.square(), "4": d3.T @ h2.square()}
    torch.testing.assert_close(one_pass(model, x), expected)


def unfolded(x, kernel, stride=1, padding=0):
    return nn.functional.unfold(x, kernel, stride=stride, padding=padding)  # (n, inputs · kernel², places)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "circular", "replicate"])
def test_a_convolution_net_follows_the_recursion_with_weights_that_are_shared(mode):
    """LeNet-like: each weight gets the sum over its connections (k in V_k), each pool its coefficient squared."""
    model = seeded(
        lambda: nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1, padding_mode=mode),
            nn.BatchNorm2d(3),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Conv2d(3, 4, 2, stride=2),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(4, 3),
        )
    )
    with torch.no_grad():
        model[1].running_var.copy_(torch.tensor([0.5, 2.0, 3.0]))
        model[1].weight.copy_(torch.tensor([1.5, -1.0, 0.5]))
    x = drawn(2, 1, 8, 8)
    edge = nn.functional.pad(x, (1, 1, 1, 1), mode="constant" if mode == "zeros" else mode)
    with torch.no_grad():
        h1, pooled, a2, h2 = model[:3](x), model[:4](x), model[:5](x), model[:8](x)
        d3 = at_the_outputs(model(x))
    expected = {"8": d3.T @ h2.square()}
    d2 = d3 @ model[8].weight.detach().square()  # by the largest of each window
    d2 = torch.where((a2 == a2.amax(dim=(2, 3), keepdim=True)) & (a2 > 0), d2[:, :, None, None], 0.0)
    columns = unfolded(pooled, 2, stride=2)
    expected["4"] = torch.einsum("nop,nip->oi", d2.flatten(2), columns.square()).reshape(4, 3, 2, 2)
    back = torch.einsum("nop,oi->nip", d2.flatten(2), model[4].weight.detach().square().flatten(1))
    d1 = nn.functional.fold(back, (4, 4), 2, stride=2)
    d1 = d1.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3) / 4**2  # a mean of four
    d1 = d1 * (1 - h1.square()).square()
    d1 = d1 * (model[1].weight.detach().square() / (model[1].running_var + model[1].eps))[:, None, None]
    expected["0"] = torch.einsum("nop,nip->oi", d1.flatten(2), unfolded(edge, 3).square()).reshape(3, 1, 3, 3)
    torch.testing.assert_close(one_pass(model, x), expected)


@pytest.mark.parametrize("padding", ["same", (1, 2), "valid"])
@pytest.mark.parametrize("groups", [1, 2])
def test_the_derivative_by_an_input_is_that_of_squared_weights(padding, groups):
    """With one output that only the first layer's answers reach, both steps of the recursion can be read off."""
    layer = seeded(lambda: nn.Conv2d(4, 6, 3, padding=padding, groups=groups, dilation=2))
    x = drawn(3, 4, 7, 9).requires_grad_()
    second = drawn(*layer(x).shape, seed=2).square()
    squares = nn.functional.conv2d(x, layer.weight.detach().square(), None, 1, layer.padding, 2, groups)
    (expected,) = torch.autograd.grad(squares, x, second)
    answers = squared.installed(layer)(x)
    found, weight = torch.autograd.grad(answers, (x, layer.weight), second)
    torch.testing.assert_close(found, expected)
    own = layer.weight.detach().requires_grad_()
    by_squares = nn.functional.conv2d(x.detach().square(), own, None, 1, layer.padding, 2, groups)
    torch.testing.assert_close(weight, torch.autograd.grad(by_squares, own, second)[0])


@pytest.mark.parametrize("module", [nn.AvgPool2d(2), nn.AvgPool2d(3, 2, 1), nn.AdaptiveAvgPool2d((3, 4)), nn.GELU()])
@pytest.mark.parametrize("options", [{"ceil_mode": True}, {"count_include_pad": False}, {}])
def test_a_step_squares_each_entry_of_its_jacobian(module, options):
    if isinstance(module, nn.AvgPool2d):
        module = nn.AvgPool2d(module.kernel_size, module.stride, module.padding, **options)
    x = drawn(1, 2, 5, 6).requires_grad_()
    jacobian = torch.func.jacrev(module)(x.detach())
    second = drawn(*module(x).shape, seed=2)
    expected = torch.tensordot(second, jacobian.square(), dims=second.dim())
    answers = squared.installed(nn.Sequential(copy.deepcopy(module)))(x)
    torch.testing.assert_close(torch.autograd.grad(answers, x, second)[0], expected)


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.branch, self.head = nn.Linear(6, 5), nn.Linear(5, 5, bias=False), nn.Linear(5, 3)

    def forward(self, x):
        x = self.stem(x).relu()
        return self.head(x + self.branch(x))


def test_a_sum_passes_second_derivatives_to_both_parts():
    model, x = seeded(Residual), drawn(7, 6)
    with torch.no_grad():
        stem = model.stem(x)
        hidden = stem.relu()
        head = at_the_outputs(model(x))
        joined = head @ model.head.weight.square()
        d1 = (stem > 0) * (joined + joined @ model.branch.weight.square())
        both = hidden + model.branch(hidden)
    expected = {"stem": d1.T @ x.square(), "branch": joined.T @ hidden.square(), "head": head.T @ both.square()}
    torch.testing.assert_close(one_pass(model, x), expected)


def test_the_answers_stay_as_they_were():
    model, x = (
        seeded(lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding="same"), nn.SiLU(), nn.Flatten())),
        drawn(2, 2, 4, 4),
    )
    before = model(x)
    assert torch.equal(squared.installed(model)(x), before)


class Steps(nn.Module):
    def __init__(self, step):
        super().__init__()
        self.first, self.norm, self.last, self.step = nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 3), step

    def forward(self, x):
        return self.last(self.step(self, self.first(x)))


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (lambda own, x: x * 2, "the derivative of Mul, before layer 'last'"),
        (lambda own, x: x.softmax(dim=1), "the derivative of Softmax, before layer 'last'"),
        (lambda own, x: torch.add(x, x, alpha=2), "the derivative of Add, before layer 'last'"),
        (lambda own, x: -x, "the derivative of Neg, before layer 'last'"),
        (lambda own, x: own.norm(x), "the derivative of NativeLayerNorm, in layer 'norm'"),
        (lambda own, x: nn.functional.linear(x, own.first.weight), "the derivative of Mm, before layer 'last'"),
    ],
)
def test_a_step_whose_derivative_would_go_back_unsquared_is_named(step, says):
    model = squared.installed(Steps(step))
    with pytest.raises(ValueError, match=says):
        squared.second_derivatives(model, {"first": model.first}, torch.rand(5, 4))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_layer_that_did_not_run_is_named():
    model = Steps(lambda own, x: x)
    model.other = nn.Linear(4, 4)
    both = {"first": model.first, "other": model.other}
    with pytest.raises(ValueError, match="layer 'other' did not run"):
        squared.second_derivatives(squared.installed(model), both, torch.rand(5, 4))


@pytest.mark.parametrize("device", ["meta"])
def test_tensors_are_made_where_the_inputs_are(device):
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(2), nn.AvgPool2d(2), nn.Tanh(), nn.Flatten())
    with torch.device(device):  # what is made without a device would have no values
        h = squared.second_derivatives(squared.installed(model), {"0": model[0]}, torch.rand(2, 1, 6, 6, device="cpu"))
    assert h["0"].device.type == "cpu" and (h["0"] > 0).all()
