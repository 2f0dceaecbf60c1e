"""Products of ternary values by counting bits, and how many of the operations can be skipped."""

import numpy as np
import torch
from torch import Tensor, nn

from lib import running
from lib.binarization.shared import kernels
from lib.binarization.shared.signs import Binarized, apply


def ternary_dot(a: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    r"""Products of ternary rows on two planes of bits, and how many of their operations were active.

    .. math:: a \cdot w = P - 2\, \mathrm{popcount}\big(m_a \wedge m_w \wedge (s_a \oplus s_w)\big), \qquad
       P = \mathrm{popcount}(m_a \wedge m_w)

    with m the plane of bits that says where a value is not 0, and s where it is above 0.

    a: (n, K), values -1, 0 and 1.
    w: (filters, K), values -1, 0 and 1.
    Returns the products and P, the number of operations with no 0 among their operands: both (n, filters), int64.
    Raises ValueError for other values, and where the rows differ in length.

    >>> products, active = ternary_dot(torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[1.0, 1.0, 1.0]]))
    >>> products.tolist(), active.tolist()
    ([[0]], [[2]])
    """
    if a.dim() != 2 or w.dim() != 2 or a.shape[1] != w.shape[1]:
        raise ValueError(f"a and w must hold rows of the same length, not {tuple(a.shape)} and {tuple(w.shape)}")
    planes = []
    for values in (a, w):
        odd = values[(values != 0) & (values.abs() != 1)]
        if len(odd):
            raise ValueError(f"{odd[0].item():g} is not ternary: accepted are -1, 0 and 1")
        half = torch.full(values.shape[1:], 0.5)
        planes += [kernels.pack(plane.float(), half).words for plane in (values.abs(), values)]
    (mask_a, sign_a), (mask_w, sign_w) = (planes[0][:, None], planes[1][:, None]), planes[2:]
    both = mask_a & mask_w
    active, differ = (np.bitwise_count(bits).sum(-1, dtype=np.int64) for bits in (both, both & (sign_a ^ sign_w)))
    return torch.from_numpy(active - 2 * differ), torch.from_numpy(active)


@torch.no_grad()
def gated_operations(model: nn.Module, images: Tensor) -> dict[str, tuple[int, int]]:
    """How many operations of each layer are active for these images: those in which neither operand is 0.

    The model runs in evaluation mode; its own modes are restored afterwards. Products with a border of zeros are not
    counted. Ternary values drawn uniformly leave 4/9 of all operations active.

    model: with layers that read ternary values or signs; ValueError if there are none.
    images: (n, channels, height, width).
    Returns name of the layer -> (its active operations, all its operations).
    """
    readers = {name: module for name, module in model.named_modules() if isinstance(module, Binarized)}
    if not readers:
        raise ValueError(f"{type(model).__name__} has no layer that reads ternary values: ternarize it first")
    counts = dict.fromkeys(readers, (0, 0))

    def count(name: str, layer: nn.Linear | nn.Conv2d, values: Tensor) -> None:
        pairs = ((values != 0, layer.weight != 0), (torch.ones_like(values), torch.ones_like(layer.weight)))
        active, all_of_them = (apply(layer, a.float(), w.float()).sum(dtype=torch.float64) for a, w in pairs)
        before = counts[name]
        counts[name] = before[0] + int(active), before[1] + int(all_of_them)

    handles = [
        module.activation.register_forward_hook(lambda _, __, values, n=name, m=module: count(n, m.layer, values))
        for name, module in readers.items()
    ]
    try:
        with running.evaluating(model):
            running.logits(model, images)
    finally:
        for handle in handles:
            handle.remove()
    return counts
