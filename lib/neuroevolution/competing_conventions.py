r"""Competing conventions: one function has many encodings, so crossing two good networks can give a bad one.

The hidden units of a network can be listed in any order: n units have n! encodings of the same function, and
:math:`2^n\,n!` where each unit's sign can be flipped too (montana1989training; radcliffe1993genetic). Crossing [A, B,
C] with [C, B, A] after the second unit gives [A, B, A] and [C, B, C]: one unit is lost, and another appears twice
(stanley2002evolving, figure 2). A child of parents in two random orders, cut after c units, has all n units with the
probability

.. math:: \frac{c!\,(n-c)!}{n!}, \qquad \text{and misses the share } \frac{c\,(n-c)}{n^2} \text{ of them on average.}

Two ways out: one encoding for each function (thierens1996nonredundant), which needs a fixed topology; or historical
marks, which say which units have one origin, whatever their place (stanley2002evolving), and need no fixed topology.
"""

import copy
import math
from fractions import Fraction

import torch
from torch import Tensor, nn


def cross(first: Tensor, second: Tensor, cut: int) -> tuple[Tensor, Tensor]:
    """Cross two encodings at one point.

    first, second: (units, ...) of one shape: what describes each hidden unit, in the order of the encoding.
    cut: the number of units before the point, 1 to units - 1.

    Returns both children. Raises ValueError for another cut, and for different shapes.

    >>> [child.tolist() for child in cross(torch.tensor([0, 1, 2]), torch.tensor([2, 1, 0]), cut=2)]
    [[0, 1, 0], [2, 1, 2]]
    """
    if first.shape != second.shape:
        raise ValueError(f"both parents must be of one shape, not {tuple(first.shape)} and {tuple(second.shape)}")
    if not 1 <= cut < len(first):
        raise ValueError(f"cut must be between 1 and {len(first) - 1} for {len(first)} units, not {cut}")
    # method
    return torch.cat([first[:cut], second[cut:]]), torch.cat([second[:cut], first[cut:]])
    # end of method


def cross_marked(first: Tensor, second: Tensor, first_marks: Tensor, second_marks: Tensor, *, seed: int) -> Tensor:
    """Cross two encodings by historical marks: each unit comes from either parent, whatever its place there.

    first, second: (units, ...) of one type: what describes each unit. They may have different numbers of units.
    first_marks, second_marks: (units,) whole numbers: the mark of each unit, none twice in one parent.
    seed: of the draws.

    Returns the child: the units of the first parent, in its order. A unit that the second parent has as well comes from
    either with the same probability. Raises ValueError for marks that do not fit.

    >>> a, b = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([3.0, 2.0, 1.0])
    >>> cross_marked(a, b, torch.tensor([7, 8, 9]), torch.tensor([9, 8, 7]), seed=0).tolist()
    [1.0, 2.0, 3.0]
    """
    for units, marks in ((first, first_marks), (second, second_marks)):
        if marks.shape != units.shape[:1] or len(marks.unique()) != len(units):
            raise ValueError(f"{len(units)} units need {len(units)} different marks, not {marks.tolist()}")
    if first.shape[1:] != second.shape[1:] or first.dtype != second.dtype:
        raise ValueError("the units of both parents must be of one shape and type")
    # method
    same, place = (first_marks[:, None] == second_marks).max(1)
    taken = same & (torch.rand(len(first), generator=torch.Generator().manual_seed(seed)) < 0.5).to(same.device)
    child = first.clone()
    child[taken] = second[place[taken]]
    return child
    # end of method


def whole_children(units: int, cut: int | None = None) -> Fraction:
    """Return the share of children that have all units, over all orders of the second parent.

    units: number of hidden units, 2 or more.
    cut: number of units before the point; None: the mean over all cuts.

    Returns the exact share. Raises ValueError for fewer units and another cut.

    >>> whole_children(3), whole_children(3, cut=1)
    (Fraction(1, 3), Fraction(1, 3))
    """
    # method
    # the units after the cut must be the same in both parents: c! (n - c)! of the n! orders
    kept = [math.factorial(c) * math.factorial(units - c) for c in _cuts(units, cut)]
    return Fraction(sum(kept), len(kept) * math.factorial(units))
    # end of method


def lost_units(units: int, cut: int | None = None) -> Fraction:
    """Return the mean share of units that a child misses, over all orders of the second parent.

    units, cut: as for :func:`whole_children`.

    Returns the exact share. Raises ValueError for fewer units and another cut.

    >>> lost_units(16, cut=8)
    Fraction(1, 4)
    """
    # a unit after the cut of the first parent is lost if it is before the cut of the second
    lost = [Fraction(c * (units - c), units**2) for c in _cuts(units, cut)]
    return sum(lost, Fraction(0)) / len(lost)


def _cuts(units: int, cut: int | None) -> list[int]:
    if units < 2:
        raise ValueError(f"units must be 2 or more for a crossover, not {units}")
    if cut is not None and not 1 <= cut < units:
        raise ValueError(f"cut must be between 1 and {units - 1} for {units} units, not {cut}")
    return list(range(1, units)) if cut is None else [cut]


def units_of(network: nn.Module) -> Tensor:
    """Read the hidden units of a network: the encoding that :func:`cross` takes.

    network: with exactly two linear layers with biases, the second fed by the first; it is left as it was.

    Returns (units, inputs + 1 + outputs): the weights into each unit, its bias, and the weights out of it. Raises
    ValueError for another network, and for weights that are not finite.
    """
    first, second = _layers(network)
    return torch.cat([first.weight, first.bias[:, None], second.weight.T], 1).detach().clone()


def with_units(network: nn.Module, units: Tensor) -> nn.Module:
    """Write units into a copy of a network: the network that an encoding describes.

    network: as for :func:`units_of`; it is left as it was. The biases of the outputs are its own.
    units: (units, inputs + 1 + outputs), as many as the network has.

    Returns the copy. Raises ValueError for units of another shape.
    """
    expected = units_of(network).shape
    if units.shape != expected:
        raise ValueError(f"the units of this network are {tuple(expected)}, not {tuple(units.shape)}")
    network = copy.deepcopy(network)
    first, second = _layers(network)
    inputs = first.in_features
    with torch.no_grad():
        first.weight.copy_(units[:, :inputs])
        first.bias.copy_(units[:, inputs])
        second.weight.copy_(units[:, inputs + 1 :].T)
    return network


def canonical(network: nn.Module) -> Tensor:
    """Return the one encoding of all networks that differ only in the order and the sign, or size, of their units.

    A tanh unit with a negative bias (or first weight, where the bias is zero) has all its signs flipped, also those of
    the weights out of it. A ReLU unit is scaled so that the weights into it, with the bias, have length 1, and the
    weights out of it carry the rest. Then the units are sorted, by bias first (thierens1996nonredundant).

    network: as for :func:`units_of`, with tanh or ReLU between its layers; it is left as it was.

    Returns (units, inputs + 1 + outputs). Raises ValueError for another network, for another activation, for which this
    encoding is not unique, and for a ReLU unit whose weights are all zero.
    """
    units, inputs = units_of(network), _layers(network)[0].in_features
    into = torch.cat([units[:, inputs : inputs + 1], units[:, :inputs]], 1)  # bias first
    out = units[:, inputs + 1 :]
    leaves = [module for module in network.modules() if not list(module.children())]
    first, second = (leaves.index(layer) for layer in _layers(network))
    between = [type(module) for module in leaves[first + 1 : second]]
    if between not in ([nn.Tanh], [nn.ReLU]):
        raise ValueError(
            "the two layers must have only nn.Tanh or nn.ReLU between them, for which a unique encoding is known"
        )
    # method
    if between == [nn.Tanh]:
        leading = into.gather(1, (into != 0).byte().argmax(1, keepdim=True))
        scale = torch.where(leading < 0, -1.0, 1.0).to(into.dtype)
    else:
        scale = 1 / into.norm(dim=1, keepdim=True)
    # end of method
    if not scale.isfinite().all():
        raise ValueError("a ReLU unit whose weights are all zero has no unique encoding")
    # method
    into, out = into * scale, out / scale
    order = sorted(range(len(into)), key=lambda i: into[i].tolist() + out[i].tolist())
    return torch.cat([into[:, 1:], into[:, :1], out], 1)[order]
    # end of method


def _layers(network: nn.Module) -> tuple[nn.Linear, nn.Linear]:
    linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
    weighted = [module for module in network.modules() if next(module.parameters(recurse=False), None) is not None]
    fits = len(linear) == 2 and linear == weighted and linear[0].out_features == linear[1].in_features
    if not fits or any(layer.bias is None for layer in linear):
        raise ValueError(
            "the network must have two linear layers with biases, the second fed by the first, and no other"
        )
    if not all(parameter.isfinite().all() for parameter in network.parameters()):
        raise ValueError("the weights of the network must be finite")
    return linear[0], linear[1]
