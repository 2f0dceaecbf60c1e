"""What flows into a layer that is to read signs: its bounds, and the activations and norms that it passed."""

import math
from collections.abc import Callable, Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from lib.binarization.shared.graphs import SHAPES, Step

Bounds = tuple[float, float]
ANY: Bounds = (-math.inf, math.inf)


def _kinds(*names: str) -> frozenset[str]:
    return frozenset(" ".join(names).split())


# Kinds of steps, as lib.binarization.shared.graphs names them. What only moves, picks or averages values:
MOVES = _kinds(
    "identity flatten unflatten view viewas reshape reshapeas permute transpose t movedim swapaxes contiguous clone",
    "detach expand expandas repeat repeatinterleave squeeze unsqueeze chunk split tensorsplit unbind getitem narrow",
    "select indexselect stack cat concat concatenate hstack roll flip pad zeropad1d zeropad2d zeropad3d constantpad2d",
    "reflectionpad1d reflectionpad2d reflectionpad3d replicationpad1d replicationpad2d replicationpad3d circularpad2d",
    "pixelshuffle pixelunshuffle channelshuffle upsample upsamplingnearest2d upsamplingbilinear2d interpolate dropout",
    "dropout1d dropout2d dropout3d alphadropout featurealphadropout stochasticdepth maxpool1d maxpool2d maxpool3d",
    "adaptivemaxpool1d adaptivemaxpool2d adaptivemaxpool3d fractionalmaxpool2d amax amin to type float half bfloat16",
    "double cpu cuda get",
)
MEANS = _kinds("mean avgpool1d avgpool2d avgpool3d adaptiveavgpool1d adaptiveavgpool2d adaptiveavgpool3d")
TOTALS = _kinds("sum cumsum")
SUMS = _kinds("add iadd sub isub rsub mul imul div idiv truediv itruediv neg")
NORMS = _kinds("batchnorm")
OTHER_NORMS = _kinds("layernorm groupnorm instancenorm1d instancenorm2d instancenorm rmsnorm localresponsenorm")
ACTIVATIONS = _kinds(
    "relu relu6 sigmoid hardsigmoid logsigmoid softplus hardtanh threshold tanh softsign silu gelu hardswish mish",
    "prelu leakyrelu elu selu celu rrelu hardshrink softshrink tanhshrink clamp clip clampmin clampmax",
)
VALUES = ACTIVATIONS | _kinds("abs absolute square sqrt exp expm1 sin cos erf pow sign round floor")
GATES = _kinds("sigmoid hardsigmoid")  # multiplied with another value, they say how much of it passes
PASSED = MOVES | MEANS | TOTALS | SUMS | NORMS | OTHER_NORMS


def bounds(steps: list[Step], removed: Collection[str] = ()) -> list[Bounds]:
    """The bounds of the values of each step, as far as the kinds of the steps tell.

    A step that reads one value is tried on many numbers. Layers, norms and unknown steps can give any number.

    steps: as :func:`lib.binarization.shared.graphs.steps` gives them.
    removed: names of modules that pass on what they read.
    """
    found: list[Bounds] = []
    for step in steps:
        read = [found[place] for place in step.reads]
        if not read:
            found.append(ANY)
        elif step.module in removed or step.kind in MOVES | MEANS:
            found.append((min(low for low, _ in read), max(high for _, high in read)))
        elif step.kind in TOTALS:
            found.append((0.0 if read[0][0] >= 0 else -math.inf, 0.0 if read[0][1] <= 0 else math.inf))
        elif step.apply and step.kind in VALUES | SUMS:
            found.append(_image(step.apply, *read[0]))
        elif len(read) == 2 and step.kind in ("add", "iadd"):
            found.append((read[0][0] + read[1][0], read[0][1] + read[1][1]))
        elif len(read) == 2 and step.kind in ("sub", "isub"):
            found.append((read[0][0] - read[1][1], read[0][1] - read[1][0]))
        elif len(read) == 2 and step.kind in ("mul", "imul"):
            products = [a * b if a and b else 0.0 for a in read[0] for b in read[1]]
            found.append((min(products), max(products)))
        else:
            found.append(ANY)
    return found


LARGE, BEYOND = 1e6, 1e2  # the first stands for all larger numbers; a value above the second has no bound


def _numbers() -> Tensor:
    far = torch.logspace(-6, math.log10(LARGE), 500, dtype=torch.float64)
    return torch.cat([-far.flip(0), torch.zeros(1, dtype=torch.float64), torch.linspace(-8, 8, 4001).double(), far])


@torch.no_grad()
def _image(apply: Callable[[Tensor], Any], low: float, high: float) -> Bounds:
    """The bounds of apply(x) for x from low to high."""
    values = _values(apply, _numbers().clamp(low, high))
    if values is None:
        return ANY
    least, most = values.min().item(), values.max().item()
    return -math.inf if least < -BEYOND else least, math.inf if most > BEYOND else most


def _values(apply: Callable[[Tensor], Any], x: Tensor) -> Tensor | None:
    own = next(apply.parameters(), None) if isinstance(apply, nn.Module) else None
    x = x.clone() if own is None else x.to(own)[:, None].repeat(1, own.numel())  # PReLU: a slope for each channel
    try:
        values = apply(x)
        return values if isinstance(values, Tensor) and values.shape == x.shape and not values.isnan().any() else None
    except Exception:  # it needs more than numbers, so nothing is known
        return None


@torch.no_grad()
def replaceable(step: Step) -> bool:
    """Whether the sign replaces this activation: true of all except odd functions such as tanh.

    >>> replaceable(Step("relu", "", (0,), nn.ReLU())), replaceable(Step("tanh", "", (0,), nn.Tanh()))
    (True, False)
    """
    if step.kind not in ACTIVATIONS or step.apply is None:
        return False
    x = _numbers()
    positive, negative = _values(step.apply, x), _values(step.apply, -x)
    return positive is None or negative is None or not torch.allclose(negative, -positive, rtol=1e-4, atol=1e-6)


def normalized(steps: list[Step]) -> list[bool]:
    """Whether the values of each step come from a batch norm, with no layer and no mean over places in between."""
    found: list[bool] = []
    for step in steps:
        read = [found[place] for place in step.reads]
        if step.kind in ("add", "iadd"):
            found.append(any(read))
        else:
            passed = step.kind in MOVES | ACTIVATIONS and bool(read) and all(read)
            found.append(step.kind in NORMS or passed)
    return found


def untouched(steps: list[Step]) -> list[bool]:
    """Whether the values of each step come from an input of the network, with no layer in between."""
    found: list[bool] = []
    for step in steps:
        passed = step.kind in PASSED | VALUES and any(found[place] for place in step.reads)
        found.append(step.kind == "input" or passed)
    return found


def before(steps: list[Step], place: int, removed: Collection[str] = ()) -> Iterator[int]:
    """The places of the steps that decide what the one at ``place`` reads, going back: activations, layers, inputs.

    The search passes through norms, removed modules and whatever only moves or adds values, and stops at what it finds.
    A sigmoid that is one of two factors is a gate, and is ignored.
    """
    waiting, seen = list(steps[place].reads), set[int]()
    while waiting:
        place = waiting.pop()
        step = steps[place]
        if place in seen or step.kind in SHAPES:
            continue
        seen.add(place)
        if step.kind not in PASSED and step.module not in removed:
            yield place
            continue
        gated = step.kind in ("mul", "imul") and len(set(step.reads)) > 1
        waiting += [r for r in step.reads if not (gated and steps[r].kind in GATES)]


def after(steps: list[Step], place: int) -> Iterator[int]:
    """The places of the steps that the values of the one at ``place`` reach: layers, outputs, unknown steps.

    The search passes through norms, activations and whatever only moves or adds values.
    """
    readers: dict[int, list[int]] = {}
    for i, step in enumerate(steps):
        for read in step.reads:
            readers.setdefault(read, []).append(i)
    waiting, seen = list(readers.get(place, ())), set[int]()
    while waiting:
        place = waiting.pop()
        if place in seen or steps[place].kind in SHAPES:
            continue
        seen.add(place)
        if steps[place].kind in PASSED | VALUES:
            waiting += readers.get(place, ())
        else:
            yield place
