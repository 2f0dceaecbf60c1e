"""Networks in float32, bfloat16 and int8: ratios of their times, in one process on one thread; the three take turns.

For each network that converts, ours and those of the zoo, it prints the median time in float32 and the other two
relative to it, with one image and with 64. It also prints how much smaller the files are, and how far any part of the
int8 network is from the simulated one at most, in steps of its grid. Then come the refusals, with their reasons. Run
with ``make bench-int8``.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from lib import measure, models, running, storage
from lib.book.zoo import networks
from lib.book.zoo.agreement import Apart
from lib.datasets import Split
from lib.quantization.affine import calibrate, simulate
from lib.quantization.shared import precisions, torch_kernels

RUNS, MANY = 20, 64
OURS = {"LeNet-300-100": "lenet_300_100", "LeNet-5": "lenet5", "ResNet-8": "resnet8", "ResNet-20": "resnet20"}


def main() -> None:
    for what, value in torch_kernels.processor().items():
        print(f"{what}: {value}")
    print(f"this processor {precisions.bfloat16_here()}")
    print(f"\n{'':20}{'one image':^27}{f'{MANY} images':^27}{'file smaller':^16}{'steps':>6}")
    print(f"{'network':20}" + 2 * f"{'float ms':>9}{'bfloat16':>9}{'int8':>9}" + f"{'bfloat16':>9}{'int8':>7}")
    refused = {}
    for name in [*OURS, *networks.ZOO]:
        model, images = built(name)
        if reason := precisions.refusal(model, images):
            refused[name] = reason
        else:
            show(name, model, images)
    print(f"\nrefused: {len(refused)}")
    for name, reason in refused.items():
        print(f"{name:20}{reason.partition(':')[0] if 'integer form' in reason else reason}")


def built(name: str) -> tuple[nn.Module, Tensor]:
    """A network with random weights, and images for it; its batch norms have the statistics of these images."""
    if name in networks.ZOO:
        model, split = networks.build(name)
        return model, split.images
    shape = (1, 28, 28) if name.startswith("LeNet") else (3, 32, 32)
    split = Split(torch.randn(12, *shape, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 10)
    model = getattr(models, OURS[name])()
    networks.settle(model, split)
    return model, split.images


@torch.no_grad()
def show(name: str, model: nn.Module, images: Tensor) -> None:
    simulated = simulate(model)
    calibrate(simulated, images)
    forms = precisions.forms(model, simulated, images[:2])
    layout = running.layout(forms["float32"], images[:2])
    many = images.repeat(-(-MANY // len(images)), *[1] * (images.dim() - 1))[:MANY]
    print(f"{name:20}", end="")
    for x in (images[:1], many):
        x = x.contiguous(memory_format=layout) if x.dim() == 4 else x
        calls: dict[str, Callable[[], object]] = {form: partial(f, x) for form, f in forms.items()}
        times = {form: time.median for form, time in measure.latency_ms(calls, runs=RUNS).items()}
        ratios = [times[form] / times["float32"] for form in ("bfloat16", "int8")]
        print(f"{times['float32']:9.3f}{ratios[0]:9.2f}{ratios[1]:9.2f}", end="", flush=True)
    usual = measure.dense_bytes(forms["float32"])  # without the heads that only training calls
    smaller = [usual / len(storage.dumps(net, coder="fixed")) for net in (forms["bfloat16"], simulated)]
    steps = Apart(forms["int8"], simulated, images).steps.values()  # type: ignore[arg-type]  # a graph of modules
    print(f"{smaller[0]:9.2f}{smaller[1]:7.2f}{max(int(part.max()) for part in steps):6}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
