"""A trial tells what works from what is refused and from a fault; each kind can fail."""

import ast
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import lib
from lib.book.zoo import matrix, trials


def tried(kind: str, call: str, network: str = "CSP block") -> tuple[str, str]:
    outcome = trials.tried(kind, call, network, limit=20)
    return outcome.state, outcome.says


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        ("weights", "sign_quantization.quantize(model)"),
        ("scores", "filter_l1.scores(model, split)"),
        ("factorization", "low_rank.factorize_model(model, rank=2)"),
        ("masks", "granularity.masks(model, split.images[:1], level='kernel', density=0.5)"),
        ("trained", "lottery_ticket.train(model, split, masks={}, epochs=1, seed=0)"),
        ("taught", "soft_targets.distiller(model)"),
        ("smaller", "sparse_speed.shrunk(model, split.images[:1], fraction=0.5, multiple_of=1)"),
        ("runtime", "runtime.RuntimeNetwork(model, split.images[:1])"),
        ("approximate", "copy.deepcopy(model)"),
    ],
)
def test_what_keeps_its_promise_works(kind, call):
    assert tried(kind, call)[0] == "works"


SCORES = "{'stem.0': torch.arange(16.0)}"


@pytest.mark.parametrize(
    ("kind", "call", "says"),
    [
        ("weights", "model", "no weight is compressed"),
        ("weights", "1 / 0", "ZeroDivisionError"),
        ("scores", "{'stem.0': torch.ones(3)}", "AssertionError"),
        ("scores", "{'stem.0': torch.full((16,), torch.nan)}", "a score is no number"),
        ("scores", f"(model.head.weight.data.zero_(), {SCORES})[1]", "the model is changed"),
        ("factorization", "(copy.deepcopy(model), [])", "AssertionError"),
        ("masks", "{'stem.0': model.stem[0].weight == model.stem[0].weight}", "100 % of the weights are kept"),
        ("masks", "{'stem.0': model.stem[0].weight * 0}", "AssertionError"),
        ("trained", "model", "it has learned nothing"),
        ("trained", "model.head.register_forward_hook(lambda m, i, o: o + len(state))", "NameError"),
        ("taught", "(model.head.weight.data.zero_(), soft_targets.distiller(model))[1]", "the teacher has changed"),
        ("taught", "soft_targets.loss", "AttributeError"),
        ("smaller", "copy.deepcopy(model)", "AssertionError"),
        ("approximate", "torch.nn.Sequential(model.stem[0], torch.nn.Flatten(), torch.nn.LazyLinear(10))", "far off"),
    ],
)
def test_what_breaks_its_promise_is_a_fault(kind, call, says):
    state, text = tried(kind, call)
    assert state == "fault" and says in text


def raising(message: str, before: str = "None") -> str:
    return f"({before}, (_ for _ in ()).throw(ValueError({message!r})))"


def test_a_refusal_names_a_layer_or_the_network():
    assert tried("weights", raising("layer 'head' is linear: accepted is nothing"))[0] == "refused"
    assert tried("weights", raising("CSP has no layer to prune"))[0] == "refused"
    state, says = tried("weights", raising("the width does not fit"))
    assert state == "fault" and "names no layer: the width does not fit" in says


def test_a_refusal_comes_before_anything_is_changed():
    state, says = tried("weights", raising("layer 'head' is linear", "model.head.bias.data.add_(1)"))
    assert state == "fault" and "changed the model before it refused" in says


def test_a_trial_that_does_not_end_is_a_fault():
    outcome = trials.tried("weights", "[0 for _ in iter(int, 1)]", "CSP block", limit=1)
    assert outcome.state == "fault" and "did not end within 1 s" in outcome.says


def test_modules_of_techniques_can_be_called_and_none_of_the_book():
    named = trials.modules()
    assert {"magnitude", "structure", "inference", "torch"} <= named.keys() and "build" not in named
    assert named["torch"] is torch


def test_the_names_in_trials_mean_one_module_each():
    """A trial knows a module by the last part of its name: of two that share it, one would take the other's place."""
    calls = [trial["call"] for trial in matrix.trials(Path(__file__).parents[3]).values()]
    used = {node.id for call in calls for node in ast.walk(ast.parse(call)) if isinstance(node, ast.Name)}
    used |= set(re.findall(r'modules\(\)\["(\w+)"\]', Path(trials.__file__).read_text("utf-8")))
    names = [module.name for module in pkgutil.walk_packages(lib.__path__, "lib.") if ".book" not in module.name]
    found = {name: [path for path in names if path.endswith(f".{name}")] for name in used}
    assert {"inference", "thinet"} <= {name for name, paths in found.items() if paths}
    assert {name: paths for name, paths in found.items() if len(paths) > 1} == {}
