"""What flows through chosen layers while a network runs."""

import pytest
import torch

from lib import models, running


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
