"""A small transformer that reads each pixel row of an image as a token, with parts that distillation can tap.

Methods for transformers copy two of its parts. In layer 0 of a :func:`row_transformer`,
``layers.0.attention.probabilities`` is a softmax whose output says how much each token attends to each token, (n,
heads, tokens, tokens); the output of ``layers.0.cls`` is the state of the CLS token after the layer, (n, width). The
layers are *pre-norm*: they normalize what they read, not their sum, so that the network trains without a warm-up of the
learning rate. BERT's layers are post-norm and have dropout; these have no dropout.
"""

import torch
from torch import Tensor, nn


class Attention(nn.Module):
    """Self-attention of several heads: each token reads a weighted mean of the values of all.

    width: numbers in a token.
    heads: number of heads; it divides the width.

    Input and output (n, tokens, width).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.read = nn.Linear(width, 3 * width)  # queries, keys and values
        self.probabilities = nn.Softmax(dim=-1)
        self.write = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        parts = self.read(x).reshape(n, tokens, 3, self.heads, width // self.heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)  # each (n, heads, tokens, width / heads)
        scores = queries @ keys.transpose(-2, -1) / (width // self.heads) ** 0.5
        return self.write((self.probabilities(scores) @ values).transpose(1, 2).reshape(n, tokens, width))

    def extra_repr(self) -> str:
        return f"heads={self.heads}"


class Layer(nn.Module):
    """Attention, then a perceptron for each token, each added to its input (pre-norm).

    width: numbers in a token.
    heads: of the attention.

    Input and output (n, tokens, width); the first token is CLS.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.attention = nn.LayerNorm(width), Attention(width, heads)
        self.norm2, self.fc1 = nn.LayerNorm(width), nn.Linear(width, 4 * width)
        self.gelu, self.fc2 = nn.GELU(), nn.Linear(4 * width, width)
        self.cls = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        x = x + self.fc2(self.gelu(self.fc1(self.norm2(x))))
        self.cls(x[:, 0])  # to be tapped
        return x


class RowTransformer(nn.Module):
    """The network that :func:`row_transformer` builds.

    rows: pixels, height of the images.
    columns: pixels, width of the images.
    channels: of the images.
    classes: number of outputs.
    layers: number of layers.
    width: numbers in a token.
    heads: of each attention.
    """

    def __init__(
        self, rows: int, columns: int, channels: int, classes: int, layers: int, width: int, heads: int
    ) -> None:
        super().__init__()
        self.shape = (channels, rows, columns)
        self.embed = nn.Linear(channels * columns, width)
        self.token = nn.Parameter(torch.randn(width) / 50)
        self.positions = nn.Parameter(torch.randn(rows + 1, width) / 50)
        self.layers = nn.ModuleList(Layer(width, heads) for _ in range(layers))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        if images.shape[1:] != self.shape:
            raise ValueError(f"images must have the shape (n, {str(self.shape)[1:]}, not {tuple(images.shape)}")
        rows = self.embed(images.transpose(1, 2).flatten(2))
        x = torch.cat([self.token.expand(len(images), 1, -1), rows], dim=1) + self.positions
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x[:, 0]))

    def extra_repr(self) -> str:
        return f"images={self.shape}"


def row_transformer(
    seed: int = 0,
    *,
    rows: int = 28,
    columns: int = 28,
    channels: int = 1,
    classes: int = 10,
    layers: int = 4,
    width: int = 32,
    heads: int = 4,
) -> RowTransformer:
    """Build a transformer of image rows: a CLS token, learned positions, pre-norm layers.

    With the defaults it has 53,098 parameters, with two layers 27,690.

    seed: of the initial weights, default 0.
    rows: pixels, height of the images, default 28: the number of tokens, without CLS.
    columns: pixels, width of the images, default 28.
    channels: of the images, default 1.
    classes: number of outputs, default 10.
    layers: number of layers, default 4.
    width: numbers in a token, default 32.
    heads: of each attention, default 4.

    Input (n, channels, rows, columns), output (n, classes) logits.
    Raises ValueError for a number below 1, and for heads that do not divide the width; the network raises it for images
    of another shape.

    >>> model = row_transformer(layers=2)
    >>> tuple(model(torch.zeros(5, 1, 28, 28)).shape), sum(p.numel() for p in model.parameters())
    ((5, 10), 27690)
    """
    sizes = {"rows": rows, "columns": columns, "channels": channels, "classes": classes}
    sizes |= {"layers": layers, "width": width, "heads": heads}
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be 1 or more, not {size}")
    if width % heads:
        raise ValueError(f"heads must divide the width: {heads} heads do not divide {width}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return RowTransformer(rows, columns, channels, classes, layers, width, heads)
