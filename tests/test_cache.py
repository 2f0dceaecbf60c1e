"""A cache that is never wrong: another key, a damaged entry, two processes at once."""

import copy
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import given
import pytest
import torch
from torch import nn

from lib import cache, models, training
from lib.cache import cached, trained
from lib.datasets import Split
from lib.precision import fixed_point

CALLS: list[str] = []


@pytest.fixture
def split():
    return given.split(20, 1, 28, 28, labels="in turn")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path / "cache"))
    CALLS.clear()
    return tmp_path / "cache"


def linear(seed: int = 0) -> nn.Module:
    return models.lenet_300_100(seed)


def small_step(model, *, amount=1.0, extra=None):
    CALLS.append("small_step")
    with torch.no_grad():
        for p in model.parameters():
            p.add_(amount)


def another_step(model, *, amount=1.0, extra=None):
    CALLS.append("another_step")
    small_step(model, amount=2 * amount)


def slow_step(model, *, log):
    with open(log, "a") as file:
        file.write(f"{os.getpid()}\n")
    time.sleep(0.4)
    small_step(model)


def fails(model):
    small_step(model)
    raise KeyError("stopped")


def stores_otherwise(model):
    nn.utils.parametrize.register_parametrization(model, "weight", nn.Identity())


def test_a_second_call_gives_the_same_network_without_training(folder):
    first = cached(small_step, nn.Linear(3, 3))
    assert len(CALLS) == 1
    torch.manual_seed(0)
    a, b = nn.Linear(3, 3), nn.Linear(3, 3)
    b.load_state_dict(a.state_dict())
    first, second = cached(small_step, a), cached(small_step, b)
    assert len(CALLS) == 2 and second is b and given.equal(first, second) and not second.training


def test_real_training_comes_back_bit_for_bit(folder, split):
    arguments = {"split": split, "epochs": 1, "seed": 0, "batch_size": 7, "learning_rate": 0.01}
    first, second = (cached(training.fit, models.lenet5(), **arguments) for _ in range(2))
    direct = models.lenet5()
    training.fit(direct, **arguments)
    assert given.equal(first, second) and given.equal(first, direct)


ARGUMENTS = [
    {},
    {"amount": 2.0},
    {"amount": 2},
    {"extra": [1, 23]},
    {"extra": [12, 3]},
    {"extra": [123]},
    {"extra": [[1], [23]]},
    {"extra": "12"},
    {"extra": {"a": 1}},
    {"extra": {"b": 1}},
    {"extra": torch.zeros(2, 3)},
    {"extra": torch.zeros(3, 2)},
    {"extra": torch.zeros(6).long()},
    {"extra": Split(torch.zeros(1, 1, 2, 2), torch.zeros(1))},
    {"extra": Split(torch.ones(1, 1, 2, 2), torch.zeros(1))},
    {"extra": True},
    {"extra": (1, 23)},
    {"extra": {1: 2, "a": 3}},
    {"extra": {"a": 3}},
    {"extra": [["a", 3]]},
    {"extra": {1, 2}},
]


def test_other_arguments_code_or_weights_are_another_entry(folder):
    def build(seed):
        torch.manual_seed(seed)
        return nn.Linear(2, 2)

    for arguments in ARGUMENTS:
        cached(small_step, build(0), **arguments)
    assert len(CALLS) == len(ARGUMENTS) == len(list(folder.glob("*.safetensors")))
    cached(small_step, build(1))
    cached(another_step, build(0))
    cached(small_step, nn.Sequential(build(0)))
    assert len(list(folder.glob("*.safetensors"))) == len(ARGUMENTS) + 3


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def test_the_key_holds_the_code_of_the_model_and_its_imports(folder, monkeypatch):
    torch.manual_seed(0)
    model = Doubled(2, 2)
    before = cache._key(small_step, model, {})
    assert cache._key(small_step, model, {}) == before != cache._key(another_step, model, {})
    monkeypatch.setattr(Doubled, "forward", nn.Linear.forward)
    assert cache._key(small_step, model, {}) != before
    monkeypatch.undo()
    network = models.resnet8()
    was, folder = cache._key(training.fit, network, {}), Path(training.__file__).parent
    code, code_of_file = cache.imports.code, cache.imports.code_of_file
    for edited, changes in (("models.py", True), ("datasets/__init__.py", True), ("storage.py", False)):
        text = (folder / edited).read_text()
        with monkeypatch.context() as patch:
            patch.setattr(cache.imports, "code", lambda t, text=text: "edited" if t == text else code(t))
            patch.setattr(
                cache.imports, "code_of_file", lambda p, e=folder / edited: "edited" if p == e else code_of_file(p)
            )
            assert (cache._key(training.fit, network, {}) != was) == changes, edited


def test_a_network_whose_code_is_in_no_file_is_not_cached(folder):
    space: dict = {"nn": nn, "__name__": "typed"}
    exec("class Typed(nn.Linear):\n    def forward(self, x):\n        return x", space)
    with pytest.raises(ValueError, match="Typed cannot be cached: its code is not in a file"):
        cached(small_step, space["Typed"](2, 2))


@pytest.mark.parametrize(
    "damage", [lambda c: b"", lambda c: c[:-1], lambda c: c[:-1] + bytes([c[-1] ^ 1]), lambda c: b"\xff" * 99]
)
def test_a_damaged_entry_is_trained_again_and_mended(folder, damage):
    expected = cached(small_step, models.lenet_300_100())
    (entry,) = folder.glob("*.safetensors")
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    assert given.equal(cached(small_step, models.lenet_300_100()), expected)
    assert len(CALLS) == 2 and entry.read_bytes() == whole


def test_training_that_fails_leaves_no_entry_and_no_lock_behind(folder):
    for _ in range(2):
        with pytest.raises(KeyError):
            cached(fails, nn.Linear(2, 2))
    assert not list(folder.glob("*.safetensors")) and not list(folder.glob("*.partial"))


def test_tied_weights_are_cached(folder):
    def build():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        model[1].weight = model[0].weight
        return model

    first, second = cached(small_step, build()), cached(small_step, build())
    assert given.equal(first, second) and len(CALLS) == 1 and second[0].weight is second[1].weight


def test_a_second_process_waits_for_the_first(folder, tmp_path):
    log = tmp_path / "trained"
    fork = multiprocessing.get_context("fork")
    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    both = [fork.Process(target=cached, args=(slow_step, model), kwargs={"log": str(log)}) for _ in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(30)
    assert [p.exitcode for p in both] == [0, 0] and len(log.read_text().splitlines()) == 1


@dataclass(frozen=True)
class Lesson:
    teacher: nn.Module
    amount: Callable[[float], float]
    options: dict


def half(amount):
    return amount / 2


def third(amount):
    return amount / 3


def learns(model, *, lesson):
    CALLS.append("learns")
    small_step(model, amount=lesson.amount(next(lesson.teacher.parameters()).sum().item()))


def test_networks_and_functions_in_an_argument_count_by_content(folder):
    student, teacher = nn.Linear(2, 2), linear(0)
    lessons = [Lesson(teacher, half, {"a": 1}), Lesson(linear(1), half, {"a": 1})]
    lessons += [Lesson(teacher, third, {"a": 1}), Lesson(teacher, half, {"a": 2})]
    for lesson in (*lessons, *copy.deepcopy(lessons)):
        cached(learns, copy.deepcopy(student), lesson=lesson)
    assert CALLS.count("learns") == 4


class Helped(nn.Linear):
    factor = 1

    def forward(self, x):
        return self.helper(super().forward(x))

    def helper(self, x):
        return x


def changed(build, change):
    model = given.seeded(build)
    change(model)
    return model


def encoder(**options):
    return given.seeded(lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, **options))


def pair():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    model[1].load_state_dict(model[0].state_dict())
    return model


def with_buffer(value):
    return changed(lambda: nn.Linear(2, 2), lambda m: m.register_buffer("b", torch.tensor(value), persistent=False))


def quantized(fraction_bits):
    return fixed_point.quantize(given.seeded(lambda: nn.Linear(3, 3)), fixed_point.Format(1, fraction_bits))


NETWORKS = {
    "another number of heads": lambda: (encoder(), given.seeded(lambda: nn.TransformerEncoderLayer(8, 4, 16))),
    "another order": lambda: (encoder(), encoder(norm_first=True)),
    "an attribute": lambda: [changed(lambda: nn.Linear(2, 2), lambda m, s=s: setattr(m, "scale", s)) for s in (1, 2)],
    "a buffer that is not saved": lambda: (with_buffer(1.0), with_buffer(2.0)),
    "another format": lambda: (quantized(7), quantized(2)),
    "frozen": lambda: (given.seeded(pair), changed(pair, lambda m: m[0].requires_grad_(False))),
    "tied": lambda: (given.seeded(pair), changed(pair, lambda m: setattr(m[1], "weight", m[0].weight))),
    "one memory": lambda: (given.seeded(pair), changed(pair, lambda m: setattr(m[1].weight, "data", m[0].weight))),
    "a hook": lambda: (given.seeded(pair), changed(pair, lambda m: m.register_forward_hook(half))),
}


@pytest.mark.parametrize("case", NETWORKS)
@pytest.mark.parametrize("place", ["model", "argument"])
def test_networks_that_learn_otherwise_have_another_key(case, place):
    def key(network):
        return cache._key(small_step, *((network, {}) if place == "model" else (nn.ReLU(), {"extra": network})))

    (one, other), again = NETWORKS[case](), NETWORKS[case]()
    assert [key(one), key(other)] == [key(network) for network in again]
    assert key(copy.deepcopy(one)) == key(one) != key(other)


def test_the_key_holds_all_methods_and_values_of_a_class(monkeypatch):
    model = given.seeded(lambda: Helped(2, 2))
    keys = [cache._key(small_step, model, {})]
    for name, value in (("helper", lambda self, x: -x), ("factor", 2)):
        monkeypatch.setattr(Helped, name, value)
        keys.append(cache._key(small_step, model, {}))
    assert len(set(keys)) == 3


LAMBDAS = [lambda x: x + 1, lambda x: x * 2]
FACTOR, STATE = 1, object()


def scaled(x):
    return FACTOR * x


def stateful(x):
    return STATE, x


def test_functions_count_by_their_code_defaults_and_values(monkeypatch):
    def key(**arguments):
        return cache._key(small_step, nn.ReLU(), arguments)

    one, other = LAMBDAS
    keys = [key(extra=one), key(extra=other), key(extra=[one, other]), key(extra=[other, one])]
    keys += [key(extra=lambda x, n=n: n * x) for n in (1, 2)] + [key(extra=lambda x, *, n=n: n * x) for n in (1, 2)]
    for factor in (1, 2):
        monkeypatch.setitem(globals(), "FACTOR", factor)
        keys.append(key(extra=scaled))
    assert len(set(keys)) == len(keys)
    assert cache._key(one, nn.ReLU(), {}) != cache._key(other, nn.ReLU(), {})
    with pytest.raises(ValueError, match=r"^stateful cannot be cached: it uses STATE, and STATE is <object .*accepted"):
        key(extra=stateful)


def test_the_key_is_the_same_in_another_process():
    code = (
        f"import {__name__} as t\n"
        "print(t.cache._key(t.small_step, t.quantized(7), {'extra': [{'a', 'b'}, t.scaled]}))"
    )
    paths = os.pathsep.join((str(Path(__file__).parent), str(Path(__file__).parents[1])))
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"  # another order of sets than in this process
    said = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert said.strip() == cache._key(small_step, quantized(7), {"extra": [{"a", "b"}, scaled]})


class Extra(nn.Linear):
    def get_extra_state(self):
        return {"a": 1}

    def set_extra_state(self, state):
        pass


def test_networks_that_are_not_tensors_alone_are_refused_by_name(folder):
    with pytest.raises(ValueError, match=r"^_extra_state of the model is \{'a': 1\}: only tensors are cached"):
        cached(small_step, Extra(2, 2))
    model = nn.Sequential(changed(lambda: nn.Linear(2, 2), lambda m: setattr(m, "source", iter([1]))))
    with pytest.raises(TypeError, match=r"^0\.source is <list_iterato.*cannot be part of the key"):
        cached(small_step, model)
    assert not CALLS


def test_an_argument_with_captured_variables_is_refused(folder):
    factor = 2
    with pytest.raises(ValueError, match="captures variables"):
        cached(learns, nn.Linear(2, 2), lesson=Lesson(linear(), lambda amount: amount * factor, {}))
    assert not CALLS


def test_what_cannot_be_a_key_is_refused_before_training(folder):
    amount = 3.0
    with pytest.raises(ValueError, match="captures variables"):
        cached(lambda model: small_step(model, amount=amount), nn.Linear(2, 2))
    with pytest.raises(ValueError, match="a function of a module that is in a file"):
        cached(eval("lambda model: None", {"__name__": "typed_in_a_notebook"}), nn.Linear(2, 2))
    with pytest.raises(TypeError, match=r"^extra is <object .*cannot be part of the key: accepted are numbers"):
        cached(small_step, nn.Linear(2, 2), extra=object())
    with pytest.raises(ValueError, match="decompress the model to cache it"):
        cached(stores_otherwise, nn.Linear(2, 2))
    assert not CALLS and not list(folder.glob("*.safetensors"))


def test_one_network_is_trained_for_each_seed_and_kept(folder, split):
    options = {"split": split, "epochs": 1, "learning_rate": 0.05}
    networks = trained(training.fit, linear, [3, 5], **options)
    alone = training.fit(fifth := linear(5), seed=5, **options) and fifth
    assert given.equal(networks[1], alone) and not given.equal(networks[0], alone)
    entries = sorted(folder.glob("*.safetensors"))
    again = trained(training.fit, linear, [3, 5], **options)
    assert len(entries) == 2 and sorted(folder.glob("*.safetensors")) == entries
    assert all(given.equal(*pair) for pair in zip(networks, again, strict=True))
