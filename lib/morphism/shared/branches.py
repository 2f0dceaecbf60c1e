"""Branches in place of one layer: how the input is given to them, and how their outputs are merged."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from lib.arguments import check_one_of

ALLOCATIONS, MERGES = ("replicate", "split"), ("add", "mean", "concat")


class Branches(nn.Module):
    """Several modules in place of one.

    branches: two or more modules, each with one tensor in and one out.
    allocation: "replicate" gives each branch the whole input, "split" its part of the channels; of n channels the
        first n % branches parts get one more.
    merge: "add", "mean" or "concat" of the outputs.
    axis: of the channels, default 1; -1 for linear layers.

    Raises ValueError for fewer than two branches, and for an unknown allocation or merge.

    >>> halves = Branches([nn.ReLU(), nn.Identity()], allocation="split", merge="concat")
    >>> halves(torch.tensor([[-1.0, 2.0, -3.0]])).tolist()
    [[0.0, 2.0, -3.0]]
    """

    def __init__(self, branches: Iterable[nn.Module], *, allocation: str, merge: str, axis: int = 1) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        if len(self.branches) < 2:
            raise ValueError(f"there must be two branches or more, not {len(self.branches)}")
        check_one_of("allocation", allocation, ALLOCATIONS)
        check_one_of("merge", merge, MERGES)
        self.allocation, self.merge, self.axis = allocation, merge, axis

    def forward(self, x: Tensor) -> Tensor:
        n = len(self.branches)
        # method
        parts = x.tensor_split(n, self.axis) if self.allocation == "split" else [x] * n
        outputs = [branch(part) for branch, part in zip(self.branches, parts, strict=True)]
        if self.merge == "concat":
            return torch.cat(outputs, self.axis)
        total = sum(outputs[1:], outputs[0])
        return total / n if self.merge == "mean" else total
        # end of method

    def extra_repr(self) -> str:
        return f"{self.allocation}, {self.merge}"
