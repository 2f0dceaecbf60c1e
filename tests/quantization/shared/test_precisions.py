"""One network in three kinds of numbers, and the reason why another does not convert."""

import given
import pytest
import torch
from given_quantization import Everything, of_torchvision, on_grids
from torch import nn

from lib import models
from lib.book.zoo.agreement import Apart
from lib.quantization.shared import precisions, torch_kernels
from lib.vision import torchvision


def settled_resnet8():
    """ResNet-8 whose batch norms have seen some images, and images."""
    images = given.split(6, 3, 16, 16).images
    model = models.resnet8(width=8)
    for _ in range(3):
        model(images)
    return model.eval(), images


def test_three_forms_answer_alike_and_the_model_is_left():
    model, images = settled_resnet8()
    before = given.state(model)
    simulated = on_grids(model, images)
    forms = precisions.forms(model, simulated, images)
    assert list(forms) == ["float32", "bfloat16", "int8"] and given.same_state(given.state(model), before)
    with torch.no_grad():
        exact = model(images)
        apart = {name: ((form(images) - exact).norm() / exact.norm()).item() for name, form in forms.items()}
        assert {form(images).dtype for form in forms.values()} == {torch.float32}
    assert apart["float32"] < 1e-5
    assert 1e-4 < apart["bfloat16"] < 0.05  # 8 binary digits
    assert 1e-4 < apart["int8"] < 0.1


def test_every_layer_of_the_bfloat16_form_multiplies_bfloat16():
    model, images = settled_resnet8()
    form = precisions.forms(model, on_grids(model, images), images)["bfloat16"]
    assert {parameter.dtype for parameter in form.parameters()} == {torch.bfloat16}
    assert not form.training and not any(isinstance(module, nn.BatchNorm2d) for module in form.modules())
    assert form.network.get_submodule("fc").weight.equal(model.fc.weight.bfloat16())


@pytest.mark.skipif(not torch_kernels.kernels_available(), reason="torch has no exact kernels here")
def test_each_part_of_resnet8_in_int8_is_within_one_step():
    model, images = settled_resnet8()
    simulated = on_grids(model, images)
    steps = Apart(precisions.forms(model, simulated, images)["int8"], simulated, images).steps
    assert len(steps) > 12 and max(int(part.max()) for part in steps.values()) <= 1


def test_int8_runs_in_int32_where_no_kernels_are_exact(monkeypatch):
    monkeypatch.setattr(torch_kernels, "kernels_available", lambda: False)
    model, images = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), torch.rand(5, 4)
    simulated = on_grids(model, images)
    int8 = precisions.forms(model, simulated, images)["int8"]
    assert not any(isinstance(part, torch_kernels.parts.Kernel) for part in int8.modules())
    assert torch.allclose(int8(images), simulated(images), atol=0.02)
    assert precisions.refusal(model, images) == ""


def test_other_floats_are_refused():
    model, images = nn.Sequential(nn.Linear(4, 3)).double(), torch.rand(5, 4).double()
    with pytest.raises(ValueError, match=r"^0\.weight is torch.float64: accepted is float32"):
        precisions.forms(model, on_grids(model, images), images)


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "squeezenet1_1", "shufflenet_v2_x0_5"])
def test_networks_of_convolutions_convert(name):
    model, images = of_torchvision(name)
    assert precisions.refusal(model, images) == ""


def test_a_network_of_all_parts_converts():
    assert precisions.refusal(given.seeded(Everything).eval(), torch.rand(4, 3, 8, 8)) == ""


@pytest.mark.skipif(not torch_kernels.kernels_available(), reason="torch has no exact kernels here")
def test_a_refusal_says_which_part_and_whether_kernels_lack_it():
    norm = torchvision.models.convnext.LayerNorm2d(4)
    says = precisions.refusal(nn.Sequential(nn.Conv2d(3, 4, 1), norm), torch.rand(2, 3, 4, 4))
    assert says.startswith("the tensor '1.weight', which the network itself holds and layer_norm in layer '1' reads,")
    says = precisions.refusal(nn.Sequential(nn.Conv3d(1, 2, 1)), torch.rand(2, 1, 3, 3, 3))
    assert says.startswith("layer '0': the kernels take linear layers")
    assert "\n" not in says


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"avx2"}, "has no instructions for bfloat16, which is slow without them"),
        ({"avx2", "avx512_bf16"}, "has instructions for bfloat16 (avx512_bf16)"),
        ({"asimd", "bf16"}, "has instructions for bfloat16 (bf16)"),
        (set(), "does not say whether it has instructions for bfloat16"),
    ],
)
def test_the_processor_says_how_it_multiplies_bfloat16(monkeypatch, flags, says):
    monkeypatch.setattr(torch_kernels, "instructions", lambda: flags)
    assert precisions.bfloat16_here() == says


def test_floats_keep_their_transposed_convolutions_with_batch_norm_inside():
    model = nn.Sequential(nn.ConvTranspose2d(3, 4, 2, stride=2, groups=1), nn.BatchNorm2d(4), nn.ReLU())
    images = given.split(4, 3, 5, 5).images
    model(images)
    float32 = precisions.forms(model.eval(), on_grids(model, images), images)["float32"]
    assert [type(part) for part in float32.children()] == [nn.ConvTranspose2d, nn.ReLU]
    torch.testing.assert_close(float32(images), model(images))
