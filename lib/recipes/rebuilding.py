"""Rebuild the shrunk network from the files of a run and the original network."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lib import storage, structure
from lib.factorization import low_rank
from lib.quantization import affine


def rebuild(model: nn.Module, folder: str | Path) -> nn.Module:
    """Give a copy of the original network the shape of the shrunk one, with the weights of ``network.slim``.

    model: has the layers of the original network, with any weights; left as it was.
    folder: the one that the run has written.

    Returns the shrunk network; for integers this is the float network that simulates them, which
    :mod:`lib.quantization` converts. Raises ValueError for a folder of another network, or a damaged one, and OSError
    if files are missing.

    >>> rebuild(nn.Linear(2, 2), "nowhere")
    Traceback (most recent call last):
    FileNotFoundError: [Errno 2] No such file or directory: 'nowhere/costs.json'
    """
    folder = Path(folder)
    try:
        record = json.loads((folder / "costs.json").read_text("utf-8"))
        method, shape = record["method"], tuple(record["input"])
        kept, ranks = dict(record["kept"]), dict(record["ranks"])
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / 'costs.json'} is damaged, or not written by shrink: {error!r}") from error
    network: nn.Module = copy.deepcopy(model)
    if method == "filters":
        masks = {}
        for name, numbers in kept.items():
            try:
                layer: Any = model.get_submodule(name)
                masks[name] = torch.zeros(len(layer.weight), dtype=torch.bool)
                masks[name][numbers] = True
            except (AttributeError, IndexError, TypeError) as error:
                why = f"this one has no layer {name!r} with such filters"
                raise ValueError(f"{folder} is of another network: {why}") from error
        network = structure.shrink(network, masks, torch.zeros(2, *shape))
    elif method == "factors":
        network, _ = low_rank.factorize_model(network, rank=ranks)
    elif method == "int8":
        network = affine.simulate(network)
    return storage.load(folder / "network.slim", network).eval()
