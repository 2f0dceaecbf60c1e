r"""Generative adversarial learning (GAL): soft masks on channels, branches and blocks, learned without labels.

A copy :math:`f_g` of a trained network :math:`f_b` gets one factor :math:`m_i \ge 0` for each channel and for each
branch or block that ends in an addition. The copy is trained to give the logits of :math:`f_b` while the factors
shrink, and a discriminator :math:`D` is trained to tell the logits of the two apart (lin2019gal):

.. math:: \min_{W, m} \max_D\; \mathbb E \log D(f_b) + \mathbb E \log(1 - D(f_g))
          + \tfrac{\mu}{2n} \textstyle\sum \lVert f_b - f_g \rVert^2 + \lambda \lVert m \rVert_1 + \mathcal R(W, D).

W and D take gradient steps. The factors take steps of FISTA, which set those of no use to exactly zero:

.. math:: m_t = \max(0,\; y_t - \eta \nabla - \eta \lambda), \qquad
          y_{t+1} = m_t + \tfrac{a_t - 1}{a_{t+1}} (m_t - m_{t-1}), \qquad a_{t+1} = \tfrac{1 + \sqrt{1 + 4 a_t^2}}2.

Differences from the authors' code: D has a ReLU between its layers and gives logits, where theirs is linear and takes
the sigmoid twice; FISTA has its gradient at the point y, and forgets its momentum at every epoch; batch norm keeps the
statistics of the trained network, as those of a batch would divide a common factor out again; all but the penalty is
divided by the mean square of the trained logits, so that one lambda means the same for every network; the gradient of W
is clipped to norm 1; and a branch or block counts as its number of channels.
"""

import copy
import itertools
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from lib import running, structure
from lib.datasets import Split
from lib.pruning.discrimination_aware import owner

ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")


def scores(model: nn.Module, data: Split, *, seed: int = 0, **how: object) -> dict[str, Tensor]:
    """Layer name -> (filters,): the learned factor, larger = keep; the labels are not read.

    A factor that has reached zero counts -(share of the steps since it was last above): the later, the better.
    how: arguments of :func:`learn`. The model is not changed.
    """
    learned = learn(model, data.images, seed=seed, **how)
    result = {}
    for group, factors, silent in zip(learned.groups, learned.channels, learned.silent, strict=True):
        result |= {name: torch.where(factors > 0, factors, -silent) for name in group.producers}
    return result


@dataclass
class Learned:
    """What :func:`learn` gives.

    model: the trained copy, without the factors. channels: (channels,) factors of each of the groups. parts: the factor
    of each branch or block. silent: for each channel, the share of the steps since its factor was last above zero.
    """

    model: nn.Module
    groups: list[structure.Group]
    channels: list[Tensor]
    parts: dict[str, Tensor]
    silent: list[Tensor]

    def folded(self) -> nn.Module:
        """A copy of the network with the factors multiplied into its weights; nothing is smaller."""
        model = copy.deepcopy(self.model)
        found = weights(model, self.groups, self.channels, self.parts)
        model.load_state_dict({name: value.detach() for name, value in found.items()}, strict=False)
        return model

    def removed(self, example_input: Tensor) -> nn.Module:
        """The folded network without all channels, branches and blocks whose factor is zero: physically smaller.

        Each layer keeps one channel, and each addition one summand. example_input: (n, channels, height, width).
        """
        zero = {name for name, factor in self.parts.items() if factor == 0}
        for names in summands(self.model) if zero else []:
            if len(names) > 1 and zero.issuperset(names):
                zero.discard(names[0])
        model = without(self.folded(), zero)
        left, masks = {name for name, _ in model.named_modules()}, {}
        for group, factors in zip(self.groups, self.channels, strict=True):
            alive = (factors > 0) | (torch.arange(group.channels) == factors.argmax())
            masks |= {name: alive for name in group.producers if name in left}
        return structure.shrink(model, masks, example_input)


def learn(
    model: nn.Module,
    images: Tensor,
    *,
    seed: int,
    parts: Iterable[str] = (),
    sparsity: float = 0.005,
    epochs: int = 12,
    step_size: float = 0.5,
    learning_rate: float = 0.03,
    fidelity: float = 1.0,
    weight_decay: float = 2e-4,
    batch_size: int = 128,
) -> Learned:
    """Learn factors for all groups of channels, and for the branches and blocks ``parts`` (see :func:`summands`).

    images: (n, channels, height, width), unlabelled. sparsity, step_size, fidelity: lambda, eta and mu.
    learning_rate, weight_decay: of W and D. Every batch makes one step of D, of W and of the factors.
    The model is not changed.
    """
    if len(images) == 0:
        raise ValueError("there are no images: at least one is needed to compare the two networks on")
    if not (sparsity >= 0 and fidelity >= 0 and min(step_size, learning_rate) > 0 and min(epochs, batch_size) >= 1):
        raise ValueError(
            "sparsity and fidelity must be 0 or more, step_size, learning_rate, epochs and batch_size positive, not"
            f" {sparsity}, {fidelity}, {step_size}, {learning_rate}, {epochs} and {batch_size}"
        )
    names = list(parts)
    found = structure.groups(model, images[:1])
    if unknown := [n for n in names if getattr(dict(model.named_modules()).get(n), "weight", None) is None]:
        raise ValueError(f"{unknown[0]!r} is no layer with a weight: a branch or block is named by its last layer")
    target = _logits(model, images, batch_size)
    unit = target.square().sum(1).mean().clamp_min(1e-12)
    student = copy.deepcopy(model).requires_grad_(True).eval()  # batch norm would divide common factors out again
    student.to(memory_format=running.layout(student, images))
    judge, generator = discriminator(target.shape[1], seed), torch.Generator().manual_seed(seed)
    points = [
        torch.ones(size, requires_grad=True) for size in [*[group.channels for group in found], *[()] * len(names)]
    ]
    channels, factors = points[: len(found)], dict(zip(names, points[len(found) :], strict=True))
    sizes = [1] * len(found) + [len(model.get_submodule(name).weight) for name in names]  # a part counts its channels
    fista = Fista(points, step_size=step_size, sparsity=sparsity, sizes=sizes)
    how = {"lr": learning_rate, "momentum": 0.9, "weight_decay": weight_decay}
    of_judge, of_student = torch.optim.SGD(judge.parameters(), **how), torch.optim.SGD(student.parameters(), **how)
    since, steps, softplus = [torch.zeros_like(mask) for mask in fista.masks], 0, nn.functional.softplus
    for _ in range(epochs):
        fista.a = 1.0  # its momentum is for convex functions: left alone, it runs past the point of no return
        for batch in torch.randperm(len(images), generator=generator).split(batch_size):
            logits = functional_call(student, weights(student, found, channels, factors), images[batch])
            of_judge.zero_grad()
            real, fake = judge(target[batch]), judge(logits.detach())
            (softplus(-real) + softplus(fake)).mean().backward()  # -log D(f_b) - log(1 - D(f_g))
            of_judge.step()
            of_student.zero_grad()
            fooled = -softplus(judge(logits)).mean()  # log(1 - D(f_g))
            loss = (fooled + fidelity / 2 * (target[batch] - logits).square().sum(1).mean()) / unit
            loss.backward()
            if not torch.isfinite(loss):
                raise ValueError(f"the masks diverged in step {steps + 1}: try a smaller step_size or learning_rate")
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)  # the opponent pushes without bound
            of_student.step()
            nn.utils.clip_grad_norm_(points, 1.0)
            fista.step([torch.zeros_like(p) if p.grad is None else p.grad for p in points])
            for point in points:
                point.grad = None
            steps += 1
            since = [torch.where(mask > 0, 0.0, n + 1) for mask, n in zip(fista.masks, since, strict=True)]
    of_student.zero_grad()
    student.to(memory_format=torch.contiguous_format).train(model.training)
    masks, n = fista.masks, len(found)
    return Learned(student, found, masks[:n], dict(zip(names, masks[n:], strict=True)), [s / steps for s in since[:n]])


class Fista:
    """Minimise a smooth function plus ``sparsity * sum(m)`` over m >= 0, given the function's gradients.

    ``points`` (changed in place) are where the gradient is due next, y of the equation; ``masks`` the solution so far.
    """

    def __init__(self, points: list[Tensor], *, step_size: float, sparsity: float, sizes: Sequence[int] = ()):
        self.points, self.step_size, self.sparsity = points, step_size, sparsity
        self.sizes = list(sizes) or [1] * len(points)
        self.masks = [point.detach().clone() for point in points]
        self.a = 1.0

    @torch.no_grad()
    def step(self, gradients: Iterable[Tensor]) -> None:
        after = (1 + (1 + 4 * self.a**2) ** 0.5) / 2
        for i, slope in enumerate(gradients):
            mask = (self.points[i] - self.step_size * (slope / self.sizes[i] + self.sparsity)).clamp_min(0)
            self.points[i].copy_(mask + (self.a - 1) / after * (mask - self.masks[i]))
            self.masks[i] = mask
        self.a = after


def discriminator(classes: int, seed: int) -> nn.Sequential:
    """D: logits (n, classes) -> (n, 1), how much they look like the trained network's; positive is yes."""
    sizes = [classes, 128, 256, 128, 1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def weights(
    model: nn.Module, groups: Sequence[structure.Group], channels: Sequence[Tensor], parts: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The parameters with which a layer works as if each channel it reads, or all of its output, had its factor."""
    found: dict[str, Tensor] = {}
    for group, factors in zip(groups, channels, strict=True):
        padded = torch.cat([factors, torch.ones(1)])  # owner -1 is the last: inputs of other groups
        for name, columns in group.consumers.items():
            layer, key = model.get_submodule(name), f"{name}.weight"
            found[key] = found.get(key, layer.weight) * padded[owner(layer, columns)]
    for name, factor in parts.items():
        for kind, value in model.get_submodule(name).named_parameters(recurse=False):
            found[f"{name}.{kind}"] = found.get(f"{name}.{kind}", value) * factor
    return found


def summands(model: nn.Module) -> list[tuple[str, ...]]:
    """The layers that end in an addition, addition by addition: one name is a block around which the other summand is
    a shortcut, two names are branches. Raises ValueError for a model whose graph depends on its values."""
    traced = _traced(model)
    layers = dict(model.named_modules())
    found = []
    for node in traced.graph.nodes:
        if node.target in ADDITIONS:
            calls = [n.target for n in node.all_input_nodes if n.op == "call_module" and len(n.users) == 1]
            names = tuple(name for name in calls if getattr(layers[name], "weight", None) is not None)
            found += [names] if names else []
    return found


def without(model: nn.Module, names: Iterable[str]) -> nn.Module:
    """A copy from which the branches and blocks that end in these layers are gone, with all that only they needed.

    It computes what the model with zeros in their place does. Raises ValueError for a layer that is no summand of an
    addition, or the last one.
    """
    names = list(names)
    if not names:
        return copy.deepcopy(model)
    traced = _traced(copy.deepcopy(model))
    for name in names:
        node = next((n for n in traced.graph.nodes if n.op == "call_module" and n.target == name), None)
        sums = [user for user in node.users if user.target in ADDITIONS] if node else []
        if not sums or len(node.users) > 1:
            raise ValueError(f"layer {name!r} is not one of two summands: accepted are {summands(model)}")
        other = next(each for each in sums[0].all_input_nodes if each is not node)
        sums[0].replace_all_uses_with(other)
        traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _traced(model: nn.Module) -> fx.GraphModule:
    try:
        return fx.symbolic_trace(model)
    except Exception as error:  # tracing raises many kinds
        raise ValueError(f"the graph of {type(model).__name__} cannot be traced: {error}") from error


@torch.no_grad()
def _logits(model: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        return torch.cat([running.logits(model, batch) for batch in images.split(batch_size)])
    finally:
        for module, mode in modes.items():
            module.training = mode
