r"""Run a trained network whose layers read signs on kernels that count bits, with the same answers.

:func:`convert` replaces each :class:`lib.binarization.shared.signs.Binarized` by a :class:`BitLayer`. Batch norm and
sign become one threshold for each channel, and weights become words of bits.

Layers hand bits to each other where the graph allows. Between two layers that read signs, batch norm, ReLU and max
pooling only decide which bit follows from which sum, so one pass counts, compares and packs
(:mod:`lib.binarization.shared.bit_network`). A value that is read elsewhere too, as by a shortcut, stays a float. So do
the inputs and outputs of layers with several groups or bases, with a scale K, or with a border of copies. Such a layer,
if it has one base, multiplies signs as floats where that is faster for its input
(:func:`lib.binarization.shared.kernels.bits_win`).

Where weights and inputs have one base each, or are ternary, the answers are those of the float network bit for bit:
sums of signs are whole numbers in both, and what follows is the same arithmetic in the same order. (Images come out
channels last. A real layer or a mean after them adds in the same order as in a float network that is given its images
channels last; with images in plain memory it may round differently.)

With M bases of the weights and N of the inputs a layer is

.. math:: y = \sum_{m=1}^{M} \sum_{n=1}^{N} \alpha_m \beta_n \, (A_n \circledast B_m) + b

(lin2017abcnet, section 3.2): M N products of signs. A layer differs from that of the float network by the rounding of
sums, a few millionths. A network may differ by much more: a value that rounding moves across a threshold flips a sign
for all layers after it, and in an untrained deep network a few such signs can change the answer.

A converted network keeps its bits in buffers, one bit for each sign, so it can be saved and loaded like any other, and
:mod:`lib.storage` writes it. A file of the network before conversion is smaller, since its bits are coded.
"""

import copy
from collections.abc import Collection

import torch
from torch import nn

from lib.binarization.shared.bit_layer import BitLayer, bases
from lib.binarization.shared.bit_network import chain
from lib.binarization.shared.signs import LAYERS, Binarized
from lib.weights import layers, replace

__all__ = ["BitLayer", "bases", "convert"]


@torch.inference_mode(False)
@torch.no_grad()
def convert(model: nn.Module, *, names: Collection[str] | None = None) -> nn.Module:
    """A copy of the network, in evaluation mode, whose layers that read signs count bits. The network is unchanged.

    The order of operations is fixed at conversion, including whatever a forward pass decides by an attribute.

    model: trained, with layers that read signs.
    names: of the layers to convert; None (default): all that read signs.
    Returns the copy. Raises ValueError for a named layer that reads no signs, a weight that is not binary, and a
    network in which no layer reads signs.

    >>> from lib import models
    >>> from lib.binarization import xnor_net
    >>> model, images = xnor_net.binarize(models.lenet_300_100()).eval(), torch.rand(2, 1, 28, 28)
    >>> torch.equal(convert(model)(images), model(images))
    True
    """
    model = copy.deepcopy(model).eval()
    readers = {name: module for name, module in model.named_modules() if isinstance(module, Binarized)}
    if not readers:
        others = [name for name, layer in layers(model) if isinstance(layer, LAYERS)]
        raise ValueError(
            f"{type(model).__name__} has no layer that reads signs: binarize {', '.join(others) or 'another network'}"
        )
    for name in names or ():
        if name not in readers:
            raise ValueError(f"layer {name!r} is not binary, it reads no signs: those that do are {', '.join(readers)}")
    for name, layer in {name: BitLayer(readers[name], name) for name in (readers if names is None else names)}.items():
        layer.chooses = True
        model = replace(model, name, layer)
    return chain(model)
