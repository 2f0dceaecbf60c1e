"""torchvision, importable beside a CPU-only torch as well.

The torchvision wheel of the public index is linked against CUDA. Beside a CPU build of torch its import stops at
"operator torchvision::nms does not exist". Two operator schemas, which nothing in this book calls, are all it misses.
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
