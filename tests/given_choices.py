"""All combinations of choices that make a candidate, as the oracle of policies and of spaces."""

import torch
from torch import Tensor

from lib.supergraphs.shared.choices import Choices


def every(choices: Choices) -> Tensor:
    """List all combinations of few choices, (candidates, choices) int64."""
    found = torch.zeros(1, 0, dtype=torch.long)
    for options in choices.options:
        allowed = choices.allowed(found)
        if allowed is None:
            allowed = torch.ones(len(found), len(options), dtype=torch.bool)
        row, option = allowed.nonzero(as_tuple=True)
        found = torch.cat([found[row], option[:, None]], 1)
    return found
