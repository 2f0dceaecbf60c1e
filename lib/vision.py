"""torchvision, which can be imported with a CPU-only torch, too: ``from lib.vision import torchvision``.

The torchvision wheel of the public index is linked against CUDA. With a CPU build of torch its import fails with
"operator torchvision::nms does not exist". It lacks only the schemas of two operators, which nothing in this book
calls; they are defined here, and the import is repeated.
"""

import sys

import torch

try:
    import torchvision
except RuntimeError:
    for _name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[_name]
    _schemas = torch.library.Library("torchvision", "DEF")  # the schemas live as long as this object
    for _operator in ("nms", "qnms"):
        _schemas.define(f"{_operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

__all__ = ["torchvision"]
