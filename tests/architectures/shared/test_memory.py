"""Memory that a process keeps: no page is fetched from the system again for an output of the same size."""

import platform
import subprocess
import sys

import pytest

from lib.architectures.shared.memory import keep_memory

RUN = """
import ctypes, resource, sys, torch
from lib.architectures.shared.memory import keep_memory
torch.set_num_threads(1)
ctypes.CDLL(None).mallopt(-3, 2**17)  # each large block comes from the system, wherever the blocks before it lie
if sys.argv[1] == "kept":
    assert keep_memory()
def layer():  # two outputs are alive at once, more than glibc keeps by itself
    return (torch.ones(sizes) + 1).sum()
def faults():  # pages that one call gets from the system
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    layer()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
for sizes in (800_000, 4_000_000):  # floats: 3 and 16 MB
    print(sorted(faults() for _ in range(9))[4])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_no_output_needs_fresh_pages_once_memory_is_kept():
    faults = {}
    for kind in ("kept", "given back"):
        said = subprocess.run([sys.executable, "-c", RUN, kind], capture_output=True, text=True)
        assert said.returncode == 0, said.stderr
        faults[kind] = [int(line) for line in said.stdout.split()]
    assert max(faults["kept"]) < 50
    assert max(faults["given back"]) > 500  # what it is for: two outputs of 3 MB are 1,500 pages


@pytest.mark.parametrize("megabytes", [0, -1, 1.5, True])
def test_memory_that_is_no_number_of_megabytes_is_refused(megabytes):
    with pytest.raises(ValueError, match="megabytes must be a whole number of 1 or more"):
        keep_memory(megabytes=megabytes)
