r"""The Gauss-Newton matrix of a whole small network: its factor, a row for each sample and class, and its inverse."""

import copy
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from lib import running
from lib.datasets import Split

LARGEST = 25_000  # parameters; the inverse then takes 5 GB
AT_ONCE = 2**23  # entries of gradients of single samples that are held at a time


def factor(logits: Tensor) -> Tensor:
    """Factor the second derivative of each sample's cross-entropy with respect to its logits into S Sᵀ.

    logits: (n, classes).

    Returns S, (n, classes, classes).

        >>> S = factor(torch.zeros(1, 2))[0]
        >>> [[round(float(entry), 2) for entry in row] for row in S @ S.T]
        [[0.25, -0.25], [-0.25, 0.25]]
    """
    # method
    p = logits.softmax(dim=1)
    return (torch.eye(p.shape[1], dtype=p.dtype, device=p.device) - p[:, :, None]) * p.sqrt()[:, None, :]
    # end of method


def gauss_newton_rows(model: nn.Module, split: Split) -> Tensor:
    """Compute the factor X of the Gauss-Newton matrix of the mean cross-entropy, XᵀX / samples.

    model: a classifier of at most 25,000 parameters; it runs in evaluation mode and is not changed.
    split: samples over which the cross-entropy is averaged; X may have 625 million numbers, 5 GB, at most.

    Returns X, (samples · classes, parameters), float64.
    Raises ValueError for an empty split, a larger network or X, logits that are not finite, and a network that does not
    run on one sample at a time.

        >>> gauss_newton_rows(nn.Linear(4, 3), Split(torch.rand(5, 4), torch.arange(5) % 3)).shape
        torch.Size([15, 15])
    """
    classes, count = check(model, split)
    rows = len(split) * classes
    if rows * count > LARGEST**2:
        raise ValueError(
            f"X of {rows:,} rows and {count:,} parameters takes {rows * count / 1.25e8:.0f} GB, and 5 GB are accepted:"
            " take fewer samples, or operate, which holds some rows at a time"
        )
    return torch.cat(list(parts(model, split)))


def check(model: nn.Module, split: Split) -> tuple[int, int]:
    """Raise ValueError unless a network is small and runs on one sample at a time.

    model: a classifier; it is left as it was.
    split: samples; the first one is tried.

    Returns how many classes it knows, and how many parameters it has.
    """
    split.check_not_empty("to measure the curvature")
    count = sum(p.numel() for p in model.parameters())
    if count > LARGEST:
        raise ValueError(
            f"{count:,} parameters are too many for one matrix ({LARGEST:,} at most): use operate_by_layer"
        )
    return next(parts(model, split.first(1))).shape[0], count


def parts(model: nn.Module, split: Split) -> Iterator[Tensor]:
    """Compute the rows of X for some samples at a time, so that memory does not grow with the split.

    model: a classifier; it is left as it was.
    split: samples, one or more.

    Yields (samples · classes, parameters), float64.
    Raises ValueError for logits that are not finite, and a network that does not run on one sample at a time.

    >>> [tuple(x.shape) for x in parts(nn.Linear(4, 3), Split(torch.rand(5, 4), torch.arange(5) % 3))]
    [(15, 15)]
    """
    if next(model.parameters()).dtype in (torch.float16, torch.bfloat16):
        model = copy.deepcopy(model).float()  # squares of small derivatives underflow in half precision
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    images = running.fitted(model, split.images)
    with torch.no_grad(), running.evaluating(model):
        classes = running.class_logits(model, images[:1]).shape[1]
    count = sum(p.numel() for p in parameters.values())

    def one(values: dict[str, Tensor], x: Tensor) -> Tensor:
        return torch.func.functional_call(model, values, (x[None],))[0]

    for batch in images.split(max(1, AT_ONCE // (count * (classes + 1)))):
        # each sample gets its own copy of the parameters, so that its gradients stay its own
        own = {name: p.expand(len(batch), *p.shape).clone().requires_grad_() for name, p in parameters.items()}
        with running.evaluating(model), torch.enable_grad():
            try:
                logits = torch.func.vmap(one)(own, batch)
            except RuntimeError as error:
                raise ValueError(f"{type(model).__name__} does not run on one sample at a time: {error}") from error
        if not torch.isfinite(logits).all():
            raise ValueError("the network's logits hold NaN or infinity: finite ones are needed")
        by_class = []
        for column in factor(logits.detach()).unbind(dim=2):
            gradients = torch.autograd.grad(
                logits, list(own.values()), column, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            by_class.append(torch.cat([g.flatten(1) for g in gradients], dim=1))
        yield torch.stack(by_class, dim=1).flatten(0, 1).double()


def inverse_hessian(rows: Tensor | Iterable[Tensor], *, samples: int, alpha: float, block: int = 256) -> Tensor:
    """Invert alpha I + rowsᵀ rows / samples by the recursion of the paper, some rows at a time.

    It holds one matrix of parameters x parameters numbers; everything else is small.

    rows: the factor X, (rows, parameters), float64, from :func:`gauss_newton_rows`, or its parts one after the other.
    samples: N, 1 or more.
    alpha: above 0; the weight decay of the objective, or a small number.
    block: rows at a time, 1 or more; the paper takes 1.

    Returns the inverse, (parameters, parameters), float64.
    Raises ValueError for a value that is not accepted, and if there is no row.
    Source: hassibi1992obs, its recursion for the inverse.

        >>> inverse_hessian(torch.ones(1, 1, dtype=torch.float64), samples=1, alpha=1.0).item()
        0.5
    """
    if not alpha > 0 or samples < 1 or block < 1:
        raise ValueError(f"alpha must be above 0, samples and block 1 or more, not {alpha}, {samples} and {block}")
    inverse = None
    for part in [rows] if isinstance(rows, Tensor) else rows:
        if inverse is None:
            inverse = torch.eye(part.shape[1], dtype=torch.float64, device=part.device).div_(alpha)
        # method
        for x in part.split(block):
            side = inverse @ x.T
            middle = samples * torch.eye(len(x), dtype=torch.float64, device=x.device) + x @ side
            # H⁻¹ ← H⁻¹ - H⁻¹ Xᵀ (N + X H⁻¹ Xᵀ)⁻¹ X H⁻¹
            solved = torch.linalg.solve(middle, side.T)
            for at in range(0, len(side), 1024):  # some rows at a time, so that there is no second matrix
                inverse[at : at + 1024] -= side[at : at + 1024] @ solved
        # end of method
    if inverse is None:
        raise ValueError("there is no row: at least one is needed to invert the second derivatives")
    return _symmetric(inverse)


def _symmetric(matrix: Tensor, block: int = 1024) -> Tensor:
    """Replace a matrix by the mean of it and its transpose. In place, a block at a time."""
    for i in range(0, len(matrix), block):
        for j in range(0, i + block, block):
            above, below = matrix[j : j + block, i : i + block], matrix[i : i + block, j : j + block]
            mean = (above + below.T) / 2
            above.copy_(mean)
            below.copy_(mean.T)
    return matrix
