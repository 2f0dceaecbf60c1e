"""The trials of kernels on this machine, and on kernels made wrong on purpose."""

import pytest
import torch

from lib import running
from lib.binarization.shared import kernels
from lib.book import doctor, trials
from lib.quantization.shared import torch_kernels

LAST = torch.channels_last


def found():
    """Name -> check."""
    return {check.name: check for check in trials.checks()}


def wrong(before):
    """Names of the checks that find something which this machine, ``before``, does right."""
    return {name for name, check in found().items() if check.wrong and not before[name].wrong}


@pytest.fixture(scope="module")
def here():
    return found()


def test_no_result_of_the_book_is_wrong_on_this_machine(here):
    assert not [str(check) for check in here.values() if check.wrong and not check.instead]


def test_a_check_is_one_line_with_the_fault_and_the_remedy():
    assert str(trials.Check("sums")) == "right              sums"
    assert str(trials.Check("sums", "off by 2")) == "WRONG              sums: off by 2"
    text = "wrong, and avoided sums: off by 2: others are used"
    assert str(trials.Check("sums", "off by 2", "others are used")) == text


def convolution_that_is_wrong(where, what):
    """``torch.convolution`` with another output, or another gradient of its weight, in some layouts."""
    right = torch.convolution

    def convolution(x, weight, *rest):
        output = right(x, weight, *rest)
        if not where(x):
            return output
        if what == "output":
            return output + (torch.arange(output.numel()) == 0).reshape(output.shape)
        if what == "nothing":
            return output * float("nan")
        return output + 0.125 * (weight.flatten()[0] - weight.flatten()[0].detach())  # the value is that of before

    return convolution


def plain(x):
    return x.dtype == torch.float32 and not x.is_contiguous(memory_format=LAST)


def last(x):
    return x.dtype == torch.float32 and x.is_contiguous(memory_format=LAST) and not x.is_contiguous()


def asked_for_last(x):  # of one channel both layouts are the same, but for the strides
    return x.dtype == torch.float32 and x.shape[1] == 1 and x.stride(1) == 1


@pytest.mark.parametrize("what", ["output", "gradient", "nothing"])
def test_wrong_convolutions_are_found(here, monkeypatch, what):
    monkeypatch.setattr(torch, "convolution", convolution_that_is_wrong(plain, what))
    assert "convolutions in plain memory" in wrong(here)
    monkeypatch.undo()
    monkeypatch.setattr(torch, "convolution", convolution_that_is_wrong(last, what))
    assert wrong(here) == {"convolutions in channels last, more input channels"}


def test_wrong_convolutions_of_one_channel_in_channels_last_are_avoided(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(torch, "convolution", convolution_that_is_wrong(asked_for_last, "output"))
    check = found()["convolutions in channels last, one input channel"]
    assert "output for image 1 x 5 x 3, 1 filters of 3 x 2, stride (1, 2), and" in check.wrong
    assert check.instead.startswith("training uses plain memory")
    assert doctor.main(tmp_path) == 0
    assert "wrong, and avoided convolutions in channels last, one input channel: output" in capsys.readouterr().out


def lost(result):
    """The result without its last whole number."""
    result = result.clone()
    result.view(-1)[-1] -= 2
    return result


@pytest.mark.parametrize(
    ("module", "name", "expected"),
    [
        (kernels, "product", {"bit kernels"}),
        (kernels, "convolution", {"bit kernels"}),
        (kernels, "unpack", {"bit kernels"}),
        (torch.Tensor, "__matmul__", {"matrix products", "two threads"}),
    ],
)
def test_a_wrong_kernel_is_found_and_the_status_says_so(here, monkeypatch, tmp_path, capsys, module, name, expected):
    right = getattr(module, name)
    whole = torch.int64

    def kernel(a, *rest, **options):
        result = right(a, *rest, **options)
        return result if isinstance(a, torch.Tensor) and a.dtype == whole else lost(result)

    monkeypatch.setattr(module, name, kernel)
    assert wrong(here) == expected
    assert doctor.main(tmp_path) == 1
    printed = capsys.readouterr().out.splitlines()
    assert {line[19:].split(":")[0] for line in printed if line.startswith("WRONG")} == expected - {"two threads"}
    assert len(printed) == 1 + len(here)


def test_a_kernel_that_raises_an_error_is_wrong(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("illegal instruction")

    monkeypatch.setattr(kernels, "pack", broken)
    monkeypatch.setattr(torch_kernels, "adds_exactly", broken)
    assert {"bit kernels", "sums of torch's 8-bit kernels"} <= {check.name for check in found().values() if check.wrong}
    assert found()["bit kernels"].wrong == "RuntimeError: illegal instruction"


@pytest.mark.parametrize(
    ("exact", "says"), [("qnnpack", "8-bit networks use qnnpack"), (None, "are refused, and 32-bit")]
)
def test_8_bit_kernels_that_cut_sums_off_are_avoided(monkeypatch, exact, says):
    monkeypatch.setattr(torch_kernels, "adds_exactly", lambda engine: engine == exact)
    monkeypatch.setattr(torch_kernels, "exact_engine", lambda preferred: exact)
    check = found()["sums of torch's 8-bit kernels"]
    assert "cuts them off at 16 bits" in check.wrong and says in check.instead


def test_two_threads_that_disagree_with_one_are_found_and_avoided(here, monkeypatch):
    right, before = running.convolved, torch.get_num_threads()

    def convolved(*shapes, **options):
        results = right(*shapes, **options)
        return tuple(map(lost, results)) if torch.get_num_threads() == 2 else results

    torch.set_num_threads(1)
    monkeypatch.setattr(running, "convolved", convolved)
    check = found()["two threads"]
    assert check.wrong == "convolution of 3 channels, and 1 more" and "run on one thread" in check.instead
    assert torch.get_num_threads() == 1
    torch.set_num_threads(before)
