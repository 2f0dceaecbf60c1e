"""A space of given networks, for a table of latencies: their operations are what tracing finds, functions included.

``latency_table(Networks({"mine": model}, images))`` times each different operation of a model once on this machine.
"""

import re
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate


@dataclass(frozen=True)
class Traced:
    """One operation of a traced network, with the arguments it was given.

    name: of the module or function, and what it was given: shapes of tensors, and values. A module's name holds all of
        its settings, also those that it does not print.
    function: module or function.
    arguments, options: by position and by name.
    """

    name: str
    function: Callable[..., object]
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]

    def call(self, device: torch.device) -> Callable[[], object]:
        """Return a call that runs the operation once.

        device: where it runs.
        """
        function = deepcopy(self.function).to(device) if isinstance(self.function, nn.Module) else self.function
        arguments, options = map_aggregate(
            (self.arguments, dict(self.options)), lambda value: value.to(device) if isinstance(value, Tensor) else value
        )
        return lambda: function(*arguments, **options)


class Networks:
    """Networks by name, each a candidate of :func:`lib.search.latency_table.latency_table`.

    models: name -> network that torch.fx can trace; they are not changed, and run in evaluation mode.
    images: (n, channels, height, width), what one timed run computes; usually n = 1.

    Raises ValueError for no network, and for one that cannot be traced or does not take such images.

    >>> space = Networks({"mlp": nn.Sequential(nn.Flatten(), nn.Linear(4, 2))}, torch.zeros(1, 1, 2, 2))
    >>> [operation.name for operation in space.operations_of("mlp")]
    ['Flatten(start_dim=1, end_dim=-1)((1, 1, 2, 2))', 'Linear(in_features=4, out_features=2, bias=True)((1, 4))']
    """

    def __init__(self, models: Mapping[str, nn.Module], images: Tensor) -> None:
        if not models:
            raise ValueError("models are empty: at least one network is needed")
        self.models, self.images = dict(models), images
        self._operations = {name: _operations(name, model, images) for name, model in self.models.items()}

    def operations_of(self, candidate: str) -> list[Traced]:
        """List the operations of a network, in the order in which they run.

        candidate: name of a network; others raise ValueError.
        """
        if candidate not in self._operations:
            raise ValueError(f"there is no network {candidate!r}: accepted are {', '.join(self._operations)}")
        return self._operations[candidate]

    def every_operation(self) -> list[Traced]:
        """List the different operations of all networks."""
        return list(self._different.values())

    @cached_property
    def _different(self) -> dict[str, Traced]:
        return {part.name: part for parts in self._operations.values() for part in parts}

    def call(self, candidate: str, device: torch.device) -> Callable[[], object]:
        """Return a call that runs a whole network once.

        candidate: name of a network.
        device: where it runs.
        """
        self.operations_of(candidate)
        model, images = deepcopy(self.models[candidate]).to(device).eval(), self.images.to(device)
        return lambda: model(images)


class _Recorder(fx.Interpreter):
    """Runs a traced network, and records what runs."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.parts: list[Traced] = []

    def run_node(self, n: fx.Node) -> Any:
        if n.op in ("call_module", "call_function", "call_method"):
            arguments, options = self.fetch_args_kwargs_from_env(n)
            function: Callable[..., object]
            match n.op:
                case "call_module":
                    module = self.fetch_attr(str(n.target))
                    function, kind = module, _described(module)
                case "call_method":
                    function, kind = getattr(type(arguments[0]), str(n.target)), str(n.target)
                case _:
                    function = n.target  # type: ignore[assignment]  # of a call_function: what is called
                    kind = getattr(function, "__name__", str(function))
            given = [str(map_aggregate(value, _shape)) for value in (*arguments, *options.values())]
            self.parts.append(Traced(f"{kind}({', '.join(given)})", function, arguments, options))
        return super().run_node(n)


def _described(module: nn.Module) -> str:
    """What a module prints, and the settings that it leaves out, such as the number of heads of an attention layer."""
    unsaid = []
    for path, part in module.named_modules():
        printed = part.extra_repr()
        for name, value in vars(part).items():
            if name.startswith("_") or name == "training" or type(value) not in (bool, int, float, str):
                continue
            if not re.search(rf"\b{re.escape(f'{name}={value}')}(?![\w.])", printed):
                unsaid.append(f"{path}.{name}={value}".lstrip("."))
    return " ".join([*repr(module).split(), *unsaid])


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, Tensor) else value


def _operations(name: str, model: nn.Module, images: Tensor) -> list[Traced]:
    try:
        traced = fx.symbolic_trace(deepcopy(model).eval())
    except Exception as error:  # tracing runs the network's own code, which may raise anything
        raise ValueError(f"torch.fx cannot trace the network {name!r}: {' '.join(str(error).split())}") from None
    recorder = _Recorder(traced)
    try:
        with torch.no_grad():
            recorder.run(images)
    except (RuntimeError, ValueError, TypeError) as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ValueError(f"{name!r} does not take images of {tuple(images.shape)}: {lines[0]}") from None
    return recorder.parts
