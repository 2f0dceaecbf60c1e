"""``python -m lib shrink``: a network and a folder of images in, a smaller network, a report and a figure out."""

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

from lib import datasets, training
from lib.recipes.following import follow
from lib.recipes.inputs import check, in_color, network, read_weights
from lib.recipes.methods import LEARNING, METHODS, plan_for
from lib.recipes.results import write

EXAMPLES = """\
examples:
  python -m lib shrink --method int8 --train 10
  python -m lib shrink --model resnet18 --data photos --size 96 --weights mine.safetensors --method filters
  python -m lib shrink --model my_network:build --data photos.zip --size 64 --method coded --epochs 9
"""
MODEL, DATA = "mobilenet_v2", "street-digits"
TRAINED = "trained.safetensors"
FIRST_RATE = 0.003  # learning rate of --train


def main(arguments: list[str]) -> int:
    """Run the command and return its exit status: 0, 1 after an error message, or 130 if interrupted.

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
    """Return the parser of the command line."""
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
    add("--no-onnx", dest="onnx", action="store_false", help="do not write the network for other runtimes")
    add("--out", type=Path, default=Path("shrunk"), help="folder for the results, replaced there (default: shrunk)")
    return words


def run(options: argparse.Namespace) -> int:
    """Run the parsed command; return 0, the exit status.

    Images reach the network with values from 0 to 1, so any normalization belongs in the network.

    options: as :func:`parser` reads them.

    Raises ValueError or OSError, with one sentence, for what is not accepted; whenever possible before anything is
    trained or written.
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
        learning = LEARNING | {"learning_rate": FIRST_RATE}
        training.fit(model, data.train, epochs=options.train, seed=options.seed, **learning)
        options.out.mkdir(parents=True, exist_ok=True)
        # Kept for another recipe, or if this one is refused. Shared weights cannot be written, so each is copied.
        state = {n: t.clone(memory_format=torch.contiguous_format) for n, t in model.state_dict().items()}
        save_file(state, options.out / TRAINED)
    elif options.weights is None and ":" not in options.model:
        print(f"{options.model} has random weights: give --weights, or --train some epochs", file=sys.stderr)
    trains = METHODS[options.method].trains and options.epochs
    print(f"{options.method}" + f", and retraining for {options.epochs} epochs" * bool(trains), file=sys.stderr)
    result = follow(model, data, method=options.method, amount=options.amount, **retraining)
    title = f"{options.model} on {data.name}, {options.method}"
    for line in write(result, data, options.out, title=title, onnx=options.onnx):
        print(line)
    return 0
