r"""One convolution as two: alternating least squares (wei2016network, algorithms 1 and 2)."""

import itertools
import math

import torch
from torch import Tensor

SWEEPS = 8
EXACT = 1e-10  # of the norm of the weights, in float64


def factored(
    weight: Tensor, kernels: tuple[int, int], width: int, generator: torch.Generator
) -> tuple[Tensor, Tensor] | None:
    r"""Find two kernels whose composition is a given one, padded with zeros.

    .. math:: \tilde G(c_{out}, c_{in}) = \sum_m F_2(c_{out}, m) * F_1(m, c_{in})

    The fit is exact at once where one of the two has as many numbers as :math:`\tilde G` for each of its inputs or
    outputs (the sufficient condition of wei2016network). Where the given sizes are too small for that, one of the two
    kernels is made smaller (algorithm 2); the caller pads it with zeros to the size that was asked for.

    weight: G, (groups, outputs, inputs, *kernel), with one odd kernel for all axes or none (a linear layer).
    kernels: sizes of F_1 and F_2, odd.
    width: number of channels m between the two, for each group.
    generator: draws the start, an orthogonal matrix.

    Returns F_1 (groups, width, inputs, *k_1) and F_2 (groups, outputs, width, *k_2) with kernels that are as large as
    asked or smaller, in float64 on the CPU; None where no exact ones were found.

    >>> first, second = factored(torch.ones(1, 2, 3, 3, 3), (3, 1), 2, torch.Generator().manual_seed(0))
    >>> first.shape, second.shape
    (torch.Size([1, 2, 3, 3, 3]), torch.Size([1, 2, 2, 1, 1]))
    """
    weight = weight.detach().double().cpu()
    axes, own = weight.dim() - 3, max(weight.shape[3:], default=1)
    smaller = [(kernels[0], k) for k in range(kernels[1], 0, -2)]
    smaller += [(k, kernels[1]) for k in range(kernels[0] - 2, 0, -2)]
    for one, two in smaller:
        whole = one + two - 1
        by_first = width * one**axes >= weight.shape[1] * whole**axes
        by_second = width * two**axes >= weight.shape[2] * whole**axes
        if whole >= own and (by_first or by_second):
            pair = _alternated(padded(weight, whole), one, two, width, generator, by_first)
            if pair is not None:
                return pair
    return None


def padded(weight: Tensor, kernel: int) -> Tensor:
    """Pad kernels with zeros on all sides.

    weight: (groups, outputs, inputs, *kernel), odd.
    kernel: the size afterwards, odd and no smaller.

    >>> padded(torch.ones(1, 1, 1, 1), 3)
    tensor([[[[0., 1., 0.]]]])
    """
    sides = [(kernel - size) // 2 for size in reversed(weight.shape[3:]) for _ in range(2)]
    return torch.nn.functional.pad(weight, sides) if sides else weight


def _alternated(
    goal: Tensor, one: int, two: int, width: int, generator: torch.Generator, by_first: bool
) -> tuple[Tensor, Tensor] | None:
    groups, rows, columns, axes = *goal.shape[:3], goal.dim() - 3
    # method
    first = _orthogonal(groups, width, columns, [one] * axes, generator)
    second = _orthogonal(groups, rows, width, [two] * axes, generator)
    for sweep in range(SWEEPS):
        if sweep or by_first:
            first, missed = _solved(goal, second, one)
            if missed <= EXACT:
                break
        turned, missed = _solved(goal.transpose(1, 2), first.transpose(1, 2), two)
        second = turned.transpose(1, 2)
        if missed <= EXACT:
            break
    # end of method
    else:
        return None
    scale = math.sqrt(float(second.norm() / first.norm())) if first.any() and second.any() else 1.0
    return first * scale, second / scale


def _solved(goal: Tensor, second: Tensor, kernel: int) -> tuple[Tensor, float]:
    """The least-squares F_1 for a given F_2, and the norm of what it misses in units of the goal's."""
    groups, width, sizes = len(second), second.shape[2], second.shape[3:]
    columns, axes = goal.shape[2], len(sizes)
    if all(size == 1 for size in sizes):  # each place of the kernel by itself
        matrix, wanted = second.flatten(2), goal.flatten(2)
        found = torch.linalg.lstsq(matrix, wanted, driver="gelsd").solution
        missed = matrix @ found - wanted
        return found.reshape(groups, width, columns, *goal.shape[3:]), _share(missed, goal)
    shifts = []
    for shift in itertools.product(range(kernel), repeat=axes):
        sides = [side for a in reversed(shift) for side in (a, kernel - 1 - a)]
        shifts.append(torch.nn.functional.pad(second, sides))
    # (groups, outputs and places, m and shifts) @ (groups, m and shifts, inputs) = (groups, outputs and places, inputs)
    matrix = torch.stack(shifts, -1).movedim(2, -2).flatten(1, 1 + axes).flatten(2)
    wanted = goal.movedim(2, -1).flatten(1, 1 + axes)
    found = torch.linalg.lstsq(matrix, wanted, driver="gelsd").solution
    missed = matrix @ found - wanted
    return found.reshape(groups, width, *[kernel] * axes, columns).movedim(-1, 2), _share(missed, goal)


def _share(missed: Tensor, goal: Tensor) -> float:
    return float(missed.norm() / goal.norm().clamp_min(torch.finfo(goal.dtype).tiny))


def _orthogonal(groups: int, rows: int, columns: int, kernel: list[int], generator: torch.Generator) -> Tensor:
    """A random start that is well conditioned: rounding is not magnified."""
    size = columns * math.prod(kernel)
    drawn = torch.randn(groups, max(rows, size), min(rows, size), generator=generator, dtype=torch.float64)
    q = torch.linalg.qr(drawn).Q
    return (q if rows >= size else q.transpose(1, 2)).reshape(groups, rows, columns, *kernel)
