"""Initial weights from their own seed."""

import torch

from lib.seeding import seeded


def test_the_same_seed_draws_the_same_and_leaves_the_callers_state():
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    with seeded(5):
        first = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with seeded(5):
        assert torch.equal(torch.rand(3), first)
    with seeded(6):
        assert not torch.equal(torch.rand(3), first)
