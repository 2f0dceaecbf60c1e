"""Select which weights to keep: a given share, those with the largest values."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor


def largest(magnitude: Tensor, share: float, *, candidates: Tensor | None = None) -> Tensor:
    """Select the given share of the entries, the largest ones.

    magnitude: 0 or larger, of any shape and any float type.
    share: of the entries, in (0, 1]; at least one entry is selected.
    candidates: bool, of the same shape: the entries that may be selected. Default: those that are not zero.

    Returns a bool mask of the same shape. Between equal entries, the first ones are selected. NaN and entries that are
    not candidates never are.

        >>> largest(torch.tensor([3.0, 0.0, 5.0, 5.0]), 0.5).tolist()
        [False, False, True, True]
        >>> largest(torch.tensor([3.0, 0.0, 5.0]), 1.0, candidates=torch.tensor([True, True, False])).tolist()
        [True, True, False]
    """
    keep = max(1, round(share * magnitude.numel()))
    flat = magnitude.flatten()
    allowed = flat > 0 if candidates is None else candidates.flatten() & ~flat.isnan()
    flat = torch.where(allowed, flat, -torch.inf)
    least = flat.kthvalue(len(flat) - keep + 1).values  # a partial sort: several times as fast as sorting all entries
    mask = flat > least
    ties = (flat == least).nonzero().flatten()
    mask[ties[: keep - int(mask.sum())]] = True
    return (mask & allowed).reshape(magnitude.shape)


def largest_together(
    magnitudes: Mapping[str, Tensor], share: float, *, candidates: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Select the given share of the entries of several tensors, the largest of all of them together.

    magnitudes: name -> values, 0 or larger, of any shape.
    share: of all entries, in (0, 1]; at least one entry is selected.
    candidates: name -> bool, of the same shape: the entries that may be selected. Default: those that are not zero.

    Returns name -> bool mask of the same shape. Between equal entries, the first ones are selected.

        >>> largest_together({"a": torch.tensor([1.0, 4.0]), "b": torch.tensor([3.0, 2.0])}, 0.5)
        {'a': tensor([False,  True]), 'b': tensor([ True, False])}
    """
    joined = torch.cat([values.flatten() for values in magnitudes.values()])
    allowed = None if candidates is None else torch.cat([candidates[name].flatten() for name in magnitudes])
    parts = largest(joined, share, candidates=allowed).split([values.numel() for values in magnitudes.values()])
    return {name: part.reshape(values.shape) for (name, values), part in zip(magnitudes.items(), parts, strict=True)}


def shares_by_layer(density: float | Mapping[str, float], layers: Iterable[str]) -> dict[str, float]:
    """Return the share of the weights to keep in each layer.

    density: one share for all layers, or layer name -> share; layers that such a mapping does not name are left out.
    layers: names of the layers that may be pruned.

    Returns layer name -> share in (0, 1].
    Raises ValueError for a share outside (0, 1] and for a layer that does not exist.

        >>> shares_by_layer(0.5, ["fc1", "fc2"])
        {'fc1': 0.5, 'fc2': 0.5}
        >>> shares_by_layer({"fc2": 0.1}, ["fc1", "fc2"])
        {'fc2': 0.1}
    """
    names = list(layers)
    shares = dict(density) if isinstance(density, Mapping) else dict.fromkeys(names, density)
    for name, share in shares.items():
        if name not in names:
            raise ValueError(f"no layer {name!r} to prune: the layers are {', '.join(names)}")
        if not 0 < share <= 1:
            raise ValueError(f"density must be in (0, 1], not {share}")
    return shares


def check_masks(masks: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
    """Raise ValueError for a mask that fits no weight, by name or by shape.

    masks: name -> mask.
    weights: name -> weight, all that may be masked.

        >>> check_masks({"fc1": torch.ones(2)}, {"fc1": torch.ones(3)})
        Traceback (most recent call last):
        ValueError: the mask of 'fc1' must be of shape (3,), not (2,)
    """
    for name, mask in masks.items():
        if name not in weights:
            raise ValueError(f"no weight {name!r} to mask: there are {', '.join(weights)}")
        if mask.shape != weights[name].shape:
            raise ValueError(
                f"the mask of {name!r} must be of shape {tuple(weights[name].shape)}, not {tuple(mask.shape)}"
            )
