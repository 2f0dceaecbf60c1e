"""Retrieval against scikit-learn, rankings against scipy, and the cases that are known by heart."""

import given
import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from sklearn.metrics import average_precision_score
from sklearn.neighbors import NearestNeighbors
from torch import nn
from torch.nn import functional as F

from lib import models
from lib.distillation.shared import retrieval
from lib.distillation.shared.retrieval import (
    embeddings,
    mean_average_precision_pct,
    rank_correlation,
    recall_at_1_pct,
)


def drawn(n, d, classes, seed=0):
    random = given.generator(seed)
    return torch.randn(n, d, generator=random), torch.randint(0, classes, (n,), generator=random)


@pytest.mark.parametrize("chunk", [7, 500])
def test_both_are_what_scikit_learn_computes(monkeypatch, chunk):
    monkeypatch.setattr(retrieval, "QUERIES", chunk)
    rows, labels = drawn(60, 5, 4)
    unit = F.normalize(rows.double()).numpy()
    found = NearestNeighbors(n_neighbors=60).fit(unit).kneighbors(unit)[1]
    expected = np.mean(labels.numpy()[found[:, 1]] == labels.numpy())
    assert recall_at_1_pct(rows, labels) == pytest.approx(100 * expected)
    precisions = []
    for query in range(60):
        others = np.delete(np.arange(60), query)
        near = -np.linalg.norm(unit[others] - unit[query], axis=1)
        precisions.append(average_precision_score(labels.numpy()[others] == labels.numpy()[query], near))
    assert mean_average_precision_pct(rows, labels) == pytest.approx(100 * np.mean(precisions))


def test_a_case_known_by_heart():
    angles = torch.deg2rad(torch.tensor([0.0, 10, 25, 90]))
    rows = torch.stack([angles.cos(), angles.sin()], 1)
    assert recall_at_1_pct(rows, torch.tensor([0, 0, 1, 1])) == 75  # the nearest are 1, 0, 1, 2
    mixed = torch.tensor([0, 1, 0, 1])  # found at the ranks 2, 3, 2, 2
    assert recall_at_1_pct(rows, mixed) == 0
    assert mean_average_precision_pct(rows, mixed) == pytest.approx(100 * (1 / 2 + 1 / 3 + 1 / 2 + 1 / 2) / 4)


def test_separate_classes_are_found_without_an_error():
    rows, labels = drawn(40, 4, 4)
    rows = 0.01 * rows + F.one_hot(labels, 4)
    assert recall_at_1_pct(rows, labels) == mean_average_precision_pct(rows, labels) == 100


def test_random_labels_are_found_as_often_as_they_occur():
    rows, labels = drawn(800, 3, 4)
    assert recall_at_1_pct(rows, labels) == pytest.approx(25, abs=6)
    assert mean_average_precision_pct(rows, labels) == pytest.approx(25, abs=2)


def test_the_length_of_embeddings_does_not_count_and_maps_are_flattened():
    rows, labels = drawn(30, 8, 3)
    scaled = (rows * torch.rand(30, 1, generator=given.generator(1)).add(0.1)).reshape(30, 2, 2, 2)
    for measure in (recall_at_1_pct, mean_average_precision_pct):
        assert measure(scaled, labels) == pytest.approx(measure(rows, labels))
    assert rank_correlation(scaled, rows) == pytest.approx(1)


def test_equal_embeddings_come_in_the_order_of_their_numbers():
    rows = torch.tensor([[1.0, 0], [1, 0], [1, 0], [0, 1]])
    assert recall_at_1_pct(rows, torch.tensor([0, 0, 1, 1])) == 50  # 0 and 1 find each other, 2 finds 0, 3 finds 0
    assert mean_average_precision_pct(rows, torch.tensor([1, 0, 1, 2])) == pytest.approx(100 * (1 / 2 + 1) / 2)


def test_a_sample_alone_in_its_class_can_only_be_found():
    rows = torch.tensor([[1.0, 0], [1, 0.1], [1, 0.3]])
    assert recall_at_1_pct(rows, torch.tensor([0, 1, 0])) == 0
    assert mean_average_precision_pct(rows, torch.tensor([0, 1, 0])) == 50


def test_rank_correlation_is_the_mean_of_kendalls_tau():
    (student, _), (teacher, _) = drawn(25, 4, 2), drawn(25, 6, 2, seed=1)
    units = [F.normalize(rows.double()).numpy() for rows in (student, teacher)]
    mine, its = (np.linalg.norm(rows[:, None] - rows[None], axis=2) for rows in units)
    expected = np.mean([kendalltau(np.delete(mine[i], i), np.delete(its[i], i)).statistic for i in range(25)])
    assert rank_correlation(student, teacher) == pytest.approx(expected)
    assert rank_correlation(teacher, student) == pytest.approx(expected)


def test_rank_correlation_reaches_both_ends_and_zero():
    rows, _ = drawn(100, 3, 2)
    turn = torch.linalg.qr(torch.randn(5, 3, generator=given.generator(1))).Q
    assert rank_correlation(rows @ turn.T, rows) == pytest.approx(1, abs=1e-3)
    assert rank_correlation(drawn(100, 3, 2, seed=2)[0], rows) == pytest.approx(0, abs=0.05)
    angles = torch.deg2rad(torch.tensor([0.0, 10, 35]))
    three = torch.stack([angles.cos(), angles.sin()], 1)
    assert rank_correlation(three[[0, 2, 1]], three) == -1  # the shortest side of the triangle becomes the longest


def test_a_query_without_an_order_counts_as_zero():
    rows, _ = drawn(20, 3, 2)
    assert rank_correlation(torch.ones(20, 3), rows) == rank_correlation(torch.zeros(20, 3), rows) == 0
    assert rank_correlation(torch.eye(3), torch.eye(3)) == 0  # all equally far


def test_embeddings_are_what_the_layer_answers_in_evaluation_mode():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(72, 3)).train()
    before, split = given.state(model), given.split(7, 1, 8, 8)
    found = embeddings(model, "1", split, batch_size=3)
    assert given.same_state(before, given.state(model)) and model.training and not found.requires_grad
    torch.testing.assert_close(found, model.eval()[:2](split.images).flatten(1))


def test_bad_input_is_refused():
    rows, labels = drawn(6, 3, 2)
    nan = rows.clone()
    nan[2, 0] = float("nan")
    for measure in (recall_at_1_pct, mean_average_precision_pct):
        for x, y, words in (
            (rows, labels[:5], r"labels \(5,\) of 6 embeddings"),
            (rows, torch.arange(6), "no two of the 6 samples have the same class"),
            (nan, labels, "the embeddings hold NaN or infinity"),
            (rows[:0], labels[:0], r"\(n, d\) are needed, none of them 0"),
            (rows[:, 0], labels, r"embeddings \(6,\)"),
        ):
            with pytest.raises(ValueError, match=words):
                measure(x, y)
    for student, words in ((rows[:5], "5 and 6 embeddings"), (nan, "NaN"), (rows[0], "none of them 0")):
        with pytest.raises(ValueError, match=words):
            rank_correlation(student, rows)
    with pytest.raises(ValueError, match="the same three samples or more"):
        rank_correlation(rows[:2], rows[:2])


def test_layers_that_give_no_embedding_are_refused():
    split = given.split(4, 1, 28, 28)
    with pytest.raises(ValueError, match="has no layer 'fc9'"):
        embeddings(models.mlp(), "fc9", split)
    with pytest.raises(ValueError, match="the split is empty"):
        embeddings(models.mlp(), "fc1", split.first(0))
    with pytest.raises(ValueError, match="batch_size must be 1 or more, not 0"):
        embeddings(models.mlp(), "fc1", split, batch_size=0)
    model = given.Sequences()
    with pytest.raises(ValueError, match="layer 'recurrent' does not answer each sample with a row"):
        embeddings(model, "recurrent", split)
    with pytest.raises(ValueError, match=r"layer 'encoder.self_attn.out_proj' did not run"):
        embeddings(model, "encoder.self_attn.out_proj", split)
