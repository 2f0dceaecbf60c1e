"""What a user brings: a network by its name, its weights in a file, images; each checked before anything runs."""

import importlib
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from lib import running
from lib.datasets import Dataset, Split
from lib.vision import torchvision

AUXILIARY = ("googlenet", "inception_v3")  # of torchvision: they have auxiliary heads, which are left out here


def network(name: str, classes: int, *, seed: int = 0) -> nn.Module:
    """Make the network that a command line names.

    name: of a classifier of torchvision, such as ``resnet18``, or ``module:function`` of a network of your own.
    classes: that it tells apart; a network of your own must have as many outputs.
    seed: of its random weights.

    Raises ValueError for a name that is neither, and for a function that fails or returns no network.

    >>> sum(p.numel() for p in network("squeezenet1_1", 10).parameters())
    727626
    """
    torch.manual_seed(seed)
    module, _, function = name.partition(":")
    if function:
        try:
            made = getattr(importlib.import_module(module), function)()
        except (ImportError, AttributeError, TypeError) as error:
            raise ValueError(f"{name} cannot be made: {error}") from error
        if not isinstance(made, nn.Module):
            raise ValueError(f"{name} gives {type(made).__name__}, and a network is needed")
        return made
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ValueError(
            f"model must be module:function, or a classifier of torchvision ({', '.join(known[:3])}, ...), not {name!r}"
        )
    options = {"init_weights": True, "aux_logits": False} if name in AUXILIARY else {}
    return torchvision.models.get_model(name, weights=None, num_classes=classes, **options)


def in_color(data: Dataset) -> Dataset:
    """Repeat the one channel of gray images three times, since the networks of torchvision expect color.

    data: of images (n, 1, height, width).
    """
    train, validation, test = (
        Split(split.images.expand(-1, 3, -1, -1).contiguous(), split.labels)
        for split in (data.train, data.validation, data.test)
    )
    source = f"{data.source}, gray in all three channels"
    return replace(data, source=source, train=train, validation=validation, test=test)


def read_weights(model: nn.Module, path: Path) -> None:
    """Read trained weights into a network.

    model: changed in place.
    path: of a safetensors file; files that would have to be unpickled are refused. The prefixes of parallel and
        compiled networks, ``module.`` and ``_orig_mod.``, are stripped.

    Raises ValueError for a file of another kind, a damaged one, and one of another network.
    """
    if path.suffix != ".safetensors":
        raise ValueError(
            f"weights must be a .safetensors file, which is parsed and never runs code, not {path.name}: convert it"
            ' once by safetensors.torch.save_file(torch.load(path, weights_only=True), "mine.safetensors")'
        )
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no safetensors file: {error}") from error
    for prefix in ("_orig_mod.", "module.", "_orig_mod."):
        if not state.keys() & model.state_dict().keys():
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        why = str(error).splitlines()[-1].strip()[:200]
        raise ValueError(f"{path} holds the weights of another network, or for other classes: {why}") from error


def check(model: nn.Module, data: Dataset, name: str) -> None:
    """Raise ValueError if the images do not fit a network, or its outputs do not match the classes.

    model: left as it was.
    data: of images.
    name: of the network, as given on the command line.
    """
    with torch.no_grad(), running.evaluating(model):
        outputs = running.class_logits(model, data.train.images[:2]).shape[1]
    if outputs != len(data.classes):
        raise ValueError(f"{name} has {outputs} outputs, and {data.name} has {len(data.classes)} classes")
