"""Graphs of networks: copies with the same names, and where layers end."""

import copy

import pytest
import torch
from given import equal, refused
from given_morphism import crossing, difference, images
from torch import fx, nn

from lib.morphism.shared.checks import largest_difference
from lib.morphism.shared.deepening import deepen
from lib.morphism.shared.graphs import Graph, Noting, Tracer
from lib.morphism.shared.p_activation import PActivation
from lib.morphism.shared.subnets import morph_depth


def test_a_graph_computes_what_its_network_does_under_the_same_names():
    model, x = crossing(), images(4)
    module = Graph(model, x).finished()
    assert set(model.state_dict()) == set(module.state_dict()) and module.stem.weight is not model.stem.weight
    assert difference(model, module, x) == 0


def test_layers_end_after_their_norm_and_activation():
    graph = Graph(crossing(), images(1))
    ends = {name: str(graph.end(name).target) for name in ("stem", "b", "head")}
    assert ends == {"stem": "relu", "b": "b", "head": "head"}
    assert graph.end("a").target is torch.relu and graph.end("depthwise").target is nn.functional.relu6
    assert graph.is_activation(graph.end("grouped")) and not graph.is_activation(graph.end("grouped"), idempotent=True)
    assert graph.shapes[graph.end("depthwise").name] == (1, 4, 4, 4)


def test_a_value_that_is_changed_in_place_is_read_from_a_copy():
    graph = Graph(crossing(), images(1))
    changed = next(node for node in graph.graph.nodes if node.target == "stem_norm")  # by the activation after it
    copied, kept = graph.read(changed), graph.end("depthwise")
    assert copied.target == "clone" and copied.prev is changed and graph.read(kept) is kept


def test_modules_keep_their_modes_and_a_graph_can_be_copied():
    model, x = crossing(), images(2)
    model.train()
    model.stem_norm.eval()
    morphed = deepen(model, "stem", x)
    assert morphed.training and morphed.a_norm.training and not morphed.stem_norm.training
    twin = copy.deepcopy(morphed)
    twin.load_state_dict(morphed.state_dict())
    assert equal(twin, morphed) and largest_difference(morphed, twin, x) == 0


def test_a_graph_of_a_graph_keeps_its_p_activations():
    x = images(2)
    morphed = deepen(morph_depth(crossing(), "b", x), "stem", x)
    assert sum(isinstance(module, PActivation) for module in morphed.modules()) == 1


def test_each_layer_is_looked_at_once(monkeypatch):
    graph, asked = Graph(crossing(), images(1)), []
    monkeypatch.setattr("lib.morphism.shared.graphs.layer_named", lambda _, name: asked.append(name))
    assert [type(graph.layer(name)) for name in ("a", "b", "a", "a")] == [nn.Conv2d] * 4 and asked == ["a", "b"]


def test_each_node_is_noted_with_its_value():
    model, noted = nn.Sequential(nn.ReLU(), PActivation(nn.ReLU())), {}
    module = fx.GraphModule(model, Tracer().trace(model))
    Noting(module, lambda node, value: noted.update({str(node.target): value.tolist()})).run(torch.tensor([-1.0, 2.0]))
    assert noted == {"input": [-1, 2], "0": [0, 2], "1": [0, 2], "output": [0, 2]}


class Asks(nn.Module):
    def __init__(self, what: str):
        super().__init__()
        self.what, self.layer = what, nn.Linear(2, 2)

    def forward(self, x):
        if self.what == "value" and x.sum() > 0:
            return x
        if self.what == "dropout":
            return nn.functional.dropout(self.layer(x), 0.5, self.training)
        if self.what == "twice":
            return self.layer(self.layer(x))
        return self.layer(x[:, :1])


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("value", "Asks cannot be traced by torch.fx: .*control flow"),
        ("dropout", "Asks asks in its own forward whether it is training"),
        ("shape", "Asks does not run on the example"),
        ("twice", "layer 'layer' is called 2 times: it must be called once"),
    ],
)
def test_networks_that_cannot_be_traced_are_refused(what, message):
    with refused(model := Asks(what), message):
        deepen(model, "layer", torch.ones(1, 2))


def test_a_layer_inside_another_layer_is_refused():
    model = nn.Sequential(nn.TransformerEncoderLayer(4, 1, 4, batch_first=True))
    with refused(model, r"layer '0.linear1' is called inside another layer, or not at all"):
        deepen(model, "0.linear1", torch.zeros(1, 2, 4))
