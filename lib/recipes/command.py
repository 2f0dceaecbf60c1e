"""``python -m lib shrink``: a network and a folder of images in, a smaller network, a report and a figure out."""

import argparse
import copy
import importlib
import json
import sys
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from lib import datasets, exporting, running, storage, training
from lib.datasets import Dataset
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


def main(arguments: list[str]) -> int:
    """Do what the command line says; return the exit status: 0, or 1 after one sentence on what was not accepted.

    arguments: the words after ``shrink``.
    """
    try:
        return run(parser().parse_args(arguments))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command's words."""
    methods = "".join(
        f"  {name:9s}smaller: {one.gives}\n           --amount: {one.unit} ({one.usual:g})\n"
        for name, one in METHODS.items()
    )
    words = argparse.ArgumentParser(
        prog="python -m lib shrink",
        description="Make a trained image classifier smaller, measure it before and after, and write it as a file.",
        epilog=f"methods:\n{methods}\n{EXAMPLES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    words.add_argument(
        "--model",
        default="mobilenet_v2",
        help="a classifier of torchvision, or module:function of yours (default: mobilenet_v2)",
    )
    words.add_argument("--weights", type=Path, help="its trained weights, a .safetensors file; without it, see --train")
    words.add_argument(
        "--data",
        default="street-digits",
        help="a folder or zip of images, one folder per class, or a data set's name (default: street-digits)",
    )
    words.add_argument("--size", type=int, help="height and width to which images are resized")
    words.add_argument(
        "--first", type=int, nargs=3, metavar=("TRAIN", "VALIDATION", "TEST"), help="take only so many images"
    )
    words.add_argument("--train", type=int, default=0, metavar="EPOCHS", help="train the network first (default: 0)")
    words.add_argument("--method", required=True, choices=list(METHODS), help="what to do, see below")
    words.add_argument("--amount", type=float, help="how far to go, see below")
    words.add_argument("--epochs", type=int, default=3, help="retraining after the cut (default: 3)")
    words.add_argument("--learning-rate", type=float, default=0.001, help="of its first step (default: 0.001)")
    words.add_argument("--seed", type=int, default=0, help="of the order of the images (default: 0)")
    words.add_argument("--out", type=Path, default=Path("shrunk"), help="folder for the results (default: shrunk)")
    return words


def run(options: argparse.Namespace) -> int:
    """Do what the command line says; return 0, the exit status.

    options: as :func:`parser` reads them.

    Raises ValueError and OSError with one sentence for what is not accepted; then nothing is written.
    """
    data = datasets.load(options.data, size=options.size, first=options.first)
    plan_for(
        options.method,
        data.train,
        amount=options.amount,
        epochs=options.epochs,
        seed=options.seed,
        learning_rate=options.learning_rate,
    )
    model = network(options.model, len(data.classes), seed=options.seed)
    if options.weights is not None:
        read_weights(model, options.weights)
    running.logits(model, data.train.images[:1])  # says at once where images do not fit
    if options.train:
        _say(f"training {options.model} on {len(data.train)} images for {options.train} epochs")
        training.fit(
            model,
            data.train,
            epochs=options.train,
            seed=options.seed,
            learning_rate=0.003,
            batch_size=64,
            optimizer="adam",
        )
    elif options.weights is None:
        _say(f"{options.model} has random weights: give --weights, or --train a number of epochs")
    _say(f"shrinking by {options.method}, and retraining for {options.epochs} epochs")
    chosen = {"method": options.method, "amount": options.amount, "epochs": options.epochs}
    result = follow(model, data, **chosen, learning_rate=options.learning_rate, seed=options.seed)
    for line in write(result, data, options.out, title=f"{options.model} on {data.name}, {options.method}"):
        _say(line)
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
        except (ImportError, AttributeError) as error:
            raise ValueError(f"{name} cannot be made: {error}") from error
        if not isinstance(made, nn.Module):
            raise ValueError(f"{name} gives {type(made).__name__}, and a network is needed")
        return made
    known = torchvision.models.list_models(module=torchvision.models)
    if name not in known:
        raise ValueError(
            f"model must be module:function, or a classifier of torchvision ({', '.join(known[:3])}, ...), not {name!r}"
        )
    options = {"init_weights": True} if name in ("googlenet", "inception_v3") else {}
    return torchvision.models.get_model(name, weights=None, num_classes=classes, **options)


def read_weights(model: nn.Module, path: Path) -> None:
    """Read trained weights into a network.

    model: changed in place.
    path: of a safetensors file; files that would have to be unpickled are refused.

    Raises ValueError for a file of another kind, a damaged one, and one of another network.
    """
    if path.suffix != ".safetensors":
        raise ValueError(f"weights must be a .safetensors file, which is parsed and never runs code, not {path.name}")
    try:
        model.load_state_dict(load_file(path))
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no safetensors file: {error}") from error
    except RuntimeError as error:
        raise ValueError(
            f"{path} holds the weights of another network: {str(error).splitlines()[-1].strip()}"
        ) from error


def write(result: Result, data: Dataset, folder: Path, *, title: str) -> list[str]:
    """Write what a run has made: the network, the report and the figure. A folder that is there already is added to.

    result: of the run.
    data: that it was made with.
    folder: where the files go; it is made.
    title: of the report.

    Returns lines that say what was written.
    """
    notes = [f"Data: {data.source}; {len(data.train)} images to train on, {len(data.test)} to test on."]
    with tempfile.TemporaryDirectory() as place:
        size = storage.save(result.made.stored, Path(place, "network.slim"))
        lines = [f"network.slim  {size:,} bytes, read by lib.storage.load"]
        try:
            size = export(result.made, data.test.images[:8], Path(place, "network.onnx"))
            lines.append(f"network.onnx  {size:,} bytes, computed alike by onnxruntime")
        except (ValueError, ModuleNotFoundError) as error:
            lines.append(f"network.onnx  not written: {error}")
        report.draw(result, Path(place, "costs.svg"))
        text = report.markdown(result, title, [*notes, *lines])
        Path(place, "report.md").write_text(text, "utf-8")
        record = {
            "method": result.method,
            "amount": result.amount,
            "costs": {n: asdict(c) for n, c in result.costs.items()},
        }
        Path(place, "costs.json").write_text(json.dumps(record, indent=1) + "\n", "utf-8")
        folder.mkdir(parents=True, exist_ok=True)
        for file in sorted(Path(place).iterdir()):
            (folder / file.name).write_bytes(file.read_bytes())
    return [
        *(
            f"{' | '.join(row.values())}"
            for row in [dict(zip(report.rows(result)[0], report.rows(result)[0], strict=True)), *report.rows(result)]
        ),
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
            return onnx_integers.export(made.simulated, path, images)
        return exporting.export(copy.deepcopy(made.network), path, images)


def _say(line: str) -> None:
    print(line, file=sys.stderr if line.endswith("epochs") else sys.stdout, flush=True)
