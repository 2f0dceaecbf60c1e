"""What a network computes, step by step: which module or function reads what, traced by torch.fx or seen in a run."""

import copy
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from lib import running
from lib.binarization.shared.signs import LAYERS, Activation, Binarized

BATCH_NORMS = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d | nn.SyncBatchNorm
KINDS = {"placeholder": "input", "get_attr": "constant", "output": "output"}
# Kinds of steps that ask for a size or compare values, and give no values.
ASKED = ("size", "dim", "ndimension", "numel", "len", "getattr", "isinstance", "assert", "assertisnone")
SHAPES = frozenset((*ASKED, "eq", "ne", "gt", "lt", "ge", "le"))


@dataclass(frozen=True)
class Step:
    """One operation of a forward pass.

    kind: what it does, in lower case without underscores, the same for module and function: "relu", "conv2d", "add",
      and "input", "output" and "constant" (a parameter, a buffer).
    module: the name of the module that does it; None for a function.
    reads: the places, in the list of steps, of those whose values it reads.
    apply: the operation as a function of one tensor; None where it reads several, or none.
    """

    kind: str
    module: str | None
    reads: tuple[int, ...]
    apply: Callable[[Tensor], Any] | None = None


def steps(model: nn.Module, example: Tensor | None = None) -> list[list[Step]]:
    """The steps of a network in training mode and in evaluation mode, each in the order in which they run.

    Modules of torch are one step each, so what happens inside attention is not seen. The model is unchanged.

    model: any network that torch.fx can trace; any network at all if an example is given.
    example: a batch of its input, on which a copy runs; None (default): torch.fx traces the network without running it.

    Raises ValueError for a network that torch.fx cannot trace if there is no example, and one that does not run on it.

    >>> [step.kind for step in steps(nn.Sequential(nn.Linear(3, 2), nn.ReLU()))[0]]
    ['input', 'linear', 'relu', 'output']
    """
    if _whole(model):
        return 2 * [[Step("input", None, ()), Step(_kind(model), "", (0,), model), Step("output", None, (1,))]]
    with _unchanged(model):
        return [_traced(model.train(m)) if example is None else _seen(model, m, example) for m in (True, False)]


def _whole(module: nn.Module) -> bool:
    """Whether a module is one step: torch's own except nn.Sequential, layers and norms derived from them, and ours."""
    of_torch = type(module).__module__.startswith("torch.nn") and not isinstance(module, nn.Sequential)
    return of_torch or isinstance(module, LAYERS | BATCH_NORMS | Binarized | Activation)


def _kind(target: Any) -> str:
    """ "relu" for nn.ReLU, torch.relu_, Tensor.relu: the name in lower case without underscores."""
    if isinstance(target, nn.Module):
        target = "batchnorm" if isinstance(target, BATCH_NORMS) else type(target).__name__
    name = target if isinstance(target, str) else getattr(target, "__name__", type(target).__name__)
    return name.lower().replace("_", "")


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Restore modes, and whatever a forward pass set in a module, afterwards."""
    before = [(module, dict(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, kept in before:
            vars(module).clear()
            vars(module).update(kept)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return _whole(m)


def _traced(model: nn.Module) -> list[Step]:
    given = inspect.signature(model.forward).parameters.values()
    fixed = {p.name: p.default for p in given if p.default is not p.empty}
    try:
        nodes = list(_Tracer().trace(model, fixed or None).nodes)
    except Exception as error:  # whatever tracing runs into, an example helps
        reason = str(error).strip().split("\n")[0]
        raise ValueError(
            f"{type(model).__name__} cannot be traced by torch.fx ({reason}): give an example, a batch of its input"
        ) from error
    place = {node: i for i, node in enumerate(nodes)}
    found: list[Step] = []
    shapes: set[int] = set()  # steps that give sizes, not values
    for i, node in enumerate(nodes):
        reads = [place[each] for each in pytree.tree_leaves((node.args, node.kwargs)) if isinstance(each, fx.Node)]
        module = str(node.target) if node.op == "call_module" else None
        target = node.target if module is None else model.get_submodule(module)
        kind = KINDS.get(node.op) or _kind(target)
        if kind in SHAPES or (reads and shapes.issuperset(reads)):
            shapes.add(i)
        values = tuple(read for read in reads if read not in shapes)
        apply: Any = None
        if len(set(reads)) == 1 and node.op.startswith("call"):
            alone = module is not None and len(node.args) == 1 and not node.kwargs
            apply = target if alone else partial(_applied, node, target)
        found.append(Step(kind, module, values, apply))
    return found


def _applied(node: fx.Node, target: Any, x: Tensor) -> Any:
    """What a node that reads one value gives for x."""
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda _: x)
    return getattr(x, target)(*args[1:], **kwargs) if isinstance(target, str) else target(*args, **kwargs)


class _Seen(TorchFunctionMode):
    """Notes each function of torch that runs outside of a module that is one step."""

    def __init__(self, example: Tensor) -> None:
        super().__init__()
        self.inside = 0  # how many modules that are one step are running
        self.steps = [Step("input", None, ())]
        self.kept: list[Tensor] = [example]  # alive, so that no other tensor gets its id
        self.made = {id(example): 0}  # tensor -> the step that made it

    def note(self, target: Any, module: str | None, args: Any, kwargs: Any, output: Any) -> None:
        results = [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]
        if not results:
            return  # a question about the shape, for example
        read = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        for tensor in read:
            if id(tensor) not in self.made:
                self._keep(tensor, Step("constant", None, ()))
        reads = tuple(self.made[id(tensor)] for tensor in read)

        def apply(x: Tensor) -> Any:
            changed = pytree.tree_map_only(Tensor, lambda _: x, (args, kwargs))
            return target(*changed[0], **changed[1])

        alone = module is not None and len(args) == 1 and not kwargs
        one = len(set(reads)) == 1
        self.steps.append(Step(_kind(target), module, reads, (target if alone else apply) if one else None))
        for tensor in results:
            self._keep(tensor)

    def _keep(self, tensor: Tensor, step: Step | None = None) -> None:
        self.steps += [step] if step else []
        self.kept.append(tensor)
        self.made[id(tensor)] = len(self.steps) - 1

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if not self.inside:
            self.note(func, None, args, kwargs or {}, output)
        return output


@torch.no_grad()
def _seen(model: nn.Module, training: bool, example: Tensor) -> list[Step]:
    model, seen = copy.deepcopy(model).train(training), _Seen(example)

    def before(*_: Any) -> None:
        seen.inside += 1

    def after(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            seen.inside -= 1
            if not seen.inside:
                seen.note(module, name, args, kwargs, output)

        return hook

    for name, module in model.named_modules():
        if _whole(module):
            module.register_forward_pre_hook(before)
            module.register_forward_hook(after(name), with_kwargs=True)
    with torch.random.fork_rng(devices=[example.device] if example.is_cuda else []), seen:
        output = running.logits(model, example)
    made = [seen.made[id(leaf)] for leaf in pytree.tree_leaves(output) if id(leaf) in seen.made]
    return [*seen.steps, Step("output", None, tuple(made))]
