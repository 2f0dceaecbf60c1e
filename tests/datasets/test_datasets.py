"""The names that ``load`` accepts, its splits and its parts."""

import numpy as np
import pytest
import torch
from small_sets import lengths, same

from lib import datasets
from lib.datasets import splits


def test_splits_share_no_sample_and_are_the_same_each_time(tmp_path):
    again, found = datasets.load("digits"), datasets.load("digits")
    assert same(found, again)
    images = [{t.numpy().tobytes() for t in getattr(found, s).images} for s in ("train", "validation", "test")]
    assert not images[0] & images[1] and not images[0] & images[2] and not images[1] & images[2]


def test_splits_do_not_depend_on_the_seeds_of_the_run():
    torch.manual_seed(1)
    np.random.seed(1)
    first = datasets.load("digits")
    torch.manual_seed(2)
    np.random.seed(2)
    assert same(first, datasets.load("digits"))


def test_first_takes_what_there_is():
    split = datasets.load("digits").test
    assert len(split.first(5)) == 5 and len(split.first(10**6)) == len(split) and len(split.first(0)) == 0
    assert torch.equal(split.first(5).images, split.images[:5])


@pytest.mark.parametrize("name", ["cifar", "", "MNIST ", "digits.zip", "../digits"])
def test_an_unknown_name_lists_the_accepted_ones(name, nowhere):
    with pytest.raises(
        FileNotFoundError,
        match=f"no data set is called '{name}': accepted are digits, street-digits, .*mnist, .* and the path",
    ):
        datasets.load(name)


@pytest.mark.parametrize("name", ["digits", "street-digits"])
def test_a_part_is_the_first_of_each_split_and_says_so(name):
    whole, part = datasets.load(name), datasets.load(name, first=[100, 20, 10**6])
    assert lengths(part) == [100, 20, len(whole.test)]
    for split, n in (("train", 100), ("validation", 20), ("test", 10**6)):
        assert torch.equal(getattr(part, split).images, getattr(whole, split).images[:n])
        assert torch.equal(getattr(part, split).labels, getattr(whole, split).labels[:n])
    assert part.source == f"{whole.source}; a fixed part of its 1,078 training, 270 validation and 449 test images"
    assert splits.cut(whole, (1078, 270, 10**6)).source == whole.source


@pytest.mark.parametrize("first", [(), (1, 2), (1, 2, 3, 4), (0, 1, 1), (-1, 1, 1), (1.5, 1, 1), (True, 1, 1), "123"])
def test_a_part_of_another_form_is_refused(first):
    with pytest.raises(ValueError, match=r"first is \(.*\): accepted are three whole numbers from 1 up"):
        datasets.load("digits", first=first)


@pytest.mark.parametrize("name", ["digits", "monks-1-rule", "mnist", "vowel"])
def test_a_size_is_only_for_image_folders(name):
    with pytest.raises(ValueError, match=f"size is 32, but {name} has a size of its own: omit size"):
        datasets.load(name, size=32)
