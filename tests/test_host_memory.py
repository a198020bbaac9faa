"""That freed memory is kept, told by how often a process gets fresh pages."""

import platform
import subprocess
import sys

import pytest

PAGES = 8192  # of 4 KiB in 32 MiB
# Not of NumPy, which asks for huge pages.
SCRIPT = """
import resource, sys
from sgdat_jax import host_memory
if sys.argv[1] == "kept":
    assert host_memory.keep_freed_memory()
for turn in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    bytearray(b"x") * 2**25
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is of glibc")
@pytest.mark.parametrize("how", ["kept", "given back"])
def test_memory_is_used_again(how):
    environment = {"GLIBC_TUNABLES": "", "PATH": ""}  # huge pages would be few
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    first, *later = map(int, done.stdout.split())
    assert first > 0.9 * PAGES
    for faults in later:
        assert faults < 100 if how == "kept" else faults > 0.9 * PAGES
