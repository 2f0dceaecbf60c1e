"""The processor of this machine: its name, its vector instructions, and all that libraries choose their code by."""

import os
import platform
import re
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")
DECISIVE = ("model", "stepping", "flags", "Features", "CPU ")  # beginnings of lines, of x86 and of ARM


def name() -> str:
    """Return the processor's name, or its architecture if Linux does not name it."""
    return _fields().get("model name") or platform.processor() or platform.machine()


def described() -> str:
    """Return the processor's name, family and model, the vector instructions it has, and the number of its cores."""
    fields = _fields()
    able = [flag for flag in FLAGS if flag in fields.get("flags", "").split()]
    kind = f"family {fields['cpu family']} model {fields['model']}" if {"cpu family", "model"} <= set(fields) else ""
    return ", ".join(filter(None, [name(), kind, " ".join(able), f"{os.cpu_count()} cores"]))


def decisive() -> list[str]:
    """Return the lines of Linux about the processor that may change which code a library chooses, once each, sorted."""
    return sorted({line for line in _text().splitlines() if line.startswith(DECISIVE)})


def _fields() -> dict[str, str]:
    return dict(re.findall(r"^([\w ]+?)\s*: (.*)$", _text(), re.MULTILINE))


def _text() -> str:
    try:
        return CPUINFO.read_text("utf-8", "replace")
    except OSError:  # not Linux
        return ""
