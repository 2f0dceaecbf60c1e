"""An activation that begins as the identity, so that it can go between any two layers (wei2016network)."""

import torch
from torch import Tensor, nn


class PActivation(nn.Module):
    r"""A share a of the identity, and the rest of an activation (wei2016network, parametric activations).

    .. math:: \varphi_a(x) = a\,x + (1 - a)\,\varphi(x)

    With a = 1 it is the identity; for ReLU it is a PReLU of slope a. a is a parameter, so training moves it;
    :func:`anneal` sets it.

    activation: phi, any elementwise module.
    device, dtype: of a.

    >>> PActivation(nn.ReLU())(torch.tensor([-1.0, 2.0])).tolist()
    [-1.0, 2.0]
    """

    def __init__(
        self, activation: nn.Module, *, device: torch.device | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.ones((), device=device, dtype=dtype))
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        # method
        return self.share * x + (1 - self.share) * self.activation(x)
        # end of method


def anneal(model: nn.Module, share: float) -> nn.Module:
    """Set a of all P-activations of a network, and keep training from moving it. In place.

    With a = 0 they are plain activations: let it fall from 1 to 0 over the first epochs after a morph.

    model: any network.
    share: a, in [0, 1].

    Returns the model. Raises ValueError for a share outside [0, 1], and for a network without a P-activation.

    >>> model = anneal(nn.Sequential(nn.Linear(2, 2), PActivation(nn.ReLU())), 0.0)
    >>> model[1](torch.tensor([-1.0, 2.0])).tolist()
    [0.0, 2.0]
    """
    if not 0 <= share <= 1:
        raise ValueError(f"share must be in [0, 1], not {share}")
    shares = [module.share for module in model.modules() if isinstance(module, PActivation)]
    if not shares:
        raise ValueError(f"{type(model).__name__} has no P-activation: subnet and morph_depth insert them")
    for value in shares:
        value.requires_grad_(False).fill_(share)
    return model
