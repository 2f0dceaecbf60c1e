"""Products of ternary values on bits, and how many of the operations rest."""

import numpy as np
import torch
from torch import Tensor, nn

from lib import running
from lib.binarization.shared import kernels
from lib.binarization.shared.signs import Binarized, apply


def ternary_dot(a: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    r"""Products of the rows of a (n, K) and of w (filters, K), in {-1, 0, 1}, on two planes of bits; what was active.

    .. math:: a \cdot w = P - 2\, \mathrm{popcount}\big(m_a \wedge m_w \wedge (s_a \oplus s_w)\big), \qquad
       P = \mathrm{popcount}(m_a \wedge m_w)

    m: where the value is not 0. s: where it is above 0. Returns the products and P, the number of operations that do
    not rest, both (n, filters), int64. Raises ValueError for other values, and for rows of another length.
    """
    if a.dim() != 2 or w.dim() != 2 or a.shape[1] != w.shape[1]:
        raise ValueError(f"rows of one length are multiplied, not {tuple(a.shape)} and {tuple(w.shape)}")
    planes = []
    for values in (a, w):
        odd = values[(values != 0) & (values.abs() != 1)]
        if len(odd):
            raise ValueError(f"{odd[0].item():g} is not ternary: accepted are -1, 0 and 1")
        half = torch.full(values.shape[1:], 0.5)
        planes += [kernels.pack(each.float(), half).words for each in (values.abs(), values)]
    (mask_a, sign_a), (mask_w, sign_w) = (planes[0][:, None], planes[1][:, None]), planes[2:]
    both = mask_a & mask_w
    active, differ = (np.bitwise_count(bits).sum(-1, dtype=np.int64) for bits in (both, both & (sign_a ^ sign_w)))
    return torch.from_numpy(active - 2 * differ), torch.from_numpy(active)


@torch.no_grad()
def gated_operations(model: nn.Module, images: Tensor) -> dict[str, tuple[int, int]]:
    """Name of each layer that reads ternary values or signs -> its active operations for the images, and all of them.

    An operation is active where both operands are not 0; those on a border of zeros are none. In evaluation mode.
    Uniform ternary values leave 4/9 active, and 1 - 4/9 = 55.6 % at rest. Raises ValueError for a model without one.
    """
    readers = {name: module for name, module in model.named_modules() if isinstance(module, Binarized)}
    if not readers:
        raise ValueError(f"{type(model).__name__} has no layer that reads ternary values: ternarize it first")
    counts = dict.fromkeys(readers, (0, 0))

    def count(name: str, layer: nn.Module, values: Tensor) -> None:
        pairs = ((values != 0, layer.weight != 0), (torch.ones_like(values), torch.ones_like(layer.weight)))
        sums = (apply(layer, a.float(), w.float()).sum(dtype=torch.float64) for a, w in pairs)
        counts[name] = tuple(before + int(more) for before, more in zip(counts[name], sums, strict=True))

    handles = [
        module.activation.register_forward_hook(lambda _, __, values, n=name, m=module: count(n, m.layer, values))
        for name, module in readers.items()
    ]
    try:
        running.logits(model.eval(), images)
    finally:
        for handle in handles:
            handle.remove()
    return counts
