r"""Generative adversarial learning (GAL): soft masks on channels, branches and blocks, learned without labels.

A copy :math:`f_g` of a trained network :math:`f_b` gets one factor :math:`m_i \ge 0` for each channel, and for each
branch or block that ends in an addition or a concatenation. The copy is trained to give the logits of :math:`f_b`
while the factors shrink, and a discriminator :math:`D` is trained to tell the logits of the two apart (lin2019gal):

.. math:: \min_{W, m} \max_D\; \mathbb E \log D(f_b) + \mathbb E \log(1 - D(f_g))
          + \tfrac{\mu}{2n} \textstyle\sum \lVert f_b - f_g \rVert^2 + \lambda \lVert m \rVert_1 + \mathcal R(W, D).

W and D take gradient steps. The factors take steps of FISTA, which sets useless ones to exactly zero:

.. math:: m_t = \max(0,\; y_t - \eta \nabla - \eta \lambda), \qquad
          y_{t+1} = m_t + \tfrac{a_t - 1}{a_{t+1}} (m_t - m_{t-1}), \qquad a_{t+1} = \tfrac{1 + \sqrt{1 + 4 a_t^2}}2.

Differences from the authors' code:

- D has a ReLU between its layers and gives logits; theirs is linear and takes the sigmoid twice.
- FISTA takes its gradient at the point y, and resets its momentum at every epoch.
- Batch norm keeps the statistics of the trained network: those of a batch would divide a common factor out again.
- Everything but the penalty is divided by the mean square of the trained logits: one lambda then means the same for
  every network.
- The gradient of W and that of the factors are clipped to norm 1.
- A branch or block counts as its number of channels.
"""

import copy
import itertools
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict, TypeGuard, Unpack

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call

from lib import running, structure, training
from lib.datasets import Split
from lib.pruning.discrimination_aware import owner
from lib.weights import Layer, layer_named

ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)
# What may come between the last layer of a branch and its end: it maps zero to zero.
PASSING: tuple[type[nn.Module], ...] = (
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.Identity, nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU),
    *(nn.SiLU, nn.GELU, nn.Hardswish, nn.Tanh, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d),
)
PASSING_BY_NAME = ("StochasticDepth", "DropPath", "Permute", "stochastic_depth")  # torchvision's and timm's
PASSING_FUNCTIONS: tuple[object, ...] = (
    *(torch.relu, torch.tanh, torch.permute, torch.transpose, "relu", "relu_", "tanh", "permute", "transpose"),
    *(nn.functional.relu, nn.functional.dropout, nn.functional.silu, nn.functional.gelu, nn.functional.hardswish),
)


class MaskOptions(TypedDict, total=False):
    """Options of :func:`learn_masks` that are passed on to it by name: ``**options: Unpack[MaskOptions]``."""

    parts: Iterable[str]
    sparsity: float
    epochs: int
    step_size: float
    learning_rate: float
    fidelity: float
    weight_decay: float
    batch_size: int


def scores(model: nn.Module, split: Split, *, seed: int = 0, **options: Unpack[MaskOptions]) -> dict[str, Tensor]:
    """Score each filter by the learned factor of its channel. Labels are not read.

    A factor that has reached zero scores minus the share of the steps since it was last above zero: the later, the
    better.

    model: any network that can be traced; it is left as it was.
    split: samples; labels are not read.
    seed: seed of the discriminator and of the order of the samples. Default 0.
    options: how the factors are learned, see :func:`learn_masks`:

        - parts: last layers of branches and blocks that get a factor as well, default none.
        - sparsity: penalty on the factors, 0 or more, default 0.005.
        - epochs: 1 or more, default 12.
        - step_size: of the factors, positive, default 0.5.
        - learning_rate: of the weights and the discriminator, positive, default 0.03.
        - fidelity: weight of the distance of the logits, 0 or more, default 1.
        - weight_decay: of the weights and the discriminator, default 2e-4.
        - batch_size: samples per step, 1 or more, default 128.

    Returns layer name -> (filters,), larger = keep.
    Raises TypeError for other options, and ValueError for an empty split, numbers out of range, parts that do not
    exist, a network that cannot be traced, and masks that diverge.
    Source: lin2019gal.

    >>> model = nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> split = Split(torch.rand(8, 5), torch.zeros(8, dtype=torch.long))
    >>> scores(model, split, epochs=2, sparsity=10.0)["0"]  # such a large penalty takes all factors to zero at once
    tensor([-1., -1., -1., -1.])
    """
    training.check_options(options, kinds=MaskOptions)
    split.check_not_empty("to learn masks from")
    learned = learn_masks(model, split.images, seed=seed, **options)
    result: dict[str, Tensor] = {}
    for group, factors, silent in zip(learned.groups, learned.channels, learned.silent, strict=True):
        result |= {name: torch.where(factors > 0, factors, -silent) for name in group.producers}
    return result


@dataclass
class Learned:
    """The masks that :func:`learn_masks` learns, and the network that was trained with them.

    model: the trained copy, without the factors.
    groups: the groups of channels that got factors.
    channels: (channels,) factors for each of the groups.
    parts: name of the last layer of a branch or block -> its factor.
    silent: for each group (channels,) the share of the steps since a factor was last above zero.
    """

    model: nn.Module
    groups: list[structure.Group]
    channels: list[Tensor]
    parts: dict[str, Tensor]
    silent: list[Tensor]

    def folded(self) -> nn.Module:
        """Copy the trained network, and multiply the factors into its weights; nothing gets smaller."""
        model = copy.deepcopy(self.model)
        folded = weights(model, self.groups, self.channels, self.parts)
        model.load_state_dict({name: value.detach() for name, value in folded.items()}, strict=False)
        return model

    def removed(self, example_input: Tensor) -> nn.Module:
        """Cut all channels, branches and blocks whose factor is zero out of the folded network.

        Each layer keeps at least one channel, and each addition or concatenation at least one part.

        example_input: inputs to trace the network with, (n, channels, height, width).

        Returns the smaller network.
        """
        zero = {name for name, factor in self.parts.items() if factor == 0}
        for names in summands(self.model) if zero else []:
            if len(names) > 1 and zero.issuperset(names):
                zero.discard(names[0])
        model = without(self.folded(), zero, example_input)
        left = {name for name, _ in model.named_modules()}
        masks: dict[str, Tensor] = {}
        for group, factors in zip(self.groups, self.channels, strict=True):
            alive = (factors > 0) | (torch.arange(group.channels) == factors.argmax())
            masks |= {name: alive for name in group.producers if name in left}
        return structure.shrink(model, masks, example_input)


def learn_masks(
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
    """Learn factors for all groups of channels, and for branches and blocks.

    model: any network that can be traced; it is left as it was.
    images: (n, channels, height, width), without labels.
    seed: seed of the discriminator and of the order of the images.
    parts: names of the last layers of branches and blocks that get a factor as well, see :func:`summands`. Default:
        none.
    sparsity: penalty on the factors, lambda, 0 or more. Default 0.005.
    epochs: number of epochs, 1 or more. Default 12.
    step_size: step of the factors, eta, positive. Default 0.5.
    learning_rate: learning rate of the weights W and the discriminator D, positive. Default 0.03.
    fidelity: weight of the distance of the logits, mu, 0 or more. Default 1.
    weight_decay: weight decay of W and D. Default 0.0002.
    batch_size: images in each batch, 1 or more; a batch makes one step of D, of W and of the factors. Default 128.

    Returns what was learned, :class:`Learned`.
    Raises ValueError for no images, numbers out of range, parts that do not exist, a network that cannot be traced, and
    masks that diverge.
    Source: lin2019gal.
    """
    if len(images) == 0:
        raise ValueError("there are no images: at least one is needed to learn masks from")
    if not (sparsity >= 0 and fidelity >= 0 and min(step_size, learning_rate) > 0 and min(epochs, batch_size) >= 1):
        raise ValueError(
            "sparsity and fidelity must be 0 or more, step_size, learning_rate, epochs and batch_size positive, not"
            f" {sparsity}, {fidelity}, {step_size}, {learning_rate}, {epochs} and {batch_size}"
        )
    names = list(dict.fromkeys(parts))
    groups = structure.groups(model, images[:1])
    widths = {name: len(layer.weight) for name, layer in model.named_modules() if _has_weight(layer)}
    if unknown := [name for name in names if name not in widths]:
        raise ValueError(f"parts must be last layers of branches or blocks, with a weight, not {unknown[0]!r}")
    target = _logits(model, images, batch_size)
    unit = target.square().sum(1).mean().clamp_min(1e-12)
    student = copy.deepcopy(model).requires_grad_(True).eval()  # batch norm would divide common factors out again
    memory = running.layout(student, images)
    student.to(memory_format=memory)  # type: ignore[call-overload]  # not in torch's stubs
    judge, generator = discriminator(target.shape[1], seed), torch.Generator().manual_seed(seed)
    channels = [torch.ones(group.channels, requires_grad=True) for group in groups]
    factors = {name: torch.ones((), requires_grad=True) for name in names}
    points = [*channels, *factors.values()]
    sizes = [1] * len(groups) + [widths[name] for name in names]  # a part counts as its number of channels
    fista = Fista(points, step_size=step_size, sparsity=sparsity, sizes=sizes)
    of_judge, of_student = (
        torch.optim.SGD(network.parameters(), lr=learning_rate, momentum=0.9, weight_decay=weight_decay)
        for network in (judge, student)
    )
    since, steps, softplus = [torch.zeros_like(mask) for mask in fista.masks], 0, nn.functional.softplus
    for _ in range(epochs):
        fista.a = 1.0  # its momentum is for convex functions: without this reset it overshoots for good
        for batch in torch.randperm(len(images), generator=generator).split(batch_size):
            shown = running.arranged(images[batch], memory)
            logits = functional_call(student, weights(student, groups, channels, factors), shown)
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
            nn.utils.clip_grad_norm_(student.parameters(), 1.0)  # the discriminator pushes without bound
            of_student.step()
            nn.utils.clip_grad_norm_(points, 1.0)
            fista.step([torch.zeros_like(p) if p.grad is None else p.grad for p in points])
            for point in points:
                point.grad = None
            steps += 1
            since = [torch.where(mask > 0, 0.0, n + 1) for mask, n in zip(fista.masks, since, strict=True)]
    of_student.zero_grad()
    student.to(memory_format=torch.contiguous_format).train(model.training)  # type: ignore[call-overload]
    masks, n = fista.masks, len(groups)
    return Learned(student, groups, masks[:n], dict(zip(names, masks[n:], strict=True)), [s / steps for s in since[:n]])


class Fista:
    """Minimize a smooth function plus a multiple of the sum of m over m >= 0, given the gradients of the function.

    points: where the next gradients are taken, the y of the equation; they are changed in place.
    step_size: eta.
    sparsity: lambda, the multiple of the sum.
    sizes: for each point, what its gradient is divided by. Default: 1 for all.

    ``masks`` holds the solution so far.

    >>> point = torch.tensor([1.0, 0.05])
    >>> fista = Fista([point], step_size=0.5, sparsity=0.2)
    >>> fista.step([torch.zeros(2)])
    >>> fista.masks[0]  # eta times lambda less, and never below zero
    tensor([0.9000, 0.0000])
    """

    def __init__(self, points: list[Tensor], *, step_size: float, sparsity: float, sizes: Sequence[int] = ()):
        self.points, self.step_size, self.sparsity = points, step_size, sparsity
        self.sizes = list(sizes) or [1] * len(points)
        self.masks = [point.detach().clone() for point in points]
        self.a = 1.0

    @torch.no_grad()
    def step(self, gradients: Iterable[Tensor]) -> None:
        """Take one step: new ``masks``, and new points in place.

        gradients: those of the smooth function at the points.
        """
        # method
        after = (1 + (1 + 4 * self.a**2) ** 0.5) / 2
        for i, slope in enumerate(gradients):
            mask = (self.points[i] - self.step_size * (slope / self.sizes[i] + self.sparsity)).clamp_min(0)
            self.points[i].copy_(mask + (self.a - 1) / after * (mask - self.masks[i]))
            self.masks[i] = mask
        self.a = after
        # end of method


def discriminator(classes: int, seed: int) -> nn.Sequential:
    """Make the discriminator D, which tells logits of the trained network from those of its masked copy.

    classes: number of logits.
    seed: seed of its weights.

    Returns a network from logits (n, classes) to (n, 1): positive where it takes them for the trained network's.
    """
    sizes = [classes, 128, 256, 128, 1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = [layer for a, b in itertools.pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


def weights(
    model: nn.Module, groups: Sequence[structure.Group], channels: Sequence[Tensor], parts: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Multiply factors into parameters, so that the inputs of a layer, or its whole output, are scaled.

    model: the network; it is left as it was.
    groups: groups of channels.
    channels: (channels,) factors for each of the groups.
    parts: name of a layer whose whole output gets a factor -> the factor.

    Returns parameter name -> value, for those that change.
    """
    result: dict[str, Tensor] = {}
    for group, factors in zip(groups, channels, strict=True):
        padded = torch.cat([factors, torch.ones(1)])  # owner -1, for inputs of other groups, picks the last
        for name, columns in group.consumers.items():
            layer, key = layer_named(model, name), f"{name}.weight"
            result[key] = result.get(key, layer.weight) * padded[owner(layer, columns)]
    for name, factor in parts.items():
        for kind, value in model.get_submodule(name).named_parameters(recurse=False):
            result[f"{name}.{kind}"] = result.get(f"{name}.{kind}", value) * factor
    return result


def summands(model: nn.Module) -> list[tuple[str, ...]]:
    """List the last layers of blocks and branches, for each addition and each concatenation.

    Dropout, stochastic depth, activations that map zero to zero, and scales may come between such a layer and the end
    of its branch. Attention and layers without a weight are not listed.

    model: any network that ``torch.fx`` can trace; it is left as it was.

    Returns a tuple for each addition or concatenation: one name for a block with a shortcut around it, several names
    for branches.
    Raises ValueError for a model that ``torch.fx`` cannot trace.

    >>> from lib import models
    >>> summands(models.resnet8())
    [('stage1_1.bn2',), ('stage2_1.bn2', 'stage2_1.shortcut.1'), ('stage3_1.bn2', 'stage3_1.shortcut.1')]
    """
    return [tuple(ends) for _, ends in _merges(_traced(model))]


def _merges(traced: fx.GraphModule) -> list[tuple[fx.Node, dict[str, fx.Node]]]:
    """List each addition or concatenation of channels, with name of a last layer -> the input that it ends."""
    layers = dict(traced.named_modules())
    result = []
    for node in traced.graph.nodes:
        inputs = _parts(node)
        ends = {name: part for part in inputs if (name := _last_layer(part, layers)) is not None}
        if len(inputs) > 1 and ends:
            result.append((node, ends))
    return result


def _parts(node: fx.Node) -> list[fx.Node]:
    """The inputs that a node adds, or joins along the channels; none for any other node."""
    if node.target in ADDITIONS:
        return node.all_input_nodes
    axis = node.kwargs.get("dim", node.args[1] if len(node.args) > 1 else 0)
    return list(node.all_input_nodes) if node.target in CONCATENATIONS and axis == 1 else []


def _last_layer(node: fx.Node, layers: dict[str, nn.Module]) -> str | None:
    """The last layer of a branch, if nothing else reads its output."""
    while len(node.users) == 1:
        before = [n for n in node.all_input_nodes if n.op != "get_attr"]
        if node.op == "call_module":
            layer = layers[str(node.target)]
            if _has_weight(layer) and not isinstance(layer, nn.PReLU):
                return str(node.target)
            passes = isinstance(layer, PASSING) or type(layer).__name__ in PASSING_BY_NAME
        else:
            scaled = node.target in (operator.mul, torch.mul) and len(node.all_input_nodes) == 2 and len(before) == 1
            passes = scaled or node.target in PASSING_FUNCTIONS
            passes = passes or getattr(node.target, "__name__", "") in PASSING_BY_NAME
        if not passes or len(before) != 1:
            return None
        node = before[0]
    return None


def _has_weight(layer: nn.Module) -> TypeGuard[Layer]:
    return getattr(layer, "weight", None) is not None


def without(model: nn.Module, names: Iterable[str], example_input: Tensor | None = None) -> nn.Module:
    """Cut branches and blocks out of a copy of the model, with everything that only they need.

    The copy computes what the model computes with zeros in their place. Batch norm after a concatenation loses the
    channels of the branch, including their shift.

    model: any network that ``torch.fx`` can trace; it is left as it was.
    names: names of the layers that they end in, as :func:`summands` lists them.
    example_input: inputs to trace the network with, (n, channels, height, width); needed for branches that end in a
        concatenation, whose readers lose inputs. Default None.

    Returns the copy.
    Raises ValueError for a layer that ends no branch, and for the last branch. A branch of a concatenation also needs
    an example, and only batch norm and ungrouped layers may read it.

    >>> from lib import measure, models
    >>> network = models.resnet8(width=4)
    >>> measure.parameters(network) - measure.parameters(without(network, ["stage1_1.bn2"]))
    304
    """
    names = list(names)
    if not names:
        return copy.deepcopy(model)
    traced = _traced(copy.deepcopy(model))
    gone: dict[str, set[int]] = {}  # name of a layer -> numbers of the channels that it no longer reads
    for name in names:
        merge = next((found for found in _merges(traced) if name in found[1]), None)
        if merge is None:
            raise ValueError(f"layer {name!r} ends no branch that can be cut out: accepted are {summands(model)}")
        node, ends = merge
        left = [part for part in _parts(node) if part is not ends[name]]
        if node.target not in ADDITIONS:
            for reader, columns in _readers(model, name, example_input).items():
                gone.setdefault(reader, set()).update(columns)
        if len(left) == 1:
            node.replace_all_uses_with(left[0])
        else:
            node.args = (left, 1)
            node.kwargs = {}
        traced.graph.eliminate_dead_code()
    traced.delete_all_unused_submodules()
    for name, layer in traced.named_modules():
        if name in gone:
            _narrow(layer, gone[name])
    traced.recompile()
    return traced


def _readers(model: nn.Module, name: str, example_input: Tensor | None) -> dict[str, list[int]]:
    """Name of a layer -> numbers of its inputs that come from the branch that ends with layer ``name``."""
    if example_input is None:
        raise ValueError(f"layer {name!r} ends in a concatenation: an example input is needed to cut what reads it")
    for group in structure.groups(model, example_input):
        if name in (*group.producers, *group.carriers):
            read = group.consumers | group.carriers
            for reader in read:
                if getattr(model.get_submodule(reader), "groups", 1) > 1:
                    raise ValueError(f"layer {reader!r} is grouped: a branch that it reads cannot be cut out")
            return {reader: columns.flatten().tolist() for reader, columns in read.items()}
    raise ValueError(
        f"the channels of layer {name!r} cannot be removed: they are in the network's output, or in no group"
    )


@torch.no_grad()
def _narrow(layer: Any, gone: set[int]) -> None:
    """Take inputs away from a convolution or linear layer, or channels from a batch norm; in place."""
    norm = isinstance(layer, structure.PER_CHANNEL)
    width = layer.num_features if norm else layer.weight.shape[1]
    keep = torch.tensor([i for i in range(width) if i not in gone], device=layer.weight.device)
    if norm:
        for key, value in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
            if value.dim():
                kept = value[keep]
                setattr(layer, key, nn.Parameter(kept, value.requires_grad) if key in layer._parameters else kept)
        layer.num_features = len(keep)
    else:
        layer.weight = nn.Parameter(layer.weight[:, keep], layer.weight.requires_grad)
        setattr(layer, "in_features" if isinstance(layer, nn.Linear) else "in_channels", len(keep))


def _traced(model: nn.Module) -> fx.GraphModule:
    try:
        return fx.symbolic_trace(model)
    except Exception as error:  # tracing may raise anything
        raise ValueError(f"the graph of {type(model).__name__} cannot be traced: {error}") from error


@torch.no_grad()
def _logits(model: nn.Module, images: Tensor, batch_size: int) -> Tensor:
    with running.evaluating(model):
        return torch.cat([running.logits(model, batch) for batch in images.split(batch_size)])
