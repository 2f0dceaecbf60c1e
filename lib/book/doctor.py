"""Whether this machine's kernels compute correctly: a few seconds of trials, whose verdict is kept.

Libraries choose their kernels by processor, and some of them are wrong. With AVX-512 or AMX, torch 2.13 gets
convolutions of one input channel wrong in channels-last memory, and without 8-bit dot products its 8-bit kernels cut
off sums. :mod:`lib.book.trials` holds the trials, and says what the book does where a kernel is wrong.
"""

import hashlib
import json
import os
import platform
import sys
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from lib import imports
from lib.book import files, processor
from lib.book.trials import Check, checks

VARIABLES = ("ATEN_CPU_CAPABILITY", "ONEDNN_", "DNNL_", "FBGEMM_", "MKL_", "NUMBA_", "OMP_NUM_THREADS")


def main(root: Path, *, fresh: bool = False) -> int:
    """Print the processor and one line for each check; return 1 if a result of the book would be wrong, 0 otherwise.

    root: the book's folder. The verdict is kept in ``_build/doctor`` for this processor, these versions and settings.
    fresh: try everything again, even if a verdict is kept.
    """
    path = root / "_build" / "doctor" / f"{_key()}.json"
    verdict = None if fresh else _kept(path)
    if verdict is None:
        verdict = machine(), checks()
        content = {"processor": verdict[0], "checks": [asdict(check) for check in verdict[1]]}
        with suppress(OSError):  # a folder that cannot be written to costs a few seconds the next time
            files.write(path, json.dumps(content, indent=1))
    print(verdict[0])
    for check in verdict[1]:
        print(check)
    return int(any(check.wrong and not check.instead for check in verdict[1]))


def machine() -> str:
    """Return the processor's name, and which instructions torch and numba use on it."""
    import torch

    parts = [processor.name(), f"torch {torch.__version__} for {torch.backends.cpu.get_cpu_capability()}"]
    try:
        import llvmlite.binding
        import numba

        target = getattr(numba.config, "CPU_NAME", "") or llvmlite.binding.get_host_cpu_name()
        parts.append(f"numba {numba.__version__} for {target}")
    except ImportError:
        parts.append("no numba")
    return "; ".join(parts)


def _key() -> str:
    """A hash of what a verdict depends on: the processor, versions, settings that choose kernels, and the trials' code.

    It does not import torch, so looking up a kept verdict only takes the reading of a few files.
    """
    digest = hashlib.sha256("\n".join(processor.decisive()).encode())
    for name in ("torch", "numba", "llvmlite", "numpy"):
        try:
            digest.update(f"{name} {metadata.version(name)}\n".encode())
        except metadata.PackageNotFoundError:
            digest.update(f"no {name}\n".encode())
    settings = {name: value for name, value in os.environ.items() if name.startswith(VARIABLES)}
    digest.update(json.dumps([sys.version, platform.machine(), sorted(settings.items())]).encode())
    for path in sources():
        digest.update(imports.code_of_file(path).encode())
    return digest.hexdigest()[:24]


def sources() -> list[Path]:
    """Return the files of ``lib`` that the trials are made of: this one, and all that it imports."""
    return imports.closure(Path(__file__).parents[1], ["import lib.book.doctor"])


def _kept(path: Path) -> tuple[str, list[Check]] | None:
    try:
        kept = json.loads(path.read_text("utf-8"))
        return str(kept["processor"]), [Check(**check) for check in kept["checks"]]
    except (OSError, ValueError, KeyError, TypeError):
        return None
