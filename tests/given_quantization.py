"""Networks on grids for tests: calibrated, and the networks of torchvision they are tried on."""

import math
from fractions import Fraction

import given
import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from lib.quantization.affine import calibrate, simulate
from lib.vision import torchvision

# What torchvision's networks do, between them: residual sums, depthwise and grouped layers, SiLU, hard-swish, gates,
# concatenation, batch norm before the convolution, channel shuffle, means by method and by function.
NETWORKS = [
    *("resnet18", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "squeezenet1_1", "googlenet"),
    *("densenet", "shufflenet_v2_x0_5"),
]


def of_torchvision(name: str, side: int = 32) -> tuple[nn.Module, Tensor]:
    """A network of 4 outputs that we did not write, whose batch norm has seen some images, and images for it."""
    options = {"init_weights": False, "aux_logits": False} if name == "googlenet" else {}
    if name == "densenet":  # three small blocks
        name, options = "DenseNet", {"growth_rate": 8, "block_config": (2, 3, 2), "num_init_features": 16}
    if name == "MobileNetV2":  # each kind of its blocks: without expansion, with a stride, with a sum
        options = {"inverted_residual_setting": [[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 2, 2]]}
    images = given.split(4, 3, side, side).images

    def build() -> nn.Module:
        model = getattr(torchvision.models, name)(num_classes=4, **options)
        with torch.no_grad():
            for seed in range(2):
                model(given.split(4, 3, side, side, seed=seed).images)
        return model.eval()

    return given.seeded(build), images


def on_grids(model: nn.Module, images: Tensor, **options) -> fx.GraphModule:
    """The simulated network, calibrated."""
    return calibrate(simulate(model.eval(), **options), images)


def exactly(x: int, m0: int, exponent: int) -> int:
    """TensorFlow Lite's two roundings with Python's integers."""
    product = (x << max(exponent, 0)) * m0
    nudge = 2**30 if product >= 0 else 1 - 2**30
    high = math.trunc(Fraction(product + nudge, 2**31))
    n = max(-exponent, 0)
    half = Fraction(high, 2**n)
    return math.floor(half + Fraction(1, 2)) if half >= 0 else -math.floor(-half + Fraction(1, 2))


class Everything(nn.Module):
    """Each kind of part once: layers, clamps, a table, a sum, a gate, a concatenation, means, and poolings."""

    def __init__(self):
        super().__init__()
        self.c, self.d = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.g, self.l, self.b, self.bn = nn.Linear(4, 4), nn.Linear(8, 3), nn.BatchNorm2d(4), nn.BatchNorm2d(8)
        self.p, self.q = nn.AvgPool2d(2), nn.AdaptiveMaxPool2d(1)

    def forward(self, x):
        y = functional.silu(self.b(self.c(x)))
        z = functional.relu6(self.d(y) * 3) - y
        z = z * torch.sigmoid(self.g(z.mean((2, 3))))[:, :, None, None]
        z = functional.hardtanh(torch.cat([y, z], 1), -0.5, 3.0)
        return self.l(self.q(functional.relu(self.bn(self.p(z)))).flatten(1))


def everything(seed: int, largest: float = 1.0, **options) -> fx.GraphModule:
    """That network from this seed, simulated, calibrated on images up to the largest number."""
    images = largest * torch.rand(6, 3, 8, 8, generator=given.generator())
    return on_grids(given.seeded(Everything, seed), images, **options)
