"""Whose weight is read by the modules around it: torch's own cases, and every way of writing it that is promised."""

import pytest
import torch
from torch import nn

from lib import models, owners
from lib.vision import torchvision
from lib.weights import layers


class Owner(nn.Module):
    """Reads the weights of its layers in all the ways that are found, and in some that are not."""

    def __init__(self):
        super().__init__()
        self.read, self.helped, self.looped, self.shown, self.called = (nn.Linear(3, 3) for _ in range(5))
        self.block = nn.ModuleDict({"inner": nn.Linear(3, 3)})
        self.block.inner = self.block["inner"]
        self.stack = nn.ModuleList([nn.Linear(3, 3)])
        nn.init.zeros_(self.called.weight)  # not in the forward pass

    @property
    def matrix(self):
        return self.shown.weight

    def helper(self, x):
        return nn.functional.linear(x, self.helped.weight)

    def unused(self, x):
        return self.called.bias

    def forward(self, x):
        x = nn.functional.linear(x, self.read.weight, bias=self.read.bias)
        x = self.helper(x) @ self.matrix
        x = sum(factor * self.looped.out_features for factor in (x, x))
        return self.called(x) @ self.block.inner.weight @ self.stack[0].weight


@pytest.mark.parametrize(
    ("name", "attributes"),
    [
        ("read", ["weight", "bias"]),
        ("helped", ["weight"]),
        ("shown", ["weight"]),
        ("looped", ["out_features"]),
        ("block.inner", ["weight"]),
        ("called", []),
        ("stack.0", []),
    ],
)
def test_what_an_owner_reads_is_found(name, attributes):
    Owner()(torch.zeros(1, 3))
    assert owners.reads(Owner(), name) == dict.fromkeys(attributes, "Owner")
    whole = nn.ModuleDict({"net": Owner()})
    assert owners.reads(whole, f"net.{name}") == dict.fromkeys(attributes, "Owner")


def test_layers_of_torch_that_are_not_called_are_known():
    model = nn.Transformer(4, 2, 1, 1, 6, batch_first=True)
    read = {name: owners.reads(model, name).get("weight") for name, _ in layers(model) if "in_proj" not in name}
    assert read == {
        "encoder.layers.0.self_attn.out_proj": "MultiheadAttention",
        "encoder.layers.0.linear1": "TransformerEncoderLayer",
        "encoder.layers.0.linear2": "TransformerEncoderLayer",
        "decoder.layers.0.self_attn.out_proj": "MultiheadAttention",
        "decoder.layers.0.multihead_attn.out_proj": "MultiheadAttention",
        "decoder.layers.0.linear1": None,
        "decoder.layers.0.linear2": None,
    }


@pytest.mark.parametrize("name", ["resnet18", "densenet121", "squeezenet1_1", "efficientnet_b0", "swin_t", "lenet5"])
def test_only_layers_that_are_not_called_are_named(name):
    with torch.device("meta"):
        model = models.lenet5() if name == "lenet5" else getattr(torchvision.models, name)()
    read = {layer for layer, _ in layers(model) if owners.reads(model, layer)}
    functional = {layer for layer, _ in layers(model) if layer.endswith((".attn.qkv", ".attn.proj"))}
    assert read == functional and bool(read) == (name == "swin_t")
