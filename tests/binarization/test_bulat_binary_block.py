"""The block: its arithmetic, its sizes, its paths for the gradient, its file; and the ends of a stroke."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional

from lib import measure, storage
from lib.binarization import bulat_binary_block
from lib.binarization.bulat_binary_block import (
    BinaryBlock,
    Bottleneck,
    equal_width,
    fit_heatmaps,
    heatmap_error,
    keypoints,
    positions,
)
from lib.binarization.bwn import BinaryWeight
from lib.cache import cached
from lib.weights import compressed_form, layers

BLOCKS = {
    "block": lambda binary: BinaryBlock(8, 8, binary=binary),
    "wider": lambda binary: BinaryBlock(6, 12, binary=binary),
    "bottleneck": lambda binary: Bottleneck(8, 5, binary=binary),
}


def seeded(make, *arguments):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = make(*arguments)
        for module in block.modules():
            if isinstance(module, nn.BatchNorm2d):  # one that does something in evaluation mode
                nn.init.normal_(module.running_mean, std=0.2)
                nn.init.uniform_(module.running_var, 0.5, 2)
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return block


def images(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def weights(block):
    return sum(layer.weight.numel() for _, layer in layers(block))


def unit_by_hand(unit, x, binary):
    """Batch norm, sign or ReLU, and a convolution with alpha · sign(W), written out with other functions."""
    norm, layer = (unit.norm, unit.layer) if binary else (unit[0], unit[2])
    x = (x - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + norm.eps).sqrt()
    x = norm.weight[:, None, None] * x + norm.bias[:, None, None]
    border = layer.kernel_size[0] // 2
    if not binary:
        return functional.conv2d(x.clamp(min=0).double(), layer.weight.double(), padding=border).float()
    latent = layer.parametrizations.weight.original
    alpha = torch.stack([each.abs().mean() for each in latent])
    signs = torch.where(latent < 0, -1.0, 1.0)
    sums = functional.conv2d(torch.where(x < 0, -1.0, 1.0).double(), signs.double(), padding=border)
    return alpha[:, None, None] * sums.float()


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("kind", BLOCKS)
def test_the_output_is_that_of_the_equations(kind, binary):
    block, x = seeded(BLOCKS[kind], binary).eval(), images(2, 6 if kind == "wider" else 8, 5, 7)
    if kind == "bottleneck":
        inner = x
        for unit in block.units:
            inner = unit_by_hand(unit, inner, binary)
        expected = inner + x
    else:
        a = unit_by_hand(block.unit1, x, binary)
        b = unit_by_hand(block.unit2, a, binary)
        c = unit_by_hand(block.unit3, b, binary)
        skip = unit_by_hand(block.skip, x, binary) if kind == "wider" else x
        expected = torch.cat([a, b, c], 1) + skip
        assert [each.shape[1] for each in (a, b, c)] == [expected.shape[1] // k for k in (2, 4, 4)]
    torch.testing.assert_close(block(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("binary", [True, False])
def test_the_number_of_weights_and_the_bottleneck_with_as_many(binary):
    assert weights(BinaryBlock(256, 256, binary=binary)) == 405_504 == 9 * (256 * 128 + 128 * 64 + 64 * 64)
    assert weights(Bottleneck(256, 186, binary=binary)) == 406_596
    assert weights(Bottleneck(256, 128, binary=binary)) == 212_992
    norms = 2 * (256 + 128 + 64)
    assert measure.parameters(BinaryBlock(256, 256, binary=binary)) == 405_504 + norms


def test_a_projection_stands_only_where_the_widths_differ():
    assert weights(BinaryBlock(6, 12)) == 9 * (6 * 6 + 6 * 3 + 3 * 3) + 6 * 12
    assert isinstance(BinaryBlock(8, 8).skip, nn.Identity)


@pytest.mark.parametrize("channels", [4, 12, 16, 32, 48, 64, 256])
def test_no_other_width_comes_nearer_to_the_weights_of_the_block(channels):
    wanted, width = 99 * channels**2 / 16, equal_width(channels)
    distances = [abs(2 * channels * w + 9 * w**2 - wanted) for w in range(1, 2 * channels)]
    assert distances.index(min(distances)) + 1 == width
    assert weights(BinaryBlock(channels, channels)) == wanted


@pytest.mark.parametrize("kind", BLOCKS)
def test_every_weight_is_one_bit_with_a_scale_per_filter(kind):
    for _, layer in layers(seeded(BLOCKS[kind], True)):
        assert isinstance(compressed_form(layer)[0], BinaryWeight) and layer.bias is None
        assert all(len(each.abs().unique()) == 1 for each in layer.weight)
    assert all(compressed_form(layer) is None for _, layer in layers(BLOCKS[kind](False)))


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("kind", ["block", "bottleneck"])
def test_with_scales_of_0_block_and_gradient_are_the_identity(kind, mode):
    block, x = seeded(BLOCKS[kind], True).train(mode), images(2, 8, 5, 5).requires_grad_()
    with torch.no_grad():
        for _, layer in layers(block):
            layer.parametrizations.weight.original.zero_()
    found = block(x)
    found.sum().backward()
    assert torch.equal(found, x) and torch.equal(x.grad, torch.ones_like(x))


@pytest.mark.parametrize("kind", ["block", "bottleneck"])
def test_where_the_gradient_passes_no_sign_it_passes_the_skip(kind):
    block, x = BLOCKS[kind](True).eval(), 5 + images(1, 8, 4, 4).abs()  # batch norm is new: x is far from 0
    x.requires_grad_()
    block(x).sum().backward()
    assert torch.equal(x.grad, torch.ones_like(x))


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("kind", BLOCKS)
def test_the_gradient_reaches_every_parameter(kind, binary):
    block = BLOCKS[kind](binary)
    block(images(4, 6 if kind == "wider" else 8, 6, 6)).square().sum().backward()
    assert all(each.grad is not None and each.grad.abs().sum() > 0 for each in block.parameters())


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 3), (14, 14)])
@pytest.mark.parametrize("kind", BLOCKS)
def test_one_image_of_any_size_keeps_its_size(kind, shape):
    block, inputs, outputs = BLOCKS[kind](True), *((6, 12) if kind == "wider" else (8, 8))
    assert block.eval()(images(1, inputs, *shape)).shape == (1, outputs, *shape)
    if math.prod(shape) > 1:  # batch norm needs more than one value
        assert block.train()(images(1, inputs, *shape)).shape == (1, outputs, *shape)


def test_a_network_of_blocks_is_written_and_read_back(tmp_path):
    def network():
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), BinaryBlock(16, 24), BinaryBlock(24, 24), Bottleneck(24, 20)
        )

    net, x = seeded(network).eval(), images(3, 1, 9, 9)
    size = storage.save(net, tmp_path / "net.slim", coder="fixed")
    fresh = storage.load(tmp_path / "net.slim", network()).eval()
    assert torch.equal(fresh(x), net(x))
    binary = [layer.weight for _, layer in layers(net)][1:]
    bits, scales = sum(each.numel() for each in binary), sum(len(each) for each in binary)
    plain = sum(each.numel() * each.element_size() for each in fresh.state_dict().values()) - 4 * bits
    assert 0 < size - bits / 8 - 4 * scales - plain < 60 * len(binary) + 300


@pytest.mark.parametrize("outputs", [0, 2, 6, 255])
def test_a_width_that_does_not_split_is_refused(outputs):
    with pytest.raises(ValueError, match=f"1 input and 4, 8, 12, ... outputs, not 8 and {outputs}"):
        BinaryBlock(8, outputs)


def drawn(*rows):
    return torch.tensor([[float(each == "#") for each in row] for row in rows])[None, None]


def test_the_ends_of_a_stroke_drawn_by_hand():
    image = drawn("......", "...##.", "..#...", "..##..", "....#.", "......")
    maps = keypoints(image)
    assert maps.shape == (1, 4, 6, 6)
    assert positions(maps)[0].tolist() == [
        [1, 3],
        [4, 4],
        [2, 2],
        [1, 4],
    ]  # (1, 3), (2, 2) and (1, 4): the first of two
    assert maps.amax((2, 3)).tolist() == [[1, 1, 1, 1]]


def test_a_square_has_its_corners():
    maps = keypoints(drawn("....", ".##.", ".##.", "...."))
    assert positions(maps)[0].tolist() == [[1, 1], [2, 1], [1, 1], [1, 2]]


@pytest.mark.parametrize("sigma", [0.7, 1.0, 2.0])
def test_a_map_is_a_gaussian_around_its_pixel(sigma):
    image = torch.zeros(1, 1, 5, 7)
    image[0, 0, 3, 2] = 1
    for each in keypoints(image, sigma=sigma)[0]:
        for y in range(5):
            for x in range(7):
                expected = math.exp(-((y - 3) ** 2 + (x - 2) ** 2) / (2 * sigma**2))
                assert each[y, x].item() == pytest.approx(expected, rel=1e-5)


def test_the_ends_found_one_by_one():
    generator = torch.Generator().manual_seed(0)
    many = (torch.rand(40, 1, 9, 6, generator=generator) > 0.9).float()
    found = positions(keypoints(many))
    for image, ends in zip(many[:, 0], found.tolist(), strict=True):
        pixels = image.nonzero().tolist()  # in reading order, and min takes the first of equals
        keys = (lambda p: p[0], lambda p: -p[0], lambda p: p[1], lambda p: -p[1])
        assert ends == [min(pixels, key=key) for key in keys]


def test_the_threshold_says_what_is_stroke():
    image = torch.tensor([[0.4, 0.6, 0.5]])[None, None]
    assert positions(keypoints(image))[0, 2].tolist() == [0, 1]
    assert positions(keypoints(image, threshold=0.3))[0, 2].tolist() == [0, 0]
    assert positions(keypoints(image, threshold=0.5))[0, 3].tolist() == [0, 1]  # 0.5 does not exceed 0.5


def test_an_empty_image_has_no_ends():
    maps = keypoints(torch.cat([torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)]))
    assert not maps[0].any() and maps[1].amax((1, 2)).tolist() == [1, 1, 1, 1]
    assert keypoints(torch.zeros(0, 1, 4, 4)).shape == (0, 4, 4, 4)


def test_the_error_is_the_mean_distance_to_targets_in_pixels():
    targets = keypoints(torch.stack([drawn("#...", "....", "....", "....")[0], torch.zeros(1, 4, 4)]))
    moved = keypoints(torch.stack([drawn("....", "....", "....", "...#")[0], torch.ones(1, 4, 4)]))
    assert heatmap_error(targets, targets) == 0
    assert heatmap_error(moved, targets) == pytest.approx(math.sqrt(18))
    moved[0, :2] = targets[0, :2]
    assert heatmap_error(3 * moved, targets) == pytest.approx(math.sqrt(18) / 2)


def tiny():
    block = BinaryBlock(4, 4)
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), block, nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))


def test_training_depends_on_its_seed_alone_and_ends_in_evaluation_mode():
    x = images(10, 1, 5, 5)
    model = seeded(tiny)
    options = {"epochs": 2, "learning_rate": 0.01, "batch_size": 4}
    runs = [copy.deepcopy(model) for _ in range(3)]
    losses = [fit_heatmaps(each, x, keypoints(x), seed=s, **options) for each, s in zip(runs, (0, 0, 1), strict=True)]
    assert losses[0] == losses[1] != losses[2] and len(losses[0]) == 2
    assert torch.equal(runs[0](x), runs[1](x)) and not runs[0].training


def test_the_loss_is_the_mean_squared_error_and_the_step_adams():
    x = images(6, 1, 5, 5)
    model = seeded(tiny)
    twin = copy.deepcopy(model).train()
    (loss,) = fit_heatmaps(model, x, keypoints(x), epochs=1, seed=0, learning_rate=0.01, batch_size=6)
    expected = (twin(x) - keypoints(x)).square().mean()
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    update = torch.optim.Adam(twin.parameters(), lr=0.01)
    expected.backward()
    clear = [each.grad.abs() > 1e-4 for each in twin.parameters()]
    update.step()
    for a, b, where in zip(model.parameters(), twin.parameters(), clear, strict=True):
        torch.testing.assert_close(a[where], b[where], rtol=0, atol=1e-4)


def test_the_learning_rate_falls_to_0_along_half_a_cosine():
    # a gradient of one sign moves the bias of a constant model by the learning rate at each step
    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.value = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return self.value.expand(len(x), 1, 1, 1)

    model = Constant()
    fit_heatmaps(
        model, torch.ones(4, 1, 1, 1), torch.full((4, 1, 1, 1), 1e6), epochs=2, seed=0, learning_rate=0.1, batch_size=2
    )
    expected = sum(0.1 * (1 + math.cos(math.pi * step / 4)) / 2 for step in range(4))
    assert model.value.item() == pytest.approx(expected, rel=1e-4)


def test_it_is_trained_once(tmp_path, monkeypatch):
    monkeypatch.setenv("SURVEY_CACHE", str(tmp_path))
    x = images(6, 1, 5, 5)
    options = {"images": x, "targets": keypoints(x), "epochs": 1, "seed": 0, "learning_rate": 0.01, "batch_size": 3}
    first, second = (cached(bulat_binary_block.fit_heatmaps, seeded(tiny), **options) for _ in range(2))
    assert torch.equal(first(x), second(x)) and len(list(tmp_path.glob("*.safetensors"))) == 1


def test_bad_input_is_refused():
    maps, options = torch.ones(2, 4, 3, 3), {"epochs": 1, "seed": 0, "learning_rate": 0.01, "batch_size": 2}
    with pytest.raises(ValueError, match=r"images \(n, 1, h, w\) and sigma > 0, not \(2, 4, 3, 3\) and 1.0"):
        keypoints(maps)
    with pytest.raises(ValueError, match="sigma > 0"):
        keypoints(maps[:, :1], sigma=0)
    with pytest.raises(ValueError, match=r"must be maps of one shape.*\(2, 4, 3, 3\) and \(2, 4, 3, 2\)"):
        heatmap_error(maps, maps[..., :2])
    with pytest.raises(ValueError, match="not all 0"):
        heatmap_error(maps, torch.zeros_like(maps))
    with pytest.raises(ValueError, match="not 2 for 0"):
        fit_heatmaps(tiny(), maps[:0, :1], maps, **options)
    with pytest.raises(ValueError, match="training diverged in epoch 1: the loss is nan"):
        fit_heatmaps(tiny(), maps[:, :1], maps * math.nan, **options)
