"""Networks of 8-bit integers as ONNX files: onnxruntime computes from them, on integers, what was simulated."""

import copy
from collections import Counter

import given
import given_quantization
import pytest
import torch
from given_quantization import Everything, on_grids
from torch import nn

from lib import exporting, models
from lib.quantization.affine import calibrate, simulate
from lib.quantization.shared import onnx_integers
from lib.quantization.shared.activation import activations


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=given.generator(seed))


def perceptron():
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 5))


def asymmetric():
    """Signed inputs, a clamp that ends within its grid, a border that is no zeros, and layers without a bias."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"),
        nn.Hardtanh(-0.2, 0.3),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(8, 6, 3, stride=2, groups=2, bias=False),
        nn.Flatten(),
        nn.BatchNorm1d(54),
        nn.Linear(54, 4, bias=False),
    )


NETWORKS = {
    "linear layers": lambda: (given.seeded(perceptron), rand(6, 12)),
    "linear layers on tokens": lambda: (given.seeded(perceptron), rand(4, 7, 12)),
    "LeNet-5": lambda: (given.seeded(models.lenet5), rand(4, 1, 28, 28)),
    "lines": lambda: (given.seeded(lambda: nn.Sequential(nn.Conv1d(3, 8, 3), nn.ReLU6())), rand(4, 3, 9)),
    "volumes": lambda: (given.seeded(lambda: nn.Sequential(nn.Conv3d(3, 8, 3), nn.MaxPool3d(2))), rand(4, 3, 6, 6, 6)),
    "clamps": lambda: (given.seeded(asymmetric), rand(4, 3, 14, 14) - 0.5),
    "everything": lambda: (given.seeded(Everything), rand(6, 3, 8, 8)),
    "resnet18": lambda: given_quantization.of_torchvision("resnet18"),
    "MobileNetV2": lambda: given_quantization.of_torchvision("MobileNetV2"),
    "squeezenet1_1": lambda: given_quantization.of_torchvision("squeezenet1_1"),
}
DEEP = ("resnet18", "MobileNetV2", "squeezenet1_1")  # one step in a layer moves all those after it
ONE_GRID = ("linear layers", "LeNet-5")


@pytest.fixture
def installed():
    for package in exporting.PACKAGES:
        pytest.importorskip(package)


def computed(path, images):
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": images.numpy()})[0])


def steps(simulated, path, images):
    with torch.no_grad():
        apart = (computed(path, images) - simulated(images)) / activations(simulated)[-1].grid().scale
    return float(apart.abs().max())


def operations(path, folder):
    """How many operations of each kind onnxruntime makes of a file."""
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(folder / "optimized.onnx"), 3
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


@pytest.mark.usefixtures("installed", "one_table_for_onnx")
@pytest.mark.filterwarnings("ignore")
class TestWithThePackages:
    @pytest.mark.parametrize(
        ("name", "per_channel"), [*((name, True) for name in NETWORKS), *((name, False) for name in ONE_GRID)]
    )
    def test_onnxruntime_computes_on_integers_what_was_simulated(self, name, per_channel, tmp_path):
        model, images = NETWORKS[name]()
        simulated = on_grids(model, images, per_channel=per_channel)
        before = copy.deepcopy(simulated.state_dict())
        path = tmp_path / "network.onnx"
        assert onnx_integers.export(simulated, path, images) == path.stat().st_size
        assert [*tmp_path.iterdir()] == [path] and given.same_state(simulated.state_dict(), before)
        for count in (1, 3):  # of images that it never saw
            others = rand(count, *images.shape[1:], seed=count) + images.min()
            assert steps(simulated, path, others) < (8.5 if name in DEEP else 1.5)
        kinds = operations(path, tmp_path)
        assert kinds["QLinearConv"] + kinds["QGemm"] > 0 == kinds["Conv"] + kinds["Gemm"] + kinds["MatMul"]

    def test_weights_take_a_quarter_of_the_float_file(self, tmp_path):
        model, images = NETWORKS["LeNet-5"]()
        floats = exporting.export(copy.deepcopy(model), tmp_path / "floats.onnx", images)
        integers = onnx_integers.export(on_grids(model, images), tmp_path / "integers.onnx", images)
        assert 0.25 * 0.99 < integers / floats < 0.25 * 1.05

    @pytest.mark.parametrize("per_channel", [True, False])
    def test_the_file_holds_the_integers_of_the_grids(self, per_channel, tmp_path):
        import onnx

        model, images = NETWORKS["linear layers"]()
        simulated = on_grids(model, images, per_channel=per_channel)
        onnx_integers.export(simulated, tmp_path / "network.onnx", images)
        graph = onnx.load(tmp_path / "network.onnx").graph
        held = [onnx.numpy_helper.to_array(value) for value in graph.initializer]
        weights = [torch.tensor(value) for value in held if value.dtype == "int8" and value.ndim == 2]
        for layer, codes in zip((simulated.get_submodule("0"), simulated.get_submodule("2")), weights, strict=True):
            scale = layer.weight.detach().abs().amax(1, keepdim=True) / 127
            scale = scale if per_channel else scale.max()
            torch.testing.assert_close(codes * scale, layer.weight.detach())
        assert sorted(value.size for value in held if value.dtype == "int32" and value.ndim) == (
            [5, 5, 16, 16] if per_channel else [5, 16]  # biases, and their zeros
        )
        assert max(value.size for value in held if value.dtype == "float32") == (16 if per_channel else 1)
        assert {node.op_type for node in graph.node} == {"QuantizeLinear", "DequantizeLinear", "Gemm"}

    def test_the_file_says_nothing_of_the_machine(self, tmp_path):
        model, images = NETWORKS["linear layers"]()
        onnx_integers.export(on_grids(model, images), tmp_path / "network.onnx", images)
        assert b".py" not in (tmp_path / "network.onnx").read_bytes()

    def test_a_bias_that_is_large_for_its_weights_fits(self, tmp_path):
        layer, images = given.seeded(lambda: nn.Conv2d(3, 4, 3)), rand(4, 3, 6, 6)
        layer.weight.data[1] *= 1e-12
        layer.bias.data[1] = 0.5
        simulated = on_grids(layer, images)
        onnx_integers.export(simulated, tmp_path / "network.onnx", images, steps=1)
        assert steps(simulated, tmp_path / "network.onnx", images) < 1.5

    def test_a_network_in_training_mode_stays_so(self, tmp_path):
        simulated = on_grids(nn.Sequential(nn.Linear(12, 4), nn.Dropout()), rand(4, 12)).train()
        onnx_integers.export(simulated, tmp_path / "network.onnx", rand(4, 12))
        assert simulated.training and steps(simulated.eval(), tmp_path / "network.onnx", rand(4, 12)) < 1.5

    @pytest.mark.parametrize(
        ("biases", "accepted", "says"),  # of the network and of the file; a step of the outputs is about 0.004
        [
            (([0.10, 0.00], [0.16, 0.00]), 8, "outputs differ by 1[4-6] steps of their grid: at most 8 are accepted"),
            (([0.10, 0.06], [0.07, 0.09]), 8, "gives another class, 1[01] steps lower: at most 8 are accepted"),
            (([0.10, 0.06], [0.07, 0.09]), 12, None),
        ],
    )
    def test_a_file_that_answers_otherwise_is_not_kept(self, biases, accepted, says, tmp_path, monkeypatch):
        layer, images = nn.Linear(1, 2), torch.linspace(0, 0.9, 9)[:, None]
        layer.weight.data.fill_(1.0)
        layer.bias.data = torch.tensor(biases[0])
        simulated = on_grids(layer, images)
        other = copy.deepcopy(simulated)
        other.get_submodule("0").bias.data = torch.tensor(biases[1])
        network = onnx_integers.quantized_network(other)
        monkeypatch.setattr(onnx_integers, "quantized_network", lambda simulated: network)
        path = tmp_path / "network.onnx"
        path.write_bytes(b"before")
        if says is None:
            assert onnx_integers.export(simulated, path, images, steps=accepted) == path.stat().st_size
            return
        with pytest.raises(ValueError, match=says):
            onnx_integers.export(simulated, path, images, steps=accepted)
        assert [*tmp_path.iterdir()] == [path] and path.read_bytes() == b"before"


LAYER, VECTORS = nn.Linear(2, 3), rand(4, 2)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"simulated": LAYER}, "Linear has no grids: accepted is what simulate returns, calibrated"),
        ({"simulated": simulate(LAYER)}, "no image has gone through this network: calibrate it"),
        ({"simulated": on_grids(LAYER, VECTORS, bits=4)}, "layer '0' has 4 bits: the file takes 8"),
        ({"simulated": on_grids(LAYER, VECTORS, edge_bits=16)}, "activation '.*_grid' has 16 bits: the file takes 8"),
        ({"simulated": on_grids(LAYER, VECTORS).double()}, r"layer '0' is torch.float64: call .float\(\) first"),
        ({"simulated": on_grids(LAYER, VECTORS).half()}, "is torch.float16: accepted are float32 and float64"),
        ({"images": VECTORS.double()}, "images must be float32 numbers"),
        ({"opset": 17}, "opset must be a whole number of 18 or more, not 17"),
        ({"steps": 0}, "steps must be a whole number of 1 or more, not 0"),
    ],
)
def test_what_has_no_such_file_is_refused(changed, says, tmp_path):
    accepted = {"simulated": calibrate(simulate(LAYER), VECTORS), "path": tmp_path / "small.onnx", "images": VECTORS}
    with pytest.raises(ValueError, match=says):
        onnx_integers.export(**accepted | changed)
    assert not [*tmp_path.iterdir()]


def test_a_package_that_is_missing_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxruntime" else name)
    with pytest.raises(ModuleNotFoundError, match=r"an ONNX file needs onnxruntime: pip install .\[onnx\]"):
        onnx_integers.export(on_grids(LAYER, VECTORS), tmp_path / "small.onnx", VECTORS)
    assert not [*tmp_path.iterdir()]
