"""Which input channels of a layer or network reach which of its output channels."""

import copy

import torch
from torch import Tensor, nn


def flow(model: nn.Module, images: Tensor) -> Tensor:
    r"""Tell which input channels reach which output channels: the sums of the absolute values of the Jacobian.

    .. math:: F_{o,i} = \sum_{p,q} \Big| \frac{\partial y_o(p)}{\partial x_i(q)} \Big|

    over all places p and q, in float64 and evaluation mode. Exactly 0 where no path leads from i to o. Where all paths
    end in a ReLU that is off, it is 0 as well, so give it a few images.

    model: any network or layer whose output is (n, channels, ...); it is not changed.
    images: (n, channels, height, width), small, since the whole Jacobian of each is computed. n is 1 or more.

    Returns (output channels, input channels) float64. Raises ValueError for images of another shape or not finite.

    >>> two = nn.Sequential(nn.Conv2d(4, 4, 1, groups=2), nn.Conv2d(4, 4, 1, groups=2))
    >>> (flow(two, torch.ones(1, 4, 1, 1)) > 0).int().tolist()
    [[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 1], [0, 0, 1, 1]]
    """
    if images.dim() != 4 or not images.numel():
        raise ValueError(f"images of {tuple(images.shape)}: they must be (n, channels, height, width), none of them 0")
    if not images.isfinite().all():
        raise ValueError("the images have NaN or infinity: all values must be finite")
    twin = copy.deepcopy(model).double().eval()
    total: Tensor = torch.zeros((), dtype=torch.float64, device=images.device)
    for image in images.double():
        jacobian = torch.func.jacrev(lambda x: twin(x[None])[0])(image)  # (outputs, ..., channels, height, width)
        total = total + jacobian.abs().reshape(len(jacobian), -1, *image.shape).sum((1, 3, 4))
    return total.detach()
