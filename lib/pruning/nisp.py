r"""Neuron importance score propagation: how much does each neuron change the final responses?

The final responses, what the classifier reads, are ranked first, by infinite feature selection over the data. With the
spread :math:`\sigma_i` of feature i and the rank correlation :math:`\rho_{ij}`,

.. math:: A_{ij} = \alpha \max(\sigma_i, \sigma_j) + (1-\alpha)(1 - |\rho_{ij}|), \qquad
   s = \Big(\sum_{l \ge 1} (rA)^l\Big) 1 = \big((I - rA)^{-1} - I\big) 1, \qquad r = 0.9 / \text{spectral radius of } A

(roffo2015infinite). Then the scores go back through the network (yu2018nisp),

.. math:: s_k = |W^{(k+1)}|^\top s_{k+1}.

A convolution uses its transposed form with the magnitudes of the kernels; batch norm multiplies by :math:`|\gamma /
\sigma|`, pooling gives a score to its whole window, ReLU passes it on, and an addition or concatenation passes it to
all its parts. This is the gradient of a linear network: the model with the magnitudes of its weights, without biases
and activations. So autograd propagates the scores, through whatever graph the model has.
"""

import copy
from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from scipy.linalg import eigh
from scipy.stats import rankdata
from torch import Tensor, nn

from lib import running, structure
from lib.datasets import Split

WEIGHTED = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
BATCH_NORM = nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d


def ranking(responses: Tensor, *, alpha: float = 0.5) -> Tensor:
    """Rank features by infinite feature selection: those that vary much and resemble the others little are important.

    responses: (samples, features), two samples or more, finite.
    alpha: weight of the spread (relative to the widest) against that of the correlation, in [0, 1]; 1 looks at the
        spread alone, 0 at the correlation alone. Default 0.5.

    Returns (features,) importance, float64, 0 or more; a feature that never changes gets 0.
    Raises ValueError for alpha outside [0, 1] and responses of another kind.
    Source: roffo2015infinite.

    >>> importance = ranking(torch.tensor([[0.0, 0.0, 5.0], [4.0, 1.0, 5.0], [0.0, 1.0, 5.0]]))
    >>> importance.argsort(descending=True)  # the widest first, the constant last
    tensor([0, 1, 2])
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], not {alpha}")
    if responses.dim() != 2 or len(responses) < 2 or not torch.isfinite(responses).all():
        raise ValueError(
            f"responses of shape {tuple(responses.shape)} cannot be ranked: two samples or more, all finite, are needed"
        )
    spread = responses.double().std(0).numpy()
    live = spread > 1e-12 * max(spread.max(), 1e-300)
    importance = np.zeros(len(spread))
    if live.any():
        values, n = responses[:, torch.from_numpy(live)].double().numpy(), int(live.sum())
        # method
        correlation = np.corrcoef(rankdata(values, axis=0), rowvar=False).reshape(n, n)
        sigma = spread[live] / spread[live].max()
        graph = alpha * np.maximum.outer(sigma, sigma) + (1 - alpha) * (1 - np.abs(correlation))
        # nothing is negative, so the largest eigenvalue is the spectral radius
        radius = eigh(graph, eigvals_only=True, subset_by_index=[n - 1, n - 1])[0]
        importance[live] = np.linalg.solve(np.eye(n) - 0.9 / max(radius, 1e-300) * graph, np.ones(n)) - 1
        # end of method
    return torch.from_numpy(importance)


def linearized(model: nn.Module) -> nn.Module:
    """Copy a model as a network that is linear for positive inputs: magnitudes for weights, no biases, sums for maxima.

    model: any network; it is left as it was.

    Returns the copy, float64, in evaluation mode.
    """
    model = copy.deepcopy(model).double().eval().requires_grad_(False)
    for module in list(model.modules()):
        if isinstance(module, WEIGHTED | BATCH_NORM):
            for values, change in ((module.weight, torch.abs_), (module.bias, torch.zero_)):
                if values is not None:
                    change(values)
            if isinstance(module, BATCH_NORM) and module.running_mean is not None:
                module.running_mean.zero_()
        for name, child in module.named_children():
            if type(child).__module__ == "torch.nn.modules.activation":
                setattr(module, name, nn.Identity())
            elif isinstance(child, nn.MaxPool2d | nn.MaxPool3d) and child.dilation in (1, (1, 1), (1, 1, 1)):
                setattr(module, name, _sum_pool(child))
    return model


def _sum_pool(pool: nn.MaxPool2d | nn.MaxPool3d) -> nn.Module:
    kind: type[nn.Module] = nn.AvgPool2d if isinstance(pool, nn.MaxPool2d) else nn.AvgPool3d
    return kind(pool.kernel_size, pool.stride, pool.padding, ceil_mode=pool.ceil_mode, divisor_override=1)


def propagate(
    model: nn.Module, importance: Tensor, example_input: Tensor, *, removed: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Propagate importance from the final responses back to every layer.

    model: any network; it is left as it was.
    importance: (features,) of the features, or of whole maps, that the last layer reads; finite, 0 or more.
    example_input: inputs with which the network is traced, (n, channels, height, width).
    removed: layer name -> (filters,) bool, filters that pass nothing on. Default: none.

    Returns layer name -> (filters,) float64: the importance of what a layer puts out, summed over the places of a map.
    Raises ValueError for importance of another kind and for scores that overflow.
    Source: yu2018nisp.

    >>> model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
    >>> _ = model[0].weight.data.copy_(torch.tensor([[1.0, -2.0], [3.0, 4.0]]))
    >>> propagate(model, torch.tensor([1.0, 10.0]), torch.zeros(1, 2))  # what the last layer reads
    {'0': tensor([ 1., 10.], dtype=torch.float64)}
    """
    if importance.dim() != 1 or not torch.isfinite(importance).all() or (importance < 0).any():
        raise ValueError(f"the importance must be one finite number, 0 or more, for each feature, not {importance}")
    linear = linearized(model)
    order = in_order(linear, example_input.double())
    with running.captured(linear, order) as flow, torch.enable_grad():
        for name, gone in (removed or {}).items():
            linear.get_submodule(name).register_forward_hook(partial(_cut, gone=gone))
        linear(torch.ones_like(example_input[:1], dtype=torch.float64).requires_grad_())
        response, names = flow.inputs[order[-1]], order[:-1]
        shape = [1, -1] + [1] * (response.dim() - 2)
        # method
        total = (response * importance.double().reshape(shape)).sum()
        slopes = torch.autograd.grad(total, [flow.outputs[name] for name in names], allow_unused=True)
        # end of method
    # method
    scores = {name: s.transpose(0, 1).flatten(1).sum(1) for name, s in zip(names, slopes, strict=True) if s is not None}
    # end of method
    if not all(torch.isfinite(s).all() for s in scores.values()):
        raise ValueError(f"the importance scores of {type(model).__name__} overflow: scale its weights down")
    return scores


def _cut(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor, *, gone: Tensor) -> Tensor:
    return output * (~gone).reshape(-1, *[1] * (output.dim() - 2))


@torch.no_grad()
def in_order(model: nn.Module, example_input: Tensor) -> list[str]:
    """List the convolution and linear layers of a model in the order in which they run.

    model: any network.
    example_input: inputs with which it runs once, (n, channels, height, width).

    Returns their names.

    >>> in_order(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), torch.zeros(1, 2))
    ['0', '2']
    """
    names = [name for name, layer in model.named_modules() if isinstance(layer, WEIGHTED)]
    with running.captured(model, names) as flow:
        running.logits(model, example_input[:1])
    return list(flow.outputs)


def scores(
    model: nn.Module, split: Split, *, fraction: float = 0.0, alpha: float = 0.5, images: int = 1000, seed: int = 0
) -> dict[str, Tensor]:
    """Score each filter by its importance for the final responses.

    model: any network that can be traced; it is left as it was.
    split: samples for the final responses, two or more; labels are not read.
    fraction: share of each layer that is going to be removed, in [0, 1). With it the layers are scored from the last to
        the first, and filters that will go pass nothing on. With 0 (default) all filters do, and one pass is enough.
    alpha: weight of the spread against the correlation in the ranking of the responses, in [0, 1]. Default 0.5.
    images: number of samples to draw for the responses, 2 or more. Default 1000.
    seed: seed of the draw. Default 0.

    Returns layer name -> (filters,), mean 1 in each layer, larger = keep.
    Raises ValueError for numbers out of range, fewer than two samples, responses that never change, scores that
    overflow, and a network that cannot be traced.
    Source: yu2018nisp; roffo2015infinite.

    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2))
    >>> split = Split(torch.rand(5, 1, 8, 8), torch.zeros(5, dtype=torch.long))
    >>> {name: round(score.mean().item(), 3) for name, score in scores(model, split).items()}
    {'0': 1.0}
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"fraction must be in [0, 1), not {fraction}")
    split.check_not_empty("to score filters")
    if len(split) < 2 or images < 2:
        raise ValueError(
            f"the final responses to {min(len(split), images)} images cannot be ranked: two or more are needed"
        )
    example = split.images[:1]
    groups = structure.groups(model, example)
    importance = ranking(responses(model, split, images=images, seed=seed), alpha=alpha)
    if not importance.any():
        raise ValueError("the final responses are the same for all images, or all alike: there is nothing to rank")
    order = in_order(linearized(model), example.double())
    result: dict[str, Tensor] = {}
    removed: dict[str, Tensor] = {}
    for group in sorted(groups, key=lambda group: -max(map(order.index, group.producers))):
        if fraction or not result:
            passed = propagate(model, importance, example, removed=removed)
        result |= {name: (passed[name] / passed[name].mean().clamp_min(1e-300)).float() for name in group.producers}
        if fraction:
            kept = structure.keep({n: result[n] for n in group.producers}, fraction=fraction, groups=[group])
            removed |= {name: ~mask for name, mask in kept.items()}
    return result


@torch.no_grad()
def responses(model: nn.Module, split: Split, *, images: int, seed: int) -> Tensor:
    """Run samples through a network, and give what its last layer reads.

    model: any network; it is left as it was.
    split: samples; labels are not read.
    images: number of samples to draw, 1 or more; all of them where there are fewer.
    seed: seed of the draw.

    Returns (images, features); of maps, the mean over the places.
    Raises ValueError for an empty split and a number of images out of range.
    """
    split.check_not_empty("to run through the network")
    if images < 1:
        raise ValueError(f"images must be 1 or more, not {images}")
    drawn = torch.randperm(len(split), generator=torch.Generator().manual_seed(seed))[:images]
    parts = []
    with running.evaluating(model):
        last = in_order(model, split.images)[-1]
        with running.captured(model, [last]) as flow:
            for batch in split.images[drawn].split(100):
                running.logits(model, batch)
                read = flow.inputs[last]
                parts.append(read.flatten(2).mean(2) if read.dim() > 2 else read)
    return torch.cat(parts)
