"""How many pixels of its input a place of a network's output sees, measured on the network itself."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from lib import running, weights
from lib.arguments import check_sizes

Size = int | tuple[int, int]  # of a window: of both sides, or height and width
# max pools that a mean over the same windows cannot replace
REFUSED = {
    "max_pool2d_with_indices",
    *(f"{kind}_max_pool2d{places}" for kind in ("adaptive", "fractional") for places in ("", "_with_indices")),
}


def receptive_field(model: nn.Module, shape: tuple[int, int, int]) -> tuple[int, int]:
    """Measure how many pixels a place of the output sees: those to which its gradient reaches, in height and width.

    The gradient is that of the place in the middle, in a copy in which it cannot vanish by chance: its weights are
    positive, and max pools take the mean. Pixels that a dilated filter leaves out between others count as seen.

    model: network of convolutions, pools, normalization and activations whose output is a map; it is not changed.
    shape: of one input, (channels, height, width), so large that the field does not reach its border.

    Returns (height, width) in pixels.
    Raises ValueError for an output that is no map or has no gradient, for a field that reaches the border, and for max
    pools that are adaptive, fractional or dilated, or that return the places of their maxima.

    >>> receptive_field(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Conv2d(2, 1, 3)), (1, 9, 9))
    (5, 5)
    """
    channels, height, width = shape
    check_sizes({"channels": channels, "height": height, "width": width})
    positive = _positive(model)
    like = next(positive.parameters(), torch.zeros(0))
    # small, so that no activation reaches its ceiling
    image = torch.full((1, *shape), 1e-6, dtype=torch.float64, device=like.device, requires_grad=True)
    with torch.enable_grad(), _Means():
        answers = running.logits(positive, image)
        if not isinstance(answers, Tensor) or answers.dim() != 4:
            answered = tuple(answers.shape) if isinstance(answers, Tensor) else type(answers).__name__
            raise ValueError(f"the output must be a map (n, channels, height, width), not {answered}")
        # method
        middle = answers[0, :, answers.shape[2] // 2, answers.shape[3] // 2].sum()
        reached = torch.autograd.grad(middle, image, allow_unused=True)[0] if middle.requires_grad else None
        seen = torch.zeros(height, width) if reached is None else reached[0].count_nonzero(0)
        # end of method
    if not seen.any():
        raise ValueError("no pixel has a gradient: the output must not be constant near an input of zeros")
    rows, columns = (seen.any(along).nonzero().flatten().tolist() for along in (1, 0))
    if {0, height - 1} & {*rows} or {0, width - 1} & {*columns}:
        raise ValueError(f"the field reaches the border of an input of {shape}: give a larger height and width")
    return rows[-1] - rows[0] + 1, columns[-1] - columns[0] + 1


@torch.no_grad()
def _positive(model: nn.Module) -> nn.Module:
    """A copy whose weights are positive and sum to about 1 for each filter, without biases, in evaluation mode."""
    positive = weights.decompress(copy.deepcopy(model)).double().eval().requires_grad_(False)
    random = torch.Generator().manual_seed(0)
    for name, values in positive.named_parameters():
        # not all equal, or layer norm would have no gradient
        drawn = torch.rand(values.shape, generator=random, dtype=torch.float64) + 0.5
        values.copy_(drawn / values[0].numel() if values.dim() > 1 else drawn * (not name.endswith("bias")))
    for layer in positive.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.reset_running_stats()
    return positive


class _Means(TorchFunctionMode):
    """Max pools take the mean of their windows, so that every pixel of a window has a gradient."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if (name := getattr(function, "__name__", "")) in REFUSED:
            raise ValueError(f"a layer calls {name}: of max pools, only max_pool2d without indices can be measured")
        return (_mean if function in (torch.max_pool2d, functional.max_pool2d) else function)(*args, **(kwargs or {}))


def _mean(
    images: Tensor,
    size: Size,
    stride: Size | None = None,
    padding: Size = 0,
    dilation: Size = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,  # as torch passes it; with True, another function is called
) -> Tensor:
    if dilation not in (1, (1, 1), [1, 1]):
        raise ValueError(f"a max pool has dilation {dilation}: accepted is 1")
    return functional.avg_pool2d(images, size, stride, padding, ceil_mode)
