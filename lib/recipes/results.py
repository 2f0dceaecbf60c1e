"""Write what a run leaves: the shrunk network as files, the report and the figure."""

import json
import tempfile
import warnings
from dataclasses import asdict
from pathlib import Path

import torch

from lib import exporting, storage
from lib.datasets import Dataset
from lib.quantization.shared import onnx_integers
from lib.recipes import report
from lib.recipes.following import Result
from lib.recipes.methods import Made

ONNX = "network.onnx"
STEPS = 24  # of 255: how far outputs of a deep integer network may differ in onnxruntime, which rounds differently


def write(result: Result, data: Dataset, folder: Path, *, title: str, onnx: bool = True) -> list[str]:
    """Write the network, the report and the figure of a run, and replace those of an earlier run.

    result: of the run.
    data: what it was made with.
    folder: where the files go; it is created if missing.
    title: of the report.
    onnx: whether to write the network for other runtimes too, if that is possible; default True.

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
                same = "the same" if result.made.simulated is None else f"the same within {STEPS} of 255 steps"
                lines.append(f"{ONNX}  {size:,} bytes, and onnxruntime computes {same} from it")
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
        (folder / ONNX).unlink(missing_ok=True)  # an earlier run may have written one
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
    """Write a network as an ONNX file; an integer network stays in integers.

    made: what a recipe made.
    images: to compare the answers of the file and of the network on.
    path: of the file.

    Returns its size in bytes. Raises ValueError if it cannot be exported, and ModuleNotFoundError without the packages.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's exporter warns about itself
        if made.simulated is not None:
            return onnx_integers.export(made.simulated, path, images, steps=STEPS)
        return exporting.export(made.network, path, images)
