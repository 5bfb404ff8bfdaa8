"""Memory that is freed is not given back: a second use of it costs no page faults."""

import platform
import subprocess
import sys

import pytest

COUNTED = """
import resource, sys, torch
from ditscale.train.loop import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def use():
    parts = [torch.ones(10_000_000) for _ in range(2)]  # of 40 MB: by itself glibc keeps none above 32
for _ in range(5):
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver() < ("glibc", "2.35"), reason="glibc before 2.35, or another C library")
def test_freed_memory_stays():
    faults = {
        how: int(
            subprocess.run([sys.executable, "-c", COUNTED, how], capture_output=True, text=True, check=True).stdout
        )
        for how in ("kept", "given back")
    }
    assert faults["kept"] < 1000 < faults["given back"] / 5
