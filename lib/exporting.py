"""Networks as ONNX files, which other runtimes read. This needs the packages of the extra ``onnx``."""

import os
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from lib import running
from lib.arguments import check_sizes

PACKAGES = ("onnx", "onnxscript", "onnxruntime")


def export(model: nn.Module, path: str | Path, images: Tensor, *, opset: int = 18, tolerance: float = 1e-4) -> int:
    """Write a network to an ONNX file for batches of any size, after checking that onnxruntime computes the same.

    The network is written in evaluation mode, with its weights in the same file. torch's exporter does not run the file
    that it writes; here onnxruntime does, on two batches of different sizes.

    model: a network of float32 that takes one batch and gives one tensor; left as it was.
    path: of the file; an existing file is replaced.
    images: (n, channels, height, width) of float32, n 1 or more. The file takes any n, but only this height and width.
    opset: version of the operators, 18 or more, default 18.
    tolerance: how far outputs may be apart, as a share of the largest; above 0, default 0.0001.

    Max-unpooling can be exported: the exporter writes it as a scatter. A binary network is refused if a sum is so close
    to a threshold that onnxruntime, which rounds differently, gives the other sign for these images.

    Returns the bytes of the file. Raises ValueError for other arguments, for a network that torch cannot export or
    onnxruntime cannot run, and where the outputs differ; ModuleNotFoundError where a package is not installed. On an
    error, nothing is written.

    >>> export(nn.Conv2d(3, 8, 3), "small.onnx", torch.zeros(0, 3, 8, 8))
    Traceback (most recent call last):
    ValueError: images must be float32 numbers, finite and at least one image, not torch.float32 of (0, 3, 8, 8)
    """
    if images.dtype != torch.float32 or not images.dim() or not images.numel() or not images.isfinite().all():
        what = f"{images.dtype} of {tuple(images.shape)}"
        raise ValueError(f"images must be float32 numbers, finite and at least one image, not {what}")
    check_sizes({"opset": opset}, {"opset": 18})
    if not 0 < tolerance < float("inf"):
        raise ValueError(f"tolerance must be a finite number above 0, not {tolerance!r}")
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise ModuleNotFoundError(f"an ONNX file needs {' and '.join(missing)}: pip install .[onnx]")
    name, several = type(model).__name__, torch.cat([images, images])
    with running.evaluating(model), torch.no_grad():
        wanted = [running.logits(model, batch) for batch in (images, several)]
        if not all(isinstance(outputs, Tensor) for outputs in wanted):
            raise ValueError(f"{name} gives no single tensor, and only one is compared with what the file gives")
        try:
            # method
            program = torch.onnx.export(
                model,
                (several,),
                dynamo=True,
                opset_version=opset,
                input_names=["images"],
                output_names=["outputs"],
                dynamic_shapes=({0: torch.export.Dim.DYNAMIC},),  # any number of images
                verbose=False,
            )
            # end of method
            assert program is not None  # None only without dynamo
            content = program.model_proto.SerializeToString()
        except Exception as error:
            raise ValueError(f"torch cannot export {name} to ONNX: {_first_line(error)}") from error
    try:
        apart = max(
            _apart(outputs, _computed(content, batch)) for outputs, batch in zip(wanted, (images, several), strict=True)
        )
    except Exception as error:
        raise ValueError(f"onnxruntime does not run {name}: {_first_line(error)}") from error
    if not apart <= tolerance:  # nan too
        raise ValueError(f"{name} as an ONNX file gives outputs that are {apart:.2g} of the largest one apart")
    partial = Path(path).with_name(f".{os.getpid()}.partial")
    try:
        partial.write_bytes(content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
    return len(content)


def _computed(content: bytes, batch: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {"images": batch.cpu().numpy()})[0])


def _apart(wanted: Tensor, computed: Tensor) -> float:
    wanted = wanted.cpu()
    return float((computed - wanted).abs().max() / wanted.abs().max().clamp(min=1e-30))


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
