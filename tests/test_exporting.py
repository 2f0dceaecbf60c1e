"""Networks as ONNX files: onnxruntime computes from each of them what torch computes; the rest is refused."""

import given
import pytest
import torch
from torch import nn

from lib import exporting, structure
from lib.architectures import (
    dense_block,
    depthwise_separable,
    filter_sizes,
    hourglass,
    inception,
    residual_block,
    shufflenet,
    spatially_separable,
    squeeze_segnet,
    squeezenet,
)
from lib.architectures.mobilenet import mobilenet
from lib.binarization.bulat_binary_block import BinaryBlock, Bottleneck
from lib.factorization import low_rank
from lib.pruning import filter_l1

IMAGES = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))
SQUARE = IMAGES[..., :48]
NETWORKS = {  # small ones, of all parts that the large ones have
    "filter sizes": lambda: filter_sizes.network(classes=4, width=0.1, sizes=((3, (1, 3)), (5,))),
    "inception": lambda: inception.googlenet(classes=4, width=0.05),
    "residual, zeros": lambda: residual_block.cifar_resnet(depth=8, width=0.5),
    "residual, projections": lambda: residual_block.imagenet_resnet(depth=18, width=0.05, classes=4),
    "dense": lambda: dense_block.cifar_densenet(depth=16, growth=4, bottleneck=True, compression=0.5),
    "squeezenet": lambda: squeezenet.squeezenet(width=0.1, classes=4, bypass=True),
    "segnet": lambda: squeeze_segnet.segnet(width=0.05),
    "squeeze-segnet": lambda: squeeze_segnet.squeeze_segnet(width=0.1),
    "squeeze-segnet, light": lambda: squeeze_segnet.squeeze_segnet(width=0.1, light=True),
    "spatially separable": lambda: spatially_separable.convnet(filters="separable", side=48, classes=4),
    "fused": lambda: spatially_separable.convnet(filters="fused separable", side=48, classes=4),
    "xception": lambda: depthwise_separable.xception(width=0.05, middle=1, classes=4),
    "mobilenet, resized": lambda: mobilenet(width=0.1, resolution=0.6, middle=1, classes=4),
    "shufflenet": lambda: shufflenet.shufflenet(width=0.25, units=(2, 2, 2), classes=4),
    "hourglass": lambda: hourglass.hourglass(block=lambda c: Bottleneck(c, c, binary=False), **POINTS),
    "hourglass, binary": lambda: used(hourglass.hourglass(block=lambda c: BinaryBlock(c, c), **POINTS)),
}
POINTS = {"maps": 2, "features": 8, "depth": 1}


def used(network):  # with the statistics of some images: no sum of signs is on a threshold any more
    with torch.no_grad():
        network(IMAGES)
    return network


def shrunk():
    """A network that we did not write, and without half of its filters; images for both."""
    model, split, groups = given.of_torchvision("resnet18")
    masks = structure.keep(filter_l1.scores(model, split), fraction=0.5, groups=groups)
    return model, structure.shrink(model, masks, split.images), split.images


def factorized():
    """A network, and with each layer in two where that is cheaper; images for both."""
    model = residual_block.imagenet_resnet(depth=18, width=0.5, classes=4)
    return model, low_rank.factorize_model(model, energy=0.5)[0], IMAGES


class Unpooled(nn.Sequential):
    """torch's own unpooling, of windows that overlap or not."""

    def __init__(self, kernel):
        super().__init__(nn.Conv2d(3, 3, 3, padding=1))
        self.kernel = kernel

    def forward(self, images):
        pooled, places = nn.functional.max_pool2d(images, self.kernel, 2, return_indices=True)
        return nn.functional.max_unpool2d(super().forward(pooled), places, self.kernel, 2, output_size=images.shape[2:])


class Branches(nn.Module):
    def forward(self, images):
        return images if images.sum() > 0 else -images


class Noise(nn.Module):
    def forward(self, images):
        return images + torch.rand_like(images)


class Pair(nn.Module):
    def forward(self, images):
        return images, images


@pytest.fixture
def installed():
    for package in exporting.PACKAGES:
        pytest.importorskip(package)


@pytest.mark.usefixtures("installed", "one_table_for_onnx")
@pytest.mark.filterwarnings("ignore")
class TestWithThePackages:
    @pytest.mark.parametrize("name", NETWORKS)
    def test_onnxruntime_computes_what_torch_computes(self, name, tmp_path):
        import onnxruntime

        network = NETWORKS[name]()
        path = tmp_path / "network.onnx"
        assert exporting.export(network, path, SQUARE[:1] if "fused" in name else IMAGES) == path.stat().st_size
        assert network.training and [*tmp_path.iterdir()] == [path]
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        images = torch.rand(3, *(SQUARE if "fused" in name else IMAGES).shape[1:])  # as many as it never saw
        with torch.no_grad():
            wanted = network.eval()(images)
        (outputs,) = session.run(None, {"images": images.numpy()})
        torch.testing.assert_close(torch.from_numpy(outputs), wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max()))

    @pytest.mark.parametrize("smaller", [shrunk, factorized])
    def test_a_smaller_network_is_a_smaller_file(self, smaller, tmp_path):
        model, small, images = smaller()
        parameters = sum(p.numel() for p in small.parameters())
        size = exporting.export(small, tmp_path / "small.onnx", images)
        assert 4 * parameters < size < 4.5 * parameters < 2.5 * sum(p.numel() for p in model.parameters())

    @pytest.mark.parametrize("kernel", [2, 3])
    def test_torchs_max_unpooling_is_exported_too(self, kernel, tmp_path):
        assert exporting.export(Unpooled(kernel), tmp_path / "unpooled.onnx", SQUARE) > 0

    @pytest.mark.parametrize(
        ("network", "says"),
        [
            (Branches(), "torch cannot export Branches to ONNX: "),
            (Noise(), "Noise as an ONNX file gives outputs that are .* of the largest one apart"),
            (Pair(), "Pair gives no single tensor"),
            (nn.Linear(3, 2), "Linear does not take images of shape"),
        ],
    )
    def test_what_is_not_the_same_is_refused_and_not_written(self, network, says, tmp_path):
        with pytest.raises(ValueError, match=says):
            exporting.export(network, tmp_path / "network.onnx", IMAGES)
        assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"images": IMAGES.double()}, "images must be float32 numbers, .* not torch.float64"),
        ({"images": IMAGES[:0]}, r"at least one image, not torch.float32 of \(0, 3, 48, 64\)"),
        ({"images": IMAGES * float("nan")}, "images must be float32 numbers, finite"),
        ({"opset": 17}, "opset must be a whole number of 18 or more, not 17"),
        ({"opset": True}, "opset must be a whole number"),
        ({"tolerance": 0}, "tolerance must be a finite number above 0, not 0"),
        ({"tolerance": float("nan")}, "tolerance must be a finite number above 0, not nan"),
    ],
)
def test_other_arguments_are_refused(changed, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        exporting.export(**{"model": nn.Conv2d(3, 2, 3), "path": tmp_path / "small.onnx", "images": IMAGES} | changed)
    assert not [*tmp_path.iterdir()]


def test_a_package_that_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxscript" else name)
    with pytest.raises(ModuleNotFoundError, match=r"an ONNX file needs onnxscript: pip install .\[onnx\]"):
        exporting.export(nn.Conv2d(3, 2, 3), tmp_path / "small.onnx", IMAGES)
