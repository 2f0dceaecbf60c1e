"""What Linux says about the processor, and machines that are not Linux."""

import os
import platform

import pytest

from lib.book import processor

X86 = """processor	: 0
cpu family	: 6
model		: 143
model name	: Intel(R) Xeon(R) Platinum 8481C
stepping	: 8
cpu MHz		: 1900.1
flags		: fpu avx2 avx512f amx_int8

processor	: 1
model name	: Intel(R) Xeon(R) Platinum 8481C
cpu MHz		: 2700.9
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd sve\nCPU implementer\t: 0x41\n"


@pytest.fixture
def says(monkeypatch, tmp_path):
    """Let Linux say something else."""
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    return (tmp_path / "cpuinfo").write_text


def test_a_processor_is_named_with_its_instructions_and_cores(says):
    says(X86)
    assert processor.name() == "Intel(R) Xeon(R) Platinum 8481C"
    expected = f"{processor.name()}, family 6 model 143, avx2 avx512f amx_int8, {os.cpu_count()} cores"
    assert processor.described() == expected


def test_what_changes_from_moment_to_moment_is_not_decisive(says):
    says(X86)
    before = processor.decisive()
    says(X86.replace("1900.1", "800.0"))
    assert processor.decisive() == before and len(before) == 4
    says(X86.replace("amx_int8", ""))
    assert processor.decisive() != before
    says(ARM)
    assert processor.decisive() == ["CPU implementer\t: 0x41", "Features\t: fp asimd sve"]


def test_a_machine_that_is_not_linux_has_a_name(says):
    assert processor.name() == (platform.processor() or platform.machine())
    assert processor.described() == f"{processor.name()}, {os.cpu_count()} cores"
    assert processor.decisive() == []
