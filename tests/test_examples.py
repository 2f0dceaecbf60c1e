"""The examples in docstrings run, and every technique and every part of the foundation has one."""

import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path

import pytest
import torch
import yaml

import lib

PROJECT = Path(__file__).parents[1]
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(lib.__path__, "lib.")
    if module.name.split(".")[1] not in ("__main__", "book")
)
TECHNIQUES = sorted(
    row["file"].removesuffix(".py").replace("/", ".")
    for row in yaml.safe_load((PROJECT / "survey" / "techniques.yml").read_text())
)
FOUNDATION = [
    name for name in MODULES if name.count(".") == 1 and not hasattr(importlib.import_module(name), "__path__")
]
WITHOUT = {  # shown by what a chapter does with them: they display, or have no value to print
    "lib.evidence",
    "lib.vision",
}


def examples(module) -> dict[str, doctest.DocTest]:
    finder = doctest.DocTestFinder(exclude_empty=True)
    return {test.name: test for test in finder.find(module, module.__name__) if test.examples}


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_run(name, capsys):
    module = importlib.import_module(name)
    with torch.random.fork_rng(devices=[]):
        for test in examples(module).values():
            torch.manual_seed(0)
            runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.NORMALIZE_WHITESPACE)
            runner.run(test)
            assert runner.failures == 0, capsys.readouterr().out


@pytest.mark.parametrize("name", TECHNIQUES)
def test_every_technique_has_an_example(name):
    assert examples(importlib.import_module(name)), f"{name} has no example: three lines that run, in its main function"


def test_every_public_function_of_the_foundation_has_an_example():
    missing = []
    for name in sorted(set(FOUNDATION) - WITHOUT):
        module = importlib.import_module(name)
        shown = " ".join(line.source for test in examples(module).values() for line in test.examples)
        for function, value in vars(module).items():
            own = inspect.isfunction(value) and value.__module__ == name and not function.startswith("_")
            if own and f"{function}(" not in shown:
                missing.append(f"{name}.{function}")
    assert FOUNDATION and not missing
