"""``python -m lib shrink``: a network and a folder of images in, a smaller network, a report and a figure out."""

import argparse
import copy
import importlib
import json
import sys
import tempfile
import warnings
from dataclasses import asdict, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from lib import datasets, exporting, running, storage, training
from lib.datasets import Dataset, Split
from lib.quantization.shared import onnx_integers
from lib.recipes import report
from lib.recipes.following import Result, follow
from lib.recipes.methods import METHODS, Made, plan_for
from lib.vision import torchvision

EXAMPLES = """\
examples:
  python -m lib shrink --method int8 --train 10
  python -m lib shrink --model resnet18 --data photos --size 96 --weights mine.safetensors --method filters
  python -m lib shrink --model my_network:build --data photos.zip --size 64 --method coded --epochs 9
"""
MODEL, DATA = "mobilenet_v2", "street-digits"
ONNX, TRAINED = "network.onnx", "trained.safetensors"
STEPS = 24  # of 255 by which outputs of a deep network of integers may differ in onnxruntime: it rounds otherwise
AUXILIARY = ("googlenet", "inception_v3")  # of torchvision: trained with heads that answer as well


def main(arguments: list[str]) -> int:
    """Do what the command line says; return the exit status: 0, or 1 after one sentence on what was not accepted.

    arguments: the words after ``shrink``.
    """
    try:
        return run(parser().parse_args(arguments))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's words."""
    methods = "".join(
        f"  {name:9s}smaller: {one.gives}\n           --amount: {one.unit} (usual: {one.usual:g})\n"
        for name, one in METHODS.items()
    )
    words = argparse.ArgumentParser(
        prog="python -m lib shrink",
        description="Make a trained image classifier smaller, measure it before and after, and write it as a file. "
        "Everything runs on the CPU, and all images are held in memory.",
        epilog=f"methods:\n{methods}\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = words.add_argument
    add("--model", default=MODEL, help=f"a classifier of torchvision, or module:function of yours (default: {MODEL})")
    add("--weights", type=Path, help="its trained weights, a .safetensors file; without it, see --train")
    add("--data", help=f"a folder or zip of images, one folder per class, or a data set's name (default: {DATA})")
    add("--size", type=int, help="height and width to which images are resized")
    add(
        "--first",
        type=int,
        nargs=3,
        metavar=("TRAIN", "VALIDATION", "TEST"),
        help="use at most so many images of each split",
    )
    add("--train", type=int, default=0, metavar="EPOCHS", help="train the network first (default: 0)")
    add("--method", required=True, choices=list(METHODS), help="what to do, see below")
    add("--amount", type=float, help="how far to go, see below; choose it by the validation error")
    add("--epochs", type=int, default=3, help="retraining after the cut (default: 3)")
    add("--learning-rate", type=float, default=0.001, help="of the first step of retraining (default: 0.001)")
    add("--seed", type=int, default=0, help="of the random weights and the order of the images (default: 0)")
    add("--out", type=Path, default=Path("shrunk"), help="folder for the results, replaced there (default: shrunk)")
    return words


def run(options: argparse.Namespace) -> int:
    """Do what the command line says; return 0, the exit status.

    Images come to the network with values from 0 to 1, so a normalization belongs into the network.

    options: as :func:`parser` reads them.

    Raises ValueError and OSError with one sentence for what is not accepted, before anything is trained or written
    where that can be known.
    """
    if options.weights is not None and options.data is None:
        raise ValueError("--weights needs --data: the images that the network was trained for")
    if options.out.exists() and not options.out.is_dir():
        raise ValueError(f"--out {options.out} is a file: a folder is needed")
    data = datasets.load(options.data or DATA, size=options.size, first=options.first)
    if len(data.classes) < 2:
        raise ValueError(f"{options.data} has {len(data.classes)} class: two or more are needed")
    data.test.check_not_empty("to test on")
    retraining = {"epochs": options.epochs, "seed": options.seed, "learning_rate": options.learning_rate}
    plan_for(options.method, data.train, amount=options.amount, **retraining)
    if ":" not in options.model and data.train.images.shape[1] == 1:
        data = in_color(data)
    model = network(options.model, len(data.classes), seed=options.seed)
    if options.weights is not None:
        read_weights(model, options.weights)
    check(model, data, options.model)
    if options.train:
        print(f"training {options.model} on {len(data.train)} images for {options.train} epochs", file=sys.stderr)
        learning: training.FitOptions = {"learning_rate": 0.003, "batch_size": 64, "optimizer": "adam"}
        training.fit(model, data.train, epochs=options.train, seed=options.seed, **learning)
        options.out.mkdir(parents=True, exist_ok=True)
        save_file(model.state_dict(), options.out / TRAINED)  # for another recipe, and if this one is refused
    elif options.weights is None and ":" not in options.model:
        print(f"{options.model} has random weights: give --weights, or --train some epochs", file=sys.stderr)
    trains = METHODS[options.method].trains and options.epochs
    print(f"{options.method}" + f", and retraining for {options.epochs} epochs" * bool(trains), file=sys.stderr)
    result = follow(model, data, method=options.method, amount=options.amount, **retraining)
    for line in write(result, data, options.out, title=f"{options.model} on {data.name}, {options.method}"):
        print(line)
    return 0


def network(name: str, classes: int, *, seed: int = 0) -> nn.Module:
    """Make the network that a command line names.

    name: of a classifier of torchvision, such as ``resnet18``, or ``module:function`` of a network of your own.
    classes: that it tells apart; a network of your own must have as many outputs.
    seed: of its random weights.

    Raises ValueError for a name that is neither.

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
    """Repeat the one channel of gray images three times, as the networks of torchvision take them.

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
        compiled networks, ``module.`` and ``_orig_mod.``, are taken off.

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
    state = {name.removeprefix("module.").removeprefix("_orig_mod."): tensor for name, tensor in state.items()}
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        why = str(error).splitlines()[-1].strip()[:200]
        raise ValueError(f"{path} holds the weights of another network, or for other classes: {why}") from error


def check(model: nn.Module, data: Dataset, name: str) -> None:
    """Raise ValueError where the images do not fit a network, or its outputs not the classes.

    model: left as it was.
    data: of images.
    name: of the network, as the command line has it.
    """
    with torch.no_grad(), running.evaluating(model):
        outputs = running.class_logits(model, data.train.images[:2]).shape[1]
    if outputs != len(data.classes):
        raise ValueError(f"{name} has {outputs} outputs, and {data.name} has {len(data.classes)} classes")


def write(result: Result, data: Dataset, folder: Path, *, title: str, onnx: bool = True) -> list[str]:
    """Write what a run has made: the network, the report and the figure. What an earlier run wrote is replaced.

    result: of the run.
    data: that it was made with.
    folder: where the files go; it is made.
    title: of the report.
    onnx: whether to write the network for other runtimes too, where it can be; default True.

    Returns lines that say what came out and what was written.
    """
    shape = tuple(data.test.images.shape[1:])
    notes = [
        f"Data: {data.source}; {len(data.train)} images to train on, {len(data.test)} to test on.",
        f"Inputs: images of shape {shape}, values from 0 to 1. Outputs, in this order: {', '.join(data.classes)}.",
        *filter(None, [result.made.note]),
    ]
    with tempfile.TemporaryDirectory() as place:
        size = storage.save(result.made.stored, Path(place, "network.slim"))
        lines = [f"network.slim  {size:,} bytes; lib.recipes.rebuilding.rebuild reads it"]
        try:
            if onnx:
                size = export(result.made, data.test.images[:8], Path(place, ONNX))
                lines.append(f"{ONNX}  {size:,} bytes, and onnxruntime computes the same from it")
        except (ValueError, ModuleNotFoundError) as error:
            lines.append(f"{ONNX}  not written: {error}")
        report.draw(result, Path(place, "costs.svg"))
        Path(place, "report.md").write_text(report.markdown(result, title, [*notes, *lines]), "utf-8")
        record = {
            "method": result.method,
            "amount": result.amount,
            "input": shape,
            "kept": result.made.kept,
            "ranks": result.made.ranks,
            "costs": {name: asdict(costs) for name, costs in result.costs.items()},
        }
        Path(place, "costs.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / ONNX).unlink(missing_ok=True)  # of an earlier run, where this one has none
        for file in sorted(Path(place).iterdir()):
            (folder / file.name).write_bytes(file.read_bytes())
    table = report.rows(result)
    return [
        " | ".join(table[0]),
        *(" | ".join(row.values()) for row in table),
        report.summary(result),
        *(f"{folder}/{line}" for line in lines),
        f"{folder}/report.md, costs.svg, costs.json",
    ]


def export(made: Made, images: torch.Tensor, path: Path) -> int:
    """Write a network as an ONNX file; one of integers as integers.

    made: what a recipe made.
    images: with which the file is held against the network.
    path: of the file.

    Returns its bytes. Raises ValueError where it cannot be exported, ModuleNotFoundError without the packages.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch's exporter about itself
        if made.simulated is not None:
            return onnx_integers.export(made.simulated, path, images, steps=STEPS)
        return exporting.export(copy.deepcopy(made.network), path, images)
