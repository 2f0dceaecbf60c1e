"""Validation accuracy as a fitness: deterministic, trained by the one loop, refusals."""

import joblib
import pytest
import torch
from given import split

from lib import training
from lib.datasets import Split
from lib.neuroevolution.shared.accuracy import Accuracy
from lib.neuroevolution.shared.assembly import Candidate, Layer, Nothing, Pointer, Training
from lib.neuroevolution.shared.graphs import Graph, Link

CHAIN = (Link(1, 0, 2), Link(2, 2, 1))


def candidate(*, dropout: float = 0.3, learning_rate: float = 0.1) -> Candidate:
    module = Graph({1: Nothing(), 2: Layer(4, 3, True, dropout)}, CHAIN)
    return Candidate(Graph({1: Training(learning_rate, 0.9), 2: Pointer(0)}, CHAIN), {0: module})


def bright(n: int, seed: int) -> Split:
    """Two classes: images with a bright left half, and with a bright right one."""
    noise = split(n, 1, 6, 6, classes=2, seed=seed, labels="in turn")
    left = (torch.arange(6) < 3).float()
    sides = torch.where(noise.labels[:, None] == 0, left, 1 - left)
    return Split(noise.images + sides[:, None, None], noise.labels)


def test_the_fitness_is_that_of_the_one_training_loop():
    train, validation = bright(60, 0), bright(40, 1)
    judge, one = Accuracy(train, validation, classes=2, epochs=3, batch_size=10, seed=5), candidate(dropout=0.0)
    network = one.network((1, 6, 6), classes=2, seed=one.seed(5))
    training.fit(network, train, epochs=3, seed=one.seed(5), batch_size=10, learning_rate=0.1, momentum=0.9)
    assert judge(one) == 100 - training.error_pct(network, validation)


def test_a_network_learns_what_can_be_learned():
    def reached(epochs: int) -> list[float]:
        splits = bright(60, 0), bright(60, 1)
        return [Accuracy(*splits, classes=2, epochs=epochs, batch_size=10, seed=s)(candidate()) for s in range(4)]

    trained, untrained = reached(3), reached(0)
    assert min(trained) > 90 > sum(untrained) / 4


def test_the_fitness_is_the_same_each_time_and_moves_no_other_draw():
    judge = Accuracy(bright(60, 0), bright(40, 1), classes=2, epochs=2, batch_size=10)
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    first = judge(candidate())
    torch.rand(3)
    with joblib.parallel_config(backend="threading"):
        others = joblib.Parallel(n_jobs=2)(joblib.delayed(judge)(candidate()) for _ in range(4))
    assert set(others) == {first} == {judge(candidate())}
    assert torch.get_num_threads() == threads
    torch.set_rng_state(before)
    judge(candidate())
    assert torch.equal(torch.get_rng_state(), before)


def test_training_that_diverges_has_no_fitness():
    judge = Accuracy(bright(60, 0), bright(40, 1), classes=2, epochs=3, batch_size=10)
    assert judge(candidate(learning_rate=1e30)) == 0


def test_double_images_are_trained_in_double_precision():
    train, validation = bright(60, 0), bright(40, 1)
    splits = [Split(part.images.double(), part.labels) for part in (train, validation)]
    assert 0 <= Accuracy(*splits, classes=2, epochs=1)(candidate()) <= 100


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": split(0, 1, 6, 6)}, "the split is empty: at least one sample is needed to train on"),
        ({"validation": split(0, 1, 6, 6)}, "needed to evaluate on"),
        ({"train": split(5, 36)}, r"images must be \(n, channels, height, width\) and labels \(n,\)"),
        ({"validation": split(5, 1, 6, 5)}, "of one size and type"),
        ({"validation": split(5, 1, 6, 6, dtype=torch.float64)}, "of one size and type"),
        ({"classes": 0}, "classes must be 1 or more, not 0"),
        ({"epochs": -1}, "epochs must be 0 or more, not -1"),
        ({"batch_size": 0}, "batch_size must be 1 or more, not 0"),
        ({"classes": 3}, r"labels must be in 0..2, not 0..9"),
        ({"train": Split(torch.full((2, 1, 6, 6), torch.nan), torch.tensor([0, 1]))}, "hold NaN or infinity"),
    ],
)
def test_splits_and_numbers_that_cannot_be_used_are_refused(options, message):
    good = {"train": split(20, 1, 6, 6, labels="in turn"), "validation": split(20, 1, 6, 6), "classes": 10}
    with pytest.raises(ValueError, match=message):
        Accuracy(**(good | options))
