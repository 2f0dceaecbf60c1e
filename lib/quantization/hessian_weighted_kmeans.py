r"""Hessian-weighted k-means: one codebook for all layers, with each error weighted by what it costs in loss.

Around a minimum of the loss, with the cross terms left out, moving the weights by :math:`\delta w` costs

.. math:: \delta L \approx \tfrac12 \sum_i h_{ii}\, \delta w_i^2, \qquad \text{so minimize} \qquad
    \sum_{j=1}^{k} \sum_{w_i \in C_j} h_{ii} (w_i - c_j)^2, \qquad
    c_j = \frac{\sum_{C_j} h_{ii} w_i}{\sum_{C_j} h_{ii}}

(choi2017towards). A weight still belongs to its nearest centroid; only the centroids move. The errors of all
layers are in one unit, that of the loss, so all layers are quantized together and share one codebook. Biases are not
quantized. :mod:`lib.quantization.shared.hessian_diagonal` computes the diagonal h.
"""

import numpy as np
from torch import nn

from lib.arguments import check_one_of
from lib.quantization.deep_compression import STARTS, cluster
from lib.quantization.optimal_kmeans import Codebook
from lib.quantization.shared.hessian_diagonal import Importance
from lib.quantization.shared.joint_codebook import share_together


def share(
    model: nn.Module,
    *,
    k: int,
    importance: Importance | None = None,
    start: str = "optimal",
    floor: float = 1e-3,
    seed: int = 0,
) -> nn.Module:
    """Let the non-zero weights of all layers together share k trainable values; zero stays zero. In place.

    model: any network whose layers' weights are of one type of float.
    k: number of shared values, 1 or more; fewer where there are fewer weights.
    importance: layer name -> importance of each of its weights, of the weight's shape, finite and not negative, such as
        ``hessian_diagonal.gauss_newton_diagonal`` returns; a common factor changes nothing. Layers that it does not
        name are left alone. None: all layers, all weights alike, which is plain k-means.
    start: how the clustering begins: "linear", "density" or "random" for Lloyd's iteration from evenly spaced values,
        from evenly spaced ranks or from weights drawn at random; "optimal" for the best k values.
    floor: added to each importance, in units of their mean, 0 or more, so that a weight that no sample ever used
        counts a little.
    seed: of the weights drawn for the start "random".

    Returns the model.
    Raises ValueError for k below 1, an unknown start, a negative floor, layers whose weights are of several types, and
    an importance that names a layer the model does not have, is negative or not finite, or does not have the weight's
    shape.

    >>> model = share(nn.Sequential(nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 10)), k=8)
    >>> len({*model[0].weight.unique().tolist(), *model[2].weight.unique().tolist()})
    8
    """
    check_one_of("start", start, STARTS)
    if k < 1:
        raise ValueError(f"k must be 1 or more, not {k}")

    def together(values: np.ndarray, weights: np.ndarray) -> Codebook:
        return cluster(values, k, weights=weights, start=start, seed=seed)

    return share_together(model, together, importance=importance, floor=floor)
