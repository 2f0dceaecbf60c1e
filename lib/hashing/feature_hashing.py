r"""Feature hashing: fewer dimensions, by adding up the inputs that fall into the same bucket.

One hash deals the D inputs into K buckets, another gives each a sign, and a bucket holds the sum

.. math:: \phi_k(x) = \sum_{j:\, h(j) = k} \xi(j)\, x_j

(weinberger2009feature, section 2; without signs: shi2009hash). Averaged over all hashes, the signs make inner products
exact, with a variance that falls as 1 / K:

.. math:: \mathbb E\, \langle \phi(x), \phi(y) \rangle = \langle x, y \rangle, \qquad
   \operatorname{Var} = \frac1K \sum_{i \ne j} \big( x_i^2 y_j^2 + x_i y_i x_j y_j \big).

Nothing is learned and no matrix is stored: the seed determines the map. The papers hash words, and so need no
dictionary; here a key is the number of a dense input.
"""

from dataclasses import dataclass
from numbers import Integral
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from lib.hashing.shared import mixing

Samples = TypeVar("Samples", np.ndarray, Tensor)


@dataclass(frozen=True)
class FeatureHashing:
    r"""The map from D inputs to K features, in scikit-learn's form; there is nothing to fit.

    features: K, 1 or more.
    seed: of both hashes, from 0 to 2^63 - 1.
    signed: whether each input gets a random sign. Default True; without signs, inner products are wrong by
        :math:`\frac1K \sum_{i \ne j} x_i y_j` on average.

    Raises ValueError for other features and seeds.

    >>> x = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    >>> FeatureHashing(2, seed=0).transform(x), FeatureHashing(2, seed=0, signed=False).transform(x)
    (tensor([[-2.,  2.]]), tensor([[6., 4.]]))
    """

    features: int
    seed: int
    signed: bool = True

    def __post_init__(self) -> None:
        if isinstance(self.features, bool) or not isinstance(self.features, Integral) or self.features < 1:
            raise ValueError(f"features must be a whole number from 1 up, not {self.features!r}")
        mixing.check_seed(self.seed)

    def transform(self, x: Samples) -> Samples:
        """Hash samples.

        x: (n, D), an array or a tensor of finite floats, neither n nor D zero. Half-precision floats are added in
            float32.

        Returns (n, K) of the type of x, on its device; for a tensor, gradients flow back to x.
        Raises ValueError for other x.
        """
        if isinstance(x, np.ndarray):
            return self.transform(torch.from_numpy(np.array(x, order="C"))).numpy()
        if x.dim() != 2 or not x.numel():
            raise ValueError(f"x must be (n, D) with at least one sample and one input, not {tuple(x.shape)}")
        if not x.is_floating_point():
            raise ValueError(f"x is {x.dtype}: floating-point numbers are needed")
        if not torch.isfinite(x).all():
            raise ValueError("x holds NaN or infinity: finite numbers are needed")
        # method
        keys = np.arange(x.shape[1])
        buckets = torch.from_numpy(mixing.buckets(keys, self.features, self.seed)).to(x.device)
        exact = x.to(torch.promote_types(x.dtype, torch.float32))
        if self.signed:
            exact = exact * torch.from_numpy(mixing.signs(keys, self.seed)).to(exact)
        sums = exact.new_zeros(len(x), self.features)
        return sums.index_add(1, buckets, exact).to(x.dtype)  # phi_k(x) = sum over h(j) = k of xi(j) x_j
        # end of method
