"""What a chapter shows: figures, tables and code of ``lib``, each in one style."""

from lib.figures.code import show_source
from lib.figures.drawing import axes, curves, dots, legend, line, logarithmic, show, style
from lib.figures.looks import COMBINED, DENSE, LOOKS, PERCENT, PRUNING, QUANTIZATION, REPORTED, RETRAINED, look
from lib.figures.tables import table

__all__ = [
    "COMBINED",
    "DENSE",
    "LOOKS",
    "PERCENT",
    "PRUNING",
    "QUANTIZATION",
    "REPORTED",
    "RETRAINED",
    "axes",
    "curves",
    "dots",
    "legend",
    "line",
    "logarithmic",
    "look",
    "show",
    "show_source",
    "style",
    "table",
]
