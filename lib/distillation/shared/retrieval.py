"""How well embeddings find samples of the same class, and whether two networks rank samples alike.

Each sample of a split is a query once, and all others are ranked by their Euclidean distance to it, with embeddings
scaled to length 1, in float64. Samples at the same distance are ordered by number.
"""

from collections.abc import Iterator

import torch
from scipy import stats
from torch import Tensor, nn

from lib import running
from lib.datasets import Split

QUERIES = 500  # at a time: their distances to 10,000 samples take 40 MB


@torch.no_grad()
def embeddings(model: nn.Module, layer: str, split: Split, *, batch_size: int = 500) -> Tensor:
    """Return the output of a network's layer for each sample, flattened: (n, d).

    model: any network; it is left as it was, and runs in evaluation mode.
    layer: name of the layer, as in ``model.named_modules()``.
    split: the samples, at least one.
    batch_size: samples at a time, 1 or more, default 500.

    Raises ValueError for an empty split, a batch_size below 1, and a layer that does not exist, does not run, or
    does not answer each sample with a row.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> tuple(embeddings(model, "1", Split(torch.rand(5, 4), torch.arange(5))).shape)
    (5, 3)
    """
    split.check_not_empty("to embed")
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, not {batch_size}")
    parts = []
    with running.evaluating(model), running.captured(model, [layer]) as flow:
        for images in split.images.split(batch_size):
            running.logits(model, running.fitted(model, images))
            running.check_ran([layer], flow.outputs)
            answer = flow.outputs[layer]
            if not isinstance(answer, Tensor) or answer.dim() < 2 or len(answer) != len(images):
                raise ValueError(f"layer {layer!r} does not answer each sample with a row: name one that does")
            parts.append(answer.flatten(1))
    return torch.cat(parts)


def recall_at_1_pct(embeddings: Tensor, labels: Tensor) -> float:
    """Return how often the nearest other sample has the class of the query, in percent.

    embeddings: (n, ...), one row for each sample.
    labels: (n,) class numbers. A sample that is alone in its class has nothing to find: it is not a query, but still a
        candidate.

    Raises ValueError for embeddings that are not finite, other shapes, and labels without two samples of one class.

    >>> recall_at_1_pct(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]]), torch.tensor([0, 0, 1, 1]))
    100.0
    """
    return _mean_pct([same[:, 0].double() for same in _hits(embeddings, labels)])


def mean_average_precision_pct(embeddings: Tensor, labels: Tensor) -> float:
    r"""Return the mean over queries of the average precision, in percent.

    The average precision of a query is the mean of :math:`\mathrm{hits}(r) / r` over the ranks r at which it finds a
    sample of its class; it is 100 % where those come first.

    embeddings: (n, ...), one row for each sample.
    labels: (n,) class numbers. A sample that is alone in its class is not a query, but still a candidate.

    Raises ValueError for embeddings that are not finite, other shapes, and labels without two samples of one class.

    >>> mean_average_precision_pct(torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.2]]), torch.tensor([0, 1, 0]))
    100.0
    """
    precisions = []
    for same in _hits(embeddings, labels):
        ranks = torch.arange(1, 1 + same.shape[1], device=same.device)
        at_hits = same.cumsum(1).double() / ranks * same
        precisions.append(at_hits.sum(1) / same.sum(1))
    return _mean_pct(precisions)


def rank_correlation(student: Tensor, teacher: Tensor) -> float:
    """Return how alike two networks rank the other samples by distance: the mean over queries of Kendall's tau (b).

    student: embeddings, (n, ...), of three samples or more.
    teacher: embeddings of the same samples; their length may differ.

    Returns -1 (opposite orders) to 1 (the same order). A query that is equally far from all others has no order, and
    counts as 0.
    Raises ValueError for embeddings that are not finite, different numbers of samples, and fewer than three samples.

    >>> embeddings = torch.tensor([[1.0, 0.0], [1.0, 0.4], [0.0, 1.0], [-1.0, 0.1]])
    >>> rank_correlation(-2 * embeddings, embeddings)
    1.0
    """
    ours, theirs = _rows(student), _rows(teacher)
    if len(ours) != len(theirs) or len(ours) < 3:
        raise ValueError(f"{len(ours)} and {len(theirs)} embeddings: the same three samples or more are needed")
    taus = []
    queries = torch.arange(len(ours))
    for chunk in queries.split(QUERIES):
        others = queries != chunk[:, None]
        mine, its = (_distances(rows, chunk.to(rows.device)).cpu() for rows in (ours, theirs))
        for a, b, rest in zip(mine, its, others, strict=True):
            taus.append(stats.kendalltau(a[rest].numpy(), b[rest].numpy()).statistic)
    return torch.tensor(taus, dtype=torch.float64).nan_to_num(0.0).mean().item()


def _hits(embeddings: Tensor, labels: Tensor) -> Iterator[Tensor]:
    """For a few queries at a time: whether the other samples, nearest first, have their class, (queries, n - 1)."""
    rows = _rows(embeddings)
    if labels.shape != (len(rows),):
        raise ValueError(f"labels {tuple(labels.shape)} of {len(rows)} embeddings: one label is needed for each")
    labels = labels.to(rows.device)
    _, classes, counts = labels.unique(return_inverse=True, return_counts=True)
    queries = (counts[classes] > 1).nonzero().flatten()
    if not len(queries):
        raise ValueError(f"no two of the {len(rows)} samples have the same class: there is nothing to find")
    for chunk in queries.split(QUERIES):
        distances = _distances(rows, chunk)
        distances.scatter_(1, chunk[:, None], -1)  # the query itself comes first, and is dropped
        order = distances.argsort(dim=1, stable=True)[:, 1:]
        yield labels[order] == labels[chunk, None]


def _distances(rows: Tensor, queries: Tensor) -> Tensor:
    # not by a matrix product, which can give equal rows slightly different distances
    return torch.cdist(rows[queries], rows, compute_mode="donot_use_mm_for_euclid_dist")


def _mean_pct(parts: list[Tensor]) -> float:
    return 100 * torch.cat(parts).mean().item()


def _rows(embeddings: Tensor) -> Tensor:
    """Embeddings scaled to length 1 in float64, (n, d); a row of zeros stays zero."""
    if embeddings.dim() < 2 or not embeddings.numel():
        raise ValueError(f"embeddings {tuple(embeddings.shape)}: (n, d) are needed, none of them 0")
    if not torch.isfinite(embeddings).all():
        raise ValueError("the embeddings hold NaN or infinity: finite ones are needed")
    rows = embeddings.detach().flatten(1).double()
    lengths = rows.norm(dim=1, keepdim=True)
    return rows / torch.where(lengths > 0, lengths, 1)
