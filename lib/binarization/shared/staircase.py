"""The activation of ABC-Net: a sum of signs with trained thresholds and factors, which is a staircase."""

import torch
from torch import Tensor, nn

from lib.binarization.shared.signs import Activation, Sign

MOST = 16  # bases: a symbol of a file has at most 16 bits


def check_bases(bases: int) -> None:
    """Raise ValueError unless the number of bases is a whole number from 1 to 16."""
    if not isinstance(bases, int) or not 1 <= bases <= MOST:
        raise ValueError(f"the number of bases must be a whole number from 1 to {MOST}, not {bases}")


class AbcActivation(Activation):
    r"""The sum of β_n A_n, for x of any shape, with trained v and β of shape (N,).

    A_n is +1 where x reaches :math:`t_n = \tfrac12 - v_n`, else -1, and its gradient passes where 0 <= x + v_n <= 1,
    that is :math:`\lvert x - t_n \rvert \le \tfrac12`. The initial v and β come from :func:`gaussian` and fit the
    output of a batch norm best.

    bases: N, from 1 to 16; 3 by default. ValueError for another.
    """

    def __init__(self, bases: int = 3) -> None:
        super().__init__()
        t, beta = gaussian(bases)
        self.v, self.beta = nn.Parameter(0.5 - t), nn.Parameter(beta)

    def extra_repr(self) -> str:
        return f"bases={len(self.v)}"

    # method
    def forward(self, x: Tensor) -> Tensor:
        return sum(beta * Sign.apply(x - t, 0.5) for t, beta in zip(0.5 - self.v, self.beta, strict=True))

    # end of method

    def bases(self) -> list[tuple[float, float]]:
        return list(zip((0.5 - self.v).tolist(), self.beta.tolist(), strict=True))


def gaussian(bases: int) -> tuple[Tensor, Tensor]:
    """Thresholds t and factors b whose staircase is nearest to a standard Gaussian variable in the mean square.

    Found by Lloyd's iteration: each value is the mean of what it stands for, each threshold the middle of two values.

    bases: how many, from 1 to 16.
    Returns t and b, (bases,) each.

    >>> t, b = gaussian(1)
    >>> t.abs().tolist(), round(b.item(), 3)  # the sign, with the mean of |x|
    ([0.0], 0.798)
    """
    check_bases(bases)
    t = torch.special.ndtri(torch.arange(1, bases + 1, dtype=torch.float64) / (bases + 1))
    end = torch.tensor([torch.inf])
    for _ in range(1000):
        edges = torch.cat([-end, t, end])
        density = torch.exp(-edges.square() / 2) / (2 * torch.pi) ** 0.5
        values = -density.diff() / torch.special.ndtr(edges).diff()
        t = (values[1:] + values[:-1]) / 2
    return t.float(), values.diff().float() / 2
