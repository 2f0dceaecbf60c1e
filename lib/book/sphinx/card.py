"""The picture that sites show with a link to the book: its title, above weights that are compressed step by step."""

from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

NIGHT, PAPER, LIGHT = "#14324f", "#f4f8fb", "#b9d2e6"
COLORS = LinearSegmentedColormap.from_list("weights", ["#8fd0ff", "#23486b", "#ffb454"])
PROMISE = "Every technique runs. Every number is measured.\nEvery claim of the survey has a verdict."


def stages(size: int = 14, seed: int = 3) -> list[tuple[str, np.ndarray]]:
    """Return three matrices and their names: dense, pruned to a fifth, and left with three values.

    size: rows and columns of each.
    seed: of the weights.
    """
    dense = np.random.default_rng(seed).normal(size=(size, size))
    pruned = np.where(np.abs(dense) >= np.quantile(np.abs(dense), 0.8), dense, 0.0)
    return [("train", dense), ("prune", pruned), ("share and code", 2 * np.sign(pruned))]


def draw(path: Path, title: str) -> None:
    """Draw the card into a PNG of 1200 x 630 pixels, the size that sites ask for.

    path: the file; its folder must exist.
    title: what to write on it.
    """
    figure = Figure(figsize=(12, 6.3), dpi=100, facecolor=NIGHT)
    FigureCanvasAgg(figure)
    size = min(36, 1116 / len(title))  # so that a longer title fits as well
    figure.text(0.06, 0.8, title, color=PAPER, fontsize=size, fontweight="bold", va="center")
    figure.text(0.06, 0.64, PROMISE, color=LIGHT, fontsize=22, va="center", linespacing=1.4)
    for column, (name, weights) in enumerate(stages()):
        axes = figure.add_axes((0.06 + 0.31 * column, 0.1, 0.26, 0.36))
        axes.imshow(weights, cmap=COLORS, vmin=-2, vmax=2, interpolation="nearest")
        axes.set_axis_off()
        axes.set_title(name, color=LIGHT, fontsize=18)
    figure.savefig(path, metadata={"Software": None})
