"""SqueezeNet against the paper's Table 1, torchvision's networks, its formulas, and its strategies."""

import given
import pytest
import torch
from given_architectures import check_seed_and_copies, drawn, with_weights_of
from torch import nn

from lib import measure
from lib.architectures.squeezenet import Fire, FireSizes, Stem, fire_sizes, squeezenet
from lib.vision import torchvision

# iandola2016squeezenet, Table 1: layer -> parameters, and those of a 3 x 3 convolution in place of a fire module
TABLE = {
    "conv1": (14_208, None),
    "fire2": (11_920, 110_720),
    "fire3": (12_432, 147_584),
    "fire4": (45_344, 295_168),
    "fire5": (49_440, 590_080),
    "fire6": (104_880, 885_120),
    "fire7": (111_024, 1_327_488),
    "fire8": (188_992, 1_769_984),
    "fire9": (197_184, 2_359_808),
    "conv10": (513_000, None),
}
SMALL = Stem(16, 3, 1, padding=1)


def test_each_layer_has_the_parameters_of_the_papers_table():
    network = squeezenet()
    counts = {name: measure.parameters(layer) for name, layer in network.named_children()}
    assert {name: n for name, n in counts.items() if n} == {name: row[0] for name, row in TABLE.items()}
    assert sum(counts.values()) == 1_248_424
    for name, layer in network.named_children():
        if isinstance(layer, Fire):
            assert measure.parameters(nn.Conv2d(layer.inputs, layer.outputs, 3)) == TABLE[name][1]


@pytest.mark.parametrize(
    ("version", "parameters", "multiply_adds"),
    [("1.0", 1_248_424, 818_924_576), ("1.1", 1_235_496, 349_151_936)],
)
def test_both_versions_have_the_known_counts(version, parameters, multiply_adds):
    with torch.device("meta"):
        network = squeezenet(version=version)
    assert measure.parameters(network) == parameters
    assert measure.multiply_adds(network, (3, 224, 224)) == multiply_adds


def test_alexnet_has_nearly_49_times_the_parameters():
    with torch.device("meta"):
        ratio = measure.parameters(torchvision.models.alexnet()) / measure.parameters(squeezenet())
    assert round(ratio, 2) == 48.94


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_with_copied_weights_it_gives_torchvisions_answers(version, dtype):
    build = getattr(torchvision.models, f"squeezenet{version.replace('.', '_')}")
    theirs = given.seeded(lambda: build(num_classes=7)).to(dtype).eval()
    ours = with_weights_of(theirs, squeezenet(version=version, classes=7).to(dtype).eval())
    images = given.split(2, 3, 70, 97, dtype=dtype).images
    with torch.no_grad():
        torch.testing.assert_close(ours(images), theirs(images))
    assert (ours(images) > 0).any()


@pytest.mark.parametrize(("padding", "side"), [(0, 224), (2, 224), (0, 227)])
def test_maps_have_the_sides_of_the_paper_or_torchvision(padding, side):
    with torch.device("meta"):
        network = squeezenet(stem=Stem(96, 7, 2, padding=padding))
    sides = []
    for name, layer in network.named_children():
        if name.startswith(("conv1", "pool")) and name != "conv10":
            layer.register_forward_hook(lambda *call: sides.append(call[2].shape[-1]))
    network(torch.zeros(1, 3, side, side, device="meta"))
    assert sides == ([109, 54, 27, 13] if (padding, side) == (0, 224) else [111, 55, 27, 13])


def test_a_fire_module_is_its_equation():
    fire = given.seeded(lambda: Fire(5, 2, 3, 4)).double()
    x = torch.randn(2, 5, 6, 7, generator=given.generator(), dtype=torch.float64)
    weights = [value.detach() for value in fire.state_dict().values()]
    squeezed = torch.einsum("oi,nihw->nohw", weights[0][:, :, 0, 0], x).add(weights[1].reshape(-1, 1, 1)).relu()
    one = torch.einsum("oi,nihw->nohw", weights[2][:, :, 0, 0], squeezed).add(weights[3].reshape(-1, 1, 1)).relu()
    patches = nn.functional.unfold(squeezed, 3, padding=1).reshape(2, 18, 6, 7)
    nine = torch.einsum("op,nphw->nohw", weights[4].flatten(1), patches).add(weights[5].reshape(-1, 1, 1)).relu()
    torch.testing.assert_close(fire(x), torch.cat([one, nine], 1))
    torch.testing.assert_close(fire(x.transpose(2, 3).contiguous().transpose(2, 3)), fire(x))


def test_a_fire_module_has_the_parameters_of_its_formula():
    for c, s, e1, e3 in [(96, 16, 64, 64), (128, 48, 64, 64), (7, 1, 0, 5), (7, 3, 5, 0)]:
        expected = c * s + s + s * e1 + (e1 if e1 else 0) + 9 * s * e3 + (e3 if e3 else 0)
        assert measure.parameters(Fire(c, s, e1, e3)) == expected
        assert Fire(c, s, e1, e3)(torch.zeros(1, c, 4, 4)).shape == (1, e1 + e3, 4, 4)


def test_metaparameters_give_the_papers_modules():
    assert fire_sizes() == [(s, 8 * s // 2, 8 * s // 2) for s in (16, 16, 32, 32, 48, 48, 64, 64)]
    assert fire_sizes(2, squeeze_ratio=0.75, pct_3x3=0.25) == [FireSizes(96, 96, 32)] * 2
    assert fire_sizes(4, base_e=32, incr_e=32) == [(4, 16, 16), (4, 16, 16), (8, 32, 32), (8, 32, 32)]
    assert fire_sizes(3, base_e=10, incr_e=0, freq=1, pct_3x3=0) == [(1, 10, 0)] * 3
    assert fire_sizes(1, base_e=3, pct_3x3=1, width=2) == [(1, 0, 6)]


@pytest.mark.parametrize(
    ("name", "values"),
    [("pct_3x3", (0, 0.25, 0.5, 0.75, 1)), ("squeeze_ratio", (0.125, 0.25, 0.5, 0.75, 1.0))],
)
def test_strategies_one_and_two_save_parameters(name, values):
    with torch.device("meta"):
        networks = [squeezenet(**{name: value}) for value in values]
    counts = [measure.parameters(network) for network in networks]
    assert counts == sorted(set(counts))
    expected = []
    for value in values:
        total, c = 14_208 + 513_000, 96
        for e in (128, 128, 256, 256, 384, 384, 512, 512):
            s = round(e * (value if name == "squeeze_ratio" else 0.125))
            e3 = round(e * (value if name == "pct_3x3" else 0.5))
            total, c = total + c * s + s + s * (e - e3) + 9 * s * e3 + e, e
        expected.append(total)
    assert counts == expected


def test_late_pools_cost_multiply_adds_and_no_parameters():
    early, late = squeezenet(classes=5, pools=(1, 2, 3)), squeezenet(classes=5, pools=(4, 7, 9))
    assert given.same_state(given.state(early), given.state(late))
    images = given.split(1, 3, 64, 64).images
    assert not torch.allclose(early.eval()(images), late.eval()(images))
    work = [measure.multiply_adds_by_layer(network, (3, 64, 64)) for network in (early, late)]
    # sides 29 -> 14 -> 7 -> 3, each pool after its layer
    sides = [{2: 14, 3: 7}, {2: 29, 3: 29, 4: 29, 5: 14, 6: 14, 7: 14, 8: 7, 9: 7}]
    for counts, side in zip(work, sides, strict=True):
        for place in range(2, 10):
            fire = getattr(early, f"fire{place}")
            weights = sum(p.numel() for p in fire.parameters() if p.dim() > 1)
            of_fire = sum(n for name, n in counts.items() if name.startswith(f"fire{place}."))
            assert of_fire == weights * side.get(place, 3) ** 2
    assert sum(work[1].values()) > 5 * sum(work[0].values())


def test_simple_bypass_is_around_the_papers_four_modules():
    network = squeezenet(bypass=True)
    assert [name for name, layer in network.named_children() if getattr(layer, "bypass", False)] == [
        *("fire3", "fire5", "fire7", "fire9")
    ]
    plain = Fire(8, 2, 4, 4).double()
    bypass = Fire(8, 2, 4, 4, bypass=True).double()
    bypass.load_state_dict(plain.state_dict())
    x = torch.randn(2, 8, 3, 3, generator=given.generator(), dtype=torch.float64)
    assert torch.equal(bypass(x), plain(x) + x)
    assert measure.parameters(network) == 1_248_424


def test_batch_norm_replaces_each_bias_except_the_last():
    network = squeezenet(stem=SMALL, pools=(3, 5), modules=4, base_e=32, incr_e=32, classes=4, batch_norm=True)
    layers = dict(network.named_modules())
    convolutions = [name for name, layer in layers.items() if isinstance(layer, nn.Conv2d)]
    assert convolutions[-1] == "conv6" and layers["conv6"].bias is not None
    for name in convolutions[:-1]:
        assert layers[name].bias is None
        assert layers[name.replace("conv", "bn") if "fire" in name else "conv1.bn"].num_features > 0
    network(given.split(4, 3, 12, 12).images).square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32), (1, 8)])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_small_images_pass_through_a_smaller_stem(channels, side, batch_norm):
    network = squeezenet(
        channels=channels, classes=10, stem=SMALL, pools=(3, 5), modules=4, base_e=32, incr_e=32, batch_norm=batch_norm
    )
    images = given.split(4, channels, side, side).images
    outputs = network(images)
    assert outputs.shape == (4, 10) and outputs.requires_grad
    outputs.square().sum().backward()
    assert network.conv1.conv.weight.grad.abs().sum() > 0
    assert measure.parameters(network) < 431_080 / 20  # LeNet-5


@pytest.mark.parametrize(
    ("options", "least"),
    [
        ({}, 21),
        ({"version": "1.1"}, 17),
        ({"stem": SMALL, "pools": ()}, 1),
        ({"stem": SMALL, "pools": (3, 5)}, 4),
        ({"stem": Stem(8, 2, 3), "pools": (9,)}, 5),
    ],
)
def test_the_smallest_image_is_the_smallest_that_works(options, least):
    network = squeezenet(classes=3, width=0.1, **options).eval()
    assert network.least == least
    assert network(torch.zeros(1, 3, least, least + 1)).shape == (1, 3)
    if least > 1:
        with pytest.raises(ValueError, match=f"with {least} pixels or more"):
            network(torch.zeros(1, 3, least, least - 1))
        with pytest.raises(RuntimeError, match=r"too small|greater than"):
            nn.Sequential.forward(network, torch.zeros(1, 3, least, least - 1))


def test_it_depends_on_its_seed_alone_and_can_be_copied():
    options = {"channels": 1, "classes": 3, "width": 0.25, "stem": SMALL, "pools": (2,), "bypass": True}
    check_seed_and_copies(lambda seed: squeezenet(seed, batch_norm=True, **options), drawn(2, 1, 9, 5))


def test_weights_are_drawn_like_torchvisions():
    theirs = given.seeded(lambda: torchvision.models.squeezenet1_0(num_classes=9)).state_dict()
    for ours, reference in zip(squeezenet(1, classes=9).state_dict().values(), theirs.values(), strict=True):
        if ours.dim() > 1:
            assert float(ours.std()) == pytest.approx(float(reference.std()), rel=0.1)
        else:
            assert not ours.any() and not reference.any()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: Stem(0, 3, 1), "filters must be a whole number of 1 or more, not 0"),
        (lambda: Stem(8, 3, 1, padding=3), "padding must be below 3, the size of the filter, not 3"),
        (lambda: Stem(8, 3, 1, padding=-1), "padding must be a whole number of 0 or more, not -1"),
        (lambda: Fire(4, 0, 2, 2), "squeeze must be a whole number of 1 or more, not 0"),
        (lambda: Fire(4, 2, -1, 2), "expand1x1 must be a whole number of 0 or more, not -1"),
        (lambda: Fire(4, 2, 2, 2.5), "expand3x3 must be a whole number of 0 or more, not 2.5"),
        (lambda: Fire(4, 2, 0, 0), "expand1x1 and expand3x3 are both 0"),
        (lambda: Fire(4, 2, 3, 3, bypass=True), "as many outputs as inputs, not 6 and 4"),
        (lambda: fire_sizes(0), "modules must be a whole number of 1 or more, not 0"),
        (lambda: fire_sizes(freq=0), "freq must be a whole number of 1 or more, not 0"),
        (lambda: fire_sizes(incr_e=-1), "incr_e must be a whole number of 0 or more, not -1"),
        (lambda: fire_sizes(squeeze_ratio=0), r"squeeze_ratio must be in \(0, 1\], not 0"),
        (lambda: fire_sizes(squeeze_ratio=float("nan")), r"squeeze_ratio must be in \(0, 1\], not nan"),
        (lambda: fire_sizes(pct_3x3=50), r"pct_3x3 must be in \[0, 1\], not 50"),
        (lambda: squeezenet(classes=1), "classes must be a whole number of 2 or more, not 1"),
        (lambda: squeezenet(version="1_0"), 'version must be "1.0" or "1.1", not \'1_0\''),
        (lambda: squeezenet(width=-1), "width must be a finite number above 0, not -1"),
        (lambda: squeezenet(dropout=1), r"dropout must be in \[0, 1\), not 1"),
        (lambda: squeezenet(pools=(1, 10)), r"pools must be different layers from 1 to 9, not \(1, 10\)"),
        (lambda: squeezenet(pools=(2, 2)), r"pools must be different layers from 1 to 9, not \(2, 2\)"),
        (lambda: squeezenet(pools=3), "pools must be different layers from 1 to 9, not 3"),
        (lambda: squeezenet(modules=4), r"from 1 to 5, not \(1, 4, 8\)"),
        (lambda: squeezenet(freq=1, bypass=True), r"bypass needs a fire module .* widths are \[96, 128, 256"),
    ],
)
def test_what_no_network_can_be_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()


def test_its_text_tells_a_bypass_apart():
    assert str(Fire(8, 2, 4, 4, bypass=True)) != str(Fire(8, 2, 4, 4))
