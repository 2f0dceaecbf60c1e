"""A cache of trained networks. Its key is everything that the training depends on."""

import hashlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from types import FunctionType
from typing import Concatenate, ParamSpec, TypeVar

import safetensors
import safetensors.torch
import torch
from filelock import FileLock
from torch import Tensor, nn

from lib import imports

Arguments = ParamSpec("Arguments")
Model = TypeVar("Model", bound=nn.Module)


def cached(
    train: Callable[Concatenate[Model, Arguments], object],
    model: Model,
    *none: Arguments.args,
    **arguments: Arguments.kwargs,
) -> Model:
    """Call ``train(model, **arguments)``, which trains ``model`` in place, or read its result from the cache.

    The key is the code of ``train``'s module, of the model's classes and of every file of ``lib`` that they import, the
    model's own weights, and the arguments, with the code of the networks, functions and dataclasses among them. The
    cache is the folder ``$SURVEY_CACHE``, or ``_build/cache``; a damaged entry is trained again. Two processes that
    want the same network train it once: the second waits.

    train: a function of a module in a file, without captured variables.
    model: any network, not compressed. It is changed in place.
    arguments: all by name: numbers, strings, lists, dicts, tensors, networks, functions without captured variables, and
        dataclasses of them, such as data splits. Tensors and networks count by their content.

    Returns the model, trained and in evaluation mode.
    Raises TypeError, before anything is trained, for arguments that ``train`` does not take or that cannot be part of
    the key; ValueError for a function or a network whose code is in no file, and for a model that training leaves
    compressed.

    >>> import tempfile, unittest.mock
    >>> from lib import datasets, models, training
    >>> options = {"split": datasets.load("monks-1-rule").train, "epochs": 2, "seed": 0}
    >>> with tempfile.TemporaryDirectory() as place, unittest.mock.patch.dict(os.environ, SURVEY_CACHE=place):
    ...     trained = cached(training.fit, models.mlp(inputs=17, hidden=(9,), classes=2), **options)
    ...     again = cached(training.fit, models.mlp(inputs=17, hidden=(9,), classes=2), **options)  # read, not trained
    >>> torch.equal(trained.fc1.weight, again.fc1.weight)
    True
    """
    inspect.signature(train).bind(model, *none, **arguments)
    if none:
        raise TypeError(f"{train.__name__} is cached with the model and named arguments alone")
    folder = Path(os.environ.get("SURVEY_CACHE") or Path(__file__).parents[1] / "_build" / "cache")
    folder.mkdir(parents=True, exist_ok=True)
    key = _key(train, model, arguments)
    path = folder / f"{train.__name__}-{key}.safetensors"
    with FileLock(path.with_suffix(".lock")):
        state = _read(path)
        if state is None:
            names = model.state_dict().keys()
            train(model, *none, **arguments)
            state = {name: value.detach().clone().contiguous() for name, value in model.state_dict().items()}
            if state.keys() != names:
                raise ValueError(f"{train.__name__} changes how weights are stored: decompress the model to cache it")
            partial = path.with_suffix(".partial")
            safetensors.torch.save_file(state, partial, metadata={"digest": _digest(state)})
            partial.replace(path)
    model.load_state_dict(state)
    return model.eval()


def trained(
    train: Callable[Concatenate[Model, Arguments], object],
    build: Callable[[int], Model],
    seeds: Iterable[int],
    *none: Arguments.args,
    **arguments: Arguments.kwargs,
) -> list[Model]:
    """Return one trained network for each seed, each trained once and read from the cache from then on.

    train: called as ``train(model, seed=seed, **arguments)``; see :func:`cached`.
    build: seed -> an untrained network.
    seeds: of the initial weights and of the training.
    arguments: as for :func:`cached`.

    Raises what :func:`cached` raises.

    >>> import tempfile, unittest.mock
    >>> from lib import datasets, models, training
    >>> build = lambda seed: models.mlp(seed, inputs=17, hidden=(9,), classes=2)
    >>> with tempfile.TemporaryDirectory() as place, unittest.mock.patch.dict(os.environ, SURVEY_CACHE=place):
    ...     split = datasets.load("monks-1-rule").train
    ...     len(trained(training.fit, build, seeds=range(2), split=split, epochs=1))
    2
    """
    return [cached(train, build(seed), *none, **arguments, seed=seed) for seed in seeds]  # type: ignore[arg-type]


def _read(path: Path) -> dict[str, Tensor] | None:
    if not path.exists():
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
            return state if file.metadata().get("digest") == _digest(state) else None
    except (safetensors.SafetensorError, OSError, AttributeError):
        return None


def _digest(value: object) -> str:
    """One digest of values that may be part of a key: tensors, splits, state dicts, numbers, strings, lists."""
    digest = hashlib.sha256()

    def feed(item: object) -> None:
        if isinstance(item, Tensor):
            digest.update(f"{item.dtype}{tuple(item.shape)}".encode())
            digest.update(item.detach().contiguous().flatten().view(torch.uint8).numpy().data)
        elif isinstance(item, nn.Module):
            feed([str(item), item.state_dict()])
        elif isinstance(item, FunctionType):
            feed(_named(item))
        elif is_dataclass(item):
            feed([_named(type(item)), *(getattr(item, field.name) for field in fields(item))])
        elif isinstance(item, dict):
            feed([[key, item[key]] for key in sorted(item)])
        elif isinstance(item, list | tuple):
            digest.update(b"[")
            for each in item:
                feed(each)
                digest.update(b",")
            digest.update(b"]")
        else:
            digest.update(json.dumps(item).encode())  # anything else is not a cache key: TypeError

    feed(value)
    return digest.hexdigest()


def _named(item: type | FunctionType) -> str:
    return f"{item.__module__}.{item.__qualname__}"


def _own(item: object) -> Iterator[type | FunctionType]:
    """The classes and functions whose code an argument brings along."""
    if isinstance(item, nn.Module):
        yield from map(type, item.modules())
    elif isinstance(item, FunctionType):
        yield item
    elif is_dataclass(item):
        yield type(item)
        yield from _own([getattr(item, field.name) for field in fields(item)])
    elif isinstance(item, dict):
        yield from _own(list(item.values()))
    elif isinstance(item, list | tuple):
        for each in item:
            yield from _own(each)


def _key(train: Callable, model: nn.Module, arguments: dict[str, object]) -> str:
    brought = {*_own(model), *_own(arguments)}
    for function in (train, *brought):
        if getattr(function, "__closure__", None) and not isinstance(function, type):
            raise ValueError(f"{function.__name__} cannot be cached: it captures variables; pass them as arguments")
    try:
        files = {Path(inspect.getfile(sys.modules[train.__module__]))}
    except (AttributeError, KeyError, OSError, TypeError) as error:
        raise ValueError(f"{train!r} cannot be cached: accepted is a function of a module that is in a file") from error
    own: dict[str, str] = {}
    for kind in sorted(brought, key=_named):
        top = kind.__module__.split(".")[0]
        if top == imports.PACKAGE:
            files.add(Path(inspect.getfile(kind)))
        elif top not in ("torch", "torchvision"):
            try:
                own[_named(kind)] = inspect.getsource(getattr(kind, "forward", kind))
            except (OSError, TypeError) as error:
                raise ValueError(f"{kind.__name__} cannot be cached: its code is not in a file") from error
    codes = [imports.code_of_file(path) for path in [*files, *imports.closure_of_files(Path(__file__).parent, files)]]
    return _digest([sorted(codes), own, train.__qualname__, str(model), model.state_dict(), arguments])[:24]
