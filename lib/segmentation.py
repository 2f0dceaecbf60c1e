"""Segmentation, a class for each pixel: the loss to minimize, and how well predicted classes agree with true ones."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lib import running
from lib.datasets import Split


def check_labels(labels: Tensor, *, classes: int, void: int | None = None) -> None:
    """Raise ValueError unless labels are whole numbers, each of a class or void.

    labels: class numbers of any shape.
    classes: number of classes, 2 or more; their numbers are 0 to classes - 1.
    void: label of pixels without a class, outside the numbers of the classes; None (default): every pixel has a class.

    >>> check_labels(torch.tensor([[0, 5]]), classes=3, void=11)
    Traceback (most recent call last):
    ValueError: labels hold the class 5: accepted are 0 to 2, and 11 for void
    """
    if isinstance(classes, bool) or not isinstance(classes, int) or classes < 2:
        raise ValueError(f"classes must be a whole number of 2 or more, not {classes!r}")
    if void is not None and (isinstance(void, bool) or not isinstance(void, int) or 0 <= void < classes):
        raise ValueError(f"void must be a whole number that is no class (0 to {classes - 1}), or None, not {void!r}")
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be whole numbers, not {labels.dtype}")
    unknown = (labels < 0) | (labels >= classes)
    if void is not None:
        unknown &= labels != void
    if unknown.any():
        also = "" if void is None else f", and {void} for void"
        raise ValueError(f"labels hold the class {labels[unknown][0].item()}: accepted are 0 to {classes - 1}{also}")


def class_weights(labels: Tensor, *, classes: int, void: int | None = None) -> Tensor:
    r"""Weight classes so that the rare ones count: median-frequency balancing (badrinarayanan2017segnet, section 4).

    .. math:: w_c = \frac{\operatorname{median}(f)}{f_c}

    with f_c the pixels of class c, divided by the pixels of all images that contain c. Void pixels count for neither.
    A class that no image contains has the weight 0, and does not count in the median.

    labels: (n, height, width) class numbers of the training images, n of 1 or more.
    classes: number of classes, 2 or more.
    void: label of pixels without a class, default None.

    Returns (classes,), float32. Raises ValueError for labels of another shape, of unknown classes, or all void.

    >>> class_weights(torch.tensor([[[0, 0, 0, 1]], [[0, 0, 0, 0]]]), classes=2)  # f: 7 / 8, 1 / 4; median 9 / 16
    tensor([0.6429, 2.2500])
    """
    check_labels(labels, classes=classes, void=void)
    if labels.dim() != 3 or not labels.numel():
        raise ValueError(f"labels must be (n, height, width) with a pixel or more, not {tuple(labels.shape)}")
    rows = labels.flatten(1).long()
    inside = (rows != void if void is not None else torch.ones_like(rows, dtype=torch.bool)).long()
    pixels = rows.new_zeros(len(rows), classes).scatter_add_(1, rows * inside, inside).double()
    if not pixels.any():
        raise ValueError("labels are void everywhere: at least one pixel must have a class")
    # method
    whole = pixels.sum(1, keepdim=True)  # pixels of each image
    f = pixels.sum(0) / ((pixels > 0) * whole).sum(0)  # NaN for a class that no image has
    # w_c = median(f) / f_c
    return (f.nanquantile(0.5) / f).nan_to_num(0.0).float()
    # end of method


@dataclass(frozen=True, eq=False)
class PixelCrossEntropy:
    r"""The cross-entropy of all pixels that have a class, for the option ``loss`` of :func:`lib.training.fit`.

    .. math:: L = - \sum_i w_{t_i} \log p_{i, t_i} \Big/ \sum_i w_{t_i}

    over the pixels i that are not void. A batch of void pixels alone has the loss 0. This loss can be part of a key of
    :mod:`lib.cache`.

    classes: number of classes, 2 or more.
    void: label of pixels without a class; None (default): every pixel has a class.
    weights: (classes,) w, 0 or more and finite, for example from :func:`class_weights`; None (default): 1 for each.

    Called with outputs (n, classes, height, width) and labels (n, height, width). Raises ValueError for other values
    and, when called, for other shapes and labels of unknown classes.

    >>> outputs, labels = torch.zeros(1, 2, 1, 3), torch.tensor([[[0, 1, 11]]])
    >>> PixelCrossEntropy(classes=2, void=11)(outputs, labels)
    tensor(0.6931)
    """

    classes: int
    void: int | None = None
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        check_labels(torch.zeros(0, dtype=torch.long), classes=self.classes, void=self.void)
        w = self.weights
        if w is not None and not (w.shape == (self.classes,) and w.isfinite().all() and (w >= 0).all()):
            raise ValueError(f"weights must be {self.classes} finite numbers of 0 or more, not {w.tolist()}")

    def __call__(self, outputs: Tensor, labels: Tensor) -> Tensor:
        _check_outputs(outputs, labels, self.classes)
        check_labels(labels, classes=self.classes, void=self.void)
        weights = torch.ones(self.classes) if self.weights is None else self.weights
        weights = weights.to(outputs)
        ignored = -100 if self.void is None else self.void
        # method
        total = nn.functional.cross_entropy(outputs, labels.long(), weights, ignore_index=ignored, reduction="sum")
        shares = weights[labels[labels != ignored].long()].sum()
        return total / torch.where(shares > 0, shares, torch.ones_like(shares))
        # end of method


def confusion(predicted: Tensor, labels: Tensor, *, classes: int, void: int | None = None) -> Tensor:
    """Count how many pixels of each true class were given each class.

    predicted: class numbers, of the shape of ``labels``; those of void pixels do not matter.
    labels: true class numbers of any shape.
    classes: number of classes, 2 or more.
    void: label of pixels without a class, which are not counted; default None.

    Returns (classes, classes) int64: a row for each true class. The counts of several batches can be added.
    Raises ValueError for different shapes and unknown classes.

    >>> confusion(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 1, 11]), classes=2, void=11)
    tensor([[1, 1],
            [0, 1]])
    """
    check_labels(labels, classes=classes, void=void)
    if predicted.shape != labels.shape:
        raise ValueError(f"predicted classes {tuple(predicted.shape)} do not fit labels {tuple(labels.shape)}")
    if void is not None:
        predicted, labels = predicted[labels != void], labels[labels != void]
    check_labels(predicted, classes=classes)
    places = classes * labels.flatten().long() + predicted.flatten().long()
    return places.bincount(minlength=classes**2).reshape(classes, classes)


@dataclass(frozen=True)
class Agreement:
    """How well predicted classes agree with true ones, all in percent (badrinarayanan2017segnet, section 4).

    global_accuracy_pct: share of all pixels with the right class.
    class_accuracy_pct: the same share of each class, averaged over the classes that occur.
    mean_iou_pct: intersection over union of each class, averaged over the classes that occur or were predicted.
    iou_pct: intersection over union of each class; NaN for a class that neither occurs nor was predicted.
    """

    global_accuracy_pct: float
    class_accuracy_pct: float
    mean_iou_pct: float
    iou_pct: tuple[float, ...]


def agreement(counts: Tensor) -> Agreement:
    r"""Summarize a confusion matrix n, with a row for each true class.

    .. math:: \frac{\sum_c n_{cc}}{\sum_{cd} n_{cd}}, \qquad \operatorname*{mean}_c \frac{n_{cc}}{\sum_d n_{cd}}, \qquad
       \operatorname*{mean}_c \frac{n_{cc}}{\sum_d n_{cd} + \sum_d n_{dc} - n_{cc}}

    counts: (classes, classes), as from :func:`confusion`; at least one pixel.

    Returns an :class:`Agreement`. Raises ValueError for another shape, negative counts, and where nothing was counted.

    >>> agreement(torch.tensor([[2, 2], [0, 8]])).iou_pct  # 2 of 4 pixels, 8 of 10
    (50.0, 80.0)
    """
    if counts.dim() != 2 or counts.shape[0] != counts.shape[1] or counts.is_floating_point() or (counts < 0).any():
        raise ValueError(f"counts must be (classes, classes) whole numbers of 0 or more, not {tuple(counts.shape)}")
    if not counts.any():
        raise ValueError("the confusion matrix is empty: at least one pixel with a class is needed")
    # method
    n = counts.double()
    right, true, given = n.diag(), n.sum(1), n.sum(0)
    recall = right / true  # NaN for a class that does not occur
    iou = right / (true + given - right)
    # end of method
    accuracy, class_accuracy, mean_iou = (
        100 * x.item() for x in (right.sum() / n.sum(), recall.nanmean(), iou.nanmean())
    )
    return Agreement(accuracy, class_accuracy, mean_iou, tuple((100 * iou).tolist()))


@torch.no_grad()
def evaluate(
    model: nn.Module, split: Split, *, classes: int, void: int | None = None, batch_size: int = 50
) -> Agreement:
    """Give each pixel the class of the largest output, and compare with the labels. The model is left as it was.

    model: (n, channels, height, width) -> (n, classes, height, width).
    split: images, and labels (n, height, width); at least one image.
    classes: number of classes, 2 or more.
    void: label of pixels without a class, which are not counted; default None.
    batch_size: images per forward pass, 1 or more, default 50.

    Raises ValueError for an empty split, labels of another shape, unknown classes or void everywhere, a batch_size
    below 1, and outputs that do not fit the labels or are not finite.

    >>> split = Split(torch.eye(2).reshape(1, 2, 1, 2), torch.tensor([[[0, 0]]]))
    >>> evaluate(nn.Identity(), split, classes=2).global_accuracy_pct
    50.0
    """
    split.check_not_empty("to evaluate on")
    check_labels(split.labels, classes=classes, void=void)
    if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number of 1 or more, not {batch_size!r}")
    counts = torch.zeros(classes, classes, dtype=torch.long, device=split.labels.device)
    images = split.images.to(memory_format=torch.contiguous_format)  # as lib.training.error_pct does
    with running.evaluating(model):
        for some, labels in zip(images.split(batch_size), split.labels.split(batch_size), strict=True):
            outputs = running.logits(model, some)
            _check_outputs(outputs, labels, classes)
            if not torch.isfinite(outputs).all():
                raise ValueError("the network's outputs hold NaN or infinity: finite ones are needed")
            counts += confusion(outputs.argmax(1), labels, classes=classes, void=void)
    return agreement(counts)


def _check_outputs(outputs: Tensor, labels: Tensor, classes: int) -> None:
    if not isinstance(outputs, Tensor) or labels.dim() != 3:
        what = type(outputs).__name__ if labels.dim() == 3 else f"labels {tuple(labels.shape)}"
        raise ValueError(f"outputs (n, classes, height, width) and labels (n, height, width) are needed, not {what}")
    if outputs.shape != (len(labels), classes, *labels.shape[1:]):
        raise ValueError(
            f"outputs {tuple(outputs.shape)} do not fit labels {tuple(labels.shape)} of {classes} classes: accepted is"
            f" {(len(labels), classes, *labels.shape[1:])}"
        )
