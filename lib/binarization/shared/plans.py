"""Plan which layers of a network read signs, which need a batch norm, and which activations the signs replace."""

from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib import owners, running
from lib.binarization.shared import flow, graphs
from lib.binarization.shared.conversion import free, none_left, norm_before, plain, read_signs, readable
from lib.binarization.shared.signs import Activation, Binarized
from lib.weights import replace

Runs = list[list[graphs.Step]]


@dataclass(frozen=True)
class Plan:
    """How the inputs of layers become signs.

    readers: names of the layers that read signs.
    normed: those of them that get a batch norm before the sign.
    removed: names of the activations that the signs replace.
    """

    readers: list[str]
    normed: list[str]
    removed: list[str]


def planned(
    model: nn.Module,
    names: Collection[str] | None,
    *,
    activation: Activation,
    ends: Collection[str] = ("first",),
    named_ends: bool = True,
    norm: bool | None = None,
    remove: bool = False,
    example: Tensor | None = None,
) -> Plan:
    """Plan which layers read signs, by what flows through the network and not by the order of its modules.

    model: the network; unchanged.
    names: of linear and 2-d convolution layers that run; None (default): all that run, except for ``ends``.
    activation: through which such a layer reads; its thresholds are used.
    ends: which layers do not read signs: the "first", those that read the network's input, and the "last", those whose
      outputs are the network's.
    named_ends: whether such layers read signs if they are named; True by default.
    norm: whether a batch norm comes before each sign; None (default): only before signs that follow none.
    remove: whether the activations that signs replace are removed; False by default.
    example: a batch of the network's input, for a network that torch.fx cannot trace; None by default.

    Raises ValueError for another name, a layer that is not called, if no layer is left, for an activation that is
    called as a function or that something else reads too, an input whose signs are all the same, and a network that
    cannot be traced.
    """
    accepted = free(model, names or ())
    for name in names or ():
        readable(model, name)
    if not accepted or (names is not None and not names) or (names is None and _reads_signs(model)):
        raise none_left(model)
    runs = graphs.steps(model, example)
    called = list(dict.fromkeys(step.module or "" for steps in runs for step in steps if step.module in accepted))
    for name in names or ():
        if name not in called:
            owner = type(model.get_submodule(name.rpartition(".")[0])).__name__
            raise ValueError(
                f"layer {name!r} is not called in {type(model).__name__}, so it cannot read signs: its owner, a"
                f" {owner}, reads its weight itself, or it never runs"
            )
    for name in names or ():
        for attribute, owner in _read(model, name).items():
            raise ValueError(
                f"layer {name!r} cannot read signs: {owner} reads its {attribute} itself, besides calling it"
            )
    real = {name for end in ends for name in _ends(runs, called)[end]} if names is None or not named_ends else set()
    if names is None:
        names = [n for n in accepted if n in called and plain(model.get_submodule(n)) and not _read(model, n)]
    readers = [name for name in dict.fromkeys(names) if name not in real]
    if not readers and named_ends:
        raise none_left(model)
    ready = [flow.normalized(steps) for steps in runs]
    normed = [n for n in readers if norm or (norm is None and not all(ready[r][i] for r, i in _inputs(runs, n)))]
    thresholds = [threshold for threshold, _ in activation.bases()]
    removed = _removed(runs, readers, normed, thresholds, remove)
    for name in removed:
        for attribute, owner in _read(model, name).items():
            raise ValueError(f"a sign would replace {name!r}, but {owner} reads its {attribute}")
    return Plan(readers, normed, removed)


def _read(model: nn.Module, name: str) -> dict[str, str]:
    """What a module's owners read from it that not every module has: attribute -> owner."""
    return {a: owner for a, owner in owners.reads(model, name).items() if not hasattr(nn.Identity(), a)}


def _reads_signs(model: nn.Module) -> bool:
    return any(isinstance(module, Binarized) for module in model.modules())


def _ends(runs: Runs, called: list[str]) -> dict[str, set[str]]:
    """The first and the last of the layers that run, by what flows through them: there may be several of each."""
    first, last = set[str](), set[str]()
    for steps in runs:
        fresh = flow.untouched(steps)
        for place, step in enumerate(steps):
            if step.module is None or step.module not in called:
                continue
            if any(fresh[read] for read in step.reads):
                first.add(step.module)
            if any(steps[i].kind == "output" for i in flow.after(steps, place)):
                last.add(step.module)
    return {"first": first or set(called[:1]), "last": last or set(called[-1:])}


def _inputs(runs: Runs, name: str) -> list[tuple[int, int]]:
    """(run, place) of all that the layer reads."""
    return [(r, i) for r, steps in enumerate(runs) for step in steps if step.module == name for i in step.reads]


def _removed(runs: Runs, readers: list[str], normed: list[str], thresholds: list[float], remove: bool) -> list[str]:
    """The activations to remove, so that signs replace them and no sign is constant."""
    gone: dict[str, str] = {}  # activation -> a layer that reads it
    todo = readers if remove else []
    while True:
        for name in todo:
            gone |= dict.fromkeys(_activations(runs, name, gone), name)
        spans = [flow.bounds(steps, gone) for steps in runs]
        constant = {
            name: spans[r][i]
            for name in readers
            for r, i in _inputs(runs, name)
            if name not in normed and any(spans[r][i][0] >= t or spans[r][i][1] < t for t in thresholds)
        }
        todo = [name for name in constant if remove and _activations(runs, name, gone)]
        if not todo:
            break
    for name, (low, high) in constant.items():
        raise ValueError(
            f"layer {name!r} only reads values from {low:g} to {high:g}, so their sign is always the same:"
            f" it needs values on both sides of {' and '.join(f'{t:g}' for t in thresholds)}, for example after a batch"
            " norm"
        )
    for activation, name in gone.items():
        _check_no_other_reads(runs, activation, name, readers)
    return list(gone)


def _activations(runs: Runs, name: str, gone: Collection[str]) -> list[str]:
    """The activations that the sign of this layer replaces."""
    found = []
    for steps in runs:
        places = [place for place, step in enumerate(steps) if step.module == name]
        for step in [steps[i] for place in places for i in flow.before(steps, place, gone)]:
            if flow.replaceable(step):
                if step.module is None:
                    raise ValueError(
                        f"layer {name!r} reads what the function {step.kind} gives, whose place its sign would take:"
                        f" call a module such as nn.ReLU() there, which can be removed"
                    )
                found.append(step.module)
    return found


def _check_no_other_reads(runs: Runs, activation: str, name: str, readers: Collection[str]) -> None:
    for steps in runs:
        for place, step in enumerate(steps):
            for i in flow.after(steps, place) if step.module == activation else ():
                if steps[i].module not in readers:
                    other = "the output" if steps[i].kind == "output" else repr(steps[i].module or steps[i].kind)
                    raise ValueError(
                        f"the sign of layer {name!r} would replace the activation {activation!r}, but"
                        f" {other} reads its values too: name that layer as well, or give each a module of its own"
                    )


def read_activations(model: nn.Module, plan: Plan, activation: Callable[[], Activation]) -> nn.Module:
    """Let the planned layers read through an activation such as the sign. In place.

    model: the network that the plan is for.
    plan: as :func:`planned` gives it.
    activation: makes a new one for each layer, for example :class:`lib.binarization.shared.signs.SignActivation`.
    Returns the model to use from now on.
    """
    for name in plan.removed:
        model = replace(model, name, nn.Identity().train(model.get_submodule(name).training))
    return read_signs(
        model,
        plan.readers,
        lambda name, layer: Binarized(layer, activation(), norm_before(layer) if name in plan.normed else None),
    )


@torch.no_grad()
def check_signs(model: nn.Module, example: Tensor) -> None:
    """Run a network on an example and raise ValueError if all signs that a layer reads are the same.

    model: with layers that read signs. Its batch norms normalize by this batch, and change as they do in training.
    example: a batch of its input, two or more.

    Raises ValueError for a layer whose inputs, once they are signs, are never below 0 or never above, and for an
    example on which the network does not run.
    """
    seen: dict[str, tuple[float, float]] = {}

    def note(name: str, values: Tensor) -> None:
        low, high = seen.get(name, (0.0, 0.0))
        seen[name] = min(low, values.min().item()), max(high, values.max().item())

    for name, module in model.eval().named_modules():
        if isinstance(module, Binarized):
            module.activation.register_forward_hook(lambda _, __, values, name=name: note(name, values))
        if isinstance(module, graphs.BATCH_NORMS):
            module.train()
    running.logits(model, example)
    for name, (low, high) in seen.items():
        if low >= 0 or high <= 0:
            raise ValueError(
                f"for this example no sign that layer {name!r} reads is {'-1' if low >= 0 else '+1'}: what comes before"
                " it passes one side only, or the example is too small"
            )
