"""The cost model against counts that are known exactly."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from lib import measure, models
from lib.binarization import abc_net, bnn, xnor_net
from lib.pruning import magnitude
from lib.quantization import deep_compression, scalar_kmeans
from lib.vision import torchvision
from lib.weights import layers

# name, parameters, multiply-adds for one 224 x 224 image (inception: 299 x 299)
TORCHVISION = [
    ("alexnet", 61_100_840, 714_188_480),
    ("vgg11", 132_863_336, 7_609_090_048),
    ("vgg16", 138_357_544, 15_470_264_320),
    ("vgg19", 143_667_240, 19_632_062_464),
    ("googlenet", 13_004_888, 1_498_376_192),
    ("inception_v3", 27_161_264, 5_713_216_096),
    ("resnet18", 11_689_512, 1_814_073_344),
    ("resnet34", 21_797_672, 3_663_761_408),
    ("resnet50", 25_557_032, 4_089_184_256),
    ("resnet101", 44_549_160, 7_801_405_440),
    ("resnet152", 60_192_808, 11_513_626_624),
    ("densenet121", 7_978_856, 2_834_161_664),
    ("densenet169", 14_149_480, 3_359_843_328),
    ("squeezenet1_0", 1_248_424, 818_924_576),
    ("squeezenet1_1", 1_235_496, 349_151_936),
    ("mobilenet_v2", 3_504_872, 300_774_272),
    ("mobilenet_v3_large", 5_483_032, 216_589_760),
    ("mobilenet_v3_small", 2_542_856, 56_510_400),
    ("shufflenet_v2_x0_5", 1_366_792, 40_476_448),
    ("shufflenet_v2_x1_0", 2_278_604, 144_907_992),
    ("shufflenet_v2_x1_5", 3_503_624, 295_759_392),
    ("shufflenet_v2_x2_0", 7_393_996, 583_253_464),
    ("mnasnet0_5", 2_218_512, 104_455_968),
    ("mnasnet0_75", 3_170_208, 215_493_104),
    ("mnasnet1_0", 4_383_312, 314_415_872),
    ("mnasnet1_3", 6_282_256, 526_362_432),
]


@pytest.mark.parametrize(("name", "parameters", "multiply_adds"), TORCHVISION)
def test_counts_of_torchvision_models(name, parameters, multiply_adds):
    extra = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    with torch.device("meta"):
        model = getattr(torchvision.models, name)(weights=None, **extra)
    side = 299 if name == "inception_v3" else 224
    assert measure.parameters(model) == parameters
    assert measure.dense_bytes(model) == 4 * parameters
    assert measure.multiply_adds(model, (3, side, side)) == multiply_adds


@pytest.mark.parametrize(
    "name",
    [
        *("vit_b_16", "vit_b_32", "swin_t", "swin_v2_t", "maxvit_t", "convnext_tiny"),
        *("efficientnet_b0", "resnext50_32x4d", "wide_resnet50_2"),
    ],
)
def test_multiply_adds_are_those_that_torchvision_publishes(name):
    with torch.device("meta"):
        model = getattr(torchvision.models, name)()
    for weights in torchvision.models.get_model_weights(name):
        side = weights.transforms().crop_size[0]
        if side == getattr(model, "image_size", side):
            published = weights.meta["_ops"]  # in billions, three decimals
            assert measure.multiply_adds(model, (3, side, side)) == pytest.approx(1e9 * published, rel=1e-4, abs=6e5)
    assert measure.parameters(model) == weights.meta["num_params"]


def mobilenet_v1(width: float, full: bool = False, blocks: int = 5) -> nn.Sequential:
    """MobileNet's Table 1: bias-free convolutions with normalization, and a classifier for 1000 classes."""

    def convolution(inputs, outputs, kernel, stride, groups=1):
        padding = kernel // 2
        layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        return [layer, nn.BatchNorm2d(outputs), nn.ReLU()]

    channels = int(32 * width)
    found = convolution(3, channels, 3, 2)
    plan = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * blocks, (1024, 2), (1024, 1)]
    for outputs, stride in plan:
        outputs = int(outputs * width)
        if full:
            found += convolution(channels, outputs, 3, stride)
        else:
            found += convolution(channels, channels, 3, stride, groups=channels) + convolution(channels, outputs, 1, 1)
        channels = outputs
    return nn.Sequential(*found, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 1000))


@pytest.mark.parametrize(
    ("kind", "side", "parameters", "multiply_adds"),
    [
        ({"width": 1.0}, 224, 4_231_976, 568_740_352),
        ({"width": 0.75}, 224, 2_585_560, 325_400_448),
        ({"width": 0.5}, 224, 1_331_592, 149_497_088),
        ({"width": 0.25}, 224, 470_072, 41_030_272),
        ({"width": 1.0}, 192, 4_231_976, 418_121_728),
        ({"width": 1.0}, 160, 4_231_976, 290_675_200),
        ({"width": 1.0}, 128, 4_231_976, 186_400_768),
        ({"width": 1.0, "full": True}, 224, 29_294_088, 4_867_293_184),
        ({"width": 1.0, "blocks": 0}, 224, 2_887_976, 307_323_392),
    ],
)
def test_counts_of_mobilenet_from_its_table(kind, side, parameters, multiply_adds):
    with torch.device("meta"):
        model = mobilenet_v1(**kind)
    assert measure.parameters(model) == parameters
    assert measure.multiply_adds(model, (3, side, side)) == multiply_adds


@pytest.mark.parametrize(
    ("layer", "shape", "expected"),
    [
        (nn.Conv2d(4, 6, 3, groups=2), (4, 5, 7), 3 * 5 * 6 * 2 * 9),
        (nn.Conv2d(4, 4, 3, groups=4, bias=False, stride=2), (4, 7, 7), 3 * 3 * 4 * 9),
        (nn.Conv2d(1, 1, 1), (1, 1, 1), 1),
        (nn.Conv1d(2, 3, 5), (2, 9), 5 * 3 * 2 * 5),
        (nn.Conv3d(1, 2, 2), (1, 3, 3, 3), 8 * 2 * 8),
        (nn.ConvTranspose2d(3, 5, 2, stride=2), (3, 4, 6), 4 * 6 * 3 * 5 * 4),
        (nn.ConvTranspose3d(2, 3, 2), (2, 2, 2, 2), 8 * 2 * 3 * 8),
        (nn.Linear(7, 3), (7,), 21),
        (nn.Linear(7, 3, bias=False), (5, 7), 105),
        (nn.ReLU(), (3,), 0),
    ],
)
def test_multiply_adds_of_one_layer_by_hand(layer, shape, expected):
    assert measure.multiply_adds(layer, shape) == expected


@pytest.mark.parametrize(
    ("build", "steps"),
    [
        (lambda: nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True), 5),
        (lambda: nn.LSTM(3, 4, proj_size=2, batch_first=True), 5),
        (lambda: nn.GRU(3, 4, num_layers=2, batch_first=True), 7),
        (lambda: nn.RNN(3, 4, bias=False, batch_first=True), 1),
    ],
)
def test_recurrent_layers_use_every_matrix_at_every_step(build, steps):
    model = nn.Sequential(build())
    matrices = sum(p.numel() for p in model.parameters() if p.dim() > 1)
    assert measure.multiply_adds_by_layer(model, (steps, 3)) == {"0": steps * matrices}


def test_steps_of_sequences_of_different_lengths_count_once_each():
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrent, self.cell = nn.GRU(3, 4), nn.LSTMCell(3, 4, bias=False)

        def forward(self, x):
            packed = nn.utils.rnn.pack_sequence([x[0, :5], x[0, :2]])
            return self.recurrent(input=packed)[0].data, self.cell(x[:, 0])[0]

    matrices = 3 * 4 * (3 + 4)
    work = measure.multiply_adds_by_layer(Packed(), (5, 3))
    assert work == {"recurrent": 7 * matrices, "cell": 4 * 4 * (3 + 4)}


@pytest.mark.parametrize("options", [{}, {"kdim": 6, "vdim": 10}, {"add_bias_kv": True}])
@pytest.mark.parametrize("need_weights", [True, False])
def test_multiply_adds_of_attention_by_hand(options, need_weights):
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.MultiheadAttention(8, 2, batch_first=True, **options)

        def forward(self, x):
            key, value = x[..., : options.get("kdim", 8)], torch.cat([x, x], -1)[..., : options.get("vdim", 8)]
            return self.inner(x, key, value, need_weights=need_weights)[0]

    n, keys = 5, 5 + ("add_bias_kv" in options)
    matrices = n * 8 * (8 + options.get("kdim", 8) + options.get("vdim", 8) + 8)
    expected = {"inner": matrices + 2 * n * keys * 8}
    for model in (Attention(), Attention().to("meta"), scalar_kmeans.share(Attention(), bits=3)):
        assert measure.multiply_adds_by_layer(model, (n, 8)) == expected


def test_an_encoder_counts_the_same_with_and_without_its_fast_path():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    work = measure.multiply_adds_by_layer(model, (5, 8))
    assert list(work) == [f"layers.{i}.{part}" for i in (0, 1) for part in ("self_attn", "linear1", "linear2")]
    assert set(work.values()) == {5 * 8 * 8 * 4 + 2 * 25 * 8, 5 * 8 * 16}
    assert torch.backends.mha.get_fastpath_enabled() and model.training


def test_products_that_a_network_computes_itself_count():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.w, self.shared = nn.Parameter(torch.ones(3, 3)), nn.Linear(3, 3)
            self.again, self.bilinear = nn.Sequential(self.shared), nn.Bilinear(3, 3, 2)

        def forward(self, x):
            x = self.again(self.shared(x @ self.w))
            x = nn.functional.linear(x, self.shared.weight)
            x = nn.functional.scaled_dot_product_attention(x[None], x[None], x[None])[0]
            self.bilinear(x, x)
            return torch.einsum("ni,ij->nj", x, self.w), self.w @ x[0], x[0] @ x[0]

    work = measure.multiply_adds_by_layer(Own(), (3,))
    assert work == {"": 9 + 9 + 3 + 3 + 9 + 9 + 3, "shared": 9 + 9, "bilinear": 18}


def test_words_are_an_input_too():
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 2))
    assert measure.multiply_adds_by_layer(model, (7,), dtype=torch.long) == {"1": 56}
    with pytest.raises(ValueError, match=r"does not take images of shape \(1, 7\)"):
        measure.multiply_adds(model, (7,))


def test_how_a_weight_is_made_from_what_is_stored_counts_as_nothing():
    model = abc_net.binarize(models.lenet5(), bases=3)
    assert measure.multiply_adds_by_layer(model, (1, 28, 28)) == measure.multiply_adds_by_layer(
        models.lenet5(), (1, 28, 28)
    )


@pytest.mark.parametrize("build", [models.lenet5, models.lenet_300_100])
@pytest.mark.parametrize("binarize", [xnor_net.binarize, bnn.binarize])
def test_layers_that_read_signs_count_like_any_other(build, binarize):
    expected = measure.multiply_adds_by_layer(build(), (1, 28, 28))
    assert measure.multiply_adds_by_layer(binarize(build()), (1, 28, 28)) == expected


def test_counting_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
    model[1].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    first = measure.multiply_adds(model, (3, 8, 8))
    assert [m.training for m in model] == [True, False, True] and model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert measure.multiply_adds(model, (3, 8, 8)) == first


def test_a_layer_called_twice_counts_twice():
    layer = nn.Linear(4, 4)
    assert measure.multiply_adds(nn.Sequential(layer, layer), (4,)) == 32
    assert measure.parameters(nn.Sequential(layer, layer)) == 20


def test_a_tied_weight_is_one_parameter():
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    model[1].weight = model[0].weight
    assert measure.parameters(model) == 16


def test_an_input_of_the_wrong_shape_is_one_clear_error():
    with pytest.raises(ValueError, match=r"does not take images of shape \(1, 3, 28, 28\)"):
        measure.multiply_adds(models.lenet5(), (3, 28, 28))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: magnitude.prune(m, density=0.3),
        lambda m: scalar_kmeans.share(m, bits=3),
        lambda m: deep_compression.share_survivors(m, bits=3),
    ],
)
def test_a_compressed_weight_counts_by_its_dense_shape(change):
    model = models.lenet5()
    expected = measure.multiply_adds(model, (1, 28, 28))
    change(model)
    assert measure.parameters(model) == 431_080 and measure.dense_bytes(model) == 1_724_320
    assert measure.multiply_adds(model, (1, 28, 28)) == expected == 2_293_000


def test_nonzero_parameters_are_the_survivors_and_the_biases():
    model = magnitude.prune(models.lenet_300_100(), density=0.1)
    assert measure.nonzero_parameters(model) == 23_520 + 3_000 + 100 + 410
    assert [(row["layer"], row["weights"], row["kept"]) for row in measure.by_layer(model)] == [
        ("fc1", 235_200, 23_520),
        ("fc2", 30_000, 3_000),
        ("fc3", 1_000, 100),
    ]


def test_every_matrix_of_a_network_is_in_the_list_of_layers():
    model = torchvision.models.VisionTransformer(16, 8, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=16)
    magnitude.prune(model, density=0.5)
    rows = {row["layer"]: (row["weights"], row["kept"]) for row in measure.by_layer(model)}
    vectors = [p for name, p in model.named_parameters() if p.dim() == 1]
    assert sum(n for n, _ in rows.values()) == measure.parameters(model) - sum(p.numel() for p in vectors)
    assert rows["encoder.layers.encoder_layer_0.self_attention.in_proj_weight"] == (3 * 64, 3 * 64 // 2)
    assert list(rows)[-2:] == ["class_token", "encoder.pos_embedding"] and rows["encoder.pos_embedding"] == (40, 40)
    assert list(rows)[:-2] == [name for name, _ in layers(model)]


def test_streams_of_packed_weights_and_of_a_single_layer_have_rows():
    for model in (nn.LSTM(4, 3), nn.Linear(4, 3)):
        scalar_kmeans.share(model, bits=2)
        assert [row["layer"] for row in measure.by_stream(model)] == [row["layer"] for row in measure.by_layer(model)]


def test_parameters_of_compressed_packed_weights_are_those_of_the_dense_network():
    model = nn.Sequential(nn.LSTM(4, 3, bidirectional=True), nn.MultiheadAttention(8, 2))
    expected = measure.parameters(model)
    sizes = measure.accountings(magnitude.prune(model, density=0.5))
    assert measure.parameters(model) == expected
    biases = sum(p.numel() for name, p in model.named_parameters() if "bias" in name and p.count_nonzero())
    weights = sum(layer.weight.numel() for _, layer in layers(model))
    assert sizes.nonzeros == 4 * (weights // 2 + biases) < sizes.file


def test_accountings_of_a_case_counted_by_hand():
    layer = nn.Linear(8, 1, bias=False)
    layer.weight.data = torch.tensor([[1.0, 0, 0, 1, 0, 0, 2, 0]])
    deep_compression.share_survivors(layer, bits=2, start="optimal", gap_bits=2)
    sizes = measure.accountings(layer)
    # codes 1 1 2 (0 is the filler's), gaps 0 2 2: two centroids of 4 bytes; code words of one bit each
    assert sizes.nonzeros == 12
    assert sizes.fixed_codes == 8 + 3 * 2 / 8 + 3 * 2 / 8
    assert sizes.code_lengths == 8 + 3 / 8 + 3 / 8
    assert sizes.file > sizes.code_lengths


def test_accountings_of_a_dense_model_count_nothing_as_coded():
    sizes = measure.accountings(models.lenet_300_100())
    assert sizes.fixed_codes == sizes.code_lengths == 0
    assert sizes.nonzeros == 4 * 266_610 < sizes.file < 4 * 266_610 + 100


def test_latency_takes_turns_and_drops_the_two_warm_up_rounds():
    calls = []
    found = measure.latency_ms({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, runs=20)
    assert calls == ["a", "b"] * 22 and set(found) == {"a", "b"}
    assert all(0 <= t.lower <= t.median <= t.upper for t in found.values())


def test_latency_runs_on_one_thread_and_restores_the_threads_after_an_error():
    before, seen = torch.get_num_threads(), []

    def fails():
        seen.append(torch.get_num_threads())
        raise KeyError("stop")

    with pytest.raises(KeyError):
        measure.latency_ms({"fails": fails})
    assert seen == [1] and torch.get_num_threads() == before


def test_too_few_runs_are_refused():
    with pytest.raises(ValueError, match=r"at least 20 .* not 3"):
        measure.latency_ms({}, runs=3)


def hooked(change):
    layer = nn.Linear(10, 10, bias=False)
    change(layer)
    return nn.Sequential(layer)


@pytest.mark.parametrize("count", [measure.parameters, measure.nonzero_parameters, measure.by_layer])
@pytest.mark.parametrize(
    "change",
    [
        lambda layer: prune.l1_unstructured(layer, "weight", 0.9),
        lambda layer: nn.utils.weight_norm(layer),
        lambda layer: nn.utils.spectral_norm(layer),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_weights_that_hooks_make_are_refused_by_name(change, count):
    with pytest.raises(ValueError, match=r"a hook of torch\.nn\.utils makes the weight of layer '0'"):
        count(hooked(change))


def test_a_weight_in_a_buffer_counts():
    layer = nn.Linear(10, 10)
    weight = layer.weight.detach()
    del layer.weight
    layer.register_buffer("weight", weight)
    assert measure.parameters(layer) == 110 and measure.nonzero_parameters(layer) == 110


def test_lazy_layers_are_refused_and_stay_lazy():
    model = nn.Sequential(nn.LazyLinear(3))
    for call in (measure.parameters, lambda m: measure.multiply_adds(m, (4,))):
        with pytest.raises(ValueError, match=r"'0\.weight' of Sequential is not there yet"):
            call(model)
    assert isinstance(model[0], nn.LazyLinear)


def test_sizes_below_0_are_refused():
    with pytest.raises(ValueError, match=r"shape must have sizes of 0 or more, not \(-4,\)"):
        measure.multiply_adds(nn.Linear(4, 3), (-4,))


def test_what_a_forward_pass_writes_is_written_into_a_copy():
    class Writing(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.fc = nn.Embedding(9, 4, max_norm=0.1), nn.Linear(4, 3)
            self.register_buffer("calls", torch.zeros(1))

        def forward(self, x):
            self.calls += 1
            with torch.no_grad():
                self.fc.weight.clamp_(-0.1, 0.1)
            return self.fc(self.words(x))

    model = Writing()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert measure.multiply_adds(model, (5,), dtype=torch.long) == 60
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
