"""Classes of pixels: weights, loss and agreement, against loops, torch, scikit-learn and the formula of a chapter."""

import math

import given
import numpy as np
import pytest
import torch
from sklearn import metrics
from torch import nn

from lib import training
from lib.cache import cached
from lib.datasets import Split
from lib.segmentation import PixelCrossEntropy, agreement, check_labels, class_weights, confusion, evaluate

VOID = 11


def drawn(*shape, classes=4, void=VOID, seed=0):
    """Labels of all classes but the last one, a fifth of them void."""
    random = given.generator(seed)
    labels = torch.randint(0, classes - 1, shape, generator=random)
    return torch.where(torch.rand(shape, generator=random) < 0.2, void, labels)


@pytest.mark.parametrize("void", [VOID, -100, 4])
def test_weights_are_median_over_frequency_counted_pixel_by_pixel(void):
    labels = drawn(5, 3, 4, void=void)
    labels[0][labels[0] == 2] = 0  # an image without class 2
    f = []
    for kind in range(3):
        there = [image[image != void] for image in labels if (image == kind).any()]
        f.append(sum((image == kind).sum().item() for image in there) / sum(map(len, there)))
    expected = [sorted(f)[1] / each for each in f]
    weights = class_weights(labels, classes=4, void=void)
    assert weights.tolist() == pytest.approx([*expected, 0.0]) and weights.dtype == torch.float32
    assert weights[:3].median() == 1


def test_classes_of_one_size_have_the_weight_1():
    labels = torch.arange(6).reshape(1, 2, 3) % 3
    assert class_weights(labels.expand(4, 2, 3), classes=3).tolist() == [1, 1, 1]


def test_weights_do_not_depend_on_how_often_images_are_seen():
    labels = drawn(3, 4, 5)
    torch.testing.assert_close(
        class_weights(labels, classes=4, void=VOID), class_weights(labels.repeat(3, 1, 1), classes=4, void=VOID)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("weights", [None, torch.tensor([0.5, 2.0, 1.0, 3.0])])
def test_the_loss_is_torchs_weighted_mean_without_void(weights, dtype):
    labels = drawn(2, 3, 5)
    outputs = torch.randn(2, 4, 3, 5, generator=given.generator()).to(dtype).requires_grad_()
    own = PixelCrossEntropy(classes=4, void=VOID, weights=weights)(outputs, labels)
    (gradient,) = torch.autograd.grad(own, outputs)
    exact = outputs.detach().double().requires_grad_()
    expected = nn.CrossEntropyLoss(None if weights is None else weights.double(), ignore_index=VOID)(exact, labels)
    expected.backward()
    tolerance = {"rtol": 0.02, "atol": 0.01} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(own, expected.to(dtype), **tolerance)
    torch.testing.assert_close(gradient, exact.grad.to(dtype), **tolerance)
    assert not gradient.movedim(1, -1)[labels == VOID].any()


def test_a_batch_of_void_has_no_loss_and_no_gradient():
    outputs = torch.randn(1, 3, 2, 2, requires_grad=True)
    loss = PixelCrossEntropy(classes=3, void=-1, weights=torch.ones(3))(outputs, torch.full((1, 2, 2), -1))
    loss.backward()
    assert loss == 0 and not outputs.grad.any()


def test_labels_of_bytes_are_labels():
    labels = drawn(2, 3, 3)
    loss, outputs = PixelCrossEntropy(classes=4, void=VOID), torch.randn(2, 4, 3, 3)
    assert loss(outputs, labels.byte()) == loss(outputs, labels)
    assert torch.equal(class_weights(labels.byte(), classes=4, void=VOID), class_weights(labels, classes=4, void=VOID))


def bright(n=12, side=6):
    """Images of noise, whose bright pixels are one class and whose dark ones another; the first row is void."""
    images = torch.rand(n, 1, side, side, generator=given.generator())
    labels = (images[:, 0] > 0.5).long()
    labels[:, 0] = VOID
    return Split(images, labels)


def test_training_takes_the_loss_and_the_cache_keeps_it(tmp_path, monkeypatch):
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    split = bright()
    options = {"split": split, "epochs": 30, "seed": 0, "optimizer": "adam", "batch_size": 4, "learning_rate": 0.1}
    for w in (torch.ones(2), torch.tensor([1.0, 2.0])):
        loss = PixelCrossEntropy(classes=2, void=VOID, weights=w)
        nets = [cached(training.fit, given.seeded(lambda: nn.Conv2d(1, 2, 1)), **options, loss=loss) for _ in range(2)]
        assert given.equal(*nets)
    assert len(list(tmp_path.glob("*.safetensors"))) == 2  # other weights are another key
    assert evaluate(nets[0], split, classes=2, void=VOID).global_accuracy_pct > 90


def test_confusion_is_scikit_learns_and_adds_up():
    labels, predicted = drawn(6, 4, 5), drawn(6, 4, 5, seed=1)
    predicted[predicted == VOID] = 3
    counts = confusion(predicted, labels, classes=4, void=VOID)
    there = labels != VOID
    expected = metrics.confusion_matrix(labels[there], predicted[there], labels=range(4))
    np.testing.assert_array_equal(counts.numpy(), expected)
    parts = [confusion(predicted[part], labels[part], classes=4, void=VOID) for part in (slice(2), slice(2, 6))]
    assert torch.equal(counts, sum(parts)) and counts.sum() == there.sum()


def test_agreement_is_scikit_learns():
    labels, predicted = drawn(4, 5, 5, void=0), drawn(4, 5, 5, void=2, seed=1)
    found = agreement(confusion(predicted, labels, classes=4))
    true, given_ = labels.flatten(), predicted.flatten()
    assert found.global_accuracy_pct == pytest.approx(100 * metrics.accuracy_score(true, given_))
    assert found.class_accuracy_pct == pytest.approx(100 * metrics.balanced_accuracy_score(true, given_))
    iou = metrics.jaccard_score(true, given_, labels=range(3), average=None)
    assert found.iou_pct[:3] == pytest.approx(100 * iou) and math.isnan(found.iou_pct[3])
    assert found.mean_iou_pct == pytest.approx(100 * iou.mean())


def test_a_class_that_is_only_predicted_lowers_iou_alone():
    found = agreement(torch.tensor([[3, 1], [0, 0]]))
    assert (found.class_accuracy_pct, found.iou_pct) == (75, (75, 0)) and found.mean_iou_pct == 37.5


def test_mean_iou_is_the_overlap_of_the_chapter_on_distillation():
    labels, chosen = drawn(5, 6, 6, void=-100), drawn(5, 6, 6, void=3, seed=1)
    counts = confusion(chosen, labels, classes=4, void=-100)
    chosen = torch.where(labels == -100, -100, chosen)
    shares = []
    for kind in range(4):
        both = ((chosen == kind) & (labels == kind)).sum()
        either = ((chosen == kind) | (labels == kind)).sum()
        if either:
            shares.append(float(both / either))
    assert agreement(counts).mean_iou_pct == pytest.approx(100 * float(np.mean(shares)), rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_a_network_is_compared_by_its_largest_outputs_and_left_alone(batch_size):
    model = given.seeded(lambda: nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Dropout()))
    model[1].eval()
    split = Split(bright().images, drawn(12, 6, 6))
    before = given.state(model)
    found = evaluate(model, split, classes=3, void=VOID, batch_size=batch_size)
    assert given.same_state(before, given.state(model)) and [m.training for m in model] == [True, False, True]
    predicted = model.eval()(split.images).argmax(1)
    assert found == agreement(confusion(predicted, split.labels, classes=3, void=VOID))


def test_unknown_classes_are_refused_everywhere():
    labels = torch.tensor([[[0, 1, 7]]])
    outputs = torch.zeros(1, 3, 1, 3)
    message = "labels hold the class 7: accepted are 0 to 2, and 11 for void"
    with pytest.raises(ValueError, match=message):
        class_weights(labels, classes=3, void=VOID)
    with pytest.raises(ValueError, match=message):
        PixelCrossEntropy(classes=3, void=VOID)(outputs, labels)
    with pytest.raises(ValueError, match=message):
        evaluate(nn.Identity(), Split(outputs, labels), classes=3, void=VOID)
    with pytest.raises(ValueError, match=message):
        confusion(labels, labels, classes=3, void=VOID)
    with pytest.raises(ValueError, match=r"the class 7: accepted are 0 to 2$"):
        confusion(labels, torch.zeros_like(labels), classes=3)
    with pytest.raises(ValueError, match=r"the class -100: accepted are 0 to 2$"):
        check_labels(torch.tensor([-100, 1]), classes=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": 1}, "classes must be a whole number of 2 or more, not 1"),
        ({"classes": 2.0}, "classes must be a whole number of 2 or more, not 2.0"),
        ({"void": 2}, r"void must be a whole number that is no class \(0 to 2\), or None, not 2"),
        ({"labels": torch.zeros(1, 2, 2)}, "labels must be whole numbers, not torch.float32"),
        ({"labels": torch.ones(1, 2, 2, dtype=torch.bool)}, "labels must be whole numbers, not torch.bool"),
    ],
)
def test_what_says_no_classes_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        class_weights(**{"labels": torch.zeros(1, 2, 2, dtype=torch.long), "classes": 3, "void": VOID} | change)


def test_shapes_that_do_not_fit_and_empty_input_are_refused():
    labels, loss = torch.zeros(2, 3, 3, dtype=torch.long), PixelCrossEntropy(classes=2)
    for shape in ((2, 3, 3, 3), (2, 2, 3, 2), (1, 2, 3, 3), (2, 2)):
        with pytest.raises(ValueError, match=r"do not fit labels \(2, 3, 3\) of 2 classes: accepted is \(2, 2, 3, 3\)"):
            loss(torch.zeros(shape), labels)
    with pytest.raises(ValueError, match=r"labels \(n, height, width\) are needed, not labels \(2,\)"):
        loss(torch.zeros(2, 2), labels[:, 0, 0])
    with pytest.raises(ValueError, match=r"a pixel or more, not \(0, 3, 3\)"):
        class_weights(labels[:0], classes=2)
    with pytest.raises(ValueError, match="void everywhere"):
        class_weights(labels + 5, classes=2, void=5)
    with pytest.raises(ValueError, match=r"\(2, 3\) do not fit labels \(2, 3, 3\)"):
        confusion(labels[0, :2], labels, classes=2)
    with pytest.raises(ValueError, match="the split is empty"):
        evaluate(nn.Identity(), Split(torch.zeros(0, 2, 3, 3), labels[:0]), classes=2)
    with pytest.raises(ValueError, match="the confusion matrix is empty"):
        evaluate(nn.Identity(), Split(torch.zeros(2, 2, 3, 3), labels + 5), classes=2, void=5)
    with pytest.raises(ValueError, match="batch_size must be a whole number of 1 or more, not 0"):
        evaluate(nn.Identity(), Split(torch.zeros(2, 2, 3, 3), labels), classes=2, batch_size=0)
    with pytest.raises(ValueError, match="NaN or infinity"):
        evaluate(nn.Identity(), Split(torch.full((2, 2, 3, 3), math.nan), labels), classes=2)
    for counts in (torch.ones(2, 3), torch.ones(2, 2), -torch.ones(2, 2, dtype=torch.long)):
        with pytest.raises(ValueError, match=r"counts must be \(classes, classes\) whole numbers of 0 or more"):
            agreement(counts)


@pytest.mark.parametrize("weights", [[1.0], [1.0, -1.0], [1.0, math.nan], [math.inf, 1.0]])
def test_weights_that_weigh_nothing_are_refused(weights):
    with pytest.raises(ValueError, match="weights must be 2 finite numbers of 0 or more"):
        PixelCrossEntropy(classes=2, weights=torch.tensor(weights))
