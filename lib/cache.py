"""A cache of trained networks. Its key is everything that the training depends on."""

import dis
import hashlib
import inspect
import os
import reprlib
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import partial
from pathlib import Path, PurePath
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Concatenate, ParamSpec, TypeVar

import numpy as np
import safetensors
import safetensors.torch
import torch
from filelock import FileLock
from torch import Tensor, nn

from lib import imports

Arguments = ParamSpec("Arguments")
Model = TypeVar("Model", bound=nn.Module)
PLAIN = bool | int | float | complex | str | bytes | tuple | list | dict | Tensor


def cached(
    train: Callable[Concatenate[Model, Arguments], object],
    model: Model,
    *none: Arguments.args,
    **arguments: Arguments.kwargs,
) -> Model:
    """Call ``train(model, **arguments)``, which trains ``model`` in place, or read its result from the cache.

    The key is the code of ``train``'s module, of the model's classes and of every file of ``lib`` that they import, the
    model itself, and the arguments, with the code of the networks, functions and dataclasses among them. A network
    counts by its weights and buffers, which of them are frozen or shared, its hooks, and the settings of its modules:
    their attributes without a leading ``_``. The cache is the folder ``$SURVEY_CACHE``, or ``_build/cache``; a damaged
    entry is trained again. Two processes that want the same network train it once: the second waits.

    train: a module-level function in a file, without captured variables.
    model: any network; a compressed weight counts by its form and stored tensors. It is changed in place.
    arguments: all by name: numbers, strings, lists, dicts, tensors, networks, functions without captured variables, and
        dataclasses of them, such as data splits. Tensors and networks count by their content.

    Returns the model, trained and in evaluation mode.
    Raises TypeError, before anything is trained, for arguments that ``train`` does not take or that cannot be part of
    the key; ValueError for a function or a network whose code is in no file, for a function that uses a variable of its
    module which cannot be part of the key, for a model with an extra state, and for training that changes how weights
    are stored.

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
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} of the model is {reprlib.repr(value)}: only tensors are cached")
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
    content = _Content()
    content.feed(value)
    return content.digest.hexdigest()


class _Content:
    """A digest of values, each with its type; it also collects the files of ``lib`` whose code they use."""

    def __init__(self) -> None:
        self.digest = hashlib.sha256()
        self.seen: dict[object, tuple[int, object]] = {}  # kept here, so that no other object gets the same id
        self.files: set[Path] = set()

    def put(self, kind: str, content: bytes | memoryview = b"") -> None:
        self.digest.update(f"{kind} {len(content)}:".encode())
        self.digest.update(content)

    def again(self, key: object, item: object) -> bool:
        """Whether this was fed before: then it counts as the same object, as a tied weight does, not by its content."""
        known = key in self.seen
        number, _ = self.seen.setdefault(key, (len(self.seen), item))
        self.put(f"{number}")
        return known

    def feed(self, item: object, where: str = "it") -> None:
        """Add a value; ``where`` names it in the TypeError for a value that cannot be part of the key."""
        if isinstance(item, Enum):
            self.put(f"{_named(type(item))}.{item.name}")
        elif item is None or item is ... or isinstance(item, bool | int | float | complex | str | bytes):
            self.put(type(item).__name__, repr(item).encode("utf-8", "surrogatepass"))
        elif isinstance(item, Tensor):
            self.put(f"{item.dtype}{tuple(item.shape)}")
            self.put("values", item.detach().contiguous().flatten().view(torch.uint8).numpy().data)
        elif isinstance(item, list | tuple):
            self.put(f"{'tuple' if isinstance(item, tuple) else 'list'} of {len(item)}")
            for i, each in enumerate(item):
                self.feed(each, f"{where}[{i}]")
        elif isinstance(item, Mapping):
            self.put(f"mapping of {len(item)}")
            for key in sorted(item, key=lambda key: (type(key).__name__, str(key))):
                self.feed(key, f"a key of {where}")
                self.feed(item[key], f"{where}[{key!r}]")
        elif isinstance(item, set | frozenset):
            self.put("set")
            parts = []
            for each in item:  # in the order of their digests: a set has no order
                part = _Content()
                part.files = self.files
                part.feed(each, f"an element of {where}")
                parts.append(part.digest.hexdigest())
            self.feed(sorted(parts))
        elif isinstance(item, np.ndarray | np.generic) and item.dtype != object:
            self.put(f"{item.dtype}{item.shape}", item.tobytes())
        elif isinstance(item, torch.Generator):
            self.feed(item.get_state())
        elif isinstance(item, torch.dtype | torch.device | torch.layout | slice | range | PurePath):
            self.put(type(item).__name__, str(item).encode())
        elif isinstance(item, ModuleType):
            self.put("module", item.__name__.encode())
            self.file(item)
        elif isinstance(item, partial):
            self.feed([item.func, item.args, item.keywords], where)
        elif isinstance(item, MethodType):
            self.feed([item.__func__, item.__self__], where)
        elif isinstance(item, FunctionType):
            self.function(item, where)
        elif isinstance(item, type):
            self.kind(item, where)
        elif isinstance(item, BuiltinFunctionType | np.ufunc):
            self.put(f"{getattr(item, '__module__', None)}.{getattr(item, '__qualname__', item.__name__)}")
            if not isinstance(owner := getattr(item, "__self__", None), ModuleType):
                self.feed(owner, f"the owner of {where}")
        elif callable(getattr(item, "__wrapped__", None)):
            self.feed(item.__wrapped__, where)  # type: ignore[attr-defined]
        elif isinstance(item, nn.Module):
            self.network(item, "" if where == "it" else where)
        elif is_dataclass(item):
            self.kind(type(item), where)
            self.feed({field.name: getattr(item, field.name) for field in fields(item)}, where)
        elif _plain_object(item):
            if not self.again(id(item), item):
                self.kind(type(item), where)
                self.feed(vars(item), where)
        else:
            raise TypeError(
                f"{where} is {reprlib.repr(item)}, which cannot be part of the key: accepted are numbers, strings,"
                " lists, dicts, tensors, networks, functions and dataclasses of them"
            )

    def network(self, model: nn.Module, where: str) -> None:
        """Add all that a module computes with: settings, tensors, which of them are frozen or shared, and its parts."""
        if self.again(id(model), model):
            return
        self.kind(type(model), where)
        self.put("says", model.extra_repr().encode())
        settings = {key: value for key, value in vars(model).items() if not key.startswith("_")}
        for key in sorted(settings):
            self.put("setting", key.encode())
            self.feed(settings[key], f"{where}.{key}".lstrip("."))
        for hooks in (model._forward_pre_hooks, model._forward_hooks, model._backward_hooks, model._backward_pre_hooks):
            self.feed(list(hooks.values()), f"a hook of {where or type(model).__name__}")
        for key, tensor in [*model._parameters.items(), *model._buffers.items()]:
            self.put("tensor", key.encode())
            if tensor is None or not self.again(id(tensor), tensor):
                self.feed(tensor)
            if tensor is not None:
                self.put(f"{type(tensor).__name__} {tensor.requires_grad}")
                self.again(("memory", tensor.untyped_storage().data_ptr()), None)
        if any(
            getattr(type(model), own) is not getattr(nn.Module, own)
            for own in ("_save_to_state_dict", "get_extra_state")
        ):
            self.feed(model.state_dict(), where)
        for key, part in model._modules.items():
            self.put("part", key.encode())
            self.feed(part, f"{where}.{key}".lstrip("."))

    def function(self, function: FunctionType, where: str) -> None:
        """Add a function's name, code and defaults; outside ``lib``, also what it takes from its module."""
        self.put("function", f"{_named(function)} {function.__name__}".encode())
        if self.again(id(function), function):
            return
        self.feed([cell.cell_contents for cell in function.__closure__ or ()], f"what {function.__name__} captures")
        if _installed(function):
            return
        names = self.code(function.__code__)
        self.feed([function.__defaults__, function.__kwdefaults__], f"a default of {function.__name__}")
        if _top(function) == imports.PACKAGE:
            self.file(function)
            return
        for name in sorted(names & function.__globals__.keys()):
            try:
                self.feed(name)
                self.feed(function.__globals__[name], name)
            except TypeError as error:
                raise ValueError(f"{function.__name__} cannot be cached: it uses {name}, and {error}") from error

    def code(self, code: CodeType) -> set[str]:
        """Feed what code does, and return the names that it takes from its module."""
        names = {each.argval for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
        self.put("code", code.co_code + code.co_exceptiontable)
        self.feed([code.co_names, code.co_varnames, code.co_argcount, code.co_kwonlyargcount, code.co_flags])
        for constant in code.co_consts:
            if isinstance(constant, CodeType):
                names |= self.code(constant)
            else:
                self.feed(constant)
        return names

    def kind(self, kind: type, where: str) -> None:
        """Add a class by its name; outside ``lib`` and the installed packages, also its methods and plain values."""
        self.put("class", _named(kind).encode())
        if self.again(id(kind), kind):
            return
        for each in kind.__mro__:
            if _top(each) == imports.PACKAGE:
                self.file(each)
            elif not _installed(each):
                for key, value in sorted(vars(each).items()):
                    value = getattr(value, "__func__", value)
                    for part in (value.fget, value.fset) if isinstance(value, property) else (value,):
                        if isinstance(part, FunctionType) and part.__code__.co_filename != "<string>":  # made by Python
                            self.feed([key, part], where)
                        elif isinstance(part, PLAIN) and not key.startswith("__"):
                            self.feed([key, part], f"{each.__name__}.{key}")

    def file(self, item: ModuleType | FunctionType | type) -> None:
        if (item.__name__ if isinstance(item, ModuleType) else item.__module__).split(".")[0] == imports.PACKAGE:
            self.files.add(Path(inspect.getfile(item)))


def _plain_object(item: object) -> bool:
    """Whether all of an object's state is among its attributes: its classes are written in Python, without slots."""
    made = [vars(kind).get("__new__") for kind in type(item).__mro__ if kind is not object]
    return (
        hasattr(item, "__dict__")
        and not hasattr(item, "__slots__")
        and all(each is None or isinstance(each, staticmethod) for each in made)
    )


def _top(item: type | FunctionType) -> str:
    return (item.__module__ or "").split(".")[0]


def _installed(item: type | FunctionType) -> bool:
    """Whether code belongs to Python or to an installed package, and so counts by its name only."""
    top = _top(item)
    place = Path(getattr(sys.modules.get(top), "__file__", None) or "")
    if top == "__main__":  # a notebook
        return False
    return top in sys.stdlib_module_names or "site-packages" in place.parts or "dist-packages" in place.parts


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
    content = _Content()
    content.feed([own, train.__qualname__, train.__defaults__, train.__kwdefaults__])
    content.code(train.__code__)
    content.feed(model)
    for name in sorted(arguments):
        content.feed(name)
        content.feed(arguments[name], name)
    files |= content.files
    codes = [imports.code_of_file(path) for path in {*files, *imports.closure_of_files(Path(__file__).parent, files)}]
    content.feed(sorted(codes))
    return content.digest.hexdigest()[:24]
