"""A cache that is never wrong: another key, a damaged entry, two processes at once."""

import copy
import multiprocessing
import os
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
    with pytest.raises(TypeError, match="not JSON serializable"):
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
